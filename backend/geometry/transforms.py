"""Between the frame of a source and the cube [-1, 1]^3 of the models.

A transform is a (4, 4) float64 matrix that maps column vectors (x, y, z, 1). Arithmetic is done in
float64 throughout, so that a scan a thousand kilometres from the origin keeps its millimetres.
"""

from __future__ import annotations

import numpy as np

from ..errors import BadInput

LONGEST_SIDE = 1.8  # of the bounding box in the cube; the rest is margin
_BLOCK = 1 << 20
_MAX_BLUR = 1e-5  # of the side of the cube


def fit_to_cube(points: np.ndarray, longest_side: float = LONGEST_SIDE) -> np.ndarray:
    """The similarity that centres the bounding box of `points` and scales its longest side.

    points: (N, 3), N >= 1, finite. Raises BadInput when they are all at one place.
    """
    return fit_box_to_cube(points.min(axis=0), points.max(axis=0), longest_side)


def fit_box_to_cube(
    low: np.ndarray, high: np.ndarray, longest_side: float = LONGEST_SIDE
) -> np.ndarray:
    """As `fit_to_cube`, for a box given by its two corners (3,)."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    extent = float((high - low).max())
    if not 0 < extent < np.inf:
        raise BadInput(
            "The source has no extent: all its points are at one place.",
            "Select points that were taken from all around an object.",
        )
    scale = longest_side / extent
    transform = np.eye(4)
    transform[:3, :3] *= scale
    transform[:3, 3] = -scale * (low + (high - low) / 2)
    return transform


def index_to_cube(resolution: int) -> np.ndarray:
    """From index coordinates of a grid to the cube: node i lies at 2 i / resolution - 1."""
    transform = np.eye(4)
    transform[:3, :3] *= 2 / resolution
    transform[:3, 3] = -1
    return transform


def compose(*transforms: np.ndarray) -> np.ndarray:
    """One transform that does the last of `transforms` first, as their matrix product does."""
    product = np.eye(4)
    for transform in transforms:
        product = product @ transform
    return product


def inverse(transform: np.ndarray) -> np.ndarray:
    """Undo `transform`. Raises BadInput when it flattens space."""
    linear = np.asarray(transform[:3, :3], np.float64)
    size = float(np.abs(linear).max())
    if not (np.isfinite(transform).all() and size > 0):
        raise _singular()
    if abs(np.linalg.det(linear / size)) < 1e-12:
        raise _singular()
    undone = np.eye(4)
    undone[:3, :3] = np.linalg.inv(linear)
    undone[:3, 3] = -undone[:3, :3] @ transform[:3, 3]
    return undone


def _singular() -> BadInput:
    return BadInput(
        "The object is scaled to nothing along an axis.",
        "Give it a scale above 0 on every axis, or apply its scale (Ctrl+A).",
    )


def scale_of(transform: np.ndarray) -> float:
    """How much longer lengths become; the geometric mean where the axes differ."""
    return float(abs(np.linalg.det(transform[:3, :3])) ** (1 / 3))


def mirrors(transform: np.ndarray) -> bool:
    """Whether faces must be turned over after `transform` to keep their outside outside."""
    return bool(np.linalg.det(transform[:3, :3]) < 0)


def apply_to_points(
    transform: np.ndarray, points: np.ndarray, dtype: type[np.floating] = np.float32
) -> np.ndarray:
    """Transformed (N, 3) points, rounded to `dtype` only at the end."""
    return _in_blocks(points, dtype, transform[:3, :3].T, transform[:3, 3])


def fine_dtype(transform: np.ndarray) -> type[np.floating]:
    """float32, or float64 where what comes out of the cube lies so far from the origin that
    float32 would blur it, as surveyed scans in the metres of a map do."""
    reach = float((np.abs(transform[:3, :3]).sum(axis=1) + np.abs(transform[:3, 3])).max())
    blur = reach * float(np.finfo(np.float32).eps)
    return np.float64 if blur > _MAX_BLUR * 2 * scale_of(transform) else np.float32


def apply_to_normals(transform: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Transformed (N, 3) float32 normals of length one; those of length zero stay zero.

    Normals stay at right angles to the surface also under non-uniform scale, and outward.
    """
    inverse_transpose = np.linalg.inv(transform[:3, :3]).T
    turned = _in_blocks(normals, np.float64, inverse_transpose.T, np.zeros(3))
    length = np.linalg.norm(turned, axis=1, keepdims=True)
    np.divide(turned, length, out=turned, where=length > 0)
    return turned.astype(np.float32)


def apply_to_faces(transform: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) faces, turned over when `transform` mirrors."""
    return np.ascontiguousarray(faces[:, ::-1]) if mirrors(transform) else faces


def _in_blocks(
    vectors: np.ndarray, dtype: type[np.floating], linear: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """vectors @ linear + offset, in float64, without a float64 copy of millions of vectors."""
    moved = np.empty((len(vectors), 3), dtype)
    for begin in range(0, len(vectors), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        moved[block] = vectors[block].astype(np.float64) @ linear + offset
    return moved
