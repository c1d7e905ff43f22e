"""What the tests of the command line share: calling it in this process, files to feed it."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from backend import pipelines
from backend.__main__ import main
from backend.protocol import MeshResult, PointsToMesh, Progress, Task, VoxelsToMesh


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        """The final JSON line."""
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """command("run", ...) -> exit code and what was printed; in this process."""
    monkeypatch.delenv("FIELDFORGE_PYTHON", raising=False)
    monkeypatch.delenv("FIELDFORGE_DEBUG", raising=False)

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


def octahedron(task: Task, context: pipelines.Context) -> Iterator[Progress | MeshResult]:
    """A pipeline that takes no time: an octahedron, whatever the task."""
    context.check_cancelled()
    yield Progress("Looking", 0.25)
    yield Progress("Building", 0.75)
    corners = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    faces = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    colors = np.full((6, 4), 200, np.uint8)
    yield MeshResult(
        name=task.name,
        vertices=corners,
        faces=np.array(faces, np.int32),
        colors=colors if getattr(task, "colors", None) is not None else None,
        report={"device": "cpu", "seconds": {"Looking": 0.1, "Building": 0.2}},
    )


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """pipeline(function): both tasks are done by `function` from now on."""

    def use(function: Callable[..., Any]) -> None:
        module = types.ModuleType("backend.pipeline_of_a_test")
        module.function = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        for kind in (PointsToMesh.kind, VoxelsToMesh.kind):
            entry = f"{module.__name__}:function"
            monkeypatch.setitem(pipelines.PIPELINES, (kind, "wavelet-fit"), entry)

    return use


@pytest.fixture
def quick(pipeline: Callable[..., None]) -> None:
    """Both tasks give an octahedron at once."""
    pipeline(octahedron)
