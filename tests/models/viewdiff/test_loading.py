"""Models from files: our own, new ones on a Stable Diffusion, runs of the published training."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend import __main__, conversion, weights
from backend.errors import BadInput, NotFound
from backend.models.viewdiff import loading, runs
from backend.models.viewdiff.config import ProjectionConfig, ViewDiffConfig
from backend.models.viewdiff.model import ViewDiff, is_new
from backend.models.viewdiff.painter import PainterConfig
from tests import ldm3d_models

from .recordings import assert_near
from .small import SIZE, WORDS, around, config, learned, noise

CPU = torch.device("cpu")
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": [2, 4],
}


def _predicted(model: ViewDiff) -> torch.Tensor:
    with torch.no_grad():
        latents, text = noise(1, 3, 4, SIZE, SIZE), noise(1, 1, 3, WORDS, seed=1)
        width = model.unet.config.cross_attention_dim
        text = torch.nn.functional.pad(text, (0, width - WORDS))
        return model(latents, torch.tensor([[0, 50, 50]]), text, around(3))


def _assert_same(one: ViewDiff, other: ViewDiff) -> None:
    """The same weights. What they predict may differ in the last bit: files are mapped as they lie,
    and where a tensor begins in memory changes the order of sums."""
    weights, others = one.state_dict(), other.state_dict()
    assert list(weights) == list(others)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert_near(_predicted(one), _predicted(other), 1e-5)


def _written(store: Path, model: ViewDiff, **changes: Any) -> weights.Installed:
    given: dict[str, Any] = {
        "id": "small-views",
        "title": "Small views",
        "family": "viewdiff",
        "tasks": ("image-to-views",),
        "config": PainterConfig(denoiser=model.config).to_dict(),
        "tensors": model.state_dict(),
        "steps": 3,
        **changes,
    }
    return weights.write_model(store / given["id"], **given)


# ------------------------------------------------------------------------------------------- own


@pytest.mark.parametrize("combine", ["replace", "zero", "gated"])
def test_a_model_and_its_files(tmp_path: Path, combine: str) -> None:
    model = learned(config(combine=combine, attention="separate"))
    installed = _written(tmp_path, model)
    again = PainterConfig.from_dict(installed.config).denoiser
    assert again == model.config
    loaded = loading.load(installed, again, CPU, torch.float32)
    _assert_same(loaded, model)
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_layers_through_space_stay_in_full_precision(tmp_path: Path) -> None:
    model = learned(config())
    loaded = loading.load(_written(tmp_path, model), model.config, CPU, torch.bfloat16)
    kinds = {
        ("unproj_reproj_layer" in name, weight.dtype) for name, weight in loaded.named_parameters()
    }
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    with torch.no_grad():
        latents = noise(1, 3, 4, SIZE, SIZE).bfloat16()
        found = loaded(latents, torch.tensor(50), None, around(3))
        expected = model(latents.float(), torch.tensor(50), None, around(3))
    assert found.dtype == torch.bfloat16
    assert_near(found.float(), expected, 0.05)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", r"missing: mid_block\.resnets"),
        ("unexpected", "unexpected: mid_block.attentions.0.spare"),
        ("reshaped", "of another shape: conv_in.weight"),
        ("garbage", "is damaged"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, damage: str, words: str) -> None:
    model = learned(config())
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    name = "unet.mid_block.resnets.0.conv1.weight"
    if damage == "missing":
        del tensors[name]
    elif damage == "unexpected":
        tensors["unet.mid_block.attentions.0.spare"] = torch.zeros(1)
    elif damage == "reshaped":
        tensors["unet.conv_in.weight"] = torch.zeros(16, 4, 1, 1)
    installed = _written(tmp_path, model, tensors=tensors)
    if damage == "garbage":
        path = installed.files[0]
        path.write_bytes(b"\xff" * path.stat().st_size)
        words = "cannot|do not fit"
    with pytest.raises(BadInput, match=words):
        loading.load(installed, model.config, CPU, torch.float32)


def test_sizes_that_no_network_can_have(tmp_path: Path) -> None:
    model = learned(config())
    installed = _written(tmp_path, model)
    impossible = dataclasses.replace(model.config, unet={"block_out_channels": [16, 33]})
    with pytest.raises(BadInput, match="do not fit its description"):
        loading.load(installed, impossible, CPU, torch.float32)


# ------------------------------------------------------------------------------ on a plain network


def test_a_new_model_on_a_stable_diffusion(tmp_path: Path) -> None:
    """Its weights are those of the base, untouched, and the new layers do nothing yet."""
    ldm3d_models.parts_of(tmp_path, channels=3, unet=UNET)
    given = config(combine="zero", unet={}, base="someone/stable-diffusion")
    model = loading.start(tmp_path, given, seed=3)
    stored = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    own = model.unet.state_dict()
    assert {name for name in own if not is_new(name)} == set(stored)
    assert all(torch.equal(own[name], stored[name]) for name in stored)
    assert model.config.unet["block_out_channels"] == [16, 32]
    assert model.config.base == "someone/stable-diffusion"
    assert all(weight.requires_grad for weight in model.parameters())
    again, other = (
        loading.start(tmp_path / "unet", given, seed=seed).unet.state_dict() for seed in (3, 4)
    )
    assert all(torch.equal(own[name], again[name]) for name in own)
    assert any(not torch.equal(own[name], other[name]) for name in own)


def test_training_a_new_model_leaves_the_base_alone(tmp_path: Path) -> None:
    ldm3d_models.parts_of(tmp_path, channels=3, unet=UNET)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    before = path.read_bytes()
    model = loading.start(tmp_path, config(combine="zero", unet={}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    assert path.read_bytes() == before


def test_what_cannot_be_built_on(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"config\.json"):
        loading.start(tmp_path, config())
    ldm3d_models.parts_of(tmp_path, channels=3, unet=UNET)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensors[name] for name in list(tensors)[1:]}, path)
    with pytest.raises(BadInput, match=r"cannot be built on: missing"):
        loading.start(tmp_path, config())
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(NotFound, match="diffusion_pytorch_model"):
        loading.start(tmp_path, config())


# -------------------------------------------------------------------------------------------- runs


TRAINED = {
    "projection_down": 1,
    "projection_mid": True,
    "projection_up": 1,
    "up": "-z",
    "as_published": True,
    "base": "",
    "image_size": 256,
}


def _run(folder: Path, twice: bool = False, **changes: Any) -> ViewDiff:
    """As the published training saves: corrections in a file of their own; twice: in both."""
    ldm3d_models.parts_of(folder, channels=3, unet=UNET)
    settings = json.loads((folder / "unet" / "config.json").read_text())
    own = {name: value for name, value in settings.items() if not name.startswith("_")}
    model = learned(config(**{"unet": own, **TRAINED, **changes}))
    state = {name: value.contiguous() for name, value in model.unet.state_dict().items()}
    corrections = {name for name in state if ".processor." in name}
    rest = {name: value for name, value in state.items() if name not in corrections}
    if twice:
        rest |= {name: torch.zeros_like(state[name]) for name in corrections}
    save_file(rest, folder / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(
        {f"unet.{name}": state[name] for name in corrections},
        folder / "unet" / "pytorch_lora_weights.safetensors",
    )
    # Settings of a class that diffusers does not have, as the published code writes them.
    settings |= {"_class_name": "UNet2DConditionCrossFrameInExistingAttnModel", "n_input": 5}
    (folder / "unet" / "config.json").write_text(json.dumps(settings))
    training = {"data": {"root": "co3d"}, "model": {"proj": {"dim_3d_grid": 16}}, "seed": 1}
    (folder / "config.json").write_text(json.dumps(training))
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"intensity": False, "time_channels": 0, "rank": 6},
        {"text_corrections": False, "projection_down": 0, "projection_mid": False},
        {"projection": ProjectionConfig(grid=16, layers=5, background=False)},
        {"projection": ProjectionConfig(grid=16, layers=1, aggregator="mean", time=False)},
        {"projection": ProjectionConfig(grid=16, compress="single", view_dependent=False)},
        {"projection_down": 0, "projection_mid": False, "projection_up": 0},
    ],
)
def test_shapes_tell_what_a_run_is(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = _run(tmp_path, **changes)
    found, assumed = runs.read(tmp_path)
    expected = model.config
    if model.config.has_projection:
        # No shape and no setting tells of the samples: they are as published.
        samples = ViewDiffConfig().projection.samples
        expected = dataclasses.replace(
            expected, projection=dataclasses.replace(expected.projection, samples=samples)
        )
        assert "samples" in assumed
        assert "grid" not in assumed
    else:
        expected = dataclasses.replace(expected, projection=ProjectionConfig())
    schedule = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert found.schedule["beta_end"] == schedule["beta_end"]
    assert "_class_name" not in found.schedule
    same = {"unet": expected.unet, "schedule": expected.schedule, "trained_views": 5}
    assert dataclasses.replace(found, **same) == dataclasses.replace(expected, **same)


@pytest.mark.parametrize("twice", [False, True])
def test_a_run_becomes_a_model(tmp_path: Path, twice: bool) -> None:
    run = tmp_path / "run"
    run.mkdir()
    model = _run(run, twice, projection=ProjectionConfig(grid=16, layers=3, samples=128))
    shutil.copy(run / "unet/config.json", run / "unet/diffusion_pytorch_model.bin")  # not looked at
    installed = conversion.convert(run, model_id="my-bears", store=tmp_path / "store")
    assert installed.family == "viewdiff"
    assert installed.source["assumed"]["samples"] == 128
    assert {path.suffix for path in (tmp_path / "store").rglob("*.*")} <= {
        *(".json", ".txt", ".safetensors")
    }
    weights.verify(installed)
    settings = PainterConfig.from_dict(installed.config).denoiser
    loaded = loading.load(installed, settings, CPU, torch.float32)
    _assert_same(loaded, model)


def test_a_run_is_taken_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="taken as it is"):
        conversion.convert(tmp_path, model_id="my-bears", dtype="bfloat16", store=tmp_path)
    with pytest.raises(NotFound, match="pytorch_lora_weights"):
        conversion.convert(tmp_path, model_id="my-bears", store=tmp_path)


def test_what_no_file_tells_can_be_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    _run(run)
    installed = runs.install(
        run, "my-bears", store=tmp_path / "store", reference="first", image_size=512
    )
    settings = PainterConfig.from_dict(installed.config).denoiser
    assert (settings.reference, settings.image_size) == ("first", 512)
    assert "reference" not in installed.source["assumed"]
    assert "own_frame" in installed.source["assumed"]
    assert installed.source["assumed"]["as_published"] is True
    assert settings.as_published


def test_the_command_line_says_what_no_file_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    _run(run)
    convert = ["models", "convert", str(run), "--id", "mine", "-o", str(tmp_path / "store")]
    said = ["--reference", "first", "--no-own-frame", "--image-size", "512", "--combine", "add"]
    said.append("--no-as-published")
    assert __main__.main([*convert, *said, "--json"]) == 0
    record = json.loads((tmp_path / "store" / "mine" / "model.json").read_text())
    settings = PainterConfig.from_dict(record["config"]).denoiser
    found = (settings.reference, settings.own_frame, settings.image_size, settings.combine)
    assert found == ("first", False, 512, "add")
    assert not settings.as_published
    assert not {*runs.SAYABLE} & {*record["source"]["assumed"]}
    for wrong, told in ((["--combine", "gated"], "combine"), (["--image-size", "0"], "image_size")):
        assert __main__.main([*convert, *wrong]) == 2
        assert told in capsys.readouterr().err


def test_settings_of_runs_are_not_for_files(tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="--own-frame is said of a folder"):
        conversion.convert(path, store=tmp_path, settings_of_run={"own_frame": False})


@pytest.mark.parametrize("combine", ["zero", "gated"])
def test_weights_tell_how_layers_through_space_combine(tmp_path: Path, combine: str) -> None:
    _run(tmp_path, combine=combine)
    found, assumed = runs.read(tmp_path)
    assert found.combine == combine
    assert "combine" not in assumed
    with pytest.raises(BadInput, match=f"combine = {combine}, not replace"):
        runs.install(tmp_path, "mine", store=tmp_path / "store", combine="replace")


@pytest.mark.parametrize("missing", ["config.json", "unet/pytorch_lora_weights.safetensors"])
def test_a_run_without_one_of_its_files(tmp_path: Path, missing: str) -> None:
    _run(tmp_path)
    (tmp_path / missing).unlink()
    assert runs.is_run(tmp_path) == (missing == "config.json")
    with pytest.raises(NotFound, match=Path(missing).name):
        runs.read(tmp_path)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    _run(tmp_path)
    save_file(
        {"unet.conv_in.lora.down.weight": torch.zeros(4, 4)},
        tmp_path / "unet" / "pytorch_lora_weights.safetensors",
    )
    with pytest.raises(BadInput, match="cannot be read"):
        runs.read(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(BadInput, match="holds no settings"):
        runs.read(tmp_path)


def test_a_run_that_lacks_weights_is_no_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    _run(run)
    path = run / "unet" / "pytorch_lora_weights.safetensors"
    tensors = load_file(path)
    gone = next(name for name in tensors if name.endswith("to_v_lora.up.weight"))
    save_file({name: value for name, value in tensors.items() if name != gone}, path)
    installed = runs.install(run, "my-bears", store=tmp_path / "store")
    settings = PainterConfig.from_dict(installed.config).denoiser
    with pytest.raises(BadInput, match=r"missing: .*to_v_lora\.up\.weight"):
        loading.load(installed, settings, CPU, torch.float32)


def test_weights_that_are_there_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"conv_in.bias": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"conv_in\.bias is there twice"):
        loading.weights_of(tmp_path.glob("*.safetensors"))
