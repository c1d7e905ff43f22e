"""A decoder for previews that costs milliseconds: linear, and learned from full decodes.

The low band of the wavelet tree, 4^3 values around each cell of a latent, as a linear function of
the 3^3 codes around that cell: a ridge regression on the shapes that the real decoder has decoded.
What is kept are its normal equations, so that every decoded shape adds to them.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from .config import LATENT_SIDE

LOW_SIDE = 46
BLOCK = 4
NEIGHBOURS = 27
TARGETS = BLOCK**3
RIDGE = 1e-4
ENOUGH = 64
"""Shapes after which nothing more is learned."""


class PreviewDecoder:
    """file: where what was learned is kept for the next process; None: nowhere. channels: of the
    latents."""

    def __init__(self, file: Path | None = None, channels: int = 4) -> None:
        features = NEIGHBOURS * channels + 1
        self._channels = channels
        self.shapes = 0
        self._file = file
        self._gram = np.zeros((features, features))
        self._moments = np.zeros((features, TARGETS))
        self._weights: torch.Tensor | None = None
        if file is not None:
            self._read(file)

    @property
    def ready(self) -> bool:
        """Whether it has learned from a shape at all."""
        return self.shapes > 0

    def learn(self, codes: torch.Tensor, low: torch.Tensor) -> None:
        """Take in one shape: latent on the codebook (C, 12, 12, 12), low band (46, 46, 46)."""
        if self.shapes >= ENOUGH or codes.shape[0] != self._channels:
            return
        if not bool(torch.isfinite(low).all()):
            return
        rows = _features(codes[None])[0].double().cpu().numpy()
        values = _blocks(low[None])[0].double().cpu().numpy()
        self._gram += rows.T @ rows
        self._moments += rows.T @ values
        self.shapes += 1
        self._weights = None

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Latents on the codebook (B, C, 12, 12, 12) -> low bands (B, 46, 46, 46), float32."""
        if self._weights is None or self._weights.device != codes.device:
            self._weights = torch.from_numpy(self._solved()).to(codes.device)
        blocks = _features(codes) @ self._weights
        side = LATENT_SIDE
        cells = blocks.unflatten(2, (BLOCK,) * 3).unflatten(1, (side,) * 3)
        volume = cells.permute(0, 1, 4, 2, 5, 3, 6).reshape(len(codes), *[side * BLOCK] * 3)
        return volume[:, 1:-1, 1:-1, 1:-1].contiguous()

    def save(self) -> None:
        """Write what was learned to the file. A disk that is full is no reason to fail a job."""
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(".part", dir=self._file.parent)
            with open(handle, "wb") as file:
                np.savez(file, shapes=self.shapes, gram=self._gram, moments=self._moments)
            os.replace(name, self._file)
        except OSError:
            return

    def _solved(self) -> np.ndarray:
        features = len(self._gram)
        penalty = RIDGE * np.trace(self._gram) / features
        solved = np.linalg.solve(self._gram + penalty * np.eye(features), self._moments)
        return solved.astype(np.float32)

    def _read(self, file: Path) -> None:
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
                gram, moments, shapes = kept["gram"], kept["moments"], int(kept["shapes"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return
        if gram.shape == self._gram.shape and moments.shape == self._moments.shape and shapes > 0:
            self._gram, self._moments, self.shapes = gram, moments, shapes


def _features(codes: torch.Tensor) -> torch.Tensor:
    """(B, C, 12, 12, 12) -> (B, 1728, 27 C + 1): the codes around each cell, and 1."""
    padded = functional.pad(codes.float(), (1,) * 6)
    near = padded.unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)  # (B, C, 12, 12, 12, 3, 3, 3)
    rows = near.permute(0, 2, 3, 4, 1, 5, 6, 7).reshape(len(codes), LATENT_SIDE**3, -1)
    return functional.pad(rows, (0, 1), value=1.0)


def _blocks(low: torch.Tensor) -> torch.Tensor:
    """(B, 46, 46, 46) -> (B, 1728, 64): cell i lies at 4 i of the low band, its block 1 before."""
    padded = functional.pad(low.float()[:, None], (1,) * 6, mode="replicate")[:, 0]
    cells = padded.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)
    return cells.reshape(len(low), LATENT_SIDE**3, TARGETS)
