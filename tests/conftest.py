"""For every test: the same draws of hypothesis everywhere, caches outside of the sources, and no
downloaded models."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from backend import environment

os.environ.setdefault("NUMBA_CACHE_DIR", str(environment.home() / "cache" / "numba"))
os.environ["FIELDFORGE_WEIGHTS"] = str(environment.home() / "no-weights-in-tests")

# Machines differ in speed, so that no test may fail for being slow; the same draws every time, so
# that a change which breaks something is seen in the change itself.
settings.register_profile(
    "fieldforge",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fieldforge")
