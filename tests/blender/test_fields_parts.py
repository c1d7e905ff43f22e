"""The parts of a root: which objects they are, and what of the artist's work on them stays."""

import bpy
import moving_shapes
import numpy as np
import pytest
from driving import know_models
from fake_backend import MODELS
from fieldforge.backend import protocol
from fieldforge.blender_addon.fields import motion
from fieldforge.blender_addon.fields.operators import field_root
from fieldforge.blender_addon.keyframes import curves_of, new_curves
from mathutils import Matrix, Vector
from moving_shapes import FRAMES
from played import new_root, roots, shown
from scenes import cube, select, world_points
from test_fields_compress import bring_back, compress
from test_fields_mix import mix, stills
from test_fields_source import make


@pytest.fixture
def settings(running, fake):
    fake.models = [*MODELS, *moving_shapes.MODELS]
    know_models(running)
    chosen = bpy.context.scene.fieldforge
    chosen.source, chosen.seed, chosen.mix_steps = "ANIMATION", 7, 3
    bpy.context.scene.render.fps = 24
    return chosen


def duplicate(item) -> bpy.types.Object:
    """Shift-D."""
    select(item)
    bpy.ops.object.duplicate()
    made = bpy.context.view_layer.objects.active
    assert made != item
    return made


# --------------------------------------------------------------------------------------- duplicates


def test_a_duplicated_part_is_an_object_of_the_artist(settings, running):
    root = compress(running, cube("Chest"))
    (part,) = motion.parts_of(root)
    other = duplicate(part)
    assert motion.parts_of(root) == [part]
    assert motion.root_of(part) == root
    assert motion.root_of(other) is None
    assert field_root(bpy.context) is None
    before = other.data
    bring_back(running, root)
    assert other.data == before
    select(root)
    bpy.ops.fieldforge.keep_field_only()
    assert motion.parts_of(root) == []
    bring_back(running, root)
    assert other.data == before
    assert len(motion.parts_of(root)) == 1


@pytest.mark.parametrize("name", ["Zzz", "Aaa"])
def test_a_duplicate_stays_one_in_the_saved_file(settings, running, tmp_path, name):
    """Where objects get new ids in the order of their names."""
    root = make(running, motion_way="MESHES")
    parts = [item.name for item in motion.parts_of(root)]
    other = duplicate(motion.parts_of(root)[0])
    other.name = name
    path, root_name = str(tmp_path / "saved.blend"), root.name
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    root = bpy.data.objects[root_name]
    assert [item.name for item in motion.parts_of(root)] == parts
    assert motion.root_of(bpy.data.objects[name]) is None
    assert len(motion.parts_of(root)) == FRAMES


def test_undo_knows_the_part_from_its_duplicate(settings, running):
    root = compress(running, cube("Chest"))
    name, part_name = root.name, motion.parts_of(root)[0].name
    bpy.ops.ed.undo_push(message="Before")
    duplicate(motion.parts_of(root)[0]).name = "Aaa"
    bpy.ops.ed.undo_push(message="Duplicated")
    bpy.data.objects.remove(bpy.data.objects[part_name])
    bpy.ops.ed.undo_push(message="Removed")
    bpy.ops.ed.undo()
    (part,) = motion.parts_of(bpy.data.objects[name])
    assert part.name == part_name


def test_a_copy_of_the_whole_with_a_duplicate_has_one_part(settings, running):
    root = compress(running, cube("Chest"))
    (part,) = motion.parts_of(root)
    other = duplicate(part)
    select(root, part, other)
    bpy.ops.object.duplicate()
    (copy,) = [item for item in bpy.context.selected_objects if item.fieldforge_motion.way]
    assert len(copy.children) == 2
    assert len(motion.parts_of(copy)) == 1
    assert motion.parts_of(root) == [part]


def test_the_slider_leaves_duplicates_alone(settings, running):
    root = mix(running, *stills(running))
    (part,) = motion.parts_of(root)
    other = duplicate(part)
    before = other.data
    root.fieldforge_mix.amount = 1.0
    assert other.data == before
    assert part.data == root.fieldforge_mix.meshes[2].mesh


def test_what_became_a_curve_is_no_part(settings, running):
    root = compress(running, cube("Chest"))
    (part,) = motion.parts_of(root)
    part.data.clear_geometry()
    part.data.from_pydata([(0, 0, 0), (1, 0, 0)], [(0, 1)], [])
    select(part)
    bpy.ops.object.convert(target="CURVE")
    curve = bpy.context.view_layer.objects.active
    assert motion.parts_of(root) == []
    bring_back(running, root)
    assert curve.type == "CURVE"
    assert len(motion.parts_of(root)) == 1


# ------------------------------------------------------------------------------------- brought back


def worked_on(part) -> tuple:
    """A part that the artist has worked on: (material, collection, child), the child beside it."""
    material = bpy.data.materials.new("Scales")
    part.data.materials.clear()  # what all frames share
    part.data.materials.append(material)
    part.material_slots[0].link = "OBJECT"
    part.material_slots[0].material = bpy.data.materials.new("Of the object")
    part.data.materials.append(material)
    part.modifiers.new("Thick", "SOLIDIFY").thickness = 0.25
    part.location = (1, 2, 3)
    if part.animation_data is None:
        new_curves(part, "Swims")
    part.keyframe_insert("location", frame=1)
    collection = bpy.data.collections.new("Fishes")
    bpy.context.scene.collection.children.link(collection)
    collection.objects.link(part)
    child = cube("Hat")
    child.parent, child.location = part, (0, 0, 5)
    return material, collection, child


def kept_work(part, material, collection) -> bool:
    """Whether all of it is there; location: in its own action."""
    slots = [(slot.link, slot.material and slot.material.name) for slot in part.material_slots]
    return (
        slots == [("OBJECT", "Of the object"), ("DATA", material.name)]
        and [each.type for each in part.modifiers] == ["SOLIDIFY"]
        and part.modifiers[0].thickness == 0.25
        and tuple(part.location) == (1, 2, 3)
        and curves_of(part).find("location", index=2) is not None
        and collection in part.users_collection
    )


@pytest.mark.parametrize("way", ["STILL", "KEYS", "MESHES"])
def test_what_was_done_with_a_part_stays(settings, running, fake, way):
    settings.motion_way = "KEYS" if way == "STILL" else way
    root = compress(running, cube("Chest")) if way == "STILL" else make(running)
    parts = motion.parts_of(root)
    material, collection, child = worked_on(parts[-1])
    names = [(item.name, item.data.name) for item in parts]
    counts = len(bpy.data.meshes), len(bpy.data.actions), len(bpy.data.shape_keys)
    old = [item.data for item in parts]
    bring_back(running, root)
    assert root.fieldforge_motion.way == way
    assert motion.parts_of(root) == parts
    assert [(item.name, item.data.name) for item in parts] == names
    assert not {item.data.session_uid for item in parts} & {_uid(mesh) for mesh in old}
    assert kept_work(parts[-1], material, collection)
    assert child.parent == parts[-1]
    assert (len(bpy.data.meshes), len(bpy.data.actions), len(bpy.data.shape_keys)) == counts


def _uid(mesh) -> int | None:
    """None of a mesh that is gone."""
    try:
        return mesh.session_uid
    except ReferenceError:
        return None


def test_a_part_for_each_frame_is_like_the_one_that_was_there(settings, running, fake):
    root = make(running, motion_way="KEYS")
    (part,) = motion.parts_of(root)
    material, collection, child = worked_on(part)
    bring_back(running, root, motion_way="MESHES")
    parts = motion.parts_of(root)
    assert len(parts) == FRAMES
    assert parts[0] == part
    assert child.parent == part
    assert all(kept_work(each, material, collection) for each in parts)
    assert len({curves_of(each).id_data.name for each in parts}) == FRAMES
    assert [each.name for each in parts] == [f"{root.name} {n + 1:02}" for n in range(FRAMES)]
    _plays(root, fake)


def test_one_part_of_many_keeps_what_was_done_with_the_first(settings, running, fake):
    root = make(running, motion_way="MESHES")
    parts = motion.parts_of(root)
    material, collection, _ = worked_on(parts[0])
    parts[2].location = (0, 0, 7)
    hat = cube("Another hat")
    hat.parent, hat.location = parts[2], (4, 0, 0)
    hat.matrix_parent_inverse = Matrix.Translation((0, 1, 0))
    root.location = (100, 0, 0)
    bring_back(running, root, motion_way="KEYS")
    (part,) = motion.parts_of(root)
    assert kept_work(part, material, collection)
    assert part.name == f"{root.name} shape"
    assert not any(curves_of(part).find(path) for path in motion.HIDDEN)
    assert hat.parent == part
    bpy.context.view_layer.update()
    assert np.allclose(hat.matrix_world.translation, root.matrix_world @ Vector((4, 1, 7)))
    _plays(root, fake)


def _plays(root, fake) -> None:
    """Each frame shows what the backend sent, once the artist's modifiers are gone."""
    for part in motion.parts_of(root):
        part.modifiers.clear()
    own = root.fieldforge_motion
    result = protocol.decode_result(list(fake.results.values())[-1])
    for number, (vertices, _) in enumerate(result.meshes()):
        assert np.abs(shown(root, own.start + number * own.speed) - vertices).max() < 1e-6


def test_parts_that_were_deleted_come_back(settings, running, fake):
    root = make(running, motion_way="MESHES")
    first, _, third, *_ = motion.parts_of(root)
    bpy.data.objects.remove(first)
    material, collection, _ = worked_on(third)
    for part in motion.parts_of(root):
        if part != third:
            bpy.data.objects.remove(part)
    bring_back(running, root)
    parts = motion.parts_of(root)
    assert parts[2] == third
    assert len(parts) == FRAMES
    assert all(kept_work(part, material, collection) for part in parts)
    _plays(root, fake)


def test_what_hung_on_a_part_stands_when_only_the_field_is_kept(settings, running):
    root = compress(running, cube("Chest"))
    (part,) = motion.parts_of(root)
    *_, child = worked_on(part)
    bpy.context.view_layer.update()
    before = child.matrix_world.copy()
    select(root)
    bpy.ops.fieldforge.keep_field_only()
    bpy.context.view_layer.update()
    assert child.parent == root
    assert np.allclose(child.matrix_world, before)


# ------------------------------------------------------------------------------------------- copied


def test_a_copy_stands_and_looks_as_what_was_worked_on(settings, running):
    root = mix(running, *stills(running))
    (part,) = motion.parts_of(root)
    material, collection, _ = worked_on(part)
    part.matrix_parent_inverse = Matrix.Translation((0, 1, 0))
    root.fieldforge_mix.amount = 0.5
    select(part)
    known = roots()
    bpy.ops.fieldforge.copy_mix()
    (own,) = motion.parts_of(new_root(*known))
    assert bpy.context.selected_objects == [own]
    assert kept_work(own, material, collection)
    assert np.allclose(world_points(own), world_points(part))
    assert own.data != part.data
    assert own.animation_data.action != part.animation_data.action
