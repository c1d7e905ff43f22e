"""For every test: the same draws of hypothesis everywhere, caches outside of the sources, nothing
written into the user's own folder, and no models but those that a test makes."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

from backend import environment

os.environ.setdefault("NUMBA_CACHE_DIR", str(environment.home() / "cache" / "numba"))
# Not a fixture: servers that outlive a test, and what modules set up, are to keep to it as well.
_own = environment.home()
_home = Path(tempfile.mkdtemp(prefix="fieldforge-tests-"))
atexit.register(shutil.rmtree, _home, ignore_errors=True)  # a link in it is removed, not followed
if (_own / "env").is_dir():
    (_home / "env").symlink_to(_own / "env", target_is_directory=True)
os.environ["FIELDFORGE_HOME"] = str(_home)
os.environ["FIELDFORGE_WEIGHTS"] = str(environment.home() / "no-weights-in-tests")
os.environ["FIELDFORGE_BUNDLED"] = str(environment.home() / "no-weights-in-tests")

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
