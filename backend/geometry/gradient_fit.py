"""Fit a volume to a gradient field, in the coefficients of its wavelet tree.

Minimises sum |f(next node) - f(node) - V|^2 over all edges of the grid for f = inverse(tree). The
normal equations of a Laplacian are nearly diagonal in a wavelet basis (Dahmen & Kunoth 1992), so
conjugate gradients with the diagonal as preconditioner gains a factor of about four per
iteration whatever the resolution; the few coefficients of the low band, where the diagonal would
be too weak, are solved for exactly by a cosine transform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
import torch
from scipy import fft

from . import wavelets
from .threads import in_chunks
from .wavelets import Tree

LOW_SIDE = 48
"""The tree is made deep enough for a low band of at most this side."""


def tree_depth(side: int) -> int:
    """Levels of the tree of a volume of `side` nodes: 3 for 256 (256 -> 136 -> 76 -> 46)."""
    depth = 1
    while wavelets.level_sizes(side, depth)[-1] > LOW_SIDE:
        depth += 1
    return depth


# ---------------------------------------------------------------------------------- right-hand side


def splat_divergence(
    points: np.ndarray, vectors: np.ndarray, sigmas: np.ndarray, side: int
) -> np.ndarray:
    """The negative divergence (side,)^3 float32 of Gaussian-smoothed vectors at points.

    points (N, 3) float32 in index coordinates; vectors (N, 3) float32, their flux in nodes^2;
    sigmas (N,) float32 in nodes. Each component lives half-way between nodes along its own axis,
    so that a gradient field is met exactly. What would leave the grid is left out.
    """
    volume = np.zeros((side,) * 3, np.float32)
    _splat(
        np.ascontiguousarray(points, np.float32),
        np.ascontiguousarray(vectors, np.float32),
        np.ascontiguousarray(sigmas, np.float32),
        volume,
    )
    return volume


@numba.njit("void(f4[:,::1], f4[:,::1], f4[::1], f4[:,:,::1])", cache=True, nogil=True)
def _splat(points, vectors, sigmas, volume):
    side = volume.shape[0]
    widest = 2 * int(np.ceil(3 * sigmas.max())) + 2
    weights = np.empty((3, widest), np.float32)
    first = np.empty(3, np.int64)
    for i in range(len(points)):
        margin = int(np.ceil(3 * sigmas[i]))
        count = 2 * margin + 2
        rate = -0.5 / (sigmas[i] * sigmas[i])
        for component in range(3):
            for axis in range(3):
                place = points[i, axis] - (0.5 if axis == component else 0.0)
                first[axis] = int(np.floor(place)) - margin
                total = np.float32(0)
                for k in range(count):
                    weights[axis, k] = np.exp(rate * (first[axis] + k - place) ** 2)
                    total += weights[axis, k]
                for k in range(count):
                    weights[axis, k] /= total
            dx, dy, dz = component == 0, component == 1, component == 2
            for p in range(max(0, -first[0]), min(count, side - 1 - first[0])):
                x = first[0] + p
                for q in range(max(0, -first[1]), min(count, side - 1 - first[1])):
                    y = first[1] + q
                    share = vectors[i, component] * weights[0, p] * weights[1, q]
                    for r in range(max(0, -first[2]), min(count, side - 1 - first[2])):
                        z = first[2] + r
                        flux = share * weights[2, r]
                        volume[x, y, z] -= flux
                        volume[x + dx, y + dy, z + dz] += flux


# --------------------------------------------------------------------------------------- the system


def laplacian(volume: torch.Tensor) -> torch.Tensor:
    """D^T D of `volume` (X, Y, Z), at least 2 nodes along each axis.

    The negative Laplacian with free edges, in units of nodes.
    """
    if volume.device.type == "cpu" and volume.dtype == torch.float32:
        planes = np.empty(volume.shape, np.float32)
        in_chunks(_laplacian_planes, len(planes), volume.contiguous().numpy(), planes)
        return torch.from_numpy(planes)
    out = torch.zeros_like(volume)
    for axis in range(3):
        steps = volume.diff(dim=axis)
        size = volume.shape[axis]
        out.narrow(axis, 0, size - 1).sub_(steps)
        out.narrow(axis, 1, size - 1).add_(steps)
    return out


@numba.njit(
    "void(i8, i8, f4[:,:,::1], f4[:,:,::1])",
    cache=True,
    nogil=True,
    fastmath=True,
    boundscheck=False,
)
def _laplacian_planes(begin, end, volume, out):
    width, height, side = volume.shape
    for x in range(begin, end):
        below, above = volume[max(x - 1, 0)], volume[min(x + 1, width - 1)]
        for y in range(height):
            row = volume[x, y]
            left, right = volume[x, max(y - 1, 0)], volume[x, min(y + 1, height - 1)]
            under, over = below[y], above[y]
            target = out[x, y]
            for z in range(1, side - 1):
                target[z] = (
                    6 * row[z] - row[z - 1] - row[z + 1] - left[z] - right[z] - under[z] - over[z]
                )
            for z, inner in ((0, 1), (side - 1, side - 2)):
                target[z] = 5 * row[z] - row[inner] - left[z] - right[z] - under[z] - over[z]


@cache
def _axis_energies(depth: int) -> dict[tuple[int, bool], tuple[float, float]]:
    """(mass, stiffness) of the one-dimensional basis functions: {(level, is a wavelet): ...}.

    Level 1 is the finest. Measured on a grid wide enough for the longest of them.
    """
    sizes = wavelets.level_sizes(64 << depth, depth)
    energies = {}
    for level in range(1, depth + 1):
        for wavelet in (False, True):
            side = sizes[level - 1]
            signal = np.zeros(2 * side)
            signal[side // 2 + side * wavelet] = 1
            signal = wavelets.synthesis_matrix(side) @ signal
            for finer in sizes[: level - 1][::-1]:
                padded = np.zeros(2 * finer)
                padded[:finer] = signal[:finer]
                signal = wavelets.synthesis_matrix(finer) @ padded
            energies[level, wavelet] = (
                float((signal**2).sum()),
                float((np.diff(signal) ** 2).sum()),
            )
    return energies


def _band_energies(level: int, depth: int) -> np.ndarray:
    """(7,) float: <psi, L psi> of the seven wavelets of a level, in the order of its bands."""
    energies = _axis_energies(depth)
    bands = []
    for band in range(1, 8):
        axes = [energies[level, bool(band >> (2 - axis) & 1)] for axis in range(3)]
        (mx, kx), (my, ky), (mz, kz) = axes
        bands.append(kx * my * mz + mx * ky * mz + mx * my * kz)
    return np.array(bands)


@cache
def _cosines(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The orthonormal cosine basis (side, side) and the inverse eigenvalues (side,)^3."""
    k = torch.arange(side, dtype=torch.float64)
    basis = torch.cos(torch.pi / side * k[:, None] * (k + 0.5)) * (2 / side) ** 0.5
    basis[0] /= 2**0.5
    values = 2 - 2 * torch.cos(torch.pi / side * k)
    total = values[:, None, None] + values[:, None] + values
    # The constant has no energy; half the lowest eigenvalue keeps it where the data puts it.
    total[0, 0, 0] = values[1] / 2
    return basis.float(), (1 / total).float()


def _solve_low(low: torch.Tensor, depth: int) -> torch.Tensor:
    basis, inverse = (part.to(low.device) for part in _cosines(low.shape[0]))
    if low.device.type == "cpu" and low.dtype == torch.float32:
        # So small a transform gains nothing from torch's threads, and loses by waiting for them.
        spectrum = fft.dctn(low.numpy(), norm="ortho") * inverse.numpy() * np.float32(4.0**depth)
        return torch.from_numpy(fft.idctn(spectrum, norm="ortho"))
    return _along_axes(basis.T, _along_axes(basis, low) * inverse * 4.0**depth)


def _along_axes(matrix: torch.Tensor, volume: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        volume = torch.tensordot(volume, matrix, ([0], [1]))
    return volume


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """Roughly the inverse of W^T L W. active: (s, s, s) bool, finest coefficients to work on."""

    depth: int
    active: torch.Tensor | None = None

    def __call__(self, tree: Tree) -> Tree:
        highs: list[torch.Tensor | None] = []
        for index, high in enumerate(tree.highs):
            if high is None:
                highs.append(None)
                continue
            level = self.depth - index
            scale = torch.as_tensor(1 / _band_energies(level, self.depth), dtype=high.dtype)
            high = high * scale.to(high.device)[:, None, None, None]
            if level == 1 and self.active is not None:
                high *= self.active
            highs.append(high)
        return Tree(_solve_low(tree.low, self.depth), tuple(highs))


# --------------------------------------------------------------------------------------- the solver


def fit(
    target: torch.Tensor,
    start: torch.Tensor,
    iterations: int,
    active: torch.Tensor | None = None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[torch.Tensor]:
    """Improve `start` (n, n, n) until its Laplacian is `target`, both float32; yields each state.

    The yielded volume is one and the same tensor, changed in place; there are fewer states than
    `iterations` when there is nothing left to improve in float32. check is called once per
    iteration and may raise. Preconditioned conjugate gradients in the coefficients.
    """
    depth = tree_depth(len(start))
    precondition = Preconditioner(depth, active)
    volume = start.clone()
    residual = wavelets.adjoint(target - laplacian(volume), depth)
    scaled = precondition(residual)
    direction = scaled
    energy = _dot(residual, scaled)
    # Below this the residual is rounding, and to go on would add noise, above all to the mean.
    enough = 1e-12 * energy
    for _ in range(iterations):
        check()
        if not energy > enough:
            return
        step = wavelets.inverse(direction, len(volume))
        response = wavelets.adjoint(laplacian(step), depth)
        length = energy / _dot(direction, response)
        volume.add_(step, alpha=length)
        _add(residual, response, -length)
        yield volume
        scaled = precondition(residual)
        previous, energy = energy, _dot(residual, scaled)
        direction = _add(scaled, direction, energy / previous)


def _parts(tree: Tree) -> list[torch.Tensor]:
    return [tree.low, *(high for high in tree.highs if high is not None)]


def _dot(a: Tree, b: Tree) -> float:
    pairs = zip(_parts(a), _parts(b), strict=True)
    return sum(_dot_of(x.flatten(), y.flatten()) for x, y in pairs)


def _dot_of(x: torch.Tensor, y: torch.Tensor) -> float:
    """On the CPU in pieces that do not depend on the number of threads, as torch.dot's do."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return float(torch.dot(x, y).double())
    pieces = np.zeros(-(-len(x) // _PIECE))
    in_chunks(_dot_pieces, len(pieces), x.numpy(), y.numpy(), pieces)
    return float(pieces.sum())


_PIECE = 1 << 15


@numba.njit("void(i8, i8, f4[::1], f4[::1], f8[::1])", cache=True, nogil=True, fastmath=True)
def _dot_pieces(begin, end, x, y, out):
    for piece in range(begin, end):
        # Slices, not indices from `piece`: only so does the compiler vectorise the loop.
        xs, ys = x[piece * _PIECE : (piece + 1) * _PIECE], y[piece * _PIECE : (piece + 1) * _PIECE]
        total = np.float32(0)
        for i in range(len(xs)):
            total += xs[i] * ys[i]
        out[piece] = total


def _add(tree: Tree, other: Tree, factor: float) -> Tree:
    """tree + factor other, in place."""
    for x, y in zip(_parts(tree), _parts(other), strict=True):
        x.add_(y, alpha=factor)
    return tree
