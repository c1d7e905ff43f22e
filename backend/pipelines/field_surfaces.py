"""Neural fields -> meshes in the frame of their source: what all pipelines of fields share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import BadInput
from ..geometry import surface_tracking
from ..geometry.components import without_specks
from ..geometry.transforms import apply_to_faces, apply_to_points, compose
from ..models.hyperdiffusion import surface
from ..models.hyperdiffusion.config import FieldConfig
from ..moving_meshes import Mesh, joined
from ..neural_fields import NeuralField
from ..protocol import AnimationResult

FIELD_TO_CUBE = np.diag([2.0, 2.0, 2.0, 1.0])
"""From the frame of fields, [-0.5, 0.5]^3, to the cube of the models."""

SPECK = 2.0
"""Parts shorter than so many nodes along every axis are left out where there are longer ones."""

_TOLERANCE = 1.5
"""Nodes that a mesh of one topology may be off the surfaces of the frames."""

_GRID_BYTES = 24  # of each node of a grid, its surface included

Steps = Generator[tuple[str, float], None, list[Mesh]]


def config_of(neural: NeuralField) -> FieldConfig:
    """The network of a field."""
    return FieldConfig(neural.dimensions, neural.frequencies, neural.hidden, neural.period)


def vector_of(neural: NeuralField, device: str) -> torch.Tensor:
    """The weights (W,) float32 on a device."""
    return torch.from_numpy(neural.weights.astype(np.float32)).to(device)


def start_name(start: np.ndarray) -> str:
    """What a start vector (W,) is called in fields that began with it, or lie around it."""
    return hashlib.sha256(np.ascontiguousarray(start, "<f4").tobytes()).hexdigest()[:16]


def working_bytes(side: int, frames: int = 1) -> int:
    """Memory of making one surface on side^3 nodes, and of keeping those of all frames."""
    return _GRID_BYTES * side**3 + frames * 60 * side**2


def surfaces(
    neural: NeuralField,
    frames: Sequence[int],
    side: int,
    device: str,
    check_cancelled: Callable[[], None],
) -> Steps:
    """The surface of each of the frames in the frame of the field, by side^3 nodes."""
    config, vector = config_of(neural), vector_of(neural, device)
    found = []
    for count, number in enumerate(frames):
        yield "Extracting the surface", count / len(frames)
        frame = number if neural.moves else None
        logits = asking(surface.field_function(config, vector, frame), check_cancelled)
        sampled = surface.sample_near_surface(logits, side, neural.level)
        found.append(tidy(surface.surface(sampled, neural.level), side))
    return found


def asking(logits: surface.Field, check_cancelled: Callable[[], None]) -> surface.Field:
    """The same field, that asks between many points whether the job is still wanted."""
    most = 1 << 18

    def asked(points: np.ndarray) -> np.ndarray:
        parts = []
        for begin in range(0, len(points), most):
            check_cancelled()
            parts.append(logits(points[begin : begin + most]))
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    return asked


def tidy(mesh: Mesh, side: int) -> Mesh:
    """Without specks, which are noise of the network."""
    return without_specks(*mesh, SPECK / (side - 1))


@dataclass(frozen=True, eq=False)
class Moving:
    """arrays: vertices, faces and counts of an AnimationResult, in the frame of the source.
    notes: for the artist. report: what was measured."""

    arrays: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


def placed(
    meshes: list[Mesh],
    to_source: np.ndarray,
    side: int,
    topology: str,
    check_cancelled: Callable[[], None],
) -> Generator[tuple[str, float], None, Moving]:
    """Meshes in the frame of the field -> the arrays of an animation in the frame of its source.

    topology "one": one mesh that moves, where it can be led through all frames; else one a frame,
    and a note says why.
    """
    notes: list[str] = []
    if topology == "one" and len(meshes) > 1:
        tolerance = _TOLERANCE / (side - 1)
        tracked = yield from surface_tracking.track(meshes, tolerance, check_cancelled)
        if tracked.vertices is not None:
            moved = [apply_to_points(to_source, places) for places in tracked.vertices]
            faces = apply_to_faces(to_source, tracked.faces)
            arrays = {"vertices": np.stack(moved), "faces": np.ascontiguousarray(faces, np.int32)}
            return Moving(arrays, notes, {"off": max(check.mean for check in tracked.checks)})
        notes.append(
            "There is a mesh for each frame: no single one could be led through them all"
            + (f" (frame {tracked.failed + 1} differs too much)." if tracked.checks else ".")
            if tracked.failed is not None
            else "There is a mesh for each frame."
        )
    moved_meshes = [
        (apply_to_points(to_source, vertices), apply_to_faces(to_source, faces))
        for vertices, faces in meshes
    ]
    if topology == "one" and len(meshes) == 1:
        vertices, faces = moved_meshes[0]
        return Moving({"vertices": vertices[None], "faces": np.ascontiguousarray(faces, np.int32)})
    return Moving(joined(moved_meshes), notes)


def check_not_empty(meshes: Sequence[Mesh], cause: str, remedy: str) -> None:
    """Raise BadInput where no mesh has a face."""
    if not any(len(faces) for _, faces in meshes):
        raise BadInput(cause, remedy)


def animation(neural: NeuralField, moving: Moving, name: str, **more: Any) -> AnimationResult:
    """The result of a field's meshes."""
    return AnimationResult(
        name=name,
        **moving.arrays,
        fps=neural.fps,
        loop=neural.loop,
        to_source=compose(neural.to_source, np.linalg.inv(FIELD_TO_CUBE)),
        **more,
    )


def counts(moving: Moving) -> dict[str, int]:
    """What a report says of the meshes: all of them together."""
    vertices, faces = moving.arrays["vertices"], moving.arrays["faces"]
    frames = len(vertices) if vertices.ndim == 3 else len(moving.arrays["vertex_counts"])
    return {
        "vertices": int(vertices.shape[-2]),
        "faces": len(faces),
        "frames": frames,
    }
