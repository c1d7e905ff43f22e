"""The chooser of sources: each has fields and models of its own, and words for what is missing."""

import json
import time

import bpy
import numpy as np
import pytest
from driving import finish, generate, know_models, result_objects
from fake_backend import MODELS
from fieldforge.backend import protocol
from fieldforge.blender_addon import bundled, jobs, model_choice, sources
from fieldforge.blender_addon.sources.settings import SOURCES
from pages import draw
from scenes import cube, select, world_points

PICTURED = [name for name, *_ in SOURCES if name not in {"POINTS", "VOXELS"}]


def model(model_id: str, *tasks: str, **fields) -> dict:
    values = {"id": model_id, "title": model_id.title(), "tasks": list(tasks), "samples": True}
    return values | {"ready": True, "steps": 5, "guidance": 1.8} | fields


EVERYTHING = [
    *MODELS,
    model("absent", "image-to-mesh", "depth-to-mesh", ready=False, bytes=17_800_000_000),
    model("seer", "image-to-mesh", "sketch-to-mesh"),
    model("deep", "depth-to-mesh"),
    model("six", "views-to-mesh", views=6, view_kind="depth", cameras=[3, 6, 10, 26, 49, 50]),
    model("four", "views-to-mesh", views=4, view_kind="image", cameras=[3, 6, 10, 26]),
    model("words", "text-to-mesh", "shape"),
]

# What is asked for by other buttons, or on the way to another result.
NO_SOURCES = {
    *(protocol.DownloadModel.kind, protocol.PanoramaToDepth.kind),
    *(protocol.MeshToField.kind, protocol.FieldToMesh.kind),
}


@pytest.fixture
def settings(running):
    running.connection = jobs.Connection("ready", "Backend ready", EVERYTHING)
    return bpy.context.scene.fieldforge


def picture(name="Chair"):
    image = bpy.data.images.new(name, 8, 8)
    image.pixels.foreach_set(np.ones(8 * 8 * 4, np.float32))
    bpy.context.scene.fieldforge.image = image
    return image


def test_every_source_has_a_task_and_can_be_drawn(settings):
    assert set(sources.TASKS) == {name for name, *_ in SOURCES}
    assert set(sources.TASKS.values()) == set(protocol.TASKS) - NO_SOURCES
    for name in sources.TASKS:
        settings.source = name
        page = draw()
        assert page.page[0] == ("prop", "source")
        assert page.has("operator", "fieldforge.generate")
        assert page.has("prop", "resolution") == (name in {"POINTS", "VOXELS"})


@pytest.mark.parametrize(
    ("source", "there", "absent"),
    [
        ("VIEWPORT", {"result_size"}, {"image", "seen_from", "prompt", "hide_source"}),
        ("IMAGE", {"image", "background", "result_size"}, {"seen_from", "sketch_from"}),
        ("SKETCH", {"sketch_from", "sketch", "seen_from", "hide_source"}, {"image", "background"}),
        ("DEPTH", {"seen_objects", "seen_from", "hide_source"}, {"result_size", "image"}),
        ("VIEWS", {"seen_objects", "hide_source"}, {"seen_from", "result_size"}),
        ("TEXT", {"prompt", "result_size"}, {"image", "seen_from"}),
        ("SHAPE", {"result_size"}, {"image", "prompt", "object_from"}),
    ],
)
def test_a_source_shows_its_own_fields_only(settings, source, there, absent):
    settings.source = source
    shown = {name for kind, name in draw().page if kind == "prop"}
    assert there <= shown
    assert not absent & shown


def test_fields_follow_the_choices_of_a_source(settings):
    settings.source, settings.sketch_from = "SKETCH", "IMAGE"
    page = draw()
    assert page.has("prop", "image")
    assert not page.has("prop", "seen_from")
    settings.sketch_from = "ANNOTATION"
    assert not draw().has("prop", "sketch")
    settings.source, settings.seen_objects = "VIEWS", "VISIBLE"
    assert not draw().has("prop", "hide_source")  # it would hide the scene
    assert not draw().has("prop", "textured_views")
    settings.model = "four"
    assert draw().has("prop", "textured_views")


def test_only_models_for_the_source_are_offered_those_that_are_here_first(settings):
    def offered() -> list[str]:
        return [entry["id"] for entry in model_choice.models_for(settings)]

    assert offered() == ["wavelet-fit", "dreamer"]
    settings.source = "IMAGE"
    assert offered() == ["seer", "absent"]
    assert settings.model == "seer"
    settings.source = "VIEWS"
    assert offered() == ["six", "four"]
    settings.model = "four"
    settings.source = "TEXT"
    assert settings.model == "words"
    settings.source = "VIEWS"
    assert settings.model == "four"  # what was chosen is kept where it fits


def test_the_default_of_the_backend_is_the_one_until_another_is_chosen(settings, running):
    bundled = model(
        "small",
        *("points-to-mesh", "image-to-mesh", "views-to-mesh", "text-to-mesh"),
        views=6,
        view_kind="image",
        cameras=[3, 6, 10, 26, 49, 50],
        default_for=["image-to-mesh", "views-to-mesh", "text-to-mesh"],
    )
    solver = {**MODELS[0], "default_for": ["points-to-mesh", "voxels-to-mesh"]}
    running.connection = jobs.Connection(
        "ready", "Backend ready", [solver, *EVERYTHING[1:], bundled]
    )
    chosen = {}
    for source in ("POINTS", "IMAGE", "VIEWS", "TEXT", "SKETCH"):
        settings.source = source
        chosen[source] = settings.model
    assert chosen == {
        **dict.fromkeys(("IMAGE", "VIEWS", "TEXT"), "small"),
        "POINTS": "wavelet-fit",
        "SKETCH": "seer",
    }
    settings.source, settings.model = "POINTS", "small"
    assert settings.model == "small"
    settings.source = "SKETCH"
    assert settings.model == "seer"


def test_the_recommended_steps_are_shown_and_begin_one_s_own(settings):
    settings.source = "SHAPE"
    assert "5 steps, guidance 1.8" in draw().words()
    settings.own_sampling = True
    assert (settings.steps, round(settings.guidance, 4)) == (5, 1.8)
    assert draw().has("prop", "guidance")


def test_before_the_models_are_known_the_best_one_is_meant(running):
    settings = bpy.context.scene.fieldforge
    settings.source = "SHAPE"
    assert settings.model == model_choice.AUTOMATIC
    assert model_choice.chosen_model(settings)["id"] == ""
    page = draw()
    assert page.has("operator", "fieldforge.list_models")
    settings.source = "VIEWS"
    cube()
    assert "Which views are needed is not known yet." in draw().words()


@pytest.fixture
def in_the_box(tmp_path, monkeypatch):
    """Models that come with the extension, as their folders describe them."""
    monkeypatch.setenv("FIELDFORGE_BUNDLED", str(tmp_path / "box"))

    def put(name, tasks, **changes):
        described = {
            **{"id": name, "title": name.title(), "summary": "", "tasks": tasks, "views": 6},
            **{"view_kind": "image", "cameras": [3, 6], "steps": 5, "guidance": 2.0},
            **{"default_for": [], "config": {"joint": {}}, **changes},
        }
        folder = tmp_path / "box" / name
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(json.dumps(described))
        bundled._models.cache_clear()

    bundled._models.cache_clear()
    yield put
    bundled._models.cache_clear()


def test_views_have_the_cameras_of_the_box_before_the_models_are_known(running, in_the_box):
    ring = {"elevation": 25.0, "field": 40.0, "radius": 3.5}
    config = {"denoiser": {"image_size": 96}, **ring}
    in_the_box("alpha", ["image-to-views"], stands_in_for=["image-to-views"], config=config)
    settings = bpy.context.scene.fieldforge
    settings.source = "IMAGE_VIEWS"
    model = model_choice.chosen_model(settings)
    assert (model["id"], model["ring"], model["view_size"]) == ("", ring, 96)
    settings.source = "TEXT_VIEWS"
    assert "ring" not in model_choice.chosen_model(settings)


def test_before_the_models_are_known_the_default_in_the_box_is_meant(running, in_the_box):
    """As the backend chooses: the one that asks for it, then wavelet-fit, then any other."""
    in_the_box("alpha", ["points-to-mesh", "voxels-to-mesh", "image-to-mesh"])
    in_the_box(
        "beta",
        ["points-to-mesh", "views-to-mesh", "image-to-mesh"],
        default_for=["points-to-mesh"],
        config={"joint": {"views": 6}},
    )
    in_the_box("gamma", ["text-to-mesh"], stands_in_for=["text-to-mesh"])
    in_the_box("broken", ["sketch-to-mesh"], default_for=5)
    settings = bpy.context.scene.fieldforge
    expected = {"POINTS": "beta", "VOXELS": "wavelet-fit", "IMAGE": "alpha", "VIEWS": "beta"}
    for source, name in expected.items():
        settings.source = source
        assert model_choice.chosen_model(settings)["id"] == name
    for source in ("TEXT", "SKETCH"):
        settings.source = source
        assert model_choice.chosen_model(settings)["id"] == ""
    settings.source = "VIEWS"
    cube()
    page = draw()
    assert "Which views are needed is not known yet." not in page.words()
    assert page.has("prop", "used_views")
    running.connection = jobs.Connection("ready", "Backend ready", [MODELS[0]])
    settings.source = "POINTS"
    assert model_choice.chosen_model(settings)["id"] == "wavelet-fit"  # what it says counts


def test_a_backend_without_a_model_for_the_source_says_so(settings, running):
    running.connection = jobs.Connection("ready", "Backend ready", MODELS)
    settings.source = "SHAPE"
    assert "no model for this source" in draw().words()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("VIEWPORT", "There is no 3D viewport to look at."),
        ("IMAGE", "No image is chosen."),
        ("SKETCH", "There is no Grease Pencil object."),
        ("DEPTH", "Nothing with a surface is selected."),
        ("VIEWS", "Nothing with a surface is selected."),
        ("TEXT", "There is no text."),
    ],
)
def test_what_is_missing_is_said_once(settings, source, words):
    settings.source = source
    assert draw().words().count(words) == 1
    with pytest.raises(RuntimeError, match=words[:-1]):
        bpy.ops.fieldforge.generate()


def test_a_camera_that_is_missing_is_said(settings):
    cube()
    settings.source, settings.seen_from = "DEPTH", "CAMERA"
    assert "The scene has no camera." in draw().words()


@pytest.mark.parametrize("width", [150, 260, 600])
@pytest.mark.parametrize("source", PICTURED)
def test_every_line_fits_the_sidebar(settings, source, width):
    from fieldforge.blender_addon import wrapping

    settings.source = source
    for kind, text in draw(width=width).page:
        if kind == "label":
            assert wrapping.text_width(text) <= max(60, width - wrapping.PADDING), text


def test_drawing_many_objects_is_cheap(settings):
    first = cube()
    for _ in range(2000):
        bpy.context.scene.collection.objects.link(first.copy())
    select(*bpy.data.objects)
    for source, seen in (("DEPTH", "SELECTED"), ("VIEWS", "VISIBLE")):
        settings.source, settings.seen_objects = source, seen
        draw()
        begun = time.perf_counter()
        draw()
        assert time.perf_counter() - begun < 0.2


# ------------------------------------------------------------------------- from Generate to a mesh


@pytest.fixture
def knowing(running, fake):
    """The backend lists the models for every source."""
    fake.models = EVERYTHING
    know_models(running)
    return bpy.context.scene.fieldforge


def sent(fake) -> protocol.Task:
    return protocol.decode_task(list(fake.tasks.values())[-1])


def test_words_become_an_object_at_the_3d_cursor(running, fake, knowing):
    knowing.source, knowing.prompt, knowing.seed = "TEXT", "  a chair with three legs ", 7
    bpy.context.scene.cursor.location = (1, 2, 3)
    (job,) = generate()
    finish(running, job)
    task = sent(fake)
    assert isinstance(task, protocol.TextToMesh)
    assert (task.prompt, task.model, task.seed) == ("a chair with three legs", "words", 7)
    assert (task.up_axis, task.steps, task.guidance) == ("z", None, None)
    (made,) = result_objects()
    assert made.name == "A chair with three legs mesh"
    points = world_points(made)
    assert np.allclose(points.min(axis=0), [0, 1, 2], atol=1e-6)  # 2 m along its longest side
    assert np.allclose(points.max(axis=0), [2, 3, 4], atol=1e-6)


def test_an_image_becomes_an_object_and_again_from_the_same_image(running, fake, knowing):
    picture()
    knowing.source = "IMAGE"
    for number in (1, 2):
        (job,) = generate()  # the first result is selected now; the image stays the source
        finish(running, job)
        assert isinstance(sent(fake), protocol.ImageToMesh)
        assert len(bpy.data.objects) == number


def test_depth_and_views_come_back_over_their_objects(running, fake, knowing):
    source = cube("Chair", size=(1, 3, 2), location=(4, 5, 6))
    for name, kind in (("DEPTH", protocol.DepthToMesh), ("VIEWS", protocol.ViewsToMesh)):
        select(source)
        knowing.source = name
        known = bpy.data.objects[:]
        (job,) = generate()
        finish(running, job)
        assert isinstance(sent(fake), kind)
        (made,) = result_objects(*known)
        points = world_points(made)
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        assert np.allclose(middle, [4, 5, 6], atol=1e-5)
        assert np.ptp(points, axis=0).max() == pytest.approx(3, abs=1e-4)
        assert made.users_collection == source.users_collection
        # The result is selected; another click means its source.
        (job,) = generate()
        finish(running, job)
        assert job.name == "Chair"
        bpy.data.objects.remove(bpy.data.objects[job.destination.name])


def test_a_source_that_cannot_be_used_after_all_loses_nothing(running, knowing):
    """What only reading can tell becomes a notice."""
    knowing.source = "VIEWS"
    empty = bpy.data.objects.new("Empty mesh", bpy.data.meshes.new("Empty mesh"))
    bpy.context.scene.collection.objects.link(empty)
    select(empty)
    assert bpy.ops.fieldforge.generate() == {"CANCELLED"}
    assert running.notices[0].cause == "There are no faces on what was chosen."
    assert not running.jobs
    assert bpy.context.selected_objects == [empty]
