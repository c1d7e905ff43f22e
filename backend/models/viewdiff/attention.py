"""Attention over the views of a scene, and low-rank corrections that know cameras and time.

Each is a processor of diffusers' Attention, whose own weights are not touched. What is known of the
views is put on a `ViewContext`, which all processors of a network share.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .cameras import Cameras

MOST_SCORES = 1 << 30
"""Pairs of a query and a key that are looked at in one call; more are taken in parts, so that no
backend of attention needs much memory."""


class ViewContext:
    """What one call of the network is about; batches have the views of a scene after each other.

    views: V. conditions: (B V, 8 or 10), see cameras.conditions. time: (B V, T), the embedding of
    the timesteps, taken by `take_time`. cameras, timesteps (B, V): for the layers through space.
    novel: how many views, the last of each scene, are not carried into space (but seen from it).
    fronts: (B, V, 2, h, w), where the surfaces of a first guess are, as first_guess.fronts_of has
    it; None where that is not told.
    It stays as it is until the next call, so that gradients can be computed after one.
    """

    def __init__(self) -> None:
        self.views = 1
        self.conditions: torch.Tensor | None = None
        self.time: torch.Tensor | None = None
        self.cameras: Cameras | None = None
        self.timesteps: torch.Tensor | None = None
        self.novel = 0
        self.fronts: torch.Tensor | None = None

    def take_time(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        """A forward hook for the network's embedding of timesteps."""
        self.time = output


class LowRank(nn.Module):
    """A correction of a linear layer; nothing at first. alpha: as in published ones, or None."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float | None = None) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)
        self.factor = 1.0 if alpha is None else alpha / rank
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor, told: torch.Tensor | None = None) -> torch.Tensor:
        """x: (B, L, C); told: (B, E), the same for all of L, as if it were C + E channels."""
        width = x.shape[-1]
        weight = self.down.weight
        inner = F.linear(x, weight[:, :width])
        if told is not None:
            inner = inner + F.linear(told.to(weight.dtype), weight[:, width:])[:, None]
        return self.up(inner) * self.factor


class CrossFrameAttention(nn.Module):
    """Self-attention whose keys and values come from the views of a scene.

    own_frame: whether a view is among them. other_frames: how many of the others, the first ones;
    None for all. conditions, time_channels, embedding: how many values are told of each view, of
    the timestep, and of its embedding; rank 0 for no corrections. scale: of the corrections.
    """

    def __init__(
        self,
        attention: Any,
        context: ViewContext,
        *,
        conditions: int = 0,
        time_channels: int = 0,
        embedding: int = 0,
        rank: int = 0,
        alpha: float | None = None,
        scale: float = 1.0,
        own_frame: bool = True,
        other_frames: int | None = None,
    ) -> None:
        super().__init__()
        self.context = context
        self.own_frame = own_frame
        self.other_frames = other_frames
        self.scale = scale
        self.corrected = rank > 0
        self.temb_proj = None
        if self.corrected:
            _add_corrections(self, attention, conditions + time_channels, rank, alpha)
            if time_channels:
                self.temb_proj = nn.Sequential(
                    nn.Linear(embedding, embedding // 2),
                    nn.ELU(),
                    nn.Linear(embedding // 2, time_channels),
                    nn.ELU(),
                )

    def forward(
        self,
        attention: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden_states: (B V, L, C). The other arguments are diffusers', and not looked at."""
        views = self.context.views
        frames = self._frames(views)
        if not frames[0]:
            return torch.zeros_like(hidden_states)
        told = self._told()
        query, key, value = (
            _corrected(self, attention, name, hidden_states, told) for name in ("q", "k", "v")
        )
        if len(frames[0]) == views and self.own_frame:
            # All look at the same: one sequence of keys for a scene, not a copy for each view.
            query, key, value = (_joined(x, views) for x in (query, key, value))
        else:
            table = torch.tensor(frames, device=key.device)
            key, value = (_chosen(x, views, table) for x in (key, value))
        attended = attend(query, key, value, attention.heads)
        return _out(self, attention, attended.reshape(*hidden_states.shape[:2], -1))

    def _frames(self, views: int) -> list[list[int]]:
        """Of each view, which it attends to."""
        found = []
        for view in range(views):
            others = [other for other in range(views) if other != view]
            chosen = others if self.other_frames is None else others[: self.other_frames]
            found.append([view, *chosen] if self.own_frame else chosen)
        return found

    def _told(self) -> torch.Tensor | None:
        if not self.corrected:
            return None
        told = self.context.conditions
        if told is None:
            raise ValueError("the network was not told of the cameras of its views")
        if self.temb_proj is None:
            return told
        time = self.context.time
        if time is None:
            raise ValueError("the network was not told of the timesteps of its views")
        return torch.cat([told.to(time.dtype), self.temb_proj(time)], dim=-1)


class TextAttention(nn.Module):
    """Attention to words with corrections that know the cameras."""

    def __init__(
        self,
        attention: Any,
        context: ViewContext,
        *,
        conditions: int,
        rank: int,
        alpha: float | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.context = context
        self.scale = scale
        self.corrected = True
        _add_corrections(self, attention, conditions, rank, alpha)

    def forward(
        self,
        attention: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden_states: (B V, L, C), encoder_hidden_states: (B V, words, W)."""
        if encoder_hidden_states is None:
            raise ValueError("there are no words to attend to")
        told = self.context.conditions
        query = _corrected(self, attention, "q", hidden_states, told)
        key, value = (
            _corrected(self, attention, name, encoder_hidden_states, told) for name in ("k", "v")
        )
        return _out(self, attention, attend(query, key, value, attention.heads))


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, L, C), (B, S, C), (B, S, C) -> (B, L, C)."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    batch, _, length, _ = query.shape
    most = max(1, MOST_SCORES // (batch * heads * key.shape[2]))
    parts = [
        F.scaled_dot_product_attention(part, key, value)
        for part in (query.split(most, dim=2) if most < length else (query,))
    ]
    attended = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return attended.transpose(1, 2).flatten(2)


def _add_corrections(
    processor: nn.Module, attention: Any, told: int, rank: int, alpha: float | None
) -> None:
    for name in ("to_q", "to_k", "to_v"):
        layer = getattr(attention, name)
        correction = LowRank(layer.in_features + told, layer.out_features, rank, alpha)
        setattr(processor, f"{name}_lora", correction)
    out = attention.to_out[0]
    processor.to_out_lora = LowRank(out.in_features, out.out_features, rank, alpha)


def _corrected(
    processor: Any, attention: Any, name: str, x: torch.Tensor, told: torch.Tensor | None
) -> torch.Tensor:
    found = getattr(attention, f"to_{name}")(x)
    if processor.corrected:
        found = found + processor.scale * getattr(processor, f"to_{name}_lora")(x, told)
    return found


def _out(processor: Any, attention: Any, attended: torch.Tensor) -> torch.Tensor:
    linear, dropout = attention.to_out
    found = linear(attended)
    if processor.corrected:
        found = found + processor.scale * processor.to_out_lora(attended)
    return dropout(found)


def _joined(x: torch.Tensor, views: int) -> torch.Tensor:
    """(B V, L, C) -> (B, V L, C)."""
    return x.unflatten(0, (-1, views)).flatten(1, 2)


def _chosen(x: torch.Tensor, views: int, table: torch.Tensor) -> torch.Tensor:
    """(B V, L, C), (V, K) -> (B V, K L, C): of each view, what it looks at."""
    return x.unflatten(0, (-1, views))[:, table].flatten(0, 1).flatten(1, 2)
