"""Views along the timeline: markers, an image sequence, a moving camera. Main thread only."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from ..keyframes import curves_of, fill, new_curves
from ..panorama.textures import Texture
from .arrival import ViewsArrival, file_name, new_folder
from .cameras import frame_of, frustum_of, show_behind
from .lenses import Backdrop, lens_of
from .paths import between

ROUND_TRIP = 1.6  # of the usual step from view to view: up to here the last leads to the first
LENS_CHANNELS = {  # of Blender's cameras, as `Lens` names them
    "lens": "focal",
    "sensor_width": "sensor_width",
    "sensor_height": "sensor_height",
    "shift_x": "shift_x",
    "shift_y": "shift_y",
}
SAME_LENS = 1e-5  # what lenses may differ by and still be one


def add_clip(
    scene: bpy.types.Scene,
    collection: bpy.types.Collection,
    cameras: list[bpy.types.Object],
    rig: bpy.types.Object,
    arrived: ViewsArrival,
    options: dict,
) -> None:
    """What `Destination.views` asks for of the image sequence and the turntable."""
    sequence = None
    if arrived.folder is not None:
        sequence = image_sequence(arrived.folder, f"{collection.name} sequence", len(cameras))
        collection.fieldforge_views.sequence = sequence
    if not options.get("clip"):
        return
    hold = max(1, int(options.get("hold", 1)))
    begin = bind_markers(scene, cameras, hold)
    moving = moving_camera(scene, arrived, hold, begin, f"{collection.name} turntable")
    moving.parent = rig
    collection.objects.link(moving)
    _change_lenses(moving.data, scene, arrived, hold, begin)
    if sequence is not None:
        place = frustum_of(moving.data, arrived.intrinsics[0], arrived.size, frame_of(scene))
        background = show_behind(moving.data, sequence, place)
        _flip(background, moving.data, len(cameras), hold, begin)


def image_sequence(folder: Path, name: str, count: int) -> bpy.types.Image:
    """An image of the numbered files of a folder: frame k of it shows view k."""
    first = folder / file_name(1)
    image = bpy.data.images.load(str(first), check_existing=False)
    image.name, image.source = name, "SEQUENCE"
    if bpy.data.filepath:
        image.filepath = bpy.path.relpath(str(first))
    image.use_fake_user = True
    return image


def bind_markers(scene: bpy.types.Scene, cameras: list[bpy.types.Object], hold: int) -> int:
    """Have the timeline switch from camera to camera, after what it does already; the first frame.
    Where somebody films something else, it is after the last frame of that, whose camera stays.

    Playing then goes around the views alone: the range of the preview is set, not that of renders.
    """
    begin = max(scene.frame_start, _end_of_markers(scene))
    if _is_filmed(scene):
        begin = max(begin, scene.frame_end + 1)
    for index, camera in enumerate(cameras):
        marker = scene.timeline_markers.new(camera.name, frame=begin + index * hold)
        marker.camera = camera
    scene.use_preview_range = True
    scene.frame_preview_start = begin
    scene.frame_preview_end = begin + len(cameras) * hold - 1
    return begin


def _is_filmed(scene: bpy.types.Scene) -> bool:
    """Whether something moves, or other cameras than views are switched to."""
    cameras = [marker.camera for marker in scene.timeline_markers if marker.camera is not None]
    if any(not camera.fieldforge_view.number for camera in cameras):
        return True
    moved = (item for item in scene.objects if item.animation_data and item.animation_data.action)
    return any(not _of_views(item) for item in moved)


def _of_views(item: bpy.types.Object) -> bool:
    return any(each.fieldforge_views.kind for each in item.users_collection)


def _end_of_markers(scene: bpy.types.Scene) -> int:
    """The frame after the last camera that the timeline switches to; it stays as long as the one
    before did."""
    frames = sorted(marker.frame for marker in scene.timeline_markers if marker.camera is not None)
    if not frames:
        return scene.frame_start
    return frames[-1] + (max(1, frames[-1] - frames[-2]) if len(frames) > 1 else 1)


def moving_camera(
    scene: bpy.types.Scene, arrived: ViewsArrival, hold: int, begin: int, name: str
) -> bpy.types.Object:
    """A camera with a key in every frame, from view to view."""
    data = bpy.data.cameras.new(name)
    frustum_of(data, arrived.intrinsics[0], arrived.size, frame_of(scene))
    data.clip_start = min(data.clip_start, 0.01 * float(np.linalg.norm(arrived.poses[0][:3, 3])))
    camera = bpy.data.objects.new(name, data)
    camera.rotation_mode = "QUATERNION"
    poses = between(arrived.poses, hold, closed=is_round(arrived.poses))
    values = np.zeros((7, len(poses)))
    last = None
    for index, pose in enumerate(poses):
        turn = Matrix(pose[:3, :3].tolist()).to_quaternion()
        if last is not None and turn.dot(last) < 0:
            turn.negate()
        last = turn
        values[:, index] = [*pose[:3, 3], *turn]
    frames = begin + np.arange(len(poses))
    camera.matrix_basis = Matrix(poses[0].tolist())
    curves = new_curves(camera, name)
    for (path, index), column in zip(_channels(), values, strict=True):
        fill(curves.new(path, index=index), frames, column, "LINEAR")
    return camera


def _change_lenses(
    data: bpy.types.Camera, scene: bpy.types.Scene, arrived: ViewsArrival, hold: int, begin: int
) -> None:
    """Where the views have lenses of their own, switch to each with its picture: between two of
    them the picture is still the one of the earlier."""
    backdrop, frame = Backdrop(*arrived.size), frame_of(scene)
    lenses = [lens_of(intrinsics, backdrop, frame)[0] for intrinsics in arrived.intrinsics]
    frames = begin + hold * np.arange(len(lenses))
    for path, name in LENS_CHANNELS.items():
        values = np.array([getattr(lens, name) for lens in lenses])
        if np.ptp(values) > SAME_LENS * max(1.0, np.abs(values).max()):
            fill(curves_of(data, data.name).new(path), frames, values, "CONSTANT")


def is_round(poses: np.ndarray) -> bool:
    """Whether the last camera is about as far from the first as each is from the next."""
    steps = np.linalg.norm(np.roll(poses, -1, axis=0)[:, :3, 3] - poses[:, :3, 3], axis=1)
    return len(poses) > 2 and bool(steps[-1] <= ROUND_TRIP * np.median(steps[:-1]))


def _channels():
    return [
        *(("location", index) for index in range(3)),
        *(("rotation_quaternion", index) for index in range(4)),
    ]


def _flip(background, data: bpy.types.Camera, count: int, hold: int, begin: int) -> None:
    """Show the next file of the sequence when the next view begins: its files go on by one in each
    frame, so that the offset has to hold them back. Out of its duration nothing is shown."""
    steps = np.arange(count * hold)
    user = background.image_user
    user.frame_duration, user.frame_start, user.use_auto_refresh = len(steps), begin, True
    curve = curves_of(data, data.name).new("background_images[0].image_user.frame_offset")
    fill(curve, begin + steps, steps // hold - steps, "CONSTANT")


def show_new_pictures(collection: bpy.types.Collection, renewed: dict[int, Texture]) -> None:
    """Have the sequence show pictures that were made anew, by number. It gets a folder of its own,
    so that undo brings the earlier ones back."""
    sequence = collection.fieldforge_views.sequence
    files = sequence_files(sequence) if sequence is not None else []
    if not files:
        return
    folder = new_folder(files[0].parent.parent, files[0].parent.name)
    for number, file in enumerate(files, 1):
        if number in renewed:
            (folder / file.name).write_bytes(renewed[number].data)
        else:
            shutil.copyfile(file, folder / file.name)
    path = str(folder / files[0].name)
    sequence.filepath = bpy.path.relpath(path) if bpy.data.filepath else path


def sequence_files(image: bpy.types.Image) -> list[Path]:
    """The files of an image sequence that are there, in order."""
    first = Path(bpy.path.abspath(image.filepath))
    files = (first.parent / file_name(number) for number in itertools.count(1))
    return list(itertools.takewhile(Path.exists, files))
