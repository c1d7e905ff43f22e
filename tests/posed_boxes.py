"""Boxes with coloured sides and their views, for tests of multi-view training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.posed_images import PosedImages
from backend.training.viewdiff import evaluate, scenes, sources
from backend.training.viewdiff.scenes import Light, Scene


def block(number: int) -> Scene:
    """A box with sides of different colours, each number another."""
    rng = np.random.default_rng(number)
    corners = np.array([(x, y, z) for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)], np.float32)
    quads = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))], np.int32)
    paint = rng.uniform(0.1, 0.9, (6, 3)).astype(np.float32).repeat(2, axis=0)
    size = rng.uniform(0.4, 0.9, 3).astype(np.float32)
    light = Light(np.array([0.0, -0.6, 0.8]), 0.5, 0.4)
    return Scene(corners * size, faces, lambda face, place, normal: paint[face], light)


class Boxes:
    """A source of boxes."""

    has_depth = True

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self._scenes = []
        for number in range(count):
            scene = block(number)
            poses, lens = scenes.cameras(np.random.default_rng(number), 1.5, size)
            self._scenes.append(evaluate.true_views(scene, poses, lens, size))

    def __len__(self) -> int:
        return len(self._scenes)

    def views(self, number: int) -> int:
        return len(self._scenes[number])

    def poses(self, number: int) -> np.ndarray:
        return self._scenes[number].poses

    def caption(self, number: int) -> str:
        return f"box {number}"

    def scene(self, number: int, views: Sequence[int] | None = None) -> PosedImages:
        return sources.selected(self._scenes[number], views)
