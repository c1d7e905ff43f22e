"""F-curves of data-blocks. Since Blender 4.4 actions have slots and layers, since 5.0 nothing else.

Main thread only.
"""

from __future__ import annotations

import bpy
import numpy as np


def curves_of(owner: bpy.types.ID, name: str = ""):
    """The F-curves that move `owner`; of a new action of this name where it has none.

    Without a name: None where it has none.
    """
    action = owner.animation_data.action if owner.animation_data else None
    if action is None:
        return new_curves(owner, name) if name else None
    if not hasattr(action, "slots"):
        return action.fcurves
    slot = owner.animation_data.action_slot
    if slot is None:
        slot = _new_slot(owner, action) if name else None
    return None if slot is None else _strip_of(action).channelbag(slot, ensure=True).fcurves


def new_curves(owner: bpy.types.ID, name: str):
    """The F-curves, none yet, of a new action of `owner`."""
    action = bpy.data.actions.new(name)
    owner.animation_data_create().action = action
    if not hasattr(action, "slots"):
        return action.fcurves
    return _strip_of(action).channelbag(_new_slot(owner, action), ensure=True).fcurves


def _new_slot(owner: bpy.types.ID, action: bpy.types.Action):
    slot = action.slots.new(owner.id_type, owner.name)
    owner.animation_data.action_slot = slot
    return slot


def _strip_of(action: bpy.types.Action):
    layer = action.layers[0] if len(action.layers) else action.layers.new("Layer")
    return layer.strips[0] if len(layer.strips) else layer.strips.new(type="KEYFRAME")


def fill(curve: bpy.types.FCurve, frames, values, way: str) -> None:
    """Give a curve without keys these. way: "LINEAR" or "CONSTANT"."""
    points = curve.keyframe_points
    points.add(len(frames))
    points.foreach_set("co", np.stack([frames, values], axis=1).astype(np.float32).ravel())
    for point in points:
        point.interpolation = way
    curve.update()
