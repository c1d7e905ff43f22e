"""Depth for the model: near bright, black ground, the full range, the far end above the ground."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.conditions import framing
from backend.conditions.depths import FAR_END, brightness, model_depth, model_views, prepare
from backend.errors import BadInput
from backend.protocol import check_depth


def slope(near: float = 2.0, far: float = 4.0, side: int = 80) -> np.ndarray:
    """A square that recedes from left to right, before nothing."""
    depth = np.full((side, side), np.inf, np.float32)
    depth[20:60, 20:60] = np.linspace(near, far, 40)
    return depth


def test_metres_become_near_bright_on_black() -> None:
    bright = brightness(slope(), "metres")
    assert (bright[:20] == 0).all()
    assert bright[30, 20] == 255
    assert bright[30, 59] == round(255 * FAR_END)
    steps = np.diff(bright[30, 20:60].astype(int))
    assert (steps < 0).all()
    assert np.ptp(steps) <= 1


@given(
    scale=st.floats(1e-3, 1e3),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_the_unit_does_not_matter(scale: float, dtype: type) -> None:
    found = brightness((slope() * scale).astype(dtype), "metres").astype(int)
    assert np.abs(found - brightness(slope(), "metres")).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pictures_near_bright_and_near_dark_agree_with_metres(dtype: type) -> None:
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    near = np.where(np.isfinite(slope()), (4.2 - slope()) / 2.2, 0)
    want = brightness(slope(), "metres").astype(int)
    for tones, encoding in ((near, "near-bright"), (1 - near, "near-dark")):
        found = brightness((tones * top).astype(dtype), encoding).astype(int)
        assert ((found > 0) == (want > 0)).all()
        assert np.abs(found - want).max() <= 3


def test_what_jpeg_leaves_on_the_ground_is_ground() -> None:
    picture = brightness(slope(), "metres")
    picture = picture + np.random.default_rng(0).integers(0, 3, picture.shape).astype(np.uint8) * (
        picture == 0
    )
    assert ((brightness(picture, "near-bright") > 0) == np.isfinite(slope())).all()


def test_faulty_pixels_do_not_narrow_the_range() -> None:
    depth = np.full((300, 300), np.inf, np.float32)
    depth[50:250, 50:250] = np.linspace(2, 4, 200)
    clean = brightness(depth, "metres").astype(int)
    depth[100, 100], depth[7, 3], depth[120, 130] = 0.01, 3, 900
    found = brightness(depth, "metres").astype(int)
    assert np.abs(found - clean)[clean > 0].max() <= 255
    assert np.sort(np.abs(found - clean).ravel())[-4] <= 2
    assert found[7, 3] == 0


def test_a_flat_object_is_bright_and_its_noise_is_not_stretched() -> None:
    depth = slope(3, 3)
    depth[20:60, 20:60] += np.random.default_rng(0).normal(0, 1e-4, (40, 40))
    bright = brightness(depth, "metres")
    assert bright[20:60, 20:60].min() > 240


def test_the_object_fills_the_frame_and_eight_bits_do() -> None:
    terraces = (brightness(slope(), "metres") // 32) * 32
    picture = prepare(terraces, "near-bright").picture
    assert (picture[..., 0] == picture[..., 1]).all()
    columns = np.flatnonzero((picture[..., 0] > 10).any(axis=0))
    # What eight terraces leave black at the far end is ground.
    assert np.ptp(columns) == pytest.approx(framing.FILL * 224, abs=9)
    assert picture.max() == 255


def test_a_scene_without_empty_space_is_kept_whole() -> None:
    depth = np.tile(np.linspace(2, 4, 100, dtype=np.float32), (100, 1))
    bright = brightness(depth, "metres")
    assert bright.min() == round(255 * FAR_END)
    assert bright.max() == 255


def test_as_published_takes_a_ready_picture_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8)
    found = model_depth(picture, "near-bright", as_published=True)
    np.testing.assert_array_equal(np.rint((found + 1) * 127.5), np.stack([picture] * 3))


def test_views_are_stretched_each_and_framed_alike() -> None:
    small = np.full((80, 80), np.inf, np.float32)
    small[30:50, 30:50] = np.linspace(7, 8, 20)
    views = model_views(np.stack([slope(), small]), "metres")
    assert views.shape == (2, 3, 224, 224)
    assert (views.max(axis=(1, 2, 3)) > 0.98).all()
    widths = [np.ptp(np.flatnonzero((view[0] > -0.9).any(axis=0))) for view in views]
    assert widths[0] / widths[1] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("nothing", [np.inf, np.nan, -np.inf])
def test_depth_that_is_infinite_everywhere_is_refused(nothing: float) -> None:
    depth = np.full((30, 40), nothing, np.float32)
    with pytest.raises(BadInput, match="infinite everywhere"):
        check_depth(depth, "metres")
    with pytest.raises(BadInput, match="shows nothing"):
        model_depth(depth, "metres")
