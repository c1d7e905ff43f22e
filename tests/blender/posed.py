"""Views for the tests: pictures whose colours name their number and their seed, and meshes of views
whose texture does."""

from __future__ import annotations

import numpy as np
from fieldforge.backend import protocol
from fieldforge.backend.protocol import (
    ImageToViews,
    MeshResult,
    TextToViews,
    ViewsResult,
    ViewsToScene,
    ring_poses,
)

SIDE = 32
RING = {"elevation": 20.0, "radius": 4.0, "field": 40.0}  # of the model, in a cube of side 2
CAMERAS = {"id": "turner", "title": "Turner", "samples": True, "ready": True, "ring": RING}
MODELS = [
    CAMERAS | {"tasks": ["image-to-views", "text-to-views"], "steps": 10, "guidance": 7.5},
    {
        "id": "fusion",
        "title": "Fusion",
        "tasks": ["views-to-scene"],
        "samples": False,
        "ready": True,
    },
]


def result_of(task: protocol.Task) -> protocol.Result | None:
    match task:
        case ImageToViews():
            return _views(task, len(task.images), task.images)
        case TextToViews():
            return _views(task, 0, None)
        case ViewsToScene():
            return scene_of(task)
    return None


def picture(number: int, seed: int, side: int = SIDE) -> np.ndarray:
    """(side, side, 3) uint8: red is the number, green the seed; a white pixel in a corner."""
    image = np.zeros((side, side, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 10 + number, seed % 200, 60
    image[1, 2] = 255
    return image


def _views(task, given: int, images) -> ViewsResult:
    side = task.size or SIDE
    poses = task.poses
    if poses is None:
        poses = ring_poses(
            task.views, RING["elevation"], RING["radius"], task.start, caps=task.caps
        )
        poses[:, :3, 3] = poses[:, :3, 3] * task.extent / 2 + task.center
    count = len(poses)
    pictures = np.stack([picture(number, task.seed, side) for number in range(1, count + 1)])
    field = np.radians(task.field or RING["field"])
    focal = side / 2 / np.tan(field / 2)
    intrinsics = np.tile([focal, focal, (side - 1) / 2, (side - 1) / 2], (count, 1))
    if task.intrinsics is not None:
        scale = side / (task.size if images is None else images.shape[2])
        half = np.array([0, 0, 0.5, 0.5])
        intrinsics = (task.intrinsics + half) * scale - half
    for index in range(given):
        pictures[index] = images[index][0, 0, :3]
    return ViewsResult(
        name=task.name,
        images=pictures,
        poses=np.asarray(poses, np.float32),
        intrinsics=intrinsics.astype(np.float32),
        given=given,
        report={"model": "turner", "steps": task.steps or 10, "guidance": task.guidance or 7.5},
    )


CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32) / 4
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)


def scene_of(task: ViewsToScene) -> MeshResult:
    """A tetrahedron at the origin of the task's frame; each corner of a face has a place of its own
    in a texture of 4 x 4 pixels."""
    count = 3 * len(FACES)
    uv = np.stack([(np.arange(count) + 0.5) / count, np.linspace(0.1, 0.9, count)], axis=1)
    texture = (np.arange(4 * 4 * 3) * 5).astype(np.uint8).reshape(4, 4, 3)
    return MeshResult(
        name=task.name,
        vertices=CORNERS,
        faces=FACES,
        colors=np.full((4, 4), 200, np.uint8),
        uv=uv.astype(np.float32) if task.texture else None,
        texture=texture if task.texture else None,
        report={"warnings": ["View 2 shows nothing and was left out."]},
    )
