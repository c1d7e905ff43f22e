"""The poses of views, in the cube of the models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..protocol import view_poses


def view_cameras(indices: Sequence[int]) -> np.ndarray:
    """Camera to world, (V, 4, 4) float64, on the unit sphere, y up; see `protocol.view_poses`."""
    return view_poses(indices, up_axis="y")
