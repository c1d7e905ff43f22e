"""Published checkpoints into model folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils
from diffusers.models.attention_processor import Attention

from backend import conversion, weights
from backend.checkpoints import Checkpoint
from backend.errors import BadInput
from backend.models.mvdream import checkpoint, loading
from backend.models.mvdream.config import TextConfig
from backend.models.mvdream.model import MVDream
from backend.sampling import Diffusion, scaled_linear_betas
from tests import mvdream_models

Tensors = dict[str, torch.Tensor]


def _extras(small: MVDream, last: float) -> Tensors:
    """What published files hold besides the weights that are used."""
    betas = torch.from_numpy(scaled_linear_betas(last=last)).float()
    text = "cond_stage_model.model."
    unused = f"{text}transformer.resblocks.{small.config.text.depth}."
    return {
        "betas": betas,
        "alphas_cumprod": torch.cumprod(1 - betas, 0),
        "model_ema.decay": torch.tensor(0.9999),
        "clip_model.logit_scale": torch.tensor(4.6),
        "first_stage_model.loss.logvar": torch.zeros(()),
        text + "logit_scale": torch.tensor(4.6),
        text + "text_projection": torch.zeros(32, 32),
        unused + "ln_1.weight": torch.ones(32),
        unused + "attn.in_proj_weight": torch.ones(96, 32),
    }


def _mvdream(small: MVDream, last: float = 0.012) -> Tensors:
    return {**small.published_state_dict(), **_extras(small, last)}


def _wala(small: MVDream) -> Tensors:
    inner = {"model." + name: tensor for name, tensor in _mvdream(small, last=0.02).items()}
    beside = {"cond_stage_model.model.ln_final.bias": torch.full((32,), 7.0)}
    return {**inner, **beside, "clip_model.visual.proj": torch.zeros(3, 3)}


def _file(tmp_path: Path, tensors: Tensors, lightning: bool = True) -> Checkpoint:
    path = tmp_path / "checkpoint.ckpt"
    whole = {"state_dict": tensors, "epoch": 3, "optimizer_states": [{"state": {}}]}
    torch.save(whole if lightning else tensors, path)
    return Checkpoint(path)


def _contents(opened: Checkpoint, small: MVDream, **wishes: Any):
    entry = weights.entries()["mvdream-depth6"]
    return checkpoint.contents(opened, entry, config=small.config, **wishes)


@pytest.mark.parametrize("kind", ["wala", "mvdream"])
def test_a_checkpoint_becomes_a_model(tmp_path: Path, small: MVDream, kind: str) -> None:
    wala = kind == "wala"
    tensors = _wala(small) if wala else _mvdream(small)
    opened = _file(tmp_path, tensors, lightning=wala)
    config, found = _contents(opened, small)
    assert config.diffusion.last == (0.02 if wala else 0.012)
    assert dataclasses.replace(config, diffusion=small.config.diffusion) == small.config
    changes = {"config": config.to_dict(), "tensors": found}
    installed = mvdream_models.write(tmp_path, small, "text", **changes)
    model = loading.load(installed, torch.device("cpu"), torch.float32)
    assert model.config == config
    assert not model.training
    own = model.state_dict()
    assert own.keys() == small.state_dict().keys()
    for name, tensor in small.state_dict().items():
        assert torch.equal(own[name], tensor), name
    assert not any(weight.requires_grad for weight in model.parameters())


def test_a_checkpoint_becomes_a_model_of_the_registry(
    tmp_path: Path, small: MVDream, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = _file(tmp_path, _wala(small))
    monkeypatch.setattr(checkpoint, "config_of", lambda _entry: small.config)
    installed = conversion.convert(
        opened.path, model_id="mvdream-depth6", store=tmp_path, dtype="bfloat16"
    )
    assert installed.needs == ("wala-views-depth6-1b",)
    assert installed.cameras == (3, 6, 10, 26, 49, 50)
    assert (installed.family, installed.views, installed.view_kind) == ("mvdream", 6, "depth")
    model = loading.load(installed, torch.device("cpu"), torch.float32)
    for name, tensor in small.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.bfloat16().float()), name


def test_half_precision(tmp_path: Path, small: MVDream) -> None:
    _, found = _contents(_file(tmp_path, _wala(small)), small, dtype="F16")
    assert {tensor.info.dtype for tensor in found.values()} == {"F16"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", r"missing: model\.diffusion_model\.out\.2\.bias"),
        ("unexpected", r"unexpected: model\.diffusion_model\.extra"),
        ("shape", r"of another shape: model\.diffusion_model\.out\.2\.bias \(5,\)"),
        ("no views", "not one of MVDream"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, small: MVDream, change: str, said: str) -> None:
    tensors = _wala(small)
    prefix = "model.model.diffusion_model."
    if change == "missing":
        del tensors[prefix + "out.2.bias"]
    elif change == "unexpected":
        tensors[prefix + "extra"] = torch.zeros(1)
    elif change == "shape":
        tensors[prefix + "out.2.bias"] = torch.zeros(5)
    else:
        tensors = {name: t for name, t in tensors.items() if not name.startswith(prefix)}
    with pytest.raises(BadInput, match=said) as raised:
        _contents(_file(tmp_path, tensors), small)
    assert "checkpoint.ckpt" in raised.value.remedy


def test_what_a_person_knows_to_be_unneeded_is_left_out(tmp_path: Path, small: MVDream) -> None:
    tensors = _wala(small) | {"model.model.diffusion_model.adapter.0.weight": torch.zeros(2)}
    opened = _file(tmp_path, tensors)
    with pytest.raises(BadInput, match="adapter"):
        _contents(opened, small)
    _, found = _contents(opened, small, ignore=["*.adapter.*"])
    assert found.keys() == small.published_state_dict().keys()


def test_another_noise_schedule_is_refused(tmp_path: Path, small: MVDream) -> None:
    tensors = _mvdream(small)
    tensors["betas"] = torch.linspace(0.0001, 0.02, 1000)
    with pytest.raises(BadInput, match="noise schedule"):
        _contents(_file(tmp_path, tensors), small)


def test_the_schedule_of_the_file_counts(small: MVDream) -> None:
    betas = Diffusion("scaled_linear", 500, first=0.001, last=0.03).betas()
    found = checkpoint.with_schedule(small.config, betas.astype(np.float32)).diffusion
    assert (found.steps, found.first, found.last) == (500, 0.001, 0.03)
    assert found.prediction is small.config.diffusion.prediction


@pytest.mark.parametrize(("name", "views"), [("mvdream-depth6", 6), ("mvdream-rgb4", 4)])
def test_the_registry_says_what_a_checkpoint_does_not(name: str, views: int) -> None:
    config = checkpoint.config_of(weights.entries()[name])
    assert len(config.views) == views
    assert (config.steps, config.guidance, config.suffix) == (50, 10, ", 3d asset")
    assert config.spacing == "trailing"
    assert config.diffusion.last == 0.02
    assert config.unet.widths == (320, 640, 1280, 1280)
    assert config.autoencoder.factor == 8


def test_the_first_mvdream_has_a_ring_of_its_own(small: MVDream) -> None:
    entry = weights.entries()["mvdream-sd21"]
    config = checkpoint.config_of(entry)
    assert config.views == ((90.0, 15.0), (180.0, 15.0), (270.0, 15.0), (0.0, 15.0))
    assert (config.steps, config.guidance, config.spacing) == (50, 10, "leading")
    assert config.diffusion.last == 0.012
    assert config.unet.widths == (320, 640, 1280, 1280)
    assert (entry.tasks, entry.needs) == (("text-to-views",), ())


def test_the_first_mvdream_becomes_a_model(
    tmp_path: Path, small: MVDream, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = _file(tmp_path, _mvdream(small), lightning=False)
    monkeypatch.setattr(checkpoint, "config_of", lambda _entry: small.config)
    installed = conversion.convert(opened.path, model_id="mvdream-sd21", store=tmp_path)
    assert (installed.family, installed.views, installed.cameras) == ("mvdream", 4, ())
    assert installed.config["diffusion"]["last"] == 0.012
    model = loading.load(installed, torch.device("cpu"), torch.float32)
    for name, tensor in small.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


# ---------------------------------------------------------------- on Stable Diffusion 1.5


@pytest.fixture(scope="module")
def small_sd15() -> MVDream:
    config = mvdream_models.config_for()
    return mvdream_models.make_model(
        dataclasses.replace(
            config,
            unet=dataclasses.replace(config.unet, heads=4, linear=False),
            text=TextConfig(width=32, depth=2, heads=2, tower="clip"),
        )
    )


def _published_sd15(small_sd15: MVDream) -> Tensors:
    """As latent diffusion names it: CLIP with the names of transformers, places counted."""
    places = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    return {**small_sd15.published_state_dict(), places: torch.arange(77)[None]}


def test_mvdream_on_stable_diffusion_1_becomes_a_model(
    tmp_path: Path, small_sd15: MVDream, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = _file(tmp_path, _published_sd15(small_sd15), lightning=False)
    monkeypatch.setattr(checkpoint, "config_of", lambda _entry: small_sd15.config)
    installed = conversion.convert(opened.path, model_id="mvdream-sd15", store=tmp_path)
    assert (installed.family, installed.views, installed.tasks) == (
        "mvdream",
        4,
        ("text-to-views",),
    )
    model = loading.load(installed, torch.device("cpu"), torch.float32)
    assert model.config == small_sd15.config
    for name, tensor in small_sd15.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_networks_of_stable_diffusion_1_are_those_that_diffusers_reads(
    small_sd15: MVDream,
) -> None:
    weights_of = _published_sd15(small_sd15)
    config = {"layers_per_block": small_sd15.config.unet.blocks}
    unet = single_file_utils.convert_ldm_unet_checkpoint(dict(weights_of), config)
    own = small_sd15.unet.state_dict()
    assert {name for name in own if "class_embedding" not in name} == unet.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in unet.items())
    assert own["down_blocks.0.attentions.0.proj_in.weight"].shape == (32, 32, 1, 1)
    heads = {m.heads for m in small_sd15.unet.modules() if isinstance(m, Attention)}
    assert heads == {4}
    text = single_file_utils.convert_ldm_clip_checkpoint(dict(weights_of))
    found = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    found.pop("embeddings.position_ids", None)
    own = small_sd15.text_encoder.state_dict()
    assert own.keys() == found.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in found.items())


def test_the_registry_says_that_a_model_is_of_stable_diffusion_1() -> None:
    config = checkpoint.config_of(weights.entries()["mvdream-sd15"])
    with torch.device("meta"):
        published = MVDream(config).published_state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    unet = "model.diffusion_model."
    assert shapes[unet + "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight"] == (1280, 768)
    assert shapes[unet + "input_blocks.1.1.proj_in.weight"] == (320, 320, 1, 1)
    assert shapes[unet + "camera_embed.0.weight"] == (1280, 16)
    text = "cond_stage_model.transformer.text_model."
    assert shapes[text + "encoder.layers.11.self_attn.q_proj.weight"] == (768, 768)
    assert text + "encoder.layers.12.self_attn.q_proj.weight" not in shapes
    assert config.unet.heads_of_levels == (8, 8, 8, 8)
    count = sum(tensor.numel() for name, tensor in published.items() if name.startswith(text))
    assert count / 1e6 == pytest.approx(123.06, abs=0.01)  # CLIP ViT-L/14's, without its head
    assert config.views == checkpoint.config_of(weights.entries()["mvdream-sd21"]).views
    assert checkpoint.MVDreamConfig.from_dict(config.to_dict()) == config


def test_texts_of_stable_diffusion_1_are_filled_up_with_ends(small_sd15: MVDream) -> None:
    seen = []
    small_sd15.text_encoder.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"][0].tolist()), with_kwargs=True
    )
    assert small_sd15.encode("a chair").shape == (1, 77, 32)
    assert seen[0] == [49406, 320, 4269] + [49407] * 74
    activation = small_sd15.text_encoder.config.hidden_act
    assert activation == "quick_gelu"
