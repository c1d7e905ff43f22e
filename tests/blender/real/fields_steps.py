"""Steps in a real Blender window: a bending pole and a chess piece become neural fields, come back,
play, and turn into one another by a slider.

    SCAN.ply (--python PYTHON | --url URL --token TOKEN) [--only playing]     (the scan is not used)

Prints how long a frame and a move of the slider take, with drawing. --only playing: the former
alone, which needs no backend.
"""

import importlib
import tempfile
import time
from pathlib import Path

import bpy
import gui_steps as gui
import numpy as np
import stage

_, OPTIONS = stage.arguments()
SAMPLES = 4
place = {}


def settings():
    return bpy.context.scene.fieldforge


def addon(name: str):
    return importlib.import_module(f"{stage.MODULE}.blender_addon.fields.{name}")


def root_of(item):
    return addon("motion").root_of(item)


# ------------------------------------------------------------------------------------------ a scene


def make_things():
    """A pole that a modifier bends, back and forth in 24 frames, and a piece of chess."""
    stage.choose_backend(OPTIONS)
    stage.clear_scene()
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, 24
    place["pole"] = turned("Pole", [(0.3, z) for z in np.linspace(-1, 1, 24)])
    bend = place["pole"].modifiers.new("Bend", "SIMPLE_DEFORM")
    bend.deform_method, bend.deform_axis = "BEND", "X"
    for frame, angle in ((1, -1.4), (13, 1.4), (25, -1.4)):
        bend.angle = angle
        bend.keyframe_insert("angle", frame=frame)
    outline = [(0.5, -1), (0.5, -0.8), (0.2, -0.6), (0.16, 0.2), (0.34, 0.35), (0.3, 0.8)]
    place["pawn"] = turned("Pawn", outline)
    place["knob"] = turned("Knob", [(0.2, -1), (0.55, -0.4), (0.6, 0.2), (0.3, 0.7)])
    place["pawn"].location.x, place["knob"].location.x = 3, 6
    stage.select(place["pole"])
    stage.push_undo("Things")
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    stage.look_at([place["pole"]], 25, 15, "SOLID", 1.3)
    yield from gui.redraw()


def turned(name: str, outline) -> bpy.types.Object:
    """A closed body of revolution around Z. outline: (radius, z), from below."""
    around, points, faces = 32, [], []
    for radius, z in outline:
        turn = np.linspace(0, 2 * np.pi, around, endpoint=False)
        ring = np.stack([radius * np.cos(turn), radius * np.sin(turn), np.full(around, z)], -1)
        points += ring.tolist()
    for level in range(len(outline) - 1):
        for step in range(around):
            a, b = level * around + step, level * around + (step + 1) % around
            faces.append((a, b, b + around, a + around))
    faces += [tuple(range(around))[::-1], tuple(range(len(points) - around, len(points)))]
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(points, [], faces)
    made = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(made)
    return made


# ----------------------------------------------------------------------------------------- compress


def compress_the_motion():
    """Its frames are read while the window goes on being drawn."""
    settings().field_from, settings().field_samples = "FRAMES", SAMPLES
    settings().field_loop, settings().field_effort = True, "fast"
    settings().field_resolution = "64"
    bpy.context.scene.frame_set(5)
    yield from gui.redraw(0.5)
    yield from gui.shot("field-before")
    before = len(stage.jobs().jobs)  # those of Blenders before this one
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.compress_field")
    yield from gui.wait_until(lambda: len(stage.jobs().jobs) > before, 60, "a job")
    assert bpy.context.scene.frame_current == 5
    yield 3
    yield from gui.shot("field-during")
    yield from stage.finish(900)
    root = place["moving"] = root_of(bpy.context.view_layer.objects.active)
    own = root.fieldforge_motion
    print("a motion:", own.way, own.frames, "frames, IoU", round(own.iou, 4), flush=True)
    print("   ", addon("panel").card_words(root), stage.jobs().jobs[0].notes, flush=True)
    assert own.frames == SAMPLES
    assert own.iou > 0.9
    assert own.speed == 24 / SAMPLES


def see_it_play():
    """The field does what the original does; one click hides that."""
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.show_original")
    yield from gui.wait_until(place["pole"].hide_get, 10, "the original to be hidden")
    scene, root = bpy.context.scene, place["moving"]
    for frame, name in ((1, "left"), (13, "right")):
        scene.frame_set(frame)
        points = stage.world_points(shown(root))
        want = stage.world_points(place["pole"].evaluated_get(depsgraph()))
        ends = [np.array([each.min(axis=0), each.max(axis=0)]) for each in (points, want)]
        print(f"frame {frame}: ends off by {np.abs(ends[0] - ends[1]).max():.3f} m", flush=True)
        assert np.abs(ends[0] - ends[1]).max() < 0.1
        yield from gui.redraw(0.5)
        yield from gui.shot(f"field-{name}")


def depsgraph():
    return bpy.context.evaluated_depsgraph_get()


def shown(root):
    """The part that shows now, as it is evaluated."""
    parts = addon("motion").parts_of(root)
    part = next(each for each in parts if not each.hide_viewport)
    return part.evaluated_get(depsgraph())


def bring_it_back_otherwise():
    """A mesh per frame, finer; undo returns the shape keys."""
    before = place["moving"].fieldforge_motion.way
    settings().motion_way, settings().field_resolution = "MESHES", "128"
    yield from gui.redraw(0.5)
    jobs = len(stage.jobs().jobs)
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.bring_back")
    yield from gui.wait_until(lambda: len(stage.jobs().jobs) > jobs, 10, "a job")
    yield from stage.finish(600)
    assert place["moving"].fieldforge_motion.way == "MESHES"
    assert len(addon("motion").parts_of(place["moving"])) == SAMPLES
    yield from gui.shot("field-back")
    x, y = gui.centre(next(r for r in place["area"].regions if r.type == "WINDOW"))
    name = place["moving"].name
    yield from gui.act(f"move {x - 200} {y}", "key ctrl+z")
    yield from gui.wait_until(
        lambda: bpy.data.objects[name].fieldforge_motion.way == before, 10, "undo"
    )
    yield from gui.act("key ctrl+shift+z")
    yield from gui.wait_until(
        lambda: bpy.data.objects[name].fieldforge_motion.way == "MESHES", 10, "redo"
    )
    place.update({key: bpy.data.objects[key.capitalize()] for key in ("pole", "pawn", "knob")})
    place["moving"] = bpy.data.objects[name]


# ------------------------------------------------------------------------------ from shape to shape


def mix_two():
    settings().field_from, settings().mix_steps = "OBJECT", 9
    settings().field_resolution = "64"
    roots = []
    for key in ("pawn", "knob"):
        stage.select(place[key])
        with gui.override(place["area"]):
            assert bpy.ops.fieldforge.compress_field() == {"FINISHED"}
        yield from stage.finish(600)
        roots.append(root_of(bpy.context.view_layer.objects.active))
        place[key].hide_set(True)
    stage.select(addon("motion").parts_of(roots[0])[0], roots[1])
    yield from gui.redraw(0.5)
    yield from gui.shot("field-ends")
    jobs = len(stage.jobs().jobs)
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.mix_fields")
    yield from gui.wait_until(lambda: len(stage.jobs().jobs) > jobs, 10, "a job")
    yield from stage.finish(600)
    root = place["mix"] = root_of(bpy.context.view_layer.objects.active)
    assert root.fieldforge_mix.steps == 9
    print("between two:", stage.jobs().jobs[0].notes, flush=True)
    (part,) = addon("motion").parts_of(root)
    stage.look_at([part], 25, 15, "SOLID", 1.6)
    for amount in (0.0, 0.5, 1.0):
        root.fieldforge_mix.amount = amount
        yield from gui.redraw(0.5)
        yield from gui.shot(f"field-mix-{round(100 * amount)}")
    took = []
    for amount in [*np.linspace(0, 1, 9), *np.linspace(1, 0, 9)]:
        begun = time.perf_counter()
        root.fieldforge_mix.amount = float(amount)
        bpy.context.view_layer.update()
        took.append(1000 * (time.perf_counter() - begun))
    print(f"slider: median {np.median(took):.1f} ms, most {max(took):.1f} ms", flush=True)
    with gui.override(place["area"]):
        assert bpy.ops.fieldforge.copy_mix() == {"FINISHED"}


# --------------------------------------------------------------------------------------- how smooth


def measure_playing():
    """16 frames of 20,000 vertices: both ways, with drawing."""
    motion = addon("motion")
    for item in list(bpy.data.objects):
        bpy.data.objects.remove(item)
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, 16
    for way in ("KEYS", "MESHES"):
        root = synthetic(way)
        part = motion.parts_of(root)[0]
        stage.look_at([part], 25, 30, "SOLID", 1.3)
        yield from gui.redraw(0.5)
        took = []
        with gui.override(place["area"]):
            for frame in (1, 6, 11, 16, 1, 6, 11, 16):
                begun = time.perf_counter()
                scene.frame_set(frame)
                bpy.ops.wm.redraw_timer(type="DRAW_WIN", iterations=1)
                took.append(1000 * (time.perf_counter() - begun))
        took = took[4:]  # the first round fills caches
        words = f"median {np.median(took):.1f} ms, most {max(took):.1f} ms"
        print(f"playing {len(part.data.vertices)} vertices, {way}: {words}", flush=True)
        yield from gui.shot(f"field-playing-{way.lower()}")
        export(part, way)
        for item in motion.with_parts(root):
            bpy.data.objects.remove(item)


def export(part, way: str) -> None:
    """To .glb: the window shows the scene that it showed."""
    scene, window = bpy.context.scene, bpy.context.window_manager.windows[0]
    path = Path(tempfile.mkdtemp()) / "sheet.glb"
    stage.select(part)
    with gui.override(place["area"]):
        done = bpy.ops.fieldforge.export_motion(filepath=str(path), kind="GLB")
    assert done == {"FINISHED"}
    assert window.scene == scene
    assert len(bpy.data.scenes) == 1
    print(f"exported as {way}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


def synthetic(way: str):
    """A wavy sheet of 141 x 141 vertices, as a result that has just come."""
    arrival, scene = addon("arrival"), addon("scene")
    compose = importlib.import_module(f"{stage.MODULE}.blender_addon.compose")
    importing = importlib.import_module(f"{stage.MODULE}.blender_addon.importing")
    x, y = np.meshgrid(*[np.linspace(-1, 1, 141)] * 2, indexing="ij")
    positions = np.stack(
        [
            np.stack([x, y, 0.3 * np.sin(3 * x + 2 * np.pi * frame / 16)], -1).reshape(-1, 3)
            for frame in range(16)
        ]
    ).astype(np.float32)
    index = np.arange(141 * 141, dtype=np.int32).reshape(141, 141)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.stack([a, b, c, a, c, d], -1).reshape(-1, 3)
    edges = compose.edges_of(faces, 141 * 141)
    frames = [compose.PlacedMesh(places, faces, *edges) for places in positions]
    shape = arrival.MovingShape(frames, positions, 24.0, True, None, 0)
    fields = {"way": way, "start": 1}
    destination = importing.Destination("Sheet", np.eye(4), fields=fields)
    begun = time.perf_counter()
    made = scene.add(arrival.FieldArrival([shape], None), destination, np.eye(4), None)
    print(f"placing as {way}: {1000 * (time.perf_counter() - begun):.0f} ms", flush=True)
    return made[0]


STEPS = [compress_the_motion, see_it_play, bring_it_back_otherwise, mix_two]
if OPTIONS.get("--only") == "playing":
    STEPS = []
gui.run([make_things, *STEPS, measure_playing])
