"""Shapes in few bytes: triangles with 12-bit coordinates, so that a data set can be carried along.

Vertices lie on a grid of 4096^3, sorted along the Morton curve, faces sorted by their smallest
vertex; what is stored are differences, in planes of equal significance, under LZMA. About 2.8
bytes per face. Vertex order, unused vertices, and faces that vanish on the grid are lost.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from .catalogue import CUBE_SIDE

GRID = 1 << 12
_MAGIC = b"FFSHAPES1\n"
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4}]
_MAX_INDEX_BYTES = 16 << 20
_MAX_SHAPE_BYTES = 64 << 20


@dataclass(frozen=True)
class Shape:
    """What a data set knows of a shape beside its surface.

    source: whose works it belongs to, for balanced training. split: "train", "validation", "test".
    family: the same for shapes that are nearly alike, so that no design counts as often as it was
    varied.
    """

    id: str
    caption: str
    source: str
    split: str
    attribution: str
    family: str = ""


# ----------------------------------------------------------------------------------------- bytes


def encode(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """Vertices (V, 3) float in [-CUBE_SIDE / 2, CUBE_SIDE / 2] and faces (F, 3) -> bytes."""
    grid, faces = _on_grid(vertices, faces)
    order = np.argsort(morton(grid), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    faces = _sorted_faces(rank[faces])
    rows = np.diff(grid[order].astype(np.int64), axis=0, prepend=0)
    first = np.diff(faces[:, 0], prepend=0)
    others = faces[:, 1:] - faces[:, :1]
    planes = [_planes(_folded(rows.T.ravel())), _planes(first), _planes(others.T.ravel())]
    head = np.array([len(grid), len(faces), *(len(plane) for plane in planes)], "<u4").tobytes()
    return lzma.compress(head + b"".join(planes), lzma.FORMAT_RAW, filters=_FILTERS)


def decode(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `encode`: vertices (V, 3) float32 on the grid, faces (F, 3) int32.

    Raises BadInput for bytes that `encode` did not make.
    """
    try:
        expander = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
        body = expander.decompress(content, _MAX_SHAPE_BYTES)
        count, triangles, *lengths = np.frombuffer(body[:20], "<u4").astype(np.int64)
        ends = 20 + np.cumsum(lengths)
        begins = ends - lengths
        rows, first, others = (body[begin:end] for begin, end in zip(begins, ends, strict=True))
        grid = np.cumsum(_unfolded(_unplaned(rows, 3 * count)).reshape(3, count), axis=1).T
        start = np.cumsum(_unplaned(first, triangles))
        rest = _unplaned(others, 2 * triangles).reshape(2, triangles).T
    except (lzma.LZMAError, ValueError) as error:
        raise BadInput(f"A packed shape is damaged ({error}).", "Copy the data again.") from None
    faces = np.column_stack([start, start[:, None] + rest])
    if len(grid) and (grid.min() < 0 or grid.max() >= GRID or faces.max(initial=0) >= count):
        raise BadInput("A packed shape is damaged (out of range).", "Copy the data again.")
    vertices = grid * (CUBE_SIDE / (GRID - 1)) - CUBE_SIDE / 2
    return vertices.astype(np.float32), faces.astype(np.int32)


def morton(grid: np.ndarray) -> np.ndarray:
    """(N, 3) integers below 2^12 -> (N,) int64, the bits of x, y, z interleaved."""
    code = np.zeros(len(grid), np.int64)
    for bit in range(12):
        for axis in range(3):
            code |= ((grid[:, axis].astype(np.int64) >> bit) & 1) << (3 * bit + axis)
    return code


def _on_grid(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct grid nodes (V, 3), and the faces between them that have an area on the grid."""
    scaled = (np.asarray(vertices, np.float64) / CUBE_SIDE + 0.5) * (GRID - 1)
    nodes = np.clip(np.rint(scaled), 0, GRID - 1).astype(np.int64)
    _, first, where = np.unique(morton(nodes), return_index=True, return_inverse=True)
    grid, faces = nodes[first], where[faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    used, faces = np.unique(faces, return_inverse=True)
    return grid[used], faces.reshape(-1, 3)


def _sorted_faces(faces: np.ndarray) -> np.ndarray:
    """Each face begins with its smallest vertex, its turn kept; faces in order, each once."""
    turn = faces.argmin(axis=1)[:, None]
    faces = np.take_along_axis(faces, (turn + np.arange(3)) % 3, axis=1)
    return np.unique(faces, axis=0).reshape(-1, 3)


def _folded(values: np.ndarray) -> np.ndarray:
    """0, -1, 1, -2, 2 ... -> 0, 1, 2, 3, 4 ..."""
    return np.where(values < 0, -2 * values - 1, 2 * values)


def _unfolded(values: np.ndarray) -> np.ndarray:
    return np.where(values & 1, -(values + 1) // 2, values // 2)


def _planes(values: np.ndarray) -> bytes:
    """Bytes of equal significance together: the high ones are nearly all zero."""
    return values.astype("<u4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _unplaned(content: bytes, count: int) -> np.ndarray:
    planes = np.frombuffer(content, np.uint8).reshape(4, count)
    return np.ascontiguousarray(planes.T).view("<u4").ravel().astype(np.int64)


# ------------------------------------------------------------------------------------------ files


def write(path: Path, shapes: Iterable[tuple[Shape, bytes]]) -> None:
    """A data set in one file: an index in JSON, then the shapes as `encode` makes them."""
    index: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for shape, content in shapes:
        index.append({**asdict(shape), "bytes": len(content)})
        blobs.append(content)
    head = lzma.compress(json.dumps(index, ensure_ascii=False).encode(), preset=9)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(_MAGIC + len(head).to_bytes(8, "little") + head)
        file.writelines(blobs)
    partial.replace(path)


def read(path: Path) -> Iterator[tuple[Shape, bytes]]:
    """The shapes of a file, in order; `decode` makes their surfaces. Raises BadInput."""
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise BadInput(f"{path.name} is no data set of Fieldforge.", "Prepare one first.")
        length = int.from_bytes(file.read(8), "little")
        try:
            expander = lzma.LZMADecompressor()
            index = json.loads(expander.decompress(file.read(length), _MAX_INDEX_BYTES))
        except (lzma.LZMAError, ValueError) as error:
            raise BadInput(f"{path.name} is damaged ({error}).", "Copy it again.") from None
        for entry in index:
            size = entry.pop("bytes")
            content = file.read(size)
            if len(content) != size:
                raise BadInput(f"{path.name} is cut off.", "Copy it again.")
            yield Shape(**entry), content
