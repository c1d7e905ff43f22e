"""A room of which every direction has a known depth, and models that tell it in their own way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from backend.models.panorama_depth.merging import Sphere
from backend.models.panorama_depth.monocular import METRIC, RELATIVE
from backend.models.panorama_depth.tangent_views import View, sample_equirect, tangent_views

FILE = Path(__file__).resolve().parents[2] / "golden" / "panorama" / "room_a.npz"
Change = Callable[[np.ndarray], np.ndarray]


@functools.cache
def picture() -> np.ndarray:
    """(256, 512, 3) uint8."""
    with np.load(FILE) as arrays:
        return arrays["rgb"]


@functools.cache
def _inverse() -> np.ndarray:
    with np.load(FILE) as arrays:
        return 1 / arrays["depth"]


def inverse_in(directions: np.ndarray) -> np.ndarray:
    """1 / r in (..., 3) directions of length 1, float32."""
    return sample_equirect(_inverse(), directions)


def directions_of(width: int) -> np.ndarray:
    """(width / 2, width, 3): the pixels of a panorama."""
    grid = Sphere(width // 2, width)
    flat = np.cos(grid.latitudes)[:, None]
    parts = (
        flat * np.cos(grid.longitudes),
        flat * np.sin(grid.longitudes),
        np.repeat(np.sin(grid.latitudes)[:, None], width, axis=1),
    )
    return np.stack(parts, axis=-1)


@functools.cache
def truth(width: int) -> np.ndarray:
    """(width / 2, width) float32 radial metres."""
    return 1 / inverse_in(directions_of(width))


@functools.cache
def inverse_along_axis(view: View, side: int) -> np.ndarray:
    """(side, side) float32, 1 / z as a view has it."""
    directions = view.directions(side)
    return (inverse_in(directions) / (directions @ view.forward)).astype(np.float32)


@functools.cache
def cameras(count: int) -> tuple[View, ...]:
    return tangent_views(count)


class KnowingModel:
    """Tells the true depth of each view, asked for in order, with a scale and a shift of its own
    that chance chooses for each; and `changes` by number of the view.

    noise: a standard deviation, as a share. METRIC: metres, each view off by up to `off`.
    """

    def __init__(
        self,
        side: int = 160,
        output: str = RELATIVE,
        *,
        views: int = 20,
        seed: int = 0,
        noise: float = 0.0,
        off: float = 0.1,
        changes: Mapping[int, Change] | None = None,
    ) -> None:
        self.side, self.output, self.asked = side, output, 0
        self.pictures: list[np.ndarray] = []
        self._views, self._noise, self._off = cameras(views), noise, off
        self._changes = changes or {}
        self._chance = np.random.default_rng(seed)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        number, self.asked = self.asked, self.asked + 1
        self.pictures.append(picture)
        told = inverse_along_axis(self._views[number], self.side)
        if self._noise:
            told = told * (1 + self._noise * self._chance.standard_normal(told.shape))
        if self.output == METRIC:
            told = np.exp(self._chance.uniform(-self._off, self._off)) / told
        else:
            scale, shift = np.exp(self._chance.uniform(-1.5, 1.5)), self._chance.uniform(-1, 1)
            told = scale * told + shift
        return self._changes.get(number, _as_it_is)(told.astype(np.float32))


def _as_it_is(told: np.ndarray) -> np.ndarray:
    return told
