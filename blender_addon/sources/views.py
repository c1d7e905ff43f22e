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
    count = len(_used(context, model))
    if not count:
        return Facts(found.text, "No view is chosen", "Turn at least one of the views on.")
    what = "depth view" if model.get("view_kind") == "depth" else "view"
    return Facts(f"{found.text}, in {count} {what}{'' if count == 1 else 's'}")


def _used(context, model: dict) -> tuple[int, ...]:
    """Numbers of the cameras that the objects are seen from: all, unless the model can do with some
    of them and the person wants just those."""
    numbers = tuple(int(number) for number in model.get("cameras", ()))
    if not model.get("any_views"):
        return numbers
    wanted = (*context.scene.fieldforge.used_views, *(True,) * len(numbers))
    return tuple(number for number, used in zip(numbers, wanted, strict=False) if used)


def capture_views(context, model: dict) -> PictureCapture:
    """As the model's cameras see the chosen objects. model: as the backend lists it."""
    items = surfaces.chosen(context)
    name, parts = surfaces.name_of(items, context), surfaces.parts(context, items)
    numbers = _used(context, model)
    kind = "depth" if model.get("view_kind") == "depth" else "image"
    if kind == "depth" or not offscreen.available(context):
        return ViewsCapture(name, parts, numbers, kind)
    low, high = surfaces.bounds(parts)
    matrix = cube_around(low, high)
    return ViewPictures(name, _drawn(context, items, matrix, numbers), matrix, numbers)


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
