"""Steps in a real Blender window: a scanned cloud, a real click on Generate, a mesh in its place.

    SCAN.ply [--python PYTHON | --url URL --token TOKEN]

Imports `gui_steps`, which the harness puts on the path: it opens tabs, finds and clicks buttons
with the mouse, and takes pictures (shot-NAME.png).
"""

import sys

import bpy
import gui_steps as gui
import numpy as np

# ruff: noqa: SIM118  (what Blender keeps by name iterates over its values)
ARGUMENTS = sys.argv[sys.argv.index("--") + 1 :]
SCAN = ARGUMENTS[0]
OPTIONS = dict(zip(ARGUMENTS[1::2], ARGUMENTS[2::2], strict=True))
MODULE = next(n for n in bpy.context.preferences.addons.keys() if n.endswith("fieldforge"))

seen = {}


def jobs():
    return sys.modules[f"{MODULE}.blender_addon.session"].jobs()


def world_bounds(item):
    values = np.zeros(3 * len(item.data.vertices), np.float32)
    item.data.vertices.foreach_get("co", values)
    matrix = np.array(item.matrix_world)
    points = values.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]
    return np.stack([points.min(axis=0), points.max(axis=0)])


def choose_backend():
    chosen = bpy.context.preferences.addons[MODULE].preferences
    if "--python" in OPTIONS:
        chosen.mode, chosen.python = "PYTHON", OPTIONS["--python"]
    elif "--url" in OPTIONS:
        chosen.mode, chosen.url, chosen.token = "SERVER", OPTIONS["--url"], OPTIONS["--token"]


def make_scan():
    """The scan, turned, stretched and moved, selected in an empty scene."""
    for item in list(bpy.data.objects):
        bpy.data.objects.remove(item)
    with gui.override(gui.find_area()):
        bpy.ops.wm.ply_import(filepath=SCAN)
    (scan,) = bpy.data.objects
    scan.name = f"{scan.name.capitalize()}_scan"
    scan.rotation_euler.z = 0.6
    scan.scale = (1.0, 1.15, 1.0)
    scan.location = (0.2, 0.1, 0.0)
    seen["scan"] = scan.name
    bpy.context.scene.fieldforge.hide_source = True
    with gui.override():  # a person's own actions leave undo steps, a script's do not
        bpy.ops.ed.undo_push(message="The scan")
    yield 0.2
    frame()
    yield 0.5


def frame():
    area = gui.find_area()
    region = next(r for r in area.regions if r.type == "WINDOW")
    with gui.override(area, region):
        bpy.ops.view3d.view_axis(type="FRONT")
        bpy.ops.view3d.view_orbit(angle=0.6, type="ORBITRIGHT")
        bpy.ops.view3d.view_orbit(angle=0.35, type="ORBITUP")
        bpy.ops.view3d.view_selected()
    area.spaces.active.shading.color_type = "VERTEX"


def open_tab():
    seen["area"], seen["region"] = yield from gui.open_sidebar("Fieldforge")
    yield 0.3
    frame()
    yield from gui.shot("before")


def click_generate():
    yield from gui.click_operator(seen["area"], seen["region"], "fieldforge.generate")
    yield from gui.wait_until(lambda: jobs().jobs, 10, "a job")
    yield from gui.wait_until(
        lambda: jobs().jobs[0].fraction > 0.2 or not jobs().jobs[0].active, 90, "progress"
    )
    yield from gui.shot("during")


def see_the_mesh():
    yield from gui.wait_until(lambda: not jobs().jobs[0].active, 150, "the end of the job")
    job = jobs().jobs[0]
    assert job.state == "done", (job.state, job.error)
    yield 0.3
    scan, mesh = bpy.data.objects[seen["scan"]], bpy.data.objects[f"{seen['scan']} mesh"]
    assert bpy.context.view_layer.objects.active == mesh
    assert mesh.matrix_world == scan.matrix_world
    size = np.ptp(world_bounds(scan), axis=0).max()
    assert np.abs(world_bounds(mesh) - world_bounds(scan)).max() < 0.03 * size
    assert len(mesh.data.color_attributes) == 1
    yield from gui.shot("after")


def undo_and_redo():
    """One step: the mesh is gone, the scan is there; and back."""
    area = seen["area"]
    x, y = gui.centre(next(r for r in area.regions if r.type == "WINDOW"))
    yield from gui.act(f"move {x - 200} {y}", "key ctrl+z")
    yield from gui.wait_until(lambda: len(bpy.data.objects) == 1, 10, "undo")
    yield from gui.act("key ctrl+shift+z")
    yield from gui.wait_until(lambda: len(bpy.data.objects) == 2, 10, "redo")


def deselect():
    """Nothing selected: Generate is disabled, and says why."""
    bpy.ops.object.select_all(action="DESELECT")
    yield from gui.shot("nothing-selected")


def lose_the_backend():
    """The backend is killed while it works: the panel says what happened and what to do."""
    scan = bpy.data.objects[seen["scan"]]
    scan.hide_set(False)
    scan.select_set(True)
    bpy.context.view_layer.objects.active = scan
    yield 0.2
    yield from gui.click_operator(seen["area"], seen["region"], "fieldforge.generate")
    yield from gui.wait_until(lambda: jobs().jobs[0].job_id, 60, "a job that was sent")
    jobs().backend.process._process.kill()
    yield from gui.wait_until(lambda: not jobs().jobs[0].active, 60, "the loss")
    assert jobs().jobs[0].state == "lost", jobs().jobs[0].state
    yield from gui.redraw(0.5)
    yield from gui.shot("lost")


def fetch_again():
    """One click starts a new backend, which has the task still, and the mesh comes after all."""
    yield from gui.click_operator(seen["area"], seen["region"], "fieldforge.import_again")
    yield from gui.wait_until(lambda: jobs().jobs[0].active, 10, "the second attempt")
    yield from gui.wait_until(lambda: not jobs().jobs[0].active, 120, "its end")
    yield from gui.redraw(0.5)
    yield from gui.shot("fetched-again")
    assert jobs().jobs[0].state == "done", jobs().jobs[0].error


def see_preferences():
    bpy.ops.fieldforge.open_preferences()
    yield 1.0
    yield from gui.shot("preferences")


STEPS = [choose_backend, make_scan, open_tab, click_generate, see_the_mesh, undo_and_redo, deselect]
if "--python" in OPTIONS:
    STEPS += [lose_the_backend, fetch_again]
gui.run([*STEPS, see_preferences])
