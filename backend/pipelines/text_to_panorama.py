"""Words -> a panorama with depth -> surroundings."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from .. import device as devices
from .. import weights
from ..depth_meanings import DepthMeaning
from ..errors import BadInput, InternalError, OutOfMemory
from ..models.ldm3d import images
from ..models.ldm3d.config import CELL, Ldm3dConfig
from ..models.ldm3d.loading import config_of, sizes_of
from ..models.ldm3d.model import Ldm3d, first_noise
from ..models.panorama_depth.evaluation import seam_step
from ..protocol import (
    MAX_PICTURE_WIDTH,
    PanoramaResult,
    Progress,
    Result,
    SphereResult,
    Task,
    TextToPanorama,
    radii,
)
from ..sampling import Step
from ..weights import Installed
from . import Context, memory, resident
from .generate import is_out_of_memory
from .stages import Stages

_LOADED, _PAINTED, _DEVELOPED = 0.03, 0.85, 0.92
"""Shares of the job after which the model is there, the latents are done, and the picture is."""
PREVIEW_SHARE = 0.15
"""Of the time of the steps so far, that pictures of what forms may take."""
_LEAST_TILE = 8
_MOST_HEIGHT = 2048


def text_to_panorama(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Paint a panorama with its depth; with `task.sphere` go on to the surroundings.

    Raises NotInstalled, BadInput for a size that the model or a sphere cannot have, OutOfMemory,
    InternalError when the model gets lost.
    """
    assert isinstance(task, TextToPanorama)  # noqa: S101 - the table of pipelines says so
    began = time.perf_counter()
    installed = weights.require(task.model)
    wishes = wishes_of(task, installed, config_of(installed))
    stages = Stages(context)
    try:
        painted = yield from _painted(task, installed, wishes, stages, context)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        resident.unload()
        raise OutOfMemory(
            f"A panorama of {wishes.width} x {wishes.height} pixels did not fit into memory.",
            "Ask for a smaller one, or close other programs.",
        ) from None
    result: PanoramaResult | SphereResult = painted
    if task.sphere:
        yield stages.at("Building the surroundings", _DEVELOPED)
        result = _surroundings(task, painted)
        context.check_cancelled()
    report = {
        **_joined(result.report, painted.report),
        "seconds": stages.seconds(),
        "total_seconds": round(time.perf_counter() - began, 3),
    }
    yield replace(result, report=report)


def _joined(built: dict[str, Any], painted: dict[str, Any]) -> dict[str, Any]:
    """The report of a picture, with that of the sphere made of it: the notes of both; width and
    height are the picture's, mesh_width the sphere's."""
    if built is painted:
        return painted
    notes = [*painted.get("notes", ()), *built.get("notes", ())]
    joined = {**built, **painted, "mesh_width": built["width"]}
    return {**joined, "notes": notes} if notes else joined


# ------------------------------------------------------------------------------------- what to make


@dataclass(frozen=True)
class Wishes:
    """What the task asks for, and where it does not, what the model's authors found best."""

    prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    meaning: DepthMeaning
    notes: tuple[str, ...] = ()


def wishes_of(task: TextToPanorama, installed: Installed, config: Ldm3dConfig) -> Wishes:
    """Raises BadInput for a picture that is not 2:1 where surroundings are asked for."""
    width, height = _size(task, config, max(CELL, sizes_of(installed).factor))
    if task.sphere and abs(width - 2 * height) > max(0.01 * width, 1):
        raise BadInput(
            f"A picture of {width} x {height} pixels cannot become surroundings: these are twice as"
            " wide as high.",
            "Give the width alone, then the height follows, or make a picture only.",
        )
    notes = []
    if (task.width or width, task.height or height) != (width, height):
        notes.append(
            f"The picture has {width} x {height} pixels, not {task.width or width} x"
            f" {task.height or height}: the model makes whole cells."
        )
    guidance = installed.guidance if task.guidance is None else task.guidance
    return Wishes(
        prompt=config.full_prompt(task.prompt),
        width=width,
        height=height,
        steps=task.steps or installed.steps,
        guidance=1.0 if guidance is None else float(guidance),
        meaning=task.meaning or config.meaning,
        notes=tuple(notes),
    )


def _size(task: TextToPanorama, config: Ldm3dConfig, cell: int) -> tuple[int, int]:
    """Width and height, no less than asked, multiples of `cell`; of one alone follows the other,
    2:1. Raises BadInput for a height alone whose width is too large."""
    if task.width and task.height:
        return -(-task.width // cell) * cell, -(-task.height // cell) * cell
    if task.width:
        cells = -(-task.width // (2 * cell))
        return cells * 2 * cell, cells * cell
    if task.height:
        if task.height > _MOST_HEIGHT:
            raise BadInput(
                f"A height of {task.height} pixels makes a picture of {2 * task.height}, wider than"
                " is possible.",
                f"Ask for at most {_MOST_HEIGHT}, or give the width, too.",
            )
        height = -(-task.height // cell) * cell
        return 2 * height, height
    return config.width, config.height


def notes_of(task: TextToPanorama, wishes: Wishes, model: Ldm3d) -> list[str]:
    """What the person should know of the result."""
    notes = list(wishes.notes)
    for text, what in ((wishes.prompt, "The text"), (task.negative, "What it shall not be")):
        cut = model.read(text).cut if text else ""
        if cut:
            most = model.text_length - 2
            notes.append(f"{what} is long: only {most} words and signs were read, not “{cut}”.")
    if wishes.width % model.turn:
        notes.append(f"The width is no multiple of {model.turn} pixels: the seam may show faintly.")
    return notes


# ---------------------------------------------------------------------------------------- painting


def _painted(
    task: TextToPanorama, installed: Installed, wishes: Wishes, stages: Stages, context: Context
) -> Generator[Progress, None, PanoramaResult]:
    yield stages.at("Loading the model", 0.0)
    device = torch.device(devices.pick(context.device))
    needed = working_bytes(installed, wishes)
    loaded = resident.load_panorama_model(installed, device, needed.least)
    model = loaded.model
    previewer = Previewer(model) if task.preview else None
    with resident.asking(layers_of(model), device, context):
        yield stages.at("Painting the panorama", _LOADED)
        latents = yield from _latents(task, wishes, model, stages, previewer)
        yield stages.at("Developing the picture", _PAINTED)
        picture, depth = _developed(model, latents, needed, device)
    return PanoramaResult(
        name=task.name,
        image=images.to_bytes(picture),
        depth=depth,
        meaning=wishes.meaning,
        report={
            "model": installed.id,
            "device": device.type,
            "precision": str(loaded.dtype).removeprefix("torch."),
            "prompt": wishes.prompt,
            "seed": task.seed,
            "steps": wishes.steps,
            "guidance": wishes.guidance,
            "width": wishes.width,
            "height": wishes.height,
            "seam": round(seam_step(radii(depth, wishes.meaning)), 3),
            **({"notes": notes} if (notes := notes_of(task, wishes, model)) else {}),
            **({"previews": previewer.shown} if previewer else {}),
        },
    )


def _latents(
    task: TextToPanorama,
    wishes: Wishes,
    model: Ldm3d,
    stages: Stages,
    previewer: Previewer | None,
) -> Generator[Progress, None, torch.Tensor]:
    noise = first_noise(model, wishes.width, wishes.height, task.seed)
    began = time.perf_counter()
    for step in model.sample(
        wishes.prompt, noise, wishes.steps, wishes.guidance, task.negative, task.seed
    ):
        done = step.number + 1
        check_numbers(step.sample)
        picture = previewer.after(step) if previewer else None
        left = (time.perf_counter() - began) / done * (step.count - done)
        stage = stages.at("Painting the panorama", 0.0).stage
        yield Progress(
            f"{stage}, step {done} of {step.count}{in_words(left)}",
            _LOADED + (_PAINTED - _LOADED) * done / step.count,
            picture=picture,
        )
    return step.sample


def check_numbers(latents: torch.Tensor) -> None:
    """Raise InternalError for latents that are lost."""
    if not bool(torch.isfinite(latents).all()):
        raise InternalError(
            "The model computed values that are no numbers.",
            "Set FIELDFORGE_PRECISION=float32 and run it again; if that does not help, ask for less"
            " guidance, or get the model again.",
        )


def in_words(seconds: float) -> str:
    """How long it still takes, for the end of a stage."""
    if seconds < 1:
        return ""
    if seconds < 90:
        return f", {seconds:.0f} s left"
    return f", {seconds / 60:.0f} min left"


def _developed(
    model: Ldm3d, latents: torch.Tensor, needed: Needed, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Picture and depth, in tiles where all at once would not fit into memory."""
    tile = needed.tile(devices.describe(device.type).free_bytes)
    try:
        picture, depth = model.decode(latents, tile)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        torch.cuda.empty_cache()
        picture, depth = model.decode(latents, _LEAST_TILE)
    if not (np.isfinite(picture).all() and np.isfinite(depth).all()):
        raise InternalError(
            "The model computed a picture that is none.", "Get the model again, or choose another."
        )
    return picture, depth


def layers_of(model: Ldm3d) -> Iterator[torch.nn.Module]:
    """The parts of the networks that take long."""
    unet = model.unet
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        yield from block.resnets
        yield from getattr(block, "attentions", ())
    yield from model.text_encoder.encoder.layers
    if own := getattr(model.vae, "residual", None):
        yield from own
        return
    for block in (model.vae.decoder.mid_block, *model.vae.decoder.up_blocks):
        yield from block.resnets


@dataclass(frozen=True)
class Needed:
    """Memory besides the weights, in bytes, roughly. columns: cells of latents along x."""

    denoising: int
    decoding: int
    columns: int

    @property
    def least(self) -> int:
        """What the job cannot do without: the steps, and the decoder of the smallest tiles."""
        part = min(1.0, 2 * _LEAST_TILE / self.columns)
        return max(self.denoising, int(self.decoding * part))

    def tile(self, free: int) -> int:
        """Cells of latents to decode at a time; 0: all, also where `free` is not known (0)."""
        share = 0.8 * free / self.decoding
        if not free or share >= 1:
            return 0
        # A strip has half a tile more on either side.
        return max(_LEAST_TILE, int(self.columns * share / 2))


def working_bytes(installed: Installed, wishes: Wishes) -> Needed:
    """Needed for a picture of that size, in float32."""
    sizes = sizes_of(installed)
    columns = wishes.width // sizes.factor
    cells = columns * (wishes.height // sizes.factor)
    # What waits for the way up, and a block at full resolution with its attention.
    denoising = 4 * 2 * cells * 25 * sizes.unet_width
    decoding = 4 * 4 * wishes.width * wishes.height * sizes.decoder_width
    return Needed(denoising, decoding, columns)


# ---------------------------------------------------------------------------------------- previews


class Shows(Protocol):
    """What can make a small picture of an x_0. factor: pixels along a side of its cells."""

    @property
    def factor(self) -> int: ...

    def small_picture(self, start: torch.Tensor, most_cells: int) -> np.ndarray: ...


class Previewer:
    """Small pictures of what forms: the x_0 of a step, averaged over cells and decoded."""

    def __init__(self, model: Shows, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self._clock = clock
        self._began = clock()
        self._last = 0.0
        self.seconds = 0.0
        self.shown = 0

    def after(self, step: Step) -> np.ndarray | None:
        """(h, w, 3) uint8, or None where it would take too long. The first one always comes."""
        if step.start.device.type == "cuda":
            torch.cuda.synchronize()  # else the time of the step would be taken for ours
        now = self._clock()
        allowed = PREVIEW_SHARE * (now - self._began - self.seconds) - self.seconds
        if self.shown and self._last > allowed:
            return None
        most = MAX_PICTURE_WIDTH // 2 // self._model.factor
        picture = self._model.small_picture(step.start, most)
        self._last = self._clock() - now
        self.seconds += self._last
        self.shown += 1
        return picture


# ------------------------------------------------------------------------------------ surroundings


def _surroundings(task: TextToPanorama, painted: PanoramaResult) -> SphereResult:
    from ..geometry import sphere  # here: a picture alone needs none of it

    assert painted.depth is not None  # noqa: S101 (it was just made)
    width = sphere.mesh_width(task.mesh_width, painted.depth.shape[1])
    needed = width * (width // 2) * sphere.BYTES_PER_QUAD + 2 * painted.image.nbytes
    memory.require(needed, "cpu", "Ask for a mesh of less width, or close other programs.")
    return sphere.build(
        painted.image,
        painted.depth,
        painted.meaning,
        width=task.mesh_width,
        edges=task.edges,
        name=task.name,
    )
