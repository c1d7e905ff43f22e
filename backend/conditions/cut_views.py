"""Views of one thing, freed of their grounds, without a pixel being moved: cameras stay right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import BadInput
from .backgrounds import CAREFUL, STRONG, opacity_of

BLENDERS_NOTHING = np.float32(1e10)
"""What its depth pass has where nothing is."""
_SOLID = 250
_TELLING = 0.002
"""Share of the pixels that must be transparent for alpha to tell of a ground."""
_LEAST = 30
"""Pixels that a view must show of the thing to be of use."""


@dataclass(frozen=True, eq=False)
class CutViews:
    """images: (V, H, W, 4) uint8 sRGB with opacity. shows: (V,) bool, the view shows something.
    plain: (V,) bool, its ground was removed or is none. how: what told the outlines, "alpha",
    "depth", "plain ground" or "none"."""

    images: np.ndarray
    shows: np.ndarray
    plain: np.ndarray
    how: str


def known(depths: np.ndarray) -> np.ndarray:
    """Where depths (..., H, W) float are told, bool of the same shape: elsewhere they are 0, not
    finite, or Blender's number for nothing."""
    return np.isfinite(depths) & (depths > 0) & (depths != BLENDERS_NOTHING)


def cut(images: np.ndarray, depths: np.ndarray | None, background: str) -> CutViews:
    """The views with opacity: of their alpha, of where there is depth, or of their plain grounds.

    images (V, H, W, 3 or 4) uint8; depths (V, H, W) float or None; background: "auto", "remove" or
    "keep". Where one view has alpha, that of all counts. Raises BadInput where no outline can be
    told and there is no depth either.
    """
    opacity = np.full(images.shape[:3], 255, np.uint8)
    plain = np.ones(len(images), bool)
    how = "none"
    with_depth = None if depths is None else known(depths)
    has_alpha = images.shape[3] == 4 and (images[..., 3] < _SOLID).mean() > _TELLING
    if has_alpha and background != "keep":
        opacity, how = images[..., 3].copy(), "alpha"
    elif with_depth is not None and not with_depth.all():
        opacity, how = np.where(with_depth, 255, 0).astype(np.uint8), "depth"
    elif background != "keep":
        attempts = STRONG if background == "remove" else CAREFUL
        for number, image in enumerate(images):
            found = opacity_of(np.ascontiguousarray(image[..., :3]), attempts)
            plain[number] = found is not None
            if found is not None:
                opacity[number] = found
        how = "plain ground" if plain.any() else "none"
    if how == "none" and depths is None:
        raise BadInput(
            "The things in the pictures cannot be told from what is behind them.",
            "Give pictures with a transparent or a plain background (Render > Film > Transparent),"
            " or with depth.",
        )
    shows = (opacity >= 128).sum(axis=(1, 2)) >= _LEAST
    whole = np.concatenate([images[..., :3], opacity[..., None]], axis=3)
    return CutViews(np.ascontiguousarray(whole), shows, plain, how)
