"""Builds a lit scene around a result, saves it as .blend and renders a .png preview.

Runs inside Blender, by itself, in either form:

    python preview.py MESH.npz [--blend FILE] [--png FILE]    with Blender as a Python module
    blender --background --factory-startup --python preview.py -- MESH.npz [--blend ...]

MESH.npz holds vertices (V, 3) float32 and faces (F, 3) int32 in Blender's axes (Z up, metres),
optionally colors (V, 4) uint8 sRGB + alpha, name, and the source: points (N, 3) float32 with
point_colors (N, 4) uint8, which is shown beside the mesh.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix, Vector

PICTURE = (960, 720)
SAMPLES = 16
SAMPLES_WITHOUT_DENOISER = 32
CLAY = (0.62, 0.45, 0.34, 1.0)
VIEW_AZIMUTH, VIEW_ELEVATION = math.radians(-62), math.radians(17)
MARGIN = 1.1


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="preview.py")
    parser.add_argument("mesh", type=Path)
    parser.add_argument("--blend", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args(argv)
    with np.load(options.mesh) as arrays:
        scene = build(dict(arrays))
    if options.png:
        render(scene, options.png)
    if options.blend:
        bpy.context.preferences.filepaths.save_version = 0  # no .blend1 beside it
        bpy.ops.wm.save_as_mainfile(filepath=str(options.blend), compress=True, copy=True)


def build(arrays: dict[str, np.ndarray]) -> bpy.types.Scene:
    """An empty file -> the result, its source beside it, ground, lights and camera."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    name = str(arrays["name"]) if "name" in arrays else "Fieldforge"
    result = add_mesh(scene, name, arrays["vertices"], arrays["faces"], arrays.get("colors"))
    shown = [result]
    if "points" in arrays:
        shown.insert(0, add_points(scene, name, arrays["points"], arrays.get("point_colors")))
        stand_side_by_side(shown)
    framed = [corner for item in shown for corner in corners(item)]
    low, high = bounds(framed)
    add_ground(scene, low, high)
    add_lights(scene, low, high)
    add_camera(scene, framed)
    select_only(result)
    return scene


# ----------------------------------------------------------------------------------------- objects


def add_mesh(
    scene: bpy.types.Scene,
    name: str,
    vertices: np.ndarray,
    faces: np.ndarray,
    colors: np.ndarray | None,
) -> bpy.types.Object:
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(vertices))
    mesh.vertices.foreach_set("co", np.ascontiguousarray(vertices, np.float32).ravel())
    mesh.loops.add(3 * len(faces))
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(faces, np.int32).ravel())
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * len(faces), 3, dtype=np.int32))
    mesh.polygons.foreach_set("use_smooth", np.ones(len(faces), bool))
    mesh.update(calc_edges=True)
    mesh.materials.append(material(name, set_colors(mesh, colors)))
    return link(scene, name, mesh)


def add_points(
    scene: bpy.types.Scene, name: str, points: np.ndarray, colors: np.ndarray | None
) -> bpy.types.Object:
    """Loose vertices, drawn as small discs by a modifier so that they show in a render."""
    mesh = bpy.data.meshes.new(f"{name} points")
    mesh.vertices.add(len(points))
    mesh.vertices.foreach_set("co", np.ascontiguousarray(points, np.float32).ravel())
    mesh.update()
    surface = material(f"{name} points", set_colors(mesh, colors))
    mesh.materials.append(surface)
    item = link(scene, f"{name} points", mesh)
    radius = 0.0027 * float(np.linalg.norm(np.ptp(points, axis=0)))
    modifier = item.modifiers.new("Points", "NODES")
    modifier.node_group = point_nodes(radius, surface)
    return item


def point_nodes(radius: float, surface: bpy.types.Material) -> bpy.types.NodeTree:
    """Geometry nodes: vertices -> points of `radius` with the material `surface`."""
    group = bpy.data.node_groups.new("Points", "GeometryNodeTree")
    group.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    start, end = group.nodes.new("NodeGroupInput"), group.nodes.new("NodeGroupOutput")
    points = group.nodes.new("GeometryNodeMeshToPoints")
    points.inputs["Radius"].default_value = radius
    paint = group.nodes.new("GeometryNodeSetMaterial")
    paint.inputs["Material"].default_value = surface
    group.links.new(start.outputs[0], points.inputs["Mesh"])
    group.links.new(points.outputs[0], paint.inputs["Geometry"])
    group.links.new(paint.outputs[0], end.inputs[0])
    return group


def set_colors(mesh: bpy.types.Mesh, colors: np.ndarray | None) -> bool:
    if colors is None:
        return False
    attribute = mesh.color_attributes.new("Color", "BYTE_COLOR", "POINT")
    values = np.ascontiguousarray(colors, np.float32) / 255
    attribute.data.foreach_set("color_srgb", values.ravel())
    return True


def material(name: str, coloured: bool) -> bpy.types.Material:
    made = bpy.data.materials.new(name)
    with_nodes(made)
    shader = made.node_tree.nodes["Principled BSDF"]
    shader.inputs["Roughness"].default_value = 0.6
    shader.inputs["Base Color"].default_value = CLAY
    if coloured:
        color = made.node_tree.nodes.new("ShaderNodeVertexColor")
        color.layer_name = "Color"
        made.node_tree.links.new(color.outputs["Color"], shader.inputs["Base Color"])
    return made


def with_nodes(owner: bpy.types.Material | bpy.types.World) -> None:
    """Give it a node tree; from Blender 5.0 it has one from the start."""
    if owner.node_tree is None:
        owner.use_nodes = True


def link(scene: bpy.types.Scene, name: str, data: bpy.types.ID | None) -> bpy.types.Object:
    item = bpy.data.objects.new(name, data)
    scene.collection.objects.link(item)
    return item


def select_only(item: bpy.types.Object) -> None:
    for other in bpy.context.view_layer.objects:
        other.select_set(other == item)
    bpy.context.view_layer.objects.active = item


# ------------------------------------------------------------------------------------------- stage


def stand_side_by_side(items: list[bpy.types.Object]) -> None:
    """Move the first item away along the picture's horizontal, so that neither hides the other."""
    right = Vector((-math.sin(VIEW_AZIMUTH), math.cos(VIEW_AZIMUTH), 0))
    spans = [[right.dot(corner) for corner in corners(item)] for item in items]
    width = max(max(span) - min(span) for span in spans)
    items[0].location = -right * (width * 1.12)
    bpy.context.view_layer.update()


def corners(item: bpy.types.Object) -> list[Vector]:
    coordinates = np.empty(3 * len(item.data.vertices), np.float32)
    item.data.vertices.foreach_get("co", coordinates)
    coordinates = coordinates.reshape(-1, 3)
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    grid = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    return [item.matrix_world @ Vector(np.where(pick, high, low)) for pick in grid]


def bounds(points: list[Vector]) -> tuple[Vector, Vector]:
    every = np.array(points)
    return Vector(every.min(axis=0)), Vector(every.max(axis=0))


def add_ground(scene: bpy.types.Scene, low: Vector, high: Vector) -> None:
    size = 40 * (high - low).length
    mesh = bpy.data.meshes.new("Ground")
    square = [(-size, -size, 0), (size, -size, 0), (size, size, 0), (-size, size, 0)]
    mesh.from_pydata(square, [], [(0, 1, 2, 3)])
    ground = link(scene, "Ground", mesh)
    ground.location = ((low.x + high.x) / 2, (low.y + high.y) / 2, low.z)
    surface = material("Ground", coloured=False)
    shader = surface.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (0.72, 0.73, 0.75, 1)
    shader.inputs["Roughness"].default_value = 0.9
    mesh.materials.append(surface)


def add_lights(scene: bpy.types.Scene, low: Vector, high: Vector) -> None:
    """Three-point lighting that scales with what is lit: key, fill, rim."""
    centre, radius = (low + high) / 2, (high - low).length / 2
    # (name, degrees from the view, elevation, distance, size in radii, strength, colour)
    table = (
        ("Key", 42, 46, 4.0, 2.2, 62.0, (1.0, 0.96, 0.90)),
        ("Fill", -55, 24, 4.5, 3.6, 20.0, (0.90, 0.95, 1.0)),
        ("Rim", 165, 42, 4.0, 1.6, 48.0, (1.0, 1.0, 1.0)),
    )
    for name, turn, lift, distance, size, strength, color in table:
        light = bpy.data.lights.new(name, "AREA")
        light.energy = strength * radius * radius
        light.size, light.color = size * radius, color
        item = link(scene, name, light)
        azimuth, elevation = VIEW_AZIMUTH + math.radians(turn), math.radians(lift)
        item.matrix_world = looking(centre, direction(azimuth, elevation), distance * radius)
    world = bpy.data.worlds.new("World")
    with_nodes(world)
    background = world.node_tree.nodes["Background"]
    background.inputs["Color"].default_value = (0.80, 0.85, 0.92, 1)
    background.inputs["Strength"].default_value = 0.42
    scene.world = world


def add_camera(scene: bpy.types.Scene, framed: list[Vector]) -> None:
    """A camera from which every one of the points `framed` is in the picture, tightly."""
    camera = bpy.data.cameras.new("Camera")
    camera.lens = 70
    item = link(scene, "Camera", camera)
    away = direction(VIEW_AZIMUTH, VIEW_ELEVATION)
    centre, distance = framing(camera, framed, away)
    item.matrix_world = looking(centre, away, distance)
    camera.clip_start, camera.clip_end = distance * 0.01, distance * 100
    scene.camera = item


def framing(camera: bpy.types.Camera, framed: list[Vector], away: Vector) -> tuple[Vector, float]:
    """What the camera looks at, and from how far, for all points to fit the picture."""
    half_width = camera.sensor_width / 2 / camera.lens
    half_height = half_width * PICTURE[1] / PICTURE[0]
    turn = looking(Vector((0, 0, 0)), away, 0).to_3x3()
    local = np.array([turn.transposed() @ point for point in framed])
    middle = (local.min(axis=0) + local.max(axis=0)) / 2
    across, up, toward = (local - middle).T
    reach = np.maximum(np.abs(across) / half_width, np.abs(up) / half_height)
    return turn @ Vector(middle), float((toward + MARGIN * reach).max())


def direction(azimuth: float, elevation: float) -> Vector:
    flat = math.cos(elevation)
    return Vector((flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)))


def looking(centre: Vector, away: Vector, distance: float) -> Matrix:
    """The matrix of a camera or light `distance` from `centre` toward `away`, looking back."""
    turn = away.to_track_quat("Z", "Y").to_matrix().to_4x4()
    return Matrix.Translation(centre + away * distance) @ turn


# ------------------------------------------------------------------------------------------ render


def render(scene: bpy.types.Scene, path: Path) -> None:
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.max_bounces = 4
    scene.cycles.seed = 0
    scene.render.resolution_x, scene.render.resolution_y = PICTURE
    scene.render.resolution_percentage = 100
    scene.render.dither_intensity = 0  # its noise would double the size of the file
    scene.render.image_settings.file_format = "PNG"
    scene.render.filepath = str(path)
    scene.view_settings.view_transform = "Standard"
    scene.view_settings.look = "None"
    use_denoiser(scene)
    bpy.ops.render.render(write_still=True)


def use_denoiser(scene: bpy.types.Scene) -> None:
    """Few samples and a denoiser, or more samples where this Blender was built without one."""
    try:
        scene.cycles.denoiser = "OPENIMAGEDENOISE"
    except TypeError:
        scene.cycles.use_denoising = False
        scene.cycles.samples = SAMPLES_WITHOUT_DENOISER
        return
    scene.cycles.use_denoising = True
    scene.cycles.denoising_quality = "BALANCED"
    scene.cycles.samples = SAMPLES


if __name__ == "__main__":
    separator = sys.argv.index("--") if "--" in sys.argv else 0
    main(sys.argv[separator + 1 :])
