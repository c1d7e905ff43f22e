"""An occupancy grid of any size -> the 16 x 16 x 16 cells that the models see."""

from __future__ import annotations

import numpy as np

from ..geometry.transforms import compose, fit_box_to_cube, inverse
from ..protocol import turned_up

SIDE = 16
SHARE = 0.03
"""A cell is occupied when more than this share of it is covered."""


def model_voxels(
    occupancy: np.ndarray, origin: np.ndarray, voxel_size: np.ndarray, up_axis: str = "z"
) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) grid -> (16, 16, 16) float32 of 0 and 1 over the models' cube, and `to_source`.

    y up, centred on the bounding box of what is occupied, the longest side 1.8. to_source: (4, 4)
    float64, from the cube into the frame of `origin`.
    """
    filled = np.argwhere(occupancy)
    low = filled.min(axis=0) * voxel_size + origin
    high = (filled.max(axis=0) + 1) * voxel_size + origin
    to_cube = fit_box_to_cube(low, high)
    share = occupancy.astype(np.float32)
    for axis in range(3):
        edges = origin[axis] + np.arange(occupancy.shape[axis] + 1) * voxel_size[axis]
        weights = _coverage(edges * to_cube[axis, axis] + to_cube[axis, 3])
        share = np.moveaxis(np.tensordot(weights, share, axes=(1, axis)), 0, axis)
    cells = (share > SHARE).astype(np.float32)
    if up_axis == "z":
        cells = np.ascontiguousarray(cells.transpose(0, 2, 1)[:, :, ::-1])
    # `to_cube` knows the source's axes; a turn in the middle of the cube brings y up.
    return cells, compose(inverse(to_cube), turned_up(up_axis))


def _coverage(edges: np.ndarray) -> np.ndarray:
    """(16, n) share of each cell of the cube that each interval between `edges` (n + 1,) covers."""
    cell = 2 / SIDE
    lows = -1 + cell * np.arange(SIDE)[:, None]
    overlap = np.minimum(edges[1:], lows + cell) - np.maximum(edges[:-1], lows)
    return (np.clip(overlap, 0, None) / cell).astype(np.float32)
