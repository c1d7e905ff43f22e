"""Fields fitted to points: as published, lean, and many at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from backend.models.hyperdiffusion import fitting, occupancy, surface
from backend.models.hyperdiffusion.config import FieldConfig
from backend.models.hyperdiffusion.field import OccupancyField, evaluate
from backend.models.hyperdiffusion.fitting import Effort
from backend.models.hyperdiffusion.occupancy import Samples
from backend.models.hyperdiffusion.weights_vector import flatten, token_sizes, unflatten
from tests.hyperdiffusion_golden import arrays, field, tensors

SMALL = FieldConfig(3, 2, (32, 32))
QUICK = Effort(steps=375, rounds=1, batch=256)


def _ball(points: np.ndarray) -> np.ndarray:
    inside: np.ndarray = np.linalg.norm(points, axis=1) < 0.3
    return inside


def _moved(along: float) -> occupancy.Inside:
    return lambda points: _ball(points - np.array([along, 0, 0], np.float32))


def _samples(*insides: occupancy.Inside, count: int = 4000, check: int = 4000) -> Samples:
    return occupancy.sample_analytic(insides or (_ball,), 0, count, count, check, side=24)


@pytest.fixture(scope="module")
def ball() -> Samples:
    return _samples()


# --------------------------------------------------------------------------------------- published


def _published_field() -> OccupancyField:
    config, vector = field("mlp3d_rand")
    made = OccupancyField(config)
    made.load_state_dict(unflatten(config, vector))
    return made


def test_steps_of_the_published_loop() -> None:
    golden = tensors("overfit_steps")
    made = _published_field()
    adam = torch.optim.Adam(made.parameters(), lr=fitting.PUBLISHED_RATE)
    losses = []
    for step, (points, inside) in enumerate(zip(golden["coords"], golden["occ"], strict=True)):
        losses.append(fitting.published_step(made, adam, points, inside[:, 0]))
        if not step:
            found = flatten(made.config, {k: p.grad for k, p in made.named_parameters()})
            largest = golden["grad_step0"].abs().max()
            assert (found - golden["grad_step0"]).abs().max() <= 1e-5 * largest
    expected = golden["loss"].numpy()
    assert losses[:3] == pytest.approx(expected[:3], rel=1e-4)
    assert losses == pytest.approx(expected, rel=2e-2)
    final = flatten(made.config, made.state_dict())
    assert (final - golden["flat_final"]).abs().mean() < 1e-3


def test_rates_and_end_of_the_published_loop() -> None:
    golden = arrays("lr_trace")
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=fitting.PUBLISHED_RATE)
    plateau = fitting.Plateau(adam)
    stopped = -1
    for epoch, (loss, expected) in enumerate(
        zip(golden["epoch_loss"], golden["lr_after"], strict=True)
    ):
        plateau.after_epoch(float(loss))
        assert plateau.rate == pytest.approx(expected, rel=1e-12)
        if plateau.stopped and stopped < 0:
            stopped = epoch
    assert stopped == int(golden["stop_epoch"])


def test_published_fit(ball: Samples) -> None:
    told: list[tuple[float, float]] = []
    first = fitting.fit_published(ball, SMALL, epochs=8, report=lambda *now: told.append(now))
    assert first.steps == 8 * 3  # batches of 2048 of 8000 points
    assert [share for share, _ in told] == pytest.approx(np.arange(1, 9) / 8)
    assert told[-1][1] < told[0][1]
    assert first.loss == told[-1][1]
    again = fitting.fit_published(ball, SMALL, epochs=8, gradient_of_points=True)
    assert np.array_equal(first.vector, again.vector)  # nothing is made of that gradient
    onwards = fitting.fit_published(ball, SMALL, first.vector, epochs=40)
    assert onwards.iou > max(first.iou, 0.9)


def test_published_fit_ends_without_progress(
    ball: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "published_step", lambda *_: 1.0)
    assert fitting.fit_published(ball, SMALL).steps == (1 + 50) * 3


def test_batches_of_moving_fields_are_published_ones() -> None:
    samples = _samples(*[_moved(0.02 * frame) for frame in range(4)], count=300, check=0)
    draws = torch.Generator().manual_seed(0)
    seen: set[int] = set()
    for _ in range(20):
        chosen = fitting._published_draws(samples, draws).view(16, 128)
        frames, points = chosen // 600, chosen % 600
        assert (frames == frames[:, :1]).all()
        assert (points == points[:1]).all()
        seen |= set(frames[:, 0].tolist())
    assert seen == {0, 1, 2, 3}


# -------------------------------------------------------------------------------------------- lean


@pytest.mark.parametrize(
    "config",
    [
        FieldConfig(),
        FieldConfig(4),
        SMALL,
        FieldConfig(4, 0, (8,)),
        FieldConfig(3, 1, (5, 9, 7)),
        FieldConfig(4, 1, (8,), period=16),
    ],
)
@pytest.mark.parametrize("low", [False, True])
def test_gradients_are_those_of_automatic_differentiation(
    config: FieldConfig, low: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "has_fast_bfloat16", lambda: low)
    monkeypatch.setattr(fitting, "_SETTLED", -1.0)  # none is left out
    start = fitting.random_start(config, 3)
    draws = torch.Generator().manual_seed(1)
    points = torch.rand(256, config.dimensions, generator=draws) - 0.5
    inside = (points[:, 0] > 0.1).float()
    descent = fitting._Descent(config, start)
    loss = descent.step(points, inside, 0.0)
    vector = torch.from_numpy(start).requires_grad_()
    expected = F.binary_cross_entropy_with_logits(evaluate(config, vector[None], points)[0], inside)
    expected.backward()
    assert vector.grad is not None
    assert descent.vector.grad is not None
    near = 5e-2 if low else 1e-5
    assert float(loss) == pytest.approx(expected.item(), rel=near)
    for found, wanted in zip(
        unflatten(config, descent.vector.grad).values(),
        unflatten(config, vector.grad).values(),
        strict=True,
    ):
        assert (found - wanted).norm() <= near * wanted.norm()
    assert torch.equal(descent.vector, torch.from_numpy(start))  # at a rate of 0


def test_settled_points_are_left_out_and_weigh_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "has_fast_bfloat16", lambda: False)
    config, vector = field("mlp3d_fit")
    points = torch.rand(2048, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    inside = (evaluate(config, vector[None], points)[0] > 0.5).float()
    sizes: list[int] = []
    kept = fitting._unsettled

    def counted(
        layers: list[torch.Tensor], residuals: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        layers, residuals = kept(layers, residuals)
        sizes.append(len(residuals))
        return layers, residuals

    monkeypatch.setattr(fitting, "_unsettled", counted)
    gradients = []
    for settled in (-1.0, 1e-2):
        monkeypatch.setattr(fitting, "_SETTLED", settled)
        descent = fitting._Descent(config, vector.numpy())
        descent.step(points, inside, 0.0)
        assert descent.vector.grad is not None
        gradients.append(descent.vector.grad.clone())
    assert sizes == [2048, 512]
    assert (gradients[0] - gradients[1]).norm() < 0.01 * gradients[0].norm()


def test_steps_of_matrices_are_as_long_in_every_direction() -> None:
    draws = torch.Generator().manual_seed(0)
    for shape in ((128, 39), (3, 40, 40), (16, 96)):
        matrices = torch.randn(*shape, generator=draws) * 1e-3
        found = fitting._orthogonal(matrices)
        values = torch.linalg.svdvals(found)
        assert values.max() < 1.3
        assert values.median() > 0.6
        # Its directions are those of the matrix.
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        turned = left.mT @ found @ right.mT
        off = turned - torch.diag_embed(torch.diagonal(turned, dim1=-2, dim2=-1))
        assert off.abs().max() < 1e-2


def test_a_start_of_many_fields_goes_as_each_alone() -> None:
    start = torch.from_numpy(fitting.random_start(SMALL, 2))
    points = torch.rand(300, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    ends = []
    for vectors in (start[None].clone(), start.repeat(3, 1)):
        vectors.requires_grad_()
        vectors.grad = torch.zeros_like(vectors)
        optimizer = fitting._Optimizer(SMALL, vectors)
        for _ in range(5):
            vectors.grad.zero_()
            evaluate(SMALL, vectors, points).square().sum().backward()
            optimizer.step(0.01)
        ends.append(vectors.detach())
    assert (ends[0] - start).abs().max() > 0.02
    for vector in ends[1]:
        torch.testing.assert_close(vector, ends[0][0], atol=2e-4, rtol=0)


def test_lean_fit(ball: Samples) -> None:
    told: list[tuple[float, float]] = []
    fitted = fitting.fit(ball, SMALL, effort=QUICK, report=lambda *now: told.append(now))
    assert fitted.iou > 0.95
    assert fitted.vector.dtype == np.float32
    assert fitted.steps == 375
    assert fitted.seconds > 0
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert fitted.loss == told[-1][1] < told[0][1]
    again = fitting.fit(ball, SMALL, effort=QUICK)
    assert np.array_equal(again.vector, fitted.vector)
    assert not np.array_equal(fitting.fit(ball, SMALL, effort=QUICK, seed=1).vector, fitted.vector)
    inside = surface.mesh(SMALL, torch.from_numpy(fitted.vector), 40)[0]
    assert np.abs(np.linalg.norm(inside, axis=1) - 0.3).max() < 0.03


def test_lean_beats_published_at_the_same_number_of_points(ball: Samples) -> None:
    published = fitting.fit_published(ball, SMALL, epochs=12)
    assert fitting.fit(ball, SMALL, effort=QUICK).iou > published.iou


def test_rounds_end_when_it_is_good_enough(ball: Samples) -> None:
    effort = replace(QUICK, steps=125, rounds=2)
    shares: list[float] = []

    def told(share: float, loss: float) -> None:
        shares.append(share)

    one = fitting.fit(ball, SMALL, effort=replace(effort, enough=0.3), report=told)
    assert one.steps == 125
    assert shares[-1] == pytest.approx(1 / 3)  # of 125 + 250 steps
    all_of_them = fitting.fit(ball, SMALL, effort=replace(effort, enough=1.1))
    assert all_of_them.steps == 125 + 250
    assert all_of_them.iou > one.iou


def test_more_points_are_drawn_where_one_round_is_not_enough(ball: Samples) -> None:
    effort, drawn = replace(QUICK, steps=125, rounds=3), []

    def more(number: int) -> Samples:
        drawn.append(number)
        return _samples(_ball, count=3000 + number, check=0)

    fitting.fit(ball, SMALL, effort=replace(effort, enough=0.3), more=more)
    assert not drawn
    both = fitting.fit(ball, SMALL, effort=replace(effort, enough=1.1), more=more)
    assert drawn == [1, 2]
    assert both.iou > 0.95
    alone = fitting.fit(ball, SMALL, effort=replace(effort, enough=1.1))
    assert not np.array_equal(alone.vector, both.vector)


@pytest.mark.parametrize(("fair", "rounds"), [(0.3, 1), (1.1, 2)])
def test_hard_shapes_are_fitted_for_longer(ball: Samples, fair: float, rounds: int) -> None:
    effort = replace(QUICK, steps=125, rounds=1, enough=1.1, further=1, fair=fair)
    drawn: list[int] = []

    def more(number: int) -> Samples:
        drawn.append(number)
        return _samples(_ball, count=3000, check=0)

    assert fitting.fit(ball, SMALL, effort=effort, more=more).steps == (125, 375)[rounds - 1]
    assert drawn == [1][: rounds - 1]


def test_what_moves_is_not_fitted_for_longer() -> None:
    frames = _samples(_ball, count=1000, check=500)
    moving = Samples(*(np.repeat(part, 2, axis=0) for part in (frames.points, frames.inside)),
                     frames.near, *(np.repeat(part, 2, axis=0)
                     for part in (frames.check_points, frames.check_inside)))  # fmt: skip
    effort = replace(QUICK, steps=10, rounds=1, enough=1.1, further=1, fair=1.1, moving=1)
    config = replace(SMALL, dimensions=4)
    assert fitting.fit(moving, config, effort=effort).steps == 10


def test_finer_octaves_are_told_where_one_round_is_not_enough(ball: Samples) -> None:
    effort, octaves = replace(QUICK, steps=125, rounds=2), SMALL.frequencies + 2
    one = fitting.fit(ball, SMALL, effort=replace(effort, enough=0.3), octaves=octaves)
    assert one.config == SMALL
    both = fitting.fit(ball, SMALL, effort=replace(effort, enough=1.1), octaves=octaves)
    assert both.config == replace(SMALL, frequencies=octaves)
    assert both.vector.shape == (sum(token_sizes(both.config)),)
    assert both.steps == 375
    assert both.iou > one.iou
    found = fitting.intersection_over_union(
        both.config, both.vector, ball.check_points, ball.check_inside
    )
    assert found == pytest.approx(both.iou)
    fewer = fitting.fit(ball, SMALL, effort=replace(effort, enough=1.1), octaves=1)
    assert fewer.config == SMALL


@pytest.mark.parametrize("config", [SMALL, FieldConfig(4, 3, (16,), period=8)])
def test_a_field_stays_as_it_is_when_finer_octaves_are_told(config: FieldConfig) -> None:
    vector = fitting.random_start(config)
    finer, descent = fitting._Descent(config, vector).finer(5)
    points = torch.rand(50, config.dimensions, generator=torch.Generator().manual_seed(0)) - 0.5
    before = evaluate(config, torch.from_numpy(vector)[None], points)
    after = evaluate(finer, descent.vector.detach()[None], points)
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize(("config", "axes"), [(FieldConfig(3, 8), 3), (FieldConfig(4, 8), 4),
                                              (FieldConfig(4, 8, period=8), 3)])  # fmt: skip
def test_fine_octaves_are_learned_slowly(config: FieldConfig, axes: int) -> None:
    paces = fitting._paces(config, torch.device("cpu"))
    assert paces is not None
    assert paces.shape == (config.encoded,)
    ends = [axes * (1 + 2 * octaves) for octaves in (6, 7, 8)]
    parts = paces.tensor_split(ends)
    assert [set(part.tolist()) for part in parts[:3]] == [{1.0}, {0.5}, {0.25}]
    assert not config.period or set(parts[3].tolist()) == {1.0}  # of the phase
    assert fitting._paces(FieldConfig(3, 6), torch.device("cpu")) is None


def test_what_measuring_says_little_of_is_fitted_to_the_end(ball: Samples) -> None:
    effort = replace(QUICK, steps=20, rounds=2, enough=0.0)
    assert fitting.fit(ball, SMALL, effort=effort).steps == 20
    thin = (ball.check_inside & (ball.check_points[..., 0] > 0.27)).astype(bool)
    assert 0 < thin.mean() < 0.01
    few = replace(ball, check_inside=thin)
    assert few.thin
    assert not ball.thin
    assert fitting.fit(few, SMALL, effort=effort).steps == 60
    assert not replace(ball, check_points=few.check_points[:, :0], check_inside=thin[:, :0]).thin


def test_further_points_stay_near_or_anywhere() -> None:
    first, other = (_samples(_ball, count=count, check=0) for count in (50, 70))
    joined = first.with_more(other)
    assert joined.near == 120
    assert joined.points.shape == (1, 240, 3)
    assert joined.inside.shape == (1, 240)
    np.testing.assert_array_equal(joined.points[:, 50:120], other.points[:, :70])
    np.testing.assert_array_equal(joined.inside[:, 120:170], first.inside[:, 50:])
    np.testing.assert_array_equal(joined.points[:, 170:], other.points[:, 70:])


def test_a_start_vector_saves_steps(ball: Samples) -> None:
    start = fitting.fit(ball, SMALL, effort=QUICK).vector
    other = _samples(_moved(0.06))
    short = replace(QUICK, steps=62)
    from_start = fitting.fit(other, SMALL, start, short)
    assert from_start.iou > fitting.fit(other, SMALL, None, short).iou + 0.02
    assert np.linalg.norm(from_start.vector - start) < np.linalg.norm(start)


def test_moving_shapes() -> None:
    config = FieldConfig(4, 2, (48, 48))
    places = (-0.12, 0.0, 0.12)
    samples = _samples(*[_moved(along) for along in places], count=2000)
    fitted = fitting.fit(samples, config, effort=replace(QUICK, steps=250))
    assert fitted.iou > 0.9
    assert fitted.steps == 4 * 250
    for frame, along in enumerate(places):
        vertices, _ = surface.mesh(config, torch.from_numpy(fitted.vector), 32, frame=frame)
        middle = (vertices.max(axis=0) + vertices.min(axis=0)) / 2
        assert middle == pytest.approx([along, 0, 0], abs=0.04)


def test_stopping(ball: Samples) -> None:
    def stop(share: float, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitting.fit(ball, SMALL, effort=QUICK, report=stop)


def test_fields_by_themselves_are_of_the_samples_dimensions() -> None:
    effort = Effort(steps=3, rounds=1, batch=256)
    for insides, dimensions in (((_ball,), 3), ((_ball, _ball), 4)):
        fitted = fitting.fit(_samples(*insides, count=300, check=0), effort=effort)
        assert len(fitted.vector) == sum(token_sizes(FieldConfig(dimensions)))


def test_what_does_not_belong_together(ball: Samples) -> None:
    with pytest.raises(ValueError, match="2 frames for a field over 3"):
        fitting.fit(_samples(_ball, _ball, count=300, check=0), FieldConfig(3))
    with pytest.raises(ValueError, match="other weights"):
        fitting.fit(ball, SMALL, np.zeros(5, np.float32))
    nothing = replace(ball, points=ball.points[:, :0], inside=ball.inside[:, :0], near=0)
    with pytest.raises(ValueError, match="no points"):
        fitting.fit(nothing, SMALL)


def test_draws_are_shared_between_near_and_anywhere() -> None:
    samples = _samples(_ball, _ball, count=500, check=0)
    effort = Effort(batch=1000, near=0.7)
    draws = torch.Generator().manual_seed(0)
    chosen = fitting._drawn(samples, effort, draws)
    assert int((chosen % 1000 < 500).sum()) == 700
    assert int((chosen < 1000).sum()) == pytest.approx(500, abs=80)
    assert int(chosen.max()) < 2000
    anywhere = replace(samples, near=0)
    assert len(fitting._drawn(anywhere, effort, draws)) == 1000


# -------------------------------------------------------------------------------------------- many


@pytest.mark.parametrize("processes", [1, 2])
def test_many(processes: int) -> None:
    effort = replace(QUICK, steps=8)
    start = fitting.random_start(SMALL, 4)
    kept = [_samples(_moved(along), count=500, check=500) for along in (0, 0.1, 0.2, 0.3)]
    taken: list[int] = []

    def one_by_one() -> Iterator[Samples]:
        for number, samples in enumerate(kept):
            taken.append(number)
            yield samples

    found = fitting.fit_many(one_by_one(), SMALL, start, effort, processes=processes)
    first = next(found)
    assert len(taken) == (1 if processes == 1 else 3)  # no more than are being worked on
    for fitted, samples in zip([first, *found], kept, strict=True):
        expected = fitting.fit(samples, SMALL, start, effort)
        assert np.array_equal(fitted.vector, expected.vector)
        assert fitted.iou == expected.iou


def test_together_as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_TOGETHER", 2)
    places = (0.0, 0.1, 0.2)
    many = (_samples(_moved(along)) for along in places)
    with fitting.one_thread():
        found = list(fitting._fit_on_card(many, SMALL, None, QUICK, 0, "cpu"))
    assert [fitted.steps for fitted in found] == [375] * 3
    for fitted, along in zip(found, places, strict=True):
        assert fitted.iou > 0.93
        vertices, _ = surface.mesh(SMALL, torch.from_numpy(fitted.vector), 32)
        assert vertices[:, 0].mean() == pytest.approx(along, abs=0.03)


# ------------------------------------------------------------------------------- starts, measures


def test_random_starts_are_those_of_a_new_network() -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    start = fitting.random_start(FieldConfig(), 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    made = OccupancyField(FieldConfig())
    assert np.array_equal(start, flatten(made.config, made.state_dict()).numpy())


@pytest.mark.parametrize(
    ("frames", "loop", "layout"),
    [
        (1, False, FieldConfig(3, 6)),
        (1, True, FieldConfig(3, 6)),
        (2, True, FieldConfig(4, 6)),  # two frames have no phase that tells which is which
        (16, True, FieldConfig(4, 6, period=16)),
        (16, False, FieldConfig(4, 6)),
    ],
)
def test_layouts_of_what_people_have(frames: int, loop: bool, layout: FieldConfig) -> None:
    assert fitting.layout_for(frames, loop) == layout
    thin = replace(layout, frequencies=8) if frames == 1 else layout
    assert fitting.layout_for(frames, loop, thin=True) == thin


def test_intersection_over_union() -> None:
    config, vector = field("mlp3d_fit")
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 20_000, 3)).astype(np.float32)
    logits = surface.field_function(config, vector)(points[0])
    for level in (0.0, 1.386):
        inside = (logits > level)[None]
        assert fitting.intersection_over_union(config, vector.numpy(), points, inside, level) == 1
    half = inside.copy()
    half[0, np.flatnonzero(half[0])[::2]] = False
    found = fitting.intersection_over_union(config, vector.numpy(), points, half, 1.386)
    assert found == half.sum() / inside.sum()
    beyond = np.full((1, 5, 3), 0.5, np.float32)
    nothing = np.zeros((1, 5), bool)
    assert fitting.intersection_over_union(config, vector.numpy(), beyond, nothing) == 1


def test_intersection_over_union_of_moving_fields_takes_each_frame() -> None:
    config, vector = field("mlp4d_fit")
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 5000, 3)).astype(np.float32)
    inside = [surface.field_function(config, vector, frame)(points[0]) > 0 for frame in (0, 1, 2)]
    both = np.repeat(points, 3, axis=0)
    found = fitting.intersection_over_union(config, vector.numpy(), both, np.stack(inside))
    assert found == 1
    assert fitting.intersection_over_union(config, vector.numpy(), both, np.stack(inside[::-1])) < 1
