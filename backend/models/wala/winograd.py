"""3^3 convolutions on the CPU with 3.4 times fewer multiplications.

Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks": F(2, 3) along each of three
axes. Eight outputs take 64 multiplications instead of 216, by transforms of only additions and
halves, so that rounding errors are those of the direct sum. (Tiles of four outputs would halve the
work again, and have ten times the error.)

A thread takes a few rows of tiles at a time through input transform, products and output transform
while they are in its cache. Rows of channels are worked on PART at a time, a constant, and lie a
constant apart, so that the compiler sees that what is read and written is distinct.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit

from ...geometry.threads import in_chunks

PART = 32
PANEL = 64  # output channels that are summed at a time
GROUP = 6  # tiles that are multiplied at a time
BLOCK = 24  # tiles that a thread carries along
SMALLEST = 1000  # voxels: with fewer, the transform of the weights costs more than it saves


def applies(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `convolve` can take these, and pays: float32 on the CPU, without gradients.

    x (B, C, X, Y, Z), weight (D, C, 3, 3, 3): C a multiple of 32, D of 64, X Y Z not small.
    """
    return (
        x.device.type == "cpu"
        and x[0, 0].numel() >= SMALLEST
        and x.dtype == weight.dtype == torch.float32
        and weight.shape[0] % PANEL == 0
        and weight.shape[1] % PART == 0
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The convolution of x (B, C, X, Y, Z), zero padded by one, by weight (D, C, 3, 3, 3).

    Returns (B, D, X, Y, Z), channels last in memory. Same bytes for any number of threads.
    """
    volumes = x.movedim(1, -1).contiguous().numpy()
    channels = weight.shape[0]
    out = np.empty((*volumes.shape[:-1], channels), np.float32)
    spectrum = _spectrum(weight).numpy().reshape(-1)
    offsets = bias.contiguous().numpy()
    for volume, result in zip(volumes, out, strict=True):
        _convolve_volume(volume, spectrum, offsets, result)
    return torch.from_numpy(out).movedim(-1, 1)


def _convolve_volume(
    volume: np.ndarray, spectrum: np.ndarray, bias: np.ndarray, out: np.ndarray
) -> None:
    nx, ny, nz, channels = volume.shape
    along_x, along_y, along_z = ((size + 1) // 2 for size in (nx, ny, nz))
    rows = max(1, BLOCK // along_z)
    tiles = -(-rows * along_z // GROUP) * GROUP
    flat = volume.reshape(-1), out.reshape(-1)

    def work(begin: int, end: int) -> None:
        split = np.zeros(64 * tiles * channels, np.float32)
        product = np.empty(64 * tiles * len(bias), np.float32)
        columns = np.empty((2 * along_z + 2) * 16 * PART, np.float32)
        for block in range(begin, end):
            first = block * rows
            count = min(rows, along_x * along_y - first)
            _split_rows_of_tiles(first, count, flat[0], nx, ny, nz, channels, tiles, columns, split)
            _multiply(split, spectrum, product, tiles, channels, len(bias))
            _join_rows_of_tiles(first, count, product, bias, nx, ny, nz, tiles, flat[1])

    in_chunks(work, -(-along_x * along_y // rows))


@cache
def _weights_matrix() -> torch.Tensor:
    """(64, 27): what 3^3 weights become at each of the 4^3 places of a tile."""
    one = torch.tensor([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2
    return torch.einsum("ai,bj,ck->abcijk", one, one, one).reshape(64, 27)


def _spectrum(weight: torch.Tensor) -> torch.Tensor:
    """(D, C, 3, 3, 3) -> (64 places, D / PANEL, C, PANEL)."""
    weight = weight.detach()
    split = _weights_matrix() @ weight.flatten(2).permute(2, 1, 0).flatten(1)
    return split.reshape(64, weight.shape[1], -1, PANEL).transpose(1, 2).contiguous()


# ----------------------------------------------------------------------------------------- kernels

_COMPILE: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz", "reassoc"},
}
_PART, _TWO, _FOUR = np.uint64(PART), np.uint64(2 * PART), np.uint64(4 * PART)
_SIXTEEN = np.uint64(16 * PART)
_ZERO, _ONE, _PANEL = np.uint64(0), np.uint64(1), np.uint64(PANEL)


@njit("void(f4[::1], u8, u8, f4[::1], u8)", **_COMPILE)
def _split(rows, at, apart, out, to):
    """Four rows -> four rows PART apart: of each tile's four samples, the places' sums."""
    b = at + apart
    c = b + apart
    d = c + apart
    to1, to2, to3 = to + _PART, to + _TWO, to + _TWO + _PART
    for k in range(_PART):
        s0, s1, s2, s3 = rows[at + k], rows[b + k], rows[c + k], rows[d + k]
        out[to + k] = s0 - s2
        out[to1 + k] = s1 + s2
        out[to2 + k] = s2 - s1
        out[to3 + k] = s1 - s3


@njit("void(f4[::1], u8, u8, f4[::1], u8)", **_COMPILE)
def _join(rows, at, apart, out, to):
    """Four rows -> two rows PART apart: of the places' products, the two outputs."""
    b = at + apart
    c = b + apart
    d = c + apart
    to1 = to + _PART
    for k in range(_PART):
        s0, s1, s2, s3 = rows[at + k], rows[b + k], rows[c + k], rows[d + k]
        out[to + k] = s0 + s1 + s2
        out[to1 + k] = s1 - s2 - s3


@njit("void(f4[::1], u8, f4[::1], u8)", **_COMPILE)
def _copy(rows, at, out, to):
    for k in range(_PART):
        out[to + k] = rows[at + k]


@njit("void(f4[::1], u8, f4[::1], u8, f4[::1], u8)", **_COMPILE)
def _add(rows, at, others, other, out, to):
    for k in range(_PART):
        out[to + k] = rows[at + k] + others[other + k]


@njit("void(i8, i8, f4[::1], i8, i8, i8, i8, i8, f4[::1], f4[::1])", **_COMPILE)
def _split_rows_of_tiles(first, count, volume, nx, ny, nz, channels, tiles, columns, split):
    """Tiles of `count` rows, numbered from `first` on -> split (64 places, tiles, channels)."""
    tiles_y, tiles_z = (ny + 1) // 2, (nz + 1) // 2
    plane = np.uint64(ny * nz * channels)
    lines = np.empty(16 * PART, np.float32)
    border = np.zeros(4 * PART, np.float32)
    for row in range(count):
        x0 = 2 * ((first + row) // tiles_y) - 1
        y0 = 2 * ((first + row) % tiles_y) - 1
        inside_x = x0 >= 0 and x0 + 3 < nx
        for part in range(0, channels, PART):
            for p in range(2 * tiles_z + 2):
                z = p - 1
                for b in range(4):
                    y = y0 + b
                    at = ((x0 * ny + y) * nz + z) * channels + part
                    to = np.uint64(4 * PART * b)
                    if inside_x and 0 <= y < ny and 0 <= z < nz:
                        _split(volume, np.uint64(at), plane, lines, to)
                        continue
                    border[:] = 0
                    if 0 <= y < ny and 0 <= z < nz:
                        for a in range(4):
                            if 0 <= x0 + a < nx:
                                source = np.uint64(at + a * ny * nz * channels)
                                _copy(volume, source, border, np.uint64(PART * a))
                    _split(border, _ZERO, _PART, lines, to)
                for a in range(4):
                    to = np.uint64(16 * PART * p + 4 * PART * a)
                    _split(lines, np.uint64(PART * a), _FOUR, columns, to)
            for k in range(tiles_z):
                for ab in range(16):
                    _split(columns, np.uint64(PART * (32 * k + ab)), _SIXTEEN, lines, _ZERO)
                    for c in range(4):
                        to = ((4 * ab + c) * tiles + row * tiles_z + k) * channels + part
                        _copy(lines, np.uint64(PART * c), split, np.uint64(to))


@njit("void(f4[::1], u8, u8, f4[::1], u8, f4[::1], u8)", **_COMPILE)
def _multiply_group(split, at, apart, spectrum, weights, product, to):
    """Add to six rows of a panel what four channels of six tiles contribute."""
    i1, i2, i3 = np.uint64(1), np.uint64(2), np.uint64(3)
    b = at + apart
    c = b + apart
    d = c + apart
    e = d + apart
    f = e + apart
    a0, a1, a2, a3 = split[at], split[at + i1], split[at + i2], split[at + i3]
    b0, b1, b2, b3 = split[b], split[b + i1], split[b + i2], split[b + i3]
    c0, c1, c2, c3 = split[c], split[c + i1], split[c + i2], split[c + i3]
    d0, d1, d2, d3 = split[d], split[d + i1], split[d + i2], split[d + i3]
    e0, e1, e2, e3 = split[e], split[e + i1], split[e + i2], split[e + i3]
    f0, f1, f2, f3 = split[f], split[f + i1], split[f + i2], split[f + i3]
    w1 = weights + _PANEL
    w2 = w1 + _PANEL
    w3 = w2 + _PANEL
    to_b = to + _PANEL
    to_c = to_b + _PANEL
    to_d = to_c + _PANEL
    to_e = to_d + _PANEL
    to_f = to_e + _PANEL
    for k in range(_PANEL):
        g0, g1 = spectrum[weights + k], spectrum[w1 + k]
        g2, g3 = spectrum[w2 + k], spectrum[w3 + k]
        product[to + k] += a0 * g0 + a1 * g1 + a2 * g2 + a3 * g3
        product[to_b + k] += b0 * g0 + b1 * g1 + b2 * g2 + b3 * g3
        product[to_c + k] += c0 * g0 + c1 * g1 + c2 * g2 + c3 * g3
        product[to_d + k] += d0 * g0 + d1 * g1 + d2 * g2 + d3 * g3
        product[to_e + k] += e0 * g0 + e1 * g1 + e2 * g2 + e3 * g3
        product[to_f + k] += f0 * g0 + f1 * g1 + f2 * g2 + f3 * g3


@njit("void(f4[::1], f4[::1], f4[::1], i8, i8, i8)", **_COMPILE)
def _multiply(split, spectrum, product, tiles, channels, channels_out):
    """product (64, panels, tiles, PANEL) of split (64, tiles, channels), at every place."""
    panels = channels_out // PANEL
    apart = np.uint64(channels)
    product[:] = 0
    for place in range(64):
        for panel in range(place * panels, (place + 1) * panels):
            for channel in range(0, channels, 4):
                weights = np.uint64((panel * channels + channel) * PANEL)
                for tile in range(0, tiles, GROUP):
                    at = np.uint64((place * tiles + tile) * channels + channel)
                    to = np.uint64((panel * tiles + tile) * PANEL)
                    _multiply_group(split, at, apart, spectrum, weights, product, to)


@njit("void(i8, i8, f4[::1], f4[::1], i8, i8, i8, i8, f4[::1])", **_COMPILE)
def _join_rows_of_tiles(first, count, product, bias, nx, ny, nz, tiles, out):
    """The inverse way: product (64, panels, tiles, PANEL) -> rows of tiles of `out`."""
    tiles_y, tiles_z = (ny + 1) // 2, (nz + 1) // 2
    channels = len(bias)
    place = np.uint64(tiles * channels)
    lines = np.empty(32 * PART, np.float32)
    pairs = np.empty(16 * PART, np.float32)
    outputs = np.empty(8 * PART, np.float32)
    for row in range(count):
        x0, y0 = 2 * ((first + row) // tiles_y), 2 * ((first + row) % tiles_y)
        for tile in range(tiles_z):
            for part in range(0, channels, PART):
                panel, within = part // PANEL, part % PANEL
                at = (panel * tiles + row * tiles_z + tile) * PANEL + within
                for ab in range(16):
                    source = np.uint64(at + 4 * ab * tiles * channels)
                    _join(product, source, place, lines, np.uint64(2 * PART * ab))
                for a in range(4):
                    for z in range(2):
                        source, to = (
                            np.uint64(PART * (8 * a + z)),
                            np.uint64(PART * (4 * a + 2 * z)),
                        )
                        _join(lines, source, _TWO, pairs, to)
                for zy in range(4):
                    to = np.uint64(2 * PART * zy)
                    _join(pairs, np.uint64(PART * zy), _FOUR, outputs, to)
                for number in range(8):
                    x, y, z = x0 + (number & 1), y0 + (number >> 1 & 1), 2 * tile + (number >> 2)
                    if x < nx and y < ny and z < nz:
                        to = ((x * ny + y) * nz + z) * channels + part
                        source = np.uint64(PART * number)
                        _add(outputs, source, bias, np.uint64(part), out, np.uint64(to))
