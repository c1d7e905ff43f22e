"""`run` with models that generate: inputs by suffix, options, variations, results to go on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend import pipelines, task_files, weights
from backend.errors import BadInput, NotFound
from backend.geometry import mesh_files
from backend.pipelines import generate, previews, resident
from backend.protocol import (
    MeshResult,
    MeshSet,
    Preview,
    Progress,
    Task,
)
from tests import wala_models
from tests.command_line.input_files import ball, octahedron, write_ply, write_voxels


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path / "home"))
    resident.unload()
    yield tmp_path / "store"
    resident.unload()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """The tasks that `run` makes; each gives an octahedron per variation, after a preview."""
    tasks: list[Task] = []

    def work(task: Any, context: Any) -> Iterator[Any]:
        task.validate()
        tasks.append(task)
        *_, mesh = octahedron(task, context)
        assert isinstance(mesh, MeshResult)
        meshes = (mesh,) * task.variations
        yield Preview("Sampling", 0.5, meshes) if task.preview else Progress("Sampling", 0.5)
        latent = np.full(wala_models.LATENT_SHAPE, 0.5, np.float32)
        facts = {"steps": 5, "guidance": 1.5, "device": "cpu", "model": "some"}
        if len(meshes) > 1:
            yield MeshSet(meshes=meshes, report=facts)
        else:
            yield MeshResult(vertices=mesh.vertices, faces=mesh.faces, latent=latent, report=facts)

    monkeypatch.setattr(pipelines, "run", work)
    return tasks


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    names = []
    for number in range(4):
        path = tmp_path / f"view {number}.png"
        Image.fromarray(wala_models.picture(number)).save(path)
        names.append(str(path))
    return names


def test_a_shape_is_generated_kept_and_changed_in_part(
    command: Callable[..., Any], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "SHARE", 1e9)  # however slow this machine is just now
    wala_models.write(store, "shape")
    first, second, shown = tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "shown"
    done = command("run", "shape", "-o", first, "--seed", 1, "--json", "--preview", shown)
    assert done.code == 0
    assert done.record["previews"] == 3
    record = done.record
    assert (record["task"], record["model"]) == ("shape", "tiny-shape")
    assert (record["steps"], record["variations"], record["seed"]) == (3, 1, 1)
    changes = ["--keep", first, "--region", "-1,-1,-1,-0.2,1,1", "--seed", 2, "--preview", shown]
    done = command("run", "shape", "-o", second, *changes, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.record["previews"] == 3
    assert [path.name for path in sorted(shown.iterdir())] == [
        f"preview-00{number}.ply" for number in (1, 2, 3)
    ]
    assert len(mesh_files.read_mesh(shown / "preview-001.ply").faces) > 100
    with np.load(first) as before, np.load(second) as after:
        assert set(after.files) == {"vertices", "faces", "to_source", "latent"}
        np.testing.assert_array_equal(after["to_source"], before["to_source"])
        same = (before["latent"] == after["latent"]).all(axis=0)
        assert same[6:].all()
        assert 0 < same.mean() < 1


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "BUNDLED", folder)
        wala_models.write_joint(folder, default_for=pipelines.GENERATIONS)
    return folder


@pytest.fixture
def joint(store: Path, bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundled model of every task, whose shapes all have the same surface."""
    monkeypatch.setattr(weights, "BUNDLED", bundled)
    steps = np.arange(256, dtype=np.float32) / 128 - 0.5  # a plane, closed by the cube
    field = np.broadcast_to(steps.clip(-0.1, 0.1), (256, 256, 256))
    monkeypatch.setattr(generate._Generator, "field", lambda *_: field.copy())


@pytest.mark.usefixtures("joint")
@pytest.mark.parametrize("kind", pipelines.GENERATIONS)
def test_a_bundled_model_is_the_default_of_every_task(
    command: Callable[..., Any], tmp_path: Path, pictures: list[str], kind: str
) -> None:
    np.save(tmp_path / "depth.npy", wala_models.depth())
    inputs: dict[str, list[Any]] = {
        "points-to-mesh": [write_ply(tmp_path / "points.ply", ball())],
        "voxels-to-mesh": [
            write_voxels(tmp_path / "voxels.json", np.pad(np.ones((6, 6, 6), bool), 1))
        ],
        "image-to-mesh": pictures[:1],
        "sketch-to-mesh": pictures[:1],
        "depth-to-mesh": [tmp_path / "depth.npy"],
        "views-to-mesh": pictures,
        "text-to-mesh": ["a", "red", "chair"],
        "shape": [],
    }
    output = tmp_path / "a.npz"
    done = command("run", kind, *inputs[kind], "-o", output, "--json", "--seed", 3)
    assert (done.code, done.err) == (0, "")
    record = done.record
    assert (record["task"], record["model"], record["seed"]) == (kind, "tiny-joint", 3)
    with np.load(output) as arrays:
        assert arrays["latent"].shape == (16, 12, 12, 12)
        assert len(arrays["faces"]) == record["faces"] > 1000
    assert ("red, chair" in str(record.get("notes"))) == (kind == "text-to-mesh")


@pytest.mark.usefixtures("joint")
def test_what_the_model_does_not_know_is_told_with_what_it_knows(
    command: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    done = command("run", "text-to-mesh", "a dragon", "-o", tmp_path / "a.npz")
    assert done.code == 2
    assert "dragon" in done.err
    assert "armchair" in done.err
    np.savez(tmp_path / "kept.npz", latent=np.zeros(wala_models.LATENT_SHAPE, np.float32))
    region = ["--keep", tmp_path / "kept.npz", "--region", "-1,-1,-1,0,1,1"]
    done = command("run", "shape", "-o", tmp_path / "a.npz", *region)
    assert done.code == 2
    assert "Choose the model that made the shape" in done.err
    assert not (tmp_path / "a.npz").exists()


def test_it_says_so_when_no_preview_was_cheap_enough(
    command: Callable[..., Any], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "SHARE", 0.0)
    wala_models.write(store, "shape")
    done = command(
        "run", "shape", "-o", tmp_path / "a.npz", "--json", "--preview", tmp_path / "shown"
    )
    assert (done.code, done.record["previews"]) == (0, 0)
    assert "next run" in done.err


def test_variations_are_files_of_their_own(
    command: Callable[..., Any], seen: list[Task], tmp_path: Path
) -> None:
    arguments = ["run", "shape", "-o", tmp_path / "chair.glb", "--variations", 3]
    done = command(*arguments, "--json")
    assert done.code == 0
    names = [str(tmp_path / f"chair-{number}.glb") for number in (1, 2, 3)]
    assert done.record["outputs"] == names
    assert (done.record["faces"], done.record["steps"]) == (24, 5)
    assert sorted(map(str, tmp_path.iterdir())) == names
    assert all(len(mesh_files.read_mesh(Path(name)).faces) == 8 for name in names)
    assert "chair-1.glb, " in command(*arguments).out


def test_every_option_reaches_the_task(
    command: Callable[..., Any], seen: list[Task], tmp_path: Path, pictures: list[str]
) -> None:
    options = "--steps 7 --guidance 2.5 --seed 4 --as-published --up-axis y --background keep"
    done = command(
        "run", "image-to-mesh", pictures[0], "-o", tmp_path / "a.obj", *options.split(),
        "--model", "tiny", "--preview", tmp_path / "shown",
    )  # fmt: skip
    assert done.code == 0
    (task,) = seen
    found = {name: getattr(task, name) for name in ("steps", "guidance", "seed", "as_published")}
    assert found == {"steps": 7, "guidance": 2.5, "seed": 4, "as_published": True}
    assert (task.up_axis, task.background, task.model) == ("y", "keep", "tiny")
    assert (task.name, task.preview) == ("view 0", True)
    np.testing.assert_array_equal(task.image, wala_models.picture(0))
    assert (tmp_path / "shown" / "preview-001.ply").is_file()


def test_views_are_read_in_their_order(
    command: Callable[..., Any], seen: list[Task], tmp_path: Path, pictures: list[str]
) -> None:
    output = ["-o", tmp_path / "a.obj"]
    assert command("run", "views-to-mesh", *reversed(pictures), *output).code == 0
    (task,) = seen
    assert task.images.shape == (4, 64, 64, 3)
    np.testing.assert_array_equal(task.images[0], wala_models.picture(3))
    assert task.cameras is None
    chosen = ["--cameras", "10,3"]
    assert command("run", "views-to-mesh", *pictures[:2], *chosen, *output).code == 0
    assert seen[-1].cameras == (10, 3)
    done = command("run", "views-to-mesh", *pictures[:2], "--cameras", "10,left", *output)
    assert (done.code, "--cameras 3,10,49" in done.err) == (2, True)
    small = tmp_path / "small.png"
    Image.fromarray(wala_models.picture(0)[:32]).save(small)
    done = command("run", "views-to-mesh", pictures[0], small, *output)
    assert (done.code, "small.png has 64 x 32" in done.err) == (2, True)


def test_depth_is_known_by_its_file_the_option_or_the_model(
    command: Callable[..., Any],
    seen: list[Task],
    store: Path,
    tmp_path: Path,
    pictures: list[str],
) -> None:
    output = ["-o", tmp_path / "a.obj"]
    arrays = []
    for number in range(2):
        arrays.append(tmp_path / f"{number}.npy")
        np.save(arrays[-1], wala_models.depth(number))
    assert command("run", "views-to-mesh", *arrays, *output).code == 0
    assert command("run", "depth-to-mesh", arrays[0], *output).code == 0
    bright = ["--depth-encoding", "near-bright"]
    assert command("run", "views-to-mesh", *pictures, *output, *bright).code == 0
    wala_models.write(store, "depths6")
    assert command("run", "views-to-mesh", *pictures, *output).code == 0
    views, depth, told, guessed = seen
    assert (views.encoding, depth.encoding, told.encoding) == ("metres", "metres", "near-bright")
    np.testing.assert_array_equal(depth.depth, wala_models.depth(0))
    assert views.depths.shape == (2, 64, 64)
    assert told.depths.shape == guessed.depths.shape == (4, 64, 64)


@pytest.mark.parametrize("given", [["a wooden", "chair"], ["--prompt", "a wooden chair"]])
def test_text_is_the_input_itself(
    command: Callable[..., Any], seen: list[Task], tmp_path: Path, given: list[str]
) -> None:
    assert command("run", "text-to-mesh", *given, "-o", tmp_path / "a.obj").code == 0
    assert (seen[0].prompt, seen[0].name) == ("a wooden chair", "a wooden chair")


def test_a_box_is_given_by_two_corners_in_any_order() -> None:
    matrix = task_files.box_matrix("1,2,3,-1,0,5")
    corners = matrix @ np.array([[-1, 1], [-1, 1], [-1, 1], [1, 1]])
    np.testing.assert_allclose(corners[:3].T, [[-1, 0, 3], [1, 2, 5]])
    for text in ("", "1,2,3", "1,2,3,4,5,x", "1,2,3,4,5,nan"):
        with pytest.raises(BadInput, match="six numbers"):
            task_files.box_matrix(text)


def test_what_is_kept_must_be_a_generated_shape(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        task_files.read_latent(tmp_path / "none.npz")
    np.savez(tmp_path / "mesh.npz", vertices=np.zeros((3, 3)))
    with pytest.raises(BadInput, match="no generated shape"):
        task_files.read_latent(tmp_path / "mesh.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(BadInput, match="cannot be read"):
        task_files.read_latent(tmp_path / "text.npz")
