"""From a package of furniture to what training reads. Resumable; the same input, the same bytes.

FOLDER/furniture/*.sh3f   the catalogues
FOLDER/shapes.ffs         all shapes but the reserved ones, packed: this file can be carried along
FOLDER/trees/KEY.npz      a wavelet tree per shape, made on whichever machine trains
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import FieldforgeError
from . import catalogue, packed, trees
from .packed import Shape

Report = Callable[[str, float], None]

_SPLIT = Path(__file__).with_name("furniture_split.json")
_SIDES = ("train", "validation", "test")


def prepare(folder: Path, package: Path | None, workers: int, report: Report) -> Path:
    """Do what is not done yet. Returns the file of shapes. Raises FieldforgeError.

    package: the .deb of the furniture; None downloads it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes = folder / "shapes.ffs"
    if not shapes.exists():
        report("Fetching the furniture", 0.0)
        catalogues = sorted((folder / "furniture").glob("*.sh3f"))
        if not catalogues:
            deb = package or catalogue.fetch(folder)
            catalogues = catalogue.unpack(deb, folder / "furniture")
        packed.write(shapes, _furniture(catalogues, report))
    grow_trees(shapes, folder / "trees", workers, report)
    return shapes


def split_of_furniture() -> dict[str, tuple[str, int]]:
    """Model id -> side and number of its family. Families of near-duplicates never straddle sides.

    The side "reserved" is for acceptance: nothing here trains, tunes or tests on it.
    """
    table = json.loads(_SPLIT.read_text(encoding="utf-8"))
    return {model: (side, family) for model, (side, family) in table.items()}


def _furniture(catalogues: list[Path], report: Report) -> Iterator[tuple[Shape, bytes]]:
    split = split_of_furniture()
    wanted = [entry for entry in catalogue.entries(catalogues) if split[entry.id][0] in _SIDES]
    for number, entry in enumerate(wanted):
        report("Packing the shapes", number / len(wanted))
        shape = Shape(
            id=entry.id,
            caption=entry.caption,
            source=entry.id.partition("#")[0],
            split=split[entry.id][0],
            attribution=entry.attribution,
        )
        yield shape, packed.encode(*catalogue.triangles(entry))


def key_of(shape_id: str) -> str:
    """The name of a shape's files."""
    return hashlib.sha256(shape_id.encode()).hexdigest()[:16]


def grow_trees(shapes: Path, folder: Path, workers: int, report: Report) -> None:
    """A wavelet tree in `folder` for every shape of the file that has none there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [
        (content, folder / f"{key_of(shape.id)}.npz")
        for shape, content in packed.read(shapes)
        if not (folder / f"{key_of(shape.id)}.npz").exists()
    ]
    # Spawned, because forked children and the threads of numerical libraries do not go together.
    with multiprocessing.get_context("spawn").Pool(workers, _one_thread) as pool:
        for number, failure in enumerate(pool.imap_unordered(_grow, missing), 1):
            report("Making wavelet trees", number / len(missing))
            if failure:
                raise FieldforgeError(failure, "Delete the folder and prepare it again.")


def _one_thread() -> None:
    for library in ("OMP", "MKL", "NUMBA"):
        os.environ[f"{library}_NUM_THREADS"] = "1"


def _grow(job: tuple[bytes, Path]) -> str:
    """Returns why it failed, or nothing."""
    content, path = job
    try:
        trees.tree_of_surface(*packed.decode(content)).save(path)
    except (FieldforgeError, ValueError, OSError) as error:
        return f"A wavelet tree cannot be made: {error}"
    return ""
