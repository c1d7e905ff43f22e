"""The parts of a root: which objects they are, and what of the artist's work on them stays."""

import bpy
import moving_shapes
import pytest
from driving import know_models
from fake_backend import MODELS
from fieldforge.blender_addon.fields import motion
from fieldforge.blender_addon.fields.operators import field_root
from moving_shapes import FRAMES
from scenes import cube, select
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
