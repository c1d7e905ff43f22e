"""Training of the VQ-VAE: wavelet trees <-> latents on a codebook.

1. Without the codebook, until latents mean something.
2. The codebook begins as the k-means of the latents, whose scale becomes one; codes that nothing
   comes near are put where latents are.
3. Balanced fine-tuning: every source alike (Hui et al. 2024; Sanghi et al. 2024).

The loss is sampled adaptively: high bands count at the cells that matter and at as many others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import BadInput
from ..models.wala import acceleration
from ..models.wala.config import AutoencoderConfig
from ..models.wala.layers import Conv3
from ..models.wala.vqvae import Quantiser, VqVae
from . import dataset
from .dataset import SYMMETRIES, Sampler, TreeSet
from .loops import Plan, Run, Team, read_checkpoint, train
from .trees import field_of

SIZES = {
    "cpu": AutoencoderConfig(widths=(32, 32, 64)),
    "gpu": AutoencoderConfig(widths=(64, 96, 160), codes=4096),
}
CHECKPOINT = "autoencoder.pt"

_UNQUANTISED = 0.35
_BALANCED_FROM = 0.8
_REVIVAL_EVERY = 100
_KMEANS_ROUNDS = 12
_LATENTS_FOR_CODES = 1 << 17
_SCALE_WEIGHT = 1e-3
_LOW_WEIGHT = 4.0


@dataclass(frozen=True)
class Recipe:
    """batch: of one process. augmented: shapes mirrored and turned, the same way within a step."""

    config: AutoencoderConfig
    batch: int
    augmented: bool = True
    compiled: bool = False


def fit(
    folder: Path,
    recipe: Recipe,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    output: Path | None = None,
) -> Run:
    """Train on FOLDER's trees into OUTPUT/autoencoder.pt, going on where it was. The run."""
    trees = dataset.load(folder, "train", device=members.device)
    run = begin(recipe, plan, members, (output or folder) / CHECKPOINT)
    if "scale" in run.extra:
        report("autoencoder: was done before")
        return run
    sampler = Sampler(tuple(s.source for s in trees.shapes), plan.seed, members.rank)
    finished = train(run, lambda r: _step(r, recipe, trees, sampler, members), members, report)
    if finished and members.leads:
        model = trained(run.path).to(members.device)
        run.extra["scale"] = latents_of(model, trees, members.device, 0).std().cpu()
        run.save()
        _report_quality(model, folder, members, report)
        report("autoencoder: done")
    return run


def _report_quality(
    model: VqVae, folder: Path, members: Team, report: Callable[[str], None]
) -> None:
    """Of the validation shapes, where some have trees."""
    try:
        trees = dataset.load(folder, "validation", device=members.device)
    except BadInput:
        return
    found = metrics(model, trees, members.device)
    report("validation: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))


def begin(recipe: Recipe, plan: Plan, members: Team, path: Path) -> Run:
    """A run at its beginning, or where its checkpoint left it."""
    torch.manual_seed(plan.seed)
    model = VqVae(recipe.config).to(members.device)
    if members.device.type == "cuda":
        acceleration.to_channels_last(model)
    if recipe.compiled:
        model.encoder.compile()
        model.decoder.compile()
    settings = {"config": dataclasses.asdict(recipe.config), "batch": recipe.batch}
    settings |= {"seed": plan.seed, "processes": members.size, "steps": plan.steps}
    run = Run(model, plan, path, settings)
    run.extra = {"usage": torch.zeros(recipe.config.codes, device=members.device), "coded": 0}
    run.resume()
    return run


def _step(
    run: Run, recipe: Recipe, trees: TreeSet, sampler: Sampler, members: Team
) -> dict[str, torch.Tensor]:
    """Gradients of one step."""
    model: VqVae = run.module  # type: ignore[assignment]
    if run.fraction >= _UNQUANTISED and not run.extra["coded"]:
        start_codebook(run, trees, members)
    balance = 1.0 if run.fraction >= _BALANCED_FROM else 0.0
    rng = dataset.generator(run.plan.seed, run.step, members.rank, 1)
    target = trees.batch(sampler.draw(run.step, recipe.batch, balance))
    if recipe.augmented:
        target = dataset.turned(target, int(rng.integers(SYMMETRIES)))
    draws = torch.Generator(members.device).manual_seed(int(rng.integers(2**62)))
    with autocast(members.device):
        latent = model.encode(target)
    latent = latent.float()
    # Without a codebook the scale of latents is free: kept near one.
    spread = _SCALE_WEIGHT * latent.square().mean()
    quantised = model.quantize(latent) if run.extra["coded"] else None
    with autocast(members.device):
        predicted = model.decode(quantised.latent if quantised else latent)
    low, near, coarse, middle = adaptive_losses(predicted.float(), target, draws)
    loss = _LOW_WEIGHT * low + near + coarse + middle + spread
    shown = {"low": low, "near": near, "coarse": coarse, "middle": middle}
    if quantised:
        loss = loss + quantised.loss
        shown["codebook"] = quantised.loss
    loss.backward()
    if quantised:
        _count(run, quantised.indices)
        if run.step % _REVIVAL_EVERY == _REVIVAL_EVERY - 1 and run.fraction < _BALANCED_FROM:
            _revive(run, latent.detach(), draws, members)
    return {name: value.detach() for name, value in shown.items()}


def autocast(device: torch.device) -> Any:
    """bfloat16 on a card; nothing on a processor."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def adaptive_losses(
    predicted: torch.Tensor, target: torch.Tensor, draws: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Squared errors of packed trees (B, 64, 46^3): low band, low band where it matters, coarser
    and finer high bands.

    High bands: summed over channels, at the cells that matter (a coarsest coefficient above 1/32 of
    its band's largest) and at as many drawn among all, per cell that matters: the sum that
    models.wala.losses takes of lists of cells, of masks.
    """
    significant = significant_cells(target).float()
    count = significant.sum(dim=(1, 2, 3)).clamp(min=1)
    share = (count / dataset.CELLS)[:, None, None, None]
    chance = torch.rand(significant.shape, generator=draws, device=target.device)
    counted = significant + (chance < share)
    error = (predicted - target).square()
    low = error[:, 0].mean()
    near = ((error[:, 0] * significant).sum(dim=(1, 2, 3)) / count).mean()
    coarse, middle = (
        ((part.sum(dim=1) * counted).sum(dim=(1, 2, 3)) / count).mean()
        for part in (error[:, 57:], error[:, 1:57])
    )
    return low, near, coarse, middle


def significant_cells(trees: torch.Tensor) -> torch.Tensor:
    """(B, 64, 46^3) -> (B, 46^3) bool, Make-A-Shape's rule."""
    coarsest = trees[:, 57:].abs()
    return (coarsest > coarsest.amax(dim=(2, 3, 4), keepdim=True) / 32).any(dim=1)


# ---------------------------------------------------------------------------------------- codebook


@torch.no_grad()
def start_codebook(run: Run, trees: TreeSet, members: Team) -> None:
    """Latents get the scale one per channel, folded into the layers beside them; k-means codes."""
    model: VqVae = run.module  # type: ignore[assignment]
    latents = latents_of(model, trees, members.device, 0)
    scale = latents.float().std(dim=(0, 2, 3, 4))
    rescale(model, scale)
    vectors = (latents.float() / scale[None, :, None, None, None]).movedim(1, -1).flatten(0, -2)
    draws = torch.Generator(members.device).manual_seed(run.plan.seed)
    codes = kmeans(_some(vectors, _LATENTS_FOR_CODES, draws), len(run.extra["usage"]), draws)
    model.quantize.embedding.weight.copy_(codes)
    run.average.reset(model)
    run.extra["coded"] = 1


@torch.no_grad()
def rescale(model: VqVae, scale: torch.Tensor) -> None:
    """Divide latents by `scale`, (C,) or one number, without a change to what is decoded.

    Codes are divided, too; with one number for all channels the same ones stay nearest.
    """
    scale = scale.expand(model.config.latent_channels)
    last, first = cast(Conv3, model.encoder.out_conv[-1]), model.decoder.in_conv
    assert last.bias is not None  # noqa: S101 - these convolutions have one
    last.weight /= scale[:, None, None, None, None]
    last.bias /= scale
    first.weight *= scale[None, :, None, None, None]
    model.quantize.embedding.weight /= scale


def kmeans(vectors: torch.Tensor, count: int, draws: torch.Generator) -> torch.Tensor:
    """(N, C) -> (count, C) centres, Lloyd's from vectors drawn; empty ones go to other vectors."""
    centres = _some(vectors, count, draws)
    for _ in range(_KMEANS_ROUNDS):
        nearest = torch.cat([torch.cdist(v, centres).argmin(dim=1) for v in vectors.split(1 << 15)])
        number = torch.bincount(nearest, minlength=count).float()
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        means = sums / number.clamp(min=1)[:, None]
        centres = torch.where(number[:, None] > 0, means, _some(vectors, count, draws))
    return centres


def _some(vectors: torch.Tensor, count: int, draws: torch.Generator) -> torch.Tensor:
    """(count, C) of the rows, each at most once where there are enough."""
    order = torch.randperm(len(vectors), generator=draws, device=draws.device)
    return vectors[order[torch.arange(count, device=vectors.device) % len(order)]]


def _count(run: Run, indices: torch.Tensor) -> None:
    used = torch.bincount(indices.flatten(), minlength=len(run.extra["usage"]))
    run.extra["usage"] = run.extra["usage"] + used


@torch.no_grad()
def _revive(run: Run, latent: torch.Tensor, draws: torch.Generator, members: Team) -> None:
    """Codes that no latent chose since the last time become latents of this batch."""
    quantiser: Quantiser = run.module.quantize  # type: ignore[assignment]
    usage = run.extra["usage"]
    vectors = latent.movedim(1, -1).flatten(0, -2)
    candidates = _some(vectors, len(usage), draws)
    if members.size > 1:
        torch.distributed.all_reduce(usage)
        torch.distributed.broadcast(candidates, 0)
    dead = usage == 0
    weight = quantiser.embedding.weight
    weight[dead] = candidates[dead]
    for moment in run.optimizer.state.get(weight, {}).values():
        if isinstance(moment, torch.Tensor) and moment.shape == weight.shape:
            moment[dead] = 0
    run.average.weights["quantize.embedding.weight"][dead] = candidates[dead]
    run.extra["usage"] = torch.zeros_like(usage)


# ------------------------------------------------------------------------------------------ result


@torch.no_grad()
def latents_of(
    model: VqVae, trees: TreeSet, device: torch.device, symmetry: int, batch: int = 16
) -> torch.Tensor:
    """(N, C, 12, 12, 12) float32 before the codebook, of the shapes turned by `symmetry`."""
    parts = []
    for begin_at in range(0, len(trees), batch):
        chosen = range(begin_at, min(begin_at + batch, len(trees)))
        with autocast(device):
            latent = model.encode(dataset.turned(trees.batch(chosen), symmetry))
        parts.append(latent.float().contiguous())
    return torch.cat(parts)


def trained(path: Path) -> VqVae:
    """The averaged autoencoder of a checkpoint; of a finished one, latents have the scale one."""
    state = read_checkpoint(path)
    model = VqVae(_config_of(state["settings"]))
    model.load_state_dict(state["average"])
    if "scale" in state["extra"]:
        rescale(model, state["extra"]["scale"])
    return model.eval().requires_grad_(False)


def _config_of(settings: str) -> AutoencoderConfig:
    record = json.loads(settings)["config"]
    record["widths"] = tuple(record["widths"])
    return AutoencoderConfig(**record)


@torch.no_grad()
def metrics(model: VqVae, trees: TreeSet, device: torch.device, most: int = 40) -> dict[str, float]:
    """Mean IoU of the decoded field with that of the tree: with the codebook, and without.

    The tree is itself filtered and without its finest level: what that costs is a matter of trees,
    measured where the TSDF is known (`evaluate`). Also the scale of latents and the codes in use.
    """
    with_codes: list[float] = []
    without: list[float] = []
    codes: set[int] = set()
    scales: list[float] = []
    for index in range(0, len(trees), max(1, len(trees) // most)):
        target = trees.batch([index])
        with autocast(device):
            latent = model.encode(target)
        quantised = model.quantize(latent.float())
        codes |= set(quantised.indices.flatten().tolist())
        scales.append(latent.float().std().item())
        truth = field_of(target) < 0
        for kept, inner in ((with_codes, quantised.latent), (without, latent)):
            with autocast(device):
                decoded = model.decode(inner)
            kept.append(intersection_over_union(field_of(decoded.float()) < 0, truth))
    return {
        "iou": _mean(with_codes),
        "iou_unquantised": _mean(without),
        "codes": float(len(codes)),
        "latent_scale": _mean(scales),
        "shapes": float(len(scales)),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def intersection_over_union(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two bool volumes; 1 where both are empty."""
    union = (a | b).sum().item()
    return (a & b).sum().item() / union if union else 1.0
