"""Meshes that change from frame to frame: how they are held, and what can be wrong with them.

Imported by both sides, as protocol.py is. Standard library and numpy, nothing else.

The meshes of F frames are held in one of two ways. One mesh per frame: all vertices (N, 3) and all
faces (T, 3) one after the other, `vertex_counts` and `face_counts` (F,) of each frame; the faces of
a frame count its own vertices from 0. One topology: vertices (F, V, 3), faces (T, 3) for all, and
no counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import BadInput, TooLarge

MAX_FRAMES = 64
"""Of a field."""
MAX_FRAME_VERTICES = 50_000_000
"""Of all frames together."""
MAX_FRAME_FACES = 50_000_000

Mesh = tuple[np.ndarray, np.ndarray]
"""Vertices (V, 3) float32 and faces (T, 3) int32."""

_AGAIN = "Select the object again and try once more."


def joined(frames: Sequence[Mesh]) -> dict[str, Any]:
    """Meshes of frames -> the arrays vertices, faces, vertex_counts, face_counts."""
    if not frames:
        raise BadInput("There are no frames.", "Choose a frame range with at least one frame.")
    return {
        "vertices": np.concatenate([np.asarray(mesh[0], np.float32) for mesh in frames]),
        "faces": np.concatenate([np.asarray(mesh[1], np.int32) for mesh in frames]),
        "vertex_counts": np.array([len(mesh[0]) for mesh in frames], np.int32),
        "face_counts": np.array([len(mesh[1]) for mesh in frames], np.int32),
    }


def split(
    vertices: np.ndarray,
    faces: np.ndarray,
    vertex_counts: np.ndarray | None = None,
    face_counts: np.ndarray | None = None,
) -> list[Mesh]:
    """The meshes of the frames, as views of the arrays, held in either way."""
    if vertices.ndim == 3:
        return [(frame, faces) for frame in vertices]
    if vertex_counts is None or face_counts is None:
        return [(vertices, faces)]
    own_vertices = np.split(vertices, np.cumsum(vertex_counts, dtype=np.int64)[:-1])
    own_faces = np.split(faces, np.cumsum(face_counts, dtype=np.int64)[:-1])
    return list(zip(own_vertices, own_faces, strict=True))


def check_source(
    vertices: np.ndarray, faces: np.ndarray, vertex_counts: np.ndarray, face_counts: np.ndarray
) -> None:
    """Raise BadInput or TooLarge unless the frames, one mesh each, are ones of which a field can be
    made: there are faces, all places are numbers, and some frame spans a volume.

    Open, inside-out and self-intersecting meshes, any change of topology, and frames without faces
    beside others are let through.
    """
    check(vertices, faces, vertex_counts, face_counts, most=MAX_FRAMES)
    if not face_counts.any():
        raise BadInput(
            "The object has no faces.", "Choose a mesh with faces, or give it a thickness first."
        )
    _check_numbers(vertices, vertex_counts)
    _check_extent(vertices, faces, vertex_counts, face_counts)


def check(
    vertices: np.ndarray,
    faces: np.ndarray,
    vertex_counts: np.ndarray | None,
    face_counts: np.ndarray | None,
    most: int,
) -> None:
    """Raise BadInput or TooLarge unless the arrays hold at most `most` frames in one of the two
    ways, and every face has vertices. Frames may be empty."""
    _check_array("vertices", vertices, vertices_shape(vertices), "f", 4)
    _check_array("faces", faces, (None, 3), "i", 4)
    if vertices.ndim == 3:
        _check_one_topology(vertices, faces, vertex_counts, face_counts, most)
        return
    if vertex_counts is None or face_counts is None:
        raise BadInput("It is not told which vertices and faces a frame has.", _AGAIN)
    _check_array("vertex counts", vertex_counts, (None,), "i", 4)
    _check_array("face counts", face_counts, (len(vertex_counts),), "i", 4)
    _check_limits(len(vertex_counts), len(vertices), len(faces), most)
    for counts, total in ((vertex_counts, len(vertices)), (face_counts, len(faces))):
        if (counts < 0).any() or int(counts.sum(dtype=np.int64)) != total:
            raise BadInput("The vertices and faces of the frames do not add up.", _AGAIN)
    for number, (own, corners) in enumerate(split(vertices, faces, vertex_counts, face_counts), 1):
        _check_corners(corners, len(own), number)


def vertices_shape(vertices: object) -> tuple[int | None, ...]:
    """What `vertices` should be, by the number of their axes."""
    frames = isinstance(vertices, np.ndarray) and vertices.ndim == 3
    return (None, None, 3) if frames else (None, 3)


def _check_one_topology(
    vertices: np.ndarray,
    faces: np.ndarray,
    vertex_counts: np.ndarray | None,
    face_counts: np.ndarray | None,
    most: int,
) -> None:
    if vertex_counts is not None or face_counts is not None:
        raise BadInput("The frames are told both as one topology and one by one.", _AGAIN)
    _check_limits(len(vertices), vertices.shape[0] * vertices.shape[1], len(faces), most)
    _check_corners(faces, vertices.shape[1], 1)


def _check_limits(frames: int, vertices: int, faces: int, most: int) -> None:
    if not frames:
        raise BadInput("There are no frames.", "Choose a frame range with at least one frame.")
    if frames > most:
        raise TooLarge(
            f"{frames:,} frames are more than the {most} that are accepted.",
            "Choose a shorter frame range, or every second frame.",
        )
    check_together(vertices, faces)


def check_together(vertices: int, faces: int) -> None:
    """Raise TooLarge where frames have more vertices or faces together than are accepted. To be
    asked while they are read, too: so many frames of a large object fill the memory."""
    for count, limit, what in (
        (vertices, MAX_FRAME_VERTICES, "vertices"),
        (faces, MAX_FRAME_FACES, "faces"),
    ):
        if count > limit:
            raise TooLarge(
                f"All frames together have at least {count:,} {what}; {limit:,} are accepted.",
                "Decimate the object, or choose fewer frames.",
            )


def _check_corners(faces: np.ndarray, vertices: int, frame: int) -> None:
    if len(faces) and (faces.min() < 0 or faces.max() >= vertices):
        raise BadInput(f"Faces of frame {frame} have vertices that are not there.", _AGAIN)


def _check_numbers(vertices: np.ndarray, vertex_counts: np.ndarray) -> None:
    finite = np.isfinite(vertices).all(axis=1)
    if finite.all():
        return
    first = int(np.argmin(finite))
    frame = int(np.searchsorted(np.cumsum(vertex_counts, dtype=np.int64), first, "right")) + 1
    raise BadInput(
        f"{int((~finite).sum()):,} vertices have places that are not numbers (NaN or infinite), the"
        f" first in frame {frame} of {len(vertex_counts)}.",
        "Delete those vertices, or look at what moves them in that frame.",
    )


def _check_extent(
    vertices: np.ndarray, faces: np.ndarray, vertex_counts: np.ndarray, face_counts: np.ndarray
) -> None:
    """One frame at least must fill a volume; a sheet that unfolds may begin flat."""
    flattest = 2
    for own, corners in split(vertices, faces, vertex_counts, face_counts):
        if not len(corners):
            continue
        used = own[corners.reshape(-1)].astype(np.float64) if len(corners) < 10_000 else own
        centred = used - used.mean(axis=0, dtype=np.float64)
        scale = float(np.abs(centred).max())
        if scale <= 1e-7 * max(1e-30, float(np.abs(used).max())):
            continue  # all at one place
        centred /= scale
        spread = np.sqrt(np.maximum(np.linalg.eigvalsh(centred.T @ centred / len(centred)), 0))
        flat = int((spread < 1e-4 * spread[-1]).sum())
        if not flat:
            return
        flattest = min(flattest, flat)
    shape = "in a plane" if flattest == 1 else "on a line or at one place"
    raise BadInput(
        f"All of the object lies {shape}: it has no inside.",
        "Give it a thickness, for example with the Solidify modifier.",
    )


def _check_array(
    name: str, array: object, shape: tuple[int | None, ...], kinds: str, itemsize: int
) -> None:
    fits = (
        isinstance(array, np.ndarray)
        and array.ndim == len(shape)
        and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
        and array.dtype.kind in kinds
        and array.dtype.itemsize == itemsize
    )
    if not fits:
        have = (
            f"{' x '.join(map(str, array.shape))} {array.dtype}"
            if isinstance(array, np.ndarray)
            else "no array"
        )
        want = " x ".join("N" if size is None else str(size) for size in shape)
        kind = "float32" if "f" in kinds else "int32"
        raise BadInput(f"The {name} are {have}; expected {want} {kind}.", _AGAIN)
