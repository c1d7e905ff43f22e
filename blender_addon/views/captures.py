"""What was captured of cameras and their pictures -> tasks. No bpy; runs in a thread.

The task frame has world axes and the middle of the thing as its origin, so that a scene far from
its origin keeps its detail; results go back by `Placement.matrix_world`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...backend.errors import BadInput
from ...backend.protocol import ImageToViews, Task, TextToViews, ViewsToMesh, ViewsToScene
from ..compose import Choices, PictureCapture, Placement
from ..pictures import (
    LONGEST_PICTURE,
    ImageCapture,
    Part,
    gather,
    nothing_seen,
    small_image,
    straight,
)
from ..rasterizer import Picture, rasterize, shade

NEAREST, FARTHEST = 0.01, 1000.0  # of the clip of a projection, in the distance of the middle


def placement_at(middle: np.ndarray) -> Placement:
    matrix = np.eye(4)
    matrix[:3, 3] = middle
    return Placement(matrix)


def moved(poses: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Poses (V, 4, 4) of the world in the task frame, float32."""
    result = poses.copy()
    result[:, :3, 3] -= middle
    return result.astype(np.float32)


def projection_of(intrinsics: np.ndarray, size: tuple[int, int], distance: float) -> np.ndarray:
    """(4, 4) float64 of OpenGL: a camera with (4,) intrinsics of a picture of `size`; what is about
    `distance` away is well within its ends."""
    width, height = size
    fx, fy, cx, cy = intrinsics
    near, far = NEAREST * distance, FARTHEST * distance
    matrix = np.zeros((4, 4))
    matrix[0, 0], matrix[0, 2] = 2 * fx / width, 1 - (2 * cx + 1) / width
    matrix[1, 1], matrix[1, 2] = 2 * fy / height, (2 * cy + 1) / height - 1
    matrix[2, 2], matrix[2, 3] = (near + far) / (near - far), 2 * near * far / (near - far)
    matrix[3, 2] = -1
    return matrix


def of_field(field_of_view: float, side: int) -> np.ndarray:
    """(4,): intrinsics of a square picture, `field_of_view` in radians across."""
    focal = side / 2 / np.tan(field_of_view / 2)
    return np.array([focal, focal, (side - 1) / 2, (side - 1) / 2])


# ------------------------------------------------------------------------------------ views to come


@dataclass(frozen=True, eq=False)
class ObjectViews:
    """Objects as cameras see them. parts: their surfaces; poses: (K, 4, 4) world; intrinsics:
    (K, 4) of pictures of `side` x `side`; drawn: (K, side, side, 4) uint8 of a graphics card
    (`pictures.straight`), row 0 at the top, or None: by the processor; flat: without light."""

    parts: list[Part]
    poses: np.ndarray
    intrinsics: np.ndarray
    side: int
    drawn: np.ndarray | None = None
    flat: bool = False

    def seen(self, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(images (K, side, side, 4) uint8, depths (K, side, side) float32, 0 where nothing is).
        Raises BadInput where nothing is in any of the pictures."""
        soup = gather(self.parts)
        vertices = soup.vertices - middle
        views = np.linalg.inv(moved(self.poses, middle).astype(np.float64))
        images, depths = [], []
        size = (self.side, self.side)
        for view, intrinsics in zip(views, self.intrinsics, strict=True):
            projection = projection_of(intrinsics, size, float(np.linalg.norm(view[:3, 3])) or 1.0)
            picture = rasterize(vertices, soup.triangles, view, projection, size)
            depths.append(np.where(np.isfinite(picture.depth), picture.depth, 0))
            if self.drawn is None and self.flat:
                images.append(_flat(picture, soup.colors))
            elif self.drawn is None:
                images.append(shade(picture, vertices, soup.triangles, soup.colors, view))
        images = np.stack(images) if self.drawn is None else straight(self.drawn)
        if not images[..., 3].any():
            raise nothing_seen()
        return images, np.stack(depths).astype(np.float32)


def _flat(picture: Picture, colors: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8: the colours (T, 3) of the triangles themselves."""
    image = np.zeros((*picture.triangle.shape, 4), np.uint8)
    seen = picture.triangle >= 0
    image[seen, :3], image[seen, 3] = colors[picture.triangle[seen]], 255
    return image


@dataclass(frozen=True, eq=False)
class ViewsRequest(PictureCapture):
    """Views that are to be made. given: a picture, objects of which the first cameras are known, or
    pictures (K, H, W, 3 or 4) uint8; None: of the prompt alone. poses: (V, 4, 4) world, or None for
    a ring that `fields` describes; middle: (3,); extent: side of the cube around the thing;
    squared: the picture gets the shape of the first camera's, which is square."""

    name: str
    middle: np.ndarray
    extent: float
    given: ImageCapture | ObjectViews | np.ndarray | None = None
    poses: np.ndarray | None = None
    intrinsics: np.ndarray | None = None
    side: int = 0
    squared: bool = False
    prompt: str = ""
    background: str = "auto"
    fields: dict[str, Any] = field(default_factory=dict)

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        fields = dict(self.fields)
        if self.poses is not None:
            fields["poses"] = moved(self.poses, self.middle)
        if self.intrinsics is not None:
            fields["intrinsics"] = self.intrinsics.astype(np.float32)
        shared = {
            "name": self.name,
            "model": choices.model,
            "seed": choices.seed,
            "prompt": self.prompt,
            "extent": float(self.extent),
            **fields,
        }
        placement = placement_at(self.middle)
        if self.given is None:
            return TextToViews(**shared), placement
        images = self._images()
        return ImageToViews(images=images, background=self.background, **shared), placement

    def _images(self) -> np.ndarray:
        if isinstance(self.given, ObjectViews):
            return self.given.seen(self.middle)[0]
        if isinstance(self.given, ImageCapture):
            image = small_image(self.given)
            return (square(image, self.side) if self.squared else image)[None]
        return self.given


def square(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, C) uint8 -> (side, side, C): the whole picture, its margins go on to the border."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    inner = resized(image, max(1, round(height * scale)), max(1, round(width * scale)))
    down, right = side - inner.shape[0], side - inner.shape[1]
    around = ((down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0))
    return np.pad(inner, around, mode="edge")


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3 or 4) uint8 of another size: means over the areas of the new pixels, in which clear
    ones lend no colour."""
    if image.shape[:2] == (height, width):
        return image
    values = image.astype(np.float32)
    if image.shape[2] == 4:
        values[..., :3] *= values[..., 3:] / 255
    values = np.einsum("hH,HWc->hWc", _shares(image.shape[0], height), values, optimize=True)
    values = np.einsum("wW,hWc->hwc", _shares(image.shape[1], width), values, optimize=True)
    if image.shape[2] == 4:
        values[..., :3] *= 255 / np.maximum(values[..., 3:], 1e-3)
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _shares(old: int, new: int) -> np.ndarray:
    """(new, old) float32: how much each old pixel of a row adds to each new one. Towards larger
    pictures it is interpolation."""
    if new > old:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old))).astype(np.float32)
    edges = np.arange(new + 1) * old / new
    low, high = edges[:-1, None], edges[1:, None]
    overlap = np.minimum(high, np.arange(old) + 1) - np.maximum(low, np.arange(old))
    return (np.maximum(overlap, 0) * new / old).astype(np.float32)


# ---------------------------------------------------------------------------------- views to a mesh


@dataclass(frozen=True, eq=False)
class SeenPicture:
    """A picture and the camera it was taken with. pose: (4, 4) world; intrinsics: (4,) in pixels of
    the picture; depth: (h, w) float32 along the camera's axis in units of the world, 0 where there
    is nothing, row 0 at the top; None where it is not known."""

    picture: ImageCapture
    pose: np.ndarray
    intrinsics: np.ndarray
    depth: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class SceneRequest(PictureCapture):
    """A mesh of pictures with cameras. middle: (3,) what they look at; background: of the task;
    numbers: of the model's cameras that these are, for a shape by a model, with `cube`, (4, 4) from
    the model's cube to the world; depth_views: the pictures are depth, near is bright."""

    name: str
    views: list[SeenPicture]
    middle: np.ndarray
    background: str = "auto"
    numbers: tuple[int, ...] | None = None
    cube: np.ndarray | None = None
    depth_views: bool = False
    fields: dict[str, Any] = field(default_factory=dict)

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        images, intrinsics = stacked(
            [small_image(view.picture) for view in self.views], self._intrinsics()
        )
        shared = {"name": self.name, "model": choices.model, "seed": choices.seed}
        if self.numbers is not None and self.cube is not None:
            if self.depth_views:
                shown = {"depths": images[..., 0], "encoding": "near-bright"}
            else:
                texture = self.fields.get("texture", True)
                shown = {"images": images, "background": self.background, "texture": texture}
            task: Task = ViewsToMesh(**shared, cameras=self.numbers, **shown)
            return task, Placement(self.cube)
        poses = np.stack([view.pose for view in self.views])
        task = ViewsToScene(
            **shared,
            images=images,
            poses=moved(poses, self.middle),
            intrinsics=intrinsics.astype(np.float32),
            depths=self._depths(*images.shape[1:3]),
            background=self.background,
            **self.fields,
        )
        return task, placement_at(self.middle)

    def _depths(self, height: int, width: int) -> np.ndarray | None:
        """(V, height, width) float32 where some are known."""
        found = [view.depth for view in self.views if view.depth is not None]
        if not any(depth.any() for depth in found):
            return None
        result = np.zeros((len(self.views), height, width), np.float32)
        for index, view in enumerate(self.views):
            if view.depth is not None:
                result[index] = nearest(view.depth, height, width)
        return result

    def _intrinsics(self) -> np.ndarray:
        """(V, 4) of the reduced pictures."""
        found = []
        for view in self.views:
            height, width = view.picture.pixels.shape[:2]
            factor = max(1, -(-max(height, width) // LONGEST_PICTURE))
            # What the factor does not divide is left out at the top and on the right.
            lost = height - max(1, height // factor) * factor
            fx, fy, cx, cy = view.intrinsics
            middle = ((cx + 0.5) / factor - 0.5, (cy + 0.5 - lost) / factor - 0.5)
            found.append([fx / factor, fy / factor, *middle])
        return np.array(found)


def nearest(depth: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) of another size: between two depths lies nothing."""
    rows = (np.arange(height) + 0.5) * depth.shape[0] / height
    columns = (np.arange(width) + 0.5) * depth.shape[1] / width
    return depth[rows.astype(int)][:, columns.astype(int)]


def stacked(images: list[np.ndarray], intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((V, H, W, C) uint8, (V, 4)): pictures (h, w, 3 or 4) brought to the size of the largest,
    their intrinsics with them; with alpha where one of them has it."""
    height, width = max((image.shape[:2] for image in images), key=lambda size: size[0] * size[1])
    has_alpha = any(image.shape[2] == 4 for image in images)
    scales = np.array([[width / image.shape[1], height / image.shape[0]] for image in images])
    scales = np.tile(scales, 2)
    half = np.array([0, 0, 0.5, 0.5])
    same = [resized(_with_alpha(image) if has_alpha else image, height, width) for image in images]
    return np.stack(same), (intrinsics + half) * scales - half


def _with_alpha(image: np.ndarray) -> np.ndarray:
    if image.shape[2] == 4:
        return image
    return np.concatenate([image, np.full((*image.shape[:2], 1), 255, np.uint8)], axis=2)


@dataclass(frozen=True, eq=False)
class RebuildRequest(PictureCapture):
    """A mesh of what cameras see of objects, colours and depth."""

    name: str
    objects: ObjectViews
    middle: np.ndarray
    extent: float
    fields: dict[str, Any] = field(default_factory=dict)

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        images, depths = self.objects.seen(self.middle)
        if not (depths > 0).any():
            raise BadInput("None of the cameras sees the objects.", "Move the ring closer.")
        task = ViewsToScene(
            name=self.name,
            model=choices.model,
            seed=choices.seed,
            images=images,
            depths=depths,
            poses=moved(self.objects.poses, self.middle),
            intrinsics=self.objects.intrinsics.astype(np.float32),
            extent=float(self.extent),
            **self.fields,
        )
        return task, placement_at(self.middle)
