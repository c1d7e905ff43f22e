"""Painting the views of a rig with a model of views: in batches that fit into memory."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .. import device as devices
from ..errors import OutOfMemory
from ..models.viewdiff import sampling
from ..models.viewdiff.cameras import Cameras
from ..models.viewdiff.first_guess import AT_ONCE as GUESSED_AT_ONCE
from ..models.viewdiff.first_guess import GuessConfig
from ..models.viewdiff.painter import PainterConfig, ViewPainter, cameras_of
from ..models.viewdiff.painter_files import config_of
from ..protocol import MAX_PICTURE_WIDTH, VIEW_SIZES, Progress, ViewsResult, ViewsTask
from ..sampling import Step
from ..weights import Installed
from . import Context, resident
from .generate import is_out_of_memory
from .stages import Stages
from .text_to_panorama import Previewer, check_numbers, in_words
from .view_rig import Habits, Rig

LOADED, PAINTED = 0.03, 0.92
"""Shares of the job after which the model is there, and after which all views are latents."""
_FILLED = 0.8
"""Share of the free memory that a batch may take."""


@dataclass(frozen=True)
class Wishes:
    """prompt: "" for none. steps, guidance: as the sampler takes them. given: (K, S, S, 4) uint8,
    of the first cameras, or None. notes: for the person."""

    prompt: str
    steps: int
    guidance: float
    given: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many views are given."""
        return 0 if self.given is None else len(self.given)


def habits_of(config: PainterConfig) -> Habits:
    """Where nobody says."""
    levels = len(config.denoiser.unet["block_out_channels"]) - 1
    return Habits(
        config.views,
        config.elevation,
        config.field,
        config.radius,
        config.side,
        factor_of(config) * 2**levels,
        # Whoever learned pixels of one size knows no others; latents bear more.
        2 * config.side if config.pixels else VIEW_SIZES[1],
    )


def factor_of(config: PainterConfig) -> int:
    """Pixels along a side of a cell of the latents; of an autoencoder those of Stable Diffusion."""
    return config.pixels.patch if config.pixels else 8


def painted(
    task: ViewsTask,
    installed: Installed,
    rig: Rig,
    wishes: Wishes,
    stages: Stages,
    context: Context,
) -> Generator[Progress, None, ViewsResult]:
    """Yields progress; returns the views. Raises OutOfMemory, InternalError, BadInput."""
    yield stages.at("Loading the model", 0.0)
    config = config_of(installed)
    device = torch.device(devices.pick(context.device))
    needed = needed_of(config, rig.side, device)
    loaded = resident.load_views_model(installed, device, needed.bytes(2))
    wishes = _with_fitting_steps(wishes, config)
    job = _Painting(task, rig, wishes, loaded.model, stages)
    most = min(config.most, needed.views(devices.describe(device.type).free_bytes))
    with resident.asking(loaded.model.layers(), device, context):
        while True:
            try:
                latents = yield from job.latents(most)
                yield stages.at("Developing the pictures", PAINTED)
                images, depths = job.developed(latents)
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if most <= 2:
                    resident.unload()
                    raise OutOfMemory(
                        "The views did not fit into memory, not even one after the other.",
                        "Ask for a smaller size, choose a smaller model, or close other programs.",
                    ) from None
                most = max(2, most // 2)
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    return ViewsResult(
        name=task.name,
        images=images,
        depths=depths,
        poses=rig.poses,
        intrinsics=rig.intrinsics,
        given=wishes.count,
        report={
            "model": installed.id,
            "device": device.type,
            "precision": str(loaded.dtype).removeprefix("torch."),
            "prompt": wishes.prompt,
            "seed": task.seed,
            "steps": wishes.steps,
            "guidance": wishes.guidance,
            "views": rig.count,
            "given": wishes.count,
            "size": rig.side,
            **job.report(images),
        },
    )


def _with_fitting_steps(wishes: Wishes, config: PainterConfig) -> Wishes:
    most = sampling.most_steps(config.denoiser.noising)
    if wishes.steps <= most:
        return wishes
    note = f"This model takes {most} steps at most: more make nothing finer."
    return replace(wishes, steps=most, notes=(*wishes.notes, note))


class _Painting:
    """One job."""

    def __init__(
        self, task: ViewsTask, rig: Rig, wishes: Wishes, model: ViewPainter, stages: Stages
    ) -> None:
        self.task, self.rig, self.wishes, self.model = task, rig, wishes, model
        self.stages = stages
        self.batches: list[sampling.Batch] = []
        self.guess: torch.Tensor | None = None
        self.forming = _Forming(model, rig.count)
        self.previewer = Previewer(self.forming) if task.preview else None

    def latents(self, most: int) -> Generator[Progress, None, torch.Tensor]:
        """(V, C, h, w) of all views, at most so many at a time."""
        wishes, rig, config = self.wishes, self.rig, self.model.config
        angles = None
        if rig.azimuths is not None:
            angles = sampling.angles_from_front(rig.azimuths)
        self.batches = sampling.plan(
            rig.count,
            wishes.count,
            most=most,
            size=config.batch,
            path=self.task.path,
            angles=angles,
        )
        found = self.model.first_noise(rig.count, rig.side, self.task.seed)
        if wishes.given is not None:
            yield self.stages.at("Reading the pictures", LOADED)
            found[: wishes.count] = self.model.latents(wishes.given)
        everything = list(range(rig.count))
        self.guess = self.model.guessed(found[: wishes.count], self._cameras(everything))
        self.forming.begin(found, wishes.count)
        began, done = time.perf_counter(), 0
        total = wishes.steps * len(self.batches)
        for batch in self.batches:
            for step in self._steps(batch, found):
                done += 1
                yield self._told(batch, step, done, total, time.perf_counter() - began)
            found[list(batch.new)] = step.sample[len(batch.known) :]
        return found

    def _cameras(self, views: list[int]) -> Cameras:
        return cameras_of(
            self.rig.inner[views],
            self.rig.intrinsics[views],
            self.model.config,
            self.rig.side,
            self.model.device,
        )

    def _steps(self, batch: sampling.Batch, latents: torch.Tensor) -> Any:
        config, views, new = self.model.config, list(batch.views), list(batch.new)
        guess = self.guess
        settings = sampling.Settings(
            schedule=config.denoiser.noising,
            steps=self.wishes.steps,
            guidance=self.wishes.guidance if batch.guided else 1.0,
        )
        known = latents[list(batch.known)] if batch.known else None
        return sampling.sample(
            self.model.denoiser(
                self._cameras(views), self.wishes.prompt, None if guess is None else guess[views]
            ),
            self.model.begun(latents[new], None if guess is None else guess[new]),
            known,
            settings,
        )

    def _told(
        self, batch: sampling.Batch, step: Step, done: int, total: int, seconds: float
    ) -> Progress:
        check_numbers(step.sample)
        picture = None
        if self.previewer is not None:
            self.forming.now(batch)
            picture = self.previewer.after(step)
        return painting(self.stages, done, total, seconds, picture)

    def developed(self, latents: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Pictures (V, S, S, 3 or 4), and depth in units of the task's world. What was given comes
        back as it was."""
        distances = torch.from_numpy(self.rig.distances)
        images, depths = self.model.pictures(latents, distances)
        if self.wishes.given is not None:
            count = self.wishes.count
            images = images.copy()
            images[:count] = self.wishes.given[..., : images.shape[-1]]
            if images.shape[-1] == 3:
                images[:count] = _on(self.wishes.given, self.model.config.behind)
        if depths is not None:
            depths = (depths * self.rig.scale).astype(np.float32)
            depths[: self.wishes.count] = 0  # what was given came without
        return images, depths

    def report(self, images: np.ndarray) -> dict[str, Any]:
        """What the sampling was like, and what is to be said of the views (V, S, S, 3 or 4)."""
        cut = self.model.cut(self.wishes.prompt) if self.wishes.prompt else ""
        notes = list(self.wishes.notes)
        if cut:
            notes.append(f"The text is long: “{cut}” was not read.")
        if empty := _empty(images[self.wishes.count :]):
            notes.append(
                f"{empty} of the views show nothing: the thing is too thin for this model, or too"
                " small in the picture. Try a picture that it fills, or another model."
            )
        return {
            "batches": [len(batch.views) for batch in self.batches],
            **({"notes": notes} if notes else {}),
            **({"previews": self.previewer.shown} if self.previewer else {}),
        }


def _empty(images: np.ndarray) -> int:
    """How many of (V, S, S, 3 or 4) views have alpha and show nothing by it."""
    if images.shape[-1] == 3:
        return 0
    return int((images[..., 3].reshape(len(images), -1).max(axis=1) < 128).sum())


def _on(pictures: np.ndarray, ground: Sequence[int] | None) -> np.ndarray:
    """(K, S, S, 3): pictures with alpha on a ground."""
    if ground is None:
        return pictures[..., :3]
    alpha = pictures[..., 3:].astype(np.float32) / 255
    colours = pictures[..., :3] * alpha + np.array(ground, np.float32) * (1 - alpha)
    return np.rint(colours).astype(np.uint8)


class _Forming:
    """All views in rows, small: as they are, as they form, or nothing yet."""

    factor = 1

    def __init__(self, model: ViewPainter, views: int) -> None:
        self._model = model
        self._columns = math.ceil(math.sqrt(views))
        self._side = max(16, MAX_PICTURE_WIDTH // self._columns)
        self._views = views
        self._seen: np.ndarray | None = None
        self._new: list[int] = []
        self._known = 0

    def begin(self, latents: torch.Tensor, given: int) -> None:
        """latents: (V, C, h, w), of which the first are given."""
        first = self._model.small_pictures(latents[: max(given, 1)], self._side)
        self._seen = np.full((self._views, *first.shape[1:]), 255, np.uint8)
        self._seen[:given] = first[:given]

    def now(self, batch: sampling.Batch) -> None:
        """Which views a step is of."""
        self._new, self._known = list(batch.new), len(batch.known)

    def small_picture(self, start: torch.Tensor, most_cells: int) -> np.ndarray:
        """(h, w, 3) uint8, at most MAX_PICTURE_WIDTH wide."""
        assert self._seen is not None, "begin comes first"  # noqa: S101
        self._seen[self._new] = self._model.small_pictures(start[self._known :], self._side)
        return in_rows(self._seen, self._columns)


def in_rows(pictures: np.ndarray, columns: int) -> np.ndarray:
    """(V, h, w, 3) -> one picture, white where there are too few."""
    rows = -(-len(pictures) // columns)
    missing = rows * columns - len(pictures)
    white = np.full((missing, *pictures.shape[1:]), 255, np.uint8)
    grid = np.concatenate([pictures, white]).reshape(rows, columns, *pictures.shape[1:])
    _, _, height, width, channels = grid.shape
    return grid.swapaxes(1, 2).reshape(rows * height, columns * width, channels)


# ------------------------------------------------------------------------------------------ memory


@dataclass(frozen=True)
class Needed:
    """Memory besides the weights, in bytes, roughly: of each view in a batch, and once."""

    per_view: int
    once: int

    def bytes(self, views: int) -> int:
        return self.once + views * self.per_view

    def views(self, free: int) -> int:
        """How many views at a time `free` bytes hold, at least 2; where that is not known (0), as
        many as are asked for."""
        if not free:
            return 1 << 30
        return max(2, int((_FILLED * free - self.once) // self.per_view))


def needed_of(config: PainterConfig, side: int, device: torch.device) -> Needed:
    """In float32, guided by words: both halves at once on a card, one after the other elsewhere."""
    denoiser = config.denoiser
    channels = [int(count) for count in denoiser.unet["block_out_channels"]]
    cells = (side // factor_of(config)) ** 2
    halves = 2 if device.type == "cuda" and config.pixels is None else 1
    # What waits for the way up, and a block at full resolution with its attention.
    network = 4 * 25 * cells * channels[0]
    space = once = 0
    if denoiser.has_projection:
        projection = denoiser.projection
        grid = max(2, projection.grid * min(channels) // max(channels))
        # The values of a view in every voxel, through the layers that weigh them.
        space = 4 * 10 * projection.channels * grid**3
        rays = (side // (factor_of(config) * 2 ** (len(channels) - 2))) ** 2
        space += 4 * 8 * projection.channels * rays * projection.samples * 2
        once = 4 * 40 * projection.channels * grid**3
    if denoiser.guess is not None:
        made = GuessConfig.from_dict(denoiser.guess)
        # A few views of rays at a time, and the network in 3D.
        once += GUESSED_AT_ONCE * 4 * 24 * cells * made.samples
        once += 4 * 30 * max(made.channels, made.deep) * made.grid**3
    developing = 0 if config.pixels else 4 * 4 * side**2 * 256
    return Needed(halves * (network + space), max(once * halves, developing))


def painted_at_once(
    steps: Iterable[Step], stages: Stages, previewer: Previewer | None
) -> Generator[Progress, None, torch.Tensor]:
    """Yields progress of steps that paint all views together; returns the last one's latents."""
    began = time.perf_counter()
    for step in steps:
        check_numbers(step.sample)
        picture = previewer.after(step) if previewer else None
        yield painting(stages, step.number + 1, step.count, time.perf_counter() - began, picture)
    return step.sample


def painting(
    stages: Stages, done: int, total: int, seconds: float, picture: np.ndarray | None
) -> Progress:
    """What is told after so many steps, which took so long."""
    stage = stages.at("Painting the views", 0.0).stage
    left = in_words(seconds / done * (total - done))
    return Progress(
        f"{stage}, step {done} of {total}{left}",
        LOADED + (PAINTED - LOADED) * done / total,
        picture=picture,
    )


def timed(result: ViewsResult, stages: Stages, began: float) -> ViewsResult:
    """The result with how long it took."""
    report = {
        **result.report,
        "seconds": stages.seconds(),
        "total_seconds": round(time.perf_counter() - began, 3),
    }
    return replace(result, report=report)
