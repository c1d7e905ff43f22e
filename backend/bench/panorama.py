"""How true spheres of panoramas are, and how fast they are built, in rooms known exactly."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..depth_meanings import DepthMeaning, values_of
from ..geometry import panorama_views, sphere
from ..protocol import SphereResult, sphere_radii
from . import analytic_rooms
from .analytic_rooms import Cast, Room

ROOMS = {"living room": analytic_rooms.LIVING_ROOM, "courtyard": analytic_rooms.COURTYARD}
WIDTHS = (512, 1024, 2048)
EYES_NEAR = ((0.0325, 0.0, 0.0), (0.0, 0.0325, 0.0))
EYES_FAR = ((0.35, 0.25, 0.1), (0.0, -0.3, 0.05))
_YAWS = (10.0, 150.0)
_SIZE = 512


def rows() -> Iterator[dict[str, Any]]:
    """For each room, width and kind of edges: peak signal-to-noise ratios (dB) of views from eyes
    aside, holes, errors of the vertices, seam, poles, walls, and seconds."""
    for name, room in ROOMS.items():
        cast = analytic_rooms.panorama(room, max(WIDTHS))
        truths = {eye: _truths(room, eye) for eye in (*EYES_NEAR, *EYES_FAR)}
        for width in WIDTHS:
            for edges in ("sheet", "cut"):
                yield {
                    "room": name,
                    "width": width,
                    "edges": edges,
                    **_row(cast, truths, width, edges),
                }


def _truths(room: Room, eye: tuple[float, float, float]) -> list[Cast]:
    return [analytic_rooms.view(room, eye, yaw, -5.0, 90.0, _SIZE) for yaw in _YAWS]


def _row(cast: Cast, truths: dict[Any, list[Cast]], width: int, edges: str) -> dict[str, Any]:
    sphere.build(cast.colors, cast.depth, width=width, edges=edges)  # compiled by now
    began = time.perf_counter()
    built = sphere.build(cast.colors, cast.depth, width=width, edges=edges)
    seconds = time.perf_counter() - began
    near, near_holes = _likeness(built, truths, EYES_NEAR)
    far, far_holes = _likeness(built, truths, EYES_FAR)
    seam, poles = seam_and_pole_errors(built)
    return {
        "dB_3_cm": round(near, 2),
        "dB_0.3_m": round(far, 2),
        "holes": max(near_holes, far_holes),
        "origin_difference": round(origin_difference(built), 5),
        "seam_mm": round(1000 * seam, 3),
        "pole_mm": round(1000 * poles, 3),
        "seconds": round(seconds, 3),
    }


def _likeness(
    built: SphereResult, truths: dict[Any, list[Cast]], eyes: Iterable[tuple[float, float, float]]
) -> tuple[float, float]:
    """Mean dB of the views of several eyes, and the largest share of holes."""
    found, holes = [], 0.0
    for eye in eyes:
        for yaw, truth in zip(_YAWS, truths[eye], strict=True):
            seen = panorama_views.perspective(built, eye, yaw, -5.0, 90.0, _SIZE)
            found.append(decibels(seen.colors, truth.colors))
            holes = max(holes, seen.holes)
    return float(np.mean(found)), holes


def decibels(seen: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio of colours 0..255."""
    error = np.mean((seen.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


def origin_difference(built: SphereResult) -> float:
    """Mean absolute difference, 0..1, of all that the eye at the origin sees from the picture."""
    height, width = built.image.shape[:2]
    seen = panorama_views.stereo_eye(built, 0.0, width, height, samples=1)
    return float(np.abs(seen.colors - built.image[..., :3]).mean() / 255)


def seam_and_pole_errors(built: SphereResult) -> tuple[float, float]:
    """Metres. Seam: by how much a vertex of the last column is more off the line through its two
    neighbours across the seam than those beside it are, mean over the rows. Poles: by how much the
    tip of a fan differs from the mean of its ring. 0 where the front is cut there or has sky."""
    front = built.layer("front")
    assert front is not None  # noqa: S101 - every sphere has one
    radius = sphere_radii(front, built.meaning).astype(np.float64)
    azimuth = np.arctan2(front.directions[:, 1], front.directions[:, 0])
    bends: dict[str, float] = {}
    step = 2 * np.pi / max(built.report["width"], 1)
    altitude = np.rint(np.arcsin(np.clip(front.directions[:, 2], -1, 1)) / (step / 2)).astype(int)
    for name, middle in (("seam", np.pi - step / 2), ("beside", np.pi - 4.5 * step)):
        columns = [
            {int(row): float(at) for row, at in zip(altitude[near], radius[near], strict=True)}
            for near in (
                np.flatnonzero(np.abs(_turned(azimuth - middle - k * step)) < step / 4)
                for k in (-1, 0, 1)
            )
        ]
        shared = set.intersection(*(set(column) for column in columns))
        off = [abs(columns[1][r] - (columns[0][r] + columns[2][r]) / 2) for r in shared]
        bends[name] = float(np.median(off)) if off else 0.0
    tips = []
    for sign in (1, -1):
        at = sign * front.directions[:, 2]
        tip = np.flatnonzero(at > 1 - 1e-9)
        ring = (at > np.cos(step * 0.75)) & (at <= 1 - 1e-9)
        if len(tip) and ring.any():
            tips.append(abs(float(radius[tip[0]]) - float(radius[ring].mean())))
    return max(bends["seam"] - bends["beside"], 0.0), max(tips, default=0.0)


def _turned(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def vertex_errors(built: SphereResult, depth: np.ndarray) -> np.ndarray:
    """Metres, of every vertex of the front that stands on a pixel which was sampled from the true
    depth (h, w)."""
    front = built.layer("front")
    assert front is not None  # noqa: S101 - every sphere has one
    height, width = depth.shape
    around = built.report["width"]
    x, y, z = front.directions.T.astype(np.float64)
    column = (0.5 - np.arctan2(y, x) / (2 * np.pi)) * width - 0.5
    row = (0.5 - np.arcsin(np.clip(z, -1, 1)) / np.pi) * height - 0.5
    j, i = np.rint(column).astype(int), np.rint(row).astype(int)
    exact = (np.abs(column - j) < 0.02) & (np.abs(row - i) < 0.02) & (np.abs(z) < 1 - 1e-9)
    exact &= np.isin(j % width, ((np.arange(around) + 0.5) * (width / around)).astype(int))
    exact &= np.isin(i, ((np.arange(around // 2) + 0.5) * (2 * height / around)).astype(int))
    truth = depth[np.clip(i, 0, height - 1), j % width]
    exact &= np.isfinite(truth)
    return np.abs(sphere_radii(front, built.meaning) - truth)[exact]


def as_inverse(depth: np.ndarray, bits: int = 0) -> tuple[np.ndarray, DepthMeaning]:
    """Depth in metres as inverse depth, float32 or of 8 or 16 bits, between its ends."""
    finite = depth[np.isfinite(depth)]
    near, far = float(finite.min()), float(finite.max())
    meaning = DepthMeaning(meaning="inverse", near=near, far=far)
    values = values_of(depth, meaning)
    values[~np.isfinite(depth)] = np.nan
    if not bits:
        return values, meaning
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.rint(np.nan_to_num(values) * np.iinfo(dtype).max).astype(dtype), meaning
