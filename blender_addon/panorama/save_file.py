"""Makes a .blend file of a sphere. Runs by itself, in either form:

    python save_file.py SPHERE.bin --blend FILE    with Blender as a Python module
    blender --background --factory-startup --python save_file.py -- SPHERE.bin --blend FILE

SPHERE.bin holds the bytes of a SphereResult. With Fieldforge installed, its live controls move the
sphere of the file like any other.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from pathlib import Path

import bpy
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "fieldforge"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="save_file.py")
    parser.add_argument("sphere", type=Path)
    parser.add_argument("--blend", type=Path, required=True)
    options = parser.parse_args(argv)
    extension = _extension()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    extension.register()
    try:
        _build(options.sphere.read_bytes())
        bpy.context.preferences.filepaths.save_version = 0  # no .blend1 beside it
        bpy.ops.wm.save_as_mainfile(filepath=str(options.blend), compress=True, copy=True)
    finally:
        extension.unregister()


def _extension():
    """The repository, or the installed extension, as the package that Blender makes of it."""
    spec = importlib.util.spec_from_file_location(
        PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
    return module


def _build(body: bytes) -> None:
    protocol, importing = _module("backend.protocol"), _module("blender_addon.importing")
    arrival, scene = (_module(f"blender_addon.panorama.{name}") for name in ("arrival", "scene"))
    result = protocol.decode_result(body)
    arrived = arrival.arrived(result, result.name, {})
    made = scene.add(arrived, importing.Destination(result.name, np.eye(4)))
    here = bpy.context.scene
    here.camera = next((item for item in made if item.type == "CAMERA"), here.camera)
    here.view_settings.view_transform = "Standard"  # the picture has its tones already


def _module(name: str):
    return importlib.import_module(f"{PACKAGE}.{name}")


if __name__ == "__main__":
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    main(words)
    if bpy.app.version < (4, 3) and not bpy.app.binary_path:
        # As a module, 4.2 clears up after Python has ended where properties have callbacks: that
        # crashes, though the file is written.
        sys.stdout.flush()
        os._exit(0)
