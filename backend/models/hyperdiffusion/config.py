"""What the sizes of fields and of their denoiser are."""

from __future__ import annotations

from dataclasses import dataclass

from ...neural_fields import encoded_width


@dataclass(frozen=True)
class FieldConfig:
    """A network that tells whether a point is inside.

    dimensions: of a point, 3 (x, y, z) or 4 (and the number of the frame). frequencies: of the
    encoding, 1, 2, 4 .. without a factor of pi. hidden: widths of the hidden layers.
    period: 0, and the frame is a coordinate like the others, as published; or after how many frames
    the motion repeats: then the frame is told by the sine and cosine of its phase and of those
    octaves of it that turn by less than a half from frame to frame. So motion is smooth, and the
    last frame leads to the first.
    """

    dimensions: int = 3
    frequencies: int = 4
    hidden: tuple[int, ...] = (128, 128, 128)
    period: int = 0

    def __post_init__(self) -> None:
        if self.dimensions not in (3, 4):
            raise ValueError(f"a field over {self.dimensions} dimensions: expected 3 or 4")
        if self.frequencies < 0 or not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"a field of {self.frequencies} frequencies and widths {self.hidden}")
        if self.period < 0 or (self.period and self.dimensions != 4):
            raise ValueError(f"a field over {self.dimensions} dimensions of period {self.period}")

    @property
    def encoded(self) -> int:
        """Numbers that a point is encoded as: 27 in three dimensions, 36 in four as published."""
        return encoded_width(self.dimensions, self.frequencies, self.period)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the encoding, the hidden layers and the result."""
        return (self.encoded, *self.hidden, 1)


@dataclass(frozen=True)
class DenoiserConfig:
    """The transformer over weights.

    tokens: how many weights each token holds, in the order of the weight vector. width, depth,
    heads: of the transformer. time_octaves: the timestep is encoded by 128 frequencies from 1 to
    2^time_octaves; published models have 20, where float32 rounds most of them to chance, so
    models of our own take 8.
    """

    tokens: tuple[int, ...]
    width: int
    depth: int = 12
    heads: int = 16
    time_octaves: float = 20.0

    def __post_init__(self) -> None:
        if not self.tokens or min(self.tokens) < 1 or self.depth < 0:
            raise ValueError(f"a denoiser of tokens {self.tokens} and {self.depth} blocks")
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} is not {self.heads} equal heads")
