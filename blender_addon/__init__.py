"""The part of Fieldforge that runs inside Blender: bpy, numpy, requests, the standard library."""

from __future__ import annotations

import bpy
from bpy.app.handlers import persistent

from . import (
    capture,
    generated,
    models,
    operators,
    panels,
    preferences,
    properties,
    regions,
    session,
    variations,
)
from .fields import exporting, recording
from .fields import operators as fields_operators
from .fields import panel as fields_panel
from .fields import settings as fields_settings
from .panorama import panel as panorama_panel
from .panorama import settings as panorama_settings
from .panorama import stereo
from .sources import drop
from .views import overlay, rerolls, transforms_files
from .views import panel as views_panel
from .views import settings as views_settings

CLASSES = (
    *panorama_settings.CLASSES,
    *views_settings.CLASSES,
    *fields_settings.CLASSES,
    properties.FieldforgeSettings,
    generated.FieldforgeResult,
    preferences.FieldforgePreferences,
    *operators.CLASSES,
    *models.CLASSES,
    *drop.CLASSES,
    *panels.CLASSES,
    *regions.CLASSES,
    *stereo.CLASSES,
    *panorama_panel.CLASSES,
    *variations.CLASSES,
    *rerolls.CLASSES,
    *transforms_files.CLASSES,
    *views_panel.CLASSES,
    *fields_operators.CLASSES,
    *exporting.CLASSES,
    *fields_panel.CLASSES,
)


@persistent
def _file_loaded(*_) -> None:
    session.jobs().file_loaded()


@persistent
def _undone(*_) -> None:
    session.jobs().undone()


def _start_with_blender() -> None:
    """A timer that runs once, when the window is there."""
    chosen = preferences.current()
    if chosen is not None and chosen.start == "WITH_BLENDER" and chosen.mode != "SERVER":
        session.jobs().connect()


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    properties.register()
    generated.register()
    panorama_settings.register()
    views_settings.register()
    fields_settings.register()
    overlay.register()
    preferences.register()
    session.begin()
    capture.register()
    bpy.app.handlers.load_post.append(_file_loaded)
    bpy.app.handlers.undo_post.append(_undone)
    bpy.app.handlers.redo_post.append(_undone)
    if not bpy.app.background:
        bpy.app.timers.register(_start_with_blender, first_interval=0.5)


def unregister() -> None:
    for timer in (_start_with_blender, operators.watch_installation):
        if bpy.app.timers.is_registered(timer):
            bpy.app.timers.unregister(timer)
    bpy.app.handlers.load_post.remove(_file_loaded)
    bpy.app.handlers.undo_post.remove(_undone)
    bpy.app.handlers.redo_post.remove(_undone)
    recording.unregister()
    capture.unregister()
    session.end()
    preferences.unregister()
    overlay.unregister()
    fields_settings.unregister()
    views_settings.unregister()
    panorama_settings.unregister()
    generated.unregister()
    properties.unregister()
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
