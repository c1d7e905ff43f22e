"""Spheres of panoramas: closed, wound inwards, as true as their depth, without holes when cut."""

from __future__ import annotations

import numpy as np
import pytest

from backend.bench import analytic_rooms
from backend.bench.panorama import (
    as_inverse,
    decibels,
    origin_difference,
    seam_and_pole_errors,
    vertex_errors,
)
from backend.depth_meanings import DepthMeaning, radii
from backend.errors import BadInput
from backend.geometry import depth_jumps, sphere
from backend.geometry.panorama_views import perspective, positions
from backend.protocol import SphereLayer, SphereResult, decode_result, encode_result

WIDTH = 256


@pytest.fixture(scope="module")
def room() -> analytic_rooms.Cast:
    return analytic_rooms.panorama(analytic_rooms.LIVING_ROOM, WIDTH)


@pytest.fixture(scope="module")
def court() -> analytic_rooms.Cast:
    return analytic_rooms.panorama(analytic_rooms.COURTYARD, WIDTH)


def built(cast: analytic_rooms.Cast, edges: str = "cut", width: int = WIDTH) -> SphereResult:
    return sphere.build(cast.colors, cast.depth, width=width, edges=edges)


def front_of(result: SphereResult) -> SphereLayer:
    layer = result.layer("front")
    assert layer is not None
    return layer


def faces_of(layer: SphereLayer) -> list[np.ndarray]:
    quads = layer.corners[: 4 * layer.quads].reshape(-1, 4)
    return [quads, layer.corners[4 * layer.quads :].reshape(-1, 3)]


def check_edges(layer: SphereLayer) -> np.ndarray:
    """Each edge of a corner leads to the next one of its face; returns how often edges are used."""
    layer.check()
    begin = 0
    for faces in faces_of(layer):
        edges = layer.corner_edges[begin : begin + faces.size].reshape(faces.shape)
        begin += faces.size
        ends = np.sort(layer.edges[edges], axis=2)
        expected = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2), axis=2)
        np.testing.assert_array_equal(ends, expected)
    keys = np.sort(layer.edges, axis=1).astype(np.int64) @ [1 << 32, 1]
    assert len(np.unique(keys)) == len(keys)  # no edge twice
    assert set(np.unique(layer.corners)) == set(range(len(layer.values)))  # no loose vertex
    return np.bincount(layer.corner_edges, minlength=len(layer.edges))


def inward_share(layer: SphereLayer, meaning: DepthMeaning) -> float:
    """Share of the faces whose front looks at the origin."""
    places = positions(layer, meaning).astype(np.float64)
    inward = total = 0
    for faces in faces_of(layer):
        a, b, c = (places[faces[:, k]] for k in range(3))
        facing = np.einsum("ij,ij->i", np.cross(b - a, c - a), a)
        inward += int((facing < 0).sum())
        total += len(faces)
    return inward / total


# ------------------------------------------------------------------------------------ what is made


def test_a_stretched_sheet_is_one_closed_surface(room: analytic_rooms.Cast) -> None:
    result = built(room, "sheet")
    assert [layer.layer for layer in result.layers] == ["front"]
    layer = front_of(result)
    uses = check_edges(layer)
    assert (uses == 2).all()  # closed at the seam and the poles
    height = WIDTH // 2
    assert len(layer.values) == WIDTH * height + 2
    assert (layer.quads, layer.triangles) == (WIDTH * (height - 1), 2 * WIDTH)
    assert len(layer.values) - len(layer.edges) + layer.quads + layer.triangles == 2  # a ball
    assert inward_share(layer, result.meaning) == 1


def test_places_in_the_picture_are_the_directions(room: analytic_rooms.Cast) -> None:
    """u falls with the azimuth, so that writing reads from left to right seen from inside."""
    for edges in ("sheet", "cut"):
        layer = front_of(built(room, edges))
        direction = layer.directions[layer.corners].astype(np.float64)
        azimuth = 2 * np.pi * (0.5 - layer.uv[:, 0].astype(np.float64))
        altitude = np.pi * (layer.uv[:, 1].astype(np.float64) - 0.5)
        told = np.stack(
            [np.cos(altitude) * np.cos(azimuth), np.cos(altitude) * np.sin(azimuth)], axis=1
        )
        pixel = 2 * np.pi / WIDTH
        assert np.abs(told - direction[:, :2]).max() < 0.6 * pixel  # half a row at the poles
        inner = np.abs(direction[:, 2]) < np.cos(2 * pixel)
        assert np.abs(told - direction[:, :2])[inner].max() < 0.02 * pixel
        assert np.abs(np.sin(altitude) - direction[:, 2])[inner].max() < 0.02 * pixel
        faces = np.split(layer.uv[: 4 * layer.quads, 0].reshape(-1, 4), [])[0]
        assert np.ptp(faces, axis=1).max() < 1.5 / WIDTH  # no face runs back over the picture


@pytest.mark.parametrize("edges", ["cut", "sheet"])
def test_vertices_are_where_the_room_is(room: analytic_rooms.Cast, edges: str) -> None:
    inverse, meaning = as_inverse(room.depth)
    for result in (
        built(room, edges),
        sphere.build(room.colors, inverse, meaning, WIDTH, edges),
        built(room, edges, WIDTH // 2),
        built(room, edges, 96),
    ):
        errors = vertex_errors(result, room.depth)
        width = result.report["width"]
        assert len(errors) >= 0.99 * width * width // 2
        assert errors.max() < 0.001


def test_sixteen_bits_are_as_good_and_eight_are_warned_of(room: analytic_rooms.Cast) -> None:
    fine, meaning = as_inverse(room.depth, 16)
    result = sphere.build(room.colors, fine, meaning, WIDTH)
    assert vertex_errors(result, room.depth).max() < 0.001
    assert result.report["notes"] == []
    coarse, meaning = as_inverse(room.depth, 8)
    result = sphere.build(room.colors, coarse, meaning, WIDTH)
    assert 0.002 < vertex_errors(result, room.depth).max() < 0.05
    assert "terraces" in result.report["notes"][0]
    # Terraces are no edges: hardly more is cut than of the same depth in full.
    fine_cuts = len(front_of(sphere.build(room.colors, fine, meaning, WIDTH)).edges)
    assert abs(len(front_of(result).edges) - fine_cuts) < 0.02 * fine_cuts


@pytest.mark.parametrize("inverse", [False, True])
def test_flat_walls_stay_flat(room: analytic_rooms.Cast, inverse: bool) -> None:
    depth, meaning = as_inverse(room.depth) if inverse else (room.depth, DepthMeaning())
    layer = front_of(sphere.build(room.colors, depth, meaning, WIDTH))
    places = positions(layer, meaning)
    x, y, z = places.T
    wall = (np.abs(x - 3.8) < 0.05) & (np.abs(y + 0.4) < 2.4) & (np.abs(z + 0.1) < 1.4)
    assert wall.sum() > 1000
    assert np.abs(places[wall, 0] - 3.8).max() < 0.001


def test_from_the_origin_one_sees_the_picture(room: analytic_rooms.Cast) -> None:
    for edges in ("cut", "sheet"):
        assert origin_difference(built(room, edges)) < 0.002
    turned = built(analytic_rooms.Cast(room.colors[:, ::-1].copy(), room.depth))
    turned = SphereResult(layers=turned.layers, image=room.colors, meaning=turned.meaning)
    assert origin_difference(turned) < 0.002  # the texture alone decides, as rays are radial


def test_seam_and_poles_are_no_different_from_elsewhere(room: analytic_rooms.Cast) -> None:
    seam, poles = seam_and_pole_errors(built(room, "sheet"))
    assert seam < 1e-4
    assert poles < 1e-3
    broken = room.depth.copy()
    broken[:, -1] *= 1.02
    assert (
        seam_and_pole_errors(sphere.build(room.colors, broken, edges="sheet", width=WIDTH))[0]
        > 0.01
    )


# --------------------------------------------------------------------------------------------- cut


def test_a_cut_sphere_fits_together(room: analytic_rooms.Cast, court: analytic_rooms.Cast) -> None:
    for cast in (room, court):
        result = built(cast)
        for layer in result.layers:
            uses = check_edges(layer)
            assert set(np.unique(uses)) <= {1, 2}
            assert layer.quads > 0
        front = front_of(result)
        assert inward_share(front, result.meaning) == 1
        assert isinstance(decode_result(encode_result(result)), SphereResult)


def test_a_cut_sphere_has_no_holes_wherever_the_eye_is(
    room: analytic_rooms.Cast, court: analytic_rooms.Cast
) -> None:
    rng = np.random.default_rng(0)
    for cast in (room, court):
        result = built(cast)
        for _ in range(6):
            eye = tuple(rng.uniform(-0.45, 0.45, 3))
            yaw, pitch = rng.uniform(0, 360), rng.uniform(-80, 80)
            seen = perspective(result, eye, yaw, pitch, 100, size=128, samples=1)
            assert seen.holes == 0
    bare = SphereResult(layers=result.layers[:1], image=result.image, meaning=result.meaning)
    assert perspective(bare, (0.2, 0.2, 0.2), 0, 60, 100, 128, 1).holes > 0.1  # holes are seen


def test_views_from_aside_are_truer_than_of_a_stretched_sheet() -> None:
    cast = analytic_rooms.panorama(analytic_rooms.LIVING_ROOM, 1024)
    sheet, cut = built(cast, "sheet", 512), built(cast, "cut", 512)
    for eye, gain in (((0.0325, 0, 0), 0.0), ((0, 0.0325, 0), 0.0), ((0.35, 0.25, 0.1), 1.0)):
        truth = analytic_rooms.view(analytic_rooms.LIVING_ROOM, eye, 20, -12, 90, 192)
        found = [
            decibels(perspective(s, eye, 20, -12, 90, 192).colors, truth.colors)
            for s in (sheet, cut)
        ]
        assert found[1] >= found[0] + gain


def test_at_eye_distance_a_cut_loses_nothing_at_outlines() -> None:
    """A sofa whose top is a row of quads deep: no gap there, no outline off by part of a quad."""
    things = analytic_rooms.LIVING_ROOM.things
    sofa = analytic_rooms.Room((things[0], *(t for t in things if t.color == (0.5, 0.25, 0.25))))
    assert len(sofa.things) == 3
    cast = analytic_rooms.panorama(sofa, 1024)
    sheet, cut = built(cast, "sheet", 512), built(cast, "cut", 512)
    for eye in ((0.0325, 0, 0), (0, 0.0325, 0)):
        truth = analytic_rooms.view(sofa, eye, 150, -5, 90, 192)
        found = [
            decibels(perspective(s, eye, 150, -5, 90, 192).colors, truth.colors)
            for s in (sheet, cut)
        ]
        assert found[1] >= found[0] - 0.2


@pytest.mark.parametrize("edge", range(4))
def test_outlines_are_where_finer_depth_has_them(edge: int) -> None:
    """Something near ends after 0 to 3 more pixels than the grid has: so does its mesh."""
    depth = np.tile(np.linspace(4, 4.5, 4 * 64, dtype=np.float32), (4 * 32, 1))
    depth += np.linspace(0, 0.5, 4 * 32, dtype=np.float32)[:, None]
    first, last = 4 * 20 + 3 + edge, 4 * 40
    depth[40:80, first:last] = 1.0
    image = np.full((*depth.shape, 3), 200, np.uint8)
    image[40:80, first:last] = 10
    result = sphere.build(image, depth, width=64)
    front = front_of(result)
    near = (front.values < 2) & (np.abs(front.directions[:, 2]) < 0.3)
    left = 0.5 - np.arctan2(front.directions[near, 1], front.directions[near, 0]) / (2 * np.pi)
    outline = left.min() * depth.shape[1]
    assert outline == pytest.approx(first, abs=0.3)
    backing = result.layer("backing")
    assert backing is not None
    assert backing.image is not None
    assert backing.image[48:72, first - 8 : first + 6].min() > 195  # none of its colour is left


def test_the_sky_has_no_colours_of_what_is_finer_than_the_mesh() -> None:
    fine = analytic_rooms.panorama(analytic_rooms.COURTYARD, 4 * WIDTH)
    sky = sphere.build(fine.colors, fine.depth, width=WIDTH).layer("sky")
    assert sky is not None
    assert sky.image is not None
    assert np.abs(sky.image[..., 2].astype(int) - 0.95 * 255).max() < 4


def test_nothing_of_the_backing_lies_before_the_front(room: analytic_rooms.Cast) -> None:
    result = built(room)
    both = perspective(result, (0, 0, 0), 20, -15, 100, 256, 1)
    front = SphereResult(layers=result.layers[:1], image=result.image, meaning=result.meaning)
    alone = perspective(front, (0, 0, 0), 20, -15, 100, 256, 1)
    there = np.isfinite(alone.distance)
    assert there.mean() > 0.98
    np.testing.assert_allclose(both.distance[there], alone.distance[there], rtol=1e-5)


def test_a_wall_goes_on_behind_what_stands_before_it() -> None:
    """A ball before a plane: what the backing puts there is the plane, in its colour."""
    directions = sphere.direction_grid(WIDTH, WIDTH // 2)
    depth = np.full((WIDTH // 2, WIDTH), 3.0, np.float32)
    ahead = directions[..., 0] > 0.5
    depth[ahead] = (2.0 / directions[ahead][:, 0]).astype(np.float32)
    towards = np.array([0.98, 0.17, 0.05]) / np.linalg.norm([0.98, 0.17, 0.05])
    ball = directions @ towards > np.cos(0.2)
    depth[ball] = 1.0
    image = np.full((WIDTH // 2, WIDTH, 3), 200, np.uint8)
    image[ball] = 10
    backing = sphere.build(image, depth, width=WIDTH).layer("backing")
    assert backing is not None
    assert backing.image is not None
    hidden = backing.directions @ towards > np.cos(0.2)
    assert hidden.sum() >= ball.sum()
    assert np.abs(backing.values * backing.directions[:, 0] - 2.0)[hidden].max() < 0.02
    assert backing.image[ball].min() > 195


def test_thresholds_tell_edges_from_slopes() -> None:
    directions = sphere.direction_grid(WIDTH, WIDTH // 2)
    floor = np.where(directions[..., 2] < 0, -directions[..., 2] / 1.4, 1 / 6).astype(np.float32)
    floor = np.maximum(floor, np.float32(1 / 6))
    assert depth_jumps.find_jumps(floor).count() == 0  # seen at a grazing angle, and the crease
    floor[40:50, 60:80] = 0.5
    jumps = depth_jumps.find_jumps(floor)
    assert jumps.count() == 2 * 10 + 2 * 20
    assert jumps.across[40:50, [59, 79]].all()
    assert jumps.down[[39, 49], 60:80].all()
    assert depth_jumps.find_jumps(floor, only_missing=True).count() == 0
    across_the_seam = np.roll(floor, 70 - WIDTH, axis=1)
    assert depth_jumps.find_jumps(across_the_seam).count() == jumps.count()


def test_soft_edges_are_made_sharp_and_sharp_ones_left(room: analytic_rooms.Cast) -> None:
    nearness = 1 / room.depth
    assert depth_jumps.sharpened(nearness) is nearness
    soft = nearness.copy()
    for _ in range(2):
        soft = (np.roll(soft, 1, 1) + 2 * soft + np.roll(soft, -1, 1)) / 4
        soft[1:-1] = (soft[:-2] + 2 * soft[1:-1] + soft[2:]) / 4
    sharp = depth_jumps.sharpened(soft)
    assert sharp is not soft
    wrong = [np.abs(each / nearness - 1) > 0.05 for each in (soft, sharp)]
    assert wrong[1].sum() < 0.75 * wrong[0].sum()


def test_noise_is_not_cut_into_pieces_and_said_so(room: analytic_rooms.Cast) -> None:
    """However the depth is, no more faces than the grid has: a jump at every edge would make up to
    eight of each, and a backing of all."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(0, 1, (64, 128)).astype(np.float32)
    image = np.zeros((64, 128, 3), np.uint8)
    meaning = DepthMeaning(meaning="inverse", near=1.0, far=10.0)
    for given in (depth, np.where(rng.uniform(size=depth.shape) < 0.2, np.nan, depth)):
        result = sphere.build(image, given.astype(np.float32), meaning, width=128)
        assert result.layer("backing") is None
        assert front_of(result).quads + front_of(result).triangles < 4 * 128 * 64
        assert result.report["edges"] == "sheet"
        assert "noise" in result.report["notes"][-1]
    plain = sphere.build(image, depth, meaning, width=128)
    assert front_of(plain).quads == 128 * 63
    # Far more jumps than a room has are still cut.
    striped = np.where(np.arange(WIDTH) % 16 < 3, room.depth / 2, room.depth).astype(np.float32)
    result = sphere.build(room.colors, striped, width=WIDTH)
    assert result.report["edges"] == "cut"
    assert result.layer("backing") is not None


# -------------------------------------------------------------------------------- sky and odd depth


@pytest.mark.parametrize("edges", ["cut", "sheet"])
def test_sky_is_a_sphere_of_its_own(court: analytic_rooms.Cast, edges: str) -> None:
    result = built(court, edges)
    assert 0.1 < result.report["missing"] < 0.6
    sky = result.layer("sky")
    assert sky is not None
    assert (check_edges(sky) == 2).all()
    assert sky.values.min() == sky.values.max() >= 100
    front = positions(front_of(result), result.meaning)
    assert np.linalg.norm(front, axis=1).max() < 8  # no vertex is drawn towards the sky
    assert origin_difference(result) < 0.01
    above = perspective(result, (0.3, 0.2, 0.1), 0, 89, 60, 96, 1)
    assert above.holes == 0
    assert sky.image is not None
    blue = sky.image[..., 2].astype(int)  # also before walls and at their borders: the same sky
    assert np.abs(blue - 0.95 * 255).max() < 4


def test_a_missing_pixel_is_a_hole_in_the_front_only(room: analytic_rooms.Cast) -> None:
    depth = room.depth.copy()
    depth[60, 100] = np.nan
    depth[70, 0] = np.inf  # on the seam
    depth[0, 10] = np.nan  # beside the pole
    result = sphere.build(room.colors, depth, width=WIDTH)
    front = front_of(result)
    check_edges(front)
    assert np.isfinite(front.values).all()
    assert len(front.values) >= WIDTH * WIDTH // 2 + 2 - 3
    assert perspective(result, (0.05, 0.05, 0), 90, 80, 120, 128, 1).holes == 0


def test_a_hole_in_the_depth_keeps_its_colour_beside_a_sky(court: analytic_rooms.Cast) -> None:
    depth = court.depth.copy()
    depth[100, 50] = np.nan
    sky = sphere.build(court.colors, depth, width=WIDTH).layer("sky")
    assert sky is not None
    assert sky.image is not None
    np.testing.assert_array_equal(sky.image[100, 50], court.colors[100, 50])


def test_one_pixel_with_depth_is_enough_to_build() -> None:
    depth = np.full((32, 64), np.nan, np.float32)
    depth[10, 10] = 2.0
    result = sphere.build(np.zeros((32, 64, 3), np.uint8), depth, width=64)
    for layer in result.layers:
        layer.check()
    assert perspective(result, (0.1, 0, 0), 0, 0, 90, 32, 1).holes == 0


def test_depth_of_one_value_is_a_plain_sphere_and_said_so() -> None:
    image = np.zeros((64, 128, 3), np.uint8)
    for depth in (np.full((64, 128), 3.0, np.float32), np.full((64, 128), 77, np.uint8)):
        meaning = DepthMeaning() if depth.dtype == np.float32 else DepthMeaning(meaning="paper")
        result = sphere.build(image, depth, meaning, width=128)
        assert "plain sphere" in result.report["notes"][0]
        assert np.ptp(np.linalg.norm(positions(front_of(result), meaning), axis=1)) < 1e-5
        assert len(result.layers) == 1


def test_a_meaning_without_strength_is_a_sphere(room: analytic_rooms.Cast) -> None:
    inverse, _ = as_inverse(room.depth)
    meaning = DepthMeaning(meaning="paper", strength=0.0, radius=3.0)
    result = sphere.build(room.colors, inverse, meaning, WIDTH)
    assert np.allclose(np.linalg.norm(positions(front_of(result), meaning), axis=1), 3, atol=1e-5)


def test_the_controls_move_what_was_cut_along(room: analytic_rooms.Cast) -> None:
    """Values are of the depth map, so other ends of the same map need no new mesh."""
    inverse, meaning = as_inverse(room.depth)
    result = sphere.build(room.colors, inverse, meaning, WIDTH)
    wider = DepthMeaning(meaning="inverse", near=meaning.near * 2, far=meaning.far * 2)
    for layer in result.layers:
        np.testing.assert_allclose(
            radii(layer.values, wider), 2 * radii(layer.values, meaning), rtol=1e-4
        )


def test_inverse_depth_of_any_range_is_brought_to_0_to_1(room: analytic_rooms.Cast) -> None:
    inverse, meaning = as_inverse(room.depth)
    result = sphere.build(room.colors, inverse * 812 + 40, meaning, WIDTH)
    assert "brought to 0 to 1" in result.report["notes"][0]
    assert vertex_errors(result, room.depth).max() < 0.002


@pytest.mark.parametrize("beyond", [1.0, 1.0005, 1.009])
def test_inverse_depth_that_just_exceeds_one_keeps_its_metres(beyond: float) -> None:
    depth = np.tile(np.linspace(0.3, 1, 128, dtype=np.float32), (64, 1))
    depth[5, 7] = beyond
    meaning = DepthMeaning(meaning="inverse", near=1.0, far=10.0)
    found = sphere.depth_values(depth, meaning)
    assert found.notes == ()
    np.testing.assert_array_equal(found.values, np.minimum(depth, 1))
    middle = np.abs(depth[0] - 0.5).argmin()
    assert abs(radii(found.values, meaning)[0, middle] - 1.818) < 0.02


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_depth_that_shows_nothing_is_refused(value: float) -> None:
    with pytest.raises(BadInput):
        sphere.build(np.zeros((32, 64, 3), np.uint8), np.full((32, 64), value, np.float32))


def test_depth_in_whole_millimetres_has_holes_where_it_is_zero() -> None:
    depth = np.full((32, 64), 2500, np.uint16)
    depth[:8] = 0
    meaning = DepthMeaning(scale=0.001)
    result = sphere.build(np.zeros((32, 64, 3), np.uint8), depth, meaning, 64)
    assert np.allclose(np.linalg.norm(positions(front_of(result), meaning), axis=1), 2.5, atol=1e-3)
    assert result.report["missing"] == 0.25
    assert result.layer("sky") is not None


@pytest.mark.parametrize(("depth_width", "wanted"), [(64, 512), (700, 700), (4096, 2048)])
def test_the_mesh_is_as_wide_as_the_depth_within_limits(depth_width: int, wanted: int) -> None:
    assert sphere.mesh_width(0, depth_width) == wanted
    assert sphere.mesh_width(4096, depth_width) == 4096
    assert sphere.mesh_width(333, depth_width) == 334


def test_coarse_depth_makes_a_finer_mesh_without_steps(room: analytic_rooms.Cast) -> None:
    result = sphere.build(room.colors, room.depth[::4, ::4].copy(), width=WIDTH, edges="sheet")
    wall = positions(front_of(result), result.meaning)
    wall = wall[np.abs(wall[:, 0] - 3.8) < 0.3]
    assert np.median(np.abs(wall[:, 0] - 3.8)) < 0.12  # a quarter pixel of the coarse depth


def test_pictures_of_light_keep_their_light(room: analytic_rooms.Cast) -> None:
    light = room.colors.astype(np.float32) / 20
    result = sphere.build(light, room.depth, width=WIDTH)
    assert result.image.dtype == np.float32
    backing = result.layer("backing")
    assert backing is not None
    assert backing.image is not None
    assert backing.image.dtype == np.float32
    assert backing.image.max() > 5
