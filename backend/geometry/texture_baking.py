"""Textures of dense meshes: a flat place for each triangle, and colours baked into it.

A mesh of marching cubes has hundreds of thousands of faces of one size. Its charts are the patches
that look the same of six ways, projected along it: nothing is stretched by more than sqrt(3), and
it takes a second where unwrapping with least distortion takes minutes (xatlas: 94 s for 124,000
faces). Where a patch covers itself, what lies lower becomes a chart of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .threads import in_chunks

_WAYS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
_STEEPEST = 0.35  # cosine up to which a face may follow its neighbours' way
_SMOOTHINGS = 8
_PEELS = 6
BYTES_PER_TEXEL = 48
"""What `bake` takes, about, of memory."""
_TEXELS_AT_ONCE = 1 << 20
_TEXELS_OF_PADDING = 256  # one texel of padding for this many along the side

Paint = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""points (N, 3), normals (N, 3) -> colours (N, 3) 0..255, and how well each is known (N,)."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """uv: (F, 3, 2) float64 in texels, column and row from the upper left corner of the picture;
    chart: (F,) int32; size: texels along a side; texel: their side in the units of the mesh."""

    uv: np.ndarray
    chart: np.ndarray
    size: int
    texel: float

    def corners(self) -> np.ndarray:
        """(3 F, 2) float32 from (0, 0) at the lower left to (1, 1), as a MeshResult holds it."""
        flat = self.uv.reshape(-1, 2) / self.size
        return np.stack([flat[:, 0], 1 - flat[:, 1]], axis=1).astype(np.float32)


def unwrap(vertices: np.ndarray, faces: np.ndarray, size: int) -> Atlas:
    """A place in a picture of size x size texels for each face; no two overlap.

    vertices (V, 3) float, faces (F, 3) integer, at least one, of a mesh whose faces are small
    beside the whole.
    """
    corners = np.asarray(vertices, np.float64)[faces]
    way, neighbours = _ways(corners, faces)
    flat = _flattened(corners, way)
    chart = _connected(way, neighbours)
    for _ in range(_PEELS):
        found = _packed(flat, chart, size)
        below = np.zeros(len(faces), np.bool_)
        _find_doubled(found.uv, flat, np.full((size, size), -np.inf), below)
        if not below.any():
            break
        chart = _connected(2 * chart + below, neighbours)
    return found


def bake(
    vertices: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray,
    colors: np.ndarray,
    atlas: Atlas,
    paint: Paint,
) -> np.ndarray:
    """(size, size, 3) uint8: what `paint` says of the place of each texel.

    normals (V, 3); colors (V, 3 or 4) uint8 are taken where `paint` does not know. Around charts
    the colours go on for as far as the padding between them; elsewhere is their mean.
    """
    face, share = _covered(atlas)
    picture = np.zeros((atlas.size, atlas.size, 3), np.float32)
    seen = np.zeros((atlas.size, atlas.size), np.float32)
    step = max(1, _TEXELS_AT_ONCE // atlas.size)
    bands = [slice(begin, begin + step) for begin in range(0, atlas.size, step)]

    def mixed(values: np.ndarray, number: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.einsum("nk,nkc->nc", weights, values[faces[number]].astype(np.float64))

    for band in bands:
        number, weights = _texels(face[band], share[band])
        ways = mixed(normals, number, weights)
        ways /= np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1e-30)
        painted = paint(mixed(vertices, number, weights), ways)
        picture[band][face[band] >= 0], seen[band][face[band] >= 0] = painted
    # Where little is seen, fade over to what the vertices around agree on.
    usual_seen = float(np.median(seen[seen > 0])) if seen.any() else 1.0
    total = np.zeros(3)
    for band in bands:
        covered = face[band] >= 0
        usual = mixed(colors[:, :3], *_texels(face[band], share[band]))
        sure = seen[band][covered] / np.maximum(seen[band][covered] + 0.02 * usual_seen, 1e-30)
        values = usual + (picture[band][covered] - usual) * sure[:, None]
        total += values.sum(axis=0)
        picture[band][covered] = np.clip(values, 0, 255)
    filled = face >= 0
    for _ in range(_padding(atlas.size)):
        filled = _padded(picture, filled)
    picture[~filled] = total / max(int((face >= 0).sum()), 1)
    return np.rint(picture).astype(np.uint8)


def _texels(face: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of texels that a face covers, in order: its number (N,), and the shares of its corners."""
    covered = face >= 0
    return face[covered], share[covered].astype(np.float64)


def size_for(vertices: np.ndarray, faces: np.ndarray, pixel: float) -> int:
    """Texels along the side, a power of two from 256 to 4096, at which a texel is no larger than
    `pixel`, the size of a pixel on the surface."""
    area = _areas(np.asarray(vertices, np.float64)[faces]).sum()
    wanted = math.sqrt(area / 0.5) / max(pixel, 1e-12)  # charts fill about half of the picture
    return int(2 ** min(max(math.ceil(math.log2(max(wanted, 1))), 8), 12))


# ------------------------------------------------------------------------------------------ charts


def _areas(corners: np.ndarray) -> np.ndarray:
    """(F,) of triangles (F, 3, 2 or 3)."""
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    if corners.shape[2] == 2:
        return np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]) / 2
    return np.linalg.norm(np.cross(one, two), axis=1) / 2


def _ways(corners: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The way (F,) int32 that each face is looked at, and its neighbours (F, 3) int32, -1 none."""
    doubled = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(doubled, axis=1, keepdims=True)
    facing = (doubled / np.maximum(length, 1e-30)) @ _WAYS.T
    neighbours = face_neighbours(faces)
    way = facing.argmax(axis=1).astype(np.int32)
    for _ in range(_SMOOTHINGS):
        _follow_neighbours(facing, neighbours, way)
    return way, neighbours


def face_neighbours(faces: np.ndarray) -> np.ndarray:
    """(F, 3) int32: the face across the edge from each corner to the next, -1 where there is none
    or more than one."""
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2).astype(np.int64)
    key = ends.min(axis=1) * (int(faces.max(initial=0)) + 1) + ends.max(axis=1)
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    new = np.diff(ordered, prepend=-1) != 0
    starts = np.flatnonzero(new)
    lengths = np.diff(np.append(starts, len(key)))
    pairs = starts[lengths == 2]
    out = np.full(len(key), -1, np.int32)
    out[order[pairs]] = order[pairs + 1] // 3
    out[order[pairs + 1]] = order[pairs] // 3
    return out.reshape(-1, 3)


@njit(cache=True, nogil=True)
def _follow_neighbours(facing, neighbours, way):
    """Faces take the way that two of their three neighbours have, unless they are too steep for
    it. In place and in order, which settles within a few rounds."""
    for face in range(len(way)):
        for first in range(3):
            one, two = neighbours[face, first], neighbours[face, (first + 1) % 3]
            if one < 0 or two < 0 or way[one] != way[two]:
                continue
            if facing[face, way[one]] > _STEEPEST:
                way[face] = way[one]


def _flattened(corners: np.ndarray, way: np.ndarray) -> np.ndarray:
    """(F, 3, 3): two coordinates in the plane, such that faces keep their turn, and the height."""
    axis = way // 2
    numbers = np.arange(len(corners))
    one = corners[numbers, :, (axis + 1) % 3]
    two = corners[numbers, :, (axis + 2) % 3]
    turned = (way % 2 == 1)[:, None]
    height = corners[numbers, :, axis] * np.where(turned, -1, 1)
    return np.stack([np.where(turned, -one, one), two, height], axis=2)


def _connected(label: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """(F,) int32: connected patches of one label."""
    face = np.repeat(np.arange(len(label)), 3)
    other = neighbours.ravel()
    same = (other >= 0) & (label[face] == label[other])
    graph = coo_matrix(
        (np.ones(int(same.sum()), bool), (face[same], other[same])), (len(label),) * 2
    )
    return connected_components(graph, directed=False)[1].astype(np.int32)


@njit(cache=True, nogil=True)
def _find_doubled(uv, flat, tops, below):
    """Mark faces that cover the middle of a texel which a higher one covers, too. tops: (S, S)."""
    size = len(tops)
    for turn in range(2):
        for face in range(len(uv)):
            mx = (uv[face, 0, 0] + uv[face, 1, 0] + uv[face, 2, 0]) / 3
            my = (uv[face, 0, 1] + uv[face, 1, 1] + uv[face, 2, 1]) / 3
            # A little smaller, so that an edge is no overlap.
            x0, y0 = _toward(uv[face, 0, 0], mx), _toward(uv[face, 0, 1], my)
            x1, y1 = _toward(uv[face, 1, 0], mx), _toward(uv[face, 1, 1], my)
            x2, y2 = _toward(uv[face, 2, 0], mx), _toward(uv[face, 2, 1], my)
            area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
            if area == 0:
                continue
            height = (flat[face, 0, 2] + flat[face, 1, 2] + flat[face, 2, 2]) / 3
            for row in range(
                max(0, math.ceil(min(y0, y1, y2))), min(size - 1, math.floor(max(y0, y1, y2))) + 1
            ):
                for column in range(
                    max(0, math.ceil(min(x0, x1, x2))),
                    min(size - 1, math.floor(max(x0, x1, x2))) + 1,
                ):
                    b1 = ((column - x0) * (y2 - y0) - (row - y0) * (x2 - x0)) / area
                    b2 = ((row - y0) * (x1 - x0) - (column - x0) * (y1 - y0)) / area
                    if b1 < 0 or b2 < 0 or b1 + b2 > 1:
                        continue
                    if turn == 0:
                        tops[row, column] = max(tops[row, column], height)
                    elif tops[row, column] > height:
                        below[face] = True


@njit(cache=True, nogil=True)
def _toward(corner, middle):
    """The place on the grid of texel middles, a hundredth of the way to the middle of the face."""
    return corner + (middle - corner) * 0.01 - 0.5


def _boxes(flat: np.ndarray, chart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least coordinates (C, 2) and extents (C, 2) of charts."""
    count = int(chart.max()) + 1
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, chart, flat.min(axis=1))
    np.maximum.at(high, chart, flat.max(axis=1))
    return low, high - low


# ----------------------------------------------------------------------------------------- packing


def _padding(size: int) -> int:
    """Texels around each chart."""
    return max(2, size // _TEXELS_OF_PADDING)


def _packed(flat: np.ndarray, chart: np.ndarray, size: int) -> Atlas:
    """All charts in the square at the largest scale that was found to fit."""
    low, wide = _boxes(flat[..., :2], chart)
    order = np.argsort(-wide.max(axis=1), kind="stable")
    padding = _padding(size)
    upright = wide[:, 0] > wide[:, 1]  # stand charts up, so that those of one height are together
    sides = np.where(upright[:, None], wide[:, ::-1], wide)
    least, most = (
        0.0,
        size / max(math.sqrt(float(wide.prod(axis=1).sum())), float(wide.max()), 1e-30),
    )
    found = None
    for _ in range(12):
        scale = (least + most) / 2
        texels = np.ceil(sides * scale).astype(np.int64) + 1 + 2 * padding
        places = _place_charts(texels[order], size)
        if len(places):
            least, found = scale, places
        else:
            most = scale
    while found is None:  # thousands of crumbs: less padding than wished for
        most /= 2
        padding = max(padding // 2, 0)
        texels = np.ceil(sides * most).astype(np.int64) + 1 + 2 * padding
        places = _place_charts(texels[order], size)
        if len(places) or most * wide.max() < 1e-3:
            least, found = most, places if len(places) else np.zeros((len(order), 2), np.int64)
    corner = np.empty((len(order), 2))
    corner[order] = found
    uv = (flat[..., :2] - low[chart][:, None]) * least
    uv = np.where(upright[chart][:, None, None], uv[..., ::-1], uv)
    uv = uv + corner[chart][:, None] + padding + 0.5
    return Atlas(uv, chart, size, 1 / least)


@njit(cache=True, nogil=True)
def _place_charts(texels, size):
    """Places (C, 2) of boxes in order, each as low as it can lie on those before; none when they do
    not fit."""
    skyline = np.zeros(size, np.int64)
    places = np.empty((len(texels), 2), np.int64)
    waiting = np.empty(size, np.int64)
    for chart in range(len(texels)):
        width, height = texels[chart, 0], texels[chart, 1]
        if width > size:
            return places[:0]
        best, at = size + 1, 0
        head = tail = 0
        # The highest of each window of `width` columns: a queue of falling heights.
        for column in range(size):
            while tail > head and skyline[waiting[tail - 1]] <= skyline[column]:
                tail -= 1
            waiting[tail] = column
            tail += 1
            first = column - width + 1
            if waiting[head] < first:
                head += 1
            if first >= 0 and skyline[waiting[head]] < best:
                best, at = skyline[waiting[head]], first
        if best + height > size:
            return places[:0]
        places[chart, 0], places[chart, 1] = at, best
        for column in range(at, at + width):
            skyline[column] = best + height
    return places


# ------------------------------------------------------------------------------------------ baking


def _covered(atlas: Atlas) -> tuple[np.ndarray, np.ndarray]:
    """The face (S, S) int32 at the middle of each texel, -1 none, and how much each of its corners
    counts there (S, S, 3) float32."""
    face = np.full((atlas.size, atlas.size), -1, np.int32)
    share = np.zeros((atlas.size, atlas.size, 3), np.float32)
    in_chunks(_cover, len(atlas.uv), atlas.uv, face, share)
    return face, share


@njit(cache=True, nogil=True)
def _cover(begin, end, uv, face, share):
    size = len(face)
    for number in range(begin, end):
        x0, y0 = uv[number, 0, 0] - 0.5, uv[number, 0, 1] - 0.5
        x1, y1 = uv[number, 1, 0] - 0.5, uv[number, 1, 1] - 0.5
        x2, y2 = uv[number, 2, 0] - 0.5, uv[number, 2, 1] - 0.5
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0:
            continue
        for row in range(
            max(0, math.ceil(min(y0, y1, y2))), min(size - 1, math.floor(max(y0, y1, y2))) + 1
        ):
            for column in range(
                max(0, math.ceil(min(x0, x1, x2))), min(size - 1, math.floor(max(x0, x1, x2))) + 1
            ):
                u, v = column - x0, row - y0
                b1 = (u * (y2 - y0) - v * (x2 - x0)) / area
                b2 = (v * (x1 - x0) - u * (y1 - y0)) / area
                if b1 < 0 or b2 < 0 or b1 + b2 > 1:
                    continue
                face[row, column] = number
                share[row, column, 0] = 1 - b1 - b2
                share[row, column, 1] = b1
                share[row, column, 2] = b2


@njit(cache=True, nogil=True)
def _padded(picture, filled):
    """Give each empty texel beside full ones their mean; returns what is full then."""
    size = len(picture)
    out = filled.copy()
    for row in range(size):
        for column in range(size):
            if filled[row, column]:
                continue
            count = 0
            red = green = blue = 0.0
            for i in range(max(row - 1, 0), min(row + 2, size)):
                for j in range(max(column - 1, 0), min(column + 2, size)):
                    if filled[i, j]:
                        count += 1
                        red += picture[i, j, 0]
                        green += picture[i, j, 1]
                        blue += picture[i, j, 2]
            if count:
                out[row, column] = True
                picture[row, column, 0] = red / count
                picture[row, column, 1] = green / count
                picture[row, column, 2] = blue / count
    return out
