"""Aligned views -> one equirectangular map, by what they tell of differences.

Where the weights of views change, their values differ a little; averaged values would show that as
steps. So the map is sought whose differences between neighbouring pixels are those that the views
tell, and whose values follow theirs only over wide distances: a screened Poisson equation on the
sphere, in the logarithm of depth, so that errors count as shares. Columns go around, and at a pole
all pixels of the last row meet: their common border has no length there, so nothing flows through.

Where every pixel is seen, one Fourier transform along the rows and a tridiagonal system per
frequency solve it exactly. Where some are not, that is the preconditioner of conjugate gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .tangent_views import View, sample_view

REACH = 0.35
"""Radians over which the map follows the values of the views, and not only their differences."""

_SHARPNESS = 3
"""The power of the weights: the higher, the more the view counts that sees a place best."""

_UNSEEN = 1e-3
"""Stiffness where no view tells anything: the map is drawn smoothly across."""

_TOLERANCE = 1e-6
_MOST_ITERATIONS = 60


@dataclass(frozen=True, eq=False)
class Sphere:
    """An equirectangular grid of `height` rows and `width` columns."""

    height: int
    width: int

    @property
    def latitudes(self) -> np.ndarray:
        return np.pi * (0.5 - (np.arange(self.height) + 0.5) / self.height)

    @property
    def longitudes(self) -> np.ndarray:
        return 2 * np.pi * (0.5 - (np.arange(self.width) + 0.5) / self.width)

    def dot(self, axis: np.ndarray, rows: slice) -> np.ndarray:
        """(rows, W) float32: the directions of some rows, projected on an axis."""
        latitudes = self.latitudes[rows]
        around = axis[0] * np.cos(self.longitudes) + axis[1] * np.sin(self.longitudes)
        return (
            np.cos(latitudes)[:, None] * around + (axis[2] * np.sin(latitudes))[:, None]
        ).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Layer:
    """What one view tells of the grid, from row `first` on. values, weights: (rows, W) float32."""

    first: int
    values: np.ndarray
    weights: np.ndarray


def layer_of(
    view: View,
    prediction: np.ndarray,
    scale: float,
    shift: float,
    lift: float,
    least: float,
    sphere: Sphere,
) -> Layer:
    """Logarithms of 1 / r = cosine * (scale * prediction + shift) + lift, or of `least` where that
    is less.

    Weights fall to 0 at the border of the view, and where the prediction is not finite.
    """
    rows = _rows_seen(view, sphere)
    cosine = sphere.dot(view.forward, rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = sphere.dot(view.right, rows) / cosine
        y = -sphere.dot(view.up, rows) / cosine
    inside = (cosine > 0) & (np.abs(x) < 1) & (np.abs(y) < 1)
    x, y, cosine = x[inside], y[inside], cosine[inside]
    told = cosine * (np.float32(scale) * sample_view(prediction, x, y) + np.float32(shift))
    told += np.float32(lift)
    known = np.isfinite(told)
    weight = ((1 - x * x) * (1 - y * y)) ** _SHARPNESS * known
    values = np.zeros(inside.shape, np.float32)
    weights = np.zeros(inside.shape, np.float32)
    values[inside] = np.log(np.maximum(np.where(known, told, least), least))
    weights[inside] = weight
    return Layer(rows.start, values, weights)


def _rows_seen(view: View, sphere: Sphere) -> slice:
    """Those within the angle of a corner of the view from its axis."""
    middle = math.asin(max(-1.0, min(1.0, float(view.forward[2]))))
    corner = math.acos(1 / math.sqrt(3))
    seen = np.flatnonzero(np.abs(sphere.latitudes - middle) <= corner)
    return slice(int(seen[0]), int(seen[-1]) + 1)


def merge(layers: Iterable[Layer], sphere: Sphere) -> tuple[np.ndarray, np.ndarray]:
    """Layers -> the map (H, W) float32, and where any layer told something, (H, W) bool.

    Raises ValueError when none does.
    """
    shape = (sphere.height, sphere.width)
    along, along_weight = np.zeros(shape), np.zeros(shape)  # from column j to column j + 1
    down, down_weight = np.zeros(shape), np.zeros(shape)  # from row i to row i + 1
    value, value_weight = np.zeros(shape), np.zeros(shape)
    for layer in layers:
        rows = slice(layer.first, layer.first + len(layer.values))
        values, weights = layer.values, layer.weights
        value[rows] += weights * values
        value_weight[rows] += weights
        shared = np.minimum(weights, np.roll(weights, -1, axis=1))
        along[rows] += shared * (np.roll(values, -1, axis=1) - values)
        along_weight[rows] += shared
        inner = slice(rows.start, rows.stop - 1)
        shared = np.minimum(weights[:-1], weights[1:])
        down[inner] += shared * (values[1:] - values[:-1])
        down_weight[inner] += shared
    seen = value_weight > 0
    if not seen.any():
        raise ValueError("no layer tells anything")
    for total, weight in ((value, value_weight), (along, along_weight), (down, down_weight)):
        np.divide(total, weight, out=total, where=weight > 0)
    equation = _Equation(
        sphere,
        np.where(along_weight > 0, 1.0, _UNSEEN),
        np.where(down_weight > 0, 1.0, _UNSEEN),
        seen.astype(float),
    )
    start = np.where(seen, value, value[seen].mean())
    return equation.solve(along, down, value, start).astype(np.float32), seen


class _Equation:
    """Finite volumes on the sphere. along, down, held: (H, W) stiffness of both kinds of borders
    between pixels, and of the tie of each pixel to its value."""

    def __init__(
        self, sphere: Sphere, along: np.ndarray, down: np.ndarray, held: np.ndarray
    ) -> None:
        height, width = sphere.height, sphere.width
        # A border between columns is as long as a row is high; a border between rows as long as a
        # column is wide. Both are divided by the distance that they separate.
        aspect = (math.pi / height) / (2 * math.pi / width)
        flat = np.cos(sphere.latitudes)
        below = np.cos(np.pi * (0.5 - np.arange(1, height + 1) / height))
        below[-1] = 0.0  # the pole
        self.plain_along = aspect / flat
        self.plain_down = below / aspect
        self.plain_held = flat * (math.pi / height) * (2 * math.pi / width) / REACH**2
        self.along = along * self.plain_along[:, None]
        self.down = down * self.plain_down[:, None]
        self.held = held * self.plain_held[:, None]

    def solve(
        self, along: np.ndarray, down: np.ndarray, value: np.ndarray, start: np.ndarray
    ) -> np.ndarray:
        """The map with these differences and values, by preconditioned conjugate gradients."""
        wanted = self.held * value
        wanted += self._divergence(self.along * along, self.down * down)
        found = start
        residual = wanted - self._apply(found)
        goal = _TOLERANCE * max(float(np.linalg.norm(wanted)), 1e-30)
        step, slope = np.zeros_like(residual), np.inf
        for _ in range(_MOST_ITERATIONS):
            if float(np.linalg.norm(residual)) <= goal:
                break
            better = self._precondition(residual)
            previous, slope = slope, float(np.vdot(residual, better))
            step = better + (slope / previous) * step
            moved = self._apply(step)
            length = slope / float(np.vdot(step, moved))
            found = found + length * step
            residual = residual - length * moved
        return found

    def _apply(self, map_: np.ndarray) -> np.ndarray:
        along = self.along * (np.roll(map_, -1, axis=1) - map_)
        down = self.down.copy()
        down[:-1] *= map_[1:] - map_[:-1]
        down[-1] = 0
        return self.held * map_ + self._divergence(along, down)

    @staticmethod
    def _divergence(along: np.ndarray, down: np.ndarray) -> np.ndarray:
        out = np.roll(along, 1, axis=1) - along
        out -= down
        out[1:] += down[:-1]
        return out

    def _precondition(self, residual: np.ndarray) -> np.ndarray:
        """The solution as if every pixel were seen: Thomas' algorithm over the rows, for all
        frequencies at once."""
        height, width = residual.shape
        waves = np.fft.rfft(residual, axis=1)
        turns = np.arange(waves.shape[1]) / width
        stiff = 2 - 2 * np.cos(2 * np.pi * turns)
        above = np.concatenate([[0.0], self.plain_down[:-1]])
        own = self.plain_held + above + self.plain_down
        ratios = np.empty((height, len(turns)))
        left = np.zeros(len(turns))
        for row in range(height):
            pivot = own[row] + self.plain_along[row] * stiff - above[row] * left
            left = ratios[row] = self.plain_down[row] / pivot
            if row:
                waves[row] += above[row] * waves[row - 1]
            waves[row] /= pivot
        for row in range(height - 2, -1, -1):
            waves[row] += ratios[row] * waves[row + 1]
        return np.fft.irfft(waves, n=width, axis=1)
