"""Images of the file -> the picture that is sent."""

import time
from pathlib import Path

import bpy
import numpy as np
import pytest
from fieldforge.backend import errors, protocol
from fieldforge.blender_addon import capture, compose, pictures, sources
from scenes import place_object

CHOICES = compose.Choices("", 256, seed=3)
MODEL = {"id": "", "samples": True}


@pytest.fixture
def settings(extension):
    bpy.context.scene.fieldforge.source = "IMAGE"
    return bpy.context.scene.fieldforge


def new_image(values, name="Chair", is_float=False, **options):
    """values: (H, W, 4) in 0..1 as Blender's buffer shall hold them, row 0 at the top."""
    height, width = values.shape[:2]
    image = bpy.data.images.new(name, width, height, alpha=True, float_buffer=is_float, **options)
    image.pixels.foreach_set(np.ascontiguousarray(values[::-1], np.float32).ravel())
    image.update()
    bpy.context.scene.fieldforge.image = image
    return image


def composed():
    task, placement = compose.compose(sources.capture(bpy.context, MODEL), CHOICES)
    return task, placement


def refusal() -> errors.FieldforgeError:
    with pytest.raises(errors.FieldforgeError) as caught:
        composed()
    return caught.value


def test_bytes_arrive_as_they_are_top_row_first(settings):
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 256, (5, 7, 4)).astype(np.uint8)
    wanted[..., 3] = np.maximum(wanted[..., 3], 128)
    image = new_image(wanted / 255)
    assert sources.facts(bpy.context, MODEL).text == "Chair: 7 x 5 pixels"
    task, _ = composed()
    assert isinstance(task, protocol.ImageToMesh)
    assert (task.name, task.seed, task.background) == ("Chair", 3, "auto")
    assert np.array_equal(task.image, wanted)
    image.alpha_mode = "NONE"
    task, _ = composed()
    assert np.array_equal(task.image, wanted[..., :3])


def test_linear_colours_of_a_float_image_become_srgb(settings):
    srgb = np.arange(0, 256, 1, np.uint8).reshape(16, 16)
    value = srgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    alpha = np.full_like(linear, 0.5)
    pixels = np.stack([linear * 0.5, linear * 0.5, 0 * linear, alpha], axis=-1)  # premultiplied
    image = new_image(pixels, is_float=True)
    task, _ = composed()
    assert np.array_equal(task.image[..., 0], srgb)
    assert np.array_equal(task.image[..., 1], srgb)
    assert (task.image[..., 3] == 128).all()
    image.alpha_mode = "CHANNEL_PACKED"  # now alpha is no part of the colours
    task, _ = composed()
    half = np.rint(255 * compose.srgb_from_linear(linear / 2))
    assert np.abs(task.image[..., 0] - half).max() <= 1
    new_image(np.stack([linear / 2, linear, linear, alpha * 2], -1), is_float=True, is_data=True)
    task, _ = composed()
    assert np.abs(task.image[..., 0] - np.rint(255 * linear / 2)).max() <= 1


def test_values_that_no_screen_shows_are_clipped(settings):
    pixels = np.ones((4, 4, 4), np.float32)
    pixels[0, 0, :3], pixels[1, 1, :3], pixels[2, 2, :3] = np.nan, np.inf, -5
    new_image(pixels, is_float=True)
    image = composed()[0].image
    assert image[0, 0].tolist() == [0, 0, 0, 255]
    assert image[1, 1].tolist() == [255, 255, 255, 255]
    assert image[2, 2].tolist() == [0, 0, 0, 255]


def test_a_large_image_is_sent_small_and_its_hidden_colours_stay_hidden(settings):
    """Red and transparent green in turns: their mean is half transparent red."""
    pixels = np.zeros((2500, 1300, 4), np.float32)
    pixels[:, 0::2] = [1, 0, 0, 1]
    pixels[:, 1::2] = [0, 1, 0, 0]
    pixels[:9, :] = [0, 0, 1, 1]
    new_image(pixels)
    image = composed()[0].image
    assert image.shape == (833, 433, 4)
    assert image[0, 0].tolist() == [0, 0, 255, 255]
    rest = image[3:]
    assert (rest[..., :3] == [255, 0, 0]).all()
    assert abs(float(rest[..., 3].mean()) - 127.5) < 1


def test_an_image_of_4k_is_read_and_made_small_in_a_moment(settings):
    image = new_image(np.ones((2160, 4096, 4), np.float32))
    len(image.pixels)
    begun = time.perf_counter()
    captured = sources.capture(bpy.context, MODEL)
    read = time.perf_counter() - begun
    task, _ = compose.compose(captured, CHOICES)
    assert task.image.shape == (540, 1024, 4)
    assert read < 1.0  # 0.1 s on an idle core; the rest happens in a thread
    assert time.perf_counter() - begun < 6.0


@pytest.fixture
def saved(settings, tmp_path):
    """A file with a picture of 6 x 4 pixels."""
    image = new_image(np.full((4, 6, 4), 0.5, np.float32), "Drawn")
    image.filepath_raw, image.file_format = str(tmp_path / "saved.png"), "PNG"
    image.save()
    bpy.data.images.remove(image)
    return tmp_path / "saved.png"


def test_a_file_is_read_when_it_is_needed(settings, saved):
    settings.image = bpy.data.images.load(str(saved))
    assert sources.facts(bpy.context, MODEL) == capture.Facts("")
    assert not settings.image.has_data  # looking at the panel reads no file
    task, _ = composed()
    assert task.image.shape == (4, 6, 4)
    assert task.name == "saved"


def test_a_packed_image_needs_no_file(settings, saved):
    image = settings.image = bpy.data.images.load(str(saved))
    image.pack()
    saved.unlink()
    image.reload()
    assert composed()[0].image.shape == (4, 6, 4)


def test_the_first_frame_of_a_sequence_is_taken(settings, saved):
    settings.image = bpy.data.images.load(str(saved))
    settings.image.source = "SEQUENCE"
    assert sources.facts(bpy.context, MODEL).text.endswith(", its first frame")
    assert composed()[0].image.shape == (4, 6, 4)
    assert len(bpy.data.images) == 1


@pytest.fixture
def rendering(settings):
    """A scene of one colour that renders at once."""
    scene = bpy.context.scene
    scene.camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.world = bpy.data.worlds.new("World")
    if scene.world.node_tree is None:  # before Blender 5.0
        scene.world.use_nodes = True
    background = next(n for n in scene.world.node_tree.nodes if n.type == "BACKGROUND")
    background.inputs["Color"].default_value = (0.5, 0.02, 0.0, 1.0)
    scene.view_settings.view_transform = "Standard"
    scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 1, False
    scene.render.resolution_x, scene.render.resolution_y = 24, 16
    scene.render.image_settings.file_format = "OPEN_EXR"
    return scene


def test_the_last_render_is_read_as_it_is_shown(rendering):
    """What Blender keeps of a render it only gives away as a file."""
    bpy.ops.render.render()
    settings = rendering.fieldforge
    settings.image = bpy.data.images["Render Result"]
    before = bpy.data.images[:]
    assert sources.facts(bpy.context, MODEL).text == "The last render"
    task, _ = composed()
    assert task.image.shape == (16, 24, 4)
    assert np.abs(task.image.reshape(-1, 4).astype(int) - [188, 39, 0, 255]).max() <= 1
    assert bpy.data.images[:] == before
    assert rendering.render.image_settings.file_format == "OPEN_EXR"


def test_what_a_viewport_draws_gets_straight_alpha():
    """Its antialiased edges have alpha in their linear colours; a viewport's picture shows that."""
    rng = np.random.default_rng(2)
    colors = rng.uniform(0.2, 1, (6, 8, 3))
    alpha = rng.uniform(0.2, 1, (6, 8, 1))
    alpha[0], alpha[1] = 0, 1
    drawn = compose.srgb_from_linear(pictures.linear_from_srgb(colors) * alpha)
    drawn = np.rint(255 * np.concatenate([drawn, alpha], axis=2)).astype(np.uint8)
    captured = pictures.ImageCapture("Viewport", drawn[::-1], np.eye(4), drawn=True)
    image = compose.compose(captured, CHOICES)[0].image
    assert np.array_equal(image[..., 3], drawn[..., 3])
    assert np.array_equal(image[1], drawn[1])
    assert np.abs(image[1:, :, :3] - 255 * colors[1:]).max() < 6
    views = np.stack([drawn, drawn])
    task, _ = compose.compose(pictures.ViewPictures("Chair", views, np.eye(4), (3, 6)), CHOICES)
    assert task.cameras == (3, 6)
    assert np.abs(task.images[:, 1:, :, :3] - 255 * colors[1:]).max() < 6


def test_the_result_goes_to_the_3d_cursor(settings):
    new_image(np.ones((4, 4, 4)))
    settings.result_size = 3.6
    bpy.context.scene.cursor.location = (1, 2, 3)
    _, placement = composed()
    assert placement.matrix_world[:3, 3].tolist() == [1, 2, 3]
    assert np.allclose(placement.matrix_world[:3, :3], 2 * np.eye(3))  # the models fill 1.8
    assert np.array_equal(placement.linear, np.eye(3))


def test_a_reference_image_of_the_viewport_can_be_selected_instead(settings):
    image = new_image(np.ones((4, 6, 4)), "Reference")
    settings.image = None
    item = place_object(None, "Reference")
    item.empty_display_type, item.data = "IMAGE", image
    assert sources.facts(bpy.context, MODEL).text == "Reference: 6 x 4 pixels"
    assert composed()[0].image.shape == (4, 6, 4)
    new_image(np.ones((3, 3, 4)), "Field")
    assert composed()[0].image.shape == (3, 3, 4)  # what is chosen in the field comes first
    settings.image = None
    item.select_set(False)
    assert "No image is chosen" in refusal().cause


# ------------------------------------------------------------------------------------------- errors


def test_no_image(settings):
    assert "No image is chosen" in refusal().cause
    assert "drop one onto the viewport" in refusal().remedy


def test_a_file_that_is_gone(settings, saved):
    settings.image = bpy.data.images.load(str(saved))
    saved.unlink()
    error = refusal()
    assert str(saved) in error.cause
    assert "Open the picture once more" in error.remedy


def test_a_file_beside_an_unsaved_blender_file(settings, saved):
    image = settings.image = bpy.data.images.load(str(saved))
    image.filepath_raw = "//nowhere.png"
    image.buffers_free()
    assert "which is not saved" in refusal().cause


def test_a_file_that_is_no_picture(settings, saved):
    settings.image = bpy.data.images.load(str(saved))
    Path(saved).write_bytes(b"no picture at all")
    assert "cannot be read as a picture" in refusal().cause


def test_a_film(settings, saved):
    settings.image = bpy.data.images.load(str(saved))
    settings.image.source = "MOVIE"
    assert "is a film" in refusal().cause


def test_a_fully_transparent_image(settings):
    new_image(np.zeros((8, 8, 4)))
    assert "fully transparent" in refusal().cause


def test_an_image_of_one_pixel(settings):
    new_image(np.ones((1, 1, 4)))
    assert "1 x 1" in refusal().cause


# --------------------------------------------------------------------------------------------- drop


def test_a_dropped_file_becomes_the_source(settings, saved):
    settings.source = "POINTS"
    options = {"directory": str(saved.parent), "files": [{"name": saved.name}]}
    assert bpy.ops.fieldforge.drop_image(**options) == {"FINISHED"}
    assert settings.source == "IMAGE"
    assert composed()[0].image.shape == (4, 6, 4)
    settings.source = "SKETCH"
    assert bpy.ops.fieldforge.drop_image(**options) == {"FINISHED"}
    assert (settings.source, settings.sketch_from) == ("SKETCH", "IMAGE")
    task, _ = composed()
    assert isinstance(task, protocol.SketchToMesh)
    assert task.image.shape == (4, 6, 4)
    assert task.strokes is None
    assert len(bpy.data.images) == 1


def test_a_dropped_file_that_is_gone_changes_nothing(settings, tmp_path):
    settings.source = "POINTS"
    with pytest.raises(RuntimeError, match="cannot be opened as a picture"):
        bpy.ops.fieldforge.drop_image(filepath=str(tmp_path / "none.png"))
    assert settings.source == "POINTS"


def test_pictures_can_be_dropped_onto_the_viewport_only(settings):
    from types import SimpleNamespace

    from fieldforge.blender_addon.sources.drop import FIELDFORGE_FH_image as handler

    assert ".png" in handler.bl_file_extensions.split(";")
    assert handler.poll_drop(SimpleNamespace(area=SimpleNamespace(type="VIEW_3D")))
    assert not handler.poll_drop(SimpleNamespace(area=SimpleNamespace(type="IMAGE_EDITOR")))
    assert not handler.poll_drop(SimpleNamespace(area=None))
