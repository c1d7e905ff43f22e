"""What makes fields of noise: its spaces, sampling, its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backend import weights
from backend.errors import BadInput, Cancelled
from backend.models.hyperdiffusion import model as models
from backend.models.hyperdiffusion.config import DenoiserConfig, FieldConfig
from backend.models.hyperdiffusion.diffusion import weight_diffusion
from backend.models.hyperdiffusion.model import (
    ComponentsConfig,
    FieldModel,
    FieldModelConfig,
    Space,
    load,
    published,
)
from backend.models.hyperdiffusion.weights_vector import token_sizes
from backend.protocol import Progress

FIELD = FieldConfig(4, 1, (6, 5))
WEIGHTS = sum(token_sizes(FIELD))
COMPONENTS = FieldModelConfig(
    FIELD, ComponentsConfig(3, 16, 1), "components", frames=16, names=("fish", "bird"), steps=7
)
TRANSFORMER = FieldModelConfig(
    FIELD, DenoiserConfig(token_sizes(FIELD), 16, 1, 2, 8.0), "scalar", frames=16
)


def _model(config: FieldModelConfig = COMPONENTS, known: int = 4) -> FieldModel:
    """With random weights, an orthonormal basis, and `known` fields that it was trained on."""
    torch.manual_seed(0)
    model = FieldModel(config, known, [f"thing {k}" for k in range(known)])
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if config.space == "components":
        model.space.basis.copy_(torch.linalg.qr(torch.randn(WEIGHTS, 3)).Q.mT)
        model.space.scale.copy_(torch.tensor([4.0, 2.0, 1.0]))
    if config.space != "none":
        model.space.mean.normal_()
    model.known.normal_()
    return model.eval().requires_grad_(False)


def _vectors(model: FieldModel, count: int, seed: int, **more: object) -> torch.Tensor:
    *_, found = model.sample(count, seed, **more)  # type: ignore[arg-type]
    assert isinstance(found, torch.Tensor)
    return found


# -------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("config", [COMPONENTS, TRANSFORMER, replace(TRANSFORMER, space="none")])
def test_a_field_is_of_its_seed_alone(config: FieldModelConfig) -> None:
    model = _model(config)
    three = _vectors(model, 3, seed=10, steps=5)
    assert three.shape == (3, WEIGHTS)
    torch.testing.assert_close(three[2:], _vectors(model, 1, seed=12, steps=5))
    assert (three[0] - three[1]).abs().max() > 1e-2


def test_progress_is_told_of_each_step_and_the_model_has_steps_of_its_own() -> None:
    *told, found = _model().sample(1, 0)
    assert all(isinstance(step, Progress) for step in told)
    assert [step.fraction for step in told] == pytest.approx([k / 7 for k in range(1, 8)])
    assert isinstance(found, torch.Tensor)


class _Knows(torch.nn.Module):
    """A denoiser that is sure of one field whatever it sees; of a name, of another one."""

    def __init__(self, of: torch.Tensor) -> None:
        super().__init__()
        self.of = of

    def forward(
        self, x: torch.Tensor, _times: torch.Tensor, named: torch.Tensor | None = None
    ) -> torch.Tensor:
        rows = torch.zeros(len(x), dtype=torch.int64) if named is None else named
        return self.of[rows]


@pytest.mark.parametrize("config", [COMPONENTS, TRANSFORMER, replace(TRANSFORMER, space="none")])
def test_what_the_denoiser_is_sure_of_comes_out(config: FieldModelConfig) -> None:
    model = _model(config)
    model.denoiser = _Knows(model.known)
    expected = model.space.decode(model.known[:1])
    torch.testing.assert_close(_vectors(model, 1, 3), expected, rtol=1e-4, atol=1e-4)
    assert model.nearest(expected)[0] == ("thing 0", pytest.approx(0, abs=1e-3))


def test_a_name_reaches_the_denoiser() -> None:
    model = _model()
    model.denoiser = _Knows(model.known)
    found = _vectors(model, 2, 3, name="bird")
    expected = model.space.decode(model.known[2:3]).expand(2, -1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_made_is_refused() -> None:
    model = _model()
    with pytest.raises(BadInput, match="makes no 'cow'") as refused:
        next(model.sample(1, 0, name="cow"))
    assert refused.value.remedy == "Choose of: fish, bird."
    with pytest.raises(BadInput, match="leave the name out"):
        next(_model(TRANSFORMER).sample(1, 0, name="fish"))
    with pytest.raises(BadInput, match="0 fields"):
        next(model.sample(0, 0))
    with pytest.raises(BadInput, match="1001 steps"):
        next(model.sample(1, 0, steps=1001))


def test_a_job_that_is_unwanted_ends() -> None:
    def unwanted() -> None:
        raise Cancelled("The job was cancelled.")

    with pytest.raises(Cancelled):
        list(_model().sample(1, 0, check_cancelled=unwanted))


# ---------------------------------------------------------------------------------------- spaces


def test_components_keep_what_they_span_and_nothing_else() -> None:
    space = _model().space
    amounts = torch.randn(5, 3)
    vectors = space.decode(amounts)
    torch.testing.assert_close(space.encode(vectors), amounts, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        (vectors - space.mean).norm(dim=1), (amounts * space.scale).norm(dim=1)
    )
    beside = torch.randn(WEIGHTS)
    beside -= beside @ space.basis.mT @ space.basis
    torch.testing.assert_close(space.encode(vectors + beside), amounts, rtol=1e-3, atol=1e-3)


def test_a_scalar_space_is_one_number_and_a_mean() -> None:
    space = Space("scalar", 4)
    space.mean.copy_(torch.tensor([1.0, 2, 3, 4]))
    space.scale.fill_(0.5)
    assert space.encode(torch.tensor([[2.0, 2, 3, 3]])).tolist() == [[2.0, 0, 0, -2]]
    assert space.decode(torch.tensor([[2.0, 0, 0, -2]])).tolist() == [[2.0, 2, 3, 3]]


def test_how_near_is_told_in_distances_between_training_fields() -> None:
    model = _model(known=3)
    model.space.scale.fill_(1.0)
    model.known.copy_(torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 8, 0]]))
    # Nearest others are 2, 2 and 8 away: 2 in the middle.
    (name, far), (other, near) = model.nearest(
        model.space.decode(torch.tensor([[0.0, 5, 0], [2, 0, 1]]))
    )
    assert (name, other) == ("thing 2", "thing 1")
    assert (far, near) == pytest.approx((1.5, 0.5), rel=1e-4)
    assert _model(known=0).nearest(torch.zeros(1, WEIGHTS)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": "other"}, "space 'other'"),
        ({"space": "scalar"}, "does not work"),
        ({"frames": 1}, "1 frames"),
        ({"frames": 17}, "17 frames"),
    ],
)
def test_descriptions_that_contradict_themselves(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(COMPONENTS, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names"):
        replace(TRANSFORMER, names=("fish",))


# ----------------------------------------------------------------------------------------- files


def _write(folder: Path, model: FieldModel, **tensors: torch.Tensor) -> Path:
    weights.write_model(
        folder,
        id=folder.name,
        title="Small",
        family=models.FAMILY,
        tasks=("animation",),
        config={"model": model.config.to_dict(), "known_names": list(model.known_names)},
        tensors={**model.state_dict(), **tensors},
        steps=7,
    )
    return folder


@pytest.mark.parametrize("config", [COMPONENTS, TRANSFORMER])
def test_a_model_is_read_back(tmp_path: Path, config: FieldModelConfig) -> None:
    model = _model(config)
    found = load(_write(tmp_path / "small", model))
    assert found.config == config
    assert found.known_names == model.known_names
    torch.testing.assert_close(_vectors(found, 2, 5, steps=3), _vectors(model, 2, 5, steps=3))
    assert not any(parameter.requires_grad for parameter in found.parameters())


def test_models_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    model = _model()
    with pytest.raises(BadInput, match=r"not whole \(space\.mean\)"):
        load(_write(tmp_path / "short", model, **{"space.mean": torch.zeros(3)}))
    with pytest.raises(BadInput, match=r"not whole \(other\)"):
        load(_write(tmp_path / "more", model, other=torch.zeros(3)))
    folder = _write(tmp_path / "undescribed", model)
    record = json.loads((folder / weights.DESCRIPTION).read_text("utf-8"))
    record["config"]["model"]["space"] = "other"
    (folder / weights.DESCRIPTION).write_text(json.dumps(record), "utf-8")
    with pytest.raises(BadInput, match="undescribed does not describe a model of fields"):
        load(folder)


@pytest.mark.parametrize("names", [5, None, "abcd", ["a"], ["a", "b", "c", 4], list("abcde")])
def test_names_of_what_a_model_knows_are_checked_before_it_is_used(
    tmp_path: Path, names: Any
) -> None:
    folder = _write(tmp_path / "odd", _model(known=4))
    record = json.loads((folder / weights.DESCRIPTION).read_text("utf-8"))
    record["config"]["known_names"] = names
    (folder / weights.DESCRIPTION).write_text(json.dumps(record), "utf-8")
    with pytest.raises(BadInput, match="odd does not name each of the 4 fields"):
        load(folder)


def test_a_model_may_leave_out_what_its_known_fields_are_called(tmp_path: Path) -> None:
    folder = _write(tmp_path / "plain", _model(known=4))
    record = json.loads((folder / weights.DESCRIPTION).read_text("utf-8"))
    del record["config"]["known_names"]
    (folder / weights.DESCRIPTION).write_text(json.dumps(record), "utf-8")
    model = load(folder)
    (name, _), *_ = model.nearest(_vectors(model, 1, 0, steps=2))
    assert name in {"0", "1", "2", "3"}


@pytest.mark.parametrize(
    ("field", "level", "frames"), [(FieldConfig(3, 2, (8, 4)), 1.386, 1), (FIELD, 0.0, 16)]
)
def test_published_checkpoints_work_on_weights_as_they_are(
    tmp_path: Path, field: FieldConfig, level: float, frames: int
) -> None:
    torch.manual_seed(1)
    config = FieldModelConfig(
        field,
        DenoiserConfig(token_sizes(field), 16, 1, 4),
        "none",
        frames=frames,
    )
    own = FieldModel(config).eval()
    betas = torch.from_numpy(weight_diffusion().betas())
    state = {"betas": betas, **{f"model.{k}": v for k, v in own.denoiser.state_dict().items()}}
    torch.save({"state_dict": state}, tmp_path / "plane.ckpt")
    found = published(tmp_path / "plane.ckpt", heads=4)
    assert found.config == replace(config, level=level, loop=False, steps=500)
    assert len(found.diffusion.betas()) == 500
    torch.testing.assert_close(_vectors(found, 1, 2, steps=4), _vectors(own, 1, 2, steps=4))


@pytest.mark.parametrize(
    "field",
    [
        {"frequencies": 13},
        {"period": 2, "frames": 2},
        {"period": 8},
        {"period": 16.0},
        {"dimensions": 3, "frames": 1, "period": 1},
    ],
)
def test_models_of_fields_that_cannot_be_are_refused(field: dict[str, Any]) -> None:
    record = COMPONENTS.to_dict()
    frames = field.pop("frames", 16)
    assert FieldModelConfig.from_dict(record) == COMPONENTS
    with pytest.raises((ValueError, TypeError)):
        FieldModelConfig.from_dict(
            {**record, "field": {**record["field"], **field}, "frames": frames}
        )


def test_a_published_denoiser_of_no_field_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    denoiser = models.Denoiser(DenoiserConfig((10, 7), 16, 1, 4))
    state = {f"model.{k}": v for k, v in denoiser.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "odd.ckpt")
    with pytest.raises(BadInput, match=r"tokens \(10, 7\) is of no field"):
        published(tmp_path / "odd.ckpt", heads=4)
