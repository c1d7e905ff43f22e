"""The world can be turned: what goes in turned comes out turned, and nothing else changes."""

import numpy as np
import pytest
import torch
from torch import nn

from backend.models.ldm3d.circular import AroundConv2d, go_around
from backend.models.ldm3d.model import first_noise

WIDTH, HEIGHT = 128, 64
GUIDANCE = 4.0


def last_of(model, noise, **options):
    *_, last = model.sample("a b c", noise, 3, GUIDANCE, **options)
    return last.sample


@pytest.mark.parametrize("stride", [1, 2])
def test_around_in_x_and_zeros_in_y(stride):
    torch.manual_seed(0)
    plain = nn.Conv2d(2, 3, 3, stride=stride, padding=1)
    x = torch.randn(1, 2, 6, 8)
    wide = torch.cat([x[..., -1:], x, x[..., :1]], -1)
    high = torch.cat([torch.zeros(1, 2, 1, 10), wide, torch.zeros(1, 2, 1, 10)], -2)
    wanted = torch.conv2d(high, plain.weight, plain.bias, stride)
    own = nn.Sequential(plain)
    go_around(own)
    assert type(own[0]) is AroundConv2d
    torch.testing.assert_close(own(x), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [4, 6])
@pytest.mark.parametrize("cells", [2, 6, -4])
def test_turning_the_noise_turns_the_latents(models, channels, cells):
    model = models[channels]
    noise = first_noise(model, WIDTH, HEIGHT, 0)
    straight = last_of(model, noise)
    turned = last_of(model, noise.roll(cells, -1))
    scale = straight.abs().max()
    assert (turned - straight.roll(cells, -1)).abs().max() < 1e-5 * scale
    assert (turned - straight).abs().max() > 0.1 * scale


@pytest.mark.parametrize("channels", [4, 6])
@pytest.mark.parametrize("cells", [1, 5])
def test_turning_the_latents_turns_the_picture(models, channels, cells):
    model = models[channels]
    latents = first_noise(model, WIDTH, HEIGHT, 0)
    picture, depth = model.decode(latents)
    turned, turned_depth = model.decode(latents.roll(cells, -1))
    shift = cells * model.factor
    np.testing.assert_allclose(turned, np.roll(picture, shift, 1), rtol=0, atol=1e-5)
    if channels == 4:
        np.testing.assert_allclose(turned_depth, np.roll(depth, shift, 1), rtol=0, atol=1e-5)
    else:  # bytes are rounded: one that lies on the edge goes over it
        wrong = np.abs(turned_depth - np.roll(depth, shift, 1)) > 1e-6
        assert wrong.mean() < 1e-3
    assert np.abs(turned - picture).max() > 0.1


def test_turning_a_picture_turns_what_the_encoder_makes_of_it(models):
    model = models[4]
    torch.manual_seed(0)
    picture = torch.randn(1, 4, 32, 64)
    with torch.inference_mode():
        straight = model.vae.encode(picture).latent_dist.mean
        turned = model.vae.encode(picture.roll(16, -1)).latent_dist.mean
    assert (turned - straight.roll(2, -1)).abs().max() < 1e-5
    assert (turned - straight).abs().max() > 0.01


def test_without_it_there_is_a_seam(parts, models):
    from diffusers import AutoencoderKL

    plain = AutoencoderKL.from_pretrained(parts[4]["vae/config.json"].parent).eval()
    latents = first_noise(models[4], WIDTH, HEIGHT, 0)
    with torch.inference_mode():
        straight = plain.decode(latents).sample
        turned = plain.decode(latents.roll(4, -1)).sample
    assert (turned - straight.roll(32, -1)).abs().max() > 0.01


def test_up_and_down_are_not_joined(models):
    model = models[4]
    latents = first_noise(model, WIDTH, HEIGHT, 0)
    picture, _ = model.decode(latents)
    tumbled, _ = model.decode(latents.roll(2, -2))
    assert np.abs(tumbled - np.roll(picture, 16, 0)).max() > 0.01


def test_paddings_that_are_not_understood_are_refused():
    for conv in (
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(1, 1, 3, padding="same"),
    ):
        with pytest.raises(ValueError, match="a convolution"):
            go_around(nn.Sequential(conv))
    with pytest.raises(ValueError, match="ConvTranspose2d"):
        go_around(nn.Sequential(nn.ConvTranspose2d(1, 1, 2)))
