"""Small MV-Adapter models with weights of chance in a store: a Stable Diffusion in miniature, and
what is added to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from backend import weights
from backend.models.mvadapter import attention, loading
from tests import ldm3d_models

BASE = "small-diffusion"
CONFIG = {"side": 64, "prompt": "a b", "negative": "c"}


def write_base(store: Path, folder: Path) -> weights.Installed:
    """The Stable Diffusion. folder: a new one, for its parts."""
    unet = {
        "use_linear_projection": True,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    parts = ldm3d_models.parts_of(folder, channels=3, unet=unet, scheduler="PNDMScheduler")
    return weights.write_snapshot(
        store / BASE,
        parts,
        id=BASE,
        title="Small diffusion",
        family="stable-diffusion",
        tasks=(),
        config={},
        steps=50,
    )


def tensors_for(base: weights.Installed, reads_pictures: bool) -> dict[str, torch.Tensor]:
    """What a published file holds, by name."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        settings = UNet2DConditionModel.load_config(base.folder / "unet")
        unet = UNet2DConditionModel.from_config(settings)
        attention.add_to(unet, reads_pictures)
        encoder = loading.camera_encoder(unet)
    new = {name: one for name, one in unet.state_dict().items() if attention.is_new(name)}
    return {**new, **encoder.state_dict()}


def write(store: Path, name: str, reads_pictures: bool, **changes: Any) -> weights.Installed:
    """What is added to the Stable Diffusion of `store`."""
    given: dict[str, Any] = {
        "id": name,
        "title": "Small adapter",
        "family": "mv-adapter",
        "tasks": ("image-to-views",) if reads_pictures else ("text-to-views",),
        "config": {"reads_pictures": reads_pictures, **CONFIG},
        "steps": 3,
        "guidance": 3.0,
        "views": 6,
        "view_kind": "image",
        "needs": (BASE,),
        **changes,
    }
    if "tensors" not in given:
        given["tensors"] = tensors_for(weights.require(BASE), reads_pictures)
    return weights.write_model(store / name, **given)
