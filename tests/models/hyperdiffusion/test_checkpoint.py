"""Checkpoints as HyperDiffusion's authors published them become models of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend import conversion, pipelines, weights
from backend.errors import BadInput
from backend.models.hyperdiffusion.config import DenoiserConfig, FieldConfig
from backend.models.hyperdiffusion.denoiser import Denoiser
from backend.models.hyperdiffusion.model import FieldModel, load, published
from backend.models.hyperdiffusion.weights_vector import token_sizes
from backend.protocol import MeshResult, Shape

FIELD = FieldConfig(3, 1, (4, 4))


def checkpoint(path: Path, field: FieldConfig = FIELD, **changed: Any) -> Path:
    torch.manual_seed(0)
    denoiser = Denoiser(DenoiserConfig(token_sizes(field), width=16, depth=1, heads=16))
    tensors = {f"model.{name}": value for name, value in denoiser.state_dict().items()}
    betas = torch.linspace(1e-4, 2e-2, 500, dtype=torch.float64)
    tables = ("betas", "alphas", "alpha_hats", "alpha_hats_prev")
    tensors |= dict.fromkeys(tables, betas) | changed
    torch.save({"state_dict": tensors, "optimizer_states": [{"exp_avg": torch.zeros(9)}]}, path)
    return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "bundled")
    return tmp_path / "store"


def sampled(model: FieldModel) -> torch.Tensor:
    *_, vectors = model.sample(2, 7, 5)
    assert isinstance(vectors, torch.Tensor)
    return vectors


def test_a_checkpoint_is_told_by_its_weights_and_samples_as_it_did(
    store: Path, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "Plane v1.ckpt")
    installed = conversion.convert(path)
    assert installed.id == "hyperdiffusion-plane-v1"
    assert (installed.family, installed.tasks) == ("hyperdiffusion", ("shape",))
    assert (installed.steps, installed.license) == (500, "CC-BY-NC-SA-3.0")
    weights.verify(installed)
    model = load(installed.folder)
    assert (model.config.space, model.config.level) == ("none", 1.386)
    assert model.config.field == FIELD
    torch.testing.assert_close(sampled(model), sampled(published(path)), rtol=0, atol=0)


def test_a_moving_one_makes_animations(store: Path, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "animals.ckpt", FieldConfig(4, 1, (4, 4)))
    installed = conversion.convert(path, model_id="my-animals")
    assert (installed.id, installed.tasks) == ("my-animals", ("animation",))
    assert (load(installed.folder).config.frames, load(installed.folder).config.level) == (16, 0)
    listed = {model.id: model for model in pipelines.models()}
    assert listed["my-animals"].frames == 16


def test_half_precision_halves_the_file_and_keeps_the_frequencies(
    store: Path, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    whole = conversion.convert(path, model_id="whole")
    half = conversion.convert(path, model_id="half", dtype="float16")
    assert half.bytes < 0.6 * whole.bytes
    first, second = (load(model.folder).denoiser.state_dict() for model in (whole, half))
    name = "scalar_embedder.frequencies"
    torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
    torch.testing.assert_close(first["decoder.ln_f.weight"], second["decoder.ln_f.weight"])


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"model.decoder.ln_f.weight": torch.ones(3)}, "ln_f"),
        ({"model.decoder.extra": torch.ones(3)}, "extra"),
        ({"model.decoder.pos_emb": torch.ones(1, 4, 16, dtype=torch.int32)}, "holds no weights"),
        ({"model.scalar_embedder.frequencies": torch.ones(0)}, "weights"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    changed: dict[str, Any], cause: str, store: Path, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "a.ckpt", **changed)
    with pytest.raises(BadInput, match=cause) as caught:
        conversion.convert(path)
    assert caught.value.remedy
    assert not store.exists() or not list(store.iterdir())


def test_averages_that_are_not_there_are_told(store: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no averaged weights"):
        conversion.convert(checkpoint(tmp_path / "a.ckpt"), ema=True)


def test_a_converted_model_makes_shapes(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are chance, so that the level has to be low to see anything."""
    from backend.pipelines import animation

    monkeypatch.setattr(animation, "SHAPE_RESOLUTION", 32)
    installed = conversion.convert(checkpoint(tmp_path / "a.ckpt"))
    model = load(installed.folder)
    lowered = {**installed.config["model"], "level": -50.0}
    weights.write_model(
        installed.folder,
        id=installed.id,
        title="Lowered",
        family="hyperdiffusion",
        tasks=installed.tasks,
        config={"model": lowered},
        tensors=model.state_dict(),
        steps=500,
    )
    *_, result = pipelines.run(Shape(model=installed.id, steps=3), pipelines.Context("cpu"))
    assert isinstance(result, MeshResult)
    assert len(result.faces)
    assert result.neural is not None
    assert result.neural.level == -50
    assert np.isfinite(result.vertices).all()
