"""`run --server`: the same command, done by a backend elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend import errors, remote
from backend.protocol import MeshResult, PointsToMesh, decode_task, encode_result
from tests.command_line.input_files import ball, write_ply

ROOT = Path(__file__).resolve().parents[2]
RUNNING = {"id": "j1", "state": "running", "stage": "Solving", "fraction": 0.5, "error": None}


class Backend(ThreadingHTTPServer):
    """Answers as /v1 does. answers: path -> list of (status, body), the last one repeats."""

    def __init__(self, answers: dict[str, list[tuple[int, Any]]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.asked: list[tuple[str, str | None, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Backend

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        key = f"{self.command} {self.path}"
        token = self.headers.get("Authorization")
        self.server.asked.append((key, token, self.rfile.read(length)))
        queue = self.server.answers[key]
        status, body = queue.pop(0) if len(queue) > 1 else queue[0]
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815 (the name that http.server looks for)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr: the tests look at what is there."""


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Backend]]:
    started: list[Backend] = []
    monkeypatch.setattr(remote, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(remote, "_PATIENCE_SECONDS", 0.3)

    def start(**answers: list[tuple[int, Any]]) -> Backend:
        paths = {"post": "POST /v1/jobs", "get": "GET /v1/jobs/j1"}
        paths |= {"result": "GET /v1/jobs/j1/result", "cancel": "POST /v1/jobs/j1/cancel"}
        server = Backend({paths[name]: list(queue) for name, queue in answers.items()})
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def a_result() -> MeshResult:
    return MeshResult(
        name="Chair",
        vertices=np.eye(3, dtype=np.float32),
        faces=np.array([[0, 1, 2]], np.int32),
        report={"device": "cuda", "seconds": {"Solving": 1.25}},
    )


def test_the_result_comes_back(
    command: Callable[..., Any], backend: Callable[..., Backend], tmp_path: Path
) -> None:
    server = backend(
        post=[(202, {**RUNNING, "state": "queued", "stage": None, "fraction": None})],
        get=[(200, RUNNING), (200, {**RUNNING, "state": "done"})],
        result=[(200, encode_result(a_result()))],
    )
    source, output = write_ply(tmp_path / "Chair.ply", ball(77)), tmp_path / "chair.npz"
    arguments = ["run", "points-to-mesh", source, "-o", output, "--server", server.url]
    done = command(*arguments, "--token", "secret", "--json")
    assert (done.code, done.err) == (0, "")
    assert (done.record["faces"], done.record["device"]) == (1, "cuda")
    assert done.record["seconds"] == {"Solving": 1.25}
    with np.load(output) as arrays:
        np.testing.assert_array_equal(arrays["vertices"], a_result().vertices)
    assert {token for _, token, _ in server.asked} == {"Bearer secret"}
    task = decode_task(server.asked[0][2])
    assert isinstance(task, PointsToMesh)
    assert (task.name, len(task.points)) == ("Chair", 77)


@pytest.mark.parametrize(
    ("status", "error", "code", "words"),
    [
        (401, errors.NotAuthorized("The token is wrong.", "Ask for it."), 2, "token is wrong"),
        (409, errors.VersionMismatch("Speaks protocol 9.", "Update."), 2, "protocol 9"),
        (413, errors.TooLarge("Too many points.", "Thin it."), 2, "Too many points"),
        (429, errors.QueueFull("Too many wait.", "Wait."), 1, "Too many wait"),
        (507, errors.StorageFailed("Its disk is full.", "Make room."), 1, "disk is full"),
    ],
)
def test_what_the_server_refuses_is_told_as_it_says_it(
    command: Callable[..., Any],
    backend: Callable[..., Backend],
    tmp_path: Path,
    status: int,
    error: errors.FieldforgeError,
    code: int,
    words: str,
) -> None:
    server = backend(post=[(status, {"error": error.to_dict()})])
    source, output = write_ply(tmp_path / "a.ply", ball()), tmp_path / "a.glb"
    done = command("run", "points-to-mesh", source, "-o", output, "--server", server.url)
    assert done.code == code
    assert words in done.err
    assert not output.exists()


def test_a_job_that_fails_there_fails_here(
    command: Callable[..., Any], backend: Callable[..., Backend], tmp_path: Path
) -> None:
    died = errors.WorkerDied("The process that did the job was ended.", "Run it again.")
    failed = {**RUNNING, "state": "failed", "error": died.to_dict()}
    server = backend(post=[(202, RUNNING)], get=[(200, failed)])
    source = write_ply(tmp_path / "a.ply", ball())
    done = command(
        "run", "points-to-mesh", source, "-o", tmp_path / "a.glb", "--server", server.url
    )
    assert (done.code, done.err.strip()) == (1, str(died))


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b"[]", b'{"error": "x"}'])
def test_something_else_that_answers_is_recognised(
    command: Callable[..., Any], backend: Callable[..., Backend], tmp_path: Path, answer: bytes
) -> None:
    server = backend(post=[(404, answer)])
    source = write_ply(tmp_path / "a.ply", ball())
    done = command(
        "run", "points-to-mesh", source, "-o", tmp_path / "a.glb", "--server", server.url
    )
    assert done.code == 1
    assert "not Fieldforge" in done.err


def test_a_server_that_is_gone_in_the_middle(
    command: Callable[..., Any], backend: Callable[..., Backend], tmp_path: Path
) -> None:
    server = backend(post=[(202, RUNNING)], get=[(200, RUNNING)])
    ended = threading.Timer(0.1, lambda: (server.shutdown(), server.server_close()))
    ended.start()
    source = write_ply(tmp_path / "a.ply", ball())
    done = command(
        "run", "points-to-mesh", source, "-o", tmp_path / "a.glb", "--server", server.url
    )
    ended.join()
    assert done.code == 1
    assert f"The backend at {server.url} has gone away while the job was running." in done.err
    assert "Nothing was written." in done.err
    assert list(tmp_path.iterdir()) == [source]


def test_a_short_silence_costs_nothing(backend: Callable[..., Backend]) -> None:
    answers = [(200, RUNNING), (502, b"<html>"), (502, b""), (200, {**RUNNING, "state": "done"})]
    server = backend(post=[(202, RUNNING)], get=answers, result=[(200, encode_result(a_result()))])
    *_, result = remote.run(PointsToMesh(points=ball()), server.url, None)
    assert result.name == "Chair"


def test_another_version_of_the_backend_is_told_with_the_remedy(
    command: Callable[..., Any], backend: Callable[..., Backend], tmp_path: Path
) -> None:
    newer = encode_result(a_result()).replace(b'\\"protocol\\": 1', b'\\"protocol\\": 2')
    done = {**RUNNING, "state": "done"}
    server = backend(post=[(202, done)], result=[(200, newer)])
    source = write_ply(tmp_path / "a.ply", ball())
    told = command(
        "run", "points-to-mesh", source, "-o", tmp_path / "a.ply", "--server", server.url
    )
    assert (told.code, told.out) == (2, "")
    assert "speaks protocol 2, this one 1" in told.err
    assert "same version" in told.err
    assert len(source.read_bytes()) > 2000  # what was there is still there


def test_no_proxy_and_no_netrc_come_between_a_computer_and_itself(
    backend: Callable[..., Backend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    server = backend(post=[(202, {**RUNNING, "state": "cancelled"})])
    with pytest.raises(errors.Cancelled):
        list(remote.run(PointsToMesh(points=ball()), server.url, "secret"))
    assert server.asked[0][1] == "Bearer secret"


def test_a_redirection_does_not_take_the_task_elsewhere(backend: Callable[..., Backend]) -> None:
    server = backend(post=[(307, b"")])
    with pytest.raises(errors.Unreachable, match="not Fieldforge"):
        list(remote.run(PointsToMesh(points=ball()), server.url, "secret"))


@pytest.mark.parametrize("url", ["http://", "http://[x", "http://host:port", "127.0.0.1:80", "x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(errors.BadInput, match="not the address of a backend"):
        list(remote.run(PointsToMesh(points=ball()), url, None))


@pytest.mark.parametrize("token", ["schlüssel", "点", "a\nb"])
def test_a_token_that_cannot_be_sent(token: str) -> None:
    with pytest.raises(errors.BadInput, match="letters that cannot be sent"):
        list(remote.run(PointsToMesh(points=ball()), "http://127.0.0.1:9", token))


def test_a_bad_input_never_reaches_the_server(
    command: Callable[..., Any], backend: Callable[..., Backend], tmp_path: Path
) -> None:
    server = backend(post=[(202, RUNNING)])
    source = write_ply(tmp_path / "a.ply", ball(10))
    done = command(
        "run", "points-to-mesh", source, "-o", tmp_path / "a.glb", "--server", server.url
    )
    assert (done.code, server.asked) == (2, [])


def test_stopping_cancels_the_job_on_the_server(backend: Callable[..., Backend]) -> None:
    cancelled = {**RUNNING, "state": "cancelled"}
    server = backend(post=[(202, RUNNING)], get=[(200, RUNNING)], cancel=[(200, cancelled)])
    steps = remote.run(PointsToMesh(points=ball()), server.url, None)
    next(steps)
    steps.close()
    assert server.asked[-1][0] == "POST /v1/jobs/j1/cancel"


def test_a_job_cancelled_elsewhere_is_told(backend: Callable[..., Backend]) -> None:
    server = backend(post=[(202, RUNNING)], get=[(200, {**RUNNING, "state": "cancelled"})])
    with pytest.raises(errors.Cancelled):
        list(remote.run(PointsToMesh(points=ball()), server.url, None))


# ------------------------------------------------------------------------------- with a real server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What `serve` prints; it ends with its standard input."""
    data = tmp_path_factory.mktemp("served") / "Daten für 空"
    process = subprocess.Popen(
        [sys.executable, "-m", "backend", "serve", "--data", str(data), "--exit-with-stdin"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FIELDFORGE_INSIDE": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        try:
            process.wait(15)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_the_whole_road_over_http_gives_what_the_same_machine_gives(
    command: Callable[..., Any], served: dict[str, Any], tmp_path: Path
) -> None:
    source = write_ply(tmp_path / "Kugel.ply", 3 * ball(3000) + [5, 6, 7])
    outputs = [tmp_path / "here.npz", tmp_path / "there.npz"]
    wanted = ["run", "points-to-mesh", source, "--resolution", 128, "--json"]
    assert command(*wanted, "-o", outputs[0], "--device", "cpu").code == 0
    assert set(served["token"]) <= set("0123456789abcdef")  # never an option, as "-x" is
    server = ["--server", served["url"], "--token", served["token"]]
    done = command(*wanted, "-o", outputs[1], *server)
    assert (done.code, done.err) == (0, "")
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    with np.load(outputs[1]) as arrays:
        radii = np.linalg.norm(arrays["vertices"] - [5, 6, 7], axis=1)
    assert np.abs(radii - 3).max() < 0.06  # a cell of the grid is 0.05


@pytest.mark.parametrize("token", ["wrong", ""])
def test_a_wrong_token_is_refused(
    command: Callable[..., Any],
    served: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
) -> None:
    monkeypatch.delenv("FIELDFORGE_TOKEN", raising=False)
    source = write_ply(tmp_path / "a.ply", ball())
    arguments = ["run", "points-to-mesh", source, "-o", tmp_path / "a.glb"]
    done = command(*arguments, "--server", served["url"], "--token", token)
    assert (done.code, done.out) == (2, "")
    assert "token" in done.err


def test_nobody_at_that_address(command: Callable[..., Any], tmp_path: Path) -> None:
    source = write_ply(tmp_path / "a.ply", ball())
    arguments = ["run", "points-to-mesh", source, "-o", tmp_path / "a.glb"]
    done = command(*arguments, "--server", "http://127.0.0.1:9")
    assert (done.code, "does not answer" in done.err) == (1, True)
