"""Seconds of every stage of WaLa at the size of the published models, with random weights.

`python3 -m backend bench --only wala [--device cuda]`, or where nothing can be installed
`python3 -m backend.bench.wala --device cuda`: needs torch, numpy, scipy and numba, no network and
no weights. About ten minutes on two processor cores, under eight with a graphics card.

Beside ours stand the published implementation's seconds, as measured once on two shared cores of
the same kind of processor, float32: the best wall time of six runs, and the lowest processor
seconds. Ours are the lowest of a few calls as well; on a shared machine only processor seconds
compare.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from .. import sampling
from ..geometry import isosurface, wavelets
from ..models.wala import acceleration
from ..models.wala.conditions import VoxelEncoder, point_encoder
from ..models.wala.config import (
    AutoencoderConfig,
    ConditionConfig,
    ImageEncoderConfig,
    PointEncoderConfig,
    UVitConfig,
    VoxelEncoderConfig,
    WalaConfig,
)
from ..models.wala.dinov2 import DinoV2
from ..models.wala.model import RESOLUTION, Wala
from ..models.wala.vqvae import VqVae

Row = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """Seconds of the published implementation on the processor: wall and user + system."""

    wall: float
    cpu: float


PUBLISHED = {
    "points, small": Published(2.45, 2.95),
    "points, large": Published(4.04, 3.81),
    "voxels": Published(0.80, 0.53),
    "image": Published(3.51, 3.57),
    "step, patches of 2": Published(4.19, 8.34),
    "step, patches of 1": Published(84.33, 69.57),
    "decoder": Published(4.64, 5.12),
    "encoder": Published(2.51, 4.92),
    "tree and inverse": Published(3.32 + 3.66, 2.38 + 2.41),
    "surface": Published(0.35, 0.35),
    "volume to mesh": Published(3.32 + 3.66 + 0.35, 2.38 + 2.41 + 0.35),
    "forward": Published(2.63, 3.09),
}
PUBLISHED_CARD = {"image to mesh": 5.52, "image to mesh, TensorRT": 0.75}
"""Seconds per shape on a graphics card that its authors do not name."""


BILLION = UVitConfig(
    width=1152,
    depth=32,
    heads=16,
    channels=128,
    residual_blocks=2,
    patch=2,
    context_channels=1024,
    cross_attention=True,
    registers=4,
    time_condition=True,
    residual_condition=1024,
)


@dataclass(frozen=True)
class Size:
    """What is measured. The defaults are the published models with one billion parameters."""

    denoiser: UVitConfig = BILLION
    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    points: PointEncoderConfig = field(
        default_factory=lambda: PointEncoderConfig(channels=1024, width=1024, queries=256)
    )
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    point_count: int = 25_000
    patches: tuple[int, ...] = (2, 1)
    batches: tuple[int, ...] = (1, 16)
    steps: int = 5
    image_side: int = 224
    repeats: int = 3

    def model(self) -> WalaConfig:
        """A model that generates from a single image."""
        tokens = (self.image_side // self.image.patch) ** 2
        return WalaConfig(
            autoencoder=self.autoencoder,
            denoiser=self.denoiser,
            diffusion=sampling.Diffusion(),
            condition=ConditionConfig(tokens=tokens, channels=self.image.width),
            image=self.image,
        )


def rows(device: str = "auto", size: Size | None = None) -> Iterator[Row]:
    """All measurements, as they are made; device as in backend/device.py."""
    from ..device import pick

    size = size or Size()
    with torch.inference_mode():
        if pick(device) == "cuda":
            yield from card_rows(size)
        else:
            yield from processor_rows(size)


# --------------------------------------------------------------------------------------- processor


def processor_rows(size: Size) -> Iterator[Row]:
    """Every stage, float32, beside the published implementation."""
    yield from _encoder_rows(size)
    yield from _autoencoder_rows(size)
    yield from _mesh_rows(size)
    yield from _denoiser_rows(size)


def _encoder_rows(size: Size) -> Iterator[Row]:
    points = torch.rand(1, size.point_count, 3) * 1.8 - 0.9
    for name, large in (("points, small", False), ("points, large", True)):
        encoder = _random(partial(point_encoder, replace(size.points, large=large)))
        yield _beside(name, size, partial(encoder, points))
    voxels = (torch.rand(1, 1, 16, 16, 16) < 0.3).float()
    small = _random(lambda: VoxelEncoder(VoxelEncoderConfig(size.points.channels)))
    yield _beside("voxels", size, lambda: small(voxels))
    images = torch.rand(1, 3, size.image_side, size.image_side) * 2 - 1
    vision = _random(lambda: DinoV2(size.image))
    yield _beside("image", size, lambda: vision(images))


def _autoencoder_rows(size: Size) -> Iterator[Row]:
    autoencoder = _random(lambda: VqVae(size.autoencoder))
    latent = torch.randn(1, size.autoencoder.latent_channels, 12, 12, 12)
    yield _beside("decoder", size, lambda: autoencoder.decode_unquantised(latent))
    volume = wavelets.pack(wavelets.forward(_ball_and_ring()))[None]
    yield _beside("encoder", size, lambda: autoencoder.encode(volume))


def _mesh_rows(size: Size) -> Iterator[Row]:
    distances = _ball_and_ring()
    packed = wavelets.pack(wavelets.forward(distances))

    def rebuilt() -> torch.Tensor:
        return wavelets.inverse(wavelets.unpack(packed, RESOLUTION), RESOLUTION)

    yield _beside("forward", size, lambda: wavelets.forward(distances))
    yield _beside("tree and inverse", size, rebuilt)
    yield _beside("surface", size, lambda: isosurface.marching_cubes(distances.numpy()))
    yield _beside("volume to mesh", size, lambda: isosurface.marching_cubes(rebuilt().numpy()))


def _denoiser_rows(size: Size) -> Iterator[Row]:
    for patch in size.patches:
        repeats = 1 if patch == 1 else size.repeats  # with one, a step takes a minute
        yield _denoiser_row(patch, replace(size, repeats=repeats))
        gc.collect()  # two models at once may not fit


def _denoiser_row(patch: int, size: Size) -> Row:
    whole = size.model()
    config = replace(whole, denoiser=replace(size.denoiser, patch=patch), image=None)
    model = _random(lambda: Wala(config))
    tokens = (size.image_side // size.image.patch) ** 2
    features = torch.randn(1, tokens, size.image.width)
    denoise = model.guided_denoiser(features, 1.8)
    x, timesteps = torch.randn(model.latent_shape()), torch.tensor([500])
    denoise(x, timesteps)  # the first also prepares the condition
    return _beside(f"step, patches of {patch}", size, lambda: denoise(x, timesteps))


def _beside(name: str, size: Size, work: Callable[[], Any]) -> Row:
    """The lowest seconds of a few calls (and one to warm up, where they are short)."""
    wall = cpu = float("inf")
    for _ in range(size.repeats + (size.repeats > 1)):
        began, began_cpu = time.perf_counter(), time.process_time()
        work()
        wall = min(wall, time.perf_counter() - began)
        cpu = min(cpu, time.process_time() - began_cpu)
    published = PUBLISHED[name]
    return {
        "what": name,
        "seconds": round(wall, 3),
        "CPU s": round(cpu, 3),
        "published s": published.wall,
        "published CPU s": published.cpu,
        "times faster (CPU s)": round(published.cpu / max(cpu, 1e-3), 2),
    }


# -------------------------------------------------------------------------------------------- card


def card_rows(
    size: Size, device: str = "cuda", dtype: torch.dtype = torch.bfloat16
) -> Iterator[Row]:
    """Image to mesh in half precision: stage by stage, whole, in batches, plain and replayed."""
    place = torch.device(device)
    model = _random(lambda: Wala(size.model()), place, dtype)
    model.autoencoder.quantize.float()
    acceleration.to_channels_last(model.autoencoder)
    for batch in size.batches:
        yield from _card_rows(model, size, batch, place, dtype)


def _card_rows(
    model: Wala, size: Size, batch: int, place: torch.device, dtype: torch.dtype
) -> Iterator[Row]:
    image = torch.rand(1, 3, size.image_side, size.image_side, device=place, dtype=dtype) * 2 - 1
    packed = wavelets.pack(wavelets.forward(_ball_and_ring().to(place)))
    distances = wavelets.inverse(wavelets.unpack(packed, RESOLUTION), RESOLUTION)
    latent = torch.randn(model.latent_shape(batch), device=place)
    timesteps = torch.full((batch,), 500, device=place)

    def features() -> torch.Tensor:
        found = model.encode(image)
        return found.expand(batch, *found.shape[1:])

    def decoded() -> torch.Tensor:
        codes = model.autoencoder.quantize(latent).latent
        return model.autoencoder.decode(codes.to(dtype)).float()

    def rebuilt(volumes: torch.Tensor) -> list[Any]:
        """Meshes in main memory. Random weights make noise, so each is of the same known tree."""
        meshes = []
        for _ in volumes:
            again = wavelets.inverse(wavelets.unpack(packed, RESOLUTION), RESOLUTION)
            meshes.append(isosurface.marching_cubes(acceleration.on_host(again)))
        return meshes

    def generated(replayed: bool) -> list[Any]:
        denoise = denoiser(replayed)
        noise = sampling.gaussian(model.latent_shape(batch), device=place)
        for step in model.sample(denoise, size.steps, noise):
            last = step.sample
        codes = model.autoencoder.quantize(last).latent
        return rebuilt(model.autoencoder.decode(codes.to(dtype)).float())

    def denoiser(replayed: bool) -> sampling.Denoiser:
        plain = model.guided_denoiser(features(), 1.8)

        def single(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return plain(x.to(dtype), t).float()

        return acceleration.graphed(single) if replayed else single

    def row(what: str, work: Callable[[], Any]) -> Row:
        seconds = _seconds(work, size.repeats, place)
        return {
            "what": what,
            "batch": batch,
            "ms": round(1000 * seconds, 2),
            "shapes/s": round(batch / seconds, 2),
        }

    yield row("image encoder", features)
    for name, replayed in (("step", False), ("step, CUDA graph", True)):
        denoise = denoiser(replayed)
        yield row(name, partial(denoise, latent, timesteps))
    yield row("decoder", decoded)
    yield row(
        "tree and inverse",
        lambda: wavelets.inverse(wavelets.unpack(packed, RESOLUTION), RESOLUTION),
    )
    yield row("field to main memory", lambda: acceleration.on_host(distances))
    on_processor = distances.cpu().numpy()
    yield row("surface, on the processor", lambda: isosurface.marching_cubes(on_processor))
    yield row("latent to mesh in main memory", lambda: rebuilt(decoded()))
    yield row(f"image to mesh, {size.steps} steps", lambda: generated(False))
    yield row(f"image to mesh, {size.steps} steps, CUDA graph", lambda: generated(True))


def _seconds(work: Callable[[], Any], repeats: int, place: torch.device) -> float:
    """The lowest of a few calls after one to warm up, the card's work included."""

    def finish() -> None:
        if place.type == "cuda":
            torch.cuda.synchronize()

    work()
    best = float("inf")
    for _ in range(repeats):
        finish()
        began = time.perf_counter()
        work()
        finish()
        best = min(best, time.perf_counter() - began)
    return best


# ------------------------------------------------------------------------------------------- input


def _random(
    make: Callable[[], Any],
    place: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A network with random weights, none of them zero, without a second copy in memory."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = make().to(dtype)
    network = network.to_empty(device=place or torch.device("cpu"))
    for name, tensor in network.state_dict().items():
        if tensor.dim() > 1:
            tensor.normal_(std=0.02)
        else:
            tensor.fill_(0.0 if name.endswith("bias") else 1.0)
    return network.eval().requires_grad_(False)


def _ball_and_ring() -> torch.Tensor:
    """Distances (256, 256, 256) float32, clipped to 0.1."""
    axis = torch.arange(RESOLUTION) * (2 / RESOLUTION) - 1
    x, y, z = axis[:, None, None], axis[:, None], axis
    ball = ((x + 0.42) ** 2 + (y - 0.1) ** 2 + (z - 0.05) ** 2).sqrt() - 0.36
    ring = ((x - 0.4) ** 2 + (y + 0.06) ** 2).sqrt() - 0.34
    ring = (ring**2 + (z - 0.02) ** 2).sqrt() - 0.13
    return torch.minimum(ball, ring).clamp(-0.1, 0.1)


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    from ..bench_tables import table

    parser = argparse.ArgumentParser(prog="python3 -m backend.bench.wala")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    found = []
    for row in rows(parser.parse_args(arguments).device):
        print(row, flush=True)
        found.append(row)
    print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
