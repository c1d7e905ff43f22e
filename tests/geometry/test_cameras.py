"""Cameras of Blender and OpenCV, lenses, rays; rings of the published code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.spatial.transform import Rotation

from backend.geometry import cameras
from backend.protocol import camera_poses

GOLDEN = Path(__file__).parents[1] / "golden" / "multiview"

_angles = st.floats(-3.2, 3.2)
_places = st.floats(-100, 100)
_pixels = st.floats(10, 2000)


@st.composite
def poses(draw: st.DrawFn) -> np.ndarray:
    pose = np.eye(4)
    turn = [draw(_angles) for _ in range(3)]
    pose[:3, :3] = Rotation.from_euler("xyz", turn).as_matrix()
    pose[:3, 3] = [draw(_places) for _ in range(3)]
    return pose


@st.composite
def lenses(draw: st.DrawFn) -> np.ndarray:
    return np.array([draw(_pixels) for _ in range(4)])


@given(poses())
def test_blender_to_opencv_and_back(pose: np.ndarray) -> None:
    world2cam = cameras.world2cam_of(pose)
    np.testing.assert_allclose(cameras.poses_of(world2cam), pose, atol=1e-9)
    # The same points, seen from behind the flip of two axes.
    np.testing.assert_allclose(
        world2cam @ pose, np.diag([1.0, -1.0, -1.0, 1.0]), atol=1e-9 * (1 + abs(pose).max())
    )
    assert cameras.is_rigid(pose)
    assert cameras.is_rigid(world2cam)


def test_what_blender_sees_is_what_opencv_sees() -> None:
    """A camera at -y that looks along y, z up: what is to the right is at x > 0, above at y < 0."""
    pose = cameras.look_at([0.0, -5.0, 0.0])
    world2cam = cameras.world2cam_of(pose)
    point = world2cam @ [1.0, 0.0, 2.0, 1.0]
    np.testing.assert_allclose(point[:3], [1.0, -2.0, 5.0], atol=1e-12)
    np.testing.assert_allclose(pose, camera_poses([(0.0, 0.0)], "z", 5.0)[0], atol=1e-12)


@pytest.mark.parametrize("angles", [(0.0, 20.0), (90.0, -60.0), (217.0, 45.0)])
def test_look_at_agrees_with_the_poses_of_views(angles: tuple[float, float]) -> None:
    expected = camera_poses([angles], "z", 3.0)[0]
    np.testing.assert_allclose(cameras.look_at(expected[:3, 3]), expected, atol=1e-12)


@pytest.mark.parametrize("height", [4.0, -4.0])
def test_straight_up_and_down(height: float) -> None:
    pose = cameras.look_at([0.0, 0.0, height])
    assert cameras.is_rigid(pose)
    np.testing.assert_allclose(pose[:3, 1], [0, 1, 0], atol=1e-12)
    pixels, depth = cameras.project(np.zeros((1, 3)), pose, cameras.intrinsics_of_field(40, 64, 64))
    np.testing.assert_allclose(pixels, [[31.5, 31.5]], atol=1e-9)
    np.testing.assert_allclose(depth, [4.0])


def test_a_camera_at_its_target_is_refused() -> None:
    with pytest.raises(ValueError, match="looks at"):
        cameras.look_at([[1.0, 2.0, 3.0], [0.0, 0.0, 4.0]], (0.0, 0.0, 4.0))


@given(poses(), lenses(), st.floats(0.01, 1000))
@settings(max_examples=50)
def test_a_ray_is_seen_in_its_pixel(pose: np.ndarray, lens: np.ndarray, depth: float) -> None:
    origin, directions = cameras.rays(pose, lens, 3, 4)
    points = (origin + depth * directions).reshape(-1, 3)
    pixels, found = cameras.project(points, pose, lens)
    v, u = np.mgrid[:3, :4]
    # The world's coordinates have 100 units: their rounding, seen through the lens.
    slack = 1e-8 * (1 + lens.max() / depth)
    np.testing.assert_allclose(pixels, np.stack([u, v], axis=-1).reshape(-1, 2), atol=slack)
    np.testing.assert_allclose(found, depth, rtol=1e-6, atol=1e-9)


def test_behind_the_camera_there_are_no_pixels() -> None:
    pose = cameras.look_at([0.0, -5.0, 0.0])
    pixels, depth = cameras.project(
        np.array([[0.0, -6.0, 0.0]]), pose, np.array([50.0, 50.0, 31.5, 31.5])
    )
    assert depth[0] == -1.0
    assert np.isnan(pixels).all()


@given(lenses(), st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096))
def test_resizing_and_back(lens: np.ndarray, a: int, b: int, c: int) -> None:
    there = cameras.resized(lens, (a, b), (b, c))
    np.testing.assert_allclose(cameras.resized(there, (b, c), (a, b)), lens, rtol=1e-9, atol=1e-7)


def test_resizing_keeps_what_corners_see() -> None:
    """The left edge of the picture is at -0.5 in any size."""
    lens = np.array([300.0, 310.0, 120.0, 130.0])
    small = cameras.resized(lens, (256, 256), (8, 8))
    edge = (np.array([-0.5, -0.5, 255.5]) - lens[2]) / lens[0]
    np.testing.assert_allclose((np.array([-0.5, -0.5, 7.5]) - small[2]) / small[0], edge)


@given(st.floats(1, 170), st.integers(2, 4096), st.integers(2, 4096))
def test_field_and_back(field: float, width: int, height: int) -> None:
    lens = cameras.intrinsics_of_field(field, width, height)
    assert cameras.field_of_intrinsics(lens, width) == pytest.approx(field)
    half = np.tan(np.radians(field) / 2)
    assert (width - 0.5 - lens[2]) / lens[0] == pytest.approx(half)
    assert (-0.5 - lens[2]) / lens[0] == pytest.approx(-half)


def test_cropping_and_the_matrix() -> None:
    lens = cameras.cropped(np.array([[300.0, 310.0, 120.0, 130.0]]), 20, -7)
    expected = [[[300, 0, 100], [0, 310, 137], [0, 0, 1]]]
    np.testing.assert_array_equal(cameras.matrix_of(lens), expected)


def test_what_is_no_rigid_motion() -> None:
    mirrored, scaled, sheared, unknown, projective = np.repeat(np.eye(4)[None], 5, axis=0)
    mirrored[0, 0] = -1
    scaled[:3, :3] *= 1.1
    sheared[0, 1] = 0.1
    unknown[1, 3] = np.nan
    projective[3, 0] = 0.5
    every = np.stack([np.eye(4), mirrored, scaled, sheared, unknown, projective])
    assert cameras.is_rigid(every).tolist() == [True] + [False] * 5


def test_rings_of_the_published_code() -> None:
    golden = load_file(GOLDEN / "spherical_poses.safetensors")
    rings = [
        cameras.published_ring(5, 4.0, 60.0),
        cameras.published_ring(4, 3.0, 30.0, -30.0, 30.0),
        cameras.published_ring(7, 2.0, 90.0, 10.0, 190.0, endpoint=True),
    ]
    for number, ring in enumerate(rings):
        expected = golden[f"out.world2cam_{number}"]
        assert abs(ring - expected).max() <= 1e-4 * abs(expected).max()


def test_a_published_ring_in_blender() -> None:
    """They lie as far above the horizon as their zenith angle leaves, look at the middle, and are
    upright."""
    poses = cameras.from_published_world(cameras.poses_of(cameras.published_ring(6, 4.0, 60.0)))
    heights = poses[:, 2, 3]
    np.testing.assert_allclose(heights, 4 * np.sin(np.radians(30)), atol=1e-12)
    np.testing.assert_allclose(cameras.look_at(poses[:, :3, 3]), poses, atol=1e-12)
