"""One scale and one shift for each view, such that views agree where they overlap.

A monocular model tells the inverse of depth along the axis of its view, 1 / z, up to a scale and a
shift of its own in each picture. Along a direction at an angle to the axis, 1 / r = cosine / z. So
with the prediction p, 1 / r = scale * (cosine * p) + shift * cosine: linear in both unknowns, and
because the cosines of two views differ within their overlap, shifts cannot hide in one another.
Only a scale for all views together stays free, of models that tell no metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROUNDS = 12
_CUTOFF = 1.5
"""Of Huber's weights, in standard deviations."""

_LEAST_DISAGREEMENT = 1e-4
_PRIOR = 1e-9
_METRIC_PRIOR = 1e-2


@dataclass(frozen=True, eq=False)
class Overlaps:
    """What V views tell in P directions.

    values: (P, V) float64, cosine * prediction; cosines: (P, V); weights: (P, V), 0 where a view
    does not see the direction.
    """

    values: np.ndarray
    cosines: np.ndarray
    weights: np.ndarray

    def of(self, views: np.ndarray) -> Overlaps:
        """Only `views`, numbers or a mask."""
        return Overlaps(self.values[:, views], self.cosines[:, views], self.weights[:, views])


@dataclass(frozen=True, eq=False)
class Alignment:
    """scales, shifts: (V,) float64; disagreement: (V,), how far a view is from the others, as a
    share of the inverse depth, the median over its overlaps; correlation: (V,), of what it tells
    with what the others do there."""

    scales: np.ndarray
    shifts: np.ndarray
    disagreement: np.ndarray
    correlation: np.ndarray


def align(overlaps: Overlaps, metric: bool = False) -> Alignment:
    """Robust least squares over all overlaps at once.

    metric: predictions are inverse metres already, and scales stay near 1 and shifts near 0.
    Otherwise inverse depth has a mean spread of 1 per view.
    """
    spreads = _spreads(overlaps)
    basis = np.stack([overlaps.values / spreads, overlaps.cosines], axis=2)
    seen = overlaps.weights * (np.count_nonzero(overlaps.weights, axis=1) > 1)[:, None]
    weights = seen
    relative, told = np.zeros_like(seen), np.zeros_like(seen)
    solution = np.zeros((basis.shape[1], 2))
    for turn in range(ROUNDS):
        previous = solution
        solution = _solve(basis, weights, spreads if metric else None)
        told = np.einsum("pvk,vk->pv", basis, solution)
        total = seen.sum(axis=1)
        mean = (seen * told).sum(axis=1) / np.where(total > 0, total, 1)
        # Errors count as shares of what is there, or near things would be all that matters.
        size = np.maximum(np.abs(mean), 0.05 * np.median(np.abs(mean[total > 0])))[:, None]
        relative = np.abs(told - mean[:, None]) / size
        sigma = max(1.4826 * float(np.median(relative[seen > 0])), _LEAST_DISAGREEMENT)
        robust = 1 / np.maximum(relative / (_CUTOFF * sigma), 1)
        weights = seen * robust / size**2
        if turn and np.allclose(solution, previous, rtol=1e-5, atol=1e-8):
            break
    disagreement = [
        float(np.median(relative[seen[:, view] > 0, view])) if seen[:, view].any() else np.inf
        for view in range(seen.shape[1])
    ]
    return Alignment(
        solution[:, 0] / spreads,
        solution[:, 1],
        np.array(disagreement),
        _correlations(overlaps, seen, told),
    )


def _correlations(overlaps: Overlaps, seen: np.ndarray, told: np.ndarray) -> np.ndarray:
    """(V,) correlation of the inverse depth of a view with the mean of the others."""
    total, weighted = seen.sum(axis=1), (seen * told).sum(axis=1)
    found = np.zeros(seen.shape[1])
    for view in range(seen.shape[1]):
        own = seen[:, view]
        places = np.flatnonzero(own)
        others = total[places] - own[places]
        cosine = overlaps.cosines[places, view]
        theirs = (weighted[places] - own[places] * told[places, view]) / others / cosine
        ours = overlaps.values[places, view] / cosine
        if len(places) > 2 and ours.std() > 0 and theirs.std() > 0:
            found[view] = np.corrcoef(ours, theirs)[0, 1]
    return found


def _spreads(overlaps: Overlaps) -> np.ndarray:
    """(V,) standard deviations of the predictions of each view, by which they become comparable."""
    found = []
    for view in range(overlaps.values.shape[1]):
        seen = overlaps.weights[:, view] > 0
        plain = overlaps.values[seen, view] / overlaps.cosines[seen, view]
        found.append(max(float(plain.std()), 1e-12))
    return np.array(found)


def _solve(basis: np.ndarray, weights: np.ndarray, metric_spreads: np.ndarray | None) -> np.ndarray:
    """(V, 2) scale and shift with the least weighted variance within directions.

    The mean over views takes part as an unknown that is eliminated beforehand.
    """
    count = basis.shape[1]
    told = (weights[..., None] * basis).reshape(len(basis), 2 * count)
    total = weights.sum(axis=1)
    normal = -(told.T @ (told / np.where(total > 0, total, 1)[:, None]))
    own = np.einsum("pv,pvk,pvl->vkl", weights, basis, basis)
    for view in range(count):
        place = slice(2 * view, 2 * view + 2)
        normal[place, place] += own[view]
    typical = np.einsum("vkk->vk", own).ravel()
    typical = np.maximum(typical, 1e-12 * typical.max())
    if metric_spreads is not None:
        wanted = np.stack([metric_spreads, np.zeros(count)], axis=1).ravel()
        prior = np.diag(_METRIC_PRIOR * typical)
        return np.linalg.solve(normal + prior, prior @ wanted).reshape(count, 2)
    # Scales shall have a mean of 1. The prior only decides what overlaps leave open.
    toward = np.tile([1.0, 0.0], count)
    prior = np.diag(_PRIOR * typical)
    found = np.linalg.solve(normal + prior, toward)
    found = found.reshape(count, 2)
    return found / found[:, 0].mean()
