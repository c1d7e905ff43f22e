from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import spsolve

from backend.errors import Cancelled
from backend.geometry import gradient_fit, wavelets
from backend.geometry.gradient_fit import (
    Preconditioner,
    fit,
    laplacian,
    splat_divergence,
    tree_depth,
)
from backend.geometry.wavelets import Tree


def _edges(side: int) -> list[sp.csr_matrix]:
    """The differences along x, y, z of a flattened volume."""
    line = sp.diags([-np.ones(side - 1), np.ones(side - 1)], [0, 1], (side - 1, side))
    one = sp.identity(side)
    return [
        sp.kron(sp.kron(line, one), one).tocsr(),
        sp.kron(sp.kron(one, line), one).tocsr(),
        sp.kron(sp.kron(one, one), line).tocsr(),
    ]


def _sparse_laplacian(side: int) -> sp.csr_matrix:
    return sum(edge.T @ edge for edge in _edges(side)).tocsr()


def _noise(side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((side,) * 3, generator=torch.Generator().manual_seed(seed))


def _tree(side: int, depth: int, seed: int) -> Tree:
    generator = torch.Generator().manual_seed(seed)
    sizes = wavelets.level_sizes(side, depth)[::-1]
    highs = tuple(torch.randn(7, s, s, s, generator=generator) for s in sizes)
    return Tree(torch.randn((sizes[0],) * 3, generator=generator), highs)


def _dot(a: Tree, b: Tree) -> float:
    pairs = [(a.low, b.low), *zip(a.highs, b.highs, strict=True)]
    return sum(float((p.double() * q.double()).sum()) for p, q in pairs)


# --- laplacian


@pytest.mark.parametrize("side", [2, 3, 8, 13])
def test_the_laplacian_is_that_of_the_graph_of_edges(side: int) -> None:
    volume = _noise(side)
    expected = _sparse_laplacian(side) @ volume.numpy().astype(np.float64).ravel()
    compiled = laplacian(volume)
    assert compiled.dtype == torch.float32
    np.testing.assert_allclose(compiled.numpy().ravel(), expected, rtol=0, atol=1e-5)
    by_torch = laplacian(volume.double())
    np.testing.assert_allclose(by_torch.numpy().ravel(), expected, rtol=0, atol=1e-12)


def test_the_laplacian_of_a_view_that_is_not_contiguous() -> None:
    volume = _noise(9)
    turned = laplacian(volume.permute(2, 0, 1))
    np.testing.assert_array_equal(turned, laplacian(volume.permute(2, 0, 1).contiguous()))


# --- splat


def _splatted(points: np.ndarray, vectors: np.ndarray, sigmas: np.ndarray, side: int) -> np.ndarray:
    return splat_divergence(*(a.astype(np.float32) for a in (points, vectors, sigmas)), side)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), side=st.integers(12, 25))
def test_what_is_splatted_sums_to_zero(seed: int, side: int) -> None:
    """A divergence moves; it neither makes nor loses, at the border neither."""
    random = np.random.default_rng(seed)
    points = random.uniform(-4, side + 4, (30, 3))
    vectors = random.normal(size=(30, 3))
    volume = _splatted(points, vectors, random.uniform(0.3, 3, 30), side)
    assert abs(volume.sum(dtype=np.float64)) < 1e-4
    assert np.isfinite(volume).all()


def test_the_splat_is_the_transpose_of_the_gradient() -> None:
    """<f, splat(V)> = <grad f, V>: for a linear f that is its slope times the flux."""
    random = np.random.default_rng(1)
    side, slope = 32, np.array([0.3, -1.2, 0.7])
    points, vectors = random.uniform(12, 20, (50, 3)), random.normal(size=(50, 3))
    volume = _splatted(points, vectors, random.uniform(0.4, 1.5, 50), side)
    linear = np.indices((side,) * 3).T @ slope
    assert np.sum(linear.T * volume) == pytest.approx(float((vectors @ slope).sum()), abs=1e-3)


def test_the_splat_is_where_its_point_is() -> None:
    """<x^2, splat(V)> = 2 x V for a point at x, exactly half-way between its two nodes."""
    side, places = 32, np.array([[14.3, 16.0, 15.7]])
    x = np.arange(side, dtype=float)
    for axis in range(3):
        vector = np.eye(3)[axis : axis + 1]
        volume = _splatted(places, vector, np.ones(1), side).astype(np.float64)
        others = tuple(other for other in range(3) if other != axis)
        moment = (x**2 * volume.sum(axis=others)).sum()
        assert moment == pytest.approx(2 * places[0, axis], abs=1e-3)
        across = (x**2 * volume.sum(axis=(axis, others[1]))).sum()
        assert abs(across) < 1e-4


def test_a_splat_of_nothing_near() -> None:
    far = np.array([[-100.0, 5, 5], [5, 1e4, 5]])
    assert not _splatted(far, np.ones((2, 3)), np.ones(2), 16).any()


# --- dot products


@pytest.mark.parametrize("count", [1, 1000, (1 << 15) - 1, (1 << 15) + 1, 3_000_001])
def test_dot_products_are_precise(count: int) -> None:
    """float32 sums of millions of squares are off in the fourth digit when added up in order."""
    generator = torch.Generator().manual_seed(count)
    x, y = torch.randn(count, generator=generator), torch.rand(count, generator=generator)
    for first, second in ((x, y), (x, x), (y, y)):
        exact = float(torch.dot(first.double(), second.double()))
        assert gradient_fit._dot_of(first, second) == pytest.approx(exact, rel=1e-6, abs=1e-2)
    wide = gradient_fit._dot_of(x.double(), y.double())
    assert wide == pytest.approx(float(torch.dot(x.double(), y.double())), rel=1e-12)


# --- preconditioner


@pytest.mark.parametrize("active", [False, True])
def test_the_preconditioner_is_symmetric_and_positive(active: bool) -> None:
    side = 100
    depth = tree_depth(side)
    assert depth >= 2
    finest = wavelets.level_sizes(side, 1)[0]
    mask = (torch.rand((finest,) * 3, generator=torch.Generator().manual_seed(9)) > 0.5).float()
    precondition = Preconditioner(depth, mask if active else None)
    a, b = _tree(side, depth, 1), _tree(side, depth, 2)
    across = _dot(a, precondition(b))
    assert across == pytest.approx(_dot(precondition(a), b), rel=1e-3, abs=1e-2)
    for tree in (a, b):
        assert _dot(tree, precondition(tree)) > 0
    assert precondition(a).highs[-1] is not a.highs[-1], "its argument stays as it was"


def test_the_scales_are_the_energies_of_the_wavelets() -> None:
    """<psi, L psi> of one coefficient in the middle of each band, through the whole synthesis."""
    side, depth = 96, 2
    sizes = wavelets.level_sizes(side, depth)
    for level in (1, 2):
        energies = gradient_fit._band_energies(level, depth)
        for band in (0, 3, 6):
            highs = [torch.zeros(7, s, s, s) for s in sizes[::-1]]
            middle = sizes[level - 1] // 2
            highs[depth - level][band, middle, middle, middle] = 1
            tree = Tree(torch.zeros((sizes[-1],) * 3), tuple(highs))
            bump = wavelets.inverse(tree, side).double()
            energy = float((bump * laplacian(bump)).sum())
            # Band b is 4 [z high] + 2 [y high] + [x high] - 1; the energies are symmetric in axes.
            assert energy == pytest.approx(energies[_swapped(band)], rel=1e-4)


def _swapped(band: int) -> int:
    number = band + 1
    return ((number & 1) << 2 | number & 2 | number >> 2) - 1


# --- fit


def _target(side: int, seed: int = 0) -> torch.Tensor:
    """Splatted vectors of a sphere, and some that are no gradient of anything."""
    random = np.random.default_rng(seed)
    normals = random.normal(size=(400, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = side / 2 + normals * side / 4
    return torch.from_numpy(
        _splatted(points, normals + 0.3 * random.normal(size=(400, 3)), np.ones(400), side)
    )


def _exact(target: torch.Tensor) -> np.ndarray:
    """The solution without a mean: the cosine transform diagonalises the system."""
    side = len(target)
    values = 2 - 2 * np.cos(np.pi * np.arange(side) / side)
    total = values[:, None, None] + values[:, None] + values
    total[0, 0, 0] = 1
    spectrum = scipy.fft.dctn(target.numpy().astype(np.float64), norm="ortho") / total
    spectrum[0, 0, 0] = 0
    return scipy.fft.idctn(spectrum, norm="ortho")


def _solved(target: torch.Tensor) -> np.ndarray:
    """The same by elimination; the constant is free, so one node is pinned."""
    matrix = _sparse_laplacian(len(target)).tolil()
    right = target.numpy().astype(np.float64).ravel()
    matrix[0, :] = 0
    matrix[0, 0] = 1
    right[0] = 0
    values = spsolve(matrix.tocsc(), right).reshape(target.shape)
    return values - values.mean()


@pytest.mark.parametrize("side", [11, 14])
def test_the_fit_is_the_exact_solution(side: int) -> None:
    target = _target(side)
    exact = _solved(target)
    np.testing.assert_allclose(_exact(target), exact, rtol=0, atol=2e-5)
    states = [state.clone() for state in fit(target, torch.zeros_like(target), 60)]
    assert 8 <= len(states) < 20, "it ends where only rounding is left"
    values = states[-1].numpy().astype(np.float64)
    assert abs(values.mean()) < 1, "the free constant does not run away"
    assert np.abs(values - values.mean() - exact).max() < 2e-4 * np.abs(exact).max()


@pytest.mark.parametrize("side", [37, 64, 101])
def test_the_energy_of_the_error_falls_fast(side: int) -> None:
    """Conjugate gradients with this preconditioner gain at least 2.5 per iteration at any side."""
    target = _target(side)
    exact = _exact(target)
    errors = [_energy(exact)]
    for state in fit(target, torch.zeros_like(target), 8):
        errors.append(_energy(state.numpy() - exact))  # noqa: PERF401 (the state changes in place)
    rates = np.array(errors[:-1]) / np.array(errors[1:])
    assert len(rates) == 8
    assert (rates > 1).all(), "never worse"
    assert (errors[0] / errors[6]) ** (1 / 6) >= 2.5
    assert errors[-1] < 1e-3 * errors[0]


def _energy(volume: np.ndarray) -> float:
    """Norm of the gradient."""
    return float(np.sqrt(sum((np.diff(volume, axis=axis) ** 2).sum() for axis in range(3))))


def test_a_good_start_is_kept_and_the_start_is_not_changed() -> None:
    truth = _noise(40)
    for _ in range(3):
        truth = torch.nn.functional.avg_pool3d(truth[None], 3, 1, 1)[0]
    start = truth.clone()
    states = list(fit(laplacian(truth), start, 3))
    assert torch.equal(start, truth)
    for state in states:
        assert float((state - truth).abs().max()) < 1e-5


def test_nothing_to_fit_ends_at_once() -> None:
    assert list(fit(torch.zeros((20,) * 3), torch.zeros((20,) * 3), 5)) == []


def test_inactive_coefficients_stay_zero() -> None:
    side = 96
    target = _target(side)
    size = wavelets.level_sizes(side, 1)[0]
    active = torch.zeros((size,) * 3)
    active[: size // 2] = 1
    *_, found = fit(target, torch.zeros_like(target), 3, active)
    finest = wavelets.forward(found, 1).highs[0]
    assert finest is not None
    quiet = finest[:, size // 2 + 9 : -9, 9:-9, 9:-9].abs().max()
    busy = finest[:, 9 : size // 2 - 9, 9:-9, 9:-9].abs().max()
    assert float(quiet) < 1e-4 * float(busy)


def test_check_stops_it() -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Cancelled("stop")

    states = fit(_target(24), torch.zeros((24,) * 3), 5, check=check)
    next(states)
    with pytest.raises(Cancelled):
        next(states)


@pytest.mark.parametrize("side", [1, 2, 5, 31, 47, 48, 49, 128, 256, 512, 528])
def test_the_depth_leaves_a_small_low_band(side: int) -> None:
    depth = tree_depth(side)
    assert wavelets.level_sizes(side, depth)[-1] <= gradient_fit.LOW_SIDE
    assert depth == 1 or wavelets.level_sizes(side, depth - 1)[-1] > gradient_fit.LOW_SIDE
