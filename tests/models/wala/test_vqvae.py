from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.geometry import wavelets
from backend.models.wala.config import AutoencoderConfig
from backend.models.wala.vqvae import Quantiser, VqVae

TOLERANCE = {"atol": 2e-4, "rtol": 2e-4}


@pytest.fixture(scope="module")
def case(golden):
    return golden("vqvae")


@pytest.fixture(scope="module")
def config(case) -> AutoencoderConfig:
    return AutoencoderConfig.from_args(case.args)


@pytest.fixture(scope="module")
def vqvae(case, config) -> VqVae:
    return case.load(VqVae(config))


@pytest.fixture(scope="module")
def volume() -> torch.Tensor:
    """The packed tree of the sphere and the torus, (1, 64, 46, 46, 46)."""
    arrays = np.load(Path(__file__).parents[2] / "golden" / "wavelet_inverse.npz")
    low = torch.from_numpy(arrays["low"]).float()[0, 0]
    indices = torch.from_numpy(arrays["high_indices"])[:, 1:]
    values = torch.from_numpy(arrays["high_values"]).float()
    return wavelets.scatter_sparse(low, indices, values)[None]


def test_encoder(case, vqvae, volume) -> None:
    latent: list[torch.Tensor] = []
    taps = case.check_taps(
        vqvae.encoder, "encoder_taps", lambda: latent.append(vqvae.encode(volume))
    )
    assert taps == 15
    torch.testing.assert_close(latent[0], case.tensor("h"), **TOLERANCE)


def test_decoder(case, vqvae) -> None:
    out: list[torch.Tensor] = []
    taps = case.check_taps(
        vqvae.decoder, "decoder_taps", lambda: out.append(vqvae.decode(case.tensor("quant")))
    )
    assert taps == 13
    assert out[0].shape == (1, 64, 46, 46, 46)
    torch.testing.assert_close(out[0][0, 0], case.tensor("dec_channel0"), **TOLERANCE)
    torch.testing.assert_close(out[0][0, 63], case.tensor("dec_channel63"), **TOLERANCE)
    chosen = out[0].flatten()[case.tensor("dec_flat_index")]
    torch.testing.assert_close(chosen, case.tensor("dec_value"), **TOLERANCE)
    expected = case.facts["outputs"]["dec"]
    assert out[0].double().mean().item() == pytest.approx(expected["mean"], abs=1e-6)
    assert out[0].double().std().item() == pytest.approx(expected["std"], rel=1e-5)


@pytest.mark.parametrize(
    ("normalized", "name", "loss"),
    [(False, "", "vq_loss"), (True, "other_norm_", "other_norm_vq_loss")],
)
def test_quantiser(case, config, normalized: bool, name: str, loss: str) -> None:
    quantiser = Quantiser(dataclasses.replace(config, normalized=normalized))
    case.load(quantiser, "quantize.")
    found = quantiser(case.tensor("h"))
    clear = case.tensor(f"{name}margin") > 1e-4
    assert clear.float().mean() > 0.99
    indices = found.indices.flatten()
    assert torch.equal(indices[clear].int(), case.tensor(f"{name}indices")[clear])
    same = (indices.int() == case.tensor(f"{name}indices")).reshape(found.indices.shape)[:, None]
    expected = case.tensor(f"{name}quant")
    torch.testing.assert_close(
        torch.where(same, found.latent, expected), expected, atol=1e-6, rtol=0
    )
    assert found.loss.item() == pytest.approx(case.facts["outputs"][loss], abs=1e-6)


def test_gradients_pass_straight_through(case, config) -> None:
    quantiser = Quantiser(config)
    quantiser.load_state_dict(case.state_dict("quantize."))
    latent = case.tensor("h").clone().requires_grad_()
    direction = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    (quantiser(latent).latent * direction).sum().backward()
    torch.testing.assert_close(latent.grad, direction)
    assert quantiser.embedding.weight.grad is None


def test_loss_pulls_codes_and_latents_together(case, config) -> None:
    quantiser = Quantiser(config)
    quantiser.load_state_dict(case.state_dict("quantize."))
    latent = case.tensor("h").clone().requires_grad_()
    found = quantiser(latent)
    found.loss.backward()
    chosen = quantiser.embedding.weight.detach()[found.indices].movedim(-1, 1)
    apart = 2 * (case.tensor("h") - chosen) / latent.numel()
    torch.testing.assert_close(latent.grad, config.commitment * apart)
    expected = torch.zeros_like(quantiser.embedding.weight)
    expected.index_add_(0, found.indices.flatten(), -apart.movedim(1, -1).flatten(0, -2))
    torch.testing.assert_close(quantiser.embedding.weight.grad, expected)


def test_decoding_what_was_generated_snaps_to_the_codebook(case, config) -> None:
    """On a corner of the latent, by a decoder without transformer, which takes any size."""
    torch.manual_seed(0)
    plain = dataclasses.replace(config, encoder_blocks=0, decoder_blocks=0)
    vqvae = VqVae(plain).requires_grad_(False)
    vqvae.quantize.load_state_dict(case.state_dict("quantize."))
    latent, codes = (case.tensor(name)[..., :3, :3, :3] for name in ("h", "quant"))
    decoded = vqvae.decode_unquantised(latent)
    assert decoded.shape == (1, 64, 10, 10, 10)
    torch.testing.assert_close(decoded, vqvae.decode(codes), atol=1e-5, rtol=1e-5)
    assert (decoded - vqvae.decode(latent)).abs().max() > 1e-2


def test_published_names_are_the_only_names(case, config) -> None:
    names = set(VqVae(config).state_dict())
    assert names == set(case.facts["weights"]["tensors"])
    without = VqVae(dataclasses.replace(config, encoder_blocks=0, decoder_blocks=0)).state_dict()
    assert not [name for name in without if "t_blocks" in name or "pos_emb" in name]
    parameters = sum(value.numel() for name, value in without.items() if "quantize" not in name)
    assert parameters == pytest.approx(12.87e6, rel=1e-3)
