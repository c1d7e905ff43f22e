"""What the scripts for the real window share: the backend, the scene, the view, a generated mesh.

A script calls `arguments()` for what comes after "--": its operands, then pairs of --name value.
"""

from __future__ import annotations

import math
import sys

import bpy
import gui_steps as gui
import numpy as np
from mathutils import Euler, Vector

# ruff: noqa: SIM118  (what Blender keeps by name iterates over its values)
MODULE = next(n for n in bpy.context.preferences.addons.keys() if n.endswith("fieldforge"))
TAB = "Fieldforge"


def arguments() -> tuple[list[str], dict[str, str]]:
    """(operands, options)"""
    given = sys.argv[sys.argv.index("--") + 1 :]
    first = next((i for i, word in enumerate(given) if word.startswith("--")), len(given))
    options = given[first:]
    return given[:first], dict(zip(options[::2], options[1::2], strict=True))


def session():
    return sys.modules[f"{MODULE}.blender_addon.session"]


def jobs():
    return session().jobs()


def choose_backend(options: dict[str, str]) -> None:
    chosen = bpy.context.preferences.addons[MODULE].preferences
    if "--python" in options:
        chosen.mode, chosen.python = "PYTHON", options["--python"]
    elif "--url" in options:
        chosen.mode, chosen.url, chosen.token = "SERVER", options["--url"], options["--token"]


def clear_scene() -> None:
    for item in list(bpy.data.objects):
        bpy.data.objects.remove(item)
    bpy.context.view_layer.update()


def select(*items) -> None:
    """Select these objects, the first one active."""
    bpy.context.view_layer.update()  # an object that was just linked is not in it yet
    for item in bpy.context.view_layer.objects:
        item.select_set(item in items)
    bpy.context.view_layer.objects.active = items[0] if items else None


def push_undo(message: str) -> None:
    """A person's own actions leave undo steps, a script's do not."""
    with gui.override():
        bpy.ops.ed.undo_push(message=message)


# ---------------------------------------------------------------------------------------- the view


def look_at(items, turn: float, lift: float, shading: str = "SOLID", margin: float = 1.15) -> None:
    """See the items whole, in the part of the viewport that the sidebar leaves free.

    turn: degrees around Z from the front; lift: degrees above the horizon.
    """
    area = gui.find_area()
    space = area.spaces.active
    view = space.region_3d
    view.view_perspective = "PERSP"
    view.view_rotation = Euler(
        (math.radians(90 - lift), 0, math.radians(turn)), "XYZ"
    ).to_quaternion()
    region = next(r for r in area.regions if r.type == "WINDOW")
    sidebar = next(r for r in area.regions if r.type == "UI")
    corners = np.concatenate([world_corners(item) for item in items])
    low, high = corners.min(axis=0), corners.max(axis=0)
    free = (region.width - sidebar.width) / region.width
    half = 36 / space.lens * min(1.0, region.height / region.width)
    radius = np.linalg.norm(high - low) / 2
    view.view_distance = float(margin * radius * (0.5 + 1 / half))
    across = view.view_rotation @ Vector((1, 0, 0))
    shift = view.view_distance * (36 / space.lens) * (1 - free) / 2
    view.view_location = Vector((low + high) / 2) + across * shift
    space.shading.type = shading
    space.shading.color_type = "VERTEX"


def world_corners(item) -> np.ndarray:
    """(8, 3) of the bounding box."""
    matrix = np.array(item.matrix_world)
    return np.array(item.bound_box) @ matrix[:3, :3].T + matrix[:3, 3]


def world_points(item) -> np.ndarray:
    """(N, 3) float64 of a mesh's vertices or of a point cloud."""
    data = item.data.attributes["position"].data
    values = np.zeros(3 * len(data), np.float32)
    data.foreach_get("vector", values)
    matrix = np.array(item.matrix_world, np.float64)
    return values.reshape(-1, 3).astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


def distances_to(points: np.ndarray, item, sample: int = 2000) -> np.ndarray:
    """Distance in the world from some of `points` (N, 3) to the surface of a mesh object, negative
    inside."""
    from mathutils.bvhtree import BVHTree

    triangles = [tuple(polygon.vertices) for polygon in item.data.polygons]
    tree = BVHTree.FromPolygons(world_points(item).tolist(), triangles)
    found = []
    for point in points[:: max(1, len(points) // sample)].tolist():
        place, normal, _, distance = tree.find_nearest(point)
        found.append(distance if (Vector(point) - place).dot(normal) > 0 else -distance)
    return np.array(found)


# ---------------------------------------------------------------------------------------- the work


def generate(place: dict, seconds: float = 150):
    """Click Generate and wait until the mesh is there."""
    before = len(jobs().jobs)
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.generate")
    yield from gui.wait_until(lambda: len(jobs().jobs) > before, 10, "a job")
    yield from finish(seconds)


def finish(seconds: float = 150):
    yield from gui.wait_until(lambda: not jobs().jobs[0].active, seconds, "the end of the job")
    job = jobs().jobs[0]
    assert job.state == "done", (job.state, job.error)
    yield 0.3


def result_of(name: str):
    """The newest object that was made from `name`."""
    made = [item for item in bpy.data.objects if item.name.startswith(f"{name} mesh")]
    return max(made, key=lambda item: item.session_uid)
