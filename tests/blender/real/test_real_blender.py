"""The built zip in the real Blender, with its window and a real mouse click.

Runs with FIELDFORGE_REAL_BLENDER=1. FIELDFORGE_REAL_BLENDER_COMMAND is the harness command
(default: real-blender, from the PATH), which builds and installs extensions and runs a script
in Blender's window; FIELDFORGE_BACKEND_PYTHON is a Python with the backend's packages that runs
inside the harness; FIELDFORGE_REAL_BLENDER_BIND lists folders to show there (separated as in PATH).
Pictures are left in build/real-blender/.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COMMAND = os.environ.get("FIELDFORGE_REAL_BLENDER_COMMAND", "real-blender").split()
PYTHON = os.environ.get("FIELDFORGE_BACKEND_PYTHON", "")

pytestmark = [
    pytest.mark.real_blender,
    pytest.mark.skipif(
        os.environ.get("FIELDFORGE_REAL_BLENDER") != "1",
        reason="opens Blender's window for some minutes; opt in with FIELDFORGE_REAL_BLENDER=1",
    ),
]


def harness(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "REAL_BLENDER_PROFILE": "fieldforge-tests"}
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The zip, built by Blender's own command, installed as a new user does."""
    assert shutil.which(COMMAND[0]), f"there is no {COMMAND[0]}"
    target = tmp_path_factory.mktemp("zip") / "fieldforge.zip"
    for arguments in (
        ("validate", str(ROOT)),
        ("build", str(ROOT), str(target)),
        ("reset",),
        ("install", str(target)),
    ):
        done = harness(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_from_a_click_to_a_mesh(installed):
    assert PYTHON, "FIELDFORGE_BACKEND_PYTHON is not set"
    pictures = ROOT / "build" / "real-blender"
    pictures.mkdir(parents=True, exist_ok=True)
    shown = filter(None, os.environ.get("FIELDFORGE_REAL_BLENDER_BIND", "").split(os.pathsep))
    binds = [part for folder in shown for part in ("--bind", folder)]
    script = Path(__file__).with_name("generate_steps.py")
    scan = ROOT / "examples" / "hen.ply"
    done = harness(
        *binds,
        *("gui", str(script), str(pictures), "--seconds", "400", "--"),
        *(str(scan), "--python", PYTHON),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((pictures / "result.json").read_text())["ok"]
    for name in ("before", "during", "after", "nothing-selected", "lost", "preferences"):
        assert (pictures / f"shot-{name}.png").stat().st_size > 10_000
