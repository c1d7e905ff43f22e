"""What a finished job about fields brought back, ready for the scene. No bpy; runs in a thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...backend.protocol import (
    AnimationResult,
    AnimationSet,
    FieldResult,
    MeshResult,
    NeuralField,
    Result,
)
from ..arrival import to_local
from ..compose import PlacedMesh, Placement, place
from .weights import moved

KEYS, MESHES = "KEYS", "MESHES"


@dataclass(frozen=True, eq=False)
class MovingShape:
    """Meshes in the space of the root that is going to carry them.

    frames: of each frame, and of each amount one after the other; None where nothing is there.
    positions: (F, V, 3) float32 of all frames where only the vertices of one mesh move, else None.
    neural: the field, which leads into that space, or None. ends: the two fields between which the
    amounts lie, or nothing. seed: of the variation.
    """

    frames: list[PlacedMesh | None]
    positions: np.ndarray | None
    fps: float
    loop: bool
    neural: NeuralField | None
    seed: int
    report: dict[str, Any] = field(default_factory=dict)
    ends: tuple[NeuralField, ...] = ()

    @property
    def faces(self) -> int:
        """Of the frame that has most."""
        return max(0 if mesh is None else len(mesh.triangles) for mesh in self.frames)


@dataclass(frozen=True, eq=False)
class FieldArrival:
    """shapes: the variations, or one. amounts: (M,) of the steps between two shapes, or None."""

    shapes: list[MovingShape]
    amounts: np.ndarray | None
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def faces(self) -> int:
        return sum(shape.faces for shape in self.shapes)


def fields_arrived(
    result: Result, placement: Placement, seed: int, ends: Callable[[], tuple[NeuralField, ...]]
) -> FieldArrival | None:
    """What `result` puts into the file; None where it is about nothing that may move.

    ends: asked for the two fields where the result lies between two. Raises BadInput for a result
    that is damaged, or shows nothing.
    """
    match result:
        case FieldResult():
            made = dataclasses.replace(result.animation, neural=result.neural)
            shape = dataclasses.replace(_shape(made, placement, seed), report=result.report)
            return FieldArrival([shape], None, result.report)
        case AnimationResult():
            shape = _shape(result, placement, seed)
            if result.amounts is not None and len(result.amounts) > 1:
                local = to_local(placement)
                both = tuple(moved(neural, local) for neural in ends())
                shape = dataclasses.replace(shape, ends=both)
            return FieldArrival([shape], result.amounts, result.report)
        case AnimationSet():
            shapes = [
                _shape(animation, placement, seed + number)
                for number, animation in enumerate(result.animations)
                if any(len(faces) for _, faces in animation.meshes())
            ]
            if not shapes:  # says what is wrong with them
                shapes = [_shape(each, placement, seed) for each in result.animations[:1]]
            return FieldArrival(shapes, None, result.report)
    return None


def _shape(result: AnimationResult, placement: Placement, seed: int) -> MovingShape:
    meshes = result.meshes()
    told = result.report.get("seed")
    positions = None
    if result.one_topology:
        first = _placed(meshes[0], placement)
        positions = np.stack([_local(vertices, placement) for vertices, _ in meshes])
        frames = [dataclasses.replace(first, vertices=own) for own in positions]
    else:
        frames = [_placed(mesh, placement) if len(mesh[1]) else None for mesh in meshes]
        if not any(frames):
            _placed(meshes[0], placement)  # says that it is empty
    neural = result.neural
    return MovingShape(
        frames,
        positions if len(meshes) > 1 else None,
        result.fps,
        result.loop,
        None if neural is None else moved(neural, to_local(placement)),
        told if type(told) is int else seed,
        result.report,
    )


def _placed(mesh: tuple[np.ndarray, np.ndarray], placement: Placement) -> PlacedMesh:
    return place(MeshResult(vertices=mesh[0], faces=mesh[1]), placement)


def _local(vertices: np.ndarray, placement: Placement) -> np.ndarray:
    """(V, 3) float32 of the task frame -> of the root's own space."""
    inverse = np.linalg.inv(placement.linear)
    return ((vertices.astype(np.float64) + placement.centre) @ inverse.T).astype(np.float32)


def transformed(shape: MovingShape, matrix: np.ndarray) -> MovingShape:
    """The shape moved by (4, 4) `matrix`, its field, too."""

    def there(vertices: np.ndarray) -> np.ndarray:
        return (vertices @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)

    frames = [
        None if mesh is None else dataclasses.replace(mesh, vertices=there(mesh.vertices))
        for mesh in shape.frames
    ]
    positions = None if shape.positions is None else there(shape.positions)
    return dataclasses.replace(
        shape,
        frames=frames,
        positions=positions,
        neural=None if shape.neural is None else moved(shape.neural, matrix),
        ends=tuple(moved(neural, matrix) for neural in shape.ends),
    )
