"""A mesh or a point cloud in memory, and what file readers share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import BadInput, TooLarge
from ..protocol import MAX_POINTS


@dataclass(frozen=True, eq=False)
class Mesh:
    """Points, and the triangles between them if there are any.

    points: (N, 3) float32, or float64 where a file holds doubles.
    faces: (F, 3) int32, counter-clockwise from outside; no rows for a point cloud.
    normals: (N, 3) float32, any length, or None.
    colors: (N, 4) uint8 sRGB + alpha, or None.
    uv: (3 F, 2) float32 per corner, (0, 0) at the lower left of texture (H, W, 3 or 4) uint8; both
    or neither. Written, not read.
    """

    points: np.ndarray
    faces: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    normals: np.ndarray | None = None
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None


def checked(mesh: Mesh) -> Mesh:
    """`mesh` itself when its numbers can be worked with; raises BadInput otherwise.

    Normals that hold something else than numbers are dropped: they can be estimated.
    """
    check_count(len(mesh.points))
    finite = np.isfinite(mesh.points).all(axis=1)
    if not finite.all():
        bad = len(finite) - int(finite.sum())
        raise BadInput(
            f"{bad:,} of {len(finite):,} points have coordinates that are not numbers "
            "(NaN or infinite).",
            "Delete those points in the program that made the file, and export it again.",
        )
    if len(mesh.faces) and not 0 <= int(mesh.faces.min()) <= int(mesh.faces.max()) < len(finite):
        raise BadInput(
            f"The file has faces between points that do not exist; it has {len(finite):,} points.",
            "It is damaged. Export it again.",
        )
    if mesh.normals is not None and not np.isfinite(mesh.normals).all():
        return Mesh(mesh.points, mesh.faces, None, mesh.colors)
    return mesh


def check_count(count: int) -> None:
    """Raise BadInput for no points, TooLarge for more than are accepted."""
    if count <= 0:
        raise BadInput("The file holds no points.", "Choose a file with a point cloud or a mesh.")
    if count > MAX_POINTS:
        raise TooLarge(
            f"The file says it holds {count:,} points; {MAX_POINTS:,} are accepted.",
            "Thin the cloud out first, for example with Merge by Distance.",
        )


def fan_corners(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut polygons of `counts` (P,) corners into triangles around their first corner.

    Returns the polygon of each triangle (T,) and its three corners in that polygon (T, 3).
    Polygons of fewer than three corners give nothing.
    """
    triangles = np.maximum(counts.astype(np.int64) - 2, 0)
    polygon = np.repeat(np.arange(len(counts)), triangles)
    number = np.arange(len(polygon)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    return polygon, np.stack([np.zeros_like(number), number + 1, number + 2], axis=1)


def colors_from(channels: list[np.ndarray]) -> np.ndarray:
    """Three or four channels (N,) of any depth -> (N, 4) uint8.

    Integers are taken at their full range; floats as 0 to 1, or as 0 to 255 where any exceeds 1.
    """
    colors = np.full((len(channels[0]), 4), 255, np.uint8)
    floats = [channel for channel in channels if channel.dtype.kind == "f"]
    top = max((float(np.nanmax(channel, initial=0)) for channel in floats), default=0.0)
    for at, channel in enumerate(channels):
        if channel.dtype == np.uint8:
            colors[:, at] = channel
            continue
        if channel.dtype.kind == "f":
            scale = 255.0 if top <= 1 else 1.0
        else:
            scale = 255.0 / np.iinfo(channel.dtype).max
        level = np.nan_to_num(channel.astype(np.float64) * scale)
        colors[:, at] = np.clip(np.rint(level), 0, 255)
    return colors
