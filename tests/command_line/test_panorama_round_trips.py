"""Depth of panoramas that was written here keeps its metres, and its holes, when it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend import panorama_commands
from backend.__main__ import make_parser
from backend.depth_meanings import DepthMeaning, radii
from backend.protocol import PanoramaResult, PanoramaToSphere
from backend.task_files import read_task

PICTURE = np.random.default_rng(1).integers(0, 255, (32, 64, 3), dtype=np.uint8)
MEANINGS = [
    DepthMeaning(),
    DepthMeaning("inverse", near=0.7, far=22.0),
    DepthMeaning("inverse", inverted=True, near=0.7, far=22.0),
    DepthMeaning("paper", radius=3.0, strength=0.5),
]


def task_of(*arguments: str | Path) -> PanoramaToSphere:
    options = make_parser().parse_args(["run", "panorama-to-sphere", *map(str, arguments)])
    task = read_task(options)
    assert isinstance(task, PanoramaToSphere)
    return task


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(PICTURE).save(tmp_path / "room.png")
    return tmp_path / "room.png"


@pytest.mark.parametrize("suffix", [".png", ".npz"])
@pytest.mark.parametrize("meaning", MEANINGS, ids=lambda meaning: meaning.meaning)
def test_metres_and_holes_return(suffix: str, meaning: DepthMeaning, picture: Path) -> None:
    depth = np.linspace(0, 1, 32 * 64, dtype=np.float32).reshape(32, 64)
    if meaning.meaning == "metric":
        depth = 0.3 + 8 * depth
        depth[0, 0] = 2.5
    depth[4:9, 10:20] = np.nan
    depth[3, 3] = np.inf
    path = picture.with_name(f"depth{suffix}")
    result = PanoramaResult(name="Room", image=PICTURE, depth=depth, meaning=meaning, report={})
    panorama_commands.write([path], result, lambda stage, share: None)
    task = task_of(picture, path, "-o", "room.glb")
    assert task.meaning == meaning
    assert task.depth is not None
    known = np.isfinite(depth)
    np.testing.assert_array_equal(np.isfinite(task.depth), known)
    found, true = radii(task.depth, task.meaning)[known], radii(depth, meaning)[known]
    assert np.abs(found - true).max() <= 0.006
    near = true < 3
    assert np.abs(found - true)[near].max() <= 0.00051
    if meaning.meaning == "metric":
        assert found[0] == pytest.approx(2.5)
    other = task_of(picture, path, "-o", "room.glb", "--far", "30", "--depth-scale", "2")
    assert other.meaning == dataclasses.replace(meaning, far=30.0, scale=2.0)


def test_metres_that_a_png_cannot_hold_are_told_of(picture: Path) -> None:
    """Not sky, which has no distance and keeps none."""
    depth = np.full((32, 64), 3.0, np.float32)
    depth[:8] = np.inf
    depth[8] = [50.0, 80.0] * 32
    result = PanoramaResult(name="Room", image=PICTURE, depth=depth, meaning=DepthMeaning())
    path = picture.with_name("depth.png")
    for paths in ([path], [picture.with_name("a.png"), path]):
        notes = panorama_commands.write(paths, result, lambda stage, share: None)
        assert len(notes) == 1
        assert "1.6% of the depth is farther than 65.5 metres" in notes[0]
        assert ".exr or .npz" in notes[0]
    found = task_of(picture, path, "-o", "room.glb").depth
    assert found is not None
    assert np.isposinf(found[:8]).all()
    np.testing.assert_allclose(found[8:], np.minimum(depth[8:], 65.535), atol=0.0006)
    for name in ("depth.exr", "depth.npz"):
        path = picture.with_name(name)
        assert panorama_commands.write([path], result, lambda stage, share: None) == []
        kept = task_of(picture, path, "-o", "room.glb").depth
        np.testing.assert_allclose(kept, depth, rtol=1e-3)
    near = dataclasses.replace(result, depth=np.minimum(depth, 65.535))
    unclear = dataclasses.replace(result, meaning=DepthMeaning(meaning="inverse", far=500.0))
    for other in (near, unclear):
        assert panorama_commands.write([picture.with_name("b.png")], other, lambda s, f: None) == []


def test_levels_of_other_programs_are_millimetres_when_metric(picture: Path) -> None:
    path = picture.with_name("camera.png")
    levels = np.full((32, 64), 2500, np.uint16)
    levels[0, 0] = 0
    Image.fromarray(levels).save(path)
    task = task_of(picture, path, "-o", "room.glb", "--depth-meaning", "metric")
    assert task.depth is not None
    assert task.depth.dtype == np.float32
    assert task.depth[0, 0] == 0
    assert task.depth[1, 1] == pytest.approx(2.5)
    untold = task_of(picture, path, "-o", "room.glb")
    assert untold.meaning.meaning == "inverse"
    np.testing.assert_array_equal(untold.depth, levels)


def test_a_meaning_of_another_program_is_passed_over(picture: Path) -> None:
    path = picture.with_name("depth.npz")
    np.savez(path, depth=np.full((32, 64), 3, np.float32), meaning=np.array("metres"))
    assert task_of(picture, path, "-o", "room.glb").meaning == DepthMeaning()


def test_a_stated_meaning_that_means_nothing_is_refused(
    command: Callable[..., Any], picture: Path
) -> None:
    path = picture.with_name("depth.npz")
    text = np.array('{"meaning": "inverse", "near": 5, "far": 2}')
    np.savez(path, depth=np.full((32, 64), 3, np.float32), meaning=text)
    done = command("run", "panorama-to-sphere", picture, path, "-o", picture.with_name("a.glb"))
    assert done.code == 2
    assert "is not before the far end" in done.err
