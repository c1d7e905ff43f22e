"""From checkpoints to a model as `backend.weights` knows it: one file, float16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ... import weights
from ...errors import BadInput
from ...models.viewdiff.config import ViewDiffConfig
from ...models.viewdiff.loading import in_space
from ...models.viewdiff.painter import PainterConfig
from ...weights import Installed
from . import diffusion

FAMILY = "viewdiff"
TASKS = ("image-to-views",)
MOST_BYTES = 60_000_000
STEPS = 20
"""Of the sampler, where nobody says."""


def painter_config(
    denoiser: ViewDiffConfig,
    temperature: float = 1.0,
    tells_depth: bool = True,
    haze: float = 0.0,
) -> PainterConfig:
    """How our own model paints where nobody says: from the cameras that it was trained with."""
    return PainterConfig(
        denoiser, views=8, batch=8, most=24, elevation=20.0, field=42.5, radius=3.6, fill=0.68,
        temperature=temperature, tells_depth=tells_depth, haze=haze,
    )  # fmt: skip


def export(
    checkpoint: Path,
    target: Path,
    *,
    title: str,
    license: str = "CC-BY-4.0",
    steps: int = STEPS,
    temperature: float = 1.0,
    tells_depth: bool = True,
    haze: float = 0.0,
    stands_in_for: tuple[str, ...] = TASKS,
    texts: dict[str, str] | None = None,
) -> Installed:
    """Write the averaged weights of a checkpoint into `target`, named as its id.

    Raises BadInput for what is no training of our own model, or became too large.
    """
    model, settings = diffusion.trained(checkpoint)
    if "size" not in settings:
        raise BadInput(
            f"{checkpoint} is no training of our own model.",
            "A fine-tuned Stable Diffusion is kept by `views fine-tune --save`.",
        )
    tensors = {
        name: value.to(torch.float32 if _is_fine(name) else torch.float16).contiguous()
        for name, value in model.unet.state_dict().items()
    }
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    if total > MOST_BYTES:
        raise BadInput(f"The model has {total / 1e6:.0f} MB.", "Train a smaller one.")
    return weights.write_model(
        target,
        id=target.name,
        title=title,
        family=FAMILY,
        tasks=TASKS,
        config=painter_config(model.config, temperature, tells_depth, haze).to_dict(),
        tensors=tensors,
        steps=steps,
        summary="Views all around a thing, cut out, from one picture. Small: 64 pixels.",
        guidance=1.0,
        license=license,
        stands_in_for=stands_in_for,
        source=provenance(settings),
        texts=texts,
    )


def _is_fine(name: str) -> bool:
    """Whether a weight is kept in full: of layers through space, which are few. The guess, too,
    computes with float32, but begins with weights rounded as they are here."""
    return in_space(name) and not name.startswith("first_guess.")


def provenance(settings: dict[str, Any]) -> dict[str, Any]:
    """What model.json tells of the training."""
    return {
        "training": {
            **_course(settings),
            "recipe": settings["recipe"],
            "processes": settings["processes"],
            "guess": settings.get("guess"),
        }
    }


def _course(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How long a training was, and those before it whose weights it began with."""
    before = settings.get("begun with")
    return {
        **settings["numbers"],
        "rate": settings["rate"],
        "seed": settings["seed"],
        "projection": settings["projection"],
        "agreement": settings.get("agreement", settings.get("config", {}).get("agreement", 0.0)),
        **({"begun with": _course(before)} if before else {}),
    }


def steps_of(training: Mapping[str, Any]) -> int:
    """Of a training, as `provenance` tells it, and all that it began with."""
    before = training.get("begun with")
    return int(training["step"]) + (steps_of(before) if before else 0)
