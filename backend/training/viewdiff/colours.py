"""The colours of the shapes of a data set, from the catalogues that they came from.

FILE.ffc, beside shapes.ffs: an index in JSON under LZMA, then a palette entry for each face of each
shape in the order that `packed.decode` gives. A few megabytes.
"""

from __future__ import annotations

import json
import lzma
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from ...errors import BadInput
from .. import catalogue, packed
from ..catalogue import Entry
from ..parallel import each
from ..rooms import materials
from ..rooms.furnishings import linear

_MAGIC = b"FFCOLOURS1\n"
_MOST_INDEX_BYTES = 16 << 20
_MOST_COLOURS = 64
_NEAREST = 3
"""Old faces that are asked for the colour of a new one; the one that faces most alike answers."""


def write(
    shapes: Path,
    catalogues: Sequence[Path],
    target: Path,
    workers: int,
    report: Callable[[str, float], None],
) -> None:
    """Write the colours of all shapes of `shapes` that the catalogues have. Raises BadInput."""
    known = {entry.id: entry for entry in catalogue.entries(list(catalogues))}
    jobs = [
        (known[shape.id], content) for shape, content in packed.read(shapes) if shape.id in known
    ]
    if not jobs:
        raise BadInput(
            f"The catalogues have none of the shapes of {shapes.name}.",
            "Give the package that the shapes were made from.",
        )
    found: dict[str, tuple[list[list[int]], bytes]] = {}
    for number, (name, palette, content) in enumerate(each(_job, jobs, workers), 1):
        report("Colouring the shapes", number / len(jobs))
        found[name] = palette, content
    index = [
        {"id": entry.id, "palette": found[entry.id][0], "bytes": len(found[entry.id][1])}
        for entry, _ in jobs
    ]
    head = lzma.compress(json.dumps(index, ensure_ascii=False).encode(), preset=9)
    partial = target.with_name(target.name + ".part")
    with partial.open("wb") as file:
        file.write(_MAGIC + len(head).to_bytes(8, "little") + head)
        file.writelines(found[entry.id][1] for entry, _ in jobs)
    partial.replace(target)


def _job(job: tuple[Entry, bytes]) -> tuple[str, list[list[int]], bytes]:
    entry, content = job
    palette, chosen = coloured(entry, *packed.decode(content))
    return entry.id, palette.tolist(), lzma.compress(chosen.tobytes(), preset=9)


def coloured(
    entry: Entry, vertices: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Palette (K, 3) uint8 sRGB and an entry of it for each face (F,) uint8.

    Packing sorts faces, and reducing makes new ones: old faces near them lend their colours.
    """
    with zipfile.ZipFile(entry.archive) as archive:
        model = materials.read(archive, entry.member)
    corners, old = catalogue.placed(entry, model.vertices, model.faces)
    there, towards = _middles(corners, old)
    places, facing = _middles(vertices, faces)
    _, near = cKDTree(there).query(places, k=min(_NEAREST, len(old)))
    near = near.reshape(len(faces), -1)
    alike = np.abs(np.einsum("fc,fkc->fk", facing, towards[near]))
    # The nearest of those that face nearly as well as the best does.
    best = (alike > alike.max(axis=1, keepdims=True) - 0.1).argmax(axis=1)
    picture = Image.fromarray(model.colours[near[np.arange(len(near)), best]][None])
    table = picture.quantize(_MOST_COLOURS, method=Image.Quantize.MEDIANCUT)
    palette = np.array(table.getpalette(), np.uint8).reshape(-1, 3)
    return palette, np.asarray(table, np.uint8)[0]


def _middles(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of faces: middles and normals, (F, 3) each."""
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return (a + b + c) / 3, normals / np.maximum(lengths, 1e-12)


def read(path: Path) -> dict[str, np.ndarray]:
    """Id of a shape -> (F, 3) float32, linear colours 0 to 1 of its faces. Raises BadInput."""
    if not path.exists():
        raise BadInput(f"{path} is missing.", "Make it: backend.training views colours.")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise BadInput(f"{path.name} holds no colours of shapes.", "Make it anew.")
        try:
            length = int.from_bytes(file.read(8), "little")
            head = lzma.LZMADecompressor().decompress(file.read(length), _MOST_INDEX_BYTES)
            found = {}
            for entry in json.loads(head):
                content = file.read(entry["bytes"])
                palette = np.array(entry["palette"], np.uint8)
                chosen = np.frombuffer(lzma.decompress(content), np.uint8)
                found[entry["id"]] = linear(palette[chosen] / np.float32(255))
        except (lzma.LZMAError, ValueError, KeyError, TypeError, IndexError) as error:
            raise BadInput(f"{path.name} is damaged ({error}).", "Make it again.") from None
    return found
