"""What painting a panorama costs at the published size of LDM3D, with weights of chance.

`python3 -m backend bench --only ldm3d [--device cuda]`. On a card the networks are as published. On
a processor, where a step takes minutes, networks of a quarter of the channels are measured on
pictures of the full size, and the seconds are those times the ratio of the products that both do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .. import device as devices
from ..models.ldm3d.circular import go_around

Row = dict[str, Any]

SIZES = ((1024, 512), (512, 512))
"""Of pictures: what the panorama model makes, and what the others were trained on."""

CELL, LATENTS, WORDS = 8, 4, 77
_PART = 4
_WARM, _TIMED = 1, 3


@dataclass(frozen=True)
class Sizes:
    """Channels of the published networks. text: channels of the words; groups: of norms."""

    unet: tuple[int, ...] = (320, 640, 1280, 1280)
    autoencoder: tuple[int, ...] = (128, 256, 512, 512)
    text: int = 768
    groups: int = 32

    def reduced(self, part: int) -> Sizes:
        """With that part of the channels between the ends."""
        return Sizes(
            tuple(count // part for count in self.unet),
            tuple(count // part for count in self.autoencoder),
            self.text,
            self.groups // 2,
        )


@dataclass(frozen=True)
class Stage:
    """A part of the work. make: its network; inputs: what it is given at a size, on a device;
    half: whether it runs in half precision on a card."""

    name: str
    make: Callable[[Sizes], nn.Module]
    inputs: Callable[[Sizes, int, int, torch.device, torch.dtype], tuple[torch.Tensor, ...]]
    half: bool


def denoiser(sizes: Sizes) -> nn.Module:
    """The U-Net, which goes around."""
    from diffusers import UNet2DConditionModel

    unet: nn.Module = UNet2DConditionModel(
        block_out_channels=sizes.unet,
        cross_attention_dim=sizes.text,
        norm_num_groups=sizes.groups,
    )
    go_around(unet)
    return unet


class Decoder(nn.Module):
    """The half of an autoencoder of four channels that makes pictures; it goes around."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        vae = AutoencoderKL(
            in_channels=LATENTS,
            out_channels=LATENTS,
            down_block_types=("DownEncoderBlock2D",) * len(sizes.autoencoder),
            up_block_types=("UpDecoderBlock2D",) * len(sizes.autoencoder),
            block_out_channels=sizes.autoencoder,
            layers_per_block=2,
            norm_num_groups=sizes.groups,
        )
        self.decoder = vae.decoder
        go_around(self.decoder)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        picture: torch.Tensor = self.decoder(latents)
        return picture


def _noise(width: int, height: int, count: int, device: torch.device, dtype: torch.dtype) -> Any:
    return torch.randn(count, LATENTS, height // CELL, width // CELL, device=device, dtype=dtype)


def _step_inputs(
    sizes: Sizes, width: int, height: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """Of a guided step: with the words and without."""
    words = torch.randn(2, WORDS, sizes.text, device=device, dtype=dtype)
    return _noise(width, height, 2, device, dtype), torch.tensor(500, device=device), words


def _latents(
    sizes: Sizes, width: int, height: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    del sizes
    return (_noise(width, height, 1, device, dtype),)


STAGES = (
    Stage("guided step", denoiser, _step_inputs, half=True),
    Stage("decoding", Decoder, _latents, half=False),
)


def rows(
    device: str = "auto",
    published: Sizes = Sizes(),
    pictures: tuple[tuple[int, int], ...] = SIZES,
) -> Iterator[Row]:
    """For each stage and size: teraflops, gigabytes of weights, seconds (on a processor those of
    one thread, reckoned), and on a card the peak of the memory, weights included."""
    place = torch.device(devices.pick(device))
    on_card = place.type == "cuda"
    for stage in STAGES:
        dtype = torch.float16 if on_card and stage.half else torch.float32
        given = published if on_card else published.reduced(_PART)
        network = _on_device(stage, given, place, dtype)
        for width, height in pictures:
            whole, weights = products(stage, published, width, height)
            inputs = stage.inputs(given, width, height, place, dtype)
            seconds = _seconds(network, inputs)
            row = {
                "stage": stage.name,
                "picture": f"{width} x {height}",
                "teraflop": round(whole / 1e12, 3),
                "weights_GB": round(weights * dtype.itemsize / 1e9, 3),
                "measured": on_card,
            }
            if on_card:
                row["peak_GB"] = round(torch.cuda.max_memory_allocated(place) / 1e9, 2)
            else:
                part = products(stage, given, width, height)[0]
                seconds *= whole / part
            yield {**row, "seconds": round(seconds, 3)}


def products(stage: Stage, sizes: Sizes, width: int, height: int) -> tuple[int, int]:
    """Floating-point operations of a stage (products and sums), and its weights. Nothing is
    computed for it."""
    nowhere = torch.device("meta")
    with nowhere:
        network = stage.make(sizes).eval()
    inputs = stage.inputs(sizes, width, height, nowhere, torch.float32)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops(), sum(weight.numel() for weight in network.parameters())


def _on_device(stage: Stage, sizes: Sizes, place: torch.device, dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return stage.make(sizes).to(place, dtype).eval()


@torch.inference_mode()
def _seconds(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    """Mean of some runs; on a processor of the processor's own time, whatever else runs on it."""
    on_card = inputs[0].is_cuda
    for _ in range(_WARM):
        network(*inputs)
    if on_card:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    clock = time.perf_counter if on_card else time.process_time
    count = _TIMED if on_card else 1
    began = clock()
    for _ in range(count):
        network(*inputs)
    if on_card:
        torch.cuda.synchronize()
    return (clock() - began) / count
