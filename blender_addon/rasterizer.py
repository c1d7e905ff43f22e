"""Triangles -> depth pictures, in numpy. No bpy, no graphics card, so it runs in a thread.

Every pixel is hit at its centre by an exact ray; triangles have two sides. Meant for small
pictures: the models look at some 224 pixels along a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

CHUNK = 1 << 20
SMALLEST_DEPTH = 1e-6  # of the largest: what is nearer to the camera's plane is cut off
EDGE_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Picture:
    """depth: (H, W) float32 along the camera's axis, row 0 at the top, inf where nothing is;
    triangle: (H, W) int32 of the nearest triangle, -1 where nothing is."""

    depth: np.ndarray
    triangle: np.ndarray


def rasterize(
    vertices: np.ndarray,
    triangles: np.ndarray,
    view: np.ndarray,
    projection: np.ndarray,
    size: tuple[int, int],
) -> Picture:
    """What a camera sees of a mesh.

    vertices: (V, 3) float, world; triangles: (T, 3) int; view: (4, 4), world to camera, which looks
    along its -z; projection: (4, 4) of OpenGL, perspective or not; size: (width, height) in pixels.
    """
    width, height = size
    nearest = np.full(width * height, -np.inf)
    owner = np.full(width * height, -1, np.int32)
    perspective = projection[3, 3] == 0
    camera = vertices.astype(np.float64) @ view[:3, :3].T + view[:3, 3]
    corners, source = _before_the_camera(camera, triangles, projection, perspective)
    screen, rank = _to_screen(corners, projection, size)
    for chosen, x, y in _pixel_pairs(screen, size):
        hit, value = _hits(screen[chosen], rank[chosen], x, y)
        pixel = y[hit] * width + x[hit]
        value, chosen = value[hit], chosen[hit]
        np.maximum.at(nearest, pixel, value)
        wins = nearest[pixel] == value
        owner[pixel[wins]] = source[chosen[wins]]
    seen = owner >= 0
    depth = np.full(width * height, np.inf, np.float32)
    depth[seen] = 1 / nearest[seen] if perspective else -nearest[seen]
    return Picture(depth.reshape(height, width), owner.reshape(height, width))


def _before_the_camera(
    camera: np.ndarray, triangles: np.ndarray, projection: np.ndarray, perspective: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(corners (K, 3, 3) in camera space, source (K,)): the triangles cut at the camera's plane."""
    depth = -camera[:, 2]
    source = np.flatnonzero(np.isfinite(camera).all(axis=1)[triangles].all(axis=1))
    corners = camera[triangles[source]]
    if not perspective or not len(source):
        return corners, source
    plane = SMALLEST_DEPTH * float(np.abs(depth[triangles[source]]).max())
    ahead = -corners[:, :, 2] > plane
    whole = ahead.all(axis=1)
    cut = np.flatnonzero(ahead.any(axis=1) & ~whole)
    pieces, owners = _cut(corners[cut], ahead[cut], plane)
    return (
        np.concatenate([corners[whole], pieces]),
        np.concatenate([source[whole], source[cut][owners]]),
    )


def _cut(corners: np.ndarray, ahead: np.ndarray, plane: float) -> tuple[np.ndarray, np.ndarray]:
    """The part of (K, 3, 3) triangles with depth above `plane`: one or two triangles of each."""
    alone = np.where(ahead.sum(axis=1) == 1, ahead.argmax(axis=1), (~ahead).argmax(axis=1))
    rows = np.arange(len(corners))
    tip, left, right = (corners[rows, (alone + step) % 3] for step in range(3))
    to_left, to_right = _meet(tip, left, plane), _meet(tip, right, plane)
    one = ahead.sum(axis=1) == 1
    tips = np.stack([tip, to_left, to_right], axis=1)[one]
    lower = np.stack([to_left, left, right], axis=1)[~one]
    upper = np.stack([to_left, right, to_right], axis=1)[~one]
    return np.concatenate([tips, lower, upper]), np.concatenate([rows[one], rows[~one], rows[~one]])


def _meet(begin: np.ndarray, end: np.ndarray, plane: float) -> np.ndarray:
    """Where the lines between (K, 3) points reach depth `plane`."""
    along = (-plane - begin[:, 2]) / (end[:, 2] - begin[:, 2])
    return begin + along[:, None] * (end - begin)


def _to_screen(
    corners: np.ndarray, projection: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(screen (K, 3, 2) in pixels, pixel centres at whole numbers; rank (K, 3), linear on the
    screen, larger is nearer)."""
    clip = corners @ projection[:, :3].T + projection[:, 3]
    w = clip[:, :, 3:]
    across = clip[:, :, :2] / w * [1, -1]
    screen = (across + 1) / 2 * np.array(size) - 0.5
    perspective = projection[3, 3] == 0
    rank = -1 / corners[:, :, 2] if perspective else corners[:, :, 2]
    return screen, rank


def _pixel_pairs(screen: np.ndarray, size: tuple[int, int]):
    """Yield (triangle, x, y) arrays: each pixel centre in the bounds of each triangle."""
    last = np.array(size) - 1
    low = np.ceil(np.clip(screen.min(axis=1), 0, last + 1)).astype(np.int64)
    high = np.floor(np.clip(screen.max(axis=1), -1, last)).astype(np.int64)
    spans = np.maximum(high - low + 1, 0)
    pairs = spans.prod(axis=1)
    order = np.flatnonzero(pairs)
    for part in runs(pairs[order]):
        chosen = order[part]
        owner = np.repeat(chosen, pairs[chosen])
        starts = np.cumsum(pairs[chosen]) - pairs[chosen]
        step = np.arange(len(owner)) - np.repeat(starts, pairs[chosen])
        width = spans[owner, 0]
        yield owner, low[owner, 0] + step % width, low[owner, 1] + step // width


def runs(pairs: np.ndarray) -> list[slice]:
    """Slices of triangles that make about CHUNK pairs each. pairs: (T,) integer, per triangle."""
    if not len(pairs):
        return []
    bins = (np.cumsum(pairs) - 1) // CHUNK
    cuts = np.flatnonzero(np.diff(bins)) + 1
    bounds = [0, *cuts.tolist(), len(pairs)]
    return [slice(begin, end) for begin, end in pairwise(bounds)]


def _hits(
    screen: np.ndarray, rank: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(hit (P,), rank (P,)) of pixel centres (x, y) in triangles (P, 3, 2)."""
    weights = []
    for k in range(3):
        a, b = screen[:, (k + 1) % 3], screen[:, (k + 2) % 3]
        weights.append((b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x - a[:, 0]))
    weights = np.stack(weights, axis=1)
    area = weights.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights /= area
    # Of two triangles that share an edge at least one is hit: none lets a ray through between.
    hit = (weights >= -EDGE_TOLERANCE).all(axis=1)
    value = np.einsum("ij,ij->i", weights, rank)
    return hit, np.clip(value, rank.min(axis=1), rank.max(axis=1))


# ---------------------------------------------------------------------------------------- shading


def shade(
    picture: Picture,
    vertices: np.ndarray,
    triangles: np.ndarray,
    colors: np.ndarray,
    view: np.ndarray,
) -> np.ndarray:
    """(H, W, 4) uint8 sRGB: flat faces under a lamp at the camera, nothing around them.

    colors: (T, 3) uint8 sRGB of each triangle.
    """
    seen = picture.triangle >= 0
    hit = picture.triangle[seen]
    a, b, c = (vertices[triangles[hit, k]].astype(np.float64) for k in range(3))
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1)
    facing = np.abs(normal @ view[2, :3]) / np.where(length > 0, length, 1)
    image = np.zeros((*seen.shape, 4), np.uint8)
    image[seen, :3] = np.rint(colors[hit] * (0.25 + 0.75 * facing)[:, None])
    image[seen, 3] = 255
    return image
