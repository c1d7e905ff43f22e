"""What can be made a mesh or a sphere of: for each source its facts in words, what is sent, and
its fields.

Points and voxels are read by `..capture`; everything else is a picture of some kind.
"""

from __future__ import annotations

import bpy

from ...backend.errors import BadInput
from ...backend.protocol import (
    DepthToMesh,
    ImageToMesh,
    PointsToMesh,
    Shape,
    SketchToMesh,
    TextToMesh,
    ViewsToMesh,
    VoxelsToMesh,
)
from .. import capture as objects
from ..capture import Facts, Origin
from ..compose import Capture
from ..fields import source as moving
from ..panorama import source as panorama
from ..pictures import ShapeCapture, TextCapture
from ..views import source as posed_views
from . import cameras, images, sketches, surfaces, viewport, views

TASKS = {
    "POINTS": PointsToMesh.kind,
    "VOXELS": VoxelsToMesh.kind,
    "VIEWPORT": ImageToMesh.kind,
    "IMAGE": ImageToMesh.kind,
    "SKETCH": SketchToMesh.kind,
    "DEPTH": DepthToMesh.kind,
    "VIEWS": ViewsToMesh.kind,
    "TEXT": TextToMesh.kind,
    "SHAPE": Shape.kind,
    **panorama.KINDS,
    **posed_views.KINDS,
    **moving.KINDS,
}
FROM_OBJECTS = {"DEPTH", "VIEWS"}


def of_points_or_voxels(settings) -> bool:
    return settings.source in {"POINTS", "VOXELS"}


def facts(context, model: dict) -> Facts:
    """What the panel says about the source; cheap enough for every redraw. model: the chosen one,
    as the backend lists it."""
    settings = context.scene.fieldforge
    match settings.source:
        case "POINTS" | "VOXELS":
            return objects.facts(context)
        case "VIEWPORT":
            return viewport.facts(context)
        case "IMAGE":
            return images.facts(context)
        case "SKETCH":
            return sketches.facts(context)
        case "DEPTH":
            return views.depth_facts(context)
        case "VIEWS":
            return views.views_facts(context, model)
        case "TEXT":
            return _text_facts(settings)
        case kind if kind in panorama.KINDS:
            return panorama.facts(context, model)
        case kind if kind in posed_views.KINDS:
            return posed_views.facts(context, model)
        case kind if kind in moving.KINDS:
            return moving.facts(context, model)
        case _:
            return Facts("A shape of the model's own choice")


def _text_facts(settings) -> Facts:
    if settings.prompt.strip():
        return Facts("")
    reason = "There is no text"
    return Facts(f"{reason}.", reason, "Write what the shape shall be: a wooden chair.")


def capture(context, model: dict) -> Capture:
    """Read the chosen source. Raises BadInput, or whatever FieldforgeError stands in the way."""
    settings = context.scene.fieldforge
    found = facts(context, model)
    if found.reason:
        raise BadInput(f"{found.reason}.", found.advice)
    match settings.source:
        case "POINTS" | "VOXELS":
            return objects.capture(context)
        case "VIEWPORT":
            return viewport.capture(context)
        case "IMAGE":
            return images.capture(context)
        case "SKETCH":
            return sketches.capture(context)
        case "DEPTH":
            return views.capture_depth(context)
        case "VIEWS":
            return views.capture_views(context, model)
        case "TEXT":
            words = settings.prompt.strip()
            return TextCapture(panorama.short_name(words), words, cameras.at_cursor(context))
        case kind if kind in panorama.KINDS:
            return panorama.capture(context, model)
        case kind if kind in posed_views.KINDS:
            return posed_views.capture(context, model)
        case kind if kind in moving.KINDS:
            return moving.capture(context, model)
        case _:
            return ShapeCapture("Shape", cameras.at_cursor(context))


def source_object(context) -> bpy.types.Object | None:
    """The object whose frame the result shares, where there is one."""
    settings = context.scene.fieldforge
    cubes = settings.source == "VOXELS" and settings.voxels_from == "CUBES"
    if not of_points_or_voxels(settings) or cubes:
        return None
    return objects.source_object(context)


def source_objects(context) -> list[bpy.types.Object]:
    """The objects that the source consists of; none where it is a picture."""
    settings = context.scene.fieldforge
    if of_points_or_voxels(settings):
        return objects.source_objects(context)
    from_objects = settings.source in FROM_OBJECTS or posed_views.is_rebuilt(settings)
    if from_objects and settings.seen_objects == "SELECTED":
        return surfaces.chosen(context)
    if settings.source == "SKETCH" and settings.sketch_from == "OBJECT":
        item = sketches.chosen(context)
        return [item] if item else []
    return []


def origin(context) -> Origin:
    """What results of the chosen source are going to stand for while they are selected."""
    settings = context.scene.fieldforge
    if settings.source == "SKETCH":
        return objects.origin_of(context, [])
    if settings.source == "SCENE_VIEWS" and settings.scene_from == "CAMERAS":
        return objects.origin_of(context, posed_views.chosen_cameras(context))
    return objects.origin_of(context, source_objects(context))
