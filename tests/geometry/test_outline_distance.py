"""Distances from outlines, against lines and discs whose distances are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from skimage import measure

from backend.geometry.outline_distance import outline_distance

SIDE = 48
FINE = 12
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE].astype(float)


def opacity_of(distance) -> np.ndarray:
    """(SIDE, SIDE) float32: the share of each pixel where distance(rows, columns) is negative."""
    steps = (np.arange(SIDE * FINE) + 0.5) / FINE - 0.5
    inside = distance(*np.meshgrid(steps, steps, indexing="ij")) < 0
    shares = inside.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3))
    return shares.astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(angle=st.floats(0, 2 * math.pi), shift=st.floats(-6, 6))
def test_straight_outlines_at_any_slant(angle: float, shift: float) -> None:
    def distance(rows, columns):
        middle = (SIDE - 1) / 2
        return math.cos(angle) * (columns - middle) + math.sin(angle) * (rows - middle) - shift

    truth = distance(ROWS, COLUMNS)
    error = outline_distance(opacity_of(distance)) - truth
    # Where the nearest place of the line is within the picture.
    framed = np.hypot(ROWS - SIDE / 2, COLUMNS - SIDE / 2) < SIDE / 2 - 6
    assert np.abs(error[framed & (np.abs(truth) < 1.5)]).max() < 0.15
    assert np.abs(error[framed & (np.abs(truth) < 8)]).max() < 1


@settings(max_examples=30, deadline=None)
@given(
    radius=st.floats(5, 18),
    row=st.floats(23, 24),
    column=st.floats(23, 24),
    hole=st.booleans(),
)
def test_discs_and_round_holes(radius: float, row: float, column: float, hole: bool) -> None:
    sign = -1 if hole else 1

    def distance(rows, columns):
        return sign * (np.hypot(rows - row, columns - column) - radius)

    truth = distance(ROWS, COLUMNS)
    error = outline_distance(opacity_of(distance)) - truth
    near = np.abs(truth) < 1.5
    assert np.abs(error[near]).max() < 0.2
    assert np.sqrt(np.mean(error[near] ** 2)) < 0.09
    # (a - 1 / 2) (1 / a - 1), at its most: of edges along pixels that show a share of a.
    assert abs(np.mean(error[near])) < 0.0858


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), soft=st.floats(0, 2))
def test_as_far_as_the_contours_that_skimage_draws(seed: int, soft: float) -> None:
    """Of blots with saddles, thin parts and single pixels: dense points of those contours."""
    from scipy import ndimage

    noise = np.random.default_rng(seed).random((SIDE, SIDE))
    blurred = ndimage.gaussian_filter(noise, soft)
    opacity = np.clip((blurred - blurred.mean()) * 4 + 0.5, 0, 1).astype(np.float32)
    found = outline_distance(opacity)
    lines = measure.find_contours(opacity.astype(np.float64), 0.5)
    shares = np.linspace(0, 1, 33)[:, None, None]
    dense = np.concatenate(
        [((1 - shares) * line[:-1] + shares * line[1:]).reshape(-1, 2) for line in lines]
    )
    away = cKDTree(dense).query(np.stack([ROWS, COLUMNS], axis=-1).reshape(-1, 2))[0]
    away = away.reshape(SIDE, SIDE)
    assert np.array_equal(found < 0, opacity > 0.5)
    ambiguous = saddles(opacity)
    sure = (away < 1.5) & ~ambiguous
    assert sure.any()
    np.testing.assert_allclose(np.abs(found)[sure], away[sure], atol=0.03)


def saddles(opacity: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE) bool: pixels near squares whose corners alternate, where contours may be drawn
    either way."""
    from scipy import ndimage

    shown = opacity >= 0.5
    one, two, three, four = shown[:-1, :-1], shown[:-1, 1:], shown[1:, 1:], shown[1:, :-1]
    alternating = np.zeros_like(shown)
    alternating[:-1, :-1] = (one == three) & (two == four) & (one != two)
    return ndimage.binary_dilation(alternating, np.ones((3, 3)), iterations=3)


@pytest.mark.parametrize(("others", "joined"), [(0.45, True), (0.05, False)])
@pytest.mark.parametrize("turned", [False, True])
def test_what_hangs_together_across_corners(others: float, joined: bool, turned: bool) -> None:
    """Two pixels that touch at a corner: what the four show together decides."""
    opacity = np.zeros((6, 6), np.float32)
    opacity[2:4, 2:4] = [[0.9, others], [others, 0.9]]
    at = (2, 3)
    if turned:
        opacity, at = opacity[:, ::-1].copy(), (2, 2)
    found = outline_distance(opacity)[at]
    # From one of the others to where opacity is one half, in the rows and columns of the two.
    to_both = (0.5 - others) / (0.9 - others)
    # Joined, the outline cuts off this corner; else it goes around each of the two, at that place.
    assert found == pytest.approx(to_both / math.sqrt(2) if joined else to_both, abs=1e-5)


def test_nothing_and_everything() -> None:
    assert (outline_distance(np.zeros((5, 7), np.float32)) == 1e6).all()
    assert (outline_distance(np.ones((5, 7), np.float32)) == -1e6).all()
