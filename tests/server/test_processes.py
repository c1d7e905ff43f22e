"""Servers as processes: they end with their parent, leave no orphans, and lose no jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running_servers import TOKEN, StartServer, start_process

from backend import protocol
from backend.parent import process_lives

FOLDER = "Größe und Maß 形"


def wait_until_gone(pid: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while process_lives(pid):
        assert time.monotonic() < end, f"process {pid} still lives"
        time.sleep(0.01)


def test_the_line_that_says_ready(start_server: StartServer, tmp_path: Path) -> None:
    named = start_server(data=str(tmp_path / "a"))
    assert set(named.ready) == {"url", "version", "protocol", "pid"}
    assert named.ready["pid"] == named.process.pid
    assert named.ready["protocol"] == protocol.PROTOCOL_VERSION
    assert named.ready["url"].startswith("http://127.0.0.1:")
    assert named.http.get("/v1/jobs").status_code == 200

    unnamed = start_server(data=str(tmp_path / "b"), token=None)
    assert len(unnamed.ready["token"]) >= 32
    assert unnamed.http.get("/v1/jobs").status_code == 200
    assert unnamed.ready["url"] != named.ready["url"]

    quiet = start_server(
        data=str(tmp_path / "c"), token=None, environment={"FIELDFORGE_TOKEN": TOKEN}
    )
    assert "token" not in quiet.ready
    assert quiet.http.get("/v1/jobs").status_code == 200


def test_kill_9_of_the_server_leaves_no_orphan_and_loses_no_job(
    start_server: StartServer, tmp_path: Path
) -> None:
    first = start_server(data=str(tmp_path / FOLDER))
    done = first.run("quick:40")
    body = first.http.get(f"/v1/jobs/{done['id']}/result").content
    worker = first.run("about")["report"]["pid"]
    running, waiting = first.submit("relentless"), first.submit("quick")
    first.wait_stage(running, "Looping")
    assert process_lives(worker)
    first.kill()
    wait_until_gone(worker, 2)

    second = start_server(data=str(tmp_path / FOLDER))
    assert second.job(done["id"]) == done
    assert second.http.get(f"/v1/jobs/{done['id']}/result").content == body
    record = second.job(running)
    assert record["state"] == "failed"
    assert record["error"]["code"] == "worker-died"
    assert "ended while the job ran" in record["error"]["cause"]
    assert second.wait(waiting)["state"] == "done"
    listed = [job["id"] for job in second.http.get("/v1/jobs").json()["jobs"]]
    assert listed[:2] == [waiting, running]
    assert listed[-1] == done["id"]


def test_it_ends_when_its_stdin_ends(start_server: StartServer, tmp_path: Path) -> None:
    running = start_server(data=str(tmp_path), exit_with_stdin=True)
    worker = running.run("about")["report"]["pid"]
    job_id = running.submit("relentless")
    running.wait_stage(job_id, "Looping")
    assert running.process.stdin is not None
    running.process.stdin.close()
    begun = time.monotonic()
    assert running.process.wait(10) == 0
    assert time.monotonic() - begun < 2.0
    assert not process_lives(worker)


def test_it_ends_when_its_parent_is_gone(start_server: StartServer, tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    running = start_server(data=str(tmp_path), parent_pid=parent.pid)
    worker = running.run("about")["report"]["pid"]
    time.sleep(0.3)
    assert running.process.poll() is None
    parent.kill()  # and not waited for: a zombie counts as gone
    begun = time.monotonic()
    assert running.process.wait(10) == 0
    assert time.monotonic() - begun < 2.0
    assert not process_lives(worker)
    parent.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_after_a_signal(
    start_server: StartServer, tmp_path: Path, number: int
) -> None:
    running = start_server(data=str(tmp_path))
    worker = running.run("about")["report"]["pid"]
    os.kill(running.process.pid, number)
    assert running.process.wait(5) == 0
    assert not process_lives(worker)


def test_two_servers_cannot_share_a_data_folder(start_server: StartServer, tmp_path: Path) -> None:
    running = start_server(data=str(tmp_path))
    other = start_process(data=str(tmp_path))
    output, _ = other.communicate(timeout=20)
    assert other.returncode == 1
    assert json.loads(output)["code"] == "storage"
    assert "Another Fieldforge backend" in output
    assert running.run("quick")["state"] == "done"


def test_a_disk_that_takes_no_more(start_server: StartServer, tmp_path: Path) -> None:
    """A limit of the system makes real writes fail, of uploads and of results alike."""
    running = start_server(data=str(tmp_path), file_bytes=300_000)
    answer = running.http.post(
        "/v1/jobs", content=protocol.pack({}, {"name": "x" * 400_000, "protocol": 1})
    )
    assert answer.status_code == 507
    assert answer.json()["error"]["code"] == "storage"
    assert answer.json()["error"]["remedy"]
    record = running.run("quick:50000")
    assert record["state"] == "failed"
    assert record["error"]["code"] == "storage"
    assert str(tmp_path) in record["error"]["cause"]
    assert running.run("quick")["state"] == "done"
    assert list((tmp_path / "incoming").iterdir()) == []
    assert [path.stem for path in (tmp_path / "results").iterdir()] == [
        running.http.get("/v1/jobs").json()["jobs"][0]["id"]
    ]


@pytest.mark.parametrize("file_bytes", [0, 1000])
def test_a_disk_that_is_full_from_the_start(tmp_path: Path, file_bytes: int) -> None:
    process = start_process(data=str(tmp_path / "data"), file_bytes=file_bytes)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    error = json.loads(output)
    assert error["code"] == "storage"
    assert str(tmp_path / "data") in error["cause"]
    assert error["remedy"]


def test_a_data_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    process = start_process(data=str(tmp_path / "file" / "data"))
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert json.loads(output)["code"] == "storage"
    assert (tmp_path / "file").read_text() == "mine"


def test_processes_that_live_and_that_do_not() -> None:
    assert process_lives(os.getpid())
    assert not process_lives(0)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(10)
    assert not process_lives(child.pid)
