"""Steps in a real Blender window: a mesh of everything that is no point cloud and no voxels.

    SCAN.ply --python PYTHON --weights FOLDER     (the scan is not used; a store of small models)

For each source a picture of the panel, a real click on Generate, and a look at what was sent; what
was sent is kept as sent-NAME.png, and how long Blender stood still for it is printed.
"""

import math
import os
import time
from pathlib import Path

import bpy
import gui_steps as gui
import numpy as np
import stage
from mathutils import Matrix, Vector
from stage import jobs

_, OPTIONS = stage.arguments()
os.environ["FIELDFORGE_WEIGHTS"] = OPTIONS["--weights"]
OUT = Path(gui.OUT)
THIRD_ITEM = 70  # pixels below the field of a menu that is open

place = {}


def settings():
    return bpy.context.scene.fieldforge


def addon(name: str):
    import importlib

    return importlib.import_module(f"{stage.MODULE}.blender_addon.{name}")


# ------------------------------------------------------------------------------------------ a scene


def make_chair():
    """A chair of boxes, red and grey, a floor that is not selected, and a camera."""
    stage.choose_backend(OPTIONS)
    stage.clear_scene()
    red, grey = paint("Red", (0.7, 0.08, 0.05)), paint("Grey", (0.4, 0.4, 0.42))
    parts = [box("Seat", (0, 0, 0.5), (0.5, 0.5, 0.06), red)]
    parts.append(box("Back", (0, 0.23, 0.85), (0.5, 0.05, 0.6), red))
    for x in (-0.2, 0.2):
        for y in (-0.2, 0.2):
            parts += [box("Leg", (x, y, 0.24), (0.06, 0.06, 0.48), grey)]
    floor = box("Floor", (0, 0, -0.03), (4, 4, 0.05), grey)
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    bpy.context.scene.collection.objects.link(camera)
    camera.matrix_world = looking_at(Vector((1.6, -2.2, 1.5)), Vector((0, 0, 0.5)))
    bpy.context.scene.camera = camera
    place["chair"], place["floor"] = parts, floor
    stage.select(*parts)
    stage.push_undo("A chair")
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    see_chair()
    yield 0.5


def paint(name, color):
    material = bpy.data.materials.new(name)
    material.diffuse_color = (*color, 1)
    material.use_nodes = True
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Base Color"].default_value = (*color, 1)
    return material


def box(name, middle, size, material):
    with gui.override(gui.find_area()):
        bpy.ops.mesh.primitive_cube_add(size=1, location=middle, scale=size)
    item = bpy.context.view_layer.objects.active
    item.name = name
    item.data.materials.append(material)
    return item


def looking_at(begin: Vector, end: Vector) -> Matrix:
    turn = (end - begin).to_track_quat("-Z", "Y")
    return Matrix.Translation(begin) @ turn.to_matrix().to_4x4()


def see_chair():
    stage.look_at(place["chair"], 35, 18, "SOLID", 0.9)
    place["area"].spaces.active.shading.color_type = "MATERIAL"


# -------------------------------------------------------------------------------- a picture of each


def choose_by_hand():
    """The chooser, opened and used by the mouse; the backend starts."""
    x, y = yield from gui.click_property(place["area"], place["region"], "source")
    yield 0.5
    yield from gui.shot("chooser")
    yield from gui.click(x, y + THIRD_ITEM)
    yield from gui.wait_until(lambda: settings().source == "VIEWPORT", 5, "the viewport as source")
    yield from gui.wait_until(lambda: jobs().connection.models, 90, "the models")
    yield from gui.redraw()


def look(name: str):
    """A picture of the panel, and what would be sent."""
    sources, model_choice = addon("sources"), addon("model_choice")
    yield from gui.redraw()
    yield from gui.shot(f"panel-{name}")
    model = model_choice.chosen_model(settings())
    begun = time.perf_counter()
    with gui.override(place["area"]):
        captured = sources.capture(bpy.context, model)
    held = time.perf_counter() - begun
    choices = addon("compose").Choices(model["id"], 256)
    task, _ = addon("compose").compose(captured, choices)
    print(f"{name}: {model['id']}, {task.kind}, held Blender {1000 * held:.0f} ms", flush=True)
    keep(name, task)
    place["task"] = task


def generate(name: str):
    """The same, then a click on Generate, and the mesh."""
    yield from look(name)
    before = set(bpy.data.objects)
    yield from stage.generate(place, 120)
    (made,) = set(bpy.data.objects) - before
    place["made"] = made
    yield from gui.redraw()
    yield from gui.shot(f"after-{name}")


def keep(name: str, task) -> None:
    """What is sent, as a picture: views beside each other, near is bright."""
    for field in ("image", "images", "depth", "depths"):
        values = getattr(task, field, None)
        if values is None:
            continue
        rank = 2 if field.startswith("depth") else 3
        views = values[None] if values.ndim == rank else values
        if rank == 2:
            seen = np.isfinite(views)
            low, high = views[seen].min(), views[seen].max()
            grey = np.where(seen, 1 - 0.8 * (views - low) / max(high - low, 1e-9), 0)
            views = np.repeat(grey[..., None], 4, axis=3)
            views[..., 3] = 1
        else:
            views = views / 255
        save(name, np.concatenate(list(views), axis=1))


def save(name: str, values) -> None:
    height, width, channels = values.shape
    pixels = np.ones((height, width, 4), np.float32)
    pixels[..., :channels] = values
    image = bpy.data.images.new("kept", width, height, alpha=True)
    image.pixels.foreach_set(pixels[::-1].ravel())
    image.filepath_raw, image.file_format = str(OUT / f"sent-{name}.png"), "PNG"
    image.save()
    bpy.data.images.remove(image)


def put_away():
    bpy.data.objects.remove(place["made"])
    stage.select(*place["chair"])
    see_chair()


def over_the_chair():
    """The result fills the bounds of the chair's longest side."""
    bpy.context.view_layer.update()
    corners = np.concatenate([stage.world_corners(item) for item in place["chair"]])
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    found = np.array(place["made"].matrix_world.translation)
    assert np.allclose(found, middle, atol=1e-4), (found, middle)
    size = np.ptp(corners, axis=0).max() / 1.8
    assert np.allclose(np.diag(place["made"].matrix_world)[:3], size, rtol=1e-4)


def from_the_viewport():
    place["floor"].hide_set(True)
    shading = place["area"].spaces.active.shading
    overlays = place["area"].spaces.active.overlay.show_overlays
    yield from generate("viewport")
    image = place["task"].image
    assert max(image.shape) <= 1024
    red = (image[..., 0].astype(int) > image[..., 1].astype(int) + 60) & (image[..., 3] > 250)
    empty = image[..., 3] == 0
    assert red.mean() > 0.02, red.mean()
    assert empty.mean() > 0.4, empty.mean()
    assert place["area"].spaces.active.overlay.show_overlays == overlays
    assert shading.type == "SOLID"
    place["picture"] = str(OUT / "sent-viewport.png")
    put_away()


def from_an_image():
    """A file that is dropped: Blender asks what it is for, as it does for a drop by hand."""
    path = Path(place["picture"])
    dropped = {"directory": str(path.parent), "files": [{"name": path.name}]}
    region = next(r for r in place["area"].regions if r.type == "WINDOW")
    x, y = gui.centre(region)
    yield from gui.act(f"move {x - 200} {y}")
    with gui.override(place["area"], region):
        bpy.ops.wm.drop_import_file("INVOKE_DEFAULT", **dropped)
    yield 0.7
    yield from gui.shot("dropped")
    yield from gui.key("Escape")
    with gui.override(place["area"]):
        bpy.ops.fieldforge.drop_image(**dropped)
    assert settings().source == "IMAGE"
    yield from look("image")


def from_the_scene_s_depth():
    settings().source, settings().seen_from = "DEPTH", "CAMERA"
    yield from look("depth")


def from_depth_by_the_card():
    """As for scenes of too many triangles to be read: the same picture, to a millimetre."""
    views, compose = addon("sources.views"), addon("compose")
    limit = views.MOST_TRIANGLES
    pictures = []
    for views.MOST_TRIANGLES in (limit, 0):
        begun = time.perf_counter()
        with gui.override(place["area"]):
            captured = views.capture_depth(bpy.context)
        print("depth:", type(captured).__name__, time.perf_counter() - begun, flush=True)
        task, placement = compose.compose(captured, compose.Choices("", 256))
        pictures.append((task.depth, placement.matrix_world))
    views.MOST_TRIANGLES = limit
    (exact, cube), (drawn, other) = pictures
    both = np.isfinite(exact) & np.isfinite(drawn)
    print("depth: covered", np.isfinite(exact).mean(), np.isfinite(drawn).mean())
    error = np.abs(exact[both] - drawn[both])
    print("depth: the card's error", np.median(error), np.quantile(error, 0.99), flush=True)
    assert abs(np.isfinite(exact).mean() - np.isfinite(drawn).mean()) < 0.002
    assert np.quantile(error, 0.98) < 0.002
    print("cubes", cube.tolist(), other.tolist(), flush=True)
    assert all(item.visible_get() for item in place["chair"])
    assert set(bpy.context.selected_objects) == set(place["chair"])
    yield 0.1


def from_depth_through_the_view():
    settings().seen_from = "VIEW"
    yield from generate("depth-view")
    over_the_chair()
    put_away()


def from_six_depth_views():
    place["floor"].hide_set(False)
    settings().source, settings().model = "VIEWS", "tiny-depths6"
    yield from generate("views-depth")
    assert place["task"].depths.shape[0] == 6
    over_the_chair()
    put_away()


def from_four_views():
    """The floor is not selected: it must not be in the pictures, and must be there again."""
    settings().model = "tiny-views4"
    yield from look("views-image")
    images = place["task"].images.astype(int)
    assert images.shape[0] == 4
    seen = images[..., 3] > 250
    red = (images[..., 0] > images[..., 1] + 60) & seen
    print("views: covered", seen.mean(axis=(1, 2)), "red", red.mean(axis=(1, 2)), flush=True)
    assert (red.mean(axis=(1, 2)) > 0.01).all()
    assert not seen[:, 0].any()
    assert not seen[:, :, 0].any()
    exact = exact_views()
    agree = (seen == exact).mean()
    print("views: agree with the depth views", agree, flush=True)
    assert agree > 0.99
    assert place["floor"].visible_get()


def exact_views():
    """Where the chair is in the same views, from its triangles."""
    views, compose = addon("sources.views"), addon("compose")
    model = {"views": 4, "view_kind": "depth", "cameras": [3, 6, 10, 26]}
    with gui.override(place["area"]):
        captured = views.capture_views(bpy.context, model)
    task, _ = compose.compose(captured, compose.Choices("", 256))
    return np.isfinite(task.depths)


def from_an_annotation():
    """Three lines by the mouse, with the Annotate tool."""
    place["floor"].hide_set(True)
    with gui.override(place["area"]):
        bpy.ops.wm.tool_set_by_id(name="builtin.annotate")
    region = next(r for r in place["area"].regions if r.type == "WINDOW")
    x, y = gui.centre(region)
    x -= 150
    lines = [(-90, 100, -90, -60), (-90, 0, 40, 0), (40, 0, 40, 100), (40, 100, -90, 100)]
    for x1, y1, x2, y2 in lines:
        yield from gui.act(f"drag {x + x1} {y + y1} {x + x2} {y + y2}")
        yield 0.3
    with gui.override(place["area"]):
        bpy.ops.wm.tool_set_by_id(name="builtin.select_box")
    settings().source, settings().sketch_from, settings().seen_from = "SKETCH", "ANNOTATION", "VIEW"
    yield from generate("annotation")
    strokes, lengths = place["task"].strokes, place["task"].stroke_lengths
    assert len(lengths) == len(lines), lengths
    assert np.allclose(np.ptp(strokes[:, :2], axis=0), [130, 160], atol=12), np.ptp(strokes, axis=0)
    put_away()


def from_grease_pencil():
    data = bpy.data.grease_pencils_v3 if bpy.app.version < (5, 0) else bpy.data.grease_pencils
    drawn = data.new("Doodle")
    drawing = drawn.layers.new("Lines").frames.new(1).drawing
    turn = np.linspace(0, 2 * math.pi, 60)
    circle = np.stack([0.5 * np.cos(turn), 0 * turn, 0.5 + 0.5 * np.sin(turn)], axis=1)
    stem = np.linspace((0, 0, 0), (0, 0, -0.5), 12)
    drawing.add_strokes([len(circle), len(stem)])
    points = np.concatenate([circle, stem]).astype(np.float32)
    drawing.attributes["position"].data.foreach_set("vector", points.ravel())
    item = bpy.data.objects.new("Doodle", drawn)
    bpy.context.scene.collection.objects.link(item)
    for part in place["chair"]:
        part.hide_set(True)
    stage.select(item)
    settings().sketch_from = "OBJECT"
    yield from look("grease-pencil")
    assert place["task"].stroke_lengths.tolist() == [60, 12]
    bpy.data.objects.remove(item)
    for part in place["chair"]:
        part.hide_set(False)


def from_words_and_nothing():
    """No small model does words: the panel says what is to be downloaded."""
    settings().source = "TEXT"
    yield from gui.type_into(place["area"], place["region"], "prompt", "a wooden chair")
    assert settings().prompt == "a wooden chair"
    yield from gui.redraw()
    yield from gui.shot("panel-text")
    settings().source, settings().result_size = "SHAPE", 1.0
    bpy.context.scene.cursor.location = (0.5, 0.5, 0.5)
    yield from generate("shape")
    assert np.allclose(place["made"].matrix_world.translation, (0.5, 0.5, 0.5))
    put_away()


def what_is_missing():
    """Each source without what it needs: said in the panel."""
    bpy.ops.object.select_all(action="DESELECT")
    settings().image = None
    bpy.context.scene.camera = None
    name = "annotation" if hasattr(bpy.context.scene, "annotation") else "grease_pencil"
    setattr(bpy.context.scene, name, None)
    settings().seen_from, settings().seen_objects = "CAMERA", "VISIBLE"
    for source in ("IMAGE", "SKETCH", "DEPTH"):
        settings().source = source
        yield from gui.redraw()
        yield from gui.shot(f"missing-{source.lower()}")


gui.run(
    [
        make_chair,
        choose_by_hand,
        from_the_viewport,
        from_an_image,
        from_the_scene_s_depth,
        from_depth_by_the_card,
        from_depth_through_the_view,
        from_six_depth_views,
        from_four_views,
        from_an_annotation,
        from_grease_pencil,
        from_words_and_nothing,
        what_is_missing,
    ]
)
