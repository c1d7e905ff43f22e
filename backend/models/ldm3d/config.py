"""What a model of this family says of itself beside its networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...depth_meanings import DepthMeaning
from .images import LAYOUTS

CELL = 8
"""Widths and heights are multiples of it."""
_SIDES = (64, 4096)


@dataclass(frozen=True)
class Ldm3dConfig:
    """ "config" of model.json.

    width, height: pixels of a picture where nothing else is asked for.
    prefix: put before words that do not speak of a panorama already.
    depth_layout: of the depth in the last three of six channels, one of `images.LAYOUTS`.
    meaning: of its depth. That of the published models is relative: 1 is nearest, and near and far
    are a guess for rooms.
    """

    width: int = 1024
    height: int = 512
    prefix: str = ""
    depth_layout: str = "bytes"
    meaning: DepthMeaning = field(default_factory=lambda: DepthMeaning(meaning="inverse"))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Ldm3dConfig:
        """Of "config"; what is left out is the default. Raises ValueError, TypeError, BadInput."""
        unknown = sorted(set(record) - {"width", "height", "prefix", "depth_layout", "meaning"})
        if unknown:
            raise ValueError(f"its config has {', '.join(unknown)}, which is not known")
        values = dict(record)
        for name in ("width", "height"):
            size = values.get(name, CELL * 16)
            least, most = _SIDES
            if type(size) is not int or size % CELL or not least <= size <= most:
                raise ValueError(f"its {name} is {size!r}")
        if not isinstance(values.get("prefix", ""), str):
            raise TypeError("its prefix is no text")
        if values.get("depth_layout", LAYOUTS[0]) not in LAYOUTS:
            raise ValueError(f"its depth_layout is {values['depth_layout']!r}")
        if "meaning" in values:
            values["meaning"] = DepthMeaning.from_dict(values["meaning"])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The inverse of from_dict."""
        return {
            "width": self.width,
            "height": self.height,
            "prefix": self.prefix,
            "depth_layout": self.depth_layout,
            "meaning": self.meaning.to_dict(),
        }

    def full_prompt(self, prompt: str) -> str:
        """What the model is told."""
        words = prompt.strip()
        spoken = any(word in words.lower() for word in ("360", "panoram", "equirectangular"))
        return words if spoken else self.prefix + words
