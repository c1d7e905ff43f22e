"""Shapes from numbers: closed, framed, the same again; solids against formulas."""

import hashlib
import math

import numpy as np
import pytest
import trimesh

from backend.training import generated, solids
from backend.training.packed import Shape


def closed(faces):
    """Whether each edge lies in two faces, once in each direction."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    keys = edges[:, 0].astype(np.int64) * (faces.max() + 1) + edges[:, 1]
    back = edges[:, 1].astype(np.int64) * (faces.max() + 1) + edges[:, 0]
    return len(np.unique(keys)) == len(keys) and set(keys) == set(back)


def volume(vertices, faces):
    a, b, c = (vertices[faces[:, k]].astype(float) for k in range(3))
    return np.einsum("ij,ij->", a, np.cross(b, c)) / 6


@pytest.mark.parametrize(
    ("solid", "expected"),
    [
        (solids.ball(0.6), 4 / 3 * math.pi * 0.6**3),
        (solids.box((1.0, 0.6, 0.3)), 0.18),
        (solids.cylinder(0.4, 1.2), math.pi * 0.16 * 1.2),
        (solids.cone(0.6, 0.2, 0.9), math.pi * 0.9 / 3 * (0.36 + 0.12 + 0.04)),
        (solids.torus(0.7, 0.2), 2 * math.pi**2 * 0.7 * 0.04),
        (solids.ellipsoid((0.9, 0.5, 0.3)), 4 / 3 * math.pi * 0.9 * 0.5 * 0.3),
        (solids.capsule((-0.5, 0, 0), (0.5, 0, 0), 0.2), math.pi * 0.04 + 4 / 3 * math.pi * 0.008),
        (solids.extrusion(solids.polygon([(0, 0), (1, 0), (0, 1)]), 0.6), 0.3),
        (solids.difference(solids.box((1, 1, 1)), solids.cylinder(0.3, 2)), 1 - math.pi * 0.09),
        (solids.intersection(solids.box((1, 1, 1)), solids.half_space((1, 1, 0), 0)), 0.5),
        (solids.shell(solids.ball(0.8), 0.2), 4 / 3 * math.pi * (0.512 - 0.216)),
        (solids.twisted(solids.box((0.8, 1.0, 0.4)), 80, 0.5), 0.32),
        (solids.mirrored(solids.moved(solids.ball(0.3), 0.6)), 2 * 4 / 3 * math.pi * 0.027),
        (solids.repeated(solids.moved(solids.ball(0.2), 0.8), 7), 7 * 4 / 3 * math.pi * 0.008),
    ],
)
def test_solids_have_the_volumes_of_formulas(solid, expected):
    vertices, faces = solids.surface(solid, 80)
    assert closed(faces)
    assert volume(vertices, faces) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("number", [4, 20, 24, 26])
def test_a_surface_by_blocks_is_that_of_every_node(number):
    solid = generated._made(number)[0]
    vertices, faces = solids.surface(solid, 48)
    # Where the function says so at every node, and nowhere else.
    low, high = vertices.min(0) - 0.05, vertices.max(0) + 0.05
    rng = np.random.default_rng(number)
    places = rng.uniform(low, high, (20_000, 3)).astype(np.float32)
    value = solid(places)
    step = np.ptp(vertices, axis=0).max() / 48
    _, distance, _ = trimesh.proximity.closest_point_naive(
        trimesh.Trimesh(vertices, faces, process=False), places[:20]
    )
    assert (np.abs(value[:20]) <= distance + step).all()
    filled = trimesh.Trimesh(vertices, faces, process=False).volume
    share = (value < 0).mean() * np.prod(high - low)
    assert filled == pytest.approx(share, rel=0.12)


def test_no_solid_grows_faster_than_the_way():
    rng = np.random.default_rng(0)
    for number in range(len(generated.FAMILIES)):
        solid = generated._made(number)[0]
        start = rng.uniform(-1.3, 1.3, (4000, 3)).astype(np.float32)
        step = rng.normal(size=(4000, 3)).astype(np.float32) * 0.02
        grown = np.abs(solid(start + step) - solid(start))
        assert (grown <= 1.1 * np.linalg.norm(step, axis=1) + 1e-5).mean() > 0.999, number


def test_turning_is_counter_clockwise():
    turned = solids.turned(solids.moved(solids.ball(0.1), 1), 2, 90)
    assert turned(np.array([[0, 1, 0], [0, -1, 0]], np.float32)) == pytest.approx(
        [-0.1, 1.9], abs=1e-6
    )
    turned = solids.turned(solids.moved(solids.ball(0.1), 1), 1, 90)
    assert turned(np.array([[0, 0, -1], [0, 0, 1]], np.float32)) == pytest.approx(
        [-0.1, 1.9], abs=1e-6
    )


@pytest.mark.parametrize("number", [1, 11, 18, 25, 43, 59])
def test_shapes_are_closed_framed_and_the_same_again(number):
    vertices, faces = generated.surface(number)
    assert (vertices.dtype, faces.dtype) == (np.float32, np.int32)
    assert closed(faces)
    assert volume(vertices, faces) > 0.003
    assert np.ptp(vertices, axis=0).max() == pytest.approx(1.8, abs=1e-5)
    assert np.abs(vertices.min(0) + vertices.max(0)).max() < 1e-5
    again = generated.surface(number)
    digests = [
        hashlib.sha256(v.tobytes() + f.tobytes()).digest() for v, f in ((vertices, faces), again)
    ]
    assert digests[0] == digests[1]


def test_what_is_known_of_the_shapes():
    shapes = [generated.shape(number) for number in range(generated.COUNT)]
    assert all(isinstance(shape, Shape) for shape in shapes)
    assert len({shape.id for shape in shapes}) == generated.COUNT
    assert len({shape.caption for shape in shapes}) > 250
    assert len(generated.FAMILIES) >= 12
    sides = [
        sum(shape.split == side for shape in shapes) for side in ("train", "validation", "test")
    ]
    assert sides == [1072, 64, 64]
    families = {shape.attribution for shape in shapes if shape.split == "test"}
    assert len(families) == len(generated.FAMILIES)
    for shape in shapes:
        assert shape.caption.split()[0] in ("a", "an", "the"), shape.caption
        first = shape.caption.split()
        assert (first[0] == "an") == (first[1][0] in "aeio") or first[0] == "the", shape.caption


def test_captions_count_right():
    for number in range(0, 1200):
        shape = generated.shape(number)
        if "letters" in shape.caption:
            assert len(shape.caption.split("letters ")[1].split()) in (2, 3)
    gear = next(n for n in range(9, 1200, 32) if "gear" in generated.shape(n).caption)
    teeth = int(generated.shape(gear).caption.split()[-2])
    vertices, _ = generated.surface(gear)
    axis = int(np.ptp(vertices, axis=0).argmin())
    flat = np.delete(vertices, axis, axis=1)
    rim = flat[np.linalg.norm(flat, axis=1) > 0.82]
    angles = np.sort(np.arctan2(rim[:, 1], rim[:, 0]))
    gaps = np.diff(angles, append=angles[0] + 2 * math.pi)
    assert (gaps > 0.3 * 2 * math.pi / teeth).sum() == teeth


def test_variations_keep_to_their_bounds():
    box = trimesh.creation.box((1.8, 0.9, 0.45))
    mirrored = 0
    for seed in range(40):
        vertices, faces = generated.varied(
            np.asarray(box.vertices), np.asarray(box.faces), np.random.default_rng(seed)
        )
        sides = np.ptp(vertices, axis=0)
        assert sides.max() == pytest.approx(1.8, abs=1e-5)
        assert 2 * 0.6 < sides[0] / sides[1] < 2 / 0.6
        assert volume(vertices, faces) > 0  # a mirrored surface is turned right side out again
        mirrored += not np.array_equal(faces, box.faces)
    assert 8 < mirrored < 32


def test_recombined_surfaces_lie_beside_each_other():
    box = trimesh.creation.box((1.0, 1.8, 0.6))
    parts = [(np.asarray(box.vertices), np.asarray(box.faces))] * 4
    counts = set()
    for seed in range(12):
        vertices, faces = generated.recombined(parts, np.random.default_rng(seed))
        bodies = trimesh.Trimesh(vertices, faces, process=False).split(only_watertight=True)
        counts.add(len(bodies))
        assert np.ptp(vertices, axis=0).max() == pytest.approx(1.8, abs=1e-5)
        boxes = [body.bounds for body in bodies]
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                overlap = np.minimum(a[1], b[1]) - np.maximum(a[0], b[0])
                assert np.prod(np.maximum(overlap, 0)) < 0.02
    assert counts == {2, 3, 4}


def test_what_is_empty_or_out_of_reach_is_told():
    apart = solids.intersection(solids.ball(0.2), solids.moved(solids.ball(0.2), 1))
    with pytest.raises(ValueError, match="empty"):
        solids.surface(apart)
    with pytest.raises(ValueError, match="far"):
        solids.surface(solids.moved(solids.ball(0.5), 2.9))
