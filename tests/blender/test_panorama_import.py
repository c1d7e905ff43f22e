"""A sphere in the file: objects, mesh, pictures, World; saved, loaded again, undone."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import pytest
import spheres
from fieldforge.backend import protocol
from fieldforge.backend.errors import BadInput, StorageFailed
from fieldforge.backend.protocol import DepthMeaning, SphereLayer, SphereResult
from fieldforge.blender_addon.importing import Destination, push_undo
from fieldforge.blender_addon.panorama import arrival, live, scene, textures
from scenes import local_points, world_points


def arrive(result=None, **options):
    """The result on its way from the bytes of the wire into the scene."""
    body = protocol.encode_result(result or spheres.sphere())
    made = arrival.arrived(protocol.decode_result(body), "Room", options)
    return scene.add(made, Destination("Room", np.eye(4), panorama=options))


def pixels_of(image) -> np.ndarray:
    """(H, W, 4) float32, row 0 at the top."""
    values = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(values)
    return values.reshape(image.size[1], image.size[0], -1)[::-1]


def shown_by(item) -> bpy.types.Image:
    nodes = item.data.materials[0].node_tree.nodes
    return next(node.image for node in nodes if node.type == "TEX_IMAGE")


def uvs_of(mesh) -> np.ndarray:
    values = np.empty(2 * len(mesh.loops), np.float32)
    mesh.uv_layers.active.uv.foreach_get("vector", values)
    return values.reshape(-1, 2)


@pytest.mark.parametrize(
    "meaning",
    [
        DepthMeaning(),
        spheres.INVERSE,
        DepthMeaning(meaning="paper", radius=3.0, strength=1.5),
    ],
    ids=lambda meaning: meaning.meaning,
)
def test_vertices_lie_on_the_walls(extension, meaning):
    front, camera = arrive(spheres.sphere(64, meaning))
    expected = spheres.directions_of(64).reshape(-1, 3)
    expected = expected * spheres.distances(expected)[:, None]
    assert np.abs(world_points(front)[: len(expected)] - expected).max() < 1e-3
    assert np.abs(np.array(front.matrix_world) - np.eye(4)).max() == 0
    assert camera.type == "CAMERA"


def test_the_mesh_needs_no_repair(extension):
    front, *_ = arrive()
    mesh = front.data
    layer = spheres.sphere().layers[0]
    corners = np.empty(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    assert np.array_equal(corners, layer.corners)
    sizes = np.empty(len(mesh.polygons), np.int32)
    mesh.polygons.foreach_get("loop_total", sizes)
    assert (sizes[: layer.quads] == 4).all()
    assert (sizes[layer.quads :] == 3).all()
    assert np.array_equal(uvs_of(mesh), layer.uv)
    assert mesh.validate(verbose=True) is False  # nothing was changed
    assert len(mesh.vertices) - len(mesh.edges) + len(mesh.polygons) == 2  # a closed ball


def test_faces_look_at_the_eye(extension):
    front, *_ = arrive()
    mesh = front.data
    middles = np.empty(3 * len(mesh.polygons), np.float32)
    mesh.polygons.foreach_get("center", middles)
    normals = np.empty(3 * len(mesh.polygons), np.float32)
    mesh.polygons.foreach_get("normal", normals)
    inward = np.einsum("ij,ij->i", middles.reshape(-1, 3), normals.reshape(-1, 3))
    assert (inward < 0).all()


def test_the_picture_is_not_mirrored(extension):
    """Looking along X, right is -Y; text runs to the right where u grows to the right."""
    front, *_ = arrive()
    mesh = front.data
    uv, points = uvs_of(mesh), local_points(front)
    middle = int(np.argmin(np.linalg.norm(points / points.max() - [1, 0, 0], axis=1)))
    face = next(each for each in mesh.polygons if middle in each.vertices)
    rightness = {loop: -points[mesh.loops[loop].vertex_index][1] for loop in face.loop_indices}
    upness = {loop: points[mesh.loops[loop].vertex_index][2] for loop in face.loop_indices}
    for axis, growth in ((0, rightness), (1, upness)):
        order = sorted(growth, key=growth.get)
        assert uv[order[-1], axis] > uv[order[0], axis]
    # u is 0.5 - phi / 2 pi: the middle of the picture along X, a quarter to its left along Y.
    corner_points = points[spheres.sphere().layers[0].corners]
    level = np.hypot(*corner_points[:, :2].T) > 0.2
    phi = np.arctan2(corner_points[level, 1], corner_points[level, 0])
    off = (uv[level, 0] - (0.5 - phi / (2 * np.pi)) + 0.5) % 1 - 0.5
    assert np.abs(off).max() < 1e-5


def test_what_is_made(extension):
    made = arrive(spheres.sphere(32, layers=("front", "backing", "sky")))
    (collection,) = bpy.context.scene.collection.children
    assert collection.name == "Room"
    assert [item.name for item in made] == ["Room", "Room backing", "Room sky", "Room camera"]
    assert set(collection.objects) == set(made)
    front, backing, sky, camera = made
    assert {item.parent for item in (backing, sky, camera)} == {front}
    assert bpy.context.view_layer.objects.active == front
    assert bpy.context.selected_objects == [front]
    assert bpy.context.scene.camera == camera
    bpy.context.view_layer.update()
    turn = np.array(camera.matrix_world)
    assert np.allclose(-turn[:3, 2], [1, 0, 0], atol=1e-6)  # looks along X
    assert np.allclose(turn[:3, 1], [0, 0, 1], atol=1e-6)  # with Z up
    assert np.allclose(turn[:3, 3], 0)
    assert live.layers_of(front) == [front, backing, sky]
    assert np.allclose(np.linalg.norm(local_points(sky), axis=1), 20, atol=1e-4)
    assert live.VALUE not in sky.data.attributes


def test_the_picture_shines(extension):
    front, backing, _ = arrive(spheres.sphere(32, layers=("front", "backing")))
    nodes = front.data.materials[0].node_tree.nodes
    assert {node.type for node in nodes} == {"TEX_IMAGE", "EMISSION", "OUTPUT_MATERIAL"}
    image = shown_by(front)
    assert tuple(image.size) == (32, 16)
    assert np.abs(255 * pixels_of(image)[..., :3] - spheres.picture(32)).max() < 0.01
    assert image.packed_file is not None
    assert image.colorspace_settings.name == "sRGB"
    own = shown_by(backing)
    assert own != image
    assert np.allclose(pixels_of(own)[0, 0, :3] * 255, (0, 200, 0), atol=0.01)


def test_pictures_brighter_than_white_stay_so(extension):
    bright = spheres.picture(32).astype(np.float32) * 0.3
    front, *_ = arrive(spheres.sphere(32, image=bright))
    image = shown_by(front)
    assert image.is_float
    assert image.packed_file is not None
    assert np.array_equal(pixels_of(image)[..., :3], bright)
    assert bright.max() > 50


def test_a_second_camera_leaves_the_first_one_alone(extension):
    own = bpy.data.objects.new("Mine", bpy.data.cameras.new("Mine"))
    bpy.context.scene.collection.objects.link(own)
    bpy.context.scene.camera = own
    arrive()
    assert bpy.context.scene.camera == own


def test_ahead_can_be_the_front_view(extension):
    """The object is turned, not the rule by which its picture lies on it."""
    front, camera = arrive(spheres.sphere(64), ahead="Y")
    bpy.context.view_layer.update()
    ahead = spheres.directions_of(64)[16, 32]
    (index,) = np.flatnonzero((spheres.directions_of(64).reshape(-1, 3) == ahead).all(axis=1))
    point = world_points(front)[index]
    assert np.allclose(
        point / np.linalg.norm(point), [ahead[1] * -1, ahead[0], ahead[2]], atol=1e-6
    )
    assert np.allclose(-np.array(camera.matrix_world)[:3, 2], [0, 1, 0], atol=1e-6)


def test_the_world_is_lit_only_when_asked(extension):
    before = bpy.context.scene.world
    front, *_ = arrive()
    assert bpy.context.scene.world == before
    assert front.visible_diffuse
    assert front.visible_shadow
    front, *_ = arrive(world=True)
    world = bpy.context.scene.world
    assert world not in (None, before)
    sky = next(node for node in world.node_tree.nodes if node.type == "TEX_ENVIRONMENT")
    assert sky.image == shown_by(front)
    assert not front.visible_diffuse
    assert not front.visible_shadow
    assert front.visible_camera


def source_image(width=64, name="Hall.png"):
    image = bpy.data.images.new(name, width, width // 2)
    image.pixels.foreach_set(np.full(2 * width * width, 0.25, np.float32))
    return image


def test_the_picture_of_the_file_is_shown_itself(extension):
    source = source_image()
    options = {"image": source.name, "image_uid": source.session_uid, "pack": True}
    front, *_ = arrive(**options)
    assert shown_by(front) == source
    assert source.packed_file is not None  # it was painted, and lay in no file
    assert len(bpy.data.images) == 1


def test_a_picture_that_is_gone_is_no_loss(extension):
    source = source_image()
    options = {"image": source.name, "image_uid": source.session_uid, "pack": True}
    bpy.data.images.remove(source)
    front, *_ = arrive(**options)
    assert shown_by(front).packed_file is not None
    other = source_image()  # of the same name, and another one
    front, *_ = arrive(**options)
    assert shown_by(front) != other


def test_linked_pictures_are_files_beside_the_blender_file(extension, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    folder = tmp_path / "textures"
    for _ in range(2):  # the second one overwrites nothing
        front, *_ = arrive(folder=str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["Room-2.png", "Room.png"]
    image = shown_by(front)
    assert image.packed_file is None
    assert image.filepath == "//textures/Room-2.png"
    assert np.abs(255 * pixels_of(image)[..., :3] - spheres.picture(64)).max() < 0.01


def test_a_folder_that_cannot_be_written_is_told(extension, tmp_path):
    (tmp_path / "textures").write_text("a file")
    with pytest.raises(StorageFailed) as caught:
        arrive(folder=str(tmp_path / "textures"))
    assert "textures" in caught.value.cause
    assert "Packed" in caught.value.remedy
    assert not bpy.data.meshes


def test_a_sphere_without_faces_says_so():
    empty = SphereResult(layers=(SphereLayer(),), image=spheres.picture(16))
    with pytest.raises(BadInput, match="shows nothing"):
        arrival.arrived(empty, "Room", {})


def damaged(**changes) -> bytes:
    layer = SphereLayer(**{**vars(spheres.sphere(16).layers[0]), **changes})
    return protocol.encode_result(SphereResult(layers=(layer,), image=spheres.picture(16)))


@pytest.mark.parametrize(
    "name",
    ["corners", "edges", "corner_edges"],
)
@pytest.mark.parametrize("wrong", [-1, 10_000_000])
def test_a_damaged_sphere_never_reaches_blender(name, wrong):
    """Blender trusts the indices that it is given."""
    array = getattr(spheres.sphere(16).layers[0], name).copy()
    array.flat[3] = wrong
    with pytest.raises(BadInput, match="cannot be read"):
        protocol.decode_result(damaged(**{name: array}))


def test_what_is_saved_is_there_again(extension, tmp_path):
    path = str(tmp_path / "room.blend")
    layers = ("front", "backing", "sky")
    front, *_ = arrive(spheres.sphere(32, layers=layers), world=True)
    front.data.fieldforge_sphere.far = 4.5
    before = local_points(front)
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    front = bpy.data.objects["Room"]
    assert np.array_equal(local_points(front), before)
    image = shown_by(front)
    assert np.abs(255 * pixels_of(image)[..., :3] - spheres.picture(32)).max() < 0.01
    kept = front.data.fieldforge_sphere
    assert kept.far == 4.5
    kept.far = 6.0  # the controls go on where they were
    expected = spheres.directions_of(32).reshape(-1, 3)
    expected = expected * spheres.distances(expected)[:, None]
    assert np.abs(local_points(front)[: len(expected)] - expected).max() < 1e-3


def test_undo_takes_all_of_it_back_in_one_step(extension):
    push_undo("Before")
    arrive(spheres.sphere(32, layers=("front", "backing", "sky")), world=True)
    push_undo("Room")
    bpy.ops.ed.undo()
    assert not bpy.data.objects
    assert not bpy.data.collections
    assert bpy.context.scene.world is None
    assert bpy.context.scene.camera is None
    bpy.ops.ed.redo()
    front = bpy.data.objects["Room"]
    assert len(front.children) == 3
    assert np.abs(255 * pixels_of(shown_by(front))[..., :3] - spheres.picture(32)).max() < 0.01


def test_encoded_pictures_are_read_as_they_were(extension, tmp_path):
    rng = np.random.default_rng(1)
    alpha = rng.integers(0, 256, (7, 13, 4), dtype=np.uint8)
    numbers = rng.normal(size=(37, 21)).astype(np.float32)
    numbers[3, 4], numbers[30, 2] = np.inf, 65_519.5
    for picture in (alpha, numbers):
        texture = textures.texture_of(picture)
        path = Path(tmp_path / f"picture{texture.suffix}")
        path.write_bytes(texture.data)
        image = bpy.data.images.load(str(path))
        image.colorspace_settings.name = "Non-Color"
        image.alpha_mode = "CHANNEL_PACKED"
        found = pixels_of(image)
        if picture.dtype == np.uint8:
            assert np.array_equal(np.rint(255 * found), picture)
        else:
            assert np.array_equal(found[..., 0], picture)


def test_a_panorama_becomes_images_and_is_chosen(extension):
    depth = np.linspace(0, 1, 512, dtype=np.float32).reshape(16, 32)
    meaning = DepthMeaning(meaning="paper", radius=4.0, strength=0.5)
    result = protocol.PanoramaResult(image=spheres.picture(32), depth=depth, meaning=meaning)
    picture, numbers = arrive(result)
    settings = bpy.context.scene.fieldforge
    assert settings.panorama == picture
    assert settings.panorama_depth == numbers
    assert settings.depth_from == "IMAGE"
    assert (settings.depth.meaning, settings.depth.radius) == ("paper", 4.0)
    assert numbers.colorspace_settings.name == "Non-Color"
    assert np.array_equal(pixels_of(numbers)[..., 0], depth)
    assert numbers.packed_file is not None


@pytest.mark.parametrize("layout", ["STACK", "EYES"])
def test_a_stereo_pair_becomes_images_that_stay(extension, tmp_path, layout):
    left, right = np.full((8, 16, 3), 40, np.uint8), np.full((8, 16, 3), 200, np.uint8)
    made = arrive(protocol.StereoResult(left=left, right=right), stereo=layout)
    names = [image.name for image in made]
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "eyes.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "eyes.blend"))
    found = [np.rint(255 * pixels_of(bpy.data.images[name])[..., 0]) for name in names]
    if layout == "STACK":
        (both,) = found
        assert both.shape == (16, 16)
        assert (both[:8] == 40).all()
        assert (both[8:] == 200).all()
    else:
        assert names == ["Room left", "Room right"]
        assert (found[0] == 40).all()
        assert (found[1] == 200).all()
