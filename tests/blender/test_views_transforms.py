"""transforms.json: what is written is what is read, and what other tools write is understood."""

import json
import math

import bpy
import numpy as np
import pytest
from bpy_extras.object_utils import world_to_camera_view
from fieldforge.backend.errors import BadInput
from fieldforge.backend.protocol import ring_poses
from fieldforge.blender_addon import session
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
    from fieldforge.blender_addon import compose, sources

    captured = sources.capture(bpy.context, {"id": ""})
    task, placement = compose.compose(captured, compose.Choices("", 256))
    assert task.images.shape == (4, SIZE[1], SIZE[0], 4)
    assert np.allclose(task.intrinsics, [60, 60, 19.5, 17.5], atol=1e-3)
    world = task.poses.astype(float)
    world[:, :3, 3] += placement.matrix_world[:3, 3]
    assert np.allclose(world, poses(), atol=1e-5)
