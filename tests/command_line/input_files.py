"""Small inputs and results for the tests of the command line, good ones and bad ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from backend.pipelines import Context
from backend.protocol import MeshResult, Progress, Task


def ball(count: int = 200, seed: int = 0) -> np.ndarray:
    """(count, 3) float32 points on the unit sphere."""
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def write_ply(path: Path, points: np.ndarray, claimed: int | None = None) -> Path:
    """A binary PLY of `points`; its header can claim another number of them."""
    count = len(points) if claimed is None else claimed
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
    header += "property float x\nproperty float y\nproperty float z\nend_header\n"
    path.write_bytes(header.encode() + np.ascontiguousarray(points, "<f4").tobytes())
    return path


def write_voxels(path: Path, occupancy: np.ndarray) -> Path:
    """WaLa's JSON form of a cubic grid."""
    occupied = np.argwhere(occupancy).tolist()
    record = {"resolution": len(occupancy), "occupancy": occupied, "color": []}
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def png() -> bytes:
    """The first bytes of any PNG picture."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + bytes(600)


def octahedron_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """The volume inside a triangle mesh; positive when its normals point outward."""
    a, b, c = (vertices[faces[:, i]].astype(float) for i in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def octahedron(task: Task, context: Context) -> Iterator[Progress | MeshResult]:
    """A pipeline that takes no time: an octahedron, whatever the task."""
    context.check_cancelled()
    yield Progress("Looking", 0.25)
    yield Progress("Building", 0.75)
    corners = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    faces = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    colors = np.full((6, 4), 200, np.uint8)
    yield MeshResult(
        name=task.name,
        vertices=corners,
        faces=np.array(faces, np.int32),
        colors=colors if getattr(task, "colors", None) is not None else None,
        report={"device": "cpu", "model": task.model, "seconds": {"Looking": 0.1, "Building": 0.2}},
    )
