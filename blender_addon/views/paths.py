"""Where cameras stand: along a curve, around a middle, and between two of them. No bpy.

A pose is (4, 4) float64 from a camera to the world: x to the right and y up in its picture, and it
looks along its -z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BEZIER_STEPS = 48  # pieces between two control points
PARALLEL = 1e-4
ROUND = 1e-3
STEEP = 1e-6  # how near to straight up or down there is no upright any more


@dataclass(frozen=True, eq=False)
class Line:
    """points: (P, 3) float64, one after the other; closed: the last one leads to the first."""

    points: np.ndarray
    closed: bool = False


def looking(eye: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """(V, 4, 4): upright cameras at (V, 3) places that look along (V, 3) directions."""
    back = -ways / np.linalg.norm(ways, axis=1, keepdims=True)
    right = np.stack([-back[:, 1], back[:, 0], 0 * back[:, 0]], axis=1)
    flat = np.linalg.norm(right, axis=1)
    right[flat < STEEP] = [1.0, 0.0, 0.0]  # as the top view has it
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    poses = np.zeros((len(eye), 4, 4))
    poses[:, :3, 0], poses[:, :3, 1], poses[:, :3, 2] = right, np.cross(back, right), back
    poses[:, :3, 3], poses[:, 3, 3] = eye, 1.0
    return poses


def along(line: Line, count: int, target: np.ndarray | None) -> np.ndarray:
    """(count, 4, 4): at even distances along a line, its ends included; they look at `target` (3,),
    or, without one, where the line goes."""
    points = np.vstack([line.points, line.points[:1]]) if line.closed else line.points
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    kept = np.concatenate([[True], steps > 0])
    points, steps = points[kept], steps[steps > 0]
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    last = count if line.closed else max(count - 1, 1)
    at = travelled[-1] * np.arange(count) / last
    eye = np.stack([np.interp(at, travelled, points[:, axis]) for axis in range(3)], axis=1)
    if target is not None:
        return looking(eye, target - eye)
    # Between two pieces, the one that comes; at the end, the last.
    piece = np.clip(np.searchsorted(travelled, at, side="right") - 1, 0, len(steps) - 1)
    return looking(eye, np.diff(points, axis=0)[piece])


def length_of(line: Line) -> float:
    points = np.vstack([line.points, line.points[:1]]) if line.closed else line.points
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def focus(poses: np.ndarray) -> np.ndarray:
    """(3,) float64: what cameras (V, 4, 4) look at, the point nearest to all of their axes; where
    these are nearly parallel, the middle of the cameras."""
    places, ways = poses[:, :3, 3], poses[:, :3, 2]
    across = np.eye(3) - ways[:, :, None] * ways[:, None, :]
    matrix = across.sum(axis=0)
    if np.linalg.eigvalsh(matrix)[0] < PARALLEL * len(poses):
        return places.mean(axis=0)
    return np.linalg.solve(matrix, (across @ places[:, :, None]).sum(axis=0)[:, 0])


def between(poses: np.ndarray, steps: int, closed: bool) -> np.ndarray:
    """(steps * V, 4, 4), or without the last `steps` but one where the way is open: from each of
    the cameras evenly to the next. Around what they all look at they go on circles."""
    following = np.roll(poses, -1, axis=0)
    middle = focus(poses)
    off = middle - poses[:, :3, 3]
    distance = np.linalg.norm(off, axis=1)
    around = (distance > 0).all() and (
        np.einsum("ij,ij->i", off, -poses[:, :3, 2]) > (1 - ROUND) * distance
    ).all()
    found = [
        _between(one, other, k / steps, middle if around else None)
        for one, other in zip(poses, following, strict=True)
        for k in range(steps)
    ]
    return np.stack(found if closed else found[: steps * (len(poses) - 1) + 1])


def _between(
    one: np.ndarray, other: np.ndarray, share: float, middle: np.ndarray | None
) -> np.ndarray:
    """The camera at a share of the way from one (4, 4) to another, around `middle` (3,)."""
    if middle is None:
        pose = np.eye(4)
        pose[:3, 3] = (1 - share) * one[:3, 3] + share * other[:3, 3]
    else:
        begin, end = one[:3, 3] - middle, other[:3, 3] - middle
        lengths = np.linalg.norm(begin), np.linalg.norm(end)
        turned = _turned(begin / lengths[0], end / lengths[1], share)
        pose = np.eye(4)
        pose[:3, 3] = middle + turned * (lengths[0] + share * (lengths[1] - lengths[0]))
    # Half a turn has no shortest way; then it is one about the picture's own upright.
    step = one[:3, :3].T @ other[:3, :3]
    axis = np.array([step[2, 1] - step[1, 2], step[0, 2] - step[2, 0], step[1, 0] - step[0, 1]])
    length = np.linalg.norm(axis)
    angle = np.arctan2(length, np.trace(step) - 1)
    axis = axis / length if length > STEEP else np.array([0.0, 1.0, 0.0])
    pose[:3, :3] = one[:3, :3] @ _rotation(axis, angle * share)
    return pose


def _turned(begin: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    """A unit vector on the way from one to another, over the sphere."""
    angle = np.arccos(np.clip(begin @ end, -1, 1))
    if np.sin(angle) < STEEP:
        return begin
    return (np.sin((1 - share) * angle) * begin + np.sin(share * angle) * end) / np.sin(angle)


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


# ------------------------------------------------------------------------------------------- curves


def bezier(points: np.ndarray, closed: bool, steps: int = BEZIER_STEPS) -> np.ndarray:
    """(P, 3) on a Bezier spline. points: (N, 3, 3) float: left handle, control point, right handle
    of each."""
    following = np.roll(points, -1, axis=0) if closed else points[1:]
    before = points if closed else points[:-1]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b = before[:, None, 1], before[:, None, 2]
    c, d = following[:, None, 0], following[:, None, 1]
    found = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
    found = found.reshape(-1, 3)
    return found if closed else np.vstack([found, points[-1:, 1]])


def nurbs(
    points: np.ndarray,
    order: int,
    closed: bool = False,
    to_ends: bool = False,
    steps: int = BEZIER_STEPS,
) -> np.ndarray:
    """(P, 3) on a NURBS spline. points: (N, 4) float: x, y, z, weight; to_ends: it reaches its
    first and last point (Endpoint U)."""
    count = len(points)
    order = min(order, count)
    if closed:
        points = np.vstack([points, points[: order - 1]])
    knots = _knots(len(points) + order, order, closed, to_ends)
    ends = np.unique(knots[order - 1 : len(points) + 1])  # of the pieces: there it may have corners
    t = (ends[:-1, None] + np.diff(ends)[:, None] * np.arange(steps) / steps).ravel()
    t = t if closed else np.append(t, ends[-1])
    values = _basis(t, knots, order) @ (points[:, [3]] * np.c_[points[:, :3], np.ones(len(points))])
    return values[:, :3] / values[:, 3:]


def _knots(count: int, order: int, closed: bool, to_ends: bool) -> np.ndarray:
    """(count,) float64; those of a closed spline go on at its end as they began."""
    if not to_ends:
        return np.arange(count, dtype=float)
    if not closed:
        return np.clip(np.arange(count), order - 1, count - order).astype(float)
    knots = np.r_[0.0, np.ones(order - 1), np.arange(2, count)][:count]
    tail = 2 * order - 1
    knots[count - tail :] = knots[count - tail - 1] + 1 + knots[:tail]
    return knots


def _basis(t: np.ndarray, knots: np.ndarray, order: int) -> np.ndarray:
    """(T, N): the N B-spline functions of an order at (T,) parameters (Cox and de Boor)."""
    spans = len(knots) - 1
    # The end of the last piece belongs to it, as nothing follows.
    inside = np.clip(np.searchsorted(knots, t, side="right") - 1, order - 1, spans - order)
    basis = (np.arange(spans) == inside[:, None]).astype(float)
    for k in range(1, order):
        count = spans - k
        rise, fall = knots[k : k + count] - knots[:count], knots[k + 1 :] - knots[1 : 1 + count]
        up = (t[:, None] - knots[:count]) * _inverse(rise)
        down = (knots[k + 1 :] - t[:, None]) * _inverse(fall)
        basis = up * basis[:, :count] + down * basis[:, 1 : 1 + count]
    return basis


def _inverse(steps: np.ndarray) -> np.ndarray:
    """1 / steps, 0 where knots coincide."""
    return np.divide(1, steps, out=np.zeros_like(steps), where=steps > 0)
