"""`demo`: all files or none, from examples that are what they say they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend import command_line, pipelines, weights
from backend.demo import EXAMPLE
from backend.errors import InternalError
from backend.geometry.mesh_files import read_points, read_voxels
from backend.protocol import ImageToMesh, PointsToMesh, VoxelsToMesh

EXAMPLES = EXAMPLE.parent
NAMES = {"demo.glb", "demo.blend", "demo.png", "demo-picture.glb", "demo-picture.png"}


@pytest.fixture
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures give an octahedron at once; `quick` is asked for before."""
    entry = pipelines.PIPELINES[PointsToMesh.kind, "wavelet-fit"]
    monkeypatch.setitem(pipelines.PIPELINES, (ImageToMesh.kind, "wala"), entry)
    monkeypatch.setattr(weights, "BUNDLED", weights.REGISTRY.parent)


@pytest.fixture
def blender(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, tuple[int, ...]]]:
    """Stands in for Blender; remembers the shapes of the arrays that it was given."""
    seen: list[dict[str, tuple[int, ...]]] = []

    def fake(arrays: Path, report: Any, **outputs: Path) -> None:
        with np.load(arrays) as loaded:
            seen.append({name: loaded[name].shape for name in loaded.files})
        for name, path in outputs.items():
            path.write_bytes(name.encode())

    monkeypatch.setattr(command_line, "preview", fake)
    return seen


@pytest.mark.usefixtures("quick", "quick_pictures")
def test_it_makes_its_files_and_says_where(
    command: Callable[..., Any], blender: list[dict[str, tuple[int, ...]]], tmp_path: Path
) -> None:
    folder = tmp_path / "tief" / "unten für 空"
    done = command("demo", "-o", folder)
    assert done.code == 0
    assert {path.name for path in folder.iterdir()} == NAMES
    for name in NAMES:
        assert str(folder / name) in done.out
    assert blender[0]["points"] == (50_000, 3)
    assert blender[0]["point_colors"] == (50_000, 4)
    assert [seen["faces"] for seen in blender] == [(8, 3), (8, 3)]
    assert "points" not in blender[1]
    assert "Lighting and rendering" in done.err


@pytest.mark.usefixtures("quick", "quick_pictures")
def test_a_failure_keeps_what_an_earlier_run_made(
    command: Callable[..., Any],
    blender: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert command("demo", "-o", tmp_path).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(arrays: Path, report: Any, **outputs: Path) -> None:
        outputs["blend"].write_bytes(b"half")
        raise InternalError("Blender broke.", "Mend it.")

    monkeypatch.setattr(command_line, "preview", fail)
    done = command("demo", "-o", tmp_path)
    assert (done.code, "Blender broke. Mend it." in done.err) == (1, True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("quick", "quick_pictures", "blender")
def test_a_folder_that_cannot_be_made(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = command("demo", "-o", tmp_path / "file" / "out")
    assert done.code == 1
    assert "cannot be made" in done.err


def test_the_scan_is_a_scan() -> None:
    cloud = read_points(EXAMPLE)
    assert cloud.colors is not None
    assert cloud.normals is None
    PointsToMesh(points=cloud.points, colors=cloud.colors).validate()
    low, high = cloud.points.min(axis=0), cloud.points.max(axis=0)
    assert high[2] - low[2] == pytest.approx(0.456, abs=0.01)  # metres, standing upright
    assert abs(low[2]) < 0.001
    assert len(np.unique(cloud.colors[:, :3], axis=0)) > 1000


def test_the_voxels_are_voxels() -> None:
    voxels = read_voxels(EXAMPLES / "lantern.json")
    VoxelsToMesh(occupancy=voxels.occupancy).validate()
    assert voxels.occupancy.shape == (32, 32, 32)
    filled = np.argwhere(voxels.occupancy)
    assert filled.min() >= 1  # a margin all around, so that the surface can close
    assert filled.max() <= 30
    assert np.ptp(filled[:, 2]) == 29  # upright: the longest side is the height


def test_the_shapes_of_the_benchmark_are_whole() -> None:
    with np.load(EXAMPLES / "bench_shapes.npz") as arrays:
        names = sorted({name.rpartition("_")[0] for name in arrays.files})
        assert len(names) >= 8
        assert set(arrays.files) == {f"{n}_{part}" for n in names for part in ("vertices", "faces")}
        for name in names:
            vertices, faces = arrays[f"{name}_vertices"], arrays[f"{name}_faces"]
            assert (vertices.dtype, faces.dtype) == (np.int16, np.uint16)
            assert set(np.unique(faces)) == set(range(len(vertices)))
            low, high = vertices.min(axis=0).astype(int), vertices.max(axis=0).astype(int)
            assert (high - low).max() == pytest.approx(2 * 32767, abs=2)
            assert np.abs(low + high).max() <= 2
