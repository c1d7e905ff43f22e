"""Sixteen bits of depth, in and out of channels, and never through eight."""

import numpy as np
import pytest

from backend.models.ldm3d import images

ALL = (np.arange(65536, dtype=np.float64) / 65535).reshape(256, 256).astype(np.float32)


def test_every_16_bit_depth_comes_back_from_two_bytes():
    levels = images.packed(ALL)
    assert levels.dtype == np.float32
    assert (levels[..., 0] == 0).all()
    np.testing.assert_array_equal(images.unpacked(levels), ALL)


def test_green_is_the_high_byte_and_blue_the_low_one():
    depth = np.array([[0x1234 / 65535, 0x00FF / 65535, 0xFF00 / 65535]])
    bytes_of = np.rint(images.packed(depth) * 255).astype(int)
    assert bytes_of.tolist() == [[[0, 0x12, 0x34], [0, 0, 0xFF], [0, 0xFF, 0]]]


@pytest.mark.parametrize("channels", [4, 6])
def test_a_picture_and_its_depth_come_back_from_channels(channels):
    picture = np.random.default_rng(0).random((256, 256, 3)).astype(np.float32)
    joined = images.join(picture, ALL, channels)
    assert joined.shape == (channels, 256, 256)
    assert joined.dtype == np.float32
    assert joined.min() >= -1
    assert joined.max() <= 1
    # Red, green, blue first.
    np.testing.assert_allclose(joined[:3], np.moveaxis(picture, -1, 0) * 2 - 1, atol=1e-6)
    back, depth = images.split(joined)
    np.testing.assert_allclose(back, picture, atol=1e-6)
    levels = np.rint(depth.astype(np.float64) * 65535)
    np.testing.assert_array_equal(levels, np.rint(ALL.astype(np.float64) * 65535))


def test_depth_of_one_channel_has_more_than_16_bits():
    depth = np.linspace(0.5, 0.5001, 4096).reshape(64, 64)
    joined = images.join(np.zeros((64, 64, 3)), depth, 4)
    assert len(np.unique(images.split(joined)[1])) > 400  # 16 bits would give 7


def test_repeated_depth_is_in_all_three_channels_and_comes_back_as_their_mean():
    depth = np.random.default_rng(0).random((8, 16)).astype(np.float32)
    joined = images.join(np.zeros((8, 16, 3)), depth, 6, "repeated")
    for channel in joined[3:]:
        np.testing.assert_allclose(channel, depth * 2 - 1, atol=1e-6)
    joined[3] += 0.03
    joined[4] -= 0.03
    inside = (depth > 0.02) & (depth < 0.98)
    back = images.split(joined, "repeated")[1]
    np.testing.assert_allclose(back[inside], depth[inside], atol=1e-6)
    assert (images.join(np.zeros((8, 16, 3)), depth, 6)[3] == -1).all()  # the other layout


def test_a_blurred_low_byte_costs_no_more_than_it_holds():
    noise = np.random.default_rng(0).normal(0, 0.0003, (256, 256, 3)).astype(np.float32)
    blurred = images.packed(ALL) + noise
    blurred[..., 2] = 0.5
    assert np.abs(images.unpacked(blurred) - ALL).max() <= 129 / 65535


def test_what_a_decoder_overshoots_is_cut_off():
    picture, depth = images.split(np.full((4, 2, 2), 7.0))
    assert (picture == 1).all()
    assert (depth == 1).all()
    picture, depth = images.split(np.full((6, 2, 2), -7.0))
    assert (picture == 0).all()
    assert (depth == 0).all()


@pytest.mark.parametrize("channels", [1, 3, 5, 7])
def test_other_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f"{channels} channels"):
        images.split(np.zeros((channels, 4, 4)))
    with pytest.raises(ValueError, match=f"{channels} channels"):
        images.join(np.zeros((4, 4, 3)), np.zeros((4, 4)), channels)
