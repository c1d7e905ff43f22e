"""Files as people have them: every kind is read, and what cannot be is told in plain words."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backend.conditions import exr
from backend.conditions.picture_files import guess_encoding, read_depth, read_image
from backend.errors import BadInput, NotFound, TooLarge
from backend.protocol import MAX_IMAGE_SIDE

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "pictures"
RNG = np.random.default_rng(0)
RGB = np.repeat(np.repeat(RNG.integers(0, 256, (6, 8, 3), np.uint8), 4, axis=0), 4, axis=1)


def saved(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    path = folder / name
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def empty_png(width: int, height: int) -> bytes:
    """A file of a few bytes whose header claims a picture of that size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checked = kind + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.tga", "a.webp", "a.PNG", "a"])
def test_pictures_without_loss_come_as_they_are(tmp_path: Path, name: str) -> None:
    kind = Path(name).suffix.lower().lstrip(".").replace("tif", "tiff") or "png"
    options = {"lossless": True} if kind == "webp" else {}
    path = saved(tmp_path, Image.fromarray(RGB), name, format=kind, **options)
    np.testing.assert_array_equal(read_image(path), RGB)


def test_jpeg_and_cmyk(tmp_path: Path) -> None:
    even = np.full((32, 32, 3), (200, 80, 40), np.uint8)
    plain = read_image(saved(tmp_path, Image.fromarray(even), "a.jpg", quality=95))
    assert np.abs(plain.astype(int) - even).max() <= 4
    cmyk = read_image(saved(tmp_path, Image.fromarray(even).convert("CMYK"), "b.jpg", quality=95))
    assert cmyk.shape == (32, 32, 3)
    assert np.abs(cmyk.astype(int) - even).max() <= 6


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    tones = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    picture = read_image(saved(tmp_path, Image.fromarray(tones), "a.png"))
    assert picture.shape == (30, 40, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture[..., 1], tones / 257, atol=0.51)
    depth, encoding = read_depth(tmp_path / "a.png")
    np.testing.assert_array_equal(depth, tones)
    assert depth.dtype == np.uint16
    assert encoding in ("near-bright", "near-dark")


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    indices = np.zeros((20, 20), np.uint8)
    indices[5:15, 5:15] = 1
    image = Image.fromarray(indices).convert("P")
    image.putpalette([0, 255, 0, 250, 10, 20] + [0] * 750)
    picture = read_image(saved(tmp_path, image, "a.png", transparency=0))
    assert picture.shape == (20, 20, 4)
    np.testing.assert_array_equal(picture[..., 3], 255 * indices)
    np.testing.assert_array_equal(picture[7, 7], [250, 10, 20, 255])
    np.testing.assert_array_equal(read_image(saved(tmp_path, image, "b.png"))[0, 0], [0, 255, 0])


def test_grey_with_alpha(tmp_path: Path) -> None:
    pixels = RNG.integers(1, 256, (12, 9, 2), np.uint8)
    picture = read_image(saved(tmp_path, Image.fromarray(pixels, "LA"), "a.png"))
    np.testing.assert_array_equal(picture, pixels[..., [0, 0, 0, 1]])


def test_alpha_that_hides_nothing_is_left_out(tmp_path: Path) -> None:
    opaque = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(
        read_image(saved(tmp_path, Image.fromarray(opaque), "a.png")), RGB
    )


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_of_an_animation_the_first_frame(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert image.n_frames == 3
    picture = read_image(path)
    assert picture.shape[:2] == (16, 16)
    assert (picture[..., :3] == [255, 0, 0]).all()


def test_the_turn_that_the_camera_noted_is_made(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "black")
    image.paste((255, 255, 255), (0, 0, 40, 5))  # bright at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of the file
    picture = read_image(saved(tmp_path, image, "a.jpg", exif=exif, quality=95))
    assert picture.shape[:2] == (40, 20)
    assert picture[:, 17:].mean() > 240
    assert picture[:, :13].mean() < 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_turn_and_mirroring_is_undone(tmp_path: Path, orientation: int) -> None:
    """The standard's table: on which side of the scene the first row and column of the file lie."""
    scene = np.arange(12, dtype=np.uint8).reshape(3, 4)[..., None] * np.uint8([20, 10, 5])
    row, column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    in_file = scene if row in ("top", "bottom") else scene.transpose(1, 0, 2)
    in_file = in_file[::-1] if row in ("bottom", "right") else in_file
    in_file = in_file[:, ::-1] if column in ("bottom", "right") else in_file
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(in_file)), "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(path), scene)


@pytest.mark.parametrize("mode", ["1", "L", "YCbCr"])
def test_other_colour_models(tmp_path: Path, mode: str) -> None:
    white = Image.fromarray(np.full((8, 8, 3), 255, np.uint8))
    picture = read_image(saved(tmp_path, white.convert(mode), "a.tif"))
    assert picture.shape == (8, 8, 3)
    assert picture.min() > 240


# ------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize("read", [read_image, read_depth])
def test_one_pixel_shows_no_shape(tmp_path: Path, read: object) -> None:
    path = saved(tmp_path, Image.new("RGB", (1, 1)), "a.png")
    with pytest.raises(BadInput, match="1 x 1"):
        read(path)  # type: ignore[operator]


@pytest.mark.parametrize("size", [(20_000, 20_000), (12_000, 12_000), (MAX_IMAGE_SIDE + 1, 10)])
@pytest.mark.parametrize("read", [read_image, read_depth])
def test_a_huge_picture_is_refused_before_it_takes_memory(
    tmp_path: Path, read: object, size: tuple[int, int]
) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(empty_png(*size))
    tracemalloc.start()
    with pytest.raises(TooLarge) as error:
        read(path)  # type: ignore[operator]
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert "cale it down" in error.value.remedy


def test_huge_arrays_and_exr_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    array = tmp_path / "a.npy"
    np.lib.format.open_memmap(array, mode="w+", dtype=np.float32, shape=(20_000, 20_000)).flush()
    body = bytearray((GOLDEN / "zip_32.exr").read_bytes())
    at = body.index(b"dataWindow\0box2i\0") + len(b"dataWindow\0box2i\0") + 4
    body[at + 8 : at + 16] = struct.pack("<ii", 19_999, 19_999)
    picture = tmp_path / "a.exr"
    picture.write_bytes(body)
    tracemalloc.start()
    for path in (array, picture):
        with pytest.raises(TooLarge, match="20,000 x 20,000"):
            read_depth(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    array.unlink()


def test_a_fully_transparent_picture_shows_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGBA", (30, 30), (200, 100, 50, 0)), "a.png")
    with pytest.raises(BadInput, match="fully transparent"):
        read_image(path)


@pytest.mark.parametrize(
    "body", [b"", b"no picture", b"%PDF-1.7 ...", b"<svg xmlns='x'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_picture(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(body)
    with pytest.raises(BadInput, match=r"a\.png is not a picture") as error:
        read_image(path)
    assert "PNG" in error.value.remedy


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "gif", "bmp"])
def test_a_file_that_was_cut_off(tmp_path: Path, kind: str) -> None:
    whole = io.BytesIO()
    noise = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole, kind)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(BadInput) as error:
        read_image(path)
    assert error.value.remedy


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(NotFound):
        read_depth(tmp_path / "nothing.exr")
    with pytest.raises(BadInput, match="not a file"):
        read_image(tmp_path)


@given(st.data())
def test_damage_is_told_and_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    kind = data.draw(st.sampled_from(["png", "jpeg", "gif", "tiff", "bmp", "exr"]))
    if kind == "exr":
        whole = (GOLDEN / data.draw(st.sampled_from(["zip_32.exr", "rle_16.exr"]))).read_bytes()
    else:
        buffer = io.BytesIO()
        Image.fromarray(RGB).save(buffer, kind)
        whole = buffer.getvalue()
    body = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    path = folder / f"damaged.{kind}"
    path.write_bytes(body[: data.draw(st.integers(0, len(body)))])
    for read in (read_image, read_depth) if kind != "exr" else (read_depth,):
        try:
            read(path)
        except BadInput as error:
            told = error.cause and error.remedy
        else:
            told = "it was read all the same"
        assert told


# -------------------------------------------------------------------------------------------- depth


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Depth and where the object is, as the golden files have them."""
    y, x = np.mgrid[0:37, 0:53]
    depth = (2 + 0.03 * x + np.sin(y / 5)).astype(np.float32)
    return depth, (x - 26) ** 2 + (y - 18) ** 2 <= 200


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("none_16", 2e-3),
        ("rle_16", 2e-3),
        ("zips_16", 2e-3),
        ("zip_32", 0),
        ("pxr24_16", 2e-3),
        ("pxr24_32", 1e-4),
    ],
)
def test_exr_of_blender(name: str, tolerance: float) -> None:
    want, object_mask = scene()
    depth, encoding = read_depth(GOLDEN / f"{name}.exr")
    assert encoding == "metres"
    assert depth.dtype == np.float32
    assert np.isposinf(depth[~object_mask]).all()
    assert np.abs(depth - want)[object_mask].max() <= tolerance


def test_a_codec_that_is_not_read_says_which_is() -> None:
    with pytest.raises(BadInput, match="PIZ") as error:
        read_depth(GOLDEN / "piz_16.exr")
    assert "ZIP" in error.value.remedy


def simple_exr(channels: dict[str, np.ndarray]) -> bytes:
    """An uncompressed file of float32 channels, first line 5."""
    height, width = next(iter(channels.values())).shape
    listed = b"".join(
        name.encode() + b"\0" + struct.pack("<iiii", 2, 0, 1, 1) for name in sorted(channels)
    )
    header = b""
    for name, kind, body in (
        ("channels", "chlist", listed + b"\0"),
        ("compression", "compression", b"\0"),
        ("dataWindow", "box2i", struct.pack("<4i", 3, 5, width + 2, height + 4)),
    ):
        header += (
            name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(body)) + body
        )
    start = exr.MAGIC + struct.pack("<i", 2) + header + b"\0"
    line_bytes = 4 * width * len(channels)
    offsets = [len(start) + 8 * height + row * (8 + line_bytes) for row in range(height)]
    lines = b"".join(
        struct.pack("<ii", row + 5, line_bytes)
        + b"".join(channels[name][row].astype("<f4").tobytes() for name in sorted(channels))
        for row in range(height)
    )
    return start + struct.pack(f"<{height}Q", *offsets) + lines


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["R", "G", "B", "Z"], "Z"),
        (
            ["ViewLayer.Depth.Z", "ViewLayer.Position.Z", "ViewLayer.Combined.R"],
            "ViewLayer.Depth.Z",
        ),
        (["V"], "V"),
        (["Y"], "Y"),
        (["R", "G", "B"], "R"),
        (["depth.V", "Z"], "depth.V"),
    ],
)
def test_the_channel_of_depth_is_found(tmp_path: Path, names: list[str], chosen: str) -> None:
    want, object_mask = scene()
    other = np.full_like(want, 77)
    path = tmp_path / "a.exr"
    depth = np.where(object_mask, want, np.float32(1e10))
    path.write_bytes(simple_exr({name: depth if name == chosen else other for name in names}))
    np.testing.assert_array_equal(exr.read_depth(path), depth)


def test_an_exr_of_many_channels_takes_no_more_memory_than_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.exr"
    path.write_bytes(simple_exr({name: np.ones((2, 8)) for name in "RGBZ"}))
    monkeypatch.setattr(exr, "_MOST_CHUNK_BYTES", 4 * 4 * 8)
    np.testing.assert_array_equal(exr.read_depth(path), np.ones((2, 8)))
    monkeypatch.setattr(exr, "_MOST_CHUNK_BYTES", 4 * 4 * 8 - 1)
    with pytest.raises(TooLarge, match="4 channels"):
        exr.read_depth(path)


def test_lines_of_an_exr_that_lie_nowhere(tmp_path: Path) -> None:
    """What no chunk fills is empty, and not what happened to be in memory."""
    path = tmp_path / "a.exr"
    body = simple_exr({"Z": np.ones((3, 8))})
    at = body.index(struct.pack("<i", 5) + struct.pack("<i", 32)) - 3 * 8
    first = body[at : at + 8]
    path.write_bytes(body[:at] + first * 3 + body[at + 24 :])
    depth = exr.read_depth(path)
    assert (depth[0] == 1).all()
    assert np.isinf(depth[1:]).all()
    path.write_bytes(body[:at] + b"\xff" * 8 + body[at + 8 :])
    with pytest.raises(BadInput, match="damaged"):
        exr.read_depth(path)


def test_an_exr_without_depth(tmp_path: Path) -> None:
    path = tmp_path / "a.exr"
    path.write_bytes(simple_exr({"Normal.Z": np.ones((4, 4)), "Position.X": np.ones((4, 4))}))
    with pytest.raises(BadInput, match="no depth"):
        read_depth(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_in_metres(tmp_path: Path, dtype: type[np.floating]) -> None:
    want, object_mask = scene()
    depth = np.where(object_mask, want, np.inf).astype(dtype)
    np.save(tmp_path / "a.npy", depth[None, :, :, None])
    found, encoding = read_depth(tmp_path / "a.npy")
    assert encoding == "metres"
    np.testing.assert_array_equal(found, depth.astype(np.float32))


@pytest.mark.parametrize(
    "array",
    [np.zeros((3, 4, 5)), np.zeros(7), np.zeros((4, 4), complex), np.array([["a"]])],
)
def test_arrays_that_are_no_depth(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(BadInput):
        read_depth(tmp_path / "a.npy")


def test_several_arrays_in_one_file_are_no_depth(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", depth=np.ones((4, 4)))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(BadInput, match=r"numpy\.save"):
        read_depth(tmp_path / "a.npy")


def test_distances_beyond_float32_are_empty(tmp_path: Path) -> None:
    depth = np.full((4, 4), 1e300)
    depth[1, 2] = 3
    np.save(tmp_path / "a.npy", depth)
    found, encoding = read_depth(tmp_path / "a.npy")
    assert encoding == "metres"
    assert found[1, 2] == 3
    assert np.isinf(found).sum() == 15


def test_an_array_with_code_in_it_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput):
        read_depth(tmp_path / "a.npy")


def test_radiance_pictures_are_too_coarse(tmp_path: Path) -> None:
    (tmp_path / "a.hdr").write_bytes(b"#?RADIANCE\n")
    with pytest.raises(BadInput, match="Radiance"):
        read_depth(tmp_path / "a.hdr")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_ground_tells_whether_near_is_bright(dtype: type) -> None:
    want, object_mask = scene()
    near = np.where(object_mask, (4.7 - want) / 4, 0)
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    assert guess_encoding((near * top).astype(dtype))[1] == "near-bright"
    assert guess_encoding(((1 - near) * top).astype(dtype))[1] == "near-dark"


def test_depth_that_is_infinite_everywhere(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((20, 20), np.inf, np.float32))
    with pytest.raises(BadInput, match="infinite everywhere"):
        read_depth(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.full((20, 20), 1e10, np.float32))
    with pytest.raises(BadInput, match="infinite everywhere"):
        read_depth(tmp_path / "b.npy")


def test_zero_from_a_depth_camera_is_nothing(tmp_path: Path) -> None:
    depth = np.full((10, 10), 2.5, np.float32)
    depth[0] = 0
    np.save(tmp_path / "a.npy", depth)
    found, encoding = read_depth(tmp_path / "a.npy")
    assert encoding == "metres"
    assert np.isposinf(found[0]).all()
