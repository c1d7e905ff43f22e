from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
import torch

from backend.errors import Cancelled
from backend.geometry.components import parts
from backend.geometry.isosurface import marching_cubes
from backend.models import wavelet_fit
from backend.models.refine import refine_to_points, refine_to_voxels
from tests.pipelines import bodies

CPU = torch.device("cpu")
SIDE = 128
NODE = 2 / SIDE
SHIFT = np.array([0.04, 0.0, 0.03])  # of the measured sphere against the generated one
RADIUS = 0.6


def _ball(centre: np.ndarray | tuple[float, ...], radius: float) -> np.ndarray:
    axis = 2 * np.arange(SIDE, dtype=np.float32) / SIDE - 1
    x, y, z = (axis - np.float32(place) for place in centre)
    distance = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2) - np.float32(radius)
    return np.clip(distance, -0.1, 0.1)


def _ended(steps: Generator[tuple[str, float], None, np.ndarray]) -> np.ndarray:
    fractions = []
    while True:
        try:
            fractions.append(next(steps)[1])
        except StopIteration as end:
            assert fractions == sorted(fractions)
            assert all(0 <= fraction <= 1 for fraction in fractions)
            field: np.ndarray = end.value
            assert field.dtype == np.float32
            return field


def _surface(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = marching_cubes(field, closed=True)
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    return vertices * np.float32(NODE) - 1, faces


@pytest.fixture(scope="module")
def generated() -> np.ndarray:
    return _ball((0, 0, 0), RADIUS)


@pytest.fixture(scope="module")
def scan() -> bodies.Samples:
    """The measured sphere from all around."""
    body = bodies.sphere(8000, RADIUS)
    return bodies.Samples((body.points + SHIFT).astype(np.float32), body.normals, body.volume)


def _off_scan(vertices: np.ndarray) -> np.ndarray:
    return np.abs(np.linalg.norm(vertices - SHIFT, axis=1) - RADIUS) / NODE


@pytest.mark.parametrize("with_normals", [True, False])
def test_half_a_scan_and_the_generated_other_half(
    generated: np.ndarray, scan: bodies.Samples, with_normals: bool
) -> None:
    seen = scan.normals[:, 2] > 0.2
    normals = scan.normals[seen] if with_normals else None
    field = _ended(refine_to_points(generated, scan.points[seen], normals, CPU))
    vertices, faces = _surface(field)
    assert parts(vertices, faces).max() == 0
    upper = vertices[:, 2] > 0.3
    assert _off_scan(vertices[upper]).mean() < 0.25
    assert _off_scan(vertices[upper]).max() < 1
    lower = vertices[:, 2] < -0.3
    off = np.abs(np.linalg.norm(vertices[lower], axis=1) - RADIUS) / NODE
    assert off.mean() < 0.02
    assert off.max() < 0.2
    # In between no step: the surface stays between the two spheres, but for a fraction of a node.
    between = np.linalg.norm(vertices, axis=1) - RADIUS
    assert np.abs(between).max() < np.linalg.norm(SHIFT) + 0.5 * NODE
    corners = vertices[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    large = np.linalg.norm(across, axis=1) > 0.05 * NODE**2
    outward = np.einsum("fc,fc->f", across, corners.mean(axis=1))[large]
    steep = outward / np.linalg.norm(across, axis=1)[large]
    steep /= np.linalg.norm(corners.mean(axis=1), axis=1)[large]
    assert np.percentile(steep, 1) > 0.9


def test_what_contradicts_the_points_goes(scan: bodies.Samples) -> None:
    """A lump that grew on the scanned surface, and a deep dent into it."""
    lump = _ball((0, 0.62, 0), 0.15)
    dent = _ball((0, -0.6, 0), 0.25)
    generated = np.maximum(np.minimum(_ball((0, 0, 0), RADIUS), lump), -dent)
    vertices, faces = _surface(_ended(refine_to_points(generated, scan.points, scan.normals, CPU)))
    assert parts(vertices, faces).max() == 0
    assert _off_scan(vertices).mean() < 0.25
    assert _off_scan(vertices).max() < 2


def _noisy(scan: bodies.Samples, spacings: float) -> np.ndarray:
    """The scan with noise of so many spacings along every axis."""
    spacing = np.sqrt(4 * np.pi / len(scan.points)) * RADIUS
    noise = np.random.default_rng(5).normal(0, spacings * spacing, scan.points.shape)
    return (scan.points + noise).astype(np.float32)


@pytest.mark.parametrize("noise", [0, 0.6])
def test_points_all_around_decide_whatever_was_generated(
    scan: bodies.Samples, noise: float
) -> None:
    """A hollow, a cube in place of a ball, a second ball beside it: nothing of it is true."""
    points = _noisy(scan, noise)
    hollow = np.maximum(_ball((0, 0, 0), RADIUS), -_ball((0, 0, 0), 0.45))
    axis = np.abs(2 * np.arange(SIDE, dtype=np.float32) / SIDE - 1) - np.float32(0.5)
    cube = np.maximum(np.maximum(axis[:, None, None], axis[:, None]), axis)
    beside = np.minimum(_ball((0, 0, 0), RADIUS), _ball((0, 0, 0.85), 0.1))
    fields = [_ended(refine_to_points(made, points, None, CPU)) for made in (hollow, cube, beside)]
    np.testing.assert_array_equal(fields[0], fields[1])
    np.testing.assert_array_equal(fields[0], fields[2])
    vertices, faces = _surface(fields[0])
    assert parts(vertices, faces).max() == 0
    assert _off_scan(vertices).mean() < (1 if noise else 0.25)


def test_noise_is_taken_out(scan: bodies.Samples, generated: np.ndarray) -> None:
    """Nearer to the truth than the fit of the points as they are."""
    points = _noisy(scan, 0.6)
    refined, _ = _surface(_ended(refine_to_points(generated, points, None, CPU)))
    fitted = wavelet_fit.prepared(
        wavelet_fit.thinned(points, None, np.eye(4), 0.75 / SIDE)[0], None, lambda: None
    )
    steps = wavelet_fit.solved((fitted,), SIDE, CPU, lambda: None, (0, 1))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            plain, _ = _surface(wavelet_fit.as_distance(end.value, fitted))
            break
    assert fitted.roughness > 0.4
    assert _off_scan(refined).mean() < 0.9 * _off_scan(plain).mean()


def test_a_scan_with_a_hole_is_not_whole(scan: bodies.Samples) -> None:
    """Where a fifth of the ball is missing, what was generated counts."""
    seen = scan.normals[:, 2] > -0.6
    lump = _ball((0, 0, -0.62), 0.15)
    plain, lumped = (
        _ended(refine_to_points(made, scan.points[seen], None, CPU))
        for made in (_ball((0, 0, 0), RADIUS), np.minimum(_ball((0, 0, 0), RADIUS), lump))
    )
    added = (lumped < 0) & (plain > NODE)
    assert added.sum() > 0.8 * ((lump < 0) & (_ball((0, 0, 0), RADIUS) > NODE)).sum()
    assert (np.argwhere(added)[:, 2] < SIDE / 4).all()


def test_what_the_points_do_not_know_stays(scan: bodies.Samples) -> None:
    """A lump where nothing was scanned."""
    lump = _ball((0, 0, -0.62), 0.15)
    generated = np.minimum(_ball((0, 0, 0), RADIUS), lump)
    seen = scan.normals[:, 2] > 0.2
    field = _ended(refine_to_points(generated, scan.points[seen], scan.normals[seen], CPU))
    np.testing.assert_array_equal(field[:, :, :32] < 0, generated[:, :, :32] < 0)


def test_without_points_the_field_is_the_generated_one(generated: np.ndarray) -> None:
    points = np.zeros((5, 3), np.float32)
    assert _ended(refine_to_points(generated, points, None, CPU)) is generated


def test_without_a_generated_surface_the_points_alone_decide(scan: bodies.Samples) -> None:
    nothing = np.full((SIDE,) * 3, 0.1, np.float32)
    vertices, _ = _surface(_ended(refine_to_points(nothing, scan.points, scan.normals, CPU)))
    assert _off_scan(vertices).max() < 1


def test_cancelling(generated: np.ndarray, scan: bodies.Samples) -> None:
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 8:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        _ended(refine_to_points(generated, scan.points, scan.normals, CPU, check))
    assert len(asked) == 8


# ------------------------------------------------------------------------------------------- voxels

ORIGIN, SIZE = np.full(3, -1.0), np.full(3, 0.125)


def _centres() -> np.ndarray:
    return (np.indices((16,) * 3).reshape(3, -1).T + 0.5) * SIZE + ORIGIN


def _at_centres(field: np.ndarray) -> np.ndarray:
    """The centres lie on nodes: (16, 16, 16)."""
    return field[4::8, 4::8, 4::8]


def test_every_centre_keeps_its_side(generated: np.ndarray) -> None:
    occupancy = np.linalg.norm(_centres() - 2 * SHIFT, axis=1).reshape((16,) * 3) < RADIUS
    assert ((_at_centres(generated) < 0) != occupancy).sum() > 20
    field = _ended(refine_to_voxels(generated, occupancy, ORIGIN, SIZE))
    np.testing.assert_array_equal(_at_centres(field) < 0, occupancy)
    vertices, faces = _surface(field)
    assert parts(vertices, faces).max() == 0


@pytest.fixture(scope="module")
def clear() -> np.ndarray:
    """A sphere whose surface no centre of a voxel is near to: the nearest is 0.1 voxels away."""
    return _ball((0, 0, 0), 0.609)


def test_a_shape_that_fits_the_voxels_is_not_changed(clear: np.ndarray) -> None:
    field = _ended(refine_to_voxels(clear, _at_centres(clear) < 0, ORIGIN, SIZE))
    np.testing.assert_allclose(field, clear, atol=1e-6)


def test_far_from_a_wrong_voxel_nothing_changes(clear: np.ndarray) -> None:
    occupancy = _at_centres(clear) < 0
    assert not occupancy[8, 8, 13]
    occupancy[8, 8, 13] = True  # above the top
    field = _ended(refine_to_voxels(clear, occupancy, ORIGIN, SIZE))
    np.testing.assert_array_equal(_at_centres(field) < 0, occupancy)
    assert np.abs(field - clear)[:, :, :56].max() < 0.2 * NODE
