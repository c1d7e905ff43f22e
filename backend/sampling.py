"""Diffusion: noise schedules, what a network may predict, the sampler, guidance. For every model.

Ho et al. 2020, "Denoising Diffusion Probabilistic Models"; Nichol & Dhariwal 2021, "Improved
Denoising Diffusion Probabilistic Models" (cosine schedule, spaced steps); Song et al. 2021,
"Denoising Diffusion Implicit Models"; Salimans & Ho 2022 (velocity); Ho & Salimans 2022,
"Classifier-Free Diffusion Guidance"; Lin et al. 2024, "Common Diffusion Noise Schedules and Sample
Steps are Flawed" (the names of the spacings).

Tables are float64; a step computes in the dtype of the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
import torch

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x_t (B, ...), timestep (B,) int64 of the training schedule) -> prediction, shaped as x_t."""


class Prediction(Enum):
    """What a network predicts: x_0, the noise, sqrt(abar) noise - sqrt(1 - abar) x_0, or the mean
    of x_{t-1}."""

    START = "start"
    NOISE = "noise"
    VELOCITY = "velocity"
    PREVIOUS = "previous"


class Variance(Enum):
    """Of x_{t-1} given x_t. SMALL: that of the posterior given x_0; LARGE: beta."""

    SMALL = "small"
    LARGE = "large"


# -------------------------------------------------------------------------------------- schedules


def cosine_betas(steps: int = 1000) -> np.ndarray:
    """(steps,) float64: the squared cosine of Nichol & Dhariwal, each beta at most 0.999."""
    level = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - level[1:] / level[:-1], 0.999)


def linear_betas(steps: int = 1000, scale: float = 1.0) -> np.ndarray:
    """(steps,) float64: 1e-4 .. 0.02 at 1000 steps, as much noise in all at any other number."""
    factor = scale * 1000 / steps
    return np.linspace(factor * 1e-4, factor * 0.02, steps)


def scaled_linear_betas(
    steps: int = 1000, first: float = 0.00085, last: float = 0.012
) -> np.ndarray:
    """(steps,) float64: linear in the square root, as in latent diffusion."""
    return np.linspace(math.sqrt(first), math.sqrt(last), steps) ** 2


@dataclass(frozen=True)
class Diffusion:
    """How a model was trained. schedule: "cosine", "linear" or "scaled_linear".

    steps: of training; timesteps are 0 .. steps - 1. scale: of linear; first, last: the betas at
    the ends of scaled_linear.
    """

    schedule: str = "cosine"
    steps: int = 1000
    scale: float = 1.0
    prediction: Prediction = Prediction.START
    variance: Variance = Variance.SMALL
    first: float = 0.00085
    last: float = 0.012

    def betas(self) -> np.ndarray:
        """(steps,) float64."""
        if self.schedule == "cosine":
            return cosine_betas(self.steps)
        if self.schedule == "linear":
            return linear_betas(self.steps, self.scale)
        if self.schedule == "scaled_linear":
            return scaled_linear_betas(self.steps, self.first, self.last)
        raise ValueError(f"unknown schedule {self.schedule!r}")

    def spaced(self, count: int, spacing: str = "linspace") -> Steps:
        """`count` steps, spread evenly over the training schedule; spacing: one of SPACINGS."""
        return Steps.of(self.betas(), SPACINGS[spacing](self.steps, count))

    def noised(
        self, start: torch.Tensor, timesteps: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """x_t of `start` (B, ...) at `timesteps` (B,) int64."""
        level = np.cumprod(1 - self.betas())
        shape = (-1, *[1] * (start.dim() - 1))

        def at(table: np.ndarray) -> torch.Tensor:
            values = torch.from_numpy(table).to(start.device)[timesteps]
            return values.to(start.dtype).reshape(shape)

        return at(np.sqrt(level)) * start + at(np.sqrt(1 - level)) * noise


def spaced_timesteps(steps: int, count: int) -> list[int]:
    """`count` of 0 .. steps - 1, ascending, ends included: (1000, 5) -> 0, 250, 500, 749, 999.

    The stride is added up as a float and rounded to even, as the published samplers do. One step
    starts from pure noise at the last timestep.
    """
    _check_count(steps, count)
    if count == 1:
        return [steps - 1]
    stride, at, chosen = (steps - 1) / (count - 1), 0.0, []
    for _ in range(count):
        chosen.append(round(at))
        at += stride
    return chosen


def trailing_timesteps(steps: int, count: int) -> list[int]:
    """`count` of 0 .. steps - 1, ascending, the last included: (1000, 5) -> 199, 399, .., 999."""
    _check_count(steps, count)
    return [round(steps - k * (steps / count)) - 1 for k in reversed(range(count))]


def leading_timesteps(steps: int, count: int) -> list[int]:
    """`count` of 0 .. steps - 1, ascending, from 1 on: (1000, 5) -> 1, 201, .., 801.

    The noisiest are left out, as in the first latent diffusion models. All steps: from 0 on.
    """
    _check_count(steps, count)
    stride = steps // count
    return [min(1, stride - 1) + k * stride for k in range(count)]


def _check_count(steps: int, count: int) -> None:
    if not 1 <= count <= steps:
        raise ValueError(f"{count} sampling steps: expected 1 to {steps}")


SPACINGS: dict[str, Callable[[int, int], list[int]]] = {
    "linspace": spaced_timesteps,
    "trailing": trailing_timesteps,
    "leading": leading_timesteps,
}


@dataclass(frozen=True, eq=False)
class Steps:
    """Tables of the kept steps, ascending in noise: (count,) float64 each, index 0 the last taken.

    timesteps: of the training schedule, which is what networks are given.
    """

    timesteps: tuple[int, ...]
    betas: np.ndarray
    alphas_cumprod: np.ndarray

    @staticmethod
    def of(training_betas: np.ndarray, timesteps: Sequence[int]) -> Steps:
        """The process that visits only `timesteps` (ascending) of a training schedule."""
        level = np.cumprod(1 - training_betas)[list(timesteps)]
        betas = 1 - level / np.append(1.0, level[:-1])
        # Multiplied up again from the betas, as the published samplers do.
        return Steps(tuple(timesteps), betas, np.cumprod(1 - betas))

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def _alphas_cumprod_before(self) -> np.ndarray:
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def start_weight(self) -> np.ndarray:
        """Of x_0 in the mean of x_{t-1} given x_0 and x_t."""
        before = self._alphas_cumprod_before
        return self.betas * np.sqrt(before) / (1 - self.alphas_cumprod)

    @cached_property
    def sample_weight(self) -> np.ndarray:
        """Of x_t in the mean of x_{t-1} given x_0 and x_t."""
        before = self._alphas_cumprod_before
        return (1 - before) * np.sqrt(1 - self.betas) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_variance(self) -> np.ndarray:
        """Of x_{t-1} given x_0 and x_t; the first is 0."""
        return self.betas * (1 - self._alphas_cumprod_before) / (1 - self.alphas_cumprod)

    def log_variance(self, variance: Variance) -> np.ndarray:
        """Logarithms, the first replaced by that of the second posterior variance (it is 0)."""
        posterior = self.posterior_variance
        first = posterior[1] if len(self) > 1 else self.betas[0]
        rest = posterior if variance is Variance.SMALL else self.betas
        return np.log(np.append(first, rest[1:]))

    def start_of(
        self, kind: Prediction, index: int, x: torch.Tensor, predicted: torch.Tensor
    ) -> torch.Tensor:
        """x_0 that `predicted` stands for, at x_t = `x` of step `index`."""
        level = float(self.alphas_cumprod[index])
        if kind is Prediction.START:
            return predicted
        if kind is Prediction.NOISE:
            return math.sqrt(1 / level) * x - math.sqrt(1 / level - 1) * predicted
        if kind is Prediction.VELOCITY:
            return math.sqrt(level) * x - math.sqrt(1 - level) * predicted
        rest = float(self.sample_weight[index]) * x
        return (predicted - rest) / float(self.start_weight[index])

    def noise_of(self, index: int, x: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """The noise in x_t = `x` of step `index`, were x_0 `start`."""
        level = float(self.alphas_cumprod[index])
        return (x - math.sqrt(level) * start) / math.sqrt(1 - level)


# ---------------------------------------------------------------------------------------- sampler


@dataclass(frozen=True, eq=False)
class Step:
    """One step taken. number: 0 first, of `count`; timestep: of the training schedule.

    x: x_t before the step; start: the x_0 that the network sees in it; sample: x_{t-1}.
    """

    number: int
    count: int
    timestep: int
    x: torch.Tensor
    start: torch.Tensor
    sample: torch.Tensor


def gaussian(
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[torch.Tensor]:
    """Draws of standard normal noise, without end, float32."""
    while True:
        yield torch.randn(*shape, generator=generator, device=device)


def streams(seeds: Sequence[int], count: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Draws (rows, count), each row from a generator of its seed on the processor, so that it is
    the same on every device and whichever others are drawn with it."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        yield torch.stack([torch.randn(count, generator=one) for one in generators]).to(device)


def ancestral(
    denoise: Denoiser,
    steps: Steps,
    noise: Iterator[torch.Tensor],
    prediction: Prediction = Prediction.START,
    variance: Variance = Variance.SMALL,
    correct: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[Step]:
    """Sample x_{t-1} given x_t down all steps (Ho et al. 2020, algorithm 2). Yields every step.

    noise: the first draw is x_T, (B, ...), then one per step is taken, the last one too though it
    is not added: so the draws are those of the published samplers. The last step's `sample` is the
    result.
    correct: applied to the x_0 of each step, to put in what is known of it. What it puts in follows
    its own posterior down the steps, and is the result there.
    """
    x = next(noise)
    deviations = np.exp(0.5 * steps.log_variance(variance))
    for number, index in enumerate(reversed(range(len(steps)))):
        timestep = steps.timesteps[index]
        timesteps = torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)
        start = steps.start_of(prediction, index, x, denoise(x, timesteps))
        if correct is not None:
            start = correct(start)
        sample = float(steps.start_weight[index]) * start + float(steps.sample_weight[index]) * x
        draw = next(noise)
        if index:
            sample = sample + float(deviations[index]) * draw
        yield Step(number, len(steps), timestep, x, start, sample)
        x = sample


def ddim(
    denoise: Denoiser,
    steps: Steps,
    x: torch.Tensor,
    prediction: Prediction = Prediction.NOISE,
    final: float = 1.0,
    eta: float = 0.0,
    fresh: Iterator[torch.Tensor] | None = None,
) -> Iterator[Step]:
    """Denoise x_T = `x` (B, ...) down all steps (Song et al. 2021), as a rule adding no noise.

    final: alphas_cumprod that the last step leads to. 1 is x_0; Stable Diffusion and its kin stop
    at timestep 0 of training. Yields every step; the last one's `sample` is the result.
    eta: above 0, this share of the ancestral sampler's small deviation is added in `fresh` noise,
    one draw per step, the last one too though it adds nothing where `final` is 1.
    """
    if eta and fresh is None:
        raise ValueError("eta above 0 needs fresh noise")
    before = np.append(final, steps.alphas_cumprod[:-1])
    for number, index in enumerate(reversed(range(len(steps)))):
        timestep = steps.timesteps[index]
        timesteps = torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)
        predicted = denoise(x, timesteps)
        start = steps.start_of(prediction, index, x, predicted)
        known = prediction is Prediction.NOISE
        noise = predicted if known else steps.noise_of(index, x, start)
        level, here = float(before[index]), float(steps.alphas_cumprod[index])
        deviation = eta * math.sqrt((1 - level) / (1 - here) * (1 - here / level)) if eta else 0.0
        sample = math.sqrt(level) * start + math.sqrt(1 - level - deviation**2) * noise
        if eta and fresh is not None:
            sample = sample + deviation * next(fresh)
        yield Step(number, len(steps), timestep, x, start, sample)
        x = sample


# --------------------------------------------------------------------------------------- guidance

ConditionalDenoiser = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(x_t, timestep, condition (B, ...)) -> prediction."""


def guided(
    model: ConditionalDenoiser, condition: torch.Tensor, null: torch.Tensor, scale: float
) -> Denoiser:
    """Classifier-free guidance: unconditional + scale (conditional - unconditional).

    condition, null: (B, ...), the null condition being what the model was trained to know as none.
    Both go through the model as one batch, null first; at scale 1 and 0 only the one that counts.
    """
    if scale in (0, 1):
        only = condition if scale == 1 else null
        return lambda x, timesteps: model(x, timesteps, only)
    both = torch.cat([null, condition])

    def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        predicted = model(torch.cat([x, x]), torch.cat([timesteps, timesteps]), both)
        unconditional, conditional = predicted.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return denoise
