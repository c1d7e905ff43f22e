"""Measuring what models of fields make; the model's folder and its card; the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import BadInput
from backend.models.hyperdiffusion.config import FieldConfig
from backend.models.hyperdiffusion.fitting import random_start
from backend.models.hyperdiffusion.model import FieldModel, load
from backend.models.hyperdiffusion.weights_vector import token_sizes, unflatten
from backend.training.__main__ import main
from backend.training.fields import card, data, diffusion, evaluate, export, points, together
from backend.training.fields.data import surface_of
from backend.training.loops import read_checkpoint
from backend.training.metrics import Surface
from tests.training.fields.test_fields_data import ball_item


def _quiet(*_: object) -> None:
    pass


def _ball(radius: float, at: tuple[float, float, float] = (0, 0, 0)) -> Surface:
    def depth(places: np.ndarray) -> np.ndarray:
        away = np.linalg.norm(places - np.array(at, np.float32), axis=1)
        return (radius - away).astype(np.float32)

    return surface_of(depth, 32)


# ------------------------------------------------------------------------------------------ scores


def _still(seed: int, count: int, stretch: float = 1.0) -> np.ndarray:
    """Clouds (count, 1, 200, 3) of boxes of many proportions."""
    draws = np.random.default_rng(seed)
    sides = draws.uniform(0.2, 1.0, (count, 1, 1, 3)) * np.array([stretch, 1, 1])
    return ((draws.random((count, 1, 200, 3)) - 0.5) * sides).astype(np.float32)


def test_sets_tell_copies_from_shapes_of_their_own() -> None:
    training, test = _still(0, 20), _still(1, 16)
    sets = evaluate.Sets(test, training, lambda clouds: clouds.std(axis=1))
    of_test, of_training = sets.rows()
    assert of_test["to training x 100"] > 0
    assert of_training["shapes"] == 16
    assert 0 < of_training["FPD"] < 0.3
    copies = sets.row("copies", training[:16])
    own = sets.row("own", _still(2, 16))
    other = sets.row("other", _still(3, 16, stretch=8))
    assert copies["copies"] == 1
    assert copies["to training x 100"] == pytest.approx(0, abs=1e-6)
    assert own["copies"] < 0.4
    assert other["MMD x 100"] > 1.5 * own["MMD x 100"]
    assert other["FPD"] > 3 * own["FPD"]
    assert other["FPD"] > 3 * of_training["FPD"]
    assert other["1-NNA"] > own["1-NNA"]
    assert own["1-NNA"] == pytest.approx((own["of test"] + own["of made"]) / 2)
    assert own["empty"] == 0
    assert sets.row("empty", np.zeros_like(test))["empty"] == 16


def _moving(step: float) -> np.ndarray:
    """Clouds (3, 16, 200, 3) that turn by `step` radians each frame."""
    cloud = _still(5, 3)[:, 0] * [1, 1, 0.2]
    frames = []
    for frame in range(16):
        cos, sin = np.cos(step * frame), np.sin(step * frame)
        frames.append(cloud @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]))
    return np.stack(frames, axis=1).astype(np.float32)


def test_what_jumps_is_told() -> None:
    smooth, jumping = _moving(0.2), _moving(0.2)
    jumping[:, 1::2] = jumping[:, 1::2, :, ::-1]
    sets = evaluate.Sets(smooth, smooth, None)
    assert sets.row("smooth", smooth)["jumps / training's"] == pytest.approx(1)
    row = sets.row("jumping", jumping)
    assert row["jumps / training's"] > 2
    assert "FPD" not in row


def test_what_jumps_is_measured_beside_things_of_the_same_kinds() -> None:
    slow, fast = _moving(0.1), _moving(0.4)
    kinds = ["snake"] * 3 + ["bird"] * 3
    sets = evaluate.Sets(slow, np.concatenate([slow, fast]), None, kinds)
    birds = sets.row("birds", fast, ["bird"] * 3)["jumps / training's"]
    assert birds == pytest.approx(1)
    assert sets.row("birds", fast)["jumps / training's"] > 1.2
    assert sets.row("snakes", fast, ["snake"] * 3)["jumps / training's"] > 1.5


def test_the_nearest_of_many_are_found() -> None:
    clouds, candidates = _still(0, 3), _still(1, 30)
    found = evaluate.nearest_distances(clouds, candidates)
    np.testing.assert_allclose(found, evaluate.distances(clouds, candidates).min(axis=1))
    own = evaluate.nearest_distances(candidates[4:6], candidates, [4, 5])
    assert own.min() > 0
    assert evaluate.nearest_distances(candidates[4:6], candidates).max() < 1e-6


def test_valid_shapes_in_between() -> None:
    ends = [[_ball(0.2)], [_ball(0.3)]]
    assert evaluate.valid([_ball(0.25)], ends)
    assert not evaluate.valid([_ball(0.1)], ends)  # it almost vanishes
    nothing = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    assert not evaluate.valid([nothing], ends)
    assert not evaluate.valid([nothing], [[nothing], [nothing]])
    assert not evaluate.valid([_ball(0.3, (0.3, 0, 0))], ends)  # cut off at the border
    crumbs = [_ball(0.12, (x, y, 0)) for x in (-0.3, 0, 0.3) for y in (-0.3, 0.3)]
    vertices = np.concatenate([piece[0] for piece in crumbs])
    starts = np.cumsum([0, *(len(piece[0]) for piece in crumbs)])
    faces = np.concatenate([p[1] + s for p, s in zip(crumbs, starts[:-1], strict=True)])
    assert not evaluate.valid([(vertices, faces)], ends)


def test_clouds_of_items_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = ball_item("ball", 0.3, frames=2)
    found = evaluate.clouds_of_items([item], "moving", tmp_path, _quiet, 500)
    assert found.shape == (1, 2, 500, 3)
    np.testing.assert_allclose(np.linalg.norm(found[0, 0], axis=1), 0.3, atol=5e-3)
    monkeypatch.setattr(data.Item, "surfaces", None)
    again = evaluate.clouds_of_items([item], "moving", tmp_path, _quiet, 500)
    np.testing.assert_array_equal(again, found)


# ---------------------------------------------------------------------------------------- the chain

FIELD = FieldConfig(4, 2, (12, 12))
WEIGHTS = sum(token_sizes(FIELD))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sizes of everything, and balls that rise."""
    monkeypatch.setattr(points, "PER_SEQUENCE", 1024)
    monkeypatch.setattr(points, "CHECKED", 1024)
    monkeypatch.setitem(diffusion.PERCEPTRONS, "cpu", (16, 1))
    monkeypatch.setitem(diffusion.BATCH, "components", 8)
    recipe = together.Recipe(components=3, shapes=3, points=64)
    monkeypatch.setitem(together.SIZES, "cpu", recipe)
    monkeypatch.setitem(evaluate.SIDE, "moving", 20)
    from backend.training import fields_commands

    monkeypatch.setattr(fields_commands, "_field", lambda _: FIELD)
    kinds = ("fish", "bird", "fish", "bird")

    def rising(_which: str, side: str, _shapes: object = None) -> list[data.Item]:
        return [
            ball_item(f"{side} {kind} {k}", 0.15 + 0.03 * k, 16, kind)
            for k, kind in enumerate(kinds)
        ]

    monkeypatch.setattr(data, "items", rising)


@pytest.mark.usefixtures("small")
def test_from_shapes_to_a_model_and_its_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["-f", str(tmp_path / "work"), "--set", "moving", "--most", "4"]
    device = ["--device", "cpu"]
    target = tmp_path / "small-creatures"
    assert main(["fields", "points", *common]) == 0
    assert main(["fields", "together", *common, *device, "--steps", "4"]) == 0
    first = tmp_path / "work/moving/together.pt"
    first.rename(tmp_path / "first.pt")
    more = ["--begin-with", str(tmp_path / "first.pt"), "--steps", "4"]
    assert main(["fields", "together", *common, *device, *more]) == 0
    both = [read_checkpoint(path)["numbers"]["seconds"] for path in (tmp_path / "first.pt", first)]
    said = ["--pairs", "1", "--points", "64", "--samples", "2", "--hardware", "On paper."]
    measure = ["fields", "evaluate", *common, *device, *said, str(target)]
    assert main(["fields", "train", *common, *device, "--steps", "4"]) == 0
    left_out = ["--without", "scissors", "pump"]
    assert main(["fields", "export", *common, "--steps", "3", str(target), *left_out]) == 0
    fitted = tmp_path / "work/moving/fitted.json"
    fitted.rename(tmp_path / "fitted.json")
    assert main(measure) == 2  # before anything is computed
    assert "fields train" in capsys.readouterr().err
    (tmp_path / "fitted.json").rename(fitted)
    assert main(measure) == 0
    assert "overlap" in capsys.readouterr().out

    model = load(target)
    assert set(data.creatures.NAMES) - set(model.config.names) == {"scissors", "pump"}
    assert model.config.steps == 3
    assert model.known.shape == (4, 3)
    assert model.known_names[1] == "train bird 1"
    *_, made = model.sample(2, 0, name="fish")
    assert isinstance(made, torch.Tensor)
    assert made.shape == (2, WEIGHTS)

    text = (target / "README.md").read_text("utf-8")
    measured = json.loads((tmp_path / "work/moving/fields-evaluation.json").read_text("utf-8"))
    names = [row["set"] for row in measured["sets"]]
    assert names == ["test", "training", "small-creatures"]
    for words in ("On paper.", "copies", "variations of its training shapes", "4 steps", "CC-BY"):
        assert words in text
    for words in ("badly: scissors, pump", "distance of 64 points", "No baseline was trained"):
        assert words in text
    assert "FPD" not in text
    found = [f"{kind} {value:.2f}" for kind, value in measured["overlap by kind"].items()]
    assert len(found) == 2
    for words in found:
        assert words in text
    assert f"{measured['overlap']:.3f}" in text
    assert "CC0-1.0" in (target / "ATTRIBUTION.md").read_text("utf-8")
    assert (target / "samples.png").exists()
    assert measured["fitting seconds"] == pytest.approx(sum(both))


def test_a_model_of_another_training_is_not_exported(tmp_path: Path) -> None:
    torch.save({"nothing": 1}, tmp_path / "denoiser.pt")
    with pytest.raises(BadInput, match="no state of a training"):
        export.export(tmp_path / "denoiser.pt", tmp_path / "model", title="x")
    assert main(["fields", "points", "-f", str(tmp_path), "--shapes", str(tmp_path / "no")]) == 2


def test_what_comes_out_badly_is_not_offered() -> None:
    """Other names still mean what they meant."""
    config = diffusion.configuration(FIELD, "components", "cpu", 2, ("fish", "bird", "snake"))
    torch.manual_seed(0)
    model = FieldModel(config, 1, ("fish 1",)).eval()
    torch.nn.init.normal_(model.space.basis)
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter)  # the last layer begins as zeros
    fewer = export.offering(model, ["bird"])
    assert fewer.config.names == ("fish", "snake")

    def made(of: FieldModel, name: str) -> torch.Tensor:
        *_, found = of.sample(1, 0, 3, name=name)
        assert isinstance(found, torch.Tensor)
        return found

    for name in ("", "fish", "snake"):
        assert torch.equal(made(fewer, name), made(model, name))
    assert not torch.equal(made(model, "fish"), made(model, "snake"))
    with pytest.raises(BadInput, match="makes no 'bird'"):
        made(fewer, "bird")
    with pytest.raises(BadInput, match="no name 'cat'"):
        export.offering(model, ["cat"])


def test_fields_of_a_model_keep_their_shape_in_half_precision() -> None:
    config = diffusion.configuration(FIELD, "components", "cpu", 2, ())
    model = FieldModel(config, 3, ("a", "b", "c"))
    model.space.mean.copy_(torch.from_numpy(random_start(FIELD)))
    found = export.tensors_of(model)
    assert {tensor.dtype for tensor in found.values()} == {torch.float16}
    halved = unflatten(FIELD, found["space.mean"].float())
    for name, value in unflatten(FIELD, model.space.mean).items():
        torch.testing.assert_close(halved[name], value, rtol=1e-3, atol=1e-4)
    assert found["known"].shape == (3, 2)
    plain = diffusion.configuration(FIELD, "scalar", "cpu", 0, ())
    assert export.tensors_of(FieldModel(plain, 3))["known"].shape == (0, WEIGHTS)


def test_works_of_others_are_attributed() -> None:
    item = ball_item("ball", 0.3)
    theirs = data.Shape("a#b", "chair", "a", "train", "Chair (a#b), Ann, CC-BY-3.0", "f")
    stretched = data.Shape("a#b stretched 1", "chair", "a", "train", theirs.attribution, "f")
    text = card.attribution(
        [item, *(data.Item(shape, "seat", 1, item.depths) for shape in (theirs, stretched))]
    )
    assert text.count("Chair (a#b), Ann") == 1
    assert "https://creativecommons.org/licenses/by/3.0/" in text
    unknown = data.Shape("a#c", "chair", "a", "train", "Chair (a#c), Ann, secret", "f")
    with pytest.raises(BadInput, match="'secret'"):
        card.attribution([data.Item(unknown, "seat", 1, item.depths)])
