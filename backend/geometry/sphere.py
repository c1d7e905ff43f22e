"""Panoramas with depth -> meshes around the eye, closed at the poles and the seam.

One vertex per sampled pixel of the depth, exactly in the direction of that pixel, and one at each
pole. Where edges are cut, a quad over a jump is split along the middle between the near and the far
pixels (as marching squares do), each part going on in its own plane; behind the nearer part lies
the backing, a sheet that continues the farther one. Front and backing together contain a closed
sheet around the eye, so no ray from an eye inside finds a hole. Axes as in `protocol.PanoramaTask`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from ..depth_meanings import METRIC, DepthMeaning, coefficients, radii, values_of
from ..errors import BadInput
from ..protocol import (
    SPHERE_WIDTHS,
    SphereLayer,
    SphereResult,
    check_panorama_depth,
    check_same_aspect,
)
from . import depth_jumps
from .resampling import area_resized, between, depth_resized, spread
from .threads import in_chunks

LEAST_WIDTH, MOST_WIDTH = 512, 2048
"""Of a mesh whose width is not told."""

BYTES_PER_QUAD = 330
"""Memory of a mesh and what it is made with: measured at 4096 x 2048, and some more."""

_SKY_GRID = (256, 128)
_LEAST_SKY_RADIUS = 100.0
_MOST_OWN_WIDTH = 4096
_MOST_FINE = 1 << 25
_COVERS = np.float32(1.01)
_MOST_JUMPS = 0.2
"""Share of the edges between pixels: rooms full of things have a fiftieth of it."""
_EYE_OFFSET = 0.2
"""How far aside the eye may go, in units of the median radius, until a backing is at its end."""

_MOST_GROWN = 1 / 16
_ROUNDED = 1.01
"""Up to here values beyond 1 are 1, rounded or resampled, and no others of a larger range."""
_TERRACES = 256


@dataclass(frozen=True, eq=False)
class Depths:
    """Depth brought to the values of a meaning. values: (h, w) float32, NaN where there is none;
    step: the difference between terraces of q = 1/r, 0 where there are none; notes: for people."""

    values: np.ndarray
    step: float
    notes: tuple[str, ...]


def direction_grid(width: int, height: int) -> np.ndarray:
    """(height, width, 3) float32: where the pixels of a panorama look."""
    columns, rows = np.arange(width), np.arange(height)
    return _directions((columns + 0.5) / width, (rows + 0.5) / height)


def _directions(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """(R, C, 3) float32 of places 0..1 from the left (C,) and from the top (R,)."""
    azimuth, altitude = 2 * np.pi * (0.5 - across), np.pi * (0.5 - down)
    flat = np.cos(altitude)[:, None]
    grid = np.empty((len(down), len(across), 3), np.float32)
    grid[..., 0] = flat * np.cos(azimuth)
    grid[..., 1] = flat * np.sin(azimuth)
    grid[..., 2] = np.sin(altitude)[:, None]
    return grid


# ----------------------------------------------------------------------------------------- building


def build(
    image: np.ndarray,
    depth: np.ndarray,
    meaning: DepthMeaning = METRIC,
    width: int = 0,
    edges: str = "cut",
    name: str = "Fieldforge",
) -> SphereResult:
    """image (H, W, 3|4) uint8 or float32 and depth (h, w) uint8, uint16 or float32, both 2:1 or
    nearly, -> meshes. width: quads around, 0: as the depth, within LEAST_WIDTH..MOST_WIDTH; edges:
    "cut" or "sheet".

    Raises BadInput for depth that shows nothing or has another shape than the image.
    """
    meaning.check()
    check_panorama_depth(depth)
    check_same_aspect(image.shape, depth.shape)
    clock = _Clock()
    depths = depth_values(depth, meaning)
    grid = _sampled(depths.values, mesh_width(width, depth.shape[1]))
    nearness = _nearness(grid.values, meaning)
    fine = _fine(depths.values, grid, nearness, meaning)
    step = depths.step if edges == "cut" else 0.0
    bends = abs(coefficients(meaning)[0]) > 1e-12  # else all radii are one, and nothing can jump
    notes = list(depths.notes)
    jumps = depth_jumps.find_jumps(nearness, step, only_missing=edges != "cut" or not bends)
    share = jumps.count(inner_of=nearness) / (2 * nearness.size)
    if share > _MOST_JUMPS:
        edges, jumps = "sheet", depth_jumps.find_jumps(nearness, only_missing=True)
        notes.append(
            f"The depth jumps at {share:.0%} of its edges: that is noise, not surfaces, so it was"
            " not cut. Check what its values mean, or make or choose another depth."
        )
    if edges == "cut" and bends:
        sharp = depth_jumps.sharpened(nearness, step)
        if sharp is not nearness:
            grid.values[...] = np.where(sharp > 0, values_of(_reciprocal(sharp), meaning), np.nan)
            nearness, jumps = sharp, depth_jumps.find_jumps(sharp, step)
        else:
            jumps = depth_jumps.confirmed(jumps, fine, step)
    clock.tick("jumps")
    layers = [_front(grid, nearness, jumps, fine, meaning, 0.5 / image.shape[0])]
    clock.tick("front")
    if edges == "cut" and bends and jumps.count():
        backing = _backing(grid, nearness, jumps, fine, meaning, image)
        layers += [] if backing is None else [backing]
        clock.tick("backing")
    if not (nearness > 0).all():
        layers.append(_sky(fine, image, float(radii(layers[0].values, meaning).max())))
        clock.tick("sky")
    report: dict[str, Any] = {
        "model": "depth-sphere",
        "width": grid.width,
        "edges": edges,
        "missing": round(float((nearness == 0).mean()), 5),
        "seconds": clock.seconds,
        "notes": notes,
    }
    return SphereResult(
        name=name, layers=tuple(layers), image=image, meaning=meaning, report=report
    )


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._at = time.perf_counter()

    def tick(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._at, 3)
        self._at = now


def depth_values(depth: np.ndarray, meaning: DepthMeaning) -> Depths:
    """Depth as files and models have it -> values of `meaning`.

    Whole numbers are divided by their largest possible one unless the meaning is metric; floats
    that just exceed 1 are then clipped, those far beyond brought to 0..1 by their least and
    greatest. What is not finite, and 0 metres, is missing. Raises BadInput where nothing is left.
    """
    values = depth.astype(np.float32)
    missing = ~np.isfinite(values)
    notes = []
    if meaning.meaning == "metric":
        missing |= values <= 0
    elif depth.dtype.kind == "u":
        values *= np.float32(1 / np.iinfo(depth.dtype).max)
    if missing.all():
        raise BadInput(
            "The depth is zero everywhere.", "Check how it was saved, or what its values mean."
        )
    known = values[~missing] if missing.any() else values.reshape(-1)
    low, high = float(known.min()), float(known.max())
    if meaning.meaning != "metric" and 1 < high <= _ROUNDED:
        np.minimum(values, np.float32(1), out=values)
        low, high = min(low, 1.0), 1.0
    elif meaning.meaning != "metric" and high > 1:
        values = (values - np.float32(low)) / np.float32(max(high - low, 1e-20))
        notes.append(f"The depth ran from {low:.4g} to {high:.4g} and was brought to 0 to 1.")
    if low == high:
        notes.append("The depth is the same everywhere: the result is a plain sphere.")
    values[missing] = np.nan
    terraces = _terraces(depth)
    if terraces:
        notes.append(
            f"The depth has only {terraces} different values, so that surfaces show terraces. Save"
            " it with 16 bits or as floating-point numbers."
        )
    share = 1 / (terraces - 1) if terraces > 1 else 0.0
    span = float(np.ptp(_nearness(np.array([low, high], np.float32), meaning)))
    return Depths(values, share * span, tuple(notes))


def _terraces(depth: np.ndarray) -> int:
    """How many values a depth of 8 bits has, or one that was made of 8 bits; 0: of more."""
    sample = np.unique(depth.reshape(-1)[:: max(1, depth.size // 200_000)])
    sample = sample[np.isfinite(sample)]
    if depth.dtype != np.uint8 and (depth.size < 20_000 or len(sample) > _TERRACES):
        return 0
    return len(sample) if 1 < len(sample) <= _TERRACES else 0


def _nearness(values: np.ndarray, meaning: DepthMeaning) -> np.ndarray:
    """Reciprocal radii, 0 where there is no value."""
    radius = radii(values, meaning)
    np.divide(np.float32(1), radius, out=radius)
    radius[np.isnan(values)] = 0
    return radius


def _reciprocal(nearness: np.ndarray) -> np.ndarray:
    return 1 / np.maximum(nearness, np.float32(1e-12))


def mesh_width(width: int, depth_width: int) -> int:
    """Quads around of a mesh; width: as wished, 0: as the depth, within what is usual."""
    wanted = width or min(max(depth_width, LEAST_WIDTH), MOST_WIDTH)
    wanted += wanted % 2
    return min(max(wanted, SPHERE_WIDTHS[0]), SPHERE_WIDTHS[1])


@dataclass(frozen=True, eq=False)
class _Grid:
    """Sampled depth. values: (H, W) float32, NaN where there is none; across: (W,), down: (H,)
    float64, places of its pixels in 0..1 from the left and from the top; directions: (H, W, 3)."""

    values: np.ndarray
    across: np.ndarray
    down: np.ndarray
    directions: np.ndarray

    @property
    def width(self) -> int:
        return len(self.across)

    @property
    def height(self) -> int:
        return len(self.down)


def _sampled(values: np.ndarray, width: int) -> _Grid:
    """Pixels of the depth for a mesh of `width` quads around: pixels as they are, in their own
    directions, where the depth has enough of them, so that every vertex is as true as the depth."""
    rows, columns = values.shape
    height = width // 2
    if columns >= width and rows >= height:
        i, j = _nearest_pixels(height, rows), _nearest_pixels(width, columns)
        down, across = (i + 0.5) / rows, (j + 0.5) / columns
        if (rows, columns) == (height, width):
            found = values
        else:
            found = np.ascontiguousarray(values[i[:, None], j])
    else:
        down, across = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
        found = depth_resized(values, height, width)
    return _Grid(found, across, down, _directions(across, down))


def _fine(
    values: np.ndarray, grid: _Grid, nearness: np.ndarray, meaning: DepthMeaning
) -> depth_jumps.Fine:
    """The depth with all of its pixels, of which the grid has some; the grid's own where it has
    all of them, or they are too many."""
    rows, columns = values.shape
    shape = (grid.height, grid.width)
    is_finer = rows > grid.height and columns > grid.width
    if not is_finer or values.size > _MOST_FINE:
        return depth_jumps.Fine(nearness, np.arange(shape[0]), np.arange(shape[1]))
    i, j = (_nearest_pixels(*sizes) for sizes in zip(shape, values.shape, strict=True))
    return depth_jumps.Fine(_nearness(values, meaning), i, j)


# ------------------------------------------------------------------------------------------- layers


def _front(
    grid: _Grid,
    nearness: np.ndarray,
    jumps: depth_jumps.Jumps,
    fine: depth_jumps.Fine,
    meaning: DepthMeaning,
    half_row: float,
) -> SphereLayer:
    poles = [_pole(grid.values[row]) for row in (0, -1)]
    values = np.concatenate([grid.values.reshape(-1), np.array(poles, np.float32)])
    directions = _with_poles(grid.directions)
    whole = _whole_quads(jumps, nearness)
    pieces = None
    if not whole.all():
        pieces, new = _split(~whole, nearness, jumps, fine, grid.directions)
        values = np.concatenate([values, values_of(_reciprocal(new[:, 3]), meaning)])
        directions = np.concatenate([directions, new[:, :3]])
    fans = [~np.isnan(row) & ~np.isnan(np.roll(row, -1)) for row in grid.values[[0, -1]]]
    return _assembled("front", grid, whole, pieces, fans, directions, values, half_row)


def _pole(row: np.ndarray) -> float:
    known = row[~np.isnan(row)]
    return float(known.mean(dtype=np.float64)) if len(known) else 0.0


def _with_poles(directions: np.ndarray) -> np.ndarray:
    poles = np.array([[0, 0, 1], [0, 0, -1]], np.float32)
    return np.concatenate([directions.reshape(-1, 3), poles])


def _whole_quads(jumps: depth_jumps.Jumps, nearness: np.ndarray) -> np.ndarray:
    """(H - 1, W) bool: quads with four corners and at most one jump among their sides (where a jump
    ends, the quad is stretched)."""
    across, down = jumps.across, jumps.down
    sides = across[:-1] + across[1:]
    sides += down
    sides += np.roll(down, -1, axis=1)
    known = nearness > 0
    if known.all():
        return sides < 2
    corners = known[:-1] & known[1:]
    corners &= np.roll(corners, -1, axis=1)
    return (sides < 2) & corners


def _backing(
    grid: _Grid,
    nearness: np.ndarray,
    jumps: depth_jumps.Jumps,
    fine: depth_jumps.Fine,
    meaning: DepthMeaning,
    image: np.ndarray,
) -> SphereLayer | None:
    """The quads around directions in which something is hidden, over the farther side of jumps."""
    height, width = nearness.shape
    offset = _EYE_OFFSET / float(np.median(nearness[nearness > 0]))
    colors = area_resized(image, height, width)
    behind = depth_jumps.grow_behind(
        nearness, jumps, grid.directions, colors, offset, int(width * _MOST_GROWN)
    )
    if not behind.mask.any():
        return None
    near = behind.mask | np.roll(behind.mask, -1, axis=1)
    known = nearness > 0
    known &= np.roll(known, -1, axis=1)
    whole = (near[:-1] | near[1:]) & known[:-1] & known[1:]
    hidden = values_of(_reciprocal(behind.nearness), meaning)
    values = np.where(behind.mask, hidden, grid.values)
    poles = [_pole(row) for row in (values[0], values[-1])]
    values = np.concatenate([values.reshape(-1), np.array(poles, np.float32)])
    fans = [near[row] & known[row] for row in (0, -1)]
    picture = _as_type(_repainted(image, behind, fine), image)
    half_row = 0.5 / len(picture)
    directions = _with_poles(grid.directions)
    return _assembled("backing", grid, whole, None, fans, directions, values, half_row, picture)


def _repainted(image: np.ndarray, behind: depth_jumps.Behind, fine: depth_jumps.Fine) -> np.ndarray:
    """The picture, float32, with the colours of what is behind where that is hidden, and one pixel
    around, where the colours of both are mixed."""
    height, width = behind.mask.shape
    rows, columns = _own_picture_size(image, height, width)
    picture = area_resized(image, rows, columns)
    i, j = _nearest_pixels(rows, height), _nearest_pixels(columns, width)
    row, column = np.nonzero(_widened(behind.mask)[i[:, None], j])
    y, x = (row + 0.5) * (height / rows) - 0.5, (column + 0.5) * (width / columns) - 0.5
    # Of the pixels around, as fine as the picture has them, those before what is behind.
    hidden = between(behind.nearness[..., None], y, x)[:, 0]
    finest = fine.nearness
    i, j = _nearest_pixels(rows, finest.shape[0]), _nearest_pixels(columns, finest.shape[1])
    covers = np.zeros((rows, columns), bool)
    covers[row, column] = finest[i[row], j[column]] > _COVERS * hidden
    covered = _widened(covers)[row, column]
    row, column, y, x = row[covered], column[covered], y[covered], x[covered]
    picture[row, column] = between(behind.colors, y, x)
    return picture


def _widened(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool, a pixel larger on all sides; columns go round."""
    wide = mask | np.roll(mask, 1, axis=1) | np.roll(mask, -1, axis=1)
    wide[1:] |= wide[:-1].copy()
    wide[:-1] |= wide[1:].copy()
    return wide


def _own_picture_size(image: np.ndarray, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a picture that a layer has: as the image, unless that is very large, and
    no less than height and width."""
    rows, columns = image.shape[:2]
    if columns > _MOST_OWN_WIDTH:
        rows, columns = _MOST_OWN_WIDTH // 2, _MOST_OWN_WIDTH
    return max(rows, height), max(columns, width)


def _nearest_pixels(count: int, source: int) -> np.ndarray:
    """On which of `source` pixels in a row each of `count` lies."""
    return ((np.arange(count) + 0.5) * (source / count)).astype(np.int64)


def _sky(fine: depth_jumps.Fine, image: np.ndarray, farthest: float) -> SphereLayer:
    """A whole sphere, far away, with the colours of the sky also where something is before it."""
    width, height = _SKY_GRID
    sky = _sampled(np.full((height, width), 1, np.float32), width)
    radius = max(2 * farthest, _LEAST_SKY_RADIUS)
    values = np.full(height * width + 2, radius, np.float32)
    rows, columns = _own_picture_size(image, 2, 4)
    colors = area_resized(image, rows, columns)
    finest = fine.nearness
    i, j = _nearest_pixels(rows, finest.shape[0]), _nearest_pixels(columns, finest.shape[1])
    before = finest[i[:, None], j] > 0
    # At the border colours of both are mixed; holes that are nothing but border keep theirs.
    pure = ~_widened(before)
    picture = spread(colors, pure | ~(before | _widened(_widened(pure))))
    whole = np.ones((height - 1, width), bool)
    fans = [np.ones(width, bool)] * 2
    directions = _with_poles(sky.directions)
    own = _as_type(picture, image)
    return _assembled("sky", sky, whole, None, fans, directions, values, 0.5 / rows, own)


def _as_type(colors: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Colours as floats -> those of the type of `image`."""
    if image.dtype.kind == "f":
        return colors.astype(np.float32, copy=False)
    return np.clip(colors + np.float32(0.5), 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------- quads over a jump


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Parts of split quads. quads (Q, 4), triangles (T, 3): int32 vertices, wound as all faces;
    quad_places (Q, 4, 2), triangle_places (T, 3, 2): float32 columns and rows of the grid, not
    folded at the seam."""

    quads: np.ndarray
    quad_places: np.ndarray
    triangles: np.ndarray
    triangle_places: np.ndarray


def _split(
    cut: np.ndarray,
    nearness: np.ndarray,
    jumps: depth_jumps.Jumps,
    fine: depth_jumps.Fine,
    directions: np.ndarray,
) -> tuple[_Pieces, np.ndarray]:
    """The parts of the quads `cut` (H - 1, W) bool, and (N, 4) float32: direction and q of the new
    vertices, which come after those of the grid and the poles."""
    quads = np.argwhere(cut).astype(np.int32)
    faces, places, new, keys = _parts(
        quads,
        nearness,
        jumps.across,
        jumps.down,
        directions,
        fine.nearness,
        fine.rows,
        fine.columns,
    )
    # Jumps on sides are made from both quads beside the side; one remains.
    _, first, same = np.unique(keys, return_index=True, return_inverse=True)
    known = nearness.size + 2
    ids = np.concatenate([np.arange(known, dtype=np.int32), known + same.astype(np.int32)])
    are_quads = faces[:, 3] >= 0
    pieces = _Pieces(
        ids[faces[are_quads]],
        places[are_quads],
        ids[faces[~are_quads][:, :3]],
        places[~are_quads][:, :3],
    )
    return pieces, new[first]


@numba.njit(cache=True, nogil=True)
def _parts(quads, q, across, down, directions, fine, rows, columns):
    """Faces (F, 4) of vertices, the last -1 in triangles, their places (F, 4, 2), and new vertices
    (N, 4) with their keys (N,), the same for one jump on a side.

    Points of a quad: 0 to 3 the corners (left top, right top, right bottom, left bottom), 4 to 7
    the jumps on the sides after these corners, 8 between all of them.
    """
    height, width = q.shape
    faces = np.full((8 * len(quads), 4), -1, np.int32)
    places = np.zeros((8 * len(quads), 4, 2), np.float32)
    new = np.empty((12 * len(quads), 4), np.float32)
    keys = np.empty(12 * len(quads), np.int64)
    face_count = new_count = 0
    opened = np.zeros(4, np.uint8)
    points = np.zeros((4, 2), np.int64)  # of a face: point of the quad, corner it belongs to
    where = np.zeros((9, 2))  # row and column of the points in 0..1
    where[1, 1] = where[2, 0] = where[2, 1] = where[3, 0] = 1.0
    ends = np.zeros((4, 2), np.float32)  # q on both sides of a jump: before, after
    for n in range(len(quads)):
        i, j = quads[n]
        opened[0], opened[1] = across[i, j], down[i, (j + 1) % width]
        opened[2], opened[3] = across[i + 1, j], down[i, j]
        total = opened[0] + opened[1] + opened[2] + opened[3]
        _find_points(i, j, opened, q, across, down, fine, rows, columns, where, ends)
        for k in range(4):
            before = (k + 3) % 4
            row, column = _corner(i, j, k, width)
            if not opened[before] or not q[row, column] > 0:
                continue  # a group of corners begins after an open side
            last = k
            while not opened[last]:
                last = (last + 1) % 4
            size = (last - k) % 4 + 1
            if _has_backing(i, j, k, last, q):
                continue
            # The part: its corners, then the contour from the middle of the side after the last
            # one to that of the side before the first.
            for part in range(2):
                if part == 1 and size != 3:
                    break
                length = 4
                if part == 1 or (size == 1 and total == 2):
                    points[0, 0], points[1, 0], points[2, 0] = k, 4 + last, 4 + before
                    points[0, 1], points[1, 1], points[2, 1] = k, last, k
                    length = 3
                elif size == 1:
                    points[0, 0], points[1, 0], points[2, 0], points[3, 0] = k, 4 + k, 8, 4 + before
                    points[:, 1] = k
                elif size == 2:
                    points[0, 0], points[1, 0] = k, last
                    points[2, 0], points[3, 0] = 4 + last, 4 + before
                    points[0, 1], points[1, 1], points[2, 1], points[3, 1] = k, last, last, k
                else:
                    points[0, 0], points[1, 0], points[2, 0] = k, (k + 1) % 4, last
                    points[3, 0] = 4 + last
                    points[0, 1], points[1, 1], points[2, 1], points[3, 1] = k, 0, 0, last
                for at in range(length):
                    point, corner = points[at]
                    # Seen from the eye, corners run clockwise: faces are written backwards.
                    slot = length - 1 - at
                    y, x = where[point]
                    places[face_count, slot, 0], places[face_count, slot, 1] = j + x, i + y
                    if point < 4:
                        row, column = _corner(i, j, point, width)
                        faces[face_count, slot] = row * width + column
                        continue
                    if point == 8:
                        row, column = _corner(i, j, corner, width)
                        nearness = q[row, column]
                        nearness += _onward(
                            q, across, down, row, column, y - where[corner, 0], x - where[corner, 1]
                        )
                    else:
                        nearness = ends[point - 4, 0 if corner == point - 4 else 1]
                    new[new_count, 3] = max(nearness, np.float32(1e-6))
                    _direction_at(directions, i, j, y, x, new[new_count])
                    keys[new_count] = _key(i, j, point, corner, width, height)
                    faces[face_count, slot] = height * width + 2 + new_count
                    new_count += 1
                face_count += 1
    return faces[:face_count], places[:face_count], new[:new_count], keys[:new_count]


@numba.njit(cache=True, nogil=True)
def _has_backing(i, j, first, last, q):
    """Whether the corners first to last of a quad are on the farther side of both of its jumps, and
    no corner is without depth: the backing then goes through them, with colours of this side only.
    """
    width = q.shape[1]
    for k in range(4):
        row, column = _corner(i, j, k, width)
        if not q[row, column] > 0:
            return False
    y0, x0 = _corner(i, j, (first + 3) % 4, width)
    y1, x1 = _corner(i, j, first, width)
    y2, x2 = _corner(i, j, last, width)
    y3, x3 = _corner(i, j, (last + 1) % 4, width)
    return q[y0, x0] > q[y1, x1] and q[y3, x3] > q[y2, x2]


@numba.njit(cache=True, nogil=True)
def _corner(i, j, k, width):
    return i + (k >= 2), (j + (k == 1 or k == 2)) % width


@numba.njit(cache=True, nogil=True)
def _find_points(i, j, opened, q, across, down, fine, rows, columns, where, ends):
    """Where the jumps on the sides of a quad are, and q on their both sides."""
    width = q.shape[1]
    y = x = 0.0
    for k in range(4):
        after = (k + 1) % 4
        at = np.float64(0.5)
        if opened[k]:
            row0, column0 = _corner(i, j, k, width)
            row1, column1 = _corner(i, j, after, width)
            at = _crossing(row0, column0, row1, column1, q, fine, rows, columns)
        for axis in range(2):
            where[4 + k, axis] = where[k, axis] * (1 - at) + where[after, axis] * at
        y += where[4 + k, 0] / 4
        x += where[4 + k, 1] / 4
        if opened[k]:
            dy, dx = where[after, 0] - where[k, 0], where[after, 1] - where[k, 1]
            ends[k, 0] = q[row0, column0] + _onward(
                q, across, down, row0, column0, dy * at, dx * at
            )
            ends[k, 1] = q[row1, column1] + _onward(
                q, across, down, row1, column1, dy * (at - 1), dx * (at - 1)
            )
    where[8, 0], where[8, 1] = y, x


@numba.njit(cache=True, nogil=True)
def _crossing(row0, column0, row1, column1, q, fine, rows, columns):
    """How far from one pixel of the grid to the next the depth jumps, 0..1."""
    around = fine.shape[1]
    upright = row0 != row1
    y, x = rows[row0], columns[column0]
    if upright:
        steps = rows[row1] - y
        sign = 1 if steps > 0 else -1
    else:
        steps = (columns[column1] - x) % around
        sign = 1
        if steps > around // 2:
            steps -= around
            sign = -1
    count = abs(steps)
    middle = (q[row0, column0] + q[row1, column1]) / 2
    falls = q[row0, column0] > q[row1, column1]
    last = 0
    for n in range(1, count):
        here = fine[y + sign * n, x] if upright else fine[y, (x + sign * n) % around]
        if (here > middle) != falls:
            break
        last = n
    return min(max((last + 0.5) / count, 0.125), 0.875)


@numba.njit(cache=True, nogil=True)
def _onward(q, across, down, row, column, y, x):
    """By how much q changes from a pixel to a place beside it, on the slope of its own side."""
    height, width = q.shape
    change = np.float32(0)
    here = q[row, column]
    if x != 0:
        back = (column - 1) % width if x > 0 else (column + 1) % width
        side = back if x > 0 else column
        if not across[row, side] and q[row, back] > 0:
            change += (here - q[row, back]) * np.float32(abs(x))
    if y != 0:
        back = row - 1 if y > 0 else row + 1
        if 0 <= back < height and not down[min(back, row), column] and q[back, column] > 0:
            change += (here - q[back, column]) * np.float32(abs(y))
    limit = np.float32(0.1) * here
    return min(max(change, -limit), limit)


@numba.njit(cache=True, nogil=True)
def _direction_at(directions, i, j, y, x, out):
    """The direction of a place in a quad, 0..1 from its top and its left, into out[:3]."""
    width = directions.shape[1]
    total = np.float32(0)
    out[0] = out[1] = out[2] = 0
    for k in range(4):
        row, column = _corner(i, j, k, width)
        weight = (y if k >= 2 else 1 - y) * (x if k == 1 or k == 2 else 1 - x)
        for c in range(3):
            out[c] += np.float32(weight) * directions[row, column, c]
    for c in range(3):
        total += out[c] * out[c]
    for c in range(3):
        out[c] /= np.sqrt(total)


@numba.njit(cache=True, nogil=True)
def _key(i, j, point, corner, width, height):
    """One number for a jump on a side as one end has it, or for a corner's own centre."""
    if point == 8:
        return np.int64(4) * width * height + (i * width + j) * 4 + corner
    side = point - 4
    row, column = i + (side == 2), (j + (side == 1)) % width
    upright = side == 1 or side == 3
    end = (corner >= 2) if upright else (corner == 1 or corner == 2)
    return ((row * width + column) * 2 + upright) * np.int64(2) + end


# --------------------------------------------------------------------------------------- the meshes


def _assembled(
    layer: str,
    grid: _Grid,
    whole: np.ndarray,
    pieces: _Pieces | None,
    fans: list[np.ndarray],
    directions: np.ndarray,
    values: np.ndarray,
    half_row: float,
    image: np.ndarray | None = None,
) -> SphereLayer:
    """A layer of whole quads (H - 1, W) bool, pieces, and triangles at the poles, fans: (W,) bool
    each. directions, values: of the grid, the poles and new vertices; those without a face go.
    image: its own; half_row: of the picture, in 0..1."""
    height, width = grid.height, grid.width
    corners, sides, uv = [], [], []
    for part in (
        _grid_quads(whole, grid),
        _piece_quads(pieces, grid),
        _piece_triangles(pieces, grid),
        *(_fan(fan, pole, grid, half_row) for pole, fan in enumerate(fans)),
    ):
        corners.append(part[0].reshape(-1))
        sides.append(part[1].reshape(-1))
        uv.append(part[2].reshape(-1, 2))
    count = int(np.count_nonzero(whole)) + (0 if pieces is None else len(pieces.quads))
    ends = _grid_edges(height, width)
    loops = np.concatenate(corners)
    edges = np.concatenate(sides)
    fresh = edges < 0
    if fresh.any():
        found, new_ends = _new_edges(loops, count, np.flatnonzero(fresh))
        edges[fresh] = found + len(ends)
        ends = np.concatenate([ends, new_ends])
    edges, ends = _without_unused_edges(edges, ends)
    used = np.zeros(len(values), bool)
    used[loops] = True
    if not used.all():
        numbers = np.cumsum(used, dtype=np.int32) - np.int32(1)
        loops, ends = numbers[loops], numbers[ends]
        values, directions = values[used], directions[used]
    return SphereLayer(
        layer=layer,
        directions=np.ascontiguousarray(directions, np.float32),
        values=np.ascontiguousarray(values, np.float32),
        corners=loops,
        quads=count,
        edges=ends,
        corner_edges=edges,
        uv=np.concatenate(uv),
        image=image,
    )


# Edges of the grid, by number: height * width from a pixel to the right, (height - 1) * width from
# a pixel down, width from the upper pole to the first row, width from the lower one to the last.

_Faces = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Corners (F, k) int32, edges of the corners (F, k) int32, -1 for new ones, and uv (F, k, 2)."""


def _grid_edges(height: int, width: int) -> np.ndarray:
    grid = np.arange(height * width, dtype=np.int32).reshape(height, width)
    ends = np.empty((2 * height * width + width, 2), np.int32)
    across = ends[: height * width].reshape(height, width, 2)
    across[..., 0] = grid
    across[:, :-1, 1] = grid[:, 1:]
    across[:, -1, 1] = grid[:, 0]
    down = ends[height * width : -2 * width].reshape(height - 1, width, 2)
    down[..., 0] = grid[:-1]
    down[..., 1] = grid[1:]
    poles = ends[-2 * width :].reshape(2, width, 2)
    poles[..., 0] = [[height * width], [height * width + 1]]
    poles[..., 1] = grid[[0, -1]]
    return ends


def _grid_quads(whole: np.ndarray, grid: _Grid) -> _Faces:
    starts = np.concatenate([[0], np.cumsum(np.count_nonzero(whole, axis=1))])
    count = int(starts[-1])
    corners = np.empty((count, 4), np.int32)
    edges = np.empty((count, 4), np.int32)
    uv = np.empty((count, 4, 2), np.float32)
    u, v = _texture_lines(grid)
    in_chunks(_write_quads, len(whole), whole, starts, u, v, corners, edges, uv)
    return corners, edges, uv


def _texture_lines(grid: _Grid) -> tuple[np.ndarray, np.ndarray]:
    """u of the columns, (W + 1,), the first once more beyond the seam, and v of the rows, (H,)."""
    u = np.append(grid.across, grid.across[0] + 1).astype(np.float32)
    return u, (1 - grid.down).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _write_quads(begin, end, whole, starts, u, v, corners, edges, uv):
    rows, width = whole.shape
    downward = (rows + 1) * width
    for i in range(begin, end):
        n = starts[i]
        for j in range(width):
            if not whole[i, j]:
                continue
            right = j + 1 if j + 1 < width else 0
            corners[n, 0], corners[n, 1] = i * width + j, (i + 1) * width + j
            corners[n, 2], corners[n, 3] = (i + 1) * width + right, i * width + right
            edges[n, 0], edges[n, 1] = downward + i * width + j, (i + 1) * width + j
            edges[n, 2], edges[n, 3] = downward + i * width + right, i * width + j
            uv[n, 0, 0] = uv[n, 1, 0] = u[j]
            uv[n, 2, 0] = uv[n, 3, 0] = u[j + 1]
            uv[n, 0, 1] = uv[n, 3, 1] = v[i]
            uv[n, 1, 1] = uv[n, 2, 1] = v[i + 1]
            n += 1


def _fan(fan: np.ndarray, pole: int, grid: _Grid, half_row: float) -> _Faces:
    """Triangles between a pole (0: upper, 1: lower) and the row beside it."""
    height, width = grid.height, grid.width
    j = np.flatnonzero(fan).astype(np.int32)
    right = (j + 1) % width
    row = 0 if pole == 0 else height - 1
    tip = np.full_like(j, height * width + pole)
    spokes = 2 * height * width - width + pole * width
    u, v = _texture_lines(grid)
    # The tip takes the colours of the texels beside it: beyond them the picture begins again.
    tip_uv = [(u[j] + u[j + 1]) / 2, np.full(len(j), half_row if pole else 1 - half_row)]
    left_uv, right_uv = [u[j], np.full(len(j), v[row])], [u[j + 1], np.full(len(j), v[row])]
    side, left, after = row * width + j, spokes + j, spokes + right
    if pole == 0:
        corners = [tip, row * width + j, row * width + right]
        edges, uv = [left, side, after], [tip_uv, left_uv, right_uv]
    else:
        corners = [row * width + j, tip, row * width + right]
        edges, uv = [left, after, side], [left_uv, tip_uv, right_uv]
    return (
        np.stack(corners, axis=1).astype(np.int32),
        np.stack(edges, axis=1).astype(np.int32),
        np.transpose(np.array(uv, np.float32), (2, 0, 1)),
    )


def _piece_quads(pieces: _Pieces | None, grid: _Grid) -> _Faces:
    if pieces is None:
        return _no_faces(4)
    return pieces.quads, _sides_of(pieces.quads, grid), _uv_of(pieces.quad_places, grid)


def _piece_triangles(pieces: _Pieces | None, grid: _Grid) -> _Faces:
    if pieces is None:
        return _no_faces(3)
    sides = _sides_of(pieces.triangles, grid)
    return pieces.triangles, sides, _uv_of(pieces.triangle_places, grid)


def _no_faces(size: int) -> _Faces:
    nothing = np.zeros((0, size), np.int32)
    return nothing, nothing, np.zeros((0, size, 2), np.float32)


def _uv_of(places: np.ndarray, grid: _Grid) -> np.ndarray:
    """Of columns and rows of the grid as floats."""
    u, v = _texture_lines(grid)
    uv = np.empty(places.shape, np.float32)
    uv[..., 0] = np.interp(places[..., 0], np.arange(len(u)), u)
    uv[..., 1] = np.interp(places[..., 1], np.arange(len(v)), v)
    return uv


def _sides_of(faces: np.ndarray, grid: _Grid) -> np.ndarray:
    """Edges of the grid between the corners of faces and the next ones, -1 for all others."""
    count, width = grid.height * grid.width, grid.width
    a, b = np.minimum(faces, np.roll(faces, -1, 1)), np.maximum(faces, np.roll(faces, -1, 1))
    sides = np.where(b - a == width, count + a, a)
    sides = np.where(b - a == width - 1, b, sides)  # over the seam, from the last column
    return np.where(b < count, sides, -1).astype(np.int32)


def _new_edges(loops: np.ndarray, quads: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers from 0 of the edges that begin at these corners, and their ends (E, 2) int32."""
    is_quad = at < 4 * quads
    size = np.where(is_quad, 4, 3)
    begin = np.where(is_quad, at - at % 4, 4 * quads + (at - 4 * quads) // 3 * 3)
    a, b = loops[at], loops[begin + (at - begin + 1) % size]
    keys = np.minimum(a, b).astype(np.int64) << 32 | np.maximum(a, b)
    unique, numbers = np.unique(keys, return_inverse=True)
    ends = np.stack([unique >> 32, unique & 0xFFFFFFFF], axis=1).astype(np.int32)
    return numbers.astype(np.int32), ends


def _without_unused_edges(edges: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used = np.zeros(len(ends), bool)
    used[edges] = True
    if used.all():
        return edges, ends
    numbers = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return numbers[edges], ends[used]
