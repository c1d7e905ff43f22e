"""Depths of several views brought to one scale, where each has an error of its own.

Depth that a model tells of a single picture is right up to a scale, or up to a scale and a shift of
1 / depth. The cameras are known, so a place that two views see has to lie on the surface of both:
that fixes the scales, by least squares on the distances from points of one view to the planes of
the other (Gauss-Newton, with less weight for what does not fit).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import ndimage

from .view_fusion import PosedViews, projections, unprojected

_SAMPLES = 400  # of each view
_PARTNERS = 10
_ROUNDS = 12
_GATES = (
    0.12,
    0.015,
)  # how far apart two views may see a place, of its depth: first and last round
_AGREEING = 0.3  # cosine of two normals of one surface
_HELD = 1e-3  # how strongly scales are held where no other view looks
_LEAST_PAIRS = 30
_SHIFT_HELD = 1e4


@dataclass(frozen=True, eq=False)
class Scales:
    """factors (V,), shifts (V,): depths become 1 / (factor / depth + shift). noise: standard
    deviation that is left between views, in units of the world; before: the same without it; 0
    where no two views see a place. pairs: (V,) int, of how many places each was compared.
    agreement: share of the places that do not lie where another view sees empty space."""

    factors: np.ndarray
    shifts: np.ndarray
    noise: float
    before: float
    pairs: np.ndarray
    agreement: float

    def applied(self, depth: np.ndarray) -> np.ndarray:
        """(V, H, W) float32 depths as they are with these scales; 0 stays 0."""
        known = np.isfinite(depth) & (depth > 0)
        turned = np.divide(1.0, depth, out=np.zeros(depth.shape), where=known)
        turned = turned * self.factors[:, None, None] + self.shifts[:, None, None]
        good = known & (turned > 1e-9)
        return np.divide(1.0, turned, out=np.zeros(depth.shape), where=good).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Sample:
    """Of each view: rays (N, 3) of depth one in the world, depths (N,)."""

    rays: np.ndarray
    depth: np.ndarray


def solve(views: PosedViews, *, with_shift: bool = False) -> Scales:
    """The scale of each view's depth, and with_shift also the shift of its inverse."""
    assert views.depth is not None  # noqa: S101 - there is nothing to solve without
    clean = [_clean(views, number) for number in range(len(views))]
    normals = []
    for number, depth in enumerate(clean):
        fx, fy, cx, cy = views.intrinsics[number]
        normals.append(_normals(depth, fx, fy, cx, cy, views.poses[number][:3, :3]))
    samples = [_sample(views, number, depth) for number, depth in enumerate(clean)]
    partners = _partners(views)
    parameters = np.zeros((len(views), 2))
    parameters[:, 0] = 1
    before = noise = 0.0
    agreement = 0.0
    pairs = np.zeros(len(views), int)
    for turn in range(_ROUNDS):
        gate = _GATES[0] * (_GATES[1] / _GATES[0]) ** (turn / (_ROUNDS - 1))
        rows, denied = _rows(views, clean, normals, samples, partners, parameters, gate)
        if len(rows[0]) < _LEAST_PAIRS:
            break
        noise = _spread(rows[0])
        agreement = len(rows[0]) / (len(rows[0]) + denied)
        if turn == 0:
            before = noise
        pairs = np.bincount(rows[1], minlength=len(views)) + np.bincount(
            rows[2], minlength=len(views)
        )
        parameters = parameters + _step(rows, parameters, noise, with_shift)
        parameters[:, 0] = np.clip(parameters[:, 0], 0.2, 5)
    return Scales(parameters[:, 0], parameters[:, 1], noise, before, pairs, agreement)


def _spread(residuals: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(residuals)))


def _clean(views: PosedViews, number: int) -> np.ndarray:
    """(H, W) float64 depth, 0 at outlines and at jumps, where it belongs to nothing."""
    assert views.depth is not None  # noqa: S101
    depth = views.depth[number].astype(np.float64)
    known = np.isfinite(depth) & (depth > 0) & (views.opacity[number] >= 0.5)
    known = ndimage.binary_erosion(known, iterations=2)
    here = np.where(known, depth, np.nan)
    high = ndimage.maximum_filter(np.where(known, depth, -np.inf), 3)
    low = ndimage.minimum_filter(np.where(known, depth, np.inf), 3)
    smooth = known & (high - low < 0.03 * np.nan_to_num(here))
    return np.where(smooth, depth, 0.0)


@njit(cache=True, nogil=True)
def _normals(depth, fx, fy, cx, cy, turn):
    """(H, W, 3) float64 unit normals in the world, towards the camera, of neighbours two pixels
    away; 0 where one of them is unknown."""
    height, width = depth.shape
    out = np.zeros((height, width, 3))
    for row in range(2, height - 2):
        for column in range(2, width - 2):
            z = depth[row, column]
            left, right = depth[row, column - 2], depth[row, column + 2]
            up, down = depth[row - 2, column], depth[row + 2, column]
            if min(min(left, right), min(min(up, down), z)) <= 0:
                continue
            u, v = (column - cx) / fx, (row - cy) / fy
            across, along = (right - left) / 4 * fx, (down - up) / 4 * fy
            # Of the plane through the neighbours, x right, y down, z forward, towards the camera.
            nx, ny, nz = across, along, -(z + u * across + v * along)
            length = (nx * nx + ny * ny + nz * nz) ** 0.5
            # Blender's camera axes: y up, z backward.
            a, b, c = nx / length, -ny / length, -nz / length
            for axis in range(3):
                out[row, column, axis] = turn[axis, 0] * a + turn[axis, 1] * b + turn[axis, 2] * c
    return out


def _sample(views: PosedViews, number: int, depth: np.ndarray) -> _Sample:
    rows, columns = np.nonzero(depth > 0)
    chosen = np.random.default_rng(number).permutation(len(rows))[:_SAMPLES]
    rows, columns = rows[chosen], columns[chosen]
    at = np.stack([columns, rows, np.ones(len(rows))], axis=1)
    pose = views.poses[number]
    rays = unprojected(pose, views.intrinsics[number], at) - pose[:3, 3]
    return _Sample(rays, depth[rows, columns])


def _partners(views: PosedViews) -> list[np.ndarray]:
    """For each view the others that look most alike."""
    back = views.poses[:, :3, 2]
    alike = back @ back.T
    np.fill_diagonal(alike, -np.inf)
    order = np.argsort(-alike, axis=1)
    return [row[:_PARTNERS][alike[k, row[:_PARTNERS]] > -0.5] for k, row in enumerate(order)]


_Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _rows(
    views: PosedViews,
    clean: list[np.ndarray],
    normals: list[np.ndarray],
    samples: list[_Sample],
    partners: list[np.ndarray],
    parameters: np.ndarray,
    gate: float,
) -> tuple[_Rows, int]:
    """residuals (N,), views i and j (N,) each, and derivatives (N, 2) by the parameters of both;
    and how many places lie where another view sees empty space."""
    matrices = projections(views.poses, views.intrinsics)
    found: list[_Rows] = []
    denied = 0
    for i, sample in enumerate(samples):
        scaled = _scaled(sample.depth, parameters[i])
        points = views.poses[i][:3, 3] + sample.rays * scaled[:, None]
        for j in partners[i]:
            column, row, depth = matrices[j][:, :3] @ points.T + matrices[j][:, 3:]
            ahead = depth > 1e-6
            safe = np.where(ahead, depth, 1.0)
            u, v = np.rint(column / safe), np.rint(row / safe)
            height, width = clean[j].shape
            within = ahead & (u >= 0) & (v >= 0) & (u < width) & (v < height)
            k = np.flatnonzero(within)
            if not len(k):
                continue
            y, x = v[k].astype(int), u[k].astype(int)
            there, normal = clean[j][y, x], normals[j][y, x]
            own = _scaled(np.where(there > 0, there, 1.0), parameters[j])
            apart = np.abs(own - depth[k])
            denied += int(((there > 0) & (own - depth[k] > gate * depth[k])).sum())
            away = -np.einsum("ni,ni->n", normal, sample.rays[k])
            good = (there > 0) & normal.any(axis=1) & (apart < gate * depth[k])
            good &= away > _AGREEING * np.linalg.norm(sample.rays[k], axis=1)
            k, x, y, there, own, normal = (part[good] for part in (k, x, y, there, own, normal))
            at = np.stack([x, y, np.ones(len(x))], axis=1).astype(float)
            rays = unprojected(views.poses[j], views.intrinsics[j], at) - views.poses[j][:3, 3]
            other = views.poses[j][:3, 3] + rays * own[:, None]
            residual = np.einsum("ni,ni->n", normal, points[k] - other)
            first = np.einsum("ni,ni->n", normal, sample.rays[k])
            second = -np.einsum("ni,ni->n", normal, rays)
            found.append(
                (
                    residual,
                    np.full(len(k), i),
                    np.full(len(k), j),
                    first[:, None] * _slopes(sample.depth[k], scaled[k]),
                    second[:, None] * _slopes(there, own),
                )
            )
    if not found:
        none, empty = np.zeros(0, int), np.zeros((0, 2))
        return (np.zeros(0), none, none, empty, empty), denied
    residuals, first_views, second_views, one, two = zip(*found, strict=True)
    return (
        np.concatenate(residuals),
        np.concatenate(first_views),
        np.concatenate(second_views),
        np.concatenate(one),
        np.concatenate(two),
    ), denied


def _scaled(depth: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    factor, shift = parameters
    return 1 / np.maximum(factor / depth + shift, 1e-9)


def _slopes(depth: np.ndarray, scaled: np.ndarray) -> np.ndarray:
    """(N, 2): how the scaled depth changes with the factor and with the shift."""
    return np.stack([-(scaled**2) / depth, -(scaled**2)], axis=1)


def _step(rows: _Rows, parameters: np.ndarray, noise: float, with_shift: bool) -> np.ndarray:
    """(V, 2) the change of the parameters that fits best."""
    residuals, i, j, one, two = rows
    size = 2 * len(parameters)
    scale = max(2 * noise, 1e-12)
    weights = 1 / (1 + (residuals / scale) ** 2) / scale**2
    matrix, right = np.zeros((size, size)), np.zeros(size)
    columns = np.stack([2 * i, 2 * i + 1, 2 * j, 2 * j + 1], axis=1)
    slopes = np.concatenate([one, two], axis=1)
    for a in range(4):
        np.add.at(right, columns[:, a], -weights * slopes[:, a] * residuals)
        for b in range(4):
            place = columns[:, a] * size + columns[:, b]
            product = weights * slopes[:, a] * slopes[:, b]
            matrix += np.bincount(place, product, size * size).reshape(size, size)
    held = np.zeros(size)
    usual = float(np.diag(matrix)[0::2].mean())
    held[0::2] = _HELD * usual
    held[1::2] = (_HELD if with_shift else _SHIFT_HELD) * max(
        float(np.diag(matrix)[1::2].mean()), 1
    )
    wanted = np.zeros((len(parameters), 2))
    wanted[:, 0] = 1
    right += held * (wanted - parameters).ravel()
    step = np.linalg.solve(matrix + np.diag(held), right).reshape(-1, 2)
    if not with_shift:
        step[:, 1] = 0
    return np.clip(step, -0.1, 0.1) if not with_shift else step
