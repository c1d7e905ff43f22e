"""A small MVDream, and what published code made of such."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.models.mvdream.model import MVDream
from tests import mvdream_models

DIRECTORY = Path(__file__).parents[2] / "golden" / "mvdream"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, torch.Tensor]]:
    """golden("tiny_unet") reads those arrays."""

    def read(name: str) -> dict[str, torch.Tensor]:
        arrays = np.load(DIRECTORY / f"{name}.npz")
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    return read


@pytest.fixture(scope="session")
def small() -> MVDream:
    return mvdream_models.make_model(mvdream_models.config_for())


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, small: MVDream) -> Path:
    """A store that holds `small` as "small-text"."""
    folder = tmp_path_factory.mktemp("store")
    mvdream_models.write(folder, small)
    return folder
