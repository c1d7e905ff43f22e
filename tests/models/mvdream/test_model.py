"""A whole small model: words to pictures."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend import sampling, weights
from backend.errors import BadInput
from backend.models.mvdream import loading
from backend.models.mvdream.config import MVDreamConfig, UNetConfig
from backend.models.mvdream.model import MVDream, first_noise, full_prompt, grey
from backend.protocol import camera_poses
from tests import mvdream_models

CPU = torch.device("cpu")


def _latents(model: MVDream, prompt: str, seed: int = 0, **chosen: float) -> torch.Tensor:
    *_, last = model.sample(prompt, first_noise(model, seed), **chosen)  # type: ignore[arg-type]
    return last.sample


# ---------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("prompt", "as_published", "expected"),
    [
        ("a cup", False, "a cup, 3d asset"),
        (" a cup\n", False, "a cup, 3d asset"),
        ("a 3D cup", False, "a 3D cup"),
        ("3d cup", False, "3d cup"),
        ("a cup", True, "['a cup'], 3d asset"),
        ("it's 3d", True, '["it\'s 3d"]'),
    ],
)
def test_prompts(prompt: str, as_published: bool, expected: str) -> None:
    assert full_prompt(prompt, ", 3d asset", as_published) == expected


# ----------------------------------------------------------------------------------------- config


def test_a_configuration_survives_json(small: MVDream) -> None:
    record = json.loads(json.dumps(small.config.to_dict()))
    assert MVDreamConfig.from_dict(record) == small.config


def test_levels_and_attention_must_agree() -> None:
    with pytest.raises(ValueError, match="2 of 3"):
        UNetConfig(multipliers=(1, 2, 4), attention=(True, False))


# --------------------------------------------------------------------------------------- sampling


def test_the_same_seed_gives_the_same_views(small: MVDream) -> None:
    first, again = _latents(small, "a cup", 3), _latents(small, "a cup", 3)
    assert first.shape == small.latent_shape() == (6, 4, 8, 8)
    assert torch.equal(first, again)
    assert not torch.allclose(first, _latents(small, "a cup", 4), rtol=0.1)
    assert not torch.equal(first, _latents(small, "a chair", 3))


def test_steps_and_guidance_are_those_of_the_model_unless_given(small: MVDream) -> None:
    def count(steps: int | None = None) -> list[int]:
        taken = small.sample("a cup", first_noise(small, 0), steps, 1.0)
        return [step.timestep for step in taken]

    assert count() == [999, 666, 332]
    assert count(4) == [999, 749, 499, 249]
    default = _latents(small, "a cup")
    assert torch.equal(default, _latents(small, "a cup", guidance=10.0))
    assert not torch.equal(default, _latents(small, "a cup", guidance=5.0))


def test_it_takes_the_steps_of_the_schedule(small: MVDream) -> None:
    """The same by hand: guidance over text and no text, DDIM down to timestep 0 of training."""
    context = small.encode("a cup").expand(6, -1, -1)
    null = small.encode("").expand(6, -1, -1)
    level = np.cumprod(1 - small.config.diffusion.betas())
    x = first_noise(small, 5)
    for now, then in ((999, 666), (666, 332), (332, 0)):
        timesteps = torch.full((6,), now)
        without = small.denoise(x, timesteps, null)
        noise = without + 10 * (small.denoise(x, timesteps, context) - without)
        start = (x - np.sqrt(1 - level[now]) * noise) / np.sqrt(level[now])
        x = np.sqrt(level[then]) * start + np.sqrt(1 - level[then]) * noise
    found = _latents(small, "a cup", 5)
    assert (found - x).abs().max() <= 1e-4 * x.abs().max()


def test_views_know_of_each_other_and_of_their_cameras(small: MVDream) -> None:
    x = first_noise(small, 0)
    timesteps = torch.full((6,), 500)
    context = small.encode("a cup").expand(6, -1, -1)
    before = small.denoise(x, timesteps, context)
    changed = x.clone()
    changed[5] += 1
    after = small.denoise(changed, timesteps, context)
    assert (after[0] - before[0]).abs().max() > 1e-5
    turned = MVDream(dataclasses.replace(small.config, views=((0.0, 0.0),) * 6)).eval()
    turned.load_state_dict(small.state_dict())
    turned.requires_grad_(False)
    assert (turned.denoise(x, timesteps, context) - before).abs().max() > 1e-4


def test_cameras_may_stand_anywhere_around(small: MVDream) -> None:
    own = camera_poses(small.config.views, "z", 3.5)
    assert torch.allclose(small.cameras(own), small.cameras(), atol=1e-6)
    noise = first_noise(small, 0)

    def painted(**chosen: Any) -> torch.Tensor:
        *_, last = small.sample("a cup", noise, 2, **chosen)
        return last.sample

    torch.testing.assert_close(painted(poses=own), painted(), rtol=1e-3, atol=1e-3)
    turned = camera_poses([(azimuth + 90, up) for azimuth, up in small.config.views], "z", 1)
    assert not torch.allclose(painted(poses=turned), painted(), rtol=1e-2)


def test_there_may_be_more_views_than_the_model_has_cameras(small: MVDream) -> None:
    poses = camera_poses([(45.0 * k, 15.0) for k in range(8)], "z", 2)
    *_, last = small.sample("a cup", first_noise(small, 0, 8), 1, poses=poses)
    assert last.sample.shape == (8, 4, 8, 8) == small.latent_shape(8)


def test_shapes_of_a_batch_do_not_mix(small: MVDream) -> None:
    x = torch.cat([first_noise(small, 0), first_noise(small, 1)])
    timesteps = torch.full((12,), 500)
    context = small.encode("a cup").expand(12, -1, -1)
    both = small.denoise(x, timesteps, context)
    alone = small.denoise(x[6:], timesteps[6:], context[6:])
    torch.testing.assert_close(both[6:], alone, rtol=1e-4, atol=1e-5)


def test_a_step_can_be_stopped_after(small: MVDream) -> None:
    steps = small.sample("a cup", first_noise(small, 0))
    assert isinstance(next(steps), sampling.Step)


# --------------------------------------------------------------------------------------- pictures


def test_pictures(small: MVDream) -> None:
    latents = _latents(small, "a cup") / 20
    pictures = small.pictures(latents)
    assert pictures.shape == (6, 16, 16, 3)
    assert pictures.dtype == np.uint8
    scaled = latents / small.config.autoencoder.scale
    decoded = small.autoencoder.decode(scaled).sample.permute(0, 2, 3, 1).numpy()
    expected = np.clip((decoded + 1) / 2, 0, 1) * 255
    assert np.abs(pictures - expected).max() <= 0.51
    depth = grey(pictures)
    assert depth.shape == (6, 16, 16)
    assert np.abs(depth - pictures.astype(float).mean(axis=-1)).max() <= 0.5


# ---------------------------------------------------------------------------------------- loading


def test_it_loads_and_runs_without_network(
    store: Path, small: MVDream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    model = loading.load(weights.read_model(store / "small-text"), CPU, torch.float32)
    assert torch.equal(_latents(model, "a cup"), _latents(small, "a cup"))


def test_half_precision_comes_near(store: Path, small: MVDream) -> None:
    model = loading.load(weights.read_model(store / "small-text"), CPU, torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    x = first_noise(small, 0)
    timesteps = torch.full((6,), 500)
    exact = small.denoise(x, timesteps, small.encode("a cup").expand(6, -1, -1))
    found = model.denoise(x, timesteps, model.encode("a cup").expand(6, -1, -1))
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() <= 0.05 * exact.abs().max()
    assert model.pictures(_latents(model, "a cup")).shape == (6, 16, 16, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text": {"width": 64}}, "of another shape|missing"),
        ({"unet": {"wings": 2}}, "wings"),
        ({"diffusion": {}}, "prediction"),
        ({"views": 7}, "TypeError"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    tmp_path: Path, small: MVDream, changes: dict[str, object], said: str
) -> None:
    config = small.config.to_dict() | changes
    installed = mvdream_models.write(tmp_path, small, "other", config=config)
    with pytest.raises(BadInput, match=said) as raised:
        loading.load(installed, CPU, torch.float32)
    assert "models convert" in raised.value.remedy
