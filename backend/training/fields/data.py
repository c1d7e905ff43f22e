"""What models of fields are trained on: still seats, and moving things of the project's own.

Seats are the chairs of the openly licensed furniture, as they are and stretched, and chairs that
the project makes from numbers. Families of near-duplicates are on one side of the split, with all
their stretched ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from ...errors import BadInput
from ...geometry.isosurface import marching_cubes
from ...models.hyperdiffusion.model import FRAMES
from ...models.hyperdiffusion.occupancy import REACH, Inside, Samples, sample_analytic
from .. import generated_things, packed, trees
from ..catalogue import CUBE_SIDE
from ..metrics import Surface
from ..packed import Shape
from ..prepare import key_of
from ..solids import surface as surface_of_solid
from . import creatures

SETS = ("still", "moving")
OWN_SEATS = 180
STRETCHED = 2
"""Stretched ones of each seat to train on, beside it as it is."""

THICKER = 0.02
"""How far the surfaces of furniture are moved outwards, in the cube: wires and sheets of it are
thinner than a small network can hold."""

_MOST = 1.25
_SEED = 20261123
_TESTED_EVERY = 10
_SEAT = re.compile(r"\b(chair|armchair|stool|seat)\b")
_NO_SEAT = re.compile(r"\b(sofa|bench|car|bed|lounge|toilet|puff|pool|ottoman|swing|beach|deck)\b")
_SIDES = {"train": "train", "validation": "test", "test": "test"}


Depth = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Item:
    """A shape or a moving thing to fit a field to.

    kind: what it is called in a model's list of names. depths: makes what tells of points of the
    field's domain, (N, 3) -> (N,), how deep they are inside, one function per frame.
    """

    shape: Shape
    kind: str
    frames: int
    depths: Callable[[], Sequence[Depth]]

    @property
    def key(self) -> str:
        """The name of its files."""
        return key_of(self.shape.id)

    def samples(self, seed: int, near: int, anywhere: int, check: int) -> Samples:
        """See occupancy.sample_analytic."""
        insides = [_positive(depth) for depth in self.depths()]
        return sample_analytic(insides, seed, near, anywhere, check)

    def surfaces(self, side: int = 96) -> list[Surface]:
        """One for each frame, in the field's domain, of side^3 nodes."""
        return [surface_of(depth, side) for depth in self.depths()]


def items(
    which: str, side: str, shapes: Path | None = None, trees_at: Path | None = None
) -> list[Item]:
    """All of a set, "still" or "moving", on a side, "train" or "test".

    shapes, trees_at: of the furniture, as `prepare` makes them; still shapes are then those, too.
    Raises BadInput where a tree is missing.
    """
    if which == "moving":
        numbers = range(creatures.COUNT)
        return [_moving(number) for number in numbers if creatures.side_of(number) == side]
    if which != "still":
        raise BadInput(f"There is no set {which!r}.", f"Choose of: {', '.join(SETS)}.")
    found = [_own(number) for number in range(OWN_SEATS) if _own_side(number) == side]
    if shapes is not None:
        found = _furniture(shapes, trees_at or shapes.parent / "trees", side) + found
    return found


# ----------------------------------------------------------------------------------------- moving


def _moving(number: int) -> Item:
    kind = creatures.KINDS[number % len(creatures.KINDS)].name

    def depths() -> list[Depth]:
        made = creatures.creature(number)

        def of(frame: int) -> Depth:
            return lambda points: made.depth(points, frame)

        return [of(frame) for frame in range(FRAMES)]

    side = creatures.side_of(number)
    shape = Shape(
        id=f"creature#{number}",
        caption=f"{kind} {number // len(creatures.KINDS) + 1}",
        source="generated",
        split=side,
        attribution="made by Fieldforge, CC0-1.0",
        family=f"creature {number}",
    )
    return Item(shape, kind, FRAMES, depths)


# ------------------------------------------------------------------------------------------ seats


def _own_side(number: int) -> str:
    return "test" if number % _TESTED_EVERY == _TESTED_EVERY - 1 else "train"


def _own(number: int) -> Item:
    def depths() -> list[Depth]:
        rng = np.random.Generator(np.random.PCG64([_SEED, number]))
        solid, _ = generated_things.chair(rng)
        proportions = rng.uniform(0.85, 1.15, 3).astype(np.float32)
        vertices, _ = surface_of_solid(solid, 64)
        low, high = (vertices * proportions).min(axis=0), (vertices * proportions).max(axis=0)
        scale = np.float32((high - low).max() / (2 * REACH))
        middle = ((low + high) / 2).astype(np.float32)

        def depth(points: np.ndarray) -> np.ndarray:
            places = (points.astype(np.float32) * scale + middle) / proportions
            return -solid(places)

        return [depth]

    shape = Shape(
        id=f"own seat#{number}",
        caption=f"own seat {number}",
        source="generated",
        split=_own_side(number),
        attribution="made by Fieldforge, CC0-1.0",
        family=f"own seat {number}",
    )
    return Item(shape, "seat", 1, depths)


def _furniture(shapes: Path, trees_at: Path, side: str) -> list[Item]:
    found = []
    for shape, content in packed.read(shapes):
        if _SIDES[shape.split] != side or not is_seat(shape.caption):
            continue
        tree = trees_at / f"{key_of(shape.id)}.npz"
        if not tree.exists():
            raise BadInput(f"{tree} is missing.", "Make it with `prepare --until trees`.")
        extents = np.ptp(packed.decode(content)[0], axis=0)
        variants = range(1 + (STRETCHED if side == "train" else 0))
        found += [_of_furniture(shape, variant, extents, tree) for variant in variants]
    return found


def is_seat(caption: str) -> bool:
    """Whether it is called a chair, a stool or the like."""
    return bool(_SEAT.search(caption)) and not _NO_SEAT.search(caption)


def _of_furniture(shape: Shape, variant: int, extents: np.ndarray, tree: Path) -> Item:
    factors = np.ones(3)
    if variant:
        draws = np.random.Generator(np.random.PCG64([_SEED, int(key_of(shape.id), 16), variant]))
        factors = _MOST ** draws.uniform(-1, 1, 3)
    # The box is centred in the cube; its longest side becomes the field's.
    longest = float(((extents + 2 * THICKER) * factors).max())
    factors = factors * (2 * REACH / longest)

    def depths() -> list[Depth]:
        return [_depth_of_distances(_distances(tree), factors)]

    named = shape
    if variant:
        named = Shape(
            **{
                **vars(shape),
                "id": f"{shape.id} stretched {variant}",
                "caption": f"{shape.caption}, stretched",
            }
        )
    return Item(named, "seat", 1, depths)


@lru_cache(maxsize=1)
def _distances(path: Path) -> np.ndarray:
    """(256, 256, 256) float32; the last one is kept, for its stretched ones follow."""
    tree = trees.SparseTree.load(path).packed()[None]
    found: np.ndarray = trees.field_of(tree)[0].numpy()
    return found


def _depth_of_distances(field: np.ndarray, factors: np.ndarray) -> Depth:
    size = len(field)

    def depth(points: np.ndarray) -> np.ndarray:
        # Node i lies at 2 i / n - 1 of the cube.
        places = (points / factors + 1) * (size / 2)
        found: np.ndarray = THICKER - map_coordinates(field, places.T, order=1, mode="nearest")
        return found

    return depth


# --------------------------------------------------------------------------------------- surfaces


def surface_of(depth: Depth, side: int) -> Surface:
    """Where the depth is 0, of side^3 nodes of the field's domain. Closed, outward."""
    axis = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    values = np.asarray(depth(nodes), np.float32).reshape((side,) * 3)
    vertices, faces = marching_cubes(-values, 0.0, closed=True)
    return vertices / np.float32(side - 1) - np.float32(0.5), faces


def _positive(depth: Depth) -> Inside:
    return lambda points: depth(points) > 0


CUBE = CUBE_SIDE / (2 * REACH)
"""What field coordinates are multiplied by for the cube of this project's other shapes."""
