"""What is sent to the backend about fields. No bpy: it runs in a thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...backend.errors import BadInput
from ...backend.protocol import Animation, FieldToMesh, MeshToField, NeuralField, Task
from ..compose import Choices, PictureCapture, Placement, usable_linear


@dataclass(frozen=True, eq=False)
class Frame:
    """An object in one frame. vertices: (V, 3) float32 in its own space; triangles: (T, 3) int32;
    matrix_world: (4, 4) float64."""

    vertices: np.ndarray
    triangles: np.ndarray
    matrix_world: np.ndarray


@dataclass(frozen=True, eq=False)
class CompressRequest(PictureCapture):
    """An object, or what it does over some frames, as a field. fields: of the task.

    What moves the object as a whole is a part of the motion: all frames are sent in world axes, and
    come back in the object's own space in the first of them in which it has one.
    """

    name: str
    frames: list[Frame]
    fields: dict[str, Any] = field(default_factory=dict)

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        first, linear = _placing(self.frames, self.name)
        centre = _middle(first)
        meshes = [_in_task_frame(frame, centre) for frame in self.frames]
        task = MeshToField(
            name=self.name,
            model=choices.model,
            seed=choices.seed,
            vertices=np.concatenate([vertices for vertices, _ in meshes]),
            faces=np.concatenate([faces for _, faces in meshes]),
            vertex_counts=np.array([len(vertices) for vertices, _ in meshes], np.int32),
            face_counts=np.array([len(faces) for _, faces in meshes], np.int32),
            resolution=choices.resolution,
            **self.fields,
        )
        return task, Placement(first.matrix_world, linear, centre - first.matrix_world[:3, 3])


def _placing(frames: list[Frame], name: str) -> tuple[Frame, np.ndarray]:
    """The first frame that shows the object in a size, with the (3, 3) part of its matrix: what
    grows out of nothing has none before. Raises BadInput where no frame does."""
    shown = [frame for frame in frames if len(frame.triangles)] or frames
    for frame in shown:
        try:
            return frame, usable_linear(frame.matrix_world, name)
        except BadInput:
            if len(frames) == 1:
                raise
    raise BadInput(
        f"{name} is flattened in each of the {len(frames)} frames that were read: its scale is zero"
        " along an axis.",
        "Choose a frame range in which its scale, and that of its parents, is above zero.",
    )


def _middle(frame: Frame) -> np.ndarray:
    """(3,) float64 in the world: of the vertices that are numbers."""
    known = frame.vertices[np.isfinite(frame.vertices).all(axis=1)].astype(np.float64)
    if not len(known):
        return frame.matrix_world[:3, 3].copy()
    there = known @ frame.matrix_world[:3, :3].T + frame.matrix_world[:3, 3]
    return (there.min(axis=0) + there.max(axis=0)) / 2


def _in_task_frame(frame: Frame, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World axes, `centre` as the origin; faces stay counter-clockwise from outside."""
    linear, shift = frame.matrix_world[:3, :3], frame.matrix_world[:3, 3] - centre
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number, the task tells
        there = (frame.vertices.astype(np.float64) @ linear.T + shift).astype(np.float32)
    mirrored = np.linalg.det(linear) < 0
    return there, frame.triangles[:, ::-1] if mirrored else frame.triangles


@dataclass(frozen=True, eq=False)
class MotionRequest(PictureCapture):
    """A moving shape of the model's own choice. matrix_world: (4, 4), where the models' cube goes;
    fields: of the task."""

    name: str
    matrix_world: np.ndarray
    fields: dict[str, Any] = field(default_factory=dict)

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        task = Animation(
            name=self.name,
            model=choices.model,
            seed=choices.seed,
            resolution=choices.resolution,
            **self.fields,
        )
        return task, Placement(self.matrix_world)


@dataclass(frozen=True, eq=False)
class MeshRequest(PictureCapture):
    """A field, or steps between two, as meshes. matrix_world: of the root whose fields they are."""

    name: str
    neurals: tuple[NeuralField, ...]
    matrix_world: np.ndarray
    amounts: tuple[float, ...] = (0.0,)
    topology: str = "frames"

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        task = FieldToMesh.of(
            *self.neurals,
            amounts=self.amounts,
            name=self.name,
            resolution=choices.resolution,
            topology=self.topology,
        )
        return task, Placement(self.matrix_world)
