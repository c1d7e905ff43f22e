"""How results about views are put into the file. Main thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy

from ...backend import environment
from ..compose import Capture
from .captures import ViewsRequest
from .source import MAKE_VIEWS

FOLDER = "views"


def result_name(settings, name: str) -> str:
    return f"{name} views" if settings.source in MAKE_VIEWS else f"{name} mesh"


def import_options(settings, captured: Capture) -> dict[str, Any]:
    """`Destination.views`; empty where the result is not of views."""
    if not isinstance(captured, ViewsRequest):
        return {}
    return {
        "folder": str(folder_of_views()) if settings.views_sequence else "",
        "clip": settings.views_clip,
        "hold": settings.views_hold,
        "prompt": captured.prompt,
        "extent": captured.extent,
        "path": bool(captured.fields.get("path")),
    }


def folder_of_views() -> Path:
    """Where the files of image sequences go: beside the Blender file, or, while that is not saved,
    where results are kept."""
    if bpy.data.filepath:
        return Path(bpy.path.abspath("//")) / FOLDER
    return environment.home() / "blender" / FOLDER
