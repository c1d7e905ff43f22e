"""Shapes that the project makes itself, each from a number: they take no place in a data set.

The same number gives the same shape wherever numpy's generator PCG64 does; families take turns.
Their captions say what they are, no more. `varied` and `recombined` make further shapes of others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import generated_forms, generated_things
from .catalogue import in_cube
from .packed import Shape
from .solids import Solid
from .solids import surface as surface_of_solid

COUNT = 1200
FAMILIES = (*generated_forms.FAMILIES, *generated_things.FAMILIES)

_SEED = 20261121
_FLATTEST = 0.04
_TESTED_EVERY = 18


def shape(number: int) -> Shape:
    """What is known of the generated shape of this number, without making its surface."""
    family = FAMILIES[number % len(FAMILIES)]
    return Shape(
        id=f"generated#{number}",
        caption=_made(number)[1],
        source="generated",
        split=_side(number),
        attribution=f"made by Fieldforge ({family.__name__}), CC0-1.0",
        # Each of a family differs from the others as much as most shapes do.
        family=f"generated {number}",
    )


def _side(number: int) -> str:
    """Whole rounds of all families go to one side, so that each side has them all."""
    turn = number // len(FAMILIES) % _TESTED_EVERY
    return {_TESTED_EVERY // 2: "validation", _TESTED_EVERY - 1: "test"}.get(turn, "train")


def surface(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float32 in the cube, y up, and faces (F, 3) int32: closed, outward.

    Raises ValueError where a solid came out empty or flat, which none of the first COUNT is.
    """
    vertices, faces = surface_of_solid(_made(number)[0])
    vertices, faces = in_cube(vertices * _proportions(number), faces)
    if np.ptp(vertices, axis=0).min() < _FLATTEST:
        raise ValueError(f"the generated shape {number} is flat")
    return vertices.astype(np.float32), faces


def _proportions(number: int) -> np.ndarray:
    """(3,) factors: things stay what they are when they are a little wider or taller."""
    if FAMILIES[number % len(FAMILIES)] in generated_forms.FAMILIES:
        return np.ones(3)
    return np.random.Generator(np.random.PCG64([_SEED, number])).uniform(0.85, 1.15, 3)


def _made(number: int) -> tuple[Solid, str]:
    rng = np.random.Generator(np.random.PCG64([_SEED, number, 0]))
    return FAMILIES[number % len(FAMILIES)](rng)


# --------------------------------------------------------------------------------------- variations


def varied(
    vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator, most: float = 0.25
) -> tuple[np.ndarray, np.ndarray]:
    """A surface in other proportions, each axis by up to +-`most`, and often mirrored in x."""
    factors = rng.uniform(1 - most, 1 + most, 3)
    if rng.random() < 0.5:
        factors[0] = -factors[0]
        faces = faces[:, ::-1]
    vertices, faces = in_cube(vertices * factors, faces)
    return vertices.astype(np.float32), faces


def recombined(
    surfaces: Sequence[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two to four surfaces as one: each scaled to 0.5 to 1 and turned by quarters, side by side or
    on top of one another."""
    chosen = rng.permutation(len(surfaces))[: int(rng.integers(2, 5))]
    placed: list[np.ndarray] = []
    triangles: list[np.ndarray] = []
    count = 0
    for k in chosen:
        vertices, faces = surfaces[int(k)]
        vertices = np.asarray(vertices, np.float64) * rng.uniform(0.5, 1.0)
        for _ in range(int(rng.integers(4))):
            vertices = vertices[:, [2, 1, 0]] * [1, 1, -1]
        # On the ground, and along one axis, up included, right behind what is there.
        axis = int(rng.integers(3))
        shift = np.zeros(3)
        shift[1] = -vertices[:, 1].min()
        if placed:
            shift[axis] = max(part[:, axis].max() for part in placed) - vertices[:, axis].min()
        placed.append(vertices + shift)
        triangles.append(np.asarray(faces) + count)
        count += len(vertices)
    vertices, faces = in_cube(np.concatenate(placed), np.concatenate(triangles))
    return vertices.astype(np.float32), faces
