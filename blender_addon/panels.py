"""The sidebar tab "Fieldforge". Drawing only shows what is known: no disk, no network."""

from __future__ import annotations

import bpy

from . import models, preferences, session, sources
from .fields import panel as moving
from .fields.source import is_animation
from .history import STAGES, Job
from .model_choice import chosen_model
from .operators import disabled_reason
from .panorama import panel as panorama
from .panorama.source import is_panorama
from .sampling import draw_sampling
from .sources.panel import draw_source, has_objects
from .views import panel as posed_views
from .views.source import is_views
from .wrapping import paragraph

SHOWN_HISTORY = 10
WHAT_IS_INSTALLED = (
    "It computes the meshes, beside Blender. It is downloaded once: 1 GB, several on Linux, into a "
    "folder of its own."
)

_STATE_ICONS = {
    "done": "CHECKMARK",
    "failed": "ERROR",
    "cancelled": "CANCEL",
    "lost": "UNLINKED",
}
_STATE_WORDS = {
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "lost": "Connection lost",
}


class _Sidebar:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Fieldforge"


class FIELDFORGE_PT_main(_Sidebar, bpy.types.Panel):
    bl_label = "Generate"
    bl_idname = "FIELDFORGE_PT_main"
    bl_order = 1

    def draw_header_preset(self, context) -> None:
        self.layout.operator(
            "fieldforge.open_preferences", text="", icon="PREFERENCES", emboss=False
        )

    def draw(self, context) -> None:
        layout = self.layout
        layout.use_property_decorate = False
        draw_notices(layout, context)
        if preferences.backend_missing(preferences.current_settings()):
            draw_setup(layout, context)
        draw_source(layout, context, chosen_model(context.scene.fieldforge))
        draw_choices(layout, context)
        draw_generate(layout, context)
        for job in session.jobs().active:
            draw_progress(layout, job, context)


class FIELDFORGE_PT_history(_Sidebar, bpy.types.Panel):
    bl_label = "History"
    bl_idname = "FIELDFORGE_PT_history"
    bl_order = 3
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context) -> None:
        over = [job for job in session.jobs().jobs if not job.active]
        if not over:
            paragraph(self.layout, ["What was generated is listed here."], context)
        for job in over[:SHOWN_HISTORY]:
            draw_history_entry(self.layout, job, context)
        if len(over) > SHOWN_HISTORY:
            self.layout.label(text=f"and {len(over) - SHOWN_HISTORY} older ones")


def draw_notices(layout, context) -> None:
    """Errors with cause and remedy, until they are dismissed."""
    for index, notice in enumerate(session.jobs().notices):
        box = layout.box()
        row = box.row()
        title = row.row()
        title.alert = True
        title.label(text=notice.title, icon="ERROR", translate=False)
        row.operator("fieldforge.dismiss", text="", icon="X", emboss=False).index = index
        paragraph(box, [notice.cause], context, indent=14)
        if notice.remedy:
            paragraph(box, [notice.remedy], context, icon="INFO", indent=14)
        job = session.jobs().find(notice.key)
        if job is not None and job.state == "lost":
            again = box.operator("fieldforge.import_again", text="Fetch Again", icon="FILE_REFRESH")
            again.key = job.key
        elif job is not None and job.state == "failed" and job.job_id:
            box.operator("fieldforge.run_again", icon="LOOP_BACK").key = job.key


def draw_setup(layout, context) -> None:
    """What is missing before anything can be generated, and the button that mends it."""
    chosen = preferences.current_settings()
    reason, advice = preferences.backend_missing(chosen)
    box = layout.box()
    paragraph(box, [f"{reason}."], context, icon="INFO", indent=14)
    if chosen.mode != "INSTALLED":
        paragraph(box, [advice], context, indent=14)
        box.operator("fieldforge.open_preferences", icon="PREFERENCES")
        return
    if preferences.installing():
        preferences.draw_installation(box, context)
        return
    paragraph(box, [WHAT_IS_INSTALLED], context, indent=14)
    preferences.draw_offline(box, context)
    row = box.row()
    row.scale_y = 1.4
    if preferences.Checks.installed and preferences.Checks.installed.state == "incomplete":
        row.operator("fieldforge.repair", icon="FILE_REFRESH")
    else:
        row.operator("fieldforge.install", icon="IMPORT")
    if preferences.Checks.installation is not None and preferences.Checks.installation.error:
        paragraph(box, [str(preferences.Checks.installation.error)], context, "ERROR", indent=14)
    box.operator("fieldforge.open_preferences", text="Other Ways", icon="PREFERENCES")


def draw_choices(layout, context) -> None:
    settings = context.scene.fieldforge
    model = chosen_model(settings)
    column = layout.column()
    column.use_property_split = True
    column.prop(settings, "model")
    around, posed = is_panorama(settings), is_views(settings)
    if not session.jobs().connection.models and not sources.of_points_or_voxels(settings):
        column.operator("fieldforge.list_models", icon="LINKED")
    if around:
        panorama.draw_choices(column, settings, context)
    elif posed:
        posed_views.draw_choices(column, settings, context)
    elif is_animation(settings):
        moving.draw_choices(column, settings, context)
    elif not model.get("samples"):
        column.row().prop(settings, "resolution", expand=True)
    if model.get("samples") or not (around or posed):
        draw_sampling(column, settings, model, context)
    if has_objects(settings):
        column.prop(settings, "hide_source")
    if model["id"] and not model.get("ready", True):
        models.draw_missing(layout, model, context)


def draw_generate(layout, context) -> None:
    row = layout.row()
    row.scale_y = 1.6
    row.operator("fieldforge.generate", icon="MOD_REMESH")
    reason = disabled_reason(context)
    if reason:
        words = [f"{part.rstrip('.')}." for part in reason]
        model = chosen_model(context.scene.fieldforge)
        if words[0] == sources.facts(context, model).text:  # the source's box says it already
            del words[0]
        paragraph(layout, words[:1], context, icon="ERROR")
        paragraph(layout, words[1:], context, icon="BLANK1")
        return
    last = next(iter(session.jobs().jobs), None)
    connection = session.jobs().connection
    if last is not None and last.recent and last.state == "done" and last.faces:
        paragraph(layout, [last.destination.name], context, icon="CHECKMARK")
        several = f"{last.variations} variations, " if last.variations > 1 else ""
        words = f"{several}{last.faces:,} faces in {duration(last.seconds)}"
        paragraph(layout, [words], context, icon="BLANK1")
    elif last is not None and last.recent and last.state == "done" and last.stage:
        paragraph(layout, [last.destination.name], context, icon="CHECKMARK")
        paragraph(layout, [f"{last.stage}."], context, icon="BLANK1")
    elif connection.state == "ready":
        paragraph(layout, [connection.words], context, icon="CHECKMARK")
    if last is not None and last.recent and last.state == "done":
        for note in last.notes:
            paragraph(layout, [note], context, icon="INFO")


def draw_progress(layout, job: Job, context) -> None:
    box = layout.box()
    paragraph(box, [job.destination.name], context, icon="TIME", indent=14)
    row = box.row(align=True)
    row.progress(factor=job.fraction, text=f"{job.fraction:.0%}, {duration(job.elapsed)}")
    row.operator("fieldforge.cancel", text="", icon="X").key = job.key
    paragraph(box, [job.stage or STAGES[job.state]], context, indent=14)


def draw_history_entry(layout, job: Job, context) -> None:
    box = layout.box()
    row = box.row(align=True)
    row.label(text=job.destination.name, icon=_STATE_ICONS[job.state], translate=False)
    if job.job_id:
        if job.state == "lost" or (job.state == "done" and job.makes_meshes):
            words = "Fetch Again" if job.state == "lost" else ""
            icon = "FILE_REFRESH" if job.state == "lost" else "IMPORT"
            row.operator("fieldforge.import_again", text=words, icon=icon).key = job.key
        row.operator("fieldforge.run_again", text="", icon="LOOP_BACK").key = job.key
    row.operator("fieldforge.delete_job", text="", icon="TRASH").key = job.key
    paragraph(box, [history_words(job)], context, indent=14)


def history_words(job: Job) -> str:
    """One line about a job that is over."""
    words = f"{_STATE_WORDS[job.state]}, {duration(job.seconds)}"
    if job.sampled:
        words += f", {sampling_words(job)}"
    elif job.makes_meshes:
        words += f", resolution {job.resolution}"
    if job.faces:
        words += f", {job.faces:,} faces"
    if job.stage:
        words += f". {job.stage}."
    if job.notes:
        words = f"{words.rstrip('.')}. {' '.join(job.notes)}"
    if job.error:
        words += f". {job.error.get('cause', '')}"
    return words


def sampling_words(job: Job) -> str:
    """How a model that samples was asked to do it."""
    last = job.seed + job.variations - 1
    words = [job.model, f"seed {job.seed}" if last == job.seed else f"seeds {job.seed} to {last}"]
    if job.steps is not None:
        words.append(f"{job.steps} steps")
    if job.guidance is not None:
        words.append(f"guidance {job.guidance:g}")
    return ", ".join(words)


def duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes else f"{seconds:.0f} s"


CLASSES = (FIELDFORGE_PT_main, FIELDFORGE_PT_history)
