"""A multi-view model on a Stable Diffusion: its parts, what it is to remember, and keeping it.

Only its U-Net learns; the autoencoder and the text encoder stay as they are.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ... import weights
from ...errors import BadInput
from ...models.ldm3d import words
from ...models.viewdiff import loading, sampling
from ...models.viewdiff.config import ProjectionConfig, ViewDiffConfig
from ...models.viewdiff.painter import PainterConfig
from ...posed_images import PosedImages
from ...weights import Installed
from ..autoencoder import autocast
from ..loops import Run
from .diffusion import Parts, Prior, on_white
from .sources import Source

CHECKPOINT = "views-fine-tuned.pt"
TASKS = ("image-to-views", "text-to-views")
_PRIOR_STEPS = 20


@dataclass(frozen=True)
class Base:
    """The folder of a Stable Diffusion as diffusers keeps it, and what is known of it."""

    folder: Path
    schedule: dict[str, Any]
    name: str


@dataclass(frozen=True, eq=False)
class LatentCodec:
    """Pictures as latents of an autoencoder, drawn from what it says of them. Alpha is on white."""

    vae: Any
    device: torch.device

    def encode(self, posed: Sequence[PosedImages], draws: torch.Generator) -> torch.Tensor:
        pictures = torch.from_numpy(np.stack([scene.images for scene in posed])).to(self.device)
        flat = on_white(pictures).flatten(0, 1).movedim(-1, 1)
        with torch.no_grad():
            found = [self.vae.encode(one[None]).latent_dist.sample(draws)[0] for one in flat]
        scale = self.vae.config.scaling_factor
        return (torch.stack(found) * scale).unflatten(0, pictures.shape[:2])

    def as_given(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


def base_of(name: str) -> Base:
    """name: the id of an installed model, or a folder. Raises BadInput, NotInstalled."""
    folder = Path(name)
    if not folder.is_dir():
        folder = weights.require(name).folder
    if not (folder / "vae").is_dir() or not (folder / "text_encoder").is_dir():
        raise BadInput(
            f"{folder} is no Stable Diffusion as diffusers keeps it.",
            "Give a folder with the parts unet, vae, text_encoder, tokenizer and scheduler.",
        )
    path = folder / "scheduler" / "scheduler_config.json"
    schedule = loading.read_settings(path)
    if schedule.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise BadInput(
            f"{folder.name} predicts neither noise nor v.", "Choose a base model that does."
        )
    return Base(folder, schedule, folder.name)


def start(
    name: str,
    device: torch.device,
    seed: int,
    projection: ProjectionConfig | None = None,
    changes: Mapping[str, Any] | None = None,
) -> tuple[Parts, Base]:
    """What is trained, at its beginning; layers through space as published, where no others are
    given. changes: fields of ViewDiffConfig that are to be others than published. Raises BadInput,
    NotInstalled."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

    base = base_of(name)
    vae = AutoencoderKL.from_pretrained(
        base.folder / "vae", use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
    )
    text_encoder = CLIPTextModel.from_pretrained(
        base.folder / "text_encoder", use_safetensors=True, local_files_only=True
    )
    tokenizer = CLIPTokenizer.from_pretrained(base.folder / "tokenizer", local_files_only=True)
    for part in (vae, text_encoder):
        part.to(device).eval().requires_grad_(False)
    sample = int(loading.read_settings(base.folder / "unet" / "config.json")["sample_size"])
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    config = ViewDiffConfig(
        schedule=base.schedule,
        base=base.name,
        # Half of what Stable Diffusion 2.1 draws, as published; 256 pixels.
        image_size=sample * factor // 2,
        projection=projection or ProjectionConfig(),
    )
    config = dataclasses.replace(config, **(changes or {}))
    model = loading.start(base.folder, config, device, seed=seed)
    model.train().requires_grad_(True)
    length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)

    @torch.no_grad()
    def told(captions: Sequence[str]) -> torch.Tensor:
        numbers = [words.read(tokenizer, caption, length).numbers for caption in captions]
        places = torch.arange(length, device=device)[None]
        joined = torch.cat(numbers).to(device)
        return text_encoder(input_ids=joined, position_ids=places).last_hidden_state

    settings = {"from": base.name}
    return Parts(model, LatentCodec(vae, device), settings, told), base


def priors(
    base: Base,
    parts: Parts,
    source: Source,
    count: int,
    seed: int,
    report: Callable[[str], None],
) -> Prior:
    """Pictures that the base makes of the captions of the scenes, as latents, before it learns."""
    from diffusers import UNet2DConditionModel

    if parts.words is None:
        raise BadInput("The model reads no words.", "Leave out --prior.")
    device = parts.model.device
    unet = UNet2DConditionModel.from_pretrained(
        base.folder / "unet", use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
    )
    unet.to(device).eval().requires_grad_(False)
    side = parts.config.image_size // (2 ** (len(parts.codec.vae.config.block_out_channels) - 1))  # type: ignore[attr-defined]
    captions = [source.caption(k % len(source)) or "a thing" for k in range(count)]
    settings = sampling.Settings(base.schedule, _PRIOR_STEPS)
    found = []
    for number, caption in enumerate(captions):
        null, told = parts.words(["", caption])

        def denoise(
            x: torch.Tensor, times: torch.Tensor, null: Any = null, told: Any = told
        ) -> torch.Tensor:
            text = torch.stack([null, told])[-len(x) :]
            with torch.no_grad(), autocast(device):
                made = unet(x[:, 0], times[:, 0], text).sample
            return made.float()[:, None]

        shape = (1, unet.config.in_channels, side, side)
        noise = sampling.first_noise(shape, seed + number).to(device)
        latents = noise
        for step in sampling.sample(denoise, noise, None, settings):
            latents = step.sample
        found.append(latents[0].cpu())
        if (number + 1) % 10 == 0 or number + 1 == count:
            report(f"what is to be remembered: {number + 1} of {count}")
    return Prior(torch.stack(found), captions)


def save(run: Run, base: Base, parts: Parts, target: Path) -> Installed:
    """The averaged weights, with the other parts of the base beside them, as a model of the store
    in `target`, float16."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "unet").mkdir()
        with run.average.in_place_of(run.module):
            unet: Any = parts.model.unet
            # Copies: what is shared would be the latest weights again after this.
            tensors = {
                name: value.detach()
                .to("cpu", torch.float32 if loading.in_space(name) else torch.float16, copy=True)
                .contiguous()
                for name, value in unet.state_dict().items()
            }
        save_file(tensors, folder / "unet" / "diffusion_pytorch_model.safetensors")
        (folder / "unet" / "config.json").write_text(json.dumps(_plain(unet.config)), "utf-8")
        for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
            shutil.copytree(
                base.folder / part,
                folder / part,
                ignore=lambda _, names: [
                    name for name in names if not name.endswith((".json", ".txt", ".safetensors"))
                ],
            )
        files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        config = dataclasses.replace(PainterConfig(parts.config), batch=parts.config.trained_views)
        return weights.write_snapshot(
            target,
            files,
            id=target.name,
            title=f"{target.name}, on {base.name}",
            family="viewdiff",
            tasks=TASKS,
            config=config.to_dict(),
            steps=sampling.STEPS,
            guidance=sampling.GUIDANCE,
            summary="Views of a thing, from words or a picture; fine-tuned here.",
            source={"training": {"step": run.step, "seconds": run.seconds, "from": base.name}},
            move=True,
        )


def _plain(settings: Any) -> dict[str, Any]:
    """What JSON takes of the settings of a network."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dict(settings).items()
        if not key.startswith("_") and not isinstance(value, np.generic)
    }
