"""Rooms with furniture of boxes, for tests that need no catalogue."""

from __future__ import annotations

import numpy as np

from backend.training.rooms import surfaces
from backend.training.rooms.bvh import Placed, tree_of
from backend.training.rooms.furnishings import Furnishing, Model
from backend.training.rooms.painting import Lights, Scene
from backend.training.rooms.surfaces import Shell

SIZES = {
    "double bed": (1.6, 2.0, 0.6), "wardrobe": (1.5, 0.6, 2.0), "sofa": (2.0, 0.9, 0.8),
    "coffee table": (1.0, 0.6, 0.4), "armchair": (0.8, 0.8, 0.9), "bookcase": (1.0, 0.35, 1.8),
    "dining table": (1.6, 0.9, 0.75), "chair": (0.45, 0.5, 0.9), "desk": (1.3, 0.6, 0.75),
    "office chair": (0.6, 0.6, 1.0), "bath": (1.7, 0.7, 0.6), "washbasin": (0.6, 0.45, 0.9),
    "toilet": (0.4, 0.6, 0.8), "cupboard": (0.6, 0.6, 0.88), "fridge": (0.6, 0.6, 1.7),
    "stove": (0.6, 0.6, 0.88), "single bed": (0.9, 2.0, 0.5), "table lamp": (0.3, 0.3, 0.5),
    "bedside table": (0.45, 0.4, 0.5), "hanging lamp": (0.4, 0.4, 0.4), "vase": (0.2, 0.2, 0.3),
    "chest of drawers": (1.0, 0.5, 0.8), "plant": (0.5, 0.5, 1.0), "pool table": (2.4, 1.3, 0.8),
    "treadmill": (0.8, 1.8, 1.3), "exercise bike": (0.6, 1.2, 1.2), "cot": (0.6, 1.2, 0.8),
}  # fmt: skip


def box(size):
    """Vertices and faces of a box on z = 0, x and y centred."""
    corners = np.array([(x, y, z) for z in (0, 1) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
    quads = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    faces = [(a, b, c) for a, b, c, d in quads] + [(a, c, d) for a, b, c, d in quads]
    return (corners * size).astype(np.float32), np.array(faces, np.int32)


def furniture(side="train"):
    """One furnishing of each kind of SIZES."""
    found = []
    for number, (kind, size) in enumerate(SIZES.items()):
        vertices, faces = box(size)
        colours = np.full((len(faces), 3), 0.1 + 0.02 * number, np.float32)
        model = Model(f"test#{kind}", kind, side, f"{kind}, nobody, CC0-1.0", size, 0.0, size[2])
        found.append(Furnishing(model, vertices, faces, colours))
    return found


def placed(boxes):
    """Boxes (size, place, turn) as instances; colours of their triangles."""
    trees = [tree_of(*box(size)) for size, _, _ in boxes]
    nodes = np.cumsum([0, *(len(tree.boxes) for tree in trees)])
    starts = np.cumsum([0, *(len(tree.corners) for tree in trees)])
    reach = [np.linalg.norm(size) for size, _, _ in boxes]
    places = np.array([place for _, place, _ in boxes], np.float32).reshape(-1, 3)
    around = np.array(reach, np.float32)[:, None]

    def joined(parts, shape, dtype):
        return np.concatenate([np.zeros((0, *shape), dtype), *parts]).astype(dtype)

    instances = Placed(
        joined([tree.corners for tree in trees], (3, 3), np.float32),
        joined([tree.boxes for tree in trees], (6,), np.float32),
        joined([tree.links for tree in trees], (2,), np.int32),
        nodes[:-1].astype(np.int32),
        starts[:-1].astype(np.int32),
        np.array([(np.cos(t), np.sin(t)) for _, _, t in boxes], np.float32).reshape(-1, 2),
        places,
        np.ones(len(boxes), np.float32),
        np.concatenate([places - around, places + around], axis=1),
        np.ones(len(boxes), bool),
    )
    return instances, np.full((starts[-1], 3), 0.5, np.float32)


def scene(size, eye, boxes=(), things=(), turn=0.0):
    """A room from (0, 0, 0) to `size` with plain walls, boxes and flat things, seen from `eye`."""
    wide, deep, high = size
    walls = [(0, 0, 0, deep, 1), (1, 0, 0, wide, 1), (0, wide, 0, deep, -1), (1, deep, 0, wide, -1)]
    looks = np.zeros((6, 14))
    looks[:, 1:4] = np.linspace(0.2, 0.8, 6)[:, None]
    shell = Shell(
        np.array(walls, np.float64),
        float(high),
        looks,
        np.array(things, np.float64).reshape(-1, 17),
        np.array([*[0.2, 0.4, 0.9], *[0.7, 0.8, 0.9], *[0.3] * 3, *[0.1] * 3, 0.1, 3.0]),
    )
    instances, colours = placed(list(boxes))
    lamp = np.array([[wide / 2, deep / 2, high * 0.8, 0.1, 2.0, 2.0, 2.0]])
    lights = Lights(lamp, np.zeros((0, 9)), np.array([0, 0, 1, 0, 0, 0, 0.0]), np.full(3, 0.3))
    glow = np.zeros((len(boxes), 3), np.float32)
    return Scene(shell, instances, colours, glow, lights, np.array(eye, float), float(turn))


def window(wall, along, up):
    """A row of Shell.things: a window without bars."""
    return (wall, *along, *up, surfaces.WINDOW, *[0.8] * 6, 1.0, 1.0, 0.0, 0.0, 0.0)
