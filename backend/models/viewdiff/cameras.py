"""What the network is told of the cameras of a batch of scenes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

TEST_INTENSITY = (0.5, 0.0)
"""Mean and variance that are told of views that are not there yet."""


@dataclass(frozen=True)
class Cameras:
    """Of B scenes with V views each, float32.

    world2cam: (B, V, 4, 4), OpenCV's axes (x right, y down, z forward). intrinsics: (B, V, 4)
    pixels fx, fy, cx, cy of pictures of image_size, whole numbers being the centres of pixels.
    image_size: pixels along a side, or (height, width). bbox: (B, 2, 3), the least and the greatest
    corner of the things in the world. intensity: (B, V, 2), mean and variance over all pixels and
    channels of the picture in [-1, 1].
    """

    world2cam: torch.Tensor
    intrinsics: torch.Tensor
    image_size: int | tuple[int, int]
    bbox: torch.Tensor
    intensity: torch.Tensor

    def __post_init__(self) -> None:
        batch = tuple(self.world2cam.shape[:2])
        expected = {
            "world2cam": (*batch, 4, 4),
            "intrinsics": (*batch, 4),
            "bbox": (batch[0], 2, 3),
            "intensity": (*batch, 2),
        }
        for name, shape in expected.items():
            have = tuple(getattr(self, name).shape)
            if have != shape:
                raise ValueError(f"{name} is {have}, not {shape}")

    @property
    def scenes(self) -> int:
        return self.world2cam.shape[0]

    @property
    def views(self) -> int:
        return self.world2cam.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        side = self.image_size
        return (side, side) if isinstance(side, int) else side

    def to(self, device: torch.device | str) -> Cameras:
        return self._each(lambda tensor: tensor.to(device))

    def repeat(self, times: int) -> Cameras:
        """The same scenes again, as guidance needs them: [unconditional, conditional]."""
        return self._each(lambda tensor: torch.cat([tensor] * times))

    def select(self, views: Sequence[int]) -> Cameras:
        """Those views of every scene, in that order."""
        chosen = list(views)
        return dataclasses.replace(
            self,
            world2cam=self.world2cam[:, chosen],
            intrinsics=self.intrinsics[:, chosen],
            intensity=self.intensity[:, chosen],
        )

    def centred(self) -> Cameras:
        """The world moved so that the boxes are around its origin."""
        centre = self.bbox.mean(dim=1)
        world2cam = self.world2cam.clone()
        moved = torch.einsum("bvij,bj->bvi", world2cam[..., :3, :3], centre)
        world2cam[..., :3, 3] = world2cam[..., :3, 3] + moved
        return dataclasses.replace(self, world2cam=world2cam, bbox=self.bbox - centre[:, None])

    def in_front(self) -> Cameras:
        """The world turned about the upright axis through the middle of each box until the first
        view of each scene is where Blender's front view is, towards -y."""
        middle = self.bbox.float().mean(dim=1)
        first = centres(self.world2cam[:, 0].float()) - middle
        length = torch.hypot(first[:, 0], first[:, 1])
        above = length < 1e-6 * first.norm(dim=-1)  # straight from above: as it is
        length = torch.where(above, torch.ones_like(length), length)
        sine = torch.where(above, torch.zeros_like(length), first[:, 0] / length)
        cosine = torch.where(above, torch.ones_like(length), -first[:, 1] / length)
        zero, one = torch.zeros_like(sine), torch.ones_like(sine)
        # From the turned world to this one.
        back = torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], dim=-1)
        back = back.unflatten(-1, (3, 3))
        away = middle - (back @ middle[..., None])[..., 0]
        rotation = self.world2cam[..., :3, :3]
        world2cam = self.world2cam.clone()
        world2cam[..., :3, :3] = rotation @ back[:, None]
        world2cam[..., :3, 3] += (rotation @ away[:, None, :, None])[..., 0]
        return dataclasses.replace(self, world2cam=world2cam)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Cameras:
        return dataclasses.replace(
            self,
            world2cam=change(self.world2cam),
            intrinsics=change(self.intrinsics),
            bbox=change(self.bbox),
            intensity=change(self.intensity),
        )


def centres(world2cam: torch.Tensor) -> torch.Tensor:
    """(..., 4, 4) -> where the cameras are, (..., 3)."""
    rotation, shift = world2cam[..., :3, :3], world2cam[..., :3, 3]
    return -(rotation.mT @ shift[..., None])[..., 0]


def conditions(
    cameras: Cameras, reference: str = "absolute", intensity: bool = True
) -> torch.Tensor:
    """What is told of each view: (B, V, 10), or 8 without intensity.

    Zenith angle, sine and cosine of the azimuth, and distance of the camera; focal lengths and
    principal point as shares of the picture; mean and variance. reference: "first", angles and
    distance are from those of the first view of each scene; "front", the azimuth alone is.
    "absolute", they are from those that the published code has for a camera at the origin, where
    signs of zeros decide: pi, -pi, 0. So the angle is less by pi, and sine and cosine have the
    other sign.
    """
    x, y, z = centres(cameras.world2cam.float()).unbind(-1)
    theta = torch.atan2(torch.hypot(x, y), z)
    phi = torch.atan2(y, x)
    radius = torch.sqrt(x * x + y * y + z * z)
    if reference == "first":
        theta = theta - theta[:, :1]
        phi = phi - phi[:, :1]
        radius = radius - radius[:, :1]
    elif reference == "front":
        phi = phi - phi[:, :1]
    else:
        theta, phi = theta - math.pi, phi + math.pi
    pose = torch.stack([theta, phi.sin(), phi.cos(), radius], dim=-1)
    height, width = cameras.size
    lens = cameras.intrinsics.float() / cameras.intrinsics.new_tensor(
        [width, height, width, height], dtype=torch.float32
    )
    parts = [pose, lens, cameras.intensity.float()] if intensity else [pose, lens]
    return torch.cat(parts, dim=-1)


def at_size(
    intrinsics: torch.Tensor, size: tuple[int, int], new_size: tuple[int, int]
) -> torch.Tensor:
    """Intrinsics (..., 4) of pictures of `size` (height, width), resized to `new_size`."""
    y, x = (new / old for new, old in zip(new_size, size, strict=True))
    scale = intrinsics.new_tensor([x, y, x, y])
    half = intrinsics.new_tensor([0.0, 0.0, 0.5, 0.5])
    return (intrinsics + half) * scale - half
