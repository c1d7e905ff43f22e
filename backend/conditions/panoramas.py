"""Equirectangular pictures and their depth, from files to what a sphere is built of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import picture_files


def read_picture(path: str | Path) -> np.ndarray:
    """(H, W, 3 or 4) uint8 sRGB or float32 linear. Raises NotFound, BadInput or TooLarge."""
    return picture_files.read_image(path)


def read_depth(path: str | Path) -> np.ndarray:
    """(h, w) uint8, uint16 or float32, as the file has it. Raises NotFound, BadInput, TooLarge."""
    depth, _ = picture_files.read_depth(path)
    return depth
