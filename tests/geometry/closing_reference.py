"""The closing TSDF, step by step on whole grids, each node that matters asking a library for its
distance: what `tsdf.closing_sdf` must agree with, several times as slow."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from backend.geometry.isosurface import marching_cubes
from backend.geometry.tsdf import Distance, distance_to

TRUNCATION = 0.1
_GAP = 1.5
_SHEET = 1.0
_ON_MESH = 0.9
_EXACT_BAND = 4.0
_COARSEST = 32


def closing_sdf(vertices: np.ndarray, faces: np.ndarray, resolution: int) -> np.ndarray:
    voxel = 2 / resolution
    unsigned = _distance_grid(distance_to(vertices, faces), resolution)
    outside = _reached_from_border(unsigned > _GAP * voxel)
    depth = _depth_below_offset(unsigned, outside, resolution)
    signed = np.where(outside, unsigned, _GAP * voxel - depth)
    _keep_exact_surface(signed, unsigned, voxel)
    _thicken_sheets(signed, unsigned, voxel)
    return np.clip(signed[:-1, :-1, :-1], -TRUNCATION, TRUNCATION).astype(np.float32)


def _distance_grid(
    distance: Distance, resolution: int, wanted: np.ndarray | None = None
) -> np.ndarray:
    """Unsigned distances at (n + 1)^3 nodes, from coarse to fine.

    A finer level asks again only where it matters: within the truncation, and on the finest level
    within a few voxels of the surface; elsewhere the coarser level is interpolated.
    wanted: (n + 1)^3 bool, the nodes that are needed at all.
    """
    step = 2 / resolution
    near: np.ndarray
    if resolution // 2 < _COARSEST or resolution % 2:
        field = np.full([resolution + 1] * 3, np.inf, np.float32)
        near = np.full(field.shape, True)
    else:
        coarse_wanted = None if wanted is None else _any_around_even_nodes(wanted)
        coarse = _distance_grid(distance, resolution // 2, coarse_wanted)
        field = _doubled(coarse)
        finest = step * _EXACT_BAND < TRUNCATION / 2
        # The interpolated value may exceed the true one by the way to the coarser nodes.
        near = field < (step * _EXACT_BAND if finest else TRUNCATION + 2 * step * np.sqrt(3))
    if wanted is not None:
        near &= wanted
    nodes = np.argwhere(near)
    if len(nodes):
        field[near] = distance(nodes.astype(np.float32) * np.float32(step) - np.float32(1))
    return field


def _doubled(coarse: np.ndarray) -> np.ndarray:
    """(m + 1)^3 -> (2 m + 1)^3 by linear interpolation; infinite values count as far."""
    field = np.minimum(coarse, np.float32(4))
    for axis in range(3):
        field = np.moveaxis(field, axis, 0)
        fine = np.empty((2 * len(field) - 1, *field.shape[1:]), np.float32)
        fine[::2] = field
        fine[1::2] = (field[1:] + field[:-1]) / 2
        field = np.moveaxis(fine, 0, axis)
    return np.ascontiguousarray(field)


def _any_around_even_nodes(wanted: np.ndarray) -> np.ndarray:
    """Coarser nodes that the interpolation of a wanted node needs."""
    grown = ndimage.maximum_filter(wanted.view(np.uint8), 3).view(bool)
    return np.ascontiguousarray(grown[::2, ::2, ::2])


def _reached_from_border(free: np.ndarray) -> np.ndarray:
    """The free nodes that are connected to the border of the grid through faces of nodes."""
    labels, count = ndimage.label(free)
    reached = np.zeros(count + 1, bool)
    for axis in range(3):
        for end in (0, -1):
            reached[np.unique(labels.take(end, axis))] = True
    reached[0] = False
    return reached[labels]


def _depth_below_offset(unsigned: np.ndarray, outside: np.ndarray, resolution: int) -> np.ndarray:
    """How deep the nodes that are not outside lie below the offset surface around the mesh."""
    beyond = unsigned - np.float32(_GAP * 2 / resolution)
    offset = np.where(outside, beyond, -np.abs(beyond))
    vertices, faces = marching_cubes(offset)
    distance = distance_to(vertices * np.float32(2 / resolution) - np.float32(1), faces)
    return _distance_grid(distance, resolution, ~outside)


def _keep_exact_surface(signed: np.ndarray, unsigned: np.ndarray, voxel: float) -> None:
    """The way over the offset surface costs a few hundredths of a voxel. Where it agrees with the
    distance to the mesh itself, which it does but in closed gaps, that distance is better."""
    same = np.abs(np.abs(signed) - unsigned) < 0.3 * voxel
    signed[same] = np.copysign(unsigned, signed)[same]


def _thicken_sheets(signed: np.ndarray, unsigned: np.ndarray, voxel: float) -> None:
    """Where nothing within two voxels is deeper than one, the mesh is a sheet: give it a body."""
    solid = (signed < -_SHEET * voxel).view(np.uint8)
    on_mesh = unsigned < _ON_MESH * voxel
    sheet = on_mesh & (ndimage.maximum_filter(solid, 5) == 0)
    if not sheet.any():
        return
    share = _spread_from(on_mesh, sheet)
    close = unsigned < 2 * voxel
    share[close] = ndimage.maximum_filter(sheet.view(np.uint8), 5)[close]
    thicker = unsigned - share * np.float32(_SHEET * voxel)
    np.minimum(signed, thicker, out=signed, where=share > 0)


def _spread_from(on_mesh: np.ndarray, sheet: np.ndarray) -> np.ndarray:
    """For each node, how much of the mesh in the nearest block of 4^3 nodes with any is sheet.

    Away from the surface the field must know which surface it measures from; blocks will do.
    """
    size = len(on_mesh)
    blocks = -(-size // 4)
    padding = [(0, 4 * blocks - size)] * 3
    shape = (blocks, 4, blocks, 4, blocks, 4)
    counts, sheets = (
        np.pad(nodes, padding).reshape(shape).sum(axis=(1, 3, 5), dtype=np.float32)
        for nodes in (on_mesh, sheet)
    )
    nearest = ndimage.distance_transform_edt(
        counts == 0, return_distances=False, return_indices=True
    )
    share = (sheets / np.maximum(counts, 1))[tuple(nearest)]
    for axis in range(3):
        share = share.repeat(4, axis=axis)
    return np.ascontiguousarray(share[:size, :size, :size])
