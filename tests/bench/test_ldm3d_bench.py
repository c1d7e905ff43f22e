"""The table of what painting panoramas costs."""

from __future__ import annotations

import pytest
import torch

from backend import bench_tables
from backend.bench import ldm3d
from backend.bench.ldm3d import STAGES, Sizes, products

SMALL = Sizes((64, 64, 64, 64), (64, 64, 64, 64), 32, 16)


def test_what_the_published_networks_do_is_counted_without_doing_it() -> None:
    """The U-Net of Stable Diffusion 1: 860 million weights, some 0.8 teraflops for each of the two
    halves of a guided step of 64 x 64 cells, and more than twice that for twice the picture."""
    step, decoding = STAGES
    flops, weights = products(step, Sizes(), 512, 512)
    assert weights == 859_520_964
    assert 1.4e12 < flops < 1.8e12
    wide = products(step, Sizes(), 1024, 512)[0]
    assert 2 * flops < wide < 2.5 * flops
    flops, weights = products(decoding, Sizes(), 512, 512)
    assert 49e6 < weights < 50e6
    assert 2e12 < flops < 3e12


def test_rows_tell_of_every_stage_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def one_second(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
        with torch.inference_mode():
            assert network(*inputs) is not None
        calls.append(sum(weight.numel() for weight in network.parameters()))
        return 1.0

    monkeypatch.setattr(ldm3d, "_seconds", one_second)
    rows = list(ldm3d.rows("cpu", SMALL, ((128, 64), (64, 64))))
    assert [(row["stage"], row["picture"]) for row in rows] == [
        (stage, picture)
        for stage in ("guided step", "decoding")
        for picture in ("128 x 64", "64 x 64")
    ]
    for row, measured in zip(rows, calls, strict=True):
        stage = next(stage for stage in STAGES if stage.name == row["stage"])
        width, height = map(int, row["picture"].split(" x "))
        whole, weights = products(stage, SMALL, width, height)
        part, few = products(stage, SMALL.reduced(4), width, height)
        assert measured == few < weights
        assert row["measured"] is False
        assert row["seconds"] == pytest.approx(whole / part, abs=0.001)
        assert row["seconds"] > 3
        assert "peak_GB" not in row


def test_it_is_one_of_the_tables() -> None:
    assert "ldm3d" in bench_tables.BENCHES
    assert "ldm3d" in bench_tables.ON_DEVICE


def test_time_is_that_of_a_run() -> None:
    waits = torch.nn.Identity()
    assert 0 <= ldm3d._seconds(waits, (torch.zeros(3),)) < 1
