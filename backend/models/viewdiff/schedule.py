"""How much of the signal is left at each timestep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def alphas(schedule: Mapping[str, Any]) -> torch.Tensor:
    """(T,) float32: the share of the signal's variance at each timestep, of settings of diffusers'
    schedulers."""
    from diffusers import DDPMScheduler

    known = {key: value for key, value in schedule.items() if not key.startswith("_")}
    made = DDPMScheduler.from_config(known)
    return torch.as_tensor(made.alphas_cumprod, dtype=torch.float32)
