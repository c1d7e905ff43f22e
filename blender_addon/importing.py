"""Placed meshes -> objects in the scene. Main thread only; one undo step."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

from .arrival import extent_along_x, row_offsets
from .compose import PlacedMesh
from .panorama.images import image_from

COLOR_NAME = "Color"
UV_NAME = "UVMap"
MATERIAL_NAME = "Fieldforge Colors"
VARIATIONS = "fieldforge_variations"
SOLID = {"MESH", "POINTCLOUD", "CURVE", "CURVES", "SURFACE", "META", "VOLUME"}


@dataclass(eq=False)
class Destination:
    """Where a result goes, in names that survive undo and file changes.

    layout: of several: "ROW" or "COLLECTION"; "BESIDE": also a single one goes beside its source.
    replaces: the result becomes the mesh of the source.
    panorama: how results about panoramas are put into the file (`panorama.source.import_options`).
    views: how views are (`views.options.import_options`).
    fields: how shapes of neural fields, and what moves, are (`fields.source.import_options`).
    """

    name: str
    matrix_world: np.ndarray
    scene: str = ""
    collection: str = ""
    hide: list[str] = field(default_factory=list)
    layout: str = "ROW"
    replaces: bool = False
    panorama: dict[str, Any] = field(default_factory=dict)
    views: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Created:
    """A new object. baked: (4, 4) float64, what of its transform went into its mesh."""

    item: bpy.types.Object
    baked: np.ndarray


def mesh_from_arrays(name: str, placed: PlacedMesh) -> bpy.types.Mesh:
    """A smooth-shaded mesh data-block. A million triangles take some 0.15 s, as every array is
    handed over whole."""
    mesh = bpy.data.meshes.new(name)
    fill_mesh(mesh, placed)
    if placed.texture is not None:
        mesh.materials.append(texture_material(image_from(placed.texture, name), name))
    elif placed.colors is not None:
        mesh.materials.append(color_material())
    return mesh


def fill_mesh(mesh: bpy.types.Mesh, placed: PlacedMesh) -> None:
    """Give a mesh without geometry that of `placed`."""
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
    if placed.uv is not None:
        mesh.uv_layers.new(name=UV_NAME, do_init=False).uv.foreach_set("vector", placed.uv.ravel())
    mesh.update()
    mesh.shade_smooth()
    if placed.colors is not None:
        attribute = mesh.color_attributes.new(COLOR_NAME, "BYTE_COLOR", "POINT")
        attribute.data.foreach_set("color_srgb", placed.colors.ravel())
        mesh.color_attributes.active_color_index = mesh.color_attributes.find(COLOR_NAME)


def color_material() -> bpy.types.Material:
    """Shows the colour attribute in Material Preview and in renders; one for all results."""
    found = bpy.data.materials.get(MATERIAL_NAME)
    if found is not None:
        return found
    material = bpy.data.materials.new(MATERIAL_NAME)
    _painted(material, "ShaderNodeVertexColor").layer_name = COLOR_NAME
    return material


def texture_material(image: bpy.types.Image, name: str) -> bpy.types.Material:
    """Shows an image where the UV map of its mesh puts it; one for each result."""
    material = bpy.data.materials.new(name)
    picture = _painted(material, "ShaderNodeTexImage")
    picture.image = image
    material.node_tree.nodes.active = picture  # what Solid shows where it shows textures
    return material


def _painted(material: bpy.types.Material, kind: str) -> bpy.types.Node:
    """The node of a rough material that gives it its colour, a new one of this kind."""
    if material.node_tree is None:  # before Blender 5.0
        material.use_nodes = True
    nodes = material.node_tree.nodes
    shader = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Roughness"].default_value = 0.7
    color = nodes.new(kind)
    color.location = (shader.location.x - 320, shader.location.y)
    material.node_tree.links.new(color.outputs["Color"], shader.inputs["Base Color"])
    return color


def _set(mesh, attribute: str, prop: str, values: np.ndarray) -> None:
    mesh.attributes[attribute].data.foreach_set(prop, values.ravel())


def add_mesh(placed: PlacedMesh, destination: Destination) -> bpy.types.Object:
    """The object, linked beside its source, selected and active; the source hidden when asked."""
    return add_meshes([placed], [destination.name], destination)[0].item


def add_meshes(
    meshes: list[PlacedMesh],
    names: list[str],
    destination: Destination,
    beside: tuple[float, float] | None = None,
) -> list[Created]:
    """An object for each mesh, laid out as asked; the first one selected and active.

    beside: (lowest, highest) x in the world of what a row stands beside; None: it begins in place.
    """
    scene, collection = home_of(destination)
    together = len(meshes) > 1 and destination.layout == "COLLECTION"
    if together:
        inner = bpy.data.collections.new(destination.name)
        inner[VARIATIONS] = True
        collection.children.link(inner)
        collection = inner
    created = []
    matrices = matrices_of(meshes, destination, beside)
    for mesh, name, matrix in zip(meshes, names, matrices, strict=True):
        item = bpy.data.objects.new(name, mesh_from_arrays(name, mesh))
        collection.objects.link(item)
        created.append(Created(item, _put_at(item, Matrix(matrix.tolist()))))
    view_layer = view_layer_of(scene)
    if together:
        hide([each.item for each in created[1:]], view_layer)
    select_only(view_layer, created[0].item)
    for name in destination.hide:
        source = view_layer.objects.get(name)
        if source is not None:
            source.hide_set(True, view_layer=view_layer)
    return created


def home_of(destination: Destination) -> tuple[bpy.types.Scene, bpy.types.Collection]:
    """The scene and the collection of it where a result goes."""
    scene = bpy.data.scenes.get(destination.scene) or _shown_scene()
    return scene, _collection(scene, destination.collection)


def matrices_of(
    meshes: list[PlacedMesh], destination: Destination, beside: tuple[float, float] | None
) -> list[np.ndarray]:
    """(4, 4) float64 matrix_world of each of the meshes of one result."""
    matrix = destination.matrix_world
    single = len(meshes) == 1 and destination.layout != "BESIDE"
    if single or destination.replaces or destination.layout == "COLLECTION":
        return [matrix] * len(meshes)
    matrices = []
    extents = [extent_along_x(mesh, matrix) for mesh in meshes]
    for offset in row_offsets(extents, beside):
        moved = matrix.copy()
        moved[0, 3] += offset
        matrices.append(moved)
    return matrices


def world_extent(items: list[bpy.types.Object]) -> tuple[float, float] | None:
    """(lowest, highest) x in the world of what has a shape among `items`; None without any."""
    solid = [item for item in items if item.type in SOLID]
    if not solid:
        return None
    corners = [
        np.array(item.bound_box) @ np.array(item.matrix_world)[0, :3] + item.matrix_world[0][3]
        for item in solid
    ]
    return float(np.min(corners)), float(np.max(corners))


def replace_mesh(item: bpy.types.Object, placed: PlacedMesh) -> None:
    """Give an object this mesh instead of its own; its place, modifiers and materials stay."""
    old = item.data
    new = mesh_from_arrays(old.name, placed)
    if len(old.materials):
        take_materials(new, old)
    item.data = new
    name = old.name
    if old.users == 0:
        bpy.data.meshes.remove(old)
        new.name = name


def take_materials(mesh: bpy.types.Mesh, other: bpy.types.Mesh) -> None:
    """Give a mesh the material slots of another one. Before an object shows it: what the object
    itself has in slots that its mesh lacks is lost."""
    mesh.materials.clear()
    for material in other.materials:
        mesh.materials.append(material)


def hide(items: list[bpy.types.Object], view_layer: bpy.types.ViewLayer) -> None:
    """In the viewport, by the eye in the Outliner, and in renders."""
    for item in items:
        item.hide_render = True
        with contextlib.suppress(RuntimeError):  # in an excluded collection there is no eye
            item.hide_set(True, view_layer=view_layer)


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


def view_layer_of(scene) -> bpy.types.ViewLayer:
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


def _put_at(created, matrix_world: Matrix) -> np.ndarray:
    """Give an object without parent this transform; (4, 4) what of it went into the mesh.

    Location, rotation and scale cannot hold the shear that a source gets when it is turned inside
    a stretched parent; that part goes into the mesh.
    """
    created.matrix_world = matrix_world
    rest = created.matrix_basis.inverted_safe() @ matrix_world
    if max(abs(value) for row in rest - Matrix.Identity(4) for value in row) > 1e-6:
        created.data.transform(rest)
        return np.array(rest, np.float64)
    return np.eye(4)


def select_only(view_layer, created) -> None:
    # An excluded collection has its objects in no view layer, and then there is nothing to select.
    with contextlib.suppress(RuntimeError):
        created.select_set(True, view_layer=view_layer)
        view_layer.objects.active = created
    for item in view_layer.objects.selected[:]:
        if item is not None and item != created:
            item.select_set(False, view_layer=view_layer)
