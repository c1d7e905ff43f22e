"""`doctor`: what is installed, which device there is, and what to do about what is missing.

Standard library only, so that it can tell even when nothing is installed.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata

from . import device, environment, weights
from .blender_process import find_blender
from .errors import FieldforgeError

_GIB = 1 << 30
_ENOUGH_DISK = 4 * _GIB
_ENOUGH_MEMORY = 4 * _GIB


@dataclass(frozen=True)
class Finding:
    """One line. state: "ok", "note" (works, could be better) or "missing" (must be mended)."""

    subject: str
    state: str
    text: str
    remedy: str = ""


def run(*, as_json: bool = False) -> int:
    """Print every finding; 0 when the backend can be used, else 1."""
    found = findings()
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in found]}))
    else:
        for finding in found:
            print(f"{_MARKS[finding.state]} {finding.subject:12} {finding.text}")
            if finding.remedy:
                print(f"{'':15} -> {finding.remedy}")
    return 1 if any(finding.state == "missing" for finding in found) else 0


_MARKS = {"ok": "[x]", "note": "[~]", "missing": "[ ]"}


def findings() -> list[Finding]:
    return [_python(), _backend(), _extra("test"), _blender(), *_models(), *_device(), _disk()]


def _python() -> Finding:
    text = f"{platform.python_version()} at {sys.executable}"
    return Finding("Python", "ok", text)


def _backend() -> Finding:
    found = environment.status("backend")
    if found.state == "external":
        return _external()
    if environment.usable_here():
        return Finding("Backend", "ok", f"torch {metadata.version('torch')} in {sys.prefix}")
    if found.state == "ready":
        return Finding("Backend", "ok", f"installed in {found.path}")
    if found.state == "incomplete":
        text = f"its installation in {found.path} was interrupted"
        return Finding(
            "Backend", "missing", text, "Any command repairs it: python3 -m backend demo"
        )
    text = f"not installed (it goes to {found.path})"
    return Finding("Backend", "missing", text, "Any command installs it: python3 -m backend demo")


def _external() -> Finding:
    try:
        return Finding("Backend", "ok", f"FIELDFORGE_PYTHON: {environment.ensure('backend')}")
    except FieldforgeError as error:
        return Finding("Backend", "missing", error.cause, error.remedy)


def _extra(kind: str) -> Finding:
    found = environment.status(kind)
    if found.state == "ready":
        return Finding("Tests", "ok", f"installed in {found.path}")
    return Finding("Tests", "note", "not installed", "Only for tests: python3 -m backend test")


def _blender() -> Finding:
    found = find_blender()
    if found is not None:
        return Finding("Blender", "ok", found.in_words())
    return Finding(
        "Blender",
        "note",
        "not found; .blend files and previews install Blender as a Python module on first use",
        "Install Blender 4.2 or newer and put it on the PATH, if you would rather use that.",
    )


def _models() -> list[Finding]:
    """The store, and each model in it that cannot be used."""
    here = weights.installed()
    size = sum(model.bytes for model in here.values()) / _GIB
    text = f"{', '.join(here)} ({size:.1f} GB)" if here else "wavelet-fit, which needs no weights"
    found = [Finding("Models", "ok", f"{text}; the store is {weights.store()}")]
    broken = weights.problems().items()
    return found + [Finding(f"  {name}", "note", bad.cause, bad.remedy) for name, bad in broken]


def _device() -> list[Finding]:
    found = device.describe("auto")
    enough = not found.total_bytes or found.free_bytes >= _ENOUGH_MEMORY
    remedy = "" if enough else "Close other programs, or use resolution 128."
    return [Finding("Device", "ok" if enough else "note", found.in_words(), remedy)]


def _disk() -> Finding:
    folder = environment.home()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    text = f"{free / _GIB:.1f} GB free for {folder}"
    if free >= _ENOUGH_DISK:
        return Finding("Disk", "ok", text)
    return Finding("Disk", "note", text, "Make room, or set FIELDFORGE_HOME to another disk.")
