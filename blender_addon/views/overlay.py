"""Cameras that are going to be made, shown in the viewport before they are there.

They are drawn, not made: nothing of them is in the file or in its undo steps.
"""

from __future__ import annotations

import bpy
import numpy as np

from ...backend.errors import BadInput
from ...backend.protocol import VIEW_FIELD
from .. import session
from ..model_choice import chosen_model
from .planning import Plan, fitting_distance, home_of_views, plan_of, uses_own_cameras
from .source import MAKE_VIEWS, is_rebuilt, known_views

SIZE = 0.16  # of a camera, in its distance to the middle
FAR = 8.0  # sides of the cube: further off, cameras are needles that no view of the thing shows
KNOWN, NEW = (1.0, 0.62, 0.15, 1.0), (0.35, 0.7, 1.0, 1.0)
WIDTH = 1.5

_handle = None


def wants_cameras(settings) -> bool:
    """Whether the chosen source puts cameras into the scene."""
    return settings.show_cameras and (settings.source in MAKE_VIEWS or is_rebuilt(settings))


def lines_of(plan: Plan) -> np.ndarray:
    """(V, 18, 3) float32: the ends of the lines that each camera is drawn with, in the world.

    Those that stand in for cameras without perspective are drawn in the same direction, as near and
    with as wide a lens as a camera is that sees as much.
    """
    half = plan.side / 2
    fx, fy, cx, cy = plan.intrinsics.T
    off = plan.poses[:, :3, 3] - plan.middle
    distance = np.linalg.norm(off, axis=1)
    far = distance > FAR * plan.extent
    near = np.where(far, fitting_distance(VIEW_FIELD, plan.extent), distance)
    fx, fy = (np.where(far, half / np.tan(VIEW_FIELD / 2), focal) for focal in (fx, fy))
    eyes = plan.middle + off * (near / distance)[:, None]
    distance = near
    depth = SIZE * distance
    corners = []
    for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-0.4, 1.15), (0.4, 1.15), (0, 1.6)):
        right = (half - 0.5 - cx + x * half) / fx
        up = (cy - half + 0.5 + y * half) / fy
        corners.append(np.stack([right, up, -np.ones(len(fx))], axis=1) * depth[:, None])
    eye = np.zeros_like(corners[0])
    rectangle = [(corners[k], corners[(k + 1) % 4]) for k in range(4)]
    arrow = [(corners[4], corners[6]), (corners[6], corners[5])]
    pairs = [*((eye, corner) for corner in corners[:3]), *rectangle, *arrow]
    ends = np.stack([end for pair in pairs for end in pair], axis=1)
    turned = np.einsum("vij,vkj->vki", plan.poses[:, :3, :3], ends)
    return (turned + eyes[:, None]).astype(np.float32)


def known_lines(settings, model: dict, count: int) -> int:
    """How many of `count` cameras are drawn as those that see what is there."""
    if is_rebuilt(settings):
        return count
    # All that such a model is shown it paints anew, from cameras of its own.
    return 0 if uses_own_cameras(settings, model) else known_views(settings)


def _draw() -> None:
    """Called by Blender for every 3D view."""
    context = bpy.context
    space = context.space_data
    settings = context.scene.fieldforge
    if not wants_cameras(settings) or not getattr(space.overlay, "show_overlays", False):
        return
    through_a_camera = space.region_3d.view_perspective == "CAMERA"
    if through_a_camera or session.jobs().active or _shows_views(context):
        return
    model = chosen_model(settings)
    try:
        plan = plan_of(context, model)
    except BadInput:
        return
    if plan.names:  # they are there already
        return
    lines = lines_of(plan)
    known = known_lines(settings, model, len(lines))
    _draw_lines(lines[known:], NEW)
    if settings.source != "IMAGE_VIEWS" or settings.views_picture != "VIEWPORT":
        _draw_lines(lines[:known], KNOWN)  # else it is the eye that one looks with


def _shows_views(context) -> bool:
    """Whether views that are there already are looked at now."""
    return home_of_views(context.view_layer.objects.active) is not None


def _draw_lines(lines: np.ndarray, color: tuple[float, ...]) -> None:
    if not len(lines):
        return
    import gpu

    shape = gpu.types.GPUVertFormat()
    shape.attr_add(id="pos", comp_type="F32", len=3, fetch_mode="FLOAT")
    ends = lines.reshape(-1, 3)
    buffer = gpu.types.GPUVertBuf(shape, len(ends))
    buffer.attr_fill("pos", np.ascontiguousarray(ends))
    batch = gpu.types.GPUBatch(type="LINES", buf=buffer)
    shader = gpu.shader.from_builtin("POLYLINE_UNIFORM_COLOR")
    shader.uniform_float("color", color)
    shader.uniform_float("viewportSize", gpu.state.viewport_get()[2:])
    shader.uniform_float("lineWidth", WIDTH)
    gpu.state.depth_test_set("LESS_EQUAL")
    gpu.state.blend_set("ALPHA")
    try:
        batch.draw(shader)
    finally:
        gpu.state.depth_test_set("NONE")
        gpu.state.blend_set("NONE")


def register() -> None:
    global _handle
    if not bpy.app.background:
        _handle = bpy.types.SpaceView3D.draw_handler_add(_draw, (), "WINDOW", "POST_VIEW")


def unregister() -> None:
    global _handle
    if _handle is not None:
        bpy.types.SpaceView3D.draw_handler_remove(_handle, "WINDOW")
    _handle = None
