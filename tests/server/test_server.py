"""The routes: tokens, limits, errors, and what a client sees of a job."""

from __future__ import annotations

import http.client
import json
import struct
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running_servers import TOKEN, Threaded, task_bytes, threaded_server

from backend import pipelines, protocol, server
from backend.errors import BadInput

NOBODY = "0" * 32


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, str]:
    """The error of an answer, which must have this status and code, a cause and a remedy."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, str] = body["error"]
    assert set(error) == {"code", "cause", "remedy"}
    assert error["code"] == code
    assert error["cause"]
    assert error["remedy"]
    return error


def stranger(talk: Threaded, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=talk.url, headers=headers, trust_env=False)


# ------------------------------------------------------------------------------------- what it says


def test_health_needs_no_token_and_says_who_answers(talk: Threaded) -> None:
    with stranger(talk) as http:
        health = http.get("/v1/health").json()
    assert health == {
        "name": "fieldforge",
        "version": server.version(),
        "protocol": protocol.PROTOCOL_VERSION,
        "device": "auto",
        "device_name": None,
        "busy": False,
    }
    assert server.version() != "0.0.0"


def test_health_says_when_a_job_runs(talk: Threaded) -> None:
    job_id = talk.submit("patient")
    talk.wait_stage(job_id, "Waiting")
    assert talk.http.get("/v1/health").json()["busy"] is True
    talk.http.post(f"/v1/jobs/{job_id}/cancel")
    assert talk.http.get("/v1/health").json()["busy"] is False


def test_answers_do_not_wait_for_acknowledgements(talk: Threaded) -> None:
    """Nagle's algorithm with delayed acknowledgements costs 40 ms for every call."""
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        talk.http.get("/v1/health")
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.03


def test_models_are_those_of_the_table(talk: Threaded) -> None:
    listed = talk.http.get("/v1/models").json()
    assert [model["id"] for model in listed] == [model.id for model in pipelines.models()]
    by_id = {model["id"]: model for model in listed}
    assert by_id["wavelet-fit"]["ready"] is True
    assert by_id["wavelet-fit"]["samples"] is False
    views = by_id["wala-views-depth6-1b"]
    assert (views["ready"], views["family"], views["samples"]) == (False, "wala", True)
    assert (views["steps"], views["guidance"]) == (10, 1.5)
    assert (views["views"], views["view_kind"]) == (6, "depth")
    assert views["cameras"] == [3, 6, 10, 26, 49, 50]
    assert views["bytes"] > 10**10
    assert views["license"] == "autodesk-non-commercial-3d-generative-v1.0"
    assert views["license_url"].startswith("https://")
    assert by_id["mvdream-depth6"]["needs"] == ["wala-views-depth6-1b"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (protocol.Shape(), "wala-shape-1b"),
        (protocol.Shape(model="wala-shape-1b"), "wala-shape-1b"),
        (protocol.TextToMesh(prompt="a chair"), "mvdream-depth6, wala-views-depth6-1b"),
    ],
)
def test_a_model_that_is_not_here_is_named_before_the_job_is_queued(
    talk: Threaded, task: protocol.Task, words: str
) -> None:
    answer = talk.http.post("/v1/jobs", content=protocol.encode_task(task))
    error = error_of(answer, 409, "not-installed")
    assert words in error["cause"] + error["remedy"]
    assert "models download" in error["remedy"]


@pytest.mark.parametrize(
    "task",
    [
        protocol.Shape(model="wavelet-fit"),
        protocol.Shape(model="wala-voxel-1b"),
        protocol.DownloadModel(model="wavelet-fit"),
        protocol.DownloadModel(model="no-such-model"),
    ],
)
def test_a_model_that_cannot_do_the_task_is_refused(talk: Threaded, task: protocol.Task) -> None:
    answer = talk.http.post("/v1/jobs", content=protocol.encode_task(task))
    error = error_of(answer, 422, "bad-input")
    assert f"{task.model!r} cannot do {task.kind}" in error["cause"]


def test_every_operation_of_the_contract_is_described(talk: Threaded) -> None:
    paths = talk.http.get("/v1/openapi.json").json()["paths"]
    assert {(path, method) for path, methods in paths.items() for method in methods} == {
        ("/v1/health", "get"),
        ("/v1/models", "get"),
        ("/v1/jobs", "post"),
        ("/v1/jobs", "get"),
        ("/v1/jobs/{job_id}", "get"),
        ("/v1/jobs/{job_id}", "delete"),
        ("/v1/jobs/{job_id}/events", "get"),
        ("/v1/jobs/{job_id}/cancel", "post"),
        ("/v1/jobs/{job_id}/preview", "get"),
        ("/v1/jobs/{job_id}/result", "get"),
        ("/v1/jobs/{job_id}/task", "get"),
    }
    assert set(paths["/v1/jobs"]["post"]["responses"]) == {
        *("202", "401", "409", "413", "422", "429", "507")
    }


# -------------------------------------------------------------------------------------- a whole job


def test_a_job_from_task_to_result(talk: Threaded) -> None:
    body = task_bytes("quick:12", seed=5)
    answer = talk.http.post("/v1/jobs", content=body, headers={"X-Fieldforge-Protocol": "1"})
    assert answer.status_code == 202
    record = answer.json()
    assert set(record) == {
        *("id", "kind", "name", "model", "state", "stage", "fraction", "created", "started"),
        *("finished", "result_bytes", "preview", "error", "report"),
    }
    assert record["state"] == "queued"
    assert (record["kind"], record["model"]) == ("points-to-mesh", "wavelet-fit")
    assert answer.headers["location"] == f"/v1/jobs/{record['id']}"

    done = talk.wait(record["id"])
    assert done["state"] == "done"
    assert done["report"] == {"faces": 12}
    assert done["created"] <= done["started"] <= done["finished"] <= time.time()
    result = talk.http.get(f"/v1/jobs/{record['id']}/result")
    assert result.headers["content-type"] == protocol.CONTENT_TYPE
    assert len(result.content) == done["result_bytes"]
    assert protocol.decode_result(result.content).faces.shape == (12, 3)
    assert talk.http.get(f"/v1/jobs/{record['id']}/task").content == body
    assert talk.http.get("/v1/jobs").json()["jobs"][0] == done


def test_what_forms_can_be_seen_while_the_job_runs(talk: Threaded) -> None:
    job_id = talk.submit("forming")
    talk.wait_stage(job_id, "Waiting")
    assert talk.job(job_id)["preview"] == 2
    shown = talk.http.get(f"/v1/jobs/{job_id}/preview")
    assert shown.headers["content-type"] == protocol.CONTENT_TYPE
    meshes = protocol.meshes_of(protocol.decode_result(shown.content))
    assert [len(mesh.faces) for mesh in meshes] == [5, 5]

    talk.http.post(f"/v1/jobs/{job_id}/cancel")
    assert talk.job(job_id)["preview"] == 0
    error_of(talk.http.get(f"/v1/jobs/{job_id}/preview"), 404, "not-found")
    files = [path for path in talk.store.folder.rglob("*") if job_id in path.name]
    assert [path.suffix for path in files] == [".task"]


def test_before_the_first_preview_there_is_none(talk: Threaded) -> None:
    job_id = talk.submit("patient")
    talk.wait_stage(job_id, "Waiting")
    error_of(talk.http.get(f"/v1/jobs/{job_id}/preview"), 404, "not-found")


def test_a_result_of_several_meshes(talk: Threaded) -> None:
    record = talk.run("several")
    assert (record["state"], record["report"], record["preview"]) == ("done", {"faces": [4, 6]}, 0)
    body = talk.http.get(f"/v1/jobs/{record['id']}/result").content
    meshes = protocol.meshes_of(protocol.decode_result(body))
    assert [len(mesh.faces) for mesh in meshes] == [4, 6]


def test_names_beyond_ascii_come_back_whole(talk: Threaded) -> None:
    name = "told:Größe 形 \U0001f4a1"
    assert talk.run(name)["name"] == name


def test_half_a_surrogate_pair_does_no_harm(talk: Threaded) -> None:
    job_id = talk.submit("fault:\ud800")
    record = talk.wait(job_id)
    assert record["name"] == "fault:?"
    unknown = protocol.pack({}, {"protocol": 1, "kind": "points-to-mesh", "\ud800": 1})
    answer = talk.http.post("/v1/jobs", content=unknown)
    assert answer.status_code == 422
    assert "not known" in answer.text


def test_a_report_without_numbers_is_told_as_null(talk: Threaded) -> None:
    record = talk.run("odd")
    assert record["state"] == "done"
    assert record["report"] == {"nan": None, "text": "half ? pair", "naïve": "é"}
    assert record["stage"] == "Stage ?"


def test_events_follow_the_job_in_order(talk: Threaded) -> None:
    events = list(talk.events(talk.submit("steps")))
    records = [record for _, record in events]
    assert records[-1]["state"] == "done"
    assert all(record["state"] != "done" for record in records[:-1])
    rank = {"queued": 0, "running": 1, "done": 2}
    for key in (
        lambda record: rank[record["state"]],
        lambda record: record["fraction"],
        lambda record: ["", "Fitting", "Meshing"].index(record["stage"]),
    ):
        values = [key(record) for record in records]
        assert values == sorted(values)
    assert len({record["fraction"] for record in records}) >= 10
    states = [record["state"] for name, record in events if name == "state"]
    assert states == sorted(set(states), key=rank.__getitem__)
    assert all(record["state"] == "running" for name, record in events if name == "progress")


def test_events_of_an_ended_job_are_its_state(talk: Threaded) -> None:
    record = talk.run("quick")
    assert list(talk.events(record["id"])) == [("state", record)]


def test_events_keep_the_line_open_and_end_with_the_job(talk: Threaded) -> None:
    job_id = talk.submit("patient")
    talk.wait_stage(job_id, "Waiting")
    lines = []
    with talk.http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if lines.count(": still here") == 2:
                talk.http.post(f"/v1/jobs/{job_id}/cancel")
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert lines.count(": still here") >= 2
    assert json.loads(data[-1])["state"] == "cancelled"


def test_events_of_a_deleted_job_end(talk: Threaded) -> None:
    job_id = talk.submit("patient")
    talk.wait_stage(job_id, "Waiting")
    last: list[dict[str, Any]] = []
    follower = threading.Thread(target=lambda: last.extend(r for _, r in talk.events(job_id)))
    follower.start()
    time.sleep(0.1)
    assert talk.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    follower.join(5)
    assert not follower.is_alive()
    assert last[-1]["state"] == "cancelled"
    error_of(talk.http.get(f"/v1/jobs/{job_id}/events"), 404, "not-found")


def test_listeners_that_leave_are_forgotten(talk: Threaded) -> None:
    job_id = talk.submit("patient")
    talk.wait_stage(job_id, "Waiting")
    listeners = talk.backend.listeners._events
    for _ in range(5):
        with talk.http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: state"
            assert job_id in listeners
    end = time.monotonic() + 5
    while listeners and time.monotonic() < end:
        time.sleep(0.01)
    assert not listeners
    talk.http.post(f"/v1/jobs/{job_id}/cancel")


def test_deleting_removes_record_and_files(talk: Threaded) -> None:
    job_id = talk.run("quick")["id"]
    paths = [talk.store.task_path(job_id), talk.store.result_path(job_id)]
    assert all(path.exists() for path in paths)
    answer = talk.http.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert not any(path.exists() for path in paths)
    for method, end in (("GET", ""), ("GET", "/result"), ("GET", "/task"), ("POST", "/cancel")):
        error_of(talk.http.request(method, f"/v1/jobs/{job_id}{end}"), 404, "not-found")
    error_of(talk.http.delete(f"/v1/jobs/{job_id}"), 404, "not-found")


def test_a_result_is_whole_though_its_job_is_deleted_meanwhile(talk: Threaded) -> None:
    record = talk.run("quick:300000")
    with talk.http.stream("GET", f"/v1/jobs/{record['id']}/result") as answer:
        chunks = answer.iter_raw()
        received = next(chunks)
        assert talk.http.delete(f"/v1/jobs/{record['id']}").status_code == 204
        received += b"".join(chunks)
    assert len(received) == record["result_bytes"]
    assert protocol.decode_result(received).faces.shape == (300_000, 3)


def test_results_that_are_not_there_are_explained(talk: Threaded) -> None:
    job_id = talk.submit("patient")
    error_of(talk.http.get(f"/v1/jobs/{job_id}/result"), 409, "not-ready")
    talk.http.post(f"/v1/jobs/{job_id}/cancel")
    cancelled = error_of(talk.http.get(f"/v1/jobs/{job_id}/result"), 409, "not-ready")
    assert "cancelled" in cancelled["cause"]
    job_id = talk.run("told")["id"]
    failed = error_of(talk.http.get(f"/v1/jobs/{job_id}/result"), 409, "not-ready")
    assert "The cloud is odd." in failed["cause"]
    assert failed["remedy"] == "Even it out."


# ---------------------------------------------------------------------------------- who may come in

CALLS = [
    ("GET", "/v1/models"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", f"/v1/jobs/{NOBODY}"),
    ("DELETE", f"/v1/jobs/{NOBODY}"),
    ("GET", f"/v1/jobs/{NOBODY}/events"),
    ("POST", f"/v1/jobs/{NOBODY}/cancel"),
    ("GET", f"/v1/jobs/{NOBODY}/result"),
    ("GET", f"/v1/jobs/{NOBODY}/task"),
    ("GET", "/v1/openapi.json"),
    ("GET", "/v1/nothing"),
    ("GET", "/docs"),
    ("GET", "/"),
    ("OPTIONS", "/v1/jobs"),
    ("GET", "//v1/health"),
    ("GET", "/v1/health/"),
    ("GET", "/v1/health/../jobs"),
]
WRONG = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer wrong",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    f"Basic {TOKEN}",
    TOKEN,
    "Bearer é",
]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_nothing_but_health_is_answered_without_the_token(
    talk: Threaded, method: str, path: str
) -> None:
    port = urlsplit(talk.url).port
    for wrong in WRONG:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        headers = {"Authorization": wrong.encode("latin-1")} if wrong else {}
        connection.request(method, path, body=b"x", headers=headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
        assert answer.status == 401, wrong
        assert body["error"]["code"] == "not-authorized"
        assert body["error"]["remedy"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_the_scheme_may_be_written_in_any_case(talk: Threaded) -> None:
    with stranger(talk, Authorization=f"bearer {TOKEN}") as http:
        assert http.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]", "@localhost"]
)
def test_names_that_were_pointed_here_get_no_answer(talk: Threaded, host: str) -> None:
    """DNS rebinding: a web page of evil.example whose name now means 127.0.0.1."""
    with stranger(talk, Host=host, Authorization=f"Bearer {TOKEN}") as http:
        for path in ("/v1/health", "/v1/jobs"):
            error_of(http.get(path), 401, "not-authorized")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:7", "LOCALHOST", "[::1]:80"])
def test_names_of_this_machine_are_answered(talk: Threaded, host: str) -> None:
    with stranger(talk, Host=host) as http:
        assert http.get("/v1/health").status_code == 200


def test_browsers_are_not_invited(talk: Threaded) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        talk.http.get("/v1/health", headers=headers),
        talk.http.options("/v1/jobs", headers=headers),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])  # noqa: S104
def test_no_open_address_without_a_token(
    tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIELDFORGE_TOKEN", raising=False)
    for token in (None, ""):
        with pytest.raises(BadInput, match="Without a token") as told:
            server.serve(host, 0, token, tmp_path / "data")
        assert "--token" in told.value.remedy
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_addresses_are_known(host: str) -> None:
    assert server.is_loopback(host)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"device": "tpu"}, "tpu"),
        ({"workers": 0}, "0 workers"),
        ({"workers": 1000}, "1000 workers"),
        ({"token": "two words"}, "token"),
        ({"token": "line\nfeed"}, "token"),
        ({"token": "schlüssel"}, "token"),
        ({"port": 70000}, "70000"),
        ({"host": "127.0.0.1.2.3", "token": "t"}, "127.0.0.1.2.3"),
    ],
)
def test_impossible_options_are_refused(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput) as told:
        server.serve(**{"data": tmp_path / "data", "token": TOKEN, **changed})
    assert words in told.value.cause
    assert told.value.remedy
    assert not (tmp_path / "data").exists()


def test_a_port_that_is_taken_is_told(talk: Threaded, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot listen") as told:
        server.serve("127.0.0.1", urlsplit(talk.url).port or 0, TOKEN, tmp_path / "data")
    assert "Choose another port" in told.value.remedy


# ---------------------------------------------------------------------------------------- bad input


def test_addresses_and_methods_that_do_not_exist(talk: Threaded) -> None:
    error_of(talk.http.get("/v1/nothing"), 404, "not-found")
    error_of(talk.http.get("/"), 404, "not-found")
    answer = talk.http.put("/v1/jobs")
    error_of(answer, 405, "bad-input")
    assert set(answer.headers["allow"].split(", ")) >= {"POST"}
    error_of(talk.http.get(f"/v1/jobs/{NOBODY}"), 404, "not-found")
    for job_id in ("1", "A" * 32, "..%2F..%2Fetc%2Fpasswd", "%00", "é"):
        answer = talk.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code in (404, 422)
        error_of(answer, answer.status_code, answer.json()["error"]["code"])


def test_tasks_that_cannot_be_worked_on_are_refused_at_once(talk: Threaded) -> None:
    before = len(talk.store.all())
    few = protocol.encode_task(protocol.PointsToMesh(points=np.zeros((3, 3), np.float32)))
    assert "too few" in error_of(talk.http.post("/v1/jobs", content=few), 422, "bad-input")["cause"]
    cut_off = task_bytes()[:-10]
    error_of(talk.http.post("/v1/jobs", content=cut_off), 422, "bad-input")
    error_of(talk.http.post("/v1/jobs"), 422, "bad-input")
    other = task_bytes(model="dream")
    cause = error_of(talk.http.post("/v1/jobs", content=other), 422, "bad-input")["cause"]
    assert "dream" in cause
    assert len(talk.store.all()) == before
    assert list((talk.store.folder / "incoming").iterdir()) == []


def _cloud() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(200, 3)).astype(np.float32)


def _with(value: float) -> np.ndarray:
    points = _cloud()
    points[7, 1] = value
    return points


POINTS_WITHOUT_A_SURFACE = {
    "empty": (np.zeros((0, 3), np.float32), "0 points are too few"),
    "49": (_cloud()[:49], "49 points are too few"),
    "NaN": (_with(np.nan), "1 of 200 points have coordinates that are not numbers"),
    "infinite": (_with(-np.inf), "1 of 200 points have coordinates that are not numbers"),
    "plane": (_cloud() * np.float32([1, 1, 0]), "All points lie in a plane"),
    "line": (_cloud()[:, :1] * np.float32([1, 2, 3]), "All points lie on a line"),
    "one place": (np.ones((200, 3), np.float32), "All points are at the same place"),
    "two columns": (_cloud()[:, :2].copy(), "expected N x 3"),
}


@pytest.mark.parametrize("case", POINTS_WITHOUT_A_SURFACE)
def test_points_that_have_no_surface_are_refused(talk: Threaded, case: str) -> None:
    points, words = POINTS_WITHOUT_A_SURFACE[case]
    body = protocol.encode_task(protocol.PointsToMesh(points=points))
    error = error_of(talk.http.post("/v1/jobs", content=body), 422, "bad-input")
    assert words in error["cause"]
    assert error["remedy"]
    assert list((talk.store.folder / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("occupancy", "status", "words"),
    [
        (np.zeros((9, 9, 9), bool), 422, "All voxels are empty"),
        (np.ones((9, 9, 9), bool), 422, "All voxels are full"),
        (np.eye(7)[None].astype(bool), 422, "too small"),
        (np.zeros((513, 1, 1), bool), 413, "larger than accepted"),
    ],
)
def test_voxels_that_have_no_surface_are_refused(
    talk: Threaded, occupancy: np.ndarray, status: int, words: str
) -> None:
    body = protocol.encode_task(protocol.VoxelsToMesh(occupancy=occupancy))
    code = {413: "too-large", 422: "bad-input"}[status]
    error = error_of(talk.http.post("/v1/jobs", content=body), status, code)
    assert words in error["cause"]
    assert error["remedy"]


def test_200_million_points_are_refused_by_their_announced_size(tmp_path: Path) -> None:
    """With the limits of every server; nothing of the body is sent."""
    assert server.MAX_BODY_BYTES < 200_000_000 * 12
    with threaded_server(tmp_path) as talk:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(talk.url).port, timeout=5)
        connection.putrequest("POST", "/v1/jobs")
        connection.putheader("Authorization", f"Bearer {TOKEN}")
        connection.putheader("Content-Length", str(200_000_000 * 12))
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 413
        error = json.loads(answer.read())["error"]
        assert "2,048 MB" in error["cause"]
        assert error["remedy"] == "Select fewer points, for example after Merge by Distance."
        connection.close()


def test_another_version_of_the_protocol_is_refused(talk: Threaded) -> None:
    newer = protocol.pack({}, {"protocol": 2, "kind": "points-to-mesh"})
    error_of(talk.http.post("/v1/jobs", content=newer), 409, "version-mismatch")
    answer = talk.http.post(
        "/v1/jobs", content=task_bytes(), headers={"X-Fieldforge-Protocol": "2"}
    )
    assert "protocol 2" in error_of(answer, 409, "version-mismatch")["cause"]
    answer = talk.http.post(
        "/v1/jobs", content=task_bytes(), headers={"X-Fieldforge-Protocol": "one"}
    )
    error_of(answer, 422, "bad-input")


def test_a_body_that_is_too_large_is_refused(talk: Threaded) -> None:
    """Announced and not announced; the fixture allows 1 MB."""
    body = b"\0" * ((1 << 20) + 1)

    def unannounced() -> Any:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    for content in (body, unannounced()):
        error = error_of(talk.http.post("/v1/jobs", content=content), 413, "too-large")
        assert "1 MB" in error["cause"]
    assert list((talk.store.folder / "incoming").iterdir()) == []
    exact = task_bytes()
    talk.http.delete(f"/v1/jobs/{talk.http.post('/v1/jobs', content=exact).json()['id']}")


def test_an_announced_body_is_refused_before_it_is_sent(talk: Threaded) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(talk.url).port, timeout=5)
    connection.putrequest("POST", "/v1/jobs")
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["code"] == "too-large"
    connection.close()


def test_an_upload_that_breaks_off_leaves_nothing(talk: Threaded) -> None:
    before = len(talk.store.all())
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(talk.url).port, timeout=5)
    connection.putrequest("POST", "/v1/jobs")
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    connection.putheader("Content-Length", "5000")
    connection.endheaders(task_bytes()[:500])
    incoming = talk.store.folder / "incoming"
    end = time.monotonic() + 5
    while not list(incoming.iterdir()) and time.monotonic() < end:
        time.sleep(0.01)
    assert len(list(incoming.iterdir())) == 1
    connection.close()
    while list(incoming.iterdir()) and time.monotonic() < end:
        time.sleep(0.01)
    assert list(incoming.iterdir()) == []
    assert len(talk.store.all()) == before
    assert talk.backend.arriving == 0


def test_the_queue_has_an_end(tmp_path: Path) -> None:
    with threaded_server(tmp_path, max_queued=2) as talk:
        running = talk.submit("patient")
        talk.wait_stage(running, "Waiting")
        waiting = [talk.submit("quick") for _ in range(2)]
        error = error_of(talk.http.post("/v1/jobs", content=task_bytes()), 429, "queue-full")
        assert "2 jobs are waiting" in error["cause"]
        talk.http.post(f"/v1/jobs/{waiting[0]}/cancel")
        waiting.append(talk.submit("quick"))
        talk.http.post(f"/v1/jobs/{running}/cancel")
        assert [talk.wait(job_id)["state"] for job_id in waiting] == ["cancelled", "done", "done"]


# ---------------------------------------------------------------------------- no body gives a fault

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def odd(valid: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(valid, valid, JSON)


ENTRY = st.fixed_dictionaries(
    {
        "dtype": odd(st.sampled_from(["F32", "F64", "U8", "BOOL", "I64"])),
        "shape": odd(st.lists(st.integers(-1, 70), max_size=4)),
        "data_offsets": odd(st.lists(st.integers(-1, 900), min_size=2, max_size=2)),
    }
)
MESSAGE = st.dictionaries(
    st.sampled_from(["protocol", "kind", "name", "model", "seed", "resolution", "origin", "more"]),
    odd(st.sampled_from([1, "points-to-mesh", "voxels-to-mesh", "wavelet-fit", 128])),
)


@st.composite
def almost_tasks(draw: st.DrawFn) -> bytes:
    """Byte strings in the layout of a task whose parts may each be wrong."""
    header = draw(
        st.dictionaries(st.sampled_from(["points", "normals", "occupancy", "name"]), odd(ENTRY))
    )
    message = {"protocol": 1, "kind": "points-to-mesh", **draw(MESSAGE)}
    header["__metadata__"] = draw(odd(st.just({"message": json.dumps(message)})))
    text = json.dumps(header).encode()
    length = draw(st.one_of(st.just(len(text)), st.integers(0, 2**64 - 1)))
    return struct.pack("<Q", length) + text + draw(st.binary(max_size=900))


@st.composite
def extreme_clouds(draw: st.DrawFn) -> bytes:
    """Clouds of every float there is, also those whose squares overflow."""
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    scale = draw(st.sampled_from([0.0, 1e-320, 1e-30, 1.0, 1e20, 1e38, 1e200, 1.7e308]))
    cloud = np.random.default_rng(3).normal(size=(60, 3))
    with np.errstate(all="ignore"):
        cloud = (np.clip(cloud, -1, 1) * scale).astype(dtype)
    return protocol.encode_task(protocol.PointsToMesh(name="fault", points=cloud))


@settings(max_examples=50)
@given(body=st.one_of(st.binary(max_size=200), almost_tasks(), extreme_clouds()))
def test_no_body_gives_a_fault(shared_server: Threaded, body: bytes) -> None:
    answer = shared_server.http.post("/v1/jobs", content=body)
    if answer.status_code == 202:
        shared_server.http.delete(f"/v1/jobs/{answer.json()['id']}")
    else:
        assert answer.status_code in (409, 413, 422), answer.text
        error_of(answer, answer.status_code, answer.json()["error"]["code"])
