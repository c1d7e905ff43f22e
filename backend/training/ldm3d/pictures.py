"""Rooms as what an autoencoder reads: (6 or 4, H, W), -1 to 1."""

from __future__ import annotations

from collections.abc import Callable

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


def source(
    rooms: Rooms, layout: str, device: torch.device, resident: bool
) -> Callable[[int], torch.Tensor]:
    """Number -> that room as (6, H, 2 H) float32 on `device`.

    resident: all rooms are kept there (650 kB each at 512 x 256), since reading them one by one
    would keep a graphics card waiting. Then for the layout "repeated" only.
    """
    if not resident:
        return lambda number: panorama(rooms, number, 6, layout).to(device)
    if layout != "repeated":
        raise ValueError(layout)
    shape = rooms.levels(0).shape
    rgb = torch.empty((len(rooms), 3, *shape), dtype=torch.uint8, device=device)
    depth = torch.empty((len(rooms), 1, *shape), dtype=torch.float16, device=device)
    for number in range(len(rooms)):
        rgb[number] = torch.from_numpy(np.moveaxis(rooms.rgb(number), -1, 0).copy()).to(device)
        depth[number, 0] = torch.from_numpy(depth_of(rooms.levels(number))).to(device)

    def found(number: int) -> torch.Tensor:
        parts = [rgb[number].float() / 255, depth[number].float().expand(3, -1, -1)]
        return torch.cat(parts) * 2 - 1

    return found
