"""Watch it form: previews come, follow, and go, and leave nothing behind on any path."""

import time

import bpy
import numpy as np
import pytest
from driving import finish, generate, know_models, result_objects
from fieldforge.backend import errors
from fieldforge.blender_addon import forming, jobs
from scenes import cloud, tick_until, world_points


def previews():
    return [item for item in bpy.data.objects if forming.MARK in item]


def leftovers():
    """Everything of previews that is in the file, used or not."""
    groups = (bpy.data.objects, bpy.data.meshes, bpy.data.materials)
    return [each.name for group in groups for each in group if "Forming" in each.name]


def timers_at_rest(running) -> bool:
    return running.tick() is None


@pytest.fixture
def dreaming(running, fake):
    """A cloud, and a job of a model that samples, which runs until it is let go."""
    know_models(running)
    settings = bpy.context.scene.fieldforge
    source = cloud("Chair")
    settings.model = "dreamer"
    bpy.ops.ed.undo_push(message="the scan")
    fake.hold.clear()
    return source


def begin(running, fake, **choices):
    settings = bpy.context.scene.fieldforge
    for name, value in choices.items():
        setattr(settings, name, value)
    (job,) = generate()
    tick_until(running, lambda: job.state == "running")
    return job


def see(running, fake, job, size=1.0, count=1):
    """The backend has formed something of this size; wait until that shows."""
    fake.form(job.job_id, size)
    full = np.ptp(world_points(bpy.data.objects["Chair"]), axis=0)

    def shows() -> bool:
        found = previews()
        extents = [np.ptp(world_points(item), axis=0) for item in found]
        return len(found) == count and np.allclose(extents, size * full, rtol=1e-4)

    tick_until(running, shows)


def test_what_forms_shows_and_gives_way_to_the_result(running, fake, dreaming):
    dreaming.location, dreaming.scale = (1, 2, 3), (2, 2, 0.5)
    job = begin(running, fake)
    assert previews() == []
    see(running, fake, job, 1.0)
    (item,) = previews()
    assert item.name == "Forming: Chair"
    assert np.abs(world_points(item) - world_points(dreaming)).max() < 1e-5
    assert (item.hide_select, item.hide_render, item.show_name) == (True, True, True)
    assert not item.select_get()
    assert bpy.context.view_layer.objects.active == dreaming
    assert "step 1 of 8" in job.stage
    fake.hold.set()
    finish(running, job)
    (created,) = result_objects(dreaming)
    assert created.name == "Chair mesh"
    assert leftovers() == []
    assert timers_at_rest(running)


def test_the_mesh_changes_in_place(running, fake, dreaming):
    job = begin(running, fake)
    see(running, fake, job, 1.0)
    (item,) = previews()
    first = item.data.session_uid
    for size in (0.5, 0.25):
        see(running, fake, job, size)
        assert [each.data.session_uid for each in previews()] == [first]
    assert len(bpy.data.meshes) == 2


def test_a_preview_follows_its_source(running, fake, dreaming):
    job = begin(running, fake)
    see(running, fake, job)
    dreaming.location = (4, 5, 6)
    bpy.context.view_layer.update()
    running._followed = 0.0
    running.tick()
    (item,) = previews()
    assert np.abs(world_points(item) - world_points(dreaming)).max() < 1e-5


def test_there_is_nothing_to_see_when_it_is_not_wanted(running, fake, dreaming):
    job = begin(running, fake, watch=False)
    fake.form(job.job_id)
    tick_until(running, lambda: "step 1" in job.stage)
    for _ in range(20):
        running.tick()
        time.sleep(0.005)
    assert previews() == []
    assert not [asked for asked in fake.asked if asked.endswith("/preview")]
    fake.hold.set()
    finish(running, job)


@pytest.mark.parametrize("layout", ["ROW", "COLLECTION"])
def test_variations_form_where_they_are_going_to_be(running, fake, dreaming, layout):
    job = begin(running, fake, variations=3, layout=layout, seed=7)
    shown = 3 if layout == "ROW" else 1
    see(running, fake, job, count=shown)
    expected = {f"Forming: Chair, seed {seed}" for seed in (7, 8, 9)[:shown]}
    assert {item.name for item in previews()} == expected
    forming_at = sorted(item.matrix_world.translation.x for item in previews())
    fake.hold.set()
    finish(running, job)
    made = result_objects(dreaming)
    there = sorted(item.matrix_world.translation.x for item in made)
    assert len(made) == 3
    assert np.allclose(forming_at, there[:shown], atol=1e-5)
    assert leftovers() == []


@pytest.mark.parametrize("way", ["cancel", "fail", "lose", "delete"])
def test_nothing_is_left_when_it_ends_early(running, fake, dreaming, way):
    job = begin(running, fake)
    see(running, fake, job)
    if way == "cancel":
        bpy.ops.fieldforge.cancel(key=job.key)
        assert leftovers() == []  # at once, not with the next tick
    elif way == "delete":
        bpy.ops.fieldforge.delete_job(key=job.key)
        assert leftovers() == []
    elif way == "fail":
        fake.fail = errors.OutOfMemory("It needs 11 GB.", "Choose less.")
        fake.hold.set()
        finish(running, job, "failed")
    else:
        fake.vanish()
        finish(running, job, "lost")
    tick_until(running, lambda: not running.busy)
    assert leftovers() == []
    assert list(bpy.data.objects) == [dreaming]
    assert timers_at_rest(running)


def test_a_preview_that_comes_too_late_shows_nothing(running, fake, dreaming):
    job = begin(running, fake)
    see(running, fake, job)
    (shown,) = job.forming
    running._update(job, forming=[shown])
    bpy.ops.fieldforge.cancel(key=job.key)
    tick_until(running, lambda: not running.busy)
    assert leftovers() == []


def test_another_file_has_none_of_it(running, fake, dreaming):
    job = begin(running, fake)
    see(running, fake, job)
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    fake.form(job.job_id, 0.5)
    for _ in range(30):
        running.tick()
        time.sleep(0.005)
    assert leftovers() == []
    fake.hold.set()
    finish(running, job)
    assert not bpy.data.objects


def test_a_disabled_extension_leaves_none(running, fake, dreaming, extension):
    job = begin(running, fake)
    see(running, fake, job)
    extension.unregister()
    assert leftovers() == []
    assert not bpy.app.timers.is_registered(running._timer)
    extension.register()


def test_a_file_is_saved_without_them(running, fake, dreaming, tmp_path):
    job = begin(running, fake)
    see(running, fake, job)
    path = str(tmp_path / "scene.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path, copy=True)
    assert len(previews()) == 1  # it stays to be seen
    with bpy.data.libraries.load(path) as (there, _):
        assert (there.objects, there.meshes, there.materials) == (["Chair"], ["Chair"], [])
    bpy.ops.fieldforge.cancel(key=job.key)
    bpy.ops.wm.open_mainfile(filepath=path)
    assert [item.name for item in bpy.context.scene.collection.all_objects] == ["Chair"]
    assert leftovers() == []


def test_a_recovered_file_is_cleaned(running, fake, dreaming, tmp_path):
    """An automatic save writes the undo memory as it is."""
    job = begin(running, fake)
    see(running, fake, job)
    (item,) = previews()
    for each in (item, item.data, item.data.materials[0]):
        each.is_runtime_data = False
    path = str(tmp_path / "auto.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path, copy=True)
    bpy.ops.fieldforge.cancel(key=job.key)
    bpy.ops.wm.open_mainfile(filepath=path)
    assert leftovers() == []
    assert [item.name for item in bpy.data.objects] == ["Chair"]


def test_undo_while_it_forms_neither_doubles_nor_loses_it(running, fake, dreaming):
    job = begin(running, fake)
    see(running, fake, job)
    for step in (1, 2, 3):
        dreaming.location.x = step
        bpy.ops.ed.undo_push(message=f"move {step}")
    for way in (
        bpy.ops.ed.undo,
        bpy.ops.ed.undo,
        bpy.ops.ed.redo,
        bpy.ops.ed.undo,
        bpy.ops.ed.undo,
    ):
        way()
        running.tick()
        assert [item.name for item in previews()] == ["Forming: Chair"]
        assert len([mesh for mesh in bpy.data.meshes if "Forming" in mesh.name]) == 1
    see(running, fake, job, 0.5)
    assert bpy.data.objects["Chair"].location.x == 0
    fake.hold.set()
    finish(running, job)
    assert leftovers() == []
    assert {item.name for item in bpy.data.objects} == {"Chair", "Chair mesh"}


def test_undo_after_the_end_brings_no_preview_back(running, fake, dreaming):
    """The steps that were made meanwhile hold previews; they must not come back with them."""
    job = begin(running, fake)
    see(running, fake, job)
    dreaming.location.x = 1
    bpy.ops.ed.undo_push(message="move")
    see(running, fake, job, 0.5)
    fake.hold.set()
    finish(running, job)
    tick_until(running, lambda: not running.busy)
    for way, expected in (
        (bpy.ops.ed.undo, {"Chair"}),
        (bpy.ops.ed.undo, {"Chair"}),
        (bpy.ops.ed.redo, {"Chair"}),
        (bpy.ops.ed.redo, {"Chair", "Chair mesh"}),
    ):
        way()
        assert bpy.app.timers.is_registered(running._timer)
        running.tick()
        assert {item.name for item in bpy.data.objects} == expected
        assert leftovers() == []
        assert timers_at_rest(running)


def test_the_import_is_one_step_after_previews(running, fake, dreaming):
    job = begin(running, fake, variations=3)
    see(running, fake, job, count=3)
    fake.hold.set()
    finish(running, job)
    assert len(bpy.data.objects) == 4
    bpy.ops.ed.undo()
    running.tick()
    assert [item.name for item in bpy.data.objects] == ["Chair"]
    assert [mesh.name for mesh in bpy.data.meshes] == ["Chair"]


def test_a_renamed_or_deleted_preview_does_no_harm(running, fake, dreaming):
    job = begin(running, fake)
    see(running, fake, job)
    previews()[0].name = "Mine now"
    see(running, fake, job, 0.5)
    assert [item.name for item in previews()] == ["Mine now"]
    bpy.data.objects.remove(previews()[0])
    running.tick()
    assert len(previews()[0].data.vertices) == 200  # again whole, without news
    see(running, fake, job, 0.25)
    fake.hold.set()
    finish(running, job)
    assert leftovers() == []
    assert {item.name for item in bpy.data.objects} == {"Chair", "Chair mesh"}


def test_nothing_is_touched_while_a_move_or_a_render_goes_on(running, fake, dreaming, monkeypatch):
    job = begin(running, fake)
    see(running, fake, job)
    monkeypatch.setattr(jobs, "why_not_touched", lambda: "Waiting")
    fake.form(job.job_id, 0.5)
    tick_until(running, lambda: np.ptp(job.forming[0].vertices) < 5)
    running.cancel(job)
    assert len(previews()) == 1
    tick_until(running, lambda: not running.busy)
    assert running.tick() == jobs.TICK_SECONDS  # it has to be taken away still
    monkeypatch.undo()
    running.tick()
    assert leftovers() == []


def test_a_preview_that_cannot_be_fetched_is_no_failure(running, fake, dreaming):
    job = begin(running, fake)
    fake.previews[job.job_id] = b"not a mesh"
    fake.jobs[job.job_id].update(preview=1)
    tick_until(running, lambda: any(asked.endswith("/preview") for asked in fake.asked))
    fake.hold.set()
    finish(running, job)
    assert len(result_objects(dreaming)) == 1
    assert running.notices == []


def test_an_update_holds_the_main_thread_shortly(running, fake, dreaming):
    """Sixteen previews of 20,000 faces: more than one tick, none of them long."""
    job = begin(running, fake)
    rng = np.random.default_rng(0)
    from fieldforge.blender_addon.compose import PlacedMesh, edges_of

    def ball():
        faces = rng.integers(0, 10_000, (20_000, 3)).astype(np.int32)
        faces[:, 1] = (faces[:, 0] + 1) % 10_000
        faces[:, 2] = (faces[:, 0] + 2) % 10_000
        vertices = rng.normal(size=(10_000, 3)).astype(np.float32)
        return PlacedMesh(vertices, faces, *edges_of(faces, 10_000))

    longest = 0.0
    for _ in range(3):
        job.forming = [ball() for _ in range(16)]
        for _ in range(16):  # one at the least with each
            begun = time.thread_time()
            running.tick()
            longest = max(longest, time.thread_time() - begun)
        assert len(previews()) == 16
        assert all(len(item.data.polygons) == 20_000 for item in previews())
    print(f"longest update: {longest * 1000:.1f} ms of this thread's time")
    assert longest < 0.05
