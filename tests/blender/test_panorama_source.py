"""Panoramas in the panel: what is read of the file, what is sent, what is said of bad input."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
import spheres
from driving import finish, generate, know_models
from fake_backend import MODELS
from fieldforge.backend import protocol
from fieldforge.backend.errors import BadInput
from fieldforge.blender_addon import forming, jobs
from fieldforge.blender_addon.panorama import source, textures
from pages import draw
from scenes import local_points, tick_until
from test_panorama_import import pixels_of, shown_by

AROUND = [
    *MODELS,
    {
        "id": "depth-sphere",
        "title": "Depth sphere",
        "tasks": ["panorama-to-sphere", "panorama-to-stereo"],
        "samples": False,
        "ready": True,
    },
    {
        "id": "ldm3d-pano",
        "title": "LDM3D pano",
        "tasks": ["text-to-panorama"],
        "samples": True,
        "ready": True,
        "steps": 50,
        "guidance": 7.0,
    },
    {
        "id": "depth-small",
        "title": "Depth small",
        "tasks": ["panorama-to-depth"],
        "samples": False,
        "ready": True,
    },
    {
        "id": "depth-large",
        "title": "Depth large",
        "tasks": ["panorama-to-depth"],
        "samples": False,
        "ready": False,
        "bytes": 1_300_000_000,
    },
]


@pytest.fixture
def settings(running, fake):
    fake.models = AROUND
    know_models(running)
    chosen = bpy.context.scene.fieldforge
    chosen.source = "PANORAMA"
    return chosen


def image_of(path, array) -> bpy.types.Image:
    """An image whose file was written for the test."""
    texture = textures.texture_of(array)
    path = path.with_suffix(texture.suffix)
    path.write_bytes(texture.data)
    image = bpy.data.images.load(str(path))
    assert image.size[0]  # it is read now
    return image


@pytest.fixture
def room(settings, tmp_path):
    """The room's picture and its exact depth, chosen."""
    settings.panorama = image_of(tmp_path / "hall", spheres.picture(64))
    numbers = spheres.distances(spheres.directions_of(32)).astype(np.float32)
    settings.panorama_depth = image_of(tmp_path / "hall-depth", numbers)
    return settings


def task_of(settings, running, fake) -> protocol.Task:
    (job,) = generate()
    finish(running, job)
    return protocol.decode_task(fake.tasks[job.job_id])


def test_a_picture_and_its_depth_become_a_sphere(room, running, fake):
    assert room.depth.meaning == "metric"  # an EXR
    room.sphere_edges, room.sphere_width = "sheet", "1024"
    bpy.ops.ed.undo_push(message="chosen")
    task = task_of(room, running, fake)
    assert isinstance(task, protocol.PanoramaToSphere)
    assert (task.name, task.model, task.edges, task.width) == (
        "hall",
        "depth-sphere",
        "sheet",
        1024,
    )
    assert np.array_equal(task.image, spheres.picture(64))
    exact = spheres.distances(spheres.directions_of(32)).astype(np.float32)
    assert np.array_equal(task.depth, exact)
    assert task.meaning == protocol.DepthMeaning()
    front = bpy.context.view_layer.objects.active
    assert front.name == "hall"
    assert shown_by(front) == room.panorama  # the very picture of the file
    assert room.panorama.packed_file is not None
    expected = spheres.directions_of(32).reshape(-1, 3)
    expected = expected * spheres.distances(expected)[:, None]
    assert np.abs(local_points(front)[: len(expected)] - expected).max() < 1e-4
    bpy.ops.ed.undo()
    assert "hall" not in bpy.data.objects


def test_the_panel_tells_sizes(room):
    words = draw(width=900).words()
    assert "hall.png: 64 x 32 pixels; depth hall-depth.exr: 32 x 16 pixels" in words
    page = draw()
    for name in ("panorama", "panorama_depth", "meaning", "sphere_width", "sphere_edges"):
        assert page.has("prop", name)
    for name in ("resolution", "variations", "seed", "hide_source", "near", "prompt"):
        assert not page.has("prop", name)
    room.depth.meaning = "inverse"
    assert draw().has("prop", "near")


def test_sky_stays_infinite(room, running, fake, tmp_path):
    numbers = np.full((16, 32), 2.0, np.float32)
    numbers[:4] = np.inf
    numbers[4, 4] = np.nan
    room.panorama_depth = image_of(tmp_path / "sky", numbers)
    depth = task_of(room, running, fake).depth
    assert np.isinf(depth[:4]).all()
    assert np.isnan(depth[4, 4])
    assert (depth[5:] == 2).all()


def test_numbers_are_not_taken_for_colours(room, running, fake):
    """Blender turned them, as long as their image says that it holds colours."""
    room.panorama_depth.colorspace_settings.name = "sRGB"
    turned = pixels_of(room.panorama_depth)[..., 0]
    depth = task_of(room, running, fake).depth
    exact = spheres.distances(spheres.directions_of(32)).astype(np.float32)
    assert np.array_equal(depth, exact)
    assert np.abs(turned - exact).max() > 0.1
    assert room.panorama_depth.colorspace_settings.name == "sRGB"
    assert len(bpy.data.images) == 2 + 1  # the result's own picture of what lies behind


def png16(values: np.ndarray) -> bytes:
    """(H, W) uint16 as a grey PNG with 16 bits."""
    import struct
    import zlib

    height, width = values.shape
    rows = np.zeros((height, 1 + 2 * width), np.uint8)
    rows[:, 1:] = values.astype(">u2").view(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = b"".join(textures._png_chunk(name, data) for name, data in parts)
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_sixteen_bits_stay_sixteen_bits(room, running, fake, tmp_path):
    values = (np.arange(512) * 128 + 7).astype(np.uint16).reshape(16, 32)
    (tmp_path / "deep.png").write_bytes(png16(values))
    room.panorama_depth = bpy.data.images.load(str(tmp_path / "deep.png"))
    assert room.depth.meaning == "inverse"
    depth = task_of(room, running, fake).depth
    assert depth.dtype == np.float32
    assert np.abs(65535 * depth - values).max() < 0.51
    assert "terraces" not in draw(width=900).words()


def test_eight_bits_are_warned_of_and_sent_as_they_are(room, running, fake, tmp_path):
    values = (np.arange(512) // 2).astype(np.uint8).reshape(16, 32)
    room.panorama_depth = image_of(tmp_path / "flat", np.repeat(values[..., None], 3, axis=2))
    assert room.depth.meaning == "inverse"
    assert "Depth of 8 bits shows terraces" in draw(width=900).words()
    room.depth.meaning = "metric"
    assert "8 bits hold no metres" in draw(width=900).words()
    room.depth.meaning = "inverse"
    assert np.array_equal(task_of(room, running, fake).depth, values)


def test_bright_pictures_are_sent_as_they_are(room, running, fake, tmp_path):
    bright = spheres.picture(64).astype(np.float32) * 0.1
    room.panorama = image_of(tmp_path / "bright", bright)
    task = task_of(room, running, fake)
    assert task.image.dtype == np.float32
    assert np.array_equal(task.image, bright)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_depth_can_be_a_file_of_numbers(room, running, fake, tmp_path, suffix):
    exact = spheres.distances(spheres.directions_of(32))
    path = tmp_path / f"room.{suffix}"
    if suffix == "npy":
        np.save(path, exact)
    else:
        np.savez_compressed(path, rgb=spheres.picture(32), depth=exact.astype(np.float32))
    room.depth_from, room.panorama_depth_file = "FILE", str(path)
    assert np.array_equal(task_of(room, running, fake).depth, exact.astype(np.float32))


def evil(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def several(path):
    with path.open("wb") as file:
        np.savez(file, first=np.zeros((4, 8)), second=np.zeros((4, 8)))


def cut_off(path):
    np.save(path, np.zeros((16, 32)))
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "is not there"),
        (lambda path: path.write_bytes(b"PK\x03\x04 what"), "cannot be read"),
        (lambda path: path.write_text("no numbers"), "cannot be read"),
        (cut_off, "cannot be read"),
        (evil, "cannot be read"),
        (several, "none named depth: first, second"),
        (lambda path: np.save(path, np.zeros((4, 8, 3))), "which is no depth"),
        (lambda path: np.save(path, np.zeros((16, 32)) - 1), "negative in places"),
        (lambda path: np.save(path, np.full((16, 32), np.nan)), "no number anywhere"),
        (lambda path: np.save(path, np.ones((16, 16))), "not of one shape"),
    ],
)
def test_files_that_are_no_depth(room, running, tmp_path, write, words):
    path = tmp_path / "depth.npy"
    write(path)
    room.depth_from, room.panorama_depth_file = "FILE", str(path)
    (job,) = generate()
    finish(running, job, "failed")
    assert words in job.error["cause"]
    assert job.error["remedy"]
    page = draw(width=2000).words()
    assert words in page


def bad_picture(settings, tmp_path, size) -> None:
    settings.panorama = image_of(tmp_path / "odd", np.zeros((size[1], size[0], 3), np.uint8))


def test_what_stands_in_the_way_is_said_before(settings, tmp_path):
    settings.panorama_aspect = "strict"
    assert "No panorama is chosen. Open a 360-degree picture" in draw(width=2000).words()
    bad_picture(settings, tmp_path, (64, 32))
    assert (
        "No depth is chosen. Open a depth picture, or choose Estimate." in draw(width=2000).words()
    )
    numbers = np.ones((16, 16), np.float32)
    settings.panorama_depth = image_of(tmp_path / "square", numbers)
    words = draw(width=2000).words()
    assert "The picture is 64 x 32 pixels and the depth 16 x 16: not of one shape." in words
    assert "uncropped" in words
    settings.depth_from = "FILE"
    assert "No depth file is chosen." in draw(width=2000).words()
    settings.depth_from = "MODEL"
    bad_picture(settings, tmp_path, (64, 40))
    words = draw(width=2000).words()
    assert "odd.png.001 is 64 x 40 pixels, not twice as wide as high." in words
    assert "Set Aspect to Pad or to Partial" in words
    with pytest.raises(RuntimeError):
        bpy.ops.fieldforge.generate()


def test_a_part_of_a_panorama(settings, running, fake, tmp_path):
    bad_picture(settings, tmp_path, (64, 40))
    settings.depth_from, settings.panorama_aspect = "MODEL", "partial"
    settings.panorama_view = np.radians(120)
    assert draw().has("prop", "panorama_view")
    task = task_of(settings, running, fake)
    assert (task.aspect, round(task.field_of_view, 3)) == ("partial", 120.0)
    assert task.depth is None
    front = bpy.context.view_layer.objects.active
    assert shown_by(front) != settings.panorama  # what the backend made of it


def test_a_part_that_is_twice_as_wide_as_high_is_not_taken_for_the_whole(room, running, fake):
    room.panorama_aspect = "partial"
    task_of(room, running, fake)
    assert shown_by(bpy.context.view_layer.objects.active) != room.panorama


def test_a_missing_file_is_named(settings, tmp_path):
    image = image_of(tmp_path / "gone", spheres.picture(64))
    (tmp_path / "gone.png").unlink()
    image.reload()
    settings.panorama, settings.depth_from = image, "MODEL"
    with pytest.raises(BadInput) as caught:
        source.picture_pixels(bpy.context, image)
    assert str(tmp_path / "gone.png") in caught.value.cause


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["panorama", "panorama_depth"])
def test_a_truncated_exr_is_never_looked_at(settings, running, tmp_path, share, name):
    """Blender 5.0 crashes when it shows some of these, and takes others for black."""
    texture = textures.texture_of(np.random.default_rng(0).random((64, 128), np.float32))
    path = tmp_path / "cut.exr"
    path.write_bytes(texture.data)
    assert not textures.is_cut_off(path)
    image = bpy.data.images.load(str(path))
    setattr(settings, name, image)
    assert getattr(settings, name) == image
    path.write_bytes(texture.data[: int(share * len(texture.data))])
    with pytest.raises(BadInput, match="is cut off"):  # damaged since it was chosen
        source.depth_pixels(bpy.context, image)
    setattr(settings, name, image)
    assert getattr(settings, name) is None
    words = draw(width=2000).words()
    assert "cut.exr was not chosen cut.exr is cut off: a part of its file is missing." in words
    assert "Save or copy it once more" in words


def test_a_huge_picture_is_sent_smaller_and_shown_whole(
    settings, running, fake, tmp_path, monkeypatch
):
    monkeypatch.setattr(source, "WIDEST_SENT", 32)
    settings.panorama = image_of(tmp_path / "huge", spheres.picture(128))
    settings.depth_from = "MODEL"
    task = task_of(settings, running, fake)
    assert task.image.shape == (16, 32, 3)
    assert tuple(settings.panorama.size) == (128, 64)
    assert shown_by(bpy.context.view_layer.objects.active) == settings.panorama


def test_the_depth_can_be_estimated(settings, running, fake, tmp_path):
    settings.panorama = image_of(tmp_path / "hall", spheres.picture(64))
    settings.depth_from = "MODEL"
    page = draw(width=900)
    assert page.has("prop", "depth_model")
    assert not page.has("prop", "meaning")
    assert task_of(settings, running, fake).depth_model == ""
    settings.depth_model = "depth-large"
    words = draw(width=900).words()
    assert "Depth large is not on this computer yet (1.3 GB)." in words
    assert draw().has("operator", "fieldforge.download_model")
    with pytest.raises(RuntimeError, match="not on this computer"):
        bpy.ops.fieldforge.generate()
    settings.depth_model = "depth-small"
    assert task_of(settings, running, fake).depth_model == "depth-small"


def test_a_stereo_pair(room, running, fake):
    room.source = "STEREO"
    room.interocular, room.stereo_layout = 0.07, "STACK"
    page = draw()
    assert page.has("prop", "interocular")
    assert not page.has("prop", "sphere_world")
    before = set(bpy.data.objects)
    task = task_of(room, running, fake)
    assert isinstance(task, protocol.PanoramaToStereo)
    assert task.interocular == 0.07
    assert set(bpy.data.objects) == before
    image = bpy.data.images["hall top-bottom"]
    values = np.rint(255 * pixels_of(image)[..., 0])
    assert (values[:16] == 40).all()
    assert (values[16:] == 200).all()
    assert "hall An Image Editor shows it: top-bottom." in draw(width=900).words()


def test_words_become_a_sphere(settings, running, fake):
    settings.source = "PANORAMA_TEXT"
    assert "There is no text." in draw(width=900).words()
    settings.panorama_prompt, settings.panorama_negative = " a sunny living room ", "people"
    settings.seed = 5
    page = draw(width=900)
    assert "50 steps, guidance 7, as its authors recommend." in page.words()
    for name in ("seed", "watch", "panorama_to_sphere", "sphere_width"):
        assert page.has("prop", name)
    for name in ("variations", "layout", "resolution"):
        assert not page.has("prop", name)
    task = task_of(settings, running, fake)
    assert isinstance(task, protocol.TextToPanorama)
    assert (task.prompt, task.negative, task.seed) == ("a sunny living room", "people", 5)
    assert (task.sphere, task.preview, task.steps) == (True, True, None)
    front = bpy.context.view_layer.objects.active
    assert front.name == "A sunny living room"
    assert front.data.fieldforge_sphere.meaning == "paper"
    assert shown_by(front).packed_file is not None
    job = running.jobs[0]
    assert (job.steps, job.guidance, job.faces) == (50, 7.0, len(front.data.polygons))


def test_words_can_become_images_instead(settings, running, fake):
    settings.source, settings.panorama_prompt = "PANORAMA_TEXT", "a hall"
    settings.panorama_to_sphere = False
    assert not draw().has("prop", "sphere_width")
    before = set(bpy.data.objects)
    assert task_of(settings, running, fake).sphere is False
    assert set(bpy.data.objects) == before
    assert settings.panorama.name == "A hall"
    assert settings.panorama_depth.name == "A hall depth"
    assert "source Panorama" in running.jobs[0].stage
    settings.source = "PANORAMA"
    task = task_of(settings, running, fake)  # and from there on to a sphere
    assert task.depth.shape == (16, 32)
    assert (task.meaning.meaning, task.meaning.radius) == ("paper", 4.0)


def forming_objects():
    return [item for item in bpy.data.objects if forming.MARK in item]


def test_what_forms_shows_as_a_picture_and_goes(settings, running, fake):
    settings.source, settings.panorama_prompt = "PANORAMA_TEXT", "a hall"
    fake.hold.clear()
    (job,) = generate()
    tick_until(running, lambda: job.state == "running")
    for size in (0.25, 1.0):
        fake.form(job.job_id, size)
        tick_until(
            running,
            lambda size=size: (
                forming_objects()
                and abs(255 * pixels_of(forming_objects()[0].data)[0, 0, 0] - 200 * size) < 1
            ),
        )
    (item,) = forming_objects()
    assert (item.type, item.empty_display_type) == ("EMPTY", "IMAGE")
    assert tuple(item.data.size) == (32, 16)
    assert item.hide_select
    assert item.is_runtime_data
    assert item.data.is_runtime_data
    bpy.context.view_layer.update()
    facing = np.array(item.matrix_world)[:3, 2]  # upright, seen from the front
    assert np.allclose(facing, [0, -1, 0], atol=1e-6)
    fake.hold.set()
    finish(running, job)
    tick_until(running, lambda: running.tick() is None)
    assert not forming_objects()
    assert not [image for image in bpy.data.images if forming.MARK in image]
    assert bpy.context.view_layer.objects.active.name == "A hall"


def test_a_cancelled_text_leaves_nothing(settings, running, fake):
    settings.source, settings.panorama_prompt = "PANORAMA_TEXT", "a hall"
    fake.hold.clear()
    (job,) = generate()
    tick_until(running, lambda: job.state == "running")
    fake.form(job.job_id)
    tick_until(running, lambda: bool(forming_objects()))
    running.cancel(job)
    tick_until(running, lambda: running.tick() is None)
    assert not forming_objects()
    assert not bpy.data.images
    assert not bpy.data.objects


def test_a_dropped_picture_is_the_panorama(settings, tmp_path):
    texture = textures.texture_of(spheres.picture(64))
    (tmp_path / "dropped.png").write_bytes(texture.data)
    assert bpy.ops.fieldforge.drop_image(filepath=str(tmp_path / "dropped.png")) == {"FINISHED"}
    assert settings.source == "PANORAMA"
    assert settings.panorama.name == "dropped.png"
    assert settings.image is None


def test_a_result_can_be_fetched_again(room, running, fake):
    """From the history, after Blender was started anew: the options of the import were kept."""
    room.sphere_world, room.sphere_ahead = True, "Y"
    (job,) = generate()
    finish(running, job)
    from fieldforge.blender_addon import history

    again = history.from_record(history.to_record(job))
    assert again.destination.panorama == job.destination.panorama
    for item in list(bpy.data.objects):
        bpy.data.objects.remove(item)
    running.jobs.append(again)
    running.fetch(again)
    finish(running, again)
    front = bpy.context.view_layer.objects.active
    assert front.rotation_euler.z == pytest.approx(np.pi / 2)
    assert not front.visible_diffuse


def test_a_job_that_came_while_something_is_edited_waits(room, running, fake, monkeypatch):
    monkeypatch.setattr(jobs, "why_not_now", lambda: "Ready. Leave this mode to place the mesh")
    (job,) = generate()
    tick_until(running, lambda: job.placed is not None)
    running.tick()
    assert job.stage.startswith("Ready")
    monkeypatch.undo()
    finish(running, job)
