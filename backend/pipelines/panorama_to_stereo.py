"""A panorama and its depth become a panorama for each eye."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..geometry import panorama_views
from ..protocol import PanoramaToStereo, Progress, Result, SphereResult, StereoResult, Task
from . import Context
from .panorama_to_sphere import surroundings
from .stages import Stages

MOST_WIDTH = 8192
_MOST_SAMPLED = 4096
"""Up to this width each pixel is the mean of 2 x 2 rays."""


def to_stereo(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Omni-directional stereo: wherever one looks, the eyes stand beside each other, except near
    the poles, where they come together. What one eye sees past edges comes from the backing.

    The pictures are as large as the panorama, at most MOST_WIDTH wide; colours of light beyond
    what a screen shows are cut off.
    """
    assert isinstance(task, PanoramaToStereo)  # noqa: S101 - the table of pipelines says so
    stages = Stages(context)
    built = yield from surroundings(task, context, stages)
    height, width = _size(built)
    samples = 2 if width <= _MOST_SAMPLED else 1
    eyes, holes = [], []
    for number, side in enumerate(("left", "right")):
        yield stages.at(f"Drawing the {side} eye", 0.85 + 0.07 * number)
        aside = task.interocular / 2 * (1 if side == "left" else -1)
        seen = panorama_views.stereo_eye(built, aside, width, height, samples)
        eyes.append(panorama_views.as_bytes(seen.colors, built.image))
        holes.append(seen.holes)
        context.check_cancelled()
    yield StereoResult(
        name=task.name,
        left=eyes[0],
        right=eyes[1],
        report={
            **built.report,
            "interocular": task.interocular,
            "holes": max(holes),
            "seconds": stages.seconds(),
        },
    )


def _size(built: SphereResult) -> tuple[int, int]:
    height, width = built.image.shape[:2]
    scale = min(1.0, MOST_WIDTH / width)
    return int(np.rint(height * scale)), int(np.rint(width * scale))
