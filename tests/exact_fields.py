"""Neural fields whose surface is known: octahedra, which a small network is exactly.

|x| + |y| + |z| is the sum of six rectified coordinates, so one hidden layer of six is all it takes;
with a fourth coordinate they move along x.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend import weights
from backend.models.hyperdiffusion.config import FieldConfig
from backend.models.hyperdiffusion.model import ComponentsConfig, FieldModel, FieldModelConfig
from backend.neural_fields import NeuralField

LAYOUT: dict[str, Any] = {"frequencies": 0, "hidden": (6,)}
SPEED = 0.02
STEEP = 50.0
PLACE = np.array([[0, 0, 4.0, 1], [4.0, 0, 0, 2], [0, 4.0, 0, 3], [0, 0, 0, 1]])
"""Turned, four times as large, and moved."""


def vector(
    radius: float,
    centre: tuple[float, float, float] = (0, 0, 0),
    *,
    moving: bool = False,
    order: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
) -> np.ndarray:
    """(W,) float32 of the octahedron that reaches `radius` along the axes. order: of the hidden
    numbers, which changes nothing but the weights."""
    dimensions = 4 if moving else 3
    matrix = np.zeros((6, dimensions))
    bias = np.zeros(6)
    for axis in range(3):
        for side, sign in enumerate((1, -1)):
            matrix[2 * axis + side, axis] = sign
            bias[2 * axis + side] = -sign * centre[axis]
            if moving and axis == 0:
                matrix[2 * axis + side, 3] = -sign * SPEED
    matrix, bias = matrix[list(order)], bias[list(order)]
    last = np.full(6, -STEEP)
    parts = [matrix.ravel(), bias, last, [STEEP * radius]]
    return np.concatenate(parts).astype(np.float32)


def octahedron(
    radius: float, centre: tuple[float, float, float] = (0, 0, 0), **more: Any
) -> NeuralField:
    """At rest, in its own frame unless told."""
    order = more.pop("order", (0, 1, 2, 3, 4, 5))
    return NeuralField(weights=vector(radius, centre, order=order), **{**LAYOUT, **more})


def moving(
    radius: float, centre: tuple[float, float, float] = (0, 0, 0), **more: Any
) -> NeuralField:
    """Five frames, each SPEED further along x."""
    fields = {"dimensions": 4, "frame_count": 5, "fps": 10.0, **LAYOUT, **more}
    return NeuralField(weights=vector(radius, centre, moving=True), **fields)


def circling(radius: float, away: float, frames: int = 16) -> NeuralField:
    """It goes round `away` from the middle, in the plane of x and y, once in so many frames."""
    config = FieldConfig(4, **LAYOUT, period=frames)
    matrix = np.zeros((6, config.encoded))
    for axis in range(3):
        matrix[2 * axis, axis], matrix[2 * axis + 1, axis] = 1, -1
    # The phase is told as its sine, its cosine, and those of its octaves.
    matrix[0:2, 4] = [-away, away]
    matrix[2:4, 3] = [-away, away]
    parts = [matrix.ravel(), np.zeros(6), np.full(6, -STEEP), [STEEP * radius]]
    weights = np.concatenate(parts).astype(np.float32)
    fields: dict[str, Any] = {"dimensions": 4, "frame_count": frames, "loop": True, **LAYOUT}
    return NeuralField(weights=weights, period=frames, **fields)


def write_model(
    folder: Path, *, is_moving: bool = False, names: tuple[str, ...] = (), radius: float = 0.25
) -> None:
    """A model of two components, the radius and the place, around an octahedron."""
    torch.manual_seed(3)
    config = FieldModelConfig(
        field=FieldConfig(4 if is_moving else 3, **LAYOUT),
        denoiser=ComponentsConfig(components=2, width=8, depth=1),
        space="components",
        frames=5 if is_moving else 1,
        fps=10.0,
        names=names,
        steps=4,
    )
    model = FieldModel(config, known=3, known_names=("small", "middle", "large"))
    mean = vector(radius, moving=is_moving)
    directions = [
        vector(radius + 0.1, moving=is_moving) - mean,
        vector(radius, (0, 0.05, 0), moving=is_moving) - mean,
    ]
    basis = np.stack([direction / np.linalg.norm(direction) for direction in directions])
    with torch.no_grad():
        model.space.mean.copy_(torch.from_numpy(mean))
        model.space.basis.copy_(torch.from_numpy(basis.astype(np.float32)))
        model.space.scale.copy_(torch.tensor([2.0, 0.05]))
        out = model.denoiser.components_out
        out.weight.normal_(0, 0.3)
        model.known.copy_(torch.tensor([[-1.0, 0], [0, 0], [1.0, 0]]))
    weights.write_model(
        folder,
        id=folder.name,
        title=folder.name,
        family="hyperdiffusion",
        tasks=("animation",) if is_moving else ("shape",),
        config={"model": config.to_dict(), "known_names": ["small", "middle", "large"]},
        tensors=model.state_dict(),
        steps=4,
    )
