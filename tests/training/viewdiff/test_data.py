"""Scenes, their renderings, and pictures that others took."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.errors import BadInput
from backend.geometry.view_fusion import projections, unprojected
from backend.posed_images import PosedImages, write_transforms
from backend.training.packed import Shape
from backend.training.viewdiff import colours, renderings, scenes, sources
from backend.training.viewdiff.scenes import Catalogue, Light, Record, Scene

BOX = np.array([(x, y, z) for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)], np.float32)
QUADS = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
FACES = np.array([t for a, b, c, d in QUADS for t in ((a, b, c), (a, c, d))], np.int32)


def test_colours_find_their_faces(data: Path) -> None:
    """The red side of the box is at z = -1 of the file: towards +y of the scene, seen from the
    back; from the front it is blue."""
    catalogue = Catalogue(data / "shapes.ffs", data / "shapes.ffc", 0)
    (record,) = catalogue.records("train")
    scene = catalogue.scene(record)
    lens = np.array([60.0, 60, 31.5, 31.5], np.float32)
    front = scenes.rendered(scene, scenes.looking_in(0, 0, 4), lens, 64).picture
    back = scenes.rendered(scene, scenes.looking_in(180, 0, 4), lens, 64).picture
    assert front[32, 32, 2] > 60
    assert front[32, 32, 0] == 0
    assert back[32, 32, 0] > 60
    assert back[32, 32, 2] == 0
    assert front[0, 0, 3] == 0
    assert front[32, 32, 3] == 255


def test_depth_is_where_the_surface_is(data: Path) -> None:
    """Places that pixels of one view show lie on the box, and other views show them there, too."""
    catalogue = Catalogue(data / "shapes.ffs", data / "shapes.ffc", 0)
    scene = catalogue.scene(catalogue.records("train")[0])
    half = np.abs(scene.vertices).max(axis=0)
    lens = np.array([60.0, 60, 31.5, 31.5], np.float32)
    poses = [scenes.looking_in(35, 20, 4), scenes.looking_in(80, 40, 4)]
    views = [scenes.rendered(scene, pose, lens, 64) for pose in poses]
    row, column = np.nonzero(views[0].depth)
    at = np.stack([column, row, views[0].depth[row, column]], axis=1)
    places = unprojected(poses[0].astype(float), lens, at)
    away = (np.abs(places) - half).max(axis=1)
    np.testing.assert_allclose(away, 0, atol=5e-4)  # the grid that shapes are packed on
    assert len(places) > 200
    matrix = projections(poses[1][None], lens[None])[0]
    x, y, depth = matrix[:, :3] @ places.T + matrix[:, 3:]
    shown = views[1].depth[np.rint(y / depth).astype(int), np.rint(x / depth).astype(int)]
    seen = (shown > 0) & (np.abs(shown - depth) < 0.15)
    assert seen.mean() > 0.3  # one side is hidden


def test_light_stays_where_it_is() -> None:
    """A side has the same colour from wherever it is seen."""
    scene = Scene(
        BOX * np.float32(0.9), FACES,
        lambda face, place, normal: np.full((len(face), 3), 0.5, np.float32),
        Light(np.array([0.0, -0.6, 0.8]), 0.6, 0.3),
    )  # fmt: skip
    lens = np.array([60.0, 60, 31.5, 31.5], np.float32)
    seen = set()
    for azimuth in (-30, 0, 30):
        # The middle of the front side, y = -0.9, from three places.
        pose = scenes.looking_in(azimuth, 10, 4)
        matrix = projections(pose[None], lens[None])[0]
        x, y, depth = matrix @ [0, -0.9, 0, 1]
        picture = scenes.rendered(scene, pose, lens, 64).picture
        seen.add(tuple(picture[round(y / depth), round(x / depth)].tolist()))
    assert len(seen) == 1


def test_cameras_see_the_whole_shape() -> None:
    rng = scenes.generator_of("cameras")
    poses, lens = scenes.cameras(rng, 1.5, 64)
    assert poses.shape == (scenes.VIEWS, 4, 4)
    np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1, atol=1e-5)
    for pose, camera in zip(poses, lens, strict=True):
        matrix = projections(pose[None], camera[None])[0]
        x, y, depth = matrix @ [0, 0, 0, 1]
        np.testing.assert_allclose([x / depth, y / depth], [31.5, 31.5], atol=1e-4)
        angle = math.asin(1.5 / depth)  # of the sphere that the shape is in
        assert math.degrees(angle) < math.degrees(math.atan(32 / camera[0]))
    elevations = np.degrees(np.arcsin(poses[:, 2, 2]))
    assert (np.ptp(elevations[:18].reshape(3, 6), axis=1) < 1e-3).all()


def test_renderings_go_on_and_come_back(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderings, "SHARD", 2)
    place = data / "renders"

    def make(variants: int = 2) -> None:
        renderings.make(
            data / "shapes.ffs", data / "shapes.ffc", place, "train", 16, 1, lambda *_: None,
            variants=variants, generated_shapes=3,
        )  # fmt: skip

    make()
    found = renderings.load(place, "train", 16)
    names = [Record(Shape("test#train", "", "", "", ""), variant).name for variant in (0, 1)]
    assert sorted(found.names) == sorted([*names, *(f"generated#{k} 0" for k in range(3))])
    scene = found.scene(3, [5, 2])
    whole = found.scene(3)
    assert scene.images.shape == (2, 16, 16, 4)
    np.testing.assert_array_equal(scene.images, whole.images[[5, 2]])
    np.testing.assert_array_equal(scene.poses, found.poses(3)[[5, 2]])
    assert whole.depths is not None
    # Centres of pixels that show something have depth.
    assert (whole.depths[whole.images[..., 3] == 255] > 0).all()
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    for path in place.glob("*-00001.*"):
        path.unlink()
    make()
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    with pytest.raises(BadInput, match="variants"):
        make(3)


def test_sides_are_kept_apart(data: Path) -> None:
    catalogue = Catalogue(data / "shapes.ffs", data / "shapes.ffc", 1200)
    ids = {side: {r.shape.id for r in catalogue.records(side, 3)} for side in scenes.SIDES}
    assert not ids["train"] & ids["validation"]
    assert not ids["train"] & ids["test"]
    assert len(catalogue.records("test", 3)) == len(ids["test"])  # no variants of these
    with pytest.raises(BadInput, match="reserved"):
        catalogue.records("reserved")


def test_files_of_colours_that_are_none(data: Path) -> None:
    path = data / "shapes.ffc"
    whole = path.read_bytes()
    for content, words in ((b"what", "no colours"), (whole[:-9], "damaged")):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=words):
            colours.read(path)
    path.unlink()
    with pytest.raises(BadInput, match="missing"):
        colours.read(path)


# ------------------------------------------------------------------------------- others' pictures


def some(views: int = 6, size: tuple[int, int] = (24, 32)) -> PosedImages:
    """Of a white box in the middle of a world of another place and scale."""
    scene = Scene(
        BOX * np.float32(0.9), FACES,
        lambda face, place, normal: np.ones((len(face), 3), np.float32),
        Light(np.array([0.0, 0.0, 1.0]), 0.5, 0.5),
    )  # fmt: skip
    lens = np.array([40.0, 40, 15.5, 15.5], np.float32)
    poses = np.stack([scenes.looking_in(60 * k, 25, 4) for k in range(views)])
    seen = [scenes.rendered(scene, pose, lens, 32) for pose in poses]
    posed = PosedImages(
        np.stack([view.picture for view in seen])[:, 4:28],
        poses,
        np.tile(lens - np.array([0, 0, 0, 4], np.float32), (views, 1)),
        tuple(f"v{k}" for k in range(views)),
        np.stack([view.depth for view in seen])[:, 4:28],
    )
    assert posed.images.shape[1:3] == size
    return sources.moved(posed, np.array([-1.0, 2.0, 0.5]), 3.0)


def test_folders_come_centred_squared_and_reduced(tmp_path: Path) -> None:
    write_transforms(tmp_path / "a_white_box", some())
    found = sources.Folders(tmp_path, 12)
    assert len(found) == 1
    assert found.caption(0) == "a white box"
    assert found.views(0) == 6
    assert found.has_depth
    posed = found.scene(0, [4, 1])
    assert posed.images.shape == (2, 12, 12, 4)
    np.testing.assert_array_equal(posed.poses, found.poses(0)[[4, 1]])
    # The middle of the world is that of the box; the pictures show it in their middles.
    matrix = projections(posed.poses, posed.intrinsics)
    for one in matrix:
        x, y, depth = one @ [0, 0, 0, 1]
        np.testing.assert_allclose([x / depth, y / depth], [5.5, 5.5], atol=1e-3)
    # What was 16 of 32 pixels to each side at the middle is the square root of two now.
    np.testing.assert_allclose(np.linalg.norm(posed.poses[:, :3, 3], axis=1),
                               math.sqrt(2) * 40 / 16, rtol=1e-3)  # fmt: skip
    # Depth is of the same world as the cameras.
    assert posed.depths is not None
    scale = math.sqrt(2) * 40 / 16 / 4
    near = posed.depths[posed.depths > 0].min() / scale
    assert 2.4 < near < 3.2


def test_cameras_that_look_at_nothing_in_common_are_refused() -> None:
    posed = some()
    posed.poses[:, :3, :3] = posed.poses[0, :3, :3]
    with pytest.raises(BadInput, match="no place in common"):
        sources.centred_on_sight(posed)
    turned = some()
    turned.poses[:, :3, 1:3] *= -1
    with pytest.raises(BadInput, match="away"):
        sources.centred_on_sight(turned)


def test_no_folders(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"transforms\.json"):
        sources.Folders(tmp_path, 12)


def co3d(folder: Path, tilt: np.ndarray) -> PosedImages:
    """Write the scene of `some` as a sequence of the category "box", its world turned by `tilt`.
    Returns it as it was."""
    posed = some()
    frames = []
    (folder / "box" / "one").mkdir(parents=True)
    for number in range(len(posed)):
        rotation = tilt @ posed.poses[number, :3, :3] @ np.diag([-1.0, 1, -1])
        centre = tilt @ posed.poses[number, :3, 3]
        fx, fy, cx, cy = posed.intrinsics[number].tolist()
        image = f"box/one/{number}.png"
        mask = f"box/one/{number}-mask.png"
        Image.fromarray(posed.images[number, ..., :3]).save(folder / image)
        Image.fromarray(posed.images[number, ..., 3]).save(folder / mask)
        frames.append(
            {
                "sequence_name": "one",
                "frame_number": number,
                "image": {"path": image, "size": [24, 32]},
                "mask": {"path": mask},
                "viewpoint": {
                    "R": rotation.tolist(),
                    "T": (-rotation.T @ centre).tolist(),
                    "focal_length": [fx / 16, fy / 12],
                    "principal_point": [(16 - cx - 0.5) / 16, (12 - cy - 0.5) / 12],
                    "intrinsics_format": "ndc_norm_image_bounds",
                },
            }
        )
    cloud = (BOX * 0.9 - np.array([-1.0, 2.0, 0.5])) * 3 @ tilt.T
    rows = "\n".join(" ".join(f"{value:.6f}" for value in point) for point in cloud)
    header = (
        f"ply\nformat ascii 1.0\nelement vertex {len(cloud)}\nproperty float x\nproperty float y\n"
        "property float z\nend_header\n"
    )
    (folder / "box" / "one" / "cloud.ply").write_text(header + rows + "\n")
    sequences = [{"sequence_name": "one", "point_cloud": {"path": "box/one/cloud.ply"}}]
    for name, content in (("frame", frames), ("sequence", sequences)):
        with gzip.open(folder / "box" / f"{name}_annotations.jgz", "wt") as file:
            json.dump(content, file)
    return posed


def test_co3d_comes_upright_in_the_middle_at_its_size(tmp_path: Path) -> None:
    angle = 0.6
    tilt = np.array(
        [[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]]
    )
    co3d(tmp_path, tilt)
    found = sources.Co3d(tmp_path, "box", 24)
    assert len(found) == 1
    assert found.views(0) == 6
    posed = found.scene(0, [0, 2])
    np.testing.assert_allclose(posed.poses, found.poses(0)[[0, 2]], atol=1e-6)
    assert posed.images.shape == (2, 24, 24, 4)
    # All cameras are at one height again. The box, turned about the upright axis, is 2 wide.
    places = found.poses(0)[:, :3, 3]
    away = np.linalg.norm(places, axis=1)
    np.testing.assert_allclose(places[:, 2] / away, math.sin(math.radians(25)), rtol=1e-3)
    scale = away[0] / 4
    assert 2 / 1.8 / math.sqrt(2) <= scale <= 2 / 1.8
    matrix = projections(posed.poses, posed.intrinsics)
    for one, picture in zip(matrix, posed.images, strict=True):
        x, y, depth = one @ [0, 0, 0.9 * scale, 1]  # the middle of the top
        expected = away[0] - 0.9 * scale * math.sin(math.radians(25))
        np.testing.assert_allclose(depth, expected, rtol=1e-3)
        assert picture[round(y / depth), round(x / depth), 3] == 255
        assert picture[0, 0, 3] == 0


def test_co3d_with_its_backgrounds(tmp_path: Path) -> None:
    co3d(tmp_path, np.eye(3))
    kept = sources.Co3d(tmp_path, "box", 24, cut_out=False).scene(0)
    cut = sources.Co3d(tmp_path, "box", 24).scene(0)
    assert (kept.images[..., 3] == 255).all() if kept.images.shape[-1] == 4 else True
    assert (cut.images[..., 3] == 0).any()
    shown = cut.images[..., 3] == 255
    np.testing.assert_array_equal(kept.images[..., :3][shown], cut.images[..., :3][shown])
    np.testing.assert_allclose(kept.poses, cut.poses)


def test_co3d_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        sources.Co3d(tmp_path, "box", 24)
