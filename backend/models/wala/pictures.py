"""What pictures of a shape tell of it: tokens, and a first guess of where the shape is solid.

EfficientNet-Lite0 sees the pictures; a transformer (Dosovitskiy et al. 2021) brings what it saw,
of one picture or several, to places in the cube: one learned query for each patch of the denoiser.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .config import JointConfig
from .efficientnet import CHANNELS, EfficientNetLite0
from .layers import Mlp, SelfAttention, zeroed
from .uvit import FromPatches

STRIDE = 16
"""Pixels along a side of what one token tells of."""
PLACES = 4
"""Queries along a side of the cube; each is answered for a half of its half."""
GUESS = 32
"""Cells along a side of the guess, which fill the cube."""


def picture_tokens(config: JointConfig) -> int:
    """Of one picture."""
    return (-(-config.image_side // STRIDE)) ** 2


class PictureEncoder(nn.Module):
    """Pictures (B, V, 3, S, S) in [-1, 1], of V kinds or cameras, together.

    Returns tokens (B, V L, C); what to place (B, 64, C), in the order of the patches of a cube of
    4^3; and the logits (B, 1, 32, 32, 32) of how much of each cell is solid. Pictures of another
    side than `image_side` are resized.
    """

    def __init__(self, config: JointConfig, sorts: int) -> None:
        super().__init__()
        self.side = config.image_side
        width, count = config.image_width, picture_tokens(config)
        self.backbone = EfficientNetLite0()
        self.seen = nn.Linear(sum(CHANNELS), width)
        self.place = nn.Parameter(torch.randn(1, count, width) * 0.02)
        self.sorts = nn.Embedding(sorts, width)
        self.queries = nn.Parameter(torch.randn(1, PLACES**3, width) * 0.02)
        self.blocks = nn.ModuleList(
            PictureBlock(width, config.image_heads) for _ in range(config.image_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.solid = nn.Linear(width, (GUESS // PLACES) ** 3)
        self.out = nn.Linear(width, config.channels)
        self.placed = zeroed(nn.Linear(width, config.channels))
        self.cells = FromPatches(GUESS // PLACES, GUESS)

    def forward(
        self, pictures: torch.Tensor, sorts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """sorts: (B, V) int64, below the number of sorts: what each picture is."""
        tokens = self.understood(pictures, sorts)
        queries, rest = tokens[:, : PLACES**3], tokens[:, PLACES**3 :]
        return self.out(rest), self.placed(queries), self.cells(self.solid(queries))

    def understood(self, pictures: torch.Tensor, sorts: torch.Tensor) -> torch.Tensor:
        """(B, 64 + V L, width): the answered queries, then the tokens of the pictures."""
        rows, views = pictures.shape[:2]
        seen = self.seen(self._features(self._sized(pictures.flatten(0, 1)))) + self.place
        seen = seen.unflatten(0, (rows, views)) + self.sorts(sorts)[:, :, None]
        tokens = torch.cat([self.queries.expand(rows, -1, -1), seen.flatten(1, 2)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def _sized(self, pictures: torch.Tensor) -> torch.Tensor:
        if pictures.shape[-1] == self.side:
            return pictures
        return functional.interpolate(
            pictures.float(), size=(self.side, self.side), mode="bilinear", antialias=True
        ).to(pictures.dtype)

    def _features(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, tokens, sum of CHANNELS), at the middle one of three scales."""
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        if pictures.device.type == "cpu":  # where depthwise convolutions are slow in bfloat16
            with torch.autocast("cpu", enabled=False):
                fine, middle, coarse = self.backbone(pictures)
        else:
            fine, middle, coarse = self.backbone(pictures)
        size = middle.shape[-2:]
        volumes = [functional.adaptive_avg_pool2d(fine, size), middle]
        volumes.append(functional.interpolate(coarse, size=size, mode="nearest"))
        return torch.cat(volumes, dim=1).flatten(2).transpose(1, 2)


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
