"""The buttons about fields: compress, bring back, go from shape to shape. Main thread."""

from __future__ import annotations

import bpy
import numpy as np

from ...backend.errors import BadInput, FieldforgeError
from ...backend.protocol import FieldToMesh, MeshToField
from ...backend.protocol import why_not_mixed as why_not_mixed_layouts
from .. import preferences, session
from ..compose import Choices
from ..importing import Destination, select_only
from . import kept, mixing, motion, recording
from .captures import CompressRequest, Frame, MeshRequest
from .scene import handle_of, hide_original, show_original
from .source import fps_of, sampled_frames, spacing_of, topology_of


class _Button:
    """An operator whose poll tells why it cannot be clicked."""

    @classmethod
    def poll(cls, context) -> bool:
        reason = cls.disabled_reason(context)
        if reason:
            cls.poll_message_set(reason)
        return not reason


def backend_missing() -> str:
    missing = preferences.backend_missing(preferences.current_settings())
    return f"{missing[0]}. {missing[1]}".rstrip(". ") if missing else ""


# ----------------------------------------------------------------------------------------- compress


def source_of(context) -> bpy.types.Object | None:
    """The object that Compress takes."""
    active = context.view_layer.objects.active
    return active if active is not None and active.select_get() else None


def why_not_compressed(context) -> str:
    """Why the active object cannot become a field now, or ""."""
    item = source_of(context)
    if item is None:
        return "Select a mesh object"
    if item.type != "MESH":
        return f"{item.name} is no mesh: convert it first (Object > Convert > Mesh)"
    if context.mode != "OBJECT":
        return "Leave this mode first"
    if not item.visible_get():
        return f"{item.name} is hidden: show it first (in the Outliner)"
    if not item.modifiers and not len(item.data.polygons):
        return f"{item.name} has no faces"
    running = recording.current()
    return f"{running.name} is being read" if running else backend_missing()


class FIELDFORGE_OT_compress_field(_Button, bpy.types.Operator):
    """Make a neural field of the selected object: its shape, or its motion, in a few dozen
    kilobytes that lie in the file. The object stays as it is. Bake physics first"""

    bl_idname = "fieldforge.compress_field"
    bl_label = "Compress to Neural Field"

    disabled_reason = staticmethod(why_not_compressed)

    def execute(self, context):
        settings, scene, item = context.scene.fieldforge, context.scene, source_of(context)
        order = _compress_order(context, item)
        if settings.field_from == "FRAMES":
            frames = sampled_frames(scene, settings.field_samples, settings.field_loop)
            order["fields"] |= {"fps": fps_of(scene, frames), "loop": settings.field_loop}
            order["options"] |= {"start": frames[0], "speed": spacing_of(frames)}
            recording.record(context, item, frames, lambda read: compress(order, read))
            return {"FINISHED"}
        order["fields"]["fps"] = fps_of(scene, [])
        try:
            read = [recording.read(context, item)]
            recording.check_faces(item.name, read, f"frame {scene.frame_current}")
        except FieldforgeError as error:
            session.jobs().tell(f"{item.name} cannot be compressed", error)
            self.report({"WARNING"}, error.cause)
            return {"CANCELLED"}
        compress(order, read)
        return {"FINISHED"}


def _compress_order(context, item: bpy.types.Object) -> dict:
    """All that is asked, as it is now: reading may take a while."""
    settings = context.scene.fieldforge
    return {
        "name": item.name,
        "resolution": int(settings.field_resolution),
        "fields": {
            "effort": settings.field_effort,
            "half": settings.field_half,
            "topology": topology_of(settings.motion_way),
        },
        "options": {
            "way": settings.motion_way,
            "start": context.scene.frame_start,
            "preview_range": False,  # the original's range is the scene's
            "original": item.name,
        },
        "hide": [item.name] if settings.field_hide else [],
        "home": home_names(context, item),
    }


def compress(order: dict, frames: list[Frame]) -> None:
    """Send what was read."""
    destination = Destination(
        name=f"{order['name']} field",
        matrix_world=np.eye(4),
        hide=order["hide"],
        fields=order["options"],
        **order["home"],
    )
    session.jobs().generate(
        CompressRequest(order["name"], frames, order["fields"]),
        Choices(MeshToField.model, order["resolution"]),
        destination,
        kind=MeshToField.kind,
    )


def home_names(context, item: bpy.types.Object) -> dict[str, str]:
    """The scene and the collection in which what is made of `item` goes."""
    inside = {context.scene.collection, *context.scene.collection.children_recursive}
    collection = next((each for each in item.users_collection if each in inside), None)
    return {"scene": context.scene.name, "collection": collection.name if collection else ""}


class FIELDFORGE_OT_cancel_reading(bpy.types.Operator):
    """Stop reading the object. The timeline goes back to where it was"""

    bl_idname = "fieldforge.cancel_reading"
    bl_label = "Cancel"

    def execute(self, context):
        running = recording.current()
        if running is not None:
            running.stop()
        return {"FINISHED"}


# --------------------------------------------------------------------------------------- bring back


def field_root(context) -> bpy.types.Object | None:
    """The root of what is active, where it keeps a field."""
    active = context.view_layer.objects.active
    root = motion.root_of(active) or active  # a generated mesh keeps its field itself
    return root if kept.has_field(root) else None


def why_not_brought_back(context) -> str:
    root = field_root(context)
    if root is None:
        return "Select an object that keeps a neural field"
    if mixing.is_mix(root):
        return "Make a copy at the slider first"
    if context.mode != "OBJECT":
        return "Leave this mode first"
    if any(job.destination.fields.get("into") == root.name for job in session.jobs().active):
        return f"{root.name} is being brought back already"
    return backend_missing()


class FIELDFORGE_OT_bring_back(_Button, bpy.types.Operator):
    """Make the meshes of this field anew, in the chosen resolution. They replace those that are
    there; undo brings these back"""

    bl_idname = "fieldforge.bring_back"
    bl_label = "Bring Back"

    disabled_reason = staticmethod(why_not_brought_back)

    def execute(self, context):
        settings, root = context.scene.fieldforge, field_root(context)
        try:
            neural = kept.kept(root)
        except FieldforgeError as error:
            session.jobs().tell(f"{root.name} cannot be brought back", error)
            return {"CANCELLED"}
        topology = topology_of(settings.motion_way) if neural.frame_count > 1 else "frames"
        request = MeshRequest(
            root.name, (neural,), np.array(root.matrix_world, np.float64), topology=topology
        )
        options = {"into": root.name, "into_uid": root.session_uid, "way": settings.motion_way}
        _send_mesh(context, request, int(settings.field_resolution), root.name, options, root)
        return {"FINISHED"}


def _send_mesh(
    context, request: MeshRequest, resolution: int, name: str, options: dict, root, layout="ROW"
) -> None:
    session.jobs().generate(
        request,
        Choices(FieldToMesh.model, resolution),
        Destination(
            name=name,
            matrix_world=request.matrix_world,
            layout=layout,
            fields=options,
            **home_names(context, root),
        ),
        kind=FieldToMesh.kind,
    )


class FIELDFORGE_OT_keep_field_only(_Button, bpy.types.Operator):
    """Remove the meshes and keep only the field, which makes the file smaller. Bring Back makes
    them again"""

    bl_idname = "fieldforge.keep_field_only"
    bl_label = "Keep Only the Field"
    bl_options = {"REGISTER", "UNDO"}

    @staticmethod
    def disabled_reason(context) -> str:
        root = field_root(context)
        if root is None or root.fieldforge_motion.way == "":
            return "Select an object that was made of a neural field"
        if mixing.is_mix(root):
            return "Make a copy at the slider first"
        return "" if motion.parts_of(root) else "Only the field is left"

    def execute(self, context):
        root = field_root(context)
        motion.remove_parts(root)
        select_only(context.view_layer, root)
        return {"FINISHED"}


class FIELDFORGE_OT_show_original(_Button, bpy.types.Operator):
    """Show the original instead of what was made of its field, or the other way round"""

    bl_idname = "fieldforge.show_original"
    bl_label = "Show Original"
    bl_options = {"REGISTER", "UNDO"}

    @staticmethod
    def disabled_reason(context) -> str:
        root = motion.root_of(context.view_layer.objects.active)
        if root is None or not root.fieldforge_motion.original:
            return "Select an object that was made of a neural field"
        if original_of(context, root) is None:
            return f"{root.fieldforge_motion.original} is not there, or has another name now"
        return ""

    def execute(self, context):
        item = original_of(context, motion.root_of(context.view_layer.objects.active))
        change = show_original if item.hide_get() else hide_original
        change(item, context.view_layer)
        return {"FINISHED"}


def original_of(context, root: bpy.types.Object) -> bpy.types.Object | None:
    """What was compressed, while it is in this view layer."""
    return context.view_layer.objects.get(root.fieldforge_motion.original)


# ------------------------------------------------------------------------------ from shape to shape


def chosen_ends(context) -> list[bpy.types.Object]:
    """The roots of what is selected that keep a field, the active one first."""
    active = context.view_layer.objects.active
    items = sorted(context.selected_objects, key=lambda item: item != active)
    roots = [motion.root_of(item) or item for item in items]
    found = {root.session_uid: root for root in roots if kept.has_field(root)}
    return list(found.values())


def why_not_mixed(context) -> str:
    ends = chosen_ends(context)
    if len(ends) != 2:
        return "Select two results that keep neural fields"
    if any(mixing.is_mix(root) for root in ends):
        return "One of them is a slider already: make a copy at it first"
    if context.mode != "OBJECT":
        return "Leave this mode first"
    return why_not_alike(*ends) or backend_missing()


def why_not_alike(first: bpy.types.Object, second: bpy.types.Object) -> str:
    """Why nothing lies between two fields, or ""."""
    layouts = kept.layout_of(first), kept.layout_of(second)
    if None in layouts:
        broken = first if layouts[0] is None else second
        return f"The field of {broken.name} cannot be read"
    reason = why_not_mixed_layouts(*layouts, (first.name, second.name))
    return reason[:1].upper() + reason[1:]


class FIELDFORGE_OT_mix_fields(_Button, bpy.types.Operator):
    """Make the shapes between the two selected ones, and a slider that goes through them"""

    bl_idname = "fieldforge.mix_fields"
    bl_label = "Interpolate"

    disabled_reason = staticmethod(why_not_mixed)

    def execute(self, context):
        settings, (first, second) = context.scene.fieldforge, chosen_ends(context)
        try:
            neurals = kept.kept(first), kept.kept(second)
        except FieldforgeError as error:
            session.jobs().tell("The two cannot be mixed", error)
            return {"CANCELLED"}
        name = f"{first.name} to {second.name}"
        amounts = np.linspace(0, 1, settings.mix_steps)
        matrix = np.array(first.matrix_world, np.float64)
        request = MeshRequest(name, neurals, matrix, tuple(amounts.tolist()))
        shared = {"first": first.name, "second": second.name, "way": "MESHES"}
        options = shared | _timing_of(first, neurals[0].frame_count)
        _send_mesh(
            context, request, int(settings.mix_resolution), name, options, first, layout="BESIDE"
        )
        return {"FINISHED"}


def _timing_of(root: bpy.types.Object, frames: int) -> dict:
    """So that `frames` of the field take the time that the root's own take."""
    own = root.fieldforge_motion
    if not motion.is_moving(root):
        return {}
    return {"start": own.start, "speed": own.speed * own.frames / frames}


class FIELDFORGE_OT_copy_mix(_Button, bpy.types.Operator):
    """Keep what the slider shows as a result of its own, with its own field, in the same place"""

    bl_idname = "fieldforge.copy_mix"
    bl_label = "Make Copy Here"
    bl_options = {"REGISTER", "UNDO"}

    @staticmethod
    def disabled_reason(context) -> str:
        root = motion.root_of(context.view_layer.objects.active)
        if not mixing.is_mix(root):
            return "Select what goes from one shape to another"
        return mixing.why_not_shown(root)

    def execute(self, context):
        try:
            copy = mixing.copy_here(motion.root_of(context.view_layer.objects.active))
        except BadInput as error:
            self.report({"WARNING"}, f"{error.cause} {error.remedy}")
            return {"CANCELLED"}
        select_only(context.view_layer, handle_of(copy))
        return {"FINISHED"}


CLASSES = (
    FIELDFORGE_OT_compress_field,
    FIELDFORGE_OT_cancel_reading,
    FIELDFORGE_OT_bring_back,
    FIELDFORGE_OT_keep_field_only,
    FIELDFORGE_OT_show_original,
    FIELDFORGE_OT_mix_fields,
    FIELDFORGE_OT_copy_mix,
)
