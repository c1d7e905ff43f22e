"""Voxels become a smooth watertight mesh that keeps the centre of every voxel on its side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..geometry.transforms import apply_to_faces, apply_to_points, fine_dtype
from ..models import wavelet_fit
from ..protocol import MeshResult, Progress, Result, Task, VoxelsToMesh
from . import Context, memory
from .stages import Stages


def voxels_to_mesh(task: Task, context: Context) -> Iterator[Progress | Result]:
    """Fit and extract. Vertices come back in the frame of `task.origin`. Runs on the CPU."""
    assert isinstance(task, VoxelsToMesh)  # noqa: S101 - the table of pipelines says so
    memory.require(wavelet_fit.bytes_for_voxels(task.occupancy, task.resolution), "cpu")
    stages = Stages(context)
    field = yield from stages.of(
        wavelet_fit.fit_voxels(
            task.occupancy.astype(bool),
            np.array(task.origin, float),
            np.array(task.voxel_size, float),
            task.resolution,
            context.check_cancelled,
        )
    )
    yield stages.at("Extracting the surface", 0.9)
    vertices, faces = field.surface()
    context.check_cancelled()
    yield MeshResult(
        name=task.name,
        vertices=apply_to_points(field.to_source, vertices, fine_dtype(field.to_source)),
        faces=np.ascontiguousarray(apply_to_faces(field.to_source, faces), np.int32),
        to_source=field.to_source,
        report={
            **field.report,
            "vertices": len(vertices),
            "faces": len(faces),
            "seconds": stages.seconds(),
            "device": "cpu",
            "model": task.model,
            "seed": task.seed,
            "resolution": task.resolution,
        },
    )
