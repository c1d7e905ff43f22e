"""Layers through space put things where they are; the published ones do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from backend.geometry import cameras as geometry
from backend.models.viewdiff import unprojection
from backend.models.viewdiff.cameras import Cameras
from backend.models.viewdiff.config import ProjectionConfig
from backend.models.viewdiff.projection import Projection
from backend.models.viewdiff.rendering import _sampled

pytestmark = pytest.mark.usefixtures("without_gradients")

_places = st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3)
_shares = st.floats(0.2, 0.8)


@given(_places, _shares)
def test_contraction_and_back(place: list[float], share: float) -> None:
    point = torch.tensor(place, dtype=torch.float64)
    largest, second = sorted(abs(x) for x in place)[:-3:-1]
    assume(second < largest * 0.999)  # of a tie the first becomes the largest
    contracted = unprojection.contract(point, share)
    assert contracted.abs().max() <= 1
    found, reached = unprojection.uncontract(contracted, share)
    assert reached
    torch.testing.assert_close(found, point, rtol=1e-6, atol=1e-9)
    if largest <= 1:
        torch.testing.assert_close(contracted, point * (1 - share))
    else:
        assert contracted.abs().max() >= 1 - share


@given(_shares, st.floats(1e-6, 1e-3))
def test_contraction_is_continuous_at_the_box(share: float, step: float) -> None:
    inside, outside = (torch.tensor([0.3, -(1 + sign * step), 0.6]) for sign in (-1, 1))
    found = [unprojection.contract(point, share) for point in (inside, outside)]
    assert (found[0] - found[1]).abs().max() < 4 * step


def test_nothing_is_contracted_to_the_corners() -> None:
    points = torch.tensor([[0.9, 0.9, 0.0], [0.9, 0.4, 0.1], [-0.8, 0.2, -0.7], [0.4, 0.4, 0.4]])
    _, reached = unprojection.uncontract(points, 0.5)
    assert reached.tolist() == [False, True, False, True]


def test_the_published_inverse_is_wrong_where_the_largest_is_negative() -> None:
    point = torch.tensor([0.2, -2.0, 0.5], dtype=torch.float64)
    contracted = unprojection.contract(point, 0.5)
    right, _ = unprojection.uncontract(contracted, 0.5)
    torch.testing.assert_close(right, point)
    wrong, _ = unprojection.uncontract(contracted, 0.5, published=True)
    torch.testing.assert_close(wrong, torch.tensor([0.2, -3.0, 0.5], dtype=torch.float64))


def test_rays_from_within_the_box_begin_at_the_camera() -> None:
    origins, directions = torch.tensor([[[[0.5, 0.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0, 0.0]]]])
    box = torch.tensor([[[-1.0, -1, -1], [1, 1, 1]]])
    near, far = unprojection.through_box(origins, directions, box)
    assert (near.item(), far.item()) == (0.0, 0.5)
    near, far = unprojection.around_camera(origins)
    assert (near.item(), far.item()) == (0.0, 4.5)


def test_the_grid_is_read_where_it_was_written() -> None:
    """Values at voxels are their coordinates; read as the renderer reads, in its order."""
    box = torch.tensor([[[-1.0, -1, -1], [1, 1, 1]]])
    points, _ = unprojection.voxel_centres(8, box)
    volume = points.mT.unflatten(-1, (8, 8, 8)).permute(0, 1, 4, 2, 3)
    places = torch.tensor([[[[0.3, -0.5, 0.7], [-0.1, 0.6, 0.2]]]])
    torch.testing.assert_close(_sampled(volume, places), places, atol=1e-6, rtol=0)


def test_wide_pictures_show_the_same_in_their_middle() -> None:
    """Of a picture twice as wide, the square in the middle; the published code stretches it."""
    wide = torch.randn(1, 1, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    world2cam = torch.eye(4).expand(1, 1, 4, 4)
    lens = torch.tensor([[[8.0, 8.0, 7.5, 3.5]]])
    points = torch.tensor([[[0.1, 0.2, 2.0], [-0.5, 0.3, 2.0], [0.6, -0.6, 2.0]]])
    found, weight, _ = unprojection.unproject(wide, world2cam, lens, points)
    middle = lens - torch.tensor([0.0, 0.0, 4.0, 0.0])
    expected = unprojection.unproject(wide[..., 4:12], world2cam, middle, points)
    assert weight.all()
    torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=0)
    stretched, _, _ = unprojection.unproject(wide, world2cam, lens, points, published=True)
    assert (stretched - found).abs().max() > 0.1
    # What is beside the square is in the wide picture alone.
    aside = torch.tensor([[[1.6, 0.0, 2.0]]])
    assert unprojection.unproject(wide, world2cam, lens, aside)[1].all()
    assert not unprojection.unproject(wide[..., 4:12], world2cam, middle, aside)[1].any()


# ----------------------------------------------------------------------- a point through the layer


def _layer(background: bool, published: bool) -> Projection:
    """Opaque where the mean of the views is above 3/4, whatever else there is."""
    config = ProjectionConfig(
        layers=1,
        samples=64,
        background=background,
        compress="single",
        expand="single",
        aggregator="mean",
    )
    layer = Projection(16, 48, 8, config, published).eval()
    nn.init.zeros_(layer.blocks_3d[0].conv2.weight)
    nn.init.zeros_(layer.blocks_3d[0].conv2.bias)
    renderer = layer.volume_renderer
    for weight in (*renderer.mlp_weights, layer.proj_in_2d.weight[..., 0, 0]):
        weight.copy_(torch.eye(16))
    renderer.mlp_biases.zero_()
    layer.proj_in_2d.bias.zero_()
    renderer.weight_opacity.copy_(torch.tensor([120.0] + [0.0] * 15))
    renderer.bias_opacity.fill_(-90.0)
    return layer


def _scene(point: tuple[float, float, float], size: int = 24) -> tuple[Cameras, torch.Tensor]:
    """Six views of a spot, (1, 6, 16, size, size), in the first channel."""
    eyes = 4 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [1, 1, 1], [-1, 1, -1]])
    poses = geometry.look_at(np.add(eyes, [0.0, 0.0, 0.3]))
    lens = geometry.intrinsics_of_field(70, size, size)
    pictures = np.zeros((1, 6, 16, size, size), np.float32)
    v, u = np.mgrid[:size, :size]
    for view, pose in enumerate(poses):
        (x, y), _ = geometry.project(np.array([point]), pose, lens)[0][0], None
        pictures[0, view, 0] = np.exp(-((u - x) ** 2 + (v - y) ** 2) / 8)
    cameras = Cameras(
        torch.from_numpy(geometry.world2cam_of(poses)).float()[None],
        torch.from_numpy(lens).float().expand(1, 6, 4),
        size,
        torch.tensor([[[-1.0, -1, -1], [1, 1, 1]]]),
        torch.zeros(1, 6, 2),
    )
    return cameras, torch.from_numpy(pictures)


def _found(point: tuple[float, float, float], background: bool, published: bool) -> np.ndarray:
    """(6,) bool: in which views there is something where these show the spot."""
    cameras, pictures = _scene(point)
    _, mask, _ = _layer(background, published).carry(
        pictures, cameras, torch.zeros(1, 6, dtype=torch.int64)
    )
    spots = pictures[0, :, 0].flatten(1).argmax(dim=1)
    at_spots = mask[0, :, 0].flatten(1).gather(1, spots[:, None])
    return (at_spots[:, 0] > 0.5).numpy()


@pytest.mark.parametrize(
    ("point", "background"),
    [
        ((0.5, -0.3, 0.1), False),
        ((0.5, -0.3, 0.1), True),
        ((-0.4, 0.6, -0.5), False),
        # Outside of the box, where the grid is contracted, on the side with negative coordinates.
        ((-1.5, 0.4, -0.3), True),
    ],
)
def test_what_views_show_is_seen_where_it_is(
    point: tuple[float, float, float], background: bool
) -> None:
    assert _found(point, background, published=False).all()
    assert _found(point, background, published=True).sum() <= 2


def test_nothing_is_where_views_show_nothing() -> None:
    """Within the box all views see every voxel, so that what one shows alone is not there."""
    cameras, pictures = _scene((0.2, 0.1, 0.0))
    layer = _layer(background=False, published=False)
    _, mask, depth = layer.carry(pictures, cameras, torch.zeros(1, 6, dtype=torch.int64))
    spots = pictures[0, :, 0]
    away = (spots < 0.05) & (mask[0, :, 0] > 0.5)
    assert not away.any()
    # And it is as far away as the near side of the spot, whose radius is 1.5 cells of 0.24.
    middle = torch.tensor([0.2, 0.1, 0.0, 1.0])
    far = (cameras.world2cam[0] @ middle)[:, 2]
    best = spots.flatten(1).argmax(dim=1)[:, None]
    found = depth[0, :, 0].flatten(1).gather(1, best) / mask[0, :, 0].flatten(1).gather(1, best)
    torch.testing.assert_close(found[:, 0], far - 0.36, atol=0.12, rtol=0)
