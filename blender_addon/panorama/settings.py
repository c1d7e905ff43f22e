"""What the panel's fields of panoramas hold, and what a sphere keeps of its depth."""

from __future__ import annotations

import math
from pathlib import Path

import bpy
from bpy.props import (
    BoolProperty,
    EnumProperty,
    FloatProperty,
    PointerProperty,
    StringProperty,
)

from ...backend.errors import BadInput
from ...backend.protocol import MAX_PROMPT_LENGTH, DepthMeaning
from .. import session
from ..capture import forget_facts
from . import live
from .textures import is_cut_off

FLOAT_SUFFIXES = {".exr", ".hdr"}
NEVER_EQUAL = 1.001  # how much farther than near far is at least


def _meaning_changed(self, context) -> None:
    """Of the panel: look anew. Of a sphere: move its vertices."""
    forget_facts()
    if isinstance(self.id_data, bpy.types.Mesh) and self.layer == "front":
        live.move_sphere(self.id_data, meaning_of(self))


class FieldforgeDepth(bpy.types.PropertyGroup):
    """What depth values mean. layer: "front", "backing" or "sky" of the mesh that it belongs to; ""
    in the panel."""

    meaning: EnumProperty(
        name="Depth Is",
        description="What the numbers of the depth mean",
        items=[
            ("metric", "Metres", "Distances from the eye in metres"),
            (
                "inverse",
                "Inverse",
                "Bright is near, between the distances Near and Far; flat walls stay flat. What "
                "most models that guess depth from a picture mean",
            ),
            (
                "paper",
                "Displacement",
                "Bright comes nearer to the middle, dark goes away, grey stays: the rule of LDM3D "
                "and DepthFusion. Flat walls bend",
            ),
        ],
        update=_meaning_changed,
    )
    inverted: BoolProperty(
        name="Invert", description="Take bright for dark", update=_meaning_changed
    )
    near: FloatProperty(
        name="Near",
        description="Distance of what is brightest",
        default=1.0,
        min=1e-3,
        soft_max=100.0,
        max=1e4,
        subtype="DISTANCE",
        step=5,
        update=_meaning_changed,
    )
    far: FloatProperty(
        name="Far",
        description="Distance of what is darkest",
        default=10.0,
        min=1e-3,
        soft_max=1000.0,
        max=1e5,
        subtype="DISTANCE",
        step=20,
        update=_meaning_changed,
    )
    radius: FloatProperty(
        name="Radius",
        description="Distance of what is neither bright nor dark",
        default=5.0,
        min=1e-3,
        soft_max=100.0,
        max=1e4,
        subtype="DISTANCE",
        step=10,
        update=_meaning_changed,
    )
    strength: FloatProperty(
        name="Strength",
        description="How far bright and dark move, as a share of the radius",
        default=1.0,
        min=-10.0,
        soft_min=0.0,
        soft_max=2.0,
        max=10.0,
        step=2,
        update=_meaning_changed,
    )
    scale: FloatProperty(
        name="Depth Scale",
        description="All distances times this",
        default=1.0,
        min=1e-6,
        soft_min=0.1,
        soft_max=10.0,
        max=1e6,
        step=2,
        update=_meaning_changed,
    )
    offset: FloatProperty(
        name="Offset",
        description="Added to all distances, at last",
        soft_min=-10.0,
        soft_max=10.0,
        min=-1e4,
        max=1e4,
        subtype="DISTANCE",
        step=5,
        update=_meaning_changed,
    )
    layer: StringProperty(options={"HIDDEN"})


def meaning_of(depth: FieldforgeDepth) -> DepthMeaning:
    """Properties have 32 bits: numbers are what the panel shows of them. Of a sphere, far is always
    beyond near, however the controls stand."""
    numbers = ("near", "far", "radius", "strength", "scale", "offset")
    values = {name: float(f"{getattr(depth, name):.7g}") for name in numbers}
    if depth.layer:
        values["far"] = max(values["far"], NEVER_EQUAL * values["near"])
    return DepthMeaning(meaning=depth.meaning, inverted=depth.inverted, **values)


def keep_meaning(depth: FieldforgeDepth, meaning: DepthMeaning) -> None:
    """Write a meaning into the fields; nothing moves while `layer` is empty."""
    for name, value in meaning.to_dict().items():
        setattr(depth, name, value)


def _picture_changed(self, context) -> None:
    forget_facts()
    _refuse_damaged(self, "panorama")


def _depth_changed(self, context) -> None:
    """A first guess: floating-point files hold metres, others how bright near is."""
    forget_facts()
    _refuse_damaged(self, "panorama_depth")
    if self.panorama_depth is not None:
        suffix = Path(self.panorama_depth.filepath).suffix.lower()
        self.depth.meaning = "metric" if suffix in FLOAT_SUFFIXES else "inverse"


def _refuse_damaged(settings, name: str) -> None:
    """Do not choose what may crash Blender as soon as it is looked at."""
    image = getattr(settings, name)
    if image is not None and is_damaged(image):
        setattr(settings, name, None)
        session.jobs().tell(f"{image.name} was not chosen", damaged(image))


def is_damaged(image: bpy.types.Image) -> bool:
    if image.source != "FILE" or image.packed_file is not None:
        return False
    return is_cut_off(Path(bpy.path.abspath(image.filepath, library=image.library)))


def damaged(image: bpy.types.Image) -> BadInput:
    return BadInput(
        f"{image.name} is cut off: a part of its file is missing.",
        "Save or copy it once more, then open it again.",
    )


def _choice_changed(self, context) -> None:
    forget_facts()


class PanoramaSettings:
    """Fields of the sources about panoramas; part of FieldforgeSettings."""

    panorama: PointerProperty(
        name="Panorama",
        description="The 360-degree picture, twice as wide as high: open a file here, or drop it "
        "onto the viewport",
        type=bpy.types.Image,
        update=_picture_changed,
    )
    panorama_aspect: EnumProperty(
        name="Aspect",
        description="What to do where the picture is not twice as wide as high",
        items=[
            ("strict", "Must Be 2:1", "Take no other picture"),
            ("pad", "Pad", "What is missing at the top and the bottom, or the sides, is empty"),
            ("partial", "Partial", "The picture shows a part of the way around, ahead"),
        ],
        update=_choice_changed,
    )
    panorama_view: FloatProperty(
        name="Field of View",
        description="How wide the part is that the picture shows",
        default=math.pi,
        min=math.radians(10),
        max=2 * math.pi,
        subtype="ANGLE",
        step=100,
    )
    depth_from: EnumProperty(
        name="Depth From",
        items=[
            ("IMAGE", "Image", "A depth picture: EXR, or PNG with 16 bits"),
            ("FILE", "Array", "A file of numbers: .npy or .npz"),
            ("MODEL", "Estimate", "A model tells the depth from the picture"),
        ],
        update=_choice_changed,
    )
    panorama_depth: PointerProperty(
        name="Depth",
        description="The depth of the same panorama; it may have another size",
        type=bpy.types.Image,
        update=_depth_changed,
    )
    panorama_depth_file: StringProperty(
        name="Depth File",
        description="A .npy or .npz file with numbers in rows and columns",
        subtype="FILE_PATH",
        update=_choice_changed,
    )
    depth: PointerProperty(type=FieldforgeDepth)
    sphere_width: EnumProperty(
        name="Width",
        description="Faces around the sphere; half as many from top to bottom",
        items=[
            ("0", "As the Depth", "The width of the depth, from 512 to 2048"),
            ("512", "512", "130,000 faces"),
            ("1024", "1024", "520,000 faces: good for rendering"),
            ("2048", "2048", "2,100,000 faces: 4 GB of memory in Cycles"),
            ("4096", "4096", "8,400,000 faces: slow, and needs much memory"),
        ],
    )
    sphere_edges: EnumProperty(
        name="Edges",
        description="What to do where the depth jumps",
        items=[
            ("cut", "Cut", "Cut, with another surface behind: for an eye that moves"),
            ("sheet", "Sheet", "One surface, stretched across: for an eye that stays"),
        ],
    )
    sphere_picture: EnumProperty(
        name="Picture",
        description="Where the pictures of results are kept",
        items=[
            ("PACK", "Packed", "In the Blender file"),
            ("LINK", "Linked", "As files, in the folder textures beside the Blender file"),
        ],
    )
    sphere_ahead: EnumProperty(
        name="Ahead",
        description="Where the middle of the picture is",
        items=[
            ("X", "X", "Along X, as the pictures of Blender's World"),
            ("Y", "Front View", "Along Y, as the front view (Numpad 1) and new cameras look"),
        ],
    )
    sphere_world: BoolProperty(
        name="Light the World",
        description="Also light the scene with the picture, through a new World; the sphere then "
        "keeps its light to itself",
    )
    panorama_prompt: StringProperty(
        name="Text",
        description="What is to be seen all around, in English: a sunny living room",
        maxlen=MAX_PROMPT_LENGTH,
        options={"TEXTEDIT_UPDATE"},
    )
    panorama_negative: StringProperty(
        name="Without",
        description="What is not to be seen; may stay empty",
        maxlen=MAX_PROMPT_LENGTH,
        options={"TEXTEDIT_UPDATE"},
    )
    panorama_to_sphere: BoolProperty(
        name="Make a Sphere",
        description="Go on to a sphere in the scene; else the picture and its depth become images",
        default=True,
    )
    interocular: FloatProperty(
        name="Eyes Apart",
        description="Distance of the two eyes",
        default=0.065,
        min=0.0,
        soft_max=0.2,
        max=10.0,
        precision=4,
        subtype="DISTANCE",
        step=0.1,
    )
    stereo_layout: EnumProperty(
        name="Pictures",
        items=[
            ("STACK", "Top-Bottom", "One picture, the left eye above: what headsets play"),
            ("EYES", "Left and Right", "A picture for each eye"),
        ],
    )
    depth_model_id: StringProperty(options={"HIDDEN"})


CLASSES = (FieldforgeDepth,)


def register() -> None:
    bpy.types.Mesh.fieldforge_sphere = PointerProperty(type=FieldforgeDepth)


def unregister() -> None:
    live.unregister()
    del bpy.types.Mesh.fieldforge_sphere
