"""Voxels of words, or of nothing: a small diffusion over what of 16^3 cells is solid.

Words do not say where anything is, and what they leave open is much: all chairs. So a model of
joint conditions first draws one shape that fits them, in few cells, and then makes that shape, as
it makes any that it is given in voxels. The diffusion is over principal components of such cells: a
perceptron, shifted and scaled by time and condition, that predicts them without noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ... import sampling
from ..component_denoiser import ComponentsDenoiser
from .config import ImaginedConfig

CELLS = 16
"""Along a side of the cube."""
SAID = ("text", "words")
FULL = 0.3
"""Share of a cell that is solid from which on values are 1; none is -1."""
LEVEL = -0.2
"""Value from which on a cell counts as solid: where components, which lose thin parts first, put
the border best (overlap with training shapes at 0, -0.2, -0.35: 0.842, 0.841, 0.806; shapes of
which nothing is left: 27, 13, 11 of 696)."""
FEWEST = 24
"""Cells that are solid at least; of 95 of 100 training shapes more are."""
DIFFUSION = sampling.Diffusion()
STEPS = 50


class ImaginedVoxels(ComponentsDenoiser):
    """Components at a time of the diffusion -> those of a shape.

    text, words: lengths of what says what the shape shall be, 0 where it takes none.
    mean (16^3,), basis (components, 16^3), scale (components,): of values of cells; see
    `component_denoiser.scale_of`.
    """

    mean: torch.Tensor
    basis: torch.Tensor
    scale: torch.Tensor

    def __init__(self, config: ImaginedConfig, text: int, words: int) -> None:
        width, count = config.width, config.components
        super().__init__(count, width, config.depth)
        self.register_buffer("mean", torch.zeros(CELLS**3))
        self.register_buffer("basis", torch.zeros(count, CELLS**3))
        self.register_buffer("scale", torch.ones(count))
        self.null = nn.Parameter(torch.randn(1, width) * 0.02)
        self.text_in = _read(text, width)
        self.words_in = _read(words, width)

    def components(self, cells: torch.Tensor) -> torch.Tensor:
        """Values (B, 1, 16, 16, 16) -> (B, components), float32."""
        mean, basis, scale = self.mean.float(), self.basis.float(), self.scale.float()
        return (cells.flatten(1) - mean) @ basis.mT / scale

    def cells(self, components: torch.Tensor) -> torch.Tensor:
        """(B, components) -> values (B, 1, 16, 16, 16), float32."""
        mean, basis, scale = self.mean.float(), self.basis.float(), self.scale.float()
        flat = (components * scale) @ basis + mean
        return flat.unflatten(1, (1, CELLS, CELLS, CELLS))

    def condition(self, said: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, C) of text (B, length) or words (B, number of words), or both. Raises ValueError."""
        parts = []
        for name, source in said.items():
            layer = {"text": self.text_in, "words": self.words_in}.get(name)
            if layer is None:
                raise ValueError(f"this model was not trained on {name}")
            parts.append(layer(source.to(self.null.dtype)))
        if not parts:
            raise ValueError(f"nothing is said: expected any of {SAID}")
        return torch.stack(parts).sum(dim=0)

    def nothing(self, rows: int) -> torch.Tensor:
        """No condition: (rows, C)."""
        return self.null.expand(rows, -1)

    @torch.no_grad()
    def imagine(
        self,
        said: Mapping[str, torch.Tensor] | None,
        seeds: Sequence[int],
        guidance: float,
        known: Known | None = None,
    ) -> torch.Tensor:
        """Voxels (len(seeds), 1, 16, 16, 16) float32, 0 or 1, of one condition: `said` (1, ...), or
        none.

        Each is a function of its seed alone, on every device. known: what is to stay.
        """
        rows, device = len(seeds), self.null.device
        condition, scale = self.nothing(rows), 1.0
        if said:
            condition, scale = self.condition(said).expand(rows, -1), guidance
        denoise = sampling.guided(self, condition, self.nothing(rows), scale)

        def cells_of(components: torch.Tensor) -> torch.Tensor:
            cells = self.cells(components)
            return known.put_in(cells) if known else cells

        def correct(start: torch.Tensor) -> torch.Tensor:
            return self.components(cells_of(start))

        noise = sampling.streams([_OTHER + seed for seed in seeds], len(self.scale), device)
        *_, last = sampling.ancestral(
            denoise, DIFFUSION.spaced(STEPS), noise, correct=correct if known else None
        )
        return solid(cells_of(last.sample))


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the voxels: values (16, 16, 16), but where anew (16, 16, 16) is True."""

    values: torch.Tensor
    anew: torch.Tensor

    def put_in(self, cells: torch.Tensor) -> torch.Tensor:
        """Values (B, 1, 16, 16, 16), with what is known instead of what is not."""
        return torch.where(self.anew, cells, self.values)


_OTHER = 1 << 40
"""Added to seeds, so that these draws are not those of the latents."""


def values(share: torch.Tensor) -> torch.Tensor:
    """What of each cell is solid, 0 to 1 -> what the diffusion is over, -1 to 1."""
    return 2 * share.clamp(max=FULL) / FULL - 1


def solid(cells: torch.Tensor) -> torch.Tensor:
    """Values (B, 1, 16, 16, 16) -> which cells are solid, 0 or 1.

    Where too few are, the FEWEST that are nearest to it, so that there is always something.
    """
    flat = cells.flatten(1)
    nearest = flat.topk(FEWEST, dim=1).indices
    return (flat >= LEVEL).float().scatter(1, nearest, 1.0).view_as(cells)


def _read(length: int, width: int) -> nn.Module | None:
    if not length:
        return None
    return nn.Sequential(nn.Linear(length, width), nn.SiLU(), nn.Linear(width, width))
