"""PLY files: ASCII, binary of either byte order, any elements and properties.

Written for clouds of millions of points: binary rows are read in place, and text in blocks. No
count of a header is believed before the file is long enough for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from ..errors import BadInput
from .mesh import Mesh, check_count, checked, colors_from, fan_corners
from .number_text import numbers_of

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("int64", "longlong"), "i8"),
    **dict.fromkeys(("uint64", "ulonglong"), "u8"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_COLOR_NAMES = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
_MAX_HEADER = 1 << 20
_BLOCK_ROWS = 1 << 18
_BLOCK_BYTES = 1 << 23

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Property:
    name: str
    kind: str  # numpy type of the value, or of the items of a list
    count: str = ""  # numpy type of the length of a list


@dataclass
class _Element:
    name: str
    rows: int
    properties: list[_Property] = field(default_factory=list)

    def has_lists(self) -> bool:
        return any(entry.count for entry in self.properties)

    def least_row(self, *, text: bool) -> int:
        """The fewest bytes that a row can take: a list may be empty."""
        if text:
            return 2 * len(self.properties)
        return sum(np.dtype(entry.count or entry.kind).itemsize for entry in self.properties)


@dataclass
class _Lists:
    """A list property of all rows: where each list begins, how long it is, how to get items."""

    starts: np.ndarray
    counts: np.ndarray
    data: np.ndarray
    item: np.dtype[Any]

    def items(self, rows: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Items `corners` (T, 3) of the lists `rows` (T,)."""
        if self.data.dtype == np.float64:
            return self.data[self.starts[rows][:, None] + corners]
        size = self.item.itemsize
        begin = self.starts[rows][:, None] + corners * size
        return self.data[begin[:, :, None] + np.arange(size)].view(self.item)[:, :, 0]


def read_ply(path: Path) -> Mesh:
    """Read `path`. Raises BadInput when it is not a whole PLY file, TooLarge, OSError."""
    order, elements, begin = _read_header(path)
    if not any(element.name == "vertex" for element in elements):
        raise BadInput(
            f"{path.name} has no vertices.", "Choose a file with a point cloud or a mesh."
        )
    body: _Text | _Binary = (_Binary if order else _Text)(path, begin, order)
    vertices: Columns = {}
    faces = np.zeros((0, 3), np.int32)
    for element in elements:
        if element.name == "vertex":
            check_count(element.rows)
        if element.rows * element.least_row(text=not order) > body.remaining():
            raise _truncated(path, element)
        columns, lists = body.read(element)
        if element.name == "vertex":
            vertices = columns
        elif element.name == "face":
            faces = _triangles(lists)
    return checked(_mesh_of(path, vertices, faces))


def _read_header(path: Path) -> tuple[str, list[_Element], int]:
    with path.open("rb") as file:
        head = file.read(_MAX_HEADER)
    found = re.search(rb"\bend_header[ \t]*(\r\n|\n|\r)", head)
    if not re.match(rb"ply[ \t]*[\r\n]", head) or not found:
        raise BadInput(
            f"{path.name} is not a PLY file, or its beginning is cut off.",
            "Check that the file was copied completely and really is a PLY file.",
        )
    order, elements = None, list[_Element]()
    for line in re.split(r"[\r\n]+", head[: found.start()].decode("latin-1"))[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) >= 2 and words[1] in _ORDERS:
            order = _ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3 and words[2].isdecimal():
            elements.append(_Element(words[1], int(words[2])))
        elif words[0] == "property" and elements:
            elements[-1].properties.append(_property_of(path, words))
        else:
            raise _odd_line(path, line)
    if order is None:
        raise _odd_line(path, "format")
    return order, elements, found.end()


def _property_of(path: Path, words: list[str]) -> _Property:
    types = [_TYPES.get(word) for word in words]
    if len(words) == 3 and types[1]:
        return _Property(words[2].lower(), types[1])
    if len(words) == 5 and words[1] == "list" and types[2] and types[3] and types[2][0] != "f":
        return _Property(words[4].lower(), types[3], types[2])
    raise _odd_line(path, " ".join(words))


def _odd_line(path: Path, line: str) -> BadInput:
    return BadInput(
        f"The header of {path.name} has a line that cannot be read: {line.strip()[:60]!r}.",
        "The file is damaged or was written by hand. Export it again.",
    )


def _truncated(path: Path, element: _Element) -> BadInput:
    return BadInput(
        f"{path.name} is cut off: it ends before the {element.rows:,} rows of "
        f"{element.name!r} that its header promises.",
        "Copy or download the file again, or export it again.",
    )


def _triangles(lists: dict[str, _Lists]) -> np.ndarray:
    corners = lists.get("vertex_indices") or lists.get("vertex_index")
    if corners is None:
        return np.zeros((0, 3), np.int32)
    polygon, place = fan_corners(corners.counts)
    indices = corners.items(polygon, place)
    # Out of range stays out of range in 32 bits, where the check of the mesh will find it.
    return np.clip(indices, -1, np.iinfo(np.int32).max).astype(np.int32)


def _mesh_of(path: Path, columns: Columns, faces: np.ndarray) -> Mesh:
    missing = [name for name in "xyz" if name not in columns]
    if missing:
        raise BadInput(
            f"The vertices of {path.name} have no coordinate {', '.join(missing)}.",
            "Export the file again with positions.",
        )
    doubles = any(columns[name].dtype.itemsize > 4 for name in "xyz")
    points = _stacked(columns, ("x", "y", "z"), np.float64 if doubles else np.float32)
    normals = None
    if all(name in columns for name in ("nx", "ny", "nz")):
        normals = _stacked(columns, ("nx", "ny", "nz"), np.float32)
    return Mesh(points, faces, normals, _colors_of(columns))


def _stacked(columns: Columns, names: tuple[str, ...], dtype: type) -> np.ndarray:
    with np.errstate(over="ignore"):  # an infinity is found by the check of the mesh
        return np.stack([columns[name].astype(dtype) for name in names], axis=1)


def _colors_of(columns: Columns) -> np.ndarray | None:
    for names in _COLOR_NAMES:
        if all(name in columns for name in names):
            channels = [columns[name] for name in names]
            alpha = columns.get("alpha", columns.get("a"))
            return colors_from(channels if alpha is None else [*channels, alpha])
    return None


# ------------------------------------------------------------------------------------------ binary


class _Binary:
    """The rows of a binary file, mapped and not copied."""

    def __init__(self, path: Path, begin: int, order: str) -> None:
        self.path, self.order = path, order
        size = path.stat().st_size
        self.data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
        self.at = begin

    def remaining(self) -> int:
        return len(self.data) - self.at

    def read(self, element: _Element) -> tuple[Columns, dict[str, _Lists]]:
        if element.rows == 0 or not element.properties:
            return {entry.name: np.zeros(0, entry.kind) for entry in element.properties}, {}
        if element.has_lists():
            return self._read_with_lists(element)
        row = np.dtype([(f"f{at}", self.order + e.kind) for at, e in enumerate(element.properties)])
        end = self.at + element.rows * row.itemsize
        table = self.data[self.at : end].view(row)
        self.at = end
        columns = {}
        for at, entry in enumerate(element.properties):
            columns[entry.name] = table[f"f{at}"].astype(entry.kind)
        return columns, {}

    def _read_with_lists(self, element: _Element) -> tuple[Columns, dict[str, _Lists]]:
        entries = element.properties
        heads = np.array([np.dtype(entry.count or entry.kind).itemsize for entry in entries])
        items = np.array([np.dtype(e.kind).itemsize if e.count else 0 for e in entries])
        starts, counts, end = _walk_bytes(
            self.data, self.at, element.rows, heads, items, self.order == ">"
        )
        if end < 0:
            raise _truncated(self.path, element)
        self.at = end
        columns: Columns = {}
        lists: dict[str, _Lists] = {}
        for at, entry in enumerate(entries):
            item = np.dtype(self.order + entry.kind)
            column = _Lists(starts[:, at], counts[:, at], self.data, item)
            if entry.count:
                lists[entry.name] = column
            else:
                rows = np.arange(element.rows)
                first = np.zeros((element.rows, 1), np.int64)
                columns[entry.name] = column.items(rows, first)[:, 0].astype(entry.kind)
        return columns, lists


@njit(cache=True, nogil=True)
def _walk_bytes(data, at, rows, heads, items, big_endian):
    """Where the values of each row begin. (starts, counts, end); end is -1 past the end of data."""
    starts = np.empty((rows, len(heads)), np.int64)
    counts = np.zeros((rows, len(heads)), np.int64)
    for row in range(rows):
        for entry in range(len(heads)):
            head = heads[entry]
            if at + head > len(data):
                return starts, counts, -1
            starts[row, entry] = at
            if items[entry]:
                count = np.int64(0)
                for byte in range(min(head, 7)):
                    place = at + (head - 1 - byte if big_endian else byte)
                    count |= np.int64(data[place]) << np.int64(8 * byte)
                starts[row, entry] = at + head
                counts[row, entry] = count
                if count > (len(data) - at) // items[entry]:
                    return starts, counts, -1
                at += count * items[entry]
            at += head
    if at > len(data):
        return starts, counts, -1
    return starts, counts, at


# -------------------------------------------------------------------------------------------- text


class _Text:
    """The numbers of an ASCII file, in blocks."""

    def __init__(self, path: Path, begin: int, _order: str) -> None:
        self.path = path
        self.data = np.memmap(path, np.uint8, "r")
        self.at = begin
        self.numbers = np.zeros(0)  # read already, not yet taken

    def remaining(self) -> int:
        """At least as many bytes as the numbers to come have, each with a space after it."""
        longest = 400  # characters of a number; more would be odd
        return len(self.data) - self.at + 1 + longest * len(self.numbers)

    def read(self, element: _Element) -> tuple[Columns, dict[str, _Lists]]:
        if element.has_lists():
            return self._read_with_lists(element)
        width = len(element.properties)
        columns = {e.name: np.empty(element.rows, e.kind) for e in element.properties}
        for begin in range(0, element.rows if width else 0, _BLOCK_ROWS):
            rows = min(_BLOCK_ROWS, element.rows - begin)
            block = self._take(rows * width, element).reshape(rows, width)
            for at, entry in enumerate(element.properties):
                columns[entry.name][begin : begin + rows] = _as_kind(block[:, at], entry.kind)
        return columns, {}

    def _read_with_lists(self, element: _Element) -> tuple[Columns, dict[str, _Lists]]:
        blocks = [self.numbers]
        while self.at < len(self.data):
            blocks.append(self._parse())
        numbers = np.concatenate(blocks)
        is_list = np.array([bool(entry.count) for entry in element.properties])
        starts, counts, end = _walk_numbers(numbers, element.rows, is_list)
        if end < 0:
            raise _truncated(self.path, element)
        self.numbers = numbers[end:]
        columns: Columns = {}
        lists: dict[str, _Lists] = {}
        for at, entry in enumerate(element.properties):
            if entry.count:
                lists[entry.name] = _Lists(
                    starts[:, at], counts[:, at], numbers, np.dtype(np.float64)
                )
            else:
                columns[entry.name] = _as_kind(numbers[starts[:, at]], entry.kind)
        return columns, lists

    def _take(self, count: int, element: _Element) -> np.ndarray:
        blocks, have = [self.numbers], len(self.numbers)
        while have < count:
            if self.at >= len(self.data):
                raise _truncated(self.path, element)
            blocks.append(self._parse())
            have += len(blocks[-1])
        numbers = np.concatenate(blocks)
        self.numbers = numbers[count:]
        return numbers[:count]

    def _parse(self) -> np.ndarray:
        """The numbers of the next block, which ends between two numbers."""
        text = self.data[self.at : self.at + _BLOCK_BYTES].tobytes()
        if self.at + len(text) < len(self.data):
            text = text[: max(text.rfind(b"\n"), text.rfind(b" "), text.rfind(b"\r")) + 1] or text
        self.at += len(text)
        numbers = numbers_of(text)
        if numbers is None:
            raise BadInput(
                f"{self.path.name} has something that is not a number among its numbers.",
                "The file is damaged. Export it again, as binary PLY if you can.",
            )
        return numbers


def _as_kind(values: np.ndarray, kind: str) -> np.ndarray:
    dtype = np.dtype(kind)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        values = np.clip(np.nan_to_num(values), limits.min, limits.max)
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype)


@njit(cache=True, nogil=True)
def _walk_numbers(numbers, rows, is_list):
    """As `_walk_bytes`, for values that are one number each."""
    starts = np.empty((rows, len(is_list)), np.int64)
    counts = np.zeros((rows, len(is_list)), np.int64)
    at = np.int64(0)
    for row in range(rows):
        for entry in range(len(is_list)):
            if at >= len(numbers):
                return starts, counts, -1
            starts[row, entry] = at
            if is_list[entry]:
                count = numbers[at]
                if not 0 <= count <= len(numbers) - at - 1:
                    return starts, counts, -1
                starts[row, entry] = at + 1
                counts[row, entry] = np.int64(count)
                at += np.int64(count)
            at += 1
    return starts, counts, at


# ----------------------------------------------------------------------------------------- writing


def ply_bytes(mesh: Mesh) -> bytes:
    """`mesh` as binary little-endian PLY; doubles stay doubles."""
    wide = mesh.points.dtype.itemsize > 4
    number, name = ("<f8", "double") if wide else ("<f4", "float")
    row: list[tuple[str, str]] = [(axis, number) for axis in "xyz"]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(mesh.points)}"]
    header += [f"property {name} {axis}" for axis in "xyz"]
    if mesh.normals is not None:
        row += [(axis, "<f4") for axis in ("nx", "ny", "nz")]
        header += [f"property float {axis}" for axis in ("nx", "ny", "nz")]
    if mesh.colors is not None:
        row += [(channel, "u1") for channel in ("red", "green", "blue", "alpha")]
        header += [f"property uchar {c}" for c in ("red", "green", "blue", "alpha")]
    table = np.empty(len(mesh.points), row)
    for at, axis in enumerate("xyz"):
        table[axis] = mesh.points[:, at]
        if mesh.normals is not None:
            table["n" + axis] = mesh.normals[:, at]
    if mesh.colors is not None:
        for at, channel in enumerate(("red", "green", "blue", "alpha")):
            table[channel] = mesh.colors[:, at]
    body = [table.tobytes()]
    if len(mesh.faces):
        header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices"]
        faces = np.empty(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
        faces["count"], faces["corners"] = 3, mesh.faces
        body.append(faces.tobytes())
    return b"".join(["\n".join([*header, "end_header\n"]).encode(), *body])
