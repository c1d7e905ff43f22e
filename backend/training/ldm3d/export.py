"""From checkpoints to a model as `backend.weights` knows it: diffusers' folders, float16."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ... import weights
from ...errors import BadInput
from ...models.ldm3d.config import Ldm3dConfig
from ...weights import Installed
from ..loops import read_checkpoint
from . import autoencoder, diffusion, layouts, pictures
from .diffusion import Parts

TASKS = ("text-to-panorama",)
PREFIX = "360 view of "
MOST_BYTES = 60_000_000
_WEIGHTS = "diffusion_pytorch_model.safetensors"


def trained(folder: Path, size: str, captions: list[str]) -> tuple[Any, Parts]:
    """The averaged autoencoder and diffusion of FOLDER; layouts, if there, as one of the parts.
    Raises BadInput."""
    coder = autoencoder.trained(folder / autoencoder.CHECKPOINT)
    parts = diffusion.fresh(size, coder.config.latent_channels, captions)
    diffusion.averaged(folder / diffusion.CHECKPOINT, parts)
    if (folder / layouts.CHECKPOINT).exists():
        parts.layouts = layouts.trained(folder / layouts.CHECKPOINT)
    return coder, parts


def export(
    folder: Path,
    size: str,
    captions: list[str],
    target: Path,
    *,
    title: str,
    height: int,
    license: str = "CC-BY-4.0",
    steps: int = 25,
    guidance: float = 1.5,
    half: bool = True,
) -> Installed:
    """Write the trained model into `target`, named as its id. captions: that it was trained on.

    Raises BadInput for trainings that are missing, not finished, or of other sizes, and for a model
    that became too large.
    """
    coder, parts = trained(folder, size, captions)
    config = Ldm3dConfig(
        width=2 * height,
        height=height,
        prefix=PREFIX,
        depth_layout=autoencoder.LAYOUT,
        meaning=pictures.MEANING,
    )
    with tempfile.TemporaryDirectory() as place:
        files = written(Path(place), coder, parts, torch.float16 if half else torch.float32)
        total = sum(path.stat().st_size for path in files.values())
        if total > MOST_BYTES:
            raise BadInput(f"The model has {total / 1e6:.0f} MB.", "Train a smaller one.")
        return weights.write_snapshot(
            target,
            files,
            id=target.name,
            title=title,
            family="ldm3d",
            tasks=TASKS,
            config=config.to_dict(),
            steps=steps,
            guidance=guidance,
            license=license,
            summary="Rooms all around with depth, from words. Small, and trained on rooms alone.",
            stands_in_for=TASKS,
            source=provenance(folder),
        )


def written(folder: Path, coder: Any, parts: Parts, dtype: torch.dtype) -> dict[str, Path]:
    """The files of a model in `folder`, by their names in it."""
    networks: dict[str, tuple[Any, str]] = {
        "unet": (parts.module["unet"], _WEIGHTS),
        "vae": (coder, _WEIGHTS),
        "text_encoder": (parts.text_encoder, "model.safetensors"),
    }
    if parts.layouts is not None:
        parts.layouts.rounded()
        networks["layouts"] = (parts.layouts, _WEIGHTS)
    for part, (network, name) in networks.items():
        (folder / part).mkdir()
        tensors = {
            key: value.detach().cpu().to(dtype if value.is_floating_point() else None).contiguous()
            for key, value in network.state_dict().items()
            if value.is_floating_point() or value.dtype == torch.int8
        }
        save_file(tensors, folder / part / name)
        settings: Any = network.config
        text = settings.to_json_string() if part == "text_encoder" else network.to_json_string()
        (folder / part / "config.json").write_text(text, "utf-8")
    parts.tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    schedule = json.dumps(parts.schedule, indent=2)
    (folder / "scheduler" / "scheduler_config.json").write_text(schedule, "utf-8")
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def provenance(folder: Path) -> dict[str, Any]:
    """Steps and seconds of the trainings, and their settings."""
    found = {}
    for name in (autoencoder.CHECKPOINT, diffusion.CHECKPOINT, layouts.CHECKPOINT):
        if not (folder / name).exists():
            continue
        state = read_checkpoint(folder / name)
        found[Path(name).stem] = {**state["numbers"], "settings": json.loads(state["settings"])}
    return found
