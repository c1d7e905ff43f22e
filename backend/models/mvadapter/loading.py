"""An MV-Adapter model from the files of the store.

Its own file has what is added to a Stable Diffusion 2.1, under the published names: layers of
attention by their names in the U-Net, the encoder of the cameras as diffusers names it. The Stable
Diffusion is the first model that it needs. Every weight must be there, and none too many.
"""

from __future__ import annotations

from typing import Any

import torch

from ... import weights
from ...weights import Installed
from ..ldm3d import loading as parts
from ..wala.loading import mapped, mismatches, unfit
from . import attention
from .cameras import CHANNELS
from .config import MVAdapterConfig
from .model import MVAdapter
from .schedule import shifted_scheduler


def config_of(installed: Installed) -> MVAdapterConfig:
    """Raises BadInput for a description that is none."""
    try:
        config = MVAdapterConfig.from_dict(installed.config)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise unfit(installed, f"{type(error).__name__}: {error}") from None
    if config.reads_pictures != ("image-to-views" in installed.tasks):
        raise unfit(installed, "its tasks and whether it reads pictures contradict each other")
    return config


def base_of(installed: Installed) -> Installed:
    """The Stable Diffusion that it is added to. Raises NotInstalled, BadInput."""
    if not installed.needs:
        raise unfit(installed, "it does not name the Stable Diffusion that it is added to")
    return weights.require(installed.needs[0])


def load(installed: Installed, device: torch.device, dtype: torch.dtype) -> MVAdapter:
    """The model on `device` for inference; the autoencoder and the encoder of the cameras in
    float32, the others as `dtype`.

    Raises BadInput for files that are missing or do not fit their descriptions or each other,
    NotInstalled where the Stable Diffusion is not here.
    """
    config = config_of(installed)
    base = base_of(installed)
    unet = parts.network(base, "unet", device, dtype)
    vae = parts.network(base, "vae", device, torch.float32)
    text_encoder = parts.network(base, "text_encoder", device, dtype)
    made = parts.schedule_of(base)
    try:
        with torch.device("meta"):
            told = attention.add_to(unet, config.reads_pictures)
            encoder = camera_encoder(unet)
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise unfit(installed, f"it cannot be added to {base.id}: {error}") from None
    _take(installed, base, unet, encoder, device, dtype)
    model = MVAdapter(
        config,
        unet.eval().requires_grad_(False),
        told,
        encoder.eval().requires_grad_(False),
        vae,
        text_encoder,
        parts.tokenizer_of(base),
        lambda: shifted_scheduler(made(), config.shift),
    )
    _check(installed, model)
    return model


def camera_encoder(unet: Any) -> Any:
    """The network that tells a U-Net the cameras. forward((V, 6, S, S)) -> a list of (V, C, h, w),
    one for each level, finest first."""
    from diffusers import T2IAdapter

    return T2IAdapter(
        in_channels=CHANNELS,
        channels=list(unet.config.block_out_channels),
        num_res_blocks=unet.config.layers_per_block,
        downscale_factor=8,
    )


def _take(
    installed: Installed,
    base: Installed,
    unet: Any,
    encoder: Any,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Put the weights of the file into the new layers. Raises BadInput unless they fit exactly."""
    new = {name: one for name, one in unet.state_dict().items() if attention.is_new(name)}
    own = {**new, **encoder.state_dict()}
    have = dict(mapped(installed))
    problems = mismatches(
        {name: tuple(tensor.shape) for name, tensor in own.items()},
        {name: tuple(tensor.shape) for name, tensor in have.items()},
    )
    if problems:
        raise unfit(installed, f"it does not fit {base.id}: {problems}")
    layers = {name: have[name].to(device=device, dtype=dtype) for name in new}
    unet.load_state_dict(layers, strict=False, assign=True)
    rest = {name: have[name].to(device=device, dtype=torch.float32) for name in have.keys() - new}
    encoder.load_state_dict(rest, strict=True, assign=True)


def _check(installed: Installed, model: MVAdapter) -> None:
    """Raise BadInput unless the parts fit together."""
    unet, deepest = model.unet.config, len(model.unet.config.block_out_channels) - 1
    cells = 8 * 2**deepest
    # To these levels diffusers adds what is told of cameras before they are halved, to the others
    # after, where it has another size.
    levels = ["CrossAttnDownBlock2D"] * deepest + ["DownBlock2D"]
    problems = [
        f"{what}: {have} and {want}"
        for what, have, want in (
            ("channels of latents", unet.in_channels, model.vae.config.latent_channels),
            ("width of words", unet.cross_attention_dim, model.text_encoder.config.hidden_size),
            ("levels", list(unet.down_block_types), levels),
            ("pixels of a cell", model.factor, 8),
            (f"pixels beyond cells of {cells}", model.config.side % cells, 0),
        )
        if have != want
    ]
    if problems:
        raise unfit(installed, "its parts do not fit together: " + "; ".join(problems))
