"""Small models that paint views, with weights of chance: of pixels, and of latents beside words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from backend import weights
from backend.models.viewdiff.config import ProjectionConfig, ViewDiffConfig, unet_settings
from backend.models.viewdiff.model import ViewDiff
from backend.models.viewdiff.painter import PainterConfig
from backend.models.viewdiff.pixels import PixelLatents
from tests import ldm3d_models

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TASKS = ("image-to-views", "text-to-views")


def denoiser(channels: int, size: int, image_size: int, words: int = 16, **changes: Any):
    """Sizes of a network with all kinds of layers: two levels, one projection."""
    return ViewDiffConfig(
        **{
            "unet": unet_settings(
                (16, 32),
                (True, True),
                size=size,
                picture_channels=channels,
                words=words,
                head_channels=8,
            ),
            "schedule": SCHEDULE,
            "base": "",
            "image_size": image_size,
            "rank": 4,
            "projection_down": 0,
            "projection_up": 0,
            "projection": ProjectionConfig(channels=16, grid=16, layers=1, samples=8),
            "trained_views": 4,
            **changes,
        }
    )


def pixel_config(layout: str = "rgbad", **changes: Any) -> PainterConfig:
    """Of a model of 16 x 16 pixels, in blocks of 2 x 2."""
    pixels = PixelLatents(2, layout)
    given = {"views": 4, "batch": 2, "most": 12, **changes}
    made = denoiser(pixels.channels, 8, 16, pixels=pixels.to_dict())
    return PainterConfig(denoiser=made, **given)


def network(config: PainterConfig, seed: int = 0) -> ViewDiff:
    """Nothing in it is zero, so that everything counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ViewDiff(config.denoiser)
        for name, weight in made.named_parameters():
            if name.endswith("up.weight"):
                torch.nn.init.normal_(weight, std=0.05)
    return made.eval().requires_grad_(False)


def write_pixels(
    store: Path, config: PainterConfig | None = None, name: str = "small-views", **changes: Any
):
    """A model of pixels in the store `store`."""
    config = config or pixel_config()
    given: dict[str, Any] = {
        "id": name,
        "title": "Small views",
        "family": "viewdiff",
        "tasks": TASKS,
        "config": config.to_dict(),
        "tensors": network(config).state_dict(),
        "steps": 3,
        "guidance": None,
        **changes,
    }
    return weights.write_model(store / name, **given)


def write_latents(store: Path, folder: Path, name: str = "small-latent-views", **changes: Any):
    """A model of latents: a Stable Diffusion in miniature, its U-Net with new layers. folder: a new
    one, for its parts."""
    from safetensors.torch import save_file

    parts = ldm3d_models.parts_of(folder, channels=3)
    config = PainterConfig(
        denoiser=denoiser(4, 8, 64), views=3, batch=2, most=12, **changes.pop("painter", {})
    )
    made = network(config)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: value.contiguous() for key, value in made.state_dict().items()}, path)
    given: dict[str, Any] = {
        "id": name,
        "title": "Small latent views",
        "family": "viewdiff",
        "tasks": TASKS,
        "config": config.to_dict(),
        "steps": 3,
        "guidance": 7.5,
        **changes,
    }
    return weights.write_snapshot(store / name, parts, **given)
