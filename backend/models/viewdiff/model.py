"""The denoiser: diffusers' U-Net, augmented."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .agreement import agreed
from .attention import CrossFrameAttention, TextAttention, ViewContext
from .block import ViewBlock
from .cameras import Cameras, conditions
from .config import ViewDiffConfig
from .first_guess import FirstGuess, GuessConfig, fronts_of, latents_of, v_of
from .pixels import PixelLatents
from .projection import Projection
from .schedule import alphas

# Networks are made here from sizes alone; this package shall not even try to tell of it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

NEW_LAYERS = (
    *("attn1.processor.", "attn2.processor.", "norm_cf.", "unproj_reproj_layer.", "combination."),
    *("norm_views.", "attn_views."),
)
"""Beginnings, after a transformer block's own, of the names of what is not the plain U-Net's."""


class ViewDiff(nn.Module):
    """Predicts what the schedule's prediction_type says, for all views of a scene at once.

    unet: a UNet2DConditionModel to build on, which is changed in place and keeps its weights; else
    one is made of config.unet, with weights by chance.
    """

    def __init__(self, config: ViewDiffConfig, unet: Any = None) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.config = config
        self.unet = (
            unet if unet is not None else UNet2DConditionModel.from_config(dict(config.unet))
        )
        self.context = augment(self.unet, config)
        _ = config.noising  # raises for a schedule that has none such
        if config.guess is not None and config.pixels is not None:
            made = GuessConfig.from_dict(config.guess)
            self.unet.first_guess = FirstGuess(made, PixelLatents(**config.pixels))
        self._levels: torch.Tensor | None = None

    @property
    def first_guess(self) -> FirstGuess | None:
        """What the denoiser is told, where it is told such."""
        return getattr(self.unet, "first_guess", None)

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def forward(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor | None,
        cameras: Cameras,
        *,
        novel: int = 0,
        told: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, V, C, h, w) -> the same shape.

        timesteps: (B, V) or whatever becomes that, 0 for views that are given. text: (B, V, L, D),
        or (B, 1, L, D) for the same words for all views; None for no words at all (a zero).
        novel: in training, how many views, the last, are not carried into space. told: the first
        guess, as `guessed` has it, where it is known already.
        Gradients of one call must be computed before the next, where blocks are computed again for
        them (gradient checkpointing).
        """
        batch = latents.shape[:2]
        timesteps = torch.as_tensor(timesteps, device=latents.device).expand(batch)
        with torch.autocast(latents.device.type, enabled=False):
            # Products of poses, which half precision would move by pixels.
            cameras = self._placed(cameras.to(latents.device))
            centred = cameras.centred()
            self._tell(cameras, centred, timesteps, novel)
        if text is None:
            width = self.unet.config.cross_attention_dim
            text = latents.new_zeros(1, 1, 1, width)
        text = text.to(latents).expand(*batch, -1, -1)
        seen = latents
        if self.first_guess is not None:
            if told is None:
                told = self.first_guess(latents, timesteps == 0, centred)
            seen = torch.cat([latents, told.to(latents.dtype)], dim=2)
            if self.config.projection.guided:
                self.context.fronts = fronts_of(told, centred)
        predicted = self.unet(seen.flatten(0, 1), timesteps.flatten(), text.flatten(0, 1))
        found: torch.Tensor = predicted.sample.unflatten(0, batch)
        if told is None or not self.config.guess_spread:
            return found
        return self._from_the_guess(found, latents, told, timesteps, centred)

    def guessed(self, latents: torch.Tensor, given: torch.Tensor, cameras: Cameras) -> torch.Tensor:
        """(B, V, CHANNELS, h, w): the first guess of latents of which some, (B, V) bool, are given.
        Raises ValueError for a model that makes none."""
        if self.first_guess is None:
            raise ValueError("this model has no first guess")
        with torch.autocast(latents.device.type, enabled=False):
            centred = self._placed(cameras.to(latents.device)).centred()
        found: torch.Tensor = self.first_guess(latents, given, centred)
        return found

    def _placed(self, cameras: Cameras) -> Cameras:
        """As the grid sees them: always from the same side first, where that is the reference."""
        return cameras.in_front() if self.config.reference == "front" else cameras

    def begun(self, noise: torch.Tensor, told: torch.Tensor | None) -> torch.Tensor:
        """(B, N, C, h, w): what the sampling of views begins with. noise: (B, N, C, h, w), normally
        distributed; told: what is guessed of them, as `guessed` has it."""
        if not self.config.guess_noise:
            return noise
        if self.first_guess is None or told is None:
            raise ValueError("views begin with a guess, and none is given to guess from")
        guess = latents_of(told, self.first_guess.pixels)
        level = self._levels_on(noise.device)[-1]
        return level.sqrt() * guess.to(noise) + (1 - level).sqrt() * noise

    def _levels_on(self, device: torch.device) -> torch.Tensor:
        """Of signal, by timestep."""
        # No buffer, which half precision would round: what is next to 1 must not become it. And
        # made when it is needed, for networks are made without memory before they are loaded.
        if self._levels is None or self._levels.device != device:
            self._levels = alphas(self.config.noising).to(device)
        return self._levels

    def _from_the_guess(
        self,
        found: torch.Tensor,
        latents: torch.Tensor,
        told: torch.Tensor,
        timesteps: torch.Tensor,
        cameras: Cameras,
    ) -> torch.Tensor:
        """(B, V, C, h, w) float32: the v of what the network tells as a change of the guess, in
        units of how far latents lie from it; where nothing was guessed, of what it tells."""
        assert self.first_guess is not None  # noqa: S101 - its word is here
        level = self._levels_on(latents.device)[timesteps.long()][..., None, None, None]
        known = told[:, :, -1:].float()
        spread = 1 + known * (self.config.guess_spread - 1)
        guess = latents_of(told, self.first_guess.pixels) * known
        views = guess + spread * found.float()
        if self.config.agreement:
            given = timesteps == 0
            views = torch.where(given[..., None, None, None], latents.float(), views)
            fronts = fronts_of(told, cameras)
            pixels, cells = self.first_guess.pixels, self.first_guess.cells
            views = agreed(views, fronts, given, cameras, pixels, self.config.agreement, cells)
        return v_of(latents.float(), views, level)

    def _tell(
        self, cameras: Cameras, centred: Cameras, timesteps: torch.Tensor, novel: int
    ) -> None:
        if timesteps.shape != cameras.world2cam.shape[:2]:
            have = tuple(cameras.world2cam.shape[:2])
            raise ValueError(f"{tuple(timesteps.shape)} pictures have {have} cameras")
        context, config = self.context, self.config
        context.views = cameras.views
        context.conditions = conditions(cameras, config.reference, config.intensity).flatten(0, 1)
        context.cameras = cameras if config.as_published else centred
        context.fronts = None
        context.timesteps = timesteps
        context.novel = novel

    def new_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those that the plain U-Net does not have, by name."""
        return ((name, value) for name, value in self.named_parameters() if is_new(name))

    def renderer_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the volume renderers, which are trained at a rate of their own."""
        return (pair for pair in self.named_parameters() if ".volume_renderer." in pair[0])


def is_new(name: str) -> bool:
    """Whether a weight of that name is not one of the plain U-Net."""
    if name.removeprefix("unet.").startswith("first_guess."):
        return True
    _, _, rest = name.partition(".transformer_blocks.")
    return rest.partition(".")[2].startswith(NEW_LAYERS)


def augment(unet: Any, config: ViewDiffConfig) -> ViewContext:
    """Change a UNet2DConditionModel in place: its weights stay, new layers do as little as their
    kind lets them. Returns the context that must be told the views before every call.

    Raises ValueError for a network that has no place for them.
    """
    context = ViewContext()
    unet.time_embedding.register_forward_hook(context.take_time)
    chosen = _places_of_projection(unet, config)
    found = 0
    for place, part in _parts_with_attention(unet):
        for transformer in part.attentions:
            for number, block in enumerate(transformer.transformer_blocks):
                projection = None
                if place in chosen:
                    projection = _projection(unet, block.dim, config)
                made = _block(unet, block, context, config, projection)
                transformer.register_forward_pre_hook(made.take_size)
                transformer.transformer_blocks[number] = made
                found += 1
    if not found:
        raise ValueError("the U-Net has no attention, so its views cannot know of each other")
    return context


def _parts_with_attention(unet: Any) -> Iterator[tuple[tuple[str, int], Any]]:
    """From the outside in and out again: (kind, which of its kind) and the block of the U-Net."""
    for kind in ("down", "mid", "up"):
        blocks = [unet.mid_block] if kind == "mid" else getattr(unet, f"{kind}_blocks")
        for number, part in enumerate(blocks):
            if part is not None and getattr(part, "attentions", None):
                yield (kind, number), part


def _places_of_projection(unet: Any, config: ViewDiffConfig) -> set[tuple[str, int]]:
    """The first ones of each kind, counted from the bottleneck."""
    places = [place for place, _ in _parts_with_attention(unet)]
    down = [place for place in places if place[0] == "down"][::-1][: config.projection_down]
    up = [place for place in places if place[0] == "up"][: config.projection_up]
    middle = [place for place in places if place[0] == "mid" and config.projection_mid]
    return {*down, *middle, *up}


def _projection(unet: Any, width: int, config: ViewDiffConfig) -> Projection:
    finest = min(unet.config.block_out_channels)
    grid = max(2, config.projection.grid * finest // width)
    return Projection(width, grid, _embedding(unet), config.projection, config.as_published)


def _block(
    unet: Any, block: Any, context: ViewContext, config: ViewDiffConfig, projection: Any
) -> ViewBlock:
    from diffusers.models.attention_processor import Attention

    told = {"conditions": config.conditions, "rank": config.rank}
    known = told | {"time_channels": config.time_channels, "embedding": _embedding(unet)}
    separate = None
    if config.attention == "separate":
        heads, width = block.attn1.heads, block.dim
        separate = Attention(width, heads=heads, dim_head=width // heads)
        nn.init.zeros_(separate.to_out[0].weight)
        nn.init.zeros_(separate.to_out[0].bias)
        processor = CrossFrameAttention(
            separate, context, **known, own_frame=False, other_frames=config.other_frames
        )
        separate.set_processor(processor)
    else:
        processor = CrossFrameAttention(
            block.attn1,
            context,
            **known,
            own_frame=config.own_frame,
            other_frames=config.other_frames,
        )
        block.attn1.set_processor(processor)
    if config.text_corrections:
        block.attn2.set_processor(TextAttention(block.attn2, context, **told))
    return ViewBlock(
        block, context, separate=separate, projection=projection, combine=config.combine
    )


def _embedding(unet: Any) -> int:
    """Channels of the embedding of timesteps."""
    return unet.time_embedding.linear_2.out_features
