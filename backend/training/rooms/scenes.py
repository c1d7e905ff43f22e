"""From a number to a room that can be painted: its plan, colours, light, and its caption."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import bvh, surfaces
from .furnishings import TRAINING, Furnishing, linear
from .painting import FURNITURE, Lights, Scene, paint
from .plan import Piece, Plan
from .recipes import ROOMS, plan_room
from .surfaces import Shell

WALL_COLOURS = {
    "white": (0.92, 0.91, 0.89),
    "cream": (0.93, 0.88, 0.76),
    "beige": (0.82, 0.74, 0.62),
    "grey": (0.68, 0.68, 0.69),
    "light blue": (0.66, 0.78, 0.87),
    "blue": (0.34, 0.48, 0.68),
    "green": (0.56, 0.68, 0.52),
    "dark green": (0.24, 0.36, 0.29),
    "yellow": (0.93, 0.82, 0.50),
    "orange": (0.88, 0.60, 0.36),
    "pink": (0.90, 0.72, 0.72),
    "red": (0.62, 0.25, 0.22),
    "lilac": (0.74, 0.68, 0.84),
    "brown": (0.52, 0.40, 0.31),
}
"""Names and sRGB."""

_WALL_CHANCES = (0.2, 0.13, 0.1, 0.1, 0.08, 0.06, 0.07, 0.03, 0.06, 0.04, 0.04, 0.03, 0.03, 0.03)
_WOODS = ((0.75, 0.55, 0.35), (0.55, 0.36, 0.20), (0.36, 0.22, 0.13), (0.80, 0.68, 0.52),
          (0.62, 0.58, 0.53))  # fmt: skip
_TILES = ((0.88, 0.87, 0.84), (0.60, 0.60, 0.60), (0.72, 0.60, 0.48), (0.35, 0.36, 0.38))
_TINTED = {"sofa", "corner sofa", "armchair", "double bed", "single bed", "chair", "office chair",
           "wardrobe", "cupboard", "bookcase", "chest of drawers"}  # fmt: skip
_LAMPS = {"hanging lamp", "table lamp", "floor lamp", "desk lamp"}
_UNSPOKEN = {"books", "candle", "letter tray", "speaker", "wall cupboard", "door", "curtains"}
_MANY = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_PLURALS = {
    "shelves": "shelves", "flowers": "bunches of flowers", "bowl of fruit": "bowls of fruit",
    "chest of drawers": "chests of drawers",
}  # fmt: skip
_LEAST_SEEN = {"window": 0.004, "picture": 0.0025, "mirror": 0.002, "rug": 0.006}
_LEAST = 0.0025
"""Of the whole sphere, to be spoken of."""


@dataclass(frozen=True, eq=False)
class Room:
    """A furnished room. light: "day" or "evening"."""

    name: str
    plan: Plan
    walls: str
    floor: str
    light: str
    scene: Scene

    @cached_property
    def models(self) -> list[str]:
        """Ids of the models that stand in it."""
        return [self.plan.furniture[piece.model].model.id for piece in self.plan.pieces]


@dataclass(frozen=True, eq=False)
class Panorama:
    """colours: (H, W, 3) uint8 sRGB. distance: (H, W) float32 metres, inf for sky. caption."""

    colours: np.ndarray
    distance: np.ndarray
    caption: str


class Store:
    """Furniture of one side with the trees that rays need, made when first asked for."""

    def __init__(self, furniture: Sequence[Furnishing]) -> None:
        self.furniture = list(furniture)
        self._trees: dict[int, bvh.Tree] = {}

    def tree(self, number: int) -> bvh.Tree:
        """Of the furnishing of this number."""
        if number not in self._trees:
            item = self.furniture[number]
            self._trees[number] = bvh.tree_of(item.vertices, item.faces)
        return self._trees[number]


def room(store: Store, side: str, number: int) -> Room:
    """Room `number` of a side, furnished from `store`, which must hold that side's furniture."""
    rng = np.random.default_rng([int(side == TRAINING), number, 5])
    names = list(ROOMS)
    chances = np.array([ROOMS[name][0] for name in names])
    name = str(rng.choice(names, p=chances / chances.sum()))
    while True:
        plan = plan_room(rng, store.furniture, name)
        eye = plan.eye()
        if eye is not None and len(plan.pieces) >= 2:
            return _dressed(store, plan, name, eye)


def panorama(room: Room, height: int = 256) -> Panorama:
    """The picture of a room all around, twice as wide as high."""
    rng = np.random.default_rng([int(1e6 * room.plan.width), int(1e6 * room.plan.depth), height])
    low, high = (0.2, 0.34) if room.light == "day" else (0.13, 0.24)
    colours, distance, thing = paint(room.scene, height, 2 * height, rng.uniform(low, high))
    picture = np.rint(255 * srgb(colours)).astype(np.uint8)
    return Panorama(picture, distance.astype(np.float32), caption(room, thing, distance, rng))


def srgb(values: np.ndarray) -> np.ndarray:
    """Linear 0 to 1 -> sRGB."""
    bent = 1.055 * np.maximum(values, 1e-9) ** (1 / 2.4) - 0.055
    return np.where(values <= 0.0031308, 12.92 * values, bent)


# ----------------------------------------------------------------------------------------- dressing


def _dressed(store: Store, plan: Plan, name: str, eye: tuple[float, float, float]) -> Room:
    rng = plan.rng
    day = bool(rng.uniform() < 0.78) and bool(plan.windows())
    walls = str(rng.choice(list(WALL_COLOURS), p=np.array(_WALL_CHANCES) / sum(_WALL_CHANCES)))
    floor, floor_look = _floor(rng, name)
    looks = [*_wall_looks(rng, name, walls, len(plan.walls)), floor_look, _ceiling(rng)]
    things = [(thing.surface, *thing.box, thing.kind, *thing.numbers, 0.0) for thing in plan.things]
    shell = Shell(
        np.array([(w.axis, w.at, w.low, w.high, w.sign) for w in plan.walls], np.float64),
        plan.height,
        np.array(looks, np.float64),
        np.array(things, np.float64).reshape(-1, 17),
        _sky(rng, day),
    )
    placed, colours = _placed(store, plan)
    warm = np.array([1.0, 0.82, 0.58]) if rng.uniform() < 0.7 else np.array([1.0, 0.94, 0.86])
    scene = Scene(
        shell,
        placed,
        colours,
        _glow(plan, day, warm),
        _lights(rng, plan, day, warm),
        np.array(eye),
        float(rng.uniform(-math.pi, math.pi)),
    )
    return Room(name, plan, walls, floor, "day" if day else "evening", scene)


def _look(kind: int, *numbers: float) -> tuple[float, ...]:
    return (kind, *numbers, *(0.0,) * (13 - len(numbers)))


def _rgb(colour: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    red, green, blue = linear(np.clip(colour, 0, 1)).tolist()
    return red, green, blue


def _floor(rng: np.random.Generator, name: str) -> tuple[str, tuple[float, ...]]:
    kinds = ["wooden floor", "tiled floor", "carpet", "parquet floor"]
    wet = name in ("bathroom", "kitchen")
    kind = str(rng.choice(kinds, p=(0.25, 0.7, 0.0, 0.05) if wet else (0.5, 0.12, 0.2, 0.18)))
    if kind == "tiled floor":
        base = np.array(_TILES[int(rng.integers(len(_TILES)))])
        checker = float(rng.uniform() < 0.25)
        other = base * (rng.uniform(0.2, 0.5) if checker else 0.92)
        size = float(rng.choice([0.2, 0.33, 0.45, 0.6]))
        return kind, _look(
            surfaces.TILES, *_rgb(base), *_rgb(other), *_rgb(base * 0.75), size, size, checker
        )
    if kind == "carpet":
        return kind, _look(
            surfaces.CARPET, *_rgb(rng.uniform(0.3, 0.75) * (1 + rng.uniform(-0.3, 0.3, 3)))
        )
    wood = np.array(_WOODS[int(rng.integers(len(_WOODS)))]) * rng.uniform(0.85, 1.1)
    other = wood * rng.uniform(0.78, 0.92)
    if kind == "parquet floor":
        block = float(rng.choice([0.3, 0.45]))
        return kind, _look(
            surfaces.PARQUET, *_rgb(wood), *_rgb(other), *_rgb(wood), block / 5, block
        )
    across = float(rng.uniform() < 0.5)
    wide = float(rng.uniform(0.09, 0.2))
    return kind, _look(surfaces.PLANKS, *_rgb(wood), *_rgb(other), *_rgb(wood), wide, 1.4, across)


def _wall_looks(
    rng: np.random.Generator, name: str, colour: str, walls: int
) -> list[tuple[float, ...]]:
    base = np.array(WALL_COLOURS[colour]) * rng.uniform(0.94, 1.04)
    skirting = float(rng.choice([0.0, 0.7, 0.75]))
    dark = base * rng.uniform(0.8, 0.92)
    kind = str(rng.choice(["plain", "stripes", "panelled", "dots"], p=(0.72, 0.1, 0.1, 0.08)))
    if name in ("bathroom", "kitchen") and rng.uniform() < (0.85 if name == "bathroom" else 0.4):
        tile = np.array(_TILES[int(rng.choice([0, 0, 0, 1, 2]))])
        high = float(rng.choice([1.3, 2.0, 3.5]))
        size = float(rng.choice([0.15, 0.2, 0.3]))
        look = _look(
            surfaces.TILED_BELOW, *_rgb(base), *_rgb(tile * 0.9 + base * 0.1), *_rgb(tile * 0.8),
            high, size, size * float(rng.choice([0.5, 1, 1.5])),
        )  # fmt: skip
        return [look] * walls
    if kind == "stripes":
        look = _look(surfaces.STRIPES, *_rgb(base), *_rgb(dark), *_rgb(base), rng.uniform(0.1, 0.5),
                     0.5, 0.0, skirting)  # fmt: skip
    elif kind == "panelled":
        low = (0.85, 0.84, 0.82) if rng.uniform() < 0.6 else _WOODS[int(rng.integers(3))]
        look = _look(surfaces.PANELLED, *_rgb(base), *_rgb(low), *_rgb(np.array(low) * 0.8),
                     rng.uniform(0.8, 1.1), 0.0, 0.0, skirting)  # fmt: skip
    elif kind == "dots":
        look = _look(surfaces.DOTS, *_rgb(base), *_rgb(dark), *_rgb(base), rng.uniform(0.12, 0.3),
                     0.25, 0.0, skirting)  # fmt: skip
    else:
        look = _look(surfaces.PLAIN, *_rgb(base), *(0.0,) * 9, skirting)
    looks = [look] * walls
    accent = rng.uniform()
    if accent < 0.15:
        looks[int(rng.integers(walls))] = _look(
            surfaces.PLAIN, *_rgb(base * rng.uniform(0.55, 0.8)), *(0.0,) * 9, skirting
        )
    elif accent < 0.2:
        brick = np.array([0.62, 0.34, 0.25]) * rng.uniform(0.8, 1.2)
        looks[int(rng.integers(walls))] = _look(
            surfaces.BRICKS, *_rgb(brick), *_rgb(brick * 0.8), 0.45, 0.43, 0.4, 0.0, 0.0, 0.0, 0.0
        )
    return looks


def _ceiling(rng: np.random.Generator) -> tuple[float, ...]:
    tone = rng.uniform(0.86, 0.95)
    if rng.uniform() < 0.08:
        wood = np.array(_WOODS[int(rng.integers(len(_WOODS)))])
        return _look(surfaces.PLANKS, *_rgb(wood), *_rgb(wood * 0.9), *_rgb(wood), 0.15, 2.0, 0.0)
    return _look(surfaces.PLAIN, *_rgb((tone, tone, tone * rng.uniform(0.97, 1.0))))


def _sky(rng: np.random.Generator, day: bool) -> np.ndarray:
    overcast = rng.uniform() < 0.3
    zenith = np.array([0.55, 0.6, 0.66] if overcast else [0.18, 0.38, 0.8])
    horizon = np.array([0.8, 0.82, 0.84] if overcast else [0.75, 0.85, 0.95])
    ground = np.array([[0.2, 0.28, 0.1], [0.32, 0.31, 0.29], [0.5, 0.45, 0.36]])[rng.integers(3)]
    trees = np.array([0.08, 0.16, 0.05]) * rng.uniform(0.6, 1.5)
    light = rng.uniform(1.6, 2.4) if day else rng.uniform(0.02, 0.12)
    blue = np.ones(3) if day else np.array([0.6, 0.8, 1.3])
    colours = np.concatenate([colour * light * blue for colour in (zenith, horizon, ground, trees)])
    return np.concatenate([colours, [rng.uniform(0.0, 0.25), rng.integers(1000)]])


# ---------------------------------------------------------------------------------------- furniture


def _placed(store: Store, plan: Plan) -> tuple[bvh.Placed, np.ndarray]:
    """Everything that stands in the room, and the colours of its triangles (T, 3)."""
    pieces = plan.pieces
    trees = [store.tree(piece.model) for piece in pieces]
    tints: dict[int, np.ndarray] = {}
    colours = []
    for piece, tree in zip(pieces, trees, strict=True):
        if piece.model not in tints:
            tints[piece.model] = _tinted(plan.rng, piece, store.furniture[piece.model].colours)
        colours.append(tints[piece.model][tree.faces])
    nodes = np.cumsum([0, *(len(tree.boxes) for tree in trees)])
    starts = np.cumsum([0, *(len(tree.corners) for tree in trees)])
    turns = np.array([(math.cos(piece.turn), math.sin(piece.turn)) for piece in pieces])
    boxes = [(p.box.x0, p.box.y0, p.box.z0, p.box.x1, p.box.y1, p.box.z1) for p in pieces]
    placed = bvh.Placed(
        np.concatenate([tree.corners for tree in trees]),
        np.concatenate([tree.boxes for tree in trees]),
        np.concatenate([tree.links for tree in trees]),
        nodes[:-1].astype(np.int32),
        starts[:-1].astype(np.int32),
        turns.astype(np.float32),
        np.array([(piece.x, piece.y, piece.z) for piece in pieces], np.float32),
        np.ones(len(pieces), np.float32),
        (np.array(boxes) + np.repeat([-1e-3, 1e-3], 3)).astype(np.float32),
        np.array([piece.kind not in _LAMPS for piece in pieces]),
    )
    return placed, np.concatenate(colours)


def _tinted(rng: np.random.Generator, piece: Piece, colours: np.ndarray) -> np.ndarray:
    """The colours of a model, of some kinds often dyed: one design serves as many."""
    colours = np.clip(colours * rng.uniform(0.85, 1.15), 0.015, 0.85)
    if piece.kind in _TINTED and rng.uniform() < 0.5:
        bright = colours @ np.array([0.3, 0.6, 0.1], np.float32)
        dye = rng.uniform(0.15, 1.0, 3)
        dye /= dye @ [0.3, 0.6, 0.1]
        share = rng.uniform(0.3, 0.7)
        tone = rng.uniform(0.5, 1.3)
        colours = (1 - share) * colours + share * tone * bright[:, None] * dye
    return np.clip(colours, 0.015, 0.85).astype(np.float32)


# -------------------------------------------------------------------------------------------- light


def _glow(plan: Plan, day: bool, warm: np.ndarray) -> np.ndarray:
    """Light of the lamps themselves, 0 for what is no lamp or is switched off."""
    glow = np.zeros((len(plan.pieces), 3), np.float32)
    for number, piece in enumerate(plan.pieces):
        if piece.kind in _LAMPS and not day:
            glow[number] = warm * (2.0 if piece.kind == "hanging lamp" else 1.4)
    return glow


def _lights(rng: np.random.Generator, plan: Plan, day: bool, warm: np.ndarray) -> Lights:
    lamps = []
    for piece in plan.pieces:
        if piece.kind in _LAMPS and not day:
            hanging = piece.kind == "hanging lamp"
            # Not right under the ceiling, where all would be a bright spot.
            low = min(piece.box.z0 - 0.05, plan.height - 0.45)
            high = low if hanging else piece.box.z1 + 0.08
            power = 2.6 if hanging else 0.35
            lamps.append((piece.x, piece.y, high, 0.18 if hanging else 0.1, *(power * warm)))
    if not lamps and not (day and plan.windows()):
        place = (0.45 * plan.width, 0.45 * plan.depth, plan.height - 0.4)
        lamps.append((*place, 0.25, *(2.6 * warm)))
    panes = []
    tint = np.array([0.85, 0.95, 1.1]) if rng.uniform() < 0.6 else np.array([1.0, 0.98, 0.94])
    for window in plan.windows():
        wall = plan.walls[window.surface]
        light = (6.0 if day else 0.08) * tint
        panes.append((wall.axis, wall.at, *window.box, *light))
    sunny = bool(day and panes and rng.uniform() < 0.55)
    around, up = rng.uniform(-math.pi, math.pi), math.radians(rng.uniform(18, 55))
    if sunny:
        # Through one of the windows, so that it is seen.
        wall = plan.walls[plan.windows()[int(rng.integers(len(panes)))].surface]
        around = math.atan2(-wall.normal[1], -wall.normal[0]) + rng.uniform(-0.9, 0.9)
    direction = (math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up))
    strength = rng.uniform(3.0, 6.0)
    sun = (*direction, *(strength * np.array([1.0, 0.9, 0.72])), float(sunny))
    glass = sum(
        (thing.box[1] - thing.box[0]) * (thing.box[3] - thing.box[2]) for thing in plan.windows()
    )
    reflected = 0.25 + 0.12 * glass if day else 0.3
    ambient = reflected * (tint if day else warm)
    return Lights(
        np.array(lamps, np.float64).reshape(-1, 7),
        np.array(panes, np.float64).reshape(-1, 9),
        np.array(sun),
        np.array(ambient, np.float64),
    )


# -------------------------------------------------------------------------------------------- words


def caption(room: Room, thing: np.ndarray, distance: np.ndarray, rng: np.random.Generator) -> str:
    """What a picture shows, in words; only what is seen in it. thing: (H, W) as `paint` gives."""
    shares = seen_shares(room, thing, distance)
    counts: Counter[str] = Counter()
    weights: dict[str, float] = {}
    for word, share in shares:
        if word not in _UNSPOKEN and share >= _LEAST_SEEN.get(word, _LEAST):
            counts[word] += 1
            weights[word] = weights.get(word, 0.0) + share
    spoken = sorted(weights, key=lambda word: -weights[word])[: int(rng.integers(4, 8))]
    phrases = [_counted(word, counts[word]) for word in spoken]
    around = f"{room.walls} walls" if rng.uniform() < 0.85 else ""
    below = f"a {room.floor}" if rng.uniform() < 0.6 else ""
    phrases += [phrase for phrase in (around, below) if phrase]
    light = {"day": "", "evening": " in the evening"}[room.light]
    listed = ", ".join(phrases[:-1]) + (" and " if len(phrases) > 1 else "") + "".join(phrases[-1:])
    article = "an" if room.name[0] in "aeio" else "a"
    return f"360 view of {article} {room.name}{light}" + (f" with {listed}" if listed else "")


def seen_shares(room: Room, thing: np.ndarray, distance: np.ndarray) -> list[tuple[str, float]]:
    """Of each piece of furniture and flat thing: what it is called, its share of the sphere."""
    height, width = thing.shape
    weight = np.sin(np.pi * (np.arange(height) + 0.5) / height)
    weight = np.repeat(weight[:, None], width, 1) / (weight.sum() * width)
    pieces = np.bincount(
        np.where(thing >= FURNITURE, thing - FURNITURE, len(room.plan.pieces)).ravel(),
        weight.ravel(),
        len(room.plan.pieces) + 1,
    )
    found = [(p.kind, float(s)) for p, s in zip(room.plan.pieces, pieces, strict=False)]
    places = _places(room.scene, thing, distance)
    for flat in room.plan.things:
        floor = flat.surface == len(room.plan.walls)
        vertical = not floor and room.plan.walls[flat.surface].axis == 0
        along = places[..., 1] if vertical else places[..., 0]
        up = places[..., 1] if floor else places[..., 2]
        inside = (
            (thing == flat.surface)
            & (along >= flat.box[0])
            & (along <= flat.box[1])
            & (up >= flat.box[2])
            & (up <= flat.box[3])
        )
        found.append((flat.word, float(weight[inside].sum())))
    return found


def _places(scene: Scene, thing: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(H, W, 3) where pixels look at; through a window, where its pane is."""
    height, width = thing.shape
    phi = 2 * np.pi * (0.5 - (np.arange(width) + 0.5) / width) + scene.turn
    theta = np.pi * (0.5 - (np.arange(height) + 0.5) / height)
    direction = np.stack(
        [
            np.cos(theta)[:, None] * np.cos(phi),
            np.cos(theta)[:, None] * np.sin(phi),
            np.repeat(np.sin(theta)[:, None], width, 1),
        ],
        axis=-1,
    )
    reach = distance.copy()
    for number, wall in enumerate(scene.shell.walls):
        panes = (thing == number) & ~np.isfinite(distance)
        axis = int(wall[0])
        reach[panes] = (wall[1] - scene.eye[axis]) / direction[panes][:, axis]
    reach[~np.isfinite(reach)] = 0.0
    return scene.eye + reach[..., None] * direction


def _counted(word: str, count: int) -> str:
    if count == 1:
        if word in ("shelves", "flowers"):
            return word
        return ("an " if word[0] in "aeio" else "a ") + word
    return f"{_MANY.get(count, 'many')} {_PLURALS.get(word, word + 's')}"
