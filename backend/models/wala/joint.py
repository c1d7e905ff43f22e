"""Any of several conditions for one denoiser: points, voxels, pictures, words, alone or together.

What says where something is (points, voxels) goes through convolutions on the grid of the latent
cells, and is added there: `PLACED` tokens, one for each patch of the denoiser, zero where nothing
is said. Pictures go through a small transformer (Dosovitskiy et al. 2021); their tokens, and those
of words, are attended to. What is not given is left out; nothing at all is one learned token.
So a model of this kind is driven as every WaLa is:

    features = model.encode({"points": points, "sketch": picture})   # (B, L, C)
    denoise = model.guided_denoiser(features, scale)                 # None: without a condition
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from .compact import Block
from .config import LATENT_SIDE, JointConfig
from .layers import Mlp, SelfAttention
from .uvit import Patches

PICTURES = ("image", "sketch", "depth", "views")
KINDS = ("points", "voxels", *PICTURES, "text", "words")
PATCH = 2
PLACED = (LATENT_SIDE // PATCH) ** 3
FINE = 6
"""Cells along a side of a latent cell, in which points are counted."""
_MARGIN = 1
GRID = (LATENT_SIDE - 2 * _MARGIN) * FINE
_CELL = 0.25 / FINE
_CORNER = -1.41015625 + 0.25 * _MARGIN - 0.125
"""Of the grid in the cube: latent cell i has its centre at 0.25 i - 1.41015625. The outermost cells
lie beyond the cube."""
_TEXT_TOKENS = 4


class JointEncoder(nn.Module):
    """Conditions by name, any of KINDS -> tokens (B, L, C), of which the first PLACED are placed.

    points: (B, N, 3) in [-1, 1], in any order. voxels: (B, 1, 16, 16, 16), 0 or 1.
    image, sketch, depth: (B, 3, S, S) in [-1, 1] of any S; views: (B, V, 3, S, S) in their order.
    text: (B, text) of a sentence encoder; words: (B, number of words), 1 for those that are said.
    Raises ValueError when none, or an unknown one, is given.
    """

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.null = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.kinds = nn.Embedding(len(KINDS), channels)
        self.points_in = CellEncoder(5, config)
        self.voxels_in = CellEncoder(1, config)
        self.pictures = PictureEncoder(config)
        self.view = nn.Embedding(config.views, channels)
        self.text_in = _said(config.text, channels)
        self.words_in = _said(len(config.words), channels)

    def forward(self, sources: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, L, C); the order of the names does not matter."""
        unknown = sorted(sources.keys() - set(KINDS))
        if unknown or not sources:
            raise ValueError(f"conditions {', '.join(unknown) or 'missing'}: expected of {KINDS}")
        first = next(iter(sources.values()))
        dtype = self.null.dtype
        placed = first.new_zeros(len(first), PLACED, self.config.channels, dtype=dtype)
        parts = []
        for number, kind in enumerate(KINDS):
            if kind in sources:
                said = self.kinds.weight[number].expand(len(first), 1, -1)
                if kind == "points":
                    placed = placed + self.points_in(point_grid(sources[kind]))
                elif kind == "voxels":
                    placed = placed + self.voxels_in(voxel_grid(sources[kind]))
                else:
                    said = self._tokens(kind, sources[kind]) + said
                parts.append(said)
        return torch.cat([placed.to(parts[0].dtype), *parts], dim=1)

    def nothing(self, rows: int) -> torch.Tensor:
        """No condition: (rows, PLACED + 1, C)."""
        return self._nothing(rows, 1)

    def nothing_like(self, features: torch.Tensor) -> torch.Tensor:
        """No condition, shaped as `features` (B, L, C): to a denoiser, as good as `nothing`."""
        return self._nothing(len(features), features.shape[1] - PLACED)

    def _nothing(self, rows: int, tokens: int) -> torch.Tensor:
        null = self.null.expand(rows, tokens, -1)
        return torch.cat([torch.zeros_like(null[:, :1]).expand(-1, PLACED, -1), null], dim=1)

    def _tokens(self, kind: str, source: torch.Tensor) -> torch.Tensor:
        if kind == "views":
            if source.shape[1] > self.config.views:
                raise ValueError(f"{source.shape[1]} views, expected at most {self.config.views}")
            tokens = self.pictures(source.flatten(0, 1)).unflatten(0, source.shape[:2])
            return (tokens + self.view.weight[: source.shape[1], None]).flatten(1, 2)
        if kind in PICTURES:
            return self.pictures(source)
        layer = self.text_in if kind == "text" else self.words_in
        if layer is None:
            raise ValueError(f"this model was not trained on {kind}")
        return layer(source).unflatten(-1, (_TEXT_TOKENS, -1))


def _said(length: int, channels: int) -> nn.Linear | None:
    return nn.Linear(length, _TEXT_TOKENS * channels) if length else None


class CellEncoder(nn.Module):
    """Channels on the fine grid (B, C_in, 60^3) -> placed tokens (B, PLACED, C)."""

    def __init__(self, channels_in: int, config: JointConfig) -> None:
        super().__init__()
        width = config.grid_width
        self.layers = nn.Sequential(
            nn.Conv3d(channels_in, width, FINE, stride=FINE),
            *(Block(width) for _ in range(config.grid_blocks)),
            nn.SiLU(),
            nn.Conv3d(width, config.channels // PATCH**3, 1),
        )
        self.patches = Patches(PATCH)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        first: nn.Module = self.layers[0]
        volume = self.layers(grid.to(next(first.parameters()).dtype))
        return self.patches(functional.pad(volume, [_MARGIN] * 6))


def point_grid(points: torch.Tensor) -> torch.Tensor:
    """Points (B, N, 3) -> (B, 5, 60, 60, 60) float32: whether a cell holds any, how many
    (logarithm), and their mean place in it, -0.5 .. 0.5 along each axis."""
    scaled = (points.float().clamp(-1, 1) - _CORNER) / _CELL
    cells = scaled.floor()
    x, y, z = cells.long().unbind(-1)
    flat = (x * GRID + y) * GRID + z
    values = torch.cat([torch.ones_like(scaled[..., :1]), scaled - cells - 0.5], dim=-1)
    sums = values.new_zeros(len(points), GRID**3, 4)
    sums.scatter_add_(1, flat[..., None].expand(-1, -1, 4), values)
    count = sums[..., :1]
    mean = sums[..., 1:] / count.clamp(min=1)
    grid = torch.cat([(count > 0).float(), count.log1p(), mean], dim=-1)
    return grid.transpose(1, 2).unflatten(2, (GRID, GRID, GRID))


def voxel_grid(voxels: torch.Tensor) -> torch.Tensor:
    """Cells (B, 1, R, R, R) that fill the cube -> (B, 1, 60, 60, 60), by nearest neighbours."""
    side = voxels.shape[-1]
    centres = _CORNER + _CELL * (torch.arange(GRID, device=voxels.device) + 0.5)
    index = ((centres + 1) / 2 * side).floor().long()
    within = ((index >= 0) & (index < side)).to(voxels.dtype)
    index = index.clamp(0, side - 1)
    grid = voxels[:, :, index][:, :, :, index][..., index]
    return grid * within[:, None, None] * within[:, None] * within


class PictureEncoder(nn.Module):
    """Pictures (B, 3, S, S) -> tokens (B, patches, C). Others than `image_side` are resized."""

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.side = config.image_side
        patches = (config.image_side // config.image_patch) ** 2
        width = config.image_width
        self.patch_in = nn.Conv2d(3, width, config.image_patch, stride=config.image_patch)
        self.place = nn.Parameter(torch.randn(1, patches, width) * 0.02)
        self.blocks = nn.ModuleList(
            PictureBlock(width, config.image_heads) for _ in range(config.image_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.channels)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        if pictures.shape[-1] != self.side:
            pictures = functional.interpolate(
                pictures.float(), size=(self.side, self.side), mode="bilinear", antialias=True
            ).to(pictures.dtype)
        tokens = self.patch_in(pictures).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            tokens = block(tokens)
        return self.out(self.norm(tokens))


class PictureBlock(nn.Module):
    """A transformer block, norms first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
