"""From a package of furniture to what training reads. Resumable; the same input, the same bytes.

FOLDER/furniture/*.sh3f   the catalogues
FOLDER/packed/KEY         shapes while they are packed one by one
FOLDER/shapes.ffs         all shapes but the reserved ones, packed: this file can be carried along
FOLDER/trees/KEY.npz      a wavelet tree per shape, made on whichever machine trains
FOLDER/conditions/KEY.npz points, voxels and pictures of it (`conditions`), made there, too

Shapes that the project makes itself (`generated`) come from their numbers: nothing of them is in
shapes.ffs, but they have trees as all others do.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..errors import FieldforgeError
from ..geometry.decimation import decimate
from ..geometry.tsdf import distance_to
from . import catalogue, generated, packed
from .catalogue import Entry
from .packed import Shape
from .parallel import each

Report = Callable[[str, float], None]

STEPS = ("shapes", "trees", "conditions")

MOST_FACES = 30_000
"""More are reduced to so many: a tenth of the models has more, and two thirds of all bytes."""

_STRAY = 0.024
"""How far a reduced surface may lie off, in the cube: three voxels of 256."""

_SPLIT = Path(__file__).with_name("furniture_split.json")
_SIDES = ("train", "validation", "test")


def prepare(
    folder: Path,
    package: Path | None,
    workers: int,
    report: Report,
    *,
    generated_shapes: int = 0,
    until: str = STEPS[-1],
) -> Path:
    """Do what is not done yet. Returns the file of shapes. Raises FieldforgeError.

    package: the .deb of the furniture; None downloads it. generated_shapes: how many of the
    project's own shapes get trees and conditions, too. until: the last of STEPS to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes = folder / "shapes.ffs"
    if not shapes.exists():
        report("Fetching the furniture", 0.0)
        catalogues = sorted((folder / "furniture").glob("*.sh3f"))
        if not catalogues:
            deb = package or catalogue.fetch(folder)
            catalogues = catalogue.unpack(deb, folder / "furniture")
        _pack_furniture(catalogues, folder / "packed", shapes, workers, report)
    if until != "shapes":
        grow_trees(shapes, folder / "trees", workers, report, generated_shapes)
    if until == "conditions":
        make_conditions(shapes, folder, workers, report, generated_shapes)
        make_stretched(shapes, folder, workers, report, generated_shapes)
    return shapes


def split_of_furniture() -> dict[str, tuple[str, int]]:
    """Model id -> side and number of its family. Families of near-duplicates never straddle sides.

    The side "reserved" is for acceptance: nothing here trains, tunes or tests on it.
    """
    table = json.loads(_SPLIT.read_text(encoding="utf-8"))
    return {model: (side, family) for model, (side, family) in table.items()}


def key_of(shape_id: str) -> str:
    """The name of a shape's files."""
    return hashlib.sha256(shape_id.encode()).hexdigest()[:16]


# ----------------------------------------------------------------------------------------- packing


def _pack_furniture(
    catalogues: list[Path], folder: Path, target: Path, workers: int, report: Report
) -> None:
    """Write `target`. What is in `folder` already is not made again; the folder goes at the end."""
    split = split_of_furniture()
    wanted = [entry for entry in catalogue.entries(catalogues) if split[entry.id][0] in _SIDES]
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(entry, folder / key_of(entry.id)) for entry in wanted]
    jobs = [(entry, path) for entry, path in jobs if not path.exists()]
    for number, failure in enumerate(each(_pack, jobs, workers), 1):
        report("Packing the shapes", number / len(jobs))
        if failure:
            raise FieldforgeError(failure, "Download the package again.")
    content = ((entry, (folder / key_of(entry.id)).read_bytes()) for entry in wanted)
    packed.write(target, ((_shape(entry, *split[entry.id]), data) for entry, data in content))
    shutil.rmtree(folder)


def _shape(entry: Entry, side: str, family: int) -> Shape:
    return Shape(
        id=entry.id,
        caption=entry.caption,
        source=entry.id.partition("#")[0],
        split=side,
        attribution=entry.attribution,
        family=f"furniture {family}",
    )


def _pack(job: tuple[Entry, Path]) -> str:
    """Returns why it failed, or nothing."""
    entry, path = job
    try:
        content = packed.encode(*with_fewer_faces(*catalogue.triangles(entry)))
    except (FieldforgeError, ValueError, KeyError) as error:
        return f"{entry.id} cannot be read: {error}"
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)
    return ""


def with_fewer_faces(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The surface with about `MOST_FACES` at most, and only those vertices that it uses.

    With more, or as it is, where that would leave faces that are off the surface: reduced sheets
    that meet in an edge sometimes grow spikes.
    """
    half = catalogue.CUBE_SIDE / 2
    for most in (MOST_FACES, 2 * MOST_FACES):
        if len(faces) <= most:
            break
        fewer, triangles = decimate(vertices, faces, most)
        # Edges collapse to places that may lie a little outside of the box.
        fewer = np.clip(fewer, -half, half)
        centres = fewer[triangles].mean(axis=1)
        places = np.concatenate([fewer[np.unique(triangles)], centres]).astype(np.float32)
        if distance_to(vertices, faces)(places).max() < _STRAY:
            return fewer, triangles
    return vertices, faces


# ------------------------------------------------------------------------------------------- trees

Recipe = bytes | int
"""What a surface is made of: packed triangles, or the number of a generated shape."""


def recipes(shapes: Path, generated_shapes: int = 0) -> Iterator[tuple[Shape, Recipe]]:
    """All shapes to train and test on: those of the file, then the project's own."""
    yield from packed.read(shapes)
    for number in range(generated_shapes):
        yield generated.shape(number), number


def surface_of(recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float32 in the cube and faces (F, 3) int32."""
    if isinstance(recipe, bytes):
        return packed.decode(recipe)
    return generated.surface(recipe)


def grow_trees(
    shapes: Path, folder: Path, workers: int, report: Report, generated_shapes: int = 0
) -> None:
    """A wavelet tree in `folder` for every shape that has none there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [
        (recipe, path)
        for shape, recipe in recipes(shapes, generated_shapes)
        if not (path := folder / f"{key_of(shape.id)}.npz").exists()
    ]
    for number, failure in enumerate(each(_grow, missing, workers), 1):
        report("Making wavelet trees", number / len(missing))
        if failure:
            raise FieldforgeError(failure, "Delete the folder and prepare it again.")


def _grow(job: tuple[Recipe, Path]) -> str:
    """Returns why it failed, or nothing."""
    from . import trees  # torch takes seconds, which processes that pack need not spend

    recipe, path = job
    try:
        trees.tree_of_surface(*surface_of(recipe)).save(path)
    except (FieldforgeError, ValueError, OSError) as error:
        return f"A wavelet tree cannot be made: {error}"
    return ""


def make_conditions(
    shapes: Path, folder: Path, workers: int, report: Report, generated_shapes: int = 0
) -> None:
    """Conditions in `folder`/conditions for every shape, from its tree in `folder`/trees."""
    from . import conditions

    (folder / "conditions").mkdir(parents=True, exist_ok=True)
    jobs = [
        (shape.id, recipe, folder / "trees" / name, folder / "conditions" / name)
        for shape, recipe in recipes(shapes, generated_shapes)
        for name in [f"{key_of(shape.id)}.npz"]
    ]
    conditions.prepare_conditions(jobs, workers, report)


def make_stretched(
    shapes: Path, folder: Path, workers: int, report: Report, generated_shapes: int = 0
) -> None:
    """Pictures in `folder`/stretched of the shapes to train on, from their trees."""
    from . import stretched

    (folder / "stretched").mkdir(parents=True, exist_ok=True)
    jobs = [
        (shape.id, recipe, folder / "trees" / name, folder / "stretched" / name)
        for shape, recipe in recipes(shapes, generated_shapes)
        if shape.split == "train"
        for name in [f"{key_of(shape.id)}.npz"]
    ]
    stretched.prepare_stretched(jobs, workers, report)
