"""Steps in a real Blender window: views of a chair from all sides, and meshes of views.

    SCAN.ply (--python PYTHON --weights FOLDER | --url URL --token TOKEN)   (the scan is not used)

With --url the backend paints the chair as it is, so that pictures, cameras and scene can be
compared by eye; else a small model of chance paints, and a mesh is made of what cameras see of the
chair.
"""

import math
import os
import time

import bpy
import gui_steps as gui
import numpy as np
import stage

_, OPTIONS = stage.arguments()
if "--weights" in OPTIONS:
    os.environ["FIELDFORGE_WEIGHTS"] = OPTIONS["--weights"]
TRUE_PAINTER = "--url" in OPTIONS
BOXES = [  # middle, size, colour
    ((0, 0, 0.5), (0.5, 0.5, 0.06), (0.7, 0.08, 0.05)),
    ((0, 0.23, 0.85), (0.5, 0.05, 0.6), (0.1, 0.35, 0.7)),
    *(
        ((x, y, 0.24), (0.06, 0.06, 0.48), (0.4, 0.4, 0.42))
        for x in (-0.2, 0.2)
        for y in (-0.2, 0.2)
    ),
]
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]

place = {}


def settings():
    return bpy.context.scene.fieldforge


def addon(name: str):
    import importlib

    return importlib.import_module(f"{stage.MODULE}.blender_addon.{name}")


# ------------------------------------------------------------------------------------------ a scene


def make_chair():
    """A chair of boxes, each side of it in a colour of its own."""
    stage.choose_backend(OPTIONS)
    stage.clear_scene()
    place["chair"] = chair("Chair")
    bpy.context.scene.cursor.location = (0, 0, 0.575)
    stage.select(place["chair"])
    stage.push_undo("A chair")
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    see_chair()
    yield from gui.redraw()


def chair(name: str) -> bpy.types.Object:
    corners, faces, slots = [], [], []
    for number, (middle, size, _) in enumerate(BOXES):
        steps = [(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
        faces += [[len(corners) + k for k in side] for side in SIDES]
        corners += (np.array(middle) + np.array(steps) * size).tolist()
        slots += [min(number, 2)] * len(SIDES)
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(corners, [], faces)
    for _, _, color in BOXES[:3]:
        material = bpy.data.materials.new(name)
        material.diffuse_color = (*color, 1)
        mesh.materials.append(material)
    mesh.polygons.foreach_set("material_index", slots)
    made = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(made)
    return made


def see_chair(turn=35, lift=22, margin=2.6):
    stage.look_at([place["chair"]], turn, lift, "SOLID", margin)
    place["area"].spaces.active.shading.color_type = "MATERIAL"


# ---------------------------------------------------------------------------------- cameras to come


def show_the_ring():
    """Cameras are shown where they are going to stand; nothing is made yet."""
    settings().source, settings().views_picture = "IMAGE_VIEWS", "OBJECTS"
    yield from gui.wait_until(lambda: jobs_know_models(), 120, "the models")
    settings().ring_count, settings().ring_caps, settings().views_pixels = 6, True, 32
    settings().own_ring, settings().ring_elevation = True, math.radians(20)
    before = len(bpy.data.objects)
    yield from gui.redraw(0.5)
    yield from gui.shot("ring")
    assert len(bpy.data.objects) == before
    settings().own_ring = False


def jobs_know_models():
    if stage.jobs().connection.state == "unknown":
        stage.jobs().connect()
    return bool(stage.jobs().connection.models)


def choose_by_hand():
    yield from gui.click_property(place["area"], place["region"], "source")
    yield 0.5
    yield from gui.shot("chooser")
    yield from gui.key("Escape")


# -------------------------------------------------------------------------------------------- views


def views_of_the_viewport():
    """From where the viewport looks, and on around the chair."""
    settings().views_picture, settings().ring_count = "VIEWPORT", 8
    settings().result_size, settings().views_pixels = 1.2, 256 if TRUE_PAINTER else 32
    see_chair(35, 22, 2.2)
    yield from gui.redraw(0.5)
    yield from gui.shot("viewport-panel")
    space = place["area"].spaces.active
    looks = np.linalg.inv(np.array(space.region_3d.view_matrix))
    yield from stage.generate(place, 240)
    views = place["views"] = cameras()
    assert len(views) == 8, len(views)
    assert np.allclose(np.array(views[0].matrix_world), looks, atol=1e-4)
    yield from gui.redraw(0.5)
    yield from gui.shot("views")


def cameras():
    return addon("views.cameras").in_order(bpy.data.objects)


def look_through_the_first():
    """The picture lies over the chair: the same edges at the same pixels."""
    stage.select(place["views"][0])
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.look_through")
    yield 1
    space = place["area"].spaces.active
    if space.region_3d.view_perspective != "CAMERA":
        with gui.override(place["area"]):
            bpy.ops.fieldforge.look_through(step=0)
    yield from gui.redraw(1)
    yield from gui.shot("through-both")
    place["chair"].hide_set(True)
    yield from gui.redraw(0.5)
    yield from gui.shot("through-picture")
    place["chair"].hide_set(False)


def play_the_turntable():
    """Frame by frame: the timeline goes through the cameras."""
    scene, views = bpy.context.scene, place["views"]
    hold = settings().views_hold
    for number in (0, 2, 5):
        scene.frame_set(scene.frame_preview_start + number * hold)
        assert scene.camera == views[number], scene.camera
    place["chair"].hide_set(True)
    yield from gui.redraw(0.5)
    yield from gui.shot("frame-five")
    moving = next(item for item in bpy.data.objects if item.name.endswith("turntable"))
    scene.frame_set(scene.frame_preview_start + 3 * hold)
    scene.camera = moving  # the markers bind others
    yield from gui.redraw(1)
    yield from gui.shot("turntable")
    place["chair"].hide_set(False)
    scene.frame_set(scene.frame_preview_start)
    place["area"].spaces.active.region_3d.view_perspective = "PERSP"


def make_one_anew():
    """With the others as they are."""
    stage.select(place["views"][2])
    yield from gui.redraw(0.5)
    yield from gui.shot("views-panel")
    kept = [item.data.background_images[0].image.name for item in place["views"]]
    with gui.override(place["area"]):
        assert bpy.ops.fieldforge.reroll_views(which="ONE") == {"FINISHED"}
    yield from stage.finish(240)
    now = [item.data.background_images[0].image.name for item in place["views"]]
    assert now == kept, (now, kept)
    assert len(cameras()) == 8


def undo_all_of_it():
    """A step for the view that was made anew, one for all views."""
    x, y = gui.centre(next(r for r in place["area"].regions if r.type == "WINDOW"))
    yield from gui.act(f"move {x - 200} {y}")
    steps = 0
    while cameras() and steps < 6:
        yield from gui.act("key ctrl+z")
        yield 0.7
        steps += 1
    print("undo:", steps, "steps", flush=True)
    left = [item.name for item in bpy.data.objects]
    assert left == ["Chair"], left
    assert not bpy.context.scene.timeline_markers
    assert not [image for image in bpy.data.images if "views" in image.name]
    for _ in range(steps):
        yield from gui.act("key ctrl+shift+z")
        yield 0.7
    place["chair"] = bpy.data.objects["Chair"]
    place["views"] = cameras()
    assert len(place["views"]) == 8


# -------------------------------------------------------------------------------------- to a mesh


def mesh_of_the_views():
    """It lies on the chair, with a texture."""
    if not TRUE_PAINTER:
        return
    stage.select(place["views"][0])
    with gui.override(place["area"]):
        assert bpy.ops.fieldforge.mesh_from_views() == {"FINISHED"}
    yield from gui.redraw(0.5)
    yield from gui.shot("mesh-panel")
    yield from make_mesh("mesh-of-views")


def rebuild_the_chair():
    """What cameras see of the chair, colours and depth, becomes a mesh of one piece."""
    stage.select(place["chair"])
    settings().source, settings().scene_from = "SCENE_VIEWS", "OBJECTS"
    settings().cameras_from, settings().ring_caps, settings().ring_count = "RING", True, 8
    settings().views_pixels, settings().scene_resolution = 256, "128"
    see_chair(35, 22, 2.2)
    yield from gui.redraw(0.5)
    yield from gui.shot("rebuild-panel")
    begun = time.perf_counter()
    with gui.override(place["area"]):
        addon("sources").capture(bpy.context, {"id": ""})
    print(f"rebuild: held Blender {time.perf_counter() - begun:.2f} s", flush=True)
    yield from make_mesh("rebuilt")


def make_mesh(name: str):
    before = set(bpy.data.objects)
    yield from stage.generate(place, 400)
    (made,) = set(bpy.data.objects) - before
    distances = np.abs(stage.distances_to(stage.world_points(made), place["chair"]))
    print(f"{name}: {len(made.data.vertices)} vertices, off the chair by", flush=True)
    print(f"    {distances.mean():.4f}, 95 % {np.quantile(distances, 0.95):.4f} m", flush=True)
    assert distances.mean() < 0.02, distances.mean()
    assert made.data.uv_layers
    texture = [n for n in made.data.materials[0].node_tree.nodes if n.type == "TEX_IMAGE"]
    assert texture[0].image.packed_file is not None
    place["chair"].hide_set(True)
    for item in bpy.data.objects:
        if item.type == "CAMERA":
            item.hide_set(True)
    stage.look_at([made], 35, 22, "SOLID", 1.1)
    place["area"].spaces.active.shading.color_type = "TEXTURE"
    yield from gui.redraw(1)
    yield from gui.shot(name)
    bpy.data.objects.remove(made)
    for item in bpy.data.objects:
        item.hide_set(False)


# ------------------------------------------------------------------------------------------- a path


def cameras_along_a_curve():
    """A Bezier curve before the chair; the cameras look at the middle."""
    data = bpy.data.curves.new("Path", "CURVE")
    data.dimensions = "3D"
    spline = data.splines.new("BEZIER")
    spline.bezier_points.add(2)
    for control, there in zip(
        spline.bezier_points, [(-2.5, -2, 0.3), (0, -3.5, 2), (2.5, -2, 0.8)], strict=True
    ):
        control.co = there
        control.handle_left_type = control.handle_right_type = "AUTO"
    path = bpy.data.objects.new("Path", data)
    bpy.context.scene.collection.objects.link(path)
    stage.select(path)
    settings().source, settings().views_picture = "TEXT_VIEWS", "IMAGE"
    settings().prompt, settings().cameras_from = "a chair", "PATH"
    settings().views_around, settings().ring_count = "CURSOR", 7
    see_chair(0, 30, 4.5)
    yield from gui.redraw(0.5)
    yield from gui.shot("path")
    bpy.data.objects.remove(path)


gui.run(
    [
        make_chair,
        show_the_ring,
        choose_by_hand,
        views_of_the_viewport,
        look_through_the_first,
        play_the_turntable,
        make_one_anew,
        undo_all_of_it,
        mesh_of_the_views,
        rebuild_the_chair,
        cameras_along_a_curve,
    ]
)
