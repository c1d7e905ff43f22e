"""The store alone: states, races, restarts, limits, and disks that fail."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)
from running_servers import task_bytes

from backend.errors import InternalError, NotFound, NotReady, QueueFull, StorageFailed
from backend.jobs import JobStore, storage_failed
from backend.protocol import MeshResult, encode_result

RESULT = encode_result(MeshResult(report={"seconds": 1.5, "odd": float("nan")}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mit Leerzeichen" / "Jöbs 形"


@pytest.fixture
def store(folder: Path) -> Iterator[JobStore]:
    store = JobStore(folder)
    yield store
    store.close()


def add(store: JobStore, name: str = "Chair", body: bytes = b"") -> str:
    upload = store.folder / "incoming" / f"{secrets.token_hex(16)}.part"
    upload.write_bytes(body or task_bytes())
    return store.add(upload, "points-to-mesh", name, "wavelet-fit").id


def part_of(store: JobStore, job_id: str, body: bytes = RESULT) -> Path:
    part = store.part_path(job_id)
    part.write_bytes(body)
    return part


def finish(store: JobStore, job_id: str, body: bytes = RESULT) -> bool:
    return store.finish(job_id, part_of(store, job_id, body), {"seconds": 1.5})


def done(store: JobStore, size: int = 0) -> str:
    job_id = add(store)
    taken = store.take()
    assert taken is not None
    assert taken.id == job_id
    assert finish(store, job_id, RESULT + b" " * size)
    return job_id


def files(store: JobStore) -> set[str]:
    """All files but the database and the lock."""
    found = {str(path.relative_to(store.folder)) for path in store.folder.rglob("*.*")}
    return {name for name in found if not name.startswith("jobs.sqlite")}


# ---------------------------------------------------------------------------------------- states


def test_a_job_from_queue_to_result(store: JobStore) -> None:
    body = task_bytes()
    job_id = add(store, "Stuhl ä", body)
    assert re.fullmatch("[0-9a-f]{32}", job_id)
    assert store.get(job_id).state == "queued"
    with store.open_task(job_id) as file:
        assert file.read() == body
    with pytest.raises(NotReady, match="not done"):
        store.open_result(job_id)

    assert store.take() == store.get(job_id)
    assert store.take() is None
    store.progress(job_id, "Fitting", 0.4)
    store.progress(job_id, "Meshing", 0.2)
    assert (store.get(job_id).stage, store.get(job_id).fraction) == ("Meshing", 0.4)
    store.progress(job_id, "Meshing", 7.0)
    assert store.get(job_id).fraction == 1.0

    assert finish(store, job_id)
    job = store.get(job_id)
    assert job.state == "done"
    assert job.created <= (job.started or 0) <= (job.finished or 0)
    assert job.result_bytes == len(RESULT)
    assert job.report == {"seconds": 1.5}
    with store.open_result(job_id) as file:
        assert file.read() == RESULT


def test_jobs_are_taken_in_the_order_they_came_and_listed_newest_first(store: JobStore) -> None:
    ids = [add(store) for _ in range(5)]
    store.cancel(ids[1])
    taken = [job.id for job in iter(store.take, None)]
    assert taken == [ids[0], *ids[2:]]
    assert [job.id for job in store.all()] == ids[::-1]


def test_cancelled_jobs_stay_cancelled(store: JobStore) -> None:
    queued, running = add(store), add(store)
    store.cancel(queued)
    assert store.take() is not None
    first, second = store.cancel(running), store.cancel(running)
    assert first == second
    assert first.state == "cancelled"
    assert first.error is not None
    assert first.error["code"] == "cancelled"
    assert store.take() is None
    assert not finish(store, running)
    assert not store.fail(running, InternalError("late"))
    store.progress(running, "late", 0.9)
    assert store.get(running) == first
    assert files(store) == {f"tasks/{queued}.task", f"tasks/{running}.task"}


def test_cancelling_what_has_ended_changes_nothing(store: JobStore) -> None:
    job_id = done(store)
    before = store.get(job_id)
    assert store.cancel(job_id) == before
    assert store.get(job_id).state == "done"


@pytest.mark.parametrize("state", ["queued", "running", "done"])
def test_deleting_leaves_no_file_and_no_record(folder: Path, state: str) -> None:
    store = JobStore(folder)
    job_id = add(store)
    if state != "queued":
        store.take()
    if state == "done":
        finish(store, job_id)
    store.delete(job_id)
    with pytest.raises(NotFound):
        store.get(job_id)
    with pytest.raises(NotFound):
        store.delete(job_id)
    assert not finish(store, job_id)
    assert files(store) == set()
    store.close()
    again = JobStore(folder)
    assert again.all() == []
    again.close()


def test_the_queue_has_an_end(folder: Path) -> None:
    store = JobStore(folder, max_queued=2)
    add(store), add(store)
    with pytest.raises(QueueFull):
        add(store)
    assert len(store.all()) == 2
    assert len(files(store)) == 2
    store.take()
    add(store)
    with pytest.raises(QueueFull):
        store.check_room()
    store.close()


@pytest.mark.parametrize(
    "job_id", ["", "../../../etc/passwd", "A" * 32, "a" * 31, "a" * 32 + "\n", "a" * 33, "é" * 32]
)
def test_ids_never_become_paths(store: JobStore, job_id: str) -> None:
    for use in (
        store.get,
        store.delete,
        store.cancel,
        store.open_result,
        store.open_task,
        store.task_path,
        store.result_path,
        store.log_path,
        store.part_path,
    ):
        with pytest.raises(NotFound):
            use(job_id)  # type: ignore[operator]


def test_changes_are_told(folder: Path) -> None:
    told: list[str] = []
    store = JobStore(folder, on_change=told.append)
    job_id = add(store)
    for change in (
        store.take,
        lambda: store.progress(job_id, "Fitting", 0.5),
        lambda: finish(store, job_id),
        lambda: store.delete(job_id),
    ):
        told.clear()
        change()
        assert set(told) == {job_id}
    store.close()


def test_one_of_many_endings_wins(store: JobStore) -> None:
    """Cancel, finish, fail and delete at once: one ending, and no file too many."""
    for _ in range(15):
        end_from_four_sides(store, add(store))
    assert files(store) == set()


def end_from_four_sides(store: JobStore, job_id: str) -> None:
    store.take()
    part = part_of(store, job_id)
    outcomes: dict[str, Any] = {}
    start = threading.Barrier(4)

    def act(name: str, end: Callable[[], Any]) -> None:
        start.wait()
        outcomes[name] = end()

    ends: dict[str, Callable[[], Any]] = {
        "finish": lambda: store.finish(job_id, part, {}),
        "fail": lambda: store.fail(job_id, InternalError("x")),
        "cancel": lambda: store.cancel(job_id).state,
        "cancel again": lambda: store.cancel(job_id).state,
    }
    threads = [threading.Thread(target=act, args=item) for item in ends.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    state = store.get(job_id).state
    assert outcomes["finish"] == (state == "done")
    assert outcomes["fail"] == (state == "failed")
    assert outcomes["cancel"] == outcomes["cancel again"] == state
    assert store.result_path(job_id).exists() == (state == "done")
    assert not part.exists()
    store.delete(job_id)


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of calls and restarts keeps records, database and files in step."""

    jobs = Bundle("jobs")
    root: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = self.root / secrets.token_hex(8)
        self.store = JobStore(self.folder, max_queued=4, keep_jobs=3)
        self.ended: dict[str, str] = {}

    def teardown(self) -> None:
        self.store.close()

    @rule(target=jobs)
    def add(self) -> str:
        if self.store.count("queued") == 4:
            with pytest.raises(QueueFull):
                add(self.store)
            return "0" * 32
        return add(self.store)

    @rule()
    def take(self) -> None:
        queued = self.store.count("queued")
        job = self.store.take()
        assert (job is None) == (queued == 0)

    @rule(job_id=jobs)
    def finish(self, job_id: str) -> None:
        running = self.store.is_running(job_id)
        assert finish(self.store, job_id) == running

    @rule(job_id=jobs)
    def fail(self, job_id: str) -> None:
        running = self.store.is_running(job_id)
        assert self.store.fail(job_id, InternalError("x", "y")) == running

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        if self.store.find(job_id) is not None:
            assert self.store.cancel(job_id).final

    @rule(job_id=consumes(jobs))
    def delete(self, job_id: str) -> None:
        if self.store.find(job_id) is not None:
            self.store.delete(job_id)
        assert self.store.find(job_id) is None

    @rule()
    def restart(self) -> None:
        before = {job.id: job for job in self.store.all()}
        self.store.close()
        self.store = JobStore(self.folder, max_queued=4, keep_jobs=3)
        after = {job.id: job for job in self.store.all()}
        for job_id, job in after.items():
            if before[job_id].state == "running":
                assert job.state == "failed"
            else:
                assert job == before[job_id]
        for job_id in before.keys() - after.keys():  # pruned
            assert before[job_id].state not in ("queued",)

    @invariant()
    def files_match_records(self) -> None:
        jobs = self.store.all()
        wanted = {f"tasks/{job.id}.task" for job in jobs}
        wanted |= {f"results/{job.id}.result" for job in jobs if job.state == "done"}
        assert files(self.store) == wanted
        assert sum(job.final for job in jobs) <= 3

    @invariant()
    def an_ending_is_final(self) -> None:
        for job in self.store.all():
            if job.final:
                assert self.ended.setdefault(job.id, job.state) == job.state
            else:
                assert job.id not in self.ended


def test_any_sequence_of_calls(tmp_path: Path) -> None:
    machine = type("Machine", (StoreMachine,), {"root": tmp_path})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=8, stateful_step_count=20, deadline=None)
    )


# ---------------------------------------------------------------------------------------- restart


def crash(store: JobStore) -> None:
    """Give the folder free without writing anything more."""
    store._database.close()
    store._lock_file.close()


def test_a_restart_keeps_what_there_was(folder: Path) -> None:
    store = JobStore(folder)
    finished, running, queued = done(store), add(store), add(store)
    taken = store.take()
    assert taken is not None
    assert taken.id == running
    part_of(store, running, b"half a resu")
    before = store.get(finished)
    crash(store)

    again = JobStore(folder)
    assert again.get(finished) == before
    with again.open_result(finished) as file:
        assert file.read() == RESULT
    assert again.get(running).state == "failed"
    error = again.get(running).error
    assert error is not None
    assert error["code"] == "worker-died"
    assert "ended" in error["cause"]
    assert error["remedy"]
    with pytest.raises(NotReady, match="ended while the job ran"):
        again.open_result(running)
    assert again.take() == again.get(queued)
    assert {f"results/{finished}.result"} == {
        name for name in files(again) if not name.startswith("tasks/")
    }
    again.close()


def test_a_result_that_came_in_time_counts_after_a_crash(folder: Path) -> None:
    """Killed between the renaming of the file and the writing of the record."""
    store = JobStore(folder)
    job_id = add(store)
    store.take()
    os.replace(part_of(store, job_id), store.result_path(job_id))
    crash(store)
    again = JobStore(folder)
    job = again.get(job_id)
    assert job.state == "done"
    assert job.result_bytes == len(RESULT)
    assert job.report == {"seconds": 1.5, "odd": None}
    again.close()


def test_an_unreadable_result_is_not_passed_off_as_one(folder: Path) -> None:
    store = JobStore(folder)
    job_id = add(store)
    store.take()
    store.result_path(job_id).write_bytes(b"rubbish")
    crash(store)
    again = JobStore(folder)
    assert again.get(job_id).state == "failed"
    again.close()


def test_files_removed_by_hand_are_told(folder: Path) -> None:
    store = JobStore(folder)
    no_result, nothing, no_task = done(store), done(store), add(store)
    store.result_path(no_result).unlink()
    store.result_path(nothing).unlink()
    store.task_path(nothing).unlink()
    store.task_path(no_task).unlink()
    with pytest.raises(NotFound, match="removed"):
        store.open_result(no_result)
    crash(store)
    again = JobStore(folder)
    assert {job.id: job.state for job in again.all()} == {no_result: "failed", no_task: "failed"}
    again.close()


def test_only_our_own_stray_files_are_removed(folder: Path) -> None:
    store = JobStore(folder)
    job_id = done(store)
    crash(store)
    ours = [
        folder / "tasks" / f"{'0' * 32}.task",  # and no task at all
        folder / "results" / f"{'1' * 32}.result",
        folder / "incoming" / f"{'2' * 32}.part",
        folder / "incoming" / f"{job_id}-0a1b2c3d.part",
        folder / "logs" / f"{'3' * 32}.log",
    ]
    theirs = [
        folder / "results" / "thesis.pdf",
        folder / "tasks" / "notes.task",
        folder / "logs" / "server.log",
    ]
    for path in [*ours, *theirs]:
        path.write_bytes(b"x")
    again = JobStore(folder)
    assert [path.exists() for path in ours] == [False] * 5
    assert [path.exists() for path in theirs] == [True] * 3
    assert [job.id for job in again.all()] == [job_id]
    assert again.result_path(job_id).exists()
    again.close()


def test_jobs_are_found_again_when_the_database_is_lost(folder: Path) -> None:
    store = JobStore(folder)
    finished = done(store)
    waiting = add(store, body=task_bytes("Stuhl \ud800 ä", seed=3))
    before = store.get(finished)
    crash(store)
    for path in folder.glob("jobs.sqlite*"):
        path.unlink()
    again = JobStore(folder)
    assert {job.id for job in again.all()} == {finished, waiting}
    found = again.get(finished)
    assert found.state == "done"
    assert (found.kind, found.model) == (before.kind, before.model)
    assert (found.result_bytes, found.task_bytes) == (before.result_bytes, before.task_bytes)
    with again.open_result(finished) as file:
        assert file.read() == RESULT
    assert again.get(waiting).state == "failed"
    assert again.get(waiting).name == "Stuhl ? ä"
    assert again.task_path(waiting).exists()
    again.close()
    once_more = JobStore(folder)
    assert once_more.get(finished) == found
    once_more.close()


def test_one_unreadable_record_takes_nothing_with_it(folder: Path) -> None:
    store = JobStore(folder)
    kept, hurt = done(store), done(store)
    store._database.execute("INSERT INTO jobs VALUES ('x', '{')")
    store._database.execute("UPDATE jobs SET record = '{\"id\": 1}' WHERE id = ?", (hurt,))
    crash(store)
    again = JobStore(folder)
    assert {job.id: job.state for job in again.all()} == {kept: "done", hurt: "done"}
    again.close()


def test_a_newer_or_damaged_database_is_left_alone(folder: Path) -> None:
    store = JobStore(folder)
    job_id = done(store)
    store._database.execute("PRAGMA user_version=99")
    crash(store)
    with pytest.raises(StorageFailed, match="newer version"):
        JobStore(folder)
    (folder / "jobs.sqlite").write_bytes(b"no database at all " * 100)
    for name in ("jobs.sqlite-wal", "jobs.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(StorageFailed, match="damaged"):
        JobStore(folder)
    assert (folder / "jobs.sqlite").read_bytes().startswith(b"no database")
    assert store.result_path(job_id).read_bytes() == RESULT


def test_two_stores_cannot_share_a_folder(store: JobStore) -> None:
    with pytest.raises(StorageFailed, match="Another Fieldforge backend") as told:
        JobStore(store.folder)
    assert told.value.remedy
    assert add(store)


# ----------------------------------------------------------------------------------------- limits


def test_old_results_go_first_and_the_newest_stays(folder: Path) -> None:
    store = JobStore(folder, keep_bytes=100_000)
    ids = [done(store, 30_000) for _ in range(6)]
    kept = [job.id for job in store.all()][::-1]
    assert kept == ids[-len(kept) :]
    assert 2 <= len(kept) < 6
    assert sum(job.task_bytes + job.result_bytes for job in store.all()) <= 100_000
    large = done(store, 200_000)
    assert [job.id for job in store.all()] == [large]
    assert files(store) == {f"tasks/{large}.task", f"results/{large}.result"}
    store.close()


def test_waiting_and_running_jobs_are_never_pruned(folder: Path) -> None:
    store = JobStore(folder, keep_bytes=0, keep_jobs=1)
    running = add(store)
    store.take()
    finished = [add(store) for _ in range(3)]
    queued = [add(store) for _ in range(2)]
    for job_id in finished:
        taken = store.take()
        assert taken is not None
        assert taken.id == job_id
        assert finish(store, job_id)
    assert {job.id for job in store.all()} == {running, *queued, finished[-1]}
    assert finish(store, running)
    assert {job.id for job in store.all()} == {running, *queued}
    store.close()


# ------------------------------------------------------------------------------------------- disks


@contextmanager
def plain_user() -> Iterator[None]:
    """Root may write everywhere, so for a while this process is nobody."""
    if sys.platform == "win32" or os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    with plain_user(), pytest.raises(StorageFailed, match="may not be written") as told:
        JobStore(folder / "data")
    assert str(folder) in told.value.cause
    assert "another data folder" in told.value.remedy
    assert list(folder.iterdir()) == []


def test_a_folder_that_became_read_only(tmp_path: Path) -> None:
    JobStore(tmp_path / "data").close()
    for path in [*(tmp_path / "data").rglob("*"), tmp_path / "data"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with plain_user(), pytest.raises(StorageFailed) as told:
        JobStore(tmp_path / "data")
    assert told.value.remedy
    for path in [tmp_path / "data", *(tmp_path / "data").iterdir()]:
        path.chmod(0o755)


def test_a_folder_inside_a_file_or_of_the_system(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for folder in (file, file / "data", Path("/proc/fieldforge"), Path("/sys/fieldforge")):
        with pytest.raises(StorageFailed) as told:
            JobStore(folder)
        assert str(folder) in told.value.cause
        assert told.value.remedy
    assert file.read_text() == "mine"


def test_a_full_disk_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("backend.jobs.os.fsync", full)
    with pytest.raises(StorageFailed, match="is full") as told:
        JobStore(tmp_path / "data")
    assert "Free some space" in told.value.remedy
    monkeypatch.undo()
    JobStore(tmp_path / "data").close()


def test_a_disk_that_fills_up_loses_nothing(folder: Path) -> None:
    """SQLite itself reports a full disk once its pages are limited."""
    store = JobStore(folder)
    ids = [done(store), add(store)]
    store.take()
    pages = store._database.execute("PRAGMA page_count").fetchone()[0]
    store._database.execute(f"PRAGMA max_page_count={pages}")
    report = {"text": "x" * 100_000}
    assert store.finish(ids[1], part_of(store, ids[1]), report)
    assert store.get(ids[1]).state == "done"
    with pytest.raises(StorageFailed, match="is full"):
        add(store, "x" * 100_000)
    assert len(store.all()) == 2
    assert len(files(store)) == 4
    crash(store)

    again = JobStore(folder)
    assert {job.id: job.state for job in again.all()} == dict.fromkeys(ids, "done")
    for job_id in ids:
        with again.open_result(job_id) as file:
            assert file.read() == RESULT
    again.close()


def test_deleting_frees_a_full_disk(folder: Path) -> None:
    store = JobStore(folder)
    job_id = done(store)
    execute = store._database

    class Full:
        def execute(self, *args: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

    store._database = Full()  # type: ignore[assignment]
    store.delete(job_id)
    assert files(store) == set()
    assert store.find(job_id) is None
    store._database = execute
    crash(store)
    again = JobStore(folder)
    assert again.all() == []
    again.close()


def test_a_result_that_cannot_be_kept_fails_its_job(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = add(store)
    store.take()
    part = part_of(store, job_id)

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("backend.jobs.os.replace", full)
    assert store.finish(job_id, part, {})
    monkeypatch.undo()
    job = store.get(job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "storage"
    assert "is full" in job.error["cause"]
    assert not part.exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "x"), "full"),
        (OSError(errno.EDQUOT, "x"), "quota"),
        (OSError(errno.EROFS, "x"), "read-only"),
        (OSError(errno.EACCES, "x"), "may not be written"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (sqlite3.OperationalError("database or disk is full"), "full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "may not be written"),
        (sqlite3.OperationalError("disk I/O error"), "disk I/O error"),
    ],
)
def test_every_failure_of_a_disk_has_cause_and_remedy(
    error: OSError | sqlite3.Error, words: str
) -> None:
    told = storage_failed(error, Path("/data/Größe"))
    assert words in told.cause
    assert "/data/Größe" in told.cause
    assert told.remedy
    assert told.status == 507
