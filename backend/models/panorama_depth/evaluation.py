"""How good the depth of a panorama is: errors against the truth, and steps at the seam and poles.

All depths are (H, W) radial metres, or inverse depth where told; pixels count by the area that they
cover on the sphere. Where the truth is not finite (sky) or not positive, nothing is compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ALIGNMENTS = ("none", "scale", "inverse")
_BESIDE = 8
"""Columns on each side of the seam with which it is compared."""


@dataclass(frozen=True)
class DepthErrors:
    """abs_rel: mean of |r - truth| / truth; abs_rel_p95: below which 95 % of the area are; rmse:
    metres; delta_1: share of the area with max(r / truth, truth / r) < 1.25; compared: share of the
    sphere where both are known."""

    abs_rel: float
    abs_rel_p95: float
    rmse: float
    delta_1: float
    compared: float


def depth_errors(depth: np.ndarray, truth: np.ndarray, align: str = "none") -> DepthErrors:
    """Of radial metres. align: what is free and fitted first: "none" (metric models), one "scale",
    or "inverse": a scale and a shift of 1 / r (relative models).

    Raises ValueError for other shapes, or where nothing can be compared.
    """
    if depth.shape != truth.shape or depth.ndim != 2:
        raise ValueError(f"depths of {depth.shape} and {truth.shape}")
    area = pixel_areas(truth.shape)
    with np.errstate(invalid="ignore"):
        both = np.isfinite(depth) & np.isfinite(truth) & (depth > 0) & (truth > 0)
    if not both.any():
        raise ValueError("there is no pixel where both are known")
    weights = area[both]
    weights = weights / weights.sum()
    told, true = depth[both].astype(float), truth[both].astype(float)
    told = aligned(told, true, weights, align)
    relative = np.abs(told - true) / true
    order = np.argsort(relative)
    place = min(int(np.searchsorted(np.cumsum(weights[order]), 0.95)), len(order) - 1)
    ratio = np.maximum(told / true, true / told)
    return DepthErrors(
        abs_rel=float(weights @ relative),
        abs_rel_p95=float(relative[order[place]]),
        rmse=float(np.sqrt(weights @ (told - true) ** 2)),
        delta_1=float(weights @ (ratio < 1.25)),
        compared=float(area[both].sum()),
    )


def aligned(told: np.ndarray, true: np.ndarray, weights: np.ndarray, how: str) -> np.ndarray:
    """(N,) metres `told`, with what is free fitted to `true` so that shares of it are small."""
    if how == "none":
        return told
    if how == "scale":
        return told * _weighted_median(true / told, weights)
    if how != "inverse":
        raise ValueError(f"alignment {how!r}, not one of {ALIGNMENTS}")
    # 1 / true = scale / told + shift, errors being shares of 1 / true, by Huber's weights.
    basis = np.stack([true / told, true], axis=1)
    robust = weights
    solution = np.zeros(2)
    for _ in range(20):
        normal = (robust[:, None] * basis).T @ basis
        solution = np.linalg.lstsq(normal, basis.T @ robust, rcond=1e-12)[0]
        off = np.abs(basis @ solution - 1)
        sigma = max(1.4826 * _weighted_median(off, weights), 1e-9)
        robust = weights / np.maximum(off / (1.5 * sigma), 1)
    inverse = solution[0] / told + solution[1]
    return 1 / np.maximum(inverse, 1e-3 * float(np.median(1 / true)))


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    sums = np.cumsum(weights[order])
    return float(values[order[min(int(np.searchsorted(sums, 0.5 * sums[-1])), len(order) - 1)]])


def pixel_areas(shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) float64, shares of the sphere, which add up to 1."""
    height, width = shape[:2]
    borders = np.sin(np.pi * (0.5 - np.arange(height + 1) / height))
    rows = (borders[:-1] - borders[1:]) / 2
    return np.repeat(rows[:, None] / width, width, axis=1)


# ----------------------------------------------------------------------------------- seam and poles


def seam_step(depth: np.ndarray) -> float:
    """How much larger the steps from the last column to the first are than those between the
    columns beside: 1 is as good as anywhere else.

    Steps are |log r| of neighbours in a row, averaged over the rows. Of depth / truth, it is the
    step that the depth has and the truth has not.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        steps = np.abs(np.log(np.roll(depth, -1, axis=1) / depth))
    columns = np.concatenate([steps[:, -1 - _BESIDE :], steps[:, :_BESIDE]], axis=1)
    columns = np.where(np.isfinite(columns), columns, 0)
    means = columns.mean(axis=0)
    others = np.delete(means, _BESIDE).mean()
    return float(means[_BESIDE] / max(others, 1e-9))


def pole_spread(depth: np.ndarray) -> tuple[float, float]:
    """How much the first and the last row vary, as shares: all their pixels meet in one point, so
    that 0 is right in the limit of many rows."""

    def spread(row: np.ndarray) -> float:
        row = row[np.isfinite(row)]
        return float((row.max() - row.min()) / np.median(row)) if len(row) else 0.0

    return spread(depth[0]), spread(depth[-1])
