"""What of a published checkpoint (.ckpt) makes a model of the store: read when it is written."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...checkpoints import Checkpoint
from ...errors import BadInput
from ...tensor_files import LazyTensor, as_lazy
from . import loading
from .model import published_config
from .weights_vector import token_sizes


@dataclasses.dataclass(frozen=True)
class Contents:
    """config: of model.json; tensors: by name as `model.load` wants them; moving: whether what it
    makes moves."""

    config: dict[str, Any]
    tensors: dict[str, LazyTensor]
    moving: bool


def contents(checkpoint: Checkpoint, dtype: str | None, ignore: Sequence[str] = ()) -> Contents:
    """dtype: of the file that is to be written, such as "F16", None: as they are. ignore: patterns
    of names to leave out. Raises BadInput for another checkpoint."""
    stored = {
        name.removeprefix(loading.PREFIX): tensor
        for name, tensor in checkpoint.state_dict().items()
        if name not in loading.SCHEDULE and not any(fnmatch.fnmatch(name, one) for one in ignore)
    }
    shapes: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        if tensor.dtype not in ("F64", "F32", "F16", "BF16"):
            raise BadInput(f"{name} holds no weights.", loading.REMEDY)
        shapes[name] = torch.empty(tensor.shape, device="meta")
    if loading.FREQUENCIES in stored:
        data = bytearray().join(checkpoint.lazy(stored[loading.FREQUENCIES], "F32").pieces())
        shapes[loading.FREQUENCIES] = torch.from_numpy(np.frombuffer(data, "<f4").copy())
    denoiser = loading.denoiser(shapes)  # tells what is missing or of another shape
    config = published_config(denoiser.config)
    exact = {loading.FREQUENCIES: "F32"}  # what comes of them rests on their last digits
    tensors = {
        f"denoiser.{name}": checkpoint.lazy(tensor, exact.get(name, dtype))
        for name, tensor in stored.items()
    }
    tensors["known"] = as_lazy(np.zeros((0, sum(token_sizes(config.field))), np.float32))
    return Contents({"model": config.to_dict()}, tensors, config.moving)
