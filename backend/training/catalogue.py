"""Openly licensed shapes: the furniture catalogues of the Debian package sweethome3d-furniture.

About 820 named OBJ models, CC0 and CC-BY 3.0. Who made each one, and under which licence, stays
with it: what is shipped says so (`Entry.attribution`).
"""

from __future__ import annotations

import io
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BadInput, NotFound, Unreachable
from ..geometry import mesh_files

PACKAGE = "sweethome3d-furniture"
CUBE_SIDE = 1.8
"""Longest side of a shape in the cube [-1, 1]^3."""

_PROPERTIES = "PluginFurnitureCatalog.properties"
_LICENSES = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Reallusion": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}
_HOLDERS = {
    "KatorLegaz": "Andrew Kator & Jennifer Legaz",
    "Reallusion": "Reallusion",
    "Scopia": "Emmanuel Puybaret / eTeks & Scopia Visual Interfaces Systems",
}
# What the licence files of single models say against their catalogue.
_LICENSE_OF_MODEL = {
    "Blend Swap CC-0#winchesterSofa": "CC-BY-3.0",
    "Blend Swap CC-0#winchesterArmchair": "CC-BY-3.0",
    "Blend Swap CC-BY#wire-coathanger": "CC0-1.0",
}
_TAGS_WITHOUT_MEANING = {"Blend Swap"}


@dataclass(frozen=True)
class Entry:
    """A model of the catalogues. size: width, height, depth in centimetres (x, y up, z).

    rotation: (3, 3) row by row that sets it upright, or None. archive, member: where its OBJ lies.
    elevation: of its underside above the floor, centimetres. top: height of the surface that things
    stand on, centimetres above its underside; None: its highest point, negative: there is none.
    """

    id: str
    name: str
    category: str
    tags: tuple[str, ...]
    creator: str
    license: str
    size: tuple[float, float, float]
    rotation: tuple[float, ...] | None
    archive: Path
    member: str
    elevation: float = 0.0
    top: float | None = None

    @property
    def caption(self) -> str:
        """What it is, in a few words: "chair, seat"."""
        words = [self.name, *(tag for tag in self.tags if tag not in _TAGS_WITHOUT_MEANING)]
        seen = dict.fromkeys(word.strip().lower() for word in words or [self.category])
        return ", ".join(word for word in seen if word)

    @property
    def attribution(self) -> str:
        """One line that names the work, its author and its licence."""
        return f"{self.name} ({self.id}), {self.creator}, {self.license}"


def fetch(folder: Path) -> Path:
    """Download the package with the system's package client. Returns the .deb in `folder`.

    Raises Unreachable, or NotFound where there is no such client.
    """
    client = shutil.which("apt-get")
    if client is None:
        raise NotFound(
            "This system has no apt-get to download the furniture with.",
            f"Download the Debian package {PACKAGE} yourself and give it with --package.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [client, "download", PACKAGE], cwd=folder, capture_output=True, text=True, check=False
    )
    found = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unreachable(
            f"The package {PACKAGE} cannot be downloaded ({last}).",
            "Check the network and the package sources (apt-get update), then try again.",
        )
    return found[-1]


def unpack(package: Path, folder: Path) -> list[Path]:
    """The catalogues (.sh3f, which are zip archives) of a .deb, written to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    catalogues = []
    with tarfile.open(fileobj=_data_archive(package)) as archive:
        for member in archive:
            name = Path(member.name).name
            content = archive.extractfile(member) if name.endswith(".sh3f") else None
            if content is not None:
                target = folder / name
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file)
                catalogues.append(target)
    if not catalogues:
        raise BadInput(f"{package.name} holds no furniture.", f"Give the package {PACKAGE}.")
    return sorted(catalogues)


def _data_archive(package: Path) -> io.BytesIO:
    """The data archive of a .deb, which is an `ar` archive of three members."""
    with package.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise BadInput(f"{package.name} is no Debian package.", f"Give {PACKAGE}_*.deb.")
        while len(header := file.read(60)) == 60:
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if name == "data.tar.xz":
                return io.BytesIO(lzma.decompress(file.read(size)))
            file.seek(size + size % 2, io.SEEK_CUR)
    raise BadInput(f"{package.name} has no data that can be read.", "Download it again.")


def entries(catalogues: list[Path]) -> Iterator[Entry]:
    """All models of `catalogues`, in their order. Raises BadInput for an archive that is none."""
    for path in catalogues:
        try:
            with zipfile.ZipFile(path) as archive:
                text = archive.read(_PROPERTIES).decode("latin-1")
        except (zipfile.BadZipFile, KeyError) as error:
            raise BadInput(
                f"{path.name} is no furniture catalogue ({error}).", "Download the package again."
            ) from None
        yield from _entries_of(path, text)


def _entries_of(path: Path, text: str) -> Iterator[Entry]:
    values = {
        key.strip(): value.strip()
        for key, separator, value in (line.partition("=") for line in text.splitlines())
        if separator and not key.startswith("#")
    }
    number = 1
    while f"id#{number}" in values:

        def value(key: str, of: int = number) -> str:
            return values.get(f"{key}#{of}", "")

        model_id = value("id")
        rotation = tuple(float(entry) for entry in value("modelRotation").split())
        yield Entry(
            id=model_id,
            name=_unescaped(value("name")),
            category=value("category"),
            tags=tuple(tag.strip() for tag in value("tags").split(",") if tag.strip()),
            creator=_unescaped(_HOLDERS.get(path.stem) or value("creator")) or "unknown",
            license=_LICENSE_OF_MODEL.get(model_id, _LICENSES.get(path.stem, "unknown")),
            size=(float(value("width")), float(value("height")), float(value("depth"))),
            rotation=rotation if len(rotation) == 9 else None,
            archive=path,
            member=value("model").lstrip("/"),
            elevation=float(value("elevation") or 0),
            top=float(top) if (top := value("dropOnTopElevation")) else None,
        )
        number += 1


def _unescaped(text: str) -> str:
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape")


def triangles(entry: Entry) -> tuple[np.ndarray, np.ndarray]:
    """The surface of a model: vertices (V, 3) float64 in the cube, y up, and faces (F, 3) int32.

    Set upright, in the proportions of the catalogue, centred, its longest side `CUBE_SIDE`.
    """
    with zipfile.ZipFile(entry.archive) as archive, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.obj"
        path.write_bytes(archive.read(entry.member))
        mesh = mesh_files.read_mesh(path)
    return placed(entry, mesh.points, mesh.faces)


def placed(entry: Entry, vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and faces as in the file of a model -> those that `triangles` gives."""
    vertices = vertices.astype(np.float64)
    if entry.rotation is not None:
        vertices = vertices @ np.array(entry.rotation).reshape(3, 3).T
    return in_cube(vertices * _stretch(vertices[np.unique(faces)], entry.size), faces)


def _stretch(vertices: np.ndarray, size: tuple[float, float, float]) -> np.ndarray:
    """Factors per axis to the proportions of `size`; flat axes stay."""
    extent = np.ptp(vertices, axis=0)
    return np.where(extent > 1e-9 * extent.max(), np.array(size) / np.maximum(extent, 1e-300), 1.0)


def in_cube(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the vertices that faces use, their box centred, its longest side `CUBE_SIDE`."""
    used, faces = np.unique(faces, return_inverse=True)
    vertices = vertices[used]
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) * (CUBE_SIDE / (high - low).max())
    return vertices, faces.reshape(-1, 3).astype(np.int32)
