"""The autoencoder of our own models: a linear code of patches, and a small network that smooths it.

Every patch of pixels with depth becomes its first principal components; back from them, a network
that sees neighbouring patches adds what they miss. On two processor cores an AutoencoderKL of the
same cost learned the depth in three hours and not yet the colours; the components are known after
seconds, and better (see ARCHITECTURE.md).

Latents have a Gaussian posterior of one fixed width, so that what is decoded may be a little off.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import nn
from torch.nn import functional

from .circular import AroundConv2d

_SMALLEST = 1e-6
_STEP = 0.12
"""Of values from -1 to 1: how large a step at a border of patches may be to be no edge. With it and
_REACH, in pixels, ten rooms that are coded come out no farther from the truth (31.30 and 31.29 dB,
AbsRel 0.0107 and 0.0108), and steps at borders of painted ones are 1.5 instead of 3.6 times those
elsewhere. With a reach of 8, 0.08 dB are lost."""
_REACH = 3


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """(B, in_channels, H, W), -1 to 1, to latents (B, latent_channels, H / patch_size, W /
    patch_size) and back; the interface of diffusers' AutoencoderKL.

    width, blocks: of the network over patches. fine: channels of the one over pixels.
    spread: deviation of the posterior. evenness: 1 makes all latents as wide as one another, 0
    leaves them as wide as the components are.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 6,
        out_channels: int = 6,
        latent_channels: int = 12,
        patch_size: int = 8,
        width: int = 96,
        blocks: int = 3,
        fine: int = 16,
        spread: float = 0.05,
        evenness: float = 0.6,
        scaling_factor: float = 1.0,
        evened: bool = True,
    ) -> None:
        super().__init__()
        numbers = in_channels * patch_size**2
        self.analysis = nn.Conv2d(numbers, latent_channels, 1)
        self.synthesis = nn.Conv2d(latent_channels, out_channels * patch_size**2, 1)
        self.inner = AroundConv2d(latent_channels, width, 3, padding=1)
        self.residual = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.outer = nn.Conv2d(width, out_channels * patch_size**2, 1)
        last = AroundConv2d(fine, out_channels, 3, padding=1)
        self.sharpen = nn.Sequential(
            AroundConv2d(out_channels, fine, 3, padding=1),
            nn.SiLU(),
            AroundConv2d(fine, fine, 3, padding=1),
            nn.SiLU(),
            last,
        )
        _to_nothing(self.outer)
        _to_nothing(last)
        self.analysis.requires_grad_(False)

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """As AutoencoderKL."""
        with torch.autocast(x.device.type, enabled=False):
            mean = self.analysis(functional.pixel_unshuffle(x.float(), self.config.patch_size))
        log_variance = torch.full_like(mean, self.config.spread).log() * 2
        posterior = DiagonalGaussianDistribution(torch.cat([mean, log_variance], 1))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        """As AutoencoderKL."""
        hidden = self.inner(z)
        for block in self.residual:
            hidden = block(hidden)
        added = self.outer(functional.silu(hidden))
        with torch.autocast(z.device.type, enabled=False):  # it would show as steps of depth
            patches = self.synthesis(z.float()) + added.float()
        coarse = functional.pixel_shuffle(patches, self.config.patch_size)
        sample = coarse + self.sharpen(coarse)
        if self.config.evened and not self.training:
            sample = evened(sample, self.config.patch_size)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """There and back, by the mean of the posterior."""
        decoded: torch.Tensor = self.decode(self.encode(sample).latent_dist.mean).sample
        return decoded

    @torch.no_grad()
    def set_components(
        self, mean: torch.Tensor, covariance: torch.Tensor, importance: torch.Tensor
    ) -> None:
        """Code by the principal components of patches of this mean (N,) and covariance (N, N), N
        numbers in the order of `pixel_unshuffle`, each of them as important as (N,) says.
        """
        scale = importance.double().sqrt()
        weighed = covariance.double() * scale * scale[:, None]
        values, vectors = torch.linalg.eigh(weighed)
        count = self.config.latent_channels
        basis = vectors.flip(1)[:, :count]
        # Of either sign; with this one the same on every machine.
        basis = basis * basis.sum(dim=0).sign().where(basis.sum(dim=0) != 0, 1)
        wide = values.flip(0)[:count].clamp(min=_SMALLEST).sqrt()
        shrunk = wide**self.config.evenness
        forward = (basis * scale[:, None] / shrunk).T
        backward = basis * shrunk / scale[:, None]
        _set(self.analysis, forward, -(forward @ mean.double()))
        _set(self.synthesis, backward, mean.double())


def evened(sample: torch.Tensor, patch: int) -> torch.Tensor:
    """(B, C, H, W), around in x, with small steps between patches spread over their next pixels, as
    video decoders do. What a step is, slopes on both sides tell; large ones are edges, and stay."""
    columns = _evened_along(sample, torch.arange(0, sample.shape[-1], patch))
    rows = torch.arange(patch, sample.shape[-2], patch)
    return _evened_along(columns.transpose(-1, -2), rows).transpose(-1, -2)


def _evened_along(sample: torch.Tensor, borders: torch.Tensor) -> torch.Tensor:
    """Along the last axis; borders: (K,) numbers of the first pixels behind them."""
    size = sample.shape[-1]
    before, last, first, after = (sample[..., (borders + k) % size] for k in (-2, -1, 0, 1))
    step = (first - last) - ((last - before) + (after - first)) / 2
    half = step * torch.exp(-((step / _STEP) ** 2)) / 2
    made = sample.clone()
    for away in range(_REACH):
        share = 1 - (away + 0.5) / _REACH
        made[..., (borders - 1 - away) % size] += share * half
        made[..., (borders + away) % size] -= share * half
    return made


class _Block(nn.Module):
    """What it adds is nothing at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = AroundConv2d(width, width, 3, padding=1)
        self.second = AroundConv2d(width, width, 3, padding=1)
        _to_nothing(self.second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = functional.silu(self.first(functional.silu(x)))
        added: torch.Tensor = x + self.second(inner)
        return added


def _to_nothing(layer: nn.Conv2d) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _set(layer: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor) -> None:
    layer.load_state_dict({"weight": weight[:, :, None, None], "bias": bias})
