"""Which model works on the chosen source. No disk, no network: what the backend listed last."""

from __future__ import annotations

from ..backend.protocol import PointsToMesh, VoxelsToMesh
from . import session
from .sources import TASKS

DEFAULT_MODEL = PointsToMesh.model
AUTOMATIC = "AUTOMATIC"

# Blender keeps no copy of what an items callback returns, so that somebody else has to.
_items: list[tuple[str, str, str, int]] = []


def task_kind(settings) -> str:
    return TASKS[settings.source]


def models_for(settings) -> list[dict]:
    """The backend's models for what is asked, those that are here first.

    Before it was asked, one that stands for the best: "" is its id where that is not known.
    """
    kind = task_kind(settings)
    known = [model for model in session.jobs().connection.models if kind in model.get("tasks", ())]
    return sorted(known, key=lambda model: not model.get("ready", True)) or [_unknown(kind)]


def _unknown(kind: str) -> dict:
    if kind in {PointsToMesh.kind, VoxelsToMesh.kind}:
        title = DEFAULT_MODEL.replace("-", " ").capitalize()
        return {"id": DEFAULT_MODEL, "title": title, "samples": False, "ready": True}
    listed = bool(session.jobs().connection.models)
    title = "None for this source" if listed else "The best that is there"
    return {"id": "", "title": title, "samples": True, "ready": not listed}


def chosen_model(settings) -> dict:
    """The one that was chosen, while it is listed for this source; else the backend's default."""
    models, kind = models_for(settings), task_kind(settings)
    chosen = [model for model in models if model["id"] == settings.model_id]
    defaults = [model for model in models if kind in model.get("default_for", ())]
    return (chosen + defaults + models)[0]


def list_models(settings, context) -> list[tuple[str, str, str, int]]:
    _items[:] = [
        (
            model["id"] or AUTOMATIC,
            model.get("title") or model["id"],
            model.get("summary") or "",
            number,
        )
        for number, model in enumerate(models_for(settings))
    ]
    return _items


def get_model(settings) -> int:
    """A file keeps the model's id, not its place in a list that may be another one tomorrow."""
    models = models_for(settings)
    chosen = chosen_model(settings)
    return next(number for number, model in enumerate(models) if model["id"] == chosen["id"])


def set_model(settings, number: int) -> None:
    settings.model_id = models_for(settings)[number]["id"]


def disabled_reason(settings, model: dict) -> tuple[str, str] | None:
    """(reason, advice) why the model cannot work on the source, None when it can."""
    connection = session.jobs().connection
    if not model.get("ready", True):
        if not model["id"]:
            return "This backend has no model for this source", "Update it in Preferences."
        title = model.get("title") or model["id"]
        return f"{title} is not on this computer yet", "Download it first."
    if settings.source == "VIEWS" and not model.get("cameras"):
        if connection.models:
            return "The model does not say from where its views are", "Choose another model."
        return "Which views are needed is not known yet", "Click Show the Models first."
    return None
