"""What was captured in the scene -> a task for the backend, and the way back. No bpy.

Everything here is numpy on arrays that belong to nobody else, so it runs in a thread.

Frames. `local` is the source object's own space. The `task` frame has world axes and the middle
of the source as its origin: task = linear @ local - centre, where `linear` is the 3x3 part of the
source's matrix_world. Results come back in the task frame and are put into the local one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from ..backend.errors import BadInput, TooLarge
from ..backend.protocol import (
    MAX_VOXEL_SIDE,
    MIN_VOXEL_SIDE,
    MeshResult,
    PointsToMesh,
    Task,
    VoxelsToMesh,
)
from .panorama.textures import Texture, texture_of
from .rasterizer import CHUNK, runs

GRID_TOLERANCE = 0.1
ANGLE_TOLERANCE = 0.01
SIZE_TOLERANCE = 0.02

# ------------------------------------------------------------------------------- what was captured


@dataclass(frozen=True, eq=False)
class Colors:
    """values: (M, 4), scene-linear float32 or sRGB uint8, as Blender keeps them; corner_vertices:
    (M,) int32 vertex of each value when they are one per face corner, else None (one per point)."""

    values: np.ndarray
    corner_vertices: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class PointCapture:
    """points, normals: (N, 3) float32 in local space; matrix_world: (4, 4) float64."""

    name: str
    points: np.ndarray
    matrix_world: np.ndarray
    normals: np.ndarray | None = None
    colors: Colors | None = None


@dataclass(frozen=True, eq=False)
class MeshCapture:
    """vertices: (V, 3) float32 local; triangles: (T, 3) int32; voxel_size: metres of the world."""

    name: str
    vertices: np.ndarray
    triangles: np.ndarray
    matrix_world: np.ndarray
    voxel_size: float


@dataclass(frozen=True, eq=False)
class CubesCapture:
    """One box per voxel. centres: (N, 3), edges: (N, 3, 3) float64 world; edges[i, k] is the k-th
    edge vector of box i; names: of the objects, for messages."""

    name: str
    names: list[str]
    centres: np.ndarray
    edges: np.ndarray


class PictureCapture(ABC):
    """What a model sees instead of having it in the scene's frame (`pictures`)."""

    name: str

    @abstractmethod
    def task(self, choices: Choices) -> tuple[Task, Placement]:
        """The task, not validated yet, and where its result goes. Raises BadInput."""


Capture = PointCapture | MeshCapture | CubesCapture | PictureCapture


@dataclass(frozen=True)
class Choices:
    """What the panel asks for. steps, guidance: None for what the model's authors found best;
    variations: shapes of one batch; preview: tell what forms; refine: lead the surface through the
    source."""

    model: str
    resolution: int
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    variations: int = 1
    preview: bool = False
    refine: bool = False


@dataclass(frozen=True, eq=False)
class Placement:
    """How a result of the task frame gets into the scene.

    matrix_world: (4, 4) float64 of the new object; linear: (3, 3); centre: (3,) float64:
    task = linear @ local - centre.
    """

    matrix_world: np.ndarray = field(default_factory=lambda: np.eye(4))
    linear: np.ndarray = field(default_factory=lambda: np.eye(3))
    centre: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def to_dict(self) -> dict[str, Any]:
        return {
            "matrix_world": self.matrix_world.tolist(),
            "linear": self.linear.tolist(),
            "centre": self.centre.tolist(),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Placement:
        shapes = {"matrix_world": (4, 4), "linear": (3, 3), "centre": (3,)}
        return cls(
            **{
                name: np.array(record[name], np.float64).reshape(shape)
                for name, shape in shapes.items()
            }
        )


def compose(capture: Capture, choices: Choices) -> tuple[Task, Placement]:
    """The task that asks for a mesh of `capture`, validated. Raises BadInput."""
    match capture:
        case PointCapture():
            task, placement = _points_task(capture, choices)
        case MeshCapture():
            task, placement = _mesh_voxels_task(capture, choices)
        case CubesCapture():
            task, placement = _cube_voxels_task(capture, choices)
        case PictureCapture():
            task, placement = capture.task(choices)
    task.validate()
    return task, placement


def with_choices(task: Task, choices: Choices) -> Task:
    """The task with how it shall be sampled; what is made of the source stays."""
    names = {spec.name for spec in fields(task)}
    wanted = ("seed", "steps", "guidance", "variations", "preview", "refine")
    return replace(task, **{name: getattr(choices, name) for name in wanted if name in names})


# ------------------------------------------------------------------------------------------ points


def _points_task(capture: PointCapture, choices: Choices) -> tuple[Task, Placement]:
    linear = usable_linear(capture.matrix_world, capture.name)
    points, centre = to_task_frame(capture.points, linear)
    task = PointsToMesh(
        name=capture.name,
        model=choices.model,
        seed=choices.seed,
        resolution=choices.resolution,
        points=points,
        normals=transform_normals(capture.normals, linear),
        colors=None if capture.colors is None else srgb_per_point(capture.colors, len(points)),
    )
    return task, Placement(capture.matrix_world, linear, centre)


def usable_linear(matrix_world: np.ndarray, name: str) -> np.ndarray:
    """The 3x3 part of a (4, 4) matrix; raises BadInput when it flattens space."""
    linear = np.array(matrix_world, np.float64)[:3, :3]
    stretch = np.linalg.svd(linear, compute_uv=False) if np.isfinite(linear).all() else np.zeros(3)
    if stretch[0] <= 0 or stretch[-1] < 1e-7 * stretch[0]:
        raise BadInput(
            f"{name} is flattened: its scale is zero along an axis.",
            "Set a scale above zero in the Item tab of the sidebar (also of its parents).",
        )
    return linear


def to_task_frame(points: np.ndarray, linear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) float32 local -> ((N, 3) float32 task frame, (3,) float64 centre).

    The centre is taken off in float64, so that a scan far from its origin keeps its detail.
    """
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for chunk in _chunks(len(points)):
        moved = points[chunk].astype(np.float64) @ linear.T
        moved = moved[np.isfinite(moved).all(axis=1)]
        if len(moved):
            low, high = np.minimum(low, moved.min(axis=0)), np.maximum(high, moved.max(axis=0))
    centre = (low + high) / 2 if np.isfinite(low).all() else np.zeros(3)
    result = np.zeros(points.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk in _chunks(len(points)):
            result[chunk] = points[chunk].astype(np.float64) @ linear.T - centre
    return result, centre


def transform_normals(normals: np.ndarray | None, linear: np.ndarray) -> np.ndarray | None:
    """(N, 3) float32 local -> unit normals in the task frame, zero where there is no direction; or
    None when none has one.

    Normals go with the inverse transpose, which keeps them at right angles to the surface.
    """
    if normals is None:
        return None
    inverse = np.linalg.inv(linear)
    result = np.zeros(normals.shape, np.float32)
    for chunk in _chunks(len(normals)):
        turned = normals[chunk].astype(np.float64) @ inverse
        length = np.linalg.norm(turned, axis=1, keepdims=True)
        pointing = (length > 0) & np.isfinite(length)
        result[chunk] = np.divide(turned, length, out=np.zeros_like(turned), where=pointing)
    return result if result.any() else None


def srgb_per_point(colors: Colors, count: int) -> np.ndarray:
    """-> (count, 4) uint8 sRGB + alpha; the mean of the corners where there is one per corner."""
    values, linear = colors.values, colors.values.dtype != np.uint8
    if colors.corner_vertices is not None:
        values = _mean_at(colors.corner_vertices, values, count, 1 if linear else 255)
    elif not linear:
        return values
    result = np.zeros((count, 4), np.uint8)
    for chunk in _chunks(count):
        part = np.nan_to_num(values[chunk])
        if linear:
            rgb = srgb_from_linear(part[:, :3])
            part = 255 * np.clip(np.concatenate([rgb, part[:, 3:]], axis=1), 0, 1)
        result[chunk] = np.rint(part)
    return result


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """Scene-linear Rec. 709 values in 0..1 -> sRGB (IEC 61966-2-1), any shape."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _mean_at(index: np.ndarray, values: np.ndarray, count: int, white: int) -> np.ndarray:
    share = np.bincount(index, minlength=count)
    sums = [np.bincount(index, values[:, k], minlength=count) for k in range(values.shape[1])]
    mean = np.stack(sums, axis=1) / np.maximum(share, 1)[:, None]
    mean[share == 0] = white  # a point of no face: white, opaque
    return mean


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


# ---------------------------------------------------------------------------------- voxels of cubes


def _cube_voxels_task(capture: CubesCapture, choices: Choices) -> tuple[Task, Placement]:
    axes, size = _common_frame(capture)
    offsets = (capture.centres - capture.centres[0]) @ axes.T / size
    cells = np.rint(offsets).astype(np.int64)
    stray = np.abs(offsets - cells).max(axis=1)
    if stray.max() > GRID_TOLERANCE:
        raise BadInput(
            f"{capture.names[int(stray.argmax())]} does not sit on the grid of the other cubes.",
            "Move the cubes in steps of their size (Object > Snap > Selection to Grid).",
        )
    low, high = cells.min(axis=0), cells.max(axis=0)
    occupancy, margin = _empty_grid(high - low + 1)
    occupancy[tuple((cells - low + margin).T)] = True
    middle = (low + high) / 2
    matrix = np.eye(4)
    matrix[:3, :3] = axes.T
    matrix[:3, 3] = capture.centres[0] + (middle * size) @ axes
    task = VoxelsToMesh(
        name=capture.name,
        model=choices.model,
        seed=choices.seed,
        resolution=choices.resolution,
        occupancy=occupancy,
        origin=tuple((low - margin - middle - 0.5) * size),
        voxel_size=tuple(size),
    )
    return task, Placement(matrix_world=matrix)


def _common_frame(capture: CubesCapture) -> tuple[np.ndarray, np.ndarray]:
    """(axes, size) that all boxes share: axes (3, 3), a rotation, rows are unit vectors."""
    first = capture.edges[0]
    lengths = np.linalg.norm(first, axis=1)
    if lengths.min() <= 0:
        raise BadInput(f"{capture.names[0]} has no thickness.", "Give all cubes the same size.")
    axes = first / lengths[:, None]
    if np.abs(axes @ axes.T - np.eye(3)).max() > ANGLE_TOLERANCE:
        raise BadInput(f"{capture.names[0]} is sheared, not a box.", "Apply its scale (Ctrl A).")
    if np.linalg.det(axes) < 0:
        axes[2] *= -1
    along = np.abs(capture.edges @ axes.T)  # (N, 3 edges, 3 axes)
    sizes = along.max(axis=1)
    turned = (along.sum(axis=1) - sizes).max(axis=1) > ANGLE_TOLERANCE * lengths.max()
    if turned.any():
        raise BadInput(
            f"{capture.names[int(turned.argmax())]} is turned differently from the other cubes.",
            "Give all cubes the same rotation.",
        )
    uneven = (np.abs(sizes / lengths - 1) > SIZE_TOLERANCE).any(axis=1)
    if uneven.any():
        raise BadInput(
            f"{capture.names[int(uneven.argmax())]} has another size than the other cubes.",
            "Give all cubes the same size.",
        )
    return axes, lengths


def _empty_grid(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(occupancy, margin): a grid around `shape` cells, with `margin` empty ones before them."""
    if shape.max() + 2 > MAX_VOXEL_SIDE:
        raise TooLarge(
            f"The voxels span {' x '.join(str(int(side)) for side in shape)} cells.",
            f"Use at most {MAX_VOXEL_SIDE - 2} along each side: larger or fewer voxels.",
        )
    margin = np.maximum(1, -(-(MIN_VOXEL_SIDE - shape) // 2))
    return np.zeros(tuple(int(side) for side in shape + 2 * margin), bool), margin


# ------------------------------------------------------------------------------- voxels of a mesh


def _mesh_voxels_task(capture: MeshCapture, choices: Choices) -> tuple[Task, Placement]:
    linear = usable_linear(capture.matrix_world, capture.name)
    _check_closed(capture)
    vertices, centre = to_task_frame(capture.vertices, linear)
    used = vertices[np.unique(capture.triangles)].astype(np.float64)
    if not np.isfinite(used).all():
        raise BadInput(f"{capture.name} has vertices that are no numbers.", "Delete them.")
    size = capture.voxel_size
    # A box of exactly ten voxels has ten, whatever the last bit of its coordinates says.
    sides = np.ceil((used.max(axis=0) - used.min(axis=0)) / size - 1e-3)
    shape = np.maximum(1, sides).astype(np.int64)
    grid, margin = _empty_grid(shape)
    middle = (used.max(axis=0) + used.min(axis=0)) / 2
    origin = middle - (shape / 2 + margin) * size
    cells = (vertices.astype(np.float64) - origin) / size - 0.5  # voxel centres are whole numbers
    occupancy = fill(cells, capture.triangles, grid.shape)
    if not occupancy.any():
        raise BadInput(
            f"{capture.name} is thinner than a voxel of {size:g} m everywhere.",
            "Choose a smaller voxel size.",
        )
    task = VoxelsToMesh(
        name=capture.name,
        model=choices.model,
        seed=choices.seed,
        resolution=choices.resolution,
        occupancy=occupancy,
        origin=tuple(origin),
        voxel_size=(size, size, size),
    )
    return task, Placement(capture.matrix_world, linear, centre)


def _check_closed(capture: MeshCapture) -> None:
    if not len(capture.triangles):
        raise BadInput(
            f"{capture.name} has no faces, so it has no inside.",
            "Choose Points instead of Voxels for a cloud of points.",
        )
    count = count_open_edges(capture.triangles)
    if count:
        raise BadInput(
            f"{capture.name} is open: {count:,} edges do not have a face on either side.",
            "Close the holes (Mesh > Clean Up > Fill Holes), or choose Points instead of Voxels.",
        )


def count_open_edges(triangles: np.ndarray) -> int:
    """Edges of (T, 3) triangles that an odd number of them share."""
    edges = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    edges.sort(axis=1)
    keys = edges[:, 0] * (int(triangles.max()) + 1) + edges[:, 1]
    _, counts = np.unique(keys, return_counts=True)
    return int((counts % 2 == 1).sum())


def fill(vertices: np.ndarray, triangles: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which whole-number places are inside a closed triangle mesh, as (X, Y, Z) bool.

    vertices: (V, 3) float64, whole numbers = voxel centres; triangles: (T, 3) int.
    A ray along Z through each (x, y) flips between outside and inside at every triangle that it
    meets. The ends of an edge are always taken in the same order, so that two triangles that share
    an edge agree to the last bit on which side of it a ray passes: no ray slips through between.
    """
    nx, ny, nz = shape
    toggles = np.zeros(nx * ny * (nz + 1), bool)
    low = np.maximum(np.ceil(vertices[triangles, :2].min(axis=1)), 0).astype(np.int64)
    high = np.floor(vertices[triangles, :2].max(axis=1)).astype(np.int64)
    spans = np.maximum(np.minimum(high, [nx - 1, ny - 1]) - low + 1, 0)
    pairs = spans.prod(axis=1)
    order = np.flatnonzero(pairs)
    for part in runs(pairs[order]):
        chosen = order[part]
        owner = np.repeat(chosen, pairs[chosen])
        starts = np.cumsum(pairs[chosen]) - pairs[chosen]
        step = np.arange(len(owner)) - np.repeat(starts, pairs[chosen])
        x = low[owner, 0] + step // spans[owner, 1]
        y = low[owner, 1] + step % spans[owner, 1]
        hit, z = _crossings(vertices, triangles[owner], x, y)
        column = x[hit] * ny + y[hit]
        first_above = np.clip(np.ceil(z), 0, nz).astype(np.int64)
        places, counts = np.unique(column * (nz + 1) + first_above, return_counts=True)
        toggles[places[counts % 2 == 1]] ^= True
    inside = np.logical_xor.accumulate(toggles.reshape(nx * ny, nz + 1), axis=1)
    return inside[:, :nz].reshape(shape)


def _crossings(
    vertices: np.ndarray, corners: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(hit, z): which of the P rays at (x, y) meet their triangle (P, 3), and where those do."""
    left = []
    for a, b in ((0, 1), (1, 2), (2, 0)):
        first, second = corners[:, a], corners[:, b]
        swapped = first > second
        p = vertices[np.where(swapped, second, first)]
        q = vertices[np.where(swapped, first, second)]
        cross = (q[:, 0] - p[:, 0]) * (y - p[:, 1]) - (q[:, 1] - p[:, 1]) * (x - p[:, 0])
        left.append((cross >= 0) ^ swapped)
    hit = (left[0] == left[1]) & (left[1] == left[2])
    a, b, c = (vertices[corners[hit, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        along = normal[:, 0] * (x[hit] - a[:, 0]) + normal[:, 1] * (y[hit] - a[:, 1])
        slope = along / normal[:, 2]
    z = np.where(np.isfinite(slope), a[:, 2] - slope, (a[:, 2] + b[:, 2] + c[:, 2]) / 3)
    # A triangle that is nearly a line puts z anywhere; it lies between its corners all the same.
    z = np.clip(z, np.minimum(np.minimum(a, b), c)[:, 2], np.maximum(np.maximum(a, b), c)[:, 2])
    return hit, z


# ------------------------------------------------------------------------------------- the way back


@dataclass(frozen=True, eq=False)
class PlacedMesh:
    """A mesh in the local space of its object, in the arrays that Blender keeps.

    vertices: (V, 3) float32; triangles: (F, 3) int32; edges: (E, 2) int32; corner_edges: (F, 3)
    int32, the edge from each corner to the next; colors: (V, 4) float32 sRGB or None; uv: (3 F, 2)
    float32, a place in `texture` for each corner, or None.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    edges: np.ndarray
    corner_edges: np.ndarray
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: Texture | None = None


def place(result: MeshResult, placement: Placement) -> PlacedMesh:
    """Put a result into the local space of its source. Raises BadInput when it is malformed."""
    vertices, faces, colors = result.vertices, result.faces, result.colors
    _check_mesh(vertices, faces, colors)
    _check_texture(result)
    inverse = np.linalg.inv(placement.linear)
    local = np.zeros(vertices.shape, np.float32)
    for chunk in _chunks(len(vertices)):
        local[chunk] = (vertices[chunk].astype(np.float64) + placement.centre) @ inverse.T
    triangles, uv, texture = faces.astype(np.int32), None, None
    if result.uv is not None and result.texture is not None:
        uv, texture = result.uv.astype(np.float32), texture_of(result.texture)
    if np.linalg.det(placement.linear) < 0:
        triangles = triangles[:, ::-1]
        uv = None if uv is None else uv.reshape(-1, 3, 2)[:, ::-1].reshape(-1, 2)
    if colors is not None:
        colors = colors.astype(np.float32) / 255
    triangles = np.ascontiguousarray(triangles)
    return PlacedMesh(local, triangles, *edges_of(triangles, len(local)), colors, uv, texture)


def edges_of(triangles: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(edges (E, 2), corner_edges (F, 3)) int32 of (F, 3) triangles over `count` vertices.

    Blender can work them out too, but on its main thread: half a second for a million triangles.
    """
    following = np.roll(triangles, -1, axis=1)
    low = np.minimum(triangles, following).ravel().astype(np.int64)
    high = np.maximum(triangles, following).ravel()
    keys, corner_edges = np.unique(low * count + high, return_inverse=True)
    edges = np.stack([keys // count, keys % count], axis=1).astype(np.int32)
    return edges, corner_edges.astype(np.int32).reshape(-1, 3)


def _check_texture(result: MeshResult) -> None:
    uv, texture = result.uv, result.texture
    if uv is None and texture is None:
        return
    fits = (
        uv is not None
        and texture is not None
        and uv.shape == (3 * len(result.faces), 2)
        and texture.dtype == np.uint8
        and texture.ndim == 3
        and texture.shape[2] in (3, 4)
        and min(texture.shape) > 0
    )
    if not fits:
        raise BadInput(
            "The texture that came back does not fit its mesh.",
            "Import it again from the history; if it stays so, repair the backend in Preferences.",
        )


def _check_mesh(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None) -> None:
    """Blender trusts the indices that it is given; a wrong one would crash it."""
    count = len(vertices)
    fits = (
        vertices.ndim == faces.ndim == 2
        and vertices.shape[1:] == faces.shape[1:] == (3,)
        and faces.dtype.kind in "iu"
        and (colors is None or colors.shape == (count, 4))
    )
    if not fits or (len(faces) and (faces.min() < 0 or faces.max() >= count)):
        raise BadInput(
            "The mesh that came back is damaged.",
            "Import it again from the history; if it stays so, repair the backend in Preferences.",
        )
    if not len(faces):
        raise BadInput(
            "The result is empty: no surface was found.",
            "Try a higher resolution, or check that the source has an inside.",
        )
