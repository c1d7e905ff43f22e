"""Small MVDream models with weights of chance: in memory, and in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from backend import weights
from backend.models.mvdream.config import AutoencoderConfig, MVDreamConfig, TextConfig, UNetConfig
from backend.models.mvdream.model import MVDream
from backend.protocol import VIEW_CAMERAS

CAMERAS = (3, 6, 10, 26, 49, 50)


def config_for(cameras: tuple[int, ...] = CAMERAS) -> MVDreamConfig:
    """All kinds of layers that the published model has, at 16 x 16 pixels."""
    return MVDreamConfig(
        views=tuple(VIEW_CAMERAS[index] for index in cameras),
        unet=UNetConfig(32, (1, 2, 2), (True, True, False), 1, 16, 32),
        text=TextConfig(width=32, depth=2, heads=2),
        autoencoder=AutoencoderConfig((8, 16), 1, 4, 4),
        side=16,
        steps=3,
    )


def make_model(config: MVDreamConfig, seed: int = 0) -> MVDream:
    """For inference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MVDream(config).eval().requires_grad_(False)


def write(folder: Path, model: MVDream, name: str = "small-text", **changes: Any):
    """`model` in the store `folder`; it paints six depths unless `changes` say otherwise."""
    given: dict[str, Any] = {
        "id": name,
        "title": "Small text",
        "family": "mvdream",
        "tasks": ("text-to-mesh",),
        "config": model.config.to_dict(),
        "tensors": model.published_state_dict(),
        "steps": 2,
        "guidance": 1.5,
        "views": len(model.config.views),
        "view_kind": "depth",
        "cameras": CAMERAS,
        **changes,
    }
    return weights.write_model(folder / name, **given)
