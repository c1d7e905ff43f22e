"""The denoiser, its checkpoints, and sampling with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import BadInput
from backend.models.hyperdiffusion import loading
from backend.models.hyperdiffusion.config import DenoiserConfig, FieldConfig
from backend.models.hyperdiffusion.denoiser import Denoiser, TimestepEncoding
from backend.models.hyperdiffusion.diffusion import (
    losses,
    sample,
    sample_with_noise,
    weight_diffusion,
)
from backend.models.hyperdiffusion.weights_vector import layout, token_sizes
from backend.sampling import Prediction, Variance, ddim
from tests.hyperdiffusion_golden import arrays, facts, tensors, weights

TINY = FieldConfig(3, 1, (8, 8, 8))


def _seeded(layout_name: str) -> dict[str, torch.Tensor]:
    """Weights by the rule in tests/golden/hyperdiffusion/README.md."""
    case = facts()["seeded"][layout_name]
    draws = np.random.RandomState(case["weight_seed"])
    state, total = {}, 0.0
    for name, shape in case["keys"]:
        if name == "scalar_embedder.frequencies":
            state[name] = 2 ** torch.linspace(0, 20, 128)
            continue
        z = draws.standard_normal(shape)
        if ".ln" in name:
            value = 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
        elif name.endswith("pos_emb"):
            value = 0.2 * z
        else:
            value = 0.05 * z if name.endswith("bias") else z / np.sqrt(shape[-1])
        state[name] = torch.from_numpy(value.astype(np.float32))
        total += float(state[name].double().abs().sum())
    assert total == pytest.approx(case["weight_abs_sum"], rel=1e-5)
    return state


@pytest.mark.parametrize(("name", "dimensions"), [("3d", 3), ("4d", 4)])
def test_denoiser_of_the_published_code(name: str, dimensions: int) -> None:
    golden = tensors(f"denoiser_seeded_{name}")
    denoise = loading.denoiser(_seeded(name), heads=16)
    assert denoise.config == DenoiserConfig(token_sizes(FieldConfig(dimensions)), 96, 3, 16)
    found = denoise(golden["x"], golden["t"])
    assert (found - golden["out"]).abs().max() <= 5e-4


def test_timestep_encoding_of_the_published_code() -> None:
    golden = tensors("timestep_embedding")
    encoding = TimestepEncoding(20)
    assert torch.allclose(encoding.frequencies, golden["frequencies"], rtol=1e-6)
    encoding.load_state_dict({"frequencies": golden["frequencies"]})
    difference = (encoding(golden["t"]) - golden["embedding"]).abs()
    assert difference[:, [*range(64), *range(128, 192), 256]].max() <= 1e-4
    assert difference.max() <= 1e-3


def test_timesteps_are_encoded_in_float32_whatever_the_network_computes_in() -> None:
    encoding = TimestepEncoding(20)
    steps = torch.tensor([3, 499])
    assert torch.equal(encoding.double()(steps), TimestepEncoding(20)(steps))


def test_schedule_of_the_published_code() -> None:
    golden = arrays("schedule")
    diffusion = weight_diffusion()
    steps = diffusion.spaced(500)
    level = steps.alphas_cumprod
    found = {
        "betas": diffusion.betas(),
        "alphas_cumprod": level,
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / level),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / level - 1),
        "posterior_variance": steps.posterior_variance,
        "fixed_large_variance": np.exp(steps.log_variance(Variance.LARGE)),
        "posterior_mean_coef1": steps.start_weight,
        "posterior_mean_coef2": steps.sample_weight,
    }
    assert found.keys() == golden.keys()
    for name, table in found.items():
        np.testing.assert_allclose(table, golden[name], rtol=0, atol=1e-12, err_msg=name)
    assert np.sqrt(level[-1]) == pytest.approx(0.080, abs=5e-4)
    assert diffusion.prediction is Prediction.START


@pytest.mark.parametrize("steps", [5, 50, 333, 500, 1000])
def test_betas_have_the_same_ends_at_any_number_of_steps(steps: int) -> None:
    betas = weight_diffusion(steps).betas()
    np.testing.assert_allclose(betas, np.linspace(1e-4, 2e-2, steps), rtol=1e-14)


@pytest.fixture(scope="module")
def tiny() -> Denoiser:
    denoise = loading.denoiser(weights("denoiser_tiny"), heads=4)
    shapes = [[name, list(shape)] for name, shape in layout(TINY)]
    assert shapes == facts()["tiny_layout"]
    assert denoise.config.tokens == token_sizes(TINY)
    return denoise


@pytest.mark.parametrize("way", ["ddim0", "ddim1", "ddpm"])
def test_all_steps_of_the_published_code(tiny: Denoiser, way: str) -> None:
    golden = tensors("loops_tiny")
    diffusion, x = weight_diffusion(), golden["x_T"]
    if way == "ddim0":
        steps = sample(tiny, diffusion, x)
    elif way == "ddpm":
        steps = sample_with_noise(tiny, diffusion, iter([x, *golden["step_noise"]]))
    else:
        steps = ddim(
            tiny,
            diffusion.spaced(500),
            x,
            Prediction.START,
            eta=1.0,
            fresh=iter(golden["step_noise"]),
        )
    kept = torch.stack([step.sample for step in steps if step.number % 50 == 49])
    assert (kept - golden[f"{way}_traj"]).abs().max() <= 2e-3


def test_fewer_steps_are_taken_where_asked(tiny: Denoiser) -> None:
    x = tensors("loops_tiny")["x_T"]
    steps = list(sample(tiny, weight_diffusion(), x, 50))
    assert [len(steps), steps[0].timestep, steps[-1].timestep] == [50, 499, 0]
    assert torch.equal(steps[-1].sample, steps[-1].start)


def test_the_loss_is_of_each_vector_alone() -> None:
    start = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 250, 499])
    noise = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    shifts = torch.tensor([[0.0], [1.0], [2.0]])
    found = losses(lambda _x, _t: start + shifts, weight_diffusion(), start, timesteps, noise)
    assert torch.allclose(found, torch.tensor([0.0, 1.0, 4.0]))


# ----------------------------------------------------------------------------------------- loading


def _published(path: Path, state: dict[str, torch.Tensor]) -> Path:
    betas = torch.from_numpy(weight_diffusion().betas())
    tables = dict.fromkeys(("betas", "alphas", "alpha_hats", "alpha_hats_prev"), betas)
    named = {f"model.{name}": tensor for name, tensor in state.items()}
    content = {"state_dict": {**tables, **named}, "epoch": 3, "optimizer_states": [{"state": {}}]}
    torch.save(content, path)
    return path


def test_a_published_checkpoint_is_read(tmp_path: Path, tiny: Denoiser) -> None:
    state = weights("denoiser_tiny")
    found = loading.denoiser_from_checkpoint(_published(tmp_path / "plane.ckpt", state), heads=4)
    x = tensors("loops_tiny")["x_T"]
    steps = torch.tensor([499, 7])
    assert found.config == tiny.config
    assert torch.equal(found(x, steps), tiny(x, steps))


def test_the_published_layout_has_219_entries() -> None:
    config = DenoiserConfig(token_sizes(FieldConfig()), width=2880, depth=12, heads=16)
    with torch.device("meta"):
        model = Denoiser(config)
    assert len(model.state_dict()) + 4 == 219
    assert sum(tensor.numel() for tensor in model.parameters()) == pytest.approx(1407e6, rel=1e-3)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    state = weights("denoiser_tiny")
    with pytest.raises(BadInput, match="no denoiser"):
        loading.denoiser({"layers.0.weight": torch.zeros(3, 3)})
    with pytest.raises(BadInput, match=r"decoder\.ln_f\.bias"):
        loading.denoiser({k: v for k, v in state.items() if k != "decoder.ln_f.bias"}, heads=4)
    with pytest.raises(BadInput, match=r"decoder\.ln_f\.bias"):
        loading.denoiser({**state, "decoder.ln_f.bias": torch.zeros(5)}, heads=4)
    with pytest.raises(BadInput, match="32 is not 5 equal heads"):
        loading.denoiser(state, heads=5)
    state["decoder.ln_f.bias"] = torch.zeros(32, dtype=torch.int64)
    with pytest.raises(BadInput, match="holds no weights"):
        loading.denoiser_from_checkpoint(_published(tmp_path / "odd.ckpt", state), heads=4)


def test_weights_begin_as_published() -> None:
    torch.manual_seed(0)
    model = Denoiser(DenoiserConfig((300, 20), width=64, depth=2, heads=4))
    state = model.state_dict()
    assert not state["decoder.pos_emb"].any()
    assert not state["decoder.blocks.0.mlp.0.bias"].any()
    spread = state["decoder.input_parameter_projections.0.0.weight"].std().item()
    assert spread == pytest.approx(0.02, rel=0.03)
    assert model(torch.zeros(2, 320), torch.tensor([0, 5])).shape == (2, 320)
    with pytest.raises(ValueError, match=r"expected \(B, 320\)"):
        model(torch.zeros(2, 319), torch.tensor([0, 5]))
