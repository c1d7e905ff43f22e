"""A picture or words to views from a model's own cameras, and on to a mesh."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend import pipelines, weights
from backend.errors import BadInput, NotInstalled
from backend.models.mvadapter.cameras import stand_ins
from backend.models.mvadapter.config import AZIMUTHS, FAR
from backend.pipelines import Context, fixed_views, resident
from backend.protocol import (
    ImageToViews,
    MeshResult,
    Progress,
    TextToViews,
    ViewsResult,
    ViewsToScene,
    ring_poses,
)
from tests import mvadapter_models, viewdiff_models

CPU = Context("cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDFORGE_WEIGHTS", str(folder / "store"))
        mvadapter_models.write_base(folder / "store", folder / "parts")
        mvadapter_models.write(folder / "store", "adapter-image", reads_pictures=True)
        mvadapter_models.write(folder / "store", "adapter-text", reads_pictures=False)
        viewdiff_models.write_pixels(folder / "store")
    return folder / "store"


@pytest.fixture(autouse=True)
def store(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(written))
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path / "home"))
    resident._models.clear()
    yield written
    resident._models.clear()


def photo() -> np.ndarray:
    y, x = np.mgrid[:40, :60]
    disc = (x - 30) ** 2 + (y - 16) ** 2 < 100
    return np.where(disc[..., None], np.uint8([200, 60, 30]), np.uint8(228))[None]


def of_picture(**fields: Any) -> ImageToViews:
    return ImageToViews(**{"images": photo(), "model": "adapter-image", "seed": 4, **fields})


def of_words(**fields: Any) -> TextToViews:
    return TextToViews(**{"prompt": "a b c", "model": "adapter-text", "seed": 4, **fields})


def done(job: ImageToViews | TextToViews) -> ViewsResult:
    *_, result = pipelines.run(job, CPU)
    assert isinstance(result, ViewsResult)
    result.check()
    return result


@pytest.mark.parametrize("job", [of_picture, of_words])
def test_six_views_from_its_own_cameras(job: Any) -> None:
    found = done(job())
    assert found.images.shape == (6, 64, 64, 3)
    assert (found.given, found.depths, found.view_kind) == (0, None, "image")
    poses, lenses = stand_ins(AZIMUTHS, 1.1, 64)
    np.testing.assert_allclose(found.poses, poses)
    np.testing.assert_allclose(found.intrinsics, lenses)
    np.testing.assert_allclose(np.linalg.norm(found.poses[:, :3, 3], axis=1), 2 * FAR)
    report = found.report
    assert (report["steps"], report["guidance"], report["views"]) == (3, 3.0, 6)
    assert fixed_views.NO_PERSPECTIVE in report["notes"]
    assert report["prompt"] == ("a b" if job is of_picture else "a b c")
    assert list(report["seconds"])[-2:] == ["Painting the views", "Developing the pictures"]
    np.testing.assert_array_equal(found.images, done(job()).images)
    assert (found.images != done(job(seed=5)).images).mean() > 0.3


def test_the_picture_and_the_words_count() -> None:
    found = done(of_picture()).images
    assert (found != done(of_picture(images=255 - photo())).images).mean() > 0.01
    assert (found != done(of_picture(prompt="d e f")).images).mean() > 0.01
    assert (found != done(of_picture(guidance=1.0)).images).mean() > 0.01
    assert (done(of_words()).images != done(of_words(prompt="d")).images).mean() > 0.01


def test_where_the_ring_begins_and_the_cube_of_the_thing_are_the_persons() -> None:
    found = done(of_words(start=30.0, center=(1.0, 2.0, 3.0), extent=0.5, steps=1))
    turned = [azimuth + 30 for azimuth in AZIMUTHS]
    poses, _ = stand_ins(turned, 1.1, 64, (1.0, 2.0, 3.0), 0.5)
    np.testing.assert_allclose(found.poses, poses)


def test_its_cameras_are_listed_where_they_will_be(store: Path) -> None:
    listed = {model.id: model for model in pipelines.models()}
    registered, here = listed["mv-adapter-image"], listed["adapter-image"]
    assert (registered.view_size, here.view_size) == (512, 64)
    assert registered.own_views == here.own_views == tuple((a, 0.0) for a in AZIMUTHS)
    assert registered.turns
    assert not listed["mvdream-sd21"].turns
    found = done(of_picture(extent=3.0))
    assert here.ring is not None
    distances = np.linalg.norm(found.poses[:, :3, 3], axis=1)
    np.testing.assert_allclose(distances, here.ring["radius"] * 3.0 / 2, rtol=1e-6)
    field = 2 * np.degrees(np.arctan(64 / 2 / found.intrinsics[0, 0]))
    assert here.ring["field"] == pytest.approx(field, rel=1e-5)


@pytest.mark.parametrize("azimuths", [[float("nan")], [1.0, 361.0], "x", [10**400]])
def test_cameras_that_are_none_are_not_listed(
    azimuths: Any, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(written, tmp_path / "store")
    told = tmp_path / "store" / "adapter-image" / "model.json"
    record = json.loads(told.read_text("utf-8"))
    record["config"]["azimuths"] = azimuths
    told.write_text(json.dumps(record), "utf-8")
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
    listed = {model.id: model for model in pipelines.models()}["adapter-image"]
    assert (listed.own_views, listed.ring, listed.view_size) == ((), None, 0)


def test_what_lies_here_is_listed_not_what_the_registry_says(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry may have changed since a model was downloaded."""
    shutil.copytree(written, tmp_path / "store")
    shutil.move(tmp_path / "store" / "adapter-image", tmp_path / "store" / "mv-adapter-image")
    told = tmp_path / "store" / "mv-adapter-image" / "model.json"
    record = json.loads(told.read_text("utf-8"))
    record["id"] = "mv-adapter-image"
    told.write_text(json.dumps(record), "utf-8")
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
    listed = {model.id: model for model in pipelines.models()}["mv-adapter-image"]
    assert listed.view_size == 64


def test_another_number_of_views_is_told_not_to_be_made() -> None:
    note = fixed_views.ITS_OWN_NUMBER.format(count=6)
    assert note in done(of_words(views=9, steps=1)).report["notes"]
    assert note in done(of_words(caps=True, steps=1)).report["notes"]
    assert note not in done(of_words(views=6, steps=1)).report["notes"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"poses": ring_poses(4, 0.0, 5.0)}, "cameras"),
        ({"elevation": 20.0}, "an elevation"),
        ({"radius": 5.0}, "a distance"),
        ({"field": 40.0, "size": 128}, "a field of view and 128 pixels"),
    ],
)
def test_other_cameras_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        done(of_picture(**fields))
    assert "another model" in caught.value.remedy


def test_the_views_are_seen_as_they_form() -> None:
    seen = list(pipelines.run(of_picture(preview=True), CPU))
    shown = [one.picture for one in seen if isinstance(one, Progress) and one.picture is not None]
    assert shown
    assert shown[0].ndim == 3
    fractions = [one.fraction for one in seen if isinstance(one, Progress)]
    assert fractions == sorted(fractions)


def test_cameras_that_it_does_not_have_go_to_another_model() -> None:
    """Where no model was chosen."""
    poses = ring_poses(3, 10.0, 4.0)
    assert pipelines.model_for(of_picture(model="")).id == "adapter-image"
    given = of_picture(model="", poses=poses)
    assert pipelines.model_for(given).family == "viewdiff"


def test_it_needs_its_stable_diffusion(store: Path) -> None:
    tensors = mvadapter_models.tensors_for(weights.require(mvadapter_models.BASE), False)
    needs = ("stable-diffusion-2-1-base",)
    mvadapter_models.write(store, "without", False, tensors=tensors, needs=needs)
    assert not next(model for model in pipelines.models() if model.id == "without").ready
    with pytest.raises(NotInstalled, match="of Stable Diffusion") as caught:
        done(of_words(model="without"))
    assert "models download stable-diffusion-2-1-base" in caught.value.remedy


def test_views_without_perspective_become_a_mesh_of_the_right_size() -> None:
    """A cuboid as cameras without perspective see it, 0.8 x 0.5 x 0.9 of its cube of side 2."""
    side, frame = 192, 1.1
    half = np.array([0.8, 0.5, 0.9])
    images = np.zeros((6, side, side, 4), np.uint8)
    across = (np.arange(side) - (side - 1) / 2) * 2 * frame / side
    for image, azimuth in zip(images, np.radians(AZIMUTHS), strict=True):
        width = half[0] * abs(np.cos(azimuth)) + half[1] * abs(np.sin(azimuth))
        shown = (np.abs(across) < width)[None] & (np.abs(across) < half[2])[:, None]
        image[shown] = (180, 90, 40, 255)
    poses, lenses = stand_ins(AZIMUTHS, frame, side)
    job = ViewsToScene(images=images, poses=poses, intrinsics=lenses, resolution=128, texture=False)
    *_, mesh = pipelines.run(job, CPU)
    assert isinstance(mesh, MeshResult)
    np.testing.assert_allclose(np.abs(mesh.vertices).max(axis=0), half, atol=0.03)
    assert mesh.report["outlines"] > 0.97
