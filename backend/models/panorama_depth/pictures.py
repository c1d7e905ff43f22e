"""What a panorama must be so that its depth can be estimated, and how models are shown it."""

from __future__ import annotations

import numpy as np

from ...errors import BadInput, TooLarge
from ...protocol import MAX_PANORAMA_PIXELS, MAX_PANORAMA_WIDTH

MIN_WIDTH = 128
ASPECT_TOLERANCE = 0.01
"""By which the width may differ from twice the height, as a share."""

_LEAST_CONTRAST = 3
"""Levels of 256 between the darkest and the brightest, below which a picture is of one colour."""

_WHITE = 99.5
"""The percentile that becomes white in pictures with a high dynamic range."""


def check_panorama(image: np.ndarray) -> None:
    """Raise BadInput or TooLarge unless `image` is an equirectangular picture of a whole sphere:
    (H, W, 3 or 4) uint8 sRGB or float32 linear, W = 2 H."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise BadInput("The panorama is not a colour picture.", "Save it as PNG, JPEG or OpenEXR.")
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise BadInput(
            f"The panorama has values of the type {image.dtype}.",
            "Save it with 8 bits per colour, or as floating-point numbers.",
        )
    height, width = image.shape[:2]
    size = f"{width:,} x {height:,} pixels"
    if width > MAX_PANORAMA_WIDTH or width * height > MAX_PANORAMA_PIXELS:
        raise TooLarge(
            f"The panorama has {size}, more than is accepted.",
            "Scale it down: 4096 x 2048 pixels show all that is looked at.",
        )
    if width < MIN_WIDTH:
        raise BadInput(
            f"The panorama has only {size}, in which no depth can be seen.",
            f"Use one that is at least {MIN_WIDTH} pixels wide; 2048 or more are good.",
        )
    if abs(width - 2 * height) > max(2, ASPECT_TOLERANCE * width):
        raise BadInput(
            f"The panorama has {size}, so it does not show the whole sphere.",
            "Use an equirectangular picture that is twice as wide as high, or pad this one.",
        )


def shown(image: np.ndarray) -> np.ndarray:
    """A checked panorama as models are shown it: (H, W, 3) uint8 sRGB. Transparency is ignored.

    Linear values beyond 1 are exposed so that all but the brightest lights stay below white.
    Raises BadInput for a picture of one colour.
    """
    colours = image[..., :3]
    if colours.dtype != np.uint8:
        colours = _developed(colours)
    low, high = colours.min(axis=(0, 1)), colours.max(axis=(0, 1))
    if (high.astype(int) - low < _LEAST_CONTRAST).all():
        raise BadInput(
            "The panorama has the same colour everywhere, so it shows no depth.",
            "Check that the picture was saved whole, or give a depth map for it.",
        )
    return np.ascontiguousarray(colours)


def _developed(linear: np.ndarray) -> np.ndarray:
    values = np.nan_to_num(linear.astype(np.float32), nan=0, posinf=65504, neginf=0).clip(min=0)
    values /= max(1.0, float(np.percentile(values, _WHITE)))
    srgb = np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb.clip(0, 1)).astype(np.uint8)
