"""Panoramas and depth from files: every kind that is read, and what is wrong with the others."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.conditions import panoramas, radiance
from backend.errors import BadInput, NotFound, TooLarge
from backend.protocol import MAX_PANORAMA_WIDTH

RNG = np.random.default_rng(5)
PICTURE = RNG.integers(0, 256, (16, 32, 3), np.uint8)
DEPTH = RNG.uniform(0.5, 8, (16, 32)).astype(np.float32)


def exr_file(path: Path, channels: dict[str, np.ndarray]) -> Path:
    """An uncompressed OpenEXR picture of float32 channels (H, W)."""
    names = sorted(channels)
    height, width = next(iter(channels.values())).shape

    def attribute(name: str, kind: str, body: bytes) -> bytes:
        return f"{name}\0{kind}\0".encode() + struct.pack("<i", len(body)) + body

    described = b"".join(name.encode() + b"\0" + struct.pack("<iiii", 2, 0, 1, 1) for name in names)
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    head = b"\x76\x2f\x31\x01" + struct.pack("<i", 2)
    head += attribute("channels", "chlist", described + b"\0")
    head += attribute("compression", "compression", b"\0")
    head += attribute("dataWindow", "box2i", box) + attribute("displayWindow", "box2i", box)
    head += attribute("lineOrder", "lineOrder", b"\0") + b"\0"
    line = len(names) * width * 4
    begin = len(head) + 8 * height
    offsets = [begin + row * (line + 8) for row in range(height)]
    lines = [
        struct.pack("<ii", row, line)
        + b"".join(channels[name][row].astype("<f4").tobytes() for name in names)
        for row in range(height)
    ]
    path.write_bytes(head + struct.pack(f"<{height}Q", *offsets) + b"".join(lines))
    return path


def hdr_file(path: Path, light: np.ndarray, *, in_runs: bool) -> Path:
    """A Radiance picture of (H, W, 3)."""
    height, width, _ = light.shape
    mantissa, exponent = np.frexp(light.max(axis=2))
    scale = np.where(
        light.max(axis=2) > 0, mantissa * 256 / np.maximum(light.max(axis=2), 1e-30), 0
    )
    pixels = np.dstack([light * scale[..., None], exponent + 128]).astype(np.uint8)
    body = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode()
    for line in pixels:
        if not in_runs:
            body += line.tobytes()
            continue
        body += bytes([2, 2, width >> 8, width & 255])
        for part in line.T:
            body += (
                bytes([128 + 8, part[0]])
                if len(set(part[:8])) == 1
                else b"\x08" + part[:8].tobytes()
            )
            body += bytes([width - 8]) + part[8:].tobytes()
    path.write_bytes(body)
    return path


# ------------------------------------------------------------------------------------- what is read


def test_pictures_of_every_kind_are_read(tmp_path: Path) -> None:
    light = (PICTURE / np.float32(100)).astype(np.float32)
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg", quality=98)
    np.savez(tmp_path / "a.npz", rgb=PICTURE, depth=DEPTH)
    np.save(tmp_path / "a.npy", light)
    planes = {name: light[..., k] for k, name in enumerate("RGB")}
    exr_file(tmp_path / "a.exr", {**planes, "Z": DEPTH})
    np.testing.assert_array_equal(panoramas.read_picture(tmp_path / "a.png"), PICTURE)
    np.testing.assert_array_equal(panoramas.read_picture(tmp_path / "a.npz"), PICTURE)
    assert panoramas.read_picture(tmp_path / "a.jpg").shape == PICTURE.shape
    for name in ("a.npy", "a.exr"):
        found = panoramas.read_picture(tmp_path / name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, light)


@pytest.mark.parametrize("in_runs", [False, True])
def test_light_beyond_what_screens_show_is_kept(tmp_path: Path, in_runs: bool) -> None:
    light = RNG.uniform(0, 1, (16, 32, 3)).astype(np.float32) * np.float32(40)
    light[3, :9] = light[3, 0]
    light[5] = 0
    found = panoramas.read_picture(hdr_file(tmp_path / "a.hdr", light, in_runs=in_runs))
    assert found.max() > 35
    allowed = light.max(axis=2, keepdims=True) / 100
    assert (np.abs(found - light) <= allowed).all()
    planes = {name: light[..., k] for k, name in enumerate("RGB")}
    planes["R"] = planes["R"].copy()
    planes["R"][0, :4] = [np.nan, np.inf, -5, 1e30]
    odd = panoramas.read_picture(exr_file(tmp_path / "a.exr", planes))
    assert odd[0, :3, 0].tolist() == [0, 65504, 0]
    assert np.isfinite(odd).all()


def test_depth_of_every_kind_is_read(tmp_path: Path) -> None:
    words = RNG.integers(0, 65536, (16, 32), np.uint16)
    Image.fromarray(words).save(tmp_path / "d.png")
    Image.fromarray(PICTURE[..., 0]).save(tmp_path / "e.png")
    np.save(tmp_path / "d.npy", DEPTH.astype(np.float64))
    np.savez(tmp_path / "d.npz", rgb=PICTURE, depth=DEPTH)
    np.savez(tmp_path / "only.npz", whatever=DEPTH[None, ..., None][0, ..., 0])
    exr_file(tmp_path / "d.exr", {"Z": DEPTH})
    for name, expected in (
        ("d.png", words),
        ("e.png", PICTURE[..., 0]),
        ("d.npy", DEPTH),
        ("d.npz", DEPTH),
        ("only.npz", DEPTH),
        ("d.exr", DEPTH),
    ):
        found = panoramas.read_depth(tmp_path / name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_what_renderers_write_for_nothing_is_no_depth(tmp_path: Path) -> None:
    depth = DEPTH.copy()
    depth[0, :3] = [1e10, np.inf, 65504]
    depth[0, 3] = np.nan
    found = panoramas.read_depth(exr_file(tmp_path / "d.exr", {"Depth.Z": depth}))
    assert not np.isfinite(found[0, :4]).any()
    np.testing.assert_array_equal(found[1:], DEPTH[1:])


def test_one_file_with_both_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", rgb=PICTURE, depth=DEPTH)
    np.savez(tmp_path / "one.npz", rgb=PICTURE)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
    assert panoramas.has_depth(tmp_path / "both.npz")
    assert not panoramas.has_depth(tmp_path / "one.npz")
    assert not panoramas.has_depth(tmp_path / "broken.npz")
    assert not panoramas.has_depth(tmp_path / "none.npz")


def test_what_depth_means_is_guessed_from_its_numbers() -> None:
    assert panoramas.guessed_meaning(DEPTH).meaning == "metric"
    assert panoramas.guessed_meaning(DEPTH / 10).meaning == "inverse"
    assert panoramas.guessed_meaning(PICTURE[..., 0]).meaning == "inverse"
    holes = np.where(DEPTH > 4, np.float32(np.inf), DEPTH / 10)
    assert panoramas.guessed_meaning(holes).meaning == "inverse"


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("read", [panoramas.read_picture, panoramas.read_depth])
def test_files_that_are_not_there_are_told(read: Any, tmp_path: Path) -> None:
    for name in ("a.png", "a.exr", "a.npz", "a.npy", "a.hdr"):
        with pytest.raises(NotFound, match="There is no file"):
            read(tmp_path / name)
    (tmp_path / "folder.exr").mkdir()
    with pytest.raises(BadInput, match="not a file"):
        read(tmp_path / "folder.exr")


@pytest.mark.parametrize("name", ["a.exr", "a.png", "a.npy", "a.npz", "a.hdr"])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_files_that_were_cut_off_are_told(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    light = PICTURE.astype(np.float32)
    match name:
        case "a.exr":
            exr_file(path, {"R": light[..., 0], "G": light[..., 1], "B": light[..., 2], "Z": DEPTH})
        case "a.png":
            Image.fromarray(PICTURE).save(path)
        case "a.npy":
            np.save(path, light)
        case "a.npz":
            np.savez(path, rgb=PICTURE, depth=DEPTH)
        case "a.hdr":
            hdr_file(path, light, in_runs=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadInput) as told:
        panoramas.read_picture(path)
    assert told.value.remedy
    if name != "a.hdr":
        with pytest.raises(BadInput):
            panoramas.read_depth(path)


def test_no_byte_of_a_radiance_picture_can_do_harm(tmp_path: Path) -> None:
    whole = hdr_file(tmp_path / "a.hdr", PICTURE.astype(np.float32), in_runs=True).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        spoilt = bytearray(whole)
        for at in rng.integers(0, len(whole), 8):
            spoilt[at] = rng.integers(0, 256)
        (tmp_path / "b.hdr").write_bytes(bytes(spoilt))
        try:
            assert radiance.read(tmp_path / "b.hdr", lambda width, height: None).ndim == 3
        except (BadInput, MemoryError):
            refused += 1
    assert refused > 30


def test_files_that_claim_to_be_enormous_are_told_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.hdr"
    path.write_bytes(b"#?RADIANCE\n\n-Y 30000 +X 60000\n" + bytes(200))
    with pytest.raises(TooLarge, match="60,000 x 30,000"):
        panoramas.read_picture(path)
    image = Image.new("1", (MAX_PANORAMA_WIDTH + 2, 4))
    image.save(tmp_path / "a.png")
    with pytest.raises(TooLarge, match=f"Scale it down to {MAX_PANORAMA_WIDTH:,}"):
        panoramas.read_picture(tmp_path / "a.png")


def test_sixteen_thousand_by_eight_thousand_pixels_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (16384, 8192)).save(path, compress_level=1)
    assert panoramas.read_depth(path).shape == (8192, 16384)


def test_arrays_that_are_no_picture_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", first=PICTURE, second=DEPTH)
    with pytest.raises(BadInput, match="several arrays: first, second"):
        panoramas.read_picture(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    for read in (panoramas.read_picture, panoramas.read_depth):
        with pytest.raises(BadInput, match="can"):
            read(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", PICTURE.astype(np.int64))
    with pytest.raises(BadInput):
        panoramas.read_picture(tmp_path / "b.npy")
    with pytest.raises(BadInput, match="no colours"):
        panoramas.read_picture(exr_file(tmp_path / "a.exr", {"Z": DEPTH}))


# --------------------------------------------------------------------------------------- all around


def test_a_panorama_without_top_and_bottom_is_padded() -> None:
    slope = np.abs(np.arange(64) - 32)[None, :, None] * np.ones((20, 1, 3))
    wide = (slope * 6).astype(np.uint8)
    around = panoramas.all_around(wide, "pad")
    assert around.shape == (32, 64, 3)
    np.testing.assert_array_equal(around[6:26], wide)
    assert np.abs(around[5].astype(int) - wide[0]).mean() < 20  # goes on with what is beside it
    depth = panoramas.all_around(np.full((20, 64), 3, np.uint16), "pad")
    assert depth.dtype == np.float32
    assert (depth[6:26] == 3).all()
    assert np.isnan(depth[[0, 5, 26, 31]]).all()


def test_a_panorama_that_is_too_high_is_padded_at_its_sides() -> None:
    around = panoramas.all_around(np.full((32, 40, 3), 7, np.uint8), "pad")
    assert around.shape == (32, 64, 3)
    assert (around == 7).all()
    assert np.isnan(
        panoramas.all_around(np.ones((32, 40), np.float32), "pad")[:, [0, 11, 52]]
    ).all()


def test_a_part_of_the_way_around_lies_around_the_middle() -> None:
    part = RNG.integers(0, 256, (30, 40, 3), np.uint8)
    around = panoramas.all_around(part, "partial", 120.0)
    assert around.shape == (60, 120, 3)
    np.testing.assert_array_equal(around[15:45, 40:80], part)
    depth = panoramas.all_around(np.ones((15, 20), np.float32), "partial", 120.0)
    assert depth.shape == (30, 60)
    assert np.isfinite(depth).sum() == 15 * 20


def test_what_is_all_around_already_stays() -> None:
    for aspect in ("strict", "pad"):
        assert panoramas.all_around(PICTURE, aspect) is PICTURE
    assert panoramas.all_around(PICTURE, "partial", 360.0).shape == PICTURE.shape


def test_a_part_may_not_become_larger_than_is_accepted() -> None:
    with pytest.raises(TooLarge):
        panoramas.all_around(np.zeros((400, 4000), np.float32), "partial", 20.0)
