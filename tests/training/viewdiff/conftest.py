"""A catalogue of three boxes, one for each side, as the trainings of views read it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from backend.training import catalogue, packed
from backend.training.catalogue import Entry
from backend.training.packed import Shape
from backend.training.viewdiff import colours, scenes

BOX = np.array([(x, y, z) for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)], np.float32)
QUADS = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
FACES = np.array([t for a, b, c, d in QUADS for t in ((a, b, c), (a, c, d))], np.int32)
OBJ = """mtllib box.mtl
v -1 -1 -1
v 1 -1 -1
v -1 1 -1
v 1 1 -1
v -1 -1 1
v 1 -1 1
v -1 1 1
v 1 1 1
usemtl red
f 1 2 4 3
usemtl blue
f 5 6 8 7
f 1 2 6 5
f 3 4 8 7
f 1 3 7 5
f 2 4 8 6
"""
MTL = "newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with shapes.ffs and shapes.ffc of boxes, one on each side."""
    archive = tmp_path / "boxes.sh3f"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("box.obj", OBJ)
        file.writestr("box.mtl", MTL)
        lines = []
        for number, name in enumerate(scenes.SIDES, 1):
            values = {
                "id": f"test#{name}", "name": "Box", "category": "Kitchen", "model": "/box.obj",
                "width": 100 + 20 * number, "height": 100, "depth": 80,
            }  # fmt: skip
            lines += [f"{key}#{number}={value}" for key, value in values.items()]
        file.writestr("PluginFurnitureCatalog.properties", "\n".join(lines))
    shapes = [
        (
            Shape(f"test#{side}", "a box", "test", side, "Box (test), nobody, CC0-1.0", side),
            packed.encode(*_placed(number)),
        )
        for number, side in enumerate(scenes.SIDES, 1)
    ]
    packed.write(tmp_path / "shapes.ffs", shapes)
    told: list[float] = []
    colours.write(
        tmp_path / "shapes.ffs", [archive], tmp_path / "shapes.ffc", 1,
        lambda words, fraction: told.append(fraction),
    )  # fmt: skip
    assert told[-1] == 1
    return tmp_path


def _placed(number: int) -> tuple[np.ndarray, np.ndarray]:
    """As the catalogue places the box of this number: its longest side 1.8, y up."""
    size = (100.0 + 20 * number, 100.0, 80.0)
    entry = Entry("", "", "", (), "", "", size, None, Path(), "")
    return catalogue.placed(entry, BOX, FACES)
