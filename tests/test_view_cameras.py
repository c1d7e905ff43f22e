"""The cameras of the views: where they stand, where they look, and what is up."""

from __future__ import annotations

import numpy as np
import pytest

from backend.errors import BadInput
from backend.protocol import (
    VIEW_CAMERAS,
    VIEW_DISTANCE,
    VIEW_FIELD,
    check_view_count,
    turned_up,
    view_poses,
)


@pytest.mark.parametrize("up_axis", ["y", "z"])
def test_poses_are_rotations_that_look_at_the_origin_and_stand_upright(up_axis: str) -> None:
    poses = view_poses(list(VIEW_CAMERAS), up_axis, distance=2.5)
    rotations = poses[:, :3, :3]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1),
        np.broadcast_to(np.eye(3), rotations.shape),
        atol=1e-12,
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    centres_seen = np.linalg.inv(poses) @ [0, 0, 0, 1]
    np.testing.assert_allclose(centres_seen, np.tile([0, 0, -2.5, 1], (len(poses), 1)), atol=1e-12)
    up = "xyz".index(up_axis)
    assert (poses[:, up, 1] > 0).all()
    np.testing.assert_allclose(poses[:, up, 0], 0, atol=1e-12)


def test_a_camera_lies_where_its_angles_say() -> None:
    for index, (azimuth, elevation) in VIEW_CAMERAS.items():
        a, e = np.radians([azimuth, elevation])
        want = [np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)]
        np.testing.assert_allclose(view_poses([index], "y")[0, :3, 3], want, atol=1e-12)


def test_known_cameras() -> None:
    front = view_poses([40], "z")[0, :3, 3]
    np.testing.assert_allclose(front, [0, -0.5, np.sqrt(3) / 2], atol=1e-12)
    below = view_poses([50], "z")[0, :3, 3]
    np.testing.assert_allclose(below, [0, -0.5, -np.sqrt(3) / 2], atol=1e-12)
    assert VIEW_CAMERAS[42] == (80, 60)
    assert VIEW_CAMERAS[54] == (360, -60)


def test_turning_up_keeps_the_hand() -> None:
    np.testing.assert_array_equal(turned_up("z") @ [1, 2, 3, 1], [1, -3, 2, 1])
    np.testing.assert_array_equal(turned_up("y"), np.eye(4))
    assert np.linalg.det(turned_up("z")) == 1
    with pytest.raises(BadInput):
        turned_up("x")


def test_nothing_in_the_cube_of_a_source_is_cut_off() -> None:
    corners = 0.9 * np.stack(np.meshgrid(*[[-1, 1]] * 3), axis=-1).reshape(-1, 3)
    seen = (
        np.linalg.inv(view_poses(list(VIEW_CAMERAS), "z", VIEW_DISTANCE))
        @ np.c_[corners, np.ones(8)].T
    )
    slopes = np.abs(seen[:, :2]) / -seen[:, 2:3]
    assert slopes.max() <= np.tan(VIEW_FIELD / 2)
    assert slopes.max() > 0.9 * np.tan(VIEW_FIELD / 2)


def test_an_unknown_camera_is_refused() -> None:
    with pytest.raises(BadInput, match="camera 7 "):
        view_poses([3, 7])


@pytest.mark.parametrize("have", [1, 3, 5])
def test_a_wrong_number_of_views_names_both_numbers_and_the_cameras(have: int) -> None:
    check_view_count(4, 4)
    with pytest.raises(BadInput) as error:
        check_view_count(have, 4, [3, 6, 10, 26])
    assert f"{have} view" in error.value.cause
    assert "needs 4" in error.value.cause
    assert "3, 6, 10, 26" in error.value.remedy
