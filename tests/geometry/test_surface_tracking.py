"""One mesh led through the surfaces of all frames: it follows what moves, or says it cannot."""

from __future__ import annotations

import igl
import numpy as np
import pytest
import trimesh

from backend.errors import Cancelled
from backend.geometry import isosurface, surface_tracking
from backend.geometry.surface_tracking import Tracked

SIDE = 40
STEP = 1 / (SIDE - 1)
TOLERANCE = 1.5 * STEP
AXIS = np.linspace(-0.5, 0.5, SIDE)
X, Y, Z = np.meshgrid(AXIS, AXIS, AXIS, indexing="ij")

Mesh = tuple[np.ndarray, np.ndarray]


def surface(distance: np.ndarray) -> Mesh:
    vertices, faces = isosurface.marching_cubes(distance, 0.0, closed=True)
    return vertices * np.float32(STEP) - np.float32(0.5), faces


def capsule(start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """Distances of the grid's nodes to it."""
    places = np.stack([X, Y, Z], axis=-1) - start
    way = end - start
    along = np.clip(places @ way / (way @ way), 0, 1)
    return np.linalg.norm(places - along[..., None] * way, axis=-1) - radius


def swinging(frames: int) -> list[Mesh]:
    """A body with an arm that swings through 80 degrees."""
    found = []
    for number in range(frames):
        angle = np.radians(80 * number / max(frames - 1, 1) - 40)
        hand = np.array([0.35 * np.cos(angle), 0.35 * np.sin(angle), 0])
        body = capsule(np.array([-0.25, 0, -0.1]), np.array([-0.25, 0, 0.1]), 0.12)
        arm = capsule(np.array([-0.2, 0, 0]), hand, 0.06)
        found.append(surface(np.minimum(body, arm)))
    return found


def tracked(frames: list[Mesh], tolerance: float = TOLERANCE) -> Tracked:
    steps = surface_tracking.track(frames, tolerance)
    fractions = []
    while True:
        try:
            stage, fraction = next(steps)
        except StopIteration as end:
            assert fractions == sorted(fractions)
            return end.value
        assert stage == "Tracking the surface"
        fractions.append(fraction)


def distances(first: trimesh.Trimesh, other: trimesh.Trimesh) -> np.ndarray:
    points = np.ascontiguousarray(first.triangles_center)
    squares, _, _ = igl.point_mesh_squared_distance(
        points, np.asarray(other.vertices, np.float64), np.asarray(other.faces, np.int64)
    )
    return np.sqrt(squares)


def test_a_swinging_arm_is_followed() -> None:
    frames = swinging(6)
    found = tracked(frames)
    assert found.failed is None
    assert found.vertices is not None
    assert found.vertices.dtype == np.float32
    assert len(found.vertices) == 6
    for places, frame in zip(found.vertices, frames, strict=True):
        own, other = (trimesh.Trimesh(*mesh) for mesh in ((places, found.faces), frame))
        assert own.is_watertight
        assert own.volume == pytest.approx(other.volume, rel=0.05)
        for one, two in ((own, other), (other, own)):
            assert np.quantile(distances(one, two), 0.995) < TOLERANCE
    # Vertices keep their part: what was the hand's stays the hand's.
    hand = found.vertices[0, :, 0] > 0.2
    assert hand.sum() > 20
    assert (np.linalg.norm(found.vertices[-1, hand], axis=1) > 0.15).all()
    moved = np.linalg.norm(np.diff(found.vertices, axis=0), axis=2)
    assert moved.max() < 0.2  # nothing jumps


def test_what_stands_still_stays() -> None:
    frames = swinging(1) * 3
    found = tracked(frames)
    assert found.vertices is not None
    assert np.abs(np.diff(found.vertices, axis=0)).max() < STEP
    assert max(check.most for check in found.checks) < STEP


def test_a_part_that_appears_is_told() -> None:
    ball = capsule(np.array([-0.2, 0, 0]), np.array([-0.2, 0, 0.01]), 0.15)
    other = capsule(np.array([0.25, 0, 0]), np.array([0.25, 0, 0.01]), 0.15)
    frames = [surface(ball), surface(ball), surface(np.minimum(ball, other))]
    found = tracked(frames)
    assert found.vertices is None
    # From the first frame there is no second ball to come; from the last, none to go.
    assert found.failed in (0, 1)
    assert not found.checks[-1].passed
    # It could be hidden in a fold of the first ball.
    assert max(found.checks[-1].area - 1, found.checks[-1].most) > 0.1


def test_a_frame_with_nothing_in_it_cannot_be_reached() -> None:
    nothing = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    found = tracked([*swinging(1), nothing])
    assert found.vertices is None
    assert found.failed is not None
    assert found.checks == []


def test_the_tolerance_decides() -> None:
    frames = swinging(3)
    assert tracked(frames, TOLERANCE).failed is None
    assert tracked(frames, 1e-6).failed is not None


def test_a_fine_mesh_is_decimated_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surface_tracking, "MAX_FACES", 1800)
    frames = swinging(2)
    assert len(frames[0][1]) > 2000
    found = tracked(frames)
    assert len(found.faces) <= 1800
    assert found.failed is None


def test_the_same_meshes_give_the_same_result() -> None:
    first, second = (tracked(swinging(2)) for _ in range(2))
    assert first.vertices is not None
    assert second.vertices is not None
    assert first.vertices.tobytes() == second.vertices.tobytes()


def test_it_ends_when_it_is_not_wanted_any_more() -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 4:
            raise Cancelled("The job was cancelled.")

    with pytest.raises(Cancelled):
        list(surface_tracking.track(swinging(3), TOLERANCE, check))
    assert asked == 5
