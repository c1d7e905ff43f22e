"""A closed surface from views whose cameras are known: with depth, or from their outlines alone.

A view shows space to be empty: outside of its outline, and in front of the depth it tells. What is
left over by all views is the solid. So nothing is open, whatever was not seen, and thin parts keep
both of their sides, which the usual mean of truncated distances would merge. Where depth is noisy,
the mean decides within the noise (Curless and Levoy 1996). What lies behind everything that was
seen is closed by a membrane between the seen parts, as by Davis et al. 2002, instead of filling all
of the space that no view looked into.

Poses are camera to world with Blender's axes (x right, y up, looking along -z); intrinsics fx, fy,
cx, cy in pixels, the centre of the first pixel at 0. Distances are positive outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import ndimage

from ..errors import BadInput
from .components import parts
from .isosurface import marching_cubes
from .outline_distance import OUTLINE, outline_distance
from .threads import in_chunks

TRUNCATION = 3.0  # in cells
LEAST_NOISE = 0.15  # in cells: by this much views that are exact still differ at pixels
_BLOCK = 8  # nodes along a block of which it is asked as a whole what the views say
_NOISE_TRUSTED = 2.0  # how many standard deviations of noise a single view may carve into the mean
_SEARCH_SIDE = 32
_POINTS = 3000  # of each view, that tell where the thing is
_ROOM = 0.1  # around what depth shows, of its longest side
_FILL = 2.0  # pixels: holes of depth narrower than twice this are closed
_CLOSING_SIDE = 64
_PIECE = 0.01  # of the volume of the largest piece; smaller ones are dropped


@dataclass(frozen=True, eq=False)
class PosedViews:
    """What views show of a thing.

    opacity: (V, H, W) float32, 0..1. depth: (V, H, W) float32 along the camera's axis, 0 or not
    finite where none is known; None: outlines alone. poses (V, 4, 4), intrinsics (V, 4) float64.
    """

    opacity: np.ndarray
    depth: np.ndarray | None
    poses: np.ndarray
    intrinsics: np.ndarray

    def __len__(self) -> int:
        return len(self.opacity)

    def only(self, chosen: np.ndarray) -> PosedViews:
        """The views of these numbers, or of this mask."""
        depth = None if self.depth is None else self.depth[chosen]
        return PosedViews(self.opacity[chosen], depth, self.poses[chosen], self.intrinsics[chosen])


@dataclass(frozen=True)
class Cube:
    """The cube that is looked at: its middle, in the world, and its side."""

    center: tuple[float, float, float]
    side: float

    def to_world(self) -> np.ndarray:
        """(4, 4) float64 from [-1, 1]^3."""
        matrix = np.diag([self.side / 2] * 3 + [1.0])
        matrix[:3, 3] = self.center
        return matrix


@dataclass(frozen=True, eq=False)
class Fused:
    """field: (n, n, n) float32 signed distances in units of the world, truncated; node i lies at
    2 i / n - 1 of the cube. hidden: (n, n, n) bool, behind all that any view sees."""

    field: np.ndarray
    hidden: np.ndarray
    cube: Cube

    def surface(self) -> tuple[np.ndarray, np.ndarray]:
        """Closed (V, 3) float64 vertices in the world and (F, 3) int32 faces, without crumbs.

        Raises BadInput when nothing is left.
        """
        vertices, faces = marching_cubes(self.field, closed=True)
        if not len(faces):
            raise nothing_left()
        vertices, faces = without_crumbs(vertices, faces)
        placed = vertices.astype(np.float64) * (2 / len(self.field)) - 1
        return placed * (self.cube.side / 2) + np.array(self.cube.center), faces


def nothing_left() -> BadInput:
    return BadInput(
        "The outlines of the views have nothing in common: no place lies within all of them.",
        "Check that the cameras belong to the pictures, in the same order, and that no picture is"
        " empty or cut out wrongly.",
    )


# ----------------------------------------------------------------------------------------- cameras


def projections(poses: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(V, 3, 4) float64: world -> column * depth, row * depth, depth along the camera's axis."""
    to_camera = np.linalg.inv(np.asarray(poses, np.float64))
    # Blender's camera axes -> x right, y down, z forward.
    seen = np.array([1.0, -1.0, -1.0])[:, None] * to_camera[:, :3]
    lens = np.zeros((len(poses), 3, 3))
    fx, fy, cx, cy = np.asarray(intrinsics, np.float64).T
    lens[:, 0, 0], lens[:, 1, 1], lens[:, 0, 2], lens[:, 1, 2], lens[:, 2, 2] = fx, fy, cx, cy, 1
    return lens @ seen


def unprojected(pose: np.ndarray, intrinsics: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(N, 3) points of the world at columns, rows and depths `at` (N, 3) of one view."""
    fx, fy, cx, cy = np.asarray(intrinsics, np.float64)
    column, row, depth = np.asarray(at, np.float64).T
    seen = np.stack([(column - cx) / fx * depth, -(row - cy) / fy * depth, -depth], axis=1)
    return seen @ pose[:3, :3].T + pose[:3, 3]


# -------------------------------------------------------------------------------------------- cube


def find_cube(views: PosedViews, margin: float = 0.9, tolerated: int = 0) -> Cube:
    """The cube around what the views show, whose longest side takes `margin` of it.

    tolerated: how many views may see the ground where the others see the thing. Raises BadInput
    when the outlines have nothing in common.
    """
    low, high = (
        _box_of_outlines(views, tolerated)
        if views.depth is None
        else (_box_of_depth(views, views.depth, tolerated))
    )
    return Cube((*((low + high) / 2).tolist(),), float((high - low).max()) / margin)


def _box_of_outlines(views: PosedViews, tolerated: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners (3,) of the box of all that lies within all outlines, found from coarse to fine."""
    center = _nearest_to_all(_axes_through_outlines(views))
    reach = min(_reach(views, center), 1e6)
    grown = 0
    for _ in range(10):
        low, high, cut = _hull_box(views, center, reach, tolerated)
        if cut and grown < 3:
            reach, grown = 2 * reach, grown + 1
            continue
        center, before = (low + high) / 2, reach
        reach = float((high - low).max()) / 2
        if reach > 0.7 * before:
            break
    return low, high


def _axes_through_outlines(views: PosedViews) -> np.ndarray:
    """(V, 2, 3): places of the cameras, and the directions of the middles of what they show."""
    lines = np.empty((len(views), 2, 3))
    for number, opacity in enumerate(views.opacity):
        rows, columns = np.nonzero(opacity >= OUTLINE)
        middle = [(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2, 1.0]
        pose = views.poses[number]
        there = unprojected(pose, views.intrinsics[number], np.array([middle]))[0]
        way = there - pose[:3, 3]
        lines[number] = pose[:3, 3], way / np.linalg.norm(way)
    return lines


def _nearest_to_all(lines: np.ndarray) -> np.ndarray:
    """The point with the least sum of squared distances to all lines (V, 2, 3).

    Held weakly to where the middle of all cameras looks at their spread's distance, for lines that
    are parallel.
    """
    places, ways = lines[:, 0], lines[:, 1]
    across = np.eye(3) - ways[:, :, None] * ways[:, None]
    spread = np.linalg.norm(places - places.mean(axis=0), axis=1).mean()
    usual = places.mean(axis=0) + ways.mean(axis=0) * max(spread, 1e-6)
    held = 1e-6 * len(lines) * np.eye(3)
    return np.linalg.solve(
        across.sum(axis=0) + held, np.einsum("vij,vj->i", across, places) + held @ usual
    )


def _reach(views: PosedViews, center: np.ndarray) -> float:
    """Half of a cube around `center` that the thing is likely in."""
    found = []
    for number, opacity in enumerate(views.opacity):
        rows, columns = np.nonzero(opacity >= OUTLINE)
        fx, fy = views.intrinsics[number, :2]
        wide = max(np.ptp(columns) / fx, np.ptp(rows) / fy)
        found.append(wide / 2 * np.linalg.norm(views.poses[number][:3, 3] - center))
    return 1.5 * float(np.median(found)) + 1e-9


def _hull_box(
    views: PosedViews, center: np.ndarray, reach: float, tolerated: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The box of what lies within all outlines in the cube, and whether the cube cuts it."""
    free = free_counts(views, Cube((*center.tolist(),), 2 * reach), _SEARCH_SIDE)
    inside = np.argwhere(free <= tolerated)
    if not len(inside):
        raise nothing_left()
    cell = 2 * reach / _SEARCH_SIDE
    low, high = inside.min(axis=0), inside.max(axis=0)
    cut = bool(low.min() == 0 or high.max() == _SEARCH_SIDE - 1)
    corner = center - reach
    return corner + (low - 0.5) * cell, corner + (high + 1.5) * cell, cut


def free_counts(views: PosedViews, cube: Cube, side: int) -> np.ndarray:
    """(side, side, side) int: how many views see the ground at the middles of these cells."""
    points = _middles(cube, side)
    counts = np.zeros(len(points), np.int32)
    for number in range(len(views)):
        counts += _sees_ground(views, number, points, cube.side / side)
    return counts.reshape(side, side, side)


def _middles(cube: Cube, side: int) -> np.ndarray:
    axes = (np.arange(side) + 0.5) / side - 0.5
    grid = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid * cube.side + np.array(cube.center)


def _seen_at(
    views: PosedViews, number: int, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, rows (N,) float, and depths (N,) at which one view sees points (N, 3)."""
    one = slice(number, number + 1)
    matrix = projections(views.poses[one], views.intrinsics[one])[0]
    column, row, depth = matrix[:, :3] @ points.T + matrix[:, 3:]
    safe = np.where(depth > 1e-9, depth, 1.0)
    return column / safe, row / safe, depth


def _sees_ground(views: PosedViews, number: int, points: np.ndarray, cell: float) -> np.ndarray:
    """(N,) bool: view `number` sees the ground there, and within half a cell of it."""
    column, row, depth = _seen_at(views, number, points)
    height, width = views.opacity[number].shape
    ahead = depth > 1e-9
    column, row = np.rint(column), np.rint(row)
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    i = np.clip(row, 0, height - 1).astype(int)
    j = np.clip(column, 0, width - 1).astype(int)
    # Half a cell may hold a part that is thinner: grow the outline by it.
    wide = cell * views.intrinsics[number, :2].max() / np.median(depth[ahead]) if ahead.any() else 1
    grown = _grown(views.opacity[number] >= OUTLINE, wide / 2)
    return ahead & np.where(within, ~grown[i, j], _is_whole(views.opacity[number]))


def misfits(views: PosedViews, cube: Cube, side: int = 40) -> np.ndarray:
    """(V,) bool: views whose outline takes away, alone, what several others show.

    As a picture does that was cut out badly or belongs to another camera. Needs four views.
    """
    out = np.zeros(len(views), bool)
    if len(views) < 4:
        return out
    points, cell = _middles(cube, side), cube.side / side
    ground = np.stack([_sees_ground(views, k, points, cell) for k in range(len(views))])
    count = ground.sum(axis=0)
    alone = np.where(count == 1, ground.argmax(axis=0), -1)
    lost = np.zeros(len(views), int)
    for number in range(len(views)):
        column, row, depth = _seen_at(views, number, points)
        height, width = views.opacity[number].shape
        # Tiles that no cell is smaller than.
        tile = max(
            1.0, 1.8 * cell * views.intrinsics[number, :2].max() / max(np.median(depth), 1e-9)
        )
        across, down = math.ceil(width / tile), math.ceil(height / tile)
        within = (depth > 1e-9) & (column >= 0) & (row >= 0) & (column < width) & (row < height)
        at = np.where(within, (row // tile) * across + column // tile, -1).astype(int)
        rows, columns = np.nonzero(views.opacity[number] >= 0.9)
        shown = np.zeros(across * down, int)
        np.add.at(shown, (rows // tile * across + columns // tile).astype(int), 1)
        wanted = shown > 0.7 * tile * tile
        wanted[at[within & (count == 0)]] = False
        for other in range(len(views)):
            taken = np.unique(at[within & (alone == other)])
            lost[other] += wanted[taken].sum() > 0.05 * max((shown > 0).sum(), 1)
    return lost >= max(2, len(views) // 3)


def _grown(shown: np.ndarray, pixels: float) -> np.ndarray:
    reach = math.ceil(min(pixels, max(shown.shape)))
    return ndimage.maximum_filter(shown, 2 * reach + 1) if reach else shown


def _is_whole(opacity: np.ndarray) -> bool:
    """Whether a picture shows all of the thing: none of it lies at its border."""
    edges = (opacity[0], opacity[-1], opacity[:, 0], opacity[:, -1])
    return not any(bool((edge >= OUTLINE).any()) for edge in edges)


def _box_of_depth(
    views: PosedViews, depths: np.ndarray, tolerated: int
) -> tuple[np.ndarray, np.ndarray]:
    """Corners (3,) of the box of all that depth shows, with some room for what it does not."""
    points = []
    for number, depth in enumerate(depths):
        shown = np.isfinite(depth) & (depth > 0) & (views.opacity[number] >= OUTLINE)
        rows, columns = np.nonzero(shown)
        step = max(1, len(rows) // _POINTS)
        at = np.stack([columns, rows, depth[rows, columns]], axis=1)[::step]
        points.append(unprojected(views.poses[number], views.intrinsics[number], at))
    cloud = np.concatenate(points)
    if not len(cloud):
        raise nothing_left()
    rough = float(np.ptp(cloud, axis=0).max()) / _SEARCH_SIDE
    ground = np.zeros(len(cloud), int)
    for number in range(len(views)):
        ground += _sees_ground(views, number, cloud, rough)
    kept = cloud[ground <= tolerated]
    if len(kept) < 0.1 * len(cloud):
        raise nothing_left()
    first, last = np.quantile(kept, [0.0005, 0.9995], axis=0)
    size = float((last - first).max())
    low, high = first - _ROOM * size, last + _ROOM * size
    if len(views) > 1:
        center, reach = (low + high) / 2, float((high - low).max()) / 2
        hull_low, hull_high, _ = _hull_box(views, center, reach, tolerated)
        low, high = np.maximum(low, hull_low), np.minimum(high, hull_high)
    # The outlines are looked at coarsely: never cut off what depth shows.
    return np.minimum(low, first - 0.01 * size), np.maximum(high, last + 0.01 * size)


# ------------------------------------------------------------------------------------------ fusing


def fuse(
    views: PosedViews, cube: Cube, resolution: int, noise: float = 0.0, *, close: bool = True
) -> Fused:
    """What the views leave over of a cube, at `resolution` cells along its side (a multiple of 8).

    noise: standard deviation of the depths, in units of the world. close: lay a membrane through
    what no view sees, where there is depth; else all of it counts as inside.
    """
    cell = cube.side / resolution
    views = _at_resolution(views, cube, cell)
    noise = max(noise, LEAST_NOISE * cell)
    truncation = max(TRUNCATION * cell, 3 * noise)
    maps = _maps(views)
    field, hidden = _fused(views, maps, cube, resolution, truncation, noise)
    if close and views.depth is not None and resolution > _CLOSING_SIDE:
        coarse_truncation = max(TRUNCATION * cube.side / _CLOSING_SIDE, 3 * noise)
        coarse, unseen = _fused(views, maps, cube, _CLOSING_SIDE, coarse_truncation, noise)
        membrane = _membrane(coarse, unseen, coarse_truncation)
        in_chunks(_carve_hidden, resolution, membrane, hidden, truncation, field)
    return Fused(field, hidden, cube)


def _at_resolution(views: PosedViews, cube: Cube, cell: float) -> PosedViews:
    """The views at no more than about three pixels for a cell: an odd share of their pixels."""
    away = np.linalg.norm(views.poses[:, :3, 3] - np.array(cube.center), axis=1)
    pixels = views.intrinsics[:, :2].max(axis=1) * cell / np.maximum(away, 1e-9)
    step = int(float(np.median(pixels)) / 3) // 2 * 2 + 1
    if step <= 1:
        return views
    first = step // 2
    opacity = np.stack([ndimage.uniform_filter(one, step) for one in views.opacity])
    intrinsics = views.intrinsics.copy()
    intrinsics[:, 2:] -= first
    picked = slice(first, None, step)
    depth = None if views.depth is None else views.depth[:, picked, picked]
    return PosedViews(opacity[:, picked, picked], depth, views.poses, intrinsics / step)


@dataclass(frozen=True, eq=False)
class _Maps:
    """By pixel (V, H, W, 3) float32: distance from the outline in pixels, positive outside; depth,
    carried on beyond the outline, 0 where there is none; share of a step along the ray by which one
    comes nearer to the surface. whole: (V,) bool, nothing is cut off by the border of the picture.
    """

    pixels: np.ndarray
    whole: np.ndarray


def _maps(views: PosedViews) -> _Maps:
    pixels = np.zeros((*views.opacity.shape, 3), np.float32)
    in_chunks(_fill_maps, len(views), views, pixels)
    return _Maps(pixels, np.array([_is_whole(one) for one in views.opacity]))


def _fill_maps(begin: int, end: int, views: PosedViews, pixels: np.ndarray) -> None:
    for number in range(begin, end):
        opacity = views.opacity[number]
        shown = opacity >= OUTLINE
        pixels[number, ..., 0] = outline_distance(opacity)
        pixels[number, ..., 2] = 1
        if views.depth is not None:
            depth = _carried_on(views.depth[number], shown)
            pixels[number, ..., 1] = depth
            fx, fy, cx, cy = views.intrinsics[number]
            pixels[number, ..., 2] = _facing(depth, fx, fy, cx, cy)


def _carried_on(depth: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """(H, W) depth, of the nearest pixel that has one where it is ground or a narrow hole; else 0
    where there is none."""
    known = np.isfinite(depth) & (depth > 0) & shown
    if not known.any():
        return np.zeros_like(depth)
    away, at = ndimage.distance_transform_edt(~known, return_indices=True)
    return np.where(~shown | (away <= _FILL), depth[tuple(at)], 0).astype(np.float32)


@njit(cache=True, nogil=True)
def _facing(depth, fx, fy, cx, cy):
    """The cosine between the ray of a pixel and the surface's normal, per unit of depth: by how
    much a point that moves along the axis of the camera comes nearer to the surface."""
    height, width = depth.shape
    out = np.ones((height, width), np.float32)
    for row in range(height):
        for column in range(width):
            z = depth[row, column]
            if z <= 0:
                continue
            across = _slope(depth[row], column, z)
            down = _slope(depth[:, column], row, z)
            # The plane z = z0 + across * u + down * v: its normal, with points ((u-cx)/fx z, ...).
            u, v = (column - cx) / fx, (row - cy) / fy
            nx, ny = -across * fx, -down * fy
            nz = z + u * across * fx + v * down * fy
            length = math.sqrt(nx * nx + ny * ny + nz * nz)
            # A step of one along the ray (u, v, 1) comes nearer by (nx u + ny v + nz) / length.
            out[row, column] = min(1.0, max(z / length, 0.05))
    return out


@njit(cache=True, nogil=True)
def _slope(line, at, z):
    """The smaller of the steps of depth to both sides, where both are known."""
    before = line[at - 1] if at > 0 else np.float32(0)
    after = line[at + 1] if at + 1 < len(line) else np.float32(0)
    if before <= 0 and after <= 0:
        return 0.0
    if before <= 0:
        return np.float64(after - z)
    if after <= 0:
        return np.float64(z - before)
    one, two = np.float64(z - before), np.float64(after - z)
    return one if abs(one) < abs(two) else two


def _fused(
    views: PosedViews,
    maps: _Maps,
    cube: Cube,
    side: int,
    truncation: float,
    noise: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The field and what is hidden at `side` nodes along each axis."""
    if side % _BLOCK:
        raise ValueError(f"{side} cells are no multiple of {_BLOCK}")
    cell = cube.side / side
    matrices = projections(views.poses, views.intrinsics)
    origin = np.array(cube.center) - cube.side / 2
    # Work in nodes: matrix @ (origin + cell * index).
    by_node = matrices.copy()
    by_node[..., :3] *= cell
    by_node[..., 3] = np.einsum("vij,j->vi", matrices[..., :3], origin) + matrices[..., 3]
    focal = views.intrinsics[:, :2].max(axis=1)
    windows = _windows(views, maps, by_node, focal, side, cell, truncation)
    field = np.empty((side, side, side), np.float32)
    hidden = np.empty((side, side, side), np.bool_)
    blocks = side // _BLOCK
    in_chunks(
        _fuse_blocks,
        blocks * blocks,
        *(maps.pixels, maps.whole, windows, by_node, focal),
        *(cell, truncation, noise, views.depth is not None, field, hidden),
        chunks=64,
    )
    return field, hidden


def _windows(
    views: PosedViews,
    maps: _Maps,
    by_node: np.ndarray,
    focal: np.ndarray,
    side: int,
    cell: float,
    truncation: float,
) -> np.ndarray:
    """(V, H, W, 3) float32: the least and the largest depth within the reach of a block around a
    pixel (ground: infinite; unknown: 0, so that it can be neither free nor known to be so); and
    that reach in pixels, in [0, 0]."""
    windows = np.empty((*views.opacity.shape, 2), np.float32)
    radius = _block_radius(cell)
    corners = np.array([[i, j, k, 1.0] for i in (0, side) for j in (0, side) for k in (0, side)])
    nearest = (corners @ by_node[:, 2].T).min(axis=0)
    # No nearer than where a block would fill the picture anyway.
    nearest = np.maximum(nearest - radius, 4 * radius)
    reach = np.ceil((radius + truncation) * focal / nearest).astype(int) + 1

    def fill(begin: int, end: int) -> None:
        for number in range(begin, end):
            shown = views.opacity[number] >= OUTLINE
            depth = np.where(shown, maps.pixels[number, ..., 1], np.float32(np.inf))
            size = 2 * min(int(reach[number]), max(depth.shape)) + 1
            windows[number, ..., 0] = ndimage.minimum_filter(depth, size, mode="nearest")
            windows[number, ..., 1] = ndimage.maximum_filter(depth, size, mode="nearest")

    in_chunks(fill, len(views))
    return windows


@njit(cache=True, nogil=True)
def _block_radius(cell):
    return math.sqrt(3.0) * (_BLOCK / 2) * cell


@njit(cache=True, nogil=True)
def _fuse_blocks(
    begin,
    end,
    pixels,
    whole,
    windows,
    by_node,
    focal,
    cell,
    truncation,
    noise,
    with_depth,
    field,
    hidden,
):
    side = len(field)
    blocks = side // _BLOCK
    used = np.empty(len(pixels), np.int64)
    for column in range(begin, end):
        bx, by = column // blocks * _BLOCK, column % blocks * _BLOCK
        for b in range(blocks):
            bz = b * _BLOCK
            count = _views_of_block(
                bx, by, bz, pixels, whole, windows, by_node, cell, truncation, used
            )
            if count <= 0:
                value = np.float32(truncation if count < 0 else -truncation)
                for x in range(bx, bx + _BLOCK):
                    for y in range(by, by + _BLOCK):
                        for z in range(bz, bz + _BLOCK):
                            field[x, y, z] = value
                            hidden[x, y, z] = count == 0
                continue
            for x in range(bx, bx + _BLOCK):
                for y in range(by, by + _BLOCK):
                    for z in range(bz, bz + _BLOCK):
                        value, unseen = _node(
                            np.float64(x),
                            np.float64(y),
                            np.float64(z),
                            used[:count],
                            pixels,
                            whole,
                            by_node,
                            focal,
                            truncation,
                            noise,
                            with_depth,
                        )
                        field[x, y, z] = value
                        hidden[x, y, z] = unseen


@njit(cache=True, nogil=True)
def _views_of_block(bx, by, bz, pixels, whole, windows, by_node, cell, truncation, used):
    """How many views have to be asked about the nodes of a block, which go to `used`; 0 where it
    lies behind everything, -1 where it is free or no view can tell."""
    height, width = pixels.shape[1], pixels.shape[2]
    middle = (_BLOCK - 1) / 2
    x, y, z = bx + middle, by + middle, bz + middle
    radius = _block_radius(cell)
    count, told = 0, False
    for view in range(len(pixels)):
        m = by_node[view]
        depth = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
        if depth < -radius:
            continue
        if depth < 5 * radius:  # too near for the windows
            used[count] = view
            count += 1
            continue
        u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / depth
        v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / depth
        i, j = math.floor(v + 0.5), math.floor(u + 0.5)
        if i < 0 or j < 0 or i >= height or j >= width:
            if whole[view]:
                # Free if all of it is; its rim may still be in the picture.
                used[count] = view
                count += 1
            continue
        told = True
        least, most = windows[view, i, j, 0], windows[view, i, j, 1]
        if least - depth > radius + truncation:
            return -1
        if most >= depth - radius - truncation:
            used[count] = view
            count += 1
    if count == 0 and not told:
        return -1
    return count


@njit(cache=True, nogil=True)
def _node(x, y, z, used, pixels, whole, by_node, focal, truncation, noise, with_depth):
    """The distance at a node, and whether no view tells anything nearer than the truncation."""
    height, width = pixels.shape[1], pixels.shape[2]
    outline, nearest = -truncation, -truncation
    total, weights = 0.0, 0.0
    asked = False
    for at in range(len(used)):
        view = used[at]
        m = by_node[view]
        depth = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
        if depth <= 1e-9:
            continue
        u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / depth
        v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / depth
        if u < 0 or v < 0 or u > width - 1 or v > height - 1:
            if whole[view]:
                return truncation, False
            continue
        asked = True
        j, i = min(int(u), width - 2), min(int(v), height - 2)
        s, t = u - j, v - i
        one, two = pixels[view, i, j], pixels[view, i, j + 1]
        three, four = pixels[view, i + 1, j], pixels[view, i + 1, j + 1]
        lateral = (one[0] * (1 - s) + two[0] * s) * (1 - t) + (three[0] * (1 - s) + four[0] * s) * t
        lateral *= depth / focal[view]
        if lateral >= truncation:
            return truncation, False
        outline = max(outline, lateral)
        if not with_depth:
            continue
        a, b = _before(one, depth, truncation), _before(two, depth, truncation)
        c, d = _before(three, depth, truncation), _before(four, depth, truncation)
        front = min(min(a, b), min(c, d))
        if max(max(a, b), max(c, d)) - front < truncation:
            front = (a * (1 - s) + b * s) * (1 - t) + (c * (1 - s) + d * s) * t
        if front >= truncation:
            return truncation, False
        if noise > 0 and front > -truncation:
            weight = one[2] ** 2 + 1e-3
            total += weight * front
            weights += weight
        nearest = max(nearest, front)
    if not asked:
        return truncation, False
    unseen = nearest <= -0.999 * truncation
    value = nearest
    if noise > 0:
        value = max(nearest - _NOISE_TRUSTED * noise, -truncation)
        if weights > 0:
            value = max(value, total / weights)
    return max(outline, value), unseen


@njit(cache=True, nogil=True)
def _before(pixel, depth, truncation):
    """How far a point is before the surface that a pixel shows, within the truncation."""
    if pixel[1] <= 0:
        return -truncation
    return min(max((pixel[1] - depth) * pixel[2], -truncation), truncation)


# ----------------------------------------------------------------------------------------- closing


def _membrane(field: np.ndarray, hidden: np.ndarray, truncation: float) -> np.ndarray:
    """(n, n, n) float32: what to carve out of the hidden space, positive where it is to be empty.

    Harmonic in the hidden space between the free space and the inner side of what was seen; next
    to surfaces that were seen nothing is carved.
    """
    wanted = _harmonic(field, hidden, 400, 1e-3 * truncation)
    seen = ~hidden & (field < 0.999 * truncation)
    wanted[seen] = -truncation
    return wanted


@njit(cache=True, nogil=True)
def _harmonic(field, hidden, rounds, precise):
    """`field` with the hidden nodes relaxed to the means of their neighbours (over-relaxation)."""
    out = field.copy()
    side = len(field)
    pull = 2 / (1 + math.pi / side)
    for turn in range(rounds):
        largest = 0.0
        for x in range(1, side - 1):
            for y in range(1, side - 1):
                for z in range(1, side - 1):
                    if not hidden[x, y, z]:
                        continue
                    mean = (
                        out[x - 1, y, z]
                        + out[x + 1, y, z]
                        + out[x, y - 1, z]
                        + out[x, y + 1, z]
                        + out[x, y, z - 1]
                        + out[x, y, z + 1]
                    ) / 6
                    step = mean - out[x, y, z]
                    out[x, y, z] += pull * step
                    largest = max(largest, abs(step))
        if turn > 20 and largest < precise:
            break
    return out


@njit(cache=True, nogil=True)
def _carve_hidden(begin, end, membrane, hidden, truncation, field):
    """Raise the hidden nodes of the field to the membrane, a coarser grid over the same cube."""
    side, coarse = len(field), len(membrane)
    ratio = coarse / side
    for x in range(begin, end):
        i, s = _place(x * ratio, coarse)
        for y in range(side):
            j, t = _place(y * ratio, coarse)
            for z in range(side):
                if not hidden[x, y, z]:
                    continue
                k, r = _place(z * ratio, coarse)
                low = _row(membrane, i, j, k, s, t)
                high = _row(membrane, i, j, k + 1, s, t)
                value = low * (1 - r) + high * r
                value = min(max(value, -truncation), truncation)
                if value > field[x, y, z]:
                    field[x, y, z] = value


@njit(cache=True, nogil=True)
def _place(at, side):
    whole = min(int(at), side - 2)
    return whole, min(at - whole, 1.0)


@njit(cache=True, nogil=True)
def _row(grid, i, j, k, s, t):
    return (grid[i, j, k] * (1 - s) + grid[i + 1, j, k] * s) * (1 - t) + (
        grid[i, j + 1, k] * (1 - s) + grid[i + 1, j + 1, k] * s
    ) * t


# ----------------------------------------------------------------------------------------- surface


def without_crumbs(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A closed mesh without pieces of less than a hundredth of the largest one's volume, and
    without cavities, which nobody sees."""
    part = parts(vertices, faces)
    count = int(part.max(initial=-1)) + 1
    if count <= 1:
        return vertices, faces
    corners = vertices[faces].astype(np.float64)
    corners -= vertices.mean(axis=0)
    sixfold = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    volumes = np.bincount(part[faces[:, 0]], sixfold, count) / 6
    kept = volumes >= _PIECE * volumes.max()
    stays = kept[part]
    renumbered = np.cumsum(stays) - 1
    return vertices[stays], renumbered[faces[stays[faces[:, 0]]]].astype(faces.dtype)
