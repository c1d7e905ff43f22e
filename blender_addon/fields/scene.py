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
    hide,
    home_of,
    mesh_from_arrays,
    replace_mesh,
    select_only,
    take_materials,
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
    for name in destination.hide:
        if view_layer.objects.get(name) is not None:
            hide_original(view_layer.objects[name], view_layer)
    select_only(view_layer, handle_of(created[0]))
    return [item for root in created for item in motion.with_parts(root)]


def _replaced(destination: Destination) -> bpy.types.Object | None:
    """The root whose field was made a mesh, while it is there."""
    name, uid = destination.fields.get("into"), destination.fields.get("into_uid")
    if not name:
        return None
    renamed = next((item for item in bpy.data.objects if item.session_uid == uid), None)
    return next(filter(has_field, (renamed, bpy.data.objects.get(name))), None)


def handle_of(root: bpy.types.Object) -> bpy.types.Object:
    """What is selected of a result, so that moving it moves all of it: its only part, or the root
    where there is one for each frame."""
    parts = motion.parts_of(root)
    return parts[0] if len(parts) == 1 else root


def hide_original(item: bpy.types.Object, view_layer: bpy.types.ViewLayer) -> None:
    """In the viewport and in renders. It is written down whether it was to be rendered."""
    if not item.hide_render:
        item.fieldforge_motion.rendered_when_shown = True
    hide([item], view_layer)


def show_original(item: bpy.types.Object, view_layer: bpy.types.ViewLayer) -> None:
    """As it was before `hide_original`: what the artist had hidden in renders stays so there."""
    item.hide_set(False, view_layer=view_layer)
    if item.fieldforge_motion.rendered_when_shown:
        item.hide_render = item.fieldforge_motion.rendered_when_shown = False


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
    """The meshes of a root, in the parts that are there. way: how a motion is kept, where it can
    be."""
    own = root.fieldforge_motion
    moves_vertices = own.frames > 1 and way == KEYS and shape.positions is not None
    if own.frames == 1 or moves_vertices:
        mesh = next(mesh for mesh in shape.frames if mesh is not None)
        (part,) = _set_parts(root, [(f"{root.name} shape", mesh)])
        if moves_vertices:
            motion.add_shape_keys(part, shape.positions)
        own.way = KEYS if moves_vertices else motion.STILL
    else:
        names = (f"{root.name} {number:02}" for number in range(1, own.frames + 1))
        parts = _set_parts(root, list(zip(names, shape.frames, strict=True)))
        _share_material(root.name, [part.data for part in parts])
        own.way = MESHES  # last: from now on changes move the curves
    motion.retime(root)


def _set_parts(
    root: bpy.types.Object, meshes: list[tuple[str, PlacedMesh | None]]
) -> list[bpy.types.Object]:
    """A part for every mesh. What the artist did with those that are there stays, and those that
    are made now are like the first of them. meshes: with their names."""
    there = {part.fieldforge_motion.number: part for part in motion.parts_of(root)}
    model = next(iter(there.values()), None)
    for number, (name, arrays) in enumerate(meshes):
        mesh = _mesh(name, arrays)
        if model is None:
            _add_part(root, mesh, number)
        else:
            _show_instead(there.get(number + 1) or _add_like(model, number), mesh, name)
    motion.remove_parts(root, beyond=len(meshes))
    return motion.parts_of(root)


def _show_instead(part: bpy.types.Object, mesh: bpy.types.Mesh, name: str) -> None:
    """Give a part this mesh, with the materials of the one that it has. name: as the mesh is to be
    called, and the part, where that is called like its mesh."""
    old = part.data
    if len(old.materials):
        take_materials(mesh, old)
    part.data, alike = mesh, part.name == old.name
    motion.drop_mesh(old)
    mesh.name = name
    if alike:
        part.name = name


def _share_material(name: str, meshes: list[bpy.types.Mesh]) -> None:
    """Where no frame has a material, give all of them one: what the artist makes of it in one frame
    is then seen in every one."""
    if any(len(mesh.materials) for mesh in meshes):
        return
    material = bpy.data.materials.new(name)
    if material.node_tree is None:  # before Blender 5.0
        material.use_nodes = True
    for mesh in meshes:
        mesh.materials.append(material)


def _add_like(model: bpy.types.Object, number: int) -> bpy.types.Object:
    """Another part of the same root, which shows what `model` does for the moment."""
    part = model.copy()
    part.name = f"{model.parent.name} {number + 1:02}"
    part.fieldforge_motion.number = number + 1
    for collection in model.users_collection:
        collection.objects.link(part)
    motion.own_action(part)  # when it shows is its own
    return part


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
    if own.frames > 1:
        _share_material(root.name, [each.mesh for each in mix.meshes])
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
    """The meshes of a root made anew of its field; where it stands, how it plays and what the
    artist did with its parts stays."""
    (shape,) = arrived.shapes
    if root.type == "MESH":
        replace_mesh(root, next(mesh for mesh in shape.frames if mesh is not None))
        return [root]
    own = root.fieldforge_motion
    motion.forget_steps(root)
    if own.way == MESHES:
        for part in motion.parts_of(root):
            motion.show_always(part)  # until it is known how these play
    own.way = ""  # nothing to move meanwhile
    own.speed *= own.frames / len(shape.frames)  # of other frames, the same time
    own.frames = len(shape.frames)
    _add_parts(root, shape, destination.fields.get("way", KEYS))
    scene, _ = home_of(destination)
    select_only(view_layer_of(scene), handle_of(root))
    return motion.with_parts(root)
