"""Where the cameras of the chosen source stand, before anything is made. Main thread; cheap enough
for every redraw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import bpy
import numpy as np

from ...backend.errors import BadInput
from ...backend.protocol import (
    VIEW_CAMERAS,
    VIEW_DISTANCE,
    VIEW_FIELD,
    camera_poses,
    ring_poses,
)
from ..capture import originals
from ..pictures import LONGEST_SIDE
from ..sources import offscreen
from ..sources.cameras import viewport
from ..sources.surfaces import chosen, may_have_surface
from .cameras import frame_of, in_order, lens_of_camera, pose_of
from .captures import of_field
from .curves import line_of
from .lenses import intrinsics_of_square
from .paths import along

ELEVATION = 20.0  # degrees, of a model that says nothing of its ring
NEAREST = 1.75  # in half cubes: from there on no camera of a ring is in the cube
DRAWN_SIDE = 512  # pixels of views of objects and of the viewport, of a model that says nothing


@dataclass(frozen=True, eq=False)
class Plan:
    """poses: (V, 4, 4) float64 world; intrinsics: (V, 4) of pictures of `side` x `side`; middle:
    (3,) and extent: of the cube around the thing; by_model: the model has a ring of its own, of
    which only the number and the start are chosen; names: of the scene's cameras."""

    poses: np.ndarray
    intrinsics: np.ndarray
    side: int
    middle: np.ndarray
    extent: float
    by_model: bool = False
    names: tuple[str, ...] = ()


def plan_of(context, model: dict) -> Plan:
    """Raises BadInput where something is missing."""
    settings = context.scene.fieldforge
    middle, extent = middle_of(context)
    side = settings.views_pixels // 8 * 8 or int(model.get("view_size") or DRAWN_SIDE)
    if settings.source == "IMAGE_VIEWS" and not settings.views_pixels:
        # Of what is sent: things are told from their ground, and edges drawn, in fine pictures.
        side = max(side, DRAWN_SIDE)
    if settings.source == "IMAGE_VIEWS" and settings.views_picture == "VIEWPORT":
        return _from_the_viewport(context, middle, extent, side)
    match settings.cameras_from:
        case "SCENE":
            return _of_the_scene(context, middle, extent, side)
        case "PATH":
            target = middle if settings.path_look == "MIDDLE" else None
            poses = along(line_of(path_curve(context)), settings.ring_count, target)
            plan = _with_field(poses, settings.views_field, side, middle, extent)
        case _ if uses_own_cameras(settings, model):
            plan = _of_the_model(settings, model, middle, extent, side)
        case _:
            plan = ring_of(settings, model, middle, extent, side)
    _check_apart(plan)
    return plan


def uses_image(settings) -> bool:
    return settings.source == "IMAGE_VIEWS" and settings.views_picture == "IMAGE"


def uses_own_cameras(settings, model: dict) -> bool:
    """Whether a model makes the views that it was made for."""
    ring = settings.cameras_from == "RING" and not settings.own_ring
    painted = settings.source == "TEXT_VIEWS" or uses_image(settings)
    return painted and ring and bool(own_angles(model))


def own_angles(model: dict) -> list[tuple[float, float]]:
    """Azimuth and elevation in degrees of the cameras that a model was made for, if it tells."""
    told = model.get("own_views") or [VIEW_CAMERAS.get(k) for k in model.get("cameras", ())]
    return [tuple(angles) for angles in told if angles is not None]


def _of_the_model(settings, model: dict, middle: np.ndarray, extent: float, side: int) -> Plan:
    """The cameras that the model makes by itself: the backend stands them there, too."""
    told = model.get("ring") or {}
    field = math.radians(told.get("field") or degrees_of(VIEW_FIELD))
    radius = told.get("radius", 0.0) * extent / 2 or fitting_distance(field, extent)
    start = degrees_of(settings.ring_start) if model.get("turns") else 0.0
    angles = [(azimuth + start, elevation) for azimuth, elevation in own_angles(model)]
    poses = camera_poses(angles, "z", radius)
    poses[:, :3, 3] += middle
    return _with_field(poses, field, side, middle, extent, by_model=True)


def ring_of(settings, model: dict, middle: np.ndarray, extent: float, side: int) -> Plan:
    """The ring of the settings, or of the model."""
    own = settings.own_ring
    told = model.get("ring") or {}
    field = (
        settings.views_field if own else math.radians(told.get("field") or degrees_of(VIEW_FIELD))
    )
    elevation = degrees_of(settings.ring_elevation) if own else told.get("elevation", ELEVATION)
    radius = settings.ring_distance if own else told.get("radius", 0.0) * extent / 2
    radius = radius or fitting_distance(field, extent)
    start = degrees_of(settings.ring_start)
    poses = np.asarray(
        ring_poses(settings.ring_count, elevation, radius, start, caps=settings.ring_caps), float
    )
    poses[:, :3, 3] += middle
    return _with_field(poses, field, side, middle, extent, by_model=not own)


def fitting_distance(field: float, extent: float) -> float:
    """From how far all of a thing in its cube is in the picture."""
    share = math.sin(VIEW_FIELD / 2) / math.sin(field / 2)
    return max(VIEW_DISTANCE * share, NEAREST) * extent / 2


def _with_field(
    poses: np.ndarray, field: float, side: int, middle: np.ndarray, extent: float, **more
) -> Plan:
    intrinsics = np.tile(of_field(field, side), (len(poses), 1))
    return Plan(poses, intrinsics, side, middle, extent, **more)


def degrees_of(angle: float) -> float:
    """Of a property, which has 32 bits: as the panel shows it."""
    return float(f"{math.degrees(angle):.6g}")


def _check_apart(plan: Plan) -> None:
    away = np.abs(plan.poses[:, :3, 3] - plan.middle).max(axis=1)
    if (away < plan.extent / 2).any():
        number = int((away < plan.extent / 2).argmax()) + 1
        raise BadInput(
            f"Camera {number} would be inside the thing, or in the box around it",
            f"Move the cameras at least {plan.extent / 2:.3g} away from the middle.",
        )


def middle_of(context) -> tuple[np.ndarray, float]:
    """((3,), side): the cube that the thing is in. Raises BadInput."""
    settings = context.scene.fieldforge
    of_objects = settings.source == "SCENE_VIEWS" or (
        settings.source == "IMAGE_VIEWS" and settings.views_picture == "OBJECTS"
    )
    if not of_objects and settings.views_around == "CURSOR":
        size = settings.result_size
        return np.array(context.scene.cursor.location, np.float64), size * 2 / LONGEST_SIDE
    items = _things(context, of_objects)
    if not items:
        raise BadInput("Nothing with a surface is selected", "Select mesh objects.")
    corners = np.concatenate([_corners(item) for item in items])
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = float((high - low).max())
    if not size > 0:
        raise BadInput("What is selected has no size", "Select objects with faces.")
    return (low + high) / 2, size * 2 / LONGEST_SIDE


def _things(context, of_objects: bool) -> list[bpy.types.Object]:
    if of_objects:
        return chosen(context)
    return [item for item in context.selected_objects if may_have_surface(item)]


def _corners(item: bpy.types.Object) -> np.ndarray:
    """(8, 3) float64 in the world, of an object or of what it instances."""
    matrix = np.array(item.matrix_world, np.float64)
    if item.type == "EMPTY":
        inner = [each for each in item.instance_collection.all_objects if may_have_surface(each)]
        if not inner:
            return matrix[None, :3, 3]
        shift = np.array(item.instance_collection.instance_offset, np.float64)
        corners = np.concatenate([_corners(each) for each in inner]) - shift
    else:
        corners = np.array(item.bound_box, np.float64)
    return corners @ matrix[:3, :3].T + matrix[:3, 3]


def path_curve(context) -> bpy.types.Object:
    """The curve of the field, else the one that is selected. Raises BadInput."""
    chosen = context.scene.fieldforge.path_curve
    if chosen is not None:
        return chosen
    curves = [item for item in context.selected_objects if item.type == "CURVE"]
    if not curves:
        raise BadInput("No curve is chosen", "Choose one, or select it.")
    return curves[0]


# ------------------------------------------------------------------------------------- the viewport


def _from_the_viewport(context, middle: np.ndarray, extent: float, side: int) -> Plan:
    """The viewport's own camera, and where it comes to when it goes around the middle."""
    found = viewport(context)
    if found is None or not offscreen.available(context):
        raise BadInput("There is no 3D viewport to look at", "Open one, or choose Image.")
    space, region = found
    projection = np.array(space.region_3d.window_matrix, np.float64)
    if projection[3, 3] != 0:
        raise BadInput("The viewport has no perspective", "Switch it on with Numpad 5.")
    pose = np.linalg.inv(np.array(space.region_3d.view_matrix, np.float64))
    pose[:3, :3] /= np.linalg.norm(pose[:3, :3], axis=0)
    count = context.scene.fieldforge.ring_count
    poses = np.stack([_about(middle, 2 * math.pi * k / count) @ pose for k in range(count)])
    # The square in the middle of the region, as high or as wide as it.
    shorter = min(region.width, region.height)
    focal = np.array([projection[0, 0] * region.width, projection[1, 1] * region.height]) / shorter
    shift = np.array([projection[0, 2] * region.width, projection[1, 2] * region.height]) / shorter
    one = [*(focal * side / 2), *((side - 1) / 2 + [-1, 1] * shift * side / 2)]
    plan = Plan(poses, np.tile(one, (count, 1)), side, middle, extent)
    _check_apart(plan)
    return plan


def _about(middle: np.ndarray, angle: float) -> np.ndarray:
    """(4, 4): a turn about the upright axis through `middle`."""
    matrix = np.eye(4)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle
    return matrix


# ------------------------------------------------------------------------------ the scene's cameras


def _of_the_scene(context, middle: np.ndarray, extent: float, side: int) -> Plan:
    cameras = chosen_cameras(context)
    if not cameras:
        raise BadInput("No camera is chosen", "Select cameras, or choose a collection of them.")
    frame = frame_of(context.scene)
    intrinsics = [intrinsics_of_square(lens_of_camera(item), frame, side) for item in cameras]
    poses = np.stack([pose_of(item) for item in cameras])
    names = tuple(item.name for item in cameras)
    plan = Plan(poses, np.stack(intrinsics), side, middle, extent, names=names)
    _check_apart(plan)
    return plan


def chosen_cameras(context) -> list[bpy.types.Object]:
    """Those of the collection of the field; else the selected ones, the active one first where they
    are no views; of one view, all of its collection."""
    settings = context.scene.fieldforge
    if settings.cameras_of is not None:
        return in_order(settings.cameras_of.all_objects)
    active = context.view_layer.objects.active
    home = home_of_views(active)
    selected = [item for item in originals(context) if item.type == "CAMERA"]
    if home is not None and len(selected) < 2:
        return in_order(home.objects)
    ordered = in_order(selected)
    if active in ordered and not active.fieldforge_view.number:
        ordered.remove(active)
        ordered.insert(0, active)
    return ordered


def exported_cameras(context) -> list[bpy.types.Object]:
    """The views that the active one belongs to, of these the selected ones where there are several;
    else the chosen cameras, which the field may still name from something that was done before."""
    home = home_of_views(context.view_layer.objects.active)
    if home is None:
        return chosen_cameras(context)
    selected = [item for item in originals(context) if item.type == "CAMERA"]
    return in_order(home.objects if len(selected) < 2 else selected)


def home_of_views(item: bpy.types.Object | None) -> bpy.types.Collection | None:
    """The collection of views that a camera, or the empty that carries them, belongs to."""
    if item is None or not item.select_get():
        return None
    homes = [each for each in item.users_collection if each.fieldforge_views.kind]
    return homes[0] if homes else None
