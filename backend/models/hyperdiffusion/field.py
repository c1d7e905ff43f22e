"""Occupancy fields: small networks that tell whether a point is inside a shape.

The result is a logit: positive inside, and sigmoid of it the probability to be inside.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from ...neural_fields import phase_octaves
from .config import FieldConfig
from .weights_vector import layout


def encode(points: torch.Tensor, frequencies: int, period: int = 0) -> torch.Tensor:
    """Points (..., D) -> (..., E): [x, sin x, cos x, sin 2x, cos 2x, ..].

    With a period the last coordinate, the number of the frame, is told apart, behind the others:
    [sin p, cos p, sin 2p, cos 2p, ..] of its phase p, up to `phase_octaves`.
    """
    if period:
        phase = points[..., -1:] * (2 * math.pi / period)
        turns = [phase * float(2**octave) for octave in range(phase_octaves(period))]
        told = [part for turn in turns for part in (turn.sin(), turn.cos())]
        return torch.cat([encode(points[..., :-1], frequencies), *told], dim=-1)
    blocks = [points]
    for octave in range(frequencies):
        scaled = points * float(2**octave)
        blocks += [scaled.sin(), scaled.cos()]
    return torch.cat(blocks, dim=-1)


class OccupancyField(nn.Module):
    """One field as a module, with the published names: layers.0.weight, layers.0.bias, .."""

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in pairwise(config.widths)
        )

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Points (..., D) -> logits (..., 1)."""
        hidden = encode(points, self.config.frequencies, self.config.period)
        for layer in self.layers[:-1]:
            hidden = F.relu(layer(hidden), inplace=not torch.is_grad_enabled())
        logits: torch.Tensor = self.layers[-1](hidden)
        return logits


def evaluate(config: FieldConfig, vectors: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Logits (S, P) of S fields at once.

    vectors: their weights (S, W); gradients flow to them. points: (S, P, D), or (P, D) for all.
    """
    if vectors.dim() != 2:
        raise ValueError(f"weight vectors of shape {tuple(vectors.shape)}: expected (S, W)")
    hidden = encode(points, config.frequencies, config.period)
    if hidden.dim() == 2:
        hidden = hidden.expand(len(vectors), -1, -1)
    tensors = _tensors(config, vectors)
    for number in range(0, len(tensors), 2):
        weight, bias = tensors[number], tensors[number + 1]
        hidden = torch.baddbmm(bias[:, None], hidden, weight.transpose(1, 2))
        if number + 2 < len(tensors):
            hidden = F.relu(hidden, inplace=not torch.is_grad_enabled())
    return hidden[..., 0]


def _tensors(config: FieldConfig, vectors: torch.Tensor) -> list[torch.Tensor]:
    """Views (S, *shape) of the weights and biases, in the order of the vector."""
    shapes = [shape for _, shape in layout(config)]
    sizes = [shape.numel() for shape in shapes]
    if vectors.shape[1] != sum(sizes):
        raise ValueError(f"vectors of {vectors.shape[1]} weights: the field has {sum(sizes)}")
    pieces = vectors.split(sizes, dim=1)
    return [piece.unflatten(1, shape) for piece, shape in zip(pieces, shapes, strict=True)]
