"""Grids for the model: thin parts stay, one piece stays one, the way back leads to the source."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from backend.conditions.voxels import model_voxels
from backend.geometry.transforms import apply_to_points
from backend.geometry.voxels import occupancy_of_mesh

SHAPES = Path(__file__).resolve().parents[2] / "examples" / "bench_shapes.npz"
TOUCHING = np.ones((3, 3, 3))


def centres(cells: np.ndarray) -> np.ndarray:
    return (np.argwhere(cells) + 0.5) * 0.125 - 1


def lies_near(cells: np.ndarray, to_source: np.ndarray, low: np.ndarray, high: np.ndarray) -> bool:
    """Whether the cells, brought back, cover the box in the source to within a cell."""
    half = np.abs(to_source[:3, :3]).sum(axis=1) * 0.0625
    back = apply_to_points(to_source, centres(cells), np.float64)
    found = np.stack([back.min(axis=0) - half, back.max(axis=0) + half])
    return bool((np.abs(found - [low, high]) <= 2 * half + 1e-9).all())


@given(
    size=st.tuples(*[st.integers(1, 40)] * 3).filter(lambda size: max(size) >= 2),
    before=st.tuples(*[st.integers(0, 9)] * 3),
    origin=st.tuples(*[st.floats(-1e3, 1e3)] * 3),
    voxel=st.tuples(*[st.floats(0.05, 20)] * 3),
    up_axis=st.sampled_from("yz"),
)
def test_a_box_comes_to_the_middle_and_back(size, before, origin, voxel, up_axis) -> None:
    grid = np.zeros(np.add(size, before) + 3, np.uint8)
    grid[tuple(slice(b, b + n) for b, n in zip(before, size, strict=True))] = 7
    cells, to_source = model_voxels(grid, origin, voxel, up_axis)
    assert cells.shape == (16, 16, 16)
    assert cells.dtype == np.float32
    assert cells.any()
    low = np.array(origin) + np.array(before) * voxel
    assert lies_near(cells, to_source, low, low + np.array(size) * voxel)
    assert np.linalg.det(to_source[:3, :3]) > 0
    # A box stays one; only cells at its edges, of which it covers next to nothing, may be missing.
    places = np.argwhere(cells)
    low_cell, high_cell = places.min(axis=0), places.max(axis=0) + 1
    box = cells[tuple(slice(a, b) for a, b in zip(low_cell, high_cell, strict=True))]
    at_ends = sum(
        np.isin(places, (0, n - 1)).astype(int)
        for places, n in zip(np.indices(box.shape), box.shape, strict=True)
    )
    assert box[at_ends < 2].all()


def test_a_full_length_box_reaches_from_the_first_cell_to_the_last() -> None:
    cells, to_source = model_voxels(np.ones((50, 25, 25), bool), (0, 0, 0), (1, 1, 1), "y")
    places = np.argwhere(cells)
    assert (places.min(axis=0)[0], places.max(axis=0)[0]) == (0, 15)
    corners = apply_to_points(to_source, np.array([[-0.9, 0, 0], [0.9, 0, 0]]), np.float64)
    np.testing.assert_allclose(corners, [[0, 12.5, 12.5], [50, 12.5, 12.5]], atol=1e-9)


@pytest.mark.parametrize("length", [14, 15, 16])
def test_a_grid_of_the_models_own_size_is_taken_voxel_for_voxel(length: int) -> None:
    rng = np.random.default_rng(length)
    shape = rng.random((length, 9, 12)) < 0.4
    shape[0, 0, 0] = shape[-1, -1, -1] = True
    grid = np.pad(shape, [(2, 5), (0, 1), (3, 0)])
    cells, to_source = model_voxels(grid, (1, 2, 3), (0.5, 0.5, 0.5), "y")
    back = apply_to_points(to_source, centres(cells), np.float64)
    np.testing.assert_allclose(back, (np.argwhere(grid) + 0.5) * 0.5 + [1, 2, 3], atol=1e-9)


def test_up_becomes_y() -> None:
    grid = np.zeros((40, 40, 40), bool)
    grid[5:35, 5:35, 0:4] = True  # a plate
    grid[18:22, 5:9, 4:40] = True  # a mast at the front of it, up along z
    cells, _ = model_voxels(grid, (0, 0, 0), (1, 1, 1), "z")
    upper = np.argwhere(cells[:, 8:, :])
    assert len(upper) > 0
    # The front, at -y of the source, is +z of the models.
    assert upper[:, 2].min() > 8
    assert cells[:, :2].sum() > cells[:, 8:10].sum()


@given(
    thickness=st.integers(1, 4),
    offset=st.integers(0, 99),
    axis=st.integers(0, 2),
    kind=st.sampled_from(["sheet", "rod"]),
)
def test_nothing_thin_vanishes(thickness: int, offset: int, axis: int, kind: str) -> None:
    grid = np.zeros((128, 128, 128), bool)
    grid[:12, :, :12] = grid[-12:, :, -12:] = True  # so that the part lies anywhere among the cells
    where = [slice(6, 122)] * 3
    where[axis] = slice(14 + offset, 14 + offset + thickness)
    if kind == "rod":
        where[(axis + 1) % 3] = slice(14 + offset, 14 + offset + thickness)
    part = np.zeros_like(grid)
    part[tuple(where)] = True
    cells, to_source = model_voxels(grid | part, (0, 0, 0), (1, 1, 1), "y")
    taken = ndimage.binary_dilation(cells > 0, TOUCHING)
    back = np.linalg.inv(to_source)
    places = apply_to_points(back, np.argwhere(part) + 0.5, np.float64)
    index = tuple(np.clip(((places + 1) / 0.125).astype(int), 0, 15).T)
    assert taken[index].all()


def test_a_speck_alone_stays() -> None:
    grid = np.zeros((200, 50, 50), bool)
    grid[:100, 10:40, 10:40] = True
    grid[199, 25, 25] = True
    cells, _ = model_voxels(grid, (0, 0, 0), (1, 1, 1), "y")
    assert cells[-2:].sum() >= 1


@pytest.mark.parametrize("name", ["antique_chair", "chair", "cradle", "deer", "horse"])
def test_shapes_of_one_piece_stay_in_one_piece(name: str) -> None:
    with np.load(SHAPES) as shapes:
        vertices = shapes[f"{name}_vertices"].astype(float)
        faces = shapes[f"{name}_faces"].astype(np.int64)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    voxel = np.full(3, (high - low).max() / 160)
    grid = occupancy_of_mesh(vertices, faces, (162,) * 3, low - voxel, voxel)
    cells, to_source = model_voxels(grid, low - voxel, voxel, "y")
    assert ndimage.label(cells, TOUCHING)[1] == 1
    places = apply_to_points(np.linalg.inv(to_source), np.argwhere(grid) * voxel + low, np.float64)
    index = tuple(np.clip(((places + 1) / 0.125).astype(int), 0, 15).T)
    assert cells[index].mean() > 0.95


def test_the_largest_grid_is_quick() -> None:
    grid = np.zeros((512, 512, 512), bool)
    grid[3:509, 8:500, 1:511] = True
    began = time.process_time()
    cells, _ = model_voxels(grid, (0, 0, 0), (1, 1, 1), "z")
    assert time.process_time() - began < 5
    assert cells.sum() > 3000
