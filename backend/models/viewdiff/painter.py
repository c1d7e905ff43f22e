"""A whole model that paints views: words and pictures to latents, denoiser, latents to pictures.

What is painted is either pictures themselves (pixels.py), or the latents of an autoencoder of
diffusers, beside which there are words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ...geometry import cameras as geometry
from ..ldm3d.words import read
from .cameras import TEST_INTENSITY, Cameras
from .config import ViewDiffConfig
from .model import ViewDiff
from .pixels import PixelLatents
from .sampling import Denoiser, first_noise

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class PainterConfig:
    """What `config` in model.json holds.

    denoiser: of the network; without its `pixels` an autoencoder has the pictures. views: how many
    are made where nobody says; batch: in one go along a path; most: at once at all.
    elevation, field (degrees), radius (the thing being in [-1, 1]^3): of cameras where nobody says.
    fill: share of the picture that a thing takes up there. ground: sRGB of 0 to 255 behind things
    whose background is removed, of models with an autoencoder; None keeps backgrounds, and what is
    clear in a picture is white, as in training.
    intensity: mean and variance that are told of views that are not there yet.
    temperature: the share of the noise that views begin with. Less than 1 leaves less to chance:
    what is made is likelier and plainer, and other seeds differ less.
    tells_depth: whether the depth that it paints, if it does, is told: where it is rough, a mesh of
    outlines alone is nearer to the thing.
    haze: alpha, 0 to 0.45, up to which a painted pixel shows nothing, and from 1 less that on is
    all of the thing: views that are a little unsure everywhere are surrounded by mist.
    """

    denoiser: ViewDiffConfig = field(default_factory=ViewDiffConfig)
    views: int = 10
    batch: int = 10
    most: int = 30
    elevation: float = 20.0
    field: float = 42.5
    radius: float = 3.6
    fill: float = 0.68
    ground: tuple[int, int, int] | None = None
    intensity: tuple[float, float] = TEST_INTENSITY
    temperature: float = 1.0
    tells_depth: bool = True
    haze: float = 0.0

    def __post_init__(self) -> None:
        for name, least, most in (("views", 1, 64), ("batch", 1, 64), ("most", 2, 64)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} is {value!r}, not {least} to {most}")
        for name, low, high in (
            *(("elevation", -89.0, 89.0), ("field", 1.0, 170.0)),
            *(("radius", 1.0, 1e3), ("fill", 0.1, 1.0), ("temperature", 0.0, 1.0)),
            ("haze", 0.0, 0.45),
        ):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}, not {low:g} to {high:g}")
        if type(self.tells_depth) is not bool:
            raise ValueError(f"tells_depth is {self.tells_depth!r}")
        _ = self.pixels  # raises for settings of no such

    @property
    def pixels(self) -> PixelLatents | None:
        """How pictures are latents themselves, or None."""
        return None if self.denoiser.pixels is None else PixelLatents(**self.denoiser.pixels)

    @property
    def side(self) -> int:
        """Pixels along each side of a picture."""
        return self.denoiser.image_size

    @property
    def has_alpha(self) -> bool:
        """Whether views come with what is background, and given ones are told it."""
        return self.pixels is not None and self.pixels.has_alpha

    @property
    def cuts_out(self) -> bool:
        """Whether things are given to it without their background."""
        return self.pixels is not None or self.ground is not None

    @property
    def behind(self) -> tuple[int, int, int] | None:
        """What is behind things that are cut out, of models without alpha; None: they are not."""
        return WHITE if self.pixels is not None else self.ground

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; `from_dict` is its inverse."""
        record = {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}
        record["denoiser"] = self.denoiser.to_dict()
        record["ground"] = list(self.ground) if self.ground else None
        record["intensity"] = list(self.intensity)
        return record

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> PainterConfig:
        """What is left out is the default; the denoiser's own record will do, too. Raises TypeError
        or ValueError for no such record."""
        if "denoiser" not in record and "unet" in record:
            return PainterConfig(ViewDiffConfig.from_dict(record))
        values = dict(record)
        values["denoiser"] = ViewDiffConfig.from_dict(values.get("denoiser", {}))
        if values.get("ground") is not None:
            red, green, blue = values["ground"]
            values["ground"] = (int(red), int(green), int(blue))
        if "intensity" in values:
            mean, variance = values["intensity"]
            values["intensity"] = (float(mean), float(variance))
        return PainterConfig(**values)


@dataclass(eq=False)
class ViewPainter:
    """network: the denoiser. vae, text_encoder, tokenizer: of diffusers and transformers; None for
    a model of pixels, which reads no words.

    Latents are float32 throughout, and so is the autoencoder; the others may be in half precision.
    """

    config: PainterConfig
    network: ViewDiff
    vae: Any = None
    text_encoder: Any = None
    tokenizer: Any = None

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def reads_words(self) -> bool:
        return self.text_encoder is not None

    @property
    def factor(self) -> int:
        """Pixels along a side of a cell of the latents."""
        if self.config.pixels is not None:
            return self.config.pixels.patch
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def latent_shape(self, views: int, side: int) -> tuple[int, int, int, int]:
        """(V, C, h, w) of pictures of `side` pixels."""
        cells = side // self.factor
        return (views, self.network.unet.config.out_channels, cells, cells)

    def first_noise(self, views: int, side: int, seed: int) -> torch.Tensor:
        """(V, C, h, w) float32 on the device: the chance that there is in sampling."""
        noise = first_noise(self.latent_shape(views, side), seed).to(self.device)
        return self.config.temperature * noise

    def guessed(self, given: torch.Tensor, cameras: Cameras) -> torch.Tensor | None:
        """(V, first_guess.CHANNELS, h, w): what is guessed of all views of one scene, whose first
        K, (K, C, h, w), are given by somebody; None of models that do not, or where none is given.
        Views that were made are none to guess from: they would be believed where they are wrong.
        """
        if self.network.first_guess is None or not len(given):
            return None
        latents = torch.zeros(cameras.views, *given.shape[1:], device=given.device)
        latents[: len(given)] = given
        is_given = torch.arange(cameras.views, device=given.device) < len(given)
        return self.network.guessed(latents[None], is_given[None], cameras)[0]

    def begun(self, noise: torch.Tensor, told: torch.Tensor | None) -> torch.Tensor:
        """(N, C, h, w): what sampling begins with, of noise (N, C, h, w), and what is guessed of
        these views."""
        return self.network.begun(noise[None], None if told is None else told[None])[0]

    # ---------------------------------------------------------------------------------- pictures

    def latents(self, pictures: np.ndarray) -> torch.Tensor:
        """(K, S, S, 3 or 4) uint8, straight alpha -> (K, C, h, w) float32 on the device."""
        given = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device)
        if self.config.pixels is not None:
            return self.config.pixels.encode(given)
        values = self._on_ground(given) / 127.5 - 1
        scale = self.vae.config.scaling_factor
        # One at a time: the first layers take a hundred times the memory of the latents.
        encoded = [
            self.vae.encode(value[None]).latent_dist.mode()[0] for value in values.movedim(-1, 1)
        ]
        return torch.stack(encoded).float() * scale

    def _on_ground(self, given: torch.Tensor) -> torch.Tensor:
        colours = given[..., :3].float()
        if given.shape[-1] == 3:
            return colours
        alpha = given[..., 3:].float() / 255
        ground = torch.tensor(self.config.ground or WHITE, device=self.device)
        return alpha * colours + (1 - alpha) * ground

    def pictures(
        self, latents: torch.Tensor, distances: torch.Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Latents (V, C, h, w) -> (V, S, S, 3 or 4) uint8, and of models that tell depth, where the
        (V,) distances of the cameras from the middle are given, (V, S, S) float32 along their axes,
        0 where nothing is."""
        if self.config.pixels is not None:
            if distances is not None:
                distances = distances.to(latents) if self.config.tells_depth else None
            images, depths = self.config.pixels.decode(latents, distances)
            found = self._without_haze(images.cpu().numpy())
            return found, None if depths is None else depths.cpu().numpy()
        scale = self.vae.config.scaling_factor
        decoded = [
            self.vae.decode(latent[None].float() / scale).sample[0].movedim(0, -1)
            for latent in latents
        ]
        levels = (torch.stack(decoded).clamp(-1, 1) + 1) * 127.5
        return levels.round().to(torch.uint8).cpu().numpy(), None

    def _without_haze(self, images: np.ndarray) -> np.ndarray:
        """(V, S, S, 3 or 4) uint8 -> the same shape, with alpha that is surer."""
        haze = self.config.haze
        if not haze or images.shape[-1] == 3:
            return images
        surer = (images[..., 3] / np.float32(255) - haze) / (1 - 2 * haze)
        alpha = np.rint(255 * np.clip(surer, 0, 1)).astype(np.uint8)
        return np.concatenate([images[..., :3], alpha[..., None]], axis=-1)

    def small_pictures(self, start: torch.Tensor, side: int) -> np.ndarray:
        """About what latents (V, C, h, w) will show, cheaply: (V, s, s, 3) uint8 on white, s being
        at most about `side`, and no more than the pictures have."""
        cells = max(1, min(start.shape[-1], side // self.factor))
        small = functional.interpolate(start.float(), (cells, cells), mode="area")
        found = self.pictures(small)[0]
        if found.shape[-1] == 3:
            return found
        alpha = found[..., 3:].astype(np.float32) / 255
        return np.rint(found[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)

    # ------------------------------------------------------------------------------------- words

    @property
    def text_length(self) -> int:
        """Numbers that a text has, start and end included."""
        longest = self.text_encoder.config.max_position_embeddings
        return int(min(longest, self.tokenizer.model_max_length))

    def cut(self, text: str) -> str:
        """What of a text is not read, being too long; "" for all that is short."""
        return read(self.tokenizer, text, self.text_length).cut if self.reads_words else ""

    def encode(self, text: str) -> torch.Tensor:
        """Words -> (1, 1, L, D), the same for all views."""
        numbers = read(self.tokenizer, text, self.text_length).numbers.to(self.device)
        positions = torch.arange(numbers.shape[1], device=self.device)[None]
        found = self.text_encoder(input_ids=numbers, position_ids=positions)
        return found.last_hidden_state[None]

    # ----------------------------------------------------------------------------------- network

    def denoiser(
        self, cameras: Cameras, prompt: str, guess: torch.Tensor | None = None
    ) -> Denoiser:
        """For `sampling.sample`, of one scene with these cameras: with guidance, without words and
        with them. guess: as `guessed` has it, of these views."""
        known = None if guess is None else guess[None]
        told = self.encode(prompt) if self.reads_words else None
        null = self.encode("") if self.reads_words else None

        def one(x: torch.Tensor, times: torch.Tensor, text: torch.Tensor | None) -> torch.Tensor:
            found: torch.Tensor = self.network(
                x.to(self.network.dtype), times, text, cameras, told=known
            )
            return found.float()

        def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            texts = (null, told) if len(x) == 2 else (told,)
            if x.device.type == "cpu" or len(texts) == 1:  # half the memory, and no time lost
                parts = [
                    one(x[k : k + 1], timesteps[k : k + 1], text) for k, text in enumerate(texts)
                ]
                return torch.cat(parts)
            both = torch.cat([null, told]) if null is not None and told is not None else None
            predicted = self.network(
                x.to(self.network.dtype),
                timesteps,
                both,
                cameras.repeat(len(x)),
                told=None if known is None else known.expand(len(x), -1, -1, -1, -1),
            )
            return predicted.float()

        return denoise

    def layers(self) -> Iterator[torch.nn.Module]:
        """The parts of the networks that take long."""
        unet = self.network.unet
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            if block is not None:
                yield from block.resnets
                yield from getattr(block, "attentions", ())
        if self.text_encoder is not None:
            yield from self.text_encoder.encoder.layers
        if self.vae is not None:
            for coder in (self.vae.encoder, self.vae.decoder):
                blocks = getattr(coder, "down_blocks", None) or coder.up_blocks
                for block in (coder.mid_block, *blocks):
                    yield from block.resnets


def cameras_of(
    poses: np.ndarray,
    intrinsics: np.ndarray,
    config: PainterConfig,
    side: int,
    device: torch.device,
) -> Cameras:
    """Of one scene in the model's world, the thing being in [-1, 1]^3.

    poses: (V, 4, 4), camera to world, Blender's camera axes, z up; intrinsics: (V, 4), pixels of
    pictures of `side`.
    """
    if config.denoiser.up == "-z":
        poses = geometry.from_published_world(poses)  # half a turn is its own inverse
    world2cam = geometry.world2cam_of(poses)
    views = len(poses)
    told = torch.tensor(config.intensity, device=device)
    half = config.denoiser.half_box
    box = torch.tensor([[[-half] * 3, [half] * 3]], device=device)
    return Cameras(
        world2cam=torch.from_numpy(world2cam).float()[None].to(device),
        intrinsics=torch.from_numpy(intrinsics.astype(np.float32))[None].to(device),
        image_size=side,
        bbox=box,
        intensity=told.expand(1, views, 2),
    )
