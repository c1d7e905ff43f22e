"""Moving shapes in files of other programs, read back by Blender."""

import json
import struct
from pathlib import Path

import bpy
import moving_shapes
import numpy as np
import pytest
from driving import know_models
from fake_backend import MODELS
from fieldforge.backend import field_files
from fieldforge.blender_addon.fields import exporting, kept, motion
from fieldforge.blender_addon.fields import panel as fields_panel
from moving_shapes import FRAMES, corners
from pages import draw
from played import shown
from scenes import cube, select
from test_fields_source import make, state

UP = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # from files with Y up


@pytest.fixture
def settings(running, fake):
    fake.models = [*MODELS, *moving_shapes.MODELS]
    know_models(running)
    chosen = bpy.context.scene.fieldforge
    chosen.source, chosen.seed, chosen.result_size = "ANIMATION", 7, 1.8
    bpy.context.scene.render.fps = 24
    return chosen


def write(root, tmp_path, kind: str) -> str:
    """Export by the button; nothing else changes."""
    select(motion.parts_of(root)[0])
    scene = bpy.context.scene
    scene.frame_set(4)
    before, showed = state(), shown(root)
    path = str(tmp_path / f"motion{exporting.FORMATS[kind][0]}")
    assert bpy.ops.fieldforge.export_motion(filepath=path, kind=kind) == {"FINISHED"}
    assert bpy.context.window.scene == scene
    assert list(bpy.data.scenes) == [scene]
    assert (scene.frame_current, scene.frame_start, scene.frame_end) == (4, 1, 250)
    assert state() == before
    assert np.array_equal(shown(root), showed)
    return path


def sorted_points(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(np.round(points, 4).T)]


def off(points: np.ndarray, want: np.ndarray) -> float:
    """The largest distance between two sets of points, in no order."""
    far = np.linalg.norm(points[:, None] - want[None], axis=2)
    return float(max(far.min(axis=0).max(), far.min(axis=1).max()))


def read_glb(path: str) -> tuple[dict, bytes]:
    data = Path(path).read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + length]), data[20 + length + 8 :]


def accessor(document: dict, body: bytes, index: int) -> np.ndarray:
    found = document["accessors"][index]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[found["type"]]
    kind = {5126: "<f4", 5123: "<u2", 5125: "<u4"}[found["componentType"]]
    values = np.zeros(found["count"] * width, kind)
    if "bufferView" in found:
        view = document["bufferViews"][found["bufferView"]]
        begin = view.get("byteOffset", 0) + found.get("byteOffset", 0)
        values = np.frombuffer(body, kind, found["count"] * width, begin).copy()
    if "sparse" in found:
        sparse = found["sparse"]
        where, what = sparse["indices"], sparse["values"]
        begin = document["bufferViews"][where["bufferView"]].get("byteOffset", 0)
        kind_at = {5121: "u1", 5123: "<u2", 5125: "<u4"}[where["componentType"]]
        at = np.frombuffer(body, kind_at, sparse["count"], begin)
        begin = document["bufferViews"][what["bufferView"]].get("byteOffset", 0)
        new = np.frombuffer(body, kind, sparse["count"] * width, begin)
        values.reshape(-1, width)[at] = new.reshape(-1, width)
    return values.reshape(-1, width)


def test_glb_has_morph_targets_that_play(settings, running, tmp_path):
    root = make(running, motion_way="KEYS")
    document, body = read_glb(write(root, tmp_path, "GLB"))
    (mesh,) = document["meshes"]
    (part,) = mesh["primitives"]
    basis = accessor(document, body, part["attributes"]["POSITION"])
    targets = [accessor(document, body, each["POSITION"]) for each in part["targets"]]
    assert len(targets) == FRAMES - 1
    assert off(basis @ UP.T, corners(0, 7)) < 1e-6
    (animation,) = document["animations"]
    (channel,) = [each for each in animation["channels"] if each["target"]["path"] == "weights"]
    sampler = animation["samplers"][channel["sampler"]]
    times = accessor(document, body, sampler["input"])[:, 0]
    weights = accessor(document, body, sampler["output"]).reshape(len(times), FRAMES - 1)
    begin = times[0]
    assert times[-1] - begin == pytest.approx(2 * FRAMES / 24, abs=1e-4)
    assert np.abs(weights[-1] - weights[0]).max() < 1e-6  # so that it closes
    for number in range(FRAMES):
        at = np.abs(times - begin - 2 * number / 24).argmin()
        assert times[at] - begin == pytest.approx(2 * number / 24, abs=1e-4)
        there = basis + np.einsum("k,kij->ij", weights[at], np.stack(targets))
        assert off(there @ UP.T, corners(number, 7)) < 1e-5


def test_glb_of_a_mesh_per_frame_shows_one_at_a_time(settings, running, tmp_path):
    root = make(running, motion_way="MESHES")
    document, body = read_glb(write(root, tmp_path, "GLB"))
    assert len(document["meshes"]) == FRAMES
    (animation,) = document["animations"]
    found = {}
    for channel in animation["channels"]:
        if channel["target"]["path"] != "scale":
            continue
        sampler = animation["samplers"][channel["sampler"]]
        assert sampler["interpolation"] == "STEP"
        times = accessor(document, body, sampler["input"])[:, 0]
        found[channel["target"]["node"]] = (times, accessor(document, body, sampler["output"]))
    assert len(found) == FRAMES
    begin = min(times[0] for times, _ in found.values())
    assert max(times[-1] for times, _ in found.values()) - begin == pytest.approx(2 * FRAMES / 24)
    assert all(np.allclose(values[-1], values[0]) for _, values in found.values())
    for number in range(FRAMES):
        moment = begin + (2 * number + 0.5) / 24
        scales = {
            node: values[max(0, np.searchsorted(times, moment) - 1)]
            for node, (times, values) in found.items()
        }
        (shown_node,) = [node for node, scale in scales.items() if scale.min() > 0.5]
        mesh = document["meshes"][document["nodes"][shown_node]["mesh"]]
        points = accessor(document, body, mesh["primitives"][0]["attributes"]["POSITION"])
        assert off(points @ UP.T, corners(number, 7)) < 1e-6


@pytest.mark.parametrize("way", ["KEYS", "MESHES"])
@pytest.mark.parametrize("kind", ["ABC", "USD"])
@pytest.mark.usefixtures("settings")  # by name: pytest cannot show what loading a file frees
def test_caches_play_the_same_frames(running, tmp_path, kind, way):
    path = write(make(running, motion_way=way), tmp_path, kind)
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    scene = bpy.context.scene
    scene.render.fps = 24
    if kind == "ABC":
        bpy.ops.wm.alembic_import(filepath=path, as_background_job=False, set_frame_range=False)
    else:
        bpy.ops.wm.usd_import(filepath=path, set_frame_range=False)
    for number in range(FRAMES + (kind == "USD")):  # which closes the loop
        scene.frame_set(1 + 2 * number)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        points = []
        for item in bpy.data.objects:
            if item.type == "MESH":
                own = item.evaluated_get(depsgraph)
                places = np.empty(3 * len(own.data.vertices), np.float32)
                own.data.vertices.foreach_get("co", places)
                matrix = np.array(own.matrix_world)
                if np.abs(matrix[:3, :3]).max() < 1e-3:  # hidden: without a size
                    continue
                points.append(places.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3])
        assert len(points) == 1
        assert off(np.concatenate(points), corners(number % FRAMES, 7)) < 1e-4, number


@pytest.mark.parametrize(
    ("start", "speed", "loop", "frames"),
    [
        (1, 2, True, {"GLB": (1, 11), "USD": (1, 11), "ABC": (1, 10)}),
        (1, 2, False, {"GLB": (1, 9), "USD": (1, 9), "ABC": (1, 9)}),
        (3.5, 2, True, {"GLB": (3, 13), "USD": (3, 13), "ABC": (3, 13)}),
        (1, 0.05, True, {"GLB": (1, 2), "USD": (1, 2), "ABC": (1, 1)}),
    ],
)
def test_a_loop_is_written_up_to_where_it_begins_anew(
    settings, running, tmp_path, monkeypatch, start, speed, loop, frames
):
    """But for Alembic, which is played frame by frame."""
    root = make(running)
    own = root.fieldforge_motion
    own.start, own.speed, own.loop = start, speed, loop
    found = {}

    def written(filepath, **_):
        scene = bpy.context.window.scene
        found[kind] = scene.frame_start, scene.frame_end
        raise RuntimeError("seen")

    monkeypatch.setattr(exporting, "operator_of", lambda kind: written)
    for kind in frames:
        with pytest.raises(RuntimeError, match="seen"):
            exporting.export(bpy.context, root, tmp_path / "motion", kind)
    assert found == frames


def test_parts_without_an_animation_are_written_too(settings, running, tmp_path):
    root = make(running, motion_way="MESHES")
    *_, first, second = motion.parts_of(root)  # hidden in the frame that shows
    first.animation_data_clear()
    second.animation_data.action = None
    for part in (first, second):
        part.hide_viewport = part.hide_render = True
    write(root, tmp_path, "GLB")
    assert first.animation_data is None
    assert second.animation_data.action is None
    assert first.hide_viewport
    assert tuple(first.scale) == (1, 1, 1)


def test_what_the_artist_keyed_of_parts_is_written_too(settings, running, tmp_path):
    """Beside the sizes that stand for what is shown."""
    root = make(running, motion_way="MESHES")
    part = motion.parts_of(root)[0]  # shown in the first two frames, and in the one of the repeat
    for frame, along, size in ((1, 0.0, 1.0), (2, 0.5, 1.5), (11, 5.0, 3.0)):
        part.location.x, part.scale = along, (size,) * 3
        part.keyframe_insert("location", index=0, frame=frame)
        part.keyframe_insert("scale", frame=frame)
    part.rotation_mode, part.rotation_euler.z, part.delta_scale = "XYZ", 1.2, (2, 2, 2)
    action = part.animation_data.action
    document, body = read_glb(write(root, tmp_path, "GLB"))
    assert part.animation_data.action == action
    assert tuple(part.delta_scale) == (2, 2, 2)
    (node,) = [k for k, one in enumerate(document["nodes"]) if one["name"] == part.name]
    (animation,) = document["animations"]
    found = {}
    for channel in animation["channels"]:
        if channel["target"]["node"] == node:
            sampler = animation["samplers"][channel["sampler"]]
            values = accessor(document, body, sampler["output"])
            times = accessor(document, body, sampler["input"])[:, 0]
            for frame in (1, 2, 5, 11):
                at = np.abs(times - times[0] - (frame - 1) / 24).argmin()
                found[channel["target"]["path"], frame] = values[at]
    for channel in animation["channels"]:  # it stays turned as it is while it is not shown
        if (channel["target"]["node"], channel["target"]["path"]) == (node, "rotation"):
            turned = accessor(document, body, animation["samplers"][channel["sampler"]]["output"])
            np.testing.assert_allclose(np.abs(turned[:, 1]), np.sin(0.6), atol=1e-3)
    for frame, along, size in ((1, 0, 2), (2, 0.5, 3), (5, None, 0), (11, 5, 6)):
        np.testing.assert_allclose(found["scale", frame], [size] * 3, atol=1e-4)
        if along is not None:
            assert found["translation", frame][0] == pytest.approx(along, abs=1e-4)


def test_a_still_is_written_without_a_motion(settings, running, tmp_path):
    from test_fields_compress import compress

    root = compress(running, cube("Chest"))
    select(motion.parts_of(root)[0])
    path = str(tmp_path / "still.glb")
    assert bpy.ops.fieldforge.export_motion(filepath=path, kind="GLB") == {"FINISHED"}
    document, _ = read_glb(path)
    assert "animations" not in document
    assert len(document["meshes"]) == 1


def test_what_this_blender_cannot_write_is_told(settings, running, tmp_path, monkeypatch):
    root = make(running)
    plain = exporting.operator_of
    monkeypatch.setattr(
        exporting, "operator_of", lambda kind: None if kind == "USD" else plain(kind)
    )
    page = draw(fields_panel.FIELDFORGE_PT_field, 600)
    assert "This Blender was built without USD." in page.words()
    with pytest.raises(RuntimeError, match="built without USD"):
        bpy.ops.fieldforge.export_motion(filepath=str(tmp_path / "a.usdc"), kind="USD")
    select(root)
    bpy.ops.fieldforge.keep_field_only()
    assert exporting.why_not_exported(bpy.context) == "Only the field is left: bring it back first"


def test_a_place_that_cannot_be_written_is_told(settings, running, tmp_path):
    make(running)
    (tmp_path / "none").write_text("a file")
    path = str(tmp_path / "none" / "motion.glb")
    with pytest.raises(RuntimeError, match="was not written"):
        bpy.ops.fieldforge.export_motion(filepath=path, kind="GLB")
    assert bpy.context.window.scene == bpy.context.scene


def test_a_failed_export_leaves_the_earlier_file(settings, running, tmp_path, monkeypatch):
    make(running)
    path = tmp_path / "motion.glb"
    path.write_bytes(b"earlier")

    def half(filepath, **_):
        Path(filepath).write_bytes(b"half")
        raise RuntimeError("No space left")

    monkeypatch.setattr(exporting, "operator_of", lambda kind: half)
    with pytest.raises(RuntimeError, match="No space left"):
        bpy.ops.fieldforge.export_motion(filepath=str(path), kind="GLB")
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.glob("*.glb")) == [path]


def test_names_with_dots_keep_them(settings, running, tmp_path):
    make(running)
    bpy.ops.fieldforge.export_motion(filepath=str(tmp_path / "fish.v2"), kind="GLB")
    bpy.ops.fieldforge.export_field(filepath=str(tmp_path / "fish.v2"))
    names = {path.name for path in tmp_path.glob("fish*")}
    assert names == {"fish.v2.glb", "fish.v2.ffield"}


def test_a_field_is_a_file_that_the_command_line_reads(settings, running, tmp_path):
    root = make(running)
    root.name = "Fish"
    path = tmp_path / "fish.ffield"
    assert bpy.ops.fieldforge.export_field(filepath=str(path)) == {"FINISHED"}
    neural, name = field_files.from_bytes(path.read_bytes())
    assert name == "Fish"
    assert np.array_equal(neural.weights, kept.kept(root).weights)
    assert np.array_equal(neural.to_source, kept.kept(root).to_source)
    select()
    assert not bpy.ops.fieldforge.export_field.poll()
