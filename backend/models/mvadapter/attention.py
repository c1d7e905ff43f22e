"""Attention over the rows of all views, and to a picture, beside the self-attention of a U-Net.

Follows `DecoupledMVRowSelfAttnProcessor2_0` of MV-Adapter (see NOTICE.txt): both have layers of
their own and see what self-attention sees, and all three are summed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

Seen = dict[str, torch.Tensor]
"""What self-attention was given, (B, L, C), by the name of its place in the network."""


@dataclass(eq=False)
class Told:
    """What one call of the network is about; all processors of a network share it.

    views: V, of each scene, which follow each other in the batch. reference: what the network saw
    in the picture of each scene, (S, L, C) by place; None: it is shown none. recording: where what
    it sees is to be kept; it is then one that knows of no other views and no picture.
    """

    views: int = 1
    reference: Seen | None = None
    recording: Seen | None = None


class ParallelAttention(nn.Module):
    """A processor of diffusers' self-attention.

    name: of its place. width: channels. reads_pictures: whether it has layers for a picture.
    Names of layers are the published ones.
    """

    def __init__(self, name: str, width: int, reads_pictures: bool, told: Told) -> None:
        super().__init__()
        self.name = name
        self.reads_pictures = reads_pictures
        self.told = told
        self.own = AttnProcessor2_0()
        for suffix in ("mv", "ref") if reads_pictures else ("mv",):
            for part in ("q", "k", "v"):
                self.add_module(f"to_{part}_{suffix}", nn.Linear(width, width, bias=False))
            # A list, as diffusers' own: its second element drops nothing.
            self.add_module(f"to_out_{suffix}", nn.ModuleList([nn.Linear(width, width)]))

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden_states: (S V, h w, C), h = w, of S scenes. Returns the same shape."""
        found: torch.Tensor = self.own(
            attn, hidden_states, encoder_hidden_states, attention_mask, temb
        )
        if self.told.recording is not None:
            self.told.recording[self.name] = hidden_states
            return found
        found = found + self._across(hidden_states, attn.heads)
        return found + self._to_picture(hidden_states, attn.heads) if self.reads_pictures else found

    def _across(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """Every pixel looks at the same row of all views: at the same height of a thing, where
        cameras have no perspective and stand at the height of its middle."""
        views, side = self.told.views, math.isqrt(x.shape[1])
        rows = x.unflatten(1, (side, side)).unflatten(0, (-1, views)).transpose(1, 2)
        flat = rows.flatten(0, 1).flatten(1, 2)  # (S h, V w, C)
        attended = self._attend("mv", flat, flat, heads)
        back = attended.unflatten(1, (views, side)).unflatten(0, (-1, side)).transpose(1, 2)
        return back.flatten(2, 3).flatten(0, 1)

    def _to_picture(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """All pixels of all views look at all of the picture of their scene."""
        if self.told.reference is None:
            # The published network is shown zeros, of which nothing but the last bias is left.
            return self._layer("to_out_ref.0").bias.expand_as(x)
        reference = self.told.reference[self.name].to(x.dtype)
        together = x.unflatten(0, (-1, self.told.views)).flatten(1, 2)
        return self._attend("ref", together, reference, heads).reshape(x.shape)

    def _attend(self, suffix: str, x: torch.Tensor, seen: torch.Tensor, heads: int) -> torch.Tensor:
        """x: (B, L, C); seen: (B, M, C). Returns (B, L, C)."""

        def by_head(part: str, of: torch.Tensor) -> torch.Tensor:
            made = self._layer(f"to_{part}_{suffix}")(of)
            return made.unflatten(-1, (heads, -1)).transpose(1, 2)

        found = F.scaled_dot_product_attention(
            by_head("q", x), by_head("k", seen), by_head("v", seen)
        )
        return self._layer(f"to_out_{suffix}.0")(found.transpose(1, 2).flatten(2))

    def _layer(self, name: str) -> Any:
        """One of the linear layers."""
        return self.get_submodule(name)


def add_to(unet: Any, reads_pictures: bool) -> Told:
    """Give every self-attention of diffusers' UNet2DConditionModel such a processor.

    Returns what they share. New weights are as torch makes them.
    """
    told = Told()
    processors = dict(unet.attn_processors)
    for place in processors:
        name = place.removesuffix(".processor")
        if name.endswith(".attn1"):
            width = unet.get_submodule(name).to_q.in_features
            processors[place] = ParallelAttention(name, width, reads_pictures, told)
    unet.set_attn_processor(processors)
    return told


def is_new(name: str) -> bool:
    """Whether a weight of a U-Net, by its name, is one of these layers'."""
    return ".processor." in name
