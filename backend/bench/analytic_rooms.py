"""Rooms whose picture and depth are known exactly from every eye: boxes, balls and pillars, met by
rays. Axes as in `protocol.PanoramaTask`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from ..geometry.panorama_views import camera_axes
from ..geometry.sphere import direction_grid
from ..geometry.threads import in_chunks

SHELL, BOX, BALL, PILLAR = range(4)
_PLAIN, _BRICKS, _BOARDS, _STRIPES, _CHECKS = range(5)

_LIGHTS = np.array([[0.9, 0.9, 1.15, 4.5], [-1.2, -0.6, 1.2, 3.0]])


@dataclass(frozen=True)
class Thing:
    """kind: of the constants above. size: half sizes of a box; radius and half height of others.
    turn: degrees around Z. color: sRGB. pattern: of the constants above."""

    kind: int
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    turn: float = 0.0
    color: tuple[float, float, float] = (0.7, 0.65, 0.6)
    pattern: int = _PLAIN


@dataclass(frozen=True)
class Room:
    """open_above: where its ceiling would be there is sky, without depth."""

    things: tuple[Thing, ...]
    open_above: bool = False


@dataclass(frozen=True, eq=False)
class Cast:
    """colors: (H, W, 3) uint8; depth: (H, W) float32 metres along each ray, inf in the sky."""

    colors: np.ndarray
    depth: np.ndarray


_WOOD, _WHITE, _BRICK, _BLUE = (
    (0.62, 0.45, 0.3),
    (0.85, 0.83, 0.78),
    (0.6, 0.3, 0.25),
    (0.2, 0.4, 0.7),
)

LIVING_ROOM = Room(
    (
        Thing(SHELL, (0.6, -0.4, -0.1), (3.2, 2.6, 1.5), color=_WHITE, pattern=_BRICKS),
        Thing(BOX, (1.7, 0.35, -0.87), (0.75, 0.45, 0.03), -18, _WOOD, _BOARDS),
        *(
            Thing(BOX, (x, y, -1.25), (0.035, 0.035, 0.35), -18, _WOOD)
            for x, y in ((2.229, 0.922), (2.464, 0.199), (0.936, 0.501), (1.171, -0.222))
        ),
        Thing(BALL, (1.62, 0.42, -0.62), (0.22, 0.22, 0.22), color=_BLUE, pattern=_STRIPES),
        Thing(BOX, (0.4, -2.78, -0.55), (1.1, 0.2, 1.05), color=_WOOD, pattern=_BOARDS),
        Thing(BOX, (-1.9, 0.9, -1.35), (0.5, 1.05, 0.25), color=(0.5, 0.25, 0.25)),
        Thing(BOX, (-2.35, 0.9, -0.95), (0.12, 1.05, 0.45), color=(0.5, 0.25, 0.25)),
        Thing(PILLAR, (-1.1, -1.7, -0.1), (0.16, 0.16, 1.5), color=_WHITE, pattern=_CHECKS),
        Thing(BOX, (1.4, 2.17, 0.25), (0.75, 0.02, 0.5), color=_BLUE, pattern=_CHECKS),
        Thing(BOX, (2.9, -2.0, -1.25), (0.35, 0.35, 0.35), -35, _WOOD, _BOARDS),
        Thing(PILLAR, (0.9, 1.3, 1.1), (0.015, 0.015, 0.3), color=(0.2, 0.2, 0.2)),
        Thing(BALL, (0.9, 1.3, 0.68), (0.14, 0.14, 0.14), color=_WHITE),
    )
)
"""Much the same as people measured other methods in: closed, 1.3 to 5 metres away."""

COURTYARD = Room(
    (
        Thing(SHELL, (0.0, 0.3, 0.4), (4.0, 3.4, 2.0), color=_BRICK, pattern=_BRICKS),
        Thing(PILLAR, (1.5, 0.6, -0.4), (0.2, 0.2, 1.2), color=_WHITE, pattern=_STRIPES),
        Thing(PILLAR, (1.3, -1.5, -0.4), (0.12, 0.12, 1.2), color=_WHITE, pattern=_STRIPES),
        Thing(BOX, (-1.6, 0.4, -1.2), (0.5, 0.9, 0.4), 20, _WOOD, _BOARDS),
        Thing(BALL, (2.2, -0.4, -0.9), (0.4, 0.4, 0.4), color=_BLUE, pattern=_CHECKS),
        Thing(BALL, (0.4, 1.7, 0.9), (0.3, 0.3, 0.3), color=_WHITE, pattern=_STRIPES),
    ),
    open_above=True,
)


def panorama(room: Room, width: int) -> Cast:
    """What the eye at the origin sees; depth exactly along the middle of each pixel."""
    height = width // 2
    fine = direction_grid(2 * width, 2 * height)
    colors, _ = _cast(room, (0, 0, 0), fine.reshape(-1, 3))
    _, depth = _cast(room, (0, 0, 0), direction_grid(width, height).reshape(-1, 3))
    return Cast(_meaned(colors, height, width), depth.reshape(height, width))


def view(
    room: Room,
    eye: Sequence[float],
    yaw: float = 0.0,
    pitch: float = 0.0,
    field_of_view: float = 90.0,
    size: int = 256,
) -> Cast:
    """A square pinhole picture, the truth of `panorama_views.perspective`."""
    colors, _ = _cast(room, eye, _rays(2 * size, yaw, pitch, field_of_view))
    _, depth = _cast(room, eye, _rays(size, yaw, pitch, field_of_view))
    return Cast(_meaned(colors, size, size), depth.reshape(size, size))


def _rays(size: int, yaw: float, pitch: float, field_of_view: float) -> np.ndarray:
    x = ((np.arange(size) + 0.5) * 2 / size - 1) * math.tan(math.radians(field_of_view) / 2)
    right, up, forward = camera_axes(yaw, pitch)
    rays = forward + x[None, :, None] * right - x[:, None, None] * up
    return (rays / np.linalg.norm(rays, axis=2, keepdims=True)).reshape(-1, 3)


def _meaned(colors: np.ndarray, height: int, width: int) -> np.ndarray:
    """2 x 2 rays for each pixel -> uint8."""
    mean = colors.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    return np.rint(np.clip(mean, 0, 1) * 255).astype(np.uint8)


def _cast(room: Room, eye: Sequence[float], rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours (N, 3) float32 0..1 of sRGB, and distances (N,) float32."""
    rows = [
        (
            thing.kind,
            *thing.center,
            *thing.size,
            math.radians(thing.turn),
            *thing.color,
            thing.pattern,
        )
        for thing in room.things
    ]
    colors = np.empty((len(rays), 3), np.float32)
    depth = np.empty(len(rays), np.float32)
    start = np.asarray(eye, np.float64)
    things = np.array(rows, np.float64)
    rays = np.ascontiguousarray(rays, np.float64)
    in_chunks(_trace, len(rays), start, rays, things, room.open_above, _LIGHTS, colors, depth)
    return colors, depth


@numba.njit(cache=True, nogil=True)
def _trace(begin, end, eye, rays, things, open_above, lights, colors, depth):
    normal = np.zeros(3)
    best_normal = np.zeros(3)
    point = np.zeros(3)
    for n in range(begin, end):
        best, which = np.inf, -1
        for k in range(len(things)):
            distance = _meet(eye, rays[n], things[k], normal)
            if distance < best:
                best, which = distance, k
                best_normal[:] = normal
        is_sky = which < 0 or (open_above and which == 0 and best_normal[2] < -0.5)
        if is_sky:
            depth[n] = np.inf
            up = max(rays[n, 2], 0.0)
            colors[n, 0], colors[n, 1], colors[n, 2] = 0.75 - 0.4 * up, 0.85 - 0.3 * up, 0.95
            continue
        depth[n] = best
        for c in range(3):
            point[c] = eye[c] + best * rays[n, c]
        light = 0.3
        for m in range(len(lights)):
            x, y, z = lights[m, 0] - point[0], lights[m, 1] - point[1], lights[m, 2] - point[2]
            square = x * x + y * y + z * z
            slope = (x * best_normal[0] + y * best_normal[1] + z * best_normal[2]) / np.sqrt(square)
            light += max(slope, 0.0) * lights[m, 3] / (4 * square + 4)
        tone = _pattern(point, best_normal, things[which])
        for c in range(3):
            colors[n, c] = min(things[which, 8 + c] * light * tone, 1.0)


@numba.njit(cache=True, nogil=True)
def _meet(eye, ray, thing, normal):
    """How far along the ray the thing is met first, inf where never; its outward normal."""
    kind = int(thing[0])
    c, s = math.cos(thing[7]), math.sin(thing[7])
    ox, oy, oz = eye[0] - thing[1], eye[1] - thing[2], eye[2] - thing[3]
    ox, oy = c * ox + s * oy, -s * ox + c * oy
    dx, dy, dz = c * ray[0] + s * ray[1], -s * ray[0] + c * ray[1], ray[2]
    if kind == 2:
        b = ox * dx + oy * dy + oz * dz
        rest = b * b - (ox * ox + oy * oy + oz * oz - thing[4] * thing[4])
        if rest < 0 or -b - math.sqrt(rest) <= 0:
            return np.inf
        t = -b - math.sqrt(rest)
        nx, ny, nz = (ox + t * dx) / thing[4], (oy + t * dy) / thing[4], (oz + t * dz) / thing[4]
    elif kind == 3:
        a = dx * dx + dy * dy
        b = ox * dx + oy * dy
        rest = b * b - a * (ox * ox + oy * oy - thing[4] * thing[4])
        t = np.inf
        nx = ny = nz = 0.0
        if rest > 0 and a > 0:
            side = (-b - math.sqrt(rest)) / a
            if side > 0 and abs(oz + side * dz) <= thing[6]:
                t = side
                nx, ny = (ox + t * dx) / thing[4], (oy + t * dy) / thing[4]
        if dz != 0:
            cap = (math.copysign(thing[6], -dz) - oz) / dz
            x, y = ox + cap * dx, oy + cap * dy
            if 0 < cap < t and x * x + y * y <= thing[4] * thing[4]:
                t, nx, ny, nz = cap, 0.0, 0.0, math.copysign(1.0, -dz)
        if t == np.inf:
            return np.inf
    else:
        near, far = -np.inf, np.inf
        near_axis = far_axis = 0
        for axis in range(3):
            o = ox if axis == 0 else (oy if axis == 1 else oz)
            d = dx if axis == 0 else (dy if axis == 1 else dz)
            half = thing[4 + axis]
            if d == 0:
                if abs(o) > half:
                    return np.inf
                continue
            first, second = (-half - o) / d, (half - o) / d
            if first > second:
                first, second = second, first
            if first > near:
                near, near_axis = first, axis
            if second < far:
                far, far_axis = second, axis
        if near > far:
            return np.inf
        inside = kind == 0
        t = far if inside else near
        axis = far_axis if inside else near_axis
        if t <= 0:
            return np.inf
        d = dx if axis == 0 else (dy if axis == 1 else dz)
        sign = -1.0 if d > 0 else 1.0
        nx = sign if axis == 0 else 0.0
        ny = sign if axis == 1 else 0.0
        nz = sign if axis == 2 else 0.0
    normal[0], normal[1], normal[2] = c * nx - s * ny, s * nx + c * ny, nz
    return t


@numba.njit(cache=True, nogil=True)
def _pattern(point, normal, thing):
    """How bright the pattern is at a point, 0.5 to 1."""
    pattern = int(thing[11])
    if abs(normal[2]) > 0.5:
        u, v = point[0], point[1]
    elif abs(normal[0]) > abs(normal[1]):
        u, v = point[1], point[2]
    else:
        u, v = point[0], point[2]
    grain = 0.04 * math.sin(7 * u + 3 * math.sin(5 * v)) + 0.04 * math.sin(11 * v + 2 * u)
    if pattern == 1:
        row = math.floor(v / 0.12)
        along = u / 0.3 + 0.5 * (row % 2)
        mortar = v / 0.12 - row < 0.12 or along - math.floor(along) < 0.06
        return (0.95 if mortar else 0.78) + grain
    if pattern == 2:
        return 0.8 + 0.12 * (math.floor(u / 0.14) % 2) + 2 * grain
    if pattern == 3:
        angle = math.atan2(point[1] - thing[2], point[0] - thing[1])
        return 1.0 if math.floor(angle * 12 / math.pi) % 2 == 0 else 0.6
    if pattern == 4:
        return 1.0 if (math.floor(u / 0.15) + math.floor(v / 0.15)) % 2 == 0 else 0.65
    return 0.92 + grain
