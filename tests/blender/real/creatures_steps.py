"""Steps in a real Blender window: a walking person of nothing, by the model that is in the box.

SCAN.ply --python PYTHON     (the scan is not used)
"""

import importlib
import os

import bpy
import gui_steps as gui
import numpy as np
import stage

_, OPTIONS = stage.arguments()
os.environ.pop("FIELDFORGE_WEIGHTS", None)
motion = importlib.import_module(f"{stage.MODULE}.blender_addon.fields.motion")
place = {}


def settings():
    return bpy.context.scene.fieldforge


def choose_a_person():
    stage.choose_backend(OPTIONS)
    stage.clear_scene()
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    settings().source = "ANIMATION"
    yield from gui.wait_until(lambda: stage.jobs().connection.models, 120, "the models")
    settings().motion_choice = "walking person"
    settings().field_resolution = "64"
    yield from gui.redraw()
    yield from gui.shot("creature-before")


def make_the_person():
    stage.push_undo("A person")
    yield from stage.generate(place, 600)
    job = stage.jobs().jobs[0]
    assert (job.kind, job.model) == ("animation", "fieldforge-creatures")
    root = place["root"] = motion.root_of(bpy.context.view_layer.objects.active)
    print("made", root.name, root.fieldforge_motion.frames, job.notes, flush=True)
    assert root.fieldforge_motion.frames == 16
    stage.look_at(list(motion.parts_of(root)), 35, 15, "SOLID", 1.2)
    yield from gui.redraw()
    yield from gui.shot("creature-first")


def see_it_walk():
    scene, seen = bpy.context.scene, []
    for count in (0, 8):
        own = place["root"].fieldforge_motion
        scene.frame_set(round(own.start + count * own.speed))
        seen.append(_shown())
    assert len(seen[0]) != len(seen[1]) or np.abs(seen[0] - seen[1]).max() > 0.05
    yield from gui.redraw()
    yield from gui.shot("creature-later")


def _shown() -> np.ndarray:
    """The places of what shows now."""
    parts = motion.parts_of(place["root"])
    part = next(each for each in parts if not each.hide_viewport)
    return stage.world_points(part.evaluated_get(bpy.context.evaluated_depsgraph_get()))


gui.run([choose_a_person, make_the_person, see_it_walk])
