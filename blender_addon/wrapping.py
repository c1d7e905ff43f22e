"""Text that fits into a narrow sidebar. Blender's labels cut off what does not fit."""

from __future__ import annotations

from functools import lru_cache

import blf

FONT = 0
TEXT_POINTS = 11
ICON_WIDTH = 24
PADDING = 64


def paragraph(layout, texts, context, icon: str = "NONE", indent: int = 0) -> None:
    """Labels for `texts`, wrapped to the region that is being drawn; the icon on the first."""
    scale = context.preferences.system.ui_scale
    width = context.region.width / scale - PADDING - indent if context.region else 240
    column = layout.column(align=True)
    column.scale_y = 0.8
    for text in texts:
        room = width - (ICON_WIDTH if icon != "NONE" else 0)
        for number, line in enumerate(wrap(text, max(60, int(room)))):
            first = number == 0
            follow = "BLANK1" if icon != "NONE" else "NONE"
            column.label(text=line, icon=icon if first else follow, translate=False)


@lru_cache(maxsize=256)
def wrap(text: str, width: int) -> tuple[str, ...]:
    """Lines of `text` at most `width` pixels wide at scale 1; a word that is longer is cut."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if text_width(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *full, line = _cut(word, width)
        lines += full
    return (*lines, line) if line or not lines else tuple(lines)


def text_width(text: str) -> float:
    """Pixels at an interface scale of 1."""
    blf.size(FONT, TEXT_POINTS)
    return blf.dimensions(FONT, text)[0]


def _cut(word: str, width: int) -> list[str]:
    parts, part = [], ""
    for letter in word:
        if part and text_width(part + letter) > width:
            parts.append(part)
            part = ""
        part += letter
    return [*parts, part]
