"""Which model works on the chosen source. No network: what the backend listed last, and before that
the models that come with the extension, which are read once."""

from __future__ import annotations

from ..backend.protocol import (
    PanoramaToDepth,
    PanoramaToSphere,
    PanoramaToStereo,
    PointsToMesh,
    ViewsToScene,
    VoxelsToMesh,
)
from . import bundled, session
from .sources import TASKS
from .views.source import asks_for_cameras, is_views, kind_of

BUILT_IN = {  # what needs no weights, and is there before the backend was asked
    PointsToMesh.kind: PointsToMesh.model,
    VoxelsToMesh.kind: VoxelsToMesh.model,
    PanoramaToSphere.kind: PanoramaToSphere.model,
    PanoramaToStereo.kind: PanoramaToStereo.model,
    ViewsToScene.kind: "view-fusion",
}
FIXED_CAMERAS = ("mv-adapter",)
"""Families whose cameras cannot be chosen."""
AUTOMATIC = "AUTOMATIC"

# Blender keeps no copy of what an items callback returns, so that somebody else has to.
_items: list[tuple[str, str, str, int]] = []
_depth_items: list[tuple[str, str, str, int]] = []


def task_kind(settings) -> str:
    return kind_of(settings) if is_views(settings) else TASKS[settings.source]


def models_for(settings) -> list[dict]:
    """The backend's models for what is asked, those that are here first.

    Before it was asked, the one that it will take: "" is its id where that is not known.
    """
    return _models_of(task_kind(settings))


def depth_models(settings) -> list[dict]:
    """The models that tell the depth of a panorama that has none."""
    return _models_of(PanoramaToDepth.kind)


def _models_of(kind: str) -> list[dict]:
    known = [model for model in session.jobs().connection.models if kind in model.get("tasks", ())]
    return sorted(known, key=lambda model: not model.get("ready", True)) or [_unknown(kind)]


def _unknown(kind: str) -> dict:
    listed = bool(session.jobs().connection.models)
    built_in = _built_in(kind)
    expected = built_in if listed else bundled.default_for(kind, built_in)
    if expected is not None:
        return expected
    title = "None for this source" if listed else "The best that is there"
    views = {} if listed else bundled.cameras_of(kind)
    return {"id": "", "title": title, "samples": True, "ready": not listed, **views}


def _built_in(kind: str) -> dict | None:
    if kind not in BUILT_IN:
        return None
    title = BUILT_IN[kind].replace("-", " ").capitalize()
    return {"id": BUILT_IN[kind], "title": title, "samples": False, "ready": True}


def chosen_model(settings) -> dict:
    """The one that was chosen, while it is listed for this source; else the backend's default."""
    return _chosen(settings.model_id, models_for(settings), task_kind(settings))


def chosen_depth_model(settings) -> dict:
    return _chosen(settings.depth_model_id, depth_models(settings), PanoramaToDepth.kind)


def _chosen(name: str, models: list[dict], kind: str) -> dict:
    chosen = [model for model in models if model["id"] == name]
    defaults = [model for model in models if kind in model.get("default_for", ())]
    return (chosen + defaults + models)[0]


def list_models(settings, context) -> list[tuple[str, str, str, int]]:
    _items[:] = _listed(models_for(settings))
    return _items


def list_depth_models(settings, context) -> list[tuple[str, str, str, int]]:
    _depth_items[:] = _listed(depth_models(settings))
    return _depth_items


def _listed(models: list[dict]) -> list[tuple[str, str, str, int]]:
    return [
        (
            model["id"] or AUTOMATIC,
            model.get("title") or model["id"],
            model.get("summary") or "",
            number,
        )
        for number, model in enumerate(models)
    ]


def get_model(settings) -> int:
    """A file keeps the model's id, not its place in a list that may be another one tomorrow."""
    return models_for(settings).index(chosen_model(settings))


def set_model(settings, number: int) -> None:
    settings.model_id = models_for(settings)[number]["id"]


def get_depth_model(settings) -> int:
    return depth_models(settings).index(chosen_depth_model(settings))


def set_depth_model(settings, number: int) -> None:
    settings.depth_model_id = depth_models(settings)[number]["id"]


def disabled_reason(settings, model: dict) -> tuple[str, str] | None:
    """(reason, advice) why the model cannot work on the source, None when it can."""
    connection = session.jobs().connection
    if not model.get("ready", True):
        if not model["id"]:
            return "This backend has no model for this source", "Update it in Preferences."
        title = model.get("title") or model["id"]
        return f"{title} is not on this computer yet", "Download it first."
    if settings.source in {"PANORAMA", "STEREO"} and settings.depth_from == "MODEL":
        return _no_depth_model(settings)
    if settings.source == "VIEWS" and not model.get("cameras"):
        if connection.models:
            return "The model does not say from where its views are", "Choose another model."
        return "Which views are needed is not known yet", "Click Show the Models first."
    if model.get("family") in FIXED_CAMERAS and asks_for_cameras(settings):
        return (
            f"{model.get('title') or model['id']} makes views from its own cameras alone",
            "Choose a ring without a lens of its own, and of pictures an image; or another model.",
        )
    return None


def _no_depth_model(settings) -> tuple[str, str] | None:
    model = chosen_depth_model(settings)
    if model.get("ready", True):
        return None
    if not model["id"]:
        return "This backend has no model that tells depth", "Choose an image of the depth."
    title = model.get("title") or model["id"]
    return f"{title} is not on this computer yet", "Download it first."
