"""Steps in a real Blender window: a scanned cloud, a real click on Generate, a mesh in its place.

    SCAN.ply [--python PYTHON | --url URL --token TOKEN]

Imports `gui_steps`, which the harness puts on the path: it opens tabs, finds and clicks buttons
with the mouse, and takes pictures (shot-NAME.png).
"""

import bpy
import gui_steps as gui
import numpy as np
import stage
from stage import jobs

(SCAN,), OPTIONS = stage.arguments()

seen = {}


def choose_backend():
    stage.choose_backend(OPTIONS)


def make_scan():
    """The scan, turned, stretched and moved, selected in an empty scene."""
    stage.clear_scene()
    with gui.override(gui.find_area()):
        bpy.ops.wm.ply_import(filepath=SCAN)
    show_points_in_colour(bpy.context.view_layer.objects.active)
    (scan,) = bpy.data.objects
    scan.name = f"{scan.name.capitalize()}_scan"
    scan.rotation_euler.z = 0.6
    scan.scale = (1.0, 1.15, 1.0)
    scan.location = (0.2, 0.1, 0.0)
    seen["scan"] = scan.name
    bpy.context.scene.fieldforge.hide_source = True
    stage.push_undo("The scan")
    yield 0.2


def show_points_in_colour(item):
    """Geometry nodes that draw the vertices as coloured balls, as Blender shows none."""
    material = bpy.data.materials.new("Scan")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Roughness"].default_value = 0.9
    colour = nodes.new("ShaderNodeAttribute")
    colour.attribute_name = item.data.color_attributes[0].name
    links.new(colour.outputs["Color"], shader.inputs["Base Color"])
    group = bpy.data.node_groups.new("Coloured points", "GeometryNodeTree")
    for way in ("INPUT", "OUTPUT"):
        group.interface.new_socket("Geometry", in_out=way, socket_type="NodeSocketGeometry")
    start, end = group.nodes.new("NodeGroupInput"), group.nodes.new("NodeGroupOutput")
    points = group.nodes.new("GeometryNodeMeshToPoints")
    points.inputs["Radius"].default_value = 0.006 * max(item.dimensions)
    paint = group.nodes.new("GeometryNodeSetMaterial")
    paint.inputs["Material"].default_value = material
    group.links.new(start.outputs[0], points.inputs["Mesh"])
    group.links.new(points.outputs[0], paint.inputs["Geometry"])
    group.links.new(paint.outputs[0], end.inputs[0])
    item.modifiers.new("Coloured points", "NODES").node_group = group


def open_tab():
    seen["area"], seen["region"] = yield from gui.open_sidebar(stage.TAB)
    yield 0.3
    stage.look_at([bpy.data.objects[seen["scan"]]], 66, 12, "MATERIAL", 0.62)
    yield 12  # the shaders are compiled
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
    yield 5
    scan, mesh = bpy.data.objects[seen["scan"]], bpy.data.objects[f"{seen['scan']} mesh"]
    assert bpy.context.view_layer.objects.active == mesh
    assert np.allclose(mesh.matrix_world, scan.matrix_world, atol=1e-6)
    points = stage.world_points(scan)
    distances = np.abs(stage.distances_to(points, mesh))
    size = np.ptp(points, axis=0).max()
    print("distance of the points", distances.mean() / size, distances.max() / size, "of the size")
    assert distances.mean() < 0.003 * size
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
