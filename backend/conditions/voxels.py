"""An occupancy grid of any size -> the 16 x 16 x 16 cells that the models see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ..geometry.transforms import compose, fit_box_to_cube, inverse
from ..protocol import turned_up

SIDE = 16
SHARE = 0.03
"""A cell is occupied when more than this share of it is covered.

Well below a half: the published example reaches from the first cell to the last, of which a box of
side 1.8 covers a fifth at most, so that a cell counts which a surface merely enters. At this share
chairs, animals and a cradle stay in one piece; at 0.1 half of them come apart.
"""

_CELL = 2 / SIDE
_NATIVE = (14, 16)
_NOTHING = 1e-9


def model_voxels(
    occupancy: np.ndarray,
    origin: Sequence[float] | np.ndarray,
    voxel_size: Sequence[float] | np.ndarray,
    up_axis: str = "z",
) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) grid -> (16, 16, 16) float32 of 0 and 1 over the models' cube, and `to_source`.

    y up, centred on the bounding box of what is occupied, its longest side 1.8. A shape of cubic
    voxels that is 14 to 16 of them long is taken voxel for voxel. No part vanishes, however thin.
    to_source: (4, 4) float64, from the cube into the frame of `origin`.
    """
    spans = [np.flatnonzero(_any_along(occupancy, axis)) for axis in range(3)]
    first = np.array([span[0] for span in spans])
    size = np.array([span[-1] + 1 for span in spans]) - first
    filled = occupancy[tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))] != 0
    voxel_size = np.asarray(voxel_size, np.float64)
    low = np.asarray(origin, np.float64) + first * voxel_size
    if np.ptp(voxel_size) < 1e-6 * voxel_size.max() and _NATIVE[0] <= size.max() <= _NATIVE[1]:
        before = (SIDE - size) // 2
        cells = np.pad(filled, [(a, SIDE - a - n) for a, n in zip(before, size, strict=True)])
        corner = low - before * voxel_size
        to_cube = fit_box_to_cube(corner, corner + SIDE * voxel_size, longest_side=2)
    else:
        to_cube = fit_box_to_cube(low, low + size * voxel_size)
        cells = _occupied(_shares(filled, low, voxel_size, to_cube))
    if up_axis == "z":
        # Into the model's axes (x, z, -y).
        cells = cells.transpose(0, 2, 1)[:, :, ::-1]
    return np.ascontiguousarray(cells, np.float32), compose(inverse(to_cube), turned_up(up_axis))


def _any_along(occupancy: np.ndarray, axis: int) -> np.ndarray:
    """Which slices across an axis hold something."""
    others = tuple(other for other in range(3) if other != axis)
    return np.asarray(occupancy.any(axis=others))


def _shares(
    filled: np.ndarray, low: np.ndarray, voxel_size: np.ndarray, to_cube: np.ndarray
) -> np.ndarray:
    """(16, 16, 16) float64: how much of each cell the voxels cover."""
    weights = []
    for axis in range(3):
        edges = low[axis] + np.arange(filled.shape[axis] + 1) * voxel_size[axis]
        weights.append(_coverage(edges * to_cube[axis, axis] + to_cube[axis, 3]))
    # Slice by slice: a grid of 512^3 as floats would take half a gigabyte.
    shares = np.zeros((SIDE, SIDE, SIDE))
    for x, plane in enumerate(filled):
        square = weights[1] @ (plane.astype(np.float32) @ weights[2].T)
        for i in np.flatnonzero(weights[0][:, x]):
            shares[i] += weights[0][i, x] * square
    return shares


def _coverage(edges: np.ndarray) -> np.ndarray:
    """(16, n) float32: share of each cell that each interval between `edges` (n + 1,) covers."""
    lows = -1 + _CELL * np.arange(SIDE)[:, None]
    overlap = np.minimum(edges[1:], lows + _CELL) - np.maximum(edges[:-1], lows)
    return (np.clip(overlap, 0, None) / _CELL).astype(np.float32)


def _occupied(shares: np.ndarray) -> np.ndarray:
    """Cells covered enough; of parts too thin for that those covered most; and what joins parts."""
    occupied = shares > SHARE
    while True:
        near = ndimage.maximum_filter(occupied, 3, mode="constant")
        lost = np.where(near, 0, shares)
        if lost.max() <= _NOTHING:
            break
        occupied |= (lost > _NOTHING) & (lost > 0.7 * ndimage.maximum_filter(lost, 3))
    _join(occupied, shares)
    return occupied


def _join(occupied: np.ndarray, shares: np.ndarray) -> None:
    """Occupy covered cells that touch two parts which nothing else joins, most covered first."""
    labels, count = ndimage.label(np.pad(occupied, 1), np.ones((3, 3, 3)))
    same = np.arange(count + 1)
    between = np.argwhere((shares > _NOTHING) & ~occupied)
    for x, y, z in between[np.argsort(-shares[tuple(between.T)], kind="stable")]:
        around = same[labels[x : x + 3, y : y + 3, z : z + 3]]
        parts = np.unique(around[around > 0])
        if len(parts) > 1:
            occupied[x, y, z] = True
            same[np.isin(same, parts)] = parts[0]
            labels[x + 1, y + 1, z + 1] = parts[0]
