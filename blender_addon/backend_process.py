"""The backend as a child of Blender: start it, learn its address, end it. No bpy.

The child ends on its own when this process is gone, however that happens: it reads its standard
input, which closes with us, and it watches our process id.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..backend import environment
from ..backend.errors import (
    BadInput,
    Cancelled,
    FieldforgeError,
    InternalError,
    StorageFailed,
    Unreachable,
)
from ..backend.protocol import check_protocol
from .client import Client, check_url

READY_SECONDS = 90.0
END_SECONDS = 2.5
LOG_LIMIT = 4_000_000
# Variables of Blender's own Python or of an activated environment; in another Python they break
# the import of the standard library or bring in packages of the wrong version.
FOREIGN = ("VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True)
class Settings:
    """What Preferences say, taken on the main thread. mode: "INSTALLED", "PYTHON" or "SERVER"."""

    mode: str = "INSTALLED"
    python: str = ""
    url: str = ""
    token: str = ""
    online: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class Ready:
    """What the child printed once it was ready."""

    url: str
    token: str
    pid: int
    version: str


def data_folder() -> Path:
    return environment.home() / "data"


def log_file() -> Path:
    return environment.home() / "logs" / "backend.log"


def child_variables(token: str, python: Path) -> dict[str, str]:
    """The child's environment variables. The token goes here, as anyone can read a command line."""
    clean = {
        name: value
        for name, value in environment.child_environment().items()
        if name not in FOREIGN and (not name.startswith("PYTHON") or name in _WANTED)
    }
    clean.update(
        FIELDFORGE_TOKEN=token,
        FIELDFORGE_PYTHON=str(python),
        FIELDFORGE_HOME=str(environment.home()),
        PYTHONUNBUFFERED="1",
    )
    return clean


_WANTED = {"PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONUTF8"}


class BackendProcess:
    """At most one child. `start` and `stop` may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        """folder: where the `backend` package lies."""
        self._folder = folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: Ready | None = None
        self._failure: FieldforgeError | None = None
        self._answered = threading.Event()
        # At exit there are no new threads any more.
        atexit.register(self.stop, wait=True)

    def close(self) -> None:
        """End the child and forget this object."""
        atexit.unregister(self.stop)
        self.stop()

    @property
    def running(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    @property
    def ready(self) -> Ready | None:
        return self._ready if self.running else None

    def start(self, python: Path, device: str, unwanted: Callable[[], bool]) -> Ready:
        """Start the child unless it runs, and wait until it is ready.

        Raises BadInput when `python` does not start, InternalError when the backend ends or says
        nothing, StorageFailed when its log cannot be written, Cancelled.
        """
        with self._lock:
            if not self.running:
                if self._process is not None:  # it crashed; this end of its pipe is still open
                    _close_input(self._process)
                self._launch(python, device)
        deadline = time.monotonic() + READY_SECONDS
        while not self._answered.wait(0.1):
            if unwanted():
                raise Cancelled("The job was cancelled.")
            if time.monotonic() > deadline:
                self.stop()
                raise InternalError(
                    f"The backend was not ready after {READY_SECONDS:.0f} seconds.",
                    f"Try again; if it stays so, repair it in Preferences. Its log: {log_file()}",
                )
        if self._ready is None:
            raise self._failure or InternalError("The backend has ended.", "Try again.")
        return self._ready

    def stop(self, wait: bool = False) -> None:
        """Ask the child to end. A thread makes sure that it does, or this call when it waits."""
        with self._lock:
            process, self._process, self._ready = self._process, None, None
        if process is None:
            return
        _close_input(process)
        if wait:
            _see_off(process)
            return
        # Not a daemon: Python waits for it when Blender exits, and so the child is never left over.
        threading.Thread(target=_see_off, args=(process,), name="fieldforge-end").start()

    def _launch(self, python: Path, device: str) -> None:
        token = secrets.token_hex(32)
        command = [str(python), "-m", "backend", "serve", "--host", "127.0.0.1", "--port", "0"]
        command += ["--data", str(data_folder()), "--device", device]
        command += ["--exit-with-stdin", "--parent-pid", str(os.getpid())]
        self._answered = threading.Event()
        self._ready = self._failure = None
        with _open_log() as log:
            log.write(f"\n--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}\n".encode())
            log.flush()
            try:
                self._process = subprocess.Popen(
                    command,
                    cwd=self._folder,
                    env=child_variables(token, python),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
            except OSError as error:
                raise BadInput(
                    f"The Python of the backend does not start: {error.strerror or error}.",
                    f"Repair the backend in Preferences, or choose another Python than {python}.",
                ) from None
        threading.Thread(
            target=self._listen,
            args=(self._process, token, self._answered),
            name="fieldforge-listen",
            daemon=True,
        ).start()

    def _listen(
        self, process: subprocess.Popen[bytes], token: str, answered: threading.Event
    ) -> None:
        """Read the ready line, then keep the pipe empty until the child ends."""
        pipe = process.stdout
        try:
            ready = next(filter(None, (_parse_ready(line, token) for line in pipe)), None)
            failure = None if ready else _ended_early(process)
        except FieldforgeError as error:  # it speaks another protocol
            ready, failure = None, error
            process.terminate()
        with self._lock:
            if process is self._process:
                self._ready, self._failure = ready, failure
        answered.set()
        with pipe:
            for _ in pipe:
                continue


def _close_input(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _see_off(process: subprocess.Popen[bytes]) -> None:
    """Wait for the child to end; ask louder, then insist."""
    for louder in (process.terminate, process.kill):
        try:
            process.wait(END_SECONDS)
            return
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                louder()
    process.wait()


def _parse_ready(line: bytes, token: str) -> Ready | None:
    """The one JSON line; other output is passed over. Raises VersionMismatch."""
    try:
        record = json.loads(line)
        url, pid = str(record["url"]), int(record["pid"])
    except (ValueError, KeyError, TypeError):
        return None
    check_protocol(record.get("protocol"))
    return Ready(url, str(record.get("token") or token), pid, str(record.get("version", "")))


def _ended_early(process: subprocess.Popen[bytes]) -> InternalError:
    try:
        code: object = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        code = "unknown"
    last = last_lines(log_file(), 1)
    said = f" It said: {last[0]}" if last and not last[0].startswith("---") else ""
    return InternalError(
        f"The backend ended while it started (code {code}).{said}",
        f"Repair it in Preferences > Add-ons > Fieldforge. Its log: {log_file()}",
    )


def _open_log() -> IO[bytes]:
    path = log_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > LOG_LIMIT:
            path.replace(path.with_suffix(".old.log"))
        return path.open("ab")
    except OSError as error:
        raise StorageFailed(
            f"The log {path} cannot be written: {error.strerror or error}.",
            "Choose another data folder in Preferences > Add-ons > Fieldforge.",
        ) from None


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a text file that are not empty; none when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


# -------------------------------------------------------------------------- whichever backend it is


class Backend:
    """The way to a client, local or remote. `connect` waits, so it belongs into a thread."""

    def __init__(self, folder: Path) -> None:
        self.process = BackendProcess(folder)

    def connect(
        self,
        settings: Settings,
        report: Callable[[str], None],
        unwanted: Callable[[], bool] = lambda: False,
    ) -> Client:
        """A client whose backend answers and speaks our protocol. Raises FieldforgeError."""
        if settings.mode == "SERVER":
            report("Connecting")
            client = Client(check_url(settings.url, settings.online), settings.token)
        else:
            python = python_of(settings)
            if not self.process.running:
                report("Starting the backend")
            ready = self.process.start(python, settings.device, unwanted)
            client = Client(ready.url, ready.token)
        client.health()
        return client

    def connected(self, settings: Settings) -> Client | None:
        """A client without starting anything: None when no local backend runs."""
        if settings.mode == "SERVER":
            return Client(check_url(settings.url, settings.online), settings.token)
        ready = self.process.ready
        return Client(ready.url, ready.token) if ready else None

    def alive(self, settings: Settings) -> bool:
        """False once the local backend has ended; a remote one is never known to have."""
        return settings.mode == "SERVER" or self.process.running


def python_of(settings: Settings) -> Path:
    """The interpreter of a local backend. Raises BadInput, Unreachable when there is none yet."""
    if settings.mode == "PYTHON":
        python = Path(settings.python).expanduser()
        if not settings.python or not python.is_file():
            raise BadInput(
                f"There is no Python at {settings.python or 'the empty path'}.",
                "Choose the program itself (python or python.exe) in Preferences.",
            )
        return python.absolute()
    found = environment.status("backend")
    if found.python is None:
        raise Unreachable(
            "The backend is not installed yet."
            if found.state == "missing"
            else "The installation of the backend is not complete.",
            "Click Install in Preferences > Add-ons > Fieldforge.",
        )
    return found.python


# ------------------------------------------------------------------------------------- installation


class Installation:
    """Installs, repairs or removes the backend's environment in a thread; the panel reads it."""

    def __init__(self, title: str, work: Callable[[environment.Report], object]) -> None:
        self.title, self.stage, self.fraction = title, "Beginning", 0.0
        self.lines: deque[str] = deque(maxlen=200)
        self.error: FieldforgeError | None = None
        self.done = False
        self._work = work
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fieldforge-install", daemon=True)

    def start(self) -> Installation:
        self._thread.start()
        return self

    def cancel(self) -> None:
        self._unwanted.set()

    def wait(self, seconds: float) -> bool:
        """True once it is over."""
        self._thread.join(seconds)
        return self.done

    def _run(self) -> None:
        try:
            self._work(self._report)
        except FieldforgeError as error:
            self.error = error
        except Exception as error:
            self.error = InternalError(
                f"{self.title} failed: {type(error).__name__}: {error}.",
                f"Try again; the log is {environment.log_of('backend')}",
            )
        finally:
            self.done = True

    def _report(self, stage: str, fraction: float, line: str) -> None:
        if self._unwanted.is_set():
            raise Cancelled(f"{self.title} was cancelled.", "Nothing half-made was left behind.")
        self.stage, self.fraction = stage, fraction
        if line:
            self.lines.append(line)


def install() -> Installation:
    return Installation("Installing", lambda report: environment.ensure("backend", report)).start()


def repair() -> Installation:
    """Make the environment anew."""

    def work(report: environment.Report) -> None:
        report("Removing the old one", 0.0, "")
        environment.remove("backend")
        environment.ensure("backend", report)

    return Installation("Repairing", work).start()


def remove() -> Installation:
    def work(report: environment.Report) -> None:
        report("Removing", 0.5, "")
        environment.remove("backend")

    return Installation("Removing", work).start()
