"""Panoramas from the command line: which files they become, and what is told when they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend import blender_process, pipelines
from backend.bench import analytic_rooms
from backend.bench.panorama import as_inverse
from backend.protocol import (
    DepthMeaning,
    PanoramaResult,
    Progress,
    SphereResult,
    decode_result,
)

ROOM = analytic_rooms.panorama(analytic_rooms.LIVING_ROOM, 128)
SMALL = ("--width", "128")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with room.png, and its depth as exact and as 16-bit inverse depth."""
    Image.fromarray(ROOM.colors).save(tmp_path / "room.png")
    np.save(tmp_path / "depth.npy", ROOM.depth)
    Image.fromarray(as_inverse(ROOM.depth, 16)[0]).save(tmp_path / "inverse.png")
    np.savez(tmp_path / "both.npz", rgb=ROOM.colors, depth=ROOM.depth)
    return tmp_path


def ends() -> tuple[str, ...]:
    meaning = as_inverse(ROOM.depth)[1]
    return ("--near", str(meaning.near), "--far", str(meaning.far))


def test_a_picture_and_its_depth_become_a_textured_glb(
    command: Callable[..., Any], files: Path
) -> None:
    output = files / "room.glb"
    task = ("run", "panorama-to-sphere", files / "room.png")
    done = command(*task, "--depth", files / "depth.npy", *SMALL, "-o", output, "--json")
    assert done.code == 0, done.err
    record = done.record
    assert record["output"] == str(output)
    assert record["width"] == 128
    assert record["vertices"] > 128 * 64
    body = output.read_bytes()
    document = json.loads(body[20 : 20 + int.from_bytes(body[12:16], "little")])
    assert [mesh["name"] for mesh in document["meshes"]] == ["room", "room backing"]
    assert [image["mimeType"] for image in document["images"]] == ["image/png"] * 2


@pytest.mark.parametrize("how", ["second", "both"])
def test_depth_may_be_the_second_input_or_in_the_same_file(
    command: Callable[..., Any], files: Path, how: str
) -> None:
    given = [files / "both.npz"] if how == "both" else [files / "room.png", files / "depth.npy"]
    done = command("run", "panorama-to-sphere", *given, *SMALL, "-o", files / "a.npz")
    assert done.code == 0, done.err
    assert "(front + backing)" in done.out
    with np.load(files / "a.npz") as arrays:
        assert json.loads(str(arrays["meaning"]))["meaning"] == "metric"
        lengths = np.linalg.norm(arrays["front_vertices"], axis=1)
    assert abs(np.median(lengths) - np.median(ROOM.depth)) < 0.05


def test_options_say_what_depth_means(command: Callable[..., Any], files: Path) -> None:
    task = ("run", "panorama-to-sphere", files / "room.png", files / "inverse.png", *SMALL)
    assert command(*task, *ends(), "-o", files / "a.npz").code == 0
    moved = ("--depth-scale", "2", "--depth-offset", "0.5", "--edges", "sheet")
    assert command(*task, *ends(), *moved, "-o", files / "b.npz").code == 0
    with np.load(files / "a.npz") as first, np.load(files / "b.npz") as second:
        assert json.loads(str(first["meaning"]))["meaning"] == "inverse"
        count = 128 * 64
        before = np.linalg.norm(first["front_vertices"][:count], axis=1)
        after = np.linalg.norm(second["front_vertices"][:count], axis=1)
        assert "backing_vertices" not in second
    np.testing.assert_allclose(after, 2 * before + 0.5, rtol=1e-4)
    np.testing.assert_allclose(before, ROOM.depth.ravel(), atol=0.001)


@pytest.mark.parametrize("layout", ["top-bottom", "separate"])
def test_each_eye_gets_its_picture(command: Callable[..., Any], files: Path, layout: str) -> None:
    task = ("run", "panorama-to-stereo", files / "both.npz", *SMALL, "--interocular", "0.3")
    done = command(*task, "--eyes", layout, "-o", files / "two.png")
    assert done.code == 0, done.err
    assert "128 x 64 for each eye" in done.out
    if layout == "top-bottom":
        both = np.asarray(Image.open(files / "two.png"))
        left, right = both[:64], both[64:]
    else:
        assert not (files / "two.png").exists()
        left, right = (
            np.asarray(Image.open(files / f"two-{side}.png")) for side in ("left", "right")
        )
    assert left.shape == right.shape == (64, 128, 3)
    assert (left != right).mean() > 0.2


def test_a_blend_file_is_left_to_blender(
    command: Callable[..., Any], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def save(sphere: Path, report: Any, **outputs: Path) -> None:
        seen.append(decode_result(sphere.read_bytes()))
        outputs["blend"].write_bytes(b"blend")

    monkeypatch.setattr(blender_process, "save_sphere", save)
    task = ("run", "panorama-to-sphere", files / "both.npz", *SMALL)
    assert command(*task, "-o", files / "a.blend").code == 0
    assert (files / "a.blend").read_bytes() == b"blend"
    assert isinstance(seen[0], SphereResult)
    assert seen[0].name == "both"


# --------------------------------------------------------------------------- depth and words


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A depth model and a model for words that know one room."""
    inverse, meaning = as_inverse(ROOM.depth)

    def work(task: Any, context: Any) -> Any:
        yield Progress("Forming", 0.5, picture=ROOM.colors if hasattr(task, "prompt") else None)
        known = PanoramaResult(image=ROOM.colors, depth=inverse, meaning=meaning)
        yield known

    kinds = ("panorama-to-depth", "text-to-panorama")
    made = tuple(
        pipelines.Model(f"of-{kind}", "Of a test", "", (kind,), False, family)
        for kind, family in zip(kinds, ("panorama-depth", "ldm3d"), strict=True)
    )
    monkeypatch.setattr(pipelines, "BUILT_IN", (*pipelines.BUILT_IN, *made))
    real = pipelines._imported
    monkeypatch.setattr(
        pipelines,
        "_imported",
        lambda entry: real(entry) if "_to_s" in entry else work,
    )


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png"])
def test_depth_is_written_in_full(command: Callable[..., Any], files: Path, suffix: str) -> None:
    output = files / f"told{suffix}"
    chosen = ("--model", "of-panorama-to-depth")
    done = command("run", "panorama-to-depth", files / "room.png", *chosen, "-o", output)
    assert done.code == 0, done.err
    inverse, meaning = as_inverse(ROOM.depth)
    if suffix == ".png":
        words = np.asarray(Image.open(output))
        assert words.dtype == np.uint16
        np.testing.assert_allclose((words - 1.0) / 65534, inverse, atol=1e-5)  # 0 is no depth
    elif suffix == ".npy":
        np.testing.assert_array_equal(np.load(output), inverse)
    else:
        with np.load(output) as arrays:
            np.testing.assert_array_equal(arrays["depth"], inverse)
            assert DepthMeaning.from_dict(json.loads(str(arrays["meaning"]))) == meaning


@pytest.mark.usefixtures("models")
def test_words_become_a_picture_and_its_depth(command: Callable[..., Any], files: Path) -> None:
    output, folder = files / "words.png", files / "forming"
    chosen = ("--model", "of-text-to-panorama", "--preview", folder)
    done = command("run", "text-to-panorama", "a", "room", *chosen, "-o", output)
    assert done.code == 0, done.err
    np.testing.assert_array_equal(np.asarray(Image.open(output)), ROOM.colors)
    assert np.asarray(Image.open(files / "words-depth.png")).dtype == np.uint16
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "preview-001.png")), ROOM.colors)


@pytest.mark.usefixtures("models")
def test_missing_depth_is_told_by_a_model(command: Callable[..., Any], files: Path) -> None:
    task = ("run", "panorama-to-sphere", files / "room.png", *SMALL, "-o", files / "a.npz")
    done = command(*task, "--depth-model", "of-panorama-to-depth", "--json")
    assert done.code == 0, done.err
    with np.load(files / "a.npz") as arrays:
        count = 128 * 64
        lengths = np.linalg.norm(arrays["front_vertices"][:count], axis=1)
    np.testing.assert_allclose(lengths, ROOM.depth.ravel(), atol=0.001)


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("panorama-to-sphere", "room.png", "depth.npy", "-o", "a.obj"), "Use one of .glb"),
        (("panorama-to-stereo", "both.npz", "-o", "a.glb"), "Use one of .png"),
        (("panorama-to-sphere", "none.png", "depth.npy", "-o", "a.glb"), "There is no file"),
        (("panorama-to-sphere", "room.png", "none.exr", "-o", "a.glb"), "There is no file"),
        (("panorama-to-sphere", "-o", "a.glb"), "no file was given"),
        (("panorama-to-sphere", "room.png", "depth.npy", "x", "-o", "a.glb"), "3 files were given"),
        (("panorama-to-sphere", "crop.png", "depth.npy", "-o", "a.glb"), '"pad"'),
        (("panorama-to-sphere", "room.png", "crop.npy", "-o", "a.glb"), "not of one shape"),
        (("panorama-to-sphere", "room.png", "nan.npy", "-o", "a.glb"), "no number anywhere"),
        (("panorama-to-sphere", "room.png", "below.npy", "-o", "a.glb"), "negative"),
        (("panorama-to-sphere", "both.npz", "--far", "-2", "-o", "a.glb"), "far of the depth"),
        (("panorama-to-sphere", "both.npz", "--width", "9", "-o", "a.glb"), "9 quads"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistakes_are_told(
    command: Callable[..., Any], files: Path, arguments: tuple[str, ...], told: str
) -> None:
    Image.fromarray(ROOM.colors[:40]).save(files / "crop.png")
    np.save(files / "crop.npy", ROOM.depth[:40])
    np.save(files / "nan.npy", np.full_like(ROOM.depth, np.nan))
    np.save(files / "below.npy", ROOM.depth - 3)
    places = [files / word if "." in word else word for word in arguments]
    done = command("run", *places)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err
    assert not list(files.glob("a.*"))


def test_notes_for_the_artist_are_told(command: Callable[..., Any], tmp_path: Path) -> None:
    large = analytic_rooms.panorama(analytic_rooms.LIVING_ROOM, 256)
    Image.fromarray(large.colors).save(tmp_path / "room.png")
    Image.fromarray(as_inverse(large.depth, 8)[0]).save(tmp_path / "depth.png")
    task = ("run", "panorama-to-sphere", tmp_path / "room.png", tmp_path / "depth.png", *SMALL)
    done = command(*task, "-o", tmp_path / "a.glb")
    assert done.code == 0
    assert "terraces" in done.err
