"""Grids of small pictures that a person can look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

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


def cells_tile(cells: np.ndarray, side: int = SIDE) -> np.ndarray:
    """(R, R, R) bool that fill the cube -> their outer faces, as `portrait` shows surfaces."""
    padded = np.pad(np.asarray(cells, bool), 1)
    squares = []
    for axis in range(3):
        square = np.zeros((4, 3))
        square[:, (axis + 1) % 3] = [0, 1, 1, 0]
        square[:, (axis + 2) % 3] = [0, 0, 1, 1]
        for step in (-1, 1):
            square[:, axis] = step > 0
            bare = padded & ~np.roll(padded, -step, axis)
            squares.append((np.argwhere(bare) - 1)[:, None] + square)
    vertices = np.concatenate(squares).reshape(-1, 3) * (2 / len(cells)) - 1
    first = np.arange(0, len(vertices), 4)[:, None]
    faces = np.concatenate([first + np.array([0, 1, 2]), first + np.array([0, 2, 3])])
    return portrait((vertices.astype(np.float32), faces.astype(np.int32)), side)


def words_tile(words: str, width: int = SIDE, height: int = 32) -> np.ndarray:
    """(height, width, 3) uint8: `words` black on white, in as many lines as they need."""
    image = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    line, top = "", 3
    for word in words.split():
        longer = f"{line} {word}".strip()
        if line and draw.textlength(longer) > width - 6:
            draw.text((3, top), line, fill=(0, 0, 0))
            line, top = word, top + 12
        else:
            line = longer
    draw.text((3, top), line, fill=(0, 0, 0))
    return np.asarray(image)


def tile(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Any picture (H, W) or (H, W, 3 or 4) uint8 as a (side, side, 3) one, transparent as white."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, image)
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))


def grid(rows: Sequence[Sequence[np.ndarray]], names: Sequence[str] = ()) -> np.ndarray:
    """Rows of tiles, of one size within a row -> one picture, the names of the columns on top.

    Shorter rows are filled with white.
    """
    above = [[words_tile(name, rows[0][0].shape[1]) for name in names]] if names else []
    every = [*above, *rows]
    width = max(len(row) for row in every)
    filled = [[*row, *[np.full_like(row[0], 255)] * (width - len(row))] for row in every]
    return np.concatenate([np.concatenate(row, axis=1) for row in filled])


def save(rows: Sequence[Sequence[np.ndarray]], path: Path, names: Sequence[str] = ()) -> None:
    """`grid` as PNG, written whole or not at all."""
    partial = path.with_name(path.name + ".part")
    Image.fromarray(grid(rows, names)).save(partial, "PNG")
    partial.replace(path)
