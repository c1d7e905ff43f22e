"""Meshes that models of shapes make of pictures have the colours of these, in their places.

The network is replaced by one that makes the true shape; pictures come from elsewhere: other
distance, other lens, cameras written down by their angles.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend import __main__
from backend.bench import known_things
from backend.geometry import mesh_files
from backend.geometry.transforms import apply_to_points
from backend.models.wala.model import RESOLUTION
from backend.pipelines import generate, surface_colors
from backend.protocol import VIEW_CAMERAS, MeshResult, MeshSet, ViewsToMesh, turned_up
from tests import wala_models
from tests.pipelines.conftest import last, mesh_of

THING = "torus, box and ball"
CAMERAS = (3, 6, 10, 26)
SHARE = 0.7
"""How large the shape is in the cube of the model, beside what was rendered."""

pytestmark = pytest.mark.usefixtures("store")


def pictures(background: int | None = None) -> np.ndarray:
    poses = [known_things.looking_at_origin(*VIEW_CAMERAS[number], 6.0) for number in CAMERAS]
    images = known_things.show(THING, np.stack(poses), 160, field=25.0).images
    if background is None:
        return images
    return np.where(images[..., 3:] > 127, images[..., :3], np.uint8(background))


def task(**changes: Any) -> ViewsToMesh:
    return ViewsToMesh(**{"images": pictures(), "model": "tiny-views4", "steps": 1, **changes})


@functools.cache
def true_field() -> np.ndarray:
    """(256, 256, 256) float32 distances of the thing in the frame of the models' cube: y is up."""
    nodes = np.arange(RESOLUTION) * (2 / RESOLUTION) - 1
    grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 3)
    upright = apply_to_points(turned_up("z"), grid)
    field = SHARE * known_things.distances(THING, upright / SHARE)
    return field.reshape((RESOLUTION,) * 3).astype(np.float32)


@pytest.fixture(autouse=True)
def true_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate._Generator, "field", lambda *_: true_field().copy())


def seen(mesh: MeshResult, up_axis: str = "z") -> np.ndarray:
    """(N, 3) of its vertices as the thing was rendered."""
    turn = turned_up("z") @ np.linalg.inv(turned_up(up_axis))
    return apply_to_points(turn, mesh.vertices) / SHARE


def errors(mesh: MeshResult, up_axis: str = "z") -> np.ndarray:
    """By how much colours are off, of 255, on the faces of the thing that cameras see: not below,
    and away from where its parts meet."""
    assert mesh.colors is not None
    places = seen(mesh, up_axis)
    off = np.abs(mesh.colors[:, :3] - known_things.colors(places)).mean(axis=1)
    return off[places[:, 2] > 0.1]


@pytest.mark.parametrize("up_axis", ["z", "y"])
def test_colours_lie_where_the_cameras_saw_them(up_axis: str) -> None:
    mesh = mesh_of(task(up_axis=up_axis))
    assert np.median(errors(mesh, up_axis)) < 4
    assert errors(mesh, up_axis).mean() < 12
    assert mesh.report["outlines"] > 0.93
    assert "Colouring" in mesh.report["seconds"]


def test_the_texture_shows_the_same_as_the_vertices() -> None:
    mesh = mesh_of(task(texture_size=512))
    assert mesh.uv is not None
    assert mesh.texture is not None
    assert mesh.colors is not None
    assert mesh.report["texture_size"] == 512
    texels = np.stack([(1 - mesh.uv[:, 1]) * 512, mesh.uv[:, 0] * 512], axis=1).astype(int)
    shown = mesh.texture[tuple(np.clip(texels, 0, 511).T)]
    off = np.abs(shown.astype(int) - mesh.colors[mesh.faces.ravel(), :3]).mean(axis=1)
    assert np.median(off) < 4
    plain = mesh_of(task(texture=False))
    assert plain.uv is None
    assert plain.texture is None
    np.testing.assert_array_equal(plain.colors, mesh.colors)


def test_cameras_in_another_order_and_pictures_with_plain_grounds() -> None:
    order = np.array([2, 0, 3, 1])
    cameras = tuple(np.array(CAMERAS)[order].tolist())
    mesh = mesh_of(task(images=pictures(235)[order], cameras=cameras, texture=False))
    assert np.median(errors(mesh)) < 4
    wrong = mesh_of(task(images=pictures(235)[order], texture=False))
    assert np.median(errors(wrong)) > 20


def test_every_variation_has_colours() -> None:
    found = last(task(variations=2, texture=False))
    assert isinstance(found, MeshSet)
    assert [mesh.colors is not None for mesh in found.meshes] == [True, True]


def test_what_cannot_be_coloured_is_told() -> None:
    room = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    for unknown in (task(images=room), task(images=pictures(235), background="keep")):
        mesh = mesh_of(unknown)
        assert mesh.colors is None
        assert surface_colors.NO_OUTLINES in mesh.report["notes"]


def test_outlines_of_something_else_are_told() -> None:
    bars = np.zeros((4, 64, 64, 4), np.uint8)
    bars[:, 30:34, :] = bars[:, :, 30:34] = [200, 40, 30, 255]
    mesh = mesh_of(task(images=bars, texture=False))
    assert surface_colors.ROUGH in mesh.report["notes"]


def test_depth_and_the_published_command_have_no_colours() -> None:
    depths = np.stack([wala_models.depth(seed) for seed in range(6)])
    for plain in (
        ViewsToMesh(depths=depths, model="tiny-depths6", steps=1),
        task(images=pictures(0), as_published=True),
    ):
        mesh = mesh_of(plain)
        assert mesh.colors is None
        assert mesh.texture is None


def test_the_command_line_writes_colours_and_texture(tmp_path: Path) -> None:
    files = []
    for number, image in enumerate(pictures()):
        files.append(str(tmp_path / f"view-{number}.png"))
        Image.fromarray(image).save(files[-1])
    output = tmp_path / "thing.obj"
    command = ["run", "views-to-mesh", *files, "-o", str(output), "--model", "tiny-views4"]
    assert __main__.main([*command, "--steps", "1", "--texture-size", "256"]) == 0
    assert (tmp_path / "thing-texture.png").is_file()
    plain = tmp_path / "plain.ply"
    command[command.index(str(output))] = str(plain)
    assert __main__.main([*command, "--steps", "1", "--no-texture"]) == 0
    assert mesh_files.read_points(plain).colors is not None
