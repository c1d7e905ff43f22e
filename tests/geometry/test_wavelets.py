from __future__ import annotations

import hashlib
import warnings

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.geometry import wavelets
from backend.geometry.wavelets import Tree


def _pywt_coefficients(tree: Tree) -> list:
    levels: list = [tree.low.numpy()]
    for high in tree.highs:
        letters = [
            "".join("da"[not number >> axis & 1] for axis in range(3)) for number in range(8)
        ]
        levels.append(
            {letters[b + 1]: high[b].numpy() for b in range(7)} if high is not None else {}
        )
    return levels


def _random_tree(size: int, levels: int, seed: int = 0) -> Tree:
    generator = torch.Generator().manual_seed(seed)
    sides = wavelets.level_sizes(size, levels)[::-1]
    highs = tuple(torch.randn(7, s, s, s, generator=generator) for s in sides)
    return Tree(torch.randn(*[sides[0]] * 3, generator=generator), highs)


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


def _dot(a: Tree, b: Tree) -> float:
    pairs = [(a.low, b.low), *zip(a.highs, b.highs, strict=True)]
    return sum(float((p.double() * q.double()).sum()) for p, q in pairs)


@pytest.fixture(scope="module")
def inverse_packed(golden_inverse: dict[str, np.ndarray]) -> torch.Tensor:
    low = torch.from_numpy(golden_inverse["low"]).float()[0, 0]
    indices = torch.from_numpy(golden_inverse["high_indices"])[:, 1:]
    values = torch.from_numpy(golden_inverse["high_values"]).float()
    return wavelets.scatter_sparse(low, indices, values)


def test_sizes() -> None:
    assert wavelets.level_sizes(256) == [136, 76, 46]
    assert wavelets.level_sizes(128) == [72, 44, 30]
    assert wavelets.level_sizes(512, 4) == [264, 140, 78, 47]


def test_filters_are_those_of_pywavelets() -> None:
    reference = pywt.Wavelet("bior6.8")
    middle = wavelets.synthesis_matrix(40)[:, [20, 60]]
    for column, taps in zip(middle.T, (reference.rec_lo, reference.rec_hi), strict=True):
        np.testing.assert_allclose(column[np.flatnonzero(column)], [t for t in taps if t], atol=0)


def test_forward_agrees_with_golden(
    tsdf_256: np.ndarray, golden_forward: dict[str, np.ndarray]
) -> None:
    assert hashlib.sha256(tsdf_256.tobytes()).hexdigest()[:16] == "34d9fc34b5682c51"
    tree = wavelets.forward(torch.from_numpy(tsdf_256)[None, None])
    low = golden_forward["low_full_f32"]
    assert tree.low.shape == low.shape
    np.testing.assert_allclose(tree.low.numpy(), low, rtol=0, atol=2e-5)
    for name, high in zip(("high0", "high1", "high2"), reversed(tree.highs), strict=True):
        taken = high.flatten()[golden_forward[f"{name}_flat_index"]]
        np.testing.assert_allclose(taken, golden_forward[f"{name}_value"], rtol=0, atol=1e-5)
    packed = wavelets.pack(tree)
    assert packed.shape == (1, 1, 64, 46, 46, 46)
    taken = packed.flatten()[golden_forward["packed_flat_index"]]
    np.testing.assert_allclose(taken, golden_forward["packed_value"], rtol=0, atol=2e-5)


def test_scatter_is_bit_exact(inverse_packed: torch.Tensor) -> None:
    assert _digest(inverse_packed) == "8e658bb4b0b4c33f"
    tree = wavelets.unpack(inverse_packed)
    assert tree.highs[2] is None
    assert _digest(tree.highs[1]) == "2a998eaeae896b48"
    assert _digest(tree.highs[0]) == "7718369c6988f980"


def test_inverse_agrees_with_golden(
    inverse_packed: torch.Tensor, golden_inverse: dict[str, np.ndarray]
) -> None:
    volume = wavelets.inverse(wavelets.unpack(inverse_packed))
    assert volume.shape == (256, 256, 256)
    np.testing.assert_allclose(volume[::4, ::4, ::4], golden_inverse["sdf_sub4"], rtol=0, atol=1e-5)
    taken = volume.flatten()[golden_inverse["sdf_flat_index"]]
    np.testing.assert_allclose(taken, golden_inverse["sdf_value"], rtol=0, atol=1e-5)
    assert int((volume < 0).sum()) == pytest.approx(647988, abs=2)


def test_kept_cells_are_those_of_the_published_data(
    tsdf_256: np.ndarray, golden_inverse: dict[str, np.ndarray]
) -> None:
    kept = wavelets.significant_cells(wavelets.forward(torch.from_numpy(tsdf_256)))
    published = {tuple(cell) for cell in golden_inverse["high_indices"][:, 1:].tolist()}
    assert {tuple(cell) for cell in kept.nonzero().tolist()} == published


@pytest.mark.parametrize(("size", "levels"), [(128, 3), (61, 2), (32, 1), (17, 2), (4, 1), (1, 1)])
def test_agrees_with_pywavelets(size: int, levels: int) -> None:
    volume = np.random.default_rng(size).normal(size=(size, size, size)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes that PyWavelets finds small
        expected = pywt.wavedecn(volume, "bior6.8", "constant", levels)
    tree = wavelets.forward(torch.from_numpy(volume), levels)
    for ours, theirs in zip(_pywt_coefficients(tree)[1:], expected[1:], strict=True):
        for band, coefficients in ours.items():
            np.testing.assert_allclose(coefficients, theirs[band], rtol=0, atol=3e-5)
    np.testing.assert_allclose(tree.low, expected[0], rtol=0, atol=3e-5)
    rebuilt = wavelets.inverse(tree, resolution=size)
    np.testing.assert_allclose(rebuilt, volume, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_inverse_agrees_with_pywavelets(kept: int) -> None:
    full = _random_tree(128, 3)
    tree = Tree(full.low, (*full.highs[:kept], *[None] * (3 - kept)))
    zeroed = Tree(
        full.low,
        tuple(
            h if h is not None else torch.zeros(7, *[s] * 3)
            for h, s in zip(tree.highs, full.sizes(), strict=True)
        ),
    )
    expected = pywt.waverecn(_pywt_coefficients(zeroed), "bior6.8", "constant")
    np.testing.assert_allclose(wavelets.inverse(tree), expected, rtol=0, atol=1e-5)
    assert tree.sizes() == [30, 44, 72]


@pytest.mark.parametrize("size", [64, 31])
def test_stencils_agree_with_matrices(size: int) -> None:
    volume = torch.randn(2, size, size, size, generator=torch.Generator().manual_seed(3))
    for split in (wavelets.analyse_level, wavelets.adjoint_level):
        for fast, exact in zip(split(volume), split(volume.double()), strict=True):
            assert fast.dtype == torch.float32
            torch.testing.assert_close(fast.double(), exact, rtol=0, atol=2e-5)
    low, high = wavelets.analyse_level(volume)
    for bands in (high, None):
        exact = wavelets.synthesize_level(low.double(), None if bands is None else bands.double())
        fast = wavelets.synthesize_level(low, bands)
        torch.testing.assert_close(fast.double(), exact, rtol=0, atol=2e-5)


def test_more_than_one_tile_along_z() -> None:
    """264 samples come from two tiles; one column of cells is enough to see a wrong seam."""
    low, high = torch.zeros(140, 140, 140), torch.zeros(7, 140, 140, 140)
    high[:, 70, 70] = torch.randn(7, 140, generator=torch.Generator().manual_seed(1))
    low[70, 70] = torch.randn(140, generator=torch.Generator().manual_seed(2))
    volume = wavelets.synthesize_level(low, high)
    matrix = wavelets.synthesis_matrix(140)
    x, y = 2 * 70 - 8, 2 * 70 - 7
    bands = torch.cat([low[None, 70, 70], high[:, 70, 70]]).double().numpy().reshape(2, 2, 2, -1)
    along_z = np.einsum("kc,zyxc->kyx", matrix[:, :140], bands[:1])
    along_z += np.einsum("kc,zyxc->kyx", matrix[:, 140:], bands[1:])
    weights_x, weights_y = matrix[x, [70, 210]], matrix[y, [70, 210]]
    expected = np.einsum("kyx,x,y->k", along_z, weights_x, weights_y)
    np.testing.assert_allclose(volume[x, y], expected, rtol=0, atol=1e-5)
    back = wavelets.analyse_level(volume)
    torch.testing.assert_close(back[0][70, 70, 8:-8], low[70, 70, 8:-8], rtol=0, atol=1e-5)


def test_adjoint_is_the_transpose() -> None:
    tree = _random_tree(64, 2)
    volume = torch.randn(64, 64, 64, generator=torch.Generator().manual_seed(5))
    left = float((wavelets.inverse(tree).double() * volume.double()).sum())
    assert left == pytest.approx(_dot(tree, wavelets.adjoint(volume, 2)), rel=1e-5, abs=1e-3)


def test_gradient_is_the_adjoint() -> None:
    tree = _random_tree(32, 2)
    low = tree.low.clone().requires_grad_()
    volume = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(6))
    (wavelets.inverse(Tree(low, tree.highs)) * volume).sum().backward()
    torch.testing.assert_close(low.grad, wavelets.adjoint(volume, 2).low, rtol=0, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 40), levels=st.integers(1, 3), seed=st.integers(0, 9))
def test_round_trip(size: int, levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    volume = torch.randn(2, size, size, size, generator=generator)
    tree = wavelets.forward(volume, levels)
    torch.testing.assert_close(wavelets.inverse(tree, size), volume, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("resolution", "levels", "depth"), [(256, 3, 2), (256, 3, 3), (128, 3, 1)])
def test_pack_and_unpack(resolution: int, levels: int, depth: int) -> None:
    tree = _random_tree(resolution, levels)
    packed = wavelets.pack(tree, depth)
    assert packed.shape[0] == 1 + 7 * sum(8**level for level in range(depth))
    again = wavelets.unpack(packed, resolution, levels, depth)
    assert torch.equal(again.low, tree.low)
    for level in range(levels):
        if level < depth:
            assert torch.equal(again.highs[level], tree.highs[level])
        else:
            assert again.highs[level] is None


def test_channel_of_a_single_coefficient() -> None:
    high = torch.zeros(7, 76, 76, 76)
    high[4, 31, 22, 13] = 1
    tree = Tree(torch.zeros(46, 46, 46), (None, high, None))
    x, y, z = (31 + 8) // 2, (22 + 8) // 2, (13 + 8) // 2
    channel = 1 + ((1 * 7 + 4) * 2 + 0) * 2 + 1
    assert wavelets.pack(tree).nonzero().tolist() == [[channel, x, y, z]]


def test_unpack_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="expected"):
        wavelets.unpack(torch.zeros(64, 45, 46, 46))


def test_same_bytes_again(tsdf_64: np.ndarray) -> None:
    volume = torch.from_numpy(tsdf_64)
    first, second = wavelets.forward(volume), wavelets.forward(volume)
    assert _digest(first.low) == _digest(second.low)
    assert _digest(wavelets.inverse(first)) == _digest(wavelets.inverse(second))
