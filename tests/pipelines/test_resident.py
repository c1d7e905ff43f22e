"""Models stay between jobs as long as there is room."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backend import device, weights
from backend.device import Device
from backend.errors import OutOfMemory
from backend.models.wala import loading
from backend.pipelines import resident
from backend.pipelines.resident import Loaded
from backend.protocol import Shape
from tests import wala_models
from tests.pipelines.conftest import Latents

CPU = torch.device("cpu")
TOTAL = 1 << 30


@pytest.fixture
def load(store: Path) -> Callable[..., Loaded]:
    def take(name: str, working_bytes: int = 0) -> Loaded:
        return resident.load(weights.require(name), CPU, working_bytes)

    return take


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 GB, of which the models that are loaded take four fifths each."""

    def describe(wanted: str) -> Device:
        free = TOTAL - len(resident._models) * (4 * TOTAL // 5)
        return Device(wanted, "Machine", max(free, 0), TOTAL)

    monkeypatch.setattr(device, "describe", describe)


def test_a_model_is_loaded_once(load: Callable[..., Loaded]) -> None:
    first = load("tiny-shape")
    assert load("tiny-shape") is first
    assert load("tiny-image") is not first
    assert load("tiny-shape") is first
    assert not any(weight.requires_grad for weight in first.model.parameters())
    assert not first.model.training


def test_jobs_find_the_model_that_an_earlier_one_loaded(latents: Latents) -> None:
    latents(Shape())
    ((_, first),) = resident._models.items()
    latents(Shape(seed=3))
    ((_, second),) = resident._models.items()
    assert first is second


@pytest.mark.usefixtures("machine")
def test_another_model_makes_room(load: Callable[..., Loaded]) -> None:
    load("tiny-shape")
    image = load("tiny-image", TOTAL // 2)
    assert list(resident._models.values()) == [image]
    with pytest.raises(OutOfMemory, match="variations"):
        load("tiny-points", 2 * TOTAL)


@pytest.mark.usefixtures("machine")
def test_models_go_after_a_job_that_leaves_little(latents: Latents) -> None:
    """A fifth is left beside one model, nothing beside two."""
    latents(Shape())
    assert len(resident._models) == 1
    key, loaded = next(iter(resident._models.items()))
    resident._models[("another", *key[1:])] = dataclasses.replace(loaded)
    resident.unload_when_short()
    assert resident._models == {}


def test_files_that_were_replaced_are_loaded_anew(
    tmp_path: Path, load: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path))
    wala_models.write(tmp_path, "shape", seed=1)
    first = load("tiny-shape")
    written = wala_models.write(tmp_path, "shape", seed=2)
    os.utime(written.files[0], ns=(1, 1))
    second = load("tiny-shape")
    assert second is not first
    assert list(resident._models.values()) == [second]  # the first is of no use any more
    names = ["denoiser.conv_in.weight"]
    assert not torch.equal(
        first.model.get_parameter(names[0]), second.model.get_parameter(names[0])
    )


def test_codes_are_compared_in_full_precision(
    load: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDFORGE_PRECISION", "bfloat16")
    loaded = load("tiny-shape")
    assert loaded.dtype == torch.bfloat16
    assert loaded.model.denoiser.conv_in.weight.dtype == torch.bfloat16
    assert loaded.model.autoencoder.quantize.embedding.weight.dtype == torch.float32
    tree = loaded.tree(torch.zeros(1, 4, 12, 12, 12))
    assert tree.low.dtype == torch.float32


def test_nothing_is_filled_by_chance_that_files_are_to_fill() -> None:
    with torch.device("meta"), loading._Unfilled():
        table = torch.nn.Embedding(3, 2)
        places = torch.randn(1, 5, 4) * 0.02
        layer = torch.nn.Linear(4, 6)
    assert [tuple(t.shape) for t in (table.weight, places, layer.weight)] == [
        (3, 2),
        (1, 5, 4),
        (6, 4),
    ]
    assert all(tensor.is_meta for tensor in (table.weight, places, layer.weight, layer.bias))
    with loading._Unfilled():  # on a processor it shows
        assert torch.equal(torch.nn.init.normal_(torch.ones(3)), torch.ones(3))
        assert torch.equal(torch.nn.init.kaiming_uniform_(torch.ones(3, 3)), torch.ones(3, 3))
    assert torch.nn.init.normal_(torch.ones(3)).ne(1).all()
