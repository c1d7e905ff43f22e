"""From a package to trees, on a package made here."""

import dataclasses
import io
import json
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
import torch
import trimesh

from backend.errors import BadInput, FieldforgeError
from backend.geometry.isosurface import marching_cubes
from backend.training import catalogue, packed, prepare, trees

CUBE = "".join(f"v {x} {y} {z}\n" for x in (0, 1) for y in (0, 1) for z in (0, 1)) + (
    "f 1 2 4 3\nf 5 7 8 6\nf 1 5 6 2\nf 3 4 8 7\nf 1 3 7 5\nf 2 6 8 4\n"
)
PROPERTIES = r"""
# a comment=1
id=Catalogue
id#1=Scopia#box
name#1=Box
tags#1=Blend Swap, Storage, Box
category#1=Office
model#1=/scopia/box/box.obj
width#1=50
depth#1=100
height#1=20
creator#1=Scopia
id#2=Scopia#turned
name#2=Si\u00e8ge
category#2=Office
model#2=/scopia/box/box.obj
modelRotation#2=1 0 0 0 0 -1 0 1 0
width#2=10
depth#2=20
height#2=40
id#3=Scopia#kept
name#3=Kept
category#3=Office
model#3=/scopia/box/box.obj
width#3=1
depth#3=1
height#3=1
"""


@pytest.fixture
def package(tmp_path):
    """A .deb as the real one is laid out: an ar archive with a tar archive with zip archives."""
    furniture = io.BytesIO()
    with zipfile.ZipFile(furniture, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", PROPERTIES.encode("latin-1"))
        archive.writestr("scopia/box/box.obj", CUBE)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        entry = tarfile.TarInfo("./usr/share/sweethome3d/furniture/Scopia.sh3f")
        entry.size = len(furniture.getvalue())
        archive.addfile(entry, io.BytesIO(furniture.getvalue()))
    members = {"debian-binary": b"2.0\n", "data.tar.xz": lzma.compress(data.getvalue())}
    path = tmp_path / "furniture_1.deb"
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


def test_models_are_upright_in_their_proportions_and_attributed(package, tmp_path):
    box, turned, _ = catalogue.entries(catalogue.unpack(package, tmp_path / "out"))
    assert box.caption == "box, storage"
    assert turned.caption == "siège"
    assert box.license == "CC-BY-3.0"
    assert "Puybaret" in box.attribution
    vertices, faces = catalogue.triangles(box)
    assert np.ptp(vertices, axis=0) == pytest.approx([0.9, 0.36, 1.8])
    assert vertices.min(axis=0) == pytest.approx(-vertices.max(axis=0))
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    assert np.einsum("ij,ij->", a, np.cross(b, c)) / 6 == pytest.approx(0.9 * 0.36 * 1.8)
    assert np.ptp(catalogue.triangles(turned)[0], axis=0) == pytest.approx([0.45, 1.8, 0.9])


@pytest.mark.parametrize("content", [b"", b"not a package", b"!<arch>\n"])
def test_what_is_no_package_is_told(tmp_path, content):
    path = tmp_path / "a.deb"
    path.write_bytes(content)
    with pytest.raises(BadInput):
        catalogue.unpack(path, tmp_path)


def test_what_is_no_catalogue_is_told(tmp_path):
    path = tmp_path / "a.sh3f"
    path.write_bytes(b"no zip")
    with pytest.raises(BadInput):
        list(catalogue.entries([path]))


def test_the_split_keeps_families_together_and_reserved_shapes_out(package, tmp_path, monkeypatch):
    split = prepare.split_of_furniture()
    sides = {}
    for side, family in split.values():
        sides.setdefault(family, set()).add(side)
    assert all(len(found) == 1 for found in sides.values())
    counts = [sum(side == name for side, _ in split.values()) for name in ("train", "reserved")]
    assert counts == [696, 44]

    table = {
        "Scopia#box": ["train", 0],
        "Scopia#turned": ["test", 1],
        "Scopia#kept": ["reserved", 2],
    }
    path = tmp_path / "split.json"
    path.write_text(json.dumps(table))
    monkeypatch.setattr(prepare, "_SPLIT", path)
    grown = []
    monkeypatch.setattr(prepare, "grow_trees", lambda *given: grown.append(given))
    shapes = prepare.prepare(
        tmp_path / "data", package, 1, lambda stage, fraction: None, until="trees"
    )
    found = [shape for shape, _ in packed.read(shapes)]
    assert [(shape.id, shape.split) for shape in found] == [
        ("Scopia#box", "train"),
        ("Scopia#turned", "test"),
    ]
    before = shapes.read_bytes()
    shapes.unlink()
    prepare.prepare(tmp_path / "data", None, 1, lambda stage, fraction: None, until="trees")
    assert shapes.read_bytes() == before
    assert len(grown) == 2


def test_a_tree_gives_its_surface_back(tmp_path):
    nodes = 2 * torch.arange(256) / 256 - 1
    x, y, z = torch.meshgrid(nodes, nodes, nodes, indexing="ij")
    ball = ((x**2 + y**2 + (z / 1.4) ** 2).sqrt() - 0.5).clamp(-0.1, 0.1)
    tree = trees.tree_of_field(ball)
    tree.save(tmp_path / "ball.npz")
    again = trees.SparseTree.load(tmp_path / "ball.npz")
    assert np.array_equal(again.packed(), tree.packed())
    assert [path.name for path in tmp_path.iterdir()] == ["ball.npz"]
    field = trees.field_of(again.packed()[None])[0]
    both = ((field < 0) & (ball < 0)).sum() / ((field < 0) | (ball < 0)).sum()
    assert both > 0.998
    vertices, _ = marching_cubes(field.numpy())
    at = vertices.astype(float) * 2 / 256 - 1 if vertices.max() > 2 else vertices.astype(float)
    off = np.sqrt(at[:, 0] ** 2 + at[:, 1] ** 2 + (at[:, 2] / 1.4) ** 2) - 0.5
    assert np.abs(off).max() < 1 / 256
    assert tree.values.shape == (len(tree.cells), 63)
    assert 0 < len(tree.cells) < 46**3 / 4


def many_boxes(catalogues, count):
    """Entries of different sizes that all have the box of the package for their model."""
    first = next(iter(catalogue.entries(catalogues)))
    return [
        dataclasses.replace(first, id=f"Scopia#{k}", size=(10.0 + k, 20.0, 30.0 - k))
        for k in range(count)
    ]


def test_packing_goes_on_where_it_was_and_several_processes_give_the_same(
    package, tmp_path, monkeypatch
):
    catalogues = catalogue.unpack(package, tmp_path / "out")
    entries = many_boxes(catalogues, 6)
    monkeypatch.setattr(catalogue, "entries", lambda _: iter(entries))
    monkeypatch.setattr(
        prepare, "split_of_furniture", lambda: {entry.id: ("train", 3) for entry in entries}
    )
    done = []
    real = prepare._pack

    def stopped(job):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(job[0].id)
        return real(job)

    quiet = lambda stage, share: None  # noqa: E731
    folder, target = tmp_path / "packed", tmp_path / "shapes.ffs"
    monkeypatch.setattr(prepare, "_pack", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare._pack_furniture(catalogues, folder, target, 1, quiet)
    assert len(list(folder.iterdir())) == 3
    assert not target.exists()
    done.clear()
    prepare._pack_furniture(catalogues, folder, target, 1, quiet)
    assert done == [f"Scopia#{k}" for k in (3, 4, 5)]
    assert not folder.exists()
    monkeypatch.setattr(prepare, "_pack", real)
    prepare._pack_furniture(catalogues, folder, tmp_path / "again.ffs", 2, quiet)
    assert (tmp_path / "again.ffs").read_bytes() == target.read_bytes()
    found = [shape for shape, _ in packed.read(target)]
    assert [shape.id for shape in found] == [entry.id for entry in entries]
    assert {shape.family for shape in found} == {"furniture 3"}


def test_a_model_that_cannot_be_read_is_named(package, tmp_path, monkeypatch):
    catalogues = catalogue.unpack(package, tmp_path / "out")
    broken = dataclasses.replace(many_boxes(catalogues, 1)[0], member="nothing.obj")
    monkeypatch.setattr(catalogue, "entries", lambda _: iter([broken]))
    monkeypatch.setattr(prepare, "split_of_furniture", lambda: {broken.id: ("train", 0)})
    with pytest.raises(FieldforgeError, match="Scopia#0"):
        prepare._pack_furniture(
            catalogues, tmp_path / "packed", tmp_path / "s.ffs", 1, lambda stage, share: None
        )


def test_many_faces_become_fewer_without_leaving_the_surface(monkeypatch):
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.9)
    vertices, faces = np.asarray(ball.vertices), np.asarray(ball.faces, np.int32)
    monkeypatch.setattr(prepare, "MOST_FACES", 3000)
    fewer, left = prepare.with_fewer_faces(vertices, faces)
    assert 2500 < len(left) <= 3000
    assert np.abs(np.linalg.norm(fewer, axis=1) - 0.9).max() < 0.01
    same, kept = prepare.with_fewer_faces(vertices[:50], faces[:10])
    assert len(kept) == 10
    assert np.array_equal(same, vertices[:50])

    # Where reducing them strays, even to twice as many, the faces stay as they are.
    def spiked(v, f, most):
        return np.array([[0, 0, 0], [0.9, 0, 0], [0, 0.9, 0]]), f[:1] * 0 + [0, 1, 2]

    monkeypatch.setattr(prepare, "decimate", spiked)
    same, kept = prepare.with_fewer_faces(vertices, faces)
    assert np.array_equal(kept, faces)
    assert same is vertices


def test_generated_shapes_get_trees_beside_those_of_the_file(tmp_path, monkeypatch):
    box = trimesh.creation.box((1.8, 0.9, 0.9))
    surface = np.asarray(box.vertices, np.float32), np.asarray(box.faces, np.int32)
    content = packed.encode(*surface)
    packed.write(tmp_path / "s.ffs", [(packed.Shape("a", "a box", "a", "train", ""), content)])
    recipes = list(prepare.recipes(tmp_path / "s.ffs", 3))
    assert [shape.source for shape, _ in recipes] == ["a", "generated", "generated", "generated"]
    assert [recipe for _, recipe in recipes] == [content, 0, 1, 2]
    assert np.array_equal(prepare.surface_of(content)[1], packed.decode(content)[1])
    made = []

    def grow(job):
        made.append(job[0])
        job[1].write_bytes(b"tree")
        return ""

    monkeypatch.setattr(prepare, "_grow", grow)
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees" / f"{prepare.key_of('generated#1')}.npz").write_bytes(b"tree")
    prepare.grow_trees(tmp_path / "s.ffs", tmp_path / "trees", 1, lambda stage, share: None, 3)
    assert made == [content, 0, 2]
    assert len(list((tmp_path / "trees").iterdir())) == 4
