"""How near shapes are to their truths, and sets of shapes to sets.

Of one shape: volumetric intersection over union, chamfer distance, F-score. Of sets of point
clouds, as in generation: minimum matching distance, coverage, 1-nearest-neighbour accuracy
(Achlioptas et al. 2018, Yang et al. 2019), by the chamfer distance of squares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from scipy.spatial import cKDTree

from ..geometry import voxels
from ..geometry.threads import in_chunks

Surface = tuple[np.ndarray, np.ndarray]
"""Vertices (V, 3) float and faces (F, 3) integer."""

SAMPLES = 30_000


# ---------------------------------------------------------------------------------------- one shape


@dataclass(frozen=True)
class Scores:
    """iou: of volumes at 128^3. chamfer: the mean of both directions' mean distances; f_score: at
    1 %; both in units of the truth's diagonal."""

    iou: float
    chamfer: float
    f_score: float


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals of their faces (count, 3) float32, uniform by area."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    area = np.maximum(np.linalg.norm(normals, axis=1), 1e-20)
    chosen = rng.choice(len(area), count, p=area / area.sum(dtype=np.float64))
    u, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    points = (1 - u) * a[chosen] + u * (1 - v) * b[chosen] + u * v * c[chosen]
    return points.astype(np.float32), (normals / area[:, None])[chosen].astype(np.float32)


def inside(vertices: np.ndarray, faces: np.ndarray, side: int = 128) -> np.ndarray:
    """(side,)^3 bool at nodes 2 i / side - 1: what a closed, outward surface winds around."""
    step = 2 / side
    return voxels.occupancy_of_mesh(
        vertices, faces, (side,) * 3, np.full(3, -1 - step / 2), np.full(3, step)
    )


@dataclass(frozen=True, eq=False)
class Reference:
    """A truth, made ready once to be compared with often.

    inside: (128,)^3 bool. points: (N, 3) float32 on its surface. diagonal: of its box.
    """

    inside: np.ndarray
    points: np.ndarray
    diagonal: float

    @classmethod
    def of(
        cls, truth: Surface, samples: int = SAMPLES, inside_truth: np.ndarray | None = None
    ) -> Reference:
        """Of a closed, outward surface in the cube. inside_truth: where it is known better."""
        return cls(
            inside=inside(*truth) if inside_truth is None else inside_truth,
            points=sample_surface(*truth, samples, np.random.default_rng(2))[0],
            diagonal=float(np.linalg.norm(np.ptp(truth[0], axis=0))),
        )

    @cached_property
    def tree(self) -> cKDTree:
        return cKDTree(self.points)

    def score(self, found: Surface) -> Scores:
        """Of a surface as the truth is one. Without faces it has nothing in common."""
        if not len(found[1]):
            return Scores(0.0, float("inf"), 0.0)
        here, _ = sample_surface(*found, len(self.points), np.random.default_rng(3))
        to_truth, to_found = self.tree.query(here)[0], cKDTree(here).query(self.points)[0]
        precision = float((to_truth < 0.01 * self.diagonal).mean())
        recall = float((to_found < 0.01 * self.diagonal).mean())
        return Scores(
            iou=voxels.iou(inside(*found), self.inside),
            chamfer=float(to_truth.mean() + to_found.mean()) / 2 / self.diagonal,
            f_score=2 * precision * recall / max(precision + recall, 1e-9),
        )


def score(
    found: Surface,
    truth: Surface,
    samples: int = SAMPLES,
    inside_truth: np.ndarray | None = None,
) -> Scores:
    """Of closed, outward surfaces in the cube, once; see Reference."""
    return Reference.of(truth, samples, inside_truth).score(found)


# --------------------------------------------------------------------------------------------- sets


@dataclass(frozen=True)
class SetScores:
    """How alike a set of generated clouds and a set of references are.

    mmd: mean over references of the distance to the nearest generated one; lower is better.
    coverage: share of references that are nearest to some generated one; higher is better.
    one_nn: share of all whose nearest other is of their own set; 0.5 is best, 1 is worst.
    """

    mmd: float
    coverage: float
    one_nn: float


def chamfer_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(A, B) float64 between clouds (A, N, 3) and (B, M, 3): the mean squared distance to the
    nearest point of the other, both ways, added."""
    first, second = (np.ascontiguousarray(clouds, np.float32) for clouds in (first, second))
    found = np.empty((len(first), len(second)))
    in_chunks(_chamfer_rows, len(first), first, second, found)
    return found


@njit(cache=True, nogil=True, fastmath=True)
def _chamfer_rows(begin, end, first, second, found):
    for i in range(begin, end):
        a = first[i]
        for j in range(len(second)):
            b = second[j]
            back = np.full(len(b), np.float32(np.inf), np.float32)
            there = 0.0
            for p in range(len(a)):
                x, y, z = a[p, 0], a[p, 1], a[p, 2]
                least = np.inf
                for q in range(len(b)):
                    u, v, w = b[q, 0] - x, b[q, 1] - y, b[q, 2] - z
                    square = u * u + v * v + w * w
                    least = min(least, square)
                    back[q] = min(back[q], square)
                there += least
            found[i, j] = there / len(a) + back.astype(np.float64).mean()


def compare_sets(generated: np.ndarray, references: np.ndarray) -> SetScores:
    """Clouds (G, N, 3) and (R, N, 3), at least one each and three in all."""
    return set_scores(
        chamfer_distances(generated, generated),
        chamfer_distances(generated, references),
        chamfer_distances(references, references),
    )


def set_scores(within: np.ndarray, across: np.ndarray, references: np.ndarray) -> SetScores:
    """From distances: among the generated (G, G), to the references (G, R), among those (R, R)."""
    whole = np.block([[within, across], [across.T, references]]).astype(np.float64)
    np.fill_diagonal(whole, np.inf)
    own = np.arange(len(whole)) < len(within)
    return SetScores(
        mmd=float(across.min(axis=0).mean()),
        coverage=len(np.unique(across.argmin(axis=1))) / across.shape[1],
        one_nn=float((own[whole.argmin(axis=1)] == own).mean()),
    )


def framed(points: np.ndarray) -> np.ndarray:
    """Points (N, 3) float32, their box centred, its longest side 1.8."""
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) * np.float32(1.8 / max(float((high - low).max()), 1e-9))


def nearest(
    clouds: np.ndarray,
    candidates: np.ndarray,
    skip: Sequence[int] | None = None,
    coarse: int = 256,
    finalists: int = 8,
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray] = chamfer_distances,
) -> list[tuple[int, float]]:
    """For each cloud (G, .., N, 3) the nearest of (T, .., M, 3), its number and its distance.

    Looked for among a few finalists, which the first `coarse` points of each tell: points are in
    any order. skip: for each cloud the number of a candidate that does not count, such as itself.
    measure: distances between clouds, (A, .., N, 3) and (B, .., M, 3) -> (A, B).
    """
    rough = measure(clouds[..., :coarse, :], candidates[..., :coarse, :])
    if skip is not None:
        rough[np.arange(len(clouds)), list(skip)] = np.inf
    found = []
    for cloud, row in zip(clouds, rough, strict=True):
        last = np.argsort(row)[: min(finalists, int(np.isfinite(row).sum()))]
        distances = measure(cloud[None], candidates[last])[0]
        found.append((int(last[distances.argmin()]), float(distances.min())))
    return found
