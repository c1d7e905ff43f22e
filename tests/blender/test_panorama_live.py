"""The controls of a sphere: vertices follow at once, without a new mesh; undo knows it."""

from __future__ import annotations

import threading

import bpy
import numpy as np
import pytest
import spheres
from fieldforge.backend.protocol import DepthMeaning, radii
from fieldforge.blender_addon.panorama import live
from fieldforge.blender_addon.panorama import panel as panorama_panel
from pages import draw
from scenes import local_points, select
from test_panorama_import import arrive


def expected(width: int, meaning: DepthMeaning, values=None) -> np.ndarray:
    """(H W, 3): where the vertices of the pixels belong."""
    directions = spheres.directions_of(width).reshape(-1, 3)
    if values is None:
        values = spheres.values_of(spheres.distances(directions), spheres.INVERSE)
    return directions * radii(values.astype(np.float32), meaning)[:, None]


def off(item, points: np.ndarray) -> float:
    return float(np.abs(local_points(item)[: len(points)] - points).max())


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 2.0},
        {"offset": 0.5},
        {"near": 0.5},
        {"far": 30.0},
        {"inverted": True},
        {"meaning": "metric"},
        {"meaning": "metric", "inverted": True},
        {"meaning": "paper", "radius": 3.0, "strength": 0.7},
        {"meaning": "paper", "inverted": True, "scale": 0.5, "offset": 1.0},
    ],
    ids=str,
)
def test_vertices_follow_the_controls(extension, changes):
    front, backing, sky, _ = arrive(spheres.sphere(32, layers=("front", "backing", "sky")))
    still = local_points(sky)
    mesh, edges = front.data, len(front.data.edges)
    for name, value in changes.items():
        setattr(mesh.fieldforge_sphere, name, value)
    meaning = DepthMeaning(**{**vars(spheres.INVERSE), **changes})
    points = expected(32, meaning)
    assert off(front, points) < 1e-5
    assert off(backing, points) < 1e-5
    assert np.array_equal(local_points(sky), still)
    assert front.data == mesh
    assert len(mesh.edges) == edges
    evaluated = front.evaluated_get(bpy.context.evaluated_depsgraph_get())
    assert np.abs(local_points(evaluated)[: len(points)] - points).max() < 1e-5


def test_controls_that_cross_never_break_the_sphere(extension):
    front, _ = arrive(spheres.sphere(32))
    controls = front.data.fieldforge_sphere
    controls.near = 50.0  # beyond far
    points = local_points(front)
    assert np.isfinite(points).all()
    assert np.abs(np.linalg.norm(points, axis=1) - 50.0).max() < 0.1
    controls.near = 1.0
    assert off(front, expected(32, spheres.INVERSE)) < 1e-5


def test_undo_brings_back_places_and_controls_together(extension):
    front, _ = arrive(spheres.sphere(32))
    bpy.ops.ed.undo_push(message="Room")
    before = local_points(front)
    front.data.fieldforge_sphere.scale = 3.0
    bpy.ops.ed.undo_push(message="Depth Scale")
    after = local_points(front)
    assert np.allclose(after, 3 * before, atol=1e-5)
    bpy.ops.ed.undo()
    front = bpy.data.objects["Room"]
    assert front.data.fieldforge_sphere.scale == 1.0
    assert np.array_equal(local_points(front), before)
    front.data.fieldforge_sphere.offset = 1.0  # and it goes on from there
    assert off(front, expected(32, DepthMeaning(**{**vars(spheres.INVERSE), "offset": 1.0}))) < 1e-5
    bpy.ops.ed.undo_push(message="Offset")
    bpy.ops.ed.undo()
    assert np.array_equal(local_points(bpy.data.objects["Room"]), before)


def test_a_copy_has_controls_of_its_own(extension):
    front, _ = arrive(spheres.sphere(32))
    copy = front.copy()
    copy.data = front.data.copy()
    bpy.context.scene.collection.objects.link(copy)
    before = local_points(front)
    copy.data.fieldforge_sphere.scale = 2.0
    assert np.array_equal(local_points(front), before)
    assert np.allclose(local_points(copy), 2 * before, atol=1e-5)


def test_an_edited_mesh_moves_by_what_it_kept(extension):
    """Arrays that were read before are not taken for those of another order or number."""
    front, _ = arrive(spheres.sphere(32))
    front.data.fieldforge_sphere.scale = 2.0
    select(front)
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.mesh.sort_elements(type="REVERSE", elements={"VERT"})
    bpy.ops.object.mode_set(mode="OBJECT")
    before = local_points(front)
    front.data.fieldforge_sphere.scale = 4.0
    assert np.allclose(local_points(front), 2 * before, atol=1e-4)
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="DESELECT")
    bpy.ops.object.mode_set(mode="OBJECT")
    for vertex in front.data.vertices[:100]:
        vertex.select = True
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.delete(type="VERT")
    bpy.ops.object.mode_set(mode="OBJECT")
    assert len(front.data.vertices) == len(before) - 100
    before = local_points(front)
    front.data.fieldforge_sphere.scale = 2.0
    assert np.allclose(local_points(front), before / 2, atol=1e-4)


def test_depth_that_a_script_wrote_is_what_moves(extension):
    """Also between two moves: only directions and places are kept."""
    front, _ = arrive(spheres.sphere(32))
    front.data.fieldforge_sphere.scale = 2.0
    values = np.linspace(0, 1, len(front.data.vertices), dtype=np.float32)
    front.data.attributes[live.VALUE].data.foreach_set("value", values)
    front.data.fieldforge_sphere.scale = 1.0
    assert off(front, expected(32, spheres.INVERSE, values[:-2])) < 1e-5


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_threads_share_the_vertices_without_a_gap(extension, monkeypatch, threads):
    front, _ = arrive(spheres.sphere(32))
    alone = []
    for scale in (2.0, 3.0):
        front.data.fieldforge_sphere.scale = scale
        alone.append(local_points(front))
    monkeypatch.setattr(live, "PER_THREAD", len(alone[0]) // threads)
    monkeypatch.setattr(live.os, "cpu_count", lambda: 16)
    for scale, points in zip((2.0, 3.0), alone, strict=True):
        front.data.fieldforge_sphere.scale = scale
        assert np.array_equal(local_points(front), points)
    assert not [each for each in threading.enumerate() if "ThreadPool" in each.name]


def test_in_edit_mode_nothing_moves_and_the_panel_says_why(extension):
    front, _ = arrive(spheres.sphere(32))
    select(front)
    before = local_points(front)
    bpy.ops.object.mode_set(mode="EDIT")
    front.data.fieldforge_sphere.scale = 2.0
    assert "Leave Edit Mode" in draw(panorama_panel.FIELDFORGE_PT_sphere).words()
    bpy.ops.object.mode_set(mode="OBJECT")
    assert np.array_equal(local_points(front), before)
    assert "Leave Edit Mode" not in draw(panorama_panel.FIELDFORGE_PT_sphere).words()


def test_a_sphere_that_lost_its_depth_says_so(extension):
    front, _ = arrive(spheres.sphere(32))
    front.data.attributes.remove(front.data.attributes[live.VALUE])
    front.data.fieldforge_sphere.scale = 2.0
    assert "lost its depth" in draw(panorama_panel.FIELDFORGE_PT_sphere).words()


def test_the_panel_shows_the_controls_of_the_meaning(extension):
    assert not panorama_panel.FIELDFORGE_PT_sphere.poll(bpy.context)
    front, backing, camera = arrive(spheres.sphere(32, layers=("front", "backing")))
    for item in (front, backing, camera):  # whichever part is active
        select(item)
        assert panorama_panel.FIELDFORGE_PT_sphere.poll(bpy.context)
        page = draw(panorama_panel.FIELDFORGE_PT_sphere, width=600)
        assert "Room: 1,088 faces, with backing" in page.words()
        for name in ("meaning", "inverted", "near", "far", "scale", "offset"):
            assert page.has("prop", name)
        assert not page.has("prop", "strength")
    front.data.fieldforge_sphere.meaning = "paper"
    page = draw(panorama_panel.FIELDFORGE_PT_sphere)
    assert page.has("prop", "radius")
    assert page.has("prop", "strength")
    assert not page.has("prop", "near")
    assert "AgX changes the colours" in draw(panorama_panel.FIELDFORGE_PT_sphere, 900).words()
    bpy.context.scene.view_settings.view_transform = "Standard"
    assert "changes the colours" not in draw(panorama_panel.FIELDFORGE_PT_sphere, 900).words()


def test_what_was_kept_is_let_go(extension):
    front, _ = arrive(spheres.sphere(32))
    front.data.fieldforge_sphere.scale = 2.0
    assert live._kept
    assert bpy.app.timers.is_registered(live._forget)
    live._forget()
    assert not live._kept
