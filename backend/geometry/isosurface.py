"""Marching cubes: the surface where a sampled field crosses a level, as a closed triangle mesh.

After Lorensen and Cline 1987, with ambiguous faces resolved by the asymptotic decider (Nielson and
Hamann 1991). Both cells at a face take the same decision, so the mesh is a 2-manifold that is
closed wherever it does not leave the grid. The tables are generated below, not copied.

Signs are packed 64 to a word along z. Words tell at once which cells hold a part of the surface,
how many vertices come before an edge, and so where every vertex and face goes, whatever the number
of threads.

Corners of a cell are numbered 4 dx + 2 dy + dz. "Inside" is below the level.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .threads import in_chunks

# Vertices keep this far (in cells) from the nodes, so that no two of them coincide.
MARGIN = 5e-5

# ------------------------------------------------------------------------------------------ tables

Edge = tuple[int, int]  # its two corners, the lower first
CENTRE = 12  # in the place of an edge: the vertex inside the cell that a few cases need


def _bit(corner: int, axis: int) -> int:
    return corner >> (2 - axis) & 1


def _edges() -> list[Edge]:
    """Numbered 4 axis + 2 b + c: along `axis`, at (b, c) on the two other axes in order."""
    edges = []
    for axis, b, c in product(range(3), range(2), range(2)):
        place = [b, c]
        place.insert(axis, 0)
        low = 4 * place[0] + 2 * place[1] + place[2]
        edges.append((low, low | 4 >> axis))
    return edges


def _face_cycles() -> list[tuple[int, int, int, int]]:
    """The corners of each face, counter-clockwise from outside. Numbered 2 axis + side."""
    cycles = []
    for axis, side in product(range(3), range(2)):
        u, v = 4 >> (axis + 1) % 3, 4 >> (axis + 2) % 3
        base = (4 >> axis) * side
        cycle = (base, base | u, base | u | v, base | v)
        cycles.append(cycle if side else (cycle[0], cycle[3], cycle[2], cycle[1]))
    return cycles


_EDGES = _edges()
_CYCLES = _face_cycles()
_EDGE_NUMBER = {frozenset(edge): number for number, edge in enumerate(_EDGES)}


def _ambiguous(case: int, face: int) -> bool:
    inside = [case >> corner & 1 for corner in _CYCLES[face]]
    return inside in ([0, 1, 0, 1], [1, 0, 1, 0])


def _successors(case: int, face: int, *, connected: bool) -> Iterator[tuple[int, int]]:
    """The pieces of contour on a face, from crossed edge to crossed edge.

    Walking around the face, each crossing into the inside is joined to the one out of it that comes
    next, or, where the insides are `connected` on an ambiguous face, to the one that came last.
    """
    cycle = _CYCLES[face]
    crossings = []
    for here, there in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        entering = (case >> there & 1) - (case >> here & 1)
        if entering:
            crossings.append((_EDGE_NUMBER[frozenset((here, there))], entering))
    for at, (edge, entering) in enumerate(crossings):
        if entering == 1:
            step = -1 if connected else 1
            yield edge, crossings[(at + step) % len(crossings)][0]


def _loops(case: int, connected: dict[int, bool]) -> list[list[int]]:
    """The closed contours on the cell's surface, as lists of crossed edges."""
    following: dict[int, int] = {}
    for face in range(6):
        following.update(_successors(case, face, connected=connected.get(face, False)))
    loops = []
    while following:
        start, edge = following.popitem()
        loop = [start]
        while edge != start:
            loop.append(edge)
            edge = following.pop(edge)
        first = loop.index(min(loop))
        loops.append(loop[first:] + loop[:first])
    return sorted(loops)


def _faces_shared(a: int, b: int) -> list[int]:
    corners = {*_EDGES[a], *_EDGES[b]}
    return [face for face, cycle in enumerate(_CYCLES) if corners <= set(cycle)]


def _triangulated(loop: list[int]) -> list[tuple[int, int, int]]:
    """Triangles of a loop with the shortest chords, as few as possible in a face of the cell.

    A chord in a face could coincide with one of the cell on the other side, and four triangles
    would then meet there: so of the two cells only the one with the lower coordinates has any.
    Where even that cannot be (12 loops of nine edges), a fan around a vertex inside the cell.
    """
    middles = np.array([[_bit(a, axis) + _bit(b, axis) for axis in range(3)] for a, b in _EDGES])

    def cost(i: int, j: int) -> float:
        if j - i in (1, len(loop) - 1):
            return 0.0
        a, b = loop[i], loop[j]
        in_face = sum(1e3 if face % 2 else 1e6 for face in _faces_shared(a, b))
        return in_face + float(((middles[a] - middles[b]) ** 2).sum())

    best: dict[Edge, tuple[float, list[tuple[int, int, int]]]] = {}
    for span in range(1, len(loop)):
        for i in range(len(loop) - span):
            j = i + span
            options = [
                (
                    best[i, k][0] + best[k, j][0] + cost(i, j),
                    [*best[i, k][1], (loop[i], loop[k], loop[j]), *best[k, j][1]],
                )
                for k in range(i + 1, j)
            ]
            best[i, j] = min(options, default=(0.0, []))
    total, triangles = best[0, len(loop) - 1]
    if total >= 1e6:
        return [(a, b, CENTRE) for a, b in zip(loop, loop[1:] + loop[:1], strict=True)]
    return triangles


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(ambiguous faces of a case, its first row, triangles of a row, edges of a row)."""
    ambiguous = np.zeros(256, np.uint8)
    first = np.zeros(256, np.int32)
    rows: list[list[tuple[int, int, int]]] = []
    for case in range(256):
        faces = [face for face in range(6) if _ambiguous(case, face)]
        ambiguous[case] = sum(1 << face for face in faces)
        first[case] = len(rows)
        for number in range(2 ** len(faces)):
            connected = {face: bool(number >> at & 1) for at, face in enumerate(faces)}
            loops = _loops(case, connected)
            rows.append([triangle for loop in loops for triangle in _triangulated(loop)])
    counts = np.array([len(row) for row in rows], np.uint8)
    corners = np.zeros((len(rows), int(counts.max()), 3), np.uint8)
    for number, row in enumerate(rows):
        corners[number, : len(row)] = np.reshape(row, (-1, 3))
    return ambiguous, first, counts, corners


AMBIGUOUS, FIRST_ROW, TRIANGLE_COUNT, TRIANGLES = _tables()
_HAS_CENTRE = (TRIANGLES == CENTRE).any(axis=(1, 2))
_FACE_CORNERS = np.array(_CYCLES, np.uint8)

# ------------------------------------------------------------------------------------- public part


def marching_cubes(
    field: np.ndarray, level: float = 0.0, *, closed: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The surface where `field` crosses `level`.

    field: (X, Y, Z) float, at least 2 nodes along each axis; a node that is not a number counts as
    outside. closed: also close the surface where the inside touches the border of the grid, right
    behind it, as if the field were positive there; otherwise it stays open there.
    Returns vertices (V, 3) float32 in index coordinates and faces (F, 3) int32, counter-clockwise
    seen from the side above the level. Both are the same for any number of threads.
    """
    field = np.ascontiguousarray(field, np.float32)
    if field.ndim != 3 or min(field.shape) < 2:
        raise ValueError(f"a field of shape {field.shape} has no cells")
    if closed and _touches_border(field, level):
        far = np.float32(np.finfo(np.float32).max / 4)
        vertices, faces = marching_cubes(np.pad(field, 1, constant_values=far), level)
        return vertices - np.float32(1), faces
    return _polygonise(field, np.float32(level))


def vertex_normals(field: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3) float32 at `vertices` (index coordinates): the gradient of `field`.

    They point to where the field grows. Where the gradient is zero the normal is zero.
    """
    field = np.ascontiguousarray(field, np.float32)
    vertices = np.ascontiguousarray(vertices, np.float32)
    normals = np.empty_like(vertices)
    if len(vertices):
        in_chunks(_gradients, len(vertices), field, vertices, normals)
    return normals


def _touches_border(field: np.ndarray, level: float) -> bool:
    sides = (face for axis in range(3) for face in (field.take(0, axis), field.take(-1, axis)))
    return any(bool((side < level).any()) for side in sides)


def _polygonise(field: np.ndarray, level: np.float32) -> tuple[np.ndarray, np.ndarray]:
    nx, ny, nz = field.shape
    signs = np.empty((nx, ny, (nz + 63) // 64), np.uint64)
    in_chunks(_pack_signs, nx, field, level, signs)
    counts = np.zeros((nx, ny, 5), np.int64)  # crossed edges along x, y, z; faces; centres
    in_chunks(_count, nx, field, level, signs, counts)
    faces_before = _running_total(counts[:, :, 3])
    vertices_before = _running_total(counts[:, :, :3].sum(axis=2))
    crossings = int(vertices_before[-1, -1] + counts[-1, -1, :3].sum())
    centres_before = _running_total(counts[:, :, 4]) + crossings
    total = int(centres_before[-1, -1] + counts[-1, -1, 4])
    if total > np.iinfo(np.int32).max:
        raise MemoryError(f"{total:,} vertices are more than a mesh can number")
    vertices = np.empty((total, 3), np.float32)
    faces = np.empty((int(faces_before[-1, -1] + counts[-1, -1, 3]), 3), np.int32)
    before = np.empty((*signs.shape, 3), np.int32)
    in_chunks(_place_vertices, nx, field, level, signs, counts, vertices_before, before, vertices)
    starts = np.stack([faces_before, centres_before], axis=2)
    in_chunks(_place_faces, nx - 1, field, level, signs, before, starts, vertices, faces)
    return vertices, faces


def _running_total(counts: np.ndarray) -> np.ndarray:
    """The sum of all entries before each, in C order."""
    totals = np.cumsum(counts)
    return (totals - counts.ravel()).reshape(counts.shape)


# ----------------------------------------------------------------------------------------- kernels

_COMPILE: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_ONE = np.uint64(1)
_NONE = np.uint64(0)
_TOP = np.uint64(63)
_LEAST, _MOST = MARGIN, 1 - MARGIN


@intrinsic
def _ones(_context, word=None):
    """How many bits of a word are set."""
    return types.int64(types.uint64), lambda _c, builder, _s, args: builder.ctpop(args[0])


@intrinsic
def _lowest(_context, word=None):
    """The position of the lowest set bit of a word that is not zero."""
    never_zero = ir.Constant(ir.IntType(1), 1)
    return types.int64(types.uint64), lambda _c, builder, _s, args: builder.cttz(
        args[0], never_zero
    )


@njit("u8(u8[:,:,::1], i8, i8, i8)", **_COMPILE)
def _above(signs, x, y, w):
    """The word of the nodes one further along z."""
    word = signs[x, y, w] >> _ONE
    if w + 1 < signs.shape[2]:
        word |= signs[x, y, w + 1] << _TOP
    return word


@njit("u8(i8, i8)", **_COMPILE)
def _cells_of_word(w, nz):
    """Bits of a word at which a cell begins: all but those from the last node on."""
    cells = nz - 1 - 64 * w
    if cells >= 64:
        return ~_NONE
    return (_ONE << np.uint64(max(cells, 0))) - _ONE


@njit("void(i8, i8, f4[:,:,::1], f4, u8[:,:,::1])", **_COMPILE)
def _pack_signs(begin, end, field, level, signs):
    nz = field.shape[2]
    for x in range(begin, end):
        for y in range(field.shape[1]):
            row = field[x, y]
            for w in range(signs.shape[2]):
                word = _NONE
                if 64 * w + 64 <= nz:
                    part = row[64 * w : 64 * w + 64]
                    for k in range(64):
                        word |= np.uint64(part[k] < level) << np.uint64(k)
                else:
                    for k in range(nz - 64 * w):
                        word |= np.uint64(row[64 * w + k] < level) << np.uint64(k)
                signs[x, y, w] = word


@njit("u8(u8[:,:,::1], i8, i8, i8, i8)", **_COMPILE)
def _active(signs, x, y, w, nz):
    """Bits of the cells of a word whose corners are not all on one side."""
    a, b = signs[x, y, w], signs[x, y + 1, w]
    c, d = signs[x + 1, y, w], signs[x + 1, y + 1, w]
    some, every = a | b | c | d, a & b & c & d
    if w + 1 < signs.shape[2]:
        if (some | signs[x, y, w + 1] | signs[x, y + 1, w + 1]) == _NONE and (
            signs[x + 1, y, w + 1] | signs[x + 1, y + 1, w + 1]
        ) == _NONE:
            return _NONE
    elif some == _NONE:
        return _NONE
    e, f = _above(signs, x, y, w), _above(signs, x, y + 1, w)
    g, h = _above(signs, x + 1, y, w), _above(signs, x + 1, y + 1, w)
    return (some | e | f | g | h) & ~(every & e & f & g & h) & _cells_of_word(w, nz)


@njit("i8(f4[:,:,::1], f4, i8, i8, i8)", **_COMPILE)
def _table_row(field, level, x, y, z):
    """The row of the tables that a cell needs."""
    case = 0
    for corner in range(8):
        if field[x + (corner >> 2), y + (corner >> 1 & 1), z + (corner & 1)] < level:
            case |= 1 << corner
    row = np.int64(FIRST_ROW[case])
    faces = AMBIGUOUS[case]
    if faces == 0:
        return row
    decision = 0
    for face in range(6):
        if faces >> face & 1:
            inside, outside = 1.0, 1.0
            for at in range(4):
                corner = _FACE_CORNERS[face, at]
                value = np.float64(
                    field[x + (corner >> 2), y + (corner >> 1 & 1), z + (corner & 1)]
                ) - np.float64(level)
                if value < 0:
                    inside *= value
                else:
                    outside *= value
            # The saddle of the bilinear interpolant is inside: the asymptotic decider.
            if inside > outside:
                row += 1 << decision
            decision += 1
    return row


@njit("void(i8, i8, f4[:,:,::1], f4, u8[:,:,::1], i8[:,:,::1])", **_COMPILE)
def _count(begin, end, field, level, signs, counts):
    nx, ny, nz = field.shape
    for x in range(begin, end):
        for y in range(ny):
            along_x = along_y = along_z = faces = centres = 0
            for w in range(signs.shape[2]):
                word = signs[x, y, w]
                cells = _cells_of_word(w, nz)
                along_z += _ones((word ^ _above(signs, x, y, w)) & cells)
                if x + 1 < nx:
                    along_x += _ones(word ^ signs[x + 1, y, w])
                if y + 1 < ny:
                    along_y += _ones(word ^ signs[x, y + 1, w])
                if x + 1 < nx and y + 1 < ny:
                    active = _active(signs, x, y, w, nz)
                    while active != _NONE:
                        row = _table_row(field, level, x, y, 64 * w + _lowest(active))
                        faces += TRIANGLE_COUNT[row]
                        centres += _HAS_CENTRE[row]
                        active &= active - _ONE
            counts[x, y, 0] = along_x
            counts[x, y, 1] = along_y
            counts[x, y, 2] = along_z
            counts[x, y, 3] = faces
            counts[x, y, 4] = centres


@njit("f4(f4, f4, f4)", **_COMPILE)
def _crossing(here, there, level):
    """Where between two nodes the level lies, in cells."""
    part = (np.float64(level) - here) / (np.float64(there) - here)
    if not part > _LEAST:  # also when it is not a number
        return np.float32(_LEAST)
    return np.float32(min(part, _MOST))


@njit(
    "void(i8, i8, f4[:,:,::1], f4, u8[:,:,::1], i8[:,:,::1], i8[:,::1], i4[:,:,:,::1], f4[:,::1])",
    **_COMPILE,
)
def _place_vertices(begin, end, field, level, signs, counts, vertices_before, before, vertices):
    """Vertices on the edges that leave a node upward, row by row, x then y then z edges."""
    nx, ny, nz = field.shape
    for x in range(begin, end):
        for y in range(ny):
            at = vertices_before[x, y]
            for axis in range(3):
                for w in range(signs.shape[2]):
                    before[x, y, w, axis] = at
                    word = signs[x, y, w]
                    if axis == 0:
                        word ^= signs[x + 1, y, w] if x + 1 < nx else word
                    elif axis == 1:
                        word ^= signs[x, y + 1, w] if y + 1 < ny else word
                    else:
                        word = (word ^ _above(signs, x, y, w)) & _cells_of_word(w, nz)
                    while word != _NONE:
                        z = 64 * w + _lowest(word)
                        word &= word - _ONE
                        here = field[x, y, z]
                        there = field[x + (axis == 0), y + (axis == 1), z + (axis == 2)]
                        vertices[at, 0] = x
                        vertices[at, 1] = y
                        vertices[at, 2] = z
                        vertices[at, axis] += _crossing(here, there, level)
                        at += 1


@njit("i8(u8[:,:,::1], i4[:,:,:,::1], i8, i8, i8, i8)", **_COMPILE)
def _vertex_on(signs, before, x, y, z, edge):
    """The number of the vertex on an edge of the cell at (x, y, z)."""
    axis, b, c = edge >> 2, edge >> 1 & 1, edge & 1
    if axis == 0:
        y, z = y + b, z + c
    elif axis == 1:
        x, z = x + b, z + c
    else:
        x, y = x + b, y + c
    w = z >> 6
    if axis == 0:
        word = signs[x, y, w] ^ signs[x + 1, y, w]
    elif axis == 1:
        word = signs[x, y, w] ^ signs[x, y + 1, w]
    else:
        word = signs[x, y, w] ^ _above(signs, x, y, w)
    below = (_ONE << np.uint64(z & 63)) - _ONE
    return before[x, y, w, axis] + _ones(word & below)


@njit("void(i4[:,::1], f4[:,::1], i8)", **_COMPILE)
def _place_centre(faces, vertices, centre):
    """The vertex in the middle of a fan: the mean of those around it, each once a first corner."""
    fan = 0
    vertices[centre] = 0
    for face in range(len(faces)):
        if faces[face, 2] == centre:
            vertices[centre] += vertices[faces[face, 0]]
            fan += 1
    vertices[centre] /= np.float32(fan)


@njit(
    "void(i8, i8, f4[:,:,::1], f4, u8[:,:,::1], i4[:,:,:,::1], i8[:,:,::1], f4[:,::1], i4[:,::1])",
    **_COMPILE,
)
def _place_faces(begin, end, field, level, signs, before, starts, vertices, faces):
    ny, nz = field.shape[1:]
    for x in range(begin, end):
        for y in range(ny - 1):
            at, centre = starts[x, y]
            for w in range(signs.shape[2]):
                active = _active(signs, x, y, w, nz)
                while active != _NONE:
                    z = 64 * w + _lowest(active)
                    active &= active - _ONE
                    row = _table_row(field, level, x, y, z)
                    count = TRIANGLE_COUNT[row]
                    for number in range(count):
                        for corner in range(3):
                            edge = np.int64(TRIANGLES[row, number, corner])
                            faces[at + number, corner] = (
                                centre
                                if edge == CENTRE
                                else _vertex_on(signs, before, x, y, z, edge)
                            )
                    if _HAS_CENTRE[row]:
                        _place_centre(faces[at : at + count], vertices, centre)
                        centre += 1
                    at += count


@njit("void(i8, i8, f4[:,:,::1], f4[:,::1], f4[:,::1])", **_COMPILE)
def _gradients(begin, end, field, vertices, normals):
    """Central differences at the eight nodes around a vertex, interpolated, of length one."""
    shape = field.shape
    for number in range(begin, end):
        total = np.zeros(3)
        place = vertices[number]
        for corner in range(8):
            weight = 1.0
            node = np.empty(3, np.int64)
            for axis in range(3):
                low = min(max(np.int64(np.floor(place[axis])), 0), shape[axis] - 2)
                part = place[axis] - low
                up = corner >> axis & 1
                weight *= part if up else 1 - part
                node[axis] = low + up
            if weight != 0:
                for axis in range(3):
                    low, high = node.copy(), node.copy()
                    low[axis] = max(node[axis] - 1, 0)
                    high[axis] = min(node[axis] + 1, shape[axis] - 1)
                    change = field[high[0], high[1], high[2]] - field[low[0], low[1], low[2]]
                    total[axis] += weight * change / (high[axis] - low[axis])
        length = np.sqrt((total**2).sum())
        for axis in range(3):
            normals[number, axis] = total[axis] / length if length > 0 else 0.0
