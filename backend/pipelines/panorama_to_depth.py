"""A panorama -> how far everything in it is, told by a monocular depth model of the store."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import device as devices
from .. import weights
from ..conditions import panoramas
from ..errors import BadInput, OutOfMemory
from ..models.panorama_depth import estimation, monocular
from ..models.panorama_depth.pictures import check_panorama
from ..protocol import PanoramaResult, PanoramaToDepth, Progress, Result, Task
from ..weights import Installed
from . import Context, generate, memory
from .stages import Stages

OUTPUTS = {"": "", "inverse": monocular.RELATIVE, "metric": monocular.METRIC}
"""What the registry may say of a model ("depth" among its arguments) -> what its numbers mean."""

_WEIGHTS_TIMES = 2.5
"""Memory of a model at work on one view, in sizes of its files."""


def to_depth(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Look at the panorama in views, align and merge what the model tells of them.

    The depth of the result is NaN where the picture shows nothing (aspects "pad" and "partial").
    Raises NotInstalled, BadInput for a picture or a model that tells nothing, OutOfMemory.
    """
    assert isinstance(task, PanoramaToDepth)  # noqa: S101 - the table of pipelines says so
    stages = Stages(context)
    yield stages.at("Reading the panorama", 0.0)
    installed = weights.require(task.model)
    image = panoramas.all_around(task.image, task.aspect, task.field_of_view)
    check_panorama(image)
    device = devices.pick(context.device)
    memory.require(int(_WEIGHTS_TIMES * installed.bytes) + 4 * image.nbytes, device, _REMEDY)
    yield stages.at("Loading the depth model", 0.0)
    try:
        model = load(installed, device)
        steps = estimation.estimate(image, model, known=_known(task))
        found = yield from stages.of(steps)
    except (MemoryError, RuntimeError) as error:
        if not generate.is_out_of_memory(error):
            raise
        raise OutOfMemory("The views did not fit into memory.", _REMEDY) from None
    report = {
        **found.report,
        "model": installed.id,
        "device": device,
        "seconds": stages.seconds(),
    }
    yield PanoramaResult(
        name=task.name,
        image=np.ascontiguousarray(image[..., :3]),
        depth=found.depth,
        meaning=found.meaning,
        report=report,
    )


_REMEDY = "Close other programs, use a smaller picture, or choose a smaller depth model."


def load(installed: Installed, device: str) -> monocular.TransformersDepth:
    """The depth model of a folder of the store. Raises BadInput when it cannot be used."""
    told = installed.config.get("depth", "")
    if told not in OUTPUTS:
        raise BadInput(
            f"{installed.title} is said to tell {str(told)[:40]!r}, which is not known here.",
            "Update Fieldforge, or choose another depth model.",
        )
    return monocular.TransformersDepth(installed.folder, device, OUTPUTS[told])


def _known(task: PanoramaToDepth) -> np.ndarray | None:
    """(H, W) bool where the whole panorama shows the picture of the task; None: everywhere."""
    if task.aspect == "strict":
        return None
    depth = np.zeros(task.image.shape[:2], np.float32)
    known = np.isfinite(panoramas.all_around(depth, task.aspect, task.field_of_view))
    return None if known.all() else known
