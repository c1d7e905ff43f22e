"""The scene -> facts in words for the panel, and arrays for `compose`. Main thread only.

`facts` is what the panel shows on every redraw: it counts, reads no coordinates, and is kept until
something in the scene changes. `capture` reads the coordinates, once, with foreach_get.
"""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass

import bpy
import numpy as np
from bpy.app.handlers import persistent

from ..backend.errors import BadInput
from ..backend.protocol import MAX_POINTS, MAX_VOXEL_SIDE, MIN_POINTS
from .compose import Capture, Colors, CubesCapture, MeshCapture, PointCapture
from .generated import is_region_box

NORMAL_NAMES = ("normal", "normals", "N", "Normal", "custom_normal")
NORMAL_COLUMNS = ("nx", "ny", "nz")
COLOR_TYPES = {"FLOAT_COLOR", "BYTE_COLOR"}


@dataclass(frozen=True)
class Facts:
    """text: what is selected, in words; reason: why it cannot be used, or ""; advice: what to do
    about it or what is worth knowing; has_faces: the source is a mesh with faces; warning: it can
    be used, but."""

    text: str
    reason: str = ""
    advice: str = ""
    has_faces: bool = False
    warning: str = ""


@dataclass(frozen=True)
class Origin:
    """What a result was made from. way: as `_way` says; members: (name, session_uid) of objects."""

    way: str
    members: tuple[tuple[str, int], ...]


# ------------------------------------------------------------------------------------------- facts

_known: dict[tuple, Facts] = {}
_origins: dict[int, Origin] = {}
_seen: dict[int, str] = {}  # what was said of a cloud, for the case that it is hidden


def forget_facts(*_) -> None:
    """Something changed: the panel has to look again."""
    _known.clear()


@persistent
def _scene_changed(*_) -> None:
    forget_facts()


@persistent
def _file_loaded(*_) -> None:
    forget_facts()
    _origins.clear()
    _seen.clear()


_HANDLERS = {
    "depsgraph_update_post": _scene_changed,
    "undo_post": _scene_changed,
    "redo_post": _scene_changed,
    "load_post": _file_loaded,
}


def register() -> None:
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).append(handler)


def unregister() -> None:
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).remove(handler)
    _file_loaded()


def facts(context) -> Facts:
    """What the panel says about the source; cheap enough for every redraw."""
    source = source_object(context)
    key = (context.scene.name, context.mode, source.session_uid if source else 0)
    if key not in _known:
        _known.clear()
        _known[key] = _look(context, source)
    return _known[key]


def source_object(context) -> bpy.types.Object | None:
    """The pinned object, or the active one when it is selected.

    A mesh that was just made stands for its source: one wants to change a setting and click
    Generate again, without selecting the source anew. So does the box over a part of it.
    """
    settings = context.scene.fieldforge
    if settings.object_from == "PINNED":
        return settings.pinned
    active = context.view_layer.objects.active
    if active is None or not active.select_get():
        return None
    if is_region_box(active):
        active = active.parent
    made_from = _members_of_result(context, active)
    return made_from[0] if made_from else active


def source_objects(context) -> list[bpy.types.Object]:
    """The objects that the source consists of: several when each cube is a voxel."""
    if _way(context.scene.fieldforge) == "CUBES":
        return _cubes(context)
    source = source_object(context)
    return [source] if source else []


def _cubes(context) -> list[bpy.types.Object]:
    """The selected boxes, the active one first: the frame and the name are its."""
    active = context.view_layer.objects.active
    cubes = [item for item in context.selected_objects if _may_be_box(item)]
    if not cubes and active is not None and active.select_get():
        cubes = _members_of_result(context, active)
    return sorted(cubes, key=lambda item: item != active)


def origin_of(context, items: list[bpy.types.Object]) -> Origin:
    """What results of the chosen source, which are these objects, are going to stand for."""
    members = [(item.name, item.session_uid) for item in items]
    return Origin(_way(context.scene.fieldforge), tuple(members))


def remember_result(result, origin: Origin) -> None:
    """Kept until another file is opened."""
    _origins[result.session_uid] = origin


def origin_of_result(result) -> Origin | None:
    """What it was made from, when that was since the file was opened."""
    return _origins.get(result.session_uid)


def _members_of_result(context, result) -> list[bpy.types.Object]:
    """What is left of what `result` was made from; nothing when something else is wanted now."""
    made_from = _origins.get(result.session_uid)
    if made_from is None or made_from.way != _way(context.scene.fieldforge):
        return []
    objects = context.view_layer.objects
    found = [(objects.get(name), uid) for name, uid in made_from.members]
    return [item for item, uid in found if item is not None and item.session_uid == uid]


def originals(context) -> list[bpy.types.Object]:
    """The selected objects, the active one first; for results what they were made from."""
    active = context.view_layer.objects.active
    found = {}
    for item in sorted(context.selected_objects, key=lambda item: item != active):
        for original in _members_of_result(context, item) or [item]:
            found[original.session_uid] = original
    return list(found.values())


def results(context) -> list[bpy.types.Object]:
    """What was made here of the same kind of source."""
    way = _way(context.scene.fieldforge)
    uids = {uid for uid, made_from in _origins.items() if made_from.way == way}
    return [item for item in context.view_layer.objects if item.session_uid in uids]


def _way(settings) -> str:
    """How the source is read: "POINTS", "VERTICES", "MESH", "CUBES", or what it is."""
    if settings.source not in {"POINTS", "VOXELS"}:
        return settings.source
    if settings.source == "VOXELS":
        return settings.voxels_from
    return "VERTICES" if settings.take_vertices else "POINTS"


def _look(context, source) -> Facts:
    settings = context.scene.fieldforge
    if _way(settings) == "CUBES":
        return _cubes_facts(context)
    if source is None:
        return _nothing(settings)
    if settings.source == "VOXELS":
        return _mesh_facts(context, source)
    return _points_facts(context, source)


def _nothing(settings) -> Facts:
    if settings.object_from == "PINNED":
        return Facts(
            "No object is pinned.", "No object is pinned", "Choose one in the field above."
        )
    return Facts(
        "Nothing is selected.",
        "Nothing is selected",
        "Select a point cloud or a mesh in the viewport.",
    )


def _points_facts(context, source) -> Facts:
    settings = context.scene.fieldforge
    if source.type not in {"MESH", "POINTCLOUD"}:
        return _wrong_type(source)
    if settings.use_modifiers and _is_hidden_until_shown(context, source):
        seen = _seen.get(source.session_uid, f"{source.name}: points made by its modifiers")
        return Facts(f"{seen} (hidden)")
    data = _data_for_counting(context, source)
    if data is None:
        return _evaluates_to_something_else(source)
    is_mesh = isinstance(data, bpy.types.Mesh)
    count = _count(data)
    has_faces = is_mesh and len(data.polygons) > 0
    normals = "with normals" if has_faces or _normal_names(data) else "no normals"
    colors = ", with colors" if _color_attribute(data) else ""
    text = f"{source.name}: {count:,} points, {normals}{colors}"
    if has_faces and not settings.take_vertices:
        return Facts(
            f"{source.name}: a mesh of {len(data.polygons):,} faces",
            "The source is a mesh with faces, not loose points",
            "Turn on Take Vertices to use its vertices as points, or choose Voxels.",
            has_faces,
        )
    if count < MIN_POINTS:
        return Facts(
            text,
            f"{count:,} points are too few for a surface",
            f"Select a point cloud of at least {MIN_POINTS} points.",
            has_faces,
        )
    if count > MAX_POINTS:
        return Facts(
            text,
            f"More than {MAX_POINTS:,} points",
            "Thin the cloud out first, for example with Merge by Distance.",
            has_faces,
        )
    _seen[source.session_uid] = text
    return Facts(text, has_faces=has_faces)


def _mesh_facts(context, source) -> Facts:
    settings = context.scene.fieldforge
    if source.type not in {"MESH", "POINTCLOUD"}:
        return _wrong_type(source, "mesh")
    data = _data_for_counting(context, source)
    if data is None:
        return _evaluates_to_something_else(source)
    if not getattr(data, "polygons", None):
        return Facts(
            f"{source.name}: {_count(data):,} points, no faces",
            "Loose points have no inside to fill with voxels",
            "Choose Points instead of Voxels.",
        )
    # The turned bounding box is never smaller than the real one, so the true grid is no larger.
    corners = np.array(source.bound_box) @ np.array(source.matrix_world)[:3, :3].T
    longest = float(np.ptp(corners, axis=0).max())
    side = int(np.ceil(longest / settings.voxel_size))
    text = (
        f"{source.name}: {len(data.polygons):,} faces, about {side:,} voxels along its longest side"
    )
    if side > MAX_VOXEL_SIDE - 2:
        least = longest / (MAX_VOXEL_SIDE - 2)
        return Facts(
            text,
            f"More than {MAX_VOXEL_SIDE} voxels along a side",
            f"Set the voxel size to {_round_up(least):g} m or more.",
            True,
        )
    return Facts(text, has_faces=True)


def _cubes_facts(context) -> Facts:
    cubes = _cubes(context)
    if not cubes:
        return Facts(
            "No cubes are selected.",
            "No cubes are selected",
            "Select the cubes that stand for voxels, or choose Mesh.",
        )
    others = len(context.selected_objects) - len(cubes) if cubes[0].select_get() else 0
    ignored = f", {counted(others, 'other object')} left out" if others else ""
    return Facts(f"{counted(len(cubes), 'cube')}{ignored}")


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _wrong_type(source, wanted="point cloud or a mesh") -> Facts:
    kind = source.type.replace("_", " ").lower()
    return Facts(
        f"{source.name}: {kind}", f"The source is no {wanted}", f"Select a {wanted} instead."
    )


def _evaluates_to_something_else(source) -> Facts:
    if not source.visible_get():
        return Facts(
            f"{source.name}: not in the viewport",
            "What its modifiers make is not known while it is not in the viewport",
            "Show it (in the Outliner), or turn off Use Modifiers.",
        )
    return Facts(
        f"{source.name}: its modifiers make something else of it",
        "The modifiers leave neither points nor a mesh",
        "Turn off Use Modifiers, or apply them.",
    )


def _round_up(value: float) -> float:
    """To two significant digits, never below the value."""
    digits = 1 - int(np.floor(np.log10(value)))
    return float(np.ceil(value * 10.0**digits) / 10.0**digits)


# ----------------------------------------------------------------------------------------- capture


def capture(context) -> Capture:
    """Read the chosen source. Raises BadInput."""
    settings = context.scene.fieldforge
    found = facts(context)
    if found.reason:
        raise BadInput(f"{found.reason}.", found.advice)
    if _way(settings) == "CUBES":
        return _capture_cubes(_cubes(context))
    source = source_object(context)
    with _readable_data(context, source, settings.use_modifiers) as data:
        if settings.source == "VOXELS":
            return _capture_mesh(source, data, settings.voxel_size)
        return _capture_points(source, data)


def _capture_points(source, data) -> PointCapture:
    return PointCapture(
        name=source.name,
        points=_read(data.attributes["position"].data, "vector", 3),
        matrix_world=np.array(source.matrix_world, np.float64),
        normals=_read_normals(data),
        colors=_read_colors(data),
    )


def _capture_mesh(source, data, voxel_size: float) -> MeshCapture:
    data.calc_loop_triangles()
    triangles = np.zeros(3 * len(data.loop_triangles), np.int32)
    data.loop_triangles.foreach_get("vertices", triangles)
    return MeshCapture(
        name=source.name,
        vertices=_read(data.attributes["position"].data, "vector", 3),
        triangles=triangles.reshape(-1, 3),
        matrix_world=np.array(source.matrix_world, np.float64),
        voxel_size=float(voxel_size),
    )


def _capture_cubes(cubes: list[bpy.types.Object]) -> CubesCapture:
    boxes: dict[int, np.ndarray] = {}
    centres, edges = np.zeros((len(cubes), 3)), np.zeros((len(cubes), 3, 3))
    for index, cube in enumerate(cubes):
        mesh = cube.data
        if mesh.session_uid not in boxes:
            boxes[mesh.session_uid] = _box_of(cube)
        low, high = boxes[mesh.session_uid]
        matrix = np.array(cube.matrix_world)
        centres[index] = matrix[:3, :3] @ ((low + high) / 2) + matrix[:3, 3]
        edges[index] = matrix[:3, :3].T * (high - low)[:, None]
    return CubesCapture(cubes[0].name, [cube.name for cube in cubes], centres, edges)


def _may_be_box(item) -> bool:
    is_result = item.session_uid in _origins
    return item.type == "MESH" and len(item.data.vertices) == 8 and not is_result


def _box_of(cube) -> np.ndarray:
    """(2, 3) lowest and highest corner; raises BadInput when the eight vertices are no box."""
    corners = _read(cube.data.attributes["position"].data, "vector", 3).astype(np.float64)
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = high - low
    near_low = np.abs(corners - low) <= 0.01 * size
    near_high = np.abs(corners - high) <= 0.01 * size
    places = {tuple(row) for row in near_high.tolist()}
    if (size <= 0).any() or not (near_low ^ near_high).all() or len(places) != 8:
        raise BadInput(
            f"{cube.name} is not a box.", "Deselect it, or use its mesh through voxels of a mesh."
        )
    return np.stack([low, high])


# ---------------------------------------------------------------------------------------- the data


@contextlib.contextmanager
def _readable_data(context, source, use_modifiers: bool):
    """The mesh or point cloud to read: with modifiers when asked, in Edit Mode what is edited."""
    editing = source.type == "MESH" and source.mode == "EDIT"
    if editing:
        source.update_from_editmode()
    if not (use_modifiers and _is_changed_by_evaluation(source)):
        # A copy: attributes cannot be read from a mesh that is being edited.
        with _copied_mesh(source) if editing else contextlib.nullcontext(source.data) as data:
            yield data
        return
    with _shown(context, source):
        depsgraph = context.evaluated_depsgraph_get()
        made = _evaluated_data(source, depsgraph)
        if made is None:
            found = _evaluates_to_something_else(source)
            raise BadInput(f"{found.reason}.", found.advice)
        if not isinstance(made, bpy.types.Mesh) or not isinstance(source.data, bpy.types.Mesh):
            yield made
            return
        with _copied_mesh(source.evaluated_get(depsgraph), depsgraph) as data:
            yield data


@contextlib.contextmanager
def _copied_mesh(owner, depsgraph=None):
    try:
        yield owner.to_mesh(preserve_all_data_layers=depsgraph is not None, depsgraph=depsgraph)
    finally:
        owner.to_mesh_clear()


@contextlib.contextmanager
def _shown(context, source):
    """Show a hidden source while its points are read, where that is needed."""
    if not _is_hidden_until_shown(context, source):
        yield
        return
    source.hide_set(False)
    try:
        context.view_layer.update()
        yield
    finally:
        source.hide_set(True)


def _is_hidden_until_shown(context, source) -> bool:
    """Blender works out what modifiers make of a hidden object, but shows no instances of it, and
    only there can points made by geometry nodes be had."""
    if source.visible_get() or all(modifier.type != "NODES" for modifier in source.modifiers):
        return False
    if _is_disabled(source):
        return False
    data = source.evaluated_get(context.evaluated_depsgraph_get()).data
    return not isinstance(data, type(source.data)) or _count(data) == 0


def _is_disabled(source) -> bool:
    """Hidden by other means than the eye in the Outliner: Blender passes over its modifiers."""
    return not source.visible_get() and (source.hide_viewport or not source.hide_get())


def _is_changed_by_evaluation(source) -> bool:
    return bool(source.modifiers) or getattr(source.data, "shape_keys", None) is not None


def _data_for_counting(context, source):
    """The data whose sizes the panel shows, or None when there is nothing to count."""
    settings = context.scene.fieldforge
    if source.mode == "EDIT" or not settings.use_modifiers or not _is_changed_by_evaluation(source):
        return source.data
    return _evaluated_data(source, context.evaluated_depsgraph_get())


def _evaluated_data(source, depsgraph):
    """What the modifiers make of a source: a mesh, a point cloud, or None when nodes make neither.

    Geometry nodes may turn a mesh into points, or points into a mesh. The evaluated object keeps
    its type, with nothing in it, and what was made of it shows as an instance of itself.
    """
    evaluated = source.evaluated_get(depsgraph)
    if _is_disabled(source):
        return None
    data = evaluated.data if isinstance(evaluated.data, type(source.data)) else None
    empty = data is None or _count(data) == 0
    if not empty or all(modifier.type != "NODES" for modifier in source.modifiers):
        return data
    for instance in depsgraph.object_instances:
        if instance.is_instance and instance.parent == evaluated:
            shown = instance.object
            itself = shown.original == source and instance.matrix_world == source.matrix_world
            if itself and isinstance(shown.data, bpy.types.Mesh | bpy.types.PointCloud):
                return shown.data
    return None


def _count(data) -> int:
    """Vertices or points."""
    return len(data.vertices if isinstance(data, bpy.types.Mesh) else data.points)


def _read(collection, prop: str, width: int) -> np.ndarray:
    """(N, width) float32 of a collection's property."""
    values = np.zeros(width * len(collection), np.float32)
    collection.foreach_get(prop, values)
    return values.reshape(-1, width)


# ---------------------------------------------------------------------------- normals and colours


def _normal_names(data) -> tuple[str, ...]:
    """The point attribute(s) that hold normals: one of vectors, or three columns of a PLY file."""
    for name in NORMAL_NAMES:
        attribute = data.attributes.get(name)
        if attribute and attribute.domain == "POINT" and attribute.data_type == "FLOAT_VECTOR":
            return (name,)
    columns = [data.attributes.get(name) for name in NORMAL_COLUMNS]
    if all(item and item.domain == "POINT" and item.data_type == "FLOAT" for item in columns):
        return NORMAL_COLUMNS
    return ()


def _read_normals(data) -> np.ndarray | None:
    if getattr(data, "polygons", None):
        return _read(data.vertex_normals, "vector", 3)
    names = _normal_names(data)
    if len(names) == 1:
        return _read(data.attributes[names[0]].data, "vector", 3)
    if names:
        columns = [_read(data.attributes[name].data, "value", 1) for name in names]
        return np.concatenate(columns, axis=1)
    return None


def _color_attribute(data):
    """The active colour attribute, otherwise the first one that is there."""
    usable = [
        attribute
        for attribute in data.attributes
        if attribute.data_type in COLOR_TYPES and attribute.domain in {"POINT", "CORNER"}
    ]
    group = getattr(data, "color_attributes", None)
    active = getattr(group, "active_color", None)
    if active is not None and active.name in [attribute.name for attribute in usable]:
        return active
    return usable[0] if usable else None


def _read_colors(data) -> Colors | None:
    attribute = _color_attribute(data)
    if attribute is None:
        return None
    # Each in the form in which Blender keeps it, so that no byte is changed on the way.
    if attribute.data_type == "FLOAT_COLOR":
        values = _read(attribute.data, "color", 4)
    else:
        values = _read_bytes(attribute.data)
    corner_vertices = None
    if attribute.domain == "CORNER":
        corner_vertices = np.zeros(len(data.loops), np.int32)
        data.loops.foreach_get("vertex_index", corner_vertices)
    return Colors(values, corner_vertices)


def _read_bytes(collection) -> np.ndarray:
    """(N, 4) uint8 sRGB of byte colours.

    foreach_get calls a function for each of them: a second for ten million. They lie side by side,
    four bytes each, so that they can be copied whole; that this is so is made sure of first.
    """
    count = len(collection)
    if count == 0:
        return np.zeros((0, 4), np.uint8)
    picks = np.unique(np.linspace(0, count - 1, 16).astype(np.int64))
    begin = collection[0].as_pointer()
    side_by_side = all(collection[int(i)].as_pointer() == begin + 4 * int(i) for i in picks)
    if side_by_side:
        buffer = (ctypes.c_uint8 * (4 * count)).from_address(begin)
        values = np.frombuffer(buffer, np.uint8).reshape(-1, 4)
        expected = np.array([collection[int(i)].color_srgb for i in picks])
        if np.array_equal(np.rint(255 * expected), values[picks]):
            return values.copy()
    return np.rint(255 * _read(collection, "color_srgb", 4)).astype(np.uint8)
