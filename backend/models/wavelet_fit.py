"""wavelet-fit: surfaces solved for in the wavelet domain, without learned weights.

The unknowns are the coefficients of a bior6.8 tree (256 -> 136 -> 76 -> 46) of a truncated signed
distance field. Its gradient is asked to be the normals at the points and zero elsewhere (the
idea of Poisson reconstruction, Kazhdan et al. 2006; the field is a smoothed indicator, scaled so
that it grows by one per unit at the surface: a distance, truncated where the smoothing ends). The
solve runs from coarse to fine: coarse levels carry the closed shape and span holes, and the
finest coefficients are unknowns only around points.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import BadInput
from ..geometry import gradient_fit, pointcloud, voxels, wavelets
from ..geometry.isosurface import marching_cubes
from ..geometry.transforms import apply_to_normals, apply_to_points, fit_to_cube, inverse

COARSEST = 64
ITERATIONS = {64: 4, 128: 4, 256: 3, 512: 2}
SMOOTHING = ((0.10, 0.45), (0.25, 0.5))
"""Roughness of the cloud -> width of the Gaussian around each point, in spacings."""

MOST_ORIENTED = 120_000
"""Points whose sides are found one by one; more of them say nothing new about what is outside."""

Steps = Generator[tuple[str, float], None, "Field"]


@dataclass(frozen=True, eq=False)
class Field:
    """A truncated signed distance field that was fitted.

    values: (n, n, n) float32, positive outside, in cube units (voxels: (X, Y, Z), in voxels, and n
    is the longest side); node i lies at 2 i / n - 1.
    to_source: (4, 4) float64 from the cube to the frame of the source; a similarity, unless the
    voxels are no cubes.
    report: facts for the person.
    """

    values: np.ndarray
    to_source: np.ndarray
    report: dict[str, float | int | str] = field(default_factory=dict)

    def tree(self) -> wavelets.Tree:
        """The coefficients."""
        depth = gradient_fit.tree_depth(len(self.values))
        return wavelets.forward(torch.from_numpy(self.values), depth)

    def surface(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) float32 in the cube and faces (F, 3) int32; watertight."""
        vertices, faces = marching_cubes(self.values, closed=True)
        return vertices * np.float32(2 / max(self.values.shape)) - np.float32(1), faces


@dataclass(frozen=True, eq=False)
class Cloud:
    """A cloud made ready: in the cube, thinned, with outward normals.

    points, normals: (N, 3) float32; area: (N,) float32, cube units squared; spacings: (N,) float32.
    """

    points: np.ndarray
    normals: np.ndarray
    area: np.ndarray
    spacings: np.ndarray
    roughness: float


# ------------------------------------------------------------------------------------------- points


def fit_points(
    points: np.ndarray,
    normals: np.ndarray | None,
    resolution: int,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> Steps:
    """Fit a field to points; a generator of (stage, fraction) that returns the Field.

    points (N, 3) float32 in any frame; normals (N, 3) outward, any length, or None.
    """
    yield "Reading the points", 0.0
    normals = usable_normals(normals)
    to_cube, points, normals, dropped = _placed(points, normals, 0.75 / resolution)
    check()
    yield "Finding the outside" if normals is None else "Measuring the density", 0.05
    cloud = prepared(points, normals, check)
    values = yield from solved((cloud,), resolution, device, check, (0.3, 0.9))
    check()
    report = {
        "points used": len(cloud.points),
        "outliers left out": dropped,
        "noise": round(cloud.roughness, 3),
        "normals": "estimated" if normals is None else "given",
    }
    return Field(as_distance(values, cloud), inverse(to_cube), report)


def bytes_for_points(count: int, resolution: int) -> int:
    """Memory that `fit_points` takes at its peak, a little more than was measured.

    The volumes of the solver at the finest level, or before that the grid that finds the outside;
    and copies of the points.
    """
    return max(41 * resolution**3, 900 * 2**20) + 50 * count


def usable_normals(normals: np.ndarray | None) -> np.ndarray | None:
    """Normals with zeros for those that are not numbers; None when a tenth of them is of no use."""
    if normals is None:
        return None
    finite = np.isfinite(normals).all(axis=1)
    pointing = finite & normals.any(axis=1)
    if np.count_nonzero(pointing) < 0.9 * len(normals):
        return None
    return normals if finite.all() else np.where(finite[:, None], normals, 0)


def _placed(
    points: np.ndarray, normals: np.ndarray | None, cell: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, int]:
    """(transform to the cube, points in it, unit normals or None, outliers dropped)."""
    total = len(points)
    near = pointcloud.without_distant(points)
    if near is not None:
        points, normals = points[near], None if normals is None else normals[near]
    dropped = total - len(points)
    to_cube = fit_to_cube(points)
    points, normals = thinned(points, normals, to_cube, cell)
    # A lonely point shrinks all else, so the box is taken anew without it.
    lonely = pointcloud.outliers(pointcloud.Neighbourhoods.of(points, 16))
    dropped += int(lonely.sum())
    if lonely.any():
        back = inverse(to_cube)
        kept = apply_to_points(back, points[~lonely], np.float64)
        closer = fit_to_cube(kept)
        points = apply_to_points(closer, kept)
        normals = None if normals is None else normals[~lonely]
        to_cube = closer
    if len(points) < 20:
        raise BadInput(
            "Almost all points are at the same few places.",
            "Select a cloud whose points spread over a surface.",
        )
    return to_cube, points, normals, dropped


def thinned(
    points: np.ndarray, normals: np.ndarray | None, to_cube: np.ndarray, cell: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """One point per cell, and never more than bounded memory holds."""
    points = apply_to_points(to_cube, points)
    columns = [] if normals is None else [apply_to_normals(to_cube, normals)]
    while True:
        thinned, *rest = pointcloud.thin(points, cell, *columns)
        if len(thinned) <= 1_500_000:
            return thinned, pointcloud.unit(rest[0]) if rest else None
        cell *= 1.26


def prepared(points: np.ndarray, normals: np.ndarray | None, check: Callable[[], None]) -> Cloud:
    """The cloud of points (N, 3) float32 in the cube, thinned, without lonely ones; normals: unit
    ones, or None where they are to be found."""
    near = pointcloud.Neighbourhoods.of(points)
    check()
    area = pointcloud.areas(near)
    spacings = pointcloud.spacing(area, near)
    if normals is None:
        normals = oriented(points, near, spacings, check)
    rough = pointcloud.roughness(points, normals, near)
    return Cloud(points, normals, area, spacings, rough)


def oriented(
    points: np.ndarray,
    near: pointcloud.Neighbourhoods,
    spacings: np.ndarray,
    check: Callable[[], None],
    guides: np.ndarray | None = None,
) -> np.ndarray:
    """Outward unit normals (N, 3): all at once, or for huge clouds by those of a thinner one.

    guides: (N, 3) or None, see `pointcloud.orient`.
    """
    if len(points) <= MOST_ORIENTED:
        return pointcloud.orient(points, near, spacings, check=check, guides=guides)
    fewer, cell = points, 0.004
    fewer_guides = guides
    while len(fewer) > MOST_ORIENTED:
        fewer, *rest = pointcloud.thin(points, cell, *([] if guides is None else [guides]))
        fewer_guides = rest[0] if rest else None
        cell *= 1.26
    around = pointcloud.Neighbourhoods.of(fewer)
    wide = pointcloud.spacing(pointcloud.areas(around), around)
    coarse = pointcloud.orient(fewer, around, wide, check=check, guides=fewer_guides)
    check()
    outward = coarse[pointcloud.nearest(points, around.tree)]
    axes = pointcloud.principal_normals(points, near)
    sides = np.where(np.einsum("nc,nc->n", axes, outward) < 0, -1, 1).astype(np.float32)
    return pointcloud.unit(axes * sides[:, None] + outward)


def solved(
    clouds: Sequence[Cloud],
    resolution: int,
    device: torch.device,
    check: Callable[[], None],
    span: tuple[float, float],
) -> Generator[tuple[str, float], None, torch.Tensor]:
    """Solve for the smoothed indicator of all clouds together, from coarse to fine.

    A generator of (stage, fraction), the fraction within `span`, that returns (n, n, n) float32,
    which grows from inside to outside by about one.
    """
    values = torch.empty(0)
    sides = [side for side in ITERATIONS if COARSEST <= side <= resolution]
    work = np.cumsum([0.0] + [float(side) ** 3 for side in sides])
    for index, side in enumerate(sides):
        start = torch.zeros((side,) * 3, device=device) if not index else _doubled(values)
        values = start
        target, active = _data(clouds, side, device)
        check()
        for step, state in enumerate(
            gradient_fit.fit(target, start, ITERATIONS[side], active, check), 1
        ):
            done = work[index] + (work[index + 1] - work[index]) * step / ITERATIONS[side]
            share = done / work[-1]
            # Both ends exact: a bar that goes back by a rounding error goes back.
            yield f"Solving at {side}", span[0] * (1 - share) + span[1] * share
            values = state
    return values


def _data(
    clouds: Sequence[Cloud], side: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(right-hand side, finest coefficients to solve for) at a grid of `side` nodes."""
    nodes = np.float32(side / 2)
    target = np.zeros((side,) * 3, np.float32)
    places = [(cloud.points + 1) * nodes for cloud in clouds]
    for cloud, at in zip(clouds, places, strict=True):
        width = np.float32(np.interp(cloud.roughness, *SMOOTHING))
        flux = cloud.normals * (cloud.area * nodes**2)[:, None]
        sigmas = np.clip(width * cloud.spacings * nodes, 0.45, 8).astype(np.float32)
        if len(at):
            target += gradient_fit.splat_divergence(at, flux, sigmas, side)
    active = _near_points(np.concatenate(places), side) if side >= 256 else None
    return torch.from_numpy(target).to(device), None if active is None else active.to(device)


def _near_points(places: np.ndarray, side: int) -> torch.Tensor:
    """(s, s, s) float32, 1 for the finest coefficients whose support holds a point nearby."""
    size = wavelets.level_sizes(side, 1)[0]
    cells = np.clip(((places + 8) / 2).round().astype(np.intp), 0, size - 1)
    mask = torch.zeros((1, 1, size, size, size))
    mask[0, 0, cells[:, 0], cells[:, 1], cells[:, 2]] = 1
    for axis in range(3):
        window, margin = [1, 1, 1], [0, 0, 0]
        window[axis], margin[axis] = 7, 3
        mask = torch.nn.functional.max_pool3d(mask, window, 1, margin)
    return mask[0, 0]


def _doubled(values: torch.Tensor) -> torch.Tensor:
    """(n, n, n) -> (2 n, 2 n, 2 n) by linear interpolation; node i becomes node 2 i."""
    for axis in range(3):
        size = values.shape[axis]
        following = torch.cat(
            [values.narrow(axis, 1, size - 1), values.narrow(axis, size - 1, 1)], axis
        )
        pairs = torch.stack([values, (values + following) / 2], axis + 1)
        shape = list(values.shape)
        shape[axis] *= 2
        values = pairs.reshape(shape)
    return values


def as_distance(values: torch.Tensor, cloud: Cloud) -> np.ndarray:
    """Shift and scale so that the points lie at zero and the slope there is one."""
    side = len(values)
    volume = values.cpu().numpy()
    places = (cloud.points + 1) * np.float32(side / 2)
    sampled = pointcloud.sample(volume, places)
    level = np.float32(_weighted_median(sampled, cloud.area))
    slope = pointcloud.slope(volume, places) * np.float32(side / 2)
    # Scans of one side may leave the far side open; the border is outside then too.
    sign = 1 if np.median(volume[0]) >= level else -1
    steepness = max(_weighted_median(slope, cloud.area), 1e-6)
    volume -= level
    volume *= np.float32(sign / steepness)
    return volume


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order], dtype=np.float64)
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])


# ------------------------------------------------------------------------------------------- voxels

ROUNDS = 48
MARGIN = 0.08
"""Voxels by which the centre of every voxel stays on its side of the surface."""
REACH = 6
"""Voxels from the surface up to which distances bound the field."""
PADDING = 8


def fit_voxels(
    occupancy: np.ndarray,
    origin: np.ndarray,
    voxel_size: np.ndarray,
    resolution: int,
    check: Callable[[], None] = lambda: None,
) -> Steps:
    """Fit a smooth field to voxels; a generator of (stage, fraction) that returns the Field.

    occupancy (X, Y, Z) bool, origin and voxel_size (3,) as in VoxelsToMesh. The centre of every
    voxel keeps its side. A voxel tells the distance of its centre to the surface up to one voxel;
    among the fields within these bounds the one of least curvature (the integral of the squared
    Laplacian) is approached by accelerated projected gradients (Beck and Teboulle 2009). The grid
    has one node per voxel and is then refined by wavelet synthesis with zero fine coefficients:
    the scaling function itself interpolates.
    """
    yield "Reading the voxels", 0.0
    low, cropped = _cropped(occupancy)
    check()
    bounds = distance_bounds(np.pad(cropped, PADDING))
    middle = (bounds[0] + bounds[1]) / 2
    values = yield from least_curvature(middle, bounds, check, (0.05, 0.8))
    yield "Refining", 0.8
    values, to_index = _refined(values, bounds, resolution, check)
    start = np.asarray(origin) + (low - PADDING + 0.5) * voxel_size
    to_source = np.eye(4)
    to_source[:3, :3] = np.diag(voxel_size)
    to_source[:3, 3] = start
    # Field.surface gives cube coordinates; from these to nodes, to voxels, to the source.
    nodes = np.eye(4)
    nodes[:3, :3] *= max(values.shape) / 2
    nodes[:3, 3] = max(values.shape) / 2
    report: dict[str, float | int | str] = {
        "voxels": int(np.count_nonzero(occupancy)),
        "nodes per voxel": round(1 / to_index[0, 0]),
    }
    return Field(values.numpy(), to_source @ to_index @ nodes, report)


def least_curvature(
    values: torch.Tensor,
    bounds: Sequence[torch.Tensor],
    check: Callable[[], None],
    span: tuple[float, float],
    smallness: float = 0.0,
) -> Generator[tuple[str, float], None, torch.Tensor]:
    """The smoothest volume between two bounds, from `values` on; all (X, Y, Z) float32.

    Least is the sum of the squared Laplacian and of `smallness` times the square, which lets the
    volume die out within smallness^(-1/4) nodes of where the bounds hold it off zero. A generator
    of (stage, fraction), the fraction within `span`.
    """
    previous = values
    for turn in range(ROUNDS):
        check()
        yield "Smoothing", span[0] + (span[1] - span[0]) * turn / ROUNDS
        ahead = torch.lerp(previous, values, 1 + turn / (turn + 3))
        # 144 is the largest eigenvalue of the squared Laplacian.
        descent = gradient_fit.laplacian(gradient_fit.laplacian(ahead))
        descent.add_(ahead, alpha=smallness)
        ahead.sub_(descent, alpha=1 / (144 + smallness))
        previous, values = values, torch.clamp(ahead, *bounds, out=ahead)
    return values


def bytes_for_voxels(occupancy: np.ndarray, resolution: int) -> int:
    """Memory that `fit_voxels` takes at its peak, a little more than was measured."""
    _, cropped = _cropped(occupancy)
    sides = [size + 2 * PADDING for size in cropped.shape]
    doublings = _doublings(max(sides), resolution)
    if not doublings:
        return 34 * int(np.prod(sides)) + 400 * 2**20
    refined = max(sides)
    for _ in range(doublings):
        refined = 2 * refined - 16
    return max(34 * max(sides) ** 3, 8 * refined**3) + 400 * 2**20


def _doublings(side: int, resolution: int) -> int:
    """How often a grid of `side` nodes is refined to come near `resolution`."""
    doublings = 0
    while (side << doublings) * 1.41 < resolution:
        doublings += 1
    return doublings


def _cropped(occupancy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lowest indices (3,), the box of `occupancy` that holds all occupied voxels)."""
    box: list[slice] = []
    low: list[int] = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(occupancy.any(axis=others))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
        low.append(int(filled[0]))
    return np.array(low), np.asarray(occupancy[tuple(box)], bool)


def distance_bounds(occupancy: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and most signed distance, in voxels, that the field may have at each centre.

    The surface lies between a centre and the nearest one of the other side, at distance d: it is
    at most d away, and at least d - 1. Both (X, Y, Z) float32, up to REACH.
    """
    squares = np.where(
        occupancy,
        voxels.squared_distances(~occupancy, REACH),
        voxels.squared_distances(occupancy, REACH),
    )
    distance = np.sqrt(squares, dtype=np.float32)
    least = np.maximum(distance - 1, np.float32(MARGIN))
    return (
        torch.from_numpy(np.where(occupancy, -distance, least)),
        torch.from_numpy(np.where(occupancy, -least, distance)),
    )


def _refined(
    values: torch.Tensor,
    bounds: Sequence[torch.Tensor],
    resolution: int,
    check: Callable[[], None],
) -> tuple[torch.Tensor, np.ndarray]:
    """More nodes per voxel, and the (4, 4) transform from their indices to the voxels'.

    Synthesis averages a little; what a centre loses by it beyond its bounds is added back.
    """
    doublings = _doublings(max(values.shape), resolution)
    if not doublings:
        return values, np.eye(4)
    values, *bounds = (_cubic(part) for part in (values, *bounds))
    # Node j becomes node 2 j - 8 each time, so four nodes are lost at either end.
    step = 1 << doublings
    shift = 8 * (step - 1)
    first = -shift % step
    lost = (shift + first) // step
    data = values
    for _ in range(5):
        check()
        fine = _synthesized(data, doublings)
        here = fine[first::step, first::step, first::step]
        inner = (slice(lost, lost + len(here)),) * 3
        error = torch.clamp(here, bounds[0][inner], bounds[1][inner]) - here
        if float(error.abs().max()) < MARGIN / 2:
            break
        data = data.clone()
        data[inner] += error
    to_index = np.diag([1 / step] * 3 + [1.0])
    to_index[:3, 3] = shift / step
    return fine, to_index


def _cubic(volume: torch.Tensor) -> torch.Tensor:
    """`volume` grown at its high ends to a cube, by its value there, which is outside."""
    side = max(volume.shape)
    cube = volume.new_full((side,) * 3, float(volume.flatten()[-1]))
    cube[tuple(slice(size) for size in volume.shape)] = volume
    return cube


def _synthesized(values: torch.Tensor, doublings: int) -> torch.Tensor:
    for _ in range(doublings):
        # In three dimensions a coefficient is 2^1.5 times the value it stands for.
        values = wavelets.synthesize_level(values * 2**1.5, None)
    return values
