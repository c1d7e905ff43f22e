"""Voxels of words, or of nothing: a small diffusion over what of 16^3 cells is solid.

Words do not say where anything is, and what they leave open is much: all chairs. So a model of
joint conditions first draws one shape that fits them, in few cells, and then makes that shape, as
it makes any that it is given in voxels. A transformer over patches of cells that predicts the
picture itself (Peebles & Xie 2023, modulation by time and condition; Li & He 2025, patches as they
are).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from ... import sampling
from .config import ImaginedConfig
from .layers import Mlp, SelfAttention, zeroed
from .uvit import FromPatches, Patches, TimeEmbedding

CELLS = 16
"""Along a side of the cube."""
SAID = ("text", "words")
SOLID = 0.25
"""Share of a cell that is solid from which on the cell counts as solid; where the values of the
diffusion are 0."""
FULL = 2 * SOLID
"""Share at which they end, at 1."""
DIFFUSION = sampling.Diffusion()
STEPS = 50


class ImaginedVoxels(nn.Module):
    """x_t (B, 1, 16, 16, 16) -> x_0, values from -1 (nothing solid) to 1 (at least `FULL` is).

    text, words: lengths of what says what the shape shall be, 0 where it takes none.
    """

    def __init__(self, config: ImaginedConfig, text: int, words: int) -> None:
        super().__init__()
        width = config.width
        self.null = nn.Parameter(torch.randn(1, width) * 0.02)
        self.text_in = _read(text, width)
        self.words_in = _read(words, width)
        self.time = TimeEmbedding(width)
        self.patches = Patches(config.patch)
        self.cells_in = nn.Linear(config.patch**3, width)
        self.place = nn.Parameter(torch.randn(1, (CELLS // config.patch) ** 3, width) * 0.02)
        self.blocks = nn.ModuleList(
            ModulatedBlock(width, config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.cells_out = zeroed(nn.Linear(width, config.patch**3))
        self.from_patches = FromPatches(config.patch, CELLS)

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

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """condition (B, C), of `condition` or `nothing`."""
        dtype = self.null.dtype
        tokens = self.cells_in(self.patches(x.to(dtype))) + self.place
        hint = functional.silu(self.time(timesteps, dtype) + condition)
        for block in self.blocks:
            tokens = block(tokens, hint)
        shift, scale = self.modulation(hint)[:, None].chunk(2, dim=-1)
        cells = self.cells_out(self.norm(tokens) * (1 + scale) + shift)
        return self.from_patches(cells).to(x.dtype)

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
        *_, last = sampling.ancestral(
            lambda x, timesteps: denoise(x, timesteps).clamp(-1, 1),
            DIFFUSION.spaced(STEPS),
            _streams(seeds, device),
            correct=known.correct if known else None,
        )
        return solid(last.sample)


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the voxels: values (16, 16, 16), but where anew (16, 16, 16) is True."""

    values: torch.Tensor
    anew: torch.Tensor

    def correct(self, start: torch.Tensor) -> torch.Tensor:
        """x_0 as predicted, with what is known put in."""
        return torch.where(self.anew, start, self.values)


def _streams(seeds: Sequence[int], device: torch.device) -> Iterator[torch.Tensor]:
    """Draws (rows, 1, 16, 16, 16), each row from a generator of its seed on the processor."""
    generators = [torch.Generator().manual_seed(_OTHER + seed) for seed in seeds]
    while True:
        draws = [torch.randn(1, CELLS, CELLS, CELLS, generator=one) for one in generators]
        yield torch.stack(draws).to(device)


_OTHER = 1 << 40
"""Added to seeds, so that these draws are not those of the latents."""


def values(share: torch.Tensor) -> torch.Tensor:
    """What of each cell is solid, 0 to 1 -> what the diffusion is over."""
    return share.clamp(max=FULL) / SOLID - 1


def solid(cells: torch.Tensor) -> torch.Tensor:
    """Values (B, 1, 16, 16, 16) -> which cells are solid, 0 or 1.

    Where none is, the one that is nearest to it, so that there is always something.
    """
    highest = cells.flatten(1).amax(dim=1).clamp(max=0)[:, None, None, None, None]
    return (cells >= highest).float()


def _read(length: int, width: int) -> nn.Module | None:
    return (
        nn.Sequential(nn.Linear(length, width), nn.SiLU(), nn.Linear(width, width))
        if length
        else None
    )


class ModulatedBlock(nn.Module):
    """Self-attention and a perceptron; a hint (B, width) shifts, scales and gates both."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = Mlp(width, 4 * width)
        self.modulation = zeroed(nn.Linear(width, 6 * width))

    def forward(self, x: torch.Tensor, hint: torch.Tensor) -> torch.Tensor:
        parts = self.modulation(hint)[:, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
