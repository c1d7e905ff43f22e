"""Point clouds of bodies whose surface is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend import pipelines
from backend.pipelines import Context
from backend.protocol import MeshResult, Progress, Task


@dataclass(frozen=True, eq=False)
class Samples:
    """points, normals: (N, 3) float32, outward; volume of the body."""

    points: np.ndarray
    normals: np.ndarray
    volume: float


def sphere(count: int = 3000, radius: float = 1.0, seed: int = 0) -> Samples:
    normals = np.random.default_rng(seed).normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = (normals * radius).astype(np.float32)
    return Samples(points, normals.astype(np.float32), 4 / 3 * np.pi * radius**3)


def torus(count: int = 6000, ring: float = 1.0, tube: float = 0.4, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    u, v, accept = random.random((3, 4 * count))
    u, v = 2 * np.pi * u, 2 * np.pi * v
    kept = accept < (ring + tube * np.cos(v)) / (ring + tube)
    u, v = u[kept][:count], v[kept][:count]
    normals = np.stack([np.cos(v) * np.cos(u), np.cos(v) * np.sin(u), np.sin(v)], axis=1)
    points = ring * np.stack([np.cos(u), np.sin(u), 0 * u], axis=1) + tube * normals
    volume = 2 * np.pi**2 * ring * tube**2
    return Samples(points.astype(np.float32), normals.astype(np.float32), volume)


def box(count: int = 8000, size: tuple[float, float, float] = (2, 1, 1.5)) -> Samples:
    random = np.random.default_rng(0)
    half = np.array(size) / 2
    area = np.prod(half) / half
    axis = random.choice(3, count, p=area / area.sum())
    side = random.choice([-1.0, 1.0], count)
    points = random.uniform(-1, 1, (count, 3)) * half
    points[np.arange(count), axis] = side * half[axis]
    normals = np.zeros((count, 3))
    normals[np.arange(count), axis] = side
    return Samples(
        points.astype(np.float32), normals.astype(np.float32), float(np.prod(np.array(size)))
    )


def finished(task: Task, context: Context | None = None) -> MeshResult:
    """The result of a task on the CPU."""
    *_, result = pipelines.run(task, context or Context("cpu"))
    assert isinstance(result, MeshResult)
    return result


def steps(task: Task) -> tuple[list[Progress], MeshResult]:
    """The progress of a task, and its result."""
    *progress, result = pipelines.run(task, Context("cpu"))
    assert isinstance(result, MeshResult)
    assert all(isinstance(step, Progress) for step in progress)
    return progress, result


def volume(mesh: MeshResult) -> float:
    """The volume that the faces enclose; negative when they face inward."""
    vertices = mesh.vertices.astype(np.float64)
    vertices -= vertices.mean(axis=0)
    a, b, c = (vertices[mesh.faces[:, corner]] for corner in range(3))
    return float(np.einsum("fc,fc->f", a, np.cross(b, c)).sum() / 6)


def is_closed(mesh: MeshResult) -> bool:
    """Whether each edge has one face on either side, facing the same way. (An edge that several
    parts share has as many on one side as on the other.)"""
    edges = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    count = len(mesh.vertices)
    forth = np.sort(edges[:, 0].astype(np.int64) * count + edges[:, 1])
    back = np.sort(edges[:, 1].astype(np.int64) * count + edges[:, 0])
    return len(forth) > 0 and np.array_equal(forth, back) and bool((np.diff(forth) > 0).all())
