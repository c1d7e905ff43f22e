"""Pictures -> the bytes of files that Blender packs as they are, and a look at files. No bpy.

Blender would encode them too, but on its main thread.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

LEVEL = 1  # of zlib: a tenth larger than the default, in a fifth of the time
EXR_ROWS = 16  # in a block of ZIP compression, as the format has it
EXR_ZIP, EXR_FLOAT = 3, 2
EXR_MAGIC = b"\x76\x2f\x31\x01"
EXR_ROWS_OF = (1, 1, 1, 16, 32, 16, 32, 32, 32, 256)  # in a block, by compression
EXR_CHANNEL = 16  # bytes that tell of a channel, behind its name
EXR_OTHERS = 0x200 | 0x800 | 0x1000  # tiles, deep data, several parts: laid out differently
PNG_COLOR_TYPES = {3: 2, 4: 6}


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture as a file. suffix: ".png" or ".exr"; width, height: pixels; has_alpha: its alpha
    means something; is_data: numbers, not colours; path: where it was written, None: nowhere."""

    suffix: str
    data: bytes
    width: int
    height: int
    has_alpha: bool = False
    is_data: bool = False
    path: Path | None = None


def texture_of(image: np.ndarray) -> Texture:
    """image: (H, W, 3 or 4), row 0 at the top, uint8 sRGB -> PNG, or float32 linear -> OpenEXR; or
    (H, W) float32 numbers -> OpenEXR with one channel."""
    height, width = image.shape[:2]
    if image.ndim == 2:
        return Texture(".exr", exr(image[..., None], "Y"), width, height, is_data=True)
    has_alpha = image.shape[2] == 4
    if image.dtype == np.uint8:
        return Texture(".png", png(image), width, height, has_alpha)
    return Texture(".exr", exr(image, "RGBA"[: image.shape[2]]), width, height, has_alpha)


def png(image: np.ndarray) -> bytes:
    """(H, W, 3 or 4) uint8 sRGB, straight alpha, as a PNG file."""
    height, width, channels = image.shape
    flat = image.reshape(height, width * channels)
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = 1  # each byte as its difference from the pixel to the left
    rows[:, 1 : 1 + channels] = flat[:, :channels]
    np.subtract(flat[:, channels:], flat[:, :-channels], out=rows[:, 1 + channels :])
    header = struct.pack(">IIBBBBB", width, height, 8, PNG_COLOR_TYPES[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, LEVEL)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(name, data) for name, data in parts)


def _png_chunk(name: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(name))
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)


def exr(image: np.ndarray, names: Sequence[str]) -> bytes:
    """(H, W, C) float32, C channels of these names, as an OpenEXR file of 32-bit floats: no value
    is changed, infinite ones included."""
    height, width, _ = image.shape
    order = sorted(range(len(names)), key=lambda k: names[k])  # as the format wants them
    header = _exr_header(width, height, [names[k] for k in order])
    blocks = []
    for top in range(0, height, EXR_ROWS):
        rows = image[top : top + EXR_ROWS][:, :, order].transpose(0, 2, 1)
        data = _exr_compressed(np.ascontiguousarray(rows, "<f4").view(np.uint8).ravel())
        blocks.append(struct.pack("<ii", top, len(data)) + data)
    begin = len(header) + 8 * len(blocks)
    sizes = np.array([len(block) for block in blocks], np.uint64)
    offsets = begin + np.cumsum(sizes, dtype=np.uint64) - sizes
    return b"".join([header, offsets.astype("<u8").tobytes(), *blocks])


def _exr_header(width: int, height: int, names: list[str]) -> bytes:
    channel = struct.pack("<iB3xii", EXR_FLOAT, 0, 1, 1)
    channels = b"".join(name.encode() + b"\0" + channel for name in names) + b"\0"
    window = struct.pack("<iiii", 0, 0, width - 1, height - 1)
    attributes = (
        ("channels", "chlist", channels),
        ("compression", "compression", bytes([EXR_ZIP])),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1)),
        ("screenWindowCenter", "v2f", struct.pack("<ff", 0, 0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
    )
    packed = (
        f"{name}\0{kind}\0".encode() + struct.pack("<i", len(value)) + value
        for name, kind, value in attributes
    )
    return struct.pack("<ii", 20000630, 2) + b"".join(packed) + b"\0"


def _exr_compressed(data: np.ndarray) -> bytes:
    """(N,) uint8 as ZIP blocks have them: even bytes before odd ones, differences, zlib; or as they
    are where that is no shorter."""
    half = (len(data) + 1) // 2
    apart = np.empty_like(data)
    apart[:half], apart[half:] = data[0::2], data[1::2]
    differences = apart.copy()
    differences[1:] = apart[1:] - apart[:-1] + np.uint8(128)
    packed = zlib.compress(differences, LEVEL)
    return packed if len(packed) < len(data) else data.tobytes()


def is_cut_off(path: Path) -> bool:
    """Whether an OpenEXR file is not whole. Blender takes what is missing for zero, or crashes.

    False for other files, for such as cannot be read, and for tiles and several parts.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if start[:4] != EXR_MAGIC or len(start) < 8:
                return start[:4] == EXR_MAGIC
            if struct.unpack("<I", start[4:])[0] & EXR_OTHERS:
                return False
            return _blocks_are_cut_off(file, size)
    except (OSError, struct.error, IndexError, KeyError):
        return False


def _blocks_are_cut_off(file: BinaryIO, size: int) -> bool:
    """The same, of a file that is read up to its attributes."""
    attributes = _exr_attributes(file)
    if file.tell() >= size:
        return True
    _, top, _, bottom = struct.unpack("<iiii", attributes[b"dataWindow"])
    count = -(-(bottom - top + 1) // EXR_ROWS_OF[attributes[b"compression"][0]])
    offsets = np.frombuffer(file.read(8 * count), "<u8")
    if len(offsets) < count or int(offsets.max()) + 8 > size:
        return True
    file.seek(int(offsets.max()) + 4)
    return int(offsets.max()) + 8 + struct.unpack("<i", file.read(4))[0] > size


def exr_channels(path: Path) -> list[str]:
    """The names of the channels of an OpenEXR file; none of a file that is no such, has several
    parts, or cannot be read."""
    names = []
    try:
        with path.open("rb") as file:
            magic, flags = struct.unpack("<4sI", file.read(8))
            if magic != EXR_MAGIC or flags & EXR_OTHERS:
                return []
            channels = _exr_attributes(file)[b"channels"]
        while channels.strip(b"\0"):
            name, _, channels = channels.partition(b"\0")
            names.append(name.decode("utf-8", "replace"))
            channels = channels[EXR_CHANNEL:]
    except (OSError, struct.error, KeyError):
        return []
    return names


def _exr_attributes(file: BinaryIO) -> dict[bytes, bytes]:
    """Of a file that is read up to them."""
    attributes = {}
    while name := _exr_word(file):
        _exr_word(file)
        length = file.read(4)
        attributes[name] = file.read(struct.unpack("<i", length)[0] if len(length) == 4 else 0)
    return attributes


def _exr_word(file: BinaryIO) -> bytes:
    letters = iter(lambda: file.read(1), b"")
    return b"".join(itertools.takewhile(lambda letter: letter != b"\0", letters))
