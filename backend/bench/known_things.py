"""Things known exactly, and pictures of them: by following rays through distance functions.

World z up; cameras as everywhere (camera to world, x right, y up, looking along -z).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from ..geometry.threads import in_chunks

THINGS = ("torus, box and ball", "stool", "cup")
_BALL = 1.3
_NEAR_ENOUGH = 2e-6


@dataclass(frozen=True, eq=False)
class Shown:
    """images: (V, S, S, 4) uint8 sRGB, straight alpha; depths: (V, S, S) float32 along the camera's
    axis at the middles of pixels, inf where nothing is; poses (V, 4, 4), intrinsics (V, 4) float32.
    """

    images: np.ndarray
    depths: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray


def ring(views: int, elevation: float, radius: float = 3.5, start: float = 0.0) -> np.ndarray:
    """(views, 4, 4) float32 poses around the origin at `elevation` degrees, looking at it."""
    return np.stack(
        [looking_at_origin(start + 360 * k / views, elevation, radius) for k in range(views)]
    )


def looking_at_origin(azimuth: float, elevation: float, radius: float = 3.5) -> np.ndarray:
    """(4, 4) float32. Azimuth 0 is in front (-y), 90 on +x, degrees."""
    a, e = math.radians(azimuth), math.radians(elevation)
    back = np.array([math.cos(e) * math.sin(a), -math.cos(e) * math.cos(a), math.sin(e)])
    right = np.array([math.cos(a), math.sin(a), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    pose[:3, 3] = radius * back
    return pose.astype(np.float32)


def all_around(views: int, radius: float = 3.5) -> np.ndarray:
    """(views, 4, 4) poses spread evenly over the sphere."""
    turns = 137.50776 * np.arange(views)
    heights = 1 - 2 * (np.arange(views) + 0.5) / views
    places = zip(turns, np.degrees(np.arcsin(heights)), strict=True)
    return np.stack([looking_at_origin(float(a), float(e), radius) for a, e in places])


def show(
    thing: str, poses: np.ndarray, size: int = 256, field: float = 40.0, samples: int = 4
) -> Shown:
    """Pictures of a thing. samples: rays along the side of a pixel at outlines, for its alpha."""
    focal = size / 2 / math.tan(math.radians(field) / 2)
    lens = np.tile(
        np.array([focal, focal, (size - 1) / 2, (size - 1) / 2], np.float32), (len(poses), 1)
    )
    images = np.zeros((len(poses), size, size, 4), np.uint8)
    depths = np.full((len(poses), size, size), np.inf, np.float32)
    number = THINGS.index(thing)
    wide = poses.astype(np.float64)
    in_chunks(_show_depth, len(poses) * size, number, wide, focal, depths)
    in_chunks(_show_colors, len(poses) * size, number, wide, focal, samples, depths, images)
    return Shown(images, depths, poses.astype(np.float32), lens)


def distances(thing: str, points: np.ndarray) -> np.ndarray:
    """(N,) float64 at points (N, 3): negative inside; exact or less."""
    return _distances(THINGS.index(thing), np.ascontiguousarray(points, np.float64))


def colors(points: np.ndarray) -> np.ndarray:
    """(N, 3) float64 0..255: the colour that all things have at points (N, 3)."""
    return _colors(np.ascontiguousarray(points, np.float64))


def on_surface(thing: str, count: int, seed: int = 0) -> np.ndarray:
    """(count, 3) float64 points on the surface, where random lines through the cube meet it."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while sum(map(len, found)) < count:
        starts = rng.uniform(-1.1, 1.1, (count, 3))
        ways = rng.normal(size=(count, 3))
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        outside = distances(thing, starts) > 0
        found.append(_hits(THINGS.index(thing), starts[outside], ways[outside]))
    return np.concatenate(found)[:count]


def iou(thing: str, vertices: np.ndarray, faces: np.ndarray, side: int = 160) -> float:
    """Volumetric intersection over union of a closed mesh with a thing."""
    axes = (np.arange(side) + 0.5) / side * 2.4 - 1.2
    grid = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), axis=-1).reshape(-1, 3)
    truth = distances(thing, grid) < 0
    scaled = (np.asarray(vertices, np.float64) + 1.2) / 2.4 * side - 0.5
    inside = _solid(scaled, faces, side).ravel()
    return float((truth & inside).sum() / max(1, (truth | inside).sum()))


# ----------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _box(x, y, z, a, b, c, r):
    """A box of half sides a, b, c with edges rounded by r."""
    x, y, z = abs(x) - a + r, abs(y) - b + r, abs(z) - c + r
    out = math.sqrt(max(x, 0.0) ** 2 + max(y, 0.0) ** 2 + max(z, 0.0) ** 2)
    return out + min(max(x, max(y, z)), 0.0) - r


@njit(cache=True, nogil=True)
def _distance(thing, x, y, z):
    if thing == 0:
        ring = math.hypot(math.hypot(x, y) - 0.65, z + 0.45) - 0.22
        box = _box(x, y, z + 0.1, 0.3, 0.45, 0.55, 0.0)
        return min(ring, min(box, math.sqrt(x * x + y * y + (z - 0.55) ** 2) - 0.33))
    if thing == 1:
        legs = _box(abs(x) - 0.5, abs(y) - 0.5, z + 0.3, 0.07, 0.07, 0.6, 0.01)
        bars = _box(x, abs(y) - 0.5, z + 0.4, 0.5, 0.04, 0.04, 0.0)
        seat = max(math.hypot(x, y) - 0.85, abs(z - 0.35) - 0.08)
        return min(legs, min(bars, seat))
    r = math.hypot(x, y)
    outer = max(r - 0.55, abs(z) - 0.7)
    hollow = max(r - 0.46, -0.58 - z)
    handle = math.hypot(math.hypot(x - 0.55, z) - 0.32, y) - 0.08
    body = max(outer, -hollow)
    return min(body, max(handle, 0.5 - r))


@njit(cache=True, nogil=True)
def _follow(thing, ox, oy, oz, dx, dy, dz):
    """How far along a ray of length one the surface is, or -1."""
    # Only within the ball that all things lie in.
    b = ox * dx + oy * dy + oz * dz
    room = b * b - (ox * ox + oy * oy + oz * oz - _BALL**2)
    if room < 0:
        return -1.0
    t, end = max(0.0, -b - math.sqrt(room)), -b + math.sqrt(room)
    while t < end:
        step = _distance(thing, ox + t * dx, oy + t * dy, oz + t * dz)
        if step < _NEAR_ENOUGH:
            return t
        t += step
    return -1.0


@njit(cache=True, nogil=True)
def _color(x, y, z, channel):
    if channel == 0:
        return 128 + 100 * math.sin(3.0 * x + 1.3 * z)
    if channel == 1:
        return 128 + 100 * math.sin(2.7 * y - 1.1 * x + 1.0)
    return 128 + 100 * math.sin(3.2 * z + 1.7 * y + 2.0)


@njit(cache=True, nogil=True)
def _show_depth(begin, end, thing, poses, focal, depths):
    size = depths.shape[1]
    for line in range(begin, end):
        view, row = line // size, line % size
        for column in range(size):
            t, z = _ray(thing, poses[view], focal, size, float(row), float(column))
            if t >= 0:
                depths[view, row, column] = z


@njit(cache=True, nogil=True)
def _show_colors(begin, end, thing, poses, focal, samples, depths, images):
    size = depths.shape[1]
    total = np.zeros(3)
    for line in range(begin, end):
        view, row = line // size, line % size
        pose = poses[view]
        for column in range(size):
            near = depths[view, row, column] < np.inf
            mixed = False
            for i in range(max(row - 1, 0), min(row + 2, size)):
                for j in range(max(column - 1, 0), min(column + 2, size)):
                    mixed |= (depths[view, i, j] < np.inf) != near
            if not near and not mixed:
                continue
            count = 0
            total[:] = 0
            lines = samples if mixed else 1
            for k in range(lines * lines):
                r = row + (k // lines + 0.5) / lines - 0.5
                c = column + (k % lines + 0.5) / lines - 0.5
                at, _ = _ray(thing, pose, focal, size, r, c)
                if at < 0:
                    continue
                count += 1
                x, y, z = _point(pose, focal, size, r, c, at)
                for channel in range(3):
                    total[channel] += _color(x, y, z, channel)
            if count:
                for channel in range(3):
                    images[view, row, column, channel] = round(total[channel] / count)
                images[view, row, column, 3] = round(255 * count / (lines * lines))


@njit(cache=True, nogil=True)
def _way(pose, focal, size, row, column):
    u, v = (column - (size - 1) / 2) / focal, -(row - (size - 1) / 2) / focal
    length = math.sqrt(u * u + v * v + 1)
    dx = (pose[0, 0] * u + pose[0, 1] * v - pose[0, 2]) / length
    dy = (pose[1, 0] * u + pose[1, 1] * v - pose[1, 2]) / length
    dz = (pose[2, 0] * u + pose[2, 1] * v - pose[2, 2]) / length
    return dx, dy, dz, length


@njit(cache=True, nogil=True)
def _ray(thing, pose, focal, size, row, column):
    dx, dy, dz, length = _way(pose, focal, size, row, column)
    t = _follow(thing, pose[0, 3], pose[1, 3], pose[2, 3], dx, dy, dz)
    return t, t / length


@njit(cache=True, nogil=True)
def _point(pose, focal, size, row, column, t):
    dx, dy, dz, _ = _way(pose, focal, size, row, column)
    return pose[0, 3] + t * dx, pose[1, 3] + t * dy, pose[2, 3] + t * dz


@njit(cache=True, nogil=True)
def _distances(thing, points):
    out = np.empty(len(points))
    for i in range(len(points)):
        out[i] = _distance(thing, points[i, 0], points[i, 1], points[i, 2])
    return out


@njit(cache=True, nogil=True)
def _colors(points):
    out = np.empty((len(points), 3))
    for i in range(len(points)):
        for channel in range(3):
            out[i, channel] = _color(points[i, 0], points[i, 1], points[i, 2], channel)
    return out


@njit(cache=True, nogil=True)
def _hits(thing, starts, ways):
    out = np.empty_like(starts)
    count = 0
    for i in range(len(starts)):
        ox, oy, oz = starts[i]
        dx, dy, dz = ways[i]
        t = _follow(thing, ox, oy, oz, dx, dy, dz)
        if t >= 0:
            out[count, 0], out[count, 1], out[count, 2] = ox + t * dx, oy + t * dy, oz + t * dz
            count += 1
    return out[:count]


@njit(cache=True, nogil=True)
def _solid(vertices, faces, side):
    """(side, side, side) bool: nodes inside of a closed mesh in units of nodes, by the crossings
    of a line along z through each."""
    flips = np.zeros((side, side, side + 1), np.int32)
    for face in range(len(faces)):
        a, b, c = vertices[faces[face, 0]], vertices[faces[face, 1]], vertices[faces[face, 2]]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
        if area == 0:
            continue
        sign = 1 if area > 0 else -1
        x0 = max(0, math.ceil(min(a[0], b[0], c[0])))
        x1 = min(side - 1, math.floor(max(a[0], b[0], c[0])))
        y0 = max(0, math.ceil(min(a[1], b[1], c[1])))
        y1 = min(side - 1, math.floor(max(a[1], b[1], c[1])))
        for x in range(x0, x1 + 1):
            for y in range(y0, y1 + 1):
                # A hair aside, so that no edge is met twice.
                px, py = x + 1.3e-7, y + 0.7e-7
                s = ((px - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (py - a[1])) / area
                t = ((b[0] - a[0]) * (py - a[1]) - (px - a[0]) * (b[1] - a[1])) / area
                if s < 0 or t < 0 or s + t > 1:
                    continue
                z = a[2] + s * (b[2] - a[2]) + t * (c[2] - a[2])
                k = min(max(math.ceil(z), 0), side)
                flips[x, y, k] -= sign
    inside = np.zeros((side, side, side), np.bool_)
    for x in range(side):
        for y in range(side):
            total = 0
            for z in range(side):
                total += flips[x, y, z]
                inside[x, y, z] = total > 0
    return inside
