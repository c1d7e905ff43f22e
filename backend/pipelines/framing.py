"""The frame of a shape of which only a part was seen.

Models learn shapes centred in the cube, whole, with clouds that may show a part of them. A cloud
that comes from outside is centred itself, which is the same only if it shows the whole. So a first
draft is made, and the cloud moved to where it lies in the cube of the draft.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..geometry.transforms import LONGEST_SIDE, apply_to_points, compose, inverse
from ..models.wala.config import WalaConfig
from ..protocol import Generation, PointsToMesh
from .preparation import Prepared

ROUNDS = 2
"""Drafts at most."""
_SLACK = 0.03
"""Drafts are not more exact than this, in the cube."""

Box = tuple[np.ndarray, np.ndarray]


def may_be_off(task: Generation, config: WalaConfig) -> bool:
    """Whether the frame of the source may not be that of the whole shape."""
    return isinstance(task, PointsToMesh) and config.joint is not None


def box_of(field: np.ndarray) -> Box | None:
    """Lowest and highest corner, (3,) float64 in the cube, of what is inside; None for nothing."""
    inside = field < 0
    low, high = np.empty(3), np.empty(3)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(inside.any(axis=others))
        if not len(found):
            return None
        low[axis], high[axis] = found[[0, -1]] * (2 / len(field)) - 1
    return low, high


def in_frame_of(prepared: Prepared, draft: Box | None) -> Prepared:
    """`prepared` in the cube in which the draft, with all points, is centred and fills it.

    The same object where that is nearly so already.
    """
    if draft is None or prepared.points is None or not isinstance(prepared.source, dict):
        return prepared
    seen = prepared.source["points"]  # without lonely points far off
    low, high = np.minimum(draft[0], seen.min(axis=0)), np.maximum(draft[1], seen.max(axis=0))
    centre, scale = (low + high) / 2, float((high - low).max()) / LONGEST_SIDE
    if np.abs(centre).max() < _SLACK and abs(scale - 1) < _SLACK:
        return prepared
    to_old = np.diag([scale, scale, scale, 1.0])
    to_old[:3, 3] = centre
    to_new = inverse(to_old)
    points = apply_to_points(to_new, seen)
    return replace(
        prepared,
        source={**prepared.source, "points": points},
        points=apply_to_points(to_new, prepared.points),
        to_source=compose(prepared.to_source, to_old),
    )
