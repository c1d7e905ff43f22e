"""Layers that the networks of WaLa share. Latents and volumes are (B, C, X, Y, Z)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from . import group_norm as group_normalization
from . import winograd

GROUPS = 32


class GroupNorm(nn.GroupNorm):
    """GroupNorm with 32 groups. Keeps the layout of memory that `Conv3` gives."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not group_normalization.applies(input, self.weight, self.bias):
            return super().forward(input.contiguous())
        return group_normalization.normalize(
            input, self.num_groups, self.weight, self.bias, self.eps
        )


def group_norm(channels: int) -> GroupNorm:
    """GroupNorm with 32 groups."""
    return GroupNorm(channels)


class Conv3(nn.Conv3d):
    """3^3 convolution that keeps the size. On the CPU the output is channels last in memory."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.bias is not None and winograd.applies(input, self.weight):
            return winograd.convolve(input, self.weight, self.bias)
        return super().forward(input)


def conv3(channels_in: int, channels_out: int) -> Conv3:
    """3^3 convolution that keeps the size."""
    return Conv3(channels_in, channels_out)


def zeroed(layer: nn.Linear | nn.Conv3d) -> nn.Linear | nn.Conv3d:
    """`layer` with weights and bias zero, so that a residual branch starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def output_layers(channels_in: int, channels_out: int, asleep: bool = False) -> nn.Sequential:
    """Norm, SiLU, 3^3 convolution: the last layers of every convolutional network here.

    asleep: the convolution begins as zero.
    """
    conv = conv3(channels_in, channels_out)
    return nn.Sequential(
        group_norm(channels_in), nn.SiLU(inplace=True), zeroed(conv) if asleep else conv
    )


def pool() -> nn.AvgPool3d:
    """Halving that counts its padding: 46 -> 23 -> 12, 16 -> 8."""
    return nn.AvgPool3d(3, stride=2, padding=1)


def tokens_of(volume: torch.Tensor) -> torch.Tensor:
    """(B, C, X, Y, Z) -> (B, X Y Z, C), in C order."""
    return volume.flatten(2).transpose(1, 2)


class ResidualBlock(nn.Module):
    """Two 3^3 convolutions, each after GroupNorm and SiLU, and a skip.

    skip_kernel: side of the kernel of the skip where the widths differ.
    """

    def __init__(
        self, channels_in: int, channels_out: int, dropout: float = 0.0, skip_kernel: int = 1
    ) -> None:
        super().__init__()
        self.in_norm = group_norm(channels_in)
        self.in_conv = conv3(channels_in, channels_out)
        self.out_layers = nn.Sequential(
            group_norm(channels_out),
            nn.SiLU(inplace=True),
            nn.Dropout(dropout),
            zeroed(conv3(channels_out, channels_out)),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.skip_connection = nn.Conv3d(
                channels_in, channels_out, skip_kernel, padding=skip_kernel // 2
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.in_conv(functional.silu(self.in_norm(x), inplace=True))
        return self.out_layers(h).add_(self.skip_connection(x))


class Mlp(nn.Module):
    """Linear, GELU, Linear. approximate: "tanh" in WaLa's own networks, "none" in DINOv2."""

    def __init__(
        self, width: int, hidden: int, width_out: int | None = None, approximate: str = "tanh"
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width_out or width)
        self.approximate = approximate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate=self.approximate))


class SelfAttention(nn.Module):
    """Multi-head self-attention over (B, L, C). normalized: LayerNorm on queries and keys."""

    def __init__(
        self, width: int, heads: int, qkv_bias: bool = True, normalized: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        norm = nn.LayerNorm if normalized else nn.Identity
        self.q_norm = norm(width // heads)
        self.k_norm = norm(width // heads)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim((2, 3), (0, 2))
        return self.proj(attend(self.q_norm(q), self.k_norm(k), v))


class CrossAttention(nn.Module):
    """Queries (B, L, C) attend to (B, M, C), with LayerNorm per head on queries and keys."""

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(width, 2 * width, bias=bias)
        self.q_norm = nn.LayerNorm(width // heads)
        self.k_norm = nn.LayerNorm(width // heads)
        self.proj = nn.Linear(width, width)

    def keys_values(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What of the context (G, M, C) is attended to: (G, heads, M, D) each."""
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).movedim((2, 3), (0, 2))
        return self.k_norm(k), v

    def forward(
        self, x: torch.Tensor, context: torch.Tensor | tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """context: (G, M, C), or its `keys_values`. G divides B; B / G rows after one another share
        a context, as one sequence of queries."""
        k, v = context if isinstance(context, tuple) else self.keys_values(context)
        q = self.q(x).unflatten(0, (len(k), -1)).flatten(1, 2)
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        attended = attend(self.q_norm(q), k, v)
        return self.proj(attended.reshape(x.shape[0], -1, attended.shape[-1]))


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """q (B, heads, L, D), k and v (B, heads, M, D) -> (B, L, heads D). scale: D^-0.5 if None."""
    heads = functional.scaled_dot_product_attention(q, k, v, scale=scale)
    return heads.transpose(1, 2).flatten(2)
