"""In the sidebar: what a mesh is made of, and the fields that this source has."""

from __future__ import annotations

from ..fields import panel as moving
from ..panorama import panel as panorama
from ..views import panel as posed_views
from ..views.source import is_rebuilt
from ..wrapping import paragraph
from . import facts
from .settings import MOST_CAMERAS

_ICONS = {
    "POINTS": "POINTCLOUD_DATA",
    "VOXELS": "MESH_CUBE",
    "VIEWPORT": "VIEW3D",
    "IMAGE": "IMAGE_DATA",
    "SKETCH": "GREASEPENCIL",
    "DEPTH": "CAMERA_DATA",
    "VIEWS": "CAMERA_STEREO",
    "TEXT": "TEXT",
    "SHAPE": "QUESTION",
    "PANORAMA": "WORLD",
    "PANORAMA_TEXT": "TEXT",
    "STEREO": "CAMERA_STEREO",
    "IMAGE_VIEWS": "OUTLINER_OB_CAMERA",
    "TEXT_VIEWS": "OUTLINER_OB_CAMERA",
    "SCENE_VIEWS": "OUTLINER_OB_MESH",
    "ANIMATION": "POSE_HLT",
}


def draw_source(layout, context, model: dict) -> None:
    """model: the chosen one, as the backend lists it."""
    settings = context.scene.fieldforge
    layout.prop(settings, "source", text="Source")
    box = layout.box()
    found = facts(context, model)
    before, after = _FIELDS[settings.source]
    before(box, settings, found)
    if found.text:
        icon = "ERROR" if found.reason else _ICONS[settings.source]
        paragraph(box, [found.text], context, icon=icon, indent=14)
    if found.warning:
        paragraph(box, [found.warning], context, icon="INFO", indent=14)
    after(box, settings, found, model)


def has_objects(settings) -> bool:
    """Whether the source is objects, which can be hidden once their mesh is there."""
    match settings.source:
        case "POINTS" | "VOXELS":
            return True
        case "DEPTH" | "VIEWS":
            return settings.seen_objects == "SELECTED"
        case "SCENE_VIEWS":
            return is_rebuilt(settings) and settings.seen_objects == "SELECTED"
        case _:
            return settings.source == "SKETCH" and settings.sketch_from == "OBJECT"


# ----------------------------------------------------------------- above what is said of the source


def _nothing(box, settings, *_) -> None:
    """A source without fields here."""


def _object_fields(box, settings, found) -> None:
    if settings.source == "VOXELS":
        box.row().prop(settings, "voxels_from", expand=True)
        if settings.voxels_from == "CUBES":
            return
    row = box.row(align=True)
    row.prop(settings, "object_from", expand=True)
    row.operator("fieldforge.pin_source", text="", icon="PINNED")
    if settings.object_from == "PINNED":
        box.prop(settings, "pinned", text="")


def _image_field(box, settings, found) -> None:
    box.template_ID(settings, "image", open="image.open")


def _sketch_fields(box, settings, found) -> None:
    box.prop(settings, "sketch_from", text="")
    if settings.sketch_from == "IMAGE":
        _image_field(box, settings, found)
        return
    if settings.sketch_from == "OBJECT":
        box.prop(settings, "sketch", text="")
    box.row().prop(settings, "seen_from", expand=True)


def _depth_fields(box, settings, found) -> None:
    box.row().prop(settings, "seen_objects", expand=True)
    box.row().prop(settings, "seen_from", expand=True)


def _views_fields(box, settings, found) -> None:
    box.row().prop(settings, "seen_objects", expand=True)


def _text_field(box, settings, found) -> None:
    box.prop(settings, "prompt", text="", icon="TEXT")


# ----------------------------------------------------------------------------------------- below it


def _points_options(box, settings, found, model) -> None:
    if found.has_faces:
        box.prop(settings, "take_vertices")
    box.prop(settings, "use_modifiers")


def _voxels_options(box, settings, found, model) -> None:
    if settings.voxels_from != "CUBES":
        box.prop(settings, "voxel_size")
        box.prop(settings, "use_modifiers")


def _size(box, settings, found, model) -> None:
    box.prop(settings, "result_size")


def _image_options(box, settings, found, model) -> None:
    box.prop(settings, "background", text="")
    _size(box, settings, found, model)


def _views_options(box, settings, found, model) -> None:
    if model.get("any_views"):
        row = box.row(align=True)
        for number, camera in enumerate(model["cameras"][:MOST_CAMERAS]):
            row.prop(settings, "used_views", index=number, text=str(camera), toggle=True)
    if model.get("view_kind") == "image":
        box.prop(settings, "textured_views")


_FIELDS = {
    "POINTS": (_object_fields, _points_options),
    "VOXELS": (_object_fields, _voxels_options),
    "VIEWPORT": (_nothing, _size),
    "IMAGE": (_image_field, _image_options),
    "SKETCH": (_sketch_fields, _size),
    "DEPTH": (_depth_fields, _nothing),
    "VIEWS": (_views_fields, _views_options),
    "TEXT": (_text_field, _size),
    "SHAPE": (_nothing, _size),
    "PANORAMA": (panorama.picture_fields, panorama.picture_options),
    "PANORAMA_TEXT": (panorama.text_fields, panorama.text_options),
    "STEREO": (panorama.picture_fields, panorama.picture_options),
    "IMAGE_VIEWS": (posed_views.picture_fields, posed_views.camera_options),
    "TEXT_VIEWS": (posed_views.text_fields, posed_views.camera_options),
    "SCENE_VIEWS": (posed_views.scene_fields, posed_views.scene_options),
    "ANIMATION": (_nothing, moving.options),
}
