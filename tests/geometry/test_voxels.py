from __future__ import annotations

import sys

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from backend.errors import BadInput, NotFound
from backend.geometry import decimation, voxels
from backend.geometry.isosurface import marching_cubes

ORIGIN, SIZE = np.array([-1.0, -1, -1]), np.full(3, 2 / 32)
SHAPE = (32, 32, 32)


def _centres() -> np.ndarray:
    axis = -1 + (np.arange(32) + 0.5) / 16
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def test_a_sphere() -> None:
    sphere = trimesh.creation.icosphere(5, 0.8)
    found = voxels.occupancy_of_mesh(sphere.vertices, sphere.faces, SHAPE, ORIGIN, SIZE)
    radius = np.linalg.norm(_centres(), axis=-1)
    clear = np.abs(radius - 0.8) > 0.002  # between the facets and the sphere
    assert np.array_equal(found[clear], (radius < 0.8)[clear])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), whole=st.booleans())
def test_any_closed_mesh_against_its_field(seed: int, whole: bool) -> None:
    """Marching cubes of noise, voxelised at its own nodes: the negative nodes come back.

    With whole magnitudes the surface passes through many centres' columns, edges and vertices.
    """
    random = np.random.default_rng(seed)
    field = random.choice([-1.0, 1.0], (7, 8, 9)) if whole else random.normal(size=(7, 8, 9))
    vertices, faces = marching_cubes(field, closed=True)
    found = voxels.occupancy_of_mesh(vertices, faces, field.shape, np.full(3, -0.5), np.ones(3))
    assert np.array_equal(found, field < 0)


def test_rays_through_vertices_and_edges() -> None:
    """A box whose corners, edges and diagonals lie exactly on columns of centres."""
    for sizes in ((4, 6, 8), (2, 2, 2), (10, 2, 6)):
        box = trimesh.creation.box(sizes)
        found = voxels.occupancy_of_mesh(
            box.vertices, box.faces, (12, 12, 12), np.full(3, -6.5), np.ones(3)
        )
        assert found.sum() == np.prod(sizes), "each plane of centres counts on one side only"


def test_bodies_join_and_other_frames() -> None:
    box = trimesh.creation.box((1, 1, 1))
    moved = box.copy().apply_translation([0.5, 0.25, 0])
    both = trimesh.util.concatenate([box, moved])
    single = [
        voxels.occupancy_of_mesh(b.vertices, b.faces, SHAPE, ORIGIN, SIZE) for b in (box, moved)
    ]
    joined = voxels.occupancy_of_mesh(both.vertices, both.faces, SHAPE, ORIGIN, SIZE)
    assert np.array_equal(joined, single[0] | single[1])
    scale, shift = np.array([2.0, 0.1, 30]), np.array([1e5, 0, -1e4])
    elsewhere = voxels.occupancy_of_mesh(
        both.vertices * scale + shift, both.faces, SHAPE, ORIGIN * scale + shift, SIZE * scale
    )
    assert np.mean(elsewhere != joined) < 1e-3
    outside = voxels.occupancy_of_mesh(both.vertices + 10, both.faces, SHAPE, ORIGIN, SIZE)
    assert not outside.any()
    assert not voxels.occupancy_of_mesh(box.vertices, box.faces[:0], SHAPE, ORIGIN, SIZE).any()


def test_occupancy_of_a_field(tsdf_64: np.ndarray) -> None:
    found = voxels.occupancy_of_sdf(tsdf_64, 32)
    vertices, faces = marching_cubes(tsdf_64)
    from_mesh = voxels.occupancy_of_mesh(vertices / 32 - 1, faces, SHAPE, ORIGIN, SIZE)
    assert voxels.iou(found, from_mesh) > 0.999
    x = np.arange(64) / 32 - 1
    plane = np.broadcast_to(x[:, None, None] - 0.01, (64, 64, 64))
    found = voxels.occupancy_of_sdf(plane, 48)
    assert np.array_equal(found[:, 5, 7], -1 + (np.arange(48) + 0.5) / 24 < 0.01)


def test_points_and_iou() -> None:
    points = np.array([[0.1, 0.1, 0.1], [3.9, 0, 0], [4, 4, 4], [4.1, 0, 0], [-0.1, 0, 0]])
    found = voxels.occupancy_of_points(points, (4, 4, 4), np.zeros(3), np.ones(3))
    assert np.argwhere(found).tolist() == [[0, 0, 0], [3, 0, 0], [3, 3, 3]]
    other = found.copy()
    other[0, 0, 0], other[1, 1, 1] = False, True
    assert voxels.iou(found, other) == 0.5
    assert voxels.iou(np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2), bool)) == 1


def test_surface_cells() -> None:
    block = np.zeros((8, 8, 8), bool)
    block[2:7, 2:7, 2:7] = True
    assert voxels.surface_cells(block).sum() == 125 - 27
    assert voxels.surface_cells(np.ones((4, 4, 4), bool)).sum() == 64 - 8


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_decimation_keeps_the_surface_closed(tsdf_64: np.ndarray, offset: float) -> None:
    vertices, faces = marching_cubes(tsdf_64)
    before = trimesh.Trimesh(vertices, faces, process=False)
    fewer, fewer_faces = decimation.decimate(vertices.astype(np.float64) + offset, faces, 1000)
    assert fewer.dtype == np.float32
    assert fewer_faces.dtype == np.int32
    assert 900 <= len(fewer_faces) <= 1000
    after = trimesh.Trimesh(fewer.astype(np.float64) - offset, fewer_faces, process=False)
    assert after.is_watertight
    assert after.is_winding_consistent
    assert after.volume == pytest.approx(before.volume, rel=0.012)
    np.testing.assert_allclose(after.bounds, before.bounds, atol=0.1)


def test_decimation_of_few_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    box = trimesh.creation.box((1, 1, 1))
    same = decimation.decimate(box.vertices, box.faces, 12)
    assert np.array_equal(same[1], box.faces)
    with pytest.raises(BadInput, match="cannot enclose"):
        decimation.decimate(box.vertices, box.faces, 3)
    monkeypatch.setitem(sys.modules, "pymeshlab", None)
    with pytest.raises(NotFound, match="PyMeshLab is not installed"):
        decimation.decimate(box.vertices, box.faces, 8)


@pytest.mark.parametrize("reach", [1, 6])
def test_squared_distances_are_those_of_scipy(reach: int) -> None:
    occupancy = np.random.default_rng(7).random((9, 20, 14)) < 0.01
    exact = ndimage.distance_transform_edt(~occupancy) ** 2
    expected = np.where(exact > reach**2 + 0.5, reach**2 + 1, np.rint(exact))
    assert np.array_equal(voxels.squared_distances(occupancy, reach), expected)
