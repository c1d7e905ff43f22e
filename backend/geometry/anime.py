"""Animations in .anime files, as DeformingThings4D has them: one topology, vertices that move.

    int32 frames, vertices, triangles
    float32 (vertices, 3)               where the vertices are in the first frame
    int32 (triangles, 3)                between them, from 0
    float32 (frames - 1, vertices, 3)   how far they are from there in each further frame

Little-endian, nothing before, between or after. No count is believed before the file is long
enough for it, and what is not wanted of a long animation is not read.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import BadInput, NotFound, StorageFailed, TooLarge

SUFFIX = ".anime"
MAX_VERTICES = 50_000_000
"""Of all frames together that are read."""

_HEADER = struct.Struct("<3i")
_REMEDY = "Export it again, or take the file from where it came from once more."


@dataclass(frozen=True, eq=False)
class Animation:
    """vertices: (F, V, 3) float32; faces: (T, 3) int32. Axes and lengths are the file's."""

    vertices: np.ndarray
    faces: np.ndarray


def frame_count(path: Path) -> int:
    """Frames of the file. Raises as `read` does."""
    with _opened(path) as file:
        return _counts(path, file)[0]


def read(path: Path, frames: Sequence[int] | np.ndarray | None = None) -> Animation:
    """The frames of these numbers, from 0, in this order; by default all of them.

    Raises BadInput for a file that is cut off or too long, of no frames, vertices or triangles,
    with triangles between vertices that do not exist, or coordinates that are no numbers, for
    frames that it does not have, and where it cannot be read; TooLarge and NotFound.
    """
    with _opened(path) as file:
        total, count, triangles = _counts(path, file)
        wanted = np.arange(total) if frames is None else np.asarray(frames, np.int64).reshape(-1)
        _check_wanted(path, wanted, total, count)
        first = _numbers(path, file, "<f4", 3 * count).reshape(count, 3)
        faces = _numbers(path, file, "<i4", 3 * triangles).reshape(triangles, 3)
        if faces.min() < 0 or faces.max() >= count:
            raise BadInput(
                f"{path.name} has triangles between vertices that do not exist; it has {count:,}.",
                _REMEDY,
            )
        begin = file.tell()
        vertices = np.empty((len(wanted), count, 3), np.float32)
        for place, number in enumerate(wanted):
            vertices[place] = first
            if number:
                file.seek(begin + (int(number) - 1) * 12 * count)
                vertices[place] += _numbers(path, file, "<f4", 3 * count).reshape(count, 3)
    _check_finite(path, vertices, wanted)
    return Animation(vertices, faces)


def write(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Vertices (F, V, 3) of F frames and the triangles (T, 3) between them. Raises
    StorageFailed."""
    vertices = np.asarray(vertices, np.float32)
    head = _HEADER.pack(len(vertices), vertices.shape[1], len(faces))
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            file.write(head)
            file.write(vertices[0].astype("<f4").tobytes())
            file.write(np.asarray(faces).astype("<i4").tobytes())
            for frame in vertices[1:]:
                file.write((frame - vertices[0]).astype("<f4").tobytes())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageFailed(
            f"{path} cannot be written: {error.strerror or error}.",
            "Choose a folder of your own, on a disk with room.",
        ) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.", "Check the name and the folder.") from None
    except OSError as error:
        raise BadInput(
            f"{path.name} cannot be read ({error.strerror or error}).",
            "Check that it is a file, not open elsewhere, and that you may read it.",
        ) from error


def _counts(path: Path, file: IO[bytes]) -> tuple[int, int, int]:
    """Frames, vertices and triangles, for which the file is exactly long enough."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise BadInput(f"{path.name} is no .anime file: it has {size} bytes.", _REMEDY)
    total, count, triangles = _HEADER.unpack(head)
    if min(total, count, triangles) < 0:
        raise BadInput(f"{path.name} is no .anime file: its counts are negative.", _REMEDY)
    for number, what in ((total, "frames"), (count, "vertices"), (triangles, "triangles")):
        if not number:
            raise BadInput(f"{path.name} has no {what}.", _REMEDY)
    expected = _HEADER.size + 12 * (count * total + triangles)
    if size != expected:
        reason = "cut off" if size < expected else "no .anime file, or damaged"
        raise BadInput(
            f"{path.name} is {reason}: {total:,} frames of {count:,} vertices and {triangles:,} "
            f"triangles take {expected:,} bytes, it has {size:,}.",
            _REMEDY,
        )
    return total, count, triangles


def _check_wanted(path: Path, wanted: np.ndarray, total: int, count: int) -> None:
    if not len(wanted):
        raise BadInput("No frame was chosen.", f"{path.name} has frames 0 to {total - 1}.")
    outside = wanted[(wanted < 0) | (wanted >= total)]
    if len(outside):
        raise BadInput(
            f"{path.name} has no frame {outside[0]}.", f"It has frames 0 to {total - 1}."
        )
    if len(wanted) * count > MAX_VERTICES:
        raise TooLarge(
            f"{len(wanted):,} frames of {count:,} vertices are more than the {MAX_VERTICES:,} "
            "vertices that are accepted.",
            "Take fewer frames, or decimate the mesh before you export it.",
        )


def _numbers(path: Path, file: IO[bytes], kind: str, count: int) -> np.ndarray:
    content = file.read(4 * count)
    if len(content) < 4 * count:  # cut while it was read
        raise BadInput(f"{path.name} is cut off.", _REMEDY)
    return np.frombuffer(content, kind).astype(kind[1:])


def _check_finite(path: Path, vertices: np.ndarray, wanted: np.ndarray) -> None:
    for number, frame in zip(wanted, vertices, strict=True):
        if not np.isfinite(frame).all():
            raise BadInput(
                f"Frame {number} of {path.name} has coordinates that are not numbers.", _REMEDY
            )
