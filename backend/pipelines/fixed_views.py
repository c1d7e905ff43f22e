"""A picture or words -> views from the cameras that a model was made for, all of them at once.

The cameras of MV-Adapter have no perspective. What comes back are pinhole cameras far away, which
see nearly the same (models/mvadapter/cameras.py), so that all that takes views takes these.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator

import numpy as np
import torch

from .. import device as devices
from .. import weights
from ..conditions import given_views
from ..errors import BadInput, OutOfMemory
from ..models.mvadapter.cameras import stand_ins
from ..models.mvadapter.config import MVAdapterConfig
from ..models.mvadapter.loading import config_of
from ..models.mvadapter.model import MVAdapter, first_noise
from ..protocol import (
    MAX_PICTURE_WIDTH,
    ImageToViews,
    Progress,
    Result,
    Task,
    TextToViews,
    ViewsResult,
    ViewsTask,
)
from ..weights import Installed
from . import Context, resident
from .generate import is_out_of_memory
from .stages import Stages
from .text_to_panorama import Previewer
from .view_painting import LOADED, PAINTED, in_rows, painted_at_once, timed

NO_PERSPECTIVE = (
    "The model paints without perspective. Its cameras stand in for that from far away, with long"
    " lenses."
)
ITS_OWN_NUMBER = (
    "The model paints its own {count} views: the number that was asked for was not used."
)


def image_to_views(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Raises NotInstalled, BadInput, OutOfMemory, InternalError."""
    assert isinstance(task, ImageToViews)  # noqa: S101 - the table of pipelines says so
    began = time.perf_counter()
    stages = Stages(context)
    yield stages.at("Preparing the pictures", 0.0)
    config = config_of(weights.require(task.model))
    check(task, config)
    given = given_views.prepare(task.images, config.side, None, task.background, config.fill)
    result = yield from _painted(task, config, given.pictures[0], given.notes, stages, context)
    yield timed(result, stages, began)


def text_to_views(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Raises NotInstalled, BadInput, OutOfMemory, InternalError."""
    assert isinstance(task, TextToViews)  # noqa: S101 - the table of pipelines says so
    began = time.perf_counter()
    stages = Stages(context)
    config = config_of(weights.require(task.model))
    check(task, config)
    result = yield from _painted(task, config, None, (), stages, context)
    yield timed(result, stages, began)


def check(task: ViewsTask, config: MVAdapterConfig) -> None:
    """Raise BadInput where other cameras are asked for than those of the model, which can only be
    turned around the thing together."""
    asked = {
        "cameras": task.poses is not None,
        "an elevation": bool(task.elevation),
        "a distance": bool(task.radius),
        "a field of view": bool(task.field),
        f"{task.size} pixels": task.size not in (0, config.side),
    }
    unknown = [name for name, is_asked in asked.items() if is_asked]
    if unknown:
        raise BadInput(
            f"This model paints {config.views} views of {config.side} pixels from its own cameras,"
            f" and {' and '.join(unknown)} cannot be chosen.",
            "Leave these to the model: choose a ring without a distance and lens of its own, and 0"
            " pixels (where it starts can be chosen); or use another model.",
        )


def _painted(
    task: ImageToViews | TextToViews,
    config: MVAdapterConfig,
    picture: np.ndarray | None,
    notes: tuple[str, ...],
    stages: Stages,
    context: Context,
) -> Generator[Progress, None, ViewsResult]:
    """Yields progress; returns the views. picture: (S, S, 4) uint8 of what is given, or None."""
    yield stages.at("Loading the model", 0.0)
    installed = weights.require(task.model)
    device = torch.device(devices.pick(context.device))
    try:
        loaded = resident.load_views_adapter(installed, device, working_bytes(config))
        with resident.asking(loaded.model.layers(), device, context):
            result = yield from _views(task, installed, loaded.model, picture, notes, stages)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        resident.unload()
        raise OutOfMemory(
            f"The {config.views} views did not fit into memory, and this model makes them together"
            " or not at all.",
            "Close other programs, or choose a smaller model.",
        ) from None
    result.report["device"] = device.type
    return result


def _views(
    task: ImageToViews | TextToViews,
    installed: Installed,
    model: MVAdapter,
    picture: np.ndarray | None,
    notes: tuple[str, ...],
    stages: Stages,
) -> Generator[Progress, None, ViewsResult]:
    """Yields progress; returns the views."""
    config = model.config
    prompt = task.prompt.strip() or config.prompt
    steps = task.steps or installed.steps
    wished = installed.guidance if task.guidance is None else task.guidance
    guidance = 1.0 if wished is None else float(wished)
    reference = None
    if picture is not None:
        yield stages.at("Reading the pictures", LOADED)
        reference = model.latents(picture)
    previewer = Previewer(_Rows(model)) if task.preview else None
    noise = first_noise(model, task.seed)
    forming = model.sample(prompt, noise, steps, guidance, reference, task.seed)
    latents = yield from painted_at_once(forming, stages, previewer)
    yield stages.at("Developing the pictures", PAINTED)
    images = model.pictures(latents)
    turned = [azimuth + task.start for azimuth in config.azimuths]
    poses, intrinsics = stand_ins(turned, config.frame, config.side, task.center, task.extent)
    return ViewsResult(
        name=task.name,
        images=images,
        poses=poses,
        intrinsics=intrinsics,
        report={
            "model": installed.id,
            "precision": str(model.dtype).removeprefix("torch."),
            "prompt": prompt,
            "seed": task.seed,
            "steps": steps,
            "guidance": guidance,
            "views": config.views,
            "given": 0,
            "size": config.side,
            "notes": _notes(task, model, prompt, notes),
            **({"previews": previewer.shown} if previewer else {}),
        },
    )


def _notes(task: ViewsTask, model: MVAdapter, prompt: str, notes: tuple[str, ...]) -> list[str]:
    """What is to be said of the views."""
    found = [*notes, NO_PERSPECTIVE]
    if task.count not in (0, model.config.views) or task.caps:
        found.append(ITS_OWN_NUMBER.format(count=model.config.views))
    if cut := model.cut(prompt):
        found.append(f"The text is long: “{cut}” was not read.")
    return found


def working_bytes(config: MVAdapterConfig) -> int:
    """Roughly what painting needs besides the weights, in float32, one half of the guidance after
    the other."""
    width = 320  # channels of Stable Diffusion at the finest level
    cells = (config.side // 8) ** 2
    # What waits for the way up, a block at full resolution with its three attentions, and what is
    # kept of the picture.
    denoising = 4 * config.views * cells * width * 35 + 4 * cells * width * 12
    decoding = 4 * 4 * config.side**2 * 256
    return max(denoising, decoding)


class _Rows:
    """All views in rows, small."""

    factor = 1

    def __init__(self, model: MVAdapter) -> None:
        self._model = model

    def small_picture(self, start: torch.Tensor, most_cells: int) -> np.ndarray:
        """(h, w, 3) uint8, at most MAX_PICTURE_WIDTH wide."""
        columns = math.ceil(math.sqrt(len(start)))
        cells = max(1, min(start.shape[-1], MAX_PICTURE_WIDTH // columns // self._model.factor))
        small = torch.nn.functional.interpolate(start.float(), (cells, cells), mode="area")
        return in_rows(self._model.pictures(small), columns)
