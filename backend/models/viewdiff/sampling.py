"""Views out of noise, all of a scene together: which steps, and which views at a time.

Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion
Models", as diffusers has it. Views that are given, or were made before, are never noised: at every
step they are at timestep 0 beside those that are being made.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...sampling import Step

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

STEPS = 10
GUIDANCE = 7.5
"""Of the first views; those that follow have them to go by, and none."""

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x (B, V, C, h, w), timesteps (B, V) int64) -> prediction, shaped as x. With guidance B is 2: a
scene of no words, then one of the words; else 1."""


@dataclass(frozen=True)
class Settings:
    """How to sample.

    steps: of the sampler. guidance: 1 for none. schedule: settings of diffusers' schedulers that
    the model was trained with. end: "zero", down to no noise at all; "sigma_min", to that of the
    first timestep, as the published code does.
    overwritten: as in the published code, which writes each step over what the sampler remembers of
    the one before when views are given. For comparison only.
    """

    schedule: Mapping[str, Any]
    steps: int = STEPS
    guidance: float = GUIDANCE
    end: str = "zero"
    overwritten: bool = False


def sample(
    denoise: Denoiser, noise: torch.Tensor, known: torch.Tensor | None, settings: Settings
) -> Iterator[Step]:
    """Steps from noise to views. Yields every step; the last one's `sample` is the result.

    noise: (N, C, h, w), of the views to make; known: (K, C, h, w), clean, those that come before
    them. What a step holds is of all K + N views, known ones as they are.
    """
    scheduler = solver(settings)
    count = 0 if known is None else len(known)
    x = noise if known is None else torch.cat([known.to(noise), noise])
    x = x.clone()
    clean = x[:count]
    timesteps = scheduler.timesteps.tolist()
    for number, timestep in enumerate(timesteps):
        predicted = _guided(denoise, x, _times(len(x), count, timestep, x.device), settings)
        moving = x[count:]
        if not settings.overwritten or not count:
            moving = moving.clone()
        stepped = scheduler.step(predicted[count:], timestep, moving).prev_sample
        start = torch.cat([clean, scheduler.model_outputs[-1]])
        before = x
        if settings.overwritten:
            before = x.clone()
            x[count:] = stepped
        else:
            x = torch.cat([clean, stepped])
        yield Step(number, len(timesteps), timestep, before, start, x)


def most_steps(schedule: Mapping[str, Any]) -> int:
    """Of the sampler: with more, one would be at the timestep of another."""
    return max(1, int(schedule.get("num_train_timesteps", 1000)) // 2)


def solver(settings: Settings) -> Any:
    """diffusers' scheduler with its timesteps set, the noisiest first. Raises ValueError for more
    steps than there are timesteps."""
    if settings.steps > (there := int(settings.schedule.get("num_train_timesteps", 1000))):
        raise ValueError(f"{settings.steps} steps, and {there} timesteps")
    from diffusers import UniPCMultistepScheduler  # here: it takes seconds to import

    scheduler = UniPCMultistepScheduler.from_config(
        dict(settings.schedule), solver_order=2, final_sigmas_type=settings.end
    )
    with warnings.catch_warnings():
        # Of torch's tensors and numpy 2, inside of diffusers.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        scheduler.set_timesteps(settings.steps)
    return scheduler


def _times(views: int, known: int, timestep: int, device: torch.device) -> torch.Tensor:
    times = torch.full((views,), timestep, dtype=torch.int64, device=device)
    times[:known] = 0
    return times


def _guided(
    denoise: Denoiser, x: torch.Tensor, times: torch.Tensor, settings: Settings
) -> torch.Tensor:
    """The prediction for x (V, C, h, w)."""
    if settings.guidance == 1:
        return denoise(x[None], times[None])[0]
    without, told = denoise(torch.stack([x, x]), torch.stack([times, times]))
    return without + settings.guidance * (told - without)


def first_noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    """(V, C, h, w) float32 of a seed: the same on every device, and of a view the same however
    many follow it."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(*shape[1:], generator=generator) for _ in range(shape[0])])


# ------------------------------------------------------------------------------- views at a time


@dataclass(frozen=True)
class Batch:
    """Views that are made in one go: numbers of `new` ones, beside the `known` ones."""

    new: tuple[int, ...]
    known: tuple[int, ...] = ()
    guided: bool = False

    @property
    def views(self) -> tuple[int, ...]:
        """In the order in which the network has them: known ones first."""
        return (*self.known, *self.new)


def in_one_go(count: int, given: int) -> list[Batch]:
    """All views beside the first `given` ones."""
    return [Batch(tuple(range(given, count)), tuple(range(given)), guided=True)]


def one_after_the_other(
    groups: Sequence[Sequence[int]], given: Sequence[int] = (), *, remembered: int = 1
) -> list[Batch]:
    """Each group beside the given views, all of the first group, and the last half of each of the
    `remembered` groups before it. Only the first group is guided by words: it settles what the
    others see.
    """
    batches: list[Batch] = []
    for number, group in enumerate(groups):
        known = [*given, *(groups[0] if number else ())]
        for before in groups[max(1, number - remembered) : number]:
            known += before[len(before) // 2 :]
        batches.append(Batch(tuple(group), tuple(known), guided=number == 0))
    return batches


def spread(views: Sequence[int], size: int) -> list[int]:
    """`size` of the views, evenly out of all, the first among them."""
    size = min(size, len(views))
    return [views[math.floor(number * len(views) / size)] for number in range(size)]


def along(views: Sequence[int], size: int) -> list[list[int]]:
    """Groups of `size` in the order of a path."""
    return [list(views[begin : begin + size]) for begin in range(0, len(views), size)]


def outward(views: Sequence[int], angles: Sequence[float], size: int) -> list[list[int]]:
    """Groups of `size` from the front on, then in turns further to its left and to its right: what
    was made first is never far, and both ways around end at the back.

    angles: of each of `views`, in degrees from the front, -180 to 180.
    """
    nearest = sorted(range(len(views)), key=lambda index: abs(angles[index]))
    front = sorted(nearest[:size], key=lambda index: angles[index])
    left = [index for index in nearest[size:] if angles[index] < 0]
    right = [index for index in nearest[size:] if angles[index] >= 0]
    groups = [front]
    for begin in range(0, max(len(left), len(right)), size):
        groups += [side[begin : begin + size] for side in (left, right) if side[begin:]]
    return [[views[index] for index in group] for group in groups if group]


def plan(
    count: int,
    given: int,
    *,
    most: int,
    size: int,
    path: bool = False,
    angles: Sequence[float] | None = None,
) -> list[Batch]:
    """In which batches to make views number `given` to `count` - 1, the others being given.

    most: views in one call of the network. size: views made in one go along a path. path: in their
    order, also where all at once would fit. angles: of all views on a ring, from the front, which
    are then made outward.
    """
    if not path and count <= most:
        return in_one_go(count, given)
    remembered = 1 if angles is None else 2
    shown = spread(range(given), max(1, most // 2))
    size = _size(most - len(shown), size, remembered)
    if len(shown) + _together(size, remembered) > most:
        shown = spread(shown, max(1, most - _together(size, remembered)))
    first = spread(range(given, count), size)
    rest = [number for number in range(given, count) if number not in first]
    if angles is None:
        return one_after_the_other([first, *along(rest, size)], shown)
    around = outward(rest, [angles[number] for number in rest], size) if rest else []
    return one_after_the_other([first, *around], shown, remembered=remembered)


def _size(room: int, most: int, remembered: int) -> int:
    """Of a group: the largest up to `most` of which batches fit into `room` views, at least 1."""
    fitting = (size for size in range(most, 1, -1) if _together(size, remembered) <= room)
    return next(fitting, 1)


def _together(size: int, remembered: int) -> int:
    """Views of a batch besides given ones: the first group, halves of earlier ones, its own."""
    return 2 * size + remembered * (size - size // 2)


def angles_from_front(azimuths: Sequence[float]) -> list[float]:
    """Degrees from the first azimuth, -180 to 180."""
    from_first = np.asarray(azimuths, float) - azimuths[0]
    return ((from_first + 180) % 360 - 180).tolist()
