"""What was captured as pictures, strokes or views -> tasks for the backend. No bpy.

All of it runs in a thread. What the models make of pictures comes back in the cube [-1, 1]^3 with z
up, longest side 1.8; it is put over the objects that were seen where these are known, else at the
place that the capture names.

Cameras: `view` (4, 4) float64 leads from the world to a camera that looks along its -z with y up;
`projection` (4, 4) float64 is OpenGL's; `size` is (width, height) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..backend.errors import BadInput
from ..backend.protocol import (
    VIEW_DISTANCE,
    VIEW_FIELD,
    DepthToMesh,
    ImageToMesh,
    Shape,
    SketchToMesh,
    Task,
    TextToMesh,
    ViewsToMesh,
    view_poses,
)
from .compose import Choices, PictureCapture, Placement, srgb_from_linear
from .rasterizer import Picture, rasterize, shade

LONGEST_PICTURE = 1024
LONGEST_DEPTH = 640
VIEW_SIDE = 480
LONGEST_SIDE = 1.8  # of what the models make, in their cube of side 2
ROWS = 256  # of a large picture that are worked on at once
STROKE_MARGIN = 3.0  # how far beside the picture a stroke still counts, in half pictures


def cube_around(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(4, 4) from the models' cube to the world: what fills it lies on the bounds (3,) to (3,)."""
    matrix = np.eye(4)
    matrix[:3, :3] *= float((high - low).max()) / LONGEST_SIDE
    matrix[:3, 3] = (low + high) / 2
    return matrix


def with_sampling(kind: type[Task], capture: PictureCapture, choices: Choices, **fields) -> Task:
    return kind(name=capture.name, model=choices.model, seed=choices.seed, **fields)


# ----------------------------------------------------------------------------------- words, nothing


@dataclass(frozen=True, eq=False)
class TextCapture(PictureCapture):
    """prompt: what it shall be; matrix_world: (4, 4), where the models' cube goes."""

    name: str
    prompt: str
    matrix_world: np.ndarray

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        task = with_sampling(TextToMesh, self, choices, prompt=self.prompt)
        return task, Placement(self.matrix_world)


@dataclass(frozen=True, eq=False)
class ShapeCapture(PictureCapture):
    name: str
    matrix_world: np.ndarray

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        return with_sampling(Shape, self, choices), Placement(self.matrix_world)


# -------------------------------------------------------------------------------------------- image


@dataclass(frozen=True, eq=False)
class ImageCapture(PictureCapture):
    """pixels: (H, W, 4) float32 or uint8, row 0 at the bottom. linear: float colours are
    scene-linear; premultiplied: with alpha multiplied into them; drawn: uint8 as a viewport draws
    (`straight`); opaque: alpha means nothing; drawing: it is a sketch; matrix_world: where the
    models' cube goes."""

    name: str
    pixels: np.ndarray
    matrix_world: np.ndarray
    linear: bool = False
    premultiplied: bool = False
    drawn: bool = False
    opaque: bool = False
    drawing: bool = False
    background: str = "auto"

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        image = small_image(self)
        if self.drawing:
            task = with_sampling(SketchToMesh, self, choices, image=image)
        else:
            fields = {"image": image, "background": self.background}
            task = with_sampling(ImageToMesh, self, choices, **fields)
        return task, Placement(self.matrix_world)


def small_image(capture: ImageCapture) -> np.ndarray:
    """(H, W, 4 or 3) uint8 sRGB, straight alpha, row 0 at the top, at most about LONGEST_PICTURE
    along a side: models see some 224 pixels, and a large picture takes long to send."""
    height, width = capture.pixels.shape[:2]
    factor = max(1, -(-max(height, width) // LONGEST_PICTURE))
    # What is left over of a side that the factor does not divide is one column at most of many.
    rows, columns = max(1, height // factor), max(1, width // factor)
    step = max(1, ROWS // factor)
    result = np.zeros((rows, columns, 4), np.uint8)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        block = capture.pixels[part.start * factor : part.stop * factor, : columns * factor]
        result[part] = _to_srgb(_means(_premultiplied(block, capture), factor), capture)
    result = result[::-1]
    return np.ascontiguousarray(result[..., :3] if capture.opaque else result)


def _premultiplied(block: np.ndarray, capture: ImageCapture) -> np.ndarray:
    """(h, w, 4) float32 in 0..1 with alpha multiplied into the colours."""
    block = straight(block) if capture.drawn else block
    if block.dtype == np.uint8:
        values = block.astype(np.float32) / 255
    elif np.isfinite(block).all():
        values = block
    else:
        values = np.nan_to_num(block, posinf=1, neginf=0)
    if capture.premultiplied and not capture.opaque:
        return values
    alpha = np.float32(1) if capture.opaque else values[..., 3:]
    result = values * alpha
    result[..., 3] = 1 if capture.opaque else values[..., 3]
    return result


def straight(drawn: np.ndarray) -> np.ndarray:
    """(..., 4) uint8 as a viewport draws: alpha was multiplied into linear colours, which were then
    made sRGB -> uint8 sRGB with straight alpha."""
    edge = (drawn[..., 3] > 0) & (drawn[..., 3] < 255)
    result = drawn.copy()
    part = drawn[edge].astype(np.float32) / 255
    result[edge, :3] = np.rint(255 * srgb_from_linear(linear_from_srgb(part[:, :3]) / part[:, 3:]))
    return result


def linear_from_srgb(values: np.ndarray) -> np.ndarray:
    """sRGB (IEC 61966-2-1) in 0..1 -> linear, any shape."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _means(values: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each factor x factor block of (h, w, 4)."""
    if factor == 1:
        return values
    height, width = values.shape[0] // factor, values.shape[1] // factor
    blocks = values.reshape(height, factor, width, factor, 4)
    return blocks.mean(axis=1).mean(axis=2)


def _to_srgb(values: np.ndarray, capture: ImageCapture) -> np.ndarray:
    alpha = np.clip(values[..., 3:], 0, 1)
    colors = np.divide(values[..., :3], alpha, out=np.zeros_like(values[..., :3]), where=alpha > 0)
    colors = srgb_from_linear(colors) if capture.linear else np.clip(colors, 0, 1)
    return np.rint(255 * np.concatenate([colors, alpha], axis=2)).astype(np.uint8)


# ------------------------------------------------------------------------------------------- sketch


@dataclass(frozen=True, eq=False)
class Strokes:
    """points: (P, 3) float32; radii: (P,) float32 in the same unit; lengths: (S,) int, points per
    stroke; closed: (S,) bool; to_world: (4, 4), or None where the points are pixels already (x to
    the right, y up)."""

    points: np.ndarray
    radii: np.ndarray
    lengths: np.ndarray
    closed: np.ndarray
    to_world: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class SketchCapture(PictureCapture):
    """Strokes as they are seen through a camera; parts share the picture of `size`."""

    name: str
    parts: list[Strokes]
    view: np.ndarray
    projection: np.ndarray
    size: tuple[int, int]
    matrix_world: np.ndarray

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        flat = [_flat(_with_closed_ends(part), self) for part in self.parts]
        strokes = np.concatenate([points for points, _ in flat])
        lengths = np.concatenate([lengths for _, lengths in flat])
        if not len(strokes):
            raise BadInput(
                "None of the strokes is in the picture.",
                "Turn the view or the camera so that it shows the sketch.",
            )
        fields = {"strokes": strokes, "stroke_lengths": lengths.astype(np.int32)}
        return with_sampling(SketchToMesh, self, choices, **fields), Placement(self.matrix_world)


def _with_closed_ends(part: Strokes) -> Strokes:
    """Each closed stroke gets its first point once more at its end."""
    if not part.closed.any():
        return part
    ends = np.cumsum(part.lengths)
    firsts = (ends - part.lengths)[part.closed]
    after = ends[part.closed]
    return Strokes(
        np.insert(part.points, after, part.points[firsts], axis=0),
        np.insert(part.radii, after, part.radii[firsts]),
        part.lengths + part.closed,
        np.zeros_like(part.closed),
        part.to_world,
    )


def _flat(part: Strokes, capture: SketchCapture) -> tuple[np.ndarray, np.ndarray]:
    """(strokes (P, 3) float32 in pixels: x, y down, width; lengths (S,)) of what is before the
    camera and near the picture. A stroke that leaves it and returns becomes two."""
    if part.to_world is None:
        place, width = part.points[:, :2].astype(np.float64), 2.0 * part.radii
        near = np.isfinite(place).all(axis=1)
    else:
        place, width, near = _projected(part, capture)
    stroke = np.repeat(np.arange(len(part.lengths)), part.lengths)
    # A new piece begins with each stroke and after each gap.
    piece = 2 * stroke + np.cumsum(np.concatenate([[0], np.diff(near.astype(int)) > 0])) * (
        2 * len(part.lengths) + 2
    )
    _, lengths = _run_lengths(piece[near])
    place = place * [1, -1] + [0, capture.size[1]]
    return np.column_stack([place, width])[near].astype(np.float32), lengths


def _run_lengths(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first index, length) of each run of equal values."""
    if not len(values):
        return np.zeros(0, int), np.zeros(0, int)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1])
    return starts, np.diff(np.concatenate([starts, [len(values)]]))


def _projected(part: Strokes, capture: SketchCapture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(place (P, 2) pixels, y up; width (P,) pixels; near (P,) bool)."""
    matrix = capture.view @ part.to_world
    projection = capture.projection
    camera = part.points.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    clip = camera @ projection[:, :3].T + projection[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        across = clip[:, :2] / clip[:, 3:]
        scale = abs(np.linalg.det(matrix[:3, :3])) ** (1 / 3)
        width = part.radii * scale * abs(projection[1, 1]) / clip[:, 3] * capture.size[1]
    near = (clip[:, 3] > 0) & np.isfinite(width) & (np.abs(across) <= STROKE_MARGIN).all(axis=1)
    return (across + 1) / 2 * np.array(capture.size), width, near


# ---------------------------------------------------------------------------------- depth and views


@dataclass(frozen=True, eq=False)
class Part:
    """One mesh, which the scene may show several times. vertices: (V, 3) float32 local;
    triangles: (T, 3) int32; slots: (T,) int32 of their materials; shown: (matrix_world (4, 4),
    colours (S, 3) uint8 sRGB of the material slots) of each time."""

    vertices: np.ndarray
    triangles: np.ndarray
    slots: np.ndarray
    shown: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Soup:
    """All triangles of a scene. vertices: (V, 3) float64 world, of which each belongs to a
    triangle; triangles: (T, 3) int64; colors: (T, 3) uint8; low, high: (3,) bounds."""

    vertices: np.ndarray
    triangles: np.ndarray
    colors: np.ndarray
    low: np.ndarray
    high: np.ndarray


def gather(parts: list[Part]) -> Soup:
    """The parts as the scene shows them. Raises BadInput when there is no surface."""
    vertices, triangles, colors, count = [], [], [], 0
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for part in parts:
        used = np.unique(part.triangles)
        for matrix, slot_colors in part.shown:
            moved = part.vertices.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
            seen = moved[used]
            seen = seen[np.isfinite(seen).all(axis=1)]
            if len(seen):
                low, high = np.minimum(low, seen.min(axis=0)), np.maximum(high, seen.max(axis=0))
            vertices.append(moved)
            triangles.append(part.triangles.astype(np.int64) + count)
            # A face of a slot that is not there has the last one, as Blender shows it.
            colors.append(slot_colors[np.minimum(part.slots, len(slot_colors) - 1)])
            count += len(moved)
    if not (np.isfinite(low).all() and (high > low).any()):
        raise BadInput(
            "There is no surface to be seen.", "Choose objects that have faces, and show them."
        )
    return Soup(
        np.concatenate(vertices), np.concatenate(triangles), np.concatenate(colors), low, high
    )


@dataclass(frozen=True, eq=False)
class DepthCapture(PictureCapture):
    """The scene's meshes and the camera that they are seen through."""

    name: str
    parts: list[Part]
    view: np.ndarray
    projection: np.ndarray
    size: tuple[int, int]

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        soup = gather(self.parts)
        size = fitted(self.size, LONGEST_DEPTH)
        picture = rasterize(soup.vertices, soup.triangles, self.view, self.projection, size)
        return _depth_task(self, choices, picture.depth, cube_around(soup.low, soup.high))


@dataclass(frozen=True, eq=False)
class DepthPicture(PictureCapture):
    """buffer: (H, W) float32 of the graphics card in 0..1, row 0 at the bottom, 1 where nothing
    is; it was drawn with `projection`, of which near and far are known from the matrix itself."""

    name: str
    buffer: np.ndarray
    view: np.ndarray
    projection: np.ndarray

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        depth = metres(self.buffer[::-1], self.projection)
        if not np.isfinite(depth).any():
            raise nothing_seen()
        matrix = cube_around(*_bounds_of(depth, self.view, self.projection))
        return _depth_task(self, choices, depth, matrix)


def metres(buffer: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """Depth along the camera's axis, (H, W) float32, of what a depth buffer holds; inf at 1."""
    z, w = projection[2, 2:], projection[3, 2:]
    ndc = 2 * buffer.astype(np.float64) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (ndc * w[1] - z[1]) / (ndc * w[0] - z[0])
    return np.where(buffer < 1, depth, np.inf).astype(np.float32)


def _bounds_of(
    depth: np.ndarray, view: np.ndarray, projection: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The bounds in the world of what a depth picture shows."""
    height, width = depth.shape
    row, column = np.nonzero(np.isfinite(depth))
    along = depth[row, column].astype(np.float64)
    ndc = np.stack([(column + 0.5) / width * 2 - 1, 1 - (row + 0.5) / height * 2], axis=1)
    w = -along * projection[3, 2] + projection[3, 3]
    across = ndc * w[:, None] + along[:, None] * projection[:2, 2] - projection[:2, 3]
    camera = np.column_stack([across / np.diag(projection)[:2], -along])
    inverse = np.linalg.inv(view)
    world = camera @ inverse[:3, :3].T + inverse[:3, 3]
    return world.min(axis=0), world.max(axis=0)


def _depth_task(
    capture: PictureCapture, choices: Choices, depth: np.ndarray, matrix_world: np.ndarray
) -> tuple[Task, Placement]:
    seen = np.isfinite(depth)
    if not seen.any():
        raise nothing_seen()
    # A view without perspective may begin behind what it shows; only differences matter there.
    depth = depth - min(0.0, float(depth[seen].min()))
    return with_sampling(DepthToMesh, capture, choices, depth=depth), Placement(matrix_world)


def nothing_seen() -> BadInput:
    return BadInput(
        "Nothing is in the picture.", "Turn the view or the camera so that it shows the objects."
    )


@dataclass(frozen=True, eq=False)
class ViewsCapture(PictureCapture):
    """The meshes that are seen from the model's cameras. kind: "depth" or "image"."""

    name: str
    parts: list[Part]
    cameras: tuple[int, ...]
    kind: str

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        soup = gather(self.parts)
        matrix = cube_around(soup.low, soup.high)
        # Cameras and depths are in the units of the cube.
        vertices = (soup.vertices - matrix[:3, 3]) / matrix[0, 0]
        views = [self._see(vertices, soup, view) for view in cube_views(self.cameras)]
        fields = {"depths" if self.kind == "depth" else "images": np.stack(views)}
        task = with_sampling(ViewsToMesh, self, choices, cameras=self.cameras, **fields)
        return task, Placement(matrix)

    def _see(self, vertices: np.ndarray, soup: Soup, view: np.ndarray) -> np.ndarray:
        size = (VIEW_SIDE, VIEW_SIDE)
        picture: Picture = rasterize(vertices, soup.triangles, view, cube_projection(), size)
        if self.kind == "depth":
            return picture.depth
        return shade(picture, vertices, soup.triangles, soup.colors, view)


@dataclass(frozen=True, eq=False)
class ViewPictures(PictureCapture):
    """images: (V, H, W, 4) uint8 as a viewport draws (`straight`), row 0 at the top, one from each
    of the numbered cameras."""

    name: str
    images: np.ndarray
    matrix_world: np.ndarray
    cameras: tuple[int, ...]

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        images = straight(self.images)
        task = with_sampling(ViewsToMesh, self, choices, images=images, cameras=self.cameras)
        return task, Placement(self.matrix_world)


def cube_views(cameras: tuple[int, ...]) -> np.ndarray:
    """(V, 4, 4): from the cube, z up, to each of the numbered cameras."""
    return np.linalg.inv(view_poses(cameras, "z", VIEW_DISTANCE))


def cube_projection(scale: float = 1.0) -> np.ndarray:
    """(4, 4): the square picture of a camera of views. scale: metres per unit of the cube; it
    sets the near and far ends, which hold the cube's sphere."""
    near, far = scale * (VIEW_DISTANCE - 2), scale * (VIEW_DISTANCE + 2)
    zoom = 1 / np.tan(VIEW_FIELD / 2)
    matrix = np.diag([zoom, zoom, (near + far) / (near - far), 0.0])
    matrix[2, 3], matrix[3, 2] = 2 * near * far / (near - far), -1
    return matrix


def fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) scaled so that the longer side is `longest`."""
    scale = longest / max(size)
    return max(2, round(size[0] * scale)), max(2, round(size[1] * scale))
