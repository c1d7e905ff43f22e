"""Live controls: the vertices of a sphere follow what its depth values are said to mean.

A sphere keeps, for each vertex, its direction and its value of the depth map as attributes of its
mesh, so that they are saved with the file and go with copies. No mesh is built anew: only the
positions change. What changed them is a property of the mesh, so one undo step has both.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import bpy
import numpy as np

from ...backend.protocol import DepthMeaning
from .arrival import place

DIRECTION = "fieldforge_direction"
VALUE = "fieldforge_depth"
KEPT_SECONDS = 60.0
LOOKED_AT = 64  # vertices
PER_THREAD = 1 << 18  # vertices, at least: below, starting a thread takes longer than it saves
MOST_THREADS = 4


@dataclass(eq=False)
class _Kept:
    """Arrays of a sphere that is being moved, kept for a minute: reading them anew, into new
    memory, takes longer than what is done with them. directions, positions: (V, 3); values: (V,);
    all float32. The values are read for each move, the positions are those of the last one.
    """

    directions: np.ndarray
    values: np.ndarray
    positions: np.ndarray

    def still_true(self, mesh: bpy.types.Mesh) -> bool:
        """Whether the vertices are those of the last move, by all that some of them tell.

        The directions are not asked: Blender copies all of an attribute before it shows any of it,
        and the positions are what is written next anyway.
        """
        count = len(self.values)
        points = _attribute(mesh, "position").data
        if len(points) != count:
            return False
        picks = np.linspace(0, count - 1, LOOKED_AT).astype(int).tolist() if count else []
        return all(tuple(points[i].vector) == tuple(self.positions[i].tolist()) for i in picks)


_kept: dict[int, _Kept] = {}


def _arrays_of(mesh: bpy.types.Mesh) -> _Kept:
    if bpy.app.timers.is_registered(_forget):
        bpy.app.timers.unregister(_forget)
    bpy.app.timers.register(_forget, first_interval=KEPT_SECONDS, persistent=True)
    kept = _kept.get(mesh.session_uid)
    if kept is None or not kept.still_true(mesh):
        kept = _kept[mesh.session_uid] = _read(mesh)
    _attribute(mesh, VALUE).data.foreach_get("value", kept.values)
    return kept


def _read(mesh: bpy.types.Mesh) -> _Kept:
    count = len(mesh.vertices)
    directions, values = np.empty((count, 3), np.float32), np.empty(count, np.float32)
    _attribute(mesh, DIRECTION).data.foreach_get("vector", directions.ravel())
    return _Kept(directions, values, np.empty_like(directions))


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
    return "" if _has_depth(mesh) else "The mesh has lost its depth: it was made anew"


def _has_depth(mesh: bpy.types.Mesh) -> bool:
    """Whether the directions and the values of a mesh are still there."""
    kinds = {DIRECTION: "FLOAT_VECTOR", VALUE: "FLOAT"}
    found = {name: _attribute(mesh, name) for name in kinds}
    return all(
        each is not None and (each.domain, each.data_type) == ("POINT", kinds[name])
        for name, each in found.items()
    )


def _attribute(mesh: bpy.types.Mesh, name: str) -> bpy.types.Attribute | None:
    """By its number: asked by its name, Blender 5 first copies what is in it."""
    index = mesh.attributes.find(name)
    return mesh.attributes[index] if index >= 0 else None


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
    _place(kept, meaning)
    _attribute(mesh, "position").data.foreach_set("vector", kept.positions.ravel())
    mesh.update()


def _place(kept: _Kept, meaning: DepthMeaning) -> None:
    """Write the positions of all vertices, in as many threads as pay off."""

    def share(part: slice) -> None:
        place(kept.directions[part], kept.values[part], meaning, kept.positions[part])

    count = len(kept.values)
    threads = max(1, min(count // PER_THREAD, MOST_THREADS, os.cpu_count() or 1))
    bounds = np.linspace(0, count, threads + 1).astype(int).tolist()
    parts = [slice(*pair) for pair in itertools.pairwise(bounds)]
    if threads == 1:
        return share(parts[0])
    with ThreadPoolExecutor(threads) as pool:  # of this move: none is left over
        list(pool.map(share, parts))
