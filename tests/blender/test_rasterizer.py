"""Depth pictures of triangles against exact rays."""

import time

import numpy as np
import pytest
from fieldforge.blender_addon import pictures
from fieldforge.blender_addon.rasterizer import rasterize, shade
from mathutils import Vector
from mathutils.bvhtree import BVHTree


def looking_down(distance: float) -> np.ndarray:
    """From above the origin, along -z."""
    view = np.eye(4)
    view[2, 3] = -distance
    return view


def orthographic(half: float) -> np.ndarray:
    return np.diag([1 / half, 1 / half, -0.01, 1.0])


def ball(rings: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """(vertices, triangles) of a closed ball of radius 1."""
    lift = np.linspace(0, np.pi, rings)
    turn = np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    x, y = np.outer(np.sin(lift), np.cos(turn)), np.outer(np.sin(lift), np.sin(turn))
    z = np.outer(np.cos(lift), np.ones_like(turn))
    i, j = np.meshgrid(np.arange(rings - 1), np.arange(2 * rings), indexing="ij")
    a, b = i * 2 * rings + j, i * 2 * rings + (j + 1) % (2 * rings)
    c, d = a + 2 * rings, b + 2 * rings
    triangles = [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)]
    return np.stack([x, y, z], -1).reshape(-1, 3), np.concatenate(triangles)


def rays(view, projection, size) -> tuple[np.ndarray, np.ndarray]:
    """(origins, directions) (H, W, 3) in the world; a direction is 1 along the camera's axis."""
    x = (np.arange(size[0]) + 0.5) / size[0] * 2 - 1
    y = 1 - (np.arange(size[1]) + 0.5) / size[1] * 2
    ndc = np.stack(np.meshgrid(x, y), axis=-1)
    scale = np.diag(projection)[:2]
    across = (ndc + projection[:2, 2]) / scale
    zero, one = np.zeros_like(across[..., :1]), np.ones_like(across[..., :1])
    if projection[3, 3]:  # parallel rays
        begin = np.concatenate([across, zero], axis=-1)
        along = np.concatenate([0 * across, -one], axis=-1)
    else:
        begin = np.concatenate([0 * across, zero], axis=-1)
        along = np.concatenate([across, -one], axis=-1)
    inverse = np.linalg.inv(view)
    return begin @ inverse[:3, :3].T + inverse[:3, 3], along @ inverse[:3, :3].T


def by_rays(vertices, triangles, view, projection, size) -> np.ndarray:
    """(H, W) depth by Blender's own ray casting."""
    tree = BVHTree.FromPolygons(vertices.tolist(), triangles.tolist(), epsilon=0.0)
    origins, directions = rays(view, projection, size)
    depth = np.full((size[1], size[0]), np.inf)
    for row, column in np.ndindex(depth.shape):
        direction = Vector(directions[row, column])
        hit = tree.ray_cast(Vector(origins[row, column]), direction)
        if hit[0] is not None:
            depth[row, column] = hit[3] / direction.length
    return depth


@pytest.mark.parametrize("projection", [pictures.cube_projection(), orthographic(1.4)])
def test_a_ball_is_seen_where_rays_meet_it(projection):
    vertices, triangles = ball()
    view = looking_down(3.75)
    size = (48, 40)
    found = rasterize(vertices, triangles, view, projection, size)
    expected = by_rays(vertices, triangles, view, projection, size)
    seen = np.isfinite(expected)
    assert seen.sum() > 200
    assert np.array_equal(np.isfinite(found.depth), seen)
    assert np.abs(found.depth[seen] - expected[seen]).max() < 1e-4
    assert np.array_equal(found.triangle >= 0, seen)


def test_tangled_triangles_hide_each_other_as_rays_say():
    rng = np.random.default_rng(5)
    middle = rng.uniform(-1, 1, (300, 1, 3))
    vertices = (middle + rng.normal(0, 0.3, (300, 3, 3))).reshape(-1, 3)
    triangles = np.arange(900).reshape(-1, 3)
    view = pictures.cube_views((10,))[0]
    size = (64, 64)
    found = rasterize(vertices, triangles, view, pictures.cube_projection(), size)
    expected = by_rays(vertices, triangles, view, pictures.cube_projection(), size)
    differs = ~np.isclose(found.depth, expected, atol=1e-4)
    assert differs.mean() < 0.002  # rays on an edge to the last bit


def test_no_ray_slips_between_the_triangles_of_a_closed_mesh():
    """Pixel centres lie exactly on the edges and corners of this grid."""
    side = np.linspace(-1, 1, 9)
    x, y = np.meshgrid(side, side, indexing="ij")
    vertices = np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    a = (9 * i + j).ravel()
    triangles = np.concatenate(
        [np.stack([a, a + 1, a + 9], -1), np.stack([a + 1, a + 10, a + 9], -1)]
    )
    found = rasterize(vertices, triangles, looking_down(2), orthographic(1 - 1e-12), (32, 32))
    assert np.isfinite(found.depth).all()
    assert np.abs(found.depth - 2).max() < 1e-6


def test_a_floor_that_reaches_behind_the_camera_is_cut_there():
    vertices = np.array([[-50, -1, 50], [50, -1, 50], [50, -1, -50], [-50, -1, -50]], float)
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    found = rasterize(vertices, triangles, np.eye(4), pictures.cube_projection(), (64, 64))
    rows = (np.arange(64) + 0.5) / 32 - 1
    below = rows > 0
    expected = 1 / (rows[below] * np.tan(pictures.VIEW_FIELD / 2))
    near = expected < 40
    assert np.isinf(found.depth[~below]).all()
    assert np.abs(found.depth[below][near] / expected[near, None] - 1).max() < 1e-5


def test_what_is_behind_the_camera_or_no_number_is_not_seen():
    vertices, triangles = ball(12)
    behind = rasterize(vertices, triangles, looking_down(-3), pictures.cube_projection(), (32, 32))
    assert np.isinf(behind.depth).all()
    vertices[:] = np.nan
    nothing = rasterize(vertices, triangles, looking_down(3), pictures.cube_projection(), (32, 32))
    assert np.isinf(nothing.depth).all()
    assert (nothing.triangle == -1).all()


def test_shading_shows_colours_brighter_where_they_face_the_camera():
    vertices, triangles = ball()
    view, colors = looking_down(3.75), np.full((len(triangles), 3), (200, 100, 0), np.uint8)
    picture = rasterize(vertices, triangles, view, pictures.cube_projection(), (64, 64))
    image = shade(picture, vertices, triangles, colors, view)
    assert image[0, 0].tolist() == [0, 0, 0, 0]
    assert np.abs(image[32, 32].astype(int) - [200, 100, 0, 255]).max() <= 2
    rim = np.flatnonzero(image[32, :, 3])[0]
    assert image[32, rim, 0] < 0.75 * image[32, 32, 0]


def test_a_hundred_thousand_triangles_take_a_moment():
    vertices, triangles = ball(225)
    assert len(triangles) > 100_000
    begun = time.perf_counter()
    rasterize(vertices, triangles, looking_down(3.75), pictures.cube_projection(), (320, 320))
    assert time.perf_counter() - begun < 3.0  # 0.2 s on an idle core
