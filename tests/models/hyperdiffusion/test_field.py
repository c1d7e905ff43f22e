"""Fields and their weight vectors."""

from __future__ import annotations

import pytest
import torch

from backend.errors import BadInput
from backend.models.hyperdiffusion.config import FieldConfig
from backend.models.hyperdiffusion.field import OccupancyField, encode, evaluate
from backend.models.hyperdiffusion.weights_vector import (
    field_of,
    flatten,
    layout,
    token_sizes,
    unflatten,
)
from backend.neural_fields import phase_octaves
from tests.hyperdiffusion_golden import facts, field, tensors, weights

LIMITS = {"fit": 2e-3, "rand": 1e-5}


@pytest.mark.parametrize("dimensions", [3, 4])
@pytest.mark.parametrize("kind", ["fit", "rand"])
def test_logits_of_the_published_code(dimensions: int, kind: str) -> None:
    golden = tensors(f"mlp{dimensions}d_forward")
    config, vector = field(f"mlp{dimensions}d_{kind}")
    encoded = encode(golden["coords"], config.frequencies)
    assert config == FieldConfig(dimensions)
    assert (encoded - golden["posenc"]).abs().max() <= (1e-6 if dimensions == 3 else 1e-5)
    network = OccupancyField(config)
    network.load_state_dict(weights(f"mlp{dimensions}d_{kind}"), strict=True)
    expected = golden[f"logits_{kind}"]
    with torch.no_grad():
        alone = network(golden["coords"])
    together = evaluate(config, vector[None], golden["coords"])[0, :, None]
    for found in (alone, together):
        assert (found - expected).abs().max() <= LIMITS[kind]
        sure = expected.abs() > 0.01
        assert torch.equal((found > 0)[sure], (expected > 0)[sure])


def test_probability_and_first_layer_of_the_published_code() -> None:
    golden = tensors("mlp3d_forward")
    network = OccupancyField(FieldConfig())
    network.load_state_dict(weights("mlp3d_fit"), strict=True)
    with torch.no_grad():
        hidden = network.layers[0](encode(golden["coords"], 4)).relu()
        probability = network(golden["coords"]).sigmoid()
    assert (hidden - golden["hidden1_fit"]).abs().max() <= 1e-4
    assert (probability - golden["prob_fit"]).abs().max() <= 1e-3


def test_order_of_the_published_vector() -> None:
    state = weights("mlp3d_fit")
    config = FieldConfig()
    assert next(iter(state)) == "layers.0.bias"  # files list names by the alphabet
    assert torch.equal(flatten(config, state), tensors("flatten")["flat"])
    at = 0
    for (name, shape), (expected, dims, begin, end) in zip(
        layout(config), facts()["flatten_order"], strict=True
    ):
        assert (name, list(shape), at) == (expected, dims, begin)
        at += shape.numel()
        assert at == end
    assert sum(token_sizes(FieldConfig(4))) == 37_889


def test_unflatten_is_the_inverse() -> None:
    config, vector = field("mlp4d_fit")
    back = unflatten(config, vector)
    state = weights("mlp4d_fit")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    OccupancyField(config).load_state_dict(back, strict=True)


def test_many_fields_at_once_are_each_alone() -> None:
    config = FieldConfig(3, 2, (16, 8))
    generator = torch.Generator().manual_seed(0)
    size = sum(token_sizes(config))
    vectors = torch.randn(5, size, generator=generator, dtype=torch.float64)
    points = torch.rand(5, 30, 3, generator=generator, dtype=torch.float64) - 0.5
    found = evaluate(config, vectors, points)
    shared = evaluate(config, vectors, points[0])
    for number, vector in enumerate(vectors):
        alone = OccupancyField(config).double()
        alone.load_state_dict(unflatten(config, vector))
        with torch.no_grad():
            assert torch.allclose(found[number], alone(points[number])[:, 0], atol=1e-10)
            assert torch.allclose(shared[number], alone(points[0])[:, 0], atol=1e-10)
    assert not torch.allclose(found[0], found[1])


def test_a_cycle_is_told_by_its_phase() -> None:
    config = FieldConfig(4, 2, (16, 8), period=16)
    assert config.encoded == 3 * 5 + 2 * 3  # of 16 frames one, two and four turns are told
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1, sum(token_sizes(config)), generator=generator, dtype=torch.float64)
    place = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    frames = torch.arange(33, dtype=torch.float64)[:, None]
    told = encode(torch.cat([place.expand(33, 3), frames], dim=1), 2, 16)
    still, turning = told[:, :15], told[:, 15:]
    assert torch.equal(still, encode(place.expand(33, 3), 2))
    assert torch.allclose(turning[:17], turning[16:], atol=1e-12)
    assert turning.square().sum(dim=1).allclose(torch.tensor(3.0, dtype=torch.float64))
    # No frame is told as another one is, and neighbours differ least.
    apart = torch.cdist(turning[:16], turning[:16])
    assert (apart + torch.eye(16) > 0.9).all()
    assert torch.allclose(apart[0, 1], apart[0][1:].min())
    logits = evaluate(config, vectors, torch.cat([place.expand(33, 3), frames], dim=1))[0]
    assert torch.allclose(logits[:17], logits[16:], atol=1e-9)
    assert logits[:16].std() > 1e-3


@pytest.mark.parametrize("period", [1, 2, 3, 4, 5, 8, 15, 16, 64])
def test_neighbouring_frames_turn_by_less_than_a_half(period: int) -> None:
    octaves = phase_octaves(period)
    turns = [2**octave / period for octave in range(octaves + 1)]
    assert all(turn < 0.5 for turn in turns[:-1])
    assert turns[-1] >= 0.5


def test_fitting_steps_of_the_published_code() -> None:
    """Twelve steps of Adam over the vectors of two equal fields, which stay equal."""
    golden = tensors("overfit_steps")
    config, start = field("mlp3d_rand")
    vectors = start.repeat(2, 1).requires_grad_()
    adam = torch.optim.Adam([vectors], lr=1e-2)
    for step in range(12):
        inside = golden["occ"][step, :, 0].float().expand(2, -1)
        logits = evaluate(config, vectors, golden["coords"][step])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, inside, reduction="none"
        ).sum(dim=1)
        adam.zero_grad()
        loss.sum().backward()
        if not step:
            assert vectors.grad is not None
            difference = vectors.grad[0] - golden["grad_step0"]
            assert difference.abs().max() <= 1e-4 * golden["grad_step0"].abs().max()
        adam.step()
        limit = 1e-4 if step < 3 else 2e-2
        assert loss[0].item() == pytest.approx(golden["loss"][step].item(), rel=limit)
    final = vectors.detach()
    assert (final[0] - golden["flat_final"]).abs().mean() < 1e-3
    assert torch.allclose(final[0], final[1], atol=1e-6)


@pytest.mark.parametrize(
    "config", [FieldConfig(), FieldConfig(4), FieldConfig(3, 0, (4,)), FieldConfig(4, 1, (8, 8))]
)
def test_a_field_is_told_from_its_weights(config: FieldConfig) -> None:
    assert field_of(OccupancyField(config).state_dict()) == config


def test_other_weights_are_refused() -> None:
    state = OccupancyField(FieldConfig()).state_dict()
    with pytest.raises(BadInput, match=r"layers\.3\.bias"):
        flatten(FieldConfig(), {k: v for k, v in state.items() if k != "layers.3.bias"})
    with pytest.raises(BadInput, match=r"layers\.0\.weight is \(128, 27\)"):
        flatten(FieldConfig(4), state)
    with pytest.raises(BadInput, match="10 weights"):
        unflatten(FieldConfig(), torch.zeros(10))
    with pytest.raises(BadInput, match="no weights of a field"):
        field_of({"conv.weight": torch.zeros(3, 3)})
    with pytest.raises(BadInput, match="as 26 numbers"):
        field_of({**state, "layers.0.weight": torch.zeros(128, 26)})
    with pytest.raises(ValueError, match="expected 3 or 4"):
        FieldConfig(2)
    with pytest.raises(ValueError, match="7 weights"):
        evaluate(FieldConfig(), torch.zeros(1, 7), torch.zeros(1, 3))
