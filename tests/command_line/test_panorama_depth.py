"""panorama-to-depth from a picture to files, with a model that knows the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend import weights
from backend.conditions import panoramas
from backend.depth_meanings import DepthMeaning, radii
from backend.models.panorama_depth.evaluation import depth_errors
from backend.pipelines import panorama_to_depth
from backend.protocol import PanoramaToDepth
from tests.models.panorama_depth import rooms


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """room.png; a model is installed, which knows it."""
    store = tmp_path / "store"
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    weights.write_snapshot(
        store / "depth-knowing",
        {"config.json": tmp_path / "config.json"},
        id="depth-knowing",
        title="Knowing",
        family="panorama-depth",
        tasks=(PanoramaToDepth.kind,),
        config={},
        steps=1,
    )
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(store))
    monkeypatch.setattr(panorama_to_depth, "load", lambda *_: rooms.KnowingModel(96))
    Image.fromarray(rooms.picture()).save(tmp_path / "room.png")
    return tmp_path / "room.png"


def test_depth_as_openexr_is_in_metres(command: Callable[..., Any], room: Path) -> None:
    path = room.with_name("depth.exr")
    done = command("run", "panorama-to-depth", room, "-o", path, "--json")
    assert done.code == 0, done.err
    assert done.record["output"] == str(path)
    assert any("1.6 m" in note for note in done.record["notes"])
    errors = depth_errors(panoramas.read_depth(path), rooms.truth(512))
    assert errors.abs_rel < 0.02  # the eye of this room is as high as is assumed
    assert errors.compared == pytest.approx(1)


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz"])
def test_depth_in_full_precision_and_what_it_means(
    suffix: str, command: Callable[..., Any], room: Path
) -> None:
    path = room.with_name(f"depth{suffix}")
    done = command("run", "panorama-to-depth", room, "-o", path)
    assert done.code == 0, done.err
    assert "near is 1.2" in done.err
    depth = panoramas.read_depth(path)
    if suffix == ".png":
        assert depth.dtype == np.float32
        assert len(np.unique(depth)) > 5000
    meaning = panoramas.read_told_depth(path)[1]
    assert (meaning is None) == (suffix == ".npy")
    meaning = meaning or DepthMeaning("inverse", near=1.28, far=4.97)
    assert abs(meaning.near - 1.28) < 0.01
    assert abs(meaning.far - 4.97) < 0.05
    errors = depth_errors(radii(depth.astype(np.float32), meaning), rooms.truth(512), "scale")
    assert errors.abs_rel < 0.02


def test_a_picture_that_is_not_all_around_is_refused(
    command: Callable[..., Any], room: Path
) -> None:
    Image.fromarray(rooms.picture()[:, :300]).save(room)
    path = room.with_name("depth.exr")
    done = command("run", "panorama-to-depth", room, "-o", path)
    assert done.code == 2
    assert "twice as wide as high" in done.err
    assert not path.exists()
