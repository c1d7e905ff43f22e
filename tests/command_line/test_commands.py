"""The commands beside `run`: help, doctor, models, serve, test, bench tables, build-extension."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend import bench_tables, doctor, environment, extension_zip, self_test, terminal
from backend.__main__ import COMMANDS
from backend.errors import NotFound
from backend.pipelines import PIPELINES, models
from backend.protocol import TASKS, DownloadModel
from backend.terminal import ProgressBar

ROOT = Path(__file__).resolve().parents[2]
BARE = str(getattr(sys, "_base_executable", sys.executable))


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=120,
        check=False,
    )


# --------------------------------------------------------------------------------------------- help


def test_without_arguments_it_explains_itself(command: Callable[..., Any]) -> None:
    done = command()
    assert (done.code, done.err) == (0, "")
    for name in COMMANDS:
        assert name in done.out


@pytest.mark.parametrize("name", [*COMMANDS])
def test_every_command_has_help(command: Callable[..., Any], name: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command(name, "--help")
    assert ended.value.code == 0


def test_every_task_that_is_offered_has_a_pipeline_and_a_reader() -> None:
    from backend.__main__ import TASKS as OFFERED
    from backend.task_files import READERS

    assert set(OFFERED) == set(READERS) == set(TASKS) - {DownloadModel.kind}
    assert {kind for kind, _ in PIPELINES} == set(TASKS)


# ------------------------------------------------------------------------------- the bare machine


def test_the_first_command_goes_on_in_the_environment() -> None:
    """A Python without packages hands the command, its output and its exit code on."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from backend.__main__ import main; "
    done = subprocess.run(
        # -I -S: the bare Python below the environment, without any package.
        [BARE, "-I", "-S", "-c", code + "main(sys.argv[1:])", "models", "list", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "FIELDFORGE_PYTHON": sys.executable},
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    listed = json.loads(done.stdout)["models"]
    assert [model["id"] for model in listed] == [model.id for model in models()]


def test_a_chosen_python_that_does_not_start_is_told(tmp_path: Path) -> None:
    done = python("-m", "backend", "models", "list", FIELDFORGE_PYTHON=str(tmp_path / "none"))
    assert done.returncode == 2
    assert "does not start" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------- doctor


def test_doctor_says_what_is_there(command: Callable[..., Any]) -> None:
    done = command("doctor")
    assert done.code == 0
    for subject in ("Python", "Backend", "Tests", "Blender", "Device", "Disk"):
        assert subject in done.out
    assert re.search(r"torch 2\.13\.0", done.out)
    records = command("doctor", "--json").record["findings"]
    assert {record["state"] for record in records} <= {"ok", "note"}


@pytest.mark.parametrize("state", ["missing", "incomplete"])
def test_doctor_fails_and_tells_the_remedy_when_nothing_is_installed(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str
) -> None:
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path / "home"))
    if state == "incomplete":
        environment.path_of("backend").mkdir(parents=True)
    monkeypatch.setattr(environment, "usable_here", lambda kind="backend": False)
    done = command("doctor")
    assert done.code == 1
    assert "python3 -m backend demo" in done.out


def test_doctor_sees_a_chosen_python_that_cannot_be_used(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FIELDFORGE_PYTHON", str(tmp_path / "none"))
    finding = next(found for found in doctor.findings() if found.subject == "Backend")
    assert finding.state == "missing"
    assert "does not start" in finding.text
    assert finding.remedy


def test_doctor_notes_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ENOUGH_DISK", 1 << 60)
    finding = next(found for found in doctor.findings() if found.subject == "Disk")
    assert finding.state == "note"
    assert "FIELDFORGE_HOME" in finding.remedy


# ------------------------------------------------------------------------------------------- models


def test_models_are_listed(command: Callable[..., Any]) -> None:
    listed = command("models", "list", "--json").record["models"]
    assert [(model["id"], model["tasks"]) for model in listed] == [
        (model.id, list(model.tasks)) for model in models()
    ]
    text = command("models", "list").out
    assert all(model.id in text and model.summary in text for model in models())


# -------------------------------------------------------------------------------------------- serve


def test_serve_passes_everything_on(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from backend import server

    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path))
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(server, "serve", lambda **given: calls.append(given) or 0)
    assert command("serve").code == 0
    every = "--host 0.0.0.0 --port 99 --token t --data d --workers 2 --device cpu --parent-pid 5"
    assert command("serve", *every.split(), "--exit-with-stdin").code == 0
    assert calls == [
        {
            "host": "127.0.0.1",
            "port": 0,
            "token": None,
            "data": tmp_path / "data",
            "workers": 1,
            "device": "auto",
            "parent_pid": None,
            "exit_with_stdin": False,
        },
        {
            "host": "0.0.0.0",  # noqa: S104 (nothing is bound)
            "port": 99,
            "token": "t",
            "data": Path("d"),
            "workers": 2,
            "device": "cpu",
            "parent_pid": 5,
            "exit_with_stdin": True,
        },
    ]


def test_serve_refuses_to_be_open_to_everyone(command: Callable[..., Any]) -> None:
    done = command("serve", "--host", "0.0.0.0")  # noqa: S104 (it is refused)
    assert (done.code, done.out) == (2, "")
    assert "token" in done.err


# --------------------------------------------------------------------------------------------- test


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What `test` would run; nothing is installed or run."""
    started: list[tuple[str, ...]] = []

    def fake(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        started.append((*command, *(f"{k}={v}" for k, v in sorted(options["env"].items()))))
        return subprocess.CompletedProcess(command, 1 if "mypy" in command else 0)

    monkeypatch.setattr(self_test.environment, "ensure", lambda kind, report: Path(f"/{kind}"))
    monkeypatch.setattr(self_test.subprocess, "run", fake)
    return started


def test_the_default_ring_runs_all_of_it_and_fails_when_one_does(
    command: Callable[..., Any], steps: list[tuple[str, ...]]
) -> None:
    done = command("test", "-k", "voxels")
    assert done.code == 1
    assert [step[0] for step in steps] == ["/test"] * 4 + ["/blender"]
    assert [step[2] for step in steps] == ["ruff", "ruff", "mypy", "pytest", "pytest"]
    assert all(("voxels" in step) == ("pytest" in step) for step in steps)
    assert "loadfile" in steps[3]  # several at once, each on one thread
    assert "OMP_NUM_THREADS=1" in steps[3]
    assert done.out.splitlines()[-1] == "4 passed, 1 failed"
    assert re.search(r"FAILED\s+mypy", done.out)


@pytest.mark.parametrize(
    ("ring", "kind", "variable"),
    [
        ("blender", "/blender", "FIELDFORGE_PYTHON=/test"),
        ("real", "/blender", "FIELDFORGE_REAL_BLENDER=1"),
        ("gpu", "/test", "FIELDFORGE_GPU=1"),
    ],
)
def test_the_other_rings(
    command: Callable[..., Any],
    steps: list[tuple[str, ...]],
    ring: str,
    kind: str,
    variable: str,
) -> None:
    assert command("test", "--ring", ring).code == 0
    assert [step[0] for step in steps] == [kind]
    assert variable in steps[0]


def test_what_is_opt_in_is_in_its_ring_and_else_skipped_with_a_reason() -> None:
    folder = "tests/models/hyperdiffusion"
    names = [f"{folder}/{name}.py" for name in ("test_full_size", "test_large_meshes")]
    found = python("-m", "pytest", "--collect-only", "-m", "large", *names)
    assert "test_large_meshes.py" in found.stdout
    assert "test_full_size.py" not in found.stdout
    off = {"FIELDFORGE_LARGE": "", "FIELDFORGE_FIXTURES": ""}
    skipped = python("-m", "pytest", *names, **off).stdout
    for variable in off:
        assert re.search(rf"SKIPPED.*set {variable}", skipped), skipped


# -------------------------------------------------------------------------------------------- bench


def test_rows_become_a_table() -> None:
    rows = [
        {"shape": "chair", "IoU": 0.98765, "faces": 1200, "closed": True},
        {"shape": "a plant", "IoU": 0.5, "faces": 7, "note": "thin"},
    ]
    assert bench_tables.table(rows).splitlines() == [
        "shape       IoU  faces  closed  note",
        "-------  ------  -----  ------  ----",
        "chair    0.9877   1200  yes",
        "a plant     0.5      7          thin",
    ]


def test_bench_prints_tables_or_json(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench_tables.BENCHES, "geometry", lambda: iter([{"what": "a", "s": 1.5}]))
    done = command("bench", "--only", "geometry")
    assert done.code == 0
    assert "geometry\nwhat    s\n" in done.out
    assert command("bench", "--only", "geometry", "--json").record == {
        "geometry": [{"what": "a", "s": 1.5}]
    }
    assert command("bench", "--only", "cooking").code == 2


def test_every_bench_can_be_run_alone(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in bench_tables.BENCHES:
        monkeypatch.delitem(bench_tables.ON_DEVICE, name, raising=False)
        monkeypatch.setitem(bench_tables.BENCHES, name, lambda name=name: iter([{"is": name}]))
        assert command("bench", "--only", name, "--json").record == {name: [{"is": name}]}


def test_bench_on_the_device_that_is_asked_for(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench_tables.ON_DEVICE, "wala", lambda device: iter([{"on": device}]))
    assert command("bench", "--only", "wala", "--device", "cpu", "--json").record == {
        "wala": [{"on": "cpu"}]
    }


# ---------------------------------------------------------------------------------- build-extension


def test_the_extension_is_the_same_bytes_every_time(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    paths = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        done = command("build-extension", "-o", folder)
        assert done.code == 0
        paths.append(Path(done.out.strip()))
    assert paths[0].name == paths[1].name
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [path.name for path in (tmp_path / "one").iterdir()] == [paths[0].name]


def test_the_extension_holds_what_blender_needs_and_nothing_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(extension_zip.build(tmp_path)) as archive:
        names = set(archive.namelist())
        assert archive.testzip() is None
    needed = {"__init__.py", "blender_manifest.toml", "LICENSE", "backend/protocol.py"}
    needed |= {"backend/requirements/backend.txt", "blender_addon/__init__.py"}
    assert needed <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops <= {*needed, "backend", "blender_addon", "weights"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


@pytest.mark.parametrize(
    ("path", "is_folder", "excluded"),
    [
        ("README.md", False, True),
        ("tests", True, True),
        ("__init__.py", False, False),
        ("backend", True, False),
        ("backend/server.py", False, False),
        ("backend/__pycache__", True, True),
        ("backend/models/__pycache__", True, True),
        ("backend/a.pyc", False, True),
        ("backend/.hidden", False, True),
        ("backend/LICENSE", False, False),
    ],
)
def test_patterns_mean_what_they_mean_in_gitignore(
    path: str, is_folder: bool, excluded: bool
) -> None:
    patterns = ["/*", "!/__init__.py", "!/backend/", "__pycache__/", "*.pyc", ".*"]
    assert extension_zip.is_excluded(path, is_folder, patterns) is excluded


def test_what_run_left_in_this_folder_is_no_part_of_the_extension(tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    for name in ("backend/kept.json", "scan.ply", "chair.glb", "chair.blend", "a.npz", "a.json"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))
    patterns = manifest["build"]["paths_exclude_pattern"]
    assert list(extension_zip.packed_files(tmp_path, patterns)) == ["backend/kept.json"]


def test_a_folder_for_the_extension_that_cannot_be(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    done = command("build-extension", "-o", tmp_path / "file" / "x")
    assert (done.code, done.out) == (1, "")
    assert "a part of its path is a file. Make room, or choose another" in done.err


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "backend", "models", "list"],
        cwd=ROOT,
        env={**os.environ, "FIELDFORGE_INSIDE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()  # long before Python has started
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(20) == 141


def test_without_a_manifest_there_is_no_extension(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"blender_manifest\.toml"):
        extension_zip.build(tmp_path / "dist", tmp_path)


# ------------------------------------------------------------------------------------- progress bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_sees_a_bar_with_the_stage() -> None:
    screen = Terminal()
    with ProgressBar(stream=screen) as bar:
        bar.report("Reading", 0.0)
        bar.report("Solving the coefficients", 0.5)
        bar.report("Solving the coefficients", 7.0)  # at once again: not drawn
    shown = [line.rstrip() for line in screen.getvalue().split("\r")]
    assert shown[0] == ""
    assert shown[1] == "[------------------------]   0% 0:00 Reading"
    assert shown[2] == "[############------------]  50% 0:00 Solving the coefficients"
    assert shown[3:] == ["", ""]  # the line is cleared at the end


def test_the_clock_goes_on_during_a_long_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_SECONDS_PER_TICK", 0.01)
    screen = Terminal()
    with ProgressBar(stream=screen) as bar:
        bar.report("Solving", 0.5)
        deadline = time.monotonic() + 10
        while screen.getvalue().count("Solving") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert screen.getvalue().count("Solving") >= 3
    ended = screen.getvalue()
    time.sleep(0.05)
    assert screen.getvalue() == ended
    assert re.search(r"\r +\r$", ended)
    assert "\x1b" not in ended  # which not every console understands


def test_a_pipe_sees_nothing_or_the_stages() -> None:
    quiet, told = io.StringIO(), io.StringIO()
    for bar in (ProgressBar(stream=quiet), ProgressBar(stream=told, always=True)):
        bar.report("Reading", 0.0)
        bar.report("Reading more", 0.1)
        bar.report("Writing", 1.0)
    assert quiet.getvalue() == ""
    assert told.getvalue() == "  0% Reading\n100% Writing\n"
