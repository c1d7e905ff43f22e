from __future__ import annotations

import dataclasses

import pytest
import torch

from backend.models.wala.config import ImageEncoderConfig
from backend.models.wala.dinov2 import DinoV2


@pytest.fixture(scope="module")
def case(golden):
    return golden("dinov2_reg4_tiny")


@pytest.fixture(scope="module")
def dinov2(case) -> DinoV2:
    args = case.args
    config = ImageEncoderConfig(
        width=args["embed_dim"],
        depth=args["depth"],
        heads=args["num_heads"],
        registers=args["num_register_tokens"],
        patch=args["patch_size"],
        position_side=args["img_size"] // args["patch_size"],
    )
    return case.load(DinoV2(config))


def test_matches_the_published_network(case, dinov2) -> None:
    images = case.tensor("image_uint8").float() / 255 * 2 - 1
    out: list[torch.Tensor] = []
    assert case.check_taps(dinov2, "taps", lambda: out.append(dinov2.tokens(images))) == 5
    tokens = out[0]
    torch.testing.assert_close(tokens[:, 0], case.tensor("x_norm_clstoken"), atol=1e-4, rtol=0)
    expected = case.tensor("x_norm_patchtokens")
    torch.testing.assert_close(tokens[:, 5:], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(dinov2(images), expected, atol=1e-4, rtol=0)


def test_positions_are_resized_as_published(case, dinov2) -> None:
    found = dinov2.positions(16, 16)
    torch.testing.assert_close(found, case.tensor("pos_embed_16x16"), atol=1e-5, rtol=0)
    assert dinov2.positions(37, 37) is dinov2.pos_embed
    assert dinov2.positions(5, 9).shape == (1, 46, 48)


def test_images_that_do_not_divide(dinov2) -> None:
    with pytest.raises(ValueError, match=r"\(224, 220\)"):
        dinov2(torch.zeros(1, 3, 224, 220))


def test_parameters_at_full_size() -> None:
    with torch.device("meta"):
        large = DinoV2()
        small = DinoV2(dataclasses.replace(ImageEncoderConfig(), depth=23))
    assert sum(p.numel() for p in large.parameters()) == pytest.approx(304.4e6, rel=1e-3)
    names = set(large.state_dict()) - set(small.state_dict())
    assert all(name.startswith("blocks.23.") for name in names)
    assert len(names) == 14
