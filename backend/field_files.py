"""Files of neural fields (.ffield): what a shape, or one that moves, weighs as a small network.

A .ffield file is a safetensors file. Its tensors have the published names layers.0.weight,
layers.0.bias, .., so that any program that reads safetensors has the network; what else belongs to
the field (dimensions, frequencies, level, frames, place) is its metadata. Standard library and
numpy, nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .errors import BadInput, NotFound, VersionMismatch
from .neural_fields import NeuralField, check_layout, layer_sizes
from .protocol import Arrays, pack, unpack

SUFFIX = ".ffield"
FORMAT = "fieldforge-field"
VERSIONS = (1, 2)
"""2 where a field has a period, which readers of 1 know nothing of."""
MAX_BYTES = 64 << 20

_REMEDY = "Give a .ffield file that Fieldforge wrote, whole and unchanged."
_NUMBERS = ("dimensions", "frequencies", "level", "frame_count", "fps", "loop", "start")


def to_bytes(field: NeuralField, name: str = "Fieldforge") -> bytes:
    """The file of a field. The same field gives the same bytes."""
    field.check()
    message: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSIONS[bool(field.period)],
        "name": name,
    }
    message |= {key: getattr(field, key) for key in _NUMBERS}
    message |= {"hidden": list(field.hidden), "to_source": field.to_source.tolist()}
    if field.period:
        message["period"] = field.period
    return pack(tensors_of(field), message)


def tensors_of(field: NeuralField) -> Arrays:
    """The network by its published names."""
    found: Arrays = {}
    at = 0
    sizes = layer_sizes(field.dimensions, field.frequencies, field.hidden, field.period)
    for number, (outputs, inputs) in enumerate(sizes):
        matrix = field.weights[at : at + outputs * inputs]
        at += outputs * inputs
        found[f"layers.{number}.weight"] = matrix.reshape(outputs, inputs)
        found[f"layers.{number}.bias"] = field.weights[at : at + outputs]
        at += outputs
    return found


def from_bytes(body: bytes, what: str = "The file") -> tuple[NeuralField, str]:
    """A field, and its name. what: how the file is called in errors.

    Raises BadInput for other bytes, VersionMismatch for a file of a later Fieldforge.
    """
    try:
        arrays, message = unpack(body)
    except BadInput as error:
        raise BadInput(f"{what} is no neural field: {error.cause}", _REMEDY) from None
    if message.get("format") != FORMAT:
        raise BadInput(f"{what} is no neural field.", _REMEDY)
    if message.get("version") not in VERSIONS:
        raise VersionMismatch(
            f"{what} was written by another version of Fieldforge.", "Update Fieldforge."
        )
    field = _field(arrays, message, what)
    field.check()
    name = message.get("name")
    return field, name if isinstance(name, str) and 0 < len(name) <= 255 else "Field"


def _field(arrays: Arrays, message: dict[str, Any], what: str) -> NeuralField:
    hidden, place = message.get("hidden"), message.get("to_source")
    layout = (message.get("dimensions"), message.get("frequencies"))
    widths = tuple(hidden) if isinstance(hidden, list) else ()
    period = message.get("period", 0)  # files of earlier versions have none
    check_layout(*layout, widths, message.get("frame_count"), period)
    try:
        to_source = np.array(place, np.float64)
        parts = [
            arrays[f"layers.{number}.{part}"].reshape(-1)
            for number in range(len(widths) + 1)
            for part in ("weight", "bias")
        ]
        numbers = {key: message[key] for key in _NUMBERS}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise BadInput(f"{what} lacks a part of its field.", _REMEDY) from None
    if len({part.dtype for part in parts}) > 1:
        raise BadInput(f"{what} has weights of several kinds.", _REMEDY)
    field = NeuralField(
        weights=np.concatenate(parts), hidden=widths, period=period, to_source=to_source, **numbers
    )
    if _tensor_shapes(field) != {name: array.shape for name, array in arrays.items()}:
        raise BadInput(f"{what} has layers that do not fit each other.", _REMEDY)
    return field


def _tensor_shapes(field: NeuralField) -> dict[str, tuple[int, ...]]:
    """What shapes the tensors of such a field have."""
    found: dict[str, tuple[int, ...]] = {}
    sizes = layer_sizes(field.dimensions, field.frequencies, field.hidden, field.period)
    for number, (outputs, inputs) in enumerate(sizes):
        found[f"layers.{number}.weight"] = (outputs, inputs)
        found[f"layers.{number}.bias"] = (outputs,)
    return found


def read(path: Path) -> tuple[NeuralField, str]:
    """The field in a .ffield file, and its name. Raises NotFound, BadInput, VersionMismatch."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path.name} is too large for a neural field.", _REMEDY)
        body = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.", "Check its name.") from None
    except OSError as error:
        raise BadInput(
            f"{path.name} cannot be read ({error.strerror or error}).",
            "Check that it is a file, and who may read it.",
        ) from None
    return from_bytes(body, path.name)
