"""Small WaLa models on disk, one per condition, with weights of chance that make smooth shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend import weights
from backend.models.wala.config import (
    AutoencoderConfig,
    ConditionConfig,
    ImageEncoderConfig,
    ImaginedConfig,
    JointConfig,
    PointEncoderConfig,
    UVitConfig,
    VoxelEncoderConfig,
    WalaConfig,
)
from backend.models.wala.model import Wala
from backend.pipelines import GENERATIONS
from backend.sampling import Diffusion

CHANNELS = 32
LATENT_SHAPE = (4, 12, 12, 12)
TASKS = {
    "points": ("points-to-mesh",),
    "voxels": ("voxels-to-mesh",),
    "image": ("image-to-mesh", "sketch-to-mesh"),
    "depth": ("depth-to-mesh",),
    "views4": ("views-to-mesh",),
    "depths6": ("views-to-mesh",),
    "shape": ("shape",),
}
WORDS = ("a", "armchair", "bed", "chair", "desk", "lamp", "oak", "red", "shelf", "table", "wooden")
JOINT_CHANNELS = 16
CAMERAS = {"views4": (3, 6, 10, 26), "depths6": (3, 6, 10, 26, 49, 50)}


def config_for(condition: str) -> WalaConfig:
    """A model of `condition`, a key of TASKS, about a thousandth of a published one."""
    cameras = CAMERAS.get(condition, ())
    tokens = {"points": 16, "voxels": 512, "shape": 0}.get(condition, 256)
    conditional = condition != "shape"
    image = ImageEncoderConfig(width=CHANNELS, depth=1, heads=2, position_side=16)
    return WalaConfig(
        autoencoder=AutoencoderConfig(codes=64, widths=(32, 32, 32)),
        denoiser=UVitConfig(
            width=64,
            depth=2,
            heads=2,
            channels=32,
            residual_blocks=1,
            patch=4,
            context_channels=CHANNELS if conditional else None,
            cross_attention=conditional,
            time_condition=conditional,
        ),
        diffusion=Diffusion(),
        condition=ConditionConfig(
            tokens=tokens,
            channels=CHANNELS,
            cameras=len(cameras) or None,
            training_views=cameras,
        )
        if conditional
        else None,
        points=PointEncoderConfig(channels=CHANNELS, width=32, queries=16)
        if condition == "points"
        else None,
        voxels=VoxelEncoderConfig(channels=CHANNELS) if condition == "voxels" else None,
        image=image if condition not in ("points", "voxels", "shape") else None,
    )


def joint_config(imagined: ImaginedConfig | None = None) -> WalaConfig:
    """A small model of every condition, whose latents have 16 channels in 4 groups."""
    return WalaConfig(
        autoencoder=AutoencoderConfig(
            latent_channels=JOINT_CHANNELS, codes=64, groups=4, widths=(32, 32, 32)
        ),
        denoiser=UVitConfig(
            width=64,
            depth=2,
            heads=2,
            channels=32,
            residual_blocks=1,
            placed=True,
            latent_channels=JOINT_CHANNELS,
            context_channels=CHANNELS,
            cross_attention=True,
            time_condition=True,
        ),
        diffusion=Diffusion(),
        joint=JointConfig(
            channels=CHANNELS,
            image_side=28,
            image_width=32,
            image_depth=1,
            image_heads=2,
            words=WORDS,
            grid_width=16,
            grid_blocks=1,
            imagined=imagined,
        ),
    )


def make_model(config: WalaConfig, seed: int = 0) -> Wala:
    """Weights by chance, such that conditions and noise both count and shapes are smooth."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Wala(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if not weight.any() and weight.dim() > 1:  # published layers that start asleep
                    weight.normal_(0, 0.5 / weight[0].numel() ** 0.5)
                elif name.startswith("autoencoder.quantize"):
                    weight.normal_(0, 1)
            if model.joint is not None and model.joint.imagined is not None:
                model.joint.imagined.basis.normal_(0, 0.1)
            _shape_the_decoder(model)
    return model.eval().requires_grad_(False)


def _shape_the_decoder(model: Wala) -> None:
    """Smooth, low band only, outside on the whole: so a shape has few faces and closes."""
    decoder = model.autoencoder.decoder
    first = decoder.in_conv.weight
    first[:] = first.mean(dim=(2, 3, 4), keepdim=True)
    for name, weight in decoder.named_parameters():
        if name.startswith("res"):
            weight *= 0.1
    last = decoder.out_conv[-1]
    last.weight[1:] = 0
    last.bias[1:] = 0
    last.weight[0] = last.weight[0].mean(dim=(1, 2, 3), keepdim=True)
    last.weight[0] *= 1 / (27 * last.weight[0, :, 0, 0, 0].abs().sum())
    last.bias[0] = 0.12


def write(folder: Path, condition: str, seed: int = 0, **changes: Any) -> weights.Installed:
    """The model `condition` in the store `folder`."""
    config = config_for(condition)
    cameras = CAMERAS.get(condition, ())
    given: dict[str, Any] = {
        "id": f"tiny-{condition}",
        "title": f"Tiny {condition}",
        "family": "wala",
        "tasks": TASKS[condition],
        "config": config.to_dict(),
        "tensors": make_model(config, seed).published_state_dict(),
        "steps": 3,
        "guidance": None if condition == "shape" else 1.5,
        "views": len(cameras),
        "view_kind": {"views4": "image", "depths6": "depth"}.get(condition, ""),
        "cameras": cameras,
        **changes,
    }
    return weights.write_model(folder / given["id"], **given)


def write_joint(
    folder: Path, seed: int = 0, imagined: ImaginedConfig | None = None, **changes: Any
) -> weights.Installed:
    """The model of every condition in `folder`, for every task."""
    config = joint_config(imagined)
    given: dict[str, Any] = {
        "id": "tiny-joint",
        "title": "Tiny joint",
        "family": "wala",
        "tasks": GENERATIONS,
        "config": config.to_dict(),
        "tensors": make_model(config, seed).published_state_dict(),
        "steps": 3,
        "guidance": 1.5,
        "views": 6,
        "view_kind": "image",
        "cameras": CAMERAS["depths6"],
        **changes,
    }
    return weights.write_model(folder / given["id"], **given)


def picture(seed: int = 0) -> np.ndarray:
    """(64, 64, 3) uint8: a disc of chance before a plain ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] / 64 - 0.5
    disc = x**2 + y**2 < rng.uniform(0.05, 0.15)
    tones = rng.integers(0, 200, (64, 64, 3))
    return np.where(disc[..., None], tones, 255).astype(np.uint8)


def depth(seed: int = 0) -> np.ndarray:
    """(64, 64) float32 metres: half a ball before nothing."""
    y, x = np.mgrid[:64, :64] / 32 - 1
    squared = np.random.default_rng(seed).uniform(0.3, 0.8) - x**2 - y**2
    return np.where(squared > 0, 3 - np.sqrt(np.abs(squared)), np.inf).astype(np.float32)
