"""In the sidebar: the fields of the source Animated Shape, and what can be done with neural fields
and with what moves."""

from __future__ import annotations

import bpy

from ..capture import counted
from ..wrapping import paragraph
from . import exporting, kept, mixing, motion, recording
from .choices import names_of
from .operators import (
    chosen_ends,
    field_root,
    original_of,
    source_of,
    why_not_alike,
    why_not_brought_back,
    why_not_compressed,
    why_not_mixed,
)
from .source import sampled_frames

# --------------------------------------------------------------------------------------- the source


def options(box, settings, found, model) -> None:
    """Below what is said of the source."""
    if names_of(settings):
        box.prop(settings, "motion_choice", text="")
    box.prop(settings, "motion_frames")
    box.prop(settings, "result_size")


def draw_choices(layout, settings, context) -> None:
    """What becomes of the motion, instead of the resolution of a mesh."""
    column = layout.column()
    column.use_property_split = True
    column.row().prop(settings, "field_resolution", expand=True)
    column.prop(settings, "motion_way")
    column.prop(settings, "motion_preview_range")


# --------------------------------------------------------------------------------------- the fields


class _Sidebar:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Fieldforge"


class FIELDFORGE_PT_field(_Sidebar, bpy.types.Panel):
    bl_label = "Neural Field"
    bl_idname = "FIELDFORGE_PT_field"
    bl_order = 0  # while a result is selected, what can be done with it comes first

    @classmethod
    def poll(cls, context) -> bool:
        return is_result(context)

    def draw(self, context) -> None:
        layout = self.layout
        layout.use_property_decorate = False
        root = motion.root_of(context.view_layer.objects.active)
        if mixing.is_mix(root):
            _draw_mix(layout, root, context)
        elif field_root(context) is not None:
            _draw_card(layout, field_root(context), context)
        if root is not None and motion.is_moving(root):
            _draw_motion(layout, root)
        if root is not None:
            _draw_export(layout, context)
        _draw_ends(layout, context)


class FIELDFORGE_PT_compress(_Sidebar, bpy.types.Panel):
    bl_label = "Compress to Neural Field"
    bl_idname = "FIELDFORGE_PT_compress"
    bl_order = 2

    @classmethod
    def poll(cls, context) -> bool:
        active = context.view_layer.objects.active
        is_mesh = active is not None and active.type == "MESH" and not is_result(context)
        return is_mesh or recording.current() is not None

    def draw(self, context) -> None:
        layout = self.layout
        layout.use_property_decorate = False
        if recording.current() is not None:
            _draw_recording(layout, recording.current(), context)
        else:
            _draw_compress(layout, context)


def is_result(context) -> bool:
    """Whether what is active, or what it is a part of, was made of a field, or moves."""
    active = context.view_layer.objects.active
    return motion.root_of(active) is not None or kept.has_field(active)


def _draw_recording(layout, running, context) -> None:
    box = layout.box()
    paragraph(box, [f"Reading {running.name}"], context, icon="TIME", indent=14)
    row = box.row(align=True)
    words = f"{len(running.read)} of {counted(len(running.frames), 'frame')}"
    row.progress(factor=running.fraction, text=words)
    row.operator("fieldforge.cancel_reading", text="", icon="X")


def _draw_compress(layout, context) -> None:
    settings = context.scene.fieldforge
    column = layout.column()
    column.use_property_split = True
    column.row().prop(settings, "field_from", expand=True)
    moving = settings.field_from == "FRAMES"
    if moving:
        column.prop(settings, "field_samples")
        column.prop(settings, "field_loop")
        column.prop(settings, "motion_way")
    column.prop(settings, "field_effort")
    column.prop(settings, "field_half")
    column.row().prop(settings, "field_resolution", expand=True)
    column.prop(settings, "field_hide")
    row = layout.row()
    row.scale_y = 1.4
    row.operator("fieldforge.compress_field", icon="FULLSCREEN_EXIT")
    reason = why_not_compressed(context)
    words = f"{reason}." if reason else _source_words(context, moving)
    paragraph(layout, [words], context, icon="ERROR" if reason else "INFO")


def _source_words(context, moving: bool) -> str:
    item, scene = source_of(context), context.scene
    if not moving:
        return f"{item.name}, as it is in this frame"
    settings = scene.fieldforge
    count = len(sampled_frames(scene, settings.field_samples, settings.field_loop))
    return f"{item.name}, frames {scene.frame_start} to {scene.frame_end}, {count} of them"


def _draw_card(layout, root: bpy.types.Object, context) -> None:
    settings, own = context.scene.fieldforge, root.fieldforge_motion
    box = layout.box()
    first, *rest = card_words(root)
    paragraph(box, [first], context, icon="FULLSCREEN_EXIT", indent=14)
    paragraph(box, rest, context, icon="BLANK1", indent=14)
    column = layout.column()
    column.use_property_split = True
    column.row().prop(settings, "field_resolution", expand=True)
    if own.frames > 1 and root.type == "EMPTY":
        column.prop(settings, "motion_way")
    layout.operator("fieldforge.bring_back", icon="FULLSCREEN_ENTER")
    reason = why_not_brought_back(context)
    if reason:
        paragraph(layout, [f"{reason}."], context, icon="ERROR")
    row = layout.row(align=True)
    if root.type == "EMPTY":
        row.operator("fieldforge.keep_field_only", icon="EMPTY_AXIS")
    row.operator("fieldforge.export_field", icon="EXPORT")
    if own.original:
        original = original_of(context, root)
        hidden = original is not None and original.hide_get()
        words = "Show Original" if hidden else "Hide Original"
        icon = "HIDE_ON" if hidden else "HIDE_OFF"
        layout.operator("fieldforge.show_original", text=words, icon=icon)
        if original is None:
            words = f"{own.original} is not there, or has another name now."
            paragraph(layout, [words], context, icon="INFO")


def card_words(root: bpy.types.Object) -> list[str]:
    """What is known of a field, in lines."""
    own, size = root.fieldforge_motion, kept.size_of(root)
    lines = [f"{root.name}: {kilobytes(size)} as a field"]
    if own.frames > 1:
        lines[0] += f", {own.frames} frames"
    if own.source_bytes and size:
        words = f"{own.original}: {kilobytes(own.source_bytes)} as a mesh"
        lines.append(f"{words}, {_compared(own.source_bytes / size)}")
    if own.nearest:
        share = f"{own.nearest_distance:.0%} of the way to the next one of these"
        lines.append(f"Most like {own.nearest} of the training shapes, {share}")
    if own.iou >= 0:
        lines.append(f"IoU with the original {own.iou:.3f} (1 is the same)")
    return lines


def _compared(times: float) -> str:
    """A mesh with its field: `times` as many bytes."""
    if times >= 1.5:
        return f"{times:.1f} times the field" if times < 10 else f"{times:,.0f} times the field"
    return "about as much" if times > 0.67 else "less than the field"


def kilobytes(size: float) -> str:
    return f"{size / 1024:,.0f} KB" if size >= 10_240 else f"{size / 1024:.1f} KB"


def _draw_motion(layout, root: bpy.types.Object) -> None:
    own = root.fieldforge_motion
    column = layout.column()
    column.use_property_split = True
    for name in ("start", "speed", "loop"):
        column.prop(own, name)
    first, last = motion.span_of(root)
    kind = "shape keys" if own.way == "KEYS" else "a mesh per frame"
    layout.label(text=f"Frames {first:g} to {last:g}, {kind}", icon="TIME")


def _draw_export(layout, context) -> None:
    row = layout.row(align=True)
    row.enabled = not exporting.why_not_exported(context)
    missing = []
    for kind, (_, title, *_) in exporting.FORMATS.items():
        part = row.row(align=True)
        if exporting.operator_of(kind) is None:
            part.enabled = False
            missing.append(title)
        part.operator("fieldforge.export_motion", text=title, icon="EXPORT").kind = kind
    if missing:
        words = f"This Blender was built without {' and '.join(missing)}."
        paragraph(layout, [words], context, icon="INFO")


# ------------------------------------------------------------------------------ from shape to shape


def _draw_mix(layout, root: bpy.types.Object, context) -> None:
    mix = root.fieldforge_mix
    reason = mixing.why_not_shown(root)
    paragraph(layout, [f"{mix.first} to {mix.second}"], context, icon="ARROW_LEFTRIGHT")
    column = layout.column()
    column.enabled = not reason
    column.prop(mix, "amount", slider=True)
    column.label(text=f"Step {mixing.step_of(root) + 1} of {mix.steps}")
    column.operator("fieldforge.copy_mix", icon="DUPLICATE")
    if not mix.by_weights:
        words = "Their surfaces were mixed, not their fields: a copy between them keeps no field."
        paragraph(layout, [words], context, icon="INFO")
    if reason:
        paragraph(layout, [f"{reason}."], context, icon="ERROR")


def _draw_ends(layout, context) -> None:
    """Once two fields are selected: what lies between them."""
    ends = chosen_ends(context)
    if len(ends) != 2 or any(mixing.is_mix(root) for root in ends):
        return
    settings = context.scene.fieldforge
    box = layout.box()
    paragraph(box, [f"{ends[0].name} to {ends[1].name}"], context, icon="ARROW_LEFTRIGHT")
    column = box.column()
    column.use_property_split = True
    column.prop(settings, "mix_steps")
    column.row().prop(settings, "mix_resolution", expand=True)
    box.operator("fieldforge.mix_fields", icon="MOD_ARRAY")
    reason = why_not_mixed(context)
    if reason:
        paragraph(box, [f"{reason}."], context, icon="ERROR")
    elif not why_not_alike(*ends) and not kept.same_start(*ends):
        words = (
            "They were not fitted from one start: their surfaces will be mixed, not their fields."
        )
        paragraph(box, [words], context, icon="INFO")


CLASSES = (FIELDFORGE_PT_field, FIELDFORGE_PT_compress)
