"""Small MVDreams with random weights, and what published code made of such."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import weights
from backend.models.mvdream.config import AutoencoderConfig, MVDreamConfig, TextConfig, UNetConfig
from backend.models.mvdream.model import MVDream
from backend.protocol import VIEW_CAMERAS

DIRECTORY = Path(__file__).parents[2] / "golden" / "mvdream"
CAMERAS = (3, 6, 10, 26, 49, 50)


def small_config(cameras: tuple[int, ...] = CAMERAS) -> MVDreamConfig:
    """All kinds of layers that the published model has, at 16 x 16 pixels."""
    return MVDreamConfig(
        views=tuple(VIEW_CAMERAS[index] for index in cameras),
        unet=UNetConfig(32, (1, 2, 2), (True, True, False), 1, 16, 32),
        text=TextConfig(width=32, depth=2, heads=2),
        autoencoder=AutoencoderConfig((8, 16), 1, 4, 4),
        side=16,
        steps=3,
    )


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, torch.Tensor]]:
    """golden("tiny_unet") reads those arrays."""

    def read(name: str) -> dict[str, torch.Tensor]:
        arrays = np.load(DIRECTORY / f"{name}.npz")
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    return read


@pytest.fixture(scope="session")
def small() -> MVDream:
    torch.manual_seed(0)
    return MVDream(small_config()).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, small: MVDream) -> Path:
    """A store that holds `small` as "small-text"."""
    folder = tmp_path_factory.mktemp("store")
    weights.write_model(
        folder / "small-text",
        id="small-text",
        title="Small",
        family="mvdream",
        tasks=("text-to-mesh",),
        config=small.config.to_dict(),
        tensors=small.published_state_dict(),
        steps=10,
        views=6,
        view_kind="depth",
        cameras=CAMERAS,
    )
    return folder
