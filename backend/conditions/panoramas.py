"""Equirectangular pictures and their depth, from files to what a sphere is built of."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import ImageOps

from ..depth_meanings import DepthMeaning
from ..errors import BadInput
from ..geometry.resampling import spread
from ..protocol import check_panorama_image, check_panorama_size
from . import exr, picture_files, radiance

_COLOR_KEYS = ("rgb", "image", "color", "picture")
_DEPTH_KEYS = ("depth", "distance", "inverse_depth", "disparity")

DEPTH_TEXT = "Fieldforge depth"
"""Keyword of the text in our .png files of depth: the meaning as JSON, with it how levels 1..65535
are values. Metric: thousandths (millimetres); else 0..1. Level 0: there is no depth, as of sky."""

FARTHEST = 65.535
"""Metres, of such a file that is metric."""

_MOST_TEXT = 4000


def read_picture(path: str | Path) -> np.ndarray:
    """(H, W, 3 or 4) uint8 sRGB, or float32 linear of .exr, .hdr and arrays of floats (.npy, .npz).

    Values that are not finite become 0, negative ones too. Raises NotFound, BadInput or TooLarge.
    """
    path = Path(path)
    picture_files.check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".exr":
        image = _light(exr.read_colors(path, check_panorama_size))
    elif suffix in radiance.SUFFIXES:
        image = _light(radiance.read(path, check_panorama_size))
    elif suffix in (".npz", ".npy"):
        image = _array(path, _COLOR_KEYS, "a picture")
        image = _light(image) if image.dtype.kind == "f" else image
    else:
        with picture_files.opened(path, check_panorama_size) as file:
            image = picture_files.eight_bits(ImageOps.exif_transpose(file))
    check_panorama_image(image)
    return image


def read_depth(path: str | Path) -> np.ndarray:
    """The depth of `read_told_depth`."""
    return read_told_depth(path)[0]


def read_told_depth(path: str | Path) -> tuple[np.ndarray, DepthMeaning | None]:
    """(h, w) uint8, uint16 or float32, and what the file says of its meaning, None if nothing.

    Values as the file has them, of our own .png those they stand for; inf where a renderer saw
    nothing; where a .png of ours has no depth inf metres, or NaN of other meanings. .exr, .npy,
    .npz, pictures of 8 or 16 bits or of floats. Raises NotFound, BadInput or TooLarge.
    """
    meaning: DepthMeaning | None = None
    path = Path(path)
    picture_files.check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".exr":
        depth = exr.read_depth(path, check_panorama_size)
    elif suffix == ".npz":
        depth = picture_files.as_depth(_array(path, _DEPTH_KEYS, "depth"))
        meaning = _meaning_in_arrays(path)
    elif suffix == ".npy":
        depth = picture_files.read_npy(path, check_panorama_size)
    elif suffix in radiance.SUFFIXES:
        raise BadInput(
            f"{path.name} is a Radiance picture, which is too coarse for depth.",
            "Save the depth as OpenEXR (.exr), or as a picture of 16 bits.",
        )
    else:
        with picture_files.opened(path, check_panorama_size) as file:
            text = file.info.get(DEPTH_TEXT)
            depth = picture_files.values_of(ImageOps.exif_transpose(file))
        if depth.dtype == np.uint16:  # with fewer bits another program has changed it
            meaning = _meaning_of(text)
        if meaning is not None:
            depth = _of_levels(depth, meaning)
    if depth.dtype.kind != "f":
        return depth, meaning
    nothing = (depth >= picture_files.EMPTY) | (depth == picture_files.HALF_EMPTY)
    return np.where(nothing, np.float32(np.inf), depth), meaning


def depth_levels(depth: np.ndarray, meaning: DepthMeaning) -> np.ndarray:
    """Depth as the (h, w) uint16 of a .png, to be written with `DEPTH_TEXT`; metres end at 65.5."""
    known = np.isfinite(depth)
    values = np.where(known, depth, 0)
    if meaning.meaning == "metric":
        known &= values > 0
        levels = values * 1000.0
    else:
        levels = 1 + values * 65534.0
    return np.where(known, np.rint(np.clip(levels, 1, 65535)), 0).astype(np.uint16)


def beyond_levels(depth: np.ndarray, meaning: DepthMeaning) -> float:
    """Share of the pixels with depth that is too far for `depth_levels`; sky is none of it."""
    if meaning.meaning != "metric":
        return 0.0
    far = np.isfinite(depth) & (depth > FARTHEST + 0.0005)
    return float(far.mean())


def _of_levels(levels: np.ndarray, meaning: DepthMeaning) -> np.ndarray:
    """The inverse of `depth_levels`: float32; where there is none inf of metres, else NaN."""
    if meaning.meaning == "metric":
        return np.where(levels > 0, levels / 1000.0, np.inf).astype(np.float32)
    return np.where(levels > 0, (levels - 1.0) / 65534.0, np.nan).astype(np.float32)


def _meaning_in_arrays(path: Path) -> DepthMeaning | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            text = arrays["meaning"]
            return _meaning_of(str(text) if text.shape == () else None)
    except (AttributeError, OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def _meaning_of(text: object) -> DepthMeaning | None:
    """None where the text is none of ours. Raises BadInput for a meaning that means nothing."""
    if not isinstance(text, str) or len(text) > _MOST_TEXT:
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or "meaning" not in record:
        return None
    return DepthMeaning.from_dict(record)


def metric_levels_in_metres(depth: np.ndarray) -> np.ndarray:
    """Whole numbers of 16 bits that are metric are millimetres, as depth cameras write them."""
    return depth / np.float32(1000) if depth.dtype == np.uint16 else depth


def has_depth(path: Path) -> bool:
    """Whether this is one file with the picture and its depth."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return any(key in arrays.files for key in _DEPTH_KEYS)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def guessed_meaning(depth: np.ndarray) -> DepthMeaning:
    """What depth most likely means of which nothing is said: floats beyond 1 are metres, all else
    inverse depth, bright where it is near."""
    if depth.dtype.kind == "f":
        finite = depth[np.isfinite(depth)]
        if len(finite) and float(finite.max()) > 1:
            return DepthMeaning()
    return DepthMeaning(meaning="inverse")


def _array(path: Path, keys: Iterable[str], what: str) -> np.ndarray:
    """The array of a file that has one of these names, or the only one. Nothing is unpickled."""
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            names = [key for key in keys if key in found.files] or found.files
            if len(names) > 1 and names[0] not in keys:
                raise BadInput(
                    f"{path.name} has several arrays: {', '.join(names)[:200]}.",
                    f"Name the one for {what} {next(iter(keys))!r}.",
                )
            return np.asarray(found[names[0]])
    except (OSError, ValueError, EOFError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise BadInput(
            f"{path.name} is not an array that can be read: {error}.",
            "Save it with numpy.save or numpy.savez, as arrays of numbers.",
        ) from None


def _light(image: np.ndarray) -> np.ndarray:
    """Colours as floats without what no screen and no light can show."""
    light = image.astype(np.float32)
    np.nan_to_num(light, copy=False, nan=0.0, posinf=65504.0, neginf=0.0)
    return np.maximum(light, 0, out=light)


# --------------------------------------------------------------------------------------- all around


def all_around(array: np.ndarray, aspect: str, field_of_view: float = 180.0) -> np.ndarray:
    """A picture (H, W, C) or depth (H, W) that is not 2:1 as one that is, by `aspect` as in
    PanoramaTask: what lacks is NaN in depth, which becomes float32, and the colours beside it in
    pictures. Raises TooLarge when all around would be larger than is accepted.
    """
    height, width = array.shape[:2]
    if aspect == "strict" or (aspect == "pad" and abs(width - 2 * height) <= 1):
        return array
    if aspect == "partial":
        whole = max(round(width * 360 / field_of_view), width, 2 * height)
    else:
        whole = max(width, 2 * height)
    whole += -whole % 4
    check_panorama_size(whole, whole // 2)
    top, left = (whole // 2 - height) // 2, (whole - width) // 2
    inside = (slice(top, top + height), slice(left, left + width))
    if array.ndim == 2:
        around = np.full((whole // 2, whole), np.nan, np.float32)
        around[inside] = array
        return around
    colors = np.zeros((whole // 2, whole, array.shape[2]), np.float32)
    colors[inside] = array
    known = np.zeros(colors.shape[:2], bool)
    known[inside] = True
    filled = spread(colors, known)
    if array.dtype.kind == "f":
        return filled
    return np.rint(np.clip(filled, 0, 255)).astype(np.uint8)
