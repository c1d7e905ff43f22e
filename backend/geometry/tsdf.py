"""Truncated signed distance fields of meshes as they come: open, doubled, intersecting, of parts.

The sign comes from a morphological closing: what cannot be reached from outside through gaps wider
than three voxels is inside. Solids keep their surface; open sheets become two voxels thick. Against
winding numbers and ray parity, this neither loses open sheets nor lets stray rays through.

Distances come from `grid_distance`, and only what lies near the surface is looked at closely: a
shape takes about a second of one processor at 256^3, so that no graphics card is needed for this.

Distances between other points and triangles come from Open3D where it can be imported, else from
libigl.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from scipy import ndimage

from ..errors import BadInput, NotFound
from .grid_distance import grid_distance
from .isosurface import marching_cubes
from .threads import thread_count
from .transforms import apply_to_points, fit_to_cube

TRUNCATION = 0.1  # in units of the cube [-1, 1]^3
# All others in voxels.
_GAP = 1.5  # gaps of up to twice this are closed
_SHEET = 1.0  # half the thickness of an open sheet
_ON_MESH = 0.9  # every point of the mesh has a node as near as this
_EXACT_BAND = 4.0  # distance from the surface within which the finest distances are exact
_AGREEING = 0.3
_BLOCK = 4


def mesh_tsdf(
    vertices: np.ndarray, faces: np.ndarray, resolution: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The TSDF of a mesh in any frame, and the (4, 4) similarity from that frame to the cube.

    vertices (V, 3) float, faces (F, 3) integer. See `closing_sdf`.
    """
    to_cube = fit_to_cube(vertices)
    return closing_sdf(apply_to_points(to_cube, vertices), faces, resolution), to_cube


def closing_sdf(vertices: np.ndarray, faces: np.ndarray, resolution: int = 256) -> np.ndarray:
    """(n, n, n) float32, positive outside, clipped to +-0.1; node i lies at 2 i / n - 1.

    vertices: (V, 3) float, within [-0.95, 0.95]^3; faces (F, 3) integer, in any order or winding.
    resolution: even, at least 64. Raises BadInput for a mesh without faces or out of the cube.
    """
    _check(vertices, faces, resolution)
    voxel = 2 / resolution
    placed = (np.asarray(vertices, np.float64) + 1) / voxel
    # What counts as a gap must not depend on how finely the mesh is cut into triangles.
    unsigned = _distances(placed, faces, resolution, direct=_GAP)
    offset = np.empty_like(unsigned)
    _offset_field(unsigned, np.float32(_GAP), offset)
    signed = _distances_below(offset, resolution)
    _sign(offset, unsigned, signed)
    del offset
    _thicken_sheets(signed, unsigned)
    signed = signed[:-1, :-1, :-1] * np.float32(voxel)
    return np.clip(signed, -TRUNCATION, TRUNCATION, out=signed)


def _check(vertices: np.ndarray, faces: np.ndarray, resolution: int) -> None:
    if resolution % 2 or resolution < 64:
        raise ValueError(f"resolution {resolution}: expected an even number from 64 on")
    if not len(faces):
        raise BadInput("The mesh has no faces.", "Choose a mesh with a surface.")
    if not np.isfinite(vertices).all() or np.abs(vertices).max() > 0.95:
        raise BadInput(
            "The mesh does not lie within the cube.", "Fit it to the cube before it is sampled."
        )


def _distances(
    vertices: np.ndarray,
    faces: np.ndarray,
    resolution: int,
    wanted: np.ndarray | None = None,
    direct: float = 1.0,
) -> np.ndarray:
    """Unsigned distances at (n + 1)^3 nodes, all in voxels, as far as any matters."""
    truncation = TRUNCATION * resolution / 2
    # Coarse grids have too little beyond the band to win anything by interpolation.
    exact = _EXACT_BAND if truncation > 2 * _EXACT_BAND else truncation
    return grid_distance(vertices, faces, resolution + 1, truncation + _GAP, exact, wanted, direct)


# ------------------------------------------------------------------------------------------ closing


def _distances_below(offset: np.ndarray, resolution: int) -> np.ndarray:
    """How deep the nodes that are not outside lie below the offset surface around the mesh."""
    vertices, faces = marching_cubes(offset)
    if not len(faces):
        raise BadInput("The mesh has no surface.", "Check that it has faces with an area.")
    return _distances(vertices, faces, resolution, offset <= 0)


@njit(cache=True, nogil=True)
def _offset_field(unsigned, gap, offset):
    """unsigned - gap where that is positive and connected to the border of the grid through faces
    of nodes, which is outside; elsewhere -|unsigned - gap|.

    Runs of free nodes along z are united with those they touch in the rows before.
    """
    side = unsigned.shape[0]
    first = np.zeros(side * side + 1, np.int64)
    for row in range(side * side):
        values = unsigned[row // side, row % side]
        runs = 0
        before = False
        for z in range(side):
            free = values[z] > gap
            runs += free and not before
            before = free
        first[row + 1] = first[row] + runs
    begins, ends = np.empty(first[-1], np.int32), np.empty(first[-1], np.int32)
    # The border is entry 0 of the forest, run k entry k + 1; a root is the least of its tree.
    parents = np.arange(first[-1] + 1)
    for row in range(side * side):
        x, y = row // side, row % side
        values = unsigned[x, y]
        at = first[row]
        before = False
        for z in range(side + 1):
            free = z < side and values[z] > gap
            if free and not before:
                begins[at] = z
            elif before and not free:
                ends[at] = z
                at += 1
            before = free
        rim = x == 0 or y == 0 or x == side - 1 or y == side - 1
        for run in range(first[row], first[row + 1]):
            if rim or begins[run] == 0 or ends[run] == side:
                _unite(parents, 0, run + 1)
        if x > 0:
            _unite_touching(parents, begins, ends, first, row - side, row)
        if y > 0:
            _unite_touching(parents, begins, ends, first, row - 1, row)
    for row in range(side * side):
        x, y = row // side, row % side
        for z in range(side):
            offset[x, y, z] = -abs(unsigned[x, y, z] - gap)
        for run in range(first[row], first[row + 1]):
            if _root(parents, run + 1) == 0:
                for z in range(begins[run], ends[run]):
                    offset[x, y, z] = -offset[x, y, z]


@njit(cache=True, nogil=True)
def _root(parents, entry):
    while parents[entry] != entry:
        parents[entry] = parents[parents[entry]]
        entry = parents[entry]
    return entry


@njit(cache=True, nogil=True)
def _unite(parents, one, other):
    one, other = _root(parents, one), _root(parents, other)
    parents[max(one, other)] = min(one, other)


@njit(cache=True, nogil=True)
def _unite_touching(parents, begins, ends, first, row, other_row):
    run, other = first[row], first[other_row]
    while run < first[row + 1] and other < first[other_row + 1]:
        if begins[run] < ends[other] and begins[other] < ends[run]:
            _unite(parents, run + 1, other + 1)
        if ends[run] < ends[other]:
            run += 1
        else:
            other += 1


@njit(cache=True, nogil=True)
def _sign(offset, unsigned, signed):
    """Depths below the offset surface -> signed distances.

    The way over the offset surface costs a few hundredths of a voxel. Where it agrees with the
    distance to the mesh itself, which it does but in closed gaps, that distance is better.
    """
    flat, depth, free = unsigned.ravel(), signed.ravel(), offset.ravel()
    for i in range(len(flat)):
        if free[i] > 0:
            depth[i] = flat[i]
            continue
        value = np.float32(_GAP) - depth[i]
        if abs(abs(value) - flat[i]) < _AGREEING:
            value = math.copysign(flat[i], value)
        depth[i] = value


# ------------------------------------------------------------------------------------------- sheets


def _thicken_sheets(signed: np.ndarray, unsigned: np.ndarray) -> None:
    """Where nothing within two voxels is deeper than one, the mesh is a sheet: give it a body.

    Away from the surface the field must know which surface it measures from: how much of the mesh
    in the nearest block of 4^3 nodes with any is sheet, will do.
    """
    blocks = -(-len(signed) // _BLOCK)
    counts, sheets = np.zeros((2, blocks, blocks, blocks), np.float32)
    sheet = np.zeros(signed.shape, np.bool_)
    _find_sheets(signed, unsigned, sheet, counts, sheets)
    if not sheets.any():
        return
    nearest = ndimage.distance_transform_edt(
        counts == 0, return_distances=False, return_indices=True
    )
    share = (sheets / np.maximum(counts, 1))[tuple(nearest)]
    any_near = ndimage.maximum_filter(sheets, 3) > 0
    _add_bodies(signed, unsigned, sheet, share, any_near)


@njit(cache=True, nogil=True)
def _find_sheets(signed, unsigned, sheet, counts, sheets):
    """Nodes on the mesh that are sheet; of each block how many are on the mesh, and how many of
    these are sheet."""
    side = len(signed)
    for x in range(side):
        for y in range(side):
            for z in range(side):
                if unsigned[x, y, z] < _ON_MESH:
                    block = x // _BLOCK, y // _BLOCK, z // _BLOCK
                    counts[block] += 1
                    if not _any_below(signed, x, y, z, -_SHEET):
                        sheet[x, y, z] = True
                        sheets[block] += 1


@njit(cache=True, nogil=True)
def _any_below(values, x, y, z, level):
    """Whether a node within two of this one along each axis has less than `level`."""
    side = len(values)
    for i in range(max(x - 2, 0), min(x + 3, side)):
        for j in range(max(y - 2, 0), min(y + 3, side)):
            for k in range(max(z - 2, 0), min(z + 3, side)):
                if values[i, j, k] < level:
                    return True
    return False


@njit(cache=True, nogil=True)
def _any_set(flags, x, y, z):
    side = len(flags)
    for i in range(max(x - 2, 0), min(x + 3, side)):
        for j in range(max(y - 2, 0), min(y + 3, side)):
            for k in range(max(z - 2, 0), min(z + 3, side)):
                if flags[i, j, k]:
                    return True
    return False


@njit(cache=True, nogil=True)
def _add_bodies(signed, unsigned, sheet, share, any_near):
    side = len(signed)
    for x in range(side):
        for y in range(side):
            for z in range(side):
                block = x // _BLOCK, y // _BLOCK, z // _BLOCK
                distance = unsigned[x, y, z]
                if distance < 2:
                    part = np.float32(any_near[block] and _any_set(sheet, x, y, z))
                else:
                    part = share[block]
                if part > 0:
                    thicker = distance - part * np.float32(_SHEET)
                    signed[x, y, z] = min(signed[x, y, z], thicker)


# ------------------------------------------------------------------------------------- other points


class Open3DDistance:
    """Distances to a mesh, with all threads."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self._library: Any = importlib.import_module("open3d")
        self._scene = self._library.t.geometry.RaycastingScene(nthreads=thread_count())
        self._scene.add_triangles(
            self._library.core.Tensor(np.ascontiguousarray(vertices, np.float32)),
            self._library.core.Tensor(np.ascontiguousarray(faces, np.uint32)),
        )

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self._scene.compute_distance(self._library.core.Tensor(points)).numpy()


class LibiglDistance:
    """Distances to a mesh, half as fast, without Open3D's need of system libraries."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self._library: Any = importlib.import_module("igl")
        self._mesh = np.asarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        squares, *_ = self._library.point_mesh_squared_distance(
            np.asarray(points, np.float64), *self._mesh
        )
        return np.sqrt(squares).astype(np.float32)


Distance = Callable[[np.ndarray], np.ndarray]


def distance_to(vertices: np.ndarray, faces: np.ndarray) -> Distance:
    """A function from points (N, 3) float32 to their unsigned distances (N,) float32 to a mesh.

    Raises NotFound when no library for it is installed.
    """
    libraries: list[Callable[..., Distance]] = [Open3DDistance, LibiglDistance]
    for library in libraries:
        try:
            return library(vertices, faces)
        except ImportError:  # also where a system library of Open3D is missing
            continue
    raise NotFound(
        "Neither Open3D nor libigl is installed, one of which distances to a mesh need.",
        "Install one into the backend's environment: pip install libigl",
    )
