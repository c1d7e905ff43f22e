"""The networks against recordings of the published code, and names against diffusers' own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils
from torch import nn

from backend import sampling
from backend.models.mvdream import names, networks
from backend.models.mvdream.config import MVDreamConfig, TextConfig, UNetConfig
from backend.models.mvdream.model import MVDream
from backend.protocol import VIEW_CAMERAS, camera_poses, view_poses
from backend.sampling import Diffusion

Arrays = dict[str, torch.Tensor]
Golden = Callable[[str], Arrays]
RECORDED = UNetConfig(32, (1, 1), (True, True), 1, 16, 24)
RECORDED_WITHOUT_CAMERAS = UNetConfig(32, (1, 1), (True, True), 1, 16, 24, cameras=False)


def _recorded_unet(config: UNetConfig, golden: Golden) -> nn.Module:
    network = networks.unet(config)
    places = names.unet_places(config, network.state_dict())
    prefix = "model.diffusion_model."
    weights = {prefix + name: tensor for name, tensor in golden("tiny_unet_weights").items()}
    used = {place.name for place in places.values()}
    rest = {name for name in weights if "camera_embed" in name}
    assert used == (set(weights) if config.cameras else set(weights) - rest)
    own = {name: place.read(weights[place.name]) for name, place in places.items()}
    network.load_state_dict(own, strict=True)
    return network.eval().requires_grad_(False)


def _assert_near(found: torch.Tensor, expected: torch.Tensor, share: float) -> None:
    """Off by no more than this share of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= share * expected.abs().max()


# --------------------------------------------------------------------------------- recordings


def test_unet_with_cameras(golden: Golden) -> None:
    arrays = golden("tiny_unet")
    found = _recorded_unet(RECORDED, golden)(
        arrays["latents"],
        arrays["timestep"],
        arrays["context"],
        class_labels=arrays["camera"],
        cross_attention_kwargs={"frames": 6},
    ).sample
    _assert_near(found, arrays["eps"], 1e-4)


def test_unet_of_single_pictures(golden: Golden) -> None:
    arrays = golden("tiny_unet")
    network = _recorded_unet(RECORDED_WITHOUT_CAMERAS, golden)
    found = network(arrays["latents"], arrays["timestep"], arrays["context"]).sample
    _assert_near(found, arrays["eps_single_frame_no_camera"], 1e-4)


def test_sampling_with_guidance(golden: Golden) -> None:
    arrays = golden("ddim_trailing")
    network = _recorded_unet(RECORDED, golden)
    cameras = arrays["camera"].repeat(2, 1)

    def model(x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        frames = {"frames": 6}
        return network(
            x, timesteps, context, class_labels=cameras, cross_attention_kwargs=frames
        ).sample

    diffusion = Diffusion("scaled_linear", last=0.02)
    denoise = sampling.guided(model, arrays["context"], arrays["uncond_context"], 10)
    steps = diffusion.spaced(10, "trailing")
    taken = list(sampling.ddim(denoise, steps, arrays["latents"], final=1 - diffusion.betas()[0]))
    for step, inputs in zip(taken, arrays["model_inputs"], strict=True):
        _assert_near(step.x.repeat(2, 1, 1, 1), inputs, 5e-4)
    _assert_near(taken[-1].sample, arrays["final_latents"], 5e-4)


def test_text_tower_without_its_last_layer(golden: Golden) -> None:
    arrays = golden("text_tower")
    config = TextConfig(vocabulary=100, length=12, width=32, depth=2, heads=2)
    network = networks.text_encoder(config)
    places = names.text_places(config, network.state_dict())
    prefix = "cond_stage_model.model."
    own = {
        name: place.read(arrays["w." + place.name.removeprefix(prefix)])
        for name, place in places.items()
    }
    network.load_state_dict(own, strict=True)
    found = network.eval()(input_ids=arrays["tokens"]).last_hidden_state
    _assert_near(found, arrays["penultimate"], 1e-5)


def test_cameras(golden: Golden) -> None:
    arrays = {name: array.numpy() for name, array in golden("cameras").items()}
    for name, poses in (
        ("c2w_views", view_poses([3, 6, 10, 26, 49, 50], "z")),
        ("c2w_default4", camera_poses([(90 * k, 15) for k in range(1, 5)], "z")),
        ("c2w_opengl", camera_poses([(45 + 90 * k, 20) for k in range(3)], "y")),
    ):
        expected = arrays[name].reshape(-1, 4, 4)
        np.testing.assert_allclose(poses, expected, atol=1e-5, err_msg=name)


# --------------------------------------------------------------------------------------- names


@pytest.fixture(scope="module")
def published_size() -> MVDream:
    views = tuple(VIEW_CAMERAS[index] for index in (3, 6, 10, 26, 49, 50))
    with torch.device("meta"):
        return MVDream(MVDreamConfig(views))


def _is_any(published: Arrays) -> Arrays:
    """Every tensor with values of its own, so that it is known again."""
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(t.shape, generator=generator) for name, t in published.items()}


def test_sizes_are_those_of_stable_diffusion(published_size: MVDream) -> None:
    def millions(network: nn.Module) -> float:
        return sum(weight.numel() for weight in network.parameters()) / 1e6

    cameras = published_size.unet.class_embedding
    assert millions(published_size.unet) - millions(cameras) == pytest.approx(865.91, abs=0.01)
    assert millions(cameras) == pytest.approx((17 * 1280 + 1281 * 1280) / 1e6)
    assert millions(published_size.text_encoder) == pytest.approx(340.39, abs=0.01)
    assert millions(published_size.autoencoder) == pytest.approx(83.65, abs=0.01)


def test_names_at_the_published_size(published_size: MVDream) -> None:
    """A sample of names that every checkpoint of Stable Diffusion 2.1 has."""
    shapes = {name: tuple(t.shape) for name, t in published_size.published_state_dict().items()}
    unet = "model.diffusion_model."
    assert shapes[unet + "camera_embed.0.weight"] == (1280, 16)
    assert shapes[unet + "input_blocks.0.0.weight"] == (320, 4, 3, 3)
    attention = "transformer_blocks.0.attn2.to_k.weight"
    assert shapes[f"{unet}input_blocks.8.1.{attention}"] == (1280, 1024)
    assert f"{unet}input_blocks.9.0.op.bias" in shapes
    assert f"{unet}input_blocks.10.1.{attention}" not in shapes
    assert shapes[unet + "output_blocks.2.1.conv.weight"] == (1280, 1280, 3, 3)
    assert shapes[unet + "output_blocks.5.2.conv.weight"] == (1280, 1280, 3, 3)
    assert shapes[f"{unet}output_blocks.11.1.{attention}"] == (320, 1024)
    assert shapes[unet + "out.2.weight"] == (4, 320, 3, 3)
    text = "cond_stage_model.model."
    assert shapes[text + "positional_embedding"] == (77, 1024)
    assert shapes[text + "transformer.resblocks.22.attn.in_proj_weight"] == (3072, 1024)
    pictures = "first_stage_model."
    assert shapes[pictures + "decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert shapes[pictures + "decoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
    assert shapes[pictures + "encoder.down.2.downsample.conv.weight"] == (512, 512, 3, 3)


def test_unet_names_are_those_that_diffusers_reads(small: MVDream) -> None:
    weights = _is_any(small.published_state_dict())
    config = {"layers_per_block": small.config.unet.blocks}
    converted = single_file_utils.convert_ldm_unet_checkpoint(weights, config)
    small_copy = MVDream(small.config)
    small_copy.take_published(weights)
    own = small_copy.unet.state_dict()
    assert {name for name in own if "class_embedding" not in name} == converted.keys()
    for name, tensor in converted.items():
        assert torch.equal(own[name], tensor), name


def test_autoencoder_names_are_those_that_diffusers_reads(small: MVDream) -> None:
    weights = _is_any(small.published_state_dict())
    config = {"down_block_types": [""] * 2, "up_block_types": [""] * 2}
    converted = single_file_utils.convert_ldm_vae_checkpoint(weights, config)
    small_copy = MVDream(small.config)
    small_copy.take_published(weights)
    own = small_copy.autoencoder.state_dict()
    assert own.keys() == converted.keys()
    for name, tensor in converted.items():
        assert torch.equal(own[name], tensor), name


def test_text_names_are_those_that_diffusers_reads(small: MVDream) -> None:
    weights = _is_any(small.published_state_dict())
    found = single_file_utils.convert_open_clip_checkpoint(small.text_encoder, weights)
    # transformers has dropped this part of its names since.
    converted = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    small_copy = MVDream(small.config)
    small_copy.take_published(weights)
    own = small_copy.text_encoder.state_dict()
    assert own.keys() == converted.keys()
    for name, tensor in converted.items():
        assert torch.equal(own[name], tensor), name


def test_the_way_there_and_back_changes_nothing(small: MVDream) -> None:
    weights = _is_any(small.published_state_dict())
    small_copy = MVDream(small.config)
    small_copy.take_published(weights)
    back = small_copy.published_state_dict()
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(back[name], tensor), name


def test_tensors_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="three in one"):
        names.Place("a", third=1).read(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="1 x 1"):
        names.Place("a", pixelwise=True).read(torch.zeros(4, 4, 3, 3))
