"""Pictures of panoramas in other sizes: the seam is a place as any other."""

from __future__ import annotations

import numpy as np
import pytest

from backend.geometry.resampling import area_resized, spread


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("height", "width"), [(16, 32), (12, 48), (8, 48), (4, 8)])
def test_a_picture_that_is_turned_is_resized_alike(height: int, width: int, dtype: type) -> None:
    image = np.random.default_rng(2).integers(0, 255, (8, 16, 3)).astype(dtype)
    straight = area_resized(image, height, width)
    turned = area_resized(np.roll(image, 8, axis=1), height, width)
    np.testing.assert_allclose(np.roll(turned, -width // 2, axis=1), straight, atol=1e-3)


def test_rows_end_at_the_poles() -> None:
    image = np.repeat(np.arange(4, dtype=np.float32)[:, None, None], 8, axis=1)
    rows = area_resized(image, 8, 8)[:, 0, 0]
    np.testing.assert_allclose(rows, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])


def test_an_odd_last_column_is_filled_from_both_sides_of_the_seam() -> None:
    colors = np.zeros((6, 13, 1), np.float32)
    known = np.zeros((6, 13), bool)
    colors[:, 0], known[:, 0] = 1.0, True
    known[:, 6] = True
    filled = spread(colors, known)[:, :, 0]
    assert filled[:, 12].min() > 0.6  # right beside the first column
    assert filled[:, 12].min() > filled[:, 5].max()
