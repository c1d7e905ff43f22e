"""Furniture with its colours and real sizes, in one file that can be carried along.

FILE.ffr: an index in JSON under LZMA, then for each model its triangles as `packed` has them and a
palette entry per face. About 10 MB.
"""

from __future__ import annotations

import json
import lzma
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from ...errors import BadInput
from .. import catalogue, packed, prepare
from ..catalogue import Entry
from . import materials
from .kinds import kind_of

TRAINING, EVALUATION = "train", "evaluation"
_SIDES = {"train": TRAINING, "validation": EVALUATION, "test": EVALUATION}
"""Sides of the split of the furniture -> sides of rooms. Reserved models have none."""

_MAGIC = b"FFROOMS1\n"
_MOST_INDEX_BYTES = 8 << 20
_MOST_COLOURS = 64


@dataclass(frozen=True)
class Model:
    """What is known of a piece of furniture beside its surface. Lengths in metres.

    kind: what a caption calls it. side: TRAINING or EVALUATION. size: along x, y, z (up).
    elevation: of its underside where it hangs. top: height of what things stand on, or negative.
    """

    id: str
    kind: str
    side: str
    attribution: str
    size: tuple[float, float, float]
    elevation: float
    top: float


@dataclass(frozen=True, eq=False)
class Furnishing:
    """vertices: (V, 3) float32 metres, Z up, x and y centred, standing at z = 0, its front towards
    -y. faces: (F, 3) int32. colours: (F, 3) float32 linear, 0 to 1."""

    model: Model
    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray


# ------------------------------------------------------------------------------------------ writing


def pack(catalogues: Sequence[Path], target: Path, report: Callable[[str, float], None]) -> None:
    """Write `target` from the catalogues. Raises BadInput."""
    split = prepare.split_of_furniture()
    wanted = [
        (entry, _SIDES[split[entry.id][0]])
        for entry in catalogue.entries(list(catalogues))
        if kind_of(entry) and split[entry.id][0] in _SIDES
    ]
    index: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for number, (entry, side) in enumerate(wanted):
        report(f"Packing {entry.name}", number / len(wanted))
        triangles, palette, colours = _packed(entry)
        index.append(
            {
                **asdict(_model(entry, side)),
                "palette": palette.tolist(),
                "bytes": [len(triangles), len(colours)],
            }
        )
        blobs += [triangles, colours]
    head = lzma.compress(json.dumps(index, ensure_ascii=False).encode(), preset=9)
    partial = target.with_name(target.name + ".part")
    with partial.open("wb") as file:
        file.write(_MAGIC + len(head).to_bytes(8, "little") + head)
        file.writelines(blobs)
    partial.replace(target)


def _model(entry: Entry, side: str) -> Model:
    width, height, depth = (size / 100 for size in entry.size)
    return Model(
        id=entry.id,
        kind=kind_of(entry),
        side=side,
        attribution=entry.attribution,
        size=(width, depth, height),
        elevation=entry.elevation / 100,
        top=height if entry.top is None else entry.top / 100,
    )


def _packed(entry: Entry) -> tuple[bytes, np.ndarray, bytes]:
    """Triangles, palette (K, 3) uint8 sRGB, and a palette entry per face under LZMA."""
    with zipfile.ZipFile(entry.archive) as archive:
        model = materials.read(archive, entry.member)
    vertices, faces = catalogue.placed(entry, model.vertices, model.faces)
    triangles = packed.encode(*prepare.with_fewer_faces(vertices, faces))
    # Packing sorts the faces, and reducing makes new ones: the nearest old face lends its colour.
    kept, kept_faces = packed.decode(triangles)
    _, nearest = cKDTree(vertices[faces].mean(axis=1)).query(kept[kept_faces].mean(axis=1))
    picture = Image.fromarray(model.colours[nearest][None])
    table = picture.quantize(_MOST_COLOURS, method=Image.Quantize.MEDIANCUT)
    palette = np.array(table.getpalette(), np.uint8).reshape(-1, 3)
    return triangles, palette, lzma.compress(np.asarray(table, np.uint8).tobytes(), preset=9)


# ------------------------------------------------------------------------------------------ reading


def read(path: Path, side: str) -> list[Furnishing]:
    """The furniture of one side, in the order of the file. Raises BadInput."""
    found = []
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise BadInput(f"{path.name} holds no furniture for rooms.", "Make it with `rooms`.")
        try:
            expander = lzma.LZMADecompressor()
            length = int.from_bytes(file.read(8), "little")
            index = json.loads(expander.decompress(file.read(length), _MOST_INDEX_BYTES))
            for entry in index:
                palette = np.array(entry.pop("palette"), np.uint8)
                sizes = entry.pop("bytes")
                contents = [file.read(size) for size in sizes]
                if [len(content) for content in contents] != sizes:
                    raise ValueError("it is cut off")
                model = Model(**{**entry, "size": tuple(entry["size"])})
                if model.side == side:
                    found.append(_unpacked(model, palette, *contents))
        except (lzma.LZMAError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path.name} is damaged ({error}).", "Make it again.") from None
    return found


def _unpacked(model: Model, palette: np.ndarray, triangles: bytes, colours: bytes) -> Furnishing:
    vertices, faces = packed.decode(triangles)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    # From y up, front towards +z, to z up, front towards -y.
    turned = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1] - low[1]], axis=1)
    scale = np.max(model.size) / (high - low).max()
    chosen = palette[np.frombuffer(lzma.decompress(colours), np.uint8)]
    if len(chosen) != len(faces):
        raise ValueError("colours and faces differ")
    return Furnishing(
        model, (turned * scale).astype(np.float32), faces, linear(chosen / np.float32(255))
    )


def linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB 0 to 1 -> linear float32."""
    values = np.asarray(srgb, np.float32)
    bent = ((values + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
    return np.where(values <= 0.04045, values / np.float32(12.92), bent).astype(np.float32)
