"""From Generate to an object in the scene, against a backend that does what the test says."""

import json
import threading
import time

import bpy
import numpy as np
import pytest
from driving import finish, generate, result_objects
from fieldforge.backend import errors
from fieldforge.blender_addon import capture, history, jobs, operators, session
from scenes import cloud, cube, local_points, palette, select, tick_until, world_points


def test_a_cloud_becomes_a_mesh_in_its_place(running):
    source = cloud(colors="BYTE_COLOR")
    source.rotation_euler, source.scale, source.location = (0.4, 1, 2), (1, -2, 0.5), (5, 6, 7)
    bpy.context.view_layer.update()
    before = local_points(source)
    (job,) = generate()
    assert job.active
    finish(running, job)
    (created,) = result_objects(source)
    assert created.name == "Armchair_scan mesh"
    assert np.abs(world_points(created) - world_points(source)).max() < 1e-5
    assert bpy.context.view_layer.objects.active == created
    assert bpy.context.selected_objects == [created]
    assert created.data.color_attributes.active_color.name == "Color"
    values = np.zeros(4 * len(created.data.vertices), np.float32)
    created.data.color_attributes[0].data.foreach_get("color_srgb", values)
    assert np.array_equal(np.rint(values * 255).astype(np.uint8).reshape(-1, 4), palette(200))
    assert np.array_equal(local_points(source), before)  # the source is untouched
    assert not source.hide_get()
    assert running.connection.state == "ready"
    assert running.tick() is None  # at rest


def test_the_import_is_one_undo_step(running):
    source = cloud()
    bpy.ops.ed.undo_push(message="before")
    (job,) = generate()
    finish(running, job)
    assert len(bpy.data.objects) == 2
    bpy.ops.ed.undo()
    assert [item.name for item in bpy.data.objects] == ["Armchair_scan"]
    bpy.ops.ed.redo()
    assert {item.name for item in bpy.data.objects} == {"Armchair_scan", "Armchair_scan mesh"}
    del source


def test_the_source_is_hidden_when_asked(running):
    source = cloud()
    bpy.context.scene.fieldforge.hide_source = True
    (job,) = generate()
    finish(running, job)
    assert source.hide_get()
    (created,) = result_objects(source)
    assert not created.hide_get()


def test_the_result_goes_beside_its_source(running):
    inner = bpy.data.collections.new("Scans")
    bpy.context.scene.collection.children.link(inner)
    source = cloud()
    bpy.context.scene.collection.objects.unlink(source)
    inner.objects.link(source)
    select(source)
    (job,) = generate()
    finish(running, job)
    assert {item.name for item in inner.objects} == {"Armchair_scan", "Armchair_scan mesh"}


def test_a_source_that_moves_and_is_renamed_is_followed(running, fake):
    fake.hold.clear()
    source = cloud()
    (job,) = generate()
    tick_until(running, lambda: job.state == "running")
    source.name = "Chair"
    source.location = (1, 2, 3)
    bpy.context.view_layer.update()
    fake.hold.set()
    finish(running, job)
    (created,) = result_objects(source)
    assert np.abs(world_points(created) - world_points(source)).max() < 1e-5


def test_a_deleted_source_leaves_its_last_place(running, fake):
    fake.hold.clear()
    source = cloud()
    (job,) = generate()
    tick_until(running, lambda: job.state == "running")
    source.location = (0, 0, 9)
    bpy.context.view_layer.update()
    expected = world_points(source)
    running._follow_sources()
    bpy.data.objects.remove(source)
    fake.hold.set()
    finish(running, job)
    (created,) = result_objects()
    assert np.abs(world_points(created) - expected).max() < 1e-5


def test_cubes_become_a_mesh_around_them(running):
    settings = bpy.context.scene.fieldforge
    settings.source, settings.voxels_from = "VOXELS", "CUBES"
    cubes = [cube(f"C{i}", location=(i, 5, 2)) for i in range(4)]
    for item in cubes:
        item.location.rotate(__import__("mathutils").Euler((0.2, 0.3, 0.4)))
        item.rotation_euler = (0.2, 0.3, 0.4)
    bpy.context.view_layer.update()
    select(*cubes)
    (job,) = generate()
    finish(running, job)
    (created,) = result_objects(*cubes)
    expected = np.concatenate([world_points(item) for item in cubes])
    found = world_points(created)
    assert np.abs(found.min(axis=0) - expected.min(axis=0)).max() < 1e-5
    assert np.abs(found.max(axis=0) - expected.max(axis=0)).max() < 1e-5


def test_a_mesh_through_voxels_lies_on_its_source(running):
    settings = bpy.context.scene.fieldforge
    settings.source, settings.voxels_from, settings.voxel_size = "VOXELS", "MESH", 0.1
    source = cube(size=(2, 1, 1.5), location=(4, 0, 1))
    source.rotation_euler.z = np.pi / 2
    bpy.context.view_layer.update()
    (job,) = generate()
    finish(running, job)
    (created,) = result_objects(source)
    expected, found = world_points(source), world_points(created)
    assert np.abs(found.min(axis=0) - expected.min(axis=0)).max() < 1e-4
    assert np.abs(found.max(axis=0) - expected.max(axis=0)).max() < 1e-4


def test_progress_has_a_stage_and_a_time(running, fake):
    fake.hold.clear()
    cloud()
    (job,) = generate()
    tick_until(running, lambda: job.stage == "Orienting normals")
    assert job.fraction == 0.5
    assert 0 < job.elapsed < 15
    assert running.tick() == jobs.TICK_SECONDS
    fake.hold.set()
    finish(running, job)


def test_cancel_stops_here_and_there(running, fake):
    fake.hold.clear()
    source = cloud()
    (job,) = generate()
    tick_until(running, lambda: job.state == "running")
    bpy.ops.fieldforge.cancel(key=job.key)
    assert job.state == "cancelled"
    tick_until(running, lambda: fake.jobs[job.job_id]["state"] == "cancelled")
    tick_until(running, lambda: not running.busy)
    assert not result_objects(source)
    assert not running.notices


def test_cancel_before_it_was_sent(running, fake, monkeypatch):
    source = cloud()
    gate = threading.Event()
    real = jobs.compose
    monkeypatch.setattr(jobs, "compose", lambda *a: (gate.wait(10), real(*a))[1])
    (job,) = generate()
    running.cancel(job)
    gate.set()
    tick_until(running, lambda: not running.busy)
    assert job.state == "cancelled"
    assert not [asked for asked in fake.asked if asked.startswith("POST")]
    assert not result_objects(source)


def test_the_wrong_token_is_an_error_that_stays(running, server):
    server["token"] = "wrong"
    cloud()
    (job,) = generate()
    finish(running, job, "failed")
    assert [notice.cause for notice in running.notices] == ["The token is wrong."]
    assert running.notices[0].remedy
    for _ in range(3):
        running.tick()
    assert len(running.notices) == 1
    bpy.ops.fieldforge.dismiss(index=0)
    assert running.notices == []


def test_another_version_is_an_error(running, fake):
    fake.version = 7
    cloud()
    (job,) = generate()
    finish(running, job, "failed")
    assert job.error["code"] == errors.VersionMismatch.code
    assert "7" in running.notices[0].cause


def test_a_failure_of_the_backend_reaches_the_panel(running, fake):
    fake.fail = errors.OutOfMemory("It needs 11 GB.", "Choose 128.")
    cloud()
    (job,) = generate()
    finish(running, job, "failed")
    assert (running.notices[0].cause, running.notices[0].remedy) == (
        "It needs 11 GB.",
        "Choose 128.",
    )


def test_a_server_that_goes_away_loses_nothing(running, fake):
    fake.hold.clear()
    source = cloud()
    (job,) = generate()
    tick_until(running, lambda: job.state == "running")
    fake.vanish()
    running_follow = time.monotonic()
    tick_until(running, lambda: not job.active, seconds=30)
    assert time.monotonic() - running_follow < 25
    assert job.state == "lost"
    assert "Fetch Again" in running.notices[0].remedy
    assert not result_objects(source)
    fake.come_back()
    fake.hold.set()
    bpy.ops.fieldforge.import_again(key=job.key)
    finish(running, job)
    (created,) = result_objects(source)
    assert np.abs(world_points(created) - world_points(source)).max() < 1e-5


def test_a_job_that_ended_with_the_backend_is_done_again(running, fake):
    """A restarted backend knows the task but was not able to finish it: one click is enough."""
    fake.hold.clear()
    source = cloud()
    (job,) = generate()
    tick_until(running, lambda: job.state == "running")
    first = job.job_id
    fake.vanish()
    tick_until(running, lambda: not job.active, seconds=30)
    died = errors.WorkerDied("The backend was ended while the job ran.", "Run it again.")
    fake.jobs[first].update(state="failed", error=died.to_dict())
    fake.come_back()
    fake.hold.set()
    bpy.ops.fieldforge.import_again(key=job.key)
    finish(running, job)
    assert job.job_id != first
    assert len(result_objects(source)) == 1


def test_a_job_that_nobody_knows_any_more(running, fake):
    cloud()
    (job,) = generate()
    finish(running, job)
    fake.jobs.clear()
    bpy.ops.fieldforge.import_again(key=job.key)
    finish(running, job, "failed")
    assert "does not know this job" in running.notices[0].cause


def test_a_result_can_be_placed_again(running, fake):
    source = cloud()
    (job,) = generate()
    finish(running, job)
    bpy.ops.fieldforge.import_again(key=job.key)
    finish(running, job)
    assert {item.name for item in result_objects(source)} == {
        "Armchair_scan mesh",
        "Armchair_scan mesh.001",
    }
    assert len(fake.jobs) == 1


def test_a_job_can_run_again_without_its_source(running, fake):
    source = cloud()
    expected = world_points(source)
    (job,) = generate()
    finish(running, job)
    bpy.data.objects.remove(source)
    bpy.ops.fieldforge.run_again(key=job.key)
    again = running.jobs[0]
    assert again is not job
    finish(running, again)
    assert len(fake.jobs) == 2
    for created in result_objects():
        assert np.abs(world_points(created) - expected).max() < 1e-5


def test_delete_removes_it_here_and_there(running, fake):
    cloud()
    (job,) = generate()
    finish(running, job)
    bpy.ops.fieldforge.delete_job(key=job.key)
    assert running.jobs == []
    tick_until(running, lambda: not running.busy)
    assert fake.jobs == {}


def test_variations_only_of_models_that_sample(running, fake):
    settings = bpy.context.scene.fieldforge
    source = cloud()
    (job,) = generate()
    finish(running, job)  # the models are known from here on
    settings.model, settings.seed, settings.variations = "dreamer", 40, 3
    (three,) = generate()
    finish(running, three)
    assert len(fake.jobs) == 2  # one job for all three
    names = {item.name for item in result_objects(source)}
    assert {f"Armchair_scan mesh, seed {seed}" for seed in (40, 41, 42)} <= names
    settings.model = "wavelet-fit"
    assert len(generate()) == 1


def test_the_chosen_model_stays_chosen(running, fake):
    """Whatever the order of the list; and it changes where it cannot do what is asked."""
    said = []
    running.connect(lambda words, error: said.append(words))
    tick_until(running, lambda: said)
    settings = bpy.context.scene.fieldforge
    settings.model = "dreamer"
    running.connection.models.reverse()
    assert settings.model == "dreamer"
    fake.vanish()
    running.connect(lambda words, error: said.append(words))
    tick_until(running, lambda: len(said) == 2)
    assert running.connection.state == "failed"
    assert settings.model == "dreamer"
    settings.source = "VOXELS"
    assert settings.model == "wavelet-fit"


def test_generate_again_needs_no_new_selection(running):
    """The result is selected now; it stands for its source, as long as that is there."""
    source = cloud()
    (job,) = generate()
    finish(running, job)
    assert bpy.context.object.name == "Armchair_scan mesh"
    assert capture.facts(bpy.context).text == "Armchair_scan: 200 points, no normals"
    (again,) = generate()
    finish(running, again)
    assert len(result_objects(source)) == 2
    bpy.data.objects.remove(source)
    bpy.context.view_layer.update()
    assert "faces" in capture.facts(bpy.context).reason


def test_cubes_can_be_generated_again_at_once(running):
    """The result stands for all of them, hidden or not, and only where cubes are asked for."""
    settings = bpy.context.scene.fieldforge
    settings.source, settings.voxels_from, settings.hide_source = "VOXELS", "CUBES", True
    cubes = [cube(location=(step, 0, 0)) for step in range(3)]
    select(*cubes)
    (job,) = generate()
    finish(running, job)
    assert bpy.context.object.name == "Cube mesh"
    assert capture.facts(bpy.context).text == "3 cubes"
    (again,) = generate()
    finish(running, again)
    assert len(result_objects(*cubes)) == 2
    bpy.data.objects.remove(cubes[1])
    bpy.context.view_layer.update()
    assert capture.facts(bpy.context).text == "2 cubes"
    settings.voxels_from = "MESH"
    assert capture.facts(bpy.context).text.startswith("Cube mesh.001: ")


def test_coloured_results_share_a_material_that_shows_the_colours(running):
    cloud("Plain")
    (job,) = generate()
    finish(running, job)
    assert not bpy.context.object.data.materials
    made = []
    for name in ("One", "Two"):
        cloud(name, colors="BYTE_COLOR")
        (job,) = generate()
        finish(running, job)
        made.append(bpy.context.object.data)
    (material,) = made[0].materials
    assert material == made[1].materials[0]
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    (link,) = shader.inputs["Base Color"].links
    assert link.from_node.layer_name == made[0].color_attributes.active_color.name


def test_in_edit_mode_the_result_waits(running):
    source = cloud()
    bpy.ops.object.mode_set(mode="EDIT")
    (job,) = generate()
    tick_until(running, lambda: job.stage.startswith("Ready. Leave this mode"))
    assert not result_objects(source)
    bpy.ops.object.mode_set(mode="OBJECT")
    finish(running, job)
    assert len(result_objects(source)) == 1


def test_another_file_gets_no_mesh_unasked(running, fake):
    fake.hold.clear()
    cloud()
    (job,) = generate()
    tick_until(running, lambda: job.state == "running")
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    fake.hold.set()
    finish(running, job)
    assert not bpy.data.objects
    assert "another file" in job.stage
    bpy.ops.fieldforge.import_again(key=job.key)
    finish(running, job)
    assert [item.name for item in bpy.data.objects] == ["Armchair_scan mesh"]


def test_the_same_file_opened_again_gets_its_mesh(running, fake, tmp_path):
    fake.hold.clear()
    cloud()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scène 1.blend"))
    (job,) = generate()
    tick_until(running, lambda: job.state == "running")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "scène 1.blend"))
    fake.hold.set()
    finish(running, job)
    assert "Armchair_scan mesh" in bpy.data.objects


def test_the_history_outlives_blender(running, extension):
    source = cloud()
    (job,) = generate()
    finish(running, job)
    extension.unregister()
    extension.register()
    again = session.jobs()
    assert again is not running
    tick_until(again, lambda: len(again.jobs) == 1)
    kept = again.jobs[0]
    assert history.to_record(kept) == history.to_record(job)
    bpy.ops.fieldforge.import_again(key=kept.key)
    finish(again, kept)
    newest = bpy.data.objects["Armchair_scan mesh.001"]
    assert np.abs(world_points(newest) - world_points(source)).max() < 1e-5


def test_what_was_under_way_when_blender_closed_can_be_fetched(tmp_path):
    job = history.Job(
        name="Scan",
        kind="points-to-mesh",
        model="wavelet-fit",
        resolution=256,
        seed=0,
        destination=jobs.Destination("Scan mesh", np.eye(4)),
        job_id="abc",
        state="running",
    )
    unsent = history.from_record(history.to_record(job) | {"job_id": "", "key": "2"})
    path = tmp_path / "history.json"
    text = {"jobs": [history.to_record(job), history.to_record(unsent), {"broken": 1}]}
    history.write_history(path, json.dumps(text))
    (read,) = history.read_history(path)
    assert (read.state, read.job_id) == ("lost", "abc")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"jobs": 3}', '{"jobs": [1, null]}'])
def test_a_spoilt_history_is_an_empty_one(tmp_path, text):
    path = tmp_path / "history.json"
    path.write_text(text)
    assert history.read_history(path) == []


def test_no_tick_holds_the_main_thread(running, fake):
    """A cloud of a million points there and back: only the import may take its time."""
    cloud(count=1_000_000)
    (job,) = generate()
    longest = 0.0
    while job.active:
        placing = job.placed is not None
        begun = time.thread_time()
        running.tick()
        if not placing and job.state != "done":
            longest = max(longest, time.thread_time() - begun)
        time.sleep(0.005)
    print(f"longest tick: {longest * 1000:.1f} ms of this thread's time")
    assert job.state == "done"
    assert longest < 0.05


def test_the_source_is_read_when_generate_is_clicked(running, fake, monkeypatch):
    source = cloud()
    expected = world_points(source)
    (job,) = generate()
    source.data.attributes["position"].data.foreach_set("vector", np.zeros(600, np.float32))
    finish(running, job)
    (created,) = result_objects(source)
    assert np.abs(world_points(created) - expected).max() < 1e-5


def test_an_unforeseen_error_is_told_too(running, monkeypatch):
    cloud()
    monkeypatch.setattr(jobs, "compose", lambda *a: 1 / 0)
    (job,) = generate()
    finish(running, job, "failed")
    assert "ZeroDivisionError" in running.notices[0].cause
    assert str(jobs.log_file()) in running.notices[0].remedy
    assert "division by zero" in jobs.log_file().read_text()


# --------------------------------------------------------------------------------- disabled reasons


def reason() -> str:
    found = operators.disabled_reason(bpy.context)
    assert (found is None) == bpy.ops.fieldforge.generate.poll()
    return " ".join(found) if found else ""


def test_a_disabled_generate_says_why(running, server):
    assert "Select a point cloud" in reason()
    cloud(count=3)
    assert "too few" in reason()
    cloud()
    assert reason() == ""
    server.update(url="")
    assert "No server is set" in reason()
    server.update(url="https://forge.example.org")
    assert "Allow Online Access" in reason()
    server.update(online=True)
    assert reason() == ""
    server.update(mode="PYTHON")
    assert "No Python" in reason()
    server.update(mode="INSTALLED")
    assert "Click Install first" in reason()


def test_offline_nothing_but_this_computer_is_contacted(running, server, monkeypatch):
    import socket

    contacted = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: contacted.append(to))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: contacted.append(a))
    server.update(url="https://forge.example.org", online=False)
    said = []
    running.connect(lambda words, error: said.append(error))
    tick_until(running, lambda: said)
    assert isinstance(said[0], errors.Unreachable)
    assert "offline" in said[0].cause
    assert contacted == []


def test_test_connection_says_how_it_went(running, server):
    said = []
    running.connect(lambda words, error: said.append((words, error)))
    tick_until(running, lambda: said)
    assert said == [("Backend 0.1.0 ready (cpu)", None)]
    server["token"] = "wrong"
    running.connect(lambda words, error: said.append((words, error)))
    tick_until(running, lambda: len(said) == 2)
    assert isinstance(said[1][1], errors.NotAuthorized)
    assert running.connection.state == "failed"
