"""The variations of one collection: one shows, and a click shows the next."""

from __future__ import annotations

import bpy
from bpy.props import IntProperty

from .generated import is_region_box
from .importing import VARIATIONS


def variations_of(item: bpy.types.Object | None) -> list[bpy.types.Object]:
    """The variations among which `item` is, or the object below it when it is a region's box, by
    their seeds; none when it is not in a collection that was made for them."""
    if item is None:
        return []
    item = item.parent if is_region_box(item) else item
    if not item.fieldforge.job_id:
        return []
    own = next((each for each in item.users_collection if VARIATIONS in each), None)
    if own is None:
        return []
    members = [each for each in own.objects if each.fieldforge.job_id]
    return sorted(members, key=lambda each: (each.fieldforge.seed, each.name))


def show_only(shown: bpy.types.Object, members: list[bpy.types.Object], view_layer) -> None:
    """Show one of the variations, in the viewport and in renders, and select it alone."""
    for each in members:
        each.hide_render = each != shown
        each.hide_set(each != shown, view_layer=view_layer)
        box = view_layer.objects.get(each.fieldforge.region)
        if box is not None and box.parent == each:
            box.hide_set(each != shown, view_layer=view_layer)
    for each in view_layer.objects.selected[:]:
        each.select_set(False, view_layer=view_layer)
    shown.select_set(True, view_layer=view_layer)
    view_layer.objects.active = shown


class FIELDFORGE_OT_show_variation(bpy.types.Operator):
    """Show the next variation instead of this one, in the viewport and in renders"""

    bl_idname = "fieldforge.show_variation"
    bl_label = "Show Variation"
    bl_options = {"REGISTER", "UNDO"}

    step: IntProperty(default=1, options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def poll(cls, context) -> bool:
        found = variations_of(context.view_layer.objects.active)
        if len(found) < 2:
            cls.poll_message_set("Select one of several variations in a collection")
        return len(found) > 1

    def execute(self, context):
        active = context.view_layer.objects.active
        members = variations_of(active)
        active = active.parent if is_region_box(active) else active
        here = [each for each in members if context.view_layer.objects.get(each.name) == each]
        shown = here[(here.index(active) + self.step) % len(here)]
        show_only(shown, here, context.view_layer)
        return {"FINISHED"}


def draw_variations(layout, item: bpy.types.Object) -> None:
    """Which of how many shows, with arrows; nothing for an object that is alone."""
    members = variations_of(item)
    if len(members) < 2:
        return
    row = layout.row(align=True)
    row.operator("fieldforge.show_variation", text="", icon="TRIA_LEFT").step = -1
    number = members.index(item) + 1
    row.label(text=f"Variation {number} of {len(members)}")
    row.operator("fieldforge.show_variation", text="", icon="TRIA_RIGHT").step = 1


CLASSES = (FIELDFORGE_OT_show_variation,)
