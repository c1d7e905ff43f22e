"""A diffusion over few principal components of something: what its models have in common.

A perceptron, shifted and scaled by time and condition, predicts components without noise. Where
there is little to learn from, that is small, quick, and makes nothing far from what it has seen.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .wala.layers import zeroed
from .wala.uvit import TimeEmbedding


class ComponentsDenoiser(nn.Module):
    """Components at a time of the diffusion, to those without noise.

    components: how many; width, depth: of the perceptron, in residual blocks.
    """

    def __init__(self, components: int, width: int, depth: int) -> None:
        super().__init__()
        self.time = TimeEmbedding(width)
        self.components_in = nn.Linear(components, width)
        self.blocks = nn.ModuleList(ModulatedBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.components_out = zeroed(nn.Linear(width, components))

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """x (B, components), noised; timesteps (B,); condition (B, width). Of the dtype of x."""
        dtype = self.components_in.weight.dtype
        hint = functional.silu(self.time(timesteps, dtype) + condition)
        hidden = self.components_in(x.to(dtype))
        for block in self.blocks:
            hidden = block(hidden, hint)
        found: torch.Tensor = self.components_out(self.norm(hidden))
        return found.to(x.dtype)


class ModulatedBlock(nn.Module):
    """A residual perceptron (B, width); a hint (B, width) shifts, scales and gates it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)
        self.modulation = zeroed(nn.Linear(width, 3 * width))

    def forward(self, x: torch.Tensor, hint: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.modulation(hint).chunk(3, dim=-1)
        inner = functional.gelu(self.fc1(self.norm(x) * (1 + scale) + shift))
        return x + gate * self.fc2(inner)


def scale_of(variances: torch.Tensor) -> torch.Tensor:
    """(K,) what components of these variances (K,) are divided by: each keeps the fourth root of
    its variance, so that the diffusion settles coarse things first; their mean square is 1."""
    return variances.pow(0.25) * variances.sqrt().mean().sqrt()
