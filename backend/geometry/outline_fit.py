"""Lenses of pictures of which only the camera's direction is known, from what they show.

Somebody renders a thing from agreed directions, from any distance, with any lens, and cuts the
pictures as they like; a model makes a mesh of that. Where in a picture the mesh lies is told by the
outline there.
"""

from __future__ import annotations

import numpy as np

from .view_fusion import projections

_SHOWN = 0.5


def fitted(
    opacity: np.ndarray, poses: np.ndarray, intrinsics: np.ndarray, vertices: np.ndarray
) -> np.ndarray:
    """(V, 4) float64: the lenses, moved and stretched along rows and columns so that the mesh lies
    in the box of what each view shows.

    opacity: (V, H, W) 0..1, none of them empty; poses (V, 4, 4) and intrinsics (V, 4) as in
    view_fusion; vertices: (N, 3), all before the cameras.
    """
    found = np.array(intrinsics, np.float64)
    for number, matrix in enumerate(projections(poses, intrinsics)):
        column, row, depth = matrix[:, :3] @ np.asarray(vertices, np.float64).T + matrix[:, 3:]
        shown = opacity[number] >= _SHOWN
        for axis, places in enumerate((column / depth, row / depth)):
            low, high = _ends(shown.any(axis=axis))
            scale = (high - low) / max(float(np.ptp(places)), 1e-9)
            found[number, axis] *= scale
            found[number, 2 + axis] = low + scale * (found[number, 2 + axis] - places.min())
    return found


def _ends(shown: np.ndarray) -> tuple[float, float]:
    """Where what is shown begins and ends along a line of pixels, the first one's middle at 0."""
    places = np.flatnonzero(shown)
    return float(places[0]) - 0.5, float(places[-1]) + 0.5
