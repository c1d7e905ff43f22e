"""What is inside a mesh, or a mesh that moves: the points that a field is fitted to.

A point is inside where the surface winds around it at least half: the generalised winding number.
So parts may overlap and cut themselves, and where there is a hole the inside ends about where a
skin over it would be. What has to be right is which way faces look, and that is mended first.

    frames of vertices and faces -> framed: the shape in [-0.475, 0.475]^3, what was mended
    framed -> sample: points near the surface and anywhere, and which are inside
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import igl
import numpy as np

from ...errors import BadInput
from ...geometry.closed_surfaces import Turned, simplified, turned_outwards
from .surface import grid_axis

REACH = 0.475
"""Half of the shape's longest side in the frame of fields, whose domain ends at 0.5."""

NOISE = 0.01
"""Standard deviation of how far points near the surface are from it, along each axis, as
published."""

NOISES = (NOISE, NOISE / 4)
"""Those of points in turn: every second one is nearer, for edges and for parts so thin that hardly
any of the others is inside."""

POINTS = 100_000
"""Points near the surface that published fields are fitted to, and as many anywhere, per frame."""

MORE_NEAR, MORE_ANYWHERE = 500_000, 100_000
"""Further ones of each further round on a still shape's field: fewer are learned by heart."""

MAX_FRAMES = 64
MAX_FACES = 1_000_000
"""Of a frame; finer ones are simplified first."""

Frame = tuple[np.ndarray, np.ndarray]
"""Vertices (V, 3) and faces (T, 3), counter-clockwise from outside."""

Inside = Callable[[np.ndarray], np.ndarray]
"""Points (P, 3) float32 -> whether each is inside, (P,) bool."""

_INSIDE = 0.5
_TELLING = 0.01  # of the points for measuring are inside
_QUERIES = 1 << 17  # points asked about at once: a second at most, before one can stop
_CROSSING_STEPS = 14


@dataclass(frozen=True, eq=False)
class Framed:
    """frames: in the frame of fields, float64 and int64. to_source: (4, 4) float64, from there to
    the frame that they came from. notes: what was found and done, in sentences for the artist."""

    frames: list[Frame]
    to_source: np.ndarray
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Samples:
    """Points that a field is fitted to, and whether they are inside.

    points: (F, P, 3) float32 in the frame of fields, of which the first `near` of each frame lie
    near the surface and the others anywhere; inside: (F, P) bool. check_points (F, K, 3) and
    check_inside (F, K): more of those anywhere, that are for measuring only; K may be 0.
    """

    points: np.ndarray
    inside: np.ndarray
    near: int
    check_points: np.ndarray
    check_inside: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.points)

    @property
    def thin(self) -> bool:
        """Of wires and sheets hardly any point is inside, so that measuring says little."""
        return bool(self.check_inside.size and self.check_inside.mean() < _TELLING)

    @property
    def dimensions(self) -> int:
        """Of the field: three for one frame, four for several."""
        return 3 if self.frames == 1 else 4

    def with_more(self, other: Samples) -> Samples:
        """These and the points of another of the same frames; what is for measuring stays."""
        return replace(
            self,
            points=self._with(self.points, other.points, other.near),
            inside=self._with(self.inside, other.inside, other.near),
            near=self.near + other.near,
        )

    def _with(self, own: np.ndarray, others: np.ndarray, near: int) -> np.ndarray:
        parts = [own[:, : self.near], others[:, :near], own[:, self.near :], others[:, near:]]
        return np.concatenate(parts, axis=1)


# ------------------------------------------------------------------------------------------ frames


def framed(frames: Sequence[Frame]) -> Framed:
    """Frames as an artist has them -> the frame of fields, faces looking outwards.

    The box around all frames together is centred and its longest side made 2 REACH, so that
    movement is kept and one transform leads back. Frames without faces are kept, with nothing in
    them, beside others that have some.

    Raises BadInput where there is no frame, none has faces, faces name points that do not exist, or
    coordinates are no numbers; and for more than MAX_FRAMES frames.
    """
    frames = [_checked(number, *frame) for number, frame in enumerate(frames)]
    _check_count(frames)
    notes: list[str] = []
    frames = _simplified(frames, notes)
    low, high = _box(frames)
    extent = float((high - low).max())
    if not extent > 0 or not np.isfinite(extent):
        raise BadInput(
            "All of the mesh lies in one point.", "Choose an object that has a size, or scale it."
        )
    centre, scale = (low + high) / 2, 2 * REACH / extent
    moved = [((vertices - centre) * scale, faces) for vertices, faces in frames]
    to_source = np.diag([1 / scale] * 3 + [1.0])
    to_source[:3, 3] = centre
    return Framed(_turned(moved, notes), to_source, notes + _moving_far(moved))


def published_frames(frames: Sequence[Frame]) -> list[Frame]:
    """As the published method places shapes: every frame around the mean of its vertices (movement
    of the whole is lost), one scale for all, by the vertex farthest out along an axis."""
    centred = [
        (np.asarray(vertices, np.float64) - np.mean(vertices, axis=0, dtype=np.float64), faces)
        for vertices, faces in frames
    ]
    scale = REACH / max(float(np.abs(vertices).max()) for vertices, _ in centred)
    return [(vertices * scale, faces) for vertices, faces in centred]


def frame_numbers(total: int, wanted: int = 16) -> np.ndarray:
    """(wanted,) int64: which of `total` frames an animation is taken from, as published: evenly,
    from the first, the last left out. All of them where there are no more than are wanted."""
    if total <= wanted:
        return np.arange(total)
    return np.linspace(0, total, wanted, endpoint=False).astype(np.int64)


def _checked(number: int, vertices: np.ndarray, faces: np.ndarray) -> Frame:
    vertices = np.asarray(vertices, np.float64).reshape(-1, 3)
    faces = np.asarray(faces, np.int64).reshape(-1, 3)
    if not len(faces):
        return np.zeros((0, 3)), faces
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise BadInput(
            f"Frame {number + 1} has faces between points that do not exist.",
            "The mesh is damaged. Export it again.",
        )
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    numbers = np.cumsum(used) - 1
    vertices = vertices[used]
    if not np.isfinite(vertices).all():
        raise BadInput(
            f"Points of frame {number + 1} have coordinates that are not numbers.",
            "Look for a modifier or a driver that divides by nothing, and apply it anew.",
        )
    return vertices, numbers[faces]


def _check_count(frames: Sequence[Frame]) -> None:
    if not frames:
        raise BadInput("There is no frame to make a field of.", "Choose a mesh or an animation.")
    if len(frames) > MAX_FRAMES:
        raise BadInput(
            f"{len(frames):,} frames are too many for one field; it holds {MAX_FRAMES}.",
            "Take every second or third frame, or make a field of each part of the animation.",
        )
    if not any(len(faces) for _, faces in frames):
        what = "The mesh has" if len(frames) == 1 else "All frames have"
        raise BadInput(
            f"{what} no faces, so there is nothing to be inside of.",
            "Choose a mesh with faces; curves and text are turned into one with Convert > Mesh.",
        )


def _box(frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray]:
    there = [vertices for vertices, faces in frames if len(faces)]
    return np.min([v.min(axis=0) for v in there], axis=0), np.max(
        [v.max(axis=0) for v in there], axis=0
    )


def _simplified(frames: list[Frame], notes: list[str]) -> list[Frame]:
    most = max(len(faces) for _, faces in frames)
    if most <= MAX_FACES:
        return frames
    low, high = _box(frames)
    extent = float((high - low).max())
    fine = [simplified(*frame, extent, MAX_FACES) for frame in frames]
    left = max(len(faces) for _, faces in fine)
    notes.append(
        f"{most:,} faces were merged into {left:,} first: details finer than those are finer than "
        "a field can hold."
    )
    return fine


def _turned(frames: list[Frame], notes: list[str]) -> list[Frame]:
    """Faces looking outwards; frames of the same faces are mended as the largest of them, for one
    that is flat has no outside."""
    mended: list[Frame] = []
    found: list[Turned] = []
    for alike in _of_the_same_faces(frames):
        faces = alike[0][1]
        if len(faces):
            found.append(turned_outwards(max(alike, key=_room)[0], faces))
            faces = np.where(found[-1].flipped[:, None], faces[:, ::-1], faces)
        mended += [(vertices, faces) for vertices, _ in alike]
    notes += _notes(found)
    empty = sum(not len(faces) for _, faces in frames)
    if empty:
        notes.append(f"{empty} of {len(frames)} frames have no faces; nothing is there in them.")
    return mended


def _of_the_same_faces(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The frames in order, those that follow each other with equal faces together."""
    groups: list[list[Frame]] = []
    for frame in frames:
        if groups and np.array_equal(groups[-1][0][1], frame[1]):
            groups[-1].append(frame)
        else:
            groups.append([frame])
    return groups


def _room(frame: Frame) -> float:
    """Of the box around a frame."""
    return float(np.prod(np.ptp(frame[0], axis=0)))


def _notes(found: Sequence[Turned]) -> list[str]:
    notes = []
    worst = max(found, key=lambda turned: int(turned.flipped.sum()))
    count, total = int(worst.flipped.sum()), len(worst.flipped)
    if count == total:
        notes.append("The mesh was inside out: all of its faces were turned round.")
    elif count:
        notes.append(f"{count:,} of {total:,} faces looked inwards and were turned round.")
    border = max(turned.border for turned in found)
    if border:
        notes.append(
            f"The surface is open along {border:,} edges: across holes, its inside ends where the "
            "surface surrounds less than half of the view. Fill the holes to decide it yourself."
        )
    return notes


def _moving_far(frames: Sequence[Frame]) -> list[str]:
    """A note where movement, not the shape, takes most of the room that a field has."""
    largest = max(
        float((vertices.max(axis=0) - vertices.min(axis=0)).max())
        for vertices, faces in frames
        if len(faces)
    )
    if largest > 0.4 * 2 * REACH:
        return []
    return [
        f"The shape moves so far that it fills only {largest / (2 * REACH):.0%} of the field's "
        "length: for more detail make a field of fewer frames, or have the shape move on the spot, "
        "make a field of that, and move what comes back."
    ]


# -------------------------------------------------------------------------------------- occupancy


def inside_of(vertices: np.ndarray, faces: np.ndarray) -> Inside:
    """A function that tells which points the surface winds around. Nothing is inside no faces."""
    if not len(faces):
        return lambda points: np.zeros(len(points), bool)
    numbers = winding_numbers(vertices, faces)
    return lambda points: numbers(points) >= _INSIDE


def winding_numbers(vertices: np.ndarray, faces: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from points (P, 3) to their generalised winding numbers (P,) float64; by Barill et
    al. 2018, as the published method has them: far parts of the surface count as a few dipoles."""
    tree = igl.FastWindingNumberBVH()
    tree.init(np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64), 2)

    def numbers(points: np.ndarray) -> np.ndarray:
        found = np.empty(len(points))
        for begin in range(0, len(points), _QUERIES):
            part = slice(begin, begin + _QUERIES)
            found[part] = tree.winding_number(np.ascontiguousarray(points[part], np.float64), 2.0)
        return found

    return numbers


def grid_inside(frames: Sequence[Frame], side: int = 128) -> np.ndarray:
    """(F, side, side, side) bool, [x, y, z]: the nodes of the grid that surfaces are made on which
    are inside."""
    axis = grid_axis(side)
    nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    found = [inside_of(*frame)(nodes).reshape((side,) * 3) for frame in frames]
    return np.stack(found)


# ---------------------------------------------------------------------------------------- sampling


def sample(
    frames: Sequence[Frame],
    seed: int,
    near: int = POINTS,
    anywhere: int = POINTS,
    check: int = 0,
    noise: tuple[float, ...] = NOISES,
    report: Callable[[float], None] | None = None,
) -> Samples:
    """Points of each frame: `near` with Gaussian noise beside the surface, the same number of
    points for the same area, then `anywhere` in the domain; `check` more for measuring.

    frames: in the frame of fields, faces outwards, as `framed` gives them. noise: its standard
    deviations, in turn. The same seed gives the same points. report: told what share is done; may
    raise to stop.
    Raises BadInput where nothing is inside in any frame, as of a sheet without thickness.
    """
    found = []
    for number, (vertices, faces) in enumerate(frames):
        draws = np.random.default_rng([seed, number])
        surface = on_surface(vertices, faces, near, draws)
        inside = _told(inside_of(vertices, faces), report, number, len(frames))
        found.append(_beside(surface, inside, anywhere, check, noise, draws))
    return _joined(found, near)


def _told(
    inside: Inside, report: Callable[[float], None] | None, number: int, count: int
) -> Inside:
    """The same, told to `report` between parts of the points: of this frame of so many."""

    def asked(points: np.ndarray) -> np.ndarray:
        found = np.empty(len(points), bool)
        for begin in range(0, len(points), _QUERIES):
            end = min(begin + _QUERIES, len(points))
            found[begin:end] = inside(points[begin:end])
            if report is not None:
                report((number + end / len(points)) / count)
        return found

    return asked


def sample_more(
    frames: Sequence[Frame],
    seed: int,
    number: int = 1,
    report: Callable[[float], None] | None = None,
) -> Samples:
    """Further points than `sample` gives for this seed, as many as a round of a long fit takes;
    others for each number, from 1."""
    return sample(frames, seed + number, MORE_NEAR, MORE_ANYWHERE, report=report)


def sample_analytic(
    insides: Sequence[Inside],
    seed: int,
    near: int = POINTS,
    anywhere: int = POINTS,
    check: int = 0,
    noise: tuple[float, ...] = (NOISE,),
    side: int = 64,
    report: Callable[[float], None] | None = None,
) -> Samples:
    """The same of shapes that are known by a function, one per frame.

    Surfaces are found where neighbours on a grid of side^3 nodes differ, so parts must be thicker
    than 1 / (side - 1); crossings are halved down to a 16,000th of that. Faces that stand across an
    axis get up to 1.7 times fewer points than slanted ones of the same area.
    """
    found = []
    for number, inside in enumerate(insides):
        draws = np.random.default_rng([seed, number])
        surface = _on_crossings(inside, near, side, draws)
        found.append(_beside(surface, inside, anywhere, check, noise, draws))
        if report is not None:
            report((number + 1) / len(insides))
    return _joined(found, near)


def on_surface(
    vertices: np.ndarray, faces: np.ndarray, count: int, draws: np.random.Generator
) -> np.ndarray:
    """(count, 3) points, evenly by area; (0, 3) where there is no area."""
    return on_faces(vertices, faces, count, draws)[0]


def on_faces(
    vertices: np.ndarray, faces: np.ndarray, count: int, draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(count, 3) points, evenly by area, and (count,) the faces that they lie on; none where there
    is no area."""
    corners = np.asarray(vertices, np.float64)[faces]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = np.linalg.norm(np.cross(first, second), axis=1)
    total = np.cumsum(areas)
    if not len(total) or not total[-1] > 0:
        return np.zeros((0, 3)), np.zeros(0, np.int64)
    chosen = np.searchsorted(total, draws.random(count) * total[-1], side="right")
    chosen = np.minimum(chosen, len(total) - 1)
    along = draws.random((count, 2))
    along = np.where(along.sum(axis=1, keepdims=True) > 1, 1 - along, along)
    points = corners[chosen, 0] + along[:, :1] * first[chosen] + along[:, 1:] * second[chosen]
    return points, chosen


def _on_crossings(inside: Inside, count: int, side: int, draws: np.random.Generator) -> np.ndarray:
    """(count, 3) points where edges of a grid cross the surface, (0, 3) if none does."""
    axis = grid_axis(side)
    nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    # Not on the nodes themselves: flat parts of made shapes often lie at round numbers.
    nodes = nodes + draws.uniform(-0.4, 0.4, 3).astype(np.float32) / np.float32(side - 1)
    within = np.asarray(inside(nodes.reshape(-1, 3))).reshape((side,) * 3)
    pairs = []
    for along in range(3):
        before = np.moveaxis(within, along, 0)
        differ = np.argwhere(np.moveaxis(before[:-1] != before[1:], 0, along))
        after = differ.copy()
        after[:, along] += 1
        pairs.append(np.stack([differ, after], axis=1))
    edges = np.concatenate(pairs)
    if not len(edges):
        return np.zeros((0, 3))
    edges = edges[draws.integers(len(edges), size=count)]
    # Anywhere on both faces that the edge's cells share, not only on the edge itself.
    ends = nodes[tuple(edges[..., axis] for axis in range(3))].astype(np.float64)
    across = (ends[:, 0] == ends[:, 1]).astype(np.float64)
    ends += (draws.uniform(-0.5, 0.5, (count, 3)) * across / (side - 1))[:, None]
    first, second = ends[:, 0], ends[:, 1]
    there = np.asarray(inside(first.astype(np.float32)))
    crossing = there != np.asarray(inside(second.astype(np.float32)))
    first, second, there = first[crossing], second[crossing], there[crossing]
    if not len(first):
        return np.zeros((0, 3))
    for _ in range(_CROSSING_STEPS):
        middle = (first + second) / 2
        same = (np.asarray(inside(middle.astype(np.float32))) == there)[:, None]
        first, second = np.where(same, middle, first), np.where(same, second, middle)
    return np.resize((first + second) / 2, (count, 3))


def _beside(
    surface: np.ndarray,
    inside: Inside,
    anywhere: int,
    check: int,
    noise: Sequence[float],
    draws: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int]:
    """All points of a frame, whether they are inside, and how many are for measuring: the last."""
    away = draws.normal(size=surface.shape)
    beside = surface + away * np.resize(noise, (len(surface), 1))
    spread = draws.uniform(-0.5, 0.5, (anywhere + check, 3))
    points = np.concatenate([beside, spread]).astype(np.float32)
    return points, np.asarray(inside(points)), check


def _joined(found: Sequence[tuple[np.ndarray, np.ndarray, int]], near: int) -> Samples:
    """Frames without a surface have points anywhere in place of those near it."""
    count = max(len(points) for points, _, _ in found)
    filled = [
        (np.resize(points, (count, 3)), np.resize(inside, count))
        if len(points) < count
        else (points, inside)
        for points, inside, _ in found
    ]
    points = np.stack([points for points, _ in filled])
    inside = np.stack([inside for _, inside in filled])
    check = found[0][2]
    if not inside.any():
        raise BadInput(
            "The mesh has no inside: it is a sheet without thickness, or too thin to be met.",
            "Give it thickness, for example with a Solidify modifier, and apply it.",
        )
    fitted = count - check
    return Samples(
        points[:, :fitted], inside[:, :fitted], near, points[:, fitted:], inside[:, fitted:]
    )
