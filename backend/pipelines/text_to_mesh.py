"""Words -> views that a text model paints -> shapes that a WaLa model makes of them."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from .. import device as devices
from .. import weights
from ..errors import BadInput, InternalError, OutOfMemory
from ..models.mvdream.config import MVDreamConfig
from ..models.mvdream.loading import config_of
from ..models.mvdream.model import MVDream, first_noise, full_prompt, grey
from ..models.mvdream.tokenizer import fits
from ..protocol import MeshResult, MeshSet, Progress, Result, Task, TextToMesh, meshes_of
from ..sampling import Step
from ..weights import Installed
from . import Context, generate, resident
from .preparation import PaintedText
from .stages import Stages

_LOADED, _PAINTED = 0.03, 0.6
"""Shares of the job after which the text model is there, and after which all views are painted."""


def text_to_mesh(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Paint the views of every variation, then make the shapes.

    Steps and guidance of the task are the shapes'; the text model has its own.
    Raises NotInstalled when the model that takes the views is missing, OutOfMemory.
    """
    assert isinstance(task, TextToMesh)  # noqa: S101 - the table of pipelines says so
    began = time.perf_counter()
    painter = weights.require(task.model)
    maker = maker_for(painter)
    generate.check_latent(task, generate.config_of(maker), maker)
    stages = Stages(context)
    seeds = range(task.seed, task.seed + task.variations)
    painted = yield from _painted(task, painter, seeds, stages, context)
    seconds = stages.seconds()
    meshes: list[MeshResult] = []
    share = (1 - _PAINTED) / len(seeds)
    for number, (seed, pictures) in enumerate(zip(seeds, painted, strict=True)):
        begin = _PAINTED + share * number
        shape = _shape_task(task, painter, maker, seed, pictures)
        try:
            for news in generate.generate(shape, context):
                if isinstance(news, Progress):
                    yield _placed(news, begin, share)
                else:
                    meshes += meshes_of(news)
        except generate.EmptyShape:
            meshes.append(_nothing(task, seed))
            if not any(len(mesh.faces) for mesh in meshes) and number + 1 == len(seeds):
                raise
    facts = {
        "model": painter.id,
        "shape_model": maker.id,
        "prompt": task.prompt,
        **_notes(task, painter),
        "total_seconds": round(time.perf_counter() - began, 3),
    }
    yield _result(task, meshes, seconds, facts)


def maker_for(painter: Installed) -> Installed:
    """The model that makes shapes of the views of `painter`. Raises NotInstalled, BadInput."""
    if not painter.needs:
        raise BadInput(
            f"{painter.title} does not say which model makes shapes of its views.",
            "Get it again: Preferences > Models.",
        )
    maker = weights.require(painter.needs[0])
    if (maker.views, maker.view_kind) != (painter.views, painter.view_kind):
        raise BadInput(
            f"{maker.title} does not take the views that {painter.title} paints.",
            "Get both again: Preferences > Models.",
        )
    return maker


# ---------------------------------------------------------------------------------------- painting


def _painted(
    task: TextToMesh, painter: Installed, seeds: range, stages: Stages, context: Context
) -> Generator[Progress, None, list[np.ndarray]]:
    """Yields progress; returns the pictures of every seed, as the maker takes them."""
    yield stages.at("Loading the text model", 0.0)
    device = torch.device(devices.pick(context.device))
    found = []
    try:
        needed = working_bytes(config_of(painter))
        model = resident.load_text_model(painter, device, needed).model
        share = (_PAINTED - _LOADED) / len(seeds)
        with resident.asking(painting_layers(model), device, context):
            for number, seed in enumerate(seeds):
                begin = _LOADED + share * number
                yield stages.at("Painting the views", begin)
                for step in steps_of(model, task, seed):
                    done = (step.number + 1) / (step.count + 1)
                    news = stages.at("Painting the views", begin + share * done)
                    words = f"{news.stage}, step {step.number + 1} of {step.count}"
                    yield replace(news, stage=words)
                found.append(_pictures(model, step.sample, painter, task.as_published))
    except (MemoryError, RuntimeError) as error:
        if not generate.is_out_of_memory(error):
            raise
        resident.unload()
        raise OutOfMemory(
            "The views did not fit into memory.", "Close other programs, then try again."
        ) from None
    return found


def steps_of(model: MVDream, task: TextToMesh, seed: int) -> Iterator[Step]:
    """Steps from noise to the latents of all views. Raises InternalError when they get lost."""
    prompt = full_prompt(task.prompt, model.config.suffix, task.as_published)
    for step in model.sample(prompt, first_noise(model, seed)):
        yield step
    if not bool(torch.isfinite(step.sample).all()):
        raise InternalError(
            "The text model computed values that are no numbers.",
            "Set FIELDFORGE_PRECISION=float32 and run it again; if that does not help, get the"
            " model again.",
        )


def _pictures(
    model: MVDream, latents: torch.Tensor, painter: Installed, as_published: bool
) -> np.ndarray:
    """(V, H, W, 3) uint8. Depth is grey: what differs between its channels is noise."""
    pictures = model.pictures(latents)
    if painter.view_kind == "image" or as_published:
        return pictures
    return np.repeat(grey(pictures)[..., None], 3, axis=-1)


def painting_layers(model: MVDream) -> Iterator[torch.nn.Module]:
    """The parts of the networks that take long."""
    unet = model.unet
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        yield from block.resnets
        yield from getattr(block, "attentions", ())
    yield from model.text_encoder.encoder.layers
    yield from model.autoencoder.decoder.up_blocks


def working_bytes(config: MVDreamConfig, views: int = 0) -> int:
    """Roughly what painting needs besides the weights, in float32. views: the model's own unless
    given."""
    cells = (config.side // config.autoencoder.factor) ** 2
    views = views or len(config.views)
    # What waits for the way up, and a block at full resolution with its attention.
    denoising = 4 * 2 * views * cells * (24 + 4 * views) * config.unet.channels
    decoding = 4 * 6 * config.side**2 * 2 * config.autoencoder.widths[0]
    return denoising + decoding


# ------------------------------------------------------------------------------------------ shapes


def _notes(task: TextToMesh, painter: Installed) -> dict[str, list[str]]:
    config = config_of(painter)
    if fits(full_prompt(task.prompt, config.suffix, task.as_published), config.text.length):
        return {}
    most = config.text.length - 2
    return {"notes": [f"The text is long: only its first {most} words and signs were read."]}


def _shape_task(
    task: TextToMesh, painter: Installed, maker: Installed, seed: int, pictures: np.ndarray
) -> PaintedText:
    """The task of one variation, for the model that makes shapes."""
    wishes = {spec.name: getattr(task, spec.name) for spec in fields(TextToMesh)}
    guidance = painter.guidance if task.guidance is None else task.guidance
    own: dict[str, Any] = {"steps": task.steps or painter.steps, "guidance": guidance}
    own |= {"model": maker.id, "seed": seed, "variations": 1, "pictures": pictures}
    return PaintedText(**{**wishes, **own})


def _nothing(task: TextToMesh, seed: int) -> MeshResult:
    """A variation without a surface: it spoils no others."""
    return MeshResult(name=task.name, report={"seed": seed, "vertices": 0, "faces": 0})


def _placed(news: Progress, begin: float, share: float) -> Progress:
    """`news` of a part of the job, with its fraction of the whole."""
    return replace(news, fraction=begin + share * news.fraction)


def _result(
    task: TextToMesh, meshes: list[MeshResult], seconds: dict[str, float], facts: dict[str, Any]
) -> Result:
    """One mesh as it is, several as a set. seconds: of painting; facts: of the whole job."""
    if len(meshes) == 1:
        own = meshes[0].report
        together = {**own, **facts, "seconds": {**seconds, **own["seconds"]}}
        return replace(meshes[0], report=together)
    sums = {name: sum(mesh.report[name] for mesh in meshes) for name in ("vertices", "faces")}
    first = next(mesh for mesh in meshes if len(mesh.faces)).report
    shared = {name: first[name] for name in ("device", "precision", "steps", "guidance")}
    report = {**shared, **facts, **sums, "seconds": seconds, "seed": task.seed}
    return MeshSet(
        name=task.name, meshes=tuple(meshes), report={**report, "variations": len(meshes)}
    )
