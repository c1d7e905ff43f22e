"""The denoiser: a transformer that sees every tensor of a field as one token, and the timestep.

It carries the published names. It predicts the weights without noise.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .config import DenoiserConfig

TIME_FREQUENCIES = 128


class TimestepEncoding(nn.Module):
    """[sin(f t), cos(f t), t] of frequencies f = 2^0 .. 2^octaves.

    Arguments reach 5e8 in published models, where float32 keeps little of the angle: what comes out
    rests on the rounding of f t. So the product is taken in float32 whatever the network computes
    in, of the frequencies that the checkpoint holds.
    """

    frequencies: torch.Tensor

    def __init__(self, octaves: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 ** torch.linspace(0, octaves, TIME_FREQUENCIES))

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        """(B,) integers -> (B, 257) float32."""
        steps = timesteps.to(torch.float32)[:, None]
        angles = steps * self.frequencies.to(torch.float32)
        return torch.cat([angles.sin(), angles.cos(), steps], dim=1)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        found: torch.Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return found


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln1(x))
        found: torch.Tensor = x + self.mlp(self.ln2(x))
        return found


class Transformer(nn.Module):
    """Tokens of different sizes -> as many of the same sizes; the last one in, time, not out."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.sizes = list(config.tokens)
        width = config.width
        inputs = [*self.sizes, 2 * TIME_FREQUENCIES + 1]
        self.pos_emb = nn.Parameter(torch.zeros(1, len(inputs), width))
        self.blocks = nn.Sequential(*(Block(width, config.heads) for _ in range(config.depth)))
        # Each in a sequence of one, for the sake of the published names.
        self.input_parameter_projections = nn.ModuleList(
            nn.Sequential(nn.Linear(size, width, bias=False)) for size in inputs
        )
        self.ln_in = nn.LayerNorm(width)
        self.ln_f = nn.LayerNorm(width)
        self.output_parameter_projections = nn.ModuleList(
            nn.Sequential(nn.Linear(width, size, bias=False)) for size in self.sizes
        )
        self.apply(_initialise)

    def forward(self, vectors: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        pieces = [*vectors.split(self.sizes, dim=1), time]
        projected = zip(self.input_parameter_projections, pieces, strict=True)
        tokens = torch.stack([project(piece) for project, piece in projected], dim=1)
        # The position comes after the norm, which all tokens share.
        tokens = self.ln_f(self.blocks(self.ln_in(tokens) + self.pos_emb))
        outputs = enumerate(self.output_parameter_projections)
        return torch.cat([project(tokens[:, number]) for number, project in outputs], dim=1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Denoiser(nn.Module):
    """(x_t (B, W), timesteps (B,) integers) -> x_0 (B, W)."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = Transformer(config)
        self.scalar_embedder = TimestepEncoding(config.time_octaves)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if x.dim() != 2 or x.shape[1] != sum(self.config.tokens):
            raise ValueError(
                f"weights of shape {tuple(x.shape)}: expected (B, {sum(self.config.tokens)})"
            )
        time = self.scalar_embedder(timesteps).to(x.dtype)
        found: torch.Tensor = self.decoder(x, time)
        return found
