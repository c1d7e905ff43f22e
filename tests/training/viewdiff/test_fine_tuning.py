"""Going on with a Stable Diffusion, in miniature."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import weights
from backend.errors import BadInput, NotFound
from backend.models.viewdiff.config import ProjectionConfig
from backend.models.viewdiff.model import is_new
from backend.models.viewdiff.painter_files import load
from backend.posed_images import write_transforms
from backend.training.__main__ import main
from backend.training.loops import Plan, Team
from backend.training.viewdiff import diffusion, stable_diffusion
from backend.training.viewdiff.diffusion import Recipe
from tests import ldm3d_models
from tests.posed_boxes import Boxes

CPU = torch.device("cpu")
SPACE = ProjectionConfig(grid=8, layers=1, samples=4)
RECIPE = Recipe(scenes=2, views=3, parts=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion of 64 pixels as diffusers keeps it."""
    folder = tmp_path_factory.mktemp("models") / "small-diffusion"
    ldm3d_models.parts_of(folder, channels=3)
    return folder


@pytest.fixture(scope="module")
def boxes() -> Boxes:
    return Boxes(2, 32)


def test_it_begins_with_the_weights_of_the_base(base: Path) -> None:
    from diffusers import UNet2DConditionModel

    parts, found = stable_diffusion.start(str(base), CPU, 0, SPACE)
    plain = UNet2DConditionModel.from_pretrained(base / "unet", low_cpu_mem_usage=False)
    own = parts.model.unet.state_dict()
    plain = plain.state_dict()
    for name, value in plain.items():
        torch.testing.assert_close(own[name], value)
    assert all(is_new(name) for name in own.keys() - plain.keys())
    assert parts.config.image_size == 32
    assert found.schedule["beta_schedule"] == "scaled_linear"


def test_only_the_unet_learns_and_pictures_are_remembered(
    base: Path, boxes: Boxes, tmp_path: Path
) -> None:
    parts, found = stable_diffusion.start(str(base), CPU, 0, SPACE)
    vae = {k: v.clone() for k, v in parts.codec.vae.state_dict().items()}  # type: ignore[attr-defined]
    before = {k: v.clone() for k, v in parts.model.state_dict().items()}
    told: list[str] = []
    prior = stable_diffusion.priors(found, parts, boxes, 3, 0, told.append)
    assert prior.latents.shape == (3, 4, 4, 4)
    assert prior.captions == ["box 0", "box 1", "box 0"]
    assert not torch.equal(prior.latents[0], prior.latents[2])  # noise of another seed
    plan = Plan(steps=2, rate=1e-3, warm_up=1, constant=True, clip=5e-3)
    run = diffusion.fit(
        parts, boxes, RECIPE, plan, Team(CPU), told.append, tmp_path / "a.pt", prior=prior
    )
    assert run.step == 2
    assert "prior" in next(line for line in told if line.startswith("step 1"))
    after = parts.model.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any(is_new(name.removeprefix("unet.")) for name in moved)
    assert any(not is_new(name.removeprefix("unet.")) for name in moved)
    for name, value in parts.codec.vae.state_dict().items():  # type: ignore[attr-defined]
        torch.testing.assert_close(value, vae[name])

    installed = stable_diffusion.save(run, found, parts, tmp_path / "my-views")
    painter = load(installed, CPU, torch.float32)
    assert painter.reads_words
    for name, value in run.average.weights.items():
        kept = painter.network.state_dict()[name]
        torch.testing.assert_close(kept, value, atol=2e-3, rtol=2e-3, msg=name)
    assert installed.tasks == ("image-to-views", "text-to-views")


def test_words_are_left_out_of_single_views(base: Path) -> None:
    parts, _ = stable_diffusion.start(str(base), CPU, 0, SPACE)
    assert parts.words is not None
    recipe = dataclasses.replace(RECIPE, dropped=0.5)
    rng = np.random.default_rng(0)
    told = diffusion._told(parts.words, ["a chair", "a table"], recipe, rng)
    assert told.shape == (2, 3, ldm3d_models.LENGTH, 16)
    null = parts.words([""])[0]
    without = (told == null).all(dim=-1).all(dim=-1)
    assert without.any()
    assert not without.all()


def test_bases_that_are_none(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no Stable Diffusion"):
        stable_diffusion.base_of(str(tmp_path))
    with pytest.raises(NotFound, match="no-such-model"):
        stable_diffusion.base_of("no-such-model")
    folder = tmp_path / "v"
    parts = ldm3d_models.parts_of(folder, channels=3)
    path = parts["scheduler/scheduler_config.json"]
    path.write_text(path.read_text().replace("{", '{"prediction_type": "v_prediction", ', 1))
    assert stable_diffusion.base_of(str(folder)).schedule["prediction_type"] == "v_prediction"
    path.write_text(path.read_text().replace("v_prediction", "sample"))
    with pytest.raises(BadInput, match="neither noise nor v"):
        stable_diffusion.base_of(str(folder))


def test_from_the_command_line(
    base: Path, boxes: Boxes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders with transforms.json to an installed model, with layers of one's own choice; a base
    that predicts v learns, too."""
    folder = tmp_path / "base-of-v"
    parts = ldm3d_models.parts_of(folder, channels=3)
    path = parts["scheduler/scheduler_config.json"]
    path.write_text(path.read_text().replace("{", '{"prediction_type": "v_prediction", ', 1))
    for number in range(2):
        write_transforms(tmp_path / "scenes" / f"box-{number}", boxes.scene(number))
    tune = [
        *("views", "fine-tune", "--device", "cpu", "--scenes", str(tmp_path / "scenes")),
        *("-o", str(tmp_path), "--views", "2", "--batch", "1", "--steps", "1"),
    ]
    layers = ["--grid", "16", "--projection-down", "0", "--projection-up", "1", "--rank", "3"]
    target = tmp_path / "my-views"
    chosen = ["--model", str(folder), *layers, "--combine", "zero", "--save", str(target)]
    assert main([*tune, *chosen]) == 0
    out = capsys.readouterr().out
    assert "step 1 of 1" in out
    assert "installed as my-views" in out
    denoiser = weights.read_model(target).config["denoiser"]
    assert denoiser["combine"] == "zero"
    assert denoiser["rank"] == 3
    assert (denoiser["projection_down"], denoiser["projection_up"]) == (0, 1)
    assert denoiser["projection"]["grid"] == 16
    assert denoiser["schedule"]["prediction_type"] == "v_prediction"
    load(weights.read_model(target), CPU, torch.float32)

    assert main([*tune, "--model", str(base), "--combine", "stirred"]) == 2
    assert "combine is 'stirred'" in capsys.readouterr().err
    # Where nobody says, it is the model that new ones begin with; it is not installed here.
    assert main(tune) == 2
    assert "stable-diffusion-2-1-base" in capsys.readouterr().err


def test_what_is_told_of_a_picture_is_of_what_the_model_sees(base: Path, boxes: Boxes) -> None:
    """Mean and variance do not depend on colours that nobody sees under clear pixels."""
    posed = boxes.scene(0, [0, 1, 2])
    alpha = posed.images[..., 3:]
    assert (alpha == 0).any()
    share = alpha / np.float32(255)
    white = np.rint(share * posed.images[..., :3] + 255 * (1 - share)).astype(np.uint8)
    plain = dataclasses.replace(posed, images=np.concatenate([white, np.full_like(alpha, 255)], -1))
    told, expected = (diffusion.intensities([scene]) for scene in (posed, plain))
    torch.testing.assert_close(told, expected, atol=4e-3, rtol=0)
    values = white[1].astype(np.float64) / 127.5 - 1
    assert told[0, 1, 0] == pytest.approx(values.mean(), abs=4e-3)
    assert told[0, 1, 1] == pytest.approx(values.var(ddof=1), abs=4e-3)
    codec = stable_diffusion.start(str(base), CPU, 0, SPACE)[0].codec
    latents = [codec.encode([scene], torch.Generator().manual_seed(0)) for scene in (posed, plain)]
    torch.testing.assert_close(*latents, atol=2e-2, rtol=0)
