"""A whole MV-Adapter: a picture and words to latents, denoiser, latents to pictures.

The order of computations follows the published pipelines (see NOTICE.txt), with one difference:
a given picture's latents are the middle of what the autoencoder tells of it, not a draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...sampling import Step
from ..ldm3d.model import start_of, step_arguments
from ..ldm3d.words import read
from .attention import Seen, Told
from .cameras import told_of
from .config import MVAdapterConfig


@dataclass(eq=False)
class MVAdapter:
    """unet: of diffusers, with attention.add_to, whose `told` is here. encoder: of the cameras
    (diffusers' T2IAdapter). vae (autoencoder), text_encoder, tokenizer: of diffusers and
    transformers. schedule: makes a new scheduler, which keeps the state of one run.

    Latents are float32 throughout, and so are the autoencoder and the encoder of the cameras; the
    others may be in half precision.
    """

    config: MVAdapterConfig
    unet: Any
    told: Told
    encoder: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    schedule: Callable[[], Any]

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    @property
    def factor(self) -> int:
        """Pixels along a side of a cell of the latents."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def latent_shape(self) -> tuple[int, int, int, int]:
        """(V, C, h, w) of all views."""
        cells = self.config.side // self.factor
        return (self.config.views, self.vae.config.latent_channels, cells, cells)

    # ------------------------------------------------------------------------------------- words

    @property
    def text_length(self) -> int:
        """Numbers that a text has, start and end included."""
        longest = self.text_encoder.config.max_position_embeddings
        return int(min(longest, self.tokenizer.model_max_length))

    def cut(self, text: str) -> str:
        """What of a text is not read, being too long."""
        return read(self.tokenizer, text, self.text_length).cut

    def encode(self, text: str) -> torch.Tensor:
        """Words -> (1, L, D)."""
        numbers = read(self.tokenizer, text, self.text_length).numbers.to(self.device)
        # Given, since the table that the network keeps of them is no weight and not loaded.
        positions = torch.arange(numbers.shape[1], device=self.device)[None]
        return self.text_encoder(input_ids=numbers, position_ids=positions).last_hidden_state

    # ---------------------------------------------------------------------------------- pictures

    @torch.inference_mode()
    def latents(self, picture: np.ndarray) -> torch.Tensor:
        """(S, S, 4) uint8, straight alpha -> (1, C, h, w) float32. What is behind is grey, as it
        was in training."""
        given = torch.from_numpy(np.ascontiguousarray(picture)).to(self.device).float()
        values = (given[..., :3] / 127.5 - 1) * (given[..., 3:] / 255)
        found = self.vae.encode(values.movedim(-1, 0)[None]).latent_dist.mode()
        return found * self.vae.config.scaling_factor

    @torch.inference_mode()
    def pictures(self, latents: torch.Tensor) -> np.ndarray:
        """Latents (V, C, h, w) -> (V, H, W, 3) uint8, row 0 at the top."""
        scaled = latents.float() / self.vae.config.scaling_factor
        # One at a time: the last layers take a hundred times the memory of the latents.
        decoded = [self.vae.decode(latent[None]).sample[0].movedim(0, -1) for latent in scaled]
        levels = (torch.stack(decoded).clamp(-1, 1) + 1) * 127.5
        return levels.round().to(torch.uint8).cpu().numpy()

    # ---------------------------------------------------------------------------------- sampling

    def features(self) -> list[torch.Tensor]:
        """What the U-Net is told of the cameras: (V, C, h, w) for each level, finest first."""
        told = told_of(self.config.azimuths, self.config.side).to(self.device)
        return [feature.to(self.dtype) for feature in self.encoder(told)]

    def seen_in(self, picture: torch.Tensor, context: torch.Tensor) -> Seen:
        """What the U-Net without any adapter sees in a picture without noise: latents
        (1, C, h, w), beside words (1, L, D)."""
        seen: Seen = {}
        self.told.recording = seen
        try:
            now = torch.zeros((), dtype=torch.int64, device=self.device)
            self.unet(picture.to(self.dtype), now, context)
        finally:
            self.told.recording = None
        return seen

    def denoise(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        context: torch.Tensor,
        features: list[torch.Tensor],
        reference: Seen | None,
    ) -> torch.Tensor:
        """The prediction at x_t = `x` (V, C, h, w) of one scene, as float32.

        time: () int64. context: words, (1, L, D). reference: of `seen_in`, or None.
        """
        views = len(x)
        self.told.views, self.told.reference = views, reference
        predicted = self.unet(
            x.to(self.dtype),
            time,
            context.expand(views, -1, -1),
            # diffusers adds to what it is given in place.
            down_intrablock_additional_residuals=[feature.clone() for feature in features],
        )
        return predicted.sample.float()

    @torch.inference_mode()
    def sample(
        self,
        prompt: str,
        noise: torch.Tensor,
        steps: int,
        guidance: float,
        picture: torch.Tensor | None = None,
        seed: int = 0,
    ) -> Iterator[Step]:
        """Steps from `noise` of `latent_shape`, standard normal, to latents of what the prompt says
        and the picture, latents (1, C, h, w), shows.

        Guidance of at most 1 is none. seed: of the noise that some schedulers add.
        """
        words = self.encode(prompt)
        null = self.encode(self.config.negative) if guidance > 1 else None
        yield from self.sample_encoded(words, null, noise, steps, guidance, picture, seed)

    @torch.inference_mode()
    def sample_encoded(
        self,
        words: torch.Tensor,
        null: torch.Tensor | None,
        noise: torch.Tensor,
        steps: int,
        guidance: float,
        picture: torch.Tensor | None = None,
        seed: int = 0,
    ) -> Iterator[Step]:
        """As `sample`. words, null: (1, L, D), what it is to be and what not; without null it is
        not guided."""
        scheduler = self.schedule()
        scheduler.set_timesteps(steps, device=self.device)
        features = self.features()
        reference = None if picture is None else self.seen_in(picture.to(self.device), words)
        latents = noise.to(self.device) * scheduler.init_noise_sigma
        extra = step_arguments(scheduler, seed)
        count = len(scheduler.timesteps)
        for number, time in enumerate(scheduler.timesteps):
            given = scheduler.scale_model_input(latents, time)
            predicted = self.denoise(given, time, words, features, reference)
            if null is not None:
                without = self.denoise(given, time, null, features, None)
                predicted = without + guidance * (predicted - without)
            before = latents
            latents = scheduler.step(predicted, time, latents, return_dict=False, **extra)[0]
            start = start_of(scheduler, given, predicted, time)
            yield Step(number, count, int(time), before, start, latents)

    def layers(self) -> Iterator[torch.nn.Module]:
        """The parts of the networks that take long."""
        for block in (*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks):
            yield from block.resnets
            yield from getattr(block, "attentions", ())
        yield from self.text_encoder.encoder.layers
        for coder in (self.vae.encoder, self.vae.decoder):
            blocks = getattr(coder, "down_blocks", None) or coder.up_blocks
            for block in (coder.mid_block, *blocks):
                yield from block.resnets


def first_noise(model: MVAdapter, seed: int) -> torch.Tensor:
    """x_T of a seed, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(model.latent_shape(), generator=generator)
