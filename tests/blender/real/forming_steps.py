"""Steps in a real Blender window: shapes form, stand in a row, and change in part.

SCAN.ply --python PYTHON --weights FOLDER     (a store with a small model for points)
"""

import os

import bpy
import gui_steps as gui
import numpy as np
import stage
from stage import jobs

(SCAN,), OPTIONS = stage.arguments()
os.environ["FIELDFORGE_WEIGHTS"] = OPTIONS["--weights"]


place = {}


def settings():
    return bpy.context.scene.fieldforge


def previews():
    return [item for item in bpy.data.objects if item.name.startswith("Forming: ")]


def made():
    return [item for item in bpy.data.objects if item.fieldforge.job_id]


def make_scan():
    stage.choose_backend(OPTIONS)
    stage.clear_scene()
    with gui.override(gui.find_area()):
        bpy.ops.wm.ply_import(filepath=SCAN)
    (scan,) = bpy.data.objects
    scan.name = "Hen"
    scan.rotation_euler.z = 0.6
    stage.push_undo("The scan")
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    jobs().connect()
    yield from gui.wait_until(lambda: jobs().connection.models, 60, "the models")


def warm_up():
    """Previews are given a share of the time, which the backend has to learn first."""
    stage.select(bpy.data.objects["Hen"])
    settings().model = "tiny-points"
    with gui.override(place["area"]):
        bpy.ops.fieldforge.generate()
    yield from stage.finish(240)
    bpy.data.objects.remove(made()[0])


def watch_one():
    """A preview while it runs, gone when the mesh is there."""
    scan = bpy.data.objects["Hen"]
    stage.select(scan)
    settings().model = "tiny-points"
    settings().seed, settings().own_sampling, settings().steps = 3, True, 14
    stage.look_at([scan], 35, 15)
    yield 1
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.generate")
    yield from gui.wait_until(previews, 90, "a preview")
    yield 1.0
    yield from gui.redraw()
    yield from gui.shot("forming-one")
    yield from stage.finish(240)
    assert not previews()
    yield from gui.redraw()
    yield from gui.shot("formed-one")


def watch_a_row():
    scan = bpy.data.objects["Hen"]
    bpy.data.objects.remove(made()[0])
    stage.select(scan)
    settings().variations, settings().steps = 3, 8
    stage.look_at([scan], 15, 15, margin=4.5)
    yield 0.5
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.generate")
    yield from gui.wait_until(lambda: len(previews()) == 3, 90, "three previews")
    yield 1.0
    yield from gui.shot("forming-row")
    yield from undo_meanwhile(scan)
    yield from stage.finish(240)
    assert not previews()
    assert len(made()) == 3
    assert sorted(item.fieldforge.seed for item in made()) == [3, 4, 5]
    stage.look_at([bpy.data.objects["Hen"], *made()], 15, 15)
    yield from gui.redraw()
    yield from gui.shot("formed-row")


def undo_meanwhile(scan):
    """Undo and redo by the keyboard, while previews are there: neither doubled nor lost."""
    scan.location.z += 0.01
    stage.push_undo("A small move")
    x, y = gui.centre(next(r for r in place["area"].regions if r.type == "WINDOW"))
    yield from gui.act(f"move {x - 200} {y}", "key ctrl+z")
    yield 0.5
    assert len(previews()) in (0, 3), [item.name for item in previews()]
    yield from gui.act("key ctrl+shift+z")
    yield 0.5
    assert len(previews()) in (0, 3), [item.name for item in previews()]


def undo_the_row():
    """One step: all three are gone."""
    x, y = gui.centre(next(r for r in place["area"].regions if r.type == "WINDOW"))
    yield from gui.act(f"move {x - 200} {y}", "key ctrl+z")
    yield from gui.wait_until(lambda: not made(), 10, "undo")
    yield 0.5
    assert [item.name for item in bpy.data.objects] == ["Hen"]
    yield from gui.act("key ctrl+shift+z")
    yield from gui.wait_until(lambda: len(made()) == 3, 10, "redo")
    yield 0.5
    assert not previews()


def change_a_region():
    """A box over the first of the row; the other part stays where it was."""
    item = min(made(), key=lambda each: each.fieldforge.seed)
    bpy.data.objects["Hen"].hide_set(True)
    for other in made():
        other.hide_set(other != item)
    item.rotation_euler.z += 0.4
    stage.select(item)
    before, name = stage.world_points(item), item.name
    settings().variations, settings().steps = 1, 14
    context = gui.override(place["area"])
    with context:
        bpy.ops.fieldforge.add_region()
    bpy.context.view_layer.update()
    stage.look_at([item], 35, 15)
    panel = bpy.types.FIELDFORGE_PT_region
    yield from gui.redraw()
    yield from gui.shot("region-before")
    count = len(jobs().jobs)
    with gui.override(place["area"]):
        assert bpy.ops.fieldforge.regenerate_region() == {"FINISHED"}, panel
    assert len(jobs().jobs) == count + 1
    yield from gui.wait_until(previews, 90, "a preview of the region")
    yield 0.5
    yield from gui.shot("region-forming")
    yield from stage.finish(240)
    item = bpy.data.objects[name]
    after = stage.world_points(item)
    box = np.array(bpy.data.objects[f"Region of {name}"].matrix_world)
    size = np.ptp(before, axis=0).max()
    away = inside(before, box, 1.6) == 0
    print("region: vertices", len(before), "->", len(after))
    distances = np.abs(stage.distances_to(before[away], item))
    print(
        "away from the box: mean and largest move", distances.mean() / size, distances.max() / size
    )
    assert distances.mean() < 0.01 * size
    yield from gui.redraw()
    yield from gui.shot("region-after")


def inside(points, box, margin):
    """Which of (N, 3) points lie in the box, made larger by a factor."""
    local = np.linalg.solve(box, np.c_[points, np.ones(len(points))].T).T[:, :3]
    return (np.abs(local) <= margin).all(axis=1)


def cancel_one():
    """Nothing is left of what had formed."""
    hen = bpy.data.objects["Hen"]
    hen.hide_set(False)
    stage.select(hen)
    objects = {item.name for item in bpy.data.objects}
    settings().steps = 100
    yield 0.3
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.generate")
    yield from gui.wait_until(previews, 90, "a preview")
    with gui.override(place["area"]):
        bpy.ops.fieldforge.cancel(key=jobs().active[0].key)
    assert not previews()
    yield from gui.wait_until(lambda: not jobs().active, 5, "the end")
    yield 0.5
    assert {item.name for item in bpy.data.objects} == objects


def see_models():
    bpy.context.preferences.addons[stage.MODULE].preferences.show_models = True
    bpy.ops.fieldforge.open_preferences()
    yield 1.0
    yield from gui.shot("models")


gui.run(
    [
        make_scan,
        warm_up,
        watch_one,
        watch_a_row,
        undo_the_row,
        change_a_region,
        cancel_one,
        see_models,
    ]
)
