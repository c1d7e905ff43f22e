"""What makes a WaLa model fast on a graphics card. On a processor, all of it changes nothing."""

from __future__ import annotations

import numpy as np
import torch

from ... import sampling

WARM_UP = 2
"""Calls before a graph is recorded: libraries choose their algorithms and take memory in these."""


def graphed(denoise: sampling.Denoiser) -> sampling.Denoiser:
    """`denoise`, replayed as one CUDA graph from the second step of a shape on.

    A step of one billion parameters is about a thousand kernels, and at a batch of one the card
    waits for the processor that starts them. The graph is bound to the condition that `denoise`
    knows, and gives the same bytes. Elsewhere than on CUDA it is `denoise` itself.
    """
    graphs: dict[tuple[torch.Size, torch.dtype], _Graph] = {}

    def replay(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cuda":
            return denoise(x, timesteps)
        key = (x.shape, x.dtype)
        if key not in graphs:
            graphs[key] = _Graph(denoise, x, timesteps)
        return graphs[key](x, timesteps)

    return replay


class _Graph:
    """A denoiser for one shape, recorded."""

    def __init__(
        self, denoise: sampling.Denoiser, x: torch.Tensor, timesteps: torch.Tensor
    ) -> None:
        self._x, self._timesteps = x.clone(), timesteps.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                denoise(self._x, self._timesteps)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = denoise(self._x, self._timesteps)

    def __call__(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        self._x.copy_(x)
        self._timesteps.copy_(timesteps)
        self._graph.replay()
        return self._out.clone()


def to_channels_last(module: torch.nn.Module) -> torch.nn.Module:
    """The weights of 3D convolutions in the order in which tensor cores take them; in place."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv3d) and layer.weight.device.type == "cuda":
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return module


_staging: dict[tuple[torch.Size, torch.dtype], torch.Tensor] = {}


def on_host(tensor: torch.Tensor) -> np.ndarray:
    """`tensor` as an array of its own in main memory.

    From a card it comes through locked memory, which is kept for the next of its size: several
    times faster than straight into memory that the system may move.
    """
    if tensor.device.type != "cuda":
        return tensor.numpy()
    key = (tensor.shape, tensor.dtype)
    if key not in _staging:
        _staging.clear()
        _staging[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    buffer = _staging[key]
    buffer.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream().synchronize()
    return buffer.numpy().copy()
