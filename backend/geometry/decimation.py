"""Fewer faces for nearly the same surface: quadric error metrics (Garland and Heckbert 1997).

MeshLab's implementation was chosen: it keeps closed meshes closed, and needs no system library
(Open3D's does). The benchmark has the others.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from ..errors import BadInput, NotFound


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
    # Around the origin and of unit size, for the quadrics are squares of coordinates.
    centre = vertices.mean(axis=0, dtype=np.float64)
    scale = 1 / (float(np.abs(vertices - centre).max()) or 1.0)
    library = _meshlab()
    meshes = library.MeshSet()
    meshes.add_mesh(library.Mesh((vertices - centre) * scale, np.asarray(faces, np.int32)))
    meshes.meshing_decimation_quadric_edge_collapse(
        targetfacenum=target_faces, preservetopology=True, qualitythr=0.3
    )
    fewer = meshes.current_mesh()
    places = fewer.vertex_matrix() / scale + centre
    return places.astype(np.float32), fewer.face_matrix().astype(np.int32)


def _meshlab() -> Any:
    try:
        return importlib.import_module("pymeshlab")
    except ImportError:
        raise NotFound(
            "PyMeshLab is not installed, which reducing the faces needs.",
            "Install it into the backend's environment: pip install pymeshlab",
        ) from None
