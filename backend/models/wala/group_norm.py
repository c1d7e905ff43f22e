"""Group normalisation of volumes that are channels last in memory, on the CPU.

torch's own takes the difference of two float32 sums there, and is off by 2e-3 where a group hardly
varies, as in wavelet trees. Here the sums are float64, in an order that no number of threads
changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit

from ...geometry.threads import in_chunks

CHUNK = 2048  # voxels whose sums are made by themselves


def applies(x: torch.Tensor, *parameters: torch.Tensor | None) -> bool:
    """Whether `normalize` can take x (B, C, X, Y, Z): float32, channels last, without gradients."""
    learning = x.requires_grad or any(p is not None and p.requires_grad for p in parameters)
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.dim() == 5
        and x.is_contiguous(memory_format=torch.channels_last_3d)
        and not (torch.is_grad_enabled() and learning)
    )


def normalize(
    x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """x (B, C, X, Y, Z) with mean 0 and variance 1 per group, times weight, plus bias (C,)."""
    voxels = x.movedim(1, -1).flatten(1, 3).numpy()
    out = np.empty_like(voxels)
    for rows, result in zip(voxels, out, strict=True):
        scale, shift = _affine(rows, groups, eps, weight.detach().numpy(), bias.detach().numpy())
        in_chunks(_scale_and_shift, len(rows), rows.reshape(-1), scale, shift, result.reshape(-1))
    return torch.from_numpy(out).unflatten(1, x.shape[2:]).movedim(-1, 1)


def _affine(
    rows: np.ndarray, groups: int, eps: float, weight: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What to multiply each channel by, and then to add: (C,) float32 each."""
    count, channels = rows.shape
    sums = np.zeros((-(-count // CHUNK), 2, channels))
    in_chunks(_sums, len(sums), rows.reshape(-1), sums)
    totals = sums.sum(axis=0).reshape(2, groups, -1).sum(axis=2) / (count * channels // groups)
    mean, square = totals
    factor = 1 / np.sqrt(np.maximum(square - mean**2, 0) + eps)
    each = channels // groups
    scale = weight * np.repeat(factor, each)
    shift = bias - np.repeat(mean, each) * scale
    return scale.astype(np.float32), shift.astype(np.float32)


_COMPILE: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": {"contract", "nsz"}}


@njit("void(f4[::1], u8, f8[::1], f8[::1])", **_COMPILE)
def _add_row(rows, at, total, squares):
    for channel in range(np.uint64(len(total))):
        value = np.float64(rows[at + channel])
        total[channel] += value
        squares[channel] += value * value


@njit("void(i8, i8, f4[::1], f8[:,:,::1])", **_COMPILE)
def _sums(begin, end, rows, sums):
    """Sum and sum of squares per channel of the chunks numbered begin..end."""
    channels = sums.shape[2]
    count = len(rows) // channels
    for chunk in range(begin, end):
        total, squares = np.zeros(channels), np.zeros(channels)
        for row in range(CHUNK * chunk, min(CHUNK * (chunk + 1), count)):
            _add_row(rows, np.uint64(row * channels), total, squares)
        sums[chunk, 0] = total
        sums[chunk, 1] = squares


@njit("void(f4[::1], u8, f4[::1], f4[::1], f4[::1])", **_COMPILE)
def _scale_row(rows, at, scale, shift, out):
    for channel in range(np.uint64(len(scale))):
        out[at + channel] = rows[at + channel] * scale[channel] + shift[channel]


@njit("void(i8, i8, f4[::1], f4[::1], f4[::1], f4[::1])", **_COMPILE)
def _scale_and_shift(begin, end, rows, scale, shift, out):
    for row in range(begin, end):
        _scale_row(rows, np.uint64(row * len(scale)), scale, shift, out)
