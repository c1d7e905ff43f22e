"""Panels drawn into a layout that writes everything down."""

from types import SimpleNamespace

import bpy
from fieldforge.blender_addon import panels


class Layout:
    """Takes every call that a UILayout takes and keeps the words, properties and operators."""

    def __init__(self, page=None, grey=False) -> None:
        self.__dict__.update(page=page if page is not None else [], grey=grey)

    def __setattr__(self, name, value) -> None:
        known = bpy.types.UILayout.bl_rna.properties
        assert name in known, f"a layout has no {name}"
        if name == "enabled":
            self.__dict__["grey"] = not value

    def _inner(self, **options):
        return Layout(self.page, self.grey)

    row = column = box = split = _inner

    def label(self, text="", icon="NONE", translate=True) -> None:
        _check_icon(icon)
        self.page.append(("label", text))

    def separator(self, **options) -> None:
        return None

    def progress(self, text="", factor=0.0) -> None:
        assert 0 <= factor <= 1
        self.page.append(("progress", text))

    def prop(self, data, name, icon="NONE", **options) -> None:
        _check_icon(icon)
        assert name in data.bl_rna.properties, f"{data} has no {name}"
        self.page.append(("prop", name))

    def template_ID(self, data, name, **options) -> None:  # noqa: N802
        self.prop(data, name)

    def operator(self, name, icon="NONE", **options):
        _check_icon(icon)
        owner, _, action = name.partition(".")
        assert hasattr(bpy.types, f"{owner.upper()}_OT_{action}"), f"there is no {name}"
        self.page.append(("operator", name))
        if self.grey:
            self.page.append(("grey", name))
        return SimpleNamespace()

    def words(self) -> str:
        return " ".join(text for kind, text in self.page if kind in {"label", "progress"})

    def has(self, kind, name) -> bool:
        return (kind, name) in self.page


ICONS = set(bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items.keys())


def _check_icon(icon: str) -> None:
    assert icon in ICONS, f"Blender has no icon {icon}"


SYSTEM = SimpleNamespace(ui_scale=1.0, bl_rna=bpy.types.PreferencesSystem.bl_rna)


def page_context(width=260):
    return SimpleNamespace(
        scene=bpy.context.scene,
        window_manager=bpy.context.window_manager,
        view_layer=bpy.context.view_layer,
        mode=bpy.context.mode,
        selected_objects=bpy.context.selected_objects,
        preferences=SimpleNamespace(system=SYSTEM),
        region=SimpleNamespace(width=width),
        evaluated_depsgraph_get=bpy.context.evaluated_depsgraph_get,
    )


def draw(panel=panels.FIELDFORGE_PT_main, width=260) -> Layout:
    page = Layout()
    panel.draw(SimpleNamespace(layout=page), page_context(width))
    return page
