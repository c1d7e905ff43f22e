"""Objects of the scene as depth pictures, and as views from the model's cameras.

Depth is worked out from the triangles in a thread (`pictures`), exact and the same everywhere; the
graphics card draws what has materials, and scenes of so many triangles that reading them would
hold up Blender.
"""

from __future__ import annotations

import numpy as np

from ..capture import Facts
from ..compose import PictureCapture
from ..pictures import (
    LONGEST_DEPTH,
    VIEW_SIDE,
    DepthCapture,
    DepthPicture,
    ViewPictures,
    ViewsCapture,
    cube_around,
    cube_projection,
    cube_views,
    fitted,
)
from . import cameras, offscreen, surfaces

MOST_TRIANGLES = 4_000_000


def depth_facts(context) -> Facts:
    found = surfaces.facts(context)
    if found.reason:
        return found
    hindrance = cameras.missing(context)
    if hindrance is not None:
        return hindrance
    from_view = context.scene.fieldforge.seen_from == "VIEW"
    where = "the view" if from_view else context.scene.camera.name
    return Facts(f"{found.text}, through {where}")


def capture_depth(context) -> PictureCapture:
    items, seen = surfaces.chosen(context), cameras.seen(context)
    name = surfaces.name_of(items, context)
    if surfaces.count_triangles(context, items) > MOST_TRIANGLES and offscreen.available(context):
        with offscreen.only(context, items):
            size = fitted(seen.size, LONGEST_DEPTH)
            _, depth = offscreen.draw(context, seen.view, seen.projection, size, "SOLID")
        return DepthPicture(name, depth, seen.view, seen.projection)
    return DepthCapture(name, surfaces.parts(context, items), seen.view, seen.projection, seen.size)


def views_facts(context, model: dict) -> Facts:
    found = surfaces.facts(context)
    if found.reason or not model.get("views"):
        return found
    what = "depth views" if model.get("view_kind") == "depth" else "views"
    return Facts(f"{found.text}, in {model['views']} {what}")


def capture_views(context, model: dict) -> PictureCapture:
    """As the model's cameras see the chosen objects. model: as the backend lists it."""
    items = surfaces.chosen(context)
    name, parts = surfaces.name_of(items, context), surfaces.parts(context, items)
    numbers = tuple(int(number) for number in model["cameras"])
    kind = "depth" if model.get("view_kind") == "depth" else "image"
    if kind == "depth" or not offscreen.available(context):
        return ViewsCapture(name, parts, numbers, kind)
    low, high = surfaces.bounds(parts)
    matrix = cube_around(low, high)
    return ViewPictures(name, _drawn(context, items, matrix, numbers), matrix)


def _drawn(context, items, matrix: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
    """(V, H, W, 4) uint8, row 0 at the top: the objects in the cube that `matrix` names."""
    scale, centre = matrix[0, 0], matrix[:3, 3]
    shading = "MATERIAL" if context.scene.fieldforge.textured_views else "SOLID"
    images = []
    with offscreen.only(context, items):
        for view in cube_views(numbers):
            to_camera = view.copy()
            to_camera[:3, 3] = view[:3, 3] * scale - view[:3, :3] @ centre
            size = (VIEW_SIDE, VIEW_SIDE)
            drawn, _ = offscreen.draw(context, to_camera, cube_projection(scale), size, shading)
            images.append(drawn[::-1])
    return np.stack(images)
