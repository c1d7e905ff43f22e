"""A whole LDM3D: words to latents, latents to a picture and its depth."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ...sampling import Step
from . import images, words
from .config import Ldm3dConfig

_OVERLAP = 8
"""Cells of latents that neighbouring tiles share."""


@dataclass(eq=False)
class Ldm3d:
    """unet, vae (autoencoder), text_encoder: of diffusers and transformers, going around in x.

    Latents are float32 throughout, and so is the autoencoder: half precision would give the depth
    steps, since it has 11 bits. The others may be in half precision.
    schedule: makes a new scheduler, which keeps the state of one run.
    layouts: what imagines where everything is, for the U-Net to begin with; None: it begins with
    noise.
    """

    config: Ldm3dConfig
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    schedule: Callable[[], Any]
    layouts: Any = None

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    def factor(self) -> int:
        """Pixels along a side of a cell of the latents."""
        patch = getattr(self.vae.config, "patch_size", None)
        return patch or 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def turn(self) -> int:
        """Pixels: by multiples of it the world can be turned without any difference; widths that
        are multiples of it have no seam at all."""
        return self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def text_length(self) -> int:
        """Numbers that a text has, start and end included."""
        longest = self.text_encoder.config.max_position_embeddings
        return int(min(longest, self.tokenizer.model_max_length))

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(1, C, h, w) of a picture of that many pixels."""
        channels = self.vae.config.latent_channels
        return (1, channels, height // self.factor, width // self.factor)

    # ------------------------------------------------------------------------------------- words

    def read(self, prompt: str) -> words.Words:
        """The numbers of a text, and what of it did not fit."""
        return words.read(self.tokenizer, prompt, self.text_length)

    def encode(self, prompt: str) -> torch.Tensor:
        """Words -> (1, L, C) of the model's dtype."""
        numbers = self.read(prompt).numbers.to(self.device)
        # Given, since the table that the network keeps of them is no weight and not loaded.
        positions = torch.arange(numbers.shape[1], device=self.device)[None]
        return self.text_encoder(input_ids=numbers, position_ids=positions).last_hidden_state

    # ---------------------------------------------------------------------------------- sampling

    @torch.inference_mode()
    def sample(
        self,
        prompt: str,
        noise: torch.Tensor,
        steps: int,
        guidance: float,
        negative: str = "",
        seed: int = 0,
    ) -> Iterator[Step]:
        """Steps from `noise` (1, C, h, w), standard normal, to latents.

        seed: of the noise that some schedulers add, and of the layout. Guidance of at most 1 is
        none, and then `negative` is not read. A model with layouts takes the last of the steps.
        """
        scheduler = self.schedule()
        scheduler.set_timesteps(steps, device=self.device)
        guided = guidance > 1
        context = torch.cat(
            [self.encode(text) for text in ((negative, prompt) if guided else (prompt,))]
        )
        latents = noise.to(self.device) * scheduler.init_noise_sigma
        times = scheduler.timesteps
        if self.layouts is not None:
            times = _last(scheduler, self.layouts.config.start)
            latents = self._laid_out(prompt, noise, scheduler, times[0], seed)
        extra = step_arguments(scheduler, seed)
        count = len(times)
        for number, time in enumerate(times):
            given = scheduler.scale_model_input(latents, time)
            predicted = self._predict(given, time, context, guidance)
            before = latents
            latents = scheduler.step(predicted, time, latents, return_dict=False, **extra)[0]
            start = start_of(scheduler, given, predicted, time)
            yield Step(number, count, int(time), before, start, latents)

    def _laid_out(
        self, prompt: str, noise: torch.Tensor, scheduler: Any, time: torch.Tensor, seed: int
    ) -> torch.Tensor:
        """What the layouts imagine, noised to `time`."""
        imagined = self.layouts.imagine(prompt, seed).to(self.device)
        if imagined.shape != noise.shape:
            imagined = functional.interpolate(imagined, noise.shape[2:], mode="bilinear")
        noised: torch.Tensor = scheduler.add_noise(imagined, noise.to(self.device), time[None])
        return noised

    def _predict(
        self, given: torch.Tensor, time: torch.Tensor, context: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        """The guided prediction, float32."""
        batch = given.expand(len(context), -1, -1, -1).to(self.dtype)
        predicted = self.unet(batch, time, context, return_dict=False)[0].float()
        if len(context) == 1:
            return predicted
        null, wanted = predicted.chunk(2)
        return null + guidance * (wanted - null)

    # ---------------------------------------------------------------------------------- pictures

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor, tile: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Latents (1, C, h, w) -> picture (H, W, 3) and depth (H, W), float32, 0..1, row 0 on top.

        tile: cells of latents to decode at a time, all around without a seam; 0 for all at once.
        Tiles take less memory, and differ a little: norms are over a tile, not over all.
        """
        scaled = latents.float() / self.vae.config.scaling_factor
        scaled = scaled + (getattr(self.vae.config, "shift_factor", None) or 0.0)
        whole = self._tiled(scaled, tile) if 0 < tile < latents.shape[-1] else self._decoded(scaled)
        return images.split(whole[0].cpu().numpy(), self.config.depth_layout)

    def _decoded(self, scaled: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(scaled, return_dict=False)[0].float()

    def _tiled(self, scaled: torch.Tensor, tile: int) -> torch.Tensor:
        """Strips of the full height, that overlap and are faded into each other."""
        tile = max(2, tile)
        wide, factor = scaled.shape[-1], self.factor
        overlap = max(1, min(_OVERLAP, tile // 2, (wide - tile) // 2))
        found: torch.Tensor | None = None
        weights = torch.zeros(wide * factor, device=scaled.device)
        for begin in range(0, wide, tile):
            columns = torch.arange(begin - overlap, begin + tile + overlap, device=scaled.device)
            strip = self._decoded(scaled[..., columns % wide])
            # What a strip takes around its own edge is not what lies there: it fades out.
            fade = _fade(tile, overlap, factor, scaled.device)
            pixels = torch.arange(len(fade), device=scaled.device) + (begin - overlap) * factor
            if found is None:
                found = strip.new_zeros((*strip.shape[:-1], wide * factor))
            found.index_add_(-1, pixels % (wide * factor), strip * fade)
            weights.index_add_(0, pixels % (wide * factor), fade)
        assert found is not None  # noqa: S101 (a picture has columns)
        return found / weights

    def small_picture(self, start: torch.Tensor, most_cells: int) -> np.ndarray:
        """About what latents will show, from fewer of them: (H, W, 3) uint8, cheaply.

        most_cells: along x, of the latents that are decoded.
        """
        _, _, high, wide = start.shape
        parts = max(1, -(-wide // most_cells))
        size = (max(1, high // parts), max(1, wide // parts))
        small = torch.nn.functional.interpolate(start.float(), size, mode="area")
        return images.to_bytes(self.decode(small)[0])


def first_noise(model: Ldm3d, width: int, height: int, seed: int) -> torch.Tensor:
    """x_T of a seed, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(model.latent_shape(width, height), generator=generator)


def step_arguments(scheduler: Any, seed: int) -> dict[str, Any]:
    """What else this scheduler's step takes. The noise of its steps is the same on every device."""
    takes = inspect.signature(scheduler.step).parameters
    if "generator" not in takes:
        return {}
    return {"generator": torch.Generator().manual_seed(seed + (1 << 32))}


def _last(scheduler: Any, start: float) -> torch.Tensor:
    """The times from share `start` of the schedule on, at least one."""
    times: torch.Tensor = scheduler.timesteps
    left = times[times < start * scheduler.config.num_train_timesteps]
    left = left if len(left) else times[-1:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(len(times) - len(left))
    return left


def start_of(
    scheduler: Any, given: torch.Tensor, predicted: torch.Tensor, time: torch.Tensor
) -> torch.Tensor:
    """The x_0 that the network sees; given: what it was given, of variance about 1."""
    levels = scheduler.alphas_cumprod
    level = levels[min(max(int(time), 0), len(levels) - 1)].to(given.device)
    signal, noise = level.sqrt(), (1 - level).sqrt()
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "sample":
        return predicted
    if kind == "v_prediction":
        return signal * given - noise * predicted
    return (given - noise * predicted) / signal


def _fade(tile: int, overlap: int, factor: int, device: torch.device) -> torch.Tensor:
    """How much each column of a strip counts: rising over the overlap, and falling."""
    ramp = (torch.arange(2 * overlap * factor, device=device) + 0.5) / (2 * overlap * factor)
    # The outer half of an overlap lies beside what the strip wraps around to.
    ramp = (2 * ramp - 0.5).clamp(0, 1)
    flat = torch.ones((tile - 2 * overlap) * factor, device=device)
    return torch.cat([ramp, flat, ramp.flip(0)])
