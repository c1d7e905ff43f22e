"""Steps in a real Blender window: what an artist has who has nothing but what is in the box.

    SCAN.ply --python PYTHON     (the scan is not used)

A cupboard of boxes is taken as a picture of the viewport; the model in the box, which the panel
chose itself, makes a shape of it.
"""

import os

import bpy
import gui_steps as gui
import numpy as np
import stage

_, OPTIONS = stage.arguments()
os.environ.pop("FIELDFORGE_WEIGHTS", None)

place = {}


def settings():
    return bpy.context.scene.fieldforge


def make_cupboard():
    stage.choose_backend(OPTIONS)
    stage.clear_scene()
    with gui.override(gui.find_area()):
        bpy.ops.mesh.primitive_cube_add(size=1, location=(0, 0, 0.9), scale=(0.9, 0.6, 1.8))
    place["cupboard"] = bpy.context.view_layer.objects.active
    stage.push_undo("A cupboard")
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    stage.look_at([place["cupboard"]], 35, 18, "SOLID", 0.9)
    yield 0.5


def choose_the_viewport():
    settings().source = "VIEWPORT"
    yield from gui.wait_until(lambda: stage.jobs().connection.models, 120, "the models")
    yield from gui.redraw()
    yield from gui.shot("bundled-before")


def generate():
    before = set(bpy.data.objects)
    yield from stage.generate(place, 300)
    (made,) = set(bpy.data.objects) - before
    place["made"] = made
    place["cupboard"].hide_set(True)
    stage.look_at([made], 35, 18, "SOLID", 0.9)
    yield from gui.redraw()
    yield from gui.shot("bundled-after")
    assert stage.jobs().jobs[0].model == "fieldforge-small"


def it_stands_upright():
    size = np.array(place["made"].dimensions)
    print("size", size, "faces", len(place["made"].data.polygons), flush=True)
    assert size[2] > 1.2 * max(size[0], size[1])
    yield 0.1


gui.run([make_cupboard, choose_the_viewport, generate, it_stands_upright])
