"""The panel's sources about views -> facts in words, and what is sent. Main thread."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from ...backend.errors import BadInput
from ...backend.protocol import (
    MAX_SCENE_VIEWS,
    MAX_VIEWS,
    VIEW_CAMERAS,
    VIEW_DISTANCE,
    VIEW_FIELD,
    ImageToViews,
    TextToViews,
    ViewsToMesh,
    ViewsToScene,
)
from ..capture import Facts, counted
from ..compose import PictureCapture
from ..models import known as known_models
from ..pictures import ImageCapture
from ..sources import images, offscreen, surfaces
from .cameras import View, frame_of, lens_of_camera, pose_of, view_of
from .captures import (
    ObjectViews,
    RebuildRequest,
    SceneRequest,
    SeenPicture,
    ViewsRequest,
    projection_of,
)
from .lenses import intrinsics_of_backdrop
from .paths import focus
from .planning import (
    Plan,
    chosen_cameras,
    degrees_of,
    home_of_views,
    middle_of,
    own_angles,
    plan_of,
    ring_of,
    uses_image,
    uses_own_cameras,
)

KINDS = {
    "IMAGE_VIEWS": ImageToViews.kind,
    "TEXT_VIEWS": TextToViews.kind,
    "SCENE_VIEWS": ViewsToScene.kind,
}
MAKE_VIEWS = {"IMAGE_VIEWS", "TEXT_VIEWS"}
REBUILT_SIDE = 512
FEWEST = 2
ANGLE = 3.0  # degrees by which a camera may stand beside one of a model's


def is_views(settings) -> bool:
    return settings.source in KINDS


def kind_of(settings) -> str:
    """The task of a source about views."""
    if settings.source == "SCENE_VIEWS" and by_model(settings):
        return ViewsToMesh.kind
    return KINDS[settings.source]


def is_rebuilt(settings) -> bool:
    """Whether a mesh is made of what cameras see of objects."""
    return settings.source == "SCENE_VIEWS" and settings.scene_from == "OBJECTS"


def by_model(settings) -> bool:
    return settings.scene_from == "CAMERAS" and settings.mesh_by == "MODEL"


def asks_for_cameras(settings) -> bool:
    """Whether views are to be made from cameras that are given, instead of a model's ring."""
    if settings.source not in MAKE_VIEWS:
        return False
    ring = settings.cameras_from == "RING" and not settings.own_ring
    return not ring or (settings.source == "IMAGE_VIEWS" and not uses_image(settings))


# ------------------------------------------------------------------------------------------- facts


def facts(context, model: dict) -> Facts:
    settings = context.scene.fieldforge
    try:
        if settings.source == "SCENE_VIEWS":
            return _scene_facts(context, model)
        return _views_facts(context, model)
    except BadInput as error:
        return Facts(f"{error.cause.rstrip('.')}.", error.cause.rstrip("."), error.remedy)


def _views_facts(context, model: dict) -> Facts:
    settings = context.scene.fieldforge
    if settings.source == "TEXT_VIEWS" and not settings.prompt.strip():
        reason = "There is no text"
        return Facts(f"{reason}.", reason, "Write what the thing shall be: a wooden chair.")
    if uses_image(settings):
        found = images.facts(context)
        if found.reason:
            return found
    if uses_own_cameras(settings, model):
        middle_of(context)
        return Facts(f"{counted(len(own_angles(model)), 'view')}, as the model makes them")
    plan = plan_of(context, model)
    count = len(plan.poses)
    known = known_views(settings)
    if count > MAX_VIEWS:
        reason = f"{count:,} cameras are more than the {MAX_VIEWS} that a model takes"
        return Facts(f"{reason}.", reason, "Choose fewer.")
    if count <= known:
        reason = f"{counted(count, 'camera')} and {counted(known, 'known view')} leave none to make"
        return Facts(f"{reason}.", reason, "Choose more cameras, or fewer known views.")
    return Facts(_words(settings, plan, known))


def known_views(settings) -> int:
    """How many of the first cameras see what is there."""
    if settings.source == "TEXT_VIEWS":
        return 0
    return settings.known_views if settings.views_picture == "OBJECTS" else 1


def _words(settings, plan: Plan, known: int) -> str:
    count = len(plan.poses)
    where = counted(count, "camera")
    if not known:
        return where
    first = "the picture" if settings.views_picture == "IMAGE" else "the viewport"
    if settings.views_picture == "OBJECTS":
        first = "the objects" if known == 1 else f"the objects, {known} times"
    beginning = f" ({plan.names[0]})" if plan.names else ""
    return f"{where}; the first{beginning} sees {first}"


def _scene_facts(context, model: dict) -> Facts:
    settings = context.scene.fieldforge
    if settings.scene_from == "OBJECTS":
        found = surfaces.facts(context)
        if found.reason:
            return found
        plan = _rebuilding_plan(context)
        return Facts(f"{found.text}, seen by {counted(len(plan.poses), 'camera')}")
    views = shown_views(context)
    if len(views) < FEWEST:
        have = "No camera" if not views else "Only one camera"
        reason = f"{have} with a background image is chosen"
        advice = "Make views first, select such cameras, or import a transforms.json below."
        return Facts(f"{reason}.", reason, advice)
    if len(views) > MAX_SCENE_VIEWS:
        reason = f"{len(views):,} views are more than the {MAX_SCENE_VIEWS} that are accepted"
        return Facts(f"{reason}.", reason, "Choose fewer.")
    home = settings.cameras_of or home_of_views(context.view_layer.objects.active)
    words = f"{counted(len(views), 'camera')} with pictures"
    if by_model(settings):
        numbers_for(model, np.stack([pose_of(view.camera) for view in views]))
    elif home is not None and home.fieldforge_views.view_kind == "depth":
        reason = "These views are depth without a unit"
        return Facts(f"{reason}.", reason, "Choose A Model, which understands them.")
    warning = ""
    if not _top_and_bottom(views):
        warning = "No view from above or below: the mesh is guessed there."
    return Facts(f"{home.name}: {words}" if home else words, warning=warning)


def _top_and_bottom(views: list[View]) -> bool:
    """Whether there is a view from well above and one from below."""
    back = np.stack([pose_of(view.camera)[:3, 2] for view in views])
    return bool(back[:, 2].max() > np.sin(np.radians(35)) and back[:, 2].min() < -0.1)


def shown_views(context) -> list[View]:
    """The chosen cameras that have background images. Raises BadInput."""
    found = [view_of(camera) for camera in chosen_cameras(context)]
    return [view for view in found if view is not None]


def numbers_for(model: dict, poses: np.ndarray) -> tuple[int, ...]:
    """The numbers of the model's cameras that (V, 4, 4) poses are, or stand for: views that another
    paints for this model count as its own, in their order. Raises BadInput where they are others.
    """
    wanted = _cameras_of(model)
    off = poses[:, :3, 3] - focus(poses)
    found = _numbers_of(off, wanted)
    if found and (model.get("any_views") or {*found} == {*wanted}):
        return found
    for painter in known_models():
        painted = _cameras_of(painter)
        if model.get("id") not in (painter.get("needs") or ()) or len(painted) != len(wanted):
            continue
        found = _numbers_of(off, painted)
        if {*found} == {*painted}:
            return tuple(wanted[painted.index(number)] for number in found)
    named = ", ".join(map(str, wanted)) or "which the backend has not told yet"
    raise BadInput(
        "These are not the cameras that the model was made with",
        f"It knows {named}. Choose The Views instead, which takes any cameras.",
    )


def _cameras_of(model: dict) -> tuple[int, ...]:
    return tuple(int(number) for number in model.get("cameras") or ())


def _numbers_of(off: np.ndarray, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Of each of the directions (V, 3), or none at all where one is not in the list or two are the
    same."""
    found = [_number_of(way, wanted) for way in off]
    return () if None in found or len({*found}) < len(found) else tuple(found)


def _number_of(way: np.ndarray, wanted: tuple[int, ...]) -> int | None:
    """The camera of the list that stands in direction `way` (3,), by its angles."""
    way = way / max(float(np.linalg.norm(way)), 1e-9)
    for number in wanted:
        if number not in VIEW_CAMERAS:  # of a backend that knows more
            continue
        azimuth, elevation = np.radians(VIEW_CAMERAS[number])
        flat = np.cos(elevation)
        there = np.array([flat * np.sin(azimuth), -flat * np.cos(azimuth), np.sin(elevation)])
        if way @ there > np.cos(np.radians(ANGLE)):
            return number
    return None


# ----------------------------------------------------------------------------------------- capture


def capture(context, model: dict) -> PictureCapture:
    """Read what is chosen. Raises BadInput."""
    settings = context.scene.fieldforge
    context.view_layer.update()  # what was just moved is where it is
    if settings.source == "SCENE_VIEWS":
        if settings.scene_from == "OBJECTS":
            return _rebuilding(context)
        return _scene(context, model)
    return _views(context, model)


def _views(context, model: dict) -> ViewsRequest:
    settings = context.scene.fieldforge
    with_text = settings.source == "TEXT_VIEWS"
    shared = {"prompt": (settings.prompt if with_text else settings.views_words).strip()}
    if uses_own_cameras(settings, model):
        return _of_own_cameras(context, model, shared)
    plan = plan_of(context, model)
    fields = {"size": settings.views_pixels // 8 * 8, "path": settings.views_one_by_one}
    shared |= {"middle": plan.middle, "extent": plan.extent}
    if with_text or settings.views_picture == "IMAGE":
        given = None if with_text else images.capture(context)
        name = short_name(shared["prompt"]) if with_text else given.name
        return _request(settings, plan, name, given, fields, shared)
    if settings.views_picture == "VIEWPORT":
        name, given = "Viewport", _drawn_viewport(context, plan)
    else:
        items = surfaces.chosen(context)
        name = surfaces.name_of(items, context)
        given = _objects(context, items, plan, settings.known_views)
    return ViewsRequest(
        name,
        given=given,
        poses=plan.poses,
        intrinsics=plan.intrinsics,
        side=plan.side,
        fields=fields,
        **shared,
    )


def _of_own_cameras(context, model: dict, shared: dict) -> ViewsRequest:
    """Of the views that the model was made for, of words or a picture."""
    settings = context.scene.fieldforge
    middle, extent = middle_of(context)
    fields = {"size": settings.views_pixels // 8 * 8}  # others than its own are refused in words
    if model.get("turns"):
        fields["start"] = degrees_of(settings.ring_start)
    if not uses_image(settings):
        return ViewsRequest(short_name(shared["prompt"]), middle, extent, fields=fields, **shared)
    given = images.capture(context)
    return ViewsRequest(
        *(given.name, middle, extent),
        given=given,
        background=settings.background,
        fields=fields,
        **shared,
    )


def _request(settings, plan: Plan, name: str, given, fields: dict, shared: dict) -> ViewsRequest:
    """Of a picture whose camera is said to be the first, or of words."""
    if plan.by_model:
        fields |= {
            "views": settings.ring_count,
            "start": degrees_of(settings.ring_start),
            "caps": settings.ring_caps,
        }
        return ViewsRequest(
            name, given=given, background=settings.background, fields=fields, **shared
        )
    if not plan.names:  # one field of view for all, whatever the shape of the picture
        fields["field"] = degrees_of(settings.views_field)
        return ViewsRequest(
            name,
            given=given,
            poses=plan.poses,
            background=settings.background,
            fields=fields,
            **shared,
        )
    if given is None:
        fields["size"] = plan.side
    return ViewsRequest(
        name,
        given=given,
        poses=plan.poses,
        intrinsics=plan.intrinsics,
        side=plan.side,
        squared=True,
        background=settings.background,
        fields=fields,
        **shared,
    )


def short_name(words: str) -> str:
    """A name for what is made of a text, of its first words."""
    name = words[0].upper() + words[1:]
    return name if len(name) <= 40 else name[:40].rsplit(" ", 1)[0]


def _drawn_viewport(context, plan: Plan) -> ImageCapture:
    """What the viewport shows, as the first camera of the plan sees it."""
    image = _draw(context, plan.poses[0], plan.intrinsics[0], plan.side, plan.middle)
    if not image[..., 3].any():
        raise BadInput(
            "The view shows nothing.", "Turn it so that the object is in it (View > Frame All)."
        )
    return ImageCapture("Viewport", image, np.eye(4), drawn=True)


def _draw(
    context,
    pose: np.ndarray,
    intrinsics: np.ndarray,
    side: int,
    middle: np.ndarray,
    shading: str = "",
) -> np.ndarray:
    """(side, side, 4) uint8 by the graphics card, row 0 at the bottom."""
    distance = float(np.linalg.norm(pose[:3, 3] - middle)) or 1.0
    projection = projection_of(intrinsics, (side, side), distance)
    drawn, _ = offscreen.draw(context, np.linalg.inv(pose), projection, (side, side), shading)
    return drawn


def _objects(
    context, items: list[bpy.types.Object], plan: Plan, count: int, flat: bool = False
) -> ObjectViews:
    """The objects as the first `count` cameras see them; flat: in their colours, without light,
    unless they are shown with their materials."""
    settings = context.scene.fieldforge
    parts = surfaces.parts(context, items)
    drawn = None
    if offscreen.available(context) and (settings.textured_views or not flat):
        shading = "MATERIAL" if settings.textured_views else "SOLID"
        with offscreen.only(context, items):
            drawn = np.stack(
                [
                    _draw(context, pose, intrinsics, plan.side, plan.middle, shading)[::-1]
                    for pose, intrinsics in zip(
                        plan.poses[:count], plan.intrinsics[:count], strict=True
                    )
                ]
            )
    return ObjectViews(parts, plan.poses[:count], plan.intrinsics[:count], plan.side, drawn, flat)


def _rebuilding_plan(context) -> Plan:
    settings = context.scene.fieldforge
    middle, extent = middle_of(context)
    side = settings.views_pixels // 8 * 8 or REBUILT_SIDE
    if settings.cameras_from != "RING":
        return plan_of(context, {"view_size": side})
    return ring_of(settings, {}, middle, extent, side)


def _rebuilding(context) -> RebuildRequest:
    items = surfaces.chosen(context)
    plan = _rebuilding_plan(context)
    objects = _objects(context, items, plan, len(plan.poses), flat=True)
    return RebuildRequest(
        surfaces.name_of(items, context), objects, plan.middle, plan.extent, _mesh_fields(context)
    )


def _mesh_fields(context) -> dict:
    settings = context.scene.fieldforge
    return {"resolution": int(settings.scene_resolution), "texture": settings.scene_texture}


def _scene(context, model: dict) -> SceneRequest:
    settings = context.scene.fieldforge
    views = shown_views(context)
    frame = frame_of(context.scene)
    seen = [seen_by(context, view, frame) for view in views]
    poses = np.stack([view.pose for view in seen])
    middle = focus(poses)
    home = settings.cameras_of or home_of_views(context.view_layer.objects.active)
    numbers, cube, is_depth = None, None, False
    if by_model(settings):
        numbers = numbers_for(model, poses)
        cube = _cube(seen[0], middle)
        is_depth = home is not None and home.fieldforge_views.view_kind == "depth"
    return SceneRequest(
        name_of_scene(views, home),
        seen,
        middle,
        settings.background,
        numbers,
        cube,
        is_depth,
        fields=_mesh_fields(context),
    )


def name_of_scene(views: list[View], home: bpy.types.Collection | None) -> str:
    name = home.name if home is not None else views[0].camera.name
    return name.removesuffix(" views") or name


def _cube(view: SeenPicture, middle: np.ndarray) -> np.ndarray:
    """(4, 4) from the models' cube to the world: as large as the picture of one camera shows it."""
    height, width = view.picture.pixels.shape[:2]
    field = np.arctan(max(width / view.intrinsics[0], height / view.intrinsics[1]) / 2)
    distance = float(np.linalg.norm(view.pose[:3, 3] - middle))
    matrix = np.eye(4)
    matrix[:3, :3] *= distance * np.tan(field) / (VIEW_DISTANCE * np.tan(VIEW_FIELD / 2))
    matrix[:3, 3] = middle
    return matrix


def seen_by(context, view: View, frame) -> SeenPicture:
    """The picture of a camera, and where Blender shows it."""
    with images.readable(context, view.image) as data:
        picture = ImageCapture(
            name=Path(view.image.name).stem or view.image.name,
            pixels=images.pixels_of(data),
            matrix_world=np.eye(4),
            linear=images.is_linear(data),
            premultiplied=data.is_float and data.alpha_mode in {"STRAIGHT", "PREMUL"},
            opaque=data.channels < 4 or data.alpha_mode == "NONE",
        )
    lens = lens_of_camera(view.camera)
    intrinsics = intrinsics_of_backdrop(lens, frame, view.place)
    return SeenPicture(picture, pose_of(view.camera), intrinsics, depth_of_camera(view.camera))


def depth_of_camera(camera: bpy.types.Object) -> np.ndarray | None:
    """(h, w) float32 in metres of the world, of a view whose model told its depth."""
    image = camera.fieldforge_view.depth
    if image is None or not image.size[0]:
        return None
    carrier = camera.parent.matrix_world if camera.parent is not None else Matrix()
    scale = abs(carrier.to_3x3().determinant()) ** (1 / 3)
    return images.pixels_of(image)[::-1, :, 0] * np.float32(scale)
