from __future__ import annotations

import dataclasses

import pytest
import torch

from backend.models.wala import uvit
from backend.models.wala.config import UVitConfig
from backend.models.wala.uvit import FromPatches, ModulatedBlock, Patches, UVit
from backend.sampling import Diffusion

CASES = ["uvit_cross_dit", "uvit_unconditional_dit"]
TAPS = {"uvit_cross_dit": 16, "uvit_unconditional_dit": 10}
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def _config(args: dict) -> UVitConfig:
    return UVitConfig(
        width=args["hidden_size"],
        depth=args["depth"],
        heads=args["num_heads"],
        channels=args["unet_model_channels"],
        residual_blocks=args["num_res_blocks"][0],
        patch=args["patch_size"],
        context_channels=args["context_dim"],
        cross_attention=args["block_type"] == "cross_dit",
        registers=args["add_num_register"],
        time_condition=args["add_condition_time_ch"] is not None,
        residual_condition=args["add_condition_res_ch"],
        skip_reduction=args["learnable_skip_r"],
    )


def _tiny(**changes) -> UVitConfig:
    config = UVitConfig(width=24, depth=1, heads=2, channels=32, residual_blocks=1, patch=3)
    return dataclasses.replace(config, **changes)


def _awake(network: torch.nn.Module) -> torch.nn.Module:
    """Without the zeros that layers begin with, so that every input counts."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return network.eval().requires_grad_(False)


def _random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CASES)
def test_matches_the_published_network(golden, name: str) -> None:
    case = golden(name)
    uvit = case.load(UVit(_config(case.args)))
    context = case.tensor("latent_codes") if "latent_codes" in case.arrays else None
    out: list[torch.Tensor] = []
    taps = case.check_taps(
        uvit, "taps", lambda: out.append(uvit(case.tensor("x"), case.tensor("t"), context))
    )
    assert taps == TAPS[name]
    torch.testing.assert_close(out[0], case.tensor("out"), **TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_matches_the_published_training_loss(golden, name: str) -> None:
    case = golden(name)
    uvit = case.load(UVit(_config(case.args)))
    context = case.tensor("latent_codes") if "latent_codes" in case.arrays else None
    start, timesteps = case.tensor("x"), case.tensor("t")
    noised = Diffusion().noised(start, timesteps, case.tensor("train_noise"))
    torch.testing.assert_close(noised, case.tensor("train_x_t"), atol=1e-6, rtol=1e-6)
    error = (uvit(noised, timesteps, context) - start).square().mean(dim=(1, 2, 3, 4))
    expected = torch.tensor(case.facts["training"]["mse_per_sample"])
    torch.testing.assert_close(error, expected, **TOLERANCE)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 6])
def test_patches_and_back(side: int) -> None:
    volume = _random(2, 5, 12, 12, 12)
    tokens = Patches(side)(volume)
    assert tokens.shape == (2, (12 // side) ** 3, side**3 * 5)
    assert torch.equal(FromPatches(side)(tokens), volume)
    # The token of the patch at (0, 0, 1) begins with all channels of its first cell.
    assert torch.equal(tokens[0, 1, :5], volume[0, :, 0, 0, side])


def test_every_input_reaches_the_output() -> None:
    config = _tiny(
        context_channels=8,
        cross_attention=True,
        registers=2,
        time_condition=True,
        residual_condition=16,
        skip_reduction=4,
    )
    uvit = _awake(UVit(config))
    x, t, context = _random(1, 4, 12, 12, 12), torch.tensor([3]), _random(1, 5, 8, seed=2)
    out = uvit(x, t, context)
    assert out.shape == x.shape
    for other in (uvit(x, t + 1, context), uvit(x, t, context + 1), uvit(x + 1, t, context)):
        assert (other - out).abs().max() > 1e-3
    for name in ("register_emb", "pos_emb"):
        kept = getattr(uvit, name).data
        getattr(uvit, name).data = kept + 1 + _random(*kept.shape)
        assert (uvit(x, t, context) - out).abs().max() > 1e-4, name
        getattr(uvit, name).data = kept


def test_learned_skips_gate_each_channel() -> None:
    block = _awake(ModulatedBlock(_tiny(skip_reduction=4), with_skip=True))
    assert block.skip_learn_f[0].weight.shape == (8, 32)
    x, skip = _random(2, 32, 3, 3, 3), _random(2, 32, 3, 3, 3, seed=2)
    normalised = block.skip_norm(skip)
    first, _, second, _ = block.skip_learn_f
    gate = torch.sigmoid(second(torch.relu(first(normalised.mean(dim=(2, 3, 4))))))
    expected = block.in_norm(x) + gate[:, :, None, None, None] * normalised
    torch.testing.assert_close(block._joined(block.in_norm(x), normalised), expected)


def test_the_first_prediction_of_an_untrained_network_is_zero() -> None:
    out = UVit(_tiny())(_random(1, 4, 12, 12, 12), torch.tensor([500]))
    assert torch.count_nonzero(out) == 0


def test_configurations_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="patch 5"):
        _tiny(patch=5)
    with pytest.raises(ValueError, match="context_channels"):
        _tiny(cross_attention=True)
    with pytest.raises(ValueError, match="context_channels"):
        _tiny(residual_condition=16)


def test_parameters_at_full_size() -> None:
    """With the 256 x 1024 positions of the condition: 957.2 million."""
    config = UVitConfig(
        width=1152,
        depth=32,
        heads=16,
        channels=128,
        residual_blocks=2,
        context_channels=1024,
        cross_attention=True,
        registers=4,
        time_condition=True,
        residual_condition=1024,
    )
    with torch.device("meta"):
        uvit = UVit(config)
    parameters = sum(parameter.numel() for parameter in uvit.parameters())
    assert parameters + 256 * 1024 == pytest.approx(957.2e6, abs=0.05e6)


@pytest.mark.parametrize("name", ["norm1", "norm2"])
def test_norms_of_the_blocks_divide_by_no_more_than_they_must(name: str) -> None:
    """Nearly constant tokens tell apart the usual 1e-5 under the root and the 1e-6 of these."""
    block = UVit(_tiny()).blocks[0]
    tokens = 1e-3 * _random(1, 7, 24)
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    expected = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(getattr(block, name)(tokens), expected)


def test_rows_that_share_a_condition(golden) -> None:
    """As if each row had its own copy of it; prepared once or in the step, kept or too large."""
    case = golden("uvit_cross_dit")
    model = case.load(UVit(_config(case.args)))
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4, 4, 12, 12, 12, generator=random)
    context = torch.randn(2, 5, model.config.context_channels, generator=random)
    timesteps = torch.tensor([0, 500, 999, 3])
    expected = model(x, timesteps, context.repeat_interleave(2, 0))
    shared = model(x, timesteps, model.prepare(context))
    torch.testing.assert_close(shared, expected, atol=2e-5, rtol=0)
    swapped = model(x, timesteps, model.prepare(context.flip(0)))
    assert float((swapped - expected).abs().max()) > 1e-2


def test_keys_and_values_that_are_too_large_are_not_kept(golden, monkeypatch) -> None:
    case = golden("uvit_cross_dit")
    model = case.load(UVit(_config(case.args)))
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 12, 12, 12, generator=random)
    context = torch.randn(1, 5, model.config.context_channels, generator=random)
    kept = model.prepare(context)
    assert all(isinstance(entry, tuple) for entry in kept.contexts)
    monkeypatch.setattr(uvit, "KEPT_BYTES", 0)
    anew = model.prepare(context)
    assert all(isinstance(entry, torch.Tensor) for entry in anew.contexts)
    timesteps = torch.tensor([10])
    assert torch.equal(model(x, timesteps, kept), model(x, timesteps, anew))
