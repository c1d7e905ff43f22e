from __future__ import annotations

import numpy as np
import pytest

from backend.models.panorama_depth import evaluation
from backend.models.panorama_depth.evaluation import depth_errors, pole_spread, seam_step
from tests.models.panorama_depth import rooms


def test_errors_of_a_known_factor() -> None:
    truth = rooms.truth(128)
    errors = depth_errors(1.1 * truth, truth)
    assert errors.abs_rel == pytest.approx(0.1, rel=1e-5)
    assert errors.abs_rel_p95 == pytest.approx(0.1, rel=1e-5)
    area = evaluation.pixel_areas(truth.shape)
    assert errors.rmse == pytest.approx(0.1 * np.sqrt((area * truth**2).sum()), rel=1e-5)
    assert (errors.delta_1, errors.compared) == pytest.approx((1, 1))
    assert depth_errors(1.3 * truth, truth).delta_1 == 0
    assert depth_errors(truth / 1.3, truth).delta_1 == 0


def test_what_is_free_is_fitted_and_no_more() -> None:
    truth = rooms.truth(128)
    scaled = 7 * truth
    bent = 1 / (0.3 / truth + 0.1)
    assert depth_errors(scaled, truth).abs_rel == pytest.approx(6, rel=1e-5)
    assert depth_errors(scaled, truth, "scale").abs_rel < 1e-6
    assert depth_errors(bent, truth, "scale").abs_rel > 0.05
    assert depth_errors(bent, truth, "inverse").abs_rel < 1e-5
    far = bent.copy()
    far[:5] = 1000  # a few that are wrong do not bend the others
    assert depth_errors(far, truth, "inverse").abs_rel_p95 < 1e-3


def test_a_pixel_counts_by_its_area() -> None:
    areas = evaluation.pixel_areas((64, 128))
    assert areas.sum() == pytest.approx(1)
    assert areas[:16].sum() == pytest.approx((1 - np.sqrt(0.5)) / 2)  # a cap of 45 degrees
    truth = np.ones((64, 128), np.float32)
    wrong = truth.copy()
    wrong[0] = 2
    assert depth_errors(wrong, truth).abs_rel == pytest.approx(areas[0].sum())


def test_sky_is_not_compared() -> None:
    truth = rooms.truth(128).copy()
    truth[:10] = np.inf
    depth = rooms.truth(128).copy()
    depth[20, 3], depth[21, 3], depth[22, 3] = np.nan, -1, 0
    errors = depth_errors(depth, truth, "scale")
    assert errors.abs_rel < 1e-6
    areas = evaluation.pixel_areas(truth.shape)
    assert errors.compared == pytest.approx(1 - areas[:10].sum() - areas[20:23, 3].sum())


@pytest.mark.parametrize(
    ("depth", "truth", "align"),
    [
        (np.ones((4, 8)), np.ones((4, 9)), "none"),
        (np.full((4, 8), np.nan), np.ones((4, 8)), "none"),
        (np.ones((4, 8)), np.ones((4, 8)), "affine"),
    ],
)
def test_what_cannot_be_compared(depth: np.ndarray, truth: np.ndarray, align: str) -> None:
    with pytest.raises(ValueError, match=r"depths of|no pixel|alignment"):
        depth_errors(depth, truth, align)


def test_a_step_at_the_seam_is_seen_wherever_the_room_stands() -> None:
    chance = np.random.default_rng(0)
    rough = np.exp(0.01 * chance.standard_normal((64, 128)))
    assert 0.7 < seam_step(rough) < 1.4
    broken = rough.copy()
    broken *= np.linspace(1, 1.1, 128)[None, :]
    assert seam_step(broken) > 5
    assert 0.7 < seam_step(np.roll(broken, 40, axis=1)) < 1.4


def test_poles_that_are_no_points() -> None:
    depth = np.ones((8, 16))
    assert pole_spread(depth) == (0, 0)
    depth[-1, 3] = 1.5
    depth[0, 5] = np.nan
    assert pole_spread(depth) == (0, 0.5)
