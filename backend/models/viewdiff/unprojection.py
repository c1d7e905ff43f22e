"""From the features of views to a grid in space: rays, voxels, contraction, and how views are
weighed.

A grid of G^3 voxels spans the box of a scene, or with background all space: the inner part of each
axis is the box, the rest is contracted (Barron et al. 2022, "Mip-NeRF 360", with the largest
coordinate as the norm). Voxels are numbered [y, x, z], as in the published code, since the weights
of its networks in 3D depend on it. Lists of voxels have that order, and features last.

`published=True` does as the published code, whose contraction is wrong where the largest coordinate
is negative.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

INVALID_DEPTH = -10.0
_FAR = 4.0
"""How far around a camera there is anything to see, where there is a background; the box has 2."""
_MISSED = (0.5, 4.5)
"""Near and far of a ray that misses the box."""
_TINY = 1e-8
_SHARPNESS = 4.0
"""Of the end of what a view sees: from 0.9 to 0.1 of it within about one voxel."""
_BEFORE = 3.0
"""How many times as far before a surface as behind it places count as its own. Guesses err: with as
many, views of real guesses agreed less."""


# ------------------------------------------------------------------------------------------- rays


def rays(
    world2cam: torch.Tensor, intrinsics: torch.Tensor, size: tuple[int, int], bbox: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every pixel, in units of which the box's longest side has 2: origins and directions, both
    (B, V, H W, 3). Directions are one long along the camera's axis, so that the ray's parameter is
    depth.

    world2cam: (B, V, 4, 4). intrinsics: (B, V, 4) of pictures of `size`. bbox: (B, 2, 3).
    """
    height, width = size
    v, u = torch.meshgrid(
        torch.arange(height, device=world2cam.device, dtype=world2cam.dtype),
        torch.arange(width, device=world2cam.device, dtype=world2cam.dtype),
        indexing="ij",
    )
    fx, fy, cx, cy = intrinsics[..., None].unbind(-2)
    seen = torch.stack([(u.flatten() - cx) / fx, (v.flatten() - cy) / fy], dim=-1)
    seen = F.pad(seen, (0, 1), value=1.0)  # (B, V, H W, 3), in the camera's frame
    rotation = world2cam[..., :3, :3]
    directions = seen @ rotation
    scale = 2 / longest_side(bbox)
    shift = world2cam[..., :3, 3] * scale[:, None, None]
    origins = -(shift[..., None, :] @ rotation)
    return origins.expand_as(directions), directions


def longest_side(bbox: torch.Tensor) -> torch.Tensor:
    """(B, 2, 3) -> (B,)."""
    return (bbox[:, 1] - bbox[:, 0]).amax(dim=-1)


def around_camera(origins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Near and far, (B, V, R), for scenes with a background."""
    distance = origins.norm(dim=-1)
    return (distance - _FAR).clamp(min=0), distance + _FAR


def through_box(
    origins: torch.Tensor, directions: torch.Tensor, box: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Near and far, (B, V, R), of the box (B, 2, 3) on each ray; near is not behind the camera."""
    low, high = (corner[:, None, None] for corner in box.unbind(dim=1))
    # What is parallel to a side meets it infinitely far away, on the side its sign says.
    slope = torch.where(directions == 0, torch.full_like(directions, 1e-12), directions)
    first, second = (low - origins) / slope, (high - origins) / slope
    near = torch.minimum(first, second).amax(dim=-1).clamp(min=0)
    far = torch.maximum(first, second).amin(dim=-1)
    missed = near >= far
    near, far = (
        torch.where(missed, torch.full_like(x, away), x)
        for x, away in zip((near, far), _MISSED, strict=True)
    )
    return near, far


# ------------------------------------------------------------------------------------ contraction


def contract(points: torch.Tensor, background_share: float) -> torch.Tensor:
    """Space (..., 3) -> [-1, 1]^3: the cube [-1, 1]^3 becomes the inner part, as large as the
    background leaves; the rest lies around it."""
    foreground = 1 - background_share
    reach = 1 / foreground
    size = points.abs()
    norm, axis = size.max(dim=-1, keepdim=True)
    outside = norm > 1
    norm = norm.clamp(min=1)
    largest = F.one_hot(axis[..., 0], 3).bool()
    contracted = torch.where(largest, points.sign() * (reach - (reach - 1) / norm), points / norm)
    return torch.where(outside, contracted, points) * foreground


def uncontract(
    points: torch.Tensor, background_share: float, published: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `contract`, (..., 3), and whether anything is contracted to there, (...)."""
    if published:
        return _uncontract_as_published(points, background_share)
    reach = 1 / (1 - background_share)
    scaled = points * reach
    size = scaled.abs()
    norm = size.amax(dim=-1, keepdim=True)
    away = (reach - 1) / (reach - norm).clamp(min=_TINY)
    found = torch.where(size == norm, scaled.sign() * away, scaled * away)
    reached = (size > 1).sum(dim=-1) < 2
    return torch.where(norm > 1, found, scaled), reached


def _uncontract_as_published(
    points: torch.Tensor, background_share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Right only where the largest coordinate is positive, and larger than the others."""
    reach = 1 / background_share
    scaled = points * reach
    axis = scaled.abs().argmax(dim=-1, keepdim=True)
    norm = scaled.gather(-1, axis)
    away = torch.where(norm > 0, (reach - 1) / (reach - norm), -(reach - 1) / (norm + reach))
    found = torch.where(scaled.abs() == norm, away, away.abs() * scaled)
    reached = (scaled > 1).sum(dim=-1) < 2
    return torch.where(norm.abs() > 1, found, scaled), reached


# --------------------------------------------------------------------------------------- the grid


def voxel_centres(
    grid: int,
    bbox: torch.Tensor,
    background_share: float | None = None,
    published: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the voxels are in the world, (B, G^3, 3), and which are anywhere, (G^3,).

    background_share: None where the grid is the box alone.
    """
    steps = (torch.arange(grid, device=bbox.device, dtype=bbox.dtype) + 0.5) / grid * 2 - 1
    y, x, z = torch.meshgrid(steps, steps, steps, indexing="ij")
    points = torch.stack([x, y, z], dim=-1).flatten(0, 2)
    reached = torch.ones(len(points), dtype=torch.bool, device=points.device)
    if background_share is not None:
        points, reached = uncontract(points, background_share, published)
    half = longest_side(bbox)[:, None, None] / 2
    return points * half + bbox.mean(dim=1, keepdim=True), reached


def unproject(
    features: torch.Tensor,
    world2cam: torch.Tensor,
    intrinsics: torch.Tensor,
    points: torch.Tensor,
    published: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the views show of points in the world.

    features: (B, V, C, h, w). world2cam: (B, V, 4, 4). intrinsics: (B, V, 4) at that size.
    points: (B, M, 3). Returns what is seen there (B, V, M, C), whether it is (B, V, M, 1) float,
    and its depth (B, V, M, 1). A point behind the camera or outside the picture has 0, 0, -10.
    """
    scenes, views, _, height, width = features.shape
    rotation, shift = world2cam[..., :3, :3], world2cam[..., :3, 3]
    seen = points[:, None] @ rotation.mT + shift[:, :, None]
    depth = seen[..., 2:]
    before = depth > 0
    safe = torch.where(before, depth, torch.ones_like(depth))
    pixels = seen[..., :2] / safe * intrinsics[:, :, None, :2] + intrinsics[:, :, None, 2:]
    size = pixels.new_tensor([width, height])
    places = (pixels + 0.5) / size * 2 - 1
    if published:  # of pictures that are not square, the shorter side is stretched
        places = places * (size.max() / size)
    valid = before & (places.abs() <= 1).all(dim=-1, keepdim=True)
    places = torch.where(valid, places, torch.full_like(places, -2))
    sampled = F.grid_sample(
        features.flatten(0, 1), places.flatten(0, 1)[:, None], align_corners=False
    )
    found = sampled[:, :, 0].mT.unflatten(0, (scenes, views))
    weight = valid.to(found.dtype)
    return (
        found * weight,
        weight,
        torch.where(valid, depth, torch.full_like(depth, INVALID_DEPTH)),
    )


def visible(
    fronts: torch.Tensor, depth: torch.Tensor, cell: torch.Tensor, both_sides: bool = False
) -> torch.Tensor:
    """How far views see points, 0 to 1, past surfaces in front of them: (B, V, M, 1).

    fronts: (B, V, M, 2), how much a surface covers of where the view shows the point, and that
    times its depth. depth: (B, V, M, 1), of the points. cell: (B,), how far behind a surface its
    own voxels lie, in the same units. both_sides: what lies far before a surface is not what
    the view shows there, either.
    """
    covered, weighted = fronts.split(1, dim=-1)
    surface = weighted / covered.clamp(min=_TINY)
    behind = (depth - surface) / cell[:, None, None, None]
    if both_sides:
        behind = torch.maximum(behind, -behind / _BEFORE)
    # From half on, as outlines count: at the edge of a thing its cells are covered in part, but
    # what lies behind is not seen beside it either.
    hidden = (2 * covered).clamp(max=1)
    return 1 - hidden * torch.sigmoid(_SHARPNESS * (behind - 1))


# ------------------------------------------------------------------------------- weighing of views


def mean_of_views(features: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, V, M, C), (B, V, M, 1) -> (B, M, C), over the views that see a voxel."""
    return (features * valid).sum(dim=1) / (valid.sum(dim=1) + _TINY)


class RayAggregator(nn.Module):
    """Weights of views are learned from what they see and from where (after Wang et al. 2021,
    "IBRNet"). channels: of the features; embedding: of the time, or None for no time."""

    def __init__(self, channels: int, embedding: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        half = channels // 2
        self.ray_depth_encoder = _mlp(4, half, channels)
        if embedding is not None:
            self.temb_encoder = nn.Sequential(
                nn.Linear(embedding, embedding // 2),
                nn.ELU(),
                nn.Linear(embedding // 2, channels),
                nn.ELU(),
            )
        self.base_fc = _mlp(3 * channels, 2 * channels, channels)
        self.vis_fc = _mlp(channels, channels, channels + 1)
        self.vis_fc2 = _mlp(channels, channels, 1)
        self.statistics_out = nn.Sequential(_pointwise(2 * channels + 1, channels), nn.ELU())

    def forward(
        self,
        features: torch.Tensor,
        valid: torch.Tensor,
        depth: torch.Tensor,
        time: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """-> (B, M, C). features: (B, V, M, C + 3), the last three being the ray. valid, depth:
        (B, V, M, 1). time: (B, V, T)."""
        ray = features[..., self.channels :]
        features = features[..., : self.channels]
        features = features + _run(self.ray_depth_encoder, torch.cat([ray, depth], dim=-1))
        if time is not None and hasattr(self, "temb_encoder"):
            features = features + self.temb_encoder(time)[:, :, None]
        weight = valid / (valid.sum(dim=1, keepdim=True) + _TINY)
        mean, variance = _moments(features, weight)
        spread = [moment.expand_as(features) for moment in (mean, variance)]
        x = _run(self.base_fc, torch.cat([*spread, features], dim=-1))
        more, visible = _run(self.vis_fc, x * weight).split([self.channels, 1], dim=-1)
        x = x + more
        visible = _run(self.vis_fc2, x * (visible.sigmoid() * valid), last=torch.sigmoid) * valid
        weight = visible / (visible.sum(dim=1, keepdim=True) + _TINY)
        mean, variance = (moment[:, 0] for moment in _moments(x, weight))
        return _run(self.statistics_out, torch.cat([mean, variance, weight.mean(dim=1)], dim=-1))


def _moments(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean and variance over the views, which keep their axis."""
    mean = (x * weight).sum(dim=1, keepdim=True)
    return mean, (weight * (x - mean) ** 2).sum(dim=1, keepdim=True)


def _pointwise(inputs: int, outputs: int) -> nn.Conv3d:
    """Its weights have the shape they are published with; `_run` uses them as a linear layer."""
    return nn.Conv3d(inputs, outputs, 1)


def _mlp(inputs: int, inner: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_pointwise(inputs, inner), nn.ELU(), _pointwise(inner, outputs), nn.ELU())


def _run(
    layers: nn.Sequential,
    x: torch.Tensor,
    last: Callable[[torch.Tensor], torch.Tensor] = F.elu,
) -> torch.Tensor:
    """Convolutions of 1 x 1 x 1 on features that lie last: ELU between, `last` at the end."""
    linear = [layer for layer in layers if isinstance(layer, nn.Conv3d)]
    for number, layer in enumerate(linear, 1):
        x = F.linear(x, layer.weight.flatten(1), layer.bias)
        x = last(x) if number == len(linear) else F.elu(x)
    return x
