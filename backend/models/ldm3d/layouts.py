"""What is where, of words: a small diffusion over principal components of the latents of all.

At much noise a picture is known by few numbers, and these a perceptron learns in minutes where a
U-Net takes hours. So a panorama begins as what it imagines, noised again, and the U-Net takes it
from there. Components are of rooms whose walls face the middle of the picture or its edge; what is
imagined is turned by chance.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from ... import sampling
from ..component_denoiser import ComponentsDenoiser

DIFFUSION = sampling.Diffusion()
STEPS = 50
_WORD = re.compile(r"[a-z]+")


def said_in(text: str) -> set[str]:
    """Its words, in small letters."""
    return set(_WORD.findall(text.lower()))


class Layouts(ModelMixin, ConfigMixin):
    """Components at a time of the diffusion, to those without noise.

    words: that it knows. latents: (C, h, w). components: how many; width, depth: of the perceptron.
    start: share of the U-Net's time from which on it takes over. guidance: towards words.

    mean (C h w,), basis (components, C h w), scale (components,): of latents; see
    `component_denoiser.scale_of`. step (components,): what one stands for in the basis, 1 but where
    this is `rounded`.
    """

    mean: torch.Tensor
    basis: torch.Tensor
    scale: torch.Tensor
    step: torch.Tensor

    @register_to_config
    def __init__(
        self,
        words: Sequence[str],
        latents: Sequence[int],
        components: int = 384,
        width: int = 512,
        depth: int = 4,
        start: float = 0.6,
        guidance: float = 1.5,
    ) -> None:
        super().__init__()
        numbers = math.prod(latents)
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("basis", torch.zeros(components, numbers))
        self.register_buffer("scale", torch.ones(components))
        self.register_buffer("step", torch.ones(components))
        self.null = nn.Parameter(torch.randn(1, width) * 0.02)
        self.words_in = nn.Sequential(
            nn.Linear(len(words), width), nn.SiLU(), nn.Linear(width, width)
        )
        self.denoiser = ComponentsDenoiser(components, width, depth)

    def known(self, text: str) -> torch.Tensor:
        """(1, number of words) float32: 1 for those that are said."""
        said = said_in(text)
        return torch.tensor([[float(word in said) for word in self.config.words]])

    def components_of(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, components), float32."""
        flat = latents.float().flatten(1) - self.mean.float()
        return flat @ self.basis.float().mT * self.step.float() / self.scale.float()

    def latents_of(self, components: torch.Tensor) -> torch.Tensor:
        """(B, components) -> (B, C, h, w), float32."""
        sizes = components * self.scale.float() * self.step.float()
        flat = sizes @ self.basis.float() + self.mean.float()
        return flat.unflatten(1, tuple(self.config.latents))

    @torch.no_grad()
    def rounded(self) -> None:
        """Keep the basis, most of all weights, in 8 bits: what that takes from latents is a
        hundredth of the noise that they get."""
        step = self.basis.abs().amax(dim=1).clamp(min=1e-12) / 127
        self.basis = (self.basis / step[:, None]).round().to(torch.int8)
        self.step = self.step * step

    def condition(self, said: torch.Tensor) -> torch.Tensor:
        """(B, number of words) -> (B, width); of no known word, what stands for nothing."""
        told: torch.Tensor = self.words_in(said.to(self.null.dtype))
        return torch.where(said.any(dim=1, keepdim=True), told, self.null)

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """x (B, components) of noise; condition (B, width)."""
        found: torch.Tensor = self.denoiser(x, timesteps, condition)
        return found

    @torch.no_grad()
    def imagine(self, text: str, seed: int, guidance: float | None = None) -> torch.Tensor:
        """Latents (1, C, h, w) float32: a function of text and seed, drawn on the processor."""
        generator = torch.Generator().manual_seed(_OTHER + seed)
        device = self.null.device
        noise = torch.randn(1, len(self.scale), generator=generator).to(device)
        said = self.known(text).to(device)
        scale = self.config.guidance if guidance is None else guidance
        denoise = sampling.guided(self, self.condition(said), self.null, scale)
        *_, last = sampling.ddim(denoise, DIFFUSION.spaced(STEPS), noise, DIFFUSION.prediction)
        latents = self.latents_of(last.sample)
        turn = int(torch.randint(latents.shape[-1], (1,), generator=generator))
        return latents.roll(turn, -1)


_OTHER = 1 << 41
"""Added to seeds, so that these draws are not those of the U-Net's noise."""
