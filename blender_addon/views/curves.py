"""Curve objects -> the lines that cameras stand along. Main thread only; cheap enough to draw."""

from __future__ import annotations

import bpy
import numpy as np

from ...backend.errors import BadInput
from .paths import Line, bezier, length_of, nurbs


def line_of(item: bpy.types.Object) -> Line:
    """The first spline of a curve object that is long, in the world. Raises BadInput."""
    matrix = np.array(item.matrix_world, np.float64)
    for spline in item.data.splines:
        if spline.point_count_v > 1:  # a surface
            continue
        points = _points(spline, item.name)
        if len(points) < 2:
            continue
        line = Line(points @ matrix[:3, :3].T + matrix[:3, 3], spline.use_cyclic_u)
        if np.isfinite(line.points).all() and length_of(line) > 0:
            return line
    raise BadInput(
        f"{item.name} has no line to go along.", "Draw a curve of at least two points in it."
    )


def _points(spline: bpy.types.Spline, name: str) -> np.ndarray:
    """(P, 3) float64 in the space of the object."""
    if spline.type == "BEZIER":
        controls = [
            (each.handle_left[:], each.co[:], each.handle_right[:]) for each in spline.bezier_points
        ]
        return bezier(np.array(controls, np.float64).reshape(-1, 3, 3), spline.use_cyclic_u)
    points = np.array([each.co[:] for each in spline.points], np.float64).reshape(-1, 4)
    if spline.type == "POLY" or len(points) < 2:
        return points[:, :3]
    if spline.use_bezier_u:
        raise BadInput(
            f"{name} is a NURBS curve made of Bezier pieces, which is not understood.",
            "Turn Bezier U off in its properties, or convert it to a Bezier curve.",
        )
    return nurbs(points, spline.order_u, spline.use_cyclic_u, spline.use_endpoint_u)
