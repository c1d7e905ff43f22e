"""A picture all around, with depth: rays to what is seen, light on half as many places, softened
between them where surfaces agree, more rays where they do not."""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from .bvh import Placed, cast, normal_of
from .surfaces import DIFFUSE, SHINING, SKY, Shell, shell_colour, shell_hit

FURNITURE = 100
"""What is seen: numbers of surfaces of the shell, or FURNITURE + number of the instance."""

_AO_REACH = np.float32(0.9)


class Lights(NamedTuple):
    """lamps: (L, 7): place, radius, colour; panes: (P, 9): axis, where, from, to along, from, to
    upwards, colour; sun: (7,): direction to it, colour, whether it shines; ambient: (3,)."""

    lamps: np.ndarray
    panes: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray


class Scene(NamedTuple):
    """eye: (3,) in the room; turn: radians that the middle of the picture is turned to the left of
    the room's +x. colours: (T, 3) albedo of the placed triangles; glow: (I, 3) light of an
    instance.
    """

    shell: Shell
    placed: Placed
    colours: np.ndarray
    glow: np.ndarray
    lights: Lights
    eye: np.ndarray
    turn: float


@numba.njit(cache=True, nogil=True)
def _direction(row, column, height, width, turn):
    """In the room, through (row, column) in pixels; a pixel's centre is at + 0.5."""
    phi = 2 * math.pi * (0.5 - column / width) + turn
    theta = math.pi * (0.5 - row / height)
    return math.cos(theta) * math.cos(phi), math.cos(theta) * math.sin(phi), math.sin(theta)


@numba.njit(cache=True, nogil=True)
def look(scene, stack, dx, dy, dz):
    """Along a direction: distance (inf for the sky), what, normal (3), colour (3), its meaning."""
    ox, oy, oz = scene.eye[0], scene.eye[1], scene.eye[2]
    far, surface = shell_hit(scene.shell, ox, oy, oz, dx, dy, dz)
    f = np.float32
    t, instance, triangle = cast(
        scene.placed, stack, f(ox), f(oy), f(oz), f(dx), f(dy), f(dz), f(far), False
    )
    if instance >= 0:
        nx, ny, nz = normal_of(scene.placed, instance, triangle)
        if nx * dx + ny * dy + nz * dz > 0:
            nx, ny, nz = -nx, -ny, -nz
        c, glow = scene.colours[triangle], scene.glow[instance]
        if glow[0] > 0:
            colour = (glow[0] * (0.3 + 0.7 * c[0]), glow[1] * (0.3 + 0.7 * c[1]),
                      glow[2] * (0.3 + 0.7 * c[2]))  # fmt: skip
            return float(t), FURNITURE + instance, (nx, ny, nz), colour, SHINING
        colour = (float(c[0]), float(c[1]), float(c[2]))
        return float(t), FURNITURE + instance, (nx, ny, nz), colour, DIFFUSE
    x, y, z = ox + far * dx, oy + far * dy, oz + far * dz
    colour, meaning = shell_colour(scene.shell, surface, x, y, z, dx, dy, dz)
    walls = len(scene.shell.walls)
    normal = (0.0, 0.0, 1.0 if surface == walls else -1.0)
    if surface < walls:
        wall = scene.shell.walls[surface]
        normal = (wall[4], 0.0, 0.0) if wall[0] == 0 else (0.0, wall[4], 0.0)
    return (math.inf if meaning == SKY else far), surface, normal, colour, meaning


@numba.njit(cache=True, nogil=True)
def _blocked(scene, stack, x, y, z, dx, dy, dz, most):
    """Whether anything is on the way, a length of `most` directions long."""
    far, _ = shell_hit(scene.shell, x, y, z, dx, dy, dz)
    if far < most * 0.995:
        return True
    f = np.float32
    _, instance, _ = cast(
        scene.placed, stack, f(x), f(y), f(z), f(dx), f(dy), f(dz), f(most * 0.995), True
    )
    return instance >= 0


@numba.njit(cache=True, nogil=True)
def _from_lamps(scene, stack, x, y, z, n, turn, light):
    for number in range(len(scene.lights.lamps)):
        lamp = scene.lights.lamps[number]
        for sample in range(2):
            angle = 2 * math.pi * (sample / 2 + turn)
            dx = lamp[0] + lamp[3] * math.cos(angle) - x
            dy = lamp[1] + lamp[3] * math.sin(angle) - y
            dz = lamp[2] + lamp[3] * 0.6 * math.cos(3 * angle) - z
            square = dx * dx + dy * dy + dz * dz
            facing = (n[0] * dx + n[1] * dy + n[2] * dz) / math.sqrt(square)
            if facing <= 0 or _blocked(scene, stack, x, y, z, dx, dy, dz, 1.0):
                continue
            for c in range(3):
                light[c] += 0.5 * lamp[4 + c] * facing / (square + 0.4)


@numba.njit(cache=True, nogil=True)
def _from_panes(scene, stack, x, y, z, n, turn, light):
    for number in range(len(scene.lights.panes)):
        pane = scene.lights.panes[number]
        area = (pane[3] - pane[2]) * (pane[5] - pane[4])
        for sample in range(2):
            # Places of a lattice, moved from place to place: four of them cover the pane evenly.
            u = (0.5 * sample + turn + 0.125) % 1.0
            v = (0.25 + 0.5 * sample + 2.5 * turn) % 1.0
            s = pane[2] + u * (pane[3] - pane[2])
            wx, wy = (pane[1], s) if pane[0] == 0 else (s, pane[1])
            dx, dy = wx - x, wy - y
            dz = pane[4] + v * (pane[5] - pane[4]) - z
            square = dx * dx + dy * dy + dz * dz
            length = math.sqrt(square)
            facing = (n[0] * dx + n[1] * dy + n[2] * dz) / length
            leaving = abs(dx if pane[0] == 0 else dy) / length
            share = 0.5 * area * facing * leaving / (math.pi * square + 0.1)
            if share < 1e-4 or _blocked(scene, stack, x, y, z, dx, dy, dz, 1.0):
                continue
            for c in range(3):
                light[c] += share * pane[6 + c]


@numba.njit(cache=True, nogil=True)
def _openness(scene, stack, x, y, z, n, turn):
    """Share of the directions around `n`, by their cosine, that are free for a little way."""
    # Any frame around the normal will do.
    if abs(n[2]) < 0.9:
        length = math.sqrt(n[0] * n[0] + n[1] * n[1])
        ax, ay, az = -n[1] / length, n[0] / length, 0.0
    else:
        length = math.sqrt(n[1] * n[1] + n[2] * n[2])
        ax, ay, az = 0.0, -n[2] / length, n[1] / length
    bx, by, bz = n[1] * az - n[2] * ay, n[2] * ax - n[0] * az, n[0] * ay - n[1] * ax
    free = 0.0
    rays = 4
    f = np.float32
    for sample in range(rays):
        angle = 2 * math.pi * (sample + turn) / rays
        across = math.sqrt((sample * 0.5 % 1.0 + 0.25 + 0.5 * turn) % 1.0)
        along = math.sqrt(max(0.0, 1 - across * across)) + 0.05
        c, s = across * math.cos(angle), across * math.sin(angle)
        dx = along * n[0] + c * ax + s * bx
        dy = along * n[1] + c * ay + s * by
        dz = along * n[2] + c * az + s * bz
        t, _ = shell_hit(scene.shell, x, y, z, dx, dy, dz)
        if t < _AO_REACH:
            # Furniture may reach a hair through the floor.
            free += math.sqrt(max(t, 0.0) / _AO_REACH)
            continue
        hit, instance, _ = cast(
            scene.placed, stack, f(x), f(y), f(z), f(dx), f(dy), f(dz), _AO_REACH, True
        )
        free += math.sqrt(hit / _AO_REACH) if instance >= 0 else 1.0
    return free / rays


@numba.njit(cache=True, nogil=True)
def _light_at(scene, stack, x, y, z, n, turn, light):
    """Light that falls on a place, all but the sun's, into `light` (3,)."""
    x, y, z = x + 2e-3 * n[0], y + 2e-3 * n[1], z + 2e-3 * n[2]
    free = 0.25 + 0.75 * _openness(scene, stack, x, y, z, n, turn)
    # Light that was reflected comes more from where the walls are, less from below.
    around = free * (0.85 + 0.15 * n[2] + 0.08 * n[0] + 0.05 * n[1])
    for c in range(3):
        light[c] = scene.lights.ambient[c] * around
    _from_lamps(scene, stack, x, y, z, n, turn, light)
    _from_panes(scene, stack, x, y, z, n, turn, light)


@numba.njit(cache=True, nogil=True)
def _sunlit(scene, stack, x, y, z, n):
    """How squarely the sun's light comes in through a window to this place; 0 where it does not."""
    sun = scene.lights.sun
    facing = n[0] * sun[0] + n[1] * sun[1] + n[2] * sun[2]
    if sun[6] <= 0 or facing <= 0:
        return 0.0
    x, y, z = x + 2e-3 * n[0], y + 2e-3 * n[1], z + 2e-3 * n[2]
    for number in range(len(scene.lights.panes)):
        pane = scene.lights.panes[number]
        flat = pane[0] == 0
        speed = sun[0] if flat else sun[1]
        if abs(speed) < 1e-6:
            continue
        t = (pane[1] - (x if flat else y)) / speed
        s = (y + t * sun[1]) if flat else (x + t * sun[0])
        up = z + t * sun[2]
        if t <= 0 or not (pane[2] < s < pane[3] and pane[4] < up < pane[5]):
            continue
        if not _blocked(scene, stack, x, y, z, sun[0], sun[1], sun[2], t):
            return facing
    return 0.0


@numba.njit(cache=True, nogil=True)
def _soft_light(row, column, t, what, n, lit, grid, out):
    """The light on a place seen at (row, column), in pixels, from places near it (every second
    pixel) on the same thing, as deep and turned as it is. Into `out` (3,)."""
    distance, thing, normals = grid
    rows, columns = lit.shape[0], lit.shape[1]
    i0, j0 = math.floor((row - 0.5) / 2), math.floor((column - 0.5) / 2)
    total = 1e-9
    out[:] = 0
    for i in range(max(0, i0 - 1), min(rows, i0 + 3)):
        for j in range(j0 - 1, j0 + 3):
            k = j % columns
            weight = 1.0 if thing[2 * i, 2 * k] == what else 2e-4
            far = (distance[2 * i, 2 * k] - t) / (0.05 * t + 0.02)
            m = normals[2 * i, 2 * k]
            agree = max(0.0, m[0] * n[0] + m[1] * n[1] + m[2] * n[2])
            weight *= (1e-3 + agree**8) / (1 + far * far)
            for c in range(3):
                out[c] += weight * lit[i, k, c]
            total += weight
    for c in range(3):
        out[c] /= total


@numba.njit(cache=True, nogil=True)
def _shown(scene, stack, seen, row, column, d, lit, grid, out):
    """Light towards the eye of what `look` saw, before exposure, into `out` (3,)."""
    t, what, n, colour, meaning = seen
    if meaning != DIFFUSE:
        out[0], out[1], out[2] = colour
        return
    _soft_light(row, column, t, what, n, lit, grid, out)
    x, y, z = scene.eye[0] + t * d[0], scene.eye[1] + t * d[1], scene.eye[2] + t * d[2]
    sun = _sunlit(scene, stack, x, y, z, n)
    for c in range(3):
        out[c] = colour[c] * (out[c] + sun * scene.lights.sun[3 + c])


@numba.njit(cache=True, nogil=True)
def _through_film(value, exposure):
    """Linear light -> linear 0 to 1, highlights rolled off."""
    v = value * exposure
    return v / (1 + v**3) ** (1 / 3)


@numba.njit(cache=True, nogil=True)
def _first_rays(scene, height, width):
    stack = np.empty(64, np.int32)
    distance = np.empty((height, width))
    thing = np.empty((height, width), np.int32)
    normals = np.empty((height, width, 3), np.float32)
    colours = np.empty((height, width, 3), np.float32)
    meaning = np.empty((height, width), np.uint8)
    for row in range(height):
        for column in range(width):
            d = _direction(row + 0.5, column + 0.5, height, width, scene.turn)
            t, what, n, colour, kind = look(scene, stack, d[0], d[1], d[2])
            distance[row, column], thing[row, column], meaning[row, column] = t, what, kind
            for c in range(3):
                normals[row, column, c] = n[c]
                colours[row, column, c] = colour[c]
    return distance, thing, normals, colours, meaning


@numba.njit(cache=True, nogil=True)
def _light(scene, distance, normals, meaning):
    """Light on every second pixel of every second row; fewer near the poles, where they crowd."""
    height, width = distance.shape
    stack = np.empty(64, np.int32)
    lit = np.zeros((height // 2, width // 2, 3), np.float32)
    light = np.zeros(3)
    for i in range(height // 2):
        step = 1
        while step < 8 and math.sin(math.pi * (2 * i + 0.5) / height) * step < 0.5:
            step *= 2
        for j in range(0, width // 2, step):
            row, column = 2 * i, 2 * j
            if meaning[row, column] == DIFFUSE:
                d = _direction(row + 0.5, column + 0.5, height, width, scene.turn)
                t, m = distance[row, column], normals[row, column]
                n = (float(m[0]), float(m[1]), float(m[2]))
                x, y = scene.eye[0] + t * d[0], scene.eye[1] + t * d[1]
                # One of four turns, so that four neighbours together have sixteen samples or so.
                turn = 0.25 * ((j // step) % 2) + 0.125 * (i % 2)
                _light_at(scene, stack, x, y, scene.eye[2] + t * d[2], n, turn, light)
                for c in range(3):
                    lit[i, j, c] = light[c]
            else:
                lit[i, j] = lit[i, j - 1] if j > 0 else lit[i - 1, j]
            for k in range(j + 1, min(j + step, width // 2)):
                lit[i, k] = lit[i, j]
    return lit


@numba.njit(cache=True, nogil=True)
def _mean_light(shown, meaning):
    """Of what is no sky, by solid angle."""
    height, width = meaning.shape
    total, area = 0.0, 1e-9
    for row in range(height):
        weight = math.sin(math.pi * (row + 0.5) / height)
        for column in range(width):
            if meaning[row, column] == DIFFUSE:
                v = shown[row, column]
                total += weight * min(0.3 * v[0] + 0.6 * v[1] + 0.1 * v[2], 4.0)
                area += weight
    return total / area


@numba.njit(cache=True, nogil=True)
def _is_edge(row, column, thing, normals, picture):
    """Whether a neighbour shows something else, so that one ray is not enough."""
    height, width = thing.shape
    for step in range(4):
        i = row + (1 if step == 0 else -1 if step == 1 else 0)
        j = (column + (1 if step == 2 else -1 if step == 3 else 0)) % width
        if not 0 <= i < height:
            continue
        if thing[i, j] != thing[row, column]:
            return True
        for c in range(3):
            if abs(picture[i, j, c] - picture[row, column, c]) > 0.06:
                return True
        m, n = normals[i, j], normals[row, column]
        if m[0] * n[0] + m[1] * n[1] + m[2] * n[2] < 0.7:
            return True
    return False


@numba.njit(cache=True, nogil=True)
def paint(scene, height, width, brightness):
    """A picture of a scene all around.

    brightness: the mean light that the exposure is made for. Returns colours (H, W, 3) float32
    linear 0 to 1, distance (H, W) float64 at the centres of pixels, inf for sky, and what is seen
    there (H, W) int32.
    """
    distance, thing, normals, colours, meaning = _first_rays(scene, height, width)
    lit = _light(scene, distance, normals, meaning)
    grid = (distance, thing, normals)
    stack = np.empty(64, np.int32)
    shown = np.empty((height, width, 3), np.float32)
    out = np.zeros(3)
    for row in range(height):
        for column in range(width):
            d = _direction(row + 0.5, column + 0.5, height, width, scene.turn)
            m, c = normals[row, column], colours[row, column]
            n = (float(m[0]), float(m[1]), float(m[2]))
            colour = (float(c[0]), float(c[1]), float(c[2]))
            seen = (distance[row, column], thing[row, column], n, colour, meaning[row, column])
            _shown(scene, stack, seen, row + 0.5, column + 0.5, d, lit, grid, out)
            shown[row, column] = out
    exposure = brightness / _mean_light(shown, meaning)
    picture = np.empty_like(shown)
    for row in range(height):
        for column in range(width):
            for c in range(3):
                picture[row, column, c] = _through_film(shown[row, column, c], exposure)
    smooth = picture.copy()
    for row in range(height):
        for column in range(width):
            if not _is_edge(row, column, thing, normals, picture):
                continue
            total = np.zeros(3)
            for sample in range(4):
                # Four rays on a turned square.
                i = row + 0.125 + 0.25 * sample
                j = column + (0.375, 0.875, 0.125, 0.625)[sample]
                d = _direction(i, j, height, width, scene.turn)
                t, what, n, colour, kind = look(scene, stack, d[0], d[1], d[2])
                _shown(scene, stack, (t, what, n, colour, kind), i, j, d, lit, grid, out)
                for c in range(3):
                    total[c] += 0.25 * _through_film(out[c], exposure)
            smooth[row, column] = total
    return smooth, distance, thing
