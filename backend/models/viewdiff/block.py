"""diffusers' transformer block with room for what happens between views."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .attention import ViewContext
from .projection import Projection

_GATE_AT_FIRST = -10.0


class ViewBlock(nn.Module):
    """Takes the parts of a BasicTransformerBlock, under their names.

    In order: self-attention (over the views, if its processor says so), words, perhaps attention
    over the other views in a layer of its own, perhaps the layer through space, feed-forward.
    combine: see ViewDiffConfig.
    """

    norm1: nn.Module
    attn1: nn.Module
    norm2: nn.Module
    attn2: nn.Module
    norm3: nn.Module
    ff: nn.Module

    def __init__(
        self,
        block: Any,
        context: ViewContext,
        *,
        separate: Any = None,
        projection: Projection | None = None,
        combine: str = "replace",
    ) -> None:
        super().__init__()
        if block.norm_type != "layer_norm" or block.only_cross_attention or block.attn2 is None:
            raise ValueError("the U-Net has transformer blocks of another kind than views need")
        self.context = context
        self.size = (0, 0)
        for name in ("norm1", "attn1", "norm2", "attn2", "norm3", "ff"):
            setattr(self, name, getattr(block, name))
        width = block.dim
        if separate is not None:
            self.norm_views = nn.LayerNorm(width)
            self.attn_views = separate
        if projection is not None:
            self.norm_cf = nn.LayerNorm(width)
            self.unproj_reproj_layer = projection
            self.combination = _COMBINATIONS[combine](width)

    def take_size(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A hook before the transformer this block is in, which turns pictures into tokens."""
        self.size = (inputs[0].shape[-2], inputs[0].shape[-1])

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        timestep: torch.Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden_states: (B V, L, C). Arguments as diffusers gives them."""
        x = hidden_states
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), encoder_hidden_states=encoder_hidden_states)
        if hasattr(self, "attn_views"):
            x = x + self.attn_views(self.norm_views(x))
        if hasattr(self, "unproj_reproj_layer"):
            x = self.combination(x, self._through_space(self.norm_cf(x)))
        return x + self.ff(self.norm3(x))

    def _through_space(self, x: torch.Tensor) -> torch.Tensor:
        context = self.context
        if context.cameras is None or context.timesteps is None:
            raise ValueError("the network was not told of the cameras and timesteps of its views")
        views = context.views
        features = x.mT.unflatten(-1, self.size).unflatten(0, (-1, views))
        time = None if context.time is None else context.time.unflatten(0, (-1, views))
        carried = self.unproj_reproj_layer(
            features, context.cameras, context.timesteps, time, context.novel, context.fronts
        )
        return carried.flatten(0, 1).flatten(2).mT


class _Replace(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
        return outcome


class _Add(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
        return x + outcome


class _Zero(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
        return x + self.linear(outcome)


class _Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(_GATE_AT_FIRST))

    def forward(self, x: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
        return x + torch.sigmoid(self.alpha) * outcome


_COMBINATIONS = {"replace": _Replace, "add": _Add, "zero": _Zero, "gated": _Gated}
