"""A layer that carries features from all views of a scene into space, and back to each of them.

Features are compressed, unprojected into a grid, brought together, refined by a network in 3D, and
rendered from every view. All of it is float32, whatever the network around it computes in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from . import unprojection
from .cameras import Cameras, at_size
from .config import ProjectionConfig
from .rendering import VolumeRenderer
from .volume import ResidualBlock, VolumeUNet

_TINY = 1e-8
_MOST_SEEN = 1 << 20
"""Pairs of a view and a voxel that are looked at in one go; what is made of one has about a hundred
numbers. More are taken in parts."""


class Projection(nn.Module):
    """forward(features (B, V, C, h, w), ...) -> the same shape.

    Rays leave the centre of the box out of account: give cameras of a world in which it is 0.
    channels: C. grid: voxels along a side. embedding: channels of the time, T.
    published: axes and contraction as in the published code, which are wrong.
    """

    def __init__(
        self,
        channels: int,
        grid: int,
        embedding: int,
        config: ProjectionConfig,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.published = published
        inner = config.channels
        single = config.compress == "single"
        self.proj_in_2d = (
            nn.Conv2d(channels, inner, 1)
            if single
            else nn.Sequential(
                _Rectified(channels, channels, 3),
                _Rectified(channels, inner, 3),
                nn.Conv2d(inner, inner, 1),
            )
        )
        if config.aggregator == "ibrnet":
            time = embedding if config.time else None
            self.ibrnet_aggregator = unprojection.RayAggregator(inner, time)
        self.blocks_3d: nn.ModuleList | VolumeUNet
        if config.layers == 1:
            self.blocks_3d = nn.ModuleList([ResidualBlock(inner, inner, embedding)])
        else:
            self.blocks_3d = VolumeUNet(inner, (config.layers - 1) // 2)
        if config.view_dependent:
            self.linear_ray = nn.Linear(3, inner)
        self.volume_renderer = VolumeRenderer(
            inner,
            config.samples,
            config.background_share if config.background else None,
            config.disparity_at_infinity,
        )
        whole = config.background
        self.proj_out_2d_fg = _expansion(inner, channels, config.expand)
        self.proj_out_2d_bg = _expansion(inner, channels, config.expand if whole else "single")
        self._begin()

    def _begin(self) -> None:
        """Weights of chance that keep the size of what goes through; torch's own make it smaller in
        each layer, until of what the views show nothing is left in what is rendered."""
        parts: list[nn.Module] = [self.proj_in_2d, self.proj_out_2d_fg, self.proj_out_2d_bg]
        if self.config.aggregator == "ibrnet":
            parts.append(self.ibrnet_aggregator)
        for part in parts:
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def forward(
        self,
        features: torch.Tensor,
        cameras: Cameras,
        timesteps: torch.Tensor,
        time: torch.Tensor | None = None,
        novel: int = 0,
        fronts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """timesteps: (B, V); time: their embedding (B, V, T). novel: how many views, the last, are
        seen from the grid but not carried into it. fronts: (B, V, 2, any, any), how much is covered
        by a surface that is known, and that times its depth; what lies behind is not seen."""
        with torch.autocast(features.device.type, enabled=False):
            outcome, _, _ = self.carry(
                features.float(),
                cameras,
                timesteps,
                None if time is None else time.float(),
                novel,
                None if fronts is None else fronts.float(),
            )
        return outcome.to(features.dtype)

    def carry(
        self,
        features: torch.Tensor,
        cameras: Cameras,
        timesteps: torch.Tensor,
        time: torch.Tensor | None = None,
        novel: int = 0,
        fronts: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As forward, in float32; also how much is in the way of each cell and its depth, in units
        of half the box's longest side, both (B, V, 1, h, w)."""
        size = features.shape[-2], features.shape[-1]
        intrinsics = at_size(cameras.intrinsics, cameras.size, size)
        origins, directions = unprojection.rays(cameras.world2cam, intrinsics, size, cameras.bbox)
        seen = features[:, : features.shape[1] - novel]
        if fronts is not None:
            fronts = F.adaptive_avg_pool2d(fronts.flatten(0, 1), size).unflatten(
                0, (-1, cameras.views)
            )
        volume = self._volume(seen, directions, intrinsics, cameras, timesteps, time, fronts)
        rendered, mask, depth = self._render(volume, origins, directions, cameras, size, fronts)
        mask_of_cells = mask.flatten(0, 1)
        expanded = mask_of_cells * self.proj_out_2d_fg(rendered) + (
            1 - mask_of_cells
        ) * self.proj_out_2d_bg(rendered)
        return expanded.view(features.shape), mask, depth

    def compressed(self, features: torch.Tensor) -> torch.Tensor:
        """(B, V, C, h, w) -> (B, V, c, h, w)."""
        return self.proj_in_2d(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    def _volume(
        self,
        features: torch.Tensor,
        directions: torch.Tensor,
        intrinsics: torch.Tensor,
        cameras: Cameras,
        timesteps: torch.Tensor,
        time: torch.Tensor | None,
        fronts: torch.Tensor | None,
    ) -> torch.Tensor:
        """The grid, (B, c, G, G, G) in the order y, x, z. features: of the views that it is of."""
        views = features.shape[1]
        cell = unprojection.longest_side(cameras.bbox) / self.grid
        inner = self.compressed(features)
        if self.config.aggregator == "ibrnet":
            rays = directions[:, :views].mT.unflatten(-1, features.shape[-2:])
            inner = torch.cat([inner, rays], dim=2)
        if fronts is not None:
            inner = torch.cat([inner, fronts[:, :views]], dim=2)
        share = self.config.background_share if self.config.background else None
        points, reached = unprojection.voxel_centres(self.grid, cameras.bbox, share, self.published)
        time_of_views = None if time is None else time[:, :views]
        most = max(1, _MOST_SEEN // (len(inner) * views))
        parts = []
        for places, here in zip(points.split(most, dim=1), reached.split(most), strict=True):
            found, valid, depth = unprojection.unproject(
                inner,
                cameras.world2cam[:, :views],
                intrinsics[:, :views],
                places,
                self.published,
            )
            if fronts is not None:
                found, front = found[..., :-2], found[..., -2:]
                valid = valid * unprojection.visible(front, depth, cell)
            together = self._together(found * here[:, None], valid, depth, time_of_views)
            if fronts is not None:  # however they are weighed, what no view sees is nothing
                together = together * valid.amax(dim=1)
            parts.append(together)
        together = torch.cat(parts, dim=1)
        volume = together.mT.unflatten(-1, (self.grid,) * 3)
        if isinstance(self.blocks_3d, VolumeUNet):
            return self.blocks_3d(volume, timesteps[:, -1])
        return self.blocks_3d[0](volume, None if time is None else time[:, -1])

    def _together(
        self,
        found: torch.Tensor,
        valid: torch.Tensor,
        depth: torch.Tensor,
        time: torch.Tensor | None,
    ) -> torch.Tensor:
        """(B, V, M, c + 3 or c) of the views -> (B, M, c) of the scene."""
        if self.config.aggregator == "ibrnet":
            return self.ibrnet_aggregator(found, valid, depth, time)
        return unprojection.mean_of_views(found, valid)

    def _render(
        self,
        volume: torch.Tensor,
        origins: torch.Tensor,
        directions: torch.Tensor,
        cameras: Cameras,
        size: tuple[int, int],
        fronts: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features (B V, c, h, w), mask and depth (B, V, 1, h, w)."""
        if self.config.background:
            near, far = unprojection.around_camera(origins)
        else:
            scale = 2 / unprojection.longest_side(cameras.bbox)
            box = cameras.bbox * scale[:, None, None]
            near, far = unprojection.through_box(origins, directions, box)
        # The renderer reads z, y, x; the published code gave it y, x, z as they are.
        order = (0, 2, 3, 4, 1) if self.published else (0, 4, 2, 3, 1)
        origins, directions, near, far = (x.flatten(1, 2) for x in (origins, directions, near, far))
        if self.config.view_dependent:
            told = self.linear_ray(directions)
        else:
            told = directions.new_zeros(*directions.shape[:2], self.config.channels)
        ends = None if fronts is None else _ends(fronts, cameras.bbox)
        features, mask, depth = self.volume_renderer(
            volume.permute(order), origins, directions, told, near, far, ends
        )
        views = cameras.views
        rendered = features.unflatten(1, (views, *size)).flatten(0, 1).permute(0, 3, 1, 2)
        shape = (len(mask), views, 1, *size)
        return rendered, mask.reshape(shape), depth.reshape(shape)


def _ends(fronts: torch.Tensor, bbox: torch.Tensor) -> torch.Tensor:
    """(B, V, 2, h, w) -> (B, V h w, 2): how much of each ray ends at a surface, and where on it."""
    covered, weighted = fronts.movedim(2, -1).flatten(1, 3).split(1, dim=-1)
    scale = 2 / unprojection.longest_side(bbox)
    surface = weighted / covered.clamp(min=_TINY) * scale[:, None, None]
    return torch.cat([covered, surface], dim=-1)


class _Rectified(nn.Module):
    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, padding=side // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))


def _expansion(inner: int, channels: int, kind: str) -> nn.Module:
    """Undoes the range 0 to 1 that rendered features have."""
    if kind == "single":
        return nn.Conv2d(inner, channels, 1)
    return nn.Sequential(
        _Rectified(inner, inner, 1),
        _Rectified(inner, channels, 1),
        nn.Conv2d(channels, channels, 1),
    )
