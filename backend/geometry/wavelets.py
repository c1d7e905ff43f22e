"""The 3D biorthogonal wavelet transform bior6.8 of WaLa, and its 64-channel packed tree.

A volume (..., n, n, n) becomes a `Tree`: one low band and, per level, seven high bands. Padding is
replicate ("constant" in PyWavelets), so each level maps n -> (n + 17) // 2: 256 -> 136 -> 76 -> 46.
The last three axes are (x, y, z). High band b, of 0..6, is 4 [z high] + 2 [y high] + [x high] - 1.

Filters: Cohen, Daubechies, Feauveau 1992, as PyWavelets lists them. All four are symmetric, so
each is kept as its centre tap followed by the taps at distance 1, 2, ...

float32 volumes on the CPU go through compiled stencils; everything else (CUDA, float64, tensors
that need gradients) through one dense matrix product per axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit

from .threads import in_chunks

TAPS = 18
BANDS = 7

# Distance from the centre:  0, 1, 2, ...
_NARROW = (
    0.7589077294536541,
    0.41784910915027457,
    0.04036797903033992,
    0.07872200106262882,
    0.014467504896790148,
    0.014426282505624435,
)
_WIDE = (
    0.8259229974584023,
    0.4207962846098268,
    0.09405920349573646,
    0.07726317316720414,
    0.04973290349094079,
    0.01193456527972926,
    0.016990639867602342,
    0.0019142861290887667,
    0.0019088317364812906,
)


def _signed(taps: tuple[float, ...], signs: str) -> tuple[float, ...]:
    signed = [tap if sign == "+" else -tap for tap, sign in zip(taps, signs, strict=True)]
    return (*signed, *[0.0] * (9 - len(signed)))


# In the frame of the sample at 2 j - 8 (low) and 2 j - 7 (high), where j is the coefficient.
ANALYSIS_LOW = _signed(_WIDE, "++--++--+")
ANALYSIS_HIGH = _signed(_NARROW, "-++--+")
SYNTHESIS_LOW = _signed(_NARROW, "++--++")
SYNTHESIS_HIGH = _signed(_WIDE, "-++--++--")


@dataclass(frozen=True, eq=False)
class Tree:
    """Wavelet coefficients of a volume.

    low: (..., s0, s0, s0); highs: coarsest level first, (..., 7, s, s, s) each, s0 = highs[0]'s s.
    A level of None stands for zeros: it is neither stored nor computed with.
    """

    low: torch.Tensor
    highs: tuple[torch.Tensor | None, ...]

    def sizes(self) -> list[int]:
        """Side of the bands of each level, coarsest first."""
        sizes = [self.low.shape[-1]]
        for high in self.highs[1:]:
            sizes.append(2 * sizes[-1] - 16 if high is None else high.shape[-1])
        return sizes


def level_sizes(resolution: int, levels: int = 3) -> list[int]:
    """Side of the bands, finest level first: (256, 3) -> [136, 76, 46]."""
    sizes = []
    for _ in range(levels):
        resolution = (resolution + TAPS - 1) // 2
        sizes.append(resolution)
    return sizes


# --------------------------------------------------------------------------------------- transform


def forward(volume: torch.Tensor, levels: int = 3) -> Tree:
    """Decompose `volume` (..., n, n, n) into `levels` levels, any n >= 1."""
    return _decompose(volume, levels, replicate=True)


def adjoint(volume: torch.Tensor, levels: int = 3) -> Tree:
    """The transpose of `inverse`: <inverse(t), v> = <t, adjoint(v)> for every tree t.

    What the gradient of a loss on the volume is in terms of the coefficients. Same shapes as
    `forward`, which is not the transpose because the wavelet is biorthogonal.
    """
    return _decompose(volume, levels, replicate=False)


def _decompose(volume: torch.Tensor, levels: int, *, replicate: bool) -> Tree:
    low, highs = volume, []
    for _ in range(levels):
        low, high = analyse_level(low) if replicate else adjoint_level(low)
        highs.append(high)
    return Tree(low, tuple(reversed(highs)))


def inverse(tree: Tree, resolution: int | None = None) -> torch.Tensor:
    """Rebuild the volume (..., n, n, n), n = 2 s - 16 of the finest level.

    resolution: side of the volume that was decomposed, needed only where it was odd.
    """
    low = tree.low
    for high in tree.highs:
        if high is not None:
            low = _cropped(low, high.shape[-1])
        low = synthesize_level(low, high)
    return low if resolution is None else _cropped(low, resolution)


def _cropped(volume: torch.Tensor, size: int) -> torch.Tensor:
    """A band of odd size comes out of the level below with one sample too many at the end."""
    return volume[..., :size, :size, :size]


def synthesize_level(low: torch.Tensor, high: torch.Tensor | None) -> torch.Tensor:
    """low (..., n, n, n), high (..., 7, n, n, n) or None for zeros -> (..., 2 n - 16, ...)."""
    if not _compiled(low, high):
        return _synthesize_dense(low, high)
    size = low.shape[-1]
    out = _empty((*low.shape[:-3], *[2 * size - 16] * 3))
    lows = low.contiguous().reshape(-1, size, size, size).numpy()
    highs = None if high is None else high.contiguous().reshape(-1, 7, size, size, size).numpy()
    outs = out.reshape(-1, *out.shape[-3:]).numpy()
    for index, volume in enumerate(outs):
        bands = _NO_BANDS if highs is None else highs[index]
        _synthesize_volume(lows[index], bands, volume)
    return out


def analyse_level(volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., n, n, n) -> low (..., s, s, s), high (..., 7, s, s, s), s = (n + 17) // 2."""
    return _split_level(volume, ANALYSIS_LOW, ANALYSIS_HIGH, replicate=True)


def adjoint_level(volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The transpose of `synthesize_level`; same shapes as `analyse_level`."""
    return _split_level(volume, SYNTHESIS_LOW, SYNTHESIS_HIGH, replicate=False)


Filter = tuple[float, ...]


def _split_level(
    volume: torch.Tensor, low_taps: Filter, high_taps: Filter, *, replicate: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    if not _compiled(volume, None):
        matrix = _split_matrix(volume.shape[-1], low_taps, high_taps, replicate)
        return _split_dense(volume, matrix)
    size = volume.shape[-1]
    side = (size + TAPS - 1) // 2
    low = _empty((*volume.shape[:-3], *[side] * 3))
    high = _empty((*volume.shape[:-3], BANDS, *[side] * 3))
    lows = low.reshape(-1, side, side, side).numpy()
    highs = high.reshape(-1, BANDS, side, side, side).numpy()
    volumes = volume.contiguous().reshape(-1, size, size, size).numpy()
    taps = np.array([low_taps, high_taps], np.float32)
    for index, samples in enumerate(volumes):
        _split_volume(samples, taps, replicate, lows[index], highs[index])
    return low, high


def _empty(shape: tuple[int, ...]) -> torch.Tensor:
    """numpy asks for huge pages, torch does not: half the time of a transform is page faults."""
    return torch.from_numpy(np.empty(shape, np.float32))


def _compiled(low: torch.Tensor, high: torch.Tensor | None) -> bool:
    tensors = [low] if high is None else [low, high]
    return all(
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and not (tensor.requires_grad and torch.is_grad_enabled())
        for tensor in tensors
    )


# ------------------------------------------------------------------------------------------ packed


def pack(tree: Tree, depth: int = 2) -> torch.Tensor:
    """Low band and the `depth` coarsest levels as channels (..., 64, s, s, s) for depth 2.

    Channels: low; then each level, finest first. Within a level, the child (cx, cy, cz) of a cell
    and band b have channel ((cx * 7 + b) * f + cy) * f + cz, f = 2^(level above the coarsest);
    bands are zero padded evenly to f times the coarsest side. `unpack` is the inverse.
    """
    side = tree.low.shape[-1]
    parts = [tree.low.unsqueeze(-4)]
    for level, size in reversed(list(enumerate(tree.sizes()[:depth]))):
        factor = 2**level
        high = tree.highs[level]
        if high is None:
            high = tree.low.new_zeros((*tree.low.shape[:-3], BANDS, size, size, size))
        before = (side * factor - size) // 2
        after = side * factor - size - before
        padded = torch.nn.functional.pad(high, (before, after) * 3)
        cells = padded.reshape(*padded.shape[:-3], side, factor, side, factor, side, factor)
        # (..., b, X, cx, Y, cy, Z, cz) -> (..., cx, b, cy, cz, X, Y, Z)
        cells = cells.movedim((-5, -7, -3, -1), (-7, -6, -5, -4))
        parts.append(cells.flatten(-7, -4))
    return torch.cat(parts, dim=-4)


def unpack(packed: torch.Tensor, resolution: int = 256, levels: int = 3, depth: int = 2) -> Tree:
    """Packed channels (..., 64, s, s, s) -> Tree; levels finer than `depth` are None (zeros).

    A pure scatter: coefficients keep their bits. `depth` is WaLa's max_training_level, `levels`
    its max_depth.
    """
    sizes = level_sizes(resolution, levels)[::-1]
    side = packed.shape[-1]
    expected = 1 + BANDS * sum(8**level for level in range(depth))
    if packed.shape[-4:] != (expected, *[sizes[0]] * 3):
        raise ValueError(
            f"packed volume {tuple(packed.shape)}: expected (..., {expected}, {sizes[0]}^3)"
        )
    highs: list[torch.Tensor | None] = [None] * levels
    begin = 1
    for level in reversed(range(depth)):
        factor, size = 2**level, sizes[level]
        count = BANDS * factor**3
        channels = packed[..., begin : begin + count, :, :, :]
        begin += count
        cells = channels.unflatten(-4, (factor, BANDS, factor, factor))
        cells = cells.movedim((-7, -6, -5, -4), (-5, -7, -3, -1))
        padded = cells.reshape(*packed.shape[:-4], BANDS, *[side * factor] * 3)
        before = (side * factor - size) // 2
        inside = slice(before, before + size)
        highs[level] = padded[..., inside, inside, inside].contiguous()
    return Tree(packed[..., 0, :, :, :].contiguous(), tuple(highs))


def scatter_sparse(low: torch.Tensor, indices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """WaLa's sparse format -> packed volume (64, s, s, s).

    low (s, s, s); indices (P, 3) integer cells x, y, z; values (P, 63) in packed channel order.
    """
    packed = low.new_zeros((1 + values.shape[-1], *low.shape))
    packed[0] = low
    x, y, z = indices.long().unbind(-1)
    packed[1:, x, y, z] = values.to(low.dtype).T
    return packed


def significant_cells(tree: Tree, fraction: float = 1 / 32) -> torch.Tensor:
    """Cells of the coarsest level that WaLa's data keep: (s, s, s) bool.

    A cell is kept when one of its seven coefficients exceeds `fraction` of the largest absolute
    value of that band (Make-A-Shape's rule). `tree` has no batch axes.
    """
    coarsest = tree.highs[0]
    if coarsest is None:
        return torch.zeros(tree.low.shape, dtype=torch.bool, device=tree.low.device)
    limits = coarsest.abs().amax(dim=(1, 2, 3), keepdim=True) * fraction
    return (coarsest.abs() > limits).any(dim=0)


# ------------------------------------------------------------------------------------------- dense


def synthesis_matrix(size: int) -> np.ndarray:
    """(2 size - 16, 2 size) float64: [low | high] of one axis -> samples."""
    columns = _taps_matrix(2 * size - 16, size, SYNTHESIS_LOW, SYNTHESIS_HIGH, replicate=False)
    return columns.T.copy()


def analysis_matrix(size: int) -> np.ndarray:
    """(2 s, size) float64, s = (size + 17) // 2: samples -> [low | high] of one axis."""
    side = (size + TAPS - 1) // 2
    return _taps_matrix(size, side, ANALYSIS_LOW, ANALYSIS_HIGH, replicate=True)


def _taps_matrix(
    size: int, side: int, low_taps: Filter, high_taps: Filter, *, replicate: bool
) -> np.ndarray:
    matrix = np.zeros((2 * side, size))
    row = np.arange(side)
    for band, taps in enumerate((low_taps, high_taps)):
        for distance in range(-8, 9):
            sample = 2 * row - 8 + band + distance
            inside = np.full(side, True) if replicate else (sample >= 0) & (sample < size)
            column = np.clip(sample, 0, size - 1)[inside]
            np.add.at(matrix, (band * side + row[inside], column), taps[abs(distance)])
    return matrix


@cache
def _split_matrix(size: int, low_taps: Filter, high_taps: Filter, replicate: bool) -> torch.Tensor:
    side = (size + TAPS - 1) // 2
    return torch.from_numpy(_taps_matrix(size, side, low_taps, high_taps, replicate=replicate))


@cache
def _join_matrix(size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    with torch.inference_mode(False):  # it outlives the mode that it is first wanted in
        return torch.from_numpy(synthesis_matrix(size)).to(device, dtype)


def _along_axes(matrix: torch.Tensor, volume: torch.Tensor) -> torch.Tensor:
    volume = matrix @ (volume @ matrix.T)
    planes = volume.shape[-2:]
    return (matrix @ volume.flatten(-2)).unflatten(-1, planes)


def _split_dense(volume: torch.Tensor, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    side = matrix.shape[0] // 2
    bands = _along_axes(matrix.to(volume), volume)
    bands = bands.unflatten(-3, (2, side)).unflatten(-2, (2, side)).unflatten(-1, (2, side))
    # (z high, y high, x high) in this order make the band number 4 z + 2 y + x.
    bands = bands.movedim((-2, -4, -6), (-6, -5, -4)).flatten(-6, -4)
    return bands[..., 0, :, :, :], bands[..., 1:, :, :, :]


def _synthesize_dense(low: torch.Tensor, high: torch.Tensor | None) -> torch.Tensor:
    size = low.shape[-1]
    matrix = _join_matrix(size, low.device, low.dtype)
    if high is None:
        return _along_axes(matrix[:, :size], low)
    bands = torch.cat([low.unsqueeze(-4), high], dim=-4).unflatten(-4, (2, 2, 2))
    bands = bands.movedim((-6, -5, -4), (-2, -4, -6))
    return _along_axes(matrix, bands.reshape(*low.shape[:-3], *[2 * size] * 3))


# ---------------------------------------------------------------------------------------- stencils
#
# Written so that the compiler vectorises them and calls them at no cost. Arrays are flat, indices
# are unsigned (numba would otherwise allow for negative ones), rows lie WIDTH apart, a constant (so
# that few comparisons show that what is read and written is distinct), and there are no slices
# (each would count a reference, which two threads would quarrel about).

WIDTH = 256  # samples along z that are worked on at a time
_BLOCK = 32  # rows of y that a thread carries through all three axes while they are in its cache

_N0, _N1, _N2, _N3, _N4, _N5 = (np.float32(tap) for tap in SYNTHESIS_LOW[:6])
_W0, _W1, _W2, _W3, _W4, _W5, _W6, _W7, _W8 = (np.float32(tap) for tap in SYNTHESIS_HIGH)
_NO_BANDS = np.zeros((0, 0, 0, 0), np.float32)
_ONE, _TWO, _ROW = np.uint64(1), np.uint64(2), np.uint64(WIDTH)
_COMPILE: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "fastmath": {"contract", "nsz", "reassoc"},
}


@njit("void(f4[::1], u8, f4[::1], u8, u8)", **_COMPILE)
def _join_row_low(low, at, out, to, pairs):
    """Coefficients of a row from `at` on -> 2 `pairs` samples at `to`."""
    a2 = at + _TWO
    a3 = a2 + _ONE
    a4, a5 = a3 + _ONE, a3 + _TWO
    a6, a7 = a5 + _ONE, a5 + _TWO
    to_odd = to + _ONE
    for k in range(pairs):
        r2, r3, r4 = low[a2 + k], low[a3 + k], low[a4 + k]
        r5, r6, r7 = low[a5 + k], low[a6 + k], low[a7 + k]
        out[to + _TWO * k] = _N0 * r4 + _N2 * (r3 + r5) + _N4 * (r2 + r6)
        out[to_odd + _TWO * k] = _N1 * (r4 + r5) + _N3 * (r3 + r6) + _N5 * (r2 + r7)


@njit("void(f4[::1], u8, f4[::1], u8, f4[::1], u8, u8)", **_COMPILE)
def _join_row(low, at, high, high_at, out, to, pairs):
    a2 = at + _TWO
    a3 = a2 + _ONE
    a4, a5 = a3 + _ONE, a3 + _TWO
    a6, a7 = a5 + _ONE, a5 + _TWO
    b0, b1, b2 = high_at, high_at + _ONE, high_at + _TWO
    b3, b4 = b2 + _ONE, b2 + _TWO
    b5, b6 = b4 + _ONE, b4 + _TWO
    b7, b8 = b6 + _ONE, b6 + _TWO
    to_odd = to + _ONE
    for k in range(pairs):
        r2, r3, r4 = low[a2 + k], low[a3 + k], low[a4 + k]
        r5, r6, r7 = low[a5 + k], low[a6 + k], low[a7 + k]
        s0, s1, s2 = high[b0 + k], high[b1 + k], high[b2 + k]
        s3, s4, s5 = high[b3 + k], high[b4 + k], high[b5 + k]
        s6, s7, s8 = high[b6 + k], high[b7 + k], high[b8 + k]
        even = _N0 * r4 + _N2 * (r3 + r5) + _N4 * (r2 + r6)
        even += _W1 * (s3 + s4) + _W3 * (s2 + s5) + _W5 * (s1 + s6) + _W7 * (s0 + s7)
        odd = _N1 * (r4 + r5) + _N3 * (r3 + r6) + _N5 * (r2 + r7)
        odd += _W0 * s4 + _W2 * (s3 + s5) + _W4 * (s2 + s6) + _W6 * (s1 + s7) + _W8 * (s0 + s8)
        out[to + _TWO * k] = even
        out[to_odd + _TWO * k] = odd


@njit("void(f4[::1], u8, f4[::1], u8, u8, u8)", **_COMPILE)
def _join_rows_low(low, at, out, even, odd, count):
    """Nine rows of coefficients from `at` on -> the rows of samples at `even` and `odd`."""
    a2 = at + _ROW + _ROW
    a3 = a2 + _ROW
    a4 = a3 + _ROW
    a5 = a4 + _ROW
    a6 = a5 + _ROW
    a7 = a6 + _ROW
    for k in range(count):
        r2, r3, r4 = low[a2 + k], low[a3 + k], low[a4 + k]
        r5, r6, r7 = low[a5 + k], low[a6 + k], low[a7 + k]
        out[even + k] = _N0 * r4 + _N2 * (r3 + r5) + _N4 * (r2 + r6)
        out[odd + k] = _N1 * (r4 + r5) + _N3 * (r3 + r6) + _N5 * (r2 + r7)


@njit("void(f4[::1], u8, u8, f4[::1], u8, u8, u8)", **_COMPILE)
def _join_rows(rows, low, high, out, even, odd, count):
    a2 = low + _ROW + _ROW
    a3 = a2 + _ROW
    a4 = a3 + _ROW
    a5 = a4 + _ROW
    a6 = a5 + _ROW
    a7 = a6 + _ROW
    b1 = high + _ROW
    b2 = b1 + _ROW
    b3 = b2 + _ROW
    b4 = b3 + _ROW
    b5 = b4 + _ROW
    b6 = b5 + _ROW
    b7 = b6 + _ROW
    b8 = b7 + _ROW
    for k in range(count):
        r2, r3, r4 = rows[a2 + k], rows[a3 + k], rows[a4 + k]
        r5, r6, r7 = rows[a5 + k], rows[a6 + k], rows[a7 + k]
        s0, s1, s2 = rows[high + k], rows[b1 + k], rows[b2 + k]
        s3, s4, s5 = rows[b3 + k], rows[b4 + k], rows[b5 + k]
        s6, s7, s8 = rows[b6 + k], rows[b7 + k], rows[b8 + k]
        first = _N0 * r4 + _N2 * (r3 + r5) + _N4 * (r2 + r6)
        first += _W1 * (s3 + s4) + _W3 * (s2 + s5) + _W5 * (s1 + s6) + _W7 * (s0 + s7)
        second = _N1 * (r4 + r5) + _N3 * (r3 + r6) + _N5 * (r2 + r7)
        second += _W0 * s4 + _W2 * (s3 + s5) + _W4 * (s2 + s6) + _W6 * (s1 + s7) + _W8 * (s0 + s8)
        out[even + k] = first
        out[odd + k] = second


@njit("void(i8, i8, i8, f4[::1], f4[::1], f4[::1], f4[::1], f4[::1])", **_COMPILE)
def _synthesize_blocks(begin, end, size, low, high, planes, columns, out):
    """Blocks of `_BLOCK` rows of y, numbered begin..end, through z, y and x.

    planes (2, _BLOCK / 2 + 8, WIDTH): a block of one x after z, for y low and high.
    columns (2, _BLOCK, size, WIDTH): the block after z and y, for x low and high.
    """
    side = 2 * size - 16
    with_high = len(high) > 0
    parts = 2 if with_high else 1
    volume = size * size * size
    plane = (_BLOCK // 2 + 8) * WIDTH
    column = size * WIDTH
    tiles = (side + WIDTH - 1) // WIDTH
    for block in range(begin * tiles, end * tiles):
        y0, z0 = block // tiles * _BLOCK, block % tiles * WIDTH
        rows, width = min(_BLOCK, side - y0), min(WIDTH, side - z0)
        count, pairs = np.uint64(width), np.uint64(width // 2)
        for x in range(size):
            for xh in range(parts):
                for yh in range(parts):
                    band = xh + 2 * yh - 1
                    row = (x * size + y0 // 2) * size + z0 // 2
                    to = yh * plane
                    for _ in range(rows // 2 + 8):
                        if not with_high:
                            _join_row_low(low, np.uint64(row), planes, np.uint64(to), pairs)
                        elif band < 0:
                            fine = np.uint64(row + 3 * volume)
                            _join_row(low, np.uint64(row), high, fine, planes, np.uint64(to), pairs)
                        else:
                            coarse, fine = row + band * volume, row + (band + 4) * volume
                            _join_row(
                                high,
                                np.uint64(coarse),
                                high,
                                np.uint64(fine),
                                planes,
                                np.uint64(to),
                                pairs,
                            )
                        row += size
                        to += WIDTH
                for q in range(rows // 2):
                    even = (xh * _BLOCK + 2 * q) * column + x * WIDTH
                    at = np.uint64(q * WIDTH)
                    here, next_y = np.uint64(even), np.uint64(even + column)
                    if with_high:
                        high_at = at + np.uint64(plane)
                        _join_rows(planes, at, high_at, columns, here, next_y, count)
                    else:
                        _join_rows_low(planes, at, columns, here, next_y, count)
        for y in range(rows):
            for q in range(side // 2):
                even = (2 * q * side + y0 + y) * side + z0
                at = np.uint64(y * column + q * WIDTH)
                here, next_x = np.uint64(even), np.uint64(even + side * side)
                if with_high:
                    high_at = at + np.uint64(_BLOCK * column)
                    _join_rows(columns, at, high_at, out, here, next_x, count)
                else:
                    _join_rows_low(columns, at, out, here, next_x, count)


def _synthesize_volume(low: np.ndarray, high: np.ndarray, out: np.ndarray) -> None:
    size = len(low)
    flat = (low.reshape(-1), high.reshape(-1))
    parts = 2 if len(high) else 1

    def synthesize(begin: int, end: int) -> None:
        planes = np.empty(2 * (_BLOCK // 2 + 8) * WIDTH, np.float32)
        columns = np.empty(parts * _BLOCK * size * WIDTH, np.float32)
        _synthesize_blocks(begin, end, size, *flat, planes, columns, out.reshape(-1))

    in_chunks(synthesize, (len(out) + _BLOCK - 1) // _BLOCK)


@njit("void(f4[::1], f4[::1], f4[:,::1], f4[::1], f4[::1], i8)", **_COMPILE)
def _split_row(even, odd, taps, low, high, count):
    """Padded samples of a row, even and odd ones apart -> `count` coefficients of each band."""
    l0, l1, l2, l3, l4, l5, l6, l7, l8 = taps[0]
    h0, h1, h2, h3, h4, h5, h6, h7, h8 = taps[1]
    for k in range(count):
        a0, a1, a2, a3, a4 = even[k], even[k + 1], even[k + 2], even[k + 3], even[k + 4]
        a5, a6, a7, a8 = even[k + 5], even[k + 6], even[k + 7], even[k + 8]
        b0, b1, b2, b3, b4 = odd[k], odd[k + 1], odd[k + 2], odd[k + 3], odd[k + 4]
        b5, b6, b7, b8 = odd[k + 5], odd[k + 6], odd[k + 7], odd[k + 8]
        first = l0 * a4 + l2 * (a3 + a5) + l4 * (a2 + a6) + l6 * (a1 + a7) + l8 * (a0 + a8)
        first += l1 * (b3 + b4) + l3 * (b2 + b5) + l5 * (b1 + b6) + l7 * (b0 + b7)
        second = h0 * b4 + h2 * (b3 + b5) + h4 * (b2 + b6) + h6 * (b1 + b7) + h8 * (b0 + b8)
        second += h1 * (a4 + a5) + h3 * (a3 + a6) + h5 * (a2 + a7) + h7 * (a1 + a8)
        low[k] = first
        high[k] = second


@njit("void(f4[:,::1], i8, f4[:,::1], f4[::1], f4[::1], i8)", **_COMPILE)
def _split_rows(rows, r, taps, low, high, count):
    """Padded rows r .. r + 17 of samples -> one row of coefficients of each band."""
    l0, l1, l2, l3, l4, l5, l6, l7, l8 = taps[0]
    h0, h1, h2, h3, h4, h5, h6, h7, h8 = taps[1]
    for k in range(count):
        a0, a1, a2, a3 = rows[r, k], rows[r + 2, k], rows[r + 4, k], rows[r + 6, k]
        a4, a5, a6, a7 = rows[r + 8, k], rows[r + 10, k], rows[r + 12, k], rows[r + 14, k]
        b0, b1, b2, b3 = rows[r + 1, k], rows[r + 3, k], rows[r + 5, k], rows[r + 7, k]
        b4, b5, b6, b7 = rows[r + 9, k], rows[r + 11, k], rows[r + 13, k], rows[r + 15, k]
        a8, b8 = rows[r + 16, k], rows[r + 17, k]
        first = l0 * a4 + l2 * (a3 + a5) + l4 * (a2 + a6) + l6 * (a1 + a7) + l8 * (a0 + a8)
        first += l1 * (b3 + b4) + l3 * (b2 + b5) + l5 * (b1 + b6) + l7 * (b0 + b7)
        second = h0 * b4 + h2 * (b3 + b5) + h4 * (b2 + b6) + h6 * (b1 + b7) + h8 * (b0 + b8)
        second += h1 * (a4 + a5) + h3 * (a3 + a6) + h5 * (a2 + a7) + h7 * (a1 + a8)
        low[k] = first
        high[k] = second


@njit("void(f4[::1], b1, f4[::1], f4[::1])", **_COMPILE)
def _pad_row(row, replicate, even, odd):
    """A row -> 16 samples before it and enough after it, even and odd ones apart."""
    size, half = len(row), len(even)
    before = row[0] if replicate else np.float32(0)
    after = row[size - 1] if replicate else np.float32(0)
    even[:8] = before
    odd[:8] = before
    pairs = size // 2
    inner_even, inner_odd = even[8:], odd[8:]
    for k in range(pairs):
        inner_even[k] = row[2 * k]
        inner_odd[k] = row[2 * k + 1]
    for k in range(8 + pairs, half):
        even[k] = after
        odd[k] = after
    if size % 2:
        even[8 + pairs] = row[size - 1]


@njit(
    "void(i8, i8, f4[:,:,::1], f4[:,::1], b1, f4[:,:,::1], f4[:,:,:,::1], f4[:,:,:,::1])",
    **_COMPILE,
)
def _split_blocks(begin, end, volume, taps, replicate, low, high, columns):
    """Blocks of rows of y of the coefficients, numbered begin..end, through z, y and x.

    columns: scratch (4 of z and y band, rows of a block, 2 side + 16, side).
    """
    size, side, block = volume.shape[0], low.shape[0], columns.shape[1]
    even, odd = np.empty(side + 8, np.float32), np.empty(side + 8, np.float32)
    planes = np.zeros((2, 2 * block + 16, side), np.float32)
    zeros = np.zeros(side, np.float32)
    for number in range(begin, end):
        first = number * block
        rows = min(block, side - first)
        for x in range(size):
            for p in range(2 * rows + 16):
                y = 2 * first + p - 16
                if replicate or 0 <= y < size:
                    row = volume[x, min(max(y, 0), size - 1)]
                    _pad_row(row, replicate, even, odd)
                    _split_row(even, odd, taps, planes[0, p], planes[1, p], side)
                else:
                    planes[:, p] = 0
            for zh in range(2):
                for q in range(rows):
                    low_y, high_y = columns[2 * zh, q, x + 16], columns[2 * zh + 1, q, x + 16]
                    _split_rows(planes[zh], 2 * q, taps, low_y, high_y, side)
        for zy in range(4):
            for q in range(rows):
                column = columns[zy, q]
                for p in range(16):
                    column[p] = column[16] if replicate else zeros
                for p in range(size + 16, 2 * side + 16):
                    column[p] = column[size + 15] if replicate else zeros
                band = 2 * zy - 1
                for x in range(side):
                    low_x = low[x, first + q] if band < 0 else high[band, x, first + q]
                    _split_rows(column, 2 * x, taps, low_x, high[band + 1, x, first + q], side)


_SPLIT_BLOCK = 16


def _split_volume(
    volume: np.ndarray, taps: np.ndarray, replicate: bool, low: np.ndarray, high: np.ndarray
) -> None:
    side = len(low)

    def split(begin: int, end: int) -> None:
        columns = np.empty((4, _SPLIT_BLOCK, 2 * side + 16, side), np.float32)
        _split_blocks(begin, end, volume, taps, replicate, low, high, columns)

    in_chunks(split, (side + _SPLIT_BLOCK - 1) // _SPLIT_BLOCK)
