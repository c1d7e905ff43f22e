"""Pictures for the model: as published bit for bit, and by default the object alone on black."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from backend.conditions import framing
from backend.conditions import images as picture_conditions
from backend.conditions.backgrounds import CAREFUL, STRONG, cut_out
from backend.conditions.images import (
    NOT_PLAIN,
    REMOVED,
    model_image,
    model_views,
    prepare,
    prepare_views,
)
from backend.errors import BadInput

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "wala" / "image.npz"
WHITE, GREY, BLACK = (250, 250, 250), (128, 128, 128), (0, 0, 0)


def ring(
    side: int = 160, centre: tuple[float, float] = (0.5, 0.5), radius: float = 0.3
) -> np.ndarray:
    """Coverage (side, side) of a thick ring, antialiased: an object with a hole."""
    y, x = np.mgrid[0:side, 0:side] + 0.5
    distance = np.hypot(y - centre[1] * side, x - centre[0] * side)
    outer = np.clip(radius * side + 0.5 - distance, 0, 1)
    return outer * np.clip(distance - 0.5 * radius * side + 0.5, 0, 1)


def painted(cover: np.ndarray, color: object, ground: object) -> np.ndarray:
    ground = np.broadcast_to(np.asarray(ground, float), (*cover.shape, 3))
    mixed = ground + (np.asarray(color, float) - ground) * cover[..., None]
    return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def overlap(opacity: np.ndarray, cover: np.ndarray) -> float:
    found, want = opacity > 127, cover > 0.5
    return float((found & want).sum() / (found | want).sum())


# ------------------------------------------------------------------------------------- as published


def test_as_published_is_what_was_published() -> None:
    with np.load(GOLDEN) as golden:
        pixels, want = golden["rgba_png_pixels"], golden["rgba_over_white_False"]
    for image in (pixels, np.ascontiguousarray(pixels[..., :3])):
        found = model_image(image, as_published=True)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(np.rint((found + 1) * 127.5), want)
        np.testing.assert_allclose(found, want / np.float32(255) * 2 - 1, atol=1e-7)
    assert model_views(np.stack([pixels] * 2), as_published=True).shape == (2, 3, 224, 224)


@pytest.mark.parametrize("shape", [(40, 300, 3), (300, 40, 3)])
def test_a_long_strip_is_as_published_without_its_memory(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    strip = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    whole = framing.published(strip)
    monkeypatch.setattr(framing, "_LONGEST", 224)
    np.testing.assert_allclose(framing.published(strip), whole.astype(int), atol=1)
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def recorded(image: Image.Image, size: tuple[int, int], *rest: Any, **named: Any) -> Any:
        sizes.append(size)
        return resize(image, size, *rest, **named)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    assert framing.published(np.zeros((16_384, 2, 3), np.uint8)).shape == (224, 224, 3)
    assert sizes == [(224, 224)]


# ------------------------------------------------------------------------------------------ framing


@settings(max_examples=40)
@given(
    height=st.integers(2, 90),
    width=st.integers(2, 90),
    left=st.floats(-120, 100),
    top=st.floats(-120, 100),
    side=st.floats(3, 250),
)
def test_a_frame_is_cut_where_it_lies(
    height: int, width: int, left: float, top: float, side: float
) -> None:
    # A picture that says where each of its pixels is shows where a cut shows it.
    y, x = np.mgrid[0:height, 0:width]
    picture = np.dstack([2 * x + 20, 2 * y + 20, np.full_like(x, 200)]).astype(np.uint8)
    result = framing.cut(picture, framing.Frame(left, top, side), side=32)
    assert result.shape == (32, 32, 3)
    step = side / 32
    across = left + (np.arange(32) + 0.5) * step
    down = top + (np.arange(32) + 0.5) * step
    clear = 2 * max(step, 1)
    inside = np.outer(
        (down > clear) & (down < height - clear), (across > clear) & (across < width - clear)
    )
    outside = np.outer((down < -clear) | (down > height + clear), np.ones(32, bool)) | np.outer(
        np.ones(32, bool), (across < -clear) | (across > width + clear)
    )
    assert (result[outside] == 0).all()
    want = np.dstack(
        [np.tile(2 * (across - 0.5) + 20, (32, 1)), np.tile(2 * (down - 0.5) + 20, (32, 1)).T]
    )
    assert np.abs(result[..., :2] - want)[inside].max(initial=0) <= 1.6
    assert (result[inside][:, 2] == 200).all()


@pytest.mark.parametrize("size", [(60, 200), (200, 60), (3, 500), (16_000, 200)])
def test_pictures_are_padded_and_never_cropped(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 200, np.uint8)
    picture = prepare(image, "keep").picture
    assert picture.shape == (224, 224, 3)
    share = (picture[..., 0] > 100).mean()
    assert share == pytest.approx(min(size) / max(size), abs=0.02)
    rows, columns = np.nonzero(picture[..., 0] > 20)
    assert abs(rows.mean() - 111.5) <= 1
    assert abs(columns.mean() - 111.5) <= 1


@settings(max_examples=25)
@given(
    centre=st.tuples(st.floats(0.25, 0.75), st.floats(0.25, 0.75)),
    radius=st.floats(0.08, 0.24),
    side=st.integers(100, 500),
)
def test_size_and_place_in_the_picture_do_not_matter(
    centre: tuple[float, float], radius: float, side: int
) -> None:
    cover = ring(side, centre, radius)
    image = np.dstack([painted(cover, (220, 120, 60), BLACK), np.rint(255 * cover)])
    picture = prepare(image.astype(np.uint8)).picture
    want = ring(224, radius=framing.FILL / 2)
    assert overlap(picture[..., 0], want) > 0.75
    seen = np.argwhere(picture[..., 0] > 60)
    assert np.abs(seen.min(axis=0) + seen.max(axis=0) - 223).max() <= 12
    assert np.ptp(seen, axis=0) == pytest.approx(framing.FILL * 224, abs=14)


# -------------------------------------------------------------------------------------------- alpha


def test_a_large_picture_with_alpha_is_the_same_as_a_small_one() -> None:
    cover = ring(200, radius=0.2)
    alpha = np.rint(255 * cover)
    small = np.dstack([painted(cover, (220, 120, 60), (0, 255, 0)), alpha]).astype(np.uint8)
    large = small.repeat(23, axis=0).repeat(23, axis=1)
    for background in ("auto", "keep"):
        found, want = (prepare(image, background).picture.astype(int) for image in (large, small))
        assert np.abs(found - want).mean() < 3
        assert want.mean() > 8


def test_what_alpha_hides_does_not_show() -> None:
    cover = ring()
    hidden = np.dstack([np.full((160, 160, 3), 255), np.rint(255 * cover)]).astype(np.uint8)
    hidden[cover == 0, :3] = (0, 255, 0)
    picture = prepare(hidden).picture
    assert (picture[..., 0] == picture[..., 1]).all()
    assert (picture[0] == 0).all()
    kept = prepare(hidden, "keep").picture
    assert (kept[:20] == 0).all()
    assert (kept[..., 0] == kept[..., 1]).all()


# --------------------------------------------------------------------------------------- background


@pytest.mark.parametrize("strong", [False, True])
@pytest.mark.parametrize("sigma", [0, 2, 5])
@pytest.mark.parametrize(
    ("color", "ground"),
    [
        (WHITE, GREY),
        (GREY, WHITE),
        ((90, 40, 20), WHITE),
        ((200, 60, 50), (40, 70, 200)),
        ((230, 230, 225), (205, 205, 205)),
        (WHITE, BLACK),
        ((60, 130, 60), (70, 70, 140)),
    ],
)
def test_a_plain_ground_goes_and_the_object_stays(
    color: tuple[int, ...], ground: tuple[int, ...], sigma: float, strong: bool
) -> None:
    cover = ring(200)
    image = noisy(painted(cover, color, ground), sigma)
    found = cut_out(image, STRONG if strong else CAREFUL)
    assert found is not None
    assert overlap(found.opacity, cover) > 0.95
    inside = ndimage.binary_erosion(cover > 0.99, iterations=3)
    assert (found.opacity[inside] == 255).all()
    np.testing.assert_array_equal(found.colors[inside], image[inside])
    assert (found.colors[cover == 0].max(axis=1) > 12).mean() < 0.01


def test_edges_are_soft_and_free_of_the_ground() -> None:
    cover = ndimage.zoom(ring(640), 0.25, order=1)
    found = cut_out(painted(cover, (200, 80, 40), (240, 245, 250)))
    assert found is not None
    edge = (cover > 0.1) & (cover < 0.9)
    assert edge.sum() > 100
    assert np.abs(found.opacity / 255 - cover)[edge].mean() < 0.08
    wanted = painted(cover, (200, 80, 40), BLACK).astype(int)
    assert np.abs(found.colors - wanted)[edge].mean() < 12


@pytest.mark.parametrize("background", ["auto", "remove"])
def test_a_shaded_ground_is_plain_too(background: str) -> None:
    y, x = np.mgrid[0:200, 0:200] / 200
    ground = (120 + 90 * y + 20 * x - 40 * (x - 0.5) ** 2)[..., None] * [1, 0.98, 0.95]
    cover = ring(200)
    prepared = prepare(noisy(painted(cover, (90, 30, 25), ground), 2), background)
    assert prepared.notes == (REMOVED,)
    assert overlap(255 * (prepared.picture[..., 0] > 30), ring(224, radius=0.4)) > 0.9


def test_an_object_of_the_tone_of_the_ground_keeps_what_is_enclosed() -> None:
    # A white shirt button on a red shirt on white: fading into the red, not a hole.
    side = 200
    y, x = np.mgrid[0:side, 0:side] + 0.5
    distance = np.hypot(y - 100, x - 100)
    cover = np.clip(60.5 - distance, 0, 1)
    highlight = np.exp(-((distance / 22) ** 4))
    image = painted(highlight, (255, 255, 255), painted(cover, (190, 30, 30), (255, 255, 255)))
    found = cut_out(image)
    assert found is not None
    assert (found.opacity[distance < 55] == 255).all()


def test_what_is_not_plain_stays_and_is_told() -> None:
    rng = np.random.default_rng(1)
    clutter = ndimage.gaussian_filter(rng.random((150, 150, 3)), (5, 5, 0))
    clutter = (255 * (clutter - clutter.min()) / np.ptp(clutter)).astype(np.uint8)
    prepared = prepare(clutter)
    assert prepared.notes == (NOT_PLAIN,)
    whole = framing.cut(clutter, framing.whole(150, 150))
    np.testing.assert_array_equal(prepared.picture, whole)
    assert prepare(clutter, "keep").notes == ()


def test_sky_above_ground_is_not_a_plain_background() -> None:
    image = np.full((150, 150, 3), (120, 170, 230), np.uint8)
    image[90:] = noisy(np.full((60, 150, 3), 90), 30)
    assert prepare(image).notes == (NOT_PLAIN,)


def test_a_soft_shadow_goes_when_asked() -> None:
    side = 240
    y, x = np.mgrid[0:side, 0:side] / side
    ground = 200 * (1 - 0.4 * np.exp(-(((x - 0.5) / 0.25) ** 2) - ((y - 0.75) / 0.06) ** 2))
    cover = ((np.abs(x - 0.5) < 0.15) & (np.abs(y - 0.5) < 0.25)).astype(float)
    image = noisy(painted(cover, (180, 60, 50), ground[..., None] * [1, 1, 1]), 1)
    found = cut_out(image, STRONG)
    assert found is not None
    assert overlap(found.opacity, cover) > 0.97


def test_a_small_object_in_a_large_picture_comes_out_sharp() -> None:
    image = np.full((2400, 3200, 3), 225, np.uint8)
    cover = ring(300)
    image[300:600, 2500:2800] = painted(cover, (40, 80, 160), (225, 225, 225))
    picture = prepare(image).picture
    want = ring(224, radius=framing.FILL / 2)
    assert overlap(255 * (picture[..., 2] > 60), want) > 0.95


def test_dust_does_not_widen_the_frame() -> None:
    image = painted(ring(300, radius=0.15), (40, 80, 160), (235, 235, 235))
    for row, column in [(5, 5), (290, 20), (15, 280)]:
        image[row : row + 2, column : column + 2] = 60
    clean = painted(ring(300, radius=0.15), (40, 80, 160), (235, 235, 235))
    found, want = prepare(image).picture.astype(int), prepare(clean).picture
    assert np.abs(found - want).max() <= 2


# -------------------------------------------------------------------------------------------- views


def test_views_are_framed_alike() -> None:
    covers = [ring(160, radius=radius) for radius in (0.3, 0.2, 0.1)]
    images = np.stack([painted(cover, (200, 90, 30), GREY) for cover in covers])
    pictures = [view.picture for view in prepare_views(images)]
    extents = [np.ptp(np.flatnonzero((picture[..., 0] > 60).any(axis=0))) for picture in pictures]
    assert extents[0] == pytest.approx(framing.FILL * 224, abs=6)
    assert extents[1] / extents[0] == pytest.approx(2 / 3, abs=0.05)
    assert extents[2] / extents[0] == pytest.approx(1 / 3, abs=0.05)
    np.testing.assert_array_equal(model_views(images)[0], framing.to_model(pictures[0]))


def test_photographs_that_miss_the_middle_are_framed_around_their_objects() -> None:
    images = [
        painted(ring(200, centre, 0.12), (200, 90, 30), GREY)
        for centre in ((0.2, 0.2), (0.5, 0.8), (0.75, 0.3))
    ]
    for view in prepare_views(images):
        rows, columns = np.nonzero(view.picture[..., 0] > 60)
        assert abs(rows.mean() - 112) < 4
        assert abs(columns.mean() - 112) < 4
        assert np.ptp(rows) == pytest.approx(framing.FILL * 224, abs=6)


@pytest.mark.parametrize("tone", [0, 128, 255])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_picture_of_one_tone_shows_nothing(tone, channels):
    blank = np.full((80, 120, channels), tone, np.uint8)
    blank[::3] += np.uint8(tone < 255)
    blank[..., 3:] = 255
    with pytest.raises(BadInput, match="one tone"):
        picture_conditions.prepare(blank)
    with pytest.raises(BadInput, match="one tone"):
        picture_conditions.prepare_views([blank, blank])
    assert picture_conditions.model_image(blank, as_published=True).shape == (3, 224, 224)


def test_a_silhouette_of_one_tone_is_a_picture():
    disc = np.zeros((90, 90, 4), np.uint8)
    y, x = np.mgrid[:90, :90] - 45
    disc[..., :3] = 255
    disc[..., 3] = np.where(x**2 + y**2 < 900, 255, 0)
    assert picture_conditions.prepare(disc).picture.max() == 255
