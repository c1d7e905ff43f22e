"""`run text-to-panorama`: surroundings, or a picture and 16 bits of depth, from small models."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend import weights
from backend.pipelines import Context, resident, run
from backend.protocol import TextToPanorama
from tests import ldm3d_models


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("store")
    ldm3d_models.write(folder, ldm3d_models.parts_of(tmp_path_factory.mktemp("parts"), channels=6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDFORGE_WEIGHTS", str(folder))
        patch.setattr(weights, "BUNDLED", tmp_path_factory.mktemp("bundled"))
        yield folder
    resident.unload()


def test_words_become_surroundings(
    command: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    output, shown = tmp_path / "room.glb", tmp_path / "shown"
    done = command(
        *("run", "text-to-panorama", "--prompt", "a b", "-o", output, "--width", 64),
        *("--edges", "sheet", "--seed", 3, "--json", "--preview", shown),
    )
    assert done.code == 0, done.err
    assert done.record["model"] == "small-rooms"
    body = output.read_bytes()
    assert body[:4] == b"glTF"
    (length,) = struct.unpack_from("<I", body, 12)
    scene = json.loads(body[20 : 20 + length])
    assert len(scene["images"]) == 1
    vertices = [a["count"] for a in scene["accessors"] if a["type"] == "VEC3"]
    assert max(vertices) >= 64 * 30
    pictures = sorted(shown.iterdir())
    assert pictures
    with Image.open(pictures[0]) as picture:
        assert picture.size == (128, 64)


def test_words_become_a_picture_and_its_depth(
    command: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    output = tmp_path / "room.png"
    done = command(
        *("run", "text-to-panorama", "--prompt", "a b", "--negative", "c", "-o", output),
        *("--seed", 3, "--steps", 2, "--guidance", 3, "--json"),
    )
    assert done.code == 0, done.err
    assert done.record["outputs"] == [str(output), str(tmp_path / "room-depth.png")]
    task = TextToPanorama(
        prompt="a b", negative="c", seed=3, steps=2, guidance=3.0, sphere=False, model="small-rooms"
    )
    *_, result = run(task, Context(device="cpu"))
    with Image.open(output) as picture:
        np.testing.assert_array_equal(np.asarray(picture), result.image)
    with Image.open(tmp_path / "room-depth.png") as depth:
        assert depth.mode == "I;16"
        levels = np.asarray(depth)
    np.testing.assert_array_equal(levels, np.rint(1 + result.depth * 65534.0).astype(np.uint16))
    assert len(np.unique(levels)) > 1000


def test_the_size_of_the_picture(command: Callable[..., Any], store: Path, tmp_path: Path) -> None:
    output = tmp_path / "room.png"
    words = ("run", "text-to-panorama", "--prompt", "a b", "-o", output, "--steps", 1)
    for wish, size in (("--picture-width", 192), ("--picture-height", 96)):
        done = command(*words, wish, size)
        assert done.code == 0, done.err
        with Image.open(output) as picture:
            assert picture.size == (192, 96)
    assert command(*words, "--picture-width", 100).code == 2


@pytest.mark.parametrize("prompt", [[], ["--prompt", ""], ["--prompt", "a" * 1001]])
def test_words_that_are_none_or_too_many(
    command: Callable[..., Any], store: Path, tmp_path: Path, prompt: list[str]
) -> None:
    output = tmp_path / "room.png"
    done = command("run", "text-to-panorama", *prompt, "-o", output)
    assert done.code == 2
    assert not output.exists()
    assert len(done.err.strip().splitlines()) == 1


def test_a_model_that_is_not_here(command: Callable[..., Any], store: Path, tmp_path: Path) -> None:
    done = command(
        "run", "text-to-panorama", "--prompt", "a", "-o", tmp_path / "r.png", "--model", "ldm3d-4c"
    )
    assert done.code == 2
    assert "models download ldm3d-4c" in done.err
