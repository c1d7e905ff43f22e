"""What the panel's fields of neural fields and moving shapes hold, and what roots keep."""

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    IntVectorProperty,
    PointerProperty,
    StringProperty,
)

from ...backend.protocol import EFFORTS, FIELD_RESOLUTIONS, MAX_GENERATED_FRAMES
from ..capture import forget_facts
from . import mixing, motion
from .choices import get_choice, list_choices, set_choice

MOST_SAMPLES = 16  # frames of an object that are read
MOST_STEPS = 41
_EFFORT_WORDS = {
    "fast": ("Fast", "For a first look"),
    "good": ("Good", "For most objects"),
    "best": ("Best", "For fine detail and thin parts; takes minutes, of hard shapes ten"),
}
WAYS = [
    (
        "KEYS",
        "Shape Keys",
        "One mesh whose vertices move: smooth between frames as well, small, and exports as morph "
        "targets. Where that cannot be had without loss, a mesh per frame comes instead",
    ),
    (
        "MESHES",
        "Mesh per Frame",
        "A mesh for each frame, shown one after the other: each as exact as the field, parts may "
        "come apart and join",
    ),
]


def _resolutions() -> list[tuple[str, str, str]]:
    words = {64: "Coarse: a few thousand faces", 128: "For most shapes", 256: "Fine; takes longer"}
    return [(str(side), str(side), words[side]) for side in FIELD_RESOLUTIONS if side in words]


def _changed(self, context) -> None:
    forget_facts()


class FieldSettings:
    """Fields of the panel; part of FieldforgeSettings."""

    field_from: EnumProperty(
        name="Compress",
        items=[
            ("OBJECT", "This Frame", "The object as it is now"),
            ("FRAMES", "Animation", "What the object does between the first and the last frame"),
        ],
    )
    field_samples: IntProperty(
        name="Samples",
        description="How many frames of the range are read, spread evenly",
        default=MOST_SAMPLES,
        min=2,
        max=MOST_SAMPLES,
    )
    field_loop: BoolProperty(
        name="Loop",
        description="The last frame leads into the first: it plays again and again",
    )
    field_effort: EnumProperty(
        name="Effort",
        description="How long the field is fitted to the object",
        items=[(name, *_EFFORT_WORDS[name]) for name in EFFORTS],
        default="good",
    )
    field_half: BoolProperty(
        name="Half the Size",
        description="Keep the field in numbers of 16 bits: half the kilobytes, hardly any loss",
    )
    field_hide: BoolProperty(
        name="Hide Original",
        description="Hide the original, in renders too, once its field is there",
    )
    field_resolution: EnumProperty(
        name="Resolution",
        description="Nodes along each side of the cube in which a surface is made of the field",
        items=_resolutions(),
        default="128",
    )
    mix_resolution: EnumProperty(
        name="Resolution",
        description="Nodes along each side, for each of the steps",
        items=_resolutions(),
        default="64",
    )
    mix_steps: IntProperty(
        name="Steps",
        description="How many shapes are made from one to the other; the slider goes from step to "
        "step",
        default=11,
        min=3,
        max=MOST_STEPS,
    )
    motion_way: EnumProperty(
        name="Play As", description="How the motion is kept in Blender", items=WAYS
    )
    motion_frames: IntProperty(
        name="Frames",
        description="How many frames are made; 0: as many as the model was trained with",
        default=0,
        min=0,
        max=MAX_GENERATED_FRAMES,
        update=_changed,
    )
    motion_preview_range: BoolProperty(
        name="Preview Range",
        description="Have Play go around the motion alone: sets the preview range of the scene",
        default=True,
    )
    motion_choice_name: StringProperty(options={"HIDDEN"})
    motion_choice: EnumProperty(
        name="Kind",
        description="What moves, of what the model knows",
        items=list_choices,
        get=get_choice,
        set=set_choice,
    )


def _retime(self, context) -> None:
    motion.retime(self.id_data)


class FieldforgeMotion(bpy.types.PropertyGroup):
    """What a root keeps of what came with it, and how its motion plays. number: of a part: 1 for
    the frame 0, and so on; 0 of a root. field: as `kept` writes it. way: "STILL", "KEYS", "MESHES";
    "" of other objects. frames: of the motion. original: the name of the object that was
    compressed. iou: of the field and the original, -1 where nobody knows. nearest,
    nearest_distance: the training shape that a model's result is most like, and how far it is from
    it, 1: as far as these are from one another. span: first and last frame of the timeline, as the
    curves are. rendered_when_shown: of an original that was hidden, whether showing it again lets
    it be rendered."""

    number: IntProperty()
    field: StringProperty()
    way: StringProperty()
    frames: IntProperty(default=1)
    original: StringProperty()
    source_bytes: FloatProperty()
    iou: FloatProperty(default=-1.0)
    nearest: StringProperty()
    nearest_distance: FloatProperty()
    span: IntVectorProperty(size=2)
    rendered_when_shown: BoolProperty()
    start: FloatProperty(
        name="Start",
        description="The frame of the timeline in which the motion begins",
        default=1.0,
        soft_min=0.0,
        step=100,
        precision=1,
        update=_retime,
    )
    speed: FloatProperty(
        name="Frames per Step",
        description="How many frames of the timeline a frame of the motion lasts: less is faster",
        default=1.0,
        min=0.05,
        soft_max=24.0,
        max=100_000.0,  # a long range that is read in few frames
        step=25,
        precision=2,
        update=_retime,
    )
    loop: BoolProperty(
        name="Loop",
        description="Play again and again; off: stop in the last frame",
        update=_retime,
    )


def _slide(self, context) -> None:
    mixing.show(self.id_data)


class FieldforgeMixMesh(bpy.types.PropertyGroup):
    """One mesh of one step."""

    mesh: PointerProperty(type=bpy.types.Mesh)


class FieldforgeMix(bpy.types.PropertyGroup):
    """What a root keeps that goes from one shape to another. meshes: of the frames of the first
    step, then those of the next; steps: how many, 0 of other roots; field: of the second shape;
    first, second: the names of both; by_weights: each step is a field, too, the mean of both."""

    steps: IntProperty()
    field: StringProperty()
    first: StringProperty()
    second: StringProperty()
    by_weights: BoolProperty(default=True)
    meshes: CollectionProperty(type=FieldforgeMixMesh)
    amount: FloatProperty(
        name="Amount",
        description="0: the first shape, 1: the second",
        min=0.0,
        max=1.0,
        step=5,
        precision=2,
        subtype="FACTOR",
        update=_slide,
    )


CLASSES = (FieldforgeMotion, FieldforgeMixMesh, FieldforgeMix)


def register() -> None:
    bpy.types.Object.fieldforge_motion = PointerProperty(type=FieldforgeMotion)
    bpy.types.Object.fieldforge_mix = PointerProperty(type=FieldforgeMix)
    bpy.app.handlers.save_pre.append(motion.before_saving)


def unregister() -> None:
    bpy.app.handlers.save_pre.remove(motion.before_saving)
    del bpy.types.Object.fieldforge_mix
    del bpy.types.Object.fieldforge_motion
