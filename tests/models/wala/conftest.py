"""Golden values of WaLa: inputs, weights by formula, and what the published code made of them."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

DIRECTORY = Path(__file__).parents[2] / "golden" / "wala"
_MASK = 2**64 - 1


@dataclass(frozen=True, eq=False)
class Golden:
    """One case. facts: its arguments and statistics; arrays: its inputs and outputs."""

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def args(self) -> dict[str, Any]:
        return self.facts["args"]

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def state_dict(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """The weights whose published names begin with `prefix`, without it."""
        weights = self.facts["weights"]
        return {
            name.removeprefix(prefix): _weight(weights["seed"], name, *recipe)
            for name, recipe in weights["tensors"].items()
            if name.startswith(prefix)
        }

    def load(self, network: nn.Module, prefix: str = "") -> nn.Module:
        """`network` with these weights, strictly, for inference."""
        network.load_state_dict(self.state_dict(prefix), strict=True)
        return network.eval().requires_grad_(False)

    def check_taps(self, network: nn.Module, taps: str, run: Callable[[], Any]) -> int:
        """Run, and compare outputs of sub-modules with the recorded ones; how many there were."""
        recorded = self.facts[taps]
        wrong: list[str] = []
        hooks = [
            network.get_submodule(name).register_forward_hook(_tap(name, tap, wrong))
            for name, tap in recorded.items()
        ]
        run()
        for hook in hooks:
            hook.remove()
        assert wrong == []
        return len(recorded)


def _tap(name: str, tap: dict[str, Any], wrong: list[str]) -> Callable[..., None]:
    def check(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        values = output.flatten()[torch.tensor(tap["flat_index"])].numpy()
        difference = np.abs(values - np.array(tap["value"], np.float32)).max()
        if list(output.shape) != tap["shape"] or not difference < 2e-4:
            wrong.append(f"{name}: {tuple(output.shape)}, off by {difference:.2e}")

    return check


def _weight(seed: int, name: str, shape: list[int], offset: float, scale: float, digest: str):
    """A weight from its name: an integer hash of the element's number (splitmix64)."""
    base = (seed * 0x9E3779B97F4A7C15 + zlib.crc32(name.encode()) * 0xD1B54A32D192ED03) & _MASK
    numbers = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
    z = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(base)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    z = z ^ z >> np.uint64(31)
    unit = (z >> np.uint64(40)) / 2**23 - 1
    values = (offset + scale * unit).astype(np.float16).astype(np.float32).reshape(shape)
    assert hashlib.sha256(values.tobytes()).hexdigest()[:16] == digest, name
    return torch.from_numpy(values)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """golden("uvit_cross_dit") reads that case."""
    cases: dict[str, Golden] = {}

    def read(name: str) -> Golden:
        if name not in cases:
            facts = json.loads((DIRECTORY / f"{name}.json").read_text())
            cases[name] = Golden(facts, dict(np.load(DIRECTORY / f"{name}.npz")))
        return cases[name]

    return read
