"""Servers for the tests: one in a thread of this process, one as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from backend import server
from backend.protocol import PointsToMesh, encode_task

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOKEN = "token-of-the-tests"
ENTRY = "sample_pipelines:run"
FINAL = {"done", "failed", "cancelled"}


def task_bytes(name: str = "quick", points: int = 60, **fields: Any) -> bytes:
    cloud = np.random.default_rng(7).normal(size=(points, 3)).astype(np.float32)
    return encode_task(PointsToMesh(name=name, points=cloud, **fields))


class Talk:
    """What the tests say to a server."""

    def __init__(self, url: str, token: str = TOKEN) -> None:
        self.url = url
        self.http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=20, trust_env=False
        )

    def submit(self, name: str = "quick", **fields: Any) -> str:
        answer = self.http.post("/v1/jobs", content=task_bytes(name, **fields))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, job_id: str, *states: str, seconds: float = 20) -> dict[str, Any]:
        """The record once the job is in one of `states` (any final one if none is given)."""
        end = time.monotonic() + seconds
        while (job := self.job(job_id))["state"] not in (states or FINAL):
            assert time.monotonic() < end, job
            time.sleep(0.01)
        return job

    def wait_stage(self, job_id: str, stage: str, seconds: float = 20) -> dict[str, Any]:
        """The record once the pipeline itself has spoken."""
        end = time.monotonic() + seconds
        while (job := self.job(job_id))["stage"] != stage:
            assert time.monotonic() < end, job
            assert job["state"] not in FINAL, job
            time.sleep(0.01)
        return job

    def run(self, name: str, **fields: Any) -> dict[str, Any]:
        return self.wait(self.submit(name, **fields))

    def events(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and record of each server-sent event, to the end of the stream."""
        with self.http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))


class Threaded(Talk):
    """A server in a thread, with its parts in reach."""

    def __init__(self, url: str, backend: server.Backend) -> None:
        super().__init__(url)
        self.backend = backend
        self.store = backend.store


@contextlib.contextmanager
def threaded_server(data: Path, **settings: Any) -> Iterator[Threaded]:
    app = server.create_app(
        server.Settings(**{"data": data, "token": TOKEN, "entry": ENTRY, **settings})
    )
    address = server._bind("127.0.0.1", 0)
    ready = threading.Event()
    running = server._make_server(app, ready.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [address.listener]})
    thread.start()
    try:
        assert ready.wait(20)
        talk = Threaded(address.url, app.state.backend)
        with talk.http:
            yield talk
    finally:
        running.end_soon()
        thread.join(20)
        address.listener.close()
        assert not thread.is_alive()


class Process(Talk):
    """A server as a process of its own, as Blender starts it."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any]) -> None:
        super().__init__(ready["url"], ready.get("token", TOKEN))
        self.process = process
        self.ready = ready

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


SERVE = """
import json, sys
from backend.errors import FieldforgeError
from backend.server import serve
if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    limit = options.pop("file_bytes", None)
    if limit is not None:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        sys.exit(serve(**options))
    except FieldforgeError as error:
        print(json.dumps(error.to_dict()))
        sys.exit(error.exit_code)
"""


def start_process(
    environment: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start `serve(**options)`; file_bytes limits the size of files that it may write."""
    options = {"token": TOKEN, "entry": ENTRY, "warm": False, **options}
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    variables.pop("FIELDFORGE_TOKEN", None)
    return subprocess.Popen(
        [sys.executable, "-c", SERVE, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE,
        env={**variables, **(environment or {})},
    )


StartServer = Callable[..., Process]
