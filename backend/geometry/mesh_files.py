"""Read and write point clouds, meshes and voxels.

Point clouds and meshes: .ply .xyz .txt .pts .obj .glb .npz .npy .h5df .h5 .hdf5.
Voxels: .json (WaLa's) .npy .npz.
Coordinates are those of the file, but for .glb, which is Y-up and is turned to Z-up.

Whatever is wrong with a file is told as BadInput with a cause and a remedy. Nothing is unpickled
and no size is believed before the file is long enough for it.
"""

from __future__ import annotations

import ast
import codecs
import contextlib
import errno
import io
import json
import math
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput, NotFound, OutOfMemory, StorageFailed, TooLarge
from ..protocol import MAX_POINTS, MAX_VOXEL_SIDE, check_occupancy
from .gltf import glb_bytes, png_bytes, read_glb
from .mesh import Mesh, check_count, checked, colors_from, fan_corners
from .number_text import numbers_of
from .ply import ply_bytes, read_ply

__all__ = ["Mesh", "Voxels", "read_mesh", "read_points", "read_voxels", "write_mesh"]

MAX_FILE_BYTES = 16 << 30
# Formats whose reading takes many times the memory of the file.
_MAX_BYTES_OF = {".json": 256 << 20, ".obj": 2 << 30, ".glb": 4 << 30}
_BLOCK_BYTES = 1 << 23
_MAX_NPY_HEADER = 1 << 16


@dataclass(frozen=True, eq=False)
class Voxels:
    """occupancy: (X, Y, Z) bool. origin: corner of the first voxel with the lowest coordinates;
    voxel_size: edge lengths; both (3,) float64."""

    occupancy: np.ndarray
    origin: np.ndarray
    voxel_size: np.ndarray


# ----------------------------------------------------------------------------------------- reading


def read_points(path: Path | str) -> Mesh:
    """A point cloud, or the points of a mesh, by the suffix of `path`.

    Raises NotFound, BadInput, TooLarge, OutOfMemory.
    """
    return read_mesh(path)


def read_mesh(path: Path | str) -> Mesh:
    """A mesh or a point cloud (no faces), by the suffix of `path`; raises as `read_points`."""
    return _read(Path(path), MESH_READERS, "points")


def read_voxels(path: Path | str) -> Voxels:
    """Voxels by the suffix of `path`; raises as `read_points`.

    WaLa's JSON fills the cube [-1, 1]^3. Arrays hold inside as True or not 0; floats above 0.5.
    An .npz has `occupancy` (or one array) and may have `origin` and `voxel_size`.
    """
    voxels: Voxels = _read(Path(path), VOXEL_READERS, "voxels")
    check_occupancy(voxels.occupancy)
    return voxels


def _read(path: Path, readers: dict[str, Callable[[Path], Any]], what: str) -> Any:
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise BadInput(
            f"{path.name}: {what} cannot be read from {path.suffix or 'a file without a suffix'}.",
            f"Use one of {', '.join(readers)}.",
        )
    with _told_plainly(path):
        _check_file(path)
        return reader(path)


@contextlib.contextmanager
def _told_plainly(path: Path) -> Iterator[None]:
    """Whatever a parser trips over is the file's fault, and is told so."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"There is no file {path}.", "Check the name and the folder.") from None
    except OSError as error:
        raise BadInput(
            f"{path.name} cannot be read ({error.strerror or error}).",
            "Check that the file is not open elsewhere and that you may read it.",
        ) from error
    except MemoryError as error:
        raise OutOfMemory(
            f"{path.name} does not fit into memory.", "Thin it out, or close other programs."
        ) from error
    except (
        ValueError,  # also JSON and text decoding
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        SyntaxError,
        EOFError,
        NotImplementedError,
        struct.error,
        zlib.error,
        zipfile.BadZipFile,
        np.linalg.LinAlgError,
    ) as error:
        raise BadInput(
            f"{path.name} is damaged, or is not a {path.suffix} file ({type(error).__name__}).",
            "Check that the file was copied completely, or export it again.",
        ) from error


_SIGNATURES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"BLENDER": "a Blender file",
    b"\x28\xb5\x2f\xfd": "a compressed file (perhaps a Blender file)",
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive",
    b"glTF": "a .glb file",
    b"ply\n": "a PLY file",
    b"ply\r": "a PLY file",
    b"\x93NUMPY": "a .npy file",
}
_EXPECTED = {
    ".ply": (b"ply\n", b"ply\r"),
    ".glb": (b"glTF",),
    ".npz": (b"PK\x03\x04",),
    ".npy": (b"\x93NUMPY",),
}
HDF5_SUFFIXES = (".h5df", ".h5", ".hdf5")


def _check_file(path: Path) -> None:
    """Empty, too large, or of another kind than its name says?"""
    if path.is_dir():
        raise BadInput(f"{path} is a folder.", "Choose a file in it.")
    size = path.stat().st_size
    if size == 0:
        raise BadInput(f"{path.name} is empty (0 bytes).", "Copy or export the file again.")
    limit = _MAX_BYTES_OF.get(path.suffix.lower(), MAX_FILE_BYTES)
    if size > limit:
        raise TooLarge(
            f"{path.name} has {size >> 20:,} MiB; {limit >> 20:,} are accepted of {path.suffix}.",
            "Thin it out first, or save it as .ply or .npz.",
        )
    with path.open("rb") as file:
        head = file.read(8)
    expected = _EXPECTED.get(path.suffix.lower(), ())
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature) and signature not in expected:
            raise BadInput(
                f"{path.name} is not a {path.suffix} file but {kind}.",
                "Choose another file, or give this one its right suffix.",
            )


# ------------------------------------------------------------------------------------- plain texts


def _read_xyz(path: Path) -> Mesh:
    """Rows of 3 to 10 numbers: x y z, then an intensity, a normal and a colour, any of them."""
    blocks: list[np.ndarray] = []
    width, count = 0, 0
    for text in _lines(path):
        lines = text.split(b"\n")
        if not blocks:
            lines = _without_heading(lines)
        rows = [line for line in lines if not line.isspace() and line]
        if not rows:
            continue
        width = width or len(rows[0].split())
        numbers = numbers_of(b"\n".join(rows))
        if numbers is None or not 3 <= width <= 10 or len(numbers) != width * len(rows):
            raise _odd_row(path, rows, width)
        count += len(rows)
        if count > MAX_POINTS:
            check_count(count)
        blocks.append(numbers.reshape(-1, width))
    check_count(count)
    table = np.concatenate(blocks)
    normals, colors = _other_columns(table[:, 3:])
    return checked(Mesh(table[:, :3].copy(), normals=normals, colors=colors))


def _lines(path: Path) -> Iterator[bytes]:
    """Blocks of whole lines, comments taken out, commas and semicolons made spaces."""
    separators = bytes.maketrans(b",;\t\r", b"   \n")
    tail = b""
    with path.open("rb") as file:
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        while block := file.read(_BLOCK_BYTES):
            _check_decimal_points(path, block)
            text = tail + block.translate(separators)
            end = text.rfind(b"\n") + 1
            if not end and len(text) > 4 * _BLOCK_BYTES:
                raise BadInput(
                    f"{path.name} is not a table of numbers: it has no lines.",
                    "Choose a text file with one point in each line.",
                )
            tail = text[end:]
            yield _without_comments(text[:end])
    yield _without_comments(tail)


_DECIMAL_COMMAS = re.compile(
    rb"(?:[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?[ \t;]+){2,}[-+]?\d+,\d+(?:[eE][-+]?\d+)?\s*$"
)


def _check_decimal_points(path: Path, block: bytes) -> None:
    """ "0,5 1,25 2,0" would be six whole numbers: commas are taken for separators."""
    for line in block[:4096].split(b"\n")[:4]:
        if _DECIMAL_COMMAS.match(line.strip()):
            raise BadInput(
                f"{path.name} has commas in its numbers: {line[:60].decode('latin-1').strip()!r}.",
                "Export it again with decimal points (1.5 and not 1,5).",
            )


def _without_comments(text: bytes) -> bytes:
    return re.sub(rb"(#|//)[^\n]*", b"", text) if b"#" in text or b"/" in text else text


def _without_heading(lines: list[bytes]) -> list[bytes]:
    """Drop the names of columns, and the count that .pts files begin with."""
    for at, line in enumerate(lines[:2]):
        words = line.split()
        if not words:
            continue
        names = all(re.fullmatch(rb'"?[A-Za-z_][\w().\[\] ]*"?', word) for word in words)
        if names and not any(word.lower() in (b"nan", b"inf") for word in words):
            return lines[at + 1 :]
        if len(words) == 1 and words[0].isdigit() and len(lines) > at + 1:
            return lines[at + 1 :]
        break
    return lines


def _odd_row(path: Path, rows: list[bytes], width: int) -> BadInput:
    remedy = "Each line must hold one point: x y z, and the same number of columns everywhere."
    for row in rows:
        numbers = numbers_of(row)
        if numbers is None or len(numbers) != width or not 3 <= width <= 10:
            text = row[:60].decode("latin-1").strip()
            shown = text if text.isprintable() else "binary data"
            return BadInput(f"{path.name} has a line that is not a point: {shown!r}.", remedy)
    return BadInput(f"{path.name} is not a table of points.", remedy)


def _other_columns(table: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What the columns after x y z are, told by their values."""
    width = table.shape[1]
    if width in (1, 2):
        return None, None
    if width == 4 and not _are_colors(table[:, :3]):
        table = table[:, 1:]  # an intensity before the colours, as .pts files have it
    elif width == 5:
        table = table[:, 1:4]
    normals = colors = None
    for at in range(0, table.shape[1] // 3 * 3, 3):
        triple = table[:, at : at + 3]
        if normals is None and _are_normals(triple):
            normals = triple.astype(np.float32)
        elif colors is None and _are_colors(triple):
            colors = colors_from(list(triple.T))
    return normals, colors


def _are_normals(triple: np.ndarray) -> bool:
    """Most have the length one; a few may be zero where none was known."""
    length = np.linalg.norm(triple[:100_000], axis=1)
    return bool((np.abs(length - 1) < 0.02).mean() > 0.9)


def _are_colors(triple: np.ndarray) -> bool:
    return bool(((triple >= 0) & (triple <= 255)).all())


# --------------------------------------------------------------------------------------------- obj


def _read_obj(path: Path) -> Mesh:
    """Positions with optional colours, faces of any number of corners, normals where each vertex
    has one of its own. Keeps the vertices of the file and their order."""
    text = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\\\n", b" ")
    if b"\0" in text[:4096]:
        raise BadInput(f"{path.name} is not a text file.", "Export it as Wavefront .obj.")
    rows: dict[bytes, list[bytes]] = {b"v": [], b"vn": [], b"f": []}
    before: list[int] = []  # vertices known at each face, for indices that count backward
    for line in text.split(b"\n"):
        key, _, rest = line.lstrip().partition(b" ")
        if key in rows:
            rows[key].append(rest.split(b"#")[0])
            if key == b"f":
                before.append(len(rows[b"v"]))
    check_count(len(rows[b"v"]))
    table = _table(path, rows[b"v"], (3, 4, 6, 7))
    colors = colors_from(list(table[:, -3:].T)) if table.shape[1] >= 6 else None
    faces, paired = _obj_faces(path, rows[b"f"], before)
    normals = None
    if len(rows[b"vn"]) == len(table) and paired:
        normals = _table(path, rows[b"vn"], (3,)).astype(np.float32)
    return checked(Mesh(table[:, :3].astype(np.float64), faces, normals, colors))


def _table(path: Path, rows: list[bytes], widths: tuple[int, ...]) -> np.ndarray:
    numbers = numbers_of(b"\n".join(rows))
    width = len(rows[0].split())
    if numbers is None or width not in widths or len(numbers) != width * len(rows):
        raise BadInput(
            f"{path.name} has a vertex that cannot be read.", "It is damaged. Export it again."
        )
    return numbers.reshape(-1, width)


def _obj_faces(path: Path, rows: list[bytes], before: list[int]) -> tuple[np.ndarray, bool]:
    """(F, 3) faces, and whether every corner names the normal of the number of its vertex."""
    if not rows:
        return np.zeros((0, 3), np.int32), True
    paired = all(
        re.fullmatch(rb"(\d+)(/\d*/\1)?", corner) for row in rows[:1000] for corner in row.split()
    )
    corners = re.sub(rb"/[^\s]*", b"", b"\n".join(rows))
    indices = numbers_of(corners)
    if indices is None or (indices != np.rint(indices)).any() or (indices == 0).any():
        raise BadInput(
            f"{path.name} has a face that cannot be read.", "It is damaged. Export it again."
        )
    counts = np.array([len(row.split()) for row in corners.split(b"\n")])
    known = np.repeat(np.array(before), counts)
    places = np.where(indices < 0, indices + known, indices - 1)
    polygon, place = fan_corners(counts)
    starts = np.cumsum(counts) - counts
    limit = np.iinfo(np.int32).max
    return np.clip(places[starts[polygon][:, None] + place], -1, limit).astype(np.int32), paired


# ------------------------------------------------------------------------------------------ arrays


def _read_array_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npy (named "array") or .npz file, each checked before it is made."""
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return {"array": _read_npy(path, file, path.stat().st_size)}
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                with archive.open(entry) as file:
                    array = _read_npy(path, file, entry.file_size)
                arrays[entry.filename.removesuffix(".npy")] = array
    return arrays


def _read_npy(path: Path, file: Any, size: int) -> np.ndarray:
    shape, fortran, dtype = _read_npy_header(path, file)
    if dtype.kind not in "fiub":
        raise BadInput(
            f"{path.name} holds an array of {dtype}, not of numbers.",
            "Save it with numpy.savez(file, points=...), without objects.",
        )
    count = 1
    for length in shape:
        count *= length
    wanted = count * dtype.itemsize
    if wanted > size:
        raise BadInput(f"{path.name} is cut off.", "Copy or save the file again.")
    if count > 4 * MAX_POINTS and count > MAX_VOXEL_SIDE**3:
        raise TooLarge(
            f"{path.name} holds an array of {count:,} numbers.",
            f"Use at most {MAX_POINTS:,} points or {MAX_VOXEL_SIDE} voxels along each side.",
        )
    array = np.empty(count, dtype)
    _fill(path, file, array.view(np.uint8))
    array = array.astype(dtype.newbyteorder("="), copy=False)
    return array.reshape(shape, order="F" if fortran else "C")


def _read_npy_header(path: Path, file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """As numpy.lib.format, but strict: numpy would try to mend an odd header."""
    head = file.read(8)
    if len(head) < 8 or head[:6] != b"\x93NUMPY" or head[6] not in (1, 2, 3):
        raise BadInput(f"{path.name} does not hold numpy arrays.", "Save it with numpy.save.")
    form = "<H" if head[6] == 1 else "<I"
    (length,) = struct.unpack(form, file.read(struct.calcsize(form)))
    if length > _MAX_NPY_HEADER:
        raise ValueError("header too long")
    record = ast.literal_eval(file.read(length).decode("latin-1"))
    shape, fortran, dtype = record["shape"], record["fortran_order"], np.dtype(record["descr"])
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("impossible shape")
    return tuple(shape), bool(fortran), dtype


def _fill(path: Path, file: Any, target: np.ndarray) -> None:
    at = 0
    while at < len(target):
        block = file.read(min(_BLOCK_BYTES, len(target) - at))
        if not block:
            raise BadInput(f"{path.name} is cut off.", "Copy or save the file again.")
        target[at : at + len(block)] = np.frombuffer(block, np.uint8)
        at += len(block)


def _read_points_array(path: Path) -> Mesh:
    """.npy (N, 3 or more columns), or .npz with `points` or `vertices`, `normals`, `colors`,
    `faces`."""
    arrays = _read_array_file(path)
    named = {name.lower(): array for name, array in arrays.items()}
    points = next((named[name] for name in ("points", "vertices", "xyz") if name in named), None)
    if points is None and len(arrays) == 1:
        (points,) = arrays.values()
    if points is None or points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind not in "fiu":
        found = ", ".join(f"{name} {array.shape}" for name, array in list(arrays.items())[:8])
        raise BadInput(
            f"{path.name} has no points; it holds {found or 'nothing'}.",
            "Save it with numpy.savez(file, points=...) as an array of N rows and 3 columns.",
        )
    check_count(len(points))
    wide = points.dtype.itemsize > 4 or points.dtype.kind != "f"
    normals, colors, faces = named.get("normals"), named.get("colors"), named.get("faces")
    if points.shape[1] > 3 and normals is None and colors is None:
        normals, colors = _other_columns(points[:, 3:].astype(np.float64))
    for name, array in (("normals", normals), ("colors", colors)):
        if array is not None and (array.ndim != 2 or len(array) != len(points)):
            raise BadInput(
                f"{path.name}: {name} {array.shape} do not fit the {len(points):,} points.",
                "Save one row for each point.",
            )
    if normals is not None and normals.shape[1] != 3:
        raise BadInput(f"{path.name}: normals need 3 columns.", "Save x, y and z of each normal.")
    if colors is not None:
        if colors.shape[1] not in (3, 4):
            raise BadInput(f"{path.name}: colors need 3 or 4 columns.", "Save red, green, blue.")
        colors = colors_from(list(colors.T))
    triangles = np.zeros((0, 3), np.int32)
    if faces is not None and faces.ndim == 2 and faces.shape[1] == 3 and faces.dtype.kind in "iu":
        triangles = np.clip(faces, -1, np.iinfo(np.int32).max).astype(np.int32)
    with np.errstate(over="ignore", invalid="ignore"):
        return checked(
            Mesh(
                np.ascontiguousarray(points[:, :3], np.float64 if wide else np.float32),
                triangles,
                None if normals is None else np.ascontiguousarray(normals, np.float32),
                colors,
            )
        )


# -------------------------------------------------------------------------------------------- HDF5


def _read_hdf5(path: Path) -> Mesh:
    """`points` (N, 3) of numbers, as in the inputs that are published with WaLa."""
    import h5py  # here: few files are of this kind, and it takes a moment to import

    if not h5py.is_hdf5(path):
        raise BadInput(
            f"{path.name} is not an HDF5 file.", "Copy it again, or give it its right suffix."
        )
    try:
        with h5py.File(path, "r") as file:
            # Never along a link into another file.
            link = file.get("points", getlink=True)
            found = file["points"] if isinstance(link, h5py.HardLink) else None
            if not isinstance(found, h5py.Dataset):
                names = ", ".join(list(file)[:8])
                raise BadInput(
                    f"{path.name} has no array `points`; it holds {names or 'nothing'}.",
                    "Save N rows of 3 numbers under the name `points`.",
                )
            points = _hdf5_points(path, found)
    except (OSError, RuntimeError) as error:
        raise BadInput(
            f"{path.name} is cut off, damaged, or packed in a way that is not known here.",
            "Copy it again, or save its points as .npy.",
        ) from error
    with np.errstate(over="ignore", invalid="ignore"):
        return checked(Mesh(points, np.zeros((0, 3), np.int32)))


def _hdf5_points(path: Path, found: Any) -> np.ndarray:
    """(N, 3) float64 or float32 of a dataset, which is checked before memory is taken."""
    shape, dtype = found.shape, found.dtype
    if shape is None or len(shape) != 2 or shape[1] != 3 or dtype.kind not in "fiu":
        raise BadInput(
            f"{path.name}: points {shape} of {dtype} are no list of points.",
            "Save N rows of 3 numbers under the name `points`.",
        )
    check_count(shape[0])
    if found.external or found.is_virtual:
        raise BadInput(
            f"{path.name}: the points lie in other files.", "Save them in the file itself."
        )
    # A chunk is unpacked as a whole, and has any size of its own.
    chunk = math.prod(found.chunks or ()) * dtype.itemsize
    if chunk > max(_BLOCK_BYTES, 2 * found.size * dtype.itemsize):
        raise TooLarge(f"{path.name} is packed in too large parts.", "Save its points as .npy.")
    stored = found.id.get_storage_size()
    if found.chunks is None and stored < found.size * dtype.itemsize:
        raise BadInput(f"{path.name} is cut off.", "Copy or save the file again.")
    if found.chunks is not None and found.size * dtype.itemsize > 2000 * max(stored, 1):
        raise BadInput(
            f"{path.name} says it has {shape[0]:,} points, but holds almost nothing.",
            "Copy or save the file again.",
        )
    wide = dtype.itemsize > 4 or dtype.kind != "f"
    return np.ascontiguousarray(found[()], np.float64 if wide else np.float32)


# ------------------------------------------------------------------------------------------ voxels


def _read_voxel_json(path: Path) -> Voxels:
    record = json.loads(path.read_bytes())
    resolution, cells = record["resolution"], record["occupancy"]
    if type(resolution) is not int or not 1 <= resolution <= MAX_VOXEL_SIDE:
        raise BadInput(
            f"{path.name} says its resolution is {resolution!r}.",
            f"It must be a whole number up to {MAX_VOXEL_SIDE}.",
        )
    places = np.array(cells, np.float64).reshape(-1, 3)
    if not np.isfinite(places).all() or (places != np.rint(places)).any():
        raise BadInput(
            f"{path.name} has voxels whose places are not whole numbers.", "Export it again."
        )
    outside = ((places < 0) | (places > resolution)).any(axis=1)
    if outside.any():
        raise BadInput(
            f"{path.name} has {int(outside.sum()):,} voxels outside of its {resolution} cells.",
            "The resolution in the file is wrong, or the file is damaged.",
        )
    # As published: one cell more along each axis is filled, and cut away again.
    occupancy = np.zeros([resolution + 1] * 3, bool)
    occupancy[tuple(places.astype(np.int64).T)] = True
    occupancy = np.ascontiguousarray(occupancy[:-1, :-1, :-1])
    return Voxels(occupancy, np.full(3, -1.0), np.full(3, 2.0 / resolution))


def _read_voxel_array(path: Path) -> Voxels:
    arrays = {name.lower(): array for name, array in _read_array_file(path).items()}
    grids = [array for array in arrays.values() if array.ndim == 3]
    occupancy = arrays.get("occupancy", arrays.get("voxels"))
    if occupancy is None and len(grids) == 1:
        (occupancy,) = grids
    if occupancy is None or occupancy.ndim != 3:
        raise BadInput(
            f"{path.name} has no grid of voxels.",
            "Save it with numpy.savez(file, occupancy=...) as an array of three axes.",
        )
    if max(occupancy.shape) > MAX_VOXEL_SIDE:
        raise TooLarge(
            f"A grid of {' x '.join(map(str, occupancy.shape))} voxels is larger than accepted.",
            f"Use at most {MAX_VOXEL_SIDE} voxels along each side.",
        )
    filled = occupancy > 0.5 if occupancy.dtype.kind == "f" else occupancy != 0
    origin = _three(path, arrays.get("origin", np.zeros(3)), "origin")
    size = _three(path, arrays.get("voxel_size", np.ones(3)), "voxel_size")
    if (size <= 0).any():
        raise BadInput(f"{path.name}: voxel_size must be above 0.", "Save the size of a voxel.")
    return Voxels(np.ascontiguousarray(filled), origin, size)


def _three(path: Path, values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64).ravel()
    if len(values) == 1:
        values = np.repeat(values, 3)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise BadInput(f"{path.name}: {name} must be three numbers.", "Save x, y and z.")
    return values


MESH_READERS: dict[str, Callable[[Path], Mesh]] = {
    ".ply": read_ply,
    ".xyz": _read_xyz,
    ".txt": _read_xyz,
    ".pts": _read_xyz,
    ".obj": _read_obj,
    ".glb": read_glb,
    ".npz": _read_points_array,
    ".npy": _read_points_array,
    **dict.fromkeys(HDF5_SUFFIXES, _read_hdf5),
}
VOXEL_READERS: dict[str, Callable[[Path], Voxels]] = {
    ".json": _read_voxel_json,
    ".npy": _read_voxel_array,
    ".npz": _read_voxel_array,
}

# ----------------------------------------------------------------------------------------- writing


def write_mesh(
    path: Path | str,
    vertices: np.ndarray,
    faces: np.ndarray,
    colors: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    uv: np.ndarray | None = None,
    texture: np.ndarray | None = None,
) -> None:
    """Write .glb (turned to Y-up), .obj, .ply (binary) or .npz, whole or not at all.

    vertices (V, 3) float; faces (F, 3) integer, no rows for a point cloud; colors (V, 4) uint8
    sRGB; normals (V, 3); uv and texture as in MeshResult: inside .glb and .npz, beside an .obj
    (`companions_of`), not in .ply. The same mesh gives the same bytes. Raises BadInput for
    another suffix or for nothing to write, StorageFailed when the disk is full or the folder cannot
    be written to.
    """
    path = Path(path)
    encode = WRITERS.get(path.suffix.lower())
    if encode is None:
        raise BadInput(
            f"A mesh cannot be written as {path.suffix or 'a file without a suffix'}.",
            f"Use one of {', '.join(WRITERS)}.",
        )
    if not len(vertices):
        raise BadInput("There is nothing to write: the mesh is empty.", "Check the source.")
    wide = vertices.dtype == np.float64
    mesh = Mesh(
        np.ascontiguousarray(vertices, np.float64 if wide else np.float32),
        np.ascontiguousarray(faces, np.int32).reshape(-1, 3),
        None if normals is None else np.ascontiguousarray(normals, np.float32),
        None if colors is None else np.ascontiguousarray(colors, np.uint8),
        *_texture(uv, texture, len(faces)),
    )
    if mesh.texture is not None and path.suffix.lower() == ".obj":
        materials, picture = (path.with_name(name) for name in companions_of(path))
        write_bytes(picture, png_bytes(mesh.texture))
        write_bytes(materials, _mtl_bytes(picture.name))
        write_bytes(path, _obj_bytes(mesh, materials.name))
        return
    write_bytes(path, encode(mesh))


def companions_of(path: Path) -> tuple[str, ...]:
    """Names of the files that may be written beside a mesh of this name: materials and texture."""
    if path.suffix.lower() != ".obj":
        return ()
    return (f"{path.stem}.mtl", f"{path.stem}-texture.png")


def _texture(
    uv: np.ndarray | None, texture: np.ndarray | None, faces: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Both when they are there and fit the faces, else neither."""
    if uv is None or texture is None or uv.shape != (3 * faces, 2) or texture.ndim != 3:
        return None, None
    return np.ascontiguousarray(uv, np.float32), np.ascontiguousarray(texture, np.uint8)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` with `content`, whole or not at all. Raises StorageFailed."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(".part", f".{path.stem[:80]}-", path.parent)
        with open(handle, "wb") as file:
            file.write(content)
        _take_usual_permissions(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise _storage_failed(path, error) from error


def _take_usual_permissions(path: str) -> None:
    """mkstemp's files are for the owner alone; give it what any new file gets."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def _storage_failed(path: Path, error: OSError) -> StorageFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFailed(
            f"The disk is full; {path.name} was not written.", "Free some space and try again."
        )
    return StorageFailed(
        f"{path} cannot be written ({error.strerror or error}).",
        "Choose a folder that exists and that you may write to.",
    )


def _mtl_bytes(picture: str) -> bytes:
    lines = ["# Fieldforge", "newmtl fieldforge", "Kd 1 1 1", "Ks 0 0 0"]
    return "\n".join([*lines, f"map_Kd {picture}", ""]).encode()


def _obj_bytes(mesh: Mesh, materials: str = "") -> bytes:
    """Text that gives the same float32 again; colours 0 to 1 after the coordinates. materials: the
    file that names the texture, for a mesh with one."""
    number = "%.17g" if mesh.points.dtype == np.float64 else "%.9g"
    columns, form = [mesh.points.astype(np.float64)], "v" + 3 * f" {number}"
    if mesh.colors is not None:
        columns.append(mesh.colors[:, :3] / 255.0)
        form += 3 * " %.6g"
    lines = ["# Fieldforge"]
    if materials:
        lines.append(f"mtllib {materials}")
    lines += [form % row for row in map(tuple, np.concatenate(columns, axis=1).tolist())]
    faces = mesh.faces.astype(np.int64) + 1
    indices = [faces]
    corner = "%d"
    if materials and mesh.uv is not None:
        lines += [f"vt {u:.7g} {v:.7g}" for u, v in mesh.uv.tolist()]
        indices.append(np.arange(1, 3 * len(faces) + 1).reshape(-1, 3))
        lines.append("usemtl fieldforge")
        corner = "%d/%d"
    if mesh.normals is not None:
        normal = "vn" + 3 * " %.6g"
        lines += [normal % row for row in map(tuple, mesh.normals.tolist())]
        indices.append(faces)
        corner += "/%d" if len(indices) == 3 else "//%d"
    rows = np.stack(indices, axis=2).reshape(len(faces), 3 * len(indices))
    face = f"f {corner} {corner} {corner}"
    lines += [face % row for row in map(tuple, rows.tolist())]
    return "\n".join([*lines, ""]).encode()


def _npz_bytes(mesh: Mesh) -> bytes:
    arrays = {"vertices": mesh.points, "faces": mesh.faces}
    if mesh.normals is not None:
        arrays["normals"] = mesh.normals
    if mesh.colors is not None:
        arrays["colors"] = mesh.colors
    if mesh.uv is not None and mesh.texture is not None:
        arrays |= {"uv": mesh.uv, "texture": mesh.texture}
    return npz_bytes(arrays)


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz file of these arrays; the same arrays give the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            # A fixed date, or the bytes would tell the time.
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return content.getvalue()


WRITERS: dict[str, Callable[[Mesh], bytes]] = {
    ".glb": glb_bytes,
    ".obj": _obj_bytes,
    ".ply": ply_bytes,
    ".npz": _npz_bytes,
}
