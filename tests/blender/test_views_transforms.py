"""transforms.json: what is written is what is read, and what other tools write is understood."""

import json
import math
import struct
import zlib

import bpy
import numpy as np
import pytest
from bpy_extras.object_utils import world_to_camera_view
from fieldforge.backend.errors import BadInput
from fieldforge.backend.protocol import ring_poses
from fieldforge.blender_addon import compose, session, sources
from fieldforge.blender_addon.panorama import textures
from fieldforge.blender_addon.views import cameras, transforms
from mathutils import Matrix, Vector
from scenes import select

SIZE = (48, 32)
POINTS = np.random.default_rng(5).uniform(-0.5, 0.5, (5, 3))


@pytest.fixture
def folder(extension, tmp_path):
    """Pictures in a folder."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        image = bpy.data.images.new("x", *SIZE)
        values = np.ones((SIZE[1], SIZE[0], 4), np.float32)
        values[..., 0], values[:, :5, 1] = number / 5, 0
        image.pixels.foreach_set(values.ravel())
        image.filepath_raw, image.file_format = str(tmp_path / "images" / f"{number}.png"), "PNG"
        image.save()
        bpy.data.images.remove(image)
    bpy.context.scene.render.resolution_x, bpy.context.scene.render.resolution_y = 400, 300
    return tmp_path


def poses() -> np.ndarray:
    return np.asarray(ring_poses(4, 25, 5.0, 20), np.float64)


def write(folder, **more):
    """As nerfstudio writes it; principal points from the corner of the first pixel."""
    frames = [
        {"file_path": f"images/{number}.png", "transform_matrix": pose.tolist()}
        for number, pose in enumerate(poses())
    ]
    content = {"w": 48, "h": 32, "fl_x": 60.0, "fl_y": 60.0, "cx": 20.0, "cy": 18.0}
    content |= {"frames": frames} | more
    content = {name: value for name, value in content.items() if value is not None}
    (folder / "transforms.json").write_text(json.dumps(content))


def load(folder, **options):
    return bpy.ops.fieldforge.import_transforms(filepath=str(folder), **options)


def made() -> list[bpy.types.Object]:
    bpy.context.view_layer.update()
    return cameras.in_order(bpy.context.scene.fieldforge.cameras_of.objects)


def projected(camera) -> np.ndarray:
    """(P, 2) pixels of POINTS in the picture, of which a render of 400 x 300 shows the width: a
    picture of 3:2 in a frame of 4:3 is as wide as that."""
    scene = bpy.context.scene
    seen = np.array([world_to_camera_view(scene, camera, Vector(point)) for point in POINTS])
    off = (seen[:, :2] - 0.5) * [400, -300] * SIZE[0] / 400
    return off + (np.array(SIZE) - 1) / 2


def expected(pose, focal=60.0, centre=(20.0, 18.0)) -> np.ndarray:
    x, y, z = ((POINTS - pose[:3, 3]) @ pose[:3, :3]).T
    return np.stack([centre[0] - 0.5 - focal * x / z, centre[1] - 0.5 + focal * y / z], axis=1)


def test_cameras_of_a_file_see_what_it_says(folder):
    write(folder)
    assert load(folder) == {"FINISHED"}
    found = made()
    assert [camera.name for camera in found] == ["0", "1", "2", "3"]
    for number, (camera, pose) in enumerate(zip(found, poses(), strict=True)):
        assert np.abs(projected(camera) - expected(pose)).max() < 1e-3
        image = camera.data.background_images[0].image
        assert tuple(image.size) == SIZE
        assert round(image.pixels[0] * 5) == number
        assert image.packed_file is None
    assert bpy.context.view_layer.objects.active == found[0]


def test_pictures_can_be_packed(folder):
    write(folder)
    assert load(folder / "transforms.json", pack=True) == {"FINISHED"}
    assert all(camera.data.background_images[0].image.packed_file for camera in made())


def test_a_field_of_view_and_names_without_suffix_are_enough(folder):
    """As NeRF's synthetic scenes have it."""
    none = dict.fromkeys(("w", "h", "fl_x", "fl_y", "cx", "cy"))
    frames = [
        {"file_path": f"./images/{number}", "transform_matrix": pose.tolist()}
        for number, pose in enumerate(poses())
    ]
    write(folder, **none, camera_angle_x=0.7, frames=frames)
    assert load(folder) == {"FINISHED"}
    focal = 24 / math.tan(0.35)
    for camera, pose in zip(made(), poses(), strict=True):
        assert np.abs(projected(camera) - expected(pose, focal, (24, 16))).max() < 1e-3


def test_opencv_axes_are_turned_over(folder):
    turned = poses() @ np.diag([1.0, -1, -1, 1])
    frames = [
        {"file_path": f"images/{number}.png", "transform_matrix": pose.tolist()}
        for number, pose in enumerate(turned)
    ]
    write(folder, frames=frames)
    assert load(folder) == {"CANCELLED"}
    notice = session.jobs().notices[0]
    assert "look away" in notice.cause
    assert "OpenCV" in notice.remedy
    assert not bpy.data.cameras
    assert load(folder, axes="OPENCV") == {"FINISHED"}
    for camera, pose in zip(made(), poses(), strict=True):
        assert np.allclose(camera.matrix_world, pose, atol=1e-6)


def test_what_was_exported_comes_back(folder, tmp_path):
    write(folder)
    load(folder)
    before = [(np.array(each.matrix_world), projected(each)) for each in made()]
    target = tmp_path / "out"
    target.mkdir()
    assert bpy.ops.fieldforge.export_transforms(filepath=str(target / "new.json")) == {"FINISHED"}
    written = json.loads((target / "new.json").read_text())
    assert (written["w"], written["h"]) == SIZE
    assert written["camera_angle_x"] == pytest.approx(2 * math.atan(24 / 60), rel=1e-6)
    for frame, pose in zip(written["frames"], poses(), strict=True):
        assert np.allclose(frame["transform_matrix"], pose, atol=1e-6)
        numbers = [frame[name] for name in ("fl_x", "fl_y", "cx", "cy")]
        assert np.allclose(numbers, [60, 60, 20, 18], atol=1e-4)
    assert load(target / "new.json") == {"FINISHED"}
    for camera, (matrix, pixels) in zip(made(), before, strict=True):
        assert np.allclose(camera.matrix_world, matrix, atol=1e-6)
        assert np.abs(projected(camera) - pixels).max() < 1e-3
    for number in range(4):
        first = (folder / "images" / f"{number}.png").read_bytes()
        assert (target / "images" / f"{number}.png").read_bytes() == first


def test_the_views_that_are_selected_are_exported(folder, tmp_path):
    """Whatever collection the field still names."""
    write(folder)
    load(folder)
    first = made()
    load(folder)
    assert made() != first
    select(first[2])
    assert bpy.ops.fieldforge.export_transforms(filepath=str(tmp_path / "a.json")) == {"FINISHED"}
    frames = json.loads((tmp_path / "a.json").read_text())["frames"]
    assert len(frames) == 4
    first[3].location.x += 1
    bpy.context.view_layer.update()
    select(first[3], first[1])
    assert bpy.ops.fieldforge.export_transforms(filepath=str(tmp_path / "b.json")) == {"FINISHED"}
    frames = json.loads((tmp_path / "b.json").read_text())["frames"]
    written = [np.array(frame["transform_matrix"]) for frame in frames]
    assert np.allclose(written, [first[1].matrix_world, first[3].matrix_world], atol=1e-6)


def test_cameras_without_a_picture_are_written_as_they_render(extension, tmp_path):
    """For tools that read renders of Blender's."""
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = 640, 360
    data = bpy.data.cameras.new("Shot")
    data.lens, data.sensor_width, data.shift_x = 50, 36, 0.1
    camera = bpy.data.objects.new("Shot", data)
    scene.collection.objects.link(camera)
    camera.matrix_world = Matrix(poses()[1].tolist())
    painted = bpy.data.objects.new("Painted", bpy.data.cameras.new("Painted"))
    scene.collection.objects.link(painted)
    image = bpy.data.images.new("Painted", 8, 8)
    image.pixels[0:4] = (1.0, 0.5, 0.0, 1.0)
    cameras.show_behind(painted.data, image, cameras.Backdrop(8, 8))
    select(camera, painted)
    path = tmp_path / "transforms.json"
    assert bpy.ops.fieldforge.export_transforms(filepath=str(path)) == {"FINISHED"}
    frames = {frame["file_path"]: frame for frame in json.loads(path.read_text())["frames"]}
    shot = frames["images/Shot.png"]
    assert shot["fl_x"] == pytest.approx(50 / 36 * 640, rel=1e-6)
    assert shot["cx"] == pytest.approx(320 - 64, abs=1e-3)
    assert (shot["w"], shot["h"]) == (640, 360)
    painting = bpy.data.images.load(str(tmp_path / "images" / "Painted.png"))
    assert np.allclose(painting.pixels[:], image.pixels[:], atol=1 / 255)
    assert np.allclose(painting.pixels[:4], (1, 0.5, 0, 1), atol=1 / 255)
    assert not (tmp_path / "images" / "Shot.png").exists()


def mirrored(frames):
    for frame in frames:
        frame["transform_matrix"] = (
            np.array(frame["transform_matrix"]) @ np.diag([1.0, 1, -1, 1])
        ).tolist()


def without(name):
    def change(frames):
        for frame in frames:
            frame.pop(name)

    return change


def sheared(frames):
    frames[2]["transform_matrix"][0][0] += 0.5


@pytest.mark.parametrize(
    ("change", "more", "cause", "remedy"),
    [
        (mirrored, {}, "frame 1: the axes of the camera are mirrored", "one axis was negated"),
        (sheared, {}, "frame 3: the axes of the camera are sheared", "Apply the scale"),
        (without("transform_matrix"), {}, "has no matrix", "transform_matrix"),
        (without("file_path"), {}, "names no picture", "file_path"),
        (None, {"fl_x": None, "fl_y": None}, "neither a focal length", "camera_angle_x"),
        (None, {"fl_x": -3.0}, "not positive", "Export"),
        (None, {"k1": 0.2}, "bends straight lines", "Undistort"),
        (None, {"h": 40}, "was cropped|its camera", "uncropped"),
        (None, {"frames": []}, "no frames", "Export"),
        (None, {"frames": None}, "no list of frames", "NeRF"),
        (None, {"cx": "left"}, "cx is no number", "Export"),
    ],
)
def test_files_that_make_no_sense_are_refused_and_leave_nothing(
    folder, change, more, cause, remedy
):
    write(folder, **more)
    if change:
        content = json.loads((folder / "transforms.json").read_text())
        change(content["frames"])
        (folder / "transforms.json").write_text(json.dumps(content))
    before = [len(each) for each in (bpy.data.images, bpy.data.collections)]
    assert load(folder) == {"CANCELLED"}
    notice = session.jobs().notices[0]
    assert any(part in notice.cause for part in cause.split("|")), notice
    assert remedy in notice.remedy
    assert not bpy.data.cameras
    assert [len(each) for each in (bpy.data.images, bpy.data.collections)] == before


def test_missing_pictures_and_files_are_named(folder):
    write(folder)
    (folder / "images" / "2.png").unlink()
    with pytest.raises(BadInput, match=r"frame 3.*there is no picture"):
        transforms.read(folder)
    (folder / "transforms.json").write_text("{")
    with pytest.raises(BadInput, match="no JSON"):
        transforms.read(folder)
    (folder / "transforms.json").unlink()
    with pytest.raises(BadInput, match="There is no file"):
        transforms.read(folder)


def test_few_digits_are_no_shear(folder):
    """Files are often written with four digits."""
    frames = [
        {"file_path": f"images/{number}.png", "transform_matrix": np.round(pose, 3).tolist()}
        for number, pose in enumerate(poses())
    ]
    write(folder, frames=frames)
    for file, pose in zip(transforms.read(folder), poses(), strict=True):
        assert np.allclose(file.pose[:3, :3] @ file.pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.abs(file.pose - pose).max() < 2e-3


def test_imported_cameras_are_a_source_of_a_mesh(folder):
    write(folder)
    load(folder)
    settings = bpy.context.scene.fieldforge
    settings.source = "SCENE_VIEWS"
    captured = sources.capture(bpy.context, {"id": ""})
    task, placement = compose.compose(captured, compose.Choices("", 256))
    assert task.images.shape == (4, SIZE[1], SIZE[0], 4)
    assert np.allclose(task.intrinsics, [60, 60, 19.5, 17.5], atol=1e-3)
    world = task.poses.astype(float)
    world[:, :3, 3] += placement.matrix_world[:3, 3]
    assert np.allclose(world, poses(), atol=1e-5)


# ------------------------------------------------------------------- what the file may not do to us


def change(folder, number=1, **fields):
    """Change a frame of the file."""
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][number] |= fields
    (folder / "transforms.json").write_text(json.dumps(content))


def test_a_mark_at_the_beginning_is_no_harm(folder):
    """Editors on Windows write one."""
    write(folder)
    path = folder / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(folder) == {"FINISHED"}


HUGE = 10**400


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"fl_x": HUGE}, "fl_x is no number"),
        ({"fl_x": 1e31}, "fl_x is no number"),
        ({"transform_matrix": [[HUGE] * 4] * 4}, "has no matrix"),
        ({"transform_matrix": [[1e31, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}, "has no matrix"),
        ({"fl_x": 1e-9, "fl_y": 1e-9}, "is impossible"),
        ({"file_path": "x" * 5000}, "there is no picture"),
        ({"file_path": "a\0b"}, "there is no picture"),
        ({"file_path": "/"}, "there is no picture"),
        ({"file_path": "//host/share/0.png"}, "is on another computer"),
        ({"file_path": "\\\\host\\share\\0.png"}, "is on another computer"),
        ({"mask_path": "//host/share/0.png"}, "is on another computer"),
        ({"depth_file_path": "//host/share/0.exr"}, "is on another computer"),
        ({"k5": 0.3}, "bends straight lines"),
        ({"k6": 0.3}, "bends straight lines"),
        ({"camera_angle_y": 4.0}, "is impossible"),
        ({"depth_file_path": "images/0.png", "depth_unit_scale_factor": -1}, "unit of depth"),
    ],
)
def test_what_no_camera_or_file_can_be_is_refused_in_words(folder, fields, cause):
    write(folder)
    change(folder, **fields)
    assert load(folder) == {"CANCELLED"}
    assert cause in session.jobs().notices[0].cause
    assert not bpy.data.cameras


def test_another_computer_is_not_asked(folder, monkeypatch):
    """It would be told who asks."""
    asked = []
    monkeypatch.setattr(transforms.os.path, "isfile", lambda path: asked.append(path) or True)
    write(folder)
    change(folder, 0, file_path="//host/share/0.png")
    with pytest.raises(BadInput):
        transforms.read(folder)
    assert not asked


def test_a_path_that_is_too_long_is_said(folder):
    assert load("/" + "x" * 5000) == {"CANCELLED"}
    assert "There is no file" in session.jobs().notices[0].cause


def test_a_field_of_view_upwards_is_enough(folder):
    none = dict.fromkeys(("w", "h", "fl_x", "fl_y", "cx", "cy"))
    write(folder, **none, camera_angle_y=0.7)
    assert load(folder) == {"FINISHED"}
    focal = 16 / math.tan(0.35)
    assert np.abs(projected(made()[0]) - expected(poses()[0], focal, (24, 16))).max() < 1e-3


# ---------------------------------------------------------------------------------- masks and depth

DEPTH = (1 + np.arange(SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0]) / 500).astype(np.float32)
DEPTH[:3] = 0


def png_of_16_bits(values):
    """(H, W) uint16 as a file."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", *values.shape[::-1], 16, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def stored_depth(folder, kind, unit):
    """Write DEPTH as a file of a kind; its name."""
    steps = DEPTH / unit
    if kind == "exr":
        steps[:3] = 1e10  # as Blender's own pass has nothing
        (folder / "depth.exr").write_bytes(textures.exr(steps[..., None].astype(np.float32), "Y"))
    elif kind == "png":
        (folder / "depth.png").write_bytes(png_of_16_bits(np.rint(steps).astype(np.uint16)))
    else:
        np.save(folder / "depth.npy", steps)
    return f"depth.{kind}"


def task_of_views():
    settings = bpy.context.scene.fieldforge
    settings.source = "SCENE_VIEWS"
    captured = sources.capture(bpy.context, {"id": ""})
    return compose.compose(captured, compose.Choices("", 256))[0]


@pytest.mark.parametrize(
    ("kind", "unit", "told"),
    [
        ("png", 1e-3, {}),
        ("png", 1e-4, {"depth_unit_scale_factor": 1e-4}),
        ("npy", 1e-3, {}),
        ("exr", 1.0, {}),
        ("exr", 0.5, {"integer_depth_scale": 0.5}),
    ],
)
def test_depth_of_a_file_goes_to_the_mesh(folder, kind, unit, told):
    write(folder, **told)
    change(folder, 1, depth_file_path=stored_depth(folder, kind, unit))
    images = len(bpy.data.images)
    assert load(folder) == {"FINISHED"}
    assert len(bpy.data.images) == images + 5  # four pictures, one of depth
    task = task_of_views()
    assert np.allclose(task.depths[1], DEPTH, atol=unit if kind == "png" else 1e-6)
    assert not task.depths[[0, 2, 3]].any()


def test_depth_that_blender_does_not_read_is_refused(folder):
    """Of channels of other names it shows zeros, or its own memory."""
    write(folder)
    change(folder, 0, depth_path="depth.exr")
    before = len(bpy.data.images)
    values = np.ones((SIZE[1], SIZE[0], 1), np.float32)
    whole = textures.exr(values, ["Y"])
    small = textures.exr(values[:4], ["Y"])
    for data, cause in (
        (textures.exr(values, ["Z"]), "is in a channel"),
        (whole[:-20], "damaged"),
        (b"no picture", "damaged"),
        (small, "pixels, its picture 48 x 32"),
    ):
        (folder / "depth.exr").write_bytes(data)
        assert load(folder) == {"CANCELLED"}
        assert cause in session.jobs().notices[0].cause
    change(folder, 0, depth_path="depth.npy")
    (folder / "depth.npy").write_bytes(b"nothing")
    assert load(folder) == {"CANCELLED"}
    assert "not an array" in session.jobs().notices[0].cause
    assert len(bpy.data.images) == before
    assert not bpy.data.cameras


def test_a_mask_becomes_what_is_seen_through(folder):
    write(folder)
    mask = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    mask[4:20, 6:30] = 255
    (folder / "mask.png").write_bytes(textures.png(mask))
    change(folder, 2, mask_path="mask.png")
    assert load(folder) == {"FINISHED"}
    task = task_of_views()
    assert np.array_equal(task.images[2, ..., 3], mask[..., 0])
    assert (task.images[[0, 1, 3], ..., 3] == 255).all()
    whole = np.rint(255 * pictured(folder / "images" / "2.png")[::-1, :, :3])
    seen = mask[..., 0] == 255
    assert np.array_equal(task.images[2][seen, :3], whole[seen])
    (folder / "mask.png").write_bytes(textures.png(mask[:9]))
    before = [len(each) for each in (bpy.data.images, bpy.data.cameras)]
    assert load(folder) == {"CANCELLED"}
    assert "the mask has another size" in session.jobs().notices[0].cause
    assert [len(each) for each in (bpy.data.images, bpy.data.cameras)] == before


def pictured(path) -> np.ndarray:
    image = bpy.data.images.load(str(path))
    width, height = image.size
    values = np.array(image.pixels[:]).reshape(height, width, 4)
    bpy.data.images.remove(image)
    return values


def test_depth_and_masks_survive_an_export(folder, tmp_path):
    write(folder)
    mask = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    mask[4:20] = 255
    (folder / "mask.png").write_bytes(textures.png(mask))
    change(folder, 1, depth_file_path=stored_depth(folder, "npy", 1e-3), mask_path="mask.png")
    load(folder)
    path = tmp_path / "out" / "transforms.json"
    path.parent.mkdir()
    assert bpy.ops.fieldforge.export_transforms(filepath=str(path)) == {"FINISHED"}
    written = json.loads(path.read_text())
    names = [frame.get("depth_file_path") for frame in written["frames"]]
    assert names == [None, "depths/1.npy", None, None]
    assert written["depth_unit_scale_factor"] == 1e-3
    assert np.allclose(np.load(path.parent / "depths" / "1.npy"), 1000 * DEPTH, rtol=1e-6)
    load(path)
    task = task_of_views()
    assert np.allclose(task.depths[1], DEPTH, rtol=1e-6)
    assert np.array_equal(task.images[1, ..., 3], mask[..., 0])


# ------------------------------------------------------------------------------------ what is there


def export(path):
    assert bpy.ops.fieldforge.export_transforms(filepath=str(path)) == {"FINISHED"}
    return json.loads(path.read_text())["frames"]


def test_one_is_asked_before_a_file_is_overwritten(extension):
    asks = bpy.ops.fieldforge.export_transforms.get_rna_type().properties["check_existing"]
    assert asks.default
    assert asks.is_hidden
    assert asks.is_skip_save


def test_cameras_whose_names_differ_in_signs_have_a_file_each(folder, tmp_path):
    write(folder)
    load(folder)
    found = made()
    for camera, name in zip(found, ("Cam.001", "Cam_001", "cam.001", "Cam 001"), strict=True):
        camera.name = name
    path = tmp_path / "out.json"
    files = [frame["file_path"] for frame in export(path)]
    assert len({file.lower() for file in files}) == 4
    for camera, file in zip(found, files, strict=True):
        source = bpy.path.abspath(camera.data.background_images[0].image.filepath)
        with open(source, "rb") as before:
            assert (tmp_path / file).read_bytes() == before.read()


def test_pictures_of_others_are_not_overwritten(folder, tmp_path):
    """Of another list of cameras beside it, and those that this Blender file shows."""
    write(folder)
    load(folder)
    found = made()
    others = {path: path.read_bytes() for path in (folder / "images").iterdir()}
    found[0].name, found[1].name = "was 0", "was 1"
    found[0].name, found[1].name = "1", "0"
    frames = export(tmp_path / "second.json")
    assert {path: path.read_bytes() for path in others} == others
    assert (tmp_path / frames[0]["file_path"]).read_bytes() == others[folder / "images" / "0.png"]
    # Once more: its own files are replaced, not multiplied.
    before = sorted((tmp_path / "images").iterdir())
    assert export(tmp_path / "second.json") == frames
    assert sorted((tmp_path / "images").iterdir()) == before
    assert export(tmp_path / "transforms.json")
    assert {path: path.read_bytes() for path in others} == others


def test_a_dot_in_a_name_is_no_suffix(folder, tmp_path):
    write(folder)
    load(folder)
    (tmp_path / "scan.json").write_text("mine")
    bpy.ops.fieldforge.export_transforms(filepath=str(tmp_path / "scan.v2"))
    assert (tmp_path / "scan.json").read_text() == "mine"
    assert (tmp_path / "scan.v2.json").is_file()


def test_a_list_that_cannot_be_written_leaves_the_earlier_one(folder, tmp_path, monkeypatch):
    write(folder)
    load(folder)
    path = tmp_path / "out" / "list.json"
    path.parent.mkdir()
    export(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transforms.Path, "replace", full)
    assert bpy.ops.fieldforge.export_transforms(filepath=str(path)) == {"CANCELLED"}
    assert "No space left" in session.jobs().notices[0].cause
    assert path.read_bytes() == before
    assert not list(path.parent.rglob("*.unfinished"))
