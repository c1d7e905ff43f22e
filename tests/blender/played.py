"""What moving shapes show in a frame of the timeline, as Blender evaluates them."""

from __future__ import annotations

import bpy
import numpy as np
from fieldforge.blender_addon.fields import motion


def shown(root: bpy.types.Object, frame: float | None = None) -> np.ndarray:
    """(V, 3) of the one part that shows in this frame, in the space of the root."""
    scene = bpy.context.scene
    if frame is not None:
        scene.frame_set(int(np.floor(frame)), subframe=frame - np.floor(frame))
    else:
        bpy.context.view_layer.update()
    depsgraph = bpy.context.evaluated_depsgraph_get()
    parts = [part.evaluated_get(depsgraph) for part in motion.parts_of(root)]
    visible = [part for part in parts if not part.hide_viewport]
    assert len(visible) == 1, [part.name for part in visible]
    assert [part.hide_render for part in parts] == [part.hide_viewport for part in parts]
    points = np.empty(3 * len(visible[0].data.vertices), np.float32)
    visible[0].data.vertices.foreach_get("co", points)
    return points.reshape(-1, 3)


def roots() -> list[bpy.types.Object]:
    """Of the scene, as they were made."""
    found = [item for item in bpy.data.objects if item.fieldforge_motion.way]
    return sorted(found, key=lambda item: item.session_uid)


def new_root(*known: bpy.types.Object) -> bpy.types.Object:
    """The root that was not there before."""
    (made,) = [item for item in roots() if item not in known]
    return made
