"""Fields of all shapes of a set, fitted together: each the mean field and an amount of each of few
others.

Fields that are fitted one by one, be it from one start, keep much that is chance, and what lies
between two of them is no shape. Here the weights of field n are mean + codes_n @ basis, and mean,
basis and codes are trained at once on the points of all shapes, at a fraction of the time. What
lies between two codes then is a shape, as a rule, and a diffusion has few numbers to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...errors import BadInput
from ...models.hyperdiffusion.config import FieldConfig
from ...models.hyperdiffusion.field import evaluate
from ...models.hyperdiffusion.fitting import random_start
from ..loops import Plan, Run, Team, read_checkpoint, train
from .points import PointSet

CHECKPOINT = "together.pt"
RATE = 1e-2
_PACES = {"codes": 0.25, "basis": 0.3}
"""How much slower than the mean these learn: one step moves all codes, of few shapes."""
_SPREAD = 0.3
"""Root mean square of codes at the beginning."""
_SMALL = 1e-4
"""What the mean square of codes counts in the loss, so that they keep together."""


@dataclass(frozen=True)
class Recipe:
    """components: of the weights. shapes, points: in a step of one process."""

    components: int = 64
    shapes: int = 16
    points: int = 512
    seed: int = 0


SIZES = {"cpu": Recipe(), "gpu": Recipe(components=192, shapes=64, points=4096)}


class Together(nn.Module):
    """codes (N, K), mean (W,), basis (K, W)."""

    def __init__(self, config: FieldConfig, codes: torch.Tensor, start: np.ndarray) -> None:
        super().__init__()
        self.config = config
        self.mean = nn.Parameter(torch.from_numpy(np.array(start, np.float32)))
        components = codes.shape[1]
        scale = self.mean.detach().square().mean().sqrt() / components**0.5
        self.basis = nn.Parameter(torch.randn(components, len(start)) * scale)
        self.codes = nn.Parameter(codes.clone())

    def vectors(self, chosen: torch.Tensor) -> torch.Tensor:
        """(B, W) of the shapes of these numbers (B,)."""
        return self.mean + self.codes[chosen] @ self.basis

    @torch.no_grad()
    def every(self) -> torch.Tensor:
        """(N, W)."""
        return self.mean + self.codes @ self.basis


def fit(
    points: PointSet,
    config: FieldConfig,
    recipe: Recipe,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    folder: Path,
    cells: torch.Tensor,
    begin_with: dict[str, torch.Tensor] | None = None,
    before: float = 0.0,
) -> Run:
    """Train into FOLDER/together.pt, going on where it was.

    cells: (N, ...) what of each cell of each shape is inside, which codes begin with.
    begin_with: what `trained` gives of another training on the same shapes, instead; before: the
    seconds that one took, which are kept.
    Raises BadInput where that was on others.
    """
    torch.manual_seed(plan.seed)
    start = random_start(config, plan.seed)
    module = Together(config, first_codes(cells, recipe.components), start)
    if begin_with is not None:
        if {k: v.shape for k, v in begin_with.items()} != {
            k: v.shape for k, v in module.state_dict().items()
        }:
            raise BadInput(
                "The training to begin with was on other shapes, or with other components.",
                "Give the same shapes and --components.",
            )
        module.load_state_dict(begin_with)
    module.to(members.device)
    settings: dict[str, Any] = {
        "field": [config.dimensions, config.frequencies, list(config.hidden), config.period],
        "recipe": vars(recipe),
        "shapes": len(points),
        "seed": plan.seed,
        "processes": members.size,
        "steps": plan.steps,
        "start": float(module.mean.detach().abs().sum()),
    }
    run = Run(module, plan, folder / CHECKPOINT, settings, slower=_PACES)
    run.extra["before"] = before
    run.resume()
    points = points.to(members.device)

    def work(run: Run) -> dict[str, torch.Tensor]:
        seed = [plan.seed, run.step, members.rank, 17]
        draws = torch.Generator(members.device).manual_seed(seeded(seed))
        return _step(run.module, points, recipe, draws)  # type: ignore[arg-type]

    train(run, work, members, report)
    return run


def _step(
    module: Together, points: PointSet, recipe: Recipe, draws: torch.Generator
) -> dict[str, torch.Tensor]:
    device = module.mean.device
    chosen = torch.randperm(len(points), generator=draws, device=device)[: recipe.shapes]
    places, inside = points.batch(chosen, recipe.points, draws)
    vectors = module.vectors(chosen)
    with torch.autocast(device.type, torch.bfloat16, enabled=_bfloat16_pays(device)):
        logits = evaluate(module.config, vectors, places)
    loss = functional.binary_cross_entropy_with_logits(logits.float(), inside)
    (loss + _SMALL * module.codes[chosen].square().mean()).backward()
    with torch.no_grad():
        found = logits > 0
        union = (found | (inside > 0)).sum().clamp(min=1)
        overlap = (found & (inside > 0)).sum() / union
    return {"loss": loss.detach(), "overlap": overlap}


def _bfloat16_pays(device: torch.device) -> bool:
    if device.type == "cuda":
        return True
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported())


def seeded(numbers: Sequence[int]) -> int:
    """A seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@torch.no_grad()
def first_codes(cells: torch.Tensor, components: int) -> torch.Tensor:
    """(N, components): amounts of the principal components of cells (N, ...), so that shapes that
    are alike begin alike. Of each the fourth root of its variance is kept; what there are too few
    shapes for is 0."""
    rows = cells.flatten(1).float()
    rows = rows - rows.mean(dim=0)
    variances, amounts = torch.linalg.eigh((rows @ rows.mT).double())
    count = min(components, len(rows) - 1)
    weights = variances.flip(0)[:count].clamp(min=0).pow(0.25)
    found = torch.zeros(len(rows), components)
    found[:, :count] = (amounts.flip(1)[:, :count] * weights).float()
    return found * (_SPREAD / found.square().mean().sqrt().clamp(min=1e-12))


@torch.no_grad()
def overlaps(config: FieldConfig, vectors: torch.Tensor, points: PointSet) -> np.ndarray:
    """(N,) float64: intersection over union of each field (N, W) and its shape, over points for
    measuring, all frames together."""
    found = np.empty(len(vectors))
    for number, vector in enumerate(vectors):
        places, inside = points.checks(number)
        logits = torch.cat([evaluate(config, vector[None], part)[0] for part in places.split(8192)])
        union = int(((logits > 0) | inside).sum())
        found[number] = int(((logits > 0) & inside).sum()) / union if union else 1.0
    return found


def trained(path: Path) -> dict[str, torch.Tensor]:
    """The averaged "mean", "basis" and "codes". Raises BadInput for another training's state."""
    found: dict[str, torch.Tensor] = read_checkpoint(path)["average"]
    if not {"mean", "basis", "codes"} <= found.keys():
        raise BadInput(f"{path} holds no fields.", "Fit them: backend.training fields together.")
    return found


def fields_of(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """(N, W) of what `trained` gives."""
    return weights["mean"] + weights["codes"] @ weights["basis"]
