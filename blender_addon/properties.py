"""What the panel's fields hold, kept in the scene."""

import zlib

import bpy
from bpy.props import (
    BoolProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
)

from ..backend.protocol import MAX_GUIDANCE, MAX_STEPS, RESOLUTIONS, PointsToMesh, VoxelsToMesh
from . import session
from .capture import forget_facts

DEFAULT_MODEL = PointsToMesh.model
MAX_VARIATIONS = 16

_RESOLUTION_WORDS = {
    128: "Fast: for a first look",
    256: "Balanced: for most sources",
    512: "Fine: for large clouds with small detail; slow, and needs memory",
}

REFINABLE = {PointsToMesh.kind, VoxelsToMesh.kind}

# Blender keeps no copy of what an items callback returns, so that somebody else has to.
_model_items: list[tuple[str, str, str, int]] = []


def _changed(self, context) -> None:
    forget_facts()


def _use_changed(self, context) -> None:
    """Not every model does points and voxels."""
    self.model = chosen_model(self)["id"]
    forget_facts()


def task_kind(settings) -> str:
    return PointsToMesh.kind if settings.source == "POINTS" else VoxelsToMesh.kind


def models_for(settings) -> list[dict]:
    """The backend's models for what is asked; the one that needs no weights before it was asked."""
    kind = task_kind(settings)
    known = [model for model in session.jobs().connection.models if kind in model.get("tasks", ())]
    title = DEFAULT_MODEL.replace("-", " ").capitalize()
    default = {"id": DEFAULT_MODEL, "title": title, "summary": "", "samples": False, "ready": True}
    return known or [default]


def chosen_model(settings) -> dict:
    models = models_for(settings)
    return next((model for model in models if model["id"] == settings.model), models[0])


def sampling_choices(settings, model: dict) -> dict:
    """Fields of `compose.Choices` that only a model which samples has."""
    if not model.get("samples"):
        return {}
    own = settings.own_sampling
    return {
        "seed": settings.seed,
        "variations": settings.variations,
        "steps": settings.steps if own else None,
        "guidance": round(settings.guidance, 4) if own else None,
        "preview": settings.watch,
        "refine": settings.refine and task_kind(settings) in REFINABLE,
    }


def _list_models(self, context) -> list[tuple[str, str, str, int]]:
    _model_items[:] = [
        (
            model["id"],
            model.get("title") or model["id"],
            model.get("summary") or "",
            _number_of(model["id"]),
        )
        for model in models_for(self)
    ]
    return _model_items


def _number_of(model_id: str) -> int:
    """What a file keeps of the choice: it must mean the same model when the list is another one."""
    return 0 if model_id == DEFAULT_MODEL else 1 + zlib.crc32(model_id.encode()) % (2**31 - 2)


class FieldforgeSettings(bpy.types.PropertyGroup):
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
        items=[
            ("POINTS", "Points", "Lay a surface through points"),
            ("VOXELS", "Voxels", "Lay a smooth surface around voxels"),
        ],
        update=_use_changed,
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
    model: EnumProperty(name="Model", description="What makes the mesh", items=_list_models)
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
        name="Own Steps and Guidance",
        description="Set what the model's authors found best for everyone yourself",
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
    hide_source: BoolProperty(
        name="Hide Source", description="Hide the source once its mesh is there"
    )


def register() -> None:
    bpy.types.Scene.fieldforge = PointerProperty(type=FieldforgeSettings)


def unregister() -> None:
    del bpy.types.Scene.fieldforge
