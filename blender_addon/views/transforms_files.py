"""Operators: cameras and their pictures from a transforms.json, and into one. Main thread."""

from __future__ import annotations

import io
import os
from pathlib import Path

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, StringProperty
from mathutils import Matrix

from ...backend.errors import BadInput, FieldforgeError, StorageFailed
from .. import session
from ..importing import select_only
from ..panorama.images import image_from
from ..panorama.textures import png, texture_of
from . import transforms
from .cameras import View, frame_of, frustum_of, lens_of_camera, pose_of, show_behind, view_of
from .captures import nearest
from .lenses import intrinsics_of, intrinsics_of_backdrop
from .paths import focus
from .picture_files import depth_of, eight_bits, masked, opened
from .planning import exported_cameras
from .scene import CAMERA_SIZE
from .source import depth_of_camera

FORMAT = "transforms.json"


class _FileOperator:
    """An operator that asks for a file."""

    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_glob: StringProperty(default="*.json", options={"HIDDEN"})

    def execute(self, context):
        try:
            self.act(context, Path(bpy.path.abspath(self.filepath)))
        except FieldforgeError as error:
            session.jobs().tell(self.failure, error)
            self.report({"WARNING"}, error.cause)
            return {"CANCELLED"}
        return {"FINISHED"}


class FIELDFORGE_OT_import_transforms(_FileOperator, bpy.types.Operator):
    """Cameras with their pictures from a transforms.json, as NeRF tools write it"""

    bl_idname = "fieldforge.import_transforms"
    bl_label = "Import transforms.json"
    bl_options = {"REGISTER", "UNDO"}
    failure = "The cameras were not imported"

    axes: EnumProperty(
        name="Camera Axes",
        description="Which way the cameras of the file look",
        items=[
            ("BLENDER", "Blender", "x right, y up, looking along -z: Blender, NeRF, nerfstudio"),
            ("OPENCV", "OpenCV", "x right, y down, looking along z: OpenCV, COLMAP"),
        ],
    )
    pack: BoolProperty(name="Pack", description="Keep the pictures in the Blender file")

    def invoke(self, context, event):
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def act(self, context, path: Path) -> None:
        files = transforms.read(path, self.axes)
        folder = path if path.is_dir() else path.parent
        collection = add_cameras(context, files, folder.name or FORMAT, self.pack)
        context.scene.fieldforge.cameras_of = collection


def add_cameras(
    context, files: list[transforms.PosedFile], name: str, pack: bool
) -> bpy.types.Collection:
    """A collection with a camera for each picture. Raises BadInput, and then nothing is left."""
    collection = bpy.data.collections.new(name)
    middle = focus(np.stack([file.pose for file in files]))
    made: list[bpy.types.ID] = [collection]
    try:
        for number, file in enumerate(files, 1):
            camera = _camera(context, file, middle, made)
            _add_depth(camera, file, made)
            camera.fieldforge_view.number, camera.fieldforge_view.given = number, True
            collection.objects.link(camera)
            if pack:
                camera.data.background_images[0].image.pack()
    except BadInput:
        bpy.data.batch_remove(made)
        raise
    collection.fieldforge_views.kind = FORMAT
    context.collection.children.link(collection)
    select_only(context.view_layer, collection.objects[0])
    return collection


def _camera(
    context, file: transforms.PosedFile, middle: np.ndarray, made: list[bpy.types.ID]
) -> bpy.types.Object:
    name = file.path.stem
    data = bpy.data.cameras.new(name)
    camera = bpy.data.objects.new(name, data)
    made += [data, camera]
    image = opened(file.path)
    made.append(image)
    if file.mask is not None:
        whole, image = image, masked(image, file)
        made[-1] = image
        bpy.data.images.remove(whole)
        image.name = file.path.name
    width, height = image.size
    intrinsics = file.intrinsics(width, height)
    place = frustum_of(data, intrinsics, (width, height), frame_of(context.scene))
    show_behind(data, image, place)
    distance = float(np.linalg.norm(file.pose[:3, 3] - middle))
    data.display_size = CAMERA_SIZE * distance or 1.0
    camera.matrix_world = Matrix(file.pose.tolist())
    return camera


def _add_depth(
    camera: bpy.types.Object, file: transforms.PosedFile, made: list[bpy.types.ID]
) -> None:
    if file.depth is None:
        return
    depth = depth_of(file, *camera.data.background_images[0].image.size)
    image = image_from(texture_of(depth), f"{camera.name} depth")
    made.append(image)
    camera.fieldforge_view.depth = image


class FIELDFORGE_OT_export_transforms(_FileOperator, bpy.types.Operator):
    """Write the chosen cameras, and their background images, as a transforms.json for NeRF and
    Gaussian splatting tools"""

    bl_idname = "fieldforge.export_transforms"
    bl_label = "Export transforms.json"
    failure = "The cameras were not written"

    check_existing: BoolProperty(
        name="Check Existing",
        description="Ask before a file is overwritten",
        default=True,
        options={"HIDDEN", "SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, context) -> bool:
        if not exported_cameras(context):
            cls.poll_message_set("Select cameras, or a view")
            return False
        return True

    def invoke(self, context, event):
        self.filepath = FORMAT
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def check(self, context) -> bool:
        """Name the file as it will be: the browser looks whether it is there."""
        named = self.filepath
        if Path(named).name and not Path(named).is_dir():
            self.filepath = bpy.path.ensure_ext(named, ".json")
        return self.filepath != named

    def act(self, context, path: Path) -> None:
        if path.is_dir():
            path = path / FORMAT
        elif path.suffix.lower() != ".json":
            path = path.with_name(f"{path.name}.json")
        write_cameras(context, exported_cameras(context), path)


def write_cameras(context, cameras: list[bpy.types.Object], path: Path) -> None:
    """A picture each in the folder images beside `path`, and its depth, where it is known, in the
    folder depths. A camera without a picture is written as the scene would render it, which is to
    be saved there. Raises FieldforgeError."""
    frame = frame_of(context.scene)
    names, names_of_depths = _Names(path, "images"), _Names(path, "depths")
    files, intrinsics, sizes, depths = [], [], [], []
    for camera in cameras:
        lens, view = lens_of_camera(camera), view_of(camera)
        if view is None:
            files.append(names.new(camera.name, ".png"))
            intrinsics.append(intrinsics_of(lens, frame))
            sizes.append((frame.width, frame.height))
            depths.append("")
        else:
            files.append(_saved(view, names))
            intrinsics.append(intrinsics_of_backdrop(lens, frame, view.place))
            sizes.append((view.place.width, view.place.height))
            depths.append(_saved_depth(view, names_of_depths))
    poses = np.stack([pose_of(camera) for camera in cameras])
    transforms.write(path, files, poses, np.stack(intrinsics), sizes, depths)


class _Names:
    """Of files in a folder beside a transforms.json: each is given once, whatever the case of its
    letters, and none that a file has which the Blender file or another list of cameras needs."""

    def __init__(self, path: Path, folder: str) -> None:
        self._parent, self._folder = path.parent, folder
        shown = {_place(_file_of(image)) for image in bpy.data.images if image.filepath}
        self._replaceable = {_place(file) for file in transforms.named_files(path)} - shown
        self._given: set[str] = set()

    def new(self, camera: str, suffix: str, data: bytes | None = None) -> str:
        """Relative to the file. data: what is going to be in it; the same may be there already.
        Raises OSError."""
        stem, number = bpy.path.clean_name(camera), 1
        while True:
            name = f"{stem}-{number}" if number > 1 else stem
            if name.lower() not in self._given and self._is_free(name + suffix, data):
                self._given.add(name.lower())
                return f"{self._folder}/{name}{suffix}"
            number += 1

    def _is_free(self, name: str, data: bytes | None) -> bool:
        file = self._parent / self._folder / name
        if data is None or not file.exists() or _place(file) in self._replaceable:
            return True
        return file.is_file() and file.read_bytes() == data

    def written(self, camera: str, suffix: str, data: bytes) -> str:
        """Write a file; its name. Raises OSError."""
        name = self.new(camera, suffix, data)
        target = self._parent / name
        if not (target.is_file() and target.read_bytes() == data):
            transforms.write_whole(target, data)
        return name


def _place(file: Path) -> str:
    """The same for two ways to write one place, without a look at it."""
    return os.path.normcase(os.path.abspath(file))


def _file_of(image: bpy.types.Image) -> Path:
    return Path(bpy.path.abspath(image.filepath, library=image.library))


def _saved(view: View, names: _Names) -> str:
    """Write the picture of a view; its file, relative to the list of cameras."""
    try:
        suffix, data = _contents(view.image)
        return names.written(view.camera.name, suffix, data)
    except OSError as error:
        raise StorageFailed(
            f"The picture of {view.camera.name} cannot be written: {error.strerror or error}.",
            "Choose another folder, or open the picture anew where its file is gone.",
        ) from None


def _contents(image: bpy.types.Image) -> tuple[str, bytes]:
    """(suffix, bytes) of the file of an image, or of one made of it where it is painted, or
    generated. Raises OSError."""
    suffix = Path(image.filepath).suffix.lower()
    if image.is_dirty or suffix not in transforms.SUFFIXES:
        return ".png", png(eight_bits(image))
    packed = image.packed_file
    return suffix, packed.data if packed is not None else _file_of(image).read_bytes()


def _saved_depth(view: View, names: _Names) -> str:
    """Write the depth of a view as the command line does; its file, or "" where it has none."""
    depth = depth_of_camera(view.camera)
    if depth is None:
        return ""
    stored = io.BytesIO()
    steps = nearest(depth, view.place.height, view.place.width) / np.float32(transforms.MILLIMETRE)
    np.save(stored, steps.astype(np.float32))
    try:
        return names.written(view.camera.name, ".npy", stored.getvalue())
    except OSError as error:
        raise StorageFailed(
            f"The depth of {view.camera.name} cannot be written: {error.strerror or error}.",
            "Choose another folder.",
        ) from None


CLASSES = (FIELDFORGE_OT_import_transforms, FIELDFORGE_OT_export_transforms)
