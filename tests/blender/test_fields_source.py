"""The source Animated Shape, from Generate to what plays: whole jobs with a fake backend."""

import dataclasses
import itertools
import json

import bpy
import moving_shapes
import numpy as np
import pytest
from driving import finish, generate, know_models
from fake_backend import MODELS
from fieldforge.backend import protocol
from fieldforge.blender_addon import bundled
from fieldforge.blender_addon.fields import choices, kept, motion
from fieldforge.blender_addon.fields import panel as fields_panel
from moving_shapes import FRAMES, corners
from pages import draw
from played import new_root, roots, shown
from scenes import select, world_points

WAYS = ("KEYS", "MESHES")


@pytest.fixture
def settings(running, fake):
    fake.models = [*MODELS, *moving_shapes.MODELS]
    know_models(running)
    chosen = bpy.context.scene.fieldforge
    chosen.source, chosen.seed = "ANIMATION", 7
    bpy.context.scene.render.fps = 24
    return chosen


def make(running, **changes) -> bpy.types.Object:
    """Click Generate; the root of what was made."""
    for name, value in changes.items():
        setattr(bpy.context.scene.fieldforge, name, value)
    known = roots()
    (job,) = generate()
    finish(running, job)
    return new_root(*known)


def last_task(fake) -> protocol.Task:
    return protocol.decode_task(list(fake.tasks.values())[-1])


def state() -> dict:
    """All that a result brings into a file."""
    scene = bpy.context.scene
    return {
        "objects": sorted(item.name for item in bpy.data.objects),
        "meshes": sorted(mesh.name for mesh in bpy.data.meshes),
        "keys": len(bpy.data.shape_keys),
        "actions": sorted(action.name for action in bpy.data.actions),
        "collections": sorted(each.name for each in bpy.data.collections),
        "range": (scene.use_preview_range, scene.frame_preview_start, scene.frame_preview_end),
    }


@pytest.mark.parametrize("way", WAYS)
def test_each_frame_shows_what_the_backend_sent(settings, running, fake, way):
    """Two frames of the timeline for each of 12 a second, in a scene of 24."""
    root = make(running, motion_way=way, result_size=1.8)
    own = root.fieldforge_motion
    assert (own.way, own.frames, own.start, own.speed, own.loop) == (way, FRAMES, 1.0, 2.0, True)
    result = protocol.decode_result(list(fake.results.values())[-1])
    for number, (vertices, _) in enumerate(result.meshes()):
        assert np.array_equal(vertices, corners(number, seed=7))
        assert np.abs(shown(root, 1 + 2 * number) - vertices).max() < 1e-6
    parts = motion.parts_of(root)
    assert len(parts) == (1 if way == "KEYS" else FRAMES)
    assert bpy.context.view_layer.objects.active == (parts[0] if way == "KEYS" else root)
    assert last_task(fake).topology == ("one" if way == "KEYS" else "frames")


def test_what_is_selected_of_a_mesh_per_frame_moves_all_of_it(settings, running):
    root = make(running, motion_way="MESHES", result_size=1.8)
    assert bpy.context.selected_objects == [root]
    bpy.ops.transform.translate(value=(0, 5, 0))
    for number, part in enumerate(motion.parts_of(root)):
        bpy.context.scene.frame_set(1 + 2 * number)  # where what is hidden stands is not known
        assert np.allclose(world_points(part), corners(number, 7) + np.array([0, 5, 0]), atol=1e-5)
    bpy.ops.fieldforge.bring_back()
    finish(running, running.jobs[0])
    assert bpy.context.selected_objects == [root]
    settings.motion_way = "KEYS"
    bpy.ops.fieldforge.bring_back()
    finish(running, running.jobs[0])
    assert bpy.context.selected_objects == motion.parts_of(root)


def test_a_mesh_per_frame_shares_a_material(settings, running):
    """Else one that the artist makes shows in a single frame."""
    root = make(running, motion_way="MESHES")
    (material,) = {slot.material for part in motion.parts_of(root) for slot in part.material_slots}
    assert material.name == root.name
    assert all(len(part.material_slots) == 1 for part in motion.parts_of(root))
    assert material.node_tree.nodes["Principled BSDF"]
    bring = bpy.data.materials.new("Scales")
    for part in motion.parts_of(root):
        part.material_slots[0].material = bring
    bpy.ops.fieldforge.bring_back()
    finish(running, running.jobs[0])
    assert {part.material_slots[0].material for part in motion.parts_of(root)} == {bring}


def test_between_frames_shape_keys_are_halfway_and_meshes_stay(settings, running):
    keys, meshes = make(running, motion_way="KEYS"), make(running, motion_way="MESHES")
    halfway = (corners(1, 7) + corners(2, 7)) / 2
    assert np.abs(shown(keys, 4) - halfway).max() < 1e-6
    assert np.abs(shown(meshes, 4) - corners(1, 7)).max() < 1e-6
    leads_back = (corners(FRAMES - 1, 7) + corners(0, 7)) / 2
    assert np.abs(shown(keys, 1 + 2 * FRAMES - 1) - leads_back).max() < 1e-6


@pytest.mark.parametrize("way", WAYS)
def test_start_speed_and_loop_stay_adjustable(settings, running, way):
    root = make(running, motion_way=way)
    own = root.fieldforge_motion
    own.start, own.speed = 11.0, 3.0
    for number in range(FRAMES):
        assert np.abs(shown(root, 11 + 3 * number) - corners(number, 7)).max() < 1e-6
    period = 3 * FRAMES
    for laps in (-2, 1, 4):  # before the start, too
        assert np.abs(shown(root, 11 + laps * period + 6) - corners(2, 7)).max() < 1e-5
    own.loop = False
    for frame, number in ((-50, 0), (11, 0), (14, 1), (23, FRAMES - 1), (500, FRAMES - 1)):
        assert np.abs(shown(root, frame) - corners(number, 7)).max() < 1e-6
    own.loop = True
    assert np.abs(shown(root, 11 + period + 6) - corners(2, 7)).max() < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_what_shows_follows_a_control_at_once(settings, running, way):
    """Without going to another frame first."""
    root = make(running, motion_way=way)
    bpy.context.scene.frame_set(5)
    assert np.abs(shown(root) - corners(2, 7)).max() < 1e-6
    root.fieldforge_motion.speed = 4.0
    assert np.abs(shown(root) - corners(1, 7)).max() < 1e-6
    root.fieldforge_motion.start = 5.0
    assert np.abs(shown(root) - corners(0, 7)).max() < 1e-6


def test_a_retimed_motion_has_no_more_curves_than_before(settings, running):
    root = make(running)
    before = state()
    for speed in (0.5, 3.0, 7.25):
        root.fieldforge_motion.speed = speed
    assert state()["actions"] == before["actions"]
    keys = motion.parts_of(root)[0].data.shape_keys
    from fieldforge.blender_addon.keyframes import curves_of

    curves = list(curves_of(keys))
    assert len(curves) == FRAMES - 1
    assert all(len(curve.modifiers) == 1 for curve in curves)


@pytest.mark.parametrize("way", WAYS)
def test_one_undo_takes_all_of_it_back_and_redo_brings_it(settings, running, way):
    bpy.ops.ed.undo_push(message="Before")
    before = state()
    make(running, motion_way=way)
    after = state()
    assert after != before
    bpy.ops.ed.undo()
    assert state() == before
    bpy.ops.ed.redo()
    assert state() == after
    (root,) = roots()
    assert np.abs(shown(root, 5) - corners(2, 7)).max() < 1e-6


@pytest.mark.parametrize("way", WAYS)
def test_a_saved_file_plays_and_adjusts_as_before(settings, running, tmp_path, way):
    name = make(running, motion_way=way).name
    path = str(tmp_path / "saved.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    root = bpy.data.objects[name]
    assert np.abs(shown(root, 5) - corners(2, 7)).max() < 1e-6
    root.fieldforge_motion.speed = 4.0
    assert np.abs(shown(root, 5) - corners(1, 7)).max() < 1e-6


def test_the_preview_range_is_the_motion_and_goes_with_it(settings, running):
    scene = bpy.context.scene
    root = make(running)
    own = root.fieldforge_motion

    def preview():
        return scene.use_preview_range, scene.frame_preview_start, scene.frame_preview_end

    assert preview() == (True, 1, 2 * FRAMES)  # the frame after it is the first again
    own.start, own.speed = 21.0, 4.0
    assert preview() == (True, 21, 20 + 4 * FRAMES)
    own.loop = False
    assert preview() == (True, 21, 21 + 4 * (FRAMES - 1))
    scene.frame_preview_end = 90  # somebody else's range now
    own.speed = 1.0
    assert preview() == (True, 21, 90)
    assert (scene.frame_start, scene.frame_end) == (1, 250)


def test_without_preview_range_the_scene_keeps_its_own(settings, running):
    make(running, motion_preview_range=False)
    assert not bpy.context.scene.use_preview_range


def test_variations_stand_side_by_side_with_their_seeds(settings, running, fake):
    settings.variations, settings.motion_way = 3, "MESHES"
    (job,) = generate()
    finish(running, job)
    made = roots()
    assert [root.name for root in made] == [f"Animated shape, seed {7 + k}" for k in range(3)]
    ends = []
    for number, root in enumerate(made):
        assert np.abs(shown(root, 1) - corners(0, 7 + number)).max() < 1e-6
        points = world_points(motion.parts_of(root)[0])
        ends.append((points[:, 0].min(), points[:, 0].max()))
    assert all(one[1] < other[0] for one, other in itertools.pairwise(ends))


def test_it_goes_to_the_cursor_in_the_size_that_was_asked(settings, running):
    bpy.context.scene.cursor.location = (3, -2, 1)
    root = make(running, result_size=3.6)
    bpy.context.scene.frame_set(1)
    points = world_points(motion.parts_of(root)[0])
    assert np.abs(points - (corners(0, 7) * 2 + [3, -2, 1])).max() < 1e-5


def test_the_task_says_what_the_panel_says(settings, running, fake):
    make(running, motion_choice="walker", motion_frames=3, field_resolution="64", variations=1)
    task = last_task(fake)
    assert isinstance(task, protocol.Animation)
    assert (task.choice, task.frames, task.resolution, task.seed) == ("walker", 3, 64, 7)
    assert task.model == "creatures"
    assert new_root().name == "Walker"


def test_a_word_that_the_model_does_not_know_is_not_sent(settings, running, fake):
    settings.motion_choice_name = "dragon"
    assert settings.motion_choice == "ANYTHING"
    make(running)
    assert last_task(fake).choice == ""


def test_frames_of_other_topology_become_a_mesh_each(settings, running, fake, monkeypatch):
    """Also where shape keys were asked for, and where one frame shows nothing."""
    above = corners(0) + np.float32([0, 0, 2])
    tower = np.concatenate([corners(0), above])
    twice = np.concatenate([moving_shapes.FACES, moving_shapes.FACES + 8]).astype(np.int32)
    nothing = (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    meshes = [(corners(0), moving_shapes.FACES), nothing, (tower, twice)]
    notes = {"notes": ["Parts come apart in frame 3: a mesh per frame."]}
    made = moving_shapes.animation(meshes, one=False, fps=24.0, report=notes)
    monkeypatch.setattr(moving_shapes, "result_of", lambda task: made)
    root = make(running, motion_way="KEYS")
    own = root.fieldforge_motion
    assert (own.way, own.frames, own.loop, own.speed) == ("MESHES", 3, False, 1.0)
    assert np.abs(shown(root, 1) - corners(0)).max() < 1e-6
    assert len(shown(root, 2)) == 0
    assert np.abs(shown(root, 3) - tower).max() < 1e-6
    assert running.jobs[0].notes == notes["notes"]


def test_nothing_at_all_is_told_in_words(settings, running, fake, monkeypatch):
    nothing = (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    made = moving_shapes.animation([nothing, nothing], one=False)
    monkeypatch.setattr(moving_shapes, "result_of", lambda task: made)
    before = state()
    (job,) = generate()
    finish(running, job, "failed")
    assert "empty" in job.error["cause"]
    assert state() == before


def test_the_panel_offers_what_the_model_knows(settings):
    page = draw()
    assert "A moving shape of the model's own choice, 5 frames" in page.words()
    for name in ("motion_choice", "motion_frames", "field_resolution", "motion_way", "variations"):
        assert page.has("prop", name), name
    assert not page.has("prop", "guidance")
    assert not page.has("prop", "resolution")
    assert not page.has("prop", "layout")
    settings.variations, settings.own_sampling = 2, True
    page = draw()
    assert page.has("prop", "steps")
    assert not page.has("prop", "layout")
    assert not page.has("prop", "guidance")


def test_words_of_a_model_in_the_box_are_offered_before_the_backend_was_asked(
    running, tmp_path, monkeypatch
):
    described = {
        **{"id": "own", "title": "Own", "summary": "", "tasks": ["animation"], "views": 0},
        **{"view_kind": "", "cameras": [], "steps": 50, "guidance": None},
        "config": {"model": {"names": ["fish", "plant"], "frames": 16}},
    }
    for name, changes in (("own", {}), ("broken", {"config": {"model": {"names": 5}}})):
        folder = tmp_path / "box" / name
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(json.dumps(described | {"id": name} | changes))
    monkeypatch.setenv("FIELDFORGE_BUNDLED", str(tmp_path / "box"))
    bundled._models.cache_clear()
    settings = bpy.context.scene.fieldforge
    settings.source = "ANIMATION"
    assert [name for name, *_ in choices.list_choices(settings, None)] == [
        *("ANYTHING", "fish", "plant")
    ]
    assert "16 frames" in draw().words()
    bundled._models.cache_clear()


def test_the_creatures_in_the_box_are_offered(running, monkeypatch):
    """Before the backend has said what it has."""
    monkeypatch.delenv("FIELDFORGE_BUNDLED")
    bundled._models.cache_clear()
    model = bundled.default_for("animation", None)
    assert model["id"] == "fieldforge-creatures"
    assert model["frames"] == 16
    settings = bpy.context.scene.fieldforge
    settings.source = "ANIMATION"
    offered = [name for name, *_ in choices.list_choices(settings, None)]
    assert offered == ["ANYTHING", *model["names"]]
    assert {"fish", "walking person", "pump"} < set(offered)
    bundled._models.cache_clear()


def test_the_controls_show_for_any_part_of_it(settings, running):
    root = make(running, motion_way="MESHES")
    near = "Most like walker 3 of the training shapes, 25% of the way to the next one of these"
    for item in (root, *motion.parts_of(root)):
        select(item)
        assert near in draw(fields_panel.FIELDFORGE_PT_field, 900).words()
        assert fields_panel.FIELDFORGE_PT_field.poll(bpy.context)
        page = draw(fields_panel.FIELDFORGE_PT_field, 600)
        for name in ("start", "speed", "loop"):
            assert page.has("prop", name)
        assert "Frames 1 to 10, a mesh per frame" in page.words()


def test_a_copy_of_the_whole_has_a_time_of_its_own(settings, running):
    root = make(running, motion_way="MESHES")
    for item in (root, *motion.parts_of(root)):
        item.select_set(True)
    bpy.ops.object.select_all(action="DESELECT")
    for item in motion.with_parts(root):
        item.hide_viewport = False
        item.select_set(True)
    bpy.ops.object.duplicate()
    copy = new_root(root)
    assert len(motion.parts_of(copy)) == FRAMES
    copy.fieldforge_motion.speed = 5.0
    assert np.abs(shown(copy, 6) - corners(1, 7)).max() < 1e-6
    assert np.abs(shown(root, 7) - corners(3, 7)).max() < 1e-6


def test_a_field_brings_back_all_of_its_frames_in_the_same_time(settings, running):
    """Also where fewer were asked for."""
    root = make(running, motion_frames=3, motion_way="MESHES", field_resolution="64")
    own = root.fieldforge_motion
    kept.keep(root, dataclasses.replace(kept.kept(root), frame_count=6))
    before = own.frames * own.speed
    select(motion.parts_of(root)[0])
    assert bpy.ops.fieldforge.bring_back() == {"FINISHED"}
    finish(running, running.jobs[0])
    assert own.frames == 6
    assert own.frames * own.speed == pytest.approx(before)
    assert np.abs(shown(root, own.start + 4 * own.speed) - corners(4, 7)).max() < 1e-5


def test_a_generated_still_keeps_its_field_and_comes_back(settings, running, fake):
    """A mesh of the source Anything, by a model that makes fields."""
    settings.source, settings.result_size = "SHAPE", 3.6
    (job,) = generate()
    finish(running, job)
    item = bpy.context.view_layer.objects.active
    assert item.type == "MESH"
    assert kept.kept(item).weights[0] == 7
    assert "Most like A" in draw(fields_panel.FIELDFORGE_PT_field, 900).words()
    points = world_points(item)
    assert bpy.ops.fieldforge.bring_back.poll()
    settings.field_resolution = "64"
    bpy.ops.fieldforge.bring_back()
    finish(running, running.jobs[0])
    assert bpy.context.view_layer.objects.active == item
    assert np.abs(world_points(item) - points).max() < 1e-6
    assert len(bpy.data.meshes) == 1
    settings.seed = 17
    (job,) = generate()
    finish(running, job)
    other = bpy.context.view_layer.objects.active
    select(item, other)
    assert bpy.ops.fieldforge.mix_fields.poll()
    bpy.ops.fieldforge.mix_fields()
    finish(running, running.jobs[0])
    assert new_root().fieldforge_mix.steps == settings.mix_steps
