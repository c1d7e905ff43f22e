from __future__ import annotations

from pathlib import Path

import pytest

from backend import weights
from backend.training import __main__ as commands
from backend.training import export
from tests import wala_models


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of a training, which other tests make."""
    model = wala_models.make_model(wala_models.joint_config())
    monkeypatch.setattr(export, "model_of", lambda folder: model)
    monkeypatch.setattr(export, "provenance", lambda folder: {})


def exported(target: Path, *arguments: str) -> int:
    return commands.main(["export", "-f", str(target.parent), str(target), *arguments])


def test_what_is_said_stands_in_the_description(tmp_path: Path) -> None:
    target = tmp_path / "small"
    tasks = ["--tasks", "points-to-mesh", "image-to-mesh", "--default-for", "image-to-mesh"]
    assert exported(target, *tasks, "--steps", "12", "--guidance", "2.25") == 0
    model = weights.read_model(target)
    assert model.tasks == ("points-to-mesh", "image-to-mesh")
    assert model.default_for == ("image-to-mesh",)
    assert (model.steps, model.guidance) == (12, 2.25)
    assert (model.title, model.license) == ("Fieldforge small", "CC-BY-4.0")


def test_what_is_not_said(tmp_path: Path) -> None:
    assert exported(tmp_path / "small", "--title", "Mine") == 0
    model = weights.read_model(tmp_path / "small")
    assert model.title == "Mine"
    assert model.tasks == export.TASKS
    assert model.default_for == ()
    assert (model.steps, model.guidance) == (8, 1.5)
    assert model.cameras == (3, 6, 10, 26, 49, 50)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--tasks", "points-to-mesh", "--default-for", "shape"), "shape"),
        (("--steps", "0"), "0 steps"),
        (("--tasks", "chair-to-mesh", "--default-for", "image-to-mesh"), "image-to-mesh"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], named: str
) -> None:
    assert exported(tmp_path / "small", *arguments) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "small" / "model.json").exists()
