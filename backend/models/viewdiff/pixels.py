"""Pictures as the latents of a model that works on pixels themselves, without an autoencoder.

Blocks of `patch` x `patch` pixels become channels, so that the widest layers of a U-Net see a
quarter of the places. Colours are held against middle grey, which is 0, as far as a pixel shows the
thing; how far it does is a channel, and so may be its depth.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional

LAYOUTS = ("rgb", "rgba", "rgbad")
"""Channels: colours (on white), also the share of each pixel that is the thing, also depth."""

REACH = 1.6
"""Depth is told this far before and behind the middle of the world; things are no larger."""


@dataclass(frozen=True)
class PixelLatents:
    """How pictures become latents (..., C, H / patch, W / patch). layout: one of LAYOUTS."""

    patch: int = 2
    layout: str = "rgbad"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS or self.patch < 1:
            raise ValueError(f"{self.layout}, {self.patch}")

    @property
    def channels(self) -> int:
        """C."""
        return len(self.layout) * self.patch**2

    @property
    def has_alpha(self) -> bool:
        return self.layout != "rgb"

    @property
    def has_depth(self) -> bool:
        return self.layout == "rgbad"

    def to_dict(self) -> dict[str, Any]:
        """For model.json; `PixelLatents(**d)` is the inverse."""
        return asdict(self)

    def encode(
        self,
        pictures: torch.Tensor,
        depths: torch.Tensor | None = None,
        distance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """pictures: (..., H, W, 3 or 4) uint8 sRGB, straight alpha; without it all is the thing.

        depths: (..., H, W) along the camera's axis in the model's world, 0 or inf where nothing is;
        distance: (...) of each camera from the middle of that world. Without them depth is
        unknown, as it is of pictures that somebody gives. Sides are multiples of `patch`.
        """
        values = pictures.float() / 255
        colours = 2 * values[..., :3] - 1
        alpha = values[..., 3:] if values.shape[-1] == 4 else torch.ones_like(values[..., :1])
        if not self.has_alpha:
            channels = [alpha * colours + (1 - alpha)]
        else:
            channels = [alpha * colours, 2 * alpha - 1]
        if self.has_depth:
            channels.append(self._depth(depths, distance, alpha))
        planes = torch.cat(channels, dim=-1).movedim(-1, -3)
        return functional.pixel_unshuffle(planes, self.patch)

    @staticmethod
    def _depth(
        depths: torch.Tensor | None, distance: torch.Tensor | None, alpha: torch.Tensor
    ) -> torch.Tensor:
        """(..., H, W, 1) from -1, near, to 1, far or nothing; 0 where it is not known."""
        if depths is None or distance is None:
            return torch.zeros_like(alpha)
        known = torch.isfinite(depths) & (depths > 0)
        behind = torch.where(known, depths, torch.inf) - distance[..., None, None]
        return (behind / REACH).clamp(-1, 1)[..., None]

    def decode(
        self, latents: torch.Tensor, distance: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The inverse: pictures (..., H, W, 3 or 4) uint8, and where the layout has depth, and
        `distance` is given, depths (..., H, W) float32, 0 where the thing is not."""
        planes = functional.pixel_shuffle(latents.float(), self.patch).movedim(-3, -1)
        if not self.has_alpha:
            return _bytes((planes + 1) / 2), None
        alpha = ((planes[..., 3:4] + 1) / 2).clamp(0, 1)
        colours = ((planes[..., :3] / alpha.clamp(min=1 / 64)).clamp(-1, 1) + 1) / 2
        pictures = _bytes(torch.cat([colours, alpha], dim=-1))
        if not self.has_depth or distance is None:
            return pictures, None
        depths = planes[..., 4].clamp(min=-1) * REACH + distance[..., None, None]
        shown = (alpha[..., 0] >= 0.5) & (planes[..., 4] < 1)
        return pictures, torch.where(shown, depths, 0)


def _bytes(values: torch.Tensor) -> torch.Tensor:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)
