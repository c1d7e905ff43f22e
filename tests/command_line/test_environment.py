"""Environments are made, mended, shared and removed; all of it without a network."""

from __future__ import annotations

import ensurepip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from backend import environment
from backend.errors import BadInput, FieldforgeError, InternalError, StorageFailed, Unreachable

ROOT = Path(__file__).resolve().parents[2]
KIND = "tiny"


def make_wheel(folder: Path, name: str = "tinything", body: str = "VALUE = 42\n") -> None:
    """A wheel of one module, so that installing it needs no network."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": body,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},," for path in [*files, f"{info}/RECORD"]]
    files[f"{info}/RECORD"] = "\n".join(rows) + "\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def configure(folder: Path) -> None:
    """Point environment.py at a kind "tiny" whose lock and wheels are in `folder`."""
    environment.REQUIREMENTS = folder
    environment.PIP = f"pip=={ensurepip.version()}"  # already there: no download
    environment.PIP_ARGUMENTS = ()
    environment.KINDS[KIND] = environment.Kind(
        KIND, "a tiny environment", ("tiny.txt",), ("tinything",), (sys.version_info[:2],), 0
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a space and letters from afar, and the kind "tiny"."""
    folder = tmp_path / "schöne Wörter 空"
    folder.mkdir()
    for name in ("REQUIREMENTS", "PIP", "PIP_ARGUMENTS"):
        monkeypatch.setattr(environment, name, getattr(environment, name))
    monkeypatch.setattr(environment, "KINDS", dict(environment.KINDS))
    monkeypatch.setenv("FIELDFORGE_HOME", str(folder / "home"))
    monkeypatch.delenv("FIELDFORGE_PYTHON", raising=False)
    make_wheel(folder)
    (folder / "tiny.txt").write_text("--no-index\n--find-links .\ntinything==1.0\n", "utf-8")
    monkeypatch.chdir(folder)
    configure(folder)
    return folder


class Heard:
    """A report that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.fractions: list[float] = []

    def __call__(self, stage: str, fraction: float, line: str) -> None:
        self.stages.append(stage)
        self.fractions.append(fraction)


def imports(python: Path, module: str = "tinything") -> bool:
    done = subprocess.run([str(python), "-c", f"import {module}"], capture_output=True, check=False)
    return done.returncode == 0


def test_it_is_made_once_and_found_again(place: Path) -> None:
    assert environment.status(KIND).state == "missing"
    first, second = Heard(), Heard()
    python = environment.ensure(KIND, first)
    assert imports(python)
    assert first.fractions == sorted(first.fractions)
    assert first.fractions[-1] == 1.0
    assert {"Creating the environment", "Checking", "Ready"} <= set(first.stages)
    found = environment.status(KIND)
    assert (found.state, found.python) == ("ready", python)
    assert found.path.is_relative_to(place / "home" / "env")
    assert environment.ensure(KIND, second) == python
    assert second.stages == []
    assert "tinything" in environment.log_of(KIND).read_text("utf-8")

    _changed_locks_ask_for_another_environment(place, python)
    _a_missing_marker_means_interrupted(python)
    _remove_leaves_nothing()


def _changed_locks_ask_for_another_environment(place: Path, python: Path) -> None:
    lock = place / "tiny.txt"
    before = lock.read_text("utf-8")
    lock.write_text(before + "# a newer lock\n", "utf-8")
    assert environment.status(KIND).state == "missing"
    lock.write_text(before, "utf-8")
    assert environment.status(KIND).python == python


def _a_missing_marker_means_interrupted(python: Path) -> None:
    path = environment.path_of(KIND)
    (path / environment.MARKER).unlink()
    left_over = path / "left-over"
    left_over.write_text("half a package", "utf-8")
    assert environment.status(KIND).state == "incomplete"
    assert environment.ensure(KIND) == python
    assert imports(python)
    assert not left_over.exists()


def _remove_leaves_nothing() -> None:
    environment.remove(KIND)
    assert environment.status(KIND).state == "missing"
    assert list((environment.home() / "env").glob(f"{KIND}-*")) == []
    assert not environment.log_of(KIND).exists()
    environment.remove(KIND)


@pytest.mark.parametrize("stage", ["Creating the environment", "Checking"])
def test_an_exception_of_the_report_stops_it_and_leaves_nothing(place: Path, stage: str) -> None:
    class Enough(Exception):
        pass

    def report(now: str, fraction: float, line: str) -> None:
        if now == stage:
            raise Enough

    with pytest.raises(Enough):
        environment.ensure(KIND, report)
    assert environment.status(KIND).state == "missing"


INSTALLER = """
    import sys
    from pathlib import Path
    sys.path[:0] = [{root!r}, {here!r}]
    import test_environment
    from backend import environment
    test_environment.configure(Path.cwd())
    def report(stage, fraction, line):
        print(stage, flush=True)
    print("python:", environment.ensure("tiny", report), flush=True)
"""


def start_installer(place: Path) -> subprocess.Popen[str]:
    code = textwrap.dedent(INSTALLER.format(root=str(ROOT), here=str(Path(__file__).parent)))
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=place, stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_make_it_once(place: Path) -> None:
    both = [start_installer(place), start_installer(place)]
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1] == f"python: {environment.status(KIND).python}"
    makers = ["Creating the environment" in lines for lines in outputs]
    assert sorted(makers) == [False, True]
    assert "Waiting for another installation" in outputs[makers.index(False)]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_a_killed_installation_is_repaired(place: Path) -> None:
    process = start_installer(place)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Creating"):
            break
    path = environment.path_of(KIND)
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert environment.status(KIND).state == "incomplete"
    assert imports(environment.ensure(KIND))


def test_a_package_that_does_not_load_is_no_environment(place: Path) -> None:
    make_wheel(place, body="raise RuntimeError('no such library')\n")
    with pytest.raises(InternalError, match="no such library") as caught:
        environment.ensure(KIND)
    assert str(environment.log_of(KIND)) in caught.value.remedy
    assert environment.status(KIND).state == "missing"


def test_without_a_network_it_says_so(place: Path) -> None:
    nobody = "http://127.0.0.1:9/simple"
    (place / "tiny.txt").write_text(f"--index-url {nobody}\nno-such-thing-at-all==1\n", "utf-8")
    with pytest.raises(Unreachable, match="internet"):
        environment.ensure(KIND)


def test_a_full_disk_is_seen_before_anything_is_begun(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = environment.KINDS[KIND]
    needs = environment.Kind(KIND, kind.title, kind.locks, kind.modules, kind.pythons, 1 << 30)
    monkeypatch.setitem(environment.KINDS, KIND, needs)
    usage = type(shutil.disk_usage(place))(10, 9, 1)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageFailed, match="too full") as caught:
        environment.ensure(KIND)
    assert "FIELDFORGE_HOME" in caught.value.remedy


def test_a_home_that_cannot_be_written_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").write_text("no folder", "utf-8")
    monkeypatch.setenv("FIELDFORGE_HOME", str(place / "file" / "home"))
    with pytest.raises(StorageFailed, match="Nothing can be written") as caught:
        environment.ensure(KIND)
    assert "Data folder" in caught.value.remedy


def test_another_python_that_is_found_makes_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = environment.KINDS[KIND]
    monkeypatch.setitem(
        environment.KINDS,
        KIND,
        environment.Kind(KIND, kind.title, kind.locks, kind.modules, ((3, 99),), 0),
    )
    with pytest.raises(BadInput, match="cannot be installed with Python") as caught:
        environment.ensure(KIND)
    assert "Python 3.99" in caught.value.remedy
    folder = place / "bin"
    folder.mkdir()
    (folder / "python3.99").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    marker = environment._base_python(KIND)
    assert marker == folder / "python3.99"


DEBIAN = """The virtual environment was not created successfully because ensurepip is not
available.  On Debian/Ubuntu systems, you need to install the python3-venv
package using the following command."""


@pytest.mark.parametrize(
    ("output", "kind", "words"),
    [
        (DEBIAN, BadInput, "venv"),
        ("/usr/bin/python3: No module named venv", BadInput, "sudo apt install"),
        ("OSError: [Errno 28] No space left on device", StorageFailed, "disk"),
        ("Error: [Errno 30] Read-only file system: '/x'", StorageFailed, "FIELDFORGE_HOME"),
        ("something else", InternalError, "something else"),
    ],
)
def test_why_venv_failed(output: str, kind: type[FieldforgeError], words: str) -> None:
    error = environment.venv_error(output)
    assert type(error) is kind
    assert words in str(error)
    assert error.remedy


@pytest.mark.parametrize(
    ("output", "kind", "words"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
         StorageFailed, "disk"),
        ("OSError: [WinError 112] There is not enough space on the disk", StorageFailed, "disk"),
        ("ERROR: [Errno 13] Permission denied: '/x'", StorageFailed, "Nothing can be written"),
        ("WARNING: Retrying after NewConnectionError: Failed to establish a new connection\n"
         "ERROR: No matching distribution found for torch==2.13.0", Unreachable, "internet"),
        ("Temporary failure in name resolution", Unreachable, "internet"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", Unreachable,
         "certificate"),
        ("ERROR: Could not find a version that satisfies the requirement torch==2.13.0\n"
         "ERROR: No matching distribution found for torch==2.13.0", BadInput, "torch==2.13.0"),
        ("ERROR: something broke.", InternalError, "something broke"),
    ],
)  # fmt: skip
def test_why_pip_failed(
    output: str, kind: type[FieldforgeError], words: str, tmp_path: Path
) -> None:
    error = environment.pip_error(output, tmp_path / "install.log")
    assert type(error) is kind
    assert words in str(error)
    assert error.remedy


def test_a_python_without_venv_is_told_what_to_install(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = place / "python"
    fake.write_text(f"#!/bin/sh\necho '{DEBIAN}'\nexit 1\n", "utf-8")
    fake.chmod(0o755)
    monkeypatch.setattr(environment, "_base_python", lambda kind: fake)
    with pytest.raises(BadInput, match="apt install"):
        environment.ensure(KIND)


def test_a_chosen_python_is_used_when_it_has_the_modules(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = environment.KINDS[KIND]
    backend = environment.Kind(
        "backend", "the backend", kind.locks, ("json",), kind.pythons, kind.free_bytes
    )
    monkeypatch.setitem(environment.KINDS, "backend", backend)
    monkeypatch.setenv("FIELDFORGE_PYTHON", sys.executable)
    assert environment.status("backend").state == "external"
    assert environment.ensure("backend") == Path(sys.executable)
    assert environment.status(KIND).state == "missing"  # only the backend's is chosen


@pytest.mark.parametrize(
    ("python", "modules", "words"),
    [
        (sys.executable, ("json", "no_such_module_1", "no_such_module_2"), "no_such_module_1, no_"),
        ("/no/such/python", ("json",), "does not start"),
    ],
)
def test_a_chosen_python_that_lacks_something_is_refused(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    python: str,
    modules: tuple[str, ...],
    words: str,
) -> None:
    kind = environment.KINDS[KIND]
    backend = environment.Kind("backend", "the backend", kind.locks, modules, kind.pythons, 0)
    monkeypatch.setitem(environment.KINDS, "backend", backend)
    monkeypatch.setenv("FIELDFORGE_PYTHON", python)
    with pytest.raises(BadInput, match=words):
        environment.ensure("backend")


def test_a_child_gets_nothing_of_a_foreign_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/somewhere")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    variables = environment.child_environment()
    assert "PYTHONHOME" not in variables
    assert variables["PYTHONPATH"] == str(ROOT)
    assert Path(variables["NUMBA_CACHE_DIR"]).is_relative_to(environment.home())


def test_the_hash_covers_every_lock() -> None:
    hashes = {kind: environment.lock_hash(kind) for kind in ("backend", "test", "blender")}
    assert len(set(hashes.values())) == 3
    assert all(len(value) == hashlib.sha256().digest_size * 2 for value in hashes.values())


PIP_SAYS = """\
Collecting alpha==1.0 (from -r lock.txt (line 1))
  Downloading alpha-1.0-py3-none-any.whl.metadata (5 kB)
Collecting torch==2.0 (from -r lock.txt (line 2))
  Downloading alpha-1.0-py3-none-any.whl (5.3 kB)
Progress 0 of 5300
Progress 5300 of 5300
  Using cached torch-2.0-cp311-cp311-manylinux_2_28_x86_64.whl (200 MB)
Progress 100 of 200
Processing /some where/gamma_delta-1.0-py3-none-any.whl (from -r lock.txt (line 3))
Installing collected packages: alpha, torch, gamma-delta
Successfully installed alpha-1.0 torch-2.0 gamma-delta-1.0
"""


def test_the_output_of_pip_becomes_progress(tmp_path: Path) -> None:
    progress = environment.PipProgress({"alpha": "1", "torch": "2", "gamma-delta": "1"}, tmp_path)
    steps = [progress.feed(line) for line in PIP_SAYS.splitlines()]
    fractions = [fraction for _, fraction in steps]
    assert fractions == sorted(fractions)
    assert fractions[2] == 0.0  # metadata is not the package
    assert steps[7][0] == "Downloading torch"
    assert 0.3 < fractions[7] < 0.4  # half of what is by far the largest, of 0.7
    assert steps[8][0] == "Downloading gamma-delta"
    assert steps[9] == ("Unpacking", pytest.approx(0.7))
    assert fractions[-1] == 1.0


def test_unpacking_is_watched_in_the_folder(tmp_path: Path) -> None:
    progress = environment.PipProgress({"alpha": "1", "beta": "1", "gamma": "1"}, tmp_path)
    progress.feed("Installing collected packages: alpha, beta, gamma")
    _, before = progress.feed("")
    (tmp_path / "alpha-1.dist-info").mkdir()
    (tmp_path / "beta-1.dist-info").mkdir()
    _, after = progress.feed("")
    assert (before, after) == (pytest.approx(0.7), pytest.approx(0.85))


@pytest.mark.parametrize(
    ("platform", "variables", "tail"),
    [
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/fieldforge"),
        ("linux", {}, ".local/share/fieldforge"),
        ("darwin", {}, "Library/Application Support/fieldforge"),
        ("linux", {"FIELDFORGE_HOME": "/mine"}, "/mine"),
    ],
)
def test_where_the_home_is(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], tail: str
) -> None:
    for name in ("FIELDFORGE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(environment.sys, "platform", platform)
    assert environment.home().as_posix().endswith(tail)


def test_a_marker_that_is_no_record_counts_as_none(place: Path) -> None:
    path = environment.path_of(KIND)
    path.mkdir(parents=True)
    for text in ("", "[]", "{", json.dumps({"hash": "of something else"})):
        (path / environment.MARKER).write_text(text, "utf-8")
        assert environment.status(KIND).state == "incomplete"
