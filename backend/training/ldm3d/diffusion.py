"""Training of the diffusion: noise in latents is told from the noised latents and words, or v.

Our own begins from nothing, with a text encoder that learns beside it. A published LDM3D goes on
from its weights: its autoencoder and its text encoder stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...errors import BadInput
from ..autoencoder import autocast
from ..loops import Plan, Run, Team, read_checkpoint, train
from . import networks, vocabulary

CHECKPOINT = "panorama-diffusion.pt"
FINE_TUNED = "panorama-fine-tuned.pt"
AFTER_LAYOUTS = 0.7
"""Share of the times that our own U-Net is trained for: it goes on from a layout at 0.6."""


@dataclass(frozen=True)
class Recipe:
    """batch: latents in a step of one process. dropped: how often words are left out, so that the
    model also knows rooms of nothing, which guidance leads away from. until: share of the times
    that are trained, from the end of sampling; all, but for a model that begins with a layout."""

    batch: int
    dropped: float = 0.1
    until: float = 1.0


@dataclass(eq=False)
class Parts:
    """What is trained, and with what. module: "unet" and, where it learns, "text_encoder"; frozen:
    a text encoder that does not. layouts: trained by themselves, for export. settings: of a run,
    JSON-able; schedule: of diffusers."""

    module: nn.ModuleDict
    tokenizer: Any
    schedule: dict[str, Any]
    settings: dict[str, Any]
    frozen: Any = None
    layouts: Any = None

    @property
    def text_encoder(self) -> Any:
        """The one that is used."""
        return self.frozen if self.frozen is not None else self.module["text_encoder"]


def fresh(size: str, latent_channels: int, captions: Sequence[str]) -> Parts:
    """Parts of our own model at their beginning. size: of networks.UNETS."""
    tokenizer = vocabulary.tokenizer(captions)
    settings = {
        "unet": networks.UNETS[size],
        "text_encoder": networks.TEXTS[size],
        "latent_channels": latent_channels,
        "vocabulary": len(tokenizer),
    }
    module = nn.ModuleDict(
        {
            "unet": networks.unet(networks.UNETS[size], latent_channels),
            "text_encoder": networks.text_encoder(networks.TEXTS[size], tokenizer),
        }
    )
    return Parts(module, tokenizer, networks.SCHEDULE, settings)


def published(model: Any, schedule: dict[str, Any], name: str) -> Parts:
    """Parts of a loaded `models.ldm3d` model (in float32): only its U-Net learns.

    Raises BadInput unless it predicts the noise or v.
    """
    if schedule.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise BadInput(f"{name} predicts neither noise nor v.", "Choose a model of LDM3D.")
    model.unet.requires_grad_(True).train()
    model.text_encoder.requires_grad_(False).eval()
    return Parts(
        nn.ModuleDict({"unet": model.unet}),
        model.tokenizer,
        schedule,
        {"from": name},
        frozen=model.text_encoder,
    )


def fit(
    parts: Parts,
    latents: np.ndarray,
    captions: Sequence[str],
    recipe: Recipe,
    plan: Plan,
    members: Team,
    report: Callable[[str], None],
    path: Path,
) -> Run:
    """Train into `path`, going on where it was. latents: (k N, C, h, w) of scale one, for N
    captions, k times over. Raises BadInput."""
    run = begin(parts, recipe, plan, members, path)
    levels = alphas(parts.schedule).to(members.device)
    words = _numbers(parts.tokenizer, captions)

    def work(run: Run) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([plan.seed, run.step, members.rank])
        chosen = rng.integers(0, len(latents), recipe.batch)
        starts = torch.from_numpy(np.stack([latents[k] for k in chosen])).float()
        said = words[chosen % len(captions)].clone()
        said[rng.random(recipe.batch) < recipe.dropped] = words[-1]
        starts, said = starts.to(members.device), said.to(members.device)
        return step(parts, levels[: round(recipe.until * len(levels))], starts, said, rng)

    if train(run, work, members, report):
        report("diffusion: done")
    return run


def begin(parts: Parts, recipe: Recipe, plan: Plan, members: Team, path: Path) -> Run:
    """A run at its beginning, or where its checkpoint left it."""
    settings = {
        **parts.settings,
        "schedule": parts.schedule,
        "batch": recipe.batch,
        "dropped": recipe.dropped,
        "until": recipe.until,
        "rate": plan.rate,
        "seed": plan.seed,
        "processes": members.size,
        "steps": plan.steps,
    }
    run = Run(parts.module.to(members.device), plan, path, settings)
    run.resume()
    return run


def step(
    parts: Parts,
    levels: torch.Tensor,
    starts: torch.Tensor,
    words: torch.Tensor,
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    """Gradients of one step. levels: of signal, by time, of the times to train; starts:
    (B, C, h, w); words: (B, L)."""
    device = starts.device
    draws = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    times = torch.randint(len(levels), (len(starts),), generator=draws, device=device)
    noise = torch.randn(starts.shape, generator=draws, device=device)
    level = levels[times][:, None, None, None]
    noised = level.sqrt() * starts + (1 - level).sqrt() * noise
    # Given, since a loaded text encoder has no table of them.
    places = torch.arange(words.shape[1], device=device)[None]
    with autocast(device):
        context = parts.text_encoder(input_ids=words, position_ids=places).last_hidden_state
        predicted = parts.module["unet"](noised, times, context, return_dict=False)[0]
    wanted = noise
    if parts.schedule.get("prediction_type") == "v_prediction":
        wanted = level.sqrt() * noise - (1 - level).sqrt() * starts
    loss = functional.mse_loss(predicted.float(), wanted)
    loss.backward()
    return {"loss": loss.detach()}


def alphas(schedule: dict[str, Any]) -> torch.Tensor:
    """(T,) float32: the share of the signal's variance at each time."""
    import diffusers

    made = getattr(diffusers, schedule["_class_name"]).from_config(schedule)
    return torch.as_tensor(made.alphas_cumprod, dtype=torch.float32)


def _numbers(tokenizer: Any, captions: Sequence[str]) -> torch.Tensor:
    """(N + 1, L) int64: the captions, and no words last."""
    length = min(tokenizer.model_max_length, vocabulary.LENGTH)
    found = tokenizer(
        [*captions, ""],
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    numbers: torch.Tensor = found["input_ids"]
    return numbers


def averaged(path: Path, parts: Parts) -> nn.ModuleDict:
    """`parts.module` with the averaged weights of a checkpoint. Raises BadInput."""
    state = read_checkpoint(path)
    settings = json.loads(state["settings"])
    if any(settings.get(key) != value for key, value in parts.settings.items()):
        raise BadInput(f"{path} is of other networks.", "Give the size that it was trained as.")
    parts.module.load_state_dict(state["average"])
    parts.module.eval().requires_grad_(False)
    return parts.module
