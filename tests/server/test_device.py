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


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (50, 100)),
        ({"memory.max": "max\n", "memory.current": "7\n"}, (50, 100)),
        ({"memory.max": "80\n", "memory.current": "10\n"}, (50, 80)),
        ({"memory.max": "40\n", "memory.current": "30\n"}, (10, 40)),
        (
            {
                "memory.max": "40\n",
                "memory.current": "30\n",
                "memory.stat": "anon 8\nactive_file 5\ninactive_file 16\nfile 22\n",
            },
            (31, 40),
        ),
        (
            {
                "memory/memory.limit_in_bytes": "40\n",
                "memory/memory.usage_in_bytes": "39\n",
                "memory/memory.stat": "active_file 1\ntotal_active_file 2\n",
            },
            (3, 40),
        ),
        ({"memory.max": "40\n", "memory.current": "60\n"}, (0, 40)),
    ],
)
def test_a_container_may_have_less_than_the_machine(
    tmp_path: Path, files: dict[str, str], expected: tuple[int, int]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert device._within_container(50, 100, tmp_path) == expected


def test_words_without_known_memory() -> None:
    assert device.Device("cpu", "Abacus", 0, 0).in_words() == "Abacus"
    assert device.Device("cuda", "H", 3 << 30, 4 << 30).in_words() == "H, 3.0 of 4.0 GB free"


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= device.usable_cores() <= (os.cpu_count() or 1)


def test_the_server_starts_without_torch() -> None:
    code = "import sys, backend.server, backend.workers; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
