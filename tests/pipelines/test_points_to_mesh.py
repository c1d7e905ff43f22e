from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from backend import pipelines
from backend.errors import BadInput, Cancelled, TooLarge
from backend.pipelines import Context
from backend.protocol import MeshResult, PointsToMesh, Progress, encode_result
from tests.pipelines import bodies
from tests.pipelines.bodies import Samples, finished, is_closed, steps, volume

BODIES: dict[str, Samples] = {
    "sphere": bodies.sphere(),
    "torus": bodies.torus(),
    "box": bodies.box(),
}


def _mesh(
    points: np.ndarray, normals: np.ndarray | None = None, colors: np.ndarray | None = None
) -> MeshResult:
    return finished(PointsToMesh(points=points, normals=normals, colors=colors, resolution=128))


@cache
def _fitted(name: str, given_normals: bool = False) -> MeshResult:
    """The mesh of one of BODIES; several tests look at it."""
    return _mesh(BODIES[name].points, BODIES[name].normals if given_normals else None)


def _distances(mesh: MeshResult, points: np.ndarray) -> np.ndarray:
    """From the points to the nearest vertices, in diagonals of the cloud."""
    tree = cKDTree(mesh.vertices.astype(np.float64))
    return tree.query(points.astype(np.float64))[0] / np.linalg.norm(np.ptp(points, axis=0))


# --- bodies whose surface is known


@pytest.mark.parametrize("given_normals", [True, False], ids=["normals", "no normals"])
@pytest.mark.parametrize("name", BODIES)
def test_a_closed_surface_that_faces_outward_and_lies_on_the_points(
    name: str, given_normals: bool
) -> None:
    body = BODIES[name]
    result = _fitted(name, given_normals)
    mesh = trimesh.Trimesh(result.vertices, result.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.body_count == 1
    assert mesh.euler_number == (0 if name == "torus" else 2)
    assert volume(result) == pytest.approx(body.volume, rel=0.01)
    distances = _distances(result, body.points)
    assert np.median(distances) < 0.003
    assert distances.max() < 0.012
    assert result.vertices.dtype == np.float32
    assert result.faces.dtype == np.int32
    assert result.colors is None


def test_no_vertex_of_a_sphere_is_far_from_it() -> None:
    radius = np.linalg.norm(_fitted("sphere").vertices, axis=1)
    assert abs(radius.mean() - 1) < 0.003
    assert radius.std() < 0.006
    assert np.abs(radius - 1).max() < 0.04


def test_normals_of_any_length_and_facing_inward() -> None:
    body = BODIES["torus"]
    expected = _fitted("torus", given_normals=True)
    inward = _mesh(body.points, -body.normals)
    assert volume(inward) == pytest.approx(body.volume, rel=0.01), "still outward"
    assert is_closed(inward)
    lengths = np.random.default_rng(0).uniform(0.1, 50, (len(body.points), 1)).astype(np.float32)
    longer = _mesh(body.points, body.normals * lengths)
    assert longer.vertices.shape == expected.vertices.shape
    np.testing.assert_allclose(longer.vertices, expected.vertices, atol=1e-4)


@pytest.mark.parametrize(
    ("bad", "every"), [(0.0, 1), (np.nan, 1), (0.0, 3), (np.nan, 40), (np.inf, 40), (0.0, 40)]
)
def test_normals_that_are_none(bad: float, every: int) -> None:
    body = BODIES["sphere"]
    normals = body.normals.copy()
    normals[::every] = bad
    result = _mesh(body.points, normals)
    assert is_closed(result)
    assert volume(result) == pytest.approx(body.volume, rel=0.01)
    assert result.report["normals"] == ("given" if every == 40 else "estimated")


def test_normals_that_cancel_are_told_about() -> None:
    points = np.repeat(BODIES["sphere"].points, 2, axis=0)
    normals = np.repeat(BODIES["sphere"].normals, 2, axis=0)
    normals[1::2] *= -1
    with pytest.raises(BadInput, match="surface") as caught:
        _mesh(points, normals)
    assert caught.value.remedy


# --- other frames


@pytest.mark.parametrize(
    ("scale", "offset"),
    [(1, 1e4), (1e-3, 0), (1e-3, 10), (1e-6, 0), (1e6, 0), (300, 1e6)],
)
def test_in_the_frame_of_its_source(scale: float, offset: float) -> None:
    body = BODIES["torus"]
    move = offset * np.array([1, -0.5, 0.25])
    points = (body.points.astype(np.float64) * scale + move).astype(np.float32)
    result = _mesh(points)
    # float32 itself has steps of this size out there.
    step = float(np.spacing(np.float32(max(offset, scale)))) / scale
    assert np.median(_distances(result, points)) < 0.003 + step
    here = dataclasses.replace(result, vertices=(result.vertices.astype(np.float64) - move) / scale)
    assert volume(here) == pytest.approx(body.volume, rel=0.01 + 4 * step)
    assert is_closed(result)
    middle = result.to_source @ np.array([0, 0, 0, 1])
    np.testing.assert_allclose(middle[:3], move, atol=0.02 * scale + step * scale)


def test_double_precision_points_are_used_as_they_are() -> None:
    body = BODIES["torus"]
    near = _fitted("torus")
    far = _mesh(body.points.astype(np.float64) + 1e6)
    # The fit happens around the middle, so only the vertices' own float32 is coarser.
    assert far.vertices.shape == near.vertices.shape
    np.testing.assert_array_equal(far.faces, near.faces)
    np.testing.assert_allclose(far.vertices.astype(np.float64) - 1e6, near.vertices, atol=0.07)


# --- awkward clouds


@pytest.mark.parametrize("distance", [2.5, 20.0, 1e4])
def test_thirty_points_far_away_do_not_shrink_it(distance: float) -> None:
    body = BODIES["sphere"]
    lonely = np.random.default_rng(1).normal(size=(30, 3))
    lonely *= distance / np.linalg.norm(lonely, axis=1, keepdims=True)
    result = _mesh(np.concatenate([body.points, lonely]).astype(np.float32))
    assert is_closed(result)
    assert volume(result) == pytest.approx(body.volume, rel=0.01)
    assert len(result.vertices) > 40_000, "as fine as without them"
    assert 25 <= result.report["outliers left out"] <= 35


def test_a_hole_is_closed_smoothly() -> None:
    body = BODIES["sphere"]
    kept = body.points[:, 2] < 0.8
    result = _mesh(body.points[kept])
    assert is_closed(result)
    assert volume(result) == pytest.approx(body.volume, rel=0.04)
    cap = result.vertices[result.vertices[:, 2] > 0.85]
    assert len(cap) > 100
    radius = np.linalg.norm(cap, axis=1)
    assert 0.8 < radius.min() <= radius.max() < 1.1


def test_fifty_points_are_enough() -> None:
    body = bodies.sphere(50)
    result = _mesh(body.points)
    assert is_closed(result)
    assert 0.8 * body.volume < volume(result) < 1.6 * body.volume
    assert 0.85 < np.median(np.linalg.norm(result.vertices, axis=1)) < 1.2


def test_points_that_come_twenty_times() -> None:
    once = _fitted("sphere")
    often = _mesh(np.repeat(BODIES["sphere"].points, 20, axis=0))
    assert volume(often) == pytest.approx(volume(once), rel=1e-3)
    assert is_closed(often)


def test_few_places_with_very_many_points() -> None:
    with pytest.raises(BadInput, match="places"):
        _mesh(np.repeat(bodies.sphere(12).points, 30, axis=0))


def test_two_clusters_far_apart() -> None:
    body = bodies.sphere(2000)
    moved = body.points + np.float32([15, 3, 0])
    result = _mesh(np.concatenate([body.points, moved]))
    mesh = trimesh.Trimesh(result.vertices, result.faces, process=False)
    assert mesh.is_watertight
    assert mesh.body_count == 2
    assert volume(result) == pytest.approx(2 * body.volume, rel=0.06)


def test_an_open_scan_is_closed() -> None:
    body = BODIES["sphere"]
    result = _mesh(body.points[body.points[:, 2] < 0.2], body.normals[body.points[:, 2] < 0.2])
    assert is_closed(result)
    assert volume(result) > 0.5 * body.volume


def test_noise_without_any_surface_still_gives_a_closed_mesh() -> None:
    result = _mesh(np.random.default_rng(0).random((3000, 3)).astype(np.float32))
    assert is_closed(result)
    assert volume(result) > 0
    assert np.isfinite(result.vertices).all()


def _lattice() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, (400, 3)).astype(np.float32)


def _nearly_flat() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(300, 3)) * [1, 1, 1e-3]


def _nearly_a_line() -> np.ndarray:
    random = np.random.default_rng(2)
    return random.random((300, 1)) * [1, 2, 3] + random.normal(size=(300, 3)) * 3e-3


def _heavy_tails() -> np.ndarray:
    return np.random.default_rng(3).standard_cauchy((500, 3))


@pytest.mark.parametrize("cloud", [_lattice, _nearly_flat, _nearly_a_line, _heavy_tails])
@pytest.mark.parametrize("given_normals", [False, True], ids=["no normals", "random normals"])
def test_clouds_that_are_no_surface_give_a_closed_mesh(
    cloud: Callable[[], np.ndarray], given_normals: bool
) -> None:
    points = cloud()
    normals = np.random.default_rng(5).normal(size=points.shape) if given_normals else None
    result = _mesh(points, normals)
    assert is_closed(result)
    assert volume(result) > 0
    # Inside the cube of the fit, which is a ninth longer than the box of the points.
    reach = np.abs(result.vertices - result.to_source[:3, 3]).max()
    assert reach <= 1.01 * result.to_source[0, 0]


def test_half_precision_points() -> None:
    body = BODIES["torus"]
    result = _mesh(body.points.astype(np.float16), body.normals.astype(np.float16))
    assert is_closed(result)
    assert volume(result) == pytest.approx(body.volume, rel=0.01)


# --- colours


def test_colors_are_carried_over() -> None:
    body = BODIES["sphere"]
    colors = np.rint((body.points[:, [0, 1, 2, 0]] + 1) * 127.5).astype(np.uint8)
    result = _mesh(body.points, colors=colors)
    assert result.colors is not None
    assert result.colors.shape == (len(result.vertices), 4)
    assert result.colors.dtype == np.uint8
    expected = (result.vertices[:, [0, 1, 2, 0]] + 1) * 127.5
    error = np.abs(result.colors - expected)
    assert np.median(error) < 4
    assert error.max() < 25
    plain = _fitted("sphere")
    np.testing.assert_array_equal(plain.vertices, result.vertices)


# --- what cannot be done


def _altered(change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return change(BODIES["sphere"].points.copy())


def _with(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(points: np.ndarray) -> np.ndarray:
        points[7, 1] = value
        return points

    return change


@pytest.mark.parametrize(
    "changes",
    [
        {"points": _altered(lambda p: p[:49])},
        {"points": _altered(lambda p: p[:0])},
        {"points": _altered(_with(np.nan))},
        {"points": _altered(_with(np.inf))},
        {"points": _altered(lambda p: p * 0 + 3)},
        {"points": _altered(lambda p: p * np.float32([1, 1, 0]))},
        {"points": _altered(lambda p: p * np.float32([0, 1, 0]))},
        {"points": _altered(lambda p: p.ravel())},
        {"points": _altered(lambda p: p[:, :2])},
        {"points": _altered(lambda p: p.astype(np.int32))},
        {"points": [[0.0, 0, 0]] * 60},
        {"normals": np.zeros((3, 3), np.float32)},
        {"normals": np.zeros((3000, 4), np.float32)},
        {"colors": np.zeros((3000, 3), np.uint8)},
        {"colors": np.zeros((3000, 4), np.float32)},
        {"resolution": 100},
        {"resolution": 128.0},
        {"resolution": 1024},
        {"seed": -1},
        {"seed": 1.5},
        {"name": ""},
        {"name": "x" * 256},
        {"model": "no such model"},
        {"model": 3},
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_remedy(changes: dict[str, object]) -> None:
    task = PointsToMesh(**{"points": BODIES["sphere"].points, "resolution": 128, **changes})
    with pytest.raises(BadInput) as caught:
        next(pipelines.run(task, Context("cpu")))
    assert caught.value.cause
    assert caught.value.remedy


def test_too_many_points_are_refused_at_once() -> None:
    points = np.broadcast_to(np.zeros(3, np.float32), (50_000_001, 3))
    with pytest.raises(TooLarge):
        next(pipelines.run(PointsToMesh(points=points), Context("cpu")))


# --- cancelling, progress, report


@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_cancelling_at_any_step(after: int) -> None:
    unwanted = False
    task = PointsToMesh(points=BODIES["sphere"].points, resolution=128)
    running = pipelines.run(task, Context("cpu", cancelled=lambda: unwanted))
    for _ in range(after):
        assert isinstance(next(running), Progress)
    unwanted = True
    with pytest.raises(Cancelled):
        next(running)
    with pytest.raises(StopIteration):
        next(running)


def test_cancelling_is_asked_about_often() -> None:
    """Never longer without a question than a third of the job."""
    asked: list[float] = []

    def cancelled() -> bool:
        asked.append(time.perf_counter())
        return False

    task = PointsToMesh(points=bodies.torus(20_000).points, resolution=128)
    finished(task, Context("cpu"))
    began = time.perf_counter()
    finished(task, Context("cpu", cancelled))
    ended = time.perf_counter()
    waits = [b - a for a, b in itertools.pairwise([began, *asked, ended])]
    assert len(asked) > 10
    assert max(waits) < 0.6 * (ended - began)


def test_progress_grows_and_the_report_has_the_facts() -> None:
    body = BODIES["torus"]
    colors = np.zeros((len(body.points), 4), np.uint8)
    task = PointsToMesh(name="Ring", points=body.points, colors=colors, resolution=128, seed=5)
    progress, result = steps(task)
    fractions = [step.fraction for step in progress]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert 0.9 <= fractions[-1] <= 1
    stages = [stage for stage, _ in itertools.groupby(step.stage for step in progress)]
    assert len(stages) == len(set(stages)), "no stage comes back"
    assert result.name == "Ring"
    report = result.report
    assert report["vertices"] == len(result.vertices)
    assert report["faces"] == len(result.faces)
    assert list(report["seconds"]) == stages
    assert all(seconds >= 0 for seconds in report["seconds"].values())
    assert report["device"] == "cpu"
    assert report["model"] == "wavelet-fit"
    assert report["seed"] == 5
    assert report["resolution"] == 128
    assert report["normals"] == "estimated"
    assert encode_result(result), "the report can be sent"


# --- the same bytes


_DIGEST = """
import hashlib, sys
import numpy as np
from backend.protocol import PointsToMesh, VoxelsToMesh
from tests.pipelines import bodies
body = bodies.torus(4000)
colors = np.arange(16000, dtype=np.uint32).astype(np.uint8).reshape(4000, 4)
found = hashlib.sha256()
for task in (
    PointsToMesh(points=body.points, colors=colors, resolution=128),
    PointsToMesh(points=body.points, normals=body.normals, resolution=128),
    VoxelsToMesh(occupancy=np.random.default_rng(0).random((20, 12, 9)) < 0.4, resolution=128),
):
    result = bodies.finished(task)
    for part in (result.vertices, result.faces, result.colors, result.to_source):
        found.update(b"" if part is None else part.tobytes())
print(found.hexdigest())
"""


def _run(script: str, threads: int) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_same_bytes_whatever_the_number_of_threads() -> None:
    assert _run(_DIGEST, 1) == _run(_DIGEST, 2)


def test_the_same_bytes_again_and_the_source_stays_as_it_was() -> None:
    body = BODIES["torus"]
    points, normals = body.points.copy(), body.normals.copy()
    points.flags.writeable = normals.flags.writeable = False
    first, second = _fitted("torus", given_normals=True), _mesh(points, normals)
    assert first.vertices.tobytes() == second.vertices.tobytes()
    assert first.faces.tobytes() == second.faces.tobytes()
    np.testing.assert_array_equal(points, body.points)


# --- large clouds


_MILLION = """
import resource
import numpy as np
from backend.protocol import PointsToMesh
from tests.pipelines import bodies
normals = np.random.default_rng(0).standard_normal((1_000_000, 3), np.float32)
normals /= np.linalg.norm(normals, axis=1, keepdims=True)
bodies.finished(PointsToMesh(points=bodies.torus(500).points, resolution=128))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = bodies.finished(PointsToMesh(points=normals, resolution=128))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert bodies.is_closed(result)
assert abs(bodies.volume(result) / (4 / 3 * np.pi) - 1) < 0.01
print((after - before) / 1024)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_a_million_points_in_bounded_memory() -> None:
    assert float(_run(_MILLION, 2)) < 700, "MB"
