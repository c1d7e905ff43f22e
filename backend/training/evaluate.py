"""How good models are on shapes that training never saw, beside methods that learn nothing.

Each input goes through the pipelines that an artist's goes through. What is measured is kept line
by line in FOLDER/evaluation/rows.jsonl, so that a run that stops goes on; tables.txt, tables.json
and one contact sheet per kind of input are written at the end. The truth is the closing TSDF.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bench import reconstruction
from ..bench_tables import table
from ..errors import BadInput, FieldforgeError
from ..geometry import tsdf
from ..geometry.transforms import apply_to_points
from ..geometry.voxels import occupancy_of_sdf
from ..pipelines import Context, run
from ..protocol import (
    DepthToMesh,
    Generation,
    ImageToMesh,
    MeshResult,
    PointsToMesh,
    SketchToMesh,
    VoxelsToMesh,
)
from . import conditions, contact_sheets, packed, renders, trees
from .conditions import Conditions
from .metrics import Surface, score
from .packed import Shape
from .prepare import key_of

KINDS = ("tree", "points", "noisy points", "one-sided points", "voxels", "image", "sketch", "depth")
POISSON = "screened Poisson"
CEILING = "wavelet tree"

Row = dict[str, Any]
Report = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Case:
    """A shape to be found again: as it is, its closing TSDF, that one's surface, what was seen."""

    shape: Shape
    surface: Surface
    field: np.ndarray
    truth: Surface
    seen: Conditions
    tree: Path


def cases(folder: Path, split: str = "test", most: int | None = None) -> Iterator[Case]:
    """Of the furniture that has trees and conditions in `folder`. Raises BadInput for none."""
    found = 0
    for shape, content in packed.read(folder / "shapes.ffs"):
        name = f"{key_of(shape.id)}.npz"
        tree, seen = folder / "trees" / name, folder / "conditions" / name
        if shape.split == split and tree.exists() and seen.exists() and found != most:
            surface = packed.decode(content)
            field = tsdf.closing_sdf(*surface)
            truth = conditions.surface_of_field(field)
            yield Case(shape, surface, field, truth, Conditions.load(seen), tree)
            found += 1
    if not found:
        raise BadInput(f"{folder} has no shapes of the {split} side.", "Prepare them first.")


def evaluate(
    folder: Path,
    models: Sequence[str],
    kinds: Sequence[str],
    report: Report,
    *,
    most: int | None = None,
    device: str = "cpu",
) -> str:
    """Measure `models` (ids, "wavelet-fit" among them) on inputs of `kinds`. Returns the tables."""
    target = folder / "evaluation"
    target.mkdir(parents=True, exist_ok=True)
    lines = target / "rows.jsonl"
    rows = _known(lines)
    sheets: dict[str, list[list[np.ndarray]]] = {kind: [] for kind in kinds}
    chosen: list[str] = []
    new: set[str] = set()
    for number, case in enumerate(cases(folder, most=most)):
        report("Measuring", number / (most or 40))
        chosen.append(case.shape.id)
        for kind in kinds:
            tiles = [picture_of(case, kind), contact_sheets.portrait(case.truth)]
            for method in methods_for(kind, models):
                key = (case.shape.id, kind, method)
                made = None  # grey where an earlier run measured it
                if key not in rows:
                    rows[key], made = _measured(case, kind, method, device)
                    with lines.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[key]) + "\n")
                    new.add(kind)
                tiles.append(contact_sheets.portrait(made))
            sheets[kind].append(tiles)
    for kind in sorted(new):
        contact_sheets.save(sheets[kind], target / f"{kind.replace(' ', '-')}.png")
    means = [
        row
        for kind in kinds
        for method in methods_for(kind, models)
        for row in [_means(kind, method, [rows[shape, kind, method] for shape in chosen])]
    ]
    (target / "tables.json").write_text(json.dumps(means, indent=1), encoding="utf-8")
    (target / "tables.txt").write_text(table(means) + "\n", encoding="utf-8")
    return table(means)


def methods_for(kind: str, models: Sequence[str]) -> tuple[str, ...]:
    """What is measured on a kind of input: wavelet-fit needs points or voxels."""
    if kind == "tree":
        return (CEILING,)
    if kind.endswith("points"):
        return (POISSON, *models)
    if kind == "voxels":
        return tuple(models)
    return tuple(model for model in models if model != "wavelet-fit")


def _known(lines: Path) -> dict[tuple[str, str, str], Row]:
    """Rows of earlier runs; a last line that was cut off does not count."""
    rows: dict[tuple[str, str, str], Row] = {}
    for line in lines.read_text(encoding="utf-8").splitlines() if lines.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["shape"], row["kind"], row["method"]] = row
    return rows


def _measured(case: Case, kind: str, method: str, device: str) -> tuple[Row, Surface | None]:
    begin = time.perf_counter()
    try:
        candidates = _made(case, kind, method, device)
        failure = ""
    except FieldforgeError as error:
        candidates, failure = (
            [(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))],
            str(error),
        )
    seconds = time.perf_counter() - begin
    scored = [(score(surface, case.truth), surface) for surface in candidates]
    best, surface = max(scored, key=lambda pair: pair[0].iou)
    numbers = {"IoU": best.iou, "chamfer": best.chamfer, "F at 1 %": best.f_score}
    row = {"shape": case.shape.id, "kind": kind, "method": method, **numbers, "seconds": seconds}
    return ({**row, "failure": failure} if failure else row), surface


def _made(case: Case, kind: str, method: str, device: str) -> list[Surface]:
    """Surfaces in the cube of the shape; more than one where the side is not told."""
    if method == CEILING:
        tree = trees.SparseTree.load(case.tree)
        return [conditions.surface_of_field(trees.field_of(tree.packed()[None])[0].numpy())]
    if method == POISSON:
        return reconstruction.METHODS[POISSON](points_of(case, kind), None)
    *_, result = run(task_of(case, kind, method), Context(device))
    if not isinstance(result, MeshResult):
        raise TypeError(f"the pipeline ended with {type(result).__name__}")
    return [(result.vertices.astype(np.float32), result.faces)]


def points_of(case: Case, kind: str) -> np.ndarray:
    """(P, 3) float32 in the cube of the shape, without normals."""
    if kind == "one-sided points":
        frame = case.seen.scan_frames[0].astype(np.float64)
        return apply_to_points(frame, conditions.cloud_of(case.seen.scans[0])).astype(np.float32)
    return conditions.cloud_of(case.seen.noisy if kind == "noisy points" else case.seen.clean)


def task_of(case: Case, kind: str, model: str) -> Generation:
    """The task that an artist would set with such an input, y up."""
    if kind.endswith("points"):
        return PointsToMesh(
            points=points_of(case, kind),
            model=model,
            up_axis="y",
            refine=kind != "one-sided points",
        )
    if kind == "voxels":
        # The cells of the cube: what models see of them is what `conditions` made.
        cells = conditions.cells_of(case.seen.voxels[0]).astype(bool)
        return VoxelsToMesh(
            occupancy=cells,
            origin=(-1.0, -1.0, -1.0),
            voxel_size=(0.125, 0.125, 0.125),
            model=model,
            up_axis="y",
        )
    view, rng = _seen(case), np.random.default_rng(0)
    if kind == "image":
        return ImageToMesh(image=renders.shaded(view, rng), model=model, up_axis="y")
    if kind == "sketch":
        return SketchToMesh(image=renders.line_drawing(view, rng), model=model, up_axis="y")
    return DepthToMesh(depth=view.depth, model=model, up_axis="y")


def _seen(case: Case) -> renders.View:
    row = case.seen.cameras[0]
    to_camera = np.vstack([row[:12].reshape(3, 4), [0, 0, 0, 1]])
    return renders.render(*case.surface, renders.Camera(to_camera, float(row[12])), 768)


def picture_of(case: Case, kind: str) -> np.ndarray:
    """What went in, as a tile of a contact sheet."""
    if kind == "tree":
        return contact_sheets.portrait(case.surface)
    if kind == "voxels":
        cells = occupancy_of_sdf(case.field, 16)
        return contact_sheets.tile((255 * cells.mean(axis=2)[:, ::-1].T).astype(np.uint8))
    if kind.endswith("points"):
        return contact_sheets.points_tile(points_of(case, kind))
    pictures = {"image": case.seen.shaded, "sketch": case.seen.drawings, "depth": case.seen.depths}
    return contact_sheets.tile(pictures[kind][0])


def _means(kind: str, method: str, rows: Sequence[Row]) -> Row:
    numbers = ("IoU", "chamfer", "F at 1 %", "seconds")
    # A shape that failed has no distance; it counts with 0 where more is better.
    means = {
        name: float(np.mean([row[name] for row in rows if np.isfinite(row[name])] or [np.nan]))
        for name in numbers
    }
    failed = sum("failure" in row for row in rows)
    return {"input": kind, "method": method, "shapes": len(rows), **means, "failed": failed}
