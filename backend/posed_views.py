"""Cameras that somebody gives: what can be wrong with them, told in words.

Imported by both sides, as protocol.py is. Standard library and numpy, nothing else.

A pose is a camera's matrix_world: camera to world, x to the right and y up in the picture, looking
along -z. Intrinsics are fx, fy, cx, cy in pixels; the centre of the first pixel is at 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import BadInput, TooLarge

MAX_FIELD = 170.0
_SAME_PLACE = 1e-5
_SAME_TURN = 1e-4


def check_poses(poses: object, most: int) -> None:
    """Raise BadInput or TooLarge unless `poses` is (V, 4, 4) floats, 1 to `most` rigid motions."""
    if not isinstance(poses, np.ndarray) or poses.dtype.kind != "f" or poses.shape[1:] != (4, 4):
        raise BadInput(
            "The cameras are not a list of 4 x 4 matrices.", "Choose the cameras of the scene anew."
        )
    if not 1 <= len(poses) <= most:
        _refuse_count(len(poses), most)
    for number, pose in enumerate(poses.astype(np.float64), 1):
        _check_pose(pose, number)


def _refuse_count(count: int, most: int) -> None:
    if not count:
        raise BadInput("There are no cameras.", "Choose at least one, or a ring of them.")
    raise TooLarge(
        f"{count:,} views are more than the {most} that are accepted.",
        "Leave some out: every second camera, for example.",
    )


def _check_pose(pose: np.ndarray, number: int) -> None:
    axes = pose[:3, :3]
    if not np.isfinite(pose).all():
        raise BadInput(
            f"Camera {number} has values that are not numbers.",
            "Reset its transform, or leave it out.",
        )
    if np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise BadInput(
            f"The matrix of camera {number} is no camera's: its last row is not 0 0 0 1.",
            "Give camera-to-world matrices with one row after the other.",
        )
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise BadInput(
            f"Camera {number} is scaled or sheared.",
            "Apply its scale (Ctrl+A), and that of what it is parented to.",
        )
    if np.linalg.det(axes) < 0:
        raise BadInput(
            f"Camera {number} is mirrored: one of its axes points the wrong way.",
            "Apply its scale (Ctrl+A). In files, cameras look along -z with x to the right and y"
            " up; turn two axes over, not one.",
        )


def check_different(poses: np.ndarray) -> None:
    """Raise BadInput where two of the cameras are one."""
    pair = next(iter(same_cameras(poses)), None)
    if pair is not None:
        first, second = pair
        raise BadInput(
            f"Cameras {first + 1} and {second + 1} are at one place and look the same way.",
            "Move one of them, or leave it out.",
        )


def same_cameras(poses: np.ndarray) -> list[tuple[int, int]]:
    """Pairs i < j of cameras that stand and look alike, (V, 4, 4) -> indices."""
    places, axes = poses[:, :3, 3].astype(np.float64), poses[:, :3, :3].astype(np.float64)
    scale = max(float(np.abs(places).max(initial=0)), 1e-9)
    apart = np.abs(places[:, None] - places[None]).max(axis=2)
    turned = np.abs(axes[:, None] - axes[None]).max(axis=(2, 3))
    alike = (apart <= _SAME_PLACE * scale) & (turned <= _SAME_TURN)
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(alike, 1))]


def check_at_one_place(poses: np.ndarray) -> None:
    """Raise BadInput where several cameras all stand at the same place: nothing can be measured."""
    places = poses[:, :3, 3].astype(np.float64)
    spread = float(np.abs(places - places[0]).max())
    if len(poses) > 1 and spread <= _SAME_PLACE * max(float(np.abs(places).max()), 1e-9):
        raise BadInput(
            "All cameras stand at the same place, from which no depth can be told.",
            "Give views from around the object.",
        )


def check_around(poses: np.ndarray, center: object, extent: float) -> None:
    """Raise BadInput where a camera is inside the cube around the object or looks away from it.

    center: three numbers; extent: the side of the cube, in the units of the poses.
    """
    middle = np.asarray(center, np.float64)
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 3) * extent + middle
    for number, pose in enumerate(poses.astype(np.float64), 1):
        place, back = pose[:3, 3], pose[:3, 2]
        if np.abs(place - middle).max() < extent / 2:
            raise BadInput(
                f"Camera {number} is inside the object, or in the box around it.",
                f"Move it at least {extent / 2:.3g} away from the middle of the object, or tell"
                " the object's true place and size.",
            )
        if ((corners - place) @ back > 0).all():
            raise BadInput(
                f"Camera {number} looks away from the object.",
                "Turn it to the object. If all cameras of a file do, its cameras look along +z:"
                " their second and third axes must be turned over.",
            )


def check_intrinsics(intrinsics: object, views: int) -> None:
    """Raise BadInput unless `intrinsics` is (views, 4) floats with focal lengths above 0."""
    fits = isinstance(intrinsics, np.ndarray) and intrinsics.dtype.kind == "f"
    if not fits or intrinsics.shape != (views, 4):  # type: ignore[attr-defined]
        have = _times(getattr(intrinsics, "shape", ()))
        raise BadInput(
            f"The focal lengths and centres of the cameras are {have or 'missing'};"
            f" expected {views} x 4.",
            "Give fx, fy, cx and cy for each view, or one field of view for all.",
        )
    values = np.asarray(intrinsics, np.float64)
    if not np.isfinite(values).all() or (values[:, :2] <= 0).any():
        number = int(np.argmax(~(np.isfinite(values).all(axis=1) & (values[:, :2] > 0).all(1)))) + 1
        raise BadInput(
            f"Camera {number} has no focal length, or a centre that is no number.",
            "Give it a focal length above 0.",
        )


def check_field(field: object, *, may_be_0: bool) -> None:
    """Raise BadInput unless `field` is a horizontal field of view in degrees."""
    number = type(field) in (int, float)
    if may_be_0 and number and field == 0:
        return
    if not number or not 1 <= field <= MAX_FIELD:  # type: ignore[operator]
        raise BadInput(
            f"The field of view {field!r} cannot be used.",
            f"Use 1 to {MAX_FIELD:g} degrees across the picture.",
        )


def intrinsics_of_field(field: float, width: int, height: int, views: int) -> np.ndarray:
    """(views, 4) float32: square pixels, `field` degrees across the width, centred."""
    focal = width / 2 / np.tan(np.radians(field) / 2)
    one = [focal, focal, (width - 1) / 2, (height - 1) / 2]
    return np.tile(np.array(one, np.float32), (views, 1))


def _times(shape: tuple[Any, ...]) -> str:
    return " x ".join(map(str, shape))
