"""Pictures all around against what geometry says they must show."""

from pathlib import Path

import numpy as np
import pytest

from backend.training.rooms import bvh
from backend.training.rooms.painting import FURNITURE, paint
from tests.furnished_rooms import placed, scene, window

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
SIZE = (5.0, 4.0, 2.6)
EYE = np.array([2.1, 1.3, 1.5])
HEIGHT = 64


def directions(height, turn=0.0):
    """The rule of the project: the middle is +x, u = 0.25 is +y, the top row +z."""
    phi = 2 * np.pi * (0.5 - (np.arange(2 * height) + 0.5) / (2 * height)) + turn
    theta = np.pi * (0.5 - (np.arange(height) + 0.5) / height)
    return np.stack(
        [
            np.cos(theta)[:, None] * np.cos(phi),
            np.cos(theta)[:, None] * np.sin(phi),
            np.repeat(np.sin(theta)[:, None], 2 * height, 1),
        ],
        axis=-1,
    )


def out_of_box(direction, low, high):
    """Distance from the origin, inside, to the sides of a box."""
    with np.errstate(divide="ignore"):
        return np.maximum(low / direction, high / direction).min(axis=-1)


@pytest.mark.parametrize("turn", [0.0, 2.3])
def test_an_empty_room_is_as_far_as_its_walls(turn):
    _, distance, thing = paint(scene(SIZE, EYE, turn=turn), HEIGHT, 2 * HEIGHT, 0.25)
    exact = out_of_box(directions(HEIGHT, turn), -EYE, np.array(SIZE) - EYE)
    assert np.abs(distance - exact).max() < 1e-3
    assert thing.max() <= 5


def test_the_middle_looks_at_x_a_quarter_left_at_y_the_top_up():
    boxes = [((0.5, 0.5, 3), (1.5, 0, -1.5), 0.0), ((0.5, 0.5, 3), (0, 1.5, -1.5), 0.0)]
    boxes = [(size, EYE + place, turn) for size, place, turn in boxes]
    _, distance, thing = paint(scene(SIZE, EYE, boxes), HEIGHT, 2 * HEIGHT, 0.25)
    middle = HEIGHT // 2
    assert thing[middle, HEIGHT] == FURNITURE
    assert distance[middle, HEIGHT] == pytest.approx(1.25, abs=2e-3)
    assert thing[middle, HEIGHT // 2] == FURNITURE + 1
    assert thing[0, 0] == 5
    assert thing[-1, 0] == 4


def test_turned_furniture_is_where_it_stands():
    size, place, turn = np.array([1.2, 0.4, 0.9]), np.array([3.6, 2.2, 0.3]), 0.7
    room = scene(SIZE, EYE, [(size, place, turn)])
    _, distance, thing = paint(room, HEIGHT, 2 * HEIGHT, 0.25)
    seen = thing == FURNITURE
    assert seen.sum() > 50
    points = EYE + distance[seen][:, None] * directions(HEIGHT)[seen] - place
    c, s = np.cos(turn), np.sin(turn)
    own = np.stack(
        [c * points[:, 0] + s * points[:, 1], c * points[:, 1] - s * points[:, 0], points[:, 2]], 1
    )
    outside = np.abs(own - [0, 0, size[2] / 2]) - size / 2
    assert np.abs(outside.max(axis=1)).max() < 1e-3


def test_a_window_shows_the_sky_which_has_no_distance():
    panes = [window(2, (0.5, 2.5), (0.9, 2.2))]
    colours, distance, thing = paint(scene(SIZE, EYE, things=panes), HEIGHT, 2 * HEIGHT, 0.25)
    assert np.isinf(distance[HEIGHT // 2 - 2, HEIGHT])
    assert np.isfinite(distance).sum() > 0.9 * distance.size
    assert (thing[np.isinf(distance)] == 2).all()
    assert np.isfinite(colours).all()


def test_light_falls_off_and_is_kept_off():
    """Below a table it is darker than beside it, and no value is out of range."""
    table = [((1.5, 1.5, 0.1), np.array([2.5, 2.0, 0.8]), 0.0)]
    eye = np.array([0.5, 2.0, 0.5])
    colours, distance, thing = paint(scene(SIZE, eye, table), HEIGHT, 2 * HEIGHT, 0.25)
    assert colours.min() >= 0
    assert colours.max() <= 1
    points = eye + distance[..., None] * directions(HEIGHT)
    floor = thing == 4
    under = floor & (np.abs(points[..., :2] - [2.5, 2.0]) < 0.5).all(axis=-1)
    beside = floor & (np.abs(points[..., 0] - 1.2) < 0.4) & (np.abs(points[..., 1] - 2.0) < 0.5)
    assert under.sum() > 20
    assert colours[under].mean() < 0.75 * colours[beside].mean()


def test_rays_find_the_triangles_that_a_search_of_all_finds():
    rng = np.random.default_rng(2)
    vertices = rng.uniform(-1, 1, (300, 3)).astype(np.float32)
    faces = rng.integers(0, 300, (200, 3))
    tree = bvh.tree_of(vertices, faces)
    assert sorted(tree.faces.tolist()) == list(range(200))
    instances, _ = placed([((1, 1, 1), (0, 0, 0), 0.0)])
    instances = instances._replace(
        corners=tree.corners,
        boxes=tree.boxes,
        links=tree.links,
        bounds=np.array([[-2, -2, -2, 2, 2, 2]], np.float32),
    )
    stack = np.empty(64, np.int32)
    hits = 0
    for _ in range(200):
        origin, aim = rng.normal(0, 3, 3), rng.uniform(-0.5, 0.5, 3)
        ray = (aim - origin) / np.linalg.norm(aim - origin)
        numbers = [np.float32(value) for value in (*origin, *ray)]
        t, instance, _ = bvh.cast(instances, stack, *numbers, np.float32(100), False)
        corner = vertices[faces].astype(np.float64)
        edges = corner[:, 1:] - corner[:, :1]
        systems = np.stack([np.repeat(-ray[None], 200, 0), edges[:, 0], edges[:, 1]], axis=-1)
        solid = np.abs(np.linalg.det(systems)) > 1e-9
        solved = np.linalg.solve(systems[solid], (origin - corner[solid, 0])[..., None])[..., 0]
        met = (solved[:, 1:] >= 0).all(axis=1) & (solved[:, 1:].sum(axis=1) <= 1)
        met &= solved[:, 0] > 0
        nearest = solved[met, 0].min() if met.any() else np.inf
        if np.isfinite(nearest):
            hits += 1
            assert t == pytest.approx(nearest, abs=1e-3)
        else:
            assert instance == -1
    assert hits > 50


def test_the_axes_are_those_of_the_known_room():
    """room_a is a box of these sides with things in it: none is behind the box, most see it."""
    low, high = np.array([-2.6, -3.0, -1.6]), np.array([3.8, 2.2, 1.4])
    with np.load(GOLDEN / "panorama" / "room_a.npz") as arrays:
        known = arrays["depth"]
    _, distance, _ = paint(scene(high - low, -low), *known.shape, 0.25)
    # In corners, values of the file are means over 2 x 2 pixels of the fixture.
    assert np.quantile(known - distance, 0.99) < 2e-3
    assert (known - distance).max() < 0.03
    assert (np.abs(known - distance) < 1e-3).mean() > 0.85
    # In the mirror, walls would stand in front of what the file sees.
    assert np.quantile(known - distance[:, ::-1], 0.99) > 0.5
