"""Cameras: Blender's and OpenCV's, lenses, rays, and what a camera sees of points.

A pose is the camera-to-world matrix (4, 4) with Blender's camera axes (x right, y up, looking along
-z), which is Blender's matrix_world. `world2cam` is the other way round, with OpenCV's axes (x
right, y down, looking along z). Intrinsics are fx, fy, cx, cy in pixels, and the centre of the
first pixel is at 0, 0. Arithmetic is float64; leading axes are batches.
"""

from __future__ import annotations

import numpy as np

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
"""Between the axes of Blender's cameras and OpenCV's, either way."""
_SAME = 1e-3


def world2cam_of(poses: np.ndarray) -> np.ndarray:
    """(..., 4, 4) poses -> (..., 4, 4) float64, for points as columns."""
    return _inverse(np.asarray(poses, np.float64) @ _FLIP)


def poses_of(world2cam: np.ndarray) -> np.ndarray:
    """The inverse of `world2cam_of`."""
    return _inverse(np.asarray(world2cam, np.float64)) @ _FLIP


def _inverse(rigid: np.ndarray) -> np.ndarray:
    """Of turns and shifts, without the rounding of a general inverse."""
    found = np.zeros_like(rigid)
    turned = np.swapaxes(rigid[..., :3, :3], -1, -2)
    found[..., :3, :3] = turned
    found[..., :3, 3] = -(turned @ rigid[..., :3, 3, None])[..., 0]
    found[..., 3, 3] = 1
    return found


def is_rigid(matrices: np.ndarray) -> np.ndarray:
    """(..., 4, 4) -> (...) bool: whether each only turns and shifts: no scale, shear or mirror."""
    matrices = np.asarray(matrices, np.float64)
    turn = matrices[..., :3, :3]
    square = turn @ np.swapaxes(turn, -1, -2)
    finite = np.isfinite(matrices).all(axis=(-1, -2))
    with np.errstate(invalid="ignore"):
        orthogonal = np.abs(square - np.eye(3)).max(axis=(-1, -2)) < _SAME
        last = np.abs(matrices[..., 3, :] - [0, 0, 0, 1]).max(axis=-1) < _SAME
        proper = np.linalg.det(np.where(finite[..., None, None], turn, np.eye(3))) > 0
    return finite & orthogonal & last & proper


# ------------------------------------------------------------------------------------------ lenses


def intrinsics_of_field(field: float, width: int, height: int) -> np.ndarray:
    """(4,) float64 of a lens `field` degrees across the picture, looking at its middle."""
    focal = width / 2 / np.tan(np.radians(field) / 2)
    return np.array([focal, focal, (width - 1) / 2, (height - 1) / 2])


def field_of_intrinsics(intrinsics: np.ndarray, width: int) -> np.ndarray:
    """(..., 4) -> (...) degrees across a picture of that width, were its middle looked at."""
    return np.degrees(2 * np.arctan(width / 2 / np.asarray(intrinsics, np.float64)[..., 0]))


def resized(intrinsics: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """(..., 4) of pictures of `size` (height, width), when these are resized to `new_size`."""
    y, x = (new / old for new, old in zip(new_size, size, strict=True))
    half = np.array([0.0, 0.0, 0.5, 0.5])
    return (np.asarray(intrinsics, np.float64) + half) * [x, y, x, y] - half


def cropped(intrinsics: np.ndarray, left: float, top: float) -> np.ndarray:
    """(..., 4) when that many pixels are cut away, or added where negative."""
    return np.asarray(intrinsics, np.float64) - [0, 0, left, top]


def matrix_of(intrinsics: np.ndarray) -> np.ndarray:
    """(..., 4) -> (..., 3, 3), for points as columns."""
    fx, fy, cx, cy = np.moveaxis(np.asarray(intrinsics, np.float64), -1, 0)
    zero, one = np.zeros_like(fx), np.ones_like(fx)
    rows = [[fx, zero, cx], [zero, fy, cy], [zero, zero, one]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


# --------------------------------------------------------------------------------- rays and points


def rays(
    pose: np.ndarray, intrinsics: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the rays of all pixels of a picture begin, (3,), and where they go, (H, W, 3), one unit
    along the camera's axis: origin + depth * direction is what a pixel of that depth shows."""
    fx, fy, cx, cy = np.asarray(intrinsics, np.float64)
    v, u = np.mgrid[:height, :width]
    seen = np.stack([(u - cx) / fx, (cy - v) / fy, np.full(u.shape, -1.0)], axis=-1)
    pose = np.asarray(pose, np.float64)
    return pose[:3, 3], seen @ pose[:3, :3].T


def project(
    points: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2), x before y, and depth (N,) of points (N, 3). Pixels of what is not in front of
    the camera, whose depth is not positive, are NaN."""
    world2cam = world2cam_of(pose)
    seen = np.asarray(points, np.float64) @ world2cam[:3, :3].T + world2cam[:3, 3]
    depth = seen[:, 2]
    fx, fy, cx, cy = np.asarray(intrinsics, np.float64)
    before = np.where(depth > 0, depth, np.nan)[:, None]
    return seen[:, :2] / before * [fx, fy] + [cx, cy], depth


def look_at(
    eyes: np.ndarray, target: np.ndarray | tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> np.ndarray:
    """Poses (..., 4, 4) float64 at `eyes` (..., 3), looking at `target`, their pictures upright in
    a world with z up; looking straight up or down, the top of the picture is +y.

    Raises ValueError for an eye at the target.
    """
    eyes = np.asarray(eyes, np.float64)
    back = eyes - np.asarray(target, np.float64)
    length = np.linalg.norm(back, axis=-1, keepdims=True)
    if not (length > 0).all():
        raise ValueError("a camera lies at what it looks at")
    back = back / length
    upright = np.abs(back[..., 2:]) < 1 - 1e-9
    right = np.cross(np.where(upright, [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]), back)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    up = np.cross(back, right)
    found = np.zeros((*eyes.shape[:-1], 4, 4))
    found[..., :3, :] = np.stack([right, up, back, eyes], axis=-1)
    found[..., 3, 3] = 1
    return found


# ----------------------------------------------------------------------------- ViewDiff's own rings


def published_ring(
    count: int,
    radius: float,
    zenith: float,
    start: float = 0.0,
    end: float = 360.0,
    endpoint: bool = False,
) -> np.ndarray:
    """world2cam (count, 4, 4) float64 of the rings of ViewDiff's published code.

    zenith: degrees from +z, and start, end: degrees around it, of a point the camera does not lie
    at: it is on the other side of the origin, at which it looks, and the top of its picture is -z.
    See `from_published_world`.
    """
    theta, phi = np.radians(zenith), np.radians(np.linspace(start, end, count, endpoint=endpoint))
    eye = np.stack(
        [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.full(count, np.cos(theta))],
        axis=-1,
    )
    forward = -eye
    side = np.cross(forward, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    up = np.cross(side, forward)
    found = np.zeros((count, 4, 4))
    found[:, :3, :3] = np.stack([side, up, -forward], axis=1)
    found[:, :3, 3] = radius * (found[:, :3, :3] @ eye[..., None])[..., 0]
    found[:, 3, 3] = 1
    return found


def from_published_world(poses: np.ndarray) -> np.ndarray:
    """Poses (..., 4, 4) in the world of `published_ring`, whose -z is up, in one with z up; and the
    other way round: half a turn about x."""
    return _FLIP @ np.asarray(poses, np.float64)
