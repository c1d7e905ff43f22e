"""The surface of a field as a mesh, on the exact grid, evaluated only where the surface can be.

A field is first evaluated at every 2nd, 4th, .. node, down to a grid that is still fine. From there
to the full grid, cells are opened where the surface passes, where it passes in a neighbour, and
where the field comes nearer to the level than it changes across cells nearby, as it does around
parts thinner than a cell. On the full grid the evaluated part then grows along the surface until
no cell with a part of it has a node that was only interpolated. So what is found of a surface is
all of that connected piece, with the values of full evaluation; missed can only be a separate piece
smaller than a cell of the first grid that leaves no trace in the field around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ...geometry import isosurface
from .config import FieldConfig
from .field import evaluate

PUBLISHED_LEVEL = 1.386
"""logit(0.8): what the published still shapes are measured at; animated ones at 0."""

FIRST_SIDE = 48
"""Nodes along a side that the first grid has at least, where the full one has as many."""

TRUST = 1.0
"""A cell is opened where the field is nearer to the level than so many of its changes nearby."""

_CHUNK = 1 << 13  # points: the layers of so many stay in a processor's cache
_CHUNK_GPU = 1 << 19

Field = Callable[[np.ndarray], np.ndarray]
"""Points (P, 3) float32 -> logits (P,) float32."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """logits: (N, N, N) float32, [x, y, z]. known: where they were evaluated; elsewhere they are
    interpolated, and no cell there has a part of the surface. Both are the same size."""

    logits: np.ndarray
    known: np.ndarray


def field_function(config: FieldConfig, vector: torch.Tensor, frame: int | None = None) -> Field:
    """The field with the weights `vector` (W,), on their device; frame: of an animated one.

    Points go through in chunks of one size, the last one filled up: so the logits of a point do not
    depend on which others it comes with.
    """
    if (frame is None) != (config.dimensions == 3):
        needed = "no" if config.dimensions == 3 else "a"
        raise ValueError(f"a field over {config.dimensions} dimensions takes {needed} frame")
    chunk = _CHUNK_GPU if vector.device.type == "cuda" else _CHUNK

    def logits(points: np.ndarray) -> np.ndarray:
        found = np.empty(len(points), np.float32)
        filled = np.full((chunk, config.dimensions), 0 if frame is None else frame, np.float32)
        for begin in range(0, len(points), chunk):
            part = points[begin : begin + chunk]
            filled[: len(part), :3] = part
            here = torch.from_numpy(filled).to(vector.device, vector.dtype)
            with torch.inference_mode():
                values = evaluate(config, vector[None], here)[0]
            found[begin : begin + len(part)] = values.float().cpu().numpy()[: len(part)]
        return found

    return logits


def grid_axis(side: int) -> np.ndarray:
    """(side,) float32: the nodes along each axis, both ends of [-0.5, 0.5] included."""
    return np.linspace(-0.5, 0.5, side, dtype=np.float32)


def sample_everywhere(field: Field, side: int) -> Sampled:
    """All side^3 nodes."""
    logits = _everywhere(field, grid_axis(side))
    return Sampled(logits, np.ones_like(logits, bool))


def sample_near_surface(
    field: Field, side: int, level: float = 0.0, first_side: int = FIRST_SIDE
) -> Sampled:
    """The nodes that the surface at `level` needs, as described above."""
    if side < 2 or first_side < 2:
        raise ValueError(f"a grid of {min(side, first_side)} nodes along a side has no cells")
    grids = _grids(side, first_side)
    axis = grid_axis(side)
    logits = _everywhere(field, axis[grids[0]])
    known = np.ones_like(logits, bool)
    for coarse, fine in pairwise(grids):
        opened = _worth_opening(logits, level)
        places = np.searchsorted(fine, coarse)
        wanted = _nodes_of_cells(_split_cells(opened, places))
        logits, known = _finer(logits, known, places, len(fine))
        wanted &= ~known
        _evaluate(field, axis[fine], wanted, logits)
        known |= wanted
    _grow_along_surface(field, axis, logits, known, level)
    return Sampled(logits, known)


def surface(sampled: Sampled, level: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float32 in [-0.5, 0.5], faces (F, 3) int32, counter-clockwise from outside.

    Closed also where the shape reaches the border of the grid: it ends right behind it. Both are
    empty where the field is nowhere above the level.
    """
    # Marching cubes takes what is below the level for the inside.
    vertices, faces = isosurface.marching_cubes(-sampled.logits, -level, closed=True)
    step = np.float32(1 / (len(sampled.logits) - 1))
    return vertices * step - np.float32(0.5), faces


def mesh(
    config: FieldConfig,
    vector: torch.Tensor,
    side: int = 256,
    level: float = 0.0,
    frame: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The surface of the field with the weights `vector` (W,) where it crosses `level`."""
    return surface(sample_near_surface(field_function(config, vector, frame), side, level), level)


# ------------------------------------------------------------------------------------------- grids


def _grids(side: int, first_side: int) -> list[np.ndarray]:
    """Numbers of the nodes along an axis that each grid has, coarsest first, both ends always."""
    grids = [np.arange(side)]
    while True:
        half = np.unique(np.append(grids[0][::2], side - 1))
        if len(half) < first_side or len(half) == len(grids[0]):
            return grids
        grids.insert(0, half)


def _everywhere(field: Field, axis: np.ndarray) -> np.ndarray:
    logits = np.empty((len(axis),) * 3, np.float32)
    _evaluate(field, axis, np.ones_like(logits, bool), logits)
    return logits


def _evaluate(field: Field, axis: np.ndarray, wanted: np.ndarray, logits: np.ndarray) -> None:
    """Fill in the logits of the wanted nodes."""
    numbers = np.flatnonzero(wanted)
    side = len(axis)
    batch = 1 << 21  # coordinates of all nodes of a large grid would take gigabytes
    flat = logits.reshape(-1)
    for begin in range(0, len(numbers), batch):
        part = numbers[begin : begin + batch]
        x, rest = np.divmod(part, side * side)
        y, z = np.divmod(rest, side)
        flat[part] = field(np.stack([axis[x], axis[y], axis[z]], axis=1))


def _worth_opening(logits: np.ndarray, level: float) -> np.ndarray:
    """Cells (M - 1)^3 in or near which the surface may pass."""
    low, high = logits - np.float32(level), logits - np.float32(level)
    for axis in range(3):
        low, high = _over_pairs(np.minimum, low, axis), _over_pairs(np.maximum, high, axis)
    crossed = (low <= 0) & (high > 0)
    nearest = np.where(low > 0, low, -high)
    change = _widened(high - low)
    opened: np.ndarray = _widened(crossed) | (nearest < np.float32(TRUST) * change)
    return opened


def _over_pairs(join: np.ufunc, values: np.ndarray, axis: int) -> np.ndarray:
    """`join` of neighbours along an axis, which becomes one shorter."""
    count = values.shape[axis]
    before = values.take(range(count - 1), axis)
    after = values.take(range(1, count), axis)
    joined: np.ndarray = join(before, after)
    return joined


def _widened(cells: np.ndarray) -> np.ndarray:
    """The largest of each cell and its 26 neighbours."""
    for axis in range(3):
        before = np.moveaxis(cells, axis, 0)
        after = before.copy()
        np.maximum(after[1:], before[:-1], out=after[1:])
        np.maximum(after[:-1], before[1:], out=after[:-1])
        cells = np.moveaxis(after, 0, axis)
    return cells


def _split_cells(cells: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Cells of the coarse grid as those of the fine one, whose nodes `places` it has."""
    counts = np.diff(places)
    for axis in range(3):
        cells = cells.repeat(counts, axis)
    return cells


def _nodes_of_cells(cells: np.ndarray) -> np.ndarray:
    """Nodes (M, M, M) that are corners of one of the cells (M - 1)^3."""
    for axis in range(3):
        margin = [(int(here == axis), 0) for here in range(3)]
        shifted = np.pad(cells, margin)
        at = tuple(slice(0, -1) if here == axis else slice(None) for here in range(3))
        shifted[at] |= cells
        cells = shifted
    return cells


def _finer(
    logits: np.ndarray, known: np.ndarray, places: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of the coarse grid put at `places` of a grid of `side`; between them, means."""
    between = np.setdiff1d(np.arange(side), places)
    spread = np.zeros((side,) * 3, bool)
    spread[np.ix_(places, places, places)] = known
    for axis in range(3):
        before = np.moveaxis(logits, axis, 0)
        after = np.empty((side, *before.shape[1:]), np.float32)
        after[places] = before
        after[between] = (after[between - 1] + after[between + 1]) / 2
        logits = np.moveaxis(after, 0, axis)
    return np.ascontiguousarray(logits), spread


def _grow_along_surface(
    field: Field, axis: np.ndarray, logits: np.ndarray, known: np.ndarray, level: float
) -> None:
    """Evaluate what cells with a part of the surface still need, until none needs any."""
    while True:
        inside = logits > level
        some, whole = inside, inside
        for along in range(3):
            some = _over_pairs(np.logical_or, some, along)
            whole = _over_pairs(np.logical_and, whole, along)
        wanted = _nodes_of_cells(some & ~whole) & ~known
        if not wanted.any():
            return
        _evaluate(field, axis, wanted, logits)
        known |= wanted
