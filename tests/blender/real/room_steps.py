"""Steps in a real Blender window: a room of words, by the model that is in the box.

SCAN.ply --python PYTHON     (the scan is not used)
"""

import os

import bpy
import gui_steps as gui
import numpy as np
import stage

_, OPTIONS = stage.arguments()
os.environ.pop("FIELDFORGE_WEIGHTS", None)
WORDS = "a living room with a sofa, two windows and blue walls"
place = {}


def settings():
    return bpy.context.scene.fieldforge


def say_what_room():
    stage.choose_backend(OPTIONS)
    stage.clear_scene()
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    settings().source = "PANORAMA_TEXT"
    yield from gui.wait_until(lambda: stage.jobs().connection.models, 300, "the models")
    yield from gui.redraw()
    yield from gui.type_into(place["area"], place["region"], "panorama_prompt", WORDS)
    assert settings().panorama_prompt == WORDS
    settings().sphere_width = "512"
    stage.push_undo("A room")
    yield from gui.redraw()
    yield from gui.shot("room-before")


def make_the_room():
    yield from stage.generate(place, 900)
    job = stage.jobs().jobs[0]
    assert (job.kind, job.model) == ("text-to-panorama", "fieldforge-rooms"), job.model
    front = place["front"] = bpy.context.view_layer.objects.active
    assert front.data.fieldforge_sphere.layer == "front"
    radii = np.linalg.norm(stage.world_points(front), axis=1)
    print("radii:", np.percentile(radii, [1, 50, 99]), job.notes, flush=True)
    assert 0.5 < np.percentile(radii, 1) < np.median(radii) < 8


def look_around():
    space = place["area"].spaces.active
    space.shading.type = "SOLID"
    space.shading.color_type = "TEXTURE"
    space.region_3d.view_perspective = "CAMERA"
    yield from gui.redraw(1.0)
    yield from gui.shot("room-inside")
    bpy.context.scene.camera.rotation_euler.z += np.pi
    yield from gui.redraw(1.0)
    yield from gui.shot("room-behind")


gui.run([say_what_room, make_the_room, look_around])
