"""A job of a model that takes any condition, from its bytes to the mesh's, in a worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from running_servers import StartServer

from backend import protocol
from backend.pipelines import Context, run
from backend.protocol import TextToMesh
from tests import wala_models


def test_a_job_of_a_joint_model(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wala_models.write_joint(tmp_path / "models")
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "models"))
    monkeypatch.setenv("FIELDFORGE_PRECISION", "float32")
    talk = start_server(data=str(tmp_path / "data"), entry="backend.pipelines:run")
    listed = {model["id"]: model for model in talk.http.get("/v1/models").json()}
    assert listed["tiny-joint"]["any_views"]
    assert listed["tiny-joint"]["cameras"] == [3, 6, 10, 26, 49, 50]
    assert not listed["wavelet-fit"]["any_views"]

    task = TextToMesh(name="Chair", prompt="a red chair", model="tiny-joint", seed=4, steps=2)
    sent = talk.http.post("/v1/jobs", content=protocol.encode_task(task))
    assert sent.status_code == 202
    job = talk.wait(sent.json()["id"], seconds=300)
    assert (job["state"], job["kind"], job["model"]) == ("done", "text-to-mesh", "tiny-joint")
    assert job["report"]["notes"] == ["The model goes by these words: red, chair."]
    found = protocol.decode_result(talk.http.get(f"/v1/jobs/{job['id']}/result").content)
    *_, wanted = run(task, Context("cpu"))
    assert len(found.faces) > 100
    assert found.latent.shape == (wala_models.JOINT_CHANNELS, 12, 12, 12)
    np.testing.assert_array_equal(found.latent, wanted.latent)
    np.testing.assert_array_equal(found.vertices, wanted.vertices)

    strange = TextToMesh(prompt="xyzzy", model="tiny-joint")
    sent = talk.http.post("/v1/jobs", content=protocol.encode_task(strange))
    failed = talk.wait(sent.json()["id"], seconds=300)
    assert (failed["state"], failed["error"]["code"]) == ("failed", "bad-input")
    assert "chair" in failed["error"]["remedy"]
