"""Pictures whose cameras are known, as files: transforms.json, which NeRF tools read and write.

In the file as here a camera is a 4 x 4 matrix from its axes (x right, y up, looking along -z:
Blender's) to the world. Principal points count from the corner of the first pixel in the file,
from its centre here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from .conditions import exr, picture_files
from .conditions.cut_views import BLENDERS_NOTHING
from .errors import BadInput, NotFound, StorageFailed, TooLarge
from .geometry.mesh_files import write_bytes
from .geometry.resampling import area_resized

NAME = "transforms.json"
MOST_VIEWS = 1024
MOST_PIXELS = 1 << 28
"""Of all pictures together: a gigabyte with alpha."""

_MOST_JSON_BYTES = 64 << 20
_MILLIMETRE = 1e-3
"""The unit of depth pictures of integers, and of .npy beside them, where the file names none. What
an .exr has, as Blender writes it, is in units of the world."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_FLAT_MODELS = {"", "PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE"}
_BENDS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_LARGEST_NUMBER = 1e30
"""Beyond it nothing can be calculated in float32."""
_SKEW = 0.02
"""How far axes of length one may be from right angles: files are written with few digits."""


@dataclass(frozen=True, eq=False)
class PosedImages:
    """Pictures of one thing or place, and the cameras they were taken with.

    images: (V, H, W, 3 or 4) uint8 sRGB, the fourth is the share of the pixel that shows it.
    poses: (V, 4, 4) float32, camera to world, Blender's camera axes.
    intrinsics: (V, 4) float32, focal lengths and principal point in pixels, the centre of the first
    pixel is (0, 0). names: of the files, without suffix, each once.
    depths: (V, H, W) float32 along the camera's axis in units of the world, 0 where there is
    nothing; or None.
    """

    images: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray
    names: tuple[str, ...]
    depths: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)


# ------------------------------------------------------------------------------------------ reading


def read_transforms(
    path: str | Path, *, field: float | None = None, longest: int = 0, most: int = MOST_VIEWS
) -> PosedImages:
    """The pictures of a transforms.json, or of the folder that has one.

    field: degrees across, for files that name neither focal length nor field of view. longest:
    pixels; larger pictures are reduced, their cameras with them. most: views, evenly out of all.
    Raises NotFound, BadInput, TooLarge.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    content = _read_json(path)
    frames = content["frames"]
    if len(frames) > most:
        frames = [frames[index] for index in np.linspace(0, len(frames) - 1, most).astype(int)]
    _check_model(path, content, frames)
    poses = np.stack([_pose(path, frame, place) for place, frame in enumerate(frames)])
    pictures, intrinsics, depths = [], [], []
    pixels = 0
    for place, frame in enumerate(frames):
        where = f"{path.name}, frame {place + 1} ({frame.get('file_path', '')})"
        picture = _picture(path.parent, frame, where)
        height, width = picture.shape[:2]
        camera = _intrinsics({**content, **frame}, width, height, field, where)
        depth = _depth(path.parent, {**content, **frame}, (height, width))
        if longest and max(height, width) > longest:
            picture, camera, depth = _reduced(picture, camera, depth, longest)
        pixels += picture.shape[0] * picture.shape[1]
        if pixels > MOST_PIXELS:
            raise TooLarge(
                f"The pictures of {path.name} have more than {MOST_PIXELS >> 20} million pixels.",
                "Scale them down, or take fewer.",
            )
        pictures.append(picture)
        intrinsics.append(camera)
        depths.append(depth)
    return PosedImages(
        _stacked(pictures, path),
        poses,
        np.stack(intrinsics),
        _names(frames),
        _stacked_depths(depths),
    )


def read_cameras(
    path: str | Path, width: int, height: int, *, field: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Only the cameras of a transforms.json, (V, 4, 4) and (V, 4) float32, as of pictures of width
    x height; there need not be any. Where the file's are of another shape, their field across stays
    and what is above and below is added or cut off evenly. field: as in `read_transforms`.

    Raises NotFound, BadInput.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    content = _read_json(path)
    frames = content["frames"]
    _check_model(path, content, frames)
    poses = np.stack([_pose(path, frame, place) for place, frame in enumerate(frames)])
    lenses = []
    for place, frame in enumerate(frames):
        where, entry = f"{path.name}, frame {place + 1}", {**content, **frame}
        own_width = _number(entry, "w", where) or width
        own_height = _number(entry, "h", where) or height * own_width / width
        lens = _intrinsics(entry, round(own_width), round(own_height), field, where)
        across = width / own_width
        lens = scaled_intrinsics(lens, across, across)
        lens[3] += (height - own_height * across) / 2
        lenses.append(lens)
    return poses, np.stack(lenses)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFound(
            f"There is no file {path}.",
            f"Choose a {NAME}, or the folder that has one; NeRF tools and COLMAP converters write"
            " it.",
        )
    if path.stat().st_size > _MOST_JSON_BYTES:
        raise TooLarge(f"{path.name} is larger than any list of cameras.", "Choose another file.")
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{path.name} is no JSON that can be read ({error}).", "Export it again."
        ) from None
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise BadInput(
            f"{path.name} has no list of frames.",
            f"Choose a {NAME} as NeRF tools write it: a picture and a matrix in each frame.",
        )
    if not frames:
        raise BadInput(f"{path.name} has no frames.", "Export at least one picture.")
    return content


def _check_model(path: Path, content: Mapping[str, Any], frames: Sequence[Any]) -> None:
    """Raise BadInput for lenses that are not straight."""
    for entry in (content, *frames):
        model = str(entry.get("camera_model") or "").upper()
        bent = any(abs(_number(entry, name, path.name) or 0) > 1e-3 for name in _BENDS)
        if entry.get("is_fisheye") or model not in _FLAT_MODELS or bent:
            raise BadInput(
                f"The cameras of {path.name} have a lens that bends straight lines"
                f" ({model.lower() or 'it has distortion'}).",
                "Undistort the pictures first (colmap image_undistorter does), and export again.",
            )


def _pose(path: Path, frame: Mapping[str, Any], place: int) -> np.ndarray:
    """(4, 4) float32, its axes of length one. Raises BadInput."""
    where = f"{path.name}, frame {place + 1}"
    try:
        rows = np.array(frame["transform_matrix"], np.float64)
    except (KeyError, ValueError, TypeError, OverflowError):
        rows = np.zeros(0)
    fits = rows.shape in ((4, 4), (3, 4))
    if not fits or not (np.abs(rows) <= _LARGEST_NUMBER).all():
        raise BadInput(
            f"{where} has no matrix of its camera.",
            "Each frame needs transform_matrix, 4 x 4 numbers from the camera to the world.",
        )
    return checked_pose(rows, where)


def checked_pose(rows: np.ndarray, where: str) -> np.ndarray:
    """A matrix (4 or 3, 4) from a camera to the world as (4, 4) float32, a scale taken out of its
    axes. Raises BadInput for axes that are mirrored, skewed or missing; `where` begins the words.
    """
    axes = rows[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if lengths.min() < 1e-9:
        raise BadInput(f"{where}: an axis of the camera has no length.", "Export it again.")
    axes = axes / lengths
    if np.linalg.det(axes) < 0:
        raise BadInput(
            f"{where}: the axes of the camera are mirrored, so left and right are exchanged.",
            "They come from a program with left-handed axes, or one axis was negated. Export with"
            " right-handed axes: the camera's x to the right, y up, looking along -z, as in"
            " Blender.",
        )
    if np.abs(axes.T @ axes - np.eye(3)).max() > _SKEW or np.ptp(lengths) > _SKEW * lengths.max():
        raise BadInput(
            f"{where}: the axes of the camera are sheared or stretched.",
            "Apply the scale of the camera and of its parents, then export again.",
        )
    # The nearest rotation, since files have few digits.
    left, _, right = np.linalg.svd(axes)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = left @ right, rows[:3, 3]
    return pose.astype(np.float32)


def _number(entry: Mapping[str, Any], name: str, where: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not abs(value) <= _LARGEST_NUMBER:
        raise BadInput(f"{where}: {name} is no number.", "Export it again.")
    return float(value)


def _intrinsics(
    entry: Mapping[str, Any], width: int, height: int, field: float | None, where: str
) -> np.ndarray:
    """(4,) float32 for a picture of width x height."""
    said_width = _number(entry, "w", where) or width
    said_height = _number(entry, "h", where) or height
    scale = width / said_width
    if abs(scale * said_height - height) > 1.01:
        raise BadInput(
            f"{where}: the picture has {width} x {height} pixels, its camera"
            f" {said_width:.0f} x {said_height:.0f}.",
            "It was cropped after the cameras were found. Use the uncropped pictures.",
        )
    focal_x = _focal(entry, "x", said_width, where)
    focal_y = _focal(entry, "y", said_height, where)
    if focal_x is None and field is not None:
        focal_x = said_width / 2 / math.tan(math.radians(field) / 2)
    focal_x = focal_x or focal_y
    if focal_x is None:
        raise BadInput(
            f"{where}: neither a focal length nor a field of view is known.",
            "Add camera_angle_x (radians across the picture) or fl_x (pixels) to the file, or say"
            " the field of view in degrees.",
        )
    centre_x = _number(entry, "cx", where)
    centre_y = _number(entry, "cy", where)
    values = np.array(
        [
            focal_x,
            focal_y or focal_x,
            said_width / 2 if centre_x is None else centre_x,
            said_height / 2 if centre_y is None else centre_y,
        ]
    )
    found = values * scale - [0, 0, 0.5, 0.5]
    if not (np.abs(found) < _LARGEST_NUMBER).all() or found[:2].min() < 1e-6:
        raise BadInput(
            f"{where}: a focal length of {values[0]:.3g} pixels, or a centre at {values[2]:.6g},"
            f" {values[3]:.6g}, is impossible.",
            "Export it again, with focal lengths and centres in pixels.",
        )
    return found.astype(np.float32)


def _focal(entry: Mapping[str, Any], axis: str, size: float, where: str) -> float | None:
    """Pixels, or None where it is not said."""
    focal = _number(entry, f"fl_{axis}", where)
    if focal is None:
        angle = _number(entry, f"camera_angle_{axis}", where)
        if angle is None:
            return None
        if not 0 < angle < math.pi:
            raise BadInput(
                f"{where}: a field of view of {angle:.3g} radians is impossible.",
                f"camera_angle_{axis} is in radians, between 0 and 3.14.",
            )
        focal = size / 2 / math.tan(angle / 2)
    if focal <= 0:
        raise BadInput(f"{where}: a focal length is not positive.", "Export it again.")
    return focal


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
    if not _is_file(named):
        # A name may have dots of its own, so the suffix is added, not exchanged.
        for suffix in _SUFFIXES if named.name else ():
            longer = named.with_name(named.name + suffix)
            if _is_file(longer):
                return longer
        raise NotFound(
            f"{where}: there is no picture {named}.",
            "Keep the pictures where the file says, relative to it.",
        )
    return named


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _picture(folder: Path, frame: Mapping[str, Any], where: str) -> np.ndarray:
    """(H, W, 3 or 4) uint8, as it is stored: cameras are of the stored pixels, not turned ones."""
    with picture_files.opened(_place(folder, frame.get("file_path"), where), _any_size) as image:
        picture = picture_files.eight_bits(image)
    if not frame.get("mask_path"):
        return picture
    with picture_files.opened(_place(folder, frame["mask_path"], where), _any_size) as image:
        mask = picture_files.eight_bits(image)[..., 0]
    if mask.shape != picture.shape[:2]:
        raise BadInput(f"{where}: the mask has another size than its picture.", "Export it again.")
    return np.concatenate([picture[..., :3], mask[..., None]], axis=-1)


def _any_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise TooLarge(f"A picture has {width} x {height} pixels.", "Scale it down.")
    if width < 2 or height < 2:
        raise BadInput(f"A picture has {width} x {height} pixels.", "Choose larger pictures.")


def _depth(folder: Path, entry: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray | None:
    """(H, W) float32 in units of the world, 0 where nothing is; None without a file."""
    text = entry.get("depth_file_path") or entry.get("depth_path")
    if not text:
        return None
    path = _place(folder, text, "depth")
    in_floats = path.suffix.lower() == ".exr"
    unit = next(
        (
            float(value)
            for name in ("depth_unit_scale_factor", "integer_depth_scale")
            if (value := _number(entry, name, path.name)) is not None
        ),
        1.0 if in_floats else _MILLIMETRE,
    )
    if unit <= 0:
        raise BadInput(
            f"{path.name}: a unit of depth of {unit:g} is impossible.",
            "depth_unit_scale_factor is how many units of the world a step of depth is: 0.001.",
        )
    if in_floats:
        values = exr.read_depth(path, _any_size)
        values = np.where(values == picture_files.HALF_EMPTY, np.float32(0), values)
    elif path.suffix.lower() == ".npy":
        values = picture_files.read_npy(path, _any_size).astype(np.float32)
    else:
        with picture_files.opened(path, _any_size) as image:
            values = picture_files.values_of(image).astype(np.float32)
    if values.shape != shape:
        raise BadInput(
            f"The depth {path.name} has {values.shape[1]} x {values.shape[0]} pixels, its picture"
            f" {shape[1]} x {shape[0]}.",
            "Export both at the same size.",
        )
    known = np.isfinite(values) & (values > 0) & (values != BLENDERS_NOTHING)
    return np.where(known, values * np.float32(unit), np.float32(0))


def _reduced(
    picture: np.ndarray, camera: np.ndarray, depth: np.ndarray | None, longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if depth is not None:
        rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(int)
        columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(int)
        depth = depth[rows][:, columns]  # between two depths lies nothing
    return (
        reduced_picture(picture, *size),
        scaled_intrinsics(camera, size[1] / width, size[0] / height),
        depth,
    )


def reduced_picture(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3 or 4) uint8 -> (height, width, 3 or 4) uint8; clear pixels lend no colour."""
    values = picture.astype(np.float32)
    if picture.shape[-1] == 3:
        return np.rint(area_resized(values, height, width)).astype(np.uint8)
    alpha = values[..., 3:] / 255
    small = area_resized(np.concatenate([values[..., :3] * alpha, alpha], axis=-1), height, width)
    colours = small[..., :3] / np.maximum(small[..., 3:], 1e-6)
    return np.rint(
        np.concatenate([np.clip(colours, 0, 255), small[..., 3:] * 255], axis=-1)
    ).astype(np.uint8)


def scaled_intrinsics(intrinsics: np.ndarray, across: float, down: float) -> np.ndarray:
    """(..., 4) float32 of pictures that were resized by these factors."""
    scale = np.array([across, down, across, down])
    half = np.array([0, 0, 0.5, 0.5])
    return ((intrinsics + half) * scale - half).astype(np.float32)


def _stacked(pictures: list[np.ndarray], path: Path) -> np.ndarray:
    """(V, H, W, 3 or 4); alpha for all, where one has it."""
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) > 1:
        listed = ", ".join(f"{width} x {height}" for height, width in sorted(sizes)[:4])
        raise BadInput(
            f"The pictures of {path.name} have several sizes: {listed}.",
            "Use those of one camera and one orientation, or scale them to one size.",
        )
    if len({picture.shape[2] for picture in pictures}) > 1:
        pictures = [_with_alpha(picture) for picture in pictures]
    return np.stack(pictures)


def _with_alpha(picture: np.ndarray) -> np.ndarray:
    if picture.shape[2] == 4:
        return picture
    return np.concatenate([picture, np.full((*picture.shape[:2], 1), 255, np.uint8)], axis=-1)


def _stacked_depths(depths: list[np.ndarray | None]) -> np.ndarray | None:
    """Depth for all views, or none: views without it have nothing but unknown places."""
    shape = next((depth.shape for depth in depths if depth is not None), None)
    if shape is None:
        return None
    empty = np.zeros(shape, np.float32)
    return np.stack([empty if depth is None else depth for depth in depths])


def _names(frames: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Of the pictures, without folders and suffixes; those that come twice get a number."""
    found: dict[str, None] = {}
    for frame in frames:
        plain = PurePosixPath(str(frame.get("file_path", "")).replace("\\", "/"))
        stem = plain.name.removesuffix(plain.suffix if plain.suffix in _SUFFIXES else "") or "view"
        name, number = stem, 2
        while name in found:
            name, number = f"{stem}-{number}", number + 1
        found[name] = None
    return tuple(found)


# ------------------------------------------------------------------------------------------ writing


def write_transforms(folder: str | Path, posed: PosedImages) -> Path:
    """Write FOLDER/images/NAME.png, FOLDER/depths/NAME.npy where there is depth, and last
    FOLDER/transforms.json, whose path is returned. `read_transforms` gives the same back.

    Raises BadInput for what cannot be written so, StorageFailed.
    """
    folder = Path(folder)
    _check_names(posed)
    places = ["images", "depths"] if posed.depths is not None else ["images"]
    try:
        for place in places:
            (folder / place).mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(posed.names):
            Image.fromarray(posed.images[index]).save(folder / "images" / f"{name}.png")
            if posed.depths is not None:
                depth = posed.depths[index].astype(np.float32)
                known = np.where(np.isfinite(depth), depth, 0)
                np.save(folder / "depths" / f"{name}.npy", known / np.float32(_MILLIMETRE))
    except OSError as error:
        raise StorageFailed(
            f"The pictures cannot be written to {folder} ({error}).", "Choose another folder."
        ) from error
    content = _description(posed)
    path = folder / NAME
    write_bytes(path, json.dumps(content, indent=1).encode())
    return path


def _check_names(posed: PosedImages) -> None:
    # On Windows \ and : lead elsewhere, too.
    plain = all(name and PureWindowsPath(name).name == name for name in posed.names)
    if not plain or len(set(posed.names)) < len(posed) or len(posed.names) != len(posed):
        raise BadInput(
            "Each view needs a name of its own.", "Name views without slashes and colons."
        )


def _description(posed: PosedImages) -> dict[str, Any]:
    height, width = posed.images.shape[1:3]
    cameras = posed.intrinsics.astype(np.float64) + np.array([0, 0, 0.5, 0.5])
    frames: list[dict[str, Any]] = []
    for index, name in enumerate(posed.names):
        frame: dict[str, Any] = {"file_path": f"images/{name}.png"}
        if posed.depths is not None:
            frame["depth_file_path"] = f"depths/{name}.npy"
        frame |= dict(zip(("fl_x", "fl_y", "cx", "cy"), cameras[index].tolist(), strict=True))
        frame["transform_matrix"] = posed.poses[index].astype(np.float64).tolist()
        frames.append(frame)
    return {
        "camera_model": "PINHOLE",
        "w": width,
        "h": height,
        # Tools that know no focal lengths read this.
        "camera_angle_x": 2 * math.atan(width / 2 / float(cameras[0, 0])),
        "frames": frames,
    }
