"""The linear code of patches: what components are, and what the networks around it begin as."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from backend.models.ldm3d.patches import PatchAutoencoder, evened

SIZE, CHANNELS = 4, 3
NUMBERS = CHANNELS * SIZE**2
ALIKE = torch.ones(NUMBERS)


def waves(height: int = 32, seed: int = 0) -> torch.Tensor:
    """(1, 3, H, 2 H): smooth, so that few components hold most of it."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:height, : 2 * height] / height
    planes = [
        sum(np.sin(a * np.pi * across + b * down + c) for a, b, c in rng.uniform(1, 4, (4, 3))) / 4
        for _ in range(CHANNELS)
    ]
    return torch.from_numpy(np.stack(planes)[None]).float()


def patches_of(picture: torch.Tensor) -> torch.Tensor:
    """(N, P)"""
    return functional.pixel_unshuffle(picture, SIZE)[0].flatten(1).T.double()


def coder(latents: int, importance: torch.Tensor = ALIKE, **more: float) -> PatchAutoencoder:
    """Of the components of `waves()`."""
    torch.manual_seed(0)
    made = PatchAutoencoder(
        in_channels=CHANNELS, out_channels=CHANNELS, latent_channels=latents, patch_size=SIZE,
        width=8, blocks=2, fine=4, evened=False, **more,
    )  # fmt: skip
    patches = patches_of(waves())
    made.set_components(patches.mean(dim=0), patches.T.cov(correction=0), importance)
    return made.eval().requires_grad_(False)


def test_all_components_give_everything_back():
    picture = waves()
    assert (coder(NUMBERS)(picture) - picture).abs().max() < 1e-4


@pytest.mark.parametrize("count", [1, 3, 10])
def test_few_components_are_the_best_of_their_number(count):
    """As by a singular value decomposition (Eckart and Young)."""
    patches = patches_of(waves())
    centred = patches - patches.mean(dim=0)
    left = torch.linalg.svdvals(centred)[count:].square().sum() / patches.numel()
    error = (coder(count)(waves()) - waves()).double().square().mean()
    assert float(error) == pytest.approx(float(left), rel=1e-3)


@pytest.mark.parametrize("evenness", [0.0, 0.6, 1.0])
def test_latents_are_uncorrelated_and_as_wide_as_said(evenness):
    patches = patches_of(waves())
    wide = torch.linalg.svdvals(patches - patches.mean(dim=0))[:5] / len(patches) ** 0.5
    latents = coder(5, evenness=evenness).encode(waves()).latent_dist.mean
    flat = latents[0].flatten(1).double()
    wanted = torch.diag(wide ** (2 - 2 * evenness))
    assert (flat.cov(correction=0) - wanted).abs().max() < 1e-4 * float(wanted.max())
    assert flat.mean(dim=1).abs().max() < 1e-4


def test_what_counts_more_is_kept_better():
    importance = torch.ones(CHANNELS).index_fill(0, torch.tensor(2), 100.0)
    importance = importance.repeat_interleave(SIZE**2)
    errors = [
        (coder(4, weight)(waves()) - waves()).square().mean(dim=(0, 2, 3))
        for weight in (ALIKE, importance)
    ]
    assert errors[1][2] < 0.1 * errors[0][2]
    assert errors[1][:2].sum() > errors[0][:2].sum()


def test_the_posterior_is_as_wide_as_said():
    found = coder(4, spread=0.07).encode(waves()).latent_dist
    assert torch.allclose(found.std, torch.tensor(0.07))


def test_turning_by_patches_turns_what_comes_back_and_no_other_edge_does():
    made = coder(6)
    torch.manual_seed(1)
    for parameter in made.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    picture = waves()
    plain, turned = made(picture), made(picture.roll(5 * SIZE, -1))
    assert (turned - plain.roll(5 * SIZE, -1)).abs().max() < 1e-4
    raised = made(picture.roll(5 * SIZE, -2))
    assert (raised - plain.roll(5 * SIZE, -2)).abs().max() > 1e-3


def test_only_what_comes_back_learns():
    made = PatchAutoencoder(patch_size=SIZE, width=8, blocks=1, fine=4)
    learning = {name.partition(".")[0] for name, p in made.named_parameters() if p.requires_grad}
    assert learning == {"synthesis", "inner", "residual", "outer", "sharpen"}


def test_small_steps_between_patches_are_spread_and_edges_stay():
    patch = 16
    columns = torch.arange(64.0)
    flat = torch.zeros(1, 1, 32, 64)
    small, edge = (flat + (columns // patch % 2) * height for height in (0.05, 1.0))
    made = evened(small, patch)
    steps = (made - made.roll(1, -1)).abs()[0, 0]
    assert steps[:, ::patch].max() < 0.025  # of 0.05; also where the picture meets itself
    torch.testing.assert_close(evened(edge, patch), edge)
    torch.testing.assert_close(made.mean(), small.mean())  # nothing is brighter for it
    # What is no step stays: a ramp within the picture, and what moves with the picture moves.
    ramp = flat + torch.linspace(-1, 1, 32)[:, None]
    torch.testing.assert_close(evened(ramp, patch), ramp)
    torch.testing.assert_close(evened(small.roll(patch, -1), patch), made.roll(patch, -1))
    upright = evened(small.transpose(-1, -2)[..., :32, :].repeat(1, 1, 1, 2), patch)
    inner = (upright[0, 0, 1:] - upright[0, 0, :-1]).abs()
    assert inner[patch - 1].max() < 0.025


def test_only_what_is_decoded_for_use_is_evened():
    torch.manual_seed(0)
    made = PatchAutoencoder(latent_channels=4, width=8, blocks=1, fine=4, patch_size=4)
    latents = 0.02 * torch.randn(1, 4, 4, 8)
    with torch.no_grad():
        plain, used = made.train().decode(latents).sample, made.eval().decode(latents).sample
    assert torch.equal(used, evened(plain, 4))
    assert not torch.equal(used, plain)
