"""Networks on the grid in space: a residual block, or a small U-Net; with the published names."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

_GROUPS = 16
_EPS = 1e-5


class ResidualBlock(nn.Module):
    """(B, C, G, G, G) -> (B, outputs, G, G, G); knows the time where there is some, (B, T)."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, outputs)
        self.norm2 = _norm(outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv3d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        inner = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            inner = inner + self.time_emb_proj(F.silu(time))[:, :, None, None, None]
        inner = self.conv2(F.silu(self.norm2(inner)))
        short = self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x
        return short + inner


class _Halving(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class _Doubling(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, size: torch.Size) -> torch.Tensor:
        return self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))


class _TimeEmbedding(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, outputs)
        self.linear_2 = nn.Linear(outputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class _Level(nn.Module):
    """On the way down: a residual block, then half the size unless it is the coarsest."""

    def __init__(self, inputs: int, outputs: int, embedding: int, halved: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(inputs, outputs, embedding)])
        self.downsamplers = nn.ModuleList([_Halving(outputs)] if halved else [])

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> list[torch.Tensor]:
        """All that is kept for the way up; the last goes on."""
        kept = []
        for layer in self.resnets:
            x = layer(x, time)
            kept.append(x)
        for layer in self.downsamplers:
            x = layer(x)
            kept.append(x)
        return kept


class _UpLevel(nn.Module):
    """On the way up: two residual blocks that take what was kept, then twice the size."""

    def __init__(
        self, inputs: int, kept: tuple[int, int], outputs: int, embedding: int, doubled: bool
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            [
                ResidualBlock(inputs + kept[0], outputs, embedding),
                ResidualBlock(outputs + kept[1], outputs, embedding),
            ]
        )
        self.upsamplers = nn.ModuleList([_Doubling(outputs)] if doubled else [])

    def forward(
        self, x: torch.Tensor, kept: list[torch.Tensor], time: torch.Tensor
    ) -> torch.Tensor:
        """Takes what it needs from the end of `kept`."""
        for layer in self.resnets:
            x = layer(torch.cat([x, kept.pop()], dim=1), time)
        for layer in self.upsamplers:
            x = layer(x, kept[-1].shape[2:])
        return x


class _Middle(nn.Module):
    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(channels, channels, embedding)])

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        for layer in self.resnets:
            x = layer(x, time)
        return x


class VolumeUNet(nn.Module):
    """(B, C, G, G, G), timesteps (B,) -> the same shape. levels: 1 or 2; the second has half the
    size and twice the channels."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.channels = channels
        widths = [channels * 2**level for level in range(levels)]
        embedding = 4 * channels
        self.conv_in = nn.Conv3d(channels, channels, 3, padding=1)
        self.time_embedding = _TimeEmbedding(channels, embedding)
        self.down_blocks = nn.ModuleList(
            _Level(before, width, embedding, halved=level < levels - 1)
            for level, (before, width) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.mid_block = _Middle(widths[-1], embedding)
        ups = []
        for level in reversed(range(levels)):
            before = widths[min(level + 1, levels - 1)]
            kept = (widths[level], widths[max(level - 1, 0)])
            ups.append(_UpLevel(before, kept, widths[level], embedding, doubled=level > 0))
        self.up_blocks = nn.ModuleList(ups)
        self.conv_norm_out = _norm(channels)
        self.conv_out = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        time = self.time_embedding(_waves(timesteps, self.channels).to(x.dtype))
        kept = [self.conv_in(x)]
        for level in self.down_blocks:
            kept.extend(level(kept[-1], time))
        x = self.mid_block(kept[-1], time)
        for level in self.up_blocks:
            x = level(x, kept, time)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels, eps=_EPS)


def _waves(timesteps: torch.Tensor, channels: int) -> torch.Tensor:
    """(B,) -> (B, channels): cosines, then sines, of frequencies 1 to almost 1 / 10,000."""
    half = channels // 2
    exponents = torch.arange(half, device=timesteps.device, dtype=torch.float32) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(10000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
