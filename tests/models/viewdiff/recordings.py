"""What the published code made of small networks: see tests/golden/multiview."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

DIRECTORY = Path(__file__).parents[2] / "golden" / "multiview"
TOLERANCE = 1e-4
"""Share of the largest value."""


@dataclass(frozen=True, eq=False)
class Recording:
    """inputs, weights and outputs by name; config: how the network was made."""

    inputs: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    config: dict[str, Any]

    def load(self, network: nn.Module) -> Any:
        """`network` with these weights, strictly, for inference."""
        network.load_state_dict(self.weights, strict=True)
        return network.eval().requires_grad_(False)


def read(name: str) -> Recording:
    arrays = load_file(DIRECTORY / f"{name}.safetensors")
    configs = json.loads((DIRECTORY / "networks.json").read_text())
    parts = [
        {key.removeprefix(part): value for key, value in arrays.items() if key.startswith(part)}
        for part in ("in.", "w.", "out.")
    ]
    return Recording(*parts, configs[name])


def assert_near(found: torch.Tensor, expected: torch.Tensor, share: float = TOLERANCE) -> None:
    """Off by no more than this share of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= share * expected.abs().max()


def four(matrix: torch.Tensor) -> torch.Tensor:
    """(..., 3, 3) -> fx, fy, cx, cy."""
    places = ((0, 0), (1, 1), (0, 2), (1, 2))
    return torch.stack([matrix[..., row, column] for row, column in places], dim=-1)
