"""Rays against triangles: a tree of boxes per model, models placed any number of times."""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

_LEAF = 4
_STACK = 48
_NEAR = np.float32(1e-4)


class Tree(NamedTuple):
    """corners: (T, 3, 3) float32, a corner and the two edges from it; faces: (T,) int32, which
    face each was. boxes: (N, 6) float32, low and high; links: (N, 2) int32: (first child, -1), the
    second follows it, or (first triangle, how many)."""

    corners: np.ndarray
    faces: np.ndarray
    boxes: np.ndarray
    links: np.ndarray


class Placed(NamedTuple):
    """Models where they stand: trees one after the other, and per instance:

    roots: (I,) int32 its first node, starts: (I,) int32 its first triangle; turns: (I, 2) float32
    cosine and sine about z; places: (I, 3) float32; scales: (I,) float32; bounds: (I, 6) float32 in
    the room; shades: (I,) bool, whether it keeps light off.
    """

    corners: np.ndarray
    boxes: np.ndarray
    links: np.ndarray
    roots: np.ndarray
    starts: np.ndarray
    turns: np.ndarray
    places: np.ndarray
    scales: np.ndarray
    bounds: np.ndarray
    shades: np.ndarray


def tree_of(vertices: np.ndarray, faces: np.ndarray) -> Tree:
    """vertices (V, 3) float32, faces (F, 3) integer, at least one face."""
    corners = vertices[faces].astype(np.float32)
    low, high = corners.min(axis=1), corners.max(axis=1)
    order, boxes, links = _grow(low, high, (low + high) / 2)
    corners[:, 1:] -= corners[:, :1]
    return Tree(corners[order], order.astype(np.int32), boxes, links)


@numba.njit(cache=True, nogil=True)
def _grow(low, high, centres):
    count = len(low)
    order = np.arange(count)
    boxes = np.empty((2 * count, 6), np.float32)
    links = np.empty((2 * count, 2), np.int32)
    begins = np.empty(2 * count, np.int64)
    ends = np.empty(2 * count, np.int64)
    begins[0], ends[0] = 0, count
    nodes, done = 1, 0
    while done < nodes:
        begin, end = begins[done], ends[done]
        mine = order[begin:end]
        for axis in range(3):
            boxes[done, axis] = low[mine, axis].min()
            boxes[done, 3 + axis] = high[mine, axis].max()
        if end - begin <= _LEAF:
            links[done, 0], links[done, 1] = begin, end - begin
        else:
            widest, width = 0, -1.0
            for axis in range(3):
                values = centres[mine, axis]
                extent = values.max() - values.min()
                if extent > width:
                    widest, width = axis, extent
            order[begin:end] = mine[np.argsort(centres[mine, widest])]
            middle = (begin + end) // 2
            links[done, 0], links[done, 1] = nodes, -1
            begins[nodes], ends[nodes] = begin, middle
            begins[nodes + 1], ends[nodes + 1] = middle, end
            nodes += 2
        done += 1
    return order, boxes[:nodes].copy(), links[:nodes].copy()


@numba.njit(cache=True, nogil=True, inline="always")
def _enters(boxes, row, ox, oy, oz, ix, iy, iz, most):
    """Where a ray enters a box; 1e30 where it does not before `most`."""
    a, b = (boxes[row, 0] - ox) * ix, (boxes[row, 3] - ox) * ix
    begin, end = min(a, b), max(a, b)
    a, b = (boxes[row, 1] - oy) * iy, (boxes[row, 4] - oy) * iy
    begin, end = max(begin, min(a, b)), min(end, max(a, b))
    a, b = (boxes[row, 2] - oz) * iz, (boxes[row, 5] - oz) * iz
    begin, end = max(begin, min(a, b)), min(end, max(a, b))
    if begin <= end and end > 0 and begin < most:
        return begin
    return np.float32(1e30)


@numba.njit(cache=True, nogil=True, inline="always")
def _inverse(value):
    """1 / value, and something huge for zero."""
    if abs(value) < np.float32(1e-9):
        return np.float32(1e9)
    return np.float32(1) / value


@numba.njit(cache=True, nogil=True)
def cast(placed, stack, ox, oy, oz, dx, dy, dz, most, any_hit):
    """The first triangle along a ray (float32 each) nearer than `most`.

    stack: (48,) int32 to work in. any_hit: stop at any triangle of a model that shades. Returns
    distance, instance (-1: none), triangle.
    """
    best, instance, triangle = np.float32(most), -1, -1
    ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
    for number in range(len(placed.roots)):
        if any_hit and not placed.shades[number]:
            continue
        if _enters(placed.bounds, number, ox, oy, oz, ix, iy, iz, best) > 1e29:
            continue
        c, s = placed.turns[number, 0], placed.turns[number, 1]
        scale = placed.scales[number]
        x, y = ox - placed.places[number, 0], oy - placed.places[number, 1]
        px, py = (c * x + s * y) / scale, (c * y - s * x) / scale
        pz = (oz - placed.places[number, 2]) / scale
        # Not of length one: distances along the ray stay those of the room.
        qx, qy, qz = (c * dx + s * dy) / scale, (c * dy - s * dx) / scale, dz / scale
        jx, jy, jz = _inverse(qx), _inverse(qy), _inverse(qz)
        root, start = placed.roots[number], placed.starts[number]
        stack[0] = root
        depth = 1
        while depth > 0:
            depth -= 1
            node = stack[depth]
            if _enters(placed.boxes, node, px, py, pz, jx, jy, jz, best) > 1e29:
                continue
            first, many = placed.links[node, 0], placed.links[node, 1]
            if many < 0:
                one, two = root + first, root + first + 1
                near = _enters(placed.boxes, one, px, py, pz, jx, jy, jz, best)
                far = _enters(placed.boxes, two, px, py, pz, jx, jy, jz, best)
                if near > far:
                    near, far, one, two = far, near, two, one
                if far < 1e29 and depth < _STACK - 2:
                    stack[depth] = two
                    depth += 1
                if near < 1e29:
                    stack[depth] = one
                    depth += 1
                continue
            for row in range(start + first, start + first + many):
                t = _meets(placed.corners, row, px, py, pz, qx, qy, qz)
                if _NEAR < t < best:
                    best, instance, triangle = t, number, row
                    if any_hit:
                        return best, instance, triangle
    return best, instance, triangle


@numba.njit(cache=True, nogil=True, inline="always")
def _meets(corners, row, px, py, pz, qx, qy, qz):
    """Distance to a triangle, either side of it; -1 where the ray does not meet it."""
    e1x, e1y, e1z = corners[row, 1, 0], corners[row, 1, 1], corners[row, 1, 2]
    e2x, e2y, e2z = corners[row, 2, 0], corners[row, 2, 1], corners[row, 2, 2]
    hx, hy, hz = qy * e2z - qz * e2y, qz * e2x - qx * e2z, qx * e2y - qy * e2x
    volume = e1x * hx + e1y * hy + e1z * hz
    if volume == 0:
        return np.float32(-1)
    f = np.float32(1) / volume
    sx, sy, sz = px - corners[row, 0, 0], py - corners[row, 0, 1], pz - corners[row, 0, 2]
    u = f * (sx * hx + sy * hy + sz * hz)
    if u < 0 or u > 1:
        return np.float32(-1)
    gx, gy, gz = sy * e1z - sz * e1y, sz * e1x - sx * e1z, sx * e1y - sy * e1x
    v = f * (qx * gx + qy * gy + qz * gz)
    if v < 0 or u + v > 1:
        return np.float32(-1)
    return f * (e2x * gx + e2y * gy + e2z * gz)


@numba.njit(cache=True, nogil=True)
def normal_of(placed, instance, row):
    """The normal of a placed triangle in the room, of length one; (0, 0, 1) if it has no area."""
    e = placed.corners[row]
    x = e[1, 1] * e[2, 2] - e[1, 2] * e[2, 1]
    y = e[1, 2] * e[2, 0] - e[1, 0] * e[2, 2]
    z = e[1, 0] * e[2, 1] - e[1, 1] * e[2, 0]
    length = math.sqrt(float(x * x + y * y + z * z))
    if length == 0:
        return 0.0, 0.0, 1.0
    c, s = float(placed.turns[instance, 0]), float(placed.turns[instance, 1])
    return (c * x - s * y) / length, (s * x + c * y) / length, z / length
