"""A published WaLa checkpoint -> a configuration and its weights, strictly.

Sizes are read from the shapes of the tensors; what shapes cannot tell comes from the args.json
beside the checkpoint, and without one from what the paper says, which is then written down as
assumed.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from ...checkpoints import Checkpoint, StoredTensor, renamed
from ...conversion import Conversion
from ...errors import BadInput
from ...weights import Entry, entries
from .config import LATENT_SIDE, ImageEncoderConfig, WalaConfig
from .loading import mismatches
from .model import RESOLUTION, Wala

Shapes = Mapping[str, tuple[int, ...]]

ASSUMED: dict[str, Any] = {
    "beta": 0.25,
    "normalize_latent": None,
    "diffusion_beta_schedule": "cosine",
    "diffusion_step": 1000,
    "diffusion_scale_ratio": 1.0,
    "diffusion_model_mean_type": "START_X",
    "diffusion_model_var_type": "FIXED_SMALL",
    "dp_cond": 0.1,
    "pre_quant": True,
}
"""What no shape tells, where args.json does not say it either: the values of the paper, and for
those that it leaves open (normalize_latent, pre_quant) what is assumed here."""

FIXED = {
    "resolution": RESOLUTION,
    "max_depth": 3,
    "wavelet": "bior6.8",
    "padding_mode": "constant",
}
"""What every published model has, and what is built in here."""

_NULL_WHEN_MISSING = {"beta", "normalize_latent", "diffusion_scale_ratio", "dp_cond", "pre_quant"}
"""In an args.json, where the published program takes a missing entry for null."""

_SIZES = (
    "n_e",
    "e_dim",
    "max_training_level",
    "encoder_num_tran",
    "decoder_num_tran",
    "att_hidden_size",
    "att_patch_size",
    "unet_model_channels",
    "transformer_num_blocks",
    "transformer_num_heads",
    "dit_block_type",
    "num_inds",
    "pc_dims",
    "pc_output_dim",
    "voxel_context_dim",
    "voxel_dim",
)
_TITLES = {
    "points": "point clouds",
    "voxels": "voxels",
    "image": "pictures",
    "nothing": "nothing (it makes shapes of its own choice)",
}
_DINO = "clip_model.dinov2."
_UNET = "network.unet."
_DINO_HEAD_WIDTH = 64


def read_checkpoint(
    checkpoint: Checkpoint,
    entry: Entry | None,
    args: Mapping[str, Any] | None,
    dtype: str | None = None,
    *,
    ema: bool = False,
    ignore: Sequence[str] = (),
) -> Conversion:
    """The weights of `checkpoint` and their configuration.

    entry: the model that it is said to be, None for one's own. args: of args.json, None without.
    dtype: as in Checkpoint.lazy. ema: the running average of the weights in place of the last ones.
    ignore: patterns of names that may be in the file and are left out.
    Raises BadInput when it is another kind of model, or unless exactly all weights are there.
    """
    tensors, from_raw = _weights(checkpoint, ema)
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if not any(fnmatchcase(name, pattern) for pattern in ignore)
    }
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    _check_kind(shapes, entry, checkpoint.path.name)
    config, assumed, differing = _config(shapes, entry, args)
    try:
        with torch.device("meta"):
            model = Wala(config)
    except (ValueError, RuntimeError) as error:
        raise _incomprehensible(error) from None
    want = {name: tuple(tensor.shape) for name, tensor in model.published_state_dict().items()}
    problems = mismatches(want, shapes)
    if problems:
        raise BadInput(
            f"{checkpoint.path.name} does not hold exactly the weights of its model ({problems}).",
            "Give the args.json that belongs to it; leave out what is not needed with "
            "--ignore NAME.",
        )
    notes = {"assumed": assumed, "args_that_differ_from_shapes": differing}
    if ema:
        notes["not_averaged"] = from_raw
    views = config.condition.training_views if config.condition else ()
    return Conversion(
        family="wala",
        config=config.to_dict(),
        tensors={name: checkpoint.lazy(tensors[name], dtype) for name in want},
        kind=kind_of(shapes),
        cameras=views,
        notes={name: value for name, value in notes.items() if value},
    )


# ------------------------------------------------------------------------------------------- names


def clean_name(name: str) -> str:
    """The published name of a weight; "" for the constant filters of the wavelet transform.

    Compiled modules and averaged models put words between.
    """
    parts = [part for part in name.removeprefix("module.").split(".") if part != "_orig_mod"]
    if any(part.startswith("dwt_") for part in parts):
        return ""
    return ".".join(parts)


def _weights(checkpoint: Checkpoint, ema: bool) -> tuple[dict[str, StoredTensor], list[str]]:
    """The weights by name, and the parts that the average leaves out and are the last ones."""
    raw = renamed(checkpoint.state_dict(), clean_name)
    if not ema:
        return raw, []
    averaged = renamed(checkpoint.state_dict("state_dict_ema"), clean_name)
    # Frozen parts need no average. A part that is averaged must be so as a whole.
    have = {_part(name) for name in averaged}
    rest = {name: tensor for name, tensor in raw.items() if _part(name) not in have}
    return averaged | rest, sorted({_part(name) for name in rest})


def _part(name: str) -> str:
    return name.partition(".")[0]


# -------------------------------------------------------------------------------------------- kind


def kind_of(shapes: Shapes) -> str:
    """What a model takes: "points", "voxels", "image" or "nothing". Raises BadInput."""
    if _UNET + "conv_in.weight" not in shapes or "autoencoder.encoder.in_conv.weight" not in shapes:
        raise BadInput(
            "This is no checkpoint of WaLa: it has no U-ViT and autoencoder under their names.",
            "Give checkpoint.ckpt of a WaLa model, or say with --id which model it is.",
        )
    if "encoder.linear1.weight" in shapes:
        return "points"
    if "encoder.in_conv.weight" in shapes:
        return "voxels"
    return "image" if any(name.startswith(_DINO) for name in shapes) else "nothing"


def _check_kind(shapes: Shapes, entry: Entry | None, name: str) -> None:
    have = kind_of(shapes)
    if entry is None:
        return
    want = _kind_of_entry(entry)
    if have == want:
        return
    better = next(
        e.id for e in entries().values() if e.family == "wala" and _kind_of_entry(e) == have
    )
    raise BadInput(
        f"{name} is a model that takes {_TITLES[have]}; {entry.id} takes {_TITLES[want]}.",
        f"Say which model it is, for example --id {better}, or choose another file.",
    )


def _kind_of_entry(entry: Entry) -> str:
    arguments = entry.arguments
    if arguments.get("use_pointcloud_conditions"):
        return "points"
    if arguments.get("use_voxel_conditions"):
        return "voxels"
    pictures = arguments.get("use_image_conditions") or arguments.get("use_depth_conditions")
    return "image" if pictures else "nothing"


# --------------------------------------------------------------------------------- configuration


def _config(
    shapes: Shapes, entry: Entry | None, args: Mapping[str, Any] | None
) -> tuple[WalaConfig, dict[str, Any], list[str]]:
    """The configuration, what was assumed for it, and which entries of args the shapes overrule."""
    derived = args_of_shapes(shapes, _views(entry, args))
    given = dict(args or {})
    differing = _compared(derived, given)
    known = {**(entry.arguments if entry else {}), **given}
    told = known.keys() | (_NULL_WHEN_MISSING if args is not None else set())
    assumed = {name: value for name, value in ASSUMED.items() if name not in told}
    complete = {**assumed, **known, **derived}
    try:
        config = WalaConfig.from_args(complete)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _incomprehensible(error) from None
    if config.condition is None:
        assumed.pop("dp_cond", None)
    try:
        widths = _autoencoder_widths(shapes)
        image = _image_encoder(shapes) if config.image else None
    except (KeyError, IndexError, ValueError) as error:
        raise _incomplete(error) from None
    autoencoder = dataclasses.replace(config.autoencoder, widths=widths)
    return dataclasses.replace(config, autoencoder=autoencoder, image=image), assumed, differing


def _views(entry: Entry | None, args: Mapping[str, Any] | None) -> tuple[int, ...]:
    """The published cameras in their order, as args.json or the registry say."""
    if args and "training_views" in args:
        views = args["training_views"] or []
        if not isinstance(views, list) or any(type(view) is not int for view in views):
            raise _incomprehensible(ValueError(f"training_views is {views!r}"))
        return tuple(views)
    return tuple(entry.arguments.get("training_views", ())) if entry else ()


def _compared(derived: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Raise BadInput where args.json contradicts a size; the other entries that differ."""
    wrong = [
        f"{name} is {given[name]} there and {derived[name]} in the weights"
        for name in _SIZES
        if given.get(name) is not None and name in derived and given[name] != derived[name]
    ]
    wrong += [
        f"{name} is {given[name]!r}, only {value!r} is built in"
        for name, value in FIXED.items()
        if given.get(name) is not None and given[name] != value
    ]
    if given.get("network_type") == "latent_dit":
        wrong.append("network_type is latent_dit, a network that no published model has")
    if wrong:
        raise BadInput(
            f"args.json does not belong to this checkpoint: {'; '.join(wrong)}.",
            "Give the one that was published beside it, or none: sizes are read from the weights.",
        )
    return sorted(name for name in derived if name in given and given[name] != derived[name])


def args_of_shapes(shapes: Shapes, views: Sequence[int] = ()) -> dict[str, Any]:
    """All published arguments that the shapes of the weights tell.

    views: cameras in the order of the camera table, where it has a row for each of several views.
    Raises BadInput when a weight that decides is not there, or has no shape of its kind.
    """
    try:
        kind = kind_of(shapes)
        if empty := [name for name, shape in shapes.items() if 0 in shape]:
            raise ValueError(empty[0])
        args = {**_autoencoder_args(shapes), **_unet_args(shapes), **_encoder_args(shapes, kind)}
        if kind != "nothing":
            args |= _condition_args(shapes, views)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise _incomplete(error) from None
    return args


def _incomplete(error: Exception) -> BadInput:
    return BadInput(
        f"The weights are not complete ({error} is missing or has an unknown shape).",
        "Download the checkpoint again.",
    )


def _incomprehensible(error: Exception) -> BadInput:
    return BadInput(
        f"The settings of this model are not understood ({type(error).__name__}: {error}).",
        "Check that args.json belongs to the checkpoint.",
    )


def _count(shapes: Shapes, pattern: str) -> int:
    """How many modules of a list there are."""
    found = re.compile(re.escape(pattern) + r"\.(\d+)\.")
    numbers = {int(match[1]) for name in shapes if (match := found.match(name))}
    last = max(numbers, default=-1)
    if last >= len(shapes):  # each has a weight; modules are made for as many as are said to be
        raise ValueError(f"{pattern}.{last}")
    return last + 1


def _autoencoder_args(shapes: Shapes) -> dict[str, Any]:
    codes, channels = shapes["autoencoder.quantize.embedding.weight"]
    packed = shapes["autoencoder.encoder.in_conv.weight"][1]
    return {
        "n_e": codes,
        "e_dim": channels,
        "max_training_level": round(math.log(packed, 8)),
        "encoder_num_tran": _count(shapes, "autoencoder.encoder.t_blocks"),
        "decoder_num_tran": _count(shapes, "autoencoder.decoder.t_blocks"),
    }


def _autoencoder_widths(shapes: Shapes) -> tuple[int, int, int]:
    fine, middle, coarse = (
        shapes[f"autoencoder.encoder.{name}"][0]
        for name in ("in_conv.weight", "res_2.in_conv.weight", "res_3.in_conv.weight")
    )
    return fine, middle, coarse


def _unet_args(shapes: Shapes) -> dict[str, Any]:
    _, tokens, width = shapes[_UNET + "pos_emb"]
    channels = shapes[_UNET + "conv_in.weight"][0]
    residual = shapes.get(_UNET + "res_cond_proj_layer.mlp.2.weight")
    gate = shapes.get(_UNET + "output_blocks.0.skip_learn_f.0.weight")
    has_cross = _UNET + "blocks.0.cross_attn.q.weight" in shapes
    return {
        "network_type": None,
        "dit_block_type": "cross_dit" if has_cross else "dit",
        "att_patch_size": LATENT_SIDE // round(tokens ** (1 / 3)),
        "att_hidden_size": width,
        "transformer_num_blocks": _count(shapes, _UNET + "blocks"),
        "transformer_num_heads": width // shapes[_UNET + "blocks.0.attn.q_norm.weight"][0],
        "transformer_add_num_register": shapes.get(_UNET + "register_emb", (1, 0))[1],
        "unet_model_channels": channels,
        "unet_num_res_blocks": [_count(shapes, _UNET + "input_blocks")],
        "add_condition_res_ch": residual[0] if residual else None,
        "add_condition_time_ch": _UNET + "global_proj.mlp.2.weight" in shapes or None,
        "learnable_skip_r": channels // gate[0] if gate else None,
    }


def _encoder_args(shapes: Shapes, kind: str) -> dict[str, Any]:
    args: dict[str, Any] = {
        "use_pointcloud_conditions": kind == "points",
        "use_voxel_conditions": kind == "voxels",
        "use_image_conditions": kind == "image",
        "use_depth_conditions": False,
    }
    if kind == "points":
        large = _count(shapes, "encoder.t_blocks") > 0
        last = "encoder.pooling.mlp.fc2.weight" if large else "encoder.linear_f3.weight"
        _, queries, width = shapes["encoder.pooling.I"]
        args |= {
            "pc_encoder_type": "PointNet_Large" if large else "PointNet_Simple",
            "num_inds": queries,
            "pc_dims": width,
            "pc_output_dim": shapes[last][0],
        }
    if kind == "voxels":
        tokens = shapes["network.cond_pos_emb"][1]
        args |= {
            "voxel_context_dim": shapes["encoder.out_conv.2.weight"][0],
            "voxel_dim": round(tokens ** (1 / 3)),
        }
    return args


def _condition_args(shapes: Shapes, views: Sequence[int]) -> dict[str, Any]:
    _, tokens, channels = shapes["network.cond_pos_emb"]
    cameras = shapes.get("network.camera_emb.weight", (0,))[0]
    if views and cameras != len(views):
        raise BadInput(
            f"The weights know {cameras} cameras; {len(views)} views were expected.",
            "Say which model it is with --id, and give its own args.json.",
        )
    return {
        "cond_grid_size": tokens,
        "cond_grid_emb_size": channels,
        "cond_num_mapping_layers": _count(shapes, "network.cond_mapping_network"),
        "use_camera_index": cameras > 0,
        "use_multiple_views_grids": bool(views),
        "max_images_num": cameras or None,
        "training_views": list(views) or None,
    }


def _image_encoder(shapes: Shapes) -> ImageEncoderConfig:
    width = shapes[_DINO + "cls_token"][2]
    return ImageEncoderConfig(
        width=width,
        depth=_count(shapes, _DINO + "blocks"),
        heads=max(1, width // _DINO_HEAD_WIDTH),
        registers=shapes[_DINO + "register_tokens"][1],
        patch=shapes[_DINO + "patch_embed.proj.weight"][2],
        position_side=math.isqrt(shapes[_DINO + "pos_embed"][1] - 1),
    )
