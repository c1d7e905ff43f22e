"""Pictures of a thing with known cameras -> views from other cameras."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from .. import weights
from ..conditions import given_views
from ..errors import BadInput
from ..models.viewdiff.painter import PainterConfig
from ..models.viewdiff.painter_files import config_of
from ..posed_views import intrinsics_of_field
from ..protocol import ImageToViews, Progress, Result, Task
from . import Context
from .stages import Stages
from .view_painting import Wishes, habits_of, painted, timed
from .view_rig import Rig, rig_of, side_of, squared

UNREAD = "This model reads no words: the picture alone counts."
_OPAQUE = 250
_CENTRAL = math.cos(math.radians(3))
"""Cameras that look past the middle by no more than this angle look at it."""
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
    rig = rig_of(task, habits)
    lens, notes = _lens(task, config)
    fill = config.fill
    if _lens_is_open(task, config, rig):
        lens, fill = None, _fill(task, config, rig)
    known = None if lens is None else lens[: len(task.images)]
    given = _alone(task, config, side, known, fill)
    if lens is not None and given.intrinsics is not None:
        height, width = task.images.shape[1:3]
        others = squared(lens[len(task.images) :], height, width, side, given.widened)
        rig = rig_of(task, habits, np.concatenate([given.intrinsics, others]))
    if task.guidance is not None:
        guidance = task.guidance
    words = task.prompt.strip()
    reads = config.pixels is None
    unread = (UNREAD,) if words and not reads else ()
    wishes = Wishes(
        prompt=words if reads else "",
        steps=task.steps or steps,
        # Without words there is nothing to be guided by.
        guidance=float(guidance) if words and reads and guidance is not None else 1.0,
        given=given.pictures,
        notes=(*notes, *given.notes, *unread),
    )
    return rig, wishes


def _alone(
    task: ImageToViews, config: PainterConfig, side: int, lens: np.ndarray | None, fill: float
) -> given_views.GivenViews:
    """The given pictures. Raises BadInput where a model that knows what is background is not told
    it: it would take all of the picture for the thing."""
    ground = config.behind or given_views.WHITE
    if not config.has_alpha:
        background = task.background if config.cuts_out else "keep"
        return given_views.prepare(task.images, side, lens, background, fill, ground)
    for background in dict.fromkeys((task.background, "remove")):
        given = given_views.prepare(task.images, side, lens, background, fill, ground)
        if not (given.pictures[..., 3] > _OPAQUE).all(axis=(1, 2)).any():
            return given
        if task.background == "keep":
            break
    raise BadInput(
        "The object cannot be told from what is behind it, and this model knows objects alone.",
        "Give a picture with transparency around the object, or one in front of a plain wall"
        + (", and do not keep the background." if task.background == "keep" else "."),
    )


def _lens_is_open(task: ImageToViews, config: PainterConfig, rig: Rig) -> bool:
    """Whether a photo may be framed so that it fits the first camera: of its own lens nobody knows
    anything, and that camera looks at the middle of the thing."""
    if task.intrinsics is not None or len(task.images) > 1 or not config.cuts_out:
        return False
    away, back = rig.inner[0, :3, 3], rig.inner[0, :3, 2]
    return bool(away @ back > _CENTRAL * np.linalg.norm(away))


def _fill(task: ImageToViews, config: PainterConfig, rig: Rig) -> float:
    """The share of the picture that a thing takes up for the first camera, as in training."""
    usual = config.radius * math.tan(math.radians(config.field) / 2)
    here = float(rig.distances[0]) * math.tan(math.radians(task.field or config.field) / 2)
    return min(max(config.fill * usual / here, 0.05), 1.0)


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
