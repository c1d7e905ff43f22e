"""One click: render the scene as an omni-directional stereo panorama, for headsets.

Each eye sees all around, from a circle whose diameter is the distance of the eyes. Only Cycles
has such cameras. Also: look around from the middle of a sphere.
"""

from __future__ import annotations

import contextlib
import math

import bpy
from bpy.props import FloatProperty

from .live import layers_of, sphere_of
from .scene import LOOKS_ALONG_X, NEAREST_SEEN

NAME = "360 Stereo Camera"
POLE_MERGE = (math.radians(60), math.radians(75))  # where the eyes begin to become one, and are
DEFAULT_WIDTH = 4096  # pixels of one eye
WIDEST = 8192


class FIELDFORGE_OT_stereo_camera(bpy.types.Operator):
    """Add a camera for both eyes of a headset, and set the scene up to render a 360-degree stereo \
picture with Cycles: the left eye above, the right eye below"""

    bl_idname = "fieldforge.stereo_camera"
    bl_label = "Set Up 360 Stereo"
    bl_options = {"REGISTER", "UNDO"}

    interocular: FloatProperty(
        name="Eyes Apart",
        description="Distance of the two eyes",
        default=0.065,
        min=0.0,
        soft_max=0.2,
        max=10.0,
        precision=4,
        subtype="DISTANCE",
    )

    @classmethod
    def poll(cls, context) -> bool:
        if not has_cycles():
            cls.poll_message_set("Only Cycles renders 360-degree stereo: enable that add-on")
            return False
        return True

    def execute(self, context):
        sphere = sphere_of(context.view_layer.objects.active)
        camera = stereo_camera(context.scene, sphere, self.interocular)
        set_up_output(context.scene, width_of(sphere))
        context.scene.camera = camera
        return {"FINISHED"}


def has_cycles() -> bool:
    engine = bpy.types.RenderEngine.bl_rna_get_subclass_py("CYCLES")
    return engine is not None or hasattr(bpy.types.Scene, "cycles")


def stereo_camera(
    scene: bpy.types.Scene, sphere: bpy.types.Object | None, interocular: float
) -> bpy.types.Object:
    """The camera in the middle of `sphere`, or at the 3D cursor; the one that is there is used."""
    camera = _present(scene, sphere)
    if camera is None:
        camera = bpy.data.objects.new(NAME, bpy.data.cameras.new(NAME))
        home = sphere.users_collection[0] if sphere else scene.collection
        home.objects.link(camera)
        camera.rotation_euler = LOOKS_ALONG_X
        if sphere is None:
            camera.location = scene.cursor.location
        else:
            camera.parent = sphere
    data = camera.data
    data.type = "PANO"
    data.clip_start = NEAREST_SEEN
    # Blender 5.0 took what had been a setting of Cycles.
    owner = data if hasattr(data, "panorama_type") else data.cycles
    owner.panorama_type = "EQUIRECTANGULAR"
    eyes = data.stereo
    eyes.use_spherical_stereo = True
    eyes.convergence_mode, eyes.pivot = "PARALLEL", "CENTER"
    eyes.interocular_distance = interocular
    eyes.use_pole_merge = True
    eyes.pole_merge_angle_from, eyes.pole_merge_angle_to = POLE_MERGE
    return camera


def _present(scene, sphere) -> bpy.types.Object | None:
    found = [
        item
        for item in scene.objects
        if item.type == "CAMERA" and item.data.stereo.use_spherical_stereo and item.parent == sphere
    ]
    return found[0] if found else None


def width_of(sphere: bpy.types.Object | None) -> int:
    """Pixels of one eye: those of the picture of a sphere."""
    image = picture_of(sphere)
    if image is None or not image.size[0]:
        return DEFAULT_WIDTH
    return min(image.size[0], WIDEST) // 2 * 2


def picture_of(sphere: bpy.types.Object | None) -> bpy.types.Image | None:
    """The image that a sphere shows."""
    materials = sphere.data.materials if sphere is not None else []
    trees = [material.node_tree for material in materials if material is not None]
    pictures = [
        node.image for tree in trees if tree for node in tree.nodes if node.type == "TEX_IMAGE"
    ]
    return next((image for image in pictures if image is not None), None)


def set_up_output(scene: bpy.types.Scene, width: int) -> None:
    """Cycles, both eyes, each `width` pixels wide, one above the other in one file."""
    render, output = scene.render, scene.render.image_settings
    render.engine = "CYCLES"
    render.resolution_x, render.resolution_y = width, width // 2
    render.resolution_percentage = 100
    render.pixel_aspect_x = render.pixel_aspect_y = 1.0
    render.use_multiview, render.views_format = True, "STEREO_3D"
    output.views_format = "STEREO_3D"
    output.stereo_3d_format.display_mode = "TOPBOTTOM"
    output.stereo_3d_format.use_squeezed_frame = False


class FIELDFORGE_OT_look_around(bpy.types.Operator):
    """Look from the middle of this sphere, through a camera that can be moved, with its picture"""

    bl_idname = "fieldforge.look_around"
    bl_label = "Look from the Middle"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context) -> bool:
        if sphere_of(context.view_layer.objects.active) is None:
            cls.poll_message_set("Select a sphere that was made of a panorama")
            return False
        return True

    def execute(self, context):
        sphere = sphere_of(context.view_layer.objects.active)
        cameras = [item for item in sphere.children if item.type == "CAMERA"]
        eye = next((item for item in cameras if item.data.type != "PANO"), None)
        if eye is None:
            self.report({"WARNING"}, f"{sphere.name} has no camera any more")
            return {"CANCELLED"}
        context.scene.camera = eye
        if context.area is not None and context.area.type == "VIEW_3D":
            space = context.space_data
            space.region_3d.view_perspective = "CAMERA"
            space.shading.type = "MATERIAL"
        for part in layers_of(sphere):  # still active; the outlines of its cuts hide the picture
            with contextlib.suppress(RuntimeError):  # it is in no view layer
                part.select_set(False)
        return {"FINISHED"}


CLASSES = (FIELDFORGE_OT_stereo_camera, FIELDFORGE_OT_look_around)
