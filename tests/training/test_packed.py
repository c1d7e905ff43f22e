"""Packed shapes come back as they are on the grid; damage is told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from backend.errors import BadInput
from backend.training import packed
from backend.training.packed import GRID, Shape

STEP = 1.8 / (GRID - 1)


def soup(seed: int, vertices: int = 500, faces: int = 900):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.9, 0.9, (vertices, 3)), rng.integers(0, vertices, (faces, 3))


def corners(vertices, faces):
    """The set of triangles, each as the tuple of its grid nodes, turned to begin with the least."""
    nodes = np.rint((np.asarray(vertices, float) / 1.8 + 0.5) * (GRID - 1)).astype(int)
    found = set()
    for face in nodes[faces]:
        rows = [tuple(row) for row in face]
        if len(set(rows)) == 3:
            at = rows.index(min(rows))
            found.add(tuple(rows[at:] + rows[:at]))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_every_triangle_comes_back_with_its_turn(seed):
    vertices, faces = soup(seed)
    again, faces_again = packed.decode(packed.encode(vertices, faces))
    assert corners(again, faces_again) == corners(vertices, faces)
    assert (again.dtype, faces_again.dtype) == (np.float32, np.int32)
    distances = np.abs(again[:, None] - vertices[np.unique(faces)][None]).max(-1).min(1)
    assert distances.max() <= STEP / 2 + 1e-6


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.int64, st.tuples(st.integers(3, 30), st.just(3)), elements=st.integers(0, 7)),
    st.integers(0, 2**32 - 1),
)
def test_coarse_grids_with_many_coinciding_vertices(nodes, seed):
    vertices = nodes * (1.8 / 7) - 0.9
    faces = np.random.default_rng(seed).integers(0, len(nodes), (40, 3))
    again = packed.decode(packed.encode(vertices, faces))
    assert corners(*again) == corners(vertices, faces)
    assert packed.encode(*again) == packed.encode(vertices, faces)


@given(st.lists(st.integers(0, GRID - 1), min_size=3, max_size=3))
def test_morton_interleaves(node):
    bits = ["0"] * 36
    for axis in range(3):
        for bit in range(12):
            bits[35 - (3 * bit + axis)] = str(node[axis] >> bit & 1)
    assert packed.morton(np.array([node]))[0] == int("".join(bits), 2)


def test_a_smooth_mesh_takes_few_bytes():
    side = 100
    u, v = np.meshgrid(np.linspace(-0.9, 0.9, side), np.linspace(-0.9, 0.9, side), indexing="ij")
    vertices = np.stack([u, v, 0.3 * np.sin(3 * u) * np.cos(2 * v)], axis=-1).reshape(-1, 3)
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel()
    faces = np.concatenate(
        [
            np.stack([corner, corner + side, corner + 1], axis=1),
            np.stack([corner + side, corner + side + 1, corner + 1], axis=1),
        ]
    )
    assert len(packed.encode(vertices, faces)) < 3.2 * len(faces)


def test_a_file_keeps_shapes_and_what_is_known_of_them(tmp_path):
    shapes = [
        (
            Shape(f"a#{seed}", "a chair, séat", "a", "train", "Chair, nobody, CC0"),
            packed.encode(*soup(seed)),
        )
        for seed in range(4)
    ]
    packed.write(tmp_path / "set.ffs", shapes)
    assert list(packed.read(tmp_path / "set.ffs")) == shapes
    assert not list(tmp_path.glob("*.part"))


def test_damage_is_told(tmp_path):
    path = tmp_path / "set.ffs"
    content = packed.encode(*soup(1))
    packed.write(path, [(Shape("a", "b", "c", "train", "d"), content)])
    whole = path.read_bytes()
    for broken in (b"", whole[:6], whole[:30], whole[:-1], b"x" + whole[1:]):
        path.write_bytes(broken)
        with pytest.raises(BadInput):
            list(packed.read(path))
    for broken in (b"", content[:10], content[: len(content) // 2], b"\xff" * 50):
        with pytest.raises(BadInput):
            packed.decode(broken)
