"""What the values of a panorama's depth mean, and the one rule from values to metres.

The backend builds spheres with it, and Blender moves their vertices with it while a person turns
the controls. Standard library and numpy, nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import BadInput

DEPTH_MEANINGS = ("metric", "inverse", "paper")
LEAST_RADIUS = 1e-3
MOST_RADIUS = 1e5

_LIMITS = {  # of each number of a meaning: least, most
    "near": (1e-3, 1e4),
    "far": (1e-3, 1e5),
    "radius": (1e-3, 1e4),
    "strength": (-10.0, 10.0),
    "scale": (1e-6, 1e6),
    "offset": (-1e4, 1e4),
}


@dataclass(frozen=True)
class DepthMeaning:
    """How a value d of a depth map becomes a radius r, the distance from the eye in metres.

    meaning:
        "metric":  r = d, and where inverted r = 1 / d (d is then in 1/m);
        "inverse": r = 1 / (1/far + d (1/near - 1/far)), d in 0..1, 1 is nearest; walls stay flat;
        "paper":   r = radius (1 - strength (d - 1/2)), d in 0..1: 1 comes nearer, 0 goes away, 1/2
                   stays. Walls bend.
    inverted: for the last two, d becomes 1 - d first.
    near, far: metres, of "inverse"; radius, strength: of "paper".
    scale, offset: r becomes scale r + offset (metres) at last, whatever the meaning.
    """

    meaning: str = "metric"
    inverted: bool = False
    near: float = 1.0
    far: float = 10.0
    radius: float = 5.0
    strength: float = 1.0
    scale: float = 1.0
    offset: float = 0.0

    def check(self) -> None:
        """Raise BadInput when these numbers mean nothing."""
        if self.meaning not in DEPTH_MEANINGS:
            raise BadInput(
                f"The meaning of the depth, {str(self.meaning)[:80]!r}, is not known.",
                f"Choose {', '.join(DEPTH_MEANINGS)}.",
            )
        if type(self.inverted) is not bool:
            raise BadInput("inverted is neither yes nor no.", "Send true or false.")
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not least <= value <= most:
                raise BadInput(
                    f"The {name} of the depth, {value!r}, cannot be used.",
                    f"Use a number from {least:g} to {most:g}.",
                )
        if not self.near < self.far:
            raise BadInput(
                f"The near end of the depth, {self.near:g} m, is not before the far end,"
                f" {self.far:g} m.",
                "Make near smaller than far; where bright means far, turn on Invert instead.",
            )

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: object) -> DepthMeaning:
        """The inverse of `to_dict`; what is left out is the default. Raises BadInput."""
        names = {spec.name for spec in dataclasses.fields(cls)}
        if not isinstance(record, dict) or not set(record) <= names:
            raise BadInput(
                "The meaning of the depth is not a record that is known here.",
                "Install the same version of Fieldforge on both sides.",
            )
        meaning = cls(**record)
        meaning.check()
        return meaning


METRIC = DepthMeaning()


def radii(values: np.ndarray, meaning: DepthMeaning, out: np.ndarray | None = None) -> np.ndarray:
    """Metres of values of any shape: float32, LEAST_RADIUS to MOST_RADIUS for finite values.

    values: float32, as a sphere holds them (whole numbers are brought to 0..1 when a sphere is
    built). out: float32 of the same shape to write to, which may be `values` itself.
    """
    factor, constant, is_reciprocal = coefficients(meaning)
    radius = np.multiply(values, np.float32(factor), out=out, dtype=np.float32)
    if constant:
        radius += np.float32(constant)
    if is_reciprocal:
        np.maximum(radius, np.float32(1 / MOST_RADIUS), out=radius)
        np.divide(np.float32(meaning.scale), radius, out=radius)
        if meaning.offset:
            radius += np.float32(meaning.offset)
    return np.clip(radius, np.float32(LEAST_RADIUS), np.float32(MOST_RADIUS), out=radius)


def coefficients(meaning: DepthMeaning) -> tuple[float, float, bool]:
    """The rule as two numbers: r = a d + b, scale and offset included, or, where the last is true,
    r = scale / (a d + b) + offset."""
    factor, constant, is_reciprocal = 1.0, 0.0, False
    if meaning.meaning == "inverse":
        constant, is_reciprocal = 1 / meaning.far, True
        factor = 1 / meaning.near - constant
    elif meaning.meaning == "paper":
        factor = -meaning.radius * meaning.strength
        constant = meaning.radius - factor / 2
    elif meaning.inverted:
        return 1.0, 0.0, True
    if meaning.inverted and meaning.meaning != "metric":
        factor, constant = -factor, constant + factor
    if is_reciprocal:
        return factor, constant, True
    return meaning.scale * factor, meaning.scale * constant + meaning.offset, False


def values_of(radius: np.ndarray, meaning: DepthMeaning) -> np.ndarray:
    """The inverse of `radii`, float32: which values make these radii (metres).

    Raises BadInput where all values make the same radius (a strength of 0).
    """
    factor, constant, is_reciprocal = coefficients(meaning)
    if math.isclose(factor, 0.0, abs_tol=1e-12):
        raise BadInput("The depth has no effect: its strength is 0.", "Give it a strength.")
    found = np.asarray(radius, np.float64)
    if is_reciprocal:
        found = meaning.scale / np.maximum(found - meaning.offset, LEAST_RADIUS)
    return ((found - constant) / factor).astype(np.float32)
