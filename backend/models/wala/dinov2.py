"""DINOv2 with registers, the image encoder of WaLa.

Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision"; Darcet et al.
2023, "Vision Transformers Need Registers".
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .config import ImageEncoderConfig
from .layers import Mlp, SelfAttention

INTERPOLATION_OFFSET = 0.1
"""Added to the number of patches where the position table is resized, as when it was trained."""


class DinoV2(nn.Module):
    """Images (B, 3, H, W), sides divisible by 14 -> features of the patches.

    WaLa gives it values in [-1, 1], not the statistics of ImageNet.
    """

    def __init__(self, config: ImageEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ImageEncoderConfig()
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + config.position_side**2, width) * 0.02)
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, width))
        # For masked training only, but a part of every checkpoint.
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, H / 14 * W / 14, width), row by row, after the last norm."""
        return self.tokens(images)[:, 1 + self.config.registers :]

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """All tokens after the last norm: class, registers, patches."""
        rows, columns = (side // self.config.patch for side in images.shape[2:])
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.positions(rows, columns)
        registers = self.register_tokens.expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        """(1, 1 + rows * columns, width): the class token's, and the table resized."""
        side = self.config.position_side
        if rows == columns == side:
            return self.pos_embed
        table = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        scale = tuple((count + INTERPOLATION_OFFSET) / side for count in (rows, columns))
        resized = functional.interpolate(table.float(), scale_factor=scale, mode="bicubic")
        if resized.shape[2:] != (rows, columns):
            raise ValueError(f"positions for {rows} x {columns} patches: {tuple(resized.shape)}")
        patches = resized.to(table.dtype).flatten(2).transpose(1, 2)
        return torch.cat([self.pos_embed[:, :1], patches], dim=1)


class PatchEmbedding(nn.Module):
    """(B, 3, H, W) -> (B, H / p * W / p, width)."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.side = config.patch
        self.proj = nn.Conv2d(3, config.width, config.patch, stride=config.patch)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[2] % self.side or images.shape[3] % self.side:
            raise ValueError(f"image sides {tuple(images.shape[2:])} do not divide by {self.side}")
        return self.proj(images).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """A transformer block whose branches are scaled per channel."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, config.heads, normalized=False)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width, approximate="none")
        self.ls2 = LayerScale(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma
