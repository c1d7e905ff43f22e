from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.models.wala import acceleration
from backend.models.wala.layers import conv3


def _denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) * timesteps[:, None].to(x.dtype)


def test_elsewhere_than_on_a_card_nothing_changes() -> None:
    x, timesteps = torch.randn(2, 5), torch.tensor([1, 7])
    replayed = acceleration.graphed(_denoise)
    assert torch.equal(replayed(x, timesteps), _denoise(x, timesteps))
    assert torch.equal(replayed(x[:1], timesteps[1:]), _denoise(x[:1], timesteps[1:]))
    layer = conv3(32, 32)
    assert acceleration.to_channels_last(layer).weight.is_contiguous()
    np.testing.assert_array_equal(acceleration.on_host(x), x.numpy())


@pytest.mark.gpu
def test_a_replayed_step_is_the_step() -> None:
    replayed = acceleration.graphed(_denoise)
    for seed, shape in enumerate([(2, 5), (2, 5), (1, 5), (2, 5)]):
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).cuda()
        timesteps = torch.arange(seed, seed + shape[0]).cuda()
        found = replayed(x, timesteps)
        assert torch.equal(found, _denoise(x, timesteps))
        later = replayed(x + 1, timesteps)
        assert not torch.equal(later, found)  # what was returned is not overwritten


@pytest.mark.gpu
def test_an_array_from_the_card_is_its_own() -> None:
    first = acceleration.on_host(torch.arange(8.0).cuda())
    second = acceleration.on_host(torch.arange(8.0).cuda() + 1)
    np.testing.assert_array_equal(first, np.arange(8.0))
    np.testing.assert_array_equal(second, first + 1)
