"""Textures of results -> images of the Blender file. Main thread only."""

from __future__ import annotations

import bpy

from .textures import Texture


def image_from(texture: Texture, name: str) -> bpy.types.Image:
    """A new image: linked where the texture was written to a file, else packed as it is. Blender
    reads it when it is shown first."""
    if texture.path is not None:
        image = bpy.data.images.load(str(texture.path), check_existing=False)
        image.name = name
        if bpy.data.filepath:
            image.filepath = bpy.path.relpath(str(texture.path))
    else:
        is_float = texture.suffix == ".exr"
        image = bpy.data.images.new(name, 1, 1, float_buffer=is_float, is_data=texture.is_data)
        image.filepath_raw = f"//{name}{texture.suffix}"
        image.pack(data=texture.data, data_len=len(texture.data))
        image.source = "FILE"
    image.colorspace_settings.name = _color_space(texture, image)
    return image


def _color_space(texture: Texture, image: bpy.types.Image) -> str:
    if texture.is_data:
        return "Non-Color"
    if texture.suffix == ".png":
        return "sRGB"
    spaces = image.colorspace_settings.bl_rna.properties["name"].enum_items.keys()
    return "Linear Rec.709" if "Linear Rec.709" in spaces else image.colorspace_settings.name


def image_of_source(options: dict) -> bpy.types.Image | None:
    """The image that the result was made of, when the sphere is to show that one and it is here."""
    image = bpy.data.images.get(options.get("image") or "")
    known = options.get("image_uid")
    if image is None or (known is not None and image.session_uid != known):
        return None
    return image
