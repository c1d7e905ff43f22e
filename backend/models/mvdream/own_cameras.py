"""From where a model of the MVDream family paints. No torch: the list of models asks, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...protocol import VIEW_CAMERAS
from ...weights import Entry

ELEVATION = 15.0
"""Degrees, of rings that are not a model's own: as most of what they were trained on."""


def own_cameras(entry: Entry) -> tuple[tuple[float, float], ...]:
    """Azimuth and elevation in degrees of each camera of a published model, in the order of its
    pictures: by their numbers, else the ring that `arguments` of the registry describe."""
    if entry.cameras:
        return tuple(VIEW_CAMERAS[index] for index in entry.cameras)
    start, elevation = (float(entry.arguments.get(name, 0.0)) for name in ("start", "elevation"))
    turn = 360.0 / max(entry.views, 1)
    return tuple(((start + turn * k) % 360.0, elevation) for k in range(entry.views))


def told_cameras(config: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """The same of a configuration that anybody may have written; () where it tells none."""
    try:
        views = tuple((float(azimuth), float(elevation)) for azimuth, elevation in config["views"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return ()
    return views if all(math.isfinite(angle) for view in views for angle in view) else ()
