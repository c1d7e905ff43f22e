"""Things that move, made by the project from numbers: beings, plants, mechanisms.

Each is a union of simple parts over 16 frames, whose inside is a closed form (parts.py). Where the
motion repeats, the last frame leads back to the first. The same number gives the same thing
wherever numpy's generator PCG64 does. Kinds take turns. All look towards +x, y is up.
"""

# ruff: noqa: RUF005 - places are arrays, to which lists are added
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...models.hyperdiffusion.model import FRAMES
from .parts import Parts, depth, turned

COUNT = 280
LONGEST = 0.95
"""Of the box around all frames, in the field's domain of side 1."""

_SEED = 20261122
_TESTED_EVERY = 7

Rng = np.random.Generator
Pose = Callable[[float, Parts], None]
"""Adds the parts at a phase, 0 to 1."""


@dataclass(frozen=True, eq=False)
class Creature:
    """One moving thing. kind: its name; repeats: whether its motion is a cycle.

    tables: for each frame the parts (P, 20) in the field's domain.
    """

    number: int
    kind: str
    repeats: bool
    tables: tuple[np.ndarray, ...]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.number // len(KINDS) + 1}"

    def depth(self, points: np.ndarray, frame: int) -> np.ndarray:
        """(N,) float32 of points (N, 3) in [-0.5, 0.5]: above 0 inside."""
        return depth(self.tables[frame], points)

    def inside(self, points: np.ndarray, frame: int) -> np.ndarray:
        """(N,) bool."""
        found: np.ndarray = self.depth(points, frame) > 0
        return found


def creature(number: int) -> Creature:
    """The moving thing of this number."""
    kind = KINDS[number % len(KINDS)]
    rng = np.random.Generator(np.random.PCG64([_SEED, number]))
    pose = kind.make(rng)
    frames = []
    for frame in range(FRAMES):
        parts = Parts()
        pose(frame / FRAMES if kind.repeats else frame / (FRAMES - 1), parts)
        frames.append(parts)
    # One box and one scale for all frames: what stands still stays where it is.
    bounds = [parts.bounds() for parts in frames]
    low = np.min([low for low, _ in bounds], axis=0)
    high = np.max([high for _, high in bounds], axis=0)
    scale = LONGEST / float((high - low).max())
    offset = -scale * (low + high) / 2
    tables = tuple(parts.table(scale, offset) for parts in frames)
    return Creature(number, kind.name, kind.repeats, tables)


def side_of(number: int) -> str:
    """ "train" or "test": whole rounds of all kinds go to one side."""
    return "test" if number // len(KINDS) % _TESTED_EVERY == _TESTED_EVERY - 1 else "train"


# --------------------------------------------------------------------------------------- swimmers


def _wave(phase: float, shift: float = 0.0) -> float:
    return math.sin(2 * math.pi * (phase - shift))


def _fish(rng: Rng) -> Pose:
    height, width = rng.uniform(0.16, 0.34), rng.uniform(0.09, 0.15)
    swing, length = rng.uniform(0.06, 0.13), rng.uniform(0.7, 1.1)
    tail, fin, waves = rng.uniform(0.16, 0.27), rng.uniform(0.1, 0.22), rng.uniform(0.6, 0.9)
    swept = rng.uniform(0.02, 0.14)

    def place(s: float, phase: float) -> np.ndarray:
        """s: 0 at the nose, 1 where the tail begins."""
        side = swing * (0.15 + s**2) * _wave(phase, waves * s)
        return np.array([length * (0.5 - s), 0.0, side])

    def pose(phase: float, parts: Parts) -> None:
        for s, size in ((0.16, 0.72), (0.3, 1.0), (0.46, 0.92), (0.62, 0.68), (0.78, 0.42)):
            way = place(s - 0.05, phase) - place(s + 0.05, phase)
            turn = turned(1, -math.atan2(way[2], way[0]))
            parts.ellipsoid(
                place(s, phase), (0.17 * length, height * size, width * size**0.7), turn
            )
        root, way = place(0.88, phase), place(0.86, phase) - place(0.96, phase)
        turn = turned(1, -math.atan2(way[2], way[0]) * 1.4)
        parts.rod(place(0.75, phase), root, 0.06, 0.045)
        for sign in (-1, 1):
            tip = root + turn @ np.array([-0.16 - swept, sign * tail, 0])
            parts.rod(root, tip, 0.042, 0.03)
            parts.rod(root + turn @ np.array([-0.1, 0, 0]), tip, 0.035, 0.03)
        back = place(0.42, phase) + [0, height * 0.85, 0]
        parts.rod(back, back + [-fin * 0.9, fin * 0.75, 0], 0.06, 0.032)
        for sign in (-1, 1):
            shoulder = place(0.32, phase) + [0, -0.25 * height, sign * width * 0.85]
            flap = 0.05 * _wave(phase, 0.2)
            parts.rod(shoulder, shoulder + [-fin, -0.3 * fin + flap, sign * fin * 0.7], 0.045, 0.03)

    return pose


def _snake(rng: Rng) -> Pose:
    swing, waves = rng.uniform(0.1, 0.2), rng.uniform(1.1, 1.9)
    thick, length = rng.uniform(0.07, 0.11), rng.uniform(1.2, 1.6)
    raised = rng.uniform(0.0, 0.22)

    def pose(phase: float, parts: Parts) -> None:
        places, radii = [], []
        for s in np.linspace(0, 1, 22):
            side = swing * (0.35 + 0.65 * min(1, 2.2 * s)) * _wave(phase, -waves * (1 - s))
            lift = raised * max(0.0, 1 - s / 0.22) ** 2
            places.append([length * (0.5 - s), thick + lift, side])
            radii.append(thick * min(1.0, 1.5 * (1.05 - s)) * (0.8 if s < 0.12 else 1))
        parts.rods(places, np.maximum(radii, 0.028))
        head = np.array(places[0])
        parts.ellipsoid(head + [0.03, 0.01, 0], (1.7 * thick, 0.95 * thick, 1.3 * thick))

    return pose


def _jellyfish(rng: Rng) -> Pose:
    width, height = rng.uniform(0.36, 0.5), rng.uniform(0.28, 0.45)
    arms, length = int(rng.integers(4, 8)), rng.uniform(0.5, 0.85)
    pulse, sway = rng.uniform(0.16, 0.28), rng.uniform(0.05, 0.1)
    thick = rng.uniform(0.032, 0.045)

    def pose(phase: float, parts: Parts) -> None:
        open_ = 1 + pulse * _wave(phase)
        tall = 1 - 0.8 * pulse * _wave(phase)
        lift = 0.1 * _wave(phase, 0.3)
        rim = width * open_
        parts.dome([0, lift, 0], (rim, height * tall, rim), 0.28)
        parts.rod([0, lift + 0.75 * height * tall, 0], [0, lift - 0.16, 0], 0.1, 0.07)
        for k in range(arms):
            angle = 2 * math.pi * (k + 0.25) / arms
            out = np.array([math.cos(angle), 0, math.sin(angle)])
            places = []
            for s in np.linspace(0, 1, 6):
                away = 0.84 * rim * (1 - 0.35 * s) + sway * s * _wave(phase, 0.25 + 0.5 * s)
                places.append(out * away + [0, lift + 0.02 - length * s, 0])
            parts.rods(places, np.linspace(thick * 1.25, thick * 0.8, 6))

    return pose


# ---------------------------------------------------------------------------------------- flyers


def _bird(rng: Rng) -> Pose:
    span, chord = rng.uniform(0.5, 0.85), rng.uniform(0.12, 0.2)
    girth, neck = rng.uniform(0.11, 0.16), rng.uniform(0.1, 0.3)
    flap, tail, beak = rng.uniform(0.5, 0.85), rng.uniform(0.18, 0.34), rng.uniform(0.08, 0.2)

    def pose(phase: float, parts: Parts) -> None:
        lift = -0.06 * _wave(phase)
        body = np.array([0, lift, 0])
        parts.ellipsoid(body, (0.32, girth, girth * 0.95), turned(2, 0.1))
        head = body + [0.3 + 0.6 * neck, 0.06 + 0.5 * neck, 0]
        parts.rod(body + [0.22, 0.03, 0], head, 0.075, 0.06)
        parts.ball(head, 0.085)
        parts.rod(head, head + [0.08 + beak, -0.02, 0], 0.045, 0.025)
        parts.ellipsoid(body + [-0.28 - 0.5 * tail, 0.0, 0], (tail, 0.032, 0.11), turned(2, -0.12))
        raised, bent = flap * _wave(phase), 0.45 * flap * _wave(phase, 0.2) - 0.15
        for sign in (-1, 1):
            inner = np.array([0, math.sin(raised), sign * math.cos(raised)])
            outer = np.array([-0.3, math.sin(raised + bent), sign * math.cos(raised + bent)])
            shoulder = body + [0.04, 0.5 * girth, sign * 0.5 * girth]
            wrist = shoulder + 0.45 * span * inner
            tip = wrist + 0.6 * span * outer
            for back, thick in ((0.0, 1.0), (-0.5 * chord, 0.9), (-chord, 0.75)):
                shift = np.array([back, 0, 0])
                parts.rod(shoulder + shift, wrist + shift, 0.05 * thick, 0.045 * thick)
                parts.rod(wrist + shift, tip + 0.4 * shift, 0.045 * thick, 0.028)

    return pose


def _butterfly(rng: Rng) -> Pose:
    span, upper, lower = rng.uniform(0.42, 0.6), rng.uniform(0.24, 0.36), rng.uniform(0.18, 0.3)
    flap, rest, body = rng.uniform(0.55, 0.85), rng.uniform(0.1, 0.5), rng.uniform(0.22, 0.34)
    thick = rng.uniform(0.034, 0.045)

    def pose(phase: float, parts: Parts) -> None:
        lift = -0.05 * _wave(phase)
        parts.rod([body, lift + 0.02, 0], [-body, lift, 0], 0.06, 0.045)
        parts.ball([body + 0.05, lift + 0.03, 0], 0.075)
        angle = rest + flap * _wave(phase)
        for sign in (-1, 1):
            out = np.array([0, math.sin(angle), sign * math.cos(angle)])
            normal = np.array([0, math.cos(angle), -sign * math.sin(angle)])
            turn = np.stack([[1.0, 0, 0], normal, out], axis=1)
            root = np.array([0, lift, 0])
            parts.ellipsoid(
                root + out * 0.52 * span + [0.2, 0, 0], (upper, thick, 0.55 * span), turn
            )
            parts.ellipsoid(
                root + out * 0.4 * span + [-0.22, 0, 0], (lower, thick, 0.42 * span), turn
            )
            feeler = np.array([body + 0.08, lift + 0.06, 0.02 * sign])
            parts.rod(feeler, feeler + [0.14, 0.14, 0.09 * sign], 0.026)

    return pose


# ---------------------------------------------------------------------------------------- walkers


def _leg(
    parts: Parts, hip: np.ndarray, foot: np.ndarray, bend: np.ndarray, thick: float, thin: float
) -> None:
    """Two bones from hip to foot, the knee towards `bend`."""
    way = foot - hip
    bone = 0.54 * max(float(np.linalg.norm(way)), 1e-6)
    out = math.sqrt(max(bone**2 - float(way @ way) / 4, 0.0))
    knee = hip + way / 2 + out * bend / np.linalg.norm(bend)
    parts.rods([hip, knee, foot], [thick, (thick + thin) / 2, thin])


def _step(phase: float, stride: float, lift: float) -> tuple[float, float]:
    """Where a foot is along the way and above the ground: half of the time it stands."""
    phase %= 1.0
    if phase < 0.5:
        return stride * (0.5 - 2 * phase), 0.0
    swing = 2 * (phase - 0.5)
    return stride * (swing - 0.5), lift * math.sin(math.pi * swing)


def _four_legged(rng: Rng) -> Pose:
    length, girth = rng.uniform(0.5, 0.8), rng.uniform(0.11, 0.19)
    leg, neck = rng.uniform(0.35, 0.6), rng.uniform(0.08, 0.42)
    stride, lift = rng.uniform(0.2, 0.34), rng.uniform(0.06, 0.12)
    snout, ear, tail = rng.uniform(0.1, 0.22), rng.uniform(0.06, 0.18), rng.uniform(0.15, 0.4)
    droop = rng.uniform(-0.2, 0.25)
    # Diagonal pairs together, or one foot after the other.
    beats = ((0.0, 0.5), (0.5, 0.0)) if rng.random() < 0.5 else ((0.0, 0.5), (0.25, 0.75))

    def pose(phase: float, parts: Parts) -> None:
        bob = 0.02 * _wave(2 * phase)
        y = leg + 0.4 * girth + bob
        parts.rod([-length / 2, y, 0], [length / 2, y + 0.01, 0], girth * 0.95, girth)
        head = np.array([length / 2 + 0.14 + 0.4 * neck, y + 0.4 * girth + neck + 0.5 * bob, 0])
        parts.rod([length / 2, y + 0.3 * girth, 0], head, 0.65 * girth, 0.085)
        parts.ball(head, 0.105)
        parts.rod(head, head + [snout + 0.05, -0.04, 0], 0.08, 0.052)
        for sign in (-1, 1):
            ears = head + [-0.02, 0.07, 0.06 * sign]
            parts.rod(ears, ears + [-0.03, ear, 0.04 * sign], 0.038, 0.028)
        root = np.array([-length / 2 - 0.8 * girth, y + 0.3 * girth, 0])
        tip = root + [-tail * 0.8, tail * droop, 0.12 * _wave(phase)]
        parts.rod(root, tip, 0.042, 0.03)
        for front in (0, 1):
            for side in (0, 1):
                x, up = _step(phase + beats[front][side], stride, lift)
                at = np.array([(front - 0.5) * (length - 0.04), 0, (side - 0.5) * 1.25 * girth])
                hip = at + [0, y - 0.35 * girth, 0]
                foot = at + [x, 0.05 + up, 0]
                bend = np.array([1.0 if front == 0 else -1.0, 0, 0])
                _leg(parts, hip, foot, bend, 0.075, 0.045)
                parts.rod(foot, foot + [0.06, -0.01, 0], 0.045, 0.036)

    return pose


def _beetle(rng: Rng) -> Pose:
    length, width, height = rng.uniform(0.3, 0.42), rng.uniform(0.18, 0.28), rng.uniform(0.12, 0.2)
    reach, stride = rng.uniform(0.24, 0.36), rng.uniform(0.14, 0.22)
    feeler, head, horn = rng.uniform(0.12, 0.3), rng.uniform(0.09, 0.13), rng.random() < 0.4
    thin = rng.uniform(0.03, 0.038)

    def pose(phase: float, parts: Parts) -> None:
        y = 0.2 + 0.012 * _wave(2 * phase)
        parts.ellipsoid([-0.08, y, 0], (length, height, width))
        parts.ball([length - 0.02, y - 0.01, 0], head)
        if horn:
            tip = np.array([length + 0.24, y + 0.2, 0])
            parts.rods(
                [[length, y + 0.03, 0], [length + 0.17, y + 0.06, 0], tip], [0.05, 0.04, 0.03]
            )
        for sign in (-1, 1):
            root = np.array([length + 0.05, y + 0.05, 0.05 * sign])
            wag = 0.05 * _wave(phase, 0.25 * sign)
            parts.rod(root, root + [feeler, 0.12 + wag, 0.1 * sign], 0.03, 0.025)
            for k in range(3):
                x, up = _step(phase + 0.5 * ((k + (sign > 0)) % 2), stride, 0.08)
                along = (1 - k) * 0.23
                hip = np.array([along - 0.03, y - 0.02, 0.6 * width * sign])
                foot = np.array([along * 1.5 - 0.03 + x, up, (0.6 * width + reach) * sign])
                _leg(parts, hip, foot, np.array([0, 1.0, 0]), 0.042, thin)

    return pose


def _caterpillar(rng: Rng) -> Pose:
    count, thick = int(rng.integers(6, 10)), rng.uniform(0.1, 0.15)
    wave, squeeze = rng.uniform(0.07, 0.15), rng.uniform(0.08, 0.16)
    feeler, turns = rng.uniform(0.1, 0.2), rng.uniform(0.8, 1.2)

    def pose(phase: float, parts: Parts) -> None:
        middle = (count - 1) / 2
        for k in range(count):
            s = k / (count - 1)
            x = 0.17 * (k - middle) + squeeze * 0.4 * _wave(phase, -turns * s - 0.25)
            y = thick + wave * max(0.0, _wave(phase, -turns * s)) ** 1.5
            last = k == count - 1
            parts.ball(
                [x, y + (0.05 if last else 0), 0],
                thick * (1.12 if last else 1 - 0.2 * abs(s - 0.5)),
            )
            for sign in (-1, 1):
                if last:
                    root = np.array([x + 0.03, y + 0.1, 0.05 * sign])
                    parts.rod(root, root + [0.06, feeler, 0.06 * sign], 0.03, 0.03)
                else:
                    hip = np.array([x, y - 0.4 * thick, 0.5 * thick * sign])
                    parts.rod(hip, [x, y - 1.15 * thick, 0.75 * thick * sign], 0.04, 0.034)

    return pose


def _person(rng: Rng) -> Pose:
    leg, torso = rng.uniform(0.75, 0.95), rng.uniform(0.5, 0.62)
    broad, stride = rng.uniform(0.14, 0.22), rng.uniform(0.35, 0.6)
    girth, arm, head = rng.uniform(0.11, 0.17), rng.uniform(0.28, 0.34), rng.uniform(0.12, 0.16)
    hat = rng.random() < 0.35

    def pose(phase: float, parts: Parts) -> None:
        y = leg - 0.05 + 0.02 * _wave(2 * phase)
        top = y + torso
        parts.rod([0, y + 0.05, 0], [0.02, top - 0.12, 0], girth * 0.9, girth)
        parts.rod([0.02, top - 0.1, -broad], [0.02, top - 0.1, broad], 0.08)
        parts.rod([0.02, top - 0.05, 0], [0.03, top + 0.1, 0], 0.055)
        centre = np.array([0.04, top + 0.09 + head, 0])
        parts.ellipsoid(centre, (head, head * 1.15, head * 0.95))
        if hat:
            parts.cylinder(
                centre + [0, 0.5 * head, 0], centre + [0, 0.5 * head + 0.05, 0], 1.7 * head
            )
            parts.cylinder(centre + [0, 0.5 * head, 0], centre + [0, 1.9 * head, 0], 0.95 * head)
        for sign in (-1, 1):
            beat = phase + 0.25 * (1 + sign)
            x, up = _step(beat, stride, 0.14)
            hip = np.array([0, y, 0.09 * sign])
            foot = np.array([x, 0.05 + up, 0.1 * sign])
            _leg(parts, hip, foot, np.array([1.0, 0, 0]), 0.085, 0.055)
            parts.rod(foot, foot + [0.13, -0.01, 0], 0.05, 0.042)
            swing = 0.55 * math.sin(2 * math.pi * (beat - 0.25)) * stride / 0.5
            shoulder = np.array([0.02, top - 0.1, (broad + 0.02) * sign])
            elbow = shoulder + arm * np.array([math.sin(swing), -math.cos(swing), 0.12 * sign])
            bent = swing + 0.45
            hand = elbow + arm * np.array([math.sin(bent), -math.cos(bent), 0])
            parts.rods([shoulder, elbow, hand], [0.062, 0.052, 0.048])

    return pose


# ----------------------------------------------------------------------------------------- plants


def _plant(rng: Rng) -> Pose:
    height, lean = rng.uniform(0.8, 1.2), rng.uniform(-0.15, 0.15, 2)
    leaves, leaf = int(rng.integers(3, 6)), rng.uniform(0.26, 0.4)
    petals, bloom = int(rng.integers(5, 8)), rng.uniform(0.16, 0.25)
    start, pot = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.28)

    def pose(phase: float, parts: Parts) -> None:
        grown = 0.18 + 0.82 * phase
        parts.cylinder([0, -0.3, 0], [0, -0.02, 0], pot)
        parts.cylinder([0, -0.08, 0], [0, 0.02, 0], pot * 1.2)

        def stem(s: float) -> np.ndarray:
            """s: of the height when it is grown."""
            return np.array([lean[0] * s**2, height * s, lean[1] * s**2])

        places = [stem(grown * s) for s in np.linspace(0, 1, 6)]
        parts.rods(places, np.linspace(0.045, 0.034, 6))
        for k in range(leaves):
            at = (k + 1) / (leaves + 1.5)
            size = min(1.0, max(0.0, (grown - at) / 0.4))
            if size <= 0.08:
                continue
            angle, rise = start + 2.4 * k, 1.2 - 0.75 * size
            turn = turned(1, angle) @ turned(2, rise)
            tip = turn @ np.array([0.9 * leaf * size, 0, 0])
            parts.ellipsoid(
                stem(at) + tip, (leaf * size, 0.03 + 0.012 * size, 0.12 * size + 0.02), turn
            )
        top = places[-1]
        open_ = min(1.0, max(0.0, (phase - 0.55) / 0.45))
        parts.ball(top, 0.055 + 0.04 * open_)
        if open_ > 0:
            for k in range(petals):
                turn = turned(1, 2 * math.pi * k / petals) @ turned(2, 1.45 - 1.1 * open_)
                size = bloom * (0.3 + 0.7 * open_)
                out = turn @ np.array([size * 0.95, 0, 0])
                parts.ellipsoid(top + out, (size, 0.034, 0.028 + 0.07 * open_), turn)

    return pose


# ------------------------------------------------------------------------------------- mechanisms


def _windmill(rng: Rng) -> Pose:
    height, foot, top = rng.uniform(0.9, 1.2), rng.uniform(0.2, 0.32), rng.uniform(0.12, 0.17)
    blades, length = int(rng.integers(3, 6)), rng.uniform(0.5, 0.72)
    broad, thick = rng.uniform(0.09, 0.16), rng.uniform(0.05, 0.065)
    spoke = rng.uniform(0.03, 0.036)

    def pose(phase: float, parts: Parts) -> None:
        parts.rod([0, 0, 0], [0, height, 0], foot, top)
        parts.cylinder([0, -foot, 0], [0, -foot + 0.1, 0], foot * 1.25)
        parts.ellipsoid([0, height + 0.02, 0], (top * 1.35, top * 1.1, top * 1.15))
        hub = np.array([top * 1.2 + 0.12, height, 0])
        parts.rod([0, height, 0], hub, 0.06, 0.06)
        # A turn of one blade's share looks as a whole one; two of these make it brisk.
        for k in range(blades):
            turn = turned(0, 2 * math.pi * (k + phase) / blades)
            parts.rod(hub, hub + turn @ np.array([0, length, 0]), spoke)
            middle = hub + turn @ np.array([0, 0.62 * length, 0.35 * broad])
            parts.box(middle, (thick, 0.72 * length, broad), turn)

    return pose


def _pump(rng: Rng) -> Pose:
    """A walking beam that nods over a well, driven by a crank."""
    beam, height = rng.uniform(1.0, 1.3), rng.uniform(0.6, 0.85)
    crank, thick = rng.uniform(0.13, 0.19), rng.uniform(0.045, 0.06)
    head, weight = rng.uniform(0.14, 0.2), rng.uniform(0.1, 0.14)
    spread = rng.uniform(0.18, 0.26)

    def pose(phase: float, parts: Parts) -> None:
        angle = 2 * math.pi * phase
        parts.box([0.0, -0.04, 0], (beam * 1.05, 0.09, 0.42))
        pivot = np.array([0.02, height, 0])
        for x in (-spread, spread):
            for sign in (-1, 1):
                parts.rod(pivot + [0, 0, 0.05 * sign], [x, 0, 0.16 * sign], 0.035, 0.042)
        centre = np.array([-0.42 * beam, 0.27, 0])
        pin = centre + crank * np.array([math.cos(angle), math.sin(angle), 0])
        nod = math.asin(crank * math.sin(angle) / (0.45 * beam))
        along = np.array([math.cos(-nod), math.sin(-nod), 0])
        turn = turned(2, -nod)
        front, back = pivot + 0.5 * beam * along, pivot - 0.45 * beam * along
        parts.box((front + back) / 2, (0.95 * beam, 2 * thick, 0.11), turn)
        parts.box(front + turn @ np.array([0.02, -0.05, 0]), (0.11, 2 * head, 0.13), turn)
        parts.rod([front[0] + 0.03, front[1] - head, 0], [0.5 * beam, 0.0, 0], 0.03)
        parts.rod(back, pin, 0.034)
        parts.box(centre + [0, -0.13, 0], (0.26, 0.3, 0.2))
        parts.rod(centre, pin, 0.05)
        far = centre - weight * 1.3 * (pin - centre) / crank
        parts.rod(centre, far, 0.05, weight)

    return pose


def _pendulum(rng: Rng) -> Pose:
    width, height = rng.uniform(0.42, 0.6), rng.uniform(0.85, 1.1)
    length, swing = rng.uniform(0.6, 0.75), rng.uniform(0.35, 0.65)
    bob, post = rng.uniform(0.09, 0.15), rng.uniform(0.038, 0.055)
    disc = rng.random() < 0.5

    def pose(phase: float, parts: Parts) -> None:
        angle = swing * _wave(phase)
        parts.box([0, 0.0, 0], (1.2 * width, 0.08, 2.3 * width))
        for sign in (-1, 1):
            crown = [0, height, sign * 0.85 * width]
            for x in (-0.42, 0.42):
                parts.rod([x * width, 0, sign * width], crown, post, post * 0.85)
        top = np.array([0, height, 0])
        parts.rod([0, height, -0.85 * width], [0, height, 0.85 * width], post)
        # It swings along x, between the two frames.
        way = np.array([math.sin(angle), -math.cos(angle), 0])
        end = top + length * height * way
        parts.rod(top, end, 0.03)
        if disc:
            parts.cylinder(end + [0, 0, -0.05], end + [0, 0, 0.05], 1.15 * bob)
        else:
            parts.ball(end, bob)

    return pose


def _scissors(rng: Rng) -> Pose:
    blade, grip = rng.uniform(0.6, 0.85), rng.uniform(0.34, 0.46)
    ring, most = rng.uniform(0.12, 0.17), rng.uniform(0.3, 0.45)
    broad, thick = rng.uniform(0.1, 0.15), rng.uniform(0.06, 0.075)

    def pose(phase: float, parts: Parts) -> None:
        angle = 0.06 + most * (0.5 - 0.5 * math.cos(2 * math.pi * phase))
        for sign in (-1, 1):
            turn = turned(2, sign * angle)
            layer = np.array([0, 0, 0.45 * thick * sign])
            parts.box(
                layer + turn @ np.array([0.42 * blade, 0, 0]), (0.84 * blade, broad, thick), turn
            )
            tip = layer + turn @ np.array([blade, -0.12 * broad * sign, 0])
            parts.rod(layer + turn @ np.array([0.8 * blade, 0, 0]), tip, 0.4 * broad, 0.03)
            hand = layer + turn @ np.array([-grip, 0.055 * sign, 0])
            parts.rod(layer, hand, 0.055, 0.045)
            eye = hand + turn @ np.array([-0.8 * ring, 0.35 * ring * sign, 0])
            parts.ring(eye, [0, 0, 1], ring, 0.042)
        parts.cylinder([0, 0, -thick * 1.25], [0, 0, thick * 1.25], 0.05)

    return pose


# ------------------------------------------------------------------------------------------ kinds


@dataclass(frozen=True)
class Kind:
    name: str
    make: Callable[[Rng], Pose]
    repeats: bool = True


KINDS = (
    Kind("fish", _fish),
    Kind("bird", _bird),
    Kind("four-legged animal", _four_legged),
    Kind("beetle", _beetle),
    Kind("snake", _snake),
    Kind("jellyfish", _jellyfish),
    Kind("butterfly", _butterfly),
    Kind("caterpillar", _caterpillar),
    Kind("walking person", _person),
    Kind("growing flower", _plant, repeats=False),
    Kind("windmill", _windmill),
    Kind("pump", _pump),
    Kind("pendulum", _pendulum),
    Kind("scissors", _scissors),
)
NAMES = tuple(kind.name for kind in KINDS)
