"""Which rooms there are, and what stands in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .furnishings import Furnishing
from .plan import Piece, Plan
from .surfaces import CURTAIN, DOOR, MIRROR, PICTURE, RUG, WINDOW

Furnish = Callable[[Plan], None]


def _likely(plan: Plan, chance: float) -> bool:
    return bool(plan.rng.uniform() < chance)


def _colour(plan: Plan, low: float = 0.05, high: float = 0.7) -> tuple[float, float, float]:
    """Some linear colour, rarely a shrill one."""
    tone = plan.rng.uniform(low, high)
    tint = 1 + plan.rng.uniform(-0.5, 0.5, 3)
    red, green, blue = np.clip(tone * tint, 0.02, 0.85)
    return float(red), float(green), float(blue)


# ------------------------------------------------------------------------------ flat things


def openings(plan: Plan, windows: tuple[int, int]) -> None:
    """A door, and between `windows` many windows, some with curtains."""
    paint = (0.75, 0.74, 0.7) if _likely(plan, 0.6) else (0.28, 0.15, 0.07)
    rim = (0.8, 0.8, 0.78) if _likely(plan, 0.5) else paint
    panels = float(plan.rng.integers(1, 5))
    plan.open_wall(DOOR, (0.95, 2.08), 0.0, (*paint, *rim, panels, 0.0, 0.0, 0.0), "door")
    frame = (0.8, 0.8, 0.8) if _likely(plan, 0.7) else (0.2, 0.11, 0.05)
    full = _likely(plan, 0.2)
    width = float(plan.rng.uniform(0.8, 2.4))
    sill = 0.05 if full else float(plan.rng.uniform(0.75, 1.05))
    height = float(min(plan.height - 0.25, 2.25) - sill)
    bars = (float(round(width / 0.8)), 1.0 if full or _likely(plan, 0.6) else 2.0)
    hung = _likely(plan, 0.45)
    cloth = _colour(plan)
    for _ in range(int(plan.rng.integers(windows[0], windows[1] + 1))):
        opened = plan.open_wall(
            WINDOW, (width, height), sill, (*frame, *frame, *bars, 0.0, 0.0), "window"
        )
        if opened and hung:
            _curtains(plan, opened.surface, opened.box, cloth)


def _curtains(
    plan: Plan, wall: int, box: tuple[float, float, float, float], cloth: tuple[float, ...]
) -> None:
    begin, end, _, high = box
    wide = 0.18 + 0.12 * (end - begin)
    bottom = 0.04 if _likely(plan, 0.7) else box[2] - 0.1
    top = min(high + 0.12, plan.height - 0.06)
    seed = float(plan.rng.integers(1000))
    for a, b in ((begin - wide + 0.06, begin + 0.06), (end - 0.06, end + wide - 0.06)):
        surface = plan.walls[wall]
        a, b = max(a, surface.low + 0.02), min(b, surface.high - 0.02)
        numbers = (*cloth, *cloth, 0.0, 0.0, seed, 0.0)
        before = surface.strip(a, b, 0.06, bottom, top)
        if b - a > 0.1 and not any(before.meets(piece.box) for piece in plan.pieces):
            plan.hang_over(CURTAIN, wall, (a, b, bottom, top), numbers, "curtains")


def rug(plan: Plan, x: float, y: float, wide: float, deep: float) -> None:
    """A rug with its middle at (x, y), cut off at the walls."""
    box = (
        max(0.08, x - wide / 2),
        min(plan.width - 0.08, x + wide / 2),
        max(0.08, y - deep / 2),
        min(plan.depth - 0.08, y + deep / 2),
    )
    a, b = plan.cut
    if a and box[1] > plan.width - a and box[3] > plan.depth - b:
        return
    style = float(plan.rng.integers(0, 5))
    numbers = (*_colour(plan, 0.08, 0.5), *_colour(plan, 0.08, 0.6), 0.0, style)
    plan.lay(RUG, box, (*numbers, float(plan.rng.integers(1000)), 0.0), "rug")


def _rug_under(plan: Plan, piece: Piece, margin: float, chance: float) -> None:
    if _likely(plan, chance):
        wide, deep, _ = plan.size(piece.model, piece.turn)
        rug(plan, piece.x, piece.y, wide + 2 * margin, deep + 2 * margin)


def pictures(plan: Plan, most: int) -> None:
    """Up to so many pictures on free places of the walls."""
    frame = _colour(plan, 0.02, 0.5)
    for _ in range(int(plan.rng.integers(0, most + 1))):
        for _ in range(8):
            number = int(plan.rng.integers(len(plan.walls)))
            wall = plan.walls[number]
            wide, high = float(plan.rng.uniform(0.3, 1.1)), float(plan.rng.uniform(0.3, 0.8))
            if wall.high - wall.low < wide:
                continue
            begin = float(plan.rng.uniform(wall.low, wall.high - wide))
            low = 1.55 - high / 2 + float(plan.rng.uniform(0, 0.15))
            style, seed = float(plan.rng.integers(0, 3)), float(plan.rng.integers(10_000))
            numbers = (*_colour(plan), *frame, 0.03, style, seed, 0.0)
            if plan.hang_flat(PICTURE, number, (begin, begin + wide, low, low + high), numbers,
                              "picture"):  # fmt: skip
                break


def _mirror_over(plan: Plan, piece: Piece, wide: float, low: float, high: float) -> None:
    number = plan.wall_of(piece)
    along = piece.y if plan.walls[number].axis == 0 else piece.x
    frame = _colour(plan, 0.05, 0.6)
    numbers = (*frame, *frame, 0.0, 0.0, float(plan.rng.integers(1000)), 0.0)
    box = (along - wide / 2, along + wide / 2, low, high)
    plan.hang_flat(MIRROR, number, box, numbers, "mirror")


# -------------------------------------------------------------------------------- furniture


def _seats(plan: Plan) -> None:
    kind = "corner sofa" if _likely(plan, 0.25) else "sofa"
    sofa = plan.at_wall(kind, middle=True) or plan.at_wall("sofa")
    if sofa is None:
        for _ in range(2):
            plan.at_wall("armchair")
        return
    table = plan.before("coffee table", sofa, plan.rng.uniform(0.35, 0.5))
    if table:
        _rug_under(plan, table, 0.5, 0.7)
        for kind, chance in (("books", 0.4), ("vase", 0.2), ("flowers", 0.3), ("candle", 0.2)):
            if _likely(plan, chance):
                plan.on_top(kind, table)
        if _likely(plan, 0.35):
            plan.before("armchair", table, 0.45, faces_it=True)
    opposite = plan.facing(sofa)
    stand = plan.at_wall("TV stand", opposite, middle=True) if _likely(plan, 0.65) else None
    if stand:
        plan.on_top("television", stand, spread=0.1)
        if _likely(plan, 0.3):
            plan.beside("speaker", stand, -1)
            plan.beside("speaker", stand, 1)
    elif _likely(plan, 0.4):
        plan.at_wall("fireplace", opposite, middle=True)
    for side in (-1, 1):
        if _likely(plan, 0.35):
            lamp = "floor lamp" if _likely(plan, 0.4) else "plant"
            plan.beside(lamp, sofa, side, 0.12)


def living_room(plan: Plan) -> None:
    """Sofa, table, television or fireplace, shelves."""
    _seats(plan)
    for _ in range(int(plan.rng.integers(0, 3))):
        plan.at_wall("bookcase" if _likely(plan, 0.7) else "shelves", same=False)
    for _ in range(int(plan.rng.integers(0, 3))):
        plan.at_wall("armchair")
    if _likely(plan, 0.12):
        plan.in_corner("grand piano")
    if _likely(plan, 0.25):
        chest = plan.at_wall("chest of drawers")
        if chest:
            plan.on_top("vase" if _likely(plan, 0.5) else "table lamp", chest, spread=0.5)
    if _likely(plan, 0.1):
        plan.at_wall("aquarium", high=0.0)
    _greens_and_heat(plan, 0.6, 0.3)


def bedroom(plan: Plan) -> None:
    """A bed with what stands beside it, a wardrobe."""
    bed = plan.at_wall("double bed" if _likely(plan, 0.75) else "single bed", middle=True)
    if bed:
        for side in (-1, 1) if _likely(plan, 0.6) else (int(plan.rng.choice([-1, 1])),):
            table = plan.beside("bedside table", bed, side)
            if table and _likely(plan, 0.7):
                plan.on_top("table lamp", table, spread=0.2, same=True)
        if _likely(plan, 0.5):
            wide, deep, _ = plan.size(bed.model, bed.turn)
            rug(plan, bed.x, bed.y, wide + 1.2, deep + 0.8)
    plan.at_wall("wardrobe")
    if _likely(plan, 0.5):
        chest = plan.at_wall("chest of drawers")
        if chest and _likely(plan, 0.5):
            plan.on_top("vase" if _likely(plan, 0.5) else "flowers", chest, spread=0.6)
    if _likely(plan, 0.25):
        plan.at_wall("dressing table")
    if _likely(plan, 0.3):
        _desk(plan)
    if _likely(plan, 0.35):
        plan.at_wall("armchair" if _likely(plan, 0.6) else "chair")
    if _likely(plan, 0.15):
        plan.at_wall("clothes rack")
    _greens_and_heat(plan, 0.3, 0.3)


def childrens_room(plan: Plan) -> None:
    """A small bed and toys."""
    plan.at_wall("cot" if _likely(plan, 0.3) else "single bed")
    plan.at_wall("wardrobe" if _likely(plan, 0.6) else "chest of drawers")
    table = plan.in_middle("small table", 0.3)
    if table:
        plan.around("small chair", table, 0.7)
    else:
        plan.at_wall("small chair")
    x, y = plan.width / 2, plan.depth / 2
    rug(plan, x, y, plan.rng.uniform(1.2, 2.2), plan.rng.uniform(1.2, 2.2))
    for kind, chance in (("rocking horse", 0.6), ("doll house", 0.5), ("cardboard box", 0.2)):
        if _likely(plan, chance):
            plan.at_wall(kind, gap=0.1)
    if _likely(plan, 0.6):
        plan.at_wall("shelves")
    if _likely(plan, 0.3):
        _desk(plan)
    _greens_and_heat(plan, 0.2, 0.3)


def dining_room(plan: Plan) -> None:
    """A table with chairs around it."""
    table = plan.in_middle("dining table", 0.8)
    if table:
        plan.around("chair", table, 0.9)
        _rug_under(plan, table, 0.6, 0.35)
        for kind, chance in (("flowers", 0.4), ("bowl of fruit", 0.4), ("candle", 0.3)):
            if _likely(plan, chance):
                plan.on_top(kind, table, spread=0.5)
    for _ in range(int(plan.rng.integers(1, 4))):
        kind = str(plan.rng.choice(["chest of drawers", "bookcase", "shelves", "chair"]))
        piece = plan.at_wall(kind, same=False)
        if piece and kind == "chest of drawers":
            plan.on_top("vase", piece)
    if _likely(plan, 0.2):
        plan.at_wall("fireplace", middle=True)
    _greens_and_heat(plan, 0.7, 0.3)


def kitchen(plan: Plan) -> None:
    """A row of cupboards with stove and sink along one wall or two, a table."""
    anchor = plan.at_wall("cupboard")
    row = [anchor] if anchor else []
    wanted = ["sink", "cupboard", "stove", "cupboard", "fridge", "washing machine"]
    for kind in (str(kind) for kind in plan.rng.permutation(wanted)):
        placed = None
        for piece, side in [(row[-1], 1), (row[0], -1)] if row else []:
            placed = plan.beside(kind, piece, side, 0.005)
            if placed:
                row = [*row, placed] if side > 0 else [placed, *row]
                break
        if placed is None and kind != "cupboard":
            placed = plan.at_wall(kind)
        if placed and kind == "stove" and _likely(plan, 0.7):
            _over(plan, placed, "cooker hood", 1.6)
    for piece in row:
        if piece.kind in ("cupboard", "sink") and _likely(plan, 0.6):
            _over(plan, piece, "wall cupboard", 1.45)
        if piece.kind == "cupboard" and _likely(plan, 0.4):
            kind = str(plan.rng.choice(["coffee machine", "microwave", "bowl of fruit"]))
            plan.on_top(kind, piece, spread=0.3)
    if _likely(plan, 0.2) and (island := plan.in_middle("kitchen island", 0.7)):
        plan.around("bar stool", island, 0.5)
    elif _likely(plan, 0.6) and (table := plan.in_middle("dining table", 0.65)):
        plan.around("chair", table, 0.75)
        if _likely(plan, 0.5):
            plan.on_top("bowl of fruit", table, spread=0.5)
    _greens_and_heat(plan, 0.3, 0.4)


def _over(plan: Plan, piece: Piece, kind: str, high: float) -> None:
    """Hang one at the wall over another."""
    model = plan.model(kind)
    if model is None:
        return
    wall = plan.walls[plan.wall_of(piece)]
    _, deep, _ = plan.size(model, 0.0)
    along = piece.y if wall.axis == 0 else piece.x
    plan.put(kind, model, *wall.point(along, deep / 2 + 0.01), wall.turn, high)


def _desk(plan: Plan) -> Piece | None:
    desk = plan.at_wall("desk")
    if desk:
        plan.before("office chair", desk, 0.05, faces_it=True) or plan.before(
            "chair", desk, 0.05, faces_it=True
        )
        for kind, chance in (("computer", 0.6), ("desk lamp", 0.5), ("books", 0.3),
                             ("letter tray", 0.3), ("small plant", 0.2)):  # fmt: skip
            if _likely(plan, chance):
                plan.on_top(kind, desk, back=0.5)
    return desk


def office(plan: Plan) -> None:
    """Desks, shelves, filing cabinets."""
    for _ in range(int(plan.rng.integers(1, 4))):
        desk = _desk(plan)
        if desk and _likely(plan, 0.4):
            plan.beside("filing cabinet", desk, int(plan.rng.choice([-1, 1])))
    for _ in range(int(plan.rng.integers(1, 4))):
        plan.at_wall("bookcase" if _likely(plan, 0.7) else "shelves", same=False)
    for kind, chance in (("filing cabinet", 0.4), ("waste bin", 0.5), ("armchair", 0.4)):
        if _likely(plan, chance):
            plan.at_wall(kind)
    if _likely(plan, 0.3):
        rug(plan, plan.width / 2, plan.depth / 2, 2.0, 1.4)
    _greens_and_heat(plan, 0.6, 0.4)


def bathroom(plan: Plan) -> None:
    """Bath or shower, basin with a mirror, toilet."""
    if _likely(plan, 0.75):
        plan.at_wall("bath", gap=0.005)
    if _likely(plan, 0.4):
        plan.in_corner("shower")
    basin = plan.at_wall("washbasin", middle=True)
    if basin and basin.box.z1 < 1.1:
        _mirror_over(plan, basin, 0.7, 1.2, 1.9)
    toilet = plan.at_wall("toilet")
    if toilet and _likely(plan, 0.4):
        plan.beside("bidet", toilet, int(plan.rng.choice([-1, 1])), 0.2)
    for kind, chance in (("laundry basket", 0.4), ("washing machine", 0.3)):
        if _likely(plan, chance):
            plan.at_wall(kind)
    if _likely(plan, 0.5):
        plan.at_wall("towel rail", high=0.8, gap=0.0)
    if _likely(plan, 0.4):
        rug(plan, plan.width / 2, plan.depth / 2, 0.9, 0.6)
    _greens_and_heat(plan, 0.2, 0.4)


def hobby_room(plan: Plan) -> None:
    """Something large to play or exercise with."""
    kind = str(plan.rng.choice(["pool table", "treadmill", "exercise bike", "grand piano"]))
    if kind in ("pool table", "grand piano"):
        plan.in_middle(kind, 0.5)
    else:
        plan.at_wall("treadmill", gap=0.2)
        plan.at_wall("exercise bike", gap=0.2)
    plan.at_wall("sofa" if _likely(plan, 0.5) else "armchair")
    if _likely(plan, 0.5):
        plan.at_wall("bookcase")
    if _likely(plan, 0.5):
        stand = plan.at_wall("TV stand")
        if stand:
            plan.on_top("television", stand, spread=0.1)
    for _ in range(int(plan.rng.integers(0, 3))):
        plan.at_wall("cardboard box", same=False)
    _greens_and_heat(plan, 0.5, 0.3)


def _greens_and_heat(plan: Plan, green: float, heat: float) -> None:
    for _ in range(2):
        if _likely(plan, green * 0.7):
            plan.in_corner("plant")
    if _likely(plan, 0.06):
        plan.in_corner("Christmas tree")
    if _likely(plan, heat):
        model = plan.model("radiator")
        if model is not None:
            plan.at_wall("radiator", gap=0.02, high=0.1)
    if _likely(plan, 0.7):
        plan.hang("hanging lamp")


ROOMS: dict[str, tuple[float, Furnish, tuple[float, float], tuple[float, float]]] = {
    "living room": (0.24, living_room, (3.6, 7.0), (3.4, 5.5)),
    "bedroom": (0.22, bedroom, (3.0, 5.2), (2.9, 4.6)),
    "kitchen": (0.13, kitchen, (2.8, 5.0), (2.6, 4.2)),
    "bathroom": (0.10, bathroom, (2.2, 4.0), (2.0, 3.2)),
    "office": (0.11, office, (2.9, 5.5), (2.7, 4.5)),
    "dining room": (0.10, dining_room, (3.4, 6.0), (3.2, 4.8)),
    "children's room": (0.06, childrens_room, (2.8, 4.5), (2.7, 4.2)),
    "hobby room": (0.04, hobby_room, (4.2, 7.0), (3.8, 5.5)),
}
"""What it is called: how often, who furnishes it, the ranges of its width and its depth."""


def plan_room(rng: np.random.Generator, furniture: list[Furnishing], name: str) -> Plan:
    """A furnished plan of a room of this name."""
    _, furnish, widths, depths = ROOMS[name]
    width, depth = float(rng.uniform(*widths)), float(rng.uniform(*depths))
    height = float(rng.uniform(2.4, 2.7) if rng.uniform() < 0.8 else rng.uniform(2.7, 3.3))
    cut = (0.0, 0.0)
    if rng.uniform() < 0.3 and min(width, depth) > 3.2:
        cut = (float(rng.uniform(0.25, 0.45) * width), float(rng.uniform(0.25, 0.4) * depth))
    plan = Plan(rng, furniture, width, depth, height, cut)
    if rng.uniform() < 0.5:
        openings(plan, (0 if name == "bathroom" else 1, 3))
        furnish(plan)
    else:
        furnish(plan)
        openings(plan, (0 if name == "bathroom" else 1, 3))
    pictures(plan, 1 if name in ("bathroom", "kitchen") else 4)
    return plan
