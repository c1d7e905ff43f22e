"""Roots, their parts, and F-curves that play a motion. Main thread only.

Frame k of a motion lies at start + k * speed of the timeline. Curves are written anew when one of
these changes, which takes a millisecond: what plays is plain Blender, without the extension, too.
"""

from __future__ import annotations

import bpy
import numpy as np
from bpy.app.handlers import persistent

from ..importing import world_extent
from ..keyframes import curves_of, fill
from .arrival import KEYS, MESHES

STILL = "STILL"
HIDDEN = ("hide_viewport", "hide_render")
BLOCK = "Frame "


def root_of(item: bpy.types.Object | None) -> bpy.types.Object | None:
    """The root that `item` is, or is a part of; None where there is none."""
    if item is None or item.fieldforge_motion.way:
        return item
    parent = item.parent
    if not item.fieldforge_motion.number or parent is None or not parent.fieldforge_motion.way:
        return None
    return parent if item in parts_of(parent) else None


def parts_of(root: bpy.types.Object) -> list[bpy.types.Object]:
    """The meshes of a root, by the frame that they show. Where the artist duplicated a part, both
    have its parent and its number: the one that was there before is the part, the other is not."""
    parts = {}
    for item in sorted(_numbered(root), key=lambda item: item.session_uid):
        parts.setdefault(item.fieldforge_motion.number, item)
    return [parts[number] for number in sorted(parts)]


def _numbered(root: bpy.types.Object) -> list[bpy.types.Object]:
    """Parts of a root, and duplicates of them. What was converted is the artist's."""
    return [item for item in root.children if item.type == "MESH" and item.fieldforge_motion.number]


def let_go_of_duplicates(root: bpy.types.Object) -> None:
    """Take the numbers off what the artist duplicated, so that it can never be a part."""
    parts = parts_of(root)
    for item in _numbered(root):
        if item not in parts and item.library is None:
            item.fieldforge_motion.number = 0


@persistent
def before_saving(*_) -> None:
    """Let go of duplicates while it is known which those are: a file that is loaded gives its
    objects new ids, by their names."""
    for item in bpy.data.objects:
        if item.is_property_set("fieldforge_motion") and item.fieldforge_motion.way:
            let_go_of_duplicates(item)


def is_moving(root: bpy.types.Object) -> bool:
    return root.fieldforge_motion.way in {KEYS, MESHES}


def span_of(root: bpy.types.Object) -> tuple[float, float]:
    """(first, last) frame of the timeline; of a loop, the last before it begins anew."""
    kept = root.fieldforge_motion
    steps = kept.frames if kept.loop else kept.frames - 1
    last = kept.start + steps * kept.speed
    return kept.start, max(kept.start, last - 1 if kept.loop else last)


def retime(root: bpy.types.Object) -> None:
    """Write the curves of a motion anew, and have the preview range go with it."""
    if not is_moving(root):
        return
    followed = _preview_follows(root)
    for part in parts_of(root):
        if root.fieldforge_motion.way == KEYS:
            _key_blocks(part, root)
        else:
            _key_visibility(part, root)
    for scene in followed:
        set_preview_range(scene, root)
    remember_span(root)
    _look_again(root)


def _look_again(root: bpy.types.Object) -> None:
    """Have Blender play the frame that shows once more."""
    for part in parts_of(root):
        for owner in (part, part.data.shape_keys):
            if owner is not None and owner.animation_data and owner.animation_data.action:
                owner.animation_data.action.update_tag()
                owner.update_tag(refresh={"TIME"}) if owner == part else owner.update_tag()


# -------------------------------------------------------------------------------- the preview range


def _preview_follows(root: bpy.types.Object) -> list[bpy.types.Scene]:
    """The scenes whose preview range is the motion as it was until now."""
    known = tuple(root.fieldforge_motion.span)
    return [
        scene
        for scene in root.users_scene
        if scene.use_preview_range
        and (scene.frame_preview_start, scene.frame_preview_end) == known
        and scene.library is None
    ]


def remember_span(root: bpy.types.Object) -> None:
    root.fieldforge_motion.span = [round(frame) for frame in span_of(root)]


def set_preview_range(scene: bpy.types.Scene, root: bpy.types.Object) -> None:
    first, last = span_of(root)
    scene.use_preview_range = True
    scene.frame_preview_start, scene.frame_preview_end = round(first), round(last)


# --------------------------------------------------------------------------------------- shape keys


def add_shape_keys(item: bpy.types.Object, positions: np.ndarray) -> None:
    """Give a mesh object a shape key for every frame; the basis is frame 0. positions: (F, V, 3)"""
    item.shape_key_add(name="Basis", from_mix=False)
    for number, vertices in enumerate(positions[1:], 1):
        block = item.shape_key_add(name=block_name(number), from_mix=False)
        places = block.points if hasattr(block, "points") else block.data
        places.foreach_set("co", np.ascontiguousarray(vertices, np.float32).ravel())


def block_name(number: int) -> str:
    """Of the shape key of a frame, from 1 on."""
    return f"{BLOCK}{number:02}"


def _key_blocks(part: bpy.types.Object, root: bpy.types.Object) -> None:
    keys, kept = part.data.shape_keys, root.fieldforge_motion
    if keys is None:
        return
    curves = curves_of(keys, root.name)
    for number in range(1, kept.frames):
        block = keys.key_blocks.get(block_name(number))
        if block is None:
            continue
        frames, values = hat(number, kept.frames, kept.start, kept.speed, kept.loop)
        _write(curves, block.path_from_id("value"), frames, values, "LINEAR", kept.loop)


def hat(
    number: int, count: int, start: float, speed: float, loop: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(frames, values): how much shape key `number` counts: fully in its own frame, nothing from
    the next one on. A loop leads from the last frame back to the basis, and spans all of it."""
    steps = [0, number - 1, number, number + 1, count] if loop else [number - 1, number, number + 1]
    if not loop and number == count - 1:
        steps.pop()  # and stays
    steps = np.unique(steps)
    return start + steps * speed, (steps == number).astype(float)


# ----------------------------------------------------------------------------------- mesh per frame


def _key_visibility(part: bpy.types.Object, root: bpy.types.Object) -> None:
    kept = root.fieldforge_motion
    number = part.fieldforge_motion.number - 1
    frames, values = window(number, kept.frames, kept.start, kept.speed, kept.loop)
    curves = curves_of(part, part.name)
    for path in HIDDEN:
        _write(curves, path, frames, values, "CONSTANT", kept.loop)


def window(
    number: int, count: int, start: float, speed: float, loop: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(frames, values): when the mesh of frame `number` is hidden, 1, and when it shows, 0. What
    does not repeat shows the first mesh before, and the last one after."""
    hidden = {0: 1.0, number: 0.0, number + 1: 1.0}
    if loop:
        hidden[count] = hidden[0]
    elif number == count - 1:
        del hidden[count]
    steps = np.array(sorted(hidden))
    return start + steps * speed, np.array([hidden[step] for step in steps.tolist()])


def show_always(part: bpy.types.Object) -> None:
    """Take the curves away that show a part in its own frame only, and none besides."""
    curves = curves_of(part)
    for path in HIDDEN:
        curve = None if curves is None else curves.find(path)
        if curve is not None:
            curves.remove(curve)
    part.hide_viewport = part.hide_render = False
    if curves is not None and not len(curves):
        action, part.animation_data.action = part.animation_data.action, None
        if action.users == 0:
            bpy.data.actions.remove(action)


def _write(curves, path: str, frames, values, way: str, loop: bool) -> None:
    """The keys of one curve, which other curves of the action have nothing to do with."""
    old = curves.find(path)
    if old is not None:
        curves.remove(old)
    curve = curves.new(path)
    fill(curve, frames, values, way)
    if loop:
        curve.modifiers.new("CYCLES")


# ------------------------------------------------------------------------------------------ removal


def remove_parts(root: bpy.types.Object, beyond: int = 0) -> None:
    """Take the meshes of a root away, but for those of the first frames, with what only they used.
    What the artist has parented to them goes to what is left."""
    let_go_of_duplicates(root)
    kept, gone = [], []
    for part in parts_of(root):
        (kept if part.fieldforge_motion.number <= beyond else gone).append(part)
    data = {part.data for part in gone}
    for part in gone:
        _hand_children_over(part, kept[0] if kept else root)
        _drop_action(part)
        bpy.data.objects.remove(part)
    for mesh in data:
        drop_mesh(mesh)


def forget_steps(root: bpy.types.Object) -> None:
    """Take the steps from one shape to another away, but for what shows."""
    mix = root.fieldforge_mix
    meshes = {each.mesh for each in mix.meshes if each.mesh is not None}
    mix.meshes.clear()
    mix.steps = 0
    for mesh in meshes:
        drop_mesh(mesh)


def _hand_children_over(part: bpy.types.Object, heir: bpy.types.Object) -> None:
    """Parent what `part` carries to its root or to another part, where it stands. Worlds of what is
    hidden are not known, so that they cannot be asked for."""
    to_part = part.matrix_parent_inverse @ part.matrix_basis
    if heir != part.parent:
        to_part = (heir.matrix_parent_inverse @ heir.matrix_basis).inverted_safe() @ to_part
    for child in part.children:
        inverse = to_part @ child.matrix_parent_inverse
        child.parent = heir  # which forgets the inverse
        child.matrix_parent_inverse = inverse


def drop_mesh(mesh: bpy.types.Mesh) -> None:
    """Remove a mesh that nothing shows any more."""
    if mesh.users:
        return
    if mesh.shape_keys is not None:
        _drop_action(mesh.shape_keys)
    bpy.data.meshes.remove(mesh)


def own_action(part: bpy.types.Object) -> None:
    """Give a copy of a part an action that it shares with nothing."""
    animated = part.animation_data
    if animated is not None and animated.action is not None:
        animated.action = animated.action.copy()


def _drop_action(owner: bpy.types.ID) -> None:
    action = owner.animation_data.action if owner.animation_data else None
    owner.animation_data_clear()
    if action is not None and action.users == 0:
        bpy.data.actions.remove(action)


def with_parts(root: bpy.types.Object) -> list[bpy.types.Object]:
    return [root, *parts_of(root)]


def extent_of_roots(names: list[str]) -> tuple[float, float] | None:
    """(lowest, highest) x in the world of results, by the names of their roots."""
    found = [bpy.data.objects.get(name) for name in names]
    return world_extent([item for root in found if root for item in with_parts(root)])
