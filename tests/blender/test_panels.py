"""What the sidebar and Preferences show, drawn into a layout that writes everything down."""

import time
from types import SimpleNamespace

import bpy
import pytest
from fake_backend import TOKEN
from fieldforge.backend import environment, errors
from fieldforge.blender_addon import (
    backend_process,
    history,
    jobs,
    panels,
    preferences,
    session,
    wrapping,
)
from fieldforge.blender_addon.backend_process import Settings
from pages import Layout, draw, page_context
from scenes import cloud, cube, select


@pytest.fixture
def running(monkeypatch, extension):
    chosen = Settings(mode="SERVER", url="http://127.0.0.1:9", token=TOKEN)
    monkeypatch.setattr(preferences, "current_settings", lambda: chosen)
    return session.jobs()


def _job(**fields):
    import numpy as np

    values = {
        "name": "Scan",
        "kind": "points-to-mesh",
        "model": "wavelet-fit",
        "resolution": 256,
        "seed": 0,
        "destination": jobs.Destination("Scan mesh", np.eye(4)),
    }
    return history.Job(**values | fields)


def test_the_panel_says_what_is_selected(running):
    cloud(count=48210)
    page = draw()
    assert "Armchair_scan: 48,210 points, no normals" in page.words()
    assert page.has("operator", "fieldforge.generate")
    assert "a seed makes no difference" in page.words()


def test_a_disabled_generate_says_why_below_it(running):
    words = draw().words()
    assert words.count("Nothing is selected.") == 1
    assert words.endswith("Select a point cloud or a mesh in the viewport.")
    cloud(count=3)
    assert "3 points are too few" in draw().words()


def test_what_was_made_is_said_below_generate(running):
    cloud()
    running.connection = jobs.Connection("ready", "Backend 1 ready")
    assert draw().words().endswith("Backend 1 ready")
    done = _job(state="done", seconds=12.4, faces=225300)
    running.jobs = [done]
    assert "faces" not in draw().words()  # of an earlier session
    done.file_serial = 0
    assert draw().words().endswith("Scan mesh 225,300 faces in 12 s")


def test_before_the_backend_is_there_the_panel_leads_to_it(extension, monkeypatch):
    """The first minutes: what is missing comes first, with the button that mends it."""
    monkeypatch.setattr(preferences, "current_settings", Settings)
    cloud()
    page = draw()
    words = page.words()
    assert words.startswith("The backend is not installed yet.")
    assert "Blender is set to stay offline." in words
    assert page.has("prop", "use_online_access")
    assert page.has("operator", "fieldforge.install")
    assert words.endswith("The backend is not installed yet. Click Install first.")
    interrupted = SimpleNamespace(state="incomplete", python=None)
    monkeypatch.setattr(preferences.Checks, "installed", interrupted)
    assert draw().has("operator", "fieldforge.repair")
    installation = backend_process.Installation("Installing", lambda report: None)
    installation.stage, installation.fraction = "Downloading torch", 0.3
    monkeypatch.setattr(preferences.Checks, "installation", installation)
    page = draw()
    assert "30% Installing: Downloading torch" in page.words()
    assert page.has("operator", "fieldforge.cancel_install")
    assert not page.has("operator", "fieldforge.install")
    installation.done, installation.error = True, errors.StorageFailed("The disk is full.")
    page = draw()
    assert "The disk is full." in page.words()
    assert page.has("operator", "fieldforge.repair")


def test_a_server_that_is_not_set_leads_to_preferences(extension, monkeypatch):
    monkeypatch.setattr(preferences, "current_settings", lambda: Settings(mode="SERVER"))
    page = draw()
    assert page.words().startswith("No server is set. Enter its address in Preferences.")
    assert page.has("operator", "fieldforge.open_preferences")
    assert not page.has("operator", "fieldforge.install")


def test_take_vertices_is_offered_where_it_matters(running):
    cloud()
    assert not draw().has("prop", "take_vertices")
    cube()
    assert draw().has("prop", "take_vertices")


def test_voxels_have_their_own_fields(running):
    cube()
    bpy.context.scene.fieldforge.source = "VOXELS"
    page = draw()
    assert page.has("prop", "voxel_size")
    assert "about 20 voxels along its longest side" in page.words()
    bpy.context.scene.fieldforge.voxels_from = "CUBES"
    page = draw()
    assert not page.has("prop", "voxel_size")
    assert "1 cube" in page.words()


def test_progress_names_stage_and_time(running):
    running.jobs = [_job(state="running", stage="Orienting normals", fraction=0.42)]
    running.jobs[0].started = time.monotonic() - 83
    page = draw()
    assert "42%, 1:23 min" in page.words()
    assert "Orienting normals" in page.words()
    assert page.has("operator", "fieldforge.cancel")
    running.jobs = [_job(state="running")]  # taken, but what works on it is being loaded
    assert "Getting ready" in draw().words()


def test_an_error_shows_cause_and_remedy(running):
    running.tell("Scan", errors.OutOfMemory("It needs 11 GB.", "Choose resolution 128."))
    page = draw()
    assert "It needs 11 GB. Choose resolution 128." in page.words()
    assert page.has("operator", "fieldforge.dismiss")


def test_a_lost_job_offers_to_fetch_it_again(running):
    running.jobs = [_job(state="lost", job_id="1")]
    running.tell("Scan", errors.Unreachable("Gone."), running.jobs[0].key)
    assert draw().has("operator", "fieldforge.import_again")


def test_history_offers_what_can_be_done(running):
    assert "listed here" in draw(panels.FIELDFORGE_PT_history).words()
    running.jobs = [
        _job(state="done", job_id="1", seconds=12.4),
        _job(state="failed", job_id="2", error={"cause": "It was too dark."}),
        _job(state="cancelled"),
        *[_job(state="done", job_id="3") for _ in range(20)],
    ]
    page = draw(panels.FIELDFORGE_PT_history, width=2000)
    assert "Done, 12 s, resolution 256" in page.words()
    assert "It was too dark." in page.words()
    assert f"and {23 - panels.SHOWN_HISTORY} older ones" in page.words()
    for name in ("import_again", "run_again", "delete_job"):
        assert page.has("operator", f"fieldforge.{name}")


@pytest.mark.parametrize("width", [150, 260, 600])
def test_every_line_fits_the_sidebar(running, width):
    select(cloud("A_very_long_name_of_a_scan_without_any_space_in_it_2026_11", count=5))
    running.tell("Scan", errors.Unreachable("The backend is gone. " * 5, "Start it again. " * 5))
    room = width - wrapping.PADDING
    for kind, text in draw(width=width).page:
        if kind == "label":
            assert wrapping.text_width(text) <= max(60, room), text


def test_wrapping_loses_no_word():
    text = "The backend at http://127.0.0.1:8765/a/very/long/path is gone"
    for width in (60, 90, 140, 1000):
        lines = wrapping.wrap(text, width)
        assert "".join("".join(lines).split()) == "".join(text.split())
        assert all(wrapping.text_width(line) <= width for line in lines)
    assert "".join(wrapping.wrap("", 100)) == ""


def test_drawing_is_cheap_and_asks_nobody(running, monkeypatch):
    """Neither network nor disk, and nothing that grows with the source."""
    import builtins
    import socket

    cloud(count=2_000_000)
    draw()

    def refuse(*_, **__):
        raise AssertionError("drawing must not do this")

    for owner, name in (
        (socket, "socket"),
        (builtins, "open"),
        (environment, "status"),
        (backend_process, "last_lines"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    begun = time.perf_counter()
    for _ in range(20):
        draw()
    assert (time.perf_counter() - begun) / 20 < 0.02


def _draw_preferences(mode, **fields) -> Layout:
    page = Layout()
    cls = preferences.FieldforgePreferences
    values = {
        "mode": mode,
        "python": "",
        "url": "",
        "token": "",
        "data_folder": "",
        "show_log": True,
        "show_models": True,
        "start": "FIRST_USE",
        "bl_rna": cls.bl_rna,
        "layout": page,
    }
    fake = SimpleNamespace(**values | fields)
    for name in ("installed", "python", "server", "test", "models", "log"):
        method = getattr(cls, f"_draw_{name}")
        setattr(fake, f"_draw_{name}", lambda *a, method=method: method(fake, *a))
    cls.draw(fake, page_context(600))
    return page


def test_preferences_of_an_installed_backend(running, monkeypatch):
    page = _draw_preferences("INSTALLED")
    assert "not installed yet" in page.words()
    assert page.has("prop", "use_online_access")
    for name in ("install", "repair", "remove", "test_connection"):
        assert page.has("operator", f"fieldforge.{name}")
    installation = backend_process.Installation("Installing", lambda report: None)
    installation.stage, installation.fraction = "Downloading torch", 0.3
    installation.lines.append("Collecting torch")
    monkeypatch.setattr(preferences.Checks, "installation", installation)
    page = _draw_preferences("INSTALLED")
    assert "30% Installing: Downloading torch Collecting torch" in page.words()
    assert page.has("operator", "fieldforge.cancel_install")


def test_preferences_of_a_server(running):
    page = _draw_preferences("SERVER", url="http://forge.example.org")
    assert "stay offline" in page.words()
    assert "unencrypted" in page.words()
    assert "unencrypted" not in _draw_preferences("SERVER", url="http://127.0.0.1:5").words()
    token = preferences.FieldforgePreferences.bl_rna.properties["token"]
    assert token.subtype == "PASSWORD"


def test_preferences_show_where_the_log_is(running):
    assert str(backend_process.log_file()) in _draw_preferences("PYTHON").words().replace(" ", "")


def test_preferences_show_where_files_are_kept(running):
    words = _draw_preferences("INSTALLED").words().replace(" ", "")
    assert str(environment.home()).replace(" ", "") in words


def test_install_buttons_say_why_they_are_disabled(extension, monkeypatch):
    from fieldforge.blender_addon import operators

    install, repair = operators.FIELDFORGE_OT_install, operators.FIELDFORGE_OT_repair
    assert "Allow Online Access" in install.disabled_reason()
    assert "not installed" in repair.disabled_reason()
    monkeypatch.setattr(preferences.Checks, "installed", SimpleNamespace(state="ready"))
    assert "already" in install.disabled_reason()
    assert operators.FIELDFORGE_OT_remove.disabled_reason() == ""
