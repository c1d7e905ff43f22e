"""What is inside of meshes, good and bad, and the points that fields are fitted to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import BadInput
from backend.models.hyperdiffusion import occupancy
from backend.training import set_metrics
from tests.hyperdiffusion_golden import arrays

Frame = occupancy.Frame


def _box(size: tuple[float, float, float] = (1, 1, 1), at: tuple[float, ...] = (0, 0, 0)) -> Frame:
    made = trimesh.creation.box(size)
    return np.asarray(made.vertices) + at, np.asarray(made.faces)


def _ball(radius: float = 1.0, at: tuple[float, ...] = (0, 0, 0), finer: int = 3) -> Frame:
    made = trimesh.creation.icosphere(finer, radius)
    return np.asarray(made.vertices) + at, np.asarray(made.faces)


def _together(*frames: Frame) -> Frame:
    counts = np.cumsum([0, *(len(vertices) for vertices, _ in frames)])
    faces = [faces + first for (_, faces), first in zip(frames, counts, strict=False)]
    return np.concatenate([vertices for vertices, _ in frames]), np.concatenate(faces)


def _reversed(frame: Frame) -> Frame:
    return frame[0], frame[1][:, ::-1]


def _filled(frame: Frame) -> float:
    """The share of the cube around the shape that is inside."""
    points = np.random.default_rng(0).uniform(-occupancy.REACH, occupancy.REACH, (20_000, 3))
    return float(occupancy.inside_of(*occupancy.framed([frame]).frames[0])(points).mean())


# --------------------------------------------------------------------------------------- published


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_placing_and_occupancy_of_the_published_code(kind: str) -> None:
    golden = arrays("prep_mesh")
    ((vertices, faces),) = occupancy.published_frames(
        [(golden[f"verts_raw_{kind}"], golden[f"faces_{kind}"])]
    )
    assert np.abs(vertices - golden[f"verts_norm_{kind}"]).max() <= 1e-12
    points = golden[f"points_{kind}"]
    winding = occupancy.winding_numbers(vertices, faces)(points)
    assert np.abs(winding - golden[f"wn_exact_{kind}"]).max() < 0.02
    decided = np.abs(golden[f"wn_exact_{kind}"] - 0.5) > 0.02
    assert decided.mean() > 0.9
    inside = occupancy.inside_of(vertices, faces)(points)
    assert np.array_equal(inside[decided], golden[f"occ_{kind}"][decided].astype(bool))


def test_placing_of_moving_shapes_is_that_of_the_published_clouds() -> None:
    golden = arrays("norm_4d")
    faces = np.array([[0, 1, 2]])
    placed = occupancy.published_frames([(frame, faces) for frame in golden["raw"]])
    found = 2 * np.stack([vertices for vertices, _ in placed])  # fields have half the extent
    assert np.abs(found - golden["norm"]).max() <= 1e-12
    assert np.abs(set_metrics.framed_sequence(golden["raw"]) - found).max() <= 1e-12


@pytest.mark.parametrize("total", [1, 5, 16, 17, 42, 250])
def test_frames_are_taken_evenly(total: int) -> None:
    chosen = occupancy.frame_numbers(total)
    assert len(chosen) == min(total, 16)
    assert chosen[0] == 0
    assert chosen[-1] < total
    steps = np.diff(chosen)
    assert not len(steps) or steps.max() - steps.min() <= 1


# ----------------------------------------------------------------------------------------- framing


@given(
    scale=st.floats(1e-3, 1e4),
    offset=st.tuples(*[st.floats(-1e3, 1e3)] * 3),
    motion=st.floats(0, 2),
)
@settings(max_examples=25, deadline=None)
def test_one_transform_leads_back_and_movement_is_kept(
    scale: float, offset: tuple[float, ...], motion: float
) -> None:
    vertices, faces = _box((1, 2, 0.5))
    source = [
        (vertices * scale + offset, faces),
        (vertices * scale + offset + [motion * scale, 0, 0], faces),
    ]
    framed = occupancy.framed(source)
    for (found, _), (original, _) in zip(framed.frames, source, strict=True):
        back = found @ framed.to_source[:3, :3].T + framed.to_source[:3, 3]
        assert np.abs(back - original).max() <= 1e-9 * max(scale, *map(abs, offset), 1)
    everything = np.concatenate([found for found, _ in framed.frames])
    assert np.abs(everything).max() == pytest.approx(occupancy.REACH)
    sides = everything.max(axis=0) - everything.min(axis=0)
    assert sides.max() == pytest.approx(2 * occupancy.REACH)
    assert np.allclose(everything.max(axis=0), -everything.min(axis=0))


def test_points_of_no_face_do_not_count() -> None:
    vertices, faces = _box()
    with_loose = np.concatenate([np.full((1, 3), 50.0), vertices, [[np.nan] * 3]])
    framed = occupancy.framed([(with_loose, faces + 1)])
    assert np.allclose(framed.to_source, np.diag([1 / 0.95] * 3 + [1]))
    assert not framed.notes


def test_movement_that_takes_the_room_is_told() -> None:
    vertices, faces = _box()
    near = occupancy.framed([(vertices, faces), (vertices + np.array([1, 0, 0]), faces)])
    far = occupancy.framed([(vertices, faces), (vertices + np.array([9, 0, 0]), faces)])
    assert not near.notes
    assert "10%" in far.notes[0]
    assert "move on the spot" in far.notes[0]


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("frames", "cause"),
    [
        ([], "no frame"),
        ([(np.zeros((0, 3)), np.zeros((0, 3), int))], "The mesh has no faces"),
        ([(np.random.default_rng(0).random((9, 3)), np.zeros((0, 3), int))], "no faces"),
        ([(np.zeros((3, 3)), np.zeros((0, 3), int))] * 2, "All frames have no faces"),
        ([(np.zeros((3, 3)), np.array([[0, 1, 2]]))], "one point"),
        ([(np.eye(3), np.array([[0, 1, 3]]))], "Frame 1 has faces between points"),
        ([_box(), (np.eye(3), np.array([[0, 1, -1]]))], "Frame 2 has faces between points"),
        ([(np.full((3, 3), np.inf), np.array([[0, 1, 2]]))], "not numbers"),
        ([_box()] * 65, "65 frames are too many"),
    ],
)
def test_frames_that_make_no_field_are_told(frames: list[Frame], cause: str) -> None:
    with pytest.raises(BadInput, match=cause) as caught:
        occupancy.framed(frames)
    assert caught.value.remedy


@pytest.mark.parametrize("analytic", [False, True])
def test_a_sheet_without_thickness_has_no_inside(analytic: bool) -> None:
    sheet = (
        np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float),
        np.array([[0, 1, 2], [0, 2, 3]]),
    )
    frames = occupancy.framed([sheet]).frames

    def sampled() -> occupancy.Samples:
        if analytic:
            return occupancy.sample_analytic([lambda points: np.zeros(len(points), bool)], 0, 500)
        return occupancy.sample(frames, 0, near=5000, anywhere=5000)

    with pytest.raises(BadInput, match="no inside") as caught:
        sampled()
    assert "Solidify" in caught.value.remedy


def test_inside_out_meshes_are_turned_round() -> None:
    framed = occupancy.framed([_reversed(_box())])
    assert "inside out" in framed.notes[0]
    assert _filled(_reversed(_box())) == 1


@pytest.mark.parametrize("seed", range(4))
def test_faces_that_look_inwards_here_and_there_are_turned_round(seed: int) -> None:
    vertices, faces = _ball()
    wrong = np.random.default_rng(seed).random(len(faces)) < 0.3
    mixed = np.where(wrong[:, None], faces[:, ::-1], faces)
    framed = occupancy.framed([(vertices, mixed)])
    assert f"{wrong.sum()} of {len(faces):,} faces" in framed.notes[0]
    assert np.array_equal(framed.frames[0][1], faces)


def test_a_part_that_is_inside_out_is_turned_round_but_a_cavity_stays() -> None:
    beside = _together(_box(), _reversed(_box(at=(2, 0, 0))))
    framed = occupancy.framed([beside])
    assert "12 of 24 faces" in framed.notes[0]
    inside = occupancy.inside_of(*framed.frames[0])
    assert inside(np.array([[-0.3, 0, 0], [0.3, 0, 0], [0, 0, 0]])).tolist() == [True, True, False]
    for whole in (lambda frame: frame, _reversed):
        hollow = whole(_together(_box((1, 1, 1)), _reversed(_box((0.5, 0.5, 0.5)))))
        assert _filled(hollow) == pytest.approx(1 - 0.125, abs=0.01)


def test_open_meshes_work_and_are_told() -> None:
    vertices, faces = _ball()
    top = vertices[faces].mean(axis=1)[:, 1] > 0.9
    framed = occupancy.framed([(vertices, faces[~top])])
    assert "open along" in framed.notes[0]
    assert _filled((vertices, faces[~top])) == pytest.approx(np.pi / 6, rel=0.05)
    assert "inside out" in occupancy.framed([(vertices, faces[~top][:, ::-1])]).notes[0]


def test_meshes_whose_faces_share_no_vertices_are_not_open() -> None:
    vertices, faces = _ball()
    framed = occupancy.framed([(vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)))])
    assert not framed.notes


def test_self_intersecting_meshes_work() -> None:
    cross = _together(_box((3, 1, 1)), _box((1, 3, 1)), _ball(1.4, finer=4))
    framed = occupancy.framed([cross])
    assert not framed.notes
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 3))
    placed = points / (0.95 / 3)
    truth = (np.linalg.norm(placed, axis=1) < 1.4) | (
        (np.abs(placed) < [1.5, 0.5, 0.5]).all(axis=1)
        | (np.abs(placed) < [0.5, 1.5, 0.5]).all(axis=1)
    )
    found = occupancy.inside_of(*framed.frames[0])(points)
    assert (found == truth).mean() > 0.995


def test_one_frame_is_a_still_shape() -> None:
    samples = occupancy.sample(occupancy.framed([_box()]).frames, 0, near=100, anywhere=100)
    assert (samples.frames, samples.dimensions) == (1, 3)


def test_frames_may_have_other_topologies_or_nothing() -> None:
    frames = [_box(), _ball(0.5), _together(_ball(0.2, (0.3, 0, 0)), _ball(0.2, (-0.3, 0, 0)))]
    nothing = (np.zeros((0, 3)), np.zeros((0, 3), int))
    framed = occupancy.framed([*frames, nothing])
    assert framed.notes == ["1 of 4 frames have no faces; nothing is there in them."]
    samples = occupancy.sample(framed.frames, 0, near=2000, anywhere=2000, check=4000)
    assert (samples.frames, samples.dimensions) == (4, 4)
    shares = samples.check_inside.mean(axis=1)
    volumes = np.array([1, np.pi / 6, 2 * np.pi * 4 / 3 * 0.2**3, 0])
    assert shares == pytest.approx(volumes * 0.95**3, abs=0.03)


def test_frames_of_the_same_faces_are_turned_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    kept = occupancy.turned_outwards
    monkeypatch.setattr(
        occupancy, "turned_outwards", lambda *frame: asked.append(frame) or kept(*frame)
    )
    vertices, faces = _reversed(_box())
    framed = occupancy.framed([(vertices * size, faces) for size in (1, 2, 3)])
    assert len(asked) == 1
    assert all(np.array_equal(found, faces[:, ::-1]) for _, found in framed.frames)


@pytest.mark.parametrize("inside_out", [False, True])
def test_a_motion_may_begin_flat(inside_out: bool) -> None:
    """The flat frame has no outside: rounding decides what it encloses."""
    vertices, faces = _ball(1.0)
    turned = faces[:, ::-1] if inside_out else faces
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    frames = [(vertices * [1, 1, height] @ turn, turned) for height in (1e-9, 0.3, 1)]
    framed = occupancy.framed(frames)
    centre = framed.frames[2][0].mean(axis=0, keepdims=True)
    assert occupancy.inside_of(*framed.frames[2])(centre).all()
    assert any("inside out" in note for note in framed.notes) == inside_out


# ------------------------------------------------------------------------------------- many faces


def _fine_ball(finer: int) -> Frame:
    return _ball(1.0, finer=finer)


def test_fine_meshes_are_simplified_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupancy, "MAX_FACES", 20_000)
    ball = _fine_ball(6)
    assert len(ball[1]) > 80_000
    framed = occupancy.framed([ball, ball])
    assert "81,920 faces were merged" in framed.notes[0]
    assert len(framed.notes) == 1  # what was closed stays closed
    vertices, faces = framed.frames[0]
    assert 2_000 < len(faces) <= 20_000
    assert np.abs(np.linalg.norm(vertices, axis=1) - 0.475).max() < 2e-3
    inside = occupancy.inside_of(vertices, faces)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20_000, 3))
    truth = np.linalg.norm(points, axis=1) < 0.475
    assert (inside(points) == truth).mean() > 0.998


# ---------------------------------------------------------------------------------------- sampling


def test_what_is_drawn_is_told_between_parts_of_a_frame_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(occupancy, "_QUERIES", 250)
    frames, told = occupancy.framed([_ball(), _ball(0.5)]).frames, list[float]()
    found = occupancy.sample(frames, 3, near=400, anywhere=100, report=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]
    monkeypatch.undo()
    at_once = occupancy.sample(frames, 3, near=400, anywhere=100)
    np.testing.assert_array_equal(found.points, at_once.points)
    np.testing.assert_array_equal(found.inside, at_once.inside)


def test_half_near_the_surface_and_half_anywhere() -> None:
    framed = occupancy.framed([_ball(finer=5)])
    told: list[float] = []
    samples = occupancy.sample(
        framed.frames, 3, near=20_000, anywhere=10_000, check=5_000, report=told.append
    )
    assert samples.points.shape == (1, 30_000, 3)
    assert samples.points.dtype == np.float32
    assert samples.check_points.shape == (1, 5_000, 3)
    assert told == [1.0]
    radius = np.linalg.norm(samples.points[0], axis=1)
    near, anywhere = radius[: samples.near], radius[samples.near :]
    for first, noise in enumerate(occupancy.NOISES):
        away = near[first :: len(occupancy.NOISES)] - 0.475
        assert away.std() == pytest.approx(noise, rel=0.05)
        assert away.mean() == pytest.approx(0, abs=1e-3)
    assert samples.inside[0, : samples.near].mean() == pytest.approx(0.5, abs=0.03)
    assert (anywhere < 0.475).mean() == pytest.approx(np.pi / 6 * 0.95**3, abs=0.02)
    agree = samples.inside[0] == (radius < 0.475)
    assert agree[np.abs(radius - 0.475) > 1e-3].all()
    assert not np.isin(samples.check_points[0, :, 0], samples.points[0, :, 0]).all()


def test_further_points_are_others_in_every_round() -> None:
    frames = occupancy.framed([_box()]).frames
    drawn = [occupancy.sample_more(frames, 0, number) for number in (1, 1, 2)]
    near = occupancy.MORE_NEAR
    assert drawn[0].near == near
    assert drawn[0].points.shape == (1, near + occupancy.MORE_ANYWHERE, 3)
    assert np.array_equal(drawn[0].points, drawn[1].points)
    assert not np.isin(drawn[0].points[0, :100], drawn[2].points[0, :100]).any()


def test_of_a_board_enough_points_are_inside() -> None:
    """Of a 400th of its length: of published points near it one in eleven is inside."""
    frames = occupancy.framed([_box((400, 200, 1))]).frames
    published, ours = (
        occupancy.sample(frames, 0, near=20_000, anywhere=100, noise=noise).inside[0, :20_000]
        for noise in ((occupancy.NOISE,), occupancy.NOISES)
    )
    assert published.mean() == pytest.approx(0.09, abs=0.02)
    assert ours.mean() > 2 * published.mean()


def test_points_are_even_by_area() -> None:
    vertices, faces = _box((4, 1, 1))
    points = occupancy.on_surface(vertices, faces, 30_000, np.random.default_rng(0))
    ends = np.isclose(np.abs(points[:, 0]), 2).mean()
    assert ends == pytest.approx(2 / 18, abs=0.01)
    beyond = np.abs(points) / [2, 0.5, 0.5]
    assert np.allclose(beyond.max(axis=1), 1)
    assert occupancy.on_surface(vertices, faces[:0], 5, np.random.default_rng(0)).shape == (0, 3)


def test_the_same_seed_gives_the_same_points() -> None:
    frames = occupancy.framed([_box(), _ball(0.4)]).frames
    first, again, other = (
        occupancy.sample(frames, seed, near=500, anywhere=500) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.points, again.points)
    assert np.array_equal(first.inside, again.inside)
    assert not np.array_equal(first.points, other.points)
    assert not np.array_equal(first.points[0], first.points[1])


def test_shapes_that_are_known_by_a_function() -> None:
    def ball(points: np.ndarray) -> np.ndarray:
        inside: np.ndarray = np.linalg.norm(points, axis=1) < 0.3
        return inside

    def board(points: np.ndarray) -> np.ndarray:
        inside: np.ndarray = (np.abs(points) < [0.4, 0.012, 0.2]).all(axis=1)
        return inside

    samples = occupancy.sample_analytic([ball, board], 5, 20_000, 20_000, 1_000)
    assert samples.points.shape == (2, 40_000, 3)
    assert samples.check_points.shape == (2, 1_000, 3)
    for points, inside, truth in zip(samples.points, samples.inside, (ball, board), strict=True):
        assert np.array_equal(inside, truth(points))
    radius = np.linalg.norm(samples.points[0, :20_000], axis=1)
    assert (radius - 0.3).std() == pytest.approx(occupancy.NOISE, rel=0.05)
    directions = samples.points[0, :20_000] / radius[:, None]
    assert np.abs(directions.mean(axis=0)).max() < 0.02  # all around
    height = np.abs(samples.points[1, :20_000, 1])
    assert np.quantile(np.abs(height - 0.012), 0.9) < 3 * occupancy.NOISE
    spread = samples.points[1, :20_000][:, [0, 2]]
    assert spread.std(axis=0) == pytest.approx([0.8 / 12**0.5, 0.4 / 12**0.5], rel=0.06)


def test_functions_of_frames_without_anything() -> None:
    def none(points: np.ndarray) -> np.ndarray:
        return np.zeros(len(points), bool)

    def half(points: np.ndarray) -> np.ndarray:
        inside: np.ndarray = points[:, 0] > 0.1
        return inside

    samples = occupancy.sample_analytic([none, half], 0, 300, 300, 100)
    assert not samples.inside[0].any()
    assert samples.points.shape == (2, 600, 3)
    assert np.abs(samples.points[0]).max() <= 0.5


def test_stopping_while_points_are_made() -> None:
    frames = occupancy.framed([_box(), _box(), _box()]).frames
    told: list[float] = []

    def stop(done: float) -> None:
        told.append(done)
        raise KeyboardInterrupt

    make: Callable[..., occupancy.Samples] = occupancy.sample
    with pytest.raises(KeyboardInterrupt):
        make(frames, 0, near=10, anywhere=10, report=stop)
    assert told == [1 / 3]
