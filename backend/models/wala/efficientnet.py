"""EfficientNet-Lite0 (Tan & Le 2019; the Lite variant is Google's) up to its last block: what sees
in pictures.

Its normalisations are folded into the convolutions before them, so that small batches and pictures
of other kinds than photographs change nothing; what is left is convolutions and ReLU6. Pictures are
those of the rest of WaLa, (B, 3, S, S) in [-1, 1], and so are those it was published for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

_EPSILON = 1e-3


@dataclass(frozen=True)
class _Stage:
    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STEM = 32
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_TOLD = (4, 10, 15)
CHANNELS = (40, 112, 320)
"""Of the features at an eighth, a sixteenth and a thirty-second of the picture's side."""


class EfficientNetLite0(nn.Module):
    """Pictures (B, 3, S, S) -> three volumes (B, CHANNELS[k], S / 2^(k + 3), S / 2^(k + 3))."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, _STEM, 3, stride=2)
        blocks: list[nn.Module] = []
        before = _STEM
        for stage in _STAGES:
            for number in range(stage.blocks):
                stride = 1 if number else stage.stride
                blocks.append(
                    InvertedBottleneck(
                        before, stage.channels, stage.kernel, stride, stage.expansion
                    )
                )
                before = stage.channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        x = functional.relu6(self.stem(pictures))
        told = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in _TOLD:
                told.append(x)
        return told

    @torch.no_grad()
    def load_published(self, state: Mapping[str, torch.Tensor]) -> None:
        """Weights under the names of the published checkpoint; KeyError where one is missing."""
        _fold(self.stem, state, "_conv_stem", "_bn0")
        for number, block in enumerate(self.blocks):
            prefix = f"_blocks.{number}."
            assert isinstance(block, InvertedBottleneck)  # noqa: S101 - it is what was made
            if block.expand is not None:
                _fold(block.expand, state, f"{prefix}_expand_conv", f"{prefix}_bn0")
            _fold(block.depthwise, state, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
            _fold(block.project, state, f"{prefix}_project_conv", f"{prefix}_bn2")


class InvertedBottleneck(nn.Module):
    """Wider by a 1x1 convolution, a depthwise one, and back; added to the input where it can."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expand = SameConv(channels_in, wide, 1) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, channels, 1)
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x if self.expand is None else functional.relu6(self.expand(x))
        h = self.project(functional.relu6(self.depthwise(h)))
        return x + h if self.residual else h


class SameConv(nn.Conv2d):
    """A convolution whose output has the side of its input divided by the stride, rounded up; of
    an odd amount of padding the larger half is on the right and below, as in TensorFlow."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels_in, channels, kernel, stride, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        sides = x.shape[-2:]
        total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in sides]
        rows, columns = total
        if rows or columns:
            padding = [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2]
            x = functional.pad(x, padding)
        return super().forward(x)


def _fold(conv: nn.Conv2d, state: Mapping[str, torch.Tensor], name: str, norm: str) -> None:
    """The convolution of `name` with the normalisation that follows it."""
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPSILON).sqrt()
    conv.weight.copy_(state[f"{name}.weight"] * scale[:, None, None, None])
    assert conv.bias is not None  # noqa: S101 - they all have one
    conv.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)
