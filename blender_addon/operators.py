"""The buttons. Each begins something and returns at once."""

import time

import bpy
import numpy as np
from bpy.props import StringProperty

from ..backend.errors import FieldforgeError
from . import backend_process, model_choice, preferences, session, sources
from .compose import Capture, Choices
from .fields import source as moving
from .history import Job
from .importing import Destination
from .model_choice import chosen_model, task_kind
from .panorama.source import import_options, is_panorama
from .preferences import Checks
from .properties import sampling_choices
from .views.options import import_options as views_options
from .views.options import result_name


def disabled_reason(context) -> tuple[str, str] | None:
    """(reason, advice) why Generate cannot be clicked, None when it can. Cheap: draw asks too."""
    missing = preferences.backend_missing(preferences.current_settings())
    if missing:
        return missing
    settings = context.scene.fieldforge
    model = chosen_model(settings)
    found = sources.facts(context, model)
    if found.reason:
        return found.reason, found.advice
    return model_choice.disabled_reason(settings, model)


class FIELDFORGE_OT_generate(bpy.types.Operator):
    """Make a mesh, or a sphere, of the source. Blender stays usable meanwhile"""

    bl_idname = "fieldforge.generate"
    bl_label = "Generate"

    @classmethod
    def poll(cls, context) -> bool:
        reason = disabled_reason(context)
        if reason:
            cls.poll_message_set(f"{reason[0]}. {reason[1]}".rstrip(". "))
        return reason is None

    def execute(self, context):
        settings = context.scene.fieldforge
        jobs = session.jobs()
        model = chosen_model(settings)
        try:
            captured = sources.capture(context, model)
        except FieldforgeError as error:
            jobs.tell("The source cannot be used", error)
            self.report({"WARNING"}, error.cause)
            return {"CANCELLED"}
        jobs.generate(
            captured,
            Choices(model["id"], _resolution(settings), **sampling_choices(settings, model)),
            _destination(context, captured),
            source=sources.source_object(context),
            kind=task_kind(settings),
            origin=sources.origin(context),
            samples=bool(model.get("samples")),
        )
        return {"FINISHED"}


def _resolution(settings) -> int:
    moves = moving.is_animation(settings)
    return int(settings.field_resolution if moves else settings.resolution)


def _destination(context, captured: Capture) -> Destination:
    settings, name = context.scene.fieldforge, captured.name
    items = sources.source_objects(context)
    beside = items[0].users_collection if items else [context.collection]
    inside = {context.scene.collection, *context.scene.collection.children_recursive}
    collection = next((item for item in beside if item in inside), None)
    around = is_panorama(settings)
    return Destination(
        name=name if around or moving.is_animation(settings) else result_name(settings, name),
        matrix_world=np.array(items[0].matrix_world, np.float64) if items else np.eye(4),
        scene=context.scene.name,
        collection=collection.name if collection else "",
        hide=[item.name for item in items] if settings.hide_source else [],
        layout=settings.layout,
        panorama=import_options(settings) if around else {},
        views=views_options(settings, captured),
        fields=moving.import_options(context) if moving.is_animation(settings) else {},
    )


class _JobOperator:
    """An operator for the job with this key."""

    key: StringProperty(options={"HIDDEN", "SKIP_SAVE"})

    def execute(self, context):
        job = session.jobs().find(self.key)
        if job is None:
            return {"CANCELLED"}
        self.act(job)
        return {"FINISHED"}


class FIELDFORGE_OT_cancel(_JobOperator, bpy.types.Operator):
    """Stop this job"""

    bl_idname = "fieldforge.cancel"
    bl_label = "Cancel"

    def act(self, job: Job) -> None:
        session.jobs().cancel(job)


class FIELDFORGE_OT_run_again(_JobOperator, bpy.types.Operator):
    """Work on the same source once more, as it was then"""

    bl_idname = "fieldforge.run_again"
    bl_label = "Run Again"

    def act(self, job: Job) -> None:
        session.jobs().run_again(job)


class FIELDFORGE_OT_import_again(_JobOperator, bpy.types.Operator):
    """Fetch the result from the backend and place it in the scene"""

    bl_idname = "fieldforge.import_again"
    bl_label = "Import Again"

    def act(self, job: Job) -> None:
        session.jobs().fetch(job)


class FIELDFORGE_OT_delete_job(_JobOperator, bpy.types.Operator):
    """Remove this job and its result from the history. Objects in the scene stay"""

    bl_idname = "fieldforge.delete_job"
    bl_label = "Delete"

    def act(self, job: Job) -> None:
        session.jobs().delete(job)


class FIELDFORGE_OT_dismiss(bpy.types.Operator):
    """Take this message away"""

    bl_idname = "fieldforge.dismiss"
    bl_label = "Dismiss"

    index: bpy.props.IntProperty(options={"HIDDEN", "SKIP_SAVE"})

    def execute(self, context):
        notices = session.jobs().notices
        if 0 <= self.index < len(notices):
            del notices[self.index]
        return {"FINISHED"}


class FIELDFORGE_OT_pin_source(bpy.types.Operator):
    """Use the active object from now on, whatever is selected"""

    bl_idname = "fieldforge.pin_source"
    bl_label = "Pin"

    @classmethod
    def poll(cls, context) -> bool:
        active = context.view_layer.objects.active
        if active is None or active.type not in {"MESH", "POINTCLOUD"}:
            cls.poll_message_set("Select a point cloud or a mesh first")
            return False
        return True

    def execute(self, context):
        settings = context.scene.fieldforge
        settings.pinned = context.view_layer.objects.active
        settings.object_from = "PINNED"
        return {"FINISHED"}


class FIELDFORGE_OT_open_preferences(bpy.types.Operator):
    """Show Fieldforge in Blender's Preferences"""

    bl_idname = "fieldforge.open_preferences"
    bl_label = "Open Preferences"

    def execute(self, context):
        preferences.refresh()
        bpy.ops.preferences.addon_show(module=preferences.EXTENSION)
        return {"FINISHED"}


class _InstallOperator:
    """Begins an installation; a timer keeps Preferences up to date until it is over."""

    needs_network = True
    needs = frozenset({"missing"})

    @classmethod
    def poll(cls, context) -> bool:
        reason = cls.disabled_reason()
        if reason:
            cls.poll_message_set(reason)
        return not reason

    @classmethod
    def disabled_reason(cls) -> str:
        state = Checks.installed.state if Checks.installed else "missing"
        if preferences.installing():
            return "An installation is under way"
        if state not in cls.needs:
            return {
                "missing": "The backend is not installed",
                "incomplete": "The installation was interrupted: use Repair",
                "external": "FIELDFORGE_PYTHON says which Python is used",
            }.get(state, "The backend is installed already")
        if cls.needs_network and not bpy.app.online_access:
            return preferences.OFFLINE
        return ""

    def execute(self, context):
        session.jobs().disconnect()
        Checks.installation = self.begin()
        bpy.app.timers.register(watch_installation, first_interval=0.2, persistent=True)
        return {"FINISHED"}


class FIELDFORGE_OT_install(_InstallOperator, bpy.types.Operator):
    """Download and install the backend's Python packages into the data folder"""

    bl_idname = "fieldforge.install"
    bl_label = "Install"

    def begin(self):
        return backend_process.install()


class FIELDFORGE_OT_repair(_InstallOperator, bpy.types.Operator):
    """Install the backend's Python packages anew"""

    bl_idname = "fieldforge.repair"
    bl_label = "Repair"
    needs = frozenset({"ready", "incomplete"})

    def begin(self):
        return backend_process.repair()


class FIELDFORGE_OT_remove(_InstallOperator, bpy.types.Operator):
    """Delete the backend's Python packages. Results and settings stay"""

    bl_idname = "fieldforge.remove"
    bl_label = "Remove"
    needs = frozenset({"ready", "incomplete"})
    needs_network = False

    def invoke(self, context, event):
        return context.window_manager.invoke_confirm(self, event)

    def begin(self):
        return backend_process.remove()


class FIELDFORGE_OT_cancel_install(bpy.types.Operator):
    """Stop the installation. Nothing half-made is left behind"""

    bl_idname = "fieldforge.cancel_install"
    bl_label = "Cancel"

    def execute(self, context):
        if Checks.installation is not None:
            Checks.installation.cancel()
        return {"FINISHED"}


class FIELDFORGE_OT_test_connection(bpy.types.Operator):
    """Start or contact the backend and see whether it answers"""

    bl_idname = "fieldforge.test_connection"
    bl_label = "Test Connection"

    @classmethod
    def poll(cls, context) -> bool:
        missing = preferences.backend_missing(preferences.current_settings())
        if missing:
            cls.poll_message_set(f"{missing[0]}. {missing[1]}".rstrip(". "))
        return missing is None

    def execute(self, context):
        begun = time.monotonic()

        def say(words: str, error: FieldforgeError | None) -> None:
            took = f" after {time.monotonic() - begun:.1f} s"
            Checks.connection = str(error) if error else words + took + "."
            Checks.connection_failed = error is not None
            preferences.refresh()

        Checks.connection, Checks.connection_failed = "Connecting ...", False
        session.jobs().connect(say)
        return {"FINISHED"}


class FIELDFORGE_OT_open_logs(bpy.types.Operator):
    """Open the folder with the logs"""

    bl_idname = "fieldforge.open_logs"
    bl_label = "Open Logs"

    def execute(self, context):
        preferences.refresh()
        folder = backend_process.log_file().parent
        folder.mkdir(parents=True, exist_ok=True)
        bpy.ops.wm.path_open(filepath=str(folder))
        return {"FINISHED"}


def watch_installation() -> float | None:
    """A timer: redraw while the installation runs, look at the outcome once it is over."""
    from .jobs import redraw

    redraw()
    if preferences.installing():
        return 0.3
    preferences.refresh()
    return None


CLASSES = (
    FIELDFORGE_OT_generate,
    FIELDFORGE_OT_cancel,
    FIELDFORGE_OT_run_again,
    FIELDFORGE_OT_import_again,
    FIELDFORGE_OT_delete_job,
    FIELDFORGE_OT_dismiss,
    FIELDFORGE_OT_pin_source,
    FIELDFORGE_OT_open_preferences,
    FIELDFORGE_OT_install,
    FIELDFORGE_OT_repair,
    FIELDFORGE_OT_remove,
    FIELDFORGE_OT_cancel_install,
    FIELDFORGE_OT_test_connection,
    FIELDFORGE_OT_open_logs,
)
