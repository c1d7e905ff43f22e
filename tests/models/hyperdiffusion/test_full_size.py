"""Golden values with a denoiser on all 36,737 weights, from the folder FIELDFORGE_FIXTURES."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from backend.models.hyperdiffusion import loading
from backend.models.hyperdiffusion.denoiser import Denoiser
from backend.models.hyperdiffusion.diffusion import (
    losses,
    sample,
    sample_with_noise,
    weight_diffusion,
)
from tests.hyperdiffusion_golden import tensors, weights

FOLDER = Path(os.environ.get("FIELDFORGE_FIXTURES", "")) / "hyperdiffusion"

# No part of the repository: see tests/golden/hyperdiffusion/README.md
pytestmark = pytest.mark.skipif(
    not os.environ.get("FIELDFORGE_FIXTURES"), reason="set FIELDFORGE_FIXTURES to their folder"
)


@pytest.fixture(scope="module")
def denoise() -> Denoiser:
    return loading.denoiser(weights("denoiser_small", FOLDER), heads=2)


def test_forward(denoise: Denoiser) -> None:
    golden = tensors("denoiser_forward_small", FOLDER)
    seen: dict[str, torch.Tensor] = {}
    taps = {
        "t_embed": denoise.scalar_embedder,
        "tokens": denoise.decoder.ln_in,
        "block0": denoise.decoder.blocks[0],
        "ln_f": denoise.decoder.ln_f,
    }
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
        for name, module in taps.items()
    ]
    seen["out"] = denoise(golden["x"], golden["t"])
    for hook in hooks:
        hook.remove()
    for name, found in seen.items():
        assert (found - golden[name]).abs().max() <= 2e-4, name
    assert len(seen) == 5


def test_loss(denoise: Denoiser) -> None:
    golden = tensors("train_loss", FOLDER)
    diffusion = weight_diffusion()
    noised = diffusion.noised(golden["x0"], golden["t"], golden["noise"])
    assert (noised - golden["x_t"]).abs().max() <= 1e-6
    found = losses(denoise, diffusion, golden["x0"], golden["t"], golden["noise"])
    assert torch.allclose(found, golden["loss"], rtol=1e-4)


def test_ddim(denoise: Denoiser) -> None:
    golden = tensors("ddim_real", FOLDER)
    for step in sample(denoise, weight_diffusion(), golden["x_T"]):
        if step.timestep == 250:
            assert (step.sample - golden["sample_250"]).abs().max() <= 2e-3
            assert (step.start - golden["pred_250"]).abs().max() <= 2e-3
    assert (step.number, step.timestep) == (499, 0)
    assert (step.start - golden["pred_0"]).abs().max() <= 2e-3
    assert (step.sample - golden["final"]).abs().max() <= 2e-3


def test_ddpm(denoise: Denoiser) -> None:
    golden = tensors("ddpm_real5", FOLDER)
    x = tensors("ddim_real", FOLDER)["x_T"]
    steps = sample_with_noise(denoise, weight_diffusion(5), iter([x, *golden["step_noise"]]))
    final = list(steps)[-1].sample
    assert (final - golden["final"]).abs().max() <= 1e-3
