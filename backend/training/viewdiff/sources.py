"""What a training draws from: scenes of posed pictures, rendered by us or taken by others.

However a scene was stored, here its world has z up, the thing in the middle, and about in the cube
[-1, 1]^3.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ...conditions import picture_files
from ...errors import BadInput
from ...geometry import mesh_files
from ...posed_images import (
    NAME,
    PosedImages,
    read_transforms,
    reduced_picture,
    scaled_intrinsics,
)


class Source(Protocol):
    """Scenes by number. size: pixels along a side of all pictures, which are square."""

    size: int

    def __len__(self) -> int: ...

    @property
    def has_depth(self) -> bool:
        """Whether all of them have depth."""

    def views(self, number: int) -> int:
        """How many a scene has."""

    def poses(self, number: int) -> np.ndarray:
        """All its cameras, (V, 4, 4) float32, as in PosedImages."""

    def caption(self, number: int) -> str:
        """What it shows, or "" where nobody said."""

    def scene(self, number: int, views: Sequence[int] | None = None) -> PosedImages:
        """Those views of it, in that order; all, where none are named."""


# ------------------------------------------------------------------------------- transforms.json


class Folders:
    """Scenes in folders with a transforms.json each, as NeRF tools write them.

    They are read whole at first use, squared and reduced to `size`; a few stay in memory. The
    middle of the world is where the cameras look, its unit what they frame.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        self.folders = sorted(path.parent for path in folder.rglob(NAME))
        if not self.folders:
            raise BadInput(
                f"{folder} has no {NAME}, nor has any folder in it.",
                "Choose a folder of scenes as NeRF tools write them.",
            )
        self._read = lru_cache(maxsize=64)(self._scene)
        self._depth = self._read(0).depths is not None

    def __len__(self) -> int:
        return len(self.folders)

    @property
    def has_depth(self) -> bool:
        return self._depth

    def views(self, number: int) -> int:
        return len(self._read(number))

    def poses(self, number: int) -> np.ndarray:
        return self._read(number).poses

    def caption(self, number: int) -> str:
        return self.folders[number].name.replace("_", " ")

    def scene(self, number: int, views: Sequence[int] | None = None) -> PosedImages:
        return selected(self._read(number), views)

    def _scene(self, number: int) -> PosedImages:
        posed = read_transforms(self.folders[number])
        return squared(centred_on_sight(posed), self.size)


def selected(posed: PosedImages, views: Sequence[int] | None) -> PosedImages:
    """Those views only."""
    if views is None:
        return posed
    chosen = list(views)
    return PosedImages(
        posed.images[chosen],
        posed.poses[chosen],
        posed.intrinsics[chosen],
        tuple(posed.names[view] for view in chosen),
        None if posed.depths is None else posed.depths[chosen],
    )


def squared(posed: PosedImages, size: int) -> PosedImages:
    """The middle squares of the pictures, size x size."""
    height, width = posed.images.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = posed.images[:, top : top + side, left : left + side]
    lens = posed.intrinsics - np.array([0, 0, left, top], np.float32)
    images = np.stack([reduced_picture(picture, size, size) for picture in cut])
    depths = posed.depths
    if depths is not None:
        places = ((np.arange(size) + 0.5) * side / size).astype(int)
        depths = depths[:, top + places][:, :, left + places]
    scaled = scaled_intrinsics(lens, size / side, size / side)
    return PosedImages(images, posed.poses, scaled, posed.names, depths)


def centred_on_sight(posed: PosedImages) -> PosedImages:
    """The world moved so that the place all cameras look at is its middle, and scaled so that what
    they show around there, on the average, is as wide as the cube [-1, 1]^3 turned anyhow.

    Raises BadInput for cameras that look at no place in common.
    """
    places = posed.poses[:, :3, 3].astype(np.float64)
    ahead = -posed.poses[:, :3, 2].astype(np.float64)
    # The place nearest to all lines of sight.
    across = np.eye(3) - ahead[:, :, None] * ahead[:, None, :]
    total = across.sum(axis=0)
    if np.linalg.cond(total) > 1e6:
        raise BadInput(
            "The cameras of a scene look at no place in common.",
            "Use scenes whose cameras stand around one thing.",
        )
    middle = np.linalg.solve(total, (across @ places[:, :, None]).sum(axis=0)[:, 0])
    depth = ((middle - places) * ahead).sum(axis=1)
    if np.median(depth) <= 0:
        raise BadInput(
            "The cameras of a scene look away from each other.",
            "If its file is of cameras that look along +z, turn their second and third axes over.",
        )
    width = posed.images.shape[2]
    half = np.median(depth * (width / 2) / posed.intrinsics[:, 0])
    return moved(posed, middle, math.sqrt(2) / float(half))


def moved(
    posed: PosedImages, middle: np.ndarray, scale: float, turn: np.ndarray | None = None
) -> PosedImages:
    """World points x become scale * turn @ (x - middle); depths are scaled, too."""
    poses = moved_poses(posed.poses, middle, scale, np.eye(3) if turn is None else turn)
    depths = None if posed.depths is None else (posed.depths * scale).astype(np.float32)
    return PosedImages(posed.images, poses, posed.intrinsics, posed.names, depths)


def moved_poses(
    poses: np.ndarray, middle: np.ndarray, scale: float, turn: np.ndarray
) -> np.ndarray:
    """As `moved` does; (V, 4, 4) float32."""
    made = poses.astype(np.float64)
    made[:, :3, 3] = scale * (made[:, :3, 3] - middle) @ turn.T
    made[:, :3, :3] = turn @ made[:, :3, :3]
    return made.astype(np.float32)


# ------------------------------------------------------------------------------------------- CO3D


class Co3d:
    """Sequences of one category in the layout of Common Objects in 3D.

    FOLDER/CATEGORY/frame_annotations.jgz and sequence_annotations.jgz, pictures and masks where
    these say. The world is turned so that the plane of the cameras is level, the cloud of the
    thing's points is in the middle, and its longest side is 2. Masks become alpha where `cut_out`.
    """

    def __init__(self, folder: Path, category: str, size: int, cut_out: bool = True) -> None:
        self.folder, self.size, self.cut_out = folder, size, cut_out
        self.category = category
        frames = _annotations(folder / category / "frame_annotations.jgz")
        self._clouds = {
            entry["sequence_name"]: entry["point_cloud"]["path"]
            for entry in _annotations(folder / category / "sequence_annotations.jgz")
            if entry.get("point_cloud")
        }
        self._frames: dict[str, list[dict[str, Any]]] = {}
        for frame in sorted(frames, key=lambda frame: frame["frame_number"]):
            if frame["sequence_name"] in self._clouds:
                self._frames.setdefault(frame["sequence_name"], []).append(frame)
        self.names = sorted(self._frames)
        if not self.names:
            raise BadInput(
                f"{folder / category} has no sequences with a point cloud.",
                "Download the category with its point clouds.",
            )
        self._placed = lru_cache(maxsize=4096)(self._placement)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_depth(self) -> bool:
        return False

    def views(self, number: int) -> int:
        return len(self._frames[self.names[number]])

    def poses(self, number: int) -> np.ndarray:
        middle, scale, turn = self._placed(number)
        return moved_poses(self._stored_poses(number), middle, scale, turn)

    def _stored_poses(self, number: int) -> np.ndarray:
        frames = self._frames[self.names[number]]
        return np.stack([pose_of_pytorch3d(frame["viewpoint"]) for frame in frames])

    def caption(self, number: int) -> str:
        return f"a {self.category}"

    def scene(self, number: int, views: Sequence[int] | None = None) -> PosedImages:
        frames = self._frames[self.names[number]]
        chosen = list(range(len(frames)) if views is None else views)
        found = [self._view(frames[view]) for view in chosen]
        posed = PosedImages(
            np.concatenate([view.images for view in found]),
            np.concatenate([view.poses for view in found]),
            np.concatenate([view.intrinsics for view in found]),
            tuple(f"{view:05d}" for view in chosen),
        )
        return moved(posed, *self._placed(number))

    def _view(self, frame: dict[str, Any]) -> PosedImages:
        """One frame, its world as it is stored."""
        picture = picture_files.read_image(self.folder / frame["image"]["path"])[..., :3]
        if self.cut_out and frame.get("mask"):
            with Image.open(self.folder / frame["mask"]["path"]) as image:
                mask = np.asarray(image.convert("L").resize(picture.shape[1::-1]))
            picture = np.concatenate([picture, mask[..., None]], axis=-1)
        height, width = picture.shape[:2]
        posed = PosedImages(
            picture[None],
            pose_of_pytorch3d(frame["viewpoint"])[None],
            lens_of_pytorch3d(frame["viewpoint"], width, height)[None],
            ("",),
        )
        return squared(posed, self.size)

    def _placement(self, number: int) -> tuple[np.ndarray, float, np.ndarray]:
        """Middle, scale and turn of a sequence, for `moved`."""
        name = self.names[number]
        poses = self._stored_poses(number)
        places = poses[:, :3, 3].astype(np.float64)
        _, _, axes = np.linalg.svd(places - places.mean(axis=0))
        up = axes[2]
        # Of the two sides of the plane that one is up which pictures have on top.
        up = up if (poses[:, :3, 1] @ up).mean() >= 0 else -up
        right = axes[0]
        turn = np.stack([right, np.cross(up, right), up])
        cloud = mesh_files.read_points(self.folder / self._clouds[name]).points @ turn.T
        low, high = cloud.min(axis=0), cloud.max(axis=0)
        middle = (low + high) / 2 @ turn
        return middle, float(2 / max((high - low).max(), 1e-9)), turn


def _annotations(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(
            f"{path} cannot be read ({error}).",
            "Give the folder of the data set, with the categories in it.",
        ) from None
    if not isinstance(content, list):
        raise BadInput(f"{path} is no list of annotations.", "Download it again.")
    return content


def pose_of_pytorch3d(viewpoint: dict[str, Any]) -> np.ndarray:
    """(4, 4) float32, camera to world, Blender's axes. PyTorch3D's are x left, y up, z ahead, and
    its rows are x R + T."""
    rotation = np.array(viewpoint["R"], np.float64)
    pose = np.eye(4)
    pose[:3, :3] = rotation * [-1, 1, -1]
    pose[:3, 3] = -rotation @ np.array(viewpoint["T"], np.float64)
    return pose.astype(np.float32)


def lens_of_pytorch3d(viewpoint: dict[str, Any], width: int, height: int) -> np.ndarray:
    """(4,) float32 pixels. Its principal point is from the middle, to the left and up."""
    kind = viewpoint.get("intrinsics_format", "ndc_norm_image_bounds")
    if kind == "ndc_norm_image_bounds":
        half = np.array([width, height]) / 2
    elif kind == "ndc_isotropic":
        half = np.full(2, min(width, height) / 2)
    else:
        raise BadInput(f"A camera has intrinsics of the kind {kind!r}.", "Use those of CO3D.")
    focal = np.array(viewpoint["focal_length"]) * half
    centre = np.array([width, height]) / 2 - np.array(viewpoint["principal_point"]) * half - 0.5
    return np.concatenate([focal, centre]).astype(np.float32)
