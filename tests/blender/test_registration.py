import bpy
import pytest
from fieldforge.blender_addon import CLASSES, session

HANDLERS = ("depsgraph_update_post", "load_post", "undo_post", "redo_post")


def _state():
    return {
        "handlers": {name: len(getattr(bpy.app.handlers, name)) for name in HANDLERS},
        "types": {name for name in dir(bpy.types) if "ieldforge" in name.lower()},
        "operators": set(dir(bpy.ops.fieldforge)),
        "scene": hasattr(bpy.types.Scene, "fieldforge"),
    }


def test_registering_twice_leaves_nothing_behind(empty_scene):
    from conftest import load_extension

    module, before = load_extension(), _state()
    for _ in range(2):
        module.register()
        assert hasattr(bpy.types.Scene, "fieldforge")
        assert "generate" in dir(bpy.ops.fieldforge)
        module.unregister()
        assert _state() == before
    with pytest.raises(RuntimeError):
        session.jobs()


def test_every_class_has_words_for_its_button():
    for cls in CLASSES:
        if issubclass(cls, bpy.types.Operator):
            assert cls.__doc__, f"{cls.__name__} has no tooltip"
            assert cls.bl_label


def test_the_fields_offer_what_the_protocol_accepts(extension):
    from fieldforge.backend.protocol import RESOLUTIONS

    items = bpy.types.Scene.bl_rna.properties["fieldforge"].fixed_type.properties["resolution"]
    assert tuple(int(item.identifier) for item in items.enum_items) == RESOLUTIONS
    assert bpy.context.scene.fieldforge.model == "wavelet-fit"
