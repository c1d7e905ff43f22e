"""Solids as signed distance functions, and their surfaces. Numpy only.

A solid takes points (N, 3) float32 and returns (N,) float32: negative inside, and nowhere growing
faster than the distance walked (so that a value tells how far the surface is at least). Lengths
are free; y is up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise

import numpy as np

from ..geometry.isosurface import marching_cubes

Solid = Callable[[np.ndarray], np.ndarray]
Profile = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The same in the plane, of coordinates (N,) and (N,)."""
Vector = Sequence[float] | np.ndarray

_REACH = 3.0
_COARSE = 60
_BLOCK = 4


# --------------------------------------------------------------------------------------- primitives


def ball(radius: float) -> Solid:
    return lambda points: _length(points) - np.float32(radius)


def ellipsoid(radii: Vector) -> Solid:
    inverse = (1 / np.asarray(radii)).astype(np.float32)
    least = np.float32(min(radii))
    return lambda points: (_length(points * inverse) - 1) * least


def box(size: Vector, rounding: float = 0.0) -> Solid:
    """size: whole lengths of the sides."""
    half = (np.asarray(size, np.float64) / 2 - rounding).astype(np.float32)

    def distance(points: np.ndarray) -> np.ndarray:
        beyond = np.abs(points) - half
        outside = _length(np.maximum(beyond, 0))
        return outside + np.minimum(beyond.max(axis=1), 0) - np.float32(rounding)

    return distance


def cylinder(radius: float, height: float, rounding: float = 0.0) -> Solid:
    return lathe(rectangle(2 * radius, height, rounding))


def cone(bottom: float, top: float, height: float) -> Solid:
    """A frustum with these radii at its ends."""
    return (
        lathe(polygon([(-bottom, 0), (bottom, 0), (top, height), (-top, height)]))
        if top
        else (lathe(polygon([(-bottom, 0), (bottom, 0), (0, height)])))
    )


def torus(radius: float, thickness: float) -> Solid:
    """In the plane of x and z; thickness: the radius of the tube."""
    return lathe(lambda x, y: np.hypot(x - np.float32(radius), y) - np.float32(thickness))


def capsule(start: Vector, end: Vector, first: float, second: float | None = None) -> Solid:
    """A rod with round ends; its radius goes from `first` to `second`."""
    a = np.asarray(start, np.float32)
    along = np.asarray(end, np.float32) - a
    square = np.float32(max(float(along @ along), 1e-12))
    change = np.float32((first if second is None else second) - first)
    # What a cone's radius changes along its axis, its distance changes too much.
    steep = np.float32(math.sqrt(1 + float(change) ** 2 / float(square)))

    def distance(points: np.ndarray) -> np.ndarray:
        offset = points - a
        t = np.clip(offset @ along / square, 0, 1)
        away = _length(offset - t[:, None] * along)
        return (away - (np.float32(first) + t * change)) / steep

    return distance


def rods(places: np.ndarray, radius: float | np.ndarray) -> Solid:
    """Capsules along a polyline (K, 3), K >= 2; one radius, or one for each place."""
    radii = np.broadcast_to(radius, len(places))
    return union(
        *(
            capsule(places[k], places[k + 1], float(radii[k]), float(radii[k + 1]))
            for k in range(len(places) - 1)
        )
    )


def half_space(normal: Vector, offset: float) -> Solid:
    direction = np.asarray(normal, np.float64)
    direction = (direction / np.linalg.norm(direction)).astype(np.float32)
    return lambda points: points @ direction - np.float32(offset)


# ----------------------------------------------------------------------------------------- profiles


def circle(radius: float) -> Profile:
    return lambda x, y: np.hypot(x, y) - np.float32(radius)


def rectangle(width: float, height: float, rounding: float = 0.0) -> Profile:
    half_x, half_y = np.float32(width / 2 - rounding), np.float32(height / 2 - rounding)

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = np.abs(x) - half_x, np.abs(y) - half_y
        outside = np.hypot(np.maximum(u, 0), np.maximum(v, 0))
        return outside + np.minimum(np.maximum(u, v), 0) - np.float32(rounding)

    return distance


def polygon(corners: Sequence[tuple[float, float]] | np.ndarray) -> Profile:
    """A simple polygon, its corners in either turn."""
    places = np.asarray(corners, np.float32)

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        square = np.full(x.shape, np.inf, np.float32)
        inside = np.zeros(x.shape, bool)
        for (ax, ay), (bx, by) in zip(places, np.roll(places, -1, axis=0), strict=True):
            ex, ey = bx - ax, by - ay
            u, v = x - ax, y - ay
            t = np.clip((u * ex + v * ey) / max(ex * ex + ey * ey, np.float32(1e-12)), 0, 1)
            square = np.minimum(square, (u - t * ex) ** 2 + (v - t * ey) ** 2)
            if ay != by:
                inside ^= ((ay > y) != (by > y)) & (u < v * (ex / ey))
        return np.where(inside, -np.sqrt(square), np.sqrt(square))

    return distance


def stroke(places: Sequence[tuple[float, float]], width: float) -> Profile:
    """A line through `places`, with round ends."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        square = np.full(x.shape, np.inf, np.float32)
        for (ax, ay), (bx, by) in pairwise(places):
            ex, ey = np.float32(bx - ax), np.float32(by - ay)
            u, v = x - np.float32(ax), y - np.float32(ay)
            t = np.clip((u * ex + v * ey) / max(ex * ex + ey * ey, np.float32(1e-12)), 0, 1)
            square = np.minimum(square, (u - t * ex) ** 2 + (v - t * ey) ** 2)
        return np.sqrt(square) - np.float32(width / 2)

    return distance


def regular(corners: int, radius: float) -> list[tuple[float, float]]:
    """Corners of a regular polygon, the first at the top."""
    return star(corners, radius, None)


def star(points: int, radius: float, inner: float | None) -> list[tuple[float, float]]:
    count = points if inner is None else 2 * points
    places = []
    for k in range(count):
        angle = math.pi / 2 + 2 * math.pi * k / count
        r = radius if inner is None or k % 2 == 0 else inner
        places.append((r * math.cos(angle), r * math.sin(angle)))
    return places


# ------------------------------------------------------------------------------- profiles to solids


def lathe(profile: Profile) -> Solid:
    """The profile, of x >= 0 and y, turned around the y axis."""
    return lambda points: profile(np.hypot(points[:, 0], points[:, 2]), points[:, 1])


def extrusion(profile: Profile, depth: float) -> Solid:
    """The profile in x and y, along z."""
    half = np.float32(depth / 2)

    def distance(points: np.ndarray) -> np.ndarray:
        flat = profile(points[:, 0], points[:, 1])
        above = np.abs(points[:, 2]) - half
        outside = np.hypot(np.maximum(flat, 0), np.maximum(above, 0))
        return outside + np.minimum(np.maximum(flat, above), 0)

    return distance


def column(profile: Profile, height: float) -> Solid:
    """The profile in x and z, along y."""
    return turned(extrusion(profile, height), 0, 90)


def loft(bottom: Profile, top: Profile, height: float, steepest: float = 1.0) -> Solid:
    """From one profile in x and z to another. steepest: how far they differ over the height."""
    slack = np.float32(1 / math.sqrt(1 + steepest**2))

    def distance(points: np.ndarray) -> np.ndarray:
        x, y, z = points.T
        t = np.clip(y / np.float32(height) + np.float32(0.5), 0, 1)
        t = t * t * (3 - 2 * t)
        flat = ((1 - t) * bottom(x, z) + t * top(x, z)) * slack
        return np.maximum(flat, np.abs(y) - np.float32(height / 2))

    return distance


def twisted(solid: Solid, degrees: float, radius: float, narrowing: float = 0.0) -> Solid:
    """Turned about y by `degrees` for each unit of height, within `radius` of the axis; scaled by
    1 - narrowing * height."""
    rate = math.radians(degrees)
    slack = np.float32(1 / math.sqrt(1 + (rate * radius) ** 2 + (narrowing * radius) ** 2))

    def distance(points: np.ndarray) -> np.ndarray:
        x, y, z = points.T
        scale = np.maximum(1 - np.float32(narrowing) * y, np.float32(0.1))
        cos, sin = np.cos(rate * y), np.sin(rate * y)
        back = np.stack([(cos * x - sin * z) / scale, y, (sin * x + cos * z) / scale], axis=1)
        return solid(back.astype(np.float32)) * np.minimum(scale, 1) * slack

    return distance


# --------------------------------------------------------------------------------------- operations


def union(*solids: Solid) -> Solid:
    return lambda points: reduce(np.minimum, (solid(points) for solid in solids))


def intersection(*solids: Solid) -> Solid:
    return lambda points: reduce(np.maximum, (solid(points) for solid in solids))


def difference(solid: Solid, *others: Solid) -> Solid:
    return lambda points: reduce(np.maximum, (-other(points) for other in others), solid(points))


def smooth_union(width: float, *solids: Solid) -> Solid:
    """Joints are filled over about `width`."""

    def blend(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        near = np.maximum(np.float32(width) - np.abs(first - second), 0)
        return np.minimum(first, second) - near * near / np.float32(4 * width)

    return lambda points: reduce(blend, (solid(points) for solid in solids))


def shell(solid: Solid, thickness: float) -> Solid:
    """Only a wall of this thickness, inwards of the surface."""

    def distance(points: np.ndarray) -> np.ndarray:
        value = solid(points)
        return np.maximum(value, -value - np.float32(thickness))

    return distance


def moved(solid: Solid, x: float = 0, y: float = 0, z: float = 0) -> Solid:
    offset = np.array([x, y, z], np.float32)
    return lambda points: solid(points - offset)


def turned(solid: Solid, axis: int, degrees: float) -> Solid:
    """About the x, y or z axis, counter-clockwise seen from its tip."""
    angle = math.radians(degrees)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3, dtype=np.float32)
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    # Points are rows, so this is the product with the inverse.
    return lambda points: solid(points @ matrix)


def mirrored(solid: Solid, axis: int = 0) -> Solid:
    """What lies on the positive side, on both."""

    def distance(points: np.ndarray) -> np.ndarray:
        folded = points.copy()
        folded[:, axis] = np.abs(folded[:, axis])
        return solid(folded)

    return distance


def repeated(solid: Solid, count: int) -> Solid:
    """What lies around the positive x axis, `count` times around y; each a mirror image of itself,
    of its half with z >= 0."""
    sector = np.float32(2 * math.pi / count)

    def distance(points: np.ndarray) -> np.ndarray:
        x, y, z = points.T
        radius, angle = np.hypot(x, z), np.arctan2(z, x)
        folded = np.abs(angle - sector * np.round(angle / sector))
        places = np.stack([radius * np.cos(folded), y, radius * np.sin(folded)], axis=1)
        return solid(places.astype(np.float32))

    return distance


# ----------------------------------------------------------------------------------------- surfaces


def surface(solid: Solid, cells: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 in the solid's frame and faces (F, 3) int32, closed, outward.

    cells: along the longest side. Only blocks of cells that the surface may touch are evaluated.
    Raises ValueError for a solid that is empty, or reaches beyond 3 from the origin.
    """
    low, high = _bounds(solid)
    step = float((high - low).max()) / cells
    origin = low - 2 * step
    blocks = np.ceil((high - low + 4 * step) / (_BLOCK * step)).astype(int)
    middles = origin + (np.indices(blocks).reshape(3, -1).T + 0.5) * (_BLOCK * step)
    rough = solid(middles.astype(np.float32)).reshape(blocks)
    near = np.abs(rough) <= 1.05 * math.sqrt(3) / 2 * _BLOCK * step
    field = rough
    for axis in range(3):
        field = field.repeat(_BLOCK, axis=axis)
        field = np.concatenate([field, field.take([-1], axis)], axis=axis)
    wanted = np.zeros(field.shape, bool)
    for offset in np.ndindex((_BLOCK + 1,) * 3):
        spans = (slice(o, o + _BLOCK * n, _BLOCK) for o, n in zip(offset, blocks, strict=True))
        wanted[tuple(spans)] |= near
    nodes = np.argwhere(wanted)
    field[wanted] = solid((origin + nodes * step).astype(np.float32))
    vertices, faces = marching_cubes(field, closed=True)
    if not len(faces):
        raise ValueError("the solid is empty")
    return origin + vertices.astype(np.float64) * step, faces


def _bounds(solid: Solid) -> tuple[np.ndarray, np.ndarray]:
    """Corners of a box around the solid, from a coarse grid."""
    step = 2 * _REACH / _COARSE
    nodes = (np.arange(_COARSE) + 0.5) * step - _REACH
    grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 3)
    touched = solid(grid.astype(np.float32)) <= math.sqrt(3) / 2 * step
    if not touched.any():
        raise ValueError("the solid is empty")
    low, high = grid[touched].min(axis=0) - step / 2, grid[touched].max(axis=0) + step / 2
    if max(-low.min(), high.max()) > _REACH - step:
        raise ValueError("the solid reaches too far")
    # Once more, finer, or most of the cells would lie beside a thin solid.
    return _closer(solid, low, high)


def _closer(solid: Solid, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = (high - low) / 40
    grid = (low + (np.indices((40, 40, 40)).reshape(3, -1).T + 0.5) * step).astype(np.float32)
    touched = solid(grid) <= float(np.linalg.norm(step)) / 2
    if not touched.any():
        raise ValueError("the solid is empty")
    return grid[touched].min(axis=0) - step / 2, grid[touched].max(axis=0) + step / 2


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
