"""What crosses the wire between Blender and the backend: tasks, progress, results.

The only file that both sides import. Standard library and numpy, nothing else.

A message with arrays is one byte string in the safetensors layout: an 8-byte little-endian header
length, a JSON header {name: {dtype, shape, data_offsets}, "__metadata__": {...}}, then the raw
arrays. Scalars travel as JSON in the metadata entry "message". Nothing is ever unpickled, and a
header is checked against the byte string before an array is made of it.

Axes and units: world axes of Blender (right-handed, Z up, metres) unless a field says otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from .errors import BadInput, TooLarge, VersionMismatch

PROTOCOL_VERSION = 1
CONTENT_TYPE = "application/x-fieldforge"
RESOLUTIONS = (128, 256, 512)

MIN_POINTS = 50
MAX_POINTS = 50_000_000
MIN_VOXEL_SIDE = 8
MAX_VOXEL_SIDE = 512
MAX_HEADER_BYTES = 1 << 20
MAX_NAME_LENGTH = 255

Arrays = dict[str, np.ndarray]

# ------------------------------------------------------------------------------------------ bytes

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def pack(arrays: Arrays, message: dict[str, Any]) -> bytes:
    """Arrays and a JSON-able message -> one byte string in the safetensors layout."""
    header: dict[str, Any] = {"__metadata__": {"message": json.dumps(message)}}
    blobs, offset = [], 0
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        header[name] = {
            "dtype": _DTYPE_NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        blobs.append(array.tobytes())
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *blobs])


def unpack(body: bytes) -> tuple[Arrays, dict[str, Any]]:
    """The inverse of `pack`. The arrays are read-only views into `body`.

    Raises BadInput for anything that is not exactly such a byte string.
    """
    header, data = _read_header(body)
    metadata = header.pop("__metadata__", {})
    try:
        message = json.loads(metadata["message"])
    except (KeyError, TypeError, ValueError):
        raise _malformed("the message has no readable metadata") from None
    if not isinstance(message, dict):
        raise _malformed("the metadata is not a record")
    return {name: _read_array(name, entry, data) for name, entry in header.items()}, message


def _read_header(body: bytes) -> tuple[dict[str, Any], memoryview]:
    if len(body) < 8:
        raise _malformed("fewer than 8 bytes")
    (length,) = struct.unpack_from("<Q", body)
    if length > min(MAX_HEADER_BYTES, len(body) - 8):
        raise _malformed("the header is longer than the message")
    try:
        header = json.loads(bytes(body[8 : 8 + length]))
    except (ValueError, RecursionError):
        raise _malformed("the header is not JSON") from None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise _malformed("the header is not a record")
    return header, memoryview(body)[8 + length :]


def _read_array(name: str, entry: Any, data: memoryview) -> np.ndarray:
    try:
        dtype = _DTYPES[entry["dtype"]]
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _malformed(f"array {name!r} has no readable description") from None
    sizes = (*shape, begin, end)
    if not all(type(size) is int and size >= 0 for size in sizes) or len(shape) > 8:
        raise _malformed(f"array {name!r} has an impossible shape")
    count = 1
    for size in shape:
        count *= size
    if end > len(data) or end - begin != count * dtype.itemsize:
        raise _malformed(f"array {name!r} does not fit the bytes that came")
    return np.frombuffer(data[begin:end], dtype).reshape(shape)


def _malformed(detail: str) -> BadInput:
    return BadInput(
        f"The message cannot be read: {detail}.",
        "It was cut off or was not made by Fieldforge. Send it again.",
    )


# ------------------------------------------------------------------------------------------ tasks


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What every job has. `seed` chooses among the results of a model that samples."""

    kind: ClassVar[str]
    name: str = "Fieldforge"
    model: str = "wavelet-fit"
    seed: int = 0

    def validate(self) -> None:
        """Raise BadInput when the task cannot be worked on; cheap, O(array size)."""
        if not isinstance(self.name, str) or not 0 < len(self.name) <= MAX_NAME_LENGTH:
            raise BadInput(
                "The name of the source is empty or too long.",
                f"Rename it to at most {MAX_NAME_LENGTH} letters.",
            )
        if not isinstance(self.model, str):
            raise BadInput("The model is not a name.", "Choose a model of the list.")
        if type(self.seed) is not int or not 0 <= self.seed < 2**31:
            raise BadInput(
                f"The seed {self.seed!r} cannot be used.",
                "Use a whole number from 0 to 2147483647.",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class PointsToMesh(Task):
    """A surface through a point cloud.

    points: (N, 3) float32, any unit, any position (the result comes back in the same frame).
    normals: (N, 3) float32 pointing outward, any length, or None: they are then estimated.
    colors: (N, 4) uint8 sRGB + alpha, or None; they come back per vertex.
    resolution: nodes along each side of the cube in which the surface is solved.
    """

    kind: ClassVar[str] = "points-to-mesh"
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    normals: np.ndarray | None = None
    colors: np.ndarray | None = None
    resolution: int = 256

    def validate(self) -> None:
        super().validate()
        _check_resolution(self.resolution)
        check_points(self.points)
        count = len(self.points)
        _check_array("normals", self.normals, (count, 3), "f")
        _check_array("colors", self.colors, (count, 4), "u")


@dataclass(frozen=True, kw_only=True, eq=False)
class VoxelsToMesh(Task):
    """A smooth surface around occupied voxels.

    occupancy: (X, Y, Z) bool or uint8, 8 to 512 along each axis, not zero = inside.
    origin: corner of voxel (0, 0, 0) with the lowest coordinates; voxel_size: edge lengths;
    both (3,) float64 in the frame in which the result comes back.
    """

    kind: ClassVar[str] = "voxels-to-mesh"
    occupancy: np.ndarray = field(default_factory=lambda: np.zeros((8, 8, 8), bool))
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resolution: int = 256

    def validate(self) -> None:
        super().validate()
        _check_resolution(self.resolution)
        check_occupancy(self.occupancy)
        try:
            frame = np.array([self.origin, self.voxel_size], float)
        except (TypeError, ValueError):
            frame = np.full((2, 3), np.nan)
        if frame.shape != (2, 3) or not np.isfinite(frame).all() or (frame[1] <= 0).any():
            raise BadInput(
                "The voxels have no size.", "Apply the scale of the object, or give a size above 0."
            )


def check_points(points: np.ndarray) -> None:
    """Raise BadInput unless `points` is (N, 3) float, finite, N in limits, and fills a volume."""
    _check_array("points", points, (None, 3), "f")
    count = len(points)
    if count < MIN_POINTS:
        raise BadInput(
            f"{count:,} points are too few for a surface.",
            f"Select a point cloud of at least {MIN_POINTS} points.",
        )
    if count > MAX_POINTS:
        raise TooLarge(
            f"{count:,} points are more than the {MAX_POINTS:,} that are accepted.",
            "Thin the cloud out first, for example with Merge by Distance.",
        )
    bad = count - int(np.isfinite(points).all(axis=1).sum())
    if bad:
        raise BadInput(
            f"{bad:,} of {count:,} points have coordinates that are not numbers (NaN or infinite).",
            "Delete those points and try again.",
        )
    _check_spread(points)


def _check_spread(points: np.ndarray) -> None:
    """A surface needs points that spread in three directions."""
    centred = points.astype(np.float64)
    centred -= centred.mean(axis=0)
    scale = float(np.abs(centred).max())
    if scale <= 1e-7 * max(1.0, float(np.abs(points).max())):
        raise BadInput("All points are at the same place.", "Select a cloud of points that differ.")
    centred /= scale
    spread = np.sqrt(np.maximum(np.linalg.eigvalsh(centred.T @ centred / len(centred)), 0))
    flat = int((spread < 1e-4 * spread[-1]).sum())
    if flat:
        shape = "in a plane" if flat == 1 else "on a line"
        raise BadInput(
            f"All points lie {shape}, which has no inside.",
            "Select points that were taken from all around an object.",
        )


def check_occupancy(occupancy: np.ndarray) -> None:
    """Raise BadInput unless `occupancy` is a grid in limits with inside and outside."""
    _check_array("occupancy", occupancy, (None, None, None), "bu")
    if min(occupancy.shape) < 1 or max(occupancy.shape) < MIN_VOXEL_SIDE:
        raise BadInput(
            f"A grid of {_times(occupancy.shape)} voxels is too small.",
            f"Use at least {MIN_VOXEL_SIDE} voxels along the longest side.",
        )
    if max(occupancy.shape) > MAX_VOXEL_SIDE:
        raise TooLarge(
            f"A grid of {_times(occupancy.shape)} voxels is larger than accepted.",
            f"Use at most {MAX_VOXEL_SIDE} voxels along each side.",
        )
    filled = int(np.count_nonzero(occupancy))
    if filled == 0:
        raise BadInput("All voxels are empty.", "Fill the voxels that are inside the shape.")
    if filled == occupancy.size:
        raise BadInput(
            "All voxels are full, so there is no surface among them.",
            "Leave at least one voxel empty.",
        )


def _check_resolution(resolution: int) -> None:
    if type(resolution) is not int or resolution not in RESOLUTIONS:
        raise BadInput(
            f"Resolution {resolution!r} is not available.",
            f"Choose one of {', '.join(map(str, RESOLUTIONS))}.",
        )


def _check_array(
    name: str, array: np.ndarray | None, shape: tuple[int | None, ...], kinds: str
) -> None:
    if array is None:
        return
    if not isinstance(array, np.ndarray):
        raise BadInput(f"The {name} are not an array.", "Send the selection again.")
    fits = array.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in kinds:
        want = _times(tuple("N" if size is None else size for size in shape))
        raise BadInput(
            f"The {name} are {_times(array.shape)} {array.dtype}; expected {want}.",
            "Check how the file was made, or send the selection again.",
        )


def _times(shape: tuple[Any, ...]) -> str:
    return " x ".join(map(str, shape))


TASKS: dict[str, type[Task]] = {task.kind: task for task in (PointsToMesh, VoxelsToMesh)}


def encode_task(task: Task) -> bytes:
    """A task -> bytes; None fields and defaults are left out."""
    return _encode(task, {"protocol": PROTOCOL_VERSION, "kind": task.kind})


def decode_task(body: bytes) -> Task:
    """Bytes -> a validated task. Raises BadInput or VersionMismatch."""
    arrays, message = unpack(body)
    check_protocol(message.pop("protocol", None))
    kind = message.pop("kind", None)
    if not isinstance(kind, str) or kind not in TASKS:
        raise BadInput(
            f"This backend does not know the task {kind!r}.",
            f"It can do {', '.join(TASKS)}. Update the backend in Preferences.",
        )
    task = _decode(TASKS[kind], arrays, message)
    task.validate()
    return task


def check_protocol(version: object) -> None:
    """Raise VersionMismatch when the other side speaks another protocol."""
    if version != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"The other side speaks protocol {version}, this one {PROTOCOL_VERSION}.",
            "Install the same version of Fieldforge on both sides (Preferences > Repair).",
        )


# ---------------------------------------------------------------------------- progress and results


@dataclass(frozen=True)
class Progress:
    """Where a job stands. `stage` is a short name for people, `fraction` in 0..1 is of the job."""

    stage: str
    fraction: float

    def to_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, "fraction": round(float(self.fraction), 4)}


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshResult:
    """A triangle mesh in the frame of its source.

    vertices: (V, 3) float32, or float64 where the source is so far from its origin that float32
    would blur the shape; faces: (F, 3) int32, counter-clockwise from outside.
    colors: (V, 4) uint8 sRGB + alpha, or None.
    to_source: (4, 4) float64, from the cube [-1, 1]^3 of the models to the frame of the source
    (a similarity unless voxels are no cubes; `vertices` have it applied already).
    report: seconds per stage, device, model, seed and whatever else the pipeline measured.
    """

    kind: ClassVar[str] = "mesh"
    name: str = "Fieldforge"
    vertices: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    faces: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    colors: np.ndarray | None = None
    to_source: np.ndarray = field(default_factory=lambda: np.eye(4))
    report: dict[str, Any] = field(default_factory=dict)


Result = MeshResult
RESULTS: dict[str, type[MeshResult]] = {MeshResult.kind: MeshResult}


def encode_result(result: Result) -> bytes:
    return _encode(result, {"protocol": PROTOCOL_VERSION, "kind": result.kind})


def decode_result(body: bytes) -> Result:
    """Bytes -> a result. Raises BadInput or VersionMismatch."""
    arrays, message = unpack(body)
    check_protocol(message.pop("protocol", None))
    kind = message.pop("kind", None)
    if not isinstance(kind, str) or kind not in RESULTS:
        raise BadInput(f"Unknown result {kind!r}.", "Update the add-on.")
    return _decode(RESULTS[kind], arrays, message)


def _encode(record: Any, message: dict[str, Any]) -> bytes:
    arrays: Arrays = {}
    for spec in dataclasses.fields(record):
        value = getattr(record, spec.name)
        if isinstance(value, np.ndarray):
            arrays[spec.name] = value
        elif value is not None and value != spec.default:
            message[spec.name] = value
    return pack(arrays, message)


def _decode(kind: Callable[..., Any], arrays: Arrays, message: dict[str, Any]) -> Any:
    names = {spec.name for spec in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted((set(arrays) | set(message)) - names)
    if unknown:
        raise BadInput(
            f"The message has fields that are not known here: {', '.join(unknown)}.",
            "Install the same version of Fieldforge on both sides.",
        )
    try:
        return kind(**message, **arrays)
    except (TypeError, ValueError) as error:
        raise _malformed(str(error)) from None
