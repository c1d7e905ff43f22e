"""A published checkpoint of MVDream -> what a model folder holds.

WaLa's text models are Lightning checkpoints whose state dict has MVDream as its part `model.`;
MVDream's own files have it alone. Either holds the denoiser, the text tower and the autoencoder of
pictures, of which every weight must be there and none too many. What lies beside them is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch

from ...checkpoints import Checkpoint
from ...errors import BadInput
from ...tensor_files import LazyTensor
from ...weights import Entry
from ..wala.loading import mismatches
from .config import BASES, MVDreamConfig
from .model import MVDream
from .own_cameras import own_cameras

DENOISER = "model.diffusion_model."
_OUTER = "model."

_TEXTS = {"open_clip": "cond_stage_model.model.", "clip": "cond_stage_model.transformer."}
_PICTURES = "first_stage_model."
_LEFT_OUT = (
    *(
        _TEXTS["open_clip"] + name
        for name in ("logit_scale", "text_projection", "attn_mask", "visual.")
    ),
    _TEXTS["clip"] + "text_model.embeddings.position_ids",
    _PICTURES + "loss.",
)
"""Beginnings of names within the parts that count, of what is not needed to paint."""
_OF_THE_RING = ("start", "elevation")
"""Settings that `own_cameras` has understood."""


def contents(
    checkpoint: Checkpoint,
    entry: Entry,
    dtype: str | None = None,
    state: str = "state_dict",
    *,
    ignore: Sequence[str] = (),
    config: MVDreamConfig | None = None,
) -> tuple[MVDreamConfig, dict[str, LazyTensor]]:
    """The configuration and the weights by published name, for weights.write_model.

    entry: of the registry, for what a checkpoint does not tell. dtype: as in Checkpoint.lazy.
    state: which state dict of the checkpoint. ignore: patterns of names that may be in the file and
    are left out. config: that of the entry unless given.
    Raises BadInput for a file that is no such model, and names what is missing, too much, or of
    another shape.
    """
    config = config or config_of(entry)
    tensors = {
        name: tensor
        for name, tensor in checkpoint.state_dict(state).items()
        if not any(fnmatchcase(name, pattern) for pattern in ignore)
    }
    names = published_names(tensors, config)
    check({name: tensors[inside].shape for name, inside in names.items()}, config)
    for name in ("betas", _OUTER + "betas"):
        if name in tensors:
            data = b"".join(map(bytes, checkpoint.lazy(tensors[name], "F32").pieces()))
            config = with_schedule(config, np.frombuffer(data, "<f4"))
    return config, {name: checkpoint.lazy(tensors[inside], dtype) for name, inside in names.items()}


def config_of(entry: Entry) -> MVDreamConfig:
    """The configuration of a published text model.

    `arguments` of the registry: view_steps, view_guidance and suffix, where they differ from ours;
    base, a key of BASES, where the networks are not those of Stable Diffusion 2.1; side of the
    pictures; spacing of the steps; beta_end, where a file without a schedule was trained with
    another; and, for views that have no numbers, their ring: its elevation and where it starts, in
    degrees.
    """
    given = {name: entry.arguments[name] for name in entry.arguments if name not in _OF_THE_RING}
    base = BASES[given.pop("base", "sd-2.1")]
    last = given.pop("beta_end", None)
    known = {"view_steps": "steps", "view_guidance": "guidance"}
    chosen = {known.get(name, name): value for name, value in given.items()}
    config = dataclasses.replace(MVDreamConfig(own_cameras(entry)), **base, **chosen)
    if last is None:
        return config
    return dataclasses.replace(config, diffusion=dataclasses.replace(config.diffusion, last=last))


def published_names(names: Iterable[str], config: MVDreamConfig) -> dict[str, str]:
    """Published name -> name in the file, of all weights that count.

    names: of the tensors in the file. Raises BadInput when the file is no MVDream.
    """
    names = list(names)
    wrapped = any(name.startswith(_OUTER + DENOISER) for name in names)
    found = {}
    for name in names:
        inner = name
        if wrapped:
            # A part of the same name beside MVDream is another model's.
            inner = name.removeprefix(_OUTER) if name.startswith(_OUTER) else ""
        if _counts(inner, config):
            found[inner] = name
    if not any(name.startswith(DENOISER) for name in found):
        raise BadInput(
            "The checkpoint is not one of MVDream: it has no network of views.",
            "Use checkpoint.ckpt of the text model as its authors published it.",
        )
    return found


def _counts(name: str, config: MVDreamConfig) -> bool:
    """Whether a weight belongs to the model; beside it lie schedules, averages and other models."""
    text = _TEXTS[config.text.tower]
    # OpenCLIP's text is read off before its last layer.
    last = f"{_TEXTS['open_clip']}transformer.resblocks.{config.text.depth}."
    return name.startswith((DENOISER, text, _PICTURES)) and not name.startswith((*_LEFT_OUT, last))


def check(shapes: Mapping[str, tuple[int, ...]], config: MVDreamConfig) -> None:
    """Raise BadInput unless `shapes`, by published name, are exactly those of the model."""
    with torch.device("meta"):
        own = MVDream(config).published_state_dict()
    problems = mismatches({name: tuple(t.shape) for name, t in own.items()}, dict(shapes))
    if problems:
        raise BadInput(
            f"The checkpoint does not hold exactly the weights of the model ({problems}).",
            "Use checkpoint.ckpt of the text model as its authors published it; leave out what is "
            "not needed with --ignore NAME.",
        )


def with_schedule(config: MVDreamConfig, betas: Any) -> MVDreamConfig:
    """`config` with the noise schedule that the file holds. betas: (steps,).

    Raises BadInput for a schedule of another form.
    """
    given = np.asarray(betas, np.float64)
    diffusion = dataclasses.replace(
        config.diffusion,
        steps=len(given),
        first=round(float(given[0]), 8),
        last=round(float(given[-1]), 8),
    )
    if not np.allclose(diffusion.betas(), given, rtol=1e-4, atol=0):
        raise BadInput(
            "The checkpoint was trained with a noise schedule that is not known here.",
            "Use checkpoint.ckpt of the text model as its authors published it.",
        )
    return dataclasses.replace(config, diffusion=diffusion)
