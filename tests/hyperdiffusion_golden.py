"""What the published HyperDiffusion code made: see tests/golden/hyperdiffusion."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from backend.models.hyperdiffusion.config import FieldConfig
from backend.models.hyperdiffusion.weights_vector import field_of, flatten

DIRECTORY = Path(__file__).parent / "golden" / "hyperdiffusion"


@cache
def facts() -> dict[str, Any]:
    return json.loads((DIRECTORY / "facts.json").read_text())


def arrays(name: str, folder: Path = DIRECTORY) -> dict[str, np.ndarray]:
    return dict(np.load(folder / f"{name}.npz"))


def tensors(name: str, folder: Path = DIRECTORY) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(array) for key, array in arrays(name, folder).items()}


def weights(name: str, folder: Path = DIRECTORY) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")


def field(name: str) -> tuple[FieldConfig, torch.Tensor]:
    state = weights(name)
    config = field_of(state)
    return config, flatten(config, state)
