"""Measures against formulas written anew, brute force, and shapes whose answers are known."""

import math

import numpy as np
import pytest
import trimesh

from backend.training import metrics


def mesh(solid):
    return np.asarray(solid.vertices, np.float32), np.asarray(solid.faces, np.int32)


def clouds(seed, count, points=20, spread=1.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, points, 3)) * spread).astype(np.float32)


def chamfer_by_matrix(a, b):
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return squares.min(1).mean() + squares.min(0).mean()


def test_chamfer_distances_agree_with_the_matrix_of_all_distances():
    first, second = clouds(1, 5), clouds(2, 3, points=33)
    found = metrics.chamfer_distances(first, second)
    expected = [
        [chamfer_by_matrix(a.astype(float), b.astype(float)) for b in second] for a in first
    ]
    assert found == pytest.approx(np.array(expected), rel=1e-5)
    assert np.abs(np.diag(metrics.chamfer_distances(first, first))).max() == 0
    assert metrics.chamfer_distances(second, first) == pytest.approx(found.T, rel=1e-6)


def by_loops(generated, references):
    """MMD, COV and 1-NNA word by word from their definitions."""
    distance = chamfer_by_matrix
    mmd = sum(min(distance(g, r) for g in generated) for r in references) / len(references)
    matched = {
        min(range(len(references)), key=lambda k: distance(g, references[k])) for g in generated
    }
    everything = [(g, "g") for g in generated] + [(r, "r") for r in references]
    right = 0
    for i, (cloud, owner) in enumerate(everything):
        others = [pair for j, pair in enumerate(everything) if j != i]
        right += min(others, key=lambda pair: distance(cloud, pair[0]))[1] == owner
    return mmd, len(matched) / len(references), right / len(everything)


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_sets_agree_with_their_definitions(seed):
    generated, references = clouds(seed, 6 + seed), clouds(seed + 50, 8, spread=1 + 0.1 * seed)
    found = metrics.compare_sets(generated, references)
    expected = by_loops(generated.astype(float), references.astype(float))
    assert (found.mmd, found.coverage, found.one_nn) == pytest.approx(expected, rel=1e-5)


def test_sets_far_apart_are_told_apart_and_a_copy_confuses():
    near, far = clouds(3, 9), clouds(4, 9) + np.float32(100)
    apart = metrics.compare_sets(near, far)
    assert apart.one_nn == 1
    assert apart.mmd > 20_000
    copy = metrics.compare_sets(near, near)
    assert copy == metrics.SetScores(
        0.0, 1.0, 0.0
    )  # the nearest other is the copy, of the other set
    # One cloud again and again: near to one reference, blind to the others.
    collapsed = metrics.compare_sets(np.repeat(near[:1], 5, axis=0), near)
    assert collapsed.coverage == pytest.approx(1 / 9)


def test_scores_of_a_box_moved_by_a_known_way():
    box = mesh(trimesh.creation.box((1, 1, 1)))
    same = metrics.score(box, box)
    assert same.iou == 1
    assert same.chamfer < 0.005
    assert same.f_score > 0.85
    moved = metrics.score((box[0] + np.float32([0.25, 0, 0]), box[1]), box)
    assert moved.iou == pytest.approx(0.75 / 1.25, abs=0.01)
    assert moved.f_score < same.f_score
    assert metrics.score((np.zeros((0, 3)), np.zeros((0, 3), int)), box).iou == 0


@pytest.mark.parametrize("side", [64, 128])
def test_inside_has_the_volume_of_a_ball_and_its_place(side):
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    filled = metrics.inside(*mesh(ball), side)
    assert filled.sum() * (2 / side) ** 3 == pytest.approx(ball.volume, rel=0.02)
    shifted = metrics.inside(ball.vertices + np.array([4 / side, 0, 0]), ball.faces, side)
    assert np.array_equal(shifted[2:], filled[:-2])
    nodes = 2 * np.arange(side) / side - 1
    x, y, z = np.meshgrid(nodes, nodes, nodes, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    assert filled[radius < 0.49].all()
    assert not filled[radius > 0.501].any()


def test_chamfer_of_parallel_plates_is_their_distance():
    plate = trimesh.creation.box((1.6, 0.02, 1.6))
    found = metrics.score(mesh(plate.copy().apply_translation([0, 0.1, 0])), mesh(plate), 20_000)
    diagonal = math.sqrt(1.6**2 * 2 + 0.02**2)
    assert found.chamfer * diagonal == pytest.approx(0.09, abs=0.006)
    assert found.f_score == 0


def test_surfaces_are_sampled_by_area_with_their_normals():
    box = trimesh.creation.box((0.2, 1.0, 2.0))
    points, normals = metrics.sample_surface(*mesh(box), 20_000, np.random.default_rng(0))
    half = np.array([0.1, 0.5, 1.0])
    axis = np.abs(normals).argmax(1)
    assert (
        np.abs(
            np.take_along_axis(points * np.sign(normals), axis[:, None], 1)[:, 0] - half[axis]
        ).max()
        < 1e-6
    )
    areas = np.array([1.0 * 2.0, 0.2 * 2.0, 0.2 * 1.0])
    assert np.bincount(axis) / 20_000 == pytest.approx(areas / areas.sum(), abs=0.015)


def sampled(shape, seed, count):
    points, _ = metrics.sample_surface(*shape, count, np.random.default_rng(seed))
    return metrics.framed(points)


def test_a_reference_scores_as_the_truth_does():
    box, ball = mesh(trimesh.creation.box((1, 1, 1))), mesh(trimesh.creation.icosphere())
    reference = metrics.Reference.of(box, 4000)
    for found in (box, ball):
        assert reference.score(found) == metrics.score(found, box, 4000)
    full = metrics.Reference.of(box, 4000, np.ones((128,) * 3, bool))
    assert full.score(box).iou == pytest.approx(1 / 8, abs=0.01)


def test_clouds_are_framed_and_the_nearest_is_told():
    shapes = [
        mesh(trimesh.creation.box((0.3, 0.3, 0.3))),
        mesh(trimesh.creation.cylinder(0.1, 1.5)),
        mesh(trimesh.creation.icosphere(subdivisions=3)),
    ]
    training = np.stack([sampled(shape, seed, 400) for seed, shape in enumerate(shapes)])
    assert np.ptp(training, axis=1).max(axis=1) == pytest.approx(1.8, rel=1e-5)
    queries = np.stack([sampled(shape, 9, 400) for shape in shapes[::-1]])
    found = metrics.nearest(queries, training, coarse=60, finalists=2)
    assert [number for number, _ in found] == [2, 1, 0]
    assert max(distance for _, distance in found) < 0.04
    across = metrics.chamfer_distances(training, training)
    np.fill_diagonal(across, np.inf)
    others = metrics.nearest(training, training, skip=[0, 1, 2], finalists=3)
    assert [number for number, _ in others] == across.argmin(axis=1).tolist()
    assert all(distance > 0.01 for _, distance in others)


def test_the_nearest_is_that_of_all_distances():
    rng = np.random.default_rng(7)
    sizes = rng.uniform(0.2, 2.0, (46, 1, 3)).astype(np.float32)
    some, many = (clouds(n, k, 400) * sizes[:k] for n, k in ((7, 6), (8, 40)))
    across = metrics.chamfer_distances(some, many)
    found = metrics.nearest(some, many, coarse=150, finalists=12)
    assert [number for number, _ in found] == across.argmin(axis=1).tolist()
    assert [distance for _, distance in found] == pytest.approx(across.min(axis=1), rel=1e-6)
