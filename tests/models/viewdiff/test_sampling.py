"""UniPC with given views, guidance, batches of views; beside the published runs and alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from backend.models.viewdiff import sampling
from backend.models.viewdiff.sampling import Settings

GOLDEN = Path(__file__).parents[2] / "golden" / "multiview"
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OF_RUNS = {**SCHEDULE, "prediction_type": "epsilon", "steps_offset": 1}
TOLERANCE = 5e-4


def golden(name: str) -> dict[str, torch.Tensor]:
    arrays = load_file(GOLDEN / f"sampling_unipc10_{name}.safetensors")
    return {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}


class Replay:
    """A network that was recorded: it is asked what the published one was, and answers the same."""

    def __init__(self, inputs: torch.Tensor, outputs: torch.Tensor, known: int) -> None:
        self.inputs, self.outputs, self.known = inputs, outputs, known
        self.worst = 0.0
        self.timesteps: list[int] = []

    def __call__(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        number = len(self.timesteps)
        expected = self.inputs[number].reshape(x.shape)
        self.worst = max(self.worst, float((x - expected).abs().max() / expected.abs().max()))
        assert (timesteps[:, : self.known] == 0).all()
        new = timesteps[:, self.known :].unique()
        assert len(new) == 1
        self.timesteps.append(int(new))
        return self.outputs[number].reshape(x.shape)


@pytest.mark.parametrize("corrected", [False, True], ids=["published", "corrected"])
@pytest.mark.parametrize(
    ("name", "guidance", "known", "spacing"),
    [
        ("text_cfg7p5", 7.5, 0, "leading"),
        ("image_conditioned", 1.0, 1, "leading"),
        ("image_conditioned_cfg", 3.0, 1, "linspace"),
    ],
)
def test_ten_steps_are_those_of_the_published_run(
    name: str, guidance: float, known: int, spacing: str, corrected: bool
) -> None:
    arrays = golden(name)
    which = "_corrected" if corrected and known else ""
    network = Replay(arrays[f"out.unet_inputs{which}"], arrays[f"out.unet_outputs{which}"], known)
    settings = Settings(
        schedule={**OF_RUNS, "timestep_spacing": spacing},
        guidance=guidance,
        end="sigma_min",
        overwritten=not corrected,
    )
    given = arrays["in.known_latents"] if known else None
    steps = list(sampling.sample(network, arrays["in.latents"][known:], given, settings))
    assert network.timesteps == arrays["out.timesteps"].tolist()
    assert [step.timestep for step in steps] == network.timesteps
    expected = arrays[f"out.final_latents{which}"]
    found = steps[-1].sample
    assert network.worst <= TOLERANCE
    assert float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def test_the_two_ways_of_the_published_run_differ() -> None:
    arrays = golden("image_conditioned")
    apart = arrays["out.final_latents"] - arrays["out.final_latents_corrected"]
    assert float(apart.abs().max()) > 0.1


def test_a_schedule_without_a_spacing_has_the_published_timesteps() -> None:
    found = sampling.solver(Settings(schedule=OF_RUNS)).timesteps.tolist()
    assert found == [999, 899, 799, 699, 599, 500, 400, 300, 200, 100]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_who_knows_the_truth_arrives_there(prediction: str) -> None:
    truth = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    settings = Settings(schedule={**SCHEDULE, "prediction_type": prediction}, guidance=1.0)
    level = torch.from_numpy(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))

    def knows(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        mean = level[timesteps].sqrt().float()[..., None, None, None]
        noise = (x - mean * truth) / (1 - mean**2).sqrt()
        return {"epsilon": noise, "v_prediction": mean * noise - (1 - mean**2).sqrt() * truth}.get(
            prediction, truth.expand_as(x)
        )

    noise = sampling.first_noise(truth.shape, 5)
    steps = list(sampling.sample(knows, noise, None, settings))
    assert torch.allclose(steps[-1].sample, truth, atol=2e-4)
    assert all(torch.allclose(step.start, truth, atol=2e-2) for step in steps)
    assert torch.equal(steps[0].x, noise)


def test_a_schedule_that_ends_in_nothing_but_noise_can_be_sampled() -> None:
    """As of small models of pixels: cosine, velocity. At its end no number is lost."""
    schedule = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    truth = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    level = sampling.solver(Settings(schedule)).alphas_cumprod

    def knows(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        mean = level[timesteps].sqrt()[..., None, None, None]
        spread = (1 - mean**2).sqrt()
        return mean * (x - mean * truth) / spread - spread * truth

    settings = Settings(schedule, steps=20, guidance=1.0)
    *_, last = sampling.sample(knows, sampling.first_noise(truth.shape, 5), None, settings)
    assert torch.allclose(last.sample, truth, atol=1e-3)


def wandering(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Some network: views look at each other, and timesteps count."""
    return torch.tanh(x + x.mean(dim=1, keepdim=True)) + timesteps[..., None, None, None] / 1e3


def test_given_views_are_never_touched() -> None:
    known = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    before = known.clone()
    for overwritten in (False, True):
        settings = Settings(schedule=SCHEDULE, guidance=1.0, overwritten=overwritten)
        for step in sampling.sample(
            wandering, sampling.first_noise((3, 1, 4, 4), 0), known, settings
        ):
            assert torch.equal(step.sample[:2], before)
            assert torch.equal(step.start[:2], before)
            assert torch.equal(step.x[:2], before)
    assert torch.equal(known, before)


def test_steps_can_be_kept() -> None:
    settings = Settings(schedule=SCHEDULE, guidance=1.0, steps=4)
    steps = list(sampling.sample(wandering, sampling.first_noise((3, 1, 4, 4), 0), None, settings))
    assert [step.number for step in steps] == [0, 1, 2, 3]
    for before, after in itertools.pairwise(steps):
        assert torch.equal(before.sample, after.x)
        assert not torch.equal(before.x, after.x)


def test_guidance_of_one_asks_once_and_another_twice() -> None:
    asked: list[int] = []

    def counting(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return torch.stack([x[0] * 0, *x[1:]])

    noise = sampling.first_noise((2, 1, 4, 4), 0)
    for guidance in (1.0, 7.5, 0.0):
        list(sampling.sample(counting, noise, None, Settings(SCHEDULE, 2, guidance)))
    assert asked == [1, 1, 2, 2, 2, 2]


def test_the_end_is_a_setting() -> None:
    noise = sampling.first_noise((2, 1, 4, 4), 0)
    ends = [
        list(sampling.sample(wandering, noise, None, Settings(SCHEDULE, guidance=1.0, end=end)))[-1]
        for end in ("zero", "sigma_min")
    ]
    assert torch.equal(ends[0].x, ends[1].x)
    assert not torch.equal(ends[0].sample, ends[1].sample)


def test_noise_of_a_view_does_not_depend_on_those_after_it() -> None:
    few, many = (sampling.first_noise((count, 4, 8, 8), 3) for count in (2, 6))
    assert torch.equal(few, many[:2])
    assert not torch.equal(few, sampling.first_noise((2, 4, 8, 8), 4))
    assert not torch.equal(few[0], few[1])


# ------------------------------------------------------------------------------- views at a time


def published_run(name: str) -> dict[str, Any]:
    runs = json.loads((GOLDEN / "sliding_window.json").read_text())
    return runs[name]  # type: ignore[no-any-return]


def views_of(steps: Sequence[dict[str, Any]]) -> tuple[list[str], list[float]]:
    """Names and azimuths of all views, in the order in which they were made."""
    names, azimuths = [], []
    for step in steps:
        count = len(step["new"])
        names += step["new"]
        azimuths += np.linspace(step["start_phi"], step["end_phi"], count, endpoint=False).tolist()
    return names, azimuths


@pytest.mark.parametrize(
    ("name", "both_ways"), [("script_theta60", True), ("one_direction", False)]
)
def test_batches_are_those_of_the_published_sliding_window(name: str, both_ways: bool) -> None:
    run = published_run(name)
    steps = run["steps"]
    names, azimuths = views_of(steps)
    size = run["config"]["n"]
    rest = list(range(size, len(names)))
    if both_ways:
        groups = sampling.outward(rest, [azimuths[view] for view in rest], size)
    else:
        groups = sampling.along(rest, size)
    batches = sampling.one_after_the_other(
        [list(range(size)), *groups], remembered=2 if both_ways else 1
    )
    assert len(batches) == len(steps)
    for batch, step in zip(batches, steps, strict=True):
        assert [names[view] for view in batch.new] == step["new"]
        assert [names[view] for view in batch.known] == step["known"]
        assert len(batch.views) == step["total"]
        assert batch.guided == (step["guidance_scale"] == sampling.GUIDANCE)


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("path", [False, True])
@pytest.mark.parametrize(
    ("count", "given", "most", "size"),
    [(10, 0, 30, 10), (30, 0, 12, 10), (64, 1, 30, 10), (7, 3, 4, 5), (5, 1, 5, 5), (40, 39, 8, 5)],
)
def test_every_view_is_made_once_and_none_too_many_at_a_time(
    count: int, given: int, most: int, size: int, path: bool, ring: bool
) -> None:
    angles = (
        sampling.angles_from_front(np.linspace(0, 360, count, endpoint=False)) if ring else None
    )
    batches = sampling.plan(count, given, most=most, size=size, path=path, angles=angles)
    made = [view for batch in batches for view in batch.new]
    assert sorted(made) == list(range(given, count))
    there = set(range(given))
    for batch in batches:
        assert set(batch.known) <= there
        assert len(set(batch.views)) == len(batch.views)
        there |= {*batch.new}
        assert len(batch.views) <= max(most, 5)
        if given:
            assert batch.known[0] == 0
    assert [batch.guided for batch in batches] == [True] + [False] * (len(batches) - 1)
    if not path and count <= most:
        assert len(batches) == 1


def test_the_first_views_of_a_path_are_spread_over_it() -> None:
    batches = sampling.plan(30, 0, most=30, size=10, path=True)
    assert batches[0].new == tuple(range(0, 30, 3))
    assert batches[1].new == (1, 2, 4, 5, 7, 8, 10, 11, 13, 14)
    assert batches[1].known == batches[0].new
    assert batches[2].known == (*batches[0].new, 8, 10, 11, 13, 14)


def test_around_a_ring_both_ways_end_at_the_back() -> None:
    angles = sampling.angles_from_front(30 + np.linspace(0, 360, 36, endpoint=False))
    assert min(angles) >= -180
    assert max(angles) < 180
    groups = sampling.outward(range(36), angles, 8)
    assert sorted(abs(angles[view]) for view in groups[0])[-1] == 40
    assert all(angles[view] < 0 for view in groups[1])
    assert all(angles[view] > 0 for view in groups[2])
    assert -180 in [angles[view] for view in groups[-2]]
