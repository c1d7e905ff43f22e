"""Jobs about neural fields and what moves, from their bytes to those of the result, in a worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from running_servers import StartServer

from backend import moving_meshes, protocol
from backend.pipelines import Context, run
from backend.protocol import Animation, AnimationSet, FieldToMesh, MeshToField
from tests import exact_fields


def test_jobs_of_fields(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact_fields.write_model(tmp_path / "models" / "swimmers", is_moving=True, names=("fish",))
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "models"))
    talk = start_server(data=str(tmp_path / "data"), entry="backend.pipelines:run")

    listed = {model["id"]: model for model in talk.http.get("/v1/models").json()}
    assert (listed["swimmers"]["names"], listed["swimmers"]["frames"]) == (["fish"], 5)
    assert listed["neural-field"]["tasks"] == ["mesh-to-field", "field-to-mesh"]
    assert (listed["neural-field"]["names"], listed["neural-field"]["frames"]) == ([], 0)

    def done(task: protocol.Task) -> protocol.Result:
        sent = talk.http.post("/v1/jobs", content=protocol.encode_task(task))
        assert sent.status_code == 202
        job = talk.wait(sent.json()["id"], seconds=300)
        assert (job["state"], job["kind"]) == ("done", task.kind), job["error"]
        return protocol.decode_result(talk.http.get(f"/v1/jobs/{job['id']}/result").content)

    task = Animation(model="swimmers", choice="fish", variations=2, resolution=32)
    found = done(task)
    *_, wanted = run(task, Context("cpu"))
    assert isinstance(found, AnimationSet)
    assert isinstance(wanted, AnimationSet)
    for one, other in zip(found.animations, wanted.animations, strict=True):
        assert one.neural is not None
        np.testing.assert_array_equal(one.vertices, other.vertices)
        assert one.fps == other.fps == 10

    first, last = (animation.neural for animation in found.animations)
    assert first is not None
    assert last is not None
    mixed = done(FieldToMesh.of(first, last, amounts=(0.0, 0.5, 1.0), resolution=32))
    assert isinstance(mixed, protocol.AnimationResult)
    assert [len(step) for step in mixed.steps()] == [5, 5, 5]

    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    sides = np.array([[0, 1, 2], [1, 3, 2]], np.int32)
    flat = moving_meshes.joined([(corners, sides)])
    refused = talk.http.post("/v1/jobs", content=protocol.encode_task(MeshToField(**flat)))
    assert refused.status_code == 422
    assert "in a plane" in refused.json()["error"]["cause"]
