"""A colour per face of a Wavefront OBJ in an archive: of its material, or its texture there."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

# Where in a triangle its texture is looked at: the centre, and towards each corner.
_PLACES = np.array([[1, 1, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4]]) / [[3], [6], [6], [6]]
_MOST_TEXTURE_SIDE = 256
_GREY = (0.6, 0.6, 0.6)


@dataclass(frozen=True, eq=False)
class Coloured:
    """vertices: (V, 3) float64; faces: (F, 3) int64; colours: (F, 3) uint8 sRGB."""

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray


@dataclass(frozen=True, eq=False)
class _Material:
    colour: tuple[float, ...] = _GREY
    texture: np.ndarray | None = None
    opacity: float = 1.0


def read(archive: zipfile.ZipFile, member: str) -> Coloured:
    """The model `member`. Materials and textures that are missing are grey.

    Faces that can be looked through almost entirely are left out, if others stay.
    """
    positions: list[list[float]] = []
    places: list[list[float]] = []
    corners: list[list[tuple[int, int]]] = []
    used: list[int] = []
    names: dict[str, int] = {"": 0}
    libraries: list[str] = []
    material = 0
    for line in archive.read(member).decode("utf-8", "replace").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "v":
            positions.append([float(value) for value in rest.split()[:3]])
        elif word == "vt":
            places.append([float(value) for value in rest.split()[:2]])
        elif word == "usemtl":
            material = names.setdefault(rest.strip(), len(names))
        elif word == "mtllib":
            libraries.append(rest.strip())
        elif word == "f":
            ring = [_corner(text, len(positions), len(places)) for text in rest.split()]
            for second, third in pairwise(ring[1:]):
                corners.append([ring[0], second, third])
                used.append(material)
    folder = PurePosixPath(member).parent
    known = _materials(archive, folder, libraries)
    table = [known.get(name, _Material()) for name in names]
    indices = np.array(corners, np.int64).reshape(-1, 3, 2)
    of_face = np.array(used, np.int64)
    uv = np.array(places, np.float64).reshape(-1, 2)
    seen = np.array([entry.opacity >= 0.15 for entry in table])[of_face]
    if seen.any():
        indices, of_face = indices[seen], of_face[seen]
    return Coloured(
        np.array(positions, np.float64), indices[..., 0], _colours(table, of_face, indices, uv)
    )


def _corner(text: str, positions: int, places: int) -> tuple[int, int]:
    """Indices of the position and of the place in the texture, -1 where there is none."""
    parts = text.split("/")
    position = int(parts[0])
    place = int(parts[1]) if len(parts) > 1 and parts[1] else 0
    return (
        position - 1 if position > 0 else positions + position,
        place - 1 if place > 0 else (places + place if place else -1),
    )


def _materials(
    archive: zipfile.ZipFile, folder: PurePosixPath, libraries: list[str]
) -> dict[str, _Material]:
    found: dict[str, _Material] = {}
    for library in libraries:
        try:
            text = archive.read(str(folder / library)).decode("utf-8", "replace")
        except KeyError:
            continue
        for block in text.split("newmtl ")[1:]:
            lines = [line.strip() for line in block.splitlines()]
            values = {
                key: rest.strip() for key, _, rest in (line.partition(" ") for line in lines[1:])
            }
            colour = tuple(float(value) for value in values.get("Kd", "").split()[:3]) or _GREY
            found[lines[0]] = _Material(
                colour, _texture(archive, folder, values.get("map_Kd")), float(values.get("d", 1))
            )
    return found


def _texture(
    archive: zipfile.ZipFile, folder: PurePosixPath, name: str | None
) -> np.ndarray | None:
    """(H, W, 3) uint8, reduced; None where it is missing or no picture."""
    if not name:
        return None
    try:
        with Image.open(io.BytesIO(archive.read(str(folder / name.split()[-1])))) as picture:
            picture.thumbnail((_MOST_TEXTURE_SIDE, _MOST_TEXTURE_SIDE))
            return np.asarray(picture.convert("RGB"))
    except (KeyError, OSError):
        return None


def _colours(
    table: list[_Material], of_face: np.ndarray, corners: np.ndarray, uv: np.ndarray
) -> np.ndarray:
    # Sweet Home 3D and most viewers show the values of a file as they are: they are sRGB.
    plain = np.array([np.clip(entry.colour, 0, 1) for entry in table]) * 255
    colours = plain[of_face]
    for number, entry in enumerate(table):
        mine = np.flatnonzero((of_face == number) & (corners[..., 1] >= 0).all(axis=1))
        if entry.texture is None or not len(mine):
            continue
        height, width, _ = entry.texture.shape
        places = np.einsum("pc,fcd->fpd", _PLACES, uv[corners[mine, :, 1]])
        column = (np.mod(places[..., 0], 1) * width).astype(np.int64).clip(0, width - 1)
        row = ((1 - np.mod(places[..., 1], 1)) * height).astype(np.int64).clip(0, height - 1)
        colours[mine] = entry.texture[row, column].mean(axis=1)
    return np.rint(colours).astype(np.uint8)
