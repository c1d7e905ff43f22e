"""Denoisers from state dicts and from checkpoints that users bring."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ...checkpoints import Checkpoint
from ...errors import BadInput
from .config import DenoiserConfig
from .denoiser import Denoiser

PREFIX = "model."
HEADS = 16
"""Of all published denoisers; weights do not tell it."""
SCHEDULE = frozenset({"betas", "alphas", "alpha_hats", "alpha_hats_prev"})
"""Tables beside the weights."""
FREQUENCIES = "scalar_embedder.frequencies"
REMEDY = "Give a checkpoint of HyperDiffusion as its authors published it."
_POSITIONS = "decoder.pos_emb"
_INPUT_NAME = "decoder.input_parameter_projections.{}.0.weight"
_INPUT = r"decoder\.input_parameter_projections\.(\d+)\.0\.weight"
_BLOCK = r"decoder\.blocks\.(\d+)\.ln1\.weight"


def denoiser(tensors: Mapping[str, torch.Tensor], heads: int = HEADS) -> Denoiser:
    """The denoiser with these weights, for inference. heads: cannot be told from weights; all
    published models have 16.

    Names may have the published checkpoints' "model." before them. Their tables of the schedule are
    left out: they all hold the betas, which are known. Raises BadInput for other weights.
    """
    weights = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in tensors.items()
        if name not in SCHEDULE
    }
    try:
        with torch.device("meta"):
            model = Denoiser(_config(weights, heads))
    except ValueError as error:
        raise BadInput(f"These weights make no denoiser: {error}.", REMEDY) from None
    expected = model.state_dict()
    odd = sorted(weights.keys() ^ expected.keys())
    odd += [name for name in expected if name in weights and not _fits(weights, expected, name)]
    if odd:
        raise BadInput(f"These are not the weights of a denoiser ({', '.join(odd[:3])}).", REMEDY)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def denoiser_from_checkpoint(path: Path, heads: int = HEADS) -> Denoiser:
    """From a published .ckpt, in float32. Nothing in the file is run, and of the state of its
    training nothing is read. Raises BadInput for a file that is none."""
    checkpoint = Checkpoint(path)
    tensors = {}
    for name, stored in checkpoint.state_dict().items():
        if name in SCHEDULE:
            continue
        if stored.dtype not in ("F64", "F32", "F16", "BF16"):
            raise BadInput(f"{name} in {path.name} holds no weights.", REMEDY)
        data = bytearray().join(checkpoint.lazy(stored, "F32").pieces())
        values = np.frombuffer(data, "<f4").reshape(stored.shape)
        tensors[name] = torch.from_numpy(values)
    return denoiser(tensors, heads)


def _config(weights: Mapping[str, torch.Tensor], heads: int) -> DenoiserConfig:
    found = (re.fullmatch(_INPUT, name) for name in weights)
    count = sum(match is not None for match in found)
    inputs = [weights.get(_INPUT_NAME.format(number)) for number in range(count)]
    matrices = [tensor for tensor in inputs if tensor is not None and tensor.dim() == 2]
    positions, frequencies = weights.get(_POSITIONS), weights.get(FREQUENCIES)
    if len(matrices) < 2 or len(matrices) != count or positions is None or frequencies is None:
        raise BadInput("This file holds no denoiser of weights.", REMEDY)
    return DenoiserConfig(
        tokens=tuple(tensor.shape[1] for tensor in matrices[:-1]),  # the last is time
        width=positions.shape[-1],
        depth=sum(re.fullmatch(_BLOCK, name) is not None for name in weights),
        heads=heads,
        time_octaves=float(frequencies[-1].log2()) if frequencies.numel() else 0.0,
    )


def _fits(
    weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], name: str
) -> bool:
    return weights[name].shape == expected[name].shape
