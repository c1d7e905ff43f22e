from __future__ import annotations

import numpy as np
import pytest
import trimesh

from backend.geometry.components import parts, supported


def _balls(*places: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Spheres of radius given, at x given, in one mesh."""
    meshes = [trimesh.creation.icosphere(2, radius) for _, radius in places]
    for mesh, (x, _) in zip(meshes, places, strict=True):
        mesh.apply_translation([x, 0, 0])
    whole = trimesh.util.concatenate(meshes)
    return whole.vertices.astype(np.float32), whole.faces.astype(np.int32)


def test_parts_are_numbered() -> None:
    vertices, faces = _balls((0, 1), (3, 1), (6, 0.5))
    found = parts(vertices, faces)
    assert found.shape == (len(vertices),)
    assert len(set(found)) == 3
    assert (found[faces] == found[faces][:, :1]).all()
    middles = [vertices[found == part][:, 0].mean() for part in range(3)]
    assert sorted(middles) == pytest.approx([0, 3, 6], abs=0.01)


def test_the_order_of_vertices_and_unused_ones_do_not_matter() -> None:
    vertices, faces = _balls((0, 1), (3, 1))
    order = np.random.default_rng(0).permutation(len(vertices))
    shuffled = np.argsort(order)[faces]
    found = parts(vertices[order], shuffled)
    assert len(set(found)) == 2
    for part in set(found):
        x = vertices[order][found == part][:, 0]
        assert np.ptp(x) <= 2.01
    alone = parts(np.concatenate([vertices, vertices[:1]]), faces)
    assert len(set(alone)) == 3


def test_a_part_without_points_goes() -> None:
    vertices, faces = _balls((0, 1), (3, 0.5), (6, 0.3))
    scanned = vertices[vertices[:, 0] < 4]
    kept, corners = supported(vertices, faces, scanned)
    assert kept.dtype == vertices.dtype
    assert corners.dtype == faces.dtype
    np.testing.assert_array_equal(kept, scanned)
    mesh = trimesh.Trimesh(kept, corners, process=False)
    assert mesh.is_watertight
    assert mesh.body_count == 2
    assert mesh.volume == pytest.approx(trimesh.Trimesh(*_balls((0, 1), (3, 0.5))).volume, rel=1e-5)


def test_a_small_part_that_was_scanned_stays() -> None:
    vertices, faces = _balls((0, 1), (3, 0.05))
    points = np.concatenate([np.tile(vertices[vertices[:, 0] < 2], (50, 1)), vertices[-8:]])
    kept, _ = supported(vertices, faces, points)
    assert len(kept) == len(vertices)
    fewer, _ = supported(vertices, faces, points[:-1])
    assert len(fewer) < len(vertices)


def test_a_small_part_of_a_cloud_of_which_only_a_sample_is_asked() -> None:
    vertices, faces = _balls((0, 1), (3, 0.1))
    random = np.random.default_rng(0)
    big, small = vertices[vertices[:, 0] < 2], vertices[vertices[:, 0] > 2]
    points = np.concatenate([big[random.integers(0, len(big), 600_000)], np.tile(small, (2, 1))])
    kept, _ = supported(vertices, faces, points)
    assert len(kept) == len(vertices)


def test_when_no_part_is_supported_all_stay() -> None:
    vertices, faces = _balls((0, 1), (3, 1))
    kept, corners = supported(vertices, faces, vertices[:3])
    assert len(kept) == len(vertices)
    assert len(corners) == len(faces)


def test_one_part_and_none() -> None:
    vertices, faces = _balls((0, 1))
    assert supported(vertices, faces, vertices)[0] is vertices
    nothing = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    assert len(supported(*nothing, vertices)[0]) == 0
