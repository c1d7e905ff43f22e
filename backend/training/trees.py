"""Wavelet trees of shapes, as training reads them: only the coefficients that matter, half floats.

What WaLa's data keep (Make-A-Shape's rule): the low band whole; the two coarser levels of high
bands at the cells where one of the coarsest coefficients exceeds 1/32 of its band's largest. The
finest level is never predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..geometry import tsdf, wavelets

RESOLUTION = 256
SIDE = 46
CHANNELS = 64


@dataclass(frozen=True, eq=False)
class SparseTree:
    """low: (46, 46, 46) float16; cells: (P, 3) uint8, x y z; values: (P, 63) float16, as packed."""

    low: np.ndarray
    cells: np.ndarray
    values: np.ndarray

    def packed(self) -> torch.Tensor:
        """(64, 46, 46, 46) float32, zero in the high bands of all other cells."""
        volume = torch.zeros(CHANNELS, SIDE, SIDE, SIDE)
        volume[0] = torch.from_numpy(self.low.astype(np.float32))
        x, y, z = torch.from_numpy(self.cells.astype(np.int64)).unbind(1)
        volume[1:, x, y, z] = torch.from_numpy(self.values.astype(np.float32)).T
        return volume

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        partial = path.with_name(path.stem + ".part.npz")
        np.savez(partial, low=self.low, cells=self.cells, values=self.values)
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> SparseTree:
        """Raises ValueError or OSError for a file that is none."""
        with np.load(path, allow_pickle=False) as arrays:
            return SparseTree(arrays["low"], arrays["cells"], arrays["values"])


def tree_of_surface(vertices: np.ndarray, faces: np.ndarray) -> SparseTree:
    """The tree of the closing TSDF of a surface in the cube: (V, 3) float, (F, 3) integer."""
    return tree_of_field(torch.from_numpy(tsdf.closing_sdf(vertices, faces, RESOLUTION)))


def tree_of_field(field: torch.Tensor) -> SparseTree:
    """The tree of a TSDF (256, 256, 256) float32."""
    tree = wavelets.forward(field)
    kept = wavelets.significant_cells(tree)
    packed = wavelets.pack(wavelets.Tree(tree.low, (*tree.highs[:2], None)))
    x, y, z = kept.nonzero(as_tuple=True)
    return SparseTree(
        low=tree.low.half().numpy(),
        cells=torch.stack([x, y, z], dim=1).to(torch.uint8).numpy(),
        values=packed[1:, x, y, z].T.half().contiguous().numpy(),
    )


def field_of(packed: torch.Tensor) -> torch.Tensor:
    """Packed trees (B, 64, 46, 46, 46) -> distances (B, 256, 256, 256)."""
    return wavelets.inverse(wavelets.unpack(packed, RESOLUTION), RESOLUTION)
