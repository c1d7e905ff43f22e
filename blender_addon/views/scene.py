"""Views -> cameras with background images in the Blender file. Main thread only.

What is made here is one undo step: `jobs` leaves it once all is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import bpy
import numpy as np
from mathutils import Matrix

from ..importing import Destination, home_of, select_only, view_layer_of
from ..panorama.images import image_from
from .arrival import ViewsArrival
from .cameras import frame_of, frustum_of, in_order, show_behind
from .clip import add_clip, show_new_pictures

if TYPE_CHECKING:
    from ..history import Job

CAMERA_SIZE = 0.08  # as it is drawn, of its distance to the middle
LONG_LENS = 500.0  # millimetres; cameras that stand in for ones without perspective have 3000
RIG_SIZE = 0.15  # as it is drawn, of the cube around the thing


@dataclass(frozen=True, eq=False)
class Made:
    """How views were made."""

    job_id: str
    kind: str
    model: str
    seed: int
    steps: int | None
    guidance: float | None


def making_of(job: Job) -> Made:
    return Made(job.job_id, job.kind, job.model, job.seed, job.steps, job.guidance)


def add(
    arrived: ViewsArrival, destination: Destination, matrix_world: np.ndarray, made: Made
) -> list[bpy.types.ID]:
    """Put views into the file; what they are known by first. matrix_world: (4, 4), from the frame
    of their poses to the world."""
    replaced = _replaced(destination)
    if replaced is not None:
        return renew(arrived, replaced, destination, made)
    if "carrier" in destination.views:  # they were deleted meanwhile, and what carried them, too
        matrix_world = np.array(destination.views["carrier"], np.float64)
    return add_views(arrived, destination, matrix_world, made)


def add_views(
    arrived: ViewsArrival, destination: Destination, matrix_world: np.ndarray, made: Made
) -> list[bpy.types.ID]:
    """A collection with a camera for each view, all carried by an empty in the middle."""
    name, options = destination.name, destination.views
    scene, parent = home_of(destination)
    collection = bpy.data.collections.new(name)
    parent.children.link(collection)
    rig = bpy.data.objects.new(name, None)
    rig.empty_display_size = RIG_SIZE * options.get("extent", 2.0)
    rig.matrix_world = Matrix(matrix_world.tolist())
    collection.objects.link(rig)
    digits = len(str(len(arrived.textures)))
    cameras = []
    for index in range(len(arrived.textures)):
        camera = _camera(arrived, index, f"{name} {index + 1:0{digits}}", scene)
        camera.parent = rig
        collection.objects.link(camera)
        cameras.append(camera)
    _keep(collection, rig, arrived, options, made)
    add_clip(scene, collection, cameras, rig, arrived, options)
    if scene.camera is None:
        scene.camera = cameras[0]
    select_only(view_layer_of(scene), cameras[0])
    return [collection, rig, *cameras]


def _camera(
    arrived: ViewsArrival, index: int, name: str, scene: bpy.types.Scene
) -> bpy.types.Object:
    data = bpy.data.cameras.new(name)
    place = frustum_of(data, arrived.intrinsics[index], arrived.size, frame_of(scene))
    show_behind(data, image_from(arrived.textures[index], name), place)
    pose = arrived.poses[index]
    distance = float(np.linalg.norm(pose[:3, 3]))
    # Of a long lens less: it is drawn as deep as it is long.
    data.display_size = CAMERA_SIZE * distance * min(1.0, LONG_LENS / data.lens) or 1.0
    data.clip_end = max(data.clip_end, 2 * distance)
    data.clip_start = min(data.clip_start, 0.01 * distance) or data.clip_start
    camera = bpy.data.objects.new(name, data)
    camera.matrix_basis = Matrix(pose.tolist())
    camera.fieldforge_view.number = index + 1
    camera.fieldforge_view.given = index < arrived.given
    _keep_depth(camera, arrived, index)
    return camera


def _keep_depth(camera: bpy.types.Object, arrived: ViewsArrival, index: int) -> None:
    view = camera.fieldforge_view
    old, view.depth = view.depth, None
    if old is not None and old.users == 0:
        bpy.data.images.remove(old)
    if arrived.depths:
        view.depth = image_from(arrived.depths[index], f"{camera.name} depth")


def _keep(collection, rig, arrived: ViewsArrival, options: dict, made: Made) -> None:
    """Write down how the views were made."""
    kept = collection.fieldforge_views
    kept.job_id, kept.kind = made.job_id, made.kind
    _keep_sampling(kept, arrived.report, made)
    kept.prompt = options.get("prompt", "")
    kept.view_kind, kept.size = arrived.view_kind, arrived.size[0]
    kept.extent = options.get("extent", 2.0)
    kept.one_by_one = options.get("path", False)
    kept.rig = rig


def _keep_sampling(kept, told: dict, made: Made) -> None:
    """told: by the backend, of what it chose by itself."""
    kept.model, kept.seed = str(told.get("model") or made.model), made.seed
    kept.steps = told.get("steps", made.steps) or 0
    guidance = told.get("guidance", made.guidance)
    kept.guidance = -1.0 if guidance is None else guidance


def _replaced(destination: Destination) -> bpy.types.Collection | None:
    """The collection whose views were made anew, while it is there; it may be called otherwise by
    now. Numbers are those of one session, so the name goes first."""
    named = bpy.data.collections.get(destination.views.get("into") or "")
    if named is not None and named.fieldforge_views.kind:
        return named
    uid = destination.views.get("into_uid", 0)
    of_views = (each for each in bpy.data.collections if each.fieldforge_views.kind)
    return next((each for each in of_views if uid and each.session_uid == uid), None)


def renew(
    arrived: ViewsArrival, collection: bpy.types.Collection, destination: Destination, made: Made
) -> list[bpy.types.ID]:
    """Give the cameras of a collection that were made anew their new pictures. The views came in
    the order that `destination.views["numbers"]` names."""
    scene, _ = home_of(destination)
    cameras = {item.fieldforge_view.number: item for item in in_order(collection.objects)}
    numbers = destination.views.get("numbers") or list(range(1, len(arrived.textures) + 1))
    renewed = {}
    for index, number in enumerate(numbers[: len(arrived.textures)]):
        camera = cameras.get(number)
        if camera is None or index < arrived.given:
            continue
        old = camera.data.background_images[0].image if camera.data.background_images else None
        place = frustum_of(camera.data, arrived.intrinsics[index], arrived.size, frame_of(scene))
        image = image_from(arrived.textures[index], camera.name)
        show_behind(camera.data, image, place)
        if old is not None and old.users == 0:
            bpy.data.images.remove(old)
            image.name = camera.name
        _keep_depth(camera, arrived, index)
        renewed[number] = arrived.textures[index]
    kept = collection.fieldforge_views
    if not destination.views.get("numbers"):
        kept.job_id = made.job_id  # all of them: this is the task that repeats them
    _keep_sampling(kept, arrived.report, made)
    show_new_pictures(collection, renewed)
    return [collection, *(cameras[number] for number in renewed)]
