"""From one shape to another: steps that the backend made, and a slider that shows one of them."""

import dataclasses
import time

import bpy
import moving_shapes
import numpy as np
import pytest
from driving import finish, know_models
from fake_backend import MODELS
from fieldforge.backend import field_files, protocol
from fieldforge.blender_addon.fields import kept, mixing, motion
from fieldforge.blender_addon.fields import panel as fields_panel
from fieldforge.blender_addon.fields.operators import why_not_mixed
from moving_shapes import FRAMES
from pages import draw
from played import new_root, roots, shown
from scenes import cube, select, world_points
from test_fields_compress import compress
from test_fields_source import make

STEPS = 5


@pytest.fixture
def settings(running, fake):
    fake.models = [*MODELS, *moving_shapes.MODELS]
    know_models(running)
    chosen = bpy.context.scene.fieldforge
    chosen.source, chosen.mix_steps, chosen.mix_resolution = "ANIMATION", STEPS, "64"
    chosen.motion_frames = 0
    bpy.context.scene.render.fps = 24
    return chosen


def stills(running) -> tuple:
    """Two results that do not move. Their fields begin with the weights 3 and 8."""
    one = compress(running, cube("Chest"))
    other = compress(running, cube("Crate", location=(5, 0, 0)))
    neural = kept.kept(other)
    kept.keep(other, dataclasses.replace(neural, weights=neural.weights + np.float32(5)))
    return one, other


def moving(running) -> tuple:
    return make(running, seed=10), make(running, seed=30)


def select_roots(one, other) -> None:
    """Whatever parts of them are selected, the first active."""
    select(motion.parts_of(one)[0], other)


def mix(running, one, other) -> bpy.types.Object:
    known = roots()
    select_roots(one, other)
    assert bpy.ops.fieldforge.mix_fields() == {"FINISHED"}
    finish(running, running.jobs[0])
    return new_root(*known)


def last_task(fake) -> protocol.Task:
    return protocol.decode_task(list(fake.tasks.values())[-1])


def last_result(fake) -> protocol.AnimationResult:
    return protocol.decode_result(list(fake.results.values())[-1])


def test_the_steps_are_asked_for_in_one_job(settings, running, fake):
    one, other = moving(running)
    root = mix(running, one, other)
    task = last_task(fake)
    assert isinstance(task, protocol.FieldToMesh)
    assert np.array_equal(task.weights, [kept.kept(each).weights for each in (one, other)])
    assert np.allclose(task.amounts, [0, 0.25, 0.5, 0.75, 1])
    assert (task.resolution, task.topology, task.frame_count) == (64, "frames", FRAMES)
    assert root.name == f"{one.name} to {other.name}"


def test_the_slider_shows_the_step_that_is_nearest(settings, running, fake):
    root = mix(running, *stills(running))
    steps = last_result(fake).steps()
    assert len(steps) == STEPS
    (part,) = motion.parts_of(root)
    assert part.name == "Chest field to Crate field shape"
    amounts = ((0.0, 0), (0.12, 0), (0.13, 1), (0.5, 2), (0.86, 3), (0.9, 4), (1.0, 4), (0.2, 1))
    for amount, step in amounts:
        root.fieldforge_mix.amount = amount
        (vertices, _), *_ = steps[step]
        assert np.abs(shown(root) - vertices).max() < 1e-6
        assert motion.parts_of(root) == [part]
    with pytest.raises(AssertionError):  # else nothing was told apart above
        assert np.abs(shown(root) - steps[0][0][0]).max() < 1e-6


def test_materials_stay_wherever_the_slider_goes(settings, running):
    root = mix(running, *stills(running))
    (part,) = motion.parts_of(root)
    wood, paint = (bpy.data.materials.new(name) for name in ("Wood", "Paint"))
    part.data.materials.append(wood)
    part.data.materials.append(None)
    part.material_slots[1].link = "OBJECT"
    part.material_slots[1].material = paint
    for amount in (0.5, 1.0, 0.0, 0.25):
        root.fieldforge_mix.amount = amount
        assert [slot.material for slot in part.material_slots] == [wood, paint]
        assert [slot.link for slot in part.material_slots] == ["DATA", "OBJECT"]
    part.data.materials.clear()
    root.fieldforge_mix.amount = 0.5
    assert not part.material_slots


def test_all_steps_of_a_sequence_share_a_material(settings, running):
    root = mix(running, *moving(running))
    assert bpy.context.selected_objects == [root]  # so that moving it moves all frames
    (material,) = {each.mesh.materials[0] for each in root.fieldforge_mix.meshes}
    other = bpy.data.materials.new("Scales")
    for part in motion.parts_of(root):
        part.material_slots[0].material = other
    root.fieldforge_mix.amount = 0.5
    assert {part.material_slots[0].material for part in motion.parts_of(root)} == {other}
    assert material.name == root.name


def test_sequences_go_on_playing_at_every_step(settings, running, fake):
    one, other = moving(running)
    one.fieldforge_motion.speed, one.fieldforge_motion.start = 3.0, 5.0
    root = mix(running, one, other)
    own = root.fieldforge_motion
    assert (own.way, own.frames, own.start, own.speed) == ("MESHES", FRAMES, 5.0, 3.0)
    steps = last_result(fake).steps()
    for step in (0, 3, 4, 1):
        root.fieldforge_mix.amount = step / (STEPS - 1)
        for number in range(FRAMES):
            vertices, _ = steps[step][number]
            assert np.abs(shown(root, 5 + 3 * number) - vertices).max() < 1e-6
    own.speed = 1.0
    assert np.abs(shown(root, 7) - steps[1][2][0]).max() < 1e-6


def test_it_stands_beside_the_two(settings, running):
    one, other = stills(running)
    root = mix(running, one, other)
    bpy.context.view_layer.update()
    taken = [world_points(part) for each in (one, other) for part in motion.parts_of(each)]
    lowest = world_points(motion.parts_of(root)[0])[:, 0].min()
    assert lowest > max(points[:, 0].max() for points in taken)


def test_a_copy_at_the_slider_keeps_shape_and_field(settings, running, fake):
    root = mix(running, *stills(running))
    root.location = (1, 2, 3)
    root.fieldforge_mix.amount = 0.75
    before = shown(root)
    known = roots()
    assert bpy.ops.fieldforge.copy_mix() == {"FINISHED"}
    copy = new_root(*known)
    assert copy.matrix_world == root.matrix_world
    root.fieldforge_mix.amount = 0.0
    assert np.array_equal(shown(copy), before)
    (own,), (shared,) = motion.parts_of(copy), motion.parts_of(root)
    assert own.data != shared.data
    weights = kept.kept(copy).weights
    assert weights[0] == pytest.approx(3 + 0.75 * 5)
    assert not mixing.is_mix(copy)
    select(own)
    assert bpy.ops.fieldforge.bring_back() == {"FINISHED"}
    finish(running, running.jobs[0])
    assert np.array_equal(last_task(fake).weights[0], weights)
    assert np.abs(shown(copy)[:, 1:] - shown(copy)[:, 1:]).max() < 1e-6


def test_a_field_told_more_octaves_is_mixed_with_one_told_fewer(settings, running):
    one, other = stills(running)
    fine = kept.kept(other)
    kept.keep(other, fine.widened(fine.frequencies + 2))
    select_roots(one, other)
    assert why_not_mixed(bpy.context) == ""
    root = mix(running, one, other)
    root.fieldforge_mix.amount = 0.5
    neural = mixing.field_here(root)
    neural.check()
    assert neural.frequencies == fine.frequencies + 2
    ends = kept.kept(one).widened(neural.frequencies).weights, kept.kept(other).weights
    np.testing.assert_allclose(neural.weights, np.mean(ends, axis=0), atol=1e-3)


def test_a_copy_of_mixed_surfaces_keeps_no_field_but_at_the_ends(settings, running, monkeypatch):
    """Where fields could not be mixed, what lies between two is of no field."""
    plain = moving_shapes.animation
    monkeypatch.setattr(
        moving_shapes,
        "animation",
        lambda *given, **more: plain(*given, **more | {"report": {"mixed": "distances"}}),
    )
    root = mix(running, *moving(running))
    assert "a copy between them keeps no field" in draw(fields_panel.FIELDFORGE_PT_field).words()
    for amount, has in ((0.5, False), (0.0, True), (1.0, True)):
        root.fieldforge_mix.amount = amount
        known = roots()
        select(*motion.parts_of(root)[:1])
        bpy.ops.fieldforge.copy_mix()
        copy = new_root(*known)
        assert kept.has_field(copy) == has
        assert not has or kept.kept(copy).weights[0] == 10 + 20 * amount


def test_the_field_of_what_the_slider_shows_is_saved(settings, running, tmp_path):
    root = mix(running, *stills(running))
    path = tmp_path / "half.ffield"
    for amount in (0.0, 0.5, 1.0):
        root.fieldforge_mix.amount = amount
        assert bpy.ops.fieldforge.export_field(filepath=str(path)) == {"FINISHED"}
        neural, name = field_files.from_bytes(path.read_bytes())
        assert neural.weights[0] == pytest.approx(3 + 5 * amount)
        assert name == f"Chest field to Crate field, {amount:.0%}"
    root.fieldforge_mix.by_weights = False  # surfaces were mixed: fields at the ends only
    for amount, has in ((0.0, True), (0.5, False), (1.0, True)):
        root.fieldforge_mix.amount = amount
        assert bpy.ops.fieldforge.export_field.poll() == has


def test_a_copy_of_a_sequence_moves_by_itself(settings, running, fake):
    root = mix(running, *moving(running))
    root.fieldforge_mix.amount = 0.5
    known = roots()
    bpy.ops.fieldforge.copy_mix()
    copy = new_root(*known)
    assert bpy.context.selected_objects == [copy]
    steps = last_result(fake).steps()
    copy.fieldforge_motion.speed = 5.0
    root.fieldforge_mix.amount = 1.0
    for number in range(FRAMES):
        start = copy.fieldforge_motion.start
        assert np.abs(shown(copy, start + 5 * number) - steps[2][number][0]).max() < 1e-6
    first = root.fieldforge_motion
    assert np.abs(shown(root, first.start + first.speed) - steps[4][1][0]).max() < 1e-6


def test_the_slider_is_saved_with_all_of_its_steps(settings, running, fake, tmp_path):
    root = mix(running, *moving(running))
    steps = last_result(fake).steps()
    name, path = root.name, str(tmp_path / "saved.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    root = bpy.data.objects[name]
    for step in (3, 0, 4):
        root.fieldforge_mix.amount = step / (STEPS - 1)
        assert np.abs(shown(root, 1) - steps[step][0][0]).max() < 1e-6
    assert kept.second(root).weights[0] - kept.kept(root).weights[0] == 20


def test_undo_knows_where_the_slider_was(settings, running):
    root = mix(running, *stills(running))
    name = root.name
    root.fieldforge_mix.amount = 0.5
    bpy.ops.ed.undo_push(message="Half")
    half = shown(root)
    root.fieldforge_mix.amount = 1.0
    bpy.ops.ed.undo_push(message="Whole")
    bpy.ops.ed.undo()
    root = bpy.data.objects[name]
    assert root.fieldforge_mix.amount == 0.5
    assert np.array_equal(shown(root), half)
    bpy.ops.ed.undo()
    bpy.ops.ed.undo()
    assert name not in bpy.data.objects
    assert len(bpy.data.meshes) == 4  # of the two, and of their originals


def test_sources_may_be_gone_when_the_steps_come(settings, running, fake):
    one, other = stills(running)
    fake.hold.clear()
    select_roots(one, other)
    bpy.ops.fieldforge.mix_fields()
    for item in (*motion.with_parts(one), *motion.with_parts(other)):
        bpy.data.objects.remove(item)
    fake.hold.set()
    finish(running, running.jobs[0])
    root = new_root()
    root.fieldforge_mix.amount = 1.0
    assert bpy.ops.fieldforge.copy_mix() == {"FINISHED"}


def test_what_cannot_be_mixed_says_why(settings, running):
    still = compress(running, cube("Chest"))
    one, other = moving(running)
    short = make(running, motion_frames=3)
    select(motion.parts_of(still)[0])
    assert why_not_mixed(bpy.context) == "Select two results that keep neural fields"
    for pair, reason in (
        ((still, one), "One of them moves, the other does not"),
        ((one, short), f"{one.name} has 5 frames, {short.name} 3"),
        ((one, other), ""),
    ):
        select_roots(*pair)
        assert why_not_mixed(bpy.context) == reason
        assert bpy.ops.fieldforge.mix_fields.poll() == (not reason)
        words = draw(fields_panel.FIELDFORGE_PT_field, 900).words()
        assert not reason or f"{reason}." in words
    select(*motion.parts_of(one), *motion.parts_of(other), *motion.parts_of(short))
    assert why_not_mixed(bpy.context) == "Select two results that keep neural fields"


def test_fields_of_other_starts_are_warned_of(settings, running, monkeypatch):
    one = compress(running, cube("Chest"))
    plain = moving_shapes.neural
    monkeypatch.setattr(
        moving_shapes, "neural", lambda *given, **more: plain(*given, **more, start="another")
    )
    other = compress(running, cube("Crate"))
    select_roots(one, other)
    assert why_not_mixed(bpy.context) == ""
    assert "their surfaces will be mixed" in draw(fields_panel.FIELDFORGE_PT_field, 900).words()
    select_roots(one, one)


def test_in_edit_mode_the_slider_rests_and_says_why(settings, running):
    root = mix(running, *stills(running))
    (part,) = motion.parts_of(root)
    before = part.data
    select(part)
    bpy.ops.object.mode_set(mode="EDIT")
    root.fieldforge_mix.amount = 1.0
    assert part.data == before
    assert "Leave Edit Mode" in draw(fields_panel.FIELDFORGE_PT_field, 600).words()
    assert not bpy.ops.fieldforge.copy_mix.poll()
    bpy.ops.object.mode_set(mode="OBJECT")
    root.fieldforge_mix.amount = 0.75
    assert part.data != before


def test_the_panel_has_the_slider(settings, running):
    root = mix(running, *moving(running))
    page = draw(fields_panel.FIELDFORGE_PT_field, 600)
    assert page.has("prop", "amount")
    assert f"Step 1 of {STEPS}" in page.words()
    assert page.has("operator", "fieldforge.copy_mix")
    assert not page.has("operator", "fieldforge.bring_back")
    assert not bpy.ops.fieldforge.bring_back.poll()
    assert page.has("prop", "speed")
    assert root.fieldforge_mix.steps == STEPS


def sheet(side: int, step: int):
    """A mesh of about side * side vertices, other ones for each step."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    z = np.sin(3 * x + step) * np.cos(2 * y)
    index = np.arange(side * side, dtype=np.int32).reshape(side, side)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.stack([a, b, c, a, c, d], -1).reshape(-1, 3)
    return np.stack([x, y, z], -1).reshape(-1, 3).astype(np.float32), faces


def test_a_move_of_the_slider_costs_next_to_nothing(settings, running, monkeypatch):
    """20,000 vertices: less than 30 ms of the processor with all that drawing asks of the mesh."""
    one, other = stills(running)
    meshes = [sheet(141, step) for step in range(STEPS)]
    made = moving_shapes.animation(
        meshes, one=False, amounts=np.linspace(0, 1, STEPS, dtype=np.float32)
    )
    monkeypatch.setattr(moving_shapes, "result_of", lambda task: made)
    root = mix(running, one, other)
    took = []
    for amount in np.random.default_rng(0).permutation(np.tile(np.linspace(0, 1, STEPS), 8)):
        begun = time.process_time()
        root.fieldforge_mix.amount = float(amount)
        bpy.context.view_layer.update()
        (part,) = motion.parts_of(root)
        evaluated = part.evaluated_get(bpy.context.evaluated_depsgraph_get())
        normals = np.empty(3 * len(evaluated.data.vertices), np.float32)
        evaluated.data.vertex_normals.foreach_get("vector", normals)
        took.append(time.process_time() - begun)
    print(f"slider: median {1000 * np.median(took):.2f} ms, most {1000 * max(took):.2f} ms")
    assert np.median(took) < 0.03
