"""Sets of shapes beside sets of references, as HyperDiffusion measures them.

Distances and what follows from them are in metrics.py; here is how clouds are made comparable
first, shapes that move, the two halves of 1-nearest-neighbour accuracy, the Frechet distance of
features (Heusel et al. 2017), and which of many samples are too alike.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from .metrics import chamfer_distances

# ------------------------------------------------------------------------------------------ clouds


def standardised(clouds: np.ndarray) -> np.ndarray:
    """Clouds (S, N, 3), each less its mean, over the unbiased deviation of all its 3 N numbers.

    That deviation is of the numbers as given, before the mean of each axis is taken from them: so
    it also counts how far the three means lie apart.
    """
    centred = clouds - clouds.mean(axis=1, keepdims=True)
    deviation = clouds.reshape(len(clouds), -1).std(axis=1, ddof=1, dtype=np.float64)
    scaled: np.ndarray = centred / np.maximum(deviation, 1e-12)[:, None, None].astype(clouds.dtype)
    return scaled


def framed_sequence(frames: np.ndarray) -> np.ndarray:
    """Frames (F, N, 3) of one moving cloud: each less its own mean, all by one scale, so that the
    number farthest from 0 is 0.95."""
    centred = frames - frames.mean(axis=1, keepdims=True)
    scaled: np.ndarray = centred * (0.95 / max(float(np.abs(centred).max()), 1e-12))
    return scaled


def moving_chamfer_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(A, B) float64 between sequences (A, F, N, 3) and (B, F, M, 3): the mean over frames."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"sequences of {first.shape[1]} and {second.shape[1]} frames")
    per_frame = [
        chamfer_distances(first[:, frame], second[:, frame]) for frame in range(first.shape[1])
    ]
    found: np.ndarray = np.mean(per_frame, axis=0)
    return found


# ---------------------------------------------------------------------------------------- distances


def one_nn_halves(
    within: np.ndarray, across: np.ndarray, references: np.ndarray
) -> tuple[float, float]:
    """Shares of the references, and of the generated, whose nearest other is of their own set.

    Distances as for metrics.set_scores: (G, G), (G, R), (R, R). Both are 0.5 at best; the
    references' far below the generated's tells of samples that lie on top of references.
    """
    own = np.array(references, np.float64)
    np.fill_diagonal(own, np.inf)
    of_references = own.min(axis=1) < across.min(axis=0)
    own = np.array(within, np.float64)
    np.fill_diagonal(own, np.inf)
    of_generated = own.min(axis=1) < across.min(axis=1)
    return float(of_references.mean()), float(of_generated.mean())


def minimum_matching_distance_of_samples(across: np.ndarray) -> float:
    """Mean over the generated (G, R) of the distance to the nearest reference."""
    return float(across.min(axis=1).mean())


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Between Gaussians with the means and unbiased covariances of features (A, D) and (B, D)."""
    if len(real) < 2 or len(fake) < 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"features of shapes {real.shape} and {fake.shape}")
    gap = real.mean(axis=0, dtype=np.float64) - fake.mean(axis=0, dtype=np.float64)
    first, second = (np.cov(features.astype(np.float64), rowvar=False) for features in (real, fake))
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    # The trace of the root of first @ second: by eigenvalues, of a product that is symmetric and
    # has the same ones. Also where there are fewer samples than features.
    values, vectors = linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    between = linalg.eigvalsh(root @ second @ root)
    overlap = np.sqrt(np.maximum(between, 0)).sum()
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * overlap)


# --------------------------------------------------------------------------------------- duplicates


def distances_to_nearest(vectors: np.ndarray) -> np.ndarray:
    """(S,) float64: of each of the vectors (S, W), S > 1, to the nearest other one."""
    if len(vectors) < 2:
        raise ValueError("one vector has no other")
    found = np.empty(len(vectors))
    for number, vector in enumerate(vectors):
        squares = np.square(vectors - vector, dtype=np.float64).sum(axis=1)
        squares[number] = np.inf
        found[number] = np.sqrt(squares.min())
    return found


def distinct(vectors: np.ndarray, references: int) -> np.ndarray:
    """Numbers of the int(1.01 references) vectors (S, W) that lie farthest from all others,
    farthest first: of twice as many samples as wanted, those that are not nearly the same."""
    nearest = distances_to_nearest(vectors)
    return np.argsort(-nearest, kind="stable")[: int(1.01 * references)]
