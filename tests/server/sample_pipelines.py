"""Pipelines for the tests of the server. The name of the task says what happens."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from backend.errors import BadInput, TooLarge
from backend.pipelines import Context
from backend.protocol import MeshResult, MeshSet, PointsToMesh, Preview, Progress

Steps = Iterator[Any]


def run(task: PointsToMesh, context: Context) -> Steps:
    name, _, argument = task.name.partition(":")
    yield from PIPELINES[name](task, context, argument)


def mesh_of(faces: int) -> MeshResult:
    """A mesh of `faces` triangles and half as many vertices, with colors."""
    count = max(3, faces // 2)
    vertices = np.arange(count * 3, dtype=np.float32).reshape(-1, 3)
    corners = np.arange(faces * 3, dtype=np.int32).reshape(-1, 3) % count
    colors = np.full((count, 4), 255, np.uint8)
    return MeshResult(vertices=vertices, faces=corners, colors=colors, report={"faces": faces})


def quick(task: PointsToMesh, context: Context, argument: str) -> Steps:
    """`argument` triangles."""
    yield Progress("Solving", 0.5)
    yield mesh_of(int(argument or 4))


def steps(task: PointsToMesh, context: Context, argument: str) -> Steps:
    """Two stages, 25 steps each, and a fraction that once goes back."""
    for k in range(50):
        context.check_cancelled()
        time.sleep(0.004)
        yield Progress("Fitting" if k < 25 else "Meshing", k / 50 if k != 30 else 0.1)
    yield mesh_of(4)


def patient(task: PointsToMesh, context: Context, argument: str) -> Steps:
    """Works until it is cancelled, and stops when it is asked to."""
    yield Progress("Waiting", 0.1)
    while True:
        context.check_cancelled()
        time.sleep(0.01)


def relentless(task: PointsToMesh, context: Context, argument: str) -> Steps:
    """Never looks at the flag, never gives the interpreter away for long."""
    yield Progress("Looping", 0.1)
    while True:
        pass


def deaf(task: PointsToMesh, context: Context, argument: str) -> Steps:
    """Floods the pipe with progress and ignores the flag."""
    for k in range(10**9):
        yield Progress(f"Stage {k}", 0.1)


def ended(task: PointsToMesh, context: Context, argument: str) -> Steps:
    yield Progress("Ending", 0.1)
    os._exit(int(argument))


def killed(task: PointsToMesh, context: Context, argument: str) -> Steps:
    yield Progress("Ending", 0.1)
    os.kill(os.getpid(), int(argument))
    time.sleep(60)


def memory(task: PointsToMesh, context: Context, argument: str) -> Steps:
    yield Progress("Filling", 0.1)
    yield np.zeros(1 << 60, np.uint8)


def torch_memory(task: PointsToMesh, context: Context, argument: str) -> Steps:
    """What torch raises on a processor, without the seconds that its import takes."""
    yield Progress("Filling", 0.1)
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..")


def forming(task: PointsToMesh, context: Context, argument: str) -> Steps:
    """Shows two meshes of 3 triangles, then two of 5, and goes on until it is cancelled."""
    for faces in (3, 5):
        yield Preview("Sampling", faces / 10, (mesh_of(faces), mesh_of(faces)))
        time.sleep(0.15)
    yield from patient(task, context, argument)


def several(task: PointsToMesh, context: Context, argument: str) -> Steps:
    """Two meshes, one after a preview."""
    yield Preview("Sampling", 0.5, (mesh_of(3),))
    yield MeshSet(meshes=(mesh_of(4), mesh_of(6)), report={"faces": [4, 6]})


def fault(task: PointsToMesh, context: Context, argument: str) -> Steps:
    yield Progress("Failing", 0.1)
    raise ZeroDivisionError("a fault of ours \ud800")


def told(task: PointsToMesh, context: Context, argument: str) -> Steps:
    yield Progress("Failing", 0.1)
    raise (TooLarge if argument == "large" else BadInput)("The cloud is odd.", "Even it out.")


def nothing(task: PointsToMesh, context: Context, argument: str) -> Steps:
    yield Progress("Nothing", 0.1)


def odd(task: PointsToMesh, context: Context, argument: str) -> Steps:
    """Prints, and reports what JSON does not have."""
    print("this goes to the log", flush=True)
    os.write(2, b"this too\n")
    yield Progress("Stage \ud800", float("nan"))
    yield MeshResult(report={"nan": float("nan"), "text": "half \ud800 pair", "naïve": "é"})


def about(task: PointsToMesh, context: Context, argument: str) -> Steps:
    """Reports about the process it runs in."""
    yield MeshResult(
        report={
            "pid": os.getpid(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "torch": "torch" in sys.modules,
            "device": context.device,
            "main": threading.current_thread() is threading.main_thread(),
            "points": len(task.points),
        }
    )


PIPELINES: dict[str, Callable[[PointsToMesh, Context, str], Steps]] = {
    pipeline.__name__: pipeline
    for pipeline in (
        quick,
        steps,
        patient,
        relentless,
        deaf,
        ended,
        killed,
        memory,
        torch_memory,
        forming,
        several,
        fault,
        told,
        nothing,
        odd,
        about,
    )
}
