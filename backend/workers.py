"""Worker processes: each works on one job at a time, and takes nothing with it when it dies.

    server process                                worker process
    WorkerPool                                    main thread: works, sends progress and the outcome
      one thread per worker  <--- messages --->   reader thread: takes orders, watches the server

Messages are JSON over a pipe, arrays pass as files. Orders to a worker: {"run": id, ...} and
{"cancel": id}. A worker says {"progress": id, ...}, {"preview": id} followed by the bytes of the
preview, and exactly one {"done": id, ...} or {"failed": id, ...} per job. A job that has been
cancelled gets `GRACE_SECONDS` to stop by itself; then its worker is killed and another one started.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import importlib
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from . import device as devices
from . import protocol
from .errors import (
    FieldforgeError,
    InternalError,
    OutOfMemory,
    TooLarge,
    WorkerDied,
    from_dict,
)
from .jobs import Job, JobStore, from_json, map_bytes, storage_failed, sync, to_json
from .protocol import MeshSet, Preview, Progress, Task

DEFAULT_ENTRY = "backend.pipelines:run"
GRACE_SECONDS = 0.4
MAX_RESULT_BYTES = 8 << 30

_PROGRESS_SECONDS = 0.05
_PROGRESS_STEP = 0.005
_PREVIEW_SECONDS = 0.1  # between two previews; nobody sees more
_MAX_LOG_BYTES = 5 << 20
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

_log = logging.getLogger("fieldforge.workers")
_spawn = multiprocessing.get_context("spawn")
_one_at_a_time = threading.Lock()  # for messages: a worker has two threads that send

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What every worker is told at its start.

    entry: "module:function" of a generator with the signature of `backend.pipelines.run`.
    device: "auto", "cpu" or "cuda". threads: for numerical libraries, unless the environment
    says otherwise. warm: load and compile what jobs will need before the first one comes.
    """

    entry: str = DEFAULT_ENTRY
    device: str = "auto"
    threads: int = 1
    warm: bool = False
    max_result_bytes: int = MAX_RESULT_BYTES


# ------------------------------------------------------------------------- in the server process


class WorkerPool:
    """Worker processes that take the jobs of a store, `count` at a time.

    The pool reads the state of jobs from the store: to cancel or delete a job, tell the store,
    then `wake` the pool.
    """

    def __init__(self, store: JobStore, count: int, options: WorkerOptions) -> None:
        self._store = store
        self._members = [_Member(store, slot, options, self) for slot in range(count)]
        self.device: Message | None = None

    def start(self) -> None:
        for member in self._members:
            member.start()

    def wake(self) -> None:
        """Let every worker look at the store again. Never blocks."""
        for member in self._members:
            member.wake()

    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return [member.pid for member in self._members if member.pid is not None]

    def close(self) -> None:
        """End all workers now; a running job fails with the reason. May be called twice."""
        for member in self._members:
            member.stopping = True
            member.wake()
        for member in self._members:
            if member.is_alive():
                member.join(5)


class _Worker:
    """One worker process and the pipe to it."""

    def __init__(self, name: str, log: Path, options: WorkerOptions) -> None:
        self.pipe, theirs = _spawn.Pipe()
        try:
            self.process = _spawn.Process(
                target=_worker_main,
                args=(theirs, os.getpid(), str(log), options),
                name=name,
                daemon=True,
            )
            self.process.start()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()  # only then do we see the end of the pipe when the worker dies

    def next_message(self, ready: list[Any]) -> Message | None:
        """The message that waits, if any. Raises EOFError or OSError when the worker has died."""
        if self.pipe in ready:
            return _receive(self.pipe)
        if self.process.sentinel in ready:
            raise EOFError
        return None

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


class _Member(threading.Thread):
    """The thread that looks after one worker process, and alone touches it."""

    def __init__(
        self, store: JobStore, slot: int, options: WorkerOptions, pool: WorkerPool
    ) -> None:
        super().__init__(name=f"worker-{slot}", daemon=True)
        self.stopping = False
        self.pid: int | None = None
        self._store = store
        self._options = options
        self._pool = pool
        self._log_path = store.folder / "logs" / f"worker-{slot}.log"
        self._worker: _Worker | None = None
        self._bell, self._bell_rope = _spawn.Pipe(duplex=False)
        self._bell_mutex = threading.Lock()
        self._bell_rung = False

    def wake(self) -> None:
        with self._bell_mutex:
            if not self._bell_rung:
                self._bell_rung = True
                self._bell_rope.send_bytes(b"!")

    def run(self) -> None:
        try:
            self._restart()
            while not self.stopping:
                job = self._store.take()
                if job is None:
                    self._rest()
                else:
                    self._work(job)
        finally:
            self._end()

    def _start(self) -> _Worker:
        self._worker = worker = _Worker(self.name, self._log_path, self._options)
        self.pid = worker.process.pid
        return worker

    def _end(self) -> None:
        worker, self._worker, self.pid = self._worker, None, None
        if worker is not None:
            worker.kill()

    def _restart(self) -> None:
        self._end()
        if not self.stopping:
            with contextlib.suppress(OSError):  # the next job tries again, and tells
                self._start()

    # ---------------------------------------------------------------------------- waiting

    def _rest(self) -> None:
        """Wait for a call, a message or the end of the process."""
        worker = self._worker
        try:
            ready = self._wait(worker, None)
            message = worker.next_message(ready) if worker is not None else None
            self._note(message or {})
        except (EOFError, OSError, ValueError):
            _log.warning("%s ended while it had nothing to do", self.name)
            self._end()  # started anew when a job comes

    def _wait(self, worker: _Worker | None, seconds: float | None) -> list[Any]:
        sources: list[Any] = [self._bell]
        if worker is not None:
            sources += [worker.pipe, worker.process.sentinel]
        ready = wait(sources, seconds)
        if self._bell in ready:
            with self._bell_mutex:
                self._bell.recv_bytes()
                self._bell_rung = False
        return ready

    def _note(self, message: Message) -> None:
        if "device" in message:
            self._pool.device = message["device"]

    # ------------------------------------------------------------------------------- a job

    def _work(self, job: Job) -> None:
        part = self._store.part_path(job.id)
        try:
            self._attend(job, part, self._hand_over(job, part))
        except (OSError, EOFError) as error:
            self._store.fail(job.id, self._death(error))
            self._restart()
        except Exception:
            _log.exception("looking after job %s", job.id)
            self._store.fail(job.id, _fault(self._store.folder / "logs" / "server.log"))
            self._restart()
        finally:
            self._store.sweep(job.id, part)

    def _hand_over(self, job: Job, part: Path) -> _Worker:
        worker = self._worker
        if worker is None or not worker.process.is_alive():
            self._end()
            worker = self._start()
        order = {
            "run": job.id,
            "task": str(self._store.task_path(job.id)),
            "part": str(part),
            "log": str(self._store.log_path(job.id)),
        }
        _send(worker.pipe, order)
        return worker

    def _attend(self, job: Job, part: Path, worker: _Worker) -> None:
        """Follow the job until its worker is free again, or another worker is in its place.

        Raises OSError or EOFError when the worker dies.
        """
        deadline: float | None = None
        while not self.stopping:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = self._wait(worker, left)
            if deadline is None and not self._store.is_running(job.id):
                _send(worker.pipe, {"cancel": job.id})
                deadline = time.monotonic() + GRACE_SECONDS
            elif deadline is not None and time.monotonic() >= deadline:
                return self._restart()
            message = worker.next_message(ready)
            if message is not None and self._settle(job, part, message):
                return None
        cause = "The backend was closed while the job ran."
        self._store.fail(job.id, WorkerDied(cause, "Run it again from the history."))
        return None

    def _settle(self, job: Job, part: Path, message: Message) -> bool:
        """Act on a message; True when it was the last one of the job."""
        self._note(message)
        if message.get("progress") == job.id:
            self._store.progress(job.id, message["stage"], message["fraction"] or 0.0)
        elif message.get("preview") == job.id and self._worker is not None:
            self._store.show(job.id, self._worker.pipe.recv_bytes())
        elif message.get("done") == job.id:
            self._store.finish(job.id, part, message["report"])
            return True
        elif message.get("failed") == job.id:
            error = from_dict(message["error"])
            self._store.fail(job.id, error)
            if isinstance(error, OutOfMemory):
                self._restart()  # gives all memory back, fragments and caches too
            return True
        return False

    def _death(self, error: BaseException) -> WorkerDied:
        """Why the worker ended, in words."""
        if self._worker is None:
            return WorkerDied(
                f"The process for the job could not be started: {error}.",
                "Close other programs, then run it again.",
            )
        process = self._worker.process
        process.join(2)
        _log.warning("%s (%s) died: exit code %s", self.name, process.pid, process.exitcode)
        return died(process.exitcode, self._log_path)


def died(exit_code: int | None, log: Path) -> WorkerDied:
    """The error for a worker that ended with `exit_code` (below zero: the signal that ended it)."""
    if exit_code is not None and exit_code == -getattr(signal, "SIGKILL", 9):
        return WorkerDied(
            "The process that did the job was killed (SIGKILL), probably because the computer ran"
            " out of memory.",
            "Lower the resolution or close other programs, then run it again.",
        )
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-exit_code).name
            return WorkerDied(
                f"The process that did the job crashed ({name}).",
                f"Run it again. If that does not help, report it with the log {log}.",
            )
    return WorkerDied(
        f"The process that did the job ended by itself (exit code {exit_code}).",
        f"Run it again. If that does not help, report it with the log {log}.",
    )


def _fault(log: Path, name: str = "") -> InternalError:
    return InternalError(
        f"The job was stopped by a fault inside Fieldforge{name and f' ({name})'}.",
        f"Report it with the log {log}.",
    )


def _send(pipe: Connection, message: Message) -> None:
    with _one_at_a_time:
        pipe.send_bytes(to_json(message))


def _receive(pipe: Connection) -> Message:
    message: Message = from_json(pipe.recv_bytes())
    return message


# ------------------------------------------------------------------------- in the worker process


def _worker_main(pipe: Connection, server: int, log: str, options: WorkerOptions) -> None:
    _live_with(server)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then ends us
    _write_output_to(Path(log))
    _limit_threads(options.threads)
    orders: queue.SimpleQueue[tuple[Message, threading.Event]] = queue.SimpleQueue()
    warming = threading.Lock()  # held until jobs can begin
    with warming:
        threading.Thread(target=_read_orders, args=(pipe, orders, warming), daemon=True).start()
        if options.warm:
            _warm_up(pipe, options)
    while True:
        order, cancelled = orders.get()
        with contextlib.suppress(BrokenPipeError):  # the reader ends the process
            _send(pipe, _work_on(order, cancelled, pipe, options))


def _live_with(server: int) -> None:
    """Let the system kill this process when the server dies; where it cannot, the pipe tells."""
    if sys.platform != "linux":
        return
    import ctypes

    death_signal = 1  # PR_SET_PDEATHSIG
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(0)
    # When memory runs out, let the system end this process rather than the server or Blender.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def _write_output_to(log: Path) -> None:
    """Point stdout and stderr, also those of native code, to the log.

    The server's own stdout may be a pipe that Blender reads; nothing else may end up there.
    """
    try:
        if log.stat().st_size > _MAX_LOG_BYTES:
            log.replace(log.with_suffix(".old.log"))
    except OSError:
        pass  # there is none yet, or it just grows on
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        target = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    os.close(target)
    faulthandler.enable()


def _limit_threads(threads: int) -> None:
    for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM", "NUMBA"):
        os.environ.setdefault(f"{name}_NUM_THREADS", str(threads))


def _read_orders(
    pipe: Connection,
    orders: queue.SimpleQueue[tuple[Message, threading.Event]],
    warming: threading.Lock,
) -> None:
    cancelled = threading.Event()
    current = ""
    try:
        while True:
            order = _receive(pipe)
            if "run" in order:
                current, cancelled = order["run"], threading.Event()
                if warming.locked():  # which takes minutes where nothing is compiled yet
                    _send(pipe, {"progress": current, "stage": "Getting ready", "fraction": 0.0})
                orders.put((order, cancelled))
            elif order.get("cancel") == current:
                cancelled.set()
    except (EOFError, OSError):
        os._exit(0)  # the server is gone, and with it whoever wanted the result


def _warm_up(pipe: Connection, options: WorkerOptions) -> None:
    try:
        found = devices.describe(options.device)
        _send(pipe, {"device": {"kind": found.kind, "words": found.in_words()}})
        if options.entry == DEFAULT_ENTRY:
            from .pipelines import warm_up

            warm_up()
            for name in ("panorama_to_stereo", "views_to_scene"):
                importlib.import_module(f".pipelines.{name}", __package__)
            threading.Thread(target=_warm_up_beside_jobs, daemon=True).start()
    except Exception:
        traceback.print_exc()  # a job that needs it will fail and tell


def _warm_up_beside_jobs() -> None:
    """What takes long where nothing is compiled yet, and the first job may want none of.

    Its modules are imported before: two threads that import can wait for each other.
    """
    _warm_up_spheres()
    _warm_up_views()


def _warm_up_views() -> None:
    """Compile what views with cameras need: a ball from six sides, its depth 5 % off in one."""
    from .pipelines import run

    try:
        for _ in run(_ball_from_six_sides()):
            pass
    except Exception:
        traceback.print_exc()


def _ball_from_six_sides() -> protocol.ViewsToScene:
    """Of radius 0.8, from 4 away."""
    across = (np.arange(64) - 31.5) / (32 / np.tan(np.radians(20)))
    ray = 1 + across**2 + across[:, None] ** 2
    inner = 16 - ray * (16 - 0.8**2)
    depth = np.where(inner > 0, (4 - np.sqrt(np.maximum(inner, 0))) / ray, 0).astype(np.float32)
    depths = np.tile(depth, (6, 1, 1))
    depths[0] *= 1.05
    return protocol.ViewsToScene(
        images=np.full((6, 64, 64, 3), 128, np.uint8),
        depths=depths,
        poses=protocol.ring_poses(4, 0.0, 4.0, caps=True),
        field=40.0,
        resolution=128,
        texture_size=256,
    )


def _warm_up_spheres() -> None:
    """Compile what panoramas need: a small one, with sky and things before a wall, for two eyes."""
    from .pipelines import run

    depth = np.full((32, 64), 3, np.float32)
    depth[:4], depth[12:20, 10:30] = np.inf, 1.5
    try:
        for _ in run(protocol.PanoramaToStereo(image=np.zeros((32, 64, 3), np.uint8), depth=depth)):
            pass
    except Exception:
        traceback.print_exc()


def _work_on(
    order: Message, cancelled: threading.Event, pipe: Connection, options: WorkerOptions
) -> Message:
    """Do the job; returns its last message."""
    job_id: str = order["run"]
    part = Path(order["part"])
    try:
        result = _last(_run(order, cancelled, options), job_id, pipe)
        _write_result(result, part, options.max_result_bytes)
        return {"done": job_id, "report": result.report}
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        return {"failed": job_id, "error": _told(error, part, Path(order["log"])).to_dict()}


def _is_out_of_memory(error: BaseException) -> bool:
    """Also what torch raises, which is told by its name so that torch need not be imported."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("can't allocate memory", "not enough memory")  # Linux, Windows
    return isinstance(error, RuntimeError) and any(part in str(error) for part in words)


def _run(order: Message, cancelled: threading.Event, options: WorkerOptions) -> Iterator[Any]:
    task = protocol.decode_task(map_bytes(Path(order["task"])))
    from .pipelines import Context

    context = Context(device=options.device, cancelled=cancelled.is_set)
    context.check_cancelled()
    yield from _entry(options.entry)(task, context)


def _entry(name: str) -> Callable[[Task, Any], Iterator[Any]]:
    module, _, function = name.partition(":")
    entry: Callable[[Task, Any], Iterator[Any]] = getattr(importlib.import_module(module), function)
    return entry


def _last(steps: Iterator[Any], job_id: str, pipe: Connection) -> protocol.Result:
    """Send the progress on, return the result."""
    result: Any = None
    sent, sent_at, shown_at = Progress("", -1.0), 0.0, 0.0
    for step in steps:
        if not isinstance(step, Progress):
            result = step
            continue
        now = time.monotonic()
        forming = _forming(step)
        if forming is not None and now >= shown_at + _PREVIEW_SECONDS:
            _send(pipe, {"preview": job_id})
            pipe.send_bytes(protocol.encode_result(forming))
            shown_at = now
        news = step.stage != sent.stage or step.fraction >= sent.fraction + _PROGRESS_STEP
        if news or now >= sent_at + _PROGRESS_SECONDS:
            _send(pipe, {**step.to_dict(), "progress": job_id, "stage": str(step.stage)})
            sent, sent_at = step, now
    if not isinstance(result, protocol.Result):
        raise TypeError(f"the pipeline ended with {type(result).__name__} instead of a result")
    return result


def _forming(step: Progress) -> protocol.Result | None:
    """What a step shows of what forms: meshes, or a picture."""
    if isinstance(step, Preview) and step.meshes:
        return MeshSet(meshes=step.meshes)
    if step.picture is not None:
        return protocol.PanoramaResult(image=step.picture)
    return None


def _write_result(result: protocol.Result, part: Path, limit: int) -> None:
    records: tuple[Any, ...] = protocol.meshes_of(result) or protocol.animations_of(result)
    records = (*(records or (result,)), *getattr(result, "layers", ()))
    size = sum(getattr(value, "nbytes", 0) for one in records for value in vars(one).values())
    if size > limit:
        raise TooLarge(
            f"The result of {size / 2**30:.1f} GB is larger than the {limit / 2**30:.1f} GB that"
            " this backend keeps.",
            "Lower the resolution and run it again.",
        )
    body = protocol.encode_result(result)
    with part.open("xb") as file:
        file.write(body)
        sync(file)


def _told(error: BaseException, part: Path, log: Path) -> FieldforgeError:
    """What an exception in a job means to a person. The traceback of a fault goes into `log`."""
    if isinstance(error, FieldforgeError):
        return error
    if _is_out_of_memory(error):
        traceback.print_exception(error)
        return OutOfMemory(
            "The job needs more memory than there is.",
            "Lower the resolution, the variations or the number of points, or close other"
            " programs.",
        )
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        named = error.filename
        return storage_failed(error, Path(named) if isinstance(named, str) else part.parent.parent)
    try:
        with log.open("w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error)
    return _fault(log, type(error).__name__)
