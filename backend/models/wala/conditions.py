"""What WaLa generates from, as tokens (B, L, C): point clouds, voxels, and views of images.

Point encoder after PointNet (Qi et al. 2017), pooled by learned queries as in the Set Transformer
(Lee et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from .config import HIDDEN, ConditionConfig, PointEncoderConfig, VoxelEncoderConfig
from .layers import (
    CrossAttention,
    Mlp,
    ResidualBlock,
    SelfAttention,
    conv3,
    output_layers,
    pool,
    tokens_of,
)

HEADS = 16
STEM = (3, 64, 256, 1024)
LARGE_BLOCKS = 4


def point_encoder(config: PointEncoderConfig) -> SmallPointEncoder | LargePointEncoder:
    """The encoder that `config` asks for."""
    return LargePointEncoder(config) if config.large else SmallPointEncoder(config)


class PointStem(nn.Module):
    """Four layers on each point by itself: (B, N, 3) -> (B, N, width)."""

    def __init__(self, width: int, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.linear1 = nn.Linear(STEM[0], STEM[1])
        self.linear2 = nn.Linear(STEM[1], STEM[2])
        self.linear3 = nn.Linear(STEM[2], STEM[3])
        self.linear4 = nn.Linear(STEM[3], width)
        self.ln1 = nn.LayerNorm(STEM[1])
        self.ln2 = nn.LayerNorm(STEM[2])
        self.ln3 = nn.LayerNorm(STEM[3])
        self.ln4 = nn.LayerNorm(width)

    def stem(self, points: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.ln1(self.linear1(points)))
        x = self.activation(self.ln2(self.linear2(x)))
        x = self.activation(self.ln3(self.linear3(x)))
        return self.activation(self.ln4(self.linear4(x)))


class SmallPointEncoder(PointStem):
    """Published as PointNet_Simple. Points (B, N, 3) in [-1, 1] -> (B, queries, channels).

    The order of the points does not matter; the published models were trained on 25,000.
    """

    def __init__(self, config: PointEncoderConfig) -> None:
        super().__init__(config.width, partial(functional.relu, inplace=True))
        channels = config.channels
        self.pooling = Pooling(config.width, config.queries, bias=False)
        self.linear_f1 = nn.Linear(config.width, channels)
        self.linear_f2 = nn.Linear(channels, channels)
        self.linear_f3 = nn.Linear(channels, channels)
        self.ln_f1 = nn.LayerNorm(channels)
        self.ln_f2 = nn.LayerNorm(channels)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        x = self.pooling(self.stem(points))
        x = functional.relu(self.ln_f1(self.linear_f1(x)))
        x = functional.relu(self.ln_f2(self.linear_f2(x)))
        return self.linear_f3(x)


class LargePointEncoder(PointStem):
    """Published as PointNet_Large. Points (B, N, 3) in [-1, 1] -> (B, queries, channels)."""

    def __init__(self, config: PointEncoderConfig) -> None:
        super().__init__(config.width, partial(functional.silu, inplace=True))
        self.pooling = LargePooling(config)
        self.t_blocks = nn.ModuleList(PointBlock(config.channels) for _ in range(LARGE_BLOCKS))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        tokens = self.pooling(self.stem(points))
        for block in self.t_blocks:
            tokens = block(tokens)
        return tokens


class Pooling(nn.Module):
    """Learned queries attend to the points: (B, N, width) -> (B, queries, width)."""

    def __init__(self, width: int, queries: int, bias: bool) -> None:
        super().__init__()
        self.I = nn.Parameter(torch.randn(1, queries, width) * 0.02)
        self.mab0 = CrossAttention(width, HEADS, bias=bias)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.mab0(self.I.expand(len(points), -1, -1), points)


class LargePooling(Pooling):
    """The same, then a normalised perceptron: (B, N, width) -> (B, queries, channels)."""

    def __init__(self, config: PointEncoderConfig) -> None:
        super().__init__(config.width, config.queries, bias=True)
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(config.width, 4 * config.width, config.channels)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.norm(super().forward(points)))


class PointBlock(nn.Module):
    """A transformer block whose norms have no weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(width, HEADS, qkv_bias=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VoxelEncoder(nn.Module):
    """Occupancy (B, 1, R, R, R), 0 or 1 -> tokens (B, (R / 2)^3, channels), x outermost."""

    def __init__(self, config: VoxelEncoderConfig) -> None:
        super().__init__()
        self.in_conv = conv3(1, HIDDEN // 2)
        self.res_1 = ResidualBlock(HIDDEN // 2, HIDDEN, skip_kernel=3)
        self.res_2 = ResidualBlock(HIDDEN, HIDDEN)
        self.res_3 = ResidualBlock(HIDDEN, HIDDEN)
        self.down = pool()
        self.res_4 = ResidualBlock(HIDDEN, HIDDEN)
        self.res_5 = ResidualBlock(HIDDEN, HIDDEN)
        self.res_6 = ResidualBlock(HIDDEN, HIDDEN)
        self.out_conv = output_layers(HIDDEN, config.channels)

    def forward(self, occupancy: torch.Tensor) -> torch.Tensor:
        x = self.res_3(self.res_2(self.res_1(self.in_conv(occupancy))))
        x = self.res_6(self.res_5(self.res_4(self.down(x))))
        return tokens_of(self.out_conv(x))


class ConditionEmbedding(nn.Module):
    """Positions and cameras on the tokens of an encoder; views become one sequence.

    Its names in a checkpoint lie under "network." beside those of the denoiser. No condition is
    `features` of zeros, which gets positions and cameras too.
    """

    def __init__(self, config: ConditionConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.cond_pos_emb = nn.Parameter(torch.randn(1, config.tokens, channels) * 0.02)
        self.cond_mapping_network = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(channels, channels), nn.SiLU())
                for _ in range(config.mapping_layers)
            )
        )
        self.camera_emb = None if config.cameras is None else nn.Embedding(config.cameras, channels)

    def forward(self, features: torch.Tensor, cameras: torch.Tensor | None = None) -> torch.Tensor:
        """features (B, L, C), or (B, V, L, C) of V views -> (B, L, C) or (B, V L, C).

        cameras: (V,) int64, rows of the camera table. None: the views are given in the order of
        config.training_views, and without these the single view is camera 0.
        Raises ValueError when the number of views is not what the model was trained for.
        """
        views = features if features.dim() == 4 else features[:, None]
        self._check_number(views.shape[1])
        tokens = self.cond_mapping_network(views) + self.cond_pos_emb
        if self.camera_emb is not None:
            tokens = tokens + _vectors_of(self.camera_emb, views.shape[1], cameras)[:, None]
        return tokens.flatten(1, 2)

    def _check_number(self, views: int) -> None:
        expected = len(self.config.training_views) or 1
        if views != expected:
            raise ValueError(f"{views} views, the model was trained for {expected}")


def _vectors_of(table: nn.Embedding, views: int, cameras: torch.Tensor | None) -> torch.Tensor:
    """(V, C) of the cameras, the first V if None."""
    if cameras is None:
        return table.weight[:views]
    if cameras.shape != (views,):
        raise ValueError(f"cameras {tuple(cameras.shape)} for {views} views")
    return table.weight[cameras]
