"""Operators: cameras and their pictures from a transforms.json, and into one. Main thread."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, StringProperty
from mathutils import Matrix

from ...backend.errors import BadInput, FieldforgeError, StorageFailed
from .. import session
from ..compose import srgb_from_linear
from ..importing import select_only
from ..panorama.textures import png
from ..sources.images import is_linear, pixels_of
from . import transforms
from .cameras import View, frame_of, frustum_of, lens_of_camera, pose_of, show_behind, view_of
from .lenses import intrinsics_of, intrinsics_of_backdrop
from .paths import focus
from .planning import exported_cameras
from .scene import CAMERA_SIZE

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
    try:
        image = bpy.data.images.load(str(file.path), check_existing=False)
    except RuntimeError:
        raise BadInput(f"{file.path.name} cannot be read as a picture.", "Save it anew.") from None
    made.append(image)
    width, height = image.size
    if not width or not height:
        raise BadInput(f"{file.path.name} cannot be read as a picture.", "Save it anew.")
    intrinsics = file.intrinsics(width, height)
    place = frustum_of(data, intrinsics, (width, height), frame_of(context.scene))
    show_behind(data, image, place)
    distance = float(np.linalg.norm(file.pose[:3, 3] - middle))
    data.display_size = CAMERA_SIZE * distance or 1.0
    camera.matrix_world = Matrix(file.pose.tolist())
    return camera


class FIELDFORGE_OT_export_transforms(_FileOperator, bpy.types.Operator):
    """Write the chosen cameras, and their background images, as a transforms.json for NeRF and
    Gaussian splatting tools"""

    bl_idname = "fieldforge.export_transforms"
    bl_label = "Export transforms.json"
    failure = "The cameras were not written"

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

    def act(self, context, path: Path) -> None:
        path = path / FORMAT if path.is_dir() else path.with_suffix(".json")
        write_cameras(context, exported_cameras(context), path)


def write_cameras(context, cameras: list[bpy.types.Object], path: Path) -> None:
    """A picture each in the folder images beside `path`. A camera without one is written as the
    scene would render it, which is to be saved there. Raises FieldforgeError."""
    frame = frame_of(context.scene)
    files, intrinsics, sizes = [], [], []
    for camera in cameras:
        lens, view = lens_of_camera(camera), view_of(camera)
        if view is None:
            files.append(f"images/{bpy.path.clean_name(camera.name)}.png")
            intrinsics.append(intrinsics_of(lens, frame))
            sizes.append((frame.width, frame.height))
            continue
        files.append(f"images/{_saved(view, path.parent / 'images')}")
        intrinsics.append(intrinsics_of_backdrop(lens, frame, view.place))
        sizes.append((view.place.width, view.place.height))
    poses = np.stack([pose_of(camera) for camera in cameras])
    transforms.write(path, files, poses, np.stack(intrinsics), sizes)


def _saved(view: View, folder: Path) -> str:
    """Write the picture of a view into a folder; the name of its file."""
    image = view.image
    stem = bpy.path.clean_name(view.camera.name)
    suffix = Path(image.filepath).suffix.lower()
    file = Path(bpy.path.abspath(image.filepath, library=image.library))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if image.is_dirty or suffix not in transforms.SUFFIXES:
            return _drawn(image, folder / f"{stem}.png")
        target = folder / f"{stem}{suffix}"
        packed = image.packed_file
        data = packed.data if packed is not None else file.read_bytes()
        if not (target.exists() and target.samefile(file)):
            target.write_bytes(data)
        return target.name
    except OSError as error:
        raise StorageFailed(
            f"The picture of {view.camera.name} cannot be written: {error.strerror or error}.",
            "Choose another folder, or open the picture anew where its file is gone.",
        ) from None


def _drawn(image: bpy.types.Image, path: Path) -> str:
    """An image that is no file as it is: painted, or generated."""
    values = pixels_of(image)[::-1]
    colors = srgb_from_linear(values[..., :3]) if is_linear(image) else values[..., :3]
    whole = np.clip(np.concatenate([colors, values[..., 3:]], axis=2), 0, 1)
    path.write_bytes(png(np.rint(255 * whole).astype(np.uint8)))
    return path.name


CLASSES = (FIELDFORGE_OT_import_transforms, FIELDFORGE_OT_export_transforms)
