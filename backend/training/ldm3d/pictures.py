"""Rooms as what an autoencoder reads: (6 or 4, H, W), -1 to 1."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from ...depth_meanings import DepthMeaning
from ...models.ldm3d import images
from ..rooms.dataset import Rooms, metres

MEANING = DepthMeaning(meaning="inverse", near=0.6, far=12.0)
"""Of the depth of our own models: 1 at 0.6 m and nearer, 0 at 12 m and beyond. The sky is 0."""


def depth_of(levels: np.ndarray, meaning: DepthMeaning = MEANING) -> np.ndarray:
    """uint16 of `rooms.dataset` -> inverse depth 0..1, float32."""
    near, far = 1 / meaning.near, 1 / meaning.far
    with np.errstate(divide="ignore"):
        inverse = 1 / metres(levels)
    return np.clip((inverse - far) / (near - far), 0, 1).astype(np.float32)


def panorama(
    rooms: Rooms, number: int, channels: int, layout: str, height: int = 0
) -> torch.Tensor:
    """Room `number` as (channels, H, 2 H) float32; height: H, where that is to be another."""
    picture = rooms.rgb(number).astype(np.float32) / 255
    depth = depth_of(rooms.levels(number))
    if height and height != len(depth):
        size = (height, 2 * height)
        wide = torch.from_numpy(picture).permute(2, 0, 1)[None]
        sharp = torch.from_numpy(depth)[None, None]
        picture = functional.interpolate(wide, size, mode="bilinear")[0].permute(1, 2, 0).numpy()
        # Between two depths lies nothing.
        depth = functional.interpolate(sharp, size, mode="nearest")[0, 0].numpy()
    return torch.from_numpy(images.join(picture, depth, channels, layout))
