"""Several results of one job: where they go, what they are called, one undo step."""

from itertools import pairwise

import bpy
import numpy as np
import pytest
from driving import finish, generate, know_models, result_objects
from fieldforge.backend import protocol
from fieldforge.blender_addon import arrival, generated, history, regions
from scenes import cloud, cube, select, tick_until, world_points
from test_panels import draw


@pytest.fixture
def dreaming(running):
    know_models(running)
    source = cloud("Chair")
    source.rotation_euler, source.location = (0, 0, 0.5), (1, 2, 3)
    bpy.context.view_layer.update()
    settings = bpy.context.scene.fieldforge
    settings.model, settings.seed, settings.variations = "dreamer", 40, 3
    bpy.ops.ed.undo_push(message="the scan")
    return source


def by_seed(*known):
    return sorted(result_objects(*known), key=lambda item: generated.making_of(item).seed)


def spans(items):
    return [(world_points(i)[:, 0].min(), world_points(i)[:, 0].max()) for i in items]


def test_a_row_stands_beside_its_source(running, fake, dreaming):
    (job,) = generate()
    finish(running, job)
    task = protocol.decode_task(fake.tasks[job.job_id])
    assert (task.seed, task.variations) == (40, 3)
    items = by_seed(dreaming)
    assert [item.name for item in items] == [f"Chair mesh, seed {seed}" for seed in (40, 41, 42)]
    edges = spans([dreaming, *items])
    widths = [high - low for low, high in edges]
    gaps = [low - high for (_, high), (low, _) in pairwise(edges)]
    gap = arrival.GAP * max(widths)
    assert gap <= gaps[0] <= 1.1 * gap + widths[0] / 2  # beside the turned bounding box
    assert gaps[1:] == pytest.approx([gap, gap], rel=1e-3)
    for item in items:
        moved = world_points(item) - world_points(dreaming)
        assert np.abs(moved[:, 1:]).max() < 1e-5
    assert bpy.context.view_layer.objects.active == items[0]
    assert job.faces == sum(len(item.data.polygons) for item in items)


def test_a_row_begins_in_place_of_a_source_that_is_hidden(running, dreaming):
    bpy.context.scene.fieldforge.hide_source = True
    (job,) = generate()
    finish(running, job)
    first = by_seed(dreaming)[0]
    assert np.abs(world_points(first) - world_points(dreaming)).max() < 1e-5
    assert dreaming.hide_get()


def test_a_collection_shows_the_first(running, dreaming):
    bpy.context.scene.fieldforge.layout = "COLLECTION"
    (job,) = generate()
    finish(running, job)
    items = by_seed(dreaming)
    collection = bpy.data.collections["Chair mesh"]
    assert set(collection.objects) == set(items)
    for item in items:
        assert item.users_collection == (collection,)
        assert np.abs(world_points(item) - world_points(dreaming)).max() < 1e-5
    assert [item.visible_get() for item in items] == [True, False, False]
    assert [item.hide_render for item in items] == [False, True, True]


def test_a_click_shows_the_next_variation(running, dreaming):
    bpy.context.scene.fieldforge.layout = "COLLECTION"
    (job,) = generate()
    finish(running, job)
    items = by_seed(dreaming)
    for step, shown in ((1, 1), (1, 2), (1, 0), (-1, 2)):
        assert bpy.ops.fieldforge.show_variation(step=step) == {"FINISHED"}
        assert [item.visible_get() for item in items] == [n == shown for n in range(3)]
        assert [item.hide_render for item in items] == [n != shown for n in range(3)]
        assert bpy.context.selected_objects == [items[shown]]
        assert bpy.context.view_layer.objects.active == items[shown]
    page = draw(regions.FIELDFORGE_PT_region, width=2000)
    assert "Variation 3 of 3" in page.words()
    assert page.has("operator", "fieldforge.show_variation")


def test_a_region_goes_with_its_variation(running, dreaming):
    bpy.context.scene.fieldforge.layout = "COLLECTION"
    (job,) = generate()
    finish(running, job)
    first, second, _ = by_seed(dreaming)
    bpy.ops.fieldforge.add_region()
    box = bpy.context.view_layer.objects.active
    assert bpy.ops.fieldforge.show_variation(step=1) == {"FINISHED"}  # while the box is active
    assert (second.visible_get(), first.visible_get(), box.visible_get()) == (True, False, False)
    assert bpy.context.selected_objects == [second]
    bpy.ops.fieldforge.show_variation(step=-1)
    assert (first.visible_get(), box.visible_get()) == (True, True)


def test_in_a_row_there_is_nothing_to_switch(running, dreaming):
    (job,) = generate()
    finish(running, job)
    assert not bpy.ops.fieldforge.show_variation.poll()
    page = draw(regions.FIELDFORGE_PT_region, width=2000)
    assert not page.has("operator", "fieldforge.show_variation")


@pytest.mark.parametrize("layout", ["ROW", "COLLECTION"])
def test_all_are_one_undo_step(running, dreaming, layout):
    bpy.context.scene.fieldforge.layout = layout
    (job,) = generate()
    finish(running, job)
    assert len(bpy.data.objects) == 4
    bpy.ops.ed.undo()
    assert [item.name for item in bpy.data.objects] == ["Chair"]
    assert [mesh.name for mesh in bpy.data.meshes] == ["Chair"]
    assert not bpy.data.collections
    bpy.ops.ed.redo()
    assert len(bpy.data.objects) == 4
    assert {generated.making_of(i).seed for i in bpy.data.objects if i.name != "Chair"} == {
        *(40, 41, 42)
    }


def test_variations_of_cubes_stand_beside_all_of_them(running, fake):
    fake.models[1]["tasks"] = ["points-to-mesh", "voxels-to-mesh"]
    know_models(running)
    settings = bpy.context.scene.fieldforge
    settings.source, settings.voxels_from = "VOXELS", "CUBES"
    cubes = [cube(f"C{i}", location=(i, 0, 0)) for i in range(4)]
    select(*cubes)
    bpy.context.view_layer.update()
    settings.model, settings.variations = "dreamer", 2
    (job,) = generate()
    finish(running, job)
    items = by_seed(*cubes)
    (low, high), (second, _) = spans(items)
    assert low > 3.5
    assert second > high


def test_a_set_can_be_imported_again(running, fake, dreaming):
    (job,) = generate()
    finish(running, job)
    first = by_seed(dreaming)
    bpy.ops.fieldforge.import_again(key=job.key)
    finish(running, job)
    assert len(result_objects(dreaming)) == 6
    assert len(fake.jobs) == 1
    again = result_objects(dreaming, *first)
    assert {generated.making_of(item).seed for item in again} == {40, 41, 42}


def test_run_again_takes_new_seeds(running, fake, dreaming):
    (job,) = generate()
    finish(running, job)
    bpy.ops.fieldforge.run_again(key=job.key)
    again = running.jobs[0]
    finish(running, again)
    assert again.seed != job.seed
    old, new = (protocol.decode_task(fake.tasks[each.job_id]) for each in (job, again))
    assert (new.seed, new.variations) == (again.seed, 3)
    assert np.array_equal(new.points, old.points)
    assert len(result_objects(dreaming)) == 6


def test_a_model_without_seeds_runs_the_very_same_task_again(running, fake, dreaming):
    bpy.context.scene.fieldforge.model = "wavelet-fit"
    (job,) = generate()
    finish(running, job)
    bpy.ops.fieldforge.run_again(key=job.key)
    finish(running, running.jobs[0])
    first, second = fake.tasks.values()
    assert first == second


def test_own_steps_and_guidance_reach_the_backend(running, fake, dreaming):
    settings = bpy.context.scene.fieldforge
    (job,) = generate()
    finish(running, job)
    task = protocol.decode_task(fake.tasks[job.job_id])
    assert (task.steps, task.guidance, task.refine, task.preview) == (None, None, False, True)
    assert (job.steps, job.guidance) == (8, 1.3)  # the backend told
    settings.own_sampling, settings.refine, settings.watch = True, True, False
    settings.steps, settings.guidance = 25, 2.5
    select(dreaming)
    (job,) = generate()
    finish(running, job)
    task = protocol.decode_task(fake.tasks[job.job_id])
    assert (task.steps, task.guidance, task.refine, task.preview) == (25, 2.5, True, False)
    settings.model = "wavelet-fit"
    (job,) = generate()
    finish(running, job)
    task = protocol.decode_task(fake.tasks[job.job_id])
    assert (task.steps, task.variations, task.refine, task.preview) == (None, 1, False, False)


def test_an_empty_variation_is_left_out(running, fake, dreaming):
    fake.empty = {41}
    (job,) = generate()
    finish(running, job)
    assert [generated.making_of(item).seed for item in by_seed(dreaming)] == [40, 42]
    assert job.stage == "1 of 3 had no surface"
    assert "3 variations, " in draw(width=2000).words()
    fake.empty = {40, 41, 42}
    select(dreaming)
    (job,) = generate()
    finish(running, job, "failed")
    assert "empty" in running.notices[0].cause


def test_the_history_keeps_how_it_was_sampled(running, fake, dreaming):
    (job,) = generate()
    finish(running, job)
    kept = history.from_record(history.to_record(job))
    for name in ("steps", "guidance", "variations", "sampled", "model", "seed"):
        assert getattr(kept, name) == getattr(job, name)
    assert kept.destination.layout == "ROW"
    old = history.to_record(job)
    for name in ("steps", "guidance", "variations", "sampled", "watch"):
        del old[name]
    for name in ("layout", "replaces"):
        del old["destination"][name]
    assert history.from_record(old).variations == 1


def test_cancel_shows_at_once_within_a_step(running, fake, dreaming):
    fake.hold.clear()
    (job,) = generate()
    tick_until(running, lambda: job.state == "running")
    fake.jobs[job.job_id].update(stage="Sampling, step 3 of 8", fraction=0.4)
    tick_until(running, lambda: job.stage == "Sampling, step 3 of 8")
    bpy.ops.fieldforge.cancel(key=job.key)
    assert job.state == "cancelled"
    assert running.active == []
