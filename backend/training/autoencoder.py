"""Training of the VQ-VAE: wavelet trees <-> latents on a codebook.

1. Without training, the best linear code: principal components of tokens, then of latent cells.
2. What convolutions can add to it; without the codebook, until latents mean something.
3. The codebook is the k-means of the latents, found again now and then; by gradients, codes of
   narrow groups would wander.
4. Balanced fine-tuning: every source alike (Hui et al. 2024; Sanghi et al. 2024).

The loss is sampled adaptively: the tokens that hold a surface count, and as many others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import BadInput
from ..models.wala.compact import CELLS, CompactDecoder, CompactEncoder, TokenBasis
from ..models.wala.config import AutoencoderConfig, CompactConfig
from ..models.wala.vqvae import VqVae
from . import dataset
from .dataset import SYMMETRIES, Sampler, TreeSet
from .loops import Plan, Run, Team, read_checkpoint, train
from .trees import field_of

SIZES = {
    "cpu": AutoencoderConfig(
        latent_channels=64,
        codes=1024,
        groups=64,
        compact=CompactConfig(192, (32, 64), encoder_blocks=(0, 1), decoder_blocks=(1, 1)),
    ),
    "gpu": AutoencoderConfig(
        latent_channels=64,
        codes=1024,
        groups=64,
        compact=CompactConfig(192, (96, 192), encoder_blocks=(2, 3), decoder_blocks=(4, 3)),
    ),
}
CHECKPOINT = "autoencoder.pt"

_CODEBOOKS = (0.6, 0.8, 0.95)
_BALANCED_FROM = 0.8
_ERROR_WEIGHT = 10.0
"""So that gradients have a norm of about a half, and the limit of one stops those that are wild."""
_KMEANS_ROUNDS = 8
_LATENTS_FOR_CODES = 1 << 14
_SHAPES_FOR_CODES = 96
_SHAPES_FOR_BASIS = 128
_SCALE_WEIGHT = 1e-3
_WEIGHT_POWER = 0.1
"""A component of variance v counts as v^-power: 0 as energy has it, 1 all alike."""
_LATENT_POWER = 0.25
"""A channel of the linear code that carries the variance v gets the variance v^(2 power)."""
_SURFACE = 0.02
"""A token holds a surface if its low band differs as much from that of empty space."""


@dataclass(frozen=True)
class Recipe:
    """batch: of one process. cells: most tokens of a sample; larger ones are cut, and each sample
    goes by itself; 0 takes whole volumes, all of a batch together. half: in bfloat16."""

    config: AutoencoderConfig
    batch: int
    cells: int = 0
    augmented: bool = True
    compiled: bool = False
    half: bool = True


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
    run = begin(recipe, plan, members, (output or folder) / CHECKPOINT, trees)
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


def begin(recipe: Recipe, plan: Plan, members: Team, path: Path, trees: TreeSet) -> Run:
    """A run at its beginning, with the linear code of `trees`, or where its checkpoint left it."""
    torch.manual_seed(plan.seed)
    model = VqVae(recipe.config).to(members.device)
    model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    model.quantize.requires_grad_(False)
    if not path.exists():
        start_linear(model, trees, plan.seed)
    if recipe.compiled:
        model.encoder.compile()
        model.decoder.compile()
    settings = {"config": dataclasses.asdict(recipe.config), "batch": recipe.batch}
    settings |= {"cells": recipe.cells, "half": recipe.half}
    settings |= {"seed": plan.seed, "processes": members.size, "steps": plan.steps}
    run = Run(model, plan, path, settings)
    run.extra = {"codebooks": 0}
    run.resume()
    return run


def _step(
    run: Run, recipe: Recipe, trees: TreeSet, sampler: Sampler, members: Team
) -> dict[str, torch.Tensor]:
    """Gradients of one step."""
    model: VqVae = run.module  # type: ignore[assignment]
    if sum(run.fraction >= begin for begin in _CODEBOOKS) > run.extra["codebooks"]:
        find_codes(run, trees, members)
    balance = 1.0 if run.fraction >= _BALANCED_FROM else 0.0
    rng = dataset.generator(run.plan.seed, run.step, members.rank, 1)
    drawn = sampler.draw(run.step, recipe.batch, balance)
    parts = np.split(drawn, len(drawn)) if recipe.cells else [drawn]
    shown: dict[str, torch.Tensor] = {}
    for part in parts:
        symmetry = int(rng.integers(SYMMETRIES)) if recipe.augmented else 0
        tokens = trees.tokens(part, symmetry, float(_basis(model).empty))
        if recipe.cells:
            tokens = cut(tokens, recipe.cells, rng)
        draws = torch.Generator(members.device).manual_seed(int(rng.integers(2**62)))
        for name, value in _gradients(run, recipe, tokens, draws, members, len(parts)).items():
            shown[name] = shown.get(name, 0) + value / len(parts)
    return shown


def _gradients(
    run: Run,
    recipe: Recipe,
    tokens: torch.Tensor,
    draws: torch.Generator,
    members: Team,
    parts: int,
) -> dict[str, torch.Tensor]:
    """Of one part of a step's samples, tokens (B, X, Y, Z, 512)."""
    model: VqVae = run.module  # type: ignore[assignment]
    components = _basis(model).of_tokens(tokens)
    components = components.contiguous(memory_format=torch.channels_last_3d)
    with autocast(members.device, recipe.half):
        latent = model.encoder(components)
    latent = latent.float()
    quantised = model.quantize(latent) if run.extra["codebooks"] else None
    with autocast(members.device, recipe.half):
        predicted = model.decoder(quantised.latent if quantised else latent)
    near = holds_surface(tokens)
    error = adaptive_loss(predicted.float(), components, near, draws)
    # Latents beside the linear code could grow without a bound.
    loss = _ERROR_WEIGHT * error + _SCALE_WEIGHT * latent.square().mean()
    shown = {"error": error}
    if quantised:
        loss = loss + quantised.loss
        shown["codebook"] = quantised.loss
    (loss / parts).backward()
    return {name: value.detach() for name, value in shown.items()}


def _basis(model: VqVae) -> TokenBasis:
    if model.basis is None:
        raise BadInput("Only the compact autoencoder is trained here.", "Choose one of its sizes.")
    return model.basis


def autocast(device: torch.device, wanted: bool = True) -> Any:
    """bfloat16 on a card, and on processors that multiply it."""
    able = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and able)


def holds_surface(tokens: torch.Tensor) -> torch.Tensor:
    """(B, X, Y, Z, 512) -> (B, X, Y, Z) bool."""
    return tokens[..., : CELLS**3].abs().amax(dim=-1) > _SURFACE


def adaptive_loss(
    predicted: torch.Tensor, target: torch.Tensor, near: torch.Tensor, draws: torch.Generator
) -> torch.Tensor:
    """Squared error of components (B, K, X, Y, Z), summed over them: of the tokens that matter,
    near (B, X, Y, Z), and of as many drawn among all; per token that matters."""
    count = near.sum().clamp(min=1)
    chance = torch.rand(near.shape, generator=draws, device=near.device)
    counted = near.float() + (chance < count / near.numel())
    return ((predicted - target).square().sum(dim=1) * counted).sum() / count


def cut(tokens: torch.Tensor, most: int, rng: np.random.Generator) -> torch.Tensor:
    """(1, X, Y, Z, 512) -> its part around the surface, and at random of that, if it has more than
    `most` tokens. Sides stay even; what is beside the surface is two tokens wide."""
    near = holds_surface(tokens)[0]
    spans = []
    for axis in range(3):
        found = near.any(dim=tuple(other for other in range(3) if other != axis))
        where = found.nonzero()[:, 0].tolist() or [0]
        begin = max(0, where[0] // 2 * 2 - 2)
        spans.append([begin, min(len(found), where[-1] // 2 * 2 + 4)])
    while np.prod([end - begin for begin, end in spans]) > most:
        span = max(spans, key=lambda pair: pair[1] - pair[0])
        if rng.random() < 0.5:
            span[0] += 2
        else:
            span[1] -= 2
    x, y, z = (slice(*span) for span in spans)
    return tokens[:, x, y, z]


# ------------------------------------------------------------------------------------- linear code


@torch.no_grad()
def start_linear(model: VqVae, trees: TreeSet, seed: int) -> None:
    """The basis of tokens and the linear code, from shapes drawn of all, turned at random."""
    basis = _basis(model)
    rng = dataset.generator(seed, 0, 0, 9)
    chosen = rng.permutation(len(trees))[:_SHAPES_FOR_BASIS]
    turns = rng.integers(SYMMETRIES, size=len(chosen))
    basis.empty.copy_(trees.batch([0])[0, 0, 0, 0, 0])

    def tokens() -> Any:
        for index, symmetry in zip(chosen, turns, strict=True):
            yield trees.tokens([index], int(symmetry), float(basis.empty))

    values, vectors = _principal(flat[holds_surface(flat)] for flat in tokens())
    kept = basis.analysis.shape[1]
    spread = values[:kept].clamp(min=1e-12).sqrt()
    factor = (spread / spread[0]) ** _WEIGHT_POWER * spread[0]
    basis.analysis.copy_(vectors[:, :kept] / factor)
    basis.synthesis.copy_((vectors[:, :kept] * factor).T)
    encoder, decoder = _compact(model)
    for layer in (encoder, decoder):
        layer.gain.copy_(factor / spread)

    def cells() -> Any:
        for flat in tokens():
            components = basis.of_tokens(flat)
            for axis in (2, 4, 6):
                components = components.unflatten(axis, (-1, 2))
            rows = components.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(0, 3)
            yield rows[rows.abs().amax(dim=1) > 0]

    values, vectors = _principal(cells())
    channels = model.config.latent_channels
    scale = values[:channels].clamp(min=1e-12) ** (0.5 - _LATENT_POWER)
    into = (vectors[:, :channels] / scale).T
    encoder.linear.weight.copy_(into.reshape(encoder.linear.weight.shape))
    back = (vectors[:, :channels] * scale).T
    decoder.linear.weight.copy_(back.reshape(decoder.linear.weight.shape))


def _principal(rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squares along, and directions (as columns) of, the principal axes about zero; the
    largest first. The same directions on every machine up to rounding: signs are fixed."""
    total, count = 0, 0
    for part in rows:
        exact = part.double()
        total = total + exact.T @ exact
        count += len(part)
    values, vectors = torch.linalg.eigh(total / max(count, 1))
    vectors = vectors * torch.sign(vectors.sum(dim=0, keepdim=True) + 1e-30)
    return values.flip(0).float(), vectors.flip(1).float()


def _compact(model: VqVae) -> tuple[CompactEncoder, CompactDecoder]:
    encoder, decoder = model.encoder, model.decoder
    if not isinstance(encoder, CompactEncoder) or not isinstance(decoder, CompactDecoder):
        raise BadInput("Only the compact autoencoder is trained here.", "Choose one of its sizes.")
    return encoder, decoder


# ---------------------------------------------------------------------------------------- codebook


@torch.no_grad()
def find_codes(run: Run, trees: TreeSet, members: Team) -> None:
    """Codes become the centres of the latents, group by group."""
    model: VqVae = run.module  # type: ignore[assignment]
    draws = torch.Generator(members.device).manual_seed(run.plan.seed)
    order = dataset.generator(run.plan.seed, run.step, 0, 8).permutation(len(trees))
    latents = latents_of(model, trees, members.device, 0, chosen=order[:_SHAPES_FOR_CODES])
    vectors = latents.movedim(1, -1).flatten(0, -2)
    # Most of all cells are empty, and alike.
    differ = (vectors - vectors[0]).abs().amax(dim=1) > 1e-2
    vectors = torch.cat([vectors[:1], vectors[differ]])
    config = model.config
    codes = [
        kmeans(_some(part, min(len(part), _LATENTS_FOR_CODES), draws), config.codes, draws)
        for part in vectors.split(config.latent_channels // config.groups, dim=1)
    ]
    if members.size > 1:  # sums in another order are other codes
        for part in codes:
            torch.distributed.broadcast(part, 0)
    model.quantize.embedding.weight.copy_(torch.cat(codes))
    run.average.weights["quantize.embedding.weight"].copy_(model.quantize.embedding.weight)
    run.extra["codebooks"] = sum(run.fraction >= begin for begin in _CODEBOOKS)


@torch.no_grad()
def rescale(model: VqVae, scale: torch.Tensor) -> None:
    """Divide latents by `scale`, one number, without a change to what is decoded."""
    encoder, decoder = _compact(model)
    encoder.divide(scale.expand(model.config.latent_channels))
    decoder.multiply(scale.expand(model.config.latent_channels))
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


# ------------------------------------------------------------------------------------------ result


@torch.no_grad()
def latents_of(
    model: VqVae,
    trees: TreeSet,
    device: torch.device,
    symmetry: int,
    batch: int = 8,
    chosen: np.ndarray | None = None,
) -> torch.Tensor:
    """(N, C, 12, 12, 12) float32 before the codebook, of the shapes turned by `symmetry`; of all,
    or of those `chosen`."""
    basis = _basis(model)
    order = np.arange(len(trees)) if chosen is None else chosen
    parts = []
    for begin_at in range(0, len(order), batch):
        tokens = trees.tokens(order[begin_at : begin_at + batch], symmetry, float(basis.empty))
        with autocast(device):
            latent = model.encoder(basis.of_tokens(tokens))
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
    return AutoencoderConfig.from_dict(json.loads(settings)["config"])


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
