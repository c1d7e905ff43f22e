"""Pictures with known cameras -> one closed mesh with colours and a texture."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import device as devices
from .. import weights
from ..conditions import cut_views
from ..errors import BadInput
from ..geometry import texture_baking, view_colors, view_scales
from ..geometry.transforms import apply_to_points
from ..geometry.view_fusion import Cube, Fused, PosedViews, find_cube, fuse, misfits
from ..posed_views import intrinsics_of_field, same_cameras
from ..protocol import MeshResult, PanoramaToDepth, Progress, Result, Task, ViewsToScene
from ..weights import Installed
from . import Context, memory
from .stages import Stages
from .surface_colors import baked, outlines_agree

_FINE = 256
_COARSE = 128
_FINE_FROM = 160
"""Pixels across the thing from which on the finer grid is worth its time."""
_BYTES_PER_PIXEL = 60
_BYTES_PER_NODE = 12
_FITS = 0.9  # share of its outline that the result shares with a view that fits
_UNSEEN = 0.5
_UPRIGHT = 0.7


def to_scene(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Cut the views out, bring their depths to one scale, fuse them, paint the surface.

    Without depth a model of the store tells it; where there is none, outlines alone decide, and the
    report says so. Raises BadInput where the views cannot be of one thing, OutOfMemory.
    """
    assert isinstance(task, ViewsToScene)  # noqa: S101 - the table of pipelines says so
    stages = Stages(context)
    warnings: list[str] = []
    task = _without_empty_depths(task, warnings)
    yield stages.at("Cutting out the views", 0.0)
    pixels = task.images.shape[0] * task.images.shape[1] * task.images.shape[2]
    side = task.resolution or _FINE
    needed = pixels * _BYTES_PER_PIXEL + side**3 * _BYTES_PER_NODE
    texels = task.texture_size**2 if task.texture else 0
    memory.require(max(needed, texels * texture_baking.BYTES_PER_TEXEL), "cpu")
    cut, views, used = _views(task, warnings)
    yield stages.at("Finding the object", 0.1)
    cut, views, used = _without_misfits(cut, views, used, warnings)
    cube = _cube(task, views)
    resolution = task.resolution or _resolution(views, cube)
    noise, told = 0.0, "given" if views.depth is not None else "none"
    if views.depth is None:
        model = depth_model()
        if model is not None:
            yield stages.at("Asking for depth", 0.2)
            from . import view_depths  # here: it brings torch, which takes seconds to import

            device = devices.pick(context.device)
            asked = view_depths.estimate(cut, views, cube, view_depths.load(model, device))
            views, noise, trusted = yield from stages.of(asked)
            told = model.id if trusted else "none"
            if not trusted:
                warnings.append(_DISAGREE)
    else:
        yield stages.at("Comparing depths", 0.2)
        views, noise = _at_one_scale(views, cube, resolution, warnings)
        if not task.extent:
            cube = find_cube(views)
    if views.depth is None and told == "none":
        warnings.append(_OUTLINES_ONLY)
    yield stages.at("Fusing", 0.3)
    fused = fuse(views, cube, resolution, noise)
    _check_cameras_outside(fused, views, used)
    vertices, faces = fused.surface()
    yield stages.at("Colouring", 0.6)
    cell = cube.side / resolution
    by = view_colors.painters(cut, views.poses, views.intrinsics, vertices, faces, max(cell, noise))
    colors, seen = view_colors.vertex_colors(vertices, faces, by)
    texture: dict[str, Any] = {}
    if task.texture:
        yield stages.at("Baking the texture", 0.75)
        pixel = _pixel(views, cube)
        size = task.texture_size or texture_baking.size_for(vertices, faces, pixel)
        texture = baked(vertices, faces, colors, by, size)
    fits = outlines_agree(by, views.opacity)
    coverage = _coverage(vertices, faces, seen, warnings)
    _tell_misfits(outlines_agree(by, views.opacity, slack=1), used, warnings)
    report = {
        "model": task.model,
        "device": "cpu",
        "views": len(task.images),
        "views_used": len(views),
        "depth": told,
        "outlines": round(float(fits.mean()), 4),
        "coverage": coverage,
        "noise": round(noise, 6),
        "resolution": resolution,
        "vertices": len(vertices),
        "faces": len(faces),
        "warnings": warnings,
        "seconds": stages.seconds(),
    }
    if texture:
        report["texture_size"] = len(texture["texture"])
    yield MeshResult(
        name=task.name,
        vertices=_placed(vertices),
        faces=faces,
        colors=colors,
        to_source=cube.to_world(),
        report=report,
        **texture,
    )


_OUTLINES_ONLY = (
    "There is no depth: the outlines alone made the shape, so hollows that no outline shows are"
    " filled. Render depth with the views, or download a depth model."
)
_EMPTY_DEPTHS = "The depths that were given are empty everywhere: they were not used."
_DISAGREE = "What the depth model tells of the views does not fit together; it was not used."
_ONE_VIEW = "There is one view only: the sides that it does not show are made up."


# ------------------------------------------------------------------------------------------- views


def _without_empty_depths(task: ViewsToScene, warnings: list[str]) -> ViewsToScene:
    """Depth that is empty in every view tells nothing, not that there is nothing."""
    if task.depths is None or cut_views.known(task.depths).any():
        return task
    warnings.append(_EMPTY_DEPTHS)
    return dataclasses.replace(task, depths=None)


def _views(task: ViewsToScene, warnings: list[str]) -> tuple[np.ndarray, PosedViews, np.ndarray]:
    """Pictures with opacity, the same as views, and the numbers of those that are of use."""
    found = cut_views.cut(task.images, task.depths, task.background)
    height, width = task.images.shape[1:3]
    intrinsics = task.intrinsics
    if intrinsics is None:
        intrinsics = intrinsics_of_field(task.field, width, height, len(task.images))
    kept = found.shows.copy()
    if not kept.any():
        raise BadInput(
            "The pictures are empty: none shows anything before its background.",
            "Check that the object was visible when they were rendered, or keep the background.",
        )
    if not kept.all():
        warnings.append(f"{_numbers(~kept)} shows nothing and was left out.")
    if task.depths is None and not found.plain.all():
        warnings.append(f"{_numbers(~found.plain)} has no plain background and was left out.")
        kept &= found.plain
    for first, second in same_cameras(task.poses):
        if kept[first] and kept[second]:
            warnings.append(f"Cameras {first + 1} and {second + 1} are the same; one was used.")
            kept[second] = False
    if task.depths is None and kept.sum() < 2:
        raise BadInput(
            "Only one of the views can be used, and one without depth shows one side of the thing.",
            "Give several views from around it, with transparent or plain backgrounds.",
        )
    if kept.sum() == 1:
        warnings.append(_ONE_VIEW)
    used = np.flatnonzero(kept)
    images = np.ascontiguousarray(found.images[used])
    depth = None
    if task.depths is not None:
        depth = task.depths[used].astype(np.float32)
        depth[~cut_views.known(depth)] = 0
    views = PosedViews(
        images[..., 3].astype(np.float32) / 255,
        depth,
        task.poses[used].astype(np.float64),
        intrinsics[used].astype(np.float64),
    )
    return images, views, used


def _numbers(which: np.ndarray) -> str:
    named = [str(number + 1) for number in np.flatnonzero(which)]
    if len(named) == 1:
        return f"View {named[0]}"
    return f"Each of views {', '.join(named[:-1])} and {named[-1]}"


def _without_misfits(
    images: np.ndarray, views: PosedViews, used: np.ndarray, warnings: list[str]
) -> tuple[np.ndarray, PosedViews, np.ndarray]:
    if len(views) < 4:
        return images, views, used
    rough = find_cube(views, tolerated=max(1, len(views) // 5))
    odd = misfits(views, rough)
    if not odd.any() or odd.mean() > 0.4:
        return images, views, used
    flags = np.zeros(int(used.max()) + 1, bool)
    flags[used[odd]] = True
    warnings.append(
        f"{_numbers(flags)} has an outline that takes away what the others show; left out."
    )
    return images[~odd], views.only(~odd), used[~odd]


def _cube(task: ViewsToScene, views: PosedViews) -> Cube:
    if task.extent:
        return Cube(task.center, task.extent)
    return find_cube(views)


def _pixel(views: PosedViews, cube: Cube) -> float:
    """How large a pixel is on the thing, in the world."""
    away = np.linalg.norm(views.poses[:, :3, 3] - np.array(cube.center), axis=1)
    return float(np.median(away / views.intrinsics[:, :2].max(axis=1)))


def _resolution(views: PosedViews, cube: Cube) -> int:
    return _FINE if cube.side * 0.9 / _pixel(views, cube) >= _FINE_FROM else _COARSE


def _at_one_scale(
    views: PosedViews, cube: Cube, resolution: int, warnings: list[str]
) -> tuple[PosedViews, float]:
    """The views with depths that agree, and the noise that is left in them."""
    assert views.depth is not None  # noqa: S101
    if len(views) < 2:
        return views, 0.0
    scales = view_scales.solve(views)
    if scales.before <= 0.25 * cube.side / resolution:
        return views, scales.before
    off = float(np.abs(scales.factors - 1).max())
    warnings.append(
        f"The depths of the views differ in scale, by up to {100 * off:.1f} %; this was made even."
    )
    if scales.noise > 0.03 * cube.side:
        share = 100 * scales.noise / cube.side
        warnings.append(
            f"The depths of the views differ by {share:.0f} % of the thing: its surface is a mean"
            " of them. Measured ones must be along the camera's axis."
        )
    return dataclasses.replace(views, depth=scales.applied(views.depth)), scales.noise


def depth_model() -> Installed | None:
    """The model of the store that tells depth from a picture; None where there is none."""
    able = weights.ranked(PanoramaToDepth.kind)
    return next((model for model in able if model.family == "panorama-depth"), None)


def _check_cameras_outside(fused: Fused, views: PosedViews, used: np.ndarray) -> None:
    inverse = np.linalg.inv(fused.cube.to_world())
    nodes = (apply_to_points(inverse, views.poses[:, :3, 3]) + 1) / 2 * len(fused.field)
    for number, node in zip(used, np.rint(nodes).astype(int), strict=True):
        if (node >= 0).all() and (node < len(fused.field)).all() and fused.field[tuple(node)] < 0:
            raise BadInput(
                f"Camera {number + 1} is inside the object.",
                "Move it out: this makes things that are seen from around, not rooms.",
            )


# ---------------------------------------------------------------------------------------- painting


def _placed(vertices: np.ndarray) -> np.ndarray:
    """float32, but for what is so far away that it would be blurred."""
    far = np.abs(vertices).max() > 1e4 * np.ptp(vertices, axis=0).max()
    return vertices if far else vertices.astype(np.float32)


# ------------------------------------------------------------------------------------------ report


def _tell_misfits(fits: np.ndarray, used: np.ndarray, warnings: list[str]) -> None:
    odd = fits < _FITS
    if odd.mean() > 0.5:
        warnings.append(
            "The outlines of the views differ from one another, as those of painted views do: the"
            " shape is what most of them show."
        )
    elif odd.any():
        flags = np.zeros(int(used.max()) + 1, bool)
        flags[used[odd]] = True
        warnings.append(
            f"{_numbers(flags)} does not fit the others well: check its camera and its outline."
        )


def _coverage(
    vertices: np.ndarray, faces: np.ndarray, seen: np.ndarray, warnings: list[str]
) -> float:
    """Share of the surface that some view sees; tells of a top or a bottom that none does."""
    corners = vertices[faces].astype(np.float64)
    doubled = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(doubled, axis=1)
    shown = (seen[faces] > 0).mean(axis=1)
    upright = doubled[:, 2] / np.maximum(area, 1e-30)
    for name, side in (("top", upright > _UPRIGHT), ("bottom", upright < -_UPRIGHT)):
        total = area[side].sum()
        if total > 0.01 * area.sum() and (area * shown)[side].sum() < _UNSEEN * total:
            warnings.append(
                f"No view shows the {name}: it is made up. Add a view from"
                f" {'above' if name == 'top' else 'below'}."
            )
    return round(float((area * shown).sum() / max(area.sum(), 1e-30)), 4)
