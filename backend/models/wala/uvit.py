"""The denoiser of WaLa: a U-ViT over latents (B, 4, 12^3), conditioned by tokens (B, L, C).

Convolutional residual blocks at full resolution around a transformer over patches; their outputs
before it are skips after it. After Hoogeboom et al. 2023, "simple diffusion", with the modulated
blocks of Peebles & Xie 2023, "Scalable Diffusion Models with Transformers".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from .config import LATENT_SIDE, UVitConfig
from .layers import CrossAttention, Mlp, SelfAttention, conv3, group_norm, output_layers, zeroed

MLP_RATIO = 4
TIME_FREQUENCIES = 256


KEPT_BYTES = 1 << 30
"""Keys and values of a condition that take more memory are computed anew in every step."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a condition means to the denoiser in every step; see UVit.prepare. Rows: (G, ...).

    contexts: what each block attends to: keys and values, or where these are too large the tokens
    that they are made of; None without cross-attention. placed: (G, channels, 12^3), what is added
    where it belongs.
    """

    contexts: Sequence[tuple[torch.Tensor, torch.Tensor] | torch.Tensor | None]
    time: torch.Tensor | None
    scale: torch.Tensor | None
    placed: torch.Tensor | None = None


class UVit(nn.Module):
    """Predicts from x_t what the model was trained to predict, shaped as x_t."""

    def __init__(self, config: UVitConfig) -> None:
        super().__init__()
        self.config = config
        width, channels = config.width, config.channels
        context = config.context_channels or 0
        tokens = (config.side // config.patch) ** 3
        patch_channels = config.patch**3 * channels
        self.pos_emb = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        if config.registers:
            self.register_emb = nn.Parameter(torch.randn(1, config.registers, width) * 0.02)
        self.t_embedder = TimeEmbedding(width)
        if config.residual_condition:
            self.res_cond_proj_layer = PooledCondition(context, width, config.residual_condition)
        if config.cross_attention:
            self.context_mlp = nn.Sequential(
                nn.Linear(context, width), nn.SiLU(), nn.Linear(width, width)
            )
        if config.time_condition:
            self.global_proj = PooledCondition(context, width, width)
        if config.margin:
            self.rim = nn.Parameter(torch.zeros(1, config.latent_channels, *[LATENT_SIDE] * 3))
        if config.placed:
            self.placed_in = conv3(context // config.patch**3, channels)
        self.conv_in = conv3(config.latent_channels, channels)
        self.input_blocks = nn.ModuleList(
            ModulatedBlock(config) for _ in range(config.residual_blocks)
        )
        self.to_patch_att_embedding_input = nn.Sequential(
            Patches(config.patch),
            nn.LayerNorm(patch_channels),
            nn.Linear(patch_channels, width),
        )
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.depth))
        self.to_patch_att_embedding_output = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, patch_channels),
            FromPatches(config.patch, config.side),
        )
        self.output_blocks = nn.ModuleList(
            ModulatedBlock(config, with_skip=True) for _ in range(config.residual_blocks)
        )
        self.out = output_layers(channels, config.latent_channels, asleep=True)

    def prepare(self, context: torch.Tensor | None) -> Prepared:
        """What does not change from step to step, of context (G, L, C)."""
        config = self.config
        placed = None
        if config.placed and context is not None:
            placed = self._inner(self.placed_in(self.placed_volume(context)))
            context = context[:, (LATENT_SIDE // config.patch) ** 3 :]
        scale = self.res_cond_proj_layer(context) if config.residual_condition else None
        time = self.global_proj(context) if config.time_condition else None
        if not config.cross_attention or context is None:
            return Prepared([None] * config.depth, time, scale, placed)
        tokens = self.context_mlp(context)
        if 2 * config.depth * tokens.nbytes > KEPT_BYTES:
            return Prepared([tokens] * config.depth, time, scale, placed)
        blocks = cast(list[TransformerBlock], self.blocks)
        return Prepared([block.keys_values(tokens) for block in blocks], time, scale, placed)

    def placed_volume(self, context: torch.Tensor) -> torch.Tensor:
        """The placed tokens of (G, L, C) as a volume (G, C / patch^3, 12, 12, 12)."""
        patch = self.config.patch
        return FromPatches(patch)(context[:, : (LATENT_SIDE // patch) ** 3])

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor | Prepared | None = None,
    ) -> torch.Tensor:
        """x (B, 4, 12, 12, 12), timesteps (B,) of the training schedule, context (G, L, C).

        G divides B: B / G rows after one another are under the same condition.
        """
        prepared = context if isinstance(context, Prepared) else self.prepare(context)
        time = self.t_embedder(timesteps, x.dtype)
        scale = _for_rows(prepared.scale, len(x))
        pooled = _for_rows(prepared.time, len(x))
        modulation = time if pooled is None else time + pooled

        x = self.conv_in(self._inner(x))
        if prepared.placed is not None:
            x = x + _repeated(prepared.placed, len(x))
        skips = []
        for block in self.input_blocks:
            x = block(x, time, scale)
            skips.append(x)
        tokens = self._with_registers(self.to_patch_att_embedding_input(x) + self.pos_emb)
        for block, attended in zip(self.blocks, prepared.contexts, strict=True):
            tokens = block(tokens, modulation, attended)
        x = self.to_patch_att_embedding_output(tokens[:, : self.pos_emb.shape[1]])
        for block in self.output_blocks:
            x = block(x, time, scale, skips.pop())
        return self._with_rim(self.out(x))

    def _inner(self, volume: torch.Tensor) -> torch.Tensor:
        """Without the margin."""
        if not self.config.margin:
            return volume
        inner = slice(self.config.margin, -self.config.margin)
        return volume[..., inner, inner, inner].contiguous()

    def _with_rim(self, inner: torch.Tensor) -> torch.Tensor:
        """With what is known of the margin."""
        margin = self.config.margin
        if not margin:
            return inner
        within = functional.pad(torch.ones_like(inner[:1, :1]), [margin] * 6)
        return functional.pad(inner, [margin] * 6) + self.rim.to(inner.dtype) * (1 - within)

    def _with_registers(self, tokens: torch.Tensor) -> torch.Tensor:
        if not self.config.registers:
            return tokens
        return torch.cat([tokens, self.register_emb.expand(len(tokens), -1, -1)], dim=1)


def _for_rows(vectors: torch.Tensor | None, rows: int) -> torch.Tensor | None:
    """(G, C) -> (rows, C), each for rows / G rows after one another."""
    if vectors is None or len(vectors) == rows:
        return vectors
    return vectors[:, None].expand(-1, rows // len(vectors), -1).flatten(0, 1)


def _repeated(volumes: torch.Tensor, rows: int) -> torch.Tensor:
    """(G, ...) -> (rows, ...), as `_for_rows` does."""
    return volumes if len(volumes) == rows else volumes.repeat_interleave(rows // len(volumes), 0)


class TimeEmbedding(nn.Module):
    """Timesteps (B,) -> (B, width): cosines, then sines, of 128 frequencies, through an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, timesteps: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        half = TIME_FREQUENCIES // 2
        steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
        angles = timesteps[:, None].float() * torch.exp(-math.log(10000) / half * steps)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype))


class PooledCondition(nn.Module):
    """Tokens (B, L, C) -> (B, width_out): a perceptron per token, their mean, another one."""

    def __init__(self, channels: int, width: int, width_out: int) -> None:
        super().__init__()
        self.proj_layer = nn.Sequential(
            nn.Linear(channels, width),
            nn.LayerNorm(width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.SiLU(),
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, width_out), nn.SiLU(), nn.Linear(width_out, width_out)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.proj_layer(tokens).mean(dim=1))


class ModulatedBlock(nn.Module):
    """A residual block that time shifts and scales, and the pooled condition scales.

    with_skip: takes the output of an input block and adds it, normalised, before the convolutions.
    """

    def __init__(self, config: UVitConfig, with_skip: bool = False) -> None:
        super().__init__()
        channels = config.channels
        self.in_norm = group_norm(channels)
        self.in_conv = conv3(channels, channels)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 2 * channels))
        self.out_layers = nn.Sequential(
            group_norm(channels), nn.SiLU(), nn.Dropout(0.0), zeroed(conv3(channels, channels))
        )
        if config.residual_condition:
            self.linear_res_emb = nn.Linear(config.residual_condition, channels)
        self.learned_skip = bool(config.skip_reduction)
        if with_skip:
            self.skip_norm = group_norm(channels)
            if config.skip_reduction:
                narrow = channels // config.skip_reduction
                self.skip_learn_f = nn.Sequential(
                    nn.Linear(channels, narrow),
                    nn.ReLU(),
                    nn.Linear(narrow, channels),
                    nn.Sigmoid(),
                )

    def forward(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        condition: torch.Tensor | None = None,
        skip: torch.Tensor | None = None,
    ) -> torch.Tensor:
        h = self.in_norm(x)
        if skip is not None:
            h = self._joined(h, self.skip_norm(skip))
        h = self.in_conv(functional.silu(h))
        norm, activation, dropout, conv = self.out_layers
        scale, shift = _over_space(self.emb_layers(time)).chunk(2, dim=1)
        h = norm(h) * (1 + scale) + shift
        if condition is not None:
            h = h * _over_space(self.linear_res_emb(condition))
        return x + conv(dropout(activation(h)))

    def _joined(self, h: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        if not self.learned_skip:
            return (h + skip) / math.sqrt(2)
        return h + _over_space(self.skip_learn_f(skip.mean(dim=(2, 3, 4)))) * skip


def _over_space(vectors: torch.Tensor) -> torch.Tensor:
    return vectors[:, :, None, None, None]


class Patches(nn.Module):
    """(B, C, X p, Y p, Z p) -> (B, X Y Z, p^3 C), the place within a patch before the channel."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        b, c, x, y, z = volume.shape
        p = self.side
        cells = volume.reshape(b, c, x // p, p, y // p, p, z // p, p)
        return cells.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(b, -1, p**3 * c)


class FromPatches(nn.Module):
    """The inverse of `Patches`; volume: the side of what comes out."""

    def __init__(self, side: int, volume: int = LATENT_SIDE) -> None:
        super().__init__()
        self.side, self.volume = side, volume

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        p, n = self.side, self.volume // self.side
        cells = tokens.reshape(len(tokens), n, n, n, p, p, p, -1)
        return cells.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(len(tokens), -1, *[self.volume] * 3)


class TransformerBlock(nn.Module):
    """Self-attention and MLP, both modulated; between them, cross-attention as it is."""

    def __init__(self, config: UVitConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(width, config.heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, MLP_RATIO * width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(width, 6 * width)))
        self.cross_attn = CrossAttention(width, config.heads) if config.cross_attention else None

    def keys_values(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What of the context (G, L, C) is attended to."""
        return None if self.cross_attn is None else self.cross_attn.keys_values(context)

    def forward(
        self,
        x: torch.Tensor,
        modulation: torch.Tensor,
        context: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        vectors = self.adaLN_modulation(modulation)[:, None].chunk(6, dim=-1)
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = vectors
        h = self.norm1(x) * (1 + scale_attention) + shift_attention
        x = x + gate_attention * self.attn(h)
        if self.cross_attn is not None:
            x = x + self.cross_attn(x, context)
        return x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)
