"""How good models are on shapes that training never saw, beside methods that learn nothing.

Each input goes through the pipelines that an artist's goes through. What is measured is kept line
by line in FOLDER/evaluation/rows.jsonl and measured again only where the input or the model is
another one, so methods can be measured apart, and a run that stops goes on. tables.txt,
evaluation.json and one contact sheet per kind of input are written at the end.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .. import device as devices
from .. import weights
from ..bench import reconstruction
from ..bench_tables import table
from ..errors import BadInput, FieldforgeError
from ..models.wala import loading
from ..pipelines import Context, resident, run
from ..protocol import MeshResult
from ..server import version
from . import conditions, contact_sheets, free_generation, trees
from .cases import INPUTS, PICTURES, Case, cases, normals_of, picture_of, points_of, task_of
from .free_generation import Sets
from .metrics import Surface
from .retrieval import Gallery, surface_of_tree, training_shapes

FREE = ("unconditional", "text")
KINDS = (*INPUTS, *FREE)
POISSON = "screened Poisson"
GIVEN = f"{POISSON}, normals given"
FIT = "wavelet-fit"
CEILING = "wavelet tree"
NEAREST = "nearest training shape"
REFINED = ", refined"
SAMPLES = 40

_REFINABLE = ("noisy points", "one-sided points", "voxels")
_TASKS = {"unconditional": "shape", "text": "text-to-mesh"}

Row = dict[str, Any]
Report = Callable[[str, float], None]


def evaluate(
    folder: Path,
    models: Sequence[str],
    kinds: Sequence[str],
    report: Report,
    *,
    most: int | None = None,
    device: str = "cpu",
    samples: int = SAMPLES,
) -> str:
    """Measure `models` (ids, "wavelet-fit" among them) on inputs of `kinds`. Returns the tables.

    most: test shapes. samples: unconditional shapes.
    """
    bench = _Bench(folder, models, device)
    chosen = []
    measured = [kind for kind in kinds if kind in INPUTS]
    for number, case in enumerate(cases(folder, most=most)):
        report("Measuring", number / (most or 40))
        chosen.append(case)
        for kind in measured:
            for method in bench.methods(kind):
                bench.measure(case, kind, method)
    means = [row for kind in measured for row in bench.means(kind, chosen)]
    for kind in measured:
        bench.draw(kind, chosen)
    report("Comparing sets", 1.0)
    wanted = [kind for kind in kinds if kind in FREE]
    sets = bench.free(wanted, chosen, samples) if wanted else []
    text = "\n\n".join(table(rows) for rows in (means, sets) if rows)
    bench.write(text, {"shapes": [case.shape.id for case in chosen], "inputs": means, "sets": sets})
    return text


class _Bench:
    """What is known of the methods, and what was measured of them."""

    def __init__(self, folder: Path, models: Sequence[str], device: str) -> None:
        self.folder = folder
        self.target = folder / "evaluation"
        self.device = device
        (self.target / "tiles").mkdir(parents=True, exist_ok=True)
        self.models = tuple(models)
        self.learned = {name: weights.require(name) for name in models if name != FIT}
        self.marks = {name: _mark_of(entry) for name, entry in self.learned.items()}
        self.marks_of_sets = {name: _mark_of(entry, "") for name, entry in self.learned.items()}
        self.rows = _known(self.target / "rows.jsonl")
        self._galleries: dict[str, Gallery] = {}
        self._marks_of_inputs: dict[tuple[str, str], str] = {}

    # ---------------------------------------------------------------------------------- methods

    def methods(self, kind: str) -> tuple[str, ...]:
        """What is measured on a kind of input, the methods without weights first."""
        points, learned = kind.endswith("points"), tuple(self.learned)
        found = [CEILING] if kind == "tree" else [POISSON] if points else []
        if points and kind != "noisy points":
            found.append(GIVEN)
        if FIT in self.models and (points or kind == "voxels"):
            found.append(FIT)
        for model in learned:
            if kind in PICTURES and self.learned[model].config.get("joint"):
                found.append(f"{NEAREST} by {model}")
            if kind == "tree" or f"{_word(kind)}-to-mesh" in self.learned[model].tasks:
                found.append(model)
                if kind in _REFINABLE:
                    found.append(model + REFINED)
        return tuple(found)

    def model_of(self, method: str) -> str:
        """The id of the model that a method uses, or nothing."""
        return method.removesuffix(REFINED).removeprefix(f"{NEAREST} by ")

    # --------------------------------------------------------------------------------- measuring

    def measure(self, case: Case, kind: str, method: str) -> None:
        """Into the rows and a tile, unless both are there already."""
        known = self.row(case, kind, method)
        if known and "failure" not in known and self.tile(case, kind, method).exists():
            return
        begin = time.perf_counter()
        try:
            candidates, seconds = self._made(case, kind, method)
            failure = ""
        except FieldforgeError as error:
            candidates, seconds, failure = [_EMPTY], None, str(error)
        seconds = time.perf_counter() - begin if seconds is None else seconds
        scored = [(case.truth.score(surface), surface) for surface in candidates]
        best, surface = max(scored, key=lambda pair: pair[0].iou)
        row: Row = {
            "shape": case.shape.id,
            "kind": kind,
            "method": method,
            "mark": self.mark(case, kind, method),
            "IoU": best.iou,
            "chamfer": best.chamfer,
            "F at 1 %": best.f_score,
            "seconds": seconds,
        }
        if failure:
            row["failure"] = failure
        tile = contact_sheets.portrait(surface)
        Image.fromarray(tile).save(self.tile(case, kind, method), "PNG")
        self.rows[row["mark"]] = row
        with (self.target / "rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def row(self, case: Case, kind: str, method: str) -> Row | None:
        return self.rows.get(self.mark(case, kind, method))

    def mark(self, case: Case, kind: str, method: str) -> str:
        """The same for the same input, method and weights, and for nothing else."""
        key = case.shape.id, kind
        if key not in self._marks_of_inputs:
            self._marks_of_inputs[key] = case.mark(kind)
        parts = [*key, method, self._marks_of_inputs[key]]
        parts.append(self.marks.get(self.model_of(method), ""))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    def tile(self, case: Case, kind: str, method: str) -> Path:
        """The file of the picture of what came out."""
        return self.target / "tiles" / f"{self.mark(case, kind, method)}.png"

    def _made(self, case: Case, kind: str, method: str) -> tuple[list[Surface], float | None]:
        """Surfaces in the cube of the shape, more than one where the side is not told; seconds."""
        if method == CEILING:
            return [surface_of_tree(case.tree)], None
        if method == POISSON:
            return _poisson(points_of(case, kind), None), None
        if method == GIVEN:
            return _poisson(points_of(case, kind), normals_of(case, kind))[:1], None
        model = self.model_of(method)
        if method.startswith(NEAREST):
            gallery = self._gallery(model)
            begin = time.perf_counter()
            name = gallery.nearest(kind, getattr(case.seen, PICTURES[kind])[0])
            return [gallery.surface(name)], time.perf_counter() - begin
        if kind == "tree":
            return [self._reconstructed(case, model)], None
        task = task_of(case, kind, model, refine=method.endswith(REFINED))
        *_, result = run(task, Context(self.device))
        if not isinstance(result, MeshResult):
            raise TypeError(f"the pipeline ended with {type(result).__name__}")
        seconds = result.report.get("total_seconds")
        return [(result.vertices.astype(np.float32), result.faces)], seconds

    @torch.inference_mode()
    def _reconstructed(self, case: Case, model: str) -> Surface:
        """The tree of the shape, through latents on the codebook and back."""
        loaded = self._loaded(model)
        packed = trees.SparseTree.load(case.tree).packed()[None].to(loaded.device, loaded.dtype)
        latent = loaded.model.autoencoder.encode(packed)
        field = trees.field_of(
            loaded.model.autoencoder.decode_unquantised(latent.float()).float().cpu()
        )
        return conditions.surface_of_field(field[0].numpy())

    def _loaded(self, model: str) -> resident.Loaded:
        return resident.load(self.learned[model], torch.device(devices.pick(self.device)), 0)

    def _gallery(self, model: str) -> Gallery:
        if model not in self._galleries:
            kept = self.target / f"gallery-{model}.npz"
            network = self._loaded(model).model
            self._galleries[model] = Gallery.of(self.folder, network, kept, self.marks[model])
        return self._galleries[model]

    # ------------------------------------------------------------------------------------ results

    def means(self, kind: str, chosen: Sequence[Case]) -> list[Row]:
        """A row per method, over all shapes."""
        return [
            _means(kind, method, [self.rows[self.mark(case, kind, method)] for case in chosen])
            for method in self.methods(kind)
        ]

    def draw(self, kind: str, chosen: Sequence[Case]) -> None:
        """The contact sheet: what was given, the truth, what came out."""
        methods = self.methods(kind)
        sheet = [
            [
                picture_of(case, kind),
                case.portrait,
                *(np.asarray(Image.open(self.tile(case, kind, method))) for method in methods),
            ]
            for case in chosen
        ]
        path = self.target / f"{kind.replace(' ', '-')}.png"
        contact_sheets.save(sheet, path, [kind, "truth", *methods])

    def free(self, kinds: Sequence[str], chosen: Sequence[Case], samples: int) -> list[Row]:
        """Rows of sets, and a sheet per kind and model."""
        if len(chosen) < 2 or not training_shapes(self.folder):
            return []
        sets = Sets(self.folder, [case.shape.id for case in chosen])
        rows = sets.rows()
        for model, entry in self.learned.items():
            for kind in kinds:
                if _TASKS[kind] not in entry.tasks:
                    continue
                words = [""] * samples if kind == "unconditional" else [c.words for c in chosen]
                kept = self.target / f"{kind}-{model}"
                mark = self.marks_of_sets[model]
                made = free_generation.make(words, model, self.device, kept, mark)
                rows.append(sets.row(f"{kind}, {model}", made))
                contact_sheets.save(
                    _sheet_of_sets(made.tiles, words, chosen), self.target / f"{kind}-{model}.png"
                )
        return rows

    def write(self, text: str, found: dict[str, Any]) -> None:
        """tables.txt and evaluation.json."""
        models = {
            name: {"mark": self.marks[name], "title": entry.title, "source": entry.source}
            for name, entry in self.learned.items()
        }
        seeds = {"inputs": 0, "unconditional": "0, 1, 2, ...", "text": "0, 1, 2, ..."}
        record = {"version": version(), "models": models, "seeds": seeds, **found}
        path = self.target / "evaluation.json"
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")
        (self.target / "tables.txt").write_text(text + "\n", encoding="utf-8")


_IMAGINED = "joint.imagined."
_EMPTY: Surface = (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))


def _word(kind: str) -> str:
    """The first word of the task of a kind of input."""
    return "points" if kind.endswith("points") else kind


def _mark_of(entry: weights.Installed, without: str = _IMAGINED) -> str:
    """The same for the same weights and settings only. without: beginning of the names of weights
    that do not count; those of what imagines are asked only where nothing is given."""
    config = {**entry.config, "joint": {**(entry.config.get("joint") or {}), "imagined": None}}
    settings = json.dumps([config, entry.steps, entry.guidance], sort_keys=True)
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(loading.mapped(entry), key=lambda pair: pair[0]):
        if not without or not name.startswith(without):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _poisson(points: np.ndarray, normals: np.ndarray | None) -> list[Surface]:
    """Both sides. Raises BadInput where the library gives up."""
    try:
        found: list[Surface] = reconstruction.METHODS[POISSON](points, normals)
    except RuntimeError as error:
        raise BadInput(f"{POISSON} failed ({error}).", "Nothing can be done.") from None
    return found


def _known(lines: Path) -> dict[str, Row]:
    """Rows of earlier runs by their marks; a line that was cut off does not count."""
    rows: dict[str, Row] = {}
    for line in lines.read_text(encoding="utf-8").splitlines() if lines.exists() else []:
        try:
            row = json.loads(line)
            rows[row["mark"]] = row
        except (ValueError, KeyError, TypeError):
            continue
    return rows


def _means(kind: str, method: str, rows: Sequence[Row]) -> Row:
    numbers = ("IoU", "chamfer", "F at 1 %", "seconds")
    # A shape that failed has no distance; it counts with 0 where more is better.
    means = {
        name: float(np.mean([row[name] for row in rows if np.isfinite(row[name])] or [np.nan]))
        for name in numbers
    }
    means["median IoU"] = float(np.median([row["IoU"] for row in rows]))
    failed = sum("failure" in row for row in rows)
    return {"input": kind, "method": method, "shapes": len(rows), **means, "failed": failed}


def _sheet_of_sets(
    tiles: Sequence[np.ndarray], words: Sequence[str], chosen: Sequence[Case], columns: int = 8
) -> list[list[np.ndarray]]:
    """Rows of tiles; under a row its words and the shapes that these were said of."""
    rows: list[list[np.ndarray]] = []
    for begin in range(0, len(tiles), columns):
        span = slice(begin, begin + columns)
        rows.append(list(tiles[span]))
        if any(words):
            rows.append([contact_sheets.words_tile(said) for said in words[span]])
            rows.append([case.portrait for case in chosen[span]])
    return rows
