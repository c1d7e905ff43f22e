"""Pictures of shapes as an artist might give them: shaded, as line drawings, as depth.

A z-buffer with perspective-correct depth; no library of the pinned set has one that needs neither
a window nor a graphics card.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

_NEAR = 0.05


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole. to_camera: (4, 4) float64, world to camera: x right, y up, looking along -z.

    focal: of an image of height 2, so 1 / tan(half the field of view).
    """

    to_camera: np.ndarray
    focal: float


@dataclass(frozen=True, eq=False)
class View:
    """What a camera sees, row 0 at the top.

    depth: (S, S) float32 along the camera's axis, inf where there is nothing.
    normals: (S, S, 3) float32 of the faces, towards the camera, in its frame; 0 where nothing is.
    """

    depth: np.ndarray
    normals: np.ndarray


def orbit(azimuth: float, elevation: float, distance: float, field_of_view: float) -> Camera:
    """A camera that looks at the origin, y up. Angles in degrees; azimuth 0 is on the z axis."""
    a, e = math.radians(azimuth), math.radians(elevation)
    back = np.array([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
    right = np.array([math.cos(a), 0.0, -math.sin(a)])
    to_camera = np.eye(4)
    to_camera[:3, :3] = [right, np.cross(back, right), back]
    to_camera[2, 3] = -distance
    return Camera(to_camera, 1 / math.tan(math.radians(field_of_view) / 2))


def random_camera(rng: np.random.Generator) -> Camera:
    """Where people look from: all around, mostly a little from above, long or short lenses."""
    field_of_view = rng.uniform(25, 55)
    # Far enough that the cube of the shapes, with its corners, fits in.
    distance = rng.uniform(1.25, 1.6) / math.sin(math.radians(field_of_view) / 2)
    return orbit(rng.uniform(0, 360), rng.normal(18, 18), distance, field_of_view)


def render(vertices: np.ndarray, faces: np.ndarray, camera: Camera, size: int) -> View:
    """vertices (V, 3) float, faces (F, 3) integer of any winding."""
    return render_faces(vertices, faces, camera, size)[0]


def render_faces(
    vertices: np.ndarray, faces: np.ndarray, camera: Camera, size: int
) -> tuple[View, np.ndarray]:
    """As `render`, and which face each pixel shows: (S, S) int32, -1 where there is none."""
    to_camera = camera.to_camera
    seen = vertices.astype(np.float64) @ to_camera[:3, :3].T + to_camera[:3, 3]
    nearest, index = _nearest_faces(seen, faces, camera.focal * size / 2, size)
    return View(*_seen_of(seen, faces, nearest, index)), index


@numba.njit(cache=True, nogil=True)
def _nearest_faces(seen, faces, scale, size):
    """Per pixel centre the largest 1 / depth, which is linear on the screen, and its face; 0 and
    -1 where there is none."""
    nearest = np.zeros((size, size))
    index = np.full((size, size), -1, np.int32)
    screen = np.empty_like(seen)
    for i in range(len(seen)):
        near = -1 / seen[i, 2] if seen[i, 2] < -_NEAR else 0.0
        screen[i, 0] = size / 2 + seen[i, 0] * scale * near
        screen[i, 1] = size / 2 - seen[i, 1] * scale * near
        screen[i, 2] = near
    for face in range(len(faces)):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        if screen[a, 2] == 0 or screen[b, 2] == 0 or screen[c, 2] == 0:
            continue
        x0, y0, near0 = screen[a]
        x1, y1, near1 = screen[b]
        x2, y2, near2 = screen[c]
        # Most small faces lie between the centres of pixels.
        left = max(0, math.ceil(min(x0, x1, x2) - 0.5))
        right = min(size - 1, math.floor(max(x0, x1, x2) - 0.5))
        top = max(0, math.ceil(min(y0, y1, y2) - 0.5))
        bottom = min(size - 1, math.floor(max(y0, y1, y2) - 0.5))
        if left > right or top > bottom:
            continue
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0:
            continue
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                u, v = column + 0.5 - x0, row + 0.5 - y0
                b1 = (u * (y2 - y0) - v * (x2 - x0)) / area
                b2 = (v * (x1 - x0) - u * (y1 - y0)) / area
                b0 = 1 - b1 - b2
                if b0 < 0 or b1 < 0 or b2 < 0:
                    continue
                near = b0 * near0 + b1 * near1 + b2 * near2
                if near > nearest[row, column]:
                    nearest[row, column] = near
                    index[row, column] = face
    return nearest, index


@numba.njit(cache=True, nogil=True)
def _seen_of(seen, faces, nearest, index):
    """The depth and the normals of a view."""
    size = len(nearest)
    depth = np.full((size, size), np.float32(np.inf))
    normals = np.zeros((size, size, 3), np.float32)
    for row in range(size):
        for column in range(size):
            face = index[row, column]
            if face < 0:
                continue
            depth[row, column] = 1 / nearest[row, column]
            a, b, c = seen[faces[face, 0]], seen[faces[face, 1]], seen[faces[face, 2]]
            x = (b[1] - a[1]) * (c[2] - a[2]) - (b[2] - a[2]) * (c[1] - a[1])
            y = (b[2] - a[2]) * (c[0] - a[0]) - (b[0] - a[0]) * (c[2] - a[2])
            z = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
            # Faces have two sides: what is seen of one is turned to the camera.
            away = x * (a[0] + b[0] + c[0]) + y * (a[1] + b[1] + c[1]) + z * (a[2] + b[2] + c[2])
            length = math.sqrt(x * x + y * y + z * z) * (-1 if away > 0 else 1)
            if length != 0:
                normals[row, column, 0] = x / length
                normals[row, column, 1] = y / length
                normals[row, column, 2] = z / length
    return depth, normals


# --------------------------------------------------------------------------------------- pictures


def shaded(view: View, rng: np.random.Generator, samples: int = 2) -> np.ndarray:
    """(S / samples, S / samples, 4) uint8 sRGB with alpha: a solid viewport's look.

    One surface colour, a key light from a random side above, fill light from all around.
    """
    key = np.array([rng.uniform(-1, 1), rng.uniform(0.2, 1), rng.uniform(0.4, 1)])
    key *= rng.uniform(0.4, 0.7) / np.linalg.norm(key)
    tone = rng.uniform(0.35, 0.95) * (1 + rng.uniform(-0.35, 0.35, 3))
    linear, cover = _lit(view.depth, view.normals, key, tone, samples)
    straight = linear / np.maximum(cover, 1e-6)
    return np.rint(255 * np.concatenate([srgb(straight), cover], axis=-1)).astype(np.uint8)


@numba.njit(cache=True, nogil=True)
def _lit(depth, normals, key, tone, samples):
    """Light that comes from blocks of pixels (S / samples, S / samples, 3), and how much of each
    block shows something (S / samples, S / samples, 1)."""
    size = len(depth) // samples
    linear = np.zeros((size, size, 3), np.float32)
    cover = np.zeros((size, size, 1), np.float32)
    share = np.float32(1 / samples**2)
    for row in range(size * samples):
        for column in range(size * samples):
            if not math.isfinite(depth[row, column]):
                continue
            x, y, z = normals[row, column]
            fill = 0.5 + 0.5 * y
            light = 0.2 + 0.25 * fill + max(x * key[0] + y * key[1] + z * key[2], 0.0)
            cover[row // samples, column // samples, 0] += share
            for channel in range(3):
                value = min(light * tone[channel], 1.0)
                linear[row // samples, column // samples, channel] += share * value
    return linear, cover


def line_drawing(view: View, rng: np.random.Generator, samples: int = 2) -> np.ndarray:
    """(S / samples, S / samples, 3) uint8: dark outlines and creases on white."""
    crease = math.cos(math.radians(rng.uniform(25, 50)))
    lines = _edges(view, relative_step=rng.uniform(0.015, 0.04), crease=crease)
    width = int(rng.integers(0, 2 * samples - 1))
    for _ in range(width):
        lines = _grown(lines)
    ink = rng.uniform(0.7, 1.0)
    white = 1 - ink * _averaged(lines, samples)
    return np.repeat(np.rint(255 * white).astype(np.uint8)[..., None], 3, axis=-1)


def _edges(view: View, relative_step: float, crease: float) -> np.ndarray:
    """(S, S) bool: where depth jumps, or faces meet at an angle of a cosine below `crease`."""
    near = np.where(np.isfinite(view.depth), 1 / view.depth, 0.0)
    lines = np.zeros(near.shape, bool)
    for axis in (0, 1):
        first = [slice(None)] * 2
        second = [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        a, b = tuple(first), tuple(second)
        jump = np.abs(near[a] - near[b]) > relative_step * np.maximum(near[a], near[b])
        # A plane seen at a slant steps in depth without an edge.
        flat = np.einsum("ijk,ijk->ij", view.normals[a], view.normals[b])
        grazing = np.minimum(view.normals[a][..., 2], view.normals[b][..., 2]) < 0.2
        both = (near[a] > 0) & (near[b] > 0)
        lines[a] |= jump & ~(both & grazing & (flat > 0.999))
        lines[a] |= both & (flat < crease)
    return lines


def _grown(lines: np.ndarray) -> np.ndarray:
    grown = lines.copy()
    grown[1:] |= lines[:-1]
    grown[:, 1:] |= lines[:, :-1]
    return grown


def _averaged(picture: np.ndarray, samples: int) -> np.ndarray:
    """(H, W) -> (H / samples, W / samples) float32, the means of blocks."""
    total = np.zeros((picture.shape[0] // samples, picture.shape[1] // samples), np.float32)
    for row, column in np.ndindex(samples, samples):
        total += picture[row::samples, column::samples]
    return total / np.float32(samples**2)


def srgb(linear: np.ndarray) -> np.ndarray:
    return np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    )
