"""In the panel: how a model that samples shall do it, and where its results go."""

from __future__ import annotations

from . import models
from .fields.source import is_animation
from .properties import REFINABLE, has_one_result, task_kind
from .wrapping import paragraph


def draw_sampling(layout, settings, model: dict, context) -> None:
    """The fields of a model that samples; of another one, why they are not there."""
    column = layout.column(align=True)
    column.enabled = bool(model.get("samples"))
    column.prop(settings, "seed")
    single, moves = has_one_result(settings), is_animation(settings)
    if not single:
        column.prop(settings, "variations")
    if not model.get("samples"):
        words = f"{models.title_of(model)} finds one surface: a seed makes no difference."
        paragraph(layout, [words], context, icon="INFO")
        return
    if settings.variations > 1 and not (single or moves):
        layout.row().prop(settings, "layout", expand=True)
    layout.prop(settings, "own_sampling")
    if settings.own_sampling:
        own = layout.column(align=True)
        own.prop(settings, "steps")
        if not moves:  # they are made without
            own.prop(settings, "guidance")
    elif model.get("steps"):
        paragraph(layout, [_recommended(model)], context, icon="BLANK1")
    if task_kind(settings) in REFINABLE:
        layout.prop(settings, "refine")
    if not moves:
        layout.prop(settings, "watch")


def _recommended(model: dict) -> str:
    words = f"{model['steps']} steps"
    if model.get("guidance") is not None:
        words += f", guidance {model['guidance']:g}"
    return f"{words}, as its authors recommend."
