"""A neural field, or what lies between two, as meshes: all frames of each amount in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch

from .. import device as devices
from ..models.hyperdiffusion import mixing
from ..moving_meshes import Mesh
from ..neural_fields import NeuralField, playable_fps
from ..protocol import AnimationResult, FieldToMesh, Progress, Result, Task
from ..work_steps import part
from . import Context, field_surfaces, memory
from .stages import Stages

FAR = 0.6
"""Distance of two weight vectors, in the length of the longer, from which on they have nothing to
do with each other: 0.2 is usual of fields fitted from one start, 0.85 of those that were not."""

_EXTRACTED = 0.8  # of a job that goes on to one topology


def field_to_mesh(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Decode, in the place of the first field.

    Between two fields shapes are mixed by their weights where that keeps them whole, else by the
    distances to their surfaces (`models/hyperdiffusion/mixing.py`); the report says which: "mixed".
    Raises BadInput where a field has nothing inside, OutOfMemory before anything is done.
    """
    assert isinstance(task, FieldToMesh)  # noqa: S101 - the table of pipelines says so
    stages = Stages(context)
    yield stages.at("Reading the field", 0.0)
    device = devices.pick(context.device)
    frames = list(range(task.frame_count)) if task.frames is None else task.frames.tolist()
    count = len(frames) * len(task.amounts)
    memory.require(field_surfaces.working_bytes(task.resolution, count), "cpu")
    fields = task.fields()
    way, notes = "", list[str]()
    if len(fields) == 2:
        yield stages.at("Looking at what lies between", 0.0)
        way, notes = way_between(fields, frames, device)
    one = task.topology == "one"
    steps = part(
        meshes_of(task, fields, frames, way, device, context), 0.0, _EXTRACTED if one else 1
    )
    meshes = yield from stages.of(steps)
    field_surfaces.check_not_empty(
        meshes,
        "Nothing is inside of this field.",
        "Choose another one, or make it anew from its object.",
    )
    placing = field_surfaces.placed(
        meshes, task.to_source, task.resolution, task.topology, context.check_cancelled
    )
    moving = yield from stages.of(part(placing, _EXTRACTED, 1.0))
    neural = mixed_field(fields, task.amounts, way)
    yield AnimationResult(
        **vars(field_surfaces.animation(fields[0], moving, task.name))
        | {
            "neural": neural,
            "amounts": task.amounts if len(fields) == 2 else None,
            "fps": fps_of(task, frames),
            "report": {
                **field_surfaces.counts(moving),
                **moving.report,
                **({"mixed": way} if way else {}),
                "notes": [*notes, *moving.notes],
                "seconds": stages.seconds(),
                "device": device,
                "model": task.model,
                "seed": task.seed,
                "resolution": task.resolution,
            },
        }
    )


def way_between(
    fields: Sequence[NeuralField], frames: Sequence[int], device: str
) -> tuple[str, list[str]]:
    """How two fields are mixed, and what to tell of it."""
    first = fields[0]
    if first.layout != fields[1].layout:
        return mixing.DISTANCES, [_OTHER_LAYOUTS]
    config = field_surfaces.config_of(first)
    begin, end = (field_surfaces.vector_of(field, device) for field in fields)
    if not alike_enough(begin, end):
        return mixing.DISTANCES, [_OTHER_STARTS]
    looked_at = [None] if not first.moves else sorted({frames[0], frames[len(frames) // 2]})
    look = mixing.look(config, begin, end, first.level, looked_at)
    if look.holds:
        return mixing.WEIGHTS, []
    return mixing.DISTANCES, [
        f"Between the two the shape {look.reason} when their networks are mixed, so their surfaces"
        " were mixed instead."
    ]


def alike_enough(first: torch.Tensor, last: torch.Tensor) -> bool:
    """Whether weights (W,) lie so near to one another that what is between is worth a look."""
    return float((first - last).norm()) <= FAR * max(float(first.norm()), float(last.norm()))


_OTHER_LAYOUTS = (
    "Only one of the two networks knows that its motion repeats, so their surfaces were mixed"
    " instead of them."
)
_OTHER_STARTS = (
    "The two networks have too little to do with each other, so their surfaces were mixed instead."
)


def meshes_of(
    task: FieldToMesh,
    fields: Sequence[NeuralField],
    frames: Sequence[int],
    way: str,
    device: str,
    context: Context,
) -> Generator[tuple[str, float], None, list[Mesh]]:
    """The meshes of all amounts, each with its frames in order, in the frame of the fields."""
    side, check = task.resolution, context.check_cancelled
    if len(fields) == 1:
        found = yield from field_surfaces.surfaces(fields[0], frames, side, device, check)
        return found * len(task.amounts)
    config, last_config = (field_surfaces.config_of(field) for field in fields)
    begin, end = (field_surfaces.vector_of(field, device) for field in fields)
    amounts = [float(amount) for amount in task.amounts]
    by_frame: list[list[Mesh]] = []
    for count, number in enumerate(frames):
        frame = number if fields[0].moves else None
        meshes: list[Mesh] = []
        between = mixing.between(
            config, begin, end, amounts, side, task.level, frame, way, last_config
        )
        for mesh in between:
            check()
            meshes.append(field_surfaces.tidy(mesh, side))
            done = (count + len(meshes) / len(amounts)) / len(frames)
            yield "Extracting the surface", done
        by_frame.append(meshes)
    return [meshes[at] for at in range(len(amounts)) for meshes in by_frame]


def mixed_field(fields: Sequence[NeuralField], amounts: np.ndarray, way: str) -> NeuralField | None:
    """The one field that the meshes are of, None where there are several or none."""
    if len(fields) == 1:
        return fields[0]
    if len(amounts) > 1:
        return None
    amount = float(amounts[0])
    if amount in (0.0, 1.0):
        return dataclasses.replace(fields[int(amount)], to_source=fields[0].to_source)
    if way != mixing.WEIGHTS:
        return None
    first, last = (torch.from_numpy(field.weights.astype(np.float32)) for field in fields)
    weights = mixing.by_weights(first, last, amount).numpy()
    start = fields[0].start if fields[0].start == fields[1].start else ""
    return dataclasses.replace(fields[0], weights=weights, start=start)


def fps_of(task: FieldToMesh, frames: Sequence[int]) -> float:
    """Of some of the frames, so that the motion takes its own time."""
    return playable_fps(task.fps * len(frames) / task.frame_count)
