"""What is done with fields by themselves. No bpy."""

from __future__ import annotations

import dataclasses

import numpy as np

from ...backend.protocol import NeuralField


def moved(neural: NeuralField, matrix: np.ndarray) -> NeuralField:
    """The field with what it comes back as moved by (4, 4) `matrix`."""
    return dataclasses.replace(neural, to_source=matrix @ neural.to_source.astype(np.float64))


def between(first: NeuralField, second: NeuralField, amount: float) -> NeuralField:
    """The field that lies `amount`, 0 to 1, on the way from one to the other, in the first's place,
    as FieldToMesh makes it."""
    if amount in (0, 1):
        end = second if amount else first
        place = {name: getattr(first, name) for name in ("to_source", "fps", "loop")}
        return dataclasses.replace(end, **place)
    octaves = max(first.frequencies, second.frequencies)
    first, second = first.widened(octaves), second.widened(octaves)
    end = second.weights.astype(np.float64)
    end[-1] += first.level - second.level  # so that both surfaces lie at one level
    mixed = (1 - amount) * first.weights.astype(np.float64) + amount * end
    start = first.start if first.start == second.start else ""
    return dataclasses.replace(first, weights=mixed.astype(np.float32), start=start)
