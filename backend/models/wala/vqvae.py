"""The VQ-VAE of WaLa: packed wavelet trees (B, 64, 46^3) <-> latents (B, 4, 12^3).

Codebook after van den Oord et al. 2017, "Neural Discrete Representation Learning".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from .compact import CompactDecoder, CompactEncoder, TokenBasis
from .config import LATENT_SIDE, AutoencoderConfig
from .layers import ResidualBlock, attend, conv3, output_layers, pool, tokens_of, zeroed

HEADS = 4
HEAD_WIDTH = 64


@dataclass(frozen=True, eq=False)
class Quantised:
    """Latents on the codebook.

    latent: (B, C, 12, 12, 12), gradients pass straight through to what was quantised.
    indices: (B, 12, 12, 12) int64 codes; (B, 12, 12, 12, groups) of several groups.
    loss: scalar, codebook and commitment.
    """

    latent: torch.Tensor
    indices: torch.Tensor
    loss: torch.Tensor


class VqVae(nn.Module):
    """Encoder, codebook and decoder."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.basis: TokenBasis | None = None
        self.encoder: nn.Module
        self.decoder: nn.Module
        if config.compact is None:
            self.encoder, self.decoder = Encoder(config), Decoder(config)
        else:
            self.basis = TokenBasis(config.volume_channels, config.compact.components)
            self.encoder = CompactEncoder(config, config.compact)
            self.decoder = CompactDecoder(config, config.compact)
        self.quantize = Quantiser(config)

    def encode(self, volume: torch.Tensor) -> torch.Tensor:
        """Packed tree (B, 64, 46, 46, 46) -> latent (B, C, 12, 12, 12) before the codebook."""
        return self.encoder(volume if self.basis is None else self.basis.components(volume))

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Latent on the codebook (B, C, 12, 12, 12) -> packed tree (B, 64, 46, 46, 46)."""
        decoded = self.decoder(latent)
        return decoded if self.basis is None else self.basis.trees(decoded)

    def decode_unquantised(self, latent: torch.Tensor) -> torch.Tensor:
        """Any latent, a generated one for instance: snapped to the codebook, then decoded."""
        return self.decode(self.quantize(latent).latent)


class Quantiser(nn.Module):
    """The nearest code for every cell of a latent, for each group of its channels.

    The codes of group g are rows g * codes to (g + 1) * codes of the embedding.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.normalized = config.normalized
        self.commitment = config.commitment
        self.groups = config.groups
        self.number = config.codes
        size = config.latent_channels // config.groups
        self.embedding = nn.Embedding(config.groups * config.codes, size)
        if not config.normalized:
            nn.init.uniform_(self.embedding.weight, -1 / config.codes, 1 / config.codes)

    def codes(self) -> torch.Tensor:
        """The codebook (groups * codes, C / groups) as it is compared with."""
        return self._scaled(self.embedding.weight)

    def forward(self, latent: torch.Tensor) -> Quantised:
        z = self._scaled(latent.movedim(1, -1).unflatten(-1, (self.groups, -1)))
        codes = self.codes()
        indices = self._nearest(z.detach(), codes.detach())
        chosen = functional.embedding(indices, codes)
        commitment = functional.mse_loss(z, chosen.detach())
        loss = self.commitment * commitment + functional.mse_loss(chosen, z.detach())
        straight_through = (z + (chosen - z).detach()).flatten(-2)
        if self.groups == 1:
            indices = indices[..., 0]
        return Quantised(straight_through.movedim(-1, 1).contiguous(), indices, loss)

    def _nearest(self, z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """z (..., groups, C / groups) -> (..., groups) int64, rows of `codes`."""
        parts = [
            _nearest(z[..., g, :].flatten(0, -2), codes[g * self.number : (g + 1) * self.number])
            + g * self.number
            for g in range(self.groups)
        ]
        return torch.stack(parts, dim=-1).unflatten(0, z.shape[:-2])

    def _scaled(self, vectors: torch.Tensor) -> torch.Tensor:
        return functional.normalize(vectors, dim=-1) if self.normalized else vectors


def _nearest(vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """vectors (N, C), codes (K, C) -> (N,) int64 of the nearest code."""
    lengths = vectors.square().sum(1, keepdim=True) + codes.square().sum(1)
    return torch.argmin(lengths - 2 * vectors @ codes.T, dim=1)


class Coder(nn.Module):
    """What encoder and decoder share: transformer blocks at 12^3, if any."""

    def __init__(self, blocks: int, width: int) -> None:
        super().__init__()
        self.pos_emb = (
            nn.Parameter(torch.randn(1, LATENT_SIDE**3, width) * 0.02) if blocks else None
        )
        self.t_blocks = nn.ModuleList(TransformerBlock(width) for _ in range(blocks))

    def transform(self, volume: torch.Tensor) -> torch.Tensor:
        """(B, width, 12, 12, 12) -> the same shape."""
        if self.pos_emb is None:
            return volume
        tokens = tokens_of(volume) + self.pos_emb
        for block in self.t_blocks:
            tokens = block(tokens)
        return tokens.transpose(1, 2).unflatten(2, volume.shape[2:]).contiguous()


class Encoder(Coder):
    """(B, 64, 46^3) -> (B, C, 12^3)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        fine, middle, coarse = config.widths
        super().__init__(config.encoder_blocks, coarse)
        self.in_conv = conv3(config.volume_channels, fine)
        self.res_1, self.res_1_1 = _pair(fine, fine, config.dropout)
        self.down_1 = pool()
        self.res_2, self.res_2_1 = _pair(fine, middle, config.dropout)
        self.down_2 = pool()
        self.res_3, self.res_3_1 = _pair(middle, coarse, config.dropout)
        self.res_out = ResidualBlock(coarse, coarse, config.dropout)
        self.out_conv = output_layers(coarse, config.latent_channels)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        x = self.res_1_1(self.res_1(self.in_conv(volume)))
        x = self.res_2_1(self.res_2(self.down_1(x)))
        x = self.res_3_1(self.res_3(self.down_2(x)))
        return self.out_conv(self.res_out(self.transform(x)))


class Decoder(Coder):
    """(B, C, 12^3) -> (B, 64, 46^3)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        fine, middle, coarse = config.widths
        super().__init__(config.decoder_blocks, coarse)
        self.in_conv = conv3(config.latent_channels, coarse)
        self.res_in = ResidualBlock(coarse, coarse, config.dropout)
        self.res_1, self.res_1_1 = _pair(coarse, coarse, config.dropout)
        self.up_1 = nn.Upsample(scale_factor=2, mode="trilinear")
        self.res_2, self.res_2_1 = _pair(coarse, middle, config.dropout)
        self.up_2 = nn.Upsample(scale_factor=2, mode="trilinear")
        self.res_3, self.res_3_1 = _pair(middle, fine, config.dropout)
        self.out_conv = output_layers(fine, config.volume_channels)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        x = self.transform(self.res_in(self.in_conv(latent)))
        x = self.up_1(self.res_1_1(self.res_1(x)))
        # 12 came from 23 by rounding up.
        x = x[..., :-1, :-1, :-1].clone()
        x = self.up_2(self.res_2_1(self.res_2(x)))
        return self.out_conv(self.res_3_1(self.res_3(x)))


def _pair(width_in: int, width: int, dropout: float) -> tuple[ResidualBlock, ResidualBlock]:
    return ResidualBlock(width_in, width, dropout), ResidualBlock(width, width, dropout)


class TransformerBlock(nn.Module):
    """The MLP first, then attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = BlockMlp(width)
        self.att = BlockAttention(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mlp(x)
        return x + self.att(x)


class BlockMlp(nn.Module):
    """LayerNorm, Linear to four times the width, SiLU, Linear back: (B, L, width) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dense1 = nn.Linear(width, 4 * width)
        self.out = zeroed(nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(functional.silu(self.dense1(self.norm(x))))


class BlockAttention(nn.Module):
    """Queries and keys are normalised, and scaled, over all heads together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.to_q = nn.Sequential(nn.SiLU(), nn.Linear(width, inner))
        self.to_k = nn.Sequential(nn.SiLU(), nn.Linear(width, inner))
        self.to_v = nn.Sequential(nn.SiLU(), nn.Linear(width, inner))
        self.norm_q = nn.LayerNorm(inner)
        self.norm_k = nn.LayerNorm(inner)
        self.to_out = nn.Sequential(nn.SiLU(), nn.Linear(inner, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.norm(x)
        q, k, v = self.norm_q(self.to_q(n)), self.norm_k(self.to_k(n)), self.to_v(n)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
        return self.to_out(attend(q, k, v, scale=(HEADS * HEAD_WIDTH) ** -0.5))
