"""Steps in a real Blender window: a panorama with depth, a sphere, its controls, both eyes.

    SCAN.ply --python PYTHON --weights FOLDER [--room ROOM.npz]     (the scan is not used)

The room is a box with coloured walls, or what is in the file: rgb (H, W, 3) uint8 and depth (h, w)
float32 in metres. Renders of it are kept as render-NAME.png.
"""

import math
import os
import time
from pathlib import Path

import bpy
import gui_steps as gui
import numpy as np
import stage
from stage import jobs

_, OPTIONS = stage.arguments()
os.environ["FIELDFORGE_WEIGHTS"] = OPTIONS["--weights"]
OUT = Path(gui.OUT)
WIDTH = 512  # of the sphere: the window is drawn by the processor
ASIDE = (0.0, 0.3, 0.0)  # metres: to the left, looking ahead

place = {}


def settings():
    return bpy.context.scene.fieldforge


# ------------------------------------------------------------------------------------------- a room


def make_room():
    stage.choose_backend(OPTIONS)
    stage.clear_scene()
    colors, depth = room()
    place["depth"] = depth
    for name, values in (("room", colors), ("room-depth", depth)):
        write(name, values)
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    yield from gui.redraw()


def room():
    if "--room" in OPTIONS:
        with np.load(OPTIONS["--room"]) as file:
            return file["rgb"], file["depth"]
    width, height = 2048, 1024
    phi = 2 * np.pi * (0.5 - (np.arange(width) + 0.5) / width)
    theta = np.pi * (0.5 - (np.arange(height) + 0.5) / height)
    across, up = np.cos(theta)[:, None], np.sin(theta)[:, None]
    ways = np.stack([across * np.cos(phi), across * np.sin(phi), up + 0 * phi], axis=-1)
    walls = np.where(ways > 0, [3.0, 2.0, 1.4], [-2.0, -2.5, -1.2])
    depth = (walls / ways).min(axis=-1).astype(np.float32)
    points = ways * depth[..., None]
    tiles = (np.floor(2 * points).sum(axis=-1) % 2)[..., None]
    colors = 110 + 50 * tiles + 60 * ways
    return np.clip(np.rint(colors), 0, 255).astype(np.uint8), depth


def write(name: str, values: np.ndarray) -> None:
    """A PNG of (H, W, 3) bytes, an EXR of (H, W) floats, as an artist has them."""
    height, width = values.shape[:2]
    is_depth = values.ndim == 2
    pixels = np.ones((height, width, 4), np.float32)
    pixels[..., :3] = values[..., None] if is_depth else values / 255
    image = bpy.data.images.new(name, width, height, float_buffer=is_depth, is_data=is_depth)
    image.pixels.foreach_set(pixels[::-1].ravel())
    image.file_format = "OPEN_EXR" if is_depth else "PNG"
    suffix = ".exr" if is_depth else ".png"
    image.filepath_raw = str(OUT / (name + suffix))
    image.save()
    bpy.data.images.remove(image)


def choose_by_hand():
    """The chooser is opened; then the source, the picture and its depth are there."""
    yield from gui.click_property(place["area"], place["region"], "source")
    yield 0.5
    yield from gui.shot("chooser")
    yield from gui.key("Escape")
    settings().source = "PANORAMA"
    yield from gui.wait_until(lambda: jobs().connection.models, 120, "the models")
    yield from gui.redraw()
    yield from gui.shot("panel-empty")
    settings().panorama = bpy.data.images.load(str(OUT / "room.png"))
    settings().panorama_depth = bpy.data.images.load(str(OUT / "room-depth.exr"))
    assert settings().depth.meaning == "metric"
    assert settings().panorama.size[0]
    assert settings().panorama_depth.size[0]
    settings().sphere_width = str(WIDTH)
    stage.push_undo("A panorama is chosen")
    yield from gui.redraw()
    yield from gui.shot("panel")


# ----------------------------------------------------------------------------------------- a sphere


def make_sphere():
    yield from stage.generate(place, 600)
    front = place["front"] = bpy.context.view_layer.objects.active
    assert front.name.startswith("room"), front.name
    stage.look_at([front], 35, 25, "SOLID", 1.0)
    yield from gui.redraw(1.0)
    yield from gui.shot("sphere")
    points = stage.world_points(front)
    radii = np.linalg.norm(points, axis=1)
    print("sphere:", len(points), "vertices,", [item.name for item in front.children], flush=True)
    assert abs(radii.min() - place["depth"].min()) < 0.05
    finite = place["depth"][np.isfinite(place["depth"])]
    assert abs(radii.max() - finite.max()) < 0.05


def look_from_the_middle():
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.look_around")
    yield from gui.wait_until(
        lambda: place["area"].spaces.active.region_3d.view_perspective == "CAMERA", 60, "the view"
    )
    bpy.context.scene.view_settings.view_transform = "Standard"
    yield 6
    yield from gui.redraw(3)
    yield from gui.shot("inside")


def turn_the_controls():
    """The vertices follow; undo brings them back."""
    front = place["front"]
    before = stage.world_points(front)
    took = []
    for step in range(6):
        begun = time.perf_counter()
        front.data.fieldforge_sphere.scale = 1 + 0.05 * step
        took.append(1000 * (time.perf_counter() - begun))
        yield 0.2
    words = ", ".join(f"{each:.0f}" for each in took)
    print(f"controls: {words} ms with {len(before)} vertices in front", flush=True)
    assert np.allclose(stage.world_points(front), 1.25 * before, atol=1e-4)
    stage.push_undo("Depth Scale")
    x, y = gui.centre(next(r for r in place["area"].regions if r.type == "WINDOW"))
    yield from gui.act(f"move {x - 200} {y}", "key ctrl+z")
    yield from gui.wait_until(lambda: sphere().data.fieldforge_sphere.scale == 1, 20, "undo")
    assert np.allclose(stage.world_points(sphere()), before, atol=1e-6)


def sphere():
    """The front, also after undo."""
    return next(
        item
        for item in bpy.data.objects
        if item.type == "MESH" and item.data.fieldforge_sphere.layer == "front"
    )


# ----------------------------------------------------------------------------------------- pictures


def see_renders():
    """From the middle the picture itself; from elsewhere the walls where they belong."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.max_bounces = 2, 0
    scene.cycles.use_denoising = False
    scene.render.use_persistent_data = True
    scene.render.resolution_x = scene.render.resolution_y = 512
    scene.view_settings.view_transform = "Standard"
    camera = next(item for item in sphere().children if item.type == "CAMERA")
    scene.camera = camera
    for name, there in (("middle", (0.0, 0.0, 0.0)), ("aside", ASIDE)):
        camera.location = there
        yield from render(name)
    camera.location = (0.0, 0.0, 0.0)


def render(name: str):
    scene = bpy.context.scene
    scene.render.filepath = str(OUT / f"render-{name}.png")
    scene.render.image_settings.file_format = "PNG"
    begun = time.perf_counter()
    with gui.override(place["area"]):
        bpy.ops.render.render(write_still=True)
    print(f"render {name}: {time.perf_counter() - begun:.1f} s", flush=True)
    yield 0.2


def set_up_stereo():
    place["area"].spaces.active.shading.type = "SOLID"
    stage.select(sphere())
    yield from gui.redraw()
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.stereo_camera")
    yield from gui.redraw()
    scene = bpy.context.scene
    yield from gui.wait_until(lambda: scene.camera.data.type == "PANO", 60, "the camera")
    assert scene.camera.data.stereo.use_spherical_stereo
    assert scene.render.image_settings.stereo_3d_format.display_mode == "TOPBOTTOM"
    assert scene.render.resolution_x == 2 * scene.render.resolution_y
    yield from gui.shot("stereo")
    scene.render.resolution_x, scene.render.resolution_y = 512, 256
    yield from render("stereo")
    image = bpy.data.images.load(scene.render.filepath)
    assert tuple(image.size) == (512, 512), tuple(image.size)
    bpy.data.images.remove(image)


def save_and_open():
    """What the controls need is in the file."""
    path = str(OUT / "room.blend")
    before = stage.world_points(sphere())
    with gui.override(place["area"]):
        bpy.ops.wm.save_as_mainfile(filepath=path, compress=True)
        bpy.ops.wm.open_mainfile(filepath=path)
    yield 2
    assert np.array_equal(stage.world_points(sphere()), before)
    sphere().data.fieldforge_sphere.offset = 0.5
    radii = np.linalg.norm(before, axis=1)
    found = np.linalg.norm(stage.world_points(sphere()), axis=1)
    assert np.allclose(found, radii + 0.5, atol=1e-3)
    assert math.isclose(sphere().data.fieldforge_sphere.offset, 0.5)
    os.unlink(path)


gui.run(
    [
        make_room,
        choose_by_hand,
        make_sphere,
        look_from_the_middle,
        turn_the_controls,
        see_renders,
        set_up_stereo,
        save_and_open,
    ]
)
