"""Training of what imagines layouts: rooms turned so that their walls face the same ways, coded,
and a diffusion over the principal components of that."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import BadInput
from ...models.component_denoiser import scale_of
from ...models.ldm3d.layouts import DIFFUSION, Layouts, said_in
from ..loops import Plan, Run, Team, read_checkpoint, train
from ..rooms.dataset import Rooms, metres
from . import autoencoder, pictures
from .latents import mark_of

CHECKPOINT = "panorama-layouts.pt"
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"components": 6, "width": 16, "depth": 1},
    "cpu": {"components": 384, "width": 512, "depth": 4},
    "gpu": {"components": 768, "width": 1024, "depth": 6},
}
_DROPPED = 0.15
_QUARTERS = 4
_MEASURED = 6000
_BATCH = 64
_LATITUDES = (-0.38, 0.63)
"""Sines of those between which rows are looked at for walls, below and above the horizon."""
_LONGEST = 0.3
"""Metres that a piece of wall between two columns counts at most; longer ones lead elsewhere."""


@dataclass(frozen=True)
class Recipe:
    """size: of SIZES. batch: rooms in a step of one process."""

    size: str
    batch: int = 256


def fit(
    latents: np.ndarray,
    captions: Sequence[str],
    recipe: Recipe,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    path: Path,
) -> Run:
    """Train into `path`, going on where it was. latents: (N, C, h, w) of `aligned`."""
    run = begin(latents.shape[1:], captions, recipe, plan, members, path)
    network: Any = run.module
    if not run.step:
        report("principal components")
        know_components(network, latents, plan.seed)
        run.average.reset(network)
    starts = coded(network, latents)
    said = torch.cat([network.known(caption) for caption in captions]).to(members.device)

    def work(run: Run) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([plan.seed, run.step, members.rank, 7])
        chosen = torch.from_numpy(rng.integers(0, len(starts), recipe.batch)).to(members.device)
        told = said[chosen % len(captions)]
        left_out = torch.from_numpy(rng.random(recipe.batch) < _DROPPED).to(members.device)
        return step(network, starts[chosen], told * ~left_out[:, None], rng)

    if train(run, work, members, report, every=200):
        report("layouts: done")
    return run


def begin(
    shape: Sequence[int],
    captions: Sequence[str],
    recipe: Recipe,
    plan: Plan,
    members: Team,
    path: Path,
) -> Run:
    """A run at its beginning, or where its checkpoint left it."""
    torch.manual_seed(plan.seed)
    network = Layouts(words=words_of(captions), latents=list(shape), **SIZES[recipe.size])
    settings = {
        "layouts": SIZES[recipe.size],
        "words": list(network.config.words),
        "latents": list(shape),
        "batch": recipe.batch,
        "rate": plan.rate,
        "seed": plan.seed,
        "processes": members.size,
        "steps": plan.steps,
    }
    run = Run(network.to(members.device), plan, path, settings)
    run.resume()
    return run


def step(
    network: Layouts, starts: torch.Tensor, said: torch.Tensor, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Gradients of one step. starts: (B, components); said: (B, number of words)."""
    device = starts.device
    draws = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    times = torch.randint(DIFFUSION.steps, (len(starts),), generator=draws, device=device)
    noise = torch.randn(starts.shape, generator=draws, device=device)
    noised = DIFFUSION.noised(starts, times, noise)
    predicted = network(noised, times, network.condition(said))
    loss = (predicted - starts).square().mean()
    loss.backward()
    return {"loss": loss.detach()}


def words_of(captions: Sequence[str]) -> list[str]:
    """The words of captions in alphabetical order."""
    return sorted(set().union(*map(said_in, captions)))


@torch.no_grad()
def know_components(network: Any, latents: np.ndarray, seed: int) -> None:
    """The principal components of some of the latents, in all four quarters."""
    rng = np.random.default_rng([seed, 0x1A40])
    count = min(_MEASURED, _QUARTERS * len(latents))
    chosen = rng.permutation(_QUARTERS * len(latents))[:count]
    rows = torch.stack([_quarter(latents, int(number)) for number in chosen]).flatten(1)
    mean = rows.mean(dim=0)
    torch.manual_seed(seed)
    wanted = len(network.scale)
    asked = min(wanted + 20, *rows.shape)
    _, singular, directions = torch.svd_lowrank(rows - mean, q=asked, niter=3)
    variances = (singular.square() / count)[:wanted].clamp(min=1e-6)
    found = len(variances)
    network.mean.copy_(mean)
    network.basis[:found] = directions.T[:found]
    network.scale[:found] = scale_of(variances)


@torch.no_grad()
def coded(network: Any, latents: np.ndarray) -> torch.Tensor:
    """(4 N, components): all rooms, then all turned by a quarter, and so on."""
    device = network.mean.device
    every = range(_QUARTERS * len(latents))
    batches = [every[first : first + _BATCH] for first in every[::_BATCH]]
    return torch.cat(
        [
            network.components_of(torch.stack([_quarter(latents, n) for n in batch]).to(device))
            for batch in batches
        ]
    )


def _quarter(latents: np.ndarray, number: int) -> torch.Tensor:
    """(C, h, w) float32: room number % N, turned by number // N quarters."""
    quarter, room = divmod(number, len(latents))
    latent = torch.from_numpy(np.array(latents[room], np.float32))
    return latent.roll(quarter * latent.shape[-1] // _QUARTERS, -1)


# ---------------------------------------------------------------------------------------- alignment


def turn_of_walls(distance: np.ndarray) -> float:
    """Radians, -pi / 4 to pi / 4, that the walls of a room are turned to the left of the axes of
    its picture: distance (H, W) metres all around, infinite for the sky.

    Pieces of wall between neighbouring columns point along one of four ways; the mean of four times
    their angles is that of the room.
    """
    height, width = distance.shape
    latitude = np.pi * (0.5 - (np.arange(height) + 0.5) / height)
    sines = np.sin(latitude)
    rows = (sines > _LATITUDES[0]) & (sines < _LATITUDES[1])
    longitude = 2 * np.pi * (0.5 - (np.arange(width) + 0.5) / width)
    flat = distance[rows] * np.cos(latitude[rows])[:, None]
    flat = np.where(np.isfinite(flat), flat, 0.0)
    places = flat * np.exp(1j * longitude)
    pieces = np.roll(places, -2, axis=1) - places
    lengths = np.abs(pieces)
    seen = (flat > 0) & (np.roll(flat, -2, axis=1) > 0)
    counted = seen & (lengths > 0) & (lengths < 0.25 * flat)
    ways = pieces[counted] / lengths[counted]
    together = (np.minimum(lengths[counted], _LONGEST) * ways**4).sum()
    return float(np.angle(together)) / _QUARTERS


def aligned(
    coder: Any,
    rooms: Rooms,
    numbers: Sequence[int],
    path: Path,
    device: torch.device,
    report: Callable[[str], None],
) -> np.ndarray:
    """(N, C, h, w) float16 of scale one, mapped from `path` (.npy): latents of rooms turned so that
    walls face the middle and the edge of the picture. What an earlier call made of the same coder
    is kept."""
    note = path.with_suffix(".json")
    mark = {"coder": mark_of(coder), "rooms": len(numbers), "first": int(numbers[0])}
    if path.exists() and note.exists() and json.loads(note.read_text("utf-8")) == mark:
        return np.load(path, mmap_mode="r")
    found = []
    for done, number in enumerate(numbers, 1):
        found.append(_aligned(coder, rooms, int(number), device))
        if done % 500 == 0 or done == len(numbers):
            report(f"aligned: {done} of {len(numbers)}")
    np.save(path, np.stack(found))
    note.write_text(json.dumps(mark), "utf-8")
    return np.load(path, mmap_mode="r")


@torch.no_grad()
def _aligned(coder: Any, rooms: Rooms, number: int, device: torch.device) -> np.ndarray:
    whole = pictures.panorama(rooms, number, coder.config.in_channels, autoencoder.LAYOUT)
    turn = turn_of_walls(metres(rooms.levels(number)))
    # What lies to the left of the middle by `turn` comes into it: columns go to the right.
    whole = whole.roll(round(turn * whole.shape[-1] / (2 * np.pi)), -1)
    mean = coder.encode(whole[None].to(device)).latent_dist.mean[0]
    return (mean * coder.config.scaling_factor).cpu().numpy().astype(np.float16)


def trained(path: Path) -> Layouts:
    """The averaged network of a finished training. Raises BadInput for one that is not."""
    state = read_checkpoint(path)
    numbers, settings = state["numbers"], json.loads(state["settings"])
    if not numbers["steps"] or numbers["step"] < numbers["steps"]:
        raise BadInput(f"{path} is not finished.", "Train it to its end first.")
    network = Layouts(words=settings["words"], latents=settings["latents"], **settings["layouts"])
    network.load_state_dict(state["average"])
    return network.eval().requires_grad_(False)
