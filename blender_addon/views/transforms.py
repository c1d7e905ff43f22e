"""transforms.json, as NeRF tools and Blender's own exporters write it <-> cameras. No bpy.

In the file a camera is a 4 x 4 matrix from its axes to the world, and principal points count from
the corner of the first pixel; here from its centre.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ...backend.errors import BadInput, StorageFailed
from .paths import focus

NAME = "transforms.json"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".exr")
LARGEST = 64 << 20  # bytes
SKEW = 0.02
BENDS = ("k1", "k2", "k3", "k4", "p1", "p2")
FLAT = {"", "PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE"}
AXES = ("BLENDER", "OPENCV")


@dataclass(frozen=True, eq=False)
class PosedFile:
    """path: of the picture; pose: (4, 4) float64, Blender's camera axes; focal: (fx, fy) and
    centre: (cx, cy) in pixels of a picture of `size`, (width, height); None: the picture's own
    size, and its middle. angle: across, in radians, instead of the focal length."""

    path: Path
    pose: np.ndarray
    size: tuple[float, float] | None
    focal: tuple[float, float] | None
    centre: tuple[float, float] | None
    angle: float | None

    def intrinsics(self, width: int, height: int) -> np.ndarray:
        """(4,) float64 of the picture as it is. Raises BadInput where it was cropped."""
        said = self.size or (width, height)
        scale = width / said[0]
        if abs(scale * said[1] - height) > 1.01:
            raise BadInput(
                f"{self.path.name} has {width} x {height} pixels, its camera {said[0]:g} x"
                f" {said[1]:g}.",
                "It was cropped after the cameras were found. Use the uncropped pictures.",
            )
        focal = self.focal
        if focal is None:
            assert self.angle is not None  # noqa: S101
            focal = (said[0] / 2 / math.tan(self.angle / 2),) * 2
        centre = self.centre or (said[0] / 2, said[1] / 2)
        return np.array([*focal, *centre]) * scale - [0, 0, 0.5, 0.5]


# ------------------------------------------------------------------------------------------ reading


def read(path: Path, axes: str = "BLENDER") -> list[PosedFile]:
    """The cameras of a transforms.json, or of the folder that has one. axes: of the cameras in the
    file, "BLENDER" (x right, y up, looking along -z) or "OPENCV" (y down, looking along z). Raises
    BadInput."""
    path = path / NAME if path.is_dir() else path
    content = _content(path)
    frames = content["frames"]
    for entry in (content, *frames):
        _check_lens(entry, path.name)
    files = [
        _frame(path, {**content, **frame}, f"{path.name}, frame {number}", axes)
        for number, frame in enumerate(frames, 1)
    ]
    _check_directions(np.stack([file.pose for file in files]), path.name, axes)
    return files


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"{path.name} is larger than any list of cameras.", "Choose another.")
        content = json.loads(path.read_text("utf-8"))
    except OSError:
        raise BadInput(
            f"There is no file {path}.", f"Choose a {NAME}, or the folder that has one."
        ) from None
    except (ValueError, RecursionError):
        raise BadInput(f"{path.name} is no JSON that can be read.", "Export it again.") from None
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise BadInput(
            f"{path.name} has no list of frames.",
            f"Choose a {NAME} as NeRF tools write it: a picture and a matrix in each frame.",
        )
    if not frames:
        raise BadInput(f"{path.name} has no frames.", "Export at least one picture.")
    return content


def _check_lens(entry: Mapping[str, Any], where: str) -> None:
    model = str(entry.get("camera_model") or "").upper()
    bent = any(abs(_number(entry, name, where) or 0) > 1e-3 for name in BENDS)
    if entry.get("is_fisheye") or model not in FLAT or bent:
        raise BadInput(
            f"The cameras of {where} have a lens that bends straight lines, which Blender's have "
            "not.",
            "Undistort the pictures first (colmap image_undistorter does), and export again.",
        )


def _frame(path: Path, entry: Mapping[str, Any], where: str, axes: str) -> PosedFile:
    width, height = _number(entry, "w", where), _number(entry, "h", where)
    focal = [_focal(entry, axis, size, where) for axis, size in (("x", width), ("y", height))]
    angle = _number(entry, "camera_angle_x", where)
    known = focal[0] or focal[1]
    if known is None and angle is None:
        raise BadInput(
            f"{where}: neither a focal length nor a field of view is known.",
            "Add camera_angle_x (radians across the picture) or fl_x (pixels) to the file.",
        )
    if known is None and not 0 < angle < math.pi:
        raise BadInput(
            f"{where}: a field of view of {angle:.3g} radians is impossible.",
            "camera_angle_x is in radians, between 0 and 3.14.",
        )
    centre = _number(entry, "cx", where), _number(entry, "cy", where)
    return PosedFile(
        _place(path.parent, entry.get("file_path"), where),
        _pose(entry.get("transform_matrix"), where, axes),
        None if not width or not height else (width, height),
        None if known is None else (focal[0] or known, focal[1] or known),
        None if None in centre else centre,
        angle,
    )


def _focal(entry: Mapping[str, Any], axis: str, size: float | None, where: str) -> float | None:
    """Pixels; None where only the angle across is said."""
    focal = _number(entry, f"fl_{axis}", where)
    angle = _number(entry, f"camera_angle_{axis}", where)
    if focal is None and size and angle is not None and 0 < angle < math.pi:
        focal = size / 2 / math.tan(angle / 2)
    if focal is not None and focal <= 0:
        raise BadInput(f"{where}: a focal length is not positive.", "Export it again.")
    return focal


def _number(entry: Mapping[str, Any], name: str, where: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"{where}: {name} is no number.", "Export it again.")
    return float(value)


def _pose(rows: Any, where: str, axes: str) -> np.ndarray:
    try:
        matrix = np.array(rows, np.float64)
    except (ValueError, TypeError):
        matrix = np.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)) or not np.isfinite(matrix).all():
        raise BadInput(
            f"{where} has no matrix of its camera.",
            "Each frame needs transform_matrix, 4 x 4 numbers from the camera to the world.",
        )
    turn = matrix[:3, :3]
    lengths = np.linalg.norm(turn, axis=0)
    if lengths.min() < 1e-9:
        raise BadInput(f"{where}: an axis of the camera has no length.", "Export it again.")
    turn = turn / lengths
    if np.linalg.det(turn) < 0:
        raise BadInput(
            f"{where}: the axes of the camera are mirrored, so left and right are exchanged.",
            "They come from a program with left-handed axes, or one axis was negated instead of "
            "two. Export with right-handed axes, as Blender's: x to the right, y up, looking along "
            "-z.",
        )
    if np.abs(turn.T @ turn - np.eye(3)).max() > SKEW or np.ptp(lengths) > SKEW * lengths.max():
        raise BadInput(
            f"{where}: the axes of the camera are sheared or stretched.",
            "Apply the scale of the camera and of its parents, then export again.",
        )
    left, _, right = np.linalg.svd(turn)  # the nearest rotation, since files have few digits
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = left @ right, matrix[:3, 3]
    if axes == "OPENCV":
        pose[:3, 1:3] *= -1
    return pose


def _check_directions(poses: np.ndarray, name: str, axes: str) -> None:
    """Raise BadInput where three or more cameras all turn their backs to what they are around."""
    ahead = np.einsum("vi,vi->v", focus(poses) - poses[:, :3, 3], -poses[:, :3, 2])
    if len(poses) > 2 and (ahead < 0).all():
        other = "OpenCV" if axes == "BLENDER" else "Blender"
        raise BadInput(
            f"All cameras of {name} look away from what they stand around.",
            f"Their axes are others: choose {other} for Camera Axes when importing.",
        )


def _place(folder: Path, text: Any, where: str) -> Path:
    """A file that a frame names; its suffix may be left out."""
    if not isinstance(text, str) or not text:
        raise BadInput(f"{where}: the frame names no picture.", "Each frame needs file_path.")
    named = folder / (PureWindowsPath(text).as_posix() if "\\" in text else text)
    candidates = [named, *(named.with_name(named.name + suffix) for suffix in SUFFIXES)]
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        raise BadInput(
            f"{where}: there is no picture {named}.",
            "Keep the pictures where the file says, relative to it.",
        )
    return found


# ------------------------------------------------------------------------------------------ writing


def write(
    path: Path,
    files: Sequence[str],
    poses: np.ndarray,
    intrinsics: np.ndarray,
    sizes: Sequence[tuple[int, int]],
) -> None:
    """Write a transforms.json of pictures (relative to it) with their cameras: poses (V, 4, 4),
    intrinsics (V, 4), sizes (width, height) of each. Raises StorageFailed."""
    cameras = intrinsics + np.array([0, 0, 0.5, 0.5])
    frames = []
    for file, pose, camera, (width, height) in zip(files, poses, cameras, sizes, strict=True):
        numbers = dict(zip(("fl_x", "fl_y", "cx", "cy"), camera.tolist(), strict=True))
        frame = {"file_path": file, "w": width, "h": height, **numbers}
        frames.append(frame | {"transform_matrix": pose.tolist()})
    content: dict[str, Any] = {"camera_model": "PINHOLE"}
    if len({*sizes}) == 1:
        width, height = sizes[0]
        # Tools that know no focal lengths read the angle.
        angle = 2 * math.atan(width / 2 / float(cameras[0, 0]))
        content |= {"w": width, "h": height, "camera_angle_x": angle}
    content["frames"] = frames
    try:
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        raise StorageFailed(
            f"{path.name} cannot be written: {error.strerror or error}.", "Choose another folder."
        ) from None
