"""The cameras of a job: those of the task, or where it leaves something open, the model's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import BadInput
from ..posed_views import intrinsics_of_field
from ..protocol import MAX_VIEWS, VIEW_SIZES, ImageToViews, ViewsTask, ring_poses


@dataclass(frozen=True)
class Habits:
    """What a model does where nobody says. elevation, field: degrees; radius: the thing being in
    [-1, 1]^3. side: pixels of its pictures; cells: sides are multiples of it; most: the largest
    side that it can be asked for."""

    views: int
    elevation: float
    field: float
    radius: float
    side: int
    cells: int = 8
    most: int = VIEW_SIZES[1]


@dataclass(frozen=True, eq=False)
class Rig:
    """Where views are taken from.

    poses: (V, 4, 4) float32, camera to the task's world; inner: the same, moved and scaled to the
    thing in [-1, 1]^3. intrinsics: (V, 4) float32, pixels of pictures of `side`. azimuths: of a
    ring in degrees, else None. scale: units of the task's world per unit of the inner one.
    """

    poses: np.ndarray
    inner: np.ndarray
    intrinsics: np.ndarray
    side: int
    azimuths: tuple[float, ...] | None
    scale: float

    @property
    def count(self) -> int:
        return len(self.poses)

    @property
    def distances(self) -> np.ndarray:
        """(V,) float32: of the cameras from the middle of the thing, of the inner world."""
        found: np.ndarray = np.linalg.norm(self.inner[:, :3, 3], axis=1)
        return found.astype(np.float32)


def side_of(task: ViewsTask, habits: Habits) -> int:
    """Pixels along each side of the views. Raises BadInput for what the model cannot paint."""
    side = task.size or habits.side
    if side % habits.cells:
        raise BadInput(
            f"The model cannot paint views of {side} pixels.",
            f"Use a multiple of {habits.cells}; {habits.side} is the model's own.",
        )
    if side > habits.most:
        raise BadInput(
            f"The model paints views of {habits.side} pixels; at {side} they would fall apart.",
            f"Leave the size at 0, use {habits.most} at most, or choose a larger model.",
        )
    return side


def rig_of(task: ViewsTask, habits: Habits, intrinsics: np.ndarray | None = None) -> Rig:
    """intrinsics: (V, 4) of pictures of the side, where they are known. Raises BadInput."""
    side = side_of(task, habits)
    scale = task.extent / 2
    poses, azimuths = task.poses, None
    if poses is None:
        poses, azimuths = _ring(task, habits, scale)
    if intrinsics is None:
        intrinsics = intrinsics_of_field(task.field or habits.field, side, side, len(poses))
    inner = poses.astype(np.float64)
    inner[:, :3, 3] = (inner[:, :3, 3] - task.center) / scale
    return Rig(
        poses.astype(np.float32),
        inner.astype(np.float32),
        intrinsics.astype(np.float32),
        side,
        azimuths,
        scale,
    )


def _ring(
    task: ViewsTask, habits: Habits, scale: float
) -> tuple[np.ndarray, tuple[float, ...] | None]:
    views = task.views or min(habits.views, MAX_VIEWS - 2)
    if isinstance(task, ImageToViews):
        views = max(views, 2)
    elevation = habits.elevation if task.elevation is None else task.elevation
    radius = task.radius or habits.radius * scale
    poses = ring_poses(views, elevation, radius, task.start, caps=task.caps)
    poses[:, :3, 3] += np.asarray(task.center, np.float32)
    azimuths = tuple(task.start + 360.0 * number / views for number in range(views))
    return poses, None if task.caps else azimuths


def squared(intrinsics: np.ndarray, height: int, width: int, side: int, widen: bool) -> np.ndarray:
    """(V, 4) pixels of pictures of height x width -> of squares of `side`: widened to the longer
    side, or the middle of them, as long as the shorter."""
    longest = max(height, width) if widen else min(height, width)
    corner = np.array([(width - longest) / 2, (height - longest) / 2])
    scale = side / longest
    centre = (intrinsics[:, 2:] + 0.5 - corner) * scale - 0.5
    return np.concatenate([intrinsics[:, :2] * scale, centre], axis=1).astype(np.float32)
