"""What a finished job brought back, ready for the scene. No bpy.

Frames: the backend answers in the `task` frame (compose.py); `to_local` leads from there into the
space of the object's mesh, so that a place in the scene can be told to the backend again later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend.errors import BadInput
from ..backend.protocol import MeshResult, NeuralField, Result, meshes_of
from .compose import PlacedMesh, Placement, place

GAP = 0.15


@dataclass(frozen=True, eq=False)
class Arrival:
    """One mesh. latent: (C, 12, 12, 12) float32 it was decoded from, or None; report: of the
    backend; neural: the field that it was made of, or None."""

    mesh: PlacedMesh
    seed: int
    latent: np.ndarray | None
    report: dict[str, Any]
    neural: NeuralField | None = None


def arrivals_of(result: Result, placement: Placement, seed: int) -> list[Arrival]:
    """The meshes of a result that show something. Raises BadInput when none does."""
    meshes = meshes_of(result)
    full = [(number, mesh) for number, mesh in enumerate(meshes) if len(mesh.faces)]
    if not full and meshes:
        place(meshes[0], placement)  # says what is wrong with it
    return [_arrival(mesh, placement, seed + number) for number, mesh in full]


def _arrival(mesh: MeshResult, placement: Placement, seed: int) -> Arrival:
    told = mesh.report.get("seed")
    seed = told if type(told) is int else seed
    return Arrival(place(mesh, placement), seed, mesh.latent, mesh.report, mesh.neural)


def formed(result: Result, placement: Placement) -> list[PlacedMesh | None]:
    """The previews of a job, one per variation; None where there is no surface yet."""
    return [place(mesh, placement) if len(mesh.faces) else None for mesh in meshes_of(result)]


def to_local(placement: Placement) -> np.ndarray:
    """(4, 4) float64 from the task frame into the local one."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.linalg.inv(placement.linear)
    matrix[:3, 3] = matrix[:3, :3] @ placement.centre
    return matrix


def placement_of(local: np.ndarray, matrix_world: np.ndarray) -> Placement:
    """The placement whose `to_local` is `local`: how a result gets into an object that is there."""
    linear = np.linalg.inv(local[:3, :3])
    return Placement(matrix_world, linear, linear @ local[:3, 3])


def region_of(box: np.ndarray, matrix_world: np.ndarray, local: np.ndarray) -> np.ndarray:
    """(4, 4) float64 from the box [-1, 1]^3 to the task frame of an object, wherever that is now.

    box: matrix_world of the box; matrix_world, local: of the object. Raises BadInput.
    """
    there = matrix_world @ local
    if abs(np.linalg.det(there[:3, :3])) < 1e-18:
        raise BadInput(
            "The object is flat: its scale is zero.", "Give it a size in all three axes."
        )
    return np.linalg.solve(there, box)


def landmarks(vertices: np.ndarray) -> np.ndarray:
    """(L,) indices of vertices (N, 3) by which a later transform of them all can be told."""
    ends = [vertices.argmin(axis=0), vertices.argmax(axis=0)]
    spread = np.linspace(0, len(vertices) - 1, 10).astype(np.int64)
    return np.unique(np.concatenate([*ends, spread]))


def transform_between(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    """(4, 4) float64 that leads points (L, 3) from one place to the other; None when no single
    transform does, or when the points do not tell."""
    size = float(np.ptp(after, axis=0).max())
    if np.abs(after - before).max() <= 1e-6 * size:
        return np.eye(4)
    known = np.c_[before, np.ones(len(before))].astype(np.float64)
    solution, _, rank, _ = np.linalg.lstsq(known, after.astype(np.float64), rcond=1e-7)
    if rank < 4 or np.abs(known @ solution - after).max() > 1e-4 * size:
        return None
    matrix = np.eye(4)
    matrix[:3] = solution.T
    return matrix


def row_offsets(
    extents: list[tuple[float, float]], beside: tuple[float, float] | None
) -> list[float]:
    """How far to move each of several shapes along X so that they stand side by side.

    extents: (lowest, highest) x of each; beside: of what they stand beside, or None.
    """
    gap = GAP * max(high - low for low, high in extents)
    edge = extents[0][0] if beside is None else beside[1] + gap
    offsets = []
    for low, high in extents:
        offsets.append(edge - low)
        edge += high - low + gap
    return offsets


def extent_along_x(mesh: PlacedMesh, matrix_world: np.ndarray) -> tuple[float, float]:
    """(lowest, highest) x in the world of a mesh under a transform."""
    a, b, c, shift = matrix_world[0].astype(np.float32)
    x, y, z = mesh.vertices.T
    along = a * x + b * y + c * z  # no matrix product: its threads would wait for each other
    return float(along.min() + shift), float(along.max() + shift)
