"""`python3 -m backend.training views`, from shapes to a measured model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend import weights
from backend.posed_images import read_transforms
from backend.training.__main__ import main
from backend.training.viewdiff import diffusion


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
    for name, psnr in (("guess", 3.5), ("both", 2.25)):
        (data / f"{name}.json").write_text(json.dumps({"psnr": psnr}), "utf-8")
        without += [f"--without-{name}", str(data / f"{name}.json")]
    assert main([*measure, *without, str(target)]) == 0
    found = json.loads((data / "views-evaluation.json").read_text("utf-8"))
    assert found["shapes"] == 1
    assert (target / "samples.png").exists()
    text = (target / "README.md").read_text("utf-8")
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


def test_what_is_missing_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["views", "train", "-f", str(data), "--steps", "1"]) == 2
    assert "views render" in capsys.readouterr().err
    (data / "shapes.ffs").unlink()
    assert main(["views", "render", "-f", str(data)]) == 2
    assert "prepare" in capsys.readouterr().err
