"""A point cloud of any size and place -> the points that the models see.

The models were trained on 25,000 points spread evenly over the surface. More points are thinned to
the subset that lies most evenly, so that a scan that is dense near the scanner weighs no part more
than another. Fewer are joined by points on the triangles between neighbours: repeated points would
add nothing to what the encoder pools (it would see the same gaps), and noise would thicken thin
parts.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..geometry.pointcloud import Neighbourhoods, areas, outliers, without_distant
from ..geometry.threads import in_chunks
from ..geometry.transforms import apply_to_points, compose, fit_box_to_cube, inverse
from ..protocol import turned_up

COUNT = 25_000

_SPARE = 5
"""Candidates per point that is wanted, among which the most even subset is looked for."""

_NEIGHBOURS = 24
_SAMPLE = 100_000
_GRID = 256
_ROUNDS = 6
_FEWEST_TO_JUDGE = 500
_MOST_LONELY = 0.03


def model_points(
    points: np.ndarray, up_axis: str = "z", seed: int = 0, count: int = COUNT
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) points of any frame -> (count, 3) float32 in the models' cube, and `to_source`.

    y up, centred on the bounding box, the longest side 1.8. to_source: (4, 4) float64, back into
    the frame of `points`. Of N >= count different points those returned are a subset; fewer are all
    among them. Lonely points far off are left out, and spoil no box. The same for any order of
    `points`; seed chooses among equally good subsets.
    """
    up = turned_up(up_axis)
    limits = _near_limits(points)
    to_cube = compose(_fit(_box(points, limits), inverse(up)), inverse(up))
    placed = np.empty((len(points), 3), np.float32)
    in_chunks(_place, len(points), points, to_cube, placed)
    if np.isfinite(limits).all():
        placed = placed[(np.abs(placed) <= 1).all(axis=1)]
    chosen = _candidates(placed, seed, _SPARE * count)
    near = Neighbourhoods.of(chosen, _NEIGHBOURS)
    lonely = outliers(near) if len(chosen) >= _FEWEST_TO_JUDGE else np.zeros(len(chosen), bool)
    if lonely.any() and lonely.mean() <= _MOST_LONELY:
        chosen = chosen[~lonely]
        near = Neighbourhoods.of(chosen, _NEIGHBOURS)
    # Of each cell only one point was a candidate: the others reach up to a cell further.
    margin = 2 / _GRID if len(placed) > _SPARE * count else 0
    reach = np.stack([chosen.min(axis=0) - margin, chosen.max(axis=0) + margin], dtype=np.float64)
    refit = _fit(_box(placed, reach), np.eye(4))
    chosen = _thinned(chosen, near, count) if len(chosen) > count else chosen
    chosen = _densified(chosen, near, count, seed) if len(chosen) < count else chosen
    return apply_to_points(refit, chosen), inverse(compose(refit, to_cube))


def _near_limits(points: np.ndarray) -> np.ndarray:
    """Corners (2, 3) of a box that leaves out a few points far away; without end where there are
    none."""
    sample = _different(points, _hashes(points, 0), _SAMPLE)
    kept = without_distant(sample) if len(sample) > _FEWEST_TO_JUDGE else None
    if kept is None:
        return np.array([[-np.inf], [np.inf]]) * np.ones(3)
    low, high = sample[kept].min(axis=0), sample[kept].max(axis=0)
    margin = 0.05 * (high - low).max()
    return np.stack([low - margin, high + margin]).astype(np.float64)


def _fit(box: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """The similarity that brings the turned box, (2, 3) corners, into the cube."""
    turned = box @ turn[:3, :3].T
    return fit_box_to_cube(turned.min(axis=0), turned.max(axis=0))


def _box(points: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The corners (2, 3) float64 of the box around those of the points that lie in `limits`."""
    parts = np.stack(in_chunks(_box_of, len(points), points, limits))
    return np.stack([parts[:, 0].min(axis=0), parts[:, 1].max(axis=0)])


@njit(cache=True, nogil=True)
def _place(begin, end, points, transform, out):
    """`transforms.apply_to_points`, ten times as fast for millions of points."""
    for i in range(begin, end):
        x, y, z = float(points[i, 0]), float(points[i, 1]), float(points[i, 2])
        for row in range(3):
            a, b, c, d = transform[row]
            out[i, row] = a * x + b * y + c * z + d


@njit(cache=True, nogil=True)
def _box_of(begin, end, points, limits):
    box = np.empty((2, 3))
    box[0], box[1] = np.inf, -np.inf
    for i in range(begin, end):
        inside = True
        for axis in range(3):
            inside &= limits[0, axis] <= points[i, axis] <= limits[1, axis]
        if inside:
            for axis in range(3):
                box[0, axis] = min(box[0, axis], points[i, axis])
                box[1, axis] = max(box[1, axis], points[i, axis])
    return box


# --------------------------------------------------------------------------------------- candidates


def _candidates(placed: np.ndarray, seed: int, most: int) -> np.ndarray:
    """At most `most` different points (M, 3), from all over, in an order that tells nothing.

    Of every cell of a grid the point of the least hash; where that gives few, further ones by
    other hashes.
    """
    if len(placed) > most:
        found: np.ndarray = np.zeros(0, np.int64)
        for turn in range(_ROUNDS):
            found = np.union1d(found, _one_per_cell(placed, seed * _ROUNDS + turn))
            if 2 * len(found) > most:
                break
        placed = placed[found]
    return _different(placed, _hashes(placed, seed), most)


def _different(points: np.ndarray, hashes: np.ndarray, most: int) -> np.ndarray:
    """Points (M, 3) without repetition, at most about `most`, in the order of their hashes."""
    if len(points) > most:
        few = hashes <= np.uint64(int(2**64 * (most / len(points))))
        points, hashes = points[few], hashes[few]
    points = points[np.lexsort((*points.T, hashes))]
    new = np.concatenate([[True], (points[1:] != points[:-1]).any(axis=1)])
    return points[new]


def _one_per_cell(placed: np.ndarray, salt: int) -> np.ndarray:
    grid = np.full(_GRID**3, np.uint64(2**64 - 1), np.uint64)
    _keep_least(placed, np.ascontiguousarray(placed).view(np.uint32), np.uint64(salt), grid)
    taken = grid[grid != np.uint64(2**64 - 1)]
    return (taken & np.uint64(2**32 - 1)).astype(np.int64)


def _hashes(points: np.ndarray, salt: int) -> np.ndarray:
    """(N,) uint64 of the coordinates alone, so that the order of the points is of no account."""
    words = np.uint64 if points.dtype == np.float64 else np.uint32
    points = points if points.dtype == np.float64 else points.astype(np.float32, copy=False)
    out = np.empty(len(points), np.uint64)
    _hash_all(np.ascontiguousarray(points).view(words), np.uint64(salt), out)
    return out


@njit(cache=True, nogil=True, inline="always")
def _hash(x, y, z, salt):
    """Three words -> 64 well mixed bits (the finaliser of SplitMix64)."""
    h = salt * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x632BE59BD9B4E019)
    for word in (x, y, z):
        h = (h ^ np.uint64(word)) * np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(29)
    h *= np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(32))


@njit(cache=True, nogil=True)
def _hash_all(words, salt, out):
    for i in range(len(words)):
        out[i] = _hash(words[i, 0], words[i, 1], words[i, 2], salt)


@njit(cache=True, nogil=True)
def _keep_least(points, words, salt, grid):
    side = _GRID
    low_bits = np.uint64(0xFFFFFFFF)
    for i in range(len(points)):
        cell = 0
        for axis in range(3):
            place = int((points[i, axis] + np.float32(1)) * np.float32(side / 2))
            cell = cell * side + min(max(place, 0), side - 1)
        h = _hash(words[i, 0], words[i, 1], words[i, 2], salt)
        entry = (h & ~low_bits) | np.uint64(i)
        if entry < grid[cell]:
            grid[cell] = entry


# ----------------------------------------------------------------------------------------- thinning


def _thinned(points: np.ndarray, near: Neighbourhoods, count: int) -> np.ndarray:
    """The `count` of the points (M, 3) that are left when, one after another, the one with the
    nearest neighbours is taken out (sample elimination, Yuksel 2015).

    At most half at a time, so that a few neighbours of each suffice however dense the points lie.
    """
    while len(points) > count:
        fewer = max(count, len(points) // 2)
        area = float(areas(near).sum(dtype=np.float64))
        reach = 2 * np.sqrt(area / (2 * np.sqrt(3) * fewer))
        kept = _eliminate(near.distances, near.indices, np.float32(max(reach, 1e-12)), fewer)
        points = points[kept]
        if fewer > count:
            near = Neighbourhoods.of(points, _NEIGHBOURS)
    return points


@njit(cache=True, nogil=True)
def _eliminate(distances, indices, reach, count):
    """Which points stay, (M,) bool, `count` of them."""
    total, neighbours = indices.shape
    pulls = np.zeros((total, neighbours), np.float32)
    weight = np.zeros(total, np.float32)
    for i in range(total):
        for k in range(neighbours):
            j = indices[i, k]
            if j == i or distances[i, k] >= reach:
                continue
            mutual = False
            for m in range(neighbours):
                if indices[j, m] == i:
                    mutual = True
                    break
            if mutual:
                share = 1 - distances[i, k] / reach
                share *= share
                share *= share
                pulls[i, k] = share * share
                weight[i] += pulls[i, k]
    # A heap of the heaviest; weights only fall, so an entry is put right when it comes to the top.
    heap = np.argsort(-weight)
    keys = weight[heap]
    size = total
    kept = np.ones(total, np.bool_)
    while size > count:
        top = heap[0]
        if keys[0] > weight[top]:
            keys[0] = weight[top]
        else:
            kept[top] = False
            for k in range(neighbours):
                if pulls[top, k] > 0:
                    weight[indices[top, k]] -= pulls[top, k]
            size -= 1
            heap[0], keys[0] = heap[size], keys[size]
        _sift_down(heap, keys, size)
    return kept


@njit(cache=True, nogil=True)
def _sift_down(heap, keys, size):
    at, item, key = 0, heap[0], keys[0]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] > keys[child]:
            child += 1
        if keys[child] <= key:
            break
        heap[at], keys[at] = heap[child], keys[child]
        at = child
    heap[at], keys[at] = item, key


# --------------------------------------------------------------------------------------- densifying


def _densified(points: np.ndarray, near: Neighbourhoods, count: int, seed: int) -> np.ndarray:
    """The points (M, 3) and new ones on triangles between neighbours, `count` in all.

    Each point starts as many triangles as the area it stands for is worth, with two of the
    neighbours that lie about as near as the nearest ones do.
    """
    rng = np.random.default_rng(seed)
    extra = count - len(points)
    share = np.cumsum(areas(near), dtype=np.float64)
    at = np.searchsorted(share, (np.arange(extra) + rng.random()) * (share[-1] / extra))
    at = np.minimum(at, len(points) - 1)
    usable = np.maximum(2, (near.distances <= 1.5 * near.distances[:, [3]]).sum(axis=1) - 1)[at]
    usable = np.minimum(usable, 8)
    first = rng.integers(0, usable)
    second = (first + 1 + rng.integers(0, usable - 1)) % usable
    corners = points[np.stack([at, near.indices[at, first + 1], near.indices[at, second + 1]])]
    u, v = rng.random((2, extra, 1), np.float32)
    root = np.sqrt(u)
    new = (1 - root) * corners[0] + root * (1 - v) * corners[1] + root * v * corners[2]
    return np.concatenate([points, new.astype(np.float32)])
