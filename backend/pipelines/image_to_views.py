"""Pictures of a thing with known cameras -> views from other cameras."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from .. import weights
from ..conditions import given_views
from ..models.viewdiff.painter import PainterConfig
from ..models.viewdiff.painter_files import config_of
from ..posed_views import intrinsics_of_field
from ..protocol import ImageToViews, Progress, Result, Task
from . import Context
from .stages import Stages
from .view_painting import Wishes, habits_of, painted, timed
from .view_rig import Rig, rig_of, side_of, squared

LENS_ASSUMED = (
    "No focal length was given with the cameras; the model's own field of view was assumed."
)


def image_to_views(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Raises NotInstalled, BadInput, OutOfMemory, InternalError."""
    assert isinstance(task, ImageToViews)  # noqa: S101 - the table of pipelines says so
    began = time.perf_counter()
    installed = weights.require(task.model)
    config = config_of(installed)
    stages = Stages(context)
    yield stages.at("Preparing the pictures", 0.0)
    rig, wishes = prepared(task, config, installed.steps, installed.guidance)
    views = yield from painted(task, installed, rig, wishes, stages, context)
    yield timed(views, stages, began)


def prepared(
    task: ImageToViews, config: PainterConfig, steps: int, guidance: float | None
) -> tuple[Rig, Wishes]:
    """The cameras of all views, and the given pictures as the model takes them. steps, guidance:
    the model's own. Raises BadInput."""
    habits = habits_of(config)
    side = side_of(task, habits)
    lens, notes = _lens(task, config)
    background = task.background if config.cuts_out else "keep"
    given = given_views.prepare(
        task.images,
        side,
        None if lens is None else lens[: len(task.images)],
        background,
        config.fill,
    )
    all_lenses = None
    if lens is not None and given.intrinsics is not None:
        height, width = task.images.shape[1:3]
        others = squared(lens[len(task.images) :], height, width, side, given.widened)
        all_lenses = np.concatenate([given.intrinsics, others])
    rig = rig_of(task, habits, all_lenses)
    if task.guidance is not None:
        guidance = task.guidance
    # Without words there is nothing to be guided by.
    told = bool(task.prompt.strip()) and config.pixels is None
    wishes = Wishes(
        prompt=task.prompt.strip(),
        steps=task.steps or steps,
        guidance=float(guidance) if told and guidance is not None else 1.0,
        given=given.pictures,
        notes=(*notes, *given.notes),
    )
    return rig, wishes


def _lens(task: ImageToViews, config: PainterConfig) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(V, 4) in pixels of the given pictures; None where their cameras are not known, so that the
    thing may be framed anew."""
    if task.intrinsics is not None:
        return task.intrinsics, ()
    if task.poses is None:
        return None, ()
    height, width = task.images.shape[1:3]
    lens = intrinsics_of_field(task.field or config.field, width, height, len(task.poses))
    return lens, () if task.field else (LENS_ASSUMED,)
