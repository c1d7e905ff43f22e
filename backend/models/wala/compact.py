"""A small autoencoder of packed wavelet trees: a linear code, to which convolutions add.

Every 2^3 cells of a tree (512 coefficients) become K components in a fixed basis, the principal
components of shapes; so a tree is a volume (B, K, 24^3). From there a linear code leads to the
latent (B, C, 12^3) and back, the best that there is for the training shapes; small residual
networks beside it add what is not linear. Nothing here sees further than a few cells, and empty
space is zero everywhere, so a part of a volume can be computed by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from .config import AutoencoderConfig, CompactConfig
from .layers import zeroed

CELLS = 2
"""Of a tree, along a side of a token."""
TOKENS = 24
_TREE = 46
_MARGIN = (TOKENS * CELLS - _TREE) // 2


class TokenBasis(nn.Module):
    """Packed trees (B, 64, 46^3) <-> components (B, K, 24^3), which are zero in empty space.

    empty: the low band of empty space. analysis (512, K), synthesis (K, 512): their product is a
    projection. A token's coefficients are ordered by channel, then by its cells (x, y, z).
    """

    empty: torch.Tensor
    analysis: torch.Tensor
    synthesis: torch.Tensor

    def __init__(self, channels: int, components: int) -> None:
        super().__init__()
        size = channels * CELLS**3
        self.register_buffer("empty", torch.zeros(()))
        self.register_buffer("analysis", torch.zeros(size, components))
        self.register_buffer("synthesis", torch.zeros(components, size))

    def components(self, trees: torch.Tensor) -> torch.Tensor:
        """(B, 64, 46, 46, 46) -> (B, K, 24, 24, 24)."""
        return self.of_tokens(tokens_of_trees(trees, self.empty))

    def of_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, X, Y, Z, 512), any part of them -> their components (B, K, X, Y, Z)."""
        return _exact(functional.linear, tokens, self.analysis.T).movedim(-1, 1)

    def trees(self, components: torch.Tensor) -> torch.Tensor:
        """(B, K, 24, 24, 24) -> (B, 64, 46, 46, 46)."""
        tokens = _exact(functional.linear, components.movedim(1, -1), self.synthesis.T)
        cells = tokens.unflatten(-1, (-1, CELLS, CELLS, CELLS)).permute(0, 4, 1, 5, 2, 6, 3, 7)
        volume = cells.flatten(6, 7).flatten(4, 5).flatten(2, 3)
        volume = functional.pad(volume, [-_MARGIN] * 6).contiguous()
        volume[:, 0] += self.empty.to(volume.dtype)
        return volume


def tokens_of_trees(trees: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """(B, 64, 46, 46, 46) -> (B, 24, 24, 24, 512)."""
    low = trees[:, :1] - empty.to(trees.dtype)
    volume = functional.pad(torch.cat([low, trees[:, 1:]], dim=1), [_MARGIN] * 6)
    for axis in (2, 4, 6):
        volume = volume.unflatten(axis, (TOKENS, CELLS))
    return volume.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def _exact(
    product: Callable[..., torch.Tensor], values: torch.Tensor, weight: torch.Tensor, **how: int
) -> torch.Tensor:
    """`product` in float32 at least: a thin wall is a hundredth of what the first component is."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    with torch.autocast(values.device.type, enabled=False):
        return product(values.to(dtype), weight.to(dtype), **how)


class Block(nn.Module):
    """Two convolutions beside the identity; no norm, which would carry what is elsewhere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(width, width, 3, padding=1)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1)
        zeroed(self.conv2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(functional.silu(self.conv1(functional.silu(x))))


class CompactEncoder(nn.Module):
    """Components (B, K, 2n, 2m, 2l) -> latent (B, C, n, m, l)."""

    gain: torch.Tensor

    def __init__(self, config: AutoencoderConfig, sizes: CompactConfig) -> None:
        super().__init__()
        fine, coarse = sizes.widths
        at_fine, at_coarse = sizes.encoder_blocks
        self.register_buffer("gain", torch.ones(sizes.components))
        self.linear = nn.Conv3d(sizes.components, config.latent_channels, 2, stride=2, bias=False)
        self.body = nn.Sequential(
            nn.Conv3d(sizes.components, fine, 1),
            *(Block(fine) for _ in range(at_fine)),
            nn.Conv3d(fine, coarse, 2, stride=2),
            *(Block(coarse) for _ in range(at_coarse)),
            nn.SiLU(),
        )
        self.out = nn.Conv3d(coarse, config.latent_channels, 1)
        zeroed(self.out)

    def forward(self, components: torch.Tensor) -> torch.Tensor:
        linear = _exact(functional.conv3d, components, self.linear.weight, stride=2)
        return linear + self.out(self.body(components * _along(self.gain)))

    @torch.no_grad()
    def divide(self, scale: torch.Tensor) -> None:
        """Make latents smaller by `scale` (C,)."""
        self.linear.weight /= _rows(scale)
        self.out.weight /= _rows(scale)
        _bias(self.out).div_(scale)


class CompactDecoder(nn.Module):
    """Latent (B, C, n, m, l) -> components (B, K, 2n, 2m, 2l)."""

    gain: torch.Tensor

    def __init__(self, config: AutoencoderConfig, sizes: CompactConfig) -> None:
        super().__init__()
        fine, coarse = sizes.widths
        at_coarse, at_fine = sizes.decoder_blocks
        self.register_buffer("gain", torch.ones(sizes.components))
        self.linear = nn.ConvTranspose3d(
            config.latent_channels, sizes.components, 2, stride=2, bias=False
        )
        self.into = nn.Conv3d(config.latent_channels, coarse, 1)
        self.body = nn.Sequential(
            *(Block(coarse) for _ in range(at_coarse)),
            nn.ConvTranspose3d(coarse, fine, 2, stride=2),
            *(Block(fine) for _ in range(at_fine)),
            nn.SiLU(),
        )
        self.out = nn.Conv3d(fine, sizes.components, 1)
        zeroed(self.out)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        found = self.out(self.body(self.into(latent)))
        linear = _exact(functional.conv_transpose3d, latent, self.linear.weight, stride=2)
        return linear + found / _along(self.gain)

    @torch.no_grad()
    def multiply(self, scale: torch.Tensor) -> None:
        """Take latents that are smaller by `scale` (C,)."""
        self.linear.weight *= _rows(scale)
        self.into.weight *= _columns(scale)


def _bias(layer: nn.Conv3d) -> torch.Tensor:
    assert layer.bias is not None  # noqa: S101 - it was made with one
    return layer.bias


def _along(gain: torch.Tensor) -> torch.Tensor:
    return gain[:, None, None, None]


def _rows(scale: torch.Tensor) -> torch.Tensor:
    return scale[:, None, None, None, None]


def _columns(scale: torch.Tensor) -> torch.Tensor:
    return scale[None, :, None, None, None]
