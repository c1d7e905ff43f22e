"""`run`: what it writes, what it prints, and what it says of every input that cannot be used."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from backend import blender_process, command_line, device
from backend.errors import BadInput, InternalError
from backend.geometry import mesh_files
from backend.protocol import Progress
from tests.command_line.input_files import (
    ball,
    octahedron,
    octahedron_volume,
    png,
    write_ply,
    write_voxels,
)

ROOT = Path(__file__).resolve().parents[2]


def everything_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------ what it makes


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".npz"])
@pytest.mark.usefixtures("quick")
def test_it_writes_the_mesh_in_the_frame_of_the_source(
    command: Callable[..., Any], tmp_path: Path, suffix: str
) -> None:
    folder = tmp_path / "ein Ordner für 形"
    folder.mkdir()
    source = write_ply(folder / "ein Stück.ply", ball())
    output = folder / f"das Ergebnis é{suffix}"
    done = command("run", "points-to-mesh", source, "-o", output)
    assert (done.code, done.err) == (0, "")
    assert str(output) in done.out
    assert "6 vertices, 8 faces" in done.out
    assert everything_below(folder) == {source, output}
    vertices, faces = read_back(output)
    assert octahedron_volume(vertices, faces) == pytest.approx(4 / 3, abs=1e-6)


def read_back(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays["vertices"], arrays["faces"]
    mesh = trimesh.load(path, force="mesh", process=False)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".npz", ".glb"])
def test_a_surveyed_cloud_keeps_its_shape_far_from_the_origin(
    command: Callable[..., Any], tmp_path: Path, suffix: str
) -> None:
    """In the metres of a map, where float32 has steps of half a metre."""
    middle = np.array([400_000.0, 5_000_000.0, 100.0])
    source, output = tmp_path / "scan.xyz", tmp_path / f"out{suffix}"
    np.savetxt(source, 0.5 * ball(2000).astype(float) + middle, fmt="%.4f")
    arguments = ["--resolution", 128, "--device", "cpu"]
    assert command("run", "points-to-mesh", source, "-o", output, *arguments).code == 0
    vertices, faces = read_back(output)
    if suffix == ".glb":
        vertices = vertices @ [[1, 0, 0], [0, 0, 1], [0, -1, 0]]  # from Y up
    radii = np.linalg.norm(vertices - middle, axis=1)
    assert np.abs(radii - 0.5).max() < 0.01
    volume = octahedron_volume(vertices - middle, faces)
    assert volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.02)


@pytest.mark.usefixtures("quick")
def test_voxels_are_read_from_json(command: Callable[..., Any], tmp_path: Path) -> None:
    grid = np.zeros((8, 8, 8), bool)
    grid[2:6, 2:6, 2:6] = True
    source = write_voxels(tmp_path / "cube.json", grid)
    done = command("run", "voxels-to-mesh", source, "-o", tmp_path / "cube.ply", "--json")
    assert done.code == 0
    assert done.record["faces"] == 8


@pytest.mark.usefixtures("quick")
def test_the_json_line_has_every_number(command: Callable[..., Any], tmp_path: Path) -> None:
    source, output = write_ply(tmp_path / "a.ply", ball()), tmp_path / "a.obj"
    done = command("run", "points-to-mesh", source, "-o", output, "--json", "--seed", 7)
    assert done.code == 0
    assert len(done.out.splitlines()) == 1
    record = done.record
    assert record.pop("total_seconds") >= 0
    assert record == {
        "output": str(output),
        "task": "points-to-mesh",
        "vertices": 6,
        "faces": 8,
        "seconds": {"Looking": 0.1, "Building": 0.2},
        "device": "cpu",
        "model": "wavelet-fit",
        "seed": 7,
    }


def test_options_reach_the_task(
    command: Callable[..., Any], pipeline: Callable[..., None], tmp_path: Path
) -> None:
    seen = {}

    def look(task: Any, context: Any) -> Iterator[Any]:
        seen.update(name=task.name, resolution=task.resolution, seed=task.seed, n=len(task.points))
        seen["device"] = context.device
        yield from octahedron(task, context)

    pipeline(look)
    source = write_ply(tmp_path / "Sessel links.ply", ball(321))
    options = ["--resolution", 128, "--seed", 3, "--device", "cpu"]
    done = command("run", "points-to-mesh", source, "-o", tmp_path / "a.npz", *options)
    assert done.code == 0
    expected = {"name": "Sessel links", "resolution": 128, "seed": 3, "n": 321, "device": "cpu"}
    assert seen == expected


@pytest.mark.usefixtures("quick")
def test_a_blend_file_is_made_by_blender(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    def fake(arrays: Path, report: Any, **outputs: Path) -> None:
        with np.load(arrays) as loaded:
            given.update({name: loaded[name].shape for name in loaded.files})
        outputs["blend"].write_bytes(b"BLENDER")

    monkeypatch.setattr(command_line, "preview", fake)
    source, output = write_ply(tmp_path / "a.ply", ball()), tmp_path / "a.blend"
    assert command("run", "points-to-mesh", source, "-o", output).code == 0
    assert output.read_bytes() == b"BLENDER"
    assert given == {"vertices": (6, 3), "faces": (8, 3), "name": ()}


@pytest.mark.usefixtures("quick")
def test_an_output_gets_the_permissions_of_any_new_file(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    source, output = write_ply(tmp_path / "a.ply", ball()), tmp_path / "a.ply.npz"
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert command("run", "points-to-mesh", source, "-o", output).code == 0
    assert output.stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize(
    ("name", "head", "row"),
    [
        ("bom.xyz", "\ufeff", "{:.6f} {:.6f} {:.6f}"),
        ("commas.xyz", "x,y,z\n", "{:.6f},{:.6f},{:.6f}"),
        ("commas and blanks.txt", "", "{:.6f}, {:.6f}, {:.6f}"),
        ("semicolons.txt", "", "{:.6f};{:.6f};{:.6f}"),
        (
            "capitals.ply",
            "ply\nformat ascii 1.0\nelement vertex 80\n"
            "property float X\nproperty float Y\nproperty float Z\nend_header\n",
            "{:.6f} {:.6f} {:.6f}",
        ),
    ],
)
def test_texts_as_other_programs_write_them(tmp_path: Path, name: str, head: str, row: str) -> None:
    points = ball(80)
    lines = "".join(row.format(*point) + "\n" for point in points.tolist())
    (tmp_path / name).write_text(head + lines, encoding="utf-8")
    np.testing.assert_allclose(mesh_files.read_points(tmp_path / name).points, points, atol=1e-6)


# ---------------------------------------------------------------------------------------- bad input


def plane() -> np.ndarray:
    points = ball(500)
    points[:, 2] = 0.3 * points[:, 0] - points[:, 1]
    return points


def with_nan() -> np.ndarray:
    points = ball(500)
    points[17, 1] = np.nan
    points[18, 2] = np.inf
    return points


BAD_POINTS = {
    "too few": (lambda: ball(49), "49 points are too few"),
    "none": (lambda: ball(0), "no points"),
    "not a number": (with_nan, "2 of 500 points"),
    "plane": (plane, "plane"),
    "line": (lambda: np.outer(np.linspace(0, 1, 200), [1, 2, 3]).astype(np.float32), "line"),
    "one point": (lambda: np.ones((200, 3), np.float32), "same place"),
}


@pytest.mark.parametrize("case", BAD_POINTS)
def test_points_that_have_no_surface(
    command: Callable[..., Any], tmp_path: Path, case: str
) -> None:
    points, words = BAD_POINTS[case]
    refused(command, "points-to-mesh", write_ply(tmp_path / "in.ply", points()), words)


def million_fold(path: Path, millions: int) -> None:
    """A file of that many millions of points that takes no room on the disk."""
    write_ply(path, ball(0), claimed=millions * 1_000_000)
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 12 * millions * 1_000_000)


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def odd_ply(path: Path) -> None:
    head = b"ply\nformat ascii 1.0\nelement vertex 60\nproperty float x\n"
    path.write_bytes(head + b"property quaternion w\nend_header\n" + b"1 2\n" * 60)


def flat_ply(path: Path) -> None:
    head = b"ply\nformat ascii 1.0\nelement vertex 60\nproperty float x\nproperty float y\n"
    path.write_bytes(head + b"end_header\n" + b"1 2\n" * 60)


BAD_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated": ("cut.ply", lambda p: write_ply(p, ball(100), claimed=5000), "5,000"),
    "200 million": ("huge.ply", lambda p: write_ply(p, ball(9), claimed=200_000_000), "200,000,0"),
    "200 million, all there": ("all.ply", lambda p: million_fold(p, 200), "200,000,000 points; 50"),
    "cut in a row": ("cut2.ply", lambda p: cut(write_ply(p, ball(900)), 5), "900 rows"),
    "cut in the header": ("cut3.ply", lambda p: p.write_bytes(b"ply\nformat asc"), "beginning"),
    "odd properties": ("odd.ply", odd_ply, "property quaternion w"),
    "no coordinates": ("flat.ply", flat_ply, "no coordinate z"),
    "a picture": ("photo.ply", lambda p: p.write_bytes(png()), "PNG"),
    "empty file": ("empty.ply", lambda p: p.write_bytes(b""), "empty"),
    "unknown suffix": ("cloud.xyzzy", lambda p: p.write_bytes(b"1 2 3"), ".xyzzy"),
    "no suffix": ("cloud", lambda p: p.write_bytes(b"1 2 3"), "suffix"),
    "decimal commas": ("de.xyz", lambda p: p.write_text("0,5 -1,25 2,0e3\n" * 60), "1,25"),
    "text of words": ("words.xyz", lambda p: p.write_text("some words\n" * 60), "words.xyz"),
    "npy of objects": (
        "objects.npy",
        lambda p: np.save(p, np.array([{"a": 1}], object), allow_pickle=True),
        "objects.npy",
    ),
    "npz without points": ("other.npz", lambda p: np.savez(p, weights=np.ones(5)), "points"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_hold_no_points(command: Callable[..., Any], tmp_path: Path, case: str) -> None:
    name, make, words = BAD_FILES[case]
    make(tmp_path / name)
    refused(command, "points-to-mesh", tmp_path / name, words)


BAD_VOXELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: write_voxels(p, np.zeros((16, 16, 16), bool)), "empty"),
    "full": (lambda p: write_voxels(p, np.ones((8, 8, 8), bool)), "full"),
    "too small": (lambda p: p.write_text('{"resolution": 4, "occupancy": [[0, 0, 1]]}'), "4"),
    "too large": (lambda p: p.write_text('{"resolution": 4096, "occupancy": [[0, 0, 9]]}'), "409"),
    "outside": (lambda p: p.write_text('{"resolution": 16, "occupancy": [[0, 0, 17]]}'), "outside"),
    "not JSON": (lambda p: p.write_text("voxels, please"), "JSON"),
    "other JSON": (lambda p: p.write_text('{"colour": "blue"}'), ".json"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_VOXELS)
def test_voxels_that_have_no_surface(
    command: Callable[..., Any], tmp_path: Path, case: str
) -> None:
    make, words = BAD_VOXELS[case]
    make(tmp_path / "in.json")
    refused(command, "voxels-to-mesh", tmp_path / "in.json", words)


def refused(command: Callable[..., Any], task: str, source: Path, words: str) -> None:
    """Exit code 2, one line with cause and remedy, the same as JSON, and no file is left."""
    before = everything_below(source.parent)
    output = source.parent / "out.glb"
    done = command("run", task, source, "-o", output)
    assert done.code == 2, done
    assert done.out == ""
    assert len(done.err.splitlines()) == 1, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    record = command("run", task, source, "-o", output, "--json").record["error"]
    assert record["cause"]
    assert record["remedy"]
    assert f"{record['cause']} {record['remedy']}" == done.err.strip()
    assert everything_below(source.parent) == before


def test_a_file_that_is_not_there(command: Callable[..., Any], tmp_path: Path) -> None:
    refused(command, "points-to-mesh", tmp_path / "nowhere.ply", "nowhere.ply")


def test_a_folder_is_no_input(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "folder.ply").mkdir()
    refused(command, "points-to-mesh", tmp_path / "folder.ply", "folder.ply is a folder")


def test_names_that_no_file_can_have(command: Callable[..., Any], tmp_path: Path) -> None:
    long = "a" * 300
    refused(command, "points-to-mesh", tmp_path / f"{long}.ply", "name too long")
    source = write_ply(tmp_path / "a.ply", ball())
    done = command("run", "points-to-mesh", source / "b.ply", "-o", tmp_path / "a.glb")
    assert (done.code, "There is no file" in done.err) == (2, True)
    done = command("run", "points-to-mesh", source, "-o", tmp_path / f"{long}.glb")
    assert (done.code, done.out) == (2, "")
    assert "cannot be the name of a file" in done.err


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "points-to-mesh", "a.ply"], "-o"),
        (["run", "paint-to-mesh", "a.png", "-o", "a.glb"], "points-to-mesh"),
        (["run", "image-to-mesh", "a.png", "-o", "a.glb"], "no file a.png"),
        (["run", "image-to-mesh", "-o", "a.glb"], "none was given"),
        (["run", "views-to-mesh", "-o", "a.glb"], "several files"),
        (["run", "shape", "a.ply", "-o", "a.glb"], "takes no input"),
        (["run", "shape", "-o", "a.glb"], "models download wala-shape-1b"),
        (["run", "shape", "-o", "a.glb", "--model", "wavelet-fit"], "wala-shape-1b"),
        (["run", "text-to-mesh", "-o", "a.glb"], "There is no text"),
        (["run", "text-to-mesh", "a", "--prompt", "a", "-o", "a.glb"], "twice"),
        (["run", "text-to-mesh", "a chair", "-o", "a.glb"], "wala-views-depth6-1b"),
        (["run", "shape", "-o", "a.glb", "--steps", "0"], "from 1 to 1000"),
        (["run", "shape", "-o", "a.glb", "--guidance", "99"], "guidance 99"),
        (["run", "shape", "-o", "a.glb", "--variations", "17"], "from 1 to 16"),
        (["run", "shape", "-o", "a.glb", "--up-axis", "x"], "invalid choice"),
        (["run", "shape", "-o", "a.glb", "--keep", "a.npz"], "belong together"),
        (["run", "shape", "-o", "a.glb", "--keep", "a.npz", "--region", "0,0,0,1,1,1"], "a.npz"),
        (["run", "points-to-mesh", "a.h5df", "-o", "a.glb"], "no file a.h5df"),
        (["run", "points-to-mesh", "a.ply", "-o", "a.glb", "--device", "cuda"], "NVIDIA"),
        (
            ["run", "shape", "-o", "a.glb", "--server", "http://x", "--device", "cpu"],
            "the server decides",
        ),
        (
            ["run", "shape", "-o", "a.glb", "--server", "http://x", "--preview", "p"],
            "Leave --preview out",
        ),
        (["run", "points-to-mesh", "a.ply", "-o", "a.glb", "--resolution", "300"], "128, 256, 512"),
        (["run", "points-to-mesh", "a.ply", "-o", "a.glb", "--resolution", "big"], "big"),
        (["run", "points-to-mesh", "a.ply", "-o", "a.glb", "--seed", "-1"], "2147483647"),
        (["run", "points-to-mesh", "a.ply", "-o", "a.glb", "--model", "wala"], "wavelet-fit"),
        (["run", "points-to-mesh", "a.ply", "-o", "a.glb", "--device", "tpu"], "tpu"),
        (["run", "points-to-mesh", "a.ply", "b.ply", "-o", "a.glb"], "one file"),
        (["run", "points-to-mesh", "a.ply", "-o", "a.stl"], ".glb, .obj, .ply, .npz, .blend"),
        (["run", "points-to-mesh", "a.ply", "-o", "a"], "suffix"),
        (["run", "points-to-mesh", "a.ply", "-o", "folder.glb"], "folder"),
        (["run", "points-to-mesh", "a.ply", "-o", "no/such/a.glb"], "no/such"),
        (["run", "points-to-mesh", "a.ply", "-o", "a.glb", "--sedd", "1"], "--sedd"),
        (["run", "points-to-mesh", "a.ply", "-o", "a.glb", "--server", "ftp://x"], "ftp://x"),
        (["paint"], "paint"),
    ],
)
def test_mistakes_on_the_command_line(
    command: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device, "_cuda_works", lambda: False)
    for name in ("a.ply", "b.ply"):
        write_ply(tmp_path / name, ball())
    (tmp_path / "folder.glb").mkdir()
    done = command(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert words in done.err
    assert everything_below(tmp_path) == {tmp_path / "a.ply", tmp_path / "b.ply"}


@pytest.mark.usefixtures("quick")
def test_an_output_that_cannot_be_written_is_known_before_the_work(
    command: Callable[..., Any], tmp_path: Path, pipeline: Callable[..., None]
) -> None:
    def work(task: Any, context: Any) -> Iterator[Any]:
        pytest.fail("the work was begun")
        yield

    pipeline(work)
    source = write_ply(tmp_path / "a.ply", ball())
    (tmp_path / "file").write_text("no folder")
    for place, code, words in (
        (tmp_path / "file", 2, "There is no folder"),
        (Path("/proc"), 1, "Nothing can be written"),
    ):
        done = command("run", "points-to-mesh", source, "-o", place / "a.glb")
        assert (done.code, done.out) == (code, "")
        assert words in done.err


# ------------------------------------------------------------------------------------ what can fail


def failing(error: BaseException) -> Callable[..., Iterator[Any]]:
    def work(task: Any, context: Any) -> Iterator[Any]:
        yield Progress("Working", 0.5)
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BadInput("The cloud is odd.", "Mend it."), 2, "The cloud is odd. Mend it."),
        (InternalError("It broke.", "Report it."), 1, "It broke. Report it."),
        (MemoryError(), 1, "not enough memory"),
        (OSError(28, "No space", "/x/y"), 1, "/x/y cannot be used: the disk is full"),
        (ValueError("negative dimensions"), 1, "ValueError: negative dimensions"),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)  # fmt: skip
def test_failures_have_an_exit_code_and_leave_nothing(
    command: Callable[..., Any],
    pipeline: Callable[..., None],
    tmp_path: Path,
    error: BaseException,
    code: int,
    words: str,
) -> None:
    pipeline(failing(error))
    source, output = write_ply(tmp_path / "a.ply", ball()), tmp_path / "a.glb"
    output.write_bytes(b"an earlier result")
    done = command("run", "points-to-mesh", source, "-o", output)
    assert done.code == code
    assert words in done.err
    assert "Traceback" not in done.err
    assert everything_below(tmp_path) == {source, output}
    assert output.read_bytes() == b"an earlier result"


@pytest.mark.usefixtures("quick")
def test_a_disk_that_is_full_is_told_with_the_name_that_was_given(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: Any, mode: str) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    source, output = write_ply(tmp_path / "a.ply", ball()), tmp_path / "my chair.glb"
    output.write_bytes(b"an earlier result")
    monkeypatch.setattr(mesh_files, "open", full, raising=False)
    done = command("run", "points-to-mesh", source, "-o", output)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("The disk is full; my chair.glb was not written.")
    assert output.read_bytes() == b"an earlier result"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ply", "my chair.glb"]


def test_a_result_larger_than_memory_is_told_before_the_work(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = device.Device("cpu", "Abacus", 1 << 20, 1 << 21)
    monkeypatch.setattr(device, "describe", lambda wanted: little)
    source = write_ply(tmp_path / "a.ply", ball())
    arguments = ["--resolution", 512, "--device", "cpu"]
    done = command("run", "points-to-mesh", source, "-o", tmp_path / "a.glb", *arguments)
    assert (done.code, done.out) == (1, "")
    assert re.match(r"This job needs about \d+\.\d GB of main memory; 0\.0 GB are free\.", done.err)
    assert "lower resolution" in done.err
    assert list(tmp_path.iterdir()) == [source]


def test_a_developer_gets_the_traceback(
    command: Callable[..., Any],
    pipeline: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline(failing(ValueError("where?")))
    source = write_ply(tmp_path / "a.ply", ball())
    monkeypatch.setenv("FIELDFORGE_DEBUG", "1")
    with pytest.raises(ValueError, match="where"):
        command("run", "points-to-mesh", source, "-o", tmp_path / "a.glb")


def test_a_pipeline_without_a_result_is_our_fault(
    command: Callable[..., Any], pipeline: Callable[..., None], tmp_path: Path
) -> None:
    def work(task: Any, context: Any) -> Iterator[Any]:
        yield Progress("Working", 0.5)

    pipeline(work)
    source = write_ply(tmp_path / "a.ply", ball())
    done = command("run", "points-to-mesh", source, "-o", tmp_path / "a.glb")
    assert (done.code, "without a result" in done.err) == (1, True)


def test_a_blender_that_fails_says_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "blender"
    fake.write_text('#!/bin/sh\necho "Blender 4.9.0"\necho "no such node" >&2\n')
    fake.chmod(0o755)
    monkeypatch.setenv("FIELDFORGE_BLENDER", str(fake))
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path / "home"))
    found = blender_process.find_blender()
    assert found is not None
    assert found.in_words() == f"Blender 4.9.0 ({fake})"
    monkeypatch.setattr(blender_process.environment, "ensure", lambda *a: Path("/no/such/python"))
    with pytest.raises(InternalError, match="could not make the scene"):
        blender_process.preview(tmp_path / "a.npz", lambda *a: None, blend=tmp_path / "a.blend")


# -------------------------------------------------------------------------------- as a real process


def environment_of_a_child() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "FIELDFORGE_INSIDE": "1"}


def test_a_process_that_is_interrupted_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    source, output = write_ply(tmp_path / "a.ply", ball(20_000)), tmp_path / "a.glb"
    code = (
        "import sys, time, types\n"
        "from backend import pipelines; from backend.__main__ import main\n"
        "from backend.protocol import Progress\n"
        "def work(task, context):\n"
        "    while True:\n"
        "        yield Progress('Working', 0.5); print('working', flush=True); time.sleep(0.05)\n"
        "module = types.ModuleType('backend.endless'); module.work = work\n"
        "sys.modules['backend.endless'] = module\n"
        "pipelines.PIPELINES['points-to-mesh', 'wavelet-fit'] = 'backend.endless:work'\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-c", code, "run", "points-to-mesh", str(source), "-o", str(output)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment_of_a_child(),
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        assert len(list(tmp_path.iterdir())) == 2  # the source and the folder of what is partial
        sent = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - sent < 5
        assert process.returncode == 130
        assert err.strip().endswith("Interrupted.")
        assert list(tmp_path.iterdir()) == [source]


def test_it_works_from_any_folder_as_a_process(tmp_path: Path) -> None:
    write_ply(tmp_path / "few.ply", ball(10))
    arguments = ["points-to-mesh", "few.ply", "-o", "a.glb", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "backend", "run", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment_of_a_child(),
        check=False,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "bad-input"
    assert len(done.stderr.splitlines()) == 1
