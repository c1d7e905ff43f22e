"""The models: listed, licences said and ticked first, downloads with progress and cancel."""

import bpy
import numpy as np
import pytest
from driving import finish, generate, know_models
from fieldforge.backend import errors, protocol
from fieldforge.blender_addon import history, jobs, models, panels, preferences, regions, session
from scenes import cloud, tick_until
from test_panels import _draw_preferences, _job, draw

NON_COMMERCIAL = "research and other non-commercial use only"
ABSENT = {
    "id": "wala-pointcloud-1b",
    "title": "WaLa point cloud 1B",
    "summary": "Shapes from point clouds.",
    "tasks": ["points-to-mesh"],
    "samples": True,
    "ready": False,
    "steps": 8,
    "guidance": 1.3,
    "bytes": 15_600_000_000,
    "license": "nc-1",
    "license_url": "https://example.org/LICENSE.md",
    "license_words": f"Example Non-Commercial: {NON_COMMERCIAL}.",
    "needs": [],
}
PAIR = {**ABSENT, "id": "depth6", "title": "Depth", "tasks": ["depth-to-mesh"], "bytes": 10**9}
TEXT = {**PAIR, "id": "text", "title": "Text", "tasks": ["text-to-mesh"], "needs": ["depth6"]}


@pytest.fixture
def listed(running, fake, server):
    """A backend elsewhere that has more models to offer than are there."""
    models._accepted.clear()
    fake.models += [dict(ABSENT), dict(PAIR), dict(TEXT)]
    know_models(running)
    yield running
    models._accepted.clear()


def downloads(fake):
    tasks = [protocol.decode_task(body) for body in fake.tasks.values()]
    return [task for task in tasks if isinstance(task, protocol.DownloadModel)]


def test_before_the_backend_was_asked_there_is_a_button(running):
    page = _draw_preferences("SERVER", url="http://127.0.0.1:1")
    assert page.has("operator", "fieldforge.list_models")


def test_preferences_list_what_is_here_and_what_can_be_had(listed):
    page = _draw_preferences("SERVER", url="http://127.0.0.1:1")
    words = page.words()
    for part in ("Wavelet fit", "needs no weights", "WaLa point cloud 1B", "15.6 GB", "1.0 GB"):
        assert part in words
    assert words.count(NON_COMMERCIAL) == 1  # once for all under this licence
    assert page.page.count(("operator", "fieldforge.download_model")) == 3
    assert page.has("operator", "wm.url_open")
    assert page.has("operator", "fieldforge.accept_license")
    closed = _draw_preferences("SERVER", url="http://127.0.0.1:1", show_models=False)
    assert "WaLa" not in closed.words()


def test_the_sidebar_says_that_the_model_is_not_here(listed):
    cloud()
    bpy.context.scene.fieldforge.model = ABSENT["id"]
    page = draw(width=2000)
    assert "WaLa point cloud 1B is not on this computer yet (15.6 GB)." in page.words()
    assert NON_COMMERCIAL in page.words()
    assert page.has("operator", "fieldforge.download_model")
    assert not bpy.ops.fieldforge.generate.poll()


def test_nothing_is_downloaded_before_the_licence_is_ticked(listed, fake):
    model = models.find(ABSENT["id"])
    assert models.why_no_download(model) == "Accept the licence first"
    assert bpy.ops.fieldforge.download_model(model=ABSENT["id"]) == {"CANCELLED"}
    assert downloads(fake) == []
    bpy.ops.fieldforge.accept_license(license="nc-1")
    assert models.why_no_download(model) == ""
    bpy.ops.fieldforge.accept_license(license="nc-1")
    assert models.why_no_download(model) == "Accept the licence first"


def test_a_download_makes_the_model_usable(listed, fake):
    source = cloud()
    settings = bpy.context.scene.fieldforge
    settings.model = ABSENT["id"]
    bpy.ops.fieldforge.accept_license(license="nc-1")
    fake.hold.clear()
    assert bpy.ops.fieldforge.download_model(model=ABSENT["id"]) == {"FINISHED"}
    job = listed.jobs[0]
    tick_until(listed, lambda: job.state == "running")
    (task,) = downloads(fake)
    assert (task.model, task.license) == (ABSENT["id"], "nc-1")
    fake.jobs[job.job_id].update(stage="Downloading 3.1 of 15.6 GB", fraction=0.2)
    tick_until(listed, lambda: job.fraction == 0.2)
    page = draw(width=2000)
    assert "It is being downloaded." in page.words()
    assert "Downloading 3.1 of 15.6 GB" in page.words()
    assert page.has("operator", "fieldforge.cancel")
    in_preferences = _draw_preferences("SERVER", url="http://127.0.0.1:1")
    assert "20%" in in_preferences.words()
    assert in_preferences.page.count(("operator", "fieldforge.download_model")) == 2
    objects = list(bpy.data.objects)
    fake.hold.set()
    finish(listed, job)
    assert models.find(ABSENT["id"])["ready"]
    assert bpy.ops.fieldforge.generate.poll()
    assert list(bpy.data.objects) == objects == [source]
    assert listed.notices == []
    (made,) = generate()
    finish(listed, made)
    assert made.model == ABSENT["id"]


def test_what_a_model_needs_comes_first(listed, fake):
    bpy.ops.fieldforge.accept_license(license="nc-1")
    fake.hold.clear()
    bpy.ops.fieldforge.download_model(model="text")
    tick_until(listed, lambda: len(downloads(fake)) == 2)
    assert {task.model for task in downloads(fake)} == {"depth6", "text"}
    bpy.ops.fieldforge.download_model(model="text")  # twice is once
    assert len(listed.active) == 2
    fake.hold.set()
    for job in list(listed.jobs):
        finish(listed, job)


def test_a_download_can_be_cancelled(listed, fake):
    bpy.ops.fieldforge.accept_license(license="nc-1")
    fake.hold.clear()
    bpy.ops.fieldforge.download_model(model="depth6")
    job = listed.jobs[0]
    tick_until(listed, lambda: job.state == "running")
    bpy.ops.fieldforge.cancel(key=job.key)
    assert job.state == "cancelled"
    tick_until(listed, lambda: fake.jobs[job.job_id]["state"] == "cancelled")
    tick_until(listed, lambda: not listed.busy)
    assert not models.find("depth6")["ready"]
    assert models.download_of("depth6") is None


def test_a_failed_download_says_why_and_can_be_begun_again(listed, fake):
    bpy.ops.fieldforge.accept_license(license="nc-1")
    fake.fail = errors.StorageFailed("The disk is full.", "Free 15.6 GB.")
    bpy.ops.fieldforge.download_model(model="depth6")
    job = listed.jobs[0]
    finish(listed, job, "failed")
    assert listed.notices[0].cause == "The disk is full."
    fake.fail = None
    bpy.ops.fieldforge.run_again(key=job.key)
    finish(listed, listed.jobs[0])
    assert models.find("depth6")["ready"]


def test_offline_a_local_backend_downloads_nothing(listed, server):
    bpy.ops.fieldforge.accept_license(license="nc-1")
    server.update(mode="PYTHON", python="/usr/bin/python3")
    assert "offline" in models.why_no_download(models.find("depth6"))
    assert bpy.ops.fieldforge.download_model(model="depth6") == {"CANCELLED"}
    server.update(mode="SERVER")
    assert models.why_no_download(models.find("depth6")) == ""


def test_ticks_are_kept_in_preferences(listed, monkeypatch):
    from types import SimpleNamespace

    kept = SimpleNamespace(licenses="other-2")
    monkeypatch.setattr(preferences, "current", lambda: kept)
    models.accept("nc-1", True)
    assert kept.licenses == "nc-1 other-2"
    assert models.accepted("nc-1")
    models.accept("nc-1", False)
    assert kept.licenses == "other-2"


# ------------------------------------------------------------------------------------- other panels


def test_fields_of_sampling_are_there_for_models_that_sample(listed, fake):
    cloud()
    settings = bpy.context.scene.fieldforge
    names = ("layout", "own_sampling", "steps", "guidance", "refine", "watch")
    settings.model = "wavelet-fit"
    page = draw()
    assert not any(page.has("prop", name) for name in names)
    settings.model = ABSENT["id"]
    page = draw(width=2000)
    assert "8 steps, guidance 1.3, as its authors recommend." in page.words()
    shown = [name for name in names if page.has("prop", name)]
    assert shown == ["own_sampling", "refine", "watch"]
    settings.variations, settings.own_sampling = 2, True
    page = draw(width=2000)
    assert all(page.has("prop", name) for name in names)
    assert "authors recommend" not in page.words()


def test_the_history_tells_how_it_was_sampled(listed):
    listed.jobs = [
        _job(state="done", job_id="1", sampled=True, model="dreamer", seed=7, steps=8),
        _job(state="done", job_id="2", sampled=True, seed=7, variations=3, guidance=1.5),
        _job(state="done", job_id="3", kind="download-model", seconds=200),
    ]
    page = draw(panels.FIELDFORGE_PT_history, width=3000)
    assert "Done, 0 s, dreamer, seed 7, 8 steps" in page.words()
    assert "seeds 7 to 9, guidance 1.5" in page.words()
    assert "Done, 3:20 min" in page.words()
    assert page.page.count(("operator", "fieldforge.import_again")) == 2


def test_the_region_panel_says_what_to_do(listed, fake):
    panel = regions.FIELDFORGE_PT_region
    assert "Select an object that was generated." in draw(panel, width=2000).words()
    cloud("Chair")
    assert "was not generated" in draw(panel, width=2000).words()
    bpy.context.scene.fieldforge.model = "dreamer"
    bpy.context.scene.fieldforge.seed = 7
    (job,) = generate()
    finish(listed, job)
    page = draw(panel, width=2000)
    assert "Chair mesh: dreamer, seed 7, 8 steps, guidance 1.3" in page.words()
    assert page.has("operator", "fieldforge.add_region")
    assert not page.has("operator", "fieldforge.regenerate_region")
    bpy.ops.fieldforge.add_region()
    page = draw(panel, width=2000)
    assert page.has("operator", "fieldforge.regenerate_region")
    assert page.has("prop", "region_result")


def test_a_download_under_way_when_blender_closed_is_lost_not_wrong(listed):
    job = _job(kind="download-model", state="running", job_id="1")
    kept = history.from_record(history.to_record(job))
    assert not kept.makes_meshes
    assert isinstance(kept.destination, jobs.Destination)
    assert np.array_equal(kept.destination.matrix_world, np.eye(4))
    assert session.jobs() is listed
