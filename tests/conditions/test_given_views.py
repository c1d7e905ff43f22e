"""Pictures with known cameras as squares: what is cut off or added moves their cameras with it."""

from __future__ import annotations

import numpy as np
import pytest

from backend.conditions import given_views
from backend.conditions.images import NOT_PLAIN, REMOVED
from backend.errors import BadInput

SPOT = (0.6, 0.3)
"""Where the thing is: shares of the width and the height."""


def picture(height: int, width: int, alpha: bool = False) -> np.ndarray:
    """A red disc on light grey, or on nothing."""
    y, x = np.mgrid[:height, :width]
    radius = 0.12 * min(height, width)
    disc = (x + 0.5 - SPOT[0] * width) ** 2 + (y + 0.5 - SPOT[1] * height) ** 2 < radius**2
    colours = np.where(disc[..., None], np.uint8([200, 40, 30]), np.uint8(225))
    if not alpha:
        return colours
    return np.concatenate([colours, np.where(disc, 255, 0)[..., None].astype(np.uint8)], axis=-1)


def lens(height: int, width: int) -> np.ndarray:
    """With the principal point in the middle of the disc, so that it can be found again."""
    return np.array([[90, 80, SPOT[0] * width - 0.5, SPOT[1] * height - 0.5]], np.float32)


def middle_of_red(found: np.ndarray) -> np.ndarray:
    """x and y of the disc in (S, S, 4), pixel centres being whole numbers."""
    red = (found[..., 0].astype(int) - found[..., 1] > 90) & (found[..., 3] > 128)
    rows, columns = np.nonzero(red)
    return np.array([columns.mean(), rows.mean()])


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(("height", "width"), [(200, 200), (150, 240), (240, 150), (1500, 2000)])
def test_the_principal_point_stays_on_what_it_was_on(height: int, width: int, alpha: bool) -> None:
    image = picture(height, width, alpha)[None]
    found = given_views.prepare(image, 64, lens(height, width))
    assert found.pictures.shape == (1, 64, 64, 4)
    assert found.pictures.dtype == np.uint8
    assert found.intrinsics is not None
    np.testing.assert_allclose(found.intrinsics[0, 2:], middle_of_red(found.pictures[0]), atol=0.4)
    scale = 64 / max(height, width)
    np.testing.assert_allclose(found.intrinsics[0, :2], [90 * scale, 80 * scale], rtol=2e-3)
    assert found.widened == (height != width)
    assert (REMOVED in found.notes) == (not alpha)


def test_a_kept_background_fills_the_square() -> None:
    found = given_views.prepare(picture(150, 240)[None], 64, lens(150, 240), "keep")
    assert (found.pictures[..., 3] == 255).all()
    assert given_views.NARROWED in found.notes
    assert not found.widened
    assert found.intrinsics is not None
    np.testing.assert_allclose(found.intrinsics[0, 0], 90 * 64 / 150, rtol=1e-5)
    np.testing.assert_allclose(found.intrinsics[0, 2:], middle_of_red(found.pictures[0]), atol=0.4)


def test_a_background_that_is_not_plain_is_kept_and_told() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1, 90, 90, 3), dtype=np.uint8)
    found = given_views.prepare(noise, 32, lens(90, 90))
    assert found.notes == (NOT_PLAIN,)
    assert (found.pictures[..., 3] == 255).all()


@pytest.mark.parametrize("fill", [0.5, 0.8])
def test_without_a_camera_the_thing_is_framed(fill: float) -> None:
    found = given_views.prepare(picture(300, 500)[None], 128, fill=fill)
    assert found.intrinsics is None
    solid = found.pictures[0, ..., 3] > 128
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    assert np.ptp(rows) + 1 == pytest.approx(128 * fill, abs=3)
    assert np.ptp(columns) + 1 == pytest.approx(128 * fill, abs=3)
    np.testing.assert_allclose(middle_of_red(found.pictures[0]), [63.5, 63.5], atol=1)


def test_colours_stay_what_they_were_up_to_the_edge() -> None:
    found = given_views.prepare(picture(200, 200, alpha=True)[None], 50, lens(200, 200)).pictures[0]
    seen = found[..., 3] > 100
    assert np.abs(found[seen][:, :3].astype(int) - [200, 40, 30]).max() <= 4
    assert 0 < found[..., 3].astype(float).mean() < 30
    assert (found[found[..., 3] == 0] == 0).all()


def test_several_pictures_keep_their_order() -> None:
    images = np.stack([picture(80, 80), picture(80, 80)[:, ::-1]])
    found = given_views.prepare(images, 40, np.repeat(lens(80, 80), 2, axis=0))
    assert middle_of_red(found.pictures[0])[0] > 20 > middle_of_red(found.pictures[1])[0]
    assert found.intrinsics is not None
    assert len(found.intrinsics) == 2


def test_a_picture_of_nearly_nothing_is_refused() -> None:
    faint = picture(80, 80, alpha=True)
    faint[..., 3] //= 20
    with pytest.raises(BadInput, match="Picture 1 is empty"):
        given_views.prepare(faint[None], 40)


@pytest.mark.parametrize("ground", [(255, 255, 255), (10, 200, 30)])
def test_a_kept_background_is_the_ground_where_the_picture_is_clear(
    ground: tuple[int, int, int],
) -> None:
    image = picture(90, 90, alpha=True)
    image[..., :3][image[..., 3] == 0] = 0  # as Blender writes what it did not render
    image[:30, :30] = [200, 40, 30, 102]
    found = given_views.prepare(image[None], 90, lens(90, 90), "keep", ground=ground).pictures[0]
    assert (found[..., 3] == 255).all()
    np.testing.assert_array_equal(found[-1, 0, :3], ground)
    mixed = 0.4 * np.array([200, 40, 30]) + 0.6 * np.array(ground)
    np.testing.assert_allclose(found[5, 5, :3], mixed, atol=1)
    np.testing.assert_allclose(middle_of_red(found), lens(90, 90)[0, 2:], atol=4)


def test_a_picture_that_is_clear_nearly_nowhere_lies_on_the_ground_too() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1, 90, 90, 4), dtype=np.uint8)
    noise[..., 3] = 255
    noise[0, 0, 0] = 0
    found = given_views.prepare(noise, 90)
    assert found.notes == (NOT_PLAIN,)
    np.testing.assert_array_equal(found.pictures[0, 0, 0], 255)
