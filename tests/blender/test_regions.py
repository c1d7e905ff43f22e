"""Regenerate a region: the box in the frame that the backend knows, wherever the object is now."""

import dataclasses

import bpy
import numpy as np
import pytest
from driving import finish, generate, know_models, result_objects
from fieldforge.backend import protocol
from fieldforge.blender_addon import arrival, capture, generated, regions
from fieldforge.blender_addon.compose import Placement, compose
from mathutils import Euler, Matrix
from scenes import cloud, local_points, select, tick_until, world_points


def make_one(running, turned=True, parent=None, **choices):
    """(source, result, job): a result of a model that samples."""
    know_models(running)
    source = cloud("Chair")
    if turned:
        source.rotation_euler, source.scale, source.location = (0.4, 1, 2), (1, -2, 0.5), (5, 6, 7)
    source.parent = parent
    bpy.context.view_layer.update()
    settings = bpy.context.scene.fieldforge
    settings.model = "dreamer"
    for name, value in choices.items():
        setattr(settings, name, value)
    bpy.ops.ed.undo_push(message="the scan")
    (job,) = generate()
    finish(running, job)
    bpy.context.view_layer.update()
    return source, bpy.context.view_layer.objects.active, job


def regenerate(running, fake):
    """Click it; (job, the task as the backend got it)."""
    assert bpy.ops.fieldforge.regenerate_region() == {"FINISHED"}
    job = running.jobs[0]
    tick_until(running, lambda: job.job_id)
    return job, protocol.decode_task(fake.tasks[job.job_id])


def reason() -> str:
    found = regions.disabled_reason(bpy.context)
    assert (found == "") == bpy.ops.fieldforge.regenerate_region.poll()
    return found


def test_a_result_remembers_how_it_was_made(running, fake):
    _, item, job = make_one(running, seed=11)
    making = generated.making_of(item)
    assert (making.job_id, making.kind) == (job.job_id, "points-to-mesh")
    assert (making.model, making.seed, making.steps) == ("dreamer", 11, 8)
    assert making.guidance == pytest.approx(1.3)
    assert making.latent.shape == (16, 12, 12, 12)
    assert making.latent.flat[0] == 11
    copy = item.copy()
    assert np.array_equal(generated.making_of(copy).latent, making.latent)
    assert generated.making_of(cloud()) is None


def test_what_it_remembers_goes_into_the_file(running, fake, tmp_path):
    _, item, _ = make_one(running, seed=3)
    before = generated.making_of(item)
    path = str(tmp_path / "scene.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    after = generated.making_of(bpy.data.objects["Chair mesh"])
    assert np.array_equal(after.to_local, before.to_local)
    assert np.array_equal(after.latent, before.latent)
    assert (after.job_id, after.seed) == (before.job_id, 3)


@pytest.mark.parametrize("channels", [1, 4, 16, 64])
def test_shapes_of_any_number_of_channels_are_kept(running, channels):
    item = cloud("Chair")
    latent = np.random.default_rng(channels).normal(size=(channels, 12, 12, 12))
    fields = {"job_id": "job1", "name": "Chair", "kind": "shape", "model": "small", "seed": 3}
    making = generated.Making(
        **fields, steps=None, guidance=None, to_local=np.eye(4), latent=latent.astype(np.float32)
    )
    generated.remember(item, making)
    assert np.array_equal(generated.making_of(item.copy()).latent, making.latent)
    assert regions.why_not_generated(item) == ""
    item.fieldforge.latent = item.fieldforge.latent[:-40]  # cut off: it is none any more
    assert generated.making_of(item) is None
    odd = dataclasses.replace(making, latent=np.zeros((4, 9, 9, 9), np.float32))
    generated.remember(item, odd)
    assert "does not sample" in regions.why_not_generated(item)


def test_a_region_goes_back_with_the_shape_and_the_model_that_made_it(running, fake):
    """Also when the model was the backend's choice, which may be another one by now."""
    know_models(running)
    cloud("Chair")
    bpy.context.scene.fieldforge.model = "dreamer"
    (job,) = generate()
    finish(running, job)
    item = bpy.context.view_layer.objects.active
    body = protocol.decode_task(fake.tasks[job.job_id])
    fake.tasks[job.job_id] = protocol.encode_task(dataclasses.replace(body, model=""))
    bpy.ops.fieldforge.add_region()
    _, task = regenerate(running, fake)
    assert task.model == "dreamer"
    assert task.latent.shape == (16, 12, 12, 12)
    assert np.array_equal(task.latent, generated.making_of(item).latent)


@pytest.mark.parametrize("sheared", [False, True])
def test_the_region_is_exactly_where_the_box_is(running, fake, sheared):
    """A point of the box, through the region into the task's frame, is the point of the result
    that lay there: also for an object that was moved, turned and scaled since."""
    parent = None
    if sheared:
        parent = bpy.data.objects.new("Stretched", None)
        bpy.context.scene.collection.objects.link(parent)
        parent.scale = (1, 3, 1)
    _, item, _ = make_one(running, parent=parent)
    task_points = protocol.decode_task(fake.tasks["job1"]).points.astype(np.float64)
    item.rotation_euler.rotate(Euler((0.3, 0.2, 0.9)))
    item.location, item.scale = (-3, 2, 8), [1.5 * value for value in item.scale]
    bpy.ops.fieldforge.add_region()
    box = bpy.context.view_layer.objects.active
    box.matrix_world = (
        Matrix.Translation((-2, 1, 7)) @ Euler((1, 2, 3)).to_matrix().to_4x4()
    ) @ Matrix.Diagonal((0.7, 1.4, 2.1, 1))
    _, task = regenerate(running, fake)
    in_box = world_points(item) - np.array(box.matrix_world)[:3, 3]
    in_box = np.linalg.solve(np.array(box.matrix_world)[:3, :3], in_box.T).T
    through = in_box @ task.region[:3, :3].T + task.region[:3, 3]
    assert np.array_equal(task.region[3], [0, 0, 0, 1])
    assert np.abs(through - task_points).max() < 2e-5
    assert np.array_equal(task.points, task_points.astype(np.float32))


@pytest.mark.parametrize("applied", ["rotation", "scale", "all"])
def test_an_applied_transform_is_found_out(running, fake, applied):
    """Ctrl A moves what the object's matrix held into its mesh; the region stays in its place."""
    _, item, _ = make_one(running)
    task_points = protocol.decode_task(fake.tasks["job1"]).points.astype(np.float64)
    which = {"location", "rotation", "scale"} if applied == "all" else {applied}
    options = {name: name in which for name in ("location", "rotation", "scale")}
    bpy.ops.object.transform_apply(**options)
    bpy.context.view_layer.update()
    bpy.ops.fieldforge.add_region()
    box = bpy.context.view_layer.objects.active
    bpy.context.view_layer.update()
    expected = world_points(item)
    job, task = regenerate(running, fake)
    matrix = np.array(box.matrix_world, np.float64)
    in_box = np.linalg.solve(matrix[:3, :3], (expected - matrix[:3, 3]).T).T
    through = in_box @ task.region[:3, :3].T + task.region[:3, 3]
    assert np.abs(through - task_points).max() < 1e-4
    finish(running, job)
    assert np.abs(world_points(item) - expected).max() < 1e-4


def test_a_sculpted_mesh_keeps_its_frame(running, fake):
    _, item, _ = make_one(running)
    making = generated.making_of(item)
    points = local_points(item)
    points[:, 0] += 0.3 * points[:, 1] ** 2
    item.data.attributes["position"].data.foreach_set("vector", points.ravel())
    assert np.array_equal(generated.present_frame(item, making), making.to_local)
    item.data.clear_geometry()
    assert np.array_equal(generated.present_frame(item, making), making.to_local)


def test_the_frames_are_exact():
    """Without Blender's float32 in between the way there and back is exact to rounding."""
    rng = np.random.default_rng(1)
    linear = rng.normal(size=(3, 3))
    placement = Placement(np.eye(4), linear, rng.normal(size=3))
    local = arrival.to_local(placement)
    points = rng.normal(size=(20, 3))
    task_frame = points @ linear.T - placement.centre
    assert np.abs(task_frame @ local[:3, :3].T + local[:3, 3] - points).max() < 1e-12
    again = arrival.placement_of(local, np.eye(4))
    assert np.abs(again.linear - linear).max() < 1e-12
    assert np.abs(again.centre - placement.centre).max() < 1e-12
    world, box = np.eye(4), np.eye(4)
    world[:3], box[:3] = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    region = arrival.region_of(box, world, local)
    assert np.abs(world @ local @ region - box).max() < 1e-12


def test_the_new_box_covers_the_upper_half(running, fake):
    _, item, _ = make_one(running, turned=False)
    bpy.ops.fieldforge.add_region()
    bpy.context.view_layer.update()
    box = bpy.context.view_layer.objects.active
    assert (box.name, box.parent, box.type) == ("Region of Chair mesh", item, "EMPTY")
    points = world_points(item)
    local = np.linalg.solve(np.array(box.matrix_world), np.c_[points, np.ones(len(points))].T).T[
        :, :3
    ]
    inside = (np.abs(local) <= 1).all(axis=1)
    middle = points[:, 2] > (points[:, 2].min() + points[:, 2].max()) / 2
    margin = 0.03 * np.ptp(points, axis=0).max()
    near = np.abs(points[:, 2] - (points[:, 2].min() + points[:, 2].max()) / 2) < margin
    assert np.array_equal(inside | near, middle | near)
    assert 0 < inside.sum() < len(points)
    assert bpy.context.selected_objects == [box]


def test_the_box_stands_for_the_source_too(running, fake):
    """Generate stays what it was while the box is selected."""
    source, _, _ = make_one(running)
    bpy.ops.fieldforge.add_region()
    bpy.context.view_layer.update()
    assert capture.source_object(bpy.context) == source
    assert bpy.ops.fieldforge.generate.poll()


def test_the_new_mesh_replaces_the_old_one_in_one_step(running, fake):
    source, item, first = make_one(running, seed=5)
    material = bpy.data.materials.new("Oak")
    item.data.materials.append(material)
    item.modifiers.new("Smooth", "SMOOTH")
    item.location.x += 3
    bpy.ops.fieldforge.add_region()
    bpy.ops.ed.undo_push(message="box")
    box = bpy.context.view_layer.objects.active
    bpy.context.view_layer.update()
    expected = world_points(item)
    meshes = len(bpy.data.meshes)
    old_uid = item.data.session_uid
    job, task = regenerate(running, fake)
    assert (task.seed, task.variations, task.model) == (job.seed, 1, "dreamer")
    assert task.seed != 5
    assert task.latent.flat[0] == 5
    finish(running, job)
    assert set(bpy.data.objects) == {source, item, box}
    assert len(bpy.data.meshes) == meshes
    assert item.data.session_uid != old_uid
    assert item.data.name == "Chair mesh"
    assert np.abs(world_points(item) - expected).max() < 1e-5
    assert item.data.materials[:] == [material]
    assert [modifier.type for modifier in item.modifiers] == ["SMOOTH"]
    assert generated.making_of(item).seed == job.seed
    assert generated.making_of(item).job_id == job.job_id
    assert generated.making_of(item).latent.flat[0] == job.seed
    bpy.ops.ed.undo()
    item = bpy.data.objects["Chair mesh"]
    assert generated.making_of(item).seed == 5
    assert generated.making_of(item).job_id == first.job_id
    assert "Region of Chair mesh" in bpy.data.objects
    bpy.ops.ed.redo()
    assert generated.making_of(bpy.data.objects["Chair mesh"]).seed == job.seed


def test_it_can_be_done_again_and_again(running, fake):
    """Each time from what the object is now."""
    _, item, _ = make_one(running, seed=5)
    bpy.ops.fieldforge.add_region()
    seeds = [5]
    for _ in range(3):
        job, task = regenerate(running, fake)
        assert task.latent.flat[0] == seeds[-1]
        finish(running, job)
        seeds.append(job.seed)
    assert len(set(seeds)) == 4
    assert np.isfinite(generated.making_of(item).to_local).all()


def test_beside_leaves_the_old_one_alone(running, fake):
    bpy.context.scene.fieldforge.region_result = "BESIDE"
    source, item, _ = make_one(running)
    bpy.ops.fieldforge.add_region()
    box = bpy.context.view_layer.objects.active
    before, points = item.data.session_uid, world_points(item)
    job, _ = regenerate(running, fake)
    finish(running, job)
    (new,) = result_objects(source, item, box)
    assert new.name == "Chair mesh region"
    assert item.data.session_uid == before
    moved = world_points(new) - points
    assert np.abs(moved - moved[0]).max() < 1e-4
    assert world_points(new)[:, 0].min() > points[:, 0].max()
    assert np.abs(moved[:, 1:]).max() < 1e-4
    select(new)
    assert reason() == "Add a region box first"
    assert capture.source_object(bpy.context) == source  # also this one stands for it


def test_the_preview_shows_where_the_object_is_now(running, fake):
    from fieldforge.blender_addon import forming

    _, item, _ = make_one(running)
    bpy.ops.fieldforge.add_region()
    fake.hold.clear()
    job, task = regenerate(running, fake)
    assert task.preview
    item.location = (9, 9, 9)
    bpy.context.view_layer.update()
    running._followed = 0.0
    tick_until(running, lambda: job.state == "running")
    fake.form(job.job_id)
    tick_until(running, lambda: any(forming.MARK in each for each in bpy.data.objects))
    (shown,) = [each for each in bpy.data.objects if forming.MARK in each]
    assert np.abs(world_points(shown) - world_points(item)).max() < 1e-4
    assert shown.show_in_front
    assert "made anew already" in reason()
    fake.hold.set()
    finish(running, job)
    assert not [each for each in bpy.data.objects if forming.MARK in each]


def test_an_object_deleted_meanwhile_gets_a_successor(running, fake):
    source, item, _ = make_one(running)
    bpy.ops.fieldforge.add_region()
    box = bpy.context.view_layer.objects.active
    expected = world_points(item)
    fake.hold.clear()
    job, _ = regenerate(running, fake)
    bpy.data.objects.remove(item)
    fake.hold.set()
    finish(running, job)
    (new,) = result_objects(source, box)
    assert np.abs(world_points(new) - expected).max() < 1e-4


def test_each_variation_of_a_row_knows_its_own_frame(running, fake):
    source, _, _ = make_one(running, variations=3, seed=20)
    task_points = protocol.decode_task(fake.tasks["job1"]).points
    items = result_objects(source)
    for item in items:
        select(item)
        bpy.context.view_layer.update()
        bpy.ops.fieldforge.add_region()
        box = bpy.context.view_layer.objects.active
        bpy.context.view_layer.update()
        making = generated.making_of(item)
        matrix = np.array(item.matrix_world, np.float64)
        local = local_points(item).astype(np.float64)
        through = task_points @ making.to_local[:3, :3].T + making.to_local[:3, 3]
        assert np.abs(through - local).max() < 1e-5
        region = arrival.region_of(regions.box_matrix(box), matrix, making.to_local)
        centre = np.linalg.solve(matrix @ making.to_local, np.array(box.matrix_world)[:, 3])
        assert np.allclose(region[:, 3], centre)
    assert {generated.making_of(item).seed for item in items} == {20, 21, 22}


def test_why_it_is_disabled(running, fake, server):
    know_models(running)
    assert "Select an object" in reason()
    source = cloud()
    assert "was not generated" in reason()
    (job,) = generate()
    finish(running, job)
    assert "does not sample" in reason()
    bpy.data.objects.remove(bpy.context.view_layer.objects.active)
    select(source)
    bpy.context.scene.fieldforge.model = "dreamer"
    (job,) = generate()
    finish(running, job)
    item = bpy.context.view_layer.objects.active
    assert reason() == "Add a region box first"
    bpy.ops.fieldforge.add_region()
    assert reason() == ""  # the box is active
    select(item)
    assert reason() == ""  # the object is
    box = bpy.data.objects["Region of Armchair_scan mesh"]
    box.name = "My box"
    assert reason() == "Add a region box first"
    select(item, box)
    assert reason() == ""
    server.update(url="")
    assert "No server is set" in reason()


def test_a_flat_box_or_object_is_told(running, fake):
    _, item, _ = make_one(running)
    bpy.ops.fieldforge.add_region()
    item.scale = (0, 0, 0)
    assert bpy.ops.fieldforge.regenerate_region() == {"CANCELLED"}
    assert "flat" in running.notices[0].cause
    assert len(fake.jobs) == 1


def test_a_job_that_the_backend_forgot_is_told(running, fake):
    _, item, _ = make_one(running)
    before = item.data.session_uid
    bpy.ops.fieldforge.add_region()
    fake.jobs.clear()
    assert bpy.ops.fieldforge.regenerate_region() == {"FINISHED"}
    finish(running, running.jobs[0], "failed")
    assert "does not know this job" in running.notices[0].cause
    assert item.data.session_uid == before


def test_arrays_of_a_task_stay_as_they_were_sent(running, fake):
    """Only the seed, the region and what goes with it differ between the two tasks."""
    _, _, first = make_one(running, seed=5)
    bpy.ops.fieldforge.add_region()
    job, _ = regenerate(running, fake)
    old, new = (protocol.unpack(fake.tasks[each.job_id]) for each in (first, job))
    assert set(new[0]) - set(old[0]) == {"latent", "region"}
    assert all(np.array_equal(old[0][name], new[0][name]) for name in old[0])
    changed = {name for name in {*old[1], *new[1]} if old[1].get(name) != new[1].get(name)}
    assert changed == {"seed"}


def test_the_way_of_compose_is_the_way_back():
    from fieldforge.blender_addon.compose import Choices, PointCapture

    rng = np.random.default_rng(2)
    points = rng.normal(size=(100, 3)).astype(np.float32)
    matrix = np.eye(4)
    matrix[:3] = rng.normal(size=(3, 4))
    task, placement = compose(PointCapture("A", points, matrix), Choices("wavelet-fit", 128))
    local = arrival.to_local(placement)
    assert np.abs(task.points @ local[:3, :3].T + local[:3, 3] - points).max() < 1e-5
