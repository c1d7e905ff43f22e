"""Drawn strokes -> the strokes that are sent. Grease Pencil has one API before Blender 4.3, and
another one since; both are read here, each by the Blender that has it."""

import time
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from fieldforge.backend import errors, protocol
from fieldforge.blender_addon import compose, pictures, sources
from fieldforge.blender_addon.sources import sketches
from mathutils import Matrix
from scenes import place_object

CHOICES = compose.Choices("", 256)
MODEL = {"id": "", "samples": True}
NEW = bpy.app.version >= (4, 3)
SQUARE = [(-1, 0, -1), (1, 0, -1), (1, 0, 1), (-1, 0, 1)]


@pytest.fixture
def settings(extension):
    chosen = bpy.context.scene.fieldforge
    chosen.source, chosen.seen_from = "SKETCH", "CAMERA"
    return chosen


@pytest.fixture
def camera(settings):
    """From 4 m in front, a picture of 200 x 100 pixels, 2 m wide at the origin."""
    scene = bpy.context.scene
    data = bpy.data.cameras.new("Camera")
    data.sensor_width, data.lens = 36, 72
    scene.camera = bpy.data.objects.new("Camera", data)
    scene.collection.objects.link(scene.camera)
    scene.camera.matrix_world = Matrix.Translation((0, -4, 0)) @ Matrix.Rotation(np.pi / 2, 4, "X")
    scene.render.resolution_x, scene.render.resolution_y = 200, 100
    bpy.context.view_layer.update()
    return scene.camera


def drawing(*strokes, closed=(), radius=0.05, name="Doodle", layers=1):
    """A Grease Pencil object. strokes: lists of points; closed: the numbers of closed ones."""
    kinds = bpy.data.grease_pencils
    if NEW and bpy.app.version < (5, 0):
        kinds = bpy.data.grease_pencils_v3
    data = kinds.new(name)
    for _ in range(layers):
        frame = data.layers.new("Lines").frames.new(1)
        if strokes:  # Blender 5.0 ends itself when told to add none
            (_draw if NEW else _draw_before)(frame, strokes, closed, radius)
    return place_object(data, name)


def _draw(frame, strokes, closed, radius) -> None:
    frame.drawing.add_strokes([len(stroke) for stroke in strokes])
    points = np.concatenate([np.array(stroke, np.float32) for stroke in strokes])
    attributes = frame.drawing.attributes
    attributes["position"].data.foreach_set("vector", points.ravel())
    radii = attributes.get("radius") or attributes.new("radius", "FLOAT", "POINT")
    radii.data.foreach_set("value", np.full(len(points), radius, np.float32))
    for index in closed:
        frame.drawing.strokes[index].cyclic = True


def _draw_before(frame, strokes, closed, radius) -> None:
    for index, points in enumerate(strokes):
        stroke = frame.strokes.new()
        stroke.points.add(len(points))
        stroke.points.foreach_set("co", np.array(points, np.float32).ravel())
        stroke.points.foreach_set("pressure", np.full(len(points), 0.5, np.float32))
        stroke.line_width = round(2 * radius / 0.5 * 1000)
        stroke.use_cyclic = index in closed


def composed() -> protocol.SketchToMesh:
    task, _ = compose.compose(sources.capture(bpy.context, MODEL), CHOICES)
    assert isinstance(task, protocol.SketchToMesh)
    return task


def refusal() -> errors.FieldforgeError:
    with pytest.raises(errors.FieldforgeError) as caught:
        composed()
    return caught.value


def test_strokes_arrive_as_the_camera_sees_them(camera):
    drawing([(0, 0, 0), (0.5, 0, 0)], [(0, 0, 0.25), (0, 0, 0.5), (-1, 0, 0)])
    assert sources.facts(bpy.context, MODEL).text == "Doodle: 2 strokes"
    task = composed()
    # 100 pixels are a metre at the origin; y points down.
    expected = [[100, 50], [150, 50], [100, 25], [100, 0], [0, 50]]
    assert np.abs(task.strokes[:, :2] - expected).max() < 1e-3
    assert np.abs(task.strokes[:, 2] - 10).max() < 1e-3
    assert task.stroke_lengths.tolist() == [2, 3]
    assert (task.name, task.image) == ("Doodle", None)


def test_the_object_s_place_and_size_count(camera):
    item = drawing([(0, 0, 0), (0.5, 0, 0)])
    item.matrix_world = Matrix.Translation((-0.5, 4, 0)) @ Matrix.Scale(2, 4)
    bpy.context.view_layer.update()
    task = composed()  # twice as far, twice as large
    assert np.abs(task.strokes - [[75, 50, 10], [125, 50, 10]]).max() < 1e-3


def test_layers_have_a_transform_and_can_be_hidden(camera):
    item = drawing([(0, 0, 0), (0.5, 0, 0)], layers=2)
    moved = item.data.layers[1]
    setattr(moved, "translation" if NEW else "location", (0, 0, 0.25))
    bpy.context.view_layer.update()
    assert composed().strokes[:, 1].round(3).tolist() == [50, 50, 25, 25]
    moved.hide = True
    bpy.context.view_layer.update()
    assert composed().strokes[:, 1].round(3).tolist() == [50, 50]


def test_a_closed_stroke_comes_back_to_its_first_point(camera):
    drawing(SQUARE, [(0, 0, 0), (0.1, 0, 0)], SQUARE[:3], closed=(0, 2))
    task = composed()
    assert task.stroke_lengths.tolist() == [5, 2, 4]
    assert np.array_equal(task.strokes[0], task.strokes[4])
    assert np.array_equal(task.strokes[7], task.strokes[10])


def test_modifiers_count(camera):
    item = drawing(SQUARE)
    if NEW:
        item.modifiers.new("Smooth", "GREASE_PENCIL_SUBDIV").level = 1
    else:
        item.grease_pencil_modifiers.new("Smooth", "GP_SUBDIV").level = 1
    bpy.context.view_layer.update()
    assert len(composed().strokes) > len(SQUARE)


def test_strokes_of_hidden_materials_are_left_out(camera):
    item = drawing([(0, 0, 0), (0.5, 0, 0)], SQUARE[:3])
    for name in ("Ink", "Guides"):
        material = bpy.data.materials.new(name)
        bpy.data.materials.create_gpencil_data(material)
        item.data.materials.append(material)
    if NEW:
        item.data.layers[0].frames[0].drawing.strokes[1].material_index = 1
    else:
        item.data.layers[0].frames[0].strokes[1].material_index = 1
    bpy.context.view_layer.update()
    assert composed().stroke_lengths.tolist() == [2, 3]
    material.grease_pencil.hide = True
    bpy.context.view_layer.update()
    assert composed().stroke_lengths.tolist() == [2]


def test_a_stroke_that_leaves_the_picture_and_returns_becomes_two(camera):
    drawing([(0, 0, 0), (0.1, 0, 0), (0, -10, 0), (0.2, 0, 0), (0.3, 0, 0)], SQUARE)
    task = composed()  # the third point is behind the camera
    assert task.stroke_lengths.tolist() == [2, 2, 4]
    assert np.isfinite(task.strokes).all()


def test_through_the_view(settings):
    """The view of a window that is never drawn has a camera all the same."""
    settings.seen_from = "VIEW"
    drawing(SQUARE)
    task = composed()
    space, region = sources.cameras.viewport(bpy.context)
    matrix = np.array(space.region_3d.perspective_matrix)
    corners = np.column_stack([SQUARE, np.ones(4)]) @ matrix.T
    ndc = corners[:, :2] / corners[:, 3:]
    expected = (ndc * [1, -1] + 1) / 2 * [region.width, region.height]
    assert np.abs(task.strokes[:, :2] - expected).max() < 0.01


def test_which_object_is_meant(settings, camera):
    first = drawing([(0, 0, 0), (0.5, 0, 0)], name="First")
    assert sketches.chosen(bpy.context) == first
    bpy.context.view_layer.objects.active = camera
    assert sketches.chosen(bpy.context) == first  # the only one there is
    second = drawing(SQUARE, name="Second")
    assert sketches.chosen(bpy.context) == second
    bpy.context.view_layer.objects.active = camera
    assert sketches.chosen(bpy.context) is None
    settings.sketch = first
    assert sketches.chosen(bpy.context) == first
    assert sources.source_objects(bpy.context) == [first]


def test_a_million_points_are_read_in_a_moment(camera):
    count = 1_000_000 if NEW else 50_000  # before Blender 4.3 it takes long to make them
    turn = np.linspace(0, 60, count)
    spiral = np.stack([turn * np.cos(turn), 0 * turn, turn * np.sin(turn)], axis=1) / 100
    drawing(*np.split(spiral, 50))
    begun = time.perf_counter()
    captured = sources.capture(bpy.context, MODEL)
    read = time.perf_counter() - begun
    task, _ = compose.compose(captured, CHOICES)
    assert len(task.strokes) == count
    assert read < 1.0  # 0.01 s on an idle core since Blender 4.3, 0.06 s before
    assert time.perf_counter() - begun < 4.0


# -------------------------------------------------------------------------------------- annotations


def annotation(*strokes, thickness=6):
    """What Blender 4.2 and 4.3 give of an annotation; since 5.0 only the hand draws them."""
    data = bpy.data.grease_pencils.new("Annotations")
    bpy.context.scene.grease_pencil = data
    layer = data.layers.new("Note")
    layer.thickness = thickness
    frame = layer.frames.new(1)
    for points, mode in strokes:
        stroke = frame.strokes.new()
        stroke.display_mode = mode
        stroke.points.add(len(points))
        stroke.points.foreach_set("co", np.array(points, np.float32).ravel())
    return layer


if not NEW:

    def test_annotations_on_the_view_and_in_the_scene(camera, settings):
        settings.sketch_from = "ANNOTATION"
        on_view = [(25, 50, 0), (75, 100, 0)]  # percent of the picture
        layer = annotation((on_view, "2DSPACE"), ([(0, 0, 0), (0.5, 0, 0)], "3DSPACE"))
        assert sources.facts(bpy.context, MODEL).text == "2 annotated strokes"
        task = composed()
        expected = [[100, 50, 0], [150, 50, 0], [50, 50, 6], [150, 0, 6]]
        assert np.abs(task.strokes - expected).max() < 1e-3
        assert task.stroke_lengths.tolist() == [2, 2]
        layer.annotation_hide = True
        assert "Nothing is annotated" in refusal().cause


def test_annotations_of_any_blender(camera, settings, monkeypatch):
    """Strokes as Blender 5 shows them: without a word on whether they lie on the view."""
    settings.sketch_from = "ANNOTATION"

    class Points(list):
        def foreach_get(self, name, values):
            assert name == "co"
            values[:] = np.array([point.co for point in self], np.float32).ravel()

    def stroke(*points):
        return SimpleNamespace(points=Points(SimpleNamespace(co=point) for point in points))

    frame = SimpleNamespace(strokes=[stroke((0, 0, 0), (50, 25, 0)), stroke((0, 0, 0.25))])
    layer = SimpleNamespace(thickness=4)
    monkeypatch.setattr(sketches, "_annotated", lambda context: [(layer, frame)])
    bpy.context.scene.tool_settings.annotation_stroke_placement_view3d = "VIEW"
    task = composed()
    assert np.abs(task.strokes - [[100, 25, 0], [0, 100, 4], [100, 75, 4]]).max() < 1e-3
    bpy.context.scene.tool_settings.annotation_stroke_placement_view3d = "CURSOR"
    assert len(composed().strokes) < 3  # (50, 25) is far beside the camera then


# ------------------------------------------------------------------------------------------- errors


def test_no_drawing(camera):
    assert "no Grease Pencil object" in refusal().cause


def test_an_empty_drawing(camera):
    drawing()
    assert refusal().cause == "Doodle has no strokes."
    assert "Draw Mode" in refusal().remedy


def test_nothing_annotated(camera, settings):
    settings.sketch_from = "ANNOTATION"
    assert refusal().cause == "Nothing is annotated."
    assert "Annotate tool" in refusal().remedy


def test_no_camera(settings):
    drawing(SQUARE)
    assert refusal().cause == "The scene has no camera."
    assert "choose View" in refusal().remedy


def test_a_panoramic_camera(camera):
    drawing(SQUARE)
    camera.data.type = "PANO"
    assert "no plain picture" in refusal().cause


def test_a_drawing_out_of_sight(camera):
    item = drawing(SQUARE)
    item.location.y = -50
    bpy.context.view_layer.update()
    assert "None of the strokes is in the picture" in refusal().cause


def test_a_hidden_drawing(camera):
    item = drawing(SQUARE)
    item.hide_set(True)
    assert "hidden" in refusal().cause


def test_strokes_without_a_place():
    """What is no number is left out; the rest stays."""
    points = np.array([[0, 0, 0], [np.nan, 0, 0], [10, 20, 0]], np.float32)
    part = pictures.Strokes(points, np.ones(3, np.float32), np.array([3]), np.array([False]))
    capture = pictures.SketchCapture("Note", [part], np.eye(4), np.eye(4), (100, 100), np.eye(4))
    task, _ = compose.compose(capture, CHOICES)
    assert task.stroke_lengths.tolist() == [1, 1]
    assert task.strokes.tolist() == [[0, 100, 2], [10, 80, 2]]
