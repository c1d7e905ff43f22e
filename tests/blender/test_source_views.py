"""Objects of the scene -> depth through a camera, and views from the model's cameras."""

import time

import bpy
import numpy as np
import pytest
from fieldforge.backend import errors, protocol
from fieldforge.blender_addon import capture, compose, pictures, sources
from fieldforge.blender_addon.sources import surfaces
from mathutils import Matrix, Vector
from scenes import add_nodes, cloud, cube, place_object, select

CHOICES = compose.Choices("", 256)
SIX = {
    "id": "six",
    "samples": True,
    "views": 6,
    "view_kind": "depth",
    "cameras": [3, 6, 10, 26, 49, 50],
}
FOUR = {**SIX, "views": 4, "view_kind": "image", "cameras": [3, 6, 10, 26]}


@pytest.fixture
def settings(extension):
    chosen = bpy.context.scene.fieldforge
    chosen.source, chosen.seen_from = "DEPTH", "CAMERA"
    return chosen


@pytest.fixture
def camera(settings):
    """From 4 m in front, a picture of 300 x 200 pixels, 3 m wide at the origin."""
    scene = bpy.context.scene
    data = bpy.data.cameras.new("Camera")
    data.sensor_width, data.lens = 36, 48
    scene.camera = bpy.data.objects.new("Camera", data)
    scene.collection.objects.link(scene.camera)
    scene.camera.matrix_world = Matrix.Translation((0, -4, 0)) @ Matrix.Rotation(np.pi / 2, 4, "X")
    scene.render.resolution_x, scene.render.resolution_y = 300, 200
    bpy.context.view_layer.update()
    return scene.camera


def composed(model=SIX):
    return compose.compose(sources.capture(bpy.context, model), CHOICES)


def refusal(model=SIX) -> errors.FieldforgeError:
    with pytest.raises(errors.FieldforgeError) as caught:
        composed(model)
    return caught.value


def ball(name="Ball", location=(0, 0, 0), scale=(1, 1, 1)):
    bpy.ops.mesh.primitive_uv_sphere_add(segments=48, ring_count=24, location=location, scale=scale)
    item = bpy.context.view_layer.objects.active
    item.name = name
    return item


def seen_by_scene(depth) -> np.ndarray:
    """The same picture by Blender's own ray casting of the scene, through the camera."""
    scene, depsgraph = bpy.context.scene, bpy.context.evaluated_depsgraph_get()
    matrix = scene.camera.matrix_world
    corners = scene.camera.data.view_frame(scene=scene)  # right top first, against the clock
    right, top = corners[0].x, corners[0].y
    height, width = depth.shape
    expected = np.full(depth.shape, np.inf)
    for row, column in np.ndindex(depth.shape):
        across = ((column + 0.5) / width * 2 - 1) * right
        up = (1 - (row + 0.5) / height * 2) * top
        ray = Vector((across, up, corners[0].z)) / -corners[0].z
        direction = matrix.to_3x3() @ ray
        hit = scene.ray_cast(depsgraph, matrix.translation, direction)
        if hit[0]:
            expected[row, column] = (hit[1] - matrix.translation).length / direction.length
    return expected


# -------------------------------------------------------------------------------------------- depth


def test_depth_is_what_rays_through_the_camera_find(camera, settings, monkeypatch):
    monkeypatch.setattr(pictures, "LONGEST_DEPTH", 60)
    settings.seen_objects = "VISIBLE"
    cube(size=(1, 2, 0.5), location=(0.4, 1, 0)).rotation_euler = (0.3, 0.4, 0.5)
    ball(location=(-0.5, 0, 0.2), scale=(0.5, 0.3, 0.6))
    camera.location.x += 0.3
    camera.scale = (2, 2, 2)  # a camera's size does not zoom
    bpy.context.view_layer.update()
    assert sources.facts(bpy.context, SIX).text == "All visible objects, through Camera"
    task, _ = composed()
    assert isinstance(task, protocol.DepthToMesh)
    assert (task.encoding, task.depth.shape, task.depth.dtype) == ("metres", (40, 60), np.float32)
    camera.scale = (1, 1, 1)
    bpy.context.view_layer.update()
    expected = seen_by_scene(task.depth)
    differs = ~np.isclose(task.depth, expected, atol=1e-3)
    assert np.isfinite(expected).mean() > 0.1
    assert differs.mean() < 0.005  # rays that graze an edge


def test_only_the_selected_objects_are_seen(camera, settings):
    near = cube("Near", location=(0, -1, 0))
    far = cube("Far", size=(1.5, 1, 0.5), location=(0, 1, 0))
    select(far)
    assert sources.facts(bpy.context, SIX).text == "Far, through Camera"
    task, placement = composed()
    assert task.name == "Far"
    assert abs(float(task.depth.min()) - 4.5) < 1e-5
    # What fills the cube of the models lies over the object.
    assert placement.matrix_world[:3, 3].tolist() == [0, 1, 0]
    assert np.allclose(np.diag(placement.matrix_world)[:3], 1.5 / 1.8)
    select(near, far)
    assert sources.facts(bpy.context, SIX).text == "2 objects, through Camera"
    assert abs(float(composed()[0].depth.min()) - 2.5) < 1e-5


def test_an_orthographic_camera(camera):
    cube()
    camera.data.type, camera.data.ortho_scale = "ORTHO", 3
    bpy.context.view_layer.update()
    task, _ = composed()
    assert np.isfinite(task.depth).mean() == pytest.approx(1 / 6, rel=0.01)
    assert np.abs(task.depth[np.isfinite(task.depth)] - 3.5).max() < 1e-5


def test_through_the_view(settings):
    settings.seen_from = "VIEW"
    cube(location=(1, 2, 3))
    task, _ = composed()
    space, region = sources.cameras.viewport(bpy.context)
    middle = space.region_3d.view_matrix @ Vector((1, 2, 3))
    depth = task.depth[np.isfinite(task.depth)]
    assert abs(float(depth.mean()) + middle.z) < 0.9
    assert task.depth.shape[1] / task.depth.shape[0] == pytest.approx(
        region.width / region.height, rel=0.01
    )


def test_a_view_without_perspective_may_begin_behind_what_it_shows(settings):
    cube(size=(1, 1, 20))
    parts = surfaces.parts(bpy.context, surfaces.chosen(bpy.context))
    parallel = np.diag([0.5, 0.5, -0.001, 1.0])
    view = protocol.view_poses([49], "z", 1.0)[0]
    seen = pictures.DepthCapture("Tower", parts, np.linalg.inv(view), parallel, (100, 100))
    task, _ = compose.compose(seen, CHOICES)
    assert task.depth.min() == 0
    assert np.isfinite(task.depth).sum() > 1000
    assert task.depth[np.isfinite(task.depth)].max() > 5


def test_modifiers_instances_curves_and_texts_are_seen(camera, settings):
    """Each alone: what its bounds are says that it was read as it is shown."""

    def width() -> float:
        bpy.context.view_layer.update()
        parts = surfaces.parts(bpy.context, surfaces.chosen(bpy.context))
        low, high = surfaces.bounds(parts)
        soup = pictures.gather(parts)
        assert np.allclose([soup.low, soup.high], [low, high])
        return float((high - low)[0])

    item = cube()
    item.modifiers.new("Row", "ARRAY").count = 3
    assert width() == pytest.approx(3)
    collection = bpy.data.collections.new("Pair")
    for place in (-1, 1):
        member = cube(location=(place, 0, 0))
        bpy.context.scene.collection.objects.unlink(member)
        collection.objects.link(member)
    pair = place_object(None, "Pair")
    pair.instance_type, pair.instance_collection = "COLLECTION", collection
    pair.scale = (2, 1, 1)
    assert width() == pytest.approx(6)
    bpy.ops.curve.primitive_bezier_circle_add(radius=2)
    bpy.context.object.data.bevel_depth = 0.5
    assert width() == pytest.approx(5, rel=0.01)
    bpy.ops.object.text_add()
    bpy.context.object.data.extrude = 0.1
    assert 0.5 < width() < 4
    points = cloud()
    add_nodes(points, "GeometryNodeInstanceOnPoints", "Points")
    points.modifiers.clear()
    grown = cube("Grown")
    add_nodes(grown, "GeometryNodeSubdivideMesh", "Mesh")
    assert width() == pytest.approx(1)


def test_a_mesh_in_edit_mode_is_seen_as_it_is_edited(camera):
    import bmesh

    item = cube()
    bpy.ops.object.mode_set(mode="EDIT")
    try:
        edited = bmesh.from_edit_mesh(item.data)
        for vertex in edited.verts:
            vertex.co.y *= 3
        task, _ = composed()
        assert float(task.depth.min()) == pytest.approx(2.5)
    finally:
        bpy.ops.object.mode_set(mode="OBJECT")


def test_wires_and_hidden_objects_hide_nothing(camera, settings):
    settings.seen_objects = "VISIBLE"
    cube("Far", location=(0, 1, 0))
    cutter, hidden = cube("Cutter", location=(0, -1, 0)), cube("Hidden", location=(0, -2, 0))
    cutter.display_type = "WIRE"
    hidden.hide_set(True)
    assert float(composed()[0].depth.min()) == pytest.approx(4.5)


def test_local_view_hides_the_others(camera, settings):
    settings.seen_objects = "VISIBLE"
    near, far = cube("Near", location=(0, -1, 0)), cube("Far", location=(0, 1, 0))
    select(far)
    assert set(surfaces.chosen(bpy.context)) == {near, far}
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.view3d.localview(frame_selected=False)
    assert surfaces.chosen(bpy.context) == [far]
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.view3d.localview(frame_selected=False)
    assert set(surfaces.chosen(bpy.context)) == {near, far}


def test_a_result_stands_for_what_it_was_made_from(camera, settings):
    source = cube("Chair")
    origin = sources.origin(bpy.context)
    result = cube("Chair mesh", size=(3, 3, 3))
    capture.remember_result(result, origin)
    select(result)
    assert surfaces.chosen(bpy.context) == [source]
    settings.seen_objects = "VISIBLE"
    assert surfaces.chosen(bpy.context) == [source]
    settings.source = "VIEWS"  # it was not made from views
    assert set(surfaces.chosen(bpy.context)) == {source, result}


# -------------------------------------------------------------------------------------------- views


def test_depth_views_frame_the_objects(settings):
    """A ball: every camera sees the same, and the model's cube lies over it."""
    settings.source = "VIEWS"
    item = ball(location=(5, -3, 2), scale=(2, 2, 2))
    assert sources.facts(bpy.context, SIX).text == "Ball, in 6 depth views"
    task, placement = composed()
    assert isinstance(task, protocol.ViewsToMesh)
    assert task.images is None
    assert task.depths.shape == (6, pictures.VIEW_SIDE, pictures.VIEW_SIDE)
    assert np.allclose(placement.matrix_world[:3, 3], item.location, atol=1e-5)
    assert np.allclose(np.diag(placement.matrix_world)[:3], 4 / 1.8, atol=1e-5)
    nearest = task.depths.reshape(6, -1).min(axis=1)
    assert np.abs(nearest - (protocol.VIEW_DISTANCE - 0.9)).max() < 0.01
    share = np.isfinite(task.depths).mean(axis=(1, 2))
    assert np.ptp(share) < 0.01 * share.mean()
    border = np.concatenate([task.depths[:, 0], task.depths[:, -1], task.depths[:, :, 0]], axis=1)
    assert np.isinf(border).all()


def test_views_are_from_the_cameras_in_their_order(settings):
    """A rod from the middle to one camera: it is short in that camera's picture alone."""
    settings.source = "VIEWS"
    poses = protocol.view_poses(SIX["cameras"], "z")
    for index in (0, 3):
        towards = Vector(poses[index, :3, 3])
        rod = cube("Rod", size=(0.05, 0.05, 1))
        rod.rotation_mode = "QUATERNION"
        rod.rotation_quaternion = towards.to_track_quat("Z", "Y")
        bpy.context.view_layer.update()
        share = np.isfinite(composed()[0].depths).mean(axis=(1, 2))
        assert share.argmin() == index
        assert share[index] < 0.5 * np.delete(share, index).min()


def test_a_model_that_takes_some_views_gets_those_that_are_on(settings):
    settings.source = "VIEWS"
    cube(size=(0.2, 1, 3))
    model = {**SIX, "any_views": True}
    every = composed(model)[0]
    assert every.cameras == tuple(SIX["cameras"])
    for number in (0, 2, 3, 5):
        settings.used_views[number] = False
    assert sources.facts(bpy.context, model).text == "Cube, in 2 depth views"
    some = composed(model)[0]
    some.validate()
    assert some.cameras == (6, 49)
    np.testing.assert_array_equal(some.depths, every.depths[[1, 4]])
    assert composed(SIX)[0].cameras == every.cameras  # this one needs them all
    settings.used_views = [False] * 32
    assert "No view is chosen" in refusal(model).cause


def test_the_largest_thing_that_fits_is_not_cut_off(settings):
    settings.source = "VIEWS"
    cube(size=(7, 7, 7))
    depths = composed()[0].depths
    for border in (depths[:, 0], depths[:, -1], depths[:, :, 0], depths[:, :, -1]):
        assert np.isinf(border).all()


def test_views_in_colour_without_a_graphics_card(settings):
    """Here nothing can be drawn: the triangles are shaded instead."""
    settings.source = "VIEWS"
    item = cube()
    material = bpy.data.materials.new("Red")
    material.diffuse_color = (1, 0, 0, 1)
    item.data.materials.append(material)
    task, _ = composed(FOUR)
    assert task.depths is None
    assert task.images.shape == (4, pictures.VIEW_SIDE, pictures.VIEW_SIDE, 4)
    seen = task.images[..., 3] == 255
    assert (seen | (task.images[..., 3] == 0)).all()
    assert (task.images[seen][:, 0] > 60).all()
    assert not task.images[seen][:, 1:3].any()


def test_heavy_scenes_are_read_in_a_moment(settings):
    settings.source = "VIEWS"
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=400, y_subdivisions=400)
    len(bpy.context.object.data.loop_triangles)
    begun = time.perf_counter()
    captured = sources.capture(bpy.context, SIX)
    assert time.perf_counter() - begun < 1.0  # 0.02 s on an idle core, for 320,000 triangles
    assert sum(len(part.triangles) for part in captured.parts) > 300_000


def test_the_card_s_depth_becomes_metres():
    """Through the exact formula of the matrix, perspective or not, and back into the world."""
    for projection in (pictures.cube_projection(2.0), np.diag([0.5, 0.5, -0.1, 1.0])):
        view = np.linalg.inv(protocol.view_poses([10], "z", 6.0))[0]
        world = np.array([[0.3, -0.2, 0.4], [-0.5, 0.1, -0.3]])
        inside = world @ view[:3, :3].T + view[:3, 3]
        clip = np.column_stack([inside, np.ones(2)]) @ projection.T
        ndc = clip[:, :3] / clip[:, 3:]
        buffer = np.ones((64, 64))
        place = np.floor((ndc[:, :2] + 1) / 2 * 64).astype(int)
        buffer[place[:, 1], place[:, 0]] = (ndc[:, 2] + 1) / 2
        captured = pictures.DepthPicture("Heavy", buffer.astype(np.float32), view, projection)
        task, placement = compose.compose(captured, CHOICES)
        found = task.depth[63 - place[:, 1], place[:, 0]]
        assert np.abs(found + inside[:, 2]).max() < 1e-4
        assert np.isinf(task.depth).sum() == 64 * 64 - 2
        middle = (world.min(axis=0) + world.max(axis=0)) / 2
        assert np.abs(placement.matrix_world[:3, 3] - middle).max() < 0.1


# ------------------------------------------------------------------------------------------- errors


def test_nothing_selected(camera):
    assert refusal().cause == "Nothing with a surface is selected."
    assert "choose All Visible" in refusal().remedy


def test_an_empty_scene(camera, settings):
    settings.seen_objects = "VISIBLE"
    assert refusal().cause == "There is nothing with a surface in the scene."


def test_loose_points_have_no_surface(camera):
    cloud()
    assert "no faces" in refusal().cause


def test_no_camera(settings):
    cube()
    assert refusal().cause == "The scene has no camera."


def test_out_of_sight(camera):
    cube(location=(0, -50, 0))
    assert refusal().cause == "Nothing is in the picture."


def test_a_flat_point(camera, settings):
    """Everything at one place: there is no size to frame."""
    settings.source = "VIEWS"
    item = cube()
    item.scale = (0, 0, 0)
    bpy.context.view_layer.update()
    assert "no surface to be seen" in refusal().cause


@pytest.mark.parametrize(
    ("shading", "engine", "expected"),
    [
        ("WIREFRAME", "CYCLES", "SOLID"),
        ("SOLID", "CYCLES", "SOLID"),
        ("MATERIAL", "CYCLES", "MATERIAL"),
        ("RENDERED", "CYCLES", "MATERIAL"),
        ("RENDERED", "BLENDER_WORKBENCH", "RENDERED"),
    ],
)
def test_in_which_shading_the_view_is_drawn(settings, shading, engine, expected):
    from types import SimpleNamespace

    from fieldforge.blender_addon.sources import offscreen

    bpy.context.scene.render.engine = engine
    space = SimpleNamespace(shading=SimpleNamespace(type=shading))
    assert offscreen.shading_of(bpy.context, space) == expected


def test_the_view_cannot_be_drawn_without_a_window(settings):
    settings.source = "VIEWPORT"
    assert "no 3D viewport" in refusal().cause
