"""Sets of what models of fields make, beside test shapes, training shapes, and the voxel baseline.

All as HyperDiffusion measures them (set_metrics.py). Beside every score stands how near what was
made lies to training shapes: models over weights tend to remember.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ...models.hyperdiffusion import mixing
from ...models.hyperdiffusion import surface as field_surface
from ...models.hyperdiffusion.model import FieldModel
from ...pipelines.field_to_mesh import alike_enough
from .. import contact_sheets
from ..metrics import Surface, chamfer_distances, nearest, sample_surface, set_scores
from ..set_metrics import (
    framed_sequence,
    frechet_distance,
    moving_chamfer_distances,
    one_nn_halves,
    standardised,
)
from . import voxels
from .data import CUBE, Item
from .features import Features, of_sequences

POINTS = 2048
SIDE = {"still": 96, "moving": 64}
"""Nodes along a side that surfaces are made of."""
KEPT_AS_FIELDS = "kept as fields"
_AMOUNTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SHOWN_FRAMES = (0, 4, 8, 12)

Report = Callable[[str, float], None]

# ------------------------------------------------------------------------------------------ clouds


def cloud_of(surface: Surface, seed: int, points: int = POINTS) -> np.ndarray:
    """(points, 3) float32 evenly over the surface; zeros where there is none."""
    if not len(surface[1]):
        return np.zeros((points, 3), np.float32)
    draws = np.random.default_rng(seed)
    return sample_surface(surface[0].astype(np.float32), surface[1], points, draws)[0]


def clouds_of_items(
    items: Sequence[Item], which: str, folder: Path, report: Report, points: int = POINTS
) -> np.ndarray:
    """(N, F, points, 3) float32 in the field's domain; kept in FOLDER/clouds."""
    place = folder / "clouds"
    place.mkdir(parents=True, exist_ok=True)
    found = []
    for number, item in enumerate(items):
        path = place / f"{item.key}.npy"
        if not path.exists():
            report("Clouds", number / len(items))
            surfaces = item.surfaces(SIDE[which])
            made = np.stack([cloud_of(one, number, POINTS) for one in surfaces])
            partial = path.with_name(item.key + ".part.npy")
            np.save(partial, made.astype(np.float16))
            partial.replace(path)
        found.append(np.load(path, allow_pickle=False)[:, :points].astype(np.float32))
    return np.stack(found)


def comparable(clouds: np.ndarray) -> np.ndarray:
    """(S, F, N, 3) as the metrics take them: standardised still ones, framed sequences."""
    if clouds.shape[1] == 1:
        return standardised(clouds[:, 0])[:, None]
    return np.stack([framed_sequence(frames) for frames in clouds])


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(A, B) float64 of comparable clouds."""
    if first.shape[1] == 1:
        return chamfer_distances(first[:, 0], second[:, 0])
    return moving_chamfer_distances(first, second)


def nearest_distances(
    clouds: np.ndarray, candidates: np.ndarray, skip: Sequence[int] | None = None
) -> np.ndarray:
    """(A,) float64: of comparable clouds, to the nearest candidate. skip: see metrics.nearest."""
    return np.array([far for _, far in nearest(clouds, candidates, skip, measure=distances)])


# -------------------------------------------------------------------------------------------- made


@dataclass(frozen=True, eq=False)
class Made:
    """surfaces: of each thing made, those of its frames. vectors: (S, W) of fields, or None."""

    surfaces: list[list[Surface]]
    vectors: torch.Tensor | None = None

    def clouds(self, points: int = POINTS) -> np.ndarray:
        """(S, F, points, 3)."""
        return np.stack(
            [
                np.stack([cloud_of(one, number, points) for one in frames])
                for number, frames in enumerate(self.surfaces)
            ]
        )


def surfaces_of(model: FieldModel, vector: torch.Tensor, side: int) -> list[Surface]:
    """Of all frames of a field (W,)."""
    config = model.config
    frames: Sequence[int | None] = range(config.frames) if config.moving else (None,)
    return [field_surface.mesh(config.field, vector, side, config.level, frame) for frame in frames]


def of_fields(
    model: FieldModel, count: int, seed: int, steps: int, device: str, report: Report
) -> Made:
    """`count` that a model makes; names take turns, if it has any."""
    vectors = []
    names = model.config.names or ("",)
    for number in range(count):
        *_, found = model.sample(1, seed + number, steps, device, name=names[number % len(names)])
        assert isinstance(found, torch.Tensor)  # noqa: S101 - the last is the result
        vectors.append(found[0])
    side = SIDE["moving" if model.config.moving else "still"]
    surfaces = []
    for number, vector in enumerate(vectors):
        report("Surfaces of fields", number / count)
        surfaces.append(surfaces_of(model, vector, side))
    return Made(surfaces, torch.stack(vectors))


def of_voxels(network: voxels.VoxelDenoiser, count: int, seed: int, device: torch.device) -> Made:
    """`count` that the baseline makes."""
    found = voxels.sample(network, count, seed, device)
    return Made([[voxels.surface(volume) for volume in frames] for frames in found])


# ------------------------------------------------------------------------------------------ scores


class Sets:
    """The test set and the training set, to compare others with."""

    def __init__(
        self,
        test: np.ndarray,
        training: np.ndarray,
        features: Features | None,
        kinds: Sequence[str] = (),
    ) -> None:
        """Clouds (N, F, P, 3) in the field's domain. kinds: of the training set."""
        self.test, self.training = comparable(test), comparable(training)
        self.jumps = np.array([jumpiness(frames) for frames in training])
        self.kinds = np.array(kinds or [""] * len(training))
        self._features, self._known = features, training
        self._real = of_sequences(features, test) if features else None
        self._within = distances(self.test, self.test)
        self._near = nearest_distances(self.test, self.training)

    def rows(self) -> list[dict[str, Any]]:
        """What the test set, and as many training shapes, reach."""
        draws = np.random.default_rng(0)
        chosen = draws.permutation(len(self.training))[: len(self.test)]
        own = nearest_distances(self.training[chosen], self.training, list(chosen))
        scores = {**self._scores(self.training[chosen]), **self._frechet(self._known[chosen])}
        return [
            self._near_row("test", len(self.test), self._near, {}),
            self._near_row("training", len(chosen), own, scores),
        ]

    def row(self, name: str, clouds: np.ndarray, kinds: Sequence[str] = ()) -> dict[str, Any]:
        """Of clouds (S, F, P, 3) that something made, things of these kinds, if it was told any."""
        empty = (np.ptp(clouds.reshape(len(clouds), -1, 3), axis=1) == 0).all(axis=1)
        made = comparable(clouds)
        row = self._near_row(
            name, len(made), nearest_distances(made, self.training), self._scores(made)
        )
        row |= self._frechet(clouds)
        row["empty"] = int(empty.sum())
        if clouds.shape[1] > 1:
            row["jumps / training's"] = self._jumps_of(clouds, kinds)
        return row

    def _jumps_of(self, clouds: np.ndarray, kinds: Sequence[str]) -> float:
        """The mean jumpiness of clouds, in that of training things of the same kinds: a bird moves
        further from frame to frame than a snake."""
        known = [kind for kind in kinds if kind in self.kinds]
        alike = [self.jumps[self.kinds == kind] for kind in known] or [self.jumps]
        usual = np.mean([np.mean(jumps) for jumps in alike])
        return float(np.mean([jumpiness(frames) for frames in clouds]) / usual)

    def _frechet(self, clouds: np.ndarray) -> dict[str, float]:
        """Of clouds as they are, in the field's domain."""
        if self._features is None or self._real is None:
            return {}
        return {"FPD": frechet_distance(self._real, of_sequences(self._features, clouds))}

    def _scores(self, clouds: np.ndarray) -> dict[str, float]:
        within, across = distances(clouds, clouds), distances(clouds, self.test)
        found = set_scores(within, across, self._within)
        references, generated = one_nn_halves(within, across, self._within)
        return {
            "MMD x 100": 100 * found.mmd,
            "COV": found.coverage,
            "1-NNA": found.one_nn,
            "of test": references,
            "of made": generated,
        }

    def _near_row(
        self, name: str, count: int, near: np.ndarray, scores: dict[str, float]
    ) -> dict[str, Any]:
        """near: distances to the nearest training shape. copies: share of them smaller than 95 % of
        those of test shapes."""
        small = float(np.quantile(self._near, 0.05))
        return {
            "set": name,
            "shapes": count,
            **scores,
            "to training x 100": 100 * float(np.mean(near)),
            "copies": float((near < small).mean()),
        }


def jumpiness(frames: np.ndarray) -> float:
    """Of clouds (F, N, 3): the mean chamfer distance between each frame and the next."""
    if len(frames) < 2:
        return 0.0
    found = [chamfer_distances(a[None], b[None])[0, 0] for a, b in pairwise(frames)]
    return float(np.mean(found))


# ----------------------------------------------------------------------------------- in between


def between(model: FieldModel, first: torch.Tensor, second: torch.Tensor) -> list[list[Surface]]:
    """For each of five amounts the surfaces of the field that much between two (W,)."""
    side = SIDE["moving" if model.config.moving else "still"]
    return [surfaces_of(model, torch.lerp(first, second, amount), side) for amount in _AMOUNTS]


def valid(surfaces: Sequence[Surface], ends: Sequence[Sequence[Surface]]) -> bool:
    """Whether frames between those of two ends are shapes: there, off the domain's border, as large
    as half of the smaller end at least, and with no more loose pieces than both ends together."""
    for number, surface in enumerate(surfaces):
        own = _volume_and_pieces(surface)
        others = [_volume_and_pieces(end[number]) for end in ends]
        if own[0] <= 0 or own[0] < 0.5 * min(volume for volume, _ in others):
            return False
        if own[1] > sum(pieces for _, pieces in others) + 1:
            return False
        if np.abs(surface[0]).max() >= 0.4999:
            return False
    return True


def _volume_and_pieces(surface: Surface) -> tuple[float, int]:
    """Volume, and how many connected pieces have at least a hundredth of it."""
    vertices, faces = surface
    if not len(faces):
        return 0.0, 0
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    each = np.einsum("ij,ij->i", a, np.cross(b, c)) / 6
    links = coo_matrix(
        (np.ones(2 * len(faces)), (faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel())),
        shape=(len(vertices), len(vertices)),
    )
    _, labels = connected_components(links, directed=False)
    volumes = np.bincount(labels[faces[:, 0]], weights=each)
    whole = float(volumes.sum())
    return whole, int((volumes > 0.01 * whole).sum())


def interpolation(
    model: FieldModel, vectors: torch.Tensor, kinds: Sequence[str], pairs: int, report: Report
) -> dict[str, float]:
    """Shares of valid shapes in between pairs of any two, and of one kind where there are several;
    "kept as fields": of all pairs those whose weights the product mixes, and not their surfaces.
    """
    draws = np.random.default_rng(0)
    found: dict[str, list[bool]] = {"of one kind": [], "of any two": [], KEPT_AS_FIELDS: []}
    for number in range(pairs):
        report("Shapes in between", number / pairs)
        first = int(draws.integers(len(vectors)))
        same = [k for k, kind in enumerate(kinds) if kind == kinds[first] and k != first]
        others = [k for k in range(len(vectors)) if k != first]
        pools = {"of any two": others} | ({"of one kind": same} if len(set(kinds)) > 1 else {})
        for name, pool in pools.items():
            if pool:
                ends = vectors[first], vectors[int(draws.choice(pool))]
                steps = between(model, *ends)
                found[name] += [valid(frames, (steps[0], steps[-1])) for frames in steps[1:-1]]
                found[KEPT_AS_FIELDS].append(stay_fields(model, *ends))
    return {name: float(np.mean(said)) for name, said in found.items() if said}


def stay_fields(model: FieldModel, first: torch.Tensor, last: torch.Tensor) -> bool:
    """Whether the product mixes two (W,) by their weights."""
    config = model.config
    frames = [0, config.frames // 2] if config.moving else [None]
    return (
        alike_enough(first, last)
        and mixing.look(config.field, first, last, config.level, frames).holds
    )


# ------------------------------------------------------------------------------------------ sheets


def tile(surface: Surface, side: int = 128) -> np.ndarray:
    """A portrait of a surface in the field's domain."""
    vertices, faces = surface
    return contact_sheets.portrait((vertices * np.float32(CUBE), faces), side)


def sheet(things: Sequence[Sequence[Surface]], path: Path, across: int = 8) -> None:
    """Still things in rows of `across`; of moving ones four frames in a row, two beside another."""
    if len(things[0]) == 1:
        tiles = [tile(frames[0]) for frames in things]
        rows = [tiles[k : k + across] for k in range(0, len(tiles), across)]
    else:
        strips = [[tile(frames[k]) for k in _SHOWN_FRAMES] for frames in things]
        rows = [list(chain(*strips[k : k + 2])) for k in range(0, len(strips), 2)]
    contact_sheets.save(rows, path)
