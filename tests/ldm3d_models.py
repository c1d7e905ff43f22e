"""Small LDM3D models with weights of chance: folders as diffusers keeps them, in a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from backend import weights

WORDS = ("<|startoftext|>", "<|endoftext|>", *(f"{letter}</w>" for letter in "abcdefghij"))
WORDS += tuple("abcdefghijklmnopqrstuvwxyz0123456789")
LENGTH = 12


def parts_of(folder: Path, *, channels: int = 4, seed: int = 0, **changes: Any) -> dict[str, Path]:
    """A model's files in `folder` by name. changes: of the unet's, the vae's or the text encoder's
    settings, as unet={...}; scheduler: the name of its class."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            **{
                "sample_size": 8,
                "in_channels": 4,
                "out_channels": 4,
                "layers_per_block": 1,
                "block_out_channels": (16, 32),
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
                "cross_attention_dim": 16,
                "attention_head_dim": 2,
                "norm_num_groups": 8,
                **changes.get("unet", {}),
            }
        )
        vae = AutoencoderKL(
            **{
                "in_channels": channels,
                "out_channels": channels,
                "down_block_types": ("DownEncoderBlock2D",) * 4,
                "up_block_types": ("UpDecoderBlock2D",) * 4,
                "block_out_channels": (8, 8, 8, 16),
                "layers_per_block": 1,
                "latent_channels": 4,
                "norm_num_groups": 4,
                **changes.get("vae", {}),
            }
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                **{
                    "vocab_size": len(WORDS),
                    "hidden_size": 16,
                    "intermediate_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "max_position_embeddings": LENGTH,
                    "bos_token_id": 0,
                    "eos_token_id": 1,
                    **changes.get("text_encoder", {}),
                }
            )
        )
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text_encoder)):
        part.save_pretrained(folder / name)
    _write_json(folder / "tokenizer/vocab.json", {word: n for n, word in enumerate(WORDS)})
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    scheduler = {
        "_class_name": changes.get("scheduler", "DDIMScheduler"),
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "steps_offset": 1,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
    }
    _write_json(folder / "scheduler/scheduler_config.json", scheduler)
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def write(store: Path, parts: dict[str, Path], name: str = "small-rooms", **changes: Any):
    """A model of these parts in the store `store`."""
    given: dict[str, Any] = {
        "id": name,
        "title": "Small rooms",
        "family": "ldm3d",
        "tasks": ("text-to-panorama",),
        "config": {"width": 128, "height": 64, "prefix": "j "},
        "steps": 3,
        "guidance": 4.0,
        **changes,
    }
    return weights.write_snapshot(store / name, parts, **given)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record))
