"""A part of an earlier shape is made anew, the rest stays as it was.

Latent cells whose centre lies in the box are sampled; to the others the sampler is told the x_0
that they had. The decoder looks far around each cell, so the new field is then blended with that of
the earlier shape: beyond a margin around the box it is that field, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ..errors import BadInput
from ..geometry.transforms import compose, inverse
from ..geometry.voxels import occupancy_of_sdf
from ..models.wala.config import LATENT_SIDE
from ..models.wala.imagined import CELLS, Known, values
from ..protocol import Generation

CELL = 0.25
"""Side of a latent cell in the cube: three wavelet levels and two poolings, halving each."""
FIRST_CENTRE = -1.4375
"""Coordinate of the centre of latent cell 0: node 32 i - 56 of 256, each wavelet level beginning 8
nodes before the one below it."""
FEATHER = CELL
"""Width of the margin, in the cube, over which the new shape goes over into the earlier one."""


@dataclass(frozen=True, eq=False)
class Region:
    """latent: (C, 12, 12, 12) of the earlier shape. mask: (12, 12, 12) bool, cells to make anew.

    to_box: (4, 4) float64, from the cube to the frame in which the box is [-1, 1]^3.
    """

    latent: torch.Tensor
    mask: torch.Tensor
    to_box: np.ndarray

    def correct(self, start: torch.Tensor) -> torch.Tensor:
        """x_0 (B, C, 12, 12, 12) as predicted, with what stays put in."""
        return torch.where(self.mask, start, self.latent)

    def known_voxels(self, earlier: np.ndarray) -> Known:
        """Of the field (n, n, n) of the earlier shape: what is solid of cells that do not touch the
        box or its margin."""
        solid = torch.from_numpy(occupancy_of_sdf(earlier, 4 * CELLS))[None].float()
        share = functional.avg_pool3d(solid, 4)[0]
        at = 2 * (np.arange(CELLS) + 0.5) / CELLS - 1
        near = self._weight(at[:, None, None], at[None, :, None], at[None, None, :]) > 0
        device = self.latent.device
        return Known(values(share).to(device), torch.from_numpy(near).to(device))

    def blended(self, earlier: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Fields (n, n, n) over the cube, node i at 2 i / n - 1 -> that of the earlier shape beyond
        the margin, the new one inside the box."""
        side = len(new)
        low, high = self._bounds(side)
        inner = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        field = earlier.copy()
        axes = [2 * np.arange(a, b) / side - 1 for a, b in zip(low, high, strict=True)]
        for index, x in enumerate(axes[0]):
            weight = self._weight(x, axes[1][:, None], axes[2][None, :]).astype(np.float32)
            at = (inner[0].start + index, *inner[1:])
            mixed = earlier[at] + weight * (new[at] - earlier[at])
            field[at] = np.where(weight > 0, mixed, earlier[at])
        return field

    def _weight(self, x: np.ndarray | float, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """1 in the box, 0 from FEATHER outside of it on, smooth between."""
        squared = np.zeros(np.broadcast(x, y, z).shape)
        for row in self.to_box[:3]:
            along = row[0] * x + row[1] * y + row[2] * z + row[3]
            # A step of 1 along this axis of the box is 1 / |row| in the cube.
            squared += (np.maximum(np.abs(along) - 1, 0) / np.linalg.norm(row[:3])) ** 2
        near = np.clip(1 - np.sqrt(squared) / FEATHER, 0, 1)
        return near * near * (3 - 2 * near)

    def _bounds(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """The nodes, from .. to, among which all lie that the margin reaches."""
        corners = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1)
        to_cube = inverse(self.to_box)
        # Skewed boxes reach farther beyond their corners than FEATHER; sheared scenes are rare, so
        # a generous bound does.
        reach = 4 * FEATHER
        cube = to_cube[:3, :3] @ corners + to_cube[:3, 3:]
        low = np.floor((cube.min(axis=1) - reach + 1) * side / 2).astype(int)
        high = np.ceil((cube.max(axis=1) + reach + 1) * side / 2).astype(int) + 1
        return np.clip(low, 0, side), np.clip(high, 0, side)


def region_of(task: Generation, to_source: np.ndarray, device: torch.device) -> Region | None:
    """What `task` wants to be made anew; None for all. Raises BadInput for a box without cells."""
    if task.latent is None or task.region is None:
        return None
    to_box = compose(inverse(np.asarray(task.region, np.float64)), to_source)
    mask = cells_in(to_box)
    if not mask.any():
        raise BadInput(
            "The box of the region holds no part of the shape that could be made anew.",
            f"Make it larger than {CELL / 2:.0%} of the shape, or move it onto the shape.",
        )
    latent = torch.from_numpy(np.array(task.latent, np.float32)).to(device)
    return Region(latent, torch.from_numpy(mask).to(device), to_box)


def cells_in(to_box: np.ndarray) -> np.ndarray:
    """(12, 12, 12) bool: latent cells whose centre lies in the box."""
    places = FIRST_CENTRE + CELL * np.arange(LATENT_SIDE)
    grid = np.stack(np.meshgrid(places, places, places, indexing="ij"), axis=-1)
    inside = np.abs(grid @ to_box[:3, :3].T + to_box[:3, 3]) <= 1
    return inside.all(axis=-1)
