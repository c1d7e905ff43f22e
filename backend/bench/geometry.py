"""How fast the geometry is beside well-kept libraries that do the same, and whether it agrees.

`python -m backend.bench.geometry` prints the table. Libraries that are not installed are left out.
Times are the best of a few calls, first calls (compilation) apart.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import FieldforgeError
from ..geometry import decimation, isosurface, tsdf, wavelets

Row = dict[str, Any]
Surface = tuple[np.ndarray, np.ndarray]

RESOLUTION = 256
SHAPES = Path(__file__).resolve().parents[2] / "examples" / "bench_shapes.npz"


def rows() -> Iterator[Row]:
    """All measurements, as they are made."""
    yield from wavelet_rows()
    yield from isosurface_rows()
    yield from distance_rows()
    yield from decimation_rows()


def _timed(work: Callable[[], Any], repeats: int = 5) -> tuple[float, Any]:
    """Seconds of the fastest of `repeats` calls, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        begin = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - begin)
    return best, result


def _library(name: str) -> Any | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _sphere_torus(resolution: int) -> np.ndarray:
    axis = -1 + 2 * np.arange(resolution) / resolution
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    sphere = np.sqrt((x + 0.42) ** 2 + (y - 0.10) ** 2 + (z - 0.05) ** 2) - 0.36
    ring = np.sqrt((x - 0.40) ** 2 + (y + 0.06) ** 2) - 0.34
    torus = np.sqrt(ring**2 + (z - 0.02) ** 2) - 0.13
    return np.clip(np.minimum(sphere, torus), -0.1, 0.1).astype(np.float32)


# ---------------------------------------------------------------------------------------- wavelets


def wavelet_rows() -> Iterator[Row]:
    pywt: Any = _library("pywt")
    volume = torch.from_numpy(_sphere_torus(RESOLUTION))
    full = wavelets.forward(volume)
    packed = wavelets.Tree(full.low, (*full.highs[:-1], None))
    cases = {
        "inverse, all bands": (lambda: wavelets.inverse(full), lambda: _waverecn(full)),
        "inverse, finest bands zero": (
            lambda: wavelets.inverse(packed),
            lambda: _waverecn(packed),
        ),
        "forward": (
            lambda: wavelets.forward(volume).low,
            lambda: torch.from_numpy(pywt.wavedecn(volume.numpy(), "bior6.8", "constant", 3)[0]),
        ),
    }
    for what, (ours, theirs) in cases.items():
        seconds, result = _timed(ours)
        their_seconds, expected = _timed(theirs, 3)
        yield _row("wavelet " + what, "ours", seconds, their_seconds / seconds)
        error = float((result - expected).abs().max())
        yield _row("", "PyWavelets", their_seconds, 1.0, f"largest difference {error:.1e}")


def _waverecn(tree: wavelets.Tree) -> torch.Tensor:
    """PyWavelets' inverse; bands that are None are left out there too."""
    pywt: Any = _library("pywt")
    levels: list[Any] = [tree.low.numpy()]
    for high in tree.highs:
        bands = [] if high is None else list(enumerate(high.numpy(), start=1))
        levels.append({_letters(number): band for number, band in bands})
    return torch.from_numpy(pywt.waverecn(levels, "bior6.8", "constant"))


def _letters(number: int) -> str:
    return "".join("ad"[number >> axis & 1] for axis in range(3))


# -------------------------------------------------------------------------------------- isosurface


def isosurface_rows() -> Iterator[Row]:
    field = _sphere_torus(RESOLUTION)
    isosurface.marching_cubes(field)
    seconds, (vertices, faces) = _timed(lambda: isosurface.marching_cubes(field))
    others: dict[str, Callable[[], Any]] = {}
    measure, mcubes = _library("skimage.measure"), _library("mcubes")
    if measure:
        others["scikit-image"] = lambda: measure.marching_cubes(field, 0)
    if mcubes:
        others["PyMCubes"] = lambda: mcubes.marching_cubes(field, 0)
    measured = {name: _timed(work, 3) for name, work in others.items()}
    ratio = measured["scikit-image"][0] / seconds if measured else None
    closed = "watertight" if _is_closed(vertices, faces) else "OPEN"
    note = f"{len(vertices):,} vertices, {closed}"
    yield _row(f"isosurface {RESOLUTION}^3", "ours", seconds, ratio, note)
    for name, (their_seconds, result) in measured.items():
        apart = _furthest_apart(vertices, np.asarray(result[0]))
        ratio = measured["scikit-image"][0] / their_seconds
        note = f"{len(result[0]):,} vertices, at most {apart:.1e} cells apart"
        yield _row("", name, their_seconds, ratio, note)


def _furthest_apart(first: np.ndarray, second: np.ndarray) -> float:
    """The largest distance from a vertex of one to the nearest of the other, both ways."""
    from scipy.spatial import cKDTree

    ways = (cKDTree(second).query(first)[0], cKDTree(first).query(second)[0])
    return float(max(way.max() for way in ways))


def _is_closed(vertices: np.ndarray, faces: np.ndarray) -> bool:
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    forward, backward = (edges @ (len(vertices), 1), edges @ (1, len(vertices)))
    forward.sort()
    backward.sort()
    return bool((np.diff(forward) > 0).all() and np.array_equal(forward, backward))


# ---------------------------------------------------------------------------------------- distance


def distance_rows(queries: int = 100_000) -> Iterator[Row]:
    """Unsigned distance from random points near the surface to 164k triangles."""
    vertices, faces = isosurface.marching_cubes(_sphere_torus(RESOLUTION))
    random = np.random.default_rng(0)
    points = vertices[random.integers(0, len(vertices), queries)].astype(np.float64)
    points += random.normal(scale=3, size=points.shape)
    exact = None
    for name, (build, query, share) in _distance_libraries().items():
        module = _library(name)
        if module is None or (name == "trimesh" and _library("rtree") is None):
            continue
        asked = points[: int(queries * share)]
        built, structure = _timed(partial(build, module, vertices, faces), 1)
        seconds, distances = _timed(partial(query, module, structure, asked), 2)
        if exact is None:
            exact, best = distances, seconds
        error = float(np.abs(distances - exact[: len(asked)]).max())
        note = f"structure {built:.2f} s, largest difference {error:.1e}"
        per_100k = seconds / share * (100_000 / queries)
        what = "distance of 100k points" if exact is distances else ""
        yield _row(what, name, per_100k, best * (100_000 / queries) / per_100k, note)


Build = Callable[[Any, np.ndarray, np.ndarray], Any]
Query = Callable[[Any, Any, np.ndarray], np.ndarray]


def _distance_libraries() -> dict[str, tuple[Build, Query, float]]:
    """How each builds its structure, how it is asked, and which share of the points to ask."""
    return {
        "open3d": (
            lambda _, v, f: tsdf.Open3DDistance(v, f),
            lambda _, s, p: s(p.astype(np.float32)),
            1.0,
        ),
        "igl": (
            lambda _, v, f: (v.astype(np.float64), f.astype(np.int64)),
            lambda m, s, p: np.sqrt(m.point_mesh_squared_distance(p, *s)[0]),
            1.0,
        ),
        "point_cloud_utils": (
            lambda _, v, f: (v.astype(np.float64), f.astype(np.int64)),
            lambda m, s, p: m.closest_points_on_mesh(p, *s)[0],
            1.0,
        ),
        "trimesh": (
            lambda m, v, f: m.proximity.ProximityQuery(m.Trimesh(v, f, process=False)),
            lambda _, s, p: s.on_surface(p)[1],
            0.02,
        ),
    }


# -------------------------------------------------------------------------------------- decimation


def decimation_rows(target: int = 20_000) -> Iterator[Row]:
    """To 20,000 faces, of a smooth shape and of one with thin sheets."""
    fields = {"smooth": _sphere_torus(RESOLUTION)}
    if SHAPES.is_file():
        with np.load(SHAPES) as shapes:
            plant = shapes["plant_vertices"].astype(np.float32), shapes["plant_faces"].astype(int)
        fields["sheets"] = tsdf.mesh_tsdf(*plant, RESOLUTION)[0]
    for what, field in fields.items():
        surface = isosurface.marching_cubes(field)
        slowest = None
        for name, work in _decimators(*surface, target).items():
            if _library(name) is None:
                continue
            seconds, fewer = _timed(work, 1)
            slowest = slowest or seconds
            state = "watertight" if _is_closed(*fewer) else "NOT WATERTIGHT"
            mean, largest = _deviation(surface, fewer)
            note = f"{len(fewer[1]):,} faces, {state}, off by {mean:.3f} mean, {largest:.2f} cells"
            title = f"decimation, {what}, {len(surface[1]):,} faces" if name == "pymeshlab" else ""
            yield _row(title, name, seconds, slowest / seconds, note)


def _decimators(
    vertices: np.ndarray, faces: np.ndarray, target: int
) -> dict[str, Callable[[], Surface]]:
    return {
        "pymeshlab": lambda: decimation.decimate(vertices, faces, target),
        "open3d": lambda: _with_open3d(vertices, faces, target),
        "fast_simplification": lambda: _with_fast_simplification(vertices, faces, target),
        "manifold3d": lambda: _with_manifold(vertices, faces, target),
    }


def _with_fast_simplification(vertices: np.ndarray, faces: np.ndarray, target: int) -> Surface:
    library: Any = _library("fast_simplification")
    fewer: Surface = library.simplify(vertices, faces, target_count=target)
    return fewer


def _with_open3d(vertices: np.ndarray, faces: np.ndarray, target: int) -> Surface:
    library: Any = _library("open3d")
    mesh = library.geometry.TriangleMesh(
        library.utility.Vector3dVector(vertices.astype(np.float64)),
        library.utility.Vector3iVector(faces.astype(np.int32)),
    ).simplify_quadric_decimation(target)
    return np.asarray(mesh.vertices), np.asarray(mesh.triangles)


def _with_manifold(vertices: np.ndarray, faces: np.ndarray, target: int) -> Surface:
    """It takes a tolerance, not a number of faces: it grows until they are few enough."""
    library: Any = _library("manifold3d")
    mesh = library.Manifold(library.Mesh(vertices, faces.astype(np.uint32)))
    tolerance = 0.05
    while mesh.num_tri() > target and tolerance < 2:
        mesh = mesh.simplify(tolerance)
        tolerance *= 1.5
    found = mesh.to_mesh()
    return found.vert_properties[:, :3], found.tri_verts


def _deviation(first: Surface, second: Surface, samples: int = 20_000) -> tuple[float, float]:
    """Mean and largest distance between two surfaces, from random vertices of each."""
    random = np.random.default_rng(0)
    distances = []
    for source, target in ((first, second), (second, first)):
        points = source[0][random.integers(0, len(source[0]), samples)]
        distances.append(tsdf.distance_to(*target)(points.astype(np.float32)))
    return float(np.mean(distances)), float(np.max(distances))


# ------------------------------------------------------------------------------------------- print


def _row(what: str, library: str, seconds: float, ratio: float | None, note: str = "") -> Row:
    return {
        "what": what,
        "library": library,
        "seconds": round(seconds, 4),
        "times faster": None if ratio is None else round(ratio, 2),
        "note": note,
    }


def main() -> int:
    from ..bench_tables import table

    try:
        print(table(list(rows())))
    except FieldforgeError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
