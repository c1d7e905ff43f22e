"""Shapes between two fields.

Two ways. By weights: the field whose weights lie between those of both, which is a field itself. It
only is a shape where both were fitted from one start and did not go far from there, so a few of
them are looked at on a coarse grid first. By distances: what lies between the distances to both
surfaces, at the level that encloses what lies between both volumes. That is a closed surface and
never empty, whatever the two are, and costs no evaluation of a field; but it is no field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from ...geometry import isosurface
from ...geometry.components import without_specks
from ...geometry.grid_distance import grid_distance
from . import surface
from .config import FieldConfig

WEIGHTS, DISTANCES = "weights", "distances"

_LOOKED_AT = (0.25, 0.5, 0.75)
_SIDE = 40  # nodes of the grid on which is looked
_LEAST, _MISSING = 0.6, 0.15  # of the smaller of both volumes
_ADDED = 0.3  # of the larger one; limbs may be half way, where neither shape has them
_MORE_PARTS = 2
_PART = 4  # nodes that make a part
_SPECK = 2.0  # steps of the grid
_EXACT = 3.0

Mesh = tuple[np.ndarray, np.ndarray]
"""Vertices (V, 3) float32 in [-0.5, 0.5] and faces (F, 3) int32."""


@dataclass(frozen=True)
class Look:
    """What was seen of a mix by weights: whether it stays a shape, and why not, for people."""

    holds: bool
    reason: str = ""


def by_weights(first: torch.Tensor, last: torch.Tensor, amount: float) -> torch.Tensor:
    """Weights (W,) at `amount` (0: the first) between two fields."""
    return torch.lerp(first, last, amount)


def look(
    config: FieldConfig,
    first: torch.Tensor,
    last: torch.Tensor,
    level: float = 0.0,
    frames: Sequence[int | None] = (None,),
) -> Look:
    """Whether fields between two (W,) are shapes: they keep what both have, add little that none
    has, and neither vanish nor fall apart.

    frames: those of animated fields to look at.
    """
    for frame in frames:
        ends = [_solid(config, vector, level, frame) for vector in (first, last)]
        volumes, parts = [int(solid.sum()) for solid in ends], [_parts(solid) for solid in ends]
        for amount in _LOOKED_AT:
            solid = _solid(config, by_weights(first, last, amount), level, frame)
            volume = int(solid.sum())
            missing = int((ends[0] & ends[1] & ~solid).sum())
            added = int((solid & ~ends[0] & ~ends[1]).sum())
            if volume < _LEAST * min(volumes):
                what = "vanishes" if not volume else "shrinks"
            elif missing > _MISSING * min(volumes):
                what = "loses what both have"
            elif added > _ADDED * max(volumes):
                what = "swells"
            elif _parts(solid) > max(parts) + _MORE_PARTS:
                what = "falls apart"
            else:
                continue
            return Look(False, f"{what} at {amount:.0%} of the way")
    return Look(True)


def between(
    config: FieldConfig,
    first: torch.Tensor,
    last: torch.Tensor,
    amounts: Sequence[float],
    side: int,
    level: float = 0.0,
    frame: int | None = None,
    way: str = WEIGHTS,
    last_config: FieldConfig | None = None,
) -> Iterator[Mesh]:
    """A surface for each amount, on a grid of side^3 nodes. Amounts 0 and 1 are the fields' own.
    last_config: of the last field, where it is another one; such are mixed by distances."""
    ends = {0.0: first, 1.0: last}
    if way == WEIGHTS:
        for amount in amounts:
            vector = ends.get(amount, by_weights(first, last, amount))
            yield surface.mesh(config, vector, side, level, frame)
        return
    begin = _Distances.of(config, first, side, level, frame)
    end = _Distances.of(last_config or config, last, side, level, frame)
    for amount in amounts:
        if amount in ends:
            yield (end if amount else begin).mesh
        else:
            yield _mixed(begin, end, amount, side)


# --------------------------------------------------------------------------------------- distances


@dataclass(frozen=True, eq=False)
class _Distances:
    """Signed distances (N, N, N) float32 to a surface in steps of the grid, negative inside; None
    where there is no surface. volume: nodes inside."""

    mesh: Mesh
    values: np.ndarray | None
    volume: int

    @classmethod
    def of(
        cls, config: FieldConfig, vector: torch.Tensor, side: int, level: float, frame: int | None
    ) -> _Distances:
        field = surface.field_function(config, vector, frame)
        sampled = surface.sample_near_surface(field, side, level)
        mesh = surface.surface(sampled, level)
        if not len(mesh[1]):
            return cls(mesh, None, 0)
        inside = sampled.logits > level
        # Where the surface ends right behind the grid, its triangles are brought back onto it.
        nodes = np.clip((mesh[0] + np.float32(0.5)) * np.float32(side - 1), 0, side - 1)
        values = grid_distance(nodes, mesh[1], side, reach=float(side), exact=_EXACT)
        np.negative(values, out=values, where=inside)
        return cls(mesh, values, int(inside.sum()))


def _mixed(first: _Distances, last: _Distances, amount: float, side: int) -> Mesh:
    if first.values is None or last.values is None:
        found = last if first.values is None else first
        if found.values is None:
            return found.mesh
        values = found.values
    else:
        values = (1 - amount) * first.values + np.float32(amount) * last.values
    # The level at which as much is inside as is to be; less what this rule is off at both ends.
    level = _enclosing(values, (1 - amount) * first.volume + amount * last.volume)
    for end, share in ((first, 1 - amount), (last, amount)):
        if end.values is not None:
            level -= share * _enclosing(end.values, end.volume)
    vertices, faces = isosurface.marching_cubes(values, level, closed=True)
    vertices, faces = without_specks(vertices, faces, _SPECK)
    return vertices * np.float32(1 / (side - 1)) - np.float32(0.5), faces


def _enclosing(values: np.ndarray, volume: float) -> float:
    """The level below which so many of the values lie."""
    count = min(max(round(volume), 1), values.size - 1)
    around = np.partition(values.reshape(-1), (count - 1, count))[count - 1 : count + 1]
    return float(around.mean())


# ------------------------------------------------------------------------------------------- looks


def _solid(
    config: FieldConfig, vector: torch.Tensor, level: float, frame: int | None
) -> np.ndarray:
    field = surface.field_function(config, vector, frame)
    solid: np.ndarray = surface.sample_everywhere(field, _SIDE).logits > level
    return solid


def _parts(solid: np.ndarray) -> int:
    labels, _ = ndimage.label(solid, ndimage.generate_binary_structure(3, 3))
    return int((np.bincount(labels.reshape(-1))[1:] >= _PART).sum())
