"""Diffusion over weight vectors: the published schedule, the loss, the two ways to sample.

The betas run from 1e-4 to 0.02 whatever the number of steps: with the published 500 a little of
the weights is left in the noisiest ones (8 %), though sampling begins at noise alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...sampling import Denoiser, Diffusion, Prediction, Step, Variance, ancestral, ddim

PUBLISHED_STEPS = 500


def weight_diffusion(steps: int = PUBLISHED_STEPS) -> Diffusion:
    """How the published models were trained; other numbers of steps have the same betas' ends."""
    # The linear schedule has these ends at 1000 steps, and more of each beta at fewer: undone here.
    return Diffusion(
        schedule="linear",
        steps=steps,
        scale=steps / 1000,
        prediction=Prediction.START,
        variance=Variance.LARGE,
    )


def losses(
    denoise: Denoiser,
    diffusion: Diffusion,
    start: torch.Tensor,
    timesteps: torch.Tensor,
    noise: torch.Tensor,
) -> torch.Tensor:
    """(B,): the mean squared error of what is predicted for the weights `start` (B, W)."""
    predicted = denoise(diffusion.noised(start, timesteps, noise), timesteps)
    return (predicted - start).square().mean(dim=1)


def sample(
    denoise: Denoiser, diffusion: Diffusion, x: torch.Tensor, count: int | None = None
) -> Iterator[Step]:
    """Weights of noise `x` (B, W), without adding noise: all steps as published, or `count`."""
    steps = diffusion.spaced(count or diffusion.steps)
    return ddim(denoise, steps, x, diffusion.prediction)


def sample_with_noise(
    denoise: Denoiser, diffusion: Diffusion, noise: Iterator[torch.Tensor], count: int | None = None
) -> Iterator[Step]:
    """The ancestral sampler: the first draw of `noise` is x_T, then one is taken per step."""
    steps = diffusion.spaced(count or diffusion.steps)
    return ancestral(denoise, steps, noise, diffusion.prediction, diffusion.variance)
