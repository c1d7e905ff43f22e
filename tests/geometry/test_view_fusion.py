"""Fusing views of things that are known exactly."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import ndimage

from backend.bench import known_things
from backend.bench.known_things import Shown
from backend.errors import BadInput
from backend.geometry import components, view_colors, view_scales
from backend.geometry.view_fusion import (
    Cube,
    PosedViews,
    find_cube,
    fuse,
    misfits,
    projections,
    unprojected,
    without_crumbs,
)

THING = "torus, box and ball"


@functools.cache
def shown(thing: str = THING, kind: str = "around", size: int = 128) -> Shown:
    poses = {
        "around": lambda: known_things.all_around(16),
        "six": lambda: np.concatenate(
            [known_things.ring(4, 15)]
            + [known_things.looking_at_origin(0, e)[None] for e in (89, -89)]
        ),
        "ring": lambda: known_things.ring(8, 30),
    }[kind]()
    return known_things.show(thing, poses, size)


def views_of(pictures: Shown, depth: np.ndarray | bool = True) -> PosedViews:
    told = pictures.depths if depth is True else None if depth is False else depth
    return PosedViews(
        pictures.images[..., 3].astype(np.float32) / 255,
        told,
        pictures.poses.astype(np.float64),
        pictures.intrinsics.astype(np.float64),
    )


def iou(thing: str, views: PosedViews, noise: float = 0.0, resolution: int = 128) -> float:
    vertices, faces = fuse(views, find_cube(views), resolution, noise).surface()
    return known_things.iou(thing, vertices, faces, 80)


# ------------------------------------------------------------------------------------------ cameras


def test_projecting_undoes_unprojecting() -> None:
    rng = np.random.default_rng(0)
    pose = known_things.looking_at_origin(40, 25).astype(np.float64)
    lens = np.array([210.0, 190.0, 63.2, 41.7])
    at = rng.uniform([0, 0, 1], [120, 90, 6], (50, 3))
    points = unprojected(pose, lens, at)
    column, row, depth = projections(pose[None], lens[None])[0] @ np.c_[points, np.ones(50)].T
    assert np.allclose(np.stack([column / depth, row / depth, depth], axis=1), at, atol=1e-9)


def test_a_point_above_is_higher_in_the_picture_and_one_at_the_right_further_right() -> None:
    pose = known_things.looking_at_origin(0, 0)[None].astype(np.float64)
    matrix = projections(pose, np.array([[100.0, 100, 50, 50]]))[0]
    up = matrix @ [0, 0, 0.5, 1]
    right = matrix @ [0.5, 0, 0, 1]
    assert up[1] / up[2] < 50 - 10
    assert right[0] / right[2] > 50 + 10
    assert up[2] == pytest.approx(3.5)


# ------------------------------------------------------------------------------------------ fusing


@pytest.mark.parametrize(("thing", "least"), [(THING, 0.975), ("stool", 0.95)])
def test_exact_views_give_the_thing(thing: str, least: float) -> None:
    views = views_of(shown(thing))
    vertices, faces = fuse(views, find_cube(views), 128).surface()
    assert known_things.iou(thing, vertices, faces, 80) > least
    assert components.parts(vertices, faces).max() == 0
    off = known_things.distances(thing, vertices)
    assert np.abs(off).mean() < 0.004
    assert abs(off.mean()) < 0.003


def test_six_views_with_top_and_bottom_are_enough() -> None:
    assert iou(THING, views_of(shown(kind="six"))) > 0.96


def test_outlines_alone_contain_the_thing() -> None:
    views = views_of(shown(), depth=False)
    cube = find_cube(views)
    fused = fuse(views, cube, 128)
    vertices, faces = fused.surface()
    assert 0.75 < known_things.iou(THING, vertices, faces, 80) < 0.95
    surface = known_things.on_surface(THING, 3000)
    nodes = (surface - np.array(cube.center)) / cube.side * 128 + 64
    values = ndimage.map_coordinates(fused.field, nodes.T, order=1)
    assert (values < 1.0 * cube.side / 128).mean() > 0.995


def test_the_surface_is_closed_and_turned_outwards() -> None:
    views = views_of(shown(kind="ring"))
    vertices, faces = fuse(views, find_cube(views), 128).surface()
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2).astype(np.int64)
    forth = ends[:, 0] * len(vertices) + ends[:, 1]
    back = ends[:, 1] * len(vertices) + ends[:, 0]
    assert len(np.unique(forth)) == len(forth)
    assert (np.sort(forth) == np.sort(back)).all()
    corners = vertices[faces]
    volume = np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    assert volume > 0.3


def test_what_no_view_sees_is_closed_near_to_what_they_see() -> None:
    """Seen from above only, space below the thing is a pyramid that nobody looked into."""
    views = views_of(shown(kind="ring"))
    cube = find_cube(views)
    lows = {}
    for close in (True, False):
        fused = fuse(views, cube, 128, close=close)
        vertices, faces = fused.surface()
        lows[close] = known_things.iou(THING, vertices, faces, 80)
    assert lows[True] > lows[False] + 0.01


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    views = views_of(shown(size=64, kind="six"))
    cube = find_cube(views)
    fields = []
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        fields.append(fuse(views, cube, 64).field)
    assert (fields[0] == fields[1]).all()


def test_holes_in_depth_are_no_holes_in_the_thing() -> None:
    pictures = shown()
    depth = pictures.depths.copy()
    depth[:, 40:60, 50:70] = 0
    assert iou(THING, views_of(pictures, depth)) > 0.96


def test_large_pictures_are_looked_at_in_steps() -> None:
    """At eight pixels for a cell, a third of them along each side is enough."""
    pictures = shown(kind="six", size=384)
    views = views_of(pictures)
    assert iou(THING, views, resolution=64) > 0.93


def test_pictures_that_are_not_square() -> None:
    pictures = shown()
    cut = slice(14, 114)
    lens = pictures.intrinsics.copy()
    lens[:, 3] -= 14
    flat = Shown(pictures.images[:, cut], pictures.depths[:, cut], pictures.poses, lens)
    assert iou(THING, views_of(flat)) > 0.96


def test_a_picture_that_cuts_the_thing_off_takes_nothing_away() -> None:
    pictures = shown()
    half = slice(0, 64)
    lens = pictures.intrinsics
    narrow = views_of(
        Shown(
            pictures.images[:6, :, half], pictures.depths[:6, :, half], pictures.poses[:6], lens[:6]
        )
    )
    cube = find_cube(views_of(pictures))
    field = fuse(narrow, cube, 64).field
    points = _nodes(cube, 64)
    column, _, depth = np.moveaxis(
        projections(narrow.poses, narrow.intrinsics) @ np.c_[points, np.ones(len(points))].T, 1, 0
    )
    shown_somewhere = (column / depth < 63).any(axis=0)
    inside = (known_things.distances(THING, points) < -0.05) & shown_somewhere
    assert inside.sum() > 10_000
    assert (field.ravel()[inside] < 0).all()


def _nodes(cube: Cube, side: int) -> np.ndarray:
    axes = np.arange(side) / side - 0.5
    grid = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid * cube.side + np.array(cube.center)


def test_the_cube_holds_the_thing_and_little_else() -> None:
    for depth in (True, False):
        cube = find_cube(views_of(shown(), depth=depth))
        surface = known_things.on_surface(THING, 2000)
        away = np.abs(surface - np.array(cube.center)).max()
        assert away < cube.side / 2
        assert cube.side < 2.5 * 0.88 * 1.3


def test_outlines_with_nothing_in_common() -> None:
    views = views_of(shown())
    poses = views.poses.copy()
    poses[::2, :3, 3] += 5
    with pytest.raises(BadInput, match="nothing in common"):
        find_cube(PosedViews(views.opacity, views.depth, poses, views.intrinsics))


def test_crumbs_and_cavities_go() -> None:
    ball = np.stack(np.meshgrid(*[np.arange(40.0)] * 3, indexing="ij"))
    from backend.geometry.isosurface import marching_cubes

    def distance(center: float, radius: float) -> np.ndarray:
        return np.sqrt(((ball - center) ** 2).sum(axis=0)) - radius

    solid = np.maximum(distance(16, 12), -distance(16, 4))
    vertices, faces = marching_cubes(np.minimum(solid, distance(34, 2)).astype(np.float32))
    assert components.parts(vertices, faces).max() == 2
    vertices, faces = without_crumbs(vertices, faces)
    assert components.parts(vertices, faces).max() == 0
    assert np.linalg.norm(vertices - 16, axis=1).min() > 11


def test_only_the_view_with_the_wrong_outline_is_a_misfit() -> None:
    views = views_of(shown())
    cube = find_cube(views)
    assert not misfits(views, cube).any()
    opacity = views.opacity.copy()
    opacity[4, :, :60] = 0
    spoiled = PosedViews(opacity, None, views.poses, views.intrinsics)
    assert np.flatnonzero(misfits(spoiled, cube)).tolist() == [4]


# ------------------------------------------------------------------------------------------- scales


def noisy(pictures: Shown, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Depths with 2 % of scale error and smooth noise of 0.01, and the factors of the scales."""
    rng = np.random.default_rng(seed)
    factors = 1 + rng.normal(0, 0.02, len(pictures.depths))
    noise = np.stack(
        [ndimage.gaussian_filter(rng.normal(size=one.shape), 6) for one in pictures.depths]
    )
    off = pictures.depths * factors[:, None, None] + noise * (0.01 / noise.std())
    return np.where(np.isfinite(off), off, 0).astype(np.float32), factors


def test_scales_are_solved_from_what_views_share() -> None:
    pictures = shown()
    depth, factors = noisy(pictures)
    views = views_of(pictures, depth)
    scales = view_scales.solve(views)
    assert np.abs(factors / scales.factors - 1).mean() < 0.1 * np.abs(factors - 1).mean()
    assert scales.noise < 0.02 < scales.before
    assert scales.agreement > 0.9
    solved = views_of(pictures, scales.applied(depth))
    assert iou(THING, solved, scales.noise) > 0.95
    assert iou(THING, views) < 0.8


def test_exact_depths_stay_as_they_are() -> None:
    scales = view_scales.solve(views_of(shown()))
    assert np.abs(scales.factors - 1).max() < 1e-4
    assert scales.noise < 1e-3


def test_shifts_of_inverse_depth_are_solved_too() -> None:
    pictures = shown()
    rng = np.random.default_rng(8)
    factors = 1 + rng.normal(0, 0.03, len(pictures.depths))
    shifts = rng.normal(0, 0.01, len(pictures.depths))
    near = np.where(np.isfinite(pictures.depths), 1 / pictures.depths, np.nan)
    told = np.nan_to_num(1 / (near * factors[:, None, None] + shifts[:, None, None]))
    scales = view_scales.solve(views_of(pictures, told.astype(np.float32)), with_shift=True)
    solved = scales.applied(told)
    known = np.isfinite(pictures.depths)
    before = np.abs(told[known] / pictures.depths[known] - 1).mean()
    after = np.abs(solved[known] / pictures.depths[known] - 1).mean()
    assert after < 0.15 * before


# ------------------------------------------------------------------------------------------ colours


@functools.cache
def painted() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    pictures = shown()
    views = views_of(pictures)
    cube = find_cube(views)
    vertices, faces = fuse(views, cube, 128).surface()
    by = view_colors.painters(
        pictures.images, views.poses, views.intrinsics, vertices, faces, cube.side / 128
    )
    return vertices, faces, *view_colors.vertex_colors(vertices, faces, by)


def test_colours_are_those_of_the_thing() -> None:
    vertices, _, colors, seen = painted()
    off = np.abs(colors[:, :3] - known_things.colors(vertices))
    assert off.mean() < 2
    assert off[seen > 0].mean() < 1
    assert (colors[:, 3] == 255).all()
    assert (seen > 0).mean() > 0.97


def test_depth_pictures_of_the_surface_are_those_of_the_thing() -> None:
    pictures = shown()
    views = views_of(pictures)
    vertices, faces, *_ = painted()
    matrices = projections(views.poses, views.intrinsics)
    drawn = view_colors.depth_pictures(matrices, (128, 128), vertices, faces)
    both = np.isfinite(drawn) & np.isfinite(pictures.depths)
    assert both.sum() > 0.97 * np.isfinite(pictures.depths).sum()
    assert np.median(np.abs(drawn[both] - pictures.depths[both])) < 0.004


def test_a_colour_does_not_show_through_to_what_is_behind() -> None:
    """A red sheet before a green one: from the front, the back one is not painted red."""
    square = np.array([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    vertices = np.concatenate([0.5 * square - [0, 0.5, 0], square - [0, -0.5, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], np.int32)
    pose = known_things.looking_at_origin(0, 0)[None].astype(np.float64)
    lens = np.array([[60.0, 60, 31.5, 31.5]])
    matrices = projections(pose, lens)
    depth = view_colors.depth_pictures(matrices, (64, 64), vertices, faces)[0]
    image = np.zeros((1, 64, 64, 4), np.uint8)
    image[0, depth < 3.5] = [255, 0, 0, 255]
    image[0, (depth > 3.5) & np.isfinite(depth)] = [0, 255, 0, 255]
    by = view_colors.painters(image, pose, lens, vertices, faces, 0.01)
    points = np.array([[0, -0.5, 0], [0, 0.5, 0], [0.8, 0.5, 0], [0.57, 0.5, 0]])
    colors, seen = view_colors.blend(points, np.tile([0.0, -1, 0], (4, 1)), by)
    assert (seen > 0).tolist()[:3] == [True, False, True]
    assert colors[0].tolist() == [255, 0, 0]
    assert colors[2].tolist() == [0, 255, 0]
    assert colors[3, 0] == 0  # beside the outline of the front one, too
    away, _ = view_colors.blend(points, np.tile([0.0, 1, 0], (4, 1)), by)
    assert not away.any()
