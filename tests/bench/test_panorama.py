"""The rooms that panoramas are measured in, and the table of the measurements."""

from __future__ import annotations

import numpy as np
import pytest

from backend.bench import analytic_rooms, panorama
from backend.bench.analytic_rooms import BALL, BOX, SHELL, Room, Thing
from backend.geometry.sphere import direction_grid


def test_rooms_are_as_deep_as_planes_and_balls_are() -> None:
    room = Room(
        (
            Thing(SHELL, (0.5, 0.0, 0.0), (2.0, 3.0, 1.5)),
            Thing(BALL, (1.0, 0.0, 0.0), (0.25, 0.25, 0.25)),
            Thing(BOX, (0.0, 2.0, 0.0), (0.2, 0.1, 0.2), turn=90.0),
        )
    )
    cast = analytic_rooms.panorama(room, 64)
    directions = direction_grid(64, 32).astype(np.float64)
    far = np.array([2.5, 3.0, 1.5]), np.array([1.5, 3.0, 1.5])
    with np.errstate(divide="ignore"):
        walls = np.where(directions > 0, far[0] / directions, -far[1] / directions).min(axis=2)
    along = directions @ [1.0, 0.0, 0.0]
    rest = along**2 - (1 - 0.25**2)
    ball = rest > 0
    ball &= along > 0
    expected = np.where(ball, along - np.sqrt(np.maximum(rest, 0)), walls)
    box = np.abs(cast.depth - expected) > 1e-4
    assert 1 <= box.sum() <= 20
    seen = (cast.depth[..., None] * directions)[box]
    assert (np.abs(seen - [0, 2, 0]) <= [0.1001, 0.2001, 0.2001]).all()  # turned by a quarter
    view = analytic_rooms.view(room, (0, 0, 0), 0, 0, 60, 33)
    assert view.depth[16, 16] == pytest.approx(0.75, abs=1e-5)


def test_above_a_courtyard_is_sky() -> None:
    cast = analytic_rooms.panorama(analytic_rooms.COURTYARD, 64)
    assert np.isinf(cast.depth[:6]).mean() > 0.8
    assert np.isfinite(cast.depth[16:]).all()
    assert np.isfinite(analytic_rooms.panorama(analytic_rooms.LIVING_ROOM, 64).depth).all()


def test_each_row_tells_how_true_a_sphere_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panorama, "WIDTHS", (128,))
    monkeypatch.setattr(panorama, "_SIZE", 48)
    monkeypatch.setattr(panorama, "ROOMS", {"court": analytic_rooms.COURTYARD})
    rows = list(panorama.rows())
    assert [row["edges"] for row in rows] == ["sheet", "cut"]
    for row in rows:
        assert row["holes"] == 0
        assert 20 < row["dB_0.3_m"] < row["dB_3_cm"] < 60
        assert row["origin_difference"] < 0.01
        assert row["seam_mm"] < 1


def test_decibels_are_those_of_the_mean_square() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    assert panorama.decibels(picture + 1, picture) == pytest.approx(48.13, abs=0.01)


def test_inverse_depth_runs_between_its_ends() -> None:
    depth = np.array([[1.0, 2.0, 4.0, np.inf]], np.float32)
    values, meaning = panorama.as_inverse(depth)
    assert (meaning.near, meaning.far) == (1.0, 4.0)
    np.testing.assert_allclose(values[0, :3], [1, 1 / 3, 0], atol=1e-6)
    assert np.isnan(values[0, 3])
    assert panorama.as_inverse(depth, 8)[0].tolist() == [[255, 85, 0, 0]]
