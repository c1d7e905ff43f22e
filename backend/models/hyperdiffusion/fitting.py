"""Fitting fields to points: the published loop, and one that takes a fraction of its time.

Published: 97 batches of 2048 points are an epoch; Adam at a rate that falls when the loss has not
for ten epochs; at an end after 50 epochs without a better one. Ours: the same network, loss and
optimizer, at a rate that falls along a cosine over few epochs, in bfloat16 where the processor
multiplies in it, and gradients only of points that still have one. Rounds of it follow one another,
each twice as long, until the points that are kept for measuring agree well enough.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ...geometry.threads import thread_count
from .config import FieldConfig
from .field import OccupancyField, evaluate
from .occupancy import Samples
from .weights_vector import flatten, layout, token_sizes, unflatten

Report = Callable[[float, float], None]
"""Told (share of the longest way that is done, loss per point); may raise to stop the fit."""


@dataclass(frozen=True)
class Effort:
    """How long is fitted, and how exactly.

    epochs: of the first round, each of which draws as many points as a frame has, in batches of
    `batch`. rounds: at most so many, each with twice the epochs of the one before. enough: no
    further round once the intersection over union of measured points is this. rate: Adam's at the
    start of a round from random weights; start_rate: from a start vector, and of later rounds.
    """

    epochs: int = 10
    rounds: int = 3
    enough: float = 0.98
    rate: float = 1e-2
    start_rate: float = 4e-3
    batch: int = 2048


EFFORTS = {
    "fast": Effort(epochs=8, rounds=1),
    "good": Effort(epochs=16, rounds=3, enough=0.975),
    "best": Effort(epochs=32, rounds=4, enough=0.995),
}


@dataclass(frozen=True, eq=False)
class Fitted:
    """vector: (W,) float32, the weights. loss: mean cross entropy of a point in the last epoch.
    iou: intersection over union of the points for measuring (of all, where there are none), over
    all frames. steps: of the optimizer. seconds: of the processor, in this process."""

    vector: np.ndarray
    loss: float
    iou: float
    steps: int
    seconds: float


def fit(
    samples: Samples,
    config: FieldConfig | None = None,
    start: np.ndarray | None = None,
    effort: Effort = EFFORTS["good"],
    seed: int = 0,
    report: Report | None = None,
) -> Fitted:
    """A field of the samples, on the processor.

    config: by default of as many dimensions as the samples have, and as large as published fields.
    start: the vector (W,) to begin with; by default that of a model that is installed, else random
    weights. The same seed gives the same field on the same machine.
    """
    raise NotImplementedError


def fit_many(
    samples: Iterable[Samples],
    config: FieldConfig | None = None,
    start: np.ndarray | None = None,
    effort: Effort = EFFORTS["good"],
    seed: int = 0,
    device: str = "cpu",
    processes: int | None = None,
) -> Iterator[Fitted]:
    """Fields of many samples from one start, in order, as they are done: on the processor one
    process per core, on a card many at once."""
    raise NotImplementedError


def fit_published(
    samples: Samples,
    config: FieldConfig | None = None,
    start: np.ndarray | None = None,
    seed: int = 0,
    epochs: int = 5000,
    report: Report | None = None,
) -> Fitted:
    """As published; start: the first shape's weights, for the first one None."""
    raise NotImplementedError


def random_start(config: FieldConfig, seed: int = 0) -> np.ndarray:
    """(W,) float32: weights as a network of torch's linear layers begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return flatten(config, OccupancyField(config).state_dict()).numpy()


def known_start(config: FieldConfig) -> np.ndarray | None:
    """The start vector of the best installed model whose fields are such, None without one."""
    return None


def intersection_over_union(
    config: FieldConfig,
    vector: np.ndarray,
    points: np.ndarray,
    inside: np.ndarray,
    level: float = 0.0,
) -> float:
    """Of the field above `level` and of what is inside, over points (F, P, 3) of F frames,
    inside (F, P); 1 where both are empty."""
    raise NotImplementedError
