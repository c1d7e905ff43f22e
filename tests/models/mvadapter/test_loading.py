"""MV-Adapter from files: every weight, and no others; and cameras that stand in for its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backend import weights
from backend.errors import BadInput, NotInstalled
from backend.geometry.view_fusion import projections
from backend.models.mvadapter import attention, cameras, loading
from backend.models.mvadapter.config import AZIMUTHS, MVAdapterConfig
from backend.models.mvadapter.model import first_noise
from tests import mvadapter_models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDFORGE_WEIGHTS", str(folder / "store"))
        mvadapter_models.write_base(folder / "store", folder / "parts")
        mvadapter_models.write(folder / "store", "six-views", reads_pictures=True)
    return folder / "store"


@pytest.fixture(autouse=True)
def store(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(written))
    return written


def test_the_weights_of_the_file_are_those_of_the_layers() -> None:
    installed = weights.require("six-views")
    model = loading.load(installed, CPU, torch.float16)
    expected = mvadapter_models.tensors_for(weights.require(mvadapter_models.BASE), True)
    own = {**model.unet.state_dict(), **model.encoder.state_dict()}
    for name, one in expected.items():
        torch.testing.assert_close(own[name].float(), one, atol=1e-3, rtol=1e-2)
    assert {one.dtype for one in model.encoder.parameters()} == {torch.float32}
    assert {one.dtype for one in model.unet.parameters()} == {torch.float16}
    assert not any(one.requires_grad for one in model.unet.parameters())
    assert model.latent_shape() == (6, 4, 8, 8)
    assert first_noise(model, 3).shape == (6, 4, 8, 8)


@pytest.mark.parametrize("wrong", ["missing", "unexpected", "of another shape"])
def test_a_file_that_does_not_fit_is_refused(store: Path, wrong: str) -> None:
    tensors = mvadapter_models.tensors_for(weights.require(mvadapter_models.BASE), True)
    name = next(name for name in tensors if name.endswith("to_q_ref.weight"))
    if wrong == "missing":
        del tensors[name]
    elif wrong == "unexpected":
        tensors["down_blocks.9.to_q_mv.weight"] = torch.zeros(2, 2)
    else:
        tensors[name] = torch.zeros(3, 3)
    installed = mvadapter_models.write(store, "wrong", reads_pictures=True, tensors=tensors)
    with pytest.raises(BadInput, match=wrong) as caught:
        loading.load(installed, CPU, torch.float32)
    assert caught.value.remedy


def test_a_file_for_words_is_none_for_pictures(store: Path) -> None:
    tensors = mvadapter_models.tensors_for(weights.require(mvadapter_models.BASE), False)
    installed = mvadapter_models.write(store, "wrong", reads_pictures=True, tensors=tensors)
    with pytest.raises(BadInput, match="to_k_ref"):
        loading.load(installed, CPU, torch.float32)


def test_without_its_stable_diffusion_there_is_nothing(store: Path) -> None:
    tensors = mvadapter_models.tensors_for(weights.require(mvadapter_models.BASE), True)
    needs = ("stable-diffusion-2-1-base",)
    alone = mvadapter_models.write(store, "alone", True, tensors=tensors, needs=needs)
    with pytest.raises(NotInstalled, match="Stable Diffusion"):
        loading.load(alone, CPU, torch.float32)
    of_none = mvadapter_models.write(store, "alone", True, tensors=tensors, needs=())
    with pytest.raises(BadInput, match="Stable Diffusion"):
        loading.load(of_none, CPU, torch.float32)


@pytest.mark.parametrize(
    "config",
    [{"side": 60}, {"azimuths": [0, 360]}, {"azimuths": []}, {"frame": 0}, {"unknown": 1}],
)
def test_a_description_that_is_none_is_refused(store: Path, config: dict) -> None:
    tensors = {"a": torch.zeros(1)}
    if config == {"side": 60}:
        tensors = mvadapter_models.tensors_for(weights.require(mvadapter_models.BASE), True)
    changed = {"config": {**mvadapter_models.CONFIG, **config}, "tensors": tensors}
    installed = mvadapter_models.write(store, "wrong", reads_pictures=True, **changed)
    with pytest.raises(BadInput):
        loading.load(installed, CPU, torch.float32)


def test_settings_survive_json() -> None:
    config = MVAdapterConfig(azimuths=(0.0, 90.0), side=64, reads_pictures=False)
    assert MVAdapterConfig.from_dict(config.to_dict()) == config
    assert MVAdapterConfig.from_dict({}).azimuths == AZIMUTHS


def test_stand_ins_see_what_cameras_without_perspective_see() -> None:
    """Within two pixels of 512, anywhere in the cube of the thing."""
    side, frame, extent, center = 512, 1.1, 3.0, np.array([1.0, -2.0, 0.5])
    poses, lenses = cameras.stand_ins(AZIMUTHS, frame, side, center, extent)
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 3)
    for pose, lens, azimuth in zip(poses, lenses, np.radians(AZIMUTHS), strict=True):
        matrix = projections(pose[None], lens[None])[0]
        column, row, depth = matrix[:, :3] @ (corners * extent + center).T + matrix[:, 3:]
        right = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        expected = np.stack([corners @ right, -corners[:, 2]]) * side / frame + (side - 1) / 2
        assert np.abs(np.stack([column, row]) / depth - expected).max() < 1.7


@pytest.mark.parametrize("name", ["mv-adapter-image", "mv-adapter-text"])
def test_names_and_size_of_the_published_file(name: str) -> None:
    """Of the networks at their size: a name and shape as users of the file report it, and the bytes
    of the registry, which are those of float32."""
    from diffusers import UNet2DConditionModel

    entry = weights.entries()[name]
    reads_pictures = MVAdapterConfig.from_dict(entry.arguments).reads_pictures
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=(5, 10, 20, 20),
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
        attention.add_to(unet, reads_pictures)
        encoder = loading.camera_encoder(unet)
    own = {name: one for name, one in unet.state_dict().items() if attention.is_new(name)}
    place = "up_blocks.1.attentions.2.transformer_blocks.0.attn1.processor"
    assert own[f"{place}.to_out_mv.0.weight"].shape == (1280, 1280)
    assert (f"{place}.to_out_ref.0.bias" in own) == reads_pictures
    values = sum(one.numel() for one in (*own.values(), *encoder.state_dict().values()))
    assert abs(4 * values / entry.bytes - 1) < 0.01
