"""Spheres for the tests: a box of a room around the eye, whose every distance is known."""

from __future__ import annotations

import numpy as np
from fieldforge.backend import protocol
from fieldforge.backend.protocol import DepthMeaning, SphereLayer, SphereResult

WALLS = np.array([[-2.0, -1.6, -1.2], [3.0, 1.4, 1.5]])  # of the room, metres from the eye
INVERSE = DepthMeaning(meaning="inverse", near=1.0, far=6.0)


def directions_of(width: int) -> np.ndarray:
    """(width / 2, width, 3) float64: where the pixels of a panorama look."""
    height = width // 2
    phi = 2 * np.pi * (0.5 - (np.arange(width) + 0.5) / width)
    theta = np.pi * (0.5 - (np.arange(height) + 0.5) / height)
    across = np.cos(theta)[:, None]
    up = np.broadcast_to(np.sin(theta)[:, None], (height, width))
    return np.stack([across * np.cos(phi), across * np.sin(phi), up], axis=-1)


def distances(directions: np.ndarray, eye=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Metres from `eye` to the walls along (..., 3) directions of length 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ways = np.where(directions > 0, WALLS[1] - eye, WALLS[0] - eye) / directions
    return np.where(np.isfinite(ways), ways, np.inf).min(axis=-1)


def picture(width: int) -> np.ndarray:
    """(width / 2, width, 3) uint8 whose colours tell the direction, left from right, up from down;
    in its middle a letter F."""
    directions = directions_of(width)
    colors = 70 + 60 * (1 + directions)
    height = width // 2
    unit = max(1, width // 64)
    letter = ["####", "#...", "###.", "#...", "#..."]
    for row, line in enumerate(letter):
        for column, mark in enumerate(line):
            if mark == "#":
                y, x = height // 2 + (row - 2) * unit, width // 2 + (column - 2) * unit
                colors[y : y + unit, x : x + unit] = (250, 20, 20)
    return np.rint(colors).astype(np.uint8)


def sphere(
    width: int = 64,
    meaning: DepthMeaning = INVERSE,
    image: np.ndarray | None = None,
    layers=("front",),
    name: str = "Room",
) -> SphereResult:
    """The room as the backend would send it: a vertex for each pixel and one at each pole."""
    directions = directions_of(width)
    values = values_of(distances(directions), meaning)
    made = []
    for kind in layers:
        moved = np.full(values.shape, 20.0) if kind == "sky" else values
        made.append(layer_of(directions, moved, kind))
    if "backing" in layers:
        index = layers.index("backing")
        own = np.full((8, 16, 3), (0, 200, 0), np.uint8)
        made[index] = SphereLayer(**{**vars(made[index]), "image": own})
    image = picture(width) if image is None else image
    return SphereResult(name=name, layers=tuple(made), image=image, meaning=meaning)


def values_of(radius: np.ndarray, meaning: DepthMeaning) -> np.ndarray:
    """The values that mean these distances."""
    match meaning.meaning:
        case "metric":
            return radius
        case "inverse":
            return (1 / radius - 1 / meaning.far) / (1 / meaning.near - 1 / meaning.far)
        case _:
            return 0.5 + (1 - radius / meaning.radius) / meaning.strength


def layer_of(directions: np.ndarray, values: np.ndarray, kind: str = "front") -> SphereLayer:
    """A closed mesh of (H, W) vertices and two poles, wound to be seen from inside."""
    height, width, _ = directions.shape
    grid = np.arange(height * width, dtype=np.int32).reshape(height, width)
    right = np.roll(grid, -1, axis=1)
    top, bottom = height * width, height * width + 1
    # From the eye, with up up, a larger column is further right: down, right, up is to the left.
    quads = np.stack([grid[:-1], grid[1:], right[1:], right[:-1]], axis=-1).reshape(-1, 4)
    caps = np.concatenate(
        [
            np.stack([np.full(width, top), grid[0], right[0]], axis=-1),
            np.stack([grid[-1], np.full(width, bottom), right[-1]], axis=-1),
        ]
    ).astype(np.int32)
    rows = height * width
    across = np.stack([grid, right], axis=-1).reshape(-1, 2)  # edge number: that of its left vertex
    down = np.stack([grid[:-1], grid[1:]], axis=-1).reshape(-1, 2)
    to_top = np.stack([np.full(width, top), grid[0]], axis=-1)
    to_bottom = np.stack([grid[-1], np.full(width, bottom)], axis=-1)
    edges = np.concatenate([across, down, to_top, to_bottom]).astype(np.int32)
    first_down, first_top = rows, rows + len(down)
    first_bottom = first_top + width
    column = np.arange(width, dtype=np.int32)
    following = (column + 1) % width
    quad_edges = np.stack(
        [first_down + grid[:-1], grid[1:], first_down + right[:-1], grid[:-1]], axis=-1
    )
    cap_edges = np.concatenate(
        [
            np.stack([first_top + column, grid[0], first_top + following], axis=-1),
            np.stack([first_bottom + column, first_bottom + following, grid[-1]], axis=-1),
        ]
    )
    u = (column + 0.5) / width
    v = 1 - (np.arange(height) + 0.5) / height
    step = 1 / width
    left_u = np.broadcast_to(u, (height - 1, width))
    upper, lower = v[:-1, None] + 0 * left_u, v[1:, None] + 0 * left_u
    quad_uv = np.stack(
        [
            np.stack([left_u, upper], -1),
            np.stack([left_u, lower], -1),
            np.stack([left_u + step, lower], -1),
            np.stack([left_u + step, upper], -1),
        ],
        axis=-2,
    )
    ones = np.ones(width)
    top_uv = np.stack(
        [
            np.stack([u + step / 2, ones], -1),
            np.stack([u, v[0] * ones], -1),
            np.stack([u + step, v[0] * ones], -1),
        ],
        axis=-2,
    )
    bottom_uv = np.stack(
        [
            np.stack([u, v[-1] * ones], -1),
            np.stack([u + step / 2, 0 * ones], -1),
            np.stack([u + step, v[-1] * ones], -1),
        ],
        axis=-2,
    )
    poles = np.array([[0, 0, 1], [0, 0, -1]], np.float32)
    pole_values = [values[0].mean(), values[-1].mean()]
    return SphereLayer(
        layer=kind,
        directions=np.concatenate([directions.reshape(-1, 3).astype(np.float32), poles]),
        values=np.concatenate([values.ravel(), pole_values]).astype(np.float32),
        corners=np.concatenate([quads.ravel(), caps.ravel()]).astype(np.int32),
        quads=len(quads),
        edges=edges,
        corner_edges=np.concatenate([quad_edges.ravel(), cap_edges.ravel()]).astype(np.int32),
        uv=np.concatenate(
            [quad_uv.reshape(-1, 2), top_uv.reshape(-1, 2), bottom_uv.reshape(-1, 2)]
        ).astype(np.float32),
    )


def result_of(task: protocol.Task) -> protocol.Result | None:
    """What the fake backend answers to tasks about panoramas; None to others."""
    if isinstance(task, protocol.PanoramaToStereo):
        shape = (16, 32, 3)
        left, right = np.full(shape, 40, np.uint8), np.full(shape, 200, np.uint8)
        return protocol.StereoResult(name=task.name, left=left, right=right)
    if isinstance(task, protocol.PanoramaToSphere):
        image = np.array(task.image[..., :3])
        return sphere(32, task.meaning, image, ("front", "backing", "sky"), task.name)
    if isinstance(task, protocol.TextToPanorama):
        told = {"model": "ldm3d", "steps": task.steps or 50, "guidance": task.guidance or 7.0}
        if task.sphere:
            made = sphere(32, DepthMeaning(meaning="paper"), None, ("front",), task.name)
            return SphereResult(**{**vars(made), "report": {**told, "seed": task.seed}})
        depth = np.linspace(0, 1, 32 * 16, dtype=np.float32).reshape(16, 32)
        return protocol.PanoramaResult(
            name=task.name,
            image=picture(32),
            depth=depth,
            meaning=DepthMeaning(meaning="paper", radius=4.0),
            report={**told, "seed": task.seed},
        )
    return None
