"""A picture that is dropped onto the 3D viewport becomes the source.

Blender has uses of its own for it, and asks which one is meant.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import bpy
from bpy.props import CollectionProperty, StringProperty


class FIELDFORGE_OT_drop_image(bpy.types.Operator):
    """Make a mesh of this picture: choose it as the source of Fieldforge"""

    bl_idname = "fieldforge.drop_image"
    bl_label = "Use as Source of Fieldforge"
    bl_options = {"UNDO", "INTERNAL"}

    directory: StringProperty(subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})
    files: CollectionProperty(
        type=bpy.types.OperatorFileListElement, options={"HIDDEN", "SKIP_SAVE"}
    )
    filepath: StringProperty(subtype="FILE_PATH", options={"HIDDEN", "SKIP_SAVE"})

    def execute(self, context):
        path = Path(self.directory, self.files[0].name) if self.files else Path(self.filepath)
        try:
            image = bpy.data.images.load(str(path), check_existing=True)
        except RuntimeError:
            self.report({"ERROR"}, f"{path.name} cannot be opened as a picture")
            return {"CANCELLED"}
        settings = context.scene.fieldforge
        if settings.source in {"PANORAMA", "STEREO"}:
            settings.panorama = image
            return self._shown(context)
        settings.image = image
        drawing = settings.source == "SKETCH"
        settings.source = "SKETCH" if drawing else "IMAGE"
        if drawing:
            settings.sketch_from = "IMAGE"
        return self._shown(context)

    def _shown(self, context):
        with contextlib.suppress(TypeError, AttributeError):  # a sidebar that has no such tab yet
            _show_tab(context)
        return {"FINISHED"}


def _show_tab(context) -> None:
    """Open the sidebar of the view that the picture was dropped onto."""
    if context.area is not None and context.area.type == "VIEW_3D":
        context.space_data.show_region_ui = True
        region = next(region for region in context.area.regions if region.type == "UI")
        region.active_panel_category = "Fieldforge"


class FIELDFORGE_FH_image(bpy.types.FileHandler):
    bl_idname = "FIELDFORGE_FH_image"
    bl_label = "Source of Fieldforge"
    bl_import_operator = "fieldforge.drop_image"
    bl_file_extensions = ";".join(sorted(bpy.path.extensions_image))

    @classmethod
    def poll_drop(cls, context) -> bool:
        return context.area is not None and context.area.type == "VIEW_3D"


CLASSES = (FIELDFORGE_OT_drop_image, FIELDFORGE_FH_image)
