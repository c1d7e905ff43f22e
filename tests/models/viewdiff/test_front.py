"""The world as a model sees it that is always given the front."""

from __future__ import annotations

import numpy as np
import torch

from backend.models.viewdiff.cameras import Cameras, centres, conditions
from backend.protocol import camera_poses


def cameras(angles: list[tuple[float, float]], middle: tuple[float, float, float]) -> Cameras:
    """Around `middle`, 3 away; azimuths and elevations in degrees."""
    poses = camera_poses(angles, "z", 3.0)
    poses[:, :3, 3] += middle
    world2cam = np.linalg.inv(poses @ np.diag([1.0, -1, -1, 1]))
    box = torch.tensor([[[-1.0, -1, -1], [1, 1, 1]]]) + torch.tensor(middle)
    views = len(angles)
    return Cameras(
        torch.from_numpy(world2cam).float()[None],
        torch.tensor([80.0, 80, 31.5, 31.5]).expand(1, views, 4),
        64,
        box,
        torch.zeros(1, views, 2),
    )


def test_the_first_view_comes_to_the_front_and_all_turn_with_it() -> None:
    middle = (0.5, -1.0, 2.0)
    turned = cameras([(37, 10), (127, 30), (200, -20)], middle).in_front()
    expected = cameras([(0, 10), (90, 30), (163, -20)], middle)
    torch.testing.assert_close(turned.world2cam, expected.world2cam, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned.bbox, expected.bbox)
    place = centres(turned.world2cam)[0, 0] - torch.tensor(middle)
    assert place[1] < 0
    assert place[0].abs() < 1e-5


def test_what_is_told_does_not_depend_on_where_the_world_is_turned() -> None:
    middle = (0.0, 0.0, 0.0)
    one = cameras([(37, 10), (127, 30)], middle)
    other = cameras([(-70, 10), (20, 30)], middle)
    told = [conditions(c, "front", False) for c in (one, other, one.in_front())]
    torch.testing.assert_close(told[0], told[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(told[0], told[2], atol=1e-5, rtol=0)


def test_from_straight_above_nothing_turns() -> None:
    one = cameras([(0, 90), (40, 10)], (0.0, 0.0, 0.0))
    torch.testing.assert_close(one.in_front().world2cam, one.world2cam)
