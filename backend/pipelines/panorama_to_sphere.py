"""A panorama and its depth become textured meshes around the eye."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import pipelines
from ..conditions import panoramas
from ..depth_meanings import DepthMeaning
from ..errors import InternalError
from ..geometry import sphere
from ..protocol import (
    PanoramaResult,
    PanoramaToDepth,
    PanoramaToSphere,
    PanoramaWithDepth,
    Progress,
    Result,
    SphereResult,
    Task,
)
from . import Context, memory
from .stages import Stages

_TOLD = 0.8
"""Share of the job after which a depth model has told the depth."""


def to_sphere(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Build the layers. Where no depth is given, a depth model tells it first. On the processor.

    Raises BadInput for depth that shows nothing, NotInstalled without a depth model, OutOfMemory.
    """
    assert isinstance(task, PanoramaToSphere)  # noqa: S101 - the table of pipelines says so
    stages = Stages(context)
    built = yield from surroundings(task, context, stages)
    yield dataclasses.replace(built, report={**built.report, "seconds": stages.seconds()})


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture all around and its depth, of one shape. report: of the depth model, if one told."""

    image: np.ndarray
    depth: np.ndarray
    meaning: DepthMeaning
    report: dict[str, Any]


def surroundings(
    task: PanoramaWithDepth, context: Context, stages: Stages
) -> Generator[Progress, None, SphereResult]:
    """The sphere of a task, with a report that lacks only the seconds."""
    yield stages.at("Reading the panorama", 0.0)
    prepared = yield from _prepared(task, context, stages)
    width = sphere.mesh_width(task.width, prepared.depth.shape[1])
    memory.require(width * (width // 2) * sphere.BYTES_PER_QUAD + 2 * prepared.image.nbytes, "cpu")
    yield stages.at("Building the sphere", _TOLD)
    built = sphere.build(
        prepared.image, prepared.depth, prepared.meaning, task.width, task.edges, task.name
    )
    context.check_cancelled()
    told = {**prepared.report, **built.report}
    notes = [*prepared.report.get("notes", ()), *built.report["notes"]]
    report = {
        **told,
        "vertices": sum(len(layer.values) for layer in built.layers),
        "faces": sum(layer.quads + layer.triangles for layer in built.layers),
        "device": prepared.report.get("device", "cpu"),
        "model": task.model,
        "seed": task.seed,
        "notes": notes,
    }
    return dataclasses.replace(built, report=report)


def _prepared(
    task: PanoramaWithDepth, context: Context, stages: Stages
) -> Generator[Progress, None, Prepared]:
    if task.depth is None:
        return (yield from _told_by_a_model(task, context, stages))
    depth = task.depth
    if task.aspect != "strict" and depth.dtype.kind == "u" and task.meaning.meaning != "metric":
        depth = depth.astype(np.float32) / np.float32(np.iinfo(depth.dtype).max)
    return Prepared(
        panoramas.all_around(task.image, task.aspect, task.field_of_view),
        panoramas.all_around(depth, task.aspect, task.field_of_view),
        task.meaning,
        {},
    )


def _told_by_a_model(
    task: PanoramaWithDepth, context: Context, stages: Stages
) -> Generator[Progress, None, Prepared]:
    asked = PanoramaToDepth(
        name=task.name,
        model=task.depth_model,
        seed=task.seed,
        image=task.image,
        aspect=task.aspect,
        field_of_view=task.field_of_view,
    )
    found: PanoramaResult | None = None
    for step in pipelines.run(asked, context):
        if isinstance(step, Progress):
            yield stages.at(step.stage, _TOLD * step.fraction)
        elif isinstance(step, PanoramaResult):
            found = step
    if found is None or found.depth is None:
        raise InternalError("The depth model ended without depth.", "Choose another depth model.")
    meaning = dataclasses.replace(
        found.meaning, scale=task.meaning.scale, offset=task.meaning.offset
    )
    report = {"depth_model": found.report.get("model", task.depth_model), **found.report}
    return Prepared(found.image, found.depth, meaning, report)
