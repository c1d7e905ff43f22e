"""The baseline: diffusion over what of 24^3 cells is inside, by a 3D U-Net; frames are channels."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ... import sampling
from ...errors import BadInput
from ...geometry.isosurface import marching_cubes
from ...models.wala.layers import zeroed
from ...models.wala.uvit import TimeEmbedding
from ...sampling import Diffusion
from ..loops import Plan, Run, Team, read_checkpoint, train
from ..metrics import Surface
from .data import Item
from .together import seeded

CHECKPOINT = "voxels.pt"
FOLDER = "cells"
CELLS = 24
DIFFUSION = Diffusion()
STEPS = 50
WIDTHS = {"cpu": (16, 32, 64), "gpu": (64, 128, 256)}

# ------------------------------------------------------------------------------------------- cells


def cells_of(item: Item) -> np.ndarray:
    """(F, 24, 24, 24) uint8: 255 times what of each cell is inside, by 8 points in it."""
    axis = (np.arange(2 * CELLS, dtype=np.float32) + 0.5) / (2 * CELLS) - 0.5
    nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    found = []
    for depth in item.depths():
        inside = (np.asarray(depth(nodes)) > 0).reshape(CELLS, 2, CELLS, 2, CELLS, 2)
        found.append(inside.mean(axis=(1, 3, 5)))
    return np.rint(255 * np.stack(found)).astype(np.uint8)


def prepare(items: Sequence[Item], folder: Path, report: Callable[[str, float], None]) -> None:
    """FOLDER/cells/KEY.npz for every item that has none."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    missing = [item for item in items if not (place / f"{item.key}.npz").exists()]
    for number, item in enumerate(missing):
        report("Cells", number / len(missing))
        partial = place / f"{item.key}.part.npz"
        np.savez_compressed(partial, cells=cells_of(item))
        partial.replace(place / f"{item.key}.npz")


def load(items: Sequence[Item], folder: Path) -> torch.Tensor:
    """(N, F, 24, 24, 24) uint8. Raises BadInput where `prepare` was not done."""
    found = []
    for item in items:
        path = folder / FOLDER / f"{item.key}.npz"
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                found.append(arrays["cells"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise BadInput(
                f"{path} holds no cells ({error}).", "Make them with `fields points`."
            ) from None
    return torch.from_numpy(np.stack(found))


def values(cells: torch.Tensor) -> torch.Tensor:
    """uint8 shares -> what the diffusion is over, -1 to 1. A quarter of a cell, as thin parts have,
    is the border."""
    return 4 * (cells.float() / 255).clamp(max=0.5) - 1


def surface(volume: np.ndarray) -> Surface:
    """Values (24, 24, 24) of one frame -> where they are 0, in the field's domain."""
    vertices, faces = marching_cubes(-np.ascontiguousarray(volume, np.float32), 0.0, closed=True)
    return ((vertices + 0.5) / CELLS - 0.5).astype(np.float32), faces


# ----------------------------------------------------------------------------------------- network


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, hint: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inputs), nn.GroupNorm(8, width)
        self.conv1 = nn.Conv3d(inputs, width, 3, padding=1)
        self.conv2 = zeroed(nn.Conv3d(width, width, 3, padding=1))
        self.hint = nn.Linear(hint, 2 * width)
        self.past = nn.Conv3d(inputs, width, 1) if inputs != width else nn.Identity()

    def forward(self, x: torch.Tensor, hint: torch.Tensor) -> torch.Tensor:
        scale, shift = self.hint(hint)[..., None, None, None].chunk(2, dim=1)
        inner = self.conv1(functional.silu(self.norm1(x)))
        inner = self.conv2(functional.silu(self.norm2(inner) * (1 + scale) + shift))
        found: torch.Tensor = self.past(x) + inner
        return found


class VoxelDenoiser(nn.Module):
    """(values (B, F, 24, 24, 24), timesteps (B,)) -> those of a shape."""

    def __init__(self, frames: int, widths: Sequence[int]) -> None:
        super().__init__()
        hint = 4 * widths[0]
        self.frames, self.widths = frames, tuple(widths)
        self.time = TimeEmbedding(hint)
        self.first = nn.Conv3d(frames, widths[0], 3, padding=1)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(_Block(width, width, hint) for width in widths[:-1])
        self.smaller = nn.ModuleList(nn.Conv3d(a, b, 3, 2, 1) for a, b in pairs)
        self.middle = nn.ModuleList(_Block(widths[-1], widths[-1], hint) for _ in range(2))
        self.larger = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in reversed(pairs))
        self.up = nn.ModuleList(_Block(2 * a, a, hint) for a, _ in reversed(pairs))
        self.norm = nn.GroupNorm(8, widths[0])
        self.last = zeroed(nn.Conv3d(widths[0], frames, 3, padding=1))

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        hint = functional.silu(self.time(timesteps))
        hidden, kept = self.first(x), []
        for block, smaller in zip(self.down, self.smaller, strict=True):
            hidden = block(hidden, hint)
            kept.append(hidden)
            hidden = smaller(hidden)
        for block in self.middle:
            hidden = block(hidden, hint)
        for block, larger in zip(self.up, self.larger, strict=True):
            past = kept.pop()
            hidden = functional.interpolate(larger(hidden), size=past.shape[2:])
            hidden = block(torch.cat([hidden, past], dim=1), hint)
        found: torch.Tensor = self.last(functional.silu(self.norm(hidden)))
        return found


# ---------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Recipe:
    size: str = "cpu"
    batch: int = 8


def fit(
    cells: torch.Tensor,
    recipe: Recipe,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    folder: Path,
) -> Run:
    """Train on cells (N, F, 24, 24, 24) uint8 into FOLDER/voxels.pt, going on where it was."""
    torch.manual_seed(plan.seed)
    frames, widths = cells.shape[1], WIDTHS[recipe.size]
    network = VoxelDenoiser(frames, widths).to(members.device)
    settings: dict[str, Any] = {
        "frames": frames,
        "widths": list(widths),
        "batch": recipe.batch,
        "shapes": len(cells),
        "seed": plan.seed,
        "processes": members.size,
    }
    run = Run(network, plan, folder / CHECKPOINT, settings)
    run.resume()
    # Its length may be changed as it goes on, so that it can be given as long as what it is beside.
    run.steps = plan.steps or run.steps
    cells = cells.to(members.device)

    def work(run: Run) -> dict[str, torch.Tensor]:
        draws = torch.Generator(members.device)
        draws.manual_seed(seeded([plan.seed, run.step, members.rank, 23]))
        return _step(run.module, cells, recipe.batch, draws)

    train(run, work, members, report)
    return run


def _step(
    network: nn.Module, cells: torch.Tensor, count: int, draws: torch.Generator
) -> dict[str, torch.Tensor]:
    device = cells.device
    chosen = torch.randint(len(cells), (count,), generator=draws, device=device)
    start = values(cells[chosen])
    noise = torch.randn(start.shape, generator=draws, device=device)
    times = torch.randint(DIFFUSION.steps, (count,), generator=draws, device=device)
    loss = (network(DIFFUSION.noised(start, times, noise), times) - start).square().mean()
    loss.backward()
    return {"loss": loss.detach()}


def trained(path: Path) -> VoxelDenoiser:
    """The averaged network on the CPU. Raises BadInput for another training's state."""
    average: dict[str, torch.Tensor] = read_checkpoint(path)["average"]
    if "first.weight" not in average or average["first.weight"].dim() != 5:
        raise BadInput(f"{path} makes no voxels.", "Train it: backend.training fields voxels.")
    widths = [average["first.weight"].shape[0]]
    widths += [average[f"smaller.{k}.weight"].shape[0] for k in range(len(WIDTHS["cpu"]) - 1)]
    network = VoxelDenoiser(average["first.weight"].shape[1], widths)
    network.load_state_dict(average)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def sample(
    network: VoxelDenoiser, count: int, seed: int, device: torch.device, steps: int = STEPS
) -> np.ndarray:
    """Values (count, F, 24, 24, 24) float32; row k is of the seed `seed + k`."""
    network.to(device)
    shape = (network.frames, CELLS, CELLS, CELLS)
    generators = [torch.Generator().manual_seed(seed + number) for number in range(count)]
    found = []
    for part in range(0, count, 8):
        some = generators[part : part + 8]

        def draws(some: list[torch.Generator] = some) -> Any:
            while True:
                yield torch.stack([torch.randn(shape, generator=one) for one in some]).to(device)

        *_, last = sampling.ancestral(
            network, DIFFUSION.spaced(steps), draws(), DIFFUSION.prediction
        )
        found.append(last.sample.float().cpu().numpy())
    return np.concatenate(found)
