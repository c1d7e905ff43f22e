"""The surfaces of the scene's objects, as modifiers and instancers make them. Main thread only."""

from __future__ import annotations

import bpy
import numpy as np

from ...backend.errors import BadInput
from ..capture import Facts, counted, originals, results
from ..compose import srgb_from_linear
from ..pictures import Part
from .cameras import viewport

WITH_SURFACE = {"MESH", "CURVE", "SURFACE", "FONT", "META"}
WITHOUT_FACES = {"WIRE", "BOUNDS"}  # ways to draw an object, often one that cuts others
GREY = (204, 204, 204)


def chosen(context) -> list[bpy.types.Object]:
    """The objects that the settings ask to see. A selected result stands for what it was made
    from; others are left out of the scene, as they lie on their sources."""
    if context.scene.fieldforge.seen_objects == "SELECTED":
        return [item for item in originals(context) if may_have_surface(item)]
    return [item for item in _visible(context) if may_have_surface(item)]


def _visible(context):
    made = {item.session_uid for item in results(context)}
    found = viewport(context)
    shown = {"viewport": found[0]} if found else {}  # in local view it shows a few only
    return (
        item
        for item in context.view_layer.objects
        if item.visible_get(**shown) and item.session_uid not in made
    )


def may_have_surface(item) -> bool:
    """Cheap: whether an object may show faces, itself or by its instances."""
    if item.type == "EMPTY":
        return item.instance_type == "COLLECTION" and item.instance_collection is not None
    return item.type in WITH_SURFACE and item.display_type not in WITHOUT_FACES


def facts(context) -> Facts:
    """What is seen, in words."""
    if context.scene.fieldforge.seen_objects == "VISIBLE":
        if any(may_have_surface(item) for item in _visible(context)):
            return Facts("All visible objects")
        reason = "There is nothing with a surface in the scene"
        return Facts(f"{reason}.", reason, "Add a mesh, or show one that is hidden.")
    items = chosen(context)
    if items:
        words = items[0].name if len(items) == 1 else counted(len(items), "object")
        return Facts(words)
    reason = "Nothing with a surface is selected"
    return Facts(f"{reason}.", reason, "Select mesh objects, or choose All Visible.")


def name_of(items: list[bpy.types.Object], context) -> str:
    active = context.view_layer.objects.active
    if context.scene.fieldforge.seen_objects == "VISIBLE":
        return context.scene.name
    return active.name if active in items else items[0].name


def parts(context, items: list[bpy.types.Object]) -> list[Part]:
    """The surfaces of `items` and of what they instance. Raises BadInput when there is none."""
    wanted = {item.session_uid for item in items}
    for item in items:
        if item.mode == "EDIT":
            item.update_from_editmode()
    depsgraph = context.evaluated_depsgraph_get()
    found: dict[int, Part] = {}
    curves: list[tuple[bpy.types.Object, np.ndarray]] = []
    for instance in depsgraph.object_instances:
        item = instance.object
        root = instance.parent if instance.is_instance else item
        if root.original.session_uid not in wanted or not instance.show_self:
            continue
        if item.type not in WITH_SURFACE or item.display_type in WITHOUT_FACES:
            continue
        matrix = np.array(instance.matrix_world, np.float64)
        if isinstance(item.data, bpy.types.Mesh) and item.original.mode != "EDIT":
            key = item.data.as_pointer()
            if key not in found:
                found[key] = _read(item.data)
            found[key].shown.append((matrix, _colors(item)))
        else:
            curves.append((item.original, matrix))
    made = [_made(item, matrix, depsgraph) for item, matrix in curves]
    result = [part for part in (*found.values(), *made) if len(part.triangles)]
    if not result:
        raise BadInput("There are no faces on what was chosen.", "Choose objects that have faces.")
    return result


def count_triangles(context, items: list[bpy.types.Object]) -> int:
    """About how many triangles `items` show, without reading them."""
    wanted = {item.session_uid for item in items}
    counts = {}
    for instance in context.evaluated_depsgraph_get().object_instances:
        root = instance.parent if instance.is_instance else instance.object
        data = instance.object.data
        if isinstance(data, bpy.types.Mesh) and root.original.session_uid in wanted:
            count = len(data.loops) - 2 * len(data.polygons)
            counts[data.as_pointer()] = counts.get(data.as_pointer(), 0) + count
    return sum(counts.values())


def bounds(found: list[Part]) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) (3,) float64 in the world, of the vertices that belong to faces."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for part in found:
        corners = part.vertices[np.unique(part.triangles)].astype(np.float64)
        for matrix, _ in part.shown:
            moved = corners @ matrix[:3, :3].T + matrix[:3, 3]
            low, high = np.minimum(low, moved.min(axis=0)), np.maximum(high, moved.max(axis=0))
    return low, high


def _made(item, matrix: np.ndarray, depsgraph) -> Part:
    """The surface that a curve, a text, a metaball or a mesh in Edit Mode has for the moment."""
    evaluated = item.evaluated_get(depsgraph)
    try:
        mesh = evaluated.to_mesh()
        part = _read(mesh) if mesh else _nothing()
    except RuntimeError:  # a metaball that belongs to another has no surface of its own
        part = _nothing()
    finally:
        evaluated.to_mesh_clear()
    part.shown.append((matrix, _colors(item)))
    return part


def _read(mesh) -> Part:
    vertices = np.zeros(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", vertices)
    mesh.calc_loop_triangles()
    triangles = np.zeros(3 * len(mesh.loop_triangles), np.int32)
    mesh.loop_triangles.foreach_get("vertices", triangles)
    slots = np.zeros(len(mesh.loop_triangles), np.int32)
    mesh.loop_triangles.foreach_get("material_index", slots)
    return Part(vertices.reshape(-1, 3), triangles.reshape(-1, 3), slots)


def _nothing() -> Part:
    none = np.zeros((0, 3), np.int32)
    return Part(none.astype(np.float32), none, none[:, 0])


def _colors(item) -> np.ndarray:
    """(S, 3) uint8 sRGB: how the viewport shows the materials of its slots; at least one."""
    found = [_color(slot.material) for slot in item.material_slots]
    return np.array(found or [GREY], np.uint8)


def _color(material: bpy.types.Material | None) -> tuple[int, ...]:
    """(3,) sRGB"""
    if material is None:
        return GREY
    color = np.array(material.diffuse_color[:3])
    return tuple(np.rint(255 * srgb_from_linear(color)).astype(int).tolist())
