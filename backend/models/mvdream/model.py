"""A whole MVDream: words to text tokens, denoiser, latents to pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from ... import sampling
from ...protocol import camera_poses
from . import names, networks, tokenizer
from .config import MVDreamConfig


class MVDream(nn.Module):
    """What is generated are latents (V, 4, h, w) of V views; `pictures` decodes them."""

    def __init__(self, config: MVDreamConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = networks.unet(config.unet)
        self.text_encoder = networks.text_encoder(config.text)
        self.autoencoder = networks.autoencoder(config.autoencoder)

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    # -------------------------------------------------------------------------------- networks

    def encode(self, text: str) -> torch.Tensor:
        """Words -> (1, 77, C) of the model's dtype."""
        length, ends = self.config.text.length, self.config.text.tower == "clip"
        numbers = tokenizer.tokens(text, length, padded_with_end=ends)[None].to(self.device)
        # Given, since the table that the network keeps of them is no weight and not loaded.
        positions = torch.arange(length, device=self.device)[None]
        return self.text_encoder(input_ids=numbers, position_ids=positions).last_hidden_state

    def denoise(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        poses: np.ndarray | None = None,
    ) -> torch.Tensor:
        """The prediction at x_t = `x` (B V, 4, h, w), as float32; timesteps (B V,).

        The V views of a shape follow each other. context: their text, (B V, L, C). poses: as in
        `cameras`.
        """
        cameras = self.cameras(poses)
        views = len(cameras)
        predicted = self.unet(
            x.to(self.dtype),
            timesteps,
            context,
            class_labels=cameras.repeat(len(x) // views, 1),
            cross_attention_kwargs={"frames": views},
        )
        return predicted.sample.float()

    def cameras(self, poses: np.ndarray | None = None) -> torch.Tensor:
        """(V, 16): camera to world, row by row, one unit away, z up.

        poses: (V, 4, 4) of cameras around the origin, from any distance; None: the model's own.
        """
        if poses is None:
            own = camera_poses(self.config.views, up_axis="z")
        else:
            own = np.array(poses, np.float64)
            own[:, :3, 3] /= np.linalg.norm(own[:, :3, 3], axis=1, keepdims=True)
        return torch.from_numpy(own).flatten(1).to(self.device, self.dtype)

    def pictures(self, latents: torch.Tensor) -> np.ndarray:
        """Latents (V, 4, h, w) -> (V, H, W, 3) uint8, row 0 at the top."""
        scale = self.config.autoencoder.scale
        # One at a time: the last layers take a hundred times the memory of the latents.
        decoded = [
            self.autoencoder.decode(latent[None].to(self.dtype) / scale).sample[0]
            for latent in latents
        ]
        levels = (torch.stack(decoded).float().clamp(-1, 1) + 1) * 127.5
        return levels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    # -------------------------------------------------------------------------------- sampling

    def latent_shape(self, views: int = 0) -> tuple[int, int, int, int]:
        """(V, 4, h, w), of as many views as the model has cameras unless given."""
        config = self.config
        side = config.side // config.autoencoder.factor
        return (views or len(config.views), config.autoencoder.latent_channels, side, side)

    def sample(
        self,
        prompt: str,
        noise: torch.Tensor,
        steps: int | None = None,
        guidance: float | None = None,
        poses: np.ndarray | None = None,
    ) -> Iterator[sampling.Step]:
        """Steps from `noise` to latents, both of `latent_shape`, of what the prompt says.

        steps, guidance: of the configuration unless given. poses: of `cameras`, one for each view
        of the noise; None: the model's own.
        """
        config = self.config
        views = len(noise)

        def denoise(
            x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor
        ) -> torch.Tensor:
            return self.denoise(x, timesteps, context, poses)

        context, null = (self.encode(text).repeat(views, 1, 1) for text in (prompt, ""))
        scale = config.guidance if guidance is None else guidance
        return sampling.ddim(
            sampling.guided(denoise, context, null, scale),
            config.diffusion.spaced(steps or config.steps, config.spacing),
            noise.to(self.device),
            config.diffusion.prediction,
            final=1 - config.diffusion.betas()[0],
        )

    # --------------------------------------------------------------------------------- weights

    def places(self) -> dict[str, names.Place]:
        """Where each of our tensors lies in a published state dict."""
        config = self.config
        parts = {
            "unet.": names.unet_places(config.unet, self.unet.state_dict()),
            "text_encoder.": names.text_places(config.text, self.text_encoder.state_dict()),
            "autoencoder.": names.autoencoder_places(
                config.autoencoder, self.autoencoder.state_dict()
            ),
        }
        return {
            prefix + name: place for prefix, part in parts.items() for name, place in part.items()
        }

    def published_state_dict(self) -> dict[str, torch.Tensor]:
        """The weights under their published names."""
        return names.published(self.state_dict(), self.places())

    def take_published(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take weights by their published names, as they are, without a copy.

        Raises KeyError or ValueError unless all are there.
        """
        own = {name: place.read(weights[place.name]) for name, place in self.places().items()}
        self.load_state_dict(own, strict=True, assign=True)


# ---------------------------------------------------------------------------------------- prompts


def full_prompt(prompt: str, suffix: str, as_published: bool = False) -> str:
    """What the model is told. It was trained on texts with the suffix.

    as_published: as the published command line has it, which hands on a list with the text in it.
    """
    text = str([prompt]) if as_published else prompt.strip()
    return text if "3d" in text or "3D" in text else text + suffix


def first_noise(model: MVDream, seed: int, views: int = 0) -> torch.Tensor:
    """x_T of a seed, the same on every device. views: as in `latent_shape`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(model.latent_shape(views), generator=generator)


def grey(pictures: np.ndarray) -> np.ndarray:
    """Depth as the text models paint it, (V, H, W, 3) uint8 -> (V, H, W) uint8, near bright.

    They paint grey in three channels that differ by their noise.
    """
    return np.rint(pictures.mean(axis=-1)).astype(np.uint8)
