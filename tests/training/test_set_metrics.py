"""Sets of shapes measured as HyperDiffusion does: see tests/golden/hyperdiffusion."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from backend.training import metrics, set_metrics
from tests.hyperdiffusion_golden import arrays, facts


def _check(within: np.ndarray, across: np.ndarray, references: np.ndarray, name: str) -> None:
    expected = facts()["metrics"][name]
    found = metrics.set_scores(within, across, references)
    assert found.mmd == pytest.approx(expected["lgan_mmd-CD"], abs=1e-4)
    assert found.coverage == pytest.approx(expected["lgan_cov-CD"], abs=1e-6)
    assert found.one_nn == pytest.approx(expected["1-NN-CD-acc"], abs=1e-6)
    halves = set_metrics.one_nn_halves(within, across, references)
    assert halves[0] == pytest.approx(expected["1-NN-CD-acc_t"], abs=1e-6)
    assert halves[1] == pytest.approx(expected["1-NN-CD-acc_f"], abs=1e-6)
    closeness = set_metrics.minimum_matching_distance_of_samples(across)
    assert closeness == pytest.approx(expected["lgan_mmd_smp-CD"], abs=1e-4)


@pytest.mark.parametrize("name", ["small", "2048"])
def test_sets_of_the_published_code(name: str) -> None:
    golden = arrays(f"metrics_{name}")
    references = set_metrics.standardised(golden["ref_raw"])
    samples = set_metrics.standardised(golden["sample_raw"])
    if "ref" in golden:
        assert np.abs(references - golden["ref"]).max() < 1e-5
        assert np.abs(samples - golden["sample"]).max() < 1e-5
    across = metrics.chamfer_distances(samples, references)
    within = metrics.chamfer_distances(samples, samples)
    among = metrics.chamfer_distances(references, references)
    for found, expected in [
        (across.T, golden["M_rs"]),
        (across.T, golden["M_rs_exact64"]),
        (within, golden["M_ss"]),
        (among, golden["M_rr"]),
    ]:
        assert np.abs(found - expected).max() <= 1e-4
    _check(within, across, among, name)


def test_moving_sets_of_the_published_code() -> None:
    golden = arrays("metrics_4d")
    samples, references = golden["sample"], golden["ref"]
    across = set_metrics.moving_chamfer_distances(samples, references)
    assert np.abs(across.T - golden["M_rs"]).max() <= 1e-4
    within = set_metrics.moving_chamfer_distances(samples, samples)
    among = set_metrics.moving_chamfer_distances(references, references)
    _check(within, across, among, "4d")
    with pytest.raises(ValueError, match="4 and 3 frames"):
        set_metrics.moving_chamfer_distances(samples, references[:, :3])


def test_frames_of_the_published_code() -> None:
    golden = arrays("norm_4d")
    assert np.abs(set_metrics.framed_sequence(golden["raw"]) - golden["norm"]).max() <= 1e-12


def test_standardised_clouds_are_centred_and_keep_their_proportions() -> None:
    clouds = np.random.default_rng(0).normal(0, [1, 2, 4], (2, 500, 3))
    clouds[1] = 5 * clouds[0] - 7  # scaled and moved as a whole: nothing is left of that
    found = set_metrics.standardised(clouds)
    assert np.abs(found.mean(axis=1)).max() < 1e-12
    assert np.abs(found[0] - found[1]).max() < 1e-12
    before, after = clouds[0].std(axis=0), found[0].std(axis=0)
    assert after / after[0] == pytest.approx(before / before[0])
    assert found[0].std(ddof=1) == pytest.approx(1, abs=1e-2)


def test_frechet_distance_of_the_published_code() -> None:
    golden = arrays("frechet")
    found = set_metrics.frechet_distance(golden["real"], golden["fake"])
    assert found == pytest.approx(float(golden["distance"]), rel=1e-6)
    assert set_metrics.frechet_distance(golden["fake"], golden["fake"]) == pytest.approx(
        0, abs=1e-8
    )


def test_frechet_distance_of_fewer_samples_than_features() -> None:
    draws = np.random.default_rng(0)
    real, fake = draws.normal(size=(12, 30)), draws.normal(0.3, 2, size=(9, 30))
    first, second = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    eigenvalues = linalg.eigvals(first @ second).real
    gap = ((real.mean(axis=0) - fake.mean(axis=0)) ** 2).sum()
    overlap = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    expected = gap + np.trace(first) + np.trace(second) - 2 * overlap
    assert set_metrics.frechet_distance(real, fake) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"\(1, 30\)"):
        set_metrics.frechet_distance(real, fake[:1])


def test_near_copies_of_the_published_code() -> None:
    golden = arrays("dedup")
    nearest = set_metrics.distances_to_nearest(golden["x"])
    assert np.abs(nearest - golden["nearest"]).max() <= 1e-5
    kept = set_metrics.distinct(golden["x"], int(golden["n_ref"]))
    assert set(kept.tolist()) == set(golden["keep"].tolist())
    assert (np.diff(nearest[kept]) <= 0).all()
    with pytest.raises(ValueError, match="no other"):
        set_metrics.distances_to_nearest(golden["x"][:1])


def test_samples_that_are_copies_show_in_the_halves() -> None:
    draws = np.random.default_rng(0)
    references = draws.normal(size=(6, 40, 3)).astype(np.float32)
    copies = references + np.float32(1e-3)
    distances = [
        metrics.chamfer_distances(copies, copies),
        metrics.chamfer_distances(copies, references),
        metrics.chamfer_distances(references, references),
    ]
    assert set_metrics.one_nn_halves(*distances) == (0.0, 0.0)
