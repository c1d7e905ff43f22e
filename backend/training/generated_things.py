"""Families of things that people make, grow or are: furniture, buildings, plants, animals."""

from __future__ import annotations

import math

import numpy as np

from .generated_forms import Made, Rng
from .solids import (
    Solid,
    ball,
    box,
    capsule,
    cone,
    cylinder,
    difference,
    ellipsoid,
    extrusion,
    mirrored,
    moved,
    polygon,
    rectangle,
    repeated,
    rods,
    shell,
    smooth_union,
    torus,
    turned,
    union,
)


def _legs(rng: Rng, width: float, depth: float, height: float) -> Solid:
    """Four legs below y = 0, or one foot, within width x depth."""
    thickness = rng.uniform(0.05, 0.09)
    if rng.random() < 0.5:
        leg = box((thickness, height, thickness))
        leg = moved(leg, width / 2 - thickness / 2, -height / 2, depth / 2 - thickness / 2)
    else:
        spread = rng.uniform(0.0, 0.1)
        foot = (width / 2 - 0.05 + spread, -height, depth / 2 - 0.05 + spread)
        top = (width / 2 - 0.12, 0, depth / 2 - 0.12)
        leg = capsule(foot, top, thickness * 0.4, thickness * 0.6)
    return mirrored(mirrored(leg, 0), 2)


def table(rng: Rng) -> Made:
    width, depth, height = rng.uniform(0.9, 1.7), rng.uniform(0.6, 1.0), rng.uniform(0.45, 0.9)
    thickness = rng.uniform(0.05, 0.1)
    if rng.random() < 0.35:
        radius = width / 2
        top = moved(cylinder(radius, thickness, 0.015), 0, thickness / 2)
        if rng.random() < 0.5:
            foot = union(
                moved(cylinder(0.06, height), 0, -height / 2),
                moved(cylinder(0.45 * radius, 0.06), 0, -height + 0.03),
            )
            return union(top, foot), "a round table with one foot"
        count = int(rng.integers(3, 6))
        leg = capsule((0.75 * radius, -height, 0), (0.6 * radius, 0, 0), 0.035, 0.05)
        return union(top, repeated(leg, count)), f"a round table with {count} legs"
    top = moved(box((width, thickness, depth), 0.01), 0, thickness / 2)
    parts = [top, _legs(rng, width, depth, height)]
    caption = "a table" if height > 0.6 else "a coffee table"
    if rng.random() < 0.4:
        parts.append(moved(box((width - 0.1, 0.05, depth - 0.1)), 0, -0.75 * height))
        caption += " with a shelf below"
    return union(*parts), caption


def chair(rng: Rng) -> Made:
    width, depth = rng.uniform(0.6, 0.8), rng.uniform(0.6, 0.8)
    height, back = rng.uniform(0.45, 0.7), rng.uniform(0.5, 0.95)
    seat = moved(box((width, 0.09, depth), 0.03), 0, 0.04)
    parts = [seat, _legs(rng, width, depth, height)]
    kind = int(rng.integers(4))
    if kind == 0:
        return union(*parts), "a stool"
    behind = -depth / 2 + 0.04
    if kind == 1:
        parts.append(moved(box((width, back, 0.07), 0.03), 0, back / 2, behind))
    elif kind == 2:
        count = int(rng.integers(3, 7))
        parts += [
            moved(box((0.05, back, 0.05)), x, back / 2, behind)
            for x in np.linspace(-width / 2 + 0.04, width / 2 - 0.04, count)
        ]
        parts.append(moved(box((width, 0.12, 0.07), 0.02), 0, back, behind))
    else:
        parts += [moved(box((width, 0.13, 0.05)), 0, back * s, behind) for s in (0.4, 0.7, 1.0)]
        post = moved(box((0.06, back + 0.06, 0.06)), width / 2 - 0.03, back / 2, behind)
        parts.append(mirrored(post, 0))
    caption = "a chair"
    if rng.random() < 0.4:
        arm = union(
            moved(box((0.06, 0.05, depth)), width / 2, 0.33),
            moved(box((0.05, 0.33, 0.05)), width / 2, 0.17, depth / 2 - 0.04),
            moved(box((0.05, 0.33, 0.05)), width / 2, 0.17, behind),
        )
        parts.append(mirrored(arm, 0))
        caption = "a chair with armrests"
    return union(*parts), caption


def sofa(rng: Rng) -> Made:
    seats = int(rng.integers(1, 4))
    width = 0.65 * seats
    cushion = box((0.62, 0.22, 0.7), 0.07)
    parts = [moved(cushion, 0.65 * (k - (seats - 1) / 2), 0.31, 0.03) for k in range(seats)]
    parts.append(moved(box((width + 0.1, 0.25, 0.75), 0.04), 0, 0.12))
    parts.append(moved(box((width + 0.1, rng.uniform(0.7, 0.95), 0.2), 0.07), 0, 0.45, -0.38))
    arm = moved(box((0.18, rng.uniform(0.5, 0.65), 0.8), 0.06), width / 2 + 0.1, 0.27)
    parts.append(mirrored(arm, 0))
    return union(*parts), "an armchair" if seats == 1 else f"a sofa with {seats} seats"


def cabinet(rng: Rng) -> Made:
    """Shelves, and bodies with drawers or doors."""
    width, height, depth = rng.uniform(0.7, 1.3), rng.uniform(0.8, 1.8), rng.uniform(0.35, 0.55)
    wall, count = rng.uniform(0.04, 0.07), int(rng.integers(2, 6))
    heights = np.linspace(wall / 2, height - wall / 2, count + 1)
    if rng.random() < 0.55:
        sides = mirrored(moved(box((wall, height, depth)), width / 2, height / 2), 0)
        boards = [moved(box((width, wall, depth)), 0, y) for y in heights]
        parts = [sides, *boards]
        if rng.random() < 0.6:
            parts.append(moved(box((width, height, 0.035)), 0, height / 2, -depth / 2 + 0.02))
        return union(*parts), f"a shelf with {count} compartments"
    body = moved(box((width, height, depth)), 0, height / 2)
    front = depth / 2
    if rng.random() < 0.5:
        step = height / count
        gaps = [moved(box((width - 0.06, 0.03, 0.08)), 0, k * step, front) for k in range(1, count)]
        knobs = [moved(ball(0.045), 0, (k + 0.5) * step, front + 0.03) for k in range(count)]
        return union(difference(body, *gaps), *knobs), f"a chest with {count} drawers"
    gap = moved(box((0.03, height - 0.06, 0.08)), 0, height / 2, front)
    handle = mirrored(moved(cylinder(0.025, 0.25), 0.08, height / 2, front + 0.03), 0)
    return union(difference(body, gap), handle), "a cupboard with two doors"


def bed(rng: Rng) -> Made:
    width, length = rng.uniform(0.7, 1.3), rng.uniform(1.5, 1.8)
    frame = moved(box((width, 0.15, length)), 0, 0.25)
    mattress = moved(box((width - 0.06, 0.22, length - 0.08), 0.07), 0, 0.4)
    head = moved(box((width, rng.uniform(0.6, 0.9), 0.07)), 0, 0.35, -length / 2)
    legs = mirrored(mirrored(moved(box((0.08, 0.25, 0.08)), width / 2 - 0.05, 0.12, 0.7), 0), 2)
    pillows = 1 if width < 1 else 2
    pillow = ellipsoid((0.28, 0.09, 0.2))
    if pillows == 2:
        pillow = mirrored(moved(pillow, 0.3), 0)
    pillow = moved(pillow, 0, 0.54, -length / 2 + 0.3)
    return union(frame, mattress, head, legs, pillow), "a single bed" if pillows == 1 else "a bed"


def lamp(rng: Rng) -> Made:
    height = rng.uniform(0.5, 1.7)
    shade = moved(
        shell(cone(rng.uniform(0.3, 0.45), rng.uniform(0.15, 0.28), 0.4), 0.05), 0, height - 0.15
    )
    shade = difference(shade, moved(cylinder(0.2, 0.2), 0, height - 0.12))
    pole = moved(cylinder(0.035, height + 0.2), 0, (height + 0.2) / 2)
    foot = moved(cylinder(rng.uniform(0.22, 0.32), 0.06, 0.02), 0, 0.03)
    return union(shade, pole, foot), "a floor lamp" if height > 1 else "a table lamp"


def mug(rng: Rng) -> Made:
    radius, height = rng.uniform(0.35, 0.5), rng.uniform(0.7, 1.1)
    cup = difference(cylinder(radius, height), moved(cylinder(radius - 0.07, height), 0, 0.08))
    handle = moved(turned(torus(0.28 * height, 0.06), 0, 90), radius, 0)
    handle = difference(handle, cylinder(radius - 0.04, 2 * height))
    return union(cup, handle), "a mug with a handle"


def building(rng: Rng) -> Made:
    kind = int(rng.integers(5))
    width, height, depth = rng.uniform(0.6, 1.1), rng.uniform(0.5, 0.9), rng.uniform(0.6, 1.4)
    if kind == 0:
        roof = extrusion(polygon([(-width * 0.6, 0), (width * 0.6, 0), (0, 0.5)]), depth * 1.1)
        house = union(moved(box((width, height, depth)), 0, height / 2), moved(roof, 0, height))
        door = moved(box((0.2, 0.7 * height, 0.2)), 0, 0, depth / 2)
        window = mirrored(moved(box((0.16, 0.2, 0.15)), 0.32 * width, 0.6 * height, depth / 2), 0)
        house = difference(house, door, window)
        chimney = moved(box((0.14, 0.5, 0.14)), 0.25 * width, height + 0.35, 0.2 * depth)
        return union(house, chimney), "a house with a gabled roof"
    if kind == 1:
        tower = union(moved(cylinder(0.4, 1.4), 0, 0.7), moved(cone(0.52, 0, 0.6), 0, 1.4))
        return tower, "a round tower with a pointed roof"
    if kind == 2:
        steps = int(rng.integers(4, 11))
        rise, run = 1.2 / steps, 1.4 / steps
        boards = [
            moved(box((width, (k + 1) * rise, run)), 0, (k + 1) * rise / 2, -k * run)
            for k in range(steps)
        ]
        return union(*boards), f"a staircase with {steps} steps"
    if kind == 3:
        count = int(rng.integers(2, 5))
        wall = box((0.9 * count, 1.0, 0.4))
        arches = [
            union(
                moved(turned(cylinder(0.33, 1), 0, 90), 0.9 * (k - (count - 1) / 2), -0.05),
                moved(box((0.66, 0.6, 1)), 0.9 * (k - (count - 1) / 2), -0.35),
            )
            for k in range(count)
        ]
        return difference(wall, *arches), f"a bridge with {count} arches"
    drum = moved(cylinder(0.6, 0.12), 0, 0.06)
    columns = int(rng.integers(5, 10))
    ring = repeated(moved(cylinder(0.06, 0.9), 0.48, 0.5), columns)
    roof = union(moved(cylinder(0.6, 0.1), 0, 0.98), moved(ellipsoid((0.55, 0.4, 0.55)), 0, 1.0))
    return union(drum, ring, roof), f"a round temple with {columns} columns"


def vehicle(rng: Rng) -> Made:
    kind = int(rng.integers(4))
    length, width = rng.uniform(1.4, 1.8), rng.uniform(0.6, 0.75)
    if kind == 0:
        body = moved(box((length, 0.3, width), 0.08), 0, 0.35)
        cabin_corners = [(-0.45, 0.0), (0.4, 0.0), (0.22, 0.33), (-0.33, 0.33)]
        cabin = moved(extrusion(polygon(cabin_corners), width - 0.08), -0.05, 0.46)
        wheel = moved(turned(cylinder(0.19, 0.16, 0.03), 0, 90), 0.31 * length, 0.19, width / 2)
        return union(body, cabin, mirrored(mirrored(wheel, 0), 2)), "a simple car"
    if kind == 1:
        cab = moved(box((0.45, 0.65, width), 0.05), 0.6, 0.55)
        load = moved(box((1.2, rng.uniform(0.5, 0.8), width + 0.05)), -0.3, 0.65)
        wheel = turned(cylinder(0.18, 0.16), 0, 90)
        wheels = [moved(wheel, x, 0.18, width / 2 - 0.02) for x in (0.6, -0.3, -0.7)]
        return union(cab, load, mirrored(union(*wheels), 2)), "a simple truck"
    if kind == 2:
        body = moved(cylinder(0.25, 1.2), 0, 0.6)
        nose = moved(cone(0.25, 0.0, 0.5), 0, 1.2)
        fins = int(rng.integers(3, 5))
        fin = moved(
            extrusion(polygon([(0, 0.5), (0.35, -0.1), (0.35, -0.25), (0, 0)]), 0.05), 0.2, 0.1
        )
        return union(body, nose, repeated(fin, fins)), f"a rocket with {fins} fins"
    fuselage = ellipsoid((0.95, 0.16, 0.16))
    wing = extrusion(polygon([(0.25, 0), (-0.1, 0), (-0.3, 0.95), (-0.15, 0.95)]), 0.06)
    wings = mirrored(turned(wing, 0, 90), 2)
    tail = moved(
        extrusion(polygon([(-0.15, 0), (0.12, 0), (-0.1, 0.35), (-0.2, 0.35)]), 0.05), -0.75
    )
    small = moved(mirrored(turned(extrusion(polygon(
        [(0.1, 0), (-0.1, 0), (-0.2, 0.35), (-0.1, 0.35)]), 0.05), 0, 90), 2), -0.78)  # fmt: skip
    return union(fuselage, wings, tail, small), "a simple airplane"


# ------------------------------------------------------------------------------------------ plants


def tree(rng: Rng) -> Made:
    """Recursive branches, bare or with a crown, or a fir of cones."""
    if rng.random() < 0.3:
        count = int(rng.integers(3, 6))
        layers = [
            moved(cone(0.6 - 0.45 * k / count, 0.02, 0.7), 0, 0.3 + 0.3 * k) for k in range(count)
        ]
        return union(moved(cylinder(0.09, 0.5), 0, 0.25), *layers), "a fir tree"
    rods_found: list[Solid] = []
    tips: list[np.ndarray] = []
    _branch(rng, np.zeros(3), np.array([0, 1.0, 0]), 0.5, 0.11, 3, rods_found, tips)
    if rng.random() < 0.4:
        return union(*rods_found), "a bare tree"
    size = rng.uniform(0.2, 0.3)
    crown = [moved(ball(size * float(rng.uniform(0.7, 1.1))), *tip) for tip in tips]
    return union(*rods_found, smooth_union(0.15, *crown)), "a tree with a leafy crown"


def _branch(
    rng: Rng,
    start: np.ndarray,
    direction: np.ndarray,
    length: float,
    radius: float,
    depth: int,
    found: list[Solid],
    tips: list[np.ndarray],
) -> None:
    end = start + direction * length
    found.append(capsule(start, end, radius, 0.7 * radius))
    if depth == 0:
        tips.append(end)
        return
    count = int(rng.integers(2, 4))
    turn = rng.uniform(0, 2 * math.pi)
    for k in range(count):
        angle = turn + 2 * math.pi * k / count + rng.uniform(-0.4, 0.4)
        side = np.array([math.cos(angle), 0.25, math.sin(angle)])
        towards = direction + rng.uniform(0.5, 0.9) * side
        towards /= np.linalg.norm(towards)
        share = rng.uniform(0.65, 0.85)
        _branch(rng, end, towards, length * share, 0.68 * radius, depth - 1, found, tips)


def plant(rng: Rng) -> Made:
    kind = int(rng.integers(3))
    if kind == 0:
        pot = difference(cone(0.28, 0.38, 0.5), moved(cone(0.22, 0.34, 0.5), 0, 0.1))
        soil = moved(cylinder(0.28, 0.1), 0, 0.35)
        count = int(rng.integers(5, 10))
        leaves = []
        for k in range(count):
            leaf = moved(ellipsoid((0.1, rng.uniform(0.35, 0.55), 0.035)), 0, 0.4)
            leaf = turned(turned(leaf, 0, float(rng.uniform(15, 55))), 1, 360 * k / count)
            leaves.append(moved(leaf, 0, 0.4))
        return union(pot, soil, *leaves), "a potted plant with long leaves"
    if kind == 1:
        width, bulge, length = rng.uniform(0.35, 0.7), rng.uniform(0.25, 0.5), rng.uniform(0.4, 1)
        cap = difference(ellipsoid((width, bulge, width)), moved(box((2, 1, 2)), 0, -0.5))
        stem = moved(cone(rng.uniform(0.12, 0.25), 0.13, length), 0, 0.05 - length)
        return smooth_union(0.05, cap, stem), "a mushroom"
    petals = int(rng.integers(5, 10))
    petal = moved(turned(ellipsoid((0.32, 0.05, 0.15)), 2, 15), 0.38, 0.03)
    flower = union(moved(ellipsoid((0.2, 0.1, 0.2)), 0, 0.02), repeated(petal, petals))
    stem = rods(np.array([[0, 0, 0], [0.05, -0.5, 0], [0, -1.1, 0.05]]), 0.05)
    leaf = moved(turned(ellipsoid((0.3, 0.035, 0.11)), 2, 25), 0.28, -0.6)
    return union(turned(flower, 0, float(rng.uniform(0, 50))), stem, leaf), (
        f"a flower with {petals} petals"
    )


# ------------------------------------------------------------------------------------------ beings


def four_legged(rng: Rng) -> Made:
    """Simple animals of capsules, the head towards +x."""
    length, girth = rng.uniform(0.5, 0.8), rng.uniform(0.13, 0.24)
    leg, neck = rng.uniform(0.3, 0.65), rng.uniform(0.1, 0.6)
    body = capsule((-length / 2, 0, 0), (length / 2, 0, 0), girth, girth * 0.95)
    hip = (length / 2 - 0.02, -0.3 * girth, 0.6 * girth)
    foot = (length / 2 + rng.uniform(-0.05, 0.05), -leg - girth * 0.4, 0.7 * girth)
    legs = mirrored(mirrored(capsule(hip, foot, 0.085, 0.055), 0), 2)
    head_at = np.array([length / 2 + 0.15 + 0.3 * neck, girth * 0.6 + neck, 0])
    throat = capsule((length / 2, 0.3 * girth, 0), head_at, 0.6 * girth, 0.1)
    snout = head_at + _by(rng.uniform(0.12, 0.28), -0.05, 0)
    head = capsule(head_at, snout, 0.13, 0.08)
    ear_tip = head_at + _by(-0.03, rng.uniform(0.15, 0.32), 0.12)
    ears = mirrored(capsule(head_at + _by(0, 0.07, 0.07), ear_tip, 0.045, 0.025), 2)
    rump = np.array([-length / 2 - 0.8 * girth, 0.2 * girth, 0])
    end = rump + _by(-rng.uniform(0.1, 0.3), rng.uniform(-0.3, 0.3), 0)
    tail = capsule(rump + _by(0.05, 0, 0), end, 0.045, 0.03)
    size = "long-necked " if neck > 0.45 else "long-legged " if leg > 0.5 else ""
    solid = smooth_union(0.1, body, legs, throat, head)
    return union(solid, ears, tail), f"a simple {size}four-legged animal"


def person(rng: Rng) -> Made:
    """A figure that stands, walks, sits or lifts its arms."""
    pose = ("standing", "walking", "sitting", "with raised arms")[int(rng.integers(4))]
    stride = rng.uniform(0.15, 0.3) if pose == "walking" else 0.0
    torso = capsule((0, 0.05, 0), (0, 0.42, 0), 0.15, 0.17)
    head = moved(ellipsoid((0.13, 0.16, 0.14)), 0, 0.82)
    throat = capsule((0, 0.5, 0), (0, 0.75, 0), 0.07)
    limbs = []
    for side in (-1, 1):
        hip = np.array([0.09 * side, 0.0, 0])
        swing = stride * side
        if pose == "sitting":
            knee, foot = hip + _by(0.03 * side, 0.02, 0.42), hip + _by(0.03 * side, -0.42, 0.42)
        else:
            knee, foot = (
                hip + _by(0.03 * side, -0.42, swing * 0.6),
                hip + _by(0.04 * side, -0.85, swing),
            )
        toes = foot + _by(0.02 * side, -0.02, 0.16)
        limbs.append(rods(np.array([hip, knee, foot, toes]), np.array([0.1, 0.075, 0.055, 0.05])))
        shoulder = np.array([0.2 * side, 0.48, 0])
        if pose == "with raised arms":
            elbow, hand = shoulder + _by(0.18 * side, 0.2, 0), shoulder + _by(0.25 * side, 0.52, 0)
        else:
            elbow = shoulder + _by(0.08 * side, -0.27, -0.5 * swing)
            hand = elbow + _by(
                0.02 * side, -0.15, 0.22 if pose == "sitting" else 0.08 - 0.5 * swing
            )
        limbs.append(rods(np.array([shoulder, elbow, hand]), np.array([0.075, 0.055, 0.05])))
    words = f"a simple figure of a person {pose}"
    return smooth_union(0.05, torso, throat, head, *limbs), words


def _by(x: float, y: float, z: float) -> np.ndarray:
    return np.array([x, y, z])


def fish(rng: Rng) -> Made:
    height, thickness = rng.uniform(0.2, 0.42), rng.uniform(0.12, 0.22)
    body = ellipsoid((0.8, height, thickness))
    size = rng.uniform(0.25, 0.4)
    tail = extrusion(polygon([(0, 0.06), (-size, size), (-0.6 * size, 0), (-size, -size), (0, -0.06)]), 0.06)  # fmt: skip  # noqa: E501
    back = extrusion(polygon([(0.25, 0), (-0.3, 0), (-0.25, 0.25)]), 0.05)
    side = turned(moved(ellipsoid((0.2, 0.03, 0.1)), -0.1, 0, 0.1), 0, 30)
    fins = mirrored(moved(side, 0.25, -0.05, 0.8 * thickness), 2)
    return union(body, moved(tail, -0.7), moved(back, 0, 0.85 * height), fins), "a simple fish"


def bird(rng: Rng) -> Made:
    body = turned(ellipsoid((0.45, 0.26, 0.25)), 2, rng.uniform(10, 35))
    head = moved(ball(0.17), 0.42, 0.36)
    beak = turned(cone(0.07, 0.01, rng.uniform(0.15, 0.35)), 2, -95)
    tail = moved(turned(ellipsoid((0.32, 0.03, 0.12)), 2, rng.uniform(0, 30)), -0.55, -0.12)
    legs = mirrored(
        rods(np.array([[0, -0.2, 0.1], [0.02, -0.55, 0.1], [0.15, -0.57, 0.12]]), 0.032), 2
    )
    solid = smooth_union(0.1, body, head)
    caption = "a simple bird"
    parts = [solid, moved(beak, 0.54, 0.35), tail, legs]
    if rng.random() < 0.5:
        wing = turned(moved(ellipsoid((0.2, 0.035, 0.45)), 0, 0, 0.5), 0, rng.uniform(-40, 5))
        parts.append(mirrored(moved(wing, 0, 0.08), 2))
        caption += " with spread wings"
    return union(*parts), caption


def snowman(rng: Rng) -> Made:
    sizes = np.array([0.45, 0.33, 0.22]) * rng.uniform(0.9, 1.1, 3)
    heights = [0.0, 0.85 * (sizes[0] + sizes[1]) * 0.95, 0.0]
    heights[2] = heights[1] + 0.85 * (sizes[1] + sizes[2])
    balls = [moved(ball(float(r)), 0, y) for r, y in zip(sizes, heights, strict=True)]
    nose = moved(turned(cone(0.05, 0.01, 0.25), 0, 90), 0, heights[2], sizes[2] - 0.03)
    parts = [*balls, nose]
    caption = "a snowman"
    if rng.random() < 0.6:
        hat = union(moved(cylinder(0.3, 0.05), 0, 0), moved(cylinder(0.19, 0.32), 0, 0.16))
        parts.append(moved(hat, 0, heights[2] + sizes[2] * 0.85))
        caption += " with a hat"
    return union(*parts), caption


def frame_or_box(rng: Rng) -> Made:
    """Picture frames, open crates, and tubs."""
    kind = int(rng.integers(3))
    width, height, depth = rng.uniform(0.8, 1.6), rng.uniform(0.6, 1.2), rng.uniform(0.5, 1.0)
    wall = rng.uniform(0.06, 0.12)
    if kind == 0:
        outer, inner = rectangle(width, height), rectangle(width - 3 * wall, height - 3 * wall)
        frame = difference(extrusion(outer, 0.12), extrusion(inner, 1))
        back = moved(extrusion(outer, 0.04), 0, 0, -0.06)
        return union(frame, back), "a picture frame"
    if kind == 1:
        crate = box((width, height, depth))
        hollow = moved(box((width - 2 * wall, height, depth - 2 * wall)), 0, wall)
        return difference(crate, hollow), "an open box"
    tub = box((width, 0.5, depth), 0.15)
    hollow = moved(box((width - 0.2, 0.5, depth - 0.2), 0.12), 0, 0.12)
    rim = moved(box((2 * width, 1, 2 * depth)), 0, 0.68)
    return difference(tub, hollow, rim), "a bathtub"


FAMILIES = (
    table, chair, sofa, cabinet, bed, lamp, mug, building, vehicle, tree, plant, four_legged,
    person, fish, bird, snowman, frame_or_box,
)  # fmt: skip
