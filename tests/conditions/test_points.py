"""Clouds for the model: even, in the cube, and the way back leads exactly onto the source."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from backend.conditions.points import COUNT, model_points
from backend.geometry.transforms import apply_to_points
from backend.protocol import turned_up

RADII = np.array([1.0, 0.6, 1.4])


def ellipsoid(count: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return (points / np.linalg.norm(points, axis=1, keepdims=True) * RADII).astype(np.float32)


def torus(count: int, seed: int = 0) -> np.ndarray:
    """Evenly by area, outer radius 1, tube 0.05: thin."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 2 * np.pi, (2, 2 * count))
    kept = rng.uniform(0, 1.05, 2 * count) < 1 + 0.05 * np.cos(b)
    a, b = a[kept][:count], b[kept][:count]
    ring = 1 + 0.05 * np.cos(b)
    return np.stack([ring * np.cos(a), ring * np.sin(a), 0.05 * np.sin(b)], 1).astype(np.float32)


def gaps(points: np.ndarray) -> np.ndarray:
    return cKDTree(points).query(points, 2)[0][:, 1]


def sorted_rows(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.T)]


@pytest.mark.parametrize("count", [60, 700, 3000, 9000, 40_000])
@pytest.mark.parametrize("up_axis", ["y", "z"])
def test_the_way_back_leads_onto_the_source(count: int, up_axis: str) -> None:
    source = ellipsoid(count) * 37 + [5, -800, 3]
    placed, to_source = model_points(source, up_axis, 1, count=3000)
    assert placed.shape == (3000, 3)
    assert placed.dtype == np.float32
    low, high = placed.min(axis=0), placed.max(axis=0)
    assert np.abs(placed).max() <= 0.9 + 1e-6
    assert (high - low).max() == pytest.approx(1.8, rel=0.02)
    back = apply_to_points(to_source, placed, np.float64)
    distances = cKDTree(source).query(back)[0]
    if count >= 3000:
        assert distances.max() < 1e-4
        assert len(np.unique(placed, axis=0)) == 3000
    else:
        assert cKDTree(back).query(source)[0].max() < 1e-4
        assert np.count_nonzero(distances < 1e-4) >= count


def test_the_box_is_that_of_the_whole_cloud_and_its_longest_side_is_exact() -> None:
    source = ellipsoid(40_000)
    _, to_source = model_points(source, "y", 0, count=2000)
    corners = apply_to_points(to_source, np.array([[0, 0, -0.9], [0, 0, 0.9]]), np.float64)
    np.testing.assert_allclose(corners[:, 2], [source[:, 2].min(), source[:, 2].max()], atol=1e-6)


def test_up_becomes_y() -> None:
    source = ellipsoid(2000)
    as_z, back_z = model_points(source, "z", 0, count=2000)
    as_y, back_y = model_points(source, "y", 0, count=2000)
    np.testing.assert_allclose(np.ptp(as_z, axis=0), np.ptp(as_y, axis=0)[[0, 2, 1]], rtol=1e-5)
    turned = apply_to_points(turned_up("z"), as_z)
    np.testing.assert_allclose(sorted_rows(turned), sorted_rows(as_y), atol=1e-6)
    top = apply_to_points(back_z, np.array([[0, 0.5, 0]]), np.float64)[0]
    assert top[2] > 0.3
    np.testing.assert_allclose(apply_to_points(back_y, np.eye(3)[1:2])[0, [0, 2]], 0, atol=0.01)


@settings(max_examples=15)
@given(
    count=st.sampled_from([80, 900, 2500, 30_000]),
    seed=st.integers(0, 2**31 - 1),
    exponent=st.integers(-12, 12),
    order=st.randoms(use_true_random=False),
)
def test_order_and_scale_change_nothing(
    count: int, seed: int, exponent: int, order: object
) -> None:
    source = ellipsoid(count, seed=3)
    shuffled = source[np.random.default_rng(order.randint(0, 9)).permutation(count)]  # type: ignore[attr-defined]
    first, _ = model_points(source, "z", seed, count=2000)
    second, to_source = model_points(shuffled * np.float32(2.0**exponent), "z", seed, count=2000)
    np.testing.assert_array_equal(first, second)
    size = np.linalg.norm(to_source[:3, 0])
    assert size == pytest.approx(2.0**exponent * np.ptp(source, axis=0).max() / 1.8, rel=1e-5)


@settings(max_examples=20)
@given(offset=st.tuples(*[st.floats(-1e6, 1e6)] * 3), scale=st.floats(1e-3, 1e3))
def test_place_and_size_of_the_source_change_the_way_back_only(
    offset: tuple[float, float, float], scale: float
) -> None:
    source = ellipsoid(1500, seed=4).astype(np.float64)
    moved = source * scale + np.array(offset)
    here, _ = model_points(source, "z", 0, count=1500)
    there, to_source = model_points(moved, "z", 0, count=1500)
    # Hundreds of kilometres away, doubles keep a tenth of a nanometre of each metre.
    blur = 1e-6 + 1e-15 * np.abs(offset).max() / scale
    assert cKDTree(here).query(there)[0].max() < 10 * blur
    back = apply_to_points(to_source, there, np.float64)
    assert cKDTree(moved).query(back)[0].max() < 10 * blur * scale


def test_the_seed_chooses_among_subsets() -> None:
    source = ellipsoid(30_000)
    first, _ = model_points(source, "z", 1, count=2000)
    again, _ = model_points(source, "z", 1, count=2000)
    other, _ = model_points(source, "z", 2, count=2000)
    np.testing.assert_array_equal(first, again)
    assert cKDTree(first).query(other)[0].max() > 1e-3


def test_dense_parts_are_thinned_to_the_density_of_the_others() -> None:
    source = ellipsoid(40_000)
    near_scanner = source[source[:, 0] > 0.3]
    rng = np.random.default_rng(1)
    dense = np.concatenate([source, *(near_scanner + rng.normal(0, 2e-3, near_scanner.shape)
                                      for _ in range(8))]).astype(np.float32)  # fmt: skip
    limit = 0.3 * 1.8 / 2.8
    share, even_share = (
        np.mean(model_points(cloud, "y", 0, count=4000)[0][:, 0] > limit)
        for cloud in (dense, source)
    )
    assert np.mean(dense[:, 0] > 0.3) > even_share + 0.3
    assert abs(share - even_share) < 0.03


def test_thinned_points_lie_more_evenly_than_random_ones() -> None:
    source = ellipsoid(60_000)
    placed, _ = model_points(source, "y", 0, count=4000)
    spread = gaps(placed)
    random = gaps(placed.dtype.type(1.8 / 2.8) * source[:4000])
    assert spread.min() > 0.5 * np.median(spread)
    assert random.min() < 0.1 * np.median(random)


def test_a_cloud_of_the_right_size_comes_back_whole() -> None:
    source = ellipsoid(COUNT)
    placed, to_source = model_points(source, "z", 0)
    back = apply_to_points(to_source, placed, np.float64)
    distances, nearest = cKDTree(source).query(back)
    assert distances.max() < 1e-6
    assert len(np.unique(nearest)) == COUNT


@pytest.mark.parametrize("shape", [ellipsoid, torus])
def test_new_points_lie_near_the_surface(shape: object) -> None:
    source = shape(4000)  # type: ignore[operator]
    placed, to_source = model_points(source, "y", 0, count=16_000)
    back = apply_to_points(to_source, placed, np.float64)
    if shape is ellipsoid:
        off = np.abs(np.linalg.norm(back / RADII, axis=1) - 1)
    else:
        ring = np.hypot(back[:, 0], back[:, 1]) - 1
        off = np.abs(np.hypot(ring, back[:, 2]) - 0.05)
    spacing = np.median(gaps(source))
    assert off.mean() < 0.2 * spacing
    assert np.percentile(off, 99) < spacing
    # And they fill the gaps: no place of the surface is far from a point any more.
    dense = shape(8000, seed=9)  # type: ignore[operator]
    before, after = (np.mean(cKDTree(points).query(dense)[0]) for points in (source, back))
    assert after < 0.8 * before


def test_repeated_points_count_once() -> None:
    source = ellipsoid(1000)
    twice = np.concatenate([source, source[:500], source[:500]])
    once, _ = model_points(source, "z", 0, count=3000)
    repeated, _ = model_points(twice, "z", 0, count=3000)
    np.testing.assert_array_equal(once, repeated)


def test_a_single_place_many_times_over_leaves_the_rest_alone() -> None:
    source = np.concatenate([ellipsoid(3000), np.tile(ellipsoid(1), (40_000, 1))])
    placed, _ = model_points(source, "z", 0, count=3000)
    assert len(np.unique(placed, axis=0)) == 3000


@pytest.mark.parametrize("count", [3000, 30_000])
def test_lonely_points_far_off_spoil_neither_box_nor_points(count: int) -> None:
    source = ellipsoid(count)
    strays = np.float32([[40, 0, 0], [0, -55, 3], [9, 9, 9]])
    placed, to_source = model_points(np.concatenate([source, strays]), "y", 0, count=2000)
    alone, alone_back = model_points(source, "y", 0, count=2000)
    np.testing.assert_allclose(to_source, alone_back, atol=2e-3)
    assert cKDTree(alone).query(placed)[0].max() < 0.1


def test_strays_near_the_object_are_left_out() -> None:
    source = ellipsoid(20_000)
    strays = np.float32([[0, 0, 2.2], [0, 1.3, 0.4], [-1.6, 0.2, 0]])
    placed, _ = model_points(np.concatenate([source, strays]), "y", 0, count=4000)
    scale = np.ptp(source, axis=0).max() / 1.8
    off = np.abs(np.linalg.norm(placed * scale / RADII, axis=1) - 1)
    assert off.max() < 0.01


@settings(max_examples=30)
@given(data=st.data())
def test_odd_clouds_give_points_in_the_cube(data: st.DataObject) -> None:
    """Few points many times over, points on a lattice, clusters, any scale."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    kind = data.draw(st.sampled_from(["few", "lattice", "clusters", "flat", "line and point"]))
    count = data.draw(st.integers(50, 3000))
    if kind == "few":
        cloud = rng.normal(size=(4, 3))[rng.integers(0, 4, count)]
        cloud[:4] = np.eye(4)[:, :3]
    elif kind == "lattice":
        cloud = rng.integers(0, 5, (count, 3)).astype(float)
    elif kind == "clusters":
        cloud = rng.normal(size=(6, 3))[rng.integers(0, 6, count)]
        cloud = cloud + rng.normal(size=(count, 3)) * 1e-4
    elif kind == "flat":
        cloud = rng.random((count, 3)) * [1, 1, 1e-3]
    else:
        cloud = np.outer(np.linspace(0, 1, count), [1, 2, 3])
        cloud[-1] = [3, 1, 0]
    cloud = (cloud * 10.0 ** data.draw(st.integers(-15, 15))).astype(np.float32)
    placed, to_source = model_points(cloud, data.draw(st.sampled_from("yz")), 0, count=1000)
    assert placed.shape == (1000, 3)
    assert np.abs(placed).max() <= 0.9 + 1e-5
    back = apply_to_points(to_source, placed, np.float64)
    margin = 1e-4 * np.ptp(cloud, axis=0).max()
    assert (back >= cloud.min(axis=0) - margin).all()
    assert (back <= cloud.max(axis=0) + margin).all()


def test_a_million_points_take_a_moment() -> None:
    model_points(ellipsoid(200_000), "z", 0)  # compiles
    many = np.tile(ellipsoid(100_000), (10, 1))
    many += np.random.default_rng(0).normal(0, 1e-3, many.shape).astype(np.float32)
    began = time.process_time()
    placed, _ = model_points(many, "z", 0)
    assert time.process_time() - began < 6  # 1.2 s on one processor
    assert len(placed) == COUNT
