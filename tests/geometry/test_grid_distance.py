from __future__ import annotations

import numpy as np
import pytest
import trimesh

from backend.geometry.grid_distance import grid_distance
from backend.geometry.tsdf import distance_to

SIDE = 65
NODES = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), axis=-1)


def _exact(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    return distance_to(vertices, faces)(NODES.reshape(-1, 3).astype(np.float32)).reshape([SIDE] * 3)


def _in_grid(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    return 20 * np.asarray(mesh.vertices) + [32.3, 31.8, 32.1], np.asarray(mesh.faces)


def _shards() -> tuple[np.ndarray, np.ndarray]:
    """Large, small and slender triangles, crossing each other."""
    rng = np.random.default_rng(4)
    centres = rng.uniform(15, 50, (60, 1, 3))
    sizes = 10 ** rng.uniform(-1, 1.2, (60, 3, 1))
    return (centres + sizes * rng.uniform(-1, 1, (60, 3, 3))).reshape(-1, 3), np.arange(
        180
    ).reshape(-1, 3)


@pytest.mark.parametrize(
    ("vertices", "faces"),
    [
        _in_grid(trimesh.creation.box((1.1, 1.6, 0.7))),
        _in_grid(trimesh.creation.icosphere(5)),
        _in_grid(trimesh.creation.torus(1, 0.3)),
        _shards(),
    ],
    ids=["box", "ball", "torus", "shards"],
)
@pytest.mark.parametrize("exact", [4.0, 14.0], ids=["halved", "whole"])
def test_distances_are_those_of_a_library(
    vertices: np.ndarray, faces: np.ndarray, exact: float
) -> None:
    expected = np.minimum(_exact(vertices, faces), 14)
    found = grid_distance(vertices, faces, SIDE, 14.0, exact, direct=1.5)
    assert found.dtype == np.float32
    error = np.abs(found - expected)
    assert error[expected < 1.5].max() < 1e-4
    close = expected < exact
    assert close.sum() > 20_000
    # The ball has four triangles to a square of the grid, not all of which are handed on.
    assert error[close].mean() < 0.006
    assert error[close].max() < 0.3
    # Interpolation costs most where two parts of the surface are equally near.
    assert error.mean() < 0.05
    assert error.max() < 1.5


def test_only_what_is_wanted_is_looked_at() -> None:
    vertices, faces = _in_grid(trimesh.creation.icosphere(4))
    expected = _exact(vertices, faces)
    wanted = np.linalg.norm(NODES - [32.3, 31.8, 32.1], axis=-1) < 20
    found = grid_distance(vertices, faces, SIDE, 30.0, 30.0, wanted)
    assert np.abs(found - expected)[wanted].max() < 0.2
    assert np.abs(found - expected)[wanted].mean() < 0.01
    assert (found[~wanted] == 30).all()


def test_triangles_without_area_are_lines_and_points() -> None:
    """Nothing divides by their area."""
    vertices = np.array([[20.2, 30.1, 30], [44.7, 30.1, 30], [30.0, 30.1, 30], [10, 10, 10.4]])
    for faces in ([[0, 1, 2]], [[0, 2, 1]], [[2, 0, 1]], [[1, 1, 0]], [[0, 1, 1]], [[0, 1, 0]]):
        found = grid_distance(vertices, np.array(faces), SIDE, 12.0, 12.0)
        along = np.clip(NODES[..., 0], 20.2, 44.7)
        nearest = np.stack([along, np.full(along.shape, 30.1), np.full(along.shape, 30.0)], -1)
        expected = np.minimum(np.linalg.norm(NODES - nearest, axis=-1), 12)
        np.testing.assert_allclose(found, expected, atol=1e-3)
    point = grid_distance(vertices, np.array([[3, 3, 3]]), SIDE, 12.0, 12.0)
    expected = np.minimum(np.linalg.norm(NODES - vertices[3], axis=-1), 12)
    np.testing.assert_allclose(point, expected, atol=1e-3)
