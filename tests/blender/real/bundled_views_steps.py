"""Steps in a real Blender window: a chair from all sides, and along a path, of one picture of it,
by the model that is in the box; and a mesh of these views.

SCAN.ply --python PYTHON     (the scan is not used)
"""

import importlib
import math
import os

import bpy
import gui_steps as gui
import numpy as np
import stage

_, OPTIONS = stage.arguments()
os.environ.pop("FIELDFORGE_WEIGHTS", None)
MODEL = "fieldforge-views"
BOXES = [  # middle, size, colour
    ((0, 0, 0.3), (0.9, 0.8, 0.3), (0.6, 0.12, 0.06)),
    ((0, 0.32, 0.7), (0.9, 0.18, 0.6), (0.6, 0.12, 0.06)),
    ((-0.4, -0.05, 0.5), (0.14, 0.7, 0.3), (0.25, 0.3, 0.45)),
    ((0.4, -0.05, 0.5), (0.14, 0.7, 0.3), (0.25, 0.3, 0.45)),
]
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]

place = {}


def settings():
    return bpy.context.scene.fieldforge


def cameras():
    module = importlib.import_module(f"{stage.MODULE}.blender_addon.views.cameras")
    return module.in_order(bpy.data.objects)


# ------------------------------------------------------------------------------------------ a scene


def make_an_armchair():
    stage.choose_backend(OPTIONS)
    stage.clear_scene()
    place["chair"] = armchair()
    stage.select(place["chair"])
    stage.push_undo("An armchair")
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    see_it()
    yield from gui.redraw()


def armchair() -> bpy.types.Object:
    """Blocks, of a colour each."""
    corners, faces, slots = [], [], []
    for number, (middle, size, _) in enumerate(BOXES):
        steps = [(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
        faces += [[len(corners) + k for k in side] for side in SIDES]
        corners += (np.array(middle) + np.array(steps) * size).tolist()
        slots += [number] * len(SIDES)
    mesh = bpy.data.meshes.new("Armchair")
    mesh.from_pydata(corners, [], faces)
    for _, _, color in BOXES:
        material = bpy.data.materials.new("Armchair")
        material.diffuse_color = (*color, 1)
        mesh.materials.append(material)
    mesh.polygons.foreach_set("material_index", slots)
    made = bpy.data.objects.new("Armchair", mesh)
    bpy.context.scene.collection.objects.link(made)
    return made


def see_it(margin=3.2):
    stage.look_at([place["chair"]], 35, 22, "SOLID", margin)
    place["area"].spaces.active.shading.color_type = "MATERIAL"


# -------------------------------------------------------------------------------------------- views


def views_of_one_picture():
    """The first camera sees the armchair, the model tells what the others would see."""
    settings().source, settings().views_picture = "IMAGE_VIEWS", "OBJECTS"
    yield from gui.wait_until(models_known, 120, "the models")
    settings().known_views, settings().cameras_from = 1, "RING"
    settings().ring_count, settings().ring_caps = 8, True
    settings().ring_start = math.radians(30)
    yield from gui.redraw(0.5)
    yield from gui.shot("views-before")
    yield from stage.generate(place, 600)
    job = stage.jobs().jobs[0]
    assert (job.kind, job.model) == ("image-to-views", MODEL)
    views = place["views"] = cameras()
    assert len(views) == 10, len(views)
    place["chair"].hide_set(True)
    yield from gui.redraw(0.5)
    yield from gui.shot("views-after")


def models_known():
    if stage.jobs().connection.state == "unknown":
        stage.jobs().connect()
    return bool(stage.jobs().connection.models)


def look_through_some():
    """One beside the given picture, and the one behind the thing."""
    for number, name in ((1, "views-beside"), (4, "views-behind")):
        bpy.context.scene.camera = place["views"][number]
        place["area"].spaces.active.region_3d.view_perspective = "CAMERA"
        yield from gui.redraw(0.7)
        yield from gui.shot(name)
    place["area"].spaces.active.region_3d.view_perspective = "PERSP"


# -------------------------------------------------------------------------------------- to a mesh


def mesh_of_them():
    """A closed one in the place of the armchair, and about as large."""
    before = set(bpy.data.objects)
    stage.select(place["views"][0])
    with gui.override(place["area"]):
        assert bpy.ops.fieldforge.mesh_from_views() == {"FINISHED"}
    yield from stage.generate(place, 400)
    (made,) = set(bpy.data.objects) - before
    place["chair"].hide_set(False)
    distances = np.abs(stage.distances_to(stage.world_points(made), place["chair"]))
    print(f"mesh: off the armchair by {distances.mean():.3f} on average", flush=True)
    assert distances.mean() < 0.1, distances.mean()
    place["chair"].hide_set(True)
    for item in place["views"]:
        item.hide_set(True)
    stage.look_at([made], 35, 22, "SOLID", 1.2)
    place["area"].spaces.active.shading.color_type = "TEXTURE"
    yield from gui.redraw(1)
    yield from gui.shot("views-mesh")
    bpy.data.objects.remove(made)
    for item in bpy.data.objects:
        item.hide_set(False)


# ------------------------------------------------------------------------------------------- a path


def views_along_a_curve():
    """Half around the armchair and upwards; the cameras look at its middle."""
    data = bpy.data.curves.new("Path", "CURVE")
    data.dimensions = "3D"
    spline = data.splines.new("BEZIER")
    spline.bezier_points.add(2)
    ways = [(-2.2, -0.8, 0.9), (0, -2.4, 1.4), (2.2, -0.8, 1.9)]
    for control, there in zip(spline.bezier_points, ways, strict=True):
        control.co = there
        control.handle_left_type = control.handle_right_type = "AUTO"
    path = bpy.data.objects.new("Path", data)
    bpy.context.scene.collection.objects.link(path)
    stage.select(place["chair"])
    settings().source, settings().cameras_from = "IMAGE_VIEWS", "PATH"
    settings().path_curve, settings().ring_count = path, 6
    see_it(3.6)
    yield from gui.redraw(0.5)
    yield from gui.shot("path-before")
    before = set(cameras())
    yield from stage.generate(place, 600)
    made = [view for view in cameras() if view not in before]
    assert len(made) == 6, len(made)
    place["chair"].hide_set(True)
    for view in before:
        view.hide_set(True)
    yield from gui.redraw(0.7)
    yield from gui.shot("path-after")


gui.run(
    [
        make_an_armchair,
        views_of_one_picture,
        look_through_some,
        mesh_of_them,
        views_along_a_curve,
    ]
)
