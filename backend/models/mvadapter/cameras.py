"""The cameras of MV-Adapter: without perspective, in a ring at the height of the thing's middle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...protocol import camera_poses
from .config import FAR

CHANNELS = 6
"""What is told of a ray: its direction, and where its camera stands."""


def told_of(azimuths: Sequence[float], side: int) -> torch.Tensor:
    """(V, 6, side, side) float32 in [0, 1], for the condition encoder.

    Direction and place, of length 1, from -1..1 to 0..1; the same for all pixels, whose rays are
    parallel. azimuths: degrees, 0 being Blender's front.
    """
    poses = camera_poses([(azimuth, 0.0) for azimuth in azimuths], "z")
    back = torch.from_numpy(poses[:, :3, 2])
    rays = (torch.cat([-back, back], dim=1) + 1) / 2
    return rays.float().clamp(0, 1)[:, :, None, None].expand(-1, -1, side, side)


def stand_ins(
    azimuths: Sequence[float],
    frame: float,
    side: int,
    center: Sequence[float] = (0.0, 0.0, 0.0),
    extent: float = 2.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Pinhole cameras far away that see nearly what cameras without perspective see.

    Their frame shows frame x extent at the middle of the thing. What is before or behind that by
    half of extent they show larger or smaller by 1 / (2 FAR), half a percent, in views over a
    corner of the cube by 0.7: at the edge of the picture one to two pixels of 512.

    Returns camera-to-world matrices (V, 4, 4) float32 in units of the world, and intrinsics (V, 4)
    float32 in pixels. center, extent: the cube that the thing is in.
    """
    angles = [(azimuth, 0.0) for azimuth in azimuths]
    poses = camera_poses(angles, "z", FAR * extent)
    poses[:, :3, 3] += np.asarray(center)
    focal = side * FAR / frame
    middle = (side - 1) / 2
    lens = np.tile(np.array([focal, focal, middle, middle], np.float32), (len(angles), 1))
    return poses.astype(np.float32), lens
