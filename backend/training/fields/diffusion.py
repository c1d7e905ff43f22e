"""Training of what makes fields of noise: see models/hyperdiffusion/model.py for its spaces."""

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
from ...models.hyperdiffusion import diffusion as published
from ...models.hyperdiffusion.config import DenoiserConfig, FieldConfig
from ...models.hyperdiffusion.model import (
    FRAMES,
    ComponentsConfig,
    FieldModel,
    FieldModelConfig,
    Space,
)
from ...models.hyperdiffusion.weights_vector import token_sizes
from ..loops import Plan, Run, Team, read_checkpoint, train
from .together import seeded

CHECKPOINT = "denoiser.pt"
FITTED = "fitted.json"
"""What is told of the fields that it was trained on."""
BATCH = {"components": 128, "scalar": 32, "none": 32}
RATES = {"components": 1e-3, "scalar": 2e-4, "none": 2e-4}
WIDTHS = {"cpu": (256, 4, 8), "gpu": (1024, 10, 16)}
"""Of the transformer: width, blocks, heads."""
PERCEPTRONS = {"cpu": (256, 3), "gpu": (1024, 6)}
"""Of components: width, blocks."""
_OCTAVES = 8.0
_MIXED = 0.5
_ALIKE = 6
_JITTER = 0.05
_UNNAMED = 0.3


@dataclass(frozen=True)
class Recipe:
    """space: see models/hyperdiffusion/model.py. batch: fields in a step of one process.

    mixed: how often, in the space of components, a field is one between it and one of the most
    alike of its kind: these are shapes, too, and what is learned is less by heart.
    """

    space: str = "components"
    batch: int = 128
    mixed: float = _MIXED
    jitter: float = _JITTER


def configuration(
    field: FieldConfig,
    space: str,
    size: str,
    components: int,
    names: Sequence[str],
    fps: float = 12.0,
) -> FieldModelConfig:
    """Of a model for such fields: `size` "cpu" or "gpu"; names are told in components only."""
    denoiser: DenoiserConfig | ComponentsConfig
    if space == "components":
        denoiser = ComponentsConfig(components, *PERCEPTRONS[size])
    else:
        width, depth, heads = WIDTHS[size]
        denoiser = DenoiserConfig(token_sizes(field), width, depth, heads, _OCTAVES)
    moving = field.dimensions == 4
    return FieldModelConfig(
        field=field,
        denoiser=denoiser,
        space=space,
        frames=FRAMES if moving else 1,
        fps=fps,
        names=tuple(names) if space == "components" and len(names) > 1 else (),
    )


def fit(
    vectors: torch.Tensor,
    kinds: Sequence[str],
    titles: Sequence[str],
    config: FieldModelConfig,
    recipe: Recipe,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    path: Path,
) -> Run:
    """Train on the fields (N, W), going on where PATH was.

    kinds: of each, of the model's names, where it has such. titles: what each is called.
    """
    torch.manual_seed(plan.seed)
    model = FieldModel(config, len(vectors), titles)
    know(model.space, vectors)
    model.known.copy_(model.space.encode(vectors))
    model.to(members.device)
    settings: dict[str, Any] = {
        "model": _plain(config.to_dict()),
        "recipe": vars(recipe),
        "titles": list(titles),
        "kinds": list(kinds),
        "seed": plan.seed,
        "processes": members.size,
        "steps": plan.steps,
        "fields": float(vectors.double().square().sum()),
    }
    run = Run(model, plan, path, settings)
    run.resume()
    told = torch.tensor([config.names.index(k) + 1 if config.names else 0 for k in kinds])
    alike = neighbours(model, kinds) if recipe.space == "components" else None
    told = told.to(members.device)

    def work(run: Run) -> dict[str, torch.Tensor]:
        draws = torch.Generator(members.device)
        draws.manual_seed(seeded([plan.seed, run.step, members.rank, 19]))
        return _step(run.module, told, alike, recipe, draws)  # type: ignore[arg-type]

    train(run, work, members, report)
    return run


@torch.no_grad()
def know(space: Space, vectors: torch.Tensor) -> None:
    """What the space is of these fields (N, W): their mean, scale, and principal components."""
    if space.kind == "none":
        return
    mean = vectors.double().mean(dim=0)
    centred = vectors.double() - mean
    space.mean.copy_(mean)
    if space.kind == "scalar":
        space.scale.fill_(float(centred.square().mean().sqrt().clamp(min=1e-8)))
        return
    # Of few long rows: by the products of rows, which are few.
    values, mixtures = torch.linalg.eigh(centred @ centred.mT / len(centred))
    count = min(len(space.scale), len(values))
    values, mixtures = values.flip(0)[:count], mixtures.flip(1)[:, :count]
    rows = mixtures.mT @ centred
    norms = rows.norm(dim=1, keepdim=True)
    usable = norms[:, 0] > 1e-6 * norms[0, 0]
    rows = torch.where(usable[:, None], rows / norms.clamp(min=1e-12), 0)
    variances = values.clamp(min=1e-4 * float(values[0]))
    space.basis.zero_()
    space.basis[:count] = rows
    scale = scale_of(variances)
    space.scale.fill_(float(scale[-1]))
    space.scale[:count] = scale


@torch.no_grad()
def directions(vectors: torch.Tensor, most: int) -> int:
    """How many directions the fields (N, W) span around their mean, `most` at most."""
    centred = vectors.double() - vectors.double().mean(dim=0)
    variances = torch.linalg.eigvalsh(centred @ centred.mT)
    return max(1, min(most, int((variances > 1e-9 * variances[-1]).sum())))


@torch.no_grad()
def neighbours(model: FieldModel, kinds: Sequence[str]) -> torch.Tensor:
    """(N, A) numbers of the fields of the same kind that are most alike, itself where too few."""
    known = model.known * model.space.scale
    distances = torch.cdist(known, known).fill_diagonal_(torch.inf)
    names = np.array(kinds)
    distances[torch.from_numpy(names[:, None] != names).to(known.device)] = torch.inf
    nearest = distances.topk(min(_ALIKE, len(known) - 1), dim=1, largest=False)
    own = torch.arange(len(known), device=known.device)[:, None]
    return torch.where(nearest.values.isfinite(), nearest.indices, own)


def _step(
    model: FieldModel,
    told: torch.Tensor,
    alike: torch.Tensor | None,
    recipe: Recipe,
    draws: torch.Generator,
) -> dict[str, torch.Tensor]:
    known, diffusion = model.known, model.diffusion
    device, count = known.device, recipe.batch

    def uniform() -> torch.Tensor:
        return torch.rand(count, generator=draws, device=device)

    chosen = torch.randint(len(known), (count,), generator=draws, device=device)
    start = known[chosen]
    if alike is not None:
        other = alike[
            chosen, torch.randint(alike.shape[1], (count,), generator=draws, device=device)
        ]
        share = torch.where(uniform() < recipe.mixed, uniform() / 2, 0)[:, None]
        start = start + share * (known[other] - start)
        jitter = torch.randn(start.shape, generator=draws, device=device)
        start = start + recipe.jitter * known.std(dim=0) * jitter
    noise = torch.randn(start.shape, generator=draws, device=device)
    times = torch.randint(diffusion.steps, (count,), generator=draws, device=device)
    if alike is None:
        loss = published.losses(model.denoiser, diffusion, start, times, noise).mean()
    else:
        said = torch.where(uniform() < _UNNAMED, 0, told[chosen])
        predicted = model.denoiser(diffusion.noised(start, times, noise), times, said)
        # As fields count, but the first components not more than four times the mean.
        counts = model.space.scale.square()
        counts = (counts / counts.mean()).clamp(max=4)
        loss = ((predicted - start).square() * counts).mean()
    loss.backward()
    return {"loss": loss.detach()}


def trained(path: Path) -> tuple[FieldModel, dict[str, Any]]:
    """The averaged model, on the CPU for inference; its settings and, as "numbers", how long it
    was trained. Raises BadInput for another training's state."""
    state = read_checkpoint(path)
    settings = json.loads(state["settings"])
    if "model" not in settings or "titles" not in settings:
        raise BadInput(f"{path} makes no fields.", "Train it: backend.training fields train.")
    config = FieldModelConfig.from_dict(settings["model"])
    model = FieldModel(config, len(settings["titles"]), settings["titles"])
    model.load_state_dict(state["average"])
    return model.eval().requires_grad_(False), {**settings, "numbers": state["numbers"]}


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(record))
    return found
