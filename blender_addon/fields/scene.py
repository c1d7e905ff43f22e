"""Results about fields -> roots and their parts in the Blender file. Main thread only.

What is made here is one undo step: `jobs` leaves it once all is there.
"""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix

from ..arrival import extent_along_x, row_offsets
from ..compose import PlacedMesh
from ..importing import (
    Destination,
    home_of,
    mesh_from_arrays,
    replace_mesh,
    select_only,
    view_layer_of,
)
from . import motion
from .arrival import KEYS, MESHES, FieldArrival, MovingShape, transformed
from .kept import has_field, keep, keep_second

ROOT_SIZE = 0.15  # as it is drawn, of the shape


def add(
    arrived: FieldArrival,
    destination: Destination,
    matrix_world: np.ndarray,
    beside: tuple[float, float] | None,
) -> list[bpy.types.Object]:
    """Put a result into the file; the root first. matrix_world: (4, 4), from the space of the
    shapes to the world; beside: (lowest, highest) x of what a row stands beside, or None."""
    into = _replaced(destination)
    if into is not None:
        return _bring_back(into, arrived, destination)
    created = _add_row(arrived, destination, matrix_world, beside)
    scene, _ = home_of(destination)
    view_layer = view_layer_of(scene)
    _hide(destination.hide, view_layer)
    shown = motion.parts_of(created[0])
    select_only(view_layer, _first_shown(shown, scene) or created[0])
    return [item for root in created for item in motion.with_parts(root)]


def _replaced(destination: Destination) -> bpy.types.Object | None:
    """The root whose field was made a mesh, while it is there."""
    name, uid = destination.fields.get("into"), destination.fields.get("into_uid")
    named = bpy.data.objects.get(name or "")
    renamed = (item for item in bpy.data.objects if name and item.session_uid == uid)
    root = next(renamed, named)
    return root if has_field(root) else None


def _hide(names: list[str], view_layer: bpy.types.ViewLayer) -> None:
    for name in names:
        item = view_layer.objects.get(name)
        if item is not None:
            item.hide_set(True, view_layer=view_layer)


def _first_shown(parts: list[bpy.types.Object], scene) -> bpy.types.Object | None:
    """One that can be selected: others are hidden in this frame."""
    return next((part for part in parts if not part.hide_viewport), next(iter(parts), None))


# -------------------------------------------------------------------------------------------- roots


def _add_row(arrived, destination, matrix_world, beside) -> list[bpy.types.Object]:
    """A root for every shape, side by side where there are several."""
    scene, collection = home_of(destination)
    offsets = [0.0]
    if len(arrived.shapes) > 1 or destination.layout == "BESIDE":
        extents = [_extent(shape, matrix_world) for shape in arrived.shapes]
        offsets = row_offsets(extents, beside)
    roots = []
    for shape, offset in zip(arrived.shapes, offsets, strict=True):
        several = len(arrived.shapes) > 1
        name = f"{destination.name}, seed {shape.seed}" if several else destination.name
        matrix = matrix_world.copy()
        matrix[0, 3] += offset
        root = _add_root(name, collection, matrix)
        shape = transformed(shape, _left_over(root, matrix))
        _fill_root(root, shape, arrived.amounts, destination, scene)
        roots.append(root)
    return roots


def _extent(shape: MovingShape, matrix: np.ndarray) -> tuple[float, float]:
    """(lowest, highest) x in the world over all frames."""
    ends = [extent_along_x(mesh, matrix) for mesh in shape.frames if mesh is not None]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _add_root(name: str, collection, matrix: np.ndarray) -> bpy.types.Object:
    root = bpy.data.objects.new(name, None)
    collection.objects.link(root)
    root.matrix_world = Matrix(matrix.tolist())
    return root


def _left_over(root: bpy.types.Object, matrix: np.ndarray) -> np.ndarray:
    """(4, 4): what of a transform location, rotation and scale cannot hold, such as shear."""
    return np.linalg.solve(np.array(root.matrix_basis, np.float64), matrix)


def _fill_root(root, shape: MovingShape, amounts, destination: Destination, scene) -> None:
    options, own = destination.fields, root.fieldforge_motion
    steps = 1 if amounts is None else len(amounts)
    root.empty_display_size = ROOT_SIZE * _size(shape)
    _keep(root, shape, options)
    own.frames, own.loop = len(shape.frames) // steps, shape.loop
    own.speed = options.get("speed") or _frames_per_step(scene, shape.fps)
    own.start = options.get("start", scene.frame_start)
    if steps > 1:
        _add_steps(root, shape, steps, options)
    else:
        _add_parts(root, shape, options.get("way", KEYS))
    if motion.is_moving(root) and options.get("preview_range"):
        motion.set_preview_range(scene, root)


def keep_nearest(item: bpy.types.Object, told: dict) -> None:
    """Write down how near a result is to what the model was trained on, where that is told."""
    name, distance = told.get("nearest"), told.get("nearest_distance")
    if isinstance(name, str) and isinstance(distance, int | float):
        item.fieldforge_motion.nearest = name
        item.fieldforge_motion.nearest_distance = distance


def _size(shape: MovingShape) -> float:
    """The longest side of the first frame that shows something."""
    mesh = next(mesh for mesh in shape.frames if mesh is not None)
    return float(np.ptp(mesh.vertices, axis=0).max()) or 1.0


def _frames_per_step(scene: bpy.types.Scene, fps: float) -> float:
    """So that the motion takes its own time."""
    return max(0.05, scene.render.fps / scene.render.fps_base / fps)


def _keep(root: bpy.types.Object, shape: MovingShape, options: dict) -> None:
    """Write down the field, and what was told of it."""
    if shape.neural is not None:
        keep(root, shape.neural)
    told, own = shape.report, root.fieldforge_motion
    keep_nearest(root, told)
    own.original = options.get("original", "")
    if own.original:
        own.source_bytes = float(told.get("source_bytes") or 0)
        iou = told.get("iou")
        own.iou = float(iou) if isinstance(iou, int | float) else -1.0


# -------------------------------------------------------------------------------------------- parts


def _add_parts(root: bpy.types.Object, shape: MovingShape, way: str) -> None:
    """The meshes of a root. way: how a motion is kept, where it can be."""
    own = root.fieldforge_motion
    moves_vertices = own.frames > 1 and way == KEYS and shape.positions is not None
    if own.frames == 1 or moves_vertices:
        mesh = next(mesh for mesh in shape.frames if mesh is not None)
        part = _add_part(root, mesh_from_arrays(f"{root.name} shape", mesh), 0)
        if moves_vertices:
            motion.add_shape_keys(part, shape.positions)
        own.way = KEYS if moves_vertices else motion.STILL
    else:
        for number, mesh in enumerate(shape.frames):
            _add_part(root, _mesh(f"{root.name} {number + 1:02}", mesh), number)
        own.way = MESHES  # last: from now on changes move the curves
    motion.retime(root)


def _mesh(name: str, mesh: PlacedMesh | None) -> bpy.types.Mesh:
    """Without geometry where there is nothing in a frame."""
    return bpy.data.meshes.new(name) if mesh is None else mesh_from_arrays(name, mesh)


def _add_part(root: bpy.types.Object, mesh: bpy.types.Mesh, number: int) -> bpy.types.Object:
    part = bpy.data.objects.new(mesh.name, mesh)
    part.parent = root
    part.fieldforge_motion.number = number + 1
    for collection in root.users_collection:
        collection.objects.link(part)
    return part


def _add_steps(root: bpy.types.Object, shape: MovingShape, steps: int, options: dict) -> None:
    """A part for each frame, and the meshes of all steps, of which they show the first."""
    own, mix = root.fieldforge_motion, root.fieldforge_mix
    for index, mesh in enumerate(shape.frames):
        step, number = divmod(index, own.frames)
        suffix = f", {number + 1:02}" if own.frames > 1 else ""
        made = _mesh(f"{root.name} {step / (steps - 1):.0%}{suffix}", mesh)
        mix.meshes.add().mesh = made
        if step == 0:  # whatever mesh it shows later
            _add_part(root, made, number).name = f"{root.name} shape{suffix}"
    if len(shape.ends) == 2:
        keep(root, shape.ends[0])
        keep_second(root, shape.ends[1])
    mix.first, mix.second = options.get("first", ""), options.get("second", "")
    mix.by_weights = shape.report.get("mixed", "weights") == "weights"
    mix.steps = steps
    own.way = MESHES if own.frames > 1 else motion.STILL
    motion.retime(root)


# ------------------------------------------------------------------------------------- brought back


def _bring_back(
    root: bpy.types.Object, arrived: FieldArrival, destination: Destination
) -> list[bpy.types.Object]:
    """The meshes of a root made anew of its field; where it stands and how it plays stays."""
    (shape,) = arrived.shapes
    if root.type == "MESH":
        replace_mesh(root, next(mesh for mesh in shape.frames if mesh is not None))
        return [root]
    own = root.fieldforge_motion
    motion.remove_parts(root)
    own.way = ""  # nothing to move meanwhile
    own.speed *= own.frames / len(shape.frames)  # of other frames, the same time
    own.frames = len(shape.frames)
    root.fieldforge_mix.steps = 0
    _add_parts(root, shape, destination.fields.get("way", KEYS))
    scene, _ = home_of(destination)
    select_only(view_layer_of(scene), _first_shown(motion.parts_of(root), scene) or root)
    return motion.with_parts(root)
