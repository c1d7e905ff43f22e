"""Neural fields as they travel and lie in files: weights, how they are laid out, where they stand.

Imported by both sides, as protocol.py is. Standard library and numpy, nothing else; nothing here
evaluates a field (`models/hyperdiffusion` does).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .errors import BadInput, TooLarge
from .moving_meshes import MAX_FRAMES

MAX_FIELD_WEIGHTS = 4_000_000
MAX_FREQUENCIES = 12
MAX_LAYERS = 16
MAX_START_LENGTH = 80
MIN_FPS = 0.01
MAX_FPS = 1000.0

_REMEDY = "Use a field that was made by Fieldforge or HyperDiffusion, whole and unchanged."


Layout = tuple[int, int, tuple[int, ...], int, int]
"""dimensions, frequencies, hidden, frame_count, period."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuralField:
    """A shape, or a shape in motion, as the weights of a small network.

    weights: (W,) float32 or float16, layer by layer, in each the matrix (row-major) before the
    bias. dimensions: 3, or 4 for one that moves: then the fourth coordinate is the number of the
    frame, 0 .. frame_count - 1. frequencies, hidden, period: of the network, as in
    `models/hyperdiffusion/config.py`.
    level: the logit that its surface lies at.
    fps, loop: of one that moves: frames a second, and whether the last leads into the first.
    to_source: (4, 4) float64, from the field's own frame (the shape in [-0.475, 0.475]^3, Y up) to
    where the shape stood.
    start: names the weights that fitting began with, "" where nobody knows. Fields with one start
    can be mixed weight by weight.
    """

    weights: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    dimensions: int = 3
    frequencies: int = 4
    hidden: tuple[int, ...] = (128, 128, 128)
    period: int = 0
    level: float = 0.0
    frame_count: int = 1
    fps: float = 24.0
    loop: bool = False
    to_source: np.ndarray = field(default_factory=lambda: np.eye(4))
    start: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.hidden, list):  # as a message holds it
            object.__setattr__(self, "hidden", tuple(self.hidden))

    @property
    def moves(self) -> bool:
        """Whether it has frames."""
        return self.dimensions == 4

    @property
    def layout(self) -> Layout:
        """What two fields must share to be mixed, but for the frequencies: see `why_not_mixed`."""
        return self.dimensions, self.frequencies, self.hidden, self.frame_count, self.period

    def widened(self, frequencies: int) -> NeuralField:
        """The same shape, told more octaves of its points, which count nothing: so that it can be
        mixed with a field that was told them. frequencies: not fewer than it has. Raises TooLarge
        where that would be too many weights."""
        if frequencies == self.frequencies:
            return self
        check_layout(self.dimensions, frequencies, self.hidden, self.frame_count, self.period)
        octaves = self.frequencies, frequencies
        weights = widened(self.weights, self.dimensions, octaves, self.hidden[0], self.period)
        return dataclasses.replace(self, weights=weights, frequencies=frequencies)

    def check(self) -> None:
        """Raise BadInput or TooLarge unless these are the weights of such a field."""
        check_layout(*self.layout)
        check_weights(
            self.weights,
            weight_count(self.dimensions, self.frequencies, self.hidden, self.period),
        )
        check_level(self.level)
        check_fps(self.fps)
        if type(self.loop) is not bool:
            raise BadInput("Whether the motion repeats is neither yes nor no.", _REMEDY)
        check_frame(self.to_source)
        if not isinstance(self.start, str) or len(self.start) > MAX_START_LENGTH:
            raise BadInput("The name of what the field began with cannot be read.", _REMEDY)


def widened(
    weights: np.ndarray, dimensions: int, octaves: tuple[int, int], outputs: int, period: int = 0
) -> np.ndarray:
    """Weights (W,) of the same field that is told more octaves, which count nothing. octaves: how
    many it was told, and is; outputs: of the first layer."""
    before, after = (encoded_width(dimensions, told, period) for told in octaves)
    at = before - (2 * phase_octaves(period) if period else 0)
    first = weights[: outputs * before].reshape(outputs, before)
    first = np.insert(first, [at] * (after - before), 0, axis=1)
    return np.concatenate([first.ravel(), weights[outputs * before :]])


def why_not_mixed(
    first: Layout, second: Layout, names: tuple[str, str] = ("one", "the other")
) -> str:
    """Why shapes between fields of these layouts cannot be had, or "". Of different frequencies,
    the one that has fewer is `widened` first; of different periods, surfaces are mixed instead of
    weights."""
    dimensions, _, hidden, frames, _ = zip(first, second, strict=True)
    if dimensions[0] != dimensions[1]:
        return "one of them moves, the other does not"
    if frames[0] != frames[1]:
        return f"{names[0]} has {frames[0]} frames, {names[1]} {frames[1]}"
    return "" if hidden[0] == hidden[1] else "their fields are of different sizes"


def phase_octaves(period: int) -> int:
    """How many octaves of the phase tell a frame of a motion that repeats after `period` frames:
    those that turn by less than a half from a frame to the next."""
    return max(0, (period - 1).bit_length() - 1)


def encoded_width(dimensions: int, frequencies: int, period: int = 0) -> int:
    """How many numbers a point is told to the network as."""
    if period:
        return encoded_width(dimensions - 1, frequencies) + 2 * phase_octaves(period)
    return dimensions * (1 + 2 * frequencies)


def layer_sizes(
    dimensions: int, frequencies: int, hidden: tuple[int, ...], period: int = 0
) -> list[tuple[int, int]]:
    """(outputs, inputs) of each matrix, in order; a bias of `outputs` follows each."""
    widths = (encoded_width(dimensions, frequencies, period), *hidden, 1)
    return [(outputs, inputs) for inputs, outputs in pairwise(widths)]


def weight_count(
    dimensions: int, frequencies: int, hidden: tuple[int, ...], period: int = 0
) -> int:
    """How many weights such a field has: 36,737 of the published one at rest, 37,889 in motion."""
    sizes = layer_sizes(dimensions, frequencies, hidden, period)
    return sum(outputs * (inputs + 1) for outputs, inputs in sizes)


def check_layout(
    dimensions: object, frequencies: object, hidden: object, frames: object, period: object = 0
) -> None:
    """Raise BadInput or TooLarge unless a field may have this layout."""
    if type(dimensions) is not int or dimensions not in (3, 4):
        raise BadInput(f"A field over {dimensions!r} dimensions is not known.", _REMEDY)
    if type(frequencies) is not int or not 0 <= frequencies <= MAX_FREQUENCIES:
        raise BadInput(f"A field with {frequencies!r} frequencies is not known.", _REMEDY)
    if (
        not isinstance(hidden, tuple)
        or not 1 <= len(hidden) <= MAX_LAYERS
        or not all(type(width) is int and 1 <= width <= MAX_FIELD_WEIGHTS for width in hidden)
    ):
        raise BadInput("The layers of the field are not known.", _REMEDY)
    if type(period) is not int or (period and (dimensions != 4 or period != frames or period < 3)):
        raise BadInput(f"A field that repeats after {period!r} frames is not known.", _REMEDY)
    count = weight_count(dimensions, frequencies, hidden, period)
    if count > MAX_FIELD_WEIGHTS:
        raise TooLarge(
            f"A field of {count:,} weights is more than the {MAX_FIELD_WEIGHTS:,} that are"
            " accepted.",
            "Make the field anew with Compress to neural field.",
        )
    if type(frames) is not int or not 1 <= frames <= MAX_FRAMES:
        raise BadInput(
            f"A field of {frames!r} frames cannot be used.", f"Use 1 to {MAX_FRAMES} frames."
        )
    if dimensions == 3 and frames != 1:
        raise BadInput(f"A field at rest has 1 frame, not {frames}.", _REMEDY)


def check_weights(weights: object, count: int) -> None:
    """Raise BadInput unless `weights` is (count,) float32 or float16, all numbers."""
    if (
        not isinstance(weights, np.ndarray)
        or weights.dtype.kind != "f"
        or weights.dtype.itemsize not in (2, 4)
        or weights.ndim != 1
    ):
        raise BadInput("The weights of the field are no list of numbers.", _REMEDY)
    if len(weights) != count:
        raise BadInput(
            f"The field has {len(weights):,} weights; its layers need {count:,}.", _REMEDY
        )
    if not np.isfinite(weights).all():
        raise BadInput(
            "The field has weights that are not numbers.", "Make the field anew from its object."
        )


def check_level(level: object) -> None:
    """Raise BadInput unless `level` is a logit that a surface may lie at."""
    if type(level) not in (int, float) or not -1000 <= level <= 1000:  # type: ignore[operator]
        raise BadInput(
            f"A surface at the level {level!r} cannot be made.", "Use -1000 to 1000; 0 is usual."
        )


def check_fps(fps: object) -> None:
    """Raise BadInput unless `fps` is a number of frames a second."""
    if type(fps) not in (int, float) or not MIN_FPS <= fps <= MAX_FPS:  # type: ignore[operator]
        raise BadInput(
            f"{fps!r} frames a second cannot be played.",
            f"Use {MIN_FPS:g} to {MAX_FPS:g}; 24 is usual.",
        )


def playable_fps(fps: float) -> float:
    """The nearest number of frames a second that `check_fps` lets through."""
    return float(min(max(fps, MIN_FPS), MAX_FPS))


def check_frame(matrix: object) -> None:
    """Raise BadInput unless `matrix` is (4, 4) floats, finite, and flattens nothing."""
    if (
        not isinstance(matrix, np.ndarray)
        or matrix.shape != (4, 4)
        or matrix.dtype.kind != "f"
        or not np.isfinite(matrix).all()
        or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6
    ):
        raise BadInput("Where the field stands is no 4 x 4 matrix of numbers.", _REMEDY)
    axes = matrix[:3, :3].astype(np.float64)
    lengths = np.linalg.norm(axes, axis=0)
    if not lengths.min() > 0 or abs(np.linalg.det(axes / lengths)) < 1e-6:
        raise BadInput(
            "Where the field stands, it is flat.", "Give the object a scale above 0 along all axes."
        )
