"""What forms, shown after the steps of a sampler: small meshes, at a small share of the time.

A preview is the 76^3 level of the wavelet transform, four nodes of the result apart. It comes from
the real decoder where that is cheap enough for every step, and else from `PreviewDecoder`, which
learns from earlier jobs, or in the first one from the first step whose decode can be afforded.

The whole latent is decoded even then. With its cells in the cube alone, group norms came out
different, and a small decoder (32 channels) showed another shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from ..geometry import wavelets
from ..geometry.isosurface import marching_cubes
from ..geometry.transforms import apply_to_points, compose, index_to_cube
from ..models.wala.config import LATENT_SIDE, WalaConfig
from ..models.wala.winograd import PANEL
from ..protocol import MeshResult
from ..sampling import Step
from .resident import Loaded

SHARE = 0.15
"""Of the predicted time of the job without previews, that they may take together."""

_GUESSED_LINEAR = 0.1  # seconds per shape, until it was measured
# What a decode takes for each multiplication, of what a step takes for each, with a margin:
# convolutions take longer, and on a processor much less where `winograd` makes them (there 0.5 to
# 0.56 was measured at the published width).
_CAUTION, _CAUTION_WITH_WINOGRAD = 2.0, 0.65


_BESIDE = 6  # nodes at either end of a level of 76 that lie outside of the cube
SIDE = 76 - 2 * _BESIDE


def in_cube(level: np.ndarray) -> np.ndarray:
    """(76, 76, 76) of a level, whose node i is node 4 i - 24 of 256 -> its part in the cube,
    node i at 2 i / SIDE - 1, and one more where the cube ends."""
    inside = slice(_BESIDE, _BESIDE + SIDE + 1)
    return np.ascontiguousarray(level[inside, inside, inside])


class Previewer:
    """Decides after each step whether a preview is worth its time, and makes it.

    clock: seconds of now; elapsed: seconds that the job took before sampling.
    """

    def __init__(
        self,
        loaded: Loaded,
        to_source: np.ndarray,
        batch: int,
        elapsed: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loaded = loaded
        self._to_source = to_source
        self._batch = batch
        self._elapsed = elapsed
        self._clock = clock
        self._began = clock()
        self.seconds = 0.0
        self.shown = 0

    def after(self, step: Step) -> tuple[MeshResult, ...]:
        """The x_0 of `step` as meshes, one per variation; none where it would take too long."""
        if step.start.device.type == "cuda":
            torch.cuda.synchronize()  # else the time of the step would be taken for ours
        way = self._way(step)
        if way is None:
            return ()
        began = self._clock()
        fields = self._decoded(step.start) if way == "decoder" else self._estimated(step.start)
        meshes = tuple(self._mesh(field) for field in fields)
        taken = self._clock() - began
        self._loaded.pace[_pace(way)] = taken / self._batch
        self.seconds += taken
        self.shown += 1
        return meshes

    def _way(self, step: Step) -> str | None:
        """ "decoder", "estimate", or None for no preview now."""
        pace = self._loaded.pace
        per_step = (self._clock() - self._began - self.seconds) / (step.number + 1)
        guess = per_step * _decoder_share(self._loaded.model.config, _quick(self._loaded, step))
        full = self._batch * pace.get(_pace("decoder"), guess / self._batch)
        rest = self._batch * pace.get("decode", full / self._batch)
        total = self._elapsed + per_step * step.count + rest
        allowed = SHARE * total - self.seconds
        last = step.number + 1 == step.count  # the real decoder is about to show it in full
        if full * step.count <= SHARE * total and full <= allowed and not last:
            return "decoder"
        if self._loaded.previews.ready:
            estimate = self._batch * pace.get(_pace("estimate"), _GUESSED_LINEAR)
            return "estimate" if estimate <= allowed else None
        return "decoder" if full <= allowed and not last else None

    def _decoded(self, start: torch.Tensor) -> list[np.ndarray]:
        fields = []
        for latent in start:
            tree = self._loaded.tree(latent[None])
            if not self._loaded.previews.ready:
                self._loaded.previews.learn(self._loaded.codes(latent[None])[0], tree.low[0])
            fields.append(wavelets.synthesize_level(tree.low, tree.highs[0])[0].cpu().numpy())
        return fields

    def _estimated(self, start: torch.Tensor) -> list[np.ndarray]:
        low = self._loaded.previews(self._loaded.codes(start))
        return list(wavelets.synthesize_level(low, None).cpu().numpy())

    def _mesh(self, field: np.ndarray) -> MeshResult:
        vertices, faces = marching_cubes(in_cube(field), closed=True)
        placed = apply_to_points(compose(self._to_source, index_to_cube(SIDE)), vertices)
        return MeshResult(name="Preview", vertices=placed, faces=faces, to_source=self._to_source)


def _pace(way: str) -> str:
    return f"preview by {way}"


def _quick(loaded: Loaded, step: Step) -> bool:
    """Whether `winograd` makes the convolutions of the decoder at 46^3."""
    fine = loaded.model.config.autoencoder.widths[0]
    return step.start.device.type == "cpu" and loaded.dtype == torch.float32 and not fine % PANEL


def _decoder_share(config: WalaConfig, quick: bool) -> float:
    """How many sampling steps of one shape one decode is worth, guessed by multiplications."""
    fine, middle, coarse = config.autoencoder.widths
    decoder = 27.0 * (
        12**3 * 6 * coarse * coarse
        + 23**3 * (coarse * middle + 3 * middle * middle)
        + 46**3 * (middle * fine + 3 * fine * fine + fine * config.autoencoder.volume_channels)
    )
    denoiser = config.denoiser
    tokens = (LATENT_SIDE // denoiser.patch) ** 3
    per_token = 12 * denoiser.width**2 + (4 * denoiser.width**2 if denoiser.cross_attention else 0)
    convolutions = 27 * LATENT_SIDE**3 * 4 * denoiser.residual_blocks * denoiser.channels**2
    step = 2.0 * (denoiser.depth * tokens * per_token + convolutions)
    return (_CAUTION_WITH_WINOGRAD if quick else _CAUTION) * decoder / max(step, 1.0)
