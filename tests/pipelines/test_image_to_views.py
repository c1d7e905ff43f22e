"""Pictures to views, from the task to the result, with small models of chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend import device as devices
from backend import pipelines, weights
from backend.errors import BadInput, Cancelled, NotInstalled, OutOfMemory
from backend.models.viewdiff import sampling
from backend.models.viewdiff.first_guess import FirstGuess
from backend.models.viewdiff.painter import PainterConfig, ViewPainter
from backend.pipelines import Context, image_to_views, resident, view_painting
from backend.pipelines.view_painting import habits_of, in_rows, needed_of
from backend.pipelines.view_rig import Habits, rig_of, squared
from backend.posed_views import intrinsics_of_field
from backend.protocol import (
    MAX_PICTURE_WIDTH,
    ImageToViews,
    Progress,
    TextToViews,
    ViewsResult,
    ring_poses,
)
from backend.training.viewdiff import export, networks
from tests import viewdiff_models

CPU = Context("cpu")
HABITS = Habits(views=6, elevation=20.0, field=42.5, radius=3.6, side=16)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    viewdiff_models.write_pixels(folder / "store")
    viewdiff_models.write_latents(folder / "store", folder / "parts")
    return folder / "store"


@pytest.fixture(autouse=True)
def store(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(written))
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path / "home"))
    resident._models.clear()
    yield written
    resident._models.clear()


def photo(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    disc = (x - 0.5 * width) ** 2 + (y - 0.4 * height) ** 2 < (0.25 * height) ** 2
    return np.where(disc[..., None], np.uint8([200, 60, 30]), np.uint8(228))[None]


def task(**fields: Any) -> ImageToViews:
    return ImageToViews(**{"images": photo(), "model": "small-views", "seed": 4, **fields})


def done(job: ImageToViews | TextToViews, context: Context = CPU) -> ViewsResult:
    *_, result = pipelines.run(job, context)
    assert isinstance(result, ViewsResult)
    result.check()
    return result


def test_a_photo_becomes_views_all_around() -> None:
    found = done(task())
    assert found.images.shape == (4, 16, 16, 4)
    assert found.given == 1
    assert found.depths is not None
    assert found.depths.shape == (4, 16, 16)
    assert (found.depths[0] == 0).all()
    reach = 3.6
    np.testing.assert_allclose(found.poses, ring_poses(4, 20.0, reach), atol=1e-6)
    np.testing.assert_allclose(found.intrinsics, intrinsics_of_field(42.5, 16, 16, 4), rtol=1e-6)
    given = found.images[0]
    assert 0.2 < (given[..., 3] > 128).mean() < 0.6  # cut out and framed
    assert np.abs(given[8, 8, :3].astype(int) - [200, 60, 30]).max() < 6
    report = found.report
    assert (report["model"], report["device"], report["seed"]) == ("small-views", "cpu", 4)
    assert (report["steps"], report["guidance"], report["batches"]) == (3, 1.0, [4])
    assert list(report["seconds"]) == [
        *("Preparing the pictures", "Loading the model", "Reading the pictures"),
        *("Painting the views", "Developing the pictures"),
    ]
    assert "background was removed" in report["notes"][0]


def test_the_same_seed_gives_the_same_views_and_another_others() -> None:
    first, again, other = done(task()), done(task()), done(task(seed=5))
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.images[1:] != other.images[1:]).mean() > 0.3
    np.testing.assert_array_equal(first.images[0], other.images[0])


def test_the_picture_counts() -> None:
    other = done(task(images=255 - photo()))
    assert (done(task()).images[1:] != other.images[1:]).mean() > 0.01


def test_cameras_of_the_scene_are_taken_as_they_are() -> None:
    poses = ring_poses(5, 10.0, 6.0)
    poses[:, :3, 3] += [1.0, 2.0, 0.5]
    lens = np.tile(np.float32([50, 50, 29.5, 19.5]), (5, 1))
    place = {"center": (1.0, 2.0, 0.5), "extent": 3.0}
    found = done(task(images=photo().repeat(2, 0), poses=poses, intrinsics=lens, **place))
    assert found.given == 2
    np.testing.assert_allclose(found.poses, poses)
    # Widened from 60 x 40 to 60 x 60, then 16 x 16.
    expected = [50 * 16 / 60, 50 * 16 / 60, 30 * 16 / 60 - 0.5, 30 * 16 / 60 - 0.5]
    np.testing.assert_allclose(found.intrinsics, np.tile(expected, (5, 1)), rtol=1e-4)
    assert found.depths is not None
    seen = found.depths[2:][found.depths[2:] > 0]
    assert seen.min() >= 6 - 1.6 * 1.5 - 1e-3
    assert seen.max() <= 6 + 1.6 * 1.5 + 1e-3


def test_the_world_may_be_moved_and_scaled_without_a_difference() -> None:
    poses = ring_poses(4, 10.0, 3.0)
    moved = poses.copy()
    moved[:, :3, 3] = 10 * moved[:, :3, 3] + [100, 0, -50]
    lens = np.tile(np.float32([50, 50, 29.5, 19.5]), (4, 1))
    near = done(task(poses=poses, intrinsics=lens))
    far = done(task(poses=moved, intrinsics=lens, center=(100.0, 0.0, -50.0), extent=20.0))
    difference = near.images.astype(int) - far.images
    assert np.abs(difference).max() <= 2
    assert near.depths is not None
    assert far.depths is not None
    np.testing.assert_allclose(far.depths, 10 * near.depths, rtol=1e-2, atol=0.2)


def test_a_missing_lens_is_assumed_and_told() -> None:
    found = done(task(poses=ring_poses(4, 10.0, 4.0)))
    assert image_to_views.LENS_ASSUMED in found.report["notes"]
    told = done(task(poses=ring_poses(4, 10.0, 4.0), field=42.5))
    assert image_to_views.LENS_ASSUMED not in told.report["notes"]
    np.testing.assert_allclose(found.intrinsics, told.intrinsics)


def test_words_count_only_where_they_are_read() -> None:
    plain = done(task(model="small-latent-views"))
    assert plain.images.shape == (3, 64, 64, 3)
    assert plain.depths is None
    assert plain.report["guidance"] == 1.0
    told = done(task(model="small-latent-views", prompt="a b c"))
    assert told.report["guidance"] == 7.5
    assert (told.images[1:] != plain.images[1:]).mean() > 0.05
    long = done(task(model="small-latent-views", prompt="a b c d e f g h i j a b c d", steps=1))
    assert any("“a b c d” was not read" in note for note in long.report["notes"])
    assert "was not read" not in str(done(task(prompt="a " * 30, steps=1)).report)


def test_a_path_is_made_bit_by_bit_beside_what_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, float]] = []
    original = sampling.sample

    def watching(denoise: Any, noise: Any, known: Any, settings: Any) -> Any:
        asked.append((0 if known is None else len(known), len(noise), settings.guidance))
        return original(denoise, noise, known, settings)

    monkeypatch.setattr(sampling, "sample", watching)
    poses = ring_poses(9, 10.0, 4.0)
    job = task(model="small-latent-views", prompt="a b", poses=poses, path=True, steps=2)
    found = done(job)
    assert found.report["batches"] == [known + new for known, new, _ in asked]
    assert sum(new for _, new, _ in asked) == 8
    assert asked[0] == (1, 2, 7.5)
    assert all(known >= 3 and guidance == 1.0 for known, _, guidance in asked[1:])
    at_once = done(dataclasses.replace(job, path=False))
    assert at_once.report["batches"] == [9]


def test_views_of_any_size_the_model_can_have() -> None:
    found = done(task(size=32))
    assert found.images.shape == (4, 32, 32, 4)
    np.testing.assert_allclose(found.intrinsics, intrinsics_of_field(42.5, 32, 32, 4), rtol=1e-6)
    with pytest.raises(BadInput, match="cannot paint views of 40 pixels"):
        done(task(model="small-latent-views", size=40))


def test_what_forms_is_shown_in_rows() -> None:
    steps = [
        step
        for step in pipelines.run(task(preview=True, views=5, path=True), CPU)
        if isinstance(step, Progress)
    ]
    pictures = [step.picture for step in steps if step.picture is not None]
    assert pictures
    for picture in pictures:
        assert picture.dtype == np.uint8
        assert picture.shape == (32, 48, 3)
        assert picture.shape[1] <= MAX_PICTURE_WIDTH
        assert (picture[16:, 32:] == 255).all()  # five views in two rows of three
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    assert fractions[0] >= 0
    assert fractions[-1] <= 1
    assert any(step.stage.startswith("Painting the views, step 1 of 6") for step in steps)


def test_rows() -> None:
    pictures = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2)
    found = in_rows(pictures.repeat(3, axis=3), 2)
    assert found.shape == (4, 4, 3)
    assert found[..., 0].tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 255, 255]] * 2


def test_cancelling_does_not_wait_for_a_step() -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 12

    seen: list[str] = []

    def work() -> None:
        for step in pipelines.run(task(), Context("cpu", cancelled)):
            assert isinstance(step, Progress)
            seen.append(step.stage)

    with pytest.raises(Cancelled):
        work()
    assert seen
    assert not any("step 2" in stage for stage in seen)


def test_a_model_stays_loaded() -> None:
    done(task(steps=1))
    (kept,) = resident._models.values()
    done(task(steps=1))
    assert list(resident._models.values()) == [kept]
    assert isinstance(kept.model, ViewPainter)


def test_models_tell_their_ring_and_their_size() -> None:
    listed = {model.id: model for model in pipelines.models()}
    assert listed["small-views"].ring == {"elevation": 20.0, "field": 42.5, "radius": 3.6}
    assert listed["small-views"].view_size == 16
    assert listed["small-views"].own_views == ()


def test_a_description_that_was_meddled_with_tells_no_ring(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = weights.require("small-views")
    spoilt = dataclasses.replace(own, config={"denoiser": 5, "radius": "far", "field": True})
    monkeypatch.setattr(weights, "installed", lambda: {own.id: spoilt})
    listed = {model.id: model for model in pipelines.models()}
    assert listed["small-views"].ring is None
    assert listed["small-views"].view_size == 0


def test_a_model_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "nothing"))
    with pytest.raises((BadInput, NotInstalled)) as told:
        done(task(model=""))
    assert told.value.remedy


# ----------------------------------------------------------------------------------- the first view


def room() -> np.ndarray:
    """A picture full of things: nothing in it can be told from what is behind."""
    return np.random.default_rng(0).integers(0, 256, (1, 40, 60, 3), dtype=np.uint8)


def test_a_picture_without_a_thing_in_it_is_refused_before_the_model_is_loaded() -> None:
    for background in ("auto", "remove"):
        with pytest.raises(BadInput, match="cannot be told from what is behind") as told:
            done(task(images=room(), background=background))
        assert "keep" not in told.value.remedy
    with pytest.raises(BadInput) as told:
        done(task(background="keep"))
    assert "do not keep" in told.value.remedy
    assert not resident._models
    assert done(task(model="small-latent-views", images=room(), steps=1)).given == 1


@pytest.mark.parametrize("ground", [None, (20, 120, 220)])
def test_renders_with_a_transparent_film_are_not_on_black(
    ground: tuple[int, int, int] | None,
) -> None:
    clear = np.where(photo()[..., 1:2] < 200, np.uint8(255), np.uint8(0))
    render = np.concatenate([photo() * (clear > 0), clear], axis=3)
    config = PainterConfig.from_dict(weights.require("small-latent-views").config)
    config = dataclasses.replace(config, ground=ground)
    _, wishes = image_to_views.prepared(task(images=render, background="keep"), config, 3, 7.5)
    assert wishes.given is not None
    np.testing.assert_array_equal(wishes.given[0, -1, -1], [*(ground or (255, 255, 255)), 255])


@pytest.mark.parametrize(("radius", "field"), [(3.6, 42.5), (5.0, 42.5), (3.6, 60.0)])
@pytest.mark.parametrize("wide", [60, 30])
def test_a_photo_is_framed_as_its_camera_would_see_the_thing(
    radius: float, field: float, wide: int
) -> None:
    """Of its lens nobody knows: ring or cameras of somebody, high or wide, the thing fits them."""
    config = PainterConfig.from_dict(weights.require("small-views").config)
    ring = {"views": 4, "elevation": 20.0, "radius": radius}
    cameras = {"poses": ring_poses(4, 20.0, radius)}
    rigs = []
    for more in (ring, cameras):
        job = task(images=photo(40, wide), field=field, **more)
        rig, wishes = image_to_views.prepared(job, config, 3, None)
        assert wishes.given is not None
        shown = np.flatnonzero((wishes.given[0, ..., 3] > 128).any(axis=0))
        across = (shown[-1] + 1 - shown[0]) / 16
        reach = np.tan(np.radians(21.25)) * 3.6 / (np.tan(np.radians(field / 2)) * radius)
        assert across == pytest.approx(config.fill * reach, abs=0.13)
        np.testing.assert_allclose(rig.intrinsics, intrinsics_of_field(field, 16, 16, 4), rtol=1e-6)
        rigs.append(wishes.given)
    np.testing.assert_array_equal(*rigs)


def test_a_camera_that_looks_aside_keeps_the_photo_as_it_is() -> None:
    config = PainterConfig.from_dict(weights.require("small-views").config)
    aside = ring_poses(4, 20.0, 4.0)
    aside[0, :3, 3] += 0.5 * aside[0, :3, 0]
    _, wishes = image_to_views.prepared(task(poses=aside, field=50.0), config, 3, None)
    assert wishes.given is not None
    rows = np.flatnonzero((wishes.given[0, ..., 3] > 128).any(axis=1))
    assert len(rows) / 16 == pytest.approx(20 / 60, abs=0.07)  # the disc is half as high as 40


def test_a_size_far_beyond_the_model_is_refused() -> None:
    with pytest.raises(BadInput, match="at 64 they would fall apart"):
        done(task(size=64))


def test_what_is_guessed_is_guessed_once_and_of_the_given_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps and batches there are; and more steps than timesteps are not taken."""
    whole = export.painter_config(networks.config(networks.SIZES["tiny"]))
    config = dataclasses.replace(whole, views=4, batch=2, most=4)
    viewdiff_models.write_pixels(tmp_path / "store", config, "guessing")
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
    asked: list[int] = []
    original = FirstGuess.forward

    def counted(self: FirstGuess, latents: Any, given: Any, cameras: Any) -> Any:
        asked.append(int(given.sum()))
        return original(self, latents, given, cameras)

    monkeypatch.setattr(FirstGuess, "forward", counted)
    found = done(task(model="guessing", views=7, steps=2))
    assert len(found.report["batches"]) > 1
    assert asked == [1]
    most = sampling.most_steps(config.denoiser.noising)
    many = done(task(model="guessing", views=2, steps=1000))
    assert many.report["steps"] == most < 1000
    assert any(f"{most} steps at most" in note for note in many.report["notes"])


def test_views_that_show_nothing_are_told() -> None:
    images = np.zeros((3, 4, 4, 4), np.uint8)
    images[1, 2, 2, 3] = 255
    assert view_painting._empty(images) == 2
    assert view_painting._empty(images[..., :3]) == 0
    found = done(task(steps=1))
    empty = view_painting._empty(found.images[1:])
    told = [note for note in found.report["notes"] if "show nothing" in note]
    assert len(told) == (empty > 0)


def test_words_that_are_not_read_are_told() -> None:
    found = done(task(prompt="a red chair", steps=1))
    assert image_to_views.UNREAD in found.report["notes"]
    assert found.report["prompt"] == ""
    assert image_to_views.UNREAD not in done(task(steps=1)).report.get("notes", [])


# ------------------------------------------------------------------------------------------ memory


def test_fewer_views_at_a_time_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PainterConfig.from_dict(weights.require("small-views").config)
    needed = needed_of(config, 16, torch.device("cpu"))
    monkeypatch.setattr(
        view_painting.Needed, "views", lambda self, free: 5 if self == needed else 0
    )
    found = done(task(views=9, steps=1))
    assert max(found.report["batches"]) <= 5
    assert len(found.report["batches"]) > 2


def test_what_a_batch_may_take_grows_with_memory() -> None:
    config = PainterConfig()
    needed = needed_of(config, 256, torch.device("cpu"))
    assert needed.views(0) > 1000
    assert needed.views(1) == 2
    many = needed.views(needed.bytes(25) * 10 // 8 + 10)
    assert many == 25
    assert 30e6 < needed.per_view < 300e6
    on_card = needed_of(config, 256, torch.device("cuda"))
    assert on_card.per_view == 2 * needed.per_view
    assert needed_of(config, 512, torch.device("cpu")).per_view > 2 * needed.per_view


def test_too_much_is_tried_again_with_less(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    original = ViewPainter.denoiser

    def short(self: ViewPainter, cameras: Any, prompt: str, guess: Any = None) -> Any:
        tried.append(cameras.views)
        if cameras.views > 5:
            raise MemoryError
        return original(self, cameras, prompt, guess)

    monkeypatch.setattr(ViewPainter, "denoiser", short)
    found = done(task(views=9, steps=1))
    assert tried[0] == 9
    assert max(found.report["batches"]) <= 5
    assert len(found.images) == 9


def test_what_cannot_fit_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(self: ViewPainter, cameras: Any, prompt: str, guess: Any = None) -> Any:
        raise MemoryError

    monkeypatch.setattr(ViewPainter, "denoiser", short)
    with pytest.raises(OutOfMemory, match="not even one after the other"):
        done(task(steps=1))
    assert not resident._models


def test_a_model_that_is_too_large_is_told_before_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = devices.describe("cpu")
    small = dataclasses.replace(place, total_bytes=1 << 20, free_bytes=1 << 10)
    monkeypatch.setattr(devices, "describe", lambda kind: small)
    with pytest.raises(OutOfMemory, match="This job needs about"):
        done(task())


# -------------------------------------------------------------------------------------- the cameras


def test_a_ring_is_the_models_own_where_nobody_says() -> None:
    rig = rig_of(TextToViews(prompt="a", extent=4.0, center=(1.0, 0.0, 0.0)), HABITS)
    assert rig.count == 6
    assert rig.scale == 2
    np.testing.assert_allclose(rig.distances, 3.6, rtol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(rig.poses[:, :3, 3] - [1, 0, 0], axis=1), 7.2, rtol=1e-6
    )
    np.testing.assert_allclose(rig.inner[:, 2, 3], 3.6 * np.sin(np.radians(20)), rtol=1e-5)
    assert rig.azimuths == (0.0, 60.0, 120.0, 180.0, 240.0, 300.0)


def test_a_ring_is_as_the_task_says() -> None:
    job = TextToViews(
        prompt="a", views=3, elevation=-10.0, radius=5.0, start=30.0, caps=True, field=60.0, size=32
    )
    rig = rig_of(job, HABITS)
    assert rig.count == 5
    assert rig.azimuths is None
    np.testing.assert_allclose(rig.poses, ring_poses(3, -10.0, 5.0, 30.0, caps=True), atol=1e-6)
    np.testing.assert_allclose(rig.intrinsics, intrinsics_of_field(60.0, 32, 32, 5))


@pytest.mark.parametrize("widen", [False, True])
def test_what_a_camera_sees_at_the_middle_of_a_picture_stays_there(widen: bool) -> None:
    lens = np.float32([[100, 110, 31.5, 19.5]])
    found = squared(lens, 40, 64, 16, widen)
    scale = 16 / (64 if widen else 40)
    np.testing.assert_allclose(found, [[100 * scale, 110 * scale, 7.5, 7.5]], rtol=1e-6)


def test_sides_are_multiples_of_what_the_network_halves() -> None:
    assert habits_of(viewdiff_models.pixel_config()).cells == 4
    assert habits_of(PainterConfig()).cells == 64


@pytest.mark.parametrize("model", ["small-views", "small-latent-views"])
def test_half_precision_comes_near(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = task(model=model, prompt="a b", guidance=2.0)
    exact = done(job)
    monkeypatch.setenv("FIELDFORGE_PRECISION", "bfloat16")
    resident._models.clear()
    found = done(job)
    assert found.report["precision"] == "bfloat16"
    np.testing.assert_array_equal(found.images[0], exact.images[0])
    apart = np.abs(found.images.astype(int) - exact.images)
    assert apart.mean() < 12
    assert (apart > 0).any()
