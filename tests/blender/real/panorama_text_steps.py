"""Steps in a real Blender window: words, a panorama that forms, a sphere, and pictures alone.

    SCAN.ply --python PYTHON --weights FOLDER     (the scan is not used)

FOLDER is a store with a small model for words, of weights of chance: what it paints is noise.
"""

import math
import os

import bpy
import gui_steps as gui
import numpy as np
import stage
from mathutils import Euler
from stage import jobs

_, OPTIONS = stage.arguments()
os.environ["FIELDFORGE_WEIGHTS"] = OPTIONS["--weights"]
MODEL = "small-rooms"
WORDS = "a sunny room"
STEPS = 250  # enough to watch

place = {}


def settings():
    return bpy.context.scene.fieldforge


def choose_words():
    stage.choose_backend(OPTIONS)
    stage.clear_scene()
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    settings().source = "PANORAMA_TEXT"
    jobs().connect()
    yield from gui.wait_until(lambda: jobs().connection.models, 300, "the models")
    yield from gui.redraw()
    yield from gui.shot("words-empty")
    yield from gui.type_into(place["area"], place["region"], "panorama_prompt", WORDS)
    assert settings().panorama_prompt == WORDS
    settings().model = MODEL
    assert settings().model == MODEL
    settings().own_sampling, settings().steps, settings().seed = True, STEPS, 3
    settings().watch = True
    settings().sphere_width = "512"
    stage.push_undo("Words")
    yield from gui.redraw()
    yield from gui.shot("words")


def pictures_that_form():
    return [item for item in bpy.data.objects if item.name.startswith("Forming: ")]


def watch_it_form():
    """A preview while the steps run, gone when the sphere is there."""
    before = len(jobs().jobs)
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.generate")
    yield from gui.wait_until(lambda: len(jobs().jobs) > before, 30, "a job")
    yield from gui.wait_until(
        lambda: pictures_that_form() or not jobs().jobs[0].active, 600, "a preview"
    )
    job = jobs().jobs[0]
    assert job.active, (job.state, job.error)
    (preview,) = pictures_that_form()
    assert preview.type == "EMPTY"
    assert preview.data.size[0] == 2 * preview.data.size[1]
    view = place["area"].spaces.active.region_3d
    view.view_rotation = Euler((math.pi / 2, 0, 0)).to_quaternion()  # it stands upright
    view.view_location, view.view_distance = (0, 0, 0), 8
    yield from gui.redraw(1.0)
    yield from gui.shot("words-forming")
    yield from stage.finish(600)
    assert not pictures_that_form()


def see_the_sphere():
    """Closed, of the model's near and far, told in the history; looked at from outside and in."""
    job = jobs().jobs[0]
    assert (job.kind, job.model, job.steps, job.seed) == ("text-to-panorama", MODEL, STEPS, 3)
    front = place["front"] = bpy.context.view_layer.objects.active
    assert front.data.fieldforge_sphere.layer == "front"
    assert front.name == WORDS[0].upper() + WORDS[1:], front.name
    depth = front.data.fieldforge_sphere
    assert depth.meaning == "inverse"
    radii = np.linalg.norm(stage.world_points(front), axis=1)
    print("radii:", radii.min(), radii.max(), "near, far:", depth.near, depth.far, flush=True)
    assert depth.near * 0.99 <= radii.min() < radii.max() <= depth.far * 1.01
    (image,) = {
        node.image for node in front.data.materials[0].node_tree.nodes if node.type == "TEX_IMAGE"
    }
    assert tuple(image.size) == (128, 64)
    assert image.packed_file is not None
    stage.look_at([front], 35, 25, "SOLID", 1.0)
    yield from gui.redraw(1.0)
    yield from gui.shot("words-sphere")
    space = place["area"].spaces.active
    space.shading.color_type = "TEXTURE"  # the nodes are drawn by the steps of panoramas
    space.region_3d.view_perspective = "CAMERA"
    yield from gui.redraw(1.0)
    yield from gui.shot("words-inside")
    space.region_3d.view_perspective = "PERSP"


def turn_the_depth():
    front = place["front"]
    before = np.linalg.norm(stage.world_points(front), axis=1)
    front.data.fieldforge_sphere.scale = 0.5
    after = np.linalg.norm(stage.world_points(front), axis=1)
    assert np.allclose(after, before / 2, atol=1e-3)
    yield 0.2


def make_pictures_alone():
    """Without a sphere the picture and its depth become the chosen panorama."""
    settings().panorama_to_sphere = False
    settings().steps = 3
    yield from stage.generate(place, 300)
    yield from gui.redraw()
    yield from gui.shot("words-pictures")
    assert settings().panorama.size[0] == 128
    assert settings().panorama_depth.is_float
    values = np.empty(len(settings().panorama_depth.pixels), np.float32)
    settings().panorama_depth.pixels.foreach_get(values)
    assert values.std() > 0
    settings().source = "PANORAMA"
    yield from gui.redraw()
    yield from gui.shot("words-chosen")
    yield from stage.generate(place, 300)
    assert bpy.context.view_layer.objects.active.data.fieldforge_sphere.layer == "front"


gui.run(
    [
        choose_words,
        watch_it_form,
        see_the_sphere,
        turn_the_depth,
        make_pictures_alone,
    ]
)
