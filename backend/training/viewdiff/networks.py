"""The networks of our own multi-view model, in sizes for a processor, a card, and tests.

Not Stable Diffusion's: pixels in blocks of two by two, alpha and depth beside the colours, no
words. Attention and the layers through space are where pictures have 16 x 16 places. What
a given picture shows from elsewhere is guessed first, see models/viewdiff/first_guess.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ...models.viewdiff.config import ProjectionConfig, ViewDiffConfig, unet_settings
from ...models.viewdiff.first_guess import CHANNELS, FirstGuess, GuessConfig
from ...models.viewdiff.model import ViewDiff
from ...models.viewdiff.pixels import PixelLatents

SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
}
"""Pictures of few pixels keep their outlines through much noise: the cosine schedule has more of
it than Stable Diffusion's, and at its end nothing of the picture is left. There a prediction of the
noise says nothing of the picture; one of v does."""

HALF_BOX = 1.3
"""Of the box that features are carried into, in units of half the cube of the shapes, which may
stand in it turned anyhow."""

GUESS_SPREAD = 0.25
"""Of latents around the first guess: the root of the mean square of what is between them."""

GUESS_NOISE = 0.3
"""That views begin with, around their guess: a little more than it is wrong by."""

AGREEMENT = 1.0
"""Of views that have a guess: of 0.5, 0.75 and 1, the most was the best in all that is measured."""

OPACITY_AT_FIRST = -1.0
"""Of the renderers' bias, where no guess tells them what is solid: at the published -5 nearly
nothing of the grid is seen at first, which a network that begins from nothing takes long to find
out."""


@dataclass(frozen=True)
class Size:
    """size: pixels. channels: of the U-Net, finest first. grid: voxels along a side of the layers
    through space. samples: along a ray. layers: in 3D. views: of a scene at once. guess: of what a
    first guess is made with."""

    size: int
    channels: tuple[int, ...]
    blocks: int
    rank: int
    grid: int
    samples: int
    layers: int
    views: int
    patch: int = 2
    layout: str = "rgbad"
    guess: GuessConfig = field(default_factory=GuessConfig)


SIZES = {
    "tiny": Size(16, (16, 32, 32), 1, 4, 4, 6, 1, 3, guess=GuessConfig(4, 8, 4, 8)),
    "cpu": Size(
        64, (48, 64, 96), 1, 16, 16, 24, 1, 4, guess=GuessConfig(16, 24, 12, sight=32, deep=48)
    ),
    "gpu": Size(
        *(64, (96, 160, 256), 1, 16, 24, 48, 3, 6),
        guess=GuessConfig(24, 48, 24, 64, sight=64, deep=64),
    ),
}


def latents(size: Size) -> PixelLatents:
    """How its pictures become latents."""
    return PixelLatents(size.patch, size.layout)


def config(
    size: Size, projection: bool = True, guess: bool = True, added: bool = False
) -> ViewDiffConfig:
    """projection: layers in space; guess: the first one. Without both, views know of each other by
    attention alone. added: the layers come to a network that was trained without them."""
    finest, where = size.channels[0], size.channels[1]
    unet = unet_settings(
        size.channels,
        [level == 1 for level in range(len(size.channels))],
        size=size.size // size.patch,
        picture_channels=latents(size).channels,
        blocks=size.blocks,
        words=16,
    )
    if guess:
        unet["in_channels"] += CHANNELS
    return ViewDiffConfig(
        unet=unet,
        schedule=SCHEDULE,
        base="",
        image_size=size.size,
        rank=size.rank,
        reference="front",
        intensity=False,
        text_corrections=False,
        projection_down=int(projection),
        projection_mid=False,
        projection_up=int(projection),
        projection=ProjectionConfig(
            # As many voxels there, by the rule that finer levels have more.
            grid=-(-size.grid * where // finest),
            samples=size.samples,
            layers=size.layers,
            background=False,
            guided=projection and guess,
        ),
        # Beside a guess, layers begin as nothing: what goes through space of features that mean
        # nothing yet only harms. Without one, nothing else tells views of each other's places.
        combine="zero" if guess or added else "add",
        trained_views=size.views,
        pixels=latents(size).to_dict(),
        half_box=HALF_BOX,
        guess=asdict(size.guess) if guess else None,
        guess_spread=GUESS_SPREAD if guess else 0.0,
        guess_noise=GUESS_NOISE if guess else 0.0,
        agreement=AGREEMENT if guess else 0.0,
    )


def first_guess(config: ViewDiffConfig) -> FirstGuess:
    """That of our own model by itself, at its beginning, by torch's chance."""
    made = GuessConfig.from_dict(config.guess or {})
    return FirstGuess(made, PixelLatents(**dict(config.pixels or {})))


def network(
    size: Size, projection: bool = True, guess: bool = True, added: bool = False
) -> ViewDiff:
    """At its beginning, by torch's chance. For what is left out or added, see `config`."""
    made = ViewDiff(config(size, projection, guess, added))
    with torch.no_grad():
        for name, value in made.renderer_parameters():
            if name.endswith("bias_opacity") and not guess:
                value.fill_(OPACITY_AT_FIRST)
        # Nothing of the guess is changed at first.
        for value in made.unet.conv_out.parameters():
            value.zero_()
    return made
