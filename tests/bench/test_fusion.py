"""The things that views are measured with."""

from __future__ import annotations

import numpy as np
import pytest

from backend.bench import fusion, known_things
from backend.geometry.isosurface import marching_cubes


@pytest.mark.parametrize("thing", known_things.THINGS)
def test_pictures_show_the_surface(thing: str) -> None:
    poses = known_things.ring(2, 20)
    shown = known_things.show(thing, poses, 48)
    for view in range(2):
        rows, columns = np.nonzero(np.isfinite(shown.depths[view]))
        depth = shown.depths[view, rows, columns].astype(np.float64)
        fx, fy, cx, cy = shown.intrinsics[view].astype(np.float64)
        seen = np.stack([(columns - cx) / fx * depth, -(rows - cy) / fy * depth, -depth], axis=1)
        pose = shown.poses[view].astype(np.float64)
        points = seen @ pose[:3, :3].T + pose[:3, 3]
        assert len(points) > 100
        assert np.abs(known_things.distances(thing, points)).max() < 1e-5
        whole = shown.images[view, rows, columns, 3] == 255
        # A pixel shows the mean of the colours in it, at outlines; else that of its middle.
        off = np.abs(
            shown.images[view, rows, columns, :3][whole] - known_things.colors(points)[whole]
        )
        assert np.quantile(off, 0.9) < 0.51


def test_shares_of_outline_pixels_are_areas() -> None:
    shown = known_things.show("torus, box and ball", known_things.ring(1, 0), 64, samples=8)
    fine = known_things.show("torus, box and ball", known_things.ring(1, 0), 512)
    area = np.isfinite(fine.depths).mean()
    assert shown.images[0, ..., 3].mean() / 255 == pytest.approx(area, rel=0.01)


def test_iou_of_the_thing_itself_is_one() -> None:
    axes = np.linspace(-1.1, 1.1, 90)
    grid = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), axis=-1).reshape(-1, 3)
    field = known_things.distances("cup", grid).reshape(90, 90, 90).astype(np.float32)
    vertices, faces = marching_cubes(field)
    placed = vertices * (2.2 / 89) - 1.1
    assert known_things.iou("cup", placed, faces, 80) > 0.96
    moved = placed + np.array([0.05, 0, 0])
    assert known_things.iou("cup", moved, faces, 80) < 0.8
    assert known_things.iou("cup", placed, faces[::2], 80) < 0.9


def test_points_on_the_surface_are_on_it() -> None:
    points = known_things.on_surface("stool", 500)
    assert points.shape == (500, 3)
    assert np.abs(known_things.distances("stool", points)).max() < 1e-5


def test_a_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    poses = known_things.all_around(8)
    thing = known_things.THINGS[0]
    monkeypatch.setattr(fusion, "_sets", lambda: iter([("8", thing, poses, 64, False)]))
    monkeypatch.setattr(fusion, "_SIZE", 96)
    monkeypatch.setattr(fusion, "_RESOLUTION", 64)
    monkeypatch.setattr(fusion, "_open3d", lambda *_: None)
    depth, outlines = fusion.rows()
    assert depth["closed"]
    assert outlines["closed"]
    assert depth["IoU"] > 0.93 > outlines["IoU"]
    assert depth["pieces"] == 1
    assert depth["colour"] < 2
    assert depth["texture"] < 2
