"""wavelet-fit: surfaces solved for in the wavelet domain, without learned weights.

The unknowns are the coefficients of a bior6.8 tree (256 -> 136 -> 76 -> 46) of a truncated signed
distance field. Its gradient is asked to be the normals at the points and zero elsewhere (the
idea of Poisson reconstruction, Kazhdan et al. 2006; the field is a smoothed indicator, scaled so
that it grows by one per unit at the surface: a distance, truncated where the smoothing ends). The
solve runs from coarse to fine: coarse levels carry the closed shape and span holes, and the
finest coefficients are unknowns only around points.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import BadInput
from ..geometry import gradient_fit, pointcloud, wavelets
from ..geometry.isosurface import marching_cubes
from ..geometry.transforms import apply_to_normals, apply_to_points, fit_to_cube, inverse

COARSEST = 64
ITERATIONS = {64: 4, 128: 4, 256: 3, 512: 2}
SMOOTHING = ((0.10, 0.45), (0.25, 0.5))
"""Roughness of the cloud -> width of the Gaussian around each point, in spacings."""

Steps = Generator[tuple[str, float], None, "Field"]


@dataclass(frozen=True, eq=False)
class Field:
    """A truncated signed distance field that was fitted.

    values: (n, n, n) float32, positive outside, in cube units; node i lies at 2 i / n - 1.
    to_source: (4, 4) float64 similarity from the cube to the frame of the source.
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
        return vertices * np.float32(2 / len(self.values)) - np.float32(1), faces


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
    to_cube, points, normals, dropped = _placed(points, normals, 0.75 / resolution)
    check()
    yield "Finding the outside" if normals is None else "Measuring the density", 0.05
    cloud = _prepared(points, normals)
    values = torch.empty(0)
    sides = [side for side in ITERATIONS if COARSEST <= side <= resolution]
    work = np.cumsum([0.0] + [float(side) ** 3 for side in sides])
    for index, side in enumerate(sides):
        start = torch.zeros((side,) * 3, device=device) if not index else _doubled(values)
        target, active = _data(cloud, side, device)
        for step, state in enumerate(
            gradient_fit.fit(target, start, ITERATIONS[side], active, check), 1
        ):
            done = work[index] + (work[index + 1] - work[index]) * step / ITERATIONS[side]
            yield f"Solving at {side}", 0.3 + 0.6 * done / work[-1]
            values = state
    check()
    report = {
        "points used": len(cloud.points),
        "outliers left out": dropped,
        "noise": round(cloud.roughness, 3),
        "normals": "estimated" if normals is None else "given",
    }
    return Field(_as_distance(values, cloud), inverse(to_cube), report)


def _placed(
    points: np.ndarray, normals: np.ndarray | None, cell: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, int]:
    """(transform to the cube, points in it, unit normals or None, outliers dropped)."""
    to_cube = fit_to_cube(points)
    points, normals = _thinned(points, normals, to_cube, cell)
    # Twice: a lonely point far away shrinks all else, so the box is taken anew without it.
    lonely = pointcloud.outliers(pointcloud.Neighbourhoods.of(points, 16))
    dropped = int(lonely.sum())
    if dropped:
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


def _thinned(
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


def _prepared(points: np.ndarray, normals: np.ndarray | None) -> Cloud:
    near = pointcloud.Neighbourhoods.of(points)
    area = pointcloud.areas(near)
    spacings = pointcloud.spacing(area, near)
    if normals is None:
        normals = pointcloud.orient(points, near, spacings)
    rough = pointcloud.roughness(points, normals, near)
    return Cloud(points, normals, area, spacings, rough)


def _data(
    cloud: Cloud, side: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(right-hand side, finest coefficients to solve for) at a grid of `side` nodes."""
    nodes = np.float32(side / 2)
    width = np.float32(np.interp(cloud.roughness, *SMOOTHING))
    flux = cloud.normals * (cloud.area * nodes**2)[:, None]
    sigmas = np.clip(width * cloud.spacings * nodes, 0.45, 8).astype(np.float32)
    places = (cloud.points + 1) * nodes
    target = gradient_fit.splat_divergence(places, flux, sigmas, side)
    active = _near_points(places, side) if side >= 256 else None
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


def _as_distance(values: torch.Tensor, cloud: Cloud) -> np.ndarray:
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
