"""What a scene may look like, of the views that are given: coarse colours in space, seen from all.

A denoiser that begins from nothing must find out what rays are before it can make a view of
another. Here that is built in: pictures that are given are carried into a grid, a network in 3D
tells what is solid there and of which colour, and every camera is told what it would see of it. The
denoiser then only makes sharp and sure what is blurred. As in pixelNeRF (Yu et al. 2021), but in a
grid; trained by itself, by how like the true views it looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from . import unprojection
from .cameras import Cameras, at_size, centres
from .pixels import REACH, PixelLatents
from .sight import Sight
from .volume import VolumeUNet

CHANNELS = 6
"""Of what is told of each cell: colour times alpha, from -1 to 1 as far as there is anything;
alpha, from -1 to 1; depth, as PixelLatents has it; and whether any view was given at all."""
_SEEN = 4
_PLACES = 3
_FINE = 2
"""Voxels of the result along a side of one of the network."""
AT_ONCE = 8
"""Views that are looked at in one go: memory for their rays does not grow with their number."""
_FULL = 40.0
"""Opacity of a unit of the box's half side where the network is sure."""


@dataclass(frozen=True)
class GuessConfig:
    """grid: voxels along a side of the network in 3D; the result has twice as many. channels: of a
    voxel. features: of pictures. samples: along a ray. levels: of the network, 1 or 2. sight:
    channels of what convolutions see that begin as they were trained on photographs; 0: there are
    none. deep: channels of the network where it works on blocks of 2^3 voxels; 0: it works on
    voxels."""

    grid: int = 16
    channels: int = 24
    features: int = 12
    samples: int = 40
    levels: int = 2
    sight: int = 0
    deep: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or value < int(name not in ("sight", "deep")):
                raise ValueError(f"{name} is {value!r}")
        if self.grid % 2 ** (self.levels - 1 + (self.deep > 0)):
            raise ValueError(f"a grid of {self.grid} cannot be halved")

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> GuessConfig:
        return GuessConfig(**record)


@dataclass(frozen=True, eq=False)
class _GivenViews:
    """shown: (B, K) bool, which of the views count; world2cam, intrinsics: where they are from."""

    shown: torch.Tensor
    world2cam: torch.Tensor
    intrinsics: torch.Tensor

    def carried(
        self, pictures: torch.Tensor, side: int, cameras: Cameras
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, K, C, h, w) -> what each voxel is seen as (B, K, M, C), and whether (B, K, M, 1)."""
        points, _ = unprojection.voxel_centres(side, cameras.bbox)
        lens = at_size(self.intrinsics, cameras.size, (pictures.shape[-2], pictures.shape[-1]))
        found, valid, _ = unprojection.unproject(pictures, self.world2cam, lens, points)
        return found, valid * self.shown[..., None, None]


class FirstGuess(nn.Module):
    """forward(latents (B, V, C, h, w), given (B, V) bool, cameras) -> (B, V, CHANNELS, h, w).

    latents: of `pixels`, with alpha. cameras: centred ones. Scenes of which nothing is given are
    told nothing: zeros.
    """

    def __init__(self, config: GuessConfig, pixels: PixelLatents) -> None:
        super().__init__()
        if not pixels.has_alpha:
            raise ValueError("what is solid cannot be guessed of pictures without alpha")
        self.config, self.pixels = config, pixels
        width = config.channels
        self.pictures = nn.Sequential(
            nn.Conv2d(_SEEN * pixels.patch**2, 2 * config.features, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * config.features, 2 * config.features, 3, padding=2, dilation=2),
            nn.SiLU(),
            nn.Conv2d(2 * config.features, config.features, 3, padding=1),
        )
        self.sight = Sight(config.sight, width) if config.sight else None
        # Means over given views; the least alpha of them; how many see it; where it is.
        told = config.features + config.sight + _SEEN + 2 + _PLACES
        self.voxels_in = nn.Linear(told, width)
        self.network = VolumeUNet(config.deep or width, config.levels)
        if config.deep:
            self.folded = nn.Conv3d(width, config.deep, 2, stride=2)
            self.unfolded = nn.ConvTranspose3d(config.deep, width, 2, stride=2)
            self.joined = nn.Conv3d(width, width, 3, padding=1)
        self.voxels_out = nn.Conv3d(width, 4 * _FINE**3, 1)
        # What is solid with a chance is seen as if it were, or not: logits times the first number,
        # plus the second, are those of opacity.
        self.sureness = nn.Parameter(torch.tensor([1.0, 0.0]))
        # How much the given pictures themselves count, where the result is finer than the network.
        self.outline = nn.Parameter(torch.tensor(2.0))
        self.tint = nn.Parameter(torch.tensor(0.5))

    @property
    def cells(self) -> int:
        """Along a side of the box, of what is guessed."""
        return _FINE * self.config.grid

    def forward(self, latents: torch.Tensor, given: torch.Tensor, cameras: Cameras) -> torch.Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            told = self._guess(latents.float(), given, cameras)
        known = given.any(dim=1)[:, None, None, None, None]
        flag = known.float().expand(*told.shape[:2], 1, *told.shape[-2:])
        return torch.cat([torch.where(known, told, 0.0), flag], dim=2).to(latents.dtype)

    def _guess(self, latents: torch.Tensor, given: torch.Tensor, cameras: Cameras) -> torch.Tensor:
        volume = self.volume(latents, given, cameras)
        return self.seen(volume, cameras, (latents.shape[-2], latents.shape[-1]))

    def volume(self, latents: torch.Tensor, given: torch.Tensor, cameras: Cameras) -> torch.Tensor:
        """(B, 4, G, G, G) in the order z, y, x, G being twice the grid: logits of what is solid,
        and colours before their tanh, of what given views show. As for `forward`."""
        most = max(1, int(given.sum(dim=1).max()))
        # Given views first, so that nothing is computed of the others.
        order = given.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        rows = torch.arange(len(order), device=order.device)[:, None]
        views = _GivenViews(
            given[rows, order], cameras.world2cam[rows, order], cameras.intrinsics[rows, order]
        )
        shown = latents[rows, order][:, :, : _SEEN * self.pixels.patch**2]
        planes = F.pixel_shuffle(shown, self.pixels.patch)
        fine = self._by_network(shown, planes, views, cameras)
        fine = fine + self._by_pictures(planes, views, cameras)
        return fine.permute(0, 1, 4, 2, 3)  # y, x, z -> z, y, x

    def _by_network(
        self, seen: torch.Tensor, planes: torch.Tensor, views: _GivenViews, cameras: Cameras
    ) -> torch.Tensor:
        """(B, 4, G, G, G) in the order y, x, z: what the network in 3D tells."""
        grid = self.config.grid
        features = self.pictures(seen.flatten(0, 1)).unflatten(0, views.shown.shape)
        small = _resized(planes, (seen.shape[-2], seen.shape[-1]))
        coarse, valid = views.carried(torch.cat([features, small], dim=2), grid, cameras)
        mean = unprojection.mean_of_views(coarse, valid)
        outline = _least_alpha(coarse[..., -1:], valid)
        count = valid.sum(dim=1) / views.shown.sum(dim=1).clamp(min=1)[:, None, None]
        places, _ = unprojection.voxel_centres(
            grid, torch.stack([-torch.ones(1, 3), torch.ones(1, 3)], 1).to(mean)
        )
        told = [mean, outline, count, places.expand(len(mean), -1, -1)]
        whole: torch.Tensor | float = 0.0
        if self.sight is not None:
            sights, whole = self.sight(planes, views.shown)
            found, valid = views.carried(sights, grid, cameras)
            told.append(unprojection.mean_of_views(found, valid))
        inner = (self.voxels_in(torch.cat(told, dim=-1)) + whole).mT.unflatten(-1, (grid,) * 3)
        return _spread(self.voxels_out(F.silu(self._thought(inner))))

    def _thought(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, G, G, G) -> the same shape: what the network in 3D makes of it."""
        time = x.new_zeros(len(x))
        if not self.config.deep:
            found: torch.Tensor = self.network(x, time)
            return found
        deep = self.unfolded(F.silu(self.network(self.folded(x), time)))
        return x + self.joined(F.silu(x + deep))

    def _by_pictures(
        self, planes: torch.Tensor, views: _GivenViews, cameras: Cameras
    ) -> torch.Tensor:
        """(B, 4, G, G, G) in the order y, x, z: outlines and colours as they are seen."""
        side = _FINE * self.config.grid
        sharp, valid = views.carried(planes, side, cameras)
        outline = self.outline * _least_alpha(sharp[..., -1:], valid)
        tint = self.tint * unprojection.mean_of_views(sharp[..., :3], valid)
        return torch.cat([outline, tint], dim=-1).mT.unflatten(-1, (side,) * 3)

    def seen(self, volume: torch.Tensor, cameras: Cameras, size: tuple[int, int]) -> torch.Tensor:
        """(B, V, 5, h, w): colours, alpha and depth of a `volume` from all cameras."""
        views = range(cameras.views)
        parts = [views[begin : begin + AT_ONCE] for begin in range(0, len(views), AT_ONCE)]
        return torch.cat([self._seen(volume, cameras.select(part), size) for part in parts], dim=1)

    def _seen(self, volume: torch.Tensor, cameras: Cameras, size: tuple[int, int]) -> torch.Tensor:
        lens = at_size(cameras.intrinsics, cameras.size, size)
        origins, directions = unprojection.rays(cameras.world2cam, lens, size, cameras.bbox)
        scale = 2 / unprojection.longest_side(cameras.bbox)
        box = cameras.bbox * scale[:, None, None]
        near, far = unprojection.through_box(origins, directions, box)
        share = (torch.arange(self.config.samples, device=near.device) + 0.5) / self.config.samples
        depths = near[..., None] + (far - near)[..., None] * share  # (B, V, R, S)
        points = origins[..., None, :] + directions[..., None, :] * depths[..., None]
        batch, views, count, samples = depths.shape
        places = points.reshape(batch, 1, views * count, samples, 3)
        found = F.grid_sample(volume, places, align_corners=False)[:, :, 0]
        solid, colours = found[:, :1], found[:, 1:].tanh()
        opacity = (self.sureness[0] * solid + self.sureness[1]).sigmoid() * _FULL
        inside = (points.abs().amax(dim=-1) < 1).reshape(batch, 1, views * count, samples)
        steps = ((far - near) * directions.norm(dim=-1) / samples).reshape(batch, 1, -1, 1)
        way = torch.cumsum(opacity * steps * inside, dim=-1)
        left = torch.exp(-way)
        weights = F.pad(left[..., :-1], (1, 0), value=1.0) - left
        colour = (weights * colours).sum(dim=-1)
        alpha = weights.sum(dim=-1)
        behind = (
            depths / scale[:, None, None, None]
            - centres(cameras.world2cam).norm(dim=-1)[..., None, None]
        )
        behind = (behind / REACH).clamp(-1, 1).reshape(batch, 1, -1, samples)
        depth = (weights * behind).sum(dim=-1) + (1 - alpha)
        planes = torch.cat([colour, 2 * alpha - 1, depth], dim=1)
        return planes.unflatten(2, (views, *size)).transpose(1, 2)


def planes_of(latents: torch.Tensor, pixels: PixelLatents) -> torch.Tensor:
    """(..., C, h, w) -> (..., 5 or 4, h, w): what the guess shall be, the means of cells."""
    return latents.unflatten(-3, (len(pixels.layout), -1)).mean(dim=-3)


def latents_of(planes: torch.Tensor, pixels: PixelLatents) -> torch.Tensor:
    """(B, V, 6, h, w) of what is told -> (B, V, C, h, w), smooth between the middles of cells."""
    shown = planes[:, :, : len(pixels.layout)].flatten(0, 1).float()
    fine = F.interpolate(shown, scale_factor=pixels.patch, mode="bilinear", align_corners=False)
    return F.pixel_unshuffle(fine, pixels.patch).unflatten(0, planes.shape[:2])


def fronts_of(told: torch.Tensor, cameras: Cameras) -> torch.Tensor:
    """(B, V, 6, h, w) of what is told -> (B, V, 2, h, w) float32: how much of each place the thing
    covers, from 0 to 1, and that times the depth of its surface, along the camera's axis and in the
    world's units. cameras: centred ones. Where nothing was guessed, nothing is covered.
    """
    _, alpha, depth, known = told.float().split([3, 1, 1, 1], dim=2)
    covered = ((alpha + 1) / 2).clamp(0, 1)
    with torch.autocast(told.device.type, enabled=False):
        away = centres(cameras.world2cam).norm(dim=-1)[..., None, None, None]
    # What is told is a mean over the ray, whose uncovered part counts as 1.
    surface = REACH * (depth - (1 - covered)) + covered * away
    return torch.cat([covered, surface], dim=2) * known


def v_of(noised: torch.Tensor, start: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """The v of noised latents, if they are `start` without their noise. level: the share of the
    signal's variance, below 1; may be broadcast."""
    return (level.sqrt() * noised - start) / (1 - level).sqrt()


def towards(
    noise: torch.Tensor, guess: torch.Tensor, latents: torch.Tensor, begin: float
) -> torch.Tensor:
    """Noise that also moves latents to their guess, all the way where there is `begin` of it to a
    signal of 1, and by less where there is less: a straight line, along which sampling goes back.
    """
    return noise + (guess - latents) / begin


def _resized(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    flat = F.adaptive_avg_pool2d(planes.flatten(0, 1), size)
    return flat.unflatten(0, planes.shape[:2])


def _least_alpha(alpha: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, V, M, 1) -> (B, M, 1): 1 at most, as of places that no view sees; -1: surely nothing."""
    return torch.where(valid > 0, alpha, 1.0).amin(dim=1)


def _spread(x: torch.Tensor) -> torch.Tensor:
    """(B, 4 f^3, G, G, G) -> (B, 4, f G, f G, f G)."""
    batch, _, grid = x.shape[:3]
    parts = x.reshape(batch, 4, *(_FINE,) * 3, *(grid,) * 3)
    return parts.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, 4, *(_FINE * grid,) * 3)
