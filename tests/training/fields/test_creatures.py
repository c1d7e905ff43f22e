"""Simple parts, and the things that move made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.training.fields import creatures
from backend.training.fields.creatures import KINDS, NAMES, creature, side_of
from backend.training.fields.parts import Parts, depth, turned

AXIS = np.linspace(-0.5, 0.5, 41, dtype=np.float32)
GRID = np.stack(np.meshgrid(AXIS, AXIS, AXIS, indexing="ij"), axis=-1).reshape(-1, 3)


def _volume(parts: Parts, scale: float = 1.0, offset: tuple[float, ...] = (0, 0, 0)) -> float:
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (200_000, 3)).astype(np.float32)
    return float((depth(parts.table(scale, np.array(offset)), points) > 0).mean())


def _parts(kind: str) -> tuple[Parts, float]:
    """A part by itself, aslant, and its volume."""
    parts, turn = Parts(), turned(0, 0.5) @ turned(1, 0.7)
    if kind == "ellipsoid":
        parts.ellipsoid((0.05, 0, 0), (0.4, 0.2, 0.3), turn)
        return parts, 4 / 3 * math.pi * 0.4 * 0.2 * 0.3
    if kind == "box":
        parts.box((0.05, 0, 0), (0.4, 0.2, 0.3), turn)
        return parts, 0.4 * 0.2 * 0.3
    if kind == "rod":
        parts.rod((-0.2, 0, 0.1), (0.2, 0.1, 0), 0.15)
        length = math.sqrt(0.4**2 + 0.1**2 + 0.1**2)
        return parts, math.pi * 0.15**2 * (length + 4 / 3 * 0.15)
    if kind == "cylinder":
        parts.cylinder((-0.2, 0, 0.1), (0.2, 0.1, 0), 0.2)
        return parts, math.pi * 0.2**2 * math.sqrt(0.4**2 + 0.1**2 + 0.1**2)
    if kind == "dome":
        parts.dome((0, -0.1, 0), (0.3, 0.4, 0.3), 0.25, turn)
        return parts, 2 / 3 * math.pi * 0.3 * 0.4 * 0.3 * (1 - 0.75**3)
    parts.ring((0, 0.05, 0), (1, 1, 0.3), 0.25, 0.1)
    return parts, 2 * math.pi**2 * 0.25 * 0.1**2


@pytest.mark.parametrize("kind", ["ellipsoid", "box", "rod", "cylinder", "dome", "ring"])
def test_parts_have_their_volume_and_lie_in_their_bounds(kind: str) -> None:
    parts, volume = _parts(kind)
    assert _volume(parts) == pytest.approx(volume, rel=0.03)
    low, high = parts.bounds()
    inside = GRID[depth(parts.table(1.0, np.zeros(3)), GRID) > 0]
    assert (inside >= low - 1e-6).all()
    assert (inside <= high + 1e-6).all()
    # Balls at the ends of a rod and ellipsoids touch their box; nothing here is half as small.
    assert (np.ptp(inside, axis=0) > 0.5 * (high - low)).all()


@pytest.mark.parametrize("kind", ["ellipsoid", "box", "rod", "cylinder", "dome", "ring"])
def test_parts_are_moved_and_scaled_as_a_whole(kind: str) -> None:
    parts, _ = _parts(kind)
    offset = np.array([0.1, -0.05, 0.02])
    here = depth(parts.table(1.0, np.zeros(3)), GRID)
    there = depth(parts.table(0.5, offset), (GRID * 0.5 + offset).astype(np.float32))
    np.testing.assert_allclose(there, 0.5 * here, atol=1e-5)


def test_depth_is_the_distance_to_a_ball_and_the_most_of_a_union() -> None:
    parts = Parts()
    parts.ball((0.1, 0, 0), 0.2)
    points = np.array([[0.1, 0, 0], [0.1, 0.15, 0], [0.1, 0.3, 0]], np.float32)
    np.testing.assert_allclose(
        depth(parts.table(1.0, np.zeros(3)), points), [0.2, 0.05, -0.1], atol=1e-6
    )
    parts.ball((0.1, 0.3, 0), 0.25)
    np.testing.assert_allclose(
        depth(parts.table(1.0, np.zeros(3)), points), [0.2, 0.1, 0.25], atol=1e-6
    )


# -------------------------------------------------------------------------------------- creatures


def test_there_are_enough_of_each_kind_and_tests_have_all() -> None:
    sides = [side_of(number) for number in range(creatures.COUNT)]
    assert sides.count("train") >= 240
    assert len(set(NAMES)) == len(KINDS) == 14
    for side in ("train", "test"):
        kinds = {number % len(KINDS) for number, at in enumerate(sides) if at == side}
        assert len(kinds) == len(KINDS)


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_a_creature_moves_in_a_cycle_and_stays_in_the_domain(number: int) -> None:
    made = creature(number)
    assert len(made.tables) == 16
    assert made.name == f"{NAMES[number]} 1"
    solid = np.stack([made.inside(GRID, frame) for frame in range(16)])
    assert (solid.mean(axis=1) > 0.004).all()
    reach = np.abs(GRID[solid.any(axis=0)])
    assert reach.max() <= 0.4751
    assert reach.max() > 0.35  # most of the length is used
    union = (solid | np.roll(solid, -1, axis=0)).sum(axis=1)
    changed = (solid ^ np.roll(solid, -1, axis=0)).sum(axis=1) / union
    assert changed[:-1].max() > 0.02  # it moves
    if made.repeats:
        # From the last frame to the first is a step like all others.
        assert changed[-1] <= 1.3 * changed[:-1].max()
    else:
        assert solid[-1].sum() > 1.3 * solid[0].sum()


def test_a_number_is_one_creature_and_another_another() -> None:
    first, again, other = creature(15), creature(15), creature(15 + len(KINDS))
    np.testing.assert_array_equal(first.tables[3], again.tables[3])
    assert first.kind == other.kind
    assert not np.array_equal(first.tables[3][:5], other.tables[3][:5])


def test_further_creatures_can_be_made() -> None:
    for number in range(len(KINDS), creatures.COUNT, 5):
        made = creature(number)
        tables = np.concatenate(made.tables)
        assert np.isfinite(tables).all()
        assert made.inside(GRID[::9], 7).any()
