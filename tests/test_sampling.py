from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend import sampling
from backend.sampling import Diffusion, Prediction, Steps, Variance

GOLDEN = Path(__file__).parent / "golden" / "wala"
TABLES = {
    "betas": lambda steps: steps.betas,
    "alphas_cumprod": lambda steps: steps.alphas_cumprod,
    "posterior_mean_coef1": lambda steps: steps.start_weight,
    "posterior_mean_coef2": lambda steps: steps.sample_weight,
    "posterior_variance": lambda steps: steps.posterior_variance,
    "posterior_log_variance_clipped": lambda steps: steps.log_variance(Variance.SMALL),
}

_OF_DIFFUSERS = {
    "sample": Prediction.START,
    "epsilon": Prediction.NOISE,
    "v_prediction": Prediction.VELOCITY,
    "fixed_small": Variance.SMALL,
    "fixed_large": Variance.LARGE,
}


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _noise(*shape: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(*shape, generator=generator, dtype=torch.float64)


# -------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("schedule", "count"),
    [("cosine", 2), ("cosine", 5), ("cosine", 8), ("cosine", 10), ("linear", 5)],
)
def test_tables_of_the_published_code(schedule: str, count: int) -> None:
    golden = np.load(GOLDEN / "schedule.npz")
    name = f"{schedule}1000_{count}"
    diffusion = Diffusion(schedule)
    ends = diffusion.betas()[[*range(8), *range(-8, 0)]]
    np.testing.assert_allclose(ends, golden[f"{name}_base_betas_first_last8"], rtol=1e-12)
    steps = diffusion.spaced(count)
    assert list(steps.timesteps) == golden[f"{name}_timestep_map"].tolist()
    for table, read in TABLES.items():
        np.testing.assert_allclose(read(steps), golden[f"{name}_{table}"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "scaled_linear"])
@pytest.mark.parametrize("training", [20, 100, 1000])
def test_schedules_only_add_noise(schedule: str, training: int) -> None:
    betas = Diffusion(schedule, training).betas()
    assert betas.shape == (training,)
    assert betas.dtype == np.float64
    assert (betas > 0).all()
    assert (betas <= 0.999).all() or schedule == "linear"
    assert (np.diff(betas) >= 0).all()


def test_unknown_schedule() -> None:
    with pytest.raises(ValueError, match="'sine'"):
        Diffusion("sine").betas()


@given(training=st.integers(1, 1200), data=st.data())
def test_spaced_timesteps(training: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, training))
    chosen = sampling.spaced_timesteps(training, count)
    assert len(chosen) == count
    assert chosen[-1] == training - 1
    assert chosen[0] == (0 if count > 1 else training - 1)
    gaps = np.diff(chosen)
    assert gaps.size == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
    assert sampling.spaced_timesteps(training, training) == list(range(training))


@pytest.mark.parametrize("spacing", sampling.SPACINGS)
@pytest.mark.parametrize("count", [0, -1, 1001])
def test_spaced_timesteps_out_of_range(spacing: str, count: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000"):
        sampling.SPACINGS[spacing](1000, count)


@given(training=st.integers(1, 1200), data=st.data())
def test_every_spacing_is_even(training: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, training))
    trailing = sampling.trailing_timesteps(training, count)
    leading = sampling.leading_timesteps(training, count)
    assert trailing[-1] == training - 1
    assert leading[0] == (1 if count <= training // 2 else 0)
    for chosen in (trailing, leading):
        assert len(chosen) == count
        assert chosen[0] >= 0
        assert chosen[-1] < training
        gaps = np.diff(chosen)
        assert gaps.size == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
    assert set(np.diff(leading)) <= {training // count}


def test_spacings_of_the_published_text_models() -> None:
    golden = np.load(GOLDEN.parent / "mvdream" / "schedule_50.npz")
    assert sampling.trailing_timesteps(1000, 50) == golden["trailing"].tolist()
    assert sampling.leading_timesteps(1000, 50) == golden["uniform"].tolist()
    mvdream = np.cumprod(1 - Diffusion("scaled_linear").betas())
    np.testing.assert_allclose(mvdream, golden["mvdream_alphas_cumprod"], rtol=1e-6)
    diffusion = Diffusion("scaled_linear", last=0.02)
    wala = np.cumprod(1 - diffusion.betas())
    np.testing.assert_allclose(wala, golden["wala_alphas_cumprod"], rtol=1e-6)
    steps = diffusion.spaced(50, "trailing")
    np.testing.assert_allclose(steps.alphas_cumprod, golden["wala_alphas"], rtol=1e-6)


def test_spacing_keeps_the_noise_of_the_training_schedule() -> None:
    diffusion = Diffusion()
    level = np.cumprod(1 - diffusion.betas())
    for count in (1, 2, 7, 50, 1000):
        steps = diffusion.spaced(count)
        expected = level[list(steps.timesteps)]
        np.testing.assert_allclose(steps.alphas_cumprod, expected, rtol=1e-9, atol=1e-15)


def test_noised_has_the_right_mean_and_spread() -> None:
    diffusion = Diffusion()
    level = np.cumprod(1 - diffusion.betas())
    start, noise = _random(3, 2, 4, seed=1), _random(3, 2, 4, seed=2)
    timesteps = torch.tensor([0, 500, 999])
    noised = diffusion.noised(start, timesteps, noise)
    for row, t in enumerate(timesteps.tolist()):
        expected = math.sqrt(level[t]) * start[row] + math.sqrt(1 - level[t]) * noise[row]
        torch.testing.assert_close(noised[row], expected)


# ---------------------------------------------------------------------------------------- sampler


def _forms(steps: Steps, index: int, start: torch.Tensor, x: torch.Tensor):
    """What a perfect network predicts at x_t = x when x_0 = start, for every prediction type."""
    level = steps.alphas_cumprod[index]
    noise = (x - math.sqrt(level) * start) / math.sqrt(1 - level)
    before = steps.start_weight[index] * start + steps.sample_weight[index] * x
    return {
        Prediction.START: start,
        Prediction.NOISE: noise,
        Prediction.VELOCITY: math.sqrt(level) * noise - math.sqrt(1 - level) * start,
        Prediction.PREVIOUS: before,
    }


@pytest.mark.parametrize("prediction", list(Prediction))
def test_prediction_types_stand_for_the_same_start(prediction: Prediction) -> None:
    steps = Diffusion("linear").spaced(6)
    start, x = _random(2, 5, seed=1), _random(2, 5, seed=2)
    for index in range(6):
        predicted = _forms(steps, index, start, x)[prediction]
        found = steps.start_of(prediction, index, x, predicted)
        torch.testing.assert_close(found, start, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("prediction", list(Prediction))
@pytest.mark.parametrize("count", [1, 2, 5, 25])
def test_a_perfect_network_gives_its_shape(prediction: Prediction, count: int) -> None:
    steps = Diffusion("linear").spaced(count)
    target = _random(2, 3, seed=5)

    def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        index = steps.timesteps.index(timesteps[0].item())
        return _forms(steps, index, target, x)[prediction]

    taken = list(sampling.ancestral(denoise, steps, _noise(2, 3), prediction))
    assert [step.number for step in taken] == list(range(count))
    assert {step.count for step in taken} == {count}
    assert [step.timestep for step in taken] == list(reversed(steps.timesteps))
    for step in taken:
        torch.testing.assert_close(step.start, target, rtol=1e-5, atol=1e-6)
    for step, following in pairwise(taken):
        assert following.x is step.sample
    torch.testing.assert_close(taken[-1].sample, target, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variance", list(Variance))
def test_samples_of_a_normal_distribution(variance: Variance) -> None:
    """For x_0 ~ N(2, 0.5^2) the best network is known; its samples have that mean and spread."""
    diffusion = Diffusion("cosine")
    steps = diffusion.spaced(100)
    level = torch.from_numpy(np.cumprod(1 - diffusion.betas()))

    def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        a = level[timesteps][:, None]
        gain = a.sqrt() * 0.25 / (a * 0.25 + 1 - a)
        return 2 + gain * (x - a.sqrt() * 2)

    *_, last = sampling.ancestral(denoise, steps, _noise(8000, 1), variance=variance)
    assert last.sample.mean().item() == pytest.approx(2, abs=0.03)
    assert last.sample.std().item() == pytest.approx(0.5, abs=0.03)


def test_noise_is_drawn_once_per_step_and_once_before() -> None:
    drawn = []

    def draws():
        for number in range(100):
            drawn.append(number)
            yield torch.zeros(1, 1)

    steps = Diffusion().spaced(5)
    assert len(list(sampling.ancestral(lambda x, _: x, steps, draws()))) == 5
    assert drawn == [0, 1, 2, 3, 4, 5]


def test_the_last_step_adds_no_noise() -> None:
    steps = Diffusion().spaced(4)
    draws = [torch.zeros(1, 2), *[torch.zeros(1, 2)] * 3, torch.full((1, 2), 1e6)]
    *_, last = sampling.ancestral(lambda x, _: torch.ones_like(x), steps, iter(draws))
    assert last.sample.tolist() == [[1, 1]]


def test_the_same_seed_gives_the_same_draws_as_torch() -> None:
    generator = torch.Generator().manual_seed(42)
    noise = sampling.gaussian((1, 4, 2), generator)
    expected = torch.Generator().manual_seed(42)
    for _ in range(3):
        assert torch.equal(next(noise), torch.randn(1, 4, 2, generator=expected))


def test_steps_are_taken_one_at_a_time() -> None:
    """A preview can be shown, or the job cancelled, after every step."""
    calls = []

    def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        calls.append(timesteps.tolist())
        return x

    taken = sampling.ancestral(denoise, Diffusion().spaced(5), _noise(2, 1))
    next(taken)
    assert calls == [[999, 999]]
    next(taken)
    assert calls == [[999, 999], [749, 749]]


# ------------------------------------------------------------------------------- without noise


@pytest.mark.parametrize("prediction", list(Prediction))
@pytest.mark.parametrize("count", [1, 2, 25])
def test_a_perfect_network_gives_its_shape_without_noise(
    prediction: Prediction, count: int
) -> None:
    steps = Diffusion("linear").spaced(count, "trailing")
    target, first = _random(2, 3, seed=5), _random(2, 3, seed=6)

    def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        index = steps.timesteps.index(timesteps[0].item())
        return _forms(steps, index, target, x)[prediction]

    taken = list(sampling.ddim(denoise, steps, first, prediction))
    assert [step.number for step in taken] == list(range(count))
    assert [step.timestep for step in taken] == list(reversed(steps.timesteps))
    assert taken[0].x is first
    for step in taken:
        torch.testing.assert_close(step.start, target, rtol=1e-5, atol=1e-6)
    for step, following in pairwise(taken):
        assert following.x is step.sample
    torch.testing.assert_close(taken[-1].sample, target, rtol=1e-5, atol=1e-6)


def test_noise_is_carried_through_to_the_level_that_is_asked_for() -> None:
    """Of one shape and one noise, every x_t is their mixture at the level of that step."""
    steps = Diffusion("scaled_linear").spaced(10, "trailing")
    target, noise = _random(2, 3, seed=5), _random(2, 3, seed=6)

    def mixture(level: float) -> torch.Tensor:
        return math.sqrt(level) * target + math.sqrt(1 - level) * noise

    first = mixture(steps.alphas_cumprod[-1])
    taken = list(sampling.ddim(lambda x, _: noise, steps, first, final=0.75))
    for step, level in zip(taken, reversed(steps.alphas_cumprod), strict=True):
        torch.testing.assert_close(step.x, mixture(level))
    torch.testing.assert_close(taken[-1].sample, mixture(0.75))


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("to_start", [True, False])
def test_ddim_agrees_with_diffusers(prediction: str, spacing: str, to_start: bool) -> None:
    """Its DDIMScheduler, with tables in float64, from the same x_T and with the same network."""
    from diffusers import DDIMScheduler

    diffusion = Diffusion("scaled_linear", last=0.02)
    level = np.cumprod(1 - diffusion.betas())
    scheduler = DDIMScheduler(
        beta_start=diffusion.first,
        beta_end=diffusion.last,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=to_start,
        steps_offset=1,
        timestep_spacing=spacing,
        prediction_type=prediction,
    )
    scheduler.alphas_cumprod = torch.from_numpy(level)
    scheduler.final_alpha_cumprod = torch.tensor(1.0 if to_start else level[0])
    scheduler.set_timesteps(20)

    def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.tanh(0.7 * x + timesteps[:, None] / 1000)

    steps = diffusion.spaced(20, spacing)
    assert scheduler.timesteps.tolist() == list(reversed(steps.timesteps))
    x = _random(2, 3)
    final = 1.0 if to_start else level[0]
    for step in sampling.ddim(denoise, steps, x, _OF_DIFFUSERS[prediction], final):
        predicted = denoise(x, torch.full((2,), step.timestep))
        expected = scheduler.step(predicted, step.timestep, x)
        torch.testing.assert_close(step.start, expected.pred_original_sample)
        torch.testing.assert_close(step.sample, expected.prev_sample)
        x = expected.prev_sample


def test_replays_the_published_ddim_sampler() -> None:
    """With the outputs of its network given, every input of it is that of the recording."""
    golden = dict(np.load(GOLDEN.parent / "mvdream" / "ddim_trailing.npz"))
    outputs = iter(zip(golden["model_inputs"], golden["model_outputs"], strict=True))
    seen_timesteps = []

    def model(x: torch.Tensor, timesteps: torch.Tensor, _context: torch.Tensor) -> torch.Tensor:
        seen_timesteps.append(timesteps.tolist())
        inputs, predicted = next(outputs)
        assert np.abs(x.numpy() - inputs).max() <= 5e-4 * np.abs(inputs).max()
        return torch.from_numpy(predicted)

    context, null = (torch.from_numpy(golden[name]) for name in ("context", "uncond_context"))
    denoise = sampling.guided(model, context, null, 10)
    diffusion = Diffusion("scaled_linear", last=0.02)
    steps, final = diffusion.spaced(10, "trailing"), 1 - diffusion.betas()[0]
    before = np.append(final, steps.alphas_cumprod[:-1])
    np.testing.assert_allclose(before, golden["alphas_prev"], rtol=1e-6)
    first = torch.from_numpy(golden["latents"])
    *_, last = sampling.ddim(denoise, steps, first, final=final)
    expected = torch.from_numpy(golden["final_latents"])
    torch.testing.assert_close(last.sample, expected, rtol=0, atol=5e-4 * expected.abs().max())
    assert seen_timesteps == golden["model_timesteps"].tolist()
    assert next(outputs, None) is None


# --------------------------------------------------------------------------------------- guidance


def _model(x: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    return x * 2 + timesteps[:, None] + condition


@pytest.mark.parametrize("scale", [0, 0.5, 1, 1.3, 3])
def test_guidance(scale: float) -> None:
    x, condition, null = (_random(3, 4, seed=seed) for seed in (1, 2, 3))
    timesteps = torch.tensor([7, 7, 7])
    found = sampling.guided(_model, condition, null, scale)(x, timesteps)
    unconditional, conditional = _model(x, timesteps, null), _model(x, timesteps, condition)
    torch.testing.assert_close(found, unconditional + scale * (conditional - unconditional))


@pytest.mark.parametrize(("scale", "batches"), [(0, [2]), (1, [2]), (1.5, [4])])
def test_guidance_works_no_more_than_it_must(scale: float, batches: list[int]) -> None:
    seen = []

    def model(x: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        assert len(timesteps) == len(condition) == len(x)
        return x

    denoise = sampling.guided(model, torch.ones(2, 1), torch.zeros(2, 1), scale)
    denoise(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    assert seen == batches


# -------------------------------------------------------------------------------------- diffusers


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "scaled_linear"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_agrees_with_diffusers(prediction: str, schedule: str, variance: str) -> None:
    """Its DDPMScheduler, at the same timesteps, with the same noise and network."""
    recorded = json.loads((GOLDEN / "diffusers.json").read_text())
    (case,) = (
        case
        for case in recorded["cases"]
        if (case["prediction"], case["schedule"], case["variance"])
        == (prediction, schedule, variance)
    )
    noise = iter(torch.tensor(recorded["noise"], dtype=torch.float64))

    def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.tanh(0.7 * x + timesteps[:, None] / 1000)

    steps = Diffusion(schedule).spaced(8)
    assert list(reversed(steps.timesteps)) == recorded["timesteps"]
    kinds = _OF_DIFFUSERS[prediction], _OF_DIFFUSERS[variance]
    taken = list(sampling.ancestral(denoise, steps, noise, *kinds))
    for step, start in zip(taken, case["starts"], strict=True):
        expected = torch.tensor(start, dtype=torch.float64)
        torch.testing.assert_close(step.start, expected, atol=1e-7, rtol=1e-6)
    expected = torch.tensor(case["sample"], dtype=torch.float64)
    torch.testing.assert_close(taken[-1].sample, expected, atol=1e-7, rtol=1e-6)
    np.testing.assert_allclose(Diffusion(schedule).betas()[::111], case["betas"], rtol=1e-6)


# --------------------------------------------------------------------------- the published sampler


@pytest.mark.parametrize(
    "name",
    [
        "sampling_pointcloud_8steps_upstream_path",
        "sampling_pointcloud_8steps_scale1.3",
        "sampling_voxel_5steps_scale1.5",
    ],
)
def test_replays_the_published_sampler(name: str) -> None:
    """With the outputs of its network given, every x_t, x_0 and sample is that of the recording."""
    recorded = dict(np.load(GOLDEN / f"{name}.npz"))
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    shared = recorded
    if "noise" not in recorded:
        shared = dict(np.load(GOLDEN / "sampling_pointcloud_8steps_scale1.3.npz"))
    outputs = iter(recorded["model_out"])
    seen_timesteps = []

    def model(x: torch.Tensor, timesteps: torch.Tensor, _condition: torch.Tensor) -> torch.Tensor:
        seen_timesteps.append(timesteps.tolist())
        return torch.from_numpy(next(outputs))

    null, condition = torch.from_numpy(shared["condition_pair"]).chunk(2)
    denoise = sampling.guided(model, condition, null, facts["scale_effective"])
    steps = Diffusion().spaced(facts["steps"])
    noise = map(torch.from_numpy, shared["noise"])
    for k, step in enumerate(sampling.ancestral(denoise, steps, noise)):
        for found, array in ((step.x, "x_t"), (step.start, "pred_xstart"), (step.sample, "sample")):
            expected = torch.from_numpy(recorded[array][k])
            torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)
    assert seen_timesteps == shared["t_model"].tolist()
    torch.testing.assert_close(
        step.sample, torch.from_numpy(recorded["latent"]), atol=2e-6, rtol=2e-6
    )
    with pytest.raises(StopIteration):
        next(outputs)
    assert list(noise) == []


# ------------------------------------------------------------------------------- between the two


@pytest.mark.parametrize("prediction", [Prediction.START, Prediction.NOISE])
def test_ddim_with_all_its_noise_is_the_ancestral_sampler(prediction: Prediction) -> None:
    """At eta 1 the step is the posterior of x_{t-1} given x_t and x_0 (Song et al. 2021)."""
    steps = Diffusion("linear").spaced(12)
    draws = [_random(3, 4, seed=seed) for seed in range(13)]

    def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.sin(x) + timesteps[:, None] / 1000

    expected = sampling.ancestral(denoise, steps, iter(draws), prediction)
    found = sampling.ddim(denoise, steps, draws[0], prediction, eta=1.0, fresh=iter(draws[1:]))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.sample, other.sample, atol=1e-10)


def test_half_the_noise_is_between_and_noise_must_be_given() -> None:
    steps = Diffusion("linear").spaced(4)
    x = _random(1, 1)
    zero = torch.zeros_like(x)

    def last(eta: float) -> torch.Tensor:
        fresh = iter([zero, zero, zero, zero])
        return next(sampling.ddim(lambda _x, _t: zero, steps, x, eta=eta, fresh=fresh)).sample

    level, before = steps.alphas_cumprod[3], steps.alphas_cumprod[2]
    assert torch.allclose(last(0.0), last(0.5))  # no noise is seen in x: its share does not count
    assert last(0.5).item() == pytest.approx(math.sqrt(before / level) * x.item())
    with pytest.raises(ValueError, match="needs fresh noise"):
        next(sampling.ddim(lambda _x, _t: zero, steps, x, eta=0.5))


def test_a_share_of_the_noise_has_that_share_of_the_deviation() -> None:
    steps = Diffusion("linear").spaced(4)
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    taken = [
        next(
            sampling.ddim(lambda _x, _t: zero, steps, zero, eta=eta, fresh=iter([one]))
        ).sample.item()
        for eta in (0.5, 1.0)
    ]
    assert taken[1] == pytest.approx(math.sqrt(steps.posterior_variance[3]))
    assert taken[0] == pytest.approx(taken[1] / 2)
