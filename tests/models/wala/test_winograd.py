"""The CPU's own convolution against the direct one in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from backend.models.wala import winograd
from backend.models.wala.layers import conv3


def _case(
    size: tuple[int, int, int], channels: int, channels_out: int, batch: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, *size, generator=random)
    weight = torch.randn(channels_out, channels, 3, 3, 3, generator=random)
    return x, weight, torch.randn(channels_out, generator=random)


@pytest.mark.parametrize(
    ("size", "channels", "channels_out", "batch"),
    [
        ((12, 12, 12), 64, 64, 1),
        ((11, 13, 9), 32, 128, 2),  # odd sides: the last tile sticks out
        ((46, 5, 6), 96, 64, 1),
        ((4, 4, 64), 32, 64, 1),  # a row of more tiles than a block
        ((1, 2, 3), 32, 64, 1),
    ],
)
def test_as_exact_as_the_direct_sum(size, channels: int, channels_out: int, batch: int) -> None:
    case = _case(size, channels, channels_out, batch)
    exact = functional.conv3d(*(tensor.double() for tensor in case), padding=1)
    found = winograd.convolve(*case)
    assert found.shape == exact.shape
    scale = float(exact.std())
    assert float((found - exact).abs().max()) < 4e-6 * scale
    shifted = torch.roll(exact, 1, 2)  # the comparison would notice a misplaced tile
    assert size[0] == 1 or float((shifted - exact).abs().max()) > scale


def test_the_memory_layout_of_the_input_does_not_matter() -> None:
    x, weight, bias = _case((6, 7, 8), 32, 64, batch=2)
    expected = winograd.convolve(x, weight, bias)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(winograd.convolve(last, weight, bias), expected)
    larger = functional.pad(x, (1, 2, 0, 3, 2, 1))
    assert torch.equal(winograd.convolve(larger[:, :, 2:-1, :-3, 1:-2], weight, bias), expected)
    assert expected.is_contiguous(memory_format=torch.channels_last_3d)


def test_same_bytes_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    case = _case((23, 23, 23), 32, 64)
    monkeypatch.setattr(winograd, "in_chunks", lambda work, total: work(0, total))
    alone = winograd.convolve(*case)
    monkeypatch.undo()
    assert torch.equal(winograd.convolve(*case), alone)


def test_only_where_it_pays_and_nothing_is_learned() -> None:
    x, weight, _ = _case((10, 10, 10), 32, 64)
    assert winograd.applies(x, weight)
    assert not winograd.applies(x[..., 1:], weight)
    assert not winograd.applies(x[:, :16], weight[:, :16])
    assert not winograd.applies(x, weight[:32])
    assert not winograd.applies(x.double(), weight.double())
    assert not winograd.applies(x.bfloat16(), weight.bfloat16())
    learned = weight.clone().requires_grad_()
    assert not winograd.applies(x, learned)
    with torch.no_grad():
        assert winograd.applies(x, learned)


def test_the_layer_takes_it_and_still_learns() -> None:
    layer = conv3(32, 64)
    x, _, _ = _case((10, 10, 10), 32, 64)
    learning = layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), winograd.convolve(x, layer.weight, layer.bias))
        torch.testing.assert_close(layer(x), learning, atol=1e-5, rtol=0)
    learning.sum().backward()
    assert layer.weight.grad is not None
    assert float(layer.weight.grad.abs().min()) > 0
