"""Blender's cameras and intrinsics: both project every point to the same place."""

import bpy
import numpy as np
import pytest
from bpy_extras.object_utils import world_to_camera_view
from fieldforge.backend.errors import BadInput
from fieldforge.blender_addon.views import cameras, lenses
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mathutils import Euler, Vector

PIXEL = 1e-3
FITS = ["AUTO", "HORIZONTAL", "VERTICAL"]
METHODS = ["STRETCH", "FIT", "CROP"]
share = st.floats(0, 1, allow_nan=False)
shifts = st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
frames = st.builds(
    lenses.Frame,
    st.integers(16, 1000),
    st.integers(16, 1000),
    st.sampled_from([1.0, 1.5, 2.0]),
    st.sampled_from([1.0, 1.25]),
)
lens_settings = st.builds(
    lambda focal, width, height, fit, shift: lenses.Lens(focal, width, height, fit, *shift),
    st.floats(14, 120),
    st.floats(8, 60),
    st.floats(8, 60),
    st.sampled_from(FITS),
    shifts,
)
relaxed = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def camera_with(lens: lenses.Lens, frame: lenses.Frame, turn=(0.3, 0.1, 0.7), scale=1.0):
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = frame.width, frame.height
    scene.render.pixel_aspect_x, scene.render.pixel_aspect_y = frame.aspect_x, frame.aspect_y
    camera = bpy.data.objects.get("Probe")
    if camera is None:
        camera = bpy.data.objects.new("Probe", bpy.data.cameras.new("Probe"))
        scene.collection.objects.link(camera)
    data = camera.data
    data.lens, data.sensor_fit = lens.focal, lens.fit
    data.sensor_width, data.sensor_height = lens.sensor_width, lens.sensor_height
    data.shift_x, data.shift_y = lens.shift_x, lens.shift_y
    camera.rotation_euler, camera.scale = Euler(turn), (scale,) * 3
    camera.location = (0.4, -0.2, 0.3)
    bpy.context.view_layer.update()
    return camera


def in_the_frame(camera, intrinsics, frame: lenses.Frame, seed: int) -> np.ndarray:
    """(P, 3) points of the world that are seen somewhere in the picture."""
    rng = np.random.default_rng(seed)
    pixel = rng.uniform(0, [frame.width - 1, frame.height - 1], (4, 2))
    depth = rng.uniform(0.5, 3, 4)
    fx, fy, cx, cy = intrinsics
    local = np.stack([(pixel[:, 0] - cx) / fx, (cy - pixel[:, 1]) / fy, -np.ones(4)], axis=1)
    pose = cameras.pose_of(camera)
    return (local * depth[:, None]) @ pose[:3, :3].T + pose[:3, 3]


def ours(pose, intrinsics, points) -> np.ndarray:
    """(P, 2) pixels of (P, 3) points of the world."""
    fx, fy, cx, cy = intrinsics
    x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).T
    return np.stack([cx - fx * x / z, cy + fy * y / z], axis=1)


def theirs(camera, points, frame: lenses.Frame) -> np.ndarray:
    """(P, 2) pixels, as Blender's own code says."""
    scene = bpy.context.scene
    seen = np.array([world_to_camera_view(scene, camera, Vector(point)) for point in points])
    return np.stack([seen[:, 0] * frame.width - 0.5, (1 - seen[:, 1]) * frame.height - 0.5], axis=1)


@relaxed
@given(lens_settings, frames, st.integers(0, 1000))
def test_blender_s_camera_and_its_intrinsics_agree(empty_scene, lens, frame, seed):
    camera = camera_with(lens, frame, scale=1.0 + seed % 3)
    read, found = cameras.lens_of_camera(camera), cameras.frame_of(bpy.context.scene)
    assert found == frame
    intrinsics = lenses.intrinsics_of(read, found)
    points = in_the_frame(camera, intrinsics, frame, seed)
    seen = ours(cameras.pose_of(camera), intrinsics, points)
    assert np.abs(seen - theirs(camera, points, frame)).max() < PIXEL


@relaxed
@given(lens_settings, frames)
def test_intrinsics_are_those_of_blender_s_projection_matrix(empty_scene, lens, frame):
    camera = camera_with(lens, frame)
    aspect = {"scale_x": frame.aspect_x, "scale_y": frame.aspect_y}
    depsgraph = bpy.context.evaluated_depsgraph_get()
    size = {"x": frame.width, "y": frame.height}
    matrix = np.array(camera.calc_matrix_camera(depsgraph, **size, **aspect))
    across, down = matrix[0] * frame.width / 2, matrix[1] * frame.height / 2
    expected = [across[0], down[1], (frame.width - 1) / 2 - across[2]]
    expected.append((frame.height - 1) / 2 + down[2])
    found = lenses.intrinsics_of(cameras.lens_of_camera(camera), frame)
    assert np.allclose(found, expected, rtol=3e-6, atol=3e-4)


@relaxed
@given(lens_settings, frames, st.integers(1, 700))
def test_a_square_picture_has_all_of_the_frame_in_it(lens, frame, side):
    """Along the longer side it ends where the frame does."""
    whole = lenses.intrinsics_of(lens, frame)
    square = lenses.intrinsics_of_square(lens, frame, side)
    assert square[0] == pytest.approx(square[1])  # square pixels, whatever those of the render
    corners = np.array([[-0.5, -0.5], [frame.width - 0.5, frame.height - 0.5]])
    ways = (corners - whole[2:]) / whole[:2]
    placed = ways * square[:2] + square[2:]
    assert placed.min() >= -0.5 - 1e-6 * side
    assert placed.max() <= side - 0.5 + 1e-6 * side
    spans = placed[1] - placed[0]
    assert spans.max() == pytest.approx(side)
    assert np.allclose(placed.mean(axis=0), (side - 1) / 2)


@relaxed
@example(lenses.Frame(16, 16), 8, 181, 1.0, 0.625, (0.0, 0.0))  # a lens of less than 1 mm
@example(lenses.Frame(640, 360), 640, 360, 300.0, 1.0, (0.0, 0.0))  # of more than 5 m
@given(
    frames, st.integers(8, 900), st.integers(8, 900), st.floats(0.4, 4), st.floats(0.6, 1.6), shifts
)
def test_a_camera_made_of_intrinsics_has_them(empty_scene, frame, width, height, zoom, ratio, off):
    intrinsics = np.array([zoom * width, zoom * width * ratio, 0, 0])
    intrinsics[2:] = (np.array([width, height]) - 1) / 2 + np.array(off) * [width, height]
    camera = camera_with(lenses.Lens(50.0), frame)
    place = cameras.frustum_of(camera.data, intrinsics, (width, height), frame)
    image = bpy.data.images.new("view", width, height)
    cameras.show_behind(camera.data, image, place)
    view = cameras.view_of(camera)
    found = lenses.intrinsics_of_backdrop(cameras.lens_of_camera(camera), frame, view.place)
    assert np.abs(found - intrinsics).max() < 2e-6 * max(intrinsics.max(), 500)
    assert view.image == image
    bpy.data.images.remove(image)


@relaxed
@given(lens_settings, frames, st.integers(8, 400), st.integers(8, 400))
def test_a_stretched_picture_is_the_render(lens, frame, width, height):
    """Whatever its size, it fills the frame."""
    render = lenses.intrinsics_of(lens, frame)
    place = lenses.Backdrop(width, height, method="STRETCH")
    found = lenses.intrinsics_of_backdrop(lens, frame, place)
    scale = np.array([width / frame.width, height / frame.height] * 2)
    half = np.array([0, 0, 0.5, 0.5])
    assert np.allclose(found, (render + half) * scale - half, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_of_the_frame_s_shape_is_the_render_in_every_way(method):
    lens, frame = lenses.Lens(35.0, shift_x=0.1, shift_y=-0.2), lenses.Frame(320, 180)
    found = lenses.intrinsics_of_backdrop(lens, frame, lenses.Backdrop(320, 180, method=method))
    assert np.allclose(found, lenses.intrinsics_of(lens, frame))


def test_a_square_picture_in_a_wide_frame_fits_its_height_or_fills_its_width():
    lens, frame = lenses.Lens(36.0, 36.0), lenses.Frame(200, 100)
    fit = lenses.intrinsics_of_backdrop(lens, frame, lenses.Backdrop(50, 50, method="FIT"))
    crop = lenses.intrinsics_of_backdrop(lens, frame, lenses.Backdrop(50, 50, method="CROP"))
    assert fit[:2].tolist() == [100.0, 100.0]  # 50 pixels where the render has 100 of its 200
    assert crop[:2].tolist() == [50.0, 50.0]
    twice = lenses.Backdrop(50, 50, method="FIT", scale=2.0)
    assert lenses.intrinsics_of_backdrop(lens, frame, twice)[:2].tolist() == [50.0, 50.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda camera: setattr(camera.data, "type", "ORTHO"), "not a perspective camera"),
        (lambda camera: setattr(camera.data, "type", "PANO"), "not a perspective camera"),
    ],
)
def test_cameras_without_a_plain_picture_are_refused_by_name(empty_scene, change, words):
    camera = camera_with(lenses.Lens(50.0), lenses.Frame(64, 64))
    change(camera)
    with pytest.raises(BadInput, match=words) as caught:
        cameras.lens_of_camera(camera)
    assert "Probe" in caught.value.cause
    assert "Type" in caught.value.remedy


@pytest.mark.parametrize("scale", [(-1, 1, 1), (1, 1, -2), (0, 1, 1)])
def test_mirrored_and_flat_cameras_are_refused(empty_scene, scale):
    camera = camera_with(lenses.Lens(50.0), lenses.Frame(64, 64))
    camera.scale = scale
    bpy.context.view_layer.update()
    with pytest.raises(BadInput, match=r"Probe is mirrored|Probe has a scale of zero"):
        cameras.pose_of(camera)


def test_a_sheared_camera_is_refused(empty_scene):
    camera = camera_with(lenses.Lens(50.0), lenses.Frame(64, 64), turn=(0.5, 0.5, 0.5))
    parent = bpy.data.objects.new("Parent", None)
    bpy.context.scene.collection.objects.link(parent)
    camera.parent, parent.scale = parent, (3, 1, 1)
    bpy.context.view_layer.update()
    with pytest.raises(BadInput, match="sheared"):
        cameras.pose_of(camera)


def test_background_images_that_no_camera_sees_so_are_refused(empty_scene):
    camera = camera_with(lenses.Lens(50.0), lenses.Frame(64, 64))
    assert cameras.view_of(camera) is None
    image = bpy.data.images.new("view", 8, 8)
    background = cameras.show_behind(camera.data, image, lenses.Backdrop(8, 8))
    assert cameras.view_of(camera).place == lenses.Backdrop(8, 8)
    background.rotation = 0.1
    with pytest.raises(BadInput, match="turned or mirrored"):
        cameras.view_of(camera)
    background.rotation, background.use_flip_x = 0.0, True
    with pytest.raises(BadInput, match="turned or mirrored"):
        cameras.view_of(camera)
    background.use_flip_x, background.show_background_image = False, False
    assert cameras.view_of(camera) is None
