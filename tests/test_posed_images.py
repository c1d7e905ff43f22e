"""Pictures with cameras as files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.conditions.exr_writing import exr_bytes
from backend.errors import BadInput, NotFound, TooLarge
from backend.posed_images import (
    PosedImages,
    checked_pose,
    read_transforms,
    reduced_picture,
    write_transforms,
)


def pose(azimuth: float, distance: float = 3.0) -> np.ndarray:
    """A camera on the horizon that looks at the middle of the world."""
    c, s = math.cos(azimuth), math.sin(azimuth)
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = [c, s, 0], [0, 0, 1], [s, -c, 0]
    matrix[:3, 3] = matrix[:3, 2] * distance
    return matrix


def some(views: int = 3, channels: int = 4, depth: bool = True) -> PosedImages:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (views, 12, 16, channels)).astype(np.uint8)
    if channels == 4:
        images[..., 3] = rng.choice([0, 128, 255], (views, 12, 16))
    return PosedImages(
        images,
        np.stack([pose(0.7 * view) for view in range(views)]),
        np.tile(np.array([20.25, 21.5, 7.5, 5.5], np.float32), (views, 1)),
        tuple(f"view.{view}" for view in range(views)),
        rng.uniform(1, 4, (views, 12, 16)).astype(np.float32) if depth else None,
    )


def write(folder: Path, content: dict[str, Any], images: int = 1) -> Path:
    for index in range(images):
        Image.fromarray(some().images[index, ..., :3]).save(folder / f"r_{index}.png")
    path = folder / "transforms.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


def frame(**changes: Any) -> dict[str, Any]:
    return {"file_path": "./r_0", "transform_matrix": pose(0).tolist(), **changes}


@pytest.mark.parametrize(("channels", "depth"), [(3, False), (4, True)])
def test_what_is_written_comes_back(tmp_path: Path, channels: int, depth: bool) -> None:
    posed = some(channels=channels, depth=depth)
    path = write_transforms(tmp_path / "out", posed)
    back = read_transforms(path)
    np.testing.assert_array_equal(back.images, posed.images)
    np.testing.assert_allclose(back.poses, posed.poses, atol=1e-6)
    np.testing.assert_allclose(back.intrinsics, posed.intrinsics, rtol=1e-6)
    assert back.names == posed.names
    assert (back.depths is None) == (not depth)
    if depth:
        assert back.depths is not None
        assert posed.depths is not None
        np.testing.assert_allclose(back.depths, posed.depths, rtol=1e-6)
    assert read_transforms(tmp_path / "out").names == posed.names  # the folder will do


def test_the_classic_synthetic_file(tmp_path: Path) -> None:
    """One angle for all, names without a suffix, the principal point in the middle."""
    path = write(tmp_path, {"camera_angle_x": 0.6911112, "frames": [frame()]})
    posed = read_transforms(path)
    focal = 8 / math.tan(0.6911112 / 2)
    np.testing.assert_allclose(posed.intrinsics, [[focal, focal, 7.5, 5.5]], rtol=1e-6)
    np.testing.assert_array_equal(posed.images[0], some().images[0, ..., :3])
    np.testing.assert_array_equal(posed.poses[0], pose(0))


def test_a_point_lands_on_the_pixel_that_shows_it(tmp_path: Path) -> None:
    """The principal point of the file is in the middle of the picture, between two pixels."""
    content = {"fl_x": 20, "fl_y": 20, "cx": 8, "cy": 6, "w": 16, "h": 12, "frames": [frame()]}
    posed = read_transforms(write(tmp_path, content))
    fx, fy, cx, cy = posed.intrinsics[0]
    point = np.linalg.inv(posed.poses[0]) @ [0.15, 0.0, 0.3, 1.0]  # 3 in front, right and up
    u, v = cx + fx * point[0] / -point[2], cy - fy * point[1] / -point[2]
    np.testing.assert_allclose([u, v], [7.5 + 1.0, 5.5 - 2.0], atol=1e-5)


def test_values_of_a_frame_go_before_those_of_the_file(tmp_path: Path) -> None:
    frames = [frame(), frame(file_path="r_1.png", fl_x=30.0, cx=7.0)]
    posed = read_transforms(write(tmp_path, {"fl_x": 20, "frames": frames}, images=2))
    np.testing.assert_allclose(posed.intrinsics, [[20, 20, 7.5, 5.5], [30, 30, 6.5, 5.5]])


def test_cameras_of_larger_pictures_are_scaled(tmp_path: Path) -> None:
    content = {"fl_x": 40, "cx": 17, "cy": 12, "w": 32, "h": 24, "frames": [frame()]}
    posed = read_transforms(write(tmp_path, content))
    np.testing.assert_allclose(posed.intrinsics, [[20, 20, 8.0, 5.5]])
    with pytest.raises(BadInput, match="cropped"):
        read_transforms(write(tmp_path, {**content, "h": 32}))


def test_reduced_to_a_longest_side(tmp_path: Path) -> None:
    write_transforms(tmp_path, some())
    posed = read_transforms(tmp_path, longest=8)
    assert posed.images.shape == (3, 6, 8, 4)
    np.testing.assert_allclose(posed.intrinsics[0], [10.125, 10.75, 3.5, 2.5])
    assert posed.depths is not None
    whole = read_transforms(tmp_path).depths
    assert whole is not None
    np.testing.assert_array_equal(posed.depths, whole[:, 1::2, 1::2])


def test_clear_pixels_lend_no_colour_to_reduced_ones() -> None:
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[0, 0] = [200, 100, 50, 255]
    np.testing.assert_array_equal(reduced_picture(picture, 1, 1), [[[200, 100, 50, 64]]])


def test_views_are_taken_evenly(tmp_path: Path) -> None:
    write_transforms(tmp_path, some(views=7))
    assert read_transforms(tmp_path, most=3).names == ("view.0", "view.3", "view.6")


def test_mirrored_axes_are_explained(tmp_path: Path) -> None:
    mirrored = pose(0)
    mirrored[:, 0] *= -1
    path = write(tmp_path, {"fl_x": 9, "frames": [frame(transform_matrix=mirrored.tolist())]})
    with pytest.raises(BadInput) as found:
        read_transforms(path)
    assert "mirrored" in found.value.cause
    assert "frame 1" in found.value.cause
    assert "-z" in found.value.remedy


def test_missing_intrinsics_are_explained_and_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path, {"frames": [frame()]})
    with pytest.raises(BadInput) as found:
        read_transforms(path)
    assert "field of view" in found.value.cause
    assert "camera_angle_x" in found.value.remedy
    posed = read_transforms(path, field=90)
    np.testing.assert_allclose(posed.intrinsics, [[8, 8, 7.5, 5.5]], rtol=1e-6)


def test_the_scale_of_a_camera_does_not_count(tmp_path: Path) -> None:
    scaled = pose(0.4)
    scaled[:3, :3] *= 2.5
    found = checked_pose(scaled, "here")
    np.testing.assert_allclose(found, pose(0.4), atol=1e-6)
    scaled[:3, 0] *= 2
    with pytest.raises(BadInput, match="stretched"):
        checked_pose(scaled, "here")
    del tmp_path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transform_matrix": [[1, 2], [3, 4]]}, "no matrix"),
        ({"transform_matrix": np.full((4, 4), np.nan).tolist()}, "no matrix"),
        ({"transform_matrix": np.zeros((4, 4)).tolist()}, "no length"),
        ({"fl_x": "wide"}, "no number"),
        ({"fl_x": -3}, "not positive"),
        ({"fl_x": None, "camera_angle_x": 40}, "impossible"),
        ({"camera_model": "OPENCV_FISHEYE"}, "bends"),
        ({"k1": 0.2}, "distortion"),
        ({"file_path": ""}, "names no picture"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = write(tmp_path, {"frames": [frame(**{"fl_x": 20, **changes})]})
    with pytest.raises(BadInput, match=words) as found:
        read_transforms(path)
    assert found.value.remedy


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file"):
        read_transforms(tmp_path)
    path = tmp_path / "transforms.json"
    for text, words in (("{", "no JSON"), ("[]", "no list"), ('{"frames": []}', "no frames")):
        path.write_text(text, "utf-8")
        with pytest.raises(BadInput, match=words):
            read_transforms(path)
    with pytest.raises(NotFound, match="no picture"):
        read_transforms(write(tmp_path, {"fl_x": 20, "frames": [frame(file_path="gone.png")]}))


def test_pictures_of_several_sizes_and_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"fl_x": 20, "frames": [frame(), frame(file_path="other.png")]}
    path = write(tmp_path, content)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "other.png")
    with pytest.raises(BadInput, match="several sizes: 8 x 8, 16 x 12"):
        read_transforms(path)
    monkeypatch.setattr("backend.posed_images.MOST_PIXELS", 200)
    with pytest.raises(TooLarge, match="more than"):
        read_transforms(path)


def test_masks_and_depth_of_integers(tmp_path: Path) -> None:
    mask = np.zeros((12, 16), np.uint8)
    mask[3:9, 4:12] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    depth = np.zeros((12, 16), np.uint16)
    depth[mask > 0] = 2500
    Image.fromarray(depth).save(tmp_path / "depth.png")
    content = {
        "fl_x": 20,
        "frames": [frame(mask_path="mask.png", depth_file_path="depth.png")],
    }
    posed = read_transforms(write(tmp_path, content))
    np.testing.assert_array_equal(posed.images[0, ..., 3], mask)
    assert posed.depths is not None
    np.testing.assert_allclose(posed.depths[0], np.where(mask > 0, 2.5, 0))


def test_names_that_cannot_be_files_are_refused(tmp_path: Path) -> None:
    posed = some(views=2)
    for names in (("a", "a"), ("a", "../b"), ("a", "")):
        with pytest.raises(BadInput, match="name"):
            write_transforms(tmp_path, PosedImages(posed.images, posed.poses,
                                                   posed.intrinsics, names))  # fmt: skip
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------- files that are no good


@pytest.mark.parametrize("name", ["/", ".", "./", "..", "a\0b", "x" * 5000], ids=range(6))
def test_names_that_no_file_has(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"camera_angle_x": 0.7, "frames": [frame(file_path=name)]})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match="no picture") as caught:
        read_transforms("transforms.json")
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["//server/share/a.png", r"\\server\share\a.png"])
@pytest.mark.parametrize("key", ["file_path", "mask_path", "depth_file_path"])
def test_no_other_computer_is_asked(key: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path, {"camera_angle_x": 0.7, "frames": [frame(**{key: name})]})
    with pytest.raises(BadInput, match="another computer"):
        read_transforms(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fl_x", 1e300),
        ("fl_x", 1e-300),
        ("fl_x", 10**400),
        ("cx", 1e300),
        ("cy", -(10**400)),
        ("camera_angle_x", 1e-310),
        ("transform_matrix", [[10**400] * 4] * 4),
        ("transform_matrix", [[1e308] * 4] * 4),
    ],
)
def test_numbers_that_no_camera_has(key: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, {"camera_angle_x": 0.7, "frames": [frame(**{key: value})]})
    with pytest.raises(BadInput, match="frame 1") as caught:
        read_transforms(path)
    assert caught.value.remedy


@pytest.mark.parametrize("unit", [0, -0.001])
def test_units_of_depth_are_above_0(unit: float, tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.full((12, 16), 2000, np.uint16))
    content = {"camera_angle_x": 0.7, "depth_unit_scale_factor": unit}
    path = write(tmp_path, {**content, "frames": [frame(depth_file_path="d.npy")]})
    with pytest.raises(BadInput, match="unit of depth"):
        read_transforms(path)


@pytest.mark.parametrize(("told", "unit"), [({}, 1.0), ({"depth_unit_scale_factor": 0.01}, 0.01)])
def test_depth_in_exr_is_in_units_of_the_world(
    told: dict[str, float], unit: float, tmp_path: Path
) -> None:
    depth = np.linspace(1.5, 4.0, 12 * 16, dtype=np.float32).reshape(12, 16)
    depth[0], depth[1], depth[2] = 1e10, 65504.0, np.inf  # as 32 bits, as 16 bits, as others do
    (tmp_path / "d.exr").write_bytes(exr_bytes(depth))
    content = {"camera_angle_x": 0.7, **told, "frames": [frame(depth_file_path="d.exr")]}
    posed = read_transforms(write(tmp_path, content))
    assert posed.depths is not None
    assert (posed.depths[0, :3] == 0).all()
    np.testing.assert_allclose(posed.depths[0, 3:], depth[3:] * unit, rtol=1e-6)
    (tmp_path / "d.exr").write_bytes(exr_bytes(depth)[:200])
    with pytest.raises(BadInput, match="damaged"):
        read_transforms(tmp_path)


def test_where_blenders_depth_pass_has_nothing_is_nothing(tmp_path: Path) -> None:
    depth = np.full((12, 16), 2.5, np.float32)
    depth[:4] = 1e10
    np.save(tmp_path / "d.npy", depth)
    content = {"camera_angle_x": 0.7, "depth_unit_scale_factor": 1.0}
    posed = read_transforms(
        write(tmp_path, {**content, "frames": [frame(depth_file_path="d.npy")]})
    )
    assert posed.depths is not None
    assert (posed.depths[0, :4] == 0).all()
    assert (posed.depths[0, 4:] == 2.5).all()


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, {"camera_angle_x": 0.7, "frames": [frame()]})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_transforms(path)) == 1


@pytest.mark.parametrize("name", ["../a", r"..\a", "C:a", "a/b"])
def test_nothing_is_written_outside_the_folder(name: str, tmp_path: Path) -> None:
    posed = some(1)
    outside = PosedImages(posed.images, posed.poses, posed.intrinsics, (name,), posed.depths)
    with pytest.raises(BadInput, match="name of its own"):
        write_transforms(tmp_path / "views", outside)
    assert not list(tmp_path.iterdir())
