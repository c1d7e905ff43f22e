"""Pictures and depth by the graphics card, as a viewport would show the scene. Main thread only,
and only where Blender has a window."""

from __future__ import annotations

import contextlib

import bpy
import numpy as np

from ...backend.errors import BadInput
from .cameras import viewport

DRAWN_AT_ONCE = {"BLENDER_EEVEE", "BLENDER_EEVEE_NEXT", "BLENDER_WORKBENCH"}


def available(context) -> bool:
    """Whether there is a window with a 3D view, which the drawing borrows."""
    return not bpy.app.background and viewport(context) is not None


def shading_of(context, space) -> str:
    """The shading of a view in which it can be drawn at once, with surfaces."""
    chosen = space.shading.type
    if chosen == "RENDERED" and context.scene.render.engine not in DRAWN_AT_ONCE:
        return "MATERIAL"  # the engine would begin anew and show nothing yet
    return "SOLID" if chosen == "WIREFRAME" else chosen


def draw(
    context, view: np.ndarray, projection: np.ndarray, size: tuple[int, int], shading: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """(image (H, W, 4) uint8, see `pictures.straight`; depth (H, W) float32 in 0..1), row 0 at the
    bottom. No overlays, no background. shading: "" for that of the view. Raises BadInput."""
    import gpu
    from mathutils import Matrix

    space, region = viewport(context)
    try:
        target = gpu.types.GPUOffScreen(*size)
    except (SystemError, RuntimeError, ValueError) as error:
        raise BadInput(
            f"The graphics card cannot draw {size[0]} x {size[1]} pixels: {error}.",
            "Make the viewport smaller, or use Depth.",
        ) from None
    try:
        with _bare(space, shading or shading_of(context, space)):
            target.draw_view3d(
                context.scene,
                context.view_layer,
                space,
                region,
                Matrix(view.tolist()),
                Matrix(projection.tolist()),
                do_color_management=True,
                draw_background=False,
            )
        with target.bind():
            framebuffer = gpu.state.active_framebuffer_get()
            color = framebuffer.read_color(0, 0, *size, 4, 0, "UBYTE")
            depth = framebuffer.read_depth(0, 0, *size)
        color.dimensions = size[0] * size[1] * 4
        depth.dimensions = size[0] * size[1]
        image = np.array(color, np.uint8).reshape(size[1], size[0], 4)
        return image, np.array(depth, np.float32).reshape(size[1], size[0])
    finally:
        target.free()


@contextlib.contextmanager
def _bare(space, shading: str):
    """The view without overlays, gizmos and outlines, shaded in one of the ways with surfaces."""
    shown = space.shading
    values = [
        (space.overlay, "show_overlays", False),
        (space, "show_gizmo", False),
        (shown, "type", shading),
        (shown, "show_xray", False),
        (shown, "show_object_outline", False),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in values]
    try:
        for owner, name, value in values:
            if getattr(owner, name) != value:
                setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            if getattr(owner, name) != value:
                setattr(owner, name, value)


@contextlib.contextmanager
def only(context, items: list[bpy.types.Object]):
    """Hide every other visible object for the moment."""
    kept = {item.session_uid for item in items}
    others = [
        item
        for item in context.view_layer.objects
        if item.session_uid not in kept and item.visible_get() and not item.hide_get()
    ]
    selected = [item for item in others if item.select_get()]
    try:
        for item in others:
            item.hide_set(True)
        context.view_layer.update()
        yield
    finally:
        for item in others:
            item.hide_set(False)
        for item in selected:  # hiding takes an object out of the selection
            item.select_set(True)
        context.view_layer.update()
