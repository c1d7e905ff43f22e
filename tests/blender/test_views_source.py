"""The sources about views: what the panel says, where cameras stand, and what is sent."""

import math
from pathlib import Path

import bpy
import numpy as np
import posed
import pytest
from driving import know_models
from fake_backend import MODELS
from fieldforge.backend import protocol
from fieldforge.backend.errors import BadInput
from fieldforge.backend.protocol import VIEW_DISTANCE, VIEW_FIELD, camera_poses, view_poses
from fieldforge.blender_addon import compose, model_choice, sources
from fieldforge.blender_addon.rasterizer import rasterize
from fieldforge.blender_addon.sources import cameras as seeing
from fieldforge.blender_addon.sources import offscreen
from fieldforge.blender_addon.views import captures, overlay, planning, source
from fieldforge.blender_addon.views.cameras import frame_of, frustum_of, show_behind
from mathutils import Matrix
from pages import draw
from scenes import cube, place_object, select

SIX = {
    "id": "six",
    "title": "Six",
    "tasks": ["views-to-mesh"],
    "samples": True,
    "ready": True,
    "views": 4,
    "view_kind": "image",
    "cameras": [3, 6, 10, 26],
}
WORDS = {
    "id": "four",
    "title": "Four",
    "tasks": ["text-to-views"],
    "samples": True,
    "ready": True,
    "cameras": [0, 6, 10, 26],
}

RING_OF_FOUR = [[90.0, 15.0], [180.0, 15.0], [270.0, 15.0], [0.0, 15.0]]
MVDREAM = {  # as the backend lists it
    "id": "mvdream-sd21",
    "title": "MVDream 4 views",
    "tasks": ["text-to-views"],
    "samples": True,
    "ready": True,
    "cameras": [],
    "own_views": RING_OF_FOUR,
    "ring": {"elevation": 15.0, "field": math.degrees(VIEW_FIELD), "radius": VIEW_DISTANCE},
    "view_size": 256,
}
ADAPTER = {
    "id": "mv-adapter-image",
    "title": "MV-Adapter 6 views",
    "family": "mv-adapter",
    "tasks": ["image-to-views"],
    "samples": True,
    "ready": True,
    "own_views": [[azimuth, 0.0] for azimuth in (0.0, 45.0, 90.0, 180.0, 270.0, 315.0)],
    "turns": True,
    "ring": {"elevation": 0.0, "field": 0.63, "radius": 200.0},
    "view_size": 512,
}


@pytest.fixture
def settings(running, fake):
    fake.models = [*MODELS, *posed.MODELS, SIX, WORDS, MVDREAM, ADAPTER]
    know_models(running)
    chosen = bpy.context.scene.fieldforge
    chosen.source, chosen.ring_count = "IMAGE_VIEWS", 5
    return chosen


def chosen(settings) -> dict:
    return model_choice.chosen_model(settings)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"views_picture": "IMAGE"}, True),
        ({"source": "TEXT_VIEWS"}, True),
        ({"views_picture": "IMAGE", "own_ring": True}, False),
        ({"source": "TEXT_VIEWS", "cameras_from": "SCENE"}, False),
        ({"views_picture": "VIEWPORT"}, False),
        ({"views_picture": "OBJECTS"}, False),
    ],
)
def test_a_model_with_its_own_cameras_says_where_others_are_asked_for(settings, changes, fits):
    for name, value in changes.items():
        setattr(settings, name, value)
    six = {"id": "a", "title": "Adapter", "family": "mv-adapter", "ready": True}
    found = model_choice.disabled_reason(settings, six)
    assert (found is None) == fits
    assert fits or ("Adapter" in found[0] and "another model" in found[1])


def facts(settings):
    return sources.facts(bpy.context, chosen(settings))


def task_of(settings, **choices):
    """(task, placement), validated."""
    model = chosen(settings)
    captured = sources.capture(bpy.context, model)
    return compose.compose(captured, compose.Choices(model["id"], 256, **choices))


def picture(width=24, height=16):
    image = bpy.data.images.new("Chair", width, height)
    values = np.ones((height, width, 4), np.float32)
    values[..., 0] = np.linspace(0, 1, width)
    image.pixels.foreach_set(values.ravel())
    bpy.context.scene.fieldforge.image = image
    return image


def shown(page) -> set[str]:
    return {name for kind, name in page.page if kind == "prop"}


# -------------------------------------------------------------------------------------------- panel


@pytest.mark.parametrize(
    ("changes", "there", "absent"),
    [
        (
            {"views_picture": "IMAGE"},
            {"image", "background", "ring_count", "ring_start", "result_size", "views_words"},
            {"ring_elevation", "known_views", "path_curve", "resolution", "variations", "prompt"},
        ),
        ({"own_ring": True}, {"ring_elevation", "ring_distance", "views_field"}, {"path_curve"}),
        ({"cameras_from": "PATH"}, {"path_curve", "path_look", "views_field"}, {"ring_start"}),
        ({"cameras_from": "SCENE"}, {"cameras_of"}, {"ring_count", "show_cameras"}),
        ({"views_picture": "OBJECTS"}, {"known_views", "seen_objects"}, {"image", "result_size"}),
        ({"views_picture": "VIEWPORT"}, {"ring_count"}, {"image", "cameras_from", "ring_start"}),
        (
            {"source": "TEXT_VIEWS"},
            {"prompt", "views_pixels", "views_sequence", "views_clip", "views_hold", "seed"},
            {"image", "views_picture", "background", "variations"},
        ),
        (
            {"source": "SCENE_VIEWS"},
            {"scene_from", "mesh_by", "scene_resolution", "scene_texture", "cameras_of"},
            {"resolution", "seed", "views_sequence", "hide_source"},
        ),
        (
            {"source": "SCENE_VIEWS", "scene_from": "OBJECTS"},
            {"seen_objects", "ring_count", "textured_views", "hide_source"},
            {"mesh_by", "background"},
        ),
    ],
)
def test_a_source_shows_its_own_fields_only(settings, changes, there, absent):
    for name, value in changes.items():
        setattr(settings, name, value)
    found = shown(draw())
    assert there <= found
    assert not absent & found


def test_a_model_with_cameras_of_its_own_is_not_asked_for_others(settings):
    settings.source, settings.prompt = "TEXT_VIEWS", "a chair"
    settings.model = "four"
    page = draw()
    assert "4 views, as the model makes them" in page.words()
    assert not {"ring_count", "ring_start", "ring_caps"} & shown(page)
    task, _ = task_of(settings)
    assert task.poses is None
    assert task.views == 0
    settings.own_ring = True
    assert "ring_count" in shown(draw())
    task, _ = task_of(settings)
    assert len(task.poses) == 5


def test_a_model_that_turns_begins_where_it_is_told(settings):
    picture()
    settings.views_picture, settings.model = "IMAGE", "mv-adapter-image"
    settings.ring_start = math.radians(30.0)
    page = draw()
    assert "6 views, as the model makes them" in page.words()
    assert "ring_start" in shown(page)
    assert not {"ring_count", "ring_caps"} & shown(page)
    task, _ = task_of(settings)
    assert (task.poses, task.views, task.caps, task.radius) == (None, 0, False, 0.0)
    assert math.isclose(task.start, 30.0, rel_tol=1e-5)
    assert len(task.images) == 1
    settings.views_pixels = 64
    assert task_of(settings)[0].size == 64  # is refused by the backend, not left out in silence
    settings.views_pixels = 0
    plan = planning.plan_of(bpy.context, chosen(settings))
    angles = [(azimuth + 30.0, 0.0) for azimuth, _ in ADAPTER["own_views"]]
    expected = camera_poses(angles, "z", 100.0 * plan.extent)
    assert np.allclose(plan.poses, expected, atol=1e-3)


def test_far_cameras_are_drawn_near_in_their_directions_and_none_as_known(settings):
    """In the place that they have, they are needles outside of what a viewport shows."""
    picture()
    settings.views_picture, settings.model = "IMAGE", "mv-adapter-image"
    plan = planning.plan_of(bpy.context, chosen(settings))
    lines = overlay.lines_of(plan)
    eyes = lines[:, 0]  # where the first line begins
    off = eyes - plan.middle
    distance = np.linalg.norm(off, axis=1)
    assert (distance < 3 * plan.extent).all()
    there = plan.poses[:, :3, 3] - plan.middle
    assert np.allclose(
        off / distance[:, None], there / np.linalg.norm(there, axis=1)[:, None], atol=1e-5
    )
    ahead = np.einsum("vji,vkj->vki", plan.poses[:, :3, :3], lines - eyes[:, None])
    field = np.abs(ahead[..., 0] / np.minimum(ahead[..., 2], -1e-9))[ahead[..., 2] < -1e-3].max()
    assert field == pytest.approx(math.tan(VIEW_FIELD / 2), rel=1e-3)
    assert overlay.known_lines(settings, chosen(settings), 6) == 0
    settings.model = "turner"
    assert overlay.known_lines(settings, chosen(settings), 5) == 1


def test_mvdream_makes_its_four_views_and_they_are_drawn_where_they_come_from(settings):
    settings.source, settings.prompt, settings.model = "TEXT_VIEWS", "a chair", "mvdream-sd21"
    bpy.context.scene.cursor.location = (1, 2, 3)
    assert facts(settings).text == "4 views, as the model makes them"
    task, _ = task_of(settings)
    assert (task.poses, task.views, task.start, task.caps) == (None, 0, 0.0, False)
    assert task.size == 0
    settings.views_pixels = 64
    assert task_of(settings)[0].size == 64  # is refused by the backend, not left out in silence
    settings.views_pixels = 0
    plan = planning.plan_of(bpy.context, chosen(settings))
    expected = camera_poses(RING_OF_FOUR, "z", VIEW_DISTANCE * plan.extent / 2)
    expected[:, :3, 3] += (1, 2, 3)
    assert np.allclose(plan.poses, expected)


def test_scene_cameras_ask_a_model_of_words_for_views_of_its_own_size(settings):
    settings.source, settings.prompt, settings.model = "TEXT_VIEWS", "a chair", "mvdream-sd21"
    eyes = [place_object(bpy.data.cameras.new("Eye"), f"Eye {number}") for number in range(2)]
    for number, eye in enumerate(eyes):
        eye.location, eye.rotation_euler = (number, -6, 0), (math.pi / 2, 0, 0)
    select(*eyes)
    settings.cameras_from = "SCENE"
    task, _ = task_of(settings)
    assert task.size == 256
    assert np.allclose(task.intrinsics[:, 2:], 127.5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "No image is chosen"),
        ({"source": "TEXT_VIEWS"}, "There is no text"),
        ({"views_picture": "VIEWPORT"}, "There is no 3D viewport"),
        ({"views_picture": "OBJECTS"}, "Nothing with a surface is selected"),
        ({"source": "SCENE_VIEWS"}, "No camera with a background image is chosen"),
        ({"source": "SCENE_VIEWS", "scene_from": "OBJECTS"}, "Nothing with a surface is selected"),
        ({"source": "TEXT_VIEWS", "prompt": "a", "cameras_from": "PATH"}, "No curve is chosen"),
        ({"source": "TEXT_VIEWS", "prompt": "a", "cameras_from": "SCENE"}, "No camera is chosen"),
        (
            {"source": "TEXT_VIEWS", "prompt": "a", "own_ring": True, "ring_distance": 0.5},
            "Camera 1 would be inside the thing",
        ),
    ],
)
def test_what_is_missing_is_said(settings, changes, reason):
    for name, value in changes.items():
        setattr(settings, name, value)
    found = facts(settings)
    assert found.reason.startswith(reason), found
    assert found.advice.endswith(".")
    assert reason in draw().words()
    with pytest.raises(BadInput):
        sources.capture(bpy.context, chosen(settings))


# ------------------------------------------------------------------------------------------- a ring


def test_the_model_s_own_ring_is_left_to_the_backend(settings):
    picture()
    settings.ring_start, settings.ring_caps, settings.result_size = math.radians(30), True, 0.9
    bpy.context.scene.cursor.location = (5, 6, 7)
    task, placement = task_of(settings)
    assert isinstance(task, protocol.ImageToViews)
    assert task.poses is None
    assert (task.views, task.start, task.caps) == (5, 30.0, True)
    assert task.extent == pytest.approx(1.0)
    assert (task.center, task.radius, task.field) == ((0.0, 0.0, 0.0), 0.0, 0.0)
    assert task.images.shape == (1, 16, 24, 4)
    assert np.allclose(placement.matrix_world[:3, 3], (5, 6, 7))
    assert "7 cameras; the first sees the picture" in facts(settings).text


def test_one_s_own_ring_is_sent_camera_by_camera(settings):
    picture()
    settings.own_ring, settings.ring_elevation = True, math.radians(-15)
    settings.ring_distance, settings.views_field = 7.0, math.radians(33)
    bpy.context.scene.cursor.location = (5, 6, 7)
    task, _ = task_of(settings)
    assert task.field == pytest.approx(33, abs=1e-4)
    places = task.poses[:, :3, 3].astype(float)
    assert np.allclose(np.linalg.norm(places, axis=1), 7, atol=1e-5)
    assert np.allclose(places[:, 2], -7 * math.sin(math.radians(15)), atol=1e-5)
    azimuth = np.degrees(np.arctan2(places[:, 0], -places[:, 1])) % 360
    assert np.allclose(azimuth, [0, 72, 144, 216, 288], atol=1e-4)
    assert np.allclose(-task.poses[:, :3, 2], -places / 7, atol=1e-5)  # they look at the middle


def test_all_of_the_thing_is_seen_unless_one_says_how_far(settings):
    """The corners of the cube that the thing fills, from every camera, at any field of view."""
    corners = np.stack(np.meshgrid(*[[-0.45, 0.45]] * 3), -1).reshape(-1, 3)
    for degrees in (15, 40, 80, 120):
        settings.views_field, settings.own_ring = math.radians(degrees), True
        plan = planning.ring_of(settings, {}, np.zeros(3), 1.0, 64)
        for pose in plan.poses:
            x, y, z = (corners @ pose[:3, :3] - pose[:3, 3] @ pose[:3, :3]).T
            reach = np.abs([x / z, y / z]).max()
            assert reach < math.tan(math.radians(degrees) / 2)
            assert z.max() < 0


def test_the_ring_is_around_what_is_selected(settings):
    picture()
    cube("Chair", (1, 2, 3), (4, 5, 6))
    bpy.context.view_layer.update()
    settings.views_around = "SELECTED"
    plan = planning.plan_of(bpy.context, chosen(settings))
    assert np.allclose(plan.middle, (4, 5, 6))
    assert plan.extent == pytest.approx(3 * 2 / 1.8)


def test_scene_cameras_take_a_picture_of_their_own_shape(settings):
    """A picture that is not square is set into the square of the first camera, nothing cut off."""
    image = picture(40, 20)
    items = []
    for number in range(3):
        camera = place_object(bpy.data.cameras.new("Eye"), f"Eye {number}")
        camera.location, camera.rotation_euler = (number - 1.0, -6, 0), (math.pi / 2, 0, 0)
        items.append(camera)
    select(*items)
    settings.cameras_from, settings.views_pixels = "SCENE", 64
    assert "3 cameras; the first (Eye 0) sees the picture" in facts(settings).text
    task, _ = task_of(settings)
    assert task.images.shape == (1, 64, 64, 4)
    assert task.intrinsics[0, 2] == pytest.approx(31.5)
    row = task.images[0, 32, :, 0].astype(int)
    assert row[0] < 10 < 245 < row[-1]  # from the left edge of the picture to the right
    assert (np.diff(row) >= 0).all()
    assert np.abs(task.images[0].astype(int) - task.images[0, 32]).max() <= 1
    assert image.size[0] == 40
    settings.views_pixels = 0  # however small the views are, the picture is sent in detail
    assert planning.plan_of(bpy.context, {"view_size": 64}).side == 512
    task, _ = task_of(settings)
    assert task.images.shape == (1, 512, 512, 4)
    assert task.size == 0


def test_a_path_is_followed_in_order(settings):
    picture()
    data = bpy.data.curves.new("Path", "CURVE")
    data.dimensions = "3D"
    spline = data.splines.new("POLY")
    spline.points.add(1)
    spline.points.foreach_set("co", [-6, -6, 1, 1, 6, -6, 1, 1])
    path = place_object(data, "Path")
    settings.cameras_from, settings.views_one_by_one = "PATH", True
    task, _ = task_of(settings)
    assert task.path
    assert np.allclose(task.poses[:, :3, 3], np.linspace([-6, -6, 1], [6, -6, 1], 5))
    assert task.field == pytest.approx(math.degrees(VIEW_FIELD), abs=1e-4)
    select()
    settings.path_curve = path
    assert not facts(settings).reason


# ---------------------------------------------------------------------------------- what is known


def test_objects_are_seen_by_the_first_cameras(settings):
    """By exact rays: where the task says that a camera is, the picture is what it sees."""
    cube("Box", (1.0, 0.6, 0.4), (10, 0, 0))
    settings.views_picture, settings.known_views, settings.views_pixels = "OBJECTS", 2, 64
    settings.ring_count = 4
    assert "4 cameras; the first sees the objects, 2 times" in facts(settings).text
    task, placement = task_of(settings)
    assert task.images.shape == (2, 64, 64, 4)
    assert len(task.poses) == 4
    assert np.allclose(placement.matrix_world[:3, 3], (10, 0, 0))
    half = np.array([0.5, 0.3, 0.2])
    for image, pose, lens in zip(task.images, task.poses, task.intrinsics, strict=False):
        fx, fy, cx, cy = lens.astype(float)
        x, y = np.meshgrid(np.arange(64), np.arange(64))
        local = np.stack([(x - cx) / fx, (cy - y) / fy, -np.ones_like(x, float)], axis=-1)
        ways, eye = local @ pose[:3, :3].T.astype(float), pose[:3, 3].astype(float)
        with np.errstate(divide="ignore"):
            near, far = (-half - eye) / ways, (half - eye) / ways
        first, last = np.minimum(near, far).max(-1), np.maximum(near, far).min(-1)
        assert np.array_equal(image[..., 3] > 0, last >= first)
    assert 0.05 < (task.images[..., 3] > 0).mean() < 0.6
    settings.known_views = 4
    assert "leave none to make" in facts(settings).reason


def test_rebuilding_sends_colours_without_light_and_depth(settings):
    box = cube("Box", (1.0, 0.6, 0.4), (2, 3, 4))
    paint = bpy.data.materials.new("Red")
    paint.diffuse_color = (1.0, 0.0, 0.0, 1.0)
    box.data.materials.append(paint)
    other = cube("Other", location=(2, 3, 4.5))
    select(box)
    settings.source, settings.scene_from = "SCENE_VIEWS", "OBJECTS"
    settings.ring_caps, settings.views_pixels, settings.scene_resolution = True, 64, "128"
    assert "Box, seen by 7 cameras" in facts(settings).text
    task, placement = task_of(settings)
    assert isinstance(task, protocol.ViewsToScene)
    assert (task.resolution, task.texture) == (128, True)
    assert task.extent == pytest.approx(2 / 1.8)
    seen = task.images[..., 3] == 255
    assert np.array_equal(seen, task.depths > 0)
    assert (task.images[seen] == (255, 0, 0, 255)).all()
    for image, depth, pose, lens in zip(
        task.images, task.depths, task.poses, task.intrinsics, strict=True
    ):
        fx, fy, cx, cy = lens.astype(float)
        row, column = np.nonzero(depth)
        local = np.stack([(column - cx) / fx, (cy - row) / fy, -np.ones(len(row))], axis=1)
        points = (local * depth[row, column, None]) @ pose[:3, :3].T + pose[:3, 3]
        off = np.abs(points) - [0.5, 0.3, 0.2]
        assert np.abs(off.max(axis=1)).max() < 1e-4  # on the surface of the box
        assert image.shape == (64, 64, 4)
    assert np.allclose(placement.matrix_world[:3, 3], (2, 3, 4))
    assert other.visible_get()
    assert sources.source_objects(bpy.context) == [box]


def test_every_face_has_the_colour_of_its_material(settings):
    """Also where several objects share a mesh and have materials of their own."""
    box = cube("Box", (1.0, 1.0, 1.0))
    for number, color in enumerate([(1, 0, 0, 1), (0, 1, 0, 1)]):
        paint = bpy.data.materials.new(f"Paint {number}")
        paint.diffuse_color = color
        box.data.materials.append(paint)
    box.data.polygons.foreach_set("material_index", [0, 0, 0, 0, 1, 1])  # below, above: green
    select(box)
    settings.source, settings.scene_from = "SCENE_VIEWS", "OBJECTS"
    settings.ring_caps, settings.views_pixels, settings.own_ring = True, 64, True
    settings.ring_elevation = 0.0
    task, _ = task_of(settings)
    for image, depth, pose, lens in zip(
        task.images, task.depths, task.poses, task.intrinsics, strict=True
    ):
        fx, fy, cx, cy = lens.astype(float)
        row, column = np.nonzero(depth)
        local = np.stack([(column - cx) / fx, (cy - row) / fy, -np.ones(len(row))], axis=1)
        points = (local * depth[row, column, None]) @ pose[:3, :3].T + pose[:3, 3]
        inside = np.sort(np.abs(points), axis=1)[:, 1] < 0.49  # not at an edge
        green = np.abs(np.abs(points[:, 2]) - 0.5) < 1e-3
        seen = image[row, column]
        assert (seen[inside & green] == (0, 255, 0, 255)).all()
        assert (seen[inside & ~green] == (255, 0, 0, 255)).all()
    other = box.copy()
    bpy.context.scene.collection.objects.link(other)
    other.location.x, other.material_slots[0].link = 3, "OBJECT"
    blue = bpy.data.materials.new("Blue")
    blue.diffuse_color = (0, 0, 1, 1)
    other.material_slots[0].material = blue
    select(box, other)
    images = task_of(settings)[0].images
    colors = {tuple(color) for color in images[images[..., 3] > 0][:, :3].tolist()}
    assert colors == {(255, 0, 0), (0, 255, 0), (0, 0, 255)}


def test_the_viewport_is_the_first_camera_and_goes_around_the_middle(settings, monkeypatch):
    """A region whose view and projection are known: the square in its middle is what is sent."""
    from types import SimpleNamespace

    eye = np.array(Matrix.Translation((3, -6, 2)) @ Matrix.Rotation(1.3, 4, "X"))
    projection = np.diag([1.2, 2.4, -1.0, 0.0])
    projection[0, 2], projection[1, 2], projection[3, 2], projection[2, 3] = 0.1, -0.05, -1, -0.2
    view = SimpleNamespace(view_matrix=np.linalg.inv(eye), window_matrix=projection)
    region = SimpleNamespace(width=800, height=400)
    space = SimpleNamespace(region_3d=view)
    found = (space, region)
    monkeypatch.setattr(planning, "viewport", lambda context: found)
    monkeypatch.setattr(seeing, "viewport", lambda context: found)
    monkeypatch.setattr(offscreen, "available", lambda context: True)
    asked = {}

    def drawn(context, view, projection, size, shading=""):
        asked.update(view=view, projection=projection, size=size)
        return np.full((*size, 4), 255, np.uint8), np.zeros(size, np.float32)

    monkeypatch.setattr(offscreen, "draw", drawn)
    settings.views_picture, settings.views_pixels = "VIEWPORT", 80
    bpy.context.scene.cursor.location = (0.5, 0.5, 0)
    task, placement = task_of(settings)
    assert len(task.poses) == 5
    assert task.images.shape == (1, 80, 80, 4)
    middle = placement.matrix_world[:3, 3]
    assert np.allclose(middle, (0.5, 0.5, 0))
    first = task.poses[0].astype(float)
    first[:3, 3] += middle
    assert np.allclose(first, eye, atol=1e-6)
    assert np.allclose(asked["view"], np.linalg.inv(eye), atol=1e-6)
    # The same point is on the same place of the region and of the picture that was drawn.
    point = eye @ [0.1, -0.15, -4, 1]
    clip = projection @ np.linalg.inv(eye) @ point
    region_pixel = (clip[:2] / clip[3] + 1) / 2 * [800, 400]
    expected = (region_pixel - [200, 0]) / 5  # the middle 400 x 400 as 80 x 80
    clip = asked["projection"] @ asked["view"] @ point
    assert np.allclose((clip[:2] / clip[3] + 1) / 2 * 80, expected, atol=1e-4)
    fx, fy, cx, cy = task.intrinsics[0]
    assert np.allclose([cx + fx * 0.1 / 4 + 0.5, 80 - (cy + fy * 0.15 / 4 + 0.5)], expected)
    turned = task.poses[:, :3, 3].astype(float)
    assert np.ptp(np.linalg.norm(turned[:, :2], axis=1)) < 1e-5
    assert np.ptp(turned[:, 2]) < 1e-6
    view.window_matrix = np.diag([1.0, 1.0, -1.0, 1.0])
    assert "no perspective" in facts(settings).reason


# ------------------------------------------------------------------------------------- to a mesh


def posed_cameras(poses, size=(32, 32), numbers=True):
    """Cameras with grey pictures at (V, 4, 4) poses."""
    made = []
    for number, pose in enumerate(poses, 1):
        camera = place_object(bpy.data.cameras.new("Eye"), f"Eye {number}")
        camera.matrix_world = Matrix(np.asarray(pose, float).tolist())
        image = bpy.data.images.new(f"Eye {number}", *size)
        image.pixels.foreach_set(np.full(4 * size[0] * size[1], 0.5, np.float32))
        lens = captures.of_field(VIEW_FIELD, size[0])
        lens[3] = (size[1] - 1) / 2
        frame = frame_of(bpy.context.scene)
        show_behind(camera.data, image, frustum_of(camera.data, lens, size, frame))
        made.append(camera)
    select(*made)
    return made


def test_pictures_of_several_sizes_come_to_one(settings):
    """With their lenses: what a pixel shows stays where it is."""
    poses = protocol.ring_poses(3, 10, 4.0)
    small = posed_cameras(poses[:1], (16, 12))
    large = posed_cameras(poses[1:], (64, 40))
    select(*small, *large)
    settings.source = "SCENE_VIEWS"
    assert "3 cameras with pictures" in facts(settings).text
    assert "No view from above or below" in facts(settings).warning
    task, _ = task_of(settings)
    assert task.images.shape[:3] == (3, 40, 64)
    field = 2 * np.arctan(64 / 2 / task.intrinsics[:, 0])
    assert np.allclose(field, VIEW_FIELD, rtol=1e-5)
    heights = 40 / task.intrinsics[:, 1] / (64 / task.intrinsics[:, 0])
    assert np.allclose(heights, [12 / 16, 40 / 64, 40 / 64], rtol=1e-5)


def test_a_large_picture_is_reduced_and_its_camera_with_it(settings, monkeypatch):
    """Rows that the factor leaves over are those at the top."""
    from fieldforge.blender_addon import pictures

    for module in (pictures, captures):
        monkeypatch.setattr(module, "LONGEST_PICTURE", 20)
    pixels = np.zeros((45, 60, 4), np.float32)
    pixels[..., 3] = 1
    pixels[9:12, 30:33, :3] = 1  # from the bottom: block 3 of 3 x 3, counted from there
    given = pictures.ImageCapture("x", pixels, np.eye(4))
    seen = captures.SeenPicture(given, np.eye(4), np.array([50.0, 60.0, 31.0, 34.0]))
    assert pixels[45 - 1 - 34, 31, 0] == 1
    request = captures.SceneRequest("x", [seen, seen], np.zeros(3))
    small = pictures.small_image(given)
    row, column = np.argwhere(small[..., 0] == 255)[0]
    fx, fy, cx, cy = request._intrinsics()[0]
    assert (column, row) == (round(cx), round(cy))
    assert (cx, cy) == pytest.approx((10.0, 11.0))
    assert (fx, fy) == pytest.approx((50 / 3, 20.0))


def test_a_model_takes_views_of_its_cameras_only(settings):
    wanted = view_poses((26, 3, 10, 6), "z", 4.0)
    wanted[:, :3, 3] += (1, 2, 3)
    items = posed_cameras(wanted)
    settings.source, settings.mesh_by = "SCENE_VIEWS", "MODEL"
    assert model_choice.task_kind(settings) == "views-to-mesh"
    assert settings.model == "six"
    task, placement = task_of(settings)
    assert isinstance(task, protocol.ViewsToMesh)
    assert task.cameras == (26, 3, 10, 6)
    assert task.texture
    settings.scene_texture = False
    assert not task_of(settings)[0].texture
    assert task.images.shape == (4, 32, 32, 4)
    assert np.allclose(placement.matrix_world[:3, 3], (1, 2, 3), atol=1e-5)
    assert np.allclose(np.diag(placement.matrix_world)[:3], 4 / 3.75, rtol=1e-4)
    items[0].location.x += 1
    bpy.context.view_layer.update()
    assert facts(settings).reason == "These are not the cameras that the model was made with"
    assert "3, 6, 10, 26" in facts(settings).advice


def test_a_model_takes_what_another_paints_for_it(settings, fake, running):
    """As WaLa's of four pictures: it knows cameras 3, 6, 10, 26, its painter has 0 instead of 3."""
    posed_cameras(view_poses((6, 0, 26, 10), "z", 4.0))
    settings.source, settings.mesh_by = "SCENE_VIEWS", "MODEL"
    assert facts(settings).reason == "These are not the cameras that the model was made with"
    fake.models = [SIX, {**WORDS, "needs": ["six"]}]
    know_models(running)
    assert not facts(settings).reason
    task, _ = task_of(settings)
    assert task.cameras == (6, 3, 26, 10)
    fake.models = [SIX, {**WORDS, "needs": ["six"], "cameras": [1, 6, 10, 26]}]
    know_models(running)
    assert facts(settings).reason == "These are not the cameras that the model was made with"


def test_turned_backgrounds_are_said_in_the_panel(settings):
    items = posed_cameras(protocol.ring_poses(3, 10, 4.0))
    settings.source = "SCENE_VIEWS"
    items[1].data.background_images[0].rotation = 0.3
    assert "Eye 2 is turned or mirrored" in facts(settings).reason
    items[1].data.background_images[0].rotation = 0.0
    items[2].data.background_images.clear()
    assert "2 cameras with pictures" in facts(settings).text
    items[1].data.background_images.clear()
    assert facts(settings).reason == "Only one camera with a background image is chosen"


# ------------------------------------------------------------------------------------- the overlay


def test_cameras_to_come_are_drawn_where_they_will_stand(settings):
    picture()
    settings.own_ring = True
    assert overlay.wants_cameras(settings)
    plan = planning.plan_of(bpy.context, chosen(settings))
    lines = overlay.lines_of(plan)
    assert lines.shape[0] == 5
    assert lines.shape[2] == 3
    known = set(bpy.data.objects)
    for ends, pose in zip(lines, plan.poses, strict=True):
        local = (ends - pose[:3, 3]) @ pose[:3, :3]
        assert local[:, 2].max() < 1e-5  # all before the camera, or in it
        ahead = local[local[:, 2] < -1e-3]
        field = np.abs(ahead[:, 0] / ahead[:, 2]).max()
        assert field == pytest.approx(math.tan(settings.views_field / 2), rel=1e-4)
    assert set(bpy.data.objects) == known
    settings.show_cameras = False
    assert not overlay.wants_cameras(settings)
    settings.show_cameras, settings.source = True, "POINTS"
    assert not overlay.wants_cameras(settings)


# ------------------------------------------------------------------------------------------ pixels


@pytest.mark.parametrize(("old", "new"), [(7, 3), (12, 5), (9, 9), (4, 11)])
def test_resizing_keeps_means_and_ramps(old, new):
    shares = captures._shares(old, new)
    assert np.allclose(shares.sum(axis=1), 1)
    ramp = (np.arange(old) + 0.5) / old
    found = shares @ ramp
    expected = (np.arange(new) + 0.5) / new
    inside = slice(1, -1) if new > old else slice(None)
    assert np.allclose(found[inside], np.clip(expected, ramp[0], ramp[-1])[inside], atol=0.02)


def test_clear_pixels_lend_no_colour():
    image = np.zeros((4, 4, 4), np.uint8)
    image[:, :2] = (200, 100, 50, 255)
    image[:, 2:] = (0, 255, 0, 0)
    small = captures.resized(image, 2, 1)
    assert small[0, 0].tolist() == [200, 100, 50, 128]


def test_a_projection_is_that_of_its_intrinsics():
    lens = np.array([90.0, 80.0, 20.0, 35.0])
    projection = captures.projection_of(lens, (64, 48), 3.0)
    points = np.array([[0.2, 0.1, -2.0], [-0.4, 0.3, -4.0]])
    clip = np.c_[points, np.ones(2)] @ projection.T
    ndc = clip[:, :2] / clip[:, 3:]
    pixel = np.stack([(ndc[:, 0] + 1) / 2 * 64 - 0.5, (1 - ndc[:, 1]) / 2 * 48 - 0.5], axis=1)
    expected = lens[2:] + lens[:2] * points[:, :2] * [1, -1] / -points[:, 2:]
    assert np.allclose(pixel, expected)
    triangle = np.array([[0.0, 0, -2], [0.05, 0, -2], [0, 0.05, -2]])
    seen = rasterize(triangle, np.array([[0, 1, 2]]), np.eye(4), projection, (64, 48))
    row, column = np.nonzero(np.isfinite(seen.depth))
    assert (column.min(), row.max()) == (20, 35)


def test_views_are_fused_before_the_backend_was_asked(extension):
    """Nothing has to be downloaded, or listed first."""
    chosen = bpy.context.scene.fieldforge
    chosen.source = "SCENE_VIEWS"
    assert model_choice.chosen_model(chosen)["id"] == "view-fusion"
    listed = Path(protocol.__file__).parent / "pipelines" / "__init__.py"
    assert '(ViewsToScene.kind, "view-fusion")' in listed.read_text()


def test_how_many_views_are_known(settings):
    assert source.known_views(settings) == 1
    settings.views_picture, settings.known_views = "OBJECTS", 3
    assert source.known_views(settings) == 3
    settings.source = "TEXT_VIEWS"
    assert source.known_views(settings) == 0
