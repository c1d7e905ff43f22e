"""Training of the autoencoder: rooms of six channels -> latents an eighth as wide and high -> them.

The code is linear and known at once, from the covariance of patches; what learns is the network
that smooths what comes back, against latents that are a little off.

There are no openly trained networks of sight to measure likeness by, so what is compared beside
pixels are their differences, at several scales; and a small critic of patches where it pays.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...errors import BadInput
from ...models.ldm3d.circular import AroundConv2d
from ..autoencoder import autocast
from ..loops import Plan, Run, Team, read_checkpoint, train
from ..rooms.dataset import Rooms
from . import networks, pictures

CHECKPOINT = "panorama-autoencoder.pt"
LAYOUT = "repeated"
"""How our own models have depth in their last three channels."""

_DEPTH = slice(3, 6)
_SCALES = 3
_SLOWER = {"coder.synthesis.": 0.05}
"""It is right from the beginning; what is added to it is not."""


@dataclass(frozen=True)
class Recipe:
    """size: of networks.AUTOENCODERS. batch: pictures in a step of one process.

    columns: of each picture that are looked at, a multiple of 8; 0: all. slopes: weight of
    differences. measured: rooms whose patches the code is made for.
    critic: weight of the critic's opinion, 0 for none, from `critic_from` of the run on.
    """

    size: str
    batch: int
    columns: int = 0
    slopes: float = 1.0
    measured: int = 300
    critic: float = 0.0
    critic_from: float = 0.5


class Critic(nn.Sequential):
    """Which patches are real: (B, 6, H, W) -> (B, 1, H / 8, W / 8)."""

    def __init__(self, width: int = 32) -> None:
        widths = (6, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [AroundConv2d(before, after, 3, padding=1, stride=2), nn.LeakyReLU(0.2)]
        super().__init__(*layers, AroundConv2d(widths[-1], 1, 3, padding=1))


def fit(
    rooms: Rooms, recipe: Recipe, plan: Plan, members: Team, report: Callable[[str], None],
    output: Path,
) -> Run:  # fmt: skip
    """Train into OUTPUT/panorama-autoencoder.pt, going on where it was. Raises BadInput."""
    run = begin(recipe, plan, members, output / CHECKPOINT)
    if not run.step:
        set_code(run, rooms, recipe, plan.seed)
    read = pictures.source(rooms, LAYOUT, members.device, members.device.type == "cuda")

    def work(run: Run) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([plan.seed, run.step, members.rank])
        return step(run, recipe, draw(read, len(rooms), recipe, rng), rng)

    if train(run, work, members, report) and "scale" not in run.extra:
        with run.average.in_place_of(run.module):
            coder = run.module["coder"]  # type: ignore[index]
            run.extra["scale"] = scale_of(coder, rooms, members.device)
        if members.leads:
            run.save()
        report(f"autoencoder: done, latents times {run.extra['scale']:.4f}")
    return run


def begin(recipe: Recipe, plan: Plan, members: Team, path: Path) -> Run:
    """A run at its beginning, or where its checkpoint left it."""
    torch.manual_seed(plan.seed)
    module = nn.ModuleDict({"coder": networks.autoencoder(networks.AUTOENCODERS[recipe.size])})
    if recipe.critic:
        module["critic"] = Critic()
    settings = {
        "networks": networks.AUTOENCODERS[recipe.size],
        "layout": LAYOUT,
        "batch": recipe.batch,
        "columns": recipe.columns,
        "slopes": recipe.slopes,
        "measured": recipe.measured,
        "critic": [recipe.critic, recipe.critic_from],
        "seed": plan.seed,
        "processes": members.size,
        "steps": plan.steps,
    }
    run = Run(module.to(members.device), plan, path, settings, slower=_SLOWER)
    run.resume()
    return run


def set_code(run: Run, rooms: Rooms, recipe: Recipe, seed: int) -> None:
    """Give the coder of a run at its beginning the components of patches of some rooms."""
    coder: Any = run.module["coder"]  # type: ignore[index]
    size = coder.config.patch_size
    numbers = coder.config.in_channels * size**2
    total, squares, count = torch.zeros(numbers), torch.zeros(numbers, numbers), 0.0
    total, squares = total.double(), squares.double()
    chosen = np.random.default_rng([seed, 0xC0DE]).permutation(len(rooms))[: recipe.measured]
    for number in chosen:
        whole = pictures.panorama(rooms, int(number), coder.config.in_channels, LAYOUT)
        patches = functional.pixel_unshuffle(whole[None], size)[0].double()
        # Rows near the poles are many patches of little.
        rows = by_area(patches.shape[1], patches.device).double()
        areas = rows[:, None].expand(patches.shape[1:])
        flat, areas = patches.flatten(1), areas.reshape(-1)
        total += flat @ areas
        squares += (flat * areas) @ flat.T
        count += float(areas.sum())
    mean = total / count
    importance = by_channel(coder.config.in_channels, mean.device).repeat_interleave(size**2)
    coder.set_components(mean, squares / count - mean[:, None] * mean, importance)
    run.average.reset(run.module)


def draw(
    read: Callable[[int], torch.Tensor], count: int, recipe: Recipe, rng: np.random.Generator
) -> torch.Tensor:
    """(batch, 6, H, columns): of `count` rooms that `read` gives some of chance, turned
    to anywhere, half of them in the mirror."""
    drawn = []
    for number in rng.integers(0, count, recipe.batch):
        whole = read(int(number))
        whole = whole.roll(int(rng.integers(whole.shape[-1])), -1)
        drawn.append(whole.flip(-1) if rng.random() < 0.5 else whole)
    batch = torch.stack(drawn)
    return batch[..., : recipe.columns or batch.shape[-1]]


def step(
    run: Run, recipe: Recipe, target: torch.Tensor, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Gradients of one step of the coder, and of the critic where there is one."""
    coder: Any = run.module["coder"]  # type: ignore[index]
    with autocast(target.device):
        posterior = coder.encode(target).latent_dist
        draws = torch.Generator(target.device).manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(posterior.mean.shape, generator=draws, device=target.device)
        decoded = coder.decode(posterior.mean + posterior.std * noise).sample
    decoded = decoded.float()
    loss = unlike(decoded, target, recipe.slopes)
    shown = {"loss": loss.detach()}
    if recipe.critic:
        critic: Any = run.module["critic"]  # type: ignore[index]
        with autocast(target.device):
            weight = recipe.critic if run.fraction >= recipe.critic_from else 0.0
            loss = loss - weight * _opinion(critic, decoded)
            real, made = critic(target), critic(decoded.detach())
        hinge = functional.relu(1 - real.float()).mean() + functional.relu(1 + made.float()).mean()
        loss = loss + 0.5 * hinge
        shown["critic"] = hinge.detach()
    loss.backward()
    return shown


def _opinion(critic: nn.Module, decoded: torch.Tensor) -> torch.Tensor:
    """How real the critic finds pictures, with gradients to these and not to itself."""
    still = {name: value.detach() for name, value in critic.named_parameters()}
    found: torch.Tensor = torch.func.functional_call(critic, still, (decoded,))
    return found.float().mean()


def unlike(decoded: torch.Tensor, target: torch.Tensor, slopes: float) -> torch.Tensor:
    """Mean distance of (B, 6, H, W): of pixels and, `slopes` times, of the differences between
    neighbours at several scales; by solid angle."""
    weight = by_area(target.shape[-2], target.device)[:, None]
    channels = by_channel(target.shape[1], target.device)
    off = (decoded - target) * channels[:, None, None] * (weight / weight.mean())
    total = off.abs().mean()
    for scale in range(_SCALES):
        across = (off - off.roll(1, -1)).abs().mean()
        down = (off[..., 1:, :] - off[..., :-1, :]).abs().mean()
        total = total + slopes * (across + down) / 2**scale
        off = functional.avg_pool2d(off, 2)
    return total


def by_area(rows: int, device: torch.device) -> torch.Tensor:
    """(rows,): what each row of a panorama counts, the poles a quarter of the middle."""
    numbers = torch.arange(rows, device=device)
    return 0.25 + 0.75 * torch.sin(torch.pi * (numbers + 0.5) / rows)


def by_channel(channels: int, device: torch.device) -> torch.Tensor:
    """(channels,): what each counts. Depths of walls are small numbers in this measure; three
    channels say the same, so that depth counts four times as much as a colour."""
    weight = torch.ones(channels, device=device)
    weight[_DEPTH] = 4 / 3
    return weight


@torch.no_grad()
def scale_of(coder: Any, rooms: Rooms, device: torch.device, most: int = 64) -> float:
    """1 / standard deviation of the latents."""
    found = [latent_of(coder, rooms, number, device) for number in range(min(most, len(rooms)))]
    return float(1 / torch.stack(found).std())


@torch.no_grad()
def latent_of(
    coder: Any, rooms: Rooms, number: int, device: torch.device, *, layout: str = LAYOUT,
    height: int = 0, mirrored: bool = False,
) -> torch.Tensor:  # fmt: skip
    """(C, H / 8, W / 8) float32, the mean that the encoder gives, not scaled."""
    target = pictures.panorama(rooms, number, coder.config.in_channels, layout, height)
    target = target.flip(-1) if mirrored else target
    with autocast(device):
        mean: torch.Tensor = coder.encode(target[None].to(device)).latent_dist.mean
    return mean[0].float()


def trained(path: Path) -> Any:
    """The averaged autoencoder of a finished training, its scale in its configuration.

    Raises BadInput for one that is not finished.
    """
    state = read_checkpoint(path)
    if "scale" not in state["extra"]:
        raise BadInput(f"{path} is not finished.", "Train it to its end first.")
    coder = networks.autoencoder(json.loads(state["settings"])["networks"])
    averaged = {
        name.removeprefix("coder."): value
        for name, value in state["average"].items()
        if name.startswith("coder.")
    }
    coder.load_state_dict(averaged)
    coder.register_to_config(scaling_factor=float(state["extra"]["scale"]))
    return coder.eval().requires_grad_(False)
