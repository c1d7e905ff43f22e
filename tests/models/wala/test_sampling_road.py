"""The pipeline's own sampling, from the recorded noise: what the published code computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend import weights
from backend.models.wala.config import WalaConfig
from backend.pipelines import generate, resident
from backend.protocol import Generation, PointsToMesh, VoxelsToMesh
from tests.models.wala.test_model import AS_PUBLISHED, LATENT, POINTS, VOXELS, _case


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path / "home"))
    resident.unload()
    yield tmp_path / "store"
    resident.unload()


@pytest.mark.parametrize(
    ("name", "task"),
    [
        (POINTS, PointsToMesh(steps=8, guidance=1.3)),
        (AS_PUBLISHED, PointsToMesh(steps=8, guidance=1.3, as_published=True)),
        (VOXELS, VoxelsToMesh(steps=5, guidance=1.5)),
    ],
    ids=["guidance of the person", "as published", "voxels"],
)
def test_every_step_is_the_recorded_one(golden, store: Path, name: str, task: Generation) -> None:
    case, shared = _case(golden, name)
    kind = type(task).kind
    installed = weights.write_model(
        store / "recorded",
        id="recorded",
        title="Recorded",
        family="wala",
        tasks=(kind,),
        config=WalaConfig.from_args(shared.args).to_dict(),
        tensors=shared.state_dict(),
        steps=3,
        guidance=2.0,
    )
    settings = generate.settings_of(task, installed)
    assert settings.guidance == case.facts["scale_effective"]
    loaded = resident.load(installed, torch.device("cpu"), 0)
    source = shared.tensor("voxels" if "voxels" in shared.arrays else "points").float()
    noise = iter(shared.tensor("noise"))
    taken = list(generate.sample(loaded, loaded.encode(source[0].numpy()), settings, noise))
    assert len(taken) == case.facts["steps"] == len(case.tensor("x_t"))
    for number, step in enumerate(taken):
        torch.testing.assert_close(step.x, case.tensor("x_t")[number], **LATENT)
        torch.testing.assert_close(step.start, case.tensor("pred_xstart")[number], **LATENT)
        torch.testing.assert_close(step.sample, case.tensor("sample")[number], **LATENT)
    torch.testing.assert_close(taken[-1].sample, case.tensor("latent"), **LATENT)
    clear = case.tensor("margin") > 1e-4 if "margin" in case.arrays else None
    if clear is not None:
        codes = loaded.codes(case.tensor("latent"))
        nearest = loaded.model.autoencoder.quantize.codes()[case.tensor("indices").long()]
        torch.testing.assert_close(codes.movedim(1, -1).reshape(-1, 4)[clear], nearest[clear])
