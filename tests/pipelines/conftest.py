"""What the tests of generation share: a store of small models, and jobs without their surfaces."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import pipelines, protocol
from backend.conditions import points
from backend.pipelines import Context, generate, resident
from backend.protocol import Generation, MeshResult
from tests import wala_models


@pytest.fixture(scope="session")
def written_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a small model of every condition."""
    folder = tmp_path_factory.mktemp("models") / "Modelle für 形"
    for condition in wala_models.TASKS:
        wala_models.write(folder, condition)
    return folder


@pytest.fixture
def store(written_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The store, in use; nothing is loaded yet, nothing that was learned is kept."""
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(written_store))
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FIELDFORGE_PRECISION", raising=False)
    resident._models.clear()
    yield written_store
    resident._models.clear()


@pytest.fixture
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models look at 500 points in place of 25,000."""
    monkeypatch.setattr(points, "COUNT", 500)


@pytest.fixture
def solid(store: Path, few_points: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every latent decodes to the same solid, without any symmetry, within a few milliseconds."""
    monkeypatch.setattr(generate._Generator, "field", lambda *_: solid_field().copy())


@functools.cache
def solid_field() -> np.ndarray:
    """(256, 256, 256) float32 distances: a ball of 0.5 with a smaller one on one side."""
    nodes = np.arange(256, dtype=np.float32) / 128 - 1
    x, y, z = nodes[:, None, None], nodes[None, :, None], nodes[None, None, :]
    ball = np.sqrt(x * x + y * y + z * z) - np.float32(0.5)
    knob = np.sqrt((x - 0.3) ** 2 + (y - 0.5) ** 2 + (z + 0.2) ** 2) - np.float32(0.2)
    return np.clip(np.minimum(ball, knob), -0.1, 0.1).astype(np.float32)


Latents = Callable[[Generation], torch.Tensor]


@pytest.fixture
def latents(store: Path, few_points: None, monkeypatch: pytest.MonkeyPatch) -> Latents:
    """latents(task): the whole job but for decoding -> (variations, 4, 12, 12, 12)."""

    def surfaces(self, loaded, prepared, latents, region):
        found = []
        for latent in latents:
            yield self.stages.at("Decoding", 0.9)
            found.append(MeshResult(latent=latent.numpy()))
        return found

    monkeypatch.setattr(generate._Generator, "meshes", surfaces)

    def run(task: Generation) -> torch.Tensor:
        meshes = protocol.meshes_of(last(task))
        return torch.from_numpy(np.stack([mesh.latent for mesh in meshes]))

    return run


def last(task: protocol.Task, context: Context | None = None) -> protocol.Result:
    """The result of a job."""
    *_, result = pipelines.run(task, context or Context("cpu"))
    assert isinstance(result, protocol.Result)
    return result


def mesh_of(task: protocol.Task) -> MeshResult:
    """The only mesh of a job."""
    result = last(task)
    assert isinstance(result, MeshResult)
    return result
