"""Depth and colours from OpenEXR files: what Blender and other renderers save.

Scan lines, uncompressed or compressed with RLE, ZIPS, ZIP (Blender's default) or PXR24; a single
part or several. Sizes are checked before memory is taken.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput, TooLarge
from ..protocol import check_image_size

MAGIC = b"\x76\x2f\x31\x01"
_TILED, _DEEP, _PARTS = 0x200, 0x800, 0x1000
_DTYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_LINES = {0: 1, 1: 1, 2: 1, 3: 16, 5: 16}
_NAMES = {4: "PIZ", 6: "B44", 7: "B44A", 8: "DWAA", 9: "DWAB"}
_MOST_CHUNK_BYTES = 1 << 28
_NO_DEPTHS = ("position", "normal", "vector", "cryptomatte")


@dataclass(frozen=True)
class Channel:
    name: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Part:
    """One picture of a file. channels: in the order in which each line has them."""

    channels: tuple[Channel, ...]
    compression: int
    first_line: int
    width: int
    height: int

    @property
    def line_bytes(self) -> int:
        return self.width * sum(channel.dtype.itemsize for channel in self.channels)


Check = Callable[[int, int], None]
"""Raises BadInput or TooLarge for a width and height that are not accepted."""


def read_depth(path: Path, check: Check = check_image_size) -> np.ndarray:
    """(H, W) float32 of the channel that looks most like depth. Raises BadInput or TooLarge."""
    return _read(path, check, _depth)


def read_colors(path: Path, check: Check = check_image_size) -> np.ndarray:
    """(H, W, 3), with alpha (H, W, 4), float32: the colours as they are. Raises BadInput, TooLarge.

    A picture of one channel is grey.
    """
    return _read(path, check, _colors)


def _read(path: Path, check: Check, wanted: Callable[[_File], np.ndarray]) -> np.ndarray:
    body = path.read_bytes()
    try:
        return wanted(_opened(body, path.name, check))
    except (struct.error, IndexError, KeyError, ValueError, OverflowError, zlib.error):
        raise BadInput(
            f"The picture {path.name} is damaged.",
            "It was cut off or changed. Copy or export it again.",
        ) from None


@dataclass(frozen=True, eq=False)
class _File:
    """tables: where the tables of offsets begin; several: each chunk tells its part."""

    body: bytes
    name: str
    parts: list[Part]
    tables: int
    several: bool


def _opened(body: bytes, name: str, check: Check) -> _File:
    if body[:4] != MAGIC:
        raise BadInput(f"{name} is not an OpenEXR picture.", "Save the depth as OpenEXR again.")
    (flags,) = struct.unpack_from("<i", body, 4)
    if flags & (_TILED | _DEEP):
        raise _unreadable(name, "in tiles or with several depths per pixel")
    parts, at = _headers(body, bool(flags & _PARTS), check)
    return _File(body, name, parts, at, bool(flags & _PARTS))


def _depth(file: _File) -> np.ndarray:
    ranked = [
        (rank, number, channel)
        for number, part in enumerate(file.parts)
        for channel in part.channels
        if (rank := _likeness(channel.name)) is not None
    ]
    if not ranked:
        raise BadInput(
            f"{file.name} has no depth.",
            "Switch on the pass Depth (Z) in the renderer and render again.",
        )
    _, number, channel = min(ranked, key=lambda entry: entry[:2])
    return _channel(file, number, channel)


def _colors(file: _File) -> np.ndarray:
    for number, part in enumerate(file.parts):
        for group in dict.fromkeys(channel.name.rpartition(".")[0] for channel in part.channels):
            own = {
                channel.name.rpartition(".")[2].upper(): channel
                for channel in part.channels
                if channel.name.rpartition(".")[0] == group
            }
            if {"R", "G", "B"} <= set(own):
                planes = [_channel(file, number, own[name]) for name in "RGBA" if name in own]
                return np.stack(planes, axis=2)
            if set(own) <= {"Y", "A"} and "Y" in own:
                return np.repeat(_channel(file, number, own["Y"])[..., None], 3, axis=2)
    raise BadInput(f"{file.name} has no colours.", "Give the picture, then its depth.")


def _channel(file: _File, number: int, channel: Channel) -> np.ndarray:
    """(H, W) float32 of one channel of part `number`."""
    body, name, parts = file.body, file.name, file.parts
    part = parts[number]
    if part.compression not in _LINES:
        kind = _NAMES.get(part.compression, f"kind {part.compression}")
        raise _unreadable(name, f"with the compression {kind}")
    chunks = [-(-each.height // _LINES.get(each.compression, 1)) for each in parts]
    begins = file.tables + 8 * sum(chunks[:number])
    offsets = struct.unpack_from(f"<{chunks[number]}Q", body, begins)
    if _LINES[part.compression] * part.line_bytes > _MOST_CHUNK_BYTES:
        raise TooLarge(
            f"{name} has {len(part.channels):,} channels, more than are accepted.",
            "Save the depth pass alone.",
        )
    depth = np.full((part.height, part.width), np.float32(np.inf))
    for offset in offsets:
        _read_chunk(body, offset + (4 if file.several else 0), part, channel, depth)
    return depth


def _unreadable(name: str, how: str) -> BadInput:
    return BadInput(
        f"{name} is saved {how}, which cannot be read here.",
        "Save it as OpenEXR with the codec ZIP, without tiles.",
    )


# ------------------------------------------------------------------------------------------- header


def _headers(body: bytes, several: bool, check: Check) -> tuple[list[Part], int]:
    """The parts, and where their tables of offsets begin."""
    parts: list[Part] = []
    at = 8
    while not parts or (several and body[at]):
        part, at = _header(body, at, check)
        parts.append(part)
    return parts, at + (1 if several else 0)


def _header(body: bytes, at: int, check: Check) -> tuple[Part, int]:
    found: dict[str, bytes] = {}
    while body[at]:
        name, at = _text(body, at)
        _, at = _text(body, at)
        (size,) = struct.unpack_from("<i", body, at)
        if size < 0:
            raise ValueError("negative size")
        found[name] = body[at + 4 : at + 4 + size]
        at += 4 + size
    left, top, right, bottom = struct.unpack("<4i", found["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    check(width, height)
    return Part(_channels(found["channels"]), found["compression"][0], top, width, height), at + 1


def _channels(body: bytes) -> tuple[Channel, ...]:
    channels, at = [], 0
    while body[at]:
        name, at = _text(body, at)
        kind, _, across, down = struct.unpack_from("<iiii", body, at)
        if (across, down) != (1, 1):
            raise ValueError("subsampled")
        channels.append(Channel(name, _DTYPES[kind]))
        at += 16
    return tuple(channels)


def _text(body: bytes, at: int) -> tuple[str, int]:
    end = body.index(b"\0", at)
    return body[at:end].decode(), end + 1


def _likeness(name: str) -> int | None:
    """How much a channel's name speaks of depth; 0 most, None not at all."""
    lower = name.lower()
    if any(word in lower for word in _NO_DEPTHS):
        return None
    last = lower.rpartition(".")[2]
    if "depth" in lower or "mist" in lower:
        return 0 if "depth" in lower else 4
    order = {"z": 1, "v": 2, "y": 3, "r": 5, "x": 6}
    return order.get(last)


# ------------------------------------------------------------------------------------------- pixels


def _read_chunk(body: bytes, at: int, part: Part, channel: Channel, depth: np.ndarray) -> None:
    """Put the lines of one chunk into place."""
    line, size = struct.unpack_from("<ii", body, at)
    first = line - part.first_line
    count = min(_LINES[part.compression], part.height - first)
    packed = body[at + 8 : at + 8 + size]
    if not 0 <= first < part.height or len(packed) != size:
        raise ValueError("chunk out of place")
    whole = count * part.line_bytes
    if part.compression == 5 and size != whole:
        depth[first : first + count] = _unpack_pxr24(packed, part, channel, count)
        return
    raw = packed if size == whole else _unpack(packed, part.compression, whole)
    lines = np.frombuffer(raw, np.uint8).reshape(count, part.line_bytes)
    begin = 0
    for other in part.channels:
        end = begin + part.width * other.dtype.itemsize
        if other is channel:
            values = np.ascontiguousarray(lines[:, begin:end]).view(channel.dtype)
            depth[first : first + count] = values
        begin = end


def _unpack(packed: bytes, compression: int, size: int) -> bytes:
    data = _run_lengths(packed, size) if compression == 1 else _inflate(packed, size)
    # Differences of neighbours, then the bytes of even and odd places apart.
    steps = np.frombuffer(data, np.uint8).astype(np.uint8)
    steps[1:] -= np.uint8(128)
    values = np.cumsum(steps, dtype=np.uint8)
    joined = np.empty(size, np.uint8)
    half = (size + 1) // 2
    joined[0::2], joined[1::2] = values[:half], values[half:]
    return joined.tobytes()


def _inflate(packed: bytes, size: int) -> bytes:
    """Exactly `size` bytes, and never more in memory."""
    data = zlib.decompressobj().decompress(packed, size)
    if len(data) != size:
        raise ValueError("too short")
    return data


def _run_lengths(packed: bytes, size: int) -> bytes:
    out, at = bytearray(), 0
    while at < len(packed) and len(out) < size:
        count = packed[at] - 256 if packed[at] > 127 else packed[at]
        if count < 0:
            out += packed[at + 1 : at + 1 - count]
            at += 1 - count
        else:
            out += packed[at + 1 : at + 2] * (count + 1)
            at += 2
    if len(out) != size:
        raise ValueError("wrong length")
    return bytes(out)


def _unpack_pxr24(packed: bytes, part: Part, channel: Channel, count: int) -> np.ndarray:
    """Floats of 24 bits: per line and channel, differences in planes of bytes, highest first."""
    planes = {np.dtype("<u4"): 4, np.dtype("<f2"): 2, np.dtype("<f4"): 3}
    widths = [planes[other.dtype] * part.width for other in part.channels]
    data = np.frombuffer(_inflate(packed, count * sum(widths)), np.uint8).reshape(count, -1)
    index = next(k for k, other in enumerate(part.channels) if other is channel)
    begin = sum(widths[:index])
    own = data[:, begin : begin + widths[index]].reshape(count, planes[channel.dtype], part.width)
    top = 8 if channel.dtype.itemsize == 2 else 24
    steps = np.zeros((count, part.width), np.uint32)
    for plane in range(own.shape[1]):
        steps |= own[:, plane].astype(np.uint32) << np.uint32(top - 8 * plane)
    bits = np.cumsum(steps, axis=1, dtype=np.uint32)
    if channel.dtype.itemsize == 2:
        return bits.astype(np.uint16).view(np.float16).astype(np.float32)
    return bits.view(channel.dtype).astype(np.float32)
