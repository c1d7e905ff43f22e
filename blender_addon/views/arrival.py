"""What a finished job about views brought back, ready for the scene. No bpy; runs in a thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...backend.errors import StorageFailed
from ...backend.protocol import Result, ViewsResult
from ..panorama.textures import Texture, texture_of

DIGITS = 4


@dataclass(frozen=True, eq=False)
class ViewsArrival:
    """textures: a picture per view; poses: (V, 4, 4), intrinsics: (V, 4) float64; given: how many
    of the first were given; folder: where the pictures are files as well, numbered from 1 on, or
    None; depths: a picture per view of how far everything is, or none."""

    textures: list[Texture]
    poses: np.ndarray
    intrinsics: np.ndarray
    given: int
    view_kind: str
    folder: Path | None
    depths: list[Texture] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    faces: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.textures[0].width, self.textures[0].height


def views_arrived(result: Result, name: str, options: dict[str, Any]) -> ViewsArrival | None:
    """What `result` puts into the file; None where it is not of views. Raises BadInput.

    options: `Destination.views`; the pictures also go into a new folder in its folder.
    """
    if not isinstance(result, ViewsResult):
        return None
    result.check()
    textures = [texture_of(image) for image in result.images]
    folder = _written(Path(options["folder"]), name, textures) if options.get("folder") else None
    return ViewsArrival(
        textures,
        result.poses.astype(np.float64),
        result.intrinsics.astype(np.float64),
        result.given,
        result.view_kind,
        folder,
        _depths(result),
        result.report,
    )


def _depths(result: ViewsResult) -> list[Texture]:
    if result.depths is None:
        return []
    known = np.isfinite(result.depths) & (result.depths > 0)
    return [texture_of(depth) for depth in np.where(known, result.depths, 0).astype(np.float32)]


def file_name(number: int) -> str:
    """Of a view in its folder; number: from 1 on."""
    return f"{number:0{DIGITS}}.png"


def _written(parent: Path, name: str, textures: list[Texture]) -> Path:
    """A new folder with the pictures: none that is there is touched."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = new_folder(parent, name)
        for number, texture in enumerate(textures, 1):
            (folder / file_name(number)).write_bytes(texture.data)
    except OSError as error:
        raise StorageFailed(
            f"The views cannot be written to {parent}: {error.strerror or error}.",
            "Turn Image Sequence off, then Fetch Again in the history.",
        ) from None
    return folder


def new_folder(parent: Path, name: str) -> Path:
    """A folder that was not there, of this name or with a number behind it."""
    stem = "".join(letter if letter.isalnum() or letter in " -_." else "_" for letter in name)
    stem, number = stem.strip(" .") or "views", 1
    while True:
        folder = parent / (f"{stem}-{number}" if number > 1 else stem)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
