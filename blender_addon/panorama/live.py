"""Live controls: the vertices of a sphere follow what its depth values are said to mean.

A sphere keeps, for each vertex, its direction and its value of the depth map as attributes of its
mesh, so that they are saved with the file and go with copies. No mesh is built anew: only the
positions change. What changed them is a property of the mesh, so one undo step has both.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from ...backend.protocol import DepthMeaning
from .arrival import place

DIRECTION = "fieldforge_direction"
VALUE = "fieldforge_depth"
KEPT_SECONDS = 10.0
LOOKED_AT = 64  # vertices


@dataclass(eq=False)
class _Kept:
    """Arrays of a sphere that is being moved, kept for some seconds: reading them anew, into new
    memory, takes longer than what is done with them. directions, positions: (V, 3); values, radii:
    (V,); all float32."""

    directions: np.ndarray
    values: np.ndarray
    positions: np.ndarray
    radii: np.ndarray

    def still_true(self, mesh: bpy.types.Mesh) -> bool:
        """Whether the mesh has these directions and values, by all that some vertices tell."""
        count = len(mesh.vertices)
        if count != len(self.values):
            return False
        direction, value = (each.data for each in _attributes_of(mesh))
        picks = np.linspace(0, count - 1, LOOKED_AT).astype(int).tolist() if count else []
        return all(
            tuple(direction[i].vector) == tuple(self.directions[i].tolist())
            and value[i].value == self.values[i]
            for i in picks
        )


_kept: dict[int, _Kept] = {}


def _arrays_of(mesh: bpy.types.Mesh) -> _Kept:
    if bpy.app.timers.is_registered(_forget):
        bpy.app.timers.unregister(_forget)
    bpy.app.timers.register(_forget, first_interval=KEPT_SECONDS, persistent=True)
    kept = _kept.get(mesh.session_uid)
    if kept is None or not kept.still_true(mesh):
        kept = _kept[mesh.session_uid] = _read(mesh)
    return kept


def _read(mesh: bpy.types.Mesh) -> _Kept:
    count = len(mesh.vertices)
    directions, values = np.empty((count, 3), np.float32), np.empty(count, np.float32)
    direction, value = _attributes_of(mesh)
    direction.data.foreach_get("vector", directions.ravel())
    value.data.foreach_get("value", values)
    return _Kept(directions, values, np.empty_like(directions), np.empty_like(values))


def _forget() -> None:
    _kept.clear()


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
    kept = _arrays_of(mesh)
    place(kept.directions, kept.values, meaning, kept.radii, kept.positions)
    mesh.attributes["position"].data.foreach_set("vector", kept.positions.ravel())
    mesh.update()
