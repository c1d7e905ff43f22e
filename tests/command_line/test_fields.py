"""Neural fields and what moves, from the command line: files in, files out, mistakes told."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from backend import field_files, fields_commands, moving_meshes, weights
from backend.geometry import anime, mesh_files
from backend.geometry.mesh_files import read_mesh, write_mesh
from backend.models.hyperdiffusion import occupancy
from backend.pipelines import mesh_to_field, resident
from backend.protocol import turned_up
from tests import exact_fields
from tests.exact_fields import moving, octahedron
from tests.geometry.test_moving_gltf import Player

Command = Callable[..., Any]
BOX = trimesh.creation.box((1, 2, 3))


@pytest.fixture(autouse=True)
def small_and_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setattr(occupancy, "POINTS", 16_000)
    monkeypatch.setattr(mesh_to_field, "CHECKED", 3_000)
    resident._models.clear()


def field_file(path: Path, field: Any) -> Path:
    path.write_bytes(field_files.to_bytes(field, path.stem))
    return path


def mesh_file(path: Path, moved: float = 0.0) -> Path:
    write_mesh(path, (BOX.vertices + np.array([moved, 0, 0])).astype(np.float32), BOX.faces)
    return path


def middle_of(points: np.ndarray) -> float:
    """Along x, of the box around them."""
    return float(points[:, 0].min() + points[:, 0].max()) / 2


def test_a_mesh_becomes_a_file_and_that_a_mesh(command: Command, tmp_path: Path) -> None:
    box, packed, back = mesh_file(tmp_path / "box.obj"), tmp_path / "b.ffield", tmp_path / "b.glb"
    done = command("run", "mesh-to-field", box, "-o", packed, "--effort", "fast", "--half")
    assert done.code == 0, done.err
    assert "78 KB" in done.out
    assert "IoU 0." in done.out
    field, name = field_files.read(packed)
    assert (name, field.weights.dtype) == ("box", np.float16)
    done = command("run", "field-to-mesh", packed, "-o", back, "--resolution", 64, "--json")
    assert done.code == 0, done.err
    assert done.record["frames"] == 1
    mesh = read_mesh(back)
    assert done.record["faces"] == len(mesh.faces)
    np.testing.assert_allclose(np.ptp(mesh.points, axis=0), [1, 2, 3], atol=0.3)


@pytest.mark.parametrize("source", ["anime", "files", "folder"])
def test_a_sequence_is_read_frame_by_frame(
    source: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "walk"
    folder.mkdir()
    # As people number files: the tenth comes after the ninth.
    files = [mesh_file(folder / f"walk-{k}.obj", 0.3 * k) for k in (9, 10, 11)]
    given: list[Path] = [folder] if source == "folder" else files
    if source == "anime":
        given = [tmp_path / "walk.anime"]
        frames = np.stack([BOX.vertices + np.array([0.3 * k, 0, 0]) for k in (9, 10, 11)])
        anime.write(given[0], frames.astype(np.float32), BOX.faces.astype(np.int32))
    seen = []

    def pipeline(task: Any, context: Any) -> Any:
        seen.append(task)
        return iter(())

    from backend import pipelines

    monkeypatch.setattr(pipelines, "_imported", lambda entry: pipeline)
    options = ("--fps", 12, "--loop", "--frames", 3)
    done = command("run", "mesh-to-field", *given, "-o", tmp_path / "w.ffield", *options)
    assert done.code != 0  # this pipeline makes nothing
    (task,) = seen
    assert (task.frame_count, task.fps, task.loop) == (3, 12, True)
    starts = task.vertices.reshape(3, 8, 3)[..., 0].min(axis=1)
    np.testing.assert_allclose(starts, [-0.5 + 0.3 * k for k in (9, 10, 11)], atol=1e-5)
    command("run", "mesh-to-field", *given, "-o", tmp_path / "w.ffield", "--frames", 2)
    assert (seen[1].frame_count, seen[1].fps) == (2, 16)  # two of three, in the same time


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the meshes that are read, as far as it comes."""
    read: list[str] = []

    def noted(path: Path) -> Any:
        read.append(path.name)
        return read_mesh(path)

    monkeypatch.setattr(mesh_files, "read_mesh", noted)
    return read


def test_more_frames_than_a_field_holds_are_refused_before_any_is_read(
    command: Command, tmp_path: Path, read_files: list[str]
) -> None:
    folder = tmp_path / "walk"
    folder.mkdir()
    for number in range(65):
        (folder / f"walk-{number}.obj").touch()
    frames = np.zeros((70, 8, 3), np.float32)
    anime.write(tmp_path / "walk.anime", frames, BOX.faces.astype(np.int32))
    output = ("-o", tmp_path / "w.ffield", "--json")
    for given in ([folder], [tmp_path / "walk.anime", "--frames", 65]):
        done = command("run", "mesh-to-field", *given, *output)
        assert "65 frames are more than the 64" in done.record["error"]["cause"]
        assert "--frames 16" in done.record["error"]["remedy"]
    assert not read_files


def test_frames_are_read_until_they_are_too_large_together(
    command: Command, tmp_path: Path, read_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving_meshes, "MAX_FRAME_FACES", 20)  # a box has 12
    files = [mesh_file(tmp_path / f"{k}.obj") for k in range(5)]
    done = command("run", "mesh-to-field", *files, "-o", tmp_path / "w.ffield", "--json")
    assert "24 faces; 20" in done.record["error"]["cause"]
    assert read_files == ["0.obj", "1.obj"]


def test_a_speed_that_cannot_be_played_is_told_before_files_are_read(
    command: Command, tmp_path: Path, read_files: list[str]
) -> None:
    box, output = mesh_file(tmp_path / "box.obj"), tmp_path / "w.ffield"
    done = command("run", "mesh-to-field", box, "-o", output, "--fps", 0, "--json")
    assert "0.0 frames a second" in done.record["error"]["cause"]
    assert not read_files


def test_few_frames_of_a_very_long_sequence_are_played_as_slowly_as_can_be(tmp_path: Path) -> None:
    frames = np.tile(BOX.vertices.astype(np.float32), (5000, 1, 1))
    anime.write(tmp_path / "long.anime", frames, BOX.faces.astype(np.int32))
    options = argparse.Namespace(
        **{"input": [str(tmp_path / "long.anime")], "frames": 2, "fps": None, "loop": False},
        **{"effort": "fast", "half": False, "topology": None, "resolution": None},
        output=tmp_path / "long.glb",
    )
    task = fields_commands.read_mesh_to_field(options, {"model": "", "seed": 0, "up_axis": "z"})
    assert (task.frame_count, task.fps) == (2, 0.01)
    task.validate()


def test_an_animation_becomes_a_glb_that_moves(command: Command, tmp_path: Path) -> None:
    packed = field_file(tmp_path / "fish.ffield", moving(0.3, loop=True))
    options = ("--resolution", 64, "--json")
    done = command("run", "field-to-mesh", packed, "-o", tmp_path / "fish.glb", *options)
    assert done.code == 0, done.err
    assert (done.record["frames"], done.record["one_topology"]) == (5, True)
    player = Player((tmp_path / "fish.glb").read_bytes())
    assert player.duration == pytest.approx(0.5)
    centres = [middle_of(player.at(time)[0][0]) for time in (0, 0.1, 0.4)]
    np.testing.assert_allclose(centres, [0, 0.02, 0.08], atol=6e-3)
    steps = ("-o", tmp_path / "steps.glb", "--topology", "frames", *options)
    done = command("run", "field-to-mesh", packed, *steps)
    assert not done.record["one_topology"]
    assert len(Player((tmp_path / "steps.glb").read_bytes()).document["nodes"]) == 5


@pytest.mark.parametrize("up_axis", ["y", "z"])
def test_a_glb_stands_upright_whatever_axis_was_up(
    up_axis: str, command: Command, tmp_path: Path
) -> None:
    """A field's y axis is up; .glb has y up, and as it is read here, z."""
    tall = octahedron(0.3, to_source=turned_up(up_axis) @ np.diag([1.0, 3, 1, 1]))
    packed = field_file(tmp_path / "tall.ffield", tall)
    output = tmp_path / "tall.glb"
    assert command("run", "field-to-mesh", packed, "-o", output, "--resolution", 32).code == 0
    size = np.ptp(read_mesh(output).points, axis=0)
    np.testing.assert_allclose(size, [0.6, 0.6, 1.8], rtol=0.12)


def test_frames_as_files_of_their_own(command: Command, tmp_path: Path) -> None:
    packed = field_file(tmp_path / "fish.ffield", moving(0.3))
    done = command(
        "run", "field-to-mesh", packed, "-o", tmp_path / "out.obj", "--resolution", 32, "--json"
    )
    assert done.code == 0, done.err
    names = [tmp_path / f"out-{k:03}.obj" for k in range(1, 6)]
    assert done.record["outputs"] == [str(name) for name in names]
    for number, name in enumerate(names):
        assert middle_of(read_mesh(name).points) == pytest.approx(0.02 * number, abs=0.01)


def test_between_two_fields(command: Command, tmp_path: Path) -> None:
    small = field_file(tmp_path / "small.ffield", octahedron(0.2))
    large = field_file(tmp_path / "large.ffield", octahedron(0.4))
    output = tmp_path / "grow.npz"
    done = command(
        "run", "field-to-mesh", small, large, "-o", output, "--between", 3, "--resolution", 32
    )
    assert done.code == 0, done.err
    with np.load(output) as arrays:
        np.testing.assert_allclose(arrays["amounts"], [0, 0.25, 0.5, 0.75, 1])
        assert len(arrays["vertex_counts"]) == 5
    middle = tmp_path / "middle.ffield"
    done = command("run", "field-to-mesh", small, large, "-o", middle, "--amounts", "0.5", "--json")
    assert done.code == 0, done.err
    assert done.record["mixed"] == "weights"
    np.testing.assert_allclose(
        field_files.read(middle)[0].weights, exact_fields.vector(0.3), atol=1e-5
    )


def test_a_field_as_hyperdiffusion_saves_it(command: Command, tmp_path: Path) -> None:
    tensors = field_files.tensors_of(octahedron(0.3))
    path = tmp_path / "occ_1_jitter_0_model_final.pth"
    torch.save({name: torch.from_numpy(array.copy()) for name, array in tensors.items()}, path)
    done = command("run", "field-to-mesh", path, "-o", tmp_path / "a.ply", "--resolution", 64)
    assert done.code == 0, done.err
    mesh = read_mesh(tmp_path / "a.ply")
    np.testing.assert_allclose(np.abs(mesh.points).max(axis=0), 0.3, atol=0.02)


def test_out_of_noise(command: Command, tmp_path: Path) -> None:
    exact_fields.write_model(tmp_path / "store" / "swimmers", is_moving=True, names=("fish",))
    output = tmp_path / "swim.glb"
    make = ("run", "animation", "-o", output, "--resolution", 32, "--variations", 2, "--json")
    done = command(*make, "--choice", "fish", "--topology", "frames")
    assert done.code == 0, done.err
    assert done.record["outputs"] == [str(tmp_path / f"swim-{k}.glb") for k in (1, 2)]
    assert done.record["model"] == "swimmers"
    bodies = [Path(name).read_bytes() for name in done.record["outputs"]]
    assert bodies[0] != bodies[1]
    assert command(*make, "--choice", "fish", "--topology", "frames").code == 0
    assert [Path(name).read_bytes() for name in done.record["outputs"]] == bodies


def test_a_shape_keeps_its_field_in_a_file(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.pipelines import animation

    monkeypatch.setattr(animation, "SHAPE_RESOLUTION", 32)
    exact_fields.write_model(tmp_path / "store" / "still")
    done = command("run", "shape", "-o", tmp_path / "a.ffield", "--model", "still")
    assert done.code == 0, done.err
    assert field_files.read(tmp_path / "a.ffield")[0].start


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["mesh-to-field", "-o", "a.ffield"], "none was given"),
        (["mesh-to-field", "none.obj", "-o", "a.ffield"], "no file"),
        (["mesh-to-field", "empty", "-o", "a.ffield"], "holds no meshes"),
        (["mesh-to-field", "cloud.ply", "-o", "a.ffield"], "no faces"),
        (["mesh-to-field", "box.obj", "-o", "a.blend"], "makes no .blend"),
        (["mesh-to-field", "box.obj", "-o", "a"], "file without a suffix"),
        (["mesh-to-field", "box.obj", "-o", "a.glb", "--resolution", "100"], "Resolution 100"),
        (["mesh-to-field", "box.obj", "-o", "a.glb", "--fps", "0"], "0.0 frames a second"),
        (["mesh-to-field", "box.obj", "-o", "a.glb", "--variations", "2"], "no variations"),
        (["field-to-mesh", "-o", "a.glb"], "0 were given"),
        (["field-to-mesh", "box.obj", "-o", "a.glb"], "no neural field"),
        (["field-to-mesh", "none.ffield", "-o", "a.glb"], "no file"),
        (["field-to-mesh", "none.pth", "-o", "a.glb"], "no file"),
        (["field-to-mesh", "bad.ffield", "-o", "a.glb"], "bad.ffield is no neural field"),
        (["field-to-mesh", "still.ffield", "fish.ffield", "-o", "a.glb"], "one of them moves"),
        (["field-to-mesh", "still.ffield", "-o", "a.glb", "--amounts", "x"], "no numbers"),
        (["field-to-mesh", "still.ffield", "-o", "a.glb", "--amounts", "0.5"], "one shape only"),
        (
            ["field-to-mesh", *["still.ffield"] * 2, "-o", "a.glb", "--between", "0"],
            "0 shapes between",
        ),
        (
            ["field-to-mesh", *["still.ffield"] * 2, "-o", "a.ffield", "--between", "2"],
            "holds one field, not 4",
        ),
        (["field-to-mesh", *["fish.ffield"] * 2, "-o", "a.ffield"], "holds one field, not 11"),
        (
            ["field-to-mesh", "still.ffield", "far.ffield", "-o", "a.ffield", "--amounts", "0.5"],
            "by their surfaces is no field",
        ),
        (["animation", "fish", "-o", "a.glb"], "takes no input"),
        (["animation", "-o", "a.glb", "--frames", "99"], "frames, 99"),
        (["animation", "-o", "a.glb"], "cannot do animation"),
        (["points-to-mesh", "cloud.ply", "-o", "a.ffield"], "makes no neural field"),
    ],
)
def test_mistakes_are_told(
    words: list[str], cause: str, command: Command, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    mesh_file(tmp_path / "box.obj")
    write_mesh(tmp_path / "cloud.ply", np.zeros((9, 3), np.float32), np.zeros((0, 3), np.int32))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.ffield").write_bytes(b"nothing of the kind")
    field_file(tmp_path / "still.ffield", octahedron(0.3))
    field_file(tmp_path / "far.ffield", octahedron(0.3, order=(3, 5, 0, 1, 2, 4)))
    field_file(tmp_path / "fish.ffield", moving(0.3))
    done = command("run", *words, "--json")
    assert done.code != 0
    assert cause in done.record["error"]["cause"]
    assert done.record["error"]["remedy"]
    assert not list(tmp_path.glob("a*"))
