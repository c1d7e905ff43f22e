"""Pictures as latents of a model on pixels."""

from __future__ import annotations

import pytest
import torch

from backend.models.viewdiff.pixels import REACH, PixelLatents


def some(alpha: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures (2, 3, 8, 12, 4), depths, distances."""
    draws = torch.Generator().manual_seed(3)
    pictures = torch.randint(0, 256, (2, 3, 8, 12, 4), generator=draws, dtype=torch.uint8)
    pictures[..., 3] = 255 * torch.randint(0, 2, (2, 3, 8, 12), generator=draws)
    distance = 3 + torch.rand(2, 3, generator=draws)
    depths = distance[..., None, None] + torch.rand(2, 3, 8, 12, generator=draws) * 3 - 1.5
    depths = torch.where(pictures[..., 3] > 0, depths, 0)
    return pictures if alpha else pictures[..., :3], depths, distance


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_what_is_encoded_comes_back(patch: int) -> None:
    pictures, depths, distance = some()
    pixels = PixelLatents(patch, "rgbad")
    latents = pixels.encode(pictures, depths, distance)
    assert latents.shape == (2, 3, 5 * patch**2, 8 // patch, 12 // patch)
    assert pixels.channels == latents.shape[2]
    assert latents.abs().max() <= 1
    back, found = pixels.decode(latents, distance)
    shown = pictures[..., 3] > 0
    torch.testing.assert_close(back[..., 3], pictures[..., 3])
    torch.testing.assert_close(back[shown], pictures[shown])
    assert found is not None
    torch.testing.assert_close(found, depths, atol=1e-5, rtol=0)


def test_nothing_is_grey_and_far() -> None:
    pictures, depths, distance = some()
    pictures[..., 3], depths[:] = 0, 0
    latents = PixelLatents(1, "rgbad").encode(pictures, depths, distance)
    torch.testing.assert_close(latents[0, 0, :, 0, 0], torch.tensor([0.0, 0, 0, -1, 1]))
    endless = PixelLatents(1, "rgbad").encode(pictures, depths + torch.inf, distance)
    torch.testing.assert_close(endless, latents)


def test_unknown_depth_is_in_the_middle_everywhere() -> None:
    pictures, depths, distance = some()
    latents = PixelLatents(2, "rgbad").encode(pictures)
    assert (latents[:, :, 16:] == 0).all()
    told = PixelLatents(2, "rgbad").encode(pictures, depths, distance)
    torch.testing.assert_close(told[:, :, :16], latents[:, :, :16])


def test_a_picture_without_alpha_is_all_thing_and_colours_alone_are_on_white() -> None:
    pictures, _, _ = some(alpha=False)
    back, depths = PixelLatents(2, "rgba").decode(PixelLatents(2, "rgba").encode(pictures))
    torch.testing.assert_close(back[..., :3], pictures)
    assert (back[..., 3] == 255).all()
    assert depths is None
    clear, _, _ = some()
    flat, _ = PixelLatents(2, "rgb").decode(PixelLatents(2, "rgb").encode(clear))
    assert flat.shape[-1] == 3
    assert (flat[clear[..., 3] == 0] == 255).all()
    torch.testing.assert_close(flat[clear[..., 3] > 0], clear[clear[..., 3] > 0][:, :3])


def test_depth_beyond_reach_is_nothing() -> None:
    pictures, depths, distance = some()
    pictures[..., 3] = 255
    depths[:] = distance[..., None, None] + 2 * REACH
    pixels = PixelLatents(1, "rgbad")
    _, found = pixels.decode(pixels.encode(pictures, depths, distance), distance)
    assert found is not None
    assert (found == 0).all()


def test_layouts_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="cmyk"):
        PixelLatents(2, "cmyk")
