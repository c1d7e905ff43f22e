"""Reconstruction loss of the VQ-VAE: per level of the wavelet tree, weighted to be as large.

Hui et al. 2024, "Make-A-Shape: a Ten-Million-scale 3D Shape Model", on its adaptive training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...geometry.wavelets import BANDS


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells where high bands are compared: those that matter, and as many that do not.

    significant, empty: (B, P, 3) int64, cells x, y, z; mask: (B, P), 1 where the row counts.
    """

    significant: torch.Tensor
    empty: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, eq=False)
class ReconstructionLoss:
    """(B,) each. low: mean squared error of the low band; levels: coarsest first; total: of all."""

    total: torch.Tensor
    low: torch.Tensor
    levels: tuple[torch.Tensor, ...]


def reconstruction_loss(
    predicted: torch.Tensor, target: torch.Tensor, cells: Cells | None = None, balanced: bool = True
) -> ReconstructionLoss:
    """Packed trees (B, 8^levels, s, s, s) -> squared errors of the low band and of each level.

    cells: high bands are compared there only, as a sum over channels per counted cell; None: mean
    over everything. balanced: every level has the value of the low band, its own gradient scaled.
    """
    error = (predicted - target).square()
    low = error[:, 0].mean(dim=(1, 2, 3))
    levels = tuple(
        part.mean(dim=(1, 2, 3, 4)) if cells is None else _at_cells(part, cells)
        for part in _levels_of(error)
    )
    total = low
    for level in levels:
        total = total + (low.detach() / (level.detach() + 1e-10) * level if balanced else level)
    return ReconstructionLoss(total, low, levels)


def _levels_of(packed: torch.Tensor) -> list[torch.Tensor]:
    """Channels of the high bands, coarsest level first: the packed tree has them last."""
    levels, end, count = [], packed.shape[1], BANDS
    while end > 1:
        levels.append(packed[:, end - count : end])
        end, count = end - count, count * 8
    return levels


def _at_cells(error: torch.Tensor, cells: Cells) -> torch.Tensor:
    per_cell = error.sum(dim=1)
    mask = cells.mask.to(error.dtype)
    total = sum(
        (_gathered(per_cell, where) * mask).sum(dim=1) for where in (cells.significant, cells.empty)
    )
    return total / mask.sum(dim=1)


def _gathered(volume: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """volume (B, X, Y, Z), cells (B, P, 3) -> (B, P)."""
    batch = torch.arange(len(volume), device=volume.device)[:, None]
    x, y, z = cells.long().unbind(-1)
    return volume[batch, x, y, z]
