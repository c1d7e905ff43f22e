"""Occupancy grids: from points, meshes and distance fields, and how well two of them agree.

A grid has `shape` cells from `origin`, the corner with the lowest coordinates, each `voxel_size`
(3,) long along the axes. A cell is occupied when its centre is inside.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import ndimage

from .threads import in_chunks

Shape = tuple[int, int, int]


def occupancy_of_points(
    points: np.ndarray, shape: Shape, origin: np.ndarray, voxel_size: np.ndarray
) -> np.ndarray:
    """The cells that hold a point (N, 3): (X, Y, Z) bool. Points outside of the grid are left out;
    those on its upper border belong to the last cell."""
    place = (points.astype(np.float64) - origin) / voxel_size
    inside = ((place >= 0) & (place <= shape)).all(axis=1)
    cells = np.minimum(place[inside].astype(np.int64), np.array(shape) - 1)
    occupancy = np.zeros(shape, bool)
    occupancy[tuple(cells.T)] = True
    return occupancy


def occupancy_of_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    shape: Shape,
    origin: np.ndarray,
    voxel_size: np.ndarray,
) -> np.ndarray:
    """The cells whose centre a closed, outward oriented mesh winds around: (X, Y, Z) bool.

    vertices (V, 3), faces (F, 3). Overlapping bodies join. Exact: each column of centres is a ray,
    and a ray through an edge crosses exactly one of its two faces.
    """
    place = (vertices.astype(np.float64) - origin) / voxel_size - 0.5
    crossings = np.zeros((shape[0], shape[1], shape[2] + 1), np.int32)
    if len(faces):
        corners = np.ascontiguousarray(faces, np.int64)
        in_chunks(_cross_columns, shape[0], np.ascontiguousarray(place), corners, crossings)
    return np.cumsum(crossings[:, :, :-1], axis=2) > 0


@njit(cache=True, nogil=True)
def _cross_columns(begin, end, place, faces, crossings):
    """Note where the columns x = begin..end cross faces: +1 into the body going up, -1 out.

    A column through an edge or a vertex is taken to lie an infinitesimal step further in x, and a
    yet smaller one in y, which the half-open comparisons below do.
    """
    rows, depth = crossings.shape[1], crossings.shape[2] - 1
    for face in range(len(faces)):
        a, b, c = place[faces[face, 0]], place[faces[face, 1]], place[faces[face, 2]]
        low_x, high_x = min(a[0], b[0], c[0]), max(a[0], b[0], c[0])
        normal_z = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if normal_z == 0 or high_x < begin or low_x >= end:
            continue
        for x in range(max(begin, int(np.ceil(low_x))), min(end, int(np.floor(high_x)) + 1)):
            # The two edges that cross the plane of this x bound the y of the columns within.
            count = 0
            ends = np.empty((3, 2))
            for edge in range(3):
                first = faces[face, edge]
                second = faces[face, (edge + 1) % 3]
                if first > second:  # the same arithmetic in both faces of an edge
                    first, second = second, first
                p, q = place[first], place[second]
                if (p[0] <= x) != (q[0] <= x):
                    part = (x - p[0]) / (q[0] - p[0])
                    ends[count, 0] = p[1] + part * (q[1] - p[1])
                    ends[count, 1] = p[2] + part * (q[2] - p[2])
                    count += 1
            if count != 2:
                continue
            low, high = (0, 1) if ends[0, 0] <= ends[1, 0] else (1, 0)
            width = ends[high, 0] - ends[low, 0]
            first_y = max(0, int(np.ceil(ends[low, 0])))
            for y in range(first_y, min(rows, int(np.ceil(ends[high, 0])))):
                part = (y - ends[low, 0]) / width
                z = ends[low, 1] + part * (ends[high, 1] - ends[low, 1])
                # From the first centre above the crossing on.
                above = min(max(int(np.ceil(z)), 0), depth)
                crossings[x, y, above] += -1 if normal_z > 0 else 1


def occupancy_of_sdf(field: np.ndarray, resolution: int) -> np.ndarray:
    """The field (n, n, n), node i at 2 i / n - 1, at the centres of resolution^3 cells of the cube
    [-1, 1]^3, by linear interpolation: (R, R, R) bool, inside where negative."""
    size = field.shape[0]
    centre = (np.arange(resolution) + 0.5) * size / resolution
    values = field
    for axis in range(3):
        values = _interpolated(values, np.minimum(centre, size - 1), axis)
    return values < 0


def _interpolated(field: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    low = np.minimum(places.astype(np.int64), field.shape[axis] - 2)
    part = (places - low).astype(field.dtype)
    part = part.reshape([-1 if at == axis else 1 for at in range(3)])
    return field.take(low, axis) * (1 - part) + field.take(low + 1, axis) * part


def squared_distances(occupancy: np.ndarray, reach: int) -> np.ndarray:
    """Squared distance, in voxels, from each centre to the nearest occupied one: (X, Y, Z) uint8.

    Exact up to `reach` (at most 9) voxels, reach^2 + 1 beyond. One axis after another.
    """
    squares = np.where(occupancy, 0, reach * reach + 1).astype(np.uint8)
    for axis in range(3):
        source = np.moveaxis(squares, axis, 0)
        nearest = source.copy()
        for step in range(1, min(reach, len(source) - 1) + 1):
            away = source + np.uint8(step * step)
            np.minimum(nearest[step:], away[:-step], out=nearest[step:])
            np.minimum(nearest[:-step], away[step:], out=nearest[:-step])
        squares = np.moveaxis(nearest, 0, axis)
    return np.ascontiguousarray(np.minimum(squares, np.uint8(reach * reach + 1)))


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two occupancies of one shape; 1 where both are empty."""
    union = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / union if union else 1.0


def surface_cells(occupancy: np.ndarray) -> np.ndarray:
    """The occupied cells with a face towards an empty one, or towards the border: bool."""
    return occupancy & ~ndimage.binary_erosion(occupancy)
