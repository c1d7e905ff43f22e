"""Words to views: with a model of views that reads words, and with MVDream."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend import pipelines, weights
from backend.errors import BadInput, NotInstalled
from backend.models.mvdream.model import first_noise
from backend.pipelines import Context, resident, text_to_views
from backend.protocol import (
    VIEW_CAMERAS,
    VIEW_DISTANCE,
    VIEW_FIELD,
    Progress,
    TextToViews,
    ViewsResult,
    ViewsToMesh,
    camera_poses,
    ring_poses,
)
from tests import mvdream_models, viewdiff_models

CPU = Context("cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    viewdiff_models.write_latents(folder / "store", folder / "parts")
    viewdiff_models.write_pixels(folder / "store")
    depths = mvdream_models.make_model(mvdream_models.config_for())
    tasks = ("text-to-mesh", "text-to-views")
    needs = ("wala-views-depth6-1b",)  # which is not here
    mvdream_models.write(folder / "store", depths, "six-depths", tasks=tasks, needs=needs)
    colours = mvdream_models.make_model(mvdream_models.config_for((0, 6, 10, 26)))
    kind = {"view_kind": "image", "cameras": (0, 6, 10, 26)}
    mvdream_models.write(folder / "store", colours, "four-pictures", tasks=tasks, **kind)
    return folder / "store"


@pytest.fixture(autouse=True)
def store(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(written))
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path / "home"))
    resident._models.clear()
    yield written
    resident._models.clear()


def done(**fields: Any) -> ViewsResult:
    job = TextToViews(**{"prompt": "a b c", "model": "small-latent-views", **fields})
    *_, result = pipelines.run(job, CPU)
    assert isinstance(result, ViewsResult)
    result.check()
    return result


def test_words_become_views() -> None:
    found = done(seed=2)
    assert found.images.shape == (3, 64, 64, 3)
    assert found.given == 0
    assert found.report["guidance"] == 7.5
    assert (found.images != done(prompt="d e f", seed=2).images).mean() > 0.05
    assert (found.images != done(seed=3).images).mean() > 0.05
    np.testing.assert_array_equal(found.images, done(seed=2).images)


def test_guidance_and_steps_are_the_models_unless_given() -> None:
    found = done(guidance=1.0, steps=2, views=4)
    assert (found.report["guidance"], found.report["steps"]) == (1.0, 2)
    assert len(found.images) == 4
    with_more = done(guidance=12.0, steps=2, views=4)
    assert (found.images != with_more.images).mean() > 0.05


def test_focal_lengths_are_in_pixels_of_the_views() -> None:
    poses = ring_poses(3, 20.0, 4.0)
    lens = np.tile(np.float32([70, 71, 30, 33]), (3, 1))
    found = done(poses=poses, intrinsics=lens, size=64, steps=1)
    np.testing.assert_allclose(found.intrinsics, lens)
    np.testing.assert_allclose(found.poses, poses)


def test_a_model_without_words_says_so() -> None:
    found = done(model="small-views", steps=1)
    assert found.report["notes"] == [text_to_views.NO_WORDS]


# ----------------------------------------------------------------------------------------- MVDream


def test_mvdream_paints_its_own_cameras() -> None:
    found = done(model="six-depths", steps=2)
    assert found.images.shape == (6, 16, 16, 3)
    assert (found.view_kind, found.cameras) == ("depth", (3, 6, 10, 26, 49, 50))
    assert (found.images[..., :1] == found.images).all()  # depth is grey
    angles = [VIEW_CAMERAS[number] for number in found.cameras or ()]
    expected = camera_poses(angles, "z", VIEW_DISTANCE)
    np.testing.assert_allclose(found.poses, expected, atol=1e-5)
    assert "notes" not in found.report
    assert (found.report["steps"], found.report["guidance"]) == (2, 10.0)
    assert found.report["prompt"] == "a b c, 3d asset"
    # What a model of shapes takes, as it is.
    ViewsToMesh(
        depths=found.images[..., 0], cameras=found.cameras, encoding="near-bright"
    ).validate()


def test_its_views_are_those_that_become_a_mesh() -> None:
    found = done(model="four-pictures", seed=7)
    loaded = next(iter(resident._models.values()))
    *_, last = loaded.model.sample("a b c, 3d asset", first_noise(loaded.model, 7))
    np.testing.assert_array_equal(found.images, loaded.model.pictures(last.sample))
    assert found.view_kind == "image"


def test_its_views_may_be_seen_without_the_model_of_shapes() -> None:
    job = TextToViews(prompt="a", model="six-depths", steps=1)
    assert pipelines.model_for(job).id == "six-depths"
    listed = {model.id: model for model in pipelines.models()}
    assert not listed["six-depths"].ready  # for a mesh the other one is missing


def test_what_is_not_here_is_named() -> None:
    with pytest.raises(NotInstalled, match="MVDream 4 views"):
        done(model="mvdream-sd21")


def test_mvdream_takes_other_cameras_and_says_that_it_does() -> None:
    found = done(model="four-pictures", views=5, elevation=0.0, steps=1, extent=4.0)
    assert found.images.shape == (5, 16, 16, 3)
    assert found.cameras is None
    np.testing.assert_allclose(found.poses, ring_poses(5, 0.0, 2 * VIEW_DISTANCE), atol=1e-5)
    assert "its own 4 cameras" in found.report["notes"][0]
    with pytest.raises(BadInput, match="cannot paint views of 64 pixels"):
        done(model="four-pictures", size=64)


@pytest.mark.parametrize("asked", [{"caps": True}, {"start": 30.0}])
def test_a_ring_is_not_passed_over_for_mvdream_s_own_cameras(asked: dict[str, Any]) -> None:
    found = done(model="four-pictures", steps=1, **asked)
    expected = ring_poses(4, 15.0, VIEW_DISTANCE, **asked)
    np.testing.assert_allclose(found.poses, expected, atol=1e-5)
    assert found.cameras is None
    assert "its own 4 cameras" in found.report["notes"][0]


def test_mvdream_tells_its_size_and_its_cameras_before_it_is_here() -> None:
    """Blender shows both, and cannot ask for views of another size."""
    listed = {model.id: model for model in pipelines.models()}
    registered = listed["mvdream-sd21"]
    assert registered.view_size == 256
    assert registered.own_views == ((90.0, 15.0), (180.0, 15.0), (270.0, 15.0), (0.0, 15.0))
    assert listed["mvdream-rgb4"].own_views[1] == VIEW_CAMERAS[6]
    here = listed["six-depths"]
    assert here.view_size == 16
    assert here.own_views == tuple(VIEW_CAMERAS[number] for number in here.cameras)
    assert here.ring == pytest.approx(
        {"elevation": 15.0, "field": np.degrees(VIEW_FIELD), "radius": VIEW_DISTANCE}
    )
    poses = done(model="six-depths", steps=1).poses
    np.testing.assert_allclose(poses, camera_poses(here.own_views, "z", VIEW_DISTANCE), atol=1e-5)


def test_a_registered_model_that_is_here_tells_what_its_files_say(tmp_path: Path) -> None:
    """They may have been trained otherwise than was published."""
    own = mvdream_models.make_model(mvdream_models.config_for((0, 6)))
    entry = weights.entries()["mvdream-sd21"]
    mvdream_models.write(tmp_path, own, entry.id, view_kind="image", cameras=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path))
        listed = {model.id: model for model in pipelines.models()}[entry.id]
    assert (listed.view_size, listed.own_views) == (16, (VIEW_CAMERAS[0], VIEW_CAMERAS[6]))


@pytest.mark.parametrize("views", [None, 5, [[1]], [["a", "b"]], [[10**400, 1]]])
def test_a_description_that_was_meddled_with_tells_no_cameras(
    views: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = weights.require("four-pictures")
    spoilt = dataclasses.replace(own, config={"views": views, "side": "wide"})
    monkeypatch.setattr(weights, "installed", lambda: {own.id: spoilt})
    listed = {model.id: model for model in pipelines.models()}["four-pictures"]
    assert (listed.view_size, listed.own_views) == (0, ())


def test_what_mvdream_forms_is_shown() -> None:
    job = TextToViews(prompt="a", model="four-pictures", preview=True, steps=2)
    steps = [step for step in pipelines.run(job, CPU) if isinstance(step, Progress)]
    shown = [step.picture for step in steps if step.picture is not None]
    assert shown
    assert shown[0].shape == (32, 32, 3)
    assert [step.stage.split(",")[1] for step in steps if "step" in step.stage] == [
        " step 1 of 2",
        " step 2 of 2",
    ]
