"""What walls, floors, rugs, pictures, doors and windows look like at a place: patterns without
pictures, computed where a ray ends."""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

PLAIN, PLANKS, TILES, STRIPES, PANELLED, TILED_BELOW, DOTS, CARPET, BRICKS, PARQUET = range(10)
"""Patterns of a surface."""

WINDOW, DOOR, PICTURE, CURTAIN, RUG, MIRROR = range(1, 7)
"""Things on a surface that have no thickness."""

DIFFUSE, SHINING, SKY = range(3)
"""What a colour means: an albedo; light that leaves the surface; the sky, which has no distance."""

_FRAME = 0.05
_SKIRTING = 0.09


class Shell(NamedTuple):
    """A room without furniture. All lengths in metres, colours linear.

    walls: (W, 5) float64: axis (0: x is fixed, 1: y), where, from, to along the other axis, the
    sign of the normal inwards. height: of the ceiling; the floor is z = 0.
    looks: (W + 2, 14): pattern, three colours, four sizes; the floor is row W, the ceiling W + 1.
    things: (D, 17): surface, from, to along it, from, to upwards (y on the floor), kind, two
    colours, four numbers, unused. On walls "along" is the axis that is not fixed. Later
    ones cover earlier ones.
    sky: (14,): colours of zenith, horizon, ground, trees; height of the trees; seed.
    """

    walls: np.ndarray
    height: float
    looks: np.ndarray
    things: np.ndarray
    sky: np.ndarray


@numba.njit(cache=True, nogil=True)
def shell_hit(shell, ox, oy, oz, dx, dy, dz):
    """The surface that a ray from inside meets, and how far: always one in a closed room."""
    best, surface = 1e30, -1
    if dz != 0:
        up = dz > 0
        best = ((shell.height if up else 0.0) - oz) / dz
        surface = len(shell.walls) + (1 if up else 0)
    for number in range(len(shell.walls)):
        wall = shell.walls[number]
        flat = wall[0] == 0
        speed, at, along_at, along = (dx, ox, oy, dy) if flat else (dy, oy, ox, dx)
        # Only the side that faces into the room is there.
        if speed * wall[4] >= 0:
            continue
        t = (wall[1] - at) / speed
        if 1e-6 < t < best:
            s = along_at + t * along
            if wall[2] <= s <= wall[3]:
                best, surface = t, number
    return best, surface


@numba.njit(cache=True, nogil=True)
def _hash(a, b, seed):
    """0 to 1, from three numbers of which only the whole parts count."""
    n = np.uint32(np.int64(a) * 374761393 + np.int64(b) * 668265263 + np.int64(seed) * 974634777)
    n = np.uint32((n ^ (n >> np.uint32(13))) * np.uint32(1274126177))
    return float((n ^ (n >> np.uint32(16))) & np.uint32(0xFFFFFF)) / 16777216.0


@numba.njit(cache=True, nogil=True)
def _noise(x, y, seed):
    """Smooth, 0 to 1, about one bump per unit."""
    i, j = math.floor(x), math.floor(y)
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    low = _hash(i, j, seed) * (1 - u) + _hash(i + 1, j, seed) * u
    high = _hash(i, j + 1, seed) * (1 - u) + _hash(i + 1, j + 1, seed) * u
    return low * (1 - v) + high * v


@numba.njit(cache=True, nogil=True)
def _mixed(row, first, second, share):
    return (
        row[first] * (1 - share) + row[second] * share,
        row[first + 1] * (1 - share) + row[second + 1] * share,
        row[first + 2] * (1 - share) + row[second + 2] * share,
    )


@numba.njit(cache=True, nogil=True)
def _times(colour, factor):
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


@numba.njit(cache=True, nogil=True)
def _planked(look, s, z, seed):
    row = math.floor(s / look[10])
    shifted = z + _hash(row, 7, seed) * look[11]
    plank = math.floor(shifted / look[11])
    colour = _mixed(look, 1, 4, _hash(row, plank, seed))
    grain = _noise(s * 45, z * 2.5 + 9 * plank, seed)
    gap = s / look[10] - row < 0.02 or shifted / look[11] - plank < 0.004
    return _times(colour, (0.9 + 0.18 * grain) * (0.6 if gap else 1.0))


@numba.njit(cache=True, nogil=True)
def _tiled(look, s, z, width, height, checker, seed):
    i, j = math.floor(s / width), math.floor(z / height)
    if s / width - i < 0.008 / width or z / height - j < 0.008 / height:
        return look[7], look[8], look[9]
    if checker > 0:
        share = float((i + j) % 2)
    else:
        share = 0.35 * _hash(i, j, seed)
    return _mixed(look, 1, 4, share)


@numba.njit(cache=True, nogil=True)
def pattern(look, s, z, seed):
    """The colour of a surface at s along it and z up (or across)."""
    kind = int(look[0])
    plain = (look[1], look[2], look[3])
    if kind == PLANKS:
        if look[12] > 0:
            s, z = z, s
        return _planked(look, s, z, seed)
    if kind == PARQUET:
        block = look[11]
        if (math.floor(s / block) + math.floor(z / block)) % 2 == 1:
            s, z = z, s
        return _planked(look, s, z, seed)
    if kind == TILES:
        return _tiled(look, s, z, look[10], look[11], look[12], seed)
    if kind == STRIPES:
        return _mixed(
            look, 1, 4, 1.0 if s / look[10] - math.floor(s / look[10]) < look[11] else 0.0
        )
    if kind == PANELLED:
        if z > look[10] + 0.05:
            return plain
        return (look[7], look[8], look[9]) if z > look[10] else (look[4], look[5], look[6])
    if kind == TILED_BELOW:
        if z > look[10]:
            return plain
        i, j = math.floor(s / look[11]), math.floor(z / look[12])
        if s / look[11] - i < 0.006 / look[11] or z / look[12] - j < 0.006 / look[12]:
            return look[7], look[8], look[9]
        return _times((look[4], look[5], look[6]), 0.94 + 0.12 * _hash(i, j, seed))
    if kind == DOTS:
        i, j = math.floor(s / look[10]), math.floor(z / look[10])
        u, v = s / look[10] - i - 0.5, z / look[10] - j - 0.5
        return _mixed(look, 1, 4, 1.0 if (i + j) % 2 == 0 and abs(u) + abs(v) < look[11] else 0.0)
    if kind == CARPET:
        return _times(plain, 0.88 + 0.24 * _noise(s * 30, z * 30, seed))
    if kind == BRICKS:
        j = math.floor(z / 0.075)
        shifted = s / 0.24 + 0.5 * (j % 2)
        i = math.floor(shifted)
        if z / 0.075 - j < 0.16 or shifted - i < 0.05:
            return look[7], look[8], look[9]
        return _times(
            _mixed(look, 1, 4, _hash(i, j, seed)), 0.85 + 0.3 * _noise(s * 25, z * 25, seed)
        )
    return _times(plain, 0.97 + 0.06 * _noise(s * 2, z * 2, seed))


@numba.njit(cache=True, nogil=True)
def sky_colour(sky, dx, dy, dz):
    """Linear light from outside along a direction of length one: sky, trees, ground."""
    around = math.atan2(dy, dx)
    up = dz / max(math.sqrt(dx * dx + dy * dy), 1e-6)
    trees = sky[12] * (0.35 + 0.65 * _noise(around * 9, 3.0, sky[13]))
    trees += 0.25 * sky[12] * _noise(around * 40, 5.0, sky[13])
    if up > trees:
        return _mixed(sky, 3, 0, min(1.0, max(dz, 0.0) * 1.6) ** 0.7)
    if up > -0.02:
        shade = 0.7 + 0.6 * _noise(around * 60, up * 60, sky[13])
        return sky[9] * shade, sky[10] * shade, sky[11] * shade
    return _times(
        (sky[6], sky[7], sky[8]), 0.85 + 0.3 * _noise(around * 12, 2 / (up - 0.02), sky[13])
    )


@numba.njit(cache=True, nogil=True)
def _window(thing, u, v, width, height):
    """Whether a place of a window is glass; u, v metres from its lower left corner."""
    if min(u, v, width - u, height - v) < _FRAME:
        return False
    for axis in range(2):
        size, at, many = (width, u, thing[12]) if axis == 0 else (height, v, thing[13])
        for bar in range(1, int(many)):
            if abs(at - size * bar / many) < 0.02:
                return False
    return True


@numba.njit(cache=True, nogil=True)
def _door(thing, u, v, width, height):
    if min(u, width - u, height - v) < 0.07:
        return thing[9], thing[10], thing[11]
    panels = int(thing[12])
    for panel in range(panels):
        low = 0.15 + (height - 0.3) * panel / panels
        high = 0.15 + (height - 0.3) * (panel + 1) / panels - 0.1
        inset = min(u - 0.2, width - 0.2 - u, v - low, high - v)
        if 0 <= inset < 0.02:
            return _times((thing[6], thing[7], thing[8]), 0.6)
    if (u - width + 0.14) ** 2 + (v - 1.0) ** 2 < 0.0012:
        return 0.5, 0.5, 0.52
    return thing[6], thing[7], thing[8]


@numba.njit(cache=True, nogil=True)
def _picture(thing, u, v, width, height):
    if min(u, v, width - u, height - v) < thing[12]:
        return thing[9], thing[10], thing[11]
    seed = thing[14]
    x, y = u / width, v / height
    if thing[13] == 0:
        hills = 0.35 + 0.25 * _noise(x * 4, 1.0, seed)
        if y > hills:
            return 0.35 + 0.3 * y, 0.5 + 0.2 * y, 0.75
        return _times((thing[6], thing[7], thing[8]), 0.5 + 0.5 * _noise(x * 12, y * 12, seed))
    if thing[13] == 1:
        i, j = math.floor(x * 3 + 0.5 * _hash(1, 2, seed)), math.floor(y * 3)
        return _hash(i, j, seed) ** 2, _hash(i, j + 9, seed) ** 2, _hash(i + 9, j, seed) ** 2
    far = (x - 0.5) ** 2 + ((y - 0.5) * height / width) ** 2
    if far < 0.07:
        return thing[6], thing[7], thing[8]
    return 0.78, 0.75, 0.68


@numba.njit(cache=True, nogil=True)
def _rug(thing, u, v, width, height):
    rim = min(u, v, width - u, height - v)
    weave = 0.9 + 0.2 * _noise(u * 50, v * 50, thing[14])
    field = (thing[6], thing[7], thing[8])
    other = (thing[9], thing[10], thing[11])
    style = int(thing[13])
    if style != 3 and 0.06 < rim < 0.16:
        return _times(other, weave)
    if style == 1:
        x, y = (u / width - 0.5) * 2, (v / height - 0.5) * 2
        far = x * x + y * y
        if far < 0.12 or 0.3 < far < 0.4:
            return _times(other, weave)
    if style == 2 and (u / 0.12 - math.floor(u / 0.12)) < 0.35:
        return _times(other, weave)
    if style == 3:
        cell = 0.3
        i, j = math.floor(u / cell), math.floor(v / cell)
        if abs(u / cell - i - 0.5) + abs(v / cell - j - 0.5) < 0.35:
            return _times(other, weave)
    return _times(field, weave)


@numba.njit(cache=True, nogil=True)
def shell_colour(shell, surface, x, y, z, dx, dy, dz):
    """Colour and meaning (DIFFUSE or SKY) of a place of the shell seen along a direction."""
    walls = len(shell.walls)
    s, t = x, y
    if surface < walls:
        s, t = (y, z) if shell.walls[surface, 0] == 0 else (x, z)
    look = shell.looks[surface]
    found = -1
    for number in range(len(shell.things)):
        thing = shell.things[number]
        if thing[0] == surface and thing[1] <= s <= thing[2] and thing[3] <= t <= thing[4]:
            found = number
    if found < 0:
        if surface < walls and look[13] > 0 and t < _SKIRTING:
            return (look[13], look[13], look[13] * 0.97), DIFFUSE
        return pattern(look, s, t, surface), DIFFUSE
    thing = shell.things[found]
    u, v, width, height = s - thing[1], t - thing[3], thing[2] - thing[1], thing[4] - thing[3]
    kind = int(thing[5])
    if kind == WINDOW:
        if _window(thing, u, v, width, height):
            return sky_colour(shell.sky, dx, dy, dz), SKY
        return (thing[6], thing[7], thing[8]), DIFFUSE
    if kind == DOOR:
        return _door(thing, u, v, width, height), DIFFUSE
    if kind == PICTURE:
        return _picture(thing, u, v, width, height), DIFFUSE
    if kind == CURTAIN:
        fold = math.sin(u * 55 + 3 * _noise(u * 4, v, thing[14]))
        return _times((thing[6], thing[7], thing[8]), 0.78 + 0.22 * fold), DIFFUSE
    if kind == RUG:
        return _rug(thing, u, v, width, height), DIFFUSE
    if min(u, v, width - u, height - v) < 0.03:
        return (thing[9], thing[10], thing[11]), DIFFUSE
    shine = 0.55 + 0.2 * _noise((u + v) * 1.5, u - v, thing[14])
    return (shine * 0.95, shine, shine * 1.02), DIFFUSE
