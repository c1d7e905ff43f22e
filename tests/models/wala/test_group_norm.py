from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from backend.models.wala import group_norm
from backend.models.wala.layers import GroupNorm


@pytest.fixture(scope="module")
def volume() -> torch.Tensor:
    """Two volumes of 64 channels that hardly vary around large means, channels last."""
    random = torch.Generator().manual_seed(0)
    means = 10 * torch.randn(1, 64, 1, 1, 1, generator=random).repeat_interleave(2, 1)[:, ::2]
    values = means.repeat(2, 1, 1, 1, 1) + 0.01 * torch.randn(2, 64, 13, 15, 17, generator=random)
    return values.contiguous(memory_format=torch.channels_last_3d)


def test_exact_where_a_group_hardly_varies(volume: torch.Tensor) -> None:
    random = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(2, 64, generator=random)
    exact = functional.group_norm(volume.double(), 16, weight.double(), bias.double())
    found = group_norm.normalize(volume, 16, weight, bias, 1e-5)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert float(exact.std()) > 0.5


def test_same_bytes_for_any_number_of_threads(
    volume: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (volume, 32, torch.ones(64), torch.zeros(64), 1e-5)
    together = group_norm.normalize(*arguments)
    monkeypatch.setattr(group_norm, "in_chunks", lambda work, total, *rest: work(0, total, *rest))
    assert torch.equal(group_norm.normalize(*arguments), together)


def test_the_layer_gives_the_same_in_both_layouts(volume: torch.Tensor) -> None:
    layer = GroupNorm(64)
    with torch.no_grad():
        assert group_norm.applies(volume, layer.weight)
        last, first = layer(volume), layer(volume.contiguous())
    torch.testing.assert_close(last, first, atol=1e-3, rtol=1e-4)
    assert not group_norm.applies(volume, layer.weight)  # it learns here
    torch.testing.assert_close(layer(volume), first, atol=1e-6, rtol=0)
