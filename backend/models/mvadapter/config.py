"""What the settings of an MV-Adapter model are; the networks' sizes come with their files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AZIMUTHS = (0.0, 45.0, 90.0, 180.0, 270.0, 315.0)
NEGATIVE = "watermark, ugly, deformed, noisy, blurry, low contrast"
FAR = 100.0
"""How far cameras are that stand in for those without perspective, in sides of the thing's cube."""

_MOST_VIEWS = 16
_SIDES = (16, 1024)


@dataclass(frozen=True)
class MVAdapterConfig:
    """A whole model. The defaults are those of the published command lines.

    reads_pictures: whether it is given a picture of the thing, beside words.
    azimuths: of its cameras, in degrees from the front, counter-clockwise seen from above; all at
    the height of the thing's middle, without perspective.
    side: of the pictures, in pixels. frame: how much of the world a picture shows, the cube around
    the thing having a side of 1. fill: share of the given picture that the thing takes up.
    shift: by what the ratio of signal to noise is divided at the last timestep, see schedule.py.
    prompt: words where nobody gives any; negative: words for what it is to keep away from.
    """

    reads_pictures: bool = True
    azimuths: tuple[float, ...] = AZIMUTHS
    side: int = 512
    frame: float = 1.1
    fill: float = 0.9
    shift: float = 8.0
    prompt: str = "high quality"
    negative: str = NEGATIVE

    def __post_init__(self) -> None:
        if type(self.reads_pictures) is not bool:
            raise ValueError(f"reads_pictures is {self.reads_pictures!r}")
        if not 1 <= len(self.azimuths) <= _MOST_VIEWS:
            raise ValueError(f"{len(self.azimuths)} azimuths, not 1 to {_MOST_VIEWS}")
        if not all(math.isfinite(azimuth) for azimuth in self.azimuths):
            raise ValueError("an azimuth is no number")
        if len({azimuth % 360 for azimuth in self.azimuths}) < len(self.azimuths):
            raise ValueError("two azimuths are the same")
        least, most = _SIDES
        if type(self.side) is not int or not least <= self.side <= most:
            raise ValueError(f"side is {self.side!r}, not {least} to {most}")
        for name, low, high in (("frame", 0.5, 10.0), ("fill", 0.1, 1.0), ("shift", 1.0, 100.0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}, not {low:g} to {high:g}")
        for name in ("prompt", "negative"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is no text")

    @property
    def views(self) -> int:
        """How many it makes."""
        return len(self.azimuths)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; `from_dict` is its inverse."""
        return {**dataclasses.asdict(self), "azimuths": list(self.azimuths)}

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> MVAdapterConfig:
        """What is left out is the default. Raises TypeError or ValueError for no such record."""
        values = dict(record)
        if "azimuths" in values:
            values["azimuths"] = tuple(float(azimuth) for azimuth in values["azimuths"])
        return MVAdapterConfig(**values)
