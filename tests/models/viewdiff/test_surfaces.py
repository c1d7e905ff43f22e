"""Layers through space that are told where the surfaces of a first guess are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backend.models.viewdiff import unprojection
from backend.models.viewdiff.cameras import Cameras, at_size
from backend.models.viewdiff.first_guess import fronts_of, planes_of
from backend.models.viewdiff.model import ViewDiff
from backend.models.viewdiff.pixels import PixelLatents
from backend.models.viewdiff.rendering import VolumeRenderer
from backend.training.viewdiff import diffusion, networks
from tests.posed_boxes import Boxes

SIDE = 64
PIXELS = PixelLatents(2, "rgbad")
TINY = networks.SIZES["tiny"]


@pytest.fixture(scope="module")
def boxes() -> Boxes:
    return Boxes(3, SIDE)


def told_of(boxes: Boxes, number: int, views: list[int]) -> tuple[torch.Tensor, Cameras]:
    """The truth, as a first guess would tell it, and its cameras."""
    posed = boxes.scene(number, views)
    codec = diffusion.PixelCodec(PIXELS, torch.device("cpu"))
    config = networks.config(dataclasses.replace(TINY, size=SIDE))
    planes = planes_of(codec.encode([posed], torch.Generator()), PIXELS)
    known = torch.ones_like(planes[:, :, :1])
    return torch.cat([planes, known], dim=2), diffusion.cameras_of([posed], config).centred()


def test_fronts_are_where_the_things_are(boxes: Boxes) -> None:
    views = [0, 7, 19]
    told, cameras = told_of(boxes, 1, views)
    covered, weighted = fronts_of(told, cameras).unbind(dim=2)
    posed = boxes.scene(1, views)
    assert posed.depths is not None
    depth = torch.from_numpy(posed.depths)[None]
    alpha = torch.from_numpy(posed.images[..., 3])[None] / 255
    whole = F.avg_pool2d(alpha, 2) == 1
    assert whole.sum() > 200
    assert (covered[whole] - 1).abs().max() < 1e-5
    # A cell of 2 x 2 pixels has the mean of their depths.
    assert (weighted[whole] - F.avg_pool2d(depth, 2)[whole]).abs().max() < 1e-4
    nothing = F.max_pool2d(alpha, 2) == 0
    assert covered[nothing].abs().max() < 1e-5
    assert weighted[nothing].abs().max() < 1e-4
    told[:, :, -1] = 0
    assert not fronts_of(told, cameras).any()


def colours_in_space(boxes: Boxes, guided: bool) -> float:
    """How wrong, in the median, the colours from -1 to 1 are that a grid holds where a view sees
    the surface of a box, if they are the mean of what nine other views show there."""
    seen, others = [0], [1, 2, 4, 7, 10, 13, 16, 19, 22]
    told, cameras = told_of(boxes, 2, seen + others)
    covered, weighted = fronts_of(told, cameras)[:, :, :1], fronts_of(told, cameras)[:, :, 1:]
    shown = told[:, :, :3]
    lens = at_size(cameras.intrinsics, cameras.size, (SIDE // 2, SIDE // 2))
    size = (SIDE // 2, SIDE // 2)
    origins, directions = unprojection.rays(cameras.world2cam, lens, size, cameras.bbox)
    half = unprojection.longest_side(cameras.bbox) / 2
    depth = weighted[:, 0].flatten() / half
    whole = covered[:, 0].flatten() > 0.999
    points = (origins[:, 0] + directions[:, 0] * depth[:, None])[:, whole] * half
    carried = torch.cat([shown, covered, weighted], dim=2)[:, 1:]
    found, valid, away = unprojection.unproject(
        carried, cameras.world2cam[:, 1:], lens[:, 1:], points
    )
    if guided:
        cell = half * 2 / 32
        valid = valid * unprojection.visible(found[..., -2:], away, cell)
    # Colours are held times how much of a place is covered.
    colours = found[..., :3] / found[..., 3:4].clamp(min=0.05)
    mean = unprojection.mean_of_views(colours, valid)[0]
    error = (mean.T - shown[0, 0].flatten(1)[:, whole]).abs().amax(dim=0)
    return float(error.median())


def test_views_do_not_colour_what_is_hidden_from_them(boxes: Boxes) -> None:
    """The sides of a box differ in colour; half of the views see another side there."""
    blind, guided = (colours_in_space(boxes, told) for told in (False, True))
    assert blind > 0.2
    assert guided < 0.01


def test_what_covers_nothing_hides_nothing() -> None:
    fronts, depth = torch.zeros(1, 2, 5, 2), torch.rand(1, 2, 5, 1) * 4
    assert (unprojection.visible(fronts, depth, torch.tensor([0.1])) == 1).all()
    surface = torch.tensor([1.0, 2.0]).expand(1, 1, 3, 2)
    places = torch.tensor([1.5, 2.0, 2.5])[None, None, :, None]
    before, on, behind = unprojection.visible(surface, places, torch.tensor([0.1]))[0, 0, :, 0]
    assert before > 0.999
    assert on > 0.95
    assert behind < 1e-3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_rays_end_where_surfaces_are(share: float) -> None:
    """Of a grid that is clear by itself."""
    torch.manual_seed(0)
    renderer = VolumeRenderer(16, samples=24).eval()
    with torch.no_grad():
        renderer.bias_opacity.fill_(-30.0)
        renderer.weight_opacity.zero_()
    volume = torch.randn(1, 8, 8, 8, 16)
    rays = 7
    origins = torch.tensor([0.0, -3.0, 0.0]).expand(1, rays, 3)
    directions = torch.tensor([0.0, 1.0, 0.0]).expand(1, rays, 3)
    near, far = torch.full((1, rays), 2.0), torch.full((1, rays), 4.0)
    places = torch.linspace(2.3, 3.7, rays)
    ends = torch.stack([torch.full_like(places, share), places], dim=-1)[None]
    told = torch.zeros(1, rays, 16)
    _, mask, depth = renderer(volume, origins, directions, told, near, far, ends)
    assert (mask - share).abs().max() < 1e-5
    if share:
        assert (depth[0] / mask[0] - places).abs().max() < 0.1  # samples are 0.087 apart


@torch.no_grad()
def test_a_layer_that_is_guided_shows_the_colours_of_other_views(boxes: Boxes) -> None:
    """What it shows depends on the surfaces, and on what other views show where they see them."""
    torch.manual_seed(1)
    layer = ViewDiff(networks.config(TINY)).unet.up_blocks[1].attentions[0]
    layer = layer.transformer_blocks[0].unproj_reproj_layer.eval()
    told, cameras = told_of(boxes, 0, [0, 1, 12])
    fronts = fronts_of(told, cameras)
    features = torch.randn(1, 3, 32, 8, 8)
    times, time = torch.full((1, 3), 9), torch.randn(1, 3, 64)
    shown = layer(features, cameras, times, time, 1, fronts)
    blind = layer(features, cameras, times, time, 1, torch.zeros_like(fronts))
    assert torch.equal(blind, layer(features, cameras, times, time, 1))
    assert (shown - blind).abs().max() > 1e-3
    # Where nothing is in front, the last view, which is not carried into space, sees less.
    covered = F.adaptive_avg_pool2d(fronts[0, :, :1], 8)[:, 0]
    change = (shown - blind).abs().mean(dim=2)[0]
    assert change[covered > 0.9].mean() > 5 * change[covered == 0].mean()


class _AsItIs(torch.nn.Module):
    def forward(self, x: torch.Tensor, time: torch.Tensor | None) -> torch.Tensor:
        return x


@torch.no_grad()
def test_a_layer_ends_rays_and_hides_voxels_where_the_surface_is(boxes: Boxes) -> None:
    torch.manual_seed(1)
    layer = ViewDiff(networks.config(TINY)).unet.up_blocks[1].attentions[0]
    layer = layer.transformer_blocks[0].unproj_reproj_layer.eval()
    layer.grid = 16
    layer.blocks_3d = torch.nn.ModuleList([_AsItIs()])
    layer.volume_renderer.bias_opacity.fill_(-30.0)
    layer.volume_renderer.weight_opacity.zero_()
    layer.volume_renderer.samples = 64
    told, cameras = told_of(boxes, 0, [0, 1, 12])
    fronts = fronts_of(told, cameras)
    features, times, time = (
        torch.randn(1, 3, 32, 32, 32),
        torch.full((1, 3), 9),
        torch.randn(1, 3, 64),
    )
    _, mask, depth = layer.carry(features, cameras, times, time, 0, fronts)
    half = unprojection.longest_side(cameras.bbox)[0] / 2
    whole = fronts[:, :, :1] > 0.999
    assert whole.sum() > 200
    assert (mask - fronts[:, :, :1].clamp(max=0.99)).abs().max() < 1e-3
    surface = fronts[:, :, 1:] / fronts[:, :, :1].clamp(min=1e-6) / half
    assert (depth / mask.clamp(min=1e-6) - surface)[whole].abs().max() < 0.05
    # Another view tells nothing of what is hidden from it, and something of what is not.
    lens = at_size(cameras.intrinsics, cameras.size, (32, 32))
    _, directions = unprojection.rays(cameras.world2cam, lens, (32, 32), cameras.bbox)
    changed = features.clone()
    changed[:, 2] += 1
    volumes = [
        layer._volume(x, directions, lens, cameras, times, time, fronts)
        for x in (features, changed)
    ]
    change = (volumes[0] - volumes[1]).abs().amax(dim=1).flatten()
    points, _ = unprojection.voxel_centres(16, cameras.bbox)
    front, _, away = unprojection.unproject(fronts, cameras.world2cam, lens, points)
    behind = (away - front[..., 1:] / front[..., :1].clamp(min=1e-6))[0, 2, :, 0] / (half / 8)
    covered = front[0, 2, :, 0] > 0.99
    hidden, before = covered & (behind > 4), covered & (behind < -1)
    assert hidden.sum() > 20
    assert before.sum() > 20
    assert change[hidden].max() < 1e-3 * change[before].mean()


@torch.no_grad()
def test_of_what_no_view_sees_nothing_is_told(boxes: Boxes) -> None:
    """However views are weighed, which makes the little that one sees of it whole again."""
    torch.manual_seed(1)
    layer = ViewDiff(networks.config(TINY)).unet.up_blocks[1].attentions[0]
    layer = layer.transformer_blocks[0].unproj_reproj_layer.eval()
    layer.grid = 16
    layer.blocks_3d = torch.nn.ModuleList([_AsItIs()])
    told, cameras = told_of(boxes, 0, [0])
    fronts = fronts_of(told, cameras)
    lens = at_size(cameras.intrinsics, cameras.size, (32, 32))
    _, directions = unprojection.rays(cameras.world2cam, lens, (32, 32), cameras.bbox)
    features, times, time = (
        torch.randn(1, 1, 32, 32, 32),
        torch.full((1, 1), 9),
        torch.randn(1, 1, 64),
    )
    volume = layer._volume(features, directions, lens, cameras, times, time, fronts)
    points, _ = unprojection.voxel_centres(16, cameras.bbox)
    front, _, away = unprojection.unproject(fronts, cameras.world2cam, lens, points)
    behind = (away - front[..., 1:] / front[..., :1].clamp(min=1e-6))[0, 0, :, 0]
    behind = behind / (unprojection.longest_side(cameras.bbox)[0] / 16)
    size = volume.abs().amax(dim=1).flatten()
    covered = front[0, 0, :, 0] > 0.99
    assert size[covered & (behind > 2.5)].max() < 0.01 * size[covered & (behind < 0)].mean()


def test_only_what_guesses_can_be_guided() -> None:
    config = networks.config(TINY)
    assert config.projection.guided
    assert not networks.config(TINY, guess=False).projection.guided
    assert not networks.config(TINY, projection=False).projection.guided
    with pytest.raises(ValueError, match="guide"):
        dataclasses.replace(config, guess=None, guess_spread=0.0, guess_noise=0.0)


def test_without_given_views_nothing_is_in_front(boxes: Boxes) -> None:
    model = ViewDiff(networks.config(TINY)).eval()
    tiny = Boxes(1, TINY.size)
    cameras = diffusion.cameras_of([tiny.scene(0, [0, 1])], model.config)
    latents = torch.randn(1, 2, 20, TINY.size // 2, TINY.size // 2)
    with torch.no_grad():
        model(latents, torch.tensor([[0, 100]]), None, cameras)
        assert model.context.fronts is not None
        assert model.context.fronts[:, :, 0].max() > 0
        model(latents, torch.tensor([[100, 100]]), None, cameras)
    assert model.context.fronts is not None
    assert not np.any(model.context.fronts.numpy())
