"""A whole WaLa model: encoder of the condition, denoiser, autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from ... import sampling
from ...geometry import wavelets
from .conditions import ConditionEmbedding, VoxelEncoder, point_encoder
from .config import LATENT_SIDE, WalaConfig
from .dinov2 import DinoV2
from .joint import JointEncoder
from .uvit import Prepared, UVit
from .vqvae import VqVae

RESOLUTION = 256

# Parts and where they lie in a published state dict; the first prefix that fits is the part's.
PUBLISHED_PREFIXES = {
    "autoencoder": "autoencoder.",
    "denoiser": "network.unet.",
    "embedding": "network.",
    "encoder": "encoder.",
    "image_encoder": "clip_model.dinov2.",
    "joint": "joint.",
}


class Wala(nn.Module):
    """What is generated is a latent (B, 4, 12, 12, 12); `field` makes it a distance field."""

    def __init__(self, config: WalaConfig) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = VqVae(config.autoencoder)
        self.denoiser = UVit(config.denoiser)
        self.embedding = ConditionEmbedding(config.condition) if config.condition else None
        self.encoder: nn.Module | None = None
        if config.points:
            self.encoder = point_encoder(config.points)
        if config.voxels:
            self.encoder = VoxelEncoder(config.voxels)
        self.image_encoder = DinoV2(config.image) if config.image else None
        self.joint = JointEncoder(config.joint) if config.joint else None

    # ------------------------------------------------------------------------------- condition

    def encode(self, source: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What the shape shall be like -> features, (B, L, C) or (B, V, L, C).

        source: points (B, N, 3) in [-1, 1]; voxels (B, 1, 16, 16, 16), 0 or 1; images
        (B, 3, 224, 224) in [-1, 1], or (B, V, 3, 224, 224) of V views. A model of joint conditions
        takes any of them together, by name; see JointEncoder.
        """
        if isinstance(source, Mapping):
            if self.joint is None:
                raise ValueError("this model takes one kind of condition, not several by name")
            return self.joint(source)
        if self.image_encoder is not None:
            features = self.image_encoder(source.flatten(0, -4))
            return features.unflatten(0, source.shape[:-3])
        if self.encoder is None:
            raise ValueError("this model generates without a condition")
        return self.encoder(source)

    def guided_denoiser(
        self, features: torch.Tensor | None, scale: float, cameras: torch.Tensor | None = None
    ) -> sampling.Denoiser:
        """The denoiser under the condition `features`, with classifier-free guidance by `scale`.

        scale: 1 follows the condition as trained, more exaggerates it. It counts only for models
        that were trained to do without. cameras: see ConditionEmbedding.
        """
        if self.joint is not None:
            return self._jointly_guided(features, scale)
        if self.embedding is None:
            return self.denoiser
        if features is None:
            raise ValueError("this model generates under a condition only")
        if features.stride(0) == 0:  # expanded: all shapes of the batch are under one condition
            features = features[:1]
        condition = self.embedding(features, cameras)
        null = self.embedding(torch.zeros_like(features), cameras)
        under = _prepared_once(self.denoiser)
        return sampling.guided(under, condition, null, scale if self.config.guided else 1)

    def _jointly_guided(self, features: torch.Tensor | None, scale: float) -> sampling.Denoiser:
        assert self.joint is not None  # noqa: S101 - for mypy
        if features is None:
            features, scale = self.joint.nothing(1), 1
        if features.stride(0) == 0:
            features = features[:1]
        under = _prepared_once(self.denoiser)
        return sampling.guided(under, features, self.joint.nothing_like(features), scale)

    # -------------------------------------------------------------------------------- sampling

    def latent_shape(self, batch: int = 1) -> tuple[int, ...]:
        """(batch, 4, 12, 12, 12)."""
        return (batch, self.config.autoencoder.latent_channels, *[LATENT_SIDE] * 3)

    def sample(
        self,
        denoise: sampling.Denoiser,
        steps: int,
        noise: Iterator[torch.Tensor],
        correct: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Iterator[sampling.Step]:
        """Steps from noise to a latent; see sampling.ancestral. Draws have `latent_shape`."""
        diffusion = self.config.diffusion
        spaced = diffusion.spaced(steps)
        return sampling.ancestral(
            denoise, spaced, noise, diffusion.prediction, diffusion.variance, correct
        )

    # ------------------------------------------------------------------------------------ field

    def tree(self, latent: torch.Tensor) -> wavelets.Tree:
        """Generated latents, snapped to the codebook -> wavelet trees, bands (B, n, n, n)."""
        packed = self.autoencoder.decode_unquantised(latent)
        return wavelets.unpack(packed, RESOLUTION, depth=self.config.autoencoder.levels)

    def field(self, latent: torch.Tensor) -> torch.Tensor:
        """Generated latents -> distances (B, 256, 256, 256), node i at 2 i / 256 - 1."""
        return wavelets.inverse(self.tree(latent), RESOLUTION)

    # ---------------------------------------------------------------------------------- weights

    def load_published(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take weights by their published names. Raises ValueError unless exactly all are there.

        Nothing is taken then. The filters of the wavelet transform that checkpoints repeat are not
        weights, and not among the names.
        """
        own = self.published_state_dict()
        missing = sorted(own.keys() - weights.keys())
        unexpected = sorted(weights.keys() - own.keys())
        reshaped = sorted(
            f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own.keys() & weights.keys()
            if own[name].shape != weights[name].shape
        )
        problems = [
            f"{title}: {', '.join(names)}"
            for title, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", reshaped),
            )
            if names
        ]
        if problems:
            raise ValueError("; ".join(problems))
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights[name])

    def published_state_dict(self) -> dict[str, torch.Tensor]:
        """The weights under their published names; the tensors are the model's own."""
        found = {}
        for part, prefix in PUBLISHED_PREFIXES.items():
            module = getattr(self, part)
            if module is not None:
                for name, tensor in module.state_dict().items():
                    found[prefix + name] = tensor
        return found


def _prepared_once(denoiser: UVit) -> sampling.ConditionalDenoiser:
    """`denoiser`, which prepares a condition in the first of the steps under it."""
    kept: list[tuple[torch.Tensor, Prepared]] = []

    def denoise(x: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        if not kept or kept[0][0] is not condition:
            kept[:] = [(condition, denoiser.prepare(condition))]
        return denoiser(x, timesteps, kept[0][1])

    return denoise
