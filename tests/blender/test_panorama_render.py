"""Conventions, seen through Cycles: small pictures, one sample, the World and the sphere."""

from __future__ import annotations

import math

import bpy
import numpy as np
import pytest
import spheres
from fieldforge.blender_addon.panorama import stereo
from mathutils import Euler
from test_panorama_import import arrive, pixels_of

WIDTH = 128
AHEAD = (math.radians(90), 0.0, math.radians(-90))


@pytest.fixture
def quick(extension):
    """Cycles, one sample, colours as they are."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples = "CPU", 1
    scene.cycles.use_denoising = scene.cycles.use_adaptive_sampling = False
    scene.cycles.max_bounces = 0
    scene.cycles.pixel_filter_type = "BOX"
    scene.cycles.filter_width = 0.01
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.view_settings.view_transform = "Standard"
    scene.render.dither_intensity = 0
    return scene


def rendered(scene, path, width=WIDTH, height=WIDTH // 2) -> np.ndarray:
    """(height, width, 3) float32 in 0..1, row 0 at the top."""
    if scene.world is not None:  # to prepare it for many lights takes a minute
        scene.world.cycles.sampling_method = "NONE"
    scene.render.resolution_x, scene.render.resolution_y = width, height
    scene.render.resolution_percentage = 100
    scene.render.image_settings.file_format = "PNG"
    scene.render.filepath = str(path / "render.png")
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(scene.render.filepath)
    found = pixels_of(image)[..., :3].copy()
    bpy.data.images.remove(image)
    return found


def panoramic(scene, rotation=AHEAD) -> bpy.types.Object:
    camera = bpy.data.objects.new("Around", bpy.data.cameras.new("Around"))
    scene.collection.objects.link(camera)
    camera.rotation_euler = Euler(rotation)
    camera.data.type = "PANO"
    owner = camera.data if hasattr(camera.data, "panorama_type") else camera.data.cycles
    owner.panorama_type = "EQUIRECTANGULAR"
    scene.camera = camera
    return camera


def source() -> np.ndarray:
    return spheres.picture(WIDTH).astype(np.float32) / 255


def test_a_panoramic_camera_gives_the_picture_back(quick, tmp_path):
    arrive(spheres.sphere(WIDTH))
    panoramic(quick)
    seen = rendered(quick, tmp_path)
    assert np.abs(seen - source()).mean() < 0.01
    assert np.abs(seen - source()[:, ::-1]).mean() > 0.05  # mirrored it would be another one


def test_the_world_and_the_sphere_agree(quick, tmp_path):
    """Without a Mapping node; and with the sphere turned to the front view, both turn."""
    for ahead, turn in (("X", -90), ("Y", 0)):
        made = arrive(spheres.sphere(WIDTH), world=True, ahead=ahead)
        nodes = quick.world.node_tree.nodes
        assert any(node.type == "MAPPING" for node in nodes) == (ahead == "Y")
        panoramic(quick, (math.radians(90), 0.0, math.radians(turn)))
        with_sphere = rendered(quick, tmp_path)
        made[0].hide_render = True
        world_alone = rendered(quick, tmp_path)
        made[0].hide_render = False
        assert np.abs(with_sphere - source()).mean() < 0.01
        assert np.abs(world_alone - source()).mean() < 0.01
        assert np.abs(world_alone - with_sphere).max() < 0.3
        for item in made:
            bpy.data.objects.remove(item)


def test_the_camera_in_the_middle_sees_what_is_ahead_the_right_way_round(quick, tmp_path):
    _, camera = arrive(spheres.sphere(WIDTH))
    quick.camera = camera
    seen = rendered(quick, tmp_path, 96, 96)
    # What each of its pixels looks at, in the picture: 90 degrees wide.
    across = (np.arange(96) + 0.5) / 48 - 1
    right, down = np.meshgrid(across, across)
    phi, theta = -np.arctan(right), np.arctan2(-down, np.hypot(1, right))
    column = np.clip(np.floor((0.5 - phi / (2 * np.pi)) * WIDTH), 0, WIDTH - 1).astype(int)
    row = np.clip(np.floor((0.5 - theta / np.pi) * WIDTH / 2), 0, WIDTH / 2 - 1).astype(int)
    expected = source()[row, column]
    assert np.abs(seen - expected).mean() < 0.02
    assert np.abs(seen[:, ::-1] - expected).mean() > 0.04


def test_a_step_aside_shows_the_depth(quick, tmp_path):
    """From the middle no depth can be seen; from elsewhere the walls must be where they are."""
    arrive(spheres.sphere(WIDTH))
    eye = np.array([0.3, -0.4, 0.2])
    panoramic(quick).location = eye
    seen = rendered(quick, tmp_path)
    directions = spheres.directions_of(WIDTH)
    points = eye + directions * spheres.distances(directions, eye)[..., None]
    toward = points / np.linalg.norm(points, axis=-1, keepdims=True)
    expected = (70 + 60 * (1 + toward)) / 255
    plain = seen[..., 0] < 0.9  # all but the letter
    assert np.abs(seen - expected)[plain].mean() < 0.01
    assert np.abs(source() - expected)[plain].mean() > 0.03


def test_the_sphere_lets_the_light_of_the_world_through(quick, tmp_path):
    """What stands in the room is lit by the World; without it, by the walls that shine."""
    quick.cycles.max_bounces, quick.cycles.samples = 2, 16
    arrive(spheres.sphere(32), world=True)
    bpy.ops.mesh.primitive_ico_sphere_add(radius=0.2, location=(1, 0, 0), subdivisions=3)
    panoramic(quick)
    seen = rendered(quick, tmp_path, 64, 32)
    assert seen[16, 32].mean() > 0.2


@pytest.fixture
def eyes(quick):
    arrive(spheres.sphere(WIDTH))
    assert bpy.ops.fieldforge.stereo_camera(interocular=0.3) == {"FINISHED"}
    return quick


def test_one_click_sets_up_stereo(eyes):
    camera, render = eyes.camera, eyes.render
    assert camera.parent.name == "Room"
    assert camera.data.type == "PANO"
    owner = camera.data if hasattr(camera.data, "panorama_type") else camera.data.cycles
    assert owner.panorama_type == "EQUIRECTANGULAR"
    both = camera.data.stereo
    assert (both.use_spherical_stereo, both.pivot) == (True, "CENTER")
    assert (both.convergence_mode, both.use_pole_merge) == ("PARALLEL", True)
    assert both.interocular_distance == pytest.approx(0.3)
    assert (render.use_multiview, render.views_format) == (True, "STEREO_3D")
    output = render.image_settings
    assert output.views_format == "STEREO_3D"
    assert output.stereo_3d_format.display_mode == "TOPBOTTOM"
    assert (render.resolution_x, render.resolution_y) == (WIDTH, WIDTH // 2)
    assert (render.engine, eyes.cycles.samples) == ("CYCLES", 1)
    bpy.ops.fieldforge.stereo_camera(interocular=0.065)  # again: the same camera, set anew
    assert eyes.camera == camera
    assert both.interocular_distance == pytest.approx(0.065)


def test_stereo_without_a_sphere_begins_at_the_cursor(extension):
    scene = bpy.context.scene
    scene.cursor.location = (1, 2, 3)
    assert bpy.ops.fieldforge.stereo_camera() == {"FINISHED"}
    assert tuple(scene.camera.location) == (1, 2, 3)
    assert scene.camera.parent is None
    assert scene.render.resolution_x == stereo.DEFAULT_WIDTH


def striped(width: int) -> np.ndarray:
    """A panorama of upright stripes of chance, by which a column is known again elsewhere."""
    noise = np.random.default_rng(3).random(width)
    smooth = sum(np.roll(noise, shift) for shift in range(-2, 3))
    row = 255 * (smooth - smooth.min()) / np.ptp(smooth)
    return np.repeat(np.repeat(row[None, :, None], width // 2, axis=0), 3, axis=2).astype(np.uint8)


def test_the_eyes_see_the_parallax_of_the_depth(quick, tmp_path):
    """A wall at distance r moves between the eyes by 2 asin(i / 2 r), to the right in the left
    eye's picture, which is on top."""
    width, interocular = 512, 0.3
    arrive(spheres.sphere(width, image=striped(width)))
    bpy.ops.fieldforge.stereo_camera(interocular=interocular)
    quick.render.resolution_x, quick.render.resolution_y = width, width // 2
    seen = rendered(quick, tmp_path, width, width // 2)
    assert seen.shape == (width, width, 3)  # two full pictures, one above the other
    middle = width // 4
    left, right = seen[middle, :, 0], seen[width // 2 + middle, :, 0]
    for column in (width // 8, width // 4, width // 2, width * 3 // 4, width * 7 // 8):
        shifts = np.arange(-24, 25)
        window = np.arange(column - 20, column + 21)
        errors = [np.abs(left[(window + s) % width] - right[window % width]).mean() for s in shifts]
        found = shifts[int(np.argmin(errors))]
        between = (column + found // 2) % width  # the middle of both eyes sees it there
        distance = spheres.distances(spheres.directions_of(width))[middle, between]
        expected = 2 * math.asin(interocular / 2 / distance) / (2 * math.pi) * width
        assert abs(found - expected) <= 1.5, (column, found, expected)
    assert expected > 5


def test_looking_around_uses_the_camera_of_the_sphere(extension):
    with pytest.raises(RuntimeError, match="Select a sphere"):
        bpy.ops.fieldforge.look_around()
    front, camera = arrive()
    bpy.context.scene.camera = None
    assert bpy.ops.fieldforge.look_around() == {"FINISHED"}
    assert bpy.context.scene.camera == camera
    assert bpy.context.view_layer.objects.active == front
    assert not bpy.context.selected_objects  # whose outlines would hide the picture
