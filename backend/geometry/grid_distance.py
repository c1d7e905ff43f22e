"""Distances from the nodes of a grid to a surface of triangles, exact near it.

Each triangle writes its distance into the nodes next to it; from there on nodes try the triangles
that their neighbours found nearest, until nothing improves. That costs a few tests of a triangle
per node instead of a search. Where triangles are smaller than a step the nearest one may be missed,
being nearest to none of a node's neighbours, and one beside it be found: the mean error is below a
thousandth of a step on most models, and half a hundredth with four triangles to a square step.

Coordinates and distances are in steps of the grid: node (i, j, k) lies at (i, j, k).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_UNREACHED = np.float32(np.inf)
_UNWANTED = np.float32(-1)
_WAYS = np.array([way for way in np.ndindex(3, 3, 3) if 0 < abs(np.array(way) - 1).sum() < 3]) - 1
_LENGTHS = np.sqrt((_WAYS**2).sum(axis=1))
"""To neighbours across faces and edges. Without those across edges the mean error is two to ten
times as large; those across corners add a third to the time and change little."""

_SLIVER = 1e-10
"""Squared ratio of height to length up to which a triangle counts as a line."""


def grid_distance(
    vertices: np.ndarray,
    faces: np.ndarray,
    nodes: int,
    reach: float,
    exact: float,
    wanted: np.ndarray | None = None,
    direct: float = 1.0,
) -> np.ndarray:
    """Unsigned distances (nodes, nodes, nodes) float32, at most `reach`.

    vertices: (V, 3) float, within the grid; faces (F, 3) integer, of any winding; those without an
    area count as the lines that they are. exact: up to which distance each node is asked for
    itself; further off only every second is, or fourth, and what lies between is interpolated.
    wanted: (nodes,)^3 bool; other nodes get no meaningful value. direct: at least 1; up to this
    distance the nearest triangle is found in any case, however small it is.
    """
    triangles = _triangles(np.ascontiguousarray(vertices, np.float64), faces)
    squares = np.full((nodes,) * 3, _UNREACHED)
    if wanted is not None:
        squares[~wanted] = _UNWANTED
    nearest = np.full(squares.shape, -1, np.int32)
    _seed(triangles, direct, squares, nearest)
    distances = _continued(triangles, squares, nearest, 1, reach, exact)
    return np.minimum(distances, np.float32(reach), out=distances)


def _continued(
    triangles: np.ndarray,
    squares: np.ndarray,
    nearest: np.ndarray,
    spacing: int,
    reach: float,
    exact: float,
) -> np.ndarray:
    """Distances of all nodes of a level, from those that are known; a little beyond `reach`, or
    between the last nodes would be interpolated what is not so."""
    halves = len(squares) % 2 and len(squares) > 32 and 2 * exact * spacing < reach
    limit = exact * spacing if halves else reach + 2 * spacing
    _spread(triangles, spacing, limit**2, squares, nearest)
    if not halves:
        return _roots(squares, np.float32(limit))
    every_second = (slice(None, None, 2),) * 3
    coarse = _continued(
        triangles,
        np.ascontiguousarray(squares[every_second]),
        np.ascontiguousarray(nearest[every_second]),
        2 * spacing,
        reach,
        exact,
    )
    return _joined(squares, coarse)


# ---------------------------------------------------------------------------------------- triangles


@njit(cache=True, nogil=True)
def _triangles(vertices, faces):
    """(F, 9) float32: a corner, and the ways from it to the two others."""
    out = np.empty((len(faces), 9), np.float32)
    for face in range(len(faces)):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        bx, by, bz = _way(vertices, a, b)
        cx, cy, cz = _way(vertices, a, c)
        ab, ac = bx * bx + by * by + bz * bz, cx * cx + cy * cy + cz * cz
        dot = bx * cx + by * cy + bz * cz
        bc = ab + ac - 2 * dot
        if ab * ac - dot * dot <= _SLIVER * max(ab, ac, bc) ** 2:
            # As good as a line: two corners at one end keep divisions by its area away.
            if bc >= max(ab, ac):
                a, b = b, c
            elif ac >= ab:
                b = c
            bx, by, bz = _way(vertices, a, b)
            cx, cy, cz = bx, by, bz
        for axis in range(3):
            out[face, axis] = vertices[a, axis]
        out[face, 3], out[face, 4], out[face, 5] = bx, by, bz
        out[face, 6], out[face, 7], out[face, 8] = cx, cy, cz
    return out


@njit(cache=True, nogil=True)
def _way(vertices, a, b):
    return (
        vertices[b, 0] - vertices[a, 0],
        vertices[b, 1] - vertices[a, 1],
        vertices[b, 2] - vertices[a, 2],
    )


@njit(cache=True, nogil=True)
def _square(triangles, face, x, y, z):
    """The squared distance of a point to a triangle, by the region it lies in (Ericson 2004)."""
    px, py, pz = x - triangles[face, 0], y - triangles[face, 1], z - triangles[face, 2]
    bx, by, bz = (
        np.float64(triangles[face, 3]),
        np.float64(triangles[face, 4]),
        np.float64(triangles[face, 5]),
    )
    cx, cy, cz = (
        np.float64(triangles[face, 6]),
        np.float64(triangles[face, 7]),
        np.float64(triangles[face, 8]),
    )
    v = w = 0.0
    d1 = bx * px + by * py + bz * pz
    d2 = cx * px + cy * py + cz * pz
    if d1 > 0 or d2 > 0:
        bb = bx * bx + by * by + bz * bz
        bc = bx * cx + by * cy + bz * cz
        cc = cx * cx + cy * cy + cz * cz
        d3, d4 = d1 - bb, d2 - bc
        d5, d6 = d1 - bc, d2 - cc
        vc = d1 * d4 - d3 * d2
        vb = d5 * d2 - d1 * d6
        va = d3 * d6 - d5 * d4
        if d3 >= 0 and d4 <= d3:
            v = 1.0
        elif vc <= 0 and d1 >= 0 and d3 <= 0:
            v = d1 / (d1 - d3)
        elif d6 >= 0 and d5 <= d6:
            w = 1.0
        elif vb <= 0 and d2 >= 0 and d6 <= 0:
            w = d2 / (d2 - d6)
        elif va <= 0 and d4 - d3 >= 0 and d5 - d6 >= 0:
            w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
            v = 1 - w
        else:
            total = max(va + vb + vc, 1e-300)
            v = min(max(vb / total, 0.0), 1.0)
            w = min(max(vc / total, 0.0), 1 - v)
    dx = px - v * bx - w * cx
    dy = py - v * by - w * cy
    dz = pz - v * bz - w * cz
    return dx * dx + dy * dy + dz * dz


@njit(cache=True, nogil=True)
def _improve(triangles, face, x, y, z, squares, nearest):
    square = np.float32(_square(triangles, face, float(x), float(y), float(z)))
    if square < squares[x, y, z]:
        squares[x, y, z] = square
        nearest[x, y, z] = face


@njit(cache=True, nogil=True)
def _seed(triangles, margin, squares, nearest):
    """The nodes within `margin` of each triangle, and some more."""
    last = len(squares) - 1
    corners = np.empty((3, 3))
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for face in range(len(triangles)):
        for axis in range(3):
            first = np.float64(triangles[face, axis])
            second = first + triangles[face, 3 + axis]
            third = first + triangles[face, 6 + axis]
            corners[0, axis], corners[1, axis], corners[2, axis] = first, second, third
            low[axis] = max(0, math.ceil(min(first, second, third) - margin))
            high[axis] = min(last, math.floor(max(first, second, third) + margin))
        if max(high[0] - low[0], high[1] - low[1], high[2] - low[2]) <= 4:
            for x in range(low[0], high[0] + 1):
                for y in range(low[1], high[1] + 1):
                    for z in range(low[2], high[2] + 1):
                        _improve(triangles, face, x, y, z, squares, nearest)
        else:
            _seed_along(triangles, face, margin, corners, low, high, squares, nearest)


@njit(cache=True, nogil=True)
def _seed_along(triangles, face, margin, corners, low, high, squares, nearest):
    """Those of a large triangle, row by row of the plane that it is seen largest in."""
    normal = np.empty(3)
    up = 0
    for axis in range(3):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        normal[axis] = (corners[1, one] - corners[0, one]) * (corners[2, two] - corners[0, two]) - (
            corners[1, two] - corners[0, two]
        ) * (corners[2, one] - corners[0, one])
        if abs(normal[axis]) > abs(normal[up]):
            up = axis
    flat = normal[up] != 0
    if not flat:  # a line, which passes few nodes of the plane that it is shortest across
        for axis in range(3):
            if high[axis] - low[axis] < high[up] - low[up]:
                up = axis
    u, v = (up + 1) % 3, (up + 2) % 3
    slope_u = -normal[u] / normal[up] if flat else 0.0
    slope_v = -normal[v] / normal[up] if flat else 0.0
    thick = margin * math.sqrt(1 + slope_u**2 + slope_v**2)
    node = np.empty(3, np.int64)
    for row in range(low[u], high[u] + 1):
        begin, end = np.inf, -np.inf
        for corner in range(3):
            other = (corner + 1) % 3
            start, length = corners[corner, u], corners[other, u] - corners[corner, u]
            # The part of the edge that is near the row.
            if (
                max(start, start + length) < row - margin
                or min(start, start + length) > row + margin
            ):
                continue
            first, second = 0.0, 1.0
            if abs(length) > 1e-9:
                one, two = (row - margin - start) / length, (row + margin - start) / length
                first, second = max(0.0, min(one, two)), min(1.0, max(one, two))
            across = corners[other, v] - corners[corner, v]
            here, there = corners[corner, v] + first * across, corners[corner, v] + second * across
            begin, end = min(begin, here, there), max(end, here, there)
        if begin > end:
            continue
        node[u] = row
        for column in range(
            max(low[v], math.ceil(begin - margin)), min(high[v], math.floor(end + margin)) + 1
        ):
            node[v] = column
            bottom, top = low[up], high[up]
            if flat:
                height = corners[0, up] + slope_u * (row - corners[0, u])
                height += slope_v * (column - corners[0, v])
                bottom = max(bottom, math.ceil(height - thick))
                top = min(top, math.floor(height + thick))
            for k in range(bottom, top + 1):
                node[up] = k
                _improve(triangles, face, node[0], node[1], node[2], squares, nearest)


# -------------------------------------------------------------------------------------------- nodes


@njit(cache=True, nogil=True)
def _spread(triangles, spacing, limit, squares, nearest):
    """Hand nearest triangles on from node to node, up to a squared distance of `limit`."""
    side = len(squares)
    flat, found = squares.ravel(), nearest.ravel()
    waiting = np.zeros(len(flat), np.bool_)
    # As many entries as there are nodes, of which only the pages that are used take memory.
    front, back = np.empty(len(flat), np.int32), np.empty(len(flat), np.int32)
    count = 0
    for node in range(len(flat)):
        if found[node] >= 0:
            front[count] = node
            count += 1
    while count:
        later = 0
        for at in range(count):
            node = front[at]
            waiting[node] = False
            x, y, z = node // (side * side), node // side % side, node % side
            face = found[node]
            root = math.sqrt(flat[node])
            for way in range(len(_WAYS)):
                i, j, k = x + _WAYS[way, 0], y + _WAYS[way, 1], z + _WAYS[way, 2]
                if min(i, j, k) < 0 or max(i, j, k) >= side:
                    continue
                other = (i * side + j) * side + k
                # It is nearer to the same triangle by the way to it at most.
                least = max(root - spacing * _LENGTHS[way], 0.0)
                if found[other] == face or flat[other] <= least * least:
                    continue
                square = np.float32(
                    _square(
                        triangles, face, float(spacing * i), float(spacing * j), float(spacing * k)
                    )
                )
                if square < flat[other] and square <= limit:
                    flat[other] = square
                    found[other] = face
                    if not waiting[other]:
                        waiting[other] = True
                        back[later] = other
                        later += 1
        front, back, count = back, front, later


@njit(cache=True, nogil=True)
def _roots(squares, far):
    out = np.empty_like(squares)
    flat, roots = squares.ravel(), out.ravel()
    for i in range(len(flat)):
        roots[i] = np.sqrt(flat[i]) if 0 <= flat[i] < np.inf else far
    return out


@njit(cache=True, nogil=True)
def _joined(squares, coarse):
    """The roots where squares are known, else the coarser level, interpolated."""
    side = len(squares)
    out = np.empty_like(squares)
    for x in range(side):
        for y in range(side):
            a, b = coarse[x >> 1, y >> 1], coarse[(x + 1) >> 1, y >> 1]
            c, d = coarse[x >> 1, (y + 1) >> 1], coarse[(x + 1) >> 1, (y + 1) >> 1]
            before = a[0] + b[0] + c[0] + d[0]
            for z in range(side):
                here = z >> 1
                if z & 1:
                    after = a[here + 1] + b[here + 1] + c[here + 1] + d[here + 1]
                    value = (before + after) * np.float32(0.125)
                    before = after
                else:
                    value = before * np.float32(0.25)
                square = squares[x, y, z]
                if 0 <= square < np.inf:
                    value = np.sqrt(square)
                out[x, y, z] = value
    return out
