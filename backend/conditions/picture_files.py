"""Pictures and depth pictures from files.

The size stands in the header of a file and is checked before anything is decoded, so that a small
file which claims to be an enormous picture costs nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import BadInput, NotFound, TooLarge
from ..protocol import check_depth, check_image, check_image_size
from . import exr

FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "AVIF",
    "TIFF",
    "BMP",
    "DIB",
    "GIF",
    "TGA",
    "JPEG2000",
    "PPM",
    "SGI",
    "PSD",
    "ICO",
)
"""What Pillow may try. Its other readers are rarely used, and some start other programs."""

SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".avif",
    ".tif",
    ".tiff",
    ".bmp",
    ".gif",
    ".tga",
    ".jp2",
    ".ppm",
    ".pgm",
    ".pnm",
    ".rgb",
    ".sgi",
    ".psd",
    ".ico",
)
DEPTH_SUFFIXES = (*SUFFIXES, ".exr", ".npy")

EMPTY = 1e9
"""Depths from here on are no distances: Blender's depth pass has 1e10 where there is nothing."""

HALF_EMPTY = 65504.0
"""The largest half float, which the same becomes in a file of 16-bit floats."""


def read_image(path: str | Path) -> np.ndarray:
    """A picture as (H, W, 3) or, where it has transparency, (H, W, 4) uint8 sRGB.

    The first frame of an animation, turned as its camera noted. 16 bits become 8. Raises NotFound,
    BadInput or TooLarge.
    """
    path = Path(path)
    with opened(path) as image:
        image = ImageOps.exif_transpose(image)
        picture = eight_bits(image)
    check_image(picture)
    return picture


def read_depth(path: str | Path) -> tuple[np.ndarray, str]:
    """A depth picture (H, W) and the likeliest of `protocol.DEPTH_ENCODINGS`.

    .exr and .npy, pictures of 8 or 16 bits or of floats. Metres come as float32
    with inf where there is nothing. Raises NotFound, BadInput or TooLarge.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    check_file(path)
    if suffix == ".npy":
        depth = read_npy(path)
    elif suffix == ".exr":
        depth = exr.read_depth(path)
    elif suffix == ".hdr":
        raise BadInput(
            f"{path.name} is a Radiance picture, which is too coarse for depth.",
            "Save the depth as OpenEXR (.exr), or as a picture of 16 bits.",
        )
    else:
        with opened(path) as image:
            depth = values_of(ImageOps.exif_transpose(image))
    depth, encoding = guess_encoding(depth)
    check_depth(depth, encoding)
    return depth, encoding


def guess_encoding(depth: np.ndarray) -> tuple[np.ndarray, str]:
    """Depth (H, W) of any kind, with inf where it is empty in metres, and its likeliest encoding.

    Floats that go beyond 1 or are not finite somewhere are metres. In all else the ground around
    the object tells: most of the border has the lowest value where near is bright, and the highest
    where near is dark.
    """
    if depth.dtype.kind == "f":
        depth = depth.astype(np.float32)
        empty = ~(depth < EMPTY) | (depth == HALF_EMPTY)
        if empty.any() or depth.max() > 1:
            # Depth cameras write 0 where they saw nothing.
            return np.where(empty | (depth == 0), np.float32(np.inf), depth), "metres"
    border = np.concatenate([depth[0], depth[-1], depth[:, 0], depth[:, -1]])
    low, high = depth.min(), depth.max()
    dark = (
        (border > high - (high - low) // 50) if depth.dtype.kind != "f" else (border > high - 0.02)
    )
    bright = border == low
    return depth, "near-dark" if dark.mean() > bright.mean() else "near-bright"


# ------------------------------------------------------------------------------------------ opening


@contextmanager
def opened(
    path: Path, check: Callable[[int, int], None] = check_image_size
) -> Iterator[Image.Image]:
    """The picture, decoded. Whatever is wrong with the file becomes an error for people.

    check: raises BadInput or TooLarge for a width and height that are not accepted.
    """
    check_file(path)
    try:
        with warnings.catch_warnings():
            # Its limit is above ours, and sizes are checked below.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                check(*image.size)
                image.load()
                yield image
    except (BadInput, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise TooLarge(
            f"The picture {path.name} has more pixels than are accepted.",
            "Scale it down: the models look at about 224 pixels along a side.",
        ) from None
    except UnidentifiedImageError:
        raise BadInput(
            f"{path.name} is not a picture that can be read.",
            "Open it in an image editor and save it as PNG.",
        ) from None
    except Exception as error:
        # Pillow's readers raise whatever a broken file leads them to.
        raise BadInput(
            f"The picture {path.name} is damaged: {error}.",
            "It was cut off or changed. Copy or export it again.",
        ) from None


def check_file(path: Path) -> None:
    """Raise NotFound or BadInput unless `path` is a file."""
    if not path.exists():
        raise NotFound(f"There is no file {path}.", "Check its name and place.")
    if not path.is_file():
        raise BadInput(f"{path} is not a file.", "Choose a picture.")


def eight_bits(image: Image.Image) -> np.ndarray:
    """Any mode of Pillow -> (H, W, 3 or 4) uint8."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return np.repeat(_stretched(np.asarray(image))[..., None], 3, axis=2)
    has_alpha = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    picture = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    if has_alpha and picture[..., 3].min() == 255:
        return np.ascontiguousarray(picture[..., :3])
    return picture


def _stretched(values: np.ndarray) -> np.ndarray:
    """Tones of 16 or 32 bits, or floats in 0..1, -> uint8."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0, posinf=1, neginf=0)
        return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    top = 65535 if values.max() > 255 else 255
    return np.rint(np.clip(values, 0, top) * (255 / top)).astype(np.uint8)


def values_of(image: Image.Image) -> np.ndarray:
    """(H, W) of a depth picture, in the numbers of the file."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "F":
        return np.asarray(image)
    if image.mode == "I":
        return np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
    return np.asarray(image.convert("RGB").convert("L"))


def read_npy(path: Path, check: Callable[[int, int], None] = check_image_size) -> np.ndarray:
    """One number per pixel: (H, W) uint8, uint16 or float32. Raises BadInput or TooLarge."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        squeezed = array.reshape([size for size in array.shape if size != 1] or [1])
    except (ValueError, EOFError, OSError, OverflowError) as error:
        raise BadInput(
            f"{path.name} is not an array that can be read: {error}.",
            "Save it with numpy.save, as an array of numbers.",
        ) from None
    if squeezed.ndim != 2 or squeezed.dtype.kind not in "fuib":
        shape = " x ".join(map(str, array.shape))
        raise BadInput(
            f"{path.name} holds {shape} {array.dtype}, which is no depth picture.",
            "Save one number per pixel: an array of height x width.",
        )
    check(squeezed.shape[1], squeezed.shape[0])
    return as_depth(squeezed)


def as_depth(squeezed: np.ndarray) -> np.ndarray:
    """Numbers (H, W) of any kind as uint8, uint16 or float32."""
    if squeezed.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is empty
            return np.asarray(squeezed, np.float32)
    return np.clip(squeezed, 0, 65535).astype(
        np.uint8 if squeezed.dtype.itemsize == 1 else np.uint16
    )
