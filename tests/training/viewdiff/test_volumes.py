"""Volumes that are carved out of views."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backend.errors import BadInput
from backend.posed_images import PosedImages
from backend.training.viewdiff import evaluate, renderings, scenes, volumes
from backend.training.viewdiff.networks import HALF_BOX
from tests import posed_boxes


def views_of(number: int, size: int = 64) -> tuple[scenes.Scene, PosedImages]:
    scene = posed_boxes.block(number)
    poses, lens = scenes.cameras(np.random.default_rng(number), 1.5, size)
    return scene, evaluate.true_views(scene, poses, lens, size)


def middles() -> np.ndarray:
    """(32,) of the voxels along an axis."""
    return (np.arange(32) + 0.5) / 32 * 2 * HALF_BOX - HALF_BOX


@pytest.mark.parametrize("number", range(4))
def test_a_box_is_where_it_is(number: int) -> None:
    scene, posed = views_of(number)
    share, _ = volumes.volume_of(posed)
    assert share.shape == (32, 32, 32)
    half = np.abs(scene.vertices).max(axis=0)
    inside = [np.abs(middles()) < extent for extent in half]
    truth = inside[2][:, None, None] & inside[1][None, :, None] & inside[0][None, None, :]
    found = share >= 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.8
    cell = (2 * HALF_BOX / 32) ** 3
    assert share.sum() * cell == pytest.approx(8 * half.prod(), rel=0.15)


def test_colours_are_those_of_the_sides() -> None:
    """Each side of a box has its own: red on one side of the world, blue on the other."""
    scene, _ = views_of(1)
    red, blue = np.float32([0.8, 0.0, 0.0]), np.float32([0.0, 0.0, 0.8])
    painted = scenes.Scene(
        scene.vertices,
        scene.faces,
        lambda face, place, normal: np.where(place[:, :1] > 0, red, blue),
        scene.light,
    )
    poses, lens = scenes.cameras(np.random.default_rng(1), 1.5, 64)
    share, colours = volumes.volume_of(evaluate.true_views(painted, poses, lens, 64))
    solid = share > 0.5
    for along, (high, low) in ((middles() > 0.1, (0, 2)), (middles() < -0.1, (2, 0))):
        there = colours[:, :, along][solid[:, :, along]]
        assert (there[:, high] > there[:, low] + 0.2).mean() > 0.97
    # Where nobody sees anything, the nearest colour is.
    middle = colours[16, 16, 20]
    assert middle[0] > middle[2] + 0.2


def test_without_depth_nothing_is_carved() -> None:
    _, posed = views_of(0, 16)
    flat = PosedImages(posed.images, posed.poses, posed.intrinsics, posed.names)
    with pytest.raises(ValueError, match="depth"):
        volumes.volume_of(flat)


def test_files_of_what_is_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, posed = views_of(2, 32)
    assert posed.depths is not None
    (tmp_path / "views").mkdir()
    stem = tmp_path / "views" / "train-32-00000"
    np.save(f"{stem}.rgba.npy", posed.images[None])
    depth = np.rint(posed.depths[None] * renderings.DEPTH_LEVELS).astype(np.uint16)
    np.save(f"{stem}.depth.npy", depth)
    rows = np.concatenate([posed.poses.reshape(-1, 16), posed.intrinsics], axis=1)
    np.save(f"{stem}.cameras.npy", rows[None])
    entry = {"name": "box 0", "caption": "box", "attribution": ""}
    stem.with_suffix(".json").write_text(json.dumps([entry]), "utf-8")
    with pytest.raises(BadInput, match="no volumes"):
        volumes.load(tmp_path / "out", "train", 32, 1)
    volumes.make(tmp_path / "views", tmp_path / "out", "train", 32, 1, lambda *_: None)
    share, colours = volumes.load(tmp_path / "out", "train", 32, 1)
    expected = volumes.volume_of(posed)
    assert np.abs(share[0] / 255 - expected[0]).max() < 0.003
    # Depth was rounded on its way, which moves a few places into sight or out of it.
    assert np.abs(colours[0] / 255 - expected[1]).mean() < 0.003
    made: list[int] = []
    monkeypatch.setattr(volumes, "_make_shard", made.append)
    volumes.make(tmp_path / "views", tmp_path / "out", "train", 32, 1, lambda *_: None)
    assert not made  # they are there
