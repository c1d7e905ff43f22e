"""Drawings for the model: dark lines of one width on white, whatever they were drawn with."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from backend.conditions import framing
from backend.conditions.sketches import (
    LINE_WIDTH,
    LINES_REDRAWN,
    NOT_LINES,
    model_sketch,
    prepare,
    rasterise,
)
from backend.errors import BadInput

SIDE = 400
CORNERS = [(0.2, 0.85), (0.2, 0.4), (0.5, 0.15), (0.8, 0.4), (0.8, 0.85), (0.2, 0.85)]
CORNERS += [(0.8, 0.4), (0.2, 0.4)]


def house(width: float, side: int = SIDE) -> np.ndarray:
    """Ink (side, side) of a house of straight lines, antialiased."""
    y, x = np.mgrid[0:side, 0:side] + 0.5
    distance = np.full((side, side), np.inf)
    for (ax, ay), (bx, by) in pairwise(CORNERS):
        dx, dy = (bx - ax) * side, (by - ay) * side
        t = np.clip(((x - ax * side) * dx + (y - ay * side) * dy) / (dx * dx + dy * dy), 0, 1)
        distance = np.minimum(distance, np.hypot(x - ax * side - t * dx, y - ay * side - t * dy))
    return np.clip(width / 2 + 0.5 - distance, 0, 1)


def grey(tones: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(np.clip(tones, 0, 255)).astype(np.uint8)[..., None], 3, axis=2)


@cache
def expected() -> np.ndarray:
    """Where the axes of the house lie in the model's picture, (224, 224) bool."""
    ink = np.rint(255 * house(1, 896)).astype(np.uint8)
    return framing.cut(ink, framing.around(house(6, 896) > 0.5)) > 30


def agrees(picture: np.ndarray) -> bool:
    """Whether the lines are those of the house, all of them and no others, to four pixels."""
    ink = picture[..., 0] < 128
    away = ndimage.distance_transform_edt(~expected())
    lost = ndimage.distance_transform_edt(~ink)
    return bool(ink.any()) and away[ink].max() < 4 and lost[expected()].max() < 5


def line_width(picture: np.ndarray) -> float:
    """Ink over length: the lines of the house are about 3.4 sides of its box of 0.8 x 224 long."""
    total = (1 - picture[..., 0] / 255).sum()
    return float(total / (expected().sum() * 0.75))


LIGHT = 210 * (1 - 0.5 * np.mgrid[0:SIDE, 0:SIDE][1] / SIDE) + 20
GRAIN = np.random.default_rng(0).normal(0, 3, (SIDE, SIDE))


@pytest.mark.parametrize(
    "drawing",
    [
        pytest.param(grey(255 * (1 - house(3))), id="ink"),
        pytest.param(grey(240 - 60 * house(3)), id="faint"),
        pytest.param(grey(30 + 200 * house(3)), id="chalk"),
        pytest.param(grey(LIGHT * (1 - 0.5 * house(3)) + GRAIN), id="photographed"),
        pytest.param(grey(255 * (1 - house(1))), id="fine"),
        pytest.param(grey(255 * (1 - house(16))), id="marker"),
        pytest.param(grey(255 * (1 - house(2, 3000))), id="large"),
        pytest.param(grey(255 * (1 - house(1.5, 90))), id="small"),
        pytest.param(
            np.dstack([np.full((SIDE, SIDE, 3), 255), 255 * house(3)]).astype(np.uint8),
            id="white on nothing",
        ),
        pytest.param(
            np.dstack([np.zeros((SIDE, SIDE, 3)), 255 * house(3)]).astype(np.uint8),
            id="black on nothing",
        ),
        pytest.param(
            painted := np.where(house(3)[..., None] > 0.5, (20, 40, 200), (250, 240, 200)).astype(
                np.uint8
            ),
            id="coloured",
        ),
    ],
)
def test_the_same_drawing_comes_out_whatever_it_was_drawn_with(drawing: np.ndarray) -> None:
    picture = prepare(drawing).picture
    assert picture.shape == (224, 224, 3)
    assert agrees(picture)
    assert 1 < line_width(picture) < 2 * LINE_WIDTH
    assert (picture[:8] == 255).all()
    assert picture.min() < 30


def test_thick_and_fine_lines_are_told_to_be_redrawn() -> None:
    assert prepare(grey(255 * (1 - house(16)))).notes == (LINES_REDRAWN,)
    assert prepare(grey(255 * (1 - house(4)))).notes == ()


def test_a_filled_area_becomes_its_outline() -> None:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    blob = (np.hypot(y - 200, x - 200) < 120).astype(float)
    picture = prepare(grey(255 * (1 - np.maximum(blob, house(3))))).picture
    centre = picture[105:120, 105:120, 0]
    assert (centre == 255).mean() > 0.9
    ink = 1 - picture[..., 0] / 255
    assert ink.mean() < 0.15


def test_a_photograph_is_told_apart() -> None:
    texture = ndimage.gaussian_filter(np.random.default_rng(0).random((SIDE, SIDE)), 2)
    assert NOT_LINES in prepare(grey(np.where(texture > np.median(texture), 230, 40))).notes
    assert NOT_LINES not in prepare(grey(255 * (1 - house(16)))).notes


@pytest.mark.parametrize(
    "empty",
    [
        np.full((100, 100, 3), 255, np.uint8),
        np.zeros((100, 100, 3), np.uint8),
        grey(LIGHT),
        grey(200 + GRAIN),
        np.dstack([np.full((50, 50, 3), 255, np.uint8), np.full((50, 50), 255, np.uint8)]),
    ],
)
def test_an_empty_sketch_is_refused(empty: np.ndarray) -> None:
    with pytest.raises(BadInput, match="sketch is empty") as error:
        model_sketch(empty)
    assert "Draw" in error.value.remedy


# ------------------------------------------------------------------------------------------ strokes


def test_strokes_are_drawn_with_their_widths_and_round_ends() -> None:
    strokes = np.float32([[0, 0, 0.02], [10, 0, 0.02], [0, 5, 0.3], [10, 5, 0.3]])
    drawn = 255 - rasterise(strokes, np.int32([2, 2]))[..., 0].astype(int)
    assert drawn.shape == (672, 672)
    rows = np.flatnonzero(drawn.max(axis=1) > 128)
    upper, lower = rows[rows < 336], rows[rows >= 336]
    assert np.ptp(lower) + 1 == pytest.approx(0.3 * 0.08 * 672, abs=1.5)
    assert 1 <= np.ptp(upper) + 1 <= 3
    middle = (upper.mean() + lower.mean()) / 2
    assert middle == pytest.approx(335.5, abs=1)
    last = drawn[lower]
    assert (last[0] > 128).sum() < (last[len(last) // 2] > 128).sum()
    assert ((drawn > 0) & (drawn < 255)).any()


@settings(max_examples=15)
@given(
    factor=st.floats(1e-3, 1e3),
    offset=st.tuples(st.floats(-100, 100), st.floats(-100, 100)),
)
def test_unit_and_place_of_strokes_do_not_matter(
    factor: float, offset: tuple[float, float]
) -> None:
    angle = np.linspace(0, 5, 40)
    strokes = np.stack([angle * np.cos(angle), angle * np.sin(angle), 0 * angle + 0.1], axis=1)
    moved = strokes * factor
    moved[:, :2] += np.array(offset) * factor
    lengths = np.int32([30, 10])
    first, second = rasterise(strokes, lengths), rasterise(moved, lengths)
    assert np.abs(first.astype(int) - second).max() <= 1


def test_strokes_do_not_join_and_dots_are_drawn() -> None:
    strokes = np.float32([[0, 0, 0.1], [1, 0, 0.1], [0, 4, 0.1], [1, 4, 0.1], [4, 2, 0.1]])
    labels, count = ndimage.label(rasterise(strokes, np.int32([2, 2, 1]))[..., 0] < 128)
    assert count == 3
    alone = rasterise(np.float32([[3, 3, 1]]), np.int32([1]))[..., 0] < 128
    assert alone[336, 336]
    assert ndimage.label(alone)[1] == 1
    assert labels.max() == 3


def test_a_drawing_of_strokes_is_what_the_model_sees() -> None:
    outline = [[x, y, 0.004] for x, y in CORNERS[:7]]
    beam = [[x, y, 0.012] for x, y in CORNERS[6:]]
    drawn = rasterise(np.float32(outline + beam), np.int32([7, 2]))
    assert agrees(prepare(drawn).picture)


def test_long_strokes_are_quick() -> None:
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=(300_000, 2)), axis=0)
    strokes = np.column_stack([walk, np.ones(len(walk))]).astype(np.float32)
    drawn = rasterise(strokes, np.int32([len(strokes)]))
    assert (drawn < 128).any()
