"""Steps in a real Blender window: an artist's first minutes, with nothing installed yet.

Pictures of what the panel says to the default cube, to a cloud, and of where its button leads.
"""

import bpy
import gui_steps as gui
import stage

(SCAN,), _ = stage.arguments()

place = {}


def the_default_cube():
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)
    yield from gui.shot("first-cube")


def a_scan():
    stage.clear_scene()
    with gui.override(gui.find_area()):
        bpy.ops.wm.ply_import(filepath=SCAN)
    stage.look_at(list(bpy.data.objects), 35, 12)
    yield from gui.shot("first-scan")


def go_online():
    """The switch is in the panel itself; then Install can be clicked."""
    yield from gui.click_property(place["area"], place["region"], "use_online_access")
    assert bpy.app.online_access
    yield from gui.shot("first-online")
    yield from gui.find_button(place["area"], place["region"], operator="fieldforge.install")


def other_ways():
    yield from gui.click_operator(place["area"], place["region"], "fieldforge.open_preferences")
    yield 1.0
    yield from gui.shot("first-preferences")


gui.run([the_default_cube, a_scan, go_online, other_ways])
