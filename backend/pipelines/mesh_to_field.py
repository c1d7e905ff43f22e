"""A mesh, or one that moves, becomes a small neural field, and comes back as a mesh to look at.

frame the meshes -> sample points and what is inside -> fit -> surface of every frame
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .. import device as devices
from .. import field_files
from ..errors import BadInput
from ..geometry.transforms import apply_to_points, compose, inverse
from ..geometry.tsdf import distance_to
from ..models.hyperdiffusion import fitting, occupancy
from ..moving_meshes import split
from ..neural_fields import NeuralField
from ..protocol import FieldResult, MeshToField, Progress, Result, Task, turned_up
from ..work_steps import part
from . import Context, field_surfaces, memory
from .background import Report, in_background
from .stages import Stages

CHECKED = 100_000
"""Points on which the field is measured, of all frames together, that it was not fitted to."""

LOST = 0.03
"""A share of the surface that lies far off the field's from which on the artist is told."""

_FAR = 0.02
"""In the frame of fields, where the longest side is 0.95: further off than a field is where it is
only coarse."""
_BESIDE = 2e-4
"""How far on both sides of a face is looked for inside and outside, in the frame of fields."""
_ASKED = 20_000
"""Places on the surface of a frame, of some frames, that are looked for in the field."""
_ASKED_FRAMES = 4

_PUBLISHED_FRAMES = 16
_SAMPLE_BYTES = 90  # of each point, while points are made and fitted

# Where the job stands at the end of each part of it.
_FRAMED, _SAMPLED, _FITTED, _EXTRACTED = 0.03, 0.15, 0.85, 0.95


@dataclass(frozen=True, eq=False)
class _Fit:
    """frames: what the field was fitted to, in its frame."""

    neural: NeuralField
    fitted: fitting.Fitted
    iou: float
    frames: list[occupancy.Frame]
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
        _SAMPLE_BYTES * (2 * points_of(frames) * frames + _further_points(task))
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
    lost = lost_share(fit.frames, meshes, task.seed)
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
            "lost": round(lost, 4),
            "effort": task.effort,
            "optimizer_steps": fit.fitted.steps,
            "weights": len(neural.weights),
            **field_surfaces.counts(moving),
            **moving.report,
            "notes": [*fit.notes, *lost_notes(lost, task.effort), *moving.notes],
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


def _further_points(task: MeshToField) -> int:
    """That the rounds after the first draw, if all are needed. Sequences have many already."""
    further = occupancy.MORE_NEAR + occupancy.MORE_ANYWHERE
    effort = fitting.EFFORTS[task.effort]
    return (effort.rounds + effort.further - 1) * further if task.frame_count == 1 else 0


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
    config = fitting.layout_for(samples.frames, task.loop, samples.thin)
    reached = _SAMPLED

    def fitting_at(done: float, _: float) -> None:
        nonlocal reached
        reached = _SAMPLED + done * (_FITTED - _SAMPLED)
        report("Fitting the field", reached)

    def more(number: int) -> occupancy.Samples:
        return occupancy.sample_more(
            framed.frames, task.seed, number, lambda _: report("Sampling more points", reached)
        )

    report("Fitting the field", reached)
    fitted = fitting.fit(
        samples,
        config,
        None,  # from the mean of a model's fields, fits are slower and worse
        fitting.EFFORTS[task.effort],
        task.seed,
        fitting_at,
        more if len(frames) == 1 else None,
        fitting.FINER_OCTAVES if len(frames) == 1 else 0,
    )
    if not np.isfinite(fitted.vector).all():
        raise BadInput("No field could be fitted to this shape.", "Try another seed or effort.")
    began, config = fitting.random_start(config, task.seed), fitted.config
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
        period=config.period,
        frame_count=len(frames),
        fps=float(task.fps),
        loop=task.loop,
        to_source=compose(up, framed.to_source),
        start=field_surfaces.start_name(began),
    )
    return _Fit(neural, fitted, float(iou), framed.frames, list(framed.notes))


# --------------------------------------------------------------------------------- what became lost


def lost_share(
    frames: Sequence[occupancy.Frame], meshes: Sequence[occupancy.Frame], seed: int
) -> float:
    """Which share of the surface, by area, is far from that of the field: thin parts that vanished,
    which IoU hardly misses. The largest of some frames; both in the frame of fields.

    What lies within the shape, where parts of it overlap, is no surface of it, and neither are
    sheets without thickness.
    """
    asked = np.unique(np.linspace(0, len(frames) - 1, _ASKED_FRAMES).astype(int))
    return max(_lost_of(frames[number], meshes[number], [seed, number]) for number in asked)


def _lost_of(frame: occupancy.Frame, mesh: occupancy.Frame, seed: list[int]) -> float:
    points, chosen = occupancy.on_faces(*frame, _ASKED, np.random.default_rng(seed))
    inside, step = occupancy.inside_of(*frame), _BESIDE * _normals(*frame)[chosen]
    points = points[inside(points - step) & ~inside(points + step)].astype(np.float32)
    if not len(points) or not len(mesh[1]):
        return float(len(points) > 0)
    vertices, faces = mesh
    away = distance_to(vertices.astype(np.float32), faces.astype(np.int32))(points)
    return float((away > _FAR).mean())


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(T, 3) of length one, outwards."""
    a, b, c = (np.asarray(vertices, np.float64)[faces[:, corner]] for corner in range(3))
    across = np.cross(b - a, c - a)
    normals: np.ndarray = across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-30)
    return normals


def lost_notes(lost: float, effort: str) -> list[str]:
    """For the artist, where too much became lost."""
    if lost < LOST:
        return []
    remedies = ["thicken the parts", "make a field of them alone"]
    if effort != list(fitting.EFFORTS)[-1]:
        remedies.insert(0, "choose a greater effort")
    remedy = ", or ".join(remedies)
    return [
        f"{lost:.0%} of the surface is not in the field: parts thinner than a hundredth of the"
        f" whole vanish, gaps as narrow close. {remedy[0].upper()}{remedy[1:]}."
    ]
