"""Pictures with known cameras -> squares of the size that a model paints, their cameras with them.

Unlike in images.py nothing may be framed anew where a camera is known: what is cut off or added at
the edges moves the principal point, and resizing scales the focal length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import BadInput
from .backgrounds import CAREFUL, STRONG, by_alpha, cut_out
from .framing import FILL, Frame, around, cut, whole
from .images import NOT_PLAIN, NOT_REMOVED, REMOVED

_SEEN = 25
"""Opacity from which on a pixel counts for the frame."""
_LARGEST = 640
"""Pixels along a side up to which backgrounds are told at full size."""
WHITE = (255, 255, 255)


@dataclass(frozen=True, eq=False)
class GivenViews:
    """pictures: (K, S, S, 4) uint8 sRGB, straight alpha. intrinsics: (K, 4) float32, pixels of
    these, or None where none were given. widened: whether they were made squares by
    adding pixels. notes: what was done, for the person."""

    pictures: np.ndarray
    intrinsics: np.ndarray | None
    widened: bool = False
    notes: tuple[str, ...] = ()


def prepare(
    images: np.ndarray,
    side: int,
    intrinsics: np.ndarray | None = None,
    background: str = "auto",
    fill: float = FILL,
    ground: tuple[int, int, int] = WHITE,
) -> GivenViews:
    """images: (K, H, W, 3 or 4) uint8 sRGB, straight alpha; intrinsics: (K, 4) pixels of these.

    Things are cut out of plain grounds as `background` says (one of protocol.BACKGROUNDS). Where it
    is kept, what is clear shows `ground`, sRGB of 0 to 255. With
    intrinsics, pictures that are not square are widened by empty pixels where the thing is cut out,
    and else lose what is left and right, or above and below, of the middle. Without, the thing is
    framed so that its longer side takes up `fill` of the picture. Raises BadInput.
    """
    notes: dict[str, None] = {}
    pictures, cameras = [], []
    for number, image in enumerate(images):
        colors, opacity, factor, note = _isolated(image, background, ground)
        notes |= dict.fromkeys(note)
        alone = bool((opacity < 250).mean() > 0.002)
        if alone and not (opacity > _SEEN).any():
            raise BadInput(
                f"Picture {number + 1} is empty once its background is removed.",
                "Keep the background, or give a picture that shows something.",
            )
        frame = _frame(opacity, alone, intrinsics is not None, fill)
        pictures.append(_straight(cut(colors, frame, side=side), cut(opacity, frame, side=side)))
        if intrinsics is not None:
            cameras.append(_moved(intrinsics[number], factor, frame, side))
        if intrinsics is not None and colors.shape[0] != colors.shape[1]:
            notes[WIDENED if alone else NARROWED] = None
    return GivenViews(
        np.stack(pictures),
        np.stack(cameras).astype(np.float32) if cameras else None,
        WIDENED in notes,
        tuple(notes),
    )


WIDENED = "Pictures that are not square were widened; nothing was cut off."
NARROWED = (
    "The pictures are not square: only their middle was used. Remove the background to keep all of"
    " the object."
)


def _isolated(
    image: np.ndarray, background: str, ground: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, float, tuple[str, ...]]:
    """Colours multiplied with opacity (H, W, 3), opacity (H, W), by which factor both are smaller
    than the picture, and what to tell."""
    if image.shape[2] == 4 and background != "keep" and (image[..., 3] < 250).mean() > 0.002:
        found = by_alpha(image)
        return found.colors, found.opacity, len(image) / len(found.colors), ()
    plain = _laid_over(image, ground)
    factor = -(-max(plain.shape[:2]) // _LARGEST)
    small = np.asarray(Image.fromarray(plain).reduce(factor)) if factor > 1 else plain
    full = np.full(small.shape[:2], 255, np.uint8)
    if background == "keep":
        return small, full, factor, ()
    cutout = cut_out(small, STRONG if background == "remove" else CAREFUL)
    if cutout is None or cutout.opacity.shape != small.shape[:2]:
        return small, full, factor, (NOT_REMOVED if background == "remove" else NOT_PLAIN,)
    return cutout.colors, cutout.opacity, factor, (REMOVED,)


def _laid_over(image: np.ndarray, ground: tuple[int, int, int]) -> np.ndarray:
    """(H, W, 3) of (H, W, 3 or 4): under clear pixels files hold any colour, mostly black."""
    if image.shape[2] == 3:
        return np.ascontiguousarray(image)
    picture = Image.fromarray(np.ascontiguousarray(image))
    whole = Image.new("RGBA", picture.size, (*ground, 255))
    whole.alpha_composite(picture)
    return np.asarray(whole.convert("RGB"))


def _frame(opacity: np.ndarray, alone: bool, has_camera: bool, fill: float) -> Frame:
    if not has_camera and alone:
        return around(opacity > _SEEN, fill)
    if alone:
        return whole(*opacity.shape)
    height, width = opacity.shape
    side = min(height, width)
    return Frame((width - side) / 2, (height - side) / 2, side)


def _straight(colors: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """(S, S, 4): colours that were multiplied with opacity, freed of it."""
    share = np.maximum(opacity[..., None].astype(np.float32), 1) / 255
    straight = np.where(opacity[..., None] > 0, colors / share, 0)
    clipped = np.rint(np.clip(straight, 0, 255)).astype(np.uint8)
    return np.concatenate([clipped, opacity[..., None]], axis=-1)


def _moved(camera: np.ndarray, factor: float, frame: Frame, side: int) -> np.ndarray:
    """Intrinsics (4,) of the frame as side x side pixels."""
    focal, centre = camera[:2].astype(np.float64) / factor, (camera[2:] + 0.5) / factor
    scale = side / frame.side
    return np.array([*(focal * scale), *((centre - [frame.left, frame.top]) * scale - 0.5)])
