"""A placed mesh -> an object in the scene. Main thread only; one undo step."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import bpy
import numpy as np
from mathutils import Matrix

from .compose import PlacedMesh

COLOR_NAME = "Color"
MATERIAL_NAME = "Fieldforge Colors"


@dataclass(eq=False)
class Destination:
    """Where a result goes, in names that survive undo and file changes."""

    name: str
    matrix_world: np.ndarray
    scene: str = ""
    collection: str = ""
    hide: list[str] = field(default_factory=list)


def mesh_from_arrays(name: str, placed: PlacedMesh) -> bpy.types.Mesh:
    """A smooth-shaded mesh data-block. A million triangles take some 0.15 s, as every array is
    handed over whole."""
    mesh = bpy.data.meshes.new(name)
    count = len(placed.triangles)
    mesh.vertices.add(len(placed.vertices))
    mesh.edges.add(len(placed.edges))
    mesh.loops.add(3 * count)
    mesh.polygons.add(count)
    _set(mesh, "position", "vector", placed.vertices)
    _set(mesh, ".edge_verts", "value", placed.edges)
    _set(mesh, ".corner_vert", "value", placed.triangles)
    _set(mesh, ".corner_edge", "value", placed.corner_edges)
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * count, 3, dtype=np.int32))
    mesh.update()
    mesh.shade_smooth()
    if placed.colors is not None:
        attribute = mesh.color_attributes.new(COLOR_NAME, "BYTE_COLOR", "POINT")
        attribute.data.foreach_set("color_srgb", placed.colors.ravel())
        mesh.color_attributes.active_color_index = mesh.color_attributes.find(COLOR_NAME)
        mesh.materials.append(color_material())
    return mesh


def color_material() -> bpy.types.Material:
    """Shows the colour attribute in Material Preview and in renders; one for all results."""
    found = bpy.data.materials.get(MATERIAL_NAME)
    if found is not None:
        return found
    material = bpy.data.materials.new(MATERIAL_NAME)
    if material.node_tree is None:  # before Blender 5.0
        material.use_nodes = True
    nodes = material.node_tree.nodes
    shader = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Roughness"].default_value = 0.7
    color = nodes.new("ShaderNodeVertexColor")
    color.layer_name = COLOR_NAME
    color.location = (shader.location.x - 220, shader.location.y)
    material.node_tree.links.new(color.outputs["Color"], shader.inputs["Base Color"])
    return material


def _set(mesh, attribute: str, prop: str, values: np.ndarray) -> None:
    mesh.attributes[attribute].data.foreach_set(prop, values.ravel())


def add_mesh(placed: PlacedMesh, destination: Destination) -> bpy.types.Object:
    """The object, linked beside its source, selected and active; the source hidden when asked."""
    scene = bpy.data.scenes.get(destination.scene) or _shown_scene()
    created = bpy.data.objects.new(destination.name, mesh_from_arrays(destination.name, placed))
    _collection(scene, destination.collection).objects.link(created)
    _put_at(created, Matrix(destination.matrix_world.tolist()))
    view_layer = _view_layer(scene)
    _select_only(view_layer, created)
    for name in destination.hide:
        source = view_layer.objects.get(name)
        if source is not None:
            source.hide_set(True, view_layer=view_layer)
    return created


def push_undo(message: str) -> None:
    """One step for the whole import.

    Not under temp_override, though a timer's context has no window: with an override, Blender
    looks things up in a Python dictionary while the operator runs, and with Python 3.11 it does so
    without Python's lock when another thread happens to hold it. That crashes, now and then.
    """
    bpy.ops.ed.undo_push(message=message)


def _shown_scene() -> bpy.types.Scene:
    windows = bpy.context.window_manager.windows
    return windows[0].scene if windows else bpy.context.scene


def _view_layer(scene) -> bpy.types.ViewLayer:
    """The view layer that a window shows of `scene`, otherwise its first."""
    for window in bpy.context.window_manager.windows:
        if window.scene == scene:
            return window.view_layer
    return scene.view_layers[0]


def _collection(scene, name: str) -> bpy.types.Collection:
    """The collection `name` when it is part of `scene`, otherwise the scene's own."""
    inside = {item.name: item for item in scene.collection.children_recursive}
    found = inside.get(name)
    return found if found is not None and found.library is None else scene.collection


def _put_at(created, matrix_world: Matrix) -> None:
    """Give an object without parent this transform.

    Location, rotation and scale cannot hold the shear that a source gets when it is turned inside
    a stretched parent; that part goes into the mesh.
    """
    created.matrix_world = matrix_world
    rest = created.matrix_basis.inverted_safe() @ matrix_world
    if max(abs(value) for row in rest - Matrix.Identity(4) for value in row) > 1e-6:
        created.data.transform(rest)


def _select_only(view_layer, created) -> None:
    # An excluded collection has its objects in no view layer, and then there is nothing to select.
    with contextlib.suppress(RuntimeError):
        created.select_set(True, view_layer=view_layer)
        view_layer.objects.active = created
    for item in view_layer.objects.selected[:]:
        if item is not None and item != created:
            item.select_set(False, view_layer=view_layer)
