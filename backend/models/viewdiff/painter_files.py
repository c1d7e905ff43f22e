"""A model that paints views, from the files of the store.

The denoiser's files are read by loading.py. Of a model that paints latents the autoencoder, the
text encoder and the tokenizer lie beside them, each in a folder as diffusers keeps it; or in the
model that it needs, which then is the one it was trained from.
"""

from __future__ import annotations

import torch

from ... import weights
from ...weights import Installed
from ..ldm3d import loading as parts
from ..wala.loading import unfit
from . import loading
from .painter import PainterConfig, ViewPainter


def config_of(installed: Installed) -> PainterConfig:
    """Raises BadInput for a description that is none."""
    try:
        return PainterConfig.from_dict(installed.config)
    except (KeyError, TypeError, ValueError) as error:
        raise unfit(installed, f"{type(error).__name__}: {error}") from None


def load(installed: Installed, device: torch.device, dtype: torch.dtype) -> ViewPainter:
    """The model on `device` for inference; the autoencoder in float32, the others as `dtype`.

    Raises BadInput for files that are missing or do not fit their descriptions or each other,
    NotInstalled where the model that it was trained from is not here.
    """
    config = config_of(installed)
    network = loading.load(installed, config.denoiser, device, dtype)
    if config.pixels is not None:
        have = network.unet.config.out_channels
        if have != config.pixels.channels:
            raise unfit(installed, f"pictures have {config.pixels.channels} channels, not {have}")
        return ViewPainter(config, network)
    base = base_of(installed)
    vae = parts.network(base, "vae", device, torch.float32)
    text_encoder = parts.network(base, "text_encoder", device, dtype)
    problems = [
        f"{what}: {have} and {want}"
        for what, have, want in (
            ("channels of latents", network.unet.config.out_channels, vae.config.latent_channels),
            (
                "width of words",
                network.unet.config.cross_attention_dim,
                text_encoder.config.hidden_size,
            ),
        )
        if have != want
    ]
    if problems:
        raise unfit(installed, "its parts do not fit together: " + "; ".join(problems))
    return ViewPainter(config, network, vae, text_encoder, parts.tokenizer_of(base))


def base_of(installed: Installed) -> Installed:
    """Which model has the autoencoder and the words: itself, or the first that it needs."""
    own = any(path.parent == installed.folder / "vae" for path in installed.files)
    if own or not installed.needs:
        return installed
    return weights.require(installed.needs[0])
