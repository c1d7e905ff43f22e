"""Through what the scene is seen: a viewport or the scene's camera. Main thread only."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from ..capture import Facts


@dataclass(frozen=True, eq=False)
class Seen:
    """view: (4, 4) float64, world to camera; projection: (4, 4) float64 of OpenGL; size: (width,
    height) in pixels; name: of the camera, or "the view"."""

    view: np.ndarray
    projection: np.ndarray
    size: tuple[int, int]
    name: str


def viewport(context) -> tuple[bpy.types.SpaceView3D, bpy.types.Region] | None:
    """The 3D view of the context, otherwise the largest one of the first window that has any."""
    area = getattr(context, "area", None)
    if area is None or area.type != "VIEW_3D":
        windows = context.window_manager.windows
        areas = [area for window in windows for area in window.screen.areas]
        views = [area for area in areas if area.type == "VIEW_3D"]
        area = max(views, key=lambda area: area.width * area.height, default=None)
    if area is None:
        return None
    region = next(region for region in area.regions if region.type == "WINDOW")
    return area.spaces.active, region


def missing(context) -> Facts | None:
    """What is in the way of seeing the scene as the settings ask for, None when nothing is."""
    if context.scene.fieldforge.seen_from == "VIEW":
        if viewport(context) is None:
            reason = "There is no 3D viewport"
            return Facts(f"{reason}.", reason, "Open one, or choose Camera.")
        return None
    camera = context.scene.camera
    if camera is None:
        reason = "The scene has no camera"
        advice = "Add one (Add > Camera, then View > Cameras > Set Active), or choose View."
        return Facts(f"{reason}.", reason, advice)
    if camera.type != "CAMERA" or camera.data.type not in {"PERSP", "ORTHO"}:
        reason = f"{camera.name} sees no plain picture"
        return Facts(f"{reason}.", reason, "Make it perspective or orthographic, or choose View.")
    return None


def seen(context) -> Seen:
    """How the settings ask to see the scene; `missing` said that it can be."""
    return of_view(context) if context.scene.fieldforge.seen_from == "VIEW" else of_camera(context)


def of_view(context) -> Seen:
    space, region = viewport(context)
    view = space.region_3d
    return Seen(
        np.array(view.view_matrix, np.float64),
        np.array(view.window_matrix, np.float64),
        (region.width, region.height),
        "the view",
    )


def of_camera(context) -> Seen:
    """The scene's camera at the scene's resolution."""
    render, depsgraph = context.scene.render, context.evaluated_depsgraph_get()
    camera = context.scene.camera.evaluated_get(depsgraph)
    share = render.resolution_percentage / 100
    width = max(1, round(render.resolution_x * share))
    height = max(1, round(render.resolution_y * share))
    aspect = {"scale_x": render.pixel_aspect_x, "scale_y": render.pixel_aspect_y}
    projection = camera.calc_matrix_camera(depsgraph, x=width, y=height, **aspect)
    size = (round(width * render.pixel_aspect_x), round(height * render.pixel_aspect_y))
    view = camera.matrix_world.normalized().inverted()  # a camera's scale does not zoom
    return Seen(np.array(view), np.array(projection), size, camera.name)


def at_cursor(context) -> np.ndarray:
    """(4, 4): from the models' cube to the 3D cursor, in the size that the settings ask for."""
    from ..pictures import LONGEST_SIDE

    matrix = np.eye(4)
    matrix[:3, :3] *= context.scene.fieldforge.result_size / LONGEST_SIDE
    matrix[:3, 3] = context.scene.cursor.location
    return matrix
