"""What the extension may hold, seen from outside."""

import ast
import tomllib
import zipfile
from pathlib import Path

import bpy
import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDON = sorted((ROOT / "blender_addon").glob("**/*.py"))
SHARED = {"errors", "protocol", "environment", "field_files"}
ALLOWED = {"bpy", "bl_ui", "bpy_extras", "mathutils", "bmesh", "blf", "gpu", "numpy", "requests"}
IN_THREADS = ("arrival", "captures", "lenses", "paths", "transforms")
FIELDS_IN_THREADS = ("arrival", "captures", "weights")
FREE_OF_BPY = {
    *("client", "backend_process", "compose"),
    *(f"views/{name}" for name in IN_THREADS),
    *(f"fields/{name}" for name in FIELDS_IN_THREADS),
}


def _imports(path: Path) -> set[tuple[int, str]]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(0, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                found.add((node.level, node.module))
            if not node.module or node.module == "backend":
                prefix = f"{node.module}." if node.module else ""
                found |= {(node.level, prefix + alias.name) for alias in node.names}
    return found


@pytest.mark.parametrize("path", ADDON, ids=lambda path: path.stem)
def test_blender_s_part_imports_only_what_blender_has(path):
    import sys

    for level, name in _imports(path):
        top, _, rest = name.partition(".")
        if level == 0:
            assert top in ALLOWED | sys.stdlib_module_names, f"{path.name} imports {name}"
        elif top == "backend" and rest:
            assert rest.split(".")[0] in SHARED, f"{path.name} imports {name}"


@pytest.mark.parametrize("name", sorted(FREE_OF_BPY))
def test_what_runs_in_threads_knows_no_bpy(name):
    found = {module for _, module in _imports(ROOT / "blender_addon" / f"{name}.py")}
    assert not found & {"bpy", "mathutils", "bmesh"}


def _blender_ext():
    import importlib.util

    scripts = Path(bpy.utils.resource_path("LOCAL")) / "scripts"
    path = scripts / "addons_core" / "bl_pkg" / "cli" / "blender_ext.py"
    spec = importlib.util.spec_from_file_location("blender_ext", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_manifest_passes_blender_s_own_check(capsys):
    code = _blender_ext().main(["validate", str(ROOT)], args_internal=False)
    printed = capsys.readouterr().out
    assert code in (True, 0, None), printed
    assert "Success" in printed


def test_the_zip_holds_what_blender_runs_and_nothing_else(tmp_path, capsys):
    target = tmp_path / "fieldforge.zip"
    _blender_ext().main(
        ["build", "--source-dir", str(ROOT), "--output-filepath", str(target)], args_internal=False
    )
    with zipfile.ZipFile(target) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"__init__.py", "blender_manifest.toml", "blender_addon", "backend"} <= tops
    assert tops <= {
        *("__init__.py", "blender_manifest.toml", "LICENSE"),
        *("blender_addon", "backend", "weights"),
    }
    assert not [name for name in names if "__pycache__" in name or "/." in name]
    assert "backend/requirements/backend.txt" in names


def test_the_manifest_agrees_with_the_project():
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert manifest["version"] == project["version"]
    assert manifest["id"] == "fieldforge"
    assert manifest["license"] == ["SPDX:GPL-3.0-or-later"]
    assert manifest["blender_version_min"] == "4.2.0"
    assert set(manifest["permissions"]) == {"network", "files"}
