"""Folders of models: older names, parts that are missing or do not fit, and what is not run."""

import gzip
import json
import types

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend import weights
from backend.errors import BadInput
from backend.models.ldm3d import loading, words
from backend.models.ldm3d.config import Ldm3dConfig
from backend.models.ldm3d.loading import config_of, load, sizes_of
from backend.models.ldm3d.model import first_noise
from tests import ldm3d_models

CPU = torch.device("cpu")


def fresh(parts, folder):
    """A copy of the files that a test may change."""
    found = {}
    for name, path in parts.items():
        found[name] = folder / name
        found[name].parent.mkdir(parents=True, exist_ok=True)
        found[name].write_bytes(path.read_bytes())
    return found


def refused(store, parts, words, **changes):
    installed = ldm3d_models.write(store, parts, **changes)
    with pytest.raises(BadInput, match=words) as caught:
        load(installed, CPU, torch.float32)
    assert caught.value.remedy
    return caught.value


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_names_of_older_versions_are_understood(parts, models, store, tmp_path):
    """Attention as query, key, value and proj_attn, made of convolutions, and text_model. before
    the names of the words; position_ids were stored then."""
    own = fresh(parts[4], tmp_path / "parts")
    vae = load_file(own["vae/diffusion_pytorch_model.safetensors"])
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in vae.items():
        for new, old in older.items():
            if f".{new}." in name:
                name = name.replace(new, old)
                tensor = tensor[..., None, None] if name.endswith("weight") else tensor
        renamed[name] = tensor.contiguous()
    assert renamed.keys() != vae.keys()
    save_file(renamed, own["vae/diffusion_pytorch_model.safetensors"])
    path = own["text_encoder/model.safetensors"]
    words = {"text_model." + n: t for n, t in load_file(path).items()}
    words["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    save_file(words, path)
    model = load(ldm3d_models.write(store, own), CPU, torch.float32)
    noise = first_noise(model, 64, 64, 0)
    for name, mine in (("vae", model.vae), ("text_encoder", model.text_encoder)):
        for key, tensor in getattr(models[4], name).state_dict().items():
            assert torch.equal(mine.state_dict()[key], tensor), key
    assert torch.equal(model.encode("a b"), models[4].encode("a b"))
    assert (model.decode(noise)[0] == models[4].decode(noise)[0]).all()


@pytest.mark.parametrize(
    "missing",
    [
        *("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json"),
        *("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"),
        *("text_encoder/config.json", "tokenizer/vocab.json", "scheduler/scheduler_config.json"),
    ],
)
def test_a_part_that_is_missing_is_named(parts, store, missing):
    own = {name: path for name, path in parts[4].items() if name != missing}
    error = refused(store, own, missing.partition("/")[0])
    assert "small-rooms" in error.cause


def test_a_tensor_that_is_missing_is_named(parts, store, tmp_path):
    own = fresh(parts[4], tmp_path / "parts")
    path = own["unet/diffusion_pytorch_model.safetensors"]
    tensors = load_file(path)
    tensors["conv_inn.weight"] = tensors.pop("conv_in.weight")
    save_file(tensors, path)
    error = refused(store, own, "missing: conv_in.weight")
    assert "unexpected: conv_inn.weight" in error.cause


@pytest.mark.parametrize(("channels", "given"), [(3, 3), (4, 6), (5, 5)])
def test_an_autoencoder_without_depth(store, tmp_path, channels, given):
    own = ldm3d_models.parts_of(tmp_path, vae={"in_channels": channels, "out_channels": given})
    refused(store, own, f"takes {channels} channels and gives {given}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unet": {"in_channels": 8}}, "channels that come back: 4 and 8"),
        ({"vae": {"latent_channels": 8}}, "channels of latents: 4 and 8"),
        ({"unet": {"cross_attention_dim": 24}}, "width of words: 24 and 16"),
        ({"text_encoder": {"vocab_size": 20}}, "words: 48 and 20"),
        ({"vae": {"block_out_channels": (8,) * 8, "down_block_types": ("DownEncoderBlock2D",) * 8,
                  "up_block_types": ("UpDecoderBlock2D",) * 8}}, "in cells of 128"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_together(store, tmp_path, changes, words):
    refused(store, ldm3d_models.parts_of(tmp_path, **changes), words)


def test_a_scheduler_that_is_not_known_is_not_made(parts, store, tmp_path):
    own = fresh(parts[4], tmp_path / "parts")
    change_json(own["scheduler/scheduler_config.json"], _class_name="DiffusionPipeline")
    refused(store, own, "its scheduler 'DiffusionPipeline' is not one of")


def test_settings_that_are_no_settings(parts, store, tmp_path):
    own = fresh(parts[4], tmp_path / "parts")
    own["unet/config.json"].write_text("[1, 2")
    refused(store, own, "unet/config.json")
    own["unet/config.json"].write_text("[1, 2]")
    refused(store, own, "holds no settings")
    change_json(own["vae/config.json"], block_out_channels="wide")
    own["unet/config.json"].write_bytes(parts[4]["unet/config.json"].read_bytes())
    refused(store, own, "vae: ")


def test_a_vocabulary_that_is_none(parts, store, tmp_path):
    own = fresh(parts[4], tmp_path / "parts")
    own["tokenizer/vocab.json"].write_text("[]")
    refused(store, own, "tokenizer")


def _added(content):
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": True,
            "rstrip": False, "single_word": False}  # fmt: skip


def test_a_tokeniser_as_it_was_published_reads_as_clip_does(tmp_path):
    """The files and the form of those beside Stable Diffusion 1.4, with all of CLIP's words."""
    from backend.models.mvdream import tokenizer as clip

    folder = tmp_path / "tokenizer"
    folder.mkdir()
    with gzip.open(clip.MERGES, "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file]
    vocabulary = clip._vocabulary(merges)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = "\n".join(["#version: 0.2", *map(" ".join, merges), ""])
    (folder / "merges.txt").write_text(lines, encoding="utf-8")
    start, end = _added("<|startoftext|>"), _added("<|endoftext|>")
    settings = {"bos_token": start, "eos_token": end, "unk_token": end, "errors": "replace",
                "pad_token": "<|endoftext|>", "model_max_length": 77, "do_lower_case": True,
                "add_prefix_space": False, "tokenizer_class": "CLIPTokenizer",
                "name_or_path": "openai/clip-vit-large-patch14",
                "special_tokens_map_file": "./special_tokens_map.json"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    named = {"bos_token": start, "eos_token": end, "unk_token": end}
    plain = {
        name: {key: value for key, value in token.items() if key != "__type"}
        for name, token in named.items()
    }
    special = {**plain, "pad_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    tokenizer = loading.tokenizer_of(types.SimpleNamespace(folder=tmp_path, id="x"))
    assert (len(tokenizer), tokenizer.model_max_length) == (49408, 77)
    read = words.read(tokenizer, "a photo of a cat", 77)
    wanted = [49406, 320, 1125, 539, 320, 2368, 49407]
    assert read.numbers[0].tolist() == wanted + [49407] * 70
    assert read.cut == ""
    long = words.read(tokenizer, "chair " * 75 + "and a table", 77)
    assert long.cut == "and a table"
    assert long.numbers.shape == (1, 77)


def test_sizes_are_read_without_the_networks(parts, store):
    sizes = sizes_of(ldm3d_models.write(store, parts[4]))
    assert (sizes.factor, sizes.unet_width, sizes.decoder_width) == (8, 16, 8)


# --------------------------------------------------------------------------------- configuration


def test_the_configuration_is_read_as_it_was_written():
    config = Ldm3dConfig.from_dict(
        {
            "width": 512,
            "height": 256,
            "depth_layout": "repeated",
            "meaning": {"meaning": "inverse", "near": 0.5},
        }
    )
    assert (config.width, config.height, config.meaning.near) == (512, 256, 0.5)
    assert Ldm3dConfig.from_dict(config.to_dict()) == config
    assert Ldm3dConfig.from_dict({}).meaning.meaning == "inverse"


@pytest.mark.parametrize(
    "config",
    [
        {"width": 100},
        {"height": 0},
        {"width": "wide"},
        {"width": 8192},
        {"prefix": 3},
        {"depth_layout": "bits"},
        {"meaning": {"meaning": "guess"}},
        {"colour": "blue"},
    ],
)
def test_a_configuration_that_is_none(parts, store, config):
    installed = ldm3d_models.write(store, parts[4], config=config)
    with pytest.raises(BadInput):
        config_of(installed)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("  a kitchen ", "360 view of a kitchen"),
        ("A 360 view of a kitchen", "A 360 view of a kitchen"),
        ("Panorama of a kitchen", "Panorama of a kitchen"),
    ],
)
def test_words_are_told_as_the_model_knows_them(prompt, told):
    assert Ldm3dConfig(prefix="360 view of ").full_prompt(prompt) == told


def test_entries_of_the_registry_have_configurations():
    for entry in weights.entries().values():
        if entry.family == "ldm3d":
            config = Ldm3dConfig.from_dict(entry.arguments)
            assert (config.width, config.height) == (1024, 512)
