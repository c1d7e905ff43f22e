"""A noise schedule with more noise towards its end: several views have more pixels that tell of
each other than one, so that it takes more noise to hide a thing.

Follows the "interpolated" mode of MV-Adapter's shifted schedule (see NOTICE.txt).
"""

from __future__ import annotations

from typing import Any

import numpy as np


def shifted_betas(alphas_cumprod: np.ndarray, shift: float) -> np.ndarray:
    """(T,) float64 betas of the schedule whose ratio of signal to noise is that of alphas_cumprod
    (T,) divided by 1 at the first timestep to `shift` at the last, evenly in its logarithm.
    """
    level = np.asarray(alphas_cumprod, np.float64)
    ratio = level / (1 - level) * shift ** -np.linspace(0, 1, len(level))
    shifted = ratio / (1 + ratio)
    return 1 - shifted / np.append(1.0, shifted[:-1])


def shifted_scheduler(scheduler: Any, shift: float) -> Any:
    """A scheduler of diffusers like `scheduler`, with the shifted schedule."""
    betas = shifted_betas(scheduler.alphas_cumprod.cpu().numpy(), shift)
    return type(scheduler).from_config(scheduler.config, trained_betas=betas.tolist())
