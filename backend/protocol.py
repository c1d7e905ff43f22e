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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from . import moving_meshes, neural_fields
from .depth_meanings import DEPTH_MEANINGS as DEPTH_MEANINGS
from .depth_meanings import METRIC, DepthMeaning
from .depth_meanings import radii as radii
from .errors import BadInput, TooLarge, VersionMismatch
from .moving_meshes import check_together as check_together
from .neural_fields import NeuralField as NeuralField
from .neural_fields import playable_fps as playable_fps
from .neural_fields import why_not_mixed as why_not_mixed
from .posed_views import (
    check_around,
    check_at_one_place,
    check_different,
    check_field,
    check_intrinsics,
    check_poses,
)

PROTOCOL_VERSION = 1
CONTENT_TYPE = "application/x-fieldforge"
RESOLUTIONS = (128, 256, 512)

MIN_POINTS = 50
MAX_POINTS = 50_000_000
MIN_VOXEL_SIDE = 8
MAX_VOXEL_SIDE = 512
MAX_HEADER_BYTES = 1 << 20
MAX_NAME_LENGTH = 255
MAX_PROMPT_LENGTH = 1000
MAX_IMAGE_SIDE = 16_384
MAX_IMAGE_PIXELS = 120_000_000
MAX_VIEWS = 64
MAX_SCENE_VIEWS = 256
VIEW_SIZES = (32, 1024)
SCENE_RESOLUTIONS = (0, 128, 256)
MAX_TEXTURE_SIDE = 8192
MAX_STROKE_POINTS = 5_000_000
MAX_STEPS = 1000
MAX_GUIDANCE = 30.0
MAX_VARIATIONS = 16
LATENT_SIDE = 12
MAX_LATENT_CHANNELS = 64
UP_AXES = ("z", "y")
DEPTH_ENCODINGS = ("metres", "near-bright", "near-dark")
BACKGROUNDS = ("auto", "keep", "remove")
MAX_PANORAMA_WIDTH = 16_384
MAX_PANORAMA_PIXELS = MAX_PANORAMA_WIDTH**2 // 2
SPHERE_WIDTHS = (64, 4096)
EDGES = ("cut", "sheet")
ASPECTS = ("strict", "pad", "partial")
LAYER_KINDS = ("front", "backing", "sky")
MAX_PICTURE_WIDTH = 512
VIEW_KINDS = ("image", "depth")
EFFORTS = ("fast", "good", "best")
FIELD_RESOLUTIONS = (32, 64, 128, 256, 512)
TOPOLOGIES = ("frames", "one")
MAX_AMOUNTS = 101
MAX_GENERATED_FRAMES = 16
MAX_RESULT_FRAMES = 1024

Arrays = dict[str, np.ndarray]

# ------------------------------------------------------------------------------------------ bytes

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
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
    except (KeyError, TypeError, ValueError, RecursionError):
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
    try:
        return np.frombuffer(data[begin:end], dtype).reshape(shape)
    except (ValueError, OverflowError):  # no bytes, but sides beyond what numpy counts
        raise _malformed(f"array {name!r} has an impossible shape") from None


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
class Generation(Task):
    """A task that models with seeds and steps can do; models without ignore what they lack.

    model: "" stands for the best one that is installed for the task.
    steps, guidance: of the sampler; None: what the model's authors found best.
    variations: shapes made as one batch; number k is the one of seed + k. More than one come back
    as a MeshSet.
    preview: also tell what forms, after each step (`Preview`).
    as_published: as the published command line does it, its faults included, for comparison.
    up_axis: which axis of the source points up, "z" or "y". Models see their y axis up. What has
    no frame of its own (image, sketch, text, nothing) comes back in the cube [-1, 1]^3 with that
    axis up.
    latent, region: make only a part of an earlier result anew. latent: `MeshResult.latent` of it,
    with which only the model that made it can go on; region: (4, 4) float64, from the box [-1, 1]^3
    to the frame of the source; what lies in it is sampled anew, the rest stays.
    """

    model: str = ""
    steps: int | None = None
    guidance: float | None = None
    variations: int = 1
    preview: bool = False
    as_published: bool = False
    up_axis: str = "z"
    latent: np.ndarray | None = None
    region: np.ndarray | None = None

    def validate(self) -> None:
        super().validate()
        _check_whole("steps", self.steps, 1, MAX_STEPS)
        _check_whole("variations", self.variations, 1, MAX_VARIATIONS)
        if self.guidance is not None and not _is_number(self.guidance, 0, MAX_GUIDANCE):
            raise BadInput(
                f"The guidance {self.guidance!r} cannot be used.",
                f"Use a number from 0 to {MAX_GUIDANCE:g}; 1 to 3 is usual.",
            )
        for name in ("preview", "as_published"):
            if type(getattr(self, name)) is not bool:
                raise BadInput(f"{name} is neither yes nor no.", "Send true or false.")
        _check_choice("up axis", self.up_axis, UP_AXES)
        self._check_region()

    def _check_region(self) -> None:
        if self.latent is not None and not is_latent(self.latent):
            raise BadInput(
                "The earlier shape is not one that a model can go on with.",
                "Choose a result that was generated here.",
            )
        _check_array("region", self.region, (4, 4), "f")
        if (self.latent is None) != (self.region is None):
            raise BadInput(
                "Only one of the earlier shape and the region to make anew was given.",
                "Choose a result that was generated here and a box over the part to change.",
            )
        for array in (self.latent, self.region):
            if array is not None and not np.isfinite(array).all():
                raise BadInput(
                    "The region or the earlier shape has values that are not numbers.",
                    "Generate the shape once more, then choose the region again.",
                )
        if self.region is not None and _is_flat(self.region[:3, :3].astype(np.float64)):
            raise BadInput("The region is flat.", "Give the box a size along all three axes.")


@dataclass(frozen=True, kw_only=True, eq=False)
class PointsToMesh(Generation):
    """A surface through a point cloud.

    points: (N, 3) float32, any unit, any position (the result comes back in the same frame).
    normals: (N, 3) float32 pointing outward, any length, or None: they are then estimated.
    colors: (N, 4) uint8 sRGB + alpha, or None; they come back per vertex.
    resolution: nodes along each side of the cube in which the surface is solved; models that
    generate have one of their own.
    refine: after generating, lead the surface through the points, where there are points.
    """

    kind: ClassVar[str] = "points-to-mesh"
    model: str = "wavelet-fit"
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    normals: np.ndarray | None = None
    colors: np.ndarray | None = None
    resolution: int = 256
    refine: bool = False

    def validate(self) -> None:
        super().validate()
        _check_resolution(self.resolution)
        check_points(self.points)
        count = len(self.points)
        _check_array("normals", self.normals, (count, 3), "f")
        _check_array("colors", self.colors, (count, 4), "u")


@dataclass(frozen=True, kw_only=True, eq=False)
class VoxelsToMesh(Generation):
    """A smooth surface around occupied voxels.

    occupancy: (X, Y, Z) bool or uint8, 8 to 512 along each axis, not zero = inside.
    origin: corner of voxel (0, 0, 0) with the lowest coordinates; voxel_size: edge lengths;
    both (3,) float64 in the frame in which the result comes back.
    refine: after generating, keep the centre of every voxel on its side of the surface.
    """

    kind: ClassVar[str] = "voxels-to-mesh"
    model: str = "wavelet-fit"
    occupancy: np.ndarray = field(default_factory=lambda: np.zeros((8, 8, 8), bool))
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resolution: int = 256
    refine: bool = False

    def validate(self) -> None:
        super().validate()
        _check_resolution(self.resolution)
        check_occupancy(self.occupancy)
        try:
            frame = np.array([self.origin, self.voxel_size], float)
        except (TypeError, ValueError, OverflowError):
            frame = np.full((2, 3), np.nan)
        if frame.shape != (2, 3) or not np.isfinite(frame).all() or (frame[1] <= 0).any():
            raise BadInput(
                "The voxels have no size.", "Apply the scale of the object, or give a size above 0."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageToMesh(Generation):
    """A shape from one picture of it.

    image: (H, W, 3) or (H, W, 4) uint8 sRGB, straight alpha, row 0 at the top.
    background: "auto" removes a plain one, "remove" also one that is not quite plain, "keep".
    """

    kind: ClassVar[str] = "image-to-mesh"
    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    background: str = "auto"

    def validate(self) -> None:
        super().validate()
        check_image(self.image)
        _check_choice("background", self.background, BACKGROUNDS)


@dataclass(frozen=True, kw_only=True, eq=False)
class SketchToMesh(Generation):
    """A shape from a line drawing: a picture of it, or its strokes; exactly one of the two.

    image: as in ImageToMesh, lines of any one tone on any plain ground.
    strokes: (P, 3) float32: x to the right, y down, width of the pen; one unit for all three.
    stroke_lengths: (S,) int32, points per stroke, in order; sums to P.
    """

    kind: ClassVar[str] = "sketch-to-mesh"
    image: np.ndarray | None = None
    strokes: np.ndarray | None = None
    stroke_lengths: np.ndarray | None = None

    def validate(self) -> None:
        super().validate()
        if (self.image is None) == (self.strokes is None):
            raise BadInput("There is no sketch.", "Draw something, or choose a picture.")
        if self.image is not None:
            check_image(self.image)
        else:
            self._check_strokes()

    def _check_strokes(self) -> None:
        strokes, lengths = self.strokes, self.stroke_lengths
        _check_array("strokes", strokes, (None, 3), "f")
        _check_array("stroke lengths", lengths, (None,), "i")
        if strokes is None or lengths is None or not len(strokes) or not len(lengths):
            raise BadInput("The sketch is empty.", "Draw at least one line.")
        if len(strokes) > MAX_STROKE_POINTS:
            raise TooLarge(
                f"The sketch has {len(strokes):,} points; {MAX_STROKE_POINTS:,} are accepted.",
                "Simplify its strokes, or render it to a picture.",
            )
        if (lengths < 1).any() or int(lengths.sum(dtype=np.int64)) != len(strokes):
            raise BadInput("The strokes of the sketch do not add up.", "Send the sketch again.")
        if not np.isfinite(strokes).all() or (strokes[:, 2] < 0).any():
            raise BadInput(
                "The sketch has points without a place or a width.", "Delete those strokes."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthToMesh(Generation):
    """A shape from a depth picture of it.

    depth: (H, W), row 0 at the top. "metres": float32 along the camera's axis or ray, inf or NaN
    where there is nothing. "near-bright" or "near-dark": uint8, uint16 or float32 of any range;
    the far end of the range is taken for empty.
    """

    kind: ClassVar[str] = "depth-to-mesh"
    depth: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    encoding: str = "metres"

    def validate(self) -> None:
        super().validate()
        _check_choice("depth encoding", self.encoding, DEPTH_ENCODINGS)
        _check_array("depth", self.depth, (None, None), "fu")
        check_depth(self.depth, self.encoding)


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewsToMesh(Generation):
    """A shape from several views of it.

    images: (V, H, W, 3) or (V, H, W, 4) uint8, or depths: (V, H, W) as in DepthToMesh; exactly
    one of the two. cameras: from where each is, V numbers of VIEW_CAMERAS, all different; or None
    for the first V of the model's cameras, in their order. How many and which a model takes: its
    `views` and `cameras`; one with `any_views` takes any of them.
    texture, texture_size: as in ViewsToScene, of the colours that pictures give to the mesh. Depth
    has none, nor have pictures of whose outlines or cameras nothing is known.
    """

    kind: ClassVar[str] = "views-to-mesh"
    images: np.ndarray | None = None
    depths: np.ndarray | None = None
    encoding: str = "metres"
    background: str = "auto"
    cameras: tuple[int, ...] | None = None
    texture: bool = True
    texture_size: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.cameras, list):  # as a message holds them
            object.__setattr__(self, "cameras", tuple(self.cameras))

    def validate(self) -> None:
        super().validate()
        _check_choice("depth encoding", self.encoding, DEPTH_ENCODINGS)
        _check_choice("background", self.background, BACKGROUNDS)
        if (self.images is None) == (self.depths is None):
            raise BadInput("There are no views.", "Give either pictures or depth pictures.")
        views = self.images if self.images is not None else self.depths
        if not isinstance(views, np.ndarray) or views.ndim < 3 or not 1 <= len(views) <= MAX_VIEWS:
            raise BadInput(
                "The views are not a stack of pictures.",
                f"Give 1 to {MAX_VIEWS} pictures of one size.",
            )
        for view in views:
            if self.images is not None:
                check_image(view)
            else:
                _check_array("depth", view, (None, None), "fu")
                check_depth(view, self.encoding)
        _check_view_numbers(self.cameras, len(views))
        _check_texture(self.texture, self.texture_size)


@dataclass(frozen=True, kw_only=True, eq=False)
class TextToMesh(Generation):
    """A shape from words. prompt: what it shall be, in English."""

    kind: ClassVar[str] = "text-to-mesh"
    prompt: str = ""

    def validate(self) -> None:
        super().validate()
        check_prompt(self.prompt, "Write what the shape shall be: a wooden chair.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Shape(Generation):
    """A shape of the model's own choice."""

    kind: ClassVar[str] = "shape"


@dataclass(frozen=True, kw_only=True, eq=False)
class PanoramaTask(Task):
    """A task about an equirectangular picture: all directions around the eye.

    The frame has Z up and the eye at the origin. Pixel (row i from the top, column j) of H x W
    looks along (cos t cos p, cos t sin p, sin t) with p = 2 pi (1/2 - (j + 1/2) / W) and
    t = pi (1/2 - (i + 1/2) / H): the middle is +X, a quarter to the left of it +Y, the top +Z.

    image: (H, W, 3) or (H, W, 4) uint8 sRGB, or float32 linear.
    aspect: what to do where it is not twice as wide as high: "strict" refuses it, "pad" adds what
    is missing at the top and the bottom, or at the sides, as directions without depth; "partial"
    takes it for a part around +X, `field_of_view` degrees wide.
    """

    model: str = ""
    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    aspect: str = "strict"
    field_of_view: float = 180.0

    def validate(self) -> None:
        super().validate()
        check_panorama_image(self.image)
        _check_choice("aspect", self.aspect, ASPECTS)
        if not _is_number(self.field_of_view, 10, 360):
            raise BadInput(
                f"The field of view {self.field_of_view!r} cannot be used.",
                "Use 10 to 360 degrees.",
            )
        check_panorama_aspect(self.image.shape[1], self.image.shape[0], self.aspect)


@dataclass(frozen=True, kw_only=True, eq=False)
class PanoramaToDepth(PanoramaTask):
    """How far everything in a panorama is. model: the depth model, "" for the best that is here."""

    kind: ClassVar[str] = "panorama-to-depth"


@dataclass(frozen=True, kw_only=True, eq=False)
class PanoramaWithDepth(PanoramaTask):
    """A panorama whose depth is known, or is told by a model first.

    depth: (h, w) uint8, uint16 or float32 of the same directions as `image`, of any size; not
    finite, or 0 metres, where there is sky or nothing was measured. None: the model
    `depth_model` ("" for the best that is here) makes it, and `meaning` keeps only its scale and
    offset. Whole numbers are brought to 0..1 unless `meaning` is metric.
    width: of the mesh, in quads; 0: that of the depth, within 512..2048.
    edges: where the depth jumps, "cut" with another surface behind, or "sheet", stretched.
    """

    model: str = "depth-sphere"
    depth: np.ndarray | None = None
    depth_model: str = ""
    meaning: DepthMeaning = METRIC
    width: int = 0
    edges: str = "cut"

    def validate(self) -> None:
        super().validate()
        _check_meaning(self.meaning)
        _check_choice("edges", self.edges, EDGES)
        _check_sphere_width(self.width)
        if not isinstance(self.depth_model, str):
            raise BadInput("The depth model is not a name.", "Choose a model of the list.")
        if self.depth is not None:
            check_panorama_depth(self.depth)
            check_same_aspect(self.image.shape[:2], self.depth.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class PanoramaToSphere(PanoramaWithDepth):
    """A panorama with depth -> a textured mesh around the eye (SphereResult)."""

    kind: ClassVar[str] = "panorama-to-sphere"


@dataclass(frozen=True, kw_only=True, eq=False)
class PanoramaToStereo(PanoramaWithDepth):
    """A panorama with depth -> one panorama for each eye (StereoResult), omni-directional: the eyes
    look tangentially from a circle. interocular: distance of the eyes in metres."""

    kind: ClassVar[str] = "panorama-to-stereo"
    interocular: float = 0.065

    def validate(self) -> None:
        super().validate()
        if not _is_number(self.interocular, 0.0, 10.0):
            raise BadInput(
                f"The distance of the eyes {self.interocular!r} cannot be used.",
                "Use metres from 0 to 10; people have 0.065.",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class TextToPanorama(Task):
    """A panorama with depth from words.

    model: "" for the best that is here. steps, guidance: of the sampler, None: what its authors
    found best. negative: what it shall not be. width, height: pixels, multiples of 8, 0: the
    model's own.
    preview: also tell what forms, by `Progress.picture`.
    sphere: go on to a SphereResult with `meaning`, `mesh_width` and `edges` as in PanoramaToSphere;
    else the result is a PanoramaResult. meaning: None: what the model's depth means.
    """

    kind: ClassVar[str] = "text-to-panorama"
    model: str = ""
    prompt: str = ""
    negative: str = ""
    steps: int | None = None
    guidance: float | None = None
    width: int = 0
    height: int = 0
    preview: bool = False
    sphere: bool = True
    meaning: DepthMeaning | None = None
    mesh_width: int = 0
    edges: str = "cut"

    def validate(self) -> None:
        super().validate()
        check_prompt(self.prompt, "Write what is to be seen: a sunny living room.")
        if self.negative:
            check_prompt(self.negative, "Write what is not to be seen, or nothing.")
        _check_whole("steps", self.steps, 1, MAX_STEPS)
        if self.guidance is not None and not _is_number(self.guidance, 0, MAX_GUIDANCE):
            raise BadInput(
                f"The guidance {self.guidance!r} cannot be used.",
                f"Use a number from 0 to {MAX_GUIDANCE:g}; 5 to 7 is usual.",
            )
        for name in ("width", "height"):
            value = getattr(self, name)
            if type(value) is not int or value % 8 or not (value == 0 or 64 <= value <= 4096):
                raise BadInput(
                    f"The {name} {value!r} cannot be used.",
                    "Use a multiple of 8 from 64 to 4096, or 0 for the model's own.",
                )
        for name in ("preview", "sphere"):
            if type(getattr(self, name)) is not bool:
                raise BadInput(f"{name} is neither yes nor no.", "Send true or false.")
        if self.meaning is not None:
            _check_meaning(self.meaning)
        _check_choice("edges", self.edges, EDGES)
        _check_sphere_width(self.mesh_width)


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewsTask(Task):
    """Pictures of one thing from several cameras.

    model: "" for the best that is here.
    poses: (V, 4, 4) float32, camera to world (matrix_world), the cameras; or None for a ring around
    `center` at `elevation` degrees, `radius` away, that begins at azimuth `start` in degrees (0 is
    Blender's front view, 90 is seen from +X) and has `views` cameras, plus, with `caps`, one from
    60 degrees above and one from 60 below, last. 0 views, no elevation, 0 radius: the model's own.
    center, extent: the cube that the thing is in, its middle and its side.
    intrinsics: (V, 4) float32 fx, fy, cx, cy in pixels of the given pictures, or without such of
    `size` x `size`; the centre of the first pixel is 0. None: `field` degrees across the picture,
    0: the model's own.
    size: pixels of the views that are made, which are square; 0: the model's own.
    steps, guidance: of the sampler, None: what the model's authors found best.
    path: make the views one after the other along the given order, each beside the earlier ones;
    else all at once, as many as memory holds.
    preview: also tell what forms, by `Progress.picture`: all views in rows.
    """

    model: str = ""
    poses: np.ndarray | None = None
    intrinsics: np.ndarray | None = None
    views: int = 0
    elevation: float | None = None
    radius: float = 0.0
    start: float = 0.0
    caps: bool = False
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    extent: float = 2.0
    field: float = 0.0
    size: int = 0
    steps: int | None = None
    guidance: float | None = None
    path: bool = False
    preview: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.center, list):  # as a message holds it
            object.__setattr__(self, "center", tuple(self.center))

    @property
    def count(self) -> int:
        """How many cameras there are; 0: as many as the model makes."""
        if self.poses is not None:
            return len(self.poses)
        return self.views + 2 * self.caps if self.views else 0

    def validate(self) -> None:
        super().validate()
        _check_cube(self.center, self.extent)
        _check_whole("steps", self.steps, 1, MAX_STEPS)
        if self.guidance is not None and not _is_number(self.guidance, 0, MAX_GUIDANCE):
            raise BadInput(
                f"The guidance {self.guidance!r} cannot be used.",
                f"Use a number from 0 to {MAX_GUIDANCE:g}; 1 to 7.5 is usual.",
            )
        for name in ("caps", "path", "preview"):
            if type(getattr(self, name)) is not bool:
                raise BadInput(f"{name} is neither yes nor no.", "Send true or false.")
        least, most = VIEW_SIZES
        if (
            type(self.size) is not int
            or self.size % 8
            or not (self.size == 0 or least <= self.size <= most)
        ):
            raise BadInput(
                f"Views of {self.size!r} pixels cannot be made.",
                f"Use a multiple of 8 from {least} to {most}, or 0 for the model's own.",
            )
        self._check_cameras()

    def _check_cameras(self) -> None:
        check_field(self.field, may_be_0=True)
        self._check_ring()
        poses = self.poses
        if poses is not None:
            check_poses(poses, MAX_VIEWS)
            check_different(poses)
        elif self.radius:
            poses = ring_poses(max(self.views, 1), self.elevation or 0.0, self.radius, self.start)
            poses[:, :3, 3] += self.center
        if poses is not None:
            check_around(poses, self.center, self.extent)
        if self.intrinsics is None:
            return
        if self.poses is None:
            raise BadInput(
                "Focal lengths were given, but no cameras that they belong to.",
                "Give the cameras, or one field of view for the ring.",
            )
        check_intrinsics(self.intrinsics, len(self.poses))

    def _check_ring(self) -> None:
        _check_whole("views", self.views, 0, MAX_VIEWS - 2)
        if self.elevation is not None and not _is_number(self.elevation, -89, 89):
            raise BadInput(
                f"The elevation {self.elevation!r} cannot be used.",
                "Use -89 to 89 degrees above the horizon.",
            )
        if not _is_number(self.radius, 0, 1e9):
            raise BadInput(
                f"The radius {self.radius!r} of the ring cannot be used.",
                "Use a distance above 0, or 0 for the model's own.",
            )
        if not _is_number(self.start, -360, 360):
            raise BadInput(
                f"The ring cannot start at {self.start!r} degrees.", "Use -360 to 360 degrees."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageToViews(ViewsTask):
    """Views around a thing from one picture of it, or from several (ViewsResult).

    images: (K, H, W, 3) or (K, H, W, 4) uint8 sRGB, straight alpha. The first K poses are theirs;
    without poses K is 1 and the picture is the one at `start`. prompt: what it is, or "".
    background: as in ImageToMesh.
    """

    kind: ClassVar[str] = "image-to-views"
    images: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    prompt: str = ""
    background: str = "auto"

    def validate(self) -> None:
        super().validate()
        _check_stack(self.images, MAX_VIEWS)
        _check_choice("background", self.background, BACKGROUNDS)
        if self.prompt:
            check_prompt(self.prompt, "Write what is to be seen, or nothing.")
        given = len(self.images)
        if self.poses is None and given > 1:
            raise BadInput(
                f"{given} pictures were given, but not from where they were taken.",
                "Give a camera for each of them, or one picture only.",
            )
        if self.count and self.count <= given:
            raise BadInput(
                f"There {'is 1 camera' if self.count == 1 else f'are {self.count} cameras'} and"
                f" {given} given picture{'s' if given > 1 else ''}: nothing is left to make.",
                "Add cameras, or give fewer pictures.",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class TextToViews(ViewsTask):
    """Views around a thing from words (ViewsResult). prompt: what it shall be, in English."""

    kind: ClassVar[str] = "text-to-views"
    prompt: str = ""

    def validate(self) -> None:
        super().validate()
        check_prompt(self.prompt, "Write what the thing shall be: a wooden chair.")
        if self.intrinsics is not None and not self.size:
            raise BadInput(
                "Focal lengths in pixels were given, but not how many pixels the views have.",
                "Give the size of the views, or a field of view instead.",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewsToScene(Task):
    """A mesh with a texture from pictures with known cameras.

    model: "" for the best that is here.
    images: (V, H, W, 3) or (V, H, W, 4) uint8 sRGB; alpha 0 is background.
    depths: (V, H, W) float32, along the camera's axis in units of the world, 0, inf or NaN where
    there is nothing; where they are None, or empty in every view, a model tells them, or the
    outlines alone decide.
    poses, intrinsics, field: as in ViewsTask, in pixels of `images`; one of the last two is needed.
    background: as in ImageToMesh.
    center, extent: the cube that the thing is in; extent 0: it is found from the views.
    resolution: cells along the cube's side, 0: by the size of the pictures.
    texture: also bake a picture of texture_size x texture_size (0: by the size of the pictures).
    """

    kind: ClassVar[str] = "views-to-scene"
    model: str = ""
    images: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    depths: np.ndarray | None = None
    poses: np.ndarray = field(default_factory=lambda: np.zeros((0, 4, 4), np.float32))
    intrinsics: np.ndarray | None = None
    field: float = 0.0
    background: str = "auto"
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    extent: float = 0.0
    resolution: int = 0
    texture: bool = True
    texture_size: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.center, list):  # as a message holds it
            object.__setattr__(self, "center", tuple(self.center))

    def validate(self) -> None:
        super().validate()
        # A camera that does not see the thing spoils nothing; the pipeline leaves its view out.
        _check_stack(self.images, MAX_SCENE_VIEWS, may_be_empty=True)
        self._check_cameras()
        _check_choice("background", self.background, BACKGROUNDS)
        if self.extent:
            _check_cube(self.center, self.extent)
            check_around(self.poses, self.center, self.extent)
        elif type(self.extent) not in (int, float):
            _check_cube(self.center, self.extent)
        if type(self.resolution) is not int or self.resolution not in SCENE_RESOLUTIONS:
            raise BadInput(
                f"Resolution {self.resolution!r} is not available.", "Choose 128 or 256."
            )
        _check_texture(self.texture, self.texture_size)

    def _check_cameras(self) -> None:
        views = len(self.images)
        check_poses(self.poses, MAX_SCENE_VIEWS)
        if len(self.poses) != views:
            raise BadInput(
                f"There are {views} pictures and {len(self.poses)} cameras.",
                "Give a camera for each picture, in the same order.",
            )
        check_field(self.field, may_be_0=self.intrinsics is not None)
        if self.intrinsics is not None:
            check_intrinsics(self.intrinsics, views)
        if self.depths is not None and self._tells_depth(self.depths):
            return
        if views == 1:
            raise BadInput(
                "One view without depth shows only one side of the thing.",
                "Give views from around it, or make them first (image-to-views).",
            )
        check_at_one_place(self.poses)

    def _tells_depth(self, depths: np.ndarray) -> bool:
        _check_array("depths", depths, self.images.shape[:3], "f")
        if (depths < 0).any():
            raise BadInput(
                "The depths are negative in places.", "Save them before they are inverted."
            )
        return bool((np.isfinite(depths) & (depths > 0)).any())


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshToField(Task):
    """A mesh, or one that moves, as a small neural field (FieldResult).

    vertices, faces, vertex_counts, face_counts: one mesh per frame as in `moving_meshes`, in the
    order of the frames, any topology in each; one frame is a shape at rest. The field comes back
    as a mesh, too, in the same frame of axes and units.
    fps, loop: of the motion, handed on.
    effort: "fast", "good" or "best": how long the network is fitted.
    resolution: nodes along a side for the mesh that comes back.
    topology: "frames": one mesh per frame; "one": one mesh whose vertices move, where that can be
    had without loss (else frames, and the report says why).
    half: round the weights to float16: half the bytes.
    up_axis: which axis of the source points up, "z" or "y".
    """

    kind: ClassVar[str] = "mesh-to-field"
    model: str = "neural-field"
    vertices: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    faces: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    vertex_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    face_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    fps: float = 24.0
    loop: bool = False
    effort: str = "good"
    resolution: int = 128
    topology: str = "frames"
    half: bool = False
    up_axis: str = "z"

    @property
    def frame_count(self) -> int:
        """How many frames there are."""
        return len(self.vertex_counts)

    def validate(self) -> None:
        super().validate()
        neural_fields.check_fps(self.fps)
        _check_flags(self, "loop", "half")
        _check_choice("effort", self.effort, EFFORTS)
        _check_field_surface(self.resolution, self.topology)
        _check_choice("up axis", self.up_axis, UP_AXES)
        moving_meshes.check_source(self.vertices, self.faces, self.vertex_counts, self.face_counts)


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldToMesh(Task):
    """A neural field, or what lies between two, as meshes (AnimationResult).

    weights: (K, W) float32 or float16 of K = 1 or 2 fields, the shorter one filled up with zeros;
    dimensions, frequencies, hidden, frame_count: of both; level, fps, loop, to_source: of the
    first, in whose place the meshes come. periods, starts: of each field, as `NeuralField` has
    them, or () where all are 0, or where nobody knows.
    amounts: (M,) float32 in 0..1: how much of the second field each step has; 0 with one field.
    The result has the frames of the first amount, then those of the next, and so on.
    frames: (F,) int32, which frames to make; None: all.
    resolution, topology: as in MeshToField; one topology is had of one amount only.
    """

    kind: ClassVar[str] = "field-to-mesh"
    model: str = "neural-field"
    weights: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    dimensions: int = 3
    frequencies: int = 4
    hidden: tuple[int, ...] = (128, 128, 128)
    periods: tuple[int, ...] = ()
    level: float = 0.0
    frame_count: int = 1
    fps: float = 24.0
    loop: bool = False
    to_source: np.ndarray = field(default_factory=lambda: np.eye(4))
    starts: tuple[str, ...] = ()
    amounts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.float32))
    frames: np.ndarray | None = None
    resolution: int = 128
    topology: str = "frames"

    def __post_init__(self) -> None:
        for name in ("hidden", "periods", "starts"):
            if isinstance(getattr(self, name), list):  # as a message holds them
                object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def of(
        cls, *fields: NeuralField, amounts: Sequence[float] | np.ndarray = (0.0,), **more: Any
    ) -> FieldToMesh:
        """The task for one field, or for two.

        Raises BadInput where two cannot be mixed.
        """
        if not 1 <= len(fields) <= 2:
            raise BadInput(
                f"{len(fields)} fields cannot be mixed.", "Choose one shape, or two to mix."
            )
        for one in fields:
            one.check()
        reason = why_not_mixed(fields[0].layout, fields[-1].layout)
        if reason:
            raise BadInput(
                f"These two cannot be mixed: {reason}.",
                "Choose two shapes, or two animations of as many frames, made by one model or both"
                " compressed here.",
            )
        octaves = max(one.frequencies for one in fields)
        alike = [one.widened(octaves) for one in fields]
        first = alike[0]
        weights = np.zeros((len(alike), max(len(one.weights) for one in alike)), np.float32)
        for row, one in zip(weights, alike, strict=True):
            row[: len(one.weights)] = one.weights
            # The last number is what is added to all: so both surfaces lie at one level.
            row[len(one.weights) - 1] += np.float32(first.level - one.level)
        return cls(
            weights=weights,
            dimensions=first.dimensions,
            frequencies=first.frequencies,
            hidden=first.hidden,
            periods=tuple(one.period for one in alike) if any(one.period for one in alike) else (),
            level=first.level,
            frame_count=first.frame_count,
            fps=first.fps,
            loop=first.loop,
            to_source=first.to_source,
            starts=tuple(one.start for one in fields),
            amounts=np.asarray(amounts, np.float32),
            **more,
        )

    def fields(self) -> tuple[NeuralField, ...]:
        """The fields, each by itself."""
        starts = self.starts or ("",) * len(self.weights)
        periods = self.periods or (0,) * len(self.weights)
        return tuple(
            NeuralField(
                weights=weights[: self._weights_of(period)],
                dimensions=self.dimensions,
                frequencies=self.frequencies,
                hidden=self.hidden,
                period=period,
                level=self.level,
                frame_count=self.frame_count,
                fps=self.fps,
                loop=self.loop,
                to_source=self.to_source,
                start=start,
            )
            for weights, start, period in zip(self.weights, starts, periods, strict=True)
        )

    def _weights_of(self, period: int) -> int:
        """Of a field of this period, where there are two of different ones: else all."""
        if len(set(self.periods)) < 2:
            return self.weights.shape[1]
        return neural_fields.weight_count(self.dimensions, self.frequencies, self.hidden, period)

    def validate(self) -> None:
        super().validate()
        _check_array("weights of the fields", self.weights, (None, None), "f")
        if not 1 <= len(self.weights) <= 2:
            raise BadInput(
                f"{len(self.weights)} fields cannot be mixed.", "Choose one shape, or two to mix."
            )
        if not isinstance(self.starts, tuple) or len(self.starts) not in (0, len(self.weights)):
            raise BadInput("The starts of the fields are not as many as they.", "Send them again.")
        if not isinstance(self.periods, tuple) or len(self.periods) not in (0, len(self.weights)):
            raise BadInput("The periods of the fields are not as many as they.", "Send them again.")
        for period in self.periods:
            neural_fields.check_layout(
                self.dimensions, self.frequencies, self.hidden, self.frame_count, period
            )
        for one in self.fields():
            one.check()
        self._check_amounts()
        self._check_frames()
        _check_field_surface(self.resolution, self.topology)
        meshes = len(self.amounts) * (self.frame_count if self.frames is None else len(self.frames))
        if meshes > MAX_RESULT_FRAMES:
            raise TooLarge(
                f"{meshes:,} meshes are more than the {MAX_RESULT_FRAMES:,} that are made at once.",
                "Choose fewer steps between the two, or fewer frames.",
            )

    def _check_amounts(self) -> None:
        _check_array("amounts", self.amounts, (None,), "f")
        if not 1 <= len(self.amounts) <= MAX_AMOUNTS:
            raise BadInput(
                f"{len(self.amounts)} steps between two shapes cannot be made.",
                f"Use 1 to {MAX_AMOUNTS}.",
            )
        if not ((self.amounts >= 0) & (self.amounts <= 1)).all():
            raise BadInput(
                "An amount lies outside of 0 to 1.", "Use 0 (the first) to 1 (the last)."
            )
        if len(self.weights) == 1 and self.amounts.any():
            raise BadInput(
                "There is one shape only: nothing lies between it and another.",
                "Choose two shapes to mix.",
            )
        if self.topology == "one" and len(self.amounts) > 1:
            raise BadInput(
                "Shapes between two others have no one topology.",
                "Choose one mesh per frame, or a single amount.",
            )

    def _check_frames(self) -> None:
        if self.frames is None:
            return
        _check_array("frames", self.frames, (None,), "i")
        wrong = (self.frames < 0) | (self.frames >= self.frame_count)
        if not len(self.frames) or wrong.any():
            raise BadInput(
                "Some of the frames are none of the field's.",
                f"Choose from 0 to {self.frame_count - 1}.",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Animation(Task):
    """A shape in motion of the model's own choice (AnimationResult, or an AnimationSet of several).

    model: "" for the best that is here. choice: one of the words that the model offers, "" for any.
    frames: 1 to 16, spread over the motion; 0: the model's own. fps: 0: the model's own, so that
    the motion takes its own time also with fewer frames.
    steps: of the sampler, None: what the model's authors found best. variations: as in Generation.
    resolution, topology: as in MeshToField. up_axis: which axis shall point up.
    """

    kind: ClassVar[str] = "animation"
    model: str = ""
    choice: str = ""
    frames: int = 0
    fps: float = 0.0
    steps: int | None = None
    variations: int = 1
    resolution: int = 128
    topology: str = "frames"
    up_axis: str = "z"

    def validate(self) -> None:
        super().validate()
        if self.choice:
            check_prompt(self.choice, "Choose one of the words that the model offers, or none.")
        elif not isinstance(self.choice, str):
            raise BadInput("The choice is no word.", "Choose one that the model offers, or none.")
        if self.frames != 0 or type(self.frames) is not int:
            _check_whole("frames", self.frames, 1, MAX_GENERATED_FRAMES)
        if self.fps != 0 or type(self.fps) not in (int, float):
            neural_fields.check_fps(self.fps)
        _check_whole("steps", self.steps, 1, MAX_STEPS)
        _check_whole("variations", self.variations, 1, MAX_VARIATIONS)
        if self.variations is None:
            raise BadInput("The number of variations is missing.", f"Use 1 to {MAX_VARIATIONS}.")
        _check_field_surface(self.resolution, self.topology)
        _check_choice("up axis", self.up_axis, UP_AXES)


@dataclass(frozen=True, kw_only=True, eq=False)
class DownloadModel(Task):
    """Fetch the weights of `model`. license: the identifier of the licence that was accepted."""

    kind: ClassVar[str] = "download-model"
    model: str = ""
    license: str = ""

    def validate(self) -> None:
        super().validate()
        if not isinstance(self.license, str):
            raise BadInput("The licence is not a name.", "Accept the licence of the model first.")


def check_prompt(prompt: object, advice: str) -> None:
    """Raise BadInput or TooLarge unless `prompt` is words; advice: where there are none."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInput("There is no text.", advice)
    if any(_is_control(letter) for letter in prompt):
        raise BadInput(
            "The text has characters that cannot be read.", "Type it again, without them."
        )
    if len(prompt) > MAX_PROMPT_LENGTH:
        raise TooLarge(
            f"The text has {len(prompt):,} letters.", f"Use at most {MAX_PROMPT_LENGTH:,}."
        )


def check_panorama_image(image: np.ndarray) -> None:
    """Raise BadInput or TooLarge unless `image` is (H, W, 3 or 4) uint8 or float32."""
    _check_array("image", image, (None, None, None), "uf")
    if image.dtype not in (np.uint8, np.float32) or image.shape[2] not in (3, 4):
        raise BadInput(
            f"The panorama is {_times(image.shape)} {image.dtype}.",
            "Give red, green, blue and, if there is, alpha: 8 bits each, or floating-point.",
        )
    check_panorama_size(image.shape[1], image.shape[0])


def check_panorama_size(width: int, height: int) -> None:
    """Raise BadInput or TooLarge for a panorama or its depth that is too small or too large."""
    if width < 8 or height < 4:
        raise BadInput(
            f"The panorama is {width} x {height} pixels, which shows no surroundings.",
            "Use a picture of at least 8 x 4 pixels; 2048 x 1024 or more are good.",
        )
    if width > MAX_PANORAMA_WIDTH or width * height > MAX_PANORAMA_PIXELS:
        raise TooLarge(
            f"The panorama is {width:,} x {height:,} pixels, more than is accepted.",
            f"Scale it down to {MAX_PANORAMA_WIDTH:,} x {MAX_PANORAMA_WIDTH // 2:,}.",
        )


def check_panorama_aspect(width: int, height: int, aspect: str) -> None:
    """Raise BadInput for a "strict" panorama that is not twice as wide as high, within 1 %."""
    if aspect == "strict" and abs(width - 2 * height) > max(0.01 * width, 1):
        raise BadInput(
            f"The panorama is {width} x {height} pixels, but all around is twice as wide as high.",
            'Choose "pad" for the aspect where it lacks the top and the bottom, "partial" where it'
            " shows a part of the way around.",
        )


def check_panorama_depth(depth: np.ndarray) -> None:
    """Raise BadInput unless `depth` is (h, w) uint8, uint16 or float32, with depth somewhere."""
    _check_array("depth", depth, (None, None), "uf")
    if depth.dtype not in (np.uint8, np.uint16, np.float32):
        raise BadInput(
            f"The depth is {depth.dtype}.", "Give 8 or 16 bits, or floating-point of 32 bits."
        )
    check_panorama_size(depth.shape[1], depth.shape[0])
    if depth.dtype.kind == "u":
        return
    finite = np.isfinite(depth)
    if not finite.any():
        raise BadInput(
            "The depth has no number anywhere: all of it is infinite or NaN.",
            "Check how it was saved, or leave it out so that a model tells the depth.",
        )
    lowest = float(np.min(depth, where=finite, initial=np.inf))
    if lowest < 0:
        raise BadInput(
            f"The depth is negative in places, down to {lowest:.3g}.",
            "Save distances from the eye (or inverse ones, all above 0), before anything is"
            " subtracted from them.",
        )


def check_same_aspect(picture: tuple[int, ...], depth: tuple[int, ...]) -> None:
    """Raise BadInput unless (height, width) of the picture and its depth have one aspect, within
    2 %, or one pixel of the smaller."""
    (high, wide), (h, w) = picture[:2], depth[:2]
    ours, theirs = wide / high, w / h
    allowed = max(0.02, 1 / h, 1 / high)
    if abs(ours / theirs - 1) > allowed:
        raise BadInput(
            f"The picture is {wide} x {high} pixels and the depth {w} x {h}: not of one shape.",
            "Give the depth of the same panorama, uncropped; its size may differ.",
        )


def _check_meaning(meaning: object) -> None:
    if not isinstance(meaning, DepthMeaning):
        raise BadInput("The meaning of the depth is not a record.", "Send the task again.")
    meaning.check()


def _check_sphere_width(width: object) -> None:
    least, most = SPHERE_WIDTHS
    if type(width) is not int or (width != 0 and not least <= width <= most):
        raise BadInput(
            f"A sphere of {width!r} quads around cannot be made.",
            f"Use {least} to {most}, or 0 for as many as the depth has.",
        )


def is_latent(array: object) -> bool:
    """Whether `array` is (C, 12, 12, 12) floats, with as many channels C as some model may have."""
    return (
        isinstance(array, np.ndarray)
        and array.dtype.kind == "f"
        and array.shape[1:] == (LATENT_SIDE,) * 3
        and 1 <= array.shape[0] <= MAX_LATENT_CHANNELS
    )


def check_image(image: np.ndarray, *, may_be_empty: bool = False) -> None:
    """Raise BadInput unless `image` is (H, W, 3 or 4) uint8 of a size that is accepted, and, unless
    it may be empty, shows something."""
    _check_array("image", image, (None, None, None), "u")
    if image.dtype != np.uint8 or image.shape[2] not in (3, 4):
        raise BadInput(
            f"The image is {_times(image.shape)} {image.dtype}.",
            "Give red, green, blue and, if there is, alpha, 8 bits each.",
        )
    check_image_size(image.shape[1], image.shape[0])
    if image.shape[2] == 4 and not may_be_empty and not image[..., 3].any():
        raise BadInput("The image is fully transparent.", "Use a picture that shows something.")


def check_image_size(width: int, height: int) -> None:
    """Raise BadInput for a picture of fewer than 2 pixels along a side, TooLarge for a huge one."""
    if min(width, height) < 2:
        raise BadInput(
            f"The picture is {width} x {height} pixels, which shows no shape.",
            "Use a picture of at least 2 pixels each way; 224 or more are good.",
        )
    if max(width, height) > MAX_IMAGE_SIDE or width * height > MAX_IMAGE_PIXELS:
        raise TooLarge(
            f"The picture is {width:,} x {height:,} pixels, more than is accepted.",
            "Scale it down: the models look at about 224 pixels along a side.",
        )


def check_depth(depth: np.ndarray, encoding: str) -> None:
    """Raise BadInput unless the (H, W) `depth` shows something."""
    check_image_size(depth.shape[1], depth.shape[0])
    if encoding == "metres" and depth.dtype.kind != "f":
        raise BadInput(
            "Depth in metres is given as whole numbers.",
            "Say whether near is bright or dark, or save the depth as floating-point numbers.",
        )
    finite = np.isfinite(depth) if depth.dtype.kind == "f" else np.ones(depth.shape, bool)
    if not finite.any():
        raise BadInput(
            "The depth is infinite everywhere.", "Turn the camera so that it sees the shape."
        )
    if encoding == "metres" and (depth[finite] < 0).any():
        raise BadInput("The depth is negative in places.", "Save the depth before it is inverted.")
    if encoding != "metres" and depth[finite].min() == depth[finite].max():
        raise BadInput(
            "The depth picture has the same value everywhere.",
            "Use one that shows a shape before an empty ground.",
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


def _check_field_surface(resolution: object, topology: object) -> None:
    if type(resolution) is not int or resolution not in FIELD_RESOLUTIONS:
        raise BadInput(
            f"Resolution {resolution!r} is not available.",
            f"Choose one of {', '.join(map(str, FIELD_RESOLUTIONS))}.",
        )
    _check_choice("topology", topology, TOPOLOGIES)


def _check_flags(task: Task, *names: str) -> None:
    for name in names:
        if type(getattr(task, name)) is not bool:
            raise BadInput(f"{name} is neither yes nor no.", "Send true or false.")


def _is_control(letter: str) -> bool:
    """Half a character, or one that stands for no letter; line ends and tabs are spaces."""
    return "\ud800" <= letter <= "\udfff" or (letter < " " and letter not in "\n\r\t")


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise BadInput(
            f"The number of {name}, {value!r}, cannot be used.",
            f"Use a whole number from {least} to {most}.",
        )


def _is_number(value: object, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most  # type: ignore[operator]


def _is_flat(axes: np.ndarray) -> bool:
    """Whether the columns of `axes` (3, 3), in any unit, span no volume to speak of."""
    lengths = np.abs(axes).max(axis=0)
    if not lengths.min() > 1e-5 * lengths.max():
        return True
    return bool(abs(np.linalg.det(axes / lengths)) < 1e-6)


def _check_cube(center: object, extent: object) -> None:
    try:
        middle = np.array(center, float)
    except (TypeError, ValueError, OverflowError):
        middle = np.full(3, np.nan)
    if not isinstance(center, tuple) or middle.shape != (3,) or not np.isfinite(middle).all():
        raise BadInput("The middle of the object is no place.", "Give three numbers.")
    if not _is_number(extent, 1e-9, 1e9):
        raise BadInput(
            f"The size {extent!r} of the object cannot be used.", "Give its longest side, above 0."
        )


def _check_stack(images: object, most: int, *, may_be_empty: bool = False) -> None:
    """Raise BadInput or TooLarge unless `images` is 1 to `most` pictures of one size."""
    if not isinstance(images, np.ndarray) or images.ndim != 4 or not len(images):
        raise BadInput("There are no pictures.", f"Give 1 to {most} pictures of one size.")
    if len(images) > most:
        raise TooLarge(
            f"{len(images):,} pictures are more than the {most} that are accepted.",
            "Leave some out: every second picture, for example.",
        )
    for image in images:
        check_image(image, may_be_empty=may_be_empty)


def _check_view_numbers(cameras: object, views: int) -> None:
    if cameras is None:
        return
    known = isinstance(cameras, tuple) and all(
        type(number) is int and number in VIEW_CAMERAS for number in cameras
    )
    if not known or len({*cameras}) != views or len(cameras) != views:  # type: ignore[misc, arg-type]
        raise BadInput(
            f"The cameras {cameras!r} are not those of {views} different views.",
            f"Name one for each view, of {', '.join(map(str, VIEW_CAMERAS))}.",
        )


def _check_texture(wanted: bool, size: int) -> None:
    if type(wanted) is not bool:
        raise BadInput("texture is neither yes nor no.", "Send true or false.")
    if type(size) is not int or not (size == 0 or 64 <= size <= MAX_TEXTURE_SIDE):
        raise BadInput(
            f"A texture of {size!r} pixels cannot be made.",
            f"Use 64 to {MAX_TEXTURE_SIDE}, or 0.",
        )


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BadInput(f"The {name} {value!r} is not known.", f"Choose {', '.join(choices)}.")


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


TASKS: dict[str, type[Task]] = {
    task.kind: task
    for task in (
        PointsToMesh,
        VoxelsToMesh,
        ImageToMesh,
        SketchToMesh,
        DepthToMesh,
        ViewsToMesh,
        TextToMesh,
        Shape,
        PanoramaToSphere,
        PanoramaToStereo,
        PanoramaToDepth,
        TextToPanorama,
        ImageToViews,
        TextToViews,
        ViewsToScene,
        MeshToField,
        FieldToMesh,
        Animation,
        DownloadModel,
    )
}
PANORAMAS = tuple(
    kind for kind, task in TASKS.items() if issubclass(task, PanoramaTask | TextToPanorama)
)
"""The kinds of tasks about panoramas."""
POSED_VIEWS = (ImageToViews.kind, TextToViews.kind, ViewsToScene.kind)
"""The kinds of tasks about pictures with cameras."""
FIELDS = (MeshToField.kind, FieldToMesh.kind, Animation.kind)
"""The kinds of tasks about neural fields and what moves."""


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


# ------------------------------------------------------------------------------- cameras of views

VIEW_CAMERAS: dict[int, tuple[float, float]] = {
    0: (57.374, 13.478),
    3: (57.267, 25.342),
    6: (140.942, 12.919),
    10: (230.762, 13.273),
    26: (319.808, 16.440),
    **{40 + k: (40.0 * k, 60.0) for k in range(9)},
    49: (360.0, 60.0),
    50: (0.0, -60.0),
    **{50 + k: (90.0 * k, -60.0) for k in range(1, 5)},
}
"""Number of a camera of WaLa's training views -> its azimuth and elevation in degrees.

Only those of the 55 whose angles are known; the models with several views use 3, 6, 10, 26, 49, 50
and those of text 0, 6, 10, 26 as well.
"""

VIEW_FIELD = 0.8575
VIEW_DISTANCE = 3.75
"""With which field of view (radians) and from how far, in units of the cube, to render views.

WaLa's authors give the angles only. This distance is the least from which nothing of a source
within the cube of side 1.8 is cut off; `backend/conditions` brings the pictures to one size."""


def view_poses(indices: Sequence[int], up_axis: str = "z", distance: float = 1.0) -> np.ndarray:
    """Camera to world, (V, 4, 4) float64, of the numbered cameras; see `camera_poses`.

    Raises BadInput for a number that is not in VIEW_CAMERAS.
    """
    unknown = [index for index in indices if index not in VIEW_CAMERAS]
    if unknown:
        raise BadInput(
            f"The angles of camera {unknown[0]!r} are not known.",
            f"Use cameras of the list {', '.join(map(str, VIEW_CAMERAS))}.",
        )
    return camera_poses([VIEW_CAMERAS[index] for index in indices], up_axis, distance)


def camera_poses(
    angles: Sequence[tuple[float, float]], up_axis: str = "z", distance: float = 1.0
) -> np.ndarray:
    """Camera to world, (V, 4, 4) float64, from azimuth and elevation in degrees.

    The cameras look at the origin of the cube [-1, 1]^3 from `distance` away, along their own -z,
    with y up in the picture and `up_axis` ("z" or "y") up in the world: Blender's and OpenGL's
    convention. In the frame with y up a camera lies at (cos e sin a, sin e, cos e cos a) of azimuth
    a and elevation e.
    """
    azimuth, elevation = np.radians(angles).reshape(-1, 2).T
    zero = np.zeros(len(azimuth))
    # Columns: right, up, backwards; each a rotation of the camera that stands before the object.
    right = np.stack([np.cos(azimuth), zero, -np.sin(azimuth)], axis=1)
    back = np.stack(
        [
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
            np.cos(elevation) * np.cos(azimuth),
        ],
        axis=1,
    )
    poses = np.zeros((len(azimuth), 4, 4))
    poses[:, :3, 0], poses[:, :3, 1], poses[:, :3, 2] = right, np.cross(back, right), back
    poses[:, :3, 3] = back * distance
    poses[:, 3, 3] = 1
    return turned_up(up_axis) @ poses


def ring_poses(
    views: int, elevation: float, radius: float, start: float = 0.0, *, caps: bool = False
) -> np.ndarray:
    """Camera to world, (V, 4, 4) float32, of a ring around the origin of a world with z up.

    Azimuths in degrees from `start` on, all around; 0 looks as Blender's front view. caps: two
    more, last, from 60 degrees above and 60 below.
    """
    angles = [(start + 360.0 * number / views, elevation) for number in range(views)]
    if caps:
        angles += [(start, 60.0), (start, -60.0)]
    return camera_poses(angles, "z", radius).astype(np.float32)


def turned_up(up_axis: str) -> np.ndarray:
    """(4, 4) float64: from the cube of the models, whose y axis is up, to a frame with `up_axis`
    up. (x, y, z) becomes (x, -z, y) for "z" and stays for "y"."""
    _check_choice("up axis", up_axis, UP_AXES)
    if up_axis == "y":
        return np.eye(4)
    return np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)


def check_view_count(have: int, want: int, cameras: Sequence[int] = ()) -> None:
    """Raise BadInput unless there are as many views as a model wants; say from where they are."""
    if have == want:
        return
    order = ", ".join(map(str, cameras))
    raise BadInput(
        f"There {'is 1 view' if have == 1 else f'are {have} views'}; the model needs {want}.",
        f"Give {want} pictures in the order of its cameras{f' ({order})' if order else ''}, "
        "or choose a model for another number of views.",
    )


# ---------------------------------------------------------------------------- progress and results


@dataclass(frozen=True)
class Progress:
    """Where a job stands. `stage` is a short name for people, `fraction` in 0..1 is of the job.

    picture: (h, w, 3) uint8 sRGB, at most MAX_PICTURE_WIDTH wide: what has formed; or None.
    """

    stage: str
    fraction: float
    picture: np.ndarray | None = field(default=None, kw_only=True, compare=False)

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
    latent: (C, 12, 12, 12) float32, C as the model has it, what a generated shape was decoded from,
    so that a region of it can be made anew; None where there was none.
    uv: (3 F, 2) float32, a place in `texture` per corner of `faces`, in their order, (0, 0) at the
    lower left; texture: (H, W, 3 or 4) uint8 sRGB, row 0 at the top; both or neither.
    neural: the neural field whose surface it is, so that it can be mixed with another; or None.
    report: seconds per stage, device, model, seed and whatever else the pipeline measured.
    """

    kind: ClassVar[str] = "mesh"
    name: str = "Fieldforge"
    vertices: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    faces: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    colors: np.ndarray | None = None
    to_source: np.ndarray = field(default_factory=lambda: np.eye(4))
    latent: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None
    neural: NeuralField | None = None
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preview(Progress):
    """Progress with what has formed so far: small meshes, one per variation."""

    meshes: tuple[MeshResult, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshSet:
    """Several meshes of one task: its variations, in the order of their seeds."""

    kind: ClassVar[str] = "meshes"
    name: str = "Fieldforge"
    meshes: tuple[MeshResult, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class PanoramaResult:
    """An equirectangular picture and its depth, axes as in PanoramaTask.

    image: (H, W, 3) uint8 sRGB or float32 linear; depth: (h, w) float32, what `meaning` says, not
    finite where there is none; None while it forms.
    """

    kind: ClassVar[str] = "panorama"
    name: str = "Fieldforge"
    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    depth: np.ndarray | None = None
    meaning: DepthMeaning = METRIC
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class SphereLayer:
    """A mesh of a SphereResult, seen from inside, ready for Blender's foreach_set.

    layer: "front": what the picture shows; "backing": what shows where the front is cut and the eye
    moves; "sky": a sphere of its own for directions without depth, whose values are metres, which
    no meaning moves.
    directions: (V, 3) float32 of length 1; values: (V,) float32, finite. A vertex lies at direction
    times `sphere_radii`.
    corners: (L,) int32, the vertices of the faces, wound counter-clockwise seen from the eye; first
    come `quads` faces of four corners, then triangles.
    edges: (E, 2) int32; corner_edges: (L,) int32, the edge from a corner to the next of its face.
    uv: (L, 2) float32, (0, 0) at the lower left of the picture; beyond 1 at the seam: it repeats.
    image: (h, w, 3 or 4) like SphereResult.image, where the layer has one of its own; else None.
    """

    layer: str = "front"
    directions: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    corners: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    quads: int = 0
    edges: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    corner_edges: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    uv: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    image: np.ndarray | None = None

    @property
    def triangles(self) -> int:
        """How many faces of three corners follow the quads."""
        return (len(self.corners) - 4 * self.quads) // 3

    def check(self) -> None:
        """Raise BadInput unless the arrays fit each other; indices and directions included."""
        _check_choice("layer", self.layer, LAYER_KINDS)
        vertices, corners, edges = len(self.directions), len(self.corners), len(self.edges)
        for name, shape, kinds in (
            ("directions", (None, 3), "f"),
            ("values", (vertices,), "f"),
            ("corners", (None,), "i"),
            ("edges", (None, 2), "i"),
            ("corner_edges", (corners,), "i"),
            ("uv", (corners, 2), "f"),
        ):
            array = getattr(self, name)
            _check_array(f"{name} of the sphere", array, shape, kinds)
            if array.dtype.itemsize != 4:
                raise _malformed(f"{name} of the sphere are {array.dtype}")
        if type(self.quads) is not int or not 0 <= 4 * self.quads <= corners:
            raise _malformed("the quads of the sphere do not fit its corners")
        if (corners - 4 * self.quads) % 3:
            raise _malformed("the triangles of the sphere do not fit its corners")
        for array, count in (
            (self.corners, vertices),
            (self.edges, vertices),
            (self.corner_edges, edges),
        ):
            if array.size and (array.min() < 0 or array.max() >= count):
                raise _malformed("the sphere has faces without vertices")
        if not (np.isfinite(self.values).all() and np.isfinite(self.directions).all()):
            raise _malformed("the sphere has vertices without a place")
        if self.image is not None:
            check_panorama_image(self.image)


@dataclass(frozen=True, kw_only=True, eq=False)
class SphereResult:
    """What surrounds the eye at the origin as textured meshes, axes as in PanoramaTask.

    layers: the front first; a backing where edges are cut, a sky where depth is missing.
    image: (H, W, 3) or (H, W, 4) uint8 sRGB or float32 linear, the texture of all layers that have
    none of their own. meaning: of the values of front and backing.
    """

    kind: ClassVar[str] = "sphere"
    name: str = "Fieldforge"
    layers: tuple[SphereLayer, ...] = ()
    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    meaning: DepthMeaning = METRIC
    report: dict[str, Any] = field(default_factory=dict)

    def layer(self, kind: str) -> SphereLayer | None:
        """The layer of that kind, or None."""
        return next((layer for layer in self.layers if layer.layer == kind), None)


def sphere_radii(layer: SphereLayer, meaning: DepthMeaning) -> np.ndarray:
    """(V,) float32: metres from the eye to the vertices of a layer."""
    if layer.layer == "sky":
        return np.asarray(layer.values, np.float32)
    return radii(layer.values, meaning)


@dataclass(frozen=True, kw_only=True, eq=False)
class StereoResult:
    """One equirectangular picture for each eye, (H, W, 3) uint8 sRGB."""

    kind: ClassVar[str] = "stereo"
    name: str = "Fieldforge"
    left: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    right: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewsResult:
    """Pictures of one thing with their cameras, as in ViewsTask.

    images: (V, H, W, 3) uint8 sRGB, or (V, H, W, 4) with straight alpha where a model tells what is
    background. poses: (V, 4, 4) float32; intrinsics: (V, 4) float32, in pixels of these images.
    depths: (V, H, W) float32 as in ViewsToScene, 0 where there is nothing, of models that tell it.
    given: how many of the first are the given ones. view_kind: "image", or "depth" (near is bright,
    of no unit). cameras: the numbers of VIEW_CAMERAS where they are such, for ViewsToMesh, or None.
    """

    kind: ClassVar[str] = "views"
    name: str = "Fieldforge"
    images: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    poses: np.ndarray = field(default_factory=lambda: np.zeros((0, 4, 4), np.float32))
    intrinsics: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    depths: np.ndarray | None = None
    given: int = 0
    view_kind: str = "image"
    cameras: tuple[int, ...] | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.cameras, list):  # as a message holds them
            object.__setattr__(self, "cameras", tuple(self.cameras))

    def check(self) -> None:
        """Raise BadInput unless the arrays fit each other."""
        _check_array("views", self.images, (None, None, None, None), "u")
        height, width, channels = self.images.shape[1:]
        if self.images.dtype != np.uint8 or channels not in (3, 4):
            raise _malformed(f"the views are {_times(self.images.shape)} {self.images.dtype}")
        check_image_size(width, height)
        if self.depths is not None:
            _check_array("depths", self.depths, self.images.shape[:3], "f")
        check_poses(self.poses, MAX_SCENE_VIEWS)
        check_intrinsics(self.intrinsics, len(self.images))
        if len(self.poses) != len(self.images):
            raise _malformed("the views and their cameras are not as many")
        _check_whole("given views", self.given, 0, len(self.images))
        _check_choice("kind of views", self.view_kind, VIEW_KINDS)
        _check_view_numbers(self.cameras, len(self.images))


@dataclass(frozen=True, kw_only=True, eq=False)
class AnimationResult:
    """A mesh that changes from frame to frame, or in steps from one shape to another.

    vertices, faces, vertex_counts, face_counts: float32 and int32 in either way of
    `moving_meshes`: one mesh per frame, or one topology. Wound counter-clockwise from outside.
    amounts: (M,) float32 of FieldToMesh: the meshes are then those of amount 0, .. M - 1, each with
    as many frames; None where nothing was mixed.
    fps, loop: how to play it. neural: the field that it was made of, where there is one.
    to_source: (4, 4), from the cube to the frame of these vertices.
    """

    kind: ClassVar[str] = "animation"
    name: str = "Fieldforge"
    vertices: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    faces: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    vertex_counts: np.ndarray | None = None
    face_counts: np.ndarray | None = None
    amounts: np.ndarray | None = None
    fps: float = 24.0
    loop: bool = False
    neural: NeuralField | None = None
    to_source: np.ndarray = field(default_factory=lambda: np.eye(4))
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def one_topology(self) -> bool:
        """Whether all frames have the same faces."""
        return self.vertices.ndim == 3

    def meshes(self) -> list[moving_meshes.Mesh]:
        """The mesh of every frame of every amount, in order."""
        return moving_meshes.split(self.vertices, self.faces, self.vertex_counts, self.face_counts)

    def steps(self) -> list[list[moving_meshes.Mesh]]:
        """The meshes by amount: of each, its frames."""
        meshes = self.meshes()
        share = len(meshes) // (1 if self.amounts is None else len(self.amounts))
        return [meshes[begin : begin + share] for begin in range(0, len(meshes), share)]

    def check(self) -> None:
        """Raise BadInput unless the arrays fit each other; indices included."""
        arrays = (self.vertices, self.faces, self.vertex_counts, self.face_counts)
        moving_meshes.check(*arrays, most=MAX_RESULT_FRAMES)
        if not np.isfinite(self.vertices).all():
            raise _malformed("the animation has vertices without a place")
        neural_fields.check_fps(self.fps)
        if type(self.loop) is not bool:
            raise _malformed("loop is neither yes nor no")
        neural_fields.check_frame(self.to_source)
        if self.neural is not None:
            self.neural.check()
        if self.amounts is not None:
            _check_array("amounts", self.amounts, (None,), "f")
            meshes = len(self.vertices if self.vertex_counts is None else self.vertex_counts)
            if not len(self.amounts) or meshes % len(self.amounts):
                raise _malformed("the meshes are not as many for each amount")


@dataclass(frozen=True, kw_only=True, eq=False)
class AnimationSet:
    """Several animations of one task: its variations, in the order of their seeds."""

    kind: ClassVar[str] = "animations"
    name: str = "Fieldforge"
    animations: tuple[AnimationResult, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldResult:
    """A mesh as a neural field, and what has become of it.

    neural: the field. animation: its surface, frame by frame (one frame of a shape at rest), in the
    frame of the source. report: "bytes" of the field as a file, "source_bytes" of the meshes it was
    made of, "iou" of both, "seconds", "notes".
    """

    kind: ClassVar[str] = "field"
    name: str = "Fieldforge"
    neural: NeuralField = field(default_factory=NeuralField)
    animation: AnimationResult = field(default_factory=AnimationResult)
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> np.ndarray:
        """(W,) of the field."""
        return self.neural.weights

    @property
    def frame_count(self) -> int:
        """How many frames the field has; 1 at rest."""
        return self.neural.frame_count


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What a task did that has nothing else to show."""

    kind: ClassVar[str] = "report"
    name: str = "Fieldforge"
    report: dict[str, Any] = field(default_factory=dict)


Result = (
    MeshResult
    | MeshSet
    | PanoramaResult
    | SphereResult
    | StereoResult
    | ViewsResult
    | AnimationResult
    | AnimationSet
    | FieldResult
    | Report
)
RESULTS: dict[str, type[Any]] = {
    result.kind: result
    for result in (
        *(MeshResult, MeshSet, PanoramaResult, SphereResult, StereoResult, ViewsResult),
        *(AnimationResult, AnimationSet, FieldResult, Report),
    )
}


def meshes_of(result: Result) -> tuple[MeshResult, ...]:
    """The meshes of a result, however many."""
    if isinstance(result, MeshSet):
        return result.meshes
    return (result,) if isinstance(result, MeshResult) else ()


def animations_of(result: Result) -> tuple[AnimationResult, ...]:
    """The animations of a result, however many; of a field, its surface."""
    if isinstance(result, AnimationSet):
        return result.animations
    if isinstance(result, FieldResult):
        return (result.animation,)
    return (result,) if isinstance(result, AnimationResult) else ()


def encode_result(result: Result) -> bytes:
    """A result -> bytes; None fields and defaults are left out."""
    if isinstance(result, MeshSet):
        return _encode_set(result)
    if isinstance(result, SphereResult):
        return _encode_sphere(result)
    if isinstance(result, AnimationSet):
        return _encode_animations(result)
    if isinstance(result, FieldResult):
        return _encode_field(result)
    return _encode(result, {"protocol": PROTOCOL_VERSION, "kind": result.kind})


def decode_result(body: bytes) -> Result:
    """Bytes -> a result. Raises BadInput or VersionMismatch."""
    arrays, message = unpack(body)
    check_protocol(message.pop("protocol", None))
    kind = message.pop("kind", None)
    if not isinstance(kind, str) or kind not in RESULTS:
        raise BadInput(f"Unknown result {kind!r}.", "Update the add-on.")
    if kind == MeshSet.kind:
        return _decode_set(arrays, message)
    if kind == SphereResult.kind:
        return _decode_sphere(arrays, message)
    if kind == AnimationSet.kind:
        return _decode_animations(arrays, message)
    if kind == FieldResult.kind:
        return _decode_field(arrays, message)
    result: Result = _decode(RESULTS[kind], arrays, message)
    if isinstance(result, ViewsResult | AnimationResult):
        result.check()
    return result


def _encode_set(result: MeshSet) -> bytes:
    arrays, entries = _encode_parts(result.meshes)
    message = {"protocol": PROTOCOL_VERSION, "kind": result.kind, "name": result.name}
    return pack(arrays, {**message, "report": result.report, "meshes": entries})


def _decode_set(arrays: Arrays, message: dict[str, Any]) -> MeshSet:
    own, entries = _parts_of(arrays, message.pop("meshes", None), "mesh", MAX_VARIATIONS)
    pairs = zip(own, entries, strict=True)
    meshes = tuple(_decode(MeshResult, parts, entry) for parts, entry in pairs)
    return _decode(MeshSet, {}, {**message, "meshes": meshes})


def _encode_sphere(result: SphereResult) -> bytes:
    arrays, entries = _encode_parts(result.layers)
    own, message = _split(dataclasses.replace(result, layers=()))
    message |= {"protocol": PROTOCOL_VERSION, "kind": result.kind, "layers": entries}
    return pack(own | arrays, message)


def _decode_sphere(arrays: Arrays, message: dict[str, Any]) -> SphereResult:
    own = {name: arrays.pop(name) for name in list(arrays) if "." not in name}
    parts, entries = _parts_of(arrays, message.pop("layers", None), "layer", len(LAYER_KINDS))
    pairs = zip(parts, entries, strict=True)
    layers = tuple(_decode(SphereLayer, part, entry) for part, entry in pairs)
    for layer in layers:
        layer.check()
    result: SphereResult = _decode(SphereResult, own, {**message, "layers": layers})
    check_panorama_image(result.image)
    return result


def _encode_animations(result: AnimationSet) -> bytes:
    arrays, entries = _encode_parts(result.animations)
    own, message = _split(dataclasses.replace(result, animations=()))
    message |= {"protocol": PROTOCOL_VERSION, "kind": result.kind, "animations": entries}
    return pack(own | arrays, message)


def _decode_animations(arrays: Arrays, message: dict[str, Any]) -> AnimationSet:
    found = _animations(arrays, message.pop("animations", None), MAX_VARIATIONS)
    result: AnimationSet = _decode(AnimationSet, {}, {**message, "animations": found})
    return result


def _encode_field(result: FieldResult) -> bytes:
    """The field's own arrays are named "neural.weights" and so on, the surface's as of a part."""
    parts, entries = _encode_parts((result.animation,))
    # A field without a default is told whole.
    blank = {"animation": None, "neural": None}
    message = _split(dataclasses.replace(result, **blank))[1]  # type: ignore[arg-type]
    own, message["neural"] = _split_neural("neural", result.neural)
    message |= {"protocol": PROTOCOL_VERSION, "kind": result.kind, "animations": entries}
    return pack(own | parts, message)


def _decode_field(arrays: Arrays, message: dict[str, Any]) -> FieldResult:
    own = {name: arrays.pop(name) for name in list(arrays) if name.startswith("neural.")}
    found = _animations(arrays, message.pop("animations", None), 1)
    if len(found) != 1 or "neural" not in message:
        raise _malformed("the field or its surface is missing")
    result: FieldResult = _decode(FieldResult, own, {**message, "animation": found[0]})
    result.neural.check()
    return result


def _animations(arrays: Arrays, entries: object, most: int) -> tuple[AnimationResult, ...]:
    own, listed = _parts_of(arrays, entries, "animation", most)
    pairs = zip(own, listed, strict=True)
    found = tuple(_decode(AnimationResult, parts, entry) for parts, entry in pairs)
    for animation in found:
        animation.check()
    return found


def _encode_parts(parts: Sequence[Any]) -> tuple[Arrays, list[dict[str, Any]]]:
    """Arrays of part k are named "k.vertices" and so on."""
    arrays: Arrays = {}
    entries = []
    for index, part in enumerate(parts):
        own, entry = _split(part)
        arrays |= {f"{index}.{name}": array for name, array in own.items()}
        entries.append(entry)
    return arrays, entries


def _parts_of(
    arrays: Arrays, entries: object, what: str, most: int
) -> tuple[list[Arrays], list[dict[str, Any]]]:
    """The inverse of `_encode_parts`, of bytes that anybody may have made."""
    several = f"{what}es" if what == "mesh" else f"{what}s"
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _malformed(f"the {several} are not listed")
    if len(entries) > most:
        raise _malformed(f"{len(entries)} {several}, {most} are the most")
    own: list[Arrays] = [{} for _ in entries]
    numbers = {str(number): number for number in range(len(entries))}
    for name, array in arrays.items():
        index, _, part = name.partition(".")
        if index not in numbers:
            raise _malformed(f"array {name[:80]!r} belongs to no {what}")
        own[numbers[index]][part] = array
    return own, entries


def _encode(record: Any, message: dict[str, Any]) -> bytes:
    arrays, entry = _split(record)
    return pack(arrays, {**message, **entry})


def _split(record: Any) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a record, and its other values that are not the default."""
    arrays: Arrays = {}
    message: dict[str, Any] = {}
    for spec in dataclasses.fields(record):
        value = getattr(record, spec.name)
        if isinstance(value, np.ndarray):
            arrays[spec.name] = value
        elif isinstance(value, NeuralField):
            own, message[spec.name] = _split_neural(spec.name, value)
            arrays |= own
        elif value is not None and value != spec.default:
            message[spec.name] = value.to_dict() if isinstance(value, DepthMeaning) else value
    return arrays, message


def _split_neural(name: str, value: NeuralField) -> tuple[Arrays, dict[str, Any]]:
    """A field's arrays, named "neural.weights" and so on, and its record."""
    arrays, record = _split(value)
    return {f"{name}.{part}": array for part, array in arrays.items()}, record


def _with_neural(
    types: dict[str, str], arrays: Arrays, message: dict[str, Any]
) -> tuple[Arrays, dict[str, Any]]:
    """The inverse of `_split_neural` for every field of a record that holds one."""
    for name in [name for name in message if "NeuralField" in types.get(name, "")]:
        if not isinstance(message[name], dict):
            raise _malformed(f"{name} is no record")
        parts = {part: arrays[part] for part in arrays if part.startswith(f"{name}.")}
        arrays = {part: arrays[part] for part in arrays if part not in parts}
        own = {part.partition(".")[2]: array for part, array in parts.items()}
        neural = _decode(NeuralField, own, message[name])
        neural.check()
        message = {**message, name: neural}
    return arrays, message


def _decode(kind: Callable[..., Any], arrays: Arrays, message: dict[str, Any]) -> Any:
    types = {spec.name: str(spec.type) for spec in dataclasses.fields(kind)}  # type: ignore[arg-type]
    arrays, message = _with_neural(types, arrays, message)
    unknown = sorted((set(arrays) | set(message)) - set(types))
    if unknown:
        raise BadInput(
            f"The message has fields that are not known here: {', '.join(unknown)}.",
            "Install the same version of Fieldforge on both sides.",
        )
    for name in (*arrays, *message):
        if (name in arrays) != ("ndarray" in types[name]):
            raise _malformed(f"{name} is {'an' if name in arrays else 'no'} array")
    for name in message:
        if "DepthMeaning" in types[name]:
            message = {**message, name: DepthMeaning.from_dict(message[name])}
    try:
        return kind(**message, **arrays)
    except (TypeError, ValueError) as error:
        raise _malformed(str(error)) from None
