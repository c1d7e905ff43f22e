"""Runs in pieces, their budgets, averages."""

import pytest
import torch
from torch import nn

from backend.errors import BadInput
from backend.training import loops
from backend.training.loops import Average, Plan, Run, Team, train

ALONE = Team(torch.device("cpu"))


def a_run(path, plan, settings=None):
    torch.manual_seed(plan.seed)
    return Run(nn.Linear(3, 2), plan, path, settings or {"width": 3})


def work(run):
    draws = torch.Generator().manual_seed(run.step)
    x = torch.randn(8, 3, generator=draws)
    loss = (run.module(x) - x[:, :2]).square().mean()
    loss.backward()
    return {"loss": loss.detach()}


class Clock:
    """Each look at it takes a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_a_run_in_pieces_gives_the_same_bytes(tmp_path):
    plan = Plan(steps=40, warm_up=5)
    whole = a_run(tmp_path / "whole.pt", plan)
    assert train(whole, work, ALONE, lambda line: None)
    pieces = 0
    finished = False
    while not finished:
        part = a_run(tmp_path / "part.pt", Plan(steps=40, warm_up=5, minutes=12 / 60))
        part.resume()
        finished = train(part, work, ALONE, lambda line: None, clock=Clock())
        pieces += 1
    assert pieces > 2
    a, b = loops.read_checkpoint(whole.path), loops.read_checkpoint(part.path)
    for kind in ("module", "average"):
        assert all(torch.equal(a[kind][name], b[kind][name]) for name in a[kind])
    moments = [state["optimizer"]["state"] for state in (a, b)]
    assert all(
        torch.equal(moments[0][p]["exp_avg_sq"], moments[1][p]["exp_avg_sq"]) for p in moments[0]
    )


def test_the_loss_falls(tmp_path):
    run = a_run(tmp_path / "a.pt", Plan(steps=300, rate=3e-2, warm_up=5))
    first = float(work(run)["loss"])
    train(run, work, ALONE, lambda line: None)
    assert float(work(run)["loss"]) < 0.01 * first


def test_a_call_ends_with_its_minutes_and_saves(tmp_path):
    clock = Clock()
    run = a_run(tmp_path / "a.pt", Plan(steps=10_000, minutes=0.5))
    assert not train(run, work, ALONE, lambda line: None, clock)
    assert 30 <= clock.now <= 33
    assert loops.read_checkpoint(run.path)["numbers"]["step"] == run.step > 5


def test_minutes_become_steps(tmp_path):
    run = a_run(tmp_path / "a.pt", Plan(steps=0, total_minutes=3))
    assert train(run, work, ALONE, lambda line: None, Clock())
    # A step takes a second, and one more for each line that is reported.
    assert 160 <= run.steps <= 180
    assert run.step == run.steps


def test_a_run_needs_a_length():
    with pytest.raises(BadInput, match="no length"):
        Plan(steps=0)


def test_other_settings_are_refused(tmp_path):
    plan = Plan(steps=2)
    train(a_run(tmp_path / "a.pt", plan), work, ALONE, lambda line: None)
    with pytest.raises(BadInput, match="other settings"):
        a_run(tmp_path / "a.pt", plan, {"width": 4}).resume()


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="no state of a training"):
        a_run(tmp_path / "a.pt", Plan(steps=2)).resume()


def test_the_rate_rises_and_falls():
    plan = Plan(steps=100, rate=2.0, warm_up=10)
    rates = [plan.rate_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2, rel=0.01)
    assert max(rates) == pytest.approx(2.0, rel=0.05)
    assert rates[-1] < 0.03
    assert plan.rate_at(50, 0) == 2.0


def test_averages_of_weights():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0)
    average = Average(module, decay=0.9)
    expected = 0.0
    for step in range(200):
        module.weight.data.fill_(step)
        average.update(module, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-5)
    with average.in_place_of(module):
        assert module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert module.weight.item() == 199
