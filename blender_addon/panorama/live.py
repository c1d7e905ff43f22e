"""Live controls: the vertices of a sphere follow what its depth values are said to mean.

A sphere keeps, for each vertex, its direction and its value of the depth map as attributes of its
mesh, so that they are saved with the file and go with copies. No mesh is built anew: only the
positions change. What changed them is a property of the mesh, so one undo step has both.
"""

from __future__ import annotations

import bpy
import numpy as np

from ...backend.protocol import DepthMeaning
from .arrival import scale_by_radii

DIRECTION = "fieldforge_direction"
VALUE = "fieldforge_depth"
KEPT_SECONDS = 10.0


class _Scratch:
    """Memory for the arrays of the sphere that is being moved, kept for some seconds: asking for
    it anew costs more than what is done with it."""

    directions = np.empty(0, np.float32)
    values = np.empty(0, np.float32)

    @classmethod
    def of(cls, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(3 count,) and (count,) float32."""
        if len(cls.values) < count:
            cls.directions, cls.values = (
                np.empty(3 * count, np.float32),
                np.empty(count, np.float32),
            )
        if bpy.app.timers.is_registered(_forget):
            bpy.app.timers.unregister(_forget)
        bpy.app.timers.register(_forget, first_interval=KEPT_SECONDS, persistent=True)
        return cls.directions[: 3 * count], cls.values[:count]


def _forget() -> None:
    _Scratch.directions = _Scratch.values = np.empty(0, np.float32)


def unregister() -> None:
    if bpy.app.timers.is_registered(_forget):
        bpy.app.timers.unregister(_forget)
    _forget()


def is_sphere(item: bpy.types.Object | None) -> bool:
    """Whether this is the front of a sphere, by which all of it is known."""
    return item is not None and item.type == "MESH" and item.data.fieldforge_sphere.layer == "front"


def sphere_of(item: bpy.types.Object | None) -> bpy.types.Object | None:
    """The sphere that `item` is, or is a part of."""
    while item is not None and not is_sphere(item):
        item = item.parent
    return item


def layers_of(sphere: bpy.types.Object) -> list[bpy.types.Object]:
    """The sphere, and what belongs to it and has a layer's name."""
    parts = [item for item in sphere.children if item.type == "MESH"]
    return [sphere, *(item for item in parts if item.data.fieldforge_sphere.layer)]


def why_not_moved(mesh: bpy.types.Mesh) -> str:
    """Why the controls cannot move the vertices of this mesh, or ""."""
    if mesh.is_editmode:
        return "Leave Edit Mode to move the depth"
    if mesh.library is not None:
        return "The mesh is linked from another file"
    if mesh.shape_keys is not None:
        return "The mesh has shape keys, which keep its vertices where they are"
    return "" if _attributes_of(mesh) else "The mesh has lost its depth: it was made anew"


def _attributes_of(mesh: bpy.types.Mesh):
    """The directions and the values of a mesh; None when it has lost them."""
    found = [mesh.attributes.get(name) for name in (DIRECTION, VALUE)]
    kinds = ("FLOAT_VECTOR", "FLOAT")
    for attribute, kind in zip(found, kinds, strict=True):
        if attribute is None or (attribute.domain, attribute.data_type) != ("POINT", kind):
            return None
    return found


def move_sphere(front: bpy.types.Mesh, meaning: DepthMeaning) -> None:
    """Bring the vertices of a sphere where `meaning` says, and those of what lies behind it."""
    meshes = {front}
    for item in bpy.data.objects:
        if item.type == "MESH" and item.data == front:
            parts = {part.data for part in layers_of(item)}
            meshes |= {mesh for mesh in parts if mesh.fieldforge_sphere.layer == "backing"}
    for mesh in meshes:
        if not why_not_moved(mesh):
            move(mesh, meaning)


def move(mesh: bpy.types.Mesh, meaning: DepthMeaning) -> None:
    """Bring each vertex of `mesh` to its direction times the radius that its value means."""
    direction, value = _attributes_of(mesh)
    places, values = _Scratch.of(len(mesh.vertices))
    direction.data.foreach_get("vector", places)
    value.data.foreach_get("value", values)
    scale_by_radii(places.reshape(-1, 3), values, meaning)
    mesh.attributes["position"].data.foreach_set("vector", places)
    mesh.update()
