"""Drawn strokes -> arrays: Grease Pencil objects and annotations, of all Blenders since 4.2. Main
thread only."""

from __future__ import annotations

import bpy
import numpy as np

from ...backend.errors import BadInput
from ..capture import Facts, counted
from ..pictures import SketchCapture, Strokes
from . import cameras, images
from .settings import GREASE_PENCIL_TYPES

DEFAULT_RADIUS = 0.01
PIXELS_PER_METRE = 1000  # of a line's width, before Blender 4.3
PERCENT = 100.0  # what annotations that belong to the view are measured in


def facts(context) -> Facts:
    settings = context.scene.fieldforge
    if settings.sketch_from == "IMAGE":
        return images.facts(context)
    if settings.sketch_from == "OBJECT":
        item = chosen(context)
        if item is None:
            reason = "There is no Grease Pencil object"
            advice = "Add one (Add > Grease Pencil > Blank) and draw, or choose Annotation."
            return Facts(f"{reason}.", reason, advice)
        found = Facts(f"{item.name}: {counted(_count(_layers(item)), 'stroke')}")
        empty = f"{item.name} has no strokes"
    else:
        count = sum(len(frame.strokes) for _, frame in _annotated(context))
        found = Facts(counted(count, "annotated stroke"))
        empty = "Nothing is annotated"
    if found.text.split(": ")[-1].startswith("0 "):
        where = "in Draw Mode" if settings.sketch_from == "OBJECT" else "with the Annotate tool"
        return Facts(f"{empty}.", empty, f"Draw something {where}.")
    return cameras.missing(context) or found


def capture(context):
    """Read the chosen sketch. Raises BadInput."""
    settings = context.scene.fieldforge
    if settings.sketch_from == "IMAGE":
        return images.capture(context, drawing=True)
    seen = cameras.seen(context)
    if settings.sketch_from == "OBJECT":
        item = chosen(context)
        name, parts = item.name, _read_object(context, item)
    else:
        name, parts = "Annotation", _read_annotations(context, seen.size)
    parts = [part for part in parts if len(part.points)]
    if not parts:
        raise BadInput("The sketch is empty.", "Draw at least one line on a layer that is shown.")
    matrix = cameras.at_cursor(context)
    return SketchCapture(name, parts, seen.view, seen.projection, seen.size, matrix)


def chosen(context) -> bpy.types.Object | None:
    """The object of the field, else the active one, else the only one there is."""
    settings = context.scene.fieldforge
    active = context.view_layer.objects.active
    if settings.sketch is not None:
        return settings.sketch
    if active is not None and active.type in GREASE_PENCIL_TYPES:
        return active
    drawn = [item for item in context.view_layer.objects if item.type in GREASE_PENCIL_TYPES]
    return drawn[0] if len(drawn) == 1 else None


# ------------------------------------------------------------------------------------ Grease Pencil


def _layers(item) -> list:
    return [layer for layer in item.data.layers if not layer.hide]


def _count(layers) -> int:
    """Strokes of the current frames."""
    return sum(_stroke_count(layer) for layer in layers)


def _stroke_count(layer) -> int:
    frame = _frame(layer)
    if frame is None:
        return 0
    if hasattr(frame, "drawing"):
        return max(0, len(frame.drawing.curve_offsets) - 1)
    return len(frame.strokes)


def _frame(layer):
    """What a layer shows at the current time."""
    return layer.current_frame() if hasattr(layer, "current_frame") else layer.active_frame


def _read_object(context, item) -> list[Strokes]:
    """The strokes as the modifiers make them, of each layer that is shown."""
    if not item.visible_get():
        raise BadInput(f"{item.name} is hidden.", "Show it in the Outliner.")
    evaluated = item.evaluated_get(context.evaluated_depsgraph_get())
    matrix = np.array(evaluated.matrix_world, np.float64)
    read = _read_drawing if item.type == "GREASEPENCIL" else _read_old_strokes
    return [
        read(_frame(layer), evaluated, matrix @ _layer_matrix(layer))
        for layer in _layers(evaluated)
        if _frame(layer) is not None
    ]


def _layer_matrix(layer) -> np.ndarray:
    """(4, 4) from a layer to its object. A layer that follows an object of its own is taken as if
    it did not. Before Blender 4.3 what is evaluated has it applied."""
    if hasattr(layer, "matrix_local"):
        return np.array(layer.matrix_local, np.float64)
    return np.eye(4)


def _read_drawing(frame, owner, to_world: np.ndarray) -> Strokes:
    """A drawing of Blender 4.3 or later: attributes of curves."""
    drawing = frame.drawing
    attributes = drawing.attributes
    offsets = np.zeros(len(drawing.curve_offsets), np.int32)
    drawing.curve_offsets.foreach_get("value", offsets)
    points = _attribute(attributes, "position", "vector", 3)
    count, curves = len(points), max(0, len(offsets) - 1)
    radii = _attribute(attributes, "radius", "value", 1)
    cyclic = _attribute(attributes, "cyclic", "value", 1, bool)
    strokes = Strokes(
        points,
        radii.ravel() if len(radii) == count else np.full(count, DEFAULT_RADIUS, np.float32),
        np.diff(offsets),
        cyclic.ravel() if len(cyclic) == curves else np.zeros(curves, bool),
        to_world,
    )
    materials = _attribute(attributes, "material_index", "value", 1, np.int32).ravel()
    indices = materials if len(materials) == curves else np.zeros(curves, np.int32)
    return _without_hidden(strokes, indices, owner)


def _attribute(attributes, name: str, prop: str, width: int, dtype=np.float32) -> np.ndarray:
    """(N, width) of an attribute; nothing when there is none of that name."""
    attribute = attributes.get(name)
    if attribute is None:
        return np.zeros((0, width), dtype)
    values = np.zeros(width * len(attribute.data), dtype)
    attribute.data.foreach_get(prop, values)
    return values.reshape(-1, width)


def _read_old_strokes(frame, owner, to_world: np.ndarray) -> Strokes:
    """The strokes of a Grease Pencil object before Blender 4.3, points side by side."""
    strokes = list(frame.strokes)
    lengths = np.array([len(stroke.points) for stroke in strokes], np.int64)
    points, pressure = _read_points(strokes, lengths)
    factor = owner.data.pixel_factor / PIXELS_PER_METRE / 2
    width = np.array([stroke.line_width for stroke in strokes], np.float32) * factor
    closed = np.array([stroke.use_cyclic for stroke in strokes], bool)
    indices = np.array([stroke.material_index for stroke in strokes], np.int32)
    radii = pressure * np.repeat(width, lengths).astype(np.float32)
    return _without_hidden(Strokes(points, radii, lengths, closed, to_world), indices, owner)


def _read_points(strokes, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(points (P, 3) float32, pressure (P,) float32) of all strokes."""
    points = np.zeros((int(lengths.sum()), 3), np.float32)
    pressure = np.ones(len(points), np.float32)
    ends = np.cumsum(lengths)
    for stroke, begin, end in zip(strokes, ends - lengths, ends, strict=True):
        own = np.zeros(3 * (end - begin), np.float32)
        stroke.points.foreach_get("co", own)
        points[begin:end] = own.reshape(-1, 3)
        if len(stroke.points) and hasattr(stroke.points[0], "pressure"):
            stroke.points.foreach_get("pressure", pressure[begin:end])
    return points, pressure


def _without_hidden(strokes: Strokes, materials: np.ndarray, owner) -> Strokes:
    """Leave out the strokes of materials that are hidden."""
    hidden = [
        index
        for index, slot in enumerate(owner.material_slots)
        if slot.material is not None
        and slot.material.grease_pencil is not None
        and slot.material.grease_pencil.hide
    ]
    kept = ~np.isin(materials, hidden)
    if kept.all():
        return strokes
    points = np.repeat(kept, strokes.lengths)
    return Strokes(
        strokes.points[points],
        strokes.radii[points],
        strokes.lengths[kept],
        strokes.closed[kept],
        strokes.to_world,
    )


# -------------------------------------------------------------------------------------- annotations


def _annotated(context) -> list[tuple]:
    """(layer, frame) of what is annotated in the 3D view and shown now."""
    scene = context.scene
    data = scene.annotation if hasattr(scene, "annotation") else scene.grease_pencil
    layers = [] if data is None else data.layers
    return [
        (layer, _frame_at(layer, scene.frame_current))
        for layer in layers
        if len(layer.frames) and not layer.annotation_hide
    ]


def _frame_at(layer, time: int):
    """The last one that has begun, or the first of all."""
    begun = [frame for frame in layer.frames if frame.frame_number <= time]
    return max(begun, key=lambda frame: frame.frame_number, default=layer.frames[0])


def _read_annotations(context, size: tuple[int, int]) -> list[Strokes]:
    parts = []
    for layer, frame in _annotated(context):
        strokes = list(frame.strokes)
        flat = np.array([_is_flat(stroke, context) for stroke in strokes], bool)
        for on_view in (False, True):
            some = [stroke for stroke, own in zip(strokes, flat, strict=True) if own == on_view]
            parts.append(_annotation(some, layer, on_view, size))
    return parts


def _annotation(strokes, layer, on_view: bool, size: tuple[int, int]) -> Strokes:
    lengths = np.array([len(stroke.points) for stroke in strokes], np.int64)
    points, _ = _read_points(strokes, lengths)
    closed = np.zeros(len(strokes), bool)
    if on_view:
        pixels = points / PERCENT * np.array([*size, 0])
        radii = np.full(len(points), layer.thickness / 2, np.float32)
        return Strokes(pixels.astype(np.float32), radii, lengths, closed, None)
    # Lines of annotations are as wide in pixels wherever they are: no width in the scene.
    return Strokes(points, np.zeros(len(points), np.float32), lengths, closed, np.eye(4))


def _is_flat(stroke, context) -> bool:
    """Whether a stroke lies on the view, in percent of it, instead of in the scene."""
    mode = getattr(stroke, "display_mode", None)
    if mode is not None:
        return mode == "2DSPACE"
    # Blender 5 does not tell; how annotations are placed now says how they were.
    placement = context.scene.tool_settings.annotation_stroke_placement_view3d
    return placement == "VIEW" and len(stroke.points) > 0 and stroke.points[0].co[2] == 0
