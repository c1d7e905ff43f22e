"""Renders against what geometry says they must show."""

import math

import numpy as np
import pytest
import trimesh

from backend.training import renders

SIZE = 128


def rays(camera, size):
    """Directions (S, S, 3) through the pixel centres in the camera's frame, z = -1."""
    at = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(at, -at)
    return np.stack([x / camera.focal, y / camera.focal, -np.ones_like(x)], axis=-1)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (30, 20), (200, -50), (90, 90)])
def test_the_depth_of_a_ball_is_that_of_the_ball(azimuth, elevation):
    ball = trimesh.creation.icosphere(subdivisions=6, radius=0.5)
    camera = renders.orbit(azimuth, elevation, 3.0, 40)
    offset = np.array([0.2, -0.1, 0.3])
    view = renders.render(ball.vertices + offset, ball.faces, camera, SIZE)
    direction = rays(camera, SIZE)
    centre = camera.to_camera[:3, :3] @ offset + camera.to_camera[:3, 3]
    a = (direction**2).sum(-1)
    b = direction @ centre
    root = b**2 - a * (centre @ centre - 0.25)
    exact = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    inside = root > 0.02
    assert np.abs(view.depth[inside] - exact[inside]).max() < 1e-3
    assert np.isinf(view.depth[root < -0.01]).all()
    points = direction * exact[..., None]
    normals = (points - centre) / 0.5
    agree = np.einsum("ijk,ijk->ij", view.normals, np.nan_to_num(normals, posinf=0, neginf=0))
    assert agree[inside].min() > 0.999


def test_the_camera_of_an_orbit_looks_at_the_origin_with_y_up():
    camera = renders.orbit(90, 30, 2.0, 45)
    assert camera.to_camera @ [0, 0, 0, 1] == pytest.approx([0, 0, -2, 1])
    where = np.linalg.inv(camera.to_camera)[:3, 3]
    assert where == pytest.approx([math.sqrt(3), 1, 0])
    up = camera.to_camera[:3, :3] @ [0, 1, 0]
    assert up[0] == pytest.approx(0)
    assert up[1] > 0
    assert np.linalg.det(camera.to_camera[:3, :3]) == pytest.approx(1)


def test_of_two_faces_the_nearer_is_seen_from_both_sides():
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float)
    vertices = np.concatenate([square, square * 0.5 + [0, 0, 0.5]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 7, 6]])
    view = renders.render(vertices, faces, renders.orbit(0, 0, 3, 60), 64)
    assert view.depth[32, 32] == pytest.approx(2.5)
    assert view.depth[32, 14] == pytest.approx(3.0)
    assert np.isinf(view.depth[0, 0])
    assert (view.normals[np.isfinite(view.depth)] == [0, 0, 1]).all()


def test_pictures_show_the_shape_and_only_it():
    box = trimesh.creation.box((0.8, 0.8, 0.8))
    view = renders.render(box.vertices, box.faces, renders.orbit(35, 30, 4, 40), 2 * SIZE)
    rng = np.random.default_rng(0)
    picture = renders.shaded(view, rng)
    hit = np.isfinite(view.depth).reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3))
    assert np.abs(picture[..., 3] - 255 * hit).max() <= 0.5
    tones, counts = np.unique(picture[..., :3][hit == 1], axis=0, return_counts=True)
    largest = np.sort(counts)[-3:]  # three faces, three tones; the rest lies on edges
    assert largest.sum() > 0.9 * counts.sum()
    assert largest[0] > 0.1 * counts.sum()
    assert len(tones) >= 3
    drawing = renders.line_drawing(view, rng)
    assert (drawing[np.asarray(hit == 0)] > 128).mean() > 0.97
    # Nine edges of a box are seen from a corner: no line within the three faces.
    inner = np.all([np.roll(hit == 1, shift, axis) for shift in (-4, 4) for axis in (0, 1)], axis=0)
    dark = (drawing[..., 0] < 220) & inner
    assert 0.03 < dark.sum() / inner.sum() < 0.15


def test_random_cameras_see_the_whole_cube():
    corners = np.array([[x, y, z] for x in (-0.9, 0.9) for y in (-0.9, 0.9) for z in (-0.9, 0.9)])
    rng = np.random.default_rng(3)
    for _ in range(200):
        camera = renders.random_camera(rng)
        seen = corners / np.linalg.norm(corners, axis=1)[:, None] * 1.25
        seen = seen @ camera.to_camera[:3, :3].T + camera.to_camera[:3, 3]
        assert (np.abs(seen[:, :2]) * camera.focal <= -seen[:, 2:] * 1.0001).all()
