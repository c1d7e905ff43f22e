"""From a package to trees, on a package made here."""

import io
import json
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from backend.errors import BadInput
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
    shapes = prepare.prepare(tmp_path / "data", package, 1, lambda stage, fraction: None)
    found = [shape for shape, _ in packed.read(shapes)]
    assert [(shape.id, shape.split) for shape in found] == [
        ("Scopia#box", "train"),
        ("Scopia#turned", "test"),
    ]
    before = shapes.read_bytes()
    shapes.unlink()
    prepare.prepare(tmp_path / "data", None, 1, lambda stage, fraction: None)
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
