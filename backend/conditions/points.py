"""A point cloud of any size and place -> the points that the models see."""

from __future__ import annotations

import numpy as np

from ..geometry.transforms import apply_to_points, compose, fit_to_cube, inverse
from ..protocol import turned_up

COUNT = 25_000


def model_points(
    points: np.ndarray, up_axis: str = "z", seed: int = 0, count: int = COUNT
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) points of any frame -> (count, 3) float32 in the models' cube, and `to_source`.

    y up, centred on the bounding box, the longest side 1.8. to_source: (4, 4) float64, back into
    the frame of `points`.
    """
    up = turned_up(up_axis)
    upright = apply_to_points(inverse(up), points, np.float64)
    to_cube = fit_to_cube(upright)
    placed = apply_to_points(to_cube, upright)
    rng = np.random.default_rng(seed)
    if len(placed) > count:
        placed = placed[np.sort(rng.permutation(len(placed))[:count])]
    elif len(placed) < count:
        placed = placed[np.arange(count) % len(placed)]
    return placed, compose(up, inverse(to_cube))
