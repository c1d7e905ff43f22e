from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from backend import pipelines
from backend.errors import BadInput, Cancelled, TooLarge
from backend.geometry.components import parts
from backend.geometry.voxels import iou, occupancy_of_mesh
from backend.models import wavelet_fit
from backend.pipelines import Context
from backend.protocol import MeshResult, Progress, VoxelsToMesh, encode_result
from tests.pipelines.bodies import finished, is_closed, steps, volume

UNIT = (1.0, 1.0, 1.0)
CORNER = (0.0, 0.0, 0.0)


def _mesh(
    occupancy: np.ndarray,
    size: tuple[float, float, float] = UNIT,
    origin: tuple[float, float, float] = CORNER,
    resolution: int = 128,
) -> MeshResult:
    return finished(
        VoxelsToMesh(occupancy=occupancy, voxel_size=size, origin=origin, resolution=resolution)
    )


def _voxelised(
    mesh: MeshResult,
    shape: tuple[int, ...],
    size: tuple[float, float, float] = UNIT,
    origin: tuple[float, float, float] = CORNER,
) -> np.ndarray:
    grid = (shape[0], shape[1], shape[2])
    return occupancy_of_mesh(mesh.vertices, mesh.faces, grid, np.array(origin), np.array(size))


def _ball(side: int, radius: float) -> np.ndarray:
    place = np.indices((side,) * 3) - (side - 1) / 2
    return (place**2).sum(axis=0) < radius**2


def _one(side: int, *index: int | slice) -> np.ndarray:
    occupancy = np.zeros((side,) * 3, bool)
    occupancy[index] = True
    return occupancy


def _ring() -> np.ndarray:
    x, y, z = np.indices((50, 50, 20))
    return (np.hypot(x - 24.5, y - 24.5) - 16) ** 2 + (z - 9.5) ** 2 < 36


def _slab(thickness: float) -> np.ndarray:
    x, y, z = np.indices((40, 40, 40))
    return np.abs(0.5 * x + 0.3 * y + 0.81 * z - 32) < thickness / 2


def _noise(shape: tuple[int, int, int], share: float) -> np.ndarray:
    return np.random.default_rng(0).random(shape) < share


GRIDS: dict[str, np.ndarray] = {
    "large ball": _ball(40, 16),
    "small ball": _ball(16, 5),
    "ring": _ring(),
    "thick slab": _slab(4),
    "thin slab": _slab(1.5),
    "one voxel": _one(8, 3, 4, 5),
    "a voxel in the corner": _one(8, 0, 7, 0),
    "sheet of one voxel": _one(20, slice(None), slice(None), 7),
    "rod of one voxel": _one(20, slice(None), 3, 7),
    "noise": _noise((20, 18, 16), 0.5),
    "dust": _noise((20, 18, 16), 0.1),
    "a long grid of noise": _noise((96, 20, 40), 0.5),
    "checkerboard": np.indices((12, 12, 12)).sum(axis=0) % 2 == 0,
    "checkerboard of blocks": (np.indices((12, 12, 12)) // 2).sum(axis=0) % 2 == 0,
    "all but one inside": ~_one(8, 4, 4, 4),
    "all but a corner": ~_one(8, 0, 0, 0),
    "one row": np.array([1, 1, 0, 0, 1, 1, 1, 0], bool).reshape(8, 1, 1),
}


@pytest.mark.parametrize("name", GRIDS)
def test_every_voxel_is_on_its_side_of_a_closed_surface(name: str) -> None:
    occupancy = GRIDS[name]
    mesh = _mesh(occupancy)
    assert is_closed(mesh)
    assert volume(mesh) > 0
    assert iou(_voxelised(mesh, occupancy.shape), occupancy) == 1
    assert mesh.vertices.dtype == np.float32
    assert mesh.faces.dtype == np.int32
    # Never more than half a voxel beyond the voxels.
    occupied = np.argwhere(occupancy)
    assert (mesh.vertices.min(axis=0) >= occupied.min(axis=0) - 0.51).all()
    assert (mesh.vertices.max(axis=0) <= occupied.max(axis=0) + 1.51).all()


@settings(max_examples=25)
@given(
    occupancy=arrays.arrays(
        bool,
        st.tuples(st.just(8), st.integers(1, 9), st.integers(1, 6)),
        elements=st.booleans(),
        fill=st.booleans(),
    ),
    size=st.tuples(*[st.sampled_from([0.01, 0.5, 1.0, 30.0])] * 3),
    origin=st.tuples(*[st.sampled_from([0.0, -7.25, 100.0])] * 3),
)
def test_any_small_grid_in_any_frame(
    occupancy: np.ndarray, size: tuple[float, float, float], origin: tuple[float, float, float]
) -> None:
    if occupancy.all() or not occupancy.any():
        with pytest.raises(BadInput):
            _mesh(occupancy)
        return
    mesh = _mesh(occupancy, size, origin)
    assert is_closed(mesh)
    assert np.array_equal(_voxelised(mesh, occupancy.shape, size, origin), occupancy)


@pytest.mark.parametrize("resolution", [128, 256])
def test_finer_resolutions_keep_the_sides(resolution: int) -> None:
    occupancy = _noise((9, 8, 8), 0.4)
    mesh = _mesh(occupancy, resolution=resolution)
    assert is_closed(mesh)
    assert np.array_equal(_voxelised(mesh, occupancy.shape), occupancy)
    assert mesh.report["nodes per voxel"] == resolution // 32


def test_the_frame_is_exact() -> None:
    """Anisotropic voxels, far from the origin: the same surface, moved and stretched."""
    occupancy = _ball(14, 5.5)
    plain = _mesh(occupancy)
    size, origin = np.array([1.0, 2.0, 0.25]), np.array([5.0, -700.0, 1e3])
    moved = _mesh(occupancy, tuple(size), tuple(origin))
    expected = plain.vertices.astype(np.float64) * size + origin
    np.testing.assert_allclose(moved.vertices, expected, rtol=2e-7, atol=1e-5)
    np.testing.assert_array_equal(moved.faces, plain.faces)
    middle = (moved.vertices.mean(axis=0, dtype=np.float64) - origin) / size
    np.testing.assert_allclose(middle, 7, atol=0.05)


def test_empty_space_around_and_the_kind_of_numbers_change_nothing() -> None:
    occupancy = _noise((9, 10, 8), 0.5)
    mesh = _mesh(occupancy)
    wider = _mesh(np.pad(occupancy, ((3, 50), (0, 9), (20, 0))))
    np.testing.assert_allclose(wider.vertices - [3, 0, 20], mesh.vertices, atol=1e-5)
    np.testing.assert_array_equal(wider.faces, mesh.faces)
    numbers = _mesh(occupancy.astype(np.uint8) * 200)
    assert numbers.vertices.tobytes() == mesh.vertices.tobytes()


def test_a_mirrored_grid_gives_the_mirrored_surface() -> None:
    occupancy = _noise((9, 8, 7), 0.5)
    mesh, other = _mesh(occupancy), _mesh(occupancy[::-1])
    assert volume(other) == pytest.approx(volume(mesh), rel=0.02)


@pytest.mark.parametrize("radius", [16, 26])
def test_a_ball_is_round_and_keeps_its_volume(radius: int) -> None:
    side = 2 * radius + 8
    occupancy = _ball(side, radius)
    mesh = _mesh(occupancy)
    assert volume(mesh) == pytest.approx(np.count_nonzero(occupancy), rel=0.02)
    distances = np.linalg.norm(mesh.vertices - side / 2, axis=1)
    assert distances.mean() == pytest.approx(radius, abs=0.1)
    # Voxels themselves: 0.29 of a voxel and more.
    assert distances.std() < 0.13
    assert np.abs(distances - distances.mean()).max() < 0.55


def test_an_inclined_plane_is_smooth() -> None:
    mesh = _mesh(_slab(6))
    normal = np.array([0.5, 0.3, 0.81]) / np.linalg.norm([0.5, 0.3, 0.81])
    inner = ((mesh.vertices > 8) & (mesh.vertices < 32)).all(axis=1)
    heights = mesh.vertices[inner] @ normal
    upper = heights[heights > 34]
    assert len(upper) > 500
    assert upper.mean() == pytest.approx((32 + 3 + 0.805) / 0.998, abs=0.1)
    assert upper.std() < 0.13, "steps of voxels would have 0.29"


def test_voxels_that_touch_at_an_edge_or_a_corner_stay_apart_or_join_closed() -> None:
    for second in ((4, 4, 3), (4, 4, 4)):
        occupancy = _one(8, 3, 3, 3) | _one(8, *second)
        mesh = _mesh(occupancy)
        assert is_closed(mesh)
        assert np.array_equal(_voxelised(mesh, occupancy.shape), occupancy)
        assert parts(mesh.vertices, mesh.faces).max() <= 1


def test_a_hollow_body_keeps_its_hollow() -> None:
    occupancy = _ball(24, 10) & ~_ball(24, 5)
    mesh = _mesh(occupancy)
    assert parts(mesh.vertices, mesh.faces).max() == 1
    assert volume(mesh) == pytest.approx(np.count_nonzero(occupancy), rel=0.05)


def test_a_thin_grid_cut_out_of_the_largest_one() -> None:
    occupancy = np.zeros((512, 512, 24), bool)
    occupancy[200:230, 500:, 3:9] = True
    mesh = _mesh(occupancy)
    found = occupancy_of_mesh(
        mesh.vertices, mesh.faces, (40, 20, 12), np.array([195.0, 492, 0]), np.ones(3)
    )
    assert np.array_equal(found, occupancy[195:235, 492:, :12] | np.zeros((40, 20, 12), bool))


# --- what cannot be done


@pytest.mark.parametrize(
    "changes",
    [
        {"occupancy": np.zeros((8, 8, 8), bool)},
        {"occupancy": np.ones((8, 8, 8), bool)},
        {"occupancy": _ball(7, 3)},
        {"occupancy": np.zeros((0, 8, 8), bool)},
        {"occupancy": np.ones((8, 8), bool)},
        {"occupancy": _ball(8, 3).astype(np.float32)},
        {"occupancy": [[[1]]]},
        {"voxel_size": (1.0, 0.0, 1.0)},
        {"voxel_size": (1.0, -1.0, 1.0)},
        {"voxel_size": (1.0, np.nan, 1.0)},
        {"voxel_size": (1.0, 1.0)},
        {"voxel_size": 1.0},
        {"origin": (np.inf, 0.0, 0.0)},
        {"origin": "here"},
        {"resolution": 64},
        {"seed": -1},
        {"model": "unknown"},
    ],
    ids=str,
)
def test_bad_input_is_refused_with_a_remedy(changes: dict[str, object]) -> None:
    task = VoxelsToMesh(**{"occupancy": _ball(10, 4), "resolution": 128, **changes})
    with pytest.raises(BadInput) as caught:
        next(pipelines.run(task, Context("cpu")))
    assert caught.value.cause
    assert caught.value.remedy


def test_too_large_a_grid_is_refused() -> None:
    with pytest.raises(TooLarge):
        next(pipelines.run(VoxelsToMesh(occupancy=np.zeros((513, 8, 8), bool)), Context("cpu")))


# --- cancelling, progress, report


@pytest.mark.parametrize("after", [0, 1, 5, 20])
def test_cancelling_at_any_step(after: int) -> None:
    unwanted = False
    running = pipelines.run(
        VoxelsToMesh(occupancy=_ball(20, 8), resolution=128),
        Context("cpu", cancelled=lambda: unwanted),
    )
    for _ in range(after):
        assert isinstance(next(running), Progress)
    unwanted = True
    with pytest.raises(Cancelled):
        next(running)


def test_progress_grows_and_the_report_has_the_facts() -> None:
    task = VoxelsToMesh(name="Ball", occupancy=_ball(20, 8), resolution=128, seed=3)
    progress, result = steps(task)
    fractions = [step.fraction for step in progress]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert 0.9 <= fractions[-1] <= 1
    stages = [stage for stage, _ in itertools.groupby(step.stage for step in progress)]
    assert list(result.report["seconds"]) == stages
    assert result.name == "Ball"
    assert result.report["vertices"] == len(result.vertices)
    assert result.report["faces"] == len(result.faces)
    assert result.report["voxels"] == np.count_nonzero(_ball(20, 8))
    assert {result.report[key] for key in ("device", "model")} == {"cpu", "wavelet-fit"}
    assert result.report["seed"] == 3
    assert encode_result(result), "the report can be sent"


def test_the_distances_that_voxels_allow() -> None:
    occupancy = _one(9, 4, 4, 4)
    least, most = wavelet_fit.distance_bounds(occupancy)
    assert (least <= most).all()
    assert most[4, 4, 4] < 0 < least[4, 4, 5]
    assert (least[4, 4, 4], most[4, 4, 4]) == pytest.approx((-1, -wavelet_fit.MARGIN))
    assert (least[4, 5, 5], most[4, 5, 5]) == pytest.approx((2**0.5 - 1, 2**0.5))
    assert most[0, 0, 0] == pytest.approx((wavelet_fit.REACH**2 + 1) ** 0.5)
    flipped = wavelet_fit.distance_bounds(~occupancy)
    np.testing.assert_array_equal(flipped[0], -most)
    np.testing.assert_array_equal(flipped[1], -least)
