"""Jobs and their files, kept in a data folder so that they outlive the server.

    DATA/lock                 held by the one server that uses the folder
    DATA/jobs.sqlite          one row per job
    DATA/tasks/ID.task        the bytes of `protocol.encode_task`
    DATA/results/ID.result    the bytes of `protocol.encode_result`
    DATA/incoming/            files that are still being written
    DATA/logs/                what went wrong, with tracebacks

The records in memory are the truth while the server runs; each change of state is written through
to the database. When that write fails (full disk) the change is kept and written with the next
one, so that a full disk never loses a result that is already on it. Files become visible by
renaming only, and the files decide at the next start: a job with a whole result is done, and a
task without a record gets one.
Standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import math
import mmap
import os
import re
import secrets
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from . import protocol
from .errors import (
    Cancelled,
    FieldforgeError,
    InternalError,
    NotFound,
    NotReady,
    QueueFull,
    StorageFailed,
    WorkerDied,
)

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
FINAL = frozenset({DONE, FAILED, CANCELLED})

KEEP_BYTES = 4 << 30
KEEP_JOBS = 500
MAX_QUEUED = 64

_SCHEMA_VERSION = 1
_ID = re.compile(r"[0-9a-f]{32}")
_OUR_FILE = re.compile(r"[0-9a-f]{32}(-[0-9a-f]+)?\.(task|result|part|log)")
_PROBE_BYTES = 64 << 10

_log = logging.getLogger("fieldforge.jobs")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as it is remembered. Times are unix seconds, sizes bytes, `fraction` is in 0..1.

    preview: how many previews there have been; 0 once the job has ended, for they are gone then.
    """

    id: str
    order: int
    kind: str
    name: str
    model: str
    created: float
    state: str = QUEUED
    stage: str = ""
    fraction: float = 0.0
    started: float | None = None
    finished: float | None = None
    task_bytes: int = 0
    result_bytes: int = 0
    preview: int = 0
    error: dict[str, str] | None = None
    report: dict[str, Any] | None = None

    @property
    def final(self) -> bool:
        return self.state in FINAL

    def to_dict(self) -> dict[str, Any]:
        """The record as it goes over the wire."""
        record = dataclasses.asdict(self)
        del record["order"], record["task_bytes"]
        return record


class JobStore:
    """All jobs of one data folder. Every method may be called from any thread.

    keep_bytes, keep_jobs: what finished jobs may take together; the oldest go first, the newest
    is always kept. max_queued: jobs that may wait. `on_change` is called with the id after every
    change; it must not block.

    Raises StorageFailed when the folder cannot be used or another server uses it.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        keep_bytes: int = KEEP_BYTES,
        keep_jobs: int = KEEP_JOBS,
        max_queued: int = MAX_QUEUED,
        on_change: Callable[[str], None] = lambda job_id: None,
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.keep_bytes = keep_bytes
        self.keep_jobs = keep_jobs
        self.max_queued = max_queued
        self.on_change = on_change
        self._jobs: dict[str, Job] = {}
        self._previews: dict[str, bytes] = {}
        self._unwritten: set[str] = set()
        self._mutex = threading.RLock()
        with _told_as_storage_failed(self.folder):
            self._make_folders()
            self._lock_file = _lock(self.folder / "lock")
            try:
                _probe(self.folder / "incoming")
                self._database = _open_database(self.folder / "jobs.sqlite")
            except BaseException:
                self._lock_file.close()
                raise
        try:
            self._recover()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder back; the store cannot be used afterwards."""
        with self._mutex:
            if self._unwritten:
                self._write()
            self._database.close()
            self._lock_file.close()

    # ------------------------------------------------------------------------------- reading

    def get(self, job_id: str) -> Job:
        """The job as it stands now. Raises NotFound."""
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound("There is no such job.", "It was deleted; refresh the history.")
        return job

    def find(self, job_id: str) -> Job | None:
        """The job as it stands now, or None. Takes no lock, never blocks."""
        return self._jobs.get(job_id)

    def is_running(self, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        return job is not None and job.state == RUNNING

    def all(self) -> list[Job]:
        """Every job, newest first."""
        return sorted(self._snapshot(), key=lambda job: -job.order)

    def count(self, state: str) -> int:
        return sum(job.state == state for job in self._snapshot())

    def _snapshot(self) -> list[Job]:
        # One step for the interpreter, so it needs no mutex: reading never waits for the disk.
        return list(self._jobs.values())

    def check_room(self, arriving: int = 0) -> None:
        """Raise QueueFull when `arriving` jobs on their way and one more would not fit."""
        if self.count(QUEUED) + arriving >= self.max_queued:
            raise QueueFull(
                f"{self.max_queued} jobs are waiting already.",
                "Wait until some are done, or cancel some of them.",
            )

    def open_task(self, job_id: str) -> IO[bytes]:
        """The bytes of the task. Raises NotFound or StorageFailed."""
        return self._open(self.task_path(self.get(job_id).id), "task")

    def open_result(self, job_id: str) -> IO[bytes]:
        """The bytes of the result. Raises NotFound, NotReady or StorageFailed."""
        job = self.get(job_id)
        if job.error is not None:
            raise NotReady(f"The job has no result. {job.error['cause']}", job.error["remedy"])
        if job.state != DONE:
            raise NotReady("The job is not done yet.", "Wait until it is done, then fetch it.")
        return self._open(self.result_path(job.id), "result")

    def newest_preview(self, job_id: str) -> bytes:
        """What a running job last showed of its result. Raises NotFound."""
        body = self._previews.get(self.get(job_id).id)
        if body is None:
            raise NotFound("There is no preview of this job.", "Wait for the result.")
        return body

    def _open(self, path: Path, what: str) -> IO[bytes]:
        try:
            return path.open("rb")
        except FileNotFoundError:
            raise NotFound(f"The {what} of this job was removed.", "Run the job again.") from None
        except OSError as error:
            raise storage_failed(error, path) from error

    # ----------------------------------------------------------------------------- file names

    def task_path(self, job_id: str) -> Path:
        return self.folder / "tasks" / f"{_checked(job_id)}.task"

    def result_path(self, job_id: str) -> Path:
        return self.folder / "results" / f"{_checked(job_id)}.result"

    def log_path(self, job_id: str) -> Path:
        return self.folder / "logs" / f"{_checked(job_id)}.log"

    def part_path(self, job_id: str) -> Path:
        """A new name for a file that is being written for this job."""
        return self.folder / "incoming" / f"{_checked(job_id)}-{secrets.token_hex(4)}.part"

    # -------------------------------------------------------------------------------- changes

    def add(self, upload: Path, kind: str, name: str, model: str) -> Job:
        """Take over the file `upload` (inside this folder) as a new queued job.

        Raises QueueFull or StorageFailed; the file is then gone and nothing is queued.
        """
        job_id = secrets.token_hex(16)
        try:
            with self._mutex, _told_as_storage_failed(self.folder):
                self.check_room()
                job = Job(
                    id=job_id,
                    order=1 + max((job.order for job in self._jobs.values()), default=0),
                    kind=kind,
                    name=name,
                    model=model,
                    created=time.time(),
                    task_bytes=upload.stat().st_size,
                )
                _publish(upload, self.task_path(job_id))
                _write_rows(self._database, {job_id: job})
                self._jobs[job_id] = job
        except BaseException:
            _remove(upload, self.task_path(job_id))
            raise
        self.on_change(job_id)
        return job

    def take(self) -> Job | None:
        """Make the job that has waited longest a running one; None when none waits."""
        with self._mutex:
            queued = (job for job in self._jobs.values() if job.state == QUEUED)
            job = min(queued, key=lambda job: job.order, default=None)
            if job is None:
                return None
            job = self._change(job.id, {QUEUED}, state=RUNNING, started=time.time())
        return job

    def progress(self, job_id: str, stage: str, fraction: float) -> None:
        """Note where a running job stands. Its fraction never goes back."""
        if not math.isfinite(fraction):
            fraction = 0.0
        with self._mutex:
            job = self._jobs.get(job_id)
            if job is None or job.state != RUNNING:
                return
            fraction = max(job.fraction, min(fraction, 1.0))
            self._jobs[job_id] = dataclasses.replace(job, stage=stage, fraction=fraction)
        self.on_change(job_id)

    def show(self, job_id: str, body: bytes) -> None:
        """Keep the bytes of a preview in memory while the job runs; they replace the last ones."""
        with self._mutex:
            job = self._jobs.get(job_id)
            if job is None or job.state != RUNNING:
                return
            self._previews[job_id] = body
            self._jobs[job_id] = dataclasses.replace(job, preview=job.preview + 1)
        self.on_change(job_id)

    def finish(self, job_id: str, part: Path, report: dict[str, Any]) -> bool:
        """Take over the file `part` as the result of a running job.

        False when the job is no longer wanted; the file is then gone. A result that cannot be
        kept fails the job.
        """
        with self._mutex:
            if not self.is_running(job_id):
                _remove(part)
                return False
            try:
                size = part.stat().st_size
                _publish(part, self.result_path(job_id))
            except OSError as error:
                _remove(part)
                return self.fail(job_id, storage_failed(error, self.folder))
            self._change(
                job_id,
                {RUNNING},
                state=DONE,
                fraction=1.0,
                finished=time.time(),
                result_bytes=size,
                report=report,
            )
        self.prune()
        return True

    def fail(self, job_id: str, error: FieldforgeError) -> bool:
        """End a running job with `error`. False when it is no longer wanted."""
        failed = self._change(
            job_id, {RUNNING}, state=FAILED, finished=time.time(), error=error.to_dict()
        )
        self.prune()
        return failed is not None

    def cancel(self, job_id: str) -> Job:
        """End a job that waits or runs; one that has ended stays as it is. Raises NotFound."""
        error = Cancelled("The job was cancelled.", "Run it again from the history if you want it.")
        changed = self._change(
            job_id,
            {QUEUED, RUNNING},
            state=CANCELLED,
            finished=time.time(),
            error=error.to_dict(),
        )
        return changed or self.get(job_id)

    def delete(self, job_id: str) -> None:
        """Cancel the job if it has not ended, and remove it with its files. Raises NotFound."""
        with self._mutex:
            self.get(job_id)
            self.cancel(job_id)
            self._forget([job_id])
        self.on_change(job_id)

    def sweep(self, job_id: str, part: Path) -> None:
        """Remove what a worker has left, once it is done with the job."""
        _remove(part)
        if self.find(job_id) is None:
            self._remove_files(job_id)

    def prune(self) -> None:
        """Remove the oldest finished jobs until the rest fits; the newest of them stays."""
        with self._mutex:
            finished = [job for job in self._jobs.values() if job.final]
            finished.sort(key=lambda job: (job.finished or 0.0, job.order))
            kept = sum(job.task_bytes + job.result_bytes for job in finished)
            gone: list[str] = []
            while len(finished) > 1 and (kept > self.keep_bytes or len(finished) > self.keep_jobs):
                job = finished.pop(0)
                kept -= job.task_bytes + job.result_bytes
                gone.append(job.id)
            if gone:
                self._forget(gone)
        for job_id in gone:
            self.on_change(job_id)

    def _change(self, job_id: str, states: set[str], **changes: Any) -> Job | None:
        """Change a job that is in one of `states`; None, and no change, when it is not."""
        with self._mutex:
            job = self._jobs.get(job_id)
            if job is None or job.state not in states:
                return None
            if changes["state"] in FINAL:
                self._previews.pop(job_id, None)
                changes["preview"] = 0
            job = self._jobs[job_id] = dataclasses.replace(job, **changes)
            self._unwritten.add(job_id)
            self._write()
        self.on_change(job_id)
        return job

    def _forget(self, job_ids: Iterable[str]) -> None:
        # Files first: on a full disk the database can only be written once they are gone.
        for job_id in job_ids:
            self._jobs.pop(job_id, None)
            self._unwritten.add(job_id)
            self._remove_files(job_id)
        self._write()

    def _remove_files(self, job_id: str) -> None:
        _remove(self.task_path(job_id), self.result_path(job_id), self.log_path(job_id))

    def _write(self) -> None:
        try:
            _write_rows(self._database, {key: self._jobs.get(key) for key in self._unwritten})
            self._unwritten.clear()
        except sqlite3.Error as error:
            _log.warning("%d changes wait to be written: %s", len(self._unwritten), error)

    # --------------------------------------------------------------------------------- start

    def _make_folders(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("tasks", "results", "incoming", "logs"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)

    def _recover(self) -> None:
        """Bring records and files of the last run together."""
        with _told_as_storage_failed(self.folder):
            for job in _read_rows(self._database):
                settled = self._settle(job)
                if settled is not None:
                    self._jobs[job.id] = settled
                if settled != job:
                    self._unwritten.add(job.id)
            self._find_unlisted()
            self._write()
            self._remove_strays()
        self.prune()

    def _settle(self, job: Job) -> Job | None:
        """What became of `job` while no server looked after it; None when nothing is left."""
        has_result = self.result_path(job.id).is_file()
        has_task = self.task_path(job.id).is_file()
        if job.state in (QUEUED, RUNNING) and has_result:
            return self._done_after_all(job)
        if job.state == QUEUED and not has_task:
            return _failed(job, NotFound("The input of this job was removed.", "Generate anew."))
        if job.state == RUNNING:
            cause = "The backend was ended while the job ran."
            return _failed(job, WorkerDied(cause, "Run it again from the history."))
        if job.state == DONE and not has_result:
            lost = NotFound("The result of this job was removed.", "Run the job again.")
            return _failed(job, lost) if has_task else None
        return job

    def _done_after_all(self, job: Job) -> Job:
        path = self.result_path(job.id)
        try:
            _, message = protocol.unpack(map_bytes(path))
            report = from_json(to_json(message.get("report", {})))
        except FieldforgeError:
            return _failed(job, InternalError("The result cannot be read.", "Run the job again."))
        return dataclasses.replace(
            job,
            state=DONE,
            fraction=1.0,
            started=job.started or job.created,
            finished=path.stat().st_mtime,
            result_bytes=path.stat().st_size,
            report=report if isinstance(report, dict) else {},
        )

    def _find_unlisted(self) -> None:
        """Make records for tasks that have none: the database was lost, or could not be read."""
        paths = [
            path
            for path in (self.folder / "tasks").iterdir()
            if _OUR_FILE.fullmatch(path.name) and path.stem not in self._jobs
        ]
        order = max((job.order for job in self._jobs.values()), default=0)
        for path in sorted(paths, key=lambda path: path.stat().st_mtime):
            order += 1
            job = self._settle_unlisted(path, order)
            if job is not None:
                self._jobs[job.id] = job
                self._unwritten.add(job.id)

    def _settle_unlisted(self, path: Path, order: int) -> Job | None:
        try:
            _, message = protocol.unpack(map_bytes(path))
        except FieldforgeError:
            return None
        info = path.stat()
        kind = protocol.TASKS.get(str(message.get("kind", "")), protocol.Task)
        job = Job(
            id=path.stem,
            order=order,
            kind=str(message.get("kind", "")),
            name=clean_text(str(message.get("name", kind.name))),
            model=clean_text(str(message.get("model", kind.model))),
            created=info.st_mtime,
            state=RUNNING,
            task_bytes=info.st_size,
        )
        return self._settle(job)

    def _remove_strays(self) -> None:
        """Remove files of jobs that are not known, and only files that carry our names."""
        for name in ("tasks", "results", "incoming", "logs"):
            for path in (self.folder / name).iterdir():
                known = path.name.partition(".")[0] in self._jobs
                if _OUR_FILE.fullmatch(path.name) and not known:
                    _remove(path)


# ------------------------------------------------------------------------------------- database


def _open_database(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        # We hold the folder alone. Exclusive locking needs no shared memory, which some network
        # drives do not offer.
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise StorageFailed(
                f"The jobs in {path.parent} were kept by a newer version of Fieldforge.",
                "Update Fieldforge, or choose another data folder.",
            )
        database.execute(
            "CREATE TABLE IF NOT EXISTS jobs"
            " (id TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL) WITHOUT ROWID"
        )
        database.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
    except BaseException:
        database.close()
        raise
    return database


def _write_rows(database: sqlite3.Connection, jobs: dict[str, Job | None]) -> None:
    """Write all of `jobs` (None = remove the row) or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        for job_id, job in jobs.items():
            if job is None:
                database.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
            else:
                record = json.dumps(dataclasses.asdict(job))
                database.execute("REPLACE INTO jobs VALUES (?, ?)", (job_id, record))
        database.execute("COMMIT")
    except BaseException:
        # SQLite rolls back by itself after some errors, so that there may be nothing to roll back.
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def _read_rows(database: sqlite3.Connection) -> list[Job]:
    jobs = []
    for job_id, record in database.execute("SELECT id, record FROM jobs").fetchall():
        try:
            job = Job(**json.loads(record))
            if job.id != _checked(job_id):
                raise ValueError("id")
            jobs.append(job)
        except (TypeError, ValueError, NotFound):
            _log.warning("the record of job %r cannot be read and is left out", job_id)
    return sorted(jobs, key=lambda job: job.order)


def _failed(job: Job, error: FieldforgeError) -> Job:
    return dataclasses.replace(
        job,
        state=FAILED,
        finished=job.finished or time.time(),
        result_bytes=0,
        report=None,
        error=error.to_dict(),
    )


def to_json(value: Any) -> bytes:
    """JSON that every reader accepts: what JSON lacks becomes text, half surrogate pairs "?"."""
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")


def clean_text(text: str) -> str:
    """`text` with "?" for half surrogate pairs, which no answer could carry."""
    return text.encode("utf-8", "replace").decode()


def from_json(text: bytes) -> Any:
    """The inverse of `to_json`; NaN and infinity become None."""
    return json.loads(text, parse_constant=lambda name: None)


# ---------------------------------------------------------------------------------------- files


def map_bytes(path: Path) -> bytes:
    """The file's bytes, read on demand: a file larger than memory can be looked into.

    Raises OSError, and BadInput by way of the reader when the file is empty (b"").
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        # `bytes` to everyone who only slices and counts, which is all that `protocol` does.
        return cast(bytes, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def sync(file: IO[bytes]) -> None:
    """Bring what was written to the disk, so that a full disk is noticed now and not later."""
    file.flush()
    os.fsync(file.fileno())


def _publish(part: Path, path: Path) -> None:
    os.replace(part, path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _remove(*paths: Path) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            # Windows keeps files that someone still reads; the next start removes them.
            _log.warning("%s stays for now: %s", path, error)


def _probe(folder: Path) -> None:
    """Raise OSError unless a file can be written here."""
    path = folder / f"{secrets.token_hex(16)}.part"
    try:
        with path.open("xb") as file:
            file.write(b"\0" * _PROBE_BYTES)
            sync(file)
    finally:
        _remove(path)


def _checked(job_id: str) -> str:
    """`job_id` when it can only name a job, never a path. Raises NotFound."""
    if not _ID.fullmatch(job_id):
        raise NotFound("There is no such job.", "It was deleted; refresh the history.")
    return job_id


def _lock(path: Path) -> IO[bytes]:
    """Open and lock `path` until it is closed or the process ends, however it ends."""
    file = path.open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise
        raise StorageFailed(
            f"Another Fieldforge backend uses the data folder {path.parent}.",
            "End that backend, or choose another data folder in Preferences.",
        ) from None
    return file


# --------------------------------------------------------------------------------------- errors

_ANOTHER = "Choose another data folder in Preferences (or with --data)."
_TOLD: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("The disk with {} is full.", "Free some space there and run it again."),
    errno.EDQUOT: ("Your quota on the disk with {} is used up.", "Free some space there."),
    errno.EFBIG: ("The disk with {} does not take a file this large.", _ANOTHER),
    errno.EROFS: ("The data folder {} is on a disk that is read-only.", _ANOTHER),
    errno.EACCES: ("The data folder {} may not be written.", _ANOTHER),
    errno.EPERM: ("The data folder {} may not be written.", _ANOTHER),
    errno.ENOTDIR: ("The data folder {} lies inside a file.", _ANOTHER),
    errno.EEXIST: ("The data folder {} is a file.", _ANOTHER),
    errno.ENAMETOOLONG: ("The name of the data folder {} is too long.", _ANOTHER),
}


def storage_failed(error: OSError | sqlite3.Error, path: Path) -> StorageFailed:
    """What a failed read or write means to a person."""
    if isinstance(error, OSError):
        told = _TOLD.get(error.errno or 0)
        if told:
            return StorageFailed(told[0].format(path), told[1])
        return StorageFailed(f"{path} cannot be used: {error.strerror or error}.", _ANOTHER)
    text = str(error).lower()
    if "full" in text:
        cause, remedy = _TOLD[errno.ENOSPC]
    elif "readonly" in text or "unable to open" in text:
        cause, remedy = _TOLD[errno.EACCES]
    elif "not a database" in text or "malformed" in text:
        cause = "The list of jobs in {} is damaged."
        remedy = "Move the files jobs.sqlite* away: the jobs are found again by their files."
    else:
        cause, remedy = f"The list of jobs in {{}} cannot be written: {error}.", _ANOTHER
    return StorageFailed(cause.format(path), remedy)


@contextlib.contextmanager
def _told_as_storage_failed(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise storage_failed(error, folder) from error
