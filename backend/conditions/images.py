"""Pictures and views -> what the models see: the object alone, on black, framed with a margin.

Black is the ground of the published example pictures, also under their alpha, which the published
command drops.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import BadInput
from .backgrounds import CAREFUL, STRONG, Cutout, by_alpha, cut_out
from .framing import Prepared, alike, around, cut, published, to_model, whole
from .picture_files import read_depth, read_image

__all__ = ["model_image", "model_views", "prepare", "prepare_views", "read_depth", "read_image"]

REMOVED = "The plain background was removed."
NOT_PLAIN = (
    "The background is not plain and was kept. Results are better with the object alone: "
    "choose to remove it, or give a picture with transparency around the object."
)
NOT_REMOVED = (
    "No background could be told from the object, so the picture was used as it is. "
    "Give a picture with transparency around the object."
)
_SEEN = 25
"""Opacity from which on a pixel counts for the frame."""
_ONE_TONE = 2
"""Difference of 8-bit values up to which a picture has the same tone everywhere."""


def model_image(
    image: np.ndarray, background: str = "auto", as_published: bool = False
) -> np.ndarray:
    """(H, W, 3 or 4) uint8 sRGB, straight alpha -> (3, 224, 224) float32 in [-1, 1].

    background: one of `protocol.BACKGROUNDS`. as_published: resize and crop only, alpha dropped.
    """
    return to_model(published(image) if as_published else prepare(image, background).picture)


def model_views(
    images: np.ndarray | Sequence[np.ndarray], background: str = "auto", as_published: bool = False
) -> np.ndarray:
    """V pictures as in `model_image` -> (V, 3, 224, 224) float32."""
    if as_published:
        return np.stack([to_model(published(image)) for image in images])
    return np.stack([to_model(view.picture) for view in prepare_views(images, background)])


def prepare(image: np.ndarray, background: str = "auto") -> Prepared:
    """The picture as the model will see it, and notes on what was done."""
    cutout, note = _isolated(image, background)
    if cutout is None:
        picture = _on_black(image)
        return Prepared(cut(picture, whole(*picture.shape[:2])), note)
    return Prepared(cut(cutout.colors, around(cutout.opacity > _SEEN)), note)


def prepare_views(
    images: np.ndarray | Sequence[np.ndarray], background: str = "auto"
) -> list[Prepared]:
    """Each view as the model will see it.

    All are framed alike, or an object would be larger in one than in another: around the middle of
    the pictures, at which the cameras look, unless some object does not lie there.
    """
    isolated = [_isolated(image, background) for image in images]
    pictures = [
        _on_black(image) if cutout is None else cutout.colors
        for image, (cutout, _) in zip(images, isolated, strict=True)
    ]
    masks = [None if cutout is None else cutout.opacity > _SEEN for cutout, _ in isolated]
    frames = alike(masks, [picture.shape[:2] for picture in pictures])
    return [
        Prepared(cut(picture, frame), note)
        for picture, frame, (_, note) in zip(pictures, frames, isolated, strict=True)
    ]


def _isolated(image: np.ndarray, background: str) -> tuple[Cutout | None, tuple[str, ...]]:
    """The object alone, or None where the picture stays as it is; and what to tell about it."""
    if background == "keep":
        return None, ()
    if np.ptp(image.reshape(-1, image.shape[2]), axis=0).max() <= _ONE_TONE:
        raise BadInput(
            "The picture has one tone everywhere.", "Use one that shows an object before a ground."
        )
    if image.shape[2] == 4 and (image[..., 3] < 250).mean() > 0.002:
        return by_alpha(image), ()
    cutout = cut_out(image[..., :3], STRONG if background == "remove" else CAREFUL)
    if cutout is not None:
        return cutout, (REMOVED,)
    return None, (NOT_REMOVED if background == "remove" else NOT_PLAIN,)


def _on_black(image: np.ndarray) -> np.ndarray:
    return by_alpha(image).colors if image.shape[2] == 4 else image
