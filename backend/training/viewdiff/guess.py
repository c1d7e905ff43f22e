"""Training of the first guess, what given views show from everywhere: by how like the truth it is.

By itself, before the denoiser: it is small, and its task has one answer, the mean of all that may
be. The denoiser then takes it as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import BadInput
from ...models.viewdiff.config import ViewDiffConfig
from ...models.viewdiff.first_guess import FirstGuess, planes_of
from ..loops import Plan, Run, Team, read_checkpoint, train
from . import networks
from .diffusion import OWN, PixelCodec, cameras_of, draw
from .sources import Source

CHECKPOINT = "views-guess.pt"
RATE = 2e-3


@dataclass(frozen=True)
class Recipe:
    """scenes: in a step of one process. second: how often a second view is given, too."""

    scenes: int = 4
    second: float = 0.2


def fit(
    source: Source,
    size: str,
    recipe: Recipe,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    path: Path,
) -> Run:
    """Train into `path`, going on where it was. size: of networks.SIZES."""
    config = networks.config(networks.SIZES[size])
    codec = PixelCodec(networks.latents(networks.SIZES[size]), members.device)
    run = begin(config, recipe, plan, members, path)

    def work(run: Run) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([plan.seed, run.step, members.rank, 11])
        return step(run.module, config, codec, source, size, recipe, rng)  # type: ignore[arg-type]

    if train(run, work, members, report):
        report("first guess: done")
    return run


def begin(config: ViewDiffConfig, recipe: Recipe, plan: Plan, members: Team, path: Path) -> Run:
    """A run at its beginning, or where its checkpoint left it."""
    torch.manual_seed(plan.seed)
    settings: dict[str, Any] = {
        "guess": dict(config.guess or {}),
        "pixels": dict(config.pixels or {}),
        "recipe": asdict(recipe),
        "rate": plan.rate,
        "seed": plan.seed,
        "processes": members.size,
    }
    run = Run(networks.first_guess(config).to(members.device), plan, path, settings)
    run.resume()
    # Its length may be changed as it goes on: a nearer end is where the rate falls to.
    run.steps = plan.steps or run.steps
    return run


def step(
    network: FirstGuess,
    config: ViewDiffConfig,
    codec: PixelCodec,
    source: Source,
    size: str,
    recipe: Recipe,
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    """Gradients of one step."""
    posed, _ = draw(source, OWN[size], rng, recipe.scenes)
    device = codec.device
    starts = codec.encode(posed, torch.Generator(device))
    given = torch.zeros(starts.shape[:2], dtype=torch.bool, device=device)
    given[:, 0] = True
    given[:, 1] = torch.from_numpy(rng.random(len(posed)) < recipe.second)
    cameras = cameras_of(posed, config).to(device).in_front().centred()
    truth = planes_of(starts, codec.pixels)
    found = network(codec.as_given(starts), given, cameras)[:, :, : truth.shape[2]]
    loss = (found - truth).square().mean()
    loss.backward()
    return {"loss": loss.detach()}


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
