from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
import torch

from backend.errors import Cancelled
from backend.geometry import wavelets
from backend.geometry.transforms import apply_to_points, inverse
from backend.models import wavelet_fit
from backend.models.wavelet_fit import Field
from tests.pipelines import bodies
from tests.pipelines.bodies import Samples

CPU = torch.device("cpu")


def _ended(steps: Generator[tuple[str, float], None, Field]) -> Field:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            field: Field = end.value
            return field


def _fitted(body: Samples, normals: np.ndarray | None, resolution: int = 128) -> Field:
    return _ended(wavelet_fit.fit_points(body.points, normals, resolution, CPU))


@pytest.fixture(scope="module")
def ring() -> Samples:
    return bodies.torus(8000)


@pytest.fixture(scope="module")
def field(ring: Samples) -> Field:
    return _fitted(ring, ring.normals)


def _distance(places: np.ndarray) -> np.ndarray:
    """To the torus of `bodies`, positive outside."""
    return np.hypot(np.hypot(places[..., 0], places[..., 1]) - 1, places[..., 2]) - 0.4


def _nodes(field: Field) -> np.ndarray:
    """Where the nodes of a field lie in the frame of the source: (n, n, n, 3)."""
    side = len(field.values)
    cube = 2 * np.indices((side,) * 3).reshape(3, -1).T / side - 1
    return apply_to_points(field.to_source, cube, np.float64).reshape((side,) * 3 + (3,))


def test_near_the_surface_the_values_are_distances_in_cube_units(field: Field) -> None:
    """Within a third of a node; further out the field is truncated."""
    assert field.values.shape == (128, 128, 128)
    assert field.values.dtype == np.float32
    true = _distance(_nodes(field)) * 0.9 / 1.4  # the ring is 2.8 long, and 1.8 in the cube
    near = np.abs(true) < 0.005
    assert near.sum() > 10_000
    assert np.abs(field.values[near] - true[near]).mean() < 0.0015
    slope = np.polyfit(true[near], field.values[near], 1)[0]
    assert slope == pytest.approx(1, abs=0.15)
    far = np.abs(true) > 0.05
    assert np.abs(field.values[far]).min() > 0.003
    assert np.abs(field.values[far]).max() < 0.05


def test_the_sign_is_right_everywhere(field: Field) -> None:
    true = _distance(_nodes(field))
    clear = np.abs(true) > 0.03
    assert ((field.values > 0) == (true > 0))[clear].all()


def test_the_frame_is_a_similarity_around_the_points(ring: Samples, field: Field) -> None:
    linear = field.to_source[:3, :3]
    np.testing.assert_allclose(linear, np.eye(3) * linear[0, 0], atol=1e-12)
    inside = apply_to_points(inverse(field.to_source), ring.points)
    assert np.abs(inside).max() == pytest.approx(0.9, abs=0.01)


def test_the_coefficients_are_those_of_the_values(field: Field) -> None:
    tree = field.tree()
    assert tree.low.shape[-1] <= 48
    back = wavelets.inverse(tree, len(field.values))
    np.testing.assert_allclose(back.numpy(), field.values, atol=1e-4)


def test_few_coefficients_hold_the_surface(field: Field) -> None:
    """Away from the points the finest coefficients are small."""
    finest = field.tree().highs[-1]
    assert finest is not None
    sizes = finest.abs().amax(dim=0).flatten().sort(descending=True).values
    assert float(sizes[len(sizes) // 10 :].square().sum() / sizes.square().sum()) < 0.05


def test_turning_all_normals_turns_nothing(ring: Samples, field: Field) -> None:
    turned = _fitted(ring, -ring.normals)
    np.testing.assert_allclose(turned.values, field.values, atol=1e-4)


def test_finer_fits_agree_with_coarser_ones(ring: Samples, field: Field) -> None:
    fine = _fitted(ring, ring.normals, 256)
    assert fine.values.shape == (256, 256, 256)
    near = np.abs(_distance(_nodes(field))) < 0.005
    difference = np.abs(fine.values[::2, ::2, ::2] - field.values)[near]
    assert difference.mean() < 0.0015
    vertices, _ = fine.surface()
    distances = np.abs(_distance(apply_to_points(fine.to_source, vertices, np.float64)))
    assert distances.mean() < 0.003
    assert distances.max() < 0.03


def test_doubling_keeps_nodes_and_lines() -> None:
    values = torch.randn(5, 5, 5, generator=torch.Generator().manual_seed(0))
    doubled = wavelet_fit._doubled(values)
    assert doubled.shape == (10, 10, 10)
    assert torch.equal(doubled[::2, ::2, ::2], values)
    middle = (values[1, 2, 3] + values[2, 2, 3]) / 2
    assert float(doubled[3, 4, 6]) == pytest.approx(float(middle))


def test_the_weighted_median() -> None:
    values = np.array([5.0, 1.0, 3.0, 100.0])
    assert wavelet_fit._weighted_median(values, np.array([1, 1, 5, 1])) == 3
    assert wavelet_fit._weighted_median(values, np.array([1, 1, 1, 9])) == 100
    assert wavelet_fit._weighted_median(values[:1], np.ones(1)) == 5


def test_points_closer_than_the_grid_can_tell_are_merged() -> None:
    body = bodies.sphere(4000)
    jitter = np.random.default_rng(0).normal(size=(16_000, 3)) * 2e-4
    points = (np.repeat(body.points, 4, axis=0) + jitter).astype(np.float32)
    field = _ended(wavelet_fit.fit_points(points, None, 128, CPU))
    used = field.report["points used"]
    assert isinstance(used, int)
    assert 3500 < used < 6000
    vertices, _ = field.surface()
    radius = np.linalg.norm(apply_to_points(field.to_source, vertices), axis=1)
    assert np.abs(radius - 1).max() < 0.03


def test_cancelling_inside_a_step(ring: Samples) -> None:
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 4:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        _ended(wavelet_fit.fit_points(ring.points, None, 128, CPU, check))
    assert len(asked) == 4
