"""Features of point clouds for Frechet distances: a PointNet (Qi et al. 2017) of our own.

It learns to tell what generated things and creatures are called, from 2048 points of them. What it
says before its last layer are the features. Others can be given instead, as "module:function".
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...errors import BadInput
from .. import generated
from ..loops import Plan, Run, Team, read_checkpoint, train
from ..metrics import sample_surface
from ..set_metrics import standardised
from ..solids import surface as surface_of_solid
from . import creatures
from .data import surface_of
from .together import seeded

CHECKPOINT = "pointnet.pt"
CLOUDS = "pointnet-clouds.npz"
POINTS = 2048
FEATURES = 128
PER_CLASS = 14

_SEED = 20261124
_ATTEMPTS = 8

Features = Callable[[np.ndarray], np.ndarray]
"""Clouds (B, 2048, 3) float32 -> (B, D) float32."""


class PointNet(nn.Module):
    """Clouds (B, N, 3) -> features (B, 128), and logits of classes (B, C) by `classify`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.points = nn.Sequential(
            nn.Linear(3, 64), nn.GELU(), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 512)
        )
        self.whole = nn.Sequential(
            nn.LayerNorm(512), nn.Linear(512, 256), nn.GELU(), nn.Linear(256, FEATURES), nn.GELU()
        )
        self.last = nn.Linear(FEATURES, classes)

    def forward(self, clouds: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.whole(self.points(clouds).amax(dim=1))
        return found

    def classify(self, clouds: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self(clouds))
        return found


def clouds(folder: Path, report: Callable[[str, float], None]) -> tuple[np.ndarray, np.ndarray]:
    """Standardised clouds (N, 2048, 3) float32 and their classes (N,): kept in FOLDER."""
    path = folder / CLOUDS
    if not path.exists():
        jobs = _jobs()
        made = []
        for number, job in enumerate(jobs):
            report("Clouds of things to tell apart", number / len(jobs))
            made.append(_cloud(*job))
        partial = path.with_name(path.stem + ".part.npz")
        labels = np.array([label for label, _ in jobs])
        np.savez(partial, clouds=np.stack(made).astype(np.float16), labels=labels)
        partial.replace(path)
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["clouds"].astype(np.float32), arrays["labels"]


def _jobs() -> list[tuple[int, int]]:
    """(class, number): of generated things, then of creatures."""
    families = len(generated.FAMILIES)
    things = [(c, c + families * k) for c in range(families) for k in range(PER_CLASS)]
    kinds = len(creatures.KINDS)
    moving = [(families + c, c + kinds * k) for c in range(kinds) for k in range(PER_CLASS)]
    return things + moving


def _cloud(label: int, number: int) -> np.ndarray:
    families = len(generated.FAMILIES)
    if label < families:
        vertices, faces = _thing(label, number)
    else:
        made = creatures.creature(number)
        frame = number % len(made.tables)
        vertices, faces = surface_of(lambda points: made.depth(points, frame), 48)
    draws = np.random.default_rng(number)
    cloud, _ = sample_surface(vertices.astype(np.float32), faces, POINTS, draws)
    found: np.ndarray = standardised(cloud[None])[0]
    return found


def _thing(label: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A generated thing of a class. Of some draws nothing is left: then another one is made."""
    for attempt in range(_ATTEMPTS):
        rng = np.random.Generator(np.random.PCG64([_SEED, number, attempt]))
        with suppress(ValueError):
            return surface_of_solid(generated.FAMILIES[label](rng)[0], 48)
    raise ValueError(f"{_ATTEMPTS} things of class {label} came out empty")


def fit(
    data: tuple[np.ndarray, np.ndarray],
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    folder: Path,
    batch: int = 32,
    points: int = 512,
) -> Run:
    """Train into FOLDER/pointnet.pt, going on where it was. points: of each cloud in a step."""
    torch.manual_seed(plan.seed)
    every, labels = torch.from_numpy(data[0]), torch.from_numpy(data[1].astype(np.int64))
    every, labels = every.to(members.device), labels.to(members.device)
    network = PointNet(int(labels.max()) + 1).to(members.device)
    settings = {"clouds": len(every), "batch": batch, "seed": plan.seed, "steps": plan.steps}
    run = Run(network, plan, folder / CHECKPOINT, {**settings, "processes": members.size})
    run.resume()

    def work(run: Run) -> dict[str, torch.Tensor]:
        draws = torch.Generator(members.device)
        draws.manual_seed(seeded([plan.seed, run.step, members.rank, 29]))
        chosen = torch.randint(len(every), (batch,), generator=draws, device=members.device)
        some = torch.randperm(every.shape[1], generator=draws, device=members.device)[:points]
        cloud = every[chosen][:, some]
        stretch = 0.8 + 0.4 * torch.rand(batch, 1, 3, generator=draws, device=members.device)
        noise = torch.randn(cloud.shape, generator=draws, device=members.device)
        logits = run.module.classify(cloud * stretch + 0.02 * noise)  # type: ignore[operator]
        loss = functional.cross_entropy(logits, labels[chosen])
        loss.backward()
        right = (logits.argmax(dim=1) == labels[chosen]).float().mean()
        return {"loss": loss.detach(), "right": right}

    train(run, work, members, report)
    return run


def own(path: Path) -> Features:
    """Of the PointNet that was trained. Raises BadInput where none was."""
    average: dict[str, torch.Tensor] = read_checkpoint(path)["average"]
    if "last.weight" not in average:
        raise BadInput(f"{path} is no PointNet.", "Train it: backend.training fields features.")
    network = PointNet(len(average["last.weight"]))
    network.load_state_dict(average)
    network.eval()

    @torch.no_grad()
    def features(clouds: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(np.ascontiguousarray(clouds, np.float32)).split(16)
        return torch.cat([network(part) for part in parts]).numpy()

    return features


def given(name: str) -> Features:
    """The function "module:function". Raises BadInput where there is none."""
    module, _, function = name.partition(":")
    try:
        found: Features = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(
            f"There are no features {name!r} ({error}).",
            "Give module:function, which makes (B, D) of clouds (B, 2048, 3).",
        ) from None
    return found


def of_sequences(features: Features, sequences: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Clouds (S, F, N, 3) -> (S, D): the mean over frames."""
    return np.stack([features(standardised(frames)).mean(axis=0) for frames in sequences])
