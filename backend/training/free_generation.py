"""Shapes made of nothing and of words, as sets: beside the test shapes, and beside training shapes.

How like the test set a set of training shapes is says what can be reached. How near generated
shapes are to their nearest training shape, beside how near test shapes are to theirs, says how
much is remembered rather than made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..conditions.points import model_points
from ..errors import BadInput, FieldforgeError
from ..pipelines import Context, run
from ..protocol import MeshResult
from . import conditions, contact_sheets
from .cases import file_of, free_task
from .metrics import Surface, chamfer_distances, framed, nearest, sample_surface, set_scores
from .retrieval import training_shapes

POINTS = 2048
SEED = 0

_EVEN = 8192
_OVERSAMPLED = 5


def cloud_of_surface(surface: Surface) -> np.ndarray:
    """(2048, 3) float32 as `cloud_of_stored` makes them of shapes that have conditions."""
    points, _ = sample_surface(*surface, _OVERSAMPLED * _EVEN, np.random.default_rng(SEED))
    return _some(model_points(points, "y", SEED, _EVEN)[0])


def cloud_of_stored(folder: Path, shape_id: str) -> np.ndarray:
    """(2048, 3) float32: some of the clean points in a shape's conditions, in any order."""
    with np.load(file_of(folder, "conditions", shape_id), allow_pickle=False) as arrays:
        return _some(conditions.cloud_of(arrays["clean"]))


def _some(points: np.ndarray) -> np.ndarray:
    chosen = np.random.default_rng(SEED).permutation(len(points))[:POINTS]
    return framed(points[chosen])


@dataclass(frozen=True, eq=False)
class Made:
    """What a model made. clouds: (G, 2048, 3), of those that are not empty. tiles: of all."""

    clouds: np.ndarray
    tiles: list[np.ndarray]
    failed: int
    seconds: float


def make(words: Sequence[str], model: str, device: str, kept: Path, mark: str) -> Made:
    """A shape for each of `words`, "" meaning nothing; number k with the seed k.

    kept: a folder that keeps them; mark: tells the model from all others.
    """
    clouds, tiles, seconds = [], [], []
    kept.mkdir(parents=True, exist_ok=True)
    for seed, said in enumerate(words):
        path = kept / f"{seed:03}.npz"
        wanted = f"{mark} {said}"
        record = _read(path, wanted) or _make_one(said, model, seed, device, path, wanted)
        tiles.append(record["tile"])
        seconds.append(float(record["seconds"]))
        if len(record["cloud"]):
            clouds.append(record["cloud"])
    found = np.array(clouds, np.float32).reshape(-1, POINTS, 3)
    known = [second for second in seconds if np.isfinite(second)] or [np.nan]
    return Made(found, tiles, len(words) - len(found), float(np.mean(known)))


def _read(path: Path, mark: str) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        # One that failed is tried again.
        return dict(arrays) if str(arrays["mark"]) == mark and len(arrays["cloud"]) else None


def _make_one(
    words: str, model: str, seed: int, device: str, path: Path, mark: str
) -> dict[str, np.ndarray]:
    cloud, tile = np.zeros((0, 3), np.float32), contact_sheets.portrait(None)
    seconds = np.nan
    try:
        *_, result = run(free_task(words, model, seed), Context(device))
        assert isinstance(result, MeshResult)  # noqa: S101 - one variation is one mesh
        surface = result.vertices.astype(np.float32), result.faces
        cloud, tile = cloud_of_surface(surface), contact_sheets.portrait(surface)
        seconds = float(result.report.get("total_seconds", np.nan))
    except FieldforgeError:
        pass
    record = {"cloud": cloud, "tile": tile, "seconds": np.array(seconds), "mark": np.array(mark)}
    partial = path.with_name(path.stem + ".part.npz")
    np.savez(partial, **record)  # type: ignore[arg-type]
    partial.replace(path)
    return record


class Sets:
    """The test set and the training set, to compare others with."""

    def __init__(self, folder: Path, test: Sequence[str]) -> None:
        """test: ids of at least two shapes. Raises BadInput where no training shapes are."""
        shapes = training_shapes(folder)
        if not shapes:
            raise BadInput(f"{folder} has no training shapes.", "Prepare them first.")
        self.test = np.stack([cloud_of_stored(folder, name) for name in test])
        self.training = np.stack([cloud_of_stored(folder, shape.id) for shape in shapes])
        self._within = chamfer_distances(self.test, self.test)
        self._near = [distance for _, distance in nearest(self.test, self.training)]
        # As many of the kind that the test shapes are of.
        alike = [k for k, shape in enumerate(shapes) if shape.source != "generated"]
        count = min(len(alike), len(test))
        self._chosen = np.random.default_rng(SEED).permutation(alike)[:count]

    def rows(self) -> list[dict[str, Any]]:
        """What test shapes and as many training shapes reach."""
        own = [
            distance
            for _, distance in nearest(
                self.training[self._chosen], self.training, self._chosen.tolist()
            )
        ]
        return [
            self._row("test shapes", len(self.test), {}, self._near),
            self._row(
                "training shapes",
                len(self._chosen),
                self._scores(self.training[self._chosen]),
                own,
            ),
        ]

    def row(self, name: str, made: Made) -> dict[str, Any]:
        """Of what a model made."""
        if not len(made.clouds):
            return {"set": name, "shapes": 0, "failed": made.failed}
        near = [distance for _, distance in nearest(made.clouds, self.training)]
        row = self._row(name, len(made.clouds), self._scores(made.clouds), near)
        return {**row, "seconds": made.seconds, "failed": made.failed}

    def _scores(self, clouds: np.ndarray) -> dict[str, float]:
        found = set_scores(
            chamfer_distances(clouds, clouds), chamfer_distances(clouds, self.test), self._within
        )
        return {"MMD x 1000": 1000 * found.mmd, "COV": found.coverage, "1-NNA": found.one_nn}

    def _row(
        self, name: str, shapes: int, scores: dict[str, float], near: Sequence[float]
    ) -> dict[str, Any]:
        """near: distances to the nearest training shape.

        copies: share of them that are smaller than 95 % of those of the test shapes.
        """
        small = float(np.quantile(self._near, 0.05))
        return {
            "set": name,
            "shapes": shapes,
            **scores,
            "to training x 1000": 1000 * float(np.mean(near)),
            "median": 1000 * float(np.median(near)),
            "copies": float(np.mean(np.array(near) < small)),
        }
