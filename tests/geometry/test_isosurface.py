from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import igl
import numpy as np
import pytest
import skimage.measure
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linprog
from scipy.spatial import cKDTree

from backend.geometry import isosurface, wavelets
from backend.geometry.isosurface import marching_cubes

ROOT = Path(__file__).parent.parent.parent


def signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def assert_closed_manifold(vertices: np.ndarray, faces: np.ndarray) -> None:
    """Every edge joins two faces in opposite directions; every vertex has one ring of faces."""
    assert faces.dtype == np.int32
    assert vertices.dtype == np.float32
    assert len(np.unique(faces)) == len(vertices)
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(int)
    forward = directed[:, 0] * len(vertices) + directed[:, 1]
    backward = directed[:, 1] * len(vertices) + directed[:, 0]
    assert len(np.unique(forward)) == len(forward)
    assert np.array_equal(np.sort(forward), np.sort(backward))
    following: dict[int, dict[int, int]] = {}
    for a, b, c in faces.tolist():
        for tip, first, second in ((a, b, c), (b, c, a), (c, a, b)):
            following.setdefault(tip, {})[first] = second
    for ring in following.values():
        start = at = next(iter(ring))
        for _ in range(len(ring)):
            at = ring.pop(at)
        assert at == start
        assert not ring


def assert_same_set(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    assert cKDTree(theirs).query(ours)[0].max() <= tolerance
    assert cKDTree(ours).query(theirs)[0].max() <= tolerance


def _field_with(case: int, decisions: dict[int, bool]) -> np.ndarray | None:
    """A cell of these signs whose ambiguous faces decide so; None where no such cell exists.

    With the logarithms of the magnitudes as unknowns each decision is a linear inequality.
    """
    rows = []
    for face, connected in decisions.items():
        row = np.zeros(8)
        for corner in isosurface._CYCLES[face]:
            row[corner] = -1.0 if (case >> corner & 1) == connected else 1.0
        rows.append(row)
    magnitudes = np.zeros(8)
    if rows:
        found = linprog(np.zeros(8), np.array(rows), np.full(len(rows), -0.1), bounds=[(-1, 1)] * 8)
        if not found.success:
            return None
        magnitudes = found.x
    signs = np.array([-1.0 if case >> corner & 1 else 1.0 for corner in range(8)])
    return (signs * np.exp(magnitudes)).reshape(2, 2, 2).astype(np.float32)


def test_every_row_of_the_tables_is_closed() -> None:
    reached, centres = 0, 0
    for case in range(256):
        faces = [face for face in range(6) if isosurface.AMBIGUOUS[case] >> face & 1]
        for number in range(2 ** len(faces)):
            decisions = {face: bool(number >> at & 1) for at, face in enumerate(faces)}
            field = _field_with(case, decisions)
            if field is None:
                assert len(faces) >= 4
                continue
            row = isosurface.FIRST_ROW[case] + number
            assert isosurface._table_row(field, np.float32(0), 0, 0, 0) == row
            vertices, triangles = marching_cubes(field, closed=True)
            if case:
                assert_closed_manifold(vertices, triangles)
            reached += 1
            centres += int(isosurface._HAS_CENTRE[row])
    assert reached > 600
    assert centres > 0


@settings(max_examples=60, deadline=None)
@given(
    field=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=7),
        elements=st.sampled_from([-1.0, -0.5, -1e-30, -0.0, 0.0, 1e-30, 0.5, 1.0, 3e38, -3e38]),
    )
)
def test_any_field_gives_a_closed_manifold(field: np.ndarray) -> None:
    vertices, faces = marching_cubes(field, closed=True)
    if (field < 0).any():
        assert_closed_manifold(vertices, faces)
        assert signed_volume(vertices, faces) > 0
    else:
        assert len(vertices) == len(faces) == 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), depth=st.sampled_from([2, 3, 63, 64, 65, 66, 129]))
def test_words_of_signs_join(seed: int, depth: int) -> None:
    """Depths around multiples of 64 nodes, where a cell reads two words."""
    field = np.random.default_rng(seed).normal(size=(4, 5, depth)).astype(np.float32)
    vertices, faces = marching_cubes(field, closed=True)
    assert_closed_manifold(vertices, faces)
    turned, turned_faces = marching_cubes(field.transpose(2, 0, 1), closed=True)
    assert_same_set(vertices[:, [2, 0, 1]], turned, 1e-5)
    assert len(turned_faces) == len(faces)


def test_vertices_never_coincide() -> None:
    field = np.random.default_rng(1).choice([-1.0, -1e-20, 0.0, 1.0], (12, 12, 12))
    vertices, _ = marching_cubes(field, closed=True)
    assert len(np.unique(vertices, axis=0)) == len(vertices)
    assert cKDTree(vertices).query(vertices, k=2)[0][:, 1].min() > isosurface.MARGIN


def test_open_at_the_border_unless_closed() -> None:
    x = np.arange(8.0) - 3.5
    field = np.broadcast_to(x[:, None, None], (8, 8, 8))
    vertices, faces = marching_cubes(field)
    assert np.allclose(vertices[:, 0], 3.5)
    assert len(faces) == 2 * 49
    normal = np.cross(*(vertices[faces[0, 1:]] - vertices[faces[0, 0]]))
    assert normal[0] > 0
    vertices, faces = marching_cubes(field, closed=True)
    assert_closed_manifold(vertices, faces)
    assert signed_volume(vertices, faces) == pytest.approx(3.5 * 7 * 7, rel=1e-3)
    assert vertices.min() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("resolution", "tolerance"), [(64, 8e-3), (128, 2e-3)])
def test_volume_of_a_sphere_and_a_torus(resolution: int, tolerance: float) -> None:
    axis = np.linspace(-1, 1, resolution)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    sphere = np.sqrt(x**2 + y**2 + z**2) - 0.7
    torus = np.hypot(np.hypot(x, y) - 0.6, z) - 0.2
    for field, volume in ((sphere, 4 / 3 * np.pi * 0.343), (torus, 2 * np.pi**2 * 0.6 * 0.04)):
        vertices, faces = marching_cubes(field)
        assert_closed_manifold(vertices, faces)
        size = signed_volume(vertices * (2 / (resolution - 1)), faces)
        assert size == pytest.approx(volume, rel=tolerance)


def test_golden_surface(golden_inverse: dict[str, np.ndarray]) -> None:
    packed = wavelets.scatter_sparse(
        torch.from_numpy(golden_inverse["low"]).float()[0, 0],
        torch.from_numpy(golden_inverse["high_indices"])[:, 1:],
        torch.from_numpy(golden_inverse["high_values"]).float(),
    )
    field = wavelets.inverse(wavelets.unpack(packed)).numpy()
    vertices, faces = marching_cubes(field)
    assert_same_set(vertices, skimage.measure.marching_cubes(field, 0)[0])
    vertices = vertices / 256 * 2 - 1
    assert (len(vertices), len(faces)) == (81870, 163740)
    # Other diagonals in the same polygons: 2e-5 of the volume lies between them.
    assert signed_volume(vertices, faces) == pytest.approx(0.3087239, abs=1e-5)
    low = [-0.7798700512266383, -0.5298447380772301, -0.30999676429152834]
    high = [0.8699467588591712, 0.4599764670895192, 0.4101336782294893]
    np.testing.assert_allclose(vertices.min(axis=0), low, atol=1e-5)
    np.testing.assert_allclose(vertices.max(axis=0), high, atol=1e-5)


def test_same_surface_as_other_implementations(tsdf_64: np.ndarray) -> None:
    vertices, faces = marching_cubes(tsdf_64)
    assert_closed_manifold(vertices, faces)
    lewiner, lewiner_faces, _, _ = skimage.measure.marching_cubes(tsdf_64, 0)
    assert (len(vertices), len(faces)) == (len(lewiner), len(lewiner_faces))
    assert_same_set(vertices, lewiner)
    n = len(tsdf_64)
    grid = np.stack(np.meshgrid(*[np.arange(float(n))] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    from_igl = igl.marching_cubes(tsdf_64.ravel(order="F").astype(float), grid[:, ::-1], n, n, n, 0)
    assert_same_set(vertices, from_igl[0])


def test_noise_has_the_vertices_of_lewiner() -> None:
    """On noise the other implementation adds vertices inside cells; those on edges agree."""
    field = np.random.default_rng(4).normal(size=(24, 24, 24)).astype(np.float32)
    ours = _on_edges(marching_cubes(field)[0])
    theirs = _on_edges(skimage.measure.marching_cubes(field, 0)[0])
    assert_same_set(ours, theirs, 2e-4)


def _on_edges(vertices: np.ndarray) -> np.ndarray:
    whole = np.abs(vertices - np.round(vertices)) < 1e-6
    return vertices[whole.sum(axis=1) >= 2]


def test_other_level_and_other_dtypes(tsdf_64: np.ndarray) -> None:
    vertices, faces = marching_cubes(tsdf_64, 0.05)
    shifted, shifted_faces = marching_cubes(tsdf_64.astype(np.float64) - 0.05)
    assert np.array_equal(faces, shifted_faces)
    np.testing.assert_allclose(vertices, shifted, atol=1e-4)
    transposed = marching_cubes(np.asfortranarray(tsdf_64), 0.05)
    assert np.array_equal(transposed[0], vertices)


def test_normals_point_outward() -> None:
    axis = np.linspace(-1, 1, 48)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    vertices, _ = marching_cubes(np.sqrt(x**2 + y**2 + z**2) - 0.6)
    normals = isosurface.vertex_normals(np.sqrt(x**2 + y**2 + z**2) - 0.6, vertices)
    outward = vertices - 23.5
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    assert (normals * outward).sum(axis=1).min() > 0.9995
    assert np.array_equal(
        isosurface.vertex_normals(np.ones((3, 3, 3)), vertices[:2]), np.zeros((2, 3))
    )


def test_not_a_number_counts_as_outside() -> None:
    field = np.full((5, 5, 5), np.nan)
    field[2, 2, 2] = -1
    vertices, faces = marching_cubes(field)
    assert len(vertices) == 6
    assert_closed_manifold(vertices, faces)


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 4), (0, 3, 3)])
def test_refuses_fields_without_cells(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="has no cells"):
        marching_cubes(np.zeros(shape))


def test_same_bytes_for_any_number_of_threads(tsdf_64: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "field.npy", tsdf_64)
    script = (
        "import hashlib, numpy, sys; from backend.geometry.isosurface import marching_cubes;"
        "mesh = marching_cubes(numpy.load(sys.argv[1]));"
        "print(hashlib.sha256(mesh[0].tobytes() + mesh[1].tobytes()).hexdigest())"
    )
    mesh = marching_cubes(tsdf_64)
    here = hashlib.sha256(mesh[0].tobytes() + mesh[1].tobytes()).hexdigest()
    for threads in ("1", "3"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", script, str(tmp_path / "field.npy")]
        there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert there.stdout.strip() == here
