"""Fewer faces for nearly the same surface: quadric error metrics (Garland and Heckbert 1997).

Open3D's implementation was chosen for keeping closed meshes closed; the benchmark has the others.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from ..errors import BadInput, NotFound

_HALF_SIZE = 1e4


def decimate(
    vertices: np.ndarray, faces: np.ndarray, target_faces: int
) -> tuple[np.ndarray, np.ndarray]:
    """Collapse edges until at most `target_faces` are left, or no edge can be collapsed any more.

    vertices (V, 3), faces (F, 3) -> vertices float32 and faces int32; the same ones where there are
    few enough. A closed mesh stays closed. Raises BadInput for a target below 4.
    """
    if target_faces < 4:
        raise BadInput(
            f"{target_faces} faces cannot enclose anything.", "Ask for at least 4 faces."
        )
    if len(faces) <= target_faces:
        return vertices.astype(np.float32), faces.astype(np.int32)
    # Around the origin, for the quadrics are squares of coordinates, and large, for Open3D takes
    # the quadrics of small edges as singular and then places vertices by a poorer rule.
    centre = vertices.mean(axis=0, dtype=np.float64)
    scale = _HALF_SIZE / (float(np.abs(vertices - centre).max()) or 1.0)
    mesh = _open3d_mesh((vertices - centre) * scale, faces)
    mesh = mesh.simplify_quadric_decimation(target_faces)
    fewer = np.asarray(mesh.vertices) / scale + centre
    return fewer.astype(np.float32), np.asarray(mesh.triangles).astype(np.int32)


def _open3d_mesh(vertices: np.ndarray, faces: np.ndarray) -> Any:
    try:
        open3d: Any = importlib.import_module("open3d")
    except ImportError:
        raise NotFound(
            "Open3D is not installed, which reducing the faces needs.",
            "Install it into the backend's environment: pip install open3d-cpu",
        ) from None
    return open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(np.ascontiguousarray(vertices, np.float64)),
        open3d.utility.Vector3iVector(np.ascontiguousarray(faces, np.int32)),
    )
