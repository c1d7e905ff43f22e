import threading
import time

import bpy
import numpy as np
import pytest
from fieldforge.backend.errors import BadInput
from fieldforge.backend.protocol import MeshResult
from fieldforge.blender_addon import capture, compose, importing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mathutils import Euler, Matrix
from scenes import cloud, palette, world_points

CHOICES = compose.Choices("wavelet-fit", 256)


def _grid(side: int) -> compose.PlacedMesh:
    """An undulating sheet of 2 (side - 1)^2 triangles."""
    line = np.linspace(0, 1, side, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    vertices = np.stack([x, y, np.sin(9 * x * y) / 9], axis=-1).reshape(-1, 3)
    index = np.arange(side * side).reshape(side, side)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    triangles = np.stack([a, b, c, a, c, d], axis=-1).reshape(-1, 3).astype(np.int32)
    colors = palette(side * side).astype(np.float32) / 255
    return compose.PlacedMesh(vertices, triangles, *compose.edges_of(triangles, side**2), colors)


def _from_pydata(placed: compose.PlacedMesh):
    mesh = bpy.data.meshes.new("slow")
    mesh.from_pydata(placed.vertices.tolist(), [], placed.triangles.tolist())
    mesh.update()
    return mesh


def measure_import(placed: compose.PlacedMesh) -> tuple[float, float]:
    """Seconds on the main thread: (ours, from_pydata with Python lists); the better of two each."""
    ours, lists = [], []
    for _ in range(2):
        begun = time.perf_counter()
        created = importing.add_mesh(placed, importing.Destination("fast", np.eye(4)))
        ours.append(time.perf_counter() - begun)
        bpy.data.meshes.remove(created.data)
        begun = time.perf_counter()
        mesh = _from_pydata(placed)
        lists.append(time.perf_counter() - begun)
        bpy.data.meshes.remove(mesh)
    return min(ours), min(lists)


def test_a_million_faces_come_in_fast(empty_scene):
    placed = _grid(708)
    ours, lists = measure_import(placed)
    print(
        f"{len(placed.triangles):,} faces: {ours:.3f} s on the main thread, from_pydata "
        f"{lists:.3f} s, {lists / ours:.1f} times faster"
    )
    assert lists >= 10 * ours


def test_the_mesh_is_the_one_that_blender_would_make(empty_scene):
    placed = _grid(20)
    mesh, reference = importing.mesh_from_arrays("fast", placed), _from_pydata(placed)
    assert not mesh.validate(verbose=True)  # nothing had to be mended
    assert len(mesh.edges) == len(reference.edges)
    assert {tuple(edge.vertices) for edge in mesh.edges} == {
        tuple(sorted(edge.vertices)) for edge in reference.edges
    }
    for loop, following in zip(mesh.loops, list(mesh.loops)[1:], strict=False):
        if loop.index % 3 != 2:
            assert set(mesh.edges[loop.edge_index].vertices) == {
                loop.vertex_index,
                following.vertex_index,
            }
    assert all(polygon.use_smooth for polygon in mesh.polygons)
    assert [tuple(p.vertices) for p in mesh.polygons] == [
        tuple(p.vertices) for p in reference.polygons
    ]


def test_colours_arrive_byte_for_byte(empty_scene):
    mesh = importing.mesh_from_arrays("fast", _grid(20))
    active = mesh.color_attributes.active_color
    assert (active.name, active.domain, active.data_type) == ("Color", "POINT", "BYTE_COLOR")
    values = np.zeros(4 * 400, np.float32)
    active.data.foreach_get("color_srgb", values)
    assert np.array_equal(np.rint(values * 255).astype(np.uint8).reshape(-1, 4), palette(400))


scales = st.floats(0.05, 20) | st.floats(-20, -0.05)
turns = st.tuples(*[st.floats(-3.2, 3.2)] * 3)
matrices = st.builds(
    lambda place, turn, scale: Matrix.LocRotScale(place, Euler(turn), scale),
    st.tuples(*[st.floats(-1000, 1000)] * 3),
    turns,
    st.tuples(scales, scales, scales),
)


@given(matrix=matrices, turn_in_parent=st.none() | turns, seed=st.integers(0, 1000))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_result_lies_exactly_on_its_source(extension, matrix, turn_in_parent, seed):
    """Whatever the source's transform: same place, outward normals outward. A source that is turned
    inside a stretched parent is sheared."""
    from mathutils.bvhtree import BVHTree

    for item in list(bpy.data.objects):
        bpy.data.objects.remove(item)
    source = cloud(seed=seed, normals="normal")
    if turn_in_parent is None:
        source.matrix_world = matrix
    else:
        source.parent = bpy.data.objects.new("Parent", None)
        bpy.context.scene.collection.objects.link(source.parent)
        source.parent.matrix_world = matrix
        source.rotation_euler = turn_in_parent
    bpy.context.view_layer.update()
    expected = world_points(source)
    task, placement = compose.compose(capture.capture(bpy.context), CHOICES)

    world = np.array(source.matrix_world, np.float64)
    size = np.abs(expected - expected.mean(axis=0)).max()
    in_task = task.points + placement.centre
    assert np.abs(in_task - (expected - world[:3, 3])).max() <= 1e-6 * size + 1e-9
    _normals_stay_normal(task, source, world)

    hull = _hull(task.points)
    placed = compose.place(MeshResult(name="x", vertices=task.points, faces=hull), placement)
    created = importing.add_mesh(placed, importing.Destination("x mesh", world))
    assert (
        np.abs(world_points(created) - expected).max()
        <= 1e-5 * size + 1e-7 * np.abs(expected).max()
    )
    if turn_in_parent is None:
        assert np.abs(np.array(created.matrix_world) - world).max() <= 1e-5 * np.abs(world).max()
    tree = BVHTree.FromPolygons(placed.vertices.tolist(), placed.triangles.tolist())
    middle = placed.vertices.mean(axis=0)
    for place, normal, *_ in (
        tree.find_nearest(3 * (v - middle) + middle) for v in placed.vertices[:9]
    ):
        assert np.dot(normal, np.array(place) - middle) > 0


def _normals_stay_normal(task, source, world) -> None:
    """A tangent of the surface stays at right angles; outward stays outward."""
    attribute = np.zeros(3 * len(task.points), np.float32)
    source.data.attributes["normal"].data.foreach_get("vector", attribute)
    local = attribute.reshape(-1, 3).astype(np.float64)
    tangents = np.cross(local, [0.3, -0.5, 0.8]) @ world[:3, :3].T
    lengths = np.linalg.norm(tangents, axis=1)
    assert np.abs(np.einsum("ij,ij->i", tangents, task.normals) / lengths).max() < 1e-4
    assert (np.einsum("ij,ij->i", local @ world[:3, :3].T, task.normals) > 0).all()


def _hull(points) -> np.ndarray:
    """The convex hull of (N, 3) points, (F, 3) int32, counter-clockwise from outside."""
    import bmesh

    mesh = bmesh.new()
    for point in points:
        mesh.verts.new(point)
    mesh.verts.index_update()
    bmesh.ops.convex_hull(mesh, input=mesh.verts)
    faces = np.array([[v.index for v in face.verts] for face in mesh.faces], np.int32)
    mesh.free()
    corner = points[faces].astype(np.float64)
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    inward = np.einsum("ij,ij->i", normal, corner[:, 0] - points.mean(axis=0)) < 0
    faces[inward] = faces[inward][:, ::-1]
    return faces


def test_a_mirrored_source_flips_the_winding(empty_scene):
    linear = np.diag([-1.0, 1, 1])
    result = MeshResult(
        name="x", vertices=np.eye(3, dtype=np.float32), faces=np.array([[0, 1, 2]], np.int32)
    )
    placed = compose.place(result, compose.Placement(linear=linear))
    assert placed.triangles.tolist() == [[2, 1, 0]]


def textured(**changes) -> MeshResult:
    """Two triangles; the place of each corner in the texture is that of its vertex."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    fields = {
        "vertices": vertices,
        "faces": faces,
        "uv": vertices[faces.ravel(), :2] * 0.5,
        "texture": (np.arange(4 * 6 * 3) * 3).astype(np.uint8).reshape(4, 6, 3),
    }
    return MeshResult(name="x", **(fields | changes))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_texture_stays_at_its_vertices(empty_scene, mirrored):
    linear = np.diag([-1.0 if mirrored else 1.0, 1, 1])
    placed = compose.place(textured(), compose.Placement(linear=linear))
    mesh = importing.mesh_from_arrays("x", placed)
    assert not mesh.validate()
    for loop, uv in zip(mesh.loops, mesh.uv_layers[0].uv, strict=True):
        corner = mesh.vertices[loop.vertex_index].co
        assert tuple(uv.vector) == (abs(corner.x) * 0.5, corner.y * 0.5)
    (node,) = [n for n in mesh.materials[0].node_tree.nodes if n.type == "TEX_IMAGE"]
    width, height = node.image.size
    values = np.array(node.image.pixels[:]).reshape(height, width, 4)[::-1, :, :3]
    assert np.array_equal(np.rint(255 * values), textured().texture)
    assert node.image.packed_file is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"uv": np.zeros((5, 2), np.float32)},
        {"uv": None},
        {"texture": None},
        {"texture": np.zeros((4, 4, 2), np.uint8)},
        {"texture": np.zeros((4, 4, 3), np.float32)},
        {"texture": np.zeros((0, 4, 3), np.uint8)},
    ],
)
def test_a_texture_that_does_not_fit_is_refused(changes):
    with pytest.raises(BadInput, match="does not fit its mesh"):
        compose.place(textured(**changes), compose.Placement())


@pytest.mark.parametrize("faces", [[[0, 1, 3]], [[0, 1, -1]], [[0, 1]]])
def test_a_damaged_mesh_never_reaches_blender(faces):
    result = MeshResult(vertices=np.zeros((3, 3), np.float32), faces=np.array(faces, np.int32))
    with pytest.raises(BadInput, match="damaged"):
        compose.place(result, compose.Placement())


def test_an_empty_mesh_says_what_to_do():
    with pytest.raises(BadInput) as caught:
        compose.place(MeshResult(), compose.Placement())
    assert "resolution" in caught.value.remedy


def test_the_object_is_linked_beside_its_source(empty_scene):
    inner = bpy.data.collections.new("Scans")
    bpy.context.scene.collection.children.link(inner)
    destination = importing.Destination("Chair mesh", np.eye(4), "Scene", "Scans")
    created = importing.add_mesh(_grid(5), destination)
    assert created.name in inner.objects
    assert created.select_get()
    assert bpy.context.view_layer.objects.active == created
    assert bpy.context.selected_objects == [created]


def test_a_collection_that_is_gone_is_no_loss(empty_scene):
    destination = importing.Destination("Chair mesh", np.eye(4), "gone", "gone", ["gone"])
    created = importing.add_mesh(_grid(5), destination)
    assert created.name in bpy.context.scene.collection.objects


def test_undo_steps_are_safe_while_threads_run(extension, tmp_path):
    """Under temp_override this ends Blender with a segmentation fault, within a few attempts."""
    over = threading.Event()

    def write():
        while not over.is_set():
            (tmp_path / "file").write_text("text")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(100):
            cloud(f"Cloud {number}", count=8)
            importing.push_undo("A cloud")
    finally:
        over.set()
        thread.join()
    bpy.ops.ed.undo()
    assert "Cloud 98" in bpy.data.objects
    assert "Cloud 99" not in bpy.data.objects
