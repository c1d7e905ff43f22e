"""In the sidebar: the fields of the sources about panoramas, and the controls of a sphere."""

from __future__ import annotations

import bpy

from .. import models
from ..model_choice import chosen_depth_model
from ..wrapping import paragraph
from . import live

_MEANING_FIELDS = {
    "metric": ("inverted",),
    "inverse": ("inverted", "near", "far"),
    "paper": ("inverted", "radius", "strength"),
}

# --------------------------------------------------------------------------------------- the source


def picture_fields(box, settings, found) -> None:
    """Above what is said of the source."""
    box.template_ID(settings, "panorama", open="image.open")
    box.label(text="Depth:")
    box.row().prop(settings, "depth_from", expand=True)
    if settings.depth_from == "IMAGE":
        box.template_ID(settings, "panorama_depth", open="image.open")
    elif settings.depth_from == "FILE":
        box.prop(settings, "panorama_depth_file", text="")


def text_fields(box, settings, found) -> None:
    box.prop(settings, "panorama_prompt", text="", icon="TEXT")
    column = box.column()
    column.use_property_split = True
    column.prop(settings, "panorama_negative")


def picture_options(box, settings, found, model) -> None:
    """Below what is said of the source."""
    column = box.column()
    column.use_property_split = True
    if settings.depth_from != "MODEL":
        draw_meaning(column, settings.depth)
    column.prop(settings, "panorama_aspect")
    if settings.panorama_aspect == "partial":
        column.prop(settings, "panorama_view")


def text_options(box, settings, found, model) -> None:
    box.prop(settings, "panorama_to_sphere")


def draw_meaning(column, depth, live_ones: bool = False) -> None:
    """What the numbers of a depth mean. live_ones: also what only a sphere has."""
    column.prop(depth, "meaning")
    for name in _MEANING_FIELDS[depth.meaning]:
        column.prop(depth, name)
    if live_ones:
        column.prop(depth, "scale")
        column.prop(depth, "offset")


def draw_choices(layout, settings, context) -> None:
    """What becomes of the panorama, instead of the resolution of a mesh."""
    column = layout.column()
    column.use_property_split = True
    makes_sphere = settings.source == "PANORAMA"
    if settings.source == "PANORAMA_TEXT":
        makes_sphere = settings.panorama_to_sphere
    else:
        _draw_depth_model(column, settings, context)
    if settings.source == "STEREO":
        column.prop(settings, "interocular")
        column.row().prop(settings, "stereo_layout", expand=True)
    if makes_sphere or settings.source == "STEREO":
        column.prop(settings, "sphere_width")
        column.row().prop(settings, "sphere_edges", expand=True)
    if makes_sphere:
        column.row().prop(settings, "sphere_ahead", expand=True)
        column.prop(settings, "sphere_world")
    column.row().prop(settings, "sphere_picture", expand=True)
    if settings.sphere_picture == "LINK" and not bpy.data.filepath:
        words = "Save the Blender file first; until then pictures are packed."
        paragraph(layout, [words], context, icon="INFO")


def _draw_depth_model(column, settings, context) -> None:
    if settings.depth_from != "MODEL":
        return
    column.prop(settings, "depth_model")
    model = chosen_depth_model(settings)
    if model["id"] and not model.get("ready", True):
        models.draw_missing(column, model, context)


# --------------------------------------------------------------------------------------- the sphere


class FIELDFORGE_PT_sphere(bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Fieldforge"
    bl_label = "Panorama Sphere"
    bl_idname = "FIELDFORGE_PT_sphere"
    bl_order = 0  # while a sphere is selected, its controls come first

    @classmethod
    def poll(cls, context) -> bool:
        return live.sphere_of(context.view_layer.objects.active) is not None

    def draw(self, context) -> None:
        layout = self.layout
        layout.use_property_decorate = False
        sphere = live.sphere_of(context.view_layer.objects.active)
        paragraph(layout, [sphere_words(sphere)], context, icon="WORLD")
        column = layout.column()
        column.use_property_split = True
        reason = live.why_not_moved(sphere.data)
        column.enabled = not reason
        draw_meaning(column, sphere.data.fieldforge_sphere, live_ones=True)
        if reason:
            paragraph(layout, [f"{reason}."], context, icon="ERROR")
        layout.operator("fieldforge.look_around", icon="HIDE_OFF")
        eyes = layout.column()
        eyes.use_property_split = True
        eyes.prop(context.scene.fieldforge, "interocular")
        setup = eyes.operator("fieldforge.stereo_camera", icon="CAMERA_STEREO")
        setup.interocular = context.scene.fieldforge.interocular
        view = context.scene.view_settings
        if view.view_transform != "Standard":
            words = (
                f"{view.view_transform} changes the colours; Standard shows the picture as it is."
            )
            paragraph(layout, [words], context, icon="INFO")
            layout.prop(view, "view_transform", text="")


def sphere_words(sphere: bpy.types.Object) -> str:
    parts = live.layers_of(sphere)
    faces = sum(len(part.data.polygons) for part in parts)
    others = [part.data.fieldforge_sphere.layer for part in parts[1:]]
    more = f", with {' and '.join(others)}" if others else ""
    return f"{sphere.name}: {faces:,} faces{more}"


CLASSES = (FIELDFORGE_PT_sphere,)
