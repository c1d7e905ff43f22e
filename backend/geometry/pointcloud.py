"""Point clouds: spacing, thinning, outliers, normals and their orientation.

All functions take points (N, 3) float32 in the cube [-1, 1]^3 and know nothing of the shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial import cKDTree

from .threads import in_chunks, thread_count

DENSITY_NEIGHBOURS = 12
SMOOTHING_NEIGHBOURS = 24
_SAMPLE = 100_000


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """The nearest points of every point, itself first.

    distances: (N, K) float32; indices: (N, K) int32; tree: to ask for more.
    """

    distances: np.ndarray
    indices: np.ndarray
    tree: cKDTree

    @classmethod
    def of(cls, points: np.ndarray, count: int = SMOOTHING_NEIGHBOURS) -> Neighbourhoods:
        tree = cKDTree(points, leafsize=16)
        distances, indices = tree.query(points, min(count, len(points)), workers=thread_count())
        return cls(distances.astype(np.float32), indices.astype(np.int32), tree)


# ------------------------------------------------------------------------------------------ density


def areas(near: Neighbourhoods) -> np.ndarray:
    """Surface area (N,) float32 that each point stands for: pi r_k^2 / k of the k-th neighbour."""
    k = min(DENSITY_NEIGHBOURS, near.distances.shape[1] - 1)
    return (np.pi / k * near.distances[:, k] ** 2).astype(np.float32)


def spacing(area: np.ndarray, near: Neighbourhoods) -> np.ndarray:
    """Distance (N,) float32 between neighbours, the median over the neighbourhood."""
    smooth = np.median(np.sqrt(area)[near.indices], axis=1)
    return np.maximum(smooth, 1e-6).astype(np.float32)


def outliers(near: Neighbourhoods, factor: float = 4.0) -> np.ndarray:
    """(N,) bool: points much lonelier than the points nearest to them.

    The ratio to the neighbours' own loneliness, not to the cloud's, keeps parts that were
    sampled thinly (the idea of the local outlier factor, Breunig et al. 2000).
    """
    k = min(DENSITY_NEIGHBOURS, near.distances.shape[1] - 1)
    reach = near.distances[:, k]
    usual = np.median(reach[near.indices[:, 1:]], axis=1)
    return reach > factor * np.maximum(usual, 1e-12)


def without_distant(points: np.ndarray, share: float = 0.03) -> np.ndarray | None:
    """(N,) bool: the points but for a few far away; None where there are no such points.

    points (N, 3) in any frame. A few, at most `share`, lonely points that make the box three times
    as long as that of all others would leave too little resolution for the object itself.
    """
    sample = points
    if len(points) > _SAMPLE:
        sample = points[np.sort(np.random.default_rng(0).integers(0, len(points), _SAMPLE))]
    sample = sample.astype(np.float64)
    tree = cKDTree(sample)
    k = min(DENSITY_NEIGHBOURS, len(sample) - 1)
    reach = tree.query(sample, [k + 1], workers=thread_count())[0][:, 0]
    kept = np.full(len(sample), True)
    while True:
        extent = np.ptp(sample[kept], axis=0).max()
        fewer = kept & (reach <= 0.05 * extent)
        if fewer.sum() == kept.sum() or fewer.sum() < (1 - share) * len(sample):
            break
        kept = fewer
    if 3 * extent > np.ptp(sample, axis=0).max():
        return None
    low, high = sample[kept].min(axis=0), sample[kept].max(axis=0)
    margin = 0.05 * extent
    return ((points >= low - margin) & (points <= high + margin)).all(axis=1)


# ----------------------------------------------------------------------------------------- thinning


def thin(points: np.ndarray, cell: float, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """One point per cubic cell: the mean of the points in it, and of each of `columns`.

    points (N, 3) float32; columns (N, C) -> (M, 3) float32, (M, C) float32 each, in the order of
    the cells. Bounds the work on huge clouds and takes noise out where points are dense.
    """
    keys = _cell_keys(points, cell)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    counts = np.diff(np.append(starts, len(keys)))[:, None]
    return tuple(
        (np.add.reduceat(column[order], starts, axis=0, dtype=np.float64) / counts).astype(
            np.float32
        )
        for column in (points, *columns)
    )


def _cell_keys(points: np.ndarray, cell: float) -> np.ndarray:
    cells = np.floor((points + 1) * (1 / cell)).astype(np.int64)
    side = int(np.ceil(2 / cell)) + 2
    cells = np.clip(cells, -1, side - 2) + 1
    return (cells[:, 0] * side + cells[:, 1]) * side + cells[:, 2]


# ------------------------------------------------------------------------------------------ normals


@numba.njit(cache=True, nogil=True)
def _scatter_matrices(begin, end, points, indices, out):
    count = indices.shape[1]
    for i in range(begin, end):
        mean = np.zeros(3)
        for k in range(count):
            for a in range(3):
                mean[a] += points[indices[i, k], a]
        mean /= count
        for a in range(3):
            for b in range(3):
                total = 0.0
                for k in range(count):
                    j = indices[i, k]
                    total += (points[j, a] - mean[a]) * (points[j, b] - mean[b])
                out[i, a, b] = total


def principal_normals(points: np.ndarray, near: Neighbourhoods, count: int = 16) -> np.ndarray:
    """Unit normals (N, 3) float32 without a side: the direction of least spread of `count`
    neighbours (Hoppe et al. 1992)."""
    matrices = np.empty((len(points), 3, 3))
    in_chunks(_scatter_matrices, len(points), points, near.indices[:, :count], matrices)
    return np.linalg.eigh(matrices)[1][:, :, 0].astype(np.float32)


def roughness(points: np.ndarray, normals: np.ndarray, near: Neighbourhoods) -> float:
    """How far points lie off the tangent planes of their neighbours, in spacings.

    About 0.05 for clean samples of a smooth surface, 0.45 for noise of two thirds of the spacing.
    Only neighbours facing the same way count, or the two sides of a thin sheet would be taken for
    noise.
    """
    others = near.indices[:, 1:9]
    offsets = points[others] - points[:, None]
    facing = np.einsum("nkc,nc->nk", normals[others], normals) > 0.5
    heights = np.abs(np.einsum("nkc,nc->nk", offsets, normals))[facing]
    if not len(heights):
        return 1.0
    return float(np.median(heights) / np.median(np.sqrt(areas(near))))


@numba.njit(cache=True, nogil=True)
def _same_side_planes(begin, end, points, normals, spacings, indices, out):
    count = indices.shape[1]
    for i in range(begin, end):
        weights = np.zeros(count)
        mean = np.zeros(3)
        facing = np.zeros(3)
        for k in range(count):
            j = indices[i, k]
            offset = points[j] - points[i]
            cosine = max(np.float32(0), (normals[i] * normals[j]).sum())
            height = (offset * normals[i]).sum() / (0.5 * spacings[i])
            distance = (offset * offset).sum() / (4 * spacings[i] ** 2)
            weights[k] = cosine**2 * np.exp(-height * height - distance)
            for a in range(3):
                mean[a] += weights[k] * points[j, a]
                facing[a] += weights[k] * normals[j, a]
        total = max(weights.sum(), 1e-12)
        mean /= total
        facing /= max(np.sqrt((facing * facing).sum()), 1e-12)
        matrix = np.zeros((3, 3))
        for k in range(count):
            for a in range(3):
                for b in range(3):
                    matrix[a, b] += (
                        weights[k]
                        * (points[indices[i, k], a] - mean[a])
                        * (points[indices[i, k], b] - mean[b])
                    )
        values, vectors = np.linalg.eigh(matrix)
        flat = 1 - values[0] / values[1] if values[1] > 0 and (weights > 0.1).sum() >= 4 else 0.0
        side = 1.0 if (vectors[:, 0] * facing).sum() >= 0 else -1.0
        for a in range(3):
            out[i, a] = flat * side * vectors[a, 0] + (1 - flat) * facing[a]


def same_side_normals(
    points: np.ndarray, normals: np.ndarray, spacings: np.ndarray, near: Neighbourhoods
) -> np.ndarray:
    """Sharpen oriented unit normals (N, 3): refit each plane to neighbours that face the same way.

    The other side of a thin sheet and the next face of an edge lose their weight.
    """
    current = normals
    for _ in range(2):
        refined = np.empty_like(current)
        in_chunks(
            _same_side_planes, len(points), points, current, spacings, near.indices[:, :16], refined
        )
        current = unit(refined)
    return current


def heights(
    points: np.ndarray, normals: np.ndarray, spacings: np.ndarray, near: Neighbourhoods
) -> np.ndarray:
    """(N,) float32: how far along its unit normal the plane of its neighbours is from each point.

    Neighbours that face the same way count, the nearer the more, within about 1.5 spacings.
    """
    found = np.empty(len(points), np.float32)
    in_chunks(_heights, len(points), points, normals, spacings, near.indices, found)
    return found


@numba.njit(cache=True, nogil=True)
def _heights(begin, end, points, normals, spacings, indices, out):
    for i in range(begin, end):
        rate = 1 / (1.5 * spacings[i]) ** 2
        total = 0.0
        height = 0.0
        for k in range(indices.shape[1]):
            j = indices[i, k]
            offset = points[j] - points[i]
            cosine = max((normals[i] * normals[j]).sum(), np.float32(0))
            weight = cosine**2 * np.exp(-rate * (offset * offset).sum())
            total += weight
            height += weight * (offset * normals[i]).sum()
        out[i] = height / max(total, 1e-12)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, 3) scaled to length 1; zero stays zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-20, dtype=vectors.dtype)


# -------------------------------------------------------------------------------------- orientation

CLEARANCES = (2.2, 2.8, 3.5)
"""Empty space counts as such this many spacings away from all points. Random samples leave a hole
that a ball of 2.2 passes through once in about 300,000 points; if that has happened, too many
points cannot tell their sides apart, and the next larger ball is tried."""

WEAK = 0.05
FEEBLE = 0.45
"""A pull below the share WEAK of a one-sided point's does not tell the sides apart; many below
FEEBLE mean that something is open which should not be."""

ROUGH = 0.3
"""Roughness above which a cloud counts as noisy."""

ENCLOSED = 0.8
"""Share of directions in which a room must see a wall for its opening to count as a hole."""


def orient(
    points: np.ndarray,
    near: Neighbourhoods,
    spacings: np.ndarray,
    max_side: int = 288,
    check: Callable[[], None] = lambda: None,
    guides: np.ndarray | None = None,
) -> np.ndarray:
    """Unit outward normals (N, 3) float32 of points that came without.

    Space some spacings away from every point is either reached from the border of the cube
    (outside) or not (inside). Each point is pulled to the outside space around it and pushed
    off the inside, Gaussian-weighted. No side is handed on from neighbour to neighbour, so loose
    parts, thin legs and both sides of a sheet come out right: seen from the upper side of a
    sheet, the outside above is nearer than the outside below. Where that does not tell (a scan
    that is open to one side), cavities behind a hole are closed, and what is still undecided
    takes the side of its neighbours along a minimum spanning tree (Hoppe et al. 1992). check is
    called now and then and may raise.

    guides: (N, 3) float32 or None, directions to the outside known from elsewhere, 1 long where
    they are sure, 0 where they know nothing. They decide where they contradict the empty space,
    as they do for a scan of one side, behind which all is empty.
    """
    axes = principal_normals(points, near)
    if guides is not None:
        _, directions, strength = _seen_space(
            points, near, spacings, max_side, check, CLEARANCES[:1]
        )
        if not _agree(directions, strength, guides):
            return _guided(points, near, spacings, axes, guides)
    space, directions, strength = _seen_space(points, near, spacings, max_side, check)
    noisy = roughness(points, directions, near) > ROUGH
    if noisy and space.has_inside():
        # Noise makes pulls feeble too, and blurs what tells a thin wall from a single layer.
        directions, strength = _outward(space, points, spacings, 1.0)
    elif (strength < FEEBLE).mean() > 0.02 and _close_cavities(space, points, spacings, strength):
        directions, strength = _outward(space, points, spacings, 1.0 if noisy else 0.7)
    check()
    sides = _sides(axes, directions, strength < (WEAK / 10 if noisy else WEAK), near)
    check()
    planes = same_side_normals(points, axes * sides[:, None], spacings, near)
    # The planes through neighbours are sharp and the pull is steady: noise needs the steady one.
    return unit(planes * np.float32(0.3 if noisy else 1) + directions)


def _agree(directions: np.ndarray, strength: np.ndarray, guides: np.ndarray) -> bool:
    """Whether the surest guides and strong pulls say the same, as they do for a closed surface."""
    strong = np.flatnonzero(strength > 0.7)
    surest = strong[np.argsort(-np.linalg.norm(guides[strong], axis=1), kind="stable")]
    surest = surest[: max(100, len(guides) // 50)]
    return bool((np.einsum("nc,nc->n", directions, guides)[surest] >= 0).mean() > 0.95)


def _guided(
    points: np.ndarray,
    near: Neighbourhoods,
    spacings: np.ndarray,
    axes: np.ndarray,
    guides: np.ndarray,
) -> np.ndarray:
    """Unit outward normals (N, 3), on the side that the guides say."""
    toward = guides.copy()
    sides = _sides(axes, toward, np.linalg.norm(guides, axis=1) < WEAK, near)
    planes = same_side_normals(points, axes * sides[:, None], spacings, near)
    noisy = roughness(points, planes, near) > ROUGH
    return unit(planes + (guides if noisy else 0))


@dataclass(frozen=True, eq=False)
class Space:
    """openness: (n, n, n) float32 on nodes 2 i / n - 1: 1 outside, -1 inside, 0 within `clearance`
    spacings of the points. A ramp one cell wide instead of a step makes mean directions smooth."""

    openness: np.ndarray
    clearance: float

    def has_inside(self) -> bool:
        """Whether more than a sliver of the space is inside."""
        inside = np.count_nonzero(self.openness < 0)
        return bool(inside > 0.01 * np.count_nonzero(self.openness == 0))


def _seen_space(
    points: np.ndarray,
    near: Neighbourhoods,
    spacings: np.ndarray,
    max_side: int,
    check: Callable[[], None],
    clearances: tuple[float, ...] = CLEARANCES,
) -> tuple[Space, np.ndarray, np.ndarray]:
    """The space around the points, with what `_outward` makes of it: directions and strength."""
    best = None
    side = _grid_side(spacings, max_side)
    for clearance in clearances:
        check()
        space = empty_space(points, spacings, side, clearance)
        check()
        directions, strength = _outward(space, points, spacings, 0.7)
        undecided = float((strength < FEEBLE).mean())
        if best is None or undecided < best[0] - 0.1:
            best = undecided, (space, directions, strength)
        if undecided < 0.25 or (space.has_inside() and roughness(points, directions, near) > ROUGH):
            break
    if best is None:
        raise ValueError("no clearances")
    return best[1]


def _sides(
    axes: np.ndarray, directions: np.ndarray, weak: np.ndarray, near: Neighbourhoods
) -> np.ndarray:
    """+1 or -1 (N,) float32 for each axis; sets weak `directions`, worth nothing, to zero."""
    sides = np.sign(np.einsum("nc,nc->n", axes, directions)).astype(np.float32)
    sides[sides == 0] = 1
    if weak.any():
        sides = _spread_sides(axes, sides, weak, near)
        directions[weak] = 0
    return sides


def _outward(
    space: Space, points: np.ndarray, spacings: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Unit directions (N, 3) to the outside and their strength (N,): 1 = as if one-sided."""
    cells = np.float32(space.openness.shape[0] / 2)
    sigmas = spacings * cells * np.float32(reach)
    pull = np.zeros_like(points)
    in_chunks(_pull, len(points), space.openness, (points + 1) * cells, sigmas, pull)
    length = np.linalg.norm(pull, axis=1)
    # A Gaussian's moment beyond a plane at the clearance, sigma^4 2 pi exp(-c^2 / 2 sigma^2):
    # what a point on a flat surface feels that is open to one side only.
    flat = 2 * np.pi * sigmas**4 * np.exp(-0.5 * (space.clearance / reach) ** 2)
    return pull / np.maximum(length, 1e-20)[:, None], length / flat


def _grid_side(spacings: np.ndarray, max_side: int) -> int:
    wanted = 2 / (0.55 * float(np.median(spacings)))
    return int(np.clip(16 * np.ceil(wanted / 16), 64, max_side))


def empty_space(points: np.ndarray, spacings: np.ndarray, side: int, clearance: float) -> Space:
    """Fill the space that is `clearance` spacings away from all points from the border inwards."""
    limit = clearance + 1
    squares = np.full((side,) * 3, limit * limit, np.float32)
    cells = np.float32(side / 2)
    _relative_distances((points + 1) * cells, spacings * cells, np.float32(limit), squares)
    labels, reached = _border_labels(squares >= clearance**2)
    cell = 1 / (np.median(spacings) * cells)
    openness = np.zeros(squares.shape, np.float32)
    in_chunks(
        _ramp, side, squares, labels, reached, np.float32(clearance), np.float32(cell), openness
    )
    return Space(openness, clearance)


@numba.njit(cache=True, nogil=True)
def _ramp(begin, end, squares, labels, reached, clearance, cell, out):
    """+1 in reached space, -1 in other free space, rising over one cell at their borders."""
    side = squares.shape[0]
    low = max(clearance - 0.5 * cell, 0.0) ** 2
    high = (clearance + 0.5 * cell) ** 2
    for x in range(begin, end):
        for y in range(side):
            for z in range(side):
                square = squares[x, y, z]
                if square <= low:
                    continue
                label = labels[x, y, z]
                if label:
                    sign = 1 if reached[label] else -1
                else:
                    sign = 0
                    for a, b, c in (
                        (-1, 0, 0),
                        (1, 0, 0),
                        (0, -1, 0),
                        (0, 1, 0),
                        (0, 0, -1),
                        (0, 0, 1),
                    ):
                        p, q, r = x + a, y + b, z + c
                        if 0 <= p < side and 0 <= q < side and 0 <= r < side:
                            near = labels[p, q, r]
                            if near:
                                sign = max(sign, 1) if reached[near] else (sign if sign else -1)
                height = 1.0
                if square < high:
                    height = (np.sqrt(square) - clearance) / cell + 0.5
                out[x, y, z] = sign * height


def _border_labels(free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(6-connected rooms of free space numbered from 1, which of them reach the border)."""
    labels, count = ndimage.label(free)
    reached = np.zeros(count + 1, bool)
    for axis in range(3):
        for end in (0, -1):
            reached[np.unique(labels.take(end, axis))] = True
    reached[0] = False
    return labels, reached


def _close_cavities(
    space: Space, points: np.ndarray, spacings: np.ndarray, strength: np.ndarray
) -> bool:
    """Call cavities inside that the outside enters by a hole in a single layer of points.

    With ever larger balls, look for rooms that the ball cannot reach. A room whose walls cannot
    tell their two sides apart has walls of one layer: the hole is a hole in the scan. (The wall of
    a vase has two layers, which do tell.) Changes `space` in place; True if it did.
    """
    openness = space.openness
    side = openness.shape[0]
    step = max(1, side // 80)
    coarse = openness[::step, ::step, ::step]
    cell = 2 * step / side
    distance = ndimage.distance_transform_edt(coarse > 0) * cell
    walls = tuple(np.clip(((points + 1) / cell).round().astype(np.intp), 0, len(coarse) - 1).T)
    base = space.clearance * float(np.median(spacings))
    cavity = np.zeros(coarse.shape, bool)
    radius = 1.5 * base
    while radius < 0.35:
        rooms, reached = _border_labels(distance >= radius)
        labels, count = ndimage.label((rooms > 0) & ~reached[rooms] & ~cavity)
        if count:
            away, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
            away *= cell
            owner = labels[tuple(nearest)]
            close = away[walls] <= radius + base + 1.5 * cell
            single = _rooms_of_one_layer(owner[walls][close], strength[close], count)
            single &= _enclosure(labels, count, coarse > 0) >= ENCLOSED
            cavity |= single[owner] & (away < radius + cell) & (coarse > 0)
        radius *= 1.6
    if not cavity.any():
        return False
    fine = cavity.repeat(step, 0).repeat(step, 1).repeat(step, 2)[:side, :side, :side]
    openness[fine] *= -1
    return True


def _rooms_of_one_layer(owners: np.ndarray, strength: np.ndarray, count: int) -> np.ndarray:
    """(count + 1,) bool: rooms with at least 50 points around, most of them pulled feebly."""
    weak = np.bincount(owners, weights=strength < FEEBLE, minlength=count + 1)
    every = np.bincount(owners, minlength=count + 1)
    return (every >= 50) & (weak > 0.5 * every)


def _enclosure(labels: np.ndarray, count: int, free: np.ndarray) -> np.ndarray:
    """(count + 1,) float: share of the 26 grid directions in which a room sees a wall."""
    seen = np.zeros(count + 1)
    cells = np.argwhere(labels > 0)
    sample = np.random.default_rng(0).permutation(len(cells))[:4000]
    _count_walls(cells[sample], labels, free, seen)
    total = np.bincount(labels[tuple(cells[sample].T)], minlength=count + 1)
    return seen / np.maximum(26 * total, 1)


@numba.njit(cache=True, nogil=True)
def _count_walls(cells, labels, free, seen):
    side = free.shape[0]
    for x, y, z in cells:
        for direction in range(27):
            a, b, c = direction // 9 - 1, direction // 3 % 3 - 1, direction % 3 - 1
            if a == 0 and b == 0 and c == 0:
                continue
            p, q, r = x, y, z
            while 0 <= p < side and 0 <= q < side and 0 <= r < side:
                if not free[p, q, r]:
                    seen[labels[x, y, z]] += 1
                    break
                p, q, r = p + a, q + b, r + c


def _spread_sides(
    axes: np.ndarray, sides: np.ndarray, weak: np.ndarray, near: Neighbourhoods
) -> np.ndarray:
    """Give weak points the side of their neighbours, along a minimum spanning tree.

    All decided points hang on one root at no cost; among the others the cost of an edge is how
    much the planes differ. Without any decided point the sides point away from the middle.
    """
    count = len(axes)
    others = near.indices[:, 1:9]
    rows = np.repeat(np.arange(count), others.shape[1])
    columns = others.ravel()
    agreement = np.abs(np.einsum("nkc,nc->nk", axes[others], axes)).ravel()
    decided = np.flatnonzero(~weak)
    seeds = decided if len(decided) else np.array([0])
    graph = csr_matrix(
        (
            np.concatenate([1.01 - agreement, np.full(len(seeds), 1e-6)]),
            (np.concatenate([rows, seeds]), np.concatenate([columns, np.full(len(seeds), count)])),
        ),
        shape=(count + 1, count + 1),
    )
    tree = minimum_spanning_tree(graph.maximum(graph.T))
    order, parent = breadth_first_order(tree, count, directed=False)
    spread = sides.copy()
    _hand_on(order, parent, axes, weak, spread)
    return spread


@numba.njit(cache=True, nogil=True)
def _hand_on(order, parent, axes, weak, sides):
    count = len(axes)
    for i in order:
        if i == count or not weak[i]:
            continue
        p = parent[i]
        if p < 0 or p == count:
            continue
        same = (axes[i] * axes[p]).sum() >= 0
        sides[i] = sides[p] if same else -sides[p]


@numba.njit(cache=True, nogil=True)
def _relative_distances(points, spacings, limit, squares):
    """Squared distance to the nearest point in units of that point's spacing, up to limit^2."""
    side = squares.shape[0]
    for i in range(len(points)):
        x, y, z = points[i]
        radius = limit * spacings[i]
        weight = 1 / (spacings[i] * spacings[i])
        for p in range(max(int(x - radius), 0), min(int(x + radius) + 2, side)):
            xx = (p - x) ** 2
            for q in range(max(int(y - radius), 0), min(int(y + radius) + 2, side)):
                yy = xx + (q - y) ** 2
                rest = radius * radius - yy
                if rest <= 0:
                    continue
                half = np.sqrt(rest)
                for r in range(max(int(z - half), 0), min(int(z + half) + 2, side)):
                    square = (yy + (r - z) ** 2) * weight
                    if square < squares[p, q, r]:
                        squares[p, q, r] = square


@numba.njit(cache=True, nogil=True, fastmath=True)
def _pull(begin, end, openness, points, sigmas, out):
    """Gaussian-weighted mean of openness times offset around each point, in grid units."""
    side = openness.shape[0]
    for i in range(begin, end):
        x, y, z = points[i]
        radius = min(4 * sigmas[i], np.float32(24.0))
        rate = -0.5 / (sigmas[i] * sigmas[i])
        first = max(int(z - radius), 0)
        last = min(int(z + radius) + 2, side)
        decay = np.empty(max(last - first, 0), np.float32)
        for r in range(first, last):
            decay[r - first] = np.exp(rate * (r - z) ** 2)
        for p in range(max(int(x - radius), 0), min(int(x + radius) + 2, side)):
            for q in range(max(int(y - radius), 0), min(int(y + radius) + 2, side)):
                column = 0.0
                moment = 0.0
                for r in range(first, last):
                    weighted = openness[p, q, r] * decay[r - first]
                    column += weighted
                    moment += weighted * (r - z)
                plane = np.exp(rate * ((p - x) ** 2 + (q - y) ** 2))
                out[i, 0] += plane * column * (p - x)
                out[i, 1] += plane * column * (q - y)
                out[i, 2] += plane * moment


# ----------------------------------------------------------------------------------------- sampling


def sample(volume: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Trilinear values (N,) float32 of volume (n, n, n) at places (N, 3) in index coordinates."""
    corner, rest = _cell_of(places, len(volume))
    total = np.zeros(len(places), np.float32)
    for step in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(step, rest, 1 - rest), axis=1)
        total += weight * volume[tuple((corner + step).T)]
    return total


def slope(volume: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Length (N,) float32 of the gradient of `volume` at places, per node."""
    squares = np.zeros(len(places), np.float32)
    for axis in range(3):
        step = np.zeros(3, np.float32)
        step[axis] = 0.5
        squares += (sample(volume, places + step) - sample(volume, places - step)) ** 2
    return np.sqrt(squares)


def _cell_of(places: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    corner = np.clip(np.floor(places), 0, side - 2).astype(np.intp)
    return corner, np.clip(places - corner, 0, 1).astype(np.float32)


def nearest(places: np.ndarray, tree: cKDTree) -> np.ndarray:
    """Index (M,) of the point of `tree` nearest to each of places (M, 3)."""
    return tree.query(places, workers=thread_count())[1]


def nearest_colors(places: np.ndarray, points: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Colours (M, 4) uint8 at places (M, 3): the mean of the three nearest points' colours (N, 4),
    nearer ones counting more."""
    tree = cKDTree(points)
    distances, indices = tree.query(places, min(3, len(points)), workers=thread_count())
    distances, indices = distances.reshape(len(places), -1), indices.reshape(len(places), -1)
    weights = 1 / np.maximum(distances, 1e-9)
    weights /= weights.sum(axis=1, keepdims=True)
    mean = np.einsum("mk,mkc->mc", weights, colors[indices].astype(np.float64))
    return np.rint(mean).astype(np.uint8)
