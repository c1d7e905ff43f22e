from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import BadInput
from backend.geometry import transforms


def _rotation(random: np.random.Generator) -> np.ndarray:
    matrix, _ = np.linalg.qr(random.normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    offset=st.floats(-1e6, 1e6),
    extent=st.floats(1e-3, 1e4),
)
def test_fit_and_back(seed: int, offset: float, extent: float) -> None:
    points = offset + extent * np.random.default_rng(seed).uniform(size=(60, 3)) * [1, 0.5, 0.2]
    to_cube = transforms.fit_to_cube(points)
    inside = transforms.apply_to_points(to_cube, points, np.float64)
    sides = inside.max(axis=0) - inside.min(axis=0)
    # What float64 keeps of a place `offset` away, in the unit of the cube.
    tolerance = 1e-9 + abs(offset) / extent * 1e-14
    assert sides.max() == pytest.approx(1.8, abs=tolerance)
    np.testing.assert_allclose(inside.max(axis=0) + inside.min(axis=0), 0, atol=tolerance)
    back = transforms.apply_to_points(transforms.inverse(to_cube), inside, np.float64)
    np.testing.assert_allclose(back, points, rtol=0, atol=1e-9 * (1 + extent))


def test_a_scan_far_away_keeps_its_millimetres() -> None:
    points = np.array([1e6, -2e6, 3e5]) + np.random.default_rng(0).uniform(size=(1000, 3))
    to_cube = transforms.fit_to_cube(points)
    inside = transforms.apply_to_points(to_cube, points)
    assert inside.dtype == np.float32
    back = transforms.apply_to_points(transforms.inverse(to_cube), inside, np.float64)
    assert np.abs(back - points).max() < 1e-6


def test_float32_points_of_any_size_do_not_overflow() -> None:
    points = np.array([[-3e38, 0, 0], [3e38, 1, 1]], np.float32)
    inside = transforms.apply_to_points(transforms.fit_to_cube(points), points)
    np.testing.assert_allclose(inside[:, 0], [-0.9, 0.9], atol=1e-6)


def test_normals_stay_at_right_angles() -> None:
    random = np.random.default_rng(1)
    transform = np.eye(4)
    transform[:3, :3] = _rotation(random) @ np.diag([3.0, 0.2, -1.5])
    tangents = random.normal(size=(100, 3))
    normals = np.cross(tangents, random.normal(size=(100, 3)))
    moved = transforms.apply_to_normals(transform, normals)
    along = tangents @ transform[:3, :3].T
    assert np.abs((moved * along).sum(axis=1)).max() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-6)
    assert np.array_equal(
        transforms.apply_to_normals(transform, np.zeros((2, 3))), np.zeros((2, 3))
    )


def test_a_mirror_turns_faces_over() -> None:
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    for scale, turned in (([2, 1, 1], False), ([-2, 1, 1], True), ([-1, -1, 1], False)):
        transform = np.diag([*scale, 1.0])
        assert transforms.mirrors(transform) == turned
        moved = transforms.apply_to_points(transform, vertices, np.float64)
        a, b, c = (moved[transforms.apply_to_faces(transform, faces)[:, k]] for k in range(3))
        assert np.einsum("ij,ij->", a, np.cross(b, c)) > 0


def test_compose_and_scale() -> None:
    random = np.random.default_rng(2)
    first, second = np.eye(4), np.eye(4)
    first[:3, :3], first[:3, 3] = 2 * _rotation(random), random.normal(size=3)
    second[:3, :3], second[:3, 3] = 0.7 * _rotation(random), random.normal(size=3)
    points = random.normal(size=(50, 3))
    both = transforms.compose(second, first)
    step = transforms.apply_to_points(first, points, np.float64)
    step = transforms.apply_to_points(second, step, np.float64)
    np.testing.assert_allclose(transforms.apply_to_points(both, points, np.float64), step)
    assert transforms.scale_of(both) == pytest.approx(1.4)
    np.testing.assert_allclose(
        transforms.compose(both, transforms.inverse(both)), np.eye(4), atol=1e-12
    )


def test_nodes_of_the_grid() -> None:
    nodes = transforms.apply_to_points(transforms.index_to_cube(256), np.array([[0, 128, 255.0]]))
    np.testing.assert_allclose(nodes, [[-1, 0, 2 * 255 / 256 - 1]], atol=1e-7)


@pytest.mark.parametrize("points", [[[1.0, 2, 3]], [[1.0, 2, 3]] * 5, [[np.inf, 0, 0], [0, 0, 0]]])
def test_points_without_extent(points: list) -> None:
    with pytest.raises(BadInput, match="no extent"):
        transforms.fit_to_cube(np.array(points))


@pytest.mark.parametrize("scale", [[0, 1, 1], [1, 1, np.nan], [0, 0, 0]])
def test_flattened_space_cannot_be_undone(scale: list) -> None:
    with pytest.raises(BadInput, match="scaled to nothing"):
        transforms.inverse(np.diag([*scale, 1.0]))


def test_thin_scales_can_be_undone() -> None:
    transform = np.diag([1e-5, 1e-5, 1e-5, 1.0])
    np.testing.assert_allclose(transforms.inverse(transform)[0, 0], 1e5)
