from __future__ import annotations

import sys

import numpy as np
import pytest
import trimesh

from backend.errors import BadInput, NotFound
from backend.geometry import tsdf
from backend.geometry.isosurface import marching_cubes
from tests.geometry import closing_reference

N = 64
VOXEL = 2 / N


@pytest.fixture(scope="module")
def nodes() -> np.ndarray:
    axis = np.arange(N) * VOXEL - 1
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))


def _box_distance(nodes: np.ndarray, half: list[float]) -> np.ndarray:
    q = np.abs(nodes) - np.reshape(half, (3, 1, 1, 1))
    outer = np.linalg.norm(np.maximum(q, 0), axis=0)
    return outer + np.minimum(q.max(axis=0), 0)


def _surface(field: np.ndarray) -> trimesh.Trimesh:
    vertices, faces = marching_cubes(field)
    return trimesh.Trimesh(vertices * VOXEL - 1, faces, process=False)


@pytest.mark.parametrize("spoil", ["nothing", "winding", "no shared vertices", "slits"])
def test_a_box_keeps_its_surface(nodes: np.ndarray, spoil: str) -> None:
    """Exactly, however its mesh is spoilt: turned faces, loose faces, gaps of two voxels."""
    box = trimesh.creation.box((1, 1.2, 0.8))
    for _ in range(3):
        box = box.subdivide()
    vertices, faces = np.asarray(box.vertices), np.asarray(box.faces).copy()
    if spoil == "winding":
        faces[::2] = faces[::2, ::-1]
    elif spoil != "nothing":
        vertices, faces = vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)
    if spoil == "slits":
        top = (
            (vertices[:, 2] > 0.39)
            & (np.abs(vertices[:, 0]) < 0.4)
            & (np.abs(vertices[:, 1] - 0.2) < 0.26)
        )
        whole = top.reshape(-1, 3).all(axis=1).repeat(3)
        vertices = vertices + np.outer(whole, [0, 1.5 * VOXEL, 0])
    field = tsdf.closing_sdf(vertices, faces, N)
    expected = np.clip(_box_distance(nodes, [0.5, 0.6, 0.4]), -0.1, 0.1)
    assert field.dtype == np.float32
    assert field.shape == (N, N, N)
    error = np.abs(field - expected)
    if spoil == "slits":
        assert 0 < error.max() < 1.5 * VOXEL
        assert np.array_equal(field < -VOXEL, expected < -VOXEL)
    else:
        assert error.max() < 0.1 * VOXEL


def test_a_sphere(nodes: np.ndarray) -> None:
    sphere = trimesh.creation.icosphere(5, 0.7)
    field = tsdf.closing_sdf(sphere.vertices, sphere.faces, N)
    expected = np.clip(np.linalg.norm(nodes, axis=0) - 0.7, -0.1, 0.1)
    assert np.abs(field - expected).max() < 0.05 * VOXEL


def test_a_sheet_gets_a_body(nodes: np.ndarray) -> None:
    """An open square, two voxels thick afterwards, and the field outside measures from that."""
    vertices = np.array(
        [[-0.5, -0.5, 0.003], [0.5, -0.5, 0.003], [0.5, 0.5, 0.003], [-0.5, 0.5, 0.003]]
    )
    field = tsdf.closing_sdf(vertices, np.array([[0, 1, 2], [0, 2, 3]]), N)
    flat = nodes - np.reshape([0, 0, 0.003], (3, 1, 1, 1))
    expected = np.clip(_box_distance(flat, [0.5, 0.5, 0]) - VOXEL, -0.1, 0.1)
    assert np.abs(field - expected).max() < 0.1 * VOXEL
    surface = _surface(field)
    assert surface.is_watertight
    rim = 4 * np.pi / 2 * VOXEL**2
    assert surface.volume == pytest.approx(2 * VOXEL + rim, rel=0.05)


def test_a_cavity_is_filled_and_a_cup_is_not() -> None:
    outer = trimesh.creation.icosphere(4, 0.8)
    inner = trimesh.creation.icosphere(4, 0.5)
    both = trimesh.util.concatenate([outer, inner])
    middle = (N // 2,) * 3
    assert tsdf.closing_sdf(both.vertices, both.faces, N)[middle] == pytest.approx(-0.1)
    open_top = both.triangles_center[:, 2] < 0.35
    cup = tsdf.closing_sdf(both.vertices, both.faces[open_top], N)
    assert cup[middle] == pytest.approx(0.1)
    assert cup[N // 2, N // 2, int((1 - 0.8) / VOXEL) + 1] < 0


def test_agrees_with_the_plain_way() -> None:
    """Solids, a sheet through one, an open tube, a room: at a size at which levels are halved."""
    rng = np.random.default_rng(1)
    bodies = [
        trimesh.creation.icosphere(4, 0.4),
        trimesh.creation.box((0.6, 1.2, 0.3)),
        trimesh.creation.torus(0.5, 0.12),
        trimesh.creation.box((0.5, 0.5, 0.5)),
    ]
    bodies[1].apply_transform(trimesh.transformations.random_rotation_matrix(rng.random(3)))
    bodies[1].apply_translation([0.3, 0.1, 0.2])
    bodies[2].apply_transform(trimesh.transformations.random_rotation_matrix(rng.random(3)))
    bodies[3].apply_translation([-0.5, -0.4, -0.5])
    bodies[3].update_faces(bodies[3].triangles_center[:, 0] < -0.3)  # open to one side
    sheet = trimesh.Trimesh(
        [[-0.7, 0.3, -0.8], [0.8, 0.32, -0.7], [0.8, 0.31, 0.8]], [[0, 1, 2]], process=False
    )
    mesh = trimesh.util.concatenate([*bodies, sheet])
    mesh.apply_scale(0.9 / np.abs(mesh.vertices).max())
    size = 180
    found = tsdf.closing_sdf(mesh.vertices, mesh.faces, size)
    expected = closing_reference.closing_sdf(mesh.vertices, mesh.faces, size)
    error = np.abs(found - expected)
    assert error.mean() < 1e-5
    assert error.max() < 2.5 / size
    turned = (found < 0) != (expected < 0)
    assert turned.sum() <= 3
    assert (found < -0.09).any()
    assert not (found == expected).all()


def test_parts_and_frames() -> None:
    """Far away, large, of two bodies: fitted, sampled, and found again where it was."""
    offset = np.array([1e5, -2e5, 3e4])
    bodies = [trimesh.creation.icosphere(3, 20), trimesh.creation.box((30, 30, 30))]
    bodies[1].apply_translation([60, 0, 0])
    mesh = trimesh.util.concatenate(bodies)
    field, to_cube = tsdf.mesh_tsdf(mesh.vertices + offset, mesh.faces, N)
    surface = _surface(field)
    surface.apply_transform(np.linalg.inv(to_cube))
    assert surface.is_watertight
    assert surface.volume == pytest.approx(mesh.volume, rel=0.01)
    np.testing.assert_allclose(surface.bounds, mesh.bounds + offset, atol=1)


def test_refuses_what_is_no_mesh_in_the_cube() -> None:
    triangle = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]])
    with pytest.raises(BadInput, match="no faces"):
        tsdf.closing_sdf(triangle, np.zeros((0, 3), int), N)
    for bad in (3 * triangle, triangle * np.nan):
        with pytest.raises(BadInput, match="within the cube"):
            tsdf.closing_sdf(bad, np.array([[0, 1, 2]]), N)
    with pytest.raises(ValueError, match="even"):
        tsdf.closing_sdf(triangle, np.array([[0, 1, 2]]), 63)


def test_says_when_no_distance_library_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    monkeypatch.setitem(sys.modules, "igl", None)
    triangle = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]])
    with pytest.raises(NotFound, match="Neither Open3D nor libigl") as caught:
        tsdf.distance_to(triangle, np.array([[0, 1, 2]]))
    assert "libigl" in caught.value.remedy
