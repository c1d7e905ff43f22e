"""Views that agree: what each shows of a place is brought together in space, and shown by all.

A denoiser makes each view sharp by itself, and what it adds to one it does not add to the next. So
the views that it expects are carried onto the surface of the first guess, which all of them share,
and rendered from there, as layers within the network carry features. Nothing of it is learned.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from . import unprojection
from .cameras import Cameras, at_size, centres
from .pixels import PixelLatents

_KNOWN = 4.0
"""How many times as much as a view that is made one counts that is given."""
_TINY = 1e-6


def agreed(
    latents: torch.Tensor,
    fronts: torch.Tensor,
    given: torch.Tensor,
    cameras: Cameras,
    pixels: PixelLatents,
    share: float,
    cells: int,
) -> torch.Tensor:
    """(B, V, C, h, w) float32, of `pixels` with alpha: with colours that are nearer, by `share`, to
    what all views show of the same places. Outlines, depth and given views stay as they are.

    fronts: (B, V, 2, h, w), where the surface is, as first_guess.fronts_of has it. given: (B, V)
    bool, those that are there already. cameras: centred ones. cells: along a side of the box, of
    what is guessed: a surface is as thick as one.
    """
    with torch.autocast(latents.device.type, enabled=False):
        planes = F.pixel_shuffle(latents, pixels.patch)
        size = planes.shape[-2], planes.shape[-1]
        fine = F.interpolate(fronts.flatten(0, 1), size, mode="bilinear", align_corners=False)
        fine = fine.unflatten(0, fronts.shape[:2])
        alpha = ((planes[:, :, 3:4] + 1) / 2).clamp(0, 1)
        shown = torch.cat([planes[:, :, :3], alpha, fine], dim=2)
        lens = at_size(cameras.intrinsics, cameras.size, size)
        points = _surfaces(fine, lens, cameras)
        colours = []
        for view in range(planes.shape[1]):
            seen = _seen(shown, lens, cameras, points[:, view], view, cells)
            mean, sure = _together(*seen, given)
            mean, sure = (x.mT.unflatten(-1, size) for x in (mean, sure))
            moved = share * fine[:, view, :1] * sure * ~given[:, view, None, None, None]
            own = planes[:, view, :3]
            colours.append(own + moved * (alpha[:, view] * mean - own))
        agreeing = torch.cat([torch.stack(colours, dim=1), planes[:, :, 3:]], dim=2)
        return F.pixel_unshuffle(agreeing, pixels.patch)


def _surfaces(fronts: torch.Tensor, lens: torch.Tensor, cameras: Cameras) -> torch.Tensor:
    """Places in the world (B, V, H W, 3) of what pixels show."""
    size = fronts.shape[-2], fronts.shape[-1]
    origins, directions = unprojection.rays(cameras.world2cam, lens, size, cameras.bbox)
    half = unprojection.longest_side(cameras.bbox)[:, None, None, None] / 2
    covered, weighted = fronts.flatten(3).mT.split(1, dim=-1)
    return origins * half + directions * (weighted / covered.clamp(min=_TINY))


def _seen(
    shown: torch.Tensor,
    lens: torch.Tensor,
    cameras: Cameras,
    points: torch.Tensor,
    view: int,
    cells: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What views show (B, V, M, 6) of points (B, M, 3) on the surface that one `view` shows, and
    how much that counts (B, V, M, 1). shown: (B, V, 6, H, W), colours times alpha, alpha, fronts.
    """
    found, valid, depth = unprojection.unproject(shown, cameras.world2cam, lens, points)
    cell = unprojection.longest_side(cameras.bbox) / cells
    # Between two surfaces, fronts are in mid-air, where others see what is far behind.
    near = unprojection.visible(found[..., 4:], depth, cell, both_sides=True)
    # The surface is a guess: seen from about the same side, an error of its depth shifts little.
    ways = F.normalize(points[:, None] - centres(cameras.world2cam)[:, :, None], dim=-1)
    beside = (ways * ways[:, view : view + 1]).sum(dim=-1, keepdim=True).clamp(min=0).square()
    return found, valid * near * beside


def _together(
    found: torch.Tensor, weight: torch.Tensor, given: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean colours (B, M, 3) of what is seen, and whether anything is, (B, M, 1)."""
    weight = weight * (1 + given * (_KNOWN - 1))[..., None, None]
    colours = (weight * found[..., :3]).sum(dim=1)
    amount = (weight * found[..., 3:4]).sum(dim=1)
    return colours / amount.clamp(min=_TINY), (amount > _TINY).to(colours)
