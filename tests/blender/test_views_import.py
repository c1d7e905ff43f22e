"""Views from Generate to cameras with pictures and to a mesh: whole jobs with a fake backend."""

import itertools
import json

import bpy
import numpy as np
import posed
import pytest
from bpy_extras.object_utils import world_to_camera_view
from driving import finish, generate, know_models
from fake_backend import MODELS
from fieldforge.backend import protocol
from fieldforge.blender_addon import history, jobs
from fieldforge.blender_addon.views import cameras, clip, lenses
from mathutils import Matrix, Vector
from pages import draw
from scenes import cloud, select, world_points

COUNT = 6


@pytest.fixture
def settings(running, fake, monkeypatch):
    # Pictures show the seed modulo 200: a drawn one could look like the one before it.
    monkeypatch.setattr(jobs, "new_seed", itertools.count(1077).__next__)
    fake.models = [*MODELS, *posed.MODELS]
    know_models(running)
    chosen = bpy.context.scene.fieldforge
    chosen.source, chosen.prompt, chosen.ring_count = "TEXT_VIEWS", "a wooden chair", COUNT
    bpy.context.scene.render.resolution_x, bpy.context.scene.render.resolution_y = 640, 360
    return chosen


def make(running, **changes) -> bpy.types.Collection:
    """Click Generate; the collection of the views."""
    for name, value in changes.items():
        setattr(bpy.context.scene.fieldforge, name, value)
    known = list(bpy.data.collections)
    (job,) = generate()
    finish(running, job)
    (made,) = [each for each in bpy.data.collections if each not in known]
    bpy.context.view_layer.update()
    return made


def views_of(collection) -> list[bpy.types.Object]:
    return cameras.in_order(collection.objects)


def image_of(camera) -> bpy.types.Image:
    return camera.data.background_images[0].image


def pixels(image) -> np.ndarray:
    """(H, W, 4) uint8, row 0 at the top."""
    width, height = image.size
    values = np.empty(4 * width * height, np.float32)
    image.pixels.foreach_get(values)
    return np.rint(255 * values.reshape(height, width, 4)[::-1]).astype(np.uint8)


def last_task(fake) -> protocol.Task:
    return protocol.decode_task(list(fake.tasks.values())[-1])


def last_result(fake) -> protocol.ViewsResult:
    return protocol.decode_result(list(fake.results.values())[-1])


# ------------------------------------------------------------------------------------ what is made


def test_views_become_cameras_with_their_pictures(settings, running, fake):
    made = make(running, seed=7)
    assert made.name == "A wooden chair views"
    views = views_of(made)
    assert [camera.fieldforge_view.number for camera in views] == list(range(1, COUNT + 1))
    assert bpy.context.view_layer.objects.active == views[0]
    assert bpy.context.scene.camera == views[0]
    for number, camera in enumerate(views, 1):
        image = image_of(camera)
        assert image.packed_file is not None
        assert np.array_equal(pixels(image)[..., :3], posed.picture(number, 7))
        assert camera.data.show_background_images
        assert camera.data.background_images[0].alpha == 1.0
    kept = made.fieldforge_views
    assert (kept.kind, kept.model, kept.seed) == ("text-to-views", "turner", 7)
    assert (kept.steps, kept.guidance, kept.prompt) == (10, 7.5, "a wooden chair")


def test_far_cameras_with_long_lenses_see_as_far_and_are_drawn_small(settings, running, fake):
    """As those that stand in for cameras without perspective."""
    made = make(running, own_ring=True, ring_distance=2000.0, views_field=np.radians(1.0))
    for camera in views_of(made):
        data, distance = camera.data, camera.matrix_world.translation.length
        assert distance > 1000
        assert data.clip_end > 1.5 * distance
        assert data.display_size * data.lens / data.sensor_width < 2 * distance
        assert data.lens > 1000


@pytest.mark.parametrize("frame", [(640, 360), (360, 640), (512, 512)])
@pytest.mark.parametrize("place", [(0, 0, 0), (12.5, -7.25, 3)])
def test_a_point_is_on_the_pixel_that_the_backend_says(settings, running, fake, frame, place):
    """By Blender's own projection, and where it draws the background image."""
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = frame
    scene.cursor.location = place
    made = make(running, ring_start=0.3, ring_caps=True, result_size=1.0)
    result, views = last_result(fake), views_of(made)
    assert len(views) == COUNT + 2
    points = np.random.default_rng(1).uniform(-0.3, 0.3, (6, 3))
    for camera, pose, intrinsics in zip(views, result.poses, result.intrinsics, strict=True):
        fx, fy, cx, cy = intrinsics.astype(float)
        x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).T
        expected = np.stack([cx - fx * x / z, cy + fy * y / z], axis=1)
        assert np.abs(on_backdrop(camera, points + place) - expected).max() < 1e-3


def on_backdrop(camera, points: np.ndarray) -> np.ndarray:
    """(P, 2) pixels of the background image that Blender shows at (P, 3) points of the world: a
    picture that fits the frame is as wide or as high as that, whichever comes first."""
    scene, image = bpy.context.scene, image_of(camera)
    background = camera.data.background_images[0]
    assert background.frame_method == "FIT"
    assert (background.scale, tuple(background.offset)) == (1.0, (0.0, 0.0))
    frame = np.array([scene.render.resolution_x, scene.render.resolution_y], float)
    size = np.array(image.size, float)
    scale = (frame / size).min()
    seen = np.array([world_to_camera_view(scene, camera, Vector(point)) for point in points])
    off = (seen[:, :2] - 0.5) * frame * [1, -1] / scale  # from the middle of both
    return off + (size - 1) / 2


def test_the_ring_goes_where_its_empty_goes(settings, running):
    made = make(running)
    rig = made.fieldforge_views.rig
    before = np.array([np.array(camera.matrix_world) for camera in views_of(made)])
    turn = Matrix.Translation((1, 2, 3)) @ Matrix.Rotation(0.7, 4, "Z")
    rig.matrix_world = turn @ rig.matrix_world
    bpy.context.view_layer.update()
    after = np.array([np.array(camera.matrix_world) for camera in views_of(made)])
    assert np.allclose(after, np.array(turn) @ before, atol=1e-5)


def test_a_scene_s_own_cameras_give_poses_lenses_and_shifts(settings, running, fake):
    """What comes back is where the scene's cameras are, and sees what they see."""
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = 800, 500
    scene.render.pixel_aspect_x = 1.25
    own = []
    for number in range(3):
        data = bpy.data.cameras.new("Own")
        data.lens, data.sensor_width, data.shift_x = 35 + 10 * number, 30, 0.05 * number
        data.sensor_fit = ("AUTO", "VERTICAL", "HORIZONTAL")[number]
        camera = bpy.data.objects.new(f"Own {number}", data)
        scene.collection.objects.link(camera)
        angle = 2 * np.pi * number / 3
        eye = Vector((6 * np.cos(angle), 6 * np.sin(angle), 2 + number))
        turn = (-eye).to_track_quat("-Z", "Y").to_matrix().to_4x4()
        camera.matrix_world = Matrix.Translation(eye) @ turn
        own.append(camera)
    select(own[1], own[0], own[2])
    made = make(running, cameras_from="SCENE", views_pixels=256)
    task = last_task(fake)
    assert task.size == 256
    assert len(task.poses) == 3
    points = np.random.default_rng(2).uniform(-0.5, 0.5, (5, 3))
    frame = np.array([800 * 1.25, 500.0])
    middle = np.array(scene.cursor.location)
    for source, pose, lens, view in zip(
        (own[1], own[0], own[2]), task.poses, task.intrinsics, views_of(made), strict=True
    ):
        seen = np.array([world_to_camera_view(scene, source, Vector(point)) for point in points])
        expected = (seen[:, :2] - 0.5) * frame * [1, -1] * 256 / frame.max() + 255 / 2
        x, y, z = ((points - middle - pose[:3, 3]) @ pose[:3, :3]).T
        found = np.stack([lens[2] - lens[0] * x / z, lens[3] + lens[1] * y / z], axis=1)
        assert np.abs(found - expected).max() < 1e-3
        assert np.allclose(view.matrix_world, source.matrix_world, atol=1e-5)
    first = views_of(made)[0]
    again = lenses.intrinsics_of_backdrop(
        cameras.lens_of_camera(first), cameras.frame_of(scene), cameras.view_of(first).place
    )
    assert np.allclose(again, task.intrinsics[0], atol=1e-3)


def test_views_are_one_undo_step_and_leave_nothing(settings, running):
    cloud("Chair")
    bpy.ops.ed.undo_push(message="the chair")
    kinds = ("objects", "cameras", "collections", "images", "actions", "meshes")

    def state():
        scene = bpy.context.scene
        counts = [sorted(item.name for item in getattr(bpy.data, kind)) for kind in kinds]
        markers = [(marker.frame, marker.name) for marker in scene.timeline_markers]
        return counts, markers, scene.use_preview_range, scene.camera

    before = state()
    make(running)
    after = state()
    assert after != before
    bpy.ops.ed.undo()
    assert state() == before
    bpy.ops.ed.redo()
    assert state()[:3] == after[:3]


def test_views_are_in_the_saved_file(settings, running, tmp_path):
    made = make(running, seed=3, ring_start=0.4)
    name = made.name
    poses = [np.array(camera.matrix_world) for camera in views_of(made)]
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "views.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "views.blend"))
    made = bpy.data.collections[name]
    views = views_of(made)
    assert np.array_equal(poses, [np.array(camera.matrix_world) for camera in views])
    for number, camera in enumerate(views, 1):
        assert np.array_equal(pixels(image_of(camera))[..., :3], posed.picture(number, 3))
    assert made.fieldforge_views.seed == 3
    assert made.fieldforge_views.rig is not None
    assert [marker.camera for marker in bpy.context.scene.timeline_markers] == views
    assert made.fieldforge_views.sequence.source == "SEQUENCE"


def test_depth_and_alpha_of_views_are_kept_and_used(settings, running, fake, monkeypatch):
    """Also when the ring was made larger: depth is in metres of the world."""
    plain = posed.result_of

    def with_depth(task):
        result = plain(task)
        if not isinstance(result, protocol.ViewsResult):
            return result
        count, side = len(result.images), posed.SIDE
        alpha = np.full((count, side, side, 1), 255, np.uint8)
        alpha[:, :4] = 0
        depths = np.zeros((count, side, side), np.float32)
        depths[:, 4:] = 1 + np.arange(side - 4)[:, None] / 16 + np.arange(side) / 100
        from dataclasses import replace

        return replace(result, images=np.concatenate([result.images, alpha], -1), depths=depths)

    monkeypatch.setattr(posed, "result_of", with_depth)
    made = make(running)
    depths = last_result(fake).depths
    made.fieldforge_views.rig.scale = (2, 2, 2)
    bpy.ops.fieldforge.mesh_from_views()
    (job,) = generate()
    finish(running, job)
    task = last_task(fake)
    assert np.allclose(task.depths, 2 * depths, rtol=1e-6)
    assert not task.images[:, :4, :, 3].any()
    assert (task.images[:, 4:, :, 3] == 255).all()
    assert np.allclose(np.linalg.norm(task.poses[:, :3, 3], axis=1), 2 * 4 * 2 / 1.8, rtol=1e-3)


# ------------------------------------------------------------------------------------ the timeline


def test_playing_goes_from_view_to_view(settings, running):
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 10, 90
    made = make(running, views_hold=3)
    views = views_of(made)
    assert (scene.frame_preview_start, scene.frame_preview_end) == (10, 10 + 3 * COUNT - 1)
    assert scene.use_preview_range
    assert (scene.frame_start, scene.frame_end) == (10, 90)
    for frame in range(10, 10 + 3 * COUNT):
        scene.frame_set(frame)
        assert scene.camera == views[(frame - 10) // 3]
    made = make(running, views_hold=2)  # after what the timeline does already
    scene.frame_set(10 + 3 * COUNT - 1)
    assert scene.camera == views[-1]
    scene.frame_set(10 + 3 * COUNT)
    assert scene.camera == views_of(made)[0]


@pytest.mark.parametrize("how", ["object", "marker"])
def test_views_come_after_a_film_of_somebody_s_own(settings, running, how):
    """Its camera stays in all of its frames."""
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, 60
    own = bpy.data.objects.new("Own camera", bpy.data.cameras.new("Own camera"))
    scene.collection.objects.link(own)
    scene.camera = own
    if how == "object":
        own.keyframe_insert("location", frame=1)
    else:
        scene.timeline_markers.new("Cut", frame=1).camera = own
    first = make(running, views_hold=3)
    assert scene.frame_preview_start == 61
    scene.frame_set(62)
    assert scene.camera == views_of(first)[0]
    second = make(running, views_hold=2)
    scene.frame_set(61 + 3 * COUNT)
    assert scene.camera == views_of(second)[0]
    if how == "marker":
        scene.frame_set(40)
        assert scene.camera == own
    assert not [marker for marker in scene.timeline_markers if 1 < marker.frame <= 60]


def test_the_moving_camera_passes_every_view_and_shows_its_picture(settings, running, tmp_path):
    scene = bpy.context.scene
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film.blend"))
    made = make(running, views_hold=4, seed=5)
    (moving,) = [item for item in made.objects if item.name.endswith("turntable")]
    views = views_of(made)
    assert moving not in views
    distances, user = [], moving.data.background_images[0].image_user
    for frame in range(1, 4 * COUNT + 1):
        scene.frame_set(frame)
        bpy.context.view_layer.update()
        distances.append(moving.matrix_world.translation.length)
        number = (frame - 1) // 4
        assert frame - user.frame_start + 1 + user.frame_offset == number + 1  # the file's number
        assert user.frame_start <= frame < user.frame_start + user.frame_duration
        if (frame - 1) % 4 == 0:
            there = np.array(views[number].matrix_world)
            assert np.allclose(np.array(moving.matrix_world), there, atol=1e-4)
    assert np.allclose(distances, distances[0], rtol=1e-4)  # a circle, not its chords
    sequence = moving.data.background_images[0].image
    assert sequence == made.fieldforge_views.sequence
    files = clip.sequence_files(sequence)
    assert len(files) == COUNT
    assert files[0].parent.parent == tmp_path / "views"
    for number, file in enumerate(files, 1):
        image = bpy.data.images.load(str(file))
        assert np.array_equal(pixels(image)[..., :3], posed.picture(number, 5))
        bpy.data.images.remove(image)


@pytest.mark.parametrize("sequence", [True, False])
def test_the_moving_camera_has_the_lens_of_every_view(settings, running, fake, sequence):
    """A picture stands where the camera that it belongs to shows it."""
    scene = bpy.context.scene
    own = []
    for number in range(3):
        data = bpy.data.cameras.new("Own")
        data.lens, data.shift_x = 35 + 20 * number, 0.05 * number
        camera = bpy.data.objects.new(f"Own {number}", data)
        scene.collection.objects.link(camera)
        eye = Vector((6 * np.cos(2 * number), 6 * np.sin(2 * number), 2))
        turn = (-eye).to_track_quat("-Z", "Y").to_matrix().to_4x4()
        camera.matrix_world = Matrix.Translation(eye) @ turn
        own.append(camera)
    select(*own)
    made = make(
        running, cameras_from="SCENE", views_pixels=256, views_hold=3, views_sequence=sequence
    )
    (moving,) = [item for item in made.objects if item.name.endswith("turntable")]
    points = [Vector(point) for point in np.random.default_rng(3).uniform(-0.5, 0.5, (4, 3))]
    for number, view in enumerate(views_of(made)):
        for frame in range(3):  # until the next picture comes
            scene.frame_set(scene.frame_preview_start + 3 * number + frame)
            found = cameras.lens_of_camera(moving)
            expected = cameras.lens_of_camera(view)
            assert found.focal == pytest.approx(expected.focal, rel=1e-5)
        scene.frame_set(scene.frame_preview_start + 3 * number)
        for point in points:
            seen = world_to_camera_view(scene, moving, point)
            assert np.allclose(seen, world_to_camera_view(scene, view, point), atol=1e-4)


def test_one_lens_for_all_views_is_not_animated(settings, running):
    made = make(running, views_sequence=False)
    (moving,) = [item for item in made.objects if item.name.endswith("turntable")]
    assert moving.data.animation_data is None


def test_files_of_earlier_views_are_not_touched(settings, running, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "two.blend"))
    first = make(running, seed=1).fieldforge_views.sequence
    before = [file.read_bytes() for file in clip.sequence_files(first)]
    second = make(running, seed=2).fieldforge_views.sequence
    assert first.filepath != second.filepath
    assert [file.read_bytes() for file in clip.sequence_files(first)] == before


def test_views_made_anew_find_their_collection_by_another_name(settings, running, fake):
    made = make(running, seed=4)
    select(views_of(made)[2])
    assert bpy.ops.fieldforge.reroll_views(which="ONE") == {"FINISHED"}
    made.name = "Called otherwise"
    finish(running, running.jobs[0])
    assert [each for each in bpy.data.collections if each.fieldforge_views.kind] == [made]
    assert running.jobs[0].state == "done"
    assert made.fieldforge_views.seed != 4


def strips_of(scene) -> list:
    editor = scene.sequence_editor
    strips = getattr(editor, "strips", None) or getattr(editor, "sequences", None)
    return list(strips or ())


def test_the_views_go_into_the_sequencer_on_demand(settings, running):
    made = make(running)
    scene = bpy.context.scene
    assert not strips_of(scene)  # they would take over the renders of the scene
    assert bpy.ops.fieldforge.views_to_sequencer() == {"FINISHED"}
    (strip,) = strips_of(scene)
    assert strip.type == "IMAGE"
    assert [element.filename for element in strip.elements] == [
        f"{number:04}.png" for number in range(1, COUNT + 1)
    ]
    assert made.name in strip.name


def test_without_sequence_and_turntable_there_are_just_cameras(settings, running):
    made = make(running, views_sequence=False, views_clip=False)
    assert len(made.objects) == COUNT + 1
    assert not bpy.context.scene.timeline_markers
    assert not bpy.context.scene.use_preview_range
    assert made.fieldforge_views.sequence is None
    assert all(image.source == "FILE" for image in bpy.data.images if image.users)


# ---------------------------------------------------------------------------------------- once more


def test_one_view_is_made_anew_beside_all_others(settings, running, fake):
    made = make(running, seed=4)
    views = views_of(made)
    old = [pixels(image_of(camera)) for camera in views]
    select(views[2])
    assert bpy.ops.fieldforge.reroll_views(which="ONE") == {"FINISHED"}
    finish(running, running.jobs[0])
    task = last_task(fake)
    assert isinstance(task, protocol.ImageToViews)
    assert task.prompt == "a wooden chair"
    assert len(task.images) == COUNT - 1
    order = [0, 1, 3, 4, 5, 2]
    for image, index in zip(task.images, order, strict=False):
        assert np.array_equal(image[..., :3], old[index][..., :3])
    first = protocol.decode_result(next(iter(fake.results.values())))
    assert np.allclose(task.poses, first.poses[order], atol=1e-5)
    assert np.allclose(task.intrinsics, first.intrinsics[order], rtol=1e-5, atol=1e-3)
    for index, camera in enumerate(views):
        if index != 2:
            assert np.array_equal(pixels(image_of(camera)), old[index])
    new = pixels(image_of(views[2]))[0, 0, :2]
    assert new.tolist() == [10 + COUNT, task.seed % 200]  # the last of the views that came
    assert task.seed == 1077
    assert len([item for item in bpy.data.collections if item.fieldforge_views.kind]) == 1
    assert len([image for image in bpy.data.images if image.name.startswith(views[2].name)]) == 1
    files = clip.sequence_files(made.fieldforge_views.sequence)
    images = [bpy.data.images.load(str(file)) for file in files]
    shown = [pixels(image)[0, 0, :2].tolist() for image in images]
    assert shown == [pixels(image_of(camera))[0, 0, :2].tolist() for camera in views]


def test_what_is_kept_stays_and_undo_brings_the_rest_back(settings, running, fake):
    made = make(running, seed=4)
    views = views_of(made)
    views[0].fieldforge_view.keep = views[3].fieldforge_view.keep = True
    select(views[0])
    bpy.ops.ed.undo_push(message="keep")
    old = [pixels(image_of(camera)) for camera in views]
    sequence = made.fieldforge_views.sequence.filepath
    assert bpy.ops.fieldforge.reroll_views(which="REST") == {"FINISHED"}
    finish(running, running.jobs[0])
    changed = [
        not np.array_equal(pixels(image_of(camera)), before)
        for camera, before in zip(views, old, strict=True)
    ]
    assert changed == [False, True, True, False, True, True]
    name = made.name
    bpy.ops.ed.undo()
    made = bpy.data.collections[name]
    for camera, before in zip(views_of(made), old, strict=True):
        assert np.array_equal(pixels(image_of(camera)), before)
    assert made.fieldforge_views.sequence.filepath == sequence


def test_all_views_are_the_same_task_with_another_seed(settings, running, fake):
    made = make(running, seed=4)
    select(views_of(made)[1])
    assert bpy.ops.fieldforge.reroll_views(which="ALL") == {"FINISHED"}
    finish(running, running.jobs[0])
    first, second = (protocol.decode_task(body) for body in fake.tasks.values())
    assert isinstance(second, protocol.TextToViews)
    assert (second.prompt, second.views) == (first.prompt, first.views)
    assert second.seed != first.seed
    seeds = [pixels(image_of(camera))[0, 0, 1] for camera in views_of(made)]
    assert seeds == [second.seed % 200] * COUNT
    assert made.fieldforge_views.seed == second.seed
    assert len(bpy.context.scene.timeline_markers) == COUNT


BUNDLED = {
    "id": "fieldforge-views",
    "title": "Fieldforge views",
    "tasks": ["image-to-views"],
    "samples": True,
    "ready": True,
    "view_size": 64,
}
MVDREAM = {
    "id": "mvdream-rgb4",
    "title": "MVDream",
    "tasks": ["text-to-views"],
    "samples": True,
    "ready": True,
    "view_size": 256,
}


def made_by_mvdream(running, fake, *others, **told) -> bpy.types.Collection:
    """Views of 256 pixels of a model of words; then these `others` are listed beside it."""
    made = make(running, seed=4, views_pixels=256)
    kept = made.fieldforge_views
    kept.model, kept.steps, kept.guidance = "mvdream-rgb4", 50, 10.0
    for name, value in told.items():
        setattr(kept, name, value)
    fake.models = [*MODELS, MVDREAM, *others]
    know_models(running)
    select(views_of(made)[2])
    return made


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "No model here makes views of 256 pixels beside others: make all anew"),
        ({"view_kind": "depth", "size": 64}, "Views of depth are made all together: make all anew"),
    ],
)
def test_what_no_model_can_make_beside_others_is_said_before(settings, running, fake, told, words):
    """The bundled model paints 64 pixels and no depth."""
    from fieldforge.blender_addon.views.panel import FIELDFORGE_PT_views as Panel

    made_by_mvdream(running, fake, BUNDLED, **told)
    views_before = len(fake.tasks)
    page = draw(Panel)
    assert page.has("grey", "fieldforge.reroll_views")
    assert words in page.words()
    for which in ("ONE", "REST"):
        views_of(bpy.context.scene.camera.users_collection[0])[0].fieldforge_view.keep = True
        assert bpy.ops.fieldforge.reroll_views(which=which) == {"CANCELLED"}
    assert len(fake.tasks) == views_before
    assert bpy.ops.fieldforge.reroll_views(which="ALL") == {"FINISHED"}
    finish(running, running.jobs[0])
    assert running.jobs[0].state == "done"


def test_another_model_makes_a_view_anew_in_its_own_way_and_is_named(settings, running, fake):
    """Of those that are large enough, with the steps that are best for it."""
    larger = BUNDLED | {"id": "larger", "view_size": 128}
    made = made_by_mvdream(running, fake, BUNDLED, larger)
    assert bpy.ops.fieldforge.reroll_views(which="ONE") == {"FINISHED"}
    finish(running, running.jobs[0])
    task = last_task(fake)
    assert (task.model, task.size, task.steps, task.guidance) == ("larger", 256, None, None)
    kept = made.fieldforge_views
    assert (kept.model, kept.steps, kept.guidance) == ("turner", 10, 7.5)  # as the backend says


def test_models_that_keep_to_their_own_cameras_make_no_view_beside_others(settings, running, fake):
    from fieldforge.blender_addon.views import rerolls

    six = BUNDLED | {"id": "six", "view_size": 512, "family": "mv-adapter"}
    made = made_by_mvdream(running, fake, six)
    before = len(fake.tasks)
    assert rerolls.none_beside(made).startswith("No model here makes views of 256 pixels")
    assert bpy.ops.fieldforge.reroll_views(which="ONE") == {"CANCELLED"}
    assert len(fake.tasks) == before


@pytest.mark.parametrize(("which", "order"), [("ALL", range(COUNT)), ("ONE", [1, 2, 3, 4, 5, 0])])
def test_views_whose_cameras_were_deleted_meanwhile_come_where_they_were(
    settings, running, fake, which, order
):
    bpy.context.scene.cursor.location = (5, 6, 7)
    made = make(running, seed=4, result_size=0.9, views_one_by_one=True)
    extent = made.fieldforge_views.extent
    before = [np.array(camera.matrix_world) for camera in views_of(made)]
    select(views_of(made)[0])
    assert bpy.ops.fieldforge.reroll_views(which=which) == {"FINISHED"}
    for item in list(made.objects):
        bpy.data.objects.remove(item)
    bpy.data.collections.remove(made)
    finish(running, running.jobs[0])
    bpy.context.view_layer.update()
    (again,) = [each for each in bpy.data.collections if each.fieldforge_views.kind]
    after = [np.array(camera.matrix_world) for camera in views_of(again)]
    assert np.allclose(after, np.array(before)[list(order)], atol=1e-5)
    kept = again.fieldforge_views
    assert (kept.prompt, kept.one_by_one) == ("a wooden chair", True)
    assert kept.extent == pytest.approx(extent)
    assert extent != 2.0
    assert kept.rig.empty_display_size == pytest.approx(0.15 * extent)


def test_a_given_view_is_never_made_anew(settings, running, fake):
    from fieldforge.blender_addon.views.panel import FIELDFORGE_PT_views as Panel

    image = bpy.data.images.new("Chair", 16, 16)
    image.pixels.foreach_set(np.full(16 * 16 * 4, 1, np.float32))
    made = make(running, source="IMAGE_VIEWS", image=image)
    views = views_of(made)
    assert [camera.fieldforge_view.given for camera in views] == [True] + [False] * (COUNT - 1)
    given = pixels(image_of(views[0]))
    select(views[1])
    assert not draw(Panel).has("grey", "fieldforge.reroll_views")
    select(views[0])
    assert draw(Panel).has("grey", "fieldforge.reroll_views")
    assert bpy.ops.fieldforge.reroll_views(which="ONE") == {"CANCELLED"}
    assert bpy.ops.fieldforge.reroll_views(which="REST") == {"FINISHED"}
    finish(running, running.jobs[0])
    assert len(last_task(fake).images) == 1
    assert np.array_equal(pixels(image_of(views[0])), given)


def test_the_panel_offers_what_can_be_done_with_views(settings, running):
    from fieldforge.blender_addon.views.panel import FIELDFORGE_PT_views as Panel

    made = make(running, seed=9)
    views = views_of(made)
    page = draw(Panel)
    assert f"{COUNT} views, turner, seed 9" in page.words()
    for name in ("reroll_views", "mesh_from_views", "export_transforms", "views_to_sequencer"):
        assert page.has("operator", f"fieldforge.{name}")
    assert page.has("prop", "keep")
    select(made.fieldforge_views.rig)
    assert Panel.poll(bpy.context)
    assert not draw(Panel).has("prop", "keep")
    select(views[1])
    assert bpy.ops.fieldforge.look_through(step=1) == {"FINISHED"}
    assert bpy.context.scene.camera == bpy.context.view_layer.objects.active == views[2]
    select(cloud("Chair"))
    assert not Panel.poll(bpy.context)


# ------------------------------------------------------------------------------------- to a mesh


def test_a_mesh_of_views_lies_among_them_with_its_texture(settings, running, fake):
    bpy.context.scene.cursor.location = (30.0, -20.0, 4.0)
    made = make(running, ring_caps=True, seed=2)
    assert bpy.ops.fieldforge.mesh_from_views() == {"FINISHED"}
    known = set(bpy.data.objects)
    (job,) = generate()
    finish(running, job)
    task = last_task(fake)
    assert isinstance(task, protocol.ViewsToScene)
    views = views_of(made)
    assert len(task.images) == len(views) == COUNT + 2
    for image, camera, pose, lens in zip(
        task.images, views, task.poses, task.intrinsics, strict=True
    ):
        assert np.array_equal(image[..., :3], pixels(image_of(camera))[..., :3])
        there = np.array(camera.matrix_world)
        assert np.allclose(pose[:3, :3], there[:3, :3], atol=1e-5)
        assert np.allclose(pose[:3, 3], there[:3, 3] - [30, -20, 4], atol=1e-4)
        assert np.allclose(lens, last_lens(fake), rtol=1e-5)
    (mesh,) = set(bpy.data.objects) - known
    assert mesh.name == "A wooden chair mesh"
    assert np.allclose(world_points(mesh), np.add(posed.CORNERS, [30, -20, 4]), atol=1e-4)
    expected = posed.scene_of(task)
    uv = np.zeros(2 * len(expected.uv), np.float32)
    mesh.data.uv_layers.active.uv.foreach_get("vector", uv)
    assert np.array_equal(uv.reshape(-1, 2), expected.uv)
    (material,) = mesh.data.materials
    (node,) = [node for node in material.node_tree.nodes if node.type == "TEX_IMAGE"]
    assert node.image.packed_file is not None
    assert np.array_equal(pixels(node.image)[..., :3], expected.texture)
    (link,) = node.outputs["Color"].links
    assert link.to_socket.name == "Base Color"
    assert len(mesh.data.color_attributes) == 1


def test_what_the_backend_noticed_is_told_below_generate(settings, running, fake):
    make(running)
    bpy.ops.fieldforge.mesh_from_views()
    (job,) = generate()
    finish(running, job)
    words = "View 2 shows nothing and was left out."
    assert job.notes == [words]
    assert words in draw().words()
    kept = history.from_record(json.loads(json.dumps(history.to_record(job))))
    assert kept.notes == [words]


def last_lens(fake) -> np.ndarray:
    return protocol.decode_result(next(iter(fake.results.values()))).intrinsics[0]


def test_without_a_texture_the_vertices_have_the_colours(settings, running, fake):
    make(running)
    bpy.ops.fieldforge.mesh_from_views()
    settings.scene_texture = False
    (job,) = generate()
    finish(running, job)
    assert not last_task(fake).texture
    mesh = bpy.context.view_layer.objects.active
    assert mesh.type == "MESH"
    assert mesh.data.materials[0].name == "Fieldforge Colors"
    assert not mesh.data.uv_layers


def test_generating_again_takes_the_same_cameras(settings, running, fake):
    """The mesh is selected now, not they."""
    made = make(running)
    select(*views_of(made)[:4])
    settings.source = "SCENE_VIEWS"
    for _ in range(2):
        (job,) = generate()
        finish(running, job)
        assert bpy.context.view_layer.objects.active.type == "MESH"
        assert len(last_task(fake).images) == 4
