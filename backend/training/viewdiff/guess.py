"""Training of the first guess: what given views tell of a whole thing, by how like the truth it is.

By itself, before the denoiser: it is small, and its task has one answer, the mean of all that may
be. The denoiser then takes it as it is. Where coarse volumes of the scenes are at hand
(volumes.py), it is told what is solid, and of which colour, place by place, beside how it looks.
Its convolutions begin as they were trained on photographs (seeing.py), the first of them stay so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ...errors import BadInput
from ...models.viewdiff.cameras import Cameras
from ...models.viewdiff.config import ViewDiffConfig
from ...models.viewdiff.first_guess import FirstGuess, planes_of
from ..loops import Plan, Run, Team, read_checkpoint, train
from ..seeing import guess_loss, published_backbone
from . import networks
from .diffusion import OWN, Drawn, PixelCodec, cameras_of, drawn
from .sources import Source

CHECKPOINT = "views-guess.pt"
RATE = 2e-3
_KEPT_BLOCKS = 5
"""Blocks of what was trained on photographs, from the first, that stay as they are."""
_SLOWER = 0.1
"""The rate of learning of the others, of that of the rest."""


@dataclass(frozen=True)
class Recipe:
    """scenes: in a step of one process. second: how often a second view is given, too. views: of a
    scene at once; 0: as many as the denoiser is trained with. swapped: how often red, green and
    blue change places. colour, looks: what errors of colour in space, and of how things look, weigh
    beside what is solid."""

    scenes: int = 4
    second: float = 0.2
    views: int = 0
    swapped: float = 0.5
    colour: float = 1.0
    looks: float = 2.0


@dataclass(frozen=True, eq=False)
class Carved:
    """Volumes of a source's scenes, in its order: share (N, S, S, S) and colours (N, S, S, S, 3),
    both uint8 and in the order z, y, x, as `volumes.load` has them."""

    share: np.ndarray
    colours: np.ndarray

    def turned(self, chosen: list[Drawn], rotations: torch.Tensor, side: int) -> torch.Tensor:
        """(B, 4, side, side, side): share from 0 to 1 and colours from -1 to 1, of the scenes as
        they are drawn. rotations: (B, 3, 3), from the turned world to the scene's, of rows."""
        rows = []
        for one in chosen:
            share = torch.from_numpy(self.share[one.number]).float() / 255
            colours = torch.from_numpy(self.colours[one.number]).float().movedim(-1, 0) / 127.5 - 1
            whole = torch.cat([share[None], colours])
            rows.append(whole.flip(-1) if one.mirrored else whole)
        volume = torch.stack(rows).to(rotations.device)
        step = (torch.arange(volume.shape[-1], device=volume.device) + 0.5) / volume.shape[-1]
        z, y, x = torch.meshgrid(*[2 * step - 1] * 3, indexing="ij")
        places = torch.einsum("zyxi,bij->bzyxj", torch.stack([x, y, z], dim=-1), rotations)
        found = functional.grid_sample(volume, places, align_corners=False)
        if side == found.shape[-1]:
            return found
        mode = "area" if side < found.shape[-1] else "trilinear"
        return functional.interpolate(found, (side, side, side), mode=mode)


def fit(
    source: Source,
    size: str,
    recipe: Recipe,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    path: Path,
    carved: Carved | None = None,
) -> Run:
    """Train into `path`, going on where it was. size: of networks.SIZES. carved: of the source."""
    config = networks.config(networks.SIZES[size])
    codec = PixelCodec(networks.latents(networks.SIZES[size]), members.device)
    if recipe.views == 1:
        raise BadInput("Of one view there is nothing to guess.", "Give two views or more.")
    run = begin(config, recipe, plan, members, path, carved is not None)
    task = _Task(config, codec, source, size, recipe, carved)

    def work(run: Run) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([plan.seed, run.step, members.rank, 11])
        return step(run.module, task, rng)  # type: ignore[arg-type]

    if carved is not None and len(carved.share) != len(source):
        raise BadInput(
            f"There are {len(source)} scenes and {len(carved.share)} volumes.",
            "Delete the folder of volumes and make them again: views volumes.",
        )
    if train(run, work, members, report):
        report("first guess: done")
    return run


def begin(
    config: ViewDiffConfig, recipe: Recipe, plan: Plan, members: Team, path: Path, carved: bool
) -> Run:
    """A run at its beginning, or where its checkpoint left it. carved: whether it has volumes."""
    torch.manual_seed(plan.seed)
    settings: dict[str, Any] = {
        "guess": dict(config.guess or {}),
        "pixels": dict(config.pixels or {}),
        "recipe": asdict(recipe),
        "carved": carved,
        "rate": plan.rate,
        "seed": plan.seed,
        "processes": members.size,
    }
    network = networks.first_guess(config)
    if network.sight is not None:
        backbone = network.sight.backbone
        if not path.exists():
            backbone.load_published(published_backbone())
        for block in (backbone.stem, *backbone.blocks[:_KEPT_BLOCKS]):
            block.requires_grad_(False)
        # 1.7 times as fast on a processor.
        backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    slower = {"sight.backbone.": _SLOWER}
    run = Run(network.to(members.device), plan, path, settings, slower=slower)
    run.resume()
    # Its length may be changed as it goes on: a nearer end is where the rate falls to.
    run.steps = plan.steps or run.steps
    return run


@dataclass(frozen=True, eq=False)
class _Task:
    """What every step is made of."""

    config: ViewDiffConfig
    codec: PixelCodec
    source: Source
    size: str
    recipe: Recipe
    carved: Carved | None = None


def step(network: FirstGuess, task: _Task, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Gradients of one step."""
    recipe, codec = task.recipe, task.codec
    usual = OWN[task.size]
    usual = replace(usual, views=recipe.views or usual.views)
    chosen = drawn(task.source, usual, rng, recipe.scenes)
    posed = [one.posed for one in chosen]
    starts = codec.encode(posed, torch.Generator(codec.device))
    given = torch.zeros(starts.shape[:2], dtype=torch.bool, device=codec.device)
    given[:, 0] = True
    given[:, 1] = torch.from_numpy(rng.random(len(posed)) < recipe.second)
    order = rng.permutation(3) if rng.random() < recipe.swapped else np.arange(3)
    starts = _reordered(starts, order, codec.pixels.patch**2)
    as_posed = cameras_of(posed, task.config).to(codec.device)
    cameras = as_posed.in_front().centred()
    volume = network.volume(codec.as_given(starts), given, cameras)
    found = network.seen(volume, cameras, (starts.shape[-2], starts.shape[-1]))
    looks = (found - planes_of(starts, codec.pixels)).square().mean()
    if task.carved is None:
        looks.backward()
        return {"loss": looks.detach()}
    truth = task.carved.turned(chosen, _back(as_posed, cameras), volume.shape[-1])
    truth = torch.cat([truth[:, :1], truth[:, 1:][:, order.tolist()]], dim=1)
    solid, overlap = guess_loss(volume[:, :1], truth[:, :1])
    colour = _colour_error(volume[:, 1:].tanh(), truth)
    (solid + recipe.colour * colour + recipe.looks * looks).backward()
    shown = {"loss": solid, "overlap": overlap, "colour": colour, "looks": looks}
    return {name: value.detach() for name, value in shown.items()}


def _reordered(latents: torch.Tensor, order: np.ndarray, cells: int) -> torch.Tensor:
    """Latents (B, V, C, h, w) whose colours, of so many channels each, are in that order."""
    colours = latents[:, :, : 3 * cells].unflatten(2, (3, cells))[:, :, order.tolist()]
    return torch.cat([colours.flatten(2, 3), latents[:, :, 3 * cells :]], dim=2)


def _back(posed: Cameras, turned: Cameras) -> torch.Tensor:
    """(B, 3, 3) from the turned world to the one as it is posed, for places as rows."""
    return turned.world2cam[:, 0, :3, :3].mT @ posed.world2cam[:, 0, :3, :3]


def _colour_error(colours: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean square, of what is solid."""
    weight = truth[:, :1]
    error = ((colours - truth[:, 1:]).square() * weight).sum()
    return error / (3 * weight.sum()).clamp(min=1)


def trained(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The averaged weights, and the settings that they were trained with. Raises BadInput."""
    if not path.exists():
        raise BadInput(f"There is no first guess {path}.", "Train it: views guess.")
    state = read_checkpoint(path)
    settings = json.loads(state["settings"])
    if "guess" not in settings:
        raise BadInput(f"{path} holds no first guess.", "Train it: views guess.")
    numbers = state["numbers"]
    if not numbers["steps"] or numbers["step"] < numbers["steps"]:
        raise BadInput(f"{path} is not finished.", "Go on with views guess to its end first.")
    return state["average"], {**settings, "numbers": numbers}
