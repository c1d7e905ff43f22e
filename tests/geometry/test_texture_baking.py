"""Charts that do not overlap, colours that lie where they belong, and files that hold them."""

from __future__ import annotations

import functools
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from backend.bench import known_things
from backend.geometry import mesh_files, texture_baking
from backend.geometry.isosurface import marching_cubes
from backend.geometry.texture_baking import Atlas, bake, face_neighbours, size_for, unwrap
from backend.geometry.view_colors import vertex_normals
from backend.protocol import MeshResult, decode_result, encode_result


@functools.cache
def solid(thing: str = "cup", side: int = 44) -> tuple[np.ndarray, np.ndarray]:
    axes = np.linspace(-1.1, 1.1, side)
    grid = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), axis=-1).reshape(-1, 3)
    field = known_things.distances(thing, grid).reshape(side, side, side)
    vertices, faces = marching_cubes(field.astype(np.float32))
    return vertices.astype(np.float64) * (2.2 / (side - 1)) - 1.1, faces


@functools.cache
def atlas(thing: str = "cup", size: int = 512) -> Atlas:
    return unwrap(*solid(thing), size)


def baked(unseen: bool = False) -> np.ndarray:
    vertices, faces = solid()
    normals = vertex_normals(vertices, faces)
    colors = np.rint(known_things.colors(vertices)).astype(np.uint8)

    def paint(points: np.ndarray, ways: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert np.allclose(np.linalg.norm(ways, axis=1), 1)
        known = np.zeros(len(points)) if unseen else np.ones(len(points))
        return known_things.colors(points) * known[:, None], known

    return bake(vertices, faces, normals, colors, atlas(), paint)


def looked_up(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """What a renderer shows at uv (N, 2): between the middles of texels."""
    at = np.stack([(1 - uv[:, 1]) * len(picture), uv[:, 0] * len(picture)]) - 0.5
    return np.stack(
        [ndimage.map_coordinates(picture[..., c].astype(float), at, order=1) for c in range(3)], 1
    )


# ------------------------------------------------------------------------------------------- charts


@pytest.mark.parametrize("thing", known_things.THINGS)
def test_no_two_faces_share_a_texel(thing: str) -> None:
    """Drawn a little smaller than they are, faces never cover the middle of a texel twice."""
    uv = atlas(thing).uv
    shrunk = uv + (uv.mean(axis=1, keepdims=True) - uv) * 0.02
    owners = np.zeros((512, 512), int)
    for number in range(len(uv)):
        face = np.full((1, 1), -1, np.int32)
        low = np.floor(shrunk[number].min(axis=0)).astype(int)
        wide = int(np.ceil(np.ptp(shrunk[number], axis=0).max())) + 2
        face = np.full((wide, wide), -1, np.int32)
        share = np.zeros((wide, wide, 3), np.float32)
        texture_baking._cover(0, 1, shrunk[number : number + 1] - low, face, share)
        rows, columns = np.nonzero(face == 0)
        np.add.at(owners, (rows + low[1], columns + low[0]), 1)
    assert (owners > 1).sum() == 0
    assert (owners == 1).mean() > 0.25


@pytest.mark.parametrize("thing", known_things.THINGS)
def test_charts_are_apart_by_their_padding(thing: str) -> None:
    found = atlas(thing)
    face, _ = texture_baking._covered(found)
    chart = np.where(face >= 0, found.chart[face], -1)
    padding = texture_baking._padding(found.size)
    high = ndimage.maximum_filter(chart, 2 * padding - 1)
    low = ndimage.minimum_filter(np.where(chart < 0, 10**6, chart), 2 * padding - 1)
    near = chart >= 0
    assert (high[near] == chart[near]).all()
    assert (low[near] == chart[near]).all()


def test_faces_keep_their_size_and_turn() -> None:
    vertices, faces = solid()
    found = atlas()
    corners = vertices[faces]
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    one, two = found.uv[:, 1] - found.uv[:, 0], found.uv[:, 2] - found.uv[:, 0]
    flat = (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]) * found.texel**2
    stretched = np.abs(flat) / np.maximum(area, 1e-12)
    large = area > 0.1 * area.mean()
    assert stretched[large].max() < 1 + 1e-6
    assert np.quantile(stretched[large], 0.02) > 0.5
    # All faces of a chart turn the same way, so that it is not folded.
    for number in np.unique(found.chart):
        signs = np.sign(flat[(found.chart == number) & large])
        assert (signs == signs[0]).all() if len(signs) else True


def test_places_lie_in_the_picture() -> None:
    uv = atlas().corners()
    assert uv.shape == (3 * len(solid()[1]), 2)
    assert uv.dtype == np.float32
    assert uv.min() > 0
    assert uv.max() < 1


def test_a_spiral_staircase_does_not_cover_itself() -> None:
    """One patch that looks up everywhere and lies over itself twice."""
    turn = np.linspace(0, 6 * np.pi, 400)
    rings = [
        np.stack([r * np.cos(turn), r * np.sin(turn), 0.1 * turn], 1) for r in (0.4, 0.6, 0.8, 1)
    ]
    vertices = np.concatenate(rings)
    faces = []
    for ring in range(3):
        a = ring * 400 + np.arange(399)
        faces += [np.stack([a, a + 400, a + 1], 1), np.stack([a + 1, a + 400, a + 401], 1)]
    found = unwrap(vertices, np.concatenate(faces).astype(np.int32), 256)
    assert len(np.unique(found.chart)) >= 3
    shrunk = found.uv + (found.uv.mean(axis=1, keepdims=True) - found.uv) * 0.02
    face, share = np.full((256, 256), -1, np.int32), np.zeros((256, 256, 3), np.float32)
    total = 0
    for number in range(len(shrunk)):
        face[:] = -1
        texture_baking._cover(number, number + 1, shrunk, face, share)
        total += int((face >= 0).sum())
    face[:] = -1
    texture_baking._cover(0, len(shrunk), shrunk, face, share)
    assert total == (face >= 0).sum()


def test_neighbours_are_mutual() -> None:
    _, faces = solid()
    other = face_neighbours(faces)
    assert (other >= 0).all()
    for corner in range(3):
        assert (other[other[:, corner]] == np.arange(len(faces))[:, None]).any(axis=1).all()


def test_thousands_of_crumbs_still_fit() -> None:
    rng = np.random.default_rng(0)
    middles = rng.uniform(-1, 1, (3000, 1, 3))
    vertices = (middles + rng.normal(0, 0.01, (3000, 3, 3))).reshape(-1, 3)
    found = unwrap(vertices, np.arange(9000, dtype=np.int32).reshape(-1, 3), 128)
    assert found.uv.min() >= 0
    assert found.uv.max() <= 128


def test_size_by_the_pixels() -> None:
    vertices, faces = solid()
    sizes = [size_for(vertices, faces, pixel) for pixel in (10.0, 0.01, 0.005, 1e-9)]
    assert sizes[0] == 256
    assert sizes[1] < sizes[2] <= 4096
    assert sizes[3] == 4096


# ------------------------------------------------------------------------------------------- baking


def test_what_is_shown_is_the_colour_of_the_place() -> None:
    vertices, faces = solid()
    picture = baked()
    rng = np.random.default_rng(1)
    number = rng.integers(0, len(faces), 4000)
    share = rng.dirichlet([1, 1, 1], 4000)
    points = np.einsum("nk,nkc->nc", share, vertices[faces[number]])
    uv = np.einsum("nk,nkc->nc", share, atlas().corners().reshape(-1, 3, 2)[number].astype(float))
    off = np.abs(looked_up(picture, uv) - known_things.colors(points))
    assert off.mean() < 1
    assert np.quantile(off, 0.99) < 5  # at the borders of charts, too


def test_what_is_not_known_comes_from_the_vertices() -> None:
    painted, filled = baked().astype(int), baked(unseen=True).astype(int)
    face, _ = texture_baking._covered(atlas())
    assert np.abs(painted - filled)[face >= 0].mean() < 1.5


def test_texels_are_painted_a_bounded_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large texture must not take many times its own memory; nothing tells where bands met."""
    whole = baked()
    asked: list[int] = []
    blend = texture_baking._texels

    def counted(face: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = blend(face, share)
        asked.append(len(found[0]))
        return found

    monkeypatch.setattr(texture_baking, "_texels", counted)
    monkeypatch.setattr(texture_baking, "_TEXELS_AT_ONCE", 5000)
    np.testing.assert_array_equal(baked(), whole)
    assert max(asked) <= 5000
    assert len(asked) > 20


def test_around_charts_is_their_colour() -> None:
    picture = baked().astype(float)
    face, _ = texture_baking._covered(atlas())
    inside = face >= 0
    ring = ndimage.binary_dilation(inside, np.ones((3, 3))) & ~inside
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    off = np.abs(picture[ring] - picture[tuple(nearest)][ring])
    assert off.mean() < 4


# -------------------------------------------------------------------------------------------- files


def textured() -> MeshResult:
    vertices, faces = solid()
    return MeshResult(
        vertices=vertices.astype(np.float32),
        faces=faces,
        colors=np.full((len(vertices), 4), 200, np.uint8),
        uv=atlas().corners(),
        texture=baked(),
    )


def written(folder: Path, name: str) -> Path:
    mesh = textured()
    path = folder / name
    mesh_files.write_mesh(
        path, mesh.vertices, mesh.faces, mesh.colors, uv=mesh.uv, texture=mesh.texture
    )
    return path


def test_messages_carry_it() -> None:
    mesh = textured()
    again = decode_result(encode_result(mesh))
    assert isinstance(again, MeshResult)
    assert (again.uv == mesh.uv).all()
    assert (again.texture == mesh.texture).all()
    bare = decode_result(encode_result(MeshResult()))
    assert isinstance(bare, MeshResult)
    assert bare.uv is None
    assert bare.texture is None


def test_glb_holds_picture_and_places(tmp_path: Path) -> None:
    body = written(tmp_path, "cup.glb").read_bytes()
    length = struct.unpack_from("<I", body, 12)[0]
    document = json.loads(body[20 : 20 + length])
    binary = body[28 + length :]
    views, accessors = document["bufferViews"], document["accessors"]

    def part(view: dict[str, int]) -> bytes:
        return binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]

    def array(accessor: int, kind: str) -> np.ndarray:
        return np.frombuffer(part(views[accessors[accessor]["bufferView"]]), kind)

    primitive = document["meshes"][0]["primitives"][0]
    assert set(primitive["attributes"]) == {"POSITION", "TEXCOORD_0"}
    material = document["materials"][primitive["material"]]["pbrMetallicRoughness"]
    texture = document["textures"][material["baseColorTexture"]["index"]]
    entry = document["images"][texture["source"]]
    picture = np.asarray(Image.open(io.BytesIO(part(views[entry["bufferView"]]))))
    assert (picture == textured().texture).all()
    indices = array(primitive["indices"], "<u4")
    uv = array(primitive["attributes"]["TEXCOORD_0"], "<f4").reshape(-1, 2)[indices]
    assert np.allclose(uv[:, 1], 1 - textured().uv[:, 1], atol=1e-6)
    assert np.allclose(uv[:, 0], textured().uv[:, 0], atol=1e-6)
    points = array(primitive["attributes"]["POSITION"], "<f4").reshape(-1, 3)[indices]
    x, y, z = textured().vertices[textured().faces.ravel()].T
    assert np.allclose(points, np.stack([x, z, -y], axis=1), atol=1e-6)
    assert all(view["byteOffset"] % 4 == 0 for view in views)


def test_obj_names_its_picture(tmp_path: Path) -> None:
    path = written(tmp_path, "my cup.obj")
    assert {p.name for p in tmp_path.iterdir()} == {path.name, *mesh_files.companions_of(path)}
    lines = path.read_text().splitlines()
    assert "mtllib my cup.mtl" in lines
    assert "usemtl fieldforge" in lines
    assert "map_Kd my cup-texture.png" in (tmp_path / "my cup.mtl").read_text().splitlines()
    picture = np.asarray(Image.open(tmp_path / "my cup-texture.png"))
    assert (picture == textured().texture).all()
    places = [line for line in lines if line.startswith("vt ")]
    first = next(line for line in lines if line.startswith("f ")).split()[1:]
    uv = np.array([places[int(corner.split("/")[1]) - 1].split()[1:] for corner in first], float)
    assert np.allclose(uv, textured().uv[:3], atol=1e-6)
    again = mesh_files.read_mesh(path)
    assert (again.faces == textured().faces).all()


def test_npz_holds_all_and_ply_its_colours(tmp_path: Path) -> None:
    with np.load(written(tmp_path, "cup.npz")) as arrays:
        assert (arrays["uv"] == textured().uv).all()
        assert (arrays["texture"] == textured().texture).all()
    again = mesh_files.read_mesh(written(tmp_path, "cup.ply"))
    assert again.colors is not None
    assert (again.colors == 200).all()
