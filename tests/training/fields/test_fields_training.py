"""Fitting together, diffusion over fields, the baseline, features: small, on the processor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import BadInput
from backend.models.hyperdiffusion.config import DenoiserConfig, FieldConfig
from backend.models.hyperdiffusion.fitting import Effort
from backend.models.hyperdiffusion.model import ComponentsConfig, FieldModelConfig, Space
from backend.models.hyperdiffusion.weights_vector import token_sizes
from backend.training.fields import diffusion, features, fits, points, together, voxels
from backend.training.fields.diffusion import Recipe
from backend.training.loops import Plan, Team
from tests.training.fields.test_fields_data import ball_item

ALONE = Team(torch.device("cpu"))
FIELD = FieldConfig(3, 2, (16, 16))
WEIGHTS = sum(token_sizes(FIELD))
RADII = (0.2, 0.25, 0.35, 0.4)


def _quiet(*_: object) -> None:
    pass


# --------------------------------------------------------------------------------------- together


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> tuple[points.PointSet, torch.Tensor]:
    """Points and cells of four balls."""
    folder = tmp_path_factory.mktemp("balls")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "PER_SEQUENCE", 4096)
        patch.setattr(points, "CHECKED", 4096)
        made = [ball_item(f"ball {radius}", radius) for radius in RADII]
        points.prepare(made, folder, _quiet)
        voxels.prepare(made, folder, _quiet)
    return points.load(made, folder), voxels.load(made, folder)


def _together(
    balls: tuple[points.PointSet, torch.Tensor], folder: Path, steps: int, minutes: float = 0
) -> together.Run:
    recipe = together.Recipe(components=2, shapes=4, points=512)
    plan = Plan(steps, rate=1e-2, warm_up=10, average=0.99, minutes=minutes)
    return together.fit(balls[0], FIELD, recipe, plan, ALONE, _quiet, folder, balls[1])


def test_fields_fitted_together_are_the_shapes_and_what_lies_between_is_one(
    balls: tuple[points.PointSet, torch.Tensor], tmp_path: Path
) -> None:
    _together(balls, tmp_path, 300)
    weights = together.trained(tmp_path / together.CHECKPOINT)
    fields = together.fields_of(weights)
    assert fields.shape == (4, WEIGHTS)
    overlaps = together.overlaps(FIELD, fields, balls[0])
    assert overlaps.min() > 0.85
    # Another ball's field is no match: the codes tell them apart.
    assert together.overlaps(FIELD, fields.flip(0), balls[0]).max() < 0.6
    # Half-way between those of 0.25 and 0.35 lies a ball of about 0.3.
    middle = (fields[1] + fields[2]) / 2
    axis = torch.linspace(-0.5, 0.5, 40)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).flatten(0, 2)
    inside = together.evaluate(FIELD, middle[None], grid)[0] > 0
    radius = float(inside.float().mean() * 3 / 4 / np.pi) ** (1 / 3)
    assert 0.26 < radius < 0.34


def test_fitting_together_in_pieces_is_fitting_in_one_piece(
    balls: tuple[points.PointSet, torch.Tensor], tmp_path: Path
) -> None:
    _together(balls, tmp_path / "whole", 6)
    for _ in range(6):
        _together(balls, tmp_path / "pieces", 6, minutes=1e-9)  # a step each
    whole, pieces = (
        together.trained(tmp_path / k / together.CHECKPOINT) for k in ("whole", "pieces")
    )
    for name, value in whole.items():
        assert torch.equal(value, pieces[name])
    with pytest.raises(BadInput, match="other settings"):
        _together(balls, tmp_path / "whole", 7)


def test_a_training_can_begin_with_another(
    balls: tuple[points.PointSet, torch.Tensor], tmp_path: Path
) -> None:
    _together(balls, tmp_path / "first", 3)
    before = together.trained(tmp_path / "first" / together.CHECKPOINT)
    recipe = together.Recipe(components=2, shapes=4, points=64)
    plan = Plan(1, rate=1e-9)
    together.fit(balls[0], FIELD, recipe, plan, ALONE, _quiet, tmp_path / "b", balls[1], before)
    after = together.trained(tmp_path / "b" / together.CHECKPOINT)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-7)
    with pytest.raises(BadInput, match="on other shapes"):
        together.fit(
            balls[0], FIELD, together.Recipe(components=3), plan, ALONE, _quiet, tmp_path / "c",
            balls[1], before,
        )  # fmt: skip


def test_codes_begin_with_what_is_alike() -> None:
    cells = torch.zeros(4, 1, 2, 2, 2)
    cells[1, 0, 0], cells[2, 0, 1], cells[3, 0, 1] = 255, 255, 255
    cells[3, 0, 1, 1, 1] = 200
    codes = together.first_codes(cells, 6)
    assert codes.shape == (4, 6)
    assert float(codes.square().mean().sqrt()) == pytest.approx(0.3, rel=1e-4)
    far = torch.cdist(codes, codes)
    assert far[2, 3] < 0.6 * min(far[0, 1], far[0, 2], far[1, 2], far[0, 3])
    assert not codes[:, 3:].any()  # four shapes span three directions


# -------------------------------------------------------------------------------------- one by one


def test_fields_one_by_one_begin_with_the_first_and_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fits, "_NEAR", 500)
    monkeypatch.setattr(fits, "_ANYWHERE", 500)
    begun = []

    def fit(samples: object, config: FieldConfig, start: np.ndarray, *_: object) -> fits.Fitted:
        return fits.Fitted(start + 1, 0.1, 0.99, 5, 1.0, config)

    def fit_many(samples, config, start, effort, seed, device, processes):  # type: ignore[no-untyped-def]
        for number, one in enumerate(samples):
            begun.append(start)
            assert one.points.shape == (1, 1000, 3)
            yield fits.Fitted(start + 10 + number, 0.1, 0.9 + number / 100, 5, 1.0, config)

    monkeypatch.setattr(fits.fitting, "fit", fit)
    monkeypatch.setattr(fits.fitting, "fit_many", fit_many)
    both = [ball_item("a", 0.2), ball_item("b", 0.3)]
    fits.fit_all(both[:1], tmp_path, FIELD, _quiet)
    fits.fit_all(both, tmp_path, FIELD, _quiet)
    assert len(begun) == 2
    np.testing.assert_array_equal(begun[0], begun[1])
    vectors, overlaps = fits.load(both, tmp_path)
    np.testing.assert_array_equal(vectors, [begun[0] + 10, begun[0] + 10])
    assert overlaps.tolist() == [0.9, 0.9]
    assert fits.done([*both, ball_item("c", 0.1)], tmp_path) == both
    for path in (tmp_path / fits.FOLDER).glob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert {"vector", "loss", "iou"} <= {name for name in arrays if arrays[name].size}
    with pytest.raises(BadInput, match="holds no field"):
        fits.load([ball_item("c", 0.1)], tmp_path)


def test_fields_one_by_one_are_the_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "_NEAR", 2048)
    monkeypatch.setattr(fits, "_ANYWHERE", 2048)
    quick = Effort(steps=320, rounds=1, batch=512)
    monkeypatch.setitem(fits.EFFORTS, "best", quick)
    both = [ball_item("small", 0.2), ball_item("large", 0.35)]
    said: list[str] = []
    fits.fit_all(both, tmp_path, FIELD, lambda words, _: said.append(words), quick)
    vectors, overlaps = fits.load(both, tmp_path)
    assert vectors.shape == (2, WEIGHTS)
    assert overlaps.min() > 0.9
    assert said[-1].startswith(f"large: overlap {overlaps[1]:.3f}")
    # All but the first lie near what they began with: nearer than random weights do.
    start = np.load(tmp_path / "fits" / "start.npz")["vector"]
    assert np.linalg.norm(vectors[1] - start) < np.linalg.norm(start)


# -------------------------------------------------------------------------------------- diffusion


def _fields(count: int = 12) -> tuple[torch.Tensor, list[str]]:
    """Two clusters of fields that lie in a plane, of two kinds."""
    draws = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(WEIGHTS, 2, generator=draws)).Q.mT
    amounts = 0.3 * torch.randn(count, 2, generator=draws)
    amounts[: count // 2, 0] += 5
    amounts[count // 2 :, 0] -= 5
    kinds = ["left"] * (count // 2) + ["right"] * (count - count // 2)
    return 0.1 + amounts @ directions, kinds


def _moving_config(space: str) -> FieldModelConfig:
    denoiser: DenoiserConfig | ComponentsConfig = ComponentsConfig(4, 64, 2)
    if space != "components":
        denoiser = DenoiserConfig(token_sizes(FIELD), 16, 1, 2, 8.0)
    names = ("left", "right") if space == "components" else ()
    return FieldModelConfig(FIELD, denoiser, space, names=names)


def _train(folder: Path, space: str, steps: int, minutes: float = 0) -> diffusion.Run:
    fields, kinds = _fields()
    titles = [f"{kind} {number}" for number, kind in enumerate(kinds)]
    plan = Plan(steps, rate=2e-3, warm_up=20, average=0.99, minutes=minutes)
    recipe = Recipe(space, batch=64 if space == "components" else 4)
    return diffusion.fit(
        fields, kinds, titles, _moving_config(space), recipe, plan, ALONE, _quiet,
        folder / diffusion.CHECKPOINT,
    )  # fmt: skip


def test_what_is_made_is_like_the_fields_and_of_the_kind_that_is_asked_for(tmp_path: Path) -> None:
    _train(tmp_path, "components", 400)
    model, settings = diffusion.trained(tmp_path / diffusion.CHECKPOINT)
    assert settings["numbers"]["step"] == 400
    fields, _ = _fields()
    gap = fields[:6].mean(dim=0) - fields[6:].mean(dim=0)
    middle = fields.mean(dim=0)
    sides = {}
    for name in ("left", "right", ""):
        *_, made = model.sample(8, 1, 20, name=name)
        assert isinstance(made, torch.Tensor)
        along = (made - middle) @ gap / gap.square().sum()
        beside = (made - middle) - along[:, None] * gap
        assert beside.norm(dim=1).max() < 3  # in the plane, near the clusters
        sides[name] = along
        assert (along.abs() - 0.5).abs().max() < 0.2
    assert (sides["left"] > 0).all()
    assert (sides["right"] < 0).all()
    assert 0 < (sides[""] > 0).sum() < 8  # both
    (name, far), *_ = model.nearest(fields[3:4] + 0)
    assert name == "left 3"
    assert far < 0.01


@pytest.mark.parametrize("space", ["components", "scalar", "none"])
def test_a_training_in_pieces_is_one_in_one_piece(tmp_path: Path, space: str) -> None:
    _train(tmp_path / "whole", space, 3)
    for _ in range(3):
        _train(tmp_path / "pieces", space, 3, minutes=1e-9)
    whole, _ = diffusion.trained(tmp_path / "whole" / diffusion.CHECKPOINT)
    pieces, settings = diffusion.trained(tmp_path / "pieces" / diffusion.CHECKPOINT)
    assert whole.config == pieces.config == _moving_config(space)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, pieces.state_dict()[name])
    assert settings["kinds"] == _fields()[1]


def test_the_transformer_learns_in_a_scalar_space(tmp_path: Path) -> None:
    losses = []
    fields, kinds = _fields()
    diffusion.fit(
        fields, kinds, kinds, _moving_config("scalar"), Recipe("scalar", batch=16),
        Plan(120, rate=2e-3, warm_up=10), ALONE,
        lambda line: losses.append(float(line.split("loss ")[1].split()[0])),
        tmp_path / "d.pt",
    )  # fmt: skip
    assert losses[-1] < 0.6 * losses[0]


def test_components_are_the_principal_ones() -> None:
    fields, _ = _fields()
    space = Space("components", WEIGHTS, 4)
    diffusion.know(space, fields)
    torch.testing.assert_close(space.decode(space.encode(fields)), fields, rtol=1e-3, atol=1e-4)
    centred = (fields - fields.mean(dim=0)).double()
    variances = torch.linalg.svdvals(centred).square()[:2] / len(fields)
    found = ((fields - space.mean) @ space.basis[:2].mT).double().square().mean(dim=0)
    torch.testing.assert_close(found, variances, rtol=1e-3, atol=1e-5)
    # Each keeps the fourth root of its variance.
    spread = space.encode(fields)[:, :2].square().mean(dim=0)
    assert float(spread[0] / spread[1]) == pytest.approx(
        float((variances[0] / variances[1]).sqrt()), rel=0.01
    )
    scalar = Space("scalar", WEIGHTS)
    diffusion.know(scalar, fields)
    assert float(scalar.encode(fields).square().mean()) == pytest.approx(1, rel=1e-4)


def test_directions_are_those_that_fields_span() -> None:
    fields, _ = _fields()
    assert diffusion.directions(fields, 128) == 2
    assert diffusion.directions(torch.randn(5, WEIGHTS), 128) == 4
    assert diffusion.directions(torch.randn(5, WEIGHTS), 3) == 3


def test_neighbours_are_of_the_same_kind() -> None:
    fields, kinds = _fields()
    config = _moving_config("components")
    model = diffusion.FieldModel(config, len(fields))
    diffusion.know(model.space, fields)
    model.known.copy_(model.space.encode(fields))
    kinds[5] = "alone"
    found = diffusion.neighbours(model, kinds)
    assert found.shape == (12, 6)
    assert found[5].tolist() == [5] * 6
    for number, row in enumerate(found.tolist()):
        assert {kinds[other] for other in row} == {kinds[number]}
        if number != 5:
            assert row[0] != number


def test_sizes_for_cards_are_of_the_same_shape() -> None:
    moving = FieldConfig(4)
    small = diffusion.configuration(moving, "components", "cpu", 64, ("fish", "bird"))
    large = diffusion.configuration(moving, "scalar", "gpu", 0, ("fish", "bird"))
    assert (small.frames, small.names) == (16, ("fish", "bird"))
    assert isinstance(large.denoiser, DenoiserConfig)
    assert sum(large.denoiser.tokens) == 37_889
    assert large.names == ()
    assert diffusion.configuration(FieldConfig(), "components", "cpu", 9, ("seat",)).names == ()


# --------------------------------------------------------------------------------------- baseline


def test_the_baseline_learns_to_take_noise_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(voxels.WIDTHS, "cpu", (8, 8, 8))
    item = ball_item("ball", 0.35, frames=2)
    cells = torch.from_numpy(voxels.cells_of(item))[None]
    plan = Plan(20, rate=1e-2, warm_up=3, average=0.7)
    voxels.fit(cells, voxels.Recipe(batch=2), plan, ALONE, _quiet, tmp_path)
    network = voxels.trained(tmp_path / voxels.CHECKPOINT)
    start, times = voxels.values(cells), torch.tensor([500])
    noised = voxels.DIFFUSION.noised(start, times, torch.randn(start.shape))
    with torch.no_grad():
        found = network(noised, times) > 0
    assert _overlap(found, start > 0) > 0.8
    assert _overlap(noised > 0, start > 0) < 0.6
    with pytest.raises(BadInput, match="holds no fields"):
        together.trained(tmp_path / voxels.CHECKPOINT)
    longer = voxels.fit(
        cells, voxels.Recipe(batch=2), replace(plan, steps=24), ALONE, _quiet, tmp_path
    )
    assert (longer.step, longer.steps) == (24, 24)


def _overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_what_the_baseline_makes_is_of_its_seed_alone() -> None:
    torch.manual_seed(0)
    network = voxels.VoxelDenoiser(1, (8, 8)).eval()
    torch.nn.init.normal_(network.last.weight, std=0.1)
    made = voxels.sample(network, 2, 4, torch.device("cpu"), steps=2)
    alone = voxels.sample(network, 1, 5, torch.device("cpu"), steps=2)
    assert made.shape == (2, 1, 24, 24, 24)
    np.testing.assert_allclose(made[1:], alone, atol=1e-4)
    assert np.abs(made[0] - made[1]).max() > 0.1


# --------------------------------------------------------------------------------------- features


def test_features_tell_things_apart(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    flat = draws.normal(size=(12, 256, 3)) * [1, 0.1, 1]
    round_ = draws.normal(size=(12, 256, 3))
    clouds = np.concatenate([flat, round_]).astype(np.float32)
    labels = np.repeat([0, 1], 12)
    plan = Plan(60, rate=3e-3, warm_up=5, average=0.9)
    features.fit((clouds, labels), plan, ALONE, _quiet, tmp_path, batch=8, points=128)
    judge = features.own(tmp_path / features.CHECKPOINT)
    found = judge(clouds)
    assert found.shape == (24, features.FEATURES)
    within = np.linalg.norm(found[:12] - found[:12].mean(axis=0), axis=1).mean()
    between = np.linalg.norm(found[:12].mean(axis=0) - found[12:].mean(axis=0))
    assert between > 3 * within
    # Points have no order.
    np.testing.assert_allclose(judge(clouds[:, ::-1]), found, atol=1e-4)
    sequences = features.of_sequences(judge, clouds.reshape(12, 2, 256, 3))
    assert sequences.shape == (12, features.FEATURES)


def test_of_a_draw_that_leaves_nothing_another_thing_is_made() -> None:
    drawn = np.random.Generator(np.random.PCG64([features._SEED, 323, 0]))
    with pytest.raises(ValueError, match="empty"):
        features.surface_of_solid(features.generated.FAMILIES[3](drawn)[0], 48)
    vertices, faces = features._thing(3, 323)
    assert np.ptp(vertices, axis=0).min() > 0
    assert len(faces) > 100


def test_features_can_be_given() -> None:
    assert features.given("numpy:ravel") is np.ravel
    with pytest.raises(BadInput, match=r"no features 'numpy:nothing'"):
        features.given("numpy:nothing")


def test_clouds_to_tell_apart_are_of_all_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = features._jobs()
    assert len(jobs) == len({label for label, _ in jobs}) * features.PER_CLASS
    assert len({label for label, _ in jobs}) >= 40
    monkeypatch.setattr(features, "_jobs", lambda: [jobs[0], jobs[-1]])
    made, labels = features.clouds(tmp_path, _quiet)
    assert made.shape == (2, 2048, 3)
    assert labels.tolist() == [jobs[0][0], jobs[-1][0]]
    np.testing.assert_allclose(made.mean(axis=1), 0, atol=1e-2)
    monkeypatch.setattr(features, "_cloud", None)  # kept, so not made again
    np.testing.assert_array_equal(features.clouds(tmp_path, _quiet)[0], made)
