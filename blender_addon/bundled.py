"""The models that come with the extension, as the backend will list them: what the panel goes by
until it has."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

_OWN = Path(__file__).resolve().parent.parent / "weights"
_FIELDS = ("id", "title", "summary", "tasks", "views", "view_kind", "cameras", "steps", "guidance")


def default_for(kind: str, built_in: dict[str, Any] | None) -> dict[str, Any] | None:
    """The model that the backend takes for tasks of `kind` when none is chosen; None: not known.

    built_in: the one without weights, which goes before bundled ones that do not ask to be the
    default.
    """
    able = [model for model in _models() if kind in model["tasks"]]
    meant = [model for model in able if kind in model["default_for"]]
    others = [model for model in able if kind not in model["stands_in_for"]]
    return next(iter((*meant, *filter(None, [built_in]), *others)), None)


def cameras_of(kind: str) -> dict[str, Any]:
    """Of the model that stands in for tasks of `kind`: the ring and the size of views, as far as it
    has such. What is made before the backend has answered then comes from the same cameras as
    later."""
    able = [model for model in _models() if kind in model["tasks"]]
    return {name: able[0][name] for name in ("ring", "view_size") if able and able[0].get(name)}


@cache
def _models() -> list[dict[str, Any]]:
    """Read once: the panel asks whenever it is drawn."""
    root = Path(os.environ.get("FIELDFORGE_BUNDLED") or _OWN)
    found = [_read(path) for path in sorted(root.glob("*/model.json"))]
    return [model for model in found if model is not None]


def _read(path: Path) -> dict[str, Any] | None:
    """None for what the backend, too, would not list."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        model = {name: record[name] for name in _FIELDS}
        lists = {name: list(record.get(name, [])) for name in ("default_for", "stands_in_for")}
        config = record["config"] if isinstance(record.get("config"), dict) else {}
        told = config["model"] if isinstance(config.get("model"), dict) else {}  # of fields
        seen = _views_of(config)
        moves = {"names": list(told.get("names", [])), "frames": int(told.get("frames", 0))}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    joint = bool(config.get("joint"))
    return {**model, **lists, **moves, **seen, "samples": True, "ready": True, "any_views": joint}


def _views_of(config: dict[str, Any]) -> dict[str, Any]:
    """Of a model that paints views: where its cameras stand, and how large its pictures are."""
    denoiser = config.get("denoiser")
    if not isinstance(denoiser, dict):
        return {}
    ring = {name: float(config[name]) for name in ("elevation", "field", "radius")}
    return {"ring": ring, "view_size": int(denoiser["image_size"])}
