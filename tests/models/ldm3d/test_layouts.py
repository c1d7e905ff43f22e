"""What is imagined of words, and where the U-Net takes it from."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from backend.models.ldm3d import loading
from backend.models.ldm3d.layouts import Layouts
from backend.models.ldm3d.model import Ldm3d, first_noise
from tests import ldm3d_models

WORDS = ["bed", "blue", "sofa"]


def layouts(shape: tuple[int, ...] = (4, 8, 16), **more: float) -> Layouts:
    """Of chance, with an orthonormal basis."""
    torch.manual_seed(3)
    made = Layouts(words=WORDS, latents=list(shape), components=5, width=8, depth=1, **more)
    for parameter in made.parameters():
        if not parameter.any():  # what begins as nothing
            torch.nn.init.normal_(parameter, std=0.5)
    basis = torch.linalg.qr(torch.randn(made.basis.shape[1], 5)).Q.T
    made.basis.copy_(basis)
    made.mean.normal_()
    made.scale.uniform_(0.5, 2)
    return made.eval().requires_grad_(False)


@pytest.fixture
def model(tmp_path) -> Ldm3d:
    parts = ldm3d_models.parts_of(tmp_path / "parts", scheduler="DDIMScheduler")
    installed = ldm3d_models.write(tmp_path / "store", parts)
    found = loading.load(installed, torch.device("cpu"), torch.float32)
    shape = found.latent_shape(found.config.width, found.config.height)[1:]
    return dataclasses.replace(found, layouts=layouts(shape))


def test_components_and_latents_are_inverse() -> None:
    made = layouts()
    codes = torch.randn(3, 5)
    assert torch.allclose(made.components_of(made.latents_of(codes)), codes, atol=1e-4)


def test_words_are_known_whole_and_in_any_case() -> None:
    made = layouts()
    assert made.known("A BED, and blueish walls").tolist() == [[1.0, 0.0, 0.0]]
    assert torch.equal(made.condition(made.known("nothing that it knows")), made.null)


def test_one_seed_is_one_layout_and_words_and_seeds_count() -> None:
    made = layouts()
    one = made.imagine("a bed", 1)
    assert torch.equal(one, made.imagine("a bed", 1))
    for other in (made.imagine("a bed", 2), made.imagine("a blue sofa", 1)):
        assert min(float((one - other.roll(k, -1)).abs().max()) for k in range(16)) > 1e-3


def test_what_is_imagined_lies_in_the_components_turned() -> None:
    made = layouts()
    found = made.imagine("a bed", 4)
    off = []
    for turn in range(16):
        back = found.roll(turn, -1)
        off.append(float((made.latents_of(made.components_of(back)) - back).abs().max()))
    assert min(off) < 1e-4
    assert sorted(off)[1] > 1e-2


def test_the_unet_begins_with_the_layout_at_the_time_that_is_said(model: Ldm3d) -> None:
    noise = first_noise(model, model.config.width, model.config.height, 0)
    steps = list(model.sample("a bed", noise, 20, 1.0, seed=5))
    scheduler = model.schedule()
    scheduler.set_timesteps(20)
    wanted = [int(t) for t in scheduler.timesteps if t < 600]
    assert [step.timestep for step in steps] == wanted
    assert [step.number for step in steps] == list(range(len(wanted)))
    assert all(step.count == len(wanted) for step in steps)
    level = scheduler.alphas_cumprod[wanted[0]]
    first = level.sqrt() * model.layouts.imagine("a bed", 5) + (1 - level).sqrt() * noise
    assert torch.allclose(steps[0].x, first, atol=1e-5)


def test_pictures_of_another_size_begin_with_the_layout_stretched(model: Ldm3d) -> None:
    width = 2 * model.config.width
    noise = first_noise(model, width, width // 2, 0)
    *_, last = model.sample("a bed", noise, 4, 1.0)
    assert last.sample.shape == noise.shape


def test_one_step_is_enough(model: Ldm3d) -> None:
    noise = first_noise(model, model.config.width, model.config.height, 0)
    assert len(list(model.sample("a bed", noise, 1, 1.0))) == 1
