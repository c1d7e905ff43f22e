"""Blender's cameras -> poses and intrinsics, and the way back. Main thread only."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from ...backend.errors import BadInput
from .lenses import Backdrop, Frame, Lens, lens_of

SHEAR = 1e-4


@dataclass(frozen=True, eq=False)
class View:
    """A camera that has a background image: what is seen from where. image: of the file; place:
    where Blender draws it."""

    camera: bpy.types.Object
    image: bpy.types.Image
    place: Backdrop


def frame_of(scene: bpy.types.Scene) -> Frame:
    """What the scene renders, at its full resolution."""
    render = scene.render
    return Frame(
        render.resolution_x, render.resolution_y, render.pixel_aspect_x, render.pixel_aspect_y
    )


def lens_of_camera(camera: bpy.types.Object) -> Lens:
    """Raises BadInput for a camera that sees no plain perspective picture."""
    data = camera.data
    if data.type != "PERSP":
        raise BadInput(
            f"{camera.name} is not a perspective camera.",
            "Set its Type to Perspective in the camera's properties, or leave it out.",
        )
    return Lens(
        data.lens,
        data.sensor_width,
        data.sensor_height,
        data.sensor_fit,
        data.shift_x,
        data.shift_y,
    )


def pose_of(camera: bpy.types.Object) -> np.ndarray:
    """(4, 4) float64: a camera's scale does not zoom. Raises BadInput where it is sheared."""
    pose = np.array(camera.matrix_world, np.float64)
    lengths = np.linalg.norm(pose[:3, :3], axis=0)
    if lengths.min() <= 0:
        raise BadInput(
            f"{camera.name} has a scale of zero.",
            "Set its scale, and that of its parents, above 0.",
        )
    axes = pose[:3, :3] / lengths
    if np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR or np.linalg.det(axes) < 0:
        raise BadInput(
            f"{camera.name} is mirrored or sheared.",
            "Apply its scale (Ctrl A), and that of what it is parented to.",
        )
    # Its axes are unit vectors to the six digits that Blender keeps; now to more.
    left, _, right = np.linalg.svd(axes)
    pose[:3, :3] = left @ right
    return pose


def frustum_of(camera: bpy.types.Camera, intrinsics: np.ndarray, size, frame: Frame) -> Backdrop:
    """Give a camera the lens of (4,) intrinsics of a picture of `size` (width, height)."""
    lens, place = lens_of(intrinsics, Backdrop(*size), frame)
    camera.type, camera.lens_unit = "PERSP", "MILLIMETERS"
    camera.sensor_fit = lens.fit
    camera.sensor_width, camera.sensor_height = lens.sensor_width, lens.sensor_height
    camera.lens = lens.focal
    camera.shift_x, camera.shift_y = lens.shift_x, lens.shift_y
    return place


def show_behind(camera: bpy.types.Camera, image: bpy.types.Image, place: Backdrop):
    """Have a camera show an image behind what it sees; the one that it shows is replaced."""
    backgrounds = camera.background_images
    background = backgrounds[0] if len(backgrounds) else backgrounds.new()
    background.image = image
    background.frame_method = place.method
    background.scale, background.offset = place.scale, place.offset
    background.rotation = 0.0
    background.alpha, background.display_depth = 1.0, "BACK"
    image.display_aspect = (place.aspect, 1.0) if place.aspect >= 1 else (1.0, 1 / place.aspect)
    camera.show_background_images = True
    return background


def view_of(camera: bpy.types.Object) -> View | None:
    """The background image that a camera shows; None where it has none. Raises BadInput where it
    is drawn in a way that no camera sees."""
    if camera.type != "CAMERA":
        return None
    shown = [each for each in camera.data.background_images if _shows(each)]
    if not shown:
        return None
    background = shown[0]
    image = background.image
    if background.rotation or background.use_flip_x or background.use_flip_y:
        raise BadInput(
            f"The background image of {camera.name} is turned or mirrored.",
            "Set its Rotation to 0 and Flip off in the camera's properties.",
        )
    width, height = image.size
    if not width or not height:
        raise BadInput(
            f"The background image of {camera.name} cannot be read.",
            "Its file is missing: open the picture once more.",
        )
    aspect = image.display_aspect[0] / image.display_aspect[1]
    place = Backdrop(
        width, height, aspect, background.frame_method, background.scale, tuple(background.offset)
    )
    return View(camera, image, place)


def _shows(background) -> bool:
    return (
        background.source == "IMAGE"
        and background.image is not None
        and background.show_background_image
    )


def in_order(items) -> list[bpy.types.Object]:
    """The cameras among `items`; where there are views, those, in their order."""
    cameras = [item for item in items if item.type == "CAMERA"]
    views = [item for item in cameras if item.fieldforge_view.number]
    return sorted(views or cameras, key=lambda item: (item.fieldforge_view.number, item.name))
