from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import BadInput
from backend.models.viewdiff.first_guess import planes_of
from backend.training.loops import Plan, Team
from backend.training.viewdiff import diffusion, guess, networks
from tests.posed_boxes import Boxes

CPU = torch.device("cpu")
ALONE = Team(CPU)
TINY = networks.SIZES["tiny"]


@pytest.fixture(scope="module")
def boxes() -> Boxes:
    return Boxes(2, TINY.size)


def trained(boxes: Boxes, path: Path, steps: int = 60) -> guess.Run:
    plan = Plan(steps=steps, rate=4e-3, warm_up=5)
    return guess.fit(boxes, "tiny", guess.Recipe(2), plan, ALONE, lambda _: None, path)


def error(weights: dict[str, torch.Tensor], boxes: Boxes) -> float:
    """Of views that are not given, all of the first box's."""
    config = networks.config(TINY)
    network = networks.first_guess(config)
    network.load_state_dict(weights)
    codec = diffusion.PixelCodec(networks.latents(TINY), CPU)
    posed = boxes.scene(0)
    latents = codec.encode([posed], torch.Generator())
    given = torch.zeros(latents.shape[:2], dtype=torch.bool)
    given[:, 0] = True
    cameras = diffusion.cameras_of([posed], config).in_front().centred()
    with torch.no_grad():
        found = network(codec.as_given(latents), given, cameras)
    truth = planes_of(latents, codec.pixels)
    return float((found[:, 1:, :5] - truth[:, 1:]).square().mean())


def test_it_learns_what_is_there(boxes: Boxes, tmp_path: Path) -> None:
    begun = trained(boxes, tmp_path / "begun.pt", 1)
    before = error(guess.trained(begun.path)[0], boxes)
    weights, settings = guess.trained(trained(boxes, tmp_path / "whole.pt").path)
    assert settings["numbers"]["step"] == 60
    assert error(weights, boxes) < 0.5 * before


def test_a_run_goes_on_where_it_was(boxes: Boxes, tmp_path: Path) -> None:
    weights, _ = guess.trained(trained(boxes, tmp_path / "whole.pt", 5).path)
    piece = Plan(steps=5, minutes=1e-9, rate=4e-3, warm_up=5)
    for _ in range(5):
        guess.fit(boxes, "tiny", guess.Recipe(2), piece, ALONE, lambda _: None, tmp_path / "b.pt")
    parts, settings = guess.trained(tmp_path / "b.pt")
    assert settings["numbers"]["step"] == 5
    for name, tensor in weights.items():
        torch.testing.assert_close(parts[name], tensor, msg=name)


def test_the_denoiser_takes_it_as_it_is(boxes: Boxes, tmp_path: Path) -> None:
    trained(boxes, tmp_path / "g.pt", 3)
    weights, told = guess.trained(tmp_path / "g.pt")
    parts = diffusion.fresh("tiny", CPU, guess=(weights, told))
    plan = Plan(steps=2, rate=2e-3, warm_up=1)
    recipe = diffusion.OWN["tiny"]
    diffusion.fit(parts, boxes, recipe, plan, ALONE, lambda _: None, tmp_path / "views.pt")
    model, settings = diffusion.trained(tmp_path / "views.pt")
    assert settings["guess"]["step"] == 3
    assert model.first_guess is not None
    for name, tensor in model.first_guess.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    other = diffusion.fresh("tiny", CPU).model.state_dict()
    assert not np.allclose(model.unet.conv_in.weight, other["unet.conv_in.weight"])


def test_what_is_missing_is_said(tmp_path: Path, boxes: Boxes) -> None:
    with pytest.raises(BadInput, match="views guess"):
        guess.trained(tmp_path / "none.pt")
    plan = Plan(steps=9, minutes=1e-9, rate=2e-3, warm_up=1)
    guess.fit(boxes, "tiny", guess.Recipe(2), plan, ALONE, lambda _: None, tmp_path / "part.pt")
    with pytest.raises(BadInput, match="not finished"):
        guess.trained(tmp_path / "part.pt")
    parts = diffusion.fresh("tiny", CPU)
    plan = Plan(steps=1, rate=2e-3, warm_up=1)
    recipe = diffusion.OWN["tiny"]
    diffusion.fit(parts, boxes, recipe, plan, ALONE, lambda _: None, tmp_path / "views.pt")
    with pytest.raises(BadInput, match="views guess"):
        guess.trained(tmp_path / "views.pt")
