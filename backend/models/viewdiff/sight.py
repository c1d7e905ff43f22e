"""What convolutions that were trained on photographs see in given pictures, for the first guess."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..wala.efficientnet import CHANNELS, EfficientNetLite0

_PIXELS = 128
"""Along a side of what the convolutions are shown: their first strides halve it three times before
anything is told."""


class Sight(nn.Module):
    """forward(planes (B, K, 4, S, S), shown (B, K) bool) -> (B, K, channels, 16, 16), where things
    are, and (B, 1, whole), what they are together.

    planes: colours times alpha, from -1 to 1, and alpha likewise.
    """

    def __init__(self, channels: int, whole: int) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0()
        self.places = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in CHANNELS)
        self.mixed = nn.Conv2d(channels, channels, 3, padding=1)
        self.whole = nn.Sequential(
            nn.Linear(CHANNELS[-1], 2 * whole), nn.SiLU(), nn.Linear(2 * whole, whole)
        )

    def forward(
        self, planes: torch.Tensor, shown: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        told = self.backbone(self._on_white(planes.flatten(0, 1)))
        size = tuple(told[0].shape[-2:])
        places = self.places[0](told[0])
        for layer, features in zip(self.places[1:], told[1:], strict=True):
            wide = F.interpolate(layer(features), size, mode="bilinear", align_corners=False)
            places = places + wide
        places = self.mixed(F.silu(places)).unflatten(0, shown.shape)
        count = shown.sum(dim=1, keepdim=True).clamp(min=1)
        means = told[-1].mean(dim=(-2, -1)).unflatten(0, shown.shape) * shown[..., None]
        whole: torch.Tensor = self.whole(means.sum(dim=1, keepdim=True) / count[..., None])
        return places, whole

    @staticmethod
    def _on_white(planes: torch.Tensor) -> torch.Tensor:
        pictures = planes[:, :3] + (1 - planes[:, 3:]) / 2
        return F.interpolate(
            pictures, (_PIXELS, _PIXELS), mode="bilinear", antialias=True, align_corners=False
        )
