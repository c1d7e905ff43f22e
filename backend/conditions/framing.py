"""Pictures brought to the size and the framing of the training pictures.

A frame is the square (left, top, side) of a picture, in pixels, that becomes the model's picture;
it may reach beyond the picture, where the ground shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 224
"""Pixels along each side of the pictures that the models see."""

FILL = 0.8
"""Share of the frame that the longer side of an object takes up.

WaLa's authors do not tell theirs. Renderings for training usually leave a tenth to a fifth on each
side; a tenth is what points and voxels have, too (1.8 of 2)."""


_LONGEST = 32 * SIDE


@dataclass(frozen=True)
class Frame:
    """A square of a picture: its corner at the top left and its side, in pixels."""

    left: float
    top: float
    side: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as a model sees it.

    picture: (224, 224, 3) uint8. notes: what was done to it or could not be, for the person.
    """

    picture: np.ndarray
    notes: tuple[str, ...] = ()


def whole(height: int, width: int) -> Frame:
    """The smallest square around a picture: padded, nothing cropped."""
    side = max(height, width)
    return Frame((width - side) / 2, (height - side) / 2, side)


def around(mask: np.ndarray, fill: float = FILL) -> Frame:
    """The square around what is set in (H, W) `mask`, with a margin; all of it where none is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return whole(*mask.shape)
    top, bottom = float(rows[0]), float(rows[-1] + 1)
    left, right = float(columns[0]), float(columns[-1] + 1)
    side = max(bottom - top, right - left) / fill
    return Frame((left + right - side) / 2, (top + bottom - side) / 2, side)


def alike(masks: Sequence[np.ndarray | None], shapes: Sequence[tuple[int, int]]) -> list[Frame]:
    """One frame for each of several views, all of the same share of their picture's longer side.

    masks: where the object is, (H, W), or None where that is not known; shapes: (H, W) of each.
    """
    if any(mask is None or not mask.any() for mask in masks):
        return [whole(*shape) for shape in shapes]
    known = [mask for mask in masks if mask is not None]
    if all(_holds_middle(mask) for mask in known):
        share = max(_reach(mask) / max(mask.shape) for mask in known) / FILL
        return [_middle(shape, share * max(shape)) for shape in shapes]
    own = [around(mask) for mask in known]
    share = max(frame.side / max(shape) for frame, shape in zip(own, shapes, strict=True))
    frames = []
    for frame, shape in zip(own, shapes, strict=True):
        grow = (share * max(shape) - frame.side) / 2
        frames.append(Frame(frame.left - grow, frame.top - grow, share * max(shape)))
    return frames


def _middle(shape: tuple[int, int], side: float) -> Frame:
    return Frame((shape[1] - side) / 2, (shape[0] - side) / 2, side)


def _holds_middle(mask: np.ndarray) -> bool:
    frame = around(mask, fill=1)
    height, width = mask.shape
    return bool(
        frame.left <= width / 2 <= frame.left + frame.side
        and frame.top <= height / 2 <= frame.top + frame.side
    )


def _reach(mask: np.ndarray) -> float:
    """Twice as far as the object reaches from the middle of its picture, along rows or columns."""
    reaches = []
    for axis in (0, 1):
        places = np.flatnonzero(mask.any(axis=axis))
        middle = mask.shape[1 - axis] / 2
        reaches += [middle - places[0], places[-1] + 1 - middle]
    return float(2 * max(reaches))


def cut(picture: np.ndarray, frame: Frame, ground: int = 0, side: int = SIDE) -> np.ndarray:
    """The frame of a (H, W) or (H, W, C) uint8 picture, resized with antialiasing.

    Returns (side, side) or (side, side, C). What lies beyond the picture is `ground`.
    """
    # Coarse reduction first: a small object in a huge picture must not cost a huge canvas.
    factor = max(1, int(frame.side / (4 * side)))
    image = _crop(picture, frame, factor)
    if factor > 1:
        image = image.reduce(factor)
    extent = frame.side / factor
    left = (frame.left - max(0, int(np.floor(frame.left)))) / factor
    top = (frame.top - max(0, int(np.floor(frame.top)))) / factor
    before_x, before_y = max(0, int(np.ceil(-left))), max(0, int(np.ceil(-top)))
    size = (
        max(image.width + before_x, int(np.ceil(left + extent)) + before_x),
        max(image.height + before_y, int(np.ceil(top + extent)) + before_y),
    )
    canvas = Image.new(image.mode, size, (ground,) * len(image.getbands()))
    canvas.paste(image, (before_x, before_y))
    left, top = left + before_x, top + before_y
    box = (left, top, min(left + extent, size[0]), min(top + extent, size[1]))
    return np.asarray(canvas.resize((side, side), Image.Resampling.BILINEAR, box=box))


def _crop(picture: np.ndarray, frame: Frame, factor: int) -> Image.Image:
    """The part of the picture within the frame, on whole multiples of `factor`."""
    height, width = picture.shape[:2]
    left, top = max(0, int(np.floor(frame.left))), max(0, int(np.floor(frame.top)))
    right = min(width, int(np.ceil(frame.left + frame.side)) + factor)
    bottom = min(height, int(np.ceil(frame.top + frame.side)) + factor)
    return Image.fromarray(np.ascontiguousarray(picture[top:bottom, left:right]))


def published(picture: np.ndarray) -> np.ndarray:
    """As the published command does it: (H, W, C) uint8 -> (224, 224, 3).

    Alpha is dropped, so that the colour hidden under it shows; the shorter side is resized to 224
    and the longer one cropped.
    """
    image = Image.fromarray(np.ascontiguousarray(picture[..., :3]))
    width, height = image.size
    shorter = min(width, height)
    size = (SIDE * width // shorter, SIDE * height // shorter)
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    if max(size) > _LONGEST:
        # The same of a strip that would take a gigabyte: only what the crop leaves is resized.
        scale_x, scale_y = width / size[0], height / size[1]
        box = (left * scale_x, top * scale_y, (left + SIDE) * scale_x, (top + SIDE) * scale_y)
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))
    image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


def to_model(picture: np.ndarray) -> np.ndarray:
    """(224, 224, 3) uint8 -> (3, 224, 224) float32 in [-1, 1], channels first."""
    values = picture.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((values - np.float32(0.5)) / np.float32(0.5))
