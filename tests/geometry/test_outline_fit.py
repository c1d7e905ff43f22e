"""Lenses found again from outlines."""

from __future__ import annotations

import numpy as np

from backend.bench import known_things
from backend.geometry import outline_fit


def test_a_lens_that_was_moved_and_stretched_is_found_again() -> None:
    shown = known_things.show("stool", known_things.ring(3, 20), 128)
    points = known_things.on_surface("stool", 40_000)
    opacity = shown.images[..., 3] / 255
    wrong = shown.intrinsics * [1.7, 0.6, 1, 1] + [0, 0, 9, -14]
    found = outline_fit.fitted(opacity, shown.poses, wrong, points)
    np.testing.assert_allclose(found[:, :2], shown.intrinsics[:, :2], rtol=0.03)
    np.testing.assert_allclose(found[:, 2:], shown.intrinsics[:, 2:], atol=1.5)
