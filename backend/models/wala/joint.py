"""Any of several conditions for one denoiser: points, voxels, pictures, words, alone or together.

Each kind becomes tokens of one width, told apart by an embedding; the tokens of all that are given
are one sequence, and what is not given is left out. Nothing at all is one learned token. So a model
of this kind is driven as every WaLa is:

    features = model.encode({"points": points, "sketch": picture})   # (B, L, C)
    denoise = model.guided_denoiser(features, scale)                 # None: without a condition

Points and voxels go through convolutions over the cube, because what they say is where something
is; their tokens lie as the patches of the denoiser do. Pictures go through a small transformer
(Dosovitskiy et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from .config import JointConfig
from .layers import Mlp, ResidualBlock, SelfAttention, output_layers, pool, tokens_of

PICTURES = ("image", "sketch", "depth", "views")
KINDS = ("points", "voxels", *PICTURES, "text", "words")
GRID = 48
_COARSE = GRID // 8
_TEXT_TOKENS = 4


class JointEncoder(nn.Module):
    """Conditions by name, any of KINDS -> tokens (B, L, C).

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
        self.place = nn.Parameter(torch.randn(1, _COARSE**3, channels) * 0.02)
        self.points_in = nn.Conv3d(5, 64, 4, stride=2, padding=1)
        self.voxels_in = nn.Conv3d(1, 64, 4, stride=2, padding=1)
        self.grid = nn.Sequential(
            ResidualBlock(64, 64),
            pool(),
            ResidualBlock(64, 96),
            ResidualBlock(96, 96),
            pool(),
            ResidualBlock(96, 160),
            ResidualBlock(160, 160),
            output_layers(160, channels),
        )
        self.pictures = PictureEncoder(config)
        self.view = nn.Embedding(config.views, channels)
        self.text_in = _said(config.text, channels)
        self.words_in = _said(len(config.words), channels)

    def forward(self, sources: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, L, C); the order of the names does not matter."""
        unknown = sorted(sources.keys() - set(KINDS))
        if unknown or not sources:
            raise ValueError(f"conditions {', '.join(unknown) or 'missing'}: expected of {KINDS}")
        parts = [
            self._tokens(kind, sources[kind]) + self.kinds.weight[number]
            for number, kind in enumerate(KINDS)
            if kind in sources
        ]
        return torch.cat(parts, dim=1)

    def nothing_like(self, features: torch.Tensor) -> torch.Tensor:
        """No condition, shaped as `features` (B, L, C): to a denoiser, as good as one token."""
        return self.null.expand_as(features)

    def _tokens(self, kind: str, source: torch.Tensor) -> torch.Tensor:
        if kind == "points":
            return self._placed(self.points_in(point_grid(source)))
        if kind == "voxels":
            cells = functional.interpolate(source, size=(GRID, GRID, GRID), mode="nearest")
            return self._placed(self.voxels_in(cells))
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

    def _placed(self, volume: torch.Tensor) -> torch.Tensor:
        return tokens_of(self.grid(volume)) + self.place


def _said(length: int, channels: int) -> nn.Linear | None:
    return nn.Linear(length, _TEXT_TOKENS * channels) if length else None


def point_grid(points: torch.Tensor) -> torch.Tensor:
    """Points (B, N, 3) -> (B, 5, 48, 48, 48): whether a cell holds any, how many (logarithm), and
    their mean place in it, -0.5 .. 0.5 along each axis. The dtype of `points`."""
    scaled = (points.float().clamp(-1, 1 - 1e-4) + 1) * (GRID / 2)
    cells = scaled.floor()
    x, y, z = cells.long().unbind(-1)
    flat = (x * GRID + y) * GRID + z
    values = torch.cat([torch.ones_like(scaled[..., :1]), scaled - cells - 0.5], dim=-1)
    sums = values.new_zeros(len(points), GRID**3, 4)
    sums.scatter_add_(1, flat[..., None].expand(-1, -1, 4), values)
    count = sums[..., :1]
    mean = sums[..., 1:] / count.clamp(min=1)
    grid = torch.cat([(count > 0).float(), count.log1p(), mean], dim=-1)
    return grid.transpose(1, 2).unflatten(2, (GRID, GRID, GRID)).to(points.dtype)


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
