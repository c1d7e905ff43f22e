"""Depth -> what the models see: near bright, on black, stretched to the full range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .framing import Prepared, around, cut, published, to_model

FAR_END = 0.1
"""Brightness of the farthest point of an object, of 1 for the nearest: above the black ground, or
what lies farthest would be lost in it."""


def model_depth(depth: np.ndarray, encoding: str, as_published: bool = False) -> np.ndarray:
    """(H, W) depth of one of `protocol.DEPTH_ENCODINGS` -> (3, 224, 224) float32 in [-1, 1]."""
    if as_published:
        return to_model(published(_grey(brightness(depth, encoding))))
    return to_model(prepare(depth, encoding).picture)


def model_views(
    depths: np.ndarray | Sequence[np.ndarray], encoding: str, as_published: bool = False
) -> np.ndarray:
    """V depth pictures as in `model_depth` -> (V, 3, 224, 224) float32."""
    return np.stack([model_depth(depth, encoding, as_published) for depth in depths])


def prepare(depth: np.ndarray, encoding: str) -> Prepared:
    """The depth picture as the model will see it."""
    bright = brightness(depth, encoding)
    return Prepared(_grey(cut(bright, around(bright > 0))))


def brightness(depth: np.ndarray, encoding: str) -> np.ndarray:
    """(H, W) uint8: the nearest point 255, the farthest FAR_END of it, 0 where there is nothing."""
    values = depth.astype(np.float64)
    filled = np.isfinite(values)
    if encoding == "metres":
        values = -values
    else:
        if encoding == "near-dark":
            values = -values
        filled &= values > values[filled].min()
    low, high = values[filled].min(), values[filled].max()
    share = (values - low) / max(high - low, 1e-9 * max(1.0, abs(high)))
    bright = np.zeros(depth.shape, np.uint8)
    bright[filled] = np.rint(255 * (FAR_END + (1 - FAR_END) * share[filled]))
    return bright


def _grey(tones: np.ndarray) -> np.ndarray:
    return np.repeat(tones[..., None], 3, axis=2)
