"""Surfaces of fields, evaluated only where they can be."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.models.hyperdiffusion import surface
from tests.hyperdiffusion_golden import arrays, facts, field


def _same_mesh(field_of_points: surface.Field, side: int, level: float, first_side: int) -> float:
    """Assert that both evaluations give one mesh; the share of nodes that the sparing one took."""
    whole = surface.sample_everywhere(field_of_points, side)
    sampled = surface.sample_near_surface(field_of_points, side, level, first_side)
    assert whole.known.all()
    assert np.array_equal(whole.logits > level, sampled.logits > level)
    assert np.array_equal(whole.logits[sampled.known], sampled.logits[sampled.known])
    for found, expected in zip(
        surface.surface(sampled, level), surface.surface(whole, level), strict=True
    ):
        assert np.array_equal(found, expected)
    return float(sampled.known.mean())


@pytest.mark.parametrize("level", [0.0, surface.PUBLISHED_LEVEL])
def test_mesh_of_the_published_code(level: float) -> None:
    golden = arrays("grid_mesh")
    whole = surface.sample_everywhere(surface.field_function(*field("mlp3d_fit")), 40)
    assert np.abs(whole.logits - golden["logits_exact"]).max() <= 2e-3
    vertices, faces = surface.surface(whole, level)
    expected = facts()["grid_mesh"]["level 1.386" if level else "level 0"]
    found = trimesh.Trimesh(vertices, faces, process=False)
    assert found.is_watertight
    assert found.volume == pytest.approx(expected["volume"], rel=1e-3)
    assert found.area == pytest.approx(expected["area"], rel=1e-3)
    assert len(vertices) == pytest.approx(expected["n_verts"], rel=0.02)
    assert len(faces) == pytest.approx(expected["n_faces"], rel=0.02)
    theirs = golden["verts_l1386" if level else "verts_l0"]
    gap = np.linalg.norm(vertices[:, None] - theirs[None], axis=2).min(axis=0)
    assert gap.max() < 1e-4  # all theirs are among ours: edges are crossed at the same places


@pytest.mark.parametrize("level", [0.0, surface.PUBLISHED_LEVEL])
@pytest.mark.parametrize(
    ("name", "frame"), [("mlp3d_fit", None), ("mlp4d_fit", 0), ("mlp4d_fit", 15)]
)
@pytest.mark.parametrize("first_side", [17, 33])
def test_the_mesh_is_that_of_full_evaluation(
    name: str, frame: int | None, level: float, first_side: int
) -> None:
    logits = surface.field_function(*field(name), frame)
    assert _same_mesh(logits, 65, level, first_side) < 0.5


def test_mesh_of_weights() -> None:
    config, vector = field("mlp3d_fit")
    vertices, faces = surface.mesh(config, vector, 64, surface.PUBLISHED_LEVEL)
    whole = surface.sample_everywhere(surface.field_function(config, vector), 64)
    assert np.array_equal(vertices, surface.surface(whole, surface.PUBLISHED_LEVEL)[0])
    assert trimesh.Trimesh(vertices, faces, process=False).is_watertight


def test_frames_differ_and_must_fit_the_field() -> None:
    config, vector = field("mlp4d_fit")
    first, last = (surface.mesh(config, vector, 48, frame=frame) for frame in (0, 8))
    assert first[0].shape != last[0].shape or np.abs(first[0] - last[0]).max() > 1e-3
    with pytest.raises(ValueError, match="takes a frame"):
        surface.mesh(config, vector, 48)
    with pytest.raises(ValueError, match="takes no frame"):
        surface.mesh(*field("mlp3d_fit"), 48, frame=1)
    with pytest.raises(ValueError, match="no cells"):
        surface.mesh(*field("mlp3d_fit"), 1)


def _box(half: np.ndarray, centre: np.ndarray) -> surface.Field:
    """Steep and positive inside a box, by its signed distance."""

    def logits(points: np.ndarray) -> np.ndarray:
        beyond = np.abs(points - centre) - half
        outside = np.linalg.norm(np.maximum(beyond, 0), axis=1)
        return (-300 * (outside + np.minimum(beyond.max(axis=1), 0))).astype(np.float32)

    return logits


@given(
    thickness=st.floats(0.011, 0.2),
    along=st.integers(0, 2),
    place=st.floats(-0.2, 0.2),
    reach=st.floats(0.1, 0.5),
)
@settings(max_examples=12, deadline=None)
def test_parts_thinner_than_a_first_cell_are_found(
    thickness: float, along: int, place: float, reach: float
) -> None:
    half = np.full(3, reach, np.float32)
    half[along] = thickness / 2
    centre = np.zeros(3, np.float32)
    centre[along] = place
    _same_mesh(_box(half, centre), 89, 0.0, 20)  # cells of 0.011, the first ones of 0.046


def test_a_sheet_in_the_middle_between_nodes_is_found() -> None:
    """Nodes on both of its sides are equally far from it: only cells further off show a change."""
    sheet = _box(np.array([1, 1, 0.01], np.float32), np.array([0, 0, 0.025], np.float32))
    _same_mesh(sheet, 81, 0.0, 20)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_specks_that_leave_a_trace_are_found(seed: int) -> None:
    draws = np.random.default_rng(seed)
    centres = draws.uniform(-0.45, 0.45, (6, 3)).astype(np.float32)
    radii = draws.uniform(0.016, 0.06, 6).astype(np.float32)

    def logits(points: np.ndarray) -> np.ndarray:
        apart = np.linalg.norm(points[:, None] - centres, axis=2) - radii
        return (-300 * apart.min(axis=1)).astype(np.float32)

    _same_mesh(logits, 61, 0.0, 16)


def test_a_rod_that_no_first_cell_shows_is_followed_from_where_it_is_seen() -> None:
    """Its field is flat a hair away from it, as no distance is: only growing along it finds it."""

    def logits(points: np.ndarray) -> np.ndarray:
        x, y, z = points.T
        rod = (np.abs(y - 0.02) < 0.013) & (np.abs(z - 0.02) < 0.013) & (np.abs(x) < 0.4)
        knob = (points - [0.4, 0.02, 0.02]).__pow__(2).sum(axis=1) < 0.07**2
        return np.where(rod | knob, 10, -10).astype(np.float32)

    opened = surface._worth_opening(surface._everywhere(logits, surface.grid_axis(21)), 0.0)
    assert not opened[:8].any()
    _same_mesh(logits, 81, 0.0, 20)


def test_shapes_at_the_border_are_closed_and_none_is_empty() -> None:
    full = surface.sample_near_surface(lambda points: np.ones(len(points), np.float32), 30)
    vertices, faces = surface.surface(full)
    assert trimesh.Trimesh(vertices, faces, process=False).is_watertight
    assert trimesh.Trimesh(vertices, faces, process=False).volume > 0.99
    none = surface.sample_near_surface(lambda points: -np.ones(len(points), np.float32), 100)
    assert len(surface.surface(none)[1]) == 0
    assert none.known.mean() < 0.2


def test_logits_do_not_depend_on_the_company() -> None:
    logits = surface.field_function(*field("mlp3d_fit"))
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (9000, 3)).astype(np.float32)
    together = logits(points)
    order = np.random.default_rng(1).permutation(9000)
    assert np.array_equal(logits(points[order]), together[order])
    assert np.array_equal(logits(points[:17]), together[:17])


def test_grids_are_nested_with_both_ends() -> None:
    for side, first in [(256, 48), (81, 20), (40, 48), (2, 2), (129, 33)]:
        grids = surface._grids(side, first)
        assert np.array_equal(grids[-1], np.arange(side))
        for coarse, fine in pairwise(grids):
            assert np.isin(coarse, fine).all()
            assert (coarse[0], coarse[-1]) == (0, side - 1)
            assert len(coarse) >= first
    assert [len(grid) for grid in surface._grids(256, 48)] == [65, 129, 256]


def test_of_a_fine_grid_few_nodes_are_evaluated() -> None:
    asked = 0
    box = _box(np.array([0.3, 0.2, 0.1], np.float32), np.zeros(3, np.float32))

    def counted(points: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(points)
        return box(points)

    sampled = surface.sample_near_surface(counted, 256)
    assert asked == np.count_nonzero(sampled.known)  # none twice
    assert 12 * asked < 256**3


def test_the_sparing_evaluation_saves_time() -> None:
    """Of 256^3 it is 11 to 25 times as fast; of this small grid not as much."""
    logits = surface.field_function(*field("mlp3d_fit"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = []
        for take in (
            lambda: surface.sample_everywhere(logits, 97),
            lambda: surface.sample_near_surface(logits, 97, first_side=25),
        ):
            begin = time.thread_time()
            take()
            seconds.append(time.thread_time() - begin)
    finally:
        torch.set_num_threads(threads)
    assert seconds[0] > 2 * seconds[1]
