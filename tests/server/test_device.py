"""Which device works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend import device
from backend.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]


def test_cpu_is_taken_when_wanted() -> None:
    assert device.pick("cpu") == "cpu"


@pytest.mark.parametrize("works", [True, False])
def test_auto_takes_the_graphics_card_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    monkeypatch.setattr(device, "_cuda_works", lambda: works)
    assert device.pick("auto") == ("cuda" if works else "cpu")


def test_a_graphics_card_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cuda_works", lambda: False)
    with pytest.raises(BadInput, match="graphics card") as told:
        device.pick("cuda")
    assert "cpu" in told.value.remedy


def test_an_unknown_device_is_told() -> None:
    with pytest.raises(BadInput, match="'tpu'") as told:
        device.pick("tpu")
    assert "auto, cpu, cuda" in told.value.remedy


def test_the_processor_is_described_in_words() -> None:
    found = device.describe("cpu")
    assert found.kind == "cpu"
    assert found.name.strip()
    assert 1 << 28 < found.free_bytes <= found.total_bytes < 1 << 45
    assert found.in_words().startswith(found.name)
    assert found.in_words().endswith(" GB free")


def test_words_without_known_memory() -> None:
    assert device.Device("cpu", "Abacus", 0, 0).in_words() == "Abacus"
    assert device.Device("cuda", "H", 3 << 30, 4 << 30).in_words() == "H, 3.0 of 4.0 GB free"


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= device.usable_cores() <= (os.cpu_count() or 1)


def test_the_server_starts_without_torch() -> None:
    code = "import sys, backend.server, backend.workers; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
