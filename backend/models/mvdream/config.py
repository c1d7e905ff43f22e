"""What the sizes of an MVDream model are: one frozen dataclass per network.

Shi et al. 2023, "MVDream: Multi-view Diffusion for 3D Generation". The defaults are the networks of
Stable Diffusion 2.1 that most published models were trained from, and the views and the schedule of
those that come with WaLa. BASES has those of the one that was trained from Stable Diffusion 1.5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...sampling import Diffusion, Prediction, Variance

CAMERA_CHANNELS = 16
"""A camera is given as its 4 x 4 matrix, row by row."""


@dataclass(frozen=True)
class UNetConfig:
    """The denoiser. channels: at full resolution; multipliers: of it, per level, finest first.

    attention: which levels have transformer blocks. blocks: residual blocks per level on the way
    down. heads: of attention on every level; 0: as many as have head_channels each. linear:
    whether pictures become tokens by linear layers, else by 1 x 1 convolutions. context: channels
    of the text. cameras: whether views have cameras; without, every picture is on its own.
    """

    channels: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    attention: tuple[bool, ...] = (True, True, True, False)
    blocks: int = 2
    head_channels: int = 64
    context: int = 1024
    cameras: bool = True
    heads: int = 0
    linear: bool = True

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.multipliers):
            raise ValueError(f"{len(self.attention)} of {len(self.multipliers)} levels say whether")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def heads_of_levels(self) -> tuple[int, ...]:
        """Heads of attention of each level."""
        return tuple(self.heads or width // self.head_channels for width in self.widths)


TOWERS = ("open_clip", "clip")


@dataclass(frozen=True)
class TextConfig:
    """The text tower, one of TOWERS: that of OpenCLIP ViT-H/14, of whose published layers the last
    is not among `depth`, or that of OpenAI's CLIP ViT-L/14, all of it."""

    vocabulary: int = 49408
    length: int = 77
    width: int = 1024
    depth: int = 23
    heads: int = 16
    tower: str = "open_clip"

    def __post_init__(self) -> None:
        if self.tower not in TOWERS:
            raise ValueError(f"the tower {self.tower!r} is not one of {', '.join(TOWERS)}")


@dataclass(frozen=True)
class AutoencoderConfig:
    """Between pictures and latents of 1/8 of their side (1/2 per level but the last).

    widths: channels of each level, finest first. scale: latents are multiplied by it.
    groups: of the normalisation.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    groups: int = 32
    scale: float = 0.18215

    @property
    def factor(self) -> int:
        """Pixels along a side of one latent cell."""
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class MVDreamConfig:
    """A whole model.

    views: azimuth and elevation of each camera, in degrees, in the order of the pictures.
    side: of the pictures, in pixels. spacing, steps, guidance: of sampling, see sampling.SPACINGS.
    suffix: appended to prompts that do not speak of 3D.
    """

    views: tuple[tuple[float, float], ...]
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextConfig = field(default_factory=TextConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    diffusion: Diffusion = field(
        default_factory=lambda: Diffusion("scaled_linear", last=0.02, prediction=Prediction.NOISE)
    )
    side: int = 256
    spacing: str = "trailing"
    steps: int = 50
    guidance: float = 10.0
    suffix: str = ", 3d asset"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; `from_dict` is its inverse."""
        record = dataclasses.asdict(self)
        record["diffusion"]["prediction"] = self.diffusion.prediction.value
        record["diffusion"]["variance"] = self.diffusion.variance.value
        return record

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> MVDreamConfig:
        """Raises KeyError, TypeError or ValueError for what is no such record."""
        diffusion = dict(record["diffusion"])
        diffusion["prediction"] = Prediction(diffusion["prediction"])
        diffusion["variance"] = Variance(diffusion["variance"])
        parts = {
            "views": tuple((float(a), float(e)) for a, e in record["views"]),
            "unet": UNetConfig(**_tuples(record["unet"])),
            "text": TextConfig(**record["text"]),
            "autoencoder": AutoencoderConfig(**_tuples(record["autoencoder"])),
            "diffusion": Diffusion(**diffusion),
        }
        return MVDreamConfig(**{**record, **parts})


BASES: dict[str, dict[str, Any]] = {
    "sd-2.1": {"unet": UNetConfig(), "text": TextConfig()},
    "sd-1.5": {
        "unet": UNetConfig(context=768, heads=8, linear=False),
        "text": TextConfig(width=768, depth=12, heads=12, tower="clip"),
    },
}
"""What a published model was trained from -> the fields of its configuration that are of that."""


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
