"""Models that generate, behind the server: the worker's real pipelines, one small model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from running_servers import Threaded, threaded_server

from backend import protocol, weights, workers
from backend.protocol import Shape
from backend.workers import DEFAULT_ENTRY
from tests import wala_models


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    folder = tmp_path_factory.mktemp("generating")
    wala_models.write(folder / "weights", "shape")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDFORGE_WEIGHTS", str(folder / "weights"))
        patch.setenv("FIELDFORGE_HOME", str(folder / "home"))
        patch.setenv("OMP_NUM_THREADS", "1")
        with threaded_server(folder / "data", entry=DEFAULT_ENTRY, device="cpu") as running:
            yield running


def submit(talk: Threaded, task: protocol.Task) -> str:
    answer = talk.http.post("/v1/jobs", content=protocol.encode_task(task))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_jobs_share_a_model_and_show_what_forms(generating: Threaded) -> None:
    first = generating.wait(submit(generating, Shape(seed=1, preview=True)), seconds=120)
    assert first["state"] == "done", first
    assert first["model"] == "tiny-shape"  # "" stands for the best one that is here
    assert first["report"]["device"] == "cpu"

    job_id = submit(generating, Shape(seed=2, variations=2, steps=40, preview=True, name="Two"))
    shown = 0
    for _, record in generating.events(job_id):
        shown = max(shown, record["preview"])
        if record["preview"] and record["state"] == "running":
            answer = generating.http.get(f"/v1/jobs/{job_id}/preview")
            if answer.status_code == 200:  # else it has ended meanwhile
                meshes = protocol.meshes_of(protocol.decode_result(answer.content))
                assert len(meshes) == 2
                assert all(mesh.vertices.shape[1] == 3 for mesh in meshes)
    second = generating.job(job_id)
    assert second["state"] == "done", second
    assert shown >= 1
    assert second["preview"] == 0
    assert second["report"]["seconds"]["Loading the model"] < 0.2
    body = generating.http.get(f"/v1/jobs/{job_id}/result").content
    result = protocol.decode_result(body)
    assert isinstance(result, protocol.MeshSet)
    assert [mesh.report["seed"] for mesh in result.meshes] == [2, 3]
    assert all(len(mesh.faces) > 100 for mesh in result.meshes)
    first_latent, second_latent = (mesh.latent for mesh in result.meshes)
    assert first_latent is not None
    assert np.abs(first_latent - second_latent).max() > 0.1


def test_models_that_are_here_are_ready(generating: Threaded) -> None:
    listed = {model["id"]: model for model in generating.http.get("/v1/models").json()}
    tiny = listed["tiny-shape"]
    assert (tiny["ready"], tiny["steps"], tiny["guidance"]) == (True, 3, None)
    assert tiny["bytes"] == weights.store().joinpath("tiny-shape/model.safetensors").stat().st_size
    assert not listed["wala-shape-1b"]["ready"]
    json.dumps(listed)


def test_a_long_job_is_cancelled_and_the_model_stays(
    generating: Threaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "GRACE_SECONDS", 30)  # however slow this machine is
    job_id = submit(generating, Shape(steps=1000))
    pids = generating.backend.pool.pids()
    while not generating.job(job_id)["stage"].startswith("Sampling"):
        assert generating.job(job_id)["state"] in ("queued", "running")
    cancelled = generating.http.post(f"/v1/jobs/{job_id}/cancel").json()
    assert cancelled["state"] == "cancelled"
    again = generating.wait(submit(generating, Shape(seed=4)), seconds=60)
    assert again["state"] == "done"
    assert again["report"]["seconds"]["Loading the model"] < 0.2
    assert generating.backend.pool.pids() == pids  # it stopped by itself
