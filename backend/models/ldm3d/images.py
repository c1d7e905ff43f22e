"""Pictures with depth <-> the channels of an autoencoder. numpy only, and never through 8 bits.

Four channels: red, green, blue, depth. Six: red, green, blue, and the 16 bits of the depth as a
second picture of 8 bits a channel: red is not used, green the high byte, blue the low byte. An
autoencoder blurs the low byte, so that about 8 bits of those come back. Our own models have the
depth in all three instead ("repeated"): what comes back is their mean.
"""

from __future__ import annotations

import numpy as np

CHANNELS = (4, 6)
MOST = 65535
LAYOUTS = ("bytes", "repeated")
"""Of the depth in the last three of six channels."""


def join(
    picture: np.ndarray, depth: np.ndarray, channels: int, layout: str = LAYOUTS[0]
) -> np.ndarray:
    """(H, W, 3) and (H, W), both 0..1 -> (channels, H, W) float32, -1..1, for an encoder."""
    if channels not in CHANNELS:
        raise ValueError(f"{channels} channels")
    if channels == 4:
        parts = depth[..., None]
    else:
        parts = np.repeat(depth[..., None], 3, -1) if layout == "repeated" else packed(depth)
    together = np.concatenate([picture, parts], axis=-1).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(together, -1, 0) * 2 - 1)


def split(decoded: np.ndarray, layout: str = LAYOUTS[0]) -> tuple[np.ndarray, np.ndarray]:
    """(4 or 6, H, W) floats of a decoder, -1..1 -> picture (H, W, 3), depth (H, W), float32, 0..1.

    Raises ValueError for other channels.
    """
    if decoded.shape[0] not in CHANNELS:
        raise ValueError(f"{decoded.shape[0]} channels")
    levels = np.clip(np.moveaxis(decoded.astype(np.float32), 0, -1) / 2 + 0.5, 0, 1)
    picture = np.ascontiguousarray(levels[..., :3])
    if decoded.shape[0] == 4:
        return picture, np.ascontiguousarray(levels[..., 3])
    if layout == "repeated":
        return picture, np.ascontiguousarray(levels[..., 3:].mean(axis=-1, dtype=np.float32))
    return picture, unpacked(levels[..., 3:])


def packed(depth: np.ndarray) -> np.ndarray:
    """(..., H, W) 0..1 -> (..., H, W, 3) float32: 0, high byte / 255, low byte / 255."""
    whole = np.rint(np.clip(depth, 0, 1).astype(np.float64) * MOST).astype(np.uint16)
    bytes_of = [np.zeros_like(whole), whole >> 8, whole & 255]
    return np.stack(bytes_of, axis=-1).astype(np.float32) / 255


def unpacked(levels: np.ndarray) -> np.ndarray:
    """The inverse of `packed`, of levels that need not be whole: (..., H, W) float32."""
    high, low = np.rint(levels[..., 1] * 255.0), np.rint(levels[..., 2] * 255.0)
    return ((high * 256 + low) / MOST).astype(np.float32)


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """0..1 -> uint8."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
