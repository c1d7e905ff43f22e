"""The benchmark runs, at tiny sizes; what it says of the card's stages is run on the processor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.bench import wala
from backend.bench.wala import BILLION, PUBLISHED, Size
from backend.models.wala.config import AutoencoderConfig, ImageEncoderConfig, PointEncoderConfig


@pytest.fixture(scope="module")
def tiny() -> Size:
    return Size(
        denoiser=replace(BILLION, width=32, depth=1, heads=2, channels=32, context_channels=24),
        image=ImageEncoderConfig(width=24, depth=1, heads=2),
        points=PointEncoderConfig(channels=32, width=32, queries=4),
        autoencoder=AutoencoderConfig(widths=(32, 32, 32)),
        point_count=50,
        patches=(6,),
        batches=(1,),
        steps=2,
        image_side=28,
        repeats=1,
    )


def test_every_published_stage_has_a_row(tiny: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "step, patches of 6", PUBLISHED["step, patches of 2"])
    found = {row["what"]: row for row in wala.rows("cpu", tiny)}
    known = {name for name in PUBLISHED if name not in ("step, patches of 2", "step, patches of 1")}
    assert set(found) == known
    for name, row in found.items():
        assert row["published CPU s"] == PUBLISHED[name].cpu
        assert 0 <= row["seconds"] < 60


def test_the_card_s_stages(tiny: Size) -> None:
    with torch.inference_mode():
        found = list(wala.card_rows(tiny, "cpu", torch.float32))
    stages = [row["what"] for row in found]
    assert "latent to mesh in main memory" in stages
    assert "image to mesh, 2 steps, CUDA graph" in stages
    assert all(row["shapes/s"] > 0 for row in found)


def test_the_size_is_that_of_the_published_models() -> None:
    with torch.device("meta"):
        model = wala.Wala(Size().model())
    parameters = sum(tensor.numel() for tensor in model.denoiser.parameters())
    assert parameters == pytest.approx(957.2e6, abs=0.5e6)
