"""A panorama -> how far everything in it is: views, their depth, alignment, merging."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...depth_meanings import DepthMeaning
from ...errors import BadInput
from . import alignment, merging
from .monocular import METRIC, DepthModel, TransformersDepth
from .pictures import check_panorama, shown
from .tangent_views import (
    View,
    pixel_centres,
    sample_equirect,
    sample_view,
    spread_directions,
    tangent_views,
    without_aliases,
)

WIDTHS = (128, 2048)
USUAL_WIDTH = 1024
"""Of the depth: views of 518 pixels show little more."""

EYE_HEIGHT = 1.6
"""Metres from the eye to what is straight below, where a model leaves the scale open."""

_DIRECTIONS = 5000
_MARGIN = 0.95
"""Of a view, beyond which what it tells is not compared: models err at borders."""

_LEAST_KNOWN = 0.5
_FLAT = 1e-4
_FARTHEST = 200.0
"""How many times as far as the nearest thing the farthest may be; sky lies there."""

_USUAL_RANGE = 30.0
_MOST_NEGATIVE = 0.02
_DISAGREES, _TIMES_OTHERS = 0.12, 6.0
"""A view is wrong that is that far off, and that many times as far as others."""

_UNRELATED, _TIMES_USUAL = 0.3, 1.5
"""And one that hardly correlates with others, and is that many times as far off."""

_MOST_ODD = 0.25
"""Share of the views that may be left out so. Where there are more, all are kept."""

_POOR = 0.1
"""Disagreement of neighbouring views, as a share, from which on it is told."""

_PREPARED, _LOOKED = 0.02, 0.85
"""Shares of the work after which views are looked at, and after which they are merged."""

Steps = Generator[tuple[str, float], None, "PanoramaDepth"]


@dataclass(frozen=True, eq=False)
class PanoramaDepth:
    """depth: (h, w) float32, h = w / 2: radial metres, or 0..1 where 1 is nearest; `meaning` says
    which and how. report: facts about how it came about; "notes" are sentences for the artist."""

    depth: np.ndarray
    meaning: DepthMeaning
    report: dict[str, Any] = field(default_factory=dict)


def depth_of(
    image: np.ndarray,
    model: Path | DepthModel,
    progress: Callable[[str, float], None] | None = None,
    **options: Any,
) -> tuple[np.ndarray, DepthMeaning]:
    """The depth of an equirectangular picture, and what its values mean; see `estimate`.

    model: a folder of the store, or what is called with the picture of each view.
    progress(stage, fraction) is told of each view; what it raises ends the work.
    """
    if isinstance(model, Path):
        model = TransformersDepth(model)
    steps = estimate(image, model, **options)
    while True:
        try:
            stage, fraction = next(steps)
        except StopIteration as end:
            return end.value.depth, end.value.meaning
        if progress is not None:
            progress(stage, fraction)


def estimate(
    image: np.ndarray,
    model: DepthModel,
    *,
    width: int = 0,
    views: int = 20,
    known: np.ndarray | None = None,
) -> Steps:
    """Yields (stage, fraction) before each view; returns the PanoramaDepth.

    image: (H, W, 3 or 4) uint8 sRGB or float32 linear, W = 2 H. width: of the depth, 0: that of
    the picture, at most 1024. known: (H, W) bool where the picture shows something, else all of it.
    Elsewhere the depth is NaN.
    Raises BadInput, TooLarge, for a picture or a model that tells nothing.
    """
    yield "Cutting views out of the panorama", 0.0
    check_panorama(image)
    side = model.side
    colours = without_aliases(shown(image), side)
    shows = None if known is None else _reduced(known)
    cameras = tangent_views(views)
    seen = _Seen()
    for number, camera in enumerate(cameras):
        share = number / len(cameras)
        words = f"Looking at the views, {number + 1} of {len(cameras)}"
        yield words, _PREPARED + (_LOOKED - _PREPARED) * share
        if shows is not None and not _shows(camera, shows):
            continue
        directions = camera.directions(side)
        picture = np.rint(sample_equirect(colours, directions)).clip(0, 255).astype(np.uint8)
        mask = None if shows is None else sample_equirect(shows, directions)
        seen.add(camera, model(picture), model.output, mask)
    yield "Aligning the views", _LOOKED
    aligned = _aligned(seen, model.output == METRIC)
    yield "Merging the views", 0.5 * (1 + _LOOKED)
    grid = _grid(image.shape[1], width)
    return _merged(seen, aligned, grid, model.output == METRIC, known)


def _grid(picture_width: int, width: int) -> merging.Sphere:
    least, most = WIDTHS
    if width and (type(width) is not int or not least <= width <= most):
        raise BadInput(
            f"A depth of {width!r} pixels around cannot be made.",
            f"Use {least} to {most}, or 0 for that of the picture.",
        )
    rows = (width or min(USUAL_WIDTH, picture_width)) // 2
    return merging.Sphere(rows, 2 * rows)


def _reduced(known: np.ndarray) -> np.ndarray:
    """(h, w) float32, 1 where a picture shows something, at most about 2048 pixels wide."""
    step = max(1, known.shape[1] // (2 * USUAL_WIDTH))
    return known[step // 2 :: step, step // 2 :: step].astype(np.float32)


def _shows(camera: View, shows: np.ndarray) -> bool:
    """Whether a view has anything of the picture in it."""
    return bool(sample_equirect(shows, camera.directions(16)).mean() > 0.05)


# ------------------------------------------------------------------------------------------- views


@dataclass(eq=False)
class _Seen:
    """Views and what a model told of them. inverse: (h, w) float32, 1 / z up to a scale and shift
    of relative models; NaN where nothing is told. dropped: sentences for the artist."""

    cameras: list[View] = field(default_factory=list)
    inverse: list[np.ndarray] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def add(
        self, camera: View, told: np.ndarray, output: str, mask: np.ndarray | None = None
    ) -> None:
        """Take what the model told of a view, unless nothing can be made of it."""
        told = np.asarray(told, np.float32)
        if told.ndim != 2 or min(told.shape) < 2:
            raise BadInput(
                f"The depth model told {told.shape} numbers, which are no picture.",
                "Choose another depth model.",
            )
        finite = np.isfinite(told)
        if output == METRIC:
            finite = finite & (told > 0)
            inverse = np.divide(1.0, told, out=np.full_like(told, np.nan), where=finite)
        else:
            inverse = np.where(finite, told, np.float32(np.nan))
        wanted = np.ones(told.shape, bool) if mask is None else _resized(mask, told.shape) > 0.999
        if finite[wanted].mean() < _LEAST_KNOWN:
            self.drop(camera, "the model told no numbers")
            return
        inverse[~wanted] = np.nan
        low, high = np.nanpercentile(inverse, (2, 98))
        if high - low <= _FLAT * max(abs(low), abs(high), 1e-12):
            self.drop(camera, "the model told the same depth everywhere")
            return
        self.cameras.append(camera)
        self.inverse.append(inverse)

    def drop(self, camera: View, why: str) -> None:
        self.dropped.append(f"The view {_whither(camera)} was left out: {why}.")

    def keep(self, mask: np.ndarray, why: str) -> None:
        """Drop views that are not in `mask`."""
        for number in np.flatnonzero(~mask):
            self.drop(self.cameras[number], why)
        self.cameras = [self.cameras[number] for number in np.flatnonzero(mask)]
        self.inverse = [self.inverse[number] for number in np.flatnonzero(mask)]


def _resized(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if values.shape == shape:
        return values
    y, x = pixel_centres(shape[0]), pixel_centres(shape[1])
    return sample_view(values, *np.meshgrid(x, y))


def _whither(camera: View) -> str:
    """ "36 degrees to the left, 11 up", of the middle of the panorama."""
    turn = round(math.degrees(math.atan2(camera.forward[1], camera.forward[0])))
    rise = round(math.degrees(math.asin(camera.forward[2])))
    aside = f"{abs(turn)} degrees to the {'left' if turn > 0 else 'right'}" if turn else "ahead"
    return f"{aside}, {abs(rise)} {'up' if rise > 0 else 'down'}" if rise else aside


# --------------------------------------------------------------------------------------- alignment


@dataclass(frozen=True, eq=False)
class _Aligned:
    """scales, shifts: per view. lift: is added to all inverse depths. least: is the lowest of them
    that counts. disagreement: typical, as a share. notes: sentences for the artist."""

    scales: np.ndarray
    shifts: np.ndarray
    lift: float
    least: float
    disagreement: float
    notes: tuple[str, ...] = ()


def _aligned(seen: _Seen, metric: bool) -> _Aligned:
    """Raises BadInput when too few views agree."""
    _check_enough(seen)
    overlaps = _overlaps(seen)
    found = alignment.align(overlaps, metric)
    for _ in range(3):
        good = _plausible(found)
        if (~good).sum() > _MOST_ODD * len(good):  # then it is the model, not some views
            good = found.scales > 0
        if good.all():
            break
        seen.keep(good, "what the model told of it does not fit its neighbours")
        _check_enough(seen)
        overlaps = overlaps.of(good)
        found = alignment.align(overlaps, metric)
    inverse = _mean(overlaps, found)
    high = float(np.percentile(inverse, 99.5))
    lift, notes = 0.0, []
    disagreement = float(np.median(found.disagreement))
    if disagreement > _POOR:
        notes.append(
            f"What the model tells of neighbouring views differs by {disagreement:.0%}: expect"
            " bends and bumps. Another depth model may do better."
        )
    if not metric and (inverse <= 0).mean() > _MOST_NEGATIVE:
        lift = high / _USUAL_RANGE - float(np.percentile(inverse, 0.5))
        notes.append(
            "How far the farthest things are could not be told from the views; walls may bend."
            " Change Far by eye."
        )
    return _Aligned(
        found.scales,
        found.shifts,
        lift,
        max((high + lift) / _FARTHEST, 1e-6),
        disagreement,
        tuple(notes),
    )


def _plausible(found: alignment.Alignment) -> np.ndarray:
    """(V,) bool. A few views that tell nonsense must not spoil the others."""
    typical = float(np.median(found.disagreement))
    far = found.disagreement > max(_DISAGREES, _TIMES_OTHERS * typical)
    far |= (found.correlation < _UNRELATED) & (found.disagreement > _TIMES_USUAL * typical)
    return (found.scales > 0) & ~far


def _check_enough(seen: _Seen) -> None:
    total = len(seen.cameras) + len(seen.dropped)
    if len(seen.cameras) < 2 or len(seen.cameras) < 0.5 * total:
        raise BadInput(
            f"The depth model made nothing of {len(seen.dropped)} of {total} views of the"
            f" panorama. {seen.dropped[0] if seen.dropped else ''}".strip(),
            "Use a picture that shows more than plain surfaces, or another depth model.",
        )


def _overlaps(seen: _Seen) -> alignment.Overlaps:
    directions = spread_directions(_DIRECTIONS)
    shape = (len(directions), len(seen.cameras))
    values, cosines, weights = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for number, (camera, inverse) in enumerate(zip(seen.cameras, seen.inverse, strict=True)):
        x, y, cosine = camera.project(directions)
        inside = np.flatnonzero((np.abs(x) < _MARGIN) & (np.abs(y) < _MARGIN))
        told = sample_view(inverse, x[inside], y[inside])
        finite = np.isfinite(told)
        inside, told = inside[finite], told[finite]
        values[inside, number] = cosine[inside] * told
        cosines[inside, number] = cosine[inside]
        weights[inside, number] = (1 - x[inside] ** 2) * (1 - y[inside] ** 2)
    return alignment.Overlaps(values, cosines, weights)


def _mean(overlaps: alignment.Overlaps, found: alignment.Alignment) -> np.ndarray:
    """Inverse depth in the directions that any view tells of."""
    told = overlaps.values * found.scales + overlaps.cosines * found.shifts
    total = overlaps.weights.sum(axis=1)
    some = total > 0
    mean: np.ndarray = (overlaps.weights * told).sum(axis=1)[some] / total[some]
    return mean


# ----------------------------------------------------------------------------------------- merging


def _merged(
    seen: _Seen,
    aligned: _Aligned,
    grid: merging.Sphere,
    metric: bool,
    known: np.ndarray | None,
) -> PanoramaDepth:
    layers = (
        merging.layer_of(camera, inverse, scale, shift, aligned.lift, aligned.least, grid)
        for camera, inverse, scale, shift in zip(
            seen.cameras, seen.inverse, aligned.scales, aligned.shifts, strict=True
        )
    )
    logarithms, told = merging.merge(layers, grid)
    notes = [*seen.dropped, *aligned.notes]
    if known is not None:
        away = _away(known, grid)
        logarithms[away] = np.nan
        told |= away
    if not told.all():
        share = _share(~told, grid)
        notes.append(f"No view tells of {share:.1%} of the sphere; it was drawn smoothly across.")
    report = {
        "views": len(seen.cameras),
        "disagreement": round(aligned.disagreement, 4),
        "notes": notes,
    }
    if metric:
        return PanoramaDepth(np.exp(-logarithms), DepthMeaning("metric"), report)
    depth, meaning = _normalised(np.exp(logarithms), grid)
    notes.append(
        f"The model tells no metres: sizes are those of an eye {EYE_HEIGHT} m above what is"
        f" straight below it, near is {meaning.near:.2f} m and far {meaning.far:.2f} m. Change"
        " Depth Scale by eye."
    )
    return PanoramaDepth(depth, meaning, report)


def _away(known: np.ndarray, grid: merging.Sphere) -> np.ndarray:
    """(h, w) bool: pixels of the grid where the picture shows nothing."""
    rows = ((np.arange(grid.height) + 0.5) * known.shape[0] / grid.height).astype(int)
    columns = ((np.arange(grid.width) + 0.5) * known.shape[1] / grid.width).astype(int)
    return ~known[rows[:, None], columns]


def _share(mask: np.ndarray, grid: merging.Sphere) -> float:
    area = np.cos(grid.latitudes)
    return float((mask.mean(axis=1) * area).sum() / area.sum())


def _normalised(inverse: np.ndarray, grid: merging.Sphere) -> tuple[np.ndarray, DepthMeaning]:
    """Inverse depth up to a scale -> 0..1, and near and far such that the floor is where it
    usually is."""
    low, high = float(np.nanmin(inverse)), float(np.nanmax(inverse))
    below = inverse[grid.latitudes < math.radians(-75)]
    if np.isfinite(below).mean() > 0.5:
        metre = EYE_HEIGHT * float(np.nanmedian(below))
    else:  # the picture does not show the ground
        metre = high
    near, far = max(metre / high, 1e-3), min(metre / low, 1e5)
    depth = (inverse.astype(np.float64) - low) / max(high - low, 1e-12)
    return depth.astype(np.float32), DepthMeaning("inverse", near=near, far=max(far, 1.001 * near))
