"""Pictures and views -> what the models see: the object alone, on black, framed with a margin.

Black is the ground of the published example pictures, also under their alpha, which the published
command drops.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .framing import Prepared, around, cut, published, to_model, whole
from .picture_files import read_depth, read_image

__all__ = ["model_image", "model_views", "prepare", "prepare_views", "read_depth", "read_image"]


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
    if image.shape[2] == 4 and background != "keep":
        alpha = image[..., 3]
        colors = np.rint(image[..., :3] * (alpha[..., None] / np.float32(255))).astype(np.uint8)
        return Prepared(cut(colors, around(alpha > 12)))
    return Prepared(cut(image[..., :3], whole(*image.shape[:2])))


def prepare_views(
    images: np.ndarray | Sequence[np.ndarray], background: str = "auto"
) -> list[Prepared]:
    """Each view as the model will see it."""
    return [prepare(image, background) for image in images]
