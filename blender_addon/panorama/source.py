"""The panel's panorama, its depth and its text -> facts in words, and what is sent. Main thread."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import bpy

from ...backend.protocol import (
    PanoramaToSphere,
    PanoramaToStereo,
    TextToPanorama,
)
from ..capture import Facts
from ..sources import images
from .captures import PanoramaCapture, Pixels, TextPanoramaCapture
from .settings import damaged, is_damaged, meaning_of

KINDS = {
    "PANORAMA": PanoramaToSphere.kind,
    "PANORAMA_TEXT": TextToPanorama.kind,
    "STEREO": PanoramaToStereo.kind,
}
WIDEST_SENT = 4096  # pixels: more than any mesh has; the sphere shows the picture as it is
TOLERANCE = 0.02  # between the aspects of a picture and its depth, as the backend has it


def is_panorama(settings) -> bool:
    return settings.source in KINDS


# ------------------------------------------------------------------------------------------- facts


def facts(context, model: dict) -> Facts:
    settings = context.scene.fieldforge
    if settings.source == "PANORAMA_TEXT":
        return _text_facts(settings)
    return _picture_facts(settings) or _depth_facts(settings) or _both(settings)


def _text_facts(settings) -> Facts:
    if settings.panorama_prompt.strip():
        return Facts("")
    reason = "There is no text"
    return Facts(f"{reason}.", reason, "Write what is to be seen: a sunny living room.")


def _picture_facts(settings) -> Facts | None:
    """What stands in the way of the picture; None when nothing does."""
    image = settings.panorama
    if image is None:
        reason = "No panorama is chosen"
        return Facts(
            f"{reason}.", reason, "Open a 360-degree picture, or drop one onto the viewport."
        )
    found = _of_image(image)
    if found.reason or not image.has_data:
        return found if found.reason else None
    width, height = image.size
    if settings.panorama_aspect == "strict" and not is_all_around(width, height):
        reason = f"{image.name} is {width:,} x {height:,} pixels, not twice as wide as high"
        advice = "Set Aspect to Pad or to Partial, if it is a part of a panorama."
        return Facts(f"{reason}.", reason, advice)
    return None


def _of_image(image: bpy.types.Image) -> Facts:
    if image.source == "MOVIE":
        reason = f"{image.name} is a film"
        return Facts(f"{reason}.", reason, "Save one of its frames as a picture, and open that.")
    if image.source == "FILE" and image.has_data and not all(image.size):
        reason = f"{image.name} cannot be read as a picture"
        return Facts(f"{reason}.", reason, "Its file is missing or damaged: open it once more.")
    return Facts("")


def is_all_around(width: int, height: int) -> bool:
    """Whether a picture is twice as wide as high, within the 1 % that the backend allows."""
    return abs(width - 2 * height) <= max(0.01 * width, 1)


def _depth_facts(settings) -> Facts | None:
    if settings.depth_from == "FILE" and not settings.panorama_depth_file:
        reason = "No depth file is chosen"
        return Facts(f"{reason}.", reason, "Choose a .npy or .npz file, or Estimate.")
    if settings.depth_from != "IMAGE":
        return None
    depth = settings.panorama_depth
    if depth is None:
        reason = "No depth is chosen"
        return Facts(f"{reason}.", reason, "Open a depth picture, or choose Estimate.")
    found = _of_image(depth)
    if found.reason:
        return found
    picture = settings.panorama
    if not (depth.has_data and picture.has_data) or not all((*depth.size, *picture.size)):
        return None
    ours, theirs = picture.size[0] / picture.size[1], depth.size[0] / depth.size[1]
    allowed = max(TOLERANCE, 1 / depth.size[1], 1 / picture.size[1])
    if abs(ours / theirs - 1) > allowed:
        sizes = [f"{image.size[0]:,} x {image.size[1]:,}" for image in (picture, depth)]
        reason = f"The picture is {sizes[0]} pixels and the depth {sizes[1]}: not of one shape"
        return Facts(f"{reason}.", reason, "Choose the depth of the same panorama, uncropped.")
    return None


def _both(settings) -> Facts:
    words = _size_words(settings.panorama)
    match settings.depth_from:
        case "IMAGE":
            depth = _size_words(settings.panorama_depth)
            words = f"{words}; depth {depth}" if words and depth else words
        case "FILE":
            words = f"{words}; depth {Path(settings.panorama_depth_file).name}" if words else ""
    return Facts(words, warning=_warning(settings))


def _size_words(image: bpy.types.Image) -> str:
    if not image.has_data:
        return ""
    width, height = image.size
    return f"{image.name}: {width:,} x {height:,} pixels"


def _warning(settings) -> str:
    """What is worth knowing of the depth before it is used."""
    depth = settings.panorama_depth
    if settings.depth_from != "IMAGE" or not depth.has_data or depth.is_float:
        return ""
    if settings.depth.meaning == "metric":
        return "8 bits hold no metres: choose Inverse or Displacement, or an EXR."
    return "Depth of 8 bits shows terraces. EXR, or PNG with 16 bits, does not."


# ----------------------------------------------------------------------------------------- capture


def capture(context, model: dict) -> PanoramaCapture | TextPanoramaCapture:
    """Read what is chosen. Raises BadInput."""
    settings = context.scene.fieldforge
    if settings.source == "PANORAMA_TEXT":
        return _text_capture(settings)
    picture, is_stereo = settings.panorama, settings.source == "STEREO"
    fields: dict[str, Any] = {
        "aspect": settings.panorama_aspect,
        "field_of_view": round(math.degrees(settings.panorama_view), 4),
        "edges": settings.sphere_edges,
        "width": int(settings.sphere_width),
    }
    if is_stereo:
        fields["interocular"] = round(settings.interocular, 6)
    depth, file = None, None
    match settings.depth_from:
        case "IMAGE":
            depth = depth_pixels(context, settings.panorama_depth)
        case "FILE":
            file = Path(bpy.path.abspath(settings.panorama_depth_file))
        case _:
            fields["depth_model"] = settings.depth_model_id
    return PanoramaCapture(
        name=Path(picture.name).stem or picture.name,
        picture=picture_pixels(context, picture),
        meaning=meaning_of(settings.depth),
        depth=depth,
        depth_file=file,
        stereo=is_stereo,
        fields=fields,
    )


def _text_capture(settings) -> TextPanoramaCapture:
    words = settings.panorama_prompt.strip()
    fields = {"mesh_width": int(settings.sphere_width), "edges": settings.sphere_edges}
    return TextPanoramaCapture(
        name=short_name(words),
        prompt=words,
        negative=settings.panorama_negative.strip(),
        sphere=settings.panorama_to_sphere,
        fields=fields,
    )


def short_name(words: str) -> str:
    """A name for what is made of a text, of its first words."""
    name = words[0].upper() + words[1:]
    return name if len(name) <= 40 else name[:40].rsplit(" ", 1)[0]


def picture_pixels(context, image: bpy.types.Image) -> Pixels:
    """The colours of an image, at most WIDEST_SENT wide where its file can be read once more."""
    if is_damaged(image):
        raise damaged(image)
    with images.readable(context, image) as data, _small(data) as small:
        values = images.pixels_of(small)
        return Pixels(values, not small.is_float, images.is_linear(small))


def depth_pixels(context, image: bpy.types.Image) -> Pixels:
    """The numbers of an image as its file has them, whatever colours they are taken for."""
    if is_damaged(image):
        raise damaged(image)
    with images.readable(context, image) as data, _uncoloured(data) as plain:
        return Pixels(images.pixels_of(plain), not plain.is_float)


@contextlib.contextmanager
def _small(image: bpy.types.Image):
    """The image, or, where it is very wide, a smaller copy of it for the moment."""
    width, height = image.size
    if width <= WIDEST_SENT or not _has_file(image):
        yield image
        return
    copy = image.copy()
    try:
        copy.scale(WIDEST_SENT, max(1, round(height * WIDEST_SENT / width)))
        yield copy
    finally:
        bpy.data.images.remove(copy)


@contextlib.contextmanager
def _uncoloured(image: bpy.types.Image):
    """The image, or, where Blender turned its numbers as colours, a copy for the moment that is
    none. It does so to floating-point images, of which it takes PNG with 16 bits for one."""
    untouched = images.DATA_SPACES | images.LINEAR_SPACES
    if not image.is_float or image.colorspace_settings.name in untouched or not _has_file(image):
        yield image
        return
    copy = image.copy()
    try:
        copy.colorspace_settings.name = "Non-Color"
        yield copy
    finally:
        bpy.data.images.remove(copy)


def _has_file(image: bpy.types.Image) -> bool:
    """Whether a copy of the image shows the same: what was painted since would not go with it."""
    return image.source in {"FILE", "TILED"} and not image.is_dirty


# ------------------------------------------------------------------------------------- destination


def import_options(settings) -> dict[str, Any]:
    """How results are put into the file: `Destination.panorama`."""
    options: dict[str, Any] = {
        "ahead": settings.sphere_ahead,
        "world": settings.sphere_world,
        "stereo": settings.stereo_layout,
        "pack": settings.sphere_picture == "PACK",
        "folder": "",
        "image": "",
    }
    if settings.sphere_picture == "LINK" and bpy.data.filepath:
        options["folder"] = str(Path(bpy.path.abspath("//")) / "textures")
    is_whole = settings.panorama_aspect != "partial"
    if settings.source == "PANORAMA" and is_whole and shows_as_it_is(settings.panorama):
        options["image"] = settings.panorama.name
        options["image_uid"] = settings.panorama.session_uid
    return options


def shows_as_it_is(image: bpy.types.Image) -> bool:
    """Whether the sphere can show this very image: it is a picture of all directions."""
    if image.type == "RENDER_RESULT" or image.source not in {"FILE", "GENERATED"}:
        return False
    return is_all_around(*image.size)
