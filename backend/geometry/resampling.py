"""Pictures and depth of panoramas in other sizes, and colours spread over where there are none."""

from __future__ import annotations

import numpy as np

_LARGEST_RATIO = 1.2


def area_resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, C) of any type -> (height, width, C) float32, each the mean of what it covers; where
    it grows, between its neighbours, columns going round."""
    if image.shape[:2] == (height, width):
        return image.astype(np.float32)
    rows = _means(image, height, 0)
    return _means(rows, width, 1)


def _means(image: np.ndarray, size: int, axis: int) -> np.ndarray:
    """The mean over `size` equal parts of an axis, parts of pixels counted as such."""
    old = image.shape[axis]
    if old == size:
        return image.astype(np.float32, copy=False)
    if size > old:
        at = (np.arange(size) + 0.5) * (old / size) - 0.5
        low = np.floor(at).astype(np.int64)
        share = (at - low).astype(np.float32)
        share = share[:, None, None] if axis == 0 else share[None, :, None]
        high = low + 1
        if axis == 0:
            low, high = np.clip(low, 0, old - 1), np.clip(high, 0, old - 1)
        first, second = image.take(low % old, axis), image.take(high % old, axis)
        return first * (1 - share) + second * share
    if old % size == 0:
        shape = (*image.shape[:axis], size, old // size, *image.shape[axis + 1 :])
        return image.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    edges = np.arange(size + 1) * (old / size)
    whole = np.minimum(edges.astype(np.int64), old - 1)
    total = np.zeros((*image.shape[:axis], old + 1, *image.shape[axis + 1 :]), np.float64)
    inner = [slice(None)] * image.ndim
    inner[axis] = slice(1, None)
    np.cumsum(image, axis=axis, out=total[tuple(inner)], dtype=np.float64)
    part = edges - whole
    part = part[:, None, None] if axis == 0 else part[None, :, None]
    upto = total.take(whole, axis) * (1 - part) + total.take(whole + 1, axis) * part
    return (np.diff(upto, axis=axis) * (size / old)).astype(np.float32)


def between(colors: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """(N, C) float32 of colors (H, W, C) at N places, the middles of pixels being whole numbers;
    columns go round."""
    height, width = colors.shape[:2]
    row = np.clip(row, 0, height - 1)
    top, left = np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)
    down = (row - top).astype(np.float32)[:, None]
    across = (column - left).astype(np.float32)[:, None]
    below, right = np.minimum(top + 1, height - 1), (left + 1) % width
    left %= width
    upper = colors[top, left] * (1 - across) + colors[top, right] * across
    lower = colors[below, left] * (1 - across) + colors[below, right] * across
    return upper * (1 - down) + lower * down


def depth_resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Depth (h, w) float32 of a panorama, NaN where there is none, in a larger size: between four
    pixels that are alike, else, and beside missing ones, the nearest of them."""
    rows, columns = values.shape
    y = np.clip((np.arange(height) + 0.5) * (rows / height) - 0.5, 0, rows - 1)
    x = (np.arange(width) + 0.5) * (columns / width) - 0.5
    i = np.minimum(y.astype(np.int64), max(rows - 2, 0))
    j = np.floor(x).astype(np.int64)
    down, across = (y - i).astype(np.float32)[:, None], (x - j).astype(np.float32)[None]
    below, right = np.minimum(i + 1, rows - 1)[:, None], ((j + 1) % columns)[None]
    i, j = i[:, None], (j % columns)[None]
    four = [values[i, j], values[i, right], values[below, j], values[below, right]]
    low, high = np.fmin.reduce(four), np.fmax.reduce(four)
    between = (four[0] * (1 - across) + four[1] * across) * (1 - down)
    between += (four[2] * (1 - across) + four[3] * across) * down
    alike = high <= low * np.float32(_LARGEST_RATIO)
    nearest = np.where(
        down < 0.5,
        np.where(across < 0.5, four[0], four[1]),
        np.where(across < 0.5, four[2], four[3]),
    )
    return np.where(alike & np.isfinite(between), between, nearest)


def spread(colors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """colors (H, W, C) float32 with those where `known` (H, W) is False made of the nearest known
    ones, smoothly: means over ever larger squares (the picture goes round in columns)."""
    if known.all():
        return colors
    weight = known.astype(np.float32)[..., None]
    levels = [(colors * weight, weight)]
    while min(levels[-1][1].shape[:2]) > 1:
        total, amount = levels[-1]
        levels.append((_halved(total), _halved(amount)))
    total, amount = levels[-1]
    filled = total / np.maximum(amount, np.float32(1e-20))
    for total, amount in reversed(levels[:-1]):
        rows, columns = amount.shape[:2]
        doubled = _doubled(filled)[:rows, :columns]
        share = np.minimum(amount, 1)
        own = total / np.maximum(amount, np.float32(1e-20))
        filled = own * share + doubled * (1 - share)
    filled[known] = colors[known]
    return filled


def _halved(array: np.ndarray) -> np.ndarray:
    """Sums of 2 x 2; to an odd last row comes itself, to an odd last column the first one."""
    rows, columns = array.shape[:2]
    if rows % 2:
        array = np.concatenate([array, array[-1:]])
    if columns % 2:
        array = np.concatenate([array, array[:, :1]], axis=1)
    return array[::2, ::2] + array[1::2, ::2] + array[::2, 1::2] + array[1::2, 1::2]


def _doubled(array: np.ndarray) -> np.ndarray:
    """Twice as large, between neighbours; columns go round."""
    columns = np.empty((array.shape[0], array.shape[1] * 2, array.shape[2]), np.float32)
    columns[:, ::2] = 0.75 * array + 0.25 * np.roll(array, 1, axis=1)
    columns[:, 1::2] = 0.75 * array + 0.25 * np.roll(array, -1, axis=1)
    above = np.concatenate([columns[:1], columns[:-1]])
    below = np.concatenate([columns[1:], columns[-1:]])
    result = np.empty((columns.shape[0] * 2, *columns.shape[1:]), np.float32)
    result[::2] = 0.75 * columns + 0.25 * above
    result[1::2] = 0.75 * columns + 0.25 * below
    return result
