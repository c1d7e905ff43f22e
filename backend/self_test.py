"""`test`: installs what the tests need and runs them, on a bare machine too. Standard library only.

The rings, from the inside out:

    default   lint, types, every test that needs no special machine, the tests inside Blender
    blender   only the tests inside Blender (as a Python module)
    real      the real Blender with its window
    gpu       the tests that need a CUDA device
    large     checkpoints of the true size: minutes, and 10 GB of disk
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import environment
from .errors import NotFound
from .terminal import ProgressBar

ROOT = Path(__file__).resolve().parent.parent
_NO_TESTS_COLLECTED = 5
_ORDINARY = "not gpu and not real_blender and not large"
_MOST_AT_ONCE = 4
"""Processes of tests: each may take 3 GB."""


@dataclass(frozen=True)
class Step:
    """One command of a ring. kind: the environment whose Python runs it."""

    title: str
    kind: str
    arguments: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()


_LINT = (
    Step("ruff check", "test", ("-m", "ruff", "check", ".")),
    Step("ruff format", "test", ("-m", "ruff", "format", "--check", ".")),
    Step(
        "mypy",
        "test",
        (
            "-m",
            "mypy",
        ),
    ),
)
_PYTEST = ("-m", "pytest", "-m")
# One thread each: the models of tests are small, and threads that wait for each other on a
# processor that has other work take many times as long.
_AT_ONCE = ("-n", str(min(os.cpu_count() or 1, _MOST_AT_ONCE)), "--dist", "loadfile")
_TESTS = Step(
    "tests",
    "test",
    (*_PYTEST, _ORDINARY, *_AT_ONCE, "tests", "--ignore=tests/blender"),
    (("OMP_NUM_THREADS", "1"),),
)
_BLENDER = Step("tests in Blender", "blender", (*_PYTEST, _ORDINARY, "tests/blender"))
_REAL = Step(
    "tests in the real Blender",
    "blender",
    (*_PYTEST, "real_blender", "tests/blender/real"),
    (("FIELDFORGE_REAL_BLENDER", "1"),),
)
_GPU = Step(
    "tests on the graphics card",
    "test",
    (*_PYTEST, "gpu", "tests", "--ignore=tests/blender"),
    (("FIELDFORGE_GPU", "1"),),
)
_LARGE = Step(
    "tests of the true size",
    "test",
    (*_PYTEST, "large", "tests", "--ignore=tests/blender"),
    (("FIELDFORGE_LARGE", "1"),),
)

RINGS: dict[str, tuple[Step, ...]] = {
    "default": (*_LINT, _TESTS, _BLENDER),
    "blender": (_BLENDER,),
    "real": (_REAL,),
    "gpu": (_GPU,),
    "large": (_LARGE,),
}


def run(ring: str, extra: list[str]) -> int:
    """Run every step of `ring`, also after one has failed; 0 when all passed, else 1.

    extra: further arguments for pytest.
    """
    if not (ROOT / "tests").is_dir():
        raise NotFound("The tests are not part of this copy.", "Use a copy of the repository.")
    pythons = _environments(RINGS[ring])
    outcomes = [_outcome(step, pythons, extra) for step in RINGS[ring]]
    print("\nSummary", flush=True)
    for step, (code, seconds) in zip(RINGS[ring], outcomes, strict=True):
        print(f"  {'passed' if code == 0 else 'FAILED':7} {step.title} ({seconds:.0f} s)")
    failed = sum(code != 0 for code, _ in outcomes)
    print(f"{len(outcomes) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def _environments(steps: tuple[Step, ...]) -> dict[str, Path]:
    """The Python of each kind. The tests in Blender also start a backend, in "test"."""
    kinds = dict.fromkeys(["test", *(step.kind for step in steps)])
    pythons = {}
    for kind in kinds:
        with ProgressBar(always=True) as bar:
            if environment.status(kind).python is None:
                bar.say(f"Installing {environment.KINDS[kind].title}. This happens once.")
            pythons[kind] = environment.ensure(kind, bar.report)
    return pythons


def _outcome(step: Step, pythons: dict[str, Path], extra: list[str]) -> tuple[int, float]:
    print(f"\n== {step.title}", flush=True)
    command = [str(pythons[step.kind]), *step.arguments]
    if "pytest" in step.arguments:
        command += extra
    variables = {
        **environment.child_environment(),
        "FIELDFORGE_PYTHON": str(pythons["test"]),
        **dict(step.variables),
    }
    begun = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode
    if code == _NO_TESTS_COLLECTED:
        print(f"{step.title}: no test was found", file=sys.stderr)
    return code, time.monotonic() - begun
