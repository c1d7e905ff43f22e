"""The walls between the rooms: who may import what, and which files may exist at all."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LARGEST_FILE = 50_000_000
SIZE_OF_EXAMPLES = 5_000_000
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "misc", "common"}
HEAVY = {"torch", "open3d", "numba", "scipy", "skimage", "trimesh", "fastapi", "uvicorn"}
HEAVY |= {"diffusers", "transformers"}
STANDARD = set(sys.stdlib_module_names)


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_by(path: Path, *, at_start_only: bool = False) -> Iterator[str]:
    """Top-level packages that a file imports from outside; relative imports are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    nodes = _outside_functions(tree) if at_start_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _outside_functions(child)


def tracked_files() -> list[Path]:
    """Every file of the repository, of git's index or (in a copy without git) on the disk."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 0 and done.stdout:
        return [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in ROOT.rglob("*") if path.is_file()]


def test_the_check_sees_every_form_of_import(tmp_path: Path) -> None:
    path = tmp_path / "forms.py"
    path.write_text(
        "import a.b\nfrom c.d import e\nfrom . import f\ndef g():\n    import h\n"
        "try:\n    import i\nexcept ImportError:\n    pass\n",
        encoding="utf-8",
    )
    assert set(imported_by(path)) == {"a", "c", "h", "i"}
    assert set(imported_by(path, at_start_only=True)) == {"a", "c", "i"}


@pytest.mark.parametrize("path", sources("blender_addon"), ids=lambda path: path.name)
def test_the_add_on_never_imports_what_blender_lacks(path: Path) -> None:
    allowed = STANDARD | {"bpy", "bmesh", "mathutils", "gpu", "gpu_extras", "blf", "bl_math"}
    allowed |= {"addon_utils", "bpy_extras", "idprop", "numpy", "requests"}
    assert set(imported_by(path)) <= allowed


@pytest.mark.parametrize("path", sources("backend"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_backend_never_imports_blender(path: Path) -> None:
    assert not set(imported_by(path)) & {"bpy", "bmesh", "mathutils", "gpu", "blender_addon"}


@pytest.mark.parametrize(
    "name",
    [
        "errors.py",
        "environment.py",
        "__main__.py",
        "__init__.py",
        "terminal.py",
        "doctor.py",
        "self_test.py",
        "extension_zip.py",
        "blender_process.py",
        "weights.py",
        "tensor_files.py",
    ],
)
def test_what_runs_before_the_environment_needs_only_the_standard_library(name: str) -> None:
    assert set(imported_by(ROOT / "backend" / name, at_start_only=True)) <= STANDARD


def test_the_protocol_needs_only_numpy() -> None:
    assert set(imported_by(ROOT / "backend" / "protocol.py")) <= STANDARD | {"numpy"}


@pytest.mark.parametrize(
    "module", ["backend.__main__", "backend.doctor", "backend.self_test", "backend.blender_process"]
)
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & (HEAVY | {"numpy"})


def test_the_server_process_loads_no_torch() -> None:
    code = "import sys, backend.server, backend.pipelines; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "torch" not in done.stdout.split()


def test_no_file_is_too_large() -> None:
    large = [
        path for path in tracked_files() if path.exists() and path.stat().st_size > LARGEST_FILE
    ]
    assert large == []


def test_the_examples_stay_small_and_say_their_licence() -> None:
    files = [path for path in (ROOT / "examples").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix != ".pyc") <= SIZE_OF_EXAMPLES
    licence = (ROOT / "examples" / "LICENCE.md").read_text(encoding="utf-8")
    data = [path.name for path in files if path.suffix in {".ply", ".json", ".npz"}]
    assert data
    assert [name for name in data if name not in licence] == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    names = [path for path in tracked_files() if set(path.with_suffix("").parts) & FORBIDDEN_NAMES]
    assert [path for path in names if path.is_relative_to(ROOT)] == []


def test_no_comment_or_text_says_that_something_is_unfinished() -> None:
    # In brackets, so that this very line is not found.
    words = re.compile(r"T[O]DO|F[I]XME|\bs[t]ub\b|p[l]aceholder")
    found = [
        f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}"
        for path in tracked_files()
        if path.suffix == ".py" and path.exists()
        for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
        if token.type in (tokenize.COMMENT, tokenize.STRING) and words.search(token.string)
    ]
    assert found == []


def test_every_pin_is_exact() -> None:
    locks = sorted((ROOT / "backend" / "requirements").glob("*.txt"))
    assert [lock.name for lock in locks] == ["backend.txt", "blender.txt", "test.txt"]
    for lock in locks:
        lines = [line.partition("#")[0].strip() for line in lock.read_text("utf-8").splitlines()]
        loose = [line for line in lines if line and line.partition(";")[0].count("==") != 1]
        assert loose == [], lock.name
