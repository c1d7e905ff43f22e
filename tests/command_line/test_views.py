"""run image-to-views and text-to-views: photos and folders of views in, folders out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend import pipelines, posed_images, views_commands
from backend.__main__ import make_parser
from backend.pipelines import resident
from backend.posed_images import PosedImages
from backend.posed_views import intrinsics_of_field
from backend.protocol import ImageToViews, TextToViews, ViewsToScene, ring_poses
from backend.task_files import read_task
from tests import viewdiff_models


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    viewdiff_models.write_pixels(folder / "store")
    return folder / "store"


@pytest.fixture(autouse=True)
def store(written: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(written))
    resident._models.clear()
    yield
    resident._models.clear()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[:40, :60]
    disc = (x - 30) ** 2 + (y - 20) ** 2 < 12**2
    colours = np.where(disc[..., None], np.uint8([200, 60, 30]), np.uint8(228))
    path = tmp_path / "photo.png"
    Image.fromarray(colours).save(path)
    return path


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A folder of three views with cameras."""
    images = np.full((3, 30, 40, 4), 80, np.uint8)
    images[:, 10:20, 15:25] = [250, 60, 40, 255]
    lens = intrinsics_of_field(40.0, 40, 30, 3)
    posed = PosedImages(images, ring_poses(3, 10.0, 4.0, 15.0), lens, ("a", "b", "c"))
    posed_images.write_transforms(tmp_path / "capture", posed)
    return tmp_path / "capture"


def task_of(*arguments: object) -> Any:
    options = make_parser().parse_args(["run", *map(str, arguments), "-o", "x"])
    task = read_task(options)
    task.validate()
    return task


# ----------------------------------------------------------------------------------- whole commands


def test_a_photo_becomes_a_folder_of_views(
    command: Callable[..., Any], photo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "views"
    done = command("run", "image-to-views", photo, "-o", folder, "--steps", 2, "--seed", 3)
    assert done.code == 0, done.err
    assert "4 views of 16 x 16" in done.out
    assert "background was removed" in done.err
    posed = posed_images.read_transforms(folder)
    assert posed.images.shape == (4, 16, 16, 4)
    assert posed.depths is not None
    np.testing.assert_allclose(posed.poses, ring_poses(4, 20.0, 3.6), atol=1e-5)
    np.testing.assert_allclose(posed.intrinsics, intrinsics_of_field(42.5, 16, 16, 4), rtol=1e-5)
    report = json.loads((folder / views_commands.REPORT).read_text())
    assert (report["seed"], report["steps"], report["given"]) == (3, 2, 1)
    assert report["model"] == "small-views"


def test_a_folder_of_views_is_made_anew_but_no_other_folder(
    command: Callable[..., Any], photo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "views"
    make = ("run", "image-to-views", photo, "-o", folder, "--steps", 1, "--views")
    assert command(*make, 3).code == 0
    assert command(*make, 2).code == 0
    assert len(posed_images.read_transforms(folder)) == 2
    assert len(list((folder / "images").iterdir())) == 2
    for name in ("chair.glb", "images/painted over.png", "images/000.psd"):
        (folder / name).write_bytes(b"mine")
        refused = command(*make, 3)
        assert refused.code == 2
        assert f"{Path(name)}" in refused.err
        assert (folder / name).read_bytes() == b"mine"
        (folder / name).unlink()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    (folder / views_commands.REPORT).unlink()
    refused = command(*make, 3)
    assert refused.code == 2
    assert "has other files in it" in refused.err
    assert len(posed_images.read_transforms(folder)) == 2


def test_views_as_arrays_and_json(command: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    path = tmp_path / "views.npz"
    done = command("run", "image-to-views", photo, "-o", path, "--steps", 1, "--json")
    assert done.code == 0, done.err
    assert done.record["output"] == str(path)
    assert (done.record["views"], done.record["batches"]) == (4, [4])
    assert "vertices" not in done.record
    with np.load(path) as arrays:
        assert arrays["images"].shape == (4, 16, 16, 4)
        assert arrays["poses"].shape == (4, 4, 4)
        assert arrays["intrinsics"].shape == (4, 4)
        assert arrays["depths"].shape == (4, 16, 16)
        assert int(arrays["given"]) == 1


def test_views_go_on_from_views(command: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    first, more = tmp_path / "first", tmp_path / "more"
    assert command("run", "image-to-views", photo, "-o", first, "--steps", 1).code == 0
    done = command(
        *("run", "image-to-views", first, "-o", more, "--steps", 1),
        *("--views", 3, "--elevation", 60, "--start", 10),
    )
    assert done.code == 0, done.err
    found = posed_images.read_transforms(more)
    assert len(found) == 7
    before, after = posed_images.read_transforms(first).images, found.images[:4]
    np.testing.assert_allclose(after[..., 3], before[..., 3], atol=1)
    shown = [image[..., :3] * (image[..., 3:] / 255) for image in (before, after)]
    assert np.abs(shown[0] - shown[1]).max() <= 2


def test_what_forms_is_written(command: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    done = command(
        *("run", "image-to-views", photo, "-o", tmp_path / "views", "--steps", 2),
        *("--preview", tmp_path / "forming"),
    )
    assert done.code == 0, done.err
    with Image.open(tmp_path / "forming" / "preview-001.png") as picture:
        assert picture.size == (32, 32)


def test_words_become_a_folder(command: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "chair"
    done = command(
        *("run", "text-to-views", "--prompt", "a chair", "-o", folder, "--model", "small-views"),
        *("--steps", 1, "--views", 2, "--caps"),
    )
    assert done.code == 0, done.err
    assert len(posed_images.read_transforms(folder)) == 4


# ------------------------------------------------------------------------------------------ options


def test_options_of_a_ring(photo: Path) -> None:
    task = task_of(
        *("image-to-views", photo, "--views", 7, "--elevation", -5, "--distance", 6, "--start", 90),
        *("--caps", "--field", 35, "--size", 64, "--path", "--center", "1,2,3", "--extent", 1.5),
        *("--prompt", "a chair", "--background", "keep", "--guidance", 3),
    )
    assert isinstance(task, ImageToViews)
    assert (task.views, task.elevation, task.radius, task.start) == (7, -5.0, 6.0, 90.0)
    assert (task.caps, task.field, task.size, task.path) == (True, 35.0, 64, True)
    assert (task.center, task.extent) == ((1.0, 2.0, 3.0), 1.5)
    assert (task.prompt, task.background, task.guidance) == ("a chair", "keep", 3.0)
    assert task.name == "photo"


def test_cameras_of_a_file(photo: Path, capture: Path) -> None:
    path = capture / "transforms.json"
    record = json.loads(path.read_text())
    for frame in record["frames"]:
        frame["file_path"] = "nothing.png"  # cameras need no pictures
    path.write_text(json.dumps(record))
    task = task_of("image-to-views", photo, "--poses", path)
    np.testing.assert_allclose(task.poses, ring_poses(3, 10.0, 4.0, 15.0), atol=1e-6)
    assert task.count == 3
    # Of 40 x 30 pixels in the file, of 60 x 40 in the photo: the same field across.
    np.testing.assert_allclose(task.intrinsics, intrinsics_of_field(40.0, 60, 40, 3), rtol=1e-5)
    words = task_of("text-to-views", "a chair", "--poses", path, "--size", 64)
    np.testing.assert_allclose(words.intrinsics, intrinsics_of_field(40.0, 64, 64, 3), rtol=1e-5)
    assert isinstance(words, TextToViews)
    assert (words.size, words.name) == (64, "a chair")


@pytest.mark.parametrize(("model", "side"), [("small-views", 64), ("", 64), ("elsewhere", 256)])
def test_views_of_words_have_the_model_s_size_at_the_cameras_of_a_file(
    capture: Path, model: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = [dataclasses.replace(known, view_size=64) for known in pipelines.models()]
    monkeypatch.setattr(pipelines, "models", lambda: larger)
    more = ("--model", model) if model else ()
    task = task_of("text-to-views", "a chair", "--poses", capture / "transforms.json", *more)
    assert task.size == side
    np.testing.assert_allclose(task.intrinsics, intrinsics_of_field(40.0, side, side, 3), rtol=1e-5)


def test_views_and_a_ring_beside_them(capture: Path) -> None:
    task = task_of("image-to-views", capture, "--views", 4, "--elevation", 50)
    assert task.images.shape == (3, 30, 40, 4)
    np.testing.assert_allclose(task.poses[3:], ring_poses(4, 50.0, 4.0), atol=1e-5)
    np.testing.assert_allclose(task.intrinsics, intrinsics_of_field(40.0, 40, 30, 7), rtol=1e-5)


def test_a_scene_from_a_folder_or_its_file(capture: Path) -> None:
    for path in (capture, capture / "transforms.json"):
        task = task_of("views-to-scene", path, "--resolution", 128, "--texture-size", 512)
        assert isinstance(task, ViewsToScene)
        assert task.images.shape == (3, 30, 40, 4)
        assert (task.name, task.resolution, task.texture_size) == ("capture", 128, 512)
        assert (task.extent, task.texture) == (0.0, True)
    assert not task_of("views-to-scene", capture, "--no-texture").texture


def mirrored(record: dict[str, Any]) -> None:
    for frame in record["frames"]:
        frame["transform_matrix"] = (
            np.array(frame["transform_matrix"]) @ np.diag([-1, 1, 1, 1])
        ).tolist()


def turned(record: dict[str, Any]) -> None:
    for frame in record["frames"]:
        frame["transform_matrix"] = (
            np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1])
        ).tolist()


def without_lens(record: dict[str, Any]) -> None:
    for entry in (record, *record["frames"]):
        for name in ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y"):
            entry.pop(name, None)


def at_one_place(record: dict[str, Any]) -> None:
    for frame in record["frames"]:
        frame["transform_matrix"] = record["frames"][0]["transform_matrix"]


@pytest.mark.parametrize(
    ("task", "change", "said"),
    [
        ("image-to-views", mirrored, "mirrored"),
        ("views-to-scene", mirrored, "mirrored"),
        ("image-to-views", turned, "looks away"),
        ("image-to-views", without_lens, "--field|field of view"),
        ("views-to-scene", without_lens, "--field|field of view"),
        ("image-to-views", at_one_place, "at one place"),
        ("views-to-scene", at_one_place, "same place"),
        ("views-to-scene", lambda record: record["frames"].__delitem__(slice(1, 3)), "One view"),
    ],
)
def test_cameras_of_files_that_cannot_be_are_told(
    command: Callable[..., Any],
    capture: Path,
    tmp_path: Path,
    task: str,
    change: Callable[[dict[str, Any]], None],
    said: str,
) -> None:
    path = capture / "transforms.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    output = tmp_path / ("mesh.glb" if task == "views-to-scene" else "out")
    done = command("run", task, capture, "-o", output)
    assert done.code == 2
    assert any(part in done.err for part in said.split("|")), done.err
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("image-to-views", "a.png", "b.png"), "one picture"),
        (("image-to-views",), "one picture"),
        (("views-to-scene",), "one folder"),
        (("image-to-views", "nothing.png"), "nothing.png"),
        (("image-to-views", "PHOTO", "--center", "1,2"), "no place"),
        (("image-to-views", "PHOTO", "--distance", "0.5"), "inside the object"),
        (("image-to-views", "PHOTO", "--views", "1"), "nothing is left to make"),
        (("image-to-views", "PHOTO", "--variations", "2"), "one seed at a time"),
        (("text-to-views",), "There is no text"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_mistakes_are_told(
    command: Callable[..., Any], photo: Path, tmp_path: Path, arguments: Any, said: str
) -> None:
    given = [photo if argument == "PHOTO" else argument for argument in arguments]
    done = command("run", *given, "-o", tmp_path / "mesh.glb" if "scene" in given[0] else "views")
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize("name", ["views.png", "missing/views"])
def test_outputs_that_cannot_be_are_told_first(
    command: Callable[..., Any], photo: Path, tmp_path: Path, name: str
) -> None:
    done = command("run", "image-to-views", photo, "-o", tmp_path / name)
    assert done.code == 2
    assert ".png file" in done.err or "no folder" in done.err
