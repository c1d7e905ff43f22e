"""What the U-Net of our own models is told beside its latents."""

from __future__ import annotations

import math

import pytest
import torch

from backend.models.ldm3d import rows
from backend.models.ldm3d.circular import go_around

LATENTS, WORDS = 4, 16


@pytest.fixture(scope="module")
def network() -> rows.RowUNet:
    torch.manual_seed(0)
    made = rows.RowUNet(
        in_channels=rows.channels_in(LATENTS),
        out_channels=LATENTS,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WORDS,
        attention_head_dim=2,
        norm_num_groups=8,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=rows.told(LATENTS, WORDS),
    )
    go_around(made)
    return made.eval().requires_grad_(False)


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, LATENTS, 16, 32, generator=draws),
        torch.randn(2, 5, WORDS, generator=draws),
    )


def test_latitude_is_up_at_the_top_and_level_in_the_middle() -> None:
    sine, cosine = rows._heights(torch.zeros(1, LATENTS, 16, 3))[0, :, :, 1]
    assert torch.allclose(sine, -sine.flip(0), atol=1e-6)
    assert torch.allclose(sine.square() + cosine.square(), torch.ones(16))
    assert float(sine[0]) == pytest.approx(math.sin(math.pi / 2 * (1 - 1 / 16)))
    assert (sine.diff() < 0).all()


def test_turning_the_latents_turns_the_prediction(network, given) -> None:
    sample, words = given
    plain = network(sample, 500, words, return_dict=False)[0]
    turned = network(sample.roll(6, -1), 500, words, return_dict=False)[0]
    assert plain.shape == sample.shape
    assert (turned - plain.roll(6, -1)).abs().max() < 1e-4


def test_each_of_a_batch_is_by_itself(network, given) -> None:
    sample, words = given
    both = network(sample, 500, words, return_dict=False)[0]
    alone = network(sample[1:], 500, words[1:], return_dict=False)[0]
    assert (both[1:] - alone).abs().max() < 1e-4


@pytest.mark.parametrize("size", [(16, 32), (8, 16), (32, 64)])
def test_pictures_of_other_sizes_go_in(network, given, size) -> None:
    sample = torch.randn(1, LATENTS, *size)
    assert network(sample, 3, given[1][:1], return_dict=False)[0].shape == sample.shape


def test_a_far_place_knows_of_the_colour_of_all(network, given) -> None:
    """Without attention, too: half of the rows' other side is changed, this side hears of it."""
    sample, words = given
    heard = sample.clone()
    heard[..., 24:28] += 1.0
    off = (
        network(heard, 500, words, return_dict=False)[0]
        - network(sample, 500, words, return_dict=False)[0]
    )
    assert off[..., 8:12].abs().mean() > 1e-3
