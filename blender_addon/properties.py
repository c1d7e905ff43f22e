"""What the panel's fields hold, kept in the scene."""

import bpy
from bpy.props import (
    BoolProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from ..backend.protocol import MAX_GUIDANCE, MAX_STEPS, RESOLUTIONS, PointsToMesh, VoxelsToMesh
from . import preferences, session
from .capture import forget_facts
from .fields.settings import FieldSettings
from .model_choice import (
    chosen_model,
    get_depth_model,
    get_model,
    list_depth_models,
    list_models,
    set_depth_model,
    set_model,
    task_kind,
)
from .panorama.settings import PanoramaSettings
from .panorama.source import is_panorama
from .sources import of_points_or_voxels
from .sources.settings import SOURCES, SourceSettings
from .views.settings import ViewsSettings
from .views.source import is_views

MAX_VARIATIONS = 16

_RESOLUTION_WORDS = {
    128: "Fast: for a first look",
    256: "Balanced: for most sources",
    512: "Fine: for large clouds with small detail; slow, and needs memory",
}

REFINABLE = {PointsToMesh.kind, VoxelsToMesh.kind}


def _changed(self, context) -> None:
    forget_facts()


def _source_changed(self, context) -> None:
    """Most sources need a model with weights: which there are, the backend knows."""
    forget_facts()
    connection = session.jobs().connection
    usable = preferences.backend_missing(preferences.current_settings()) is None
    first_use = connection.state == "unknown" and not bpy.app.background
    if first_use and usable and not of_points_or_voxels(self):
        session.jobs().connect()


def _own_sampling_changed(self, context) -> None:
    """One's own values begin with those of the model's authors."""
    model = chosen_model(self)
    if self.own_sampling:
        self.steps = model.get("steps") or self.steps
        self.guidance = model.get("guidance") or self.guidance


def has_one_result(settings) -> bool:
    """Whether several variations make no sense: of a panorama, and of several views."""
    return is_panorama(settings) or is_views(settings)


def sampling_choices(settings, model: dict) -> dict:
    """Fields of `compose.Choices` that only a model which samples has."""
    if not model.get("samples"):
        return {}
    own = settings.own_sampling
    return {
        "seed": settings.seed,
        "variations": 1 if has_one_result(settings) else settings.variations,
        "steps": settings.steps if own else None,
        "guidance": round(settings.guidance, 4) if own else None,
        "preview": settings.watch,
        "refine": settings.refine and task_kind(settings) in REFINABLE,
    }


class FieldforgeSettings(
    SourceSettings, PanoramaSettings, ViewsSettings, FieldSettings, bpy.types.PropertyGroup
):
    object_from: EnumProperty(
        name="Object From",
        items=[
            ("SELECTED", "Selected", "Use the active selected object"),
            ("PINNED", "Pinned", "Always use one object, whatever is selected"),
        ],
        update=_changed,
    )
    pinned: PointerProperty(
        name="Object",
        description="The object that is used whatever is selected",
        type=bpy.types.Object,
        poll=lambda self, item: item.type in {"MESH", "POINTCLOUD"},
        update=_changed,
    )
    source: EnumProperty(
        name="Source",
        description="What a mesh or a sphere is made of",
        items=SOURCES,
        update=_source_changed,
    )
    voxels_from: EnumProperty(
        name="Voxels From",
        items=[
            ("MESH", "Mesh", "Fill a closed mesh with voxels"),
            ("CUBES", "Cubes", "Each selected cube is one voxel"),
        ],
        update=_changed,
    )
    voxel_size: FloatProperty(
        name="Voxel Size",
        description="Edge length of a voxel",
        default=0.05,
        min=1e-5,
        soft_min=0.001,
        precision=4,
        subtype="DISTANCE",
        update=_changed,
    )
    take_vertices: BoolProperty(
        name="Take Vertices",
        description="Use the vertices of a mesh that has faces as points",
        update=_changed,
    )
    use_modifiers: BoolProperty(
        name="Use Modifiers",
        description="Use the source as its modifiers and shape keys make it",
        default=True,
        update=_changed,
    )
    model_id: StringProperty(options={"HIDDEN"})
    model: EnumProperty(
        name="Model",
        description="What makes the mesh",
        items=list_models,
        get=get_model,
        set=set_model,
    )
    depth_model: EnumProperty(
        name="Depth Model",
        description="What tells the depth of the picture",
        items=list_depth_models,
        get=get_depth_model,
        set=set_depth_model,
    )
    resolution: EnumProperty(
        name="Resolution",
        description="Nodes along each side of the cube in which the surface is solved",
        items=[(str(side), str(side), _RESOLUTION_WORDS[side]) for side in RESOLUTIONS],
        default="256",
    )
    seed: IntProperty(
        name="Seed", description="Chooses among the results of a model that samples", min=0
    )
    variations: IntProperty(
        name="Variations",
        description="How many results to make at once, each with the next seed",
        default=1,
        min=1,
        max=MAX_VARIATIONS,
    )
    layout: EnumProperty(
        name="Layout",
        description="Where several results go",
        items=[
            ("ROW", "Row", "Side by side along X, beside the source"),
            ("COLLECTION", "Collection", "All in one place, in a collection; the first one shows"),
        ],
    )
    own_sampling: BoolProperty(
        name="Own Sampling",
        description="Set steps and guidance, instead of what the model's authors recommend",
        update=_own_sampling_changed,
    )
    steps: IntProperty(
        name="Steps",
        description="Steps of the sampler: more take longer",
        default=10,
        min=1,
        soft_max=100,
        max=MAX_STEPS,
    )
    guidance: FloatProperty(
        name="Guidance",
        description="How closely the source is followed: 1 freely, 3 closely",
        default=1.5,
        min=0,
        soft_max=5,
        max=MAX_GUIDANCE,
        precision=1,
        step=10,
    )
    watch: BoolProperty(
        name="Watch It Form",
        description="Show in the viewport what forms, after each step of the sampler",
        default=True,
    )
    refine: BoolProperty(
        name="Refine to Input",
        description="Lead the surface through the source where there is one, and keep what was "
        "generated elsewhere",
    )
    region_result: EnumProperty(
        name="Result",
        description="Where the shape with the new region goes",
        items=[
            ("REPLACE", "Replace", "The object gets the new mesh; undo brings the old one back"),
            ("BESIDE", "Beside", "A new object beside it"),
        ],
    )
    hide_source: BoolProperty(
        name="Hide Source", description="Hide the source once its mesh is there"
    )


def register() -> None:
    bpy.types.Scene.fieldforge = PointerProperty(type=FieldforgeSettings)


def unregister() -> None:
    del bpy.types.Scene.fieldforge
