"""Runs a Blender without its window, for .blend files and preview pictures.

The backend itself never imports bpy: a Blender that is installed, or Blender as a Python module in
an environment of its own, runs `blender_addon/preview.py`. Standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import environment
from .errors import FieldforgeError, InternalError

_ADD_ON = Path(__file__).resolve().parent.parent / "blender_addon"
SCRIPT = _ADD_ON / "preview.py"
SPHERE_SCRIPT = _ADD_ON / "panorama" / "save_file.py"
OLDEST = (4, 2)
_SECONDS = 900
_SCRIPT_ARGUMENTS = (
    "--background",
    "--factory-startup",
    "--python-exit-code",
    "1",
    "--python",
)


@dataclass(frozen=True)
class Blender:
    """command: what to put before the arguments of a script; version: for people."""

    command: tuple[str, ...]
    version: str

    def in_words(self) -> str:
        return f"{self.version} ({self.command[0]})"


def find_blender() -> Blender | None:
    """Blender as a module when it is installed, else the program; None when there is neither."""
    return next(_candidates(), None)


def preview(arrays: Path, report: environment.Report, **outputs: Path) -> None:
    """Build a scene from `arrays` (.npz, see blender_addon/preview.py) and write `outputs`:
    blend=path, png=path. Installs Blender as a module when no other works.

    Raises InternalError with what Blender said, and whatever `environment.ensure` raises.
    """
    _run_somewhere(SCRIPT, arrays, report, outputs)


def save_sphere(sphere: Path, report: environment.Report, **outputs: Path) -> None:
    """Make a file of `sphere`, the bytes of a SphereResult: blend=path. Otherwise as `preview`."""
    _run_somewhere(SPHERE_SCRIPT, sphere, report, outputs)


def _run_somewhere(
    script: Path, source: Path, report: environment.Report, outputs: dict[str, Path]
) -> None:
    failure: FieldforgeError | None = None
    for blender in _candidates():
        try:
            return _run(blender, script, source, outputs)
        except InternalError as error:
            failure = error
    if environment.status("blender").python is not None and failure is not None:
        raise failure
    python = environment.ensure("blender", report)
    _run(Blender((str(python),), "Blender as a Python module"), script, source, outputs)


def _candidates() -> Iterator[Blender]:
    module = environment.status("blender").python
    if module is not None:
        yield Blender((str(module),), "Blender as a Python module")
    for program in _programs():
        version = _version(program)
        if version and tuple(map(int, version.split(".")[:2])) >= OLDEST:
            yield Blender((str(program), *_SCRIPT_ARGUMENTS), f"Blender {version}")


def _programs() -> Iterator[Path]:
    """Where Blender may be: FIELDFORGE_BLENDER, the PATH, the usual folders."""
    for path in (os.environ.get("FIELDFORGE_BLENDER"), shutil.which("blender")):
        if path:
            yield Path(path).expanduser()
    if sys.platform == "darwin":
        yield Path("/Applications/Blender.app/Contents/MacOS/Blender")
    if sys.platform == "win32":
        folder = Path(os.environ.get("PROGRAMFILES", "C:/Program Files")) / "Blender Foundation"
        yield from sorted(folder.glob("Blender */blender.exe"), reverse=True)


def _version(program: Path) -> str | None:
    if not program.exists():
        return None
    try:
        done = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"Blender (\d+\.\d+(\.\d+)?)", done.stdout)
    return found[1] if found else None


def _run(blender: Blender, script: Path, source: Path, outputs: dict[str, Path]) -> None:
    separator = ["--"] if "--background" in blender.command else []
    options = [word for name, path in outputs.items() for word in (f"--{name}", str(path))]
    with tempfile.TemporaryDirectory(prefix="fieldforge-") as settings:
        variables = environment.child_environment()
        del variables["PYTHONPATH"]
        variables["BLENDER_USER_RESOURCES"] = settings  # leave the person's own settings alone
        command = [*blender.command, str(script), *separator, str(source), *options]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=_SECONDS,
                env=variables,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(blender, str(error)) from error
    if done.returncode != 0 or not all(path.exists() for path in outputs.values()):
        raise _failed(blender, _last_line(done.stderr or done.stdout))


def _failed(blender: Blender, reason: str) -> InternalError:
    return InternalError(
        f"{blender.in_words()} could not make the scene: {reason}.",
        "Write .glb instead and open that in Blender, or see: python3 -m backend doctor",
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it said nothing"
