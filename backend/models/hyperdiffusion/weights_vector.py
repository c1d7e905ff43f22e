"""The weights of a field as one vector, in the published order, and back.

Layer by layer, in each the weight (row-major) before the bias. Files of named tensors list names
alphabetically, the bias before the weight: so the order is never taken from a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import torch

from ...errors import BadInput
from .config import FieldConfig

_REMEDY = "Give the weights of a field as HyperDiffusion or Fieldforge saved them."


def layout(config: FieldConfig) -> list[tuple[str, torch.Size]]:
    """Names and shapes of a field's tensors in the order of the vector."""
    found = []
    for number, (inputs, outputs) in enumerate(pairwise(config.widths)):
        found.append((f"layers.{number}.weight", torch.Size((outputs, inputs))))
        found.append((f"layers.{number}.bias", torch.Size((outputs,))))
    return found


def token_sizes(config: FieldConfig) -> tuple[int, ...]:
    """How many weights each tensor has: the published denoisers make one token of each."""
    return tuple(shape.numel() for _, shape in layout(config))


def flatten(config: FieldConfig, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The vector (W,) of a state dict. Raises BadInput for one that is of no such field."""
    expected = dict(layout(config))
    if tensors.keys() != expected.keys():
        odd = ", ".join(sorted(tensors.keys() ^ expected.keys())[:3])
        raise BadInput(f"These are not the weights of such a field ({odd}).", _REMEDY)
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise BadInput(
                f"{name} is {tuple(tensors[name].shape)}, the field has {tuple(shape)}.", _REMEDY
            )
    return torch.cat([tensors[name].reshape(-1) for name in expected])


def unflatten(config: FieldConfig, vector: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state dict of a vector (W,), as views of it. Raises BadInput for another length."""
    expected = layout(config)
    sizes = token_sizes(config)
    if vector.shape != (sum(sizes),):
        raise BadInput(
            f"A vector of {vector.numel()} weights, the field has {sum(sizes)}.", _REMEDY
        )
    pieces = vector.split(sizes)
    return {name: piece.view(shape) for (name, shape), piece in zip(expected, pieces, strict=True)}


def field_of(tensors: Mapping[str, torch.Tensor]) -> FieldConfig:
    """The field whose state dict this is, told from its shapes.

    As published: no number of encoded coordinates is one of both 3 and 4 dimensions, for 3 give
    odd and 4 even ones. That a field is told the phase of a motion, its weights do not say.
    Raises BadInput where there is none.
    """
    numbers = [re.fullmatch(r"layers\.(\d+)\.weight", name) for name in tensors]
    count = sum(match is not None for match in numbers)
    weights = [tensors.get(f"layers.{number}.weight") for number in range(count)]
    shapes = [weight.shape for weight in weights if weight is not None and weight.dim() == 2]
    if len(shapes) < 2 or len(shapes) != count:
        raise BadInput("This file holds no weights of a field.", _REMEDY)
    for dimensions in (3, 4):
        frequencies, rest = divmod(shapes[0][1] - dimensions, 2 * dimensions)
        if not rest and frequencies >= 0:
            hidden = tuple(shape[0] for shape in shapes[:-1])
            config = FieldConfig(dimensions, frequencies, hidden)
            flatten(config, tensors)
            return config
    raise BadInput(f"No field encodes points as {shapes[0][1]} numbers.", _REMEDY)
