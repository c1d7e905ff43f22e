"""How true meshes of views are, and how fast they are made, of things known exactly."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from ..geometry import texture_baking, view_colors, view_scales
from ..geometry.components import parts
from ..geometry.view_fusion import PosedViews, find_cube, fuse
from . import known_things
from .known_things import Shown

_RESOLUTION = 128
_FINE = 256  # as views of 256 pixels are made into a mesh where nobody says
_THING = known_things.THINGS[0]
_SIZE = 256
_SCALE_ERROR = 0.02
_SMOOTH_ERROR = 0.01


def rows() -> Iterator[dict[str, Any]]:
    """For each set of views: distances from the result to the truth (acc: mean and 95 %) and back
    (compl), IoU, pieces, mean error of colours (of 255) at vertices and in the texture, and the
    processor seconds of it all."""
    for name, thing, poses, resolution, error in _sets():
        shown = known_things.show(thing, poses, _SIZE)
        depths = shown.depths if not error else _spoiled(shown.depths)
        for way in ("depth", "outlines") if not error else ("depth",):
            told = depths if way == "depth" else None
            _ours(shown, told, resolution)  # compiled by now
            yield {"views": name, "thing": thing, "method": f"ours, {way}"} | _measured(
                thing, *_ours(shown, told, resolution)
            )
        beside = thing == _THING and resolution == _RESOLUTION
        if beside and (theirs := _open3d(shown, depths)) is not None:
            yield {"views": name, "thing": thing, "method": "Open3D VoxelBlockGrid"} | _measured(
                thing, *theirs
            )


def _sets() -> Iterator[tuple[str, str, np.ndarray, int, bool]]:
    """Names, things, poses, cells along the side, and whether depths are spoiled."""
    four = known_things.ring(4, 15)
    caps = np.stack([known_things.looking_at_origin(0, e) for e in (89, -89)])
    six = np.concatenate([four, caps])
    yield "4, ring", _THING, four, _RESOLUTION, False
    yield "6 = 4 + top + bottom", _THING, six, _RESOLUTION, False
    yield "10, ring 30 degrees", _THING, known_things.ring(10, 30), _RESOLUTION, False
    rings = [known_things.ring(10, e, start=12 * k) for k, e in enumerate((-50, 0, 50))]
    yield "30, three rings", _THING, np.concatenate(rings), _RESOLUTION, False
    yield "6 with noise", _THING, six, _RESOLUTION, True
    twenty = np.concatenate([known_things.all_around(18), caps])
    for thing in known_things.THINGS:
        yield "20, all around", thing, known_things.all_around(20), _RESOLUTION, False
    for thing in known_things.THINGS:
        yield "20 = 18 + top + bottom", thing, twenty, _RESOLUTION, False
        yield "20 = 18 + top + bottom, 256^3", thing, twenty, _FINE, False


def _spoiled(depths: np.ndarray) -> np.ndarray:
    """2 % of scale error per view and smooth noise of 0.01."""
    rng = np.random.default_rng(3)
    factors = 1 + rng.normal(0, _SCALE_ERROR, len(depths))
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=one.shape), 12) for one in depths])
    off = depths * factors[:, None, None] + noise * (_SMOOTH_ERROR / noise.std())
    return np.where(np.isfinite(off), off, 0).astype(np.float32)


def _ours(
    shown: Shown, depths: np.ndarray | None, resolution: int
) -> tuple[np.ndarray, np.ndarray, float, tuple[float, float] | None]:
    """Vertices, faces, seconds, errors of the colours."""
    began = time.process_time()
    opacity = shown.images[..., 3].astype(np.float32) / 255
    lens = shown.intrinsics.astype(np.float64)
    views = PosedViews(opacity, depths, shown.poses.astype(np.float64), lens)
    noise = 0.0
    if depths is not None:
        scales = view_scales.solve(views)
        noise = scales.noise
        if scales.before > 0.005:
            views = PosedViews(opacity, scales.applied(depths), views.poses, lens)
    cube = find_cube(views)
    vertices, faces = fuse(views, cube, resolution, noise).surface()
    cell = cube.side / resolution
    by = view_colors.painters(shown.images, views.poses, lens, vertices, faces, cell)
    colors, _ = view_colors.vertex_colors(vertices, faces, by)
    atlas = texture_baking.unwrap(vertices, faces, 512)
    normals = view_colors.vertex_normals(vertices, faces)
    picture = texture_baking.bake(
        vertices, faces, normals, colors, atlas, lambda p, n: view_colors.blend(p, n, by)
    )
    seconds = time.process_time() - began
    at_vertices = np.abs(colors[:, :3] - known_things.colors(vertices)).mean()
    middles = vertices[faces].mean(axis=1)
    uv = atlas.uv.mean(axis=1) - 0.5
    seen = np.stack(
        [
            ndimage.map_coordinates(picture[..., k].astype(float), uv[:, ::-1].T, order=1)
            for k in range(3)
        ],
        axis=1,
    )
    in_texture = np.abs(seen - known_things.colors(middles)).mean()
    return vertices, faces, seconds, (float(at_vertices), float(in_texture))


def _open3d(
    shown: Shown, depths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, tuple[float, float] | None] | None:
    """The same views by Open3D's fusion, without colours; None where it cannot be imported."""
    try:
        o3d = importlib.import_module("open3d")
    except (ImportError, OSError):
        return None
    began = time.process_time()
    grid = o3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight"),
        (o3d.core.float32, o3d.core.float32),
        ((1), (1)),
        2.2 / _RESOLUTION,
        16,
        20_000,
        o3d.core.Device("CPU:0"),
    )
    for view, depth in enumerate(depths):
        lens = np.eye(3)
        lens[[0, 1, 0, 1], [0, 1, 2, 2]] = shown.intrinsics[view]
        to_camera = np.diag([1.0, -1, -1, 1]) @ np.linalg.inv(shown.poses[view].astype(np.float64))
        picture = o3d.t.geometry.Image(
            o3d.core.Tensor(np.where(np.isfinite(depth), depth, 0).astype(np.float32))
        )
        camera = (o3d.core.Tensor(lens), o3d.core.Tensor(to_camera), 1.0, 10.0)
        blocks = grid.compute_unique_block_coordinates(picture, *camera)
        grid.integrate(blocks, picture, *camera)
    mesh = grid.extract_triangle_mesh(weight_threshold=0.5)
    vertices = mesh.vertex.positions.numpy().astype(np.float64)
    faces = mesh.triangle.indices.numpy().astype(np.int32)
    return vertices, faces, time.process_time() - began, None


def _measured(
    thing: str,
    vertices: np.ndarray,
    faces: np.ndarray,
    seconds: float,
    colors: tuple[float, float] | None,
) -> dict[str, Any]:
    away = np.abs(known_things.distances(thing, vertices))
    truth = known_things.on_surface(thing, 20_000)
    missing, _ = cKDTree(vertices).query(truth)
    closed = _is_closed(faces, len(vertices))
    return {
        "IoU": round(known_things.iou(thing, vertices, faces), 4) if closed else None,
        "acc": round(float(away.mean()), 4),
        "acc 95%": round(float(np.quantile(away, 0.95)), 4),
        "compl 95%": round(float(np.quantile(missing, 0.95)), 4),
        "closed": closed,
        "pieces": int(parts(vertices, faces).max()) + 1,
        "colour": round(colors[0], 2) if colors else None,
        "texture": round(colors[1], 2) if colors else None,
        "processor s": round(seconds, 2),
    }


def _is_closed(faces: np.ndarray, count: int) -> bool:
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2).astype(np.int64)
    forth, back = ends @ [count, 1], ends @ [1, count]
    return bool(len(np.unique(forth)) == len(forth) and (np.sort(forth) == np.sort(back)).all())
