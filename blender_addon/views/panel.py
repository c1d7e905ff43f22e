"""In the sidebar: the fields of the sources about views, and what can be done with views."""

from __future__ import annotations

import bpy

from ..wrapping import paragraph
from .cameras import in_order
from .planning import home_of_views, uses_own_cameras
from .rerolls import disabled_reason, none_beside
from .source import MAKE_VIEWS, by_model

# --------------------------------------------------------------------------------------- the source


def picture_fields(box, settings, found) -> None:
    """Above what is said of the source."""
    box.row().prop(settings, "views_picture", expand=True)
    if settings.views_picture == "IMAGE":
        box.template_ID(settings, "image", open="image.open")
    elif settings.views_picture == "OBJECTS":
        box.row().prop(settings, "seen_objects", expand=True)


def text_fields(box, settings, found) -> None:
    box.prop(settings, "prompt", text="", icon="TEXT")


def scene_fields(box, settings, found) -> None:
    box.row().prop(settings, "scene_from", expand=True)
    if settings.scene_from == "OBJECTS":
        box.row().prop(settings, "seen_objects", expand=True)
    else:
        box.prop(settings, "cameras_of", text="Of")


def camera_options(box, settings, found, model) -> None:
    """Below what is said of the source: where the cameras stand."""
    column = box.column()
    column.use_property_split = True
    with_image = settings.source == "IMAGE_VIEWS" and settings.views_picture == "IMAGE"
    if with_image:
        box.prop(settings, "background", text="")
    if settings.source == "IMAGE_VIEWS":
        column.prop(settings, "views_words")
    if settings.source == "IMAGE_VIEWS" and settings.views_picture == "VIEWPORT":
        column.prop(settings, "ring_count")
        _draw_middle(column, settings)
        column.prop(settings, "show_cameras")
        return
    if settings.source == "IMAGE_VIEWS" and settings.views_picture == "OBJECTS":
        column.prop(settings, "known_views")
        column.prop(settings, "textured_views")
    by_itself = uses_own_cameras(settings, model)
    _draw_cameras(box, settings, by_itself, turns=not by_itself or bool(model.get("turns")))
    if not (settings.source == "IMAGE_VIEWS" and settings.views_picture == "OBJECTS"):
        _draw_middle(column, settings)


def _draw_middle(column, settings) -> None:
    column.row().prop(settings, "views_around", expand=True)
    if settings.views_around == "CURSOR":
        column.prop(settings, "result_size")


def _draw_cameras(box, settings, by_itself: bool = False, turns: bool = True) -> None:
    """by_itself: the model makes views of its own number and places; turns: they can begin
    anywhere."""
    box.row().prop(settings, "cameras_from", expand=True)
    column = box.column()
    column.use_property_split = True
    if settings.cameras_from == "SCENE":
        column.prop(settings, "cameras_of", text="Of")
        return
    if not by_itself:
        column.prop(settings, "ring_count")
    if settings.cameras_from == "PATH":
        column.prop(settings, "path_curve")
        column.row().prop(settings, "path_look", expand=True)
        column.prop(settings, "views_field")
    else:
        if turns:
            column.prop(settings, "ring_start")
        if not by_itself:
            column.prop(settings, "ring_caps")
        column.prop(settings, "own_ring")
        if settings.own_ring:
            column.prop(settings, "ring_elevation")
            column.prop(settings, "ring_distance")
            column.prop(settings, "views_field")
    column.prop(settings, "show_cameras")


def scene_options(box, settings, found, model) -> None:
    if settings.scene_from == "OBJECTS":
        box.prop(settings, "textured_views")
        _draw_cameras(box, settings)
        return
    box.row().prop(settings, "mesh_by", expand=True)
    box.prop(settings, "background", text="")
    box.operator("fieldforge.import_transforms", icon="IMPORT")


def draw_choices(layout, settings, context) -> None:
    """What becomes of the views, instead of the resolution of a mesh."""
    column = layout.column()
    column.use_property_split = True
    if settings.source not in MAKE_VIEWS:
        if settings.scene_from == "OBJECTS":
            column.prop(settings, "views_pixels")
        if not by_model(settings):
            column.row().prop(settings, "scene_resolution", expand=True)
        column.prop(settings, "scene_texture")
        return
    column.prop(settings, "views_pixels")
    column.prop(settings, "views_one_by_one")
    column.prop(settings, "views_sequence")
    column.prop(settings, "views_clip")
    if settings.views_clip:
        column.prop(settings, "views_hold")
    if settings.views_sequence and not bpy.data.filepath:
        words = "Not saved yet: the sequence goes to Fieldforge's own folder."
        paragraph(layout, [words], context, icon="INFO")


# ---------------------------------------------------------------------------------------- the views


class FIELDFORGE_PT_views(bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Fieldforge"
    bl_label = "Views"
    bl_idname = "FIELDFORGE_PT_views"
    bl_order = 0  # while a view is selected, what can be done with it comes first

    @classmethod
    def poll(cls, context) -> bool:
        return home_of_views(context.view_layer.objects.active) is not None

    def draw(self, context) -> None:
        layout = self.layout
        layout.use_property_decorate = False
        active = context.view_layer.objects.active
        home = home_of_views(active)
        paragraph(layout, [views_words(home)], context, icon="OUTLINER_OB_CAMERA")
        if active.fieldforge_view.number:
            _draw_view(layout, active, home, context)
        reason = disabled_reason(context)
        if home.fieldforge_views.job_id:
            layout.label(text="Make Anew:", icon="FILE_REFRESH")
            alone = none_beside(home)
            row = layout.row(align=True)
            this = row.row(align=True)
            this.enabled = not (reason or disabled_reason(context, "ONE"))
            this.operator("fieldforge.reroll_views", text="This").which = "ONE"
            rest = row.row(align=True)
            rest.enabled = not alone
            rest.operator("fieldforge.reroll_views", text="Not Kept").which = "REST"
            row.operator("fieldforge.reroll_views", text="All").which = "ALL"
            reason = reason or alone
            if reason:
                paragraph(layout, [f"{reason.rstrip('.')}."], context, icon="INFO")
        layout.operator("fieldforge.mesh_from_views", icon="OUTLINER_OB_MESH")
        row = layout.row(align=True)
        row.operator("fieldforge.export_transforms", text="Export", icon="EXPORT")
        if home.fieldforge_views.sequence is not None:
            row.operator("fieldforge.views_to_sequencer", icon="SEQ_SEQUENCER")


def _draw_view(layout, camera, home, context) -> None:
    row = layout.row(align=True)
    row.operator("fieldforge.look_through", text="", icon="TRIA_LEFT").step = -1
    row.operator("fieldforge.look_through", text="Look Through", icon="HIDE_OFF").step = 0
    row.operator("fieldforge.look_through", text="", icon="TRIA_RIGHT").step = 1
    if camera.fieldforge_view.given:
        layout.label(text="This view was given.", icon="PINNED")
    elif home.fieldforge_views.job_id:
        layout.prop(camera.fieldforge_view, "keep", icon="PINNED", toggle=True)


def views_words(home: bpy.types.Collection) -> str:
    kept, count = home.fieldforge_views, len(in_order(home.objects))
    words = f"{home.name}: {count} views"
    if kept.model:
        words += f", {kept.model}, seed {kept.seed}"
    return words


CLASSES = (FIELDFORGE_PT_views,)
