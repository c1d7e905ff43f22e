"""From a grid in space to pictures: volume rendering with a small network at every sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .unprojection import contract

_MOST_SAMPLES = 1 << 21
"""That are rendered at once: 16 channels of them have 128 MB."""
_GROUND = 1.0
_SUREST = 0.99
"""The share of a ray that can end at a surface."""


class VolumeRenderer(nn.Module):
    """Features along rays through a grid of `channels`.

    samples: between near and far. background_share: where given, the grid is contracted, and as
    many samples lie beyond far, up to far / disparity_at_infinity. Weights have the names and the
    layout of the published ones: those of the network are [out, in], of the colour [in, out].
    """

    bg_color: torch.Tensor

    def __init__(
        self,
        channels: int,
        samples: int,
        background_share: float | None = None,
        disparity_at_infinity: float = 0.5,
    ) -> None:
        super().__init__()
        self.samples = samples
        self.background_share = background_share
        self.disparity_at_infinity = disparity_at_infinity
        bound = (6 / channels) ** 0.5  # keeps the size of what goes through rectified layers
        self.mlp_weights = nn.Parameter(torch.empty(3, channels, channels).uniform_(-bound, bound))
        self.mlp_biases = nn.Parameter(torch.zeros(3, channels))
        self.weight_opacity = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))
        self.bias_opacity = nn.Parameter(torch.full((1,), -5.0))
        self.weight_color = nn.Parameter(torch.empty(channels, channels).uniform_(-bound, bound))
        self.bias_color = nn.Parameter(torch.zeros(channels))
        self.register_buffer("bg_color", torch.full((channels,), _GROUND))

    def forward(
        self,
        volume: torch.Tensor,
        origins: torch.Tensor,
        directions: torch.Tensor,
        told: torch.Tensor,
        near: torch.Tensor,
        far: torch.Tensor,
        ends: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features (B, R, C) of R rays, how much is in their way (B, R), and its depth (B, R).

        volume: (B, z, y, x, C), over [-1, 1]^3. origins, directions: (B, R, 3). told: (B, R, C), of
        the ray's direction. near, far: (B, R). ends: (B, R, 2), how much of each ray ends at a
        surface that is known, 0 to 1, and where; the network's own opacity is added to that. In
        training, noise is added to the opacity.
        """
        volume = volume.permute(0, 4, 1, 2, 3).contiguous()
        total = self.samples * (2 if self.background_share is not None else 1)
        most = max(1, _MOST_SAMPLES // (total * len(volume)))
        of_rays = [origins, directions, told, near, far]
        if ends is not None:
            of_rays.append(ends)
        parts = [
            self._render(volume, *part)
            for part in zip(*(x.split(most, dim=1) for x in of_rays), strict=True)
        ]
        features, mask, depth = (torch.cat(x, dim=1) for x in zip(*parts, strict=True))
        return features, mask, depth

    def _render(
        self,
        volume: torch.Tensor,
        origins: torch.Tensor,
        directions: torch.Tensor,
        told: torch.Tensor,
        near: torch.Tensor,
        far: torch.Tensor,
        ends: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        depths, steps = self._depths(near, far)
        points = origins[..., None, :] + directions[..., None, :] * depths[..., None]
        if self.background_share is not None:
            points = contract(points, self.background_share)
        x = _sampled(volume, points)
        x = F.relu(F.linear(x, self.mlp_weights[0], self.mlp_biases[0]))
        x = F.relu(F.linear(x, self.mlp_weights[1], self.mlp_biases[1]))
        opacity = x @ self.weight_opacity + self.bias_opacity
        if self.training:
            opacity = opacity + torch.randn_like(opacity)
        passed = F.softplus(opacity) * steps
        if ends is not None:
            passed = passed + _ended(ends, depths, steps[..., :1])
        way = torch.cumsum(passed, dim=-1)
        left = torch.exp(-way)
        weights = F.pad(left[..., :-1], (1, 0), value=1.0) - left
        x = F.linear(x, self.mlp_weights[2], self.mlp_biases[2]) + told[..., None, :]
        colours = torch.sigmoid(F.relu(x) @ self.weight_color + self.bias_color)
        features = (weights[..., None] * colours).sum(dim=-2) + left[..., -1:] * self.bg_color
        return features, 1 - left[..., -1], (weights * depths).sum(dim=-1)

    def _depths(self, near: torch.Tensor, far: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the samples of each ray, and how far each is from the one before: (B, R, S)."""
        share = torch.linspace(0, 1, self.samples, device=near.device, dtype=near.dtype)
        depths = near[..., None] + (far - near)[..., None] * share
        first = ((far - near) / (self.samples - 1))[..., None]
        if self.background_share is not None:
            beyond = torch.arange(1, self.samples + 1, device=near.device, dtype=near.dtype)
            disparity = (self.disparity_at_infinity - 1) * beyond / self.samples + 1
            depths = torch.cat([depths, far[..., None] / disparity], dim=-1)
        return depths, torch.cat([first, depths.diff(dim=-1)], dim=-1)


def _ended(ends: torch.Tensor, depths: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """(B, R, S): what stands in the way at each sample of rays that end, as `ends` says, about one
    `step` around their surface."""
    share, place = ends.split(1, dim=-1)
    near = F.softmax(-0.5 * ((depths - place) / step) ** 2, dim=-1)
    return -torch.log1p(-share.clamp(max=_SUREST)) * near


def _sampled(volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(B, C, D, H, W), (B, R, S, 3) -> (B, R, S, C): trilinear, nothing outside [-1, 1]^3."""
    found = F.grid_sample(volume, points[:, :, :, None], align_corners=False)
    size = points.new_tensor([volume.shape[4], volume.shape[3], volume.shape[2]])
    places = (points + 1) / 2 * size - 0.5
    inside = ((places >= 0) & (places < size)).all(dim=-1, keepdim=True)
    return found[..., 0].permute(0, 2, 3, 1) * inside
