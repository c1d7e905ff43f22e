"""Where things stand: a floor plan, and furniture in it that touches nothing it should not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .furnishings import Furnishing
from .surfaces import DOOR, WINDOW

TALL = 100.0
_TRIES = 24
_HUNG = {"washbasin", "towel rail"}
_GAP = 0.03
"""Between a piece and its wall or neighbour, metres."""


@dataclass(frozen=True)
class Box:
    """An upright box, metres in the room."""

    x0: float
    y0: float
    x1: float
    y1: float
    z0: float = 0.0
    z1: float = TALL

    def meets(self, other: Box, gap: float = 0.0) -> bool:
        """Whether they overlap, or come nearer than `gap` sideways."""
        return (
            self.x0 < other.x1 + gap
            and other.x0 < self.x1 + gap
            and self.y0 < other.y1 + gap
            and other.y0 < self.y1 + gap
            and self.z0 < other.z1
            and other.z0 < self.z1
        )


@dataclass(frozen=True)
class Wall:
    """axis: 0 where x is fixed at `at`, 1 where y is; from `low` to `high` along the other; sign:
    of the normal inwards."""

    axis: int
    at: float
    low: float
    high: float
    sign: int

    @property
    def normal(self) -> tuple[float, float]:
        """Inwards."""
        return (float(self.sign), 0.0) if self.axis == 0 else (0.0, float(self.sign))

    @property
    def turn(self) -> float:
        """Radians about z for what has its back to this wall."""
        return math.atan2(self.normal[0], -self.normal[1])

    def strip(
        self, begin: float, end: float, deep: float, low: float = 0.0, high: float = TALL
    ) -> Box:
        """What lies before a part of it."""
        a, b = sorted((self.at, self.at + self.sign * deep))
        if self.axis == 0:
            return Box(a, begin, b, end, low, high)
        return Box(begin, a, end, b, low, high)

    def point(self, along: float, away: float) -> tuple[float, float]:
        """A place at `along` it, `away` from it."""
        off = self.at + self.sign * away
        return (off, along) if self.axis == 0 else (along, off)


@dataclass(frozen=True)
class Piece:
    """A placed furnishing: its number in the list, its middle on the floor, height, turn, box."""

    model: int
    kind: str
    x: float
    y: float
    z: float
    turn: float
    box: Box
    top: float


@dataclass(frozen=True)
class Thing:
    """Something flat on a surface (`surfaces.Shell.things`)."""

    surface: int
    box: tuple[float, float, float, float]
    kind: int
    numbers: tuple[float, ...]
    word: str = ""


@dataclass
class Plan:
    """A room while it is furnished. width along x, depth along y; a corner may be cut out at the
    high end of both (an L)."""

    rng: np.random.Generator
    furniture: list[Furnishing]
    width: float
    depth: float
    height: float
    cut: tuple[float, float] = (0.0, 0.0)
    pieces: list[Piece] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)
    chosen: dict[str, int] = field(default_factory=dict)
    walls: list[Wall] = field(init=False)

    def __post_init__(self) -> None:
        w, d, (a, b) = self.width, self.depth, self.cut
        self.walls = [Wall(0, 0.0, 0.0, d, 1), Wall(1, 0.0, 0.0, w, 1)]
        if a and b:
            self.walls += [
                Wall(0, w, 0.0, d - b, -1),
                Wall(1, d - b, w - a, w, -1),
                Wall(0, w - a, d - b, d, -1),
                Wall(1, d, 0.0, w - a, -1),
            ]
            self.taken.append(Box(w - a, d - b, w, d))
        else:
            self.walls += [Wall(0, w, 0.0, d, -1), Wall(1, d, 0.0, w, -1)]

    # -------------------------------------------------------------------------------- furniture

    def model(self, kind: str, same: bool = True) -> int | None:
        """A furnishing of a kind, by its number; the same one every time unless not `same`."""
        if same and kind in self.chosen:
            return self.chosen[kind]
        fitting = [k for k, item in enumerate(self.furniture) if item.model.kind == kind]
        if not fitting:
            return None
        number = int(self.rng.choice(fitting))
        self.chosen.setdefault(kind, number)
        return number

    def size(self, model: int, turn: float) -> tuple[float, float, float]:
        """Its extent along x, y, z when turned by quarters."""
        low, high = self._extent(model)
        x, y, z = high - low
        return (y, x, z) if round(turn / (math.pi / 2)) % 2 else (x, y, z)

    def _hung(self, model: int) -> float:
        """Where the underside of a model is: of a basin without a foot, say."""
        item = self.furniture[model].model
        return item.elevation if item.kind in _HUNG else 0.0

    def _extent(self, model: int) -> tuple[np.ndarray, np.ndarray]:
        vertices = self.furniture[model].vertices
        return vertices.min(axis=0).astype(float), vertices.max(axis=0).astype(float)

    def fits(self, box: Box, gap: float = 0.0) -> bool:
        """Whether a box lies in the room and meets nothing."""
        inside = (
            box.x0 >= -1e-9
            and box.y0 >= -1e-9
            and box.x1 <= self.width + 1e-9
            and box.y1 <= self.depth + 1e-9
            and box.z1 <= self.height
        )
        return inside and not any(box.meets(other, gap) for other in self.taken)

    def put(
        self, kind: str, model: int, x: float, y: float, turn: float, z: float = 0.0,
        on: Box | None = None,
    ) -> Piece | None:  # fmt: skip
        """Stand a model with its middle at (x, y), if it fits. on: what it may stand above."""
        wide, deep, high = self.size(model, turn)
        box = Box(x - wide / 2, y - deep / 2, x + wide / 2, y + deep / 2, z, z + high)
        if on is None and not self.fits(box):
            return None
        if on is not None and (
            not (on.x0 <= box.x0 and box.x1 <= on.x1 and on.y0 <= box.y0 and box.y1 <= on.y1)
            or box.z1 > self.height
            or any(box.meets(p.box) for p in self.pieces if p.z > 0)
        ):
            return None
        top = self.furniture[model].model.top
        piece = Piece(model, kind, x, y, z, turn, box, z + top)
        self.pieces.append(piece)
        self.taken.append(box)
        return piece

    def at_wall(
        self, kind: str, walls: list[int] | None = None, *, same: bool = True, middle: bool = False,
        high: float = 0.0, gap: float = _GAP,
    ) -> Piece | None:  # fmt: skip
        """Stand one with its back to a wall. middle: near the wall's middle.

        high: of its underside, where it hangs higher than its kind does by itself.
        """
        model = self.model(kind, same)
        if model is None:
            return None
        for _ in range(_TRIES):
            number = int(self.rng.choice(walls or range(len(self.walls))))
            wall = self.walls[number]
            wide, deep, _ = self.size(model, 0.0)
            room = wall.high - wall.low - wide - 2 * _GAP
            if room < 0:
                continue
            share = self.rng.uniform(0.3, 0.7) if middle else self.rng.uniform()
            along = wall.low + _GAP + wide / 2 + share * room
            piece = self.put(
                kind,
                model,
                *wall.point(along, gap + deep / 2),
                wall.turn,
                max(high, self._hung(model)),
            )
            if piece:
                return piece
        return None

    def wall_of(self, piece: Piece) -> int:
        """The wall that a piece has its back to, the nearest of those."""
        same = [
            (abs((piece.x, piece.y)[wall.axis] - wall.at), number)
            for number, wall in enumerate(self.walls)
            if abs(math.sin((wall.turn - piece.turn) / 2)) < 0.1
        ]
        return min(same)[1]

    def facing(self, piece: Piece) -> list[int]:
        """Walls that the front of a piece looks at."""
        ahead = (math.sin(piece.turn), -math.cos(piece.turn))
        return [
            number
            for number, wall in enumerate(self.walls)
            if ahead[0] * wall.normal[0] + ahead[1] * wall.normal[1] < -0.9
        ]

    def beside(self, kind: str, anchor: Piece, side: int, gap: float = 0.05) -> Piece | None:
        """Stand one next to another along its wall, backs in line. side: -1 or 1."""
        model = self.model(kind)
        if model is None:
            return None
        wide, deep, _ = self.size(model, 0.0)
        own, own_deep, _ = self.size(anchor.model, 0.0)
        across = side * (own / 2 + gap + wide / 2)
        back = (own_deep - deep) / 2
        return self.put(kind, model, *self._from(anchor, across, back), anchor.turn)

    def before(
        self, kind: str, anchor: Piece, gap: float, *, across: float = 0.0, faces_it: bool = False,
        same: bool = True,
    ) -> Piece | None:  # fmt: skip
        """Stand one in front of another. faces_it: turned to it rather than as it is."""
        model = self.model(kind, same)
        if model is None:
            return None
        _, deep, _ = self.size(model, 0.0)
        _, own_deep, _ = self.size(anchor.model, 0.0)
        place = self._from(anchor, across, -(own_deep / 2 + gap + deep / 2))
        return self.put(kind, model, *place, anchor.turn + (math.pi if faces_it else 0.0))

    def around(self, kind: str, table: Piece, chance: float) -> None:
        """Chairs at the four sides of a table, turned to it."""
        model = self.model(kind)
        if model is None:
            return
        wide, deep, _ = self.size(model, 0.0)
        for quarter in range(4):
            turn = table.turn + quarter * math.pi / 2
            long, across, _ = self.size(table.model, quarter * math.pi / 2)
            many = max(1, int(long / (wide + 0.15))) if quarter % 2 == 0 else 1
            for seat in range(min(many, 3)):
                if self.rng.uniform() > chance:
                    continue
                s = (seat - (min(many, 3) - 1) / 2) * long / max(min(many, 3), 1)
                out = across / 2 + self.rng.uniform(0.02, 0.12) + deep / 2
                x = table.x + s * math.cos(turn) + out * math.sin(turn)
                y = table.y + s * math.sin(turn) - out * math.cos(turn)
                self.put(kind, model, x, y, turn + math.pi)

    def on_top(
        self, kind: str, anchor: Piece, *, spread: float = 0.8, turn: float | None = None,
        same: bool = False, back: float = 0.0,
    ) -> Piece | None:  # fmt: skip
        """Stand one on another. back: how far from its middle towards its back, 0 to 1."""
        model = self.model(kind, same)
        if model is None or anchor.top <= anchor.z:
            return None
        own, own_deep, _ = self.size(anchor.model, 0.0)
        for _ in range(6):
            across = self.rng.uniform(-0.5, 0.5) * spread * own
            along = (back * 0.5 + (1 - back) * self.rng.uniform(-0.5, 0.5) * spread) * own_deep
            _, deep, _ = self.size(model, 0.0)
            if back:
                along = min(along, own_deep / 2 - deep / 2 - 0.01)
            quarters = anchor.turn if turn is None else anchor.turn + turn
            place = self._from(anchor, across, along)
            piece = self.put(kind, model, *place, quarters, anchor.top + 1e-3, on=anchor.box)
            if piece:
                return piece
        return None

    def _from(self, anchor: Piece, across: float, back: float) -> tuple[float, float]:
        c, s = math.cos(anchor.turn), math.sin(anchor.turn)
        return anchor.x + c * across - s * back, anchor.y + s * across + c * back

    def in_middle(self, kind: str, clear: float) -> Piece | None:
        """Stand one freely, with `clear` metres around it as far as possible."""
        model = self.model(kind)
        if model is None:
            return None
        for _ in range(_TRIES):
            turn = math.pi / 2 * int(self.rng.integers(4))
            wide, deep, high = self.size(model, turn)
            x = self.rng.uniform(0.2, 0.8) * self.width
            y = self.rng.uniform(0.2, 0.8) * self.depth
            space = Box(
                x - wide / 2 - clear, y - deep / 2 - clear, x + wide / 2 + clear,
                y + deep / 2 + clear, 0.0, high,
            )  # fmt: skip
            if self.fits(space):
                return self.put(kind, model, x, y, turn)
            clear *= 0.95
        return None

    def in_corner(self, kind: str, same: bool = False) -> Piece | None:
        """Stand one near a corner of the room."""
        model = self.model(kind, same)
        if model is None:
            return None
        for _ in range(_TRIES):
            wall = self.walls[int(self.rng.integers(len(self.walls)))]
            wide, deep, _ = self.size(model, wall.turn)
            reach = max(wide, deep) / 2 + 0.06
            if wall.high - wall.low < 2 * reach:
                continue
            along = wall.low + reach if self.rng.uniform() < 0.5 else wall.high - reach
            piece = self.put(kind, model, *wall.point(along, reach), wall.turn)
            if piece:
                return piece
        return None

    def hang(self, kind: str) -> Piece | None:
        """Hang a lamp from the middle of the ceiling; a long one is shortened by the ceiling."""
        model = self.model(kind)
        if model is None:
            return None
        wide, deep, high = self.size(model, 0.0)
        x = (self.width - self.cut[0] * 0.5) / 2 + self.rng.uniform(-0.2, 0.2)
        y = (self.depth - self.cut[1] * 0.5) / 2 + self.rng.uniform(-0.2, 0.2)
        z = self.height - high - 1e-3
        box = Box(x - wide / 2, y - deep / 2, x + wide / 2, y + deep / 2, z, z + high)
        if z < 1.7 or not self.fits(box):
            return None
        piece = Piece(model, kind, x, y, z, 0.0, box, -1.0)
        self.pieces.append(piece)
        self.taken.append(box)
        return piece

    # -------------------------------------------------------------------------------- openings

    def open_wall(
        self,
        kind: int,
        size: tuple[float, float],
        sill: float,
        numbers: tuple[float, ...],
        word: str,
        walls: list[int] | None = None,
    ) -> Thing | None:
        """A window or a door in a wall, with what must stay free before it."""
        for _ in range(_TRIES):
            number = int(self.rng.choice(walls or range(len(self.walls))))
            wall = self.walls[number]
            room = wall.high - wall.low - size[0] - 0.3
            if room < 0 or sill + size[1] > self.height - 0.08:
                continue
            begin = wall.low + 0.15 + self.rng.uniform() * room
            end = begin + size[0]
            deep = 0.85 if kind == DOOR else 0.3
            free = wall.strip(begin, end, deep, max(0.0, sill - 0.05), sill + size[1])
            thin = wall.strip(begin - 0.1, end + 0.1, 0.02, max(0.0, sill), sill + size[1])
            if not self.fits(free) or not self.fits(thin):
                continue
            thing = Thing(number, (begin, end, sill, sill + size[1]), kind, numbers, word)
            self.things.append(thing)
            self.taken.append(free)
            return thing
        return None

    def hang_flat(self, kind: int, wall: int, box: tuple[float, float, float, float],
                  numbers: tuple[float, ...], word: str) -> Thing | None:  # fmt: skip
        """Something flat on a wall where nothing stands before it or hangs already."""
        surface = self.walls[wall]
        begin, end, low, high = box
        if begin < surface.low + 0.05 or end > surface.high - 0.05 or high > self.height - 0.05:
            return None
        if not self.fits(surface.strip(begin, end, 0.06, low, high)):
            return None
        if any(
            thing.surface == wall
            and begin < thing.box[1]
            and thing.box[0] < end
            and low < thing.box[3]
            and thing.box[2] < high
            for thing in self.things
        ):
            return None
        thing = Thing(wall, box, kind, numbers, word)
        self.things.append(thing)
        return thing

    def hang_over(
        self, kind: int, wall: int, box: tuple[float, float, float, float],
        numbers: tuple[float, ...], word: str,
    ) -> None:  # fmt: skip
        """Something flat on a wall, over what hangs there."""
        self.things.append(Thing(wall, box, kind, numbers, word))
        surface = self.walls[wall]
        self.taken.append(surface.strip(box[0], box[1], 0.02, box[2], box[3]))

    def lay(self, kind: int, box: tuple[float, float, float, float], numbers: tuple[float, ...],
            word: str) -> None:  # fmt: skip
        """Something flat on the floor; furniture may stand on it."""
        self.things.append(Thing(len(self.walls), box, kind, numbers, word))

    def windows(self) -> list[Thing]:
        """The windows so far."""
        return [thing for thing in self.things if thing.kind == WINDOW]

    # -------------------------------------------------------------------------------- the eye

    def eye(self) -> tuple[float, float, float] | None:
        """A place to look from: a person's height, away from walls and furniture; None if there is
        none."""
        standing = [piece.box for piece in self.pieces if piece.z < 1.7]
        best: list[tuple[float, float, float]] = []
        for _ in range(80):
            x = self.rng.uniform(0.5, self.width - 0.5)
            y = self.rng.uniform(0.5, self.depth - 0.5)
            boxes = [*standing, *self.taken[:1]] if self.cut[0] else standing
            free = min(
                [x, y, self.width - x, self.depth - y]
                + [
                    math.hypot(max(b.x0 - x, 0.0, x - b.x1), max(b.y0 - y, 0.0, y - b.y1))
                    for b in boxes
                ]
            )
            if free > 0.4:
                best.append((min(free, 1.0) + 0.3 * self.rng.uniform(), x, y))
        if not best:
            return None
        _, x, y = max(best)
        return x, y, float(np.clip(self.rng.normal(1.5, 0.1), 1.2, 1.7))
