"""Distances from the outline of a picture, to a small part of a pixel.

The outline runs where opacity, linear between the middles of pixels, is one half: line segments
within squares of four pixels, as marching squares finds them. Distances between pixels alone, even
with the opacity at the nearest taken into account, are off by a third of a pixel along slanted
outlines, and what is carved by them has terraces.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from scipy import ndimage

OUTLINE = 0.5
"""The share of a pixel from which on it shows the thing."""
_NEAR = 3.0
"""Pixels from what is shown, or from what is not, up to which places of the outline are sought."""


def outline_distance(opacity: np.ndarray) -> np.ndarray:
    """(H, W) 0..1 -> (H, W) float32 pixels to the outline, positive outside; 1e6 everywhere where
    nothing is shown, -1e6 where all is. Farther than 1.5 it may be too much by up to a pixel."""
    shown = opacity >= OUTLINE
    if not shown.any() or shown.all():
        return np.full(opacity.shape, -1e6 if shown.any() else 1e6, np.float32)
    to_shown, at_shown = ndimage.distance_transform_edt(~shown, return_indices=True)
    to_ground, at_ground = ndimage.distance_transform_edt(shown, return_indices=True)
    across = to_shown + to_ground  # one of which is 0
    feet = np.empty((*opacity.shape, 2))
    _find_feet(np.ascontiguousarray(opacity, np.float64), across, feet)
    away = np.empty(opacity.shape, np.float32)
    _measure(shown, across, at_shown, at_ground, feet, away)
    return away


@njit(cache=True, nogil=True)
def _find_feet(opacity, across, feet):
    """The nearest places (row, column) of the outline to pixels near it. across: pixels to the
    nearest one on its other side, before which it runs."""
    height, width = opacity.shape
    for i in range(height):
        for j in range(width):
            if across[i, j] > _NEAR:
                continue
            around = math.ceil(across[i, j])
            best = np.inf
            for row in range(max(0, i - around), min(height - 1, i + around)):
                for column in range(max(0, j - around), min(width - 1, j + around)):
                    best = _nearest_in_square(opacity, row, column, i, j, best, feet)


@njit(cache=True, nogil=True)
def _measure(shown, across, at_shown, at_ground, feet, away):
    """How far the outline is; what has no foot takes that of the nearest pixel across from it."""
    for i in range(shown.shape[0]):
        for j in range(shown.shape[1]):
            row, column = i, j
            if across[i, j] > _NEAR:
                other = at_ground if shown[i, j] else at_shown
                row, column = other[0, i, j], other[1, i, j]
            found = math.hypot(feet[row, column, 0] - i, feet[row, column, 1] - j)
            away[i, j] = -found if shown[i, j] else found


@njit(cache=True, nogil=True)
def _nearest_in_square(opacity, row, column, i, j, best, feet):
    """The squared distance from (i, j) to the outline within the square of four pixels from (row,
    column) on, or `best` where that is less; else its place is noted."""
    corners = (
        opacity[row, column] - OUTLINE,
        opacity[row, column + 1] - OUTLINE,
        opacity[row + 1, column + 1] - OUTLINE,
        opacity[row + 1, column] - OUTLINE,
    )
    shown = 0
    for corner in corners:
        shown += corner >= 0
    if shown == 0 or shown == 4:
        return best
    places = np.empty((4, 2))
    count = 0
    for side in range(4):
        one, other = corners[side], corners[(side + 1) % 4]
        if (one >= 0) == (other >= 0):
            continue
        share = one / (one - other)
        if side == 0:
            down, right = 0.0, share
        elif side == 1:
            down, right = share, 1.0
        elif side == 2:
            down, right = 1.0, 1 - share
        else:
            down, right = 1 - share, 0.0
        places[count, 0], places[count, 1] = row + down, column + right
        count += 1
    if count == 2:
        return _nearest_on(places[0], places[1], i, j, best, feet)
    if count == 4:
        # Two corners across from each other show the thing: the middle tells whether they hang
        # together, so whether the outline goes around each of the others or around each of these.
        joined = corners[0] + corners[1] + corners[2] + corners[3] >= 0
        first = 0 if joined == (corners[0] >= 0) else 1
        best = _nearest_on(places[first], places[first + 1], i, j, best, feet)
        best = _nearest_on(places[(first + 2) % 4], places[(first + 3) % 4], i, j, best, feet)
    return best


@njit(cache=True, nogil=True)
def _nearest_on(one, other, i, j, best, feet):
    along_rows, along_columns = other[0] - one[0], other[1] - one[1]
    length = along_rows**2 + along_columns**2
    share = 0.0
    if length > 0:
        share = ((i - one[0]) * along_rows + (j - one[1]) * along_columns) / length
        share = min(max(share, 0.0), 1.0)
    row, column = one[0] + share * along_rows, one[1] + share * along_columns
    squared = (row - i) ** 2 + (column - j) ** 2
    if squared < best:
        feet[i, j, 0], feet[i, j, 1] = row, column
        return squared
    return best
