"""Pinhole views that together see the whole sphere, and what they see of a panorama.

Frame: Z up, the eye at the origin. Pixel (i, j) of an equirectangular picture of H rows and W
columns looks along longitude 2 pi (0.5 - (j + 0.5) / W), latitude pi (0.5 - (i + 0.5) / H): its
centre is +X, +Y lies to the left of it. Views are square, 90 degrees wide, upright; in a view x
goes to the right and y down, from -1 to 1 between the outer borders of its pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

COUNTS = (20, 12)
"""How many views there may be. Both sets leave no direction farther than 37.4 degrees from the axis
of the nearest view; of 20, each direction lies in about three, of 12 in two."""

_MOST_MINIFIED = 1.25
"""Columns of the picture per pixel in the middle of a view, up to which bilinear samples do."""


@dataclass(frozen=True, eq=False)
class View:
    """A camera at the origin. right, up, forward: (3,) float64, of length 1, at right angles."""

    right: np.ndarray
    up: np.ndarray
    forward: np.ndarray

    def directions(self, side: int) -> np.ndarray:
        """(side, side, 3) float64, length 1, through the centres of its pixels, row 0 on top."""
        across = pixel_centres(side)
        rays = self.forward + across[None, :, None] * self.right - across[:, None, None] * self.up
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        return rays

    def project(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of (..., 3) directions of length 1: x, y, and the cosine of the angle to the axis, by
        which a distance along the direction becomes a depth along the axis. x and y are NaN behind
        the camera."""
        cosine = directions @ self.forward
        ahead = np.where(cosine > 1e-6, cosine, np.nan)
        return directions @ self.right / ahead, -(directions @ self.up) / ahead, cosine


def tangent_views(count: int = 20) -> tuple[View, ...]:
    """Views along the vertices of a dodecahedron (20) or an icosahedron (12).

    None looks exactly up or down, where "upright" would mean nothing.
    """
    if count not in COUNTS:
        raise ValueError(f"{count} views, not one of {COUNTS}")
    ring = 2 * math.pi / 5 * np.arange(5)
    if count == 20:
        high, low = math.asin(math.sqrt((5 + 2 * math.sqrt(5)) / 15)), None
        low = math.asin(math.sqrt((5 - 2 * math.sqrt(5)) / 15))
        rings = [(high, ring), (low, ring), (-low, ring + math.pi / 5), (-high, ring + math.pi / 5)]
        looks = [_direction(turn, rise) for rise, turns in rings for turn in turns]
    else:
        golden = (1 + math.sqrt(5)) / 2
        signs = [(a, b) for a in (-1, 1) for b in (-golden, golden)]
        looks = [np.roll((0.0, a, b), shift) for shift in range(3) for a, b in signs]
    return tuple(_upright(np.asarray(look)) for look in looks)


def _direction(longitude: float, latitude: float) -> np.ndarray:
    flat = math.cos(latitude)
    return np.array([flat * math.cos(longitude), flat * math.sin(longitude), math.sin(latitude)])


def _upright(look: np.ndarray) -> View:
    forward = look / np.linalg.norm(look)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return View(right, np.cross(right, forward), forward)


def pixel_centres(side: int) -> np.ndarray:
    """(side,) float64 from -1 to 1."""
    return (2 * np.arange(side) + 1) / side - 1


def spread_directions(count: int) -> np.ndarray:
    """(count, 3) float64 of length 1, spread evenly over the sphere."""
    height = 1 - (2 * np.arange(count) + 1) / count
    turn = math.pi * (3 - math.sqrt(5)) * np.arange(count)
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)


# ---------------------------------------------------------------------------------------- sampling


def sample_equirect(picture: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Bilinear samples of (H, W) or (H, W, C) in (..., 3) directions of length 1.

    Columns go around; beyond a pole the picture goes on half a turn away. Returns float32.
    """
    height, width = picture.shape[:2]
    longitude = np.arctan2(directions[..., 1], directions[..., 0])
    latitude = np.arcsin(np.clip(directions[..., 2], -1, 1))
    column = width * (0.5 - longitude / (2 * np.pi)) - 0.5
    row = height * (0.5 - latitude / np.pi) - 0.5
    return bilinear(_with_borders(picture), row + 1, column % width)


def _with_borders(picture: np.ndarray) -> np.ndarray:
    """A row more above and below, and a column more on the right."""
    half = picture.shape[1] // 2
    beyond = [np.roll(picture[row : row + 1 or None], half, axis=1) for row in (0, -1)]
    tall = np.concatenate([beyond[0], picture, beyond[1]])
    return np.concatenate([tall, tall[:, :1]], axis=1)


def sample_view(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear samples of what a view holds, (h, w), at places within it. Returns float32."""
    height, width = values.shape
    row = np.clip((y + 1) * height / 2 - 0.5, 0, height - 1)
    column = np.clip((x + 1) * width / 2 - 0.5, 0, width - 1)
    return bilinear(values, row, column)


def bilinear(picture: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Samples of (H, W) or (H, W, C) at places within 0 .. H - 1 and 0 .. W - 1, float32."""
    height, width = picture.shape[:2]
    top = np.clip(np.floor(row).astype(np.intp), 0, max(height - 2, 0))
    left = np.clip(np.floor(column).astype(np.intp), 0, max(width - 2, 0))
    down = (row - top).astype(np.float32)
    along = (column - left).astype(np.float32)
    if picture.ndim == 3:
        down, along = down[..., None], along[..., None]
    below, beside = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    upper = picture[top, left] * (1 - along) + picture[top, beside] * along
    lower = picture[below, left] * (1 - along) + picture[below, beside] * along
    return (upper * (1 - down) + lower * down).astype(np.float32, copy=False)


def without_aliases(picture: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8 -> float32, averaged where views of `side` pixels would skip pixels of it.

    The picture is reduced until a pixel in the middle of a view is about one column; towards the
    poles, where columns are ever closer together, each row is averaged along itself as well.
    """
    most = round(_MOST_MINIFIED * math.pi * side)
    if picture.shape[1] > most:
        rows = max(2, round(picture.shape[0] * most / picture.shape[1]))
        reduced = Image.fromarray(picture).resize((most, rows), Image.Resampling.LANCZOS)
        picture = np.asarray(reduced)
    height, width = picture.shape[:2]
    latitude = np.pi * (0.5 - (np.arange(height) + 0.5) / height)
    columns = width / (math.pi * side * np.cos(latitude))  # that one pixel of a view spans
    even = picture.astype(np.float32)
    for row in np.flatnonzero(columns > _MOST_MINIFIED):
        even[row] = _averaged_around(even[row], min(columns[row], width))
    return even


def _averaged_around(line: np.ndarray, span: float) -> np.ndarray:
    """(W, C), each pixel the mean of `span` pixels around it, the line being closed."""
    width = len(line)
    sums = np.concatenate([np.zeros((1, line.shape[1])), np.cumsum(line, axis=0, dtype=float)])

    def until(place: np.ndarray) -> np.ndarray:
        turns, rest = np.divmod(place, width)
        whole = rest.astype(np.intp)
        part = (rest - whole)[:, None]
        return turns[:, None] * sums[-1] + sums[whole] + part * line[whole % width]

    middle = np.arange(width) + 0.5
    return (until(middle + span / 2) - until(middle - span / 2)) / span
