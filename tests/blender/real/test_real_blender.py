"""The built zip in the real Blender, with its window and a real mouse click.

Runs with FIELDFORGE_REAL_BLENDER=1. FIELDFORGE_REAL_BLENDER_COMMAND is the harness command
(default: real-blender, from the PATH), which builds and installs extensions and runs a script
in Blender's window; FIELDFORGE_BACKEND_PYTHON is a Python with the backend's packages that runs
inside the harness; FIELDFORGE_REAL_BLENDER_BIND lists folders to show there (separated as in PATH).
FIELDFORGE_REAL_BLENDER_SECONDS is how long each may take (800; on a busy computer more).
FIELDFORGE_REAL_BLENDER_ROOM is a panorama with depth (.npz) to look at instead of a box of a room.
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
SECONDS = int(os.environ.get("FIELDFORGE_REAL_BLENDER_SECONDS", "800"))

pytestmark = pytest.mark.real_blender


def harness(*arguments: str) -> subprocess.CompletedProcess:
    environment = {"REAL_BLENDER_PROFILE": "fieldforge-tests", **os.environ}
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS + 100,
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


WRITE_MODELS = """
import sys
from pathlib import Path
from tests import ldm3d_models, viewdiff_models, wala_models
store = Path(sys.argv[1])
for condition in wala_models.TASKS:
    wala_models.write(store, condition)
ldm3d_models.write(store, ldm3d_models.parts_of(Path(sys.argv[2])))
viewdiff_models.write_pixels(store)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of small models, of chance: one per condition, and some that paint."""
    folder, parts = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("parts")
    command = [PYTHON, "-c", WRITE_MODELS, str(folder), str(parts)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    return folder


SCAN = str(ROOT / "examples" / "hen.ply")
SHOTS = {
    "first_start": ("first-cube", "first-scan", "first-online", "first-preferences"),
    "generate": ("before", "during", "after", "nothing-selected", "lost", "preferences"),
    "forming": ("forming-one", "forming-row", "formed-row", "region-after", "models"),
    "sources": ("chooser", "panel-viewport", "panel-views-image", "panel-text", "missing-depth"),
    "bundled": ("bundled-before", "bundled-after"),
    "panorama": ("chooser", "panel-empty", "panel", "sphere", "inside", "stereo"),
    "panorama_text": ("words", "words-forming", "words-sphere", "words-inside", "words-pictures"),
    "room": ("room-before", "room-inside", "room-behind"),
    "views": ("ring", "viewport-panel", "views", "through-both", "turntable", "rebuilt", "path"),
    "bundled_views": ("views-before", "views-after", "views-behind", "views-mesh", "path-after"),
    "fields": ("field-before", "field-during", "field-left", "field-right", "field-mix-50"),
    "creatures": ("creature-before", "creature-first", "creature-later"),
    "words": ("lamp-empty", "lamp-before", "lamp-after", "lamp-partly"),
    "voxels": ("cubes-before", "cubes-after", "mesh-after", "cloud-after"),
}


@pytest.mark.parametrize("name", SHOTS)
def test_in_the_window(installed, store, name):
    """The steps of NAME_steps.py succeed, and their pictures are there to be looked at."""
    assert PYTHON, "FIELDFORGE_BACKEND_PYTHON is not set"
    pictures = ROOT / "build" / "real-blender" / name
    pictures.mkdir(parents=True, exist_ok=True)
    shown = filter(None, os.environ.get("FIELDFORGE_REAL_BLENDER_BIND", "").split(os.pathsep))
    binds = [part for folder in shown for part in ("--bind", folder)]
    room = os.environ.get("FIELDFORGE_REAL_BLENDER_ROOM")
    more = ("--room", room) if room and name == "panorama" else ()
    script = Path(__file__).with_name(f"{name}_steps.py")
    done = harness(
        *binds,
        *("--bind", str(store)),
        *("gui", str(script), str(pictures), "--seconds", str(SECONDS), "--"),
        *(SCAN, "--python", PYTHON, "--weights", str(store), *more),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((pictures / "result.json").read_text())["ok"]
    for shot in SHOTS[name]:
        assert (pictures / f"shot-{shot}.png").stat().st_size > 10_000
