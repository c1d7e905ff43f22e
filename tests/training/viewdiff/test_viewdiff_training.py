"""Training a multi-view model: what is drawn, what is learned, what comes out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import weights
from backend.errors import BadInput
from backend.geometry.view_fusion import projections, unprojected
from backend.models.viewdiff.first_guess import latents_of
from backend.models.viewdiff.model import ViewDiff
from backend.models.viewdiff.painter import ViewPainter
from backend.models.viewdiff.painter_files import load
from backend.posed_images import PosedImages
from backend.training.loops import Plan, Team
from backend.training.packed import Shape
from backend.training.viewdiff import card, diffusion, evaluate, export, networks
from backend.training.viewdiff.diffusion import OWN, PUBLISHED, Recipe
from backend.training.viewdiff.scenes import Record
from tests.posed_boxes import Boxes, block

CPU = torch.device("cpu")
ALONE = Team(CPU)
PLAN = Plan(steps=6, rate=2e-3, warm_up=2)
TINY = networks.SIZES["tiny"]


@pytest.fixture(scope="module")
def boxes() -> Boxes:
    return Boxes(3, TINY.size)


# --------------------------------------------------------------------------------------------- data


def test_a_mirrored_scene_is_that_of_a_mirrored_world(boxes: Boxes) -> None:
    """Places that pixels show, found through pose, lens and depth, have their x turned around."""
    posed = boxes.scene(0, [3])
    flipped = diffusion.mirrored(posed)
    assert np.linalg.det(flipped.poses[0, :3, :3]) == pytest.approx(1, abs=1e-5)

    def places(one: PosedImages) -> tuple[np.ndarray, np.ndarray]:
        assert one.depths is not None
        row, column = np.nonzero(one.depths[0])
        at = np.stack([column, row, one.depths[0][row, column]], axis=1)
        found = unprojected(one.poses[0].astype(float), one.intrinsics[0], at)
        return found, one.images[0][row, column]

    here, colours = places(posed)
    there, other = places(flipped)
    there[:, 0] *= -1
    for points in (here, there):
        points[:] = np.round(points, 4)
    first, second = np.lexsort(here.T), np.lexsort(there.T)
    np.testing.assert_allclose(here[first], there[second], atol=2e-4)
    np.testing.assert_array_equal(colours[first], other[second])


def test_cameras_as_the_network_has_them_see_what_the_pictures_show(boxes: Boxes) -> None:
    posed = boxes.scene(1, [0, 9])
    cameras = diffusion.cameras_of([posed], networks.config(TINY))
    point = np.array([0.3, -0.2, 0.4, 1.0])
    for view, matrix in enumerate(projections(posed.poses, posed.intrinsics)):
        x, y, depth = matrix @ point
        seen = cameras.world2cam[0, view].numpy() @ point
        fx, fy, cx, cy = cameras.intrinsics[0, view].tolist()
        assert seen[2] == pytest.approx(depth, rel=1e-5)
        assert fx * seen[0] / seen[2] + cx == pytest.approx(x / depth, rel=1e-4)
        assert fy * seen[1] / seen[2] + cy == pytest.approx(y / depth, rel=1e-4)
    assert (cameras.bbox[0, 1] == networks.HALF_BOX).all()


def test_views_are_drawn_as_the_recipe_says(boxes: Boxes) -> None:
    rng = np.random.default_rng(0)
    recipe = Recipe(8, 4, usual=1.0, in_order=0.0)
    for _ in range(20):
        views = diffusion._chosen(boxes, 0, recipe, rng)
        assert len(set(views)) == 4
        elevation = np.degrees(np.arcsin(boxes.poses(0)[views[0], 2, 2]))
        assert -12.1 <= elevation <= 45.1
    ordered = dataclasses.replace(recipe, in_order=1.0)
    steps = set()
    for _ in range(60):
        gaps = np.diff(diffusion._chosen(boxes, 0, ordered, rng))
        assert len(set(gaps)) == 1
        steps.add(int(gaps[0]))
    assert steps == {1, 2, 3, 4}
    with pytest.raises(BadInput, match="24 views"):
        diffusion._chosen(boxes, 0, Recipe(1, 25), rng)


def test_given_views_are_the_first_ones_as_often_as_said() -> None:
    rng = np.random.default_rng(1)
    drawn = np.concatenate([diffusion._given(PUBLISHED, rng) for _ in range(500)])
    np.testing.assert_allclose(drawn.mean(axis=0), [0.25, 0.25, 0, 0, 0], atol=0.03)
    # One view is left to make, however few there are.
    two = diffusion._given(Recipe(50, 2, given=(1.0, 1.0)), rng)
    assert (two == [True, False]).all()


def test_given_pictures_come_without_depth() -> None:
    parts = diffusion.fresh("tiny", CPU)
    latents = torch.randn(2, 3, 20, 8, 8)
    known = parts.codec.as_given(latents)
    torch.testing.assert_close(known[:, :, :16], latents[:, :, :16])
    assert (known[:, :, 16:] == 0).all()


# --------------------------------------------------------------------------------------- training


class Perfect(torch.nn.Module):
    """Answers v exactly, from what it is told; remembers what it was asked."""

    def __init__(self, config: object, starts: torch.Tensor, levels: torch.Tensor) -> None:
        super().__init__()
        self.config, self.starts, self.levels = config, starts, levels
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, noised, times, words, cameras, novel=0):  # type: ignore[no-untyped-def]
        self.asked = (noised, times, novel)
        level = self.levels[times][..., None, None, None]
        noise = (noised - level.sqrt() * self.starts) / (1 - level).sqrt()
        return self.weight * (level.sqrt() * noise - (1 - level).sqrt() * self.starts)


def test_the_loss_is_of_what_is_not_given_alone(boxes: Boxes) -> None:
    """A network that is right everywhere else, and wrong where views are given, has none."""
    parts = diffusion.fresh("tiny", CPU)
    levels = diffusion.alphas(parts.config.schedule)
    posed = [boxes.scene(k, [0, 7, 12]) for k in range(2)]
    starts = parts.codec.encode(posed, torch.Generator())
    known = parts.codec.as_given(starts)
    given = torch.tensor([[True, False, False], [False, False, False]])
    alone = dataclasses.replace(parts.config, guess_noise=0.0)
    perfect = Perfect(alone, starts, levels)
    asked = dataclasses.replace(parts, model=perfect)
    cameras = diffusion.cameras_of(posed, parts.config)
    loss = diffusion.loss_of(
        asked, levels, starts, known, given, cameras, None, torch.Generator().manual_seed(2), 1
    )
    assert loss < 1e-6
    noised, times, novel = perfect.asked
    torch.testing.assert_close(noised[0, 0], known[0, 0])
    assert times[0, 0] == 0
    assert times[0, 1] == times[0, 2] > 0
    assert times[1, 0] == times[1, 1] == times[1, 2] != times[0, 1]
    assert novel == 1


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_targets_give_the_picture_back_as_the_scheduler_reads_them(kind: str) -> None:
    from diffusers import DDIMScheduler

    schedule = {**networks.SCHEDULE, "prediction_type": kind}
    levels = diffusion.alphas(schedule)
    starts, noise = torch.rand(2, 3, 4, 4) * 2 - 1, torch.randn(2, 3, 4, 4)
    scheduler = DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(1000)
    level = levels[700]
    noised = level.sqrt() * starts + (1 - level).sqrt() * noise
    target = diffusion.target_of(schedule, starts, noise, level)
    found = scheduler.step(target, 700, noised).pred_original_sample
    torch.testing.assert_close(found, starts, atol=1e-4, rtol=0)
    with pytest.raises(BadInput, match="flow"):
        diffusion.target_of({"prediction_type": "flow"}, starts, noise, level)


def test_a_run_in_pieces_is_a_run_in_one_piece(tmp_path: Path, boxes: Boxes) -> None:
    def fit(path: Path, plan: Plan) -> diffusion.Run:
        parts = diffusion.fresh("tiny", CPU)
        return diffusion.fit(parts, boxes, OWN["tiny"], plan, ALONE, print, path)

    whole = fit(tmp_path / "whole.pt", PLAN)
    fit(tmp_path / "pieces.pt", dataclasses.replace(PLAN, minutes=1e-9))
    again = fit(tmp_path / "pieces.pt", PLAN)
    assert whole.step == again.step == 6
    for name, value in whole.module.state_dict().items():
        torch.testing.assert_close(again.module.state_dict()[name], value, msg=name)
    # It may be made longer; other settings are another run.
    longer = fit(tmp_path / "pieces.pt", dataclasses.replace(PLAN, steps=8))
    assert longer.step == 8
    with pytest.raises(BadInput, match="other settings"):
        fit(tmp_path / "pieces.pt", dataclasses.replace(PLAN, rate=1e-4))


def test_volume_renderers_learn_at_a_rate_of_their_own(tmp_path: Path) -> None:
    parts = diffusion.fresh("tiny", CPU)
    run = diffusion.begin(parts, PUBLISHED, PLAN, ALONE, tmp_path / "a.pt")
    renderers = {id(value) for _, value in parts.model.renderer_parameters()}
    assert renderers
    for group in run.optimizer.param_groups:
        mine = {id(value) for value in group["params"]}
        assert mine == renderers if group["pace"] == 20 else not mine & renderers
        assert (group["weight_decay"] == 0) == (group["pace"] == 20)


def test_layers_in_space_are_added_to_what_was_trained_without(
    tmp_path: Path, boxes: Boxes
) -> None:
    """They are nothing at first, so it begins where the other training ended."""
    path = made_run(tmp_path, boxes, projection=False)
    before, _ = diffusion.trained(path)
    parts = diffusion.going_on(path, "tiny", CPU)
    assert parts.config.projection.guided
    assert parts.settings["begun with"]["numbers"]["step"] == 6
    assert parts.settings["begun with"]["projection"] is False
    cameras = diffusion.cameras_of([boxes.scene(0, [0, 5, 9])], parts.config)
    latents, times = torch.randn(1, 3, 20, 8, 8), torch.tensor([[0, 90, 90]])
    with torch.no_grad():
        here, there = (
            model.eval()(latents, times, None, cameras) for model in (parts.model, before)
        )
    torch.testing.assert_close(here, there)
    target = tmp_path / "on.pt"
    run = diffusion.fit(parts, boxes, OWN["tiny"], PLAN, ALONE, lambda _: None, target)
    layers = [
        value for name, value in run.module.named_parameters() if ".combination.linear." in name
    ]
    assert layers
    assert all(value.abs().max() > 0 for value in layers)
    # It goes on without what it began with, and so can what came of it.
    path.rename(tmp_path / "gone.pt")
    fits = diffusion.begun_already(target, "tiny", CPU, projection=True)
    assert fits is not None
    assert diffusion.begun_already(tmp_path / "gone.pt", "tiny", CPU, projection=False) is None
    assert diffusion.begun_already(tmp_path / "none.pt", "tiny", CPU, projection=True) is None
    longer = dataclasses.replace(PLAN, steps=7)
    assert diffusion.fit(fits, boxes, OWN["tiny"], longer, ALONE, print, target).step == 7
    again = diffusion.going_on(target, "tiny", CPU)
    twice = again.settings["begun with"]
    assert twice["begun with"]["numbers"]["step"] == 6
    installed = export.export(target, tmp_path / "small-views", title="Small")
    assert export.steps_of(installed.source["training"]) == 13
    told = card.card(installed, [], {"psnr": 1.0, "shapes": 1.0}, {}, "One core.")
    assert "7 steps of 2 scenes" in told
    assert "It began with the weights of one without layers in space, after 6 steps" in told
    diffusion.fit(again, boxes, OWN["tiny"], PLAN, ALONE, print, tmp_path / "third.pt")
    third = export.export(tmp_path / "third.pt", tmp_path / "third-views", title="Third")
    assert export.steps_of(third.source["training"]) == 19
    told = card.card(third, [], {"psnr": 1.0, "shapes": 1.0}, {}, "One core.")
    assert "It began with the weights of one with layers in space, after 7 steps" in told
    assert "That one began with the weights of one without layers in space, after 6" in told


def test_networks_of_other_parts_are_no_beginning(tmp_path: Path, boxes: Boxes) -> None:
    path = made_run(tmp_path, boxes)
    for size, projection in (("cpu", True), ("tiny", False)):
        with pytest.raises(BadInput, match="other parts, sizes"):
            diffusion.going_on(path, size, CPU, projection)


def test_layers_of_another_kind_are_no_beginning(
    tmp_path: Path, boxes: Boxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their weights would fit, and not act as they were trained to."""
    kind = networks.config

    def earlier(*given: object) -> object:
        made = kind(*given)
        plain = dataclasses.replace(made.projection, guided=False)
        return dataclasses.replace(made, combine="add", projection=plain)

    monkeypatch.setattr(networks, "config", earlier)
    path = made_run(tmp_path, boxes)
    monkeypatch.setattr(networks, "config", kind)
    with pytest.raises(BadInput, match="earlier version"):
        diffusion.going_on(path, "tiny", CPU)


def test_layers_added_to_attention_alone_are_nothing_at_first(tmp_path: Path, boxes: Boxes) -> None:
    parts = diffusion.fresh("tiny", CPU, projection=False, guesses=False)
    path = tmp_path / "alone.pt"
    diffusion.fit(parts, boxes, OWN["tiny"], PLAN, ALONE, lambda _: None, path)
    before, _ = diffusion.trained(path)
    after = diffusion.going_on(path, "tiny", CPU).model
    assert after.config.has_projection
    cameras = diffusion.cameras_of([boxes.scene(0, [0, 5, 9])], after.config)
    latents, times = torch.randn(1, 3, 20, 8, 8), torch.tensor([[0, 400, 400]])
    with torch.no_grad():
        here, there = (model.eval()(latents, times, None, cameras) for model in (after, before))
    torch.testing.assert_close(here, there)


def test_what_was_drawn_before_is_not_drawn_again(
    tmp_path: Path, boxes: Boxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, ...]] = []
    draw = diffusion.drawn

    def noted(*given: object) -> list[diffusion.Drawn]:
        found = draw(*given)
        drawn.append(tuple(one.posed.poses.tobytes().__hash__() for one in found))
        return found

    monkeypatch.setattr(diffusion, "drawn", noted)
    path = made_run(tmp_path, boxes)
    for number in range(2):
        parts = diffusion.going_on(path, "tiny", CPU)
        path = tmp_path / f"{number}.pt"
        diffusion.fit(parts, boxes, OWN["tiny"], PLAN, ALONE, lambda _: None, path)
    assert len(drawn) == 18
    assert len(set(drawn)) == 18


def test_it_learns(tmp_path: Path, boxes: Boxes) -> None:
    parts = diffusion.fresh("tiny", CPU)
    told: list[str] = []
    plan = Plan(steps=60, rate=4e-3, warm_up=5)
    diffusion.fit(parts, boxes, OWN["tiny"], plan, ALONE, told.append, tmp_path / "a.pt")
    losses = [float(line.split("loss ")[1].split()[0]) for line in told if "loss" in line]
    assert losses[-1] < 0.75 * losses[0]


def test_what_was_made_before_is_remembered(boxes: Boxes) -> None:
    parts = diffusion.fresh("tiny", CPU)
    levels = diffusion.alphas(parts.config.noising)
    prior = diffusion.Prior(torch.randn(5, 20, 8, 8), ["a box"] * 5, weight=0.1, batch=2)
    shown = diffusion.step_of_prior(parts, prior, levels, np.random.default_rng(0), 0.5)
    assert torch.isfinite(shown["prior"])
    gradients = [p.grad for p in parts.model.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in gradients) > 0


# ------------------------------------------------------------------------------------------ results


def made_run(folder: Path, boxes: Boxes, projection: bool = True) -> Path:
    parts = diffusion.fresh("tiny", CPU, projection)
    path = folder / diffusion.CHECKPOINT
    diffusion.fit(parts, boxes, OWN["tiny"], PLAN, ALONE, lambda line: None, path)
    return path


def test_an_exported_model_paints_as_the_trained_one(tmp_path: Path, boxes: Boxes) -> None:
    path = made_run(tmp_path, boxes)
    installed = export.export(path, tmp_path / "small-views", title="Small")
    assert installed.tasks == ("image-to-views",)
    painter = load(installed, CPU, torch.float32)
    model, settings = diffusion.trained(path)
    assert settings["numbers"]["step"] == 6
    trained = ViewPainter(export.painter_config(model.config), model)
    truth = boxes.scene(0, [0, 1, 2])
    one, other = (evaluate.painted(p, truth, 3, 5) for p in (painter, trained))
    np.testing.assert_array_equal(one.images[0], truth.images[0])  # the given one
    difference = np.abs(one.images.astype(int) - other.images.astype(int))
    assert difference.mean() < 1.5  # half precision
    assert one.depths is not None
    assert weights.read_model(tmp_path / "small-views").source["training"]["step"] == 6


@pytest.mark.parametrize("size", networks.SIZES)
def test_what_can_be_trained_can_be_exported(size: str) -> None:
    with torch.device("meta"):
        model = ViewDiff(networks.config(networks.SIZES[size]))
    total = sum(
        value.numel() * (4 if export._is_fine(name) else 2)
        for name, value in model.unet.state_dict().items()
    )
    assert total < 0.95 * export.MOST_BYTES


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    state = {"settings": json.dumps({"joint": 1}), "module": {}, "average": {},
             "numbers": {}, "extra": {}}  # fmt: skip
    torch.save(state, tmp_path / "views.pt")
    with pytest.raises(BadInput, match="no training of views"):
        export.export(tmp_path / "views.pt", tmp_path / "m", title="M")


def test_true_views_measure_as_perfect(boxes: Boxes) -> None:
    config = export.painter_config(networks.config(networks.SIZES["cpu"]))
    scene = block(4)
    shape = Shape("test#4", "a box", "generated", "test", "CC0-1.0")
    poses, lens = evaluate._cameras(config, 1.5)
    truth = evaluate.true_views(scene, poses, lens, 64)
    test = evaluate.Test(Record(shape), scene, truth)
    row = evaluate.measured(test, truth)
    assert row["psnr"] == 100
    assert row["outline overlap"] == 1
    assert row["depth error"] == 0
    assert row["reprojection"] == row["reprojection of the truth"] > 25
    assert row["solid of depth"] == row["solid of true views"] > 0.9
    assert row["solid of outlines"] > 0.75
    # Views in another order do not fit together.
    shuffled = dataclasses.replace(truth, images=truth.images[[0, 3, 6, 1, 4, 7, 2, 5, 8, 9]])
    worse = evaluate.measured(test, shuffled)
    assert worse["reprojection"] < row["reprojection"] - 5
    assert worse["solid of outlines"] < row["solid of outlines"]


def test_sheet_and_card(tmp_path: Path, boxes: Boxes) -> None:
    installed = export.export(made_run(tmp_path, boxes), tmp_path / "small-views", title="Small")
    painter = load(installed, CPU, torch.float32)
    shape = Shape("test#0", "a box", "generated", "test", "made by Fieldforge (box), CC0-1.0")
    bought = Shape("test#1", "a chair", "A", "train", "Chair (A#1), Ann, CC-BY-3.0")
    scene = block(4)
    poses, lens = evaluate._cameras(painter.config, 1.5)
    test = evaluate.Test(Record(shape), scene, evaluate.true_views(scene, poses, lens, TINY.size))
    means, views = evaluate.evaluate(painter, [test], 2, 0, lambda words, fraction: None)
    assert means["shapes"] == 1
    evaluate.sheet([test], views, tmp_path / "sheet.png")
    from PIL import Image

    with Image.open(tmp_path / "sheet.png") as page:
        assert page.size == (10 * TINY.size, 3 * TINY.size + 14)
    paths = card.write(
        installed,
        [Record(shape), Record(bought)],
        means,
        {card.NEITHER: {"psnr": 1.25, card.STEPS: 17.0}},
        tmp_path,
        "One core.",
    )
    text = paths[0].read_text("utf-8")
    for words in (
        "6 steps of 2 scenes of 3 views",
        "One core.",
        "1.25",
        "reprojection",
        "2 shapes",
        "attention alone between views, trained 17 steps.",
    ):
        assert words in text
    assert "first guess shows" not in text
    told = paths[1].read_text("utf-8")
    assert "Chair (A#1), Ann" in told
    assert "EfficientNet" not in text + told  # so small a model has seen no photographs


def test_what_sees_is_named(tmp_path: Path, boxes: Boxes) -> None:
    installed = export.export(made_run(tmp_path, boxes), tmp_path / "small-views", title="Small")
    installed.config["denoiser"]["guess"]["sight"] = 8
    bought = Shape("test#1", "a chair", "A", "train", "Chair (A#1), Ann, CC-BY-3.0")
    measured = {"psnr": 20.0, "shapes": 3.0}
    beside = {card.FIRST_GUESS: {"psnr": 19.25}}
    for path in card.write(installed, [Record(bought)], measured, beside, tmp_path, "One core."):
        assert "EfficientNet-Lite0" in path.read_text("utf-8")
    assert "19.25" in (tmp_path / "README.md").read_text("utf-8")


def test_apart_is_the_same_model_without_agreement(tmp_path: Path, boxes: Boxes) -> None:
    installed = export.export(made_run(tmp_path, boxes), tmp_path / "small-views", title="Small")
    painter = load(installed, CPU, torch.float32)
    alone = evaluate.apart(painter)
    assert painter.network.config.agreement == 1.0
    assert alone.config.denoiser.agreement == alone.network.config.agreement == 0.0
    assert alone.network.unet is painter.network.unet
    truth = boxes.scene(0, [0, 1, 2, 3])
    with_it, without = (evaluate.painted(one, truth, 2, 5).images for one in (painter, alone))
    assert (with_it[..., :3] != without[..., :3]).any()


def test_of_no_steps_comes_the_first_guess(boxes: Boxes) -> None:
    model = diffusion.fresh("tiny", CPU).model.eval().requires_grad_(False)
    painter = ViewPainter(export.painter_config(model.config), model)
    truth = boxes.scene(0, [0, 1, 2])
    found = evaluate.painted(painter, truth, 0, 5)
    known = painter.latents(truth.images)
    cameras = diffusion.cameras_of([truth], model.config)
    given = torch.tensor([[True, False, False]])
    guess = latents_of(model.guessed(known[None], given, cameras), painter.config.pixels)[0]
    expected, _ = painter.pictures(guess)
    assert np.abs(found.images[1:].astype(int) - expected[1:]).max() <= 1
    again = evaluate.painted(painter, truth, 0, 6)
    assert again.images.tobytes() == found.images.tobytes()  # nothing of it is chance
