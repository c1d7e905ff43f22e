"""Steps in a real Blender window: voxels of cubes and of a mesh, and a stretched, turned cloud.

    SCAN.ply --python PYTHON     (the scan is not used)

After each the source is shown with its result, and the distance between the two is measured.
"""

import math

import bpy
import gui_steps as gui
import numpy as np
import stage
from mathutils import Matrix

_, OPTIONS = stage.arguments()
CUBE = 0.25
TURN = Matrix.Rotation(0.5, 4, "Z") @ Matrix.Rotation(0.3, 4, "X")

place = {}


def settings():
    return bpy.context.scene.fieldforge


def open_tab():
    stage.choose_backend(OPTIONS)
    place["area"], place["region"] = yield from gui.open_sidebar(stage.TAB)


def make_cubes():
    """A staircase around a pillar, turned as a whole: an artist's blockout."""
    stage.clear_scene()
    cells = [(0, 0, z) for z in range(7)] + [(1, 0, z) for z in range(7)]
    cells += [(0, 1, z) for z in range(7)] + [(1, 1, z) for z in range(7)]
    ring = [(x, -1) for x in range(-1, 3)] + [(2, 0), (2, 1)]
    ring += [(x, 2) for x in range(2, -2, -1)] + [(-1, 1), (-1, 0)]
    cells += [(x, y, z) for step, (x, y) in enumerate(ring) for z in range(step // 2 + 1)]
    with gui.override(gui.find_area()):
        bpy.ops.mesh.primitive_cube_add(size=1)
    first = bpy.context.view_layer.objects.active
    first.name = "Block"
    cubes = [first]
    for _ in cells[1:]:
        copy = first.copy()
        bpy.context.scene.collection.objects.link(copy)
        cubes.append(copy)
    for item, cell in zip(cubes, cells, strict=True):
        item.matrix_world = (
            TURN @ Matrix.Translation([CUBE * c for c in cell]) @ Matrix.Scale(CUBE, 4)
        )
    stage.select(*cubes)
    bpy.context.view_layer.update()
    place["cubes"] = cubes
    settings().source, settings().voxels_from = "VOXELS", "CUBES"
    stage.look_at(cubes, 35, 25)
    stage.push_undo("Cubes")
    yield from gui.shot("cubes-before")


def generate_cubes():
    yield from stage.generate(place)
    mesh = stage.result_of("Block")
    stage.look_at(place["cubes"], 35, 25)
    yield from gui.shot("cubes-after")
    hide(place["cubes"])
    yield from gui.shot("cubes-mesh")
    centres = np.array([item.matrix_world.translation for item in place["cubes"]])
    distances = stage.distances_to(centres, mesh)
    print("cubes: centres inside by", -distances.max(), "to", -distances.min(), "of", CUBE)
    assert (distances < 0).mean() >= 0.98  # the voxels that it was made of are in it


def hide(items, value=True):
    for item in items:
        item.hide_set(value)


def make_ring():
    """A torus, turned and stretched."""
    stage.clear_scene()
    with gui.override(gui.find_area()):
        bpy.ops.mesh.primitive_torus_add(major_segments=64, minor_segments=32, minor_radius=0.35)
    ring = bpy.context.view_layer.objects.active
    ring.name = "Ring"
    ring.matrix_world = Matrix.Translation((1, 2, 0.5)) @ TURN @ Matrix.Diagonal((1, 0.6, 1.4, 1))
    settings().voxels_from, settings().voxel_size = "MESH", 0.05
    stage.select(ring)
    bpy.context.view_layer.update()
    stage.look_at([ring], 25, 30)
    stage.push_undo("Ring")
    place["source"] = ring
    yield from gui.shot("mesh-before")


def generate_mesh():
    yield from stage.generate(place)
    source, mesh = place["source"], stage.result_of("Ring")
    stage.look_at([source], 25, 30)
    yield from gui.shot("mesh-after")
    assert np.allclose(mesh.matrix_world, source.matrix_world, atol=1e-5)
    distances = np.abs(stage.distances_to(stage.world_points(source), mesh))
    print("mesh: distance", distances.mean(), distances.max(), "of voxel 0.05")
    assert distances.max() < 0.05
    hide([source])
    yield from gui.shot("mesh-mesh")


def make_cloud():
    """Points on a bent shape, in an object that is turned and stretched unevenly."""
    stage.clear_scene()
    rng = np.random.default_rng(3)
    t, s = rng.uniform(0, 2 * math.pi, (2, 30000))
    radius = 0.3 + 0.08 * np.cos(3 * t)
    points = np.stack(
        [
            (1 + radius * np.cos(s)) * np.cos(t),
            (1 + radius * np.cos(s)) * np.sin(t),
            radius * np.sin(s) + 0.2 * np.sin(2 * t),
        ],
        axis=1,
    )
    data = bpy.data.meshes.new("Wreath")
    data.vertices.add(len(points))
    data.vertices.foreach_set("co", points.astype(np.float32).ravel())
    colors = data.color_attributes.new("Col", "BYTE_COLOR", "POINT")
    values = np.stack(
        [0.5 + 0.5 * np.cos(t), 0.5 + 0.4 * np.sin(s), 0.4 + 0 * t, 1 + 0 * t], axis=1
    )
    colors.data.foreach_set("color_srgb", values.astype(np.float32).ravel())
    cloud = bpy.data.objects.new("Wreath", data)
    bpy.context.scene.collection.objects.link(cloud)
    cloud.matrix_world = (
        Matrix.Translation((-2, 1, 0.3)) @ TURN @ Matrix.Diagonal((1.0, 0.5, 2.0, 1.0))
    )
    settings().source = "POINTS"
    stage.select(cloud)
    bpy.context.view_layer.update()
    stage.look_at([cloud], 25, 35)
    stage.push_undo("Wreath")
    place["source"] = cloud
    yield from gui.shot("cloud-before")


def generate_cloud():
    yield from stage.generate(place)
    source, mesh = place["source"], stage.result_of("Wreath")
    stage.look_at([source], 25, 35)
    yield from gui.shot("cloud-after")
    assert np.allclose(mesh.matrix_world, source.matrix_world, atol=1e-5)
    distances = np.abs(stage.distances_to(stage.world_points(source), mesh))
    size = np.ptp(stage.world_points(source), axis=0).max()
    print("cloud: distance", distances.mean() / size, distances.max() / size, "of the size")
    assert distances.mean() < 0.002 * size
    assert distances.max() < 0.01 * size
    hide([source])
    yield from gui.shot("cloud-mesh")


gui.run(
    [open_tab, make_cubes, generate_cubes, make_ring, generate_mesh, make_cloud, generate_cloud]
)
