"""Colours and textures of meshes, from the pictures that they were made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ..conditions import cut_views
from ..errors import BadInput
from ..geometry import outline_fit, texture_baking, view_colors
from ..geometry.cameras import intrinsics_of_field
from ..protocol import (
    VIEW_CAMERAS,
    VIEW_DISTANCE,
    VIEW_FIELD,
    Generation,
    ViewsToMesh,
    view_poses,
)
from ..weights import Installed

NO_OUTLINES = (
    "The mesh has no colours: where the views show the thing cannot be told from their background."
    " Give views with transparent or plain backgrounds, and do not keep them."
)
ROUGH = "The mesh differs from the outlines of the views, so their colours lie on it only roughly."
_FITS = 0.8
_LARGEST = 2048
"""Texels along the side of a texture whose size nobody chose."""


@dataclass(frozen=True, eq=False)
class ColoredViews:
    """images: (V, H, W, 4) uint8 sRGB with opacity; poses: (V, 4, 4) float64 in the frame of the
    task. Distance and lens are not known: `painted` fits them."""

    images: np.ndarray
    poses: np.ndarray


@dataclass(frozen=True, eq=False)
class Painted:
    """colors: (N, 4) uint8 sRGB; texture: fields uv and texture of a MeshResult, or nothing; fits:
    (V,) share in which the outlines of mesh and views agree."""

    colors: np.ndarray
    texture: dict[str, Any]
    fits: np.ndarray

    @property
    def report(self) -> dict[str, Any]:
        told: dict[str, Any] = {"outlines": round(float(self.fits.mean()), 4)}
        if self.texture:
            told["texture_size"] = len(self.texture["texture"])
        return told


def views_of(task: Generation, model: Installed) -> tuple[ColoredViews | None, tuple[str, ...]]:
    """The views that a mesh can be coloured from, and what is to be told. None where the task has
    no pictures, where it is not known from where they are, or what in them is the thing."""
    if not isinstance(task, ViewsToMesh) or task.images is None or task.as_published:
        return None, ()
    numbers = task.cameras or tuple(model.cameras[: len(task.images)])
    if len(numbers) != len(task.images) or not set(numbers) <= set(VIEW_CAMERAS):
        return None, ()
    try:
        cut = cut_views.cut(task.images, None, task.background)
    except BadInput:
        return None, (NO_OUTLINES,)
    used = cut.plain & cut.shows
    if not used.any():
        return None, (NO_OUTLINES,)
    poses = view_poses(numbers, task.up_axis, VIEW_DISTANCE)[used]
    return ColoredViews(np.ascontiguousarray(cut.images[used]), poses), ()


def painted(
    views: ColoredViews, vertices: np.ndarray, faces: np.ndarray, cell: float, task: ViewsToMesh
) -> Painted:
    """A mesh in the colours of the views. vertices: (N, 3) in the frame of the task, faces (F, 3),
    at least one; cell: by how much the surface may be off, in the same units."""
    opacity = views.images[..., 3].astype(np.float32) / 255
    height, width = opacity.shape[1:]
    lens = intrinsics_of_field(float(np.degrees(VIEW_FIELD)), width, height)
    usual = np.repeat(lens[None], len(opacity), axis=0)
    intrinsics = outline_fit.fitted(opacity, views.poses, usual, vertices)
    by = view_colors.painters(views.images, views.poses, intrinsics, vertices, faces, cell)
    colors, _ = view_colors.vertex_colors(vertices, faces, by)
    texture: dict[str, Any] = {}
    if task.texture:
        pixel = VIEW_DISTANCE / float(np.median(intrinsics[:, :2]))
        fine = min(texture_baking.size_for(vertices, faces, pixel), _LARGEST)
        texture = baked(vertices, faces, colors, by, task.texture_size or fine)
    return Painted(colors, texture, outlines_agree(by, opacity))


def roughly(found: Painted) -> bool:
    """Whether the colours are likely off their places."""
    return bool(found.fits.mean() < _FITS)


def baked(
    vertices: np.ndarray,
    faces: np.ndarray,
    colors: np.ndarray,
    by: view_colors.Painters,
    size: int,
) -> dict[str, Any]:
    """Fields uv and texture of a MeshResult, of size x size texels. colors: (N, 4) uint8 of the
    vertices, for what no view sees."""
    atlas = texture_baking.unwrap(vertices, faces, size)
    normals = view_colors.vertex_normals(vertices, faces)
    picture = texture_baking.bake(
        vertices, faces, normals, colors, atlas, lambda p, n: view_colors.blend(p, n, by)
    )
    return {"uv": atlas.corners(), "texture": picture}


def outlines_agree(by: view_colors.Painters, opacity: np.ndarray, slack: int = 0) -> np.ndarray:
    """(V,) of what the mesh and a view's outline, (V, H, W) opacity, cover together, the share in
    which they agree; an outline may be off by `slack` pixels."""
    made, shown = np.isfinite(by.depth), opacity >= 0.5
    inner = outer = shown
    if slack:
        around = np.ones((1, 3, 3), bool)
        outer = ndimage.binary_dilation(shown, around, slack)
        inner = ndimage.binary_erosion(shown, around, slack, border_value=1)
    wrong = ((made & ~outer) | (inner & ~made)).sum(axis=(1, 2))
    return 1 - wrong / np.maximum((made | shown).sum(axis=(1, 2)), 1)
