"""Meshes to fields and back, what lies between two, and shapes and animations out of noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from backend import field_files, moving_meshes, pipelines, weights
from backend.errors import BadInput, Cancelled, OutOfMemory
from backend.models.hyperdiffusion import fitting, mixing, occupancy
from backend.models.hyperdiffusion.config import FieldConfig
from backend.models.hyperdiffusion.field import evaluate
from backend.neural_fields import NeuralField, weight_count
from backend.pipelines import (
    Context,
    animation,
    field_surfaces,
    memory,
    mesh_to_field,
    resident,
)
from backend.protocol import (
    Animation,
    AnimationResult,
    AnimationSet,
    FieldResult,
    FieldToMesh,
    MeshResult,
    MeshSet,
    MeshToField,
    Progress,
    Result,
    Shape,
    Task,
    turned_up,
)
from tests import exact_fields
from tests.exact_fields import PLACE, octahedron

SHUFFLED = (4, 2, 0, 5, 3, 1)
LAYOUT_FOR = fitting.layout_for  # before any test puts another in its place


def drained(task: Task, context: Context | None = None) -> tuple[list[Progress], Result]:
    *steps, result = pipelines.run(task, context or Context("cpu"))
    assert all(isinstance(step, Progress) for step in steps)
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    assert fractions[0] >= 0
    assert fractions[-1] <= 1
    return steps, result


def animation_of(task: Task) -> AnimationResult:
    result = drained(task)[1]
    assert isinstance(result, AnimationResult)
    result.check()
    return result


def solid(mesh: moving_meshes.Mesh) -> trimesh.Trimesh:
    found = trimesh.Trimesh(*mesh, process=False)
    assert found.is_watertight
    return found


# -------------------------------------------------------------------------------- field to mesh


def test_a_field_comes_back_where_it_stood() -> None:
    field = octahedron(0.4, to_source=PLACE)
    result = animation_of(FieldToMesh.of(field, resolution=64))
    mesh = solid(result.meshes()[0])
    np.testing.assert_allclose(mesh.center_mass, [1, 2, 3], atol=0.02)
    assert mesh.volume == pytest.approx(4 / 3 * (0.4 * 4) ** 3, rel=0.02)
    assert result.neural is not None
    np.testing.assert_array_equal(result.neural.weights, field.weights)
    # From the cube, in which it reaches twice as far.
    corner = result.to_source @ [0.8, 0, 0, 1]
    np.testing.assert_allclose(corner[:3], [1, 2 + 1.6, 3])


def test_a_mirrored_place_turns_faces_round() -> None:
    mirrored = octahedron(0.4, to_source=np.diag([-1.0, 1, 1, 1]))
    mesh = solid(animation_of(FieldToMesh.of(mirrored, resolution=32)).meshes()[0])
    assert mesh.volume > 0


def test_every_frame_of_a_moving_field_lies_where_it_is_then() -> None:
    field = exact_fields.moving(0.3, (-0.05, 0, 0))
    result = animation_of(FieldToMesh.of(field, resolution=64))
    centres = [solid(mesh).center_mass[0] for mesh in result.meshes()]
    np.testing.assert_allclose(centres, -0.05 + 0.02 * np.arange(5), atol=1e-3)
    assert result.fps == 10
    some = animation_of(
        dataclasses.replace(FieldToMesh.of(field, resolution=64), frames=np.array([0, 4], np.int32))
    )
    assert some.fps == pytest.approx(4)  # as long as all of them
    np.testing.assert_array_equal(some.meshes()[1][0], result.meshes()[4][0])


def test_what_is_told_by_its_phase_comes_round() -> None:
    field = exact_fields.circling(0.2, 0.1)
    read, _ = field_files.from_bytes(field_files.to_bytes(field))
    result = animation_of(FieldToMesh.of(read, resolution=64))
    centres = [solid(mesh).center_mass for mesh in result.meshes()]
    phases = 2 * np.pi * np.arange(16) / 16
    expected = np.stack([0.1 * np.cos(phases), 0.1 * np.sin(phases), 0 * phases], axis=1)
    np.testing.assert_allclose(centres, expected, atol=1e-3)


@pytest.mark.parametrize("turned", [False, True])
def test_fields_told_the_time_otherwise_are_mixed_by_their_surfaces(turned: bool) -> None:
    phase = exact_fields.circling(0.2, 0.1)
    count = dataclasses.replace(exact_fields.moving(0.3), frame_count=16, level=1.0)
    ends = (count, phase) if turned else (phase, count)
    task = FieldToMesh.of(*ends, amounts=[0, 0.5, 1], resolution=64)
    task.validate()
    task = dataclasses.replace(task, frames=np.array([0, 4], np.int32))
    result = animation_of(task)
    assert result.report["mixed"] == mixing.DISTANCES
    assert "knows that its motion repeats" in result.report["notes"][0]
    volumes = np.array([solid(mesh).volume for mesh in result.meshes()]).reshape(3, 2)[:, 0]
    # A level of 1 where the field falls by STEEP a unit: that much smaller.
    large, small = 4 / 3 * (0.3 - 1 / exact_fields.STEEP) ** 3, 4 / 3 * 0.2**3
    expected = (
        [large, (large + small) / 2, small] if turned else [small, (large + small) / 2, large]
    )
    np.testing.assert_allclose(volumes, expected, rtol=0.04)
    for amount, end in ((0, ends[0]), (1, ends[1])):
        only = FieldToMesh.of(*ends, amounts=[amount], resolution=32)
        kept = animation_of(only).neural
        assert kept is not None
        assert kept.period == end.period
        kept.check()


@settings(max_examples=25, deadline=None)
@given(
    dimensions=st.sampled_from([3, 4]),
    before=st.integers(0, 4),
    more=st.integers(0, 4),
    period=st.sampled_from([0, 7]),
    seed=st.integers(0, 99),
)
def test_a_widened_field_is_the_same_shape(
    dimensions: int, before: int, more: int, period: int, seed: int
) -> None:
    period = period if dimensions == 4 else 0
    draws = np.random.default_rng(seed)
    count = weight_count(dimensions, before, (5, 4), period)
    field = NeuralField(
        weights=draws.normal(size=count).astype(np.float32),
        dimensions=dimensions,
        frequencies=before,
        hidden=(5, 4),
        frame_count=7 if dimensions == 4 else 1,
        period=period,
    )
    wide = field.widened(before + more)
    wide.check()
    points = torch.from_numpy(draws.uniform(-0.5, 0.5, (40, dimensions)).astype(np.float32))
    logits = [
        evaluate(field_surfaces.config_of(one), torch.from_numpy(one.weights)[None], points)
        for one in (field, wide)
    ]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_fields_told_more_and_fewer_octaves_are_mixed() -> None:
    fine = octahedron(0.4).widened(3)
    task = FieldToMesh.of(octahedron(0.2, to_source=PLACE), fine, amounts=[0, 1], resolution=64)
    volumes = [solid(mesh).volume / 4**3 for mesh in animation_of(task).meshes()]
    assert volumes == pytest.approx([4 / 3 * 0.2**3, 4 / 3 * 0.4**3], rel=0.02)


def test_one_topology_moves_through_all_frames() -> None:
    task = FieldToMesh.of(exact_fields.moving(0.3), resolution=64, topology="one")
    result = animation_of(task)
    assert result.one_topology
    assert len(result.vertices) == 5
    for mesh, number in zip(result.meshes(), range(5), strict=True):
        assert solid(mesh).center_mass[0] == pytest.approx(0.02 * number, abs=2e-3)
        assert solid(mesh).volume == pytest.approx(4 / 3 * 0.3**3, rel=0.04)


def test_what_cannot_be_one_topology_comes_as_frames_and_a_note() -> None:
    shrinking = exact_fields.moving(0.3)
    shrinking.weights[[3, 7]] = 0.1  # both sides of x come nearer; nothing is left in the end
    result = animation_of(FieldToMesh.of(shrinking, resolution=32, topology="one"))
    assert not result.one_topology
    assert len(result.meshes()) == 5
    assert "a mesh for each frame" in result.report["notes"][0]


def test_between_two_fields_all_shapes_are_closed() -> None:
    first, last = octahedron(0.2, to_source=PLACE), octahedron(0.4, order=SHUFFLED)
    amounts = np.linspace(0, 1, 6)
    result = animation_of(FieldToMesh.of(first, last, amounts=amounts, resolution=64))
    assert result.report["mixed"] == mixing.DISTANCES
    assert "surfaces were mixed" in result.report["notes"][0]
    volumes = [solid(mesh).volume for mesh in result.meshes()]
    assert volumes == sorted(volumes)
    assert volumes[0] == pytest.approx(4 / 3 * 0.8**3, rel=0.03)
    assert result.neural is None
    np.testing.assert_array_equal(result.amounts, amounts.astype(np.float32))


def test_between_fields_of_one_start_there_is_a_field() -> None:
    first, last = octahedron(0.2, to_source=PLACE), octahedron(0.3)
    task = FieldToMesh.of(first, last, amounts=(0.5,), resolution=64)
    result = animation_of(task)
    assert result.report["mixed"] == mixing.WEIGHTS
    assert result.report["notes"] == []
    assert result.neural is not None
    again = animation_of(FieldToMesh.of(result.neural, resolution=64))
    np.testing.assert_array_equal(again.vertices, result.vertices)
    assert solid(again.meshes()[0]).volume == pytest.approx(4 / 3 * 1.0**3, rel=0.02)


def test_both_ends_of_a_mix_lie_at_their_own_level() -> None:
    """A shape of a published model beside a compressed one."""
    first = octahedron(0.2, to_source=PLACE)
    last = dataclasses.replace(octahedron(0.3, to_source=PLACE), level=-1.0)
    alone = solid(animation_of(FieldToMesh.of(last, resolution=64)).meshes()[0]).volume
    assert alone > 1.1 * solid_of(octahedron(0.3, to_source=PLACE))
    task = FieldToMesh.of(first, last, amounts=(1.0,), resolution=64)
    mixed = animation_of(task)
    assert solid(mixed.meshes()[0]).volume == pytest.approx(alone, rel=0.02)
    assert solid_of(task.fields()[1]) == pytest.approx(alone, rel=0.02)


def solid_of(field: Any) -> float:
    """The volume of a field's surface."""
    return float(solid(animation_of(FieldToMesh.of(field, resolution=64)).meshes()[0]).volume)


def test_between_two_animations_each_amount_has_all_frames() -> None:
    fields = exact_fields.moving(0.2), exact_fields.moving(0.3)
    task = FieldToMesh.of(*fields, amounts=(0.0, 0.5, 1.0), resolution=32)
    result = animation_of(task)
    steps = result.steps()
    assert [len(step) for step in steps] == [5, 5, 5]
    for step, radius in zip(steps, (0.2, 0.25, 0.3), strict=True):
        for number, mesh in enumerate(step):
            assert solid(mesh).center_mass[0] == pytest.approx(0.02 * number, abs=4e-3)
            assert solid(mesh).volume == pytest.approx(4 / 3 * radius**3, rel=0.06)


def test_an_empty_field_is_told() -> None:
    with pytest.raises(BadInput, match="Nothing is inside") as caught:
        drained(FieldToMesh.of(octahedron(-1), resolution=32))
    assert caught.value.remedy


@pytest.mark.parametrize("resolution", [32, 256])
def test_what_does_not_fit_is_refused_before_it_is_begun(
    resolution: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def require(needed: int, device: str, remedy: str = memory.LOWER) -> None:
        asked.append(needed)
        raise OutOfMemory("too much", remedy)

    monkeypatch.setattr(memory, "require", require)
    with pytest.raises(OutOfMemory):
        drained(FieldToMesh.of(octahedron(0.3), resolution=resolution))
    assert asked[0] > 20 * resolution**3


def test_a_job_that_is_not_wanted_any_more_ends() -> None:
    asked = iter([False] * 3 + [True] * 1000)
    steps = pipelines.run(
        FieldToMesh.of(exact_fields.moving(0.3), resolution=128),
        Context("cpu", cancelled=lambda: next(asked)),
    )
    with pytest.raises(Cancelled):
        list(steps)


# -------------------------------------------------------------------------------- mesh to field


@pytest.fixture
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few points, and a network of a tenth of the size."""
    monkeypatch.setattr(occupancy, "POINTS", 16_000)
    monkeypatch.setattr(mesh_to_field, "CHECKED", 8_000)

    def small(frames: int, loop: bool, thin: bool) -> FieldConfig:
        return FieldConfig(3 if frames == 1 else 4, hidden=(32, 32))

    monkeypatch.setattr(fitting, "layout_for", small)


@pytest.fixture
def no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "bundled")
    resident._models.clear()
    yield tmp_path
    resident._models.clear()


BOX = trimesh.creation.box((1, 2, 3))
BOX.apply_translation((10, 0, -5))
BOX_MESH = BOX.vertices.astype(np.float32), BOX.faces.astype(np.int32)


def source(*frames: moving_meshes.Mesh, **more: Any) -> MeshToField:
    return MeshToField(
        **{"effort": "fast", "resolution": 64, **moving_meshes.joined(frames), **more}
    )


def test_a_mesh_becomes_a_field_and_comes_back(few_points: None, no_models: Path) -> None:
    steps, result = drained(source(BOX_MESH))
    assert isinstance(result, FieldResult)
    report = result.report
    assert report["iou"] > 0.9
    mesh = solid(result.animation.meshes()[0])
    np.testing.assert_allclose(mesh.bounds, BOX.bounds, atol=0.15)
    assert mesh.volume == pytest.approx(6, rel=0.08)
    assert report["bytes"] == len(field_files.to_bytes(result.neural))
    assert report["source_bytes"] == 8 * 12 + 12 * 12
    assert {"Sampling points", "Fitting the field"} <= {step.stage for step in steps}
    assert {"Sampling points", "Fitting the field"} <= set(report["seconds"])
    # What is measured is what is inside: the field's own and the box's.
    probes = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 3)).astype(np.float32)
    where = probes @ result.neural.to_source[:3, :3].T + result.neural.to_source[:3, 3]
    inside = (np.abs(where - [10, 0, -5]) < [0.5, 1, 1.5]).all(axis=1)
    found = fitting.intersection_over_union(
        FieldConfig(hidden=(32, 32)), result.weights, probes[None], inside[None]
    )
    assert found == pytest.approx(report["iou"], abs=0.05)


def test_the_same_seed_gives_the_same_bytes(few_points: None, no_models: Path) -> None:
    both = [drained(source(BOX_MESH, seed=4))[1] for _ in range(2)]
    assert all(isinstance(result, FieldResult) for result in both)
    first, second = (field_files.to_bytes(result.neural) for result in both)
    assert first == second
    np.testing.assert_array_equal(both[0].animation.vertices, both[1].animation.vertices)


def test_half_the_bytes_are_measured_as_they_are(few_points: None, no_models: Path) -> None:
    whole, half = (drained(source(BOX_MESH, half=half))[1] for half in (False, True))
    assert half.neural.weights.dtype == np.float16
    saved = whole.report["bytes"] - half.report["bytes"]
    assert saved == pytest.approx(2 * len(half.weights), abs=64)  # but for the padding
    assert half.report["iou"] == pytest.approx(whole.report["iou"], abs=0.01)
    assert np.abs(half.weights.astype(np.float32) - whole.weights).max() < 0.02
    # Fields with one start can be mixed, whatever they are kept in.
    assert half.neural.start == whole.neural.start != ""


def test_up_is_up_in_the_field(few_points: None, no_models: Path) -> None:
    """The field has y up: a tall box is tall along its y axis, whichever axis of the source is."""
    for up_axis, tall in (("z", (0.5, 0.5, 2)), ("y", (0.5, 2, 0.5))):
        box = trimesh.creation.box(tall)
        result = drained(
            source((box.vertices.astype(np.float32), box.faces.astype(np.int32)), up_axis=up_axis)
        )[1]
        assert isinstance(result, FieldResult)
        own = animation_of(
            FieldToMesh.of(dataclasses.replace(result.neural, to_source=np.eye(4)), resolution=64)
        )
        size = np.ptp(own.vertices, axis=0)
        assert size[1] > 3 * max(size[0], size[2])
        came = np.ptp(result.animation.vertices, axis=0)
        np.testing.assert_allclose(came, tall, atol=0.12)


def test_an_animation_becomes_one_field(few_points: None, no_models: Path) -> None:
    vertices, faces = BOX_MESH
    frames = [(vertices + np.array([0.5 * k, 0, 0]), faces) for k in range(3)]
    result = drained(source(*frames, fps=12.0, loop=True))[1]
    assert isinstance(result, FieldResult)
    assert (result.neural.frame_count, result.neural.fps, result.neural.loop) == (3, 12.0, True)
    assert result.animation.loop
    assert result.report["source_bytes"] == 3 * 8 * 12 + 12 * 12  # the faces once
    centres = [solid(mesh).center_mass[0] for mesh in result.animation.meshes()]
    np.testing.assert_allclose(centres, [10, 10.5, 11], atol=0.1)


@pytest.mark.parametrize(("width", "begins_with"), [(0.4, 6), (0.09, 8)])
def test_where_one_round_is_not_enough_finer_octaves_and_more_points_come(
    few_points: None,
    no_models: Path,
    monkeypatch: pytest.MonkeyPatch,
    width: float,
    begins_with: int,
) -> None:
    """Of the layout that what a person has is fitted in; rods begin with all octaves."""
    layouts, drawn = [], []

    def layout(frames: int, loop: bool, thin: bool) -> FieldConfig:
        layouts.append(LAYOUT_FOR(frames, loop, thin))
        return layouts[-1]

    def more(*told: Any, sample: Any = occupancy.sample_more) -> occupancy.Samples:
        drawn.append(told[2])
        return sample(*told)  # type: ignore[no-any-return]

    monkeypatch.setattr(fitting, "layout_for", layout)
    monkeypatch.setattr(occupancy, "sample_more", more)
    monkeypatch.setattr(occupancy, "MORE_NEAR", 20_000)
    monkeypatch.setattr(occupancy, "MORE_ANYWHERE", 4_000)
    effort = fitting.Effort(steps=150, rounds=2, enough=1.1)
    monkeypatch.setitem(fitting.EFFORTS, "good", effort)
    rod = trimesh.creation.box((width, width, 1))
    mesh = rod.vertices.astype(np.float32), rod.faces.astype(np.int32)
    steps, result = drained(source(mesh, effort="good"))
    assert isinstance(result, FieldResult)
    result.neural.check()
    assert [layout.frequencies for layout in layouts] == [begins_with]
    assert result.neural.frequencies == fitting.FINER_OCTAVES
    assert result.report["optimizer_steps"] == 450
    assert drawn == [1]
    assert "Sampling more points" in {step.stage for step in steps}
    assert solid(result.animation.meshes()[0]).volume == pytest.approx(width**2, rel=0.2)


def test_drawing_more_points_ends_when_the_job_is_not_wanted_any_more(
    few_points: None, no_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between parts of the points of one frame, not after all of them."""
    parts, unwanted = [], []
    monkeypatch.setattr(occupancy, "_QUERIES", 1000)
    monkeypatch.setattr(occupancy, "MORE_NEAR", 20_000)
    monkeypatch.setattr(occupancy, "MORE_ANYWHERE", 4_000)
    effort = fitting.Effort(steps=50, rounds=2, enough=1.1)
    monkeypatch.setitem(fitting.EFFORTS, "good", effort)

    def more(*told: Any, sample: Any = occupancy.sample_more) -> occupancy.Samples:
        def report(share: float) -> None:
            parts.append(share)
            unwanted.append(True)
            told[3](share)

        return sample(*told[:3], report)  # type: ignore[no-any-return]

    monkeypatch.setattr(occupancy, "sample_more", more)
    context = Context("cpu", cancelled=lambda: bool(unwanted))
    with pytest.raises(Cancelled):
        list(pipelines.run(source(BOX_MESH, effort="good"), context))
    assert len(parts) == 1
    assert parts[0] == pytest.approx(1 / 24)


def test_one_frame_that_repeats_in_one_topology_is_a_still(
    few_points: None, no_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the panel asks for an animation whose range is one frame."""
    monkeypatch.setattr(fitting, "layout_for", LAYOUT_FOR)
    result = drained(source(BOX_MESH, loop=True, topology="one"))[1]
    assert isinstance(result, FieldResult)
    result.neural.check()
    assert (result.neural.dimensions, result.neural.frame_count) == (3, 1)
    (mesh,) = result.animation.meshes()
    np.testing.assert_allclose(solid(mesh).bounds, BOX.bounds, atol=0.15)
    back = animation_of(FieldToMesh.of(result.neural, resolution=64, topology="one"))
    assert solid(back.meshes()[0]).volume == pytest.approx(solid(mesh).volume, rel=0.01)


def test_what_grows_out_of_nothing_becomes_a_field(few_points: None, no_models: Path) -> None:
    """A frame in which all vertices lie at one place, and one without faces."""
    vertices, faces = BOX_MESH
    nothing = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    point = np.broadcast_to(vertices.mean(axis=0), vertices.shape), faces
    result = drained(source(nothing, point, BOX_MESH))[1]
    assert isinstance(result, FieldResult)
    *_, (_, last) = result.animation.meshes()
    assert len(last)
    np.testing.assert_allclose(solid(result.animation.meshes()[2]).bounds, BOX.bounds, atol=0.2)


def test_what_was_mended_is_told(few_points: None, no_models: Path) -> None:
    vertices, faces = BOX_MESH
    result = drained(source((vertices, faces[:, ::-1].copy())))[1]
    assert any("inside out" in note for note in result.report["notes"])
    assert solid(result.animation.meshes()[0]).volume == pytest.approx(6, rel=0.08)


def test_thin_parts_that_vanish_are_told(few_points: None, no_models: Path) -> None:
    """IoU says nothing of them: the pole has a hundredth of the volume, and a third of the
    surface."""
    body = trimesh.creation.box((1, 1, 0.5))
    pole = trimesh.creation.box((0.03, 0.03, 20))
    pole.apply_translation((0, 0, 10))
    pole.apply_transform(trimesh.transformations.rotation_matrix(0.7, (0.3, 1, 0.2)))
    both = trimesh.util.concatenate([body, pole])
    told = drained(source((both.vertices.astype(np.float32), both.faces.astype(np.int32))))[1]
    assert told.report["lost"] > 0.2
    assert any("not in the field" in note for note in told.report["notes"])
    plain = drained(source(BOX_MESH))[1]
    assert plain.report["lost"] < told.report["lost"] / 4
    assert mesh_to_field.lost_notes(mesh_to_field.LOST / 2, "fast") == []
    (most,) = mesh_to_field.lost_notes(0.5, "best")
    assert "Thicken the parts" in most
    assert "effort" not in most


def test_what_is_lost_is_a_share_of_the_surface() -> None:
    body, within, aside = (trimesh.creation.box((0.4, 0.4, 0.4)) for _ in range(3))
    within.apply_scale(0.5)  # overlaps: no surface of the whole
    aside.apply_transform(np.diag([0.5, 0.5, 0.5, 1]))
    aside.apply_translation((0.38, 0, 0))
    frame = trimesh.util.concatenate([body, within, aside])
    whole, left = (frame.vertices, frame.faces), (body.vertices, body.faces)
    assert mesh_to_field.lost_share([whole], [whole], 0) == 0
    # Of the small box, a quarter of the large one's surface, all is away.
    assert mesh_to_field.lost_share([whole], [left], 0) == pytest.approx(0.2, abs=0.01)
    assert mesh_to_field.lost_share([whole] * 3, [whole, left, whole], 0) > 0.19
    nothing = (np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    assert mesh_to_field.lost_share([nothing], [left], 0) == 0
    assert mesh_to_field.lost_share([left], [nothing], 0) == 1


def test_fitting_ends_when_it_is_not_wanted_any_more(few_points: None, no_models: Path) -> None:
    wanted = True

    def going_on(step: Progress | Result) -> bool:
        nonlocal wanted
        wanted = not (isinstance(step, Progress) and step.stage.startswith("Fitting"))
        return isinstance(step, Progress)

    context = Context("cpu", cancelled=lambda: not wanted)
    steps = pipelines.run(source(BOX_MESH, effort="best"), context)
    with pytest.raises(Cancelled):
        next(step for step in steps if not going_on(step))


# ---------------------------------------------------------------------------------- out of noise


@pytest.fixture
def models(no_models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(animation, "SHAPE_RESOLUTION", 64)
    exact_fields.write_model(no_models / "still")
    exact_fields.write_model(no_models / "swimmers", is_moving=True, names=("fish", "eel"))
    return no_models


def test_models_of_fields_are_listed_with_what_they_offer(models: Path) -> None:
    listed = {model.id: model for model in pipelines.models()}
    assert listed["swimmers"].names == ("fish", "eel")
    assert listed["swimmers"].frames == 5
    assert listed["swimmers"].default_for == ("animation",)
    assert listed["still"].default_for == ("shape",)
    assert listed["neural-field"].default_for == ("mesh-to-field", "field-to-mesh")


def test_an_animation_out_of_noise(models: Path) -> None:
    steps, result = drained(Animation(seed=5, resolution=64, choice="fish"))
    assert isinstance(result, AnimationResult)
    assert any("step 4 of 4" in step.stage for step in steps)
    assert len(result.meshes()) == 5
    assert (result.fps, result.loop) == (10.0, True)
    assert result.report["model"] == "swimmers"
    assert result.report["nearest"] in ("small", "middle", "large")
    assert result.report["nearest_distance"] >= 0
    for mesh in result.meshes():
        assert solid(mesh).volume > 0
    # In Blender's axes, what moves along x does.
    centres = np.array([solid(mesh).center_mass for mesh in result.meshes()])
    np.testing.assert_allclose(np.diff(centres[:, 0]), 2 * 0.02, atol=0.01)


def test_variations_are_those_of_their_seeds(models: Path) -> None:
    result = drained(Animation(seed=5, resolution=32, variations=3))[1]
    assert isinstance(result, AnimationSet)
    alone = animation_of(Animation(seed=6, resolution=32))
    found = [one.neural.weights for one in result.animations if one.neural is not None]
    assert alone.neural is not None
    np.testing.assert_allclose(found[1], alone.neural.weights, atol=1e-5)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(found[one] - found[other]).max() > 1e-2


def test_fewer_frames_take_the_same_time(models: Path) -> None:
    whole = animation_of(Animation(resolution=32))
    some = animation_of(Animation(resolution=32, frames=2))
    np.testing.assert_array_equal(some.meshes()[1][0], whole.meshes()[2][0])
    assert some.fps == pytest.approx(4)
    assert some.neural is not None
    assert (some.neural.frame_count, some.neural.fps) == (5, 10)
    assert animation_of(Animation(resolution=32, frames=2, fps=30.0)).fps == 30


def test_up_can_be_another_axis(models: Path) -> None:
    upright = animation_of(Animation(resolution=32, up_axis="y"))
    blender = animation_of(Animation(resolution=32, up_axis="z"))
    turned = upright.vertices @ turned_up("z")[:3, :3].T
    np.testing.assert_allclose(blender.vertices, turned, atol=1e-6)


def test_a_word_that_the_model_does_not_know_is_told(models: Path) -> None:
    with pytest.raises(BadInput, match="'bird'") as caught:
        drained(Animation(choice="bird"))
    assert "fish, eel" in caught.value.remedy


def test_a_shape_keeps_its_field(models: Path) -> None:
    result = drained(Shape(seed=1))[1]
    assert isinstance(result, MeshResult)
    assert result.neural is not None
    again = animation_of(FieldToMesh.of(result.neural, resolution=64))
    np.testing.assert_array_equal(again.vertices, result.vertices)
    assert solid((result.vertices, result.faces)).volume > 0


def test_two_shapes_of_a_model_can_be_mixed(models: Path) -> None:
    result = drained(Shape(seed=1, variations=2))[1]
    assert isinstance(result, MeshSet)
    first, last = (mesh.neural for mesh in result.meshes)
    assert first is not None
    assert last is not None
    mixed = animation_of(FieldToMesh.of(first, last, amounts=(0.0, 0.5, 1.0), resolution=64))
    assert all(solid(mesh).volume > 0 for mesh in mixed.meshes())


def test_a_part_of_such_a_shape_cannot_be_made_anew(models: Path) -> None:
    latent = np.zeros((4, 12, 12, 12), np.float32)
    with pytest.raises(BadInput, match="part of a shape anew"):
        drained(Shape(model="still", latent=latent, region=np.eye(4)))


def test_an_empty_shape_is_told(models: Path) -> None:
    exact_fields.write_model(models / "nothing", radius=-3.0)
    with pytest.raises(BadInput, match="empty shape"):
        drained(Shape(model="nothing"))
