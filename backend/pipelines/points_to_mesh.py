"""A point cloud becomes a watertight mesh that lies on it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from .. import device as devices
from ..errors import BadInput
from ..geometry.components import supported
from ..geometry.pointcloud import nearest_colors, thin
from ..geometry.transforms import apply_to_points, fine_dtype, inverse
from ..models import wavelet_fit
from ..protocol import MeshResult, PointsToMesh, Progress, Result, Task
from . import Context, memory
from .stages import Stages


def points_to_mesh(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Fit, extract, colour. Vertices come back in the frame of `task.points`."""
    assert isinstance(task, PointsToMesh)  # noqa: S101 - the table of pipelines says so
    device = torch.device(devices.pick(context.device))
    memory.require(wavelet_fit.bytes_for_points(len(task.points), task.resolution), device.type)
    stages = Stages(context)
    field = yield from stages.of(
        wavelet_fit.fit_points(
            task.points, task.normals, task.resolution, device, context.check_cancelled
        )
    )
    yield stages.at("Extracting the surface", 0.9)
    vertices, faces = field.surface()
    if not len(faces):
        raise BadInput(
            "The points and their normals do not describe a surface.",
            "Recalculate the normals of the cloud, or remove them: they are then estimated.",
        )
    points = apply_to_points(inverse(field.to_source), task.points)
    vertices, faces = supported(vertices, faces, points, least=min(8 + len(points) // 2000, 24))
    colors = None
    if task.colors is not None:
        yield stages.at("Carrying the colours over", 0.95)
        colors = carried_over(vertices, points, task.colors, task.resolution)
    context.check_cancelled()
    is_double = task.points.dtype == np.float64
    yield MeshResult(
        name=task.name,
        vertices=apply_to_points(
            field.to_source, vertices, fine_dtype(field.to_source) if is_double else np.float32
        ),
        faces=np.ascontiguousarray(faces, np.int32),
        colors=colors,
        to_source=field.to_source,
        report={
            **field.report,
            "vertices": len(vertices),
            "faces": len(faces),
            "seconds": stages.seconds(),
            "device": str(device),
            "model": task.model,
            "seed": task.seed,
            "resolution": task.resolution,
        },
    )


def carried_over(
    vertices: np.ndarray, points: np.ndarray, colors: np.ndarray, resolution: int
) -> np.ndarray:
    """The colours (V, 4) uint8 of the points nearest to each vertex."""
    if len(points) > 500_000:
        # More than a few points per vertex add time and memory, and no colour.
        points, thinned = thin(points, 0.5 / resolution, colors)
        colors = np.rint(thinned).astype(np.uint8)
    return nearest_colors(vertices, points, colors)
