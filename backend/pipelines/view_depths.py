"""Depth of views by a model that sees one picture at a time, brought into the world."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import numpy as np
from PIL import Image

from ..geometry import view_scales
from ..geometry.view_colors import depth_pictures
from ..geometry.view_fusion import Cube, PosedViews, fuse, projections
from ..models.panorama_depth import monocular
from .panorama_to_depth import load as load

_HULL_SIDE = 64
_ROOM = 0.15  # around the thing, of its longer side
_GROUND = 127
_TRUSTED = 0.03  # of the cube: noise up to which views are said to agree
_AGREEING = 0.7  # share of the places of a view that no other may see empty space at
_BEFORE = 10.0  # weight of being in front of the outlines' hull, where nothing can be
_ROUNDS = 20


def estimate(
    images: np.ndarray, views: PosedViews, cube: Cube, model: monocular.DepthModel
) -> Generator[tuple[str, float], None, tuple[PosedViews, float, bool]]:
    """The views with depth, the noise that is left in it, and whether it can be trusted; if not,
    the views come back as they were.

    images (V, H, W, 4) uint8. What the model tells is first laid into the hull of the outlines, a
    scale (and a shift of 1 / depth, for models of relative depth) for each view, and then solved so
    that views agree.
    """
    relative = model.output == monocular.RELATIVE
    hull = depth_pictures(
        projections(views.poses, views.intrinsics),
        images.shape[1:3],
        *fuse(dataclasses.replace(views, depth=None), cube, _HULL_SIDE).surface(),
    )
    depth = np.zeros(views.opacity.shape, np.float32)
    for number in range(len(views)):
        yield "Asking for depth", 0.2 + 0.1 * number / len(views)
        told = _told(images[number], model)
        nearness = told if relative else np.where(told > 0, 1 / np.maximum(told, 1e-6), 0)
        shown = (views.opacity[number] >= 0.5) & np.isfinite(hull[number]) & np.isfinite(nearness)
        if shown.sum() < 50:
            continue
        factor, shift = _laid_into(nearness[shown], 1 / hull[number][shown], with_shift=relative)
        found = factor * nearness + shift
        good = (views.opacity[number] >= 0.5) & np.isfinite(found) & (found > 1e-9)
        depth[number] = np.divide(1, found, out=np.zeros(found.shape), where=good)
    first = dataclasses.replace(views, depth=depth)
    scales = view_scales.solve(first, with_shift=relative)
    apart = np.abs(np.log(np.maximum(scales.factors, 1e-6)))
    trusted = 0 < scales.noise < _TRUSTED * cube.side and bool((apart < 0.5).all())
    trusted &= scales.agreement > _AGREEING
    if not trusted or (scales.pairs > 0).mean() < 0.5:
        return views, 0.0, False
    return dataclasses.replace(views, depth=scales.applied(depth)), scales.noise, True


def _told(image: np.ndarray, model: monocular.DepthModel) -> np.ndarray:
    """(H, W) float32: what the model says of the square around the thing; NaN elsewhere."""
    height, width = image.shape[:2]
    rows, columns = np.nonzero(image[..., 3] >= 128)
    side = int(max(np.ptp(rows), np.ptp(columns)) * (1 + 2 * _ROOM)) + 2
    top = (int(rows.min()) + int(rows.max()) - side) // 2
    left = (int(columns.min()) + int(columns.max()) - side) // 2
    square = np.full((side, side, 3), _GROUND, np.float32)
    rows_in = slice(max(top, 0), min(top + side, height))
    columns_in = slice(max(left, 0), min(left + side, width))
    part = image[rows_in, columns_in]
    share = part[..., 3:].astype(np.float32) / 255
    inner = (
        slice(rows_in.start - top, rows_in.stop - top),
        slice(columns_in.start - left, columns_in.stop - left),
    )
    square[inner] = part[..., :3] * share + _GROUND * (1 - share)
    whole = Image.fromarray(np.rint(square).astype(np.uint8))
    picture = np.asarray(whole.resize((model.side, model.side), Image.Resampling.BICUBIC))
    told = np.asarray(model(picture), np.float32)
    back = Image.fromarray(told).resize((side, side), Image.Resampling.BILINEAR)
    out = np.full((height, width), np.nan, np.float32)
    out[rows_in, columns_in] = np.asarray(back)[inner]
    return out


def _laid_into(nearness: np.ndarray, hull: np.ndarray, *, with_shift: bool) -> tuple[float, float]:
    """factor, shift such that factor * nearness + shift is at most, and mostly about, 1 / depth of
    the hull (N,)."""
    columns = np.stack([nearness, np.ones_like(nearness)], axis=1).astype(np.float64)
    columns = columns if with_shift else columns[:, :1]
    weights = np.ones(len(hull))
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        solved = np.linalg.lstsq(columns * root[:, None], hull * root, rcond=None)[0]
        off = columns @ solved - hull
        spread = max(1.4826 * float(np.median(np.abs(off))), 1e-6 * float(hull.mean()))
        weights = np.where(off > 0, _BEFORE, 1 / (1 + (off / (2 * spread)) ** 2))
    return float(solved[0]), float(solved[1]) if with_shift else 0.0
