from __future__ import annotations

import numpy as np
import pytest

from backend.models.panorama_depth import merging
from backend.models.panorama_depth.merging import Layer, Sphere
from backend.models.panorama_depth.tangent_views import tangent_views
from tests.models.panorama_depth import rooms

SMALL = Sphere(16, 32)


def smooth(sphere: Sphere) -> np.ndarray:
    """A map without a step anywhere on the sphere, also at the poles."""
    x, y, z = np.moveaxis(rooms.directions_of(sphere.width), -1, 0)
    return (0.5 * x + 0.3 * y * z + 0.2 * z).astype(np.float32)


def whole(values: np.ndarray, weights: np.ndarray | float = 1.0) -> Layer:
    weights = np.broadcast_to(np.asarray(weights, np.float32), values.shape)
    return Layer(0, values.astype(np.float32), weights)


def test_the_solver_solves_what_it_says_with_any_weights() -> None:
    """Against the dense matrix of the same equation."""
    chance = np.random.default_rng(0)
    sphere = Sphere(6, 10)
    shape = (6, 10)
    along, down = (chance.uniform(0.001, 1, shape) for _ in range(2))
    held = chance.integers(0, 2, shape).astype(float)
    equation = merging._Equation(sphere, along, down, held)
    unit = np.eye(60).reshape(60, *shape)
    matrix = np.stack([equation._apply(each).ravel() for each in unit], axis=1)
    assert np.allclose(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > 0
    wanted_along, wanted_down, value = (chance.standard_normal(shape) for _ in range(3))
    right = equation.held * value
    right += equation._divergence(equation.along * wanted_along, equation.down * wanted_down)
    found = equation.solve(wanted_along, wanted_down, value, np.zeros(shape))
    assert np.abs(matrix @ found.ravel() - right.ravel()).max() < 1e-4 * np.abs(right).max()


def test_where_all_is_seen_one_transform_solves_it() -> None:
    equation = merging._Equation(SMALL, *(np.ones((16, 32)) for _ in range(3)))
    residual = np.random.default_rng(0).standard_normal((16, 32))
    assert np.allclose(equation._apply(equation._precondition(residual)), residual)


def test_a_layer_that_tells_everything_is_the_map() -> None:
    found, seen = merging.merge([whole(smooth(SMALL))], SMALL)
    assert seen.all()
    assert np.abs(found - smooth(SMALL)).max() < 1e-5


def test_the_map_turns_with_its_layers() -> None:
    """No column is another one's better: the seam is nowhere."""
    chance = np.random.default_rng(1)
    layers = [
        (chance.standard_normal((16, 32)), chance.uniform(0, 1, (16, 32)).round(1))
        for _ in range(3)
    ]
    plain, _ = merging.merge([whole(*layer) for layer in layers], SMALL)
    turned, _ = merging.merge(
        [whole(*(np.roll(part, 11, axis=1) for part in layer)) for layer in layers], SMALL
    )
    assert np.abs(turned - np.roll(plain, 11, axis=1)).max() < 1e-4


def test_views_that_differ_by_a_little_leave_no_step() -> None:
    """Two halves that tell the same differences, one of them 0.1 higher."""
    sphere = Sphere(64, 128)
    values = smooth(sphere)
    left = np.zeros((64, 128), np.float32)
    left[:, :66] = 1
    right = np.zeros((64, 128), np.float32)
    right[:, 62:] = 1
    right[:, :2] = 1
    merged, _ = merging.merge([whole(values, left), whole(values + 0.1, right)], sphere)
    average = (left * values + right * (values + 0.1)) / (left + right)
    middle = slice(16, 48)

    def worst(map_: np.ndarray) -> float:
        off = map_[middle] - values[middle]
        return float(np.abs(np.roll(off, -1, axis=1) - off).max())

    assert worst(average) > 0.045
    assert worst(merged) < 0.015
    assert np.abs(merged[middle] - values[middle] - 0.05).max() < 0.08


def test_what_no_view_sees_is_drawn_smoothly_across() -> None:
    sphere = Sphere(32, 64)
    values = smooth(sphere)
    weights = np.ones((32, 64), np.float32)
    weights[-5:] = 0  # the ground below
    found, seen = merging.merge([whole(values, weights)], sphere)
    assert seen.sum() == 27 * 64
    assert np.abs(found - values)[:27].max() < 1e-3
    assert np.abs(found - values).max() < 0.2
    assert np.ptp(found[-1]) < 0.1


def test_nothing_told_is_an_error() -> None:
    with pytest.raises(ValueError, match="no layer"):
        merging.merge([whole(smooth(SMALL), 0.0)], SMALL)


def test_a_layer_has_radial_depth_where_its_view_sees_the_grid() -> None:
    sphere = Sphere(64, 128)
    view = tangent_views(20)[7]
    told = rooms.inverse_along_axis(view, 128)
    told = 3 * told - 1
    told[:20, :20] = np.nan
    layer = merging.layer_of(view, told, 1 / 3, 1 / 3, 0.0, 1e-3, sphere)
    rows = slice(layer.first, layer.first + len(layer.values))
    strong = layer.weights > 0.05
    assert 0.04 < strong.mean() < 0.5
    off = np.abs(layer.values + np.log(rooms.truth(128)[rows]))[strong]
    assert np.percentile(off, 95) < 2e-3
    assert np.isfinite(layer.values).all()
    x, y, _ = view.project(rooms.directions_of(128)[rows])
    with np.errstate(invalid="ignore"):
        assert (layer.weights[(np.abs(x) > 1) | (np.abs(y) > 1) | np.isnan(x)] == 0).all()
        assert (layer.weights[(x < -0.75) & (y < -0.75)] == 0).all()


def test_lift_and_least_keep_inverse_depth_above_zero() -> None:
    sphere = Sphere(32, 64)
    view = tangent_views(20)[7]
    flat = np.full((8, 8), -1.0, np.float32)
    low = merging.layer_of(view, flat, 1.0, 0.0, 0.0, 0.01, sphere)
    assert np.allclose(low.values[low.weights > 0], np.log(0.01))
    high = merging.layer_of(view, 0 * flat, 1.0, 0.0, 0.25, 0.01, sphere)
    assert np.allclose(high.values[high.weights > 0], np.log(0.25), atol=1e-6)
