"""Surfaces from points beside screened Poisson reconstruction: time and quality in one run.

Twelve varied shapes (examples/bench_shapes.npz: thin legs, leaves, holes, boxes, organic, many
parts). The truth is the closing TSDF of each at 256^3; points are drawn from its surface. IoU at
128^3, chamfer distance (mean of both directions' mean) and F-score at 1 % in units of the
diagonal. Screened Poisson (Kazhdan and Hoppe 2013), depth 8, is Open3D's where it can be imported,
else PyMeshLab's, the slower one; where there are no normals it gets 30-neighbour ones that the
same library orients consistently, and the better of the two global sides.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..geometry import tsdf
from ..geometry.isosurface import marching_cubes
from ..geometry.threads import thread_count
from ..pipelines import Context, run
from ..protocol import MeshResult, PointsToMesh
from ..training.metrics import sample_surface, score

Row = dict[str, Any]

SHAPES = Path(__file__).resolve().parents[2] / "examples" / "bench_shapes.npz"
RESOLUTION = 256
NOISE = 0.005
CASES = ("clean, normals", "clean, no normals", "noisy, no normals")


@dataclass(frozen=True, eq=False)
class Truth:
    """A shape to be found again. field: (256,)^3 closing TSDF; surface in the cube."""

    name: str
    inside: np.ndarray
    vertices: np.ndarray
    faces: np.ndarray

    @property
    def diagonal(self) -> float:
        return float(np.linalg.norm(np.ptp(self.vertices, axis=0)))


def rows(counts: tuple[int, ...] = (20_000, 100_000)) -> Iterator[Row]:
    """One row per number of points, case and method (means), and one per shape of it."""
    truths = list(shapes())
    _method_ours(*sample(truths[0], 2_000, 0)[:2])  # compiles
    for count in counts:
        for case in CASES:
            found: dict[str, list[Row]] = {"wavelet-fit": [], "screened Poisson": []}
            for truth in truths:
                points, normals = cloud(truth, count, case)
                for method, measured in found.items():
                    row = _measured(truth, method, points, normals)
                    measured.append(row)
                    yield {"points": count, "case": case, "shape": truth.name, **row}
            for method, measured in found.items():
                yield _means(count, case, method, measured)


def shapes() -> Iterator[Truth]:
    """The truths, one after another."""
    with np.load(SHAPES) as arrays:
        names = sorted(key.removesuffix("_faces") for key in arrays if key.endswith("_faces"))
        for name in names:
            field, _ = tsdf.mesh_tsdf(
                arrays[f"{name}_vertices"].astype(np.float64), arrays[f"{name}_faces"]
            )
            vertices, faces = marching_cubes(field)
            yield Truth(
                name, field[::2, ::2, ::2] < 0, vertices * np.float32(2 / len(field)) - 1, faces
            )


def sample(truth: Truth, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and true normals (count, 3) float32, uniform by area."""
    return sample_surface(truth.vertices, truth.faces, count, np.random.default_rng(seed))


def cloud(truth: Truth, count: int, case: str) -> tuple[np.ndarray, np.ndarray | None]:
    points, normals = sample(truth, count, 0)
    if case.startswith("noisy"):
        random = np.random.default_rng(1)
        points = points + random.normal(0, NOISE * truth.diagonal, points.shape)
    return points.astype(np.float32), None if "no normals" in case else normals


# ---------------------------------------------------------------------------------------- methods


def _method_ours(points: np.ndarray, normals: np.ndarray | None) -> list[Any]:
    task = PointsToMesh(points=points, normals=normals, resolution=RESOLUTION)
    *_, result = run(task, Context("cpu"))
    if not isinstance(result, MeshResult):
        raise TypeError(f"the pipeline ended with {type(result).__name__}")
    return [(result.vertices, result.faces)]


def _method_poisson(points: np.ndarray, normals: np.ndarray | None) -> list[Any]:
    try:
        library: Any = importlib.import_module("open3d")
    except ImportError:
        vertices, faces = _poisson_of_meshlab(points, normals)
    else:
        vertices, faces = _poisson_of_open3d(library, points, normals)
    return [(vertices, faces), (vertices, np.ascontiguousarray(faces[:, ::-1]))]


def _poisson_of_open3d(
    library: Any, points: np.ndarray, normals: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    cloud = library.geometry.PointCloud(library.utility.Vector3dVector(points))
    if normals is None:
        cloud.estimate_normals(library.geometry.KDTreeSearchParamKNN(30))
        cloud.orient_normals_consistent_tangent_plane(30)
    else:
        cloud.normals = library.utility.Vector3dVector(normals)
    build = library.geometry.TriangleMesh.create_from_point_cloud_poisson
    mesh, _ = build(cloud, depth=8, n_threads=thread_count())
    return (
        np.asarray(mesh.vertices).astype(np.float32),
        np.asarray(mesh.triangles).astype(np.int32),
    )


def _poisson_of_meshlab(
    points: np.ndarray, normals: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    library: Any = importlib.import_module("pymeshlab")
    meshes = library.MeshSet()
    if normals is None:
        meshes.add_mesh(library.Mesh(points.astype(np.float64)))
        meshes.compute_normal_for_point_clouds(k=30)
        normals = meshes.current_mesh().vertex_normal_matrix()
        meshes.clear()
    meshes.add_mesh(
        library.Mesh(points.astype(np.float64), v_normals_matrix=np.asarray(normals, np.float64))
    )
    meshes.generate_surface_reconstruction_screened_poisson(depth=8, threads=thread_count())
    mesh = meshes.current_mesh()
    return mesh.vertex_matrix().astype(np.float32), mesh.face_matrix().astype(np.int32)


METHODS = {"wavelet-fit": _method_ours, "screened Poisson": _method_poisson}


# --------------------------------------------------------------------------------------- measures


def _measured(truth: Truth, method: str, points: np.ndarray, normals: np.ndarray | None) -> Row:
    begin = time.perf_counter()
    candidates = METHODS[method](points, normals)
    seconds = time.perf_counter() - begin
    scores = [
        _scores(truth, *candidate) for candidate in candidates[: 1 if normals is not None else 2]
    ]
    return {"method": method, **max(scores, key=lambda score: score["IoU"]), "seconds": seconds}


def _scores(truth: Truth, vertices: np.ndarray, faces: np.ndarray) -> Row:
    found = score((vertices, faces), (truth.vertices, truth.faces), inside_truth=truth.inside)
    return {"IoU": found.iou, "chamfer": found.chamfer, "F at 1 %": found.f_score}


def _means(count: int, case: str, method: str, measured: list[Row]) -> Row:
    numbers = ("IoU", "chamfer", "F at 1 %", "seconds")
    means = {key: float(np.mean([row[key] for row in measured])) for key in numbers}
    return {"points": count, "case": case, "shape": "MEAN", "method": method, **means}


def main() -> int:
    from ..bench_tables import table

    print(table(list(rows())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
