"""What the tests of the command line share: calling it in this process, files to feed it."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from backend import pipelines
from backend.__main__ import main
from backend.protocol import PointsToMesh, VoxelsToMesh
from tests.command_line.input_files import octahedron


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
