"""transforms.json, as NeRF tools and Blender's own exporters write it <-> cameras. No bpy.

In the file a camera is a 4 x 4 matrix from its axes to the world, and principal points count from
the corner of the first pixel; here from its centre.
"""

from __future__ import annotations

import json
import math
import os
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
LARGEST_NUMBER = 1e30  # beyond it nothing can be calculated in float32
BENDS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
FLAT = {"", "PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE"}
AXES = ("BLENDER", "OPENCV")
MILLIMETRE = 1e-3  # what depth is counted in where a file says nothing

Pair = tuple[float | None, float | None]


@dataclass(frozen=True, eq=False)
class PosedFile:
    """path: of the picture; pose: (4, 4) float64, Blender's camera axes. size: of the picture that
    the numbers are of, None for its own; focal, centre: in its pixels, angle: of the field of view
    in radians; each across and down, None where the file says nothing. mask: of another picture,
    what of this one is shown; depth: of another file; unit: what 1 in it is in units of the world,
    None for what is usual. where: how what is wrong with it begins."""

    path: Path
    pose: np.ndarray
    size: Pair
    focal: Pair
    angle: Pair
    centre: Pair
    mask: Path | None = None
    depth: Path | None = None
    unit: float | None = None
    where: str = ""

    def intrinsics(self, width: int, height: int) -> np.ndarray:
        """(4,) float64 of the picture as it is. Raises BadInput where it was cropped, or no camera
        sees so."""
        said = self.size[0] or width, self.size[1] or height
        scale = width / said[0]
        if abs(scale * said[1] - height) > 1.01:
            raise BadInput(
                f"{self.path.name} has {width} x {height} pixels, its camera {said[0]:g} x"
                f" {said[1]:g}.",
                "It was cropped after the cameras were found. Use the uncropped pictures.",
            )
        across, down = (self._focal(side, said[side]) for side in (0, 1))
        middle = [
            said[side] / 2 if self.centre[side] is None else self.centre[side] for side in (0, 1)
        ]
        values = np.array([across or down, down or across, *middle]) * scale - [0, 0, 0.5, 0.5]
        if not (np.abs(values) < LARGEST_NUMBER).all() or values[:2].min() < 1e-6:
            raise BadInput(
                f"{self.where}: a focal length of {values[0]:.3g} pixels, or a centre at"
                f" {values[2]:.6g}, {values[3]:.6g}, is impossible.",
                "Export it again, with focal lengths and centres in pixels.",
            )
        return values

    def _focal(self, side: int, pixels: float) -> float | None:
        focal, angle = self.focal[side], self.angle[side]
        if focal is None and angle is not None:
            return pixels / 2 / math.tan(angle / 2)
        return focal


# ------------------------------------------------------------------------------------------ reading


def read(path: Path, axes: str = "BLENDER") -> list[PosedFile]:
    """The cameras of a transforms.json, or of the folder that has one. axes: of the cameras in the
    file, "BLENDER" (x right, y up, looking along -z) or "OPENCV" (y down, looking along z). Raises
    BadInput."""
    path = path / NAME if os.path.isdir(path) else path
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
        content = json.loads(path.read_text("utf-8-sig"))
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
    focal = _pair(entry, ("fl_x", "fl_y"), where)
    angle = _pair(entry, ("camera_angle_x", "camera_angle_y"), where)
    if (*focal, *angle) == (None,) * 4:
        raise BadInput(
            f"{where}: neither a focal length nor a field of view is known.",
            "Add camera_angle_x (radians across the picture) or fl_x (pixels) to the file.",
        )
    if any(each is not None and each <= 0 for each in focal):
        raise BadInput(f"{where}: a focal length is not positive.", "Export it again.")
    for each in angle:
        if each is not None and not 0 < each < math.pi:
            raise BadInput(
                f"{where}: a field of view of {each:.3g} radians is impossible.",
                "camera_angle_x is in radians, between 0 and 3.14.",
            )
    mask, depth = entry.get("mask_path"), entry.get("depth_file_path") or entry.get("depth_path")
    return PosedFile(
        _place(path.parent, entry.get("file_path"), where),
        _pose(entry.get("transform_matrix"), where, axes),
        _pair(entry, ("w", "h"), where),
        focal,
        angle,
        _pair(entry, ("cx", "cy"), where),
        _place(path.parent, mask, where) if mask else None,
        _place(path.parent, depth, where) if depth else None,
        _unit(entry, where) if depth else None,
        where,
    )


def _pair(entry: Mapping[str, Any], names: tuple[str, str], where: str) -> Pair:
    across, down = (_number(entry, name, where) for name in names)
    return across, down


def _unit(entry: Mapping[str, Any], where: str) -> float | None:
    names = ("depth_unit_scale_factor", "integer_depth_scale")
    told = [_number(entry, name, where) for name in names]
    unit = next((each for each in told if each is not None), None)
    if unit is not None and unit <= 0:
        raise BadInput(
            f"{where}: a unit of depth of {unit:g} is impossible.",
            "depth_unit_scale_factor is how many units of the world a step of depth is: 0.001.",
        )
    return unit


def _number(entry: Mapping[str, Any], name: str, where: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not abs(value) <= LARGEST_NUMBER:
        raise BadInput(f"{where}: {name} is no number.", "Export it again.")
    return float(value)


def _pose(rows: Any, where: str, axes: str) -> np.ndarray:
    try:
        matrix = np.array(rows, np.float64)
    except (ValueError, TypeError, OverflowError):
        matrix = np.zeros(0)
    fits = matrix.shape in ((4, 4), (3, 4))
    if not fits or not (np.abs(matrix) <= LARGEST_NUMBER).all():
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
    if named.anchor.startswith(("\\\\", "//")) and named.anchor != folder.absolute().anchor:
        # To look for it would tell another computer who is asking.
        raise BadInput(
            f"{where}: the picture {named} is on another computer.",
            "Copy the pictures beside the file, and name them relative to it.",
        )
    longer = [named.with_name(named.name + suffix) for suffix in SUFFIXES] if named.name else []
    found = next((file for file in (named, *longer) if os.path.isfile(file)), None)
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
    depths: Sequence[str] = (),
) -> None:
    """Write a transforms.json of pictures (relative to it) with their cameras: poses (V, 4, 4),
    intrinsics (V, 4), sizes (width, height) of each; depths: files of how far everything is, ""
    where that is not known, or none. Raises StorageFailed."""
    cameras = intrinsics + np.array([0, 0, 0.5, 0.5])
    frames = []
    for file, pose, camera, (width, height) in zip(files, poses, cameras, sizes, strict=True):
        numbers = dict(zip(("fl_x", "fl_y", "cx", "cy"), camera.tolist(), strict=True))
        frame = {"file_path": file, "w": width, "h": height, **numbers}
        frames.append(frame | {"transform_matrix": pose.tolist()})
    for frame, depth in zip(frames, depths, strict=False):
        if depth:
            frame["depth_file_path"] = depth
    content: dict[str, Any] = {"camera_model": "PINHOLE"}
    if len({*sizes}) == 1:
        width, height = sizes[0]
        # Tools that know no focal lengths read the angle.
        angle = 2 * math.atan(width / 2 / float(cameras[0, 0]))
        content |= {"w": width, "h": height, "camera_angle_x": angle}
    if any(depths):
        content["depth_unit_scale_factor"] = MILLIMETRE
    content["frames"] = frames
    try:
        write_whole(path, json.dumps(content, indent=1).encode())
    except OSError as error:
        raise StorageFailed(
            f"{path.name} cannot be written: {error.strerror or error}.", "Choose another folder."
        ) from None


def write_whole(path: Path, data: bytes) -> None:
    """A file appears whole or not at all; the earlier one stays until then. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def named_files(path: Path) -> set[Path]:
    """The files that a transforms.json of earlier names, as far as there is one."""
    try:
        frames = _content(path)["frames"]
    except BadInput:
        return set()
    names = [frame.get(key) for frame in frames for key in ("file_path", "depth_file_path")]
    return {path.parent / name for name in names if isinstance(name, str)}
