from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.geometry import pointcloud
from backend.geometry.pointcloud import Neighbourhoods

Samples = tuple[np.ndarray, np.ndarray]


def _sphere(count: int, radius: float = 0.8, seed: int = 0) -> Samples:
    """Random points (N, 3) of a sphere, and their outward normals."""
    normals = np.random.default_rng(seed).normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return (normals * radius).astype(np.float32), normals.astype(np.float32)


def _torus(count: int, ring: float = 0.6, tube: float = 0.25, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    u, v, accept = random.random((3, 4 * count))
    u, v = 2 * np.pi * u, 2 * np.pi * v
    kept = accept < (ring + tube * np.cos(v)) / (ring + tube)
    u, v = u[kept][:count], v[kept][:count]
    normals = np.stack([np.cos(v) * np.cos(u), np.cos(v) * np.sin(u), np.sin(v)], axis=1)
    centre = ring * np.stack([np.cos(u), np.sin(u), 0 * u], axis=1)
    return (centre + tube * normals).astype(np.float32), normals.astype(np.float32)


def _box(count: int, size: tuple[float, float, float], seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    half = np.array(size) / 2
    area = np.prod(half) / half
    axis = random.choice(3, count, p=area / area.sum())
    side = random.choice([-1.0, 1.0], count)
    points = random.uniform(-1, 1, (count, 3)) * half
    points[np.arange(count), axis] = side * half[axis]
    normals = np.zeros((count, 3))
    normals[np.arange(count), axis] = side
    return points.astype(np.float32), normals.astype(np.float32)


def _joined(*bodies: tuple[Samples, tuple[float, float, float]]) -> Samples:
    points = [samples[0] + np.array(offset, np.float32) for samples, offset in bodies]
    return np.concatenate(points), np.concatenate([samples[1] for samples, _ in bodies])


def _oriented(points: np.ndarray) -> np.ndarray:
    near = Neighbourhoods.of(points)
    spacings = pointcloud.spacing(pointcloud.areas(near), near)
    return pointcloud.orient(points, near, spacings)


def _cosines(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    found = _oriented(points)
    assert found.shape == points.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    return (found * normals).sum(axis=1)


# --- orientation


CLOUDS: dict[str, Samples] = {
    "sphere": _sphere(3000),
    "fifty points": _sphere(50),
    "torus": _torus(4000),
    "box": _box(4000, (1.7, 1.0, 1.2)),
    "sheet": _box(9000, (1.7, 1.2, 0.06)),
    "rod": _box(3000, (1.7, 0.09, 0.09)),
    "two that nearly touch": _joined(
        (_sphere(2500, 0.4, 1), (-0.43, 0, 0)), (_sphere(2500, 0.4, 2), (0.43, 0, 0))
    ),
    "large and small": _joined(
        (_sphere(4000, 0.6, 1), (-0.25, 0, 0)), (_sphere(250, 0.12, 2), (0.7, 0, 0))
    ),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_normals_point_outward(name: str) -> None:
    points, normals = CLOUDS[name]
    cosines = _cosines(points, normals)
    assert (cosines > 0).mean() >= 0.97
    assert np.median(cosines) > (0.8 if name == "fifty points" else 0.96)


def test_normals_of_a_sphere_are_near_the_true_ones() -> None:
    points, normals = _sphere(4000)
    assert np.degrees(np.arccos(np.clip(_cosines(points, normals), -1, 1))).mean() < 4


def test_a_hole_in_the_scan_does_not_turn_the_inside_out() -> None:
    points, normals = _sphere(3000)
    kept = points[:, 2] < 0.8 * 0.8
    assert (_cosines(points[kept], normals[kept]) > 0).mean() >= 0.97


@pytest.mark.parametrize("seed", [1, 2])
def test_ten_times_as_many_points_on_one_half(seed: int) -> None:
    points, normals = _torus(9000, seed=seed)
    kept = (points[:, 0] > 0) | (np.random.default_rng(seed).random(len(points)) < 0.1)
    points, normals = points[kept], normals[kept]
    cosines = _cosines(points, normals)
    assert (cosines > 0).mean() >= 0.97
    assert (cosines[points[:, 0] < 0] > 0).mean() >= 0.95, "the thin half on its own too"


@pytest.mark.parametrize("cloud", ["sphere", "torus", "box"])
def test_noise_of_half_a_percent_of_the_diagonal(cloud: str) -> None:
    points, normals = CLOUDS[cloud]
    diagonal = np.linalg.norm(np.ptp(points, axis=0))
    noise = np.random.default_rng(5).normal(size=points.shape) * 0.005 * diagonal
    assert (_cosines((points + noise).astype(np.float32), normals) > 0).mean() >= 0.97


def test_a_ball_in_a_ball() -> None:
    """Outer normals outward; whether the inner ball is a cavity is open, but all of it is one."""
    outer, normals = _sphere(4000, 0.8, 1)
    inner, inner_normals = _sphere(1500, 0.4, 2)
    cosines = _cosines(np.concatenate([outer, inner]), np.concatenate([normals, inner_normals]))
    assert (cosines[:4000] > 0).mean() >= 0.97
    share = (cosines[4000:] > 0).mean()
    assert max(share, 1 - share) >= 0.97


def test_orientation_does_not_depend_on_the_order_or_the_axes() -> None:
    points, _ = CLOUDS["torus"]
    order = np.random.default_rng(0).permutation(len(points))
    found = _oriented(points)
    shuffled = _oriented(points[order])
    assert (np.einsum("nc,nc->n", found[order], shuffled) > 0.99).mean() > 0.99
    turned = _oriented(np.ascontiguousarray(points[:, [1, 2, 0]]))
    assert (np.einsum("nc,nc->n", found[:, [1, 2, 0]], turned) > 0.9).mean() > 0.99


def test_the_same_bytes_again() -> None:
    points, _ = CLOUDS["large and small"]
    before = points.copy()
    assert _oriented(points).tobytes() == _oriented(points).tobytes()
    np.testing.assert_array_equal(points, before)


# --- density


def test_areas_add_up_to_the_surface() -> None:
    points, _ = _sphere(3000, 0.5)
    near = Neighbourhoods.of(points)
    assert pointcloud.areas(near).sum() == pytest.approx(4 * np.pi * 0.25, rel=0.1)
    spacings = pointcloud.spacing(pointcloud.areas(near), near)
    assert np.median(spacings) == pytest.approx(np.sqrt(np.pi / 3000), rel=0.1)


def test_points_at_one_place_have_a_spacing() -> None:
    points = np.repeat(_sphere(20)[0], 30, axis=0)
    near = Neighbourhoods.of(points)
    assert (pointcloud.spacing(pointcloud.areas(near), near) > 0).all()


def test_outliers_go_and_thin_parts_stay() -> None:
    random = np.random.default_rng(3)
    body, _ = _sphere(4000, 0.5)
    length = random.uniform(0.5, 0.9, 60)
    angle = random.uniform(0, 2 * np.pi, 60)
    antenna = np.stack([0.01 * np.cos(angle), 0.01 * np.sin(angle), length], axis=1)
    lonely = random.normal(size=(30, 3))
    lonely *= random.uniform(0.7, 1.0, (30, 1)) / np.linalg.norm(lonely, axis=1, keepdims=True)
    clear = np.linalg.norm(lonely[:, :2], axis=1) > 0.2
    points = np.concatenate([body, antenna, lonely[clear]]).astype(np.float32)
    found = pointcloud.outliers(Neighbourhoods.of(points, 16))
    assert found[4060:].all()
    assert found[:4000].mean() < 0.002
    assert found[4000:4060].mean() < 0.1


def test_a_thinly_sampled_part_is_no_outlier() -> None:
    points, _ = _joined((_sphere(8000, 0.4, 1), (-0.4, 0, 0)), (_sphere(60, 0.3, 2), (0.5, 0, 0)))
    assert pointcloud.outliers(Neighbourhoods.of(points, 16))[8000:].mean() < 0.1


# --- a few points far away


@pytest.mark.parametrize("count", [1, 5, 30])
@pytest.mark.parametrize("distance", [10.0, 1e4])
def test_points_far_away_are_left_out(count: int, distance: float) -> None:
    points, _ = _sphere(2000)
    far = np.random.default_rng(1).normal(size=(count, 3))
    far *= distance / np.linalg.norm(far, axis=1, keepdims=True)
    kept = pointcloud.without_distant(np.concatenate([points, far]).astype(np.float32))
    assert kept is not None
    assert kept[:2000].all()
    assert not kept[2000:].any()


def test_a_few_far_points_among_very_many() -> None:
    points, _ = _sphere(250_000)
    points[:20] *= 50
    kept = pointcloud.without_distant(points)
    assert kept is not None
    np.testing.assert_array_equal(kept, np.arange(len(points)) >= 20)


@pytest.mark.parametrize(
    "points",
    [
        _sphere(50)[0],
        _sphere(3000)[0],
        np.concatenate([_sphere(2000)[0], _sphere(2000)[0] + np.float32(100)]),
        np.repeat(_sphere(40)[0], 50, axis=0),
        np.concatenate([_sphere(20_000, 0.2)[0] + np.float32(0.7), _sphere(1000, 0.8)[0]]),
    ],
    ids=["fifty", "sphere", "two clusters", "duplicates", "dense knob on a sparse ball"],
)
def test_nothing_is_left_out_of_a_cloud_without_far_points(points: np.ndarray) -> None:
    assert pointcloud.without_distant(points) is None


# --- thinning


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 200),
    cell=st.sampled_from([0.003, 0.1, 0.37, 1.0, 2.5]),
    spread=st.sampled_from([0.05, 1.0]),
)
def test_thinning_against_a_dictionary(seed: int, count: int, cell: float, spread: float) -> None:
    random = np.random.default_rng(seed)
    points = random.uniform(-spread, spread, (count, 3)).astype(np.float32)
    column = random.normal(size=(count, 2)).astype(np.float32)
    cells: dict[tuple[int, ...], list[int]] = {}
    for index, place in enumerate(np.floor((points + 1) * np.float32(1 / cell)).astype(int)):
        cells.setdefault(tuple(place), []).append(index)
    members = [cells[key] for key in sorted(cells)]
    thinned, columns = pointcloud.thin(points, cell, column)
    for found, whole in ((thinned, points), (columns, column)):
        assert found.dtype == np.float32
        means = [whole[group].astype(np.float64).mean(axis=0) for group in members]
        np.testing.assert_allclose(found, means, rtol=1e-6, atol=1e-7)


def test_thinning_twice_changes_little() -> None:
    points, _ = _sphere(5000)
    (once,) = pointcloud.thin(points, 0.1)
    (twice,) = pointcloud.thin(once, 0.1)
    np.testing.assert_allclose(twice, once, atol=1e-6)


# --- roughness


def test_roughness_grows_with_noise() -> None:
    points, normals = _sphere(4000)
    spacing = np.sqrt(4 * np.pi * 0.64 / 4000)
    direction = np.random.default_rng(1).normal(size=points.shape)
    found = []
    for noise in (0.0, 0.1, 0.2, 0.4, 0.8):
        noisy = (points + direction * noise * spacing).astype(np.float32)
        found.append(pointcloud.roughness(noisy, normals, Neighbourhoods.of(noisy)))
    assert all(a < b for a, b in itertools.pairwise(found))
    assert found[0] < 0.08
    assert found[-1] > 0.35


def test_the_two_sides_of_a_sheet_are_no_noise() -> None:
    points, normals = _box(8000, (1.7, 1.2, 0.02))
    assert pointcloud.roughness(points, normals, Neighbourhoods.of(points)) < 0.05


# --- sampling


def test_sampling_a_linear_field() -> None:
    volume = (np.indices((9, 9, 9)).T @ np.array([1.0, -2, 0.5])).T.astype(np.float32)
    places = np.random.default_rng(0).uniform(1, 7, (50, 3)).astype(np.float32)
    np.testing.assert_allclose(
        pointcloud.sample(volume, places), places @ np.float32([1, -2, 0.5]), atol=1e-4
    )
    np.testing.assert_allclose(pointcloud.slope(volume, places), np.sqrt(5.25), rtol=1e-4)


def test_sampling_at_nodes_and_beyond_the_border() -> None:
    volume = np.random.default_rng(0).normal(size=(5, 5, 5)).astype(np.float32)
    nodes = np.argwhere(np.ones((5, 5, 5)))
    np.testing.assert_allclose(
        pointcloud.sample(volume, nodes.astype(np.float32)), volume.ravel(), atol=1e-6
    )
    beyond = np.array([[-3, -3, -3], [9, 9, 9]], np.float32)
    np.testing.assert_allclose(
        pointcloud.sample(volume, beyond), [volume[0, 0, 0], volume[4, 4, 4]], atol=1e-6
    )


# --- colours


def test_colors_come_from_the_nearest_points() -> None:
    points, normals = _sphere(2000)
    colors = np.rint((normals[:, [0, 1, 2, 0]] + 1) * 127.5).astype(np.uint8)
    found = pointcloud.nearest_colors(points, points, colors)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - colors).max() <= 1, "at a point, the colour of that point"
    halfway = ((points[:500] + points[500:1000]) / 2).astype(np.float32)
    halfway *= 0.8 / np.linalg.norm(halfway, axis=1, keepdims=True)
    smooth = pointcloud.nearest_colors(halfway, points, colors).astype(float)
    expected = (halfway[:, [0, 1, 2, 0]] / 0.8 + 1) * 127.5
    assert np.abs(smooth - expected).max() < 15


@pytest.mark.parametrize("count", [1, 2])
def test_colors_of_fewer_than_three_points(count: int) -> None:
    colors = np.full((count, 4), 77, np.uint8)
    points = np.eye(3, dtype=np.float32)[:count]
    assert (pointcloud.nearest_colors(np.zeros((4, 3), np.float32), points, colors) == 77).all()


# ------------------------------------------------------------------------------------------ heights


def _heights(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    near = Neighbourhoods.of(points)
    spacings = pointcloud.spacing(pointcloud.areas(near), near)
    return pointcloud.heights(points, normals, spacings, near)


def test_heights_lead_noisy_points_into_their_plane() -> None:
    random = np.random.default_rng(0)
    flat = random.uniform(-0.5, 0.5, (3000, 3)) * [1, 1, 0]
    up = np.tile(np.float32([0, 0, 1]), (3000, 1))
    noise = random.normal(0, 0.01, 3000)
    points = (flat + noise[:, None] * up).astype(np.float32)
    left = points[:, 2] + _heights(points, up)
    assert left.std() < 0.4 * noise.std()
    assert np.abs(_heights(flat.astype(np.float32), up)).max() < 1e-6


def test_the_other_side_of_a_sheet_does_not_count() -> None:
    """Two layers, 0.3 spacings apart, that face away from one another."""
    random = np.random.default_rng(1)
    flat = random.uniform(-0.5, 0.5, (6000, 3)) * [1, 1, 0]
    side = np.where(np.arange(6000) % 2, 1, -1)[:, None]
    normals = (side * [0, 0, 1]).astype(np.float32)
    points = (flat + 0.002 * normals).astype(np.float32)
    assert np.abs(_heights(points, normals)).max() < 1e-6
