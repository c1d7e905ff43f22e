"""What models are told of a shape agrees with the shape, and with what pipelines feed."""

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from backend.conditions import depths, images, sketches, voxels
from backend.errors import BadInput, FieldforgeError
from backend.geometry.voxels import occupancy_of_sdf
from backend.training import conditions, prepare, renders, trees
from backend.training.conditions import Amounts
from backend.training.packed import Shape

AMOUNTS = Amounts(points=700, cameras=2, scans=2, side=56)
BOX = np.array([0.5, 0.9, 0.3])
"""Half sides, no two alike."""


def box_field(resolution=128):
    nodes = (2 * np.arange(resolution) / resolution - 1).astype(np.float32)
    x, y, z = (
        np.abs(nodes).reshape(shape) - np.float32(half)
        for half, shape in zip(BOX, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
    )
    outside = np.sqrt(sum(np.maximum(beyond, 0) ** 2 for beyond in (x, y, z)))
    return np.clip(outside + np.minimum(np.maximum(np.maximum(x, y), z), 0), -0.1, 0.1)


@pytest.fixture(scope="module")
def box():
    solid = trimesh.creation.box(2 * BOX)
    return np.asarray(solid.vertices, np.float32), np.asarray(solid.faces, np.int32)


@pytest.fixture(scope="module")
def made(box):
    return conditions.make("a#1", box, box_field(), 5, AMOUNTS)


def off_surface(points):
    beyond = np.abs(points) - BOX
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
    return np.abs(outside + np.minimum(beyond.max(-1), 0))


def test_clean_points_lie_evenly_on_the_surface_with_its_normals(made):
    points = conditions.cloud_of(made.clean)
    assert points.shape == (700, 3)
    assert off_surface(points).max() < 0.01
    face = (np.abs(points) - BOX).argmax(axis=1)
    expected = np.eye(3)[face] * np.sign(points)
    agree = np.einsum("ij,ij->i", made.normals / 127, expected)
    flat = np.sort(BOX - np.abs(points), axis=1)[:, 1] > 0.03  # away from edges
    assert agree[flat].min() > 0.95
    nearest = cKDTree(points).query(points, 2)[0][:, 1]
    assert nearest.std() / nearest.mean() < 0.35  # 0.52 where points are drawn independently


def test_noisy_points_stay_within_their_noise(made):
    off = off_surface(conditions.cloud_of(made.noisy))
    diagonal = 2 * np.linalg.norm(BOX)
    assert 0.0005 * diagonal < off.mean() < 0.012 * diagonal


def test_a_scan_has_one_side_only_and_comes_back_into_its_place(made, box):
    for k in range(2):
        points = conditions.cloud_of(made.scans[k]).astype(float)
        assert np.ptp(points, axis=0).max() == pytest.approx(1.8, abs=0.03)
        frame = made.scan_frames[k].astype(float)
        there = points @ frame[:3, :3].T + frame[:3, 3]
        assert np.percentile(off_surface(there), 95) < 0.025
        to_camera = np.vstack([made.cameras[k][:12].reshape(3, 4), [0, 0, 0, 1]])
        eye = np.linalg.inv(to_camera)[:3, 3]
        # Of the two faces across an axis, a camera sees one at most.
        for axis in range(3):
            hidden = -np.sign(eye[axis]) * BOX[axis]
            inner = np.abs(np.delete(there, axis, 1)) < 0.9 * np.delete(BOX, axis)
            on_hidden = (np.abs(there[:, axis] - hidden) < 0.01) & inner.all(axis=1)
            assert not on_hidden.any()


def test_seen_points_lie_on_what_is_seen(box):
    camera = renders.orbit(40, 25, 3.5, 40)
    points = conditions.seen_points(renders.render(*box, camera, 128), camera)
    assert len(points) > 1000
    assert off_surface(points).max() < 1e-4


def test_voxels_are_those_of_the_pipeline(made):
    cells = conditions.cells_of(made.voxels)
    assert cells.shape == (2, 16, 16, 16)
    solid = occupancy_of_sdf(box_field(), 64)
    expected, _ = voxels.model_voxels(solid, np.full(3, -1.0), np.full(3, 1 / 32), "y")
    assert np.array_equal(cells[0], expected)
    assert (cells[1] <= cells[0]).all()
    assert cells[1][8, 8, 8] == 0
    assert cells[0][8, 8, 8] == 1
    extent = [np.ptp(where) + 1 for where in np.nonzero(cells[0])]
    assert extent[1] > extent[0] > extent[2]


def test_pictures_are_those_of_the_pipeline(made, box):
    assert made.shaded.shape == (2, 56, 56, 3)
    assert made.drawings.shape == made.depths.shape == (2, 56, 56)
    for k in range(2):
        to_camera = np.vstack([made.cameras[k][:12].reshape(3, 4), [0, 0, 0, 1]])
        view = renders.render(*box, renders.Camera(to_camera, made.cameras[k][12]), 448)
        deep = depths.prepare(view.depth, "metres").picture[..., 0].astype(float)
        means = deep.reshape(56, 4, 56, 4).mean(axis=(1, 3))
        assert np.abs(made.depths[k] - means).max() <= 1
        # The same outline in all three kinds of pictures, framed alike.
        solid = made.depths[k] > 0
        for other in (made.shaded[k].max(-1) > 0, made.drawings[k] < 235):
            spans = [
                np.concatenate([np.flatnonzero(m.any(axis))[[0, -1]] for axis in (0, 1)])
                for m in (solid, other)
            ]
            assert np.abs(spans[0] - spans[1]).max() <= 2
        assert made.drawings[k][0, 0] == 255
        assert made.shaded[k][0, 0].max() == 0
        # A picture that is already as the pipeline makes it stays so: object, ground, frame.
        again = images.prepare(np.dstack([made.shaded[k], 255 * solid.astype(np.uint8)])).picture
        assert np.abs(again.reshape(56, 4, 56, 4, 3).mean((1, 3)) - made.shaded[k]).mean() < 6
        assert sketches.prepare(np.repeat(made.drawings[k][..., None], 3, 2)).picture.min() < 60


def test_numbered_views_have_the_angles_of_their_numbers(made, box):
    assert made.views.shape == (6, 56, 56, 3)
    for camera, elevation in zip(
        conditions.numbered_cameras(), (25.34, 12.92, 13.27, 16.44, 60, -60), strict=True
    ):
        eye = np.linalg.inv(camera.to_camera)[:3, 3]
        assert np.degrees(np.arcsin(eye[1] / np.linalg.norm(eye))) == pytest.approx(
            elevation, abs=0.01
        )
        seen = box[0] @ camera.to_camera[:3, :3].T + camera.to_camera[:3, 3]
        assert (np.abs(seen[:, :2]) * camera.focal < -seen[:, 2:]).all()
        cube = np.array(np.meshgrid(*[[-0.9, 0.9]] * 3)).reshape(3, -1).T
        cube = cube @ camera.to_camera[:3, :3].T + camera.to_camera[:3, 3]
        assert (np.abs(cube[:, :2]) * camera.focal < -cube[:, 2:]).all()
    assert ((made.view_depths > 0).sum(axis=(1, 2)) > 100).all()


def test_no_random_camera_cuts_a_corner_off():
    solid = trimesh.creation.box((1.8, 1.8, 1.8))
    shape = np.asarray(solid.vertices, np.float32), np.asarray(solid.faces, np.int32)
    field = np.full((64, 64, 64), 0.1, np.float32)
    field[4:61, 4:61, 4:61] = -0.1
    for seed in range(6):
        found = conditions.make(
            "cube", shape, field, seed, Amounts(200, cameras=2, scans=0, side=28)
        )
        for row in found.cameras:
            to_camera = row[:12].reshape(3, 4)
            seen = shape[0] @ to_camera[:, :3].T + to_camera[:, 3]
            assert (np.abs(seen[:, :2]) * row[12] < -seen[:, 2:]).all()


def test_the_same_shape_and_seed_give_the_same_and_more_changes_nothing(box, made):
    again = conditions.make("a#1", box, box_field(), 5, AMOUNTS)
    more = conditions.make("a#1", box, box_field(), 5, Amounts(700, cameras=3, scans=2, side=56))
    other = conditions.make("a#2", box, box_field(), 5, AMOUNTS)
    for name in ("clean", "noisy", "scans", "voxels", "shaded", "drawings", "views", "cameras"):
        assert np.array_equal(getattr(made, name), getattr(again, name))
        if name in ("shaded", "drawings", "cameras"):
            assert np.array_equal(getattr(made, name), getattr(more, name)[:2])
        else:
            assert np.array_equal(getattr(made, name), getattr(more, name))
        if name != "voxels":
            assert not np.array_equal(getattr(made, name), getattr(other, name))


def test_files_are_made_once_whole_and_told_when_damaged(tmp_path, monkeypatch, box, made):
    field = box_field(256)
    import torch

    trees.tree_of_field(torch.from_numpy(field)).save(tmp_path / "tree.npz")
    monkeypatch.setattr(prepare, "surface_of", lambda recipe: box)
    path = tmp_path / "made.npz"
    reports = []
    job = ("a#1", 3, tmp_path / "tree.npz", path)
    for _ in range(2):
        conditions.prepare_conditions(
            [job], 1, lambda stage, share: reports.append(share), 5, AMOUNTS
        )
    assert reports == [1.0]
    found = conditions.Conditions.load(path)
    assert np.array_equal(found.shaded, made.shaded)
    assert off_surface(conditions.cloud_of(found.clean)).max() < 0.02
    assert path.stat().st_size < 120_000
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["made.npz", "tree.npz"]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInput):
        conditions.Conditions.load(path)
    (tmp_path / "tree.npz").write_bytes(b"no tree")
    with pytest.raises(FieldforgeError, match="a#2"):
        conditions.prepare_conditions(
            [("a#2", 3, tmp_path / "tree.npz", tmp_path / "b.npz")], 1, lambda *_: None, 5, AMOUNTS
        )


@pytest.mark.parametrize(
    ("caption", "source", "expected"),
    [
        ("Armchair, seat", "Scopia", ("an armchair", "armchair", "a 3d model of an armchair",
                                      "armchair, seat")),
        ("stairs", "Scopia", ("stairs", "a 3d model of stairs")),
        ("a chest with 3 drawers", "generated", ("a chest with 3 drawers", "chest with 3 drawers",
                                                 "a 3d model of a chest with 3 drawers")),
    ],
)  # fmt: skip
def test_captions(caption, source, expected):
    assert conditions.captions(Shape("x", caption, source, "train", "")) == expected


def test_noisy_points_lie_where_the_shape_is():
    """Not shrunk until their noise, too, fits the cube."""
    directions = np.random.default_rng(0).normal(size=(9000, 3))
    surface = 0.9 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    diagonal = 1.8 * 3**0.5
    spread = []
    for shape_id in ("one", "two", "three"):
        points = conditions.noisy_points(shape_id, surface, diagonal, 3000)
        assert points.shape == (3000, 3)
        assert points.dtype == np.float32
        radius = np.linalg.norm(points, axis=1)
        spread.append(radius.std() / diagonal)
        assert abs(np.median(radius) - 0.9) < 0.2 * radius.std()
        again = conditions.noisy_points(shape_id, surface, diagonal, 3000)
        np.testing.assert_array_equal(points, again)
    assert len(set(spread)) == 3
    assert 0.001 < min(spread) < max(spread) < 0.013  # the most even ones lie farthest out
