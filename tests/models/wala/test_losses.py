from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.geometry import wavelets
from backend.models.wala.config import AutoencoderConfig
from backend.models.wala.losses import Cells, reconstruction_loss
from backend.models.wala.vqvae import VqVae


@pytest.fixture(scope="module")
def trees(golden) -> tuple[torch.Tensor, torch.Tensor, Cells]:
    """What the recorded network made of the sphere and the torus, what they are, and where."""
    case = golden("vqvae")
    vqvae = case.load(VqVae(AutoencoderConfig.from_args(case.args)))
    arrays = np.load(Path(__file__).parents[2] / "golden" / "wavelet_inverse.npz")
    indices = torch.from_numpy(arrays["high_indices"])[:, 1:].long()
    low = torch.from_numpy(arrays["low"]).float()[0, 0]
    values = torch.from_numpy(arrays["high_values"]).float()
    target = wavelets.scatter_sparse(low, indices, values)[None]
    empty = case.tensor("loss_high_indices_empty").long()
    cells = Cells(indices[None], empty[None], case.tensor("loss_mask")[None])
    return vqvae.decode(case.tensor("quant")), target, cells


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("balanced", [True, False])
def test_losses_of_the_published_code(golden, trees, sampled: bool, balanced: bool) -> None:
    predicted, target, cells = trees
    found = reconstruction_loss(predicted, target, cells if sampled else None, balanced)
    name = f"use_sample_training={sampled},no_rebalance_loss={not balanced}"
    recorded = golden("vqvae").facts["reconstruction_losses"][name]
    assert found.low.tolist() == pytest.approx(recorded["base_loss"], rel=1e-5)
    assert found.levels[0].tolist() == pytest.approx(recorded["loss_1"], rel=1e-5)
    assert found.levels[1].tolist() == pytest.approx(recorded["loss_2"], rel=1e-5)
    assert found.total.tolist() == pytest.approx(recorded["mse"], rel=1e-5)


def test_balancing_scales_gradients_only() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(2, 64, 3, 3, 3)
    predicted = torch.randn(target.shape, generator=generator)
    plain, balanced = predicted.clone().requires_grad_(), predicted.clone().requires_grad_()
    parts = reconstruction_loss(plain, target, balanced=False)
    parts.total.sum().backward()
    total = reconstruction_loss(balanced, target).total
    total.sum().backward()
    torch.testing.assert_close(total, 3 * parts.low)
    torch.testing.assert_close(balanced.grad[:, 0], plain.grad[:, 0])
    for level, channels in zip(parts.levels, (slice(57, 64), slice(1, 57)), strict=True):
        factor = (parts.low / level).detach()[:, None, None, None, None]
        torch.testing.assert_close(balanced.grad[:, channels], factor * plain.grad[:, channels])


def test_masked_cells_do_not_count() -> None:
    """Sample 0 counts its first row only; its other rows may point anywhere."""
    target = torch.zeros(2, 8, 3, 3, 3)
    predicted = target.clone()
    predicted[0, 1:, 0, 1, 2] = 2.0
    predicted[1, 1:, 2, 2, 2] = 1.0
    significant = torch.tensor([[[0, 1, 2], [0, 1, 2]], [[2, 2, 2], [0, 0, 0]]])
    empty = torch.tensor([[[1, 1, 1], [0, 1, 2]], [[2, 2, 2], [1, 1, 1]]])
    mask = torch.tensor([[1, 0], [1, 1]])
    found = reconstruction_loss(predicted, target, Cells(significant, empty, mask))
    (level,) = found.levels
    # 7 channels at 2^2 in one counted row; 7 channels at 1 in two of four places of two rows.
    assert level.tolist() == [28.0, 7.0]
    assert found.low.tolist() == [0, 0]
