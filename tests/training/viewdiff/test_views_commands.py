"""`python3 -m backend.training views`, from shapes to a measured model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend import weights
from backend.errors import BadInput
from backend.posed_images import read_transforms
from backend.training.__main__ import main
from backend.training.viewdiff import diffusion, evaluate


def test_from_shapes_to_a_measured_model(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything in its order, as the documentation has it; a tiny model."""
    folder = ["-f", str(data), "--size", "tiny"]
    assert main(["views", "render", *folder, "--generated", "0", "--workers", "1"]) == 0
    assert "3 train scenes" in capsys.readouterr().out  # as it is, and two looks
    assert main(["views", "write", *folder, "1", str(data / "scene")]) == 0
    assert read_transforms(data / "scene").images.shape == (24, 16, 16, 4)

    train = ["views", "train", *folder, "--steps", "2", "--device", "cpu"]
    assert main(train) == 2
    assert "views guess" in capsys.readouterr().err
    guess = ["views", "guess", *folder, "--steps", "3", "--device", "cpu"]
    assert main(guess) == 2
    assert "views volumes" in capsys.readouterr().err
    assert main(["views", "volumes", *folder, "--workers", "1"]) == 0
    assert main(guess) == 0
    assert "step 3 of 3" in capsys.readouterr().out
    assert main([*guess, "--most", "2", "-o", str(data / "few")]) == 0
    capsys.readouterr()
    assert main(train) == 0
    assert "step 2 of 2" in capsys.readouterr().out
    others = ["--scenes", str(data / "scene"), "-o", str(data / "others")]
    assert main([*guess, *others]) == 0
    assert main([*train, *others]) == 0
    assert "1 scenes" in capsys.readouterr().out

    target = data / "my-views"
    assert main(["views", "export", *folder, str(target), "--title", "Mine"]) == 0
    assert weights.read_model(target).config["tells_depth"]
    silent = [str(data / "silent-views"), "--without-depth", "--haze", "0.25"]
    assert main(["views", "export", *folder, *silent]) == 0
    config = weights.read_model(data / "silent-views").config
    assert (config["tells_depth"], config["haze"]) == (False, 0.25)
    assert weights.read_model(target).title == "Mine"
    measure = ["views", "evaluate", *folder, "--generated", "0", "--steps", "2", "--device", "cpu"]
    without = []
    for name, psnr in (("projection", 4.75), ("guess", 3.5), ("both", 2.25)):
        (data / f"{name}.json").write_text(json.dumps({"psnr": psnr}), "utf-8")
        without += [f"--without-{name}", str(data / f"{name}.json")]
    assert main([*measure, *without, str(target)]) == 0
    found = json.loads((data / "views-evaluation.json").read_text("utf-8"))
    assert found["shapes"] == 1
    assert (target / "samples.png").exists()
    text = (target / "README.md").read_text("utf-8")
    assert "4.75" in text
    assert "3.5" in text
    assert "2.25" in text
    assert "Box (test)" in (target / "ATTRIBUTION.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("left_out", "layers", "guess"),
    [
        ((), True, True),
        (("--without-guess",), True, False),
        (("--without-projection",), False, True),
        (("--without-guess", "--without-projection"), False, False),
    ],
)
def test_parts_are_left_out_to_compare(
    data: Path, tmp_path: Path, left_out: tuple[str, ...], layers: bool, guess: bool
) -> None:
    folder = ["-f", str(data), "-o", str(tmp_path), "--size", "tiny", "--batch", "1"]
    scenes = ["--scenes", str(data / "scene"), "--steps", "1", "--device", "cpu"]
    render = ["views", "render", "-f", str(data), "--size", "tiny"]
    assert main([*render, "--generated", "0", "--workers", "1"]) == 0
    assert main(["views", "write", "-f", str(data), "--size", "tiny", "1", scenes[1]]) == 0
    if guess:
        assert main(["views", "guess", *folder, *scenes]) == 0
    assert main(["views", "train", *folder, *scenes, *left_out]) == 0
    model, _ = diffusion.trained(tmp_path / diffusion.CHECKPOINT)
    assert model.config.has_projection == layers
    assert (model.first_guess is not None) == guess
    names = [name for name, _ in model.named_parameters()]
    assert any(".unproj_reproj_layer." in name for name in names) == layers
    on = ["-o", str(tmp_path / "on"), "--begin-with", str(tmp_path / diffusion.CHECKPOINT)]
    assert main(["views", "train", *folder, *scenes, *on]) == 0
    model, settings = diffusion.trained(tmp_path / "on" / diffusion.CHECKPOINT)
    assert model.config.has_projection
    assert (model.first_guess is not None) == guess
    assert settings["begun with"]["projection"] == layers
    anew = ["-o", str(tmp_path / "anew"), *on[2:]]
    assert main(["views", "train", *folder, *scenes, *anew, "--without-guess"]) == 2
    assert main(["views", "train", *folder, *scenes, "--pixels", "32"]) == 2
    # It goes on without being told again what it began with.
    (tmp_path / diffusion.CHECKPOINT).unlink()
    longer = [*folder, *scenes[:2], "--steps", "2", *scenes[4:], *on[:2]]
    assert main(["views", "train", *longer]) == 0
    assert diffusion.trained(tmp_path / "on" / diffusion.CHECKPOINT)[1]["numbers"]["step"] == 2


def test_a_training_without_a_guess_is_not_sent_to_train_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["-f", str(data), "-o", str(tmp_path), "--size", "tiny", "--batch", "1"]
    render = ["views", "render", "-f", str(data), "--size", "tiny"]
    assert main([*render, "--generated", "0", "--workers", "1"]) == 0
    train = ["views", "train", *folder, "--steps", "1", "--device", "cpu"]
    assert main([*train, "--without-guess", "--without-projection"]) == 0
    capsys.readouterr()
    assert main([*train, "--without-projection"]) == 2
    assert "--without-guess" in capsys.readouterr().err


def test_a_checkpoint_is_measured_as_a_model_would_paint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ["-f", str(data), "--size", "tiny", "--batch", "1"]
    render = ["views", "render", "-f", str(data), "--size", "tiny"]
    assert main([*render, "--generated", "0", "--workers", "1"]) == 0
    train = ["views", "train", *folder, "--steps", "1", "--device", "cpu", "--without-guess"]
    assert main([*train, "-o", str(tmp_path)]) == 0
    asked = []

    def tests(catalogue: object, records: object, config: Any) -> object:
        asked.append(config)
        raise BadInput("Enough.", "None.")

    monkeypatch.setattr(evaluate, "tests", tests)
    measure = ["views", "evaluate", "-f", str(data), "--generated", "0", "--device", "cpu"]
    silent = ["--haze", "0.25", "--temperature", "0.5", "--without-depth"]
    for told in ([], silent):
        assert main([*measure, *told, str(tmp_path / diffusion.CHECKPOINT)]) == 2
    plain, changed = asked
    assert (plain.haze, plain.temperature, plain.tells_depth) == (0.0, 1.0, True)
    assert (changed.haze, changed.temperature, changed.tells_depth) == (0.25, 0.5, False)


def test_what_is_missing_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["views", "train", "-f", str(data), "--steps", "1"]) == 2
    assert "views render" in capsys.readouterr().err
    (data / "shapes.ffs").unlink()
    assert main(["views", "render", "-f", str(data)]) == 2
    assert "prepare" in capsys.readouterr().err
