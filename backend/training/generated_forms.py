"""Families of abstract and technical forms. Each makes a solid and says what it is."""

from __future__ import annotations

import math

import numpy as np

from .solids import (
    Profile,
    Solid,
    ball,
    box,
    circle,
    column,
    cone,
    cylinder,
    difference,
    ellipsoid,
    extrusion,
    half_space,
    intersection,
    lathe,
    loft,
    mirrored,
    moved,
    polygon,
    rectangle,
    regular,
    repeated,
    rods,
    shell,
    smooth_union,
    star,
    stroke,
    torus,
    turned,
    twisted,
    union,
)

Made = tuple[Solid, str]
Rng = np.random.Generator

_CORNERS = {3: "triangular", 4: "square", 5: "pentagonal", 6: "hexagonal", 8: "octagonal"}


def _pick(rng: Rng, *choices: str) -> str:
    return choices[int(rng.integers(len(choices)))]


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}"


def _primitive(rng: Rng, size: float) -> Made:
    """About `size` large."""
    a, b, c = size * rng.uniform(0.5, 1.0, 3)
    kind = int(rng.integers(9))
    corners = int(rng.choice([3, 5, 6, 8]))
    made: list[Made] = [
        (box((2 * a, 2 * b, 2 * c)), "a box"),
        (box((2 * a, 2 * b, 2 * c), 0.35 * min(a, b, c)), "a rounded box"),
        (cylinder(a, 2 * b), "a cylinder"),
        (moved(cone(a, 0, 2 * b), 0, -b), "a cone"),
        (ellipsoid((a, b, c)), "an ellipsoid"),
        (ball(a), "a ball"),
        (torus(0.8 * a, 0.3 * b), "a ring"),
        (column(polygon(regular(corners, a)), 2 * b), _with_article(f"{_CORNERS[corners]} prism")),
        (extrusion(polygon([(-a, -b), (a, -b), (-a, b)]), 2 * c), "a wedge"),
    ]
    return made[kind]


def primitive(rng: Rng) -> Made:
    solid, caption = _primitive(rng, 0.8)
    if rng.random() < 0.4 and caption != "a ball":
        axis = int(rng.integers(3))
        solid = turned(solid, axis, float(rng.uniform(20, 90)))
        caption += ", tilted"
    return solid, caption


def drilled(rng: Rng) -> Made:
    """A body with something taken away."""
    solid, caption = _primitive(rng, 0.8)
    kind = int(rng.integers(4))
    axis = int(rng.integers(3))
    if kind == 0:
        hole = turned(cylinder(rng.uniform(0.15, 0.35), 4), axis, 90)
        return difference(solid, hole), f"{caption} with a round hole"
    if kind == 1:
        width = rng.uniform(0.25, 0.5)
        hole = turned(box((width, 4, width)), axis, 90)
        return difference(solid, hole), f"{caption} with a square hole"
    if kind == 2:
        corner = moved(box((0.9, 0.9, 0.9)), *rng.choice([-0.6, 0.6], 3))
        return difference(solid, corner), f"{caption} with a corner cut out"
    bite = moved(ball(rng.uniform(0.4, 0.6)), *(0.7 * _direction(rng)))
    return difference(solid, bite), f"{caption} with a round hollow"


def combined(rng: Rng) -> Made:
    """Two to four primitives joined, sharply or smoothly."""
    count = int(rng.integers(2, 5))
    solids, names = [], []
    at = np.zeros(3)
    for _ in range(count):
        solid, name = _primitive(rng, rng.uniform(0.3, 0.6))
        solids.append(moved(solid, *at))
        names.append(name)
        at = at + 0.5 * _direction(rng)
    if rng.random() < 0.5:
        return union(*solids), " and ".join(names)
    return smooth_union(0.25, *solids), " and ".join(names) + ", smoothly joined"


def common_part(rng: Rng) -> Made:
    first, name = _primitive(rng, 0.9)
    second, other = _primitive(rng, 0.9)
    second = turned(second, int(rng.integers(3)), float(rng.uniform(20, 90)))
    return intersection(first, second), f"the common part of {name} and {other}"


def prism(rng: Rng) -> Made:
    """Columns, straight, twisted or tapered, with or without a bore."""
    corners = int(rng.choice([3, 4, 5, 6, 8]))
    height = rng.uniform(0.8, 2.2)
    solid = column(polygon(regular(corners, 0.6)), height)
    words = [_CORNERS[corners], "prism"]
    bore = rng.random() < 0.4
    if bore:
        solid = difference(solid, cylinder(0.27, 4))
    if rng.random() < 0.6:
        solid = twisted(solid, rng.uniform(30, 110) / height * 1.2, 0.65)
        words.insert(0, "twisted")
    elif rng.random() < 0.6:
        solid = twisted(solid, 0, 0.65, rng.uniform(0.3, 0.7) / height)
        words.insert(0, "tapered")
    return solid, _with_article(" ".join(words)) + (" with a hole" if bore else "")


_TURNED: dict[str, list[tuple[float, float]]] = {
    # Radius and height of the outline from the foot upwards.
    "vase": [(0.28, 0), (0.45, 0.35), (0.5, 0.65), (0.25, 1.1), (0.2, 1.25), (0.32, 1.45)],
    "bowl": [(0.25, 0), (0.3, 0.05), (0.6, 0.2), (0.78, 0.5)],
    "bottle": [(0.3, 0), (0.32, 0.1), (0.32, 0.8), (0.25, 1.0), (0.1, 1.15), (0.1, 1.5)],
    "flower pot": [(0.32, 0), (0.45, 0.75), (0.52, 0.76), (0.53, 0.95)],
    "bucket": [(0.36, 0), (0.5, 0.9)],
    "plate": [(0.3, 0), (0.45, 0.03), (0.8, 0.14)],
}
_MASSIVE: dict[str, list[tuple[float, float]]] = {
    "chess pawn": [(0.4, 0), (0.4, 0.12), (0.3, 0.2), (0.15, 0.6), (0.25, 0.66), (0.12, 0.75)],
    "spinning top": [(0.02, 0), (0.55, 0.45), (0.55, 0.55), (0.1, 0.65), (0.08, 1.0)],
    "baluster": [(0.3, 0), (0.3, 0.1), (0.15, 0.2), (0.32, 0.6), (0.12, 1.2), (0.25, 1.4)],
    "bowling pin": [(0.22, 0), (0.36, 0.5), (0.16, 1.0), (0.2, 1.2), (0.12, 1.38)],
    "door knob": [(0.35, 0), (0.35, 0.06), (0.12, 0.1), (0.12, 0.35), (0.36, 0.5), (0.3, 0.75)],
}


def _curve(points: np.ndarray, count: int = 40) -> np.ndarray:
    """A smooth curve (count, K) through points (N, K): Catmull and Rom's."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    places = np.linspace(0, len(points) - 1 - 1e-9, count)
    k = places.astype(int)
    t = (places - k)[:, None]
    a, b, c, d = (padded[k + offset] for offset in range(4))
    return (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    ) / 2


def turned_vessel(rng: Rng) -> Made:
    """Bowls, vases, bottles: hollow, open above."""
    name = _pick(rng, *_TURNED)
    outline = np.array(_TURNED[name]) * [rng.uniform(0.8, 1.25), rng.uniform(0.8, 1.25)]
    outline[1:] *= rng.uniform(0.92, 1.08, (len(outline) - 1, 1))
    outer = _curve(outline)
    outer[:, 0] = np.maximum(outer[:, 0], 0.05)
    wall = rng.uniform(0.05, 0.08)
    inner = outer[::-1] - [wall, 0]
    inner = np.maximum(inner, [0.0, wall * 1.3])
    closed = np.concatenate([[[0, 0]], outer, inner, [[0, wall * 1.3]]])
    return lathe(polygon(closed)), f"a {name}"


def turned_body(rng: Rng) -> Made:
    """Massive things from a lathe."""
    name = _pick(rng, *_MASSIVE)
    outline = np.array(_MASSIVE[name]) * [rng.uniform(0.8, 1.2), rng.uniform(0.85, 1.2)]
    curve = _curve(outline) if name != "spinning top" else outline
    curve = np.maximum(curve, [0.02, -1])
    top = float(curve[-1, 1])
    closed = np.concatenate([[[0, curve[0, 1]]], curve, [[0, top]]])
    solid = lathe(polygon(closed))
    if name == "chess pawn":
        solid = union(solid, moved(ball(0.24), 0, top + 0.16))
    if name == "bowling pin":
        solid = smooth_union(0.05, solid, moved(ball(float(curve[-1, 0])), 0, top))
    return solid, f"a {name}"


def tube(rng: Rng) -> Made:
    """Sweeps of a circle: springs, knots, pipes, hooks."""
    kind = int(rng.integers(5))
    if kind == 0:
        turns, radius = rng.uniform(3, 7), rng.uniform(0.35, 0.6)
        t = np.linspace(0, 1, int(20 * turns))
        angle = 2 * math.pi * turns * t
        height = rng.uniform(0.9, 1.6)
        places = np.stack([radius * np.cos(angle), height * t, radius * np.sin(angle)], axis=1)
        return rods(places, min(0.1, 0.3 * height / turns)), "a coil spring"
    if kind == 1:
        p, q = ((2, 3), (3, 2), (2, 5), (3, 4))[int(rng.integers(4))]
        t = np.linspace(0, 2 * math.pi, 140)
        r = 0.7 + 0.3 * np.cos(q * t)
        places = np.stack([r * np.cos(p * t), 0.35 * np.sin(q * t), r * np.sin(p * t)], axis=1)
        return rods(places, rng.uniform(0.07, 0.11)), "a knot" if q == 3 else "a knotted ring"
    if kind == 2:
        # From one axis to another, so that there is a bend at each corner.
        axes = np.cumsum(rng.integers(1, 3, 5)) % 3
        corners = np.cumsum(np.eye(3)[axes] * rng.uniform(0.4, 0.8, (5, 1)), axis=0)
        corners -= corners.mean(axis=0)
        return rods(_curve(corners, 60), rng.uniform(0.08, 0.15)), "a bent pipe"
    if kind == 3:
        angle = np.linspace(-0.9 * math.pi, 0.45 * math.pi, 40)
        bow = np.stack([0.4 * np.cos(angle), 0.4 * np.sin(angle), 0 * angle], axis=1)
        shaft = [[bow[-1, 0], bow[-1, 1], 0], [0, 0.9, 0], [0, rng.uniform(1.1, 1.6), 0]]
        hook = rods(np.concatenate([bow, shaft]), rng.uniform(0.07, 0.11))
        return hook, "a hook"
    count = int(rng.integers(3, 6))
    links = []
    for k in range(count):
        link = _link(0.09)
        links.append(moved(turned(link, 1, 90 * (k % 2)), 0, 0.62 * k - 0.31 * count))
    return union(*links), f"a chain of {count} links"


def _link(thickness: float) -> Solid:
    angle = np.linspace(0, 2 * math.pi, 40)
    places = np.stack([0.22 * np.cos(angle), 0.4 * np.sin(angle), 0 * angle], axis=1)
    return rods(places, thickness)


_SECTIONS = ("square", "circle", "triangle", "star", "cross", "hexagon")


def _section(name: str, size: float) -> Profile:
    if name == "circle":
        return circle(size)
    if name == "square":
        return rectangle(1.6 * size, 1.6 * size)
    if name == "cross":
        arm, half = size, size / 3
        first, second = rectangle(2 * arm, 2 * half), rectangle(2 * half, 2 * arm)
        return lambda x, y: np.minimum(first(x, y), second(x, y))
    corners = {"triangle": 3, "hexagon": 6, "star": 5}[name]
    return polygon(star(corners, size, 0.45 * size if name == "star" else None))


def lofted(rng: Rng) -> Made:
    first, second = rng.choice(len(_SECTIONS), 2, replace=False)
    names = _SECTIONS[int(first)], _SECTIONS[int(second)]
    height = rng.uniform(0.9, 1.8)
    sizes = rng.uniform(0.4, 0.8, 2)
    bottom, top = _section(names[0], sizes[0]), _section(names[1], sizes[1])
    solid = loft(bottom, top, height, steepest=1.5 * 0.8 / height)
    return solid, f"a body that goes from a {names[0]} to a {names[1]}"


def gear(rng: Rng) -> Made:
    teeth = int(rng.integers(8, 21))
    depth = rng.uniform(0.15, 0.4)
    wheel = cylinder(0.75, depth)
    width = 2 * math.pi * 0.85 / teeth / 2
    tooth = moved(box((0.3, depth, width)), 0.82)
    solid = difference(union(wheel, repeated(tooth, teeth)), cylinder(rng.uniform(0.1, 0.25), 2))
    if rng.random() < 0.5:
        spokes = int(rng.integers(4, 7))
        solid = difference(solid, repeated(moved(cylinder(0.14, 2), 0.47), spokes))
    return turned(solid, 0, float(rng.choice([0, 90]))), f"a gear with {teeth} teeth"


def flat_sign(rng: Rng) -> Made:
    """Extruded outlines."""
    depth = rng.uniform(0.12, 0.5)
    kind = int(rng.integers(5))
    if kind == 0:
        count = int(rng.integers(4, 9))
        outline = polygon(star(count, 0.9, rng.uniform(0.35, 0.6)))
        return extrusion(outline, depth), f"a star with {count} points"
    if kind == 1:
        head, shaft = rng.uniform(0.4, 0.6), rng.uniform(0.12, 0.25)
        corners = [(-1, -shaft), (0.2, -shaft), (0.2, -head), (1, 0), (0.2, head), (0.2, shaft)]
        return extrusion(polygon([*corners, (-1, shaft)]), depth), "an arrow"
    if kind == 2:
        t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
        x = np.sin(t) ** 3
        y = (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
        return extrusion(polygon(np.stack([x, y], axis=1)), depth), "a heart"
    if kind == 3:
        outer, inner = circle(0.9), circle(0.75)
        shift = np.float32(rng.uniform(0.3, 0.45))
        crescent: Profile = lambda x, y: np.maximum(outer(x, y), -inner(x - shift, y))  # noqa: E731
        return extrusion(crescent, depth), "a crescent moon"
    arm = rng.uniform(0.2, 0.35)
    cross: Profile = lambda x, y: np.minimum(  # noqa: E731
        rectangle(2 * arm, 2)(x, y), rectangle(1.6, 2 * arm)(x, y)
    )
    return extrusion(cross, depth), "a cross"


# Strokes on a grid of 2 x 4, lines of each letter separated by a space.
_STROKES = {
    "A": "00,14,20 a,b", "B": "00,04,14,23,12,02 12,21,10,00", "C": "24,04,00,20",
    "D": "00,04,14,23,21,10,00", "E": "24,04,00,20 02,22", "F": "24,04,00 02,22",
    "G": "24,04,00,20,22,12", "H": "00,04 20,24 02,22", "I": "10,14", "J": "24,20,00,01",
    "K": "00,04 24,02,20", "L": "04,00,20", "M": "00,04,12,24,20", "N": "00,04,20,24",
    "O": "00,04,24,20,00", "P": "00,04,24,22,02", "Q": "00,04,24,20,00 11,20", "R":
    "00,04,24,22,02 12,20", "S": "24,04,02,22,20,00", "T": "04,24 14,10", "U": "04,00,20,24",
    "V": "04,10,24", "W": "04,00,12,20,24", "X": "00,24 04,20", "Y": "04,12,24 12,10",
    "Z": "04,24,00,20",
}  # fmt: skip


def letters(rng: Rng) -> Made:
    """One to three letters of a stroke font, standing."""
    count = int(rng.integers(1, 4))
    word = "".join(_pick(rng, *_STROKES) for _ in range(count))
    width, depth = rng.uniform(0.22, 0.42), rng.uniform(0.2, 0.6)
    profiles = [
        _letter(letter, width, 1.4 * (k - (count - 1) / 2)) for k, letter in enumerate(word)
    ]
    outline: Profile = lambda x, y: np.minimum.reduce([one(x, y) for one in profiles])  # noqa: E731
    return extrusion(outline, depth), f"the letter{'s' * (count > 1)} {' '.join(word)}"


def _letter(letter: str, width: float, offset: float) -> Profile:
    lines = [
        stroke([_place(name, offset) for name in line.split(",")], width)
        for line in _STROKES[letter].split()
    ]
    return lambda x, y: np.minimum.reduce([line(x, y) for line in lines])


def _place(name: str, offset: float) -> tuple[float, float]:
    """A node of the grid, "x" and "y"; the ends of the bar of an A lie between nodes."""
    x, y = {"a": (0.4, 1.6), "b": (1.6, 1.6)}.get(name) or (int(name[0]), int(name[1]))
    return 0.5 * (x - 1) + offset, 0.45 * (y - 2)


def rock(rng: Rng) -> Made:
    """Convex lumps of flat faces, or lumps grown together."""
    if rng.random() < 0.5:
        count = int(rng.integers(8, 22))
        stretch = rng.uniform(0.6, 1.0, 3)
        planes = [
            half_space(_direction(rng) / stretch, float(rng.uniform(0.55, 0.8)))
            for _ in range(count)
        ]
        return intersection(ball(1.0), *planes), "a rock with flat faces"
    count = int(rng.integers(4, 10))
    lumps = [
        moved(ball(float(rng.uniform(0.2, 0.45))), *(0.5 * _direction(rng))) for _ in range(count)
    ]
    return smooth_union(0.3, ball(0.35), *lumps), "a blob of rounded lumps"


def lattice(rng: Rng) -> Made:
    """Frames and grids of rods."""
    kind = int(rng.integers(3))
    thickness = rng.uniform(0.05, 0.1)
    if kind == 0:
        size = rng.uniform(0.7, 1.6, 3)
        frame = union(
            *(
                moved(
                    box(
                        [size[a] + 2 * thickness if a == axis else 2 * thickness for a in range(3)]
                    ),
                    *[0 if a == axis else size[a] / 2 for a in range(3)],
                )
                for axis in range(3)
            )
        )
        return mirrored(mirrored(mirrored(frame, 0), 1), 2), "a box-shaped frame of bars"
    if kind == 1:
        columns, rows = rng.integers(3, 7, 2)
        bars = [moved(cylinder(thickness * 0.7, 1.6), x) for x in np.linspace(-0.8, 0.8, columns)]
        bars += [
            moved(turned(cylinder(thickness * 0.7, 1.6), 2, 90), 0, y)
            for y in np.linspace(-0.8, 0.8, rows)
        ]
        return union(*bars), f"a grid of {columns} by {rows} bars"
    hollow = shell(ball(0.9), rng.uniform(0.1, 0.2))
    count = int(rng.integers(3, 8))
    cut = repeated(moved(turned(cylinder(0.22, 2), 2, 90), 1), count)
    return difference(hollow, cut, cylinder(0.4, 3)), f"a hollow ball with {count + 2} holes"


def hardware(rng: Rng) -> Made:
    """Bolts, nuts, washers, dumbbells, hammers, brackets."""
    kind = int(rng.integers(6))
    r = rng.uniform(0.15, 0.28)
    if kind == 0:
        head = moved(column(polygon(regular(6, 1.9 * r)), 0.3), 0, 0.75)
        return union(cylinder(r, 1.5), head), "a bolt with a hexagonal head"
    if kind == 1:
        nut = difference(column(polygon(regular(6, 0.8)), rng.uniform(0.3, 0.7)), cylinder(0.4, 2))
        return nut, "a hexagonal nut"
    if kind == 2:
        ring = difference(cylinder(0.8, rng.uniform(0.1, 0.3)), cylinder(rng.uniform(0.3, 0.6), 2))
        return ring, "a washer"
    if kind == 3:
        ends = mirrored(moved(cylinder(0.4, 0.35, 0.05), 0, 0.6), 1)
        return turned(union(cylinder(0.12, 1.2), ends), 2, 90), "a dumbbell"
    if kind == 4:
        head = union(box((0.4, 0.3, 0.3)), moved(turned(cylinder(0.2, 0.25), 2, 90), 0.3))
        claw = moved(extrusion(polygon([(0, 0.15), (0, -0.15), (-0.6, -0.2)]), 0.26), -0.2)
        handle = moved(cylinder(0.08, 1.5, 0.04), 0, -0.75)
        return union(head, claw, handle), "a hammer"
    plate = box((1.2, 0.15, 0.7))
    wall = moved(box((0.15, 0.9, 0.7)), -0.525, 0.4)
    holes = mirrored(moved(cylinder(0.1, 1), 0.25, 0, 0.2), 2)
    return difference(union(plate, wall), holes), "an angle bracket with two holes"


def _direction(rng: Rng) -> np.ndarray:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


FAMILIES = (
    primitive, drilled, combined, common_part, prism, turned_vessel, turned_body, tube, lofted,
    gear, flat_sign, letters, rock, lattice, hardware,
)  # fmt: skip
