"""Published checkpoints of WaLa: names, sizes, settings; small files of the same layout."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from backend import weights
from backend.conversion import convert
from backend.errors import BadInput, NotFound
from backend.models.wala import checkpoint as wala_checkpoint
from backend.models.wala.checkpoint import args_of_shapes, clean_name
from backend.models.wala.config import (
    AutoencoderConfig,
    ConditionConfig,
    ImageEncoderConfig,
    PointEncoderConfig,
    UVitConfig,
    VoxelEncoderConfig,
    WalaConfig,
)
from backend.models.wala.loading import load, mismatches
from backend.models.wala.model import Wala
from backend.sampling import Diffusion, Prediction, Variance

KEYS = Path(__file__).parents[2] / "golden" / "wala" / "checkpoint_keys.json"
VIEWS = (3, 6, 10, 26)
Shapes = dict[str, tuple[int, ...]]


# ---------------------------------------------------------------------------------- the true layout


def published_shapes(entry: weights.Entry) -> Shapes:
    """Names and shapes in the published checkpoint of `entry`, wavelet filters included."""
    keys = json.loads(KEYS.read_text())
    kind = wala_checkpoint._kind_of_entry(entry)
    depth = {"wala-views-depth6-1b": 30, "wala-voxel-1b": 30, "wala-shape-1b": 44}.get(entry.id, 32)
    found = {**keys["network"], **keys["buffers_top_level"]}
    found |= {name: shape for name, shape in keys["autoencoder"].items() if "t_blocks" not in name}
    for side in ("encoder", "decoder"):
        found.pop(f"autoencoder.{side}.pos_emb")
    if kind == "points":
        found |= keys["encoder_pointnet_simple"]
    if kind == "voxels":
        found |= keys["encoder_voxel"]
        found["network.cond_pos_emb"] = [1, 512, 1024]
    if kind == "image":
        found |= keys["clip_model_dinov2_vitl14_reg4"]
    if entry.views:
        found["network.camera_emb.weight"] = [entry.views, 1024]
    if kind == "nothing":
        conditional = re.compile(r"cond_|cross_attn|context_mlp|global_proj|linear_res_emb")
        found = {name: shape for name, shape in found.items() if not conditional.search(name)}
    return {
        new: tuple(shape)
        for name, shape in found.items()
        for new in _expanded(name, {"network.unet.blocks.": depth, "clip_model.dinov2.blocks.": 24})
    }


def _expanded(name: str, lists: dict[str, int]) -> list[str]:
    for beginning, count in lists.items():
        if name.startswith(beginning + "0."):
            rest = name.removeprefix(beginning + "0.")
            return [f"{beginning}{index}.{rest}" for index in range(count)]
    return [name]


WALA_ENTRIES = [entry for entry in weights.entries().values() if entry.family == "wala"]


@pytest.mark.parametrize("entry", WALA_ENTRIES, ids=lambda entry: entry.id)
def test_the_layout_of_every_published_model_is_understood(entry: weights.Entry) -> None:
    shapes = {
        clean_name(name): shape
        for name, shape in published_shapes(entry).items()
        if clean_name(name)
    }
    config, assumed, differing = wala_checkpoint._config(shapes, entry, None)
    with torch.device("meta"):
        model = Wala(config)
    own = {name: tuple(tensor.shape) for name, tensor in model.published_state_dict().items()}
    assert mismatches(own, shapes) == ""
    assert differing == []
    assert assumed["normalize_latent"] is None
    trained = sum(
        tensor.numel()
        for name, tensor in model.published_state_dict().items()
        if not name.startswith(("clip_model.", "autoencoder."))
    )
    millions = {"wala-pointcloud-1b": 969, "wala-voxel-1b": 906, "wala-shape-1b": 1062}
    millions["wala-views-depth6-1b"] = 898
    assert trained / 1e6 == pytest.approx(millions.get(entry.id, 954), abs=4)
    views = config.condition.training_views if config.condition else ()
    assert views == entry.cameras


def test_the_published_models_have_what_the_spec_found() -> None:
    args = args_of_shapes(published_shapes(weights.entries()["wala-image-1b"]))
    wanted = {
        "att_hidden_size": 1152,
        "att_patch_size": 1,
        "transformer_num_blocks": 32,
        "transformer_num_heads": 16,
        "unet_model_channels": 128,
        "unet_num_res_blocks": [2],
        "add_condition_res_ch": 1024,
        "transformer_add_num_register": 4,
        "dit_block_type": "cross_dit",
        "max_training_level": 2,
        "n_e": 1024,
        "e_dim": 4,
    }
    assert {name: args[name] for name in wanted} == wanted


# ------------------------------------------------------------------------------------- small files


def small(kind: str) -> WalaConfig:
    """A model of the same structure, with odd sizes so that no two are mixed up."""
    cameras = {"views": len(VIEWS), "numbered": 55}.get(kind)
    tokens = {"points": 6, "voxels": 27}.get(kind, 10)
    conditional = kind != "nothing"
    return WalaConfig(
        autoencoder=AutoencoderConfig(codes=24, widths=(32, 32, 64), decoder_blocks=1),
        denoiser=UVitConfig(
            width=48,
            depth=3,
            heads=6,
            channels=64,
            residual_blocks=2,
            patch=3,
            context_channels=128 if conditional else None,
            cross_attention=conditional,
            registers=5 if conditional else 0,
            time_condition=conditional,
            residual_condition=40 if conditional else None,
            skip_reduction=4,
        ),
        diffusion=Diffusion(),
        condition=ConditionConfig(
            tokens=tokens,
            channels=128,
            mapping_layers=1,
            cameras=cameras,
            training_views=VIEWS if kind == "views" else (),
        )
        if conditional
        else None,
        points=PointEncoderConfig(channels=128, width=48, queries=6, large=True)
        if kind == "points"
        else None,
        voxels=VoxelEncoderConfig(channels=128) if kind == "voxels" else None,
        image=ImageEncoderConfig(width=128, depth=2, heads=2, registers=3, position_side=7)
        if kind in ("image", "views", "numbered")
        else None,
    )


ARGS = {
    "resolution": 256,
    "max_depth": 3,
    "wavelet": "bior6.8",
    "padding_mode": "constant",
    "beta": 0.25,
    "normalize_latent": None,
    "diffusion_beta_schedule": "cosine",
    "diffusion_step": 1000,
    "diffusion_model_mean_type": "START_X",
    "diffusion_model_var_type": "FIXED_SMALL",
    "dp_cond": 0.1,
    "pre_quant": True,
    "use_ema": True,
}


def in_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as a compiled model saves them, with the filters that it saves too."""
    found = {}
    for name, tensor in state.items():
        for part in ("autoencoder.", "network.", "encoder."):
            if name.startswith(part):
                name = f"{part}_orig_mod.{name.removeprefix(part)}"
                break
        found[name] = tensor
    for place in ("dwt_sparse_composer", "autoencoder._orig_mod.dwt_inverse_3d"):
        found[f"{place}.g0_dep"] = torch.zeros(1, 1, 18, 1, 1)
    return found


@functools.cache
def small_model(kind: str) -> Wala:
    torch.manual_seed(1)
    return Wala(small(kind))


def make(
    folder: Path, kind: str, args: dict[str, Any] | None = None, averaged: bool = False
) -> tuple[Path, Wala]:
    """checkpoint.ckpt of a small model, and args.json beside it when given."""
    model = small_model(kind)
    state = in_layout(model.published_state_dict())
    values = {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": collections.OrderedDict(state),
        "state_dict_ema": {"module." + name: tensor * 2 for name, tensor in state.items()}
        if averaged
        else {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(9)}}, "param_groups": []}],
        "hyper_parameters": argparse.Namespace(lr=1e-4),
        "loops": {},
    }
    folder.mkdir(exist_ok=True)
    path = folder / "checkpoint.ckpt"
    torch.save(values, path)
    if args is not None:
        (folder / "args.json").write_text(json.dumps(args))
    return path, model


def same(model: Wala, installed: weights.Installed, dtype: torch.dtype, factor: float) -> None:
    found = load(installed, torch.device("cpu"), dtype)
    assert found.config == dataclasses.replace(
        model.config, pre_quantised=found.config.pre_quantised
    )
    own, theirs = model.published_state_dict(), found.published_state_dict()
    assert own.keys() == theirs.keys()
    for name, tensor in own.items():
        assert torch.equal(theirs[name], (tensor * factor).to(dtype)), name
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert not found.training


@pytest.mark.parametrize(
    ("kind", "model_id", "told"),
    [
        ("points", "wala-pointcloud-1b", False),
        ("voxels", "wala-voxel-1b", False),
        ("nothing", "wala-shape-1b", False),
        ("image", "wala-sketch-1b", True),
        ("numbered", "wala-image-1b", True),
        ("views", "wala-views-rgb4-1b", True),
    ],
)
@pytest.mark.parametrize("with_args", [True, False], ids=["args.json", "shapes alone"])
def test_a_checkpoint_becomes_the_same_model(
    tmp_path: Path, kind: str, model_id: str, told: bool, with_args: bool
) -> None:
    args = {**ARGS, "training_views": VIEWS if kind == "views" else None} if with_args else None
    path, model = make(tmp_path, kind, args)
    installed = convert(path, model_id=model_id if told else None, store=tmp_path / "store")
    entry = weights.entries()[model_id]
    assert installed.id == model_id
    assert installed.folder == tmp_path / "store" / model_id
    assert (installed.steps, installed.guidance) == (entry.steps, entry.guidance)
    assert installed.cameras == (VIEWS if kind == "views" else ())
    assert installed.views == len(installed.cameras)
    assert ("assumed" in installed.source) is not with_args
    same(model, installed, torch.float32, 1)


def test_averages_and_number_types(tmp_path: Path) -> None:
    path, model = make(tmp_path, "nothing", averaged=True)
    store = tmp_path / "store"
    for dtype, torch_dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        installed = convert(path, ema=True, dtype=dtype, store=store)
        assert installed.source["weights"] == "average"
        assert installed.source["dtype"] == dtype
        same(model, installed, torch_dtype, 2)
    full = convert(path, store=store)
    assert full.bytes > 1.9 * installed.folder.stat().st_size
    assert [folder.name for folder in store.iterdir()] == ["wala-shape-1b"]


def test_frozen_parts_need_no_average(tmp_path: Path) -> None:
    path, model = make(tmp_path, "points", averaged=True)
    values = torch.load(path, weights_only=False)
    averaged = values["state_dict_ema"]
    values["state_dict_ema"] = {n: t for n, t in averaged.items() if "module.auto" not in n}
    torch.save(values, path)
    installed = convert(path, ema=True, store=tmp_path / "store")
    assert installed.source["not_averaged"] == ["autoencoder"]
    found = load(installed, torch.device("cpu"), torch.float32).published_state_dict()
    for name, tensor in model.published_state_dict().items():
        assert torch.equal(found[name], tensor * (1 if name.startswith("auto") else 2))


def test_settings_that_no_shape_tells_come_from_args(tmp_path: Path) -> None:
    args = {
        **ARGS,
        "normalize_latent": "l2_norm",
        "diffusion_beta_schedule": "linear",
        "diffusion_scale_ratio": 0.5,
        "diffusion_model_mean_type": "EPSILON",
        "diffusion_model_var_type": "FIXED_LARGE",
        "dp_cond": None,
        "beta": 0.5,
    }
    path, _ = make(tmp_path, "points", args)
    config = WalaConfig.from_dict(convert(path, store=tmp_path / "s").config)
    assert config.autoencoder.normalized
    assert config.autoencoder.commitment == 0.5
    assert not config.guided
    assert config.diffusion == Diffusion(
        "linear", scale=0.5, prediction=Prediction.NOISE, variance=Variance.LARGE
    )


def test_args_given_by_name(tmp_path: Path) -> None:
    path, _ = make(tmp_path, "nothing", ARGS)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**ARGS, "normalize_latent": "l2_norm"}))
    installed = convert(path, args=other, store=tmp_path / "s")
    assert installed.config["autoencoder"]["normalized"] is True
    assert installed.source["args"] == "other.json"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"att_hidden_size": 1152}, "att_hidden_size is 1152 there and 48 in the weights"),
        ({"transformer_num_blocks": 9}, "transformer_num_blocks is 9"),
        ({"n_e": 7, "e_dim": 3}, "n_e is 7.*e_dim is 3"),
        ({"resolution": 128}, "resolution is 128, only 256"),
        ({"wavelet": "haar"}, "wavelet is 'haar'"),
        ({"network_type": "latent_dit"}, "latent_dit"),
        ({"diffusion_model_mean_type": "VELOCITY"}, "not understood"),
        ({"training_views": 5}, "not understood"),
    ],
)
def test_args_of_another_model(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path, _ = make(tmp_path, "points", {**ARGS, **change})
    with pytest.raises(BadInput, match=words):
        convert(path, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("text", ["{", "[1]", "\x00", '"a"'])
def test_args_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    path, _ = make(tmp_path, "nothing")
    (tmp_path / "args.json").write_text(text)
    with pytest.raises(BadInput, match=r"args\.json"):
        convert(path, store=tmp_path / "store")


def test_a_folder_given_for_args(tmp_path: Path) -> None:
    path, _ = make(tmp_path, "nothing")
    with pytest.raises(BadInput, match="cannot be read"):
        convert(path, args=tmp_path, store=tmp_path / "store")


def test_the_wrong_model_for_a_name(tmp_path: Path) -> None:
    path, _ = make(tmp_path, "voxels")
    with pytest.raises(
        BadInput, match="takes voxels; wala-pointcloud-1b takes point clouds"
    ) as got:
        convert(path, model_id="wala-pointcloud-1b", store=tmp_path / "store")
    assert "--id wala-voxel-1b" in got.value.remedy
    path, _ = make(tmp_path, "views")
    with pytest.raises(BadInput, match="4 cameras; 6 views"):
        convert(path, model_id="wala-views-depth6-1b", store=tmp_path / "store")


def test_pictures_do_not_say_which_model_it_is(tmp_path: Path) -> None:
    path, _ = make(tmp_path, "image")
    with pytest.raises(BadInput) as caught:
        convert(path, store=tmp_path / "store")
    assert "--id" in caught.value.remedy
    assert "wala-sketch-1b" in caught.value.remedy
    assert "wala-voxel-1b" not in caught.value.remedy


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    path, model = make(tmp_path, "nothing")
    installed = convert(path, model_id="my-chairs", store=tmp_path / "store")
    assert (installed.id, installed.title, installed.license) == ("my-chairs", "my-chairs", "")
    assert installed.tasks == ("shape",)
    same(model, installed, torch.float32, 1)
    for name in ("../evil", "a/b", "", ".hidden", "A"):
        with pytest.raises(BadInput, match="name of a model"):
            convert(path, model_id=name or "/", store=tmp_path / "store")


def test_missing_unexpected_and_reshaped_weights_are_listed(tmp_path: Path) -> None:
    path, _ = make(tmp_path, "points")
    values = torch.load(path, weights_only=False)
    state = values["state_dict"]
    del state["network._orig_mod.unet.blocks.1.attn.proj.bias"]
    state["network._orig_mod.extra.weight"] = torch.zeros(3)
    state["encoder._orig_mod.ln1.weight"] = torch.zeros(65)
    torch.save(values, path)
    with pytest.raises(BadInput) as caught:
        convert(path, store=tmp_path / "store")
    for words in (
        "missing: network.unet.blocks.1.attn.proj.bias",
        "unexpected: network.extra.weight",
        "encoder.ln1.weight (65,) instead of (64,)",
    ):
        assert words in caught.value.cause
    assert not (tmp_path / "store").exists()


def test_what_is_known_to_be_too_much_is_left_out(tmp_path: Path) -> None:
    path, model = make(tmp_path, "points")
    values = torch.load(path, weights_only=False)
    values["state_dict"]["network._orig_mod.extra.weight"] = torch.zeros(3)
    torch.save(values, path)
    installed = convert(path, ignore=["network.extra.*"], store=tmp_path / "store")
    same(model, installed, torch.float32, 1)


@pytest.mark.parametrize("part", ["network.unet.pos_emb", "autoencoder.quantize.embedding.weight"])
def test_without_a_weight_that_decides(tmp_path: Path, part: str) -> None:
    path, _ = make(tmp_path, "points")
    values = torch.load(path, weights_only=False)
    state = values["state_dict"]
    values["state_dict"] = {n: t for n, t in state.items() if clean_name(n) != part}
    torch.save(values, path)
    with pytest.raises(BadInput, match=f"not complete.*{part}"):
        convert(path, store=tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("network.unet.blocks.999999999.attn.q.weight", (1,)),
        ("autoencoder.encoder.t_blocks.999999999.x", (1,)),
        ("network.unet.pos_emb", (1, 0, 1 << 40)),
        ("network.unet.conv_in.bias", (0, 1 << 40)),
        ("autoencoder.encoder.res_2.in_conv.weight", None),
    ],
)
def test_shapes_that_would_make_an_endless_model(name: str, shape: tuple[int, ...] | None) -> None:
    """No model is built of them, which would take all memory."""
    state = small_model("points").published_state_dict()
    shapes: dict[str, tuple[int, ...]] = {n: tuple(t.shape) for n, t in state.items()}
    if shape is None:
        del shapes[name]
    else:
        shapes[name] = shape
    with pytest.raises(BadInput, match="not complete"):
        wala_checkpoint._config(shapes, None, None)


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"layer.weight": torch.zeros(2)}}, path)
    with pytest.raises(BadInput, match="no checkpoint of WaLa"):
        convert(path, store=tmp_path / "store")
    with pytest.raises(NotFound, match="There is no file"):
        convert(tmp_path / "none.ckpt")


def test_an_ended_conversion_leaves_nothing(tmp_path: Path) -> None:
    path, model = make(tmp_path, "nothing", averaged=True)
    store = tmp_path / "store"
    before = convert(path, store=store)

    class Ended(Exception):
        pass

    def stop(fraction: float) -> None:
        if fraction > 0.5:
            raise Ended

    with pytest.raises(Ended):
        convert(path, ema=True, store=store, report=stop)
    assert [folder.name for folder in store.iterdir()] == [before.id]
    same(model, before, torch.float32, 1)


def test_progress_only_grows(tmp_path: Path) -> None:
    path, _ = make(tmp_path, "nothing")
    told: list[float] = []
    convert(path, store=tmp_path / "store", report=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 50


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = make(tmp_path, "nothing")
    monkeypatch.setattr("shutil.disk_usage", lambda _: argparse.Namespace(free=1000))
    with pytest.raises(BadInput.__mro__[1], match="GB are needed") as caught:
        convert(path, store=tmp_path / "store")
    assert caught.value.code == "storage"
    assert list((tmp_path / "store").iterdir()) == []
