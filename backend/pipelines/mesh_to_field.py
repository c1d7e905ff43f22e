"""A mesh, or one that moves, becomes a small neural field, and comes back as a mesh to look at.

frame the meshes -> sample points and what is inside -> fit -> surface of every frame
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .. import device as devices
from .. import field_files
from ..errors import BadInput
from ..geometry.transforms import apply_to_points, compose, inverse
from ..models.hyperdiffusion import fitting, occupancy
from ..models.hyperdiffusion.config import FieldConfig
from ..moving_meshes import split
from ..neural_fields import NeuralField
from ..protocol import FieldResult, MeshToField, Progress, Result, Task, turned_up
from ..work_steps import part
from . import Context, field_surfaces, memory
from .background import Report, in_background
from .stages import Stages

CHECKED = 100_000
"""Points on which the field is measured, of all frames together, that it was not fitted to."""

_PUBLISHED_FRAMES = 16
_SAMPLE_BYTES = 90  # of each point, while points are made and fitted

# Where the job stands at the end of each part of it.
_FRAMED, _SAMPLED, _FITTED, _EXTRACTED = 0.03, 0.15, 0.85, 0.95


@dataclass(frozen=True, eq=False)
class _Fit:
    neural: NeuralField
    fitted: fitting.Fitted
    iou: float
    notes: list[str]


def mesh_to_field(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Fit a field and decode it. Vertices come back in the frame of the source.

    Raises BadInput for meshes that have no inside, OutOfMemory before anything is done.
    """
    assert isinstance(task, MeshToField)  # noqa: S101 - the table of pipelines says so
    stages = Stages(context)
    yield stages.at("Looking at the mesh", 0.0)
    device = devices.pick(context.device)
    frames = task.frame_count
    memory.require(
        _SAMPLE_BYTES * 2 * points_of(frames) * frames
        + 6 * (task.vertices.nbytes + task.faces.nbytes)
        + field_surfaces.working_bytes(task.resolution, frames),
        "cpu",
        "Choose a lower resolution or fewer frames, decimate the object, or close other programs.",
    )
    steps = in_background(lambda report: _fitted(task, report), context, "fitting")
    fit = yield from stages.of(steps)
    decoding = field_surfaces.surfaces(
        fit.neural, range(frames), task.resolution, device, context.check_cancelled
    )
    meshes = yield from stages.of(part(decoding, _FITTED, _EXTRACTED))
    field_surfaces.check_not_empty(
        meshes,
        "Nothing of the shape is left in the field: it is too thin or too small for it.",
        "Choose a greater effort, give it more thickness, or make a field of a part of it.",
    )
    placing = field_surfaces.placed(
        meshes, fit.neural.to_source, task.resolution, task.topology, context.check_cancelled
    )
    moving = yield from stages.of(part(placing, _EXTRACTED, 1.0))
    neural = fit.neural
    yield FieldResult(
        name=task.name,
        neural=neural,
        animation=field_surfaces.animation(neural, moving, task.name),
        report={
            "bytes": len(field_files.to_bytes(neural, task.name)),
            "source_bytes": source_bytes(task),
            "iou": round(fit.iou, 4),
            "loss": round(fit.fitted.loss, 6),
            "effort": task.effort,
            "optimizer_steps": fit.fitted.steps,
            "weights": len(neural.weights),
            **field_surfaces.counts(moving),
            **moving.report,
            "notes": [*fit.notes, *moving.notes],
            "seconds": stages.seconds(),
            "device": device,
            "model": task.model,
            "seed": task.seed,
            "resolution": task.resolution,
        },
    )


def points_of(frames: int) -> int:
    """Points near the surface, and as many anywhere, of each of so many frames: as published up to
    16 frames, then no more in all."""
    return occupancy.POINTS * min(frames, _PUBLISHED_FRAMES) // frames


def source_bytes(task: MeshToField) -> int:
    """What the meshes take as they are: places and faces, the faces once where all frames have the
    same ones, and as many vertices."""
    frames = split(task.vertices, task.faces, task.vertex_counts, task.face_counts)
    first = frames[0][1]
    alike = all(
        len(vertices) == len(frames[0][0]) and np.array_equal(faces, first)
        for vertices, faces in frames[1:]
    )
    return task.vertices.nbytes + (first if alike else task.faces).nbytes


def _fitted(task: MeshToField, report: Report) -> _Fit:
    report("Looking at the mesh", 0.0)
    up = turned_up(task.up_axis)
    upright = inverse(up)
    frames = [
        (apply_to_points(upright, vertices, np.float64), faces)
        for vertices, faces in split(
            task.vertices, task.faces, task.vertex_counts, task.face_counts
        )
    ]
    framed = occupancy.framed(frames)
    report("Sampling points", _FRAMED)
    count = points_of(len(frames))
    samples = occupancy.sample(
        framed.frames,
        task.seed,
        near=count,
        anywhere=count,
        check=max(CHECKED // len(frames), 1000),
        report=lambda done: report("Sampling points", _FRAMED + done * (_SAMPLED - _FRAMED)),
    )
    config = FieldConfig(dimensions=samples.dimensions)
    start = fitting.known_start(config)
    report("Fitting the field", _SAMPLED)
    fitted = fitting.fit(
        samples,
        config,
        start,
        fitting.EFFORTS[task.effort],
        task.seed,
        lambda done, _: report("Fitting the field", _SAMPLED + done * (_FITTED - _SAMPLED)),
    )
    if not np.isfinite(fitted.vector).all():
        raise BadInput("No field could be fitted to this shape.", "Try another seed or effort.")
    began = fitting.random_start(config, task.seed) if start is None else start
    iou = fitted.iou
    vector = fitted.vector.astype(np.float32)
    if task.half:
        vector = vector.astype(np.float16)
        iou = fitting.intersection_over_union(
            config, vector.astype(np.float32), samples.check_points, samples.check_inside
        )
    neural = NeuralField(
        weights=vector,
        dimensions=config.dimensions,
        frequencies=config.frequencies,
        hidden=config.hidden,
        frame_count=len(frames),
        fps=float(task.fps),
        loop=task.loop,
        to_source=compose(up, framed.to_source),
        start=field_surfaces.start_name(began),
    )
    return _Fit(neural, fitted, float(iou), list(framed.notes))
