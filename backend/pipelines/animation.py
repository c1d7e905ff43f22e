"""Shapes, still or moving, of a model that makes neural fields out of noise.

sample fields -> surface of every frame -> place
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from .. import device as devices
from .. import weights
from ..errors import BadInput, InternalError, OutOfMemory
from ..geometry.transforms import compose
from ..models.hyperdiffusion.model import FieldModel
from ..models.hyperdiffusion.weights_vector import token_sizes
from ..neural_fields import NeuralField
from ..protocol import (
    Animation,
    AnimationSet,
    MeshResult,
    MeshSet,
    Progress,
    Result,
    Shape,
    Task,
    turned_up,
)
from ..work_steps import part
from . import Context, field_surfaces, resident
from .generate import EmptyShape, is_out_of_memory
from .stages import Stages

SHAPE_RESOLUTION = 256
"""Nodes along a side of shapes at rest, whose task has no word for it."""

_LOADED, _SAMPLED = 0.05, 0.5


def animation(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Shapes in motion, in the cube [-1, 1]^3.

    Raises BadInput for a word that the model does not know or a shape that came out empty,
    OutOfMemory with what to lower.
    """
    assert isinstance(task, Animation)  # noqa: S101 - the table of pipelines says so
    yield from _guarded(_Maker(task, context).animations())


def shape(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Shapes at rest, in the cube [-1, 1]^3; they keep their field (`MeshResult.neural`)."""
    assert isinstance(task, Shape)  # noqa: S101 - the table of pipelines says so
    if task.latent is not None:
        raise BadInput(
            "This model cannot make a part of a shape anew.",
            "Choose the model that the shape was made with, or make a new shape.",
        )
    yield from _guarded(_Maker(task, context).shapes())


def _guarded(steps: Iterator[Progress | Result]) -> Iterator[Progress | Result]:
    try:
        yield from steps
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        resident.unload()
        raise OutOfMemory(
            "The shape did not fit into memory.",
            "Choose fewer variations or a lower resolution, or close other programs.",
        ) from None
    finally:
        resident.unload_when_short()


@dataclass(frozen=True, eq=False)
class _Sampled:
    """fields: one for each variation. nearest: of each, what it is most like of what the model was
    trained on, and how far from it (1: as far as these are from each other), or None."""

    fields: list[NeuralField]
    nearest: list[tuple[str, float] | None] = field(default_factory=list)


class _Maker:
    """One job. Its parts share the stages and the model."""

    def __init__(self, task: Animation | Shape, context: Context) -> None:
        self.task = task
        self.context = context
        self.stages = Stages(context)
        self.device = torch.device(devices.pick(context.device))
        self.installed = weights.require(task.model)
        self.side = task.resolution if isinstance(task, Animation) else SHAPE_RESOLUTION
        self.steps = 0

    def animations(self) -> Iterator[Progress | Result]:
        """Yields progress, and the result last."""
        task = self.task
        assert isinstance(task, Animation)  # noqa: S101 - `animation` says so
        sampled = yield from self.sampled(task.choice)
        results = []
        share = (1 - _SAMPLED) / len(sampled.fields)
        for number, neural in enumerate(sampled.fields):
            frames = frames_of(neural.frame_count, task.frames)
            at = _SAMPLED + number * share
            meshes = yield from self.meshes(neural, frames, at, at + share * 0.8)
            placing = field_surfaces.placed(
                meshes, neural.to_source, self.side, task.topology, self.context.check_cancelled
            )
            moving = yield from self.stages.of(part(placing, at + share * 0.8, at + share))
            fps = task.fps or neural.fps * len(frames) / neural.frame_count
            report = {
                **field_surfaces.counts(moving),
                **moving.report,
                **self.told(sampled, number),
                "notes": moving.notes,
            }
            found = field_surfaces.animation(
                replace(neural, fps=fps), moving, task.name, report=report
            )
            # All frames of the field belong to it, whichever of them were asked for.
            results.append(replace(found, neural=replace(neural, fps=task.fps or neural.fps)))
        self.check_any(any(len(result.faces) for result in results))
        report = self.report([note for one in results for note in one.report["notes"]])
        if len(results) == 1:
            yield replace(results[0], report={**results[0].report, **report})
            return
        yield AnimationSet(name=task.name, animations=tuple(results), report=report)

    def shapes(self) -> Iterator[Progress | Result]:
        """Yields progress, and the result last."""
        sampled = yield from self.sampled("")
        results = []
        share = (1 - _SAMPLED) / len(sampled.fields)
        for number, neural in enumerate(sampled.fields):
            at = _SAMPLED + number * share
            meshes = yield from self.meshes(neural, [0], at, at + share * 0.8)
            placing = field_surfaces.placed(
                meshes, neural.to_source, self.side, "frames", self.context.check_cancelled
            )
            moving = yield from self.stages.of(part(placing, at + share * 0.8, at + share))
            results.append(self.mesh(neural, moving, self.told(sampled, number), number))
        self.check_any(any(len(result.faces) for result in results))
        if len(results) == 1:
            yield replace(results[0], report={**results[0].report, **self.report()})
            return
        yield MeshSet(name=self.task.name, meshes=tuple(results), report=self.report())

    # ------------------------------------------------------------------------------------- parts

    def sampled(self, choice: str) -> Generator[Progress, None, _Sampled]:
        """Yields progress; returns the fields."""
        task, count = self.task, self.task.variations
        yield self.stages.at("Loading the model", 0.0)
        needed = field_surfaces.working_bytes(self.side, 16)
        loaded = resident.load_field_model(self.installed, self.device, needed)
        model, config = loaded.model, loaded.model.config
        if config.moving != isinstance(task, Animation):
            makes = "animations" if config.moving else "shapes at rest"
            raise BadInput(
                f"The model {self.installed.id} makes {makes}.", "Choose another model for this."
            )
        self.steps = task.steps or config.steps
        yield self.stages.at("Sampling", _LOADED)
        vectors = torch.zeros(0)
        check = self.context.check_cancelled
        for step in model.sample(count, task.seed, task.steps, self.device, check, choice):
            if isinstance(step, Progress):
                done = _LOADED + step.fraction * (_SAMPLED - _LOADED)
                told = self.stages.at("Sampling", done)
                number = round(step.fraction * self.steps)
                yield Progress(f"{told.stage}, step {number} of {self.steps}", done)
            else:
                vectors = step
        if not bool(torch.isfinite(vectors).all()):
            raise InternalError(
                "The model computed values that are no numbers.", "Get the model again."
            )
        fields = [self.neural(model, vector.numpy()) for vector in vectors]
        near: list[Any] = model.nearest(vectors) or [None] * len(fields)
        return _Sampled(fields, near)

    def neural(self, model: FieldModel, vector: np.ndarray) -> NeuralField:
        """A sampled vector (W,) as a field in the cube, with the axis up that the task wants."""
        config = model.config
        assert len(vector) == sum(token_sizes(config.field))  # noqa: S101 - the model says so
        return NeuralField(
            weights=np.ascontiguousarray(vector, np.float32),
            dimensions=config.field.dimensions,
            frequencies=config.field.frequencies,
            hidden=config.field.hidden,
            period=config.field.period,
            level=float(config.level),
            frame_count=config.frames,
            fps=float(config.fps) if config.moving else 24.0,
            loop=bool(config.loop and config.moving),
            to_source=compose(turned_up(self.task.up_axis), field_surfaces.FIELD_TO_CUBE),
            start=start_of(model),
        )

    def meshes(
        self, neural: NeuralField, frames: list[int], begin: float, end: float
    ) -> Generator[Progress, None, list[tuple[np.ndarray, np.ndarray]]]:
        """Yields progress; returns the surface of each frame in the frame of the field."""
        check = self.context.check_cancelled
        decoding = field_surfaces.surfaces(neural, frames, self.side, str(self.device), check)
        found = yield from self.stages.of(part(decoding, begin, end))
        return found

    def mesh(
        self, neural: NeuralField, moving: field_surfaces.Moving, told: dict[str, Any], number: int
    ) -> MeshResult:
        """The only frame as a mesh."""
        return MeshResult(
            name=self.task.name,
            vertices=moving.arrays["vertices"],
            faces=moving.arrays["faces"],
            to_source=compose(neural.to_source, np.linalg.inv(field_surfaces.FIELD_TO_CUBE)),
            neural=neural,
            report={**told, "seed": self.task.seed + number},
        )

    def told(self, sampled: _Sampled, number: int) -> dict[str, Any]:
        """How near a shape is to those that the model was trained on, where it knows them."""
        near = sampled.nearest[number]
        return {} if near is None else {"nearest": near[0], "nearest_distance": round(near[1], 3)}

    def check_any(self, there: bool) -> None:
        """Raise EmptyShape where all shapes are empty."""
        if not there:
            raise EmptyShape(
                "The model made an empty shape of this seed.", "Try another seed, or more steps."
            )

    def report(self, notes: list[str] | None = None) -> dict[str, Any]:
        """Of the whole job."""
        return {
            "seconds": self.stages.seconds(),
            "device": self.device.type,
            "model": self.installed.id,
            "seed": self.task.seed,
            "steps": self.steps,
            "variations": self.task.variations,
            "resolution": self.side,
            "notes": list(dict.fromkeys(notes or [])),
        }


def start_of(model: FieldModel) -> str:
    """What the fields of a model have in common: those that it was trained on lie around one."""
    if model.space.kind == "none":
        return ""
    return field_surfaces.start_name(model.space.mean.float().cpu().numpy())


def frames_of(there: int, wanted: int) -> list[int]:
    """Which of the frames that a field has; 0: all. Evenly, from the first."""
    if not 0 < wanted < there:
        return list(range(there))
    return [int(number) for number in np.linspace(0, there, wanted, endpoint=False)]
