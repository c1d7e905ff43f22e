"""Animations from .anime files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from backend.errors import BadInput, FieldforgeError, NotFound, StorageFailed, TooLarge
from backend.geometry import anime
from backend.models.hyperdiffusion import occupancy
from tests.hyperdiffusion_golden import DIRECTORY, arrays

GOLDEN = DIRECTORY / "sequence.anime"


def _bytes(frames: int, vertices: np.ndarray, faces: np.ndarray, offsets: np.ndarray) -> bytes:
    head = struct.pack("<3i", frames, len(vertices), len(faces))
    return head + b"".join(
        [
            vertices.astype("<f4").tobytes(),
            faces.astype("<i4").tobytes(),
            offsets.astype("<f4").tobytes(),
        ]
    )


def _small(frames: int = 3) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    draws = np.random.default_rng(1)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return frames, draws.normal(size=(4, 3)), faces, draws.normal(size=(frames - 1, 4, 3))


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "walk.anime"
    path.write_bytes(content)
    return path


def test_frames_that_the_published_code_takes() -> None:
    golden = arrays("anime_frames")
    chosen = occupancy.frame_numbers(anime.frame_count(GOLDEN))
    assert np.array_equal(chosen, golden["frame_index"])
    found = anime.read(GOLDEN, chosen)
    assert np.array_equal(found.faces, golden["faces"])
    assert found.vertices.dtype == np.float32
    assert np.abs(found.vertices - golden["verts_raw"]).max() <= 1e-6
    placed = occupancy.published_frames([(frame, found.faces) for frame in found.vertices])
    off = np.stack([vertices for vertices, _ in placed]) - golden["verts_norm"]
    assert np.abs(off).max() <= 1e-6


def test_all_frames_are_read_in_any_order_and_written_again(tmp_path: Path) -> None:
    whole = anime.read(GOLDEN)
    assert len(whole.vertices) == anime.frame_count(GOLDEN) > 16
    backwards = anime.read(GOLDEN, range(len(whole.vertices) - 1, -1, -1))
    assert np.array_equal(backwards.vertices[::-1], whole.vertices)
    anime.write(tmp_path / "again.anime", whole.vertices, whole.faces)
    again = anime.read(tmp_path / "again.anime")
    assert np.abs(again.vertices - whole.vertices).max() <= 1e-7
    assert np.array_equal(again.faces, whole.faces)
    assert [path.name for path in tmp_path.iterdir()] == ["again.anime"]


def test_one_frame_is_an_animation_that_stands_still(tmp_path: Path) -> None:
    _, vertices, faces, _ = _small()
    path = _file(tmp_path, _bytes(1, vertices, faces, np.zeros((0, 4, 3))))
    found = anime.read(path)
    assert np.array_equal(found.vertices, vertices.astype(np.float32)[None])
    assert np.array_equal(occupancy.frame_numbers(1), [0])


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda whole: b"", "no .anime file: it has 0 bytes"),
        (lambda whole: whole[:11], "no .anime file: it has 11 bytes"),
        (lambda whole: whole[:-1], "cut off"),
        (lambda whole: whole[:40], "cut off"),
        (lambda whole: whole + b"\0", "damaged"),
        (lambda whole: struct.pack("<3i", -1, 4, 2) + whole[12:], "negative"),
        (lambda whole: struct.pack("<3i", 0, 4, 2) + whole[12:], "no frames"),
        (lambda whole: struct.pack("<3i", 3, 0, 2) + whole[12:], "no vertices"),
        (lambda whole: struct.pack("<3i", 3, 4, 0) + whole[12:], "no triangles"),
        (lambda whole: struct.pack("<3i", 2**31 - 1, 2**31 - 1, 2**31 - 1), "cut off"),
        (lambda whole: struct.pack(">3i", *struct.unpack("<3i", whole[:12])), "cut off"),
        (lambda whole: whole[:60] + struct.pack("<i", 4) + whole[64:], "do not exist"),
        (lambda whole: whole[:60] + struct.pack("<i", -1) + whole[64:], "do not exist"),
        (lambda whole: whole[:12] + struct.pack("<f", np.nan) + whole[16:], "not numbers"),
        (lambda whole: whole[:-4] + struct.pack("<f", np.inf), "Frame 2 .* not numbers"),
    ],
)
def test_files_that_are_none_are_told(tmp_path: Path, spoil: object, cause: str) -> None:
    assert callable(spoil)
    path = _file(tmp_path, spoil(_bytes(*_small())))
    with pytest.raises(BadInput, match=cause) as caught:
        anime.read(path)
    assert caught.value.remedy
    assert "walk.anime" in caught.value.cause


@pytest.mark.parametrize("wanted", [[], [3], [0, -1]])
def test_frames_that_it_does_not_have(tmp_path: Path, wanted: list[int]) -> None:
    with pytest.raises(BadInput, match=r"0 to 2"):
        anime.read(_file(tmp_path, _bytes(*_small())), wanted)


def test_more_than_is_accepted_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anime, "MAX_VERTICES", 11)
    path = _file(tmp_path, _bytes(*_small()))
    with pytest.raises(TooLarge, match="3 frames of 4 vertices"):
        anime.read(path)
    assert len(anime.read(path, [0, 2]).vertices) == 2


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        anime.read(tmp_path / "none.anime")
    with pytest.raises(FieldforgeError, match="cannot be read"):
        anime.frame_count(tmp_path)
    with pytest.raises(StorageFailed):
        anime.write(tmp_path / "no folder" / "x.anime", np.zeros((1, 3, 3)), np.zeros((1, 3)))
