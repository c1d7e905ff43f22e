"""From a training's state to a model as `backend.weights` knows it: one file, float16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ... import weights
from ...errors import BadInput
from ...models.hyperdiffusion.model import FAMILY, FieldModel
from ...weights import Installed
from . import diffusion

TASKS = {False: ("shape",), True: ("animation",)}
"""Of still and of moving fields."""
MOST_BYTES = 40_000_000
STEPS = 50


def export(
    checkpoint: Path,
    target: Path,
    *,
    title: str,
    license: str = "CC-BY-4.0",
    steps: int = STEPS,
    default_for: tuple[str, ...] = (),
    stands_in_for: tuple[str, ...] = (),
    without: Sequence[str] = (),
    provenance: dict[str, Any] | None = None,
) -> Installed:
    """Write the averaged model of a checkpoint into `target`, named as its id.

    without: names that cannot be asked for, because what comes of them is not good enough.
    Raises BadInput for another training's state, a name that the model has not, and for a model
    that became too large.
    """
    model, settings = diffusion.trained(checkpoint)
    model = offering(model, without)
    config = model.config
    tensors = tensors_of(model)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > MOST_BYTES:
        raise BadInput(f"The model has {total / 1e6:.0f} MB.", "Train a smaller one.")
    return weights.write_model(
        target,
        id=target.name,
        title=title,
        summary=summary_of(model),
        family=FAMILY,
        tasks=TASKS[config.moving],
        config={
            "model": {**config.to_dict(), "steps": steps},
            "known_names": list(model.known_names),
        },
        tensors=tensors,
        steps=steps,
        license=license,
        default_for=default_for,
        stands_in_for=stands_in_for,
        source={
            "training": {
                **settings["numbers"],
                "recipe": settings["recipe"],
                "seed": settings["seed"],
                "processes": settings["processes"],
                "fields": len(model.known_names),
            },
            "left_out": list(without),
            **(provenance or {}),
        },
    )


def offering(model: FieldModel, without: Sequence[str]) -> FieldModel:
    """The model with fewer names. Raises BadInput for one that it has not."""
    config = model.config
    unknown = set(without) - set(config.names)
    if unknown:
        raise BadInput(
            f"The model has no name {min(unknown)!r}.", f"It has: {', '.join(config.names)}."
        )
    names = tuple(name for name in config.names if name not in without)
    if names == config.names:
        return model
    found = FieldModel(replace(config, names=names), len(model.known), model.known_names)
    tensors = model.state_dict()
    # Row 0 is for any.
    rows = [0, *(config.names.index(name) + 1 for name in names)]
    tensors["denoiser.names.weight"] = tensors["denoiser.names.weight"][rows]
    found.load_state_dict(tensors)
    return found.eval().requires_grad_(False)


def tensors_of(model: FieldModel) -> dict[str, torch.Tensor]:
    """The weights as float16. What it was trained on goes along only where that is small: as
    coefficients of components."""
    found = dict(model.state_dict())
    if model.config.space != "components":
        found["known"] = found["known"][:0]
    return {name: found[name].half().contiguous() for name in sorted(found)}


def summary_of(model: FieldModel) -> str:
    """A sentence for people."""
    if model.config.moving:
        kinds = ", ".join(model.config.names) or "moving things"
        return f"Animated shapes of {model.config.frames} frames, of nothing: {kinds}."
    return "Chairs and stools of nothing: variations of the shapes that it was trained on."
