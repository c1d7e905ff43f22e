"""What the panel's fields of the sources hold."""

import bpy
from bpy.props import (
    BoolProperty,
    BoolVectorProperty,
    EnumProperty,
    FloatProperty,
    PointerProperty,
    StringProperty,
)

from ...backend.protocol import MAX_PROMPT_LENGTH
from ..capture import forget_facts

SOURCES = [
    ("POINTS", "Point Cloud", "A surface through points", "POINTCLOUD_DATA", 0),
    ("VOXELS", "Voxels", "A smooth surface around voxels", "MESH_CUBE", 1),
    ("VIEWPORT", "Viewport", "A shape like what the viewport shows", "VIEW3D", 2),
    ("IMAGE", "Image", "A shape like the one in a picture", "IMAGE_DATA", 3),
    ("SKETCH", "Sketch", "A shape like the one in a line drawing", "GREASEPENCIL", 4),
    ("DEPTH", "Depth", "A shape that fits how far away each pixel is", "CAMERA_DATA", 5),
    ("VIEWS", "Views", "A shape that fits objects seen from several sides", "CAMERA_STEREO", 6),
    ("TEXT", "Text", "A shape that fits words", "TEXT", 7),
    ("SHAPE", "Anything", "A shape of the model's own choice", "QUESTION", 8),
    ("PANORAMA", "Panorama", "Surroundings from a 360-degree picture", "WORLD", 9),
    ("PANORAMA_TEXT", "Text to Panorama", "Surroundings that fit words", "OUTLINER_OB_FONT", 10),
    ("STEREO", "Stereo Pair", "A 360-degree picture for each eye", "CAMERA_STEREO", 11),
    (
        "IMAGE_VIEWS",
        "Image to Views",
        "A thing from all sides, from a picture",
        "OUTLINER_OB_CAMERA",
        12,
    ),
    (
        "TEXT_VIEWS",
        "Text to Views",
        "A thing from all sides that fits words",
        "OUTLINER_DATA_CAMERA",
        13,
    ),
    (
        "SCENE_VIEWS",
        "Mesh from Views",
        "A mesh with a texture of pictures with cameras",
        "OUTLINER_OB_MESH",
        14,
    ),
    ("ANIMATION", "Animated Shape", "A shape that moves", "POSE_HLT", 15),
]
GREASE_PENCIL_TYPES = {"GREASEPENCIL", "GPENCIL"}  # since Blender 4.3, before


MOST_CAMERAS = 32
"""As many as Blender holds in one property; models have six."""


def _changed(self, context) -> None:
    forget_facts()


class SourceSettings:
    """Fields that only some sources have; part of FieldforgeSettings."""

    image: PointerProperty(
        name="Image",
        description="The picture: open a file here, or drop it onto the viewport",
        type=bpy.types.Image,
    )
    background: EnumProperty(
        name="Background",
        description="What becomes of what is around the object in the picture",
        items=[
            ("auto", "Remove Plain Background", "Remove a background of one colour"),
            ("remove", "Remove Background", "Remove also a background that is not quite plain"),
            ("keep", "Keep Background", "Take the picture as it is"),
        ],
    )
    sketch_from: EnumProperty(
        name="Sketch From",
        items=[
            ("OBJECT", "Grease Pencil", "The strokes of a Grease Pencil object"),
            ("ANNOTATION", "Annotation", "What is drawn with the Annotate tool"),
            ("IMAGE", "Image", "A picture of a drawing"),
        ],
    )
    sketch: PointerProperty(
        name="Object",
        description="The Grease Pencil object; empty: the selected one",
        type=bpy.types.Object,
        poll=lambda self, item: item.type in GREASE_PENCIL_TYPES,
    )
    seen_from: EnumProperty(
        name="Seen From",
        items=[
            ("VIEW", "View", "As the viewport shows it now"),
            ("CAMERA", "Camera", "Through the scene's camera"),
        ],
    )
    seen_objects: EnumProperty(
        name="Objects",
        items=[
            ("SELECTED", "Selected", "Only the selected objects"),
            ("VISIBLE", "All Visible", "Everything that the viewport shows"),
        ],
        update=_changed,
    )
    prompt: StringProperty(
        name="Text",
        description="What the shape shall be, in English: a wooden chair",
        maxlen=MAX_PROMPT_LENGTH,
        options={"TEXTEDIT_UPDATE"},
    )
    result_size: FloatProperty(
        name="Size",
        description="Longest side of the result, which goes to the 3D cursor",
        default=2.0,
        min=1e-4,
        soft_min=0.01,
        subtype="DISTANCE",
    )
    used_views: BoolVectorProperty(
        name="Views",
        description="From which of the model's cameras it sees the objects, by their numbers",
        size=MOST_CAMERAS,
        default=(True,) * MOST_CAMERAS,
        update=_changed,
    )
    textured_views: BoolProperty(
        name="With Materials",
        description="Show the objects with their materials instead of as the viewport shades them",
    )
