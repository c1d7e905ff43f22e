"""From one shape to another: steps that were made before, and a slider that shows one. Main thread.

Moving the slider builds nothing: the parts of the root show other meshes, which is a matter of a
millisecond. All meshes belong to the root, so that they are saved with it.
"""

from __future__ import annotations

import bpy

from ...backend.protocol import NeuralField
from ..importing import take_materials
from . import motion
from .kept import has_field, keep, kept, second
from .weights import between


def is_mix(root: bpy.types.Object | None) -> bool:
    return root is not None and root.fieldforge_mix.steps > 0


def step_of(root: bpy.types.Object) -> int:
    """The step that the slider is nearest to, from 0 on."""
    mix = root.fieldforge_mix
    return round(mix.amount * (mix.steps - 1))


def amount_of(root: bpy.types.Object) -> float:
    """How much of the second shape there is in what shows."""
    return step_of(root) / max(1, root.fieldforge_mix.steps - 1)


def why_not_shown(root: bpy.types.Object) -> str:
    """Why the slider cannot go, or ""."""
    for part in motion.parts_of(root):
        if part.mode != "OBJECT":
            return "Leave Edit Mode to go from shape to shape"
        if part.library is not None:
            return "The object is linked from another file"
    if any(each.mesh is None for each in root.fieldforge_mix.meshes):
        return "Some of the steps were deleted: make them anew"
    return ""


def show(root: bpy.types.Object) -> None:
    """Have every part show its mesh of the step that the slider is at, with the materials that the
    artist has given it meanwhile."""
    if not is_mix(root) or why_not_shown(root):
        return
    mix, frames = root.fieldforge_mix, root.fieldforge_motion.frames
    first = step_of(root) * frames
    for part in motion.parts_of(root):
        mesh = mix.meshes[first + part.fieldforge_motion.number - 1].mesh
        if part.data != mesh:
            take_materials(mesh, part.data)
            part.data = mesh


def name_here(root: bpy.types.Object) -> str:
    """What is between the two shapes where the slider is."""
    mix = root.fieldforge_mix
    return f"{mix.first} to {mix.second}, {amount_of(root):.0%}"


def is_field_here(root: bpy.types.Object) -> bool:
    """Whether what the slider shows is of a field; not where surfaces were mixed instead."""
    return has_field(root) and (root.fieldforge_mix.by_weights or amount_of(root) in (0, 1))


def field_here(root: bpy.types.Object) -> NeuralField | None:
    """The field of what the slider shows; None where surfaces were mixed instead of fields.

    Raises BadInput where a field cannot be read.
    """
    if not is_field_here(root):
        return None
    return between(kept(root), second(root), amount_of(root))


def copy_here(root: bpy.types.Object) -> bpy.types.Object:
    """What the slider shows as a result of its own in the same place, with its field where it has
    one, and with all that the artist did with its parts. Raises BadInput."""
    motion_kept, name = root.fieldforge_motion, name_here(root)
    copy = bpy.data.objects.new(name, None)
    copy.empty_display_size = root.empty_display_size
    for collection in root.users_collection:
        collection.objects.link(copy)
    copy.matrix_world = root.matrix_world
    neural = field_here(root)
    if neural is not None:
        keep(copy, neural)
    for part in motion.parts_of(root):
        _copy_part(part, copy, f"{name} {part.fieldforge_motion.number}")
    target = copy.fieldforge_motion
    for prop in ("frames", "start", "speed", "loop"):
        setattr(target, prop, getattr(motion_kept, prop))
    target.way = motion_kept.way  # last: from now on changes move the curves
    motion.retime(copy)
    return copy


def _copy_part(part: bpy.types.Object, root: bpy.types.Object, name: str) -> None:
    """Another part that looks and stands as `part` does, of another root and with a mesh of its
    own."""
    own, inverse = part.copy(), part.matrix_parent_inverse.copy()
    own.data = part.data.copy()
    own.name = own.data.name = name
    own.parent = root  # which forgets the inverse
    own.matrix_parent_inverse = inverse
    for collection in part.users_collection:
        collection.objects.link(own)
    motion.own_action(own)
