from __future__ import annotations

import errno
import json
import os
import struct
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import BadInput, FieldforgeError, NotFound, StorageFailed, TooLarge
from backend.geometry import mesh_files
from backend.geometry.mesh_files import Mesh, read_mesh, read_points, read_voxels, write_mesh

SUFFIXES = (".ply", ".obj", ".glb", ".npz")
TRIANGLE = np.array([[0, 1, 2]], np.int32)


def _mesh(seed: int, *, colors: bool = True, normals: bool = True, count: int = 40) -> Mesh:
    random = np.random.default_rng(seed)
    directions = random.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return Mesh(
        random.normal(size=(count, 3)).astype(np.float32),
        random.integers(0, count, (30, 3)).astype(np.int32),
        directions.astype(np.float32) if normals else None,
        random.integers(0, 256, (count, 4)).astype(np.uint8) if colors else None,
    )


def _write(path: Path, mesh: Mesh) -> Path:
    write_mesh(path, mesh.points, mesh.faces, mesh.colors, mesh.normals)
    return path


def _file(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _ply(header: str, body: bytes = b"", form: str = "ascii") -> bytes:
    return f"ply\nformat {form} 1.0\n{header}end_header\n".encode() + body


XYZ = "property float x\nproperty float y\nproperty float z\n"

# --------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), colors=st.booleans(), normals=st.booleans())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, seed: int, colors: bool, normals: bool
) -> None:
    mesh = _mesh(seed, colors=colors, normals=normals)
    path = tmp_path_factory.mktemp("names with ümläut 点") / f"a b {suffix}"
    again = read_mesh(_write(path, mesh))
    assert again.points.astype(np.float32).tobytes() == mesh.points.tobytes()
    assert np.array_equal(again.faces, mesh.faces)
    assert (again.colors is None) == (not colors)
    assert (again.normals is None) == (not normals)
    if colors:
        channels = 3 if suffix == ".obj" else 4  # .obj has no alpha
        assert np.array_equal(again.colors[:, :channels], mesh.colors[:, :channels])
    if normals:
        np.testing.assert_allclose(again.normals, mesh.normals, atol=2e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_clouds_without_faces(tmp_path: Path, suffix: str) -> None:
    mesh = _mesh(1)
    cloud = Mesh(mesh.points, np.zeros((0, 3), np.int32), mesh.normals, mesh.colors)
    again = read_points(_write(tmp_path / f"cloud{suffix}", cloud))
    assert again.faces.shape == (0, 3)
    assert np.array_equal(again.points.astype(np.float32), mesh.points)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_bytes_again(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _write(tmp_path / f"a{suffix}", _mesh(2)).read_bytes()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    assert _write(tmp_path / f"b{suffix}", _mesh(2)).read_bytes() == first


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".npz"])
def test_doubles_keep_their_digits(tmp_path: Path, suffix: str) -> None:
    points = 1e6 + np.random.default_rng(3).uniform(size=(20, 3))
    write_mesh(tmp_path / f"far{suffix}", points, TRIANGLE)
    again = read_mesh(tmp_path / f"far{suffix}")
    assert again.points.dtype == np.float64
    assert np.array_equal(again.points, points)


# ------------------------------------------------------------------------------- other libraries


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_trimesh_reads_our_files(tmp_path: Path, suffix: str) -> None:
    mesh = _mesh(4)
    path = _write(tmp_path / f"mesh{suffix}", mesh)
    theirs = trimesh.load_mesh(path, process=False)
    points = np.asarray(theirs.vertices)
    if suffix == ".glb":  # Y-up
        points = np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)
    corners = points[np.asarray(theirs.faces)]
    np.testing.assert_allclose(corners, mesh.points[mesh.faces], atol=1e-6)


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
def test_meshlab_reads_our_files(tmp_path: Path, suffix: str) -> None:
    import pymeshlab

    mesh = _mesh(5)
    path = _write(tmp_path / f"mesh{suffix}", mesh)
    meshes = pymeshlab.MeshSet()
    meshes.load_new_mesh(str(path))
    theirs = meshes.current_mesh()
    # MeshLab leaves out faces that use a vertex twice, which random ones may.
    proper = np.array([len(set(face)) == 3 for face in mesh.faces.tolist()])
    corners = theirs.vertex_matrix()[theirs.face_matrix()]
    np.testing.assert_allclose(corners, mesh.points[mesh.faces[proper]], atol=1e-6)
    if suffix == ".ply":
        np.testing.assert_allclose(theirs.vertex_color_matrix(), mesh.colors / 255, atol=1e-6)


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_reads_the_ply_of_trimesh(tmp_path: Path, encoding: str) -> None:
    box = trimesh.creation.icosphere(subdivisions=2)
    box.visual.vertex_colors = np.random.default_rng(6).integers(0, 256, (len(box.vertices), 4))
    path = _file(tmp_path, "ico.ply", trimesh.exchange.ply.export_ply(box, encoding=encoding))
    mesh = read_mesh(path)
    np.testing.assert_allclose(mesh.points, box.vertices, atol=1e-6)
    assert np.array_equal(mesh.faces, box.faces)
    assert np.array_equal(mesh.colors, box.visual.vertex_colors)


def test_reads_the_glb_of_trimesh(tmp_path: Path) -> None:
    """Two nodes with transforms, one of them mirrored: places and outsides must come out right."""
    scene = trimesh.Scene()
    box = trimesh.creation.box((1, 2, 3))
    turned = trimesh.transformations.rotation_matrix(0.7, [1, 2, 3], [0.1, 0.2, 0.3])
    mirrored = np.diag([-2.0, 1, 1, 1])
    scene.add_geometry(box, node_name="a", transform=turned)
    scene.add_geometry(box, node_name="b", transform=mirrored)
    scene.export(str(tmp_path / "scene.glb"))
    mesh = read_mesh(tmp_path / "scene.glb")
    expected = scene.to_mesh()
    to_z_up = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert mesh.points.shape == expected.vertices.shape
    ours = trimesh.Trimesh(mesh.points, mesh.faces, process=False)
    assert ours.volume == pytest.approx(6 + 12)
    np.testing.assert_allclose(
        np.sort(mesh.points, axis=0), np.sort(expected.vertices @ to_z_up.T, axis=0), atol=1e-5
    )


def test_reads_our_glb_attributes_as_the_format_has_them(tmp_path: Path) -> None:
    body = _write(tmp_path / "mesh.glb", _mesh(7)).read_bytes()
    length, kind = struct.unpack_from("<II", body, 12)
    document = json.loads(body[20 : 20 + length])
    assert kind == 0x4E4F534A
    assert struct.unpack_from("<II", body, 4) == (2, len(body))
    accessors = document["accessors"]
    names = document["meshes"][0]["primitives"][0]["attributes"]
    assert accessors[names["COLOR_0"]]["normalized"]
    assert accessors[names["POSITION"]]["min"] == pytest.approx(
        [_mesh(7).points[:, 0].min(), _mesh(7).points[:, 2].min(), -_mesh(7).points[:, 1].max()]
    )
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])


# ------------------------------------------------------------------------------------------- ply


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_odd_properties(tmp_path: Path, form: str, newline: str) -> None:
    """Doubles, lists on vertices, properties and elements that mean nothing to us, polygons."""
    header = (
        "comment made by hand\nobj_info x\nelement camera 1\nproperty list uchar double view\n"
        "element vertex 4\nproperty double z\nproperty list ushort short neighbours\n"
        "property double x\nproperty double y\nproperty float red\nproperty float green\n"
        "property float blue\nproperty int64 stamp\nelement face 2\nproperty uchar flag\n"
        "property list uint ushort vertex_index\nelement edge 1\nproperty int a\n"
    )
    vertices = [
        (0.5, [1, 2, 3], 1e6 + 0.125, -1.0, 0.0, 0.5, 1.0, 7),
        (1.5, [], 2e6, -2.0, 1.0, 0.25, 0.0, 8),
        (2.5, [-4], 3e6, -3.0, 0.0, 0.0, 0.0, 9),
        (3.5, [5, 6], 4e6, -4.0, 1.0, 1.0, 1.0, 10),
    ]
    faces = [(1, [0, 1, 2, 3]), (0, [3, 2, 0])]
    if form == "ascii":
        rows = [" ".join(["2", "9.5", "8.5"])]
        for z, near, *rest in vertices:
            rows.append(" ".join(map(str, [z, len(near), *near, *rest])))
        rows += [" ".join(map(str, [flag, len(face), *face])) for flag, face in faces]
        body = (newline.join(rows) + newline + "17").encode()
    else:
        order = "<" if "little" in form else ">"
        body = struct.pack(order + "Bdd", 2, 9.5, 8.5)
        for z, near, *rest in vertices:
            body += struct.pack(f"{order}dH{len(near)}hddfffq", z, len(near), *near, *rest)
        for flag, face in faces:
            body += struct.pack(f"{order}BI{len(face)}H", flag, len(face), *face)
        body += struct.pack(order + "i", 17)
    text = _ply(header, form=form).replace(b"\n", newline.encode())
    mesh = read_mesh(_file(tmp_path, "odd.ply", text + body))
    expected = np.array([[x, y, z] for z, _, x, y, *_ in vertices])
    assert mesh.points.dtype == np.float64
    assert np.array_equal(mesh.points, expected)
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [3, 2, 0]]
    assert mesh.colors.tolist() == [
        [0, 128, 255, 255], [255, 64, 0, 255], [0, 0, 0, 255], [255, 255, 255, 255]
    ]  # fmt: skip
    assert mesh.normals is None


def test_text_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.geometry import ply

    monkeypatch.setattr(ply, "_BLOCK_BYTES", 300)
    monkeypatch.setattr(ply, "_BLOCK_ROWS", 7)
    points = np.random.default_rng(8).normal(size=(100, 3))
    rows = "\n".join(" ".join(map(repr, row)) for row in points.tolist())
    header = "element vertex 100\n" + XYZ.replace("float", "double")
    faces = "element face 2\nproperty list uchar int vertex_indices\n"
    body = rows + "\n3 0 1 2\n3 97 98 99"
    mesh = read_mesh(_file(tmp_path, "long.ply", _ply(header + faces, body.encode())))
    assert np.array_equal(mesh.points, points)
    assert mesh.faces.tolist() == [[0, 1, 2], [97, 98, 99]]


def test_a_million_points_are_read_fast(tmp_path: Path) -> None:
    points = np.random.default_rng(9).normal(size=(1_000_000, 3)).astype(np.float32)
    write_mesh(tmp_path / "big.ply", points, np.zeros((0, 3)))
    begin = time.process_time()
    again = read_points(tmp_path / "big.ply")
    assert time.process_time() - begin < 2
    assert again.points.tobytes() == points.tobytes()


VERTEX_3 = "element vertex 3\n" + XYZ
FACE = "element face 1\nproperty list uchar int vertex_indices\n"
ROWS_3 = b"0 0 0\n1 0 0\n0 1 0\n"
BAD_PLY = {
    "empty": b"",
    "only the magic": b"ply\n",
    "no end of header": b"ply\nformat ascii 1.0\nelement vertex 3\n",
    "no format": b"ply\nelement vertex 3\nend_header\n",
    "unknown format": _ply(VERTEX_3, ROWS_3, "binary_middle_endian"),
    "unknown type": _ply("element vertex 3\nproperty quad x\n", ROWS_3),
    "a PNG": b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
    "no vertices": _ply("element face 0\nproperty list uchar int vertex_indices\n"),
    "zero vertices": _ply("element vertex 0\n" + XYZ),
    "10^12 vertices": _ply("element vertex 1000000000000\n" + XYZ, ROWS_3),
    "10^12 faces": _ply(VERTEX_3 + FACE.replace("1", "1000000000000"), ROWS_3),
    "negative count": _ply("element vertex -3\n" + XYZ, ROWS_3),
    "count beyond digits": _ply(f"element vertex {'9' * 400}\n" + XYZ, ROWS_3),
    "no z": _ply("element vertex 3\nproperty float x\nproperty float y\n", b"0 0 1 0 0 1"),
    "too few numbers": _ply(VERTEX_3, b"0 0 0\n1 0 0\n0 1\n"),
    "words": _ply(VERTEX_3, b"0 0 0\n1 zero 0\n0 1 0\n"),
    "bytes": _ply(VERTEX_3, b"0 0 0\n1 \xff 0\n0 1 0\n"),
    "not a number": _ply(VERTEX_3, b"0 0 0\n1 nan 0\n0 1 0\n"),
    "infinite": _ply(VERTEX_3, b"0 0 0\n1 1e999 0\n0 1 0\n"),
    "overflows float32": _ply(VERTEX_3, b"0 0 0\n1 1e99 0\n0 1 0\n"),
    "face out of range": _ply(VERTEX_3 + FACE, ROWS_3 + b"3 0 1 3"),
    "face below zero": _ply(VERTEX_3 + FACE, ROWS_3 + b"3 0 1 -1"),
    "face beyond 32 bits": _ply(VERTEX_3 + FACE, ROWS_3 + b"3 0 1 4294967296"),
    "face cut off": _ply(VERTEX_3 + FACE, ROWS_3 + b"3 0 1"),
    "face missing": _ply(VERTEX_3 + FACE, ROWS_3),
    "face of -3 corners": _ply(VERTEX_3 + FACE, ROWS_3 + b"-3 0 1 2"),
    "list length is a float": _ply("element vertex 1\nproperty list float int a\n" + XYZ, b"0 0"),
    "binary cut off": _ply(VERTEX_3, bytes(35), "binary_little_endian"),
    "binary face cut off": _ply(VERTEX_3 + FACE, bytes(36) + b"\x03\0\0", "binary_little_endian"),
    "binary list far too long": _ply(
        VERTEX_3 + FACE.replace("uchar", "uint"), bytes(36) + b"\xff" * 16, "binary_little_endian"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_PLY)
def test_bad_ply(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_mesh(_file(tmp_path, "bad.ply", BAD_PLY[kind]))
    assert caught.value.cause
    assert caught.value.remedy
    assert "damaged, or is not" not in caught.value.cause, "told by name, not by the safety net"


def test_truncated_at_every_byte(tmp_path: Path) -> None:
    """Whatever is left of a file: either an error for people, or all of its points."""
    for form in ("binary_little_endian", "ascii"):
        body = ROWS_3 + b"3 0 1 2\n"
        if form != "ascii":
            body = np.arange(9, dtype="<f4").tobytes() + b"\x03" + bytes(12)
        whole = _ply(VERTEX_3 + FACE, body, form)
        read_mesh(_file(tmp_path, "whole.ply", whole))
        for length in range(len(whole) - 2):
            with pytest.raises(BadInput):
                read_mesh(_file(tmp_path, "cut.ply", whole[:length]))


# ------------------------------------------------------------------------------------ plain texts


def test_xyz_and_its_relatives(tmp_path: Path) -> None:
    random = np.random.default_rng(10)
    points = random.normal(size=(50, 3))
    normals = random.normal(size=(50, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    colors = random.integers(0, 256, (50, 3))
    intensity = random.uniform(-2000, 2000, (50, 1))

    def text(*columns: np.ndarray, sep: str = " ", head: str = "") -> str:
        rows = np.concatenate([np.asarray(c, float) for c in columns], axis=1)
        return head + "\n".join(sep.join(map(repr, row)) for row in rows.tolist()) + "\n"

    cases = {
        "plain.xyz": (text(points), None, None),
        "normals.xyz": (text(points, normals), normals, None),
        "colors.txt": (text(points, colors, head="# a scan\n"), None, colors),
        "both.txt": (text(points, colors, normals), normals, colors),
        "other.txt": (text(points, normals, colors, sep=";"), normals, colors),
        "csv.txt": (text(points, colors, sep=",", head="x,y,z,r,g,b\r\n"), None, colors),
        "count.pts": (text(points, intensity, colors, head="50\n"), None, colors),
        "intensity.pts": (text(points, intensity), None, None),
        "commented.xyz": (text(points).replace("\n", " // end\n\n"), None, None),
    }
    for name, (content, expected_normals, expected_colors) in cases.items():
        mesh = read_points(_file(tmp_path, name, content))
        assert np.array_equal(mesh.points, points), name
        assert (mesh.normals is None) == (expected_normals is None), name
        assert (mesh.colors is None) == (expected_colors is None), name
        if expected_normals is not None:
            np.testing.assert_allclose(mesh.normals, normals, atol=1e-6)
        if expected_colors is not None:
            assert np.array_equal(mesh.colors[:, :3], colors), name


@pytest.mark.parametrize(
    "content",
    ["", "\n\n", "hello world\n", "1 2\n3 4\n", "1 2 3\n4 5\n", "1 2 3\n4 5 six\n", "1 2 nan\n",
     "1,5 2,5 3,5\n1 2 3\n", b"\x89PNG\r\n\x1a\n\0\0", b"\xff\xfe1\x002\x00", b"1 2 3\n\0\0\0\n"],
)  # fmt: skip
def test_bad_xyz(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(BadInput) as caught:
        read_points(_file(tmp_path, "bad.xyz", content))
    assert caught.value.remedy
    assert "damaged, or is not" not in caught.value.cause


# -------------------------------------------------------------------------------------------- obj


def test_obj_of_other_programs(tmp_path: Path) -> None:
    text = (
        "# cube side\nmtllib a.mtl\no Side\nv 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 1 1 0 0 0 1\n"
        "v 0 1 0 1 1 1\nvt 0 0\nvn 0 0 1\nusemtl x\ns 1\nf 1/1/1 2/1/1 3/1/1 4/1/1\n"
        "f -4 -3 \\\n -2\nl 1 2\nv 5 5 5 0 0 0\nf 1//1 2//1 -1//1\n"
    )
    for content in (text, text.replace("\n", "\r\n")):
        mesh = read_mesh(_file(tmp_path, "side.obj", content))
        assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2], [0, 1, 4]]
        assert mesh.points.shape == (5, 3)
        assert mesh.colors[:2].tolist() == [[255, 0, 0, 255], [0, 255, 0, 255]]
        assert mesh.normals is None  # one for all, not one for each vertex


@pytest.mark.parametrize(
    "content",
    ["", "v 1 2\n", "v 1 2 3\nv 1 2\n", "v 1 x 3\n", "f 1 2 3\n", "v 1 2 3\nf 1 2 3\n",
     "v 1 2 3\nf 0 1 1\n", "v 1 2 3\nf 1 1 -2\n", "v 1 2 3\nf a b c\n", "v 1 2 3\nf 1.5 1 1\n",
     "v nan 0 0\n", b"v 1 2 3\n\0\0\0", b"\x89PNG"],
)  # fmt: skip
def test_bad_obj(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(BadInput) as caught:
        read_mesh(_file(tmp_path, "bad.obj", content))
    assert caught.value.remedy


# --------------------------------------------------------------------------------- arrays, voxels


def test_arrays(tmp_path: Path) -> None:
    points = np.random.default_rng(11).normal(size=(60, 3))
    np.save(tmp_path / "a.npy", points.astype(">f4"))
    np.save(tmp_path / "f.npy", np.asfortranarray(points))
    np.savez(tmp_path / "b.npz", vertices=points, faces=TRIANGLE, colors=np.ones((60, 3)))
    np.savez_compressed(tmp_path / "c.npz", points=points.astype(np.float32), normals=points)
    assert np.array_equal(read_points(tmp_path / "a.npy").points, points.astype(np.float32))
    assert np.array_equal(read_points(tmp_path / "f.npy").points, points)
    mesh = read_mesh(tmp_path / "b.npz")
    assert np.array_equal(mesh.faces, TRIANGLE)
    assert mesh.points.dtype == np.float64
    assert (mesh.colors == 255).all()
    assert np.array_equal(read_points(tmp_path / "c.npz").normals, points.astype(np.float32))


def _npy_header(shape: str, descr: str = "<f8") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        _npy_header("(1000000000000, 3)"),
        _npy_header("(-1, 3)"),
        _npy_header("(4, 3)") + bytes(95),
        _npy_header("(4, 3)", "|O") + bytes(96),
        _npy_header("(4, 3)", "<U4") + bytes(500),
        _npy_header("(4, 2)") + bytes(64),
        _npy_header("()") + bytes(8),
        _npy_header("(0, 3)"),
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\x10\x00__import__('os')",
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_bad_arrays(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = _file(tmp_path, "bad.npy", content)
    if suffix == ".npz":
        with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
            archive.write(path, "points.npy")
        path = tmp_path / "bad.npz"
    with pytest.raises(BadInput):
        read_points(path)


def test_arrays_that_do_not_fit_each_other(tmp_path: Path) -> None:
    for number, other in enumerate(
        ({"normals": np.ones((4, 3))}, {"colors": np.ones((5, 2))}, {"normals": np.ones((5, 2))},
         {"faces": np.array([[0, 1, 9]])})
    ):  # fmt: skip
        np.savez(tmp_path / f"{number}.npz", points=np.ones((5, 3)), **other)
        with pytest.raises(BadInput):
            read_mesh(tmp_path / f"{number}.npz")


def test_voxels_as_published(tmp_path: Path) -> None:
    """Cells at the last plane of (R + 1)^3 are cut away."""
    record = {"resolution": 8, "occupancy": [[0, 1, 2], [7, 7, 7], [8, 0, 0]], "color": []}
    voxels = read_voxels(_file(tmp_path, "voxels.json", json.dumps(record)))
    assert voxels.occupancy.shape == (8, 8, 8)
    assert np.argwhere(voxels.occupancy).tolist() == [[0, 1, 2], [7, 7, 7]]
    assert voxels.origin.tolist() == [-1, -1, -1]
    assert voxels.voxel_size.tolist() == [0.25] * 3


def test_voxel_arrays(tmp_path: Path) -> None:
    grid = np.random.default_rng(12).uniform(size=(9, 10, 11))
    np.save(tmp_path / "a.npy", grid)
    np.savez(tmp_path / "b.npz", occupancy=grid > 0.5, origin=[1, 2, 3], voxel_size=0.5)
    np.savez(tmp_path / "c.npz", (grid > 0.5).astype(np.uint8))
    for name in ("a.npy", "b.npz", "c.npz"):
        assert np.array_equal(read_voxels(tmp_path / name).occupancy, grid > 0.5)
    assert read_voxels(tmp_path / "b.npz").origin.tolist() == [1, 2, 3]
    assert read_voxels(tmp_path / "b.npz").voxel_size.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", "null", '{"resolution": 8}', '{"resolution": 8, "occupancy": [[0, 0]]}',
     '{"resolution": 1e9, "occupancy": [[0, 0, 0]]}', '{"resolution": 99999, "occupancy": []}',
     '{"resolution": 8, "occupancy": [[0, 0, 9]]}', '{"resolution": 8, "occupancy": [[0, 0, -1]]}',
     '{"resolution": 8, "occupancy": [[0, 0, 0.5]]}', '{"resolution": 8, "occupancy": []}',
     '{"resolution": 8, "occupancy": [["a", 0, 0]]}', '{"resolution": 8, "occupancy": {}}',
     "[" * 100_000, '{"resolution": 8, "occupancy": [[NaN, 0, 0]]}', b"\xff\xfe\x00"],
)  # fmt: skip
def test_bad_voxel_json(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(BadInput) as caught:
        read_voxels(_file(tmp_path, "bad.json", content))
    assert caught.value.remedy


def test_bad_voxel_arrays(tmp_path: Path) -> None:
    for number, arrays in enumerate(
        ({"occupancy": np.zeros((8, 8))}, {"occupancy": np.ones((8, 8, 8))},
         {"occupancy": np.zeros((8, 8, 8))}, {"occupancy": np.eye(8)[None] * np.ones((8, 1, 1)),
          "voxel_size": [0, 1, 1]}, {"occupancy": np.zeros((513, 2, 2), bool)}, {})
    ):  # fmt: skip
        np.savez(tmp_path / f"{number}.npz", **arrays)
        with pytest.raises(BadInput):
            read_voxels(tmp_path / f"{number}.npz")


# ------------------------------------------------------------------------------------------ fuzzed


def _tried(path: Path) -> tuple[Mesh | None, FieldforgeError]:
    try:
        return read_mesh(path), FieldforgeError("")
    except FieldforgeError as error:
        return None, error


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".npy", ".xyz"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_never_give_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    mesh = _mesh(13, count=12)
    path = folder / f"file{suffix}"
    if suffix == ".npy":
        np.save(path, mesh.points)
    elif suffix == ".xyz":
        np.savetxt(path, mesh.points)
    else:
        _write(path, mesh)
    body = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(len(body) // 2, len(body)))
    path.write_bytes(bytes(body[:cut]))
    again, error = _tried(path)
    if again is None:
        assert error.cause
        assert error.remedy
    else:
        assert np.isfinite(again.points).all()
        assert again.points.shape[1] == 3
        assert len(again.faces) == 0 or 0 <= again.faces.min() <= again.faces.max() < len(
            again.points
        )


@settings(max_examples=80, deadline=None)
@given(body=st.binary(max_size=200), suffix=st.sampled_from(list(mesh_files.MESH_READERS)))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, body: bytes, suffix: str) -> None:
    path = _file(tmp_path_factory.mktemp("any"), f"file{suffix}", body)
    mesh, error = _tried(path)
    if mesh is None:
        assert isinstance(error, BadInput)
        assert error.remedy
    else:
        assert suffix in (".xyz", ".txt", ".pts", ".obj")
        assert np.isfinite(mesh.points).all()


# ------------------------------------------------------------------------------------------ around


def test_names_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file"):
        read_points(tmp_path / "none.ply")
    with pytest.raises(BadInput, match="folder"):
        read_points(_folder(tmp_path / "folder.ply"))
    with pytest.raises(BadInput, match="cannot be read from"):
        read_points(_file(tmp_path, "a.step", b"x"))
    with pytest.raises(BadInput, match="cannot be read from"):
        read_voxels(_file(tmp_path, "a.ply", b"x"))
    with pytest.raises(BadInput, match="file but a PNG image"):
        read_points(_file(tmp_path, "a.ply", b"\x89PNG\r\n\x1a\n0000"))
    with pytest.raises(BadInput, match="cannot be written as"):
        write_mesh(tmp_path / "a.stl", np.zeros((3, 3)), TRIANGLE)
    with pytest.raises(BadInput, match="nothing to write"):
        write_mesh(tmp_path / "a.ply", np.zeros((0, 3)), np.zeros((0, 3)))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_200_million_points_are_refused_by_their_header(tmp_path: Path) -> None:
    path = _file(
        tmp_path, "huge.ply", _ply("element vertex 200000000\n" + XYZ, b"", "binary_little_endian")
    )
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 12 * 200_000_000)  # sparse: takes no space
    with pytest.raises(TooLarge, match="200,000,000 points"):
        read_points(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, "kept.ply", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageFailed, match="disk is full"):
        write_mesh(path, np.zeros((3, 3), np.float32), TRIANGLE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.ply"]
    assert path.read_bytes() == b"old"


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot be written"):
        write_mesh(tmp_path / "none" / "a.glb", np.zeros((3, 3), np.float32), TRIANGLE)


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_mesh(path, np.zeros((3, 3), np.float32), TRIANGLE)
    plain = _file(tmp_path, "plain", b"")
    assert path.stat().st_mode == plain.stat().st_mode


# --------------------------------------------------------------------------------------------- HDF5


def _hdf5(path: Path, points: object = None, **more: object) -> Path:
    with h5py.File(path, "w") as file:
        if points is not None or more:
            file.create_dataset("points", data=points, **more)
        file["labels"] = np.zeros(3)
    return path


@pytest.mark.parametrize("suffix", mesh_files.HDF5_SUFFIXES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("packing", [{}, {"compression": "gzip", "shuffle": True}])
def test_points_of_hdf5_come_as_they_are(tmp_path: Path, suffix, dtype, packing) -> None:
    points = np.random.default_rng(0).normal(size=(500, 3)).astype(dtype)
    found = read_points(_hdf5(tmp_path / f"a{suffix}", points, **packing))
    assert found.points.dtype == dtype
    np.testing.assert_array_equal(found.points, points)
    assert found.faces.shape == (0, 3)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (None, "labels"),
        (np.zeros((4, 2)), "no list of points"),
        (np.zeros(12), "no list of points"),
        (np.array(["a", "b"], "S1"), "no list of points"),
    ],
)
def test_hdf5_without_points_is_told(tmp_path: Path, points, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_points(_hdf5(tmp_path / "a.h5", points))


@pytest.mark.parametrize("packing", [{}, {"chunks": (1000, 3)}])
def test_a_huge_hdf5_takes_no_memory(tmp_path: Path, packing) -> None:
    for count, error in ((10**12, TooLarge), (20_000_000, BadInput)):
        path = _hdf5(tmp_path / "a.h5", shape=(count, 3), dtype="f8", **packing)
        began = time.perf_counter()
        with pytest.raises(error):
            read_points(path)
        assert time.perf_counter() - began < 5


def test_one_enormous_chunk_is_refused(tmp_path: Path) -> None:
    more = {"chunks": (10**7, 3), "compression": "gzip", "maxshape": (None, 3)}
    path = _hdf5(tmp_path / "a.h5", np.zeros((10, 3)), **more)
    with pytest.raises(TooLarge, match="too large parts"):
        read_points(path)


def test_hdf5_is_not_followed_into_other_files(tmp_path: Path) -> None:
    _hdf5(tmp_path / "other.h5", np.zeros((4, 3)))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["points"] = h5py.ExternalLink("other.h5", "points")
    with pytest.raises(BadInput, match="no array"):
        read_points(tmp_path / "a.h5")
    (tmp_path / "raw").write_bytes(bytes(96))
    outside = {"shape": (4, 3), "dtype": "f8", "external": str(tmp_path / "raw")}
    with pytest.raises(BadInput, match="other files"):
        read_points(_hdf5(tmp_path / "b.h5", **outside))


def test_a_cut_hdf5_is_told(tmp_path: Path) -> None:
    whole = _hdf5(tmp_path / "whole.h5", np.ones((500, 3))).read_bytes()
    for length in (5, 100, 2000, len(whole) - 1):
        with pytest.raises(BadInput):
            read_points(_file(tmp_path, "a.h5", whole[:length]))
