"""The words that a model offers of what it can make move. Main thread, no network."""

from __future__ import annotations

from ...backend.protocol import Animation

ANYTHING = ("", "Anything", "Whatever the seed brings", 0)

# Blender keeps no copy of what an items callback returns, so that somebody else has to.
_items: list[tuple[str, str, str, int]] = []


def names_of(settings) -> list[str]:
    """What the chosen model offers; nothing where it takes no words."""
    from ..model_choice import chosen_model  # which knows the settings, that know these

    model = chosen_model(settings)
    if Animation.kind not in model.get("tasks", ()):
        return []
    return [str(name) for name in model.get("names") or ()]


def list_choices(settings, context) -> list[tuple[str, str, str, int]]:
    names = enumerate(names_of(settings), 1)
    listed = [(name, name.capitalize(), "", number) for number, name in names]
    _items[:] = [("ANYTHING", *ANYTHING[1:]), *listed]
    return _items


def get_choice(settings) -> int:
    """A file keeps the word, not its place in a list of a model."""
    chosen, names = settings.motion_choice_name, names_of(settings)
    return names.index(chosen) + 1 if chosen in names else 0


def set_choice(settings, number: int) -> None:
    names = names_of(settings)
    settings.motion_choice_name = names[number - 1] if 0 < number <= len(names) else ""


def chosen(settings) -> str:
    """The word that is sent; "" for anything."""
    name = settings.motion_choice_name
    return name if name in names_of(settings) else ""
