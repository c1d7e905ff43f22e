"""Where the depth of a panorama jumps, and what may lie behind the nearer side of a jump.

All is done on reciprocal radii q = 1/r (float32, 0 where there is no depth) on the grid of a
panorama: rows from the top, columns that go round. A plane is linear in q along the directions of
the grid: with its coefficients g (3,), q = g . d.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from .threads import in_chunks

_LEAST_JUMP = 0.03
"""Relative to the nearer side. At 0.25 m aside, 3 m away, it opens 0.15 degrees: under a pixel."""

_STEPS_OF_TERRACES = 2.5
_SOFT_REACH = 3
_SOFT_RATIO = 1.5
_SOFT_PASSES = 4
_SUPPORT = 4
_WINDOW = 4
_RELAXATIONS = 30
_BEHIND = np.float32(0.998)
_UNKNOWN, _KNOWN, _BORDER, _GROWN = 0, 1, 2, 3


@dataclass(frozen=True, eq=False)
class Jumps:
    """Between which neighbours the depth jumps, 0 or 1.

    across: (H, W) uint8, between (i, j) and (i, j + 1), the last column and the first included;
    down: (H - 1, W) uint8, between (i, j) and (i + 1, j).
    """

    across: np.ndarray
    down: np.ndarray

    def count(self, inner_of: np.ndarray | None = None) -> int:
        """How many. inner_of: of (H, W) reciprocal radii, those between two with depth alone."""
        across, down = self.across, self.down
        if inner_of is not None:
            known = inner_of > 0
            across = across & known & np.roll(known, -1, axis=1)
            down = down & known[:-1] & known[1:]
        return int(np.count_nonzero(across)) + int(np.count_nonzero(down))


@dataclass(frozen=True, eq=False)
class Fine:
    """Reciprocal radii (h, w) float32 on a grid at least as fine as that of the jumps, whose pixels
    are those of the rows (H,) and columns (W,), int64."""

    nearness: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def find_jumps(nearness: np.ndarray, step: float = 0.0, *, only_missing: bool = False) -> Jumps:
    """Jumps of (H, W) float32 reciprocal radii.

    A jump is a difference that the slopes on neither side explain. Between depth and none is always
    one. step: the difference of terraces (depth of few bits), which are no jumps. only_missing: no
    others than those.
    """
    return _jumps(nearness, step, 1, only_missing)


def _jumps(nearness: np.ndarray, step: float, reach: int, only_missing: bool = False) -> Jumps:
    height, width = nearness.shape
    across = np.zeros((height, width), np.uint8)
    down = np.zeros((height - 1, width), np.uint8)
    least = np.float32(_STEPS_OF_TERRACES * step)
    relative = np.float32(np.inf if only_missing else _LEAST_JUMP)
    in_chunks(_mark_jumps, height, nearness, across, down, relative, least, reach)
    return Jumps(across, down)


def confirmed(jumps: Jumps, fine: Fine, step: float = 0.0) -> Jumps:
    """Those jumps that also are jumps of the finer depth, which has sharp ones: no slopes for which
    the grid is too coarse. step: as for `find_jumps`."""
    if fine.nearness.shape == jumps.across.shape:
        return jumps
    across, down = jumps.across.copy(), jumps.down.copy()
    least = np.float32(_STEPS_OF_TERRACES * step)
    relative = np.float32(_LEAST_JUMP)
    in_chunks(
        _confirm, len(across), fine.nearness, fine.rows, fine.columns, across, down, relative, least
    )
    return Jumps(across, down)


def sharpened(nearness: np.ndarray, step: float = 0.0) -> np.ndarray:
    """Depth whose jumps are spread over some pixels, as models draw them, with these pixels on one
    side or the other; depth with sharp jumps as it is (the same array)."""
    sharp = _jumps(nearness, step, 1).count()
    soft = _jumps(nearness, step, _SOFT_REACH)
    if soft.count() <= _SOFT_RATIO * sharp + nearness.shape[1] / 8:
        return nearness
    for _ in range(_SOFT_PASSES):
        snapped = nearness.copy()
        in_chunks(_snap, len(nearness), nearness, soft.across, soft.down, snapped)
        if np.array_equal(snapped, nearness):
            break
        nearness = snapped
        soft = _jumps(nearness, step, _SOFT_REACH)
    return nearness


@numba.njit(cache=True, nogil=True)
def _is_jump(before, a, b, after, relative, least):
    """Whether q jumps between a and b; `before` and `after` continue the row on either side:
    differences per pixel, NaN where they are not known."""
    if (a > 0) != (b > 0):
        return True
    difference = b - a
    allowed = max(relative * max(a, b), least)
    if not abs(difference) > allowed:
        return False
    left = before if before == before else np.float32(0)
    right = after if after == after else np.float32(0)
    return abs(difference - left) > allowed and abs(difference - right) > allowed


@numba.njit(cache=True, nogil=True)
def _slope(a, b):
    return b - a if a > 0 and b > 0 else np.float32(np.nan)


@numba.njit(cache=True, nogil=True)
def _mark_jumps(begin, end, q, across, down, relative, least, reach):
    height, width = q.shape
    nan = np.float32(np.nan)
    for i in range(begin, end):
        for j in range(width):
            a, b = q[i, j], q[i, (j + 1) % width]
            # Most neighbours are alike; look further only where they are not.
            if (a > 0) != (b > 0) or abs(b - a) > relative * max(a, b):
                x0, x1 = (j - reach) % width, (j - reach + 1) % width
                y0, y1 = (j + reach) % width, (j + reach + 1) % width
                before, after = _slope(q[i, x0], q[i, x1]), _slope(q[i, y0], q[i, y1])
                across[i, j] = _is_jump(before, a, b, after, relative, least)
            if i + 1 < height:
                b = q[i + 1, j]
                if (a > 0) != (b > 0) or abs(b - a) > relative * max(a, b):
                    before = _slope(q[i - reach, j], q[i - reach + 1, j]) if i >= reach else nan
                    last = i + reach + 1
                    after = _slope(q[last - 1, j], q[last, j]) if last < height else nan
                    down[i, j] = _is_jump(before, a, b, after, relative, least)


@numba.njit(cache=True, nogil=True)
def _confirm(begin, end, fine, rows, columns, across, down, relative, least):
    height, width = fine.shape
    nan = np.float32(np.nan)
    for i in range(begin, end):
        for j in range(len(columns)):
            y, x = rows[i], columns[j]
            if across[i, j]:
                across[i, j] = 0
                for n in range((columns[(j + 1) % len(columns)] - x) % width):
                    x0, x1, x2 = (x + n - 1) % width, (x + n) % width, (x + n + 1) % width
                    a, b, last = fine[y, x1], fine[y, x2], fine[y, (x + n + 2) % width]
                    if _is_jump(_slope(fine[y, x0], a), a, b, _slope(b, last), relative, least):
                        across[i, j] = 1
                        break
            if i + 1 < len(rows) and down[i, j]:
                down[i, j] = 0
                for at in range(y, rows[i + 1]):
                    a, b = fine[at, x], fine[at + 1, x]
                    before = _slope(fine[at - 1, x], a) if at > 0 else nan
                    after = _slope(b, fine[at + 2, x]) if at + 2 < height else nan
                    if _is_jump(before, a, b, after, relative, least):
                        down[i, j] = 1
                        break


@numba.njit(cache=True, nogil=True)
def _snap(begin, end, q, across, down, out):
    """Pixels between two jumps in one direction get the value of the nearer of the two sides."""
    height, width = q.shape
    for i in range(begin, end):
        for j in range(width):
            if not q[i, j] > 0:
                continue
            best = np.float32(np.inf)
            for axis in range(2):
                if axis == 0:
                    if not (across[i, j - 1] and across[i, j]):
                        continue
                    low, high = q[i, j - 1], q[i, (j + 1) % width]
                else:
                    if not (0 < i < height - 1 and down[i - 1, j] and down[i, j]):
                        continue
                    low, high = q[i - 1, j], q[i + 1, j]
                if not (low > 0 and high > 0 and (q[i, j] - low) * (high - q[i, j]) > 0):
                    continue
                for side in (low, high):
                    if abs(side - q[i, j]) < best:
                        best = abs(side - q[i, j])
                        out[i, j] = side


# ---------------------------------------------------------------------------------- what is behind


@dataclass(frozen=True, eq=False)
class Behind:
    """What may be seen past the nearer side of jumps.

    mask: (H, W) bool, directions in which something is hidden that the eye may come to see;
    nearness: (H, W) float32, q of it there, elsewhere as it was; colors: (H, W, C) float32, too.
    """

    mask: np.ndarray
    nearness: np.ndarray
    colors: np.ndarray


def grow_behind(
    nearness: np.ndarray,
    jumps: Jumps,
    directions: np.ndarray,
    colors: np.ndarray,
    offset: float,
    most_pixels: int,
) -> Behind:
    """Continue the farther side of each jump behind the nearer one.

    directions: (H, W, 3) float32; colors: (H, W, C) float32. offset: how far, in units of 1 / q,
    the eye may move aside: it decides how many pixels are continued, at most `most_pixels`. Depth
    goes on along the planes of the farther side, colours as the mean of what is near.
    """
    grown, state = _grow(nearness, jumps.across, jumps.down, directions, offset, most_pixels)
    if not len(grown):
        return Behind(np.zeros(nearness.shape, bool), nearness, colors)
    planes = np.zeros((*nearness.shape, 3), np.float32)
    filled = colors.copy()
    _fit_planes(nearness, jumps.across, jumps.down, directions, state, planes)
    _fill(grown, state, planes, filled)
    _clean(state, filled)
    behind = nearness.copy()
    _place(grown, planes, directions, nearness, behind)
    return Behind(state == _GROWN, behind, filled)


@numba.njit(cache=True, nogil=True)
def _linked(i, j, k, across, down):
    """Neighbour k of pixel (i, j) and whether nothing jumps between them; row -1: there is none."""
    height, width = across.shape
    if k == 0:
        return i, (j + 1) % width, across[i, j] == 0
    if k == 1:
        before = (j - 1) % width
        return i, before, across[i, before] == 0
    if k == 2:
        if i + 1 >= height:
            return -1, j, False
        return i + 1, j, down[i, j] == 0
    if i == 0:
        return -1, j, False
    return i - 1, j, down[i - 1, j] == 0


@numba.njit(cache=True, nogil=True)
def _plane_at(q, across, down, directions, i, j):
    """Coefficients of the plane through pixel (i, j) and its linked neighbours, least squares of q
    beside a weak wish for constant q (a sphere around the eye)."""
    direction = directions[i, j]
    # Tangents of the grid at the pixel, from the neighbours themselves.
    g = direction * q[i, j]
    for axis in range(2):
        steps = 0
        slope = 0.0
        tangent = np.zeros(3)
        for side in range(2):
            y, x, linked = _linked(i, j, 2 * axis + side, across, down)
            if y < 0 or not linked or not q[y, x] > 0:
                continue
            sign = 1.0 if side == 0 else -1.0
            slope += sign * (q[y, x] - q[i, j])
            for c in range(3):
                tangent[c] += sign * (directions[y, x, c] - direction[c])
            steps += 1
        if steps:
            length = (tangent * tangent).sum()
            for c in range(3):
                g[c] += slope * tangent[c] / length
    return g


@numba.njit(cache=True, nogil=True)
def _grow(q, across, down, directions, offset, most):
    """Pixels that are continued behind, in the order of their distance from the jump (rows and
    columns, (N, 2)), and the state of every pixel."""
    height, width = q.shape
    pixel = 2 * np.pi / width
    state = np.zeros((height, width), np.uint8)
    capacity = height * width
    queue = np.empty((capacity, 2), np.int32)
    origin = np.empty((capacity, 2), np.int32)
    reach = np.empty(capacity, np.float32)
    far = np.empty((capacity, 3), np.float32)
    count = 0
    for i in range(height):
        for j in range(width):
            if not q[i, j] > 0:
                continue
            widest = 0.0
            for k in range(4):
                y, x, linked = _linked(i, j, k, across, down)
                if y < 0 or linked or not 0 < q[y, x] < q[i, j]:
                    continue
                wanted = offset * (q[i, j] - q[y, x]) / pixel
                if wanted > widest:
                    widest = wanted
                    far[count] = _plane_at(q, across, down, directions, y, x)
            if widest > 0:
                state[i, j] = _GROWN
                queue[count, 0], queue[count, 1] = i, j
                origin[count, 0], origin[count, 1] = i, j
                reach[count] = min(widest + 2, most)
                count += 1
    at = 0
    while at < count:
        i, j = queue[at]
        for k in range(4):
            y, x, _ = _linked(i, j, k, across, down)
            if y < 0 or state[y, x] == _GROWN or not q[y, x] > 0:
                continue
            away = abs(x - origin[at, 1])
            away = min(away, width - away)
            flat = 1 - directions[y, x, 2] ** 2
            rows = y - origin[at, 0]
            if away * away * flat + rows * rows > reach[at] * reach[at]:
                continue
            plane = far[at]
            d = directions[y, x]
            hidden = plane[0] * d[0] + plane[1] * d[1] + plane[2] * d[2]
            if hidden > 0.99 * q[y, x]:
                continue
            state[y, x] = _GROWN
            queue[count, 0], queue[count, 1] = y, x
            origin[count] = origin[at]
            reach[count] = reach[at]
            far[count] = plane
            count += 1
        at += 1
    return queue[:count].copy(), state


@numba.njit(cache=True, nogil=True)
def _fit_planes(q, across, down, directions, state, planes):
    """Planes of the pixels on the farther side of jumps, some pixels deep; these become _KNOWN, but
    _BORDER, whose colours are mixed with those of the nearer side, right at the jump."""
    height, width = q.shape
    capacity = height * width
    queue = np.empty((capacity, 3), np.int32)
    count = 0
    for i in range(height):
        for j in range(width):
            if state[i, j] != _UNKNOWN or not q[i, j] > 0:
                continue
            for k in range(4):
                y, x, linked = _linked(i, j, k, across, down)
                if y >= 0 and not linked and state[y, x] == _GROWN and q[y, x] > q[i, j]:
                    state[i, j] = _BORDER
                    queue[count, 0], queue[count, 1], queue[count, 2] = i, j, 0
                    count += 1
                    break
    at = 0
    while at < count:
        i, j, depth = queue[at]
        planes[i, j] = _plane_at(q, across, down, directions, i, j)
        at += 1
        if depth + 1 >= _SUPPORT:
            continue
        for k in range(4):
            y, x, linked = _linked(i, j, k, across, down)
            if y >= 0 and linked and state[y, x] == _UNKNOWN and q[y, x] > 0:
                state[y, x] = _KNOWN
                queue[count, 0], queue[count, 1], queue[count, 2] = y, x, depth + 1
                count += 1


@numba.njit(cache=True, nogil=True)
def _fill(grown, state, planes, colors):
    """Planes and colours of the grown pixels: first each as the mean of what is known around it, in
    the order of growing, then smoothed where they meet."""
    height, width = state.shape
    channels = colors.shape[2]
    done = np.zeros((height, width), np.uint8)
    for n in range(len(grown)):
        i, j = grown[n]
        plane = np.zeros(3)
        color = np.zeros(channels)
        total = shade = 0.0
        for y in range(max(0, i - _WINDOW), min(height, i + _WINDOW + 1)):
            for dx in range(-_WINDOW, _WINDOW + 1):
                x = (j + dx) % width
                kind = state[y, x]
                if kind != _KNOWN and kind != _BORDER and not done[y, x]:
                    continue
                weight = 1.0 / (0.5 + dx * dx + (y - i) * (y - i))
                total += weight
                for c in range(3):
                    plane[c] += weight * planes[y, x, c]
                if kind == _BORDER:
                    weight *= 0.02
                shade += weight
                for c in range(channels):
                    color[c] += weight * colors[y, x, c]
        if total > 0:
            for c in range(3):
                planes[i, j, c] = plane[c] / total
            for c in range(channels):
                colors[i, j, c] = color[c] / shade
            done[i, j] = 1
    for _ in range(_RELAXATIONS):
        for n in range(len(grown)):
            i, j = grown[n]
            plane = np.zeros(3)
            color = np.zeros(channels)
            total = shade = 0.0
            for k in range(4):
                y = i + (k == 2) - (k == 3)
                x = (j + (k == 0) - (k == 1)) % width
                if not 0 <= y < height:
                    continue
                kind = state[y, x]
                if kind != _KNOWN and kind != _BORDER and not done[y, x]:
                    continue
                total += 1
                for c in range(3):
                    plane[c] += planes[y, x, c]
                if kind != _BORDER:
                    shade += 1
                    for c in range(channels):
                        color[c] += colors[y, x, c]
            if total > 0:
                for c in range(3):
                    planes[i, j, c] = plane[c] / total
            if shade > 0:
                for c in range(channels):
                    colors[i, j, c] = color[c] / shade


@numba.njit(cache=True, nogil=True)
def _clean(state, colors):
    """Colours of _BORDER pixels, which are mixed with those of the nearer side, from their pure
    neighbours."""
    height, width = state.shape
    for i in range(height):
        for j in range(width):
            if state[i, j] != _BORDER:
                continue
            total = np.float32(0)
            color = np.zeros(colors.shape[2], np.float32)
            for y in range(max(0, i - 1), min(height, i + 2)):
                for dx in range(-1, 2):
                    x = (j + dx) % width
                    if state[y, x] == _KNOWN or state[y, x] == _GROWN:
                        total += 1
                        color += colors[y, x]
            if total > 0:
                for c in range(len(color)):
                    colors[i, j, c] = color[c] / total


@numba.njit(cache=True, nogil=True)
def _place(grown, planes, directions, q, out):
    for n in range(len(grown)):
        i, j = grown[n]
        hidden = np.float32(0)
        for c in range(3):
            hidden += planes[i, j, c] * directions[i, j, c]
        # Never before the front, never beyond the horizon.
        out[i, j] = min(max(hidden, q[i, j] * np.float32(0.02)), q[i, j] * _BEHIND)
