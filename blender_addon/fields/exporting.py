"""Moving shapes into files that other programs read, by Blender's own exporters. Main thread.

What is exported is put into a scene of its own for the moment: parts that are hidden in this frame
cannot be selected, and the range of the timeline is then that of the motion.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import bpy
import numpy as np
from bpy.props import EnumProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from ...backend.errors import FieldforgeError
from ...backend.field_files import SUFFIX, to_bytes
from ..keyframes import curves_of, fill, new_curves
from . import kept, mixing, motion
from .arrival import MESHES

FORMATS = {
    "GLB": (".glb", "glTF", "export_scene.gltf", "One file for engines and the web"),
    "ABC": (".abc", "Alembic", "wm.alembic_export", "A cache of vertices, for other 3D programs"),
    "USD": (".usdc", "USD", "wm.usd_export", "A stage, for other 3D programs"),
}


_NO_SIZE = 1e-6
"""Of what is hidden: of no size at all, a matrix would no longer tell how it is turned."""


def _with_suffix(name: str, suffix: str) -> Path:
    path = Path(bpy.path.abspath(name))
    return path if path.suffix.lower() == suffix else path.with_name(path.name + suffix)


def operator_of(kind: str):
    """Blender's own operator; None where this Blender was built without it."""
    module, _, name = FORMATS[kind][2].partition(".")
    operator = getattr(getattr(bpy.ops, module), name)
    try:
        operator.get_rna_type()
    except (KeyError, AttributeError, RuntimeError):
        return None
    return operator


def why_not_exported(context) -> str:
    root = motion.root_of(context.view_layer.objects.active)
    if root is None:
        return "Select an object that was made of a neural field"
    if not motion.parts_of(root):
        return "Only the field is left: bring it back first"
    return "" if context.mode == "OBJECT" else "Leave this mode first"


class FIELDFORGE_OT_export_motion(bpy.types.Operator, ExportHelper):
    """Write this shape, with its motion, into a file that other programs read"""

    bl_idname = "fieldforge.export_motion"
    bl_label = "Export Motion"

    kind: EnumProperty(
        name="Format",
        items=[(kind, words[1], words[3]) for kind, words in FORMATS.items()],
        options={"SKIP_SAVE"},
    )
    filename_ext: StringProperty(options={"HIDDEN"})
    filter_glob: StringProperty(default="*.glb;*.abc;*.usdc", options={"HIDDEN"})

    @classmethod
    def description(cls, context, properties) -> str:
        words = FORMATS[properties.kind]
        return f"{cls.__doc__}. {words[1]}: {words[3]}"

    @classmethod
    def poll(cls, context) -> bool:
        reason = why_not_exported(context)
        if reason:
            cls.poll_message_set(reason)
        return not reason

    def invoke(self, context, event):
        suffix = self.filename_ext = FORMATS[self.kind][0]
        self.filter_glob = f"*{suffix}"
        root = motion.root_of(context.view_layer.objects.active)
        folder = Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
        self.filepath = str(folder / f"{bpy.path.clean_name(root.name)}{suffix}")
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def check(self, context) -> bool:
        return False

    def execute(self, context):
        title = FORMATS[self.kind][1]
        if operator_of(self.kind) is None:
            self.report({"ERROR"}, f"This Blender was built without {title}")
            return {"CANCELLED"}
        root = motion.root_of(context.view_layer.objects.active)
        path = _with_suffix(self.filepath, FORMATS[self.kind][0])
        try:
            export(context, root, path, self.kind)
        except (
            RuntimeError,
            OSError,
            AttributeError,
        ) as error:  # the last: an action in tweak mode
            self.report({"ERROR"}, f"{title} was not written: {error}")
            return {"CANCELLED"}
        self.report({"INFO"}, f"Written: {path.name}")
        return {"FINISHED"}


def export(context, root: bpy.types.Object, path: Path, kind: str) -> None:
    """Write a root with its parts. Raises RuntimeError or OSError where that cannot be."""
    moves = motion.is_moving(root)
    first, last = _range_of(root, kind) if moves else (context.scene.frame_current,) * 2
    options = {
        "GLB": {
            "export_format": "GLB",
            "use_active_scene": True,
            "export_animations": moves,
            "export_animation_mode": "SCENE",
            "export_anim_scene_split_object": False,  # one animation of all parts
            "export_morph": True,
        },
        "ABC": {"start": first, "end": last, "as_background_job": False},
        # Positions in every frame instead of blend shapes: every reader plays these.
        "USD": {
            "export_animation": moves,
            "export_shapekeys": False,
            "evaluation_mode": "VIEWPORT",
        },
    }
    unfinished = path.with_name(f"{path.stem}-unfinished{path.suffix}")
    try:
        with _alone(context, root, first, last), _scaled_instead_of_hidden(root):
            operator_of(kind)(filepath=str(unfinished), **options[kind])
        if not unfinished.exists():
            raise RuntimeError("Blender wrote no file; its Info editor may say why")
        if kind == "GLB" and root.fieldforge_motion.way == MESHES:
            _switch_without_a_way_between(unfinished)
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


def _range_of(root: bpy.types.Object, kind: str) -> tuple[int, int]:
    """(first, last) frame that is written. What plays .glb and USD goes from the first time to the
    last and then begins anew, so that a loop needs the frame in which it is as in the first once
    more: else it is a frame too short, and jumps. Alembic is played frame by frame instead."""
    begin, end = motion.span_of(root)
    first, own = math.floor(begin), root.fieldforge_motion
    if own.loop and kind != "ABC":
        return first, first + max(1, round(own.frames * own.speed))
    return first, math.ceil(end)


@contextlib.contextmanager
def _alone(context, root: bpy.types.Object, first: int, last: int) -> Iterator[None]:
    """Show a scene that has nothing but the root and its parts, over these frames."""
    window, before = context.window, context.window.scene
    scene = bpy.data.scenes.new("Fieldforge Export")
    try:
        scene.render.fps, scene.render.fps_base = before.render.fps, before.render.fps_base
        scene.unit_settings.scale_length = before.unit_settings.scale_length
        scene.frame_start, scene.frame_end = first, last
        for item in motion.with_parts(root):
            scene.collection.objects.link(item)
        window.scene = scene
        scene.frame_set(first)
        yield
    finally:
        window.scene = before
        bpy.data.scenes.remove(scene)
        before.frame_set(before.frame_current, subframe=before.frame_subframe)


@contextlib.contextmanager
def _scaled_instead_of_hidden(root: bpy.types.Object) -> Iterator[None]:
    """Few readers know keyed visibility: for the moment a mesh that is hidden has no size, beside
    what else the artist has keyed of it."""
    if root.fieldforge_motion.way != MESHES:
        yield
        return
    own = root.fieldforge_motion
    with contextlib.ExitStack() as after:
        for part in motion.parts_of(root):
            number = part.fieldforge_motion.number - 1
            frames, hidden = motion.window(number, own.frames, own.start, own.speed, own.loop)
            after.callback(_restoring(part))
            sizes = [_sizes(part, axis, frames) for axis in range(3)]
            curves = _own_copy_of_curves(part)
            part.hide_viewport = part.hide_render = False
            for axis, size in enumerate(sizes):
                shown = size * np.where(hidden, _NO_SIZE, 1)
                fill(curves.new("delta_scale", index=axis), frames, shown, "CONSTANT")
        yield


def _sizes(part: bpy.types.Object, axis: int, frames) -> np.ndarray:
    """The part's own delta scale in these frames."""
    for curve in curves_of(part) or ():
        if (curve.data_path, curve.array_index) == ("delta_scale", axis):
            return np.array([curve.evaluate(frame) for frame in frames])
    return np.full(len(frames), part.delta_scale[axis])


def _own_copy_of_curves(part: bpy.types.Object):
    """The F-curves of a copy of the part's action, without those of what is shown and of what is
    keyed instead."""
    action = part.animation_data.action
    slot = getattr(part.animation_data, "action_slot", None)
    if action is None or (slot is None and hasattr(action, "slots")):
        return new_curves(part, part.name)
    part.animation_data.action = copied = action.copy()
    if slot is not None:
        part.animation_data.action_slot = copied.slots[slot.identifier]
    curves = curves_of(part)
    for curve in list(curves):
        if curve.data_path in ("hide_viewport", "hide_render", "delta_scale"):
            curves.remove(curve)
    return curves


def _restoring(part: bpy.types.Object) -> Callable[[], None]:
    """What gives a part back the action, the size and the visibility that it has now."""
    scale, hidden = part.delta_scale.copy(), (part.hide_viewport, part.hide_render)
    was_animated, animated = part.animation_data is not None, part.animation_data_create()
    action, slot = animated.action, getattr(animated, "action_slot", None)
    uses_strips, animated.use_nla = animated.use_nla, False  # strips may hide it, too

    def restore() -> None:
        temporary = animated.action
        if temporary != action:
            animated.action = action
            if action is not None and hasattr(animated, "action_slot"):
                animated.action_slot = slot
            if temporary is not None:
                bpy.data.actions.remove(temporary)
        animated.use_nla = uses_strips
        if not was_animated:
            part.animation_data_clear()
        part.delta_scale = scale
        part.hide_viewport, part.hide_render = hidden

    return restore


def _switch_without_a_way_between(path: Path) -> None:
    """Have the sizes of a .glb jump from key to key: Blender writes what it samples as lines."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    document, rest = json.loads(data[20 : 20 + length]), data[20 + length :]
    for animation in document.get("animations", ()):
        for channel in animation["channels"]:
            if channel["target"]["path"] == "scale":
                animation["samplers"][channel["sampler"]]["interpolation"] = "STEP"
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    whole = 20 + len(text) + len(rest)
    path.write_bytes(
        data[:8] + struct.pack("<I", whole) + struct.pack("<I", len(text)) + b"JSON" + text + rest
    )


def why_no_field_saved(context) -> str:
    """Why there is no field to write, or ""."""
    owner = _owner(context)
    if not kept.has_field(owner):
        return "Select an object that keeps a neural field"
    if mixing.is_mix(owner) and not mixing.is_field_here(owner):
        return "Surfaces were mixed here instead of fields: move the slider to an end"
    return ""


def _field_file(owner: bpy.types.Object) -> bytes:
    """The field of what shows, with the name of its object. Raises BadInput."""
    if mixing.is_mix(owner):
        return to_bytes(mixing.field_here(owner), mixing.name_here(owner))
    return kept.file_of(owner)


class FIELDFORGE_OT_export_field(bpy.types.Operator, ExportHelper):
    """Write the field itself into a .ffield file, for the command line and other Blender files"""

    bl_idname = "fieldforge.export_field"
    bl_label = "Save Field"

    filename_ext = SUFFIX
    filter_glob: StringProperty(default=f"*{SUFFIX}", options={"HIDDEN"})

    @classmethod
    def poll(cls, context) -> bool:
        reason = why_no_field_saved(context)
        if reason:
            cls.poll_message_set(reason)
        return not reason

    def invoke(self, context, event):
        name = bpy.path.clean_name(_owner(context).name)
        folder = Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
        self.filepath = str(folder / f"{name}{SUFFIX}")
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context):
        path = _with_suffix(self.filepath, SUFFIX)
        try:
            path.write_bytes(_field_file(_owner(context)))
        except OSError as error:
            self.report({"ERROR"}, f"The field was not written: {error.strerror or error}")
            return {"CANCELLED"}
        except FieldforgeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.report({"INFO"}, f"Written: {path.name}")
        return {"FINISHED"}


def _owner(context) -> bpy.types.Object | None:
    """What keeps the field of what is active."""
    active = context.view_layer.objects.active
    return motion.root_of(active) or active


CLASSES = (FIELDFORGE_OT_export_motion, FIELDFORGE_OT_export_field)
