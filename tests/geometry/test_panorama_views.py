"""Views of spheres from any eye, checked against rays and against the rule of stereo."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.bench import analytic_rooms
from backend.geometry import sphere
from backend.geometry.panorama_views import (
    POLE_MERGE,
    as_bytes,
    camera_axes,
    perspective,
    srgb,
    stereo_eye,
)
from backend.protocol import SphereResult

WIDTH = 256
AROUND = 512


@pytest.fixture(scope="module")
def room() -> SphereResult:
    cast = analytic_rooms.panorama(analytic_rooms.LIVING_ROOM, WIDTH)
    return sphere.build(cast.colors, cast.depth, width=WIDTH)


def with_marks(depth: float, columns: list[int], row: int, width: int = AROUND) -> SphereResult:
    """A ball of this radius around the eye, dark, with bright squares of 3 x 3 pixels."""
    image = np.full((width // 2, width, 3), 20, np.uint8)
    for column in columns:
        image[row - 1 : row + 2, column - 1 : column + 2] = 255
    return sphere.build(image, np.full((width // 2, width), depth, np.float32), width=width)


def columns_of_marks(colors: np.ndarray, row: int, near: list[int]) -> list[float]:
    """Where the marks are, in fractions of pixels."""
    line = colors[row - 3 : row + 4, :, 0].sum(axis=0) - 7 * 20
    found = []
    for column in near:
        at = np.arange(column - 20, column + 21)
        weight = np.maximum(line[at % len(line)], 0)
        found.append(float((at * weight).sum() / weight.sum()))
    return found


@pytest.mark.parametrize("depth", [0.6, 1.3, 2.0, 5.0])
def test_the_parallax_of_two_eyes_is_that_of_the_depth(depth: float) -> None:
    columns = [3, 100, 256, 350, 460]  # the first one beside the seam
    marked = with_marks(depth, columns, 128)
    left, right = (stereo_eye(marked, side * 0.0325, AROUND, AROUND // 2) for side in (1, -1))
    assert left.holes == right.holes == 0
    pairs = [columns_of_marks(eye.colors, 128, columns) for eye in (left, right)]
    expected = 2 * math.asin(0.0325 / depth) * AROUND / (2 * math.pi)
    for column, a, b in zip(columns, *pairs, strict=True):
        assert a - b == pytest.approx(expected, abs=0.1)  # the left eye sees it further right
        assert (a + b) / 2 == pytest.approx(column, abs=0.1)


def test_towards_the_poles_the_eyes_come_together() -> None:
    rows = [
        round((0.5 - math.degrees(angle) / 180) * AROUND / 2)
        for angle in (0.9, POLE_MERGE[0], 1.35, 1.45)
    ]
    found = []
    for row in rows:
        marked = with_marks(2.0, [256], row)
        left, right = (stereo_eye(marked, side * 0.0325, AROUND, AROUND // 2) for side in (1, -1))
        a, b = (columns_of_marks(eye.colors, row, [256])[0] for eye in (left, right))
        found.append(a - b)
    assert found[0] == pytest.approx(
        2 * math.asin(0.0325 / (2 * math.cos(0.9))) * AROUND / (2 * math.pi), abs=0.15
    )
    assert found[1] > found[0]  # as meridians come together, before the eyes do
    assert max(abs(found[2]), abs(found[3])) < 0.2


def test_eyes_in_one_place_see_the_picture(room: SphereResult) -> None:
    seen = stereo_eye(room, 0.0, WIDTH, WIDTH // 2, samples=1)
    assert seen.holes == 0
    assert np.abs(seen.colors - room.image).mean() < 0.3
    assert seen.distance.min() > 1


def test_two_eyes_see_a_whole_room_without_holes(room: SphereResult) -> None:
    left, right = (stereo_eye(room, side * 0.0325, WIDTH, WIDTH // 2, 1) for side in (1, -1))
    assert left.holes == right.holes == 0
    assert 0.5 < np.abs(left.colors - right.colors).mean() < 12


def test_an_eye_of_stereo_sees_what_rays_from_its_circle_see() -> None:
    """One column of the left eye against the room itself, seen from where that eye stands."""
    cast = analytic_rooms.panorama(analytic_rooms.LIVING_ROOM, AROUND)
    built = sphere.build(cast.colors, cast.depth, width=AROUND)
    left = stereo_eye(built, 0.0325, AROUND, AROUND // 2, 1)
    for column in (256, 150, 450):
        azimuth = 2 * math.pi * (0.5 - (column + 0.5) / AROUND)
        eye = (-0.0325 * math.sin(azimuth), 0.0325 * math.cos(azimuth), 0.0)
        truth = analytic_rooms.view(
            analytic_rooms.LIVING_ROOM, eye, math.degrees(azimuth), 0, 20, 256
        )
        rows = np.arange(128 - 10, 128 + 10)
        altitude = np.pi * (0.5 - (rows + 0.5) * 2 / AROUND)
        at = 127.5 - np.tan(altitude) / math.tan(math.radians(10)) * 128
        expected = truth.depth[np.rint(at).astype(int), 127]
        assert np.median(np.abs(left.distance[rows, column] - expected)) < 0.02


@pytest.mark.parametrize("eye", [(0.0, 0.0, 0.0), (0.2, -0.1, 0.15)])
def test_distances_are_those_of_rays(room: SphereResult, eye: tuple[float, float, float]) -> None:
    truth = analytic_rooms.view(analytic_rooms.LIVING_ROOM, eye, 75, 5, 80, 96)
    seen = perspective(room, eye, 75, 5, 80, 96, samples=1)
    offset = (np.arange(96) + 0.5) / 48 - 1
    scale = math.tan(math.radians(40))
    slant = np.sqrt(1 + (offset[:, None] ** 2 + offset[None] ** 2) * scale**2)
    assert np.median(np.abs(seen.distance * slant - truth.depth)) < 0.002


def test_cameras_look_where_they_are_turned() -> None:
    right, up, forward = camera_axes(0, 0)
    np.testing.assert_allclose([right, up, forward], [[0, -1, 0], [0, 0, 1], [1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(camera_axes(90, 0)[2], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(camera_axes(0, 90)[2], [0, 0, 1], atol=1e-12)


def test_light_is_shown_as_a_screen_does() -> None:
    light = np.array([0, 0.0031308, 0.2158605, 1, 7], np.float32)
    np.testing.assert_allclose(srgb(light), [0, 0.04045, 128 / 255, 1, 1], atol=1e-4)
    shown = as_bytes(np.full((1, 1, 3), 0.2158605, np.float32), np.zeros((1, 1, 3), np.float32))
    assert shown.tolist() == [[[128, 128, 128]]]
    assert as_bytes(np.full((1, 1, 3), 127.6), np.zeros((1, 1, 3), np.uint8))[0, 0, 0] == 128
