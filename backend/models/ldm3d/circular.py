"""Convolutions that go on around the edge in x, as a panorama does, and end at the poles in y.

With them, and with attention and norms over the whole picture, turning the input of a network turns
its output: there is no seam. That holds for turns by whole cells of the coarsest level, where the
width is a multiple of them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class AroundConv2d(nn.Conv2d):
    """A Conv2d whose padding in x is what lies around the edge, and zeros in y."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As nn.Conv2d."""
        down, across = (int(size) for size in self.padding)
        wide = functional.pad(input, (across, across, 0, 0), mode="circular")
        return functional.conv2d(
            wide, self.weight, self.bias, self.stride, (down, 0), self.dilation, self.groups
        )


class _AroundDownsample(nn.Module):
    """The encoder's halving: diffusers pads it with zeros at the right and at the bottom."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, hidden_states: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        wide = functional.pad(hidden_states, (0, 1, 0, 0), mode="circular")
        halved: torch.Tensor = self.conv(functional.pad(wide, (0, 0, 0, 1)))
        return halved


def go_around(network: nn.Module) -> None:
    """Change every convolution of a network of diffusers so, in place; weights stay.

    Raises ValueError for one that cannot be: padded in another way than with zeros by a number.
    """
    from diffusers.models.downsampling import Downsample2D

    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Downsample2D) and child.use_conv and child.padding == 0:
                setattr(module, name, _AroundDownsample(child.conv))
    for module in network.modules():
        if type(module) is nn.Conv2d:
            if module.padding_mode != "zeros" or isinstance(module.padding, str):
                raise ValueError(f"a convolution is padded with {module.padding_mode}")
            if module.padding[1]:
                module.__class__ = AroundConv2d
        elif isinstance(module, nn.modules.conv._ConvNd) and type(module) is not AroundConv2d:
            raise ValueError(f"a convolution is a {type(module).__name__}")
