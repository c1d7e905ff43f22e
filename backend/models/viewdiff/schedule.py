"""How much of the signal is left at each timestep."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import torch


def alphas(schedule: Mapping[str, Any]) -> torch.Tensor:
    """(T,) float32: the share of the signal's variance at each timestep, of settings of diffusers'
    schedulers."""
    from diffusers import DDPMScheduler

    known = {key: value for key, value in schedule.items() if not key.startswith("_")}
    with torch.device("cpu"):  # also where networks are made without memory
        made = DDPMScheduler.from_config(known)
        return torch.as_tensor(made.alphas_cumprod, dtype=torch.float32)


def until(schedule: Mapping[str, Any], noise: float) -> dict[str, Any]:
    """The schedule up to the timestep at which there is `noise` to a signal of 1, both standard
    deviations; its timesteps mean what they meant. Raises ValueError where that is none."""
    return dict(_until(json.dumps(dict(schedule), sort_keys=True), noise))


@functools.lru_cache(maxsize=8)
def _until(schedule: str, noise: float) -> Mapping[str, Any]:
    whole = json.loads(schedule)
    levels = alphas(whole).double()
    ratio = ((1 - levels) / levels).sqrt()
    count = int((ratio <= noise).sum())
    if count < 2:
        raise ValueError(f"the schedule has no timestep with {noise} of noise")
    before = torch.cat([levels.new_ones(1), levels[: count - 1]])
    betas = 1 - levels[:count] / before
    # Spacing is diffusers' own, which begins with the last timestep: there the guess is.
    kept = {name: whole[name] for name in ("prediction_type",) if name in whole}
    return {**kept, "num_train_timesteps": count, "trained_betas": betas.tolist()}
