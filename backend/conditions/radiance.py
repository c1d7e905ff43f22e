"""Radiance pictures (.hdr): light as three mantissas and an exponent, in 8 bits each."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np

from ..errors import BadInput

SUFFIXES = (".hdr", ".pic")
_LONGEST_HEADER = 1 << 16


def read(path: Path, check: Callable[[int, int], None]) -> np.ndarray:
    """(H, W, 3) float32 linear, row 0 at the top. check: raises for a width and height that are not
    accepted. Raises BadInput for what is no whole Radiance picture."""
    body = path.read_bytes()
    head = body[:_LONGEST_HEADER]
    size = re.search(rb"\n\n?-Y (\d{1,9}) \+X (\d{1,9})\n", head)
    if not head.startswith((b"#?RADIANCE", b"#?RGBE")) or size is None:
        raise BadInput(
            f"{path.name} is not a Radiance picture that can be read.",
            "Save it as .hdr again, upright, or as OpenEXR.",
        )
    if b"FORMAT=32-bit_rle_xyze" in head[: size.start()]:
        raise BadInput(f"{path.name} has XYZ colours.", "Save it with RGB colours.")
    height, width = int(size[1]), int(size[2])
    check(width, height)
    packed = np.frombuffer(body, np.uint8)[size.end() :]
    # A line that is a run of one value takes at least this much.
    if len(packed) < height * 4:
        raise _damaged(path)
    lines = np.empty((height, 4, width), np.uint8)
    if not _unpack(packed, lines):
        raise _damaged(path)
    exponent = np.where(lines[:, 3] > 0, lines[:, 3].astype(np.int32) - 136, -1000)
    light = np.ldexp(lines[:, :3].transpose(0, 2, 1).astype(np.float32), exponent[..., None])
    return np.ascontiguousarray(light, np.float32)


def _damaged(path: Path) -> BadInput:
    return BadInput(
        f"The picture {path.name} is damaged.",
        "It was cut off or changed. Copy or export it again.",
    )


@numba.njit(cache=True, nogil=True)
def _unpack(packed, lines):
    """Lines of runs, or of plain pixels; False where the bytes do not suffice."""
    height, _, width = lines.shape
    at, size = 0, len(packed)
    for row in range(height):
        if at + 4 > size:
            return False
        in_runs = packed[at] == 2 and packed[at + 1] == 2 and packed[at + 2] < 128
        if not in_runs:
            if at + 4 * width > size:
                return False
            for x in range(width):
                for part in range(4):
                    lines[row, part, x] = packed[at + 4 * x + part]
            at += 4 * width
            continue
        if packed[at + 2] * 256 + packed[at + 3] != width:
            return False
        at += 4
        for part in range(4):
            x = 0
            while x < width:
                if at + 2 > size:
                    return False
                count = int(packed[at])
                if count > 128:
                    count -= 128
                    if x + count > width:
                        return False
                    lines[row, part, x : x + count] = packed[at + 1]
                    at += 2
                else:
                    if count == 0 or x + count > width or at + 1 + count > size:
                        return False
                    lines[row, part, x : x + count] = packed[at + 1 : at + 1 + count]
                    at += 1 + count
                x += count
    return True
