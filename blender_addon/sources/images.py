"""Images of the file -> what is sent of them. Main thread only."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import bpy
import numpy as np

from ...backend.errors import BadInput
from ...backend.protocol import MAX_IMAGE_SIDE, check_image_size
from ..capture import Facts
from ..pictures import ImageCapture
from .cameras import at_cursor

LINEAR_SPACES = {"Linear", "Linear Rec.709", "Linear BT.709", "scene_linear"}
DATA_SPACES = {"Non-Color", "Raw"}


def facts(context) -> Facts:
    """What is known of the image without reading its file."""
    image = chosen(context)
    if image is None:
        reason = "No image is chosen"
        advice = "Open a file, drop one onto the viewport, or select a reference image there."
        return Facts(f"{reason}.", reason, advice)
    if image.type == "RENDER_RESULT":
        return Facts("The last render")
    if image.source == "MOVIE":
        reason = f"{image.name} is a film"
        return Facts(f"{reason}.", reason, "Save one of its frames as a picture, and open that.")
    more = {"SEQUENCE": ", its first frame", "TILED": ", its first tile"}.get(image.source, "")
    if not image.has_data:
        in_the_field = image == context.scene.fieldforge.image and not more
        return Facts("" if in_the_field else f"{image.name}{more}")
    width, height = image.size
    return Facts(f"{image.name}: {width:,} x {height:,} pixels{more}")


def chosen(context) -> bpy.types.Image | None:
    """The image of the field, else that of the reference image that is selected."""
    image, active = context.scene.fieldforge.image, context.view_layer.objects.active
    if image is not None or active is None or not active.select_get():
        return image
    return active.data if isinstance(active.data, bpy.types.Image) else None


def capture(context, drawing: bool = False) -> ImageCapture:
    """Read the chosen image. Raises BadInput."""
    settings, image = context.scene.fieldforge, chosen(context)
    with readable(context, image) as data:
        return ImageCapture(
            name=Path(image.name).stem or image.name,
            pixels=_pixels(data),
            matrix_world=at_cursor(context),
            linear=is_linear(data),
            premultiplied=data.is_float and data.alpha_mode in {"STRAIGHT", "PREMUL"},
            opaque=data.channels < 4 or data.alpha_mode == "NONE",
            drawing=drawing,
            background=settings.background,
        )


@contextlib.contextmanager
def readable(context, image):
    """The image whose pixels are to be read: a render or a frame is loaded from a file."""
    if image.type == "RENDER_RESULT":
        with _rendered(context, image) as loaded:
            yield loaded
    elif image.source == "SEQUENCE" and not image.packed_file:
        with _loaded(bpy.path.abspath(image.filepath, library=image.library)) as loaded:
            yield loaded
    else:
        yield image


@contextlib.contextmanager
def _loaded(path: str):
    """An image of a file for the moment."""
    try:
        image = bpy.data.images.load(path)
    except RuntimeError:
        raise _not_found(Path(path).name, path) from None
    try:
        yield image
    finally:
        bpy.data.images.remove(image)


@contextlib.contextmanager
def _rendered(context, image):
    """Blender keeps the pixels of a render to itself, but saves them as they are shown."""
    handle, path = tempfile.mkstemp(suffix=".png")
    os.close(handle)
    try:
        with _png_settings(context.scene.render.image_settings):
            try:
                image.save_render(path, scene=context.scene)
            except RuntimeError:
                raise BadInput(
                    "Nothing was rendered yet.", "Render a picture first (F12), then generate."
                ) from None
        with _loaded(path) as loaded:
            yield loaded
    finally:
        os.unlink(path)


@contextlib.contextmanager
def _png_settings(chosen):
    """Save as PNG with alpha, whatever the scene renders to."""
    names = ("media_type", "file_format", "color_mode", "color_depth", "compression")
    before = {name: getattr(chosen, name) for name in names if hasattr(chosen, name)}
    wanted = {"media_type": "IMAGE", "file_format": "PNG", "color_mode": "RGBA"}
    wanted |= {"color_depth": "8", "compression": 0}
    try:
        for name in before:
            setattr(chosen, name, wanted[name])
        yield
    finally:
        for name, value in before.items():
            setattr(chosen, name, value)


def _pixels(image) -> np.ndarray:
    """(H, W, 4) float32, row 0 at the bottom. Raises BadInput when there are none."""
    width, height = image.size
    if width and height:
        check_image_size(min(width, MAX_IMAGE_SIDE), min(height, MAX_IMAGE_SIDE))
    return pixels_of(image)


def pixels_of(image) -> np.ndarray:
    """`_pixels` of an image of any size."""
    width, height = image.size
    if not width or not height:
        raise _unreadable(image)
    values = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(values)
    values = values.reshape(height, width, -1)
    if values.shape[2] == 4:
        return values
    # Grey, grey and alpha, or colours without alpha.
    colors = values[..., :3] if values.shape[2] == 3 else np.repeat(values[..., :1], 3, axis=2)
    alpha = values[..., 1:2] if values.shape[2] == 2 else np.ones_like(values[..., :1])
    return np.concatenate([colors, alpha], axis=2)


def is_linear(image) -> bool:
    """Blender turns the colours of float images to scene-linear, and leaves bytes as they are."""
    space = image.colorspace_settings.name
    return space not in DATA_SPACES if image.is_float else space in LINEAR_SPACES


def _unreadable(image) -> BadInput:
    """Why an image has no pixels."""
    if image.source in {"FILE", "SEQUENCE", "TILED"} and not image.packed_file:
        path = image.filepath
        if not path:
            return BadInput(f"{image.name} is empty.", "Open a picture instead.")
        if path.startswith("//") and not bpy.data.filepath and image.library is None:
            return BadInput(
                f"{image.name} is looked for beside this Blender file, which is not saved.",
                "Save the Blender file, or open the picture once more.",
            )
        full = bpy.path.abspath(path, library=image.library)
        if not Path(full).exists() and image.source == "FILE":
            return _not_found(image.name, full)
    return BadInput(
        f"{image.name} cannot be read as a picture.",
        "Open it in an Image Editor to see what is wrong, or choose another one.",
    )


def _not_found(name: str, path: str) -> BadInput:
    return BadInput(
        f"The file of {name} is not there: {path}",
        "Open the picture once more from where it is now.",
    )
