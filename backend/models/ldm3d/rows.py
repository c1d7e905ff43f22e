"""The U-Net of our own models: diffusers', which is also told what rows of the panorama are like.

A wall has one colour, and norms over the whole picture hide it: noise hides the colour of a cell,
but not the mean of a row. So each cell is also given the mean of its row and its height, and all
layers, beside the time, the means of bands of rows and of the words.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional

BANDS = 8
_HEIGHTS = 2


def channels_in(latents: int) -> int:
    """What a network for so many channels of latents has as `in_channels`."""
    return 2 * latents + _HEIGHTS


def told(latents: int, words: int) -> int:
    """What it has as `projection_class_embeddings_input_dim`; words: their width."""
    return BANDS * latents + words


class RowUNet(UNet2DConditionModel):
    """Called as UNet2DConditionModel, on latents (B, out_channels, h, w)."""

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        **more: Any,
    ) -> Any:
        """As UNet2DConditionModel."""
        rows = sample.mean(dim=3, keepdim=True)
        given = torch.cat([sample, rows.expand_as(sample), _heights(sample)], dim=1)
        bands = functional.adaptive_avg_pool2d(rows, (BANDS, 1)).flatten(1)
        words = encoder_hidden_states.mean(dim=1)
        return super().forward(
            given,
            timestep,
            encoder_hidden_states,
            class_labels=torch.cat([bands, words.to(bands.dtype)], dim=1),
            **more,
        )


def _heights(sample: torch.Tensor) -> torch.Tensor:
    """(B, 2, h, w): the sine and the cosine of the latitude, from the top."""
    batch, _, height, width = sample.shape
    latitude = math.pi * (0.5 - (torch.arange(height, device=sample.device) + 0.5) / height)
    both = torch.stack([latitude.sin(), latitude.cos()]).to(sample.dtype)
    return both[None, :, :, None].expand(batch, -1, -1, width)
