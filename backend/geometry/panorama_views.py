"""Pictures of spheres from any eye, without a graphics card: perspective ones, and panoramas for
two eyes (omni-directional stereo). Axes as in `protocol.PanoramaTask`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np

from ..depth_meanings import DepthMeaning
from ..protocol import SphereLayer, SphereResult, sphere_radii
from .threads import in_chunks

POLE_MERGE = (math.radians(60), math.radians(75))
"""Between these altitudes the distance of the eyes goes to 0, as in Blender's cameras."""

_Draw = Callable[[SphereLayer, np.ndarray, np.ndarray, np.ndarray], None]


@dataclass(frozen=True, eq=False)
class Seen:
    """colors: (H, W, 3) float32, 0..255 of sRGB pictures; distance: (H, W) float32 from the eye,
    inf at holes; holes: share of the samples in which there is nothing."""

    colors: np.ndarray
    distance: np.ndarray
    holes: float


def positions(layer: SphereLayer, meaning: DepthMeaning) -> np.ndarray:
    """(V, 3) float32 metres: where the vertices of a layer are."""
    return layer.directions * sphere_radii(layer, meaning)[:, None]


def camera_axes(yaw: float, pitch: float) -> np.ndarray:
    """(3, 3) float64: right, up and forward of a camera; degrees, yaw from +X towards +Y."""
    y, p = math.radians(yaw), math.radians(pitch)
    forward = np.array([math.cos(p) * math.cos(y), math.cos(p) * math.sin(y), math.sin(p)])
    right = np.array([math.sin(y), -math.cos(y), 0.0])
    return np.stack([right, np.cross(right, forward), forward])


def perspective(
    sphere: SphereResult,
    eye: tuple[float, float, float],
    yaw: float = 0.0,
    pitch: float = 0.0,
    field_of_view: float = 90.0,
    size: int = 512,
    samples: int = 2,
) -> Seen:
    """A square pinhole picture from `eye` (metres); samples x samples rays for each pixel."""
    side = size * samples
    axes = camera_axes(yaw, pitch)
    scale = math.tan(math.radians(field_of_view) / 2)

    def draw(
        layer: SphereLayer, places: np.ndarray, nearest: np.ndarray, texel: np.ndarray
    ) -> None:
        seen = (places - np.asarray(eye)) @ axes.T
        seen[:, :2] /= scale
        in_chunks(
            _draw_perspective, side, seen, layer.corners, layer.quads, layer.uv, nearest, texel
        )

    return _seen(sphere, draw, (side, side), samples)


def stereo_eye(sphere: SphereResult, eye: float, width: int, height: int, samples: int = 2) -> Seen:
    """What one of two eyes sees in every direction; eye: metres from the middle, positive for the
    left one. Its place is that far to the left of where it looks, less so towards the poles."""
    shape = (height * samples, width * samples)

    def draw(
        layer: SphereLayer, places: np.ndarray, nearest: np.ndarray, texel: np.ndarray
    ) -> None:
        moved = _seen_around(places.astype(np.float64), eye, shape[0], shape[1])
        tips = np.hypot(places[:, 0], places[:, 1]) < 1e-5 * np.abs(places[:, 2])
        in_chunks(
            _draw_around,
            shape[0],
            moved,
            tips,
            layer.corners,
            layer.quads,
            layer.uv,
            nearest,
            texel,
        )

    return _seen(sphere, draw, shape, samples)


def as_bytes(colors: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Colours that were seen, of a sphere with this image, as uint8 sRGB."""
    if image.dtype.kind == "f":
        colors = srgb(colors) * 255
    return np.rint(np.clip(colors, 0, 255)).astype(np.uint8)


def srgb(light: np.ndarray) -> np.ndarray:
    """Linear light, cut off at 1 -> sRGB in 0..1, float32."""
    shown = np.clip(light, 0, 1)
    curve = 1.055 * np.power(shown, np.float32(1 / 2.4)) - 0.055
    return np.where(shown <= 0.0031308, shown * 12.92, curve).astype(np.float32)


def _seen(sphere: SphereResult, draw: _Draw, shape: tuple[int, int], samples: int) -> Seen:
    """Draw the layers of a sphere, the nearest in front, and mean the samples."""
    nearest = np.full(shape, np.inf, np.float32)
    colors = np.zeros((*shape, 3), np.float32)
    for layer in sphere.layers:
        before = nearest.copy()
        texel = np.empty((*shape, 2), np.float32)
        draw(layer, positions(layer, sphere.meaning), nearest, texel)
        image = sphere.image if layer.image is None else layer.image
        in_chunks(_paint, shape[0], before, nearest, texel, np.ascontiguousarray(image), colors)
    holes = float(np.isinf(nearest).mean())
    if samples == 1:
        return Seen(colors, nearest, holes)
    rows, columns = shape[0] // samples, shape[1] // samples
    blocks = colors.reshape(rows, samples, columns, samples, 3)
    middle = nearest[samples // 2 :: samples, samples // 2 :: samples]
    return Seen(blocks.mean(axis=(1, 3)), middle, holes)


@numba.njit(cache=True, nogil=True)
def _paint(begin, end, before, nearest, texel, image, colors):
    """Colours where this layer came nearer; between four texels, repeated over all borders."""
    height, width = image.shape[:2]
    for row in range(begin, end):
        for column in range(nearest.shape[1]):
            if not nearest[row, column] < before[row, column]:
                continue
            x = texel[row, column, 0] * width - 0.5
            y = (1 - texel[row, column, 1]) * height - 0.5
            left, top = math.floor(x), math.floor(y)
            across, down = x - left, y - top
            x0, x1 = int(left) % width, int(left + 1) % width
            y0, y1 = int(top) % height, int(top + 1) % height
            for c in range(3):
                upper = image[y0, x0, c] * (1 - across) + image[y0, x1, c] * across
                lower = image[y1, x0, c] * (1 - across) + image[y1, x1, c] * across
                colors[row, column, c] = upper * (1 - down) + lower * down


@numba.njit(cache=True, nogil=True)
def _triangle(number, quads):
    """The three corners of a triangle, of which quads have two."""
    if number < 2 * quads:
        first = number // 2 * 4
        if number % 2 == 0:
            return first, first + 1, first + 2
        return first, first + 2, first + 3
    first = 4 * quads + 3 * (number - 2 * quads)
    return first, first + 1, first + 2


@numba.njit(cache=True, nogil=True)
def _draw_perspective(begin, end, seen, corners, quads, uv, nearest, texel):
    """Rows begin to end of a pinhole picture. seen: (V, 3) float64 in the camera, x and y divided
    by the tangent of half the field of view. Rays are met exactly, whatever lies behind the eye."""
    rows, columns = nearest.shape
    total = 2 * quads + (len(corners) - 4 * quads) // 3
    for number in range(total):
        ca, cb, cc = _triangle(number, quads)
        a, b, c = corners[ca], corners[cb], corners[cc]
        ax, ay, az = seen[a, 0], seen[a, 1], seen[a, 2]
        bx, by, bz = seen[b, 0], seen[b, 1], seen[b, 2]
        cx, cy, cz = seen[c, 0], seen[c, 1], seen[c, 2]
        if (
            (az <= 0 and bz <= 0 and cz <= 0)
            or (ax > az and bx > bz and cx > cz)
            or (-ax > az and -bx > bz and -cx > cz)
            or (ay > az and by > bz and cy > cz)
            or (-ay > az and -by > bz and -cy > cz)
        ):
            continue  # beside the picture
        left, right, top, bottom = 0, columns - 1, begin, end - 1
        least = 1e-4
        if az > least and bz > least and cz > least:
            x0, x1, x2 = ax / az, bx / bz, cx / cz
            y0, y1, y2 = ay / az, by / bz, cy / cz
            left = max(left, math.ceil((min(x0, x1, x2) + 1) * columns / 2 - 0.5))
            right = min(right, math.floor((max(x0, x1, x2) + 1) * columns / 2 - 0.5))
            top = max(top, math.ceil((1 - max(y0, y1, y2)) * rows / 2 - 0.5))
            bottom = min(bottom, math.floor((1 - min(y0, y1, y2)) * rows / 2 - 0.5))
        if left > right or top > bottom:
            continue
        # Edge functions: the planes through the eye and each side.
        px, py, pz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
        qx, qy, qz = cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax
        rx, ry, rz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        volume = ax * px + ay * py + az * pz
        if volume == 0:
            continue
        sign = 1.0 if volume > 0 else -1.0
        for row in range(top, bottom + 1):
            y = 1 - (row + 0.5) * 2 / rows
            for column in range(left, right + 1):
                x = (column + 0.5) * 2 / columns - 1
                p = (px * x + py * y + pz) * sign
                q = (qx * x + qy * y + qz) * sign
                r = (rx * x + ry * y + rz) * sign
                if p < 0 or q < 0 or r < 0:
                    continue
                together = p + q + r
                if together <= 0:
                    continue
                depth = abs(volume) / together
                if depth < nearest[row, column]:
                    nearest[row, column] = depth
                    for k in range(2):
                        texel[row, column, k] = (
                            p * uv[ca, k] + q * uv[cb, k] + r * uv[cc, k]
                        ) / together


def _seen_around(places: np.ndarray, eye: float, rows: int, columns: int) -> np.ndarray:
    """(V, 3) float64: column and row in the panorama of an eye, and distance. Where the eye looks
    tangentially from its circle, a point at the horizontal distance s is asin(eye / s) aside."""
    x, y, z = places.T
    flat = np.hypot(x, y)
    altitude = np.arctan2(np.abs(z), flat)
    low, high = POLE_MERGE
    merged = np.cos(np.clip((altitude - low) / (high - low), 0, 1) * (np.pi / 2))
    aside = np.minimum(np.abs(eye) * merged, 0.99 * flat)
    turned = np.arctan2(y, x) - np.sign(eye) * np.arcsin(aside / np.maximum(flat, 1e-12))
    ahead = np.sqrt(np.maximum(flat**2 - aside**2, 0))
    seen = np.empty_like(places)
    seen[:, 0] = (0.5 - turned / (2 * np.pi)) * columns
    seen[:, 1] = (0.5 - np.arctan2(z, ahead) / np.pi) * rows
    seen[:, 2] = np.hypot(ahead, z)
    return seen


@numba.njit(cache=True, nogil=True)
def _draw_around(begin, end, seen, tips, corners, quads, uv, nearest, texel):
    """Rows begin to end of a panorama. seen: (V, 3) column, row, distance; tips: (V,) bool,
    vertices straight above or below, which are wherever the rest of their triangle is."""
    rows, columns = nearest.shape
    total = 2 * quads + (len(corners) - 4 * quads) // 3
    x = np.empty(4)
    y = np.empty(4)
    z = np.empty(4)
    u = np.empty((4, 2))
    own = np.empty(3, np.int64)
    for number in range(total):
        own[0], own[1], own[2] = _triangle(number, quads)
        tip = -1
        for k in range(3):
            if tips[corners[own[k]]]:
                tip = k
        start = 0 if tip < 0 else (tip + 1) % 3
        count = 3 if tip < 0 else 2
        for n in range(count):
            corner = own[(start + n) % 3]
            vertex = corners[corner]
            x[n], y[n], z[n] = seen[vertex, 0], seen[vertex, 1], seen[vertex, 2]
            u[n, 0], u[n, 1] = uv[corner, 0], uv[corner, 1]
            x[n] += columns * round((x[0] - x[n]) / columns)
        if tip >= 0:  # a strip as wide as its base, up to the border
            vertex = corners[own[tip]]
            border = 0.0 if seen[vertex, 1] < rows / 2 else 1.0 * rows
            for n in range(2):
                x[2 + n], y[2 + n], z[2 + n] = x[1 - n], border, seen[vertex, 2]
                u[2 + n, 0], u[2 + n, 1] = u[1 - n, 0], uv[own[tip], 1]
            count = 4
        for n in range(count - 2):
            _draw_flat(begin, end, x, y, z, u, 0, n + 1, n + 2, nearest, texel)


@numba.njit(cache=True, nogil=True)
def _draw_flat(begin, end, x, y, z, u, a, b, c, nearest, texel):
    columns = nearest.shape[1]
    top = max(begin, math.ceil(min(y[a], y[b], y[c]) - 0.5))
    bottom = min(end - 1, math.floor(max(y[a], y[b], y[c]) - 0.5))
    if top > bottom:
        return
    left = math.ceil(min(x[a], x[b], x[c]) - 0.5)
    right = math.floor(max(x[a], x[b], x[c]) - 0.5)
    area = (x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a])
    if left > right or area == 0:
        return
    # 1 / distance goes linearly over a flat face; so the weights are those of the perspective.
    wa, wb, wc = 1 / z[a], 1 / z[b], 1 / z[c]
    for row in range(top, bottom + 1):
        py = row + 0.5
        for column in range(left, right + 1):
            px = column + 0.5
            p = ((x[b] - px) * (y[c] - py) - (x[c] - px) * (y[b] - py)) / area
            q = ((x[c] - px) * (y[a] - py) - (x[a] - px) * (y[c] - py)) / area
            r = ((x[a] - px) * (y[b] - py) - (x[b] - px) * (y[a] - py)) / area
            if p < 0 or q < 0 or r < 0:
                continue
            together = p * wa + q * wb + r * wc
            distance = 1 / together
            x_in = column % columns
            if distance < nearest[row, x_in]:
                nearest[row, x_in] = distance
                for k in range(2):
                    texel[row, x_in, k] = (
                        p * wa * u[a, k] + q * wb * u[b, k] + r * wc * u[c, k]
                    ) / together
