"""Colours of a surface from the views that see it.

Each view counts by how squarely and how finely it sees a place, and less and less towards its
outlines and its jumps of depth; so no view begins or ends at an edge. A pixel lends its colour only
to what it shows, as the depth of the surface itself, drawn into each view, tells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import ndimage
from scipy.spatial import cKDTree

from .threads import in_chunks, thread_count
from .view_fusion import projections

_FEATHER = 4.0  # pixels from an edge over which a view fades in
_LEAST = 0.02  # of its weight a view keeps at an edge: thin parts have nothing but edges
_SQUARENESS = 4  # power of the cosine between normal and ray
_NEAR = 1e-6
_FILLED_FROM = 12


@dataclass(frozen=True, eq=False)
class Painters:
    """What colours are taken from.

    images: (V, H, W, 4) uint8 sRGB, straight alpha. depth: (V, H, W) float32 of the surface, inf
    where it is not; fade: (V, H, W) float32, 0..1; matrices (V, 3, 4) and places (V, 3) float64 of
    the cameras; focal (V,) in pixels; tolerance: by how much a surface may be off, in the world.
    """

    images: np.ndarray
    depth: np.ndarray
    fade: np.ndarray
    matrices: np.ndarray
    places: np.ndarray
    focal: np.ndarray
    tolerance: float


def painters(
    images: np.ndarray,
    poses: np.ndarray,
    intrinsics: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    tolerance: float,
) -> Painters:
    """Draw the depth of a surface into each view. images (V, H, W, 4); vertices (N, 3) of the
    world; tolerance: by how much they may be off, in the same units."""
    matrices = projections(poses, intrinsics)
    depth = depth_pictures(matrices, images.shape[1:3], vertices, faces)
    focal = np.asarray(intrinsics, np.float64)[:, :2].max(axis=1)
    fade = np.empty_like(depth)

    def fill(begin: int, end: int) -> None:
        for view in range(begin, end):
            jump = 4 * tolerance + 3 * np.nanmin(depth[view], initial=1e30) / focal[view]
            fade[view] = _fade(depth[view], images[view, ..., 3], float(jump))

    in_chunks(fill, len(images))
    places = np.asarray(poses, np.float64)[:, :3, 3]
    return Painters(images, depth, fade, matrices, places, focal, tolerance)


def depth_pictures(
    matrices: np.ndarray, size: tuple[int, ...], vertices: np.ndarray, faces: np.ndarray
) -> np.ndarray:
    """(V, H, W) float32 depth along the cameras' axes at the middles of pixels, inf where there is
    nothing. matrices: as `view_fusion.projections` makes them; size: H, W."""
    depth = np.full((len(matrices), *size), np.inf, np.float32)
    solid = np.ascontiguousarray(vertices, np.float64)
    in_chunks(_draw, len(matrices), matrices, solid, np.ascontiguousarray(faces), depth)
    return depth


def _fade(depth: np.ndarray, alpha: np.ndarray, jump: float) -> np.ndarray:
    """(H, W) 0..1: how far from outlines and jumps of depth a pixel is."""
    here = np.where(np.isfinite(depth), depth, np.float32(1e30))
    edge = (ndimage.maximum_filter(here, 3) - ndimage.minimum_filter(here, 3)) > jump
    edge |= alpha < 250
    if not edge.any():
        return np.ones(depth.shape, np.float32)
    away = ndimage.distance_transform_edt(~edge)
    return np.clip(away / _FEATHER, _LEAST, 1).astype(np.float32)


def blend(points: np.ndarray, normals: np.ndarray, by: Painters) -> tuple[np.ndarray, np.ndarray]:
    """Colours (N, 3) float32, 0..255, at points (N, 3) with unit normals (N, 3), and how well they
    are seen (N,) float32; 0 where no view sees them, and there the colour is 0, too."""
    colors = np.zeros((len(points), 3), np.float32)
    seen = np.zeros(len(points), np.float32)
    if len(points):
        in_chunks(
            _blend,
            len(points),
            *(np.ascontiguousarray(points, np.float64), np.ascontiguousarray(normals, np.float64)),
            *(by.images, by.depth, by.fade, by.matrices, by.places, by.focal, by.tolerance),
            *(colors, seen),
            chunks=4 * thread_count(),
        )
    return colors, seen


def vertex_colors(
    vertices: np.ndarray, faces: np.ndarray, by: Painters
) -> tuple[np.ndarray, np.ndarray]:
    """(V, 4) uint8 sRGB + alpha, and (V,) how well each is seen. What no view sees is given the
    colours of the nearest that are seen, mixed by their distance."""
    colors, seen = blend(vertices, vertex_normals(vertices, faces), by)
    colors = _filled(vertices, colors, seen)
    out = np.full((len(vertices), 4), 255, np.uint8)
    out[:, :3] = np.rint(np.clip(colors, 0, 255))
    return out, seen


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) float64 unit normals, of the faces around weighted by their areas; 0 where none."""
    corners = vertices[faces].astype(np.float64)
    doubled = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    out = np.zeros((len(vertices), 3))
    for axis in range(3):
        for corner in range(3):
            out[:, axis] += np.bincount(faces[:, corner], doubled[:, axis], len(vertices))
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-30)


def _filled(points: np.ndarray, colors: np.ndarray, seen: np.ndarray) -> np.ndarray:
    known = seen > 0
    if known.all():
        return colors
    if not known.any():
        return np.full_like(colors, 128)
    many = min(_FILLED_FROM, int(known.sum()))
    away, at = cKDTree(points[known]).query(points[~known], k=many, workers=thread_count())
    away, at = away.reshape(-1, many), at.reshape(-1, many)
    share = 1 / np.maximum(away, 1e-12) ** 2
    share /= share.sum(axis=1, keepdims=True)
    out = colors.copy()
    out[~known] = np.einsum("nk,nkc->nc", share, colors[known][at])
    return out


# ----------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _draw(begin, end, matrices, vertices, faces, pictures):
    height, width = pictures.shape[1], pictures.shape[2]
    screen = np.empty((len(vertices), 3))
    for view in range(begin, end):
        m, depth = matrices[view], pictures[view]
        for i in range(len(vertices)):
            x, y, z = vertices[i]
            w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            near = 1 / w if w > _NEAR else 0.0
            screen[i, 0] = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) * near
            screen[i, 1] = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) * near
            screen[i, 2] = near
        for face in range(len(faces)):
            _draw_face(screen, faces[face, 0], faces[face, 1], faces[face, 2], depth, height, width)


@njit(cache=True, nogil=True)
def _draw_face(screen, a, b, c, depth, height, width):
    near0, near1, near2 = screen[a, 2], screen[b, 2], screen[c, 2]
    if near0 == 0 or near1 == 0 or near2 == 0:
        return
    x0, y0 = screen[a, 0], screen[a, 1]
    x1, y1 = screen[b, 0], screen[b, 1]
    x2, y2 = screen[c, 0], screen[c, 1]
    left = max(0, math.ceil(min(x0, x1, x2)))
    right = min(width - 1, math.floor(max(x0, x1, x2)))
    top = max(0, math.ceil(min(y0, y1, y2)))
    bottom = min(height - 1, math.floor(max(y0, y1, y2)))
    if left > right or top > bottom:
        return
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if area == 0:
        return
    for row in range(top, bottom + 1):
        for column in range(left, right + 1):
            u, v = column - x0, row - y0
            b1 = (u * (y2 - y0) - v * (x2 - x0)) / area
            b2 = (v * (x1 - x0) - u * (y1 - y0)) / area
            if b1 < 0 or b2 < 0 or b1 + b2 > 1:
                continue
            near = (1 - b1 - b2) * near0 + b1 * near1 + b2 * near2
            if near * depth[row, column] > 1:
                depth[row, column] = 1 / near


@njit(cache=True, nogil=True)
def _blend(
    begin,
    end,
    points,
    normals,
    images,
    pictures,
    fade,
    matrices,
    places,
    focal,
    tolerance,
    colors,
    seen,
):
    height, width = pictures.shape[1], pictures.shape[2]
    for at in range(begin, end):
        x, y, z = points[at]
        red = green = blue = total = 0.0
        for view in range(len(matrices)):
            wx, wy, wz = places[view, 0] - x, places[view, 1] - y, places[view, 2] - z
            away = math.sqrt(wx * wx + wy * wy + wz * wz)
            facing = (wx * normals[at, 0] + wy * normals[at, 1] + wz * normals[at, 2]) / away
            if facing < 0.05:
                continue
            m = matrices[view]
            depth = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            if depth <= _NEAR:
                continue
            u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / depth
            v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / depth
            if u < 0 or v < 0 or u > width - 1 or v > height - 1:
                continue
            j, i = min(int(u), width - 2), min(int(v), height - 2)
            s, t = u - j, v - i
            # A slanted surface runs on in depth from pixel to pixel.
            slant = min(math.sqrt(1 - min(facing, 1.0) ** 2) / facing, 6.0)
            off = 2 * tolerance + 1.5 * slant * depth / focal[view]
            share = r = g = b = 0.0
            for k in range(4):
                row, column = i + k // 2, j + k % 2
                if abs(pictures[view, row, column] - depth) > off:
                    continue
                part = (t if k // 2 else 1 - t) * (s if k % 2 else 1 - s)
                part *= fade[view, row, column] * (images[view, row, column, 3] / 255.0) ** 2
                share += part
                r += part * images[view, row, column, 0]
                g += part * images[view, row, column, 1]
                b += part * images[view, row, column, 2]
            if share < 1e-6:
                continue
            weight = share * facing**_SQUARENESS * (focal[view] / away) ** 2
            total += weight
            red += weight * r / share
            green += weight * g / share
            blue += weight * b / share
        if total > 0:
            colors[at, 0], colors[at, 1], colors[at, 2] = red / total, green / total, blue / total
            seen[at] = total
