"""Depth as an OpenEXR file: one part, scan lines, one channel of 32-bit floats, ZIP compression."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from .exr import MAGIC

CHANNEL = b"Y"
"""Blender and others show it as grey, with its values as they are."""

_LINES = 16  # of a chunk, as the compression wants it
_ZIP, _FLOAT = 3, 2


def exr_bytes(depth: np.ndarray) -> bytes:
    """(H, W) float32, row 0 on top, inf and NaN included, as the content of a file."""
    height, width = depth.shape
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    header = b"".join(
        [
            MAGIC,
            struct.pack("<i", 2),
            _attribute(b"channels", b"chlist", _channels()),
            _attribute(b"compression", b"compression", bytes([_ZIP])),
            _attribute(b"dataWindow", b"box2i", window),
            _attribute(b"displayWindow", b"box2i", window),
            _attribute(b"lineOrder", b"lineOrder", b"\0"),
            _attribute(b"pixelAspectRatio", b"float", struct.pack("<f", 1)),
            _attribute(b"screenWindowCenter", b"v2f", struct.pack("<2f", 0, 0)),
            _attribute(b"screenWindowWidth", b"float", struct.pack("<f", 1)),
            b"\0",
        ]
    )
    lines = np.ascontiguousarray(depth, "<f4").view(np.uint8)
    chunks = []
    for first in range(0, height, _LINES):
        raw = lines[first : first + _LINES].ravel()
        packed = _packed(raw)
        if len(packed) >= len(raw):
            packed = raw.tobytes()
        chunks.append(struct.pack("<ii", first, len(packed)) + packed)
    sizes = np.cumsum([len(header) + 8 * len(chunks), *(len(chunk) for chunk in chunks)])
    return b"".join([header, sizes[:-1].astype("<u8").tobytes(), *chunks])


def _attribute(name: bytes, kind: bytes, value: bytes) -> bytes:
    return name + b"\0" + kind + b"\0" + struct.pack("<i", len(value)) + value


def _channels() -> bytes:
    return CHANNEL + b"\0" + struct.pack("<iiii", _FLOAT, 0, 1, 1) + b"\0"


def _packed(raw: np.ndarray) -> bytes:
    """Bytes of even and odd places apart, then differences of neighbours, then deflated."""
    apart = np.concatenate([raw[0::2], raw[1::2]])
    steps = apart.copy()
    steps[1:] -= apart[:-1]
    steps[1:] += np.uint8(128)
    return zlib.compress(steps.tobytes(), 6)
