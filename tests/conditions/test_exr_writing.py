from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.conditions import exr
from backend.conditions.exr_writing import exr_bytes


@pytest.mark.parametrize("shape", [(2, 2), (15, 33), (16, 8), (100, 200)])
def test_what_is_written_is_read_bit_for_bit(shape: tuple[int, int], tmp_path: Path) -> None:
    depth = np.random.default_rng(0).uniform(0.1, 50, shape).astype(np.float32)
    depth[0, 0], depth[-1, -1] = np.inf, np.nan
    path = tmp_path / "depth.exr"
    path.write_bytes(exr_bytes(depth))
    assert np.array_equal(exr.read_depth(path), depth, equal_nan=True)


def test_smooth_depth_becomes_smaller_and_noise_hardly_larger() -> None:
    smooth = np.tile(np.linspace(1, 5, 256, dtype=np.float32), (256, 1))
    assert len(exr_bytes(smooth)) < smooth.nbytes / 4
    noise = np.random.default_rng(0).integers(0, 2**32, (64, 64), np.uint32).view(np.float32)
    assert len(exr_bytes(noise)) < noise.nbytes + 1000
