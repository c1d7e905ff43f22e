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
    to_camera = camera.to_camera
    seen = vertices.astype(np.float64) @ to_camera[:3, :3].T + to_camera[:3, 3]
    corners = seen[faces]
    corners = corners[(corners[:, :, 2] < -_NEAR).all(axis=1)]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    corners, normals = corners[lengths > 0], normals[lengths > 0] / lengths[lengths > 0, None]
    # Faces have two sides: what is seen of one is turned to the camera.
    normals *= np.where(np.einsum("ij,ij->i", normals, corners.mean(axis=1)) > 0, -1, 1)[:, None]
    inverse_depth = -1 / corners[:, :, 2]
    scale = camera.focal * size / 2 * inverse_depth
    x = size / 2 + corners[:, :, 0] * scale
    y = size / 2 - corners[:, :, 1] * scale
    nearest = np.zeros((size, size))
    index = np.full((size, size), -1, np.int32)
    _fill(x, y, inverse_depth, nearest, index)
    hit = index >= 0
    depth = np.full((size, size), np.inf, np.float32)
    depth[hit] = 1 / nearest[hit]
    found = np.zeros((size, size, 3), np.float32)
    found[hit] = normals[index[hit]]
    return View(depth, found)


@numba.njit(cache=True, nogil=True)
def _fill(x, y, inverse_depth, nearest, index):
    """Per pixel centre the largest 1 / depth, which is linear on the screen, and its face."""
    size = nearest.shape[0]
    for face in range(x.shape[0]):
        x0, x1, x2 = x[face]
        y0, y1, y2 = y[face]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0:
            continue
        left = max(0, math.ceil(min(x0, x1, x2) - 0.5))
        right = min(size - 1, math.floor(max(x0, x1, x2) - 0.5))
        top = max(0, math.ceil(min(y0, y1, y2) - 0.5))
        bottom = min(size - 1, math.floor(max(y0, y1, y2) - 0.5))
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                u, v = column + 0.5 - x0, row + 0.5 - y0
                b1 = (u * (y2 - y0) - v * (x2 - x0)) / area
                b2 = (v * (x1 - x0) - u * (y1 - y0)) / area
                b0 = 1 - b1 - b2
                if b0 < 0 or b1 < 0 or b2 < 0:
                    continue
                near = (
                    b0 * inverse_depth[face, 0]
                    + b1 * inverse_depth[face, 1]
                    + b2 * inverse_depth[face, 2]
                )
                if near > nearest[row, column]:
                    nearest[row, column] = near
                    index[row, column] = face


# --------------------------------------------------------------------------------------- pictures


def shaded(view: View, rng: np.random.Generator, samples: int = 2) -> np.ndarray:
    """(S / samples, S / samples, 4) uint8 sRGB with alpha: a solid viewport's look.

    One surface colour, a key light from a random side above, fill light from all around.
    """
    hit = np.isfinite(view.depth)
    key = np.array([rng.uniform(-1, 1), rng.uniform(0.2, 1), rng.uniform(0.4, 1)])
    towards = view.normals @ (key / np.linalg.norm(key)).astype(np.float32)
    fill = 0.5 + 0.5 * view.normals[..., 1]
    light = 0.2 + 0.25 * fill + rng.uniform(0.4, 0.7) * np.maximum(towards, 0)
    tone = rng.uniform(0.35, 0.95) * (1 + rng.uniform(-0.35, 0.35, 3))
    linear = np.clip(light[..., None] * tone, 0, 1) * hit[..., None]
    linear, cover = _averaged(linear, samples), _averaged(hit[..., None].astype(float), samples)
    straight = linear / np.maximum(cover, 1e-6)
    return np.rint(255 * np.concatenate([_srgb(straight), cover], axis=-1)).astype(np.uint8)


def line_drawing(view: View, rng: np.random.Generator, samples: int = 2) -> np.ndarray:
    """(S / samples, S / samples, 3) uint8: dark outlines and creases on white."""
    crease = math.cos(math.radians(rng.uniform(25, 50)))
    lines = _edges(view, relative_step=rng.uniform(0.015, 0.04), crease=crease)
    width = int(rng.integers(0, 2 * samples - 1))
    for _ in range(width):
        lines = _grown(lines)
    ink = rng.uniform(0.7, 1.0)
    white = 1 - ink * _averaged(lines[..., None].astype(float), samples)
    return np.repeat(np.rint(255 * white).astype(np.uint8), 3, axis=-1)


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
    height, width, channels = picture.shape
    blocks = picture.reshape(height // samples, samples, width // samples, samples, channels)
    return blocks.mean(axis=(1, 3))


def _srgb(linear: np.ndarray) -> np.ndarray:
    return np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    )
