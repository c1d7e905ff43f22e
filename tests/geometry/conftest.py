"""Shapes that the geometry tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent.parent / "golden"


def sphere_torus(resolution: int) -> np.ndarray:
    """The analytic shape of the golden values: TSDF (n, n, n) float32, node i at 2 i / n - 1."""
    axis = -1 + 2 * np.arange(resolution) / resolution
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    sphere = np.sqrt((x + 0.42) ** 2 + (y - 0.10) ** 2 + (z - 0.05) ** 2) - 0.36
    ring = np.sqrt((x - 0.40) ** 2 + (y + 0.06) ** 2) - 0.34
    torus = np.sqrt(ring**2 + (z - 0.02) ** 2) - 0.13
    return np.clip(np.minimum(sphere, torus), -0.1, 0.1).astype(np.float32)


@pytest.fixture(scope="session")
def golden_forward() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "wavelet_forward.npz"))


@pytest.fixture(scope="session")
def golden_inverse() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "wavelet_inverse.npz"))


@pytest.fixture(scope="session")
def tsdf_256() -> np.ndarray:
    return sphere_torus(256)


@pytest.fixture(scope="session")
def tsdf_64() -> np.ndarray:
    return sphere_torus(64)
