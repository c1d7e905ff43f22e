"""Objects for the tests, and the readings that the tests compare."""

from __future__ import annotations

import time

import bpy
import numpy as np


def cloud(name="Armchair_scan", count=200, seed=0, normals=None, colors=None, link=True):
    """A mesh of loose vertices in a ball. normals: an attribute's name; colors: a data type."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3)).astype(np.float32)
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(count)
    mesh.attributes["position"].data.foreach_set("vector", points.ravel())
    if normals:
        attribute = mesh.attributes.new(normals, "FLOAT_VECTOR", "POINT")
        attribute.data.foreach_set("vector", points.ravel())
    if colors:
        attribute = mesh.color_attributes.new("Col", colors, "POINT")
        attribute.data.foreach_set("color_srgb", palette(count).ravel().astype(np.float32) / 255)
    return place_object(mesh, name)


def palette(count: int) -> np.ndarray:
    """(count, 4) uint8, all bytes appear."""
    return (np.arange(4 * count) * 7 % 256).astype(np.uint8).reshape(-1, 4)


def place_object(data, name: str):
    created = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(created)
    select(created)
    return created


def cube(name="Cube", size=(1.0, 1.0, 1.0), location=(0.0, 0.0, 0.0)):
    """A closed box of six quads around its origin."""
    corners = [(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata((np.array(corners) * size).tolist(), [], faces)
    created = place_object(mesh, name)
    created.location = location
    return created


def to_point_cloud() -> bool:
    """Convert the active mesh; False where this Blender has no such objects."""
    try:
        bpy.ops.object.convert(target="POINTCLOUD")
    except TypeError:
        return False
    return True


def add_nodes(item, *steps: str) -> None:
    """A geometry nodes modifier. steps: the type of a node, the name of its input, and so on."""
    group = bpy.data.node_groups.new("Nodes", "GeometryNodeTree")
    for way in ("INPUT", "OUTPUT"):
        group.interface.new_socket("Geometry", in_out=way, socket_type="NodeSocketGeometry")
    last = group.nodes.new("NodeGroupInput").outputs[0]
    for kind, socket in zip(steps[::2], steps[1::2], strict=True):
        node = group.nodes.new(kind)
        group.links.new(last, node.inputs[socket])
        last = node.outputs[0]
    group.links.new(last, group.nodes.new("NodeGroupOutput").inputs[0])
    item.modifiers.new("Nodes", "NODES").node_group = group
    bpy.context.view_layer.update()


def select(*items) -> None:
    """Select these objects, the first one active."""
    bpy.context.view_layer.update()
    for item in bpy.context.view_layer.objects:
        item.select_set(item in items)
    bpy.context.view_layer.objects.active = items[0] if items else None


def local_points(item) -> np.ndarray:
    values = np.zeros(3 * len(item.data.vertices), np.float32)
    item.data.attributes["position"].data.foreach_get("vector", values)
    return values.reshape(-1, 3)


def world_points(item) -> np.ndarray:
    """(N, 3) float64 of an object's vertices, by its matrix_world."""
    bpy.context.view_layer.update()
    matrix = np.array(item.matrix_world, np.float64)
    return local_points(item).astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


def tick_until(jobs, test, seconds=15.0) -> None:
    """Blender's timer, by hand: tick until test() is true."""
    limit = time.monotonic() + seconds
    while not test():
        jobs.tick()
        assert time.monotonic() < limit, [(job.state, job.stage, job.error) for job in jobs.jobs]
        time.sleep(0.005)
