"""What the tests of the server share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
# Worker processes take over this path, and find `sample_pipelines` on it.
sys.path[:0] = [path for path in (str(HERE), str(HERE.parent.parent)) if path not in sys.path]

from running_servers import Process, StartServer, Threaded, start_process, threaded_server  # noqa: E402


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    """One server for all tests of a module. Its folder has a space and letters beyond ASCII."""
    folder = tmp_path_factory.mktemp("server") / "Größe und Maß 形"
    with threaded_server(folder, keep_alive_seconds=0.1, max_body_bytes=1 << 20) as running:
        yield running


@pytest.fixture
def talk(shared_server: Threaded) -> Iterator[Threaded]:
    """The server of the module; no job of a test goes on after it."""
    yield shared_server
    for job in shared_server.store.all():
        shared_server.store.cancel(job.id)
    shared_server.backend.pool.wake()


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start servers as processes; what still runs at the end of the test is killed."""
    started: list[Process] = []

    def start(**options: Any) -> Process:
        process = start_process(**options)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.wait(10)
        running = Process(process, json.loads(line))
        started.append(running)
        return running

    yield start
    for running in started:
        running.http.close()
        running.process.kill()
        running.process.wait(10)
        for pipe in (running.process.stdin, running.process.stdout):
            if pipe is not None:
                pipe.close()
