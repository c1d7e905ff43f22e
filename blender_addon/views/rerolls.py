"""Some or all of the views once more, and other things that are done with views. Main thread."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import EnumProperty, IntProperty

from ...backend.errors import BadInput, FieldforgeError
from ...backend.protocol import ImageToViews
from .. import preferences, session
from ..compose import Choices
from ..importing import Destination, select_only
from ..model_choice import FIXED_CAMERAS
from ..pictures import small_image
from .cameras import frame_of, in_order, view_of
from .captures import SeenPicture, ViewsRequest, stacked
from .clip import sequence_files
from .planning import home_of_views
from .source import seen_by

LARGEST = 2  # times the size that a model was made for: beyond, its views fall apart
WHICH = [
    ("ONE", "This View", "Make this view anew, beside all others"),
    ("REST", "What Is Not Kept", "Make all views anew that are not marked as kept"),
    ("ALL", "All Views", "Make all views anew, with another seed"),
]


def disabled_reason(context, which: str = "") -> str:
    """Why views cannot be made anew now, or ""."""
    missing = preferences.backend_missing(preferences.current_settings())
    if missing:
        return f"{missing[0]}. {missing[1]}".rstrip(". ")
    active = context.view_layer.objects.active
    home = home_of_views(active)
    if home is None or not home.fieldforge_views.job_id:
        return "Select a view that was made by Fieldforge"
    if any(job.destination.views.get("into") == home.name for job in session.jobs().active):
        return f"{home.name} are being made anew already"
    if which in {"", "ALL"}:
        return ""
    return _why_not_some(home, active, which)


def _why_not_some(home, active, which: str) -> str:
    kept, new = split(home, active, which)
    if which == "ONE" and not new:
        return "Select a view that was not given"
    if not new:
        return "All views are kept"
    if not kept:
        return "No view is kept: make all anew"
    return none_beside(home)


def none_beside(home: bpy.types.Collection) -> str:
    """Why no view can be made beside the others of its collection, or ""."""
    kept = home.fieldforge_views
    if kept.view_kind == "depth":
        return "Views of depth are made all together: make all anew"
    listed = session.jobs().connection.models
    if listed and not _models_beside(home, listed):
        return f"No model here makes views of {kept.size} pixels beside others: make all anew"
    return ""


def _models_beside(home: bpy.types.Collection, listed: list[dict]) -> list[dict]:
    """Those that make views beside others, as large as these are; the one that is taken first."""
    kept = home.fieldforge_views
    able = [
        model
        for model in listed
        if ImageToViews.kind in model.get("tasks", ())
        and model.get("family") not in FIXED_CAMERAS
        and model.get("ready", True)
        and (model["id"] == kept.model or _paints(model, kept.size))
    ]
    return sorted(able, key=lambda model: (model["id"] != kept.model, not _is_default(model)))


def _paints(model: dict, size: int) -> bool:
    """Whether a model, if it tells what size it was made for, can be asked for this one."""
    own = model.get("view_size") or 0
    return not own or size <= LARGEST * own


def _is_default(model: dict) -> bool:
    return ImageToViews.kind in model.get("default_for", ())


def split(
    home: bpy.types.Collection, active: bpy.types.Object, which: str
) -> tuple[list[bpy.types.Object], list[bpy.types.Object]]:
    """(cameras whose views stay, cameras whose views are made anew)"""
    cameras = in_order(home.objects)
    kept = []
    for camera in cameras:
        view = camera.fieldforge_view
        stays = camera != active if which == "ONE" else view.keep
        if view.given or stays:
            kept.append(camera)
    return kept, [camera for camera in cameras if camera not in kept]


class FIELDFORGE_OT_reroll_views(bpy.types.Operator):
    """Make views anew with another seed; the others stay, and the new ones fit them"""

    bl_idname = "fieldforge.reroll_views"
    bl_label = "Make Anew"

    which: EnumProperty(items=WHICH, options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def poll(cls, context) -> bool:
        reason = disabled_reason(context)
        if reason:
            cls.poll_message_set(reason)
        return not reason

    def execute(self, context):
        home = home_of_views(context.view_layer.objects.active)
        reason = disabled_reason(context, self.which)
        if reason:
            self.report({"WARNING"}, reason)
            return {"CANCELLED"}
        try:
            if self.which == "ALL":
                repeat_all(context, home)
            else:
                repeat_some(context, home, self.which)
        except FieldforgeError as error:
            session.jobs().tell("The views cannot be made anew", error)
            self.report({"WARNING"}, error.cause)
            return {"CANCELLED"}
        return {"FINISHED"}


def repeat_all(context, home: bpy.types.Collection) -> None:
    """The same task with another seed, into the same cameras."""
    kept = home.fieldforge_views
    session.jobs().repeat(
        kept.job_id, kept.kind, _as_before(home), _destination(context, home), _watch(context)
    )


def repeat_some(context, home: bpy.types.Collection, which: str) -> None:
    """What is kept becomes what is given."""
    from ..jobs import new_seed

    stay, new = split(home, context.view_layer.objects.active, which)
    cameras = [*stay, *new]
    request = _request(context, home, cameras, len(stay))
    numbers = [camera.fieldforge_view.number for camera in cameras]
    model = _model_beside(home)
    # What is best for one model is not for another.
    as_before = model == home.fieldforge_views.model
    steps, guidance = _sampling(home) if as_before else (None, None)
    choices = Choices(model, 0, new_seed(), steps, guidance, preview=_watch(context))
    session.jobs().generate(
        request,
        choices,
        _destination(context, home, numbers),
        kind=ImageToViews.kind,
        samples=True,
    )


def _request(context, home, cameras: list[bpy.types.Object], given: int) -> ViewsRequest:
    """Poses are those in the space of the rig, as they came: a rig that was moved or scaled does
    not change what is made."""
    seen = _seen(context, cameras)
    kept = home.fieldforge_views
    images, intrinsics = stacked(
        [small_image(each.picture) for each in seen], np.stack([each.intrinsics for each in seen])
    )
    frame = np.eye(4) if kept.rig is None else np.linalg.inv(np.array(kept.rig.matrix_world))
    poses = np.stack([_normal(frame @ each.pose) for each in seen])
    fields = {"size": kept.size // 8 * 8, "path": kept.one_by_one}
    return ViewsRequest(
        home.name,
        np.zeros(3),
        kept.extent,
        given=images[:given],
        poses=poses,
        intrinsics=intrinsics,
        prompt=kept.prompt,
        fields=fields,
    )


def _seen(context, cameras: list[bpy.types.Object]) -> list[SeenPicture]:
    frame, seen = frame_of(context.scene), []
    for camera in cameras:
        view = view_of(camera)
        if view is None:
            raise BadInput(
                f"{camera.name} has no picture any more.",
                "Undo what removed its background image, or delete the camera.",
            )
        seen.append(seen_by(context, view, frame))
    return seen


def _normal(pose: np.ndarray) -> np.ndarray:
    pose = pose.copy()
    pose[:3, :3] /= np.linalg.norm(pose[:3, :3], axis=0)
    return pose


def _model_beside(home: bpy.types.Collection) -> str:
    """The id of the model that makes some of the views anew."""
    listed = session.jobs().connection.models
    able = _models_beside(home, listed)
    return able[0]["id"] if able else home.fieldforge_views.model


def _as_before(home: bpy.types.Collection):
    """How the views were made: the history shows it of the task that makes all of them anew."""
    from ..history import Job

    kept = home.fieldforge_views
    steps, guidance = _sampling(home)
    return Job(
        name=home.name,
        kind=kept.kind,
        model=kept.model,
        resolution=0,
        seed=kept.seed,
        destination=Destination(home.name, np.eye(4)),
        steps=steps,
        guidance=guidance,
    )


def _sampling(home: bpy.types.Collection) -> tuple[int | None, float | None]:
    kept = home.fieldforge_views
    return kept.steps or None, None if kept.guidance < 0 else round(kept.guidance, 4)


def _watch(context) -> bool:
    return context.scene.fieldforge.watch


def _destination(context, home, numbers: list[int] | None = None) -> Destination:
    """Into the same cameras; all else is for the case that these are deleted meanwhile."""
    kept = home.fieldforge_views
    carrier = np.eye(4) if kept.rig is None else np.array(kept.rig.matrix_world, np.float64)
    return Destination(
        home.name,
        carrier,
        scene=context.scene.name,
        views={
            "into": home.name,
            "into_uid": home.session_uid,
            "numbers": numbers or [],
            "carrier": carrier.tolist(),
            "prompt": kept.prompt,
            "extent": kept.extent,
            "path": kept.one_by_one,
        },
    )


# ------------------------------------------------------------------------------------- other things


class FIELDFORGE_OT_look_through(bpy.types.Operator):
    """Look through this camera, or the next one, with its picture"""

    bl_idname = "fieldforge.look_through"
    bl_label = "Look Through"
    bl_options = {"REGISTER", "UNDO"}

    step: IntProperty(default=0, options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def poll(cls, context) -> bool:
        active = context.view_layer.objects.active
        if home_of_views(active) is None or not active.fieldforge_view.number:
            cls.poll_message_set("Select the camera of a view")
            return False
        return True

    def execute(self, context):
        active = context.view_layer.objects.active
        cameras = in_order(home_of_views(active).objects)
        camera = cameras[(cameras.index(active) + self.step) % len(cameras)]
        select_only(context.view_layer, camera)
        context.scene.camera = camera
        if context.area is not None and context.area.type == "VIEW_3D":
            context.space_data.region_3d.view_perspective = "CAMERA"
        return {"FINISHED"}


class FIELDFORGE_OT_mesh_from_views(bpy.types.Operator):
    """Choose these views as the source of a mesh; Generate then makes it"""

    bl_idname = "fieldforge.mesh_from_views"
    bl_label = "Mesh from Views"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context) -> bool:
        return home_of_views(context.view_layer.objects.active) is not None

    def execute(self, context):
        settings = context.scene.fieldforge
        settings.cameras_of = home_of_views(context.view_layer.objects.active)
        settings.source, settings.scene_from = "SCENE_VIEWS", "CAMERAS"
        return {"FINISHED"}


class FIELDFORGE_OT_views_to_sequencer(bpy.types.Operator):
    """Put the views as a strip of images into the sequencer of this scene. Renders then show the
    strip, until it is muted or Sequencer is turned off in the Post Processing of the output"""

    bl_idname = "fieldforge.views_to_sequencer"
    bl_label = "To Sequencer"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context) -> bool:
        home = home_of_views(context.view_layer.objects.active)
        if home is None or home.fieldforge_views.sequence is None:
            cls.poll_message_set("Make views with Image Sequence turned on")
            return False
        return True

    def execute(self, context):
        home = home_of_views(context.view_layer.objects.active)
        files = sequence_files(home.fieldforge_views.sequence)
        if not files:
            self.report({"WARNING"}, "The files of the image sequence are not there any more")
            return {"CANCELLED"}
        scene = context.scene
        editor = scene.sequence_editor_create()
        strips = editor.strips if hasattr(editor, "strips") else editor.sequences
        taken = [strip.channel for strip in strips]
        strip = strips.new_image(
            home.name, str(files[0]), max(taken, default=0) + 1, scene.frame_current
        )
        for file in files[1:]:
            strip.elements.append(file.name)
        return {"FINISHED"}


CLASSES = (
    FIELDFORGE_OT_reroll_views,
    FIELDFORGE_OT_look_through,
    FIELDFORGE_OT_mesh_from_views,
    FIELDFORGE_OT_views_to_sequencer,
)
