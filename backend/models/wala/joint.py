"""Any of several conditions for one denoiser: points, voxels, pictures, words, alone or together.

What says where something is (points, voxels) goes through convolutions on the grid of the latent
cells, and is added there: `PLACED` tokens, one for each patch of the denoiser, zero where nothing
is said. Pictures say it, too: what they make their encoder guess of the shape is read as voxels
are. Their tokens, and those of words, are attended to. What is not given is left out; nothing at
all is one learned token. Where nothing says where the shape is, `imagined` can make voxels first.
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
from .imagined import ImaginedVoxels
from .pictures import PLACES, PictureEncoder
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
    image, sketch, depth: (B, 3, S, S) in [-1, 1] of any S; views: (B, V, 3, S, S), and with them
    view_numbers (B, V) int64, which of the model's cameras each is from; without, 0 to V - 1.
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
        self.pictures = PictureEncoder(config, len(PICTURES) - 1 + config.views)
        self.guess_in = CellEncoder(1, config)
        self.text_in = _said(config.text, channels)
        self.words_in = _said(len(config.words), channels)
        self.imagined = (
            ImaginedVoxels(config.imagined, config.text, len(config.words))
            if config.imagined
            else None
        )

    def forward(self, sources: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, L, C); the order of the names does not matter."""
        sources = dict(sources)
        numbers = sources.pop("view_numbers", None)
        unknown = sorted(sources.keys() - set(KINDS))
        if unknown or not sources:
            raise ValueError(f"conditions {', '.join(unknown) or 'missing'}: expected of {KINDS}")
        first = next(iter(sources.values()))
        dtype = self.null.dtype
        placed = first.new_zeros(len(first), PLACED, self.config.channels, dtype=dtype)
        parts = []
        pictures, sorts = _together(sources, numbers, self.config.views)
        if pictures is not None:
            told, where, guess = self.pictures(pictures.to(dtype), sorts)
            seen = self.guess_in(voxel_grid(guess.sigmoid()))
            placed = placed + seen + _around(where).to(seen.dtype)
            parts.append(told)
        for number, kind in enumerate(KINDS):
            if kind in sources:
                said = self.kinds.weight[number].expand(len(first), 1, -1)
                if kind == "points":
                    placed = placed + self.points_in(point_grid(sources[kind]))
                elif kind == "voxels":
                    placed = placed + self.voxels_in(voxel_grid(sources[kind]))
                elif kind in ("text", "words"):
                    said = self._tokens(kind, sources[kind]) + said
                parts.append(said)
        return torch.cat([placed.to(parts[0].dtype), *parts], dim=1)

    def guess(self, sources: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What pictures alone make of a shape: the logits (B, 1, 32, 32, 32) of how much of each
        cell of the cube is solid. `sources` as in `forward`, of pictures only."""
        pictures, sorts = _together(sources, sources.get("view_numbers"), self.config.views)
        if pictures is None:
            raise ValueError(f"no pictures: expected of {PICTURES}")
        return self.pictures(pictures.to(self.null.dtype), sorts)[2]

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
        layer = self.text_in if kind == "text" else self.words_in
        if layer is None:
            raise ValueError(f"this model was not trained on {kind}")
        return layer(source).unflatten(-1, (_TEXT_TOKENS, -1))


def _together(
    sources: Mapping[str, torch.Tensor], numbers: torch.Tensor | None, views: int
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """All pictures (B, V, 3, S, S), and what each is (B, V) int64; None where there are none."""
    pictures, sorts = [], []
    for number, kind in enumerate(PICTURES):
        if kind not in sources:
            continue
        source = sources[kind] if kind == "views" else sources[kind][:, None]
        rows, count = source.shape[:2]
        if kind != "views":
            numbers_here = source.new_full((rows, 1), number, dtype=torch.long)
        elif count > views or (numbers is not None and int(numbers.max()) >= views):
            raise ValueError(f"{count} views, expected at most {views}, of as many cameras")
        else:
            order = torch.arange(count, device=source.device).expand(rows, -1)
            numbers_here = number + (order if numbers is None else numbers)
        pictures.append(source)
        sorts.append(numbers_here)
    if not pictures:
        return None, torch.empty(0, 0, dtype=torch.long)
    side = max(source.shape[-1] for source in pictures)
    return torch.cat([_of_side(source, side) for source in pictures], dim=1), torch.cat(sorts, 1)


def _of_side(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """(B, V, 3, S, S), enlarged where smaller, so that pictures of two sizes go together."""
    if pictures.shape[-1] == side:
        return pictures
    flat = functional.interpolate(pictures.flatten(0, 1).float(), size=(side, side))
    return flat.to(pictures.dtype).unflatten(0, pictures.shape[:2])


def _around(inner: torch.Tensor) -> torch.Tensor:
    """(B, 4^3, C) of the patches within the margin -> (B, PLACED, C), zero in the margin."""
    volume = inner.transpose(1, 2).unflatten(2, (PLACES,) * 3)
    margin = (LATENT_SIDE // PATCH - PLACES) // 2
    return functional.pad(volume, [margin] * 6).flatten(2).transpose(1, 2)


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
