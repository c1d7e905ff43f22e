from __future__ import annotations

import numpy as np
import pytest

from backend.models.panorama_depth import tangent_views as tangent
from tests.models.panorama_depth import rooms


@pytest.fixture(params=tangent.COUNTS)
def views(request: pytest.FixtureRequest) -> tuple[tangent.View, ...]:
    return tangent.tangent_views(request.param)


def test_views_are_upright_and_not_mirrored(views: tuple[tangent.View, ...]) -> None:
    for view in views:
        axes = np.stack([view.right, view.up, -view.forward])
        assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(axes) == pytest.approx(1)
        assert view.right[2] == pytest.approx(0)
        assert view.up[2] > 0.3


def test_every_direction_is_well_inside_of_several_views(views: tuple[tangent.View, ...]) -> None:
    directions = tangent.spread_directions(20_000)
    seen = np.zeros(len(directions), int)
    nearest = np.zeros(len(directions))
    for view in views:
        x, y, cosine = view.project(directions)
        seen += (np.abs(x) < 0.95) & (np.abs(y) < 0.95)
        nearest = np.maximum(nearest, cosine)
    assert np.degrees(np.arccos(nearest.min())) < 37.4
    assert seen.min() >= 1
    assert seen.mean() > (2.5 if len(views) == 20 else 1.5)


def test_only_known_numbers_of_views_are_made() -> None:
    with pytest.raises(ValueError, match="7 views"):
        tangent.tangent_views(7)


def test_what_is_left_of_the_axis_is_left_in_the_view(views: tuple[tangent.View, ...]) -> None:
    view = views[len(views) // 2]
    turned = view.forward + 0.1 * np.cross((0, 0, 1), view.forward)  # counter-clockwise from above
    raised = view.forward + 0.1 * np.array([0, 0, 1.0])
    for direction, axis in ((turned, 0), (raised, 1)):
        found = view.project(direction / np.linalg.norm(direction))
        assert found[axis] < -0.05
        assert abs(found[1 - axis]) < 0.02


def test_projection_is_the_inverse_of_directions(views: tuple[tangent.View, ...]) -> None:
    centres = tangent.pixel_centres(7)
    for view in views:
        x, y, cosine = view.project(view.directions(7))
        assert np.allclose(x, centres[None, :])
        assert np.allclose(y, centres[:, None])
        assert np.allclose(cosine, 1 / np.sqrt(1 + x * x + y * y))
        assert np.isnan(view.project(-view.directions(7))[0]).all()


def test_samples_are_right_everywhere_also_at_the_seam_and_the_poles() -> None:
    """A panorama whose pixels hold the directions in which they look."""
    looks = rooms.directions_of(512)
    asked = tangent.spread_directions(5000)
    near_seam = np.array([[-1, 1e-4, 0.2], [-1, -1e-4, -0.3], [-1, 0, 0]])
    near_poles = np.array(
        [[1e-3, 1e-3, 1], [-1e-3, 2e-4, 1], [0, -1e-3, -1], [0, 0, 1], [0, 0, -1]]
    )
    asked = np.concatenate([asked, near_seam, near_poles])
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    found = tangent.sample_equirect(looks.astype(np.float32), asked)
    assert np.abs(found - asked).max() < 1e-4


def test_the_middle_of_the_picture_is_ahead_and_its_left_is_left() -> None:
    picture = np.zeros((64, 128), np.float32)
    picture[:, 28:36] = 1  # around a quarter from the left edge: +Y
    picture[:8] = 2  # the top: +Z
    asked = np.array([[0, 1, 0], [0, -1, 0], [1, 0, 0], [0, 0, 1], [0, 0, -1]], float)
    assert tangent.sample_equirect(picture, asked).tolist() == [1, 0, 0, 2, 0]


def test_views_of_a_fine_pattern_show_no_false_one() -> None:
    """Columns that alternate between black and white: grey in every view that cannot show them."""
    picture = np.zeros((512, 1024, 3), np.uint8)
    picture[:, ::2] = 255
    side = 64
    naive, even = [], []
    reduced = tangent.without_aliases(picture, side)
    for view in tangent.tangent_views(20):
        directions = view.directions(side)
        naive.append(tangent.sample_equirect(picture, directions))
        even.append(tangent.sample_equirect(reduced, directions))
    assert np.std(naive) > 40
    off = np.abs(np.array(even) - 127.5)
    assert np.percentile(off, 99) < 2
    assert off.max() < 16


def test_averaging_leaves_a_picture_alone_that_views_show_in_full() -> None:
    chance = np.random.default_rng(0)
    picture = chance.integers(0, 256, (128, 256, 3), dtype=np.uint8)
    even = tangent.without_aliases(picture, 256)
    assert np.array_equal(even[20:-20], picture[20:-20])


def test_averaging_around_keeps_the_mean_and_goes_around_the_seam() -> None:
    line = np.zeros((64, 3), np.float32)
    line[0] = 64
    around = tangent._averaged_around(line, 8.0)
    assert np.allclose(around.mean(axis=0), 1)
    assert np.flatnonzero(around[:, 0]).tolist() == [0, 1, 2, 3, 4, 60, 61, 62, 63]
    assert np.allclose(tangent._averaged_around(line, 64.0), 1)
