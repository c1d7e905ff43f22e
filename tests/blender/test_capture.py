import time

import bpy
import numpy as np
import pytest
from fieldforge.backend.errors import BadInput
from fieldforge.blender_addon import capture, compose
from mathutils import Matrix
from scenes import (
    add_nodes,
    cloud,
    cube,
    local_points,
    palette,
    place_object,
    select,
    to_point_cloud,
)

CHOICES = compose.Choices("wavelet-fit", 256)


@pytest.fixture
def settings(extension):
    return bpy.context.scene.fieldforge


def _composed():
    return compose.compose(capture.capture(bpy.context), CHOICES)


def test_loose_vertices_arrive_exactly(settings):
    source = cloud()
    captured = capture.capture(bpy.context)
    assert np.array_equal(captured.points, local_points(source))
    assert captured.normals is None
    assert captured.colors is None
    task, placement = compose.compose(captured, CHOICES)
    assert task.points.dtype == np.float32
    assert np.abs(task.points + placement.centre - captured.points).max() < 1e-6
    assert np.abs(task.points.max(axis=0) + task.points.min(axis=0)).max() < 1e-6  # centred


def test_a_scan_far_from_its_origin_keeps_its_detail(settings):
    source = cloud()
    source.data.attributes["position"].data.foreach_set(
        "vector", (local_points(source) * 0.001).ravel()
    )
    source.matrix_world.translation = (4e6, 5e6, 100.0)
    task, placement = _composed()
    assert np.abs(placement.centre).max() < 1  # the place in the world is no part of it
    assert np.abs(task.points + placement.centre - local_points(source)).max() < 1e-9


@pytest.mark.parametrize("name", ["normal", "normals", "N"])
def test_normals_of_an_attribute(settings, name):
    source = cloud(normals=name)
    task, _ = _composed()
    points = local_points(source)
    expected = points / np.linalg.norm(points, axis=1, keepdims=True)
    assert np.abs(task.normals - expected).max() < 1e-6
    assert capture.facts(bpy.context).text.endswith("with normals")


def test_normals_of_three_columns(settings):
    source = cloud()
    points = local_points(source)
    for axis, name in enumerate(("nx", "ny", "nz")):
        attribute = source.data.attributes.new(name, "FLOAT", "POINT")
        attribute.data.foreach_set("value", points[:, axis].copy())
    assert np.array_equal(capture.capture(bpy.context).normals, points)


def test_the_ply_importer_s_normals_and_colours(settings, tmp_path):
    rows = [f"{i % 5} {i % 7} {i % 9} 0 0.6 0.8 255 128 {i}" for i in range(60)]
    head = "ply\nformat ascii 1.0\nelement vertex 60\n"
    head += "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz"))
    head += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    (tmp_path / "scan.ply").write_text(head + "end_header\n" + "\n".join(rows) + "\n")
    bpy.ops.wm.ply_import(filepath=str(tmp_path / "scan.ply"))
    captured = capture.capture(bpy.context)
    assert np.abs(np.linalg.norm(captured.normals, axis=1) - 1).max() < 1e-6
    task, _ = compose.compose(captured, CHOICES)
    expected = np.array([[255, 128, i, 255] for i in range(60)], np.uint8)
    assert np.array_equal(task.colors, expected)


@pytest.mark.parametrize("spoilt", [(0, 0, 0), (np.nan, 0, 1)])
def test_a_normal_without_direction_costs_only_itself(settings, spoilt):
    source = cloud(normals="normal")
    source.data.attributes["normal"].data[3].vector = spoilt
    normals = _composed()[0].normals
    assert normals[3].tolist() == [0, 0, 0]
    assert np.allclose(np.linalg.norm(np.delete(normals, 3, axis=0), axis=1), 1, atol=1e-6)


def test_normals_that_are_all_zero_are_no_normals(settings):
    source = cloud(normals="normal")
    source.data.attributes["normal"].data.foreach_set("vector", np.zeros(600, np.float32))
    assert _composed()[0].normals is None


def test_vertices_of_a_mesh_are_taken_only_when_asked(settings):
    bpy.ops.mesh.primitive_uv_sphere_add(segments=16, ring_count=12)
    assert "faces" in capture.facts(bpy.context).reason
    with pytest.raises(BadInput, match="faces"):
        capture.capture(bpy.context)
    settings.take_vertices = True
    assert capture.facts(bpy.context).reason == ""
    captured = capture.capture(bpy.context)
    unit = captured.points / np.linalg.norm(captured.points, axis=1, keepdims=True)
    assert (np.einsum("ij,ij->i", captured.normals, unit) > 0.99).all()


def test_modifiers_are_used_or_not(settings):
    source = cloud(count=60)
    modifier = source.modifiers.new("Array", "ARRAY")
    modifier.count = 3
    assert "180 points" in capture.facts(bpy.context).text
    assert len(capture.capture(bpy.context).points) == 180
    settings.use_modifiers = False
    assert "60 points" in capture.facts(bpy.context).text
    assert len(capture.capture(bpy.context).points) == 60


def test_a_pointcloud_object(settings):
    source = cloud(colors="BYTE_COLOR", normals="normal")
    points = local_points(source)
    if not to_point_cloud():
        assert bpy.app.version < (5, 0)  # there, only geometry nodes make point clouds
        return
    assert bpy.context.object.type == "POINTCLOUD"
    assert "200 points, with normals, with colors" in capture.facts(bpy.context).text
    captured = capture.capture(bpy.context)
    assert np.array_equal(captured.points, points)
    assert np.array_equal(captured.normals, points)
    assert np.array_equal(compose.compose(captured, CHOICES)[0].colors, palette(200))


def test_a_mesh_that_geometry_nodes_turn_into_points(settings):
    """The vertices of a mesh with faces, as points: what Mesh to Points is used for."""
    bpy.ops.mesh.primitive_uv_sphere_add(segments=16, ring_count=12)
    source = bpy.context.object
    source.matrix_world = Matrix.Translation((1, 2, 3)) @ Matrix.Diagonal((1, -2, 0.5, 1))
    colors = source.data.color_attributes.new("Col", "BYTE_COLOR", "POINT")
    wanted = palette(len(source.data.vertices))
    colors.data.foreach_set("color_srgb", wanted.ravel().astype(np.float32) / 255)
    add_nodes(source, "GeometryNodeMeshToPoints", "Mesh")
    found = capture.facts(bpy.context)
    assert (found.reason, found.has_faces) == ("", False)
    assert f"{len(wanted)} points, no normals, with colors" in found.text
    captured = capture.capture(bpy.context)
    assert np.array_equal(captured.points, local_points(source))
    assert np.array_equal(compose.compose(captured, CHOICES)[0].colors, wanted)
    settings.source = "VOXELS"
    assert "no inside" in capture.facts(bpy.context).reason
    settings.source, settings.use_modifiers = "POINTS", False
    assert "faces" in capture.facts(bpy.context).reason


def test_points_of_geometry_nodes_are_read_while_they_are_hidden(settings):
    """A source that was hidden once its mesh was there can be generated from again."""
    source = cloud(colors="BYTE_COLOR")
    add_nodes(source, "GeometryNodeMeshToPoints", "Mesh")
    said = capture.facts(bpy.context).text
    source.hide_set(True)
    settings.object_from, settings.pinned = "PINNED", source
    bpy.context.view_layer.update()
    found = capture.facts(bpy.context)
    assert (found.text, found.reason) == (said + " (hidden)", "")
    assert np.array_equal(capture.capture(bpy.context).points, local_points(source))
    assert source.hide_get()
    source.hide_viewport = True  # another way to hide, that stays
    bpy.context.view_layer.update()
    assert "not in the viewport" in capture.facts(bpy.context).reason
    with pytest.raises(BadInput, match="not in the viewport"):
        capture.capture(bpy.context)


def test_what_geometry_nodes_instance_is_not_the_source(settings):
    """Instances of something else are no points: their places alone would be misleading."""
    source = cloud()
    add_nodes(source, "GeometryNodeMeshToPoints", "Mesh", "GeometryNodeInstanceOnPoints", "Points")
    assert "neither points nor a mesh" in capture.facts(bpy.context).reason


def test_byte_colours_of_millions_of_points_are_read_at_once(settings):
    cloud(count=3_000_000, colors="BYTE_COLOR")
    attribute = bpy.context.object.data.attributes["Col"]
    begun = time.perf_counter()
    colors = capture._read_colors(bpy.context.object.data)
    took = time.perf_counter() - begun
    values = np.zeros(4 * 3_000_000, np.float32)
    begun = time.perf_counter()
    attribute.data.foreach_get("color_srgb", values)
    slow = time.perf_counter() - begun
    print(f"colours of 3,000,000 points: {took * 1000:.0f} ms; foreach_get: {slow * 1000:.0f} ms")
    assert np.array_equal(colors.values, palette(3_000_000))
    assert took * 3 < slow


@pytest.mark.parametrize("kind", ["FLOAT_COLOR", "BYTE_COLOR"])
def test_point_colours_are_exact(settings, kind):
    cloud(colors=kind)
    assert np.array_equal(_composed()[0].colors, palette(200))


@pytest.mark.parametrize("kind", ["FLOAT_COLOR", "BYTE_COLOR"])
def test_corner_colours_go_to_their_vertex(settings, kind):
    bpy.ops.mesh.primitive_uv_sphere_add(segments=16, ring_count=12)
    settings.take_vertices = True
    mesh = bpy.context.object.data
    corners = np.zeros(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    wanted = palette(len(mesh.vertices))
    attribute = mesh.color_attributes.new("Col", kind, "CORNER")
    values = wanted[corners].ravel().astype(np.float32) / 255
    attribute.data.foreach_set("color_srgb", values)
    assert np.array_equal(_composed()[0].colors, wanted)


def test_linear_colours_follow_the_srgb_curve():
    levels = np.array([0.0, 0.002, 0.0031308, 0.2140411, 0.5, 1.0, 7.0])
    expected = [0.0, 0.02584, 0.04045, 0.5, 0.7353570, 1.0, 1.0]
    assert np.abs(compose.srgb_from_linear(levels) - expected).max() < 1e-4


def test_edit_mode_shows_what_is_being_edited(settings):
    source = cloud(count=60)
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.transform.translate(value=(0, 0, 5))
    captured = capture.capture(bpy.context)
    bpy.ops.object.mode_set(mode="OBJECT")
    assert np.array_equal(captured.points, local_points(source))
    assert captured.points[:, 2].mean() > 4


def test_a_flattened_source_is_refused(settings):
    source = cloud()
    source.scale = (1, 0, 1)
    bpy.context.view_layer.update()
    with pytest.raises(BadInput) as caught:
        _composed()
    assert "flattened" in caught.value.cause
    assert "scale" in caught.value.remedy


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p.__setitem__(5, np.nan), "not numbers"),
        (lambda p: p.__setitem__((slice(None), 2), 0), "a plane"),
        (lambda p: p.__setitem__((slice(None), slice(1, 3)), 0), "a line"),
        (lambda p: p.__setitem__(slice(None), 1.5), "same place"),
    ],
)
def test_unusable_points_are_refused(settings, spoil, words):
    source = cloud()
    points = local_points(source)
    spoil(points)
    source.data.attributes["position"].data.foreach_set("vector", points.ravel())
    with pytest.raises(BadInput) as caught:
        _composed()
    assert words in caught.value.cause
    assert caught.value.remedy


def test_millions_of_points_are_read_at_once(settings):
    cloud(count=3_000_000)
    begun = time.perf_counter()
    captured = capture.capture(bpy.context)
    took = time.perf_counter() - begun
    begun = time.perf_counter()
    slow = [tuple(vertex.co) for vertex in bpy.context.object.data.vertices[:30_000]]
    loop = (time.perf_counter() - begun) * 100
    print(f"capture of 3,000,000 points: {took * 1000:.0f} ms; a Python loop: {loop * 1000:.0f} ms")
    assert len(slow) == 30_000
    assert len(captured.points) == 3_000_000
    assert took * 10 < loop


# ------------------------------------------------------------------------------------------ voxels


def _voxels_of(settings, source, size):
    select(source)
    settings.source, settings.voxels_from, settings.voxel_size = "VOXELS", "MESH", size
    return _composed()[0]


@pytest.mark.parametrize("size", [0.1, 0.0371])
def test_voxels_of_a_sphere_have_its_volume(settings, size):
    bpy.ops.mesh.primitive_ico_sphere_add(subdivisions=5, radius=1)
    task = _voxels_of(settings, bpy.context.object, size)
    volume = task.occupancy.sum() * size**3
    assert abs(volume / (4 / 3 * np.pi) - 1) < 0.03
    centres = np.argwhere(task.occupancy) + 0.5
    centres = np.array(task.origin) + centres * np.array(task.voxel_size)
    assert np.linalg.norm(centres, axis=1).max() < 1.0001
    empty = np.array(task.origin) + (np.argwhere(~task.occupancy) + 0.5) * size
    assert np.linalg.norm(empty, axis=1).min() > 0.995


def test_voxels_of_a_box_are_exact(settings):
    box = cube(size=(1.0, 0.5, 0.75))
    task = _voxels_of(settings, box, 0.05)
    filled = np.argwhere(task.occupancy)
    assert (filled.max(axis=0) - filled.min(axis=0) + 1).tolist() == [20, 10, 15]
    assert task.occupancy.sum() == 20 * 10 * 15


def test_every_ray_through_shared_edges_is_counted_once():
    """A grid whose rays meet vertices and edges exactly: the case in which parity goes wrong."""
    n = 9
    grid = np.stack(np.meshgrid(*[np.arange(n)] * 2, indexing="ij"), -1).reshape(-1, 2)
    quads = np.array(
        [
            [i * n + j, (i + 1) * n + j, (i + 1) * n + j + 1, i * n + j + 1]
            for i in range(n - 1)
            for j in range(n - 1)
        ]
    )
    top = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    vertices = np.concatenate([np.c_[grid, 0 * grid[:, 0]], np.c_[grid, 0 * grid[:, 0] + 4.5]])
    rim = [*range(n)] + [i * n + n - 1 for i in range(1, n)]
    rim += [n * n - 1 - i for i in range(1, n)] + [i * n for i in range(n - 2, 0, -1)]
    after = rim[1:] + rim[:1]
    walls = [(a, b, b + n * n) for a, b in zip(rim, after, strict=True)]
    walls += [(a, b + n * n, a + n * n) for a, b in zip(rim, after, strict=True)]
    triangles = np.concatenate([top, top + n * n, walls]).astype(np.int32)
    assert compose.count_open_edges(triangles) == 0
    inside = compose.fill(vertices.astype(np.float64) + 1e-12, triangles, (12, 12, 8))
    columns = inside.any(axis=2)
    assert columns[1:8, 1:8].all()  # the rays well inside, all through vertices of the grid
    assert not columns[9:].any()
    assert not columns[:, 9:].any()
    assert (inside.sum(axis=2)[1:8, 1:8] == inside.sum(axis=2)[4, 4]).all()


def test_an_open_mesh_says_so(settings):
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=4, y_subdivisions=4)
    with pytest.raises(BadInput) as caught:
        _voxels_of(settings, bpy.context.object, 0.1)
    assert "is open: 16 edges" in caught.value.cause
    assert "Fill Holes" in caught.value.remedy


def test_a_voxel_size_that_is_too_small_says_which_is_not(settings):
    box = cube()
    settings.source, settings.voxel_size = "VOXELS", 0.001
    found = capture.facts(bpy.context)
    assert "512" in found.reason
    assert "0.002 m" in found.advice
    settings.voxel_size = 0.002
    assert capture.facts(bpy.context).reason == ""
    assert _voxels_of(settings, box, 0.002).occupancy.sum() == 500**3


def test_a_mesh_thinner_than_a_voxel(settings):
    """Two grains at opposite corners: no centre of a voxel is inside either."""
    first, second = cube(size=(0.01,) * 3), cube(size=(0.01,) * 3, location=(1, 1, 1))
    select(first, second)
    bpy.ops.object.join()
    with pytest.raises(BadInput) as caught:
        _voxels_of(settings, first, 0.15)
    assert "thinner than a voxel" in caught.value.cause
    assert "smaller voxel size" in caught.value.remedy


CELLS = [(x, y, z) for x in range(9) for y in range(4) for z in range(3) if (x + y * z) % 3]


def _cubes(turn=(0.3, 0.2, 0.9), size=0.25):
    from mathutils import Euler, Matrix

    frame = Matrix.Translation((3, -2, 7)) @ Euler(turn).to_matrix().to_4x4()
    mesh = cube("seed", size=(size,) * 3).data
    bpy.data.objects.remove(bpy.data.objects["seed"])
    made = []
    for number, cell in enumerate(CELLS):
        item = bpy.data.objects.new(f"Voxel.{number:03}", mesh)
        bpy.context.scene.collection.objects.link(item)
        quarter = Euler([np.pi / 2 * (number % 4), 0, 0]).to_matrix().to_4x4()
        item.matrix_world = frame @ Matrix.Translation([size * c for c in cell]) @ quarter
        made.append(item)
    bpy.context.view_layer.update()
    select(*made)
    return made, frame


def test_cubes_become_voxels_in_their_own_frame(settings):
    settings.source, settings.voxels_from = "VOXELS", "CUBES"
    made, _ = _cubes()
    assert capture.facts(bpy.context).text == f"{len(made)} cubes"
    task, placement = _composed()
    assert task.occupancy.sum() == len(CELLS)
    inner = np.array(task.origin) + (np.argwhere(task.occupancy) + 0.5) * task.voxel_size
    world = inner @ placement.matrix_world[:3, :3].T + placement.matrix_world[:3, 3]
    expected = np.array([item.matrix_world.translation for item in made])
    gaps = np.linalg.norm(world[:, None] - expected[None], axis=2)
    assert gaps.min(axis=1).max() < 1e-5
    assert gaps.min(axis=0).max() < 1e-5


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda item: setattr(item, "location", item.location + item.location.orthogonal() * 0.02),
         "grid"),
        (lambda item: setattr(item, "rotation_euler", (0.1, 0.5, 0.2)), "turned"),
        (lambda item: setattr(item, "scale", (1.2, 1.2, 1.2)), "size"),
    ],
)  # fmt: skip
def test_a_cube_that_does_not_fit_is_named(settings, spoil, words):
    settings.source, settings.voxels_from = "VOXELS", "CUBES"
    made, _ = _cubes()
    spoil(made[7])
    bpy.context.view_layer.update()
    with pytest.raises(BadInput) as caught:
        _composed()
    assert made[7].name in caught.value.cause
    assert words in caught.value.cause


def test_two_cubes_are_enough(settings):
    settings.source, settings.voxels_from = "VOXELS", "CUBES"
    first, second = cube("A"), cube("B", location=(1, 0, 0))
    bpy.context.view_layer.update()
    select(first, second)
    task, _ = _composed()
    assert task.occupancy.sum() == 2
    assert max(task.occupancy.shape) >= 8


def test_what_is_no_box_is_left_out(settings):
    settings.source, settings.voxels_from = "VOXELS", "CUBES"
    box, points = cube("A"), cloud()
    select(box, points)
    assert capture.facts(bpy.context).text == "1 cube, 1 other object left out"


# ------------------------------------------------------------------------------------------- facts


def test_facts_in_words(settings):
    cloud(count=48210)
    assert capture.facts(bpy.context).text == "Armchair_scan: 48,210 points, no normals"
    select()
    found = capture.facts(bpy.context)
    assert found.text == "Nothing is selected."
    assert found.advice


def test_facts_are_kept_until_something_changes(settings, monkeypatch):
    cloud()
    looked = []
    real = capture._look
    monkeypatch.setattr(capture, "_look", lambda *a: (looked.append(1), real(*a))[1])
    bpy.context.view_layer.update()
    capture.forget_facts()
    for _ in range(5):
        capture.facts(bpy.context)
    assert len(looked) == 1
    bpy.context.object.location.x += 1
    bpy.context.view_layer.update()
    capture.facts(bpy.context)
    assert len(looked) == 2


def test_a_pinned_source_stays_whatever_is_selected(settings):
    source, other = cloud(), cloud("Other")
    settings.pinned, settings.object_from = source, "PINNED"
    select(other)
    assert capture.facts(bpy.context).text.startswith("Armchair_scan:")
    assert capture.capture(bpy.context).name == "Armchair_scan"
    settings.pinned = None
    assert capture.facts(bpy.context).text == "No object is pinned."


def test_a_light_is_no_source(settings):
    place_object(bpy.data.lights.new("Lamp", "POINT"), "Lamp")
    found = capture.facts(bpy.context)
    assert found.text == "Lamp: light"
    assert "point cloud" in found.advice
