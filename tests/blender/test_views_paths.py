"""Where cameras stand along curves and around a middle, beside what Blender makes of the curves."""

import bpy
import numpy as np
import pytest
from fieldforge.backend.errors import BadInput
from fieldforge.backend.protocol import ring_poses
from fieldforge.blender_addon.views import curves, paths


def curve(kind: str, points: np.ndarray, **options):
    """A curve object of one spline, turned and stretched in the world. points: (N, 4)."""
    data = bpy.data.curves.new("Path", "CURVE")
    data.dimensions = "3D"
    spline = data.splines.new(kind)
    if kind == "BEZIER":
        spline.bezier_points.add(len(points) - 1)
        for control, place in zip(spline.bezier_points, points, strict=True):
            control.co = place[:3]
            control.handle_left_type = control.handle_right_type = "FREE"
            control.handle_left = place[:3] - [0.5, 0.2, 0.1]
            control.handle_right = np.add(place[:3], [0.4, 0.3, -0.2])
    else:
        spline.points.add(len(points) - 1)
        spline.points.foreach_set("co", points.astype(np.float32).ravel())
    spline.resolution_u = 12
    for name, value in options.items():
        setattr(spline, name, value)
    item = bpy.data.objects.new("Path", data)
    bpy.context.scene.collection.objects.link(item)
    item.rotation_euler, item.scale, item.location = (0.2, 0.4, 1.0), (1, 2, 0.7), (3, -1, 2)
    bpy.context.view_layer.update()
    return item


def made_by_blender(item) -> np.ndarray:
    evaluated = item.evaluated_get(bpy.context.evaluated_depsgraph_get())
    mesh = evaluated.to_mesh()
    points = np.array([vertex.co[:] for vertex in mesh.vertices], np.float64)
    evaluated.to_mesh_clear()
    matrix = np.array(item.matrix_world, np.float64)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def distance_to(points: np.ndarray, line: paths.Line) -> np.ndarray:
    """How far (P, 3) points are from a line."""
    begin = line.points if line.closed else line.points[:-1]
    end = np.roll(line.points, -1, axis=0) if line.closed else line.points[1:]
    way = end - begin
    length = np.maximum((way**2).sum(axis=1), 1e-30)
    share = np.clip(np.einsum("pkj,kj->pk", points[:, None] - begin, way) / length, 0, 1)
    nearest = begin + share[..., None] * way
    return np.linalg.norm(points[:, None] - nearest, axis=2).min(axis=1)


POINTS = np.random.default_rng(3).normal(size=(7, 4)) * 2
POINTS[:, 3] = np.random.default_rng(4).uniform(0.5, 2, 7)
SPLINES = [
    ("POLY", {}),
    ("POLY", {"use_cyclic_u": True}),
    ("BEZIER", {}),
    ("BEZIER", {"use_cyclic_u": True}),
    *(
        ("NURBS", {"order_u": order, "use_cyclic_u": closed, "use_endpoint_u": ends})
        for order in (2, 3, 4, 5)
        for closed in (False, True)
        for ends in (False, True)
    ),
]


@pytest.mark.parametrize(("kind", "options"), SPLINES)
def test_the_line_of_a_curve_is_blender_s(empty_scene, kind, options):
    item = curve(kind, POINTS, **options)
    line = curves.line_of(item)
    expected = made_by_blender(item)
    assert line.closed == options.get("use_cyclic_u", False)
    assert len(expected) >= 7
    assert distance_to(expected, line).max() < 0.01  # of some 10 metres: pieces are straight
    assert np.allclose(line.points[0], expected[0], atol=1e-5)
    if not line.closed:
        assert np.allclose(line.points[-1], expected[-1], atol=1e-5)


def test_the_first_spline_that_is_long_is_taken(empty_scene):
    item = curve("POLY", np.zeros((2, 4)))
    with pytest.raises(BadInput, match="Path has no line"):
        curves.line_of(item)
    second = item.data.splines.new("POLY")
    second.points.add(1)
    second.points[1].co = (1, 0, 0, 1)
    assert paths.length_of(curves.line_of(item)) > 0
    item.data.splines[1].type = "NURBS"
    item.data.splines[1].use_bezier_u = True
    with pytest.raises(BadInput, match="Bezier pieces"):
        curves.line_of(item)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("count", [2, 5, 12])
def test_cameras_stand_at_even_arc_lengths(closed, count):
    turn = np.linspace(0, 2 * np.pi, 500, endpoint=False) ** 1.5  # unevenly sampled
    turn *= 2 * np.pi / turn[-1]
    ellipse = np.stack([3 * np.cos(turn), np.sin(turn), 0 * turn], axis=1)[:-1]
    line = paths.Line(ellipse, closed)
    poses = paths.along(line, count, np.zeros(3))
    points = np.vstack([ellipse, ellipse[:1]]) if closed else ellipse
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    travelled = np.r_[0, np.cumsum(steps)]
    at = []
    for eye in poses[:, :3, 3]:
        piece = np.argmin(
            [distance_to(eye[None], paths.Line(points[k : k + 2]))[0] for k in range(len(steps))]
        )
        at.append(travelled[piece] + np.linalg.norm(eye - points[piece]))
    expected = travelled[-1] * np.arange(count) / (count if closed else count - 1)
    assert np.allclose(at, expected, atol=1e-6)


def test_cameras_look_at_the_middle_or_ahead_and_stand_upright():
    line = paths.Line(np.array([[2.0, 0, 1], [2, 3, 1], [-4, 3, 1]]))
    poses = paths.along(line, 4, np.array([0.5, 0.5, 0.0]))
    ways = np.array([0.5, 0.5, 0.0]) - poses[:, :3, 3]
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    assert np.allclose(-poses[:, :3, 2], ways)
    ahead = paths.along(line, 4, None)
    assert np.allclose(-ahead[:, :3, 2], [[0, 1, 0], [-1, 0, 0], [-1, 0, 0], [-1, 0, 0]])
    for pose in (*poses, *ahead):
        assert np.allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-12)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
        assert pose[2, 0] == pytest.approx(0)  # right is level
        assert pose[2, 1] > 0  # and up is up


def test_straight_down_is_the_top_view():
    pose = paths.looking(np.array([[0, 0, 3.0]]), np.array([[0, 0, -1.0]]))[0]
    assert np.allclose(pose[:3, :3], np.eye(3))


def test_what_cameras_look_at_is_found():
    poses = np.asarray(ring_poses(7, 25, 3, 10), np.float64)
    poses[:, :3, 3] += [5, -2, 1]
    assert np.allclose(paths.focus(poses), [5, -2, 1], atol=1e-6)
    parallel = np.tile(np.eye(4), (3, 1, 1))
    parallel[:, 0, 3] = [0, 3, 6]
    assert np.allclose(paths.focus(parallel), [3, 0, 0])


def test_between_the_views_of_a_ring_the_way_is_round():
    poses = np.asarray(ring_poses(6, 20, 4, 15), np.float64)
    found = paths.between(poses, 5, closed=True)
    assert len(found) == 30
    assert np.allclose(found[::5], poses)
    assert np.allclose(np.linalg.norm(found[:, :3, 3], axis=1), 4, atol=1e-6)
    toward = -found[:, :3, 3] / 4
    assert (np.einsum("ij,ij->i", toward, -found[:, :3, 2]) > np.cos(np.radians(4))).all()
    steps = np.linalg.norm(np.diff(found[:, :3, 3], axis=0), axis=1)
    assert steps.max() < 1.1 * steps.min()
    for pose in found:
        assert np.allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-6)


def test_an_open_way_ends_at_its_last_view():
    line = paths.Line(np.array([[0.0, -5, 0], [6, -5, 0]]))
    poses = paths.along(line, 4, None)
    found = paths.between(poses, 3, closed=False)
    assert len(found) == 10
    assert np.allclose(found[:, :3, 3], np.linspace([0, -5, 0], [6, -5, 0], 10))
    assert np.allclose(found[:, :3, :3], poses[0, :3, :3])
