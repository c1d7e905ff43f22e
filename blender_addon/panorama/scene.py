"""Results about panoramas -> objects and images of the Blender file. Main thread only.

What is made here is one undo step: `jobs` leaves it once all is there.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import bpy
import numpy as np
from mathutils import Euler

from ...backend.protocol import DepthMeaning
from ..importing import Destination, home_of, select_only, view_layer_of
from . import live
from .arrival import Arrived, LayerArrival, PanoramaArrival, SphereArrival, StereoArrival
from .images import image_from, image_of_source
from .settings import keep_meaning

LOOKS_ALONG_X = (math.radians(90), 0.0, math.radians(-90))  # a camera of the sphere's own space
QUARTER_TURN = math.radians(90)
CAMERA_LENS = 18.0  # millimetres: 90 degrees wide
NEAREST_SEEN = 0.01  # metres


def add(arrived: Arrived, destination: Destination) -> list[bpy.types.ID]:
    """Put a result into the file; what it is known by first."""
    match arrived:
        case SphereArrival():
            return add_sphere(arrived, destination)
        case PanoramaArrival():
            return add_panorama(arrived, destination)
        case StereoArrival():
            return add_stereo(arrived, destination)


# ------------------------------------------------------------------------------------------ sphere


def add_sphere(arrived: SphereArrival, destination: Destination) -> list[bpy.types.Object]:
    """The layers of a sphere at the origin and a camera in its middle, in a collection of their
    own; the front selected and active."""
    options, name = destination.panorama, destination.name
    scene, parent = home_of(destination)
    collection = bpy.data.collections.new(name)
    parent.children.link(collection)
    picture = _picture(arrived, name, options)
    front, *others = [_layer(layer, arrived, name, picture) for layer in arrived.layers]
    if options.get("ahead") == "Y":
        front.rotation_euler = (0.0, 0.0, QUARTER_TURN)
    for item in others:
        item.parent = front
    camera = _camera(name, front, scene)
    for item in (front, *others, camera):
        collection.objects.link(item)
    if options.get("world"):
        scene.world = world_of(picture, name, front.rotation_euler.z)
        for item in (front, *others):
            _keep_light(item)
    select_only(view_layer_of(scene), front)
    return [front, *others, camera]


def _picture(arrived: SphereArrival, name: str, options: dict[str, Any]) -> bpy.types.Image:
    source = image_of_source(options)
    if source is None:
        return image_from(arrived.texture, name)
    keeps_file = source.source == "FILE" and source.packed_file is None
    if options.get("pack") and (keeps_file or source.is_dirty):
        with contextlib.suppress(RuntimeError):  # its file is gone, or it lies in another file
            source.pack()
    return source


def _layer(
    arrived: LayerArrival, sphere: SphereArrival, name: str, picture: bpy.types.Image
) -> bpy.types.Object:
    kind = arrived.layer.layer
    own = name if kind == "front" else f"{name} {kind}"
    mesh = mesh_of(own, arrived, sphere.meaning)
    shown, has_alpha = picture, sphere.texture.has_alpha
    if arrived.texture is not None:
        shown, has_alpha = image_from(arrived.texture, own), arrived.texture.has_alpha
    mesh.materials.append(emission_of(shown, own, has_alpha))
    return bpy.data.objects.new(own, mesh)


def mesh_of(name: str, arrived: LayerArrival, meaning: DepthMeaning) -> bpy.types.Mesh:
    """A mesh of one layer, with what `live` needs to move it. Every array is handed over whole."""
    layer = arrived.layer
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(arrived.positions))
    mesh.edges.add(len(layer.edges))
    mesh.loops.add(len(layer.corners))
    mesh.polygons.add(len(arrived.starts))
    _fill(mesh, "position", "vector", arrived.positions)
    _fill(mesh, ".edge_verts", "value", layer.edges)
    _fill(mesh, ".corner_vert", "value", layer.corners)
    _fill(mesh, ".corner_edge", "value", layer.corner_edges)
    mesh.polygons.foreach_set("loop_start", arrived.starts)
    mesh.uv_layers.new(name="UVMap", do_init=False).uv.foreach_set("vector", layer.uv.ravel())
    if layer.layer != "sky":
        mesh.attributes.new(live.DIRECTION, "FLOAT_VECTOR", "POINT")
        _fill(mesh, live.DIRECTION, "vector", layer.directions)
        mesh.attributes.new(live.VALUE, "FLOAT", "POINT")
        _fill(mesh, live.VALUE, "value", layer.values)
    mesh.update()
    keep_meaning(mesh.fieldforge_sphere, meaning)
    mesh.fieldforge_sphere.layer = layer.layer  # last: from now on the controls move the vertices
    return mesh


def _fill(mesh: bpy.types.Mesh, attribute: str, prop: str, values: np.ndarray) -> None:
    mesh.attributes[attribute].data.foreach_set(prop, values.ravel())


def emission_of(image: bpy.types.Image, name: str, has_alpha: bool = False) -> bpy.types.Material:
    """Shows the image as it is, unlit; from outside one looks through it."""
    material = bpy.data.materials.new(name)
    nodes, links = _empty_tree(material)
    end = nodes.new("ShaderNodeOutputMaterial")
    shine = nodes.new("ShaderNodeEmission")
    picture = nodes.new("ShaderNodeTexImage")
    picture.image = image
    picture.location, shine.location, end.location = (-520, 0), (-220, 0), (220, 0)
    links.new(picture.outputs["Color"], shine.inputs["Color"])
    surface = shine.outputs[0]
    if has_alpha:
        mix, clear = nodes.new("ShaderNodeMixShader"), nodes.new("ShaderNodeBsdfTransparent")
        links.new(picture.outputs["Alpha"], mix.inputs[0])
        links.new(clear.outputs[0], mix.inputs[1])
        links.new(surface, mix.inputs[2])
        surface = mix.outputs[0]
    links.new(surface, end.inputs["Surface"])
    nodes.active = picture  # what Solid shows where it shows textures
    material.use_backface_culling = True
    # As a lamp of millions of triangles it would cost Cycles more than it brings.
    if hasattr(material, "cycles") and hasattr(material.cycles, "emission_sampling"):
        material.cycles.emission_sampling = "NONE"
    return material


def world_of(image: bpy.types.Image, name: str, turn: float = 0.0) -> bpy.types.World:
    """Lights the scene with the image; turn: radians around Z by which the sphere is turned."""
    world = bpy.data.worlds.new(name)
    nodes, links = _empty_tree(world)
    end = nodes.new("ShaderNodeOutputWorld")
    background = nodes.new("ShaderNodeBackground")
    sky = nodes.new("ShaderNodeTexEnvironment")
    sky.image = image
    sky.location, background.location, end.location = (-320, 0), (0, 0), (220, 0)
    links.new(sky.outputs["Color"], background.inputs["Color"])
    links.new(background.outputs[0], end.inputs["Surface"])
    if turn:
        place, ways = nodes.new("ShaderNodeMapping"), nodes.new("ShaderNodeTexCoord")
        place.location, ways.location = (-520, 0), (-720, 0)
        place.vector_type = "POINT"
        place.inputs["Rotation"].default_value = (0.0, 0.0, -turn)
        links.new(ways.outputs["Generated"], place.inputs["Vector"])
        links.new(place.outputs["Vector"], sky.inputs["Vector"])
    return world


def _empty_tree(owner):
    """The nodes and links of a material or world, without any."""
    if owner.node_tree is None:  # before Blender 5.0
        owner.use_nodes = True
    owner.node_tree.nodes.clear()
    return owner.node_tree.nodes, owner.node_tree.links


def _keep_light(item: bpy.types.Object) -> None:
    """Let the World's light through, which would not reach what stands in the sphere."""
    item.visible_diffuse = item.visible_shadow = item.visible_volume_scatter = False


def _camera(name: str, front: bpy.types.Object, scene: bpy.types.Scene) -> bpy.types.Object:
    """In the middle of the sphere, looking at the middle of the picture; the scene's where it has
    none."""
    data = bpy.data.cameras.new(f"{name} camera")
    data.lens, data.clip_start = CAMERA_LENS, NEAREST_SEEN
    camera = bpy.data.objects.new(data.name, data)
    camera.parent = front
    camera.rotation_euler = Euler(LOOKS_ALONG_X)
    if scene.camera is None:
        scene.camera = camera
    return camera


# ---------------------------------------------------------------------------------------- pictures


def add_panorama(arrived: PanoramaArrival, destination: Destination) -> list[bpy.types.Image]:
    """The picture and its depth as images, chosen in the panel to make a sphere of."""
    scene, _ = home_of(destination)
    picture = image_of_source(destination.panorama) or image_from(arrived.texture, destination.name)
    settings = scene.fieldforge
    settings.panorama = picture
    if arrived.depth is None:
        return [picture]
    depth = image_from(arrived.depth, f"{destination.name} depth")
    settings.depth_from, settings.panorama_depth = "IMAGE", depth
    keep_meaning(settings.depth, arrived.meaning)
    return [picture, depth]


def add_stereo(arrived: StereoArrival, destination: Destination) -> list[bpy.types.Image]:
    """The pictures of the two eyes as images, which no material uses: kept all the same."""
    made = []
    for suffix, texture in arrived.textures.items():
        image = image_from(texture, f"{destination.name} {suffix}")
        image.use_fake_user = True
        made.append(image)
    return made
