"""What a step of painting views costs against how many are painted at once, with weights of chance.

`python3 -m backend bench --only viewdiff [--device cuda]`. "64 pixels" is as large as a model of
pixels for a processor, "Stable Diffusion" as the published training: 256 pixels and all layers
through space, in half precision on a card; it is measured on a card only, where a step and its
memory fit (on a processor a step of ten views takes minutes).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import device as devices
from ..models.viewdiff import sampling
from ..models.viewdiff.config import ProjectionConfig, ViewDiffConfig, unet_settings
from ..models.viewdiff.loading import in_space
from ..models.viewdiff.model import ViewDiff
from ..models.viewdiff.painter import PainterConfig, cameras_of
from ..models.viewdiff.pixels import PixelLatents
from ..pipelines.view_painting import factor_of, needed_of
from ..posed_views import intrinsics_of_field
from ..protocol import ring_poses

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A network and how many views it is given at a time."""

    name: str
    config: PainterConfig
    views: tuple[int, ...]
    on_card: bool = False


def small(size: int = 64, channels: tuple[int, ...] = (64, 96, 160)) -> PainterConfig:
    """A model of pixels."""
    pixels = PixelLatents()
    unet = unet_settings(
        channels,
        [level == 1 for level in range(len(channels))],
        size=size // pixels.patch,
        picture_channels=pixels.channels,
        words=16,
    )
    return PainterConfig(
        ViewDiffConfig(
            unet=unet,
            base="",
            image_size=size,
            rank=16,
            text_corrections=False,
            projection_mid=False,
            projection=ProjectionConfig(grid=24, samples=24, layers=1, background=False),
            combine="add",
            pixels=pixels.to_dict(),
        )
    )


CASES = (
    Case("64 pixels", small(), (2, 5, 10, 20, 30)),
    Case("Stable Diffusion, 256 pixels", PainterConfig(), (5, 10, 20, 30), on_card=True),
)


def rows(device: str = "auto", cases: tuple[Case, ...] = CASES) -> Iterator[Row]:
    """For each network and number of views: seconds of a step, of ten, the peak of the memory
    besides what was there before (on a processor as Linux tells it), and what jobs reckon with."""
    place = torch.device(devices.pick(device))
    for case in cases:
        if case.on_card and place.type != "cuda":
            continue
        dtype = torch.float16 if place.type == "cuda" else torch.float32
        network = _network(case.config, place, dtype)
        needed = needed_of(case.config, case.config.side, place)
        before = 0.0
        for views in case.views:
            seconds, peak = _step(network, case.config, views, place, dtype)
            yield {
                "network": case.name,
                "views": views,
                "device": place.type,
                "step_s": round(seconds, 4),
                "ten_steps_s": round(10 * seconds, 2),
                "growth": round(seconds / before, 2) if before else "",
                "peak_GB": round(peak / 2**30, 3) if peak else "",
                "reckoned_GB": round(needed.bytes(views) / 2**30, 3),
            }
            before = seconds


def _network(config: PainterConfig, place: torch.device, dtype: torch.dtype) -> ViewDiff:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ViewDiff(config.denoiser)
    for name, weight in made.named_parameters():
        # Layers through space are float32 always.
        weight.data = weight.data.to(place, torch.float32 if in_space(name) else dtype)
    return made.to(place).eval().requires_grad_(False)


@torch.inference_mode()
def _step(
    network: ViewDiff, config: PainterConfig, views: int, place: torch.device, dtype: torch.dtype
) -> tuple[float, int]:
    """The fastest of some steps, without guidance, and the peak of the memory, in bytes."""
    poses = ring_poses(views, 20.0, config.radius)
    lens = intrinsics_of_field(config.field, config.side, config.side, views)
    cameras = cameras_of(poses, lens, config, config.side, place)
    cells = config.side // factor_of(config)
    shape = (views, network.unet.config.out_channels, cells, cells)
    x = sampling.first_noise(shape, 0)[None].to(place, dtype)
    times = torch.full((1, views), 500, device=place)
    times[:, 0] = 0
    before = _memory(place, forget=True)
    taken = []
    for _ in range(4 if place.type == "cuda" else 2):
        began = time.perf_counter()
        found = network(x, times, None, cameras)
        if place.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    if not np.isfinite(found.float().cpu().numpy()).all():
        raise ArithmeticError("the network computed values that are no numbers")
    return min(taken), max(0, _memory(place) - before)


def _memory(place: torch.device, *, forget: bool = False) -> int:
    """The most bytes in use so far; or those now in use, of which the peak is counted from then on.
    0 where the system does not tell."""
    if place.type == "cuda":
        if forget:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    try:
        if forget:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
