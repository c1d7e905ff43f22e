"""What the panel's fields of views hold, and what cameras and their collection keep of them."""

from __future__ import annotations

import math

import bpy
from bpy.props import (
    BoolProperty,
    EnumProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from ...backend.protocol import MAX_PROMPT_LENGTH, MAX_VIEWS, VIEW_FIELD
from ..capture import forget_facts


def _changed(self, context) -> None:
    forget_facts()
    for area in context.screen.areas if context.screen else ():
        if area.type == "VIEW_3D":
            area.tag_redraw()


class ViewsSettings:
    """Fields of the sources about views; part of FieldforgeSettings."""

    views_picture: EnumProperty(
        name="Picture",
        description="What the first of the views is",
        items=[
            ("IMAGE", "Image", "A picture of the thing"),
            ("VIEWPORT", "Viewport", "What the viewport shows now, from where it looks"),
            ("OBJECTS", "Objects", "The selected objects, as some of the cameras see them"),
        ],
        update=_changed,
    )
    views_words: StringProperty(
        name="Text",
        description="What the picture shows, in English; may stay empty",
        maxlen=MAX_PROMPT_LENGTH,
        options={"TEXTEDIT_UPDATE"},
    )
    known_views: IntProperty(
        name="Known Views",
        description="How many of the cameras, from the first on, see the objects themselves",
        default=1,
        min=1,
        max=MAX_VIEWS - 1,
        update=_changed,
    )
    cameras_from: EnumProperty(
        name="Cameras",
        items=[
            ("RING", "Ring", "Cameras evenly all around"),
            ("PATH", "Path", "Cameras evenly along a curve"),
            ("SCENE", "Scene", "Cameras of the scene: the selected ones, or those of a collection"),
        ],
        update=_changed,
    )
    ring_count: IntProperty(
        name="Views",
        default=8,
        min=2,
        max=MAX_VIEWS - 2,
        update=_changed,
        description="How many cameras there are",
    )
    ring_start: FloatProperty(
        name="Start",
        description="From which side the first camera looks: 0 is the front view, 90 the right one",
        min=-2 * math.pi,
        max=2 * math.pi,
        subtype="ANGLE",
        step=1500,
        update=_changed,
    )
    ring_caps: BoolProperty(
        name="Top and Bottom",
        description="Two more cameras, from 60 degrees above and below: without them a mesh of the "
        "views is guessed there",
        update=_changed,
    )
    own_ring: BoolProperty(
        name="Own Ring",
        description="Set elevation, distance and lens, instead of those that the model was made "
        "with",
        update=_changed,
    )
    ring_elevation: FloatProperty(
        name="Elevation",
        description="How high the cameras stand above the horizon",
        default=math.radians(20),
        min=math.radians(-89),
        max=math.radians(89),
        subtype="ANGLE",
        step=500,
        update=_changed,
    )
    ring_distance: FloatProperty(
        name="Distance",
        description="How far the cameras are from the middle; 0: so that all of it is seen",
        min=0.0,
        soft_max=100.0,
        subtype="DISTANCE",
        step=10,
        update=_changed,
    )
    views_field: FloatProperty(
        name="Field of View",
        description="Of the cameras, across the picture",
        default=VIEW_FIELD,
        min=math.radians(1),
        max=math.radians(170),
        subtype="ANGLE",
        step=100,
        update=_changed,
    )
    path_curve: PointerProperty(
        name="Curve",
        description="The curve along which the cameras stand; empty: the selected one",
        type=bpy.types.Object,
        poll=lambda self, item: item.type == "CURVE",
        update=_changed,
    )
    path_look: EnumProperty(
        name="Look",
        items=[
            ("MIDDLE", "Inwards", "The cameras look at the middle"),
            ("ALONG", "Ahead", "The cameras look where the curve goes"),
        ],
        update=_changed,
    )
    cameras_of: PointerProperty(
        name="Collection",
        description="Use all cameras of this collection; empty: the selected ones",
        type=bpy.types.Collection,
        update=_changed,
    )
    views_around: EnumProperty(
        name="Around",
        description="Where the middle is, and how large the thing is",
        items=[
            ("CURSOR", "3D Cursor", "Around the 3D cursor, in the size below"),
            ("SELECTED", "Selected", "Around the selected objects"),
        ],
        update=_changed,
    )
    views_one_by_one: BoolProperty(
        name="One after Another",
        description="Make the views in the order of their cameras, each beside the earlier ones: "
        "slower, smoother along a path",
    )
    views_pixels: IntProperty(
        name="Pixels",
        description="Along the side of a view; 0: as the model was made for",
        min=0,
        max=1024,
        step=8,
    )
    views_sequence: BoolProperty(
        name="Image Sequence",
        description="Also write the views as numbered files into the folder views beside the "
        "Blender file, and make an image sequence of them",
        default=True,
    )
    views_clip: BoolProperty(
        name="Turntable",
        description="Have the timeline go from view to view, and add a camera that moves smoothly "
        "past all of them",
        default=True,
    )
    views_hold: IntProperty(
        name="Frames Each", description="How long each view stays", default=6, min=1, max=1000
    )
    scene_from: EnumProperty(
        name="Views From",
        items=[
            ("CAMERAS", "Cameras", "Cameras that have background images"),
            ("OBJECTS", "Objects", "The selected objects, as cameras around them see them"),
        ],
        update=_changed,
    )
    mesh_by: EnumProperty(
        name="Made By",
        items=[
            ("FUSE", "The Views", "Everything is where the views show it, with their colours"),
            ("MODEL", "A Model", "A shape of a model that fits the views; rounder, and closed"),
        ],
        update=_changed,
    )
    scene_resolution: EnumProperty(
        name="Resolution",
        description="Cells along the side of the cube in which the surface is found",
        items=[
            ("0", "Auto", "By the size of the pictures"),
            ("128", "128", "Fast"),
            ("256", "256", "Fine"),
        ],
    )
    scene_texture: BoolProperty(
        name="Texture",
        description="Also make a texture of the views, finer than the colours of the vertices",
        default=True,
    )
    show_cameras: BoolProperty(
        name="Show the Cameras",
        description="Show in the viewport where the cameras are going to stand",
        default=True,
        update=_changed,
    )


class FieldforgeView(bpy.types.PropertyGroup):
    """What a camera keeps of its view. number: its place among the views, from 1 on, 0 of other
    cameras; given: the picture was given, not made; keep: it is not made anew; depth: how far
    everything is along its axis, in units of the empty that carries it, 0 where there is nothing.
    """

    number: IntProperty()
    given: BoolProperty()
    keep: BoolProperty(
        name="Keep", description="Leave this view as it is when the others are made anew"
    )
    depth: PointerProperty(type=bpy.types.Image)


class FieldforgeViews(bpy.types.PropertyGroup):
    """What the collection of views keeps of how they were made, to make some of them anew. size:
    pixels along a side; extent: of the cube around the thing; kind: of the task; view_kind: "image"
    or "depth"."""

    job_id: StringProperty()
    kind: StringProperty()
    model: StringProperty()
    prompt: StringProperty()
    view_kind: StringProperty(default="image")
    seed: IntProperty()
    steps: IntProperty()
    guidance: FloatProperty(default=-1.0)
    size: IntProperty()
    extent: FloatProperty(default=2.0)
    center: FloatVectorProperty(size=3)
    one_by_one: BoolProperty()
    rig: PointerProperty(type=bpy.types.Object)
    sequence: PointerProperty(type=bpy.types.Image)


CLASSES = (FieldforgeView, FieldforgeViews)


def register() -> None:
    bpy.types.Object.fieldforge_view = PointerProperty(type=FieldforgeView)
    bpy.types.Collection.fieldforge_views = PointerProperty(type=FieldforgeViews)


def unregister() -> None:
    del bpy.types.Collection.fieldforge_views
    del bpy.types.Object.fieldforge_view
