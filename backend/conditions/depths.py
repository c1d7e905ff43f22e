"""Depth -> what the models see: near bright, on black, stretched to the full range.

The published examples are 8-bit pictures with a black ground, near bright, stretched so that the
nearest point of each is 255. What the farthest point has is not told; here it is FAR_END of that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ..errors import BadInput
from .framing import Prepared, alike, around, cut, published, to_model

FAR_END = 0.1
"""Brightness of the farthest point of an object, of 1 for the nearest: so much above the ground
that its outline shows, and so little that nearly the whole range is left for the shape."""

_STRAY = 0.05
"""Per cent of the pixels at either end of the range that may be faults of a camera."""

_FLATTEST = 0.01
"""Least range of depths, of the distance: a flat object's noise is not stretched to the full."""

_GROUND = 0.012
"""Part of the range of a picture, at its far end, that is ground: three steps of 8 bits, as JPEG
leaves them."""


def model_depth(depth: np.ndarray, encoding: str, as_published: bool = False) -> np.ndarray:
    """(H, W) depth of one of `protocol.DEPTH_ENCODINGS` -> (3, 224, 224) float32 in [-1, 1].

    as_published: neither framed nor padded. A near-bright picture of 8 bits is then taken as it is.
    """
    if not as_published:
        return to_model(prepare(depth, encoding).picture)
    ready = encoding == "near-bright" and depth.dtype == np.uint8
    return to_model(published(_grey(depth if ready else brightness(depth, encoding))))


def model_views(
    depths: np.ndarray | Sequence[np.ndarray], encoding: str, as_published: bool = False
) -> np.ndarray:
    """V depth pictures as in `model_depth` -> (V, 3, 224, 224) float32."""
    if as_published:
        return np.stack([model_depth(depth, encoding, as_published) for depth in depths])
    return np.stack([to_model(view.picture) for view in prepare_views(depths, encoding)])


def prepare(depth: np.ndarray, encoding: str) -> Prepared:
    """The depth picture as the model will see it: the object framed with a margin."""
    bright = brightness(depth, encoding)
    return Prepared(_grey(cut(bright, around(bright > 0))))


def prepare_views(depths: np.ndarray | Sequence[np.ndarray], encoding: str) -> list[Prepared]:
    """Each view as the model will see it, each stretched for itself, all framed alike."""
    brights = [brightness(depth, encoding) for depth in depths]
    masks = [bright > 0 for bright in brights]
    frames = alike(masks, [(bright.shape[0], bright.shape[1]) for bright in brights])
    return [
        Prepared(_grey(cut(bright, frame))) for bright, frame in zip(brights, frames, strict=True)
    ]


def brightness(depth: np.ndarray, encoding: str) -> np.ndarray:
    """(H, W) uint8: the nearest point 255, the farthest FAR_END of it, 0 where there is nothing.

    In metres what is not finite is empty; in pictures what has the value of the far end. Raises
    BadInput where all is empty.
    """
    near = depth.astype(np.float32) if encoding == "near-bright" else -depth.astype(np.float32)
    filled = np.isfinite(near)
    if encoding != "metres" and filled.any():
        low, high = float(near[filled].min()), float(near[filled].max())
        filled &= near > low + _GROUND * (high - low)
    filled = _without_specks(filled)
    if not filled.any():
        raise BadInput("The depth shows nothing.", "Turn the camera so that it sees the shape.")
    low, high = _range(near[filled])
    if encoding == "metres":
        low = min(low, high - _FLATTEST * abs(high))
    share = np.clip((near[filled] - low) / max(high - low, 1e-12), 0, 1)
    bright = np.zeros(depth.shape, np.uint8)
    bright[filled] = np.rint(255 * (FAR_END + (1 - FAR_END) * share))
    return bright


def _range(values: np.ndarray) -> tuple[float, float]:
    """Least and largest value; where single ones lie far off, of the others."""
    ends = float(values.min()), float(values.max())
    usual = np.percentile(values, [_STRAY, 100 - _STRAY])
    width = usual[1] - usual[0]
    low = ends[0] if usual[0] - ends[0] < 0.2 * width else float(usual[0])
    high = ends[1] if ends[1] - usual[1] < 0.2 * width else float(usual[1])
    return (low, high) if high > low else ends


def _without_specks(filled: np.ndarray) -> np.ndarray:
    """Without the few pixels that noise lifts off the ground, unless there is nothing else."""
    labels, count = ndimage.label(filled, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = sizes >= max(2, sizes.max() / 500)
    return kept[labels] if kept.any() else filled


def _grey(tones: np.ndarray) -> np.ndarray:
    return np.repeat(tones[..., None], 3, axis=2)
