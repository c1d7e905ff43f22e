"""Wavelet trees as training reads them: sparse on the device, dense batches made there.

Which shapes a step takes is a function of seed, step and rank alone, so that a run that stops and
goes on takes the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ..errors import BadInput
from ..geometry import wavelets
from ..models.wala import compact
from . import generated, packed
from .packed import Shape
from .prepare import key_of
from .trees import CHANNELS, RESOLUTION, SIDE, SparseTree

CELLS = SIDE**3
_TOKEN = CHANNELS * compact.CELLS**3
SYMMETRIES = 8
"""Mirrored or not, turned about y by 0 to 3 quarters: number = turns + 4 mirrored."""


class TreeSet:
    """Trees of `shapes`, in their order, on a device.

    low: (N, 46^3) float16; cells: (sum P,) int32, flat; values: (sum P, 63) float16.
    """

    def __init__(self, shapes: Sequence[Shape], trees: Sequence[SparseTree]) -> None:
        self.shapes = tuple(shapes)
        self._ends = np.cumsum([0, *(len(tree.cells) for tree in trees)])
        self._low = torch.from_numpy(np.stack([tree.low.reshape(-1) for tree in trees]))
        cells = np.concatenate([tree.cells for tree in trees]).astype(np.int32)
        self._cells = torch.from_numpy(cells @ np.array([SIDE * SIDE, SIDE, 1], np.int32))
        self._values = torch.from_numpy(np.concatenate([tree.values for tree in trees]))

    def __len__(self) -> int:
        return len(self.shapes)

    def to(self, device: torch.device) -> TreeSet:
        """The same set, moved there."""
        self._low, self._cells = self._low.to(device), self._cells.to(device)
        self._values = self._values.to(device)
        return self

    def batch(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Dense packed trees (B, 64, 46, 46, 46) float32."""
        begins, ends = self._ends[list(indices)], self._ends[np.asarray(indices) + 1]
        rows = np.concatenate([np.arange(b, e) for b, e in zip(begins, ends, strict=True)])
        owner = np.repeat(np.arange(len(indices)), ends - begins)
        device = self._low.device
        take = torch.from_numpy(rows).to(device)
        place = torch.from_numpy(owner).to(device) * CELLS + self._cells[take]
        dense = torch.zeros(len(indices) * CELLS, CHANNELS, device=device)
        dense[:, 0] = self._low[torch.as_tensor(indices, device=device)].reshape(-1).float()
        dense[place, 1:] = self._values[take].float()
        return dense.reshape(len(indices), SIDE, SIDE, SIDE, CHANNELS).movedim(-1, 1)

    def tokens(
        self, indices: Sequence[int] | np.ndarray, symmetry: int, empty: float
    ) -> torch.Tensor:
        """Tokens (B, 24, 24, 24, 512) float32 of the shapes `turned` by `symmetry`.

        What compact.tokens_of_trees makes of dense trees, many times faster. empty: the low band of
        empty space, which becomes zero.
        """
        begins, ends = self._ends[list(indices)], self._ends[np.asarray(indices) + 1]
        rows = np.concatenate([np.arange(b, e) for b, e in zip(begins, ends, strict=True)])
        owner = np.repeat(np.arange(len(indices)), ends - begins)
        device = self._low.device
        take = torch.from_numpy(rows).to(device)
        places = _token_places(symmetry, device)
        # One more, for what the packing leaves unused.
        found = torch.zeros(len(indices), compact.TOKENS**3 * _TOKEN + 1, device=device)
        low = self._low[torch.as_tensor(indices, device=device)].float() - empty
        found[:, places[0].long()] = low
        where = places[1:, self._cells[take].long()].T.long()
        where += torch.from_numpy(owner).to(device)[:, None] * found.shape[1]
        found.view(-1)[where] = self._values[take].float()
        return found[:, :-1].unflatten(1, (compact.TOKENS,) * 3 + (_TOKEN,))


@cache
def _token_places(symmetry: int, device: torch.device) -> torch.Tensor:
    """(64, 46^3) int32: where in the tokens each coefficient of a tree goes when it is turned."""
    # From 1: zero is what padding and the packing put where nothing is.
    numbers = torch.arange(1, CHANNELS * CELLS + 1).float()  # exact below 2^24
    numbers = numbers.reshape(1, CHANNELS, SIDE, SIDE, SIDE)
    tokens = compact.tokens_of_trees(numbers, torch.zeros(())).flatten().long() - 1
    place = torch.empty(CHANNELS * CELLS, dtype=torch.int32)
    held = tokens >= 0
    place[tokens[held]] = held.nonzero()[:, 0].int()
    source = turned(numbers, symmetry).flatten().long() - 1
    found = torch.full_like(place, compact.TOKENS**3 * _TOKEN)
    found[source[source >= 0]] = place[source >= 0]
    return found.reshape(CHANNELS, CELLS).to(device)


def load(folder: Path, *splits: str, device: torch.device | str = "cpu") -> TreeSet:
    """The trees in FOLDER/trees of `splits`: shapes of FOLDER/shapes.ffs, and generated ones.

    Raises BadInput when there are none, or one cannot be read.
    """
    path = folder / "shapes.ffs"
    if not path.exists():
        raise BadInput(f"{folder} holds no shapes.", "Prepare them: backend.training prepare.")
    shapes = [shape for shape, _ in packed.read(path) if _tree_file(folder, shape.id).exists()]
    numbers = (n for n in range(generated.COUNT) if _tree_file(folder, f"generated#{n}").exists())
    shapes += [generated.shape(number) for number in numbers]
    shapes = [shape for shape in shapes if shape.split in splits]
    trees = [_read(_tree_file(folder, shape.id)) for shape in shapes]
    if not shapes:
        raise BadInput(
            f"{folder} holds no wavelet trees of the split {' or '.join(splits)}.",
            "Prepare them: python3 -m backend.training prepare.",
        )
    return TreeSet(shapes, trees).to(torch.device(device))


def _tree_file(folder: Path, shape_id: str) -> Path:
    return folder / "trees" / f"{key_of(shape_id)}.npz"


def _read(path: Path) -> SparseTree:
    try:
        return SparseTree.load(path)
    except (ValueError, OSError, KeyError) as error:
        raise BadInput(
            f"{path.name} is no wavelet tree ({error}).", "Delete it and prepare again."
        ) from None


# ---------------------------------------------------------------------------------------- sampler


@dataclass(frozen=True)
class Sampler:
    """Draws shapes. A source has the weight (number of its shapes)^(1 - balance).

    balance 0: every shape alike; 1: every source alike, as in balanced fine-tuning.
    """

    sources: tuple[str, ...]
    seed: int = 0
    rank: int = 0

    def probabilities(self, balance: float) -> np.ndarray:
        """(N,) float64 of the shapes."""
        counts = Counter(self.sources)
        weights = np.array([counts[source] ** -balance for source in self.sources])
        return weights / weights.sum()

    def draw(self, step: int, count: int, balance: float) -> np.ndarray:
        """(count,) int64, stratified: in any step each source has its share to within one."""
        rng = generator(self.seed, step, self.rank)
        order = np.argsort(np.array(self.sources), kind="stable")
        ends = np.cumsum(self.probabilities(balance)[order])
        points = (np.arange(count) + rng.random()) / count
        # Within a source the shapes are shuffled anew in every step.
        shuffled = order.copy()
        sources = np.array(self.sources)[order]
        for source in np.unique(sources):
            where = np.flatnonzero(sources == source)
            shuffled[where] = rng.permutation(order[where])
        drawn = shuffled[np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)]
        return rng.permutation(drawn)


def generator(*key: int) -> np.random.Generator:
    """A generator that belongs to `key` (seed, step, rank, ...) and to nothing else."""
    return np.random.default_rng(np.random.SeedSequence(key))


# -------------------------------------------------------------------------------------- symmetries


def turned(trees: torch.Tensor, symmetry: int) -> torch.Tensor:
    """Packed trees (B, 64, 46^3) of the mirrored and turned shapes; `symmetry` below SYMMETRIES.

    First x -> -x for 4 and above, then quarter turns (x, z) -> (z, -x). Exact: the filters are
    symmetric, and beyond 0.9 there is nothing but the outside. Node i of 256 goes to 256 - i, and
    so does coefficient j of a low band of n to n - j; one of a high band goes to n - 1 - j.
    """
    tree = wavelets.unpack(trees, RESOLUTION)
    bands = [tree.low[:, None], *(high for high in tree.highs if high is not None)]
    if symmetry >= 4:
        bands = [_mirrored(band, axis=0) for band in bands]
    for _ in range(symmetry % 4):
        bands = [_mirrored(_exchanged(band), axis=2) for band in bands]
    return wavelets.pack(wavelets.Tree(bands[0][:, 0], (*bands[1:], None)))


def turned_points(points: torch.Tensor, symmetry: int) -> torch.Tensor:
    """Points (..., 3) in the cube, as `turned` turns shapes."""
    x, y, z = points.unbind(-1)
    if symmetry >= 4:
        x = -x
    for _ in range(symmetry % 4):
        x, z = z, -x
    return torch.stack([x, y, z], dim=-1)


def turned_cells(cells: torch.Tensor, symmetry: int) -> torch.Tensor:
    """Cells (..., R, R, R) that fill the cube, as `turned` turns shapes."""
    if symmetry >= 4:
        cells = cells.flip(-3)
    for _ in range(symmetry % 4):
        cells = cells.transpose(-3, -1).flip(-1)
    return cells


def _mirrored(bands: torch.Tensor, axis: int) -> torch.Tensor:
    """bands (B, 1 or 7, n, n, n) along axis 0 x, 1 y, 2 z."""
    flipped = bands.flip(axis + 2)
    first = [slice(None)] * 5
    first[axis + 2] = slice(0, 1)
    low = flipped.roll(1, axis + 2)
    low[tuple(first)] = bands[tuple(first)]
    if bands.shape[1] == 1:
        return low
    # Band b is that of the bits b + 1: 1 x high, 2 y high, 4 z high.
    high = [bool((band + 1) >> axis & 1) for band in range(bands.shape[1])]
    choose = torch.tensor(high, device=bands.device)[None, :, None, None, None]
    return torch.where(choose, flipped, low)


def _exchanged(bands: torch.Tensor) -> torch.Tensor:
    """x and z exchanged."""
    exchanged = bands.transpose(2, 4)
    if bands.shape[1] == 1:
        return exchanged
    bits = range(1, bands.shape[1] + 1)
    order = [((bit & 2) | (bit >> 2) | (bit & 1) << 2) - 1 for bit in bits]
    return exchanged[:, order]
