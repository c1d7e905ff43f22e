"""Makes and mends the Python environments that Fieldforge runs in.

Standard library only, Python 3.11+: the command line, the "Install" button in Blender's
Preferences and continuous integration all call this file, before anything else is installed.

Three kinds, each a virtual environment in `home()/env/<kind>-<hash of its locks>`:

    backend   what a result needs at run time (torch, numpy, scipy, ...)
    test      the same, and what the tests need
    blender   Blender as a Python module; its numpy is another one, so it lives on its own

An environment is complete when its marker file is there, which is written last: an installation
that was interrupted is found by the missing marker and made again. A lock file that the operating
system lets go of when its process ends keeps two installations from meeting.

FIELDFORGE_HOME    where environments, caches and the server's data live
FIELDFORGE_PYTHON  an existing Python to use instead of the "backend" environment
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, cast

from .errors import BadInput, FieldforgeError, InternalError, NotFound, StorageFailed, Unreachable

Report = Callable[[str, float, str], None]
"""report(stage, fraction in 0..1, line of the installer's output or "")."""

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
MARKER = "fieldforge.json"
PIP = "pip==26.3"
PIP_ARGUMENTS = ("--progress-bar", "raw")  # "Progress 5 of 9", a form that can be read
_POLL_SECONDS = 0.3
_GIB = 1 << 30


@dataclass(frozen=True)
class Kind:
    """What one kind of environment is made of.

    locks: files in `requirements/`; modules: what must import once it is made;
    pythons: the (major, minor) versions it can be made with, best first;
    free_bytes: what must be free on the disk before it is begun.
    """

    name: str
    title: str
    locks: tuple[str, ...]
    modules: tuple[str, ...]
    pythons: tuple[tuple[int, int], ...]
    free_bytes: int


_BACKEND_MODULES = (
    "torch",
    "numpy",
    "scipy",
    "numba",
    "skimage",
    "pywt",
    "igl",
    "safetensors",
    "diffusers",
    "transformers",
    "trimesh",
    "PIL",
    "fastapi",
    "uvicorn",
    "requests",
)
_BACKEND_PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "backend",
            "the backend",
            ("backend.txt",),
            _BACKEND_MODULES,
            _BACKEND_PYTHONS,
            3 * _GIB,
        ),
        Kind(
            "test",
            "what the tests and the benchmarks need",
            ("backend.txt", "test.txt"),
            (*_BACKEND_MODULES, "pytest", "hypothesis", "mcubes", "pymeshlab"),
            _BACKEND_PYTHONS,
            4 * _GIB,
        ),
        Kind(
            "blender",
            "Blender as a Python module",
            ("blender.txt",),
            ("bpy", "pytest", "hypothesis", "requests"),
            ((3, 11),),
            2 * _GIB,
        ),
    )
}


@dataclass(frozen=True)
class Status:
    """state: "ready", "missing", "incomplete" (interrupted or broken) or "external"
    (FIELDFORGE_PYTHON). python: the interpreter, when ready or external."""

    kind: str
    state: str
    path: Path
    python: Path | None


# ------------------------------------------------------------------------------------------ places


def home() -> Path:
    """FIELDFORGE_HOME, or the folder for user data of this platform."""
    chosen = os.environ.get("FIELDFORGE_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        return Path(base) / "fieldforge"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "fieldforge"
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "fieldforge"


def path_of(kind: str) -> Path:
    """Where the environment of `kind` lives, made or not."""
    return home() / "env" / f"{kind}-{lock_hash(kind)[:12]}"


def log_of(kind: str) -> Path:
    """The log of the last installation of `kind`."""
    return home() / "env" / f"install-{kind}.log"


def python_in(path: Path) -> Path:
    """The interpreter of the virtual environment at `path`."""
    if sys.platform == "win32":
        return path / "Scripts" / "python.exe"
    return path / "bin" / "python"


def lock_hash(kind: str) -> str:
    """A hash of everything that decides what an environment of `kind` holds."""
    digest = hashlib.sha256(f"{PIP} {platform.system()} {platform.machine()}".encode())
    for lock in _locks(kind):
        digest.update(lock.read_text(encoding="utf-8").encode())
    return digest.hexdigest()


def child_environment() -> dict[str, str]:
    """Environment variables for a process of the backend: this checkout first, nothing foreign."""
    variables = dict(os.environ)
    for name in ("PYTHONHOME", "PYTHONSTARTUP", "PYTHONPATH"):
        variables.pop(name, None)
    variables["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    variables["PYTHONNOUSERSITE"] = "1"
    variables["PYTHONUTF8"] = "1"
    variables.setdefault("NUMBA_CACHE_DIR", str(home() / "cache" / "numba"))
    return variables


def _locks(kind: str) -> list[Path]:
    return [REQUIREMENTS / name for name in _kind(kind).locks]


def _kind(name: str) -> Kind:
    try:
        return KINDS[name]
    except KeyError:
        raise NotFound(
            f"There is no environment named {name!r}.", f"Choose one of {', '.join(KINDS)}."
        ) from None


# ------------------------------------------------------------------------------------------ states


def status(kind: str) -> Status:
    """Whether the environment of `kind` can be used. Reads a few small files; starts nothing."""
    external = _external(kind)
    if external is not None:
        return Status(kind, "external", external, external)
    path = path_of(kind)
    if not path.exists():
        return Status(kind, "missing", path, None)
    python = python_in(path)
    if _marker(path).get("hash") == lock_hash(kind) and python.exists():
        return Status(kind, "ready", path, python)
    return Status(kind, "incomplete", path, None)


def usable_here(kind: str = "backend") -> bool:
    """True when the Python that runs this has every module of `kind` already."""
    return all(importlib.util.find_spec(module) is not None for module in _kind(kind).modules)


def _external(kind: str) -> Path | None:
    chosen = os.environ.get("FIELDFORGE_PYTHON")
    return Path(chosen).expanduser() if chosen and kind == "backend" else None


def _marker(path: Path) -> dict[str, Any]:
    try:
        record = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


# ----------------------------------------------------------------------------------- what is asked


def ensure(kind: str, report: Report | None = None) -> Path:
    """Return the Python of the environment of `kind`; make or mend the environment first.

    `report` is called often from the calling thread; an exception that it raises ends the
    installation, leaves nothing half-made behind, and comes out of here.

    Raises Unreachable (no network), StorageFailed (disk full, read-only), BadInput (this Python
    cannot make it, FIELDFORGE_PYTHON lacks modules), InternalError (anything else; see the log).
    """
    report = report or _silent
    found = status(kind)
    if found.python is not None:
        return _checked_external(kind, found.python) if found.state == "external" else found.python
    with _locked(kind, report):
        found = status(kind)
        if found.python is not None:  # another process made it while this one waited
            return found.python
        return _make(kind, report)


def remove(kind: str) -> None:
    """Delete every environment of `kind`, older ones too. Raises StorageFailed."""
    _kind(kind)
    if not (home() / "env").exists():
        return
    with _locked(kind, _silent):
        for path in sorted((home() / "env").glob(f"{kind}-*")):
            _delete(path)
        log_of(kind).unlink(missing_ok=True)


def _silent(stage: str, fraction: float, line: str) -> None:
    """A report that nobody reads."""


def _checked_external(kind: str, python: Path) -> Path:
    """FIELDFORGE_PYTHON itself, once it is known to have what the backend needs."""
    names = ",".join(_kind(kind).modules)
    code = (
        "import importlib.util as u,sys;"
        f"m=[n for n in '{names}'.split(',') if u.find_spec(n) is None];"
        "print(','.join(m));sys.exit(3 if m else sys.version_info<(3,11))"
    )
    remedy = "Point it at a Python 3.11 or newer with the backend's packages, or clear it."
    try:
        done = subprocess.run(
            [str(python), "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        raise BadInput(f"The Python that was chosen does not start: {python}.", remedy) from None
    if done.returncode == 3:
        missing = done.stdout.strip().replace(",", ", ")
        raise BadInput(
            f"The Python that was chosen ({python}) lacks {missing}.",
            f'Install them: "{python}" -m pip install -r "{REQUIREMENTS / "backend.txt"}"',
        )
    if done.returncode != 0:
        raise BadInput(f"The Python that was chosen cannot be used: {python}.", remedy)
    return python


# ----------------------------------------------------------------------------------------- making


def _make(kind: str, report: Report) -> Path:
    """Build the environment anew; on any failure nothing stays but the log."""
    path, title = path_of(kind), _kind(kind).title
    base = _base_python(kind)
    report("Preparing", 0.0, f"Installing {title} into {path}")
    _check_disk(kind)
    try:
        _delete(path)
        with _open_log(kind) as log:
            _create(path, base, report, log)
            _install(kind, path, report, log)
            _verify(kind, path, report, log)
        _write_marker(kind, path, base)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    report("Ready", 1.0, f"Installed {title}")
    return python_in(path)


def _create(path: Path, base: Path, report: Report, log: IO[str]) -> None:
    report("Creating the environment", 0.01, "")
    lines = list(_run([str(base), "-I", "-m", "venv", str(path)], log))
    if not lines or lines[-1] != 0 or not python_in(path).exists():
        raise venv_error("\n".join(str(line) for line in lines[:-1]))


def _install(kind: str, path: Path, report: Report, log: IO[str]) -> None:
    """Run pip; its output becomes progress, its failure one of our errors."""
    python = str(python_in(path))
    pip = [python, "-I", "-m", "pip", "--no-input", "--disable-pip-version-check"]
    # The pip that comes with Python does not tell how far a download is; a newer one does.
    _run_pip(
        kind, [*pip, "install", "--retries", "2", PIP], PipProgress({}), report, log, (0.02, 0.05)
    )
    locks = [argument for lock in _locks(kind) for argument in ("-r", str(lock))]
    progress = PipProgress(_pins(kind), _site_packages(path))
    arguments = ["install", "--retries", "3", *PIP_ARGUMENTS, *locks]
    _run_pip(kind, [*pip, *arguments], progress, report, log, (0.05, 0.95))


def _run_pip(
    kind: str,
    command: list[str],
    progress: PipProgress,
    report: Report,
    log: IO[str],
    span: tuple[float, float],
) -> None:
    output: list[str] = []
    begin, end = span
    for line in _run(command, log):
        if isinstance(line, int):
            if line != 0:
                raise pip_error("\n".join(output), log_of(kind))
            return
        output.append(line)
        stage, fraction = progress.feed(line)
        shown = "" if line.startswith("Progress ") else line
        report(stage, begin + (end - begin) * fraction, shown)


def _verify(kind: str, path: Path, report: Report, log: IO[str]) -> None:
    """Import everything once: a package that is there but does not load is found now."""
    report("Checking", 0.96, "")
    code = "import " + ", ".join(_kind(kind).modules) if _kind(kind).modules else "pass"
    lines = list(_run([str(python_in(path)), "-I", "-c", code], log))
    if lines[-1] != 0:
        reason = str(lines[-2]) if len(lines) > 1 else "no reason was given"
        raise InternalError(
            f"What was installed does not start: {reason}.",
            f"Repair the environment; if it stays so, send the log: {log_of(kind)}.",
        )


def _write_marker(kind: str, path: Path, base: Path) -> None:
    record = {"kind": kind, "hash": lock_hash(kind), "base": str(base), "made": int(time.time())}
    temporary = path / (MARKER + ".new")
    temporary.write_text(json.dumps(record), encoding="utf-8")
    temporary.replace(path / MARKER)


def _delete(path: Path) -> None:
    """Remove a folder tree; its marker first, so that a half-removed one never looks complete."""
    deadline = time.monotonic() + 20
    while path.exists():
        try:
            (path / MARKER).unlink(missing_ok=True)
            shutil.rmtree(path)
        except OSError as error:
            # The pip of an installation that was killed may still write for a moment.
            if error.errno in (errno.ENOTEMPTY, errno.ENOENT) and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            raise _not_removed(path, error) from error
        time.sleep(0.2)  # what still writes would make the folder anew


def _not_removed(path: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"The folder {path} cannot be removed: {error.strerror or error}.",
        "Close every program that uses it (Blender, a running backend) and try again.",
    )


def _base_python(kind: str) -> Path:
    """A Python that can make an environment of `kind`: this one, or one on the PATH."""
    wanted = _kind(kind).pythons
    if sys.version_info[:2] in wanted:
        return Path(sys.executable)
    for major, minor in wanted:
        found = shutil.which(f"python{major}.{minor}")
        if found:
            return Path(found)
    have = ".".join(map(str, sys.version_info[:2]))
    first, last = (".".join(map(str, version)) for version in (wanted[0], wanted[-1]))
    span = first if first == last else f"{first} to {last}"
    raise BadInput(
        f"{_kind(kind).title.capitalize()} cannot be installed with Python {have}.",
        f"Install Python {span} from python.org or your system's packages.",
    )


def _check_disk(kind: str) -> None:
    folder = home() / "env"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _unwritable(folder, error) from error
    needed = _kind(kind).free_bytes
    if free < needed:
        raise _disk_full(f"{free / _GIB:.1f} GB are free, {needed / _GIB:.0f} GB are needed")


@contextlib.contextmanager
def _open_log(kind: str) -> Iterator[IO[str]]:
    try:
        log = log_of(kind).open("w", encoding="utf-8")
    except OSError as error:
        raise _unwritable(log_of(kind), error) from error
    with log:
        yield log


# --------------------------------------------------------------------------------------- processes


def _run(command: list[str], log: IO[str]) -> Iterator[str | int]:
    """Yield each line that `command` prints (and "" now and then while it is silent), then its
    exit code. When the caller stops listening, the process is ended."""
    log.write(f"$ {' '.join(command)}\n")
    variables = child_environment()
    del variables["PYTHONPATH"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=variables,
    )
    lines: SimpleQueue[str | None] = SimpleQueue()
    output = cast(IO[str], process.stdout)
    reader = threading.Thread(target=_read_lines, args=(output, lines), daemon=True)
    reader.start()
    try:
        yield from _queued(lines, log)
        yield process.wait()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        output.close()


def _read_lines(stream: IO[str], lines: SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line.rstrip())
    lines.put(None)


def _queued(lines: SimpleQueue[str | None], log: IO[str]) -> Iterator[str]:
    while True:
        try:
            line = lines.get(timeout=_POLL_SECONDS)
        except Empty:
            yield ""
            continue
        if line is None:
            return
        if not line.startswith("Progress "):
            log.write(line + "\n")
            log.flush()
        yield line


@contextlib.contextmanager
def _locked(kind: str, report: Report) -> Iterator[None]:
    """Hold the lock of `kind`. The operating system lets go of it when the process ends."""
    path = home() / "env" / f"{kind}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+b")
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    with handle:
        while not _try_lock(handle):
            report("Waiting for another installation", 0.0, "")
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            _unlock(handle)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: IO[bytes]) -> bool:
        try:
            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: IO[bytes]) -> None:
        handle.seek(0)
        msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(handle: IO[bytes]) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _unlock(handle: IO[bytes]) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


# ---------------------------------------------------------------------------------------- progress

# Some packages are so much larger than the rest that counting packages would mislead.
_WEIGHTS = {"torch": 30.0, "bpy": 60.0, "pymeshlab": 8.0, "scipy": 4.0}


class PipProgress:
    """Turns pip's output, line by line, into a stage and a fraction of the whole.

    pins: the packages that will come, {lower-case name: version}; site_packages: where they will
    lie, watched while pip unpacks and says nothing.
    """

    def __init__(self, pins: dict[str, str], site_packages: Path | None = None) -> None:
        self._weights = {name: _WEIGHTS.get(name, 1.0) for name in pins}
        self._site_packages = site_packages
        self._current = ""
        self._fetched: set[str] = set()
        self._part = 0.0
        self._installing = False
        self._best = 0.0

    def feed(self, line: str) -> tuple[str, float]:
        """(stage, fraction in 0..1) after `line`; an empty line only looks at the folder."""
        wheel = _WHEEL_LINE.match(line)
        download = re.match(r"Progress (\d+) of (\d+)", line)
        if wheel:
            self._next(_normal(wheel[1]))
        elif download:
            self._part = int(download[1]) / max(1, int(download[2]))
        elif line.startswith("Installing collected packages"):
            self._next("")
            self._installing = True
        elif line.startswith("Successfully installed"):
            self._best = 1.0
        self._best = max(self._best, self._fraction())
        return self._stage(), self._best

    def _next(self, name: str) -> None:
        if self._current:
            self._fetched.add(self._current)
        self._current, self._part = name, 0.0

    def _stage(self) -> str:
        if self._installing:
            return "Unpacking"
        return f"Downloading {self._current}" if self._current else "Looking for packages"

    def _fraction(self) -> float:
        if self._installing:
            return 0.7 + 0.3 * self._unpacked()
        total = sum(self._weights.values()) or 1.0
        done = sum(self._weights.get(name, 0.0) for name in self._fetched)
        part = self._part * self._weights.get(self._current, 0.0)
        return 0.7 * min(1.0, (done + part) / total)

    def _unpacked(self) -> float:
        if self._site_packages is None or not self._weights:
            return 0.0
        count = sum(1 for _ in self._site_packages.glob("*.dist-info"))
        return min(1.0, count / (len(self._weights) + 1))


# Only the package itself counts, not the metadata that pip looks at beforehand.
_WHEEL_LINE = re.compile(
    r"\s*(?:Downloading|Using cached|Processing) (?:.*[/\\])?([A-Za-z0-9_.]+)-\S+\.whl(?:\s|$)"
)


def _pins(kind: str) -> dict[str, str]:
    """{lower-case name: version} of every line of the locks of `kind`."""
    pins = {}
    for lock in _locks(kind):
        for line in lock.read_text(encoding="utf-8").splitlines():
            pin = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line)
            if pin:
                pins[_normal(pin[1])] = pin[2]
    return pins


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _site_packages(path: Path) -> Path:
    if sys.platform == "win32":
        return path / "Lib" / "site-packages"
    return next(iter(path.glob("lib/python3*/site-packages")), path)


# ------------------------------------------------------------------------------------------ errors

_NO_SPACE = ("no space left", "errno 28", "winerror 112", "disk quota exceeded", "not enough space")
_NO_ACCESS = ("permission denied", "read-only file system", "errno 30", "errno 13", "winerror 5]")
_NO_NETWORK = (
    "newconnectionerror",
    "name resolution",
    "getaddrinfo failed",
    "nodename nor servname",
    "network is unreachable",
    "connection refused",
    "connection reset",
    "connecttimeout",
    "readtimeout",
    "read timed out",
    "proxyerror",
    "max retries exceeded",
    "remotedisconnected",
)


def venv_error(output: str) -> FieldforgeError:
    """Why `python -m venv` failed, from what it printed."""
    text = output.lower()
    if _mentions(text, _NO_SPACE):
        return _disk_full("the installer ran out of space")
    if "ensurepip" in text or "no module named venv" in text:
        version = ".".join(map(str, sys.version_info[:2]))
        return BadInput(
            "This Python cannot make environments: its venv or ensurepip module is missing.",
            f"On Debian and Ubuntu: sudo apt install python{version}-venv. Then try again.",
        )
    if _mentions(text, _NO_ACCESS):
        return _unwritable(home(), None)
    return InternalError(
        f"The environment could not be created: {_last_line(output)}.",
        f"Look into {home() / 'env'} for the log.",
    )


def pip_error(output: str, log: Path) -> FieldforgeError:
    """Why `pip install` failed, from what it printed."""
    text = output.lower()
    if _mentions(text, _NO_SPACE):
        return _disk_full("the installer ran out of space")
    if _mentions(text, ("certificate_verify_failed", "sslerror")):
        return Unreachable(
            "The connection for the download is not trusted (certificate error).",
            "Set the computer's clock; behind a company proxy, set its certificate with PIP_CERT.",
        )
    if _mentions(text, _NO_NETWORK):
        return Unreachable(
            "The packages cannot be downloaded: the internet does not answer.",
            "Connect, check proxy and firewall, and try again.",
        )
    missing = re.search(r"no matching distribution found for ([^\s(]+)", text)
    if missing:
        return BadInput(
            f"{missing[1]} is not available for Python {platform.python_version()} on "
            f"{platform.system()} {platform.machine()}.",
            "Use a 64-bit Python 3.11 to 3.14 on Linux, Windows or a Mac with Apple silicon.",
        )
    if _mentions(text, _NO_ACCESS):
        return _unwritable(home(), None)
    return InternalError(
        f"The installation failed: {_last_line(output)}.",
        f"Try again; if it stays so, send the log: {log}.",
    )


def _mentions(text: str, words: Iterable[str]) -> bool:
    return any(word in text for word in words)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["nothing was printed"])[-1].rstrip(".")


def _disk_full(detail: str) -> StorageFailed:
    return StorageFailed(
        f"The disk is too full: {detail}.",
        f"Make room, or set FIELDFORGE_HOME to a folder on another disk (now {home()}).",
    )


def _unwritable(path: Path, error: OSError | None) -> StorageFailed:
    if error is not None and _mentions(str(error).lower(), _NO_SPACE):
        return _disk_full("nothing can be written")
    reason = f" ({error.strerror})" if error is not None and error.strerror else ""
    return StorageFailed(
        f"Nothing can be written to {path}{reason}.",
        "Set FIELDFORGE_HOME (Preferences > Data folder) to a folder of your own.",
    )
