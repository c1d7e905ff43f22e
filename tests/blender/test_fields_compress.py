"""An object becomes a field, and the field the object again: whole jobs with a fake backend."""

import base64
import time

import bpy
import moving_shapes
import numpy as np
import pytest
from driving import finish, know_models
from fake_backend import MODELS
from fieldforge.backend import field_files, moving_meshes, protocol
from fieldforge.backend.errors import BadInput
from fieldforge.blender_addon import history
from fieldforge.blender_addon.fields import kept, motion, recording
from fieldforge.blender_addon.fields import panel as fields_panel
from fieldforge.blender_addon.fields.source import sampled_frames
from mathutils import Matrix
from pages import draw
from played import new_root, roots, shown
from scenes import cube, select, tick_until, world_points


@pytest.fixture
def settings(running, fake):
    fake.models = [*MODELS, *moving_shapes.MODELS]
    know_models(running)
    return bpy.context.scene.fieldforge


def read_all() -> None:
    """Blender's timer, by hand, until the object has been read."""
    while recording.current() is not None:
        recording.current().tick()


def compress(running, item, **changes) -> bpy.types.Object:
    """Click Compress; the root of what was made."""
    for name, value in changes.items():
        setattr(bpy.context.scene.fieldforge, name, value)
    select(item)
    known = roots()
    assert bpy.ops.fieldforge.compress_field() == {"FINISHED"}
    read_all()
    finish(running, running.jobs[0])
    return new_root(*known)


def bring_back(running, root, **changes) -> None:
    for name, value in changes.items():
        setattr(bpy.context.scene.fieldforge, name, value)
    select(*motion.parts_of(root)[:1] or [root])
    assert bpy.ops.fieldforge.bring_back() == {"FINISHED"}
    finish(running, running.jobs[0])


def last_task(fake) -> protocol.Task:
    return protocol.decode_task(list(fake.tasks.values())[-1])


def frames_of(task) -> list:
    return moving_meshes.split(task.vertices, task.faces, task.vertex_counts, task.face_counts)


def closed_points(item) -> set:
    """Where an object's vertices are in the world, in no order."""
    return {tuple(point) for point in np.round(world_points(item), 4).tolist()}


def untouched(item) -> tuple:
    """What may not change of an original. Until Blender 5, what the extension registers is a custom
    property from the moment that it is looked at."""
    own = [name for name in item.keys() if not name.startswith("fieldforge")]  # noqa: SIM118
    parts = item.modifiers[:], item.parent, item.hide_get(), item.data.name
    return closed_points(item), own, parts


def growing(name="Box", height=2.0) -> bpy.types.Object:
    """A cube that a shape key makes taller between frames 1 and 9."""
    item = cube(name)
    item.shape_key_add(name="Basis")
    block = item.shape_key_add(name="Tall")
    for corner in block.data:
        if corner.co.z > 0:
            corner.co.z += height
    for frame, value in ((1, 0.0), (9, 1.0)):
        block.value = value
        block.keyframe_insert("value", frame=frame)
    for curve in _curves(item.data.shape_keys):
        for point in curve.keyframe_points:
            point.interpolation = "LINEAR"
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, 9
    scene.frame_set(1)
    return item


def _curves(owner):
    from fieldforge.blender_addon.keyframes import curves_of

    return curves_of(owner)


# ------------------------------------------------------------------------------------- what is sent


def test_a_still_comes_back_where_it_is_under_any_transform(settings, running, fake):
    item = cube("Chest", size=(1, 2, 3))
    turn = Matrix.Rotation(0.7, 4, "Y") @ Matrix.Rotation(0.4, 4, "X")
    item.matrix_world = Matrix.Translation((5, -3, 800)) @ turn @ Matrix.Diagonal((2, 0.5, -1, 1))
    before = closed_points(item)
    root = compress(running, item)
    task = last_task(fake)
    assert isinstance(task, protocol.MeshToField)
    assert task.frame_count == 1
    assert np.abs(task.vertices).max() < 5  # its own middle is the origin
    (part,) = motion.parts_of(root)
    found = world_points(part)
    want = np.array(sorted(before))
    order = np.lexsort(np.round(found, 3).T[::-1])
    assert np.abs(found[order] - want).max() < 2e-3
    assert root.name == "Chest field"
    assert root.fieldforge_motion.way == "STILL"


@pytest.mark.parametrize("mirrored", [False, True])
def test_faces_look_outwards_whatever_the_scale(settings, running, fake, mirrored):
    item = cube("Chest")
    item.scale = (1, 1, -1 if mirrored else 1)
    root = compress(running, item)
    for vertices, faces in (
        *frames_of(last_task(fake)),
        _arrays(motion.parts_of(root)[0]),
    ):
        a, b, c = (vertices[faces[:, k]].astype(float) for k in range(3))
        assert np.einsum("ij,ij->i", np.cross(b, c), a).sum() / 6 == pytest.approx(1, abs=1e-4)


def _arrays(item):
    triangles = np.array([tuple(each.vertices) for each in item.data.polygons])
    if np.linalg.det(np.array(item.matrix_world)[:3, :3]) < 0:
        triangles = triangles[:, ::-1]
    points = world_points(item)
    return points - points.mean(axis=0), triangles


def test_a_sheared_object_comes_back_sheared(settings, running):
    """Which location, rotation and scale of the root cannot hold."""
    parent, item = cube("Parent"), cube("Chest")
    parent.scale = (3, 1, 1)
    item.parent = parent
    item.rotation_euler = (0, 0, 0.6)
    bpy.context.view_layer.update()
    before = closed_points(item)
    root = compress(running, item)
    assert closed_points(motion.parts_of(root)[0]) == before


def test_modifiers_count(settings, running, fake):
    item = cube("Chest")
    item.modifiers.new("Split", "SUBSURF").levels = 2
    compress(running, item)
    assert len(last_task(fake).vertices) == 98


def test_what_it_does_is_read_frame_by_frame(settings, running, fake):
    """Shape keys, the object's own way, and topology that changes: each frame as it is shown."""
    item = growing()
    item.keyframe_insert("location", frame=1)
    item.location.x = 4.0
    item.keyframe_insert("location", frame=9)
    for curve in _curves(item):
        for point in curve.keyframe_points:
            point.interpolation = "LINEAR"
    array = item.modifiers.new("More", "ARRAY")
    array.use_relative_offset, array.use_constant_offset = False, True
    array.constant_offset_displace = (0, 0, 9)
    for frame, count in ((1, 1), (5, 1), (6, 2)):
        array.count = count
        array.keyframe_insert("count", frame=frame)
    scene = bpy.context.scene
    scene.render.fps = 24
    scene.frame_set(3)
    compress(running, item, field_from="FRAMES", field_samples=5)
    task = last_task(fake)
    assert task.frame_count == 5
    assert task.fps == 12.0
    assert task.loop is False
    frames = frames_of(task)
    first = frames[0][0].min(axis=0)
    for number, (vertices, faces) in enumerate(frames):
        copies = 1 if number < 3 else 2  # keys in frames 1, 3, 5, 7, 9; two of it from 6 on
        assert (len(vertices), len(faces)) == (8 * copies, 12 * copies)
        size = np.ptp(vertices[:8], axis=0)
        assert np.abs(size - [1, 1, 1 + number / 2]).max() < 1e-5
        assert np.abs(vertices.min(axis=0) - first - [number, 0, 0]).max() < 1e-5
    assert (scene.frame_current, scene.frame_subframe) == (3, 0.0)


def test_armatures_count(settings, running, fake):
    rig = bpy.data.armatures.new("Rig")
    bones = bpy.data.objects.new("Rig", rig)
    bpy.context.scene.collection.objects.link(bones)
    select(bones)
    bpy.ops.object.mode_set(mode="EDIT")
    bone = rig.edit_bones.new("Bone")
    bone.head, bone.tail = (0, 0, 0), (0, 0, 1)
    bpy.ops.object.mode_set(mode="OBJECT")
    item = cube("Chest")
    item.vertex_groups.new(name="Bone").add(range(8), 1.0, "REPLACE")
    item.modifiers.new("Armature", "ARMATURE").object = bones
    pose = bones.pose.bones["Bone"]
    for frame, up in ((1, 0.0), (3, 2.0)):
        pose.location.y = up
        pose.keyframe_insert("location", frame=frame)
    bpy.context.scene.frame_start, bpy.context.scene.frame_end = 1, 3
    compress(running, item, field_from="FRAMES", field_samples=2)
    (low, _), (high, _) = frames_of(last_task(fake))
    assert np.abs(high - low - [0, 0, 2]).max() < 1e-5


def test_moments_are_spread_evenly_and_a_loop_leaves_out_its_end(settings):
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, 24
    assert np.allclose(sampled_frames(scene, 16, False), np.linspace(1, 24, 16))
    assert np.allclose(sampled_frames(scene, 16, True), 1 + np.arange(16) * 1.5)
    scene.frame_end = 4
    assert sampled_frames(scene, 16, False) == [1, 2, 3, 4]
    scene.frame_end = 1
    assert sampled_frames(scene, 16, True) == [1]


def test_reading_takes_a_frame_at_a_time_and_can_be_stopped(settings, running, fake):
    item = growing()
    scene = bpy.context.scene
    scene.frame_set(4)
    settings.field_from, settings.field_samples = "FRAMES", 9
    select(item)
    jobs = len(running.jobs)
    assert bpy.ops.fieldforge.compress_field() == {"FINISHED"}
    for number in (1, 2, 3):
        recording.current().tick()
        assert len(recording.current().read) == number
        assert scene.frame_current == number
    page = draw(fields_panel.FIELDFORGE_PT_compress)
    assert "3 of 9 frames" in page.words()
    assert not bpy.ops.fieldforge.compress_field.poll()
    bpy.ops.fieldforge.cancel_reading()
    assert recording.current() is None
    assert scene.frame_current == 4
    assert len(running.jobs) == jobs
    assert not bpy.app.timers.is_registered(recording.Recording.tick)


def test_whoever_moves_the_timeline_meanwhile_stays_there(settings, running):
    item = growing()
    settings.field_from, settings.field_samples = "FRAMES", 3
    select(item)
    bpy.ops.fieldforge.compress_field()
    recording.current().tick()
    bpy.context.scene.frame_set(7)
    read_all()
    assert bpy.context.scene.frame_current == 7
    finish(running, running.jobs[0])


def test_an_object_that_is_deleted_meanwhile_is_told_of(settings, running):
    item = growing()
    settings.field_from = "FRAMES"
    select(item)
    bpy.ops.fieldforge.compress_field()
    recording.current().tick()
    bpy.data.objects.remove(item)
    read_all()
    assert "Box is not there any more" in running.notices[0].cause
    assert bpy.context.scene.frame_current == 1


def test_another_file_ends_the_reading(settings, running):
    item = growing()
    settings.field_from = "FRAMES"
    select(item)
    bpy.ops.fieldforge.compress_field()
    recording.current().tick()
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    other = cube("Box")  # of the same name
    bpy.context.scene.frame_set(6)
    read_all()
    assert "Box is not there any more" in running.notices[0].cause
    assert bpy.context.scene.frame_current == 6
    assert other.name == "Box"


def without_faces(item, *hidden: tuple[int, bool]) -> None:
    """Take all faces of an object away from a frame on, or show them again."""
    mask = item.modifiers.new("Mask", "MASK")
    mask.vertex_group = item.vertex_groups.new(name="None").name
    for frame, shows in hidden:
        mask.show_viewport = shows
        mask.keyframe_insert("show_viewport", frame=frame)


def test_what_has_faces_in_no_frame_is_told(settings, running):
    item = growing()
    without_faces(item, (1, True))
    settings.field_from, settings.field_samples = "FRAMES", 9
    select(item)
    bpy.ops.fieldforge.compress_field()
    read_all()
    assert running.notices[0].cause == "Box has no faces in frames 1 to 9."
    assert bpy.context.scene.frame_current == 1
    settings.field_from = "OBJECT"
    assert bpy.ops.fieldforge.compress_field() == {"CANCELLED"}
    assert running.notices[0].cause == "Box has no faces in frame 1."


def test_what_grows_may_begin_without_faces(settings, running, fake):
    item = growing()
    without_faces(item, (1, True), (3, False))
    item.location = (5, 6, 7)
    compress(running, item, field_from="FRAMES", field_samples=5)
    (vertices, faces), second, *_ = frames_of(last_task(fake))
    assert (len(vertices), len(faces)) == (0, 0)
    assert np.allclose(second[0].mean(axis=0), 0, atol=1e-5)  # around where it is seen first


def growing_from_nothing(last: float = 1.0) -> bpy.types.Object:
    """A cube that is 0 in size in frame 1 and `last` in frame 5."""
    item = cube("Box", location=(5, 0, 0))
    for frame, size in ((1, 0.0), (5, last)):
        item.scale = (size,) * 3
        item.keyframe_insert("scale", frame=frame)
    for curve in _curves(item):
        for point in curve.keyframe_points:
            point.interpolation = "LINEAR"
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, 5
    scene.frame_set(5)
    return item


def test_what_grows_out_of_nothing_is_placed_by_its_first_frame_with_a_size(
    settings, running, fake
):
    item = growing_from_nothing()
    root = compress(running, item, field_from="FRAMES", field_samples=5)
    sizes = [np.ptp(vertices, axis=0).max() for vertices, _ in frames_of(last_task(fake))]
    assert np.allclose(sizes, [0, 0.25, 0.5, 0.75, 1])
    assert np.allclose(root.matrix_world.translation, (5, 0, 0))
    assert np.allclose(root.scale, 0.25)


def test_what_has_no_size_in_any_frame_is_told(settings, running, fake):
    settings.field_from, settings.field_samples = "FRAMES", 5
    select(growing_from_nothing(last=0.0))
    bpy.ops.fieldforge.compress_field()
    read_all()
    finish(running, running.jobs[0], "failed")
    assert "flattened in each of the 5 frames" in running.notices[0].cause
    assert "frame range" in running.notices[0].remedy


def test_a_few_frames_of_a_long_range_play_in_its_time(settings, running, fake):
    item, scene = growing(), bpy.context.scene
    scene.frame_end, scene.render.fps = 40_001, 24
    root = compress(running, item, field_from="FRAMES", field_samples=5)
    task = last_task(fake)
    task.validate()
    assert task.fps == 0.01  # slower is not told
    assert root.fieldforge_motion.speed == 10_000


def test_reading_ends_where_frames_are_too_large_together(settings, running, monkeypatch):
    monkeypatch.setattr(moving_meshes, "MAX_FRAME_VERTICES", 20)  # a cube has 8
    settings.field_from, settings.field_samples = "FRAMES", 9
    select(growing())
    bpy.ops.fieldforge.compress_field()
    reading = recording.current()
    read_all()
    assert len(reading.read) == 3
    assert "24 vertices; 20" in running.notices[0].cause
    assert bpy.context.scene.frame_current == 1


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda item: select(), "Select a mesh object"),
        (lambda item: item.hide_set(True), "Select a mesh object"),
        (lambda item: bpy.ops.object.mode_set(mode="EDIT"), "Leave this mode first"),
        (lambda item: item.data.clear_geometry(), "Chest has no faces"),
    ],
    ids=("nothing", "hidden", "editing", "empty"),
)
def test_the_button_says_why_it_cannot_be_clicked(settings, prepare, reason):
    item = cube("Chest")
    assert bpy.ops.fieldforge.compress_field.poll()
    prepare(item)
    assert not bpy.ops.fieldforge.compress_field.poll()
    from fieldforge.blender_addon.fields.operators import why_not_compressed

    assert why_not_compressed(bpy.context) == reason
    if bpy.context.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")


def test_the_panel_says_what_is_going_to_be_read(settings):
    panel = fields_panel.FIELDFORGE_PT_compress
    select()
    assert not panel.poll(bpy.context)
    cube("Chest")
    assert panel.poll(bpy.context)
    assert not fields_panel.FIELDFORGE_PT_field.poll(bpy.context)
    page = draw(panel, 600)
    assert "Chest, as it is in this frame" in page.words()
    assert not page.has("prop", "field_samples")
    settings.field_from, bpy.context.scene.frame_end = "FRAMES", 10
    page = draw(panel, 600)
    assert "Chest, frames 1 to 10, 10 of them" in page.words()
    for name in ("field_samples", "field_loop", "field_effort", "field_half", "motion_way"):
        assert page.has("prop", name), name


def test_a_result_is_offered_no_second_compression(settings, running):
    root = compress(running, cube("Chest"))
    for item in motion.with_parts(root):
        select(item)
        assert fields_panel.FIELDFORGE_PT_field.poll(bpy.context)
        assert not fields_panel.FIELDFORGE_PT_compress.poll(bpy.context)


def test_something_that_is_no_mesh_is_told_what_to_do(settings):
    data = bpy.data.curves.new("Line", "CURVE")
    item = bpy.data.objects.new("Line", data)
    bpy.context.scene.collection.objects.link(item)
    select(item)
    from fieldforge.blender_addon.fields.operators import why_not_compressed

    assert "convert it first" in why_not_compressed(bpy.context)


# ---------------------------------------------------------------------------------- what comes back


def test_the_card_tells_the_size_the_iou_and_the_source(settings, running, fake):
    item = cube("Chest")
    root = compress(running, item, field_half=True, field_effort="best", field_resolution="64")
    task = last_task(fake)
    assert (task.effort, task.half, task.resolution) == ("best", True, 64)
    size = kept.size_of(root) / 1024
    words = draw(fields_panel.FIELDFORGE_PT_field, 900).words()
    assert f"Chest field: {size:.1f} KB as a field" in words
    assert "Chest: 446 KB as a mesh" in words
    assert "IoU with the original 0.988" in words
    assert running.jobs[0].notes == ["It was open."]
    assert not item.hide_get()


def test_the_original_is_untouched_and_one_click_hides_it(settings, running):
    item = growing()
    before = untouched(item)
    compress(running, item, field_from="FRAMES")
    assert untouched(item) == before
    page = draw(fields_panel.FIELDFORGE_PT_field)
    assert page.has("operator", "fieldforge.show_original")
    for hidden in (True, False, True):
        bpy.ops.fieldforge.show_original()
        assert (item.hide_get(), item.hide_render) == (hidden, hidden)
    bpy.data.objects.remove(item)
    assert not bpy.ops.fieldforge.show_original.poll()
    assert "Box is not there" in draw(fields_panel.FIELDFORGE_PT_field, 600).words()


def test_it_is_hidden_when_that_was_asked(settings, running):
    item = cube("Chest")
    compress(running, item, field_hide=True)
    assert (item.hide_get(), item.hide_render) == (True, True)
    bpy.ops.fieldforge.show_original()
    assert (item.hide_get(), item.hide_render) == (False, False)


def test_an_original_that_was_not_rendered_is_not_when_it_is_shown_again(settings, running):
    item = cube("Chest")
    item.hide_render = True
    compress(running, item, field_hide=True)
    for hidden in (False, True, False):
        bpy.ops.fieldforge.show_original()
        assert (item.hide_get(), item.hide_render) == (hidden, True)


def test_two_fields_of_one_original_show_it_as_it_was(settings, running):
    """Whichever of them hid it."""
    item = cube("Chest")
    first = compress(running, item)
    second = compress(running, item, field_hide=True)
    select(first)
    bpy.ops.fieldforge.show_original()
    assert (item.hide_get(), item.hide_render) == (False, False)
    item.hide_render = True  # by the artist
    for root, hidden in ((second, True), (first, False)):
        select(root)
        bpy.ops.fieldforge.show_original()
        assert (item.hide_get(), item.hide_render) == (hidden, True)


@pytest.mark.parametrize("way", ["KEYS", "MESHES"])
def test_a_motion_plays_beside_the_original(settings, running, way):
    """In the same frames, wherever they were read."""
    item = growing()
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 3, 9
    item.location = (1, 2, 3)
    root = compress(running, item, field_from="FRAMES", field_samples=4, motion_way=way)
    own = root.fieldforge_motion
    assert (own.way, own.frames, own.start) == (way, 4, 3.0)
    assert own.speed == pytest.approx(2.0)
    assert not scene.use_preview_range
    for frame in (3, 5, 7, 9):
        points = shown(root, frame) @ np.array(root.matrix_world)[:3, :3].T
        points += np.array(root.matrix_world)[:3, 3]
        depsgraph = bpy.context.evaluated_depsgraph_get()
        want = world_points(item.evaluated_get(depsgraph))
        assert np.abs(np.sort(points, axis=0) - np.sort(want, axis=0)).max() < 1e-5


def test_the_field_lies_in_the_object_as_its_file_would(settings, running, fake):
    root = compress(running, growing(), field_from="FRAMES", field_samples=4)
    sent = protocol.decode_result(list(fake.results.values())[-1]).neural
    body = base64.b64decode(root.fieldforge_motion.field)
    assert len(body) == kept.size_of(root)
    neural, name = field_files.from_bytes(body)
    assert name == "Box field"
    assert np.array_equal(neural.weights, sent.weights)
    assert (neural.frame_count, neural.fps, neural.start) == (4, sent.fps, sent.start)


def test_a_saved_file_brings_back_what_it_kept(settings, running, fake, tmp_path):
    item = cube("Chest", size=(1, 2, 3))
    item.location = (4, 5, 6)
    root = compress(running, item)
    weights = kept.kept(root).weights.copy()
    name, path = root.name, str(tmp_path / "saved.blend")
    select(root)
    bpy.ops.fieldforge.keep_field_only()
    assert not motion.parts_of(root)
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    root = bpy.data.objects[name]
    assert np.array_equal(kept.kept(root).weights, weights)
    assert root.fieldforge_motion.iou == pytest.approx(0.9876)
    bring_back(running, root, field_resolution="128")
    task = last_task(fake)
    assert isinstance(task, protocol.FieldToMesh)
    assert np.array_equal(task.weights, weights[None])
    assert task.resolution == 128
    result = protocol.decode_result(list(fake.results.values())[-1])
    (part,) = motion.parts_of(root)
    assert np.abs(shown(root) - result.meshes()[0][0]).max() < 1e-6
    assert part.parent == root


def test_a_field_stands_where_its_object_stood(settings, running, fake):
    """What leads from the field's own frame to the root's space is kept with it."""
    item = cube("Chest")
    item.matrix_world = Matrix.Translation((9, 8, 7)) @ Matrix.Diagonal((2, 3, 4, 1))
    root = compress(running, item)
    sent = protocol.decode_result(list(fake.results.values())[-1]).neural.to_source
    stands = np.array(root.matrix_world, float) @ kept.kept(root).to_source
    world = np.eye(4)
    world[:3, 3] = (9, 8, 7)  # of the task: world axes around the middle of the object
    assert np.abs(stands - world @ sent).max() < 1e-5


@pytest.mark.parametrize("way", ["KEYS", "MESHES"])
def test_bringing_back_replaces_the_meshes_and_one_undo_returns_them(settings, running, fake, way):
    root = compress(running, growing(), field_from="FRAMES", field_samples=4, motion_way="MESHES")
    root.fieldforge_motion.speed = 3.0
    bpy.ops.ed.undo_push(message="Before")
    before = shown(root, 4)
    names = sorted(mesh.name for mesh in bpy.data.meshes)
    actions = len(bpy.data.actions)
    bring_back(running, root, motion_way=way, field_resolution="256")
    own = root.fieldforge_motion
    assert (own.way, own.frames, own.speed) == (way, 4, 3.0)
    result = protocol.decode_result(list(fake.results.values())[-1])
    for number, (vertices, _) in enumerate(result.meshes()):
        assert np.abs(shown(root, own.start + 3 * number) - vertices).max() < 1e-6
    assert len(bpy.data.meshes) == (2 if way == "KEYS" else 5)  # with the original's
    assert len(bpy.data.actions) == (2 if way == "KEYS" else 5)
    name = root.name
    bpy.ops.ed.undo()
    root = bpy.data.objects[name]
    assert sorted(mesh.name for mesh in bpy.data.meshes) == names
    assert len(bpy.data.actions) == actions
    assert np.array_equal(shown(root, 4), before)


def test_a_renamed_root_still_gets_its_meshes(settings, running, fake):
    root = compress(running, cube("Chest"))
    fake.hold.clear()
    select(root)
    bpy.ops.fieldforge.bring_back()
    tick_until(running, lambda: running.jobs[0].state == "running")
    assert not bpy.ops.fieldforge.bring_back.poll()
    root.name = "Something else"
    fake.hold.set()
    finish(running, running.jobs[0])
    assert new_root() == root
    assert len(motion.parts_of(root)) == 1


def begin_to_bring_back(running, fake, root):
    """Click Bring Back, and have the backend wait; the job."""
    fake.hold.clear()
    select(root)
    assert bpy.ops.fieldforge.bring_back() == {"FINISHED"}
    tick_until(running, lambda: running.jobs[0].state == "running")
    return running.jobs[0]


def test_after_loading_a_file_meshes_go_by_the_name_of_the_root(settings, running, fake, tmp_path):
    """The id that the root had may be another's now."""
    root, other = compress(running, cube("Chest")), compress(running, cube("Crate"))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "saved.blend"))
    before = [motion.parts_of(each)[0].data.session_uid for each in (root, other)]
    job = begin_to_bring_back(running, fake, root)
    job.destination.fields["into_uid"] = other.session_uid
    running.file_loaded()  # this file again
    fake.hold.set()
    finish(running, job)
    after = [motion.parts_of(each)[0].data.session_uid for each in (root, other)]
    assert (after[0] != before[0], after[1]) == (True, before[1])


def test_an_id_of_something_without_a_field_is_not_believed(settings, running, fake):
    item = cube("Chest")
    root = compress(running, item)
    (part,) = motion.parts_of(root)
    before = part.data.session_uid
    job = begin_to_bring_back(running, fake, root)
    job.destination.fields["into_uid"] = item.session_uid
    fake.hold.set()
    finish(running, job)
    assert roots() == [root]
    assert part.data.session_uid != before


def test_a_copy_brings_back_its_own_field(settings, running, fake):
    root = compress(running, cube("Chest"))
    copy = root.copy()
    bpy.context.scene.collection.objects.link(copy)
    copy.location = (10, 0, 0)
    select(copy)
    bring_back(running, copy)
    assert len(motion.parts_of(copy)) == 1
    assert len(motion.parts_of(root)) == 1


def test_a_field_that_is_damaged_is_told_in_words(settings, running):
    root = compress(running, cube("Chest"))
    root.fieldforge_motion.field = "bm90aGluZyBhdCBhbGw="
    select(root)
    assert bpy.ops.fieldforge.bring_back() == {"CANCELLED"}
    assert "Chest field" in running.notices[0].cause
    with pytest.raises(BadInput):
        kept.kept(root)
    root.fieldforge_motion.field = "no base64"
    with pytest.raises(BadInput):
        kept.kept(root)


def test_an_error_of_the_backend_leaves_the_scene_as_it_is(settings, running, fake):
    fake.fail = BadInput("All of the object lies in a plane.", "Give it a thickness.")
    select(cube("Chest"))
    objects = len(bpy.data.objects)
    bpy.ops.fieldforge.compress_field()
    finish(running, running.jobs[0], "failed")
    assert running.notices[0].remedy == "Give it a thickness."
    assert len(bpy.data.objects) == objects


def test_one_undo_removes_the_field(settings, running):
    cube("Chest")
    bpy.ops.ed.undo_push(message="Before")
    before = sorted(item.name for item in bpy.data.objects), len(bpy.data.meshes)
    compress(running, bpy.data.objects["Chest"])
    bpy.ops.ed.undo()
    assert (sorted(item.name for item in bpy.data.objects), len(bpy.data.meshes)) == before


def test_the_history_keeps_where_it_goes(settings, running):
    compress(running, cube("Chest"))
    job = running.jobs[0]
    again = history.from_record(history.to_record(job))
    assert again.destination.fields == job.destination.fields
    assert again.destination.fields["original"] == "Chest"
    job.destination.fields |= {"into": "Box field", "into_uid": 7}
    again = history.from_record(history.to_record(job))
    assert again.destination.fields["into"] == "Box field"
    assert "into_uid" not in again.destination.fields  # means nothing in another session
    old = history.to_record(job)
    del old["destination"]["fields"]  # of an earlier version
    assert history.from_record(old).destination.fields == {}


def test_a_million_triangles_are_read_by_whole_arrays(settings):
    side = 708
    grid = np.arange(side * side).reshape(side, side)
    a, b, c, d = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
    faces = np.stack([a, b, c, a, c, d], -1).reshape(-1, 3)
    mesh = bpy.data.meshes.new("Large")
    mesh.vertices.add(side * side)
    mesh.loops.add(faces.size)
    mesh.polygons.add(len(faces))
    x, y = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    mesh.vertices.foreach_set("co", np.stack([x, y, x * 0], -1).astype(np.float32).ravel())
    mesh.loops.foreach_set("vertex_index", faces.astype(np.int32).ravel())
    mesh.polygons.foreach_set("loop_start", np.arange(0, faces.size, 3, dtype=np.int32))
    mesh.update()
    item = bpy.data.objects.new("Large", mesh)
    bpy.context.scene.collection.objects.link(item)
    recording.read(bpy.context, item)
    begun = time.process_time()
    frame = recording.read(bpy.context, item)
    assert time.process_time() - begun < 0.5
    assert np.array_equal(frame.triangles, faces)
