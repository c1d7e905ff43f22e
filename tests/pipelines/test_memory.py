from __future__ import annotations

import numpy as np
import pytest

from backend import device, pipelines
from backend.device import Device
from backend.errors import OutOfMemory
from backend.models import wavelet_fit
from backend.pipelines import Context, memory
from backend.protocol import PointsToMesh, Task, VoxelsToMesh
from tests.pipelines import bodies

GIGABYTE = 2**30


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """[free, total] bytes of a machine; a test may change them."""
    sizes = [1 * GIGABYTE, 16 * GIGABYTE]
    monkeypatch.setattr(device, "describe", lambda wanted: Device(wanted, "Card", *sizes))
    return sizes


def _tasks() -> list[Task]:
    points = bodies.sphere().points
    occupancy = np.zeros((300, 300, 300), bool)
    occupancy[1:-1, 1:-1, 1:-1] = True
    return [
        PointsToMesh(points=points, resolution=512),
        VoxelsToMesh(occupancy=occupancy, resolution=512),
    ]


@pytest.mark.parametrize("task", _tasks(), ids=["points", "voxels"])
def test_a_job_that_does_not_fit_is_refused_before_it_starts(task: Task, free: list[int]) -> None:
    with pytest.raises(OutOfMemory) as caught:
        next(pipelines.run(task, Context("cpu")))
    assert "1.0 GB are free" in caught.value.cause
    assert "resolution" in caught.value.remedy
    free[0] = 8 * GIGABYTE
    next(pipelines.run(task, Context("cpu")))


def test_a_small_job_starts_with_little_memory(free: list[int]) -> None:
    next(pipelines.run(PointsToMesh(points=bodies.sphere().points, resolution=256), Context("cpu")))
    occupancy = np.zeros((200, 8, 8), bool)
    occupancy[100] = True
    next(pipelines.run(VoxelsToMesh(occupancy=occupancy, resolution=128), Context("cpu")))


def test_where_the_system_does_not_tell_all_jobs_start(free: list[int]) -> None:
    free[:] = 0, 0
    memory.require(10**15, "cpu")


def test_the_memory_of_a_card_is_named(free: list[int]) -> None:
    memory.require(GIGABYTE, "cuda")
    with pytest.raises(OutOfMemory, match="memory of Card"):
        memory.require(GIGABYTE + 1, "cuda")


def test_what_is_predicted_is_near_what_was_measured() -> None:
    """Peaks of the process beyond its start, in GB, as measured on a machine of two cores."""
    assert 5.1 <= wavelet_fit.bytes_for_points(1_000_000, 512) / GIGABYTE < 6
    assert 0.9 <= wavelet_fit.bytes_for_points(1_000_000, 256) / GIGABYTE < 1.2
    assert 0.9 <= wavelet_fit.bytes_for_points(10_000_000, 256) / GIGABYTE < 1.6
    long = np.zeros((512, 20, 20), bool)
    long[[0, -1]] = True
    assert 0.3 <= wavelet_fit.bytes_for_voxels(long, 512) / GIGABYTE < 0.6
    cube = np.zeros((346,) * 3, bool)
    cube[0, 0, 0] = cube[-1, -1, -1] = True
    assert 2.5 <= wavelet_fit.bytes_for_voxels(cube, 512) / GIGABYTE < 4
