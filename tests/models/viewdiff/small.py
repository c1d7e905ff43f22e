"""A U-Net in miniature with all kinds of layers, and cameras for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from backend.geometry import cameras as geometry
from backend.models.viewdiff.cameras import Cameras
from backend.models.viewdiff.config import ProjectionConfig, ViewDiffConfig, unet_settings
from backend.models.viewdiff.model import ViewDiff

SIZE = 8
WORDS = 12
IMAGE = 64


def settings(**changes: Any) -> dict[str, Any]:
    sizes = {"size": SIZE, "picture_channels": 4, "words": WORDS, "head_channels": 8}
    return {**unet_settings((16, 32), (True, True), **sizes), **changes}


def config(**changes: Any) -> ViewDiffConfig:
    given = {
        "unet": settings(),
        "base": "",
        "image_size": IMAGE,
        "rank": 4,
        "projection_down": 1,
        "projection_up": 1,
        "projection": ProjectionConfig(grid=16, layers=3, samples=8),
        **changes,
    }
    return ViewDiffConfig(**given)


def seeded(settings: ViewDiffConfig, seed: int = 0) -> ViewDiff:
    """For inference, new layers as at the beginning."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViewDiff(settings).eval()


def learned(settings: ViewDiffConfig, seed: int = 0) -> ViewDiff:
    """As `seeded`, with nothing that is zero, so that everything counts."""
    model = seeded(settings, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
        for name, weight in model.named_parameters():
            if name.endswith("bias_opacity"):
                weight.fill_(0.0)
    return model


def around(views: int, scenes: int = 1, size: int = IMAGE, seed: int = 0) -> Cameras:
    """Cameras here and there around a box that is not quite in the middle."""
    generator = np.random.default_rng(seed)
    eyes = generator.normal(size=(scenes, views, 3))
    eyes *= (3.0 + generator.random((scenes, views, 1))) / np.linalg.norm(eyes, axis=-1)[..., None]
    world2cam = geometry.world2cam_of(geometry.look_at(eyes))
    lens = np.tile(geometry.intrinsics_of_field(45.0, size, size), (scenes, views, 1))
    box = torch.tensor([[-1.0, -0.9, -0.8], [0.9, 1.0, 0.85]]).expand(scenes, 2, 3)
    return Cameras(
        torch.from_numpy(world2cam).float(),
        torch.from_numpy(lens).float(),
        size,
        box,
        torch.from_numpy(generator.normal(size=(scenes, views, 2))).float(),
    )


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
