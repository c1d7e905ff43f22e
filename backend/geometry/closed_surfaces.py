"""Surfaces that bound a volume: which way their faces look, where they are open, coarser ones."""

from __future__ import annotations

from dataclasses import dataclass

import igl
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_FLAT = 1e-6  # of area^1.5: what encloses less has no side to look out of
_WITNESSES = 32
_SIDES = (1024, 724, 512, 362, 256, 181, 128, 64, 32, 16)


@dataclass(frozen=True, eq=False)
class Turned:
    """flipped: (T,) bool, faces that looked inwards. border: edges with a face on one side only."""

    flipped: np.ndarray
    border: int


def turned_outwards(vertices: np.ndarray, faces: np.ndarray) -> Turned:
    """Find the faces to turn round so that all look outwards.

    vertices (V, 3), faces (T, 3); vertices at the same place count as one. Faces are first made to
    agree with their neighbours; then each connected part that encloses a negative volume is turned
    round, but for cavities: parts that lie within another one.
    """
    welded = _welded(np.asarray(vertices))[np.asarray(faces, np.int64)]
    edges = _Edges(welded)
    flipped = np.zeros(len(welded), bool)
    if edges.disagree:
        agreeing, _ = igl.bfs_orient(np.ascontiguousarray(welded))
        flipped = (_turn(agreeing) != _turn(welded)) & edges.whole
    part = edges.parts()
    oriented = np.where(flipped[:, None], faces[:, ::-1], faces)
    volumes, areas = _enclosed(np.asarray(vertices, np.float64)[oriented], part)
    largest = np.abs(volumes).argmax()
    if volumes[largest] < -_FLAT * areas[largest] ** 1.5 and volumes.sum() < 0:
        flipped, volumes = ~flipped, -volumes
    inwards = volumes < -_FLAT * areas**1.5
    if inwards.any() and not inwards.all():
        oriented = np.where(flipped[:, None], faces[:, ::-1], faces)
        inwards &= ~_within_others(np.asarray(vertices), oriented, part, inwards)
    return Turned(flipped ^ inwards[part], edges.border)


def simplified(
    vertices: np.ndarray, faces: np.ndarray, extent: float, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge vertices (V, 3) that share a cell of a grid into their mean, until at most `most` of
    the faces (T, 3) are left (on the coarsest grid, more may be). extent: the length that the
    finest grid cuts into 1024.

    What was closed stays closed: walls thinner than a cell fall together and enclose nothing.
    """
    if len(faces) <= most:
        return vertices, faces
    low = vertices.min(axis=0)
    found = vertices, faces
    for side in _SIDES:
        found = _clustered(vertices, faces, low, extent / side)
        if len(found[1]) <= most:
            break
    return found


# ------------------------------------------------------------------------------------------- edges


class _Edges:
    """Edges of welded faces (T, 3): each of a pair of vertices, with the faces along it."""

    def __init__(self, faces: np.ndarray) -> None:
        self.whole = (faces != faces[:, [1, 2, 0]]).all(axis=1)
        starts = faces[self.whole].ravel()
        ends = faces[self.whole][:, [1, 2, 0]].ravel()
        self._count = len(faces)
        face = np.repeat(np.flatnonzero(self.whole), 3)
        key = np.minimum(starts, ends) * (int(faces.max(initial=0)) + 1) + np.maximum(starts, ends)
        order = np.argsort(key, kind="stable")
        self._face, key = face[order], key[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        along = np.where(starts < ends, 1, -1)[order]
        faces_there = np.diff(np.append(first, len(key)))
        balance = np.add.reduceat(along, first) if len(first) else along
        self.border = int((faces_there == 1).sum())
        self.disagree = bool(((faces_there == 2) & (balance != 0)).any())
        self._joined = np.diff(key, prepend=-1) == 0  # each with the one before it

    def parts(self) -> np.ndarray:
        """(T,) number of the part of each face, parts being joined along edges."""
        second = np.flatnonzero(self._joined)
        pairs = self._face[second - 1], self._face[second]
        graph = coo_matrix((np.ones(len(second), bool), pairs), shape=(self._count,) * 2)
        part: np.ndarray = connected_components(graph, directed=False)[1]
        return part


def _welded(vertices: np.ndarray) -> np.ndarray:
    """(V,) int64: the same number for vertices at the same place."""
    order = np.lexsort(vertices.T)
    placed = vertices[order]
    different = np.ones(len(vertices), bool)
    different[1:] = (placed[1:] != placed[:-1]).any(axis=1)
    numbers = np.empty(len(vertices), np.int64)
    numbers[order] = np.cumsum(different) - 1
    return numbers


def _turn(faces: np.ndarray) -> np.ndarray:
    """(T,) bool: which of its two turns each triangle of distinct corners has."""
    a, b, c = faces.T
    return (a < b) ^ (b < c) ^ (c < a)


# ----------------------------------------------------------------------------------------- volumes


def _enclosed(corners: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed volume and area of each part of triangles (T, 3, 3). The volume of an open part is
    that between its faces and its middle."""
    a, b, c = (corners[:, corner] for corner in range(3))
    normals = np.cross(b - a, c - a)
    areas = np.linalg.norm(normals, axis=1) / 2
    area = np.bincount(part, areas)
    volumes: np.ndarray = np.bincount(part, (a * normals).sum(axis=1) / 6)
    for axis in range(3):
        weighted = np.bincount(part, areas * corners[..., axis].mean(axis=1))
        middle = weighted / np.maximum(area, np.finfo(np.float64).tiny)
        volumes -= middle * np.bincount(part, normals[:, axis]) / 6
    return volumes, area


def _within_others(
    vertices: np.ndarray, faces: np.ndarray, part: np.ndarray, inwards: np.ndarray
) -> np.ndarray:
    """(parts,) bool: those of `inwards` that lie within parts that look outwards."""
    tree = igl.FastWindingNumberBVH()
    outer = np.ascontiguousarray(faces[~inwards[part]], np.int64)
    tree.init(np.ascontiguousarray(vertices, np.float64), outer, 2)
    within = np.zeros(len(inwards), bool)
    order = np.argsort(part, kind="stable")
    begins = np.searchsorted(part[order], np.arange(len(inwards) + 1))
    numbers = np.flatnonzero(inwards)
    chosen = [
        order[np.linspace(begins[n], begins[n + 1] - 1, _WITNESSES).astype(np.int64)]
        for n in numbers
    ]
    middles = vertices[faces[np.concatenate(chosen)]].mean(axis=1)
    winding = tree.winding_number(np.ascontiguousarray(middles, np.float64), 2.0)
    within[numbers] = (winding.reshape(-1, _WITNESSES) >= 0.5).mean(axis=1) > 0.9
    return within


# -------------------------------------------------------------------------------------- clustering


def _clustered(
    vertices: np.ndarray, faces: np.ndarray, low: np.ndarray, cell: float
) -> tuple[np.ndarray, np.ndarray]:
    cells = ((vertices - low) / cell).astype(np.int64)
    key = (cells[:, 0] << 40) | (cells[:, 1] << 20) | cells[:, 2]
    _, number = np.unique(key, return_inverse=True)
    weight = np.bincount(number)
    merged = np.stack(
        [np.bincount(number, vertices[:, axis]) / weight for axis in range(3)], axis=1
    )
    faces = number[faces]
    return merged, faces[(faces != faces[:, [1, 2, 0]]).all(axis=1)]
