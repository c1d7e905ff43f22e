"""A cloud that shows a part comes to lie where it lies in the cube of the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.geometry.transforms import apply_to_points, compose, fit_box_to_cube
from backend.pipelines import framing
from backend.pipelines.preparation import Prepared


def field_of_box(low, high):
    nodes = 2 * np.arange(64) / 64 - 1
    axes = np.meshgrid(nodes, nodes, nodes, indexing="ij")
    outside = [np.maximum(a - axis, axis - b) for axis, a, b in zip(axes, low, high, strict=True)]
    return np.maximum.reduce(outside).astype(np.float32)


def prepared_of(points, to_source):
    return Prepared({"points": points[::2]}, to_source, points)


def test_the_box_of_a_field():
    low, high = framing.box_of(field_of_box((-0.5, -0.2, 0.1), (0.3, 0.7, 0.9)))
    assert low == pytest.approx([-0.5, -0.2, 0.1], abs=2 / 64)
    assert high == pytest.approx([0.3, 0.7, 0.9], abs=2 / 64)
    assert framing.box_of(np.ones((8, 8, 8), np.float32)) is None


corners = st.tuples(*[st.floats(-0.9, -0.2)] * 3), st.tuples(*[st.floats(0.2, 0.9)] * 3)


@given(*corners, st.integers(0, 9))
def test_points_stay_where_they_are_in_the_source(low, high, seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.5, 0.5, (40, 3)).astype(np.float32)
    to_source = fit_box_to_cube(np.array([3.0, 4, 5]), np.array([5.0, 9, 6]))
    before = prepared_of(points, to_source)
    after = framing.in_frame_of(before, (np.array(low), np.array(high)))
    assert np.allclose(
        apply_to_points(after.to_source, after.points),
        apply_to_points(to_source, points),
        atol=1e-4,
    )
    assert np.allclose(after.points[::2], after.source["points"], atol=1e-5)
    # Done once, it is done.
    if after is not before:
        moved = apply_to_points(
            np.linalg.inv(compose(np.linalg.inv(to_source), after.to_source)), np.array([low, high])
        )
        again = framing.in_frame_of(after, (moved[0].astype(float), moved[1].astype(float)))
        assert again is after


def test_lonely_points_do_not_count():
    """They are among all points, and not among those that the model is given."""
    points = np.array([[-0.9, -0.9, -0.9], [0.9, 0.9, 0.9], [9, 9, 9]], np.float32)
    before = Prepared({"points": points[:2]}, np.eye(4), points)
    assert framing.in_frame_of(before, (np.full(3, -0.9), np.full(3, 0.9))) is before


def test_half_of_a_shape_moves_to_its_half():
    """A cloud of the lower half of a column, centred; the draft shows the column."""
    rng = np.random.default_rng(0)
    points = (rng.uniform(-1, 1, (500, 3)) * [0.3, 0.9, 0.3]).astype(np.float32)
    before = prepared_of(points, np.eye(4))
    after = framing.in_frame_of(before, (np.array([-0.3, -0.9, -0.3]), np.array([0.3, 2.7, 0.3])))
    assert after.points[:, 1].min() == pytest.approx(-0.9, abs=0.01)
    assert after.points[:, 1].max() == pytest.approx(0.0, abs=0.01)
    assert after.to_source[0, 0] == pytest.approx(2)
    assert framing.in_frame_of(before, None) is before
