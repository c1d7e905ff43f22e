"""The models: which there are, under which licences, what is here, and downloads of the rest."""

from __future__ import annotations

from itertools import groupby

import bpy
from bpy.props import StringProperty

from ..backend.protocol import DownloadModel
from . import preferences, session
from .history import STAGES, Job
from .wrapping import paragraph

# Without preferences of our own (Blender has not enabled us itself) this lasts as long as Blender.
_accepted: set[str] = set()


def accepted(license: str) -> bool:
    """True once the person has ticked this licence."""
    chosen = preferences.current()
    return license in (_accepted if chosen is None else chosen.licenses.split())


def accept(license: str, yes: bool) -> None:
    chosen = preferences.current()
    ticked = set(_accepted if chosen is None else chosen.licenses.split())
    ticked = ticked | {license} if yes else ticked - {license}
    if chosen is None:
        _accepted.clear()
        _accepted.update(ticked)
    else:
        chosen.licenses = " ".join(sorted(ticked))


def known() -> list[dict]:
    return session.jobs().connection.models


def find(model_id: str) -> dict | None:
    return next((model for model in known() if model["id"] == model_id), None)


def title_of(model: dict) -> str:
    return model.get("title") or model["id"]


def missing(model: dict) -> list[dict]:
    """What has to be downloaded before `model` can be used: what it needs first, itself last."""
    if model.get("ready", True):
        return []
    needed = [find(model_id) for model_id in model.get("needs") or ()]
    return [each for each in needed if each and not each.get("ready", True)] + [model]


def download_of(model_id: str) -> Job | None:
    """The download of this model that is under way."""
    active = session.jobs().active
    return next((j for j in active if j.kind == DownloadModel.kind and j.model == model_id), None)


def why_no_download(model: dict) -> str:
    """Why the weights of `model` cannot be downloaded now, or ""."""
    if any(not accepted(each["license"]) for each in missing(model) if each.get("license")):
        return "Accept the licence first"
    if preferences.current_settings().mode != "SERVER" and not bpy.app.online_access:
        return "Blender is set to stay offline. Allow Online Access (Preferences > System)"
    return ""


# --------------------------------------------------------------------------------------- operators


class FIELDFORGE_OT_accept_license(bpy.types.Operator):
    """Tick that you have read this licence and keep to it"""

    bl_idname = "fieldforge.accept_license"
    bl_label = "I accept this licence"
    bl_options = {"INTERNAL"}

    license: StringProperty(options={"HIDDEN", "SKIP_SAVE"})

    def execute(self, context):
        accept(self.license, not accepted(self.license))
        return {"FINISHED"}


class FIELDFORGE_OT_download_model(bpy.types.Operator):
    """Download the weights of this model. It goes on in the background and can be cancelled"""

    bl_idname = "fieldforge.download_model"
    bl_label = "Download"

    model: StringProperty(options={"HIDDEN", "SKIP_SAVE"})

    def execute(self, context):
        model = find(self.model)
        if model is None:
            return {"CANCELLED"}
        reason = why_no_download(model)
        if reason:
            self.report({"WARNING"}, f"{reason}.")
            return {"CANCELLED"}
        for each in missing(model):
            if download_of(each["id"]) is None:
                session.jobs().download(each["id"], title_of(each), each.get("license") or "")
        return {"FINISHED"}


class FIELDFORGE_OT_list_models(bpy.types.Operator):
    """Start or contact the backend and ask which models it has"""

    bl_idname = "fieldforge.list_models"
    bl_label = "Show the Models"

    @classmethod
    def poll(cls, context) -> bool:
        return preferences.backend_missing(preferences.current_settings()) is None

    def execute(self, context):
        session.jobs().connect()
        return {"FINISHED"}


# ----------------------------------------------------------------------------------------- drawing


def draw_models(layout, context) -> None:
    """All models, in Preferences: what is here, then what can be downloaded, by licence."""
    connection = session.jobs().connection
    if not connection.models:
        words = {"connecting": "Connecting ...", "failed": connection.words}
        told = words.get(connection.state, "The backend knows them.")
        paragraph(layout, [told], context, icon="INFO")
        layout.operator("fieldforge.list_models", icon="LINKED")
        return
    for model in connection.models:
        if model.get("ready", True):
            _draw_ready(layout, model, context)
    absent = [model for model in connection.models if not model.get("ready", True)]
    absent.sort(key=_license)
    for license, group in groupby(absent, key=_license):
        box = layout.box()
        models = list(group)
        draw_license(box, models[0], context)
        for model in models:
            _draw_absent(box, model, license, context)
    if absent:
        _draw_offline(layout, context)


def _license(model: dict) -> str:
    return model.get("license") or ""


def _draw_ready(layout, model: dict, context) -> None:
    split = layout.split(factor=0.5)
    split.label(text=title_of(model), icon="CHECKMARK", translate=False)
    split.label(text=size_words(model) or "needs no weights")
    if model.get("license_words"):
        paragraph(layout, [model["license_words"]], context, icon="BLANK1")


def _draw_absent(layout, model: dict, license: str, context) -> None:
    split = layout.split(factor=0.5)
    split.label(text=title_of(model), icon="IMPORT", translate=False)
    row = split.row()
    row.label(text=size_words(model))
    job = download_of(model["id"])
    if job is None:
        button = row.row()
        button.enabled = not why_no_download(model)
        button.operator("fieldforge.download_model").model = model["id"]
    if model.get("summary"):
        paragraph(layout, [model["summary"]], context, icon="BLANK1")
    if job is not None:
        draw_download(layout, job, context)


def draw_missing(layout, model: dict, context) -> None:
    """In the sidebar: the chosen model is not here, and the button that fetches it."""
    box = layout.box()
    size = size_words({"bytes": sum(each.get("bytes") or 0 for each in missing(model))})
    words = f"{title_of(model)} is not on this computer yet"
    paragraph(box, [f"{words} ({size})." if size else f"{words}."], context, icon="INFO")
    under_way = [download_of(each["id"]) for each in missing(model)]
    if any(under_way):  # its progress is shown below Generate, as that of every job
        paragraph(box, ["It is being downloaded."], context, icon="BLANK1")
        return
    draw_license(box, model, context)
    _draw_offline(box, context)
    row = box.row()
    row.scale_y = 1.4
    row.enabled = not why_no_download(model)
    row.operator("fieldforge.download_model", icon="IMPORT").model = model["id"]


def draw_license(layout, model: dict, context) -> None:
    """What the licence allows, where it is to be read, and the tick."""
    license = _license(model)
    if not license:
        return
    words = model.get("license_words") or f"Licence: {license}."
    paragraph(layout, [words], context, icon="ERROR")
    if model.get("license_url"):
        link = layout.operator("wm.url_open", text="Read the Licence", icon="URL")
        link.url = model["license_url"]
    ticked = accepted(license)
    icon = "CHECKBOX_HLT" if ticked else "CHECKBOX_DEHLT"
    tick = layout.operator("fieldforge.accept_license", icon=icon, depress=ticked)
    tick.license = license


def draw_download(layout, job: Job, context) -> None:
    row = layout.row(align=True)
    row.progress(factor=job.fraction, text=f"{job.fraction:.0%}")
    row.operator("fieldforge.cancel", text="", icon="X").key = job.key
    paragraph(layout, [job.stage or STAGES[job.state]], context, icon="BLANK1")


def _draw_offline(layout, context) -> None:
    if preferences.current_settings().mode != "SERVER":
        preferences.draw_offline(layout, context)


def size_words(model: dict) -> str:
    """ "15.6 GB", or "" when there is nothing to download."""
    count = model.get("bytes") or 0
    if not count:
        return ""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


CLASSES = (
    FIELDFORGE_OT_accept_license,
    FIELDFORGE_OT_download_model,
    FIELDFORGE_OT_list_models,
)
