"""Sets of shapes: compared with themselves, made once, and nothing that failed is hidden."""

import numpy as np
import pytest
import trimesh

from backend.errors import BadInput
from backend.protocol import MeshResult
from backend.training import conditions, free_generation, packed
from backend.training.cases import file_of
from backend.training.conditions import Conditions
from backend.training.free_generation import Made, Sets
from backend.training.packed import Shape


def solid_of(number):
    size = np.random.default_rng(number).uniform(0.2, 1.8, 3)
    return trimesh.creation.box(size * 1.8 / size.max())


def mesh(solid):
    return np.asarray(solid.vertices, np.float32), np.asarray(solid.faces, np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six training boxes, four test boxes; a file in trees/ says that there is one."""
    folder = tmp_path_factory.mktemp("sets")
    names = [("train", n) for n in range(6)] + [("test", n) for n in range(6, 10)]
    packed.write(
        folder / "shapes.ffs",
        [(Shape(str(n), "box", "boxes", side, ""), b"") for side, n in names],
    )
    for sort in ("trees", "conditions"):
        (folder / sort).mkdir()
    for _, n in names:
        file_of(folder, "trees", str(n)).touch()
        points = np.rint(solid_of(n).sample(4000, seed=n) * 32767).astype(np.int16)
        blank = {name: np.zeros(1) for name in Conditions.__dataclass_fields__}
        Conditions(**{**blank, "clean": points}).save(file_of(folder, "conditions", str(n)))
    return folder


@pytest.fixture(scope="module")
def sets(folder):
    return Sets(folder, ["6", "7", "8", "9"])


def made_of(clouds):
    return Made(clouds, [], 0, 1.0)


def test_a_set_is_perfectly_like_itself(sets):
    row = sets.row("copy", made_of(sets.test))
    assert (row["MMD x 1000"], row["COV"], row["1-NNA"]) == (0, 1, 0)
    assert row["to training x 1000"] > 0
    row = sets.row("memory", made_of(sets.training))
    assert row["to training x 1000"] == 0
    assert row["copies"] == 1


def test_rows_of_what_can_be_reached(sets):
    test, training = sets.rows()
    assert (test["set"], test["shapes"]) == ("test shapes", 4)
    assert "COV" not in test
    assert training["shapes"] == 4
    assert training["to training x 1000"] > 0  # a shape is not its own neighbour
    assert 0 < training["COV"] <= 1
    memory = sets.row("memory", made_of(sets.training[sets._chosen]))
    assert all(training[name] == memory[name] for name in ("MMD x 1000", "COV", "1-NNA"))


def test_one_shape_again_and_again_covers_little(sets):
    row = sets.row("same", made_of(np.repeat(sets.training[:1], 4, axis=0)))
    assert row["COV"] == 0.25
    assert row["1-NNA"] >= 0.5


def test_shapes_are_made_once_and_failures_count(folder, tmp_path, monkeypatch):
    calls = []

    def run(task, context):
        calls.append((task.kind, task.seed))
        if task.seed == 1 and len(calls) < 4:
            raise BadInput("It is empty.", "Try another seed.")
        vertices, faces = mesh(solid_of(task.seed))
        yield MeshResult(vertices=vertices, faces=faces, report={"total_seconds": 2.0})

    monkeypatch.setattr(free_generation, "run", run)
    monkeypatch.setattr(free_generation, "_EVEN", 2100)
    kept = tmp_path / "kept"
    words = ["", "", "a box"]
    made = free_generation.make(words, "small", "cpu", kept, "a")
    assert calls == [("shape", 0), ("shape", 1), ("text-to-mesh", 2)]
    assert (len(made.clouds), made.failed, len(made.tiles), made.seconds) == (2, 1, 3, 2.0)
    assert (made.tiles[1] == 128).all()
    again = free_generation.make(words, "small", "cpu", kept, "a")
    assert calls[3:] == [("shape", 1)]  # only what had failed
    assert np.array_equal(again.clouds[[0, 2]], made.clouds)
    assert again.failed == 0
    calls.clear()
    free_generation.make(["", "", "a chair"], "small", "cpu", kept, "a")
    assert calls == [("text-to-mesh", 2)]
    free_generation.make(words[:1], "small", "cpu", kept, "b")
    assert calls[1:] == [("shape", 0)]


def test_a_surface_and_its_conditions_give_like_clouds():
    solid = solid_of(3)
    cloud = free_generation.cloud_of_surface(mesh(solid))
    assert cloud.shape == (free_generation.POINTS, 3)
    assert np.ptp(cloud, axis=0).max() == pytest.approx(1.8, rel=1e-4)
    stored = np.rint(solid.sample(8192, seed=1) * 32767).astype(np.int16)
    other = free_generation._some(conditions.cloud_of(stored))
    near = free_generation.chamfer_distances(cloud[None], other[None])[0, 0]
    assert near < 0.005
    # The first points are spread over the whole: a rough comparison looks at these only.
    assert np.ptp(cloud[:256], axis=0).max() > 1.6


def test_nothing_made_is_said(sets):
    row = sets.row("none", Made(np.zeros((0, 2048, 3), np.float32), [], 3, float("nan")))
    assert row == {"set": "none", "shapes": 0, "failed": 3}
