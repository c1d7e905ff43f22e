"""Lead a generated shape through what is known of it: points, or voxels.

Points. First they are fitted alone. Where the surface through them stays near them everywhere, they
show the whole shape: what was generated adds nothing that is true, and the points decide, noise
taken out of them. Else the generated surface is moved towards the points by a smooth displacement
that dies out away from them. What is left of it where there are no points, and does not contradict
them, is sampled; these samples and the points go into one wavelet solve, that of `wavelet_fit`, so
that what was measured goes over into what was generated. Away from the points and from all that
was left out, the generated field stays as it is.

Voxels. Among all fields that keep the centre of every voxel on its side, the one whose difference
from the generated field is smoothest and smallest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from ..geometry import pointcloud
from ..geometry.isosurface import marching_cubes, vertex_normals
from ..geometry.threads import in_chunks, thread_count
from . import wavelet_fit
from .wavelet_fit import Cloud

Steps = Generator[tuple[str, float], None, np.ndarray]

FACING = 0.1
"""Cube units that a right angle between normals counts for when surfaces are matched."""
FARTHEST = 0.12
"""Cube units within which a point and the generated surface may be the same place."""
STIFFNESS = (0.12, 0.08, 0.05)
"""Widths, in cube units, of the Gaussians that smooth the displacement, one round each."""
MOST_MATCHED = 20_000
"""Points that tell the displacement, smooth as it is."""
KNOWN = 0.03
"""Cube units from the generated surface within which points say nothing against it."""
RAYS = 12
DOUBT = np.float32(3)
"""How much more a ray that speaks against a piece counts than one that speaks for it: beyond a dent
that should not be, the far side of the body still looks right."""
LONGEST_RAY = 0.6
OPEN = 0.05
"""Share of the surface through the points alone, away from all points, from which on they leave
something open. Measured on shapes seen whole: up to 0.001, one of thin things under noise 0.035;
seen from one side: 0.09 to 0.43."""
SUPPORT = 2.0
"""Spacings from the nearest point within which a surface is supported."""
TRIAL_SIDE = 128
"""Nodes of the grid on which points are fitted alone, to see whether they leave anything open."""
NOISY = (pointcloud.ROUGH, pointcloud.ROUGH + 0.1)
"""Roughness from which on points are moved into the planes of their neighbours, and all the way:
less noise than that moves them less than the curvature of the surface does."""


@dataclass(frozen=True, eq=False)
class Surface:
    """The surface of the generated field: a vertex per crossed edge of the grid.

    points, normals: (V, 3) float32 in the cube; area: (V,) float32 that each vertex stands for.
    """

    points: np.ndarray
    normals: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, field: np.ndarray) -> Surface:
        vertices, faces = marching_cubes(field, closed=True)
        normals = vertex_normals(field, vertices)
        points = vertices * np.float32(2 / len(field)) - np.float32(1)
        a, b, c = (points[faces[:, corner]] for corner in range(3))
        share = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
        area = np.bincount(faces.ravel(), np.repeat(share, 3), minlength=len(points))
        return cls(points, normals, area.astype(np.float32))

    def chosen(self, most: int) -> np.ndarray:
        """Indices of at most `most` vertices, at random but always the same."""
        if len(self.points) <= most:
            return np.arange(len(self.points))
        return np.random.default_rng(0).permutation(len(self.points))[:most]


def refine_to_points(
    field: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray | None,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> Steps:
    """Lead the surface of `field` through `points`; a generator of (stage, fraction).

    field (n, n, n) float32, positive outside, node i at 2 i / n - 1, n 64, 128, 256 or 512; points
    (N, 3) float32 in the cube; normals (N, 3) outward, any length, or None. Returns a field like
    the one given; where points are it is truncated as those of `wavelet_fit` are. check is called
    often and may raise.
    """
    yield "Reading the generated shape", 0.0
    surface = Surface.of(field)
    check()
    yield "Reading the points", 0.05
    cloud = _cloud(points, normals, len(field), check)
    if cloud is None:
        return field
    check()
    yield "Looking for what the points leave open", 0.12
    if not (yield from _open(cloud, min(TRIAL_SIDE, len(field)), device, check)):
        alone = _smoothed(cloud)
        fitted = yield from wavelet_fit.solved((alone,), len(field), device, check, (0.2, 0.93))
        return wavelet_fit.as_distance(fitted, alone)
    if normals is None:
        cloud = _guided(cloud, surface, check)
    check()
    yield "Moving the shape to the points", 0.22
    moved, _ = _registered(surface, cloud, check)
    yield "Finding what the points leave open", 0.3
    weight = _kept(field, moved, cloud, check)
    check()
    values = yield from _solved(moved, weight, cloud, len(field), device, check)
    yield "Joining", 0.93
    return _joined(values, field, moved, surface, weight, cloud)


# ------------------------------------------------------------------------------------------- points


def _cloud(
    points: np.ndarray, normals: np.ndarray | None, side: int, check: Callable[[], None]
) -> Cloud | None:
    """The points made ready as `wavelet_fit` does; None when there are too few of them."""
    inside = (np.abs(points) < 1).all(axis=1)
    normals = wavelet_fit.usable_normals(normals)
    normals = None if normals is None else normals[inside]
    points, normals = wavelet_fit.thinned(points[inside], normals, np.eye(4), 0.75 / side)
    if len(points) < 20:
        return None
    lonely = pointcloud.outliers(pointcloud.Neighbourhoods.of(points, 16))
    return wavelet_fit.prepared(
        points[~lonely], None if normals is None else normals[~lonely], check
    )


def _open(
    cloud: Cloud, side: int, device: torch.device, check: Callable[[], None]
) -> Generator[tuple[str, float], None, bool]:
    """Whether the surface through the points alone closes where there are no points."""
    values = yield from wavelet_fit.solved((cloud,), side, device, check, (0.12, 0.2))
    surface = Surface.of(wavelet_fit.as_distance(values, cloud))
    if not len(surface.points):
        return True
    check()
    away, nearest = cKDTree(cloud.points).query(surface.points, workers=thread_count())
    usual = np.maximum(cloud.spacings[nearest], np.median(cloud.spacings))
    unsupported = surface.area[away > SUPPORT * usual].sum()
    return bool(unsupported > OPEN * surface.area.sum())


def _smoothed(cloud: Cloud) -> Cloud:
    """Noisy points moved into the planes of their neighbours; others as they are."""
    strength = float(np.interp(cloud.roughness, NOISY, (0, 1)))
    if not strength:
        return cloud
    near = pointcloud.Neighbourhoods.of(cloud.points)
    heights = pointcloud.heights(cloud.points, cloud.normals, cloud.spacings, near)
    return replace(
        cloud, points=cloud.points + np.float32(strength) * heights[:, None] * cloud.normals
    )


def _guided(cloud: Cloud, surface: Surface, check: Callable[[], None]) -> Cloud:
    """The cloud with normals on the sides that the generated surface tells, where it is sure."""
    near = pointcloud.Neighbourhoods.of(cloud.points)
    guides = _guides(cloud.points, near, surface)
    check()
    normals = wavelet_fit.oriented(cloud.points, near, cloud.spacings, check, guides)
    rough = pointcloud.roughness(cloud.points, normals, near)
    return replace(cloud, normals=normals, roughness=rough)


def _guides(points: np.ndarray, near: pointcloud.Neighbourhoods, surface: Surface) -> np.ndarray:
    """(N, 3) float32: where the generated surface says the outside is, as long as it is sure."""
    axes = pointcloud.principal_normals(points, near)
    if not len(surface.points):
        return np.zeros_like(points)
    tree = _tree(surface, surface.chosen(40_000))
    ahead, behind = (
        tree.query(np.hstack([points, FACING * axes * side]), workers=thread_count())[0]
        for side in (1, -1)
    )
    # A point exactly on the surface, with its normal, is 0 away one way and 2 FACING the other.
    sure = (behind - ahead) / (2 * FACING) * np.exp(-((np.minimum(ahead, behind) / FARTHEST) ** 2))
    guides = axes * sure.astype(np.float32)[:, None]
    return guides[near.indices[:, :12]].mean(axis=1)


def _tree(surface: Surface, chosen: np.ndarray) -> cKDTree:
    """Vertices by place and direction."""
    return cKDTree(np.hstack([surface.points[chosen], FACING * surface.normals[chosen]]))


def _registered(
    surface: Surface, cloud: Cloud, check: Callable[[], None]
) -> tuple[Surface, np.ndarray]:
    """The surface moved towards the points, and by how much (V, 3), in a few rounds.

    Every point pulls the place of the surface that faces the same way, along the normal there.
    """
    moved = surface
    if not len(surface.points):
        return moved, np.zeros_like(surface.points)
    chosen = surface.chosen(40_000)
    asked = np.random.default_rng(0).permutation(len(cloud.points))[:MOST_MATCHED]
    points, normals = cloud.points[asked], cloud.normals[asked]
    share = cloud.area[asked]
    for width in STIFFNESS:
        check()
        distance, match = _tree(moved, chosen).query(
            np.hstack([points, FACING * normals]),
            distance_upper_bound=FARTHEST,
            workers=thread_count(),
        )
        met = np.isfinite(distance)
        if not met.any():
            break
        places, axes = moved.points[chosen][match[met]], moved.normals[chosen][match[met]]
        ahead = np.einsum("nc,nc->n", points[met] - places, axes)[:, None] * axes
        shift = _spread(places, ahead, share[met], width, moved.points)
        moved = replace(moved, points=moved.points + shift)
    return moved, moved.points - surface.points


def _spread(
    places: np.ndarray, vectors: np.ndarray, share: np.ndarray, width: float, wanted: np.ndarray
) -> np.ndarray:
    """The mean of vectors around each of the places that are wanted; it dies out beyond `width`."""
    side = int(np.clip(np.ceil(4 / width), 24, 96))
    cells = (places + 1) * np.float32(side / 2)
    grid = np.zeros((4, side, side, side), np.float32)
    _add_linear(cells, np.column_stack([vectors, np.ones(len(vectors))]) * share[:, None], grid)
    for part in grid:
        ndimage.gaussian_filter(part, width * side / 2, output=part, mode="constant", truncate=3)
    # Where the points' share of a whole surface around is below a quarter, trust in them fades.
    density = grid[3]
    usual = np.median(pointcloud.sample(density, cells))
    mean = grid[:3] / (density + 0.1 * usual)
    at = (wanted + 1) * np.float32(side / 2)
    return np.column_stack([pointcloud.sample(part, at) for part in mean])


@numba.njit(cache=True, nogil=True)
def _add_linear(places, values, grid):
    """Add values (N, C) to grid (C, n, n, n) at places (N, 3) in index coordinates."""
    side = grid.shape[1]
    for i in range(len(places)):
        for corner in range(8):
            weight = 1.0
            at = np.zeros(3, np.int64)
            for axis in range(3):
                low = int(np.floor(places[i, axis]))
                part = places[i, axis] - low
                step = corner >> axis & 1
                at[axis] = min(max(low + step, 0), side - 1)
                weight *= part if step else 1 - part
            for channel in range(grid.shape[0]):
                grid[channel, at[0], at[1], at[2]] += weight * values[i, channel]


# --------------------------------------------------------------------------------------- what stays


def _kept(field: np.ndarray, moved: Surface, cloud: Cloud, check: Callable[[], None]) -> np.ndarray:
    """(V,) float32: how much each vertex of the moved surface takes part in the solve, 0 to 1."""
    if not len(moved.points):
        return np.zeros(0, np.float32)
    weight = 1 - _covered(moved, cloud)
    check()
    weight[_contradicts(field, moved, weight > 0.5, cloud)] = 0
    return weight


def _covered(moved: Surface, cloud: Cloud) -> np.ndarray:
    """(V,) float32, 1 where points tell where the surface is, falling to 0 two spacings away."""
    # More points than this say the same, and each asks the vertices around it.
    points, normals, spacings = pointcloud.thin(
        cloud.points, 0.01, cloud.normals, cloud.spacings[:, None]
    )
    spacing = np.maximum(spacings[:, 0], 0.006)
    cell = 0.04
    side = int(np.ceil(2.2 / cell))
    keys = np.clip(((moved.points + 1.1) / cell).astype(np.int64), 0, side - 1)
    key = (keys[:, 0] * side + keys[:, 1]) * side + keys[:, 2]
    order = np.argsort(key, kind="stable")
    starts = np.searchsorted(key[order], np.arange(side**3 + 1))
    covered = np.zeros(len(moved.points), np.float32)
    _cover(
        points,
        pointcloud.unit(normals),
        spacing,
        np.float32(0.07),
        np.ascontiguousarray(moved.points[order]),
        np.ascontiguousarray(moved.normals[order]),
        starts,
        side,
        cell,
        covered,
    )
    result = np.empty_like(covered)
    result[order] = covered
    return result


@numba.njit(cache=True, nogil=True)
def _cover(points, normals, spacings, height, vertices, directions, starts, side, cell, covered):
    for i in range(len(points)):
        wide = 2.5 * spacings[i]
        radius = np.sqrt(wide * wide + height * height)
        first = np.empty(3, np.int64)
        last = np.empty(3, np.int64)
        for axis in range(3):
            # The cylinder's extent along each axis.
            n = abs(normals[i, axis])
            reach = min(radius, height * n + wide * np.sqrt(max(1 - n * n, 0.0)) + 1e-4)
            first[axis] = max(int((points[i, axis] + 1.1 - reach) / cell), 0)
            last[axis] = min(int((points[i, axis] + 1.1 + reach) / cell), side - 1)
        for x in range(first[0], last[0] + 1):
            for y in range(first[1], last[1] + 1):
                row = (x * side + y) * side
                for j in range(starts[row + first[2]], starts[row + last[2] + 1]):
                    if covered[j] >= 1:
                        continue
                    facing = np.float32(0)
                    ahead = np.float32(0)
                    square = np.float32(0)
                    for axis in range(3):
                        offset = vertices[j, axis] - points[i, axis]
                        facing += directions[j, axis] * normals[i, axis]
                        ahead += offset * normals[i, axis]
                        square += offset * offset
                    if facing < 0.3 or abs(ahead) > height:
                        continue
                    aside = np.sqrt(max(square - ahead * ahead, np.float32(0))) / spacings[i]
                    share = min(max(np.float32(2.5) - aside, np.float32(0)), np.float32(1))
                    covered[j] = max(covered[j], share)


def _contradicts(
    field: np.ndarray, moved: Surface, uncovered: np.ndarray, cloud: Cloud
) -> np.ndarray:
    """(V,) bool: vertices of pieces that cannot be where they are, going by the points.

    From vertices without points near them, look both ways. Outside of the generated shape one must
    not come upon the back of the points' surface, inside not upon its front; to see its back from
    inside speaks for the piece. Neighbours vote together.
    """
    asked = np.flatnonzero(uncovered)
    nothing = np.zeros(len(uncovered), bool)
    if not len(asked):
        return nothing
    if len(asked) > 20_000:
        asked = np.random.default_rng(0).permutation(asked)[:20_000]
    side = int(np.clip(1 / np.median(cloud.spacings), 32, 128))
    scale = np.float32(side / 2)
    # Where the shape has a surface by the points, theirs is nothing new to it.
    tree = cKDTree(moved.points[moved.chosen(40_000)])
    away = tree.query(cloud.points, distance_upper_bound=KNOWN, workers=thread_count())[0]
    fronts = np.zeros((5, side, side, side), np.float32)
    cells = np.clip(((cloud.points + 1) * scale).astype(np.int64), 0, side - 1)
    for axis in range(3):
        np.add.at(fronts[axis], tuple(cells.T), cloud.normals[:, axis])
    np.add.at(fronts[3], tuple(cells.T), 1)
    np.add.at(fronts[4], tuple(cells.T), np.isinf(away))
    votes = np.zeros((len(asked), 2), np.float32)
    directions = _directions(RAYS)
    in_chunks(
        _look,
        len(asked),
        np.ascontiguousarray((moved.points[asked] + 1) * scale),
        np.ascontiguousarray(moved.normals[asked]),
        directions,
        fronts,
        np.ascontiguousarray(field),
        np.float32(LONGEST_RAY * side / 2),
        votes,
    )
    grid = np.zeros((2, 64, 64, 64), np.float32)
    _add_linear((moved.points[asked] + 1) * np.float32(32), votes, grid)
    near, wide = (
        np.stack([ndimage.gaussian_filter(part, width) for part in grid]) for width in (1.2, 4)
    )
    against, favour = near + np.float32(0.05) * wide
    nothing[uncovered] = (
        pointcloud.sample(DOUBT * against - favour, (moved.points[uncovered] + 1) * np.float32(32))
        > 0
    )
    return nothing


def _directions(count: int) -> np.ndarray:
    """(count, 3) float32 unit vectors spread evenly over the sphere (Fibonacci's spiral)."""
    k = np.arange(count) + 0.5
    height = 1 - 2 * k / count
    turn = np.pi * (1 + 5**0.5) * k
    flat = np.sqrt(1 - height**2)
    return np.column_stack([flat * np.cos(turn), flat * np.sin(turn), height]).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _look(begin, end, places, normals, directions, fronts, field, longest, votes):
    """Count for each place the rays that speak against it and those that speak for it."""
    side = fronts.shape[1]
    finer = field.shape[0] / side
    for i in range(begin, end):
        for ray in range(len(directions)):
            cosine = (directions[ray] * normals[i]).sum()
            if abs(cosine) < 0.3:
                continue
            outer = cosine > 0
            length = 1.0
            while length < longest:
                x = places[i, 0] + length * directions[ray, 0]
                y = places[i, 1] + length * directions[ray, 1]
                z = places[i, 2] + length * directions[ray, 2]
                length += 0.5
                a, b, c = int(x), int(y), int(z)
                if x < 0 or y < 0 or z < 0 or a >= side or b >= side or c >= side:
                    break
                count = fronts[3, a, b, c]
                if count > 0:
                    if length < 2.4:
                        break  # next to the points themselves nothing can be told
                    facing = (
                        fronts[0, a, b, c] * directions[ray, 0]
                        + fronts[1, a, b, c] * directions[ray, 1]
                        + fronts[2, a, b, c] * directions[ray, 2]
                    ) / count
                    against = facing if outer else -facing
                    if against > 0.3:
                        votes[i, 0] += fronts[4, a, b, c] > 0.5 * count
                    elif against < -0.3 and not outer:
                        votes[i, 1] += 1
                    break
                value = field[
                    min(int(x * finer), field.shape[0] - 1),
                    min(int(y * finer), field.shape[0] - 1),
                    min(int(z * finer), field.shape[0] - 1),
                ]
                if (value < 0) == outer:
                    break


# ------------------------------------------------------------------------------------------ solving


def _solved(
    moved: Surface,
    weight: np.ndarray,
    cloud: Cloud,
    side: int,
    device: torch.device,
    check: Callable[[], None],
) -> Generator[tuple[str, float], None, np.ndarray]:
    """The field through the points and the vertices that stay, a distance near both."""
    stays = weight > 0.01
    area = (moved.area * weight)[stays]
    node = np.float32(2 / side)
    generated = Cloud(
        moved.points[stays],
        moved.normals[stays],
        area,
        np.full(len(area), node, np.float32),
        1.0,
    )
    clouds = (cloud, generated)
    values = yield from wavelet_fit.solved(clouds, side, device, check, (0.4, 0.93))
    both = Cloud(
        np.concatenate([cloud.points, generated.points]),
        np.concatenate([cloud.normals, generated.normals]),
        np.concatenate([cloud.area, generated.area]),
        np.concatenate([cloud.spacings, generated.spacings]),
        cloud.roughness,
    )
    return wavelet_fit.as_distance(values, both)


def _joined(
    values: np.ndarray,
    field: np.ndarray,
    moved: Surface,
    surface: Surface,
    weight: np.ndarray,
    cloud: Cloud,
) -> np.ndarray:
    """`values` near the points and near what was moved or left out, `field` elsewhere."""
    side = 64
    step = len(field) // side
    changed = np.zeros((side,) * 3, bool)
    shifted = np.linalg.norm(moved.points - surface.points, axis=1) > 0.5 / len(field)
    for places in (
        cloud.points,
        surface.points[(weight < 0.99) | shifted],
        moved.points[shifted],
    ):
        changed[tuple(np.clip(((places + 1) * (side / 2)).astype(np.intp), 0, side - 1).T)] = True
    coarse, solved = field[::step, ::step, ::step], values[::step, ::step, ::step]
    changed |= ((coarse < 0) != (solved < 0)) & (np.abs(coarse) > 0.03)
    distance = ndimage.distance_transform_edt(~changed) * (2 / side)
    share = np.clip((distance - 0.06) / 0.1, 0, 1).astype(np.float32)
    if not share.any():
        return values
    share = ndimage.zoom(share, step, order=1, grid_mode=True, mode="nearest")
    return values + share * (field - values)


# ------------------------------------------------------------------------------------------- voxels

PADDING = 3
"""Empty voxels around the given ones, which the surface must not enter either."""
SMALLNESS = 1.0
"""What the size of the correction costs beside its curvature: it dies out within a voxel or two."""
REPAIRS = 6


def refine_to_voxels(
    field: np.ndarray,
    occupancy: np.ndarray,
    origin: np.ndarray,
    voxel_size: np.ndarray,
    check: Callable[[], None] = lambda: None,
) -> Steps:
    """Keep the centre of every voxel on its side; a generator of (stage, fraction).

    field as in `refine_to_points`; occupancy (X, Y, Z) bool; origin, the corner with the lowest
    coordinates, and voxel_size (3,) in the cube. Returns a field like the one given, and just the
    same one where all centres are on their side. What is added is a correction with one value per
    voxel, of least curvature and size among those within the bounds, and interpolated by cubic
    splines. Voxels finer than the nodes of the field cannot all be kept to.
    """
    yield "Reading the voxels", 0.0
    occupancy = np.pad(np.asarray(occupancy, bool), PADDING)
    size = np.asarray(voxel_size, np.float64)
    first = np.asarray(origin, np.float64) + (0.5 - PADDING) * size
    unit = float(np.prod(size) ** (1 / 3))
    axes = [
        (first[axis] + np.arange(count) * size[axis] + 1) * len(field) / 2
        for axis, count in enumerate(occupancy.shape)
    ]
    centres = [_linear(len(field), places) for places in axes]
    generated = _along(centres, field) / np.float32(unit)
    check()
    bounds = _bounds_of_correction(occupancy, generated, float(np.abs(field).max()) / unit)
    start = torch.clamp(torch.zeros(occupancy.shape), *bounds)
    correction = yield from wavelet_fit.least_curvature(start, bounds, check, (0.1, 0.7), SMALLNESS)
    data = correction.numpy()
    nodes = [_cubic(places, len(field)) for places in axes]
    side = np.where(occupancy, np.float32(-1), np.float32(1))
    fine = field
    for turn in range(REPAIRS):
        check()
        yield "Refining", 0.7 + 0.3 * turn / REPAIRS
        fine = field + _along(nodes, ndimage.spline_filter(data, output=np.float32)) * np.float32(
            unit
        )
        here = _along(centres, fine) * side / np.float32(unit)
        lacking = np.maximum(np.float32(wavelet_fit.MARGIN / 2) - here, 0)
        if not lacking.any():
            break
        data = data + lacking * side * np.float32(1.2)
    limit = np.abs(field).max()
    return np.clip(fine, -limit, limit)


def _bounds_of_correction(
    occupancy: np.ndarray, generated: np.ndarray, truncation: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and most that may be added at each centre, in voxels.

    As for voxels alone, but that a value which is on its side already may stay.
    """
    least, most = (part.numpy() for part in wavelet_fit.distance_bounds(occupancy))
    least, most = np.maximum(least, -truncation), np.minimum(most, truncation)
    margin = min(wavelet_fit.MARGIN, truncation / 2)
    right = np.where(occupancy, -generated, generated) >= margin / 2
    low = np.where(right, np.minimum(least, generated), least) - generated
    high = np.where(right, np.maximum(most, generated), most) - generated
    return torch.from_numpy(low.astype(np.float32)), torch.from_numpy(high.astype(np.float32))


def _linear(count: int, places: np.ndarray) -> csr_matrix:
    """(places, count) weights that interpolate between `count` nodes; beyond them, the last."""
    at = np.clip(places, 0, count - 1)
    low = np.minimum(at.astype(np.int64), count - 2)
    rows = np.arange(len(places))
    entries = np.concatenate([1 - (at - low), at - low])
    return csr_matrix(
        (entries.astype(np.float32), (np.tile(rows, 2), np.concatenate([low, low + 1]))),
        (len(places), count),
    )


def _cubic(places: np.ndarray, count: int) -> csr_matrix:
    """(count, places) weights that give a cubic spline, with its coefficients at `places`, evenly
    spaced in index coordinates, at `count` nodes; beyond the places it is zero."""
    at = (np.arange(count) - places[0]) / (places[1] - places[0])
    low = np.floor(at).astype(np.int64)
    part = at - low
    weights = (
        (1 - part) ** 3 / 6,
        2 / 3 - part**2 * (2 - part) / 2,
        2 / 3 - (1 - part) ** 2 * (1 + part) / 2,
        part**3 / 6,
    )
    columns = np.concatenate([low + offset for offset in (-1, 0, 1, 2)])
    rows = np.tile(np.arange(count), 4)
    inside = (columns >= 0) & (columns < len(places))
    entries = np.concatenate(weights).astype(np.float32)[inside]
    return csr_matrix((entries, (rows[inside], columns[inside])), (count, len(places)))


def _along(matrices: Sequence[csr_matrix], volume: np.ndarray) -> np.ndarray:
    """Each of three (M, N) matrices applied along its axis of volume (N0, N1, N2)."""
    for matrix in matrices:
        flat = matrix @ volume.reshape(len(volume), -1)
        # Each turn brings the next axis to the front.
        volume = np.moveaxis(flat.reshape(matrix.shape[0], *volume.shape[1:]), 0, -1)
    return np.ascontiguousarray(volume)
