"""Words -> views of a thing from all around."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np
import torch

from .. import device as devices
from .. import weights
from ..errors import BadInput, OutOfMemory
from ..models.mvdream.config import MVDreamConfig
from ..models.mvdream.loading import config_of as mvdream_config_of
from ..models.mvdream.model import MVDream, first_noise, full_prompt, grey
from ..models.mvdream.own_cameras import ELEVATION
from ..models.mvdream.tokenizer import fits
from ..models.viewdiff.painter_files import config_of
from ..protocol import (
    MAX_PICTURE_WIDTH,
    VIEW_DISTANCE,
    VIEW_FIELD,
    Progress,
    Result,
    Task,
    TextToViews,
    ViewsResult,
    camera_poses,
)
from ..weights import Installed
from . import Context, resident
from .generate import is_out_of_memory
from .stages import Stages
from .text_to_mesh import painting_layers, working_bytes
from .text_to_panorama import Previewer
from .view_painting import (
    PAINTED,
    Wishes,
    habits_of,
    in_rows,
    painted,
    painted_at_once,
    timed,
)
from .view_rig import Habits, Rig, rig_of, squared

_NOT_ITS_OWN = "The model was trained on its own {count} cameras; views from others may agree less."


def text_to_views(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Raises NotInstalled, BadInput, OutOfMemory, InternalError."""
    assert isinstance(task, TextToViews)  # noqa: S101 - the table of pipelines says so
    began = time.perf_counter()
    installed = weights.require(task.model)
    config = config_of(installed)
    stages = Stages(context)
    rig = _rig(task, habits_of(config))
    guidance = installed.guidance if task.guidance is None else task.guidance
    wishes = Wishes(
        prompt=task.prompt.strip(),
        steps=task.steps or installed.steps,
        guidance=1.0 if guidance is None or config.pixels else float(guidance),
        notes=(NO_WORDS,) if config.pixels else (),
    )
    views = yield from painted(task, installed, rig, wishes, stages, context)
    yield timed(views, stages, began)


NO_WORDS = "This model reads no words: it paints what it likes. Give it a picture instead."


def _rig(task: TextToViews, habits: Habits) -> Rig:
    if task.intrinsics is None:
        return rig_of(task, habits)
    # In pixels of `size`, which is what the views have.
    return rig_of(task, habits, squared(task.intrinsics, task.size, task.size, task.size, True))


# ----------------------------------------------------------------------------------------- MVDream


def with_mvdream(task: Task, context: Context) -> Iterator[Progress | Result]:
    """By a model of pictures or depth pictures of the MVDream family, all views at once.

    Raises NotInstalled, BadInput, OutOfMemory, InternalError.
    """
    assert isinstance(task, TextToViews)  # noqa: S101 - the table of pipelines says so
    began = time.perf_counter()
    installed = weights.require(task.model)
    stages = Stages(context)
    yield stages.at("Loading the model", 0.0)
    device = torch.device(devices.pick(context.device))
    try:
        config = mvdream_config_of(installed)
        rig, own = mvdream_rig(task, config)
        model = resident.load_text_model(installed, device, working_bytes(config, rig.count)).model
        with resident.asking(painting_layers(model), device, context):
            result = yield from _views(task, installed, model, rig, own, stages)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        resident.unload()
        raise OutOfMemory(
            "The views did not fit into memory.", "Ask for fewer views, or close other programs."
        ) from None
    result.report["device"] = device.type
    yield timed(result, stages, began)


def mvdream_rig(task: TextToViews, config: MVDreamConfig) -> tuple[Rig, bool]:
    """The cameras, and whether they are the model's own. Their distance and field of view are not
    told to the model: they are those with which the thing fills its box. Raises BadInput."""
    if task.size not in (0, config.side):
        raise BadInput(
            f"The model cannot paint views of {task.size} pixels.",
            f"Use {config.side}, the model's own, or leave the size out.",
        )
    field = float(np.degrees(VIEW_FIELD))
    habits = Habits(len(config.views), ELEVATION, field, VIEW_DISTANCE, config.side, config.side)
    asked = task.views or task.start or task.caps or task.elevation is not None
    own = task.poses is None and not asked
    if own:
        radius = task.radius or VIEW_DISTANCE * task.extent / 2
        poses = camera_poses(config.views, "z", radius)
        poses[:, :3, 3] += task.center
        task = replace(task, poses=poses.astype(np.float32))
    return _rig(task, habits), own


def _views(
    task: TextToViews,
    installed: Installed,
    model: MVDream,
    rig: Rig,
    own: bool,
    stages: Stages,
) -> Generator[Progress, None, ViewsResult]:
    """Yields progress; returns the views."""
    config = model.config
    prompt = full_prompt(task.prompt, config.suffix)
    guidance = config.guidance if task.guidance is None else float(task.guidance)
    steps = task.steps or config.steps
    previewer = Previewer(_Rows(model)) if task.preview else None
    noise = first_noise(model, task.seed, rig.count)
    poses = None if own else rig.inner
    forming = model.sample(prompt, noise, steps, guidance, poses)
    latents = yield from painted_at_once(forming, stages, previewer)
    yield stages.at("Developing the pictures", PAINTED)
    images = model.pictures(latents)
    if installed.view_kind == "depth":
        images = np.repeat(grey(images)[..., None], 3, axis=-1)
    notes = [] if own else [_NOT_ITS_OWN.format(count=len(config.views))]
    if not fits(prompt, config.text.length):
        notes.append(
            f"The text is long: only its first {config.text.length - 2} words and signs were read."
        )
    return ViewsResult(
        name=task.name,
        images=images,
        poses=rig.poses,
        intrinsics=rig.intrinsics,
        view_kind=installed.view_kind or "image",
        cameras=(installed.cameras or None) if own else None,
        report={
            "model": installed.id,
            "precision": str(model.dtype).removeprefix("torch."),
            "prompt": prompt,
            "seed": task.seed,
            "steps": steps,
            "guidance": guidance,
            "views": rig.count,
            "given": 0,
            "size": rig.side,
            **({"notes": notes} if notes else {}),
            **({"previews": previewer.shown} if previewer else {}),
        },
    )


class _Rows:
    """All views in rows, small."""

    factor = 1

    def __init__(self, model: MVDream) -> None:
        self._model = model

    def small_picture(self, start: torch.Tensor, most_cells: int) -> np.ndarray:
        """(h, w, 3) uint8, at most MAX_PICTURE_WIDTH wide."""
        columns = int(np.ceil(np.sqrt(len(start))))
        factor = self._model.config.autoencoder.factor
        cells = max(1, min(start.shape[-1], MAX_PICTURE_WIDTH // columns // (2 * factor)))
        small = torch.nn.functional.interpolate(start.float(), (cells, cells), mode="area")
        return in_rows(self._model.pictures(small), columns)
