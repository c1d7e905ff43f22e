"""Going on with a Stable Diffusion, in miniature."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import BadInput, NotFound
from backend.models.viewdiff.config import ProjectionConfig
from backend.models.viewdiff.model import is_new
from backend.models.viewdiff.painter_files import load
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
    with pytest.raises(BadInput, match="does not predict noise"):
        stable_diffusion.base_of(str(folder))
