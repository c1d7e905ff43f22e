"""Files that a transforms.json names: pictures, masks and depth as Blender reads them.

Main thread only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np

from ...backend.errors import BadInput
from ..compose import srgb_from_linear
from ..panorama.images import image_from
from ..panorama.textures import exr_channels, is_cut_off, texture_of
from ..sources.images import is_linear, pixels_of
from .transforms import MILLIMETRE, PosedFile

COLOURS_OF_EXR = ({"Y"}, {"R"}, {"R", "G", "B"}, {"R", "G", "B", "A"})  # which Blender reads
NOTHING = np.float32(1e10)  # what Blender's depth pass has where nothing is
HALF_NOTHING = np.float32(65504)  # the same in half floats


def opened(path: Path) -> bpy.types.Image:
    """A new image that shows a file. Raises BadInput, and then there is none."""
    try:
        image = bpy.data.images.load(str(path), check_existing=False)
    except RuntimeError:
        raise _unreadable(path) from None
    if not all(image.size):
        bpy.data.images.remove(image)
        raise _unreadable(path)
    return image


def _unreadable(path: Path) -> BadInput:
    return BadInput(f"{path.name} cannot be read as a picture.", "Save it anew.")


@contextlib.contextmanager
def _glance(path: Path) -> Iterator[bpy.types.Image]:
    """An image of a file for the moment, its numbers as they are stored."""
    image = opened(path)
    try:
        image.colorspace_settings.name = "Non-Color"
        image.alpha_mode = "CHANNEL_PACKED"
        yield image
    finally:
        bpy.data.images.remove(image)


def eight_bits(image: bpy.types.Image) -> np.ndarray:
    """(H, W, 4) uint8 sRGB, row 0 at the top."""
    values = pixels_of(image)[::-1]
    colors = srgb_from_linear(values[..., :3]) if is_linear(image) else values[..., :3]
    whole = np.clip(np.concatenate([colors, values[..., 3:]], axis=2), 0, 1)
    return np.rint(255 * whole).astype(np.uint8)


def masked(image: bpy.types.Image, file: PosedFile) -> bpy.types.Image:
    """A new image in place of `image`: it shows what the mask leaves of it. Raises BadInput."""
    assert file.mask is not None  # noqa: S101 - nobody asks without
    with _glance(file.mask) as mask:
        if tuple(mask.size) != tuple(image.size):
            raise BadInput(
                f"{file.where}: the mask has another size than its picture.", "Export it again."
            )
        alpha = np.rint(255 * np.clip(pixels_of(mask)[::-1, :, 0], 0, 1)).astype(np.uint8)
    image.alpha_mode = "CHANNEL_PACKED"
    shown = eight_bits(image)
    shown[..., 3] = alpha
    return image_from(texture_of(shown), file.path.stem)


# -------------------------------------------------------------------------------------------- depth


def depth_of(file: PosedFile, width: int, height: int) -> np.ndarray:
    """(height, width) float32 in units of the world, 0 where nothing is known. Raises BadInput."""
    path = file.depth
    assert path is not None  # noqa: S101 - nobody asks without
    suffix = path.suffix.lower()
    if suffix == ".npy":
        values = _of_array(path)
    elif suffix == ".exr":
        values = _of_exr(path)
    else:
        values = _of_png(path)
    if values.shape != (height, width):
        raise BadInput(
            f"The depth {path.name} has {values.shape[1]} x {values.shape[0]} pixels, its picture"
            f" {width} x {height}.",
            "Export both at the same size.",
        )
    known = np.isfinite(values) & (values > 0) & (values != NOTHING)
    unit = file.unit or (1.0 if suffix == ".exr" else MILLIMETRE)
    return np.where(known, values * np.float32(unit), np.float32(0))


def _of_array(path: Path) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        squeezed = array.reshape([size for size in array.shape if size != 1] or [1])
    except (ValueError, EOFError, OSError, OverflowError) as error:
        raise BadInput(
            f"{path.name} is not an array that can be read: {error}.",
            "Save it with numpy.save, as an array of numbers.",
        ) from None
    if squeezed.ndim != 2 or squeezed.dtype.kind not in "fuib":
        raise BadInput(
            f"{path.name} holds no depth picture.",
            "Save one number per pixel: an array of height x width.",
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is empty
        return np.asarray(squeezed, np.float32)


def _of_exr(path: Path) -> np.ndarray:
    """Of channels with other names Blender shows zeros, or whatever is in its memory."""
    if set(exr_channels(path)) not in COLOURS_OF_EXR or is_cut_off(path):
        raise BadInput(
            f"The depth {path.name} is in a channel that Blender does not read, or damaged.",
            "Save it as an OpenEXR picture of one channel, named Y, or as .npy or 16-bit .png.",
        )
    with _glance(path) as image:
        values = pixels_of(image)[::-1, :, 0]
    return np.where(values == HALF_NOTHING, np.float32(0), values)


def _of_png(path: Path) -> np.ndarray:
    if path.suffix.lower() != ".png":
        raise BadInput(
            f"The depth {path.name} is a kind of picture whose numbers Blender does not tell.",
            "Save it as 16-bit .png, .exr or .npy.",
        )
    with _glance(path) as image:
        most = 65535 if image.is_float else 255
        return np.rint(pixels_of(image)[::-1, :, 0] * most).astype(np.float32)
