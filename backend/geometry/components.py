"""Connected parts of a mesh."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from .threads import thread_count


def parts(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Number of the connected part (V,) int32 that each vertex belongs to."""
    ends = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = coo_matrix(
        (np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(len(vertices),) * 2
    )
    return connected_components(graph, directed=False)[1]


def supported(
    vertices: np.ndarray, faces: np.ndarray, points: np.ndarray, least: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out parts that fewer than `least` of the points are nearest to.

    Bubbles that a fit makes away from all data go; small parts that were really scanned stay.
    vertices (V, 3), faces (F, 3), points (N, 3) in one frame.
    """
    part = parts(vertices, faces)
    count = int(part.max(initial=-1)) + 1
    if count <= 1:
        return vertices, faces
    sample = points[np.random.default_rng(0).permutation(len(points))[:200_000]]
    _, nearest = cKDTree(vertices).query(sample, workers=thread_count())
    # A part that half of a big cloud was not asked about needs fewer answers.
    needed = least * len(sample) / len(points)
    kept = np.bincount(part[nearest], minlength=count) >= needed
    return _only(vertices, faces, part, kept)


def without_specks(
    vertices: np.ndarray, faces: np.ndarray, extent: float
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out parts whose bounding box is shorter than `extent` along every axis.

    When all parts are, all stay.
    """
    if not len(vertices):
        return vertices, faces
    part = parts(vertices, faces)
    order = np.argsort(part, kind="stable")
    starts = np.flatnonzero(np.diff(part[order], prepend=-1))
    sorted_vertices = vertices[order]
    low = np.minimum.reduceat(sorted_vertices, starts)
    high = np.maximum.reduceat(sorted_vertices, starts)
    return _only(vertices, faces, part, (high - low).max(axis=1) >= extent)


def _only(
    vertices: np.ndarray, faces: np.ndarray, part: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The parts that are `kept`, in their order; all, when all or none are."""
    if kept.all() or not kept.any():
        return vertices, faces
    stays = kept[part]
    renumbered = np.cumsum(stays) - 1
    return vertices[stays], renumbered[faces[stays[faces[:, 0]]]].astype(faces.dtype)
