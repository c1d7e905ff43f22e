"""Solids that are unions of simple parts, told by numbers: whether points are inside is a closed
form, and one pass over the points.

A part is a row of 20 numbers: its kind, an affine map (3, 4) into its own frame, the size of that
frame's unit (what distances in it are multiplied by, the least of the three), and up to six more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

Vector = Sequence[float] | np.ndarray

BALL, ROD, BOX, CYLINDER, DOME, RING = range(6)
_WIDTH = 20
_ROW = np.dtype(np.float32)


class Parts:
    """A union that is built part by part. Lengths are free; y is up."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self._corners: list[np.ndarray] = []

    def ellipsoid(self, at: Vector, radii: Vector, turn: np.ndarray | None = None) -> None:
        """turn: (3, 3), from its own axes to the world's."""
        radii, turn = np.asarray(radii, float), _turn(turn)
        self._add(BALL, at, radii, turn)
        reach = np.sqrt(((turn * radii) ** 2).sum(axis=1))
        self._reach(np.asarray(at) - reach, np.asarray(at) + reach)

    def ball(self, at: Vector, radius: float) -> None:
        self.ellipsoid(at, (radius, radius, radius))

    def rod(self, start: Vector, end: Vector, first: float, second: float | None = None) -> None:
        """Round ends; its radius goes from `first` to `second`."""
        a, b = np.asarray(start, float), np.asarray(end, float)
        second = first if second is None else second
        row = np.zeros(_WIDTH)
        row[0], row[1:13] = ROD, np.eye(3, 4).ravel()
        row[4], row[8], row[12] = -a
        row[13] = 1
        row[14:17], row[17], row[18] = b - a, first, second
        self.rows.append(row.astype(_ROW))
        for at, radius in ((a, first), (b, second)):
            self._reach(at - radius, at + radius)

    def rods(self, places: Sequence[Vector] | np.ndarray, radii: float | Vector) -> None:
        """Along a line of places (K, 3); one radius, or one for each."""
        each = np.broadcast_to(np.asarray(radii, float), len(places))
        for k in range(len(places) - 1):
            self.rod(places[k], places[k + 1], float(each[k]), float(each[k + 1]))

    def box(self, at: Vector, size: Vector, turn: np.ndarray | None = None) -> None:
        """size: whole sides."""
        half, turn = np.asarray(size, float) / 2, _turn(turn)
        self._add(BOX, at, half, turn)
        reach = np.abs(turn * half).sum(axis=1)
        self._reach(np.asarray(at) - reach, np.asarray(at) + reach)

    def cylinder(self, start: Vector, end: Vector, radius: float) -> None:
        """Flat ends."""
        a, b = np.asarray(start, float), np.asarray(end, float)
        half = float(np.linalg.norm(b - a)) / 2
        turn, radii = _upright(b - a), np.array([radius, half, radius])
        self._add(CYLINDER, (a + b) / 2, radii, turn)
        reach = np.abs(turn * radii).sum(axis=1)
        self._reach((a + b) / 2 - reach, (a + b) / 2 + reach)

    def dome(self, at: Vector, radii: Vector, wall: float, turn: np.ndarray | None = None) -> None:
        """The upper half of a hollow ellipsoid; wall: share of the radii that is solid."""
        radii, turn = np.asarray(radii, float), _turn(turn)
        self._add(DOME, at, radii, turn, wall)
        reach = np.sqrt(((turn * radii) ** 2).sum(axis=1))
        self._reach(np.asarray(at) - reach, np.asarray(at) + reach)

    def ring(self, at: Vector, axis: Vector, radius: float, thickness: float) -> None:
        """A torus; thickness: the radius of its tube."""
        turn = _upright(np.asarray(axis, float))
        self._add(RING, at, np.ones(3), turn, radius, thickness)
        reach = radius + thickness
        self._reach(np.asarray(at) - reach, np.asarray(at) + reach)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Corners of a box that holds all parts."""
        corners = np.concatenate(self._corners)
        return corners.min(axis=0), corners.max(axis=0)

    def table(self, scale: float, offset: np.ndarray) -> np.ndarray:
        """(P, 20) float32 of the parts moved to scale * place + offset."""
        found = np.array(self.rows, np.float64)
        maps = found[:, 1:13].reshape(-1, 3, 4)
        maps[:, :, 3] -= maps[:, :, :3] @ (np.asarray(offset) / scale)
        maps[:, :, :3] /= scale
        found[:, 1:13] = maps.reshape(-1, 12)
        found[:, 13] *= scale
        return found.astype(_ROW)

    def _add(
        self, kind: int, at: Vector, radii: np.ndarray, turn: np.ndarray, *more: float
    ) -> None:
        row = np.zeros(_WIDTH)
        back = (turn / radii).T  # rows: the own axes over the radii
        row[0] = kind
        row[1:13] = np.column_stack([back, -back @ np.asarray(at, float)]).ravel()
        row[13] = radii.min()
        row[14 : 14 + len(more)] = more
        self.rows.append(row.astype(_ROW))

    def _reach(self, low: np.ndarray, high: np.ndarray) -> None:
        self._corners.append(np.stack([low, high]))


def turned(axis: int, radians: float) -> np.ndarray:
    """(3, 3) about x, y or z, counter-clockwise seen from its tip."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = np.cos(radians)
    turn[a, b], turn[b, a] = -np.sin(radians), np.sin(radians)
    return turn


def _turn(turn: np.ndarray | None) -> np.ndarray:
    return np.eye(3) if turn is None else np.asarray(turn, float)


def _upright(direction: np.ndarray) -> np.ndarray:
    """(3, 3) whose second column is the direction."""
    y = direction / np.linalg.norm(direction)
    other = np.eye(3)[np.abs(y).argmin()]
    x = np.cross(y, other)
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)], axis=1)


# ------------------------------------------------------------------------------------------ inside


def depth(table: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) float32: above 0 inside, and about the distance to the surface near it.

    table: of `Parts.table`. points: (N, 3).
    """
    return _depth(np.ascontiguousarray(table, np.float32), np.ascontiguousarray(points, np.float32))


@njit(cache=True, nogil=True, fastmath=True)
def _depth(table, points):
    found = np.empty(len(points), np.float32)
    for n in range(len(points)):
        x, y, z = points[n]
        best = np.float32(-1e9)
        for k in range(len(table)):
            row = table[k]
            u = row[1] * x + row[2] * y + row[3] * z + row[4]
            v = row[5] * x + row[6] * y + row[7] * z + row[8]
            w = row[9] * x + row[10] * y + row[11] * z + row[12]
            kind = int(row[0])
            if kind == BALL:
                value = 1 - np.sqrt(u * u + v * v + w * w)
            elif kind == ROD:
                a, b, c = row[14], row[15], row[16]
                along = (u * a + v * b + w * c) / max(a * a + b * b + c * c, np.float32(1e-12))
                along = min(max(along, np.float32(0)), np.float32(1))
                u, v, w = u - along * a, v - along * b, w - along * c
                radius = row[17] + along * (row[18] - row[17])
                value = radius - np.sqrt(u * u + v * v + w * w)
            elif kind == BOX:
                value = 1 - max(abs(u), abs(v), abs(w))
            elif kind == CYLINDER:
                value = 1 - max(np.sqrt(u * u + w * w), abs(v))
            elif kind == DOME:
                away = np.sqrt(u * u + v * v + w * w)
                value = min(1 - away, away - 1 + row[14], v)
            else:
                around = np.sqrt(u * u + w * w) - row[14]
                value = row[15] - np.sqrt(around * around + v * v)
            best = max(best, np.float32(value * row[13]))
        found[n] = best
    return found
