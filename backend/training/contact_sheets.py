"""Grids of small pictures that a person can look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from . import renders
from .metrics import Surface

SIDE = 160


def portrait(surface: Surface | None, side: int = SIDE) -> np.ndarray:
    """(side, side, 3) uint8 on white, always from the same side; grey where there is no surface.

    surface: in the cube, y up.
    """
    if surface is None or not len(surface[1]):
        return np.full((side, side, 3), 128, np.uint8)
    view = renders.render(*surface, renders.orbit(35, 22, 4.9, 34), 2 * side)
    picture = renders.shaded(view, np.random.default_rng(1))
    cover = picture[..., 3:] / 255
    return np.rint(picture[..., :3] * cover + 255 * (1 - cover)).astype(np.uint8)


def points_tile(points: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Points (N, 3) in the cube as (side, side, 3) uint8: black on white, far ones paler."""
    camera = renders.orbit(35, 22, 4.9, 34)
    seen = points @ camera.to_camera[:3, :3].T + camera.to_camera[:3, 3]
    seen = seen[np.argsort(seen[:, 2])]
    scale = camera.focal * side / 2 / -seen[:, 2]
    columns, rows = (side / 2 + seen[:, :2].T * [[1], [-1]] * scale).astype(int)
    within = (columns >= 0) & (columns < side) & (rows >= 0) & (rows < side)
    picture = np.full((side, side, 3), 255, np.uint8)
    shade = np.clip((-seen[:, 2] - 3.4) / 3.0, 0, 0.8) * 255
    picture[rows[within], columns[within]] = shade[within, None].astype(np.uint8)
    return picture


def tile(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Any picture (H, W) or (H, W, 3 or 4) uint8 as a (side, side, 3) one, transparent as white."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, image)
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))


def grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of tiles of one size -> one picture; shorter rows are filled with white."""
    width = max(len(row) for row in rows)
    blank = np.full_like(rows[0][0], 255)
    return np.concatenate(
        [np.concatenate([*row, *[blank] * (width - len(row))], axis=1) for row in rows]
    )


def save(rows: Sequence[Sequence[np.ndarray]], path: Path) -> None:
    """Written whole or not at all, as PNG."""
    partial = path.with_name(path.name + ".part")
    Image.fromarray(grid(rows)).save(partial, "PNG")
    partial.replace(path)
