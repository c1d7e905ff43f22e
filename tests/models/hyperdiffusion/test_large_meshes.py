"""Ten million faces: 20 seconds and some gigabytes.

Runs with FIELDFORGE_LARGE=1, or `python3 -m backend test --ring large`.
"""

from __future__ import annotations

import os
import resource
import sys
import time

import numpy as np
import pytest

from backend.models.hyperdiffusion import occupancy

pytestmark = [
    pytest.mark.large,
    pytest.mark.skipif(not os.environ.get("FIELDFORGE_LARGE"), reason="set FIELDFORGE_LARGE=1"),
]


def test_ten_million_faces() -> None:
    # A grid wrapped around a torus: closed, and quick to make.
    rows, columns = 1000, 5000
    u, v = np.meshgrid(
        np.linspace(0, 2 * np.pi, rows, endpoint=False),
        np.linspace(0, 2 * np.pi, columns, endpoint=False),
        indexing="ij",
    )
    ring = 1 + 0.4 * np.cos(u)
    vertices = np.stack([ring * np.cos(v), 0.4 * np.sin(u), ring * np.sin(v)], -1).reshape(-1, 3)
    here = np.arange(rows * columns).reshape(rows, columns)
    down, right = np.roll(here, -1, 0), np.roll(here, -1, 1)
    both = np.roll(down, -1, 1)
    faces = np.concatenate(
        [
            np.stack(corners, -1).reshape(-1, 3)
            for corners in ((here, down, right), (down, both, right))
        ]
    )
    assert len(faces) == 10_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    framed = occupancy.framed([(vertices, faces)])
    samples = occupancy.sample(framed.frames, 0, check=20_000)
    seconds = time.process_time() - begun
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    sys.stderr.write(f"10 million faces: {seconds:.1f} s, {peak:.2f} GB more\n")
    assert len(framed.notes) == 1
    volume = 2 * np.pi**2 * 0.4**2 * (0.95 / 2.8) ** 3
    assert samples.check_inside.mean() == pytest.approx(volume, rel=0.05)
    assert seconds < 120
    assert peak < 4
