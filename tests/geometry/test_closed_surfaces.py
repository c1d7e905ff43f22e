"""Which way faces look, where surfaces are open, and coarser ones."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.geometry.closed_surfaces import simplified, turned_outwards


def _arrays(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def _net_edges(faces: np.ndarray) -> dict[tuple[int, int], int]:
    """How many more faces run along an edge one way than the other; nothing if it is closed."""
    net: dict[tuple[int, int], int] = {}
    for a, b in faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).tolist():
        key, sign = ((a, b), 1) if a < b else ((b, a), -1)
        net[key] = net.get(key, 0) + sign
    return {key: count for key, count in net.items() if count}


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), apart=st.booleans())
@settings(max_examples=25, deadline=None)
def test_faces_turned_at_random_are_found(seed: int, share: float, apart: bool) -> None:
    draws = np.random.default_rng(seed)
    vertices, faces = _arrays(trimesh.creation.torus(1.0, 0.3, 12, 8))
    vertices = vertices * draws.uniform(0.1, 10, 3) + draws.normal(size=3) * 5
    wrong = draws.random(len(faces)) < share
    given_faces = np.where(wrong[:, None], faces[:, ::-1], faces)
    if apart:  # as files hold them whose normals are not smooth
        vertices, given_faces = vertices[given_faces].reshape(-1, 3), np.arange(3 * len(faces))
        given_faces = given_faces.reshape(-1, 3)
    found = turned_outwards(vertices, given_faces)
    assert np.array_equal(found.flipped, wrong)
    assert found.border == 0


def test_open_parts_look_away_from_their_middle() -> None:
    vertices, faces = _arrays(trimesh.creation.box())
    open_box = faces[2:]
    found = turned_outwards(vertices + 100, open_box)
    assert not found.flipped.any()
    assert found.border == 4
    assert turned_outwards(vertices + 100, open_box[:, ::-1]).flipped.all()


def test_flat_sheets_stay_as_they_are() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    for faces in (np.array([[0, 1, 2], [0, 2, 3]]), np.array([[2, 1, 0], [3, 2, 0]])):
        found = turned_outwards(vertices, faces)
        assert not found.flipped.any()
        assert found.border == 4


def test_cavities_in_shapes_that_are_inside_out() -> None:
    outer, faces = _arrays(trimesh.creation.icosphere(2, 1.0))
    inner = outer * 0.5
    other = outer * 0.2 + [3, 0, 0]  # and a part beside it
    vertices = np.concatenate([outer, inner, other])
    count = len(outer)
    right = np.concatenate([faces, faces[:, ::-1] + count, faces + 2 * count])
    assert not turned_outwards(vertices, right).flipped.any()
    assert turned_outwards(vertices, right[:, ::-1]).flipped.all()
    aside = np.concatenate([right[: 2 * len(faces)], right[2 * len(faces) :, ::-1]])
    found = turned_outwards(vertices, aside).flipped
    assert np.array_equal(np.flatnonzero(found), np.arange(2 * len(faces), 3 * len(faces)))


def test_faces_without_area_and_strips_with_one_side() -> None:
    vertices, faces = _arrays(trimesh.creation.box())
    with_points = np.concatenate([faces, [[0, 0, 1], [2, 2, 2]]])
    assert not turned_outwards(vertices, with_points).flipped.any()
    assert turned_outwards(vertices, with_points).border == 0
    around = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    half = np.stack([np.cos(around / 2), np.sin(around / 2)], -1) * 0.3
    strip = np.concatenate(
        [
            np.stack(
                [
                    (1 + s * half[:, 0]) * np.cos(around),
                    s * half[:, 1],
                    (1 + s * half[:, 0]) * np.sin(around),
                ],
                -1,
            )
            for s in (1, -1)
        ]
    )
    here = np.arange(24)
    there = np.where(here == 23, 24, here + 1), np.where(here == 23, 0, here + 25)
    moebius = np.concatenate(
        [np.stack([here, there[0], here + 24], -1), np.stack([there[0], there[1], here + 24], -1)]
    )
    assert turned_outwards(strip, moebius).border == 48


@given(seed=st.integers(0, 1000), most=st.integers(1000, 4000))
@settings(max_examples=6, deadline=None)
def test_coarser_surfaces_stay_closed_and_in_place(seed: int, most: int) -> None:
    draws = np.random.default_rng(seed)
    vertices, faces = _arrays(trimesh.creation.icosphere(4))
    vertices = vertices * draws.uniform(0.5, 2, 3) + draws.normal(size=3) * 10
    extent = float(np.ptp(vertices, axis=0).max())
    coarse, left = simplified(vertices, faces, extent, most)
    assert 0 < len(left) <= most
    assert _net_edges(left) == {}
    assert (left != left[:, [1, 2, 0]]).all()
    assert coarse.min(axis=0) == pytest.approx(vertices.min(axis=0), abs=extent / 8)
    volumes = [
        trimesh.Trimesh(*mesh, process=False).volume for mesh in ((vertices, faces), (coarse, left))
    ]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.25)


def test_what_is_coarse_enough_is_left_alone() -> None:
    vertices, faces = _arrays(trimesh.creation.box())
    found = simplified(vertices, faces, 1.0, 12)
    assert found[0] is vertices
    assert found[1] is faces


def test_thin_walls_fall_together_and_enclose_nothing() -> None:
    vertices, faces = _arrays(trimesh.creation.icosphere(5))
    flat = vertices * [1, 1e-5, 1]
    coarse, left = simplified(flat, faces, 2.0, 5000)
    assert _net_edges(left) == {}
    assert abs(trimesh.Trimesh(coarse, left, process=False).volume) < 1e-4
