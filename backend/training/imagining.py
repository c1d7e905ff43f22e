"""Training of what imagines: words, or nothing -> what of 16^3 cells is solid.

Shapes as they are and stretched ones, half of them in the mirror, under one of their captions: as
the vector of the sentence, as its words, or under nothing. See models/wala/imagined.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..conditions.words import model_words
from ..errors import BadInput
from ..models.component_denoiser import scale_of
from ..models.wala.config import ImaginedConfig, JointConfig
from ..models.wala.imagined import CELLS, DIFFUSION, FEWEST, ImaginedVoxels, values
from . import dataset, stretched
from .conditions import captions
from .dataset import Sampler
from .diffusion import multi_hot, spoken_captions, spoken_words
from .loops import Plan, Run, Team, read_checkpoint, train
from .packed import Shape
from .prepare import key_of
from .stretched import SOLID, Stretched

CHECKPOINT = "imagining.pt"
SIZES = {
    "cpu": ImaginedConfig(),
    "gpu": ImaginedConfig(components=512, width=768, depth=6),
}
_CHANCES = {"text": 0.45, "words": 0.3}
"""How often a shape is under such a condition; else under none."""
_MOST = 1.25
"""How much longer a shape gets along an axis, at most."""
_STRETCHED = 0.5
_TRIES = 4
_VARIANTS = 9
"""Ways in which each shape is kept: as it is, then stretched ones."""


class Library:
    """Shapes as cells, and what is said of them."""

    def __init__(
        self, shapes: tuple[Shape, ...], solids: torch.Tensor, words: tuple[str, ...], text: bool
    ) -> None:
        """solids: (N, 64^3 / 8) uint8, bits as in `Stretched`. text: sentences, too."""
        self.shapes = shapes
        self.shares = shares_of(solids)
        phrases = [captions(shape) for shape in shapes]
        most = max(map(len, phrases))
        self.words = torch.stack(
            [torch.stack([multi_hot(p, words) for p in _resized(said, most)]) for said in phrases]
        )
        self.text = spoken_captions(shapes) if text else None

    def to(self, device: torch.device) -> Library:
        """The same, moved there."""
        self.shares = self.shares.to(device)
        self.words = self.words.to(device)
        self.text = None if self.text is None else self.text.to(device)
        return self

    def cells(self, chosen: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """(B, 1, 16, 16, 16): what of each cell is solid, 0 to 1, stretched and mirrored."""
        device = self.shares.device
        take = torch.from_numpy(chosen).to(device)
        number = rng.integers(1, _VARIANTS, len(chosen))
        number[rng.random(len(chosen)) >= _STRETCHED] = 0
        share = self.shares[take, torch.from_numpy(number).to(device)][:, None].float() / 255
        mirrored = torch.from_numpy(rng.random(len(chosen)) < 0.5).to(device)
        return torch.where(mirrored[:, None, None, None, None], share.flip(2), share)

    def said(
        self, network: ImaginedVoxels, chosen: np.ndarray, rng: np.random.Generator
    ) -> torch.Tensor:
        """(B, C): conditions of the shapes, each one of its captions or nothing."""
        device = self.shares.device
        take = torch.from_numpy(chosen).to(device)
        caption = torch.from_numpy(rng.integers(self.words.shape[1], size=len(chosen))).to(device)
        sort = torch.from_numpy(rng.random(len(chosen))).to(device)[:, None]
        told = network.nothing(len(chosen))
        spoken = _CHANCES["text"] if self.text is not None else 0.0
        if self.text is not None:
            told = torch.where(
                sort < spoken, network.condition({"text": self.text[take, caption]}), told
            )
        worded = (sort >= spoken) & (sort < sum(_CHANCES.values()))
        return torch.where(worded, network.condition({"words": self.words[take, caption]}), told)


def names_of(shapes: Sequence[Shape], words: tuple[str, ...]) -> list[str]:
    """What shapes are called, each once per shape; those that known words say nothing of are left
    out."""
    return [name for shape in shapes if _tells(name := captions(shape)[0], words)]


@torch.no_grad()
def clear_names(
    network: torch.nn.Module, names: Sequence[str], words: tuple[str, ...], guidance: float = 3.5
) -> list[str]:
    """Those of `names` that the network has a clear picture of: cells that are solid by themselves,
    not for want of others. Thin and rare things it is not sure of."""
    assert isinstance(network, ImaginedVoxels)  # noqa: S101 - it made the run
    clear = []
    for name in sorted(set(names)):
        vector = torch.from_numpy(model_words(name, words).vector).to(network.null.device)[None]
        made = network.imagine({"words": vector}, range(_TRIES), guidance)
        if int(made.flatten(1).sum(dim=1).min()) > FEWEST:
            clear.append(name)
    return [name for name in names if name in clear]


def _tells(name: str, words: tuple[str, ...]) -> bool:
    try:
        return bool(model_words(name, words).used)
    except BadInput:
        return False


def load_library(
    folder: Path, shapes: tuple[Shape, ...], words: tuple[str, ...], text: bool
) -> Library:
    """Of FOLDER/stretched. Raises BadInput where a shape has none."""
    keys = [f"{key_of(shape.id)}.npz" for shape in shapes]
    solids = [Stretched.load(folder / "stretched" / key).solid for key in keys]
    return Library(shapes, torch.from_numpy(np.stack(solids)), words, text)


def fit(
    folder: Path,
    joint: JointConfig,
    config: ImaginedConfig,
    batch: int,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    output: Path | None = None,
) -> Run:
    """Train on FOLDER's shapes into OUTPUT/imagining.pt, going on where it was."""
    trees = dataset.load(folder, "train")
    words = spoken_words(trees.shapes)
    library = load_library(folder, trees.shapes, words, bool(joint.text)).to(members.device)
    run = begin(config, joint.text, words, batch, plan, members, (output or folder) / CHECKPOINT)
    if not run.step:
        report("principal components")
        know_components(run.module, library.shares)
        run.average.reset(run.module)
    sampler = Sampler(tuple(s.source for s in library.shapes), plan.seed, members.rank)

    def work(run: Run) -> dict[str, torch.Tensor]:
        chosen = sampler.draw(run.step, batch, balance=0.25)
        rng = dataset.generator(plan.seed, run.step, members.rank, 4)
        return _step(run, library, chosen, rng, members)

    if train(run, work, members, report):
        with run.average.in_place_of(run.module):
            run.extra["names"] = clear_names(run.module, names_of(library.shapes, words), words)
        if members.leads:
            run.save()
        report(f"imagining: done, {len(run.extra['names'])} names to choose of")
    return run


def begin(
    config: ImaginedConfig,
    text: int,
    words: tuple[str, ...],
    batch: int,
    plan: Plan,
    members: Team,
    path: Path,
) -> Run:
    """A run at its beginning, or where its checkpoint left it."""
    torch.manual_seed(plan.seed)
    settings: dict[str, Any] = {
        "imagined": _numbers(config),
        "text": text,
        "words": list(words),
        "batch": batch,
        "seed": plan.seed,
        "processes": members.size,
        "steps": plan.steps,
    }
    network = ImaginedVoxels(config, text, len(words)).to(members.device)
    run = Run(network, plan, path, settings)
    run.resume()
    return run


@torch.no_grad()
def know_components(network: torch.nn.Module, shares: torch.Tensor) -> None:
    """The principal components of shapes, of their stretched and of their mirrored ones.

    shares: (N, K, 16, 16, 16) uint8, as in `Library`.
    """
    assert isinstance(network, ImaginedVoxels)  # noqa: S101 - it made the run
    cells = values(shares.float() / 255).flatten(0, 1)
    every = torch.cat([cells, cells.flip(1)]).flatten(1)
    mean = every.mean(dim=0)
    variances, vectors = _principal(every - mean, len(network.scale))
    network.mean.copy_(mean)
    network.basis[: len(vectors)] = vectors
    network.scale[: len(vectors)] = scale_of(variances)


def _principal(rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Variances (K,), the largest first, and directions (K, D) of centred rows (N, D); K is `count`
    or, of so few, N."""
    if len(rows) <= rows.shape[1]:
        _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
        variances = singular.square() / len(rows)
    else:
        variances, columns = torch.linalg.eigh(rows.mT @ rows / len(rows))
        variances, directions = variances.flip(0), columns.flip(1).mT
    return variances[:count].clamp(min=1e-6), directions[:count]


def _numbers(config: ImaginedConfig) -> dict[str, int]:
    """Without the names, which come of the shapes."""
    return {"components": config.components, "width": config.width, "depth": config.depth}


def trained(path: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of an ImaginedVoxels. Raises BadInput."""
    weights: dict[str, torch.Tensor] = read_checkpoint(path)["average"]
    if "components_in.weight" not in weights:
        raise BadInput(f"{path} does not imagine.", "Train it: backend.training imagining.")
    return weights


def _step(
    run: Run, library: Library, chosen: np.ndarray, rng: np.random.Generator, members: Team
) -> dict[str, torch.Tensor]:
    network: ImaginedVoxels = run.module  # type: ignore[assignment]
    start = network.components(values(library.cells(chosen, rng)))
    draws = torch.Generator(members.device).manual_seed(int(rng.integers(2**62)))
    count, device = len(chosen), members.device
    times = torch.randint(DIFFUSION.steps, (count,), generator=draws, device=device)
    noise = torch.randn(start.shape, generator=draws, device=device)
    predicted = network(
        DIFFUSION.noised(start, times, noise), times, library.said(network, chosen, rng)
    )
    # As cells count, but the first components not more than four times the mean.
    counts = network.scale.square()
    counts = (counts / counts.mean()).clamp(max=4)
    loss = ((predicted - start).square() * counts).mean()
    loss.backward()
    for parameter in network.parameters():  # a batch may say nothing in one of the ways
        if parameter.grad is None and members.size > 1:
            parameter.grad = torch.zeros_like(parameter)
    return {"loss": loss.detach()}


def shares_of(solids: torch.Tensor) -> torch.Tensor:
    """(N, 64^3 / 8) uint8 of shapes -> (N, 9, 16, 16, 16) uint8: 255 times what of each cell is
    solid, of the shape as it is and stretched ones. The same for the same shapes."""
    rng = dataset.generator(len(solids), 5)
    factors = torch.from_numpy(_MOST ** rng.uniform(-1, 1, (len(solids), _VARIANTS, 3))).float()
    factors[:, 0] = 1
    kept = []
    for some, ways in zip(solids.split(32), factors.split(32), strict=True):
        extents = _extents(some)[:, None]
        longer = ways * (extents.amax(dim=-1) / (extents * ways).amax(dim=-1))[..., None]
        shares = [stretched.solids(some, way, CELLS)[:, 0] for way in longer.unbind(1)]
        kept.append((torch.stack(shares, dim=1) * 255).round().to(torch.uint8))
    return torch.cat(kept)


def _extents(solids: torch.Tensor) -> torch.Tensor:
    """(N, 3) float32: sides of the boxes that shapes fill, in cells; at least 1."""
    cells = stretched.solids(solids, torch.ones(len(solids), 3), SOLID)[:, 0]
    sides = []
    for axis in range(3):
        seen = cells.amax(dim=[1 + other for other in range(3) if other != axis]) > 0
        first = seen.int().argmax(dim=1)
        last = SOLID - seen.flip(1).int().argmax(dim=1)
        sides.append((last - first).float())
    return torch.stack(sides, dim=1).clamp(min=1)


def _resized(phrases: tuple[str, ...], count: int) -> list[str]:
    """`count` of them; of fewer, some twice."""
    return [phrases[number % len(phrases)] for number in range(count)]
