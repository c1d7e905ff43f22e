"""The extension as Blender loads it: the repository root is a package, here named `fieldforge`.

These tests need bpy (Blender as a Python module); where it is missing nothing is collected, as the
rest of the suite runs in the backend's environment, which has none.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HAS_BPY = importlib.util.find_spec("bpy") is not None
IN_THE_WINDOW = os.environ.get("FIELDFORGE_REAL_BLENDER") == "1"
collect_ignore_glob = [] if HAS_BPY else ["test_*.py"]
if not (HAS_BPY and IN_THE_WINDOW):  # they open Blender's window for some minutes
    collect_ignore_glob.append("real/test_*.py")


def load_extension():
    """Import the repository root as the package `fieldforge`, once."""
    if "fieldforge" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "fieldforge", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules["fieldforge"] = module
        spec.loader.exec_module(module)
    return sys.modules["fieldforge"]


if HAS_BPY:
    sys.path.insert(0, str(Path(__file__).parent))
    load_extension()


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """Nothing of the user's own folders is read or written."""
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FIELDFORGE_PYTHON", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def empty_scene():
    """A new file without objects."""
    import bpy

    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    return bpy.context.scene


@pytest.fixture
def extension(empty_scene):
    """The registered extension."""
    module = load_extension()
    module.register()
    yield module
    module.unregister()


@pytest.fixture
def fake():
    """A backend on this computer that does what the test says."""
    from fake_backend import FakeBackend

    backend = FakeBackend()
    yield backend
    backend.close()


@pytest.fixture
def server(fake, monkeypatch):
    """Preferences that point at the fake backend; change its fields to change them."""
    from fake_backend import TOKEN
    from fieldforge.blender_addon import client, preferences, session
    from fieldforge.blender_addon.backend_process import Settings

    chosen = {"mode": "SERVER", "url": fake.url, "token": TOKEN}
    monkeypatch.setattr(preferences, "current_settings", lambda: Settings(**chosen))
    monkeypatch.setattr(session, "current_settings", lambda: Settings(**chosen))
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 1.0)
    return chosen


@pytest.fixture
def running(server, extension):
    """The jobs of the registered extension, with the fake backend behind them."""
    from fieldforge.blender_addon import session

    return session.jobs()
