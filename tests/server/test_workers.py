"""Worker processes: what ends them, what they say when they fail, and how fast they let go."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running_servers import Talk, Threaded, threaded_server

from backend import pipelines, protocol, workers
from backend.bench import known_things
from backend.geometry import sphere, texture_baking, view_colors, view_fusion, view_scales
from backend.parent import process_lives

_open: list[Any] = []
"""Pipes that must not be closed: their reader would end this process."""
needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")


def worker_pid(talk: Threaded) -> int:
    """The process id of the one worker; it is started when the first job comes at the latest."""
    return int(talk.run("about")["report"]["pid"])


def wait_until_gone(pid: int, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while process_lives(pid):
        assert time.monotonic() < end, f"process {pid} still lives"
        time.sleep(0.01)


# ---------------------------------------------------------------- the normal way


def test_jobs_run_in_another_process_that_stays(talk: Threaded) -> None:
    first, second = talk.run("about")["report"], talk.run("about", points=77)["report"]
    assert first["pid"] == second["pid"] != os.getpid()
    assert talk.backend.pool.pids() == [first["pid"]]
    assert second["points"] == 77
    assert first["main"] is True
    assert first["device"] == "auto"
    assert first["torch"] is False
    assert 1 <= int(first["threads"]) <= (os.cpu_count() or 1)


def test_what_a_pipeline_prints_goes_to_the_log(talk: Threaded) -> None:
    assert talk.run("odd")["state"] == "done"
    log = (talk.store.folder / "logs" / "worker-0.log").read_text()
    assert "this goes to the log" in log
    assert "this too" in log


def test_two_workers_work_at_once(tmp_path: Path) -> None:
    with threaded_server(tmp_path, workers=2) as talk:
        ids = [talk.submit("patient") for _ in range(3)]
        for job_id in ids[:2]:
            talk.wait_stage(job_id, "Waiting")
        assert talk.job(ids[2])["state"] == "queued"
        assert len(set(talk.backend.pool.pids())) == 2
        talk.http.post(f"/v1/jobs/{ids[0]}/cancel")
        talk.wait_stage(ids[2], "Waiting")
        assert talk.job(ids[1])["state"] == "running"


def test_a_worker_that_is_warm_tells_its_device(tmp_path: Path) -> None:
    with threaded_server(tmp_path, warm=True, device="cpu") as talk:
        end = time.monotonic() + 20
        while (health := talk.http.get("/v1/health").json())["device_name"] is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert health["device"] == "cpu"
        assert talk.run("quick")["state"] == "done"


def test_warming_up_covers_panoramas_and_views_beside_the_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[protocol.Task, threading.Thread]] = []

    def run(task: protocol.Task) -> Iterator[object]:
        asked.append((task, threading.current_thread()))
        return iter(())

    monkeypatch.setattr(pipelines, "run", run)
    here, there = multiprocessing.Pipe()
    with here, there:
        workers._warm_up(there, workers.WorkerOptions(device="cpu"))
        assert workers._receive(here)["device"]["kind"] == "cpu"
    for thread in threading.enumerate():
        if thread not in (threading.main_thread(), threading.current_thread()) and thread.daemon:
            thread.join(10)
    (ball, first), (around, second), (views, third) = asked
    assert isinstance(ball, protocol.PointsToMesh)
    assert isinstance(around, protocol.PanoramaToStereo)
    assert isinstance(views, protocol.ViewsToScene)
    assert first is threading.current_thread() is not second
    assert second is third


def test_what_warms_up_has_all_that_views_are_made_into_meshes_with(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Nothing is left to compile for a real job."""
    kernels = {
        f"{module.__name__}.{name}": kernel
        for module in (view_fusion, view_colors, view_scales, texture_baking)
        for name, kernel in vars(module).items()
        if hasattr(kernel, "signatures")
    }
    workers._warm_up_views()
    assert capfd.readouterr().err == ""
    compiled = {name: list(kernel.signatures) for name, kernel in kernels.items()}
    shown = known_things.show("cup", known_things.all_around(8), 48)
    views = protocol.ViewsToScene(
        images=shown.images,
        depths=shown.depths * np.linspace(1, 1.04, 8, dtype=np.float32)[:, None, None],
        poses=shown.poses,
        intrinsics=shown.intrinsics,
    )
    *_, result = pipelines.run(views)
    assert "even" in result.report["warnings"][0]
    assert {name: list(kernel.signatures) for name, kernel in kernels.items()} == compiled


def test_a_job_that_waits_for_its_worker_to_be_ready_says_so() -> None:
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    warming = threading.Lock()
    here, there = multiprocessing.Pipe()
    with warming:
        reader = threading.Thread(
            target=workers._read_orders, args=(there, orders, warming), daemon=True
        )
        reader.start()
        workers._send(here, {"run": "first"})
        assert here.poll(10)
        told = workers._receive(here)
        assert told == {"progress": "first", "stage": "Getting ready", "fraction": 0.0}
    workers._send(here, {"run": "second"})
    assert [orders.get(timeout=10)[0]["run"] for _ in range(2)] == ["first", "second"]
    assert not here.poll(0.1)  # it is ready
    _open.append((here, there))


def test_what_warms_up_has_all_that_panoramas_are_made_of(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sky, jumps and what is behind them: else the first real job compiles the rest."""
    built: list[protocol.SphereResult] = []
    build = sphere.build

    def watched(*arguments: Any) -> protocol.SphereResult:
        built.append(build(*arguments))
        return built[-1]

    monkeypatch.setattr(sphere, "build", watched)
    workers._warm_up_spheres()
    assert capfd.readouterr().err == ""
    assert [layer.layer for layer in built[0].layers] == ["front", "backing", "sky"]
    assert all(len(layer.corners) for layer in built[0].layers)
    assert built[0].layers[0].triangles > 512  # of split quads too, not of the pole alone


# ---------------------------------------------------------------- cancelling


@pytest.mark.parametrize(
    ("name", "stage"), [("patient", "Waiting"), ("relentless", "Looping"), ("deaf", None)]
)
def test_a_cancelled_job_has_stopped_within_a_second(
    talk: Threaded, name: str, stage: str | None
) -> None:
    pid = worker_pid(talk)
    job_id = talk.submit(name)
    if stage:
        talk.wait_stage(job_id, stage)
    else:
        talk.wait(job_id, "running")
        time.sleep(0.1)
    next_id = talk.submit("about")
    begun = time.monotonic()
    answer = talk.http.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.json()["state"] == "cancelled"
    assert talk.job(job_id)["state"] == "cancelled"
    if name != "patient":
        wait_until_gone(pid)
    assert time.monotonic() - begun < 1.0
    after = talk.wait(next_id)
    assert after["state"] == "done"
    assert after["started"] - answer.json()["finished"] < 1.0
    assert (after["report"]["pid"] == pid) == (name == "patient")
    assert talk.job(job_id)["state"] == "cancelled"
    assert list((talk.store.folder / "incoming").iterdir()) == []


def test_cancelling_twice_is_the_same_as_once(talk: Threaded) -> None:
    job_id = talk.submit("patient")
    talk.wait_stage(job_id, "Waiting")
    first = talk.http.post(f"/v1/jobs/{job_id}/cancel")
    second = talk.http.post(f"/v1/jobs/{job_id}/cancel")
    assert first.status_code == second.status_code == 200
    assert first.json() == second.json()
    assert talk.run("quick")["state"] == "done"


def test_a_waiting_job_that_was_cancelled_never_starts(talk: Threaded) -> None:
    running = talk.submit("patient")
    talk.wait_stage(running, "Waiting")
    waiting = talk.submit("quick")
    assert talk.http.post(f"/v1/jobs/{waiting}/cancel").json()["state"] == "cancelled"
    talk.http.post(f"/v1/jobs/{running}/cancel")
    assert talk.run("quick")["state"] == "done"
    record = talk.job(waiting)
    assert (record["state"], record["started"]) == ("cancelled", None)


@pytest.mark.parametrize("name", ["patient", "relentless"])
def test_deleting_a_running_job_stops_it(talk: Threaded, name: str) -> None:
    job_id = talk.submit(name)
    talk.wait(job_id, "running")
    begun = time.monotonic()
    assert talk.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert talk.http.get(f"/v1/jobs/{job_id}").status_code == 404
    assert talk.run("quick")["state"] == "done"
    assert time.monotonic() - begun < 3.0
    assert not list(talk.store.folder.rglob(f"{job_id}*"))


@settings(max_examples=15)
@given(
    delay=st.floats(0, 0.03),
    ends=st.lists(st.sampled_from(["cancel", "delete"]), min_size=1, max_size=3),
)
def test_cancelling_at_any_moment_leaves_one_true_state(
    shared_server: Threaded, delay: float, ends: list[str]
) -> None:
    """Also just as the job is taken, or just as it finishes."""
    talk = shared_server
    job_id = talk.submit("quick")
    time.sleep(delay)
    answers: list[Any] = []

    def act(end: str) -> None:
        if end == "cancel":
            answers.append(talk.http.post(f"/v1/jobs/{job_id}/cancel"))
        else:
            answers.append(talk.http.delete(f"/v1/jobs/{job_id}"))

    threads = [threading.Thread(target=act, args=(end,)) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer.status_code in (200, 204, 404) for answer in answers)
    assert sum(answer.status_code == 204 for answer in answers) == ("delete" in ends)
    states = {answer.json()["state"] for answer in answers if answer.status_code == 200}
    assert len(states) <= 1
    assert states <= {"done", "cancelled"}
    assert talk.run("quick")["state"] == "done"
    if "delete" in ends:
        assert talk.http.get(f"/v1/jobs/{job_id}").status_code == 404
        assert not list(talk.store.folder.rglob(f"{job_id}*"))
    else:
        assert {talk.job(job_id)["state"]} == states
        assert talk.store.result_path(job_id).exists() == (states == {"done"})


# ---------------------------------------------------------------- it fails


@needs_signals
def test_kill_9_fails_the_job_and_nothing_else(talk: Threaded) -> None:
    pid = worker_pid(talk)
    job_id = talk.submit("patient")
    talk.wait_stage(job_id, "Waiting")
    next_id = talk.submit("about")
    os.kill(pid, signal.SIGKILL)
    record = talk.wait(job_id)
    assert record["state"] == "failed"
    assert record["error"]["code"] == "worker-died"
    assert "SIGKILL" in record["error"]["cause"]
    assert "memory" in record["error"]["cause"]
    assert "Lower the resolution" in record["error"]["remedy"]
    after = talk.wait(next_id)
    assert after["state"] == "done"
    assert after["report"]["pid"] != pid


@needs_signals
def test_a_worker_killed_while_idle_is_replaced(talk: Threaded) -> None:
    pid = worker_pid(talk)
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    after = talk.run("about")
    assert after["state"] == "done"
    assert after["report"]["pid"] != pid


@needs_signals
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ended:0", "ended by itself (exit code 0)"),
        ("ended:3", "ended by itself (exit code 3)"),
        (f"killed:{signal.SIGSEGV.value}", "crashed (SIGSEGV)"),
        (f"killed:{signal.SIGTERM.value}", "crashed (SIGTERM)"),
    ],
)
def test_a_worker_that_ends_says_how(talk: Threaded, name: str, words: str) -> None:
    record = talk.run(name)
    assert record["state"] == "failed"
    assert record["error"]["code"] == "worker-died"
    assert words in record["error"]["cause"]
    log = talk.store.folder / "logs" / "worker-0.log"
    assert str(log) in record["error"]["remedy"]
    if "SIGSEGV" in words:
        assert "Segmentation fault" in log.read_text()
        assert "sample_pipelines.py" in log.read_text()
    assert talk.run("quick")["state"] == "done"


@pytest.mark.parametrize("name", ["memory", "torch_memory"])
def test_too_little_memory_is_told_and_the_memory_given_back(talk: Threaded, name: str) -> None:
    pid = worker_pid(talk)
    record = talk.run(name)
    assert record["state"] == "failed"
    assert record["error"]["code"] == "out-of-memory"
    assert "Lower the resolution" in record["error"]["remedy"]
    assert worker_pid(talk) != pid


def test_a_fault_is_kept_with_its_traceback(talk: Threaded) -> None:
    record = talk.run("fault")
    assert record["state"] == "failed"
    assert record["error"]["code"] == "internal"
    assert "ZeroDivisionError" in record["error"]["cause"]
    log = talk.store.log_path(record["id"])
    assert str(log) in record["error"]["remedy"]
    text = log.read_text(encoding="utf-8")
    assert "Traceback" in text
    assert "a fault of ours" in text
    assert "sample_pipelines.py" in text
    talk.http.delete(f"/v1/jobs/{record['id']}")
    assert not log.exists()


@pytest.mark.parametrize(("name", "code"), [("told", "bad-input"), ("told:large", "too-large")])
def test_what_a_pipeline_tells_comes_through_unchanged(
    talk: Threaded, name: str, code: str
) -> None:
    record = talk.run(name)
    assert record["state"] == "failed"
    assert record["error"] == {
        "code": code,
        "cause": "The cloud is odd.",
        "remedy": "Even it out.",
    }
    assert not talk.store.log_path(record["id"]).exists()


@pytest.mark.parametrize("name", ["nothing", "no such pipeline"])
def test_a_pipeline_without_a_result_is_a_fault(talk: Threaded, name: str) -> None:
    record = talk.run(name)
    assert record["state"] == "failed"
    assert record["error"]["code"] == "internal"
    assert talk.run("quick")["state"] == "done"


@pytest.mark.parametrize("entry", ["no_such_module:run", "sample_pipelines:no_such_function"])
def test_an_entry_that_does_not_exist_fails_each_job(tmp_path: Path, entry: str) -> None:
    with threaded_server(tmp_path, entry=entry) as talk:
        for _ in range(2):
            record = talk.run("quick")
            assert record["state"] == "failed"
            assert record["error"]["code"] == "internal"


def test_results_have_a_limit(tmp_path: Path) -> None:
    with threaded_server(tmp_path, max_result_bytes=10_000) as talk:
        record = talk.run("quick:1000")
        assert record["state"] == "failed"
        assert record["error"]["code"] == "too-large"
        assert "Lower the resolution" in record["error"]["remedy"]
        assert talk.run("quick")["state"] == "done"
        assert list((tmp_path / "incoming").iterdir()) == []


def test_a_large_result_comes_back_whole(talk: Threaded) -> None:
    record = talk.run("quick:200000")
    body = talk.http.get(f"/v1/jobs/{record['id']}/result").content
    result = protocol.decode_result(body)
    assert result.faces.shape == (200_000, 3)
    assert result.vertices.shape == (100_000, 3)
    assert result.faces[-1].tolist() == [(599_997 + k) % 100_000 for k in range(3)]


# ---------------------------------------------------------------- the end


def test_closing_ends_workers_and_tells_why_jobs_failed(tmp_path: Path) -> None:
    with threaded_server(tmp_path) as talk:
        running, waiting = talk.submit("relentless"), talk.submit("quick")
        talk.wait_stage(running, "Looping")
        pids = talk.backend.pool.pids()
        follower = Talk(talk.url)
        events = follower.events(running)
        assert next(events)[0] == "state"
        begun = time.monotonic()
    assert time.monotonic() - begun < 2.0
    assert {record["state"] for _, record in events} <= {"running", "failed"}
    follower.http.close()
    for pid in pids:
        assert not process_lives(pid)
    with threaded_server(tmp_path) as talk:
        record = talk.job(running)
        assert record["state"] == "failed"
        assert "closed" in record["error"]["cause"]
        assert talk.wait(waiting)["state"] == "done"


def test_out_of_memory_is_known_by_name() -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch.cuda has it."""

    assert workers._is_out_of_memory(OutOfMemoryError("CUDA out of memory"))
    assert workers._is_out_of_memory(MemoryError())
    windows = "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate .."
    assert workers._is_out_of_memory(RuntimeError(windows))
    assert not workers._is_out_of_memory(RuntimeError("shapes differ"))


def test_progress_is_thinned_but_no_stage_is_lost() -> None:
    sent: list[dict[str, Any]] = []

    class Pipe:
        def send_bytes(self, body: bytes) -> None:
            sent.append(workers.from_json(body))

    def flood() -> Any:
        for stage in ("One", "Two", "Three"):
            for k in range(20_000):
                yield protocol.Progress(stage, k / 20_000)
        yield protocol.MeshResult()

    workers._last(flood(), "a" * 32, Pipe())  # type: ignore[arg-type]
    assert list(dict.fromkeys(message["stage"] for message in sent)) == ["One", "Two", "Three"]
    assert 3 * 190 <= len(sent) <= 3 * 320
